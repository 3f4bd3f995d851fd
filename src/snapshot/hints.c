// SPDX-License-Identifier: Apache-2.0
#include "snapshot/hints.h"

#include <string.h>

static const struct hint_name prot_bits[] = {
	{"PROT_READ", 1},
	{"PROT_WRITE", 2},
	{"PROT_EXEC", 4},
	{NULL, 0},
};

static const struct hint_name map_bits[] = {
	{"MAP_SHARED", 0x1},       {"MAP_PRIVATE", 0x2},     {"MAP_DROPPABLE", 0x8},
	{"MAP_ANON", 0x20},        {"MAP_GROWSDOWN", 0x100}, {"MAP_LOCKED", 0x2000},
	{"MAP_NORESERVE", 0x4000}, {"MAP_HUGETLB", 0x40000}, {NULL, 0},
};

/* The names that crit prints. */
static const struct hint_name status_bits[] = {
	{"VMA_AREA_REGULAR", 1 << 0},  {"VMA_AREA_STACK", 1 << 1},    {"VMA_AREA_VSYSCALL", 1 << 2},
	{"VMA_AREA_VDSO", 1 << 3},     {"VMA_AREA_HEAP", 1 << 5},     {"VMA_FILE_PRIVATE", 1 << 6},
	{"VMA_FILE_SHARED", 1 << 7},   {"VMA_ANON_SHARED", 1 << 8},   {"VMA_ANON_PRIVATE", 1 << 9},
	{"VMA_AREA_SYSVIPC", 1 << 10}, {"VMA_AREA_SOCKET", 1 << 11},  {"VMA_AREA_VVAR", 1 << 12},
	{"VMA_AREA_AIORING", 1 << 13}, {"VMA_AREA_MEMFD", 1 << 14},   {"VMA_AREA_SHSTK", 1 << 15},
	{"VMA_AREA_GUARD", 1 << 16},   {"VMA_AREA_UPROBES", 1 << 17}, {NULL, 0},
};

static const struct hint_name pagemap_bits[] = {
	{"PE_PARENT", 1},
	{"PE_LAZY", 2},
	{"PE_PRESENT", 4},
	{NULL, 0},
};

static const struct hint_name open_bits[] = {
	{"O_WRONLY", 01},         {"O_RDWR", 02},          {"O_CREAT", 0100},
	{"O_EXCL", 0200},         {"O_NOCTTY", 0400},      {"O_TRUNC", 01000},
	{"O_APPEND", 02000},      {"O_NONBLOCK", 04000},   {"O_DSYNC", 010000},
	{"FASYNC", 020000},       {"O_DIRECT", 040000},    {"O_LARGEFILE", 0100000},
	{"O_DIRECTORY", 0200000}, {"O_NOFOLLOW", 0400000}, {"O_NOATIME", 01000000},
	{"O_CLOEXEC", 02000000},  {"O_PATH", 010000000},   {NULL, 0},
};

static const struct hint_name seal_bits[] = {
	{"F_SEAL_SEAL", 1},  {"F_SEAL_SHRINK", 2},        {"F_SEAL_GROW", 4},
	{"F_SEAL_WRITE", 8}, {"F_SEAL_FUTURE_WRITE", 16}, {NULL, 0},
};

static const struct hint_name task_states[] = {
	{"Alive", 1},
	{"Dead", 2},
	{"Stopped", 3},
	{NULL, 0},
};

static const struct hint_name socket_families[] = {
	{"UNIX", 1}, {"INET", 2}, {"INET6", 10}, {"NETLINK", 16}, {"PACKET", 17}, {NULL, 0},
};

static const struct hint_name socket_types[] = {
	{"STREAM", 1}, {"DGRAM", 2}, {"RAW", 3}, {"SEQPACKET", 5}, {"PACKET", 10}, {NULL, 0},
};

static const struct hint_name socket_states[] = {
	{"ESTABLISHED", 1}, {"SYN_SENT", 2},  {"SYN_RECV", 3}, {"FIN_WAIT1", 4},
	{"FIN_WAIT2", 5},   {"TIME_WAIT", 6}, {"CLOSE", 7},    {"CLOSE_WAIT", 8},
	{"LAST_ACK", 9},    {"LISTEN", 10},   {"CLOSING", 11}, {NULL, 0},
};

static const struct hint_name socket_protocols[] = {
	{"IP", 0},      {"ICMP", 1},      {"TCP", 6},   {"UDP", 17},
	{"ICMPV6", 58}, {"UDPLITE", 136}, {"RAW", 255}, {NULL, 0},
};

#define HEX(message, field)                    \
	{                                      \
		message, field, HINT_HEX, NULL \
	}
#define HINT(message, field, h)         \
	{                               \
		message, field, h, NULL \
	}
#define BITS(message, field, names)              \
	{                                        \
		message, field, HINT_BITS, names \
	}
#define VALUES(message, field, names)              \
	{                                          \
		message, field, HINT_VALUES, names \
	}

static const struct {
	const char *message, *field;
	enum hint hint;
	const struct hint_name *names;
} hints[] = {
	VALUES("task_core_entry", "task_state", task_states),
	HEX("task_core_entry", "blk_sigset"),
	HEX("task_core_entry", "blk_sigset_extended"),
	HEX("task_core_entry", "membarrier_registration_mask"),
	HEX("user_x86_cet_entry", "cet"),
	HEX("user_x86_cet_entry", "ssp"),
	HEX("thread_info_x86", "clear_tid_addr"),
	HEX("thread_info_x86", "gpregs"),
	HEX("sa_entry", "sigaction"),
	HEX("sa_entry", "flags"),
	HEX("sa_entry", "restorer"),
	HEX("sa_entry", "mask"),
	HEX("sa_entry", "mask_extended"),
	HEX("mm_entry", "mm_start_code"),
	HEX("mm_entry", "mm_end_code"),
	HEX("mm_entry", "mm_start_data"),
	HEX("mm_entry", "mm_end_data"),
	HEX("mm_entry", "mm_start_stack"),
	HEX("mm_entry", "mm_start_brk"),
	HEX("mm_entry", "mm_brk"),
	HEX("mm_entry", "mm_arg_start"),
	HEX("mm_entry", "mm_arg_end"),
	HEX("mm_entry", "mm_env_start"),
	HEX("mm_entry", "mm_env_end"),
	HEX("vma_entry", "start"),
	HEX("vma_entry", "end"),
	BITS("vma_entry", "prot", prot_bits),
	BITS("vma_entry", "flags", map_bits),
	BITS("vma_entry", "status", status_bits),
	HEX("vma_entry", "madv"),
	HEX("vma_entry", "fdflags"),
	HEX("pagemap_entry", "vaddr"),
	BITS("pagemap_entry", "flags", pagemap_bits),
	BITS("reg_file_entry", "flags", open_bits),
	HEX("pipe_entry", "flags"),
	VALUES("unix_sk_entry", "type", socket_types),
	VALUES("unix_sk_entry", "state", socket_states),
	HEX("unix_sk_entry", "flags"),
	HEX("unix_sk_entry", "uflags"),
	HINT("unix_sk_entry", "name", HINT_UNIX_NAME),
	VALUES("inet_sk_entry", "family", socket_families),
	VALUES("inet_sk_entry", "type", socket_types),
	VALUES("inet_sk_entry", "proto", socket_protocols),
	VALUES("inet_sk_entry", "state", socket_states),
	HEX("inet_sk_entry", "flags"),
	HINT("inet_sk_entry", "src_addr", HINT_ADDRESS),
	HINT("inet_sk_entry", "dst_addr", HINT_ADDRESS),
	HEX("tcp_stream_entry", "opt_mask"),
	HEX("signalfd_entry", "flags"),
	HEX("signalfd_entry", "sigmask"),
	HEX("timerfd_entry", "flags"),
	HEX("timerfd_entry", "settime_flags"),
	HEX("inotify_wd_entry", "mask"),
	HEX("inotify_wd_entry", "ignored_mask"),
	HINT("inotify_wd_entry", "s_dev", HINT_DEV),
	HEX("inotify_file_entry", "flags"),
	HEX("fanotify_mark_entry", "mflags"),
	HEX("fanotify_mark_entry", "mask"),
	HEX("fanotify_mark_entry", "ignored_mask"),
	HINT("fanotify_mark_entry", "s_dev", HINT_DEV),
	HEX("fanotify_file_entry", "flags"),
	HEX("fanotify_file_entry", "faflags"),
	HEX("fanotify_file_entry", "evflags"),
	HINT("irmap_cache_entry", "dev", HINT_OLD_DEV),
	HEX("tty_file_entry", "flags"),
	BITS("memfd_file_entry", "flags", open_bits),
	BITS("memfd_inode_entry", "seals", seal_bits),
	HEX("netlink_sk_entry", "flags"),
	HEX("packet_sock_entry", "flags"),
	HEX("tun_link_entry", "flags"),
	HINT("ghost_file_entry", "dev", HINT_DEV),
	HINT("ghost_file_entry", "rdev", HINT_OLD_DEV),
	HINT("mnt_entry", "root_dev", HINT_DEV),
	HEX("mnt_entry", "flags"),
	HEX("mnt_entry", "sb_flags"),
	HEX("net_device_entry", "flags"),
	HINT("sit_entry", "local", HINT_ADDRESS),
	HINT("sit_entry", "remote", HINT_ADDRESS),
	HINT("sit_entry", "rd_prefix", HINT_ADDRESS),
	HINT("sit_entry", "relay_prefix", HINT_ADDRESS),
	BITS("bpfmap_file_entry", "flags", open_bits),
};

enum hint hint_of(const ProtobufCMessageDescriptor *message, const ProtobufCFieldDescriptor *field,
		  const struct hint_name **names_out)
{
	for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
		if (strcmp(hints[i].field, field->name) || strcmp(hints[i].message, message->name))
			continue;
		*names_out = hints[i].names;
		return hints[i].hint;
	}
	return HINT_NONE;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The table of every kind of image that CRIU 4.2 knows: magic, name pattern and
 * the messages inside. Nothing else in ferry holds a magic.
 */
#include "snapshot/image.h"

#include "apparmor.pb-c.h"
#include "autofs.pb-c.h"
#include "binfmt-misc.pb-c.h"
#include "bpfmap-data.pb-c.h"
#include "bpfmap-file.pb-c.h"
#include "cgroup.pb-c.h"
#include "core.pb-c.h"
#include "cpuinfo.pb-c.h"
#include "creds.pb-c.h"
#include "eventfd.pb-c.h"
#include "eventpoll.pb-c.h"
#include "ext-file.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fh.pb-c.h"
#include "fifo.pb-c.h"
#include "file-lock.pb-c.h"
#include "fs.pb-c.h"
#include "fsnotify.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "ipc-var.pb-c.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "mnt.pb-c.h"
#include "netdev.pb-c.h"
#include "ns.pb-c.h"
#include "packet-sock.pb-c.h"
#include "pagemap.pb-c.h"
#include "pidfd.pb-c.h"
#include "pidns.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pipe.pb-c.h"
#include "pstree.pb-c.h"
#include "regfile.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "rlimit.pb-c.h"
#include "sa.pb-c.h"
#include "seccomp.pb-c.h"
#include "siginfo.pb-c.h"
#include "signalfd.pb-c.h"
#include "sk-inet.pb-c.h"
#include "sk-netlink.pb-c.h"
#include "sk-packet.pb-c.h"
#include "sk-unix.pb-c.h"
#include "stats.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "timens.pb-c.h"
#include "timer.pb-c.h"
#include "timerfd.pb-c.h"
#include "tty.pb-c.h"
#include "tun.pb-c.h"
#include "userns.pb-c.h"
#include "utsns.pb-c.h"
#include "vma.pb-c.h"

#include <string.h>

/* An ordinary kind; more columns follow as designated initialisers. */
#define KIND(name_, magic_, pattern_, entry_, ...)                         \
	{                                                                  \
		.name = (name_), .pattern = (pattern_), .magic = (magic_), \
		.entry = &entry_##__descriptor, __VA_ARGS__                \
	}
#define RAW(name_, pattern_)                                                \
	{                                                                   \
		.name = (name_), .pattern = (pattern_), .header = IMAGE_RAW \
	}
#define OPTIONAL .optional = true

const struct image_kind image_kinds[] = {
	KIND("INVENTORY", IMAGE_MAGIC_INVENTORY, "inventory.img", inventory_entry,
	     .header = IMAGE_ONE_WORD),
	KIND("PSTREE", 0x50273030, "pstree.img", pstree_entry),
	KIND("CORE", 0x55053847, "core-%u.img", core_entry),
	KIND("IDS", 0x54432030, "ids-%u.img", task_kobj_ids_entry),
	KIND("MM", 0x57492820, "mm-%u.img", mm_entry),
	KIND("FS", 0x51403912, "fs-%u.img", fs_entry),
	KIND("FDINFO", 0x56213732, "fdinfo-%u.img", fdinfo_entry),
	KIND("FILES", 0x56303138, "files.img", file_entry),
	KIND("PAGEMAP", 0x56084025, "pagemap-%u.img", pagemap_head,
	     .rest = &pagemap_entry__descriptor),
	KIND("PAGEMAP", 0x56084025, "pagemap-shmem-%u.img", pagemap_head,
	     .rest = &pagemap_entry__descriptor),
	RAW("PAGES", "pages-%u.img"),
	KIND("SECCOMP", 0x64413049, "seccomp.img", seccomp_entry, OPTIONAL),
	KIND("TIMENS", 0x43114433, "timens-%u.img", timens_entry),
	KIND("REMAP_FPATH", 0x59133954, "remap-fpath.img", remap_file_path_entry, OPTIONAL),
	KIND("GHOST_FILE", 0x52583605, "ghost-file-%x.img", ghost_file_entry,
	     .rest = &ghost_chunk_entry__descriptor, .extra = EXTRA_GHOST),
	KIND("MEMFD_INODE", 0x48453499, "memfd.img", memfd_inode_entry, OPTIONAL),
	KIND("PIPES_DATA", 0x56453709, "pipes-data.img", pipe_data_entry, OPTIONAL,
	     .extra = EXTRA_PIPE),
	KIND("FIFO_DATA", 0x59333054, "fifo-data.img", pipe_data_entry, OPTIONAL, .extra = EXTRA_PIPE),
	KIND("SK_QUEUES", 0x56264026, "sk-queues.img", sk_packet_entry, OPTIONAL,
	     .extra = EXTRA_SK_QUEUE),
	KIND("TCP_STREAM", 0x51465506, "tcp-stream-%x.img", tcp_stream_entry, .extra = EXTRA_TCP),
	KIND("TTY_INFO", 0x59453036, "tty-info.img", tty_info_entry, OPTIONAL),
	KIND("TTY_DATA", 0x59413026, "tty-data.img", tty_data_entry, OPTIONAL),
	KIND("FILE_LOCKS", 0x54323616, "filelocks.img", file_lock_entry, OPTIONAL),
	KIND("CGROUP", 0x59383330, "cgroup.img", cgroup_entry, OPTIONAL),
	KIND("APPARMOR", 0x59423047, "apparmor.img", apparmor_entry, OPTIONAL),
	KIND("BPFMAP_FILE", 0x57506142, "bpfmap-file.img", bpfmap_file_entry, OPTIONAL),
	KIND("BPFMAP_DATA", 0x64324033, "bpfmap-data.img", bpfmap_data_entry, OPTIONAL,
	     .extra = EXTRA_BPF),
	KIND("UTSNS", 0x54473203, "utsns-%u.img", utsns_entry),
	KIND("IPC_VAR", 0x53115007, "ipcns-var-%u.img", ipc_var_entry),
	KIND("IPCNS_SHM", 0x46283044, "ipcns-shm-%u.img", ipc_shm_entry, .extra = EXTRA_SHM),
	KIND("IPCNS_MSG", 0x55453737, "ipcns-msg-%u.img", ipc_msg_entry, .extra = EXTRA_MSG),
	KIND("IPCNS_SEM", 0x59573019, "ipcns-sem-%u.img", ipc_sem_entry, .extra = EXTRA_SEM),
	KIND("MNTS", 0x55563928, "mountpoints-%u.img", mnt_entry),
	KIND("USERNS", 0x55474906, "userns-%u.img", userns_entry),
	KIND("PIDNS", 0x61157326, "pidns-%u.img", pidns_entry),
	KIND("NETNS", 0x55933752, "netns-%u.img", netns_entry),
	KIND("NETDEV", 0x57373951, "netdev-%u.img", net_device_entry),
	RAW("IFADDR", "ifaddr-%u.img"),
	RAW("ROUTE", "route-%u.img"),
	RAW("ROUTE6", "route6-%u.img"),
	RAW("RULE", "rule-%u.img"),
	RAW("IPTABLES", "iptables-%u.img"),
	RAW("IP6TABLES", "ip6tables-%u.img"),
	RAW("NFTABLES", "nftables-%u.img"),
	RAW("NETNS_CT", "netns-ct-%u.img"),
	RAW("NETNS_EXP", "netns-exp-%u.img"),
	RAW("TMPFS_IMG", "tmpfs-%u.tar.gz.img"),
	RAW("TMPFS_DEV", "tmpfs-dev-%u.tar.gz.img"),
	KIND("AUTOFS", 0x49353943, "autofs-%u.img", autofs_entry),
	KIND("BINFMT_MISC", 0x67343323, "binfmt-misc.img", binfmt_misc_entry, OPTIONAL),
	KIND("BINFMT_MISC", 0x67343323, "binfmt-misc-%u.img", binfmt_misc_entry),
	KIND("CPUINFO", 0x61404013, "cpuinfo.img", cpuinfo_entry, OPTIONAL),
	KIND("IRMAP_CACHE", 0x57004059, "irmap-cache", irmap_cache_entry, .header = IMAGE_SERVICE),
	KIND("STATS", 0x57093306, "stats-dump", stats_entry, .header = IMAGE_SERVICE),
	KIND("STATS", 0x57093306, "stats-restore", stats_entry, .header = IMAGE_SERVICE),

	/* Before files.img existed each kind of file had an image of its own. */
	KIND("REG_FILES", 0x50363636, "reg-files.img", reg_file_entry, OPTIONAL),
	KIND("EXT_FILES", 0x59255641, "ext-files.img", ext_file_entry, OPTIONAL),
	KIND("NS_FILES", 0x61394011, "ns-files.img", ns_file_entry, OPTIONAL),
	KIND("EVENTFD_FILE", 0x44523722, "eventfd.img", eventfd_file_entry, OPTIONAL),
	KIND("EVENTPOLL_FILE", 0x45023858, "eventpoll.img", eventpoll_file_entry, OPTIONAL),
	KIND("EVENTPOLL_TFD", 0x44433746, "eventpoll-tfd.img", eventpoll_tfd_entry, OPTIONAL),
	KIND("SIGNALFD", 0x57323820, "signalfd.img", signalfd_entry, OPTIONAL),
	KIND("INOTIFY_FILE", 0x48424431, "inotify.img", inotify_file_entry, OPTIONAL),
	KIND("INOTIFY_WD", 0x54562009, "inotify-wd.img", inotify_wd_entry, OPTIONAL),
	KIND("FANOTIFY_FILE", 0x55096122, "fanotify.img", fanotify_file_entry, OPTIONAL),
	KIND("FANOTIFY_MARK", 0x56506035, "fanotify-mark.img", fanotify_mark_entry, OPTIONAL),
	KIND("PIPES", 0x56513555, "pipes.img", pipe_entry, OPTIONAL),
	KIND("FIFO", 0x58364939, "fifo.img", fifo_entry, OPTIONAL),
	KIND("UNIXSK", 0x54373943, "unixsk.img", unix_sk_entry, OPTIONAL),
	KIND("INETSK", 0x56443851, "inetsk.img", inet_sk_entry, OPTIONAL),
	KIND("PACKETSK", 0x60454618, "packetsk.img", packet_sock_entry, OPTIONAL),
	KIND("NETLINK_SK", 0x58005614, "netlinksk.img", netlink_sk_entry, OPTIONAL),
	KIND("TTY_FILES", 0x59433025, "tty.img", tty_file_entry, OPTIONAL),
	KIND("TUNFILE", 0x57143751, "tunfile.img", tunfile_entry, OPTIONAL),
	KIND("TIMERFD", 0x50493712, "timerfd.img", timerfd_entry, OPTIONAL),
	KIND("PIDFD", 0x54435556, "pidfd.img", pidfd_entry, OPTIONAL),

	/* Superseded by fields of core and mm. */
	KIND("VMAS", 0x54123737, "vmas-%u.img", vma_entry),
	KIND("SIGACT", 0x55344201, "sigacts-%u.img", sa_entry),
	KIND("RLIMIT", 0x57113925, "rlimit-%u.img", rlimit_entry),
	KIND("ITIMERS", 0x57464056, "itimers-%u.img", itimer_entry),
	KIND("POSIX_TIMERS", 0x52603957, "posix-timers-%u.img", posix_timer_entry),
	KIND("CREDS", 0x54023547, "creds-%u.img", creds_entry),
	KIND("SIGNAL", 0x59255647, "signal-s-%u.img", siginfo_entry),
	KIND("SIGNAL", 0x59255647, "signal-p-%u.img", siginfo_entry),
	{.pattern = NULL},
};

const struct image_kind *image_kind_by_magic(uint32_t magic)
{
	const struct image_kind *k;

	for (k = image_kinds; magic && k->pattern; k++)
		if (k->magic == magic)
			return k;
	return NULL;
}

/* "core-34.img" against "core-%u.img": digits for %u, small hexadecimal digits for %x. */
static bool matches(const char *object, const char *pattern)
{
	size_t n;

	for (; *pattern; pattern++) {
		if (*pattern != '%') {
			if (*object++ != *pattern)
				return false;
			continue;
		}
		pattern++;
		n = strspn(object, *pattern == 'x' ? "0123456789abcdef" : "0123456789");
		if (n == 0)
			return false;
		object += n;
	}
	return !*object;
}

const struct image_kind *image_kind_by_name(const char *object)
{
	const struct image_kind *k;

	for (k = image_kinds; k->pattern; k++)
		if (matches(object, k->pattern))
			return k;
	return NULL;
}

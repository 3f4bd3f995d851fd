// SPDX-License-Identifier: Apache-2.0
/*
 * Parsers of /proc text, proc(5). The parse_* functions are pure and take any
 * bytes (a hostile task chooses its own name and mappings); the proc_*
 * functions read the files.
 */
#ifndef FERRY_KERNEL_PROC_H
#define FERRY_KERNEL_PROC_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct proc_stat {
	char comm[64];
	char state;
	pid_t pid, ppid, pgrp, session;
	int tty_nr;
	pid_t tpgid;
	uint64_t flags, start_time;
	uint64_t start_code, end_code, start_stack, start_data, end_data, start_brk;
	uint64_t arg_start, arg_end, env_start, env_end;
	int exit_code; /* wait status */
	int nice;
	int exit_signal;
};
int parse_stat(const char *text, struct proc_stat *out) must_check; /* -1 if malformed */
int proc_stat(pid_t tid, struct proc_stat *out, struct err *err) must_check;

enum { PROC_MAX_GROUPS = 65536 };

struct proc_status {
	char name[64]; /* of the thread; status escapes newline and backslash, this does not */
	char state;
	unsigned int umask;
	pid_t ppid, tracer;
	uint32_t uid[4], gid[4]; /* real, effective, saved, file system */
	VEC(uint32_t) groups;
	VEC(pid_t) nspid; /* from ours inwards; the last is the innermost */
	uint64_t sig_pending, shared_pending, sig_blocked;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	int no_new_privs, seccomp, threads;
	uint64_t vm_locked_kb;
};
int parse_status(const char *text, struct proc_status *out) must_check;
/* @tid as in /proc/TID/status (threads have one, too). Release with proc_status_finish. */
int proc_status(pid_t tid, struct proc_status *out, struct err *err) must_check;
void proc_status_finish(struct proc_status *s);

/* One area of /proc/PID/smaps (or maps: then the VmFlags fields are zero). */
struct proc_vma {
	uint64_t start, end, pgoff; /* pgoff in bytes */
	bool read, write, exec, shared;
	unsigned int dev_major, dev_minor;
	uint64_t ino;
	uint64_t flags;      /* PROC_VMF_* */
	uint64_t page_bytes; /* KernelPageSize */
	char *name;          /* "" for anonymous; freed by proc_vmas_finish */
};

/* VmFlags that matter to us. */
enum proc_vm_flag {
	PROC_VMF_GROWSDOWN = 1 << 0,       /* gd */
	PROC_VMF_LOCKED = 1 << 1,          /* lo */
	PROC_VMF_SEQUENTIAL = 1 << 2,      /* sr */
	PROC_VMF_RANDOM = 1 << 3,          /* rr */
	PROC_VMF_DONTFORK = 1 << 4,        /* dc */
	PROC_VMF_NORESERVE = 1 << 5,       /* nr */
	PROC_VMF_HUGETLB = 1 << 6,         /* ht */
	PROC_VMF_DONTDUMP = 1 << 7,        /* dd */
	PROC_VMF_HUGEPAGE = 1 << 8,        /* hg */
	PROC_VMF_NOHUGEPAGE = 1 << 9,      /* nh */
	PROC_VMF_MERGEABLE = 1 << 10,      /* mg */
	PROC_VMF_WIPEONFORK = 1 << 11,     /* wf */
	PROC_VMF_IO = 1 << 12,             /* io */
	PROC_VMF_PFNMAP = 1 << 13,         /* pf */
	PROC_VMF_SEALED = 1 << 14,         /* sl */
	PROC_VMF_SHADOW_STACK = 1 << 15,   /* ss */
	PROC_VMF_UFFD = 1 << 16,           /* um, ui */
	PROC_VMF_DROPPABLE = 1 << 17,      /* dp */
	PROC_VMF_ACCOUNT = 1 << 18,        /* ac */
	PROC_VMF_LOCKONFAULT = 1 << 19,    /* lf */
	PROC_VMF_UFFD_WP = 1 << 20,        /* uw */
	PROC_VMF_PROTECTION_KEY = 1 << 21, /* a key that is not 0; a line of its own */
};

typedef VEC(struct proc_vma) proc_vmas;
int parse_vmas(const char *text, proc_vmas *out) must_check; /* -1: malformed or out of memory */
/* All areas in ascending order; @with_flags reads smaps (slower). */
int proc_vmas_read(pid_t pid, bool with_flags, proc_vmas *out, struct err *err) must_check;
void proc_vmas_finish(proc_vmas *v);

/* Of /proc/PID/smaps_rollup. */
struct proc_rollup {
	uint64_t anon_kb;     /* anonymous pages that are present */
	uint64_t pss_anon_kb; /* the same, each divided by the number of its users */
};
int parse_rollup(const char *text, struct proc_rollup *out) must_check; /* -1: malformed */
/* Walks all page tables of the process: about 10 ms for each GiB of small pages. */
int proc_rollup(pid_t pid, struct proc_rollup *out, struct err *err) must_check;

/* Pages that are not those of files, as statm tells at once: resident less shared. 0 also when it has ended. */
uint64_t proc_private_pages(pid_t pid);

typedef VEC(pid_t) proc_pids;
/* Thread ids of a process, ascending as the kernel lists them. */
int proc_threads(pid_t pid, proc_pids *out, struct err *err) must_check;
/* Numbers of open descriptors, ascending. */
int proc_fds(pid_t pid, proc_pids *out, struct err *err) must_check;

/* Appends the children of one thread, as /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN) has them; none if it has ended. */
int proc_children(pid_t pid, pid_t tid, proc_pids *out, struct err *err) must_check;

/* All processes with their parents, for walking a tree: appends each child (by ppid) of the pids in *tree, repeatedly. */
int proc_tree(pid_t root, proc_pids *tree, struct err *err) must_check;

#endif

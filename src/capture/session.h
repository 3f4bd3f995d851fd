// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of capture/ share: the frozen tree as it really is, beside
 * the snapshot that is made of it.
 */
#ifndef FERRY_CAPTURE_SESSION_H
#define FERRY_CAPTURE_SESSION_H

#include "blob/visit.h"
#include "capture/capture.h"
#include "capture/sleeps.h"
#include "kernel/callwatch.h"
#include "kernel/proc.h"
#include "kernel/ptrace.h"
#include "mem/ranges.h"
#include "mem/serve.h"

#include <pthread.h>
#include <semaphore.h>

struct live_thread {
	pid_t tid;
	bool stopped;                 /* in a ptrace stop */
	int group_sig;                /* it is in a group stop by this signal, or 0 */
	struct user_regs_struct regs; /* its own; what it gets back */
	uint64_t sigmask;
	uint64_t rseq; /* address of its area, or 0 */
};

/* The areas of a task that ran. */
struct seen_areas {
	pid_t pid;
	uint64_t start_time;
	proc_vmas vmas;
	mem_ranges guards;
	struct call_watch watch; /* begun before they were read; empty: not possible here */
};

struct live_task {
	struct task_facts facts; /* what kinds see */
	struct proc_stat stat;
	struct proc_status status; /* of the first thread, once it is stopped; empty for zombies */
	VEC(struct live_thread) threads; /* leader first; empty for zombies */
	proc_vmas vmas;
	const struct seen_areas *seen; /* where the flags of vmas come from; NULL: from the freeze */
	bool calm;                     /* it made no call since then that could have changed them */
	struct live_task *parent;      /* in the tree, NULL for the root */
	bool shares_files;             /* its descriptor table is the parent's */
	bool keep_left; /* what a killed ferry left may be in use, see visit_way_home() */
};

/* An entry of files.img that executables and mappings of one file share, in all tasks. */
struct mapped_file {
	dev_t dev;
	ino_t ino;
	uint32_t fdflags, id;
	const char *link; /* of the arena */
};

/* What a private mapping looks like in /proc/PID/smaps whose file has been looked at: all like it are of that file. */
struct known_mapping {
	unsigned int dev_major, dev_minor;
	uint64_t ino;
	const char *name; /* of the arena */
	uint32_t fdflags, id;
};

/* Namespaces of tasks; the first ones must be ours. */
enum capture_ns {
	CAPTURE_NS_MNT,
	CAPTURE_NS_NET,
	CAPTURE_NS_UTS,
	CAPTURE_NS_USER,
	CAPTURE_NS_CGROUP,
	CAPTURE_NS_OURS,
	CAPTURE_NS_TIME = CAPTURE_NS_OURS,
	CAPTURE_NS_IPC, /* ours, or one of the whole tree */
	CAPTURE_NS_PID,
	CAPTURE_NS_COUNT,
};

struct capture_session {
	struct capture c;
	pid_t root;
	VEC(struct live_task *) tasks; /* parents first; [0] is the root */
	bool frozen, killed, collected, armed;
	bool tracked; /* pre-copy watches its memory */
	struct sleeps own_sleeps;
	struct sleeps *sleeps; /* of this session, or of all stops of a pre-copy */
	VEC(struct seen_areas) seen;
	pthread_t confirm_thread;
	bool confirming;   /* there is that thread, which reads tasks, and ends the watches */
	sem_t confirm_end; /* posted when confirm_rc is final */
	bool confirm_told;
	int confirm_rc;
	struct err confirm_err;
	VEC(struct mapped_file) mapped;
	VEC(struct known_mapping) known;
	ino_t own_ns[CAPTURE_NS_COUNT]; /* our namespaces; 0: not asked yet */
	ino_t like_ours_mnt; /* a mount namespace that shows what ours shows; 0: none known */
	uint64_t freeze_started_ns;
	struct capture_stats stats;
	uint32_t next_id; /* for ids-PID.img */
};

/* freeze.c */
void live_task_free(struct live_task *t);
int freeze_tree(struct capture_session *s, unsigned int timeout_ms, struct err *err) must_check;
int thaw_tree(struct capture_session *s, enum capture_end end, struct err *err) must_check;

/* tasks.c: pstree, core, ids, fs of every task, as far as it can be seen from outside. */
int tasks_describe(struct capture_session *s, struct err *err) must_check;
/* Refusals that a look at /proc shows: namespaces, seccomp, tracers, ... Works on running tasks that are no zombies. */
int task_allowed(struct capture_session *s, pid_t pid, const struct proc_stat *stat,
		 const struct proc_status *st, struct err *err) must_check;
/* Is the root in our IPC namespace? -1: it has ended. */
int tasks_share_ipc(struct capture_session *s);
/* Runs the kinds on every task: outside, and inside by visits. */
int tasks_inspect(struct capture_session *s, struct err *err) must_check;

/* Is the tree in a pid namespace of its own, whose pids the images have? And one pid as it is there. */
bool tasks_nested(struct capture_session *s);

/* Does a process in another mount namespace see the same mounts as we do, but for /proc? */
bool mounts_are_ours(pid_t pid);
pid_t task_image_pid(pid_t tid, bool nested);

/* areas.c */
/* A private area that can have pages which are not in a file or the kernel's. */
bool area_has_own_pages(const struct proc_vma *v);
int areas_allowed(const struct capture_session *s, pid_t pid, const proc_vmas *vmas, struct err *err)
	must_check;
int areas_describe(struct capture_session *s, struct live_task *t, struct err *err) must_check;

/* seen.c: the areas of a frozen task into t->vmas, with flags. */
int seen_read(const struct capture_session *s, struct live_task *t, struct err *err) must_check;
/* In the freeze, after the visits: a thread looks again at what was not looked at in it. capture_confirm ends it. */
int seen_confirm_start(struct capture_session *s, struct err *err) must_check;
void seen_forget(struct capture_session *s);

enum { HOT_DATA_PAGES = 128 };

/* hot.c: pages that should not come late; of programs' and libraries' data no more than @data_pages. */
int hot_pages(const struct live_task *t, size_t data_pages, mem_ranges *out, struct err *err)
	must_check;

/* shared.c: may this shared memory come late? Then @where is one of its mappings. */
bool shared_may_be_late(const struct capture_session *s, const struct shmem_source *src,
			struct serve_file *where);

/* fds.c: gather descriptions into c.fds and give each its kind. */
int fds_gather(struct capture_session *s, struct err *err) must_check;
int fds_capture(struct capture_session *s, struct err *err) must_check;
int fds_undo(struct capture_session *s, struct err *err) must_check;

/* The tree was killed: kinds let go of what they kept for undo. */
void fds_drop(struct capture_session *s);
void fds_forget(struct capture_session *s);

#endif

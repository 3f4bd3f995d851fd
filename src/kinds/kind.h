// SPDX-License-Identifier: Apache-2.0
/*
 * The contracts of kinds: one file per kind of resource holds both directions
 * behind one table, and the registry (kinds.c) lists the tables. See
 * HOWTO-ADD-A-KIND.md.
 *
 * A kind knows nothing of capture/ and restore/: it works on the two structs
 * below, which they fill, so that it can be tested without either.
 */
#ifndef FERRY_KINDS_KIND_H
#define FERRY_KINDS_KIND_H

#include "base/arena.h"
#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"
#include "blob/script.h"
#include "snapshot/snapshot.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* ---- what the user allowed; filled by the commands, same names as CRIU's options ---- */

struct kind_options {
	bool shell_job;   /* -j */
	bool ext_unix_sk; /* --ext-unix-sk */
	bool file_locks;  /* --file-locks */
	bool link_remap;  /* --link-remap */
	bool evasive_devices;
	bool overwrite_files;
	uint64_t ghost_limit; /* bytes; deleted files up to this size are carried (--ghost-limit) */
	const char **external; /* --external values, NULL-terminated or NULL */
	struct {
		int fd;
		const char *key; /* --inherit-fd fd[N]:key */
	} inherit[32];
	size_t n_inherit;
	const char *root; /* --root: paths are opened below it; NULL = / */
};

/* ---- capture ---- */

struct fd_kind;

/* Who holds a description. */
struct fd_holder {
	pid_t pid; /* real pid of a task of the tree (one task per shared descriptor table) */
	int fd;
	bool cloexec;
	bool locked; /* its fdinfo shows locks (locks.h); not known before the freeze */
};

/* One open file description of the tree; gathered once by capture/fds.c. */
struct fd_facts {
	uint32_t id;      /* file id in the images */
	int own;          /* our duplicate: shares the description, so put back what you change */
	const char *link; /* readlink of /proc/PID/fd/N of the first holder */
	const char *info; /* text of its fdinfo */
	struct stat st;
	long fs_magic;  /* f_type of fstatfs, 0 if it fails */
	uint32_t flags; /* "flags:" of fdinfo without O_CLOEXEC */
	uint64_t pos;
	int mnt_id;
	const struct fd_kind *kind;
	void *kept;                    /* the kind's own, from capture() to undo() */
	VEC(struct fd_holder) holders; /* at least one */
};

struct proc_status;

struct thread_facts {
	const struct proc_status *status; /* while outside() runs: /proc/TID/status, read once for all kinds */
	pid_t tid;                        /* in our pid namespace */
	pid_t vtid; /* in the tree's own (innermost) pid namespace: what images hold */
};

struct task_facts {
	pid_t pid, vpid;
	struct snap_task *snap;
	struct thread_facts *threads; /* leader first */
	size_t n_threads;
	int pidfd;
	bool zombie;
};

/* A segment of shared memory whose contents capture copies into pagemap-shmem-ID. */
struct shmem_source {
	uint64_t shmid;
	uint64_t bytes; /* size of the file; not always whole pages */
	int fd;         /* ours, readable; closed by capture_close */
};

struct capture {
	struct snapshot *snap;
	const struct kind_options *opt;
	VEC(struct task_facts *) tasks; /* parents first */
	VEC(struct fd_facts *)
	fds; /* every description, complete before the first kind's capture() runs */
	uint32_t last_file_id;
	uint32_t last_remap_id;
	uint32_t last_pages_id;
	struct store *store; /* for contents that are not small; snapshot_save writes the rest */
	bool preflight; /* a look at running tasks, to find what would be refused: change nothing, read no contents */
	bool saved; /* the images are complete and nothing runs on: undo() leaves what a restore needs */
	VEC(struct shmem_source)
	shmem; /* one per memfd or shared segment; kinds/fd/memfd.c and kinds/sysv.c add them */
	VEC(struct shmem_source)
	sysv; /* System V segments that areas show, until sysv_capture has moved them to shmem */
	bool sysv_ours; /* those of snap->ipc are in our own IPC namespace */
};

/* The next free file id, for entries without a descriptor of their own. */
static inline uint32_t capture_next_file_id(struct capture *c)
{
	return ++c->last_file_id;
}

/* The image's pid for a real pid (task or thread) of the tree; 0 if it is not of the tree. */
pid_t capture_virt_pid(const struct capture *c, pid_t real);

/* A description of the tree by the inode (and kind) behind it, e.g. the peer of a socket; NULL if not held by the tree. */
struct fd_facts *capture_fd_by_inode(const struct capture *c, const struct fd_kind *kind,
				     uint64_t ino);

/* Adds @fe (with ->id and ->type set) to files.img. */
int capture_add_file(struct capture *c, FileEntry *fe, struct err *err) must_check;

/* F_GETOWN_EX, F_GETSIG of the description, for the fown field most entries have. NULL = out of memory. */
FownEntry *capture_fown(struct capture *c, const struct fd_facts *f);

/* Number behind "KEY:" in fdinfo text; false if there is no such line. */
bool fdinfo_u64(const char *info, const char *key, int base, uint64_t *out);

/* Is there an --external value that is @key, or @key and ":NAME"? Then that value, else NULL. */
const char *kind_external(const struct kind_options *opt, const char *key);

/* The descriptor that --inherit-fd fd[N]:KEY gave for one of "pipe:[7]" or "pipe[7]" (pass the first form), or -1. */
int kind_inherited(const struct kind_options *opt, const char *key);

/*
 * An entry of type REG for a path that is not (only) a descriptor: exe, cwd,
 * root, mapped files, the path of a fifo or tty. @fd is any descriptor of it
 * (O_PATH will do), @link its /proc link text. Deleted files become ghosts or
 * link remaps as for descriptors. Returns the new file id in *id_out.
 * file_path_allowed only tells whether that will be refused.
 */
int file_path_allowed(struct capture *c, int fd, const char *link, struct err *err) must_check;
int file_capture_path(struct capture *c, int fd, const char *link, uint32_t flags, uint64_t pos,
		      uint32_t *id_out, struct err *err) must_check;

/* Removes the links in the file system that captures with --link-remap made, unless c->saved. */
int file_undo_links(struct capture *c, struct err *err) must_check;

/* ---- restore ---- */

struct restore {
	struct snapshot *snap;
	const struct kind_options *opt;
	struct store *store;
	struct broker *broker; /* opened descriptions; broker.h */
	struct script *script; /* scratch for emit()s of the caller */
	int pid_ns;            /* the tree gets a pid namespace of its own */
	bool preflight; /* check() only: the source is still running, contents may be missing */
};

/* A place where a description is installed in a restored task. */
struct fd_place {
	struct snap_task *task;
	int fd;
	bool first; /* the first place of this description in the whole tree */
};

/*
 * Operations that give a description its signal owner back (F_SETSIG,
 * F_SETOWN_EX, then O_ASYNC if it is in @flags), for emit() of kinds: an owner
 * is a task of the tree, so this cannot be done before there is one. @fown may
 * be NULL. Nothing is appended but at the first place.
 */
void emit_fown(const FownEntry *fown, uint32_t flags, const struct fd_place *place, struct script *s);

/* Makes F_GETFL of @fd what @flags say, as far as F_SETFL can (not O_ASYNC: emit_fown does that). */
int fd_set_flags(int fd, uint32_t flags, struct err *err) must_check;

/* ---- the tables ---- */

/*
 * Errors of a kind say what is wrong and what helps; pid, descriptor and path
 * are put before them by the callers (capture/, broker.c).
 */
struct fd_kind {
	const char *name; /* "eventfd": log prefix, victim name, man entry */
	FdTypes type;     /* fd_types of the image format */
	/* Does this kind handle it? Pure: no system calls but what facts need not repeat. */
	bool (*claims)(const struct capture *c, const struct fd_facts *f);
	/* Why it cannot be captured, before anything is changed: 0, or -1 and the reason. Optional. */
	int (*allowed)(struct capture *c, const struct fd_facts *f, struct err *err);
	/* Adds exactly one FileEntry with f->id (capture_add_file), and what hangs on it. Tasks are frozen. */
	int (*capture)(struct capture *c, struct fd_facts *f, struct err *err);
	/* The source lives on: put back what capture() changed. Optional. */
	int (*undo)(struct capture *c, struct fd_facts *f, struct err *err);
	/* The source is gone for good: let go of what capture() kept. Optional. */
	void (*drop)(struct capture *c, struct fd_facts *f);
	/* On the destination, no side effects: can open() work? May run before the freeze. Optional. */
	int (*check)(struct restore *r, const FileEntry *fe, struct err *err);
	/* Opens the description in the broker process; *fd_out is the caller's. */
	int (*open)(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err);
	/* Every description of the tree is open now: connect peers, fill queues. Optional. */
	int (*link)(struct restore *r, const FileEntry *fe, int fd, struct err *err);
	bool links_last; /* link() looks at what others are ready for (epoll): queues are full, spare ends closed */
	/* Operations that a holder must run itself, when all its descriptors are in place (epoll_ctl, TIOCSCTTY). Optional. */
	int (*emit)(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		    struct script *s, struct err *err);
	/* The tree runs: remove what only its restore needed (broker_commit). Failures are logged. Optional. */
	void (*commit)(struct restore *r, const FileEntry *fe);
};

/* What a task kind's query() notes for its collect(). */
struct task_query {
	unsigned int op; /* first operation */
	uint64_t data;   /* data area address, in the task */
};

enum task_kind_when {
	KIND_PER_PROCESS, /* runs in the leader only */
	KIND_PER_THREAD,
};

struct task_kind {
	const char *name;
	enum task_kind_when when;
	/* Capture. All optional; @thread indexes t->threads; core entries exist already. */
	int (*outside)(struct capture *c, struct task_facts *t, size_t thread,
		       struct err *err); /* from /proc, ptrace, system calls */
	int (*query)(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
		     struct task_query *q, struct err *err); /* what only the task can tell */
	int (*collect)(struct capture *c, struct task_facts *t, size_t thread,
		       const struct script *s, const struct task_query *q, struct err *err);
	/* Restore. check() has no side effects; emit() appends to the script of the thread. */
	int (*check)(struct restore *r, const struct snap_task *t, size_t thread, struct err *err);
	int (*emit)(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		    struct err *err);
	/* From outside, after the thread ran its emits: @tid is its id in our pid namespace. Optional. */
	int (*apply)(struct restore *r, const struct snap_task *t, size_t thread, pid_t tid,
		     struct err *err);
};

/* The registry (kinds.c); order of fd kinds = priority of claims, of task kinds = order of emits. Ended by NULL. */
extern const struct fd_kind *const fd_kinds[];
extern const struct task_kind *const task_kinds[];

const struct fd_kind *fd_kind_by_type(FdTypes type);

#endif

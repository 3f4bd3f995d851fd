// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of restore/ share. The order of things, as restore.c runs it:
 *
 *	plan.c     who forks whom, which areas are inherited; no side effects
 *	check.c    can it work here; no side effects
 *	region.c   one shared mapping, free in every task: the blob and its slots
 *	mounts.c   a mount namespace, and a root that came from elsewhere
 *	root.c     the first task (and the init of a new pid namespace)
 *	ahead.c    the first task, before there are images
 *	births.c   the other tasks: sessions, groups, zombies
 *	space.c    address spaces: areas, contents, protections
 *	files.c    descriptors, working and root directory
 *	threads.c  threads, and the state that task kinds know how to set
 *	switch.c   from the blob to the registers of the program
 *
 * A task under construction is a "husk": a process whose memory holds nothing
 * but the region and the kernel's vdso, and that executes scripts.
 */
#ifndef FERRY_RESTORE_SESSION_H
#define FERRY_RESTORE_SESSION_H

#include "blob/run.h"
#include "kernel/mntns.h"
#include "kernel/vdso.h"
#include "restore/restore.h"

struct space;
struct rtask;

/* A thread's place in the region. */
struct rslot {
	struct blob_slot *slot; /* its address is the same in the tasks */
	struct script script;
	struct rtask *task;
	size_t thread; /* index in the task */
	pid_t tid;     /* in our namespace; 0 until it exists */
	bool running;
};

/* One process to be made. Helpers have no @snap: they live for a while to carry a session or group over. */
struct rtask {
	struct snap_task *snap;
	struct rtask *parent; /* NULL for the root */
	struct rtask *owner;  /* helpers: whose child it is, and who must reap it */
	struct rslot **slots; /* one per thread, leader first */
	size_t n_slots;
	pid_t vpid, pid; /* in the images; in our namespace (0 until it exists) */
	pid_t sid, pgid; /* to have, virtual; 0: whatever we have (--shell-job) */
	pid_t need;      /* session it must be born in; -1: any */
	pid_t born_sid;  /* session it is born in */
	pid_t now_pgid;
	int pidfd;
	bool zombie, seized;

	/* how it is born: plan.c */
	struct rtask *creator;
	bool as_sibling;    /* CLONE_PARENT: a child of the creator's parent */
	bool before_setsid; /* of the creator */
	bool inherits;      /* copy-on-write: forked when the creator's memory is in place */
	bool share_files;   /* CLONE_FILES with the creator */
	bool adopted;       /* reaches its parent when its creator, a helper, exits */
	bool wants_setsid, setsid_done, adopts;
	bool queued; /* its clone is in the creator's script */

	struct space *space; /* space.c; NULL for zombies and helpers */
	uint64_t vdso_now;   /* where its vdso set is */
	uint32_t exe_now;    /* file id of its executable link; 0: ours */
	bool dirty;          /* it was born with somebody's memory */
	bool memory_done;    /* its own memory is in place */
};

/* A file that is needed but has no descriptor in the tree: mapped, executable, cwd, root. */
struct held_file {
	uint32_t id, flags;
	const FileEntry *fe;
	int fd;
	bool alias; /* the descriptor belongs to an earlier one of the same name */
};

struct shared_segment { /* of old images: areas that are anonymous and shared, by segment id */
	uint64_t id, bytes;
	int fd;
};

struct restore_session {
	struct restore r;
	struct restore_options opt;
	struct arena arena;

	VEC(struct rtask *) tasks; /* as in the snapshot: parents first */
	VEC(struct rtask *) helpers;
	bool new_pidns;
	pid_t init_pid; /* of the new namespace; 0 if there is none */
	int pidns_fd;
	int ipc_fd;               /* the tree's IPC namespace; -1: it has none of its own */
	int mnt_fd;               /* the tree's mount namespace; -1: it is ours, or not made yet */
	struct mntns_way mnt_way; /* between mounts_enter and mounts_leave */

	/* region.c */
	uint8_t *region;
	size_t region_bytes; /* all of it, parking place included */
	size_t mapped_bytes; /* the part that we map */
	uint64_t parking;    /* where the vdso waits while areas are mapped */
	size_t slot_off;     /* next free byte for slots */
	VEC(struct rslot *) slots;
	VEC(struct rslot *) running;

	struct vdso_set vdso;
	int base_fd;
	struct {
		bool changed;
		uint64_t soft;
	} nofile;
	VEC(struct held_file) held;
	VEC(struct shared_segment) segments;
	void *scratch; /* for fill_task */

	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *progress_arg;
	uint64_t done_bytes, total_bytes;

	struct clock_lead lead; /* ahead.c: of the task that was made ahead */

	bool built, committed;
};

/* ---- plan.c ---- */

int plan_tree(struct restore_session *s, struct err *err) must_check;
const char *task_comm(const struct rtask *t);
struct rtask *session_task(struct restore_session *s, pid_t vpid); /* tasks and helpers */
struct rtask *plan_helper(struct restore_session *s, pid_t vpid, struct rtask *owner,
			  struct err *err);

/* ---- region.c ---- */

int region_create(struct restore_session *s, struct err *err) must_check;
void region_destroy(struct restore_session *s);
int region_slots(struct restore_session *s, struct rtask *t, struct err *err) must_check;

/* An address where nothing is, here, in any task, or in the region; so many bytes. */
int region_gap(struct restore_session *s, size_t bytes, uint64_t *at_out, struct err *err) must_check;

/* For a root that is made ahead: a region for about so many threads, with its slot. */
int region_create_ahead(struct restore_session *s, struct rtask *root, size_t n_threads,
			struct err *err) must_check;
/* Is the region of @ahead large enough, and free in every task? Then take it makes it @s's. */
bool region_fits(const struct restore_session *s, const struct restore_session *ahead);
void region_take(struct restore_session *s, struct restore_session *ahead);

/*
 * Makes room for so much more in the slot's script; runs what is there if it
 * must. The task must exist. Errors do not name the task yet, but those of slots_wait() do.
 */
int slot_room(struct restore_session *s, struct rslot *rs, unsigned int ops, size_t bytes,
	      struct err *err) must_check;
/* Starts the script (if it is not empty); slots_wait() waits for all that were started. */
int slot_start(struct restore_session *s, struct rslot *rs, struct err *err) must_check;
int slots_wait(struct restore_session *s, struct err *err) must_check;
/* Start and wait. */
int slot_run(struct restore_session *s, struct rslot *rs, struct err *err) must_check;
static inline struct rslot *leader(const struct rtask *t)
{
	return t->slots[0];
}

/* "pid 34 (nginx): " before the text. */
int task_wrap(const struct rtask *t, struct err *err);

/* ---- root.c ---- */

/* The first task, emptied; of one that was made ahead: its descriptors. */
int root_create(struct restore_session *s, struct err *err) must_check;
/* Before there are images: it shares our descriptors until then. */
int root_create_ahead(struct restore_session *s, const struct clock_lead *lead, struct err *err)
	must_check;
/* As if the clocks of the images were read now. */
struct clock_lead clock_lead_of(const TimensEntry *te);
/* The real pid of a task or thread of the tree. */
int real_pid(struct restore_session *s, pid_t vpid, pid_t *out, struct err *err) must_check;
/* Notes that a task exists now: its pid, and that it dies with us. */
int task_born(struct restore_session *s, struct rtask *t, struct err *err) must_check;

/* ---- mounts.c ---- */

/*
 * With a new pid namespace the tree gets a mount namespace, too, for its /proc; and with a root of its own
 * (restore_options.root_mount). From enter to leave this thread is in it, so that what is opened belongs to it. It
 * is made by the first enter. Nothing happens where the tree has no mount namespace.
 */
int mounts_enter(struct restore_session *s, struct err *err) must_check;
int mounts_leave(struct restore_session *s, struct err *err) must_check;

/* ---- ahead.c ---- */

/* Takes over what s->opt.ahead has made, if it fits; else it is ended. */
void root_take_ahead(struct restore_session *s);

/* restore.c: the memory to fill tasks with; that of what was made ahead, if there is some. */
int scratch_make(struct restore_session *s, struct err *err) must_check;
/* restore.c: kills and reaps what was born. */
void session_kill(struct restore_session *s);

/* ---- births.c ---- */

int births_run(struct restore_session *s, struct err *err) must_check;
int births_groups(struct restore_session *s, struct err *err) must_check;
/* Zombies and helpers end. */
int births_deaths(struct restore_session *s, struct err *err) must_check;
/* Adds a clone operation for a thread or process whose slot is ready. */
int births_clone(struct restore_session *s, struct rslot *from, const struct rslot *child,
		 pid_t vtid, uint64_t flags, struct err *err) must_check;

/* ---- space.c ---- */

int space_plan(struct restore_session *s, struct rtask *t, struct err *err) must_check;
int space_open_files(struct restore_session *s, struct err *err) must_check;
/* Areas, contents and protections of these tasks. */
int space_build(struct restore_session *s, struct rtask **tasks, size_t n, struct err *err)
	must_check;
/* Would @child profit from being forked with the memory of @parent? */
bool space_shares(struct restore_session *s, const struct rtask *parent, struct rtask *child);
/* space_lazy.c: restore_lazy.parents. Before the plan. */
int space_defer_parents(struct restore_session *s, struct err *err) must_check;

/* space_lazy.c: announces the tasks that have no lazy memory; the others have been, by space_build. */
int space_announce_rest(struct restore_session *s, struct err *err) must_check;
/* The first husk: everything goes but the region and the vdso. */
void space_empty_script(struct restore_session *s, struct rslot *rs);
/* Address of a `syscall` instruction outside of the region. */
uint64_t space_syscall_insn(const struct restore_session *s, const struct rtask *t);

/* ---- sysv.c ---- */

/* Makes the tree's IPC namespace, if it has one of its own, with everything in it. */
int ipc_build(struct restore_session *s, struct err *err) must_check;
/* After all tasks have their memory. */
int ipc_finish(struct restore_session *s, struct err *err) must_check;
/* The husk of the first task goes there. */
void ipc_script(const struct restore_session *s, struct script *sc);
/* Operations that map a part of a segment; the caller has made room for SYSV_MAP_OPS. */
enum { SYSV_MAP_OPS = 5 };
int sysv_map(struct restore_session *s, struct script *sc, const VmaEntry *v, struct err *err)
	must_check;

/* ---- files.c ---- */

int files_base(struct restore_session *s, struct err *err) must_check;
/* space_shared.c: did this shared memory stay where it was? */
bool pagemap_comes_late(const struct snap_pagemap *pm);

/* Opens, before the first task is forked, what has no descriptor in the tree, and fills shared memory. */
int files_open(struct restore_session *s, struct err *err) must_check;
/* A file held open with these flags; -1 if it is not. */
int held_fd(const struct restore_session *s, uint32_t id, uint32_t flags);
int hold_file(struct restore_session *s, uint32_t id, uint32_t flags, struct err *err) must_check;
/* Moves a descriptor to the broker's numbers; takes it. */
int raise_fd(const struct restore_session *s, int fd, struct err *err) must_check;
int files_install(struct restore_session *s, struct err *err) must_check;
void files_close(struct restore_session *s);

/* ---- threads.c ---- */

int threads_apply(struct restore_session *s, struct err *err)
	must_check; /* what kinds do from outside */
int threads_build(struct restore_session *s, struct err *err) must_check;

/* ---- switch.c ---- */

int switch_stop(struct restore_session *s, struct err *err) must_check;
int switch_registers(struct restore_session *s, struct err *err) must_check;
int switch_go(struct restore_session *s, struct err *err) must_check;

#endif

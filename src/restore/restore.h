// SPDX-License-Identifier: Apache-2.0
/*
 * Restore: build a tree from a snapshot and let it run.
 *
 *	restore_open      load and verify the images; nothing is made
 *	restore_check     can it work here? no side effects
 *	restore_build     make every task, up to its last register, none of them runs
 *	restore_commit    let them run
 *	restore_close     kills what was built and not committed
 *
 * A tree that is not committed disappears with us (PTRACE_O_EXITKILL).
 */
#ifndef FERRY_RESTORE_RESTORE_H
#define FERRY_RESTORE_RESTORE_H

#include "kinds/kind.h"

struct restore_session;
struct lazy_area;

enum restore_pids { RESTORE_PIDS_SAME, RESTORE_PIDS_AUTO, RESTORE_PIDS_NEW };

/*
 * Memory that comes later (mem/lazy.h): areas with such pages are registered with the task's
 * userfaultfd, and those pages are not filled in.
 */
struct restore_lazy {
	/*
	 * Called once for each task of the images, zombies too, before anything reads or writes lazy
	 * memory. @uffd is non-blocking, has the features of lazy_uffd_features(), and is
	 * the callee's from now on, also on failure; -1: the task has no lazy memory. Page faults of the
	 * task must be answered from when the last task was announced, by another thread or process:
	 * the restore itself may wait for them.
	 */
	int (*announce)(void *arg, pid_t vpid, pid_t pid, int uffd, struct err *err);
	void *arg;
	/*
	 * All pages that are marked PE_LAZY come later, as CRIU's daemon has it, also those that the store has.
	 * Else only those that it has not.
	 */
	bool marked;
	/*
	 * Shared memory whose pagemap says PE_LAZY and nothing else; NULL: refused. First, before there are tasks, each
	 * object, with its file (a descriptor of the callee's from then on, also on failure). Then the areas of a task that
	 * show such objects, before announce() of the task: @uffd as there, but another one; it and @pidfd are the callee's.
	 */
	int (*shared)(void *arg, const struct snap_pagemap *pm, int fd, uint64_t bytes,
		      struct err *err);
	int (*shared_areas)(void *arg, int uffd, int pidfd, const struct lazy_area *areas, size_t n,
			    struct err *err);
	/* Pages in a parent of the store come later, too, where they can: these become marked PE_LAZY. */
	bool parents;
};

struct restore_options {
	const struct kind_options *kinds;
	enum restore_pids pids;
	bool sibling;       /* -S: the root becomes our sibling, a child of our parent */
	bool leave_stopped; /* -s: stop the tree (SIGSTOP) instead of running it */
	int (*interrupted)(struct err *err); /* -1: it shall end; asked while tasks are waited for. NULL: never */
	const struct restore_lazy *lazy; /* NULL: all memory is there when the tree runs */
	/*
	 * A mount that is attached nowhere (fsmount(2)): it becomes the root directory of the tree, in a mount
	 * namespace of its own, with this host's /dev, /proc and /sys in it. Closed and set to -1
	 * when it is in place. NULL: the tree has our root directory.
	 */
	int *root_mount;
	/*
	 * Of restore_ahead, NULL: none. What it has made is taken over when the tree is built, or ended; it
	 * stays the caller's to close, after this session was closed or committed.
	 */
	struct restore_session *ahead;
};

/* By how much the clocks of a tree are ahead of ours; negative: they are behind. */
struct clock_lead {
	int64_t monotonic_ns, boottime_ns;
};

/* What is known of a tree before it is frozen. */
struct restore_wish {
	pid_t pid;        /* of its first task, in the images */
	size_t n_threads; /* of all tasks, about */
	struct clock_lead lead;
};

/*
 * Makes the first task before there are images, so that nobody has to wait for it: with its pid, in a time
 * namespace with the tree's clocks, and empty. Only @opt's kinds are looked at, and its pids: not with a pid
 * namespace. NULL: it cannot be done, which is no reason not to restore. End it by restore_close.
 */
struct restore_session *restore_ahead(const struct restore_options *opt,
				      const struct restore_wish *wish, struct err *err) must_check;

/* Blocks until the images it needs have arrived in the store. */
struct restore_session *restore_open(struct store *store, const struct restore_options *opt,
				     struct err *err) must_check;
struct restore *restore_state(struct restore_session *s);

/*
 * CPU features, kernel features, pids, files, users. With RESTORE_PIDS_AUTO
 * notes whether a pid namespace is needed; restore_new_pidns tells.
 */
int restore_check(struct restore_session *s, struct err *err) must_check;

/*
 * Is each of these pids free here? Waits up to 3 s for those whose tasks have ended but still are zombies. -1 names
 * the owner (pid and command name) of the first that is not free.
 */
int restore_pids_free(const pid_t *pids, size_t n, struct err *err) must_check;
bool restore_new_pidns(const struct restore_session *s);

int restore_build(struct restore_session *s,
		  void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
		  struct err *err) must_check;

/* The root's pid in our namespace; after restore_build. */
pid_t restore_root_pid(const struct restore_session *s);

/*
 * What to wait for: the root, or the init of its new pid namespace, which ends
 * when the last task has ended, with the status of the root. A child of ours (with
 * sibling: of our parent).
 */
pid_t restore_wait_pid(const struct restore_session *s);

/* The moment of truth: every task runs from its registers. */
int restore_commit(struct restore_session *s, struct err *err) must_check;

void restore_close(struct restore_session *s); /* NULL allowed */

#endif

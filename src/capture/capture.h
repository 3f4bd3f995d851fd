// SPDX-License-Identifier: Apache-2.0
/*
 * Capture: freeze a tree, look inside it, copy its memory out, let it go.
 *
 * The order that callers follow (cmd/dump.c, migrate/source.c):
 *
 *	capture_open      find the tree; nothing is stopped
 *	capture_check     refuse by name what cannot be carried; nothing is stopped
 *	capture_freeze    every thread stops
 *	capture_collect   small state into the snapshot
 *	capture_memory    pages into a sink
 *	capture_save      images into the store
 *	capture_finish    thaw, leave stopped, or kill
 *	capture_close
 *
 * From freeze to finish nothing exits and no allocation failure aborts. If we
 * are killed at any moment the kernel lets the tasks go, and a task that is
 * inside the blob finds home by itself (kernel/stub.h).
 */
#ifndef FERRY_CAPTURE_CAPTURE_H
#define FERRY_CAPTURE_CAPTURE_H

#include "kinds/kind.h"
#include "mem/serve.h"
#include "mem/sink.h"

struct capture_session;

enum capture_end { CAPTURE_THAW, CAPTURE_LEAVE_STOPPED, CAPTURE_KILL };

struct capture_stats {
	uint64_t freeze_ns; /* from the first stop until capture_finish let go */
	uint64_t n_tasks, n_threads, n_fds;
	uint64_t pages, zero_pages, bytes;
	uint64_t kept_pages; /* sent by an earlier round of pre-copy, and unchanged */
};

struct precopy;

struct memory_options {
	struct page_sink *sink;
	struct precopy *precopy; /* the last of its rounds; NULL: everything is sent (precopy.h) */
	/*
	 * Not NULL: private anonymous memory stays where it is. The sink hears of it
	 * as PE_LAZY, and its pages are added here, to be asked for as long as the
	 * tree is frozen.
	 */
	struct serve *serve;
	/*
	 * With precopy and serve: if no more than this is left by the rounds, all of it goes with the state. What was
	 * written last is what the tree touches next.
	 */
	uint64_t little_bytes;
	bool shared; /* with serve: shared memory, too, where nobody has a descriptor of it */
	bool blocks; /* with serve: those pages are planned in blocks (drain_plan_late) */
	void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes); /* NULL allowed */
	/*
	 * Not NULL: for a receiver that builds while it gets. Called when all pagemaps are complete and no
	 * page has been read: now the snapshot can be saved. Every page of them follows, shared memory
	 * first, in the order of the pagemaps. Not with serve or precopy. The sink adds no entries.
	 */
	int (*announce)(void *arg, struct err *err);
	void *arg;
};

/* @pid is the root of the tree. @opt must outlive the session. */
struct capture_session *capture_open(pid_t pid, const struct kind_options *opt, struct err *err)
	must_check;

/* The struct kinds work on: its snapshot is what capture_collect fills. */
struct capture *capture_state(struct capture_session *s);

/*
 * The tree's memory is or will be watched by a precopy (@expected): areas that a
 * userfaultfd write-protects are no reason to refuse. Else they are: at first.
 */
void capture_expect_tracking(struct capture_session *s, bool expected);

/*
 * Are the files of this task those of another host (lazyfs/treeroot.h)? Then its paths mean something in its
 * mount namespace only: a capture has to be made in there, or in a copy of it.
 */
bool capture_root_is_lazy(pid_t pid);

/* The clocks as a task sees them, now. */
void capture_clocks(pid_t pid, int64_t *monotonic_ns, int64_t *boottime_ns);

/* All refusals of one look at the running tree; -1 and the first of them (the rest are logged as errors). */
int capture_check(struct capture_session *s, struct err *err) must_check;

/*
 * Optional, right before the freeze: what is slow to read of large tasks is read while they run, and the freeze goes by
 * it (seen.c). Then capture_confirm must follow, in the freeze and before anything is final: -1, EAGAIN if the program has
 * changed something in the moment in between.
 */
int capture_look_ahead(struct capture_session *s, struct err *err) must_check;
int capture_confirm(struct capture_session *s, struct err *err) must_check;

/*
 * Ends what looks after the tree since capture_look_ahead, and costs every system call of this machine a little. It takes some ten milliseconds:
 * not for a freeze. capture_close does it, too.
 */
void capture_unwatch(struct capture_session *s);

/* Gives up after @timeout_ms (0: no limit) with the tree running again. */
int capture_freeze(struct capture_session *s, unsigned int timeout_ms, struct err *err) must_check;
int capture_collect(struct capture_session *s, struct err *err) must_check;
int capture_memory(struct capture_session *s, const struct memory_options *how, struct err *err)
	must_check;
int capture_save(struct capture_session *s, struct store *store, struct err *err) must_check;

/*
 * The tree may soon run elsewhere: if we are killed from now on, it stays
 * stopped instead of running on. A SIGSTOP to each task waits while it is traced;
 * capture_finish takes it back.
 */
int capture_arm(struct capture_session *s, struct err *err) must_check;

/* Undoes what the kinds changed (unless killing), and ends the freeze. Goes on after errors; reports the first. */
int capture_finish(struct capture_session *s, enum capture_end end, struct err *err) must_check;

void capture_stats(const struct capture_session *s, struct capture_stats *out);

/* Thaws if still frozen. NULL allowed. */
void capture_close(struct capture_session *s);

#endif

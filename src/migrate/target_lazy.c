// SPDX-License-Identifier: Apache-2.0
/*
 * The target's part of post-copy. A thread works the fault engine (mem/lazy.h)
 * from the time in which the tree is built until nothing of it is missing any
 * more; the guardian (mem/guardian.h) ends the tree if this process is killed before.
 */
#define LOG_MODULE "target"
#include "base/log.h"
#include "base/thread.h"
#include "migrate/record.h"
#include "migrate/target.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

enum {
	LANES_MS = 60000,
	FAREWELL_MS = 10000, /* to tell the source that nothing is missing */
	STACK_PAGES = 8,     /* of each thread, that come first */
	POINTED_PAGES = 2,   /* where a register points to */
	PREFER_THREADS = 64, /* of a task: what comes first should be little */
};

/* ---- lanes ---- */

static int open_doors(struct target *t, struct err *err)
{
	char buf[64];
	const char *address = NULL;
	Wire__Doors doors = WIRE__DOORS__INIT;
	struct err why;

	if (lazy_probe(&why) < 0) {
		doors.cannot = why.text;
		return channel_send(&t->ch, MSG_DOORS, &doors.base, err);
	}
	if (t->needs->plain_tcp)
		address = transport_own_address(buf, sizeof(buf)) ? buf : "127.0.0.1";
	if (!t->hall)
		t->hall = hall_open(t->token, address, NULL, err);
	if (!t->hall)
		return -1;
	hall_patience(t->hall, t->needs->patience_ms);
	t->lanes = lane_source_create(t->hall, err);
	if (!t->lanes)
		return -1;
	if (address) {
		doors.address = (char *)address;
		doors.has_port = true;
		doors.port = hall_port(t->hall);
	}
	doors.has_shared = doors.shared = true;
	return channel_send(&t->ch, MSG_DOORS, &doors.base, err);
}

int target_lanes(struct target *t, struct err *err)
{
	Wire__Plan *plan;
	int have;

	t->mode = t->needs->has_mode ? t->needs->mode & WIRE_MODE_HYBRID : WIRE_MODE_STOP;
	if (!(t->mode & WIRE_MODE_POSTCOPY))
		return 0;
	if (open_doors(t, err) < 0)
		return -1;
	have = t->lanes ? lane_source_await(t->lanes, t->ch.in, LANES_MS, err) : 0;
	if (have < 0)
		return -1;
	plan = channel_expect(&t->ch, MSG_PLAN, err);
	if (!plan)
		return -1;
	t->mode &= plan->mode;
	wire_free(plan);
	if (!(t->mode & WIRE_MODE_POSTCOPY))
		target_undo_lanes(t);
	else if (!have)
		return err_set(err, EPROTO, "the source goes on without lanes");
	return 0;
}

void target_undo_lanes(struct target *t)
{
	lane_source_free(t->lanes);
	t->lanes = NULL;
	hall_close(t->hall);
	t->hall = NULL;
}

/* ---- the engine's thread ---- */

/* It has everything: the source may end the tree at home. */
static void finish(struct target *t)
{
	struct err err;

	if (record_filled(t->token, restore_root_pid(t->restore), &err) < 0)
		log_error("%s", err.text);
	if (lane_source_finish(t->lanes, t->lazy, FAREWELL_MS, &err) < 0)
		log_warn("%s", err.text); /* it will ask, and the record answers */
}

/* Is there nobody any more who could commit? What is on its way does not matter: see below. */
static bool source_is_gone(const struct target *t)
{
	struct pollfd pfd = {.fd = t->ch.in, .events = POLLRDHUP};

	return poll(&pfd, 1, 0) > 0 && (pfd.revents & (POLLHUP | POLLRDHUP | POLLERR));
}

/*
 * The restore may wait for a page, in the kernel, and does not see that the
 * source is gone. As long as BUILT was not said no commit can be on its way, nor ever
 * come: the tree will never run, and any page will do.
 */
static bool give_up(struct target *t)
{
	if (atomic_load(&t->built) || !source_is_gone(t))
		return false;
	log_warn("the source is gone before the tree was built");
	lazy_close(t->lazy);
	t->lazy = NULL;
	return true;
}

/* Until all tasks are announced, or there will be none. */
static void await_tasks(struct target *t)
{
	struct pollfd pfd = {.fd = t->fill_wake, .events = POLLIN};
	uint64_t word;

	while (!atomic_load(&t->fill_ready) && !atomic_load(&t->fill_stop)) {
		(void)poll(&pfd, 1, -1);
		(void)!read(t->fill_wake, &word, sizeof(word));
	}
}

static void *fill_main(void *arg)
{
	struct target *t = arg;
	bool started = false;
	uint64_t word;

	await_tasks(t);
	while (!atomic_load(&t->fill_stop) && !give_up(t)) {
		if (!started && atomic_load(&t->fill_go)) {
			lazy_start(t->lazy);
			started = true;
		}
		if (started && !lazy_left_pages(t->lazy)) {
			t->filled = true;
			finish(t);
			break;
		}
		if (lazy_step(t->lazy, t->fill_wake, -1, &t->fill_err) < 0) {
			t->fill_failed = true;
			break;
		}
		(void)!read(t->fill_wake, &word, sizeof(word));
	}
	return NULL;
}

static void wake_fill(struct target *t)
{
	uint64_t one = 1;

	(void)!write(t->fill_wake, &one, sizeof(one));
}

int target_fill_start(struct target *t, struct err *err)
{
	int no = thread_start(&t->fill_thread, fill_main, t);

	if (no)
		return err_sysno(err, no, "cannot start to fetch memory");
	t->filling = true;
	return 0;
}

/*
 * What the tree was at when it was frozen it will be at when it goes on: the rest of the stack near its end, and where
 * registers point to.
 */
static void prefer_in_use(struct lazy_space *sp, const UserX86RegsEntry *g)
{
	const uint64_t at[] = {g->bp, g->di,  g->si,  g->dx,  g->cx,  g->ax,  g->bx, g->r8,
			       g->r9, g->r10, g->r11, g->r12, g->r13, g->r14, g->r15};

	lazy_prefer(sp, g->sp, STACK_PAGES);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		lazy_prefer(sp, at[i], POINTED_PAGES);
}

/* What stayed at home of the task with this pid, and what has come in rounds. */
static int add_missing(struct target *t, struct lazy_space *sp, pid_t vpid, struct err *err)
{
	const struct snapshot *snap = restore_state(t->restore)->snap;

	vec_foreach (task, &snap->tasks) {
		const struct snap_pagemap *pm = (*task)->pagemap;

		if ((pid_t)(*task)->ps->pid != vpid || !pm)
			continue;
		vec_foreach (e, &pm->entries) {
			if (((*e)->flags & (PE_LAZY | PE_PRESENT)) != PE_LAZY)
				continue;
			if (lazy_missing(sp, (*e)->vaddr, (*e)->nr_pages, err) < 0)
				return -1;
			if ((*e)->flags & PE_PARENT && kept_add(t->kept, (lazy_object)vpid,
								(*e)->vaddr, (*e)->nr_pages, err) < 0)
				return -1;
		}
		for (size_t i = 0; i < (*task)->n_threads && i < PREFER_THREADS; i++)
			prefer_in_use(sp, (*task)->core[i]->thread_info->gpregs);
	}
	return 0;
}

/* For restore_lazy: the file of shared memory that stayed at home. */
static int announce_shared(void *arg, const struct snap_pagemap *pm, int fd, uint64_t bytes,
			   struct err *err)
{
	struct target *t = arg;
	struct lazy_space *sp = lazy_add_shared(t->lazy, LAZY_SHARED | (uint32_t)pm->id, fd, bytes,
						err);

	if (!sp)
		return -1;
	vec_foreach (e, &pm->entries) {
		if ((*e)->flags == PE_LAZY && lazy_missing(sp, (*e)->vaddr, (*e)->nr_pages, err) < 0)
			return -1;
	}
	return 0;
}

static int announce_areas(void *arg, int uffd, int pidfd, const struct lazy_area *areas, size_t n,
			  struct err *err)
{
	struct target *t = arg;

	return lazy_view_add(t->lazy, uffd, pidfd, areas, n, err);
}

/* For restore_lazy: each task comes once; with the last one its faults must be answered. */
static int announce(void *arg, pid_t vpid, pid_t pid, int uffd, struct err *err)
{
	struct target *t = arg;
	struct lazy_space *sp;

	if (uffd >= 0) {
		sp = lazy_add(t->lazy, (lazy_object)vpid, uffd,
			      (int)syscall(SYS_pidfd_open, pid, 0), err);
		if (!sp || add_missing(t, sp, vpid, err) < 0)
			return -1;
	}
	if (!vec_push(&t->announced, pid))
		return err_nomem(err);
	if (t->announced.n < restore_state(t->restore)->snap->tasks.n)
		return 0;
	atomic_store(&t->fill_ready, true);
	wake_fill(t);
	return 0;
}

int target_fill_open(struct target *t, struct err *err)
{
	t->guardian = guardian_start(GUARDIAN_KILL, err);
	if (!t->guardian)
		return -1;
	t->lazy = lazy_open(lane_source_base(t->lanes), t->guardian, err);
	if (!t->lazy)
		return -1;
	t->fill_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->fill_wake < 0)
		return err_sys(err, "eventfd");
	t->restore_lazy = (struct restore_lazy){.announce = announce,
						.shared = announce_shared,
						.shared_areas = announce_areas,
						.arg = t,
						.marked = t->kept != NULL,
						.parents = t->kept != NULL};
	t->restore_opt.lazy = &t->restore_lazy;
	return 0;
}

void target_fill_go(struct target *t)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

	/* the program's life hangs on this process now */
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	atomic_store(&t->fill_go, true);
	wake_fill(t);
}

static void join_fill(struct target *t)
{
	if (t->filling)
		pthread_join(t->fill_thread, NULL);
	t->filling = false;
}

void target_undo_fill(struct target *t)
{
	atomic_store(&t->fill_stop, true);
	if (t->filling)
		wake_fill(t);
	join_fill(t);
	lazy_close(t->lazy);
	t->lazy = NULL;
	guardian_end(t->guardian);
	t->guardian = NULL;
}

/* @here: pages that rounds had brought; [1]: those that a thread waited for. */
static int tell_drained(struct target *t, const uint64_t here[2], struct err *err)
{
	Wire__Drained msg = WIRE__DRAINED__INIT;
	struct lazy_stats st;

	lazy_stats(t->lazy, &st);
	log_info("all memory is here: %llu faults, p50 %llu us, p99 %llu us",
		 (unsigned long long)st.faults, (unsigned long long)st.fault_p50_ns / 1000,
		 (unsigned long long)st.fault_p99_ns / 1000);
	if (t->ch.broken)
		return 0;
	msg.faults = st.faults;
	msg.p50_ns = st.fault_p50_ns;
	msg.p99_ns = st.fault_p99_ns;
	msg.max_ns = st.fault_max_ns;
	msg.drain_ns = st.drain_ns;
	/* what has moved now; pages that a child of the program took may count in one of the two only */
	msg.urgent_pages = st.urgent_pages - MIN(here[1], st.urgent_pages);
	msg.bulk_pages = st.bulk_pages - MIN(here[0], st.bulk_pages);
	msg.gone_pages = st.gone_pages;
	msg.has_losses = true;
	msg.losses = st.losses;
	return channel_send(&t->ch, MSG_DRAINED, &msg.base, err);
}

int target_postcopy(struct target *t, struct err *err)
{
	uint64_t here[2];
	int rc;

	if (!t->filling)
		return 0;
	join_fill(t);
	if (t->fill_failed) {
		/* the guardian lives on and ends the tree when we end: no page of zeros must get in */
		log_error("%s", t->fill_err.text);
		*err = t->fill_err;
		return -1;
	}
	here[0] = lane_source_here_pages(t->lanes, false);
	here[1] = lane_source_here_pages(t->lanes, true);
	target_undo_lanes(t); /* so that ssh may end */
	rc = tell_drained(t, here, err);
	lazy_close(t->lazy);
	t->lazy = NULL;
	guardian_end(t->guardian);
	t->guardian = NULL;
	return rc;
}

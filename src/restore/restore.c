// SPDX-License-Identifier: Apache-2.0
/*
 * The order of things (session.h names the files that do them).
 */
#include "base/clock.h"
#include "restore/session.h"

#define LOG_MODULE "restore"
#include "base/log.h"
#include "base/timeline.h"
#include "kinds/broker.h"
#include "kinds/locks.h"
#include "kinds/memfd.h"
#include "mem/fill.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { KILL_TIMEOUT_MS = 10000, KILL_LOOK_MS = 5 };

struct restore_session *restore_open(struct store *store, const struct restore_options *opt,
				     struct err *err)
{
	struct restore_session *s = calloc(1, sizeof(*s));
	uint64_t at = timeline_now();

	if (!s) {
		err_nomem(err);
		return NULL;
	}
	s->opt = *opt;
	s->pidns_fd = s->ipc_fd = -1;
	s->mnt_fd = opt->ahead ? steal_fd(&opt->ahead->mnt_fd) : -1;
	s->mnt_way = MNTNS_HERE;
	s->r.opt = opt->kinds;
	s->r.store = store;
	s->r.snap = snapshot_load(store, err);
	timeline_span("images", at);
	if (s->r.snap && space_defer_parents(s, err) == 0 && vdso_find(&s->vdso, err) == 0 &&
	    plan_tree(s, err) == 0)
		return s;
	restore_close(s);
	return NULL;
}

struct restore *restore_state(struct restore_session *s)
{
	return &s->r;
}

/* ---- build ---- */

int scratch_make(struct restore_session *s, struct err *err)
{
	if (s->opt.ahead && s->opt.ahead->scratch) {
		s->scratch = steal_ptr(&s->opt.ahead->scratch);
		return 0;
	}
	s->scratch = mmap(NULL, FILL_SCRATCH_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->scratch == MAP_FAILED) {
		s->scratch = NULL;
		return err_nomem(err);
	}
	return 0;
}

static int make_slots(struct restore_session *s, struct err *err)
{
	root_take_ahead(s);
	if (region_create(s, err) < 0)
		return -1;
	vec_foreach (tp, &s->tasks)
		if (region_slots(s, *tp, err) < 0)
			return -1;
	vec_foreach (hp, &s->helpers)
		if (region_slots(s, *hp, err) < 0)
			return -1;
	return scratch_make(s, err);
}

static int open_files(struct restore_session *s, struct err *err)
{
	if (files_base(s, err) < 0 || ipc_build(s, err) < 0 || mounts_enter(s, err) < 0)
		return -1;
	if (!broker_create(&s->r, s->base_fd, err) || broker_open_all(s->r.broker, err) < 0)
		return -1;
	if (locks_restore_shared(&s->r, err) < 0)
		return -1;
	return files_open(s, err);
}

static int seal_memfds(struct restore_session *s, struct err *err)
{
	return memfd_seal_all(&s->r, err);
}

static const struct step {
	const char *name;
	int (*run)(struct restore_session *s, struct err *err);
} steps[] = {
	{"region", make_slots},
	{"open files", open_files},
	{"first task", root_create},
	{"tasks and memory", births_run},
	{"lazy memory", space_announce_rest},
	{"seals", seal_memfds},
	{"IPC namespace", ipc_finish},
	{"process groups", births_groups},
	{"zombies", births_deaths},
	{"descriptors", files_install},
	{"threads and state", threads_build},
	{"state from outside", threads_apply},
	{"stop", switch_stop},
	{"registers", switch_registers},
};

int restore_build(struct restore_session *s,
		  void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
		  struct err *err)
{
	uint64_t start, end, at;

	s->progress = progress;
	s->progress_arg = arg;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		start = clock_us();
		at = timeline_now();
		if (steps[i].run(s, err) < 0) {
			struct err later;

			if (mounts_leave(s, &later) < 0)
				log_error("%s", later.text);
			return -1;
		}
		end = clock_us();
		timeline_span(steps[i].name, at);
		log_info("%s: %llu us", steps[i].name, (unsigned long long)(end - start));
	}
	s->built = true;
	return 0;
}

pid_t restore_root_pid(const struct restore_session *s)
{
	return s->tasks.v[0]->pid;
}

pid_t restore_wait_pid(const struct restore_session *s)
{
	return s->init_pid ? s->init_pid : s->tasks.v[0]->pid;
}

/* Names that were only for the restore go, where the tree sees them. The tree runs: failure is only told. */
static void commit_files(struct restore_session *s)
{
	struct err err;

	if (mounts_enter(s, &err) == 0)
		broker_commit(s->r.broker);
	else
		log_warn("names that were made for the restore stay: %s", err.text);
	if (mounts_leave(s, &err) < 0)
		log_error("%s", err.text);
}

int restore_commit(struct restore_session *s, struct err *err)
{
	if (!s->built)
		return err_set(err, EINVAL, "nothing was built");
	s->committed = true;
	if (switch_go(s, err) < 0)
		return -1;
	commit_files(s);
	return 0;
}

/* ---- close ---- */

/* Its other threads are ours to reap, as we trace them; a process has not ended before. */
static bool has_ended(const struct rtask *t, int wait_ms)
{
	struct pollfd p = {.fd = t->pidfd, .events = POLLIN};

	for (size_t i = 0; i < t->n_slots; i++)
		if (t->slots[i]->tid > 0 && t->slots[i]->tid != t->pid)
			(void)!waitpid(t->slots[i]->tid, NULL, __WALL | WNOHANG);
	return poll(&p, 1, wait_ms) > 0;
}

static void kill_and_wait(struct rtask *t)
{
	uint64_t end_ms = clock_ms() + KILL_TIMEOUT_MS;

	if (t->pid <= 0)
		return;
	kill(t->pid, SIGKILL);
	while (t->pidfd >= 0 && !has_ended(t, KILL_LOOK_MS) && clock_ms() < end_ms)
		;
	/* as its tracer, and as its parent if it is ours */
	while (waitpid(t->pid, NULL, __WALL | WNOHANG) < 0 && errno == EINTR)
		;
}

/* Parents last: a task that is a zombie already needs its tracer to be reaped by them. */
void session_kill(struct restore_session *s)
{
	for (size_t i = s->tasks.n; i-- > 0;)
		if (s->tasks.v[i]->pid > 0)
			kill(s->tasks.v[i]->pid, SIGKILL);
	for (size_t i = s->helpers.n; i-- > 0;)
		kill_and_wait(s->helpers.v[i]);
	for (size_t i = s->tasks.n; i-- > 0;)
		kill_and_wait(s->tasks.v[i]);
	if (s->init_pid > 0) {
		kill(s->init_pid, SIGKILL);
		while (waitpid(s->init_pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
}

static void close_pidfds(struct restore_session *s)
{
	vec_foreach (tp, &s->tasks)
		if ((*tp)->pidfd >= 0)
			close((*tp)->pidfd);
	vec_foreach (hp, &s->helpers)
		if ((*hp)->pidfd >= 0)
			close((*hp)->pidfd);
	if (s->pidns_fd >= 0)
		close(s->pidns_fd);
	if (s->ipc_fd >= 0)
		close(s->ipc_fd);
	if (s->mnt_fd >= 0)
		close(s->mnt_fd);
}

void restore_close(struct restore_session *s)
{
	if (!s)
		return;
	if (!s->committed)
		session_kill(s);
	close_pidfds(s);
	region_destroy(s);
	files_close(s);
	broker_close(s->r.broker);
	if (s->scratch)
		munmap(s->scratch, FILL_SCRATCH_BYTES);
	vec_free(&s->tasks);
	vec_free(&s->helpers);
	arena_free(&s->arena);
	snapshot_free(s->r.snap);
	free(s);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A tree of one task, faked out of descriptors of the test process: capture
 * kinds see it as capture/fds.c would show it, the snapshot they fill is opened
 * again by the real broker.
 */
#ifndef FERRY_TESTS_FDWORLD_H
#define FERRY_TESTS_FDWORLD_H

#include "base/io.h"
#include "kinds/broker.h"
#include "kinds/kind.h"
#include "unit.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORLD_MAX = 32, WORLD_BASE_FD = 300 };

struct world {
	struct kind_options opt;
	struct capture c;
	struct restore r;
	struct task_facts task;
	struct snap_task *snap_task;
	struct fd_facts facts[WORLD_MAX];
	char *text[2 * WORLD_MAX];
	size_t n;
	struct err err;
};

static inline void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->c.snap = snapshot_create(&w->err);
	assert_non_null(w->c.snap);
	w->c.opt = &w->opt;
	w->task.pid = w->task.vpid = getpid();
	assert_true(vec_push(&w->c.tasks, &w->task));
	w->snap_task = arena_new(&w->c.snap->arena, struct snap_task);
	assert_non_null(w->snap_task);
	w->snap_task->ps = snap_new(w->c.snap, PstreeEntry, pstree_entry);
	w->snap_task->ps->pid = w->snap_task->ps->pgid = w->snap_task->ps->sid = (uint32_t)getpid();
	w->task.snap = w->snap_task;
	assert_true(vec_push(&w->c.snap->tasks, w->snap_task));
}

static inline void world_finish(struct world *w)
{
	broker_close(w->r.broker);
	for (size_t i = 0; i < w->n; i++) {
		if (w->facts[i].own >= 0)
			close(w->facts[i].own);
		vec_free(&w->facts[i].holders);
	}
	for (size_t i = 0; i < ARRAY_SIZE(w->text); i++)
		free(w->text[i]);
	vec_free(&w->c.fds);
	vec_free(&w->c.tasks);
	snapshot_free(w->c.snap);
}

/* Adds a descriptor to the tree; returns its file id. */
static inline uint32_t world_add(struct world *w, int fd)
{
	struct fd_facts *f = &w->facts[w->n];
	char link[4096];
	uint64_t flags;

	assert_true(w->n < WORLD_MAX);
	f->id = ++w->c.last_file_id;
	f->own = fcntl(fd, F_DUPFD_CLOEXEC, 200);
	assert_true(f->own >= 0);
	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/fd/%d", fd), 0);
	w->text[2 * w->n] = strdup(link);
	assert_int_equal(io_read_filef(&w->text[2 * w->n + 1], NULL, "/proc/self/fdinfo/%d", fd), 0);
	f->link = w->text[2 * w->n];
	f->info = w->text[2 * w->n + 1];
	assert_int_equal(fstat(fd, &f->st), 0);
	assert_true(fdinfo_u64(f->info, "flags", 8, &flags));
	f->flags = (uint32_t)flags & ~(uint32_t)O_CLOEXEC;
	for (const struct fd_kind *const *k = fd_kinds; *k && !f->kind; k++)
		if ((*k)->claims(&w->c, f))
			f->kind = *k;
	assert_non_null(f->kind);
	assert_true(vec_push(&f->holders, (struct fd_holder){.pid = getpid(), .fd = fd}));
	assert_true(vec_push(&w->c.fds, f));
	w->n++;
	return f->id;
}

/* allowed() and capture() of everything; -1 at the first error (w->err). */
static inline int world_capture(struct world *w)
{
	for (size_t i = 0; i < w->n; i++) {
		struct fd_facts *f = &w->facts[i];
		FdinfoEntry *fdi = snap_new(w->c.snap, FdinfoEntry, fdinfo_entry);

		if (f->kind->allowed && f->kind->allowed(&w->c, f, &w->err))
			return -1;
		if (f->kind->capture(&w->c, f, &w->err))
			return -1;
		fdi->id = f->id;
		fdi->type = f->kind->type;
		fdi->fd = (uint32_t)f->holders.v[0].fd;
		assert_true(vec_push(&w->snap_task->fds, fdi));
	}
	return 0;
}

/* What happens to a tree that is killed: every descriptor is closed, ours too. */
static inline void world_kill(struct world *w)
{
	for (size_t i = 0; i < w->n; i++) {
		close(w->facts[i].holders.v[0].fd);
		close(w->facts[i].own);
		w->facts[i].own = -1;
		if (w->facts[i].kind->drop)
			w->facts[i].kind->drop(&w->c, &w->facts[i]);
	}
}

static inline int world_check(struct world *w)
{
	w->r.snap = w->c.snap;
	w->r.opt = &w->opt;
	return broker_check(&w->r, &w->err);
}

static inline int world_restore(struct world *w)
{
	struct broker *b;

	if (world_check(w))
		return -1;
	b = broker_create(&w->r, WORLD_BASE_FD, &w->err);
	return b ? broker_open_all(b, &w->err) : -1;
}

static inline int world_fd(struct world *w, uint32_t id)
{
	int fd = broker_fd(&w->r, id, &w->err);

	assert_true(fd >= WORLD_BASE_FD);
	return fd;
}

/* Asserts success, showing the error text. */
#define world_ok(w, call)                                         \
	do {                                                      \
		if (call)                                         \
			fail_msg("%s: %s", #call, (w)->err.text); \
	} while (0)

#define world_refuses(w, call, part)                                                      \
	do {                                                                              \
		assert_int_equal((call), -1);                                             \
		if (!strstr((w)->err.text, part))                                         \
			fail_msg("error text \"%s\" has no \"%s\"", (w)->err.text, part); \
	} while (0)

#endif

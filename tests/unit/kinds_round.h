// SPDX-License-Identifier: Apache-2.0
/*
 * A round trip of descriptors within the test program: it plays the frozen
 * task (its own descriptors are captured) and the restored one (what emit()
 * appends is executed on the spot). So every kind is tested in both directions
 * without capture/ and restore/.
 */
#ifndef FERRY_TESTS_KINDS_ROUND_H
#define FERRY_TESTS_KINDS_ROUND_H

#include "unit.h"

#include "base/io.h"
#include "kinds/broker.h"
#include "kinds/kind.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

struct round {
	struct capture c;
	struct restore r;
	struct kind_options opt;
	struct err err;
	struct task_facts task;
	struct thread_facts thread;
	struct snap_task *snap_task;
	struct script script;
	uint8_t script_bytes[64 * 1024];
};

enum { ROUND_BROKER_BASE = 600 };

static inline void round_start(struct round *t)
{
	memset(t, 0, sizeof(*t));
	t->c.snap = snapshot_create(&t->err);
	assert_non_null(t->c.snap);
	t->opt.ghost_limit = 1 << 20;
	t->c.opt = t->r.opt = &t->opt;
	t->thread = (struct thread_facts){.tid = getpid(), .vtid = getpid()};
	t->task = (struct task_facts){.pid = getpid(),
				      .vpid = getpid(),
				      .threads = &t->thread,
				      .n_threads = 1};
	assert_true(vec_push(&t->c.tasks, &t->task));
	t->snap_task = arena_new(&t->c.snap->arena, struct snap_task);
	t->snap_task->ps = snap_new(t->c.snap, PstreeEntry, pstree_entry);
	t->snap_task->ids = snap_new(t->c.snap, TaskKobjIdsEntry, task_kobj_ids_entry);
	t->snap_task->ps->pid = (uint32_t)getpid();
	assert_true(vec_push(&t->c.snap->tasks, t->snap_task));
	script_init(&t->script, t->script_bytes, (uint64_t)(uintptr_t)t->script_bytes,
		    sizeof(t->script_bytes));
}

static inline void round_free_facts(struct fd_facts *f)
{
	close(f->own);
	free((char *)f->link);
	free((char *)f->info);
	vec_free(&f->holders);
	free(f);
}

static inline void round_end(struct round *t)
{
	broker_close(t->r.broker);
	vec_foreach (f, &t->c.fds)
		round_free_facts(*f);
	vec_foreach (s, &t->c.shmem)
		close(s->fd);
	vec_free(&t->c.shmem);
	vec_free(&t->c.fds);
	vec_free(&t->c.tasks);
	vec_free(&t->snap_task->fds);
	snapshot_free(t->c.snap);
}

/* The facts of one of our own descriptors, as capture/fds.c gathers them. */
static inline struct fd_facts *round_add(struct round *t, int fd)
{
	struct fd_facts *f = calloc(1, sizeof(*f));
	char link[4096];
	struct statfs fs;
	uint64_t v;

	f->id = capture_next_file_id(&t->c);
	f->own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	assert_true(f->own >= 0);
	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/fd/%d", fd), 0);
	f->link = strdup(link);
	assert_int_equal(io_read_filef((char **)&f->info, NULL, "/proc/self/fdinfo/%d", fd), 0);
	assert_int_equal(fstat(fd, &f->st), 0);
	f->fs_magic = fstatfs(fd, &fs) ? 0 : (long)fs.f_type;
	assert_true(fdinfo_u64(f->info, "flags", 8, &v));
	f->flags = (uint32_t)v & ~(uint32_t)O_CLOEXEC;
	assert_true(fdinfo_u64(f->info, "pos", 10, &f->pos));
	assert_true(fdinfo_u64(f->info, "mnt_id", 10, &v));
	f->mnt_id = (int)v;
	assert_true(vec_push(&f->holders, (struct fd_holder){.pid = getpid(), .fd = fd}));
	for (const struct fd_kind *const *k = fd_kinds; *k && !f->kind; k++)
		if ((*k)->claims(&t->c, f))
			f->kind = *k;
	assert_non_null(f->kind);
	assert_true(vec_push(&t->c.fds, f));
	return f;
}

static inline int round_allowed(struct round *t, struct fd_facts *f)
{
	return f->kind->allowed ? f->kind->allowed(&t->c, f, &t->err) : 0;
}

static inline void round_check_ok(struct round *t, int rc)
{
	if (rc)
		fprintf(stderr, "# %s\n", t->err.text);
	assert_int_equal(rc, 0);
}

static inline void round_capture(struct round *t)
{
	vec_foreach (it, &t->c.fds) {
		struct fd_facts *f = *it;
		FdinfoEntry *fdi = snap_new(t->c.snap, FdinfoEntry, fdinfo_entry);

		round_check_ok(t, round_allowed(t, f));
		round_check_ok(t, f->kind->capture(&t->c, f, &t->err));
		fdi->id = f->id;
		fdi->type = f->kind->type;
		fdi->fd = (uint32_t)f->holders.v[0].fd;
		assert_true(vec_push(&t->snap_task->fds, fdi));
	}
}

/* Executes what emit() appended. */
static inline void round_run(struct round *t)
{
	const struct blob_op *op = (const struct blob_op *)(const void *)t->script_bytes;

	assert_false(t->script.overflow);
	for (unsigned int i = 0; i < t->script.n_ops; i++, op++) {
		long rc = syscall(op->nr, op->arg[0], op->arg[1], op->arg[2], op->arg[3],
				  op->arg[4], op->arg[5]);

		if (rc < 0)
			fprintf(stderr, "# %s: %s\n", t->script.label[i], strerror(errno));
		assert_true(rc >= 0);
	}
}

static inline int round_try_restore(struct round *t)
{
	t->r.snap = t->c.snap;
	if (broker_check(&t->r, &t->err) || !broker_create(&t->r, ROUND_BROKER_BASE, &t->err))
		return -1;
	return broker_open_all(t->r.broker, &t->err);
}

/* The restored descriptor of a captured one; the broker's. */
static inline int round_fd(struct round *t, const struct fd_facts *f)
{
	int fd = broker_fd(&t->r, f->id, &t->err);

	round_check_ok(t, fd < 0 ? -1 : 0);
	return fd;
}

static inline void round_restore(struct round *t)
{
	round_check_ok(t, round_try_restore(t));
	vec_foreach (it, &t->c.fds) {
		const struct fd_facts *f = *it;
		struct fd_place place = {.task = t->snap_task, .fd = round_fd(t, f), .first = true};

		if (f->kind->emit)
			round_check_ok(t, f->kind->emit(&t->r, snapshot_file(t->c.snap, f->id),
							&place, &t->script, &t->err));
	}
	round_run(t);
}

static inline uint32_t round_flags(int fd)
{
	cleanup_free char *info = NULL;
	uint64_t v = 0;

	assert_int_equal(io_read_filef(&info, NULL, "/proc/self/fdinfo/%d", fd), 0);
	assert_true(fdinfo_u64(info, "flags", 8, &v));
	return (uint32_t)v & ~(uint32_t)O_CLOEXEC;
}

/* A scratch directory for one test program; removed with all in it by round_rmdir. */
static inline void round_mkdir(char path[64])
{
	strcpy(path, "/tmp/ferry-test-kinds-XXXXXX");
	assert_non_null(mkdtemp(path));
}

static inline void round_rmdir(const char *path)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", path);
	assert_int_equal(system(cmd), 0);
}

/* ---- what a program of such tests has: one round at a time, and a folder ---- */

static char dir[64];
static struct round t;

static int make_dir(void **state)
{
	round_mkdir(dir);
	return 0;
}

static int remove_dir(void **state)
{
	round_rmdir(dir);
	return 0;
}

static int setup(void **state)
{
	round_start(&t);
	return 0;
}

static int teardown(void **state)
{
	round_end(&t);
	return 0;
}

#endif

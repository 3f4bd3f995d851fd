// SPDX-License-Identifier: Apache-2.0
#include "migrate/home.h"

#include "base/io.h"
#include "kernel/proc.h"
#include "migrate/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define HOME_SUFFIX ".home"
#define HOME_MAGIC "ferryho2"

/* The file is for this machine and this boot: plain structs. */
struct home_head {
	char magic[8];
	uint32_t n_tasks, n_spaces;
	char host[256];
};

struct home_task {
	int32_t pid, stop;
	uint64_t start_time;
};

struct home_space {
	uint64_t name;
	int32_t pid, unused;
	uint64_t start, end; /* the mapping of shared memory; 0: a task */
	uint64_t n_ranges;
};

enum { MAX_TASKS = 1 << 20, MAX_RANGES = 1 << 26 };

static uint64_t start_time_of(pid_t pid)
{
	struct proc_stat st;
	struct err ignored;

	return proc_stat(pid, &st, &ignored) == 0 && st.state != 'Z' ? st.start_time : 0;
}

/* ---- writing ---- */

static bool put(FILE *f, const void *data, size_t bytes)
{
	return fwrite(data, 1, bytes, f) == bytes;
}

static bool write_tasks(FILE *f, const kept_tasks *tasks)
{
	vec_foreach (t, tasks) {
		struct home_task task = {.pid = t->pid,
					 .stop = t->stop,
					 .start_time = start_time_of(t->pid)};

		if (!put(f, &task, sizeof(task)))
			return false;
	}
	return true;
}

/* Counts them in *n_out. */
static int write_spaces(FILE *f, const struct serve *serve, uint32_t *n_out, struct err *err)
{
	mem_ranges ranges = {0};
	struct serve_file e;
	int rc = 0;

	for (size_t i = 0; serve && (rc = serve_entry(serve, i, &e, &ranges, err)) > 0; i++) {
		struct home_space space = {.name = e.name,
					   .pid = e.pid,
					   .start = e.start,
					   .end = e.end,
					   .n_ranges = ranges.n};

		if (!put(f, &space, sizeof(space)) ||
		    !put(f, ranges.v, ranges.n * sizeof(*ranges.v))) {
			rc = err_sys(err, "cannot write the record of the migration");
			break;
		}
		++*n_out;
		ranges.n = 0;
	}
	vec_free(&ranges);
	return rc;
}

static int write_all(FILE *f, const char *host, const kept_tasks *tasks, const struct serve *serve,
		     struct err *err)
{
	struct home_head head = {.n_tasks = (uint32_t)tasks->n};

	memcpy(head.magic, HOME_MAGIC, sizeof(head.magic));
	snprintf(head.host, sizeof(head.host), "%s", host);
	if (!put(f, &head, sizeof(head)) || !write_tasks(f, tasks))
		return err_sys(err, "cannot write the record of the migration");
	if (write_spaces(f, serve, &head.n_spaces, err) < 0)
		return -1;
	rewind(f);
	if (!put(f, &head, sizeof(head)) || fflush(f) != 0)
		return err_sys(err, "cannot write the record of the migration");
	return 0;
}

int home_write(const char *token, const char *host, const kept_tasks *tasks,
	       const struct serve *serve, struct err *err)
{
	cleanup_close int dirfd = record_directory(err);
	cleanup_close int fd = -1;
	char name[RECORD_NAME_BYTES];
	FILE *f;
	int rc;

	if (dirfd < 0)
		return -1;
	record_name(token, HOME_SUFFIX, name);
	fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return err_sys(err, "cannot make the record of the migration");
	f = fdopen(dup(fd), "w");
	if (!f)
		return err_sys(err, "cannot write the record of the migration");
	rc = write_all(f, host, tasks, serve, err);
	fclose(f);
	return rc < 0 ? -1 : steal_fd(&fd);
}

void home_remove(const char *token)
{
	record_remove_file(token, HOME_SUFFIX);
}

/* ---- reading ---- */

static int damaged(struct err *err)
{
	return err_set(err, EINVAL, "the record of the migration cannot be read");
}

static int read_tasks(struct home *h, uint32_t n, struct err *err)
{
	struct home_task task;

	for (uint32_t i = 0; i < n; i++) {
		if (io_read_full(h->fd, &task, sizeof(task)) < 0)
			return damaged(err);
		if (!task.start_time || start_time_of(task.pid) != task.start_time)
			continue;
		if (!vec_push(&h->tasks, (struct kept_task){.pid = task.pid, .stop = task.stop}))
			return err_nomem(err);
	}
	return 0;
}

static int read_space(struct home *h, struct err *err)
{
	struct home_space space;
	mem_ranges ranges = {0};

	if (io_read_full(h->fd, &space, sizeof(space)) < 0 || space.n_ranges > MAX_RANGES)
		return damaged(err);
	for (uint64_t i = 0; i < space.n_ranges; i++) {
		struct mem_range r;

		if (io_read_full(h->fd, &r, sizeof(r)) < 0 || !vec_push(&ranges, r)) {
			vec_free(&ranges);
			return damaged(err);
		}
	}
	if (!space.end)
		return serve_add(h->serve, (pid_t)space.name, space.pid, &ranges, err);
	return serve_add_file(h->serve,
			      &(struct serve_file){space.name, space.pid, space.start, space.end},
			      &ranges, err);
}

static int read_home(struct home *h, struct err *err)
{
	struct home_head head;

	if (io_read_full(h->fd, &head, sizeof(head)) < 0 ||
	    memcmp(head.magic, HOME_MAGIC, sizeof(head.magic)) != 0 || head.n_tasks > MAX_TASKS ||
	    head.n_spaces > MAX_TASKS)
		return damaged(err);
	snprintf(h->host, sizeof(h->host), "%.*s", (int)sizeof(head.host) - 1, head.host);
	if (read_tasks(h, head.n_tasks, err) < 0)
		return -1;
	if (!h->tasks.n) {
		home_remove(h->token);
		return err_set(err, ESRCH, "no process of that migration is left here");
	}
	if (!head.n_spaces)
		return 0;
	h->serve = serve_create(err);
	for (uint32_t i = 0; h->serve && i < head.n_spaces; i++) {
		if (read_space(h, err) < 0)
			return -1;
	}
	return h->serve ? 0 : -1;
}

/* Opens and locks the record in @h->token: 1; 0: there is none; -1. */
static int lock_home(int dirfd, struct home *h, struct err *err)
{
	char name[RECORD_NAME_BYTES];

	record_name(h->token, HOME_SUFFIX, name);
	h->fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (h->fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, "cannot open the record of the migration");
	if (flock(h->fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(err, EBUSY, "that migration is under way");
	return 1;
}

/* Is @pid the root in the record of this name? */
static bool has_root(int dirfd, const char *name, pid_t pid)
{
	cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct home_head head;
	struct home_task root;

	return fd >= 0 && io_read_full(fd, &head, sizeof(head)) == 0 && head.n_tasks &&
	       io_read_full(fd, &root, sizeof(root)) == 0 && root.pid == pid &&
	       root.start_time == start_time_of(pid);
}

/* The token of the record of the tree of @pid. */
static int find_token(int dirfd, pid_t pid, char token_out[WIRE_TOKEN_CHARS + 1], struct err *err)
{
	cleanup_dir DIR *d = fdopendir(dup(dirfd));
	const struct dirent *e;

	while (d && (e = readdir(d))) {
		size_t len = strlen(e->d_name);

		if (len != WIRE_TOKEN_CHARS + strlen(HOME_SUFFIX) ||
		    strcmp(e->d_name + WIRE_TOKEN_CHARS, HOME_SUFFIX) != 0 ||
		    !has_root(dirfd, e->d_name, pid))
			continue;
		snprintf(token_out, WIRE_TOKEN_CHARS + 1, "%.*s", WIRE_TOKEN_CHARS, e->d_name);
		return 0;
	}
	return err_set(err, ENOENT, "there is no unfinished migration of pid %d here", pid);
}

int home_open(const char *token_or_pid, struct home *out, struct err *err)
{
	cleanup_close int dirfd = record_directory(err);
	int rc;

	*out = (struct home){.fd = -1};
	if (dirfd < 0)
		return -1;
	if (wire_token_valid(token_or_pid))
		snprintf(out->token, sizeof(out->token), "%s", token_or_pid);
	else if (find_token(dirfd, (pid_t)strtol(token_or_pid, NULL, 10), out->token, err) < 0)
		return -1;
	rc = lock_home(dirfd, out, err);
	if (rc == 0)
		rc = err_set(err, ENOENT, "there is no unfinished migration %s here", out->token);
	if (rc > 0)
		rc = read_home(out, err);
	if (rc < 0)
		home_close(out);
	return rc;
}

void home_close(struct home *h)
{
	serve_free(h->serve);
	vec_free(&h->tasks);
	if (h->fd >= 0)
		close(h->fd);
	*h = (struct home){.fd = -1};
}

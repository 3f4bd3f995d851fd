// SPDX-License-Identifier: Apache-2.0
#include "mem/serve.h"

#include "base/io.h"
#include "mem/fill.h"
#include "mem/read.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>

struct kept_range {
	uint64_t start, end;
	uint64_t first; /* number of its first page, in the bits of the task */
};

struct kept_memory {
	struct serve_file what; /* a task has no mapping */
	int pidfd;
	int file; /* of shared memory; -1: none */
	struct task_memory mem;
	const struct snap_pagemap *pm; /* not NULL: out of the images of @store, there is no task */
	struct store *store;
	VEC(struct kept_range) ranges;
	uint64_t pages;
	uint64_t *handed; /* one bit per page */
};

struct serve {
	VEC(struct kept_memory) tasks;
	uint64_t pages, left;
};

struct serve *serve_create(struct err *err)
{
	struct serve *s = calloc(1, sizeof(*s));

	if (!s)
		err_nomem(err);
	return s;
}

static void forget(struct kept_memory *t)
{
	task_memory_close(&t->mem);
	if (t->pidfd >= 0)
		close(t->pidfd);
	if (t->file >= 0)
		close(t->file);
	vec_free(&t->ranges);
	free(t->handed);
}

void serve_free(struct serve *s)
{
	if (!s)
		return;
	vec_foreach (t, &s->tasks)
		forget(t);
	vec_free(&s->tasks);
	free(s);
}

static int keep_ranges(struct kept_memory *t, const mem_ranges *lazy, struct err *err)
{
	vec_foreach (r, lazy) {
		if (!vec_push(&t->ranges, (struct kept_range){r->start, r->end, t->pages}))
			return err_nomem(err);
		t->pages += (r->end - r->start) / PAGE_BYTES;
	}
	t->handed = calloc(t->pages / 64 + 1, sizeof(*t->handed));
	return t->handed ? 0 : err_nomem(err);
}

/* @t is complete, unless @rc says that it could not be: then, too, what it holds is taken from the caller. */
static int enlist(struct serve *s, struct kept_memory *t, int rc, struct err *err)
{
	if (rc == 0 && !vec_push(&s->tasks, *t))
		rc = err_nomem(err);
	if (rc < 0) {
		forget(t);
		return -1;
	}
	s->pages += t->pages;
	s->left += t->pages;
	return 0;
}

int serve_add(struct serve *s, pid_t vpid, pid_t pid, mem_ranges *lazy, struct err *err)
{
	struct kept_memory t = {.what = {.name = (uint64_t)vpid, .pid = pid},
				.pidfd = (int)syscall(SYS_pidfd_open, pid, 0),
				.file = -1,
				.mem = {.pid = pid, .mem = -1, .pagemap = -1}};
	int rc = keep_ranges(&t, lazy, err);

	vec_free(lazy);
	if (rc == 0 && t.pidfd < 0)
		rc = err_sys(err, "pid %d: pidfd_open", pid);
	if (rc == 0)
		rc = task_memory_open(&t.mem, pid, err);
	return enlist(s, &t, rc, err);
}

int serve_add_file(struct serve *s, const struct serve_file *file, mem_ranges *lazy, struct err *err)
{
	struct kept_memory t = {.what = *file,
				.pidfd = -1, /* the descriptor keeps it */
				.file = io_openf(O_RDONLY, "/proc/%d/map_files/%llx-%llx",
						 file->pid, (unsigned long long)file->start,
						 (unsigned long long)file->end),
				.mem = {.mem = -1, .pagemap = -1}};
	int rc = keep_ranges(&t, lazy, err);

	vec_free(lazy);
	if (rc == 0 && t.file < 0)
		rc = err_sys(err, "pid %d: cannot open the shared memory at 0x%llx", file->pid,
			     (unsigned long long)file->start);
	return enlist(s, &t, rc, err);
}

/* What of a pagemap may come later. */
static int lazy_ranges(const struct snap_pagemap *pm, mem_ranges *out, struct err *err)
{
	char name[64];

	vec_foreach (ep, &pm->entries) {
		const PagemapEntry *e = *ep;

		if (!(e->flags & PE_LAZY))
			continue;
		if (!(e->flags & (PE_PRESENT | PE_PARENT)))
			return err_set(err, ENOENT,
				       "%s: the pages at 0x%llx were left at the source of the dump",
				       snapshot_pagemap_name(pm, name), (unsigned long long)e->vaddr);
		if (mem_ranges_push(out, e->vaddr, e->vaddr + e->nr_pages * PAGE_BYTES, err))
			return -1;
	}
	return 0;
}

int serve_add_image(struct serve *s, const struct snap_pagemap *pm, struct store *store,
		    struct err *err)
{
	struct kept_memory t = {.what = {.name = pm->id},
				.pidfd = -1,
				.file = -1,
				.mem = {.mem = -1, .pagemap = -1},
				.pm = pm,
				.store = store};
	mem_ranges lazy = {0};
	int rc = lazy_ranges(pm, &lazy, err);

	if (rc == 0)
		rc = keep_ranges(&t, &lazy, err);
	vec_free(&lazy);
	return enlist(s, &t, rc, err);
}

int serve_entry(const struct serve *s, size_t i, struct serve_file *out, mem_ranges *ranges,
		struct err *err)
{
	if (i >= s->tasks.n)
		return 0;
	*out = s->tasks.v[i].what;
	vec_foreach (r, &s->tasks.v[i].ranges) {
		if (!vec_push(ranges, (struct mem_range){r->start, r->end}))
			return err_nomem(err);
	}
	return 1;
}

static struct kept_memory *find_task(const struct serve *s, uint64_t name)
{
	vec_foreach (t, &s->tasks) {
		if (t->what.name == name)
			return t;
	}
	return NULL;
}

bool serve_knows(const struct serve *s, uint64_t name)
{
	return find_task(s, name) != NULL;
}

/* The range that holds @vaddr, or NULL. */
static const struct kept_range *find_range(const struct kept_memory *t, uint64_t vaddr)
{
	size_t low = 0, high = t->ranges.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct kept_range *r = &t->ranges.v[mid];

		if (vaddr < r->start)
			high = mid;
		else if (vaddr >= r->end)
			low = mid + 1;
		else
			return r;
	}
	return NULL;
}

uint64_t serve_run(const struct serve *s, uint64_t name, uint64_t vaddr)
{
	const struct kept_memory *t = find_task(s, name);
	const struct kept_range *r = t && vaddr % PAGE_BYTES == 0 ? find_range(t, vaddr) : NULL;

	return r ? (r->end - vaddr) / PAGE_BYTES : 0;
}

/* The file may end within the last page. */
static int read_file(const struct kept_memory *t, uint64_t off, uint8_t *buf, uint64_t bytes,
		     struct err *err)
{
	uint64_t have = 0;
	ssize_t n;

	while (have < bytes) {
		n = pread(t->file, buf + have, bytes - have, (off_t)(off + have));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, "cannot read shared memory at offset 0x%llx",
				       (unsigned long long)(off + have));
		if (n == 0)
			break;
		have += (uint64_t)n;
	}
	memset(buf + have, 0, bytes - have);
	return 0;
}

int serve_read(const struct serve *s, uint64_t name, uint64_t vaddr, uint64_t n, void *buf,
	       struct err *err)
{
	const struct kept_memory *t = find_task(s, name);

	if (!t || n == 0 || serve_run(s, name, vaddr) < n)
		return err_set(err, EINVAL, "pid %llu: %llu pages at %llx are not kept",
			       (unsigned long long)name, (unsigned long long)n,
			       (unsigned long long)vaddr);
	if (t->file >= 0)
		return read_file(t, vaddr, buf, n * PAGE_BYTES, err);
	if (!t->pm)
		return task_memory_read(&t->mem, vaddr, buf, n * PAGE_BYTES, err);
	switch (pagemap_read(t->store, t->pm, vaddr, buf, n * PAGE_BYTES, err)) {
	case 1:
		return 0;
	case 0:
		return err_set(err, EINVAL, "pid %llu: the images have no page at 0x%llx",
			       (unsigned long long)name, (unsigned long long)vaddr);
	default:
		return -1;
	}
}

int serve_check(const struct serve *s, struct err *err)
{
	vec_foreach (t, &s->tasks) {
		struct pollfd ended = {.fd = t->pidfd, .events = POLLIN};

		if (poll(&ended, 1, 0) > 0)
			return err_set(err, ESRCH, "pid %d was killed, and its memory is gone",
				       t->mem.pid);
	}
	return 0;
}

void serve_done(struct serve *s, uint64_t name, uint64_t vaddr, uint64_t n)
{
	struct kept_memory *t = find_task(s, name);
	const struct kept_range *r = t ? find_range(t, vaddr) : NULL;
	uint64_t i, end;

	if (!r)
		return;
	i = r->first + (vaddr - r->start) / PAGE_BYTES;
	end = MIN(i + n, r->first + (r->end - r->start) / PAGE_BYTES);
	for (; i < end; i++) {
		uint64_t bit = 1ULL << (i % 64);

		if (!(__atomic_fetch_or(&t->handed[i / 64], bit, __ATOMIC_RELAXED) & bit))
			__atomic_fetch_sub(&s->left, 1, __ATOMIC_RELAXED);
	}
}

uint64_t serve_pages(const struct serve *s)
{
	return s->pages;
}

uint64_t serve_left(const struct serve *s)
{
	return __atomic_load_n(&s->left, __ATOMIC_RELAXED);
}

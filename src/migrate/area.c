// SPDX-License-Identifier: Apache-2.0
/*
 * A sparse memfd for each task, in which the offset of a page is its address;
 * and a pagemap image for it with one entry, over all addresses. Which pages have come is noted in bits
 * (SEEK_HOLE would look at every page up to the next hole); one that never came is an error for whoever asks.
 */
#include "migrate/area.h"

#include "base/io.h"
#include "base/map.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define ADDRESS_END 0x7ffffffff000UL

enum { BLOCK_PAGES = 512, BLOCK_WORDS = BLOCK_PAGES / 64 };

struct area_task {
	int fd;
	struct map blocks; /* number of a block of pages: a bit for each, that it has come */
};

struct area_store {
	struct store store;
	struct store *images;        /* the pagemaps */
	VEC(struct area_task) tasks; /* of the pages id i + 1 */
	struct map ids;              /* pid: pages id */
};

static struct area_store *of(struct store *s)
{
	return (struct area_store *)s;
}

/* NULL: there is none. */
static struct area_task *task_of(const struct area_store *a, uint32_t pages_id)
{
	return pages_id && pages_id <= a->tasks.n ? &a->tasks.v[pages_id - 1] : NULL;
}

static struct area_task *task_for(const struct area_store *a, uint64_t pid)
{
	return task_of(a, (uint32_t)(uintptr_t)map_get(&a->ids, pid));
}

/* Notes that pages have come. */
static int note(struct area_task *t, uint64_t vaddr, size_t bytes, struct err *err)
{
	uint64_t *block;

	for (uint64_t page = vaddr / PAGE_BYTES, n = bytes / PAGE_BYTES; n; page++, n--) {
		block = map_get(&t->blocks, page / BLOCK_PAGES);
		if (!block) {
			block = calloc(BLOCK_WORDS, sizeof(*block));
			if (!block || !map_set(&t->blocks, page / BLOCK_PAGES, block)) {
				free(block);
				return err_nomem(err);
			}
		}
		block[page % BLOCK_PAGES / 64] |= 1ULL << page % 64;
	}
	return 0;
}

static bool have_come(const struct area_task *t, uint64_t vaddr, size_t bytes)
{
	const uint64_t *block;

	if (vaddr >= ADDRESS_END || bytes > ADDRESS_END - vaddr)
		return false;
	for (uint64_t page = vaddr / PAGE_BYTES, n = bytes / PAGE_BYTES; n; page++, n--) {
		block = map_get(&t->blocks, page / BLOCK_PAGES);
		if (!block || !(block[page % BLOCK_PAGES / 64] >> page % 64 & 1))
			return false;
	}
	return true;
}

static int put_pagemap(struct area_store *a, uint64_t pid, uint32_t pages_id, struct err *err)
{
	PagemapEntry all = PAGEMAP_ENTRY__INIT, *entries[] = {&all};
	struct snap_pagemap pm = {.id = pid,
				  .pages_id = pages_id,
				  .entries = {.v = entries, .n = 1, .cap = 1}};

	all.has_flags = all.has_nr_pages = true;
	all.flags = PE_PRESENT;
	all.nr_pages = ADDRESS_END / PAGE_BYTES;
	return snapshot_save_pagemap(&pm, a->images, err);
}

/* The pages id of a task, made if it is new; 0 + err. */
static uint32_t pages_of(struct area_store *a, uint64_t pid, struct err *err)
{
	uint32_t id = (uint32_t)(uintptr_t)map_get(&a->ids, pid);
	int fd;

	if (id)
		return id;
	fd = memfd_create("ferry-area", MFD_CLOEXEC);
	if (fd < 0 || !vec_push(&a->tasks, (struct area_task){.fd = fd})) {
		err_sys(err, "cannot make room for the memory of pid %llu", (unsigned long long)pid);
		if (fd >= 0)
			close(fd);
		return 0;
	}
	id = (uint32_t)a->tasks.n;
	if (!map_set(&a->ids, pid, (void *)(uintptr_t)id)) {
		err_nomem(err);
		return 0;
	}
	if (ftruncate(fd, ADDRESS_END) < 0) {
		err_sys(err, "cannot make room for the memory of pid %llu", (unsigned long long)pid);
		return 0;
	}
	return put_pagemap(a, pid, id, err) < 0 ? 0 : id;
}

int area_put(struct store *s, uint64_t pid, uint64_t vaddr, const void *data, size_t bytes,
	     struct err *err)
{
	struct area_store *a = of(s);
	struct area_task *t;
	uint32_t id;

	if (!pid || pid > INT32_MAX || vaddr % PAGE_BYTES || bytes % PAGE_BYTES ||
	    vaddr >= ADDRESS_END || bytes > ADDRESS_END - vaddr)
		return err_set(err, EPROTO, "%zu bytes at %llx of pid %llu are no pages", bytes,
			       (unsigned long long)vaddr, (unsigned long long)pid);
	id = pages_of(a, pid, err);
	if (!id)
		return -1;
	t = task_of(a, id);
	if (io_pwrite_full(t->fd, data, bytes, (off_t)vaddr) < 0)
		return err_sys(err, "cannot keep the memory of pid %llu", (unsigned long long)pid);
	return note(t, vaddr, bytes, err);
}

static int area_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		    struct err *err)
{
	return store_get(of(s)->images, object, data_out, bytes_out, err);
}

static int read_pages(const struct area_task *t, uint64_t vaddr, void *buf, size_t bytes,
		      struct err *err)
{
	if (!have_come(t, vaddr, bytes))
		return err_set(err, ENODATA, "pages at %llx were never sent",
			       (unsigned long long)vaddr);
	if (io_pread_full(t->fd, buf, bytes, (off_t)vaddr) < 0)
		return err_sys(err, "pages at %llx: cannot read them", (unsigned long long)vaddr);
	return 0;
}

static int area_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
			  struct err *err)
{
	const struct area_task *t = task_of(of(s), pages_id);

	if (!t)
		return err_set(err, ENOENT, "pages-%u.img: there is no such image", pages_id);
	return read_pages(t, off, buf, bytes, err);
}

int area_has(struct store *s, uint64_t pid, uint64_t vaddr, size_t bytes, struct err *err)
{
	const struct area_task *t = task_for(of(s), pid);

	if (t && have_come(t, vaddr, bytes))
		return 0;
	return err_set(err, ENODATA, "pages at %llx of pid %llu were never sent",
		       (unsigned long long)vaddr, (unsigned long long)pid);
}

int area_read(struct store *s, uint64_t pid, uint64_t vaddr, void *buf, size_t bytes, struct err *err)
{
	const struct area_task *t = task_for(of(s), pid);

	return t ? read_pages(t, vaddr, buf, bytes, err) : area_has(s, pid, vaddr, bytes, err);
}

static int area_put_object(struct store *s, const char *object, const void *data, size_t bytes,
			   struct err *err)
{
	return err_set(err, EOPNOTSUPP, "%s: only pages are kept here", object);
}

static int area_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			  struct err *err)
{
	return err_set(err, EOPNOTSUPP, "pages-%u.img: pages are kept by address here", pages_id);
}

static int area_pages_fd(struct store *s, uint32_t pages_id)
{
	return -1; /* holes are to be noticed */
}

static int area_complete(struct store *s, struct err *err)
{
	return store_complete(of(s)->images, err);
}

static void area_close(struct store *s)
{
	struct area_store *a = of(s);

	vec_foreach (t, &a->tasks) {
		close(t->fd);
		for (size_t i = 0; i < t->blocks.cap; i++)
			free(t->blocks.slots[i].value);
		map_free(&t->blocks);
	}
	vec_free(&a->tasks);
	map_free(&a->ids);
	store_close(a->images);
	free(a);
}

static const struct store_ops area_ops = {
	.name = "area",
	.put = area_put_object,
	.get = area_get,
	.put_pages = area_put_pages,
	.get_pages = area_get_pages,
	.pages_fd = area_pages_fd,
	.complete = area_complete,
	.close = area_close,
};

struct store *area_open(struct err *err)
{
	struct area_store *a = calloc(1, sizeof(*a));

	if (!a) {
		err_nomem(err);
		return NULL;
	}
	a->store.ops = &area_ops;
	a->images = store_memory_open(err);
	if (!a->images) {
		free(a);
		return NULL;
	}
	return &a->store;
}

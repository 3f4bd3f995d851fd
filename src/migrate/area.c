// SPDX-License-Identifier: Apache-2.0
/*
 * A sparse memfd for each task, in which the offset of a page is its address;
 * and a pagemap image for it with one entry, over all addresses. A page that never came is
 * a hole of the file, and an error for whoever asks.
 */
#include "migrate/area.h"

#include "base/io.h"
#include "base/map.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define ADDRESS_END 0x7ffffffff000UL

struct area_store {
	struct store store;
	struct store *images; /* the pagemaps */
	VEC(int) fds;         /* of the pages id i + 1 */
	struct map ids;       /* pid: pages id */
};

static struct area_store *of(struct store *s)
{
	return (struct area_store *)s;
}

static int fd_of(const struct area_store *a, uint32_t pages_id)
{
	return pages_id && pages_id <= a->fds.n ? a->fds.v[pages_id - 1] : -1;
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
	if (fd < 0 || !vec_push(&a->fds, fd)) {
		err_sys(err, "cannot make room for the memory of pid %llu", (unsigned long long)pid);
		if (fd >= 0)
			close(fd);
		return 0;
	}
	id = (uint32_t)a->fds.n;
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
	uint32_t id;

	if (!pid || pid > INT32_MAX || vaddr % PAGE_BYTES || bytes % PAGE_BYTES ||
	    vaddr >= ADDRESS_END || bytes > ADDRESS_END - vaddr)
		return err_set(err, EPROTO, "%zu bytes at %llx of pid %llu are no pages", bytes,
			       (unsigned long long)vaddr, (unsigned long long)pid);
	id = pages_of(a, pid, err);
	if (!id)
		return -1;
	if (io_pwrite_full(fd_of(a, id), data, bytes, (off_t)vaddr) < 0)
		return err_sys(err, "cannot keep the memory of pid %llu", (unsigned long long)pid);
	return 0;
}

static int area_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		    struct err *err)
{
	return store_get(of(s)->images, object, data_out, bytes_out, err);
}

static int area_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
			  struct err *err)
{
	int fd = fd_of(of(s), pages_id);
	off_t at = (off_t)off;

	if (fd < 0)
		return err_set(err, ENOENT, "pages-%u.img: there is no such image", pages_id);
	if (lseek(fd, at, SEEK_DATA) != at || lseek(fd, at, SEEK_HOLE) < at + (off_t)bytes)
		return err_set(err, ENODATA, "pages at %llx were never sent",
			       (unsigned long long)off);
	if (io_pread_full(fd, buf, bytes, at) < 0)
		return err_sys(err, "pages at %llx: cannot read them", (unsigned long long)off);
	return 0;
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

	vec_foreach (fd, &a->fds)
		close(*fd);
	vec_free(&a->fds);
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

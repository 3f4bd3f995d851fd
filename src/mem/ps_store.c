// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "page-server"
#include "mem/ps_store.h"

#include "base/io.h"
#include "base/log.h"
#include "base/map.h"
#include "base/vec.h"
#include "mem/ranges.h"
#include "snapshot/dedup.h"
#include "snapshot/image.h"
#include "snapshot/snapshot.h"
#include "store/incoming.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/vfs.h>

enum {
	FIRST_PAGES_ID = 0x10001,  /* as CRIU's page server counts: dump counts from 1 */
	PIPE_BYTES = 1 << 20,      /* what the kernel lets everybody have */
	ENTRIES_BYTES = 64 * 1024, /* of a pagemap, before they are written */
	COPY_BYTES = 256 * 1024,
	STEP_BYTES = 16 << 20,    /* of room, made in one go */
	MIN_ROOM_BYTES = 4 << 20, /* less is not worth it */
	MAX_ROOMS = 64,
};

/* One object: its two images. */
struct object {
	struct ps_object id;
	uint32_t pages_id;
	struct incoming pages, pagemap;
};

/* A pages image with room, for an object that has not begun. */
struct room {
	uint64_t dst_id;
	struct incoming file;
};

struct ps_store {
	int dirfd;
	struct store *parent; /* NULL: none */
	VEC(struct object) objects;
	struct map begun; /* by dst_id */
	VEC(struct room) rooms;
	uint64_t room_done, room_bytes; /* of the last one */
	/* of the object at hand, which is the last */
	struct image_writer entries;
	PagemapEntry last; /* still grows; nr_pages 0: there is none */
	uint64_t next;     /* the lowest address that may come */
	mem_ranges parent_pages;
	size_t parent_at; /* ranges before this one end below next */
	int pipe[2];      /* from the socket to the pages image */
	struct ps_store_stats stats;
};

struct ps_store *ps_store_create(int dirfd, struct store *parent, struct err *err)
{
	struct ps_store *s = calloc(1, sizeof(*s));

	if (!s) {
		err_nomem(err);
		return NULL;
	}
	s->dirfd = dirfd;
	s->parent = parent;
	s->pipe[0] = s->pipe[1] = -1;
	return s;
}

static void discard_all(struct ps_store *s)
{
	vec_foreach (o, &s->objects) {
		incoming_discard(&o->pages, s->dirfd);
		incoming_discard(&o->pagemap, s->dirfd);
	}
	vec_free(&s->objects);
	vec_foreach (r, &s->rooms) {
		incoming_discard(&r->file, s->dirfd);
	}
	vec_free(&s->rooms);
}

void ps_store_free(struct ps_store *s)
{
	if (!s)
		return;
	discard_all(s);
	image_writer_free(&s->entries);
	vec_free(&s->parent_pages);
	map_free(&s->begun);
	if (s->pipe[0] >= 0) {
		close(s->pipe[0]);
		close(s->pipe[1]);
	}
	free(s);
}

void ps_store_stats(const struct ps_store *s, struct ps_store_stats *out)
{
	*out = s->stats;
}

static const char *pagemap_name(const struct ps_object *object, char buf[static 64])
{
	const struct snap_pagemap pm = {.shmem = object->shmem, .id = object->id};

	return snapshot_pagemap_name(&pm, buf);
}

/* ---- the parent ---- */

static int read_ranges(const char *name, const void *data, size_t bytes, mem_ranges *out,
		       struct err *err)
{
	struct arena arena = {0};
	struct image_reader r;
	ProtobufCMessage *m;
	int rc = image_reader_init(&r, name, data, bytes, &arena, err);

	if (rc == 0)
		rc = image_reader_expect(&r, name, err);
	while (rc == 0) {
		const PagemapEntry *e;

		rc = image_read(&r, &m, err);
		if (rc <= 0)
			break;
		rc = 0;
		e = (const PagemapEntry *)m;
		if (r.n_entries > 1) /* the first is the head */
			rc = mem_ranges_push(out, e->vaddr,
					     e->vaddr + (e->has_nr_pages ? e->nr_pages :
									   e->compat_nr_pages) *
								PAGE_BYTES,
					     err);
	}
	arena_free(&arena);
	return rc;
}

/* The pages that the parent's image of @object names: 1; 0: there is none; -1. */
static int parent_pages(struct ps_store *s, const struct ps_object *object, mem_ranges *out,
			struct err *err)
{
	cleanup_free void *data = NULL;
	size_t bytes;
	char name[64];
	int rc;

	if (!s->parent)
		return 0;
	rc = store_get(s->parent, pagemap_name(object, name), &data, &bytes, err);
	if (rc == 0)
		rc = read_ranges(name, data, bytes, out, err) ? -1 : 1;
	else if (rc == 1)
		rc = 0;
	return rc < 0 ? err_wrap(err, "the images to build on") : rc;
}

int ps_store_has_parent(struct ps_store *s, const struct ps_object *object, bool *out, struct err *err)
{
	mem_ranges pages = {0};
	int rc = parent_pages(s, object, &pages, err);

	vec_free(&pages);
	*out = rc == 1;
	return rc < 0 ? -1 : 0;
}

/* Is [start, end) in the parent? Questions ascend. */
static bool in_parent(struct ps_store *s, uint64_t start, uint64_t end)
{
	const mem_ranges *p = &s->parent_pages;

	while (s->parent_at < p->n && p->v[s->parent_at].end <= start)
		s->parent_at++;
	return s->parent_at < p->n && p->v[s->parent_at].start <= start &&
	       p->v[s->parent_at].end >= end;
}

/* ---- pagemaps ---- */

static int flush_entries(struct ps_store *s, size_t keep_bytes, struct err *err)
{
	const struct object *o = &s->objects.v[s->objects.n - 1];
	char name[64];

	if (s->entries.bytes <= keep_bytes)
		return 0;
	if (image_writer_finish(&s->entries, err))
		return -1;
	if (io_write_full(o->pagemap.fd, s->entries.data, s->entries.bytes))
		return err_sys(err, "%s: cannot write it", pagemap_name(&o->id, name));
	s->entries.bytes = 0;
	return 0;
}

/* Writes the last entry out, if there is one. */
static int end_entry(struct ps_store *s, struct err *err)
{
	if (!s->last.nr_pages)
		return 0;
	image_write(&s->entries, &s->last.base);
	s->last.nr_pages = 0;
	return flush_entries(s, ENTRIES_BYTES, err);
}

static int add_entry(struct ps_store *s, uint64_t vaddr, uint64_t n, uint32_t flags, struct err *err)
{
	PagemapEntry *last = &s->last;

	s->next = vaddr + n * PAGE_BYTES;
	if (last->nr_pages && last->flags == flags &&
	    last->vaddr + last->nr_pages * PAGE_BYTES == vaddr) {
		last->nr_pages += n;
		return 0;
	}
	if (end_entry(s, err))
		return -1;
	pagemap_entry__init(last);
	last->vaddr = vaddr;
	last->nr_pages = n;
	last->flags = flags;
	last->has_nr_pages = last->has_flags = true;
	return 0;
}

/* ---- room ---- */

/* How much may be set aside; 0: no file system in memory. */
static uint64_t spare_bytes(int dirfd)
{
	struct statfs fs;

	if (fstatfs(dirfd, &fs) || fs.f_type != TMPFS_MAGIC)
		return 0;
	return (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize / 2;
}

void ps_store_prepare(struct ps_store *s, const struct ps_object *object, uint64_t pages)
{
	struct room r = {.dst_id = ps_dst_id(object), .file.fd = -1};
	uint64_t bytes = MIN(pages, PS_VADDR_END / PAGE_BYTES) * PAGE_BYTES;
	struct err err;

	bytes = MIN(bytes, spare_bytes(s->dirfd));
	if (bytes < MIN_ROOM_BYTES || s->rooms.n == MAX_ROOMS)
		return;
	if (incoming_open(s->dirfd, &r.file, &err) || !vec_push(&s->rooms, r)) {
		incoming_discard(&r.file, s->dirfd);
		return; /* it works without */
	}
	s->room_done = 0;
	s->room_bytes = bytes;
}

bool ps_store_prepare_step(struct ps_store *s)
{
	uint64_t step = MIN(s->room_bytes - s->room_done, (uint64_t)STEP_BYTES);

	if (step && fallocate(s->rooms.v[s->rooms.n - 1].file.fd, FALLOC_FL_KEEP_SIZE,
			      (off_t)s->room_done, (off_t)step) == 0) {
		s->room_done += step;
		return s->room_done < s->room_bytes;
	}
	s->room_done = s->room_bytes = 0;
	return false;
}

/* The pages image of an object: with room, if that was made. */
static int open_pages(struct ps_store *s, uint64_t dst_id, struct incoming *out, struct err *err)
{
	vec_foreach (r, &s->rooms) {
		if (r->dst_id == dst_id && r->file.fd >= 0) {
			*out = r->file;
			r->file.fd = -1;
			return 0;
		}
	}
	return incoming_open(s->dirfd, out, err);
}

/* What of the room was not needed goes. */
static int end_pages(const struct object *o, struct err *err)
{
	off_t end = lseek(o->pages.fd, 0, SEEK_CUR);

	if (end < 0 || ftruncate(o->pages.fd, end))
		return err_sys(err, "pages-%u.img: cannot end it", o->pages_id);
	return 0;
}

/* ---- objects ---- */

/* The object at hand, if any, is complete. */
static int end_object(struct ps_store *s, struct err *err)
{
	if (!s->objects.n)
		return 0;
	if (end_entry(s, err) || flush_entries(s, 0, err))
		return -1;
	return end_pages(&s->objects.v[s->objects.n - 1], err);
}

int ps_store_begin(struct ps_store *s, const struct ps_object *object, bool *has_parent_out,
		   struct err *err)
{
	struct object o = {.id = *object,
			   .pages_id = FIRST_PAGES_ID + (uint32_t)s->objects.n,
			   .pages.fd = -1,
			   .pagemap.fd = -1};
	PagemapHead head = PAGEMAP_HEAD__INIT;
	char name[64];
	int rc;

	pagemap_name(object, name);
	if (end_object(s, err))
		return -1;
	rc = map_add(&s->begun, ps_dst_id(object), s);
	if (rc <= 0)
		return rc < 0 ? err_nomem(err) : err_set(err, EPROTO, "%s: begun twice", name);
	vec_free(&s->parent_pages);
	rc = parent_pages(s, object, &s->parent_pages, err);
	if (rc < 0)
		return -1;
	*has_parent_out = rc == 1;
	s->parent_at = 0;
	s->next = 0;
	if (incoming_open(s->dirfd, &o.pagemap, err) ||
	    open_pages(s, ps_dst_id(object), &o.pages, err) || !vec_push(&s->objects, o)) {
		incoming_discard(&o.pagemap, s->dirfd);
		incoming_discard(&o.pages, s->dirfd);
		return err_wrap(err, "%s", name);
	}
	image_writer_free(&s->entries);
	image_writer_init(&s->entries, image_kind_by_name(name));
	head.pages_id = o.pages_id;
	image_write(&s->entries, &head.base);
	s->stats.objects++;
	return 0;
}

/* ---- data ---- */

static int cut_off(uint64_t missing, struct err *err)
{
	return err_set(err, EPIPE, "the connection ended within pages, with %llu bytes to come",
		       (unsigned long long)missing);
}

/* As receive_pages, through a buffer: for sockets that splice does not take. */
static int copy_pages(int from, int to, uint64_t bytes, struct err *err)
{
	cleanup_free uint8_t *buf = malloc(COPY_BYTES);
	ssize_t got;

	if (!buf)
		return err_nomem(err);
	for (; bytes; bytes -= (uint64_t)got) {
		got = recv(from, buf, MIN(bytes, (uint64_t)COPY_BYTES), 0);
		if (got < 0 && errno == EINTR)
			got = 0;
		else if (got < 0)
			return err_sys(err, "the connection broke within pages");
		else if (got == 0)
			return cut_off(bytes, err);
		if (io_write_full(to, buf, (size_t)got))
			return err_sys(err, "cannot write pages");
	}
	return 0;
}

static int drain_pipe(const struct ps_store *s, int to, size_t bytes, struct err *err)
{
	ssize_t put;

	for (; bytes; bytes -= (size_t)put) {
		put = splice(s->pipe[0], NULL, to, NULL, bytes, SPLICE_F_MOVE);
		if (put < 0 && errno == EINTR)
			put = 0;
		else if (put <= 0)
			return err_sys(err, "cannot write pages");
	}
	return 0;
}

/* From the socket into the file: splice(2) copies once, from the packets into the page cache. */
static int receive_pages(struct ps_store *s, int from, int to, uint64_t bytes, struct err *err)
{
	ssize_t got;

	if (s->pipe[0] < 0) {
		if (pipe2(s->pipe, O_CLOEXEC))
			return err_sys(err, "cannot make a pipe");
		(void)!fcntl(s->pipe[1], F_SETPIPE_SZ, PIPE_BYTES); /* a smaller one does */
	}
	for (; bytes; bytes -= (uint64_t)got) {
		got = splice(from, NULL, s->pipe[1], NULL, MIN(bytes, (uint64_t)PIPE_BYTES),
			     SPLICE_F_MOVE);
		if (got < 0 && errno == EINVAL)
			return copy_pages(from, to, bytes, err);
		if (got < 0 && errno == EINTR)
			got = 0;
		else if (got < 0)
			return err_sys(err, "the connection broke within pages");
		else if (got == 0)
			return cut_off(bytes, err);
		if (drain_pipe(s, to, (size_t)got, err))
			return -1;
	}
	return 0;
}

static uint32_t flags_of(const struct ps_request *r)
{
	return r->cmd == PS_ADD ? PE_PRESENT : r->cmd == PS_HOLE ? PE_PARENT : r->flags;
}

int ps_store_check(struct ps_store *s, const struct ps_request *r, struct err *err)
{
	const struct object *o;
	char name[64];

	if (!s->objects.n)
		return err_set(err, EPROTO, "pages before any object was begun");
	o = &s->objects.v[s->objects.n - 1];
	pagemap_name(&o->id, name);
	if (r->dst_id != ps_dst_id(&o->id))
		return err_set(err, EPROTO, "pages of dst_id 0x%llx, but %s was begun",
			       (unsigned long long)r->dst_id, name);
	if (r->nr_pages && r->vaddr < s->next)
		return err_set(err, EPROTO, "%s: pages at 0x%llx after those up to 0x%llx", name,
			       (unsigned long long)r->vaddr, (unsigned long long)s->next);
	if (r->nr_pages && (flags_of(r) & PE_PARENT) &&
	    !in_parent(s, r->vaddr, r->vaddr + r->nr_pages * PAGE_BYTES))
		return err_set(err, EPROTO,
			       "%s: the pages at 0x%llx should be in the parent and are not", name,
			       (unsigned long long)r->vaddr);
	return 0;
}

int ps_store_add(struct ps_store *s, const struct ps_request *r, int from, struct err *err)
{
	const struct object *o;
	char name[64];

	if (ps_store_check(s, r, err))
		return -1;
	if (!r->nr_pages)
		return 0;
	/* what an older dump left here ends to be one, as the images change from now on */
	if (!s->stats.pages && !s->stats.holes && unlinkat(s->dirfd, "inventory.img", 0) &&
	    errno != ENOENT)
		return err_sys(err, "inventory.img: cannot remove the old image");
	if (add_entry(s, r->vaddr, r->nr_pages, flags_of(r), err))
		return -1;
	if (!ps_data_bytes(r)) {
		s->stats.holes += r->nr_pages;
		return 0;
	}
	s->stats.pages += r->nr_pages;
	o = &s->objects.v[s->objects.n - 1];
	if (receive_pages(s, from, o->pages.fd, ps_data_bytes(r), err) == 0)
		return 0;
	return err_wrap(err, "%s", pagemap_name(&o->id, name));
}

/* ---- the end ---- */

static int publish_object(struct ps_store *s, struct object *o, struct err *err)
{
	char name[64];

	snprintf(name, sizeof(name), "pages-%u.img", o->pages_id);
	if (incoming_publish(&o->pages, s->dirfd, name, err))
		return -1;
	return incoming_publish(&o->pagemap, s->dirfd, pagemap_name(&o->id, name), err);
}

static void take_back(const struct ps_store *s, const struct object *o)
{
	char name[64];

	snprintf(name, sizeof(name), "pages-%u.img", o->pages_id);
	unlinkat(s->dirfd, name, 0);
	unlinkat(s->dirfd, pagemap_name(&o->id, name), 0);
}

int ps_store_publish(struct ps_store *s, struct err *err)
{
	if (end_object(s, err))
		return -1;
	for (size_t i = 0; i < s->objects.n; i++) {
		if (publish_object(s, &s->objects.v[i], err) == 0)
			continue;
		for (size_t j = 0; j <= i; j++)
			take_back(s, &s->objects.v[j]);
		return -1;
	}
	log_info("%llu objects, %llu pages, %llu left out", (unsigned long long)s->stats.objects,
		 (unsigned long long)s->stats.pages, (unsigned long long)s->stats.holes);
	return 0;
}

int ps_store_dedup(struct ps_store *s, struct store *images, struct err *err)
{
	uint64_t bytes = 0;

	vec_foreach (o, &s->objects) {
		struct snapshot *scratch = snapshot_create(err);
		struct snap_pagemap *pm = NULL;
		int rc = scratch ? snapshot_load_pagemap(scratch, images, o->id.shmem, o->id.id,
							 &pm, err) :
				   -1;

		if (rc == 1 && dedup_parents(pm, images, &bytes, err))
			rc = -1;
		snapshot_pagemap_free(pm);
		snapshot_free(scratch);
		if (rc < 0)
			return err_wrap(err, "--auto-dedup");
	}
	log_info("freed %llu bytes of earlier images", (unsigned long long)bytes);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Requests are answered when nothing more urgent is to do, in steps: a thread
 * that waits for a page does not wait for megabytes of others.
 */
#include "mem/lazy_image.h"

#include "base/map.h"
#include "snapshot/extents.h"

#include <errno.h>
#include <string.h>

enum { STEP_PAGES = 64, WINDOW_PAGES = 1024, AROUND_PAGES = 16 };

struct queue {
	struct lazy_request *first, **end;
};

struct image_object {
	snap_extents extents;
};

struct lazy_image {
	struct lazy_source source;
	struct map objects;             /* pid -> struct image_object */
	VEC(struct image_object *) all; /* the same, to free */
	VEC(struct store *) stores;     /* by level */
	struct queue urgent, bulk;
	uint64_t done_pages; /* of the first of the bulk */
	uint8_t *buf;
};

/* ---- the engine's side ---- */

static void queue_init(struct queue *q)
{
	q->first = NULL;
	q->end = &q->first;
}

static void queue_drop(struct queue *q)
{
	q->first = q->first->next_of_source;
	if (!q->first)
		q->end = &q->first;
}

static int image_request(struct lazy_source *s, struct lazy_request *rq, struct err *err)
{
	struct lazy_image *m = (struct lazy_image *)s;
	struct queue *q = rq->urgent ? &m->urgent : &m->bulk;

	rq->next_of_source = NULL;
	*q->end = rq;
	q->end = &rq->next_of_source;
	return 0;
}

static int image_poll_fd(struct lazy_source *s, short *events, int *timeout_ms)
{
	struct lazy_image *m = (struct lazy_image *)s;

	if (m->urgent.first || m->bulk.first)
		*timeout_ms = 0;
	return -1;
}

/* The extent that holds a page; NULL: none does. */
static const struct snap_extent *find(const struct image_object *o, uint64_t vaddr)
{
	size_t low = 0, high = o->extents.n, mid;
	const struct snap_extent *x;

	while (low < high) {
		mid = low + (high - low) / 2;
		x = &o->extents.v[mid];
		if (x->vaddr + x->n_pages * PAGE_BYTES <= vaddr)
			low = mid + 1;
		else
			high = mid;
	}
	x = o->extents.v + low;
	return low < o->extents.n && x->vaddr <= vaddr ? x : NULL;
}

static int read_pages(struct lazy_image *m, const struct lazy_request *rq, uint64_t vaddr,
		      uint64_t n, struct err *err)
{
	const struct image_object *o = map_get(&m->objects, rq->object);
	uint8_t *at = m->buf;

	while (n) {
		const struct snap_extent *x = o ? find(o, vaddr) : NULL;
		uint64_t part, off;

		if (!x)
			return err_set(err, ENOENT, "the images have no page at 0x%llx of task %llu",
				       (unsigned long long)vaddr, (unsigned long long)rq->object);
		off = vaddr - x->vaddr;
		part = MIN(n, x->n_pages - off / PAGE_BYTES);
		if (store_get_pages(m->stores.v[x->level], x->pages_id, x->off + off, at,
				    part * PAGE_BYTES, err) < 0)
			return -1;
		at += part * PAGE_BYTES;
		vaddr += part * PAGE_BYTES;
		n -= part;
	}
	return 0;
}

static int serve(struct lazy_image *m, struct lazy *z, const struct lazy_request *rq, uint64_t from,
		 uint64_t n, struct err *err)
{
	uint64_t vaddr = rq->vaddr + from * PAGE_BYTES;

	if (read_pages(m, rq, vaddr, n, err) < 0)
		return -1;
	return lazy_push(z, rq->object, vaddr, m->buf, n, err);
}

/* One urgent request (the first page before its neighbours), or a step of a background one. */
static int image_work(struct lazy_source *s, struct lazy *z, struct err *err)
{
	struct lazy_image *m = (struct lazy_image *)s;
	struct lazy_request *rq = m->urgent.first;
	uint64_t n;

	if (rq) {
		queue_drop(&m->urgent);
		if (read_pages(m, rq, rq->vaddr, rq->pages, err) < 0 ||
		    lazy_answer(z, rq, rq->vaddr, m->buf, 1, err) < 0 ||
		    lazy_answer(z, rq, rq->vaddr + PAGE_BYTES, m->buf + PAGE_BYTES, rq->pages - 1,
				err) < 0)
			return -1;
		lazy_end(z, rq);
		return 0;
	}
	rq = m->bulk.first;
	if (!rq)
		return 0;
	n = MIN(rq->pages - m->done_pages, (uint64_t)STEP_PAGES);
	if (serve(m, z, rq, m->done_pages, n, err) < 0)
		return -1;
	m->done_pages += n;
	if (m->done_pages < rq->pages)
		return 0;
	m->done_pages = 0;
	queue_drop(&m->bulk);
	lazy_end(z, rq);
	return 0;
}

/* Files do not come back by waiting: what could not be read is an error. */
static const struct lazy_source_ops image_ops = {
	.name = "images",
	.request = image_request,
	.poll_fd = image_poll_fd,
	.work = image_work,
};

/* ---- set up ---- */

static int refuse_left(const struct snap_pagemap *pm, struct err *err)
{
	char name[64];

	vec_foreach (ep, &pm->entries)
		if (((*ep)->flags & (PE_LAZY | PE_PRESENT | PE_PARENT)) == PE_LAZY)
			return err_set(err, ENODATA,
				       "%s: the pages at 0x%llx stayed with the source (dump "
				       "--lazy-pages): give --page-server, --address and --port of it",
				       snapshot_pagemap_name(pm, name),
				       (unsigned long long)(*ep)->vaddr);
	return 0;
}

static int add_object(struct lazy_image *m, const struct snap_pagemap *pm, struct err *err)
{
	struct image_object *o;

	if (refuse_left(pm, err) < 0)
		return -1;
	o = calloc(1, sizeof(*o));
	if (!o || !vec_push(&m->all, o)) {
		free(o);
		return err_nomem(err);
	}
	if (!map_set(&m->objects, pm->id, o))
		return err_nomem(err);
	return pagemap_extents(pm, 0, UINT64_MAX, &o->extents, err);
}

/* The store and those that it builds on. */
static int add_stores(struct lazy_image *m, struct store *store, struct err *err)
{
	while (store) {
		if (!vec_push(&m->stores, store))
			return err_nomem(err);
		if (store_parent(store, &store, err) < 0)
			return -1;
	}
	return 0;
}

struct lazy_source *lazy_image_open(const struct snapshot *snap, struct store *store, struct err *err)
{
	struct lazy_image *m = calloc(1, sizeof(*m));
	int r = 0;

	if (!m) {
		err_nomem(err);
		return NULL;
	}
	m->source = (struct lazy_source){.ops = &image_ops,
					 .window_pages = WINDOW_PAGES,
					 .around_pages = AROUND_PAGES,
					 .fast_lane = true};
	queue_init(&m->urgent);
	queue_init(&m->bulk);
	m->buf = aligned_alloc(PAGE_BYTES, MAX(STEP_PAGES, AROUND_PAGES) * PAGE_BYTES);
	if (!m->buf)
		r = err_nomem(err);
	if (r == 0)
		r = add_stores(m, store, err);
	vec_foreach (tp, &snap->tasks)
		if (r == 0 && (*tp)->pagemap)
			r = add_object(m, (*tp)->pagemap, err);
	if (r == 0)
		return &m->source;
	lazy_image_close(&m->source);
	return NULL;
}

void lazy_image_close(struct lazy_source *s)
{
	struct lazy_image *m = (struct lazy_image *)s;

	if (!m)
		return;
	vec_foreach (op, &m->all) {
		vec_free(&(*op)->extents);
		free(*op);
	}
	vec_free(&m->all);
	vec_free(&m->stores);
	map_free(&m->objects);
	free(m->buf);
	free(m);
}

int lazy_image_missing(struct lazy_space *sp, const struct snap_pagemap *pm, struct err *err)
{
	vec_foreach (ep, &pm->entries)
		if ((*ep)->flags & PE_LAZY && lazy_missing(sp, (*ep)->vaddr, (*ep)->nr_pages, err) < 0)
			return -1;
	return 0;
}

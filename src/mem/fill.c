// SPDX-License-Identifier: Apache-2.0
#include "mem/fill.h"

#include "base/io.h"
#include "base/page.h"
#include "snapshot/extents.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum {
	CHUNK_BYTES = 1 << 20,
	CHUNK_PAGES = CHUNK_BYTES / 4096,
	TWO_THREADS_BYTES = 32 << 20, /* from here on a second thread pays */
};

/* Pages next to each other in the target and in a pages image. */
struct piece {
	uint64_t addr;
	size_t bytes;
	enum fill_how how;
	struct store *store;
	uint32_t pages_id;
	uint64_t off;
};

/* Pieces that are read and placed together. */
struct chunk {
	size_t bytes;
	unsigned int n;
	struct piece v[CHUNK_PAGES];
};

/* Walks the pages of a pagemap, wherever they are. */
struct cursor {
	const struct snap_pagemap *pagemap;
	const struct fill_area *areas; /* NULL: everything is FILL_WRITE */
	size_t n_areas;
	snap_extents extents;
	VEC(struct store *) stores; /* by level of the extents */
	size_t extent, area;
	bool left_only; /* as in the job */
	uint64_t page;  /* within the extent */
};

uint64_t pagemap_entry_pages(const PagemapEntry *e)
{
	return e->has_nr_pages ? e->nr_pages : e->compat_nr_pages;
}

uint32_t pagemap_entry_flags(const PagemapEntry *e)
{
	if (e->has_flags)
		return e->flags;
	return e->has_in_parent && e->in_parent ? PE_PARENT : PE_PRESENT;
}

uint64_t pagemap_present_bytes(const struct snap_pagemap *pagemap)
{
	uint64_t pages = 0;

	vec_foreach (e, &pagemap->entries)
		if (pagemap_entry_flags(*e) & (PE_PRESENT | PE_PARENT))
			pages += pagemap_entry_pages(*e);
	return pages * PAGE_BYTES;
}

/* Pages that are neither in the store or its parents nor zero cannot be had: they are at a page server. */
static int check_entry(const struct snap_pagemap *pm, const PagemapEntry *e, struct err *err)
{
	const char *what = pm->shmem ? "pagemap-shmem" : "pagemap";

	if (pagemap_entry_flags(e) & (PE_PRESENT | PE_PARENT))
		return 0;
	return err_set(err, ENOTSUP,
		       "%s-%llu.img: the pages at 0x%llx were left at the source "
		       "(dump --lazy-pages): restore with --lazy-pages",
		       what, (unsigned long long)pm->id, (unsigned long long)e->vaddr);
}

static int open_stores(struct store *store, const snap_extents *extents, struct cursor *c,
		       struct err *err)
{
	unsigned int deepest = 0;

	vec_foreach (x, extents)
		deepest = MAX(deepest, x->level);
	for (;;) {
		if (!vec_push(&c->stores, store))
			return err_nomem(err);
		if (c->stores.n > deepest)
			return 0;
		if (store_parent(store, &store, err))
			return -1;
		if (!store)
			return err_set(err, ENOENT,
				       "the parent directory of images, where some pages are, is "
				       "missing");
	}
}

static void cursor_close(struct cursor *c)
{
	vec_free(&c->extents);
	vec_free(&c->stores);
}

/*
 * Is all of an entry without contents in areas that are filled lazily, or that are not
 * for us to fill? *@area: where the search begins; entries ascend.
 */
static bool comes_later(const struct cursor *c, size_t *area, const PagemapEntry *e)
{
	uint64_t at = e->vaddr, end = at + pagemap_entry_pages(e) * PAGE_BYTES;

	while (*area < c->n_areas && c->areas[*area].end <= at)
		(*area)++;
	for (size_t i = *area; i < c->n_areas && at < end; i++) {
		const struct fill_area *a = &c->areas[i];

		if ((a->how != FILL_LAZY && a->how != FILL_SKIP) || a->start > at)
			return false;
		at = a->end;
	}
	return at >= end;
}

static int cursor_open(struct cursor *c, struct store *store, struct err *err)
{
	size_t area = 0;

	vec_foreach (e, &c->pagemap->entries)
		if (!(pagemap_entry_flags(*e) & (PE_PRESENT | PE_PARENT)) &&
		    !comes_later(c, &area, *e) && check_entry(c->pagemap, *e, err) < 0)
			return -1;
	if (pagemap_extents(c->pagemap, 0, UINT64_MAX, &c->extents, err) < 0)
		return -1;
	return open_stores(store, &c->extents, c, err);
}

/* The area that holds @addr, and how far it goes. */
static int find_area(struct cursor *c, uint64_t addr, uint64_t *end_out, enum fill_how *how,
		     struct err *err)
{
	if (!c->areas) {
		*end_out = UINT64_MAX;
		*how = FILL_WRITE;
		return 0;
	}
	while (c->area < c->n_areas && c->areas[c->area].end <= addr)
		c->area++;
	if (c->area == c->n_areas || c->areas[c->area].start > addr)
		return err_set(err, EINVAL,
			       "pagemap-%llu.img: the page at 0x%llx is outside of the "
			       "private memory of the task",
			       (unsigned long long)c->pagemap->id, (unsigned long long)addr);
	*end_out = c->areas[c->area].end;
	*how = c->areas[c->area].how;
	return 0;
}

/* The next piece of at most @room bytes; 0 at the end, 1, or -1. */
static int next_piece(struct cursor *c, size_t room, struct piece *p, struct err *err)
{
	const struct snap_extent *x;
	uint64_t left, addr, end = 0;

	while (c->extent < c->extents.n && c->page == c->extents.v[c->extent].n_pages) {
		c->extent++;
		c->page = 0;
	}
	if (c->extent == c->extents.n)
		return 0;
	x = &c->extents.v[c->extent];
	left = x->n_pages - c->page;
	addr = x->vaddr + c->page * PAGE_BYTES;
	if (find_area(c, addr, &end, &p->how, err) < 0)
		return -1;
	p->addr = addr;
	p->bytes = (size_t)MIN(left, (end - addr) / PAGE_BYTES) * PAGE_BYTES;
	if (p->how == FILL_LAZY)
		p->how = x->lazy && !c->left_only ? FILL_SKIP : FILL_UFFD;
	if (p->how != FILL_SKIP)
		p->bytes = MIN(p->bytes, room);
	p->store = c->stores.v[x->level];
	p->pages_id = x->pages_id;
	p->off = x->off + c->page * PAGE_BYTES;
	c->page += p->bytes / PAGE_BYTES;
	return 1;
}

static int next_chunk(struct cursor *c, struct chunk *ch, struct err *err)
{
	struct piece p;
	int r;

	ch->n = 0;
	ch->bytes = 0;
	while (ch->n < CHUNK_PAGES && ch->bytes < CHUNK_BYTES) {
		r = next_piece(c, CHUNK_BYTES - ch->bytes, &p, err);
		if (r < 0)
			return -1;
		if (r == 0)
			break;
		if (p.how == FILL_SKIP)
			continue;
		ch->v[ch->n++] = p;
		ch->bytes += p.bytes;
	}
	return ch->n > 0;
}

/* The bytes of a chunk; pieces that follow each other in one image in one go. */
static int read_chunk(const struct chunk *ch, uint8_t *buf, struct err *err)
{
	const struct piece *p;
	unsigned int i, next;
	size_t bytes;

	for (i = 0; i < ch->n; i = next, buf += bytes) {
		p = &ch->v[i];
		bytes = p->bytes;
		for (next = i + 1; next < ch->n; next++) {
			const struct piece *q = &ch->v[next];

			if (q->store != p->store || q->pages_id != p->pages_id ||
			    q->off != p->off + bytes)
				break;
			bytes += q->bytes;
		}
		if (store_get_pages(p->store, p->pages_id, p->off, buf, bytes, err) < 0)
			return -1;
	}
	return 0;
}

/* What one worker needs. */
struct worker {
	const struct fill_job *job;
	struct cursor *cursor;
	pthread_mutex_t *lock; /* guards the cursor */
	atomic_bool *stop;
	atomic_uint_fast64_t *done;
	uint8_t *buf; /* CHUNK_BYTES, and as many again to compare with */
	struct chunk chunk;
	bool own_buf;
	int mem_fd; /* /proc/PID/mem, -1 if nothing is compared */
	struct err err;
	bool failed;
};

static int write_pieces(const struct fill_job *job, struct piece *v, uint8_t *const *src,
			unsigned int n, struct err *err)
{
	struct iovec local[CHUNK_PAGES], remote[CHUNK_PAGES];
	unsigned int i, first = 0;
	ssize_t got;

	for (i = 0; i < n; i++) {
		local[i] = (struct iovec){src[i], v[i].bytes};
		remote[i] = (struct iovec){(void *)v[i].addr, v[i].bytes};
	}
	while (first < n) {
		got = process_vm_writev(job->pid, local + first, n - first, remote + first,
					n - first, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return err_sys(err, "pid %d: cannot write memory at 0x%llx", job->pid,
				       (unsigned long long)remote[first].iov_base);
		for (; first < n && (size_t)got >= remote[first].iov_len; first++)
			got -= (ssize_t)remote[first].iov_len;
		if (first < n && got > 0) {
			local[first].iov_base = (uint8_t *)local[first].iov_base + got;
			remote[first].iov_base = (uint8_t *)remote[first].iov_base + got;
			local[first].iov_len -= (size_t)got;
			remote[first].iov_len -= (size_t)got;
		}
	}
	return 0;
}

/* A page that is there already (the task touched it) makes UFFDIO_COPY stop: that one is written. */
static int copy_piece(const struct fill_job *job, const struct piece *p, uint8_t *src, struct err *err)
{
	size_t off = 0, end = job->skip_zero ? 0 : p->bytes;

	while (off < p->bytes) {
		if (off >= end && page_is_zero(src + off)) {
			off += PAGE_BYTES;
			continue;
		}
		while (end < p->bytes && (end <= off || !page_is_zero(src + end)))
			end = MAX(end, off) + PAGE_BYTES;

		struct uffdio_copy copy = {
			.dst = p->addr + off,
			.src = (uintptr_t)src + off,
			.len = end - off,
			.mode = UFFDIO_COPY_MODE_DONTWAKE,
		};
		struct piece one = {.addr = copy.dst, .bytes = PAGE_BYTES};
		uint8_t *one_src = src + off;

		if (ioctl(job->uffd, UFFDIO_COPY, &copy) == 0) {
			off = end;
			continue;
		}
		if (errno == EAGAIN || (errno == EEXIST && copy.copy > 0)) {
			off += copy.copy > 0 ? (size_t)copy.copy : 0;
			continue;
		}
		if (errno != EEXIST)
			return err_sys(err, "pid %d: cannot place pages at 0x%llx", job->pid,
				       (unsigned long long)copy.dst);
		if (write_pieces(job, &one, &one_src, 1, err) < 0)
			return -1;
		off += PAGE_BYTES;
	}
	return 0;
}

/*
 * Writes the pages of a piece that differ from what the task has. Looks through
 * /proc/PID/mem: process_vm_readv pins pages, and pinning a page that is shared
 * copy-on-write gives the task a copy of its own.
 */
static int compare_piece(struct worker *w, const struct piece *p, uint8_t *src, struct err *err)
{
	uint8_t *have = w->buf + CHUNK_BYTES;
	ssize_t got = pread(w->mem_fd, have, p->bytes, (off_t)p->addr);
	size_t known = got > 0 ? (size_t)got & ~(PAGE_BYTES - 1) : 0;
	size_t off = 0, end;

	while (off < p->bytes) {
		struct piece diff;
		uint8_t *diff_src = src + off;

		if (off < known && memcmp(have + off, src + off, PAGE_BYTES) == 0) {
			off += PAGE_BYTES;
			continue;
		}
		end = off + PAGE_BYTES;
		while (end < p->bytes && !(end < known && !memcmp(have + end, src + end, PAGE_BYTES)))
			end += PAGE_BYTES;
		diff = (struct piece){.addr = p->addr + off, .bytes = end - off};
		if (write_pieces(w->job, &diff, &diff_src, 1, err) < 0)
			return -1;
		off = end;
	}
	return 0;
}

static int put_chunk(struct worker *w, struct err *err)
{
	struct piece writes[CHUNK_PAGES];
	uint8_t *src[CHUNK_PAGES];
	unsigned int n = 0;
	uint8_t *at = w->buf;

	for (unsigned int i = 0; i < w->chunk.n; i++) {
		struct piece *p = &w->chunk.v[i];

		if (p->how == FILL_UFFD) {
			if (copy_piece(w->job, p, at, err) < 0)
				return -1;
		} else if (p->how == FILL_COMPARE) {
			if (compare_piece(w, p, at, err) < 0)
				return -1;
		} else {
			src[n] = at;
			writes[n++] = *p;
		}
		at += p->bytes;
	}
	return n > 0 ? write_pieces(w->job, writes, src, n, err) : 0;
}

static int run_chunks(struct worker *w, bool report)
{
	uint64_t reported = 0, done;
	int r;

	for (;;) {
		if (atomic_load(w->stop))
			return 0;
		pthread_mutex_lock(w->lock);
		r = next_chunk(w->cursor, &w->chunk, &w->err);
		pthread_mutex_unlock(w->lock);
		if (r <= 0)
			return r;
		if (read_chunk(&w->chunk, w->buf, &w->err) < 0 || put_chunk(w, &w->err) < 0)
			return -1;
		done = atomic_fetch_add(w->done, w->chunk.bytes) + w->chunk.bytes;
		if (report && w->job->progress) {
			w->job->progress(w->job->arg, done - reported);
			reported = done;
		}
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	if (run_chunks(w, false) < 0) {
		w->failed = true;
		atomic_store(w->stop, true);
	}
	return NULL;
}

static struct worker *worker_create(const struct worker *like, void *scratch)
{
	struct worker *w = malloc(sizeof(*w));

	if (!w)
		return NULL;
	*w = *like;
	w->buf = scratch;
	if (scratch)
		return w;
	w->own_buf = true;
	w->buf = mmap(NULL, 2 * (size_t)CHUNK_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->buf == MAP_FAILED) {
		free(w);
		return NULL;
	}
	return w;
}

static void worker_destroy(struct worker *w)
{
	if (!w)
		return;
	if (w->own_buf)
		munmap(w->buf, 2 * (size_t)CHUNK_BYTES);
	free(w);
}

static int open_mem(const struct fill_job *job, int *fd_out, struct err *err)
{
	for (size_t i = 0; i < job->n_areas; i++) {
		if (job->areas[i].how != FILL_COMPARE)
			continue;
		*fd_out = io_openf(O_RDONLY, "/proc/%d/mem", job->pid);
		return *fd_out < 0 ? err_sys(err, "pid %d: cannot open its memory", job->pid) : 0;
	}
	return 0;
}

/* Is there so much to put in place now that a second thread pays? */
static bool is_much(const struct cursor *c)
{
	uint64_t bytes = 0;
	bool later = false;

	for (size_t i = 0; i < c->n_areas && !c->left_only; i++)
		later |= c->areas[i].how == FILL_LAZY || c->areas[i].how == FILL_SKIP;
	vec_foreach (x, &c->extents) {
		if (!later || !x->lazy)
			bytes += x->n_pages * PAGE_BYTES;
	}
	return bytes >= TWO_THREADS_BYTES;
}

static int run_job(const struct fill_job *job, struct cursor *cursor, struct err *err)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	atomic_bool stop = false;
	atomic_uint_fast64_t done = 0;
	struct worker like = {.job = job, .cursor = cursor, .lock = &lock, .stop = &stop, .done = &done};
	bool two = is_much(cursor);
	pthread_t thread;
	cleanup_close int mem_fd = -1;
	struct worker *w, *other;
	int r = -1;

	if (open_mem(job, &mem_fd, err) < 0)
		return -1;
	like.mem_fd = mem_fd;
	w = worker_create(&like, job->scratch);
	other = two ? worker_create(&like, NULL) : NULL;
	if (!w) {
		err_nomem(err);
	} else {
		two = other && pthread_create(&thread, NULL, worker_main, other) == 0;
		r = run_chunks(w, true);
		if (r < 0) {
			*err = w->err;
			atomic_store(&stop, true);
		}
		if (two)
			pthread_join(thread, NULL);
		if (r == 0 && two && other->failed) {
			*err = other->err;
			r = -1;
		}
	}
	worker_destroy(w);
	worker_destroy(other);
	return r;
}

int fill_task(const struct fill_job *job, struct err *err)
{
	struct cursor cursor = {.pagemap = job->pagemap,
				.areas = job->areas,
				.n_areas = job->n_areas,
				.left_only = job->left_only};
	int r = cursor_open(&cursor, job->store, err);

	if (r == 0)
		r = run_job(job, &cursor, err);
	cursor_close(&cursor);
	return r;
}

static int write_shmem_chunk(const struct chunk *ch, const uint8_t *buf, int fd, uint64_t limit,
			     const struct snap_pagemap *pm, struct err *err)
{
	for (unsigned int i = 0; i < ch->n; i++) {
		const struct piece *p = &ch->v[i];
		size_t bytes = p->bytes;
		ssize_t put;

		if (p->addr >= limit || p->bytes > PAGE_ALIGN(limit) - p->addr)
			return err_set(err, EINVAL,
				       "pagemap-shmem-%llu.img: the page at offset 0x%llx lies "
				       "behind the end of the segment",
				       (unsigned long long)pm->id, (unsigned long long)p->addr);
		bytes = MIN(bytes, limit - p->addr); /* the tail of the last page is not of the file */
		for (size_t off = 0; off < bytes; off += (size_t)put) {
			put = pwrite(fd, buf + off, bytes - off, (off_t)(p->addr + off));
			if (put < 0 && errno == EINTR)
				put = 0;
			else if (put <= 0)
				return err_sys(err,
					       "cannot write shared memory %llu at offset 0x%llx",
					       (unsigned long long)pm->id,
					       (unsigned long long)p->addr);
		}
		buf += p->bytes;
	}
	return 0;
}

static int fill_segment(struct cursor *cursor, int fd, uint64_t bytes, struct err *err)
{
	cleanup_free struct chunk *ch = malloc(sizeof(*ch));
	cleanup_free uint8_t *buf = malloc(CHUNK_BYTES);
	int r;

	if (!ch || !buf)
		return err_nomem(err);
	while ((r = next_chunk(cursor, ch, err)) > 0) {
		if (read_chunk(ch, buf, err) < 0 ||
		    write_shmem_chunk(ch, buf, fd, bytes, cursor->pagemap, err) < 0)
			return -1;
	}
	return r;
}

int fill_shmem(struct store *store, const struct snap_pagemap *pagemap, int fd, uint64_t bytes,
	       struct err *err)
{
	struct cursor cursor = {.pagemap = pagemap};
	int r = cursor_open(&cursor, store, err);

	if (r == 0)
		r = fill_segment(&cursor, fd, bytes, err);
	cursor_close(&cursor);
	return r;
}

int pagemap_read(struct store *store, const struct snap_pagemap *pagemap, uint64_t addr, void *buf,
		 size_t bytes, struct err *err)
{
	struct cursor c = {.pagemap = pagemap};
	uint64_t at = addr;
	int r = pagemap_extents(pagemap, addr, addr + bytes, &c.extents, err);

	if (r == 0)
		r = open_stores(store, &c.extents, &c, err);
	vec_foreach (x, &c.extents) {
		if (r < 0 || x->vaddr != at)
			break;
		r = store_get_pages(c.stores.v[x->level], x->pages_id, x->off,
				    (uint8_t *)buf + (at - addr), x->n_pages * PAGE_BYTES, err);
		at += x->n_pages * PAGE_BYTES;
	}
	cursor_close(&c);
	return r < 0 ? -1 : at == addr + bytes;
}

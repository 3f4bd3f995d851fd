// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "drain"
#include "mem/drain.h"
#include "base/io.h"
#include "base/log.h"
#include "kernel/pagescan.h"
#include "mem/ahead.h"
#include "mem/read.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* Linux 6.11 */
#endif

/* Ranges of [start, end) that match. 0; 1: the kernel has no such ioctl; -1. */
static int scan(int pagemap, uint64_t start, uint64_t end, const struct pagescan *what,
		mem_ranges *out, struct err *err)
{
	pagescan_regions found = {0};
	int rc = pagescan(pagemap, start, end, what, &found, err);

	vec_foreach (r, &found) {
		if (rc == 0)
			rc = mem_ranges_push(out, r->start, r->end, err);
	}
	vec_free(&found);
	return rc;
}

int mem_find_guards(pid_t pid, mem_ranges *out, struct err *err)
{
	static const struct pagescan guards = {.with = PAGE_IS_GUARD};
	cleanup_close int pagemap = io_openf(O_RDONLY, "/proc/%d/pagemap", pid);

	if (pagemap < 0)
		return err_sys(err, "cannot open the pagemap of pid %d", pid);
	return scan(pagemap, 0, 0x7ffffffff000ULL, &guards, out, err) < 0 ? -1 : 0;
}

/* ---- without PAGEMAP_SCAN: 64-bit entries of /proc/PID/pagemap ---- */

enum { PM_ENTRIES = 4096 };

static int scan_entries(int pagemap, uint64_t start, uint64_t end, mem_ranges *out, struct err *err)
{
	uint64_t entries[PM_ENTRIES];
	size_t n, i;

	while (start < end) {
		n = MIN((end - start) / PAGE_BYTES, (uint64_t)PM_ENTRIES);
		if (io_pread_full(pagemap, entries, n * 8, (off_t)(start / PAGE_BYTES * 8)))
			return err_sys(err, "cannot read the pagemap at %llx",
				       (unsigned long long)start);
		for (i = 0; i < n; i++, start += PAGE_BYTES) {
			bool there = entries[i] >> 63 & 1 || entries[i] >> 62 & 1,
			     file = entries[i] >> 61 & 1;

			if (there && !file && mem_ranges_push(out, start, start + PAGE_BYTES, err))
				return -1;
		}
	}
	return 0;
}

/* ---- plans ---- */

/* Blocks begin with what one page table maps, and double as long as there is no gap between them. */
#define LATE_BLOCK_BYTES (2UL << 20)
#define LATE_BLOCK_MAX_BYTES (64UL << 20)

bool drain_has_own_pages(const VmaEntry *e)
{
	return (e->status & VMA_REGULAR) && (e->status & (VMA_FILE_PRIVATE | VMA_ANON_PRIVATE)) &&
	       !(e->status & VMA_VVAR);
}

static bool is_planned_by_scan(const VmaEntry *e)
{
	return drain_has_own_pages(e) && !(e->status & VMA_VDSO);
}

/* The parts of ascending ranges that are in an area, from range *@at on. */
static int clip_ranges(const mem_ranges *found, size_t *at, const VmaEntry *e, mem_ranges *out,
		       struct err *err)
{
	while (*at < found->n && found->v[*at].end <= e->start)
		++*at;
	for (size_t i = *at; i < found->n && found->v[i].start < e->end; i++)
		if (mem_ranges_push(out, MAX(found->v[i].start, e->start),
				    MIN(found->v[i].end, e->end), err))
			return -1;
	return 0;
}

/*
 * Plans areas first..last, which have nothing but holes between them, with one scan. 1: the kernel
 * cannot scan.
 */
static int plan_areas(int pagemap, VmaEntry *const *first, VmaEntry *const *last, mem_ranges *out,
		      struct err *err)
{
	/* Present or swapped, not the page cache's, not the zero page, not a guard (which looks like swap). */
	static const struct pagescan own = {
		.without = PAGE_IS_FILE | PAGE_IS_PFNZERO | PAGE_IS_GUARD,
		.any = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};
	mem_ranges found = {0};
	size_t at = 0;
	int rc = scan(pagemap, (*first)->start, (*last)->end, &own, &found, err);

	for (; first <= last && rc == 0; first++)
		rc = clip_ranges(&found, &at, *first, out, err);
	vec_free(&found);
	return rc;
}

static int plan_by_entries(int pagemap, const MmEntry *mm, mem_ranges *out, struct err *err)
{
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *e = mm->vmas[i];

		if (e->status & VMA_VDSO   ? mem_ranges_push(out, e->start, e->end, err) :
		    drain_has_own_pages(e) ? scan_entries(pagemap, e->start, e->end, out, err) :
					     0)
			return -1;
	}
	return 0;
}

/* 1: the kernel cannot scan. */
static int plan_by_scan(int pagemap, const MmEntry *mm, mem_ranges *out, struct err *err)
{
	size_t i, last;
	int rc = 0;

	for (i = 0; i < mm->n_vmas && rc == 0; i = last + 1) {
		last = i;
		if (is_planned_by_scan(mm->vmas[i])) {
			while (last + 1 < mm->n_vmas && is_planned_by_scan(mm->vmas[last + 1]))
				last++;
			rc = plan_areas(pagemap, &mm->vmas[i], &mm->vmas[last], out, err);
		} else if (mm->vmas[i]->status & VMA_VDSO) { /* whole: another kernel's may differ */
			rc = mem_ranges_push(out, mm->vmas[i]->start, mm->vmas[i]->end, err);
		}
	}
	return rc;
}

int drain_plan_task(pid_t pid, const MmEntry *mm, mem_ranges *out, struct err *err)
{
	cleanup_close int pagemap = io_openf(O_RDONLY, "/proc/%d/pagemap", pid);
	int rc;

	if (pagemap < 0)
		return err_sys(err, "cannot open the pagemap of pid %d", pid);
	rc = plan_by_scan(pagemap, mm, out, err);
	if (rc == 1) {
		out->n = 0;
		rc = plan_by_entries(pagemap, mm, out, err);
	}
	return rc ? err_wrap(err, "pid %d", pid) : 0;
}

/* Private anonymous memory; a userfaultfd takes none that the kernel may drop. */
static bool may_be_late(const VmaEntry *e)
{
	return (e->flags & MAP_ANONYMOUS) && (e->flags & MAP_PRIVATE) &&
	       !(e->flags & (MAP_LOCKED | MAP_DROPPABLE)) && !(e->status & (VMA_VDSO | VMA_VVAR));
}

/* The block that begins at @data or before it, but not before @at; *bytes: of the block before this one, then of this one. */
static struct mem_range late_block(uint64_t at, uint64_t data, uint64_t end, uint64_t *bytes)
{
	uint64_t first = data & ~(LATE_BLOCK_BYTES - 1), start = MAX(first, at);

	*bytes = start == at ? MIN(2 * *bytes, LATE_BLOCK_MAX_BYTES) : LATE_BLOCK_BYTES;
	return (struct mem_range){start, MIN((start & ~(LATE_BLOCK_BYTES - 1)) + *bytes, end)};
}

/* Blocks of one area that have a page at all. 1: the kernel cannot scan. */
static int plan_blocks(int pagemap, const VmaEntry *e, mem_ranges *out, struct err *err)
{
	static const struct pagescan first = {
		.without = PAGE_IS_FILE | PAGE_IS_PFNZERO | PAGE_IS_GUARD,
		.any = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.max_pages = 1,
	};
	uint64_t at = e->start, bytes = LATE_BLOCK_BYTES / 2;
	mem_ranges found = {0};
	int rc = 0;

	while (at < e->end && rc == 0) {
		struct mem_range block;

		found.n = 0;
		rc = scan(pagemap, at, e->end, &first, &found, err);
		if (rc || !found.n)
			break;
		block = late_block(at, found.v[0].start, e->end, &bytes);
		rc = mem_ranges_push(out, block.start, block.end, err);
		at = block.end;
	}
	vec_free(&found);
	return rc;
}

/* Takes the guard regions out of a plan: they cannot be read. */
static int leave_guards(const MmEntry *mm, mem_ranges *plan, struct err *err)
{
	mem_ranges guards = {0}, left = {0};
	int rc = 0;

	for (size_t i = 0; i < mm->n_vmas && rc == 0; i++) {
		if (mm->vmas[i]->status & VMA_GUARD)
			rc = mem_ranges_push(&guards, mm->vmas[i]->start, mm->vmas[i]->end, err);
	}
	if (rc == 0 && guards.n) {
		rc = mem_ranges_without(plan, &guards, &left, err);
		vec_free(plan);
		*plan = left;
	}
	vec_free(&guards);
	return rc;
}

int drain_plan_late(pid_t pid, const MmEntry *mm, mem_ranges *out, struct err *err)
{
	cleanup_close int pagemap = io_openf(O_RDONLY, "/proc/%d/pagemap", pid);
	int rc = 0;

	if (pagemap < 0)
		return err_sys(err, "cannot open the pagemap of pid %d", pid);
	for (size_t i = 0; i < mm->n_vmas && rc == 0; i++) {
		const VmaEntry *e = mm->vmas[i];

		if (e->status & VMA_VDSO)
			rc = mem_ranges_push(out, e->start, e->end, err);
		else if (drain_has_own_pages(e))
			rc = may_be_late(e) ?
				     plan_blocks(pagemap, e, out, err) :
				     plan_areas(pagemap, &mm->vmas[i], &mm->vmas[i], out, err);
	}
	if (rc == 1) {
		out->n = 0;
		rc = plan_by_entries(pagemap, mm, out, err);
	}
	if (rc == 0)
		rc = leave_guards(mm, out, err);
	return rc ? err_wrap(err, "pid %d", pid) : 0;
}

int drain_plan_file(int fd, uint64_t bytes, mem_ranges *out, struct err *err)
{
	off_t data = 0, hole;

	while ((uint64_t)data < bytes) {
		data = lseek(fd, data, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return err_sys(err, "cannot look for data in shared memory");
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_sys(err, "cannot look for holes in shared memory");
		if (mem_ranges_push(out, (uint64_t)data & ~(PAGE_BYTES - 1),
				    PAGE_ALIGN((uint64_t)hole), err))
			return -1;
		data = hole;
	}
	return 0;
}

int drain_plan_file_late(int fd, uint64_t bytes, mem_ranges *out, struct err *err)
{
	uint64_t end = PAGE_ALIGN(bytes), at = 0, block_bytes = LATE_BLOCK_BYTES / 2;

	while (at < end) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		struct mem_range block;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return err_sys(err, "cannot look for data in shared memory");
		block = late_block(at, (uint64_t)data, end, &block_bytes);
		if (mem_ranges_push(out, block.start, block.end, err) < 0)
			return -1;
		at = block.end;
	}
	return 0;
}

/* ---- the work ---- */

int drain_init(struct drain *d, struct page_sink *sink, struct err *err)
{
	memset(d, 0, sizeof(*d));
	d->sink = sink;
	/* of the heap, which is warm in a freeze (base/warm.h) */
	d->buf = aligned_alloc(PAGE_BYTES, DRAIN_CHUNK_BYTES);
	return d->buf ? 0 : err_nomem(err);
}

void drain_finish(struct drain *d)
{
	free(d->buf);
	d->buf = NULL;
}

/* From so much memory on the second thread pays, and for chunks from so many bytes on. */
enum { AHEAD_BYTES = 8 << 20, AHEAD_CHUNK_BYTES = 256 << 10 };

/* Passes on a chunk, but for zero pages where absent pages read as zero. */
static int pass_on(struct drain *d, struct snap_pagemap *pm, uint64_t vaddr, const uint8_t *data,
		   size_t bytes, uint32_t flags, bool skip_zero, struct err *err)
{
	size_t at = 0, run, end = bytes;

	while (at < end) {
		while (skip_zero && at < end && page_is_zero(data + at)) {
			if (d->zeros &&
			    mem_ranges_push(d->zeros, vaddr + at, vaddr + at + PAGE_BYTES, err))
				return -1;
			at += PAGE_BYTES;
			d->zero_pages++;
		}
		for (run = at; run < end && !(skip_zero && page_is_zero(data + run));
		     run += PAGE_BYTES)
			;
		if (run == at)
			continue;
		if (d->sink->ops->pages(d->sink, pm, vaddr + at, data + at, (run - at) / PAGE_BYTES,
					flags, err))
			return -1;
		d->pages += (run - at) / PAGE_BYTES;
		at = run;
	}
	d->done_bytes += bytes;
	if (d->progress)
		d->progress(d->arg, d->done_bytes, d->total_bytes);
	return 0;
}

static const VmaEntry *area_at(const MmEntry *mm, uint64_t addr, size_t *hint)
{
	for (; *hint < mm->n_vmas; ++*hint)
		if (addr < mm->vmas[*hint]->end && addr >= mm->vmas[*hint]->start &&
		    !(mm->vmas[*hint]->status & VMA_GUARD))
			return mm->vmas[*hint];
	return NULL;
}

static uint32_t entry_flags(const VmaEntry *e)
{
	return PE_PRESENT | (may_be_late(e) ? PE_LAZY : 0);
}

/* A part of a planned range, within one area. */
struct chunk {
	const VmaEntry *area;
	uint64_t at;
	size_t bytes;
	bool now; /* it must not come later */
};

/* One chunk of an area: it is passed on now, or noted for later. @data: what was read ahead, or NULL. */
static int drain_chunk(struct drain *d, const struct task_memory *mem, const struct chunk *c,
		       const uint8_t *data, struct snap_pagemap *pm, struct err *err)
{
	bool skip_zero = !d->announced && (c->area->status & VMA_ANON_PRIVATE) &&
			 !(c->area->status & VMA_VDSO);
	size_t half = c->bytes / 2 & ~(PAGE_BYTES - 1);
	struct chunk first = {c->area, c->at, half, c->now};
	struct chunk second = {c->area, c->at + half, c->bytes - half, c->now};
	uint32_t flags = entry_flags(c->area) & ~(c->now ? PE_LAZY : 0);

	if (!data && task_memory_read(mem, c->at, d->buf, c->bytes, err) == 0)
		data = d->buf;
	if (data)
		return pass_on(d, pm, c->at, data, c->bytes, flags, skip_zero, err);
	/* What a running task has let go meanwhile is left out, page by page. */
	if (!d->running)
		return -1;
	if (c->bytes == PAGE_BYTES)
		return 0;
	return drain_chunk(d, mem, &first, NULL, pm, err) ?
		       -1 :
		       drain_chunk(d, mem, &second, NULL, pm, err);
}

/* The pages below @end that the receiver has: before those at @end, as addresses ascend. */
static int pass_kept(struct drain *d, struct snap_pagemap *pm, size_t *at, uint64_t end,
		     struct err *err)
{
	const struct mem_range *r;

	for (; d->kept && *at < d->kept->n && d->kept->v[*at].start < end; ++*at) {
		r = &d->kept->v[*at];
		if (d->sink->ops->absent(d->sink, pm, r->start, (r->end - r->start) / PAGE_BYTES,
					 PE_PARENT, err))
			return -1;
		d->kept_pages += (r->end - r->start) / PAGE_BYTES;
	}
	return 0;
}

/* Walks the chunks of a plan. */
struct chunk_walk {
	const MmEntry *mm;
	const mem_ranges *plan;
	const mem_ranges *now; /* chunks are within or without; NULL: none */
	size_t range, area, hint;
	uint64_t at; /* in the range; 0: at its start */
};

/* Until @end, or less: the end of what has the same answer as @at. *now_out: do not let it come later. */
static uint64_t same_until(const mem_ranges *now, size_t *hint, uint64_t at, uint64_t end,
			   bool *now_out)
{
	*now_out = false;
	while (now && *hint < now->n && now->v[*hint].end <= at)
		++*hint;
	if (!now || *hint == now->n)
		return end;
	*now_out = now->v[*hint].start <= at;
	return MIN(end, *now_out ? now->v[*hint].end : now->v[*hint].start);
}

/* The next chunk; 0: there is none, 1, or -1. */
static int next_chunk(struct chunk_walk *w, struct chunk *c, struct err *err)
{
	uint64_t end;
	const struct mem_range *r;

	if (w->range == w->plan->n)
		return 0;
	r = &w->plan->v[w->range];
	c->at = MAX(w->at, r->start);
	c->area = area_at(w->mm, c->at, &w->area);
	if (!c->area)
		return err_set(err, EPROTO, "a page at %llx is outside of all areas",
			       (unsigned long long)c->at);
	end = same_until(w->now, &w->hint, c->at, MIN(r->end, c->area->end), &c->now);
	c->bytes = MIN(end - c->at, (uint64_t)DRAIN_CHUNK_BYTES);
	w->at = c->at + c->bytes;
	if (w->at >= r->end)
		w->range++;
	return 1;
}

/* A second walk of the same plan. */
struct scout {
	struct chunk_walk walk;
	struct chunk next;
	int more; /* there is a next one */
};

int drain_announce_task(const MmEntry *mm, const mem_ranges *plan, struct snapshot *snap,
			struct snap_pagemap *pm, struct err *err)
{
	struct chunk_walk walk = {.mm = mm, .plan = plan};
	struct chunk c;
	int more;

	while ((more = next_chunk(&walk, &c, err)) > 0)
		if (pagemap_add(snap, pm, c.at, c.bytes / PAGE_BYTES, entry_flags(c.area), err))
			return -1;
	return more;
}

int drain_announce_file(const mem_ranges *plan, struct snapshot *snap, struct snap_pagemap *pm,
			struct err *err)
{
	vec_foreach (r, plan)
		if (pagemap_add(snap, pm, r->start, (r->end - r->start) / PAGE_BYTES, PE_PRESENT, err))
			return -1;
	return 0;
}

static bool is_for_later(const struct drain *d, const struct chunk *c)
{
	return d->lazy && !c->now && (entry_flags(c->area) & PE_LAZY);
}

/* Reads ahead, from the first chunk on for which that pays; a thread is made for it then. */
struct reader {
	const struct task_memory *mem;
	struct ahead *ahead;
	bool wanted;
};

/* Has the reader begin what comes next; @scout is where that is, ahead of the walk. To hand over less costs more than to read it. */
static int keep_reading(struct drain *d, struct reader *r, struct scout *scout, struct err *err)
{
	while (r->wanted && scout->more > 0) {
		const struct chunk *c = &scout->next;

		if (c->bytes >= AHEAD_CHUNK_BYTES && !is_for_later(d, c)) {
			if (!r->ahead)
				r->ahead = ahead_open(r->mem, DRAIN_CHUNK_BYTES);
			if (!r->ahead)
				r->wanted = false;
			else if (!ahead_start(r->ahead, c->at, c->bytes))
				return 0;
		}
		scout->more = next_chunk(&scout->walk, &scout->next, err);
	}
	return r->wanted && scout->more < 0 ? -1 : 0;
}

static int drain_step(struct drain *d, const struct reader *r, const struct chunk *c,
		      struct snap_pagemap *pm, struct err *err)
{
	if (!is_for_later(d, c))
		return drain_chunk(d, r->mem, c, ahead_take(r->ahead, c->at, c->bytes), pm, err);
	if (mem_ranges_push(d->lazy, c->at, c->at + c->bytes, err))
		return -1;
	return d->sink->ops->absent(d->sink, pm, c->at, c->bytes / PAGE_BYTES, PE_LAZY, err);
}

static int drain_areas(struct drain *d, struct reader *r, const MmEntry *mm, const mem_ranges *plan,
		       struct snap_pagemap *pm, struct err *err)
{
	struct chunk_walk walk = {.mm = mm, .plan = plan, .now = d->lazy ? d->now : NULL};
	struct scout scout = {.walk = walk};
	struct chunk c;
	size_t kept = 0;
	int more;

	scout.more = next_chunk(&scout.walk, &scout.next, err);
	while ((more = next_chunk(&walk, &c, err)) > 0)
		if (keep_reading(d, r, &scout, err) || pass_kept(d, pm, &kept, c.at, err) ||
		    drain_step(d, r, &c, pm, err))
			return -1;
	return more < 0 ? -1 : pass_kept(d, pm, &kept, UINT64_MAX, err);
}

int drain_task(struct drain *d, pid_t pid, const MmEntry *mm, const mem_ranges *plan,
	       struct snap_pagemap *pm, struct err *err)
{
	struct task_memory mem;
	/* what goes now where the rest goes later is little */
	struct reader reader = {.mem = &mem,
				.wanted = !d->lazy && mem_ranges_bytes(plan) >= AHEAD_BYTES};
	bool gone = task_memory_open(&mem, pid, err) != 0;
	int rc;

	/* A running task may end at any time: then it has no pages. */
	if (gone && !(d->running && (err->no == ENOENT || err->no == ESRCH)))
		return -1;
	rc = d->sink->ops->begin(d->sink, pm, err);
	if (rc == 0 && !gone)
		rc = drain_areas(d, &reader, mm, plan, pm, err);
	ahead_close(reader.ahead);
	if (!gone)
		task_memory_close(&mem);
	if (rc)
		return err_wrap(err, "pid %d", pid);
	return d->sink->ops->end(d->sink, pm, err);
}

int drain_file(struct drain *d, int fd, const mem_ranges *plan, struct snap_pagemap *pm,
	       struct err *err)
{
	uint64_t at;
	size_t i, bytes;
	ssize_t n;

	if (d->sink->ops->begin(d->sink, pm, err))
		return -1;
	for (i = 0; i < plan->n; i++)
		for (at = plan->v[i].start; at < plan->v[i].end; at += bytes) {
			bytes = MIN(plan->v[i].end - at, (uint64_t)DRAIN_CHUNK_BYTES);
			n = pread(fd, d->buf, bytes, (off_t)at);
			if (n <= 0)
				return err_sys(err, "cannot read shared memory at offset %llx",
					       (unsigned long long)at);
			memset(d->buf + n, 0,
			       PAGE_ALIGN((size_t)n) - (size_t)n); /* the file may end within a page */
			bytes = PAGE_ALIGN((size_t)n);
			if (pass_on(d, pm, at, d->buf, bytes, PE_PRESENT, !d->announced, err))
				return -1;
		}
	return d->sink->ops->end(d->sink, pm, err);
}

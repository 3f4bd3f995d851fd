// SPDX-License-Identifier: Apache-2.0
/*
 * Pages that a program touches before it has done anything. If they came late each would cost a round trip, one
 * after the other, some of them before the tree runs:
 *
 *	of every thread its stack, and what is around its thread pointer, with the area of
 *	rseq(2) that the restore itself and the kernel write to;
 *	what it has of its own of programs and libraries: their data, the tables by which they call each other, and the
 *	zeroed data behind them. Only so much of it: it goes in the freeze.
 */
#include "capture/session.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { RED_ZONE_BYTES = 128, AREA_PAGES = 48 };

typedef VEC(uint64_t) pages;

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The first pages of an area, as far as there is @room. */
static bool add_area(pages *to, const VmaEntry *e, size_t *room)
{
	size_t n = MIN((e->end - e->start) / PAGE_BYTES, MIN(*room, (size_t)AREA_PAGES));

	for (size_t i = 0; i < n; i++)
		if (!vec_push(to, e->start + i * PAGE_BYTES))
			return false;
	*room -= n;
	return true;
}

/* Of a program or library: data that it can write to. */
static bool is_data(const VmaEntry *e)
{
	return e->status == (VMA_REGULAR | VMA_FILE_PRIVATE) && e->prot & PROT_WRITE;
}

/* What lies before it was written to by ld.so only; what is behind it has no file. */
static bool add_data(pages *to, const MmEntry *mm, size_t i, size_t *room)
{
	const VmaEntry *e = mm->vmas[i];
	const VmaEntry *before = i ? mm->vmas[i - 1] : NULL;
	const VmaEntry *behind = i + 1 < mm->n_vmas ? mm->vmas[i + 1] : NULL;

	if (before && before->end == e->start && before->shmid == e->shmid &&
	    before->status == e->status && before->prot == PROT_READ && !add_area(to, before, room))
		return false;
	if (!add_area(to, e, room))
		return false;
	return !behind || behind->start != e->end ||
	       behind->status != (VMA_REGULAR | VMA_ANON_PRIVATE) || add_area(to, behind, room);
}

/* The program is the lowest one; then those that were mapped first, the highest: ld.so, the C library. */
static bool add_all_data(pages *to, const MmEntry *mm, size_t room)
{
	size_t program = 0;

	while (program < mm->n_vmas && !is_data(mm->vmas[program]))
		program++;
	if (program < mm->n_vmas && !add_data(to, mm, program, &room))
		return false;
	for (size_t i = mm->n_vmas; room && i-- > program + 1;)
		if (is_data(mm->vmas[i]) && !add_data(to, mm, i, &room))
			return false;
	return true;
}

static bool add_thread(pages *to, const struct live_thread *th)
{
	const uint64_t at[] = {th->regs.rsp, th->regs.rsp - RED_ZONE_BYTES,
			       th->regs.rsp + PAGE_BYTES, th->regs.fs_base, th->rseq};

	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		if (at[i] && !vec_push(to, at[i] & ~(PAGE_BYTES - 1)))
			return false;
	return true;
}

int hot_pages(const struct live_task *t, size_t data_pages, mem_ranges *out, struct err *err)
{
	pages all = {0};
	int rc = 0;

	vec_foreach (th, &t->threads)
		if (rc == 0 && !add_thread(&all, th))
			rc = err_nomem(err);
	if (rc == 0 && !add_all_data(&all, t->facts.snap->mm, data_pages))
		rc = err_nomem(err);
	if (all.n)
		qsort(all.v, all.n, sizeof(*all.v), by_number);
	for (size_t i = 0; i < all.n && rc == 0; i++)
		if (i == 0 || all.v[i] != all.v[i - 1])
			rc = mem_ranges_push(out, all.v[i], all.v[i] + PAGE_BYTES, err);
	vec_free(&all);
	return rc;
}

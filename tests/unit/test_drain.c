// SPDX-License-Identifier: Apache-2.0
// mem/drain: which pages are planned, and what a sink is given.
#include "unit.h"

#include "mem/drain.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { SPARSE = 5000 }; /* more runs than any array of a scan holds */

/* The pages that a sink was given. */
struct seen {
	struct page_sink sink;
	uint64_t pages, wrong, last;
};

static int begin(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	return 0;
}

static int pages(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, const void *data,
		 uint64_t n, uint32_t flags, struct err *err)
{
	struct seen *seen = (struct seen *)s;
	const uint8_t *bytes = data;

	seen->wrong += vaddr < seen->last;
	for (uint64_t i = 0; i < n; i++, vaddr += PAGE_BYTES)
		seen->wrong += memcmp(bytes + i * PAGE_BYTES, (void *)vaddr, PAGE_BYTES) != 0;
	seen->last = vaddr;
	seen->pages += n;
	return 0;
}

static int end(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	return 0;
}

static const struct page_sink_ops seen_ops = {.name = "seen",
					      .begin = begin,
					      .pages = pages,
					      .end = end};

static VmaEntry *area(VmaEntry *e, uint8_t *at, uint64_t bytes)
{
	vma_entry__init(e);
	e->start = (uintptr_t)at;
	e->end = e->start + bytes;
	e->prot = PROT_READ | PROT_WRITE;
	e->flags = MAP_PRIVATE | MAP_ANONYMOUS;
	e->status = VMA_REGULAR | VMA_ANON_PRIVATE;
	return e;
}

static uint8_t *map(uint64_t bytes)
{
	uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(at != MAP_FAILED);
	madvise(at, bytes, MADV_NOHUGEPAGE);
	return at;
}

/* Every second page of an area is there, and the last area of three begins where the second ends. */
static void sparse_areas(void **state)
{
	const uint64_t bytes = SPARSE * 2 * PAGE_BYTES;
	VmaEntry e[3], *areas[] = {&e[0], &e[1], &e[2]};
	struct seen seen = {.sink = {&seen_ops}};
	uint8_t *at = map(bytes), *first;
	struct snap_pagemap pm = {0};
	mem_ranges plan = {0};
	struct drain d;
	MmEntry mm = MM_ENTRY__INIT;
	struct err err;
	uint64_t i;

	for (i = 0; i < SPARSE; i++)
		memset(at + i * 2 * PAGE_BYTES, (int)(i % 255 + 1), PAGE_BYTES);
	/* the areas: all but a page at the start, cut in two; and one before them that has no page */
	first = at + PAGE_BYTES;
	area(&e[0], at - 16 * PAGE_BYTES, 8 * PAGE_BYTES);
	area(&e[1], first, 1001 * PAGE_BYTES);
	area(&e[2], first + 1001 * PAGE_BYTES, bytes - 1002 * PAGE_BYTES);
	e[0].status = 0; /* not ours to look at */
	mm.vmas = areas;
	mm.n_vmas = 3;
	assert_int_equal(drain_plan_task(getpid(), &mm, &plan, &err), 0);
	assert_int_equal(mem_ranges_bytes(&plan), (SPARSE - 1) * PAGE_BYTES);
	for (i = 0; i < plan.n; i++) {
		assert_true(plan.v[i].start < plan.v[i].end);
		assert_true(plan.v[i].start >= (uintptr_t)first);
		assert_true(i == 0 || plan.v[i].start >= plan.v[i - 1].end);
	}
	assert_int_equal(drain_init(&d, &seen.sink, &err), 0);
	assert_int_equal(drain_task(&d, getpid(), &mm, &plan, &pm, &err), 0);
	assert_int_equal(seen.pages, SPARSE - 1);
	assert_int_equal(seen.wrong, 0);
	drain_finish(&d);
	vec_free(&plan);
	munmap(at, bytes);
}

/* Pages of zeros are not passed on. */
static void zero_pages(void **state)
{
	VmaEntry e, *areas[] = {&e};
	struct seen seen = {.sink = {&seen_ops}};
	struct snap_pagemap pm = {0};
	MmEntry mm = MM_ENTRY__INIT;
	uint8_t *at = map(4 * PAGE_BYTES);
	mem_ranges plan = {0};
	struct drain d;
	struct err err;

	memset(at, 0, 4 * PAGE_BYTES);
	at[PAGE_BYTES] = at[3 * PAGE_BYTES + 17] = 1;
	area(&e, at, 4 * PAGE_BYTES);
	mm.vmas = areas;
	mm.n_vmas = 1;
	assert_int_equal(drain_plan_task(getpid(), &mm, &plan, &err), 0);
	assert_int_equal(drain_init(&d, &seen.sink, &err), 0);
	assert_int_equal(drain_task(&d, getpid(), &mm, &plan, &pm, &err), 0);
	assert_int_equal(seen.pages, 2);
	assert_int_equal(seen.wrong, 0);
	assert_int_equal(d.zero_pages, 2);
	drain_finish(&d);
	vec_free(&plan);
	munmap(at, 4 * PAGE_BYTES);
}

/* Large enough that a second thread reads ahead; single pages between the large chunks. */
static void much_memory(void **state)
{
	const uint64_t bytes = 48UL << 20;
	VmaEntry e, *areas[] = {&e};
	struct seen seen = {.sink = {&seen_ops}};
	struct snap_pagemap pm = {0};
	MmEntry mm = MM_ENTRY__INIT;
	uint8_t *at = map(bytes);
	mem_ranges plan = {0};
	uint64_t i, there = 0;
	struct drain d;
	struct err err;

	for (i = 0; i < bytes / PAGE_BYTES; i++) {
		/* holes on both sides of one page, every 9 MiB */
		if (i % 2304 == 2000 || i % 2304 == 2002)
			continue;
		memset(at + i * PAGE_BYTES, (int)(i % 251 + 1), PAGE_BYTES);
		there++;
	}
	area(&e, at, bytes);
	mm.vmas = areas;
	mm.n_vmas = 1;
	assert_int_equal(drain_plan_task(getpid(), &mm, &plan, &err), 0);
	assert_int_equal(drain_init(&d, &seen.sink, &err), 0);
	assert_int_equal(drain_task(&d, getpid(), &mm, &plan, &pm, &err), 0);
	assert_int_equal(seen.pages, there);
	assert_int_equal(seen.wrong, 0);
	drain_finish(&d);
	vec_free(&plan);
	munmap(at, bytes);
}

/* Sums up the bytes of a plan that are in [start, end). */
static uint64_t planned(const mem_ranges *plan, uint64_t start, uint64_t end)
{
	uint64_t sum = 0;

	vec_foreach (r, plan) {
		if (r->start < end && r->end > start)
			sum += MIN(r->end, end) - MAX(r->start, start);
	}
	return sum;
}

/* What may come late is planned in blocks, if they have a page; guards are left out, and other areas are exact. */
static void late_blocks(void **state)
{
	const uint64_t block = 2UL << 20, bytes = 10 * block;
	uint8_t *at = map(bytes);
	uint64_t base = ((uintptr_t)at + block - 1) & ~(block - 1);
	uint8_t *a = (uint8_t *)base + PAGE_BYTES, *locked = (uint8_t *)base + 6 * block;
	uint8_t *droppable = locked + block;
	VmaEntry e[4], *areas[] = {&e[0], &e[1], &e[2], &e[3]};
	MmEntry mm = MM_ENTRY__INIT;
	mem_ranges plan = {0};
	struct err err;

	a[0] = 1; /* the first block of an area that begins behind its start */
	a[3 * block + 5 * PAGE_BYTES] = 1; /* blocks 1 and 2 are empty */
	a[5 * block - 2 * PAGE_BYTES] = 1; /* the last page of block 4 */
	locked[7 * PAGE_BYTES] = 1;
	area(&e[0], a, 6 * block - PAGE_BYTES);
	area(&e[1], locked, block);
	e[1].flags |= MAP_LOCKED;
	droppable[9 * PAGE_BYTES] = 1;
	area(&e[2], droppable, block);
	e[2].flags |= 0x08; /* MAP_DROPPABLE */
	area(&e[3], (uint8_t *)base + 3 * block, 2 * PAGE_BYTES);
	e[3].status = VMA_GUARD;
	mm.vmas = areas;
	mm.n_vmas = 4;
	assert_int_equal(drain_plan_late(getpid(), &mm, &plan, &err), 0);
	assert_int_equal(planned(&plan, (uintptr_t)at, base + PAGE_BYTES), 0);
	assert_int_equal(planned(&plan, base, base + block), block - PAGE_BYTES);
	assert_int_equal(planned(&plan, base + block, base + 3 * block), 0);
	assert_int_equal(planned(&plan, base + 3 * block, base + 3 * block + 2 * PAGE_BYTES), 0);
	assert_int_equal(planned(&plan, base + 3 * block, base + 5 * block),
			 2 * block - 2 * PAGE_BYTES);
	/* behind a block that adjoins the one before it, the next are larger */
	assert_int_equal(planned(&plan, base + 5 * block, base + 6 * block), block);
	assert_int_equal(planned(&plan, (uintptr_t)locked, (uintptr_t)droppable), PAGE_BYTES);
	assert_int_equal(planned(&plan, (uintptr_t)droppable, (uintptr_t)at + bytes), PAGE_BYTES);
	vec_free(&plan);
	munmap(at, bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sparse_areas),
		cmocka_unit_test(zero_pages),
		cmocka_unit_test(much_memory),
		cmocka_unit_test(late_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

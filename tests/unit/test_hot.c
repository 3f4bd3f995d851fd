// SPDX-License-Identifier: Apache-2.0
// Which pages go along with the state in a post-copy, and how many of them at the most.
#include "unit.h"

#include "capture/session.h"

#include <string.h>
#include <sys/mman.h>

enum { AREAS = 16 };

struct fixture {
	VmaEntry areas[AREAS], *list[AREAS];
	MmEntry mm;
	struct snap_task snap;
	struct live_task task;
	struct live_thread thread;
	mem_ranges hot;
};

static void add(struct fixture *f, uint64_t start, size_t pages, uint64_t file, uint32_t prot)
{
	VmaEntry *e = &f->areas[f->mm.n_vmas];

	vma_entry__init(e);
	e->start = start;
	e->end = start + pages * PAGE_BYTES;
	e->shmid = file;
	e->prot = prot;
	e->status = VMA_REGULAR | (file ? VMA_FILE_PRIVATE : VMA_ANON_PRIVATE);
	f->list[f->mm.n_vmas++] = e;
}

#define PROGRAM 0x400000u
#define LIBRARY 0x7f0000000000u
#define STACK 0x7ffd00000000u

/* A program and a library as ld.so maps them, heap, anonymous memory and a stack. */
static void make(struct fixture *f, size_t program_pages)
{
	memset(f, 0, sizeof(*f));
	mm_entry__init(&f->mm);
	f->mm.vmas = f->list;
	f->snap.mm = &f->mm;
	f->task.facts.snap = &f->snap;
	add(f, PROGRAM, 10, 1, PROT_READ | PROT_EXEC);
	add(f, PROGRAM + 0x200000, 2, 1, PROT_READ); /* written to by ld.so only */
	add(f, PROGRAM + 0x202000, program_pages, 1, PROT_READ | PROT_WRITE);
	add(f, PROGRAM + 0x202000 + program_pages * PAGE_BYTES, 3, 0, PROT_READ | PROT_WRITE);
	add(f, 0x10000000, 1000, 0, PROT_READ | PROT_WRITE); /* heap */
	add(f, LIBRARY, 100, 2, PROT_READ | PROT_EXEC);
	add(f, LIBRARY + 0x100000, 4, 2, PROT_READ | PROT_WRITE);
	add(f, LIBRARY + 0x200000, 50, 0, PROT_READ | PROT_WRITE);
	add(f, STACK, 100, 0, PROT_READ | PROT_WRITE);
	f->thread.regs.rsp = STACK + 50 * PAGE_BYTES + 8;
	f->thread.regs.fs_base = LIBRARY + 0x200000 + 5 * PAGE_BYTES + 64;
	assert_true(vec_push(&f->task.threads, f->thread));
}

static void look(struct fixture *f, size_t data_pages)
{
	struct err err;

	assert_int_equal(hot_pages(&f->task, data_pages, &f->hot, &err), 0);
	for (size_t i = 1; i < f->hot.n; i++)
		assert_true(f->hot.v[i - 1].end <= f->hot.v[i].start);
}

static bool has(const struct fixture *f, uint64_t at)
{
	vec_foreach (r, &f->hot)
		if (r->start <= at && at < r->end)
			return true;
	return false;
}

static void finish(struct fixture *f)
{
	vec_free(&f->hot);
	vec_free(&f->task.threads);
}

static void test_threads_only(void **state)
{
	struct fixture f;

	make(&f, 5);
	look(&f, 0);
	/* the red zone, the frame and the one that it returns to; the thread area */
	assert_true(has(&f, STACK + 49 * PAGE_BYTES) && has(&f, STACK + 50 * PAGE_BYTES) &&
		    has(&f, STACK + 51 * PAGE_BYTES));
	assert_true(has(&f, LIBRARY + 0x200000 + 5 * PAGE_BYTES));
	assert_int_equal(mem_ranges_bytes(&f.hot), 4 * PAGE_BYTES);
	finish(&f);
}

static void test_data(void **state)
{
	struct fixture f;

	make(&f, 5);
	look(&f, 100);
	assert_true(has(&f, PROGRAM + 0x200000) && has(&f, PROGRAM + 0x201000));
	for (size_t i = 0; i < 8; i++)
		assert_true(has(&f, PROGRAM + 0x202000 + i * PAGE_BYTES));
	for (size_t i = 0; i < 4; i++)
		assert_true(has(&f, LIBRARY + 0x100000 + i * PAGE_BYTES));
	/* code, heap and what is mapped apart are not data of a file */
	assert_false(has(&f, PROGRAM) || has(&f, 0x10000000) || has(&f, LIBRARY) ||
		     has(&f, LIBRARY + 0x200000));
	finish(&f);
}

static void test_bounds(void **state)
{
	struct fixture f;

	for (size_t room = 0; room < 150; room += 7) {
		make(&f, 5000);
		look(&f, room);
		assert_true(mem_ranges_bytes(&f.hot) <= (room + 4) * PAGE_BYTES);
		finish(&f);
	}
	/* a program with much data leaves some for others */
	make(&f, 5000);
	look(&f, HOT_DATA_PAGES);
	assert_true(has(&f, PROGRAM + 0x202000) && has(&f, LIBRARY + 0x100000));
	finish(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_only),
		cmocka_unit_test(test_data),
		cmocka_unit_test(test_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

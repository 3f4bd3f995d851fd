// SPDX-License-Identifier: Apache-2.0
// mem/fill: pages of a store into another process and into shared memory.
#include "unit.h"

#include "base/io.h"
#include "mem/fill.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { PAGES = 64, PAGES_ID = 7 };
#define AREA 0x30000000UL

static struct store *store;
static struct snap_pagemap pagemap;
static PagemapEntry entries[4];

/* Page @n of the images is filled with n + 1. */
static int make_store(void **state)
{
	uint8_t page[PAGE_BYTES];
	struct err err;

	store = store_memory_open(&err);
	if (!store)
		return -1;
	for (int i = 0; i < PAGES; i++) {
		memset(page, i + 1, sizeof(page));
		if (store_put_pages(store, PAGES_ID, page, sizeof(page), &err) < 0)
			return -1;
	}
	if (store_put_pages(store, PAGES_ID, NULL, 0, &err) < 0)
		return -1;
	memset(&pagemap, 0, sizeof(pagemap));
	pagemap.pages_id = PAGES_ID;
	return store_complete(store, &err);
}

static int close_store(void **state)
{
	vec_free(&pagemap.entries);
	store_close(store);
	return 0;
}

static void add_entry(size_t i, uint64_t addr, uint64_t pages, uint32_t flags)
{
	pagemap_entry__init(&entries[i]);
	entries[i].vaddr = addr;
	entries[i].has_nr_pages = entries[i].has_flags = true;
	entries[i].nr_pages = pages;
	entries[i].flags = flags;
	assert_true(vec_push(&pagemap.entries, &entries[i]));
}

/* A child that sleeps; what is mapped at AREA is shared with it by fork. */
static pid_t fork_sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	return pid;
}

static void end_sleeper(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static uint8_t peek(pid_t pid, uint64_t addr)
{
	char path[32];
	uint8_t byte = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)addr), 1);
	close(fd);
	return byte;
}

/* -1: it is missing, and somebody else is to bring it. */
static int peek_if_there(pid_t pid, uint64_t addr)
{
	cleanup_close int fd = io_openf(O_RDONLY, "/proc/%d/mem", pid);
	uint8_t byte;

	return pread(fd, &byte, 1, (off_t)addr) == 1 ? byte : -1;
}

static void map_area(void)
{
	assert_ptr_equal(mmap((void *)AREA, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 (void *)AREA);
}

static void writes_and_skips(void **state)
{
	struct fill_area areas[] = {
		{AREA, AREA + 4 * PAGE_BYTES, FILL_WRITE},
		{AREA + 4 * PAGE_BYTES, AREA + 6 * PAGE_BYTES, FILL_SKIP},
		{AREA + 6 * PAGE_BYTES, AREA + 9 * PAGE_BYTES, FILL_WRITE},
	};
	struct fill_job job = {
		.store = store, .pagemap = &pagemap, .uffd = -1, .areas = areas, .n_areas = 3};
	struct err err;

	map_area();
	job.pid = fork_sleeper();
	add_entry(0, AREA + PAGE_BYTES, 6, PE_PRESENT); /* over three areas */
	add_entry(1, AREA + 8 * PAGE_BYTES, 1, PE_PRESENT | PE_LAZY);
	if (fill_task(&job, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned int i = 1; i <= 3; i++)
		assert_int_equal(peek(job.pid, AREA + i * PAGE_BYTES), i);
	assert_int_equal(peek(job.pid, AREA + 4 * PAGE_BYTES), 0);
	assert_int_equal(peek(job.pid, AREA + 5 * PAGE_BYTES), 0);
	assert_int_equal(peek(job.pid, AREA + 6 * PAGE_BYTES), 6);
	assert_int_equal(peek(job.pid, AREA + 8 * PAGE_BYTES), 7);
	end_sleeper(job.pid);
}

static void compares(void **state)
{
	struct fill_area area = {AREA, AREA + 4 * PAGE_BYTES, FILL_COMPARE};
	struct fill_job job = {
		.store = store, .pagemap = &pagemap, .uffd = -1, .areas = &area, .n_areas = 1};
	struct err err;

	map_area();
	memset((void *)AREA, 1, PAGE_BYTES);
	memset((void *)(AREA + PAGE_BYTES), 99, PAGE_BYTES); /* differs, as page 2 */
	memset((void *)(AREA + 3 * PAGE_BYTES), 4, PAGE_BYTES);
	job.pid = fork_sleeper();
	add_entry(0, AREA, 4, PE_PRESENT);
	assert_int_equal(fill_task(&job, &err), 0);
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(peek(job.pid, AREA + i * PAGE_BYTES), i + 1);
	end_sleeper(job.pid);
}

/* A child with a userfaultfd on the area; its number comes back through a pipe. */
static pid_t fork_with_uffd(int *uffd_out)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {AREA, PAGES * PAGE_BYTES},
				      .mode = UFFDIO_REGISTER_MODE_MISSING};
	int p[2], theirs, pidfd;
	pid_t pid;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (pid == 0) {
		theirs = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		if (write(p[1], &theirs, sizeof(theirs)) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(p[0], &theirs, sizeof(theirs)), sizeof(theirs));
	close(p[0]);
	close(p[1]);
	*uffd_out = -1;
	if (theirs < 0)
		return pid;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	*uffd_out = (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	close(pidfd);
	if (*uffd_out >= 0) {
		assert_int_equal(ioctl(*uffd_out, UFFDIO_API, &api), 0);
		assert_int_equal(ioctl(*uffd_out, UFFDIO_REGISTER, &reg), 0);
	}
	return pid;
}

static void places_by_userfaultfd(void **state)
{
	struct fill_area area = {AREA, AREA + PAGES * PAGE_BYTES, FILL_UFFD};
	struct fill_job job = {.store = store, .pagemap = &pagemap, .areas = &area, .n_areas = 1};
	struct err err;

	map_area();
	memset((void *)(AREA + 2 * PAGE_BYTES), 77,
	       PAGE_BYTES); /* is there already: must be overwritten */
	job.pid = fork_with_uffd(&job.uffd);
	if (job.uffd < 0) {
		end_sleeper(job.pid);
		skip_because("no userfaultfd here");
	}
	add_entry(0, AREA, PAGES, PE_PRESENT);
	if (fill_task(&job, &err) < 0)
		fail_msg("%s", err.text);
	close(job.uffd);
	for (unsigned int i = 0; i < PAGES; i++)
		assert_int_equal(peek(job.pid, AREA + i * PAGE_BYTES), i + 1);
	end_sleeper(job.pid);
}

/* Which pages are there: of each kind of entry one byte, the rest is not to be touched (it would fault). */
static void leave_for_later(bool left_only)
{
	struct fill_area areas[] = {{AREA, AREA + 8 * PAGE_BYTES, FILL_LAZY},
				    {AREA + 8 * PAGE_BYTES, AREA + PAGES * PAGE_BYTES, FILL_WRITE}};
	struct fill_job job = {.store = store,
			       .pagemap = &pagemap,
			       .areas = areas,
			       .n_areas = 2,
			       .left_only = left_only};
	int there[4];
	struct err err;

	map_area();
	memset((void *)(AREA + 8 * PAGE_BYTES), 77, PAGE_BYTES);
	job.pid = fork_with_uffd(&job.uffd);
	if (job.uffd < 0) {
		end_sleeper(job.pid);
		skip_because("no userfaultfd here");
	}
	add_entry(0, AREA, 1, PE_PRESENT);
	add_entry(1, AREA + PAGE_BYTES, 1, PE_PRESENT | PE_LAZY);
	add_entry(2, AREA + 2 * PAGE_BYTES, 2, PE_LAZY);
	add_entry(3, AREA + 8 * PAGE_BYTES, 1, PE_PRESENT | PE_LAZY); /* not in a lazy area */
	if (fill_task(&job, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned int i = 0; i < 3; i++)
		there[i] = peek_if_there(job.pid, AREA + i * PAGE_BYTES);
	there[3] = peek_if_there(job.pid, AREA + 8 * PAGE_BYTES);
	end_sleeper(job.pid);
	close(job.uffd);
	assert_int_equal(there[0], 1);
	assert_int_equal(there[1], left_only ? 2 : -1);
	assert_int_equal(there[2], -1);
	assert_int_equal(there[3], 3);
	/* pages that are nowhere need a lazy area */
	areas[0].how = FILL_WRITE;
	assert_int_equal(fill_task(&job, &err), -1);
	assert_non_null(strstr(err.text, "--lazy-pages"));
}

static void leaves_marked_pages(void **state)
{
	leave_for_later(false);
}

static void leaves_only_what_it_has_not(void **state)
{
	leave_for_later(true);
}

static void pages_outside_are_errors(void **state)
{
	struct fill_area area = {AREA, AREA + 2 * PAGE_BYTES, FILL_WRITE};
	struct fill_job job = {
		.store = store, .pagemap = &pagemap, .uffd = -1, .areas = &area, .n_areas = 1};
	struct err err;

	map_area();
	job.pid = getpid();
	add_entry(0, AREA + PAGE_BYTES, 2, PE_PRESENT);
	assert_int_equal(fill_task(&job, &err), -1);
	assert_non_null(strstr(err.text, "30002000"));
}

static void pages_elsewhere_are_errors(void **state)
{
	struct fill_area area = {AREA, AREA + 2 * PAGE_BYTES, FILL_WRITE};
	struct fill_job job = {
		.store = store, .pagemap = &pagemap, .uffd = -1, .areas = &area, .n_areas = 1};
	struct err err;

	map_area();
	job.pid = getpid();
	add_entry(0, AREA, 1, PE_LAZY);
	assert_int_equal(fill_task(&job, &err), -1);
	assert_int_equal(err.no, ENOTSUP);
	entries[0].flags = PE_PARENT; /* and there is none: test_chain has those that are there */
	assert_int_equal(fill_task(&job, &err), -1);
	assert_non_null(strstr(err.text, "parent"));
}

static void truncated_pages_are_errors(void **state)
{
	struct fill_area area = {AREA, AREA + PAGES * PAGE_BYTES, FILL_WRITE};
	struct fill_job job = {
		.store = store, .pagemap = &pagemap, .uffd = -1, .areas = &area, .n_areas = 1};
	struct err err;

	map_area();
	job.pid = getpid();
	add_entry(0, AREA, PAGES - 1, PE_PRESENT);
	add_entry(1, AREA + (PAGES - 1) * PAGE_BYTES, 1, PE_PRESENT);
	pagemap.pages_id = PAGES_ID + 1;
	assert_int_equal(fill_task(&job, &err), -1);
}

static void fills_shared_memory(void **state)
{
	int fd = memfd_create("fill", MFD_CLOEXEC);
	uint8_t byte;
	struct err err;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 3 * PAGE_BYTES - 100), 0);
	pagemap.shmem = true;
	add_entry(0, 0, 1, PE_PRESENT);
	add_entry(1, 2 * PAGE_BYTES, 1, PE_PRESENT);
	assert_int_equal(fill_shmem(store, &pagemap, fd, 3 * PAGE_BYTES - 100, &err), 0);
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	assert_int_equal(byte, 1);
	assert_int_equal(pread(fd, &byte, 1, 3 * PAGE_BYTES - 101), 1);
	assert_int_equal(byte, 2);
	assert_int_equal(lseek(fd, 0, SEEK_END), 3 * PAGE_BYTES - 100);
	assert_int_equal(fill_shmem(store, &pagemap, fd, 2 * PAGE_BYTES, &err), -1);
	close(fd);
}

static void reads_pages(void **state)
{
	static uint8_t buf[2 * PAGE_BYTES];
	struct err err;

	add_entry(0, AREA, 1, PE_PRESENT);
	add_entry(1, AREA + PAGE_BYTES, 3, PE_PRESENT);
	assert_int_equal(pagemap_read(store, &pagemap, AREA, buf, sizeof(buf), &err), 1);
	assert_int_equal(buf[0], 1);
	assert_int_equal(buf[PAGE_BYTES], 2);
	assert_int_equal(pagemap_read(store, &pagemap, AREA + 3 * PAGE_BYTES, buf, sizeof(buf), &err),
			 0);
	assert_int_equal(pagemap_present_bytes(&pagemap), 4 * PAGE_BYTES);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make_store, close_store)
	const struct CMUnitTest tests[] = {
		TEST(writes_and_skips),
		TEST(compares),
		TEST(places_by_userfaultfd),
		TEST(leaves_marked_pages),
		TEST(leaves_only_what_it_has_not),
		TEST(pages_outside_are_errors),
		TEST(pages_elsewhere_are_errors),
		TEST(truncated_pages_are_errors),
		TEST(fills_shared_memory),
		TEST(reads_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

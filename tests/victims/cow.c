// SPDX-License-Identifier: Apache-2.0
// Private memory that fork has shared between parent, child and grandchild: the content of each is
// right, and what nobody has written to is still one physical page, not three. Post-copy cannot keep that: a
// file "separate" in the work folder says that it is not asked for. Argument: number of pages (default 96).
#include "victim.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t pages = 96; // a multiple of 8

static char *area;
static volatile pid_t *pids;

static char *page(size_t i)
{
	return area + i * VICTIM_PAGE;
}

// Who writes which page after the fork: parent i%8==1, child i%8==3, grandchild i%8==5.
static bool writes(int who, size_t i)
{
	return i % 8 == (size_t)(2 * who + 1);
}

static void write_mine(int who)
{
	for (size_t i = 0; i < pages; i++)
		if (writes(who, i))
			victim_fill(page(i), VICTIM_PAGE, 1000 * (who + 1) + i);
}

// The child was forked before the parent wrote; the grandchild before the child wrote.
static void check_mine(int who)
{
	for (size_t i = 0; i < pages; i++)
		CHECK(victim_check(page(i), VICTIM_PAGE, writes(who, i) ? 1000 * (who + 1) + i : i) <
			      0,
		      "member %d: page %zu differs", who, i);
}

static void grandchild(void *arg)
{
	write_mine(2);
	pids[2] = getpid();
	victim_wait();
	check_mine(2);
	pids[5] = 1;
	while (!pids[6])
		victim_sleep_ms(2);
}

static void child(void *arg)
{
	pid_t pid = victim_fork(grandchild, NULL);

	while (!pids[2])
		victim_sleep_ms(1);
	write_mine(1);
	pids[1] = getpid();
	victim_wait();
	check_mine(1);
	pids[4] = 1;
	victim_reap(pid);
}

static int count_shared(void)
{
	int shared = 0;

	for (size_t i = 0; i < pages; i++) {
		uint64_t pfn = victim_pfn(getpid(), page(i));

		if (pfn && pfn == victim_pfn(pids[1], page(i)) && pfn == victim_pfn(pids[2], page(i)))
			shared++;
	}
	return shared;
}

int main(int argc, char **argv)
{
	pid_t pid;
	int was, is;

	victim_start(argc, argv);
	if (argc > 2)
		pages = (size_t)atoi(argv[2]) & ~7UL;
	pids = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	area = victim_map(pages * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	for (size_t i = 0; i < pages; i++)
		victim_fill(page(i), VICTIM_PAGE, i);
	pid = victim_fork(child, NULL);
	while (!pids[1])
		victim_sleep_ms(1);
	write_mine(0);
	was = count_shared();
	if (geteuid() == 0)
		CHECK(was == (int)(pages - 3 * pages / 8), "set-up: %d pages are shared", was);
	victim_ready();
	victim_wait();
	check_mine(0);
	while (!pids[4] || !pids[5]) {
		CHECK(access(victim_path("reason"), F_OK) < 0, "a child failed: %s",
		      victim_read_file(victim_path("reason")));
		victim_sleep_ms(2);
	}
	is = count_shared();
	CHECK(is == was || access(victim_path("separate"), F_OK) == 0,
	      "%d pages were shared, %d are", was, is);
	pids[6] = 1;
	victim_reap(pid);
	victim_pass();
}

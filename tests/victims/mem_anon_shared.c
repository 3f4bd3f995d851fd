// SPDX-License-Identifier: Apache-2.0
// Shared anonymous memory: seen by parent and child at different addresses and lengths, with holes,
// and still shared afterwards.
#include "victim.h"

#include <sys/mman.h>
#include <unistd.h>

#define PAGES 32

static char *area, *alone;
static volatile int *flags;

static void child(void *arg)
{
	char *moved;

	// The middle is gone, the upper part is elsewhere, the first page read-only.
	MUST(munmap(area + 8 * VICTIM_PAGE, 8 * VICTIM_PAGE));
	moved = mremap(area + 16 * VICTIM_PAGE, 16 * VICTIM_PAGE, 16 * VICTIM_PAGE,
		       MREMAP_MAYMOVE | MREMAP_FIXED, area + 3 * PAGES * VICTIM_PAGE);
	CHECK(moved != MAP_FAILED, "mremap: %s", strerror(errno));
	MUST(mprotect(area, VICTIM_PAGE, PROT_READ));
	flags[0] = 1;
	victim_wait();
	for (int i = 0; i < 8; i += 2)
		CHECK(victim_check(area + i * VICTIM_PAGE, VICTIM_PAGE, i) < 0, "page %d", i);
	for (int i = 16; i < PAGES; i += 2)
		CHECK(victim_check(moved + (i - 16) * VICTIM_PAGE, VICTIM_PAGE, i) < 0, "page %d", i);
	victim_fill(moved + 5 * VICTIM_PAGE, VICTIM_PAGE, 777);
	flags[1] = 1;
	while (!flags[2])
		victim_sleep_ms(2);
	CHECK(victim_check(area + VICTIM_PAGE, VICTIM_PAGE, 888) < 0, "parent's write is not seen");
}

int main(int argc, char **argv)
{
	pid_t pid;

	victim_start(argc, argv);
	// Room above the area for the child to move a part to.
	area = victim_map(4 * PAGES * VICTIM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
	MUST(mmap(area, PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	flags = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	alone = victim_map(5 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	for (int i = 0; i < PAGES; i += 2)
		victim_fill(area + i * VICTIM_PAGE, VICTIM_PAGE, i);
	victim_fill(alone + 2 * VICTIM_PAGE, VICTIM_PAGE, 4444);
	pid = victim_fork(child, NULL);
	while (!flags[0])
		victim_sleep_ms(1);
	MUST(munmap(alone, VICTIM_PAGE)); // what is left starts inside the object
	victim_ready();
	victim_wait();
	for (int i = 0; i < PAGES; i += 2)
		CHECK(victim_check(area + i * VICTIM_PAGE, VICTIM_PAGE, i) < 0, "page %d", i);
	CHECK(victim_check(alone + 2 * VICTIM_PAGE, VICTIM_PAGE, 4444) < 0, "second object");
	CHECK(alone[VICTIM_PAGE] == 0, "hole is not zero");
	while (!flags[1]) {
		CHECK(access(victim_path("reason"), F_OK) < 0, "child: %s",
		      victim_read_file(victim_path("reason")));
		victim_sleep_ms(2);
	}
	CHECK(victim_check(area + 21 * VICTIM_PAGE, VICTIM_PAGE, 777) < 0,
	      "child's write is not seen");
	victim_fill(area + VICTIM_PAGE, VICTIM_PAGE, 888);
	flags[2] = 1;
	victim_reap(pid);
	victim_pass();
}

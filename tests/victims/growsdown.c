// SPDX-License-Identifier: Apache-2.0
// A MAP_GROWSDOWN area that has grown, and grows again afterwards; and the main stack.
#include "victim.h"

#include <alloca.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define FIRST_PAGES 4
#define GROWN 20

static void __attribute__((noinline)) use_stack(size_t bytes)
{
	volatile char *room = alloca(bytes);

	for (size_t i = bytes; i > 0; i -= 512)
		room[i - 1] = 1;
}

static unsigned long area_start(const void *addr)
{
	unsigned long start = 0;

	sscanf(victim_maps_line(addr), "%lx", &start);
	return start;
}

int main(int argc, char **argv)
{
	char *room, *area, *low;

	victim_start(argc, argv);
	// Free space below, so that it can grow: 4 MiB more than is used.
	room = victim_map(4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
	MUST(munmap(room, 4 << 20));
	area = room + (4 << 20) - FIRST_PAGES * VICTIM_PAGE;
	MUST(mmap(area, FIRST_PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
	victim_fill(area, FIRST_PAGES * VICTIM_PAGE, 1);
	low = area - GROWN * VICTIM_PAGE;
	for (int i = 1; i <= GROWN; i++)
		victim_fill(area - i * VICTIM_PAGE, VICTIM_PAGE, 100 + i);
	CHECK(area_start(area) == (unsigned long)low, "set-up: it has not grown");
	victim_ready();
	victim_wait();
	CHECK(area_start(area) == (unsigned long)low, "start was %p, is %#lx", low, area_start(area));
	CHECK(strstr(victim_vmflags(area), " gd"), "it is no grows-down area any more");
	CHECK(victim_check(area, FIRST_PAGES * VICTIM_PAGE, 1) < 0, "first pages");
	for (int i = 1; i <= GROWN; i++)
		CHECK(victim_check(area - i * VICTIM_PAGE, VICTIM_PAGE, 100 + i) < 0, "page -%d", i);
	for (int i = GROWN + 1; i <= 2 * GROWN; i++)
		area[-i * (ssize_t)VICTIM_PAGE] = 1;
	CHECK(area_start(area) == (unsigned long)(area - 2 * GROWN * VICTIM_PAGE),
	      "it does not grow any more");
	use_stack(3 << 20);
	victim_pass();
}

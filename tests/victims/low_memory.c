// SPDX-License-Identifier: Apache-2.0
// Memory at the lowest addresses that ferry would use for itself in a task that it makes: it has to find
// another place, and these pages stay what they are.
#include "victim.h"

#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define FIRST (256UL << 20)
#define AREAS 8
#define STEP (8UL << 20)

int main(int argc, char **argv)
{
	char *area[AREAS];

	victim_start(argc, argv);
	for (size_t i = 0; i < AREAS; i++) {
		area[i] = mmap((void *)(FIRST + i * STEP), 16 * VICTIM_PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		CHECK(area[i] == (char *)(FIRST + i * STEP), "set-up: the address is not free");
		victim_fill(area[i], 16 * VICTIM_PAGE, i + 1);
	}
	victim_ready();
	victim_wait();
	for (size_t i = 0; i < AREAS; i++)
		CHECK(victim_check(area[i], 16 * VICTIM_PAGE, i + 1) < 0, "area %zu differs", i);
	victim_pass();
}

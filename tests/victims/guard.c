// SPDX-License-Identifier: Apache-2.0
// Guard regions (MADV_GUARD_INSTALL): still there, in the middle and at the ends of an area, and
// what is between them is unharmed.
#include "victim.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define GUARD_INSTALL 102
#define GUARD_REMOVE 103
#define PAGES 32

static const int guarded[] = {0, 7, 8, 9, 20, 31};

static bool is_guarded(int nr)
{
	for (size_t i = 0; i < ARRAY_SIZE(guarded); i++)
		if (guarded[i] == nr)
			return true;
	return false;
}

// process_vm_readv tells a fault from content without a signal.
static bool readable(void *addr)
{
	char byte;
	struct iovec local = {&byte, 1}, remote = {addr, 1};

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

int main(int argc, char **argv)
{
	char *area;

	victim_start(argc, argv);
	area = victim_map(PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	victim_fill(area, PAGES * VICTIM_PAGE, 5);
	for (size_t i = 0; i < ARRAY_SIZE(guarded); i++)
		if (madvise(area + guarded[i] * VICTIM_PAGE, VICTIM_PAGE, GUARD_INSTALL) < 0)
			victim_skip("no MADV_GUARD_INSTALL: %s", strerror(errno));
	victim_fill(area + 3 * VICTIM_PAGE, VICTIM_PAGE, 33);
	victim_ready();
	victim_wait();
	for (int i = 0; i < PAGES; i++)
		CHECK(readable(area + i * VICTIM_PAGE) != is_guarded(i), "page %d: guard is %s", i,
		      is_guarded(i) ? "gone" : "new");
	CHECK(victim_check(area + 3 * VICTIM_PAGE, VICTIM_PAGE, 33) < 0, "page 3");
	MUST(madvise(area, PAGES * VICTIM_PAGE, GUARD_REMOVE));
	CHECK(readable(area), "guard cannot be removed");
	CHECK(area[0] == 0, "removed guard is not zero");
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// What madvise and mlock have done to areas: the kernel's flags of each are as before.
#include "victim.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 4

static const struct {
	const char *name;
	int advice; // -1: none
	bool lock;
	bool may_fail; // the kernel may be built without it
} cases[] = {
	{"plain", -1, false, false},
	{"sequential", MADV_SEQUENTIAL, false, false},
	{"random", MADV_RANDOM, false, false},
	{"dontfork", MADV_DONTFORK, false, false},
	{"dontdump", MADV_DONTDUMP, false, false},
	{"hugepage", MADV_HUGEPAGE, false, true},
	{"nohugepage", MADV_NOHUGEPAGE, false, true},
	{"wipeonfork", MADV_WIPEONFORK, false, false},
	{"mergeable", MADV_MERGEABLE, false, true},
	{"locked", -1, true, false},
	{"locked, random", MADV_RANDOM, true, false},
};

int main(int argc, char **argv)
{
	char *areas[ARRAY_SIZE(cases)], *was[ARRAY_SIZE(cases)], *is;

	victim_start(argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		// One page more, given back: no two areas touch and merge.
		areas[i] = victim_map((PAGES + 2) * VICTIM_PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS);
		MUST(munmap(areas[i], VICTIM_PAGE));
		areas[i] += VICTIM_PAGE;
		MUST(munmap(areas[i] + PAGES * VICTIM_PAGE, VICTIM_PAGE));
		if (cases[i].advice >= 0 &&
		    madvise(areas[i], PAGES * VICTIM_PAGE, cases[i].advice) < 0)
			CHECK(cases[i].may_fail, "madvise %s: %s", cases[i].name, strerror(errno));
		if (cases[i].lock)
			MUST(mlock(areas[i], PAGES * VICTIM_PAGE));
		victim_fill(areas[i], 2 * VICTIM_PAGE, i);
	}
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		was[i] = victim_vmflags(areas[i]);
	victim_ready();
	victim_wait();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		is = victim_vmflags(areas[i]);
		CHECK(strcmp(was[i], is) == 0, "%s: was '%s', is '%s'", cases[i].name, was[i], is);
		CHECK(victim_check(areas[i], 2 * VICTIM_PAGE, i) < 0, "content of %s", cases[i].name);
		CHECK(areas[i][3 * VICTIM_PAGE] == 0, "%s is not zero", cases[i].name);
	}
	victim_pass();
}

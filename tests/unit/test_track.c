// SPDX-License-Identifier: Apache-2.0
/*
 * Tracking of this process's own memory, step by step: what was written is dirty, also where the
 * kernel dropped a registration behind our back.
 */
#include "unit.h"

#include "mem/track.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES = 16 };
#define BYTES (PAGES * PAGE_BYTES)

/* linux/userfaultfd.h of 6.7: WP, WP_UNPOPULATED, WP_ASYNC */
#define FEATURES (1ULL << 0 | 1ULL << 13 | 1ULL << 15)

struct world {
	struct track *track;
	uint8_t *base; /* a hole of 8 * BYTES */
};

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	enum track_method method;
	struct err err;
	int uffd;

	*state = w;
	if (track_probe(&method, &err) || method != TRACK_UFFD)
		return 0;
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return -1;
	w->track = track_adopt(getpid(), method, uffd, &(mem_ranges){0}, &err);
	w->base = mmap(NULL, 8 * BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return w->track && w->base != MAP_FAILED ? 0 : -1;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	if (w->track) {
		track_close(w->track);
		munmap(w->base, 8 * BYTES);
	}
	free(w);
	return 0;
}

static struct world *ready(void **state)
{
	struct world *w = *state;

	if (!w->track)
		skip_because("this kernel has no asynchronous write-protection (Linux 6.7)");
	return w;
}

/* Part @i of the hole, all of it written. */
static uint8_t *area(struct world *w, unsigned int i, size_t parts)
{
	uint8_t *at = mmap(w->base + i * BYTES, parts * BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	assert_ptr_not_equal(at, MAP_FAILED);
	memset(at, 1, parts * BYTES);
	return at;
}

/* Scans one area, by its place; returns how many of its pages are dirty, -1 if pages are missing. */
static int dirty(struct world *w, uint8_t *at, size_t parts, unsigned int flags)
{
	struct track_area a = {.start = (uintptr_t)at, .end = (uintptr_t)at + parts * BYTES};
	track_regions found = {0};
	struct err err;
	size_t n[2] = {0};

	assert_int_equal(track_scan(w->track, &a, 1, flags, &found, &err), 0);
	vec_foreach (r, &found)
		n[r->dirty] += (r->end - r->start) / PAGE_BYTES;
	vec_free(&found);
	return n[0] + n[1] == parts * PAGES ? (int)n[1] : -1;
}

static void writes_are_seen(void **state)
{
	struct world *w = ready(state);
	uint8_t *a = area(w, 0, 1);

	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), PAGES);
	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), 0);
	a[3 * PAGE_BYTES] = 2;
	a[9 * PAGE_BYTES] = 2;
	assert_int_equal(dirty(w, a, 1, 0), 2);
	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), 2);
	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), 0);
}

static void a_new_area_in_its_place(void **state)
{
	struct world *w = ready(state);
	uint8_t *a = area(w, 0, 1);

	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), PAGES);
	a = area(w, 0, 1);
	assert_int_equal(dirty(w, a, 1, 0), PAGES);
	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), PAGES);
	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), 0);
	a[0] = 2;
	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), 1);
}

static void an_area_that_grows(void **state)
{
	struct world *w = ready(state);
	uint8_t *a = area(w, 0, 1);

	assert_int_equal(dirty(w, a, 1, TRACK_PROTECT), PAGES);
	area(w, 1, 1);
	a[0] = 2;
	assert_int_equal(dirty(w, a, 2, TRACK_PROTECT), PAGES + 1);
	assert_int_equal(dirty(w, a, 2, TRACK_PROTECT), 0);
	a[BYTES] = 2;
	assert_int_equal(dirty(w, a, 2, TRACK_PROTECT), 1);
}

/*
 * An area's second half goes away and, tracked at its new place, comes back: the kernel makes one
 * area of both and drops the registration of the whole, but the marks only in the second.
 */
static void halves_that_meet_again(void **state)
{
	struct world *w = ready(state);
	uint8_t *a = area(w, 0, 2), *away = w->base + 4 * BYTES;
	struct track_area both[2] = {
		{.start = (uintptr_t)a, .end = (uintptr_t)a + BYTES},
		{.start = (uintptr_t)away, .end = (uintptr_t)away + BYTES},
	};
	track_regions found = {0};
	struct err err;

	munmap(away, 2 * BYTES);
	assert_ptr_equal(mremap(a + BYTES, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, away), away);
	assert_int_equal(track_scan(w->track, both, 2, TRACK_PROTECT, &found, &err), 0);
	vec_free(&found);
	assert_int_equal(track_scan(w->track, both, 2, TRACK_PROTECT, &found, &err), 0);
	assert_int_equal(found.n, 2);
	assert_false(found.v[0].dirty || found.v[1].dirty);
	vec_free(&found);

	assert_ptr_equal(mremap(away, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, a + BYTES),
			 a + BYTES);
	memset(a, 2, BYTES);
	assert_int_equal(dirty(w, a, 2, TRACK_PROTECT), 2 * PAGES);
	assert_int_equal(dirty(w, a, 2, TRACK_PROTECT), 0);
	a[5 * PAGE_BYTES] = 3;
	assert_int_equal(dirty(w, a, 2, 0), 1);
}

/* And its marks, that an area which is registered again would still have. */
static void marks_are_taken_away(void **state)
{
	struct world *w = ready(state);
	uint8_t *a = area(w, 0, 2);

	assert_int_equal(dirty(w, a, 2, TRACK_PROTECT), 2 * PAGES);
	assert_int_equal(dirty(w, a, 2, 0), 0);
	munmap(a + 3 * PAGE_BYTES, PAGE_BYTES); /* and what is gone is no hindrance */
	track_unregister(w->track);
	assert_int_equal(mmap(a + 3 * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED,
			 0);
	memset(a + 3 * PAGE_BYTES, 1, PAGE_BYTES);
	assert_int_equal(dirty(w, a, 2, 0), 2 * PAGES);
}

/* Another program has none of the areas. */
static void nothing_is_ours(void **state)
{
	struct world *w = ready(state);
	struct track_area a = {.start = (uintptr_t)w->base, .end = (uintptr_t)w->base + BYTES};
	track_regions found = {0};
	struct err err;

	munmap(w->base, BYTES);
	assert_int_equal(track_scan(w->track, &a, 1, TRACK_PROTECT, &found, &err), 1);
	assert_int_equal(found.n, 0);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(writes_are_seen),      TEST(a_new_area_in_its_place),
		TEST(an_area_that_grows),   TEST(halves_that_meet_again),
		TEST(marks_are_taken_away), TEST(nothing_is_ours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

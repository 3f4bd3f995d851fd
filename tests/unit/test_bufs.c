// SPDX-License-Identifier: Apache-2.0
// store/bufs: buffers are apart from each other, whole, used again, and told from memory of malloc.
#include "unit.h"

#include "store/bufs.h"
#include "wire/block.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 40, ROUNDS = 200, HELD = 5 };

static bool holds(const uint8_t *buf, uint8_t byte)
{
	return buf[0] == byte && !memcmp(buf, buf + 1, BLOCK_BODY_MAX - 1);
}

static void each_is_its_own(void **state)
{
	uint8_t *bufs[MANY];

	for (int round = 0; round < 2; round++) {
		for (uint8_t i = 0; i < MANY; i++) {
			bufs[i] = bufs_get();
			assert_non_null(bufs[i]);
			memset(bufs[i], i, BLOCK_BODY_MAX);
		}
		for (uint8_t i = 0; i < MANY; i++)
			assert_true(holds(bufs[i], i));
		for (uint8_t i = 0; i < MANY; i++)
			bufs_free(bufs[i]);
	}
}

/* What was let go last is what is given next: its memory is there. */
static void they_are_used_again(void **state)
{
	uint8_t *first = bufs_get(), *other = bufs_get();

	assert_non_null(first);
	assert_non_null(other);
	assert_ptr_not_equal(first, other);
	bufs_free(first);
	assert_ptr_equal(bufs_get(), first);
	bufs_free(other);
	bufs_free(first);
	assert_ptr_equal(bufs_get(), first);
	bufs_free(first);
}

static size_t resident_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[200];
	size_t kib = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		(void)sscanf(line, "RssAnon: %zu kB", &kib);
	fclose(f);
	assert_true(kib > 0);
	return kib;
}

/* Buffers come and go, as they do in a relay that is full: there is memory for those that are in use at once. */
static void no_more_is_touched_than_is_in_use(void **state)
{
	enum { IN_USE = 17, TIMES = 400, SLACK_KIB = 6 << 10 };
	size_t before = resident_kib();
	uint8_t *bufs[IN_USE] = {NULL};

	for (unsigned int i = 0; i < TIMES; i++) {
		uint8_t **at = &bufs[i % IN_USE];

		bufs_free(*at);
		*at = bufs_get();
		assert_non_null(*at);
		memset(*at, 1, BLOCK_BODY_MAX);
	}
	/* huge pages may reach a little further */
	assert_in_range(resident_kib() - before, IN_USE * 1000, IN_USE * 1024 + SLACK_KIB);
	for (size_t i = 0; i < IN_USE; i++)
		bufs_free(bufs[i]);
}

static void other_memory_is_freed_as_such(void **state)
{
	bufs_free(malloc(100));
	bufs_free(malloc(BLOCK_BODY_MAX));
	bufs_free(NULL);
}

static void *take_and_let_go(void *arg)
{
	uint8_t *bufs[HELD] = {NULL}, byte = *(uint8_t *)arg;

	for (int i = 0; i < ROUNDS; i++) {
		uint8_t **at = &bufs[i % HELD];

		if (*at && ((*at)[0] != byte || (*at)[BLOCK_BODY_MAX - 1] != byte))
			fail_msg("somebody else has written to it");
		bufs_free(*at);
		*at = bufs_get();
		if (!*at)
			fail_msg("no memory");
		(*at)[0] = (*at)[BLOCK_BODY_MAX - 1] = byte;
	}
	for (size_t i = 0; i < HELD; i++)
		bufs_free(bufs[i]);
	return NULL;
}

static void threads_share_them(void **state)
{
	uint8_t bytes[] = {1, 2, 3, 4};
	pthread_t threads[ARRAY_SIZE(bytes)];

	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_and_let_go, &bytes[i]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++)
		pthread_join(threads[i], NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_more_is_touched_than_is_in_use),
		cmocka_unit_test(each_is_its_own),
		cmocka_unit_test(they_are_used_again),
		cmocka_unit_test(other_memory_is_freed_as_such),
		cmocka_unit_test(threads_share_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

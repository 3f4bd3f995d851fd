// SPDX-License-Identifier: Apache-2.0
// base/map: keys found, none lost while it grows.
#include "unit.h"

#include "base/map.h"

static int values[3];

static void finds_what_was_set_and_nothing_else(void **state)
{
	struct map m = {0};

	assert_null(map_get(&m, 0));
	assert_true(map_set(&m, 0, &values[0]));
	assert_true(map_set(&m, UINT64_MAX, &values[1]));
	assert_ptr_equal(map_get(&m, 0), &values[0]);
	assert_ptr_equal(map_get(&m, UINT64_MAX), &values[1]);
	assert_null(map_get(&m, 1));
	assert_true(map_set(&m, 0, &values[2])); /* replaces */
	assert_ptr_equal(map_get(&m, 0), &values[2]);
	assert_int_equal(m.n, 2);
	map_free(&m);
	assert_null(map_get(&m, 0));
}

static void adding_keeps_the_first(void **state)
{
	struct map m = {0};

	assert_int_equal(map_add(&m, 7, &values[0]), 1);
	assert_int_equal(map_add(&m, 7, &values[1]), 0);
	assert_ptr_equal(map_get(&m, 7), &values[0]);
	map_free(&m);
}

static void grows_without_losing_a_key(void **state)
{
	/* steps that collide under weak hashes: multiples of large powers of two */
	static const unsigned int shifts[] = {0, 12, 20, 32, 44};
	struct map m = {0};
	char *base = (char *)values;

	for (size_t s = 0; s < ARRAY_SIZE(shifts); s++)
		for (uint64_t i = 1; i <= 4000; i++)
			assert_true(map_set(&m, i << shifts[s], base + i));
	for (size_t s = 0; s < ARRAY_SIZE(shifts); s++)
		for (uint64_t i = 1; i <= 4000; i++)
			assert_non_null(map_get(&m, i << shifts[s]));
	assert_null(map_get(&m, 0));
	assert_true(m.n <= m.cap / 4 * 3);
	map_free(&m);
}

static void texts_have_keys(void **state)
{
	assert_true(map_hash("core-1.img") == map_hash("core-1.img"));
	assert_true(map_hash("core-1.img") != map_hash("core-2.img"));
	assert_true(map_hash("") != map_hash("a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_what_was_set_and_nothing_else),
		cmocka_unit_test(adding_keeps_the_first),
		cmocka_unit_test(grows_without_losing_a_key),
		cmocka_unit_test(texts_have_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

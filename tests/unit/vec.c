// SPDX-License-Identifier: Apache-2.0
// base/vec: growth, failure to grow, and the walk.
#include "unit.h"

#include "base/vec.h"

struct point {
	int x, y;
};

static void grows_and_keeps_its_elements(void **state)
{
	VEC(struct point) points = {0};

	for (int i = 0; i < 1000; i++)
		assert_true(vec_push(&points, (struct point){i, -i}));
	assert_int_equal(points.n, 1000);
	assert_true(points.cap >= points.n);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(points.v[i].x, i);
		assert_int_equal(points.v[i].y, -i);
	}
	vec_free(&points);
	assert_null(points.v);
	assert_int_equal(points.n, 0);
	assert_int_equal(points.cap, 0);
	vec_free(&points); /* twice is harmless */
}

static void foreach_walks_all_and_an_empty_one_none(void **state)
{
	VEC(int) numbers = {0};
	int sum = 0;

	vec_foreach (n, &numbers)
		sum += *n + 1;
	assert_int_equal(sum, 0);
	for (int i = 1; i <= 20; i++)
		assert_true(vec_push(&numbers, i));
	vec_foreach (n, &numbers)
		sum += *n;
	assert_int_equal(sum, 210);
	vec_free(&numbers);
}

static void a_failed_growth_changes_nothing(void **state)
{
	size_t half = SIZE_MAX / 2 / sizeof(struct point), cap = half;
	void *v = NULL;

	assert_false(vec_grow(&v, &cap, cap, sizeof(struct point))); /* malloc refuses */
	assert_null(v);
	assert_int_equal(cap, half);
	cap = SIZE_MAX / sizeof(struct point);
	assert_false(vec_grow(&v, &cap, cap, sizeof(struct point))); /* would overflow */
	assert_null(v);
	assert_int_equal(cap, SIZE_MAX / sizeof(struct point));
}

static void a_reserve_is_kept_until_it_is_used(void **state)
{
	VEC(int) numbers = {0};
	int *at;

	assert_true(vec_reserve(&numbers, 0));
	assert_true(vec_push(&numbers, 1));
	assert_true(vec_reserve(&numbers, 100));
	at = numbers.v;
	for (int i = 0; i < 100; i++)
		assert_true(vec_push(&numbers, i));
	assert_ptr_equal(numbers.v, at);
	assert_int_equal(numbers.v[0], 1);
	assert_false(vec_reserve(&numbers, SIZE_MAX / sizeof(int) - 200)); /* malloc refuses */
	assert_false(vec_reserve(&numbers, SIZE_MAX / 2));                 /* would overflow */
	assert_ptr_equal(numbers.v, at);
	assert_int_equal(numbers.n, 101);
	vec_free(&numbers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_and_keeps_its_elements),
		cmocka_unit_test(foreach_walks_all_and_an_empty_one_none),
		cmocka_unit_test(a_failed_growth_changes_nothing),
		cmocka_unit_test(a_reserve_is_kept_until_it_is_used),
	};

	return cmocka_run_group_tests_name("vec", tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// mem/ranges: set operations, compared with sets of single pages.
#include "unit.h"

#include "mem/ranges.h"

#include <string.h>

enum { PLACES = 64, TRIES = 3000 };

static void from_bits(uint64_t bits, mem_ranges *out)
{
	struct err err;

	for (uint64_t i = 0; i < PLACES; i++)
		if (bits >> i & 1)
			assert_int_equal(mem_ranges_push(out, i * 10, i * 10 + 10, &err), 0);
}

/* Also checks the form: ascending, not empty, not touching. */
static uint64_t to_bits(const mem_ranges *r)
{
	uint64_t bits = 0, end = 0;

	for (size_t i = 0; i < r->n; i++) {
		assert_true(r->v[i].start < r->v[i].end);
		assert_true(i == 0 || r->v[i].start > end);
		end = r->v[i].end;
		for (uint64_t at = r->v[i].start; at < end; at += 10)
			bits |= 1ULL << at / 10;
	}
	return bits;
}

typedef int operation(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err);

static void try_one(operation *op, uint64_t a, uint64_t b, uint64_t want)
{
	mem_ranges x = {0}, y = {0}, out = {0};
	struct err err;

	from_bits(a, &x);
	from_bits(b, &y);
	assert_int_equal(op(&x, &y, &out, &err), 0);
	if (to_bits(&out) != want)
		fail_msg("%lx and %lx: %lx, not %lx", a, b, to_bits(&out), want);
	assert_int_equal(mem_ranges_bytes(&out), 10 * (uint64_t)__builtin_popcountll(want));
	vec_free(&x);
	vec_free(&y);
	vec_free(&out);
}

static void as_sets(void **state)
{
	uint64_t x = 88172645463325252ULL, a = 0, b = 0;

	for (int i = 0; i < TRIES; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		/* long runs, too */
		a = i % 3 ? x : a & (x | x << 1);
		b = i % 5 ? ~x * 3 : b | (x & x >> 1);
		try_one(mem_ranges_common, a, b, a & b);
		try_one(mem_ranges_without, a, b, a & ~b);
		try_one(mem_ranges_union, a, b, a | b);
	}
	try_one(mem_ranges_common, 0, 0, 0);
	try_one(mem_ranges_union, 0, ~0ULL, ~0ULL);
	try_one(mem_ranges_without, ~0ULL, ~0ULL, 0);
}

static void borders_inside(void **state)
{
	mem_ranges a = {0}, b = {0}, out = {0};
	struct err err;

	assert_int_equal(mem_ranges_push(&a, 100, 200, &err), 0);
	assert_int_equal(mem_ranges_push(&a, 200, 300, &err), 0);
	assert_int_equal(mem_ranges_push(&a, 300, 300, &err), 0); /* nothing */
	assert_int_equal(a.n, 1);
	assert_int_equal(mem_ranges_push(&b, 150, 160, &err), 0);
	assert_int_equal(mem_ranges_push(&b, 290, 400, &err), 0);
	assert_int_equal(mem_ranges_without(&a, &b, &out, &err), 0);
	assert_int_equal(out.n, 2);
	assert_int_equal(out.v[0].end, 150);
	assert_int_equal(out.v[1].start, 160);
	assert_int_equal(out.v[1].end, 290);
	vec_free(&a);
	vec_free(&b);
	vec_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(as_sets),
					   cmocka_unit_test(borders_inside)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

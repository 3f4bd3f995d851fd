// SPDX-License-Identifier: Apache-2.0
// base/arena: alignment, zeroes, large objects beside small ones, refusal of absurd sizes.
#include "unit.h"

#include "base/arena.h"

#include <string.h>

static void memory_is_aligned_zeroed_and_apart(void **state)
{
	struct arena arena = {0};
	unsigned char *piece[200];

	for (size_t i = 0; i < 200; i++) {
		size_t bytes = 1 + i * 37;

		piece[i] = arena_alloc(&arena, bytes);
		assert_non_null(piece[i]);
		assert_int_equal((uintptr_t)piece[i] % 16, 0);
		for (size_t k = 0; k < bytes; k++)
			assert_int_equal(piece[i][k], 0);
		memset(piece[i], (int)i, bytes);
	}
	for (size_t i = 0; i < 200; i++) {
		for (size_t k = 0; k < 1 + i * 37; k++)
			assert_int_equal(piece[i][k], (unsigned char)i);
	}
	assert_true(arena.used_bytes >= 200 * 201 / 2 * 37 - 200 * 37);
	arena_free(&arena);
	assert_int_equal(arena.used_bytes, 0);
}

static void a_large_object_does_not_end_the_chunk(void **state)
{
	struct arena arena = {0};
	char *first = arena_alloc(&arena, 32), *second;

	assert_non_null(first);
	assert_non_null(arena_alloc(&arena, 1 << 20));
	second = arena_alloc(&arena, 32);
	assert_ptr_equal(second, first + 32);
	arena_free(&arena);
}

static void absurd_sizes_are_refused(void **state)
{
	struct arena arena = {0};

	assert_null(arena_alloc(&arena, SIZE_MAX));
	assert_null(arena_alloc(&arena, SIZE_MAX - 15));
	assert_null(arena_alloc(&arena, SIZE_MAX / 2));
	assert_null(arena_array(&arena, uint64_t, SIZE_MAX / 4));
	assert_int_equal(arena.used_bytes, 0);
	arena_free(&arena);
}

static void copies_are_whole(void **state)
{
	struct arena arena = {0};
	const uint32_t numbers[] = {1, 2, 3};
	char *text;

	assert_memory_equal(arena_dup(&arena, numbers, sizeof(numbers)), numbers, sizeof(numbers));
	assert_non_null(arena_dup(&arena, NULL, 0));
	assert_string_equal(arena_strdup(&arena, ""), "");
	assert_string_equal(arena_strdup(&arena, "ferry"), "ferry");
	text = arena_printf(&arena, "%s-%d.img", "core", 34);
	assert_string_equal(text, "core-34.img");
	text = arena_printf(&arena, "%05000d", 1);
	assert_non_null(text);
	assert_int_equal(strlen(text), 5000);
	arena_free(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_aligned_zeroed_and_apart),
		cmocka_unit_test(a_large_object_does_not_end_the_chunk),
		cmocka_unit_test(absurd_sizes_are_refused),
		cmocka_unit_test(copies_are_whole),
	};

	return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// kernel/xstate: the xsave area there and back; what cannot be carried is refused.
#include "unit.h"

#include "kernel/xstate.h"

#include <errno.h>
#include <string.h>

enum { BV_OFF = 512 };

static struct arena arena;

static int free_arena(void **state)
{
	arena_free(&arena);
	memset(&arena, 0, sizeof(arena));
	return 0;
}

/* An area with another byte everywhere that survives the round trip. */
static size_t make_area(uint8_t *area, uint64_t bv)
{
	size_t bytes = xstate_bytes();
	uint32_t mxcsr = 0x1f80, mask = 0x2ffff;

	memset(area, 0, XSTATE_MAX_BYTES);
	for (size_t i = 0; i < 24; i++)
		area[i] = (uint8_t)(i + 1);
	memset(area + 5, 0, 1); /* the high byte of the tag word is reserved */
	memcpy(area + 24, &mxcsr, 4);
	memcpy(area + 28, &mask, 4);
	for (size_t i = 32; i < 416; i++)
		area[i] = (uint8_t)(i * 7);
	if (bv & 4)
		for (size_t i = 576; i < 832; i++)
			area[i] = (uint8_t)(i * 13);
	memcpy(area + BV_OFF, &bv, sizeof(bv));
	return bytes;
}

/* The register sets that this CPU has, each with other bytes in its piece. */
static void all_pieces(void **state)
{
	static uint8_t area[XSTATE_MAX_BYTES], again[XSTATE_MAX_BYTES];
	uint64_t bv = xstate_xcr0() & 0x2ff;
	size_t bytes = make_area(area, bv);
	UserX86FpregsEntry *fp;
	struct err err;

	for (size_t i = 576; i < bytes; i++)
		area[i] = (uint8_t)(i * 13);
	assert_int_equal(xstate_to_fpregs(area, bytes, &arena, &fp, &err), 0);
	if (bv & 1 << 6)
		assert_memory_equal(fp->xsave->zmm_upper, area + 1152,
				    512); /* where every such CPU has it */
	assert_int_equal(xstate_from_fpregs(fp, again, bytes, &err), 0);
	assert_int_equal(xstate_to_fpregs(again, bytes, &arena, &fp, &err), 0);
	if (bv & 1 << 6)
		assert_memory_equal(fp->xsave->zmm_upper, area + 1152, 512);
	if (bv & 1 << 7)
		assert_int_equal(fp->xsave->n_hi16_zmm, 128);
}

static void there_and_back(void **state)
{
	static uint8_t area[XSTATE_MAX_BYTES], again[XSTATE_MAX_BYTES];
	uint64_t bv = xstate_xcr0() & 7;
	size_t bytes = make_area(area, bv);
	UserX86FpregsEntry *fp;
	struct err err;

	assert_int_equal(xstate_to_fpregs(area, bytes, &arena, &fp, &err), 0);
	assert_int_equal(fp->n_st_space, 32);
	assert_int_equal(fp->n_xmm_space, 64);
	assert_int_equal(fp->xsave->xstate_bv, bv);
	if (bv & 4)
		assert_int_equal(fp->xsave->n_ymmh_space, 64);
	assert_int_equal(xstate_from_fpregs(fp, again, bytes, &err), 0);
	assert_memory_equal(area, again, 416);
	assert_memory_equal(area + BV_OFF, again + BV_OFF, 64);
	if (bv & 4)
		assert_memory_equal(area + 576, again + 576, 256);
}

/* Stale bytes of a component in its initial state are not carried. */
static void initial_state_is_zero(void **state)
{
	static uint8_t area[XSTATE_MAX_BYTES], again[XSTATE_MAX_BYTES], zero[256];
	size_t bytes = make_area(area, 7);
	uint64_t bv = 3;
	UserX86FpregsEntry *fp;
	struct err err;

	if (!(xstate_xcr0() & 4))
		skip_because("this CPU has no AVX");
	memcpy(area + BV_OFF, &bv, sizeof(bv));
	assert_int_equal(xstate_to_fpregs(area, bytes, &arena, &fp, &err), 0);
	assert_int_equal(xstate_from_fpregs(fp, again, bytes, &err), 0);
	assert_memory_equal(again + 576, zero, 256);
}

static void amx_is_refused(void **state)
{
	static uint8_t area[XSTATE_MAX_BYTES];
	size_t bytes = make_area(area, 1 << 18);
	UserX86FpregsEntry *fp;
	struct err err;

	assert_int_equal(xstate_to_fpregs(area, bytes, &arena, &fp, &err), -1);
	assert_int_equal(err.no, ENOTSUP);
	assert_non_null(strstr(err.text, "AMX"));
}

static void missing_extension_is_named(void **state)
{
	static uint8_t area[XSTATE_MAX_BYTES];
	size_t bytes = make_area(area, 3);
	static const struct {
		int nr;
		const char *name;
	} some[] = {{3, "MPX"}, {6, "AVX-512"}, {9, "protection keys"}, {18, "AMX"}};
	UserX86FpregsEntry *fp;
	struct err err;
	size_t i = 0;

	while (i < 4 && xstate_xcr0() >> some[i].nr & 1)
		i++;
	if (i == 4)
		skip_because("this CPU has every extension");
	assert_int_equal(xstate_to_fpregs(area, bytes, &arena, &fp, &err), 0);
	fp->xsave->xstate_bv |= 1ULL << some[i].nr;
	assert_int_equal(xstate_check(fp, &err), -1);
	assert_non_null(strstr(err.text, some[i].name));
	assert_int_equal(xstate_from_fpregs(fp, area, bytes, &err), -1);
}

static void wrong_lengths_are_errors(void **state)
{
	static uint8_t area[XSTATE_MAX_BYTES];
	size_t bytes = make_area(area, 7 & xstate_xcr0());
	UserX86FpregsEntry *fp;
	struct err err;

	assert_int_equal(xstate_to_fpregs(area, 500, &arena, &fp, &err), -1);
	assert_int_equal(xstate_to_fpregs(area, bytes, &arena, &fp, &err), 0);
	fp->n_xmm_space = 63;
	assert_int_equal(xstate_from_fpregs(fp, area, bytes, &err), -1);
	fp->n_xmm_space = 64;
	fp->xsave->n_ymmh_space = 65;
	if (xstate_xcr0() & 4)
		assert_int_equal(xstate_from_fpregs(fp, area, bytes, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(there_and_back, free_arena),
		cmocka_unit_test_teardown(all_pieces, free_arena),
		cmocka_unit_test_teardown(initial_state_is_zero, free_arena),
		cmocka_unit_test_teardown(amx_is_refused, free_arena),
		cmocka_unit_test_teardown(missing_extension_is_named, free_arena),
		cmocka_unit_test_teardown(wrong_lengths_are_errors, free_arena),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

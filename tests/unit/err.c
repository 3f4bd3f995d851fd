// SPDX-License-Identifier: Apache-2.0
// base/err: texts, context, and what happens when a text does not fit.
#include "unit.h"

#include "base/err.h"

#include <errno.h>
#include <string.h>

static void sets_text_and_number(void **state)
{
	struct err err;

	assert_int_equal(err_set(&err, EBUSY, "pid %d: is busy", 7), -1);
	assert_string_equal(err.text, "pid 7: is busy");
	assert_int_equal(err.no, EBUSY);
}

static void sys_appends_the_reason(void **state)
{
	struct err err;

	errno = ENOENT;
	assert_int_equal(err_sys(&err, "open %s", "x"), -1);
	assert_string_equal(err.text, "open x: No such file or directory");
	assert_int_equal(err.no, ENOENT);

	errno = 0;
	assert_int_equal(err_sysno(&err, EPERM, "trace"), -1);
	assert_string_equal(err.text, "trace: Operation not permitted");
	assert_int_equal(err.no, EPERM);
}

static void wrap_puts_context_in_front(void **state)
{
	struct err err;

	err_set(&err, EIO, "short read");
	assert_int_equal(err_wrap(&err, "fd %d", 3), -1);
	assert_int_equal(err_wrap(&err, "pid %d", 12), -1);
	assert_string_equal(err.text, "pid 12: fd 3: short read");
	assert_int_equal(err.no, EIO);
}

static void long_texts_are_cut_not_overrun(void **state)
{
	struct {
		struct err err;
		char guard[8];
	} box;
	char big[4096];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	memset(box.guard, 0x5a, sizeof(box.guard));

	err_set(&box.err, 0, "%s", big);
	assert_int_equal(strlen(box.err.text), sizeof(box.err.text) - 1);
	err_sysno(&box.err, EPERM, "%s", big);
	assert_int_equal(strlen(box.err.text), sizeof(box.err.text) - 1);
	err_wrap(&box.err, "%s", big);
	assert_int_equal(strlen(box.err.text), sizeof(box.err.text) - 1);
	err_set(&box.err, 0, "%s", big);
	err_wrap(&box.err, "front");
	assert_memory_equal(box.err.text, "front: aaaa", 11);
	for (size_t i = 0; i < sizeof(box.guard); i++)
		assert_int_equal(box.guard[i], 0x5a);
}

static void nomem_needs_no_memory(void **state)
{
	struct err err;

	assert_int_equal(err_nomem(&err), -1);
	assert_string_equal(err.text, "out of memory");
	assert_int_equal(err.no, ENOMEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_text_and_number),
		cmocka_unit_test(sys_appends_the_reason),
		cmocka_unit_test(wrap_puts_context_in_front),
		cmocka_unit_test(long_texts_are_cut_not_overrun),
		cmocka_unit_test(nomem_needs_no_memory),
	};

	return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}

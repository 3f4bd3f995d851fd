// SPDX-License-Identifier: Apache-2.0
/*
 * The registry: every kind is complete, has a name of its own, a victim that
 * tests it, and an entry in ferry-kinds(7). And the parsers that kinds share.
 */
#include "unit.h"

#include "base/io.h"
#include "kinds/kind.h"

#include <fcntl.h>
#include <glob.h>
#include <string.h>
#include <unistd.h>

/* Kinds whose victims are named after what users call them. */
static const struct {
	const char *kind, *victim;
} victims[] = {
	{"tty", "pty"},
	{"inet", "tcp"},
	{"socket", "refuse"},
};

static const char *victim_of(const char *kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(victims); i++)
		if (strcmp(victims[i].kind, kind) == 0)
			return victims[i].victim;
	return kind;
}

static void assert_victim(const char *kind)
{
	char pattern[128];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "tests/victims/%s*.c", victim_of(kind));
	if (glob(pattern, 0, NULL, &found) != 0)
		fail_msg("there is no %s for kind %s", pattern, kind);
	globfree(&found);
}

static void assert_documented(const char *man, const char *kind)
{
	char entry[64];

	snprintf(entry, sizeof(entry), "\n.It Sy %s\n", kind);
	if (!strstr(man, entry))
		fail_msg("doc/ferry-kinds.7 has no entry for %s", kind);
}

static void test_descriptor_kinds(void **state)
{
	cleanup_free char *man = NULL;

	assert_int_equal(io_read_filef(&man, NULL, "doc/ferry-kinds.7"), 0);
	for (size_t i = 0; fd_kinds[i]; i++) {
		const struct fd_kind *k = fd_kinds[i];

		assert_non_null(k->name);
		assert_non_null(k->claims);
		assert_non_null(k->capture);
		assert_non_null(k->open);
		for (size_t j = 0; j < i; j++) {
			assert_string_not_equal(k->name, fd_kinds[j]->name);
			assert_true(k->type == FD_TYPES__UND || k->type != fd_kinds[j]->type);
		}
		if (k->type != FD_TYPES__UND)
			assert_ptr_equal(fd_kind_by_type(k->type), k);
		assert_victim(k->name);
		assert_documented(man, k->name);
	}
	assert_null(fd_kind_by_type(FD_TYPES__UND));
	assert_null(fd_kind_by_type(FD_TYPES__TUNF));
}

static void test_task_kinds(void **state)
{
	cleanup_free char *man = NULL;

	assert_int_equal(io_read_filef(&man, NULL, "doc/ferry-kinds.7"), 0);
	for (size_t i = 0; task_kinds[i]; i++) {
		const struct task_kind *k = task_kinds[i];

		assert_non_null(k->name);
		assert_true(k->emit || k->check || k->outside);
		/* What is asked for is collected. */
		assert_true(!k->query || k->collect);
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(k->name, task_kinds[j]->name);
		assert_documented(man, k->name);
	}
}

static void test_fdinfo_numbers(void **state)
{
	static const char info[] = "pos:\t18446744073709551615\nflags:\t02100002\nmnt_id:\t15\n"
				   "eventfd-count:                2a\neventfd-id: 3\nminus: -1\nempty:\n"
				   "large: 18446744073709551616\nlast: 7";
	uint64_t v = 99;

	assert_true(fdinfo_u64(info, "pos", 10, &v));
	assert_true(v == UINT64_MAX);
	assert_true(fdinfo_u64(info, "flags", 8, &v));
	assert_int_equal(v, 02100002);
	assert_true(fdinfo_u64(info, "eventfd-count", 16, &v));
	assert_int_equal(v, 42);
	assert_true(fdinfo_u64(info, "last", 10, &v));
	assert_int_equal(v, 7);
	v = 99;
	assert_false(fdinfo_u64(info, "eventfd", 16, &v));
	assert_false(fdinfo_u64(info, "id", 10, &v));
	assert_false(fdinfo_u64(info, "minus", 10, &v));
	assert_false(fdinfo_u64(info, "large", 10, &v));
	assert_false(fdinfo_u64("", "pos", 10, &v));
	/* No number on its own line: that of the next does not count. */
	assert_false(fdinfo_u64("empty:\n5\n", "empty", 10, &v));
	assert_int_equal(v, 99);
}

static void test_option_keys(void **state)
{
	const char *external[] = {"pipe[77]:log", "dev[1/11]", NULL};
	struct kind_options opt = {.external = external, .n_inherit = 3};

	opt.inherit[0].key = "pipe[5]";
	opt.inherit[0].fd = 10;
	opt.inherit[1].key = "tmp/file";
	opt.inherit[1].fd = 11;
	opt.inherit[2].key = "socket:[9]";
	opt.inherit[2].fd = 12;
	assert_string_equal(kind_external(&opt, "pipe[77]"), external[0]);
	assert_string_equal(kind_external(&opt, "dev[1/11]"), external[1]);
	assert_null(kind_external(&opt, "pipe[7"));
	assert_null(kind_external(&opt, "pipe[78]"));
	assert_int_equal(kind_inherited(&opt, "pipe:[5]"), 10);
	assert_int_equal(kind_inherited(&opt, "pipe:[55]"), -1);
	assert_int_equal(kind_inherited(&opt, "/tmp/file"), 11);
	assert_int_equal(kind_inherited(&opt, "/tmp/file2"), -1);
	assert_int_equal(kind_inherited(&opt, "socket:[9]"), 12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_descriptor_kinds),
		cmocka_unit_test(test_task_kinds),
		cmocka_unit_test(test_fdinfo_numbers),
		cmocka_unit_test(test_option_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// The option parser: every form, every type, and what must be refused.
#include "cmd/opt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct args {
	bool yes, other;
	const char *text;
	uint64_t number, bytes;
	unsigned int word, verbose;
	struct opt_list list;
};

static const char *const words[] = {"same", "auto", "new", NULL};

static const struct opt_row rows[] = {
	{.short_name = 'y',
	 .long_name = "yes",
	 .help = "a flag",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct args, yes)},
	{.short_name = 'k',
	 .long_name = "kin",
	 .help = "another flag",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct args, other)},
	{.short_name = 't',
	 .long_name = "text",
	 .arg = "TEXT",
	 .help = "some text",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct args, text)},
	{.short_name = 'n',
	 .long_name = "number",
	 .arg = "N",
	 .help = "a number",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct args, number),
	 .min = 5,
	 .max = 50},
	{.long_name = "bytes",
	 .arg = "SIZE",
	 .help = "a size",
	 .type = OPT_BYTES,
	 .offset = offsetof(struct args, bytes),
	 .min = 2 << 10,
	 .max = 64ull << 30},
	{.long_name = "word",
	 .arg = "W",
	 .help = "one of three",
	 .type = OPT_WORD,
	 .offset = offsetof(struct args, word),
	 .words = words},
	{.long_name = "item",
	 .arg = "I",
	 .help = "may be repeated",
	 .type = OPT_LIST,
	 .offset = offsetof(struct args, list)},
	{.short_name = 'v',
	 .long_name = "verbosity",
	 .arg = "N",
	 .help = "more",
	 .type = OPT_VERBOSE,
	 .offset = offsetof(struct args, verbose)},
	{0},
};

static const struct opt_spec spec = {
	.command = "test",
	.arguments = "A B",
	.summary = "a command",
	.min_args = 0,
	.max_args = 2,
	.command_follows = true,
	.rows = rows,
};

static int parse(struct args *args, struct opt_rest *rest, struct err *err, char **argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	return opt_parse(&spec, argc, argv, args, rest, err);
}

/* The words live as long as the caller's block: rest->command points into them. */
#define PARSE(args, rest, err, ...) parse(args, rest, err, (char *[]){"test", __VA_ARGS__, NULL})

static void forms(void **state)
{
	struct args a = {0};
	struct opt_rest rest;
	struct err err;

	assert_int_equal(PARSE(&a, &rest, &err, "-yk", "-tabc", "--number=7", "one", "--bytes",
			       "3K", "--word", "new", "--item", "x", "--item=y", "two"),
			 0);
	assert_true(a.yes && a.other);
	assert_string_equal(a.text, "abc");
	assert_int_equal(a.number, 7);
	assert_int_equal(a.bytes, 3072);
	assert_int_equal(a.word, 2);
	assert_int_equal(a.list.n, 2);
	assert_string_equal(a.list.v[1], "y");
	assert_int_equal(rest.n, 2);
	assert_string_equal(rest.v[1], "two");
	assert_null(rest.command);
}

static void verbosity(void **state)
{
	struct opt_rest rest;
	struct args a = {.verbose = 2};
	struct err err;

	assert_int_equal(PARSE(&a, &rest, &err, "-v"), 0);
	assert_int_equal(a.verbose, 3);
	assert_int_equal(PARSE(&a, &rest, &err, "-v1"), 0);
	assert_int_equal(a.verbose, 1);
	assert_int_equal(PARSE(&a, &rest, &err, "-vvvvvvv"), 0);
	assert_int_equal(a.verbose, 4);
	assert_int_equal(PARSE(&a, &rest, &err, "--verbosity=0"), 0);
	assert_int_equal(a.verbose, 0);
	assert_int_equal(PARSE(&a, &rest, &err, "-v9"), -1);
}

static void command_after_dashes(void **state)
{
	struct opt_rest rest;
	struct args a = {0};
	struct err err;

	assert_int_equal(PARSE(&a, &rest, &err, "-y", "--", "cat", "-y", "--none"), 0);
	assert_int_equal(rest.n, 0);
	assert_string_equal(rest.command[0], "cat");
	assert_string_equal(rest.command[2], "--none");
	assert_null(rest.command[3]);
}

static void help_wins(void **state)
{
	struct opt_rest rest;
	struct args a = {0};
	struct err err;

	assert_int_equal(PARSE(&a, &rest, &err, "--help", "--nonsense"), 0);
	assert_true(rest.help);
	assert_int_equal(PARSE(&a, &rest, &err, "-yh"), 0);
	assert_true(rest.help);
}

/* Each of these words is refused with a sentence that holds the text. */
static void refusals(void **state)
{
	static const struct {
		char *word, *value;
		const char *text;
	} bad[] = {
		{"--nothing", NULL, "--nothing: there is no such option"},
		{"--numbe", "7", "there is no such option"},
		{"-z", NULL, "-z: there is no such option"},
		{"-\x01", NULL, "-?: there is no such option"},
		{"--number", NULL, "--number: N is missing"},
		{"-n", NULL, "-n: N is missing"},
		{"--number", "4", "not between 5 and 50"},
		{"--number", "51", "not between 5 and 50"},
		{"--number", "99999999999999999999", "not between"},
		{"--number", "-7", "not a number"},
		{"--number", " 7", "not a number"},
		{"--number", "0x7", "not a number"},
		{"--number", "7 ", "not a number"},
		{"--number", "", "the value is empty"},
		{"--bytes", "K", "not a size"},
		{"--bytes", "3T", "not a number"},
		{"--bytes", "-3K", "not a number"},
		{"--bytes", "17179869184G", "not between"},
		{"--bytes", "1K", "--bytes: '1K' is less than 2K"},
		{"--bytes", "65G", "--bytes: '65G' is more than 64G"},
		{"--bytes", "000000000000000000000000000000000000001K", "not a size"},
		{"--word", "other", "is none of same, auto, new"},
		{"--yes=1", NULL, "--yes: takes no value"},
		{"--text=", NULL, "the value is empty"},
		{"--=x", NULL, "there is no such option"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct args a = {0};
		struct opt_rest rest;
		struct err err = {0};
		char *argv[] = {"test", bad[i].word, bad[i].value, NULL};

		assert_int_equal(opt_parse(&spec, bad[i].value ? 3 : 2, argv, &a, &rest, &err), -1);
		if (!strstr(err.text, bad[i].text))
			fail_msg("%s: said '%s', not '%s'", bad[i].word, err.text, bad[i].text);
		assert_null(strchr(err.text, '\n'));
	}
}

static void limits(void **state)
{
	char *argv[70] = {"test"};
	struct args a = {0};
	struct opt_rest rest;
	struct err err;

	assert_int_equal(PARSE(&a, &rest, &err, "1", "2", "3"), -1);
	assert_non_null(strstr(err.text, "one argument too many"));
	for (int i = 1; i < 69; i++)
		argv[i] = "--item=x";
	assert_int_equal(opt_parse(&spec, 69, argv, &a, &rest, &err), -1);
	assert_non_null(strstr(err.text, "more than 32 times"));
}

static void help_text(void **state)
{
	char *text = NULL, *line, *save;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	assert_non_null(to);
	opt_help(&spec, to);
	fclose(to);
	for (const struct opt_row *row = rows; row->long_name; row++)
		assert_non_null(strstr(text, row->long_name));
	assert_non_null(strstr(text, "-h, --help"));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		assert_true(strlen(line) < 80);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms),
		cmocka_unit_test(verbosity),
		cmocka_unit_test(command_after_dashes),
		cmocka_unit_test(help_wins),
		cmocka_unit_test(refusals),
		cmocka_unit_test(limits),
		cmocka_unit_test(help_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include "cmd/opt.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* -h and --help belong to every command; the parser adds them. */
static const struct opt_row help_row = {.short_name = 'h',
					.long_name = "help",
					.help = "print this help and exit"};

int opt_number(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out,
	       struct err *err)
{
	unsigned long long value;
	char *end;

	/* strtoull takes blanks and signs; a number on a command line starts with a digit */
	if (!isdigit((unsigned char)text[0]))
		return err_set(err, EINVAL, "%s: '%.80s' is not a number", what, text);
	errno = 0;
	value = strtoull(text, &end, 10);
	if (*end)
		return err_set(err, EINVAL, "%s: '%.80s' is not a number", what, text);
	if (errno || value < min || value > max)
		return err_set(err, ERANGE, "%s: '%.80s' is not between %llu and %llu", what, text,
			       (unsigned long long)min, (unsigned long long)max);
	*out = value;
	return 0;
}

/* As a user would give it. Returns @out. */
static const char *bytes_text(uint64_t bytes, char out[static 24])
{
	static const char *const units[] = {"", "K", "M", "G"};
	size_t i = 0;

	for (; bytes && bytes % 1024 == 0 && i + 1 < ARRAY_SIZE(units); i++)
		bytes /= 1024;
	snprintf(out, 24, "%llu%s", (unsigned long long)bytes, units[i]);
	return out;
}

static int set_bytes(const struct opt_row *row, const char *name, const char *text, uint64_t *out,
		     struct err *err)
{
	static const char suffix[] = "KMG";
	char digits[32], limit[24];
	size_t len = strlen(text);
	const char *unit = len ? strchr(suffix, toupper((unsigned char)text[len - 1])) : NULL;
	unsigned int shift = unit && *unit ? 10 * (unsigned int)(unit - suffix + 1) : 0;
	uint64_t value;

	if (shift)
		len--;
	if (len == 0 || len >= sizeof(digits))
		return err_set(err, EINVAL, "%s: '%.80s' is not a size", name, text);
	memcpy(digits, text, len);
	digits[len] = '\0';
	if (opt_number(digits, name, 0, UINT64_MAX >> shift, &value, err) < 0)
		return -1;
	value <<= shift;
	if (value < row->min)
		return err_set(err, ERANGE, "%s: '%.80s' is less than %s", name, text,
			       bytes_text(row->min, limit));
	if (value > row->max)
		return err_set(err, ERANGE, "%s: '%.80s' is more than %s", name, text,
			       bytes_text(row->max, limit));
	*out = value;
	return 0;
}

static int set_word(const struct opt_row *row, const char *name, const char *text,
		    unsigned int *out, struct err *err)
{
	char choices[256] = "";

	for (unsigned int i = 0; row->words[i]; i++) {
		size_t len = strlen(choices);

		if (!strcmp(text, row->words[i])) {
			*out = i;
			return 0;
		}
		snprintf(choices + len, sizeof(choices) - len, "%s%s", i ? ", " : "", row->words[i]);
	}
	return err_set(err, EINVAL, "%s: '%.80s' is none of %s", name, text, choices);
}

static int set_list(const char *name, const char *text, struct opt_list *list, struct err *err)
{
	if (list->n == ARRAY_SIZE(list->v))
		return err_set(err, E2BIG, "%s: given more than %zu times", name,
			       ARRAY_SIZE(list->v));
	list->v[list->n++] = text;
	return 0;
}

static int set_verbose(const char *name, const char *text, unsigned int *level, struct err *err)
{
	uint64_t value;

	if (!text) {
		if (*level < 4)
			++*level;
		return 0;
	}
	if (opt_number(text, name, 0, 4, &value, err) < 0)
		return -1;
	*level = (unsigned int)value;
	return 0;
}

static bool takes_value(const struct opt_row *row)
{
	return row->type != OPT_FLAG && row->type != OPT_VERBOSE;
}

/* @name is how the user wrote the option; @text is NULL for options without a value. */
static int set_value(const struct opt_row *row, const char *name, const char *text, void *out,
		     struct err *err)
{
	void *field = (char *)out + row->offset;

	if (!text && takes_value(row))
		return err_set(err, EINVAL, "%s: the value is missing", name);
	if (text && !*text && row->type != OPT_VERBOSE)
		return err_set(err, EINVAL, "%s: the value is empty", name);
	switch (row->type) {
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_TEXT:
		*(const char **)field = text;
		return 0;
	case OPT_NUMBER:
		return opt_number(text, name, row->min, row->max, field, err);
	case OPT_BYTES:
		return set_bytes(row, name, text, field, err);
	case OPT_WORD:
		return set_word(row, name, text, field, err);
	case OPT_LIST:
		return set_list(name, text, field, err);
	case OPT_VERBOSE:
		return set_verbose(name, text, field, err);
	}
	return err_set(err, EINVAL, "%s: unknown type of option", name);
}

static const struct opt_row *find_long(const struct opt_spec *spec, const char *name, size_t len)
{
	if (len == 4 && !strncmp(name, "help", 4))
		return &help_row;
	for (const struct opt_row *row = spec->rows; row->long_name; row++) {
		if (strlen(row->long_name) == len && !strncmp(row->long_name, name, len))
			return row;
	}
	return NULL;
}

static const struct opt_row *find_short(const struct opt_spec *spec, char name)
{
	for (const struct opt_row *row = spec->rows; row->long_name; row++) {
		if (row->short_name && row->short_name == name)
			return row;
	}
	return name == 'h' ? &help_row : NULL;
}

struct cursor {
	const struct opt_spec *spec;
	int argc, i;
	char **argv;
	void *out;
	struct opt_rest *rest;
};

static int parse_long(struct cursor *c, struct err *err)
{
	const char *word = c->argv[c->i] + 2;
	const char *eq = strchr(word, '=');
	size_t len = eq ? (size_t)(eq - word) : strlen(word);
	const struct opt_row *row = find_long(c->spec, word, len);
	const char *value = eq ? eq + 1 : NULL;
	char name[64];

	snprintf(name, sizeof(name), "--%.*s", (int)MIN(len, (size_t)48), word);
	if (!row)
		return err_set(err, EINVAL, "%s: there is no such option", name);
	if (row == &help_row) {
		c->rest->help = true;
		return 0;
	}
	if (value && row->type == OPT_FLAG)
		return err_set(err, EINVAL, "%s: takes no value", name);
	if (!value && takes_value(row)) {
		if (c->i + 1 >= c->argc)
			return err_set(err, EINVAL, "%s: %s is missing", name, row->arg);
		value = c->argv[++c->i];
	}
	return set_value(row, name, value, c->out, err);
}

static int parse_short(struct cursor *c, struct err *err)
{
	for (const char *p = c->argv[c->i] + 1; *p; p++) {
		const struct opt_row *row = find_short(c->spec, *p);
		const char *value = NULL;
		char name[3] = {'-', isprint((unsigned char)*p) ? *p : '?', '\0'};

		if (!row)
			return err_set(err, EINVAL, "%s: there is no such option", name);
		if (row == &help_row) {
			c->rest->help = true;
			return 0;
		}
		if (row->type == OPT_VERBOSE && p[1] && (isdigit((unsigned char)p[1]) || p[1] == '='))
			return set_value(row, name, p[1] == '=' ? p + 2 : p + 1, c->out, err);
		if (!takes_value(row)) {
			if (set_value(row, name, NULL, c->out, err) < 0)
				return -1;
			continue;
		}
		if (p[1])
			value = p + 1;
		else if (c->i + 1 < c->argc)
			value = c->argv[++c->i];
		else
			return err_set(err, EINVAL, "%s: %s is missing", name, row->arg);
		return set_value(row, name, value, c->out, err);
	}
	return 0;
}

static int parse_argument(struct cursor *c, const char *word, struct err *err)
{
	struct opt_rest *rest = c->rest;

	if (rest->n >= c->spec->max_args || rest->n >= ARRAY_SIZE(rest->v))
		return err_set(err, EINVAL, "'%.80s': one argument too many", word);
	rest->v[rest->n++] = word;
	return 0;
}

int opt_parse(const struct opt_spec *spec, int argc, char **argv, void *out, struct opt_rest *rest,
	      struct err *err)
{
	struct cursor c = {.spec = spec, .argc = argc, .i = 1, .argv = argv, .out = out, .rest = rest};
	bool options = true;
	int rc = 0;

	*rest = (struct opt_rest){0};
	for (; c.i < argc && !rc && !rest->help; c.i++) {
		const char *word = argv[c.i];

		if (options && !strcmp(word, "--")) {
			options = false;
			if (spec->command_follows && c.i + 1 < argc) {
				rest->command = &argv[c.i + 1];
				break;
			}
		} else if (options && word[0] == '-' && word[1] == '-') {
			rc = parse_long(&c, err);
		} else if (options && word[0] == '-' && word[1]) {
			rc = parse_short(&c, err);
		} else {
			rc = parse_argument(&c, word, err);
		}
	}
	if (rc || rest->help)
		return rc;
	if (rest->n < spec->min_args)
		return err_set(err, EINVAL, "%s: expected %s",
			       rest->n ? "too few arguments" : "no arguments", spec->arguments);
	return 0;
}

/* ---- --help ---- */

/* Column at which the text of an option starts; lines end before column 80. */
enum { HELP_COLUMN = 27, HELP_WIDTH = 79 };

/* Words of @text from column @from on, broken between words. */
static void print_wrapped(FILE *to, const char *text, int column, int from)
{
	while (*text) {
		int len = (int)strcspn(text, " ");

		if (column > from && column + 1 + len > HELP_WIDTH) {
			fprintf(to, "\n%*s", from, "");
			column = from;
		}
		column += fprintf(to, "%s%.*s", column > from ? " " : "", len, text);
		text += len;
		while (*text == ' ')
			text++;
	}
	fputc('\n', to);
}

static void help_option(const struct opt_row *row, FILE *to)
{
	char head[80];
	int n;

	if (row->short_name)
		n = snprintf(head, sizeof(head), "  -%c, --%s", row->short_name, row->long_name);
	else
		n = snprintf(head, sizeof(head), "      --%s", row->long_name);
	if (row->arg)
		n += snprintf(head + n, sizeof(head) - (size_t)n,
			      row->type == OPT_VERBOSE ? "[=%s]" : " %s", row->arg);
	fputs(head, to);
	if (n >= HELP_COLUMN - 1) {
		fputc('\n', to);
		n = 0;
	}
	fprintf(to, "%*s", HELP_COLUMN - n, "");
	print_wrapped(to, row->help, HELP_COLUMN, HELP_COLUMN);
}

void opt_help(const struct opt_spec *spec, FILE *to)
{
	fprintf(to, "usage: ferry%s%s [OPTION]...%s%s%s\n\n", spec->command ? " " : "",
		spec->command ? spec->command : "", *spec->arguments ? " " : "", spec->arguments,
		spec->command_follows ? " [-- COMMAND...]" : "");
	print_wrapped(to, spec->summary, 0, 0);
	if (spec->details)
		fprintf(to, "\n%s", spec->details);
	fputs("\nOptions:\n", to);
	for (const struct opt_row *row = spec->rows; row->long_name; row++)
		help_option(row, to);
	help_option(&help_row, to);
}

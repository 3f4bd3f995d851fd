// SPDX-License-Identifier: Apache-2.0
/*
 * Options are data: one table of rows per command yields the parser, --help
 * and the usage errors. A row names where its value goes (an offset into the
 * command's own struct), so that no option is a global and a command reads its
 * options as plain fields.
 *
 * Forms understood: -x, -xVALUE, -x VALUE, -abc, --long, --long=VALUE,
 * --long VALUE, and "--" which ends the options. Long names must be whole.
 */
#ifndef FERRY_CMD_OPT_H
#define FERRY_CMD_OPT_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum opt_type {
	OPT_FLAG,   /* bool: set to true */
	OPT_TEXT,   /* const char *: not empty */
	OPT_NUMBER, /* uint64_t: decimal, within min..max */
	OPT_BYTES, /* uint64_t: decimal with an optional K, M or G (powers of 1024), within min..max */
	OPT_WORD,    /* unsigned int: index into words[] */
	OPT_LIST,    /* struct opt_list: may be given many times */
	OPT_VERBOSE, /* unsigned int: -v raises by one, -vN and -v=N set */
};

/* Values of an option that may be repeated; they point into argv. */
struct opt_list {
	const char *v[32];
	size_t n;
};

struct opt_row {
	char short_name;       /* 0: none */
	const char *long_name; /* never NULL */
	const char *arg;       /* what --help calls the value; NULL for flags */
	const char *help;
	enum opt_type type;
	size_t offset; /* of the field in the command's struct */
	uint64_t min, max;
	const char *const *words; /* OPT_WORD: ended by NULL */
};

struct opt_spec {
	const char *command;   /* "dump"; NULL for the program itself */
	const char *arguments; /* "PID [USER@]HOST", shown in the usage line; "" if none */
	const char *summary;   /* one sentence */
	const char *details;   /* more paragraphs for --help, or NULL */
	size_t min_args, max_args;
	bool command_follows;       /* words after "--" are a command, not arguments */
	const struct opt_row *rows; /* ended by a row without a long name */
};

/* What was not an option. */
struct opt_rest {
	const char *v[4];
	size_t n;
	char **command; /* words after "--" when spec->command_follows; NULL-terminated; or NULL */
	bool help;      /* --help or -h was given: nothing else was checked */
};

/*
 * Parses argv[1..] into @out (already filled with defaults). Values point into
 * argv. -1 and one sentence on the first thing that is wrong.
 */
int opt_parse(const struct opt_spec *spec, int argc, char **argv, void *out, struct opt_rest *rest,
	      struct err *err) must_check;

/* Prints --help to @to. */
void opt_help(const struct opt_spec *spec, FILE *to);

/* A decimal number and nothing else, within min..max; -1 and a sentence that names @what. */
int opt_number(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out,
	       struct err *err) must_check;

#endif

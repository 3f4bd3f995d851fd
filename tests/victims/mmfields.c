// SPDX-License-Identifier: Apache-2.0
// What the kernel keeps about a program's image: arguments and environment (also after the program
// has rewritten them), auxiliary vector, executable, and the addresses in /proc/PID/stat.
#include "victim.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct facts {
	char *cmdline, *auxv, *fields;
	char *environment;
	size_t cmdline_len;
	char exe[PATH_MAX];
};

// Whole file that may contain zero bytes, as hexadecimal text.
static char *slurp(const char *path)
{
	char *hex = calloc(1, 200001);
	FILE *file = fopen(path, "r");
	int c;

	CHECK(file && hex, "open %s", path);
	for (size_t i = 0; i < 100000 && (c = fgetc(file)) != EOF; i++)
		sprintf(hex + 2 * i, "%02x", c);
	fclose(file);
	return hex;
}

// startcode endcode startstack, start_data ... exit_code: fields 26-28 and 45-51.
static char *stat_fields(void)
{
	char *text = victim_read_file("/proc/self/stat"), *out = calloc(1, 1024), *save;
	int nr = 3;

	for (char *f = strtok_r(strrchr(text, ')') + 2, " ", &save); f;
	     f = strtok_r(NULL, " ", &save), nr++)
		if ((nr >= 26 && nr <= 28) || (nr >= 45 && nr <= 51))
			strcat(strcat(out, f), " ");
	free(text);
	return out;
}

static struct facts look(void)
{
	struct facts f = {0};

	f.cmdline = slurp("/proc/self/cmdline");
	f.environment = slurp("/proc/self/environ");
	f.auxv = slurp("/proc/self/auxv");
	f.fields = stat_fields();
	MUST(readlink("/proc/self/exe", f.exe, sizeof(f.exe) - 1));
	return f;
}

#define SAME(field) \
	CHECK(strcmp(was.field, is.field) == 0, #field ": was %s, is %s", was.field, is.field)

int main(int argc, char **argv)
{
	struct facts was, is;
	void *brk_was;

	victim_start(argc, argv);
	// As setproctitle does it.
	for (char *p = argv[0]; *p; p++)
		*p = 'x';
	sbrk(3 * VICTIM_PAGE + 123);
	was = look();
	brk_was = sbrk(0);
	victim_ready();
	victim_wait();
	is = look();
	SAME(cmdline);
	SAME(environment);
	SAME(auxv);
	SAME(fields);
	SAME(exe);
	CHECK(sbrk(0) == brk_was, "brk was %p, is %p", brk_was, sbrk(0));
	CHECK(sbrk(VICTIM_PAGE) == brk_was, "brk does not grow");
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// Entry of the command line: finds the command by its name and runs it.
#include "cmd/cmd.h"

#include <string.h>

static const struct cmd *const commands[] = {
	&cmd_agent,       &cmd_call,        &cmd_check,        &cmd_dump,
	&cmd_image_cache, &cmd_image_proxy, &cmd_image_stream, &cmd_lazy_pages,
	&cmd_lazyfs,      &cmd_migrate,     &cmd_page_server,  &cmd_pre_dump,
	&cmd_restore,     &cmd_serve,       &cmd_show,         NULL,
};

static void print_help(FILE *to)
{
	fputs("usage: ferry COMMAND [OPTION]... [ARGUMENT]...\n"
	      "\n"
	      "Moves running programs to another host, and saves them to disk and back.\n"
	      "\n"
	      "Commands:\n",
	      to);
	for (size_t i = 0; commands[i]; i++)
		fprintf(to, "  %-14s%s\n", commands[i]->spec->command, commands[i]->spec->summary);
	fputs("\n"
	      "'ferry COMMAND --help' prints the options of a command; 'ferry --version' the version.\n",
	      to);
}

int cmd_fail(const struct opt_spec *spec, const struct err *err)
{
	fprintf(stderr, "ferry %s: %s\n", spec->command, err->text);
	return EXIT_FAILED;
}

int cmd_options(const struct opt_spec *spec, int argc, char **argv, void *out, struct opt_rest *rest)
{
	struct err err;

	if (opt_parse(spec, argc, argv, out, rest, &err) < 0) {
		fprintf(stderr, "ferry %s: %s; see 'ferry %s --help'\n", spec->command, err.text,
			spec->command);
		return EXIT_USAGE;
	}
	if (!rest->help)
		return -1;
	opt_help(spec, stdout);
	return fflush(stdout) ? EXIT_FAILED : EXIT_DONE;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	for (size_t i = 0; commands[i]; i++) {
		if (!strcmp(name, commands[i]->spec->command))
			return commands[i]->run(argc - 1, argv + 1);
	}
	if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
		printf("ferry %s\n", FERRY_VERSION);
		return fflush(stdout) ? EXIT_FAILED : EXIT_DONE;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		print_help(stdout);
		return fflush(stdout) ? EXIT_FAILED : EXIT_DONE;
	}
	if (!*name)
		print_help(stderr);
	else
		fprintf(stderr, "ferry: there is no command '%.80s'; see 'ferry --help'\n", name);
	return EXIT_USAGE;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Commands: each file of cmd/ holds one command as a const entry, and main.c
 * lists them. A command returns its exit status: 0 done, 1 failed (one
 * sentence was printed), 2 wrongly called.
 */
#ifndef FERRY_CMD_CMD_H
#define FERRY_CMD_CMD_H

#include "cmd/opt.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct cmd {
	const struct opt_spec *spec;       /* name, summary, options */
	int (*run)(int argc, char **argv); /* argv[0] is the command's name */
};

extern const struct cmd cmd_agent;
extern const struct cmd cmd_call;
extern const struct cmd cmd_check;
extern const struct cmd cmd_dump;
extern const struct cmd cmd_image_cache;
extern const struct cmd cmd_image_proxy;
extern const struct cmd cmd_image_stream;
extern const struct cmd cmd_lazy_pages;
extern const struct cmd cmd_lazyfs;
extern const struct cmd cmd_migrate;
extern const struct cmd cmd_page_server;
extern const struct cmd cmd_pre_dump;
extern const struct cmd cmd_restore;
extern const struct cmd cmd_serve;
extern const struct cmd cmd_show;

/* Prints "ferry NAME: text" to stderr. Returns EXIT_FAILED. */
int cmd_fail(const struct opt_spec *spec, const struct err *err);

/*
 * Parses the options of a command. Returns -1 to go on; otherwise the exit
 * status: --help was printed (0), or a usage error was (2).
 */
int cmd_options(const struct opt_spec *spec, int argc, char **argv, void *out, struct opt_rest *rest);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Commands that listen. --daemon: one goes into the background when it is ready, so that
 * whoever started it knows that it can be used, or why not.
 */
#ifndef FERRY_CMD_DAEMON_H
#define FERRY_CMD_DAEMON_H

#include "base/err.h"
#include "cmd/common.h"

struct daemon_args {
	const char *pidfile;
	uint64_t status_fd; /* NO_STATUS_FD: none */
	bool background;
};

/* Rows of the options table of a command that has struct daemon_args as member @at of its @Args. */
#define DAEMON_ROWS(Args, at)                                                                     \
	{.short_name = 'd',                                                                       \
	 .long_name = "daemon",                                                                   \
	 .help = "return when it listens; it works in the background",                            \
	 .type = OPT_FLAG,                                                                        \
	 .offset = offsetof(Args, at.background)},                                                \
		{.long_name = "pidfile",                                                          \
		 .arg = "FILE",                                                                   \
		 .help = "write its pid to FILE (relative to the work directory, if it has one)", \
		 .type = OPT_TEXT,                                                                \
		 .offset = offsetof(Args, at.pidfile)},                                           \
	{                                                                                         \
		.long_name = "status-fd", .arg = "FD",                                            \
		.help = "write a zero byte to descriptor FD when it listens", .type = OPT_NUMBER, \
		.offset = offsetof(Args, at.status_fd), .max = 1048575                            \
	}

/*
 * Forks. The child returns 0, in a session of its own, and calls daemon_ready or just exits after saying
 * on stderr what is wrong. The parent waits for that and returns 1, with the
 * exit status for it in *status_out. -1: could not fork.
 */
int daemon_fork(int *ready_fd_out, int *status_out, struct err *err) must_check;

/* Standard input, output and error go to /dev/null: nobody who reads them waits for us. */
int daemon_leave_terminal(struct err *err) must_check;

/* Ready: the parent may return. Leaves the terminal. */
int daemon_ready(int ready_fd, struct err *err) must_check;

/*
 * The whole command: with --daemon forks first, then does the work, which calls daemon_announce when it listens;
 * @ready_fd is -1 in the foreground. Returns the exit status; what went wrong has been said.
 */
int daemon_run(const struct opt_spec *spec, const struct daemon_args *args,
	       int (*work)(void *arg, int ready_fd, struct err *err), void *arg);

/* It listens: whoever waits for that is told, by pid file (relative to @dir_fd), @status_fd (-1: none) and @ready_fd. */
int daemon_announce(const struct daemon_args *args, int dir_fd, int status_fd, int ready_fd,
		    struct err *err) must_check;

#endif

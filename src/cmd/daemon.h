// SPDX-License-Identifier: Apache-2.0
/*
 * --daemon: a command that goes into the background when it is ready, so that
 * whoever started it knows that it can be used, or why not.
 */
#ifndef FERRY_CMD_DAEMON_H
#define FERRY_CMD_DAEMON_H

#include "base/err.h"

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

#endif

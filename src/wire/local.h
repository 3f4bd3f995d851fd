// SPDX-License-Identifier: Apache-2.0
/* Sockets by which commands on one host find each other in a directory (unix(7)). */
#ifndef FERRY_WIRE_LOCAL_H
#define FERRY_WIRE_LOCAL_H

#include "base/attrs.h"
#include "base/err.h"

/*
 * A listening, nonblocking socket @name in the directory, only for its owner. A socket that somebody still
 * listens on is left to him: EADDRINUSE; an old one is replaced.
 */
int local_listen(int dirfd, const char *name, struct err *err) must_check;

/* Connected, blocking. */
int local_connect(int dirfd, const char *name, struct err *err) must_check;

/*
 * One byte, and the descriptor that came with it, which the caller owns; more that came along are closed. Waits as
 * long as the socket lets it. -1: ENODATA where a byte came without one, EPIPE at the end.
 */
int local_receive_fd(int fd, struct err *err) must_check;

/* Does the other end belong to us, or to root? */
int local_check_peer(int fd, struct err *err) must_check;

#endif

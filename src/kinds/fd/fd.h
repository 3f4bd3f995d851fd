// SPDX-License-Identifier: Apache-2.0
/*
 * The tables of the descriptor kinds, for the registry only.
 */
#ifndef FERRY_KINDS_FD_FD_H
#define FERRY_KINDS_FD_FD_H

#include "kinds/kind.h"

extern const struct fd_kind epoll_kind;
extern const struct fd_kind eventfd_kind;
extern const struct fd_kind fifo_kind;
extern const struct fd_kind file_kind;
extern const struct fd_kind inet_kind;
extern const struct fd_kind memfd_kind;
extern const struct fd_kind othersock_kind;
extern const struct fd_kind pipe_kind;
extern const struct fd_kind refuse_kind;
extern const struct fd_kind signalfd_kind;
extern const struct fd_kind timerfd_kind;
extern const struct fd_kind tty_kind;
extern const struct fd_kind unix_kind;

#endif

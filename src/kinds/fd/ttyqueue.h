// SPDX-License-Identifier: Apache-2.0
/*
 * The input queue of one end of a pseudo terminal: what was typed or printed
 * and not read yet.
 *
 * The kernel cannot show it, only hand it out. So a keeper takes it: a process
 * of its own that reads the queue, tells us what was in it, and puts it back
 * unless it hears that it need not. It outlives us: if we are killed between
 * taking and putting back, the program finds its input all the same.
 */
#ifndef FERRY_KINDS_FD_TTYQUEUE_H
#define FERRY_KINDS_FD_TTYQUEUE_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TTYQUEUE_MAX = 65536 };

struct ttyqueue;

/*
 * Takes the queue of @fd, which is a slave end of the pseudo terminal of
 * @master, or @master itself. *data_out (malloc'ed) holds *bytes_out of it; what ended a line of a slave
 * without a newline shows as its end-of-file character. *out is NULL if the
 * queue was empty.
 */
int ttyqueue_take(int fd, int master, struct ttyqueue **out, uint8_t **data_out, size_t *bytes_out,
		  struct err *err) must_check;

/* Puts it back and waits until it is there. Ends the keeper and frees @q, also on error. */
int ttyqueue_put_back(struct ttyqueue *q, struct err *err) must_check;

/* The program is gone: ends the keeper, waits until it has let go of the terminal, and frees @q. */
void ttyqueue_drop(struct ttyqueue *q);

/*
 * Queues data as input of @fd, as if the other end had written it: without echo
 * or editing; lines of a slave in canonical mode stay lines. Needs
 * CAP_SYS_ADMIN (TIOCSTI). 0 or -1 with errno.
 */
int ttyqueue_put(int fd, int master, const uint8_t *data, size_t bytes) must_check;

#endif

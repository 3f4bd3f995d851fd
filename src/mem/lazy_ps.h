// SPDX-License-Identifier: Apache-2.0
/*
 * A source of lazy pages: a server that speaks CRIU's GET requests
 * (ps_wire.h): 'dump --lazy-pages' of ferry or CRIU, 'criu page-server --lazy-pages'. Objects
 * are pids. One connection, answers in the order of the questions.
 *
 * A connection that breaks is made again, for as long as the user wants.
 */
#ifndef FERRY_MEM_LAZY_PS_H
#define FERRY_MEM_LAZY_PS_H

#include "mem/lazy.h"
#include "wire/tls.h"

struct lazy_ps_options {
	const char *host;
	uint16_t port;
	const struct tls *tls; /* NULL: the connection is plain */
	/* After a loss: how long it is tried to connect again; 0: for ever. */
	unsigned int reconnect_s;
};

/* Connects. The options' texts must outlive it. */
struct lazy_source *lazy_ps_open(const struct lazy_ps_options *opt, struct err *err) must_check;

/* Nothing is missing any more: says CLOSE, which tells the server so, and waits for its answer. */
int lazy_ps_finish(struct lazy_source *s, struct lazy *z, struct err *err) must_check;
void lazy_ps_close(struct lazy_source *s); /* NULL allowed */

#endif

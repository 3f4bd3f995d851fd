// SPDX-License-Identifier: Apache-2.0
/*
 * One connection to "ferry serve", in a process of its own: who is it, what does he want, may he; then
 * his bytes go to an agent.
 */
#ifndef FERRY_CMD_SERVE_PEER_H
#define FERRY_CMD_SERVE_PEER_H

#include "cmd/tls_args.h"

struct serve_options {
	const struct tls_args *tls;
	const char *peers;        /* the file; migrate/peers.h */
	const char *agent_socket; /* NULL: agents are started here; else by whoever listens there */
};

/*
 * Serves the connected socket @fd, which it takes. A byte goes to @admitted (taken, too) when the peer has
 * shown who he is and what he wants. 0: it was done, whatever became of it; -1: it was refused, or broke.
 */
int serve_peer(const struct serve_options *opt, int fd, int admitted, struct err *err) must_check;

#endif

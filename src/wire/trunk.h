// SPDX-License-Identifier: Apache-2.0
/*
 * One stream over several connections (ways), so that several cores encrypt, and one connection's
 * window is not the limit. The user has a descriptor, as with a tunnel; a thread cuts what he
 * writes into blocks, deals them out to the ways in turn, and puts together what comes:
 *
 *	u32 length (little endian, at most 65536; 0: the end of the stream), bytes
 *
 * Each block goes to the way after that of the block before; so its place in the stream need not
 * be said. With one way there are neither blocks nor a thread.
 */
#ifndef FERRY_WIRE_TRUNK_H
#define FERRY_WIRE_TRUNK_H

#include "wire/tunnel.h"

#include <stddef.h>

enum { TRUNK_WAYS_MAX = 16, TRUNK_BLOCK_BYTES = 65536 };

/* A connection: a stream socket, and what is around it (NULL: nothing). */
struct trunk_way {
	int fd;
	struct tunnel *tunnel;
};

struct trunk;

/* Takes the ways, also on failure. @fd_out: the user's end, which he closes. */
struct trunk *trunk_open(const struct trunk_way *ways, size_t n, int *fd_out, struct err *err)
	must_check;

/* Closes ways that are not used. */
void trunk_drop(const struct trunk_way *ways, size_t n);

/* The tunnel of a trunk with one way, for tunnel_take_over; NULL: there are several ways, or it has none. NULL allowed. */
struct tunnel *trunk_tunnel(struct trunk *t);

/* Why it ended, if not properly: -1 and the reason; 0: it is in order. NULL allowed. */
int trunk_fault(struct trunk *t, struct err *err);

/* After the user's end was closed: lets what was written go out, and waits, some seconds at most, for the peer. NULL allowed. */
void trunk_finish(struct trunk *t);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The first bytes of a lane, for both ends: magic, token, kind, zeros.
 */
#ifndef FERRY_MIGRATE_LANE_PRIV_H
#define FERRY_MIGRATE_LANE_PRIV_H

#include "migrate/lane.h"

#define LANE_MAGIC "ferrylan"
enum {
	LANE_MAGIC_BYTES = 8,
	LANE_KIND_AT = LANE_MAGIC_BYTES + WIRE_TOKEN_CHARS,
	LANE_HELLO_BYTES = LANE_KIND_AT + 8,
};

/* Nonblocking, close-on-exec, large pipes. */
void lane_set_up(struct lane *lane);

/* Is it the beginning of a lane? token_out gets its token. False: something else. */
bool lane_hello_parse(const uint8_t hello[LANE_HELLO_BYTES], char token_out[WIRE_TOKEN_CHARS + 1],
		      enum lane_kind *kind_out);

struct sockaddr_un;

/*
 * The socket in the directory of records to which "agent --join" brings lanes of this kind. Returns that
 * directory, open: the address leads through it. -1 + err.
 */
int lane_door_address(const char *token, enum lane_kind kind, struct sockaddr_un *addr,
		      struct err *err) must_check;
int lane_door_open(const char *token, enum lane_kind kind, struct err *err) must_check;
void lane_door_close(int door, const char *token, enum lane_kind kind);

/*
 * What "agent --join" has sent so far: at most @room bytes into @buf, and its two descriptors (else they
 * stay as they are). As recvmsg(2), without waiting.
 */
ssize_t lane_door_receive(int conn, uint8_t *buf, size_t room, int *in_out, int *out_out);

#endif

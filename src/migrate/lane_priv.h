// SPDX-License-Identifier: Apache-2.0
/*
 * The first bytes of a lane, for both ends: magic, token, kind, and its place (version, lanes in the set, its own
 * number, the attempt). Older ferries have zeros there, and ignore what there is. And lanes that wait for the rest of
 * their set.
 */
#ifndef FERRY_MIGRATE_LANE_PRIV_H
#define FERRY_MIGRATE_LANE_PRIV_H

#include "migrate/lane.h"

#define LANE_MAGIC "ferrylan"
enum {
	LANE_MAGIC_BYTES = 8,
	LANE_KIND_AT = LANE_MAGIC_BYTES + WIRE_TOKEN_CHARS,
	LANE_VERSION_AT,
	LANE_N_AT,
	LANE_INDEX_AT,
	LANE_SET_AT, /* 32 bits, little endian */
	LANE_HELLO_BYTES = LANE_SET_AT + 4,
};
static_assert(LANE_HELLO_BYTES == 48, "as all ferries read it");

/* Nonblocking, close-on-exec, large pipes. */
void lane_set_up(struct lane *lane);

void lane_hello_make(const struct lane_call *call, uint8_t hello[LANE_HELLO_BYTES]);

/* Is it the beginning of a lane? token_out gets its token. False: something else. place_out may be NULL. */
bool lane_hello_parse(const uint8_t hello[LANE_HELLO_BYTES], char token_out[WIRE_TOKEN_CHARS + 1],
		      enum lane_kind *kind_out, struct lane_place *place_out);

/* The answer of a target that knows of sets; the version follows. */
uint8_t lane_knowing(enum lane_kind kind);

/* ---- sets ---- */

struct lane_set {
	struct lane lanes[LANES_MAX];
	size_t have;             /* of place.n */
	struct lane_place place; /* its index says nothing */
	struct lane_place used;  /* of the set that was taken last; n is 0: none was */
};

void lane_set_init(struct lane_set *set);

/* Takes a lane. False: it comes too late, as there are later ones, or is there already: it was closed. */
bool lane_set_add(struct lane_set *set, struct lane *lane);

/* Are all there? */
bool lane_set_whole(const struct lane_set *set);

/* Hands out those of a whole set, in their order; returns how many. */
size_t lane_set_take(struct lane_set *set, struct lane out[LANES_MAX]);

/* Closes what has come so far. */
void lane_set_drop(struct lane_set *set);

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

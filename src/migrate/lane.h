// SPDX-License-Identifier: Apache-2.0
/*
 * Lanes: further connections of a migration, beside the one that carries its
 * messages. Pages that a thread waits for have one of their own, ahead of the bulk, which has one or several.
 *
 * The source opens them. A lane is another ssh session that runs "ferry agent
 * --join" there: it hands its stdin and stdout to the agent of the migration, over
 * a unix socket in the directory of records, and stays until that one lets go. Or
 * it is a connection with TLS (transport.h); or plain TCP, where the user has asked for that.
 *
 * Files that stay at home for a while have a lane, too (files_door.h), which may be opened again and again.
 *
 * A lane begins with 48 bytes of the source's: who it is for (the token, which
 * the first ssh connection has carried), what it is for, and to which set it belongs. The target answers
 * with the byte of its kind; what follows is the business of the two ends.
 *
 * Lanes for pages are opened together, as a set, and used together: after a break of one all are opened
 * anew, and one of the attempt before, which comes late, must not be taken for one of these. So a lane says how many
 * there are, which one it is, and in which attempt it was made.
 */
#ifndef FERRY_MIGRATE_LANE_H
#define FERRY_MIGRATE_LANE_H

#include "migrate/connect.h"
#include "wire/trunk.h"

enum {
	LANE_VERSION = 2,               /* of what the two ends say over lanes for pages */
	LANE_PACKS = 2,                 /* from this one on, the bulk may be packed (PS_PACKED) */
	LANES_MAX = 1 + TRUNK_WAYS_MAX, /* in a set */
};

enum lane_kind {
	LANE_DEMAND = 'd', /* pages that threads wait for */
	LANE_BULK = 'b',
	LANE_FILES = 'f', /* files that programs use: files_door.h; no hall takes it */
	LANE_TRUNK = 't', /* the messages of the migration, over TLS */
};

/* Where a lane for pages belongs. */
struct lane_place {
	uint8_t version; /* that both ends know; 0: an older ferry's, of which only the kind is known */
	uint8_t n, index; /* of its set: the first one is for demand, the others are for the bulk */
	uint32_t set;     /* the attempt: a later one has a larger number (modulo 2^32) */
};

/* What a lane is opened for. */
struct lane_call {
	const char *token;
	enum lane_kind kind;
	struct lane_place place; /* zeros, where it is not for pages */
};

struct lane {
	enum lane_kind kind;
	struct lane_place place;
	int in, out;           /* may be the same; nonblocking */
	int hold;              /* target: keeps "agent --join" there; -1: none */
	pid_t ssh;             /* source: 0: none */
	struct tunnel *tunnel; /* NULL: none */
	bool direct; /* the tunnel was taken over: lane_read, lane_write; in and out are for poll(2) */
	bool flush; /* source: what was written must get there before it is closed */
};

#define LANE_NONE ((struct lane){.in = -1, .out = -1, .hold = -1})

/* ---- source ---- */

/* Begins to open one; lane_heard says when it is open. */
int lane_dial_ssh(const struct remote *remote, const struct lane_call *call, struct lane *out,
		  struct err *err) must_check;
int lane_dial_tcp(const char *host, uint16_t port, const struct lane_call *call, struct lane *out,
		  struct err *err) must_check;

int lane_dial_tls(const struct tls *tls, const char *host, uint16_t port,
		  const struct lane_call *call, struct lane *out, struct err *err) must_check;

/*
 * Waits for the answer of the other side, which may not know of sets: place.version says so.
 * The lane stays the caller's to close.
 */
int lane_heard(struct lane *lane, int timeout_ms, const char *host, struct err *err) must_check;

/* How long the other machine may be silent, where TCP carries the lane; with ssh its own settings count. */
void lane_patience(const struct lane *lane, unsigned int ms);

/*
 * For the lane for demand: where it has a tunnel, no thread beside ours is woken for what goes over it (tunnel_take_over). At home
 * before lane_heard, as then any number of questions may come. -1: it is broken, and good for lane_close only.
 */
int lane_go_direct(struct lane *lane, struct err *err) must_check;

/* As read(2) and write(2). */
ssize_t lane_read(const struct lane *lane, void *buf, size_t bytes);
ssize_t lane_write(const struct lane *lane, const void *buf, size_t bytes);

/* Something may be here already that poll(2) does not show. */
bool lane_may_hold(const struct lane *lane);

/* Closes the descriptors; ends its ssh. */
void lane_close(struct lane *lane);

/* ---- target ---- */

/* Where lanes arrive. Connections that say nothing, or the wrong thing, are dropped. */
struct hall;

/*
 * @address: not NULL: by TCP, too, on this address; hall_port says the port. @tls: those who come
 * there must speak it (NULL: they must not); it must outlive the hall and its lanes.
 */
struct hall *hall_open(const char *token, const char *address, const struct tls *tls,
		       struct err *err) must_check;
void hall_close(struct hall *hall); /* NULL allowed */
/* For the lanes that come by TCP from now on: lane_patience. 0: as it is. */
void hall_patience(struct hall *hall, unsigned int ms);
uint16_t hall_port(const struct hall *hall);

/* Readable when there is work. */
int hall_fd(const struct hall *hall);

/* Does what there is to do, without waiting. 1: *out is a new lane, answered already; 0; -1. */
int hall_work(struct hall *hall, struct lane *out, struct err *err) must_check;

/* "ferry agent --join": takes its stdin and stdout to the agent that the first bytes name. */
int lane_join(int in, int out, struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What can be known about a unix socket of the tree without changing anything,
 * and whether such a socket can be carried.
 */
#ifndef FERRY_KINDS_FD_UNIXFACTS_H
#define FERRY_KINDS_FD_UNIXFACTS_H

#include "kernel/diag.h"
#include "kinds/kind.h"
#include "kinds/sockpath.h"

#include <sys/socket.h>

/* What capture and its check find out about one socket. */
struct unix_facts {
	struct diag_unix diag;
	struct sockpath_file file; /* if the name is a path */
	struct fd_facts *peer;     /* in the tree, or NULL */
	bool mutual;               /* ... and whose peer we are */
	uint32_t listener;         /* not accepted yet: the listener's inode */
	bool external;             /* the peer is outside the tree */
	bool inherited;            /* --external unix[INO] */
	bool error;                /* an error waits (SO_ERROR) ... */
	bool reset; /* ... that comes again when the peer is closed with data unread */
	char name[128], peer_name[128];
};

/* Stream and seqpacket sockets have connections. */
static inline bool unix_is_stream(int type)
{
	return type == SOCK_STREAM || type == SOCK_SEQPACKET;
}

/* Release with diag_unix_finish(&out->diag). */
int unixfacts_find(struct capture *c, const struct fd_facts *f, struct unix_facts *out,
		   struct err *err) must_check;

/* 0, or -1 and why it cannot be carried. With c->preflight not for what passes by itself. */
int unixfacts_allowed(struct capture *c, const struct fd_facts *f, const struct unix_facts *u,
		      struct err *err) must_check;

#endif

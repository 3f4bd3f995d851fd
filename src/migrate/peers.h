// SPDX-License-Identifier: Apache-2.0
/*
 * Who may do what at "ferry serve": a file with a line for each peer,
 *
 *	NAME RIGHT[,RIGHT...]
 *
 * NAME is a name in the peer's certificate, or "*" for everybody who has one. The first line that
 * fits counts; whom none fits may do nothing. Empty lines and what follows "#" do not count.
 */
#ifndef FERRY_MIGRATE_PEERS_H
#define FERRY_MIGRATE_PEERS_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum peer_right {
	PEER_SEND = 1,  /* "send": send trees here, and ask what became of them */
	PEER_FILES = 2, /* "files": read files of this host, as ferry lazyfs does */
			/* "none" is no right: lines below are not looked at */
};

enum { PEER_NAME_MAX = 253, PEER_RIGHTS_TEXT = 32 };

struct peer {
	char name[PEER_NAME_MAX + 1];
	unsigned int rights;
};

struct peers {
	struct peer *v;
	size_t n, cap;
};

/* -1 + file, line and what is wrong with it: then nobody may do anything. */
int peers_read(const char *path, struct peers *out, struct err *err) must_check;
void peers_free(struct peers *p);

/* Has the peer this name in his certificate? */
typedef bool (*peer_has_name)(void *arg, const char *name);

/* The line that counts; NULL: none. */
const struct peer *peers_find(const struct peers *p, peer_has_name has_name, void *arg);

/* "send, files", or "nothing". */
const char *peer_rights_text(unsigned int rights, char buf[static PEER_RIGHTS_TEXT]);

#endif

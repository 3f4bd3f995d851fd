// SPDX-License-Identifier: Apache-2.0
/*
 * Files that have no name until they are complete: whatever ends their writer,
 * nothing half-written is left in the directory.
 */
#ifndef FERRY_STORE_INCOMING_H
#define FERRY_STORE_INCOMING_H

#include "base/attrs.h"
#include "base/err.h"

struct incoming {
	int fd;          /* for reading and writing; -1: none */
	char hidden[40]; /* its name meanwhile, where files cannot be without one (O_TMPFILE) */
};

int incoming_open(int dirfd, struct incoming *out, struct err *err) must_check;

/* Gives it its name, in place of an older file, and closes it. Also closed after an error. */
int incoming_publish(struct incoming *f, int dirfd, const char *name, struct err *err) must_check;

/* Forgets it. Nothing happens if it is published, or was never opened (fd -1). */
void incoming_discard(struct incoming *f, int dirfd);

#endif

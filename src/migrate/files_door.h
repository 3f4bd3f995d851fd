// SPDX-License-Identifier: Apache-2.0
/*
 * --files=lazy at the destination: the root directory of the tree
 * (lazyfs/treeroot.h), and the door at which the process at home (files_home.h)
 * brings its connection, again when it has broken.
 */
#ifndef FERRY_MIGRATE_FILES_DOOR_H
#define FERRY_MIGRATE_FILES_DOOR_H

#include "lazyfs/treeroot.h"
#include "wire/msg.h"

struct files_door_options {
	const char *token;
	const char *source;           /* the other host, for the status */
	uint64_t timeout_ms;          /* see lazyfs_options */
	uint64_t pool_bytes;          /* see treeroot_options */
	bool fill, detach, writeback; /* see treeroot_options */
	char *const *whole;
	size_t n_whole;
};

/* Opens the door and starts the process behind it, which waits for a connection. */
int files_door_open(const struct files_door_options *opt, struct treeroot *out, struct err *err)
	must_check;

/* The door's name, where no connection is expected any more because the process never came to be of use. */
void files_door_remove(const char *token);

#endif

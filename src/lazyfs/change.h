// SPDX-License-Identifier: Apache-2.0
/*
 * Changes that come home, at the source: made with the rights of the tree's
 * tasks, below its directories, and only to files that are still as the client
 * knows them.
 *
 * A file that is written to carries a mark until the client says that it is settled.
 * An answer may be lost, and then the client cannot know what the file looks like by now: the mark says that
 * its own changes are what is new about it, also to the next process that serves it.
 */
#ifndef FERRY_LAZYFS_CHANGE_H
#define FERRY_LAZYFS_CHANGE_H

#include "lazyfs/jail.h"
#include "lazyfs/scope.h"

/* The extended attribute that a file has in the meantime; its value is the client's token. */
#define CHANGE_MARK LF_MARK_XATTR

/* @q is one of LF_WRITE to LF_XATTR. *out: the file as it is after it. 0 or an errno value; ESTALE: it is another one. */
int change_apply(struct jail *j, const struct scope *scope, uint64_t token,
		 const struct lf_request *q, struct lf_attr *out);

#endif

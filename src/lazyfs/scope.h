// SPDX-License-Identifier: Apache-2.0
/*
 * What of a file system belongs to the tree: the paths that it has, all below
 * its whole directories, and the directories on the way there. Source and
 * client go by the same rule; at the source it is what bounds the client.
 */
#ifndef FERRY_LAZYFS_SCOPE_H
#define FERRY_LAZYFS_SCOPE_H

#include "lazyfs/proto.h"

enum scope_place {
	SCOPE_OUTSIDE,
	SCOPE_WAY,    /* a directory on the way: of its entries only those that are not outside */
	SCOPE_FILE,   /* named itself */
	SCOPE_INSIDE, /* a whole directory, or below one */
};

struct scope {
	/* Sorted by component ("/a/b" before "/a-b"), without doubles and without what is inside others. */
	const struct lf_export **v;
	size_t n;
};

/* Keeps pointers to the exports. -1: out of memory. */
int scope_init(struct scope *s, const struct lf_export *exports, size_t n, struct err *err)
	must_check;
void scope_finish(struct scope *s);

enum scope_place scope_place(const struct scope *s, const char *path);

/*
 * The entries of a directory on the way: calls @each once for the name of each.
 * Stops when that is not 0, and returns it.
 */
int scope_children(const struct scope *s, const char *dir, int (*each)(void *arg, const char *name),
		   void *arg);

/* @dir and @name as one path; -1: too long. */
int scope_join(char out[LF_PATH_MAX + 1], const char *dir, const char *name) must_check;

#endif

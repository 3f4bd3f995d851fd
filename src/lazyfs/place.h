// SPDX-License-Identifier: Apache-2.0
/* When the mount ends: its files as plain files in the directory that it covered. */
#ifndef FERRY_LAZYFS_PLACE_H
#define FERRY_LAZYFS_PLACE_H

#include "lazyfs/node.h"

/*
 * Everything is here, and nobody uses the mount any more. Names that are taken there are left alone and
 * reported; so is what cannot be made. -1 then, with the first of them.
 */
int place_all(struct lazyfs *fs, struct err *err) must_check;

/*
 * One file, link, fifo or directory (without what is in it) under a name that must be free there, with its attributes
 * and what of its contents is here.
 */
int place_node(struct lazyfs *fs, struct node *n, int dirfd, const char *name, struct err *err)
	must_check;

#endif

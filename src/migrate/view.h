// SPDX-License-Identifier: Apache-2.0
/*
 * The paths of a tree that has a root directory of its own (lazyfs/treeroot.h): what
 * it names "/usr/bin/x" is not what we find there. A view is a copy of the tree's mount
 * namespace with the /proc of ours. Who works on files of the tree enters it; ssh,
 * records and sockets of ours are outside. It keeps the tree's mounts when the
 * tree has ended.
 */
#ifndef FERRY_MIGRATE_VIEW_H
#define FERRY_MIGRATE_VIEW_H

#include "kernel/mntns.h"

#include <sys/types.h>

struct view {
	int ns; /* -1: the tree sees what we see */
};

#define VIEW_OURS ((struct view){.ns = -1})

/* Of the tree of @root. VIEW_OURS if its root directory is not lazy. */
int view_open(pid_t root, struct view *out, struct err *err) must_check;
void view_close(struct view *v);

/* The calling thread looks at the tree's files; view_leave even when it fails. Nothing to do for VIEW_OURS. */
int view_enter(const struct view *v, struct mntns_way *way, struct err *err) must_check;

/* In the view: the tree is elsewhere with all that it has changed here, which need not be kept any more. */
int view_let_go(const struct view *v, struct err *err) must_check;

/*
 * In the view: what the tree of @root has written through shared mappings of its files is known to their file system, too. What
 * cannot be is logged.
 */
void view_flush(pid_t root);

/* @rc < 0: @err stays what it is. */
int view_leave(struct mntns_way *way, int rc, struct err *err) must_check;

#endif

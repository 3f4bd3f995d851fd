// SPDX-License-Identifier: Apache-2.0
/*
 * The rest, in the background: everything that the mount shows comes here while
 * no program waits for anything; then the source may go away.
 */
#ifndef FERRY_LAZYFS_FILL_H
#define FERRY_LAZYFS_FILL_H

#include "lazyfs/node.h"

/* A thread of its own, until everything is here or fs->stop. */
int fill_start(struct lazyfs *fs, struct err *err) must_check;
void fill_join(struct lazyfs *fs);

/* All of one file, link or directory but the entries of the latter; 0 or an errno value. */
int fill_one(struct lazyfs *fs, struct node *n);

/* One pass without regard for others: 0 if everything is here after it, else an errno value. */
int fill_now(struct lazyfs *fs);

#endif

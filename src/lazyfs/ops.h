// SPDX-License-Identifier: Apache-2.0
/* The requests of the kernel, by what they are about; fuse_lowlevel_ops(3) tells what each has to do. */
#ifndef FERRY_LAZYFS_OPS_H
#define FERRY_LAZYFS_OPS_H

#include "lazyfs/node.h"

/* Each sets its members of the table. */
void ops_names(struct fuse_lowlevel_ops *ops); /* directories and their entries */
void ops_attrs(struct fuse_lowlevel_ops *ops); /* attributes, plain and extended */
void ops_data(struct fuse_lowlevel_ops *ops);  /* contents */

/* How long the kernel may believe what it was told. */
double ops_valid_s(const struct lazyfs *fs);

/* Answers with the entry of a pinned node, which gets one look-up of the kernel's; takes the pin off. */
void ops_reply_entry(struct lazyfs *fs, fuse_req_t req, struct node *n);

/* What the kernel wants to know of a node at its look-up; counts one, with the lock. */
void ops_entry(struct lazyfs *fs, struct node *n, struct fuse_entry_param *out);

/* A new node in @dir for the user of the request, pinned; 0 or an errno value. @target: of a link. */
int ops_make(struct lazyfs *fs, fuse_req_t req, struct node *dir, const char *name, mode_t mode,
	     dev_t rdev, const char *target, struct node **out);

#endif

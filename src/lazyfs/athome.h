// SPDX-License-Identifier: Apache-2.0
/*
 * With --writeback: names are changed at home first, and then here, so that they
 * are the same on both sides; contents go home by content_send. What is said here holds for directories
 * of which the tree has everything; names elsewhere, and what is neither file, directory nor link,
 * are only here.
 *
 * Results are 0 or an errno value, also ESTALE made to EIO: the thing at home is another one by now.
 */
#ifndef FERRY_LAZYFS_ATHOME_H
#define FERRY_LAZYFS_ATHOME_H

#include "lazyfs/node.h"

/* Are names in this directory those at home? */
bool athome_dir(const struct lazyfs *fs, const struct node *dir);

/* May something with this type of @mode be made in @dir at home? */
bool athome_makes(const struct lazyfs *fs, const struct node *dir, mode_t mode);

/* Makes it at home. @path_out: where, *attr_out: what. @target: of a link, or NULL. */
int athome_make(struct lazyfs *fs, const struct node *dir, const char *name, mode_t mode,
		const char *target, char path_out[LF_PATH_MAX + 1], struct lf_attr *attr_out,
		const struct patience *p);

/* Takes the name off at home, where there is one. The caller has @n pinned, and takes it off here. */
int athome_remove(struct lazyfs *fs, const struct node *dir, const char *name, struct node *n,
		  const struct patience *p);

/* As rename(2) at home; EXDEV where it cannot be the same on both sides. @replaced: at the new name; or NULL. Both are pinned. */
int athome_rename(struct lazyfs *fs, const struct node *from, const char *name,
		  const struct node *to, const char *new_name, struct node *n,
		  struct node *replaced, const struct patience *p);

/*
 * Sets what LF_SET_* of @what say at home: mode, owner, group and times of @attr. *done_out: it was set, and so need not be
 * kept here; not where the thing is only here, or the source is an older one.
 */
int athome_set(struct lazyfs *fs, struct node *n, uint32_t what, const struct lf_attr *attr,
	       const struct patience *p, bool *done_out);

/* The same for an extended attribute of users; @value NULL: it is removed. Others stay here. */
int athome_set_xattr(struct lazyfs *fs, struct node *n, const char *name, const void *value,
		     size_t bytes, const struct patience *p, bool *done_out);

/* Sends the changes of a file. @durable: as fsync(2). Does nothing without --writeback. */
int athome_send(struct lazyfs *fs, struct node *n, bool durable, const struct patience *p);

/* fsync(2) of a directory. */
int athome_settle_dir(struct lazyfs *fs, const struct node *dir, const struct patience *p);

/* Sends all that is not at home yet, as close(2) does. What cannot be sent is logged, and stays changed here. */
void athome_send_all(struct lazyfs *fs);

/*
 * After the last request: sends what is not at home yet. -1: not all could be. Then, without opt.held, LAZYFS_UNSENT in the cache
 * lists the cache files that have the changes, and both stay.
 */
int athome_send_rest(struct lazyfs *fs, struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What directories of the source have. Who looks at one often goes on to one below it, so these come, too, and are kept
 * for a few seconds: what is used of them is then as it was at the source a moment before.
 */
#ifndef FERRY_LAZYFS_LISTING_H
#define FERRY_LAZYFS_LISTING_H

#include "base/vec.h"
#include "lazyfs/proto.h"

struct lazyfs;
struct node;
struct list_question; /* listing.c */

struct listed_name {
	char *name, *target; /* target: what a link holds; NULL: it is not known */
	struct lf_attr attr;
};

struct listed_vec {
	VEC(struct listed_name) v;
};

/* A directory that nobody has used yet. */
struct listing {
	char *path;
	uint64_t at_ms; /* when it came */
	struct listed_vec entries;
};

/* Zeroed memory has none. With the lock of names. */
struct listings {
	VEC(struct listing) v;
	unsigned int generation; /* raised when they are forgotten: what is on its way is not kept either */
	struct list_question *asked; /* for directories that nobody had used yet, on their way */
	bool older;                  /* the source gives nothing but what it is asked for */
	bool newer;                  /* it has given more: it takes LF_SET and LF_XATTR, too */
};

enum listing_why {
	LISTING_USED,  /* by a program: what is below comes along */
	LISTING_ALONE, /* only for this directory */
};

/*
 * With the lock, of a directory that is not listed and of which no list is on its way: it is listed after it, or the source
 * is asked; then fs->cond tells the end, dir->lists is raised and dir->list_error is of it. @name, or NULL: what is looked
 * for in it; if that is a directory, it comes, too. 0 or an errno value.
 */
int listing_begin(struct lazyfs *fs, struct node *dir, enum listing_why why, const char *name);

/* With the lock: nothing of what the source said before now is used. */
void listings_forget(struct lazyfs *fs);
void listings_free(struct listings *l);

#endif

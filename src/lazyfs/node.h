// SPDX-License-Identifier: Apache-2.0
/*
 * Files, directories and links as they are here: what the source said of them,
 * changed by what programs did since. The kernel's number of a node is its
 * address.
 *
 * One lock (lazyfs.lock) guards names, attributes and counts of all nodes. It is never held while
 * the source is asked. Below it is the lock of a content.
 */
#ifndef FERRY_LAZYFS_NODE_H
#define FERRY_LAZYFS_NODE_H

#define FUSE_USE_VERSION 312

#include "base/map.h"
#include "lazyfs/carried.h"
#include "lazyfs/content.h"
#include "lazyfs/dirnames.h"
#include "lazyfs/fs.h"
#include "lazyfs/listing.h"
#include "lazyfs/scope.h"

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>

struct xattr {
	char *name;
	uint8_t *value;
	size_t bytes;
};

/* Small files in a directory that are read one after another; neighbours.c. */
struct near {
	uint64_t last_ms;         /* when the last one had to be waited for */
	unsigned int missed;      /* how many had to, in a row */
	unsigned int asked, used; /* how many came before they were needed, and were needed then */
};

struct node {
	uint64_t number;        /* st_ino */
	uint64_t lookups;       /* of the kernel */
	unsigned int n_names;   /* that lead to it; the root has one of its own */
	unsigned int pins;      /* who else uses it */
	unsigned int opens;     /* of them: open files */
	struct lf_attr attr;    /* size: of what has no content */
	char *source;           /* path at the source; NULL: made here */
	struct lf_ident origin; /* what is meant by that */

	struct node *parent; /* of directories */
	struct names names;
	bool listed;        /* names has all that the source has; else some, or none */
	bool listing;       /* it was asked for that, and has not answered yet */
	unsigned int lists; /* how many such questions are over */
	int list_error;     /* of the last one */
	struct near near;
	bool blind; /* the source may not list it: names are asked for one by one */

	char *target;            /* of symbolic links; NULL: not asked for yet */
	struct content *content; /* of regular files, once it is needed */
	struct node *next_content;
	bool xattrs_here;
	bool attrs_changed; /* here, by a program */
	bool carried;       /* made or changed by the tree before it came here */
	VEC(struct xattr) xattrs;
};

struct lazyfs {
	struct lazyfs_options opt;
	const struct want *want;
	struct content_env env;
	struct scope scope; /* with writeback: as the source has it */
	struct remote *remote;
	struct fuse_session *session;
	bool mounted;
	int below; /* the directory that the mount covers */

	pthread_mutex_t lock;
	pthread_cond_t cond; /* a directory was listed */
	struct node root;
	struct map links; /* by device and inode number at the source: struct node, of files with several names */
	struct listings listings; /* of directories that nobody has used yet */
	struct node *contents;    /* list of nodes that have a content */
	uint64_t next_number, n_nodes;

	struct warm *warm; /* prime.c; NULL: nothing is */
	pthread_t filler;
	bool filling; /* the thread was started */
	atomic_bool stop, complete;
	atomic_bool detach;         /* what is used is to be brought, and the source to be let go */
	atomic_bool hurry;          /* somebody waits for that */
	atomic_int fill_error;      /* of the last pass */
	VEC(char *) whole;          /* with the lock: what is to be brought beside that */
	atomic_bool named_complete; /* the files of the tree itself are */
	atomic_bool moved;          /* the tree is elsewhere, and has what it changed */
	atomic_bool sends;          /* with writeback: changes go home */

	struct carried_bases bases;
	uint8_t *carried; /* the list that is being read, with the lock */
	size_t carried_bytes;
};

static inline struct node *node_of(struct lazyfs *fs, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &fs->root : (struct node *)(uintptr_t)ino;
}

static inline fuse_ino_t ino_of(struct lazyfs *fs, const struct node *n)
{
	return n == &fs->root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)n;
}

/* How long somebody waits for the source. */
struct patience node_patience(struct lazyfs *fs, fuse_req_t req); /* req: may be NULL */

/* --- with the lock --- */

/* A node that nothing leads to yet; @source (copied) may be NULL. NULL: out of memory. */
struct node *node_create(struct lazyfs *fs, const struct lf_attr *attr, const char *source);
/* Frees it if nothing leads to it and nobody uses it. */
void node_release(struct lazyfs *fs, struct node *n);
/* A name for it; false: out of memory. */
bool node_add_name(struct node *dir, const char *text, struct node *n) must_check;
/* Takes the name off; the node may be gone after it. */
void node_drop_name(struct lazyfs *fs, struct node *dir, struct name *name);
/* The source does not have this name any more, and nobody has used it: as if it had never been known. */
void node_forget_name(struct lazyfs *fs, struct node *dir, struct name *name);
/*
 * A name that the source has in this directory; @target (copied): what a link holds, or NULL. 0 or ENOMEM; nothing happens
 * if the name is known already.
 */
int node_add_child(struct lazyfs *fs, struct node *dir, const char *name,
		   const struct lf_attr *attr, const char *target);
/* The node of a path (not "/"), as far as names are known; NULL. */
struct node *node_known(struct lazyfs *fs, const char *path);
/* The contents of a regular file; NULL: out of memory. */
struct content *node_content(struct lazyfs *fs, struct node *n);
/* Nobody but the node has it. */
void node_drop_content(struct lazyfs *fs, struct node *n);
void node_stat(struct lazyfs *fs, struct node *n, struct stat *st);
bool node_empty(const struct node *dir);

/* --- without the lock; 0 or an errno value --- */

/* All names of the directory are known after it, or it is blind. @why: see listing_begin. */
int node_load(struct lazyfs *fs, struct node *dir, const struct patience *p, enum listing_why why);
/* Which errors of the source's are the program's, and not of the way there. */
int node_error(int error);
/* *out has one pin more, to be taken off with node_unpin. */
int node_lookup(struct lazyfs *fs, struct node *dir, const char *text, struct node **out,
		const struct patience *p);
void node_unpin(struct lazyfs *fs, struct node *n);
int node_load_target(struct lazyfs *fs, struct node *n, const struct patience *p);
int node_load_xattrs(struct lazyfs *fs, struct node *n, const struct patience *p);
/* With refetch: has the source changed it? */
int node_revalidate(struct lazyfs *fs, struct node *n, const struct patience *p);
/* Fills in what it knows of the root directory. */
int node_load_root(struct lazyfs *fs, const struct patience *p);

/* A copy of where it is at the source, which a rename may change; NULL: out of memory, or only here. */
char *node_source(struct lazyfs *fs, const struct node *n);

/* Waits for what lazyfs_warm has begun; fs->stop ends it early. */
void lazyfs_end_warm(struct lazyfs *fs);

int64_t now_ns(void);

#endif

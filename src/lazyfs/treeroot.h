// SPDX-License-Identifier: Apache-2.0
/*
 * A root directory for one tree, with the files of the host that it came from: a
 * lazy file system that is mounted nowhere but in the tree's own mount namespace
 * (restore_options.root_mount), served by a process of its own.
 *
 * That process lives as long as the mount, which lives as long as a task of the
 * tree. Until treeroot_commit it also ends with its maker, and leaves nothing; after it, it
 * keeps at the end what the tree has changed (lazyfs_keep_changes).
 */
#ifndef FERRY_LAZYFS_TREEROOT_H
#define FERRY_LAZYFS_TREEROOT_H

#include "lazyfs/fs.h"

/* Where caches are made, and what trees have changed is kept, if nobody says otherwise. */
#define TREEROOT_CACHE_DIR "/var/tmp"
#define TREEROOT_KEPT_DIR "/var/lib/ferry/files"

struct treeroot_options {
	const struct remote_link *link; /* used in the new process */
	const struct want *want;
	const char *source;    /* the other host, for the status */
	const char *cache_dir; /* where the cache is made, and the pool is */
	uint64_t pool_bytes;   /* of the pool; 0: none */
	const char *kept;      /* absolute: see lazyfs_keep_changes */
	uint64_t timeout_ms;   /* see lazyfs_options */
	bool fill;             /* after the commit, bring the files of the tree */
	bool writeback; /* after the commit, what the tree changes goes home; @want's hello asks for it */
	bool detach;              /* and then let the source go: lazyfs_detach, without hurry */
	const char *const *whole; /* and first bring what is below these paths, too */
	size_t n_whole;
	bool ping;      /* ask the source now and then whether it is there */
	const int *fds; /* that the link needs; all others are closed in the new process */
	size_t n_fds;
};

struct treeroot {
	int control; /* to the process; -1: there is none */
	int mount;   /* attached nowhere yet; -1: taken */
};

#define TREEROOT_NONE ((struct treeroot){.control = -1, .mount = -1})

/*
 * Makes the mount and starts the process, which begins to connect. -1: where it cannot be done here, the sentence ends
 * in the remedy.
 */
int treeroot_start(const struct treeroot_options *opt, struct treeroot *out, struct err *err)
	must_check;

/* Waits until the source has answered, or @watch_fd (-1: none) is readable: then it is over. */
int treeroot_await(struct treeroot *t, int watch_fd, struct err *err) must_check;

/*
 * The tree still runs: what its files (these) are now is asked for, and their beginnings are read,
 * so that little is left to come when it is stopped.
 */
int treeroot_prime_ahead(struct treeroot *t, const struct lazyfs_part *parts, size_t n,
			 struct err *err) must_check;

/*
 * The tree is stopped, and these are its files: their names and attributes come now, those of
 * the directories on the way too, and these files are what the background brings.
 */
int treeroot_prime(struct treeroot *t, const struct lazyfs_part *parts, size_t n, struct err *err)
	must_check;

/* What the tree has changed before it came here: see carried.h. */
int treeroot_carry(struct treeroot *t, const uint8_t *data, size_t bytes, struct err *err) must_check;

/* Say this before the tree runs: from now on the process goes on without us. */
int treeroot_commit(struct treeroot *t, struct err *err) must_check;

/* The tree will not run, or does already and needs us no more. */
void treeroot_abandon(struct treeroot *t);
void treeroot_close(struct treeroot *t);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A file system with the files of a tree that came from elsewhere: names and
 * attributes are asked for when a directory is first used, contents block by
 * block; what programs change here stays here. See ARCHITECTURE.md and
 * ferry-lazyfs(1).
 *
 *	scope     which paths there are (source and client)
 *	remote    requests to the source
 *	node      names and attributes as they are here
 *	content   blocks of one file; fetch.c: those that are asked for
 *	local     files that this host has already; pool.c: from earlier migrations
 *	ops_*.c   the requests of the kernel
 *	fill      the rest, in the background
 *	place     all of it into the directory below the mount, when it ends
 *	carried   what the tree changed before it came here
 *	keep      or only what was changed, to its own paths
 *	prime     many names at once
 *	send      with writeback: changed blocks, home; athome: names
 *	change    what comes home, at the source
 *	treeroot  a process that serves the root directory of one tree
 */
#ifndef FERRY_LAZYFS_FS_H
#define FERRY_LAZYFS_FS_H

#include "lazyfs/pool.h"
#include "lazyfs/remote.h"
#include "lazyfs/want.h"

struct lazyfs;

struct lazyfs_options {
	const char *mountpoint; /* absolute */
	int fuse_fd; /* /dev/fuse, of a mount that exists already: there is no mountpoint then; -1 */
	const char *source;        /* for df and the status: "USER@HOST" */
	const char *mount_options; /* more for fuse_session_new(3), separated by commas; or NULL */
	int cache_fd;              /* directory for cache files; stays the caller's */
	struct pool *pool; /* files of earlier migrations (pool.h); stays the caller's; NULL: none */
	int local_root;    /* this host's "/", whose files are used where they are the same; -1 */
	uint64_t timeout_ms; /* of silence after which a read fails with EIO; 0: it waits */
	bool refetch;        /* what was changed at the source is fetched anew */
	bool writeback;      /* what is changed here is sent home; @want's hello asks for it */
	/* with writeback: not before lazyfs_send_home, and what is left at the end is for lazyfs_keep_changes */
	bool held;
	bool fill;  /* bring everything in the background */
	bool place; /* when it is unmounted, bring the rest and leave the files in the directory */
	bool everything;  /* the scope is all of the source's root */
	bool allow_other; /* other users than ours may use it */
};

/* The extended attribute of the mount's root that gives the status as JSON. */
#define LAZYFS_STATUS_XATTR "user.ferry.status"

/*
 * Set by root: the tree that this is the root directory of has gone on to another host, which has all that
 * it changed: nothing is kept here.
 */
#define LAZYFS_MOVED_XATTR "user.ferry.moved"
/*
 * Set by root, of such a root directory: bring all that was used and the names in its directories, and what lies at these
 * paths (each with its NUL), and then let the source go. "complete" of the status says that it was done.
 */
#define LAZYFS_DETACH_XATTR "user.ferry.detach"
#define LAZYFS_OWN_XATTRS "user.ferry."

/* In the cache, when it cannot be removed: the list of its files that have changes which could not be sent home. */
#define LAZYFS_UNSENT "unsent.txt"

/* Connects to the source; keeps @want and @opt. NULL + err. */
struct lazyfs *lazyfs_create(const struct remote_link *link, const struct want *want,
			     const struct lazyfs_options *opt, struct err *err) must_check;

/*
 * Asks the source for these paths, all at once, and for the directories on the way. What it does not have, or
 * the tree may not see, is left out. Paths that are known already stay as they are, unless @anew: then these are the only
 * ones that are known, as they are now; nothing may have been used yet, and what has come of contents stays only if they
 * are the same. 0 or an errno value.
 */
int lazyfs_prime(struct lazyfs *fs, const char *const *paths, size_t n, bool anew);

/* Waits for what lazyfs_warm has begun, a few seconds at the most. */
void lazyfs_await_warm(struct lazyfs *fs);

/* A file, and the bytes of it that a restore reads: pages that the tree has written to its copies of. */
struct lazyfs_part {
	const char *path;
	uint64_t from, to;
};

/*
 * Begins to read these parts, and the beginnings of those files that are programs or libraries, several at a
 * time: a restore looks at each, one after the other.
 */
void lazyfs_warm(struct lazyfs *fs, const struct lazyfs_part *parts, size_t n);

/* Begins to bring what @want names in the background; where opt.fill is set, lazyfs_run does. */
int lazyfs_fill(struct lazyfs *fs, struct err *err) must_check;

/*
 * See LAZYFS_DETACH_XATTR; @hurry: somebody waits for it, else programs that wait for a block go first.
 * 0 or an errno value.
 */
int lazyfs_detach(struct lazyfs *fs, const char *paths, size_t bytes, bool hurry);

/* With opt.held: from now on changes go home, those made until now with them, or no more. */
void lazyfs_send_home(struct lazyfs *fs, bool on);

/* Asks the source whether it is there, so that either side notices a dead connection. 0 or an errno value. */
int lazyfs_ping(struct lazyfs *fs, bool (*interrupted)(void *arg), void *arg);

/* The kernel's read-ahead for the mount with this device number; needs root. */
void lazyfs_tune(dev_t dev);

/*
 * After lazyfs_run: what programs made or changed becomes plain files of this host, where their paths
 * are free, and else below @kept, a directory that is made for it; a list of it all is @kept.txt. What
 * is missing of them is fetched. With opt.writeback only what is not at home.
 * -1: something could not be written or is not complete; the list says what.
 */
int lazyfs_keep_changes(struct lazyfs *fs, const char *kept, struct err *err) must_check;

/* Has LAZYFS_MOVED_XATTR been set? */
bool lazyfs_moved(struct lazyfs *fs);

/* From now on the mountpoint shows the files; requests wait until lazyfs_run. */
int lazyfs_mount(struct lazyfs *fs, struct err *err) must_check;

/* Serves until it is unmounted, or a signal that libfuse handles (INT, TERM, HUP) asks for that. */
int lazyfs_run(struct lazyfs *fs, struct err *err) must_check;

/* Unmounts if need be. NULL is allowed. */
void lazyfs_free(struct lazyfs *fs);

#endif

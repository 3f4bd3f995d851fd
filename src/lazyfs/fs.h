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
 *	ops_*.c   the requests of the kernel
 *	fill      the rest, in the background
 *	place     all of it into the directory below the mount, when it ends
 */
#ifndef FERRY_LAZYFS_FS_H
#define FERRY_LAZYFS_FS_H

#include "lazyfs/remote.h"
#include "lazyfs/want.h"

struct lazyfs;

struct lazyfs_options {
	const char *mountpoint;    /* absolute */
	const char *source;        /* for df and the status: "USER@HOST" */
	const char *mount_options; /* more for fuse_session_new(3), separated by commas; or NULL */
	int cache_fd;              /* directory for cache files; stays the caller's */
	uint64_t timeout_ms;       /* of silence after which a read fails with EIO; 0: it waits */
	bool refetch;              /* what was changed at the source is fetched anew */
	bool fill;                 /* bring everything in the background */
	bool place; /* when it is unmounted, bring the rest and leave the files in the directory */
	bool everything;  /* the scope is all of the source's root */
	bool allow_other; /* other users than ours may use it */
};

/* The extended attribute of the mount's root that gives the status as JSON. */
#define LAZYFS_STATUS_XATTR "user.ferry.status"

/* Connects to the source; keeps @want and @opt. NULL + err. */
struct lazyfs *lazyfs_create(const struct remote_link *link, const struct want *want,
			     const struct lazyfs_options *opt, struct err *err) must_check;

/* From now on the mountpoint shows the files; requests wait until lazyfs_run. */
int lazyfs_mount(struct lazyfs *fs, struct err *err) must_check;

/* Serves until it is unmounted, or a signal that libfuse handles (INT, TERM, HUP) asks for that. */
int lazyfs_run(struct lazyfs *fs, struct err *err) must_check;

/* Unmounts if need be. NULL is allowed. */
void lazyfs_free(struct lazyfs *fs);

#endif

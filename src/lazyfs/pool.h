// SPDX-License-Identifier: Apache-2.0
/*
 * Files that came whole from any source, kept by what is in them, so that the next
 * migration need not fetch them again: one pool for all mounts of one user that make their
 * caches in the same directory.
 *
 * A file is found by its size and the SHA-256 of its first POOL_KEY_BYTES. That is not
 * believed: whoever uses it compares each piece that it takes with the source's digest of it. So
 * nothing that happens to the pool, or is done to it, can make a wrong byte.
 *
 * Several processes use it at once without a lock: names come and go as a whole.
 */
#ifndef FERRY_LAZYFS_POOL_H
#define FERRY_LAZYFS_POOL_H

#include "base/attrs.h"
#include "base/err.h"
#include "lazyfs/proto.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { POOL_KEY_BYTES = 128 * 1024 };

/* Smaller files cost a round trip in either case. */
#define POOL_LEAST_BYTES (64ull * 1024)

/* How much it holds if nobody says otherwise. */
#define POOL_DEFAULT_BYTES (1024ull * 1024 * 1024)

struct pool {
	int fd; /* the directory; -1: there is none */
	uint64_t max_bytes;
	pthread_mutex_t lock;
	uint64_t room; /* bytes that may be added before it is looked at again how much there is */
};

#define POOL_NONE ((struct pool){.fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER})

/*
 * Opens the one in the directory @dir, "ferry-files.UID", and makes it if need be. It is ours alone (mode 0700): one that belongs
 * to somebody else is refused. @max_bytes: of all files in it, as du(1) counts them.
 */
int pool_open(const char *dir, uint64_t max_bytes, struct pool *out, struct err *err) must_check;
/* The same, if @max_bytes is not 0; where it fails there is none, and why is logged: then everything comes from the source. */
void pool_try(const char *dir, uint64_t max_bytes, struct pool *out);
void pool_close(struct pool *p);

/* Is there a file of this size? Costs one look-up. */
bool pool_may_have(const struct pool *p, uint64_t size);

/* A descriptor for reading, the caller's; -1: there is none. @sum: of the first POOL_KEY_BYTES, or of all if it is shorter. */
int pool_find(const struct pool *p, uint64_t size, const uint8_t sum[LF_SUM_BYTES]);

/*
 * Makes the file @name of the directory @dir, open as @fd, one of the pool, by a hard link: so it must not be written to any more
 * (pool_drop first). What was used longest ago goes where there is no room. 0, or an errno value: EEXIST, there is one with
 * the same beginning; ENOSPC, it is too large, or the disk too full.
 */
int pool_add(struct pool *p, int dir, const char *name, int fd, uint64_t size);

/* The file @fd, which pool_add was called with, is going to be written to. */
void pool_drop(const struct pool *p, int fd, uint64_t size);

#endif

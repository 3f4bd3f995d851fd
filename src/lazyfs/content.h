// SPDX-License-Identifier: Apache-2.0
/*
 * The contents of one file: a sparse cache file, a map of the blocks that are
 * in it, and the requests for others. What is written here is never overwritten by what
 * comes from the source, and goes there only by content_send.
 *
 * Blocks below `source_size` that the map does not have are at the source; all
 * others are in the cache file. Thread-safe. Results are 0 or an errno value.
 */
#ifndef FERRY_LAZYFS_CONTENT_H
#define FERRY_LAZYFS_CONTENT_H

#include "lazyfs/ahead.h"
#include "lazyfs/blocks.h"
#include "lazyfs/pool.h"
#include "lazyfs/remote.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

/* What all files of a mount have in common. */
struct content_env {
	struct remote *remote;
	int cache_fd; /* directory of the cache files */
	/*
	 * The root directory of this host, whose files are used where they are the same (a mount that the host can see
	 * must not: it would ask itself); -1.
	 */
	int local_root;
	struct pool *pool; /* NULL: none */
	bool writes;       /* content_send is used: what it needs is noted */
	bool refetch; /* a file that was changed at the source is fetched anew; otherwise its missing blocks are EIO */
	atomic_uint_least64_t next_number; /* names of cache files */
	atomic_uint_least64_t demand_ms;   /* when somebody waited for a block last */
	atomic_uint_least64_t stale_files, fetch_errors;
	/* What did not come from the source: of the same files of this host, and from the pool. */
	atomic_uint_least64_t local_bytes, pool_bytes;
	atomic_uint_least64_t demands; /* requests that were made because a program waits */

	/* What is asked for before anybody waits for it: bytes on their way, and how many these may be. */
	atomic_uint_least64_t early_bytes, early_window;
	uint64_t round_trip_ms; /* set before the first content is made */
};

/* Files that are asked for as a whole. */
enum { CONTENT_SMALL = 128 * 1024 };

struct fetch;

/* Where a file with the same contents could be on this host; one after the other. */
enum content_twin { TWIN_PATH, TWIN_POOL, TWIN_NONE };

struct content {
	struct content_env *env;
	pthread_mutex_t lock;
	pthread_cond_t cond; /* a request has ended */
	unsigned int refs;   /* the owner, and each request */
	char *path;          /* at the source; NULL: the file is only here */
	struct lf_ident id;  /* as it was when its attributes came */
	uint64_t source_size, size;
	struct blocks here;
	struct fetch *fetches;
	unsigned int generation; /* raised when the contents are begun anew */
	enum content_twin twin;  /* which one is or will be looked at */
	int local;               /* a file of this host that is the same so far; -1 */
	uint64_t local_step;     /* bytes that are compared at a time */
	bool comparing;          /* somebody does */
	bool open_to_all; /* set by who creates it: everybody may read it at the source, so it may outlive the mount */
	bool pooled;       /* the cache file is also one of the pool: not to be written to */
	bool unpoolable;   /* the pool did not want it */
	int fd;            /* the cache file, or -1 */
	unsigned int pins; /* who uses fd */
	bool program;      /* set by who creates it: it will be mapped, and used here and there */
	bool early;        /* it was asked for before anybody read it */
	uint64_t stream_first,
		stream_end; /* blocks that come although nobody waits for them; 0, 0: none */
	uint64_t number;    /* its name; 0: there is none yet */
	bool modified, stale, dead;
	unsigned int errors; /* how many requests have failed; of the last one: */
	int last_error;
	uint64_t error_first, error_end; /* blocks */

	/* what is to go home; send.c */
	struct blocks dirty, going; /* going: what the sender sends, or could not send */
	uint64_t low; /* the smallest size since the last time: what was behind it is gone */
	bool sending; /* somebody does, or renames it there: nothing is asked for meanwhile */
	bool doubt;   /* an answer was missed: the file at home may be newer than id */
	bool loose;   /* it is at home, but perhaps not on the disk there */
	bool unsent;  /* nobody will send it any more: the cache file stays */
	int64_t settling_ns; /* the modification time that it may have been given at home; 0: none */
	uint64_t resolved_at; /* a count of connections: over which it was looked at after a doubt */
};

/* Before anything is asked for: how long the source takes for a short answer. */
void content_env_pace(struct content_env *env, uint64_t round_trip_ms);

/* @path (copied) may be NULL. NULL: out of memory. */
struct content *content_create(struct content_env *env, const char *path, const struct lf_ident *id);
/* Drops the owner's reference; the cache file goes. NULL is allowed. */
void content_destroy(struct content *c);

/* Bytes read, or the negative of an errno value. @ahead: of this reader, or NULL. */
ssize_t content_read(struct content *c, void *buf, size_t bytes, uint64_t at, struct ahead *ahead,
		     const struct patience *p);
/*
 * A small file of which nothing is here is asked for as a whole, without waiting. True: it was, so
 * the program that reads it will wait.
 */
bool content_begin(struct content *c);
/* The same for a file that nobody reads yet, as far as the link is not busy with such. Bytes that were asked for. */
uint64_t content_early(struct content *c);
/* Has this host a file of the same path and size, or the pool one of this size? */
bool content_is_local(const struct content_env *env, const char *path, uint64_t size);
/* Has somebody read a file for the first time that came by content_early? */
bool content_early_used(struct content *c);
int content_write(struct content *c, const void *buf, size_t bytes, uint64_t at,
		  const struct patience *p);
int content_truncate(struct content *c, uint64_t size);
/* fallocate(2): modes 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE. */
int content_allocate(struct content *c, int mode, uint64_t at, uint64_t bytes,
		     const struct patience *p);
/* lseek(2) with SEEK_DATA or SEEK_HOLE. */
int content_seek(struct content *c, uint64_t at, int whence, uint64_t *out, const struct patience *p);
int content_sync(struct content *c, bool data_only);

/*
 * Sends home what was changed since the last time, and the modification time @mtime_ns. @durable: as fsync(2).
 * ESTALE: the file is another one at home, and was not touched; with that or any other error all is tried again the next time.
 * *id_out: what the file is at home now.
 */
int content_send(struct content *c, int64_t mtime_ns, bool durable, const struct patience *p,
		 struct lf_ident *id_out);

/*
 * Around a change of the file's name at home: nobody sends, or asks for blocks, in between. Waits for who
 * does; *id_out: what the file is at home. 0 or an errno value of @p.
 */
int content_lock_home(struct content *c, const struct patience *p, struct lf_ident *id_out);
/* @path (copied) is where it is now, NULL: nowhere; @id what it is there. Both stay with @id NULL. */
void content_unlock_home(struct content *c, const char *path, const struct lf_ident *id);

/* While it is pinned the cache file stays open. */
int content_pin(struct content *c);
void content_unpin(struct content *c);

/* Fetches at most @bytes of what is missing and waits for them. *complete_out: nothing is missing. */
int content_fill(struct content *c, uint64_t bytes, bool *complete_out, const struct patience *p);

/*
 * The source has these attributes now. If they are new ones, then with refetch, where nothing was written, the contents
 * are begun anew. True: the contents are those of @now, as far as they are here.
 */
bool content_revalidate(struct content *c, const struct lf_attr *now);

/* Puts it into the pool, if all of it has come and it may be there. */
void content_pool(struct content *c);

uint64_t content_size(struct content *c);

struct content_state {
	uint64_t size, source_bytes,
		here_bytes;  /* source_bytes: that are or were at the source; of which are here */
	uint64_t blocks_512; /* of the cache file; 0 if not everything is here */
	bool complete, modified, stale;
};

void content_get_state(struct content *c, struct content_state *out);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What the halves of the spool know of each other: spool.c has snapshots, room and the writer, spool_readers.c
 * the readers and the forwarder.
 */
#ifndef FERRY_STORE_SPOOL_PRIV_H
#define FERRY_STORE_SPOOL_PRIV_H

#include "store/spool.h"

#include "base/map.h"
#include "base/vec.h"

#include <pthread.h>

enum { SEEN_WORDS = (BLOCK_DATA_MAX / PAGE_BYTES + 63) / 64 };

struct item {
	struct item *next;      /* that came after it */
	struct item *same_hash; /* images */
	enum block_type type;
	uint32_t id;
	uint64_t off, bytes; /* @bytes: of the image, of the pages, of the run of zeros */
	uint8_t *buf;        /* memory of data; NULL: there is none, or it was let go */
	const uint8_t *data;
	size_t n_data;
	unsigned int pins;
	bool spent, gone;          /* handed out completely; let go */
	uint64_t seen[SEEN_WORDS]; /* pages that were handed out */
	char name[];
};

/* The pages of one id. */
struct run {
	VEC(struct item *) pieces; /* ascending, without gaps */
	uint64_t bytes;
	bool ended;
};

struct shot {
	struct spool *spool;
	struct shot *next;           /* of the spool */
	unsigned int refs, children; /* children: those that build on it, which are among the refs */
	bool listed, written, complete, failed;
	struct shot *parent; /* held; it has no parent that leads back, as it was complete before */
	uint64_t identity;   /* when the inventory is there */
	struct err why;
	uint64_t failed_ms; /* when it failed, by clock_ms */
	unsigned int readers;
	unsigned int waiting; /* readers that have looked since the last item was added, and wait */
	uint64_t reserved;    /* room that the writer has for what it has yet to add */
	uint64_t adds;
	uint64_t bytes;
	struct item *first, **end;
	struct item *oldest; /* all before it have been let go; NULL: none has */
	struct map images;   /* by hash of the name: struct item */
	struct map runs;     /* by id */
	char name[];
};

struct spool {
	pthread_mutex_t lock; /* guards everything, shots too */
	pthread_cond_t came;  /* something has come, or nothing will: for readers and forwarders */
	pthread_cond_t room;  /* there may be room, or reason to give up: for writers */
	uint64_t max_bytes, held_bytes, peak_bytes;
	struct shot *shots;
	unsigned int leaving; /* writers and readers of snapshots that nobody finds any more */
	bool stopped;
	bool soft;     /* the bound gives way to a reader who waits */
	bool forwards; /* what was forwarded is for nobody else */
	struct err why;
};

/* The lock is held for both. NULL: it has not come. */
struct item *spool_find_image(const struct shot *shot, const char *name);
void spool_let_go(struct spool *sp, struct item *it); /* of its data; readers are told so */
void spool_unpin(struct shot *shot, struct item *it); /* it may go, if it was handed out */

/* Waits for a condition until @end_ms of clock_ms (0: for as long as it takes). False: it is so late. The lock is held. */
bool spool_wait(struct spool *sp, pthread_cond_t *cond, uint64_t end_ms);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A spool: snapshots in memory, each on its way from one writer to its readers.
 * What a relay keeps, and what a restore from a pipe reads.
 *
 * A snapshot (struct shot) is a list of items in the order in which they came:
 * images, pieces of pages, runs of zeros. Readers find an item by its name or
 * offset, and wait for it as long as it may still come; a forwarder goes
 * through the list. Bytes are held once.
 *
 * All snapshots of a spool share one bound. A writer for whom there is no room
 * waits: until items are let go that have been handed out or forwarded already.
 * They are kept as long as there is room, so that a restore that failed can be
 * repeated. Where everybody would wait for ever, the snapshot fails instead.
 *
 * Every function may be called in any thread.
 */
#ifndef FERRY_STORE_SPOOL_H
#define FERRY_STORE_SPOOL_H

#include "store/store.h"
#include "wire/block.h"

struct spool;
struct shot;

/* @max_bytes of images and pages; 0: no bound. */
struct spool *spool_create(uint64_t max_bytes, struct err *err) must_check;
void spool_free(struct spool *sp); /* nobody holds a shot of it any more; NULL allowed */

/*
 * From now on what was forwarded is let go at once, and its memory is used again, which is faster than taking
 * fresh one from the system. Unless somebody reads the snapshot, too.
 */
void spool_forwards(struct spool *sp);

/* From now on the bound is exceeded where everybody would wait for ever, by what the reader waits for: nothing fails for want of room. */
void spool_soften(struct spool *sp);

/* The most that was held at any time. */
uint64_t spool_peak_bytes(struct spool *sp);

/* Every writer and reader fails, for this reason, now and later. */
void spool_stop(struct spool *sp, const struct err *why);

/*
 * The snapshot of this name, for its one writer: a new one, or one that a reader waits for. EEXIST:
 * there is one already. Where an earlier writer has failed, a new one takes its place.
 */
struct shot *spool_write(struct spool *sp, const char *name, struct err *err) must_check;

/* As long as the snapshot of this name is being written: at most @ms. One whose writer is dead is so until somebody notices. */
void spool_await_writer(struct spool *sp, const char *name, int ms);

/*
 * The snapshot of this name, which may have yet to come. Readers count. Of one that has failed before he came a reader is
 * told (-1) if that was a moment ago and nobody has been told yet: he and the dump have begun at the same time. Else he waits for
 * the next one.
 */
struct shot *spool_read(struct spool *sp, const char *name, struct err *err) must_check;

/* Also ends the writing or reading. A writer that has not completed it: fails it. NULL allowed. */
void shot_close_writer(struct shot *shot);
void shot_close_reader(struct shot *shot);

/* No new reader finds it, or what it builds on; their memory goes with the last who holds it. */
void shot_forget(struct shot *shot);

const char *shot_name(const struct shot *shot);

/* The snapshot that this one builds on, as BLOCK_PARENT has said; NULL: on none. It stays as long as this one. */
struct shot *shot_parent(struct shot *shot);

/* By what a snapshot is known to be the one that another builds on: it follows from its inventory. Below 2^63. */
uint64_t snapshot_identity(const void *inventory, size_t bytes);

/* ---- the writer ---- */

/*
 * Waits for room, which an item then takes, or shot_release gives back. Not longer than @ms (-1: for as long as it takes):
 * then there is none, and 1.
 */
int shot_reserve(struct shot *shot, size_t bytes, int ms, struct err *err) must_check;
void shot_release(struct shot *shot, size_t bytes);

/*
 * Adds what a block of BLOCK_OBJECT (whole), PAGES, ZEROS, PAGES_END, SKIP or PARENT says; of the last, the snapshot must be
 * here and complete, unless all is only forwarded. @buf is memory, of malloc or bufs_get,
 * that b->data points into; it is taken, also after an error. Its b->n_data bytes are
 * reserved.
 */
int shot_add(struct shot *shot, const struct block *b, uint8_t *buf, struct err *err) must_check;

/* Nothing more will come. */
void shot_complete(struct shot *shot);
void shot_fail(struct shot *shot, const struct err *why);

/* How many bytes of the pages of @id were added. */
uint64_t shot_pages_bytes(struct shot *shot, uint32_t id);

/* Bytes of images and pages that were added. */
uint64_t shot_bytes(struct shot *shot);

/* ---- readers: all wait for what may still come ---- */

/*
 * Whom a reader reads for. While he waits it is asked a few times a second, with the spool's lock held, whether that one is gone
 * (-1 and why): then nothing is waited for any more. A pointer to it may be NULL: nobody who could go.
 */
struct asker {
	int (*gone)(void *of, struct err *err);
	void *of;
};

/* As store_get and store_get_pages. */
int shot_get(struct shot *shot, const struct asker *asker, const char *name, void **data_out,
	     size_t *bytes_out, struct err *err) must_check;
int shot_get_pages(struct shot *shot, const struct asker *asker, uint32_t id, uint64_t off,
		   void *buf, size_t bytes, struct err *err) must_check;
/* As store_read_pages. */
int shot_read_pages(struct shot *shot, const struct asker *asker, uint32_t id, uint64_t off,
		    void *buf, size_t bytes, size_t *bytes_out, struct err *err) must_check;
/* 0 when it is complete, -1 when it has failed. */
int shot_wait(struct shot *shot, const struct asker *asker, struct err *err) must_check;

/* ---- the forwarder: one a snapshot ---- */

struct item;

/*
 * The item behind *@at (NULL: the first), as a block whose data stays as long as *@at is it. 1; 0: it is
 * complete, and that was all; -1. The item before may be let go from now on.
 */
int shot_next(struct shot *shot, struct item **at, struct block *out, struct err *err) must_check;

/*
 * A snapshot as a store: it may be put into and got from. The store takes over @shot, as opened by
 * spool_write or spool_read.
 */
struct store *spool_store_open(struct shot *shot, bool writer, struct err *err) must_check;

#endif

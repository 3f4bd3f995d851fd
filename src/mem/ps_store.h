// SPDX-License-Identifier: Apache-2.0
/*
 * What a page server gets over one connection, on its way into a directory of
 * images: for each object a pagemap and its pages. Files get their names all
 * at once at the end (store/incoming.h), so a transfer that breaks off leaves
 * nothing behind. Memory is bounded: neither pages nor entries are kept.
 */
#ifndef FERRY_MEM_PS_STORE_H
#define FERRY_MEM_PS_STORE_H

#include "mem/ps_wire.h"
#include "store/store.h"

struct ps_store;

/*
 * @dirfd is the directory of the images and must outlive it; @parent (NULL
 * allowed) holds the images that these build on and may be shared.
 */
struct ps_store *ps_store_create(int dirfd, struct store *parent, struct err *err) must_check;

/* Without ps_store_publish everything is forgotten. NULL allowed. */
void ps_store_free(struct ps_store *s);

/* Is there an earlier image of this object in the parent? */
int ps_store_has_parent(struct ps_store *s, const struct ps_object *object, bool *out,
			struct err *err) must_check;

/*
 * Makes room for about @pages of an object that is to come, so that fresh memory is not found
 * only when the program stands still; on file systems in memory, and up to half of what is free
 * there. The work is done by ps_store_prepare_step, in steps of some milliseconds: true
 * while there is more of it.
 */
void ps_store_prepare(struct ps_store *s, const struct ps_object *object, uint64_t pages);
bool ps_store_prepare_step(struct ps_store *s);

/* Begins an object, which ends the one before. Once an object, at most. */
int ps_store_begin(struct ps_store *s, const struct ps_object *object, bool *has_parent_out,
		   struct err *err) must_check;

/* Would ps_store_add take the request? */
int ps_store_check(struct ps_store *s, const struct ps_request *r, struct err *err) must_check;

/*
 * An ADD, ADD_F or HOLE for the object at hand. Its data, if it has any, is read from
 * the socket @from, which is blocking. Holes must be in the parent.
 */
int ps_store_add(struct ps_store *s, const struct ps_request *r, int from, struct err *err)
	must_check;

/*
 * All images get their names. If that fails half way, those that have one
 * lose it again.
 */
int ps_store_publish(struct ps_store *s, struct err *err) must_check;

/*
 * After that: frees the space of pages in the parents of @images, which is the
 * directory that was published to, where these images have pages of their own.
 */
int ps_store_dedup(struct ps_store *s, struct store *images, struct err *err) must_check;

struct ps_store_stats {
	uint64_t objects, pages, holes;
};
void ps_store_stats(const struct ps_store *s, struct ps_store_stats *out);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A source of lazy pages: the images of a tree in a store (a local directory,
 * with its parents).
 */
#ifndef FERRY_MEM_LAZY_IMAGE_H
#define FERRY_MEM_LAZY_IMAGE_H

#include "mem/lazy.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

/*
 * Pages that are marked PE_LAZY. Objects are the pids of the images. Both must outlive it. Refused
 * when some of those pages stayed with the source of the dump.
 */
struct lazy_source *lazy_image_open(const struct snapshot *snap, struct store *store,
				    struct err *err) must_check;
void lazy_image_close(struct lazy_source *s); /* NULL allowed */

/* Tells the engine which pages of a task are missing: those marked PE_LAZY. Any source. */
int lazy_image_missing(struct lazy_space *sp, const struct snap_pagemap *pm, struct err *err)
	must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Where the bytes of a pagemap's pages are: its entries, and for those that are
 * in parent directories of images the entries there, as one ascending list.
 */
#ifndef FERRY_SNAPSHOT_EXTENTS_H
#define FERRY_SNAPSHOT_EXTENTS_H

#include "snapshot/snapshot.h"

/* Pages next to each other in memory and in one pages image. */
struct snap_extent {
	uint64_t vaddr, n_pages;
	uint64_t off; /* in bytes, in the pages image */
	uint32_t pages_id;
	unsigned int level; /* 0: the store itself, 1: its parent, ... */
	bool lazy;          /* PE_LAZY: may come later */
};
typedef VEC(struct snap_extent) snap_extents;

/*
 * Appends the extents of all pages in [from, to) that have contents. Entries
 * without (left at the source, PE_LAZY alone) are passed over at the top;
 * below they are an error, as are pages that a parent should have and has not.
 * The caller frees the list, also after an error.
 */
int pagemap_extents(const struct snap_pagemap *pm, uint64_t from, uint64_t to, snap_extents *out,
		    struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Images that build on earlier ones replace some of their pages; the space of
 * those can be freed. Offsets of what is left do not change.
 */
#ifndef FERRY_SNAPSHOT_DEDUP_H
#define FERRY_SNAPSHOT_DEDUP_H

#include "snapshot/snapshot.h"

/*
 * Punches holes into the pages images of all parents of @store, where @own, which was
 * saved in @store, has pages of its own. Adds the bytes that were freed to *bytes. Whoever
 * restores from a parent directory itself gets zeros there, as with CRIU.
 */
int dedup_parents(const struct snap_pagemap *own, struct store *store, uint64_t *bytes,
		  struct err *err) must_check;

#endif

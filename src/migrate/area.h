// SPDX-License-Identifier: Apache-2.0
/*
 * Where the rounds of pre-copy are kept at the target: pages by task and
 * address, a later one in the place of an earlier one. For a restore it is the
 * parent of the store with the images: it has every page of a task that ever came.
 */
#ifndef FERRY_MIGRATE_AREA_H
#define FERRY_MIGRATE_AREA_H

#include "store/store.h"

/* Closed with its child (store_memory_set_parent), or by store_close. */
struct store *area_open(struct err *err) must_check;

/* Pages of the task with this pid in the images. @bytes: whole pages. */
int area_put(struct store *s, uint64_t pid, uint64_t vaddr, const void *data, size_t bytes,
	     struct err *err) must_check;

/* Has every page of these addresses come? -1 with ENODATA if not. */
int area_has(struct store *s, uint64_t pid, uint64_t vaddr, size_t bytes, struct err *err) must_check;

/* Copies pages that have come. -1 with ENODATA if one of them never came. */
int area_read(struct store *s, uint64_t pid, uint64_t vaddr, void *buf, size_t bytes,
	      struct err *err) must_check;

#endif

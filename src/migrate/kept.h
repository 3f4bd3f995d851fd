// SPDX-License-Identifier: Apache-2.0
/*
 * Pages that rounds of pre-copy have brought and that were not written since:
 * the target has them, in the area (area.h), and puts them in place when the tree runs, like those
 * that are still at home.
 */
#ifndef FERRY_MIGRATE_KEPT_H
#define FERRY_MIGRATE_KEPT_H

#include "mem/lazy.h"
#include "store/store.h"

struct kept;

/* @area must outlive it. */
struct kept *kept_create(struct store *area, struct err *err) must_check;
void kept_free(struct kept *k); /* NULL allowed */

/* Notes pages of an object, ascending. -1 (ENODATA) if the area has not all of them. */
int kept_add(struct kept *k, lazy_object object, uint64_t vaddr, uint64_t pages, struct err *err)
	must_check;

/* How many of @pages pages from @vaddr on are alike: *@here_out: kept here, or not. At least 1. */
uint64_t kept_extent(const struct kept *k, lazy_object object, uint64_t vaddr, uint64_t pages,
		     bool *here_out);

/* Copies kept pages. */
int kept_read(struct kept *k, lazy_object object, uint64_t vaddr, void *buf, uint64_t pages,
	      struct err *err) must_check;

uint64_t kept_pages(const struct kept *k);

#endif

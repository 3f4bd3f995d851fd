// SPDX-License-Identifier: Apache-2.0
/*
 * Pages that no tracking covers, but that seldom change: a task's own pages of private mappings of files, such
 * as the relocated data of its libraries. A copy of what the receiver has tells, in the
 * freeze, which of them need not be sent again: to compare a page costs a fraction of a microsecond.
 */
#ifndef FERRY_CAPTURE_STILL_H
#define FERRY_CAPTURE_STILL_H

#include "mem/track.h"

struct still_page {
	uint64_t vaddr;
	uint8_t *data; /* PAGE_BYTES; NULL: not known any more */
};

/* Zeros are a valid one. */
struct still {
	VEC(struct still_page) pages; /* ascending */
	VEC(struct still_page) fresh; /* of the pass that is under way, ascending */
	bool full;                    /* there was no room for all */
};

/*
 * The receiver gets @n pages at @vaddr with these contents; within one pass (until still_settle) addresses ascend.
 * *@room is how many more may be remembered, counted down. Without room or memory they are not: that is no error.
 */
void still_put(struct still *s, uint64_t vaddr, const void *data, uint64_t n, size_t *room);

/* The receiver gets others, which are not remembered. */
void still_drop(struct still *s, uint64_t vaddr, uint64_t n);

/* The pass is complete. After a failure of memory everything is forgotten. */
void still_settle(struct still *s, size_t *room);

/*
 * Those of the dirty regions of @pid that are as they are remembered become clean. The task may run: what it changes
 * meanwhile is either seen or not, as in any scan. -1 only without memory.
 */
int still_compare(const struct still *s, pid_t pid, track_regions *regions, struct err *err)
	must_check;

/* Forgets all. */
void still_clear(struct still *s, size_t *room);

#endif

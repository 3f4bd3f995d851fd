// SPDX-License-Identifier: Apache-2.0
/*
 * How far to read ahead of one reader: nothing while it jumps about, and twice
 * as far each time while it goes on where it was, up to what keeps a fast
 * long link busy. Pure arithmetic.
 */
#ifndef FERRY_LAZYFS_AHEAD_H
#define FERRY_LAZYFS_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

enum {
	AHEAD_FIRST = 256 * 1024,
	AHEAD_MOST = 8 * 1024 * 1024,
	/* The kernel reads ahead by several requests at once, which come in any order. */
	AHEAD_SLACK = 1024 * 1024,
};

/* Zeroed memory is a reader that has read nothing. */
struct ahead {
	uint64_t next;   /* where it will go on */
	uint64_t window; /* bytes */
	uint64_t asked;  /* up to where it was told to fetch */
};

/*
 * The reader reads @bytes at @at. Returns up to where it pays to fetch; not
 * more than @at + @bytes where nothing is to be read ahead.
 */
uint64_t ahead_plan(struct ahead *a, uint64_t at, uint64_t bytes);

/* Is a read at @at somewhere else than where the reader would go on? */
bool ahead_jumps(const struct ahead *a, uint64_t at);

#endif

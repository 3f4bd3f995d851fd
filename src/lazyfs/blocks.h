// SPDX-License-Identifier: Apache-2.0
/*
 * Which blocks of a file are here: one bit for each 4 KiB, in leaves that
 * exist only where something is set, so that a large file costs nothing before
 * it is touched. Not locked.
 */
#ifndef FERRY_LAZYFS_BLOCKS_H
#define FERRY_LAZYFS_BLOCKS_H

#include "base/attrs.h"

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_BYTES 4096ull

/* Zeroed memory is a map without any block. */
struct blocks {
	uint64_t **leaves; /* NULL entries: nothing is here */
	uint64_t n_leaves;
	uint64_t n_set; /* how many blocks are here */
};

/* Sets blocks first..end-1. False: out of memory; then some of them may be set. */
bool blocks_set(struct blocks *b, uint64_t first, uint64_t end) must_check;

bool blocks_get(const struct blocks *b, uint64_t block);

/* The first block at or after @from, and before @end, that is (not) set; @end if there is none. */
uint64_t blocks_next(const struct blocks *b, uint64_t from, uint64_t end, bool set);

/* Forgets all blocks. */
void blocks_free(struct blocks *b);

#endif

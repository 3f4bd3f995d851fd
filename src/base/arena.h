// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that lives as long as its owner: many small objects, freed at once.
 * Every allocation can fail (NULL); nothing aborts.
 */
#ifndef FERRY_BASE_ARENA_H
#define FERRY_BASE_ARENA_H

#include "base/attrs.h"

#include <stdbool.h>

struct arena_chunk;

struct arena {
	struct arena_chunk *chunks;
	size_t used_bytes;  /* in total, for limits */
	void *recycled[17]; /* lists of blocks given back, of 1 KiB << index each */
};

/* Zeroed memory, aligned for any type; NULL when memory is exhausted. */
void *arena_alloc(struct arena *a, size_t bytes);
void *arena_calloc(struct arena *a, size_t n, size_t size);
void *arena_dup(struct arena *a, const void *data, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_printf(struct arena *a, const char *fmt, ...) printf_like(2, 3);
void arena_free(struct arena *a);

/*
 * Gives a block of the arena back, for a later allocation of exactly this
 * size. Only sizes that are recyclable (a power of two from 1 KiB to 64 MiB)
 * are kept; others do nothing.
 */
void arena_recycle(struct arena *a, void *block, size_t bytes);
bool arena_recyclable(size_t bytes);

/* An array of @n zeroed elements of the type; NULL also when its size overflows. */
#define arena_array(a, type, n) ((type *)arena_calloc((a), (n), sizeof(type)))
#define arena_new(a, type) arena_array((a), type, 1)

#endif

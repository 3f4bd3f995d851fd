// SPDX-License-Identifier: Apache-2.0
/*
 * A hash map from 64-bit keys to pointers. Keys can be taken from hostile
 * input: the hash is mixed, and a lookup costs no more than a few probes for
 * any set of keys made without knowing the table.
 */
#ifndef FERRY_BASE_MAP_H
#define FERRY_BASE_MAP_H

#include "base/attrs.h"

#include <stdbool.h>
#include <stdint.h>

struct map_slot {
	uint64_t key;
	void *value; /* NULL: free slot */
};

/* Zeroed memory is an empty map. */
struct map {
	struct map_slot *slots;
	size_t n, cap; /* cap: a power of two, or 0 */
};

/* The value of a key, or NULL. */
void *map_get(const struct map *m, uint64_t key);

/* Sets the value (not NULL) of a key, replacing an older one. False: out of memory. */
bool map_set(struct map *m, uint64_t key, void *value) must_check;

/* Adds a key that is not in the map yet: 1, or 0 if it was there (and stays), or -1 when out of memory. */
int map_add(struct map *m, uint64_t key, void *value) must_check;

void map_free(struct map *m); /* the values are not touched */

/* Key of a text for use in a map: different texts may rarely have the same. */
uint64_t map_hash(const char *text);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Open addressing with linear probes; at most three quarters full. Nothing is
 * ever removed.
 */
#include "base/map.h"

static size_t home_slot(const struct map *m, uint64_t key)
{
	key ^= key >> 32;
	key *= 0x9e3779b97f4a7c15u;
	key ^= key >> 29;
	key *= 0xbf58476d1ce4e5b9u;
	return (size_t)(key ^ key >> 32) & (m->cap - 1);
}

/* The slot of the key, or the free one where it belongs. The map has free slots. */
static struct map_slot *find_slot(const struct map *m, uint64_t key)
{
	size_t i = home_slot(m, key);

	while (m->slots[i].value && m->slots[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return &m->slots[i];
}

void *map_get(const struct map *m, uint64_t key)
{
	return m->cap ? find_slot(m, key)->value : NULL;
}

static bool grow(struct map *m)
{
	struct map bigger = {.cap = m->cap ? m->cap * 2 : 16, .n = m->n};
	size_t i;

	if (bigger.cap > SIZE_MAX / sizeof(*bigger.slots))
		return false;
	bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
	if (!bigger.slots)
		return false;
	for (i = 0; i < m->cap; i++)
		if (m->slots[i].value)
			*find_slot(&bigger, m->slots[i].key) = m->slots[i];
	free(m->slots);
	*m = bigger;
	return true;
}

/* The slot for a key, with room for it if it is new; NULL: out of memory. */
static struct map_slot *slot_for(struct map *m, uint64_t key)
{
	if (m->n >= m->cap / 4 * 3 && !grow(m))
		return NULL;
	return find_slot(m, key);
}

bool map_set(struct map *m, uint64_t key, void *value)
{
	struct map_slot *slot = slot_for(m, key);

	if (!slot)
		return false;
	m->n += !slot->value;
	*slot = (struct map_slot){key, value};
	return true;
}

int map_add(struct map *m, uint64_t key, void *value)
{
	struct map_slot *slot = slot_for(m, key);

	if (!slot)
		return -1;
	if (slot->value)
		return 0;
	m->n++;
	*slot = (struct map_slot){key, value};
	return 1;
}

void map_free(struct map *m)
{
	free(m->slots);
	*m = (struct map){0};
}

uint64_t map_hash(const char *text)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

	while (*text)
		h = (h ^ (unsigned char)*text++) * 0x100000001b3u;
	return h;
}

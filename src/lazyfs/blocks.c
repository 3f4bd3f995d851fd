// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/blocks.h"

#include <string.h>

/* A leaf is 1 KiB and tells of 32 MiB. */
enum { WORD_BITS = 64, LEAF_WORDS = 128, LEAF_BITS = WORD_BITS * LEAF_WORDS };

static bool grow(struct blocks *b, uint64_t leaves)
{
	uint64_t **bigger;

	if (leaves <= b->n_leaves)
		return true;
	leaves = MAX(leaves, b->n_leaves * 2);
	bigger = reallocarray(b->leaves, leaves, sizeof(*bigger));
	if (!bigger)
		return false;
	memset(bigger + b->n_leaves, 0, (leaves - b->n_leaves) * sizeof(*bigger));
	b->leaves = bigger;
	b->n_leaves = leaves;
	return true;
}

/* The bits of a word that are those of blocks first..end-1; the word begins with block @base. */
static uint64_t mask(uint64_t base, uint64_t first, uint64_t end)
{
	uint64_t m = ~0ull;

	if (first > base)
		m &= ~0ull << (first - base);
	if (end < base + WORD_BITS)
		m &= ~0ull >> (base + WORD_BITS - end);
	return m;
}

bool blocks_set(struct blocks *b, uint64_t first, uint64_t end)
{
	if (first >= end)
		return true;
	if (!grow(b, (end + LEAF_BITS - 1) / LEAF_BITS))
		return false;
	for (uint64_t base = first / WORD_BITS * WORD_BITS; base < end; base += WORD_BITS) {
		uint64_t **leaf = &b->leaves[base / LEAF_BITS], *word, m = mask(base, first, end);

		if (!*leaf)
			*leaf = calloc(LEAF_WORDS, sizeof(**leaf));
		if (!*leaf)
			return false;
		word = &(*leaf)[base % LEAF_BITS / WORD_BITS];
		b->n_set += (uint64_t)__builtin_popcountll(m & ~*word);
		*word |= m;
	}
	return true;
}

static uint64_t word_at(const struct blocks *b, uint64_t block)
{
	uint64_t leaf = block / LEAF_BITS;

	if (leaf >= b->n_leaves || !b->leaves[leaf])
		return 0;
	return b->leaves[leaf][block % LEAF_BITS / WORD_BITS];
}

bool blocks_get(const struct blocks *b, uint64_t block)
{
	return word_at(b, block) >> block % WORD_BITS & 1;
}

uint64_t blocks_next(const struct blocks *b, uint64_t from, uint64_t end, bool set)
{
	while (from < end) {
		uint64_t base = from / WORD_BITS * WORD_BITS, leaf = from / LEAF_BITS, w;

		if (leaf >= b->n_leaves || !b->leaves[leaf]) {
			if (!set)
				return from;
			from = (leaf + 1) * LEAF_BITS;
			continue;
		}
		w = word_at(b, from);
		w = (set ? w : ~w) & mask(base, from, end);
		if (w)
			return base + (uint64_t)__builtin_ctzll(w);
		from = base + WORD_BITS;
	}
	return end;
}

void blocks_free(struct blocks *b)
{
	for (uint64_t i = 0; i < b->n_leaves; i++)
		free(b->leaves[i]);
	free(b->leaves);
	*b = (struct blocks){0};
}

// SPDX-License-Identifier: Apache-2.0
#include "mem/ranges.h"

uint64_t mem_ranges_bytes(const mem_ranges *r)
{
	uint64_t sum = 0;

	vec_foreach (x, r)
		sum += x->end - x->start;
	return sum;
}

int mem_ranges_push(mem_ranges *to, uint64_t start, uint64_t end, struct err *err)
{
	if (start >= end)
		return 0;
	if (to->n && to->v[to->n - 1].end == start) {
		to->v[to->n - 1].end = end;
		return 0;
	}
	return vec_push(to, (struct mem_range){start, end}) ? 0 : err_nomem(err);
}

/* Which of the pieces are wanted: only in a, only in b, in both. */
enum { ONLY_A = 1, ONLY_B = 2, BOTH = 3 };

/* The next border behind @at of the range that @i points to, and whether @at is inside. */
static uint64_t next_border(const mem_ranges *r, size_t *i, uint64_t at, bool *inside)
{
	while (*i < r->n && r->v[*i].end <= at)
		++*i;
	*inside = *i < r->n && r->v[*i].start <= at;
	if (*i == r->n)
		return UINT64_MAX;
	return *inside ? r->v[*i].end : r->v[*i].start;
}

/* From border to border: between two of them nothing changes. @want has a bit for each kind of piece. */
static int combine(const mem_ranges *a, const mem_ranges *b, unsigned int want, mem_ranges *out,
		   struct err *err)
{
	uint64_t at = 0, end;
	size_t i = 0, j = 0;
	bool in_a, in_b;
	unsigned int kind;

	for (; at < UINT64_MAX; at = end) {
		uint64_t end_a = next_border(a, &i, at, &in_a), end_b = next_border(b, &j, at, &in_b);

		end = MIN(end_a, end_b);
		kind = (in_a ? ONLY_A : 0) | (in_b ? ONLY_B : 0);
		if (kind && want >> kind & 1 && mem_ranges_push(out, at, end, err))
			return -1;
	}
	return 0;
}

int mem_ranges_common(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err)
{
	return combine(a, b, 1 << BOTH, out, err);
}

int mem_ranges_without(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err)
{
	return combine(a, b, 1 << ONLY_A, out, err);
}

int mem_ranges_union(const mem_ranges *a, const mem_ranges *b, mem_ranges *out, struct err *err)
{
	return combine(a, b, 1 << ONLY_A | 1 << ONLY_B | 1 << BOTH, out, err);
}

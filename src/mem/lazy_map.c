// SPDX-License-Identifier: Apache-2.0
/*
 * Two bits a page, in blocks that segments share: splitting a segment moves no
 * bit. Runs of missing pages with small gaps between them make one segment.
 */
#include "mem/lazy_map.h"

#include <errno.h>
#include <string.h>

/* A gap of so many pages costs less as clear bits than as a segment of its own. */
#define GAP_PAGES 256
#define WORD_BITS 64UL
/* Borders that a remap makes: two where it takes segments away, two where it puts them. */
#define MAX_SPLITS 4

struct lazy_bits {
	unsigned int refs;
	uint64_t words;
	uint64_t *missing, *asked;
};

/* ---- blocks of bits ---- */

static struct lazy_bits *bits_new(uint64_t pages)
{
	struct lazy_bits *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->refs = 1;
	b->words = (pages + WORD_BITS - 1) / WORD_BITS;
	b->missing = calloc(b->words, sizeof(uint64_t));
	b->asked = calloc(b->words, sizeof(uint64_t));
	if (b->missing && b->asked)
		return b;
	free(b->missing);
	free(b->asked);
	free(b);
	return NULL;
}

static void bits_put(struct lazy_bits *b)
{
	if (--b->refs)
		return;
	free(b->missing);
	free(b->asked);
	free(b);
}

/* Room for @pages pages in all. */
static bool bits_extend(struct lazy_bits *b, uint64_t pages)
{
	uint64_t words = (pages + WORD_BITS - 1) / WORD_BITS, *p;

	if (words <= b->words)
		return true;
	words = MAX(words, b->words * 2);
	p = realloc(b->missing, words * sizeof(uint64_t));
	if (!p)
		return false;
	b->missing = p;
	p = realloc(b->asked, words * sizeof(uint64_t));
	if (!p)
		return false;
	b->asked = p;
	memset(b->missing + b->words, 0, (words - b->words) * sizeof(uint64_t));
	memset(b->asked + b->words, 0, (words - b->words) * sizeof(uint64_t));
	b->words = words;
	return true;
}

/* The bits of word @w that lie in [first, end). */
static uint64_t word_mask(uint64_t w, uint64_t first, uint64_t end)
{
	uint64_t mask = ~0UL, low = w * WORD_BITS;

	if (first > low)
		mask &= ~0UL << (first - low);
	if (end < low + WORD_BITS)
		mask &= ~0UL >> (low + WORD_BITS - end);
	return mask;
}

static uint64_t word_of(const struct lazy_bits *b, uint64_t w, enum lazy_state state)
{
	switch (state) {
	case LAZY_MISSING:
		return b->missing[w] & ~b->asked[w];
	case LAZY_ASKED:
		return b->missing[w] & b->asked[w];
	default:
		return ~b->missing[w];
	}
}

/* The first page from @first on, before @end, that is in that state (or, @not, that is not); @end if none. */
static uint64_t bits_find(const struct lazy_bits *b, uint64_t first, uint64_t end,
			  enum lazy_state state, bool not )
{
	uint64_t got;

	for (uint64_t w = first / WORD_BITS; w * WORD_BITS < end; w++) {
		got = word_of(b, w, state);
		got = (not ? ~got : got) & word_mask(w, first, end);
		if (got)
			return w * WORD_BITS + (uint64_t)__builtin_ctzl(got);
	}
	return end;
}

static uint64_t bits_clear(struct lazy_bits *b, uint64_t first, uint64_t end)
{
	uint64_t mask, n = 0;

	for (uint64_t w = first / WORD_BITS; w * WORD_BITS < end; w++) {
		mask = word_mask(w, first, end);
		n += (uint64_t)__builtin_popcountl(b->missing[w] & mask);
		b->missing[w] &= ~mask;
		b->asked[w] &= ~mask;
	}
	return n;
}

static void bits_ask(struct lazy_bits *b, uint64_t first, uint64_t end, bool asked)
{
	for (uint64_t w = first / WORD_BITS; w * WORD_BITS < end; w++) {
		uint64_t mask = word_mask(w, first, end) & b->missing[w];

		if (asked)
			b->asked[w] |= mask;
		else
			b->asked[w] &= ~mask;
	}
}

/* ---- segments ---- */

static uint64_t page_of(const struct lazy_segment *s, uint64_t addr)
{
	return s->first + (addr - s->start) / PAGE_BYTES;
}

/* Index of the first segment that ends after @addr. */
static size_t find(const struct lazy_map *m, uint64_t addr)
{
	size_t low = 0, high = m->segments.n, mid;

	while (low < high) {
		mid = low + (high - low) / 2;
		if (m->segments.v[mid].end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* There is room: lazy_map_reserve() has been called. */
static void insert(struct lazy_map *m, size_t at, struct lazy_segment s)
{
	memmove(&m->segments.v[at + 1], &m->segments.v[at],
		(m->segments.n - at) * sizeof(m->segments.v[0]));
	m->segments.v[at] = s;
	m->segments.n++;
}

static void take_out(struct lazy_map *m, size_t at, size_t n)
{
	memmove(&m->segments.v[at], &m->segments.v[at + n],
		(m->segments.n - at - n) * sizeof(m->segments.v[0]));
	m->segments.n -= n;
}

int lazy_map_add(struct lazy_map *m, uint64_t vaddr, uint64_t pages, struct err *err)
{
	struct lazy_segment *last = m->segments.n ? &m->segments.v[m->segments.n - 1] : NULL;
	uint64_t end = vaddr + pages * PAGE_BYTES, first;
	struct lazy_bits *b;

	if (!pages || vaddr % PAGE_BYTES || end < vaddr || (last && vaddr < last->end))
		return err_set(err, EINVAL, "the missing pages at 0x%llx are not in ascending order",
			       (unsigned long long)vaddr);
	if (last && vaddr - last->end <= GAP_PAGES * PAGE_BYTES) {
		if (!bits_extend(last->bits, (end - last->start) / PAGE_BYTES))
			return err_nomem(err);
		last->end = end;
	} else {
		b = bits_new(pages);
		if (!b)
			return err_nomem(err);
		if (!vec_push(&m->segments, (struct lazy_segment){vaddr, end, vaddr, 0, b})) {
			bits_put(b);
			return err_nomem(err);
		}
		last = &m->segments.v[m->segments.n - 1];
	}
	first = page_of(last, vaddr);
	for (uint64_t w = first / WORD_BITS; w * WORD_BITS < first + pages; w++)
		last->bits->missing[w] |= word_mask(w, first, first + pages);
	m->missing += pages;
	return 0;
}

/* ---- copies ---- */

static uint64_t pages_of(const struct lazy_segment *s)
{
	return (s->end - s->start) / PAGE_BYTES;
}

/* Where its bits are, in words of its block. */
static uint64_t words_of(const struct lazy_segment *s)
{
	return (s->first % WORD_BITS + pages_of(s) + WORD_BITS - 1) / WORD_BITS;
}

int lazy_map_make_room(struct lazy_map_room *room, const struct lazy_map *m, struct err *err)
{
	uint64_t words = 1; /* also for a map without any */
	struct lazy_bits *b;

	vec_foreach (s, &m->segments)
		words += words_of(s);
	if (!vec_reserve(&room->segments, m->segments.n))
		return err_nomem(err);
	if (room->bits && room->bits->words >= words)
		return 0;
	b = bits_new(words * WORD_BITS);
	if (!b)
		return err_nomem(err);
	if (room->bits)
		bits_put(room->bits);
	room->bits = b;
	return 0;
}

void lazy_map_free_room(struct lazy_map_room *room)
{
	if (room->bits)
		bits_put(room->bits);
	vec_free(&room->segments);
	room->bits = NULL;
}

/* The bits of a segment, from word @at of the block on. Returns how many pages are missing. */
static uint64_t copy_bits(struct lazy_bits *to, uint64_t at, const struct lazy_segment *s)
{
	uint64_t first = s->first / WORD_BITS, words = words_of(s), missing = 0;

	for (uint64_t w = 0; w < words; w++) {
		/* the others are of its neighbours in the block */
		uint64_t mask = word_mask(first + w, s->first, s->first + pages_of(s));

		to->missing[at + w] = s->bits->missing[first + w] & mask;
		to->asked[at + w] = s->bits->asked[first + w] & mask;
		missing += (uint64_t)__builtin_popcountl(to->missing[at + w]);
	}
	return missing;
}

void lazy_map_clone(struct lazy_map *to, const struct lazy_map *from, struct lazy_map_room *room)
{
	uint64_t at = 0;

	*to = (struct lazy_map){.moved = from->moved};
	vec_foreach (s, &from->segments) {
		struct lazy_segment *copy = &room->segments.v[to->segments.n++];

		*copy = *s;
		copy->first = at * WORD_BITS + s->first % WORD_BITS;
		copy->bits = room->bits;
		room->bits->refs++;
		to->missing += copy_bits(room->bits, at, s);
		at += words_of(s);
	}
	to->segments.v = room->segments.v;
	to->segments.cap = room->segments.cap;
	room->segments.v = NULL;
	room->segments.cap = 0;
	lazy_map_free_room(room);
}

void lazy_map_free(struct lazy_map *m)
{
	vec_foreach (s, &m->segments)
		bits_put(s->bits);
	vec_free(&m->segments);
	vec_free(&m->moving);
	*m = (struct lazy_map){0};
}

/* ---- looking ---- */

enum lazy_state lazy_map_state(const struct lazy_map *m, uint64_t addr, uint64_t *dump_out)
{
	size_t i = find(m, addr);
	const struct lazy_segment *s = &m->segments.v[i];
	uint64_t page, bit;

	if (i == m->segments.n || s->start > addr)
		return LAZY_ABSENT;
	page = page_of(s, addr);
	bit = 1UL << page % WORD_BITS;
	if (!(s->bits->missing[page / WORD_BITS] & bit))
		return LAZY_ABSENT;
	*dump_out = s->dump + ((addr & ~(PAGE_BYTES - 1)) - s->start);
	return s->bits->asked[page / WORD_BITS] & bit ? LAZY_ASKED : LAZY_MISSING;
}

/* The first run in a state within [from, to) of a segment. */
static bool run_in(const struct lazy_segment *s, uint64_t from, uint64_t to, uint64_t max,
		   enum lazy_state state, bool not, struct lazy_run *out)
{
	uint64_t first = page_of(s, from), end = page_of(s, to);
	uint64_t p = bits_find(s->bits, first, end, state, not );
	uint64_t past;

	if (p == end)
		return false;
	past = bits_find(s->bits, p, end - p > max ? p + max : end, state, !not );
	out->addr = s->start + (p - s->first) * PAGE_BYTES;
	out->dump = s->dump + (p - s->first) * PAGE_BYTES;
	out->pages = past - p;
	return true;
}

bool lazy_map_next(const struct lazy_map *m, uint64_t from, uint64_t max, enum lazy_state state,
		   struct lazy_run *out)
{
	for (size_t i = find(m, from); i < m->segments.n; i++) {
		const struct lazy_segment *s = &m->segments.v[i];

		if (run_in(s, MAX(from, s->start), s->end, max, state, false, out))
			return true;
	}
	return false;
}

/* The part of a segment that was within [dump, dump_end), as addresses of now. */
static bool overlap(const struct lazy_segment *s, uint64_t dump, uint64_t dump_end, uint64_t *from,
		    uint64_t *to)
{
	uint64_t s_end = s->dump + (s->end - s->start);

	if (dump >= s_end || dump_end <= s->dump)
		return false;
	*from = s->start + (MAX(dump, s->dump) - s->dump);
	*to = s->start + (MIN(dump_end, s_end) - s->dump);
	return true;
}

/* Where a walk by addresses of the dump begins: anywhere, once something has moved. */
static size_t dump_first(const struct lazy_map *m, uint64_t dump)
{
	return m->moved ? 0 : find(m, dump);
}

static bool dump_past(const struct lazy_map *m, size_t i, uint64_t dump_end)
{
	return i == m->segments.n || (!m->moved && m->segments.v[i].start >= dump_end);
}

bool lazy_map_at_dump(const struct lazy_map *m, uint64_t dump, uint64_t dump_end, struct lazy_run *out)
{
	struct lazy_run best = {0}, run;
	uint64_t from, to;

	for (size_t i = dump_first(m, dump); !dump_past(m, i, dump_end); i++) {
		const struct lazy_segment *s = &m->segments.v[i];

		if (!overlap(s, dump, dump_end, &from, &to) ||
		    !run_in(s, from, to, UINT64_MAX, LAZY_ABSENT, true, &run))
			continue;
		if (!best.pages || run.dump < best.dump)
			best = run;
		if (!m->moved)
			break;
	}
	*out = best;
	return best.pages > 0;
}

void lazy_map_ask(struct lazy_map *m, uint64_t dump, uint64_t dump_end, bool asked)
{
	uint64_t from, to;

	for (size_t i = dump_first(m, dump); !dump_past(m, i, dump_end); i++) {
		const struct lazy_segment *s = &m->segments.v[i];

		if (overlap(s, dump, dump_end, &from, &to))
			bits_ask(s->bits, page_of(s, from), page_of(s, to), asked);
	}
}

/* ---- changing ---- */

uint64_t lazy_map_clear(struct lazy_map *m, uint64_t start, uint64_t end)
{
	uint64_t n = 0;

	for (size_t i = find(m, start); i < m->segments.n && m->segments.v[i].start < end; i++) {
		const struct lazy_segment *s = &m->segments.v[i];

		n += bits_clear(s->bits, page_of(s, MAX(start, s->start)),
				page_of(s, MIN(end, s->end)));
	}
	m->missing -= n;
	return n;
}

int lazy_map_reserve(struct lazy_map *m, struct err *err)
{
	if (!vec_reserve(&m->segments, MAX_SPLITS) ||
	    !vec_reserve(&m->moving, m->segments.n + MAX_SPLITS))
		return err_nomem(err);
	return 0;
}

/* Makes @addr a border between segments. */
static void split(struct lazy_map *m, uint64_t addr)
{
	size_t i = find(m, addr);
	struct lazy_segment *s = &m->segments.v[i], upper;

	if (i == m->segments.n || s->start >= addr)
		return;
	upper = *s;
	upper.start = addr;
	upper.dump += addr - s->start;
	upper.first = page_of(s, addr);
	s->end = addr;
	upper.bits->refs++;
	insert(m, i + 1, upper);
}

/* How many segments there are in a range, the first of them at *@at_out. */
static size_t count_within(const struct lazy_map *m, uint64_t start, uint64_t end, size_t *at_out)
{
	size_t i = find(m, start), n = 0;

	while (i + n < m->segments.n && m->segments.v[i + n].start < end)
		n++;
	*at_out = i;
	return n;
}

static uint64_t unmap(struct lazy_map *m, uint64_t start, uint64_t end)
{
	uint64_t gone = lazy_map_clear(m, start, end);
	size_t i, n;

	split(m, start);
	split(m, end);
	n = count_within(m, start, end, &i);
	for (size_t k = i; k < i + n; k++)
		bits_put(m->segments.v[k].bits);
	take_out(m, i, n);
	return gone;
}

int lazy_map_unmap(struct lazy_map *m, uint64_t start, uint64_t end, uint64_t *gone_out,
		   struct err *err)
{
	if (lazy_map_reserve(m, err) < 0)
		return -1;
	*gone_out = unmap(m, start, end);
	return 0;
}

int lazy_map_move(struct lazy_map *m, uint64_t from, uint64_t to, uint64_t bytes, struct err *err)
{
	size_t i, n;

	if (lazy_map_reserve(m, err) < 0)
		return -1;
	split(m, from);
	split(m, from + bytes);
	n = count_within(m, from, from + bytes, &i);
	memcpy(m->moving.v, &m->segments.v[i], n * sizeof(m->moving.v[0]));
	m->moving.n = n;
	take_out(m, i, n);
	unmap(m, to, to + bytes);
	vec_foreach (s, &m->moving) {
		s->start = s->start - from + to;
		s->end = s->end - from + to;
		insert(m, find(m, s->start), *s);
	}
	m->moving.n = 0;
	m->moved = m->moved || n > 0;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Which pages of an address space are missing, and which of those have been
 * asked for. Segments know the address that their pages had at the dump; a
 * remap moves segments, a fork copies all. No system calls.
 */
#ifndef FERRY_MEM_LAZY_MAP_H
#define FERRY_MEM_LAZY_MAP_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdint.h>

struct lazy_bits;

struct lazy_segment {
	uint64_t start, end; /* where it is now */
	uint64_t dump;       /* where @start was */
	uint64_t first;      /* its first page in bits */
	struct lazy_bits *bits;
};

struct lazy_map {
	VEC(struct lazy_segment) segments; /* ascending by start */
	VEC(struct lazy_segment) moving;   /* room for what a remap takes out for a moment */
	uint64_t missing;                  /* pages */
	bool moved;                        /* some segment is not where it was at the dump */
};

enum lazy_state {
	LAZY_ABSENT, /* of no concern: never was missing, has come, or was discarded */
	LAZY_MISSING,
	LAZY_ASKED, /* missing, and on its way */
};

/* Pages that touch each other in the space and at the dump, and have the same state. */
struct lazy_run {
	uint64_t addr, dump, pages;
};

/* Adds missing pages: ascending, before anything else. */
int lazy_map_add(struct lazy_map *m, uint64_t vaddr, uint64_t pages, struct err *err) must_check;
void lazy_map_free(struct lazy_map *m);

/* After it, the next lazy_map_unmap or lazy_map_move needs no memory, and cannot fail. */
int lazy_map_reserve(struct lazy_map *m, struct err *err) must_check;

/* Room for a copy of a map; starts as {0}. */
struct lazy_map_room {
	VEC(struct lazy_segment) segments;
	struct lazy_bits *bits;
};

/* Makes it enough for a copy of the map as it is now. What there is already is kept, also on failure. */
int lazy_map_make_room(struct lazy_map_room *room, const struct lazy_map *m, struct err *err)
	must_check;
void lazy_map_free_room(struct lazy_map_room *room);
/* A copy that takes the room that lazy_map_make_room() made for it. */
void lazy_map_clone(struct lazy_map *to, const struct lazy_map *from, struct lazy_map_room *room);

/* The state of a page, and its address at the dump. */
enum lazy_state lazy_map_state(const struct lazy_map *m, uint64_t addr, uint64_t *dump_out);

/*
 * The next run in state @state of at most @max pages at or after @from. False:
 * none up to the end of the space.
 */
bool lazy_map_next(const struct lazy_map *m, uint64_t from, uint64_t max, enum lazy_state state,
		   struct lazy_run *out);

/* The first run of missing pages, asked for or not, within these addresses of the dump. */
bool lazy_map_at_dump(const struct lazy_map *m, uint64_t dump, uint64_t dump_end,
		      struct lazy_run *out);

/* Pages of these addresses of the dump that are missing: asked for now, or not any more. */
void lazy_map_ask(struct lazy_map *m, uint64_t dump, uint64_t dump_end, bool asked);

/* Pages of a range are no longer missing: they came, or were discarded. Returns how many were. */
uint64_t lazy_map_clear(struct lazy_map *m, uint64_t start, uint64_t end);
/* The same for a range that is unmapped: segments go, too. *@gone_out: how many. */
int lazy_map_unmap(struct lazy_map *m, uint64_t start, uint64_t end, uint64_t *gone_out,
		   struct err *err) must_check;
/* mremap. What was at the target has been unmapped before; what is left of it is dropped. */
int lazy_map_move(struct lazy_map *m, uint64_t from, uint64_t to, uint64_t bytes, struct err *err)
	must_check;

#endif

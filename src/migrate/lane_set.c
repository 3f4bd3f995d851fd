// SPDX-License-Identifier: Apache-2.0
/*
 * How a lane says who it is, and how those that were opened together find each other. No I/O, but that lanes
 * which nobody needs are closed.
 */
#include "base/le.h"
#include "migrate/lane_priv.h"

#include <ctype.h>
#include <string.h>

void lane_hello_make(const struct lane_call *call, uint8_t hello[LANE_HELLO_BYTES])
{
	memcpy(hello, LANE_MAGIC, LANE_MAGIC_BYTES);
	memcpy(hello + LANE_MAGIC_BYTES, call->token, WIRE_TOKEN_CHARS);
	hello[LANE_KIND_AT] = (uint8_t)call->kind;
	hello[LANE_VERSION_AT] = call->place.version;
	hello[LANE_N_AT] = call->place.n;
	hello[LANE_INDEX_AT] = call->place.index;
	put_le32(hello + LANE_SET_AT, call->place.set);
}

static bool is_for_pages(enum lane_kind kind)
{
	return kind == LANE_DEMAND || kind == LANE_BULK;
}

/* What an older ferry opens is one lane of each kind. */
static struct lane_place older_place(enum lane_kind kind)
{
	return (struct lane_place){.n = 2, .index = kind == LANE_DEMAND ? 0 : 1};
}

static bool place_is_possible(const struct lane_place *p, enum lane_kind kind)
{
	return p->n >= 2 && p->n <= LANES_MAX && p->index < p->n &&
	       (p->index == 0) == (kind == LANE_DEMAND);
}

bool lane_hello_parse(const uint8_t hello[LANE_HELLO_BYTES], char token_out[WIRE_TOKEN_CHARS + 1],
		      enum lane_kind *kind_out, struct lane_place *place_out)
{
	enum lane_kind kind = (enum lane_kind)hello[LANE_KIND_AT];
	struct lane_place place = {.version = hello[LANE_VERSION_AT],
				   .n = hello[LANE_N_AT],
				   .index = hello[LANE_INDEX_AT],
				   .set = get_le32(hello + LANE_SET_AT)};

	if (memcmp(hello, LANE_MAGIC, LANE_MAGIC_BYTES) != 0 ||
	    (!is_for_pages(kind) && kind != LANE_FILES && kind != LANE_TRUNK))
		return false;
	if (!is_for_pages(kind))
		place = (struct lane_place){.n = 0};
	else if (place.version == 0)
		place = older_place(kind);
	else if (!place_is_possible(&place, kind))
		return false;
	memcpy(token_out, hello + LANE_MAGIC_BYTES, WIRE_TOKEN_CHARS);
	token_out[WIRE_TOKEN_CHARS] = '\0';
	*kind_out = kind;
	if (place_out)
		*place_out = place;
	return wire_token_valid(token_out);
}

uint8_t lane_knowing(enum lane_kind kind)
{
	return (uint8_t)toupper((int)kind);
}

/* ---- sets ---- */

void lane_set_init(struct lane_set *set)
{
	*set = (struct lane_set){.have = 0};
	for (size_t i = 0; i < LANES_MAX; i++)
		set->lanes[i] = LANE_NONE;
}

void lane_set_drop(struct lane_set *set)
{
	for (size_t i = 0; i < LANES_MAX; i++)
		lane_close(&set->lanes[i]);
	set->have = 0;
}

static bool is_earlier(const struct lane_place *p, const struct lane_place *than)
{
	return p->version && than->version && (int32_t)(p->set - than->set) < 0;
}

static bool is_same(const struct lane_place *p, const struct lane_place *other)
{
	return !p->version == !other->version && p->set == other->set && p->n == other->n;
}

/* Has the set been overtaken, by what is in use or by what is on its way? */
static bool is_late(const struct lane_set *set, const struct lane_place *p)
{
	if (set->used.n && (is_earlier(p, &set->used) || (p->version && is_same(p, &set->used))))
		return true;
	return set->have && is_earlier(p, &set->place);
}

bool lane_set_add(struct lane_set *set, struct lane *lane)
{
	const struct lane_place *p = &lane->place;

	if (is_late(set, p)) {
		lane_close(lane);
		return false;
	}
	if (set->have && !is_same(p, &set->place))
		lane_set_drop(set);
	if (set->lanes[p->index].in >= 0) {
		if (p->version) {
			lane_close(lane);
			return false;
		}
		/* an older ferry does not say which attempt it is: the last one counts */
		lane_close(&set->lanes[p->index]);
		set->have--;
	}
	set->place = *p;
	set->lanes[p->index] = *lane;
	*lane = LANE_NONE;
	set->have++;
	return true;
}

bool lane_set_whole(const struct lane_set *set)
{
	return set->have && set->have == set->place.n;
}

size_t lane_set_take(struct lane_set *set, struct lane out[LANES_MAX])
{
	size_t n = set->have;

	for (size_t i = 0; i < n; i++) {
		out[i] = set->lanes[i];
		set->lanes[i] = LANE_NONE;
	}
	set->used = set->place;
	set->have = 0;
	return n;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Lanes as strangers and peers may begin them: what is taken for one belongs somewhere, encodes to the same
 * bytes, and no set is ever made of lanes of two attempts, nor one of an attempt before that in use.
 */
#include "migrate/lane_priv.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const struct lane_call seeds[] = {
		{"0123456789abcdef0123456789abcdef", LANE_DEMAND, {1, 3, 0, 7}},
		{"0123456789abcdef0123456789abcdef", LANE_BULK, {1, 3, 2, 7}},
		{"0123456789abcdef0123456789abcdef", LANE_DEMAND, {1, 3, 0, 8}},
		{"0123456789abcdef0123456789abcdef", LANE_BULK, {1, 3, 1, 8}},
		{"0123456789abcdef0123456789abcdef", LANE_BULK, {1, 3, 2, 8}},
		{"0123456789abcdef0123456789abcdef", LANE_BULK, {0}},
		{"0123456789abcdef0123456789abcdef", LANE_DEMAND, {0}},
		{"0123456789abcdef0123456789abcdef", LANE_TRUNK, {0}},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(seeds) && (i + 1) * LANE_HELLO_BYTES <= cap; i++)
		lane_hello_make(&seeds[i], out + i * LANE_HELLO_BYTES);
	return i * LANE_HELLO_BYTES;
}

static void check_place(const struct lane_place *p, enum lane_kind kind)
{
	bool pages = kind == LANE_DEMAND || kind == LANE_BULK;

	if (!pages ? p->n != 0 : p->n < 2 || p->n > LANES_MAX || p->index >= p->n)
		abort();
	if (pages && (p->index == 0) != (kind == LANE_DEMAND))
		abort();
}

static void check_same(const uint8_t *in, const char *token, enum lane_kind kind,
		       const struct lane_place *p)
{
	const struct lane_call call = {token, kind, *p};
	uint8_t again[LANE_HELLO_BYTES];

	lane_hello_make(&call, again);
	if (memcmp(in, again, p->version ? LANE_HELLO_BYTES : LANE_VERSION_AT) != 0)
		abort();
}

static void check_whole(struct lane_set *set)
{
	struct lane_place before = set->used;
	struct lane lanes[LANES_MAX];
	size_t n = lane_set_take(set, lanes);
	const struct lane_place first = lanes[0].place;

	for (size_t i = 0; i < n; i++) {
		const struct lane_place *p = &lanes[i].place;

		if (lanes[i].in < 0 || p->index != i || p->n != n || p->set != first.set ||
		    !p->version != !first.version)
			abort();
		if (p->version && before.n && before.version && (int32_t)(p->set - before.set) < 0)
			abort();
		lane_close(&lanes[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char token[WIRE_TOKEN_CHARS + 1];
	struct lane_set set;

	lane_set_init(&set);
	for (; size >= LANE_HELLO_BYTES; data += LANE_HELLO_BYTES, size -= LANE_HELLO_BYTES) {
		struct lane lane = LANE_NONE;

		if (!lane_hello_parse(data, token, &lane.kind, &lane.place))
			continue;
		check_place(&lane.place, lane.kind);
		if (lane.place.n == 0)
			continue;
		check_same(data, token, lane.kind, &lane.place);
		lane.in = lane.out = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (lane_set_add(&set, &lane) && lane_set_whole(&set))
			check_whole(&set);
	}
	lane_set_drop(&set);
	return 0;
}

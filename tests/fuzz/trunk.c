// SPDX-License-Identifier: Apache-2.0
// Blocks of a trunk, as they come over its ways: nothing but what they say reaches the user, in their order, and a
// stream that has no end is a fault.
#include "wire/trunk.h"

#include "base/le.h"

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

enum { WAYS = 3, MOST_BYTES = 16384 };

/* What comes over one way. */
struct side {
	uint8_t bytes[MOST_BYTES];
	size_t n, at;
};

/* The input: pieces of a byte for the way, one for the length, and as many bytes. */
size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const uint8_t seed[] = {0,   7, 3, 0, 0, 0, 'a', 'b', 'c', 1, 5, 1, 0, 0, 0,
				       'd', 2, 6, 2, 0, 0, 0,   'e', 'f', 0, 4, 0, 0, 0, 0};

	if (cap < sizeof(seed))
		return 0;
	memcpy(out, seed, sizeof(seed));
	return sizeof(seed);
}

static void deal(struct side *sides, const uint8_t *data, size_t size)
{
	while (size >= 2) {
		struct side *s = &sides[data[0] % WAYS];
		size_t n = MIN((size_t)data[1], size - 2);

		n = MIN(n, MOST_BYTES - s->n);
		memcpy(s->bytes + s->n, data + 2, n);
		s->n += n;
		data += 2 + n;
		size -= 2 + n;
	}
}

/* What the blocks say; true: to their end. */
static bool read_blocks(struct side *sides, uint8_t *out, size_t *n_out)
{
	for (size_t way = 0;; way = (way + 1) % WAYS) {
		struct side *s = &sides[way];
		uint32_t n;

		if (s->n - s->at < 4)
			return false;
		n = get_le32(s->bytes + s->at);
		if (n == 0)
			return true;
		if (n > TRUNK_BLOCK_BYTES || s->n - s->at - 4 < n)
			return false;
		memcpy(out + *n_out, s->bytes + s->at + 4, n);
		*n_out += n;
		s->at += 4 + n;
	}
}

static size_t read_all(int fd, uint8_t *out, size_t cap)
{
	size_t got = 0;
	ssize_t n;

	while (got < cap && (n = read(fd, out + got, cap - got)) > 0)
		got += (size_t)n;
	return got;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct side sides[WAYS];
	static uint8_t wanted[WAYS * MOST_BYTES], got[WAYS * MOST_BYTES + 1];
	struct trunk_way ways[WAYS];
	size_t n_wanted = 0, n_got;
	int pair[WAYS][2], fd;
	struct trunk *t;
	struct err err;
	bool whole;

	memset(sides, 0, sizeof(sides));
	deal(sides, data, size);
	for (int i = 0; i < WAYS; i++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair[i]) ||
		    send(pair[i][1], sides[i].bytes, sides[i].n, MSG_NOSIGNAL) != (ssize_t)sides[i].n)
			abort();
		shutdown(pair[i][1], SHUT_WR);
		ways[i] = (struct trunk_way){.fd = pair[i][0]};
	}
	whole = read_blocks(sides, wanted, &n_wanted);
	t = trunk_open(ways, WAYS, &fd, &err);
	if (!t)
		abort();
	shutdown(fd, SHUT_WR);
	n_got = read_all(fd, got, sizeof(got));
	if (n_got > n_wanted || memcmp(got, wanted, n_got) != 0)
		abort();
	close(fd);
	for (int i = 0; i < WAYS; i++)
		close(pair[i][1]);
	/* another way may break before the end was seen */
	if (trunk_fault(t, &err) == 0 ? !whole || n_got != n_wanted : !strlen(err.text))
		abort();
	trunk_finish(t);
	return 0;
}

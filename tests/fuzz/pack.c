// SPDX-License-Identifier: Apache-2.0
// Packed messages as a peer may send them: nothing is read or written but what is there, and what is taken for right is
// within the limits. And what we pack ourselves comes out again.
#include "wire/pack.h"

#include "wire/msg.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

enum { SEED_PAGES = 6 };

size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static uint8_t pages[SEED_PAGES * PACK_PAGE_BYTES];
	uint8_t head[4] = {1, 2, 3, 4};
	const struct iovec pieces[] = {{head, sizeof(head)}, {pages, sizeof(pages)}};
	struct err err;
	struct packer *p = packer_create(&pack_messages, 1 << CODEC_LZ4, false, &err);
	struct iovec packed;
	size_t n = 0;

	for (size_t i = 0; i < 3 * PACK_PAGE_BYTES; i++)
		pages[i] = (uint8_t)(i / 50);
	memcpy(pages + (size_t)4 * PACK_PAGE_BYTES, pages, PACK_PAGE_BYTES);
	if (p && packer_pack(p, MSG_PAGES, pieces, 2, &packed) && packed.iov_len <= cap) {
		n = packed.iov_len;
		memcpy(out, packed.iov_base, n);
	}
	packer_free(p);
	return n;
}

/* The input as pages. */
static void there_and_back(struct unpacker *u, const uint8_t *data, size_t size)
{
	static struct packer *packers[2];
	size_t n = MIN(size / PACK_PAGE_BYTES, (size_t)PACK_PAGES_MAX) * PACK_PAGE_BYTES;
	const struct iovec pieces[] = {{(void *)data, size - n}, {(void *)(data + size - n), n}};
	struct iovec packed;
	struct frame f;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		if (!packers[i])
			packers[i] = packer_create(&pack_messages,
						   i ? 1 << CODEC_ZSTD : 1 << CODEC_LZ4, false, &err);
		if (!packers[i])
			abort();
		if (!n || !packer_pack(packers[i], MSG_PAGES, pieces, 2, &packed))
			continue;
		if (unpack(u, packed.iov_base, packed.iov_len, &f, &err) || f.bytes != size ||
		    memcmp(f.body, data, size) != 0)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct unpacker *u;
	struct frame f;
	struct err err;

	if (!u)
		u = unpacker_create(&pack_messages, &err);
	if (!u)
		abort();
	if (unpack(u, data, size, &f, &err) == 0) {
		uint8_t sum = 0;

		if (f.bytes > PACK_RAW_MAX)
			abort();
		for (size_t i = 0; i < f.bytes; i++)
			sum ^= f.body[i];
		/* all of it is there to be read */
		if (sum == 1 && f.bytes == 0)
			abort();
	}
	there_and_back(u, data, size);
	return 0;
}

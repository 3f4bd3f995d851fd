// SPDX-License-Identifier: Apache-2.0
// Requests of the page-server protocol: what is accepted is within limits and encodes to the same bytes.
#include "mem/ps_wire.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

/* Three pages, packed. */
static size_t seed_packed(uint8_t *out, size_t cap)
{
	static uint8_t pages[3 * PAGE_BYTES];
	struct iovec piece = {pages, sizeof(pages)}, packed;
	struct err err;
	struct packer *p = packer_create(&ps_pack_types, 1 << CODEC_LZ4, false, &err);
	struct ps_request r = {.cmd = PS_PACKED, .nr_pages = 3, .vaddr = 0x7000, .dst_id = 30};
	size_t n = 0;

	for (size_t i = 0; i < PAGE_BYTES; i++)
		pages[i] = (uint8_t)(i / 50);
	if (p && packer_pack(p, PS_ADD_F, &piece, 1, &packed) &&
	    PS_REQUEST_BYTES + packed.iov_len <= cap) {
		r.packed_bytes = (uint32_t)packed.iov_len;
		ps_encode(&r, out);
		memcpy(out + PS_REQUEST_BYTES, packed.iov_base, packed.iov_len);
		n = PS_REQUEST_BYTES + packed.iov_len;
	}
	packer_free(p);
	return n;
}

/* One request of each kind behind each other. */
size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const struct ps_request seeds[] = {
		{.cmd = PS_OPEN2, .dst_id = 0x1e01},
		{.cmd = PS_PARENT, .dst_id = 0x1c8202},
		{.cmd = PS_ADD_F, .flags = 4, .nr_pages = 256, .vaddr = 0x400000, .dst_id = 0x1e01},
		{.cmd = PS_ADD, .nr_pages = 1, .vaddr = 0x7fffffffe000, .dst_id = 0x1e01},
		{.cmd = PS_GET, .nr_pages = 16, .vaddr = 0x1000, .dst_id = 30},
		{.cmd = PS_CLOSE},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(seeds) && (i + 1) * PS_REQUEST_BYTES <= cap; i++)
		ps_encode(&seeds[i], out + i * PS_REQUEST_BYTES);
	return i * PS_REQUEST_BYTES +
	       seed_packed(out + i * PS_REQUEST_BYTES, cap - i * PS_REQUEST_BYTES);
}

static void check(const uint8_t *in)
{
	uint8_t again[PS_REQUEST_BYTES];
	struct ps_object object;
	struct ps_request r;
	struct err err;
	char name[16];
	uint32_t pid;

	if (ps_decode(in, &r, &err)) {
		if (!strlen(err.text) || strlen(ps_cmd_name(r.cmd, name)) == 0)
			abort();
		return;
	}
	ps_encode(&r, again);
	memcpy(again + 4, in + 4, 4); /* unused */
	if (memcmp(in, again, sizeof(again)))
		abort();
	if (ps_data_bytes(&r) && (r.vaddr + ps_data_bytes(&r) > PS_VADDR_END || r.vaddr % PAGE_BYTES))
		abort();
	if (ps_object_of(r.dst_id, &object, &err) == 0 && (object.id == 0 && !object.shmem))
		abort();
	if (ps_pid_of(r.dst_id, &pid, &err) == 0 && pid != r.dst_id)
		abort();
}

/* What only ferries say to each other, with what follows it. */
static void check_packed(const uint8_t *data, size_t size)
{
	static struct unpacker *unpacker;
	uint8_t again[PS_REQUEST_BYTES];
	struct ps_request r;
	struct frame inside;
	struct err err;

	if (!unpacker)
		unpacker = unpacker_create(&ps_pack_types, &err);
	if (!unpacker)
		abort();
	if (ps_decode_ferry(data, &r, &err) || r.cmd != PS_PACKED)
		return;
	ps_encode(&r, again);
	if (memcmp(data, again, sizeof(again)) || ps_data_bytes(&r) >= r.nr_pages * PAGE_BYTES)
		abort();
	if (ps_decode(data, &r, &err) == 0)
		abort();
	if (size - PS_REQUEST_BYTES < r.packed_bytes)
		return;
	if (unpack(unpacker, data + PS_REQUEST_BYTES, r.packed_bytes, &inside, &err) == 0 &&
	    (inside.type != PS_ADD_F || inside.bytes > PACK_RAW_MAX))
		abort();
}

/* Cut into pieces, all of it is there, and none is empty for ever. */
static void check_cut(const uint8_t *data, size_t size)
{
	uint64_t state = 0;
	size_t n;

	while (size >= PS_PIECE_BYTES) {
		n = ps_cut(&state, data, size);
		if (n == 0 || n > size)
			abort();
		data += n;
		size -= n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_cut(data, size);
	for (; size >= PS_REQUEST_BYTES; data += PS_REQUEST_BYTES, size -= PS_REQUEST_BYTES) {
		check(data);
		check_packed(data, size);
	}
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * With the instruction of SSE 4.2 (8 bytes in 3 cycles: several GB/s), or with a table where the
 * processor has none.
 */
#include "base/crc32c.h"

#include <nmmintrin.h>
#include <string.h>

/* The remainders of the 16 half bytes, polynomial 0x1EDC6F41 reflected. */
static const uint32_t half_bytes[16] = {
	0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
	0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t by_table(uint32_t crc, const uint8_t *p, size_t bytes)
{
	for (; bytes; bytes--, p++) {
		crc ^= *p;
		crc = crc >> 4 ^ half_bytes[crc & 15];
		crc = crc >> 4 ^ half_bytes[crc & 15];
	}
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p,
								 size_t bytes)
{
	uint64_t crc64 = crc, word;

	for (; bytes >= sizeof(word); bytes -= sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		crc64 = _mm_crc32_u64(crc64, word);
	}
	crc = (uint32_t)crc64;
	for (; bytes; bytes--, p++)
		crc = _mm_crc32_u8(crc, *p);
	return crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
	crc = ~crc;
	crc = __builtin_cpu_supports("sse4.2") ? by_instruction(crc, data, bytes) :
						 by_table(crc, data, bytes);
	return ~crc;
}

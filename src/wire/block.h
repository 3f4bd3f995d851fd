// SPDX-License-Identifier: Apache-2.0
/*
 * Blocks: how images follow each other on a stream that cannot seek (a pipe, a
 * socket, an object in somebody's store). No I/O here.
 *
 *	stream:    preamble, block, block, ... until BLOCK_COMPLETE
 *	preamble:  "\x8c" "FERRY\r\n" (8), u16 version, u16 the lowest version that a
 *	           reader must know, u32 checksum of these 12
 *	block:     u16 type, u16 form, u32 bytes of the body, u32 its bytes before it was
 *	           packed, u32 sequence number, u32 checksum of the body, u32 checksum
 *	           of these 20; then the body
 *
 * Numbers are little endian, checksums are CRC-32C. The magic has a byte that
 * is no text and a line end, so that what treats it as text is found out. A
 * sequence number from 0 up finds blocks that were lost, repeated or swapped. ferry-images(5)
 * has the bodies. The form, which version 2 has brought, is a set of BLOCK_PACKED, the body is that of pack.h and its
 * checksum that of what travels, and BLOCK_UNSUMMED, for a stream of which something else
 * sees to it that it does not change on its way: there is no checksum of the body.
 */
#ifndef FERRY_WIRE_BLOCK_H
#define FERRY_WIRE_BLOCK_H

#include "base/attrs.h"
#include "base/err.h"
#include "wire/pack.h"

#include <stdint.h>

enum {
	BLOCK_VERSION = 2,       /* what we write */
	BLOCK_VERSION_FORMS = 2, /* who reads blocks with a form must know this one */
	BLOCK_VERSION_PLAIN = 1, /* who reads others, this one */
	BLOCK_PACKED = 1,
	BLOCK_UNSUMMED = 2,
	BLOCK_PREAMBLE_BYTES = 16,
	BLOCK_HEADER_BYTES = 24,
	BLOCK_NAME_MAX = 128,
	BLOCK_DATA_MAX = 1 << 20, /* of images, in one block */
	BLOCK_FIXED_MAX = 2 + 8 + BLOCK_NAME_MAX,
	BLOCK_BODY_MAX = BLOCK_DATA_MAX + BLOCK_FIXED_MAX,
	BLOCK_HEAD_MAX = BLOCK_HEADER_BYTES + BLOCK_FIXED_MAX,
	BLOCK_TEXT_MAX = 1000,
};

/* Numbers are on the wire and never reused. In brackets: the fields of struct block that travel. */
enum block_type {
	/* the writer of a snapshot */
	BLOCK_SNAPSHOT = 1, /* [name] first of all: what it is called, perhaps empty */
	BLOCK_OBJECT = 2, /* [name, bytes, data] an image, or its first piece; @bytes is all of it */
	BLOCK_MORE = 3,   /* [data] of the same image */
	BLOCK_PAGES = 4,  /* [id, off, data] */
	BLOCK_ZEROS = 5,  /* [id, off, bytes] as many bytes of pages, all zero */
	BLOCK_PAGES_END = 6, /* [id, off] no more pages of this id; @off is their size */
	BLOCK_SKIP = 7,      /* [name] this image will not come */
	BLOCK_COMPLETE = 8,  /* [bytes] nothing more will come; @bytes of images and pages did */
	BLOCK_FAIL = 9, /* [data] gives up, and why; also an answer; zero and one behind it: it is passed on */
	BLOCK_PARENT = 10, /* [off, name] it builds on this snapshot, whose identity is @off; before all images */
	/* the reader of a relay, and its answers (with 2 to 5) */
	BLOCK_OPEN = 16,      /* [name] the snapshot that is wanted */
	BLOCK_GET = 17,       /* [name] an image; answer: OBJECT and MORE, or SKIP, or FAIL */
	BLOCK_GET_PAGES = 18, /* [id, off, bytes] answer: PAGES and ZEROS, or FAIL */
	BLOCK_WAIT = 19,      /* [] until it is complete; answer: COMPLETE or FAIL */
	BLOCK_DONE = 20,      /* [] the tree runs: it may be forgotten; answer: COMPLETE */
	BLOCK_LEVEL = 22, /* [id] what follows is asked of the snapshot, 0, of the one that it builds on, 1, ...; answer: COMPLETE; SKIP: it builds on none */
	BLOCK_READ_PAGES = 21, /* [id, off, bytes] at most; answer: COMPLETE with how many, and they; SKIP: no such pages; FAIL */
};

struct block {
	enum block_type type;
	char name[BLOCK_NAME_MAX + 1];
	uint32_t id;
	uint64_t off, bytes;
	const uint8_t *data; /* n_data bytes, not owned */
	size_t n_data;
};

/* What the header of a block says. */
struct block_header {
	uint16_t type, form;
	uint32_t body_bytes, raw_bytes, seq, body_crc;
};

/* @lowest: the version that a reader must know. */
void block_preamble(uint16_t lowest, uint8_t out[BLOCK_PREAMBLE_BYTES]);
/* Is it one, and of a version that we know? -1 says which of these it is not. *version_out: what its writer knows. */
int block_check_preamble(const uint8_t in[BLOCK_PREAMBLE_BYTES], uint16_t *version_out,
			 struct err *err) must_check;

/*
 * The header and the fields before the data into @head; the data follows as it is. Returns
 * the bytes of @head. The caller keeps to the limits above. @form: 0 or BLOCK_UNSUMMED.
 */
size_t block_encode(const struct block *b, uint32_t seq, uint16_t form, uint8_t head[BLOCK_HEAD_MAX]);

/* Blocks whose data may be packed, and their body in the two pieces that are: the fields, at @fields, and the data. */
extern const struct pack_types pack_blocks;
void block_pieces(const struct block *b, uint8_t fields[BLOCK_FIXED_MAX], struct iovec out[2]);

/* The header of a block of which @packed was made, of @raw_bytes. The body that follows is @packed. */
void block_encode_packed(const struct block *b, uint32_t seq, uint16_t form,
			 const struct iovec *packed, size_t raw_bytes,
			 uint8_t head[BLOCK_HEADER_BYTES]);

/* Header checksum, sequence number, type and size: -1 if a reader cannot go on from here. */
int block_header(const uint8_t in[BLOCK_HEADER_BYTES], uint32_t seq, struct block_header *out,
		 struct err *err) must_check;

/*
 * The body of a packed block: its checksum, then what is inside to @to, BLOCK_BODY_MAX bytes, which is
 * for block_decode.
 */
int block_unpack(const struct block_header *h, struct unpacker *u, const uint8_t *packed,
		 uint8_t *to, struct err *err) must_check;

/* The body of a checked header, unpacked if it was packed; out->data points into it. */
int block_decode(const struct block_header *h, const uint8_t *body, struct block *out,
		 struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Messages (MSG_PACKED) and blocks of a stream (block.h) made smaller: of their pages those that are zero, or the same
 * as one before, are only named, and the rest is compressed. No I/O here. The body of a packed one, numbers little
 * endian:
 *
 *	u16 type of what is inside, u8 codec, u8 zero
 *	u32 bytes of its head: what precedes the pages
 *	u16 pages
 *	for each page a u16: PACK_LITERAL, PACK_ZERO, or the number of an earlier literal page that it equals
 *	the head and the literal pages, compressed as one
 *
 * Which codec is worth while is measured (struct packer): on a link that is faster than the codec
 * everything goes as it is.
 */
#ifndef FERRY_WIRE_PACK_H
#define FERRY_WIRE_PACK_H

#include "base/attrs.h"
#include "base/err.h"
#include "wire/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

enum {
	PACK_PAGE_BYTES = 4096,
	PACK_PAGES_MAX = 256,
	PACK_RAW_MAX = (PACK_PAGES_MAX * PACK_PAGE_BYTES) + 64, /* of what is inside */
	PACK_FIXED_BYTES = 10,
	PACK_LITERAL = 0xffff,
	PACK_ZERO = 0xfffe,
	/* no message is packed that does not become smaller */
	PACK_BODY_MAX = PACK_RAW_MAX,
};

/* On the wire; sets of them are bits 1 << codec. */
enum codec { CODEC_NONE = 0, CODEC_LZ4 = 1, CODEC_ZSTD = 2, CODECS };

/* Those that this program knows. */
enum { PACK_CODECS = 1 << CODEC_LZ4 | 1 << CODEC_ZSTD };

const char *codec_name(enum codec codec);

/* What a user wants. */
enum compress { COMPRESS_AUTO, COMPRESS_NONE, COMPRESS_LZ4, COMPRESS_ZSTD };

extern const char *const compress_words[]; /* by enum compress; the last one is NULL */

/* The codecs that this allows. */
unsigned int compress_codecs(enum compress compress);

/* Which types of messages, or of blocks, can be inside, and which of these end with pages. */
struct pack_types {
	bool (*can_be_packed)(uint16_t type);
	bool (*has_pages)(uint16_t type);
};

extern const struct pack_types pack_messages;

/* ---- making them smaller ---- */

struct packer;

/*
 * @codecs: those that may be used. With more than one, or with @measure, the one is used that is worth
 * while; else it is always used.
 */
struct packer *packer_create(const struct pack_types *types, unsigned int codecs, bool measure,
			     struct err *err) must_check;
void packer_free(struct packer *p); /* NULL allowed */

/*
 * The body of a message or block of @type, of which the last piece holds pages if that type does. 1: *out is a packed
 * body instead, valid until the next call; 0: it goes as it is.
 */
int packer_pack(struct packer *p, uint16_t type, const struct iovec *pieces, size_t n,
		struct iovec *out);

/*
 * The message went: so many bytes took so long to write, and the link was full meanwhile, or took them at
 * once. 0 bytes: it waits for others, and nothing is known.
 */
void packer_sent(struct packer *p, size_t bytes, uint64_t ns, bool full);

/* What the link takes for a byte, in nanoseconds, as far as it was measured; 0: nothing is known. NULL allowed. */
double packer_link_ns(const struct packer *p);

struct pack_totals {
	uint64_t raw_bytes, sent_bytes; /* of messages that could be packed */
	uint64_t messages[CODECS];      /* by how they went */
};

void packer_totals(const struct packer *p, struct pack_totals *out);
/* Logs them, as those of @what; nothing if @p is NULL. */
void packer_log(const struct packer *p, const char *what);

/* ---- and back ---- */

struct unpacker;

struct unpacker *unpacker_create(const struct pack_types *types, struct err *err) must_check;
void unpacker_free(struct unpacker *u); /* NULL allowed */

/* What is inside, valid until the next call. @bytes are any that a peer may have sent. -1, EPROTO. */
int unpack(struct unpacker *u, const uint8_t *body, size_t bytes, struct frame *out, struct err *err)
	must_check;

/* The same, into memory of the caller's, PACK_RAW_MAX bytes of it. */
int unpack_into(struct unpacker *u, const uint8_t *body, size_t bytes, uint8_t *to,
		struct frame *out, struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
#include "wire/block.h"

#include "base/crc32c.h"
#include "base/le.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const uint8_t magic[8] = {0x8c, 'F', 'E', 'R', 'R', 'Y', '\r', '\n'};

_Static_assert(BLOCK_BODY_MAX + 0 >= PACK_RAW_MAX + 0, "whatever is unpacked has room");
_Static_assert(PACK_BODY_MAX + 0 <= BLOCK_BODY_MAX + 0,
	       "a packed body is no longer than one that is not");

/* Which fields a type has, in the order in which they travel: id, off, bytes, name, data. */
static const struct {
	bool known, id, off, bytes, name, data;
} fields[] = {
	[BLOCK_SNAPSHOT] = {.known = true, .name = true},
	[BLOCK_OBJECT] = {.known = true, .bytes = true, .name = true, .data = true},
	[BLOCK_MORE] = {.known = true, .data = true},
	[BLOCK_PAGES] = {.known = true, .id = true, .off = true, .data = true},
	[BLOCK_ZEROS] = {.known = true, .id = true, .off = true, .bytes = true},
	[BLOCK_PAGES_END] = {.known = true, .id = true, .off = true},
	[BLOCK_SKIP] = {.known = true, .name = true},
	[BLOCK_COMPLETE] = {.known = true, .bytes = true},
	[BLOCK_FAIL] = {.known = true, .data = true},
	[BLOCK_PARENT] = {.known = true, .off = true, .name = true},
	[BLOCK_OPEN] = {.known = true, .name = true},
	[BLOCK_GET] = {.known = true, .name = true},
	[BLOCK_GET_PAGES] = {.known = true, .id = true, .off = true, .bytes = true},
	[BLOCK_WAIT] = {.known = true},
	[BLOCK_DONE] = {.known = true},
	[BLOCK_LEVEL] = {.known = true, .id = true},
	[BLOCK_READ_PAGES] = {.known = true, .id = true, .off = true, .bytes = true},
};

/* ---- the preamble ---- */

void block_preamble(uint16_t lowest, uint8_t out[BLOCK_PREAMBLE_BYTES])
{
	memcpy(out, magic, sizeof(magic));
	put_le16(out + 8, BLOCK_VERSION);
	put_le16(out + 10, lowest);
	put_le32(out + 12, crc32c(0, out, 12));
}

/* Often it is known what else there is: an error message, a compressed stream. */
static int not_a_stream(const uint8_t *in, struct err *err)
{
	char text[BLOCK_PREAMBLE_BYTES + 1];
	size_t i;

	for (i = 0; i < BLOCK_PREAMBLE_BYTES && isprint(in[i]); i++)
		text[i] = (char)in[i];
	text[i] = '\0';
	if (i >= 4)
		return err_set(err, EPROTO, "this is no stream of images: it begins with '%s'", text);
	return err_set(err, EPROTO,
		       "this is no stream of images: it begins with %02x %02x %02x %02x (is it "
		       "compressed or encrypted?)",
		       in[0], in[1], in[2], in[3]);
}

int block_check_preamble(const uint8_t in[BLOCK_PREAMBLE_BYTES], uint16_t *version_out,
			 struct err *err)
{
	if (memcmp(in, magic, sizeof(magic)) != 0)
		return not_a_stream(in, err);
	if (get_le32(in + 12) != crc32c(0, in, 12))
		return err_set(err, EBADMSG, "the first bytes of the stream are damaged");
	if (get_le16(in + 10) > BLOCK_VERSION)
		return err_set(err, EPROTONOSUPPORT,
			       "the stream is of version %u, of which one must know version %u at least; "
			       "this ferry knows up to %u: use a newer one",
			       get_le16(in + 8), get_le16(in + 10), BLOCK_VERSION);
	*version_out = get_le16(in + 8);
	return 0;
}

/* ---- blocks ---- */

/* The fields before the data. Returns their end. */
static uint8_t *put_fields(const struct block *b, uint8_t *p)
{
	size_t name_bytes = strlen(b->name);

	if (fields[b->type].id)
		p = put_le32(p, b->id);
	if (fields[b->type].off)
		p = put_le64(p, b->off);
	if (fields[b->type].bytes)
		p = put_le64(p, b->bytes);
	if (fields[b->type].name) {
		p = put_le16(p, (uint16_t)name_bytes);
		memcpy(p, b->name, name_bytes);
		p += name_bytes;
	}
	return p;
}

static void put_header(const struct block_header *h, uint8_t *head)
{
	put_le16(head, h->type);
	put_le16(head + 2, h->form);
	put_le32(head + 4, h->body_bytes);
	put_le32(head + 8, h->raw_bytes);
	put_le32(head + 12, h->seq);
	put_le32(head + 16, h->body_crc);
	put_le32(head + 20, crc32c(0, head, 20));
}

size_t block_encode(const struct block *b, uint32_t seq, uint16_t form, uint8_t head[BLOCK_HEAD_MAX])
{
	uint8_t *body = head + BLOCK_HEADER_BYTES;
	size_t fixed = (size_t)(put_fields(b, body) - body);
	struct block_header h = {.type = (uint16_t)b->type, .form = form, .seq = seq};

	h.body_bytes = h.raw_bytes = (uint32_t)(fixed + b->n_data);
	if (!(form & BLOCK_UNSUMMED))
		h.body_crc = crc32c(crc32c(0, body, fixed), b->data, b->n_data);
	put_header(&h, head);
	return BLOCK_HEADER_BYTES + fixed;
}

static bool block_has_pages(uint16_t type)
{
	return type == BLOCK_PAGES;
}

static bool block_can_be_packed(uint16_t type)
{
	return type == BLOCK_PAGES || type == BLOCK_OBJECT || type == BLOCK_MORE;
}

const struct pack_types pack_blocks = {block_can_be_packed, block_has_pages};

void block_pieces(const struct block *b, uint8_t fixed[BLOCK_FIXED_MAX], struct iovec out[2])
{
	out[0] = (struct iovec){fixed, (size_t)(put_fields(b, fixed) - fixed)};
	out[1] = (struct iovec){(void *)b->data, b->n_data};
}

void block_encode_packed(const struct block *b, uint32_t seq, uint16_t form,
			 const struct iovec *packed, size_t raw_bytes,
			 uint8_t head[BLOCK_HEADER_BYTES])
{
	struct block_header h = {.type = (uint16_t)b->type,
				 .form = form | BLOCK_PACKED,
				 .body_bytes = (uint32_t)packed->iov_len,
				 .raw_bytes = (uint32_t)raw_bytes,
				 .seq = seq};

	if (!(form & BLOCK_UNSUMMED))
		h.body_crc = crc32c(0, packed->iov_base, packed->iov_len);
	put_header(&h, head);
}

/* Is what the header says of its form possible? */
static int check_form(const struct block_header *h, struct err *err)
{
	bool packed = h->form & BLOCK_PACKED;

	if (h->form > (BLOCK_PACKED | BLOCK_UNSUMMED) || (!packed && h->raw_bytes != h->body_bytes))
		return err_set(err, EPROTONOSUPPORT,
			       "block %u of the stream has form %u, which this ferry does not know",
			       h->seq, h->form);
	if (packed && (!block_can_be_packed(h->type) || h->raw_bytes > PACK_RAW_MAX ||
		       h->body_bytes >= h->raw_bytes))
		return err_set(err, EPROTO,
			       "block %u of the stream (type %u) cannot be compressed so", h->seq,
			       h->type);
	return 0;
}

int block_header(const uint8_t in[BLOCK_HEADER_BYTES], uint32_t seq, struct block_header *out,
		 struct err *err)
{
	*out = (struct block_header){
		.type = get_le16(in),
		.form = get_le16(in + 2),
		.body_bytes = get_le32(in + 4),
		.raw_bytes = get_le32(in + 8),
		.seq = get_le32(in + 12),
		.body_crc = get_le32(in + 16),
	};
	if (get_le32(in + 20) != crc32c(0, in, 20))
		return err_set(err, EBADMSG, "block %u of the stream is damaged (its header)", seq);
	if (out->seq != seq)
		return err_set(err, EBADMSG,
			       "block %u of the stream is missing: block %u came instead", seq,
			       out->seq);
	if (out->type >= ARRAY_SIZE(fields) || !fields[out->type].known)
		return err_set(err, EPROTONOSUPPORT,
			       "block %u of the stream is of type %u, which this ferry does not know",
			       seq, out->type);
	if (check_form(out, err))
		return -1;
	if (out->body_bytes > BLOCK_BODY_MAX)
		return err_set(err, EMSGSIZE, "block %u of the stream has %u bytes, more than %u",
			       seq, out->body_bytes, BLOCK_BODY_MAX);
	return 0;
}

/* Takes @n bytes of the body; NULL: it has fewer. */
static const uint8_t *take(const uint8_t **at, const uint8_t *end, size_t n)
{
	const uint8_t *p = *at;

	if ((size_t)(end - p) < n)
		return NULL;
	*at += n;
	return p;
}

static bool decode_numbers(struct block *b, const uint8_t **at, const uint8_t *end)
{
	const uint8_t *p;

	if (fields[b->type].id) {
		p = take(at, end, sizeof(uint32_t));
		if (!p)
			return false;
		b->id = get_le32(p);
	}
	if (fields[b->type].off) {
		p = take(at, end, sizeof(uint64_t));
		if (!p)
			return false;
		b->off = get_le64(p);
	}
	if (fields[b->type].bytes) {
		p = take(at, end, sizeof(uint64_t));
		if (!p)
			return false;
		b->bytes = get_le64(p);
	}
	/* offsets and sizes of files: sums of two do not overflow */
	return b->off <= INT64_MAX && b->bytes <= INT64_MAX;
}

static bool decode_name(struct block *b, const uint8_t **at, const uint8_t *end)
{
	const uint8_t *p = take(at, end, sizeof(uint16_t));
	size_t n = p ? get_le16(p) : 0;

	if (!p || n > BLOCK_NAME_MAX)
		return false;
	p = take(at, end, n);
	if (!p || memchr(p, '\0', n))
		return false;
	memcpy(b->name, p, n);
	b->name[n] = '\0';
	return true;
}

static int check_body(const struct block_header *h, const uint8_t *body, struct err *err)
{
	if (!(h->form & BLOCK_UNSUMMED) && h->body_crc != crc32c(0, body, h->body_bytes))
		return err_set(err, EBADMSG, "block %u of the stream is damaged", h->seq);
	return 0;
}

int block_unpack(const struct block_header *h, struct unpacker *u, const uint8_t *packed,
		 uint8_t *to, struct err *err)
{
	struct frame inside;

	if (check_body(h, packed, err))
		return -1;
	if (unpack_into(u, packed, h->body_bytes, to, &inside, err))
		return err_wrap(err, "block %u of the stream", h->seq);
	if (inside.type != h->type || inside.bytes != h->raw_bytes)
		return err_set(err, EPROTO, "block %u of the stream does not hold what it says",
			       h->seq);
	return 0;
}

int block_decode(const struct block_header *h, const uint8_t *body, struct block *out, struct err *err)
{
	const uint8_t *at = body, *end = body + h->raw_bytes;

	*out = (struct block){.type = (enum block_type)h->type};
	if (!(h->form & BLOCK_PACKED) && check_body(h, body, err))
		return -1;
	if (!decode_numbers(out, &at, end) || (fields[h->type].name && !decode_name(out, &at, end)))
		return err_set(err, EPROTO, "block %u of the stream (type %u) makes no sense",
			       h->seq, h->type);
	out->data = at;
	out->n_data = (size_t)(end - at);
	if (out->n_data > (fields[h->type].data ? BLOCK_DATA_MAX : 0))
		return err_set(err, EPROTO, "block %u of the stream (type %u) has %zu bytes too many",
			       h->seq, h->type, out->n_data);
	return 0;
}

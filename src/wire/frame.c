// SPDX-License-Identifier: Apache-2.0
#include "wire/frame.h"

#include "base/le.h"

#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

/* Room for many small frames, or for the head of a large one. */
enum { FIRST_ROOM = 64 * 1024 };

void frame_reader_init(struct frame_reader *r, frame_limit limit)
{
	*r = (struct frame_reader){.limit = limit};
}

void frame_reader_finish(struct frame_reader *r)
{
	free(r->buf);
	*r = (struct frame_reader){.limit = r->limit};
}

/* Bytes of the frame at the start, header included; FRAME_HEADER_BYTES as long as its header is incomplete. */
static size_t frame_bytes(const struct frame_reader *r)
{
	if (r->end - r->start < FRAME_HEADER_BYTES)
		return FRAME_HEADER_BYTES;
	return FRAME_HEADER_BYTES + (size_t)get_le32(r->buf + r->start);
}

/* A first word that is text comes from a login script or an error message of the shell. */
static int not_a_frame(const struct frame_reader *r, struct err *err)
{
	const uint8_t *p = r->buf + r->start;
	size_t n = MIN(r->end - r->start, (size_t)60);
	char text[64];
	size_t i;

	for (i = 0; i < n && (isprint(p[i]) || p[i] == '\t'); i++)
		text[i] = (char)p[i];
	text[i] = '\0';
	if (i >= FRAME_HEADER_BYTES)
		return err_set(err, EPROTO,
			       "the answer is not of a ferry agent; it begins with '%s'", text);
	return err_set(err, EPROTO, "the answer is not of a ferry agent (type %u, %u bytes)",
		       get_le16(p + 4), get_le32(p));
}

int frame_peek(struct frame_reader *r, struct frame *out, struct err *err)
{
	size_t have = r->end - r->start;
	const uint8_t *p;
	int64_t limit;

	if (have < FRAME_HEADER_BYTES)
		return 0; /* perhaps there is no buffer yet */
	p = r->buf + r->start;
	out->type = get_le16(p + 4);
	out->bytes = get_le32(p);
	limit = r->limit(out->type);
	if (limit < 0 || get_le16(p + 6) != 0)
		return not_a_frame(r, err);
	if ((int64_t)out->bytes > limit)
		return err_set(err, EMSGSIZE, "message of type %u: %zu bytes are more than %lld",
			       out->type, out->bytes, (long long)limit);
	if (have - FRAME_HEADER_BYTES < out->bytes)
		return 0;
	out->body = p + FRAME_HEADER_BYTES;
	return 1;
}

int frame_next(struct frame_reader *r, struct frame *out, struct err *err)
{
	int rc = frame_peek(r, out, err);

	if (rc == 1)
		r->start += FRAME_HEADER_BYTES + out->bytes;
	return rc;
}

/* Moves what is unread to the front of the buffer and makes it at least @want bytes large. */
static int make_room(struct frame_reader *r, size_t want)
{
	uint8_t *bigger;

	if (r->start) {
		memmove(r->buf, r->buf + r->start, r->end - r->start);
		r->end -= r->start;
		r->start = 0;
	}
	if (r->cap >= want)
		return 0;
	bigger = realloc(r->buf, want);
	if (!bigger)
		return -1;
	r->buf = bigger;
	r->cap = want;
	return 0;
}

uint8_t *frame_reader_space(struct frame_reader *r, size_t *room_out)
{
	size_t want = MAX(r->buf ? frame_bytes(r) : 0, (size_t)FIRST_ROOM);

	/* frame_peek has refused what is over the limit before anybody asks for more room */
	if (r->cap - r->end < FIRST_ROOM / 2 || r->cap - r->start < want) {
		if (make_room(r, want) < 0)
			return NULL;
	}
	*room_out = r->cap - r->end;
	return *room_out ? r->buf + r->end : NULL;
}

void frame_reader_fed(struct frame_reader *r, size_t bytes)
{
	r->end += bytes;
}

void frame_header(uint8_t out[FRAME_HEADER_BYTES], uint16_t type, uint32_t bytes)
{
	uint32_t length = htole32(bytes);
	uint16_t le_type = htole16(type);

	memcpy(out, &length, 4);
	memcpy(out + 4, &le_type, 2);
	memset(out + 6, 0, 2);
}

// SPDX-License-Identifier: Apache-2.0
#include "wire/streamer.h"

#include "base/le.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How protobuf writes a field down: the low bits of its tag. */
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

enum { FIELD_NAME = 1, FIELD_EXISTS = 1 };

/* What is left of a message. */
struct rest {
	const uint8_t *p, *end;
};

static bool take_varint(struct rest *r, uint64_t *out)
{
	unsigned int shift = 0;
	uint8_t byte;

	*out = 0;
	do {
		if (r->p == r->end || shift > 63)
			return false;
		byte = *r->p++;
		*out |= (uint64_t)(byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	return true;
}

/* The value of a field: its bytes, where it has some, are passed over. */
static bool take_value(struct rest *r, unsigned int how, const uint8_t **bytes_out, uint64_t *n_out)
{
	*bytes_out = NULL;
	switch (how) {
	case WIRE_VARINT:
		return take_varint(r, n_out);
	case WIRE_FIXED64:
	case WIRE_FIXED32:
		*n_out = how == WIRE_FIXED64 ? 8 : 4;
		break;
	case WIRE_BYTES:
		if (!take_varint(r, n_out))
			return false;
		break;
	default:
		return false;
	}
	if (*n_out > (uint64_t)(r->end - r->p))
		return false;
	*bytes_out = r->p;
	r->p += *n_out;
	return true;
}

int streamer_body_bytes(const uint8_t head[STREAMER_HEAD_BYTES], size_t *bytes_out, struct err *err)
{
	uint32_t bytes = get_le32(head);

	if (!bytes || bytes > STREAMER_BODY_MAX)
		return err_set(err, EPROTO, "a request of %u bytes came; one has 1 to %d", bytes,
			       STREAMER_BODY_MAX);
	*bytes_out = bytes;
	return 0;
}

int streamer_request(const uint8_t *body, size_t bytes, char name[STREAMER_NAME_MAX + 1],
		     struct err *err)
{
	struct rest r = {body, body + bytes};
	const uint8_t *value;
	uint64_t tag, n;
	bool found = false;

	while (r.p < r.end) {
		if (!take_varint(&r, &tag) || !take_value(&r, tag & 7, &value, &n))
			return err_set(err, EPROTO, "a request came that is damaged");
		if (tag >> 3 != FIELD_NAME)
			continue;
		if ((tag & 7) != WIRE_BYTES || n > STREAMER_NAME_MAX || memchr(value, '\0', n))
			return err_set(err, EPROTO, "a request came for what is not a name");
		memcpy(name, value, n);
		name[n] = '\0';
		found = true;
	}
	return found ? 0 : err_set(err, EPROTO, "a request came without a name");
}

void streamer_reply(bool exists, uint8_t out[STREAMER_REPLY_BYTES])
{
	put_le32(out, 2);
	out[4] = FIELD_EXISTS << 3 | WIRE_VARINT;
	out[5] = exists;
}

bool streamer_is_pages(const char *name, uint32_t *id_out)
{
	char again[sizeof("pages-4294967295.img")];
	unsigned long id;

	if (strncmp(name, "pages-", 6) != 0)
		return false;
	id = strtoul(name + 6, NULL, 10);
	if (id > UINT32_MAX)
		return false;
	/* nothing but the one way to write the number */
	snprintf(again, sizeof(again), "pages-%lu.img", id);
	*id_out = (uint32_t)id;
	return !strcmp(again, name);
}

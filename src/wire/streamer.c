// SPDX-License-Identifier: Apache-2.0
#include "wire/streamer.h"

#include "base/le.h"
#include "img-streamer.pb-c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	ImgStreamerRequestEntry *request = img_streamer_request_entry__unpack(NULL, bytes, body);
	bool is_name;

	if (!request)
		return err_set(err, EPROTO, "a request came that is damaged, or without a name");
	/* a name has no zero byte, and nothing else of a request has one */
	is_name = strlen(request->filename) <= STREAMER_NAME_MAX && !memchr(body, '\0', bytes);
	if (is_name)
		strcpy(name, request->filename);
	img_streamer_request_entry__free_unpacked(request, NULL);
	return is_name ? 0 : err_set(err, EPROTO, "a request came for what is not a name");
}

void streamer_reply(bool exists, uint8_t out[STREAMER_REPLY_BYTES])
{
	ImgStreamerReplyEntry reply = IMG_STREAMER_REPLY_ENTRY__INIT;

	reply.exists = exists;
	put_le32(out, (uint32_t)img_streamer_reply_entry__pack(&reply, out + STREAMER_HEAD_BYTES));
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

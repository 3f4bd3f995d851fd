// SPDX-License-Identifier: Apache-2.0
/*
 * What CRIU and its image streamer say to each other (criu --stream), on a unix socket
 * of the images directory. No I/O here.
 *
 *	message: u32 length, then as many bytes of protobuf
 *	request: field 1, string: the name of an image; CRIU sends it
 *	reply:   field 1, bool: is there such an image? Of a restore only
 *
 * Behind a request (of a dump), or a reply that says yes (of a restore), CRIU sends one byte and with it the end of a
 * pipe for the image.
 */
#ifndef FERRY_WIRE_STREAMER_H
#define FERRY_WIRE_STREAMER_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define STREAMER_CAPTURE_SOCKET "streamer-capture.sock"
#define STREAMER_SERVE_SOCKET "streamer-serve.sock"

enum {
	STREAMER_HEAD_BYTES = 4,
	STREAMER_BODY_MAX = 1024,
	STREAMER_REPLY_BYTES = 6,
	STREAMER_NAME_MAX = 128,
};

/* How many bytes follow the length: -1 if it is none of a request. */
int streamer_body_bytes(const uint8_t head[STREAMER_HEAD_BYTES], size_t *bytes_out, struct err *err)
	must_check;

/* The name in a request, which may still be one that no image can have. Fields that we do not know are passed over. */
int streamer_request(const uint8_t *body, size_t bytes, char name[STREAMER_NAME_MAX + 1],
		     struct err *err) must_check;

void streamer_reply(bool exists, uint8_t out[STREAMER_REPLY_BYTES]);

/* Is it the name of an image of pages (pages-N.img)? Then *id_out is N. */
bool streamer_is_pages(const char *name, uint32_t *id_out);

#endif

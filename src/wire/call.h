// SPDX-License-Identifier: Apache-2.0
/*
 * The first bytes on a connection to "ferry serve": what the caller wants, and the answer. No I/O
 * here. Everything goes through TLS (tunnel.h); what follows is the business of the two ends.
 *
 *	call      "ferrycal" (8), u8 version, u8 what, six zeros, 48 bytes of text, filled up with zeros
 *	answer    u8 'y' or 'n', u8 bytes of a text, the text
 *
 * The text of a call is empty. "ferry serve" hands the call on to the agent that it starts, and puts
 * the address there at which it was reached.
 */
#ifndef FERRY_WIRE_CALL_H
#define FERRY_WIRE_CALL_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CALL_BYTES = 64,
	CALL_ADDRESS_MAX = 47,
	CALL_HEAD_BYTES = 2, /* of an answer */
	CALL_TEXT_MAX = 255,
	CALL_ANSWER_MAX = CALL_HEAD_BYTES + CALL_TEXT_MAX,
	CALL_HOST_MAX = 253,
	CALL_PORT = 9393, /* where "ferry serve" listens if nobody says otherwise */
};

/* On the wire. */
enum call_what {
	CALL_AGENT = 'a', /* ferry agent: a tree comes, or a question about one */
	CALL_JOIN = 'j',  /* ferry agent --join */
	CALL_FILES = 'f', /* ferry agent --files */
	CALL_ASK = 'q',   /* what may I do? The answer's text says it, and nothing follows */
};

struct call {
	enum call_what what;
	char address[CALL_ADDRESS_MAX + 1];
};

void call_encode(const struct call *call, uint8_t out[CALL_BYTES]);
int call_decode(const uint8_t in[CALL_BYTES], struct call *out, struct err *err) must_check;

/* "ferry://HOST[:PORT]" names a host that is called so, and not by ssh. An IPv6 address stands in brackets. */
bool call_is_url(const char *text);
int call_url_parse(const char *url, char host[CALL_HOST_MAX + 1], uint16_t *port_out,
		   struct err *err) must_check;

/* The words after "ferry" that a call stands for: "agent --join"; NULL: for none. */
const char *call_command(enum call_what what);
/* And back: false if there is no such call. */
bool call_of_command(const char *command, enum call_what *out);

/* Returns its bytes; what is too long of the text is cut off. */
size_t call_answer(bool yes, const char *text, uint8_t out[CALL_ANSWER_MAX]);

/* Bytes of text that follow the head. -1: it is no answer. */
int call_answer_head(const uint8_t head[CALL_HEAD_BYTES], bool *yes_out, size_t *bytes_out,
		     struct err *err) must_check;

/* The text as it may be shown: a peer's bytes must not reach a terminal as they are. */
void call_answer_text(const uint8_t *text, size_t bytes, char out[CALL_TEXT_MAX + 1]);

#endif

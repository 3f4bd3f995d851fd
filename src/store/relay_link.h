// SPDX-License-Identifier: Apache-2.0
/*
 * A connection between image-proxy and image-cache. With a secret it is TLS 1.3 (wire/tunnel.h), keyed by what the
 * greeting has made of the secret, from behind the greeting on: who does not know the secret is refused, reads nothing, and
 * can change, add, repeat or leave out nothing. Without, it is TCP as it is.
 */
#ifndef FERRY_STORE_RELAY_LINK_H
#define FERRY_STORE_RELAY_LINK_H

#include "store/stream.h"
#include "wire/tunnel.h"

struct relay_link {
	struct stream st;
	int fd; /* of the stream; -1: none */
	const atomic_bool *stop;
	struct tls *tls; /* of this connection; NULL: there is no secret */
	struct tunnel *tunnel;
};

/* @fd, connected, is taken, -1 allowed; @stop: as the stream's. */
void relay_link_init(struct relay_link *l, int fd, const atomic_bool *stop);

/*
 * To a cache, of a proxy: greetings, TLS and preambles. From then on, until its end, the connection is reset where the
 * proxy dies, as the cache may be full and read nothing. 10 s of silence are an error from the beginning on, until
 * the stream's silence_ms is set to something else. With @secret NULL the other side must have none either.
 */
int relay_link_call(struct relay_link *l, const struct secret *secret, struct err *err) must_check;
int relay_link_answer(struct relay_link *l, const struct secret *secret, struct err *err) must_check;

/* @err is what the stream said. If that was its end, and there is a reason for it, the reason takes its place. Always -1. */
int relay_link_explain(struct relay_link *l, struct err *err);

/*
 * Is the other side gone in both directions, or the connection broken: -1, and why: @what, if nothing else is known. One that has only ended what it says
 * waits for our answer, and is not gone. This is known also while nobody reads what has come.
 */
int relay_link_gone(struct relay_link *l, const char *what, struct err *err) must_check;

/*
 * Nothing more will be said: what was written goes out, if the other side takes it within some seconds. Closed at once,
 * without TLS, the kernel would drop what the other side has not read yet.
 */
void relay_link_end(struct relay_link *l);

/* Also without an end before. */
void relay_link_close(struct relay_link *l);

/* At once, in place of an end: what has not gone out is dropped, and the other side sees it even if it reads nothing. */
void relay_link_reset(struct relay_link *l);

#endif

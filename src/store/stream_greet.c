// SPDX-License-Identifier: Apache-2.0
/*
 * The beginning of a connection between relays, in the clear: whether both know a secret, and what the key of
 * this connection is made of. What is said here is nothing that others might not know.
 *
 *	client   preamble, u8 mode, nonce (32)
 *	server   preamble, u8 mode, nonce (32)
 *
 * Mode 0: without a secret; blocks follow. Mode 2: with one; TLS follows, with a key that is made of it and of both
 * nonces, so that what was recorded of another connection is good for nothing (store/relay_link.h). Mode 1 was a secret
 * that kept strangers out and hid nothing: who greets so is told that it is not enough any more. A server that is asked by a
 * stranger says nothing.
 */
#include "store/stream.h"

#include <errno.h>

enum { MODE_PLAIN = 0, MODE_MARKED = 1, MODE_TLS = 2 };

struct greeting {
	uint8_t mode;
	uint8_t nonce[SECRET_NONCE_BYTES];
};
_Static_assert(sizeof(struct greeting) == 1 + SECRET_NONCE_BYTES, "as it travels");

static int send_greeting(struct stream *st, const struct secret *secret, struct greeting *ours,
			 struct err *err)
{
	ours->mode = secret ? MODE_TLS : MODE_PLAIN;
	if (secret_nonce(ours->nonce, err) || stream_send_preamble(st, err))
		return -1;
	return stream_send_raw(st, ours, sizeof(*ours), err);
}

/* EACCES: it is one of ours, and there is a misunderstanding about the secret. */
static int receive_greeting(struct stream *st, const struct secret *secret, struct greeting *theirs,
			    struct err *err)
{
	if (stream_receive_preamble(st, err) || stream_receive_raw(st, theirs, sizeof(*theirs), err))
		return -1;
	if (theirs->mode > MODE_TLS)
		return err_set(err, EPROTO, "the other side greets in an unknown way (%u)",
			       theirs->mode);
	if (theirs->mode == MODE_PLAIN && secret)
		return err_set(err, EACCES,
			       "the other side knows no secret, but one is needed here: give "
			       "both the same --secret-file");
	if (theirs->mode != MODE_PLAIN && !secret)
		return err_set(err, EACCES,
			       "the other side wants a secret: give it with --secret-file");
	if (theirs->mode == MODE_MARKED)
		return err_set(err, EACCES,
			       "the other side is an older ferry, which would hide nothing of what passes: "
			       "install the same version on both hosts");
	return 0;
}

static int make_key(const struct secret *secret, const struct greeting *client,
		    const struct greeting *server, struct secret *key_out, struct err *err)
{
	if (!secret)
		return 0;
	return secret_derive(secret, "TLS between relays", client->nonce, server->nonce, key_out,
			     err);
}

int stream_greet_server(struct stream *st, const struct secret *secret, struct secret *key_out,
			struct err *err)
{
	struct greeting ours, theirs;

	if (send_greeting(st, secret, &ours, err))
		return -1;
	if (receive_greeting(st, secret, &theirs, err)) {
		/* one of before TLS hangs up when it hears of it */
		if (secret && (err->no == EPIPE || err->no == ECONNRESET))
			err_set(err, EPIPE,
				"it hangs up instead of answering: it is an older ferry, or no image-cache");
		return -1;
	}
	return make_key(secret, &ours, &theirs, key_out, err);
}

int stream_greet_client(struct stream *st, const struct secret *secret, struct secret *key_out,
			struct err *err)
{
	struct greeting ours, theirs;

	/* what makes no sense gets no answer; who is merely mistaken about the secret is told */
	if (receive_greeting(st, secret, &theirs, err)) {
		struct err ignored;

		if (err->no == EACCES && send_greeting(st, secret, &ours, &ignored))
			return -1;
		return -1;
	}
	if (send_greeting(st, secret, &ours, err))
		return -1;
	return make_key(secret, &theirs, &ours, key_out, err);
}

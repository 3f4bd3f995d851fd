// SPDX-License-Identifier: Apache-2.0
/*
 * The beginning of a connection between relays: both sides show that they know the secret,
 * without saying it, and agree on keys for the marks of this connection's blocks. What was recorded of another
 * connection is good for nothing, as both sides add a fresh nonce.
 *
 *	client   preamble, u8 mode, nonce (32)
 *	server   preamble, u8 mode, nonce (32), proof (32)
 *	client   proof (32)
 *
 * Mode 1: with a secret. Mode 0: without; there are no proofs, and blocks have no marks. A
 * server that is asked by a stranger says nothing.
 */
#include "store/stream.h"

#include <errno.h>
#include <string.h>

enum { MODE_PLAIN = 0, MODE_SECRET = 1 };

struct greeting {
	uint8_t mode;
	uint8_t nonce[SECRET_NONCE_BYTES];
};
_Static_assert(sizeof(struct greeting) == 1 + SECRET_NONCE_BYTES, "as it travels");

static int send_greeting(struct stream *st, const struct secret *secret, struct greeting *ours,
			 struct err *err)
{
	ours->mode = secret ? MODE_SECRET : MODE_PLAIN;
	if (secret_nonce(ours->nonce, err) || stream_send_preamble(st, err))
		return -1;
	return stream_send_raw(st, ours, sizeof(*ours), err);
}

static int receive_greeting(struct stream *st, const struct secret *secret, struct greeting *theirs,
			    struct err *err)
{
	if (stream_receive_preamble(st, err) || stream_receive_raw(st, theirs, sizeof(*theirs), err))
		return -1;
	if (theirs->mode == MODE_PLAIN && secret)
		return err_set(err, EACCES,
			       "the other side knows no secret, but one is needed here: give "
			       "both the same --secret-file");
	if (theirs->mode == MODE_SECRET && !secret)
		return err_set(err, EACCES,
			       "the other side wants a secret: give it with --secret-file");
	if (theirs->mode > MODE_SECRET)
		return err_set(err, EPROTO, "the other side greets in an unknown way (%u)",
			       theirs->mode);
	return 0;
}

static int send_proof(struct stream *st, const struct secret *secret, const char *who,
		      const struct greeting *client, const struct greeting *server, struct err *err)
{
	struct secret proof;

	if (secret_derive(secret, who, client->nonce, server->nonce, &proof, err))
		return -1;
	return stream_send_raw(st, proof.key, sizeof(proof.key), err);
}

static int check_proof(struct stream *st, const struct secret *secret, const char *who,
		       const struct greeting *client, const struct greeting *server, struct err *err)
{
	struct secret proof;
	uint8_t got[SECRET_KEY_BYTES];

	if (secret_derive(secret, who, client->nonce, server->nonce, &proof, err))
		return -1;
	if (stream_receive_raw(st, got, sizeof(got), err))
		return err_set(err, EACCES, "the other side knows another secret");
	if (!secret_equal(got, proof.key, sizeof(got)))
		return err_set(err, EACCES, "the other side knows another secret");
	return 0;
}

/* From here on every block has a mark; each direction has its own key. */
static int key_stream(struct stream *st, const struct secret *secret, const struct greeting *client,
		      const struct greeting *server, bool is_server, struct err *err)
{
	if (secret_derive(secret, "marks of the client", client->nonce, server->nonce,
			  is_server ? &st->key_in : &st->key_out, err) ||
	    secret_derive(secret, "marks of the server", client->nonce, server->nonce,
			  is_server ? &st->key_out : &st->key_in, err))
		return -1;
	st->keyed = true;
	stream_spare_sums(st);
	return 0;
}

int stream_greet_server(struct stream *st, const struct secret *secret, struct err *err)
{
	struct greeting ours, theirs;

	if (send_greeting(st, secret, &ours, err) || receive_greeting(st, secret, &theirs, err))
		return -1;
	if (!secret)
		return 0;
	if (check_proof(st, secret, "server", &ours, &theirs, err) ||
	    send_proof(st, secret, "client", &ours, &theirs, err))
		return -1;
	return key_stream(st, secret, &ours, &theirs, false, err);
}

int stream_greet_client(struct stream *st, const struct secret *secret, struct err *err)
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
	if (!secret)
		return 0;
	if (send_proof(st, secret, "server", &theirs, &ours, err) ||
	    check_proof(st, secret, "client", &theirs, &ours, err))
		return -1;
	return key_stream(st, secret, &theirs, &ours, true, err);
}

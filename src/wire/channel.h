// SPDX-License-Identifier: Apache-2.0
/*
 * Messages over a pair of descriptors (the pipes of an ssh, or an agent's
 * stdin and stdout). Sending never blocks on a peer that is sending itself:
 * while the way out is full, what comes in is read ahead. While it waits, the
 * channel also looks at a descriptor of the caller's (Ctrl-C).
 */
#ifndef FERRY_WIRE_CHANNEL_H
#define FERRY_WIRE_CHANNEL_H

#include "wire/frame.h"
#include "wire/msg.h"
#include "wire/pack.h"
#include "wire/trunk.h"

#include <stdbool.h>
#include <sys/uio.h>

struct channel {
	int in, out;         /* the channel's own; nonblocking */
	int old_in, old_out; /* before channel_switch; -1 */
	struct trunk *trunk; /* around in and out; NULL: none */
	struct tunnel *direct; /* its tunnel, when that was taken over: in and out are for poll(2) only */
	enum wire_side side; /* ours */
	enum wire_stage stage;
	const char *peer; /* for messages: "HOST" or "the source" */
	struct frame_reader reader;
	struct packer *packer;     /* of what is sent; NULL: all goes as it is */
	struct unpacker *unpacker; /* of what comes; NULL: nothing that is packed may */
	uint64_t sent_bytes, received_bytes;
	uint64_t sent_at_ns; /* when the last of our messages began to go (clock_ns) */
	bool holding;        /* small messages wait in held: channel_hold() */
	size_t held_bytes;
	uint8_t *held;  /* HOLD_BYTES, once it is needed */
	bool was_full;  /* the way out, during the last message */
	bool tight;     /* it was so since the channel is direct: what is sent is worth packing */
	int timeout_ms; /* of silence while waiting for the peer; -1: none */
	bool broken; /* the peer is gone: what it did is unknown. Not set when it said why it stops. */

	/* Called when watch_fd (-1: none) is readable; -1 ends the call that waits. */
	int watch_fd;
	int (*on_watch)(void *arg, struct err *err);
	/* Called for each MSG_PROGRESS. May be NULL. */
	void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
	void *arg;
};

/* Takes the descriptors over. */
void channel_init(struct channel *ch, int in, int out, enum wire_side side, const char *peer);
void channel_finish(struct channel *ch);

/*
 * From now on over another connection, of which @fd is the user's end; takes both. The descriptors
 * of before stay open to the end. What came over them has been received.
 */
int channel_switch(struct channel *ch, int fd, struct trunk *trunk, struct err *err) must_check;

/*
 * Where the channel's connection is one tunnel, no thread is woken from now on for each message (tunnel_take_over): for a time in which
 * few bytes go, and each is waited for. Nothing happens where it is not. -1: the connection is broken.
 */
int channel_go_direct(struct channel *ch, struct err *err) must_check;

/* @body may be NULL for messages without one. */
int channel_send(struct channel *ch, uint16_t type, const ProtobufCMessage *body, struct err *err)
	must_check;

/* A raw message, made of at most 3 pieces. */
int channel_send_raw(struct channel *ch, uint16_t type, const struct iovec *pieces, size_t n,
		     struct err *err) must_check;

/*
 * From now on small messages wait, to go with what follows in one piece: each write wakes up an ssh, and
 * what is behind it. They go with the first message after channel_release(), before the channel waits for the peer, or
 * when there are many.
 */
void channel_hold(struct channel *ch);
void channel_release(struct channel *ch);

/* Sends what waits. */
int channel_flush(struct channel *ch, struct err *err) must_check;

/*
 * The next message; progress is handled on the way, and an abort comes back as
 * -1 with the peer's own words. out->body is valid until the next call.
 */
int channel_recv(struct channel *ch, struct frame *out, struct err *err) must_check;

/* Waits for the next message, whatever it is, and leaves it for channel_recv. */
int channel_peek(struct channel *ch, struct frame *out, struct err *err) must_check;

/*
 * For one who waits for something else at the same time, and polls ch->in, for half a second at most: reads what is there, without waiting. 1: a
 * message is there, perhaps since long, so that ch->in never becomes readable for it; 0: none yet; -1. Progress is handled.
 */
int channel_look(struct channel *ch, struct err *err) must_check;

/* The next message must be of @type. Free with protobuf_c_message_free_unpacked. NULL + err. */
void *channel_expect(struct channel *ch, uint16_t type, struct err *err) must_check;

/* The next message must say that what was asked for is done (MSG_DONE). */
int channel_expect_done(struct channel *ch, struct err *err) must_check;

/* As channel_expect, for messages without a body. */
int channel_expect_empty(struct channel *ch, uint16_t type, struct err *err) must_check;

/* Tells the peer why we stop; for at most a second, errors ignored. */
void channel_abort(struct channel *ch, const struct err *why);

#define wire_free(msg) protobuf_c_message_free_unpacked((ProtobufCMessage *)(msg), NULL)

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A snapshot as one stream of blocks (wire/block.h) on a descriptor: written by
 * a store, read into a spool. It cannot seek and is checked as it goes, so that it
 * passes through a pipe, ssh, a compressor or a socket.
 */
#ifndef FERRY_STORE_STREAM_H
#define FERRY_STORE_STREAM_H

#include "store/spool.h"
#include "store/store.h"
#include "wire/block.h"
#include "wire/secret.h"

#include <errno.h>
#include <stdatomic.h>

/*
 * One end of a connection, or a pipe of which one direction is used. Waiting looks at @interrupted
 * (NULL: nobody interrupts) a few times a second.
 */
struct stream {
	int in, out; /* not owned; -1: none */
	int (*interrupted)(struct err *err);
	uint32_t seq_in, seq_out;
	bool unsummed;  /* blocks go, and may come, without checksums of their bodies */
	bool heard;     /* in and out are one, and the reader may end it while we write: EPIPE */
	int silence_ms; /* waiting for so long is an error; 0: never */
	bool out_socket;
	char awaited[BLOCK_NAME_MAX + 1]; /* the snapshot of which nothing has come yet; "": none */
	void (*on_await)(const char *awaited); /* for one who waits for its beginning, after some seconds; NULL: nobody hears it */
	const atomic_bool *stop; /* whoever waits gives up when it becomes true; NULL: never */
	/*
	 * Is the writer of what is read here gone for good, though not all of it has been read: -1. Looked at while there is no
	 * room for it. NULL: nothing shows that, as an end may well be there behind what is still to be read.
	 */
	int (*writer_gone)(void *of, struct err *err);
	void *writer;
	int own_out; /* the pipe behind out, opened anew; or -1 */
	uint64_t identity; /* of the snapshot that stream_store_open's store has written: snapshot_identity */
	uint8_t *body; /* of the block that was read last; BLOCK_BODY_MAX; freed with bufs_free */
	bool stolen;   /* a body was: more of them are large */
	struct packer *packer; /* of what goes out; NULL: it is not packed */
	bool was_full;         /* the last write had to wait */
	struct unpacker *unpacker;
	uint8_t *packed;     /* the body of a packed block, before it is unpacked; BLOCK_BODY_MAX */
	uint16_t version_in; /* what the other side knows; 0: its preamble has not come */
};

/* Sets the descriptors up as far as that changes nothing for others who share them. */
void stream_init(struct stream *st, int in, int out, int (*interrupted)(struct err *err));
void stream_finish(struct stream *st);

/*
 * From now on blocks go packed, as @how says. To be called before the preamble is sent, which then says so, or where the
 * other side's preamble has shown that it can read them.
 */
int stream_compress(struct stream *st, enum compress how, struct err *err) must_check;

int stream_send_preamble(struct stream *st, struct err *err) must_check;
int stream_send(struct stream *st, const struct block *b, struct err *err) must_check;

int stream_receive_preamble(struct stream *st, struct err *err) must_check;

/*
 * Nothing changes what goes through this connection, which never leaves the kernel, or whoever does is found out by
 * TLS: no checksums are needed. Both preambles have been exchanged; does nothing if the other side
 * does not know of it.
 */
void stream_spare_sums(struct stream *st);

/* Bytes that are no blocks. */
int stream_send_raw(struct stream *st, const void *data, size_t bytes, struct err *err) must_check;
int stream_receive_raw(struct stream *st, void *data, size_t bytes, struct err *err) must_check;

/*
 * The beginning of a connection between two hosts, preambles included: to a server, of a client. With a
 * secret, TLS is to follow, with the key *key_out, which both have if both know the secret; without (NULL), both must be
 * without, and blocks follow.
 */
int stream_greet_server(struct stream *st, const struct secret *secret, struct secret *key_out,
			struct err *err) must_check;
int stream_greet_client(struct stream *st, const struct secret *secret, struct secret *key_out,
			struct err *err) must_check;

/*
 * The next block. Its data stays until the next call; stream_steal hands the memory on: for bufs_free. An end between two blocks is an error too: EPIPE.
 */
int stream_receive(struct stream *st, struct block *out, struct err *err) must_check;
uint8_t *stream_steal(struct stream *st);

/* The next block must be of this type; a BLOCK_FAIL instead becomes the error that it tells. */
int stream_expect(struct stream *st, enum block_type type, struct block *out, struct err *err)
	must_check;

/*
 * Tells the other side why there will be no more; errors ignored. If that was told us by stream_receive_shot, or by a
 * reader before us, it is marked as passed on: whose failure it is is said already.
 */
void stream_send_failure(struct stream *st, const struct err *why);

/* The error that a BLOCK_FAIL tells; its number is STREAM_PASSED_ON if it is marked so. Returns -1. */
enum { STREAM_PASSED_ON = EREMOTEIO };
int stream_failure(const struct block *b, struct err *err);

/* An image, in as many blocks as it takes. */
int stream_send_object(struct stream *st, const char *name, const void *data, size_t bytes,
		       struct err *err) must_check;
/* Pages at an offset; those that are zero as runs of zeros. */
int stream_send_pages(struct stream *st, uint32_t id, uint64_t off, const void *data, size_t bytes,
		      struct err *err) must_check;

/*
 * A store whose puts go down the stream, as the snapshot @name. Nothing can be got from it. store_complete
 * writes the end. With @confirmed the other side answers twice: that it is ready, before this returns, and
 * that it has everything, before store_complete does. The preamble has been sent. @st stays the caller's.
 * Its parent (store_set_parent) is named as stream_parent_name has it.
 */
struct store *stream_store_open(struct stream *st, const char *name, bool confirmed, struct err *err)
	must_check;

enum { STREAM_PARENT_MAX = BLOCK_NAME_MAX + 32 };

/* A snapshot that was written before, and its identity, as one name. */
void stream_parent_name(const char *name, uint64_t identity, char out[STREAM_PARENT_MAX]);

/*
 * The reader of what such a store writes, from behind the block that names the snapshot: adds everything to
 * @shot and completes it, or fails it.
 */
int stream_receive_shot(struct stream *st, struct shot *shot, struct err *err) must_check;

#endif

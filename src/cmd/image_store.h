// SPDX-License-Identifier: Apache-2.0
/*
 * Where dump puts images and restore gets them from: a directory, (-D -) a
 * stream on standard output and input, or (--remote) a relay: ferry image-proxy
 * and image-cache.
 */
#ifndef FERRY_CMD_IMAGE_STORE_H
#define FERRY_CMD_IMAGE_STORE_H

#include "store/relay.h"

#include <pthread.h>

enum image_use {
	IMAGES_DIRECTORY, /* both ways */
	IMAGES_ROUND,     /* written; may go to a relay, but not into a stream */
	IMAGES_WRITE,     /* may be a stream */
	IMAGES_READ,      /* may be a stream */
};

/* How a command was told to find its images. */
struct image_place {
	const char *images_dir; /* "-": a stream */
	bool remote;
	const char *snapshot;  /* its name, with remote */
	unsigned int compress; /* enum compress; of a stream that is written */
};

#define SNAPSHOT_DEFAULT "snapshot"

#define REMOTE_ROWS(Args, at)                                                                      \
	{.long_name = "remote",                                                                    \
	 .help = "images go through image-proxy and image-cache instead of a directory: by their " \
		 "sockets in the work directory",                                                  \
	 .type = OPT_FLAG,                                                                         \
	 .offset = offsetof(Args, at.remote)},                                                     \
	{                                                                                          \
		.long_name = "snapshot", .arg = "NAME",                                            \
		.help = "with --remote: what this snapshot is called there (default: snapshot)",   \
		.type = OPT_TEXT, .offset = offsetof(Args, at.snapshot)                            \
	}

#define COMPRESS_ROW(Args, at)                                                                   \
	{                                                                                        \
		.long_name = "compress", .arg = "auto|none|lz4|zstd",                            \
		.help = "compress the stream that is written (with -D -): as it pays, which is " \
			"measured (auto, the default), never, or always with lz4 or zstd",       \
		.type = OPT_WORD, .offset = offsetof(Args, at.compress), .words = compress_words \
	}

struct image_store {
	struct store *store;
	struct stream st;
	bool streams;   /* st is in use */
	bool confirmed; /* by a relay: who has everything says so */
	int fd;         /* to a relay, or -1 */
	atomic_bool stop;
	/* of a reader: a thread fills the spool from the stream */
	struct spool *spool;
	struct shot *shot;
	pthread_t pump;
	bool pumping;
};

/* Is there no images directory? */
bool images_are_streamed(const struct image_place *place);

/* What can be said before anything is opened: the text is that of a usage error. */
int image_store_check(const struct image_place *place, enum image_use use, struct err *err)
	must_check;

/* @images_fd: the directory, if it is one; @work_fd: where the sockets of relays are. */
int image_store_open(struct image_store *is, const struct image_place *place, int images_fd,
		     int work_fd, enum image_use use, struct err *err) must_check;

/* The restored tree runs: a relay may forget the snapshot. */
int image_store_done(struct image_store *is, struct err *err) must_check;

/* A writer gives up: the reader is told why, if it is still there. */
void image_store_fail(struct image_store *is, const struct err *why);
void image_store_close(struct image_store *is);

#endif

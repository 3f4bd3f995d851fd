// SPDX-License-Identifier: Apache-2.0
/*
 * Where dump puts images and restore gets them from: a directory, or (-D -) a
 * stream on standard output and input.
 */
#ifndef FERRY_CMD_IMAGE_STORE_H
#define FERRY_CMD_IMAGE_STORE_H

#include "store/stream.h"

#include <pthread.h>

enum image_use {
	IMAGES_DIRECTORY, /* both ways */
	IMAGES_WRITE,     /* may be a stream */
	IMAGES_READ,      /* may be a stream */
};

struct image_store {
	struct store *store;
	struct stream st;
	bool streams; /* st is in use */
	/* of a reader: a thread fills the spool from the stream */
	struct spool *spool;
	struct shot *shot;
	pthread_t pump;
	bool pumping;
};

/* Is this images directory none, but standard input or output? */
bool images_are_streamed(const char *images_dir);

/* What can be said before anything is opened: the text is that of a usage error. */
int image_store_check(const char *images_dir, enum image_use use, struct err *err) must_check;

/* @images_fd: the directory, or -1: a stream. */
int image_store_open(struct image_store *is, int images_fd, enum image_use use, struct err *err)
	must_check;

/* A writer gives up: the reader is told why, if it is still there. */
void image_store_fail(struct image_store *is, const struct err *why);
void image_store_close(struct image_store *is);

#endif

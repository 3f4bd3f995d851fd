// SPDX-License-Identifier: Apache-2.0
/*
 * The image streamer's part of criu --stream (wire/streamer.h): images come from CRIU into a store, or
 * go to it from one.
 *
 * CRIU opens a pipe for each image and shares one connection among its processes, so several images
 * are on their way at once; they are read and written as the pipes let us. @sock is connected, and stays the caller's;
 * waiting looks at @interrupted (NULL: nobody interrupts) a few times a second.
 */
#ifndef FERRY_STORE_IMAGE_STREAM_H
#define FERRY_STORE_IMAGE_STREAM_H

#include "store/store.h"

/*
 * A dump. Completes the store when CRIU has closed the connection and all pipes. The protocol has no word for failure: a
 * dump that did not come to its inventory, which is the last thing that CRIU writes, is one (EPIPE).
 */
int image_stream_capture(int sock, struct store *into, int (*interrupted)(struct err *err),
			 struct err *err) must_check;

/*
 * A restore, until CRIU has closed the connection and has taken all of what it opened, or enough: 0. Whether its tree
 * runs is not said. The store must be one of those that tell what they have (store_read_pages). SIGPIPE must be ignored.
 */
int image_stream_serve(int sock, struct store *from, int (*interrupted)(struct err *err),
		       struct err *err) must_check;

/* What both have in common. */

/*
 * The next request, without what comes behind it. 1: there is one, 0: the other side has closed the connection, -1.
 * Its name can be that of an image.
 */
int image_stream_request(int sock, int (*interrupted)(struct err *err),
			 char name[STORE_NAME_MAX_BYTES + 1], struct err *err) must_check;

/* The pipe of an image, nonblocking; the caller owns it. */
int image_stream_pipe(int sock, const char *name, int (*interrupted)(struct err *err),
		      struct err *err) must_check;

/* poll(2), for as long as it takes. */
struct pollfd;
int image_stream_wait(struct pollfd *p, size_t n, int (*interrupted)(struct err *err),
		      struct err *err) must_check;

#endif

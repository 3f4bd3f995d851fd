// SPDX-License-Identifier: Apache-2.0
/*
 * The source's pages after the freeze: threads, one for each lane, that hand them out
 * while the driver's main thread goes through its stages (only that one is the tracer;
 * reading memory needs none). So what a thread of the program waits for never waits for the bulk.
 */
#ifndef FERRY_MIGRATE_PAGES_H
#define FERRY_MIGRATE_PAGES_H

#include "mem/serve_net.h"

struct pages;

enum pages_state {
	PAGES_SERVING, /* or waiting for peers */
	PAGES_LOST,    /* a lane broke: all of them are to be opened anew */
	PAGES_CLOSED,  /* the other side needs nothing any more */
	PAGES_GONE,    /* the tree here was killed, and its memory with it */
};

/* Before there are lanes. @serve is filled already and must outlive it. NULL + err. */
struct pages *pages_start(struct serve *serve, struct err *err) must_check;

/* Ends threads and connections. NULL allowed. */
void pages_stop(struct pages *p);

/* How the bulk is packed. */
struct pages_packing {
	unsigned int codecs; /* 0: not */
	bool measure;        /* only as it pays */
};

/*
 * Closes the lanes that there are, and serves these, of which the first one is for demand. Takes the descriptors, also on
 * failure. @direct: the tunnel of the first one, if it was taken over (tunnel_take_over); it stays the caller's, and must
 * outlive the lane's service. NULL: none was.
 */
int pages_connect(struct pages *p, const int in[], const int out[], size_t n, struct tunnel *direct,
		  const struct pages_packing *packing, struct err *err) must_check;

/* Closes the lanes that there are. The state stays. */
void pages_disconnect(struct pages *p);

/*
 * Waits until the state is another than PAGES_SERVING, or @watch_fd is readable, or
 * @timeout_ms (-1: no limit) are over. @err is set with PAGES_GONE.
 */
enum pages_state pages_wait(struct pages *p, int watch_fd, int timeout_ms, struct err *err);

void pages_stats(struct pages *p, struct serve_net_stats *out);

/* Pages that nobody has been given yet. */
uint64_t pages_left(struct pages *p);

#endif

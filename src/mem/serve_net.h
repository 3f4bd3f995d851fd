// SPDX-License-Identifier: Apache-2.0
/*
 * Serving kept pages (serve.h) to whoever asks with CRIU's GET requests
 * (ps_wire.h): several peers at once, each answered in its own order, a large
 * answer in steps so that no peer waits for another's.
 *
 * The protocol has neither names nor passwords, and one program's life hangs on
 * it: a peer that breaks the rules loses its connection and nothing else. Rules
 * are: whole requests of known tasks and kept pages, and a CLOSE only from one
 * that has fetched pages, while nobody else does, and when half of all pages have gone.
 */
#ifndef FERRY_MEM_SERVE_NET_H
#define FERRY_MEM_SERVE_NET_H

#include "mem/serve.h"
#include "wire/tls.h"

#include <stdatomic.h>
#include <stdbool.h>

struct serve_net;
struct tunnel;

struct serve_net_stats {
	uint64_t requests, pages, zero_pages; /* handed out; zero pages went without their bytes */
	uint64_t packed_pages;                /* of these */
	uint64_t sent_bytes;
	uint64_t dropped; /* connections that ended without an accepted CLOSE */
	size_t peers;     /* connected now */
};

/*
 * @serve must outlive it. @ferries: the peers are known to us, and of our kind:
 * a GET gets as many answers as it takes to cover its pages, HOLE stands for
 * pages of zeros, and a CLOSE counts also when pages were
 * never asked for (the program there has given them back).
 */
struct serve_net *serve_net_create(struct serve *serve, bool ferries, struct err *err) must_check;
void serve_net_free(struct serve_net *n); /* closes every connection; NULL allowed */

/* From now on those who connect must speak TLS. @tls must outlive @n. */
void serve_net_secure(struct serve_net *n, const struct tls *tls);

/* Accepts connections on @fd from now on. Takes it. */
void serve_net_listen(struct serve_net *n, int fd);

/* One who has connected. Takes the socket. */
int serve_net_add_socket(struct serve_net *n, int fd, const char *name, struct err *err) must_check;

/* One more peer, who is not a stranger. Takes the descriptors (which may be the same); @name for messages is copied. */
int serve_net_add(struct serve_net *n, int in, int out, const char *name, struct err *err) must_check;

/*
 * The same, where a tunnel was taken over (tunnel_take_over): the descriptors are for poll(2). The tunnel stays the
 * caller's, until the peer is gone. NULL: as serve_net_add.
 */
int serve_net_add_direct(struct serve_net *n, int in, int out, struct tunnel *direct,
			 const char *name, struct err *err) must_check;

/*
 * The peer has other connections, which are served by others: @closing becomes true when a CLOSE counts, before it
 * is answered. Who hears the answer ends all of them, and that is in order then. Must outlive @n.
 */
void serve_net_share(struct serve_net *n, atomic_bool *closing);

/*
 * From now on answers to ferries are packed with these codecs, if they become smaller by it; with @measure, if that pays
 * (packer_create() of wire/pack.h). Whoever connects must know of PACKED.
 */
int serve_net_pack(struct serve_net *n, unsigned int codecs, bool measure, struct err *err)
	must_check;

/* Closes every connection; they do not count as dropped. */
void serve_net_disconnect(struct serve_net *n);

/*
 * Waits at most @timeout_ms (-1: no limit) for something to happen, and does it.
 * Also returns when @watch_fd (-1: none) is readable. -1 only when the pages
 * themselves are lost, with the task.
 */
int serve_net_step(struct serve_net *n, int watch_fd, int timeout_ms, struct err *err) must_check;

/* A peer has said CLOSE, and it counted. */
bool serve_net_closed(const struct serve_net *n);

void serve_net_stats(const struct serve_net *n, struct serve_net_stats *out);

#endif

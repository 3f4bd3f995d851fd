// SPDX-License-Identifier: Apache-2.0
/*
 * Relays: processes that keep snapshots in memory between a dump and a restore.
 *
 *	dump --remote -> proxy -> (TCP) -> cache -> restore --remote
 *
 * Both are one thing: whoever connects says what he is by his first block. The writer of a snapshot (a dump, a
 * proxy) sends a stream into the spool; a reader (a restore) asks for images and pages, and is kept
 * waiting for what is still to come. A proxy also forwards each snapshot to its cache, item by item as it
 * comes, and tells its dump only then that all is well when the cache has said so.
 */
#ifndef FERRY_STORE_RELAY_H
#define FERRY_STORE_RELAY_H

#include "store/stream.h"

#define RELAY_CACHE_SOCKET "image-cache.socket"
#define RELAY_PROXY_SOCKET "image-proxy.socket"

struct relay_options {
	int local;        /* listening: for commands of this host */
	int tcp;          /* listening: for proxies; -1: none */
	const char *host; /* where the cache is; NULL: this is the cache */
	uint16_t port;
	const struct secret *secret; /* of TCP connections; NULL: they are in plain */
	uint64_t max_bytes;          /* 0: no bound */
	enum compress compress;      /* on the way to the cache, as far as that can read it */
	bool once; /* ends when one snapshot has been handed on: to a cache, or to a restore whose tree runs */
	int (*interrupted)(struct err *err);
};

/* Until it is interrupted, or (once) has done its work: 0. The descriptors stay the caller's. */
int relay_run(const struct relay_options *opt, struct err *err) must_check;

/*
 * The store of a reader: get and get_pages are questions to a relay, which answers when it can. @st is connected,
 * preambles are exchanged; it stays the caller's.
 */
struct store *cache_store_open(struct stream *st, const char *name, struct err *err) must_check;

/* The tree runs: the relay may forget the snapshot. */
int cache_done(struct stream *st, struct err *err) must_check;

#endif

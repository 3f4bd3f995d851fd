// SPDX-License-Identifier: Apache-2.0
/*
 * The client's end of the connection to the source: any number of requests in
 * flight, from any thread. A thread of its own sends what could not be sent at
 * once, receives, and makes the connection again when it breaks; then all that
 * was not answered is asked again.
 */
#ifndef FERRY_LAZYFS_REMOTE_H
#define FERRY_LAZYFS_REMOTE_H

#include "lazyfs/proto.h"

struct remote;

/* How a connection is made: the agent's stdin and stdout. */
struct remote_link {
	/* Descriptors that become the remote's own. */
	int (*open)(void *arg, int *in_out, int *out_out, struct err *err);
	/* After the descriptors have been closed. May be NULL. */
	void (*close)(void *arg);
	/* There will be no connection any more. May be NULL. */
	void (*end)(void *arg);
	void *arg;
};

/* A request in flight. The caller's memory until done was called the last time or remote_cancel returned. */
struct remote_call {
	struct lf_request q; /* the id is set by remote_submit; the path stays the caller's */
	/*
	 * On the remote's thread, without any lock of it. @error: 0, or an errno value and no reply.
	 * Called again if the reply has "more".
	 */
	void (*done)(struct remote_call *c, int error, const struct lf_reply *reply);
	struct remote_call *next, *prev; /* private */
	bool in_flight;
};

struct remote_state {
	bool up;
	uint64_t received_bytes, requests, connects;
	uint64_t heard_ms; /* clock_ms() when the source was heard last */
	size_t in_flight;
};

/* Connects, says @hello (kept, not copied) and starts the thread. NULL + err: also the source's own words. */
struct remote *remote_open(const struct remote_link *link, const struct lf_hello *hello,
			   struct err *err) must_check;

/* Calls in flight end with ECANCELED. NULL is allowed. */
void remote_close(struct remote *r);

/* Tells the source that it may go, and ends the connection for good: later calls end with ESHUTDOWN. */
void remote_bye(struct remote *r);

/* Never blocks on the source. 0, or ESHUTDOWN or ECANCELED when it is over: then done is not called. */
int remote_submit(struct remote *r, struct remote_call *c) must_check;

/* After it, done is not running and will not be called. */
void remote_cancel(struct remote *r, struct remote_call *c);

void remote_get_state(struct remote *r, struct remote_state *out);

/* Patience of somebody who waits for an answer. */
struct patience {
	uint64_t since_ms, most_ms;     /* most_ms of silence since then; 0: any time */
	bool (*interrupted)(void *arg); /* asked every now and then; may be NULL */
	void *arg;
};

struct patience patience_start(uint64_t most_ms, bool (*interrupted)(void *arg), void *arg);

/* 0: wait on, for at most PATIENCE_STEP_MS; else the errno value to give up with (EINTR, EIO). */
int patience_check(const struct patience *p, struct remote *r);

enum { PATIENCE_STEP_MS = 200 };

/*
 * Submits and waits. @take gets each reply, on the remote's thread; what it
 * returns, if not 0, is the result. Returns 0 or an errno value.
 */
int remote_ask(struct remote *r, const struct lf_request *q, const struct patience *p,
	       int (*take)(void *arg, const struct lf_reply *reply), void *arg);

/* A @take: an LF_ATTR into the struct lf_attr at @arg. */
int remote_take_attr(void *arg, const struct lf_reply *reply);

#endif

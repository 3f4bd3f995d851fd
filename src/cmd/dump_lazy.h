// SPDX-License-Identifier: Apache-2.0
/*
 * The lazy phase of ferry dump: the images are complete but for the memory that
 * may come later; that is handed out from the frozen tree.
 *
 * The protocol has no commit: a peer never says that the program runs there.
 * So the rule is:
 *
 *	nobody was given a page		the program cannot run anywhere else: whatever
 *					ends the phase, the tree here runs on
 *	a page was handed out		it may run there: the tree here never runs on by
 *					itself again. It is ended when a peer says CLOSE
 *					that has fetched pages; if the phase
 *					ends otherwise it is left stopped, for the user
 *					to decide
 *
 * If we are killed, the tree is left stopped, too (capture_arm).
 */
#ifndef FERRY_CMD_DUMP_LAZY_H
#define FERRY_CMD_DUMP_LAZY_H

#include "capture/capture.h"
#include "mem/serve_net.h"

struct lazy_args {
	bool on;
	const char *address; /* NULL: loopback; it and the port are options that --page-server has, too */
	uint64_t port;
	uint64_t timeout_s; /* without a request; 0: none */
};

struct lazy_phase {
	struct serve *serve;
	struct serve_net *net;
	uint64_t timeout_s;
};

/* Before the freeze: listens, with @tls or (NULL) without; it must outlive the phase. Call lazy_phase_close in any case. */
int lazy_phase_open(struct lazy_phase *l, const struct lazy_args *args, const struct tls *tls,
		    struct err *err) must_check;
void lazy_phase_close(struct lazy_phase *l);

/*
 * Serves until every page has been fetched (0), or something else ends it (-1
 * and the reason): then *end_out says what is to become of the tree.
 */
int lazy_phase_serve(struct lazy_phase *l, enum capture_end *end_out, struct err *err) must_check;

#endif

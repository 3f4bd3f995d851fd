// SPDX-License-Identifier: Apache-2.0
/*
 * Sending memory to a page server: a page sink behind which there is a
 * connection that speaks CRIU's protocol (mem/ps_wire.h). The server writes the
 * pagemap and pages images; here only the small images remain to be saved.
 *
 * Nothing is waited for but two answers: that of OPEN2, once for each object, and
 * that of CLOSE. After an error the connection is of no more use.
 */
#ifndef FERRY_MEM_PS_CLIENT_H
#define FERRY_MEM_PS_CLIENT_H

#include "mem/ps_wire.h"
#include "mem/sink.h"
#include "wire/tunnel.h"

#include <sys/uio.h>

struct ps_client {
	struct page_sink sink;
	int fd;
	struct tunnel *tunnel; /* of TLS, around fd; NULL: none */
	bool closed;           /* the server has confirmed everything */
	bool given;            /* an inherited socket: the conversation ends with FORCE_CLOSE */
	char server[80];       /* for messages */
	uint64_t dst_id;       /* of the object that is open; 0: none */
	uint64_t sent_bytes;
	/* Asked every half second while the server lets us wait; -1 ends that. NULL allowed. */
	int (*interrupted)(struct err *err);
};

/* @fd is a connected stream socket, or the end of @tunnel (NULL: none); ps_client_finish closes both. */
void ps_client_init(struct ps_client *c, int fd, struct tunnel *tunnel, bool given);

/*
 * Asks before the freeze whether the server has an earlier image of @object, and tells it how
 * many pages will come, about (0: unknown): a ferry makes room for them while the program
 * still runs, CRIU does not look at it. Also shows that a page server is there at all.
 */
int ps_client_announce(struct ps_client *c, const struct ps_object *object, uint64_t pages,
		       bool *has_parent_out, struct err *err) must_check;

/* Says that this was all, and waits until the server has stored it. Anything else is an error. */
int ps_client_close(struct ps_client *c, struct err *err) must_check;

/* Closes the connection; without ps_client_close the server forgets what it got. */
void ps_client_finish(struct ps_client *c);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What lies in the receive queue of a unix socket: sk-queues.img, both ways.
 */
#ifndef FERRY_KINDS_FD_UNIXQUEUE_H
#define FERRY_KINDS_FD_UNIXQUEUE_H

#include "kinds/kind.h"

/* Adds the queue of a socket of @type (SOCK_STREAM, ...) to the snapshot; the queue stays as it is. */
int unixqueue_capture(struct capture *c, struct fd_facts *f, int type, struct err *err) must_check;

/* Number of messages in the images for the socket with this file id. */
size_t unixqueue_count(const struct restore *r, uint32_t file_id);

/*
 * Sends them, through @sender, which is connected to the socket that they are for;
 * its send buffer may be larger afterwards. To @receiver, that socket, others may send
 * by its name, as those did whose names the messages bear (-1: they may not).
 */
int unixqueue_fill(struct restore *r, uint32_t file_id, int sender, int receiver, struct err *err)
	must_check;

#endif

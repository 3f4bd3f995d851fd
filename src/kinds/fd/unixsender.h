// SPDX-License-Identifier: Apache-2.0
/*
 * Who sent a message that waits in a unix socket: the name of the sender's socket
 * (recvfrom) and its credentials (SO_PASSCRED), as the reader will be told.
 */
#ifndef FERRY_KINDS_FD_UNIXSENDER_H
#define FERRY_KINDS_FD_UNIXSENDER_H

#include "kernel/diag.h"
#include "kinds/kind.h"

#include "sk-packet.pb-c.h"

#include <sys/socket.h>
#include <sys/un.h>

/* ---- capture ---- */

/* Buffers for one recvmsg that tells the sender. */
struct unixsender_note {
	struct msghdr msg;
	struct iovec iov;
	struct sockaddr_un name;
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(struct ucred))];
	} control;
};

/* Peeks into the queue of @fd, as recv(2) would, and fills @note. */
ssize_t unixsender_peek(int fd, void *buf, size_t bytes, int flags, bool passcred,
			struct unixsender_note *note);

/* Puts what the note says into the entry of the message. */
int unixsender_save(struct capture *c, const struct unixsender_note *note, SkPacketEntry *entry,
		    struct err *err) must_check;

/* ---- restore ---- */

/* What is kept from one message to the next; all zero but usual, with fds and pids that are ours. */
struct unixsender {
	int usual;    /* what has no other sender is sent through this; connected to the receiver */
	int receiver; /* -1: messages come through the usual one only */
	int named;    /* a socket of ours with the name of the last sender, 0: none */
	uint8_t name[DIAG_UNIX_NAME_MAX];
	size_t name_bytes;
	pid_t pid; /* the process that stands for the last sender: ended, but not yet collected; 0: none */
};

/* Sends one message as its sender would have. @msg has data and rights; returns as sendmsg, or -1 and @err. */
ssize_t unixsender_send(struct restore *r, struct unixsender *s, const SkPacketEntry *entry,
			struct msghdr *msg, struct err *err) must_check;

void unixsender_finish(struct unixsender *s);

#endif

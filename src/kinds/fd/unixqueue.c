// SPDX-License-Identifier: Apache-2.0
/*
 * Queues are read by peeking, so the program keeps them: stream data with one
 * long peek where that shows everything, the rest with SO_PEEK_OFF, which the
 * description shares with the program and gets back at once.
 *
 * Two oddities of the kernel: it passes over an empty datagram that was peeked
 * before, so a second capture of the same queue does not see it; and a sequenced
 * socket at its end returns 0 for ever, as if empty messages came in.
 */
#define LOG_MODULE "unix"
#include "kinds/fd/unixqueue.h"

#include "base/log.h"
#include "kinds/broker.h"
#include "kinds/fd/unixsender.h"
#include "kinds/sockopt.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum {
	MAX_RIGHTS = 253, /* the kernel's SCM_MAX_FD */
	PASSPIDFD = 76,   /* SO_PASSPIDFD, Linux 6.5 */
};

/* ---- capture ---- */

static int add_packet(struct capture *c, uint32_t id, const void *data, size_t bytes,
		      const struct unixsender_note *note, struct err *err)
{
	SkPacketEntry *entry = snap_new(c->snap, SkPacketEntry, sk_packet_entry);
	struct snap_payload packet = {.bytes = bytes};

	if (!entry || (note && unixsender_save(c, note, entry, err)))
		return err_nomem(err);
	entry->id_for = id;
	entry->length = (uint32_t)bytes;
	packet.entry = &entry->base;
	packet.data = arena_dup(&c->snap->arena, data, bytes);
	if ((bytes && !packet.data) || !vec_push(&c->snap->sk_queues, packet))
		return err_nomem(err);
	return 0;
}

static int set_peek_off(int fd, int off, struct err *err)
{
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off)))
		return err_sys(err, "cannot set the peek offset of a unix socket");
	return 0;
}

/*
 * Peeks from the peek offset on until it has @total bytes. A peek ends where the sender's
 * credentials change, if the reader has asked for them: each piece is a packet with its own.
 */
static int walk_stream(struct capture *c, struct fd_facts *f, uint8_t *buf, size_t total, bool once,
		       size_t *got_out, struct err *err)
{
	bool passcred = sockopt_int(f->own, SOL_SOCKET, SO_PASSCRED) > 0;
	struct unixsender_note note;
	ssize_t got;

	*got_out = 0;
	while (*got_out < total) {
		got = unixsender_peek(f->own, buf, total - *got_out, 0, passcred, &note);
		if (got < 0 && errno != EAGAIN)
			return err_sys(err, "cannot look into a unix socket's queue");
		if (got <= 0 || (once && (size_t)got < total))
			return 0;
		note.msg.msg_namelen = 0; /* it is the peer's, which is made with its name */
		if (add_packet(c, f->id, buf, (size_t)got, &note, err))
			return -1;
		*got_out += (size_t)got;
	}
	return 0;
}

static int capture_stream(struct capture *c, struct fd_facts *f, struct err *err)
{
	cleanup_free uint8_t *buf = NULL;
	int total = 0, old = sockopt_int(f->own, SOL_SOCKET, SO_PEEK_OFF), ret;
	struct err second;
	size_t got = 0;

	if (ioctl(f->own, SIOCINQ, &total))
		return err_sys(err, "cannot ask for the size of a unix socket's queue");
	if (total <= 0)
		return 0;
	buf = malloc((size_t)total);
	if (!buf)
		return err_nomem(err);
	if (old < 0 && walk_stream(c, f, buf, (size_t)total, true, &got, err))
		return -1;
	if (got == (size_t)total)
		return 0;
	if (set_peek_off(f->own, 0, err))
		return -1;
	ret = walk_stream(c, f, buf, (size_t)total, false, &got, err);
	if (set_peek_off(f->own, old, ret ? &second : err) || ret)
		return -1;
	if (got < (size_t)total)
		return err_set(err, 0, "a unix socket's queue of %d bytes shows only %zu", total,
			       got);
	return 0;
}

/* Walks messages with the peek offset at 0. @total: bytes in the queue where the kernel tells, else -1. */
static int walk_messages(struct capture *c, struct fd_facts *f, int total, struct err *err)
{
	bool passcred = sockopt_int(f->own, SOL_SOCKET, SO_PASSCRED) > 0;
	cleanup_free uint8_t *buf = NULL;
	struct unixsender_note note;
	size_t size = 0;
	int walked = 0;
	ssize_t got;

	while (total < 0 || walked < total) {
		got = unixsender_peek(f->own, NULL, 0, MSG_TRUNC, passcred, &note);
		if (got < 0 && errno == EAGAIN)
			break;
		if (got < 0)
			return err_sys(err, "cannot look into a unix socket's queue");
		if ((size_t)got > size) {
			free(buf);
			size = (size_t)got;
			buf = malloc(size);
			if (!buf)
				return err_nomem(err);
		}
		if (got > 0 && recv(f->own, buf, size, MSG_PEEK | MSG_DONTWAIT) != got)
			return err_set(err, 0, "a message in a unix socket's queue changed its size");
		if (total >= 0)
			note.msg.msg_namelen = 0; /* as in a stream */
		if (add_packet(c, f->id, buf, (size_t)got, &note, err))
			return -1;
		walked += (int)got;
	}
	return 0;
}

static int capture_messages(struct capture *c, struct fd_facts *f, int type, struct err *err)
{
	struct pollfd readable = {.fd = f->own, .events = POLLIN};
	int old = sockopt_int(f->own, SOL_SOCKET, SO_PEEK_OFF), total = -1, ret;
	struct err second;

	if (poll(&readable, 1, 0) <= 0 || !(readable.revents & POLLIN))
		return 0;
	if (type == SOCK_SEQPACKET && ioctl(f->own, SIOCINQ, &total))
		return err_sys(err, "cannot ask for the size of a unix socket's queue");
	if (set_peek_off(f->own, 0, err))
		return -1;
	ret = walk_messages(c, f, total, err);
	if (set_peek_off(f->own, old, ret ? &second : err))
		return -1;
	return ret;
}

/* Of a sender that is shown as a pidfd only, no pid can be read here. */
static int pidfd_allowed(const struct fd_facts *f, struct err *err)
{
	struct pollfd readable = {.fd = f->own, .events = POLLIN};

	if (sockopt_int(f->own, SOL_SOCKET, PASSPIDFD) <= 0 ||
	    sockopt_int(f->own, SOL_SOCKET, SO_PASSCRED) > 0 || poll(&readable, 1, 0) <= 0)
		return 0;
	return err_set(err, 0,
		       "unix socket has messages in its queue that tell their sender by a pidfd "
		       "(SO_PASSPIDFD); try again when they have been read");
}

int unixqueue_capture(struct capture *c, struct fd_facts *f, int type, struct err *err)
{
	if (pidfd_allowed(f, err))
		return -1;
	return type == SOCK_STREAM ? capture_stream(c, f, err) : capture_messages(c, f, type, err);
}

/* ---- restore ---- */

/* The next packet for @file_id from *pos on, or NULL. */
static const struct snap_payload *next_packet(const struct restore *r, uint32_t file_id, size_t *pos)
{
	while (*pos < r->snap->sk_queues.n) {
		const struct snap_payload *p = &r->snap->sk_queues.v[(*pos)++];

		if (((const SkPacketEntry *)p->entry)->id_for == file_id)
			return p;
	}
	return NULL;
}

size_t unixqueue_count(const struct restore *r, uint32_t file_id)
{
	size_t pos = 0, n = 0;

	while (next_packet(r, file_id, &pos))
		n++;
	return n;
}

/* The descriptors of one SCM_RIGHTS, as the first control message. */
static int put_rights(struct restore *r, const SkPacketEntry *entry, struct msghdr *msg,
		      struct err *err)
{
	const ScmEntry *scm = entry->scm[0];
	struct cmsghdr *cmsg = msg->msg_control;
	int *fds = (int *)CMSG_DATA(cmsg);

	if (entry->n_scm > 1 || scm->type != SCM_RIGHTS || scm->n_rights > MAX_RIGHTS)
		return err_set(err, EINVAL, "a message with control data of a kind that is unknown");
	for (size_t i = 0; i < scm->n_rights; i++) {
		fds[i] = broker_fd(r, scm->rights[i], err);
		if (fds[i] < 0)
			return err_wrap(err, "descriptor in flight");
	}
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(scm->n_rights * sizeof(int));
	msg->msg_controllen = CMSG_SPACE(scm->n_rights * sizeof(int));
	return 0;
}

static int send_packet(struct restore *r, const struct snap_payload *p, struct unixsender *s,
		       bool stream, struct err *err)
{
	const SkPacketEntry *entry = (const SkPacketEntry *)p->entry;
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(MAX_RIGHTS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} control = {0};
	struct iovec iov = {.iov_base = p->data, .iov_len = p->bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
	ssize_t sent;

	if (entry->n_scm && put_rights(r, entry, &msg, err))
		return -1;
	if (stream && !p->bytes)
		return 0;
	do {
		sent = unixsender_send(r, s, entry, &msg, err);
		if (sent < 0 && err->no == EAGAIN)
			return err_set(err, EAGAIN,
				       "the receive queue takes no more messages; raise "
				       "net.unix.max_dgram_qlen here");
		if (sent < 0)
			return -1;
		msg.msg_controllen = 0;
		iov.iov_base = (uint8_t *)iov.iov_base + sent;
		iov.iov_len -= (size_t)sent;
	} while (iov.iov_len > 0);
	return 0;
}

int unixqueue_fill(struct restore *r, uint32_t file_id, int sender, int receiver, struct err *err)
{
	bool stream = sockopt_int(sender, SOL_SOCKET, SO_TYPE) == SOCK_STREAM;
	struct unixsender s = {.usual = sender, .receiver = receiver};
	const struct snap_payload *p;
	size_t pos = 0, bytes = 0, n = 0;
	int ret = 0;

	while ((p = next_packet(r, file_id, &pos))) {
		bytes += p->bytes;
		n++;
	}
	if (!n)
		return 0;
	/* a message costs about a kilobyte beside its bytes */
	sockopt_grow_sndbuf(sender, bytes + n * 1024);
	for (pos = 0; !ret && (p = next_packet(r, file_id, &pos));)
		ret = send_packet(r, p, &s, stream, err);
	unixsender_finish(&s);
	return ret ? err_wrap(err, "unix socket queue") : 0;
}

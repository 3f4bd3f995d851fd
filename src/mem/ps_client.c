// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "page-client"
#include "mem/ps_client.h"

#include "base/log.h"
#include "wire/tcp.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* How long the server may let us wait in one go: the program stands still meanwhile. */
enum { PATIENCE_MS = 30000, GLANCE_MS = 500 };

/* Waits until the socket can be written (POLLOUT) or read (POLLIN). */
static int wait_for(struct ps_client *c, short events, struct err *err)
{
	struct pollfd p = {.fd = c->fd, .events = events};

	for (int waited = 0; waited < PATIENCE_MS; waited += GLANCE_MS) {
		int n = poll(&p, 1, GLANCE_MS);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_sys(err, "%s: poll", c->server);
		if (c->interrupted && c->interrupted(err))
			return -1;
	}
	return err_set(err, ETIMEDOUT, "%s: it has not %s anything for %d s", c->server,
		       events == POLLIN ? "answered" : "taken", PATIENCE_MS / 1000);
}

/* Why the connection is gone; a server that refuses something says nothing and closes. */
static int lost(struct ps_client *c, struct err *err)
{
	if (tunnel_fault(c->tunnel, err))
		return err_wrap(err, "%s", c->server);
	if (errno == EPIPE || errno == ECONNRESET)
		return err_sysno(err, errno,
				 "%s: the server closed the connection; its log says why", c->server);
	return err_sys(err, "%s: the connection is broken", c->server);
}

static int send_all(struct ps_client *c, struct iovec *v, size_t n, struct err *err)
{
	struct msghdr msg = {.msg_iov = v, .msg_iovlen = n};
	ssize_t put;

	while (msg.msg_iovlen > 0) {
		put = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (put < 0 && errno == EAGAIN) {
			if (wait_for(c, POLLOUT, err))
				return -1;
			continue;
		}
		if (put < 0 && errno != EINTR)
			return lost(c, err);
		for (c->sent_bytes += put > 0 ? (uint64_t)put : 0;
		     put > 0 && msg.msg_iovlen > 0 && (size_t)put >= msg.msg_iov->iov_len;
		     msg.msg_iov++, msg.msg_iovlen--)
			put -= (ssize_t)msg.msg_iov->iov_len;
		if (put > 0) {
			msg.msg_iov->iov_base = (uint8_t *)msg.msg_iov->iov_base + put;
			msg.msg_iov->iov_len -= (size_t)put;
		}
	}
	return 0;
}

static int send_request(struct ps_client *c, const struct ps_request *r, const void *data,
			struct err *err)
{
	uint8_t header[PS_REQUEST_BYTES];
	struct iovec v[] = {{header, sizeof(header)}, {(void *)data, ps_data_bytes(r)}};

	ps_encode(r, header);
	return send_all(c, v, data ? 2 : 1, err);
}

static int receive(struct ps_client *c, void *buf, size_t bytes, struct err *err)
{
	uint8_t *p = buf;
	ssize_t got;

	while (bytes) {
		if (wait_for(c, POLLIN, err))
			return -1;
		got = recv(c->fd, p, bytes, MSG_DONTWAIT);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got == 0)
			errno = ECONNRESET;
		if (got <= 0)
			return lost(c, err);
		p += got;
		bytes -= (size_t)got;
	}
	return 0;
}

/* Sends a request that is answered, now: what was gathered goes out with it. */
static int ask(struct ps_client *c, const struct ps_request *r, void *answer, size_t bytes,
	       struct err *err)
{
	char name[16];

	if (send_request(c, r, NULL, err))
		return -1;
	tcp_cork(c->fd, false);
	if (receive(c, answer, bytes, err))
		return err_wrap(err, "no answer to %s", ps_cmd_name(r->cmd, name));
	tcp_cork(c->fd, true);
	return 0;
}

/* ---- the sink ---- */

static int object_of(const struct snap_pagemap *pm, struct ps_object *out, struct err *err)
{
	*out = (struct ps_object){.shmem = pm->shmem, .id = pm->id};
	if (pm->id >> 56)
		return err_set(err, ERANGE,
			       "shared memory %llu cannot be sent to a page server: its number has "
			       "more than 56 bits",
			       (unsigned long long)pm->id);
	return 0;
}

static int client_begin(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	struct ps_client *c = (struct ps_client *)s;
	struct ps_object object;
	uint8_t answer;

	if (object_of(pm, &object, err))
		return -1;
	pm->remote = true;
	c->dst_id = ps_dst_id(&object);
	if (ask(c, &(struct ps_request){.cmd = PS_OPEN2, .dst_id = c->dst_id}, &answer, 1, err))
		return -1;
	if (answer > 1)
		return err_set(err, EPROTO, "%s: answer %u to OPEN2, which is neither yes nor no",
			       c->server, answer);
	s->no_parent = !answer;
	return 0;
}

/* @n pages of what is open, at @vaddr: their contents follow, or their flags say that there are none. */
static struct ps_request add_request(const struct ps_client *c, uint64_t vaddr, uint64_t n,
				     uint32_t flags)
{
	return (struct ps_request){.cmd = PS_ADD_F,
				   .flags = (uint16_t)flags,
				   .nr_pages = n,
				   .vaddr = vaddr,
				   .dst_id = c->dst_id};
}

static int client_pages(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr,
			const void *data, uint64_t n, uint32_t flags, struct err *err)
{
	struct ps_client *c = (struct ps_client *)s;
	struct ps_request r = add_request(c, vaddr, n, flags);

	return send_request(c, &r, data, err);
}

static int client_absent(struct page_sink *s, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
			 uint32_t flags, struct err *err)
{
	struct ps_client *c = (struct ps_client *)s;
	struct ps_request r = add_request(c, vaddr, n, flags);
	char name[64];

	if ((flags & PE_PARENT) && s->no_parent)
		return err_set(err, ENOENT,
			       "%s: it has no earlier %s for pages that are unchanged; start it with "
			       "--prev-images-dir",
			       c->server, snapshot_pagemap_name(pm, name));
	return send_request(c, &r, NULL, err);
}

static int client_end(struct page_sink *s, struct snap_pagemap *pm, struct err *err)
{
	((struct ps_client *)s)->dst_id = 0;
	return 0;
}

static const struct page_sink_ops client_ops = {
	.name = "page server",
	.begin = client_begin,
	.pages = client_pages,
	.absent = client_absent,
	.end = client_end,
};

/* ---- the conversation ---- */

void ps_client_init(struct ps_client *c, int fd, struct tunnel *tunnel, bool given)
{
	char text[TCP_PEER_TEXT];

	*c = (struct ps_client){.sink = {.ops = &client_ops},
				.fd = fd,
				.tunnel = tunnel,
				.given = given};
	snprintf(c->server, sizeof(c->server), "page server %.60s",
		 tunnel ? tunnel_peer(tunnel) : tcp_peer_text(fd, text));
	tcp_prepare(fd);
	tcp_cork(fd, true);
}

int ps_client_announce(struct ps_client *c, const struct ps_object *object, uint64_t pages,
		       bool *has_parent_out, struct err *err)
{
	struct ps_request r = {.cmd = PS_PARENT, .nr_pages = pages, .dst_id = ps_dst_id(object)};
	int32_t answer;

	if (ask(c, &r, &answer, sizeof(answer), err))
		return -1;
	if (answer != 0 && answer != 1)
		return err_set(err, EPROTO, "%s: answer %d to PARENT, which is neither yes nor no",
			       c->server, answer);
	*has_parent_out = answer;
	return 0;
}

int ps_client_close(struct ps_client *c, struct err *err)
{
	int32_t status;

	if (ask(c, &(struct ps_request){.cmd = c->given ? PS_FORCE_CLOSE : PS_CLOSE}, &status,
		sizeof(status), err))
		return -1;
	if (status)
		return err_set(err, EIO,
			       "%s: it could not store the memory (status %d); its log says why",
			       c->server, status);
	c->closed = true;
	log_info("%s has stored the memory: %llu bytes sent", c->server,
		 (unsigned long long)c->sent_bytes);
	return 0;
}

void ps_client_finish(struct ps_client *c)
{
	if (c->fd >= 0)
		close(steal_fd(&c->fd));
	if (c->closed)
		tunnel_finish(c->tunnel);
	else
		tunnel_abort(c->tunnel);
	c->tunnel = NULL;
}

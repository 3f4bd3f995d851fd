// SPDX-License-Identifier: Apache-2.0
/*
 * The target's end of lanes: the unix socket to which "agent --join" brings its
 * descriptors, perhaps a TCP port, and whoever has connected but not said all yet.
 */
#define LOG_MODULE "lane"
#include "base/io.h"
#include "base/log.h"
#include "migrate/lane_priv.h"
#include "migrate/record.h"
#include "wire/tcp.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { MAX_GUESTS = 2 * LANES_MAX, BACKLOG = 2 * LANES_MAX, JOIN_MS = 20000 };

/* Connected, and not (yet) a lane. */
struct guest {
	int conn;    /* to "agent --join", or the lane itself (TCP) */
	int in, out; /* what --join has brought; -1: nothing yet */
	bool tcp;
	struct tunnel *tunnel; /* of TLS; then conn is its end */
	uint8_t hello[LANE_HELLO_BYTES];
	size_t have;
};

struct hall {
	char token[WIRE_TOKEN_CHARS + 1];
	int epoll, door, tcp;
	uint16_t port;
	const struct tls *tls;
	unsigned int patience_ms;        /* 0: as it is */
	struct guest guests[MAX_GUESTS]; /* oldest first */
	size_t n;
};

int lane_door_address(const char *token, enum lane_kind kind, struct sockaddr_un *addr,
		      struct err *err)
{
	int dirfd = record_directory(err);

	if (dirfd < 0)
		return -1;
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s.%s", dirfd, token,
		 kind == LANE_FILES ? "files" : "join");
	return dirfd;
}

int lane_door_open(const char *token, enum lane_kind kind, struct err *err)
{
	struct sockaddr_un addr;
	cleanup_close int dirfd = lane_door_address(token, kind, &addr, err);
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (dirfd < 0)
		return -1;
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, BACKLOG) < 0)
		return err_sys(err, "cannot open the door for more connections");
	return steal_fd(&fd);
}

void lane_door_close(int door, const char *token, enum lane_kind kind)
{
	struct sockaddr_un addr;
	struct err ignored;
	int dirfd;

	if (door < 0)
		return;
	close(door);
	dirfd = lane_door_address(token, kind, &addr, &ignored);
	if (dirfd >= 0) {
		unlink(addr.sun_path);
		close(dirfd);
	}
}

static int watch(struct hall *h, int fd, struct err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(h->epoll, EPOLL_CTL_ADD, fd, &ev) < 0 ? err_sys(err, "epoll") : 0;
}

struct hall *hall_open(const char *token, const char *address, const struct tls *tls, struct err *err)
{
	struct hall *h = calloc(1, sizeof(*h));

	if (!h) {
		err_nomem(err);
		return NULL;
	}
	snprintf(h->token, sizeof(h->token), "%s", token);
	h->door = h->tcp = -1;
	h->tls = tls;
	h->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (h->epoll < 0)
		err_sys(err, "epoll");
	else
		h->door = lane_door_open(token, LANE_BULK, err);
	if (h->door >= 0 && address)
		h->tcp = tcp_listen(address, 0, &h->port, err);
	if (h->door < 0 || (address && h->tcp < 0) || watch(h, h->door, err) < 0 ||
	    (h->tcp >= 0 && watch(h, h->tcp, err) < 0)) {
		hall_close(h);
		return NULL;
	}
	return h;
}

static void close_guest(struct guest *g)
{
	close(g->conn);
	if (g->in >= 0)
		close(g->in);
	if (g->out >= 0)
		close(g->out);
	tunnel_abort(g->tunnel);
}

static void forget_guest(struct hall *h, size_t i)
{
	epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->guests[i].conn, NULL);
	memmove(h->guests + i, h->guests + i + 1, (--h->n - i) * sizeof(*h->guests));
}

static void drop_guest(struct hall *h, size_t i, const char *why)
{
	struct guest g = h->guests[i];

	log_warn("a connection is dropped: %s", why);
	forget_guest(h, i);
	close_guest(&g);
}

void hall_close(struct hall *h)
{
	if (!h)
		return;
	while (h->n)
		drop_guest(h, 0, "no more are taken");
	lane_door_close(h->door, h->token, LANE_BULK);
	if (h->tcp >= 0)
		close(h->tcp);
	if (h->epoll >= 0)
		close(h->epoll);
	free(h);
}

void hall_patience(struct hall *h, unsigned int ms)
{
	h->patience_ms = ms;
}

uint16_t hall_port(const struct hall *h)
{
	return h->port;
}

int hall_fd(const struct hall *h)
{
	return h->epoll;
}

static void welcome(struct hall *h, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct guest g = {.conn = fd, .in = -1, .out = -1, .tcp = listener == h->tcp};
	struct err err;

	if (fd < 0)
		return;
	if (h->n == MAX_GUESTS)
		drop_guest(h, 0, "too many, and it says nothing");
	if (g.tcp)
		tcp_prepare(fd);
	if (g.tcp && h->tls) {
		g.tunnel = tunnel_open(h->tls, fd, NULL, NULL, &g.conn, &err);
		if (!g.tunnel) {
			log_warn("%s", err.text);
			return;
		}
	}
	if (watch(h, g.conn, &err) < 0) {
		log_warn("%s", err.text);
		close_guest(&g);
		return;
	}
	h->guests[h->n++] = g;
}

ssize_t lane_door_receive(int conn, uint8_t *buf, size_t room, int *in_out, int *out_out)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec iov = {buf, room};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(conn, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	int fds[2];

	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(fds)) && *in_out < 0) {
		memcpy(fds, CMSG_DATA(c), sizeof(fds));
		*in_out = fds[0];
		*out_out = fds[1];
	}
	return n;
}

/* It is a lane. One that has said a version hears of ours. */
static int answer(const struct lane *lane)
{
	const uint8_t older[] = {(uint8_t)lane->kind};
	const uint8_t knowing[] = {lane_knowing(lane->kind), lane->place.version};

	if (lane->place.version)
		return write(lane->out, knowing, sizeof(knowing)) == sizeof(knowing) ? 0 : -1;
	return write(lane->out, older, sizeof(older)) == sizeof(older) ? 0 : -1;
}

/* What the guest has said makes a lane. NULL, or why not. */
static const char *admit(struct hall *h, struct guest *g, struct lane *out)
{
	char token[WIRE_TOKEN_CHARS + 1];
	struct lane_place place;
	enum lane_kind kind;

	if (!lane_hello_parse(g->hello, token, &kind, &place) || kind == LANE_FILES)
		return "it is no lane";
	if (CRYPTO_memcmp(token, h->token, WIRE_TOKEN_CHARS) != 0)
		return "it has another token";
	if (!g->tcp && g->in < 0)
		return "it brings no connection";
	if (kind == LANE_TRUNK && !g->tunnel)
		return "it is not secret";
	*out = g->tcp ? (struct lane){.kind = kind,
				      .in = g->conn,
				      .out = g->conn,
				      .hold = -1,
				      .tunnel = g->tunnel} :
			(struct lane){.kind = kind, .in = g->in, .out = g->out, .hold = g->conn};
	lane_set_up(out);
	if (h->patience_ms)
		lane_patience(out, h->patience_ms);
	out->place = place;
	out->place.version = MIN(place.version, LANE_VERSION);
	return answer(out) == 0 ? NULL : "it is gone already";
}

/* 1: it has become a lane. */
static int hear_guest(struct hall *h, size_t i, struct lane *out)
{
	struct guest *g = &h->guests[i];
	ssize_t n = lane_door_receive(g->conn, g->hello + g->have, sizeof(g->hello) - g->have,
				      &g->in, &g->out);
	const char *why;
	struct err end;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		err_set(&end, EPIPE, "it ended before it said what it is");
		(void)tunnel_explain(g->tunnel, &end);
		drop_guest(h, i, end.text);
		return 0;
	}
	g->have += (size_t)n;
	if (g->have < sizeof(g->hello))
		return 0;
	why = admit(h, g, out);
	if (why) {
		*out = LANE_NONE;
		drop_guest(h, i, why);
		return 0;
	}
	forget_guest(h, i);
	return 1;
}

int hall_work(struct hall *h, struct lane *out, struct err *err)
{
	struct epoll_event ev;
	int n;

	*out = LANE_NONE;
	while ((n = epoll_wait(h->epoll, &ev, 1, 0)) > 0) {
		if (ev.data.fd == h->door || ev.data.fd == h->tcp) {
			welcome(h, ev.data.fd);
			continue;
		}
		for (size_t i = 0; i < h->n; i++) {
			if (h->guests[i].conn != ev.data.fd)
				continue;
			if (hear_guest(h, i, out))
				return 1;
			break;
		}
	}
	return n < 0 && errno != EINTR ? err_sys(err, "epoll") : 0;
}

/* ---- ferry agent --join ---- */

static int read_hello(int in, uint8_t hello[LANE_HELLO_BYTES], struct err *err)
{
	size_t have = 0;

	/* not a byte more: what follows belongs to the agent */
	while (have < LANE_HELLO_BYTES) {
		struct pollfd pfd = {.fd = in, .events = POLLIN};
		ssize_t n;

		if (poll(&pfd, 1, JOIN_MS) == 0)
			return err_set(err, ETIMEDOUT, "the source says nothing");
		n = read(in, hello + have, LANE_HELLO_BYTES - have);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return err_set(err, EPIPE, "the connection ended");
		have += (size_t)n;
	}
	return 0;
}

static int hand_over(int door, const uint8_t hello[LANE_HELLO_BYTES], int in, int out)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control = {0};
	const int fds[2] = {in, out};
	struct iovec iov = {(void *)hello, LANE_HELLO_BYTES};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control.room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(c), fds, sizeof(fds));
	return sendmsg(door, &msg, MSG_NOSIGNAL) == LANE_HELLO_BYTES ? 0 : -1;
}

int lane_join(int in, int out, struct err *err)
{
	uint8_t hello[LANE_HELLO_BYTES], byte;
	char token[WIRE_TOKEN_CHARS + 1];
	cleanup_close int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cleanup_close int dirfd = -1;
	struct sockaddr_un addr;
	enum lane_kind kind;
	int rc = read_hello(in, hello, err);

	if (rc == 0 && !lane_hello_parse(hello, token, &kind, NULL))
		rc = err_set(err, EPROTO, "that is no lane of a migration");
	if (rc == 0) {
		dirfd = lane_door_address(token, kind, &addr, err);
		rc = dirfd < 0 ? -1 : 0;
	}
	if (rc == 0 && (door < 0 || connect(door, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
			hand_over(door, hello, in, out) < 0))
		rc = err_sys(err, "no agent of this migration takes connections");
	close(in);
	close(out);
	if (rc < 0)
		return -1;
	/* until the agent lets go: the ssh session ends with us */
	while (read(door, &byte, 1) < 0 && errno == EINTR)
		;
	return 0;
}

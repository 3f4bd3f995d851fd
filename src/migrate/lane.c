// SPDX-License-Identifier: Apache-2.0
#include "migrate/lane.h"

#include "base/io.h"
#include "migrate/lane_priv.h"
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

/* A lane's ssh ends by itself when its pipes are closed; it gets this long. */
enum { CONNECT_MS = 5000, SSH_END_MS = 500, PIPE_BYTES = 1 << 20 };

void lane_set_up(struct lane *lane)
{
	const int fds[] = {lane->in, lane->out};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		int flags = fcntl(fds[i], F_GETFL);

		if (flags >= 0)
			fcntl(fds[i], F_SETFL, flags | O_NONBLOCK);
		fcntl(fds[i], F_SETFD, FD_CLOEXEC);
		/* neither needs to be a pipe */
		(void)fcntl(fds[i], F_SETPIPE_SZ, PIPE_BYTES);
	}
}

/* The first bytes. The pipe or socket is empty: they fit. */
static int greet(struct lane *lane, const struct lane_call *call, const char *host, struct err *err)
{
	uint8_t hello[LANE_HELLO_BYTES];

	lane->kind = call->kind;
	lane->place = call->place;
	lane_hello_make(call, hello);
	if (io_write_full(lane->out, hello, sizeof(hello)) == 0)
		return 0;
	err_sys(err, "%s: cannot open one more connection", host);
	lane_close(lane);
	return -1;
}

int lane_dial_ssh(const struct remote *remote, const struct lane_call *call, struct lane *out,
		  struct err *err)
{
	struct connection conn;

	*out = LANE_NONE;
	if (connect_agent(remote, "agent --join", &conn, err) < 0)
		return -1;
	*out = (struct lane){.in = conn.in, .out = conn.out, .hold = -1, .ssh = conn.pid};
	lane_set_up(out);
	return greet(out, call, remote->host, err);
}

int lane_dial_tcp(const char *host, uint16_t port, const struct lane_call *call, struct lane *out,
		  struct err *err)
{
	int fd = tcp_connect(host, port, CONNECT_MS, err);

	*out = LANE_NONE;
	if (fd < 0)
		return -1;
	*out = (struct lane){.in = fd, .out = fd, .hold = -1};
	lane_set_up(out);
	return greet(out, call, host, err);
}

int lane_dial_tls(const struct tls *tls, const char *host, uint16_t port,
		  const struct lane_call *call, struct lane *out, struct err *err)
{
	int fd = tcp_connect(host, port, CONNECT_MS, err);
	struct tunnel *tunnel;

	*out = LANE_NONE;
	if (fd < 0)
		return -1;
	tunnel = tunnel_open(tls, fd, host, NULL, &fd, err);
	if (!tunnel)
		return err_wrap(err, "%s, port %u", host, port);
	*out = (struct lane){.in = fd, .out = fd, .hold = -1, .tunnel = tunnel, .flush = true};
	lane_set_up(out);
	return greet(out, call, host, err);
}

void lane_patience(const struct lane *lane, unsigned int ms)
{
	if (lane->tunnel)
		tunnel_patience(lane->tunnel, ms);
	else
		tcp_patience(lane->in, ms); /* does nothing to a pipe */
}

/* 0: no more comes. */
static int hear_byte(struct lane *lane, int timeout_ms, const char *host, uint8_t *out,
		     struct err *err)
{
	struct pollfd pfd = {.fd = lane->in, .events = POLLIN};
	ssize_t n;

	do {
		if (!lane_may_hold(lane) && poll(&pfd, 1, timeout_ms) == 0)
			return err_set(err, ETIMEDOUT,
				       "%s: one more connection does not come about", host);
		n = lane_read(lane, out, 1);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n == 1)
		return 0;
	err_set(err, EPIPE, "%s: one more connection is refused", host);
	return tunnel_explain(lane->tunnel, err);
}

int lane_heard(struct lane *lane, int timeout_ms, const char *host, struct err *err)
{
	uint8_t answer, version = 0;

	if (hear_byte(lane, timeout_ms, host, &answer, err) < 0)
		return -1;
	if (lane->place.version && answer == lane_knowing(lane->kind)) {
		if (hear_byte(lane, timeout_ms, host, &version, err) < 0)
			return -1;
	} else if (answer != (uint8_t)lane->kind) {
		return err_set(err, EPROTO, "%s: what answers there is no ferry", host);
	}
	if (version > lane->place.version)
		return err_set(err, EPROTO,
			       "%s: one more connection has a version that nobody offered", host);
	lane->place.version = version;
	return 0;
}

int lane_go_direct(struct lane *lane, struct err *err)
{
	if (!lane->tunnel)
		return 0;
	if (tunnel_take_over(lane->tunnel, &lane->in, err) < 0)
		return -1;
	lane->out = lane->in;
	lane->direct = true;
	return 0;
}

ssize_t lane_read(const struct lane *lane, void *buf, size_t bytes)
{
	return lane->direct ? tunnel_read(lane->tunnel, buf, bytes) : read(lane->in, buf, bytes);
}

ssize_t lane_write(const struct lane *lane, const void *buf, size_t bytes)
{
	return lane->direct ? tunnel_write(lane->tunnel, buf, bytes) : write(lane->out, buf, bytes);
}

bool lane_may_hold(const struct lane *lane)
{
	return lane->direct && tunnel_may_hold(lane->tunnel);
}

void lane_close(struct lane *lane)
{
	if (lane->in >= 0)
		close(lane->in);
	if (lane->out >= 0 && lane->out != lane->in)
		close(lane->out);
	if (lane->hold >= 0)
		close(lane->hold);
	if (lane->ssh > 0)
		connection_end(lane->ssh, SSH_END_MS);
	if (lane->flush)
		tunnel_finish(lane->tunnel);
	else
		tunnel_abort(lane->tunnel);
	*lane = LANE_NONE;
}

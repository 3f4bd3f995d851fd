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
static int greet(struct lane *lane, const char *token, const char *host, struct err *err)
{
	uint8_t hello[LANE_HELLO_BYTES] = {0};

	memcpy(hello, LANE_MAGIC, LANE_MAGIC_BYTES);
	memcpy(hello + LANE_MAGIC_BYTES, token, WIRE_TOKEN_CHARS);
	hello[LANE_KIND_AT] = (uint8_t)lane->kind;
	if (io_write_full(lane->out, hello, sizeof(hello)) == 0)
		return 0;
	err_sys(err, "%s: cannot open one more connection", host);
	lane_close(lane);
	return -1;
}

int lane_dial_ssh(const struct remote *remote, const char *token, enum lane_kind kind,
		  struct lane *out, struct err *err)
{
	struct connection conn;

	*out = LANE_NONE;
	if (connect_agent(remote, "agent --join", &conn, err) < 0)
		return -1;
	*out = (struct lane){.kind = kind, .in = conn.in, .out = conn.out, .hold = -1, .ssh = conn.pid};
	lane_set_up(out);
	return greet(out, token, remote->host, err);
}

int lane_dial_tcp(const char *host, uint16_t port, const char *token, enum lane_kind kind,
		  struct lane *out, struct err *err)
{
	int fd = tcp_connect(host, port, CONNECT_MS, err);

	*out = LANE_NONE;
	if (fd < 0)
		return -1;
	*out = (struct lane){.kind = kind, .in = fd, .out = fd, .hold = -1};
	lane_set_up(out);
	return greet(out, token, host, err);
}

int lane_dial_tls(const struct tls *tls, const char *host, uint16_t port, const char *token,
		  enum lane_kind kind, struct lane *out, struct err *err)
{
	int fd = tcp_connect(host, port, CONNECT_MS, err);
	struct tunnel *tunnel;

	*out = LANE_NONE;
	if (fd < 0)
		return -1;
	tunnel = tunnel_open(tls, fd, host, NULL, &fd, err);
	if (!tunnel)
		return err_wrap(err, "%s, port %u", host, port);
	*out = (struct lane){
		.kind = kind, .in = fd, .out = fd, .hold = -1, .tunnel = tunnel, .flush = true};
	lane_set_up(out);
	return greet(out, token, host, err);
}

void lane_patience(const struct lane *lane, unsigned int ms)
{
	if (lane->tunnel)
		tunnel_patience(lane->tunnel, ms);
	else
		tcp_patience(lane->in, ms); /* does nothing to a pipe */
}

int lane_heard(struct lane *lane, int timeout_ms, const char *host, struct err *err)
{
	struct pollfd pfd = {.fd = lane->in, .events = POLLIN};
	uint8_t answer = 0;
	ssize_t n;
	int ready;

	while ((ready = poll(&pfd, 1, timeout_ms)) < 0 && errno == EINTR)
		;
	if (ready == 0)
		return err_set(err, ETIMEDOUT, "%s: one more connection does not come about", host);
	n = read(lane->in, &answer, 1);
	if (n == 1 && answer == (uint8_t)lane->kind)
		return 0;
	err_set(err, EPIPE, "%s: one more connection is refused", host);
	return tunnel_explain(lane->tunnel, err);
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

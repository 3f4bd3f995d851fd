// SPDX-License-Identifier: Apache-2.0
#include "wire/pump.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FLOW_BYTES = 128 << 10 };

/* One direction. Descriptors become -1 when they have ended. */
struct flow {
	int from, to;
	uint8_t *buf;
	size_t start, end;
};

static void set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static bool is_later(ssize_t n)
{
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void pull(struct flow *f)
{
	ssize_t n = read(f->from, f->buf, FLOW_BYTES);

	if (is_later(n))
		return;
	f->start = 0;
	f->end = n > 0 ? (size_t)n : 0;
	if (n <= 0)
		f->from = -1;
}

/* Whoever takes nothing any more need not be asked for more, either. */
static void push(struct flow *f)
{
	ssize_t n = write(f->to, f->buf + f->start, f->end - f->start);

	if (is_later(n))
		return;
	if (n <= 0)
		f->from = f->to = -1;
	f->start = n > 0 ? f->start + (size_t)n : f->end;
}

static bool has_some(const struct flow *f)
{
	return f->start < f->end;
}

/* The end of a direction is told once: to a socket by shutting it down, to a pipe by closing it. */
static void pass_end(struct flow *f, struct pump_end *of)
{
	if (f->from >= 0 || has_some(f) || f->to < 0)
		return;
	if (of->out != of->in) {
		close(of->out);
		of->out = -1;
	} else {
		shutdown(of->out, SHUT_WR);
	}
	f->to = -1;
}

static int work(struct flow *up, struct flow *down, struct pump_end *far, struct err *err)
{
	struct flow *flows[] = {up, down};

	while (down->from >= 0 || has_some(down)) {
		struct pollfd p[4];

		for (size_t i = 0; i < ARRAY_SIZE(flows); i++) {
			bool some = has_some(flows[i]);

			p[2 * i] = (struct pollfd){.fd = some ? -1 : flows[i]->from,
						   .events = POLLIN};
			p[2 * i + 1] = (struct pollfd){.fd = some ? flows[i]->to : -1,
						       .events = POLLOUT};
		}
		if (poll(p, ARRAY_SIZE(p), -1) < 0) {
			if (errno == EINTR)
				continue;
			return err_sys(err, "poll");
		}
		for (size_t i = 0; i < ARRAY_SIZE(flows); i++) {
			if (p[2 * i].revents)
				pull(flows[i]);
			if (p[2 * i + 1].revents)
				push(flows[i]);
		}
		pass_end(up, far);
	}
	return 0;
}

static void close_end(struct pump_end e)
{
	if (e.in >= 0)
		close(e.in);
	if (e.out >= 0 && e.out != e.in)
		close(e.out);
}

int pump_run(struct pump_end near, struct pump_end far, struct err *err)
{
	struct flow up = {.from = near.in, .to = far.out, .buf = malloc(FLOW_BYTES)};
	struct flow down = {.from = far.in, .to = near.out, .buf = malloc(FLOW_BYTES)};
	const int fds[] = {near.in, near.out, far.in, far.out};
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		set_nonblocking(fds[i]);
	rc = up.buf && down.buf ? work(&up, &down, &far, err) : err_nomem(err);
	free(up.buf);
	free(down.buf);
	close_end(near);
	close_end(far);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>

#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44
#endif

enum {
	BACKLOG = 64,
	RTO_MAX_LEAST_MS = 1000,
	SILENCE_MS = 30000,
	KEEPALIVE_PROBES = 3,
	KEEPALIVE_PROBES_MAX = 127
};

static struct addrinfo *resolve(const char *host, uint16_t port, int flags, struct err *err)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC,
				       .ai_socktype = SOCK_STREAM,
				       .ai_flags = flags | AI_NUMERICSERV};
	struct addrinfo *list = NULL;
	char service[8];
	int rc;

	snprintf(service, sizeof(service), "%u", port);
	rc = getaddrinfo(host, service, &hints, &list);
	if (rc == 0)
		return list;
	if (rc == EAI_NONAME && flags & AI_NUMERICHOST)
		err_set(err, 0, "%.200s is no numeric address of this host", host);
	else if (rc == EAI_SYSTEM)
		err_sys(err, "%.200s: cannot find the address", host);
	else
		err_set(err, 0, "%.200s: %s", host, gai_strerror(rc));
	return NULL;
}

static void set_option(int fd, int level, int option, int value)
{
	/* best effort by contract */
	(void)!setsockopt(fd, level, option, &value, sizeof(value));
}

/* The kernel counts in whole seconds, from one. */
static void ask_idle_peers(int fd, unsigned int ms, int probes)
{
	int seconds = MAX(1, (int)(ms / 1000 / KEEPALIVE_PROBES));

	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
}

void tcp_patience(int fd, unsigned int ms)
{
	ask_idle_peers(fd, ms, KEEPALIVE_PROBES);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)ms);
}

void tcp_watch(int fd, unsigned int ms)
{
	ask_idle_peers(fd, ms, KEEPALIVE_PROBES_MAX);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 0);
	/* Linux 6.15: else whoever has not read for long is asked in longer and longer intervals */
	set_option(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, MAX(RTO_MAX_LEAST_MS, (int)(ms / 2)));
}

int tcp_awaits_ms(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	/* probes: of an idle peer, or of one whose window is closed; counted until one is answered */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ||
	    !(info.tcpi_unacked || info.tcpi_probes))
		return -1;
	return (int)MIN(info.tcpi_last_ack_recv, MIN(info.tcpi_last_data_recv, (uint32_t)INT_MAX));
}

void tcp_prepare(int fd)
{
	static const char cubic[] = "cubic";

	(void)!setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cubic, sizeof(cubic) - 1);
	tcp_patience(fd, SILENCE_MS);
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

void tcp_cork(int fd, bool corked)
{
	set_option(fd, IPPROTO_TCP, TCP_CORK, corked);
}

void tcp_close_resets(int fd, bool resets)
{
	const struct linger none = {.l_onoff = resets};

	(void)!setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

/* ---- listening ---- */

static int bound_port(int fd, uint16_t *port_out, struct err *err)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addr;
	socklen_t len = sizeof(addr);

	memset(&addr, 0, sizeof(addr));
	if (getsockname(fd, &addr.any, &len))
		return err_sys(err, "cannot ask for the port");
	*port_out = ntohs(addr.any.sa_family == AF_INET6 ? addr.v6.sin6_port : addr.v4.sin_port);
	return 0;
}

int tcp_listen(const char *address, uint16_t port, uint16_t *port_out, struct err *err)
{
	struct addrinfo *ai = resolve(address ? address : "127.0.0.1", port,
				      AI_NUMERICHOST | AI_PASSIVE, err);
	cleanup_close int fd = -1;
	int rc;

	if (!ai)
		return -1;
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	rc = fd < 0 || bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, BACKLOG);
	if (rc)
		err_sys(err, "cannot listen on %.200s, port %u", address ? address : "127.0.0.1",
			port);
	freeaddrinfo(ai);
	if (rc || bound_port(fd, port_out, err))
		return -1;
	return steal_fd(&fd);
}

/* ---- connecting ---- */

/* Waits until a connection is made or has failed: 0 or an errno. */
static int await_connection(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int n, no = 0;

	do {
		n = poll(&p, 1, timeout_ms);
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return ETIMEDOUT;
	if (n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &no, &len))
		return errno;
	return no;
}

/* A connected, blocking descriptor, or -1 with errno. */
static int connect_one(const struct addrinfo *ai, int timeout_ms)
{
	cleanup_close int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
				      ai->ai_protocol);
	int no = 0;

	if (fd < 0)
		return -1;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen))
		no = errno == EINPROGRESS || errno == EINTR ? await_connection(fd, timeout_ms) :
							      errno;
	if (no) {
		errno = no;
		return -1;
	}
	if (fcntl(fd, F_SETFL, 0) < 0)
		return -1;
	tcp_prepare(fd);
	return steal_fd(&fd);
}

int tcp_connect(const char *host, uint16_t port, int timeout_ms, struct err *err)
{
	struct addrinfo *list = resolve(host, port, 0, err), *ai;
	int fd = -1;

	for (ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = connect_one(ai, timeout_ms);
	if (list && fd < 0)
		err_sys(err, "cannot connect to %.200s, port %u", host, port);
	if (list)
		freeaddrinfo(list);
	return fd;
}

/* ---- names ---- */

const char *tcp_address_text(const struct sockaddr_storage *addr, char buf[static TCP_PEER_TEXT])
{
	char host[64], port[8];

	if ((addr->ss_family != AF_INET && addr->ss_family != AF_INET6) ||
	    getnameinfo((const struct sockaddr *)addr, sizeof(*addr), host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		return strcpy(buf, "a local peer");
	snprintf(buf, TCP_PEER_TEXT, addr->ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
	return buf;
}

const char *tcp_peer_text(int fd, char buf[static TCP_PEER_TEXT])
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);

	if (getpeername(fd, (struct sockaddr *)&addr, &len))
		addr.ss_family = AF_UNSPEC;
	return tcp_address_text(&addr, buf);
}

// SPDX-License-Identifier: Apache-2.0
// Listening TCP sockets, v4 and v6, with options; a bound one and an unbound one. A client can
// connect afterwards.
#include "victim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTEN4, LISTEN6, BOUND, PLAIN, SOCKETS };

static const struct {
	int level, name;
} options[] = {{SOL_SOCKET, SO_REUSEADDR},  {SOL_SOCKET, SO_REUSEPORT}, {SOL_SOCKET, SO_KEEPALIVE},
	       {SOL_SOCKET, SO_ACCEPTCONN}, {SOL_SOCKET, SO_SNDBUF},    {SOL_SOCKET, SO_RCVBUF},
	       {SOL_TCP, TCP_NODELAY},      {SOL_TCP, TCP_KEEPIDLE},    {SOL_TCP, TCP_KEEPINTVL},
	       {SOL_TCP, TCP_KEEPCNT}};

static int fds[SOCKETS];
static struct sockaddr_storage names[SOCKETS];
static socklen_t name_lens[SOCKETS];

static void set(int fd, int level, int name, int value)
{
	MUST(setsockopt(fd, level, name, &value, sizeof(value)));
}

static void look(int fd, int values[])
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		socklen_t len = sizeof(int);

		MUST(getsockopt(fd, options[i].level, options[i].name, &values[i], &len));
	}
}

static void bind_loopback(int nr)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	if (nr == LISTEN6)
		MUST(bind(fds[nr], (struct sockaddr *)&six, sizeof(six)));
	else
		MUST(bind(fds[nr], (struct sockaddr *)&four, sizeof(four)));
	name_lens[nr] = sizeof(names[nr]);
	MUST(getsockname(fds[nr], (struct sockaddr *)&names[nr], &name_lens[nr]));
}

static void check_connect(int nr)
{
	int client = MUST(socket(names[nr].ss_family, SOCK_STREAM, 0)), accepted;
	char text[8] = "";

	CHECK(connect(client, (struct sockaddr *)&names[nr], name_lens[nr]) == 0,
	      "connect to listener %d: %s", nr, strerror(errno));
	accepted = MUST(accept(fds[nr], NULL, NULL));
	MUST(send(client, "hello", 5, 0));
	CHECK(recv(accepted, text, 5, MSG_WAITALL) == 5 && strcmp(text, "hello") == 0, "got %s",
	      text);
	close(client);
	close(accepted);
}

int main(int argc, char **argv)
{
	int was[SOCKETS][ARRAY_SIZE(options)], is[ARRAY_SIZE(options)];
	struct sockaddr_storage name;
	socklen_t len;

	victim_start(argc, argv);
	for (int i = 0; i < SOCKETS; i++)
		fds[i] = MUST(socket(i == LISTEN6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0));
	for (int i = 0; i <= LISTEN6; i++) {
		set(fds[i], SOL_SOCKET, SO_REUSEADDR, 1);
		set(fds[i], SOL_TCP, TCP_NODELAY, i);
	}
	set(fds[LISTEN6], SOL_IPV6, IPV6_V6ONLY, 1);
	set(fds[LISTEN4], SOL_SOCKET, SO_KEEPALIVE, 1);
	set(fds[LISTEN4], SOL_TCP, TCP_KEEPIDLE, 77);
	set(fds[LISTEN4], SOL_TCP, TCP_KEEPINTVL, 13);
	set(fds[LISTEN4], SOL_TCP, TCP_KEEPCNT, 4);
	set(fds[LISTEN6], SOL_SOCKET, SO_RCVBUF, 40000);
	for (int i = 0; i <= BOUND; i++)
		bind_loopback(i);
	MUST(listen(fds[LISTEN4], 7));
	MUST(listen(fds[LISTEN6], 3));
	for (int i = 0; i < SOCKETS; i++)
		look(fds[i], was[i]);
	victim_ready();
	victim_wait();
	for (int i = 0; i < SOCKETS; i++) {
		look(fds[i], is);
		for (size_t k = 0; k < ARRAY_SIZE(options); k++)
			CHECK(was[i][k] == is[k], "socket %d: option %d/%d was %d, is %d", i,
			      options[k].level, options[k].name, was[i][k], is[k]);
	}
	for (int i = 0; i <= BOUND; i++) {
		len = sizeof(name);
		MUST(getsockname(fds[i], (struct sockaddr *)&name, &len));
		CHECK(len == name_lens[i] && memcmp(&name, &names[i], len) == 0,
		      "socket %d has another address", i);
	}
	len = sizeof(int);
	MUST(getsockopt(fds[LISTEN6], SOL_IPV6, IPV6_V6ONLY, &is[0], &len));
	CHECK(is[0] == 1, "IPV6_V6ONLY is lost");
	check_connect(LISTEN4);
	check_connect(LISTEN6);
	MUST(listen(fds[BOUND], 1));
	check_connect(BOUND);
	victim_pass();
}

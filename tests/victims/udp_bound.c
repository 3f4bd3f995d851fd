// SPDX-License-Identifier: Apache-2.0
// UDP sockets: bound, connected, v4 and v6, with options.
#include "victim.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static int receiver, sender, six;

static socklen_t own_name(int fd, struct sockaddr_storage *name)
{
	socklen_t len = sizeof(*name);

	memset(name, 0, sizeof(*name));
	MUST(getsockname(fd, (struct sockaddr *)name, &len));
	return len;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	MUST(getsockopt(fd, level, name, &value, &len));
	return value;
}

int main(int argc, char **argv)
{
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_storage was[3], is;
	socklen_t len;
	char text[16] = "";

	victim_start(argc, argv);
	receiver = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	sender = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	six = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
	MUST(setsockopt(receiver, SOL_SOCKET, SO_BROADCAST, &(int){1}, sizeof(int)));
	MUST(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &(int){50000}, sizeof(int)));
	MUST(setsockopt(six, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)));
	MUST(bind(receiver, (struct sockaddr *)&four, sizeof(four)));
	MUST(bind(six, (struct sockaddr *)&any6, sizeof(any6)));
	len = own_name(receiver, &was[0]);
	MUST(connect(sender, (struct sockaddr *)&was[0], len));
	own_name(sender, &was[1]);
	own_name(six, &was[2]);
	victim_ready();
	victim_wait();
	for (int i = 0; i < 3; i++) {
		len = own_name(i == 0 ? receiver : i == 1 ? sender : six, &is);
		CHECK(memcmp(&was[i], &is, len) == 0, "socket %d has another address", i);
	}
	CHECK(option(receiver, SOL_SOCKET, SO_BROADCAST) == 1, "SO_BROADCAST is lost");
	CHECK(option(receiver, SOL_SOCKET, SO_RCVBUF) == 100000, "SO_RCVBUF is %d",
	      option(receiver, SOL_SOCKET, SO_RCVBUF));
	CHECK(option(six, SOL_SOCKET, SO_REUSEADDR) == 1, "SO_REUSEADDR is lost");
	CHECK(recv(receiver, text, 1, MSG_DONTWAIT) < 0, "a datagram came from nowhere");
	CHECK(send(sender, "datagram", 8, 0) == 8, "send: %s", strerror(errno));
	CHECK(recv(receiver, text, sizeof(text), 0) == 8 && strcmp(text, "datagram") == 0, "got %s",
	      text);
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// Socket options of unix sockets, and sockets that nobody has bound or connected.
#include "victim.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const int names[] = {SO_SNDBUF,   SO_RCVBUF,    SO_PASSCRED, SO_TYPE,
			    SO_PRIORITY, SO_KEEPALIVE, SO_PASSSEC,  SO_ACCEPTCONN,
			    SO_RCVLOWAT, SO_NO_CHECK,  SO_REUSEADDR};

static void look(int fd, int values[])
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		socklen_t len = sizeof(int);

		values[i] = -1;
		getsockopt(fd, SOL_SOCKET, names[i], &values[i], &len);
	}
}

static void set(int fd, int name, int value)
{
	MUST(setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value)));
}

int main(int argc, char **argv)
{
	int was[4][ARRAY_SIZE(names)], is[ARRAY_SIZE(names)], fds[4];
	struct timeval out = {12, 0}, in = {34, 0}, now;
	socklen_t len = sizeof(now);

	victim_start(argc, argv);
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	fds[2] = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
	fds[3] = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	set(fds[0], SO_SNDBUF, 65536);
	set(fds[0], SO_RCVBUF, 32768);
	set(fds[0], SO_PRIORITY, 4);
	set(fds[1], SO_PASSCRED, 1);
	set(fds[2], SO_SNDBUF, 16384);
	set(fds[2], SO_PASSCRED, 1);
	MUST(setsockopt(fds[0], SOL_SOCKET, SO_SNDTIMEO, &out, sizeof(out)));
	MUST(setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &in, sizeof(in)));
	for (int i = 0; i < 4; i++)
		look(fds[i], was[i]);
	victim_ready();
	victim_wait();
	for (int i = 0; i < 4; i++) {
		look(fds[i], is);
		for (size_t k = 0; k < ARRAY_SIZE(names); k++)
			CHECK(was[i][k] == is[k], "socket %d: option %d was %d, is %d", i, names[k],
			      was[i][k], is[k]);
	}
	MUST(getsockopt(fds[0], SOL_SOCKET, SO_SNDTIMEO, &now, &len));
	CHECK(now.tv_sec == 12, "send timeout is %ld", now.tv_sec);
	MUST(getsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &now, &len));
	CHECK(now.tv_sec == 34, "receive timeout is %ld", now.tv_sec);
	CHECK(send(fds[3], "x", 1, MSG_NOSIGNAL) < 0 && errno == ENOTCONN, "loose socket: %s",
	      strerror(errno));
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// Socket pairs of the three types, with queued data in both directions, ends in two tasks, shut-down
// and closed ends.
#include "victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static int stream[2], dgram[2], seq[2], half[2], closed[2], family[2];

static void put(int fd, const char *text)
{
	ssize_t sent = send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);

	CHECK(sent == (ssize_t)strlen(text), "send '%s': %s", text, strerror(errno));
}

static void expect(int fd, const char *want)
{
	char buf[256] = "";
	ssize_t got = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	CHECK(got == (ssize_t)strlen(want) && strcmp(buf, want) == 0,
	      "received %zd '%s' (%s) for '%s'", got, buf, strerror(errno), want);
}

static void expect_empty(int fd, const char *what)
{
	char byte;

	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s has more to read", what);
}

static void child(void *arg)
{
	close(family[0]);
	victim_wait();
	expect(family[1], "for the child");
	put(family[1], "thanks");
}

static void check_pair(int fds[2], const char *what)
{
	put(fds[0], "new one");
	expect(fds[1], "new one");
	put(fds[1], "and back");
	expect(fds[0], "and back");
	expect_empty(fds[0], what);
	expect_empty(fds[1], what);
}

int main(int argc, char **argv)
{
	char byte;
	pid_t pid;

	victim_start(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream));
	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dgram));
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, seq));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, closed));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, family));
	put(stream[0], "part one, ");
	put(stream[0], "part two");
	put(stream[1], "opposite");
	put(dgram[0], "packet 1");
	put(dgram[0], "packet two");
	put(dgram[1], "back");
	put(seq[0], "record 1");
	put(seq[0], "record two");
	put(half[0], "before the end");
	MUST(shutdown(half[0], SHUT_WR));
	put(closed[1], "testament");
	close(closed[1]);
	put(family[0], "for the child");
	pid = victim_fork(child, NULL);
	victim_ready();
	victim_wait();
	CHECK(fcntl(stream[0], F_GETFD) == FD_CLOEXEC, "close-on-exec");
	CHECK(fcntl(dgram[1], F_GETFL) & O_NONBLOCK, "O_NONBLOCK");
	expect(stream[1], "part one, part two");
	expect(stream[0], "opposite");
	expect(dgram[1], "packet 1");
	expect(dgram[1], "packet two");
	expect(dgram[0], "back");
	expect(seq[1], "record 1");
	expect(seq[1], "record two");
	check_pair(stream, "stream");
	check_pair(dgram, "dgram");
	check_pair(seq, "seqpacket");
	expect(half[1], "before the end");
	CHECK(recv(half[1], &byte, 1, MSG_DONTWAIT) == 0, "no end of file after shutdown");
	put(half[1], "still open this way");
	expect(half[0], "still open this way");
	CHECK(send(half[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "shut-down end can write");
	expect(closed[0], "testament");
	CHECK(recv(closed[0], &byte, 1, MSG_DONTWAIT) == 0, "no end of file after close");
	CHECK(send(closed[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "dead end can write");
	close(family[1]);
	victim_reap(pid);
	expect(family[0], "thanks");
	CHECK(recv(family[0], &byte, 1, MSG_DONTWAIT) == 0, "child's end is still open");
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// Who sent what waits in unix sockets: names of datagram senders, closed ones too, credentials of
// living and dead processes, and the error of a connection that was reset.
#include "victim.h"

#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OTHER_USER = 4711 };

struct letter {
	char text[32];
	char from[108];
	struct ucred cred;
};

static socklen_t named(struct sockaddr_un *a, bool abstract, const char *name)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (abstract)
		return (socklen_t)offsetof(struct sockaddr_un, sun_path) + 1 +
		       (socklen_t)snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1, "%s-%d", name,
					   (int)getpid());
	snprintf(a->sun_path, sizeof(a->sun_path), "%s", victim_path(name));
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(a->sun_path) + 1);
}

static int bound(bool abstract, const char *name, struct sockaddr_un *a, socklen_t *len)
{
	int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));

	*len = named(a, abstract, name);
	MUST(bind(fd, (struct sockaddr *)a, *len));
	return fd;
}

static struct letter get(int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct letter l = {0};
	struct sockaddr_un from = {0};
	struct iovec iov = {l.text, sizeof(l.text) - 1};
	struct msghdr msg = {.msg_name = &from,
			     .msg_namelen = sizeof(from),
			     .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg;

	CHECK(recvmsg(fd, &msg, MSG_DONTWAIT) >= 0, "recvmsg: %s", strerror(errno));
	if (msg.msg_namelen > offsetof(struct sockaddr_un, sun_path))
		memcpy(l.from, from.sun_path,
		       msg.msg_namelen - offsetof(struct sockaddr_un, sun_path));
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_CREDENTIALS)
		memcpy(&l.cred, CMSG_DATA(cmsg), sizeof(l.cred));
	return l;
}

static void expect(int fd, const char *text, const struct sockaddr_un *from, pid_t pid, uid_t uid)
{
	struct letter l = get(fd);

	CHECK(strcmp(l.text, text) == 0, "got '%s' for '%s'", l.text, text);
	if (from)
		CHECK(memcmp(l.from, from->sun_path, sizeof(l.from)) == 0, "'%s' is from '%s'",
		      text, l.from[0] ? l.from : l.from + 1);
	CHECK(l.cred.pid == pid && l.cred.uid == uid, "'%s' is from pid %d, uid %u, not %d, %u",
	      text, l.cred.pid, l.cred.uid, pid, uid);
}

// A child of another user that sends and is gone; returns its pid.
static pid_t send_by_child(int fd, const char *text, const struct sockaddr_un *to, socklen_t len)
{
	pid_t pid = MUST(fork());

	if (pid == 0) {
		if (setresuid(OTHER_USER, OTHER_USER, OTHER_USER))
			_exit(1);
		_exit(sendto(fd, text, strlen(text), 0, (const struct sockaddr *)to, len) < 0);
	}
	MUST(waitpid(pid, NULL, 0));
	return pid;
}

static int queue_error(int fd)
{
	int value = -1;
	socklen_t len = sizeof(value);

	MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len));
	return value;
}

int main(int argc, char **argv)
{
	struct sockaddr_un here, living, dead, path, gone;
	socklen_t len, other;
	int inbox, alive, fd, pair[2], reset[2], stream[2];
	pid_t child, writer;

	victim_start(argc, argv);
	inbox = bound(true, "inbox", &here, &len);
	MUST(setsockopt(inbox, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
	alive = bound(true, "living", &living, &other);
	MUST(sendto(alive, "living", 6, 0, (struct sockaddr *)&here, len));
	fd = bound(true, "dead", &dead, &other);
	child = send_by_child(fd, "dead", &here, len);
	close(fd);
	fd = bound(false, "path", &path, &other);
	MUST(sendto(fd, "path", 4, 0, (struct sockaddr *)&here, len));
	close(fd);
	unlink(path.sun_path);
	fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
	MUST(sendto(fd, "nameless", 8, 0, (struct sockaddr *)&here, len));
	close(fd);

	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	MUST(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
	MUST(send(pair[1], "pair", 4, 0));

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
	MUST(setsockopt(stream[0], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
	MUST(send(stream[1], "mine", 4, 0));
	writer = send_by_child(stream[1], "theirs", NULL, 0);

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, reset));
	MUST(send(reset[0], "unread", 6, 0));
	MUST(send(reset[1], "last words", 10, 0));
	close(reset[1]);
	victim_ready();
	victim_wait();

	expect(inbox, "living", &living, getpid(), 0);
	expect(inbox, "dead", &dead, child, OTHER_USER);
	expect(inbox, "path", &path, getpid(), 0);
	memset(&gone, 0, sizeof(gone));
	expect(inbox, "nameless", &gone, getpid(), 0);
	expect(pair[0], "pair", NULL, getpid(), 0);
	expect(stream[0], "mine", NULL, getpid(), 0);
	expect(stream[0], "theirs", NULL, writer, OTHER_USER);
	CHECK(strcmp(get(reset[0]).text, "last words") == 0, "the last words are lost");
	CHECK(queue_error(reset[0]) == ECONNRESET, "the reset is not seen");
	MUST(sendto(inbox, "answer", 6, 0, (struct sockaddr *)&living,
		    other = named(&living, true, "living")));
	CHECK(strcmp(get(alive).text, "answer") == 0, "no answer");
	victim_pass();
}

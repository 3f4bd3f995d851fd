// SPDX-License-Identifier: Apache-2.0
/*
 * Unix sockets through capture and restore, both in this process: pairs,
 * queues, names, listeners, and everything that is refused.
 */
#include "fdworld.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static char dir[] = "/tmp/ferry-test-unix-XXXXXX";

static socklen_t address(struct sockaddr_un *addr, const char *name)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (name[0] == '@') {
		memcpy(addr->sun_path + 1, name + 1, strlen(name + 1));
		return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	}
	snprintf(addr->sun_path, sizeof(addr->sun_path), "%s", name);
	return sizeof(*addr);
}

static int bound(int type, const char *name)
{
	struct sockaddr_un addr;
	socklen_t len = address(&addr, name);
	int fd = socket(AF_UNIX, type, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	return fd;
}

static int connected(int type, const char *name)
{
	struct sockaddr_un addr;
	socklen_t len = address(&addr, name);
	int fd = socket(AF_UNIX, type, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, len), 0);
	return fd;
}

static void assert_name(int fd, const char *want, bool peer)
{
	struct sockaddr_un addr = {0};
	socklen_t len = sizeof(addr);
	char text[120] = "";

	assert_int_equal((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&addr, &len), 0);
	len -= offsetof(struct sockaddr_un, sun_path);
	for (size_t i = 0; i < len && (i == 0 || addr.sun_path[i]); i++)
		text[i] = addr.sun_path[i] ? addr.sun_path[i] : '@';
	assert_string_equal(text, want);
}

static void assert_recv(int fd, const char *want)
{
	char buf[256];
	ssize_t got = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	assert_int_equal(got, strlen(want));
	assert_memory_equal(buf, want, (size_t)got);
}

static void assert_empty(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static void path_in(char *path, const char *name)
{
	snprintf(path, 108, "%s/%s", dir, name);
	unlink(path);
}

/* ---- pairs ---- */

static void pair_of_type(int type)
{
	struct world w;
	int fds[2], a, b;
	uint32_t ids[2];

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fds), 0);
	assert_int_equal(send(fds[0], "one", 3, 0), 3);
	assert_int_equal(send(fds[0], "second", 6, 0), 6);
	assert_int_equal(send(fds[1], "back", 4, 0), 4);
	ids[0] = world_add(&w, fds[0]);
	ids[1] = world_add(&w, fds[1]);
	world_ok(&w, world_capture(&w));

	/* the source is as it was */
	assert_int_equal(send(fds[0], "later", 5, 0), 5);
	if (type == SOCK_STREAM) {
		assert_recv(fds[1], "onesecondlater");
	} else {
		assert_recv(fds[1], "one");
		assert_recv(fds[1], "second");
		assert_recv(fds[1], "later");
	}
	world_kill(&w);

	world_ok(&w, world_restore(&w));
	a = world_fd(&w, ids[0]);
	b = world_fd(&w, ids[1]);
	assert_true(fcntl(a, F_GETFL) & O_NONBLOCK);
	assert_recv(a, "back");
	if (type == SOCK_STREAM) {
		assert_recv(b, "onesecond");
	} else {
		assert_recv(b, "one");
		assert_recv(b, "second");
	}
	assert_empty(a);
	assert_empty(b);
	assert_int_equal(send(b, "x", 1, 0), 1);
	assert_recv(a, "x");
	assert_name(a, "", false);
	world_finish(&w);
}

static void test_pairs(void **state)
{
	pair_of_type(SOCK_STREAM);
	pair_of_type(SOCK_DGRAM);
	pair_of_type(SOCK_SEQPACKET);
}

static void test_empty_messages(void **state)
{
	struct world w;
	int fds[2];
	char byte;

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	send(fds[0], "", 0, 0);
	send(fds[0], "abc", 3, 0);
	send(fds[0], "", 0, 0);
	world_add(&w, fds[0]);
	world_add(&w, fds[1]);
	world_ok(&w, world_capture(&w));
	assert_int_equal(w.c.snap->sk_queues.n, 3);
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(recv(world_fd(&w, 2), &byte, 1, MSG_DONTWAIT), 0);
	assert_recv(world_fd(&w, 2), "abc");
	assert_int_equal(recv(world_fd(&w, 2), &byte, 1, MSG_DONTWAIT), 0);
	assert_empty(world_fd(&w, 2));
	world_finish(&w);
}

static void test_large_queue(void **state)
{
	struct world w;
	int fds[2], size = 1 << 20;
	size_t sent = 0, got = 0;
	ssize_t n;
	static char buf[4096];

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (char)(i * 7);
	while ((n = send(fds[0], buf + sent % sizeof(buf), sizeof(buf) - sent % sizeof(buf), 0)) > 0)
		sent += (size_t)n;
	assert_true(sent > 1 << 18);
	world_add(&w, fds[0]);
	world_add(&w, fds[1]);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	for (char byte; recv(world_fd(&w, 2), &byte, 1, 0) == 1; got++)
		if (byte != (char)(got % sizeof(buf) * 7))
			fail_msg("byte %zu differs", got);
	assert_int_equal(got, sent);
	size = 0;
	getsockopt(world_fd(&w, 1), SOL_SOCKET, SO_SNDBUF, &size, &(socklen_t){sizeof(size)});
	assert_int_equal(size, 2 << 20);
	world_finish(&w);
}

static void test_peek_offset(void **state)
{
	struct world w;
	int fds[2], off = 2;

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	send(fds[0], "abcdef", 6, 0);
	assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off)), 0);
	world_add(&w, fds[0]);
	world_add(&w, fds[1]);
	world_ok(&w, world_capture(&w));
	getsockopt(fds[1], SOL_SOCKET, SO_PEEK_OFF, &off, &(socklen_t){sizeof(off)});
	assert_int_equal(off, 2);
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	off = 0;
	getsockopt(world_fd(&w, 2), SOL_SOCKET, SO_PEEK_OFF, &off, &(socklen_t){sizeof(off)});
	assert_int_equal(off, 2);
	assert_recv(world_fd(&w, 2), "abcdef");
	world_finish(&w);
}

static void test_shutdown(void **state)
{
	struct world w;
	struct pollfd p;
	int fds[2];
	char byte;

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	send(fds[0], "last words", 10, 0);
	shutdown(fds[0], SHUT_WR);
	world_add(&w, fds[0]);
	world_add(&w, fds[1]);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_recv(world_fd(&w, 2), "last words");
	assert_int_equal(recv(world_fd(&w, 2), &byte, 1, MSG_DONTWAIT), 0);
	assert_int_equal(send(world_fd(&w, 1), "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(send(world_fd(&w, 2), "still", 5, 0), 5);
	assert_recv(world_fd(&w, 1), "still");
	p = (struct pollfd){.fd = world_fd(&w, 2), .events = POLLIN | POLLRDHUP};
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_int_equal(p.revents, POLLIN | POLLRDHUP);
	world_finish(&w);
}

static void test_closed_peer(void **state)
{
	struct world w;
	int fds[2], dgram[2];
	char byte;

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram), 0);
	send(fds[0], "bye", 3, 0);
	send(dgram[0], "gone", 4, 0);
	close(fds[0]);
	close(dgram[0]);
	world_add(&w, fds[1]);
	world_add(&w, dgram[1]);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_recv(world_fd(&w, 1), "bye");
	assert_int_equal(recv(world_fd(&w, 1), &byte, 1, MSG_DONTWAIT), 0);
	assert_recv(world_fd(&w, 2), "gone");
	assert_int_equal(send(world_fd(&w, 2), "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, ECONNREFUSED);
	world_finish(&w);
}

/* ---- names ---- */

static void listener_named(int type, const char *name, bool is_path)
{
	struct world w;
	struct stat st;
	int listener, client, server;

	world_init(&w);
	listener = bound(type, name);
	if (is_path)
		assert_int_equal(chmod(name, 0640), 0);
	assert_int_equal(listen(listener, 7), 0);
	client = connected(type, name);
	server = accept(listener, NULL, NULL);
	assert_true(server >= 0);
	send(client, "request", 7, 0);
	world_add(&w, client);
	world_add(&w, server);
	world_add(&w, listener);
	world_ok(&w, world_capture(&w));
	world_kill(&w);

	world_ok(&w, world_restore(&w));
	assert_name(world_fd(&w, 3), name, false);
	assert_name(world_fd(&w, 2), name, false);
	assert_name(world_fd(&w, 1), name, true);
	assert_recv(world_fd(&w, 2), "request");
	if (is_path) {
		assert_int_equal(stat(name, &st), 0);
		assert_int_equal(st.st_mode, S_IFSOCK | 0640);
	}
	client = connected(type, name);
	send(client, "new", 3, 0);
	server = accept(world_fd(&w, 3), NULL, NULL);
	assert_true(server >= 0);
	assert_recv(server, "new");
	close(client);
	close(server);
	world_finish(&w);
}

static void test_listeners(void **state)
{
	char path[108];

	path_in(path, "listen");
	listener_named(SOCK_STREAM, path, true);
	listener_named(SOCK_SEQPACKET, "@ferry-test-listener", false);
	listener_named(SOCK_STREAM, "@ferry-test-listener", false);
	unlink(path);
	listener_named(SOCK_SEQPACKET, path, true);
}

static void test_pending(void **state)
{
	struct world w;
	int listener, client, server;

	world_init(&w);
	listener = bound(SOCK_STREAM, "@ferry-test-pending");
	listen(listener, 3);
	client = connected(SOCK_STREAM, "@ferry-test-pending");
	world_add(&w, client);
	world_add(&w, listener);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	server = accept4(world_fd(&w, 2), NULL, NULL, SOCK_NONBLOCK);
	assert_true(server >= 0);
	send(world_fd(&w, 1), "hello", 5, 0);
	assert_recv(server, "hello");
	close(server);
	world_finish(&w);
}

static void test_deleted_path(void **state)
{
	struct world w;
	char path[108];
	int a, b;

	path_in(path, "deleted");
	world_init(&w);
	a = bound(SOCK_DGRAM, path);
	b = connected(SOCK_DGRAM, path);
	send(b, "hi", 2, 0);
	unlink(path);
	world_add(&w, b);
	world_add(&w, a);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(access(path, F_OK), -1);
	assert_name(world_fd(&w, 2), path, false);
	assert_recv(world_fd(&w, 2), "hi");
	assert_int_equal(send(world_fd(&w, 1), "again", 5, 0), 5);
	assert_recv(world_fd(&w, 2), "again");
	world_finish(&w);
}

static void test_relative_path(void **state)
{
	struct world w;
	int fd, cwd = open(".", O_RDONLY);
	char path[108];

	path_in(path, "relative");
	world_init(&w);
	assert_int_equal(chdir(dir), 0);
	fd = bound(SOCK_STREAM, "relative");
	listen(fd, 1);
	assert_int_equal(fchdir(cwd), 0);
	world_add(&w, fd);
	world_ok(&w, world_capture(&w));
	assert_string_equal(w.c.snap->files.v[0]->usk->name_dir, dir);
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_name(world_fd(&w, 1), "relative", false);
	close(connected(SOCK_STREAM, path));
	world_finish(&w);
	close(cwd);
}

static void test_dgram_by_name(void **state)
{
	struct world w;
	char server[108], client[108];
	int a, b, c;

	path_in(server, "server");
	path_in(client, "client");
	world_init(&w);
	a = bound(SOCK_DGRAM, server);
	b = connected(SOCK_DGRAM, server);
	c = bound(SOCK_DGRAM, client);
	send(b, "from b", 6, 0);
	/* a turns to c, and hears nobody else from now on */
	assert_int_equal(connect(a, (struct sockaddr *)&(struct sockaddr_un){.sun_family = AF_UNIX},
				 2),
			 -1);
	{
		struct sockaddr_un addr;
		socklen_t len = address(&addr, client);

		assert_int_equal(connect(a, (struct sockaddr *)&addr, len), 0);
	}
	world_add(&w, a);
	world_add(&w, b);
	world_add(&w, c);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_recv(world_fd(&w, 1), "from b");
	assert_name(world_fd(&w, 1), client, true);
	assert_name(world_fd(&w, 2), server, true);
	assert_int_equal(send(world_fd(&w, 1), "to c", 4, 0), 4);
	assert_recv(world_fd(&w, 3), "to c");
	world_finish(&w);
}

/* ---- options ---- */

static void test_options(void **state)
{
	struct world w;
	int fds[2], one = 1, size = 40000;
	struct timeval tv = {.tv_sec = 3, .tv_usec = 500000};

	world_init(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	setsockopt(fds[0], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fds[1], SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one));
	world_add(&w, fds[0]);
	world_add(&w, fds[1]);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	one = 0;
	getsockopt(world_fd(&w, 1), SOL_SOCKET, SO_PASSCRED, &one, &(socklen_t){sizeof(one)});
	assert_int_equal(one, 1);
	getsockopt(world_fd(&w, 1), SOL_SOCKET, SO_RCVBUF, &size, &(socklen_t){sizeof(size)});
	assert_int_equal(size, 80000);
	tv.tv_sec = 0;
	getsockopt(world_fd(&w, 1), SOL_SOCKET, SO_RCVTIMEO, &tv, &(socklen_t){sizeof(tv)});
	assert_int_equal(tv.tv_sec, 3);
	one = 0;
	getsockopt(world_fd(&w, 2), SOL_SOCKET, SO_TIMESTAMP, &one, &(socklen_t){sizeof(one)});
	assert_int_equal(one, 1);
	world_finish(&w);
}

/* Whoever made a connection still has made it, and not root who restores it. */
static void test_peer_ids(void **state)
{
	const char *name = "@ferry-test-ids";
	struct ucred cred;
	socklen_t len;
	struct world w;
	int pair[2], listener, client, server;

	if (geteuid() != 0)
		skip_because("must be root");
	world_init(&w);
	assert_int_equal(setegid(1234), 0);
	assert_int_equal(seteuid(4321), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(0), 0);
	listener = bound(SOCK_STREAM, name);
	listen(listener, 3);
	close(client);
	assert_int_equal(seteuid(4321), 0);
	client = connected(SOCK_STREAM, name);
	assert_int_equal(seteuid(0), 0);
	server = accept(listener, NULL, NULL);
	world_add(&w, pair[0]);
	world_add(&w, pair[1]);
	world_add(&w, client);
	world_add(&w, server);
	world_add(&w, listener);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	for (uint32_t id = 1; id <= 5; id++) {
		static const uid_t want[] = {4321, 4321, 0, 4321, 0};

		len = sizeof(cred);
		assert_int_equal(getsockopt(world_fd(&w, id), SOL_SOCKET, SO_PEERCRED, &cred, &len),
				 0);
		assert_int_equal(cred.uid, want[id - 1]);
		assert_int_equal(cred.gid, id < 3 ? 1234 : 0);
	}
	world_finish(&w);
}

/* ---- refusals ---- */

static void test_external(void **state)
{
	struct world w;
	char path[108];
	int server, client;

	path_in(path, "outside");
	server = bound(SOCK_DGRAM, path);
	world_init(&w);
	client = connected(SOCK_DGRAM, path);
	world_add(&w, client);
	world_refuses(&w, world_capture(&w), "--ext-unix-sk");
	assert_non_null(strstr(w.err.text, path));
	w.opt.ext_unix_sk = true;
	world_ok(&w, world_capture(&w));
	assert_int_equal(w.c.snap->files.n, 2);
	world_kill(&w);
	w.opt.ext_unix_sk = false;
	world_refuses(&w, world_restore(&w), "--ext-unix-sk");
	w.opt.ext_unix_sk = true;
	world_ok(&w, world_restore(&w));
	assert_int_equal(send(world_fd(&w, 1), "hello", 5, 0), 5);
	assert_recv(server, "hello");
	world_finish(&w);
	close(server);
}

static void test_external_stream(void **state)
{
	struct world w;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	world_init(&w);
	w.opt.ext_unix_sk = true;
	world_add(&w, fds[0]);
	world_refuses(&w, world_capture(&w), "outside the tree");
	world_finish(&w);
	close(fds[0]);
	close(fds[1]);
}

static void test_in_flight(void **state)
{
	struct world w;
	int fds[2];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {{.cmsg_len = CMSG_LEN(sizeof(int)),
		      .cmsg_level = SOL_SOCKET,
		      .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {.iov_base = "x", .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	memcpy(CMSG_DATA(&control.align), &fds[0], sizeof(int));
	assert_int_equal(sendmsg(fds[0], &msg, 0), 1);
	world_init(&w);
	world_add(&w, fds[0]);
	world_add(&w, fds[1]);
	world_refuses(&w, world_capture(&w), "in flight");
	world_kill(&w);
	world_finish(&w);
}

static void test_pending_outside(void **state)
{
	struct world w;
	int listener, client;

	listener = bound(SOCK_STREAM, "@ferry-test-refused");
	listen(listener, 3);
	client = connected(SOCK_STREAM, "@ferry-test-refused");
	world_init(&w);
	world_add(&w, listener);
	world_refuses(&w, world_capture(&w), "@ferry-test-refused");
	close(client);
	world_refuses(&w, world_capture(&w), "client is gone");
	world_kill(&w);
	world_finish(&w);
}

static void test_names_taken(void **state)
{
	struct world w;
	char path[108], sub[108];
	int fd, other, file;

	path_in(sub, "sub");
	assert_int_equal(mkdir(sub, 0700), 0);
	path_in(path, "sub/taken");
	world_init(&w);
	fd = bound(SOCK_STREAM, path);
	listen(fd, 1);
	world_add(&w, fd);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	unlink(path);
	other = bound(SOCK_STREAM, path);
	listen(other, 1);
	world_refuses(&w, world_check(&w), "is in use here by pid");
	close(other);
	unlink(path);
	file = open(path, O_CREAT | O_RDWR, 0600);
	world_refuses(&w, world_check(&w), "is not a socket");
	close(file);
	unlink(path);
	assert_int_equal(rmdir(sub), 0);
	world_refuses(&w, world_check(&w), "does not exist here");
	assert_int_equal(mkdir(sub, 0700), 0);
	world_ok(&w, world_restore(&w));
	world_finish(&w);
	unlink(path);
	rmdir(sub);
}

static void test_renamed(void **state)
{
	struct world w;
	char path[108], now[108];
	int fd;

	path_in(path, "before");
	path_in(now, "after");
	world_init(&w);
	fd = bound(SOCK_STREAM, path);
	listen(fd, 1);
	assert_int_equal(rename(path, now), 0);
	world_add(&w, fd);
	world_refuses(&w, world_capture(&w), "renamed");
	world_kill(&w);
	world_finish(&w);
	unlink(now);
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = {"listen",   "server",  "client",
					    "relative", "outside", "deleted"};
	char path[108];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		path_in(path, names[i]);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pairs),           cmocka_unit_test(test_empty_messages),
		cmocka_unit_test(test_large_queue),     cmocka_unit_test(test_peek_offset),
		cmocka_unit_test(test_shutdown),        cmocka_unit_test(test_closed_peer),
		cmocka_unit_test(test_listeners),       cmocka_unit_test(test_pending),
		cmocka_unit_test(test_deleted_path),    cmocka_unit_test(test_relative_path),
		cmocka_unit_test(test_dgram_by_name),   cmocka_unit_test(test_options),
		cmocka_unit_test(test_peer_ids),        cmocka_unit_test(test_external),
		cmocka_unit_test(test_external_stream), cmocka_unit_test(test_in_flight),
		cmocka_unit_test(test_pending_outside), cmocka_unit_test(test_names_taken),
		cmocka_unit_test(test_renamed),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

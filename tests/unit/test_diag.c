// SPDX-License-Identifier: Apache-2.0
/*
 * Socket diagnostics against sockets of this process.
 */
#include "kernel/diag.h"
#include "unit.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct err err;

static uint32_t ino_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint32_t)st.st_ino;
}

static void test_pair(void **state)
{
	struct diag_unix u;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(send(fds[0], "12345", 5, 0), 5);
	shutdown(fds[0], SHUT_WR);
	assert_int_equal(diag_unix_one(ino_of(fds[1]), &u, &err), 1);
	assert_int_equal(u.type, SOCK_STREAM);
	assert_int_equal(u.state, SOCK_STATE_ESTABLISHED);
	assert_int_equal(u.peer, ino_of(fds[0]));
	assert_int_equal(u.queue, 5);
	assert_int_equal(u.shutdown, 1);
	assert_int_equal(u.name_bytes, 0);
	diag_unix_finish(&u);
	close(fds[0]);
	assert_int_equal(diag_unix_one(ino_of(fds[1]), &u, &err), 1);
	assert_true(u.has_peer);
	assert_int_equal(u.peer, 0);
	assert_int_equal(u.shutdown, 3);
	diag_unix_finish(&u);
	close(fds[1]);
}

static void test_listener(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = "\0ferry-test-diag"};
	socklen_t len = sizeof(sa_family_t) + 16;
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
	struct diag_unix u;

	assert_int_equal(bind(listener, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(listener, 17), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(diag_unix_one(ino_of(listener), &u, &err), 1);
	assert_int_equal(u.state, SOCK_STATE_LISTEN);
	assert_int_equal(u.backlog, 17);
	assert_int_equal(u.queue, 1);
	assert_int_equal(u.n_pending, 1);
	assert_int_equal(u.pending[0], ino_of(client));
	assert_int_equal(u.name_bytes, 16);
	assert_memory_equal(u.name, addr.sun_path, 16);
	diag_unix_finish(&u);
	close(listener);
	close(client);
	assert_int_equal(diag_unix_one(4, &u, &err), 0);
}

static bool count(const struct diag_unix *u, void *arg)
{
	++*(int *)arg;
	return *(int *)arg < 3;
}

static void test_each_stops(void **state)
{
	int fds[4], n = 0;

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds + 2), 0);
	assert_int_equal(diag_unix_each(count, &n, &err), 0);
	assert_int_equal(n, 3);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
}

struct find {
	uint32_t ino;
	struct diag_inet found;
};

static bool match(const struct diag_inet *s, void *arg)
{
	struct find *find = arg;

	if (s->ino != find->ino)
		return true;
	find->found = *s;
	return false;
}

static void test_inet(void **state)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct find find = {0};
	char owner[64], want[32];

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(fd, 5), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	find.ino = ino_of(fd);
	assert_int_equal(diag_inet_each(AF_INET, IPPROTO_TCP, 1u << SOCK_STATE_LISTEN,
					ntohs(addr.sin_port), match, &find, &err),
			 0);
	assert_int_equal(find.found.src_port, ntohs(addr.sin_port));
	assert_int_equal(find.found.backlog, 5);
	assert_memory_equal(&find.found.src, &addr.sin_addr, 4);
	diag_owner(find.ino, owner, sizeof(owner));
	snprintf(want, sizeof(want), "pid %d (", (int)getpid());
	assert_memory_equal(owner, want, strlen(want));
	close(fd);
	diag_owner(find.ino, owner, sizeof(owner));
	assert_string_equal(owner, "a process that cannot be seen from here");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pair),
		cmocka_unit_test(test_listener),
		cmocka_unit_test(test_each_stops),
		cmocka_unit_test(test_inet),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Sockets and terminals that real CRIU dumped (golden images) come to life in
 * this process, with what their README says is in their queues.
 */
#include "fdworld.h"
#include "store/store.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

static const char fixtures[] = "../shared/doc/criu/fixtures";
static char dir[] = "/tmp/ferry-test-fixtures-XXXXXX";

/* Loads a fixture and keeps only descriptors of one type, so that nothing else is needed here. */
static void load(struct world *w, const char *name, FdTypes type)
{
	cleanup_close int fd = io_openf(O_RDONLY | O_DIRECTORY, "%s/%s", fixtures, name);
	struct store *store;

	memset(w, 0, sizeof(*w));
	if (fd < 0)
		skip_because("%s/%s is not there", fixtures, name);
	store = store_dir_open(fd, &w->err);
	assert_non_null(store);
	w->c.snap = snapshot_load(store, &w->err);
	store_close(store);
	if (!w->c.snap)
		fail_msg("%s", w->err.text);
	vec_foreach (task, &w->c.snap->tasks) {
		size_t kept = 0;

		for (size_t i = 0; i < (*task)->fds.n; i++)
			if ((*task)->fds.v[i]->type == type)
				(*task)->fds.v[kept++] = (*task)->fds.v[i];
		(*task)->fds.n = kept;
	}
	w->r.snap = w->c.snap;
	w->r.opt = &w->opt;
}

static void open_all(struct world *w)
{
	struct broker *b;

	b = broker_create(&w->r, WORLD_BASE_FD, &w->err);
	assert_non_null(b);
	vec_foreach (fe, &w->c.snap->files) {
		const struct fd_kind *kind = fd_kind_by_type((*fe)->type);

		if ((*fe)->type != FD_TYPES__REG && kind->check)
			world_ok(w, kind->check(&w->r, *fe, &w->err));
	}
	world_ok(w, broker_open_all(b, &w->err));
}

static void assert_message(int fd, const char *want)
{
	char buf[64];
	ssize_t got = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	assert_int_equal(got, strlen(want));
	assert_memory_equal(buf, want, (size_t)got);
}

static void assert_message_with_fd(int fd, const char *want)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char buf[64], link[64];
	uint64_t count;
	int given;
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};

	assert_int_equal(recvmsg(fd, &msg, MSG_DONTWAIT), strlen(want));
	assert_memory_equal(buf, want, strlen(want));
	assert_int_equal(control.align.cmsg_type, SCM_RIGHTS);
	memcpy(&given, CMSG_DATA(&control.align), sizeof(given));
	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/fd/%d", given), 0);
	assert_string_equal(link, "anon_inode:[eventfd]");
	assert_int_equal(read(given, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 42);
	close(given);
}

static void test_sockets(void **state)
{
	char path[108];
	struct world w;
	int backlog;

	load(&w, "sockets", FD_TYPES__UNIXSK);
	snprintf(path, sizeof(path), "%s/fx-listen.sock", dir);
	vec_foreach (fe, &w.c.snap->files) {
		if ((*fe)->id != 13)
			continue;
		assert_string_equal((char *)(*fe)->usk->name.data,
				    "/root/compat/data/fx-listen.sock");
		(*fe)->usk->name.len = strlen(path) + 1;
		(*fe)->usk->name.data = arena_dup(&w.c.snap->arena, path, strlen(path) + 1);
	}
	open_all(&w);
	assert_message(world_fd(&w, 6), "stream-data");
	assert_message(world_fd(&w, 8), "one");
	assert_message(world_fd(&w, 8), "second");
	assert_message_with_fd(world_fd(&w, 10), "with-fd");
	for (uint32_t id = 5; id < 11; id += 2) {
		assert_int_equal(send(world_fd(&w, id), "x", 1, 0), 1);
		assert_message(world_fd(&w, id + 1), "x");
	}
	backlog = 0;
	getsockopt(world_fd(&w, 13), SOL_SOCKET, SO_ACCEPTCONN, &backlog,
		   &(socklen_t){sizeof(backlog)});
	assert_int_equal(backlog, 1);
	world_finish(&w);
	unlink(path);
}

static void test_listeners(void **state)
{
	struct world w;
	struct tcp_info info;

	load(&w, "tcplisten", FD_TYPES__INETSK);
	open_all(&w);
	getsockopt(world_fd(&w, 5), IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	assert_int_equal(info.tcpi_state, 10);
	assert_int_equal(info.tcpi_sacked, 7);
	getsockopt(world_fd(&w, 6), IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	assert_int_equal(info.tcpi_sacked, 3);
	world_finish(&w);
}

static void test_established(void **state)
{
	struct world w;
	const struct fd_kind *kind = fd_kind_by_type(FD_TYPES__INETSK);

	load(&w, "tcpest", FD_TYPES__INETSK);
	vec_foreach (fe, &w.c.snap->files)
		if ((*fe)->isk)
			world_refuses(&w, kind->check(&w.r, *fe, &w.err), "later release");
	world_finish(&w);
}

static void test_pty(void **state)
{
	struct winsize size;
	struct termios t;
	struct world w;
	char buf[64];
	int number = -1;

	load(&w, "pty", FD_TYPES__TTY);
	if (!access("/dev/pts/0", F_OK))
		skip_because("terminal number 0 is in use here");
	open_all(&w);
	assert_int_equal(ioctl(world_fd(&w, 5), TIOCGPTN, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(ioctl(world_fd(&w, 7), TIOCGWINSZ, &size), 0);
	assert_int_equal(size.ws_row, 33);
	assert_int_equal(size.ws_col, 101);
	assert_int_equal(tcgetattr(world_fd(&w, 7), &t), 0);
	assert_int_equal(t.c_lflag, 35379);
	assert_int_equal(t.c_cc[VINTR], 3);
	assert_int_equal(read(world_fd(&w, 7), buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "typed\n", 6);
	world_finish(&w);
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sockets),
		cmocka_unit_test(test_listeners),
		cmocka_unit_test(test_established),
		cmocka_unit_test(test_pty),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

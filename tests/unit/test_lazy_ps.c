// SPDX-License-Identifier: Apache-2.0
// mem/lazy_ps, mem/lazy_sock: servers that break the rules of CRIU's protocol, and restores that do.
#include "lazy_victim.h"
#include "mem/lazy_ps.h"
#include "mem/lazy_sock.h"
#include "mem/ps_wire.h"
#include "snapshot/snapshot.h"
#include "wire/tcp.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- a server that misbehaves for some connections ---- */

enum trick {
	HONEST,
	LESS,       /* answers with fewer pages than asked for */
	BYTEWISE,   /* in pieces that fit nothing */
	WRONG_ADDR, /* of another address */
	WRONG_TASK,
	MORE,    /* more pages than asked for */
	NOTHING, /* without data */
	ZERO_PAGES,
	UNASKED, /* talks first */
	GARBAGE,
	CUT_HEAD, /* ends inside of a header */
	CUT_DATA, /* ends inside of a page */
	RESET,
	TRICKS,
};

struct server {
	pthread_t thread;
	int fd;
	uint16_t port;
	enum trick trick;
	int bad; /* so many connections are treated like that, after some good answers */
	int accepted;
	bool closed; /* CLOSE was said, in order */
};

static bool send_all(int fd, const void *data, size_t bytes, bool bytewise)
{
	for (size_t off = 0, n; off < bytes; off += n) {
		n = bytewise ? MIN(bytes - off, 1 + off % 1777) : bytes - off;
		if (send(fd, (const uint8_t *)data + off, n, MSG_NOSIGNAL) != (ssize_t)n)
			return false;
	}
	return true;
}

static bool answer(int fd, struct ps_request r, bool bytewise)
{
	uint8_t head[PS_REQUEST_BYTES];
	uint64_t page[PAGE_BYTES / 8];

	r.cmd = PS_ADD_F;
	ps_encode(&r, head);
	if (!send_all(fd, head, sizeof(head), bytewise))
		return false;
	for (uint64_t i = 0; r.flags & PE_PRESENT && i < r.nr_pages; i++) {
		pattern(r.vaddr + i * PAGE_BYTES, page);
		if (!send_all(fd, page, sizeof(page), bytewise))
			return false;
	}
	return true;
}

/* False: the connection is to end. */
static bool misbehave(int fd, enum trick trick, struct ps_request r)
{
	static const uint8_t rubbish[100] = {0xff, 0xee, 0xdd};
	struct linger hard = {.l_onoff = 1};
	uint64_t page[PAGE_BYTES / 8];
	uint8_t head[PS_REQUEST_BYTES];

	r.flags = PE_PRESENT;
	switch (trick) {
	case WRONG_ADDR:
		r.vaddr += PAGE_BYTES;
		return answer(fd, r, false);
	case WRONG_TASK:
		r.dst_id++;
		return answer(fd, r, false);
	case MORE:
		r.nr_pages += 3;
		return answer(fd, r, false);
	case NOTHING:
		r.flags = PE_LAZY;
		return answer(fd, r, false);
	case ZERO_PAGES:
		r.nr_pages = 0;
		return answer(fd, r, false);
	case UNASKED:
		return answer(fd, r, false) && answer(fd, r, false) && answer(fd, r, false);
	case GARBAGE:
		return send_all(fd, rubbish, sizeof(rubbish), false);
	case CUT_HEAD:
	case CUT_DATA:
		r.cmd = PS_ADD_F;
		ps_encode(&r, head);
		memset(page, 0xee, sizeof(page));
		send_all(fd, head, trick == CUT_HEAD ? 17 : sizeof(head), false);
		if (trick == CUT_DATA)
			send_all(fd, page, 1234, false);
		return false;
	case RESET:
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		return false;
	default:
		return false;
	}
}

static void converse(struct server *s, int fd)
{
	bool bad = s->accepted++ < s->bad;
	uint8_t head[PS_REQUEST_BYTES];
	struct ps_request r;
	struct err err;

	for (int n = 0; recv(fd, head, sizeof(head), MSG_WAITALL) == sizeof(head); n++) {
		if (ps_decode(head, &r, &err) < 0)
			return;
		if (r.cmd == PS_CLOSE) {
			s->closed = send(fd, "\0\0\0\0", 4, MSG_NOSIGNAL) == 4;
			return;
		}
		if (bad && n >= 5 && s->trick > BYTEWISE) {
			if (!misbehave(fd, s->trick, r))
				return;
			continue;
		}
		r.flags = PE_PRESENT;
		if (s->trick == LESS)
			r.nr_pages = (r.nr_pages + 1) / 2;
		if (!answer(fd, r, s->trick == BYTEWISE))
			return;
	}
}

static void *server_main(void *arg)
{
	struct server *s = arg;
	int fd;

	while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
		converse(s, fd);
		close(fd);
	}
	return NULL;
}

static void server_start(struct server *s, enum trick trick)
{
	struct err err;

	*s = (struct server){.trick = trick, .bad = 2};
	s->fd = tcp_listen(NULL, 0, &s->port, &err);
	assert_true(s->fd >= 0);
	fcntl(s->fd, F_SETFL, 0);
	assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

static void server_end(struct server *s)
{
	shutdown(s->fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->fd);
}

static int read_all(void)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!is_page(page_addr(i * 389 % PAGES), page_addr(i * 389 % PAGES)))
			return 1;
	return 0;
}

static void served_by(enum trick trick)
{
	struct lazy_ps_options opt = {.host = "127.0.0.1"};
	struct lazy_source *source;
	struct lazy_space *sp;
	struct server server;
	struct lazy_stats st;
	struct victim v;
	struct lazy *z;
	struct err err;

	if (geteuid() != 0)
		skip_because("must be root");
	if (!start(&v, read_all))
		skip_because("no userfaultfd with events here");
	server_start(&server, trick);
	opt.port = server.port;
	source = lazy_ps_open(&opt, &err);
	assert_non_null(source);
	z = lazy_open(source, NULL, &err);
	sp = z ? lazy_add(z, OBJECT, v.uffd, -1, &err) : NULL;
	assert_non_null(sp);
	assert_int_equal(lazy_missing(sp, AREA, PAGES, &err), 0);
	let_run(&v);
	lazy_start(z);
	serve(z, &v);
	while (lazy_left_pages(z))
		assert_int_equal(lazy_step(z, -1, 100, &err), 0);
	lazy_stats(z, &st);
	assert_int_equal(exit_code(&v), 0);
	assert_int_equal(st.losses, trick > BYTEWISE ? 2 : 0);
	if (lazy_ps_finish(source, z, &err) < 0)
		fail_msg("%s", err.text);
	lazy_close(z);
	lazy_ps_close(source);
	server_end(&server);
	assert_true(server.closed);
	close(v.pidfd);
}

static void test_servers(void **state)
{
	for (enum trick t = HONEST; t < TRICKS; t++)
		served_by(t);
}

/* Nobody is there any more: it is tried for as long as was said, then given up. */
static void test_given_up(void **state)
{
	struct lazy_ps_options opt = {.host = "127.0.0.1", .reconnect_s = 1};
	struct lazy_source *source;
	struct server server;
	struct lazy *z;
	struct err err;
	long end = now_ms() + LIMIT_MS;
	int r = 0;

	server_start(&server, HONEST);
	opt.port = server.port;
	source = lazy_ps_open(&opt, &err);
	z = source ? lazy_open(source, NULL, &err) : NULL;
	assert_non_null(z);
	lazy_lost(z);
	shutdown(server.fd, SHUT_RDWR);
	close(server.fd);
	while (r == 0 && now_ms() < end)
		r = lazy_step(z, -1, 100, &err);
	assert_int_equal(r, -1);
	assert_non_null(strstr(err.text, "lost for good"));
	lazy_close(z);
	lazy_ps_close(source);
	pthread_join(server.thread, NULL);
}

/* ---- the socket of the daemon ---- */

static int dir_fd, restore_end, daemon_end;

static int connect_both(void **state)
{
	char path[] = "/tmp/ferry-lazy-XXXXXX";
	struct err err;
	int listener;

	if (!mkdtemp(path))
		return -1;
	dir_fd = open(path, O_RDONLY | O_DIRECTORY);
	listener = lazy_sock_listen(dir_fd, &err);
	restore_end = listener < 0 ? -1 : lazy_sock_connect(dir_fd, &err);
	daemon_end = restore_end < 0 ? -1 : accept(listener, NULL, NULL);
	close(listener);
	lazy_sock_unlink(dir_fd);
	rmdir(path);
	return daemon_end < 0 ? -1 : 0;
}

static int close_both(void **state)
{
	close(dir_fd);
	close(restore_end);
	close(daemon_end);
	return 0;
}

static void test_records(void **state)
{
	struct lazy_sock_msg msg;
	struct err err;
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0)
		skip_because("no userfaultfd here");
	assert_int_equal(lazy_sock_announce(restore_end, 34, uffd, &err), 0);
	assert_int_equal(lazy_sock_announce(restore_end, 35, -1, &err), 0);
	assert_int_equal(lazy_sock_finish(restore_end, &err), 0);
	assert_int_equal(lazy_sock_recv(daemon_end, false, &msg, &err), 0);
	assert_int_equal(msg.kind, LAZY_SOCK_TASK);
	assert_int_equal(msg.vpid, 34);
	assert_true(msg.uffd >= 0 && fcntl(msg.uffd, F_GETFL) & O_NONBLOCK);
	close(msg.uffd);
	assert_int_equal(lazy_sock_recv(daemon_end, false, &msg, &err), 0);
	assert_int_equal(msg.kind, LAZY_SOCK_NONE);
	assert_int_equal(msg.vpid, 35);
	assert_int_equal(lazy_sock_recv(daemon_end, true, &msg, &err), 0);
	assert_int_equal(msg.kind, LAZY_SOCK_FINISH);
	shutdown(restore_end, SHUT_WR);
	assert_int_equal(lazy_sock_recv(daemon_end, true, &msg, &err), 0);
	assert_int_equal(msg.kind, LAZY_SOCK_EOF);
	close(uffd);
}

static void send_word(int32_t word)
{
	assert_int_equal(send(restore_end, &word, sizeof(word), 0), sizeof(word));
}

static void expect_refusal(bool finish, const char *text)
{
	struct lazy_sock_msg msg;
	struct err err;

	assert_int_equal(lazy_sock_recv(daemon_end, finish, &msg, &err), -1);
	if (!strstr(err.text, text))
		fail_msg("%s", err.text);
}

static void test_no_pid(void **state)
{
	send_word(0);
	expect_refusal(false, "no pid");
	send_word(INT32_MIN);
	expect_refusal(false, "no pid");
	send_word(0x52535446); /* the last word, too early */
	expect_refusal(false, "no pid");
	send_word(12);
	expect_refusal(true, "more tasks");
}

static void test_no_uffd(void **state)
{
	struct err err;

	send_word(12);
	assert_int_equal(send(restore_end, "", 1, 0), 1);
	expect_refusal(false, "no userfaultfd with");
	assert_int_equal(lazy_sock_announce(restore_end, 12, dir_fd, &err), 0);
	expect_refusal(false, "is not a userfaultfd");
	send_word(12);
	shutdown(restore_end, SHUT_WR);
	expect_refusal(false, "the connection ends where a descriptor should come");
}

static void test_half_a_record(void **state)
{
	assert_int_equal(send(restore_end, "ab", 2, 0), 2);
	shutdown(restore_end, SHUT_WR);
	expect_refusal(false, "within a record");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_servers),
		cmocka_unit_test(test_given_up),
		cmocka_unit_test_setup_teardown(test_records, connect_both, close_both),
		cmocka_unit_test_setup_teardown(test_no_pid, connect_both, close_both),
		cmocka_unit_test_setup_teardown(test_no_uffd, connect_both, close_both),
		cmocka_unit_test_setup_teardown(test_half_a_record, connect_both, close_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

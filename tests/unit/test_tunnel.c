// SPDX-License-Identifier: Apache-2.0
// TLS tunnels that are keyed by a secret: both directions, ends, and what must not get through.
#include "wire/tunnel.h"

#include "base/io.h"
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PART_BYTES = 100000, MANY_BYTES = 3000000, PATIENCE_S = 20 };

/* Two ends of a tunnel, and somebody between them who passes on what he likes. */
struct line {
	struct tls *client, *server;
	struct tunnel *here, *there;
	int near, far;    /* the users' ends */
	int between[2];   /* the middle's descriptors */
	size_t flip_at;   /* the byte from the client that is changed; 0: none */
	size_t cut_after; /* bytes from the client that get through; 0: all */
	size_t passed;
	pthread_t middle[2];
};

/* From the client, what is wanted of it: 0, or -1 for nothing more. */
static int meddle(struct line *l, uint8_t *buf, size_t n)
{
	if (l->flip_at && l->flip_at >= l->passed && l->flip_at < l->passed + n)
		buf[l->flip_at - l->passed] ^= 4;
	l->passed += n;
	return l->cut_after && l->passed > l->cut_after ? -1 : 0;
}

static void pass_on(struct line *l, int from)
{
	int to = 1 - from;
	uint8_t buf[16384];
	ssize_t n;

	while ((n = read(l->between[from], buf, sizeof(buf))) > 0)
		if ((from == 0 && meddle(l, buf, (size_t)n)) ||
		    io_write_full(l->between[to], buf, (size_t)n)) {
			shutdown(l->between[from], SHUT_RDWR);
			shutdown(l->between[to], SHUT_RDWR);
			return;
		}
	shutdown(l->between[to], SHUT_WR);
}

static void *to_server(void *arg)
{
	pass_on(arg, 0);
	return NULL;
}

static void *to_client(void *arg)
{
	pass_on(arg, 1);
	return NULL;
}

/* Sockets that give up after a while: no test waits for ever. */
static void be_patient(int fd)
{
	struct timeval t = {.tv_sec = PATIENCE_S};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

/* 0, or -1 when the client's handshake fails. */
static int line_open(struct line *l, uint8_t client_key, uint8_t server_key, struct err *err)
{
	struct secret a = {.key = {client_key, 1, 2}}, b = {.key = {server_key, 1, 2}};
	int ab[2], cd[2];

	l->client = tls_with_secret(TLS_CLIENT, &a, err);
	l->server = tls_with_secret(TLS_SERVER, &b, err);
	assert_non_null(l->client);
	assert_non_null(l->server);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ab), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, cd), 0);
	l->between[0] = ab[1];
	l->between[1] = cd[0];
	l->near = -1;
	assert_int_equal(pthread_create(&l->middle[0], NULL, to_server, l), 0);
	assert_int_equal(pthread_create(&l->middle[1], NULL, to_client, l), 0);
	l->there = tunnel_open(l->server, cd[1], NULL, NULL, &l->far, err);
	assert_non_null(l->there);
	be_patient(l->far);
	l->here = tunnel_open(l->client, ab[0], NULL, NULL, &l->near, err);
	if (l->here)
		be_patient(l->near);
	return l->here ? 0 : -1;
}

static void line_close(struct line *l)
{
	if (l->near >= 0)
		close(steal_fd(&l->near));
	if (l->far >= 0)
		close(steal_fd(&l->far));
	tunnel_finish(l->here);
	tunnel_finish(l->there);
	for (int i = 0; i < 2; i++)
		pthread_join(l->middle[i], NULL);
	close(l->between[0]);
	close(l->between[1]);
	tls_free(l->client);
	tls_free(l->server);
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 7 + i / 251);
}

struct stuff {
	int fd;
	size_t bytes; /* a multiple of PART_BYTES */
};

static void *send_main(void *arg)
{
	const struct stuff *s = arg;
	static _Thread_local uint8_t part[PART_BYTES];

	for (size_t at = 0; at < s->bytes; at += PART_BYTES) {
		for (size_t i = 0; i < PART_BYTES; i++)
			part[i] = byte_at(at + i);
		if (io_write_full(s->fd, part, PART_BYTES))
			break;
	}
	shutdown(s->fd, SHUT_WR);
	return NULL;
}

/* How many right bytes come before the end, or before a wrong one. */
static size_t receive(int fd)
{
	uint8_t part[8192];
	size_t at = 0;
	ssize_t n;

	while ((n = read(fd, part, sizeof(part))) > 0)
		for (ssize_t i = 0; i < n; i++, at++)
			if (part[i] != byte_at(at))
				return at;
	return at;
}

static void *receive_main(void *arg)
{
	struct stuff *s = arg;

	s->bytes = receive(s->fd);
	return NULL;
}

/* ---- what gets through ---- */

static void both_ways_at_once(void **state)
{
	struct line l = {0};
	struct err err;
	pthread_t a, b, c;

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	struct stuff up = {l.near, MANY_BYTES}, down = {l.far, MANY_BYTES}, got = {l.near, 0};

	assert_int_equal(pthread_create(&a, NULL, send_main, &up), 0);
	assert_int_equal(pthread_create(&b, NULL, send_main, &down), 0);
	assert_int_equal(pthread_create(&c, NULL, receive_main, &got), 0);
	assert_int_equal(receive(l.far), MANY_BYTES);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	pthread_join(c, NULL);
	assert_int_equal(got.bytes, MANY_BYTES);
	assert_int_equal(tunnel_fault(l.here, &err), 0);
	assert_int_equal(tunnel_fault(l.there, &err), 0);
	line_close(&l);
}

/* One side says its last word; the other still answers. */
static void an_end_in_one_direction(void **state)
{
	struct line l = {0};
	struct err err;
	char word[6];

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	assert_int_equal(io_write_full(l.near, "last", 4), 0);
	shutdown(l.near, SHUT_WR);
	assert_int_equal(io_read_full(l.far, word, 4), 0);
	assert_memory_equal(word, "last", 4);
	assert_int_equal(read(l.far, word, 1), 0);
	assert_int_equal(io_write_full(l.far, "answer", 6), 0);
	assert_int_equal(io_read_full(l.near, word, 6), 0);
	assert_memory_equal(word, "answer", 6);
	line_close(&l);
}

/* What was written before the user closed arrives. */
static void a_close_loses_nothing(void **state)
{
	struct line l = {0};
	struct err err;
	struct stuff up;
	pthread_t a;
	size_t got;

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	up = (struct stuff){l.near, MANY_BYTES};
	assert_int_equal(pthread_create(&a, NULL, send_main, &up), 0);
	got = receive(l.far);
	pthread_join(a, NULL);
	close(steal_fd(&l.near));
	close(steal_fd(&l.far));
	assert_int_equal(got, MANY_BYTES);
	line_close(&l);
}

/* ---- without the thread ---- */

static void take_over(struct tunnel *t, int *fd)
{
	struct err err;

	assert_int_equal(tunnel_take_over(t, fd, &err), 0);
	assert_true(tunnel_may_hold(t));
}

/* Nobody waits for its end. */
static void drop_direct(struct tunnel **t, int *fd)
{
	close(steal_fd(fd));
	tunnel_abort(steal_ptr(t));
}

/* Waits for it, as a user does. */
static ssize_t read_direct(struct tunnel *t, int fd, void *buf, size_t bytes)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	ssize_t n;

	while ((n = tunnel_read(t, buf, bytes)) < 0 && errno == EAGAIN) {
		assert_false(tunnel_may_hold(t));
		if (poll(&p, 1, PATIENCE_S * 1000) != 1)
			return -1;
	}
	return n;
}

/* How many right bytes come before the end, or a wrong one, or so many. */
static size_t receive_direct(struct tunnel *t, int fd, size_t most)
{
	uint8_t part[8192];
	size_t at = 0;
	ssize_t n;

	while (at < most && (n = read_direct(t, fd, part, sizeof(part))) > 0)
		for (ssize_t i = 0; i < n; i++, at++)
			if (part[i] != byte_at(at))
				return at;
	return at;
}

struct direct {
	struct tunnel *t;
	int fd;
	atomic_size_t waits; /* times that there was no room */
};

static void *send_direct_main(void *arg)
{
	struct direct *d = arg;
	struct pollfd p = {.fd = d->fd, .events = POLLOUT};
	uint8_t part[10000];

	for (size_t at = 0; at < MANY_BYTES; at += sizeof(part)) {
		for (size_t i = 0; i < sizeof(part); i++)
			part[i] = byte_at(at + i);
		for (size_t done = 0; done < sizeof(part);) {
			ssize_t n = tunnel_write(d->t, part + done, sizeof(part) - done);

			done += n < 0 ? 0 : (size_t)n;
			if (n >= 0)
				continue;
			atomic_fetch_add(&d->waits, 1);
			if (errno != EAGAIN || poll(&p, 1, PATIENCE_S * 1000) != 1)
				return NULL;
		}
	}
	return NULL;
}

/* What has come already is read first, and what was written goes out, before and after. */
static void a_user_takes_over(void **state)
{
	struct line l = {0};
	struct err err;
	char word[8];

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	assert_int_equal(io_write_full(l.far, "before", 6), 0);
	assert_int_equal(io_write_full(l.near, "early", 5), 0);
	assert_int_equal(io_read_full(l.near, word, 6), 0);
	take_over(l.there, &l.far);
	assert_int_equal(read_direct(l.there, l.far, word, 2), 2);
	assert_int_equal(read_direct(l.there, l.far, word + 2, 6), 3);
	assert_memory_equal(word, "early", 5);
	assert_int_equal(io_write_full(l.near, "late", 4), 0);
	assert_int_equal(read_direct(l.there, l.far, word, 8), 4);
	assert_int_equal(tunnel_write(l.there, "answer", 6), 6);
	take_over(l.here, &l.near);
	assert_int_equal(read_direct(l.here, l.near, word, 8), 6);
	assert_memory_equal(word, "answer", 6);
	assert_int_equal(tunnel_read(l.here, word, 1), -1);
	assert_int_equal(errno, EAGAIN);
	drop_direct(&l.there, &l.far);
	line_close(&l);
}

/* All arrives, also where there was no room for a while; then the proper end. */
static void much_goes_directly(void **state)
{
	struct line l = {0};
	struct direct d = {0};
	struct err err;
	pthread_t a;

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	take_over(l.here, &l.near);
	take_over(l.there, &l.far);
	d.t = l.here;
	d.fd = l.near;
	assert_int_equal(pthread_create(&a, NULL, send_direct_main, &d), 0);
	while (!atomic_load(&d.waits))
		usleep(1000);
	assert_int_equal(receive_direct(l.there, l.far, MANY_BYTES), MANY_BYTES);
	pthread_join(a, NULL);
	close(steal_fd(&l.near));
	tunnel_finish(steal_ptr(&l.here));
	assert_int_equal(receive_direct(l.there, l.far, 1), 0);
	assert_int_equal(tunnel_fault(l.there, &err), 0);
	line_close(&l);
}

/* It is for those whose turn it is. */
static void who_takes_over_has_been_told_little(void **state)
{
	struct line l = {0};
	uint8_t much[10000] = {0};
	int there = 0;
	struct err err;

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	assert_int_equal(io_write_full(l.near, much, sizeof(much)), 0);
	while (there < (int)sizeof(much))
		assert_int_equal(ioctl(l.far, FIONREAD, &there), 0);
	assert_int_equal(tunnel_take_over(l.there, &l.far, &err), -1);
	assert_non_null(strstr(err.text, "before it is its turn"));
	drop_direct(&l.there, &l.far);
	line_close(&l);
}

/* ---- what does not ---- */

static void no_other_secret(void **state)
{
	struct line l = {0};
	struct err err, why;
	char c;

	assert_int_equal(line_open(&l, 9, 8, &err), -1);
	assert_non_null(strstr(err.text, "refuses our secret"));
	assert_int_equal(read(l.far, &c, 1), 0);
	assert_int_equal(tunnel_fault(l.there, &why), -1);
	assert_non_null(strstr(why.text, "does not know the secret"));
	line_close(&l);
}

/* Something happens on the way, in the middle: what came before it is good, and there is no end but a fault. */
static void must_be_noticed(struct line l, bool directly, const char *words)
{
	struct err err, why;
	struct stuff up;
	pthread_t a;
	size_t got;

	assert_int_equal(line_open(&l, 9, 9, &err), 0);
	if (directly)
		take_over(l.there, &l.far);
	up = (struct stuff){l.near, MANY_BYTES};
	assert_int_equal(pthread_create(&a, NULL, send_main, &up), 0);
	got = directly ? receive_direct(l.there, l.far, MANY_BYTES) : receive(l.far);
	assert_in_range(got, 1000000, 1500000);
	assert_int_equal(tunnel_fault(l.there, &why), -1);
	assert_non_null(strstr(why.text, words));
	pthread_join(a, NULL);
	if (directly)
		drop_direct(&l.there, &l.far);
	line_close(&l);
}

static void nothing_that_was_changed(void **state)
{
	must_be_noticed((struct line){.flip_at = 1500000}, false, "changed it on the way");
	must_be_noticed((struct line){.flip_at = 1500000}, true, "changed it on the way");
}

/* The end of the connection is not the end of what is said. */
static void a_cut_is_no_end(void **state)
{
	must_be_noticed((struct line){.cut_after = 1500000}, false, "cut");
	must_be_noticed((struct line){.cut_after = 1500000}, true, "cut");
}

/* Somebody who does not speak TLS: he is told nothing but that. */
static void a_stranger(void **state)
{
	struct secret key = {.key = {9}};
	struct err err, why;
	struct tls *tls = tls_with_secret(TLS_SERVER, &key, &err);
	struct tunnel *t;
	int pair[2], fd;
	char answer[100];

	assert_non_null(tls);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	be_patient(pair[0]);
	t = tunnel_open(tls, pair[1], NULL, NULL, &fd, &err);
	assert_non_null(t);
	assert_int_equal(recv(pair[0], answer, sizeof(answer), MSG_DONTWAIT), -1);
	assert_int_equal(io_write_full(pair[0], "GET / HTTP/1.0\r\n\r\n", 18), 0);
	assert_int_equal(read(fd, answer, 1), 0);
	assert_int_equal(tunnel_fault(t, &why), -1);
	assert_non_null(strstr(why.text, "does not speak TLS"));
	close(fd);
	tunnel_finish(t);
	assert_in_range(recv(pair[0], answer, sizeof(answer), 0) + 1, 0, 8); /* an alert at most */
	close(pair[0]);
	tls_free(tls);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ways_at_once),
		cmocka_unit_test(an_end_in_one_direction),
		cmocka_unit_test(a_close_loses_nothing),
		cmocka_unit_test(a_user_takes_over),
		cmocka_unit_test(much_goes_directly),
		cmocka_unit_test(who_takes_over_has_been_told_little),
		cmocka_unit_test(no_other_secret),
		cmocka_unit_test(nothing_that_was_changed),
		cmocka_unit_test(a_cut_is_no_end),
		cmocka_unit_test(a_stranger),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

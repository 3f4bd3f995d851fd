// SPDX-License-Identifier: Apache-2.0
// One stream over several connections: order, both directions, ends, and peers that break the rules.
#include "wire/trunk.h"

#include "base/io.h"
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

enum { WAYS = 3, ALL_BYTES = 3000000, PATIENCE_S = 20 };

/* Sockets that give up after a while: no test waits for ever. */
static void be_patient(int fd)
{
	struct timeval t = {.tv_sec = PATIENCE_S};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

static void make_ways(struct trunk_way *a, struct trunk_way *b, size_t n)
{
	int pair[2];

	for (size_t i = 0; i < n; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		be_patient(pair[0]);
		be_patient(pair[1]);
		a[i] = (struct trunk_way){.fd = pair[0]};
		b[i] = (struct trunk_way){.fd = pair[1]};
	}
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 7 + i / 251);
}

struct stuff {
	int fd;
	size_t bytes;
};

/* In pieces of all sizes. */
static void *send_main(void *arg)
{
	const struct stuff *s = arg;
	static _Thread_local uint8_t part[100000];

	for (size_t at = 0, n = 1; at < s->bytes; at += n, n = n * 3 % 99991 + 1) {
		n = MIN(n, s->bytes - at);
		for (size_t i = 0; i < n; i++)
			part[i] = byte_at(at + i);
		if (io_write_full(s->fd, part, n))
			break;
	}
	shutdown(s->fd, SHUT_WR);
	return NULL;
}

/* How many right bytes come before the end, or before a wrong one. */
static void *receive_main(void *arg)
{
	struct stuff *s = arg;
	uint8_t part[8192];
	ssize_t n;

	while ((n = read(s->fd, part, sizeof(part))) > 0)
		for (ssize_t i = 0; i < n; i++, s->bytes++)
			if (part[i] != byte_at(s->bytes))
				return NULL;
	return NULL;
}

static void both_ways_at_once(void **state)
{
	for (size_t n = 1; n <= WAYS; n++) {
		struct trunk_way a[WAYS], b[WAYS];
		int near, far;
		struct err err;
		pthread_t threads[3];

		make_ways(a, b, n);
		struct trunk *here = trunk_open(a, n, &near, &err),
			     *there = trunk_open(b, n, &far, &err);

		assert_true(here && there);
		be_patient(near);
		be_patient(far);
		struct stuff up = {near, ALL_BYTES}, down = {far, ALL_BYTES}, got = {near, 0},
			     got_there = {far, 0};

		assert_int_equal(pthread_create(&threads[0], NULL, send_main, &up), 0);
		assert_int_equal(pthread_create(&threads[1], NULL, send_main, &down), 0);
		assert_int_equal(pthread_create(&threads[2], NULL, receive_main, &got), 0);
		receive_main(&got_there);
		for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
			pthread_join(threads[i], NULL);
		assert_int_equal(got.bytes, ALL_BYTES);
		assert_int_equal(got_there.bytes, ALL_BYTES);
		assert_int_equal(trunk_fault(here, &err), 0);
		assert_int_equal(trunk_fault(there, &err), 0);
		close(near);
		close(far);
		trunk_finish(here);
		trunk_finish(there);
	}
}

/* What was said arrives although the speaker leaves at once. */
static void a_last_word(void **state)
{
	struct trunk_way a[WAYS], b[WAYS];
	struct trunk *here, *there;
	char word[9] = "";
	struct err err;
	int near, far;

	make_ways(a, b, WAYS);
	here = trunk_open(a, WAYS, &near, &err);
	there = trunk_open(b, WAYS, &far, &err);
	be_patient(far);
	assert_int_equal(io_write_full(near, "the last", 8), 0);
	close(near);
	assert_int_equal(io_read_full(far, word, 8), 0);
	assert_string_equal(word, "the last");
	assert_int_equal(read(far, word, 1), 0);
	close(far);
	trunk_finish(there);
	trunk_finish(here);
}

/* What comes by hand over the ways: is it an error that names @why, after the user has read @good bytes? */
static void breaks(const uint8_t *bytes, size_t n, size_t good, const char *why)
{
	struct trunk_way a[2], b[2];
	struct trunk *t;
	char got[64];
	struct err err;
	int fd;

	make_ways(a, b, 2);
	t = trunk_open(a, 2, &fd, &err);
	assert_non_null(t);
	be_patient(fd);
	assert_int_equal(io_write_full(b[0].fd, bytes, n), 0);
	for (int i = 0; i < 2; i++)
		shutdown(b[i].fd, SHUT_WR);
	for (size_t i = 0; i < good; i++)
		assert_int_equal(read(fd, got, 1), 1);
	assert_true(read(fd, got, 1) <= 0);
	assert_int_equal(trunk_fault(t, &err), -1);
	assert_non_null(strstr(err.text, why));
	close(fd);
	trunk_finish(t);
	trunk_drop(b, 2);
}

static void peers_that_break_the_rules(void **state)
{
	static const uint8_t long_block[] = {1, 0, 1, 0, 'x'}, huge[] = {0xff, 0xff, 0xff, 0xff},
			     half[] = {5, 0, 0, 0, 'a', 'b'}, half_head[] = {5, 0},
			     good[] = {2, 0, 0, 0, 'a', 'b'};

	breaks(long_block, sizeof(long_block), 0, "a block of 65537 bytes");
	breaks(huge, sizeof(huge), 0, "a block of 4294967295 bytes");
	breaks(half, sizeof(half), 0, "one of the connections ended");
	breaks(half_head, sizeof(half_head), 0, "one of the connections ended");
	breaks(good, sizeof(good), 2, "one of the connections ended");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ways_at_once),
		cmocka_unit_test(a_last_word),
		cmocka_unit_test(peers_that_break_the_rules),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// What goes first over a connection to ferry serve, who may do what there, and bytes between two ends.
#include "base/io.h"
#include "migrate/peers.h"
#include "unit.h"
#include "wire/call.h"
#include "wire/pump.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- calls ---- */

static void a_call_comes_as_it_went(void **state)
{
	struct call call = {.what = CALL_JOIN, .address = "fe80::1%eth0"}, got;
	uint8_t bytes[CALL_BYTES];
	struct err err;

	call_encode(&call, bytes);
	assert_int_equal(call_decode(bytes, &got, &err), 0);
	assert_int_equal(got.what, CALL_JOIN);
	assert_string_equal(got.address, "fe80::1%eth0");
}

/* Each byte of it that is changed must be noticed, but for those that say another thing that is right. */
static void what_is_no_call(void **state)
{
	const struct call call = {.what = CALL_AGENT};
	struct call got;
	uint8_t bytes[CALL_BYTES];
	struct err err;

	for (size_t i = 0; i < CALL_BYTES - CALL_ADDRESS_MAX - 1; i++) {
		call_encode(&call, bytes);
		bytes[i] ^= 0x40;
		assert_int_equal(call_decode(bytes, &got, &err), -1);
	}
	call_encode(&call, bytes);
	bytes[CALL_BYTES - 1] = '1';
	assert_int_equal(call_decode(bytes, &got, &err), -1);
	memset(bytes + CALL_BYTES - CALL_ADDRESS_MAX - 1, '1', CALL_ADDRESS_MAX + 1);
	assert_int_equal(call_decode(bytes, &got, &err), -1);
	call_encode(&call, bytes);
	bytes[CALL_BYTES - CALL_ADDRESS_MAX - 1] = '$';
	assert_int_equal(call_decode(bytes, &got, &err), -1);
}

static void an_answer_can_be_shown(void **state)
{
	uint8_t bytes[CALL_ANSWER_MAX];
	char text[CALL_TEXT_MAX + 1];
	struct err err;
	size_t n, left;
	bool yes;

	n = call_answer(false, "no \x1b[2J", bytes);
	assert_int_equal(call_answer_head(bytes, &yes, &left, &err), 0);
	assert_false(yes);
	assert_int_equal(left + CALL_HEAD_BYTES, n);
	call_answer_text(bytes + CALL_HEAD_BYTES, left, text);
	assert_string_equal(text, "no ?[2J");
	bytes[0] = 'x';
	assert_int_equal(call_answer_head(bytes, &yes, &left, &err), -1);
}

static void hosts_that_are_called(void **state)
{
	static const struct {
		const char *url, *host;
		uint16_t port;
	} good[] = {{"ferry://b.example", "b.example", CALL_PORT},
		    {"ferry://b.example:1234/", "b.example", 1234},
		    {"ferry://[2001:db8::1]:65535", "2001:db8::1", 65535},
		    {"ferry://[::1]", "::1", CALL_PORT}};
	static const char *const bad[] = {"b.example",     "ferry://",      "ferry://:1",
					  "ferry://b:",    "ferry://b:0",   "ferry://b:65536",
					  "ferry://b:1x",  "ferry://[::1",  "ferry://-o",
					  "ferry://b/etc", "ferry://[::1]x"};
	char host[CALL_HOST_MAX + 1];
	struct err err;
	uint16_t port;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(call_url_parse(good[i].url, host, &port, &err), 0);
		assert_string_equal(host, good[i].host);
		assert_int_equal(port, good[i].port);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(call_url_parse(bad[i], host, &port, &err), -1);
}

/* ---- peers ---- */

static int read_peers(const char *text, struct peers *out, struct err *err)
{
	char path[] = "/tmp/ferry-peers.XXXXXX";
	int fd = mkstemp(path), rc;

	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
	close(fd);
	rc = peers_read(path, out, err);
	unlink(path);
	return rc;
}

static bool is_named(void *arg, const char *name)
{
	return strcmp(arg, name) == 0;
}

static void the_first_line_that_fits(void **state)
{
	static char a[] = "a.test", b[] = "b.test", c[] = "c.test";
	struct peers p;
	struct err err;

	assert_int_equal(read_peers("# all\n\n a.test\tsend,files # both\nb.test none\na.test none\n",
				    &p, &err),
			 0);
	assert_int_equal(p.n, 3);
	assert_int_equal(peers_find(&p, is_named, a)->rights, PEER_SEND | PEER_FILES);
	assert_int_equal(peers_find(&p, is_named, b)->rights, 0);
	assert_null(peers_find(&p, is_named, c));
	peers_free(&p);
	assert_int_equal(read_peers("b.test none\n* send", &p, &err), 0);
	assert_int_equal(peers_find(&p, is_named, b)->rights, 0);
	assert_int_equal(peers_find(&p, is_named, c)->rights, PEER_SEND);
	peers_free(&p);
}

static void what_is_not_understood_gives_no_right(void **state)
{
	static const char *const bad[] = {"a.test\n", "a.test send files\n", "a.test sent\n",
					  "* send\na.test root\n"};
	struct peers p;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(read_peers(bad[i], &p, &err), -1);
		assert_non_null(strstr(err.text, "line "));
		assert_int_equal(p.n, 0);
	}
	assert_int_equal(peers_read("/nonexistent/peers", &p, &err), -1);
}

/* ---- the pump ---- */

enum { MUCH = 3000000 };

static void *echo_main(void *arg)
{
	int fd = *(int *)arg;
	char part[8192];
	ssize_t n;

	while ((n = read(fd, part, sizeof(part))) > 0)
		if (io_write_full(fd, part, (size_t)n))
			break;
	close(fd);
	return NULL;
}

static void *pump_main(void *arg)
{
	const struct pump_end *ends = arg;
	struct err err;

	return pump_run(ends[0], ends[1], &err) ? "failed" : NULL;
}

static void *feed_main(void *arg)
{
	char part[10000];

	memset(part, 'x', sizeof(part));
	for (size_t sent = 0; sent < MUCH; sent += sizeof(part))
		if (io_write_full(*(int *)arg, part, sizeof(part)))
			break;
	close(*(int *)arg);
	return NULL;
}

/* As "ferry call" has it: pipes on the one side, a socket on the other, who answers all that he hears. */
static void everything_gets_through(void **state)
{
	int to[2], from[2], pair[2];
	pthread_t pump, echo, feed;
	struct pump_end ends[2];
	char part[4096];
	size_t got = 0;
	ssize_t n;
	void *failed;

	assert_int_equal(pipe2(to, O_CLOEXEC) | pipe2(from, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	ends[0] = (struct pump_end){to[0], from[1]};
	ends[1] = (struct pump_end){pair[0], pair[0]};
	assert_int_equal(pthread_create(&pump, NULL, pump_main, ends), 0);
	assert_int_equal(pthread_create(&echo, NULL, echo_main, &pair[1]), 0);
	assert_int_equal(pthread_create(&feed, NULL, feed_main, &to[1]), 0);
	while ((n = read(from[0], part, sizeof(part))) > 0)
		got += (size_t)n;
	assert_int_equal(got, MUCH);
	pthread_join(pump, &failed);
	pthread_join(echo, NULL);
	pthread_join(feed, NULL);
	assert_null(failed);
	close(from[0]);
}

/* The far side's end is the end, though we would still have something to say. */
static void the_far_end_is_the_end(void **state)
{
	int near[2], far[2];
	struct err err;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, near), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, far), 0);
	assert_int_equal(io_write_full(near[1], "unheard", 7), 0);
	assert_int_equal(io_write_full(far[1], "last", 4), 0);
	close(far[1]);
	assert_int_equal(pump_run((struct pump_end){near[0], near[0]},
				  (struct pump_end){far[0], far[0]}, &err),
			 0);
	char word[5] = "";

	assert_int_equal(io_read_full(near[1], word, 4), 0);
	assert_string_equal(word, "last");
	close(near[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_call_comes_as_it_went),
		cmocka_unit_test(what_is_no_call),
		cmocka_unit_test(an_answer_can_be_shown),
		cmocka_unit_test(hosts_that_are_called),
		cmocka_unit_test(the_first_line_that_fits),
		cmocka_unit_test(what_is_not_understood_gives_no_right),
		cmocka_unit_test(everything_gets_through),
		cmocka_unit_test(the_far_end_is_the_end),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(100);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

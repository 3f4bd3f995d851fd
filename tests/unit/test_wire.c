// SPDX-License-Identifier: Apache-2.0
// The message table and the channel: who may say what and when; aborts, silence, ends, full pipes.
#include "wire/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Two channels that face each other. */
struct pair {
	struct channel source, target;
};

static void pair_init(struct pair *p)
{
	int there[2], back[2];

	assert_int_equal(pipe2(there, O_CLOEXEC), 0);
	assert_int_equal(pipe2(back, O_CLOEXEC), 0);
	channel_init(&p->source, back[0], there[1], WIRE_SOURCE, "the far host");
	channel_init(&p->target, there[0], back[1], WIRE_TARGET, "the source");
	p->source.timeout_ms = p->target.timeout_ms = 10000;
}

static void pair_finish(struct pair *p)
{
	channel_finish(&p->source);
	channel_finish(&p->target);
}

static void every_message_has_a_place(void **state)
{
	unsigned int found = 0;

	for (uint16_t type = 0; type < 1000; type++) {
		const struct msg_info *info = msg_info(type);
		struct err err;
		bool source = false, target = false;

		if (!info)
			continue;
		found++;
		for (int stage = 0; stage < WIRE_STAGES; stage++) {
			source |= msg_allowed(type, WIRE_SOURCE, (enum wire_stage)stage, &err) == 0;
			target |= msg_allowed(type, WIRE_TARGET, (enum wire_stage)stage, &err) == 0;
		}
		assert_true(source || target);
		assert_int_equal(msg_limit(type), info->max_bytes);
		if (info->body)
			assert_true(info->max_bytes > 0);
	}
	assert_int_equal(found, MSG_LAZY_ROOT);
}

static void order_is_kept(void **state)
{
	struct err err;

	assert_int_equal(msg_allowed(MSG_COMMIT, WIRE_SOURCE, WIRE_STAGE_COMMIT, &err), 0);
	assert_int_equal(msg_allowed(MSG_COMMIT, WIRE_SOURCE, WIRE_STAGE_STATE, &err), -1);
	assert_non_null(strstr(err.text, "commit: out of order in stage state"));
	assert_int_equal(msg_allowed(MSG_COMMIT, WIRE_TARGET, WIRE_STAGE_COMMIT, &err), -1);
	assert_non_null(strstr(err.text, "may not send"));
	assert_int_equal(msg_allowed(99, WIRE_SOURCE, WIRE_STAGE_HELLO, &err), -1);
}

static void tokens(void **state)
{
	assert_true(wire_token_valid("0123456789abcdef0123456789abcdef"));
	assert_false(wire_token_valid("0123456789abcdef0123456789abcde"));
	assert_false(wire_token_valid("0123456789abcdef0123456789abcdef0"));
	assert_false(wire_token_valid("../../../../../etc/passwd0000000"));
	assert_false(wire_token_valid(""));
}

static void round_trip(void **state)
{
	Wire__Commit commit = WIRE__COMMIT__INIT, *got;
	struct pair p;
	struct err err;

	pair_init(&p);
	p.source.stage = p.target.stage = WIRE_STAGE_COMMIT;
	commit.token = (char *)"0123456789abcdef0123456789abcdef";
	assert_int_equal(channel_send(&p.source, MSG_COMMIT, &commit.base, &err), 0);
	got = channel_expect(&p.target, MSG_COMMIT, &err);
	assert_non_null(got);
	assert_string_equal(got->token, commit.token);
	wire_free(got);
	assert_int_equal(p.source.sent_bytes, p.target.received_bytes);
	pair_finish(&p);
}

static void out_of_order_is_refused(void **state)
{
	struct frame f;
	struct pair p;
	struct err err;

	pair_init(&p);
	p.target.stage = WIRE_STAGE_FILES;
	assert_int_equal(channel_send(&p.source, MSG_COMPLETE, NULL, &err), 0);
	assert_int_equal(channel_recv(&p.target, &f, &err), -1);
	assert_non_null(strstr(err.text, "the source: message complete: out of order"));
	pair_finish(&p);
}

static void wrong_message_is_named(void **state)
{
	struct pair p;
	struct err err;

	pair_init(&p);
	p.target.stage = WIRE_STAGE_STATE;
	assert_int_equal(channel_send(&p.source, MSG_COMPLETE, NULL, &err), 0);
	assert_null(channel_expect(&p.target, MSG_OBJECT, &err));
	assert_non_null(strstr(err.text, "sent message complete where object belongs"));
	pair_finish(&p);
}

static void undecodable_body(void **state)
{
	struct iovec piece = {"\xff\xff\xff", 3};
	struct pair p;
	struct err err;

	pair_init(&p);
	assert_int_equal(channel_send_raw(&p.source, MSG_HELLO, &piece, 1, &err), 0);
	assert_null(channel_expect(&p.target, MSG_HELLO, &err));
	assert_non_null(strstr(err.text, "message hello: its 3 bytes cannot be decoded"));
	pair_finish(&p);
}

static void too_large_is_not_sent(void **state)
{
	char text[300];
	struct iovec piece = {text, sizeof(text)};
	struct pair p;
	struct err err;

	pair_init(&p);
	assert_int_equal(channel_send_raw(&p.source, MSG_COMMIT, &piece, 1, &err), -1);
	assert_int_equal(err.no, EMSGSIZE);
	assert_int_equal(p.source.sent_bytes, 0);
	pair_finish(&p);
}

static void abort_carries_the_reason(void **state)
{
	struct err err, why;
	struct frame f;
	struct pair p;

	pair_init(&p);
	err_set(&why, ENOSPC, "/srv/log: cannot write the copy: disk full");
	channel_abort(&p.target, &why);
	assert_int_equal(channel_recv(&p.source, &f, &err), -1);
	assert_string_equal(err.text, "the far host: /srv/log: cannot write the copy: disk full");
	assert_int_equal(err.no, ENOSPC);
	assert_false(p.source.broken);
	pair_finish(&p);
}

/* The peer aborts and is gone while we still send: its reason is found all the same. */
static void abort_while_sending(void **state)
{
	static char data[1 << 20];
	struct iovec pieces[2] = {{"\0\0\0\0", 4}, {data, sizeof(data)}};
	struct err err, why;
	struct pair p;
	int rc = 0;

	pair_init(&p);
	err_set(&why, 0, "no memory there");
	channel_abort(&p.target, &why);
	channel_finish(&p.target);
	for (int i = 0; i < 100 && rc == 0; i++)
		rc = channel_send_raw(&p.source, MSG_PAGES, pieces, 2, &err);
	assert_int_equal(rc, -1);
	assert_string_equal(err.text, "the far host: no memory there");
	assert_false(p.source.broken);
	channel_finish(&p.source);
}

static void end_is_told(void **state)
{
	struct frame f;
	struct pair p;
	struct err err;

	pair_init(&p);
	channel_finish(&p.target);
	assert_int_equal(channel_recv(&p.source, &f, &err), -1);
	assert_string_equal(err.text, "the connection to the far host ended");
	assert_true(p.source.broken);
	channel_finish(&p.source);
}

static void silence_ends(void **state)
{
	struct frame f;
	struct pair p;
	struct err err;

	pair_init(&p);
	p.source.timeout_ms = 50;
	assert_int_equal(channel_recv(&p.source, &f, &err), -1);
	assert_int_equal(err.no, ETIMEDOUT);
	assert_true(p.source.broken);
	pair_finish(&p);
}

static int stop(void *arg, struct err *err)
{
	return err_set(err, EINTR, "interrupted");
}

static void watch_ends_the_wait(void **state)
{
	int wish[2];
	struct frame f;
	struct pair p;
	struct err err;

	assert_int_equal(pipe2(wish, O_CLOEXEC), 0);
	pair_init(&p);
	p.source.watch_fd = wish[0];
	p.source.on_watch = stop;
	assert_int_equal(write(wish[1], "", 1), 1);
	assert_int_equal(channel_recv(&p.source, &f, &err), -1);
	assert_int_equal(err.no, EINTR);
	assert_false(p.source.broken);
	pair_finish(&p);
	close(wish[0]);
	close(wish[1]);
}

static void note_progress(void *arg, uint64_t done, uint64_t total)
{
	*(uint64_t *)arg += done * total;
}

static void *speak(void *arg)
{
	struct channel *ch = arg;
	Wire__Progress progress = WIRE__PROGRESS__INIT;
	Wire__Built built = WIRE__BUILT__INIT;
	struct err err;

	progress.done_bytes = 2;
	progress.total_bytes = 3;
	for (int i = 0; i < 20000; i++) {
		if (channel_send(ch, MSG_PROGRESS, &progress.base, &err) < 0)
			return NULL;
	}
	built.pid = 7;
	return channel_send(ch, MSG_BUILT, &built.base, &err) < 0 ? NULL : ch;
}

static void *swallow(void *arg)
{
	struct channel *ch = arg;
	struct frame f;
	struct err err;
	int n = 0;

	while (channel_recv(ch, &f, &err) == 0 && f.type == MSG_PAGES)
		n++;
	return n == 64 ? ch : NULL;
}

/* Progress that the peer sends meanwhile fills no pipe and is not lost. */
static void progress_on_the_way(void **state)
{
	static char data[1 << 20];
	struct iovec pieces[2] = {{"\0\0\0\0", 4}, {data, sizeof(data)}};
	pthread_t speaker, swallower;
	struct channel reading, writing;
	uint64_t sum = 0;
	Wire__Built *built;
	struct pair p;
	struct err err;
	void *ok;

	pair_init(&p);
	/* the far side reads and writes in two threads: each has a channel with one direction */
	reading = writing = p.target;
	reading.stage = writing.stage = p.source.stage = WIRE_STAGE_STATE;
	frame_reader_init(&writing.reader, msg_limit);
	writing.in = -1;
	p.source.on_progress = note_progress;
	p.source.arg = &sum;
	assert_int_equal(pthread_create(&speaker, NULL, speak, &writing), 0);
	assert_int_equal(pthread_create(&swallower, NULL, swallow, &reading), 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(channel_send_raw(&p.source, MSG_PAGES, pieces, 2, &err), 0);
	assert_int_equal(channel_send(&p.source, MSG_COMPLETE, NULL, &err), 0);
	built = channel_expect(&p.source, MSG_BUILT, &err);
	assert_non_null(built);
	assert_int_equal(built->pid, 7);
	assert_int_equal(sum, 6 * 20000);
	wire_free(built);
	pthread_join(speaker, &ok);
	assert_non_null(ok);
	pthread_join(swallower, &ok);
	assert_non_null(ok);
	frame_reader_finish(&reading.reader);
	p.target.reader = (struct frame_reader){.limit = msg_limit};
	pair_finish(&p);
}

/* Has anything been sent that was not received? */
static bool has_arrived(const struct pair *p)
{
	struct pollfd in = {.fd = p->target.in, .events = POLLIN};

	return poll(&in, 1, 0) > 0;
}

static void send_progress(struct channel *ch)
{
	Wire__Progress msg = WIRE__PROGRESS__INIT;
	struct err err;

	msg.done_bytes = 3;
	msg.total_bytes = 5;
	assert_int_equal(channel_send(ch, MSG_PROGRESS, &msg.base, &err), 0);
}

/* One who polls does not wait for what was read with the message before. */
static void what_is_here_is_seen(void **state)
{
	Wire__Built built = WIRE__BUILT__INIT, *got;
	Wire__Stage done = WIRE__STAGE__INIT;
	uint64_t sum = 0;
	struct pollfd in;
	struct pair p;
	struct err err;

	pair_init(&p);
	p.source.stage = p.target.stage = WIRE_STAGE_STATE;
	p.source.on_progress = note_progress;
	p.source.arg = &sum;
	assert_int_equal(channel_look(&p.source, &err), 0);
	send_progress(&p.target);
	assert_int_equal(channel_look(&p.source, &err), 0);
	assert_int_equal(sum, 15);
	/* all three are there at the first read */
	assert_int_equal(channel_send(&p.target, MSG_DONE, &done.base, &err), 0);
	send_progress(&p.target);
	assert_int_equal(channel_send(&p.target, MSG_BUILT, &built.base, &err), 0);
	assert_int_equal(channel_expect_done(&p.source, &err), 0);
	in = (struct pollfd){.fd = p.source.in, .events = POLLIN};
	assert_int_equal(poll(&in, 1, 0), 0);
	assert_int_equal(channel_look(&p.source, &err), 1);
	assert_int_equal(sum, 30);
	got = channel_expect(&p.source, MSG_BUILT, &err);
	assert_non_null(got);
	wire_free(got);
	assert_int_equal(channel_look(&p.source, &err), 0);
	channel_finish(&p.target);
	assert_int_equal(channel_look(&p.source, &err), -1);
	p.target = (struct channel){.in = -1, .out = -1};
	channel_finish(&p.source);
}

static void send_object(struct pair *p, const char *text)
{
	struct iovec piece = {(void *)text, strlen(text)};
	struct err err;

	assert_int_equal(channel_send_raw(&p->source, MSG_OBJECT, &piece, 1, &err), 0);
}

static void expect_object(struct pair *p, const char *text)
{
	struct frame f;
	struct err err;

	assert_int_equal(channel_recv(&p->target, &f, &err), 0);
	assert_int_equal(f.type, MSG_OBJECT);
	assert_int_equal(f.bytes, strlen(text));
	assert_memory_equal(f.body, text, f.bytes);
}

/* Small messages wait for what follows, and nothing overtakes them. */
static void held_messages(void **state)
{
	static char data[256 << 10];
	struct iovec pieces[2] = {{"\0\0\0\0", 4}, {data, sizeof(data)}};
	struct frame f;
	struct pair p;
	struct err err;

	pair_init(&p);
	p.source.stage = p.target.stage = WIRE_STAGE_STATE;
	channel_hold(&p.source);
	send_object(&p, "first");
	send_object(&p, "second");
	assert_false(has_arrived(&p));
	/* one that is too large to wait takes them along */
	assert_int_equal(channel_send_raw(&p.source, MSG_PAGES, pieces, 2, &err), 0);
	expect_object(&p, "first");
	expect_object(&p, "second");
	assert_int_equal(channel_recv(&p.target, &f, &err), 0);
	assert_int_equal(f.type, MSG_PAGES);
	assert_int_equal(f.bytes, sizeof(data) + 4);
	send_object(&p, "third");
	channel_release(&p.source);
	assert_false(has_arrived(&p));
	send_object(&p, "fourth");
	expect_object(&p, "third");
	expect_object(&p, "fourth");
	/* who waits for an answer has asked before */
	channel_hold(&p.source);
	send_object(&p, "fifth");
	assert_false(has_arrived(&p));
	p.source.timeout_ms = 0;
	assert_int_equal(channel_recv(&p.source, &f, &err), -1);
	expect_object(&p, "fifth");
	send_object(&p, "sixth");
	assert_int_equal(channel_flush(&p.source, &err), 0);
	expect_object(&p, "sixth");
	pair_finish(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_has_a_place),
		cmocka_unit_test(order_is_kept),
		cmocka_unit_test(tokens),
		cmocka_unit_test(round_trip),
		cmocka_unit_test(out_of_order_is_refused),
		cmocka_unit_test(wrong_message_is_named),
		cmocka_unit_test(undecodable_body),
		cmocka_unit_test(too_large_is_not_sent),
		cmocka_unit_test(abort_carries_the_reason),
		cmocka_unit_test(abort_while_sending),
		cmocka_unit_test(end_is_told),
		cmocka_unit_test(silence_ends),
		cmocka_unit_test(watch_ends_the_wait),
		cmocka_unit_test(progress_on_the_way),
		cmocka_unit_test(what_is_here_is_seen),
		cmocka_unit_test(held_messages),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// TLS tunnels over TCP when the link is dead: noticed, in both directions and in silence; and no link is
// taken for dead because its reader takes his time or nobody has anything to say. The link is the loopback
// interface of a network namespace of our own. And channels over such tunnels, without their threads.
#include "base/io.h"
#include "unit.h"
#include "wire/channel.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Longer than any of this takes on a busy machine, shorter than what the kernel alone takes to give up. */
enum { PATIENCE_MS = 2000, LIMIT_MS = 20000, MUCH_BYTES = 32 << 20 };

static const char *no_network; /* why not */

#define needs_network()                                                       \
	do {                                                                  \
		if (no_network)                                               \
			skip_because("no network namespace: %s", no_network); \
	} while (0)

struct line {
	struct tls *client, *server;
	struct tunnel *here, *there;
	int near, far;
};

static void set_link(bool up)
{
	struct ifreq rq = {.ifr_name = "lo", .ifr_flags = up ? IFF_UP : 0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &rq), 0);
	close(fd);
}

/* @cut: of the near end. */
static void line_open_cut(struct line *l, tunnel_cut cut)
{
	struct secret secret = {.key = {1, 2, 3}};
	struct pollfd p = {.events = POLLIN};
	struct err err;
	uint16_t port;
	int near;

	set_link(true);
	l->client = tls_with_secret(TLS_CLIENT, &secret, &err);
	l->server = tls_with_secret(TLS_SERVER, &secret, &err);
	p.fd = tcp_listen(NULL, 0, &port, &err);
	assert_true(p.fd >= 0);
	near = tcp_connect("127.0.0.1", port, LIMIT_MS, &err);
	assert_true(near >= 0);
	assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
	l->there = tunnel_open(l->server, accept(p.fd, NULL, NULL), NULL, NULL, &l->far, &err);
	l->here = tunnel_open(l->client, near, NULL, cut, &l->near, &err);
	assert_non_null(l->there);
	assert_non_null(l->here);
	tunnel_patience(l->here, PATIENCE_MS);
	tunnel_patience(l->there, PATIENCE_MS);
	close(p.fd);
}

static void line_open(struct line *l)
{
	line_open_cut(l, NULL);
}

static void line_close(struct line *l)
{
	close(l->near);
	close(l->far);
	tunnel_finish(l->here);
	tunnel_finish(l->there);
	tls_free(l->client);
	tls_free(l->server);
}

static void comes_across(struct line *l)
{
	char word[4];

	assert_int_equal(io_write_full(l->near, "word", 4), 0);
	assert_int_equal(io_read_full(l->far, word, 4), 0);
	assert_memory_equal(word, "word", 4);
}

/* The user reads end of file, and is told why. */
static void is_dead(struct tunnel *t, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct err why;
	char c;

	assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
	assert_int_equal(read(fd, &c, 1), 0);
	assert_int_equal(tunnel_fault(t, &why), -1);
	assert_non_null(strstr(why.text, "nothing has been heard of 127.0.0.1"));
}

static void a_dead_link_in_silence(void **state)
{
	struct line l;

	needs_network();
	line_open(&l);
	comes_across(&l);
	set_link(false);
	is_dead(l.here, l.near);
	is_dead(l.there, l.far);
	line_close(&l);
}

static void a_dead_link_under_way(void **state)
{
	struct line l;

	needs_network();
	line_open(&l);
	comes_across(&l);
	set_link(false);
	assert_int_equal(io_write_full(l.near, "lost", 4), 0);
	is_dead(l.here, l.near);
	is_dead(l.there, l.far);
	line_close(&l);
}

/* Who has taken it over reads now and then, and learns it so. */
static void a_dead_link_without_a_thread(void **state)
{
	char word[4], c;
	int ms = 0;
	struct err why;
	struct line l;

	needs_network();
	line_open(&l);
	comes_across(&l);
	assert_int_equal(tunnel_take_over(l.here, &l.near, &why), 0);
	assert_int_equal(tunnel_write(l.here, "word", 4), 4);
	assert_int_equal(io_read_full(l.far, word, 4), 0);
	set_link(false);
	for (; tunnel_read(l.here, &c, 1) < 0 && errno == EAGAIN && ms < LIMIT_MS; ms += 100)
		usleep(100000);
	assert_int_equal(tunnel_fault(l.here, &why), -1);
	assert_non_null(strstr(why.text, "nothing has been heard of 127.0.0.1"));
	line_close(&l);
}

/* Fills what is between the two, and sends what is left afterwards. Returns the bytes. */
static size_t fill(int fd)
{
	static char part[1 << 16];
	size_t bytes = 0;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	ssize_t n;

	while (bytes < MUCH_BYTES && poll(&p, 1, 500) == 1) {
		n = send(fd, part, sizeof(part), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			bytes += (size_t)n;
	}
	return bytes;
}

static void a_slow_reader_is_not_dead(void **state)
{
	struct line l;
	struct err err;
	char part[8192];
	size_t sent, got = 0;
	ssize_t n;

	needs_network();
	line_open(&l);
	sent = fill(l.near);
	assert_in_range(sent, 1, MUCH_BYTES - 1);
	usleep(3 * PATIENCE_MS * 1000);
	assert_int_equal(tunnel_fault(l.here, &err), 0);
	assert_int_equal(tunnel_fault(l.there, &err), 0);
	while (got < sent && (n = read(l.far, part, sizeof(part))) > 0)
		got += (size_t)n;
	assert_int_equal(got, sent);
	line_close(&l);
}

/* Whose user does not read learns it, and loses nothing of what has come. */
static void a_reset_behind_what_is_not_read(void **state)
{
	struct line l;
	struct err err;
	char part[8192];
	size_t sent, got = 0;
	ssize_t n;

	needs_network();
	line_open(&l);
	sent = fill(l.near);
	assert_in_range(sent, 1, MUCH_BYTES - 1);
	assert_false(tunnel_is_broken(l.there));
	tunnel_reset(l.here);
	close(l.near);
	tunnel_finish(l.here);
	for (int ms = 0; !tunnel_is_broken(l.there) && ms < LIMIT_MS; ms += 10)
		usleep(10000);
	assert_true(tunnel_is_broken(l.there));
	assert_int_equal(tunnel_fault(l.there, &err), 0);
	while ((n = read(l.far, part, sizeof(part))) > 0)
		got += (size_t)n;
	assert_in_range(got, 1, sent);
	assert_int_equal(tunnel_fault(l.there, &err), -1);
	close(l.far);
	tunnel_finish(l.there);
	tls_free(l.client);
	tls_free(l.server);
}

static atomic_bool cut_stays, cut_began;

/* Keeps the tunnel from reading for a while. */
static size_t cut_late(uint64_t *state, const uint8_t *next, size_t n)
{
	atomic_store(&cut_began, true);
	while (atomic_load(&cut_stays))
		usleep(1000);
	return n;
}

/* Says a word at the far end, and resets the connection, while the near end is about to write. Is the word heard? */
static bool last_word_is_heard(unsigned int ms)
{
	struct line l;
	char word[4];
	ssize_t n;

	atomic_store(&cut_began, false);
	atomic_store(&cut_stays, true);
	line_open_cut(&l, cut_late);
	assert_int_equal(io_write_full(l.near, "late", 4), 0);
	while (!atomic_load(&cut_began))
		usleep(1000);
	assert_int_equal(io_write_full(l.far, "word", 4), 0);
	usleep(ms * 1000); /* it goes out */
	tunnel_reset(l.there);
	close(l.far);
	tunnel_finish(l.there);
	atomic_store(&cut_stays, false);
	n = read(l.near, word, sizeof(word));
	close(l.near);
	tunnel_finish(l.here);
	tls_free(l.client);
	tls_free(l.server);
	return n == 4 && !memcmp(word, "word", 4);
}

/* Whoever finds out by writing that the connection has ended reads what has come before that. */
static void last_words_are_heard(void **state)
{
	unsigned int ms = 50;

	needs_network();
	while (!last_word_is_heard(ms) && ms < LIMIT_MS / 4)
		ms *= 3;
	assert_in_range(ms, 0, LIMIT_MS / 4);
}

static void silence_is_not_death(void **state)
{
	struct line l;
	struct err err;

	needs_network();
	line_open(&l);
	comes_across(&l);
	usleep(3 * PATIENCE_MS * 1000);
	assert_int_equal(tunnel_fault(l.here, &err), 0);
	comes_across(&l);
	line_close(&l);
}

/* A link that was down for less than that goes on where it was. */
static void a_short_break(void **state)
{
	struct line l;
	char word[4];

	needs_network();
	line_open(&l);
	tunnel_patience(l.here, LIMIT_MS);
	tunnel_patience(l.there, LIMIT_MS);
	comes_across(&l);
	set_link(false);
	assert_int_equal(io_write_full(l.near, "late", 4), 0);
	usleep(1000000);
	set_link(true);
	assert_int_equal(io_read_full(l.far, word, 4), 0);
	assert_memory_equal(word, "late", 4);
	line_close(&l);
}

/* ---- channels that go direct ---- */

struct talk {
	struct line l;
	struct channel here, there;
	uint64_t heard; /* of progress */
};

static void note_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	*(uint64_t *)arg += done_bytes;
}

static void channel_over(struct channel *ch, struct tunnel *tunnel, int fd, enum wire_side side)
{
	const struct trunk_way way = {fd, tunnel};
	struct err err;
	struct trunk *trunk = trunk_open(&way, 1, &fd, &err);

	assert_non_null(trunk);
	channel_init(ch, open("/dev/null", O_RDWR), open("/dev/null", O_RDWR), side, "the other");
	assert_int_equal(channel_switch(ch, fd, trunk, &err), 0);
	ch->stage = WIRE_STAGE_STATE;
}

/* As when a migration is prepared: the target goes first, says so, and then the source. */
static void talk_open(struct talk *t)
{
	Wire__Stage done = WIRE__STAGE__INIT;
	struct err err;

	line_open(&t->l);
	channel_over(&t->here, t->l.here, t->l.near, WIRE_SOURCE);
	channel_over(&t->there, t->l.there, t->l.far, WIRE_TARGET);
	t->here.on_progress = note_progress;
	t->heard = 0;
	t->here.arg = &t->heard;
	assert_int_equal(channel_go_direct(&t->there, &err), 0);
	assert_int_equal(channel_send(&t->there, MSG_DONE, &done.base, &err), 0);
	assert_int_equal(channel_expect_done(&t->here, &err), 0);
	assert_int_equal(channel_go_direct(&t->here, &err), 0);
	assert_non_null(t->here.direct);
	assert_int_equal(channel_go_direct(&t->here, &err), 0); /* it is so already */
}

static void talk_close(struct talk *t)
{
	channel_finish(&t->here);
	channel_finish(&t->there);
	tls_free(t->l.client);
	tls_free(t->l.server);
}

enum { PIECES = 64, PIECE_BYTES = 1 << 20, WORDS = 50000 };

/* First says very much, and then hears: nobody may wait for the other. Returns its channel if all came. */
static void *say_then_hear(void *arg)
{
	struct channel *ch = arg;
	Wire__Progress progress = WIRE__PROGRESS__INIT;
	Wire__Built built = WIRE__BUILT__INIT;
	struct frame f;
	struct err err;
	int n = 0;

	progress.done_bytes = 2;
	for (int i = 0; i < WORDS; i++)
		if (channel_send(ch, MSG_PROGRESS, &progress.base, &err) < 0)
			return NULL;
	for (; channel_recv(ch, &f, &err) == 0 && f.type == MSG_PAGES; n++)
		for (size_t i = 4; i < f.bytes; i++)
			if (f.body[i] != (uint8_t)(n + i))
				return NULL;
	built.pid = 7;
	return n == PIECES && channel_send(ch, MSG_BUILT, &built.base, &err) == 0 ? ch : NULL;
}

static void all_comes_without_threads(void **state)
{
	static uint8_t data[PIECE_BYTES];
	struct iovec pieces[2] = {{"\0\0\0\0", 4}, {data, sizeof(data)}};
	Wire__Built *built;
	struct talk t;
	struct err err;
	pthread_t thread;
	void *ok;

	needs_network();
	talk_open(&t);
	assert_int_equal(pthread_create(&thread, NULL, say_then_hear, &t.there), 0);
	for (int n = 0; n < PIECES; n++) {
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)(n + i + 4);
		assert_int_equal(channel_send_raw(&t.here, MSG_PAGES, pieces, 2, &err), 0);
	}
	assert_int_equal(channel_send(&t.here, MSG_COMPLETE, NULL, &err), 0);
	built = channel_expect(&t.here, MSG_BUILT, &err);
	pthread_join(thread, &ok);
	assert_non_null(ok);
	assert_non_null(built);
	wire_free(built);
	assert_int_equal(t.heard, 2 * WORDS);
	talk_close(&t);
}

/* What libssl has read with something else is no less there. */
static void what_is_held_is_seen(void **state)
{
	Wire__Stage done = WIRE__STAGE__INIT;
	Wire__Built built = WIRE__BUILT__INIT, *got;
	struct pollfd in;
	struct talk t;
	struct err err;

	needs_network();
	talk_open(&t);
	in = (struct pollfd){.fd = t.here.in, .events = POLLIN};
	assert_int_equal(channel_look(&t.here, &err), 0);
	assert_int_equal(channel_send(&t.there, MSG_DONE, &done.base, &err), 0);
	assert_int_equal(channel_send(&t.there, MSG_BUILT, &built.base, &err), 0);
	assert_int_equal(poll(&in, 1, LIMIT_MS), 1);
	usleep(200000); /* both */
	assert_int_equal(channel_expect_done(&t.here, &err), 0);
	assert_int_equal(poll(&in, 1, 0), 0);
	assert_int_equal(channel_look(&t.here, &err), 1);
	got = channel_expect(&t.here, MSG_BUILT, &err);
	assert_non_null(got);
	wire_free(got);
	assert_int_equal(channel_look(&t.here, &err), 0);
	talk_close(&t);
}

/* The reason why the peer gives up reaches one who sends. */
static void an_abort_is_heard_without_threads(void **state)
{
	static uint8_t data[PIECE_BYTES];
	struct iovec pieces[2] = {{"\0\0\0\0", 4}, {data, sizeof(data)}};
	struct err err, why;
	struct talk t;
	int n = 0;

	needs_network();
	talk_open(&t);
	err_set(&why, ENOSPC, "there is no room for it");
	channel_abort(&t.there, &why);
	while (n < PIECES && channel_send_raw(&t.here, MSG_PAGES, pieces, 2, &err) == 0)
		n++;
	assert_in_range(n, 0, PIECES - 1);
	assert_non_null(strstr(err.text, "there is no room for it"));
	assert_false(t.here.broken);
	talk_close(&t);
}

/* One who has ended properly, and is gone: whoever writes to him learns it. */
static void an_end_is_noticed_without_threads(void **state)
{
	static uint8_t data[PIECE_BYTES];
	struct iovec pieces[2] = {{"\0\0\0\0", 4}, {data, sizeof(data)}};
	struct err err;
	struct talk t;
	int n = 0;

	needs_network();
	talk_open(&t);
	channel_finish(&t.there);
	assert_int_equal(channel_look(&t.here, &err), -1);
	while (n < PIECES && channel_send_raw(&t.here, MSG_PAGES, pieces, 2, &err) == 0)
		n++;
	assert_in_range(n, 0, PIECES - 1);
	assert_true(t.here.broken);
	talk_close(&t);
}

static void a_dead_link_of_a_direct_channel(void **state)
{
	struct talk t;
	struct err err;

	needs_network();
	talk_open(&t);
	set_link(false);
	assert_null(channel_expect(&t.here, MSG_BUILT, &err));
	assert_non_null(strstr(err.text, "nothing has been heard of 127.0.0.1"));
	assert_true(t.here.broken);
	talk_close(&t);
}

/* Of a peer that is there, and says nothing. */
static void silence_has_a_limit(void **state)
{
	struct talk t;
	struct err err;

	needs_network();
	talk_open(&t);
	t.here.timeout_ms = 700;
	assert_null(channel_expect(&t.here, MSG_BUILT, &err));
	assert_non_null(strstr(err.text, "has not answered"));
	talk_close(&t);
}

static void find_network(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		no_network = strerror(errno);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_dead_link_in_silence),
		cmocka_unit_test(a_dead_link_under_way),
		cmocka_unit_test(a_dead_link_without_a_thread),
		cmocka_unit_test(a_slow_reader_is_not_dead),
		cmocka_unit_test(a_reset_behind_what_is_not_read),
		cmocka_unit_test(last_words_are_heard),
		cmocka_unit_test(silence_is_not_death),
		cmocka_unit_test(a_short_break),
		cmocka_unit_test(all_comes_without_threads),
		cmocka_unit_test(what_is_held_is_seen),
		cmocka_unit_test(an_abort_is_heard_without_threads),
		cmocka_unit_test(an_end_is_noticed_without_threads),
		cmocka_unit_test(a_dead_link_of_a_direct_channel),
		cmocka_unit_test(silence_has_a_limit),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	find_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

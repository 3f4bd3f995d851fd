// SPDX-License-Identifier: Apache-2.0
// migrate/lane_set, lane_source, pages: a set of lanes is used as a set, and shares the bulk; which attempt it is of.
#include "lazy_victim.h"
#include "migrate/lane_priv.h"
#include "migrate/lane_source.h"
#include "migrate/pages.h"
#include "migrate/record.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

/* ---- what a lane says first ---- */

static const char some_token[] = "0123456789abcdef0123456789abcdef";

static bool parsed(enum lane_kind kind, struct lane_place place, struct lane_place *out)
{
	const struct lane_call call = {.token = some_token, .kind = kind, .place = place};
	uint8_t hello[LANE_HELLO_BYTES];
	char token[WIRE_TOKEN_CHARS + 1];
	enum lane_kind got;

	lane_hello_make(&call, hello);
	if (!lane_hello_parse(hello, token, &got, out))
		return false;
	assert_string_equal(token, some_token);
	assert_int_equal(got, kind);
	return true;
}

static void a_hello_says_where_it_belongs(void **state)
{
	struct lane_place p;

	assert_true(parsed(LANE_BULK, (struct lane_place){1, 5, 4, 0xfedcba98}, &p));
	assert_int_equal(p.version, 1);
	assert_int_equal(p.n, 5);
	assert_int_equal(p.index, 4);
	assert_int_equal(p.set, 0xfedcba98);
	/* a version that is not known yet; an older ferry; what belongs to no set */
	assert_true(parsed(LANE_DEMAND, (struct lane_place){200, 2, 0, 1}, &p));
	assert_true(parsed(LANE_BULK, (struct lane_place){0}, &p));
	assert_true(p.version == 0 && p.n == 2 && p.index == 1);
	assert_true(parsed(LANE_TRUNK, (struct lane_place){9, 9, 9, 9}, &p));
	assert_int_equal(p.n, 0);
	/* these cannot be */
	assert_false(parsed(LANE_DEMAND, (struct lane_place){1, 1, 0, 1}, &p));
	assert_false(parsed(LANE_DEMAND, (struct lane_place){1, 3, 1, 1}, &p));
	assert_false(parsed(LANE_BULK, (struct lane_place){1, 3, 0, 1}, &p));
	assert_false(parsed(LANE_BULK, (struct lane_place){1, 3, 3, 1}, &p));
	assert_false(parsed(LANE_BULK, (struct lane_place){1, LANES_MAX + 1, 3, 1}, &p));
	assert_false(parsed((enum lane_kind)'x', (struct lane_place){0}, &p));
}

/* ---- sets ---- */

/* One end of a lane is in the set; whether it was closed shows at the other. */
static int add(struct lane_set *set, uint8_t version, uint8_t n, uint8_t index, uint32_t number,
	       bool *taken)
{
	struct lane lane = LANE_NONE;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	lane.kind = index ? LANE_BULK : LANE_DEMAND;
	lane.place = (struct lane_place){version, n, index, number};
	lane.in = lane.out = pair[0];
	*taken = lane_set_add(set, &lane);
	return pair[1];
}

static bool is_closed(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void close_set(struct lane_set *set)
{
	struct lane lanes[LANES_MAX];
	size_t n = lane_set_take(set, lanes);

	for (size_t i = 0; i < n; i++)
		lane_close(&lanes[i]);
}

static void lanes_of_two_attempts_are_no_set(void **state)
{
	struct lane_set set;
	bool taken;
	int fds[8], i = 0;

	lane_set_init(&set);
	/* the first attempt got no further than its lane for demand */
	fds[i++] = add(&set, 1, 3, 0, 1000, &taken);
	assert_true(taken);
	fds[i++] = add(&set, 1, 3, 1, 1001, &taken);
	assert_true(taken && is_closed(fds[0]));
	fds[i++] = add(&set, 1, 3, 2, 1001, &taken);
	assert_true(taken && !lane_set_whole(&set));
	/* another one of it, late: it neither completes the second nor takes its place */
	fds[i++] = add(&set, 1, 3, 0, 1000, &taken);
	assert_false(taken);
	assert_true(is_closed(fds[3]) && !is_closed(fds[2]) && !lane_set_whole(&set));
	/* and one that is there already */
	fds[i++] = add(&set, 1, 3, 1, 1001, &taken);
	assert_false(taken);
	assert_true(is_closed(fds[4]) && !is_closed(fds[1]));
	fds[i++] = add(&set, 1, 3, 0, 1001, &taken);
	assert_true(taken && lane_set_whole(&set));
	close_set(&set);
	/* in use: what is of an earlier attempt, or of that one, comes too late */
	fds[i++] = add(&set, 1, 3, 0, 1000, &taken);
	assert_false(taken);
	fds[i++] = add(&set, 1, 3, 0, 1001, &taken);
	assert_false(taken);
	while (i)
		close(fds[--i]);
	lane_set_drop(&set);
}

/* As numbers go, the one after the largest is 0. */
static void a_later_attempt_may_have_a_smaller_number(void **state)
{
	struct lane_set set;
	bool taken;
	int fds[3];

	lane_set_init(&set);
	fds[0] = add(&set, 1, 2, 0, UINT32_MAX, &taken);
	fds[1] = add(&set, 1, 2, 0, 0, &taken);
	assert_true(taken && is_closed(fds[0]));
	fds[2] = add(&set, 1, 2, 1, UINT32_MAX, &taken);
	assert_false(taken);
	lane_set_drop(&set);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

/* Of which there are two, and nothing is known of when. */
static void the_lanes_of_an_older_ferry_make_a_set(void **state)
{
	struct lane_set set;
	bool taken;
	int fds[4];

	lane_set_init(&set);
	fds[0] = add(&set, 0, 2, 0, 0, &taken);
	fds[1] = add(&set, 0, 2, 0, 0, &taken);
	assert_true(taken && is_closed(fds[0]) && !lane_set_whole(&set));
	fds[2] = add(&set, 0, 2, 1, 0, &taken);
	assert_true(taken && lane_set_whole(&set));
	close_set(&set);
	fds[3] = add(&set, 0, 2, 0, 0, &taken);
	assert_true(taken);
	lane_set_drop(&set);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
}

/* ---- memory over them ---- */

/* Both ends of a post-copy in one process, and a child whose memory comes from this one's. */
struct move {
	char token[WIRE_TOKEN_CHARS + 1];
	struct hall *hall;
	struct lane_source *source;
	struct serve *serve;
	struct pages *pages;
	struct victim v;
	struct lazy *z;
	struct lane lanes[LANES_MAX];
	int watch[LANES_MAX];        /* the sockets once more; with TLS that of demand only */
	struct tls *client, *server; /* NULL: no TLS */
	uint8_t n;
	struct pages_packing packing;
	atomic_bool finished;
	pthread_t thread;
};

static void dial(struct move *m, uint8_t n, uint8_t version, uint32_t number)
{
	struct err err;

	m->n = n;
	for (uint8_t i = 0; i < n; i++) {
		const struct lane_call call = {
			.token = m->token,
			.kind = i ? LANE_BULK : LANE_DEMAND,
			.place = {version, n, i, number},
		};

		int rc = m->client ? lane_dial_tls(m->client, "127.0.0.1", hall_port(m->hall),
						   &call, &m->lanes[i], &err) :
				     lane_dial_tcp("127.0.0.1", hall_port(m->hall), &call,
						   &m->lanes[i], &err);

		assert_int_equal(rc, 0);
		if (i == 0)
			assert_int_equal(lane_go_direct(&m->lanes[0], &err), 0);
		assert_true(m->lanes[i].direct == (m->client && i == 0));
		m->watch[i] = m->client && i ? -1 : dup(m->lanes[i].in);
	}
}

/* The descriptors are the other end's now. */
static void connect_pages(struct move *m)
{
	int fds[LANES_MAX];
	struct err err;

	for (uint8_t i = 0; i < m->n; i++) {
		assert_int_equal(lane_heard(&m->lanes[i], LIMIT_MS, "here", &err), 0);
		fds[i] = m->lanes[i].in;
	}
	assert_int_equal(pages_connect(m->pages, fds, fds, m->n,
				       m->client ? m->lanes[0].tunnel : NULL, &m->packing, &err),
			 0);
}

static uint64_t sent_bytes(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	return info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
}

static void close_watch(struct move *m)
{
	for (uint8_t i = 0; i < m->n; i++)
		close(m->watch[i]);
}

static int read_all(void)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!is_page(page_addr(i * 389 % PAGES), page_addr(i * 389 % PAGES)))
			return 1;
	return 0;
}

/* What can be compressed: each page has something of its own. */
static void plain(uint64_t dump, uint64_t *page)
{
	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		page[i] = i % 32 ? 0x2020202020202020 + i : dump + i;
}

static int read_plain(void)
{
	uint64_t want[PAGE_BYTES / 8];

	for (size_t i = 0; i < PAGES; i++) {
		plain(page_addr(i * 389 % PAGES), want);
		if (memcmp((const void *)page_addr(i * 389 % PAGES), want, PAGE_BYTES) != 0)
			return 1;
	}
	return 0;
}

static void *engine_main(void *arg)
{
	struct move *m = arg;
	long end = now_ms() + LIMIT_MS;
	struct err err;

	lazy_start(m->z);
	while (lazy_left_pages(m->z) && now_ms() < end)
		if (lazy_step(m->z, -1, 100, &err) < 0)
			return NULL;
	if (lane_source_finish(m->source, m->z, LIMIT_MS, &err) == 0)
		atomic_store(&m->finished, true);
	return NULL;
}

/* What is asked for is read from here, at the same addresses. */
static void keep_memory(struct move *m, void (*fill)(uint64_t dump, uint64_t *page))
{
	mem_ranges ranges = {0};
	struct err err;
	void *area = mmap((void *)AREA, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	assert_true(area == (void *)AREA);
	for (size_t i = 0; i < PAGES; i++)
		fill(page_addr(i), (uint64_t *)page_addr(i));
	assert_int_equal(mem_ranges_push(&ranges, AREA, AREA + PAGES * PAGE_BYTES, &err), 0);
	m->serve = serve_create(&err);
	assert_int_equal(serve_add(m->serve, OBJECT, getpid(), &ranges, &err), 0);
	m->pages = pages_start(m->serve, &err);
	assert_non_null(m->pages);
}

static void begin_with(struct move *m, int (*body)(void), bool tls)
{
	const struct secret secret = {.key = {9}};
	struct lazy_space *sp;
	struct err err;
	int fd = record_directory(&err);

	if (fd < 0 || geteuid() != 0)
		skip_because("must be root");
	close(fd);
	*m = (struct move){.n = 0};
	if (!start(&m->v, body))
		skip_because("no userfaultfd with events here");
	keep_memory(m, body == read_plain ? plain : pattern);
	assert_int_equal(token_make(m->token, &err), 0);
	if (tls) {
		m->client = tls_with_secret(TLS_CLIENT, &secret, &err);
		m->server = tls_with_secret(TLS_SERVER, &secret, &err);
		assert_true(m->client && m->server);
	}
	m->hall = hall_open(m->token, "127.0.0.1", m->server, &err);
	assert_non_null(m->hall);
	m->source = lane_source_create(m->hall, &err);
	assert_non_null(m->source);
	lane_source_spread_from(m->source, 0);
	m->z = lazy_open(lane_source_base(m->source), NULL, &err);
	assert_non_null(m->z);
	sp = lazy_add(m->z, OBJECT, m->v.uffd, -1, &err);
	assert_non_null(sp);
	assert_int_equal(lazy_missing(sp, AREA, PAGES, &err), 0);
}

static void begin(struct move *m, int (*body)(void))
{
	begin_with(m, body, false);
}

static void open_first(struct move *m, uint8_t n, uint8_t version)
{
	struct err err;

	dial(m, n, version, 101);
	assert_int_equal(lane_source_await(m->source, -1, LIMIT_MS, &err), 1);
	connect_pages(m);
}

static void go(struct move *m)
{
	assert_int_equal(pthread_create(&m->thread, NULL, engine_main, m), 0);
}

static enum pages_state wait_for(struct move *m, enum pages_state state)
{
	enum pages_state now = PAGES_SERVING;
	long end = now_ms() + LIMIT_MS;
	struct err err;

	while (now != state && now_ms() < end)
		now = pages_wait(m->pages, -1, 100, &err);
	return now;
}

static void finish(struct move *m)
{
	struct serve_net_stats st;
	struct lazy_stats lst;

	assert_int_equal(wait_for(m, PAGES_CLOSED), PAGES_CLOSED);
	pthread_join(m->thread, NULL);
	assert_true(atomic_load(&m->finished));
	assert_int_equal(exit_code(&m->v), 0);
	assert_int_equal(pages_left(m->pages), 0);
	lazy_stats(m->z, &lst);
	pages_stats(m->pages, &st);
	assert_int_equal(lst.urgent_pages + lst.bulk_pages, PAGES);
	assert_true(st.pages >= PAGES);
}

static void end(struct move *m)
{
	pages_stop(m->pages);
	serve_free(m->serve);
	lazy_close(m->z);
	lane_source_free(m->source);
	hall_close(m->hall);
	munmap((void *)AREA, PAGES * PAGE_BYTES);
	close(m->v.pidfd);
}

static void the_bulk_is_shared_by_its_lanes(void **state)
{
	const uint64_t all = PAGES * PAGE_BYTES;
	uint64_t bulk = 0;
	struct move m;

	begin(&m, read_all);
	open_first(&m, 5, 1);
	assert_int_equal(m.lanes[0].place.version, 1);
	go(&m);
	/* the victim faults on nothing: it does not run yet */
	assert_int_equal(wait_for(&m, PAGES_CLOSED), PAGES_CLOSED);
	let_run(&m.v);
	finish(&m);
	for (uint8_t i = 1; i < m.n; i++) {
		uint64_t sent = sent_bytes(m.watch[i]);

		assert_in_range(sent, all / 32, all / 2);
		bulk += sent;
	}
	/* no page is asked for twice */
	assert_in_range(bulk, all, all + all / 64);
	close_watch(&m);
	end(&m);
}

static void on_a_slow_link_one_lane_has_all_of_it(void **state)
{
	const uint64_t all = PAGES * PAGE_BYTES;
	struct move m;

	begin(&m, read_all);
	lane_source_spread_from(m.source, UINT64_MAX);
	open_first(&m, 4, 1);
	go(&m);
	assert_int_equal(wait_for(&m, PAGES_CLOSED), PAGES_CLOSED);
	let_run(&m.v);
	finish(&m);
	assert_in_range(sent_bytes(m.watch[1]), all, all + all / 64);
	for (uint8_t i = 2; i < m.n; i++)
		assert_true(sent_bytes(m.watch[i]) < PAGE_BYTES);
	close_watch(&m);
	end(&m);
}

/* Half of it while the victim runs: what it waits for comes as it is. */
static void the_bulk_is_packed(void **state)
{
	for (enum codec codec = CODEC_LZ4; codec < CODECS; codec++) {
		struct serve_net_stats st;
		struct move m;

		begin(&m, read_plain);
		m.packing.codecs = 1U << codec;
		open_first(&m, 3, LANE_PACKS);
		go(&m);
		if (codec == CODEC_LZ4)
			assert_int_equal(wait_for(&m, PAGES_CLOSED), PAGES_CLOSED);
		let_run(&m.v);
		finish(&m);
		pages_stats(m.pages, &st);
		if (codec == CODEC_LZ4) {
			assert_int_equal(st.packed_pages, PAGES);
			assert_true(sent_bytes(m.watch[1]) + sent_bytes(m.watch[2]) <
				    PAGES * PAGE_BYTES / 4);
		}
		close_watch(&m);
		end(&m);
	}
}

/* Pages that nothing makes smaller. */
static void what_cannot_be_packed_goes_as_it_is(void **state)
{
	struct serve_net_stats st;
	struct move m;

	begin(&m, read_all);
	m.packing = (struct pages_packing){PACK_CODECS, true};
	open_first(&m, 3, LANE_PACKS);
	let_run(&m.v);
	go(&m);
	finish(&m);
	pages_stats(m.pages, &st);
	assert_in_range(st.sent_bytes, PAGES * PAGE_BYTES, 3 * PAGES * PAGE_BYTES);
	close_watch(&m);
	end(&m);
}

/* A target that knows lanes, but not of packing, has not agreed to it. */
static void nobody_packs_unasked(void **state)
{
	struct move m;

	begin(&m, read_plain);
	m.packing.codecs = 1U << CODEC_LZ4;
	open_first(&m, 2, LANE_PACKS - 1);
	go(&m);
	assert_int_equal(wait_for(&m, PAGES_LOST), PAGES_LOST);
	close_watch(&m);
	m.packing.codecs = 0;
	dial(&m, 2, LANE_PACKS - 1, 102);
	connect_pages(&m);
	let_run(&m.v);
	finish(&m);
	close_watch(&m);
	end(&m);
}

static void an_older_ferry_opens_two(void **state)
{
	struct move m;

	begin(&m, read_all);
	open_first(&m, 2, 0);
	assert_int_equal(m.lanes[1].place.version, 0);
	let_run(&m.v);
	go(&m);
	finish(&m);
	close_watch(&m);
	end(&m);
}

/* The descriptors are the other end's, the tunnels are ours. */
static void end_tls(struct move *m)
{
	end(m);
	for (uint8_t i = 0; i < m->n; i++)
		tunnel_abort(m->lanes[i].tunnel);
	tls_free(m->client);
	tls_free(m->server);
}

/* A handshake takes both ends. */
static void *dial_main(void *arg)
{
	dial(arg, 2, LANE_VERSION, 101);
	return NULL;
}

static void *dial_and_break_main(void *arg)
{
	struct move *m = arg;

	dial(m, 2, LANE_VERSION, 100);
	tunnel_reset(m->lanes[0].tunnel);
	return NULL;
}

/* Whether the target has them is for the caller to see. */
static void open_over_tls(struct move *m, void *(*dialing)(void *), int timeout_ms, int *there)
{
	pthread_t thread;
	struct err err;

	assert_int_equal(pthread_create(&thread, NULL, dialing, m), 0);
	*there = lane_source_await(m->source, -1, timeout_ms, &err);
	pthread_join(thread, NULL);
}

static void all_comes_over_tls(void **state)
{
	struct lazy_stats st;
	struct move m;
	int there;

	begin_with(&m, read_all, true);
	open_over_tls(&m, dial_main, LIMIT_MS, &there);
	assert_int_equal(there, 1);
	connect_pages(&m);
	let_run(&m.v);
	go(&m);
	finish(&m);
	lazy_stats(m.z, &st);
	assert_true(st.urgent_pages > 0);
	close(m.watch[0]);
	end_tls(&m);
}

/* While nobody has taken it over yet, and in use. */
static void the_lane_for_demand_breaks_over_tls(void **state)
{
	struct move m;
	int there;

	begin_with(&m, read_all, true);
	open_over_tls(&m, dial_and_break_main, 500, &there);
	assert_int_not_equal(there, -1);
	close(m.watch[0]);
	for (uint8_t i = 0; i < m.n; i++) {
		m.lanes[i].flush = false;
		lane_close(&m.lanes[i]);
	}
	open_over_tls(&m, dial_main, LIMIT_MS, &there);
	assert_int_equal(there, 1);
	connect_pages(&m);
	let_run(&m.v);
	go(&m);
	shutdown(m.watch[0], SHUT_RDWR);
	assert_int_equal(wait_for(&m, PAGES_LOST), PAGES_LOST);
	close(m.watch[0]);
	pages_disconnect(m.pages);
	for (uint8_t i = 0; i < m.n; i++)
		tunnel_abort(m.lanes[i].tunnel);
	dial(&m, 2, LANE_VERSION, 102);
	connect_pages(&m);
	finish(&m);
	close(m.watch[0]);
	end_tls(&m);
}

static void when_one_breaks_all_are_opened_anew(void **state)
{
	struct lane late;
	struct lane_call call = {.kind = LANE_DEMAND, .place = {1, 3, 0, 102}};
	struct move m;
	struct err err;

	for (uint8_t broken = 0; broken < 3; broken++) {
		begin(&m, read_all);
		open_first(&m, 3, 1);
		shutdown(m.watch[broken], SHUT_RDWR);
		let_run(&m.v);
		go(&m);
		if (wait_for(&m, PAGES_LOST) != PAGES_LOST)
			fail_msg("the break of lane %u was not seen", broken);
		close_watch(&m);
		/* an attempt that gets no further than its first lane */
		call.token = m.token;
		assert_int_equal(lane_dial_tcp("127.0.0.1", hall_port(m.hall), &call, &late, &err),
				 0);
		assert_int_equal(lane_heard(&late, LIMIT_MS, "here", &err), 0);
		dial(&m, 3, 1, 103);
		connect_pages(&m);
		finish(&m);
		lane_close(&late);
		close_watch(&m);
		end(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_hello_says_where_it_belongs),
		cmocka_unit_test(lanes_of_two_attempts_are_no_set),
		cmocka_unit_test(a_later_attempt_may_have_a_smaller_number),
		cmocka_unit_test(the_lanes_of_an_older_ferry_make_a_set),
		cmocka_unit_test(the_bulk_is_shared_by_its_lanes),
		cmocka_unit_test(on_a_slow_link_one_lane_has_all_of_it),
		cmocka_unit_test(the_bulk_is_packed),
		cmocka_unit_test(what_cannot_be_packed_goes_as_it_is),
		cmocka_unit_test(nobody_packs_unasked),
		cmocka_unit_test(an_older_ferry_opens_two),
		cmocka_unit_test(when_one_breaks_all_are_opened_anew),
		cmocka_unit_test(all_comes_over_tls),
		cmocka_unit_test(the_lane_for_demand_breaks_over_tls),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lane"
#include "migrate/lane_source.h"

#include "base/clock.h"
#include "base/log.h"
#include "mem/ps_wire.h"
#include "migrate/lane_priv.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

enum {
	WINDOW_PAGES = 4096, /* in the background, on their way at once, over one lane */
	WINDOW_MAX_PAGES = 4 * WINDOW_PAGES,
	ANSWER_PAGES = 64, /* the largest answer of mem/serve_net.c to a ferry */
	OUT_REQUESTS = 128,
	LOST_MS = 100, /* how often to look for new lanes */
	SPREAD_LOOK_MS = 20,
	SPREAD_KB_PER_S = 60000,
	UNPACK_ROUNDS = 4, /* what takes so much longer counts for more */
	HERE_ROUNDS = 2,
	READ_ROUNDS = 8, /* answers that are read before faults are looked after again */
};

enum { IN_BYTES = PS_REQUEST_BYTES + ANSWER_PAGES * 4096 };

/* One direction of asking: what has been asked is answered in that order. */
struct asking {
	struct lane lane;
	struct lazy_request *first, **end;
	uint64_t pages; /* asked for, of requests that are not complete */
	uint64_t got;   /* pages of the first one */
	size_t have;    /* of an answer */
	uint8_t *in;    /* a header and the pages of an answer */
	uint8_t out[OUT_REQUESTS * PS_REQUEST_BYTES];
	size_t out_bytes;
};

struct lane_source {
	struct lazy_source base;
	struct hall *hall;
	int epoll;
	struct asking lanes[LANES_MAX]; /* [0]: demand; the others, of n, share the bulk */
	size_t n;
	struct lane_set coming; /* not in use yet */
	struct unpacker *unpacker;
	bool lost;
	uint64_t received_bytes;
	bool spread; /* the bulk goes over all of its lanes, not over the first */
	uint64_t spread_kb_per_s;
	uint64_t look_ns, look_bytes; /* at the last look, whether it should */
	struct kept *kept;            /* NULL: everything is at home */
	struct here {                 /* asked for, and kept */
		struct lazy_request *first, **end;
		uint64_t done;  /* pages of the first one */
	} here[2];              /* [1]: urgently */
	uint64_t here_pages[2]; /* put in place from there; [1]: urgently */
	bool broken;            /* what should be kept cannot be read: no connection helps */
	struct err why;
};

static struct lane_source *of(struct lazy_source *base)
{
	return (struct lane_source *)base;
}

static void forget_asked(struct asking *a)
{
	a->first = NULL;
	a->end = &a->first;
	a->pages = a->got = a->have = a->out_bytes = 0;
}

static void forget_here(struct lane_source *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->here); i++)
		s->here[i] = (struct here){.end = &s->here[i].first};
}

static void give_up_lanes(struct lane_source *s)
{
	for (size_t i = 0; i < LANES_MAX; i++) {
		lane_close(&s->lanes[i].lane);
		forget_asked(&s->lanes[i]);
	}
	s->n = 0;
	forget_here(s);
	s->lost = true;
}

/* ---- lanes come ---- */

/* 1: one has come that belongs to a new set. */
static int take_lane(struct lane_source *s, struct err *err)
{
	struct lane lane;
	int n = hall_work(s->hall, &lane, err);

	if (n <= 0)
		return n;
	if (lane.kind == LANE_TRUNK) { /* there is one already */
		lane_close(&lane);
		return 0;
	}
	return lane_set_add(&s->coming, &lane);
}

static int begin_lane(struct lane_source *s, struct asking *a, struct err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = a->lane.in};

	if (!a->in)
		a->in = malloc(IN_BYTES);
	if (!a->in)
		return err_nomem(err);
	if (a->lane.kind == LANE_BULK && a->lane.tunnel)
		tunnel_unhurried(a->lane.tunnel);
	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, a->lane.in, &ev) < 0 ? err_sys(err, "epoll") : 0;
}

static void use_bulk_lanes(struct lane_source *s, size_t n)
{
	s->spread = n > 1;
	s->base.beside = (unsigned int)n;
	s->base.window_pages = MIN(n * WINDOW_PAGES, (size_t)WINDOW_MAX_PAGES);
}

/*
 * On a slow link one lane is as fast as several, which only make the queue before it longer, in which
 * threads wait, too. So the others are used from when the first shows that the link is fast.
 */
static void look_whether_to_spread(struct lane_source *s)
{
	uint64_t now, ms;

	if (s->spread || s->n <= 2)
		return;
	now = clock_ns();
	ms = (now - s->look_ns) / 1000000;
	if (ms < SPREAD_LOOK_MS)
		return;
	if ((s->received_bytes - s->look_bytes) / ms >= s->spread_kb_per_s)
		use_bulk_lanes(s, s->n - 1);
	s->look_ns = now;
	s->look_bytes = s->received_bytes;
}

/* The source opens others as soon as it sees that these are closed. */
static int begin_again(struct lane_source *s, const struct err *why)
{
	log_warn("%s", why->text);
	give_up_lanes(s);
	return 1;
}

/* 0: all of a set are there and in use; 1: not yet; -1. */
static int adopt_lanes(struct lane_source *s, struct err *err)
{
	struct lane lanes[LANES_MAX];
	int rc = 0, n;

	while ((n = take_lane(s, err)) > 0)
		;
	if (n < 0)
		return -1;
	if (!lane_set_whole(&s->coming))
		return 1;
	give_up_lanes(s);
	s->n = lane_set_take(&s->coming, lanes);
	for (size_t i = 0; i < s->n; i++)
		s->lanes[i].lane = lanes[i];
	if (lane_go_direct(&s->lanes[0].lane, err) < 0)
		return begin_again(s, err);
	for (size_t i = 0; i < s->n && rc == 0; i++)
		rc = begin_lane(s, &s->lanes[i], err);
	if (rc < 0)
		return -1;
	use_bulk_lanes(s, s->spread_kb_per_s ? 1 : s->n - 1);
	s->look_ns = clock_ns();
	s->look_bytes = s->received_bytes;
	s->lost = false;
	log_info("all %zu lanes are open", s->n);
	return 0;
}

/* ---- asking ---- */

static int flush(struct asking *a, struct err *err)
{
	ssize_t n;

	while (a->out_bytes) {
		n = lane_write(&a->lane, a->out, a->out_bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : err_sys(err, "the connection broke");
		a->out_bytes -= (size_t)n;
		memmove(a->out, a->out + n, a->out_bytes);
	}
	return 0;
}

static uint64_t lane_extent(struct lazy_source *base, lazy_object object, uint64_t vaddr,
			    uint64_t pages)
{
	bool here;

	return of(base)->kept ? kept_extent(of(base)->kept, object, vaddr, pages, &here) : pages;
}

static bool is_here(const struct lane_source *s, const struct lazy_request *rq)
{
	bool here = false;

	if (s->kept)
		kept_extent(s->kept, rq->object, rq->vaddr, rq->pages, &here);
	return here;
}

/* Over which lane to ask: in the background that on which least is on its way. */
static struct asking *choose_lane(struct lane_source *s, bool urgent)
{
	struct asking *best = &s->lanes[1];

	if (urgent)
		return &s->lanes[0];
	look_whether_to_spread(s);
	for (size_t i = 2; i < s->n && s->spread; i++)
		if (s->lanes[i].pages < best->pages)
			best = &s->lanes[i];
	return best;
}

static int lane_request(struct lazy_source *base, struct lazy_request *rq, struct err *err)
{
	struct lane_source *s = of(base);
	struct asking *a;
	struct ps_request get = {.cmd = PS_GET,
				 .nr_pages = rq->pages,
				 .vaddr = rq->vaddr,
				 .dst_id = rq->object};

	if (s->lost)
		return err_set(err, EPIPE, "the connection is lost");
	rq->next_of_source = NULL;
	if (is_here(s, rq)) {
		*s->here[rq->urgent].end = rq;
		s->here[rq->urgent].end = &rq->next_of_source;
		return 0;
	}
	a = choose_lane(s, rq->urgent);
	if (a->out_bytes + PS_REQUEST_BYTES > sizeof(a->out))
		return 1;
	ps_encode(&get, a->out + a->out_bytes);
	a->out_bytes += PS_REQUEST_BYTES;
	*a->end = rq;
	a->end = &rq->next_of_source;
	a->pages += rq->pages;
	return flush(a, err);
}

/* ---- answers ---- */

static int check_answer(const struct asking *a, const struct ps_request *h, struct err *err)
{
	const struct lazy_request *rq = a->first;

	if (!rq)
		return err_set(err, EPROTO, "the source answers what nobody asked");
	if (h->cmd == PS_PACKED && (a->lane.kind != LANE_BULK || a->lane.place.version < LANE_PACKS))
		return err_set(err, EPROTO, "the source packs what must not be");
	if ((h->cmd != PS_ADD_F && h->cmd != PS_HOLE && h->cmd != PS_PACKED) ||
	    h->dst_id != rq->object || h->vaddr != rq->vaddr + a->got * PAGE_BYTES ||
	    h->nr_pages == 0 || h->nr_pages > MIN(rq->pages - a->got, (uint64_t)ANSWER_PAGES))
		return err_set(err, EPROTO, "the source does not answer what it was asked");
	return 0;
}

/* The pages of an answer that is in the buffer: NULL in *out: they are zero. */
static int open_answer(struct lane_source *s, const struct asking *a, const struct ps_request *h,
		       const uint8_t **out, struct err *err)
{
	struct frame inside;

	*out = h->cmd == PS_HOLE ? NULL : a->in + PS_REQUEST_BYTES;
	if (h->cmd != PS_PACKED)
		return 0;
	if (unpack(s->unpacker, *out, h->packed_bytes, &inside, err) < 0)
		return -1;
	if (inside.bytes != h->nr_pages * PAGE_BYTES)
		return err_set(err, EPROTO, "the source has packed %zu bytes instead of %llu pages",
			       inside.bytes, (unsigned long long)h->nr_pages);
	*out = inside.body;
	return 0;
}

/* A whole answer is in the buffer. */
static int take_answer(struct lane_source *s, struct asking *a, const struct ps_request *h,
		       struct lazy *z, struct err *err)
{
	struct lazy_request *rq = a->first;
	const uint8_t *pages;
	int rc = open_answer(s, a, h, &pages, err);

	if (rc == 0)
		rc = pages ? lazy_answer(z, rq, h->vaddr, pages, h->nr_pages, err) :
			     lazy_answer_zero(z, rq, h->vaddr, h->nr_pages, err);
	if (rc < 0)
		return -1;
	a->got += h->nr_pages;
	if (a->got < rq->pages)
		return 0;
	a->got = 0;
	a->pages -= rq->pages;
	a->first = rq->next_of_source;
	if (!a->first)
		a->end = &a->first;
	lazy_end(z, rq);
	return 0;
}

/* Bytes of the answer at the start of the buffer; fewer than a header are a header's. */
static int answer_bytes(const struct asking *a, struct ps_request *h, size_t *want, struct err *err)
{
	*want = PS_REQUEST_BYTES;
	if (a->have < PS_REQUEST_BYTES)
		return 0;
	if (ps_decode_ferry(a->in, h, err) < 0 || check_answer(a, h, err) < 0)
		return -1;
	*want += ps_data_bytes(h);
	return 0;
}

/* Reads what is there, at most @rounds answers. No whole answer is left in the buffer: perhaps nothing comes after it. */
static int hear(struct lane_source *s, struct asking *a, int rounds, struct lazy *z, struct err *err)
{
	struct ps_request h;
	size_t want;
	ssize_t n;

	for (int round = 0; round < rounds; round++) {
		if (answer_bytes(a, &h, &want, err) < 0)
			return -1;
		n = lane_read(&a->lane, a->in + a->have, want - a->have);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return err_set(err, EPIPE, "the connection to the source ended");
		a->have += (size_t)n;
		s->received_bytes += (uint64_t)n;
		if (answer_bytes(a, &h, &want, err) < 0)
			return -1;
		if (a->have < want)
			continue;
		if (take_answer(s, a, &h, z, err) < 0)
			return -1;
		a->have = 0;
		if (h.cmd == PS_PACKED)
			round += UNPACK_ROUNDS - 1;
	}
	return 0;
}

/* Puts a few pages in place of what was asked for first. */
static int answer_some_here(struct lane_source *s, struct here *q, struct lazy *z, struct err *err)
{
	uint8_t pages[ANSWER_PAGES * PAGE_BYTES];
	struct lazy_request *rq = q->first;
	uint64_t at = rq->vaddr + q->done * PAGE_BYTES;
	uint64_t n = MIN(rq->pages - q->done, (uint64_t)ANSWER_PAGES);

	if (kept_read(s->kept, rq->object, at, pages, n, err) < 0) {
		s->broken = true;
		s->why = *err;
		return -1;
	}
	if (lazy_answer(z, rq, at, pages, n, err) < 0)
		return -1;
	s->here_pages[rq->urgent] += n;
	q->done += n;
	if (q->done < rq->pages)
		return 0;
	q->done = 0;
	q->first = rq->next_of_source;
	if (!q->first)
		q->end = &q->first;
	lazy_end(z, rq);
	return 0;
}

/* All that threads wait for, and a little of the rest: then faults are looked after again. */
static int answer_here(struct lane_source *s, struct lazy *z, struct err *err)
{
	while (s->here[1].first)
		if (answer_some_here(s, &s->here[1], z, err) < 0)
			return -1;
	for (int round = 0; round < HERE_ROUNDS && s->here[0].first; round++)
		if (answer_some_here(s, &s->here[0], z, err) < 0)
			return -1;
	return 0;
}

static int lane_poll_fd(struct lazy_source *base, short *events, int *timeout_ms)
{
	struct lane_source *s = of(base);

	*events = POLLIN;
	if (s->here[0].first || s->here[1].first || lane_may_hold(&s->lanes[0].lane))
		*timeout_ms = 0;
	else if (s->lost)
		*timeout_ms = LOST_MS;
	for (size_t i = 0; i < s->n; i++)
		if (s->lanes[i].out_bytes && *timeout_ms != 0)
			*timeout_ms = 1;
	return s->epoll;
}

/* What threads wait for comes first, and again after each lane of the bulk. */
static int hear_all(struct lane_source *s, struct lazy *z, struct err *err)
{
	int rounds = MAX(1, READ_ROUNDS / (int)MAX(s->n - 1, (size_t)1));

	for (size_t i = 1; i < s->n; i++)
		if (hear(s, &s->lanes[0], READ_ROUNDS, z, err) < 0 ||
		    hear(s, &s->lanes[i], rounds, z, err) < 0)
			return -1;
	return 0;
}

static int lane_work(struct lazy_source *base, struct lazy *z, struct err *err)
{
	struct lane_source *s = of(base);
	int n = take_lane(s, err);

	if (n < 0)
		return -1;
	if (n > 0)
		return err_set(err, ECONNRESET, "the source has opened new connections");
	for (size_t i = 0; i < s->n; i++)
		if (flush(&s->lanes[i], err) < 0)
			return -1;
	if (answer_here(s, z, err) < 0)
		return -1;
	return hear_all(s, z, err);
}

static int lane_reconnect(struct lazy_source *base, struct err *err)
{
	struct lane_source *s = of(base);

	if (s->broken) {
		*err = s->why;
		return -1;
	}
	if (!s->lost)
		give_up_lanes(s);
	return adopt_lanes(s, err);
}

static const struct lazy_source_ops lane_ops = {
	.name = "lanes",
	.request = lane_request,
	.extent = lane_extent,
	.poll_fd = lane_poll_fd,
	.work = lane_work,
	.reconnect = lane_reconnect,
};

/* ---- the whole ---- */

struct lane_source *lane_source_create(struct hall *hall, struct err *err)
{
	struct lane_source *s = calloc(1, sizeof(*s));
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = hall_fd(hall)};

	if (!s) {
		err_nomem(err);
		return NULL;
	}
	s->base = (struct lazy_source){.ops = &lane_ops,
				       .window_pages = WINDOW_PAGES,
				       .fast_lane = true};
	s->spread_kb_per_s = SPREAD_KB_PER_S;
	s->hall = hall;
	s->lost = true;
	lane_set_init(&s->coming);
	for (size_t i = 0; i < LANES_MAX; i++)
		s->lanes[i].lane = LANE_NONE;
	give_up_lanes(s);
	s->epoll = -1;
	s->unpacker = unpacker_create(&ps_pack_types, err);
	if (!s->unpacker) {
		lane_source_free(s);
		return NULL;
	}
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll >= 0 && epoll_ctl(s->epoll, EPOLL_CTL_ADD, ev.data.fd, &ev) == 0)
		return s;
	err_sys(err, "cannot prepare for lanes");
	lane_source_free(s);
	return NULL;
}

void lane_source_free(struct lane_source *s)
{
	if (!s)
		return;
	give_up_lanes(s);
	lane_set_drop(&s->coming);
	for (size_t i = 0; i < LANES_MAX; i++)
		free(s->lanes[i].in);
	unpacker_free(s->unpacker);
	if (s->epoll >= 0)
		close(s->epoll);
	free(s);
}

struct lazy_source *lane_source_base(struct lane_source *s)
{
	return &s->base;
}

void lane_source_spread_from(struct lane_source *s, uint64_t kb_per_s)
{
	s->spread_kb_per_s = kb_per_s;
}

void lane_source_keep(struct lane_source *s, struct kept *kept)
{
	s->kept = kept;
}

int lane_source_await(struct lane_source *s, int stop_fd, int timeout_ms, struct err *err)
{
	uint64_t end_ns = clock_ns() + (uint64_t)timeout_ms * 1000000;
	int rc;

	while ((rc = adopt_lanes(s, err)) == 1) {
		struct pollfd fds[] = {{.fd = hall_fd(s->hall), .events = POLLIN},
				       {.fd = stop_fd, .events = POLLIN}};
		uint64_t now = clock_ns();

		if (now >= end_ns)
			return 0;
		if (poll(fds, ARRAY_SIZE(fds), (int)((end_ns - now) / 1000000) + 1) < 0 &&
		    errno != EINTR)
			return err_sys(err, "poll");
		if (fds[1].revents)
			return adopt_lanes(s, err) == 0;
	}
	return rc < 0 ? -1 : 1;
}

/* CLOSE and its answer, over a demand lane on which nothing is under way. */
static int say_close(struct lane_source *s, int timeout_ms, struct err *err)
{
	struct ps_request bye = {.cmd = PS_CLOSE};
	const struct lane *lane = &s->lanes[0].lane;
	struct pollfd pfd = {.fd = lane->in, .events = POLLIN};
	uint8_t out[PS_REQUEST_BYTES], status[4];
	size_t have = 0;

	ps_encode(&bye, out);
	if (lane_write(lane, out, sizeof(out)) != sizeof(out))
		return err_sys(err, "the connection to the source broke");
	while (have < sizeof(status)) {
		ssize_t n;

		if (!lane_may_hold(lane) && poll(&pfd, 1, timeout_ms) == 0)
			return err_set(err, ETIMEDOUT, "the source does not answer");
		n = lane_read(lane, status + have, sizeof(status) - have);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return err_set(err, EPIPE, "the connection to the source ended");
		have += (size_t)n;
	}
	return 0;
}

int lane_source_finish(struct lane_source *s, struct lazy *z, int timeout_ms, struct err *err)
{
	uint64_t end_ns = clock_ns() + (uint64_t)timeout_ms * 1000000;
	const struct asking *demand = &s->lanes[0];

	while (clock_ns() < end_ns) {
		if (s->lost && lane_source_await(s, -1, LOST_MS, err) < 0)
			return -1;
		if (s->lost)
			continue;
		if (!demand->first && !demand->have && !demand->out_bytes) {
			if (say_close(s, timeout_ms, err) == 0)
				return 0;
			log_warn("%s", err->text);
			give_up_lanes(s);
			continue;
		}
		/* pages that nobody needs any more are still on their way */
		if (lazy_step(z, -1, LOST_MS, err) < 0)
			return -1;
	}
	return err_set(err, ETIMEDOUT, "the source could not be told that nothing is missing");
}

uint64_t lane_source_here_pages(const struct lane_source *s, bool urgent)
{
	return s->here_pages[urgent];
}

uint64_t lane_source_received_bytes(const struct lane_source *s)
{
	return s->received_bytes;
}

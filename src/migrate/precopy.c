// SPDX-License-Identifier: Apache-2.0
/*
 * Rounds of pre-copy, both sides. The source sends what is new or was written
 * (capture/precopy.h), round after round, while they pay; the target keeps it
 * by address (area.h). What the last look inside the freeze finds unchanged is not sent again.
 */
#define LOG_MODULE "precopy"
#include "capture/precopy.h"
#include "base/clock.h"
#include "base/log.h"
#include "migrate/area.h"
#include "migrate/source.h"
#include "migrate/target.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>

enum {
	CHUNK_BYTES = 1 << 20,
	FEW_BYTES = 1 << 20, /* so little that another round is not worth its while */
	LITTLE_MS = 5,
	LITTLE_LEAST = 128 << 10,
	LITTLE_MOST = 4 << 20,
	MAX_ROUNDS = 30,
};

/* ---- source: where a round goes ---- */

struct round_sink {
	struct page_sink sink;
	struct source *s;
	uint64_t bytes, start_ns;
};

/* The user's limit: waits until so many bytes may have gone. */
static void keep_to_bandwidth(const struct round_sink *r)
{
	uint64_t limit = r->s->opt->bandwidth, due_ns, now = clock_ns();
	struct timespec wait;

	if (!limit)
		return;
	due_ns = r->start_ns + (uint64_t)((double)r->bytes * 1e9 / (double)limit);
	if (due_ns <= now)
		return;
	wait.tv_sec = (time_t)((due_ns - now) / 1000000000);
	wait.tv_nsec = (long)((due_ns - now) % 1000000000);
	nanosleep(&wait, NULL);
}

static int round_begin(struct page_sink *sink, struct snap_pagemap *pm, struct err *err)
{
	return 0;
}

static int round_pages(struct page_sink *sink, struct snap_pagemap *pm, uint64_t vaddr,
		       const void *data, uint64_t n, uint32_t flags, struct err *err)
{
	struct round_sink *r = (struct round_sink *)sink;
	const uint8_t *p = data;
	uint64_t left = n * PAGE_BYTES;

	while (left) {
		uint64_t head[2] = {htole64(pm->id), htole64(vaddr)};
		size_t chunk = MIN(left, (uint64_t)CHUNK_BYTES);
		struct iovec pieces[] = {{head, sizeof(head)}, {(void *)p, chunk}};

		if (channel_send_raw(&r->s->ch, MSG_ROUND_PAGES, pieces, ARRAY_SIZE(pieces), err) < 0)
			return -1;
		p += chunk;
		vaddr += chunk;
		left -= chunk;
		r->bytes += chunk;
		keep_to_bandwidth(r);
		if (source_check_interrupt(r->s, err) < 0)
			return -1;
	}
	return 0;
}

static int round_absent(struct page_sink *sink, struct snap_pagemap *pm, uint64_t vaddr, uint64_t n,
			uint32_t flags, struct err *err)
{
	return 0; /* the target has it */
}

static int round_end(struct page_sink *sink, struct snap_pagemap *pm, struct err *err)
{
	return 0;
}

static const struct page_sink_ops round_ops = {
	.name = "round",
	.begin = round_begin,
	.pages = round_pages,
	.absent = round_absent,
	.end = round_end,
};

/* ---- source: how many rounds ---- */

/* What is known after a round. */
struct pace {
	uint64_t sent_bytes, round_ns;
	uint64_t dirty_bytes_per_s, bytes_per_s;
	uint64_t next_bytes; /* what another round would find, about */
};

static int do_round(struct source *s, struct pace *pace, struct err *err)
{
	struct round_sink sink = {.sink.ops = &round_ops, .s = s, .start_ns = clock_ns()};
	struct precopy_stats st;

	if (precopy_round(s->precopy, &sink.sink, &st, err) < 0 ||
	    channel_send(&s->ch, MSG_ROUND_END, NULL, err) < 0)
		return -1;
	/* it has all arrived */
	if (channel_expect_done(&s->ch, err) < 0)
		return -1;
	pace->sent_bytes = sink.bytes;
	pace->round_ns = MAX(clock_ns() - sink.start_ns, (uint64_t)1);
	if (sink.bytes >= FEW_BYTES || !pace->bytes_per_s)
		pace->bytes_per_s = (uint64_t)((double)sink.bytes * 1e9 / (double)pace->round_ns);
	pace->dirty_bytes_per_s = st.dirty_bytes_per_s;
	pace->next_bytes = (uint64_t)((double)st.dirty_bytes_per_s * (double)pace->round_ns / 1e9);
	s->rounds++;
	s->round_bytes += sink.bytes;
	log_info("round %u: %llu pages in %.3f s, written %.1f MB/s, sent %.1f MB/s, stopped %.3f ms",
		 s->rounds, (unsigned long long)st.pages, (double)pace->round_ns / 1e9,
		 (double)pace->dirty_bytes_per_s / 1e6, (double)pace->bytes_per_s / 1e6,
		 (double)st.stop_ns / 1e6);
	return 0;
}

/* How long the freeze would take for what is left, without the constant part. */
static uint64_t rest_ms(const struct pace *p)
{
	return p->bytes_per_s ? p->next_bytes * 1000 / p->bytes_per_s : 0;
}

/* Does another round make the rest smaller? */
static bool pays(const struct source *s, const struct pace *now, uint64_t before_bytes)
{
	if (s->rounds == 1)
		return now->sent_bytes > FEW_BYTES; /* nothing is known yet of what is written */
	if (now->next_bytes <= FEW_BYTES)
		return false;
	if (!(s->mode & WIRE_MODE_POSTCOPY) && s->opt->max_downtime_ms &&
	    rest_ms(now) <= s->opt->max_downtime_ms)
		return false;
	return now->dirty_bytes_per_s < now->bytes_per_s / 4 * 3 &&
	       now->sent_bytes < before_bytes / 4 * 3;
}

/* What takes this long in the freeze is less than what faults one after the other would take behind it. */
static uint64_t little(const struct pace *p)
{
	return MIN(MAX(p->bytes_per_s / 1000 * LITTLE_MS, (uint64_t)LITTLE_LEAST),
		   (uint64_t)LITTLE_MOST);
}

static int tell_forecast(struct source *s, const struct pace *p, struct err *err)
{
	bool lazy = s->mode & WIRE_MODE_POSTCOPY;
	char text[256];

	snprintf(text, sizeof(text),
		 "%u %s: %.1f MB sent, %.1f MB/s written, %.1f MB/s sent; about %.1f MB are left %s",
		 s->rounds, s->rounds == 1 ? "round" : "rounds", (double)s->round_bytes / 1e6,
		 (double)p->dirty_bytes_per_s / 1e6, (double)p->bytes_per_s / 1e6,
		 (double)p->next_bytes / 1e6, lazy ? "to follow" : "for the freeze");
	progress_note(s->opt->progress, text);
	if (lazy || !s->opt->max_downtime_ms || rest_ms(p) <= s->opt->max_downtime_ms)
		return 0;
	return err_set(err, ETIMEDOUT,
		       "the program writes faster than its memory can be sent: it would be stopped for "
		       "about %llu ms, more than --max-downtime",
		       (unsigned long long)rest_ms(p));
}

int source_precopy(struct source *s, struct err *err)
{
	unsigned int max = s->opt->max_rounds ? s->opt->max_rounds : MAX_ROUNDS;
	uint64_t before_bytes = UINT64_MAX;
	struct pace pace = {0};
	bool more = true;

	if (!(s->mode & WIRE_MODE_PRECOPY))
		return 0;
	s->precopy = precopy_open(s->opt->pid, &s->opt->kinds, s->opt->timeout_s * 1000, err);
	if (!s->precopy && s->opt->mode_wanted)
		return -1;
	if (!s->precopy) {
		progress_note(s->opt->progress, err->text);
		s->mode &= ~WIRE_MODE_PRECOPY;
		return 0;
	}
	precopy_remember(s->precopy);
	precopy_hand_over(s->precopy, s->capture);
	while (more && s->rounds < max) {
		if (do_round(s, &pace, err) < 0)
			return -1;
		progress_bytes(s->opt->progress, s->round_bytes, 0);
		more = pays(s, &pace, before_bytes);
		before_bytes = pace.sent_bytes;
	}
	s->little_bytes = little(&pace);
	return tell_forecast(s, &pace, err);
}

void source_undo_precopy(struct source *s)
{
	precopy_end(s->precopy);
	s->precopy = NULL;
}

/* ---- target ---- */

static int take_pages(struct target *t, const struct frame *f, struct err *err)
{
	uint64_t head[2];

	if (f->bytes < sizeof(head))
		return err_set(err, EPROTO, "pages of a round without an address");
	memcpy(head, f->body, sizeof(head));
	return area_put(t->area, le64toh(head[0]), le64toh(head[1]), f->body + sizeof(head),
			f->bytes - sizeof(head), err);
}

int target_precopy(struct target *t, struct err *err)
{
	struct frame f;
	int rc = 0;

	if (!(t->mode & WIRE_MODE_PRECOPY))
		return 0;
	t->area = area_open(err);
	if (!t->area)
		return -1;
	/* until the next stage begins */
	while (rc == 0 && (rc = channel_peek(&t->ch, &f, err)) == 0 && f.type != MSG_STAGE) {
		rc = channel_recv(&t->ch, &f, err);
		if (rc == 0 && f.type == MSG_ROUND_PAGES)
			rc = take_pages(t, &f, err);
		else if (rc == 0 && f.type == MSG_ROUND_END)
			rc = target_tell_done(t, err);
		else if (rc == 0)
			rc = err_set(err, EPROTO, "message %s in a round", msg_info(f.type)->name);
	}
	return rc;
}

void target_undo_precopy(struct target *t)
{
	store_close(t->area);
	t->area = NULL;
}

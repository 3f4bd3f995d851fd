// SPDX-License-Identifier: Apache-2.0
/*
 * A thread for each connection, and one for each snapshot that a proxy forwards. They
 * meet in the spool. Whatever goes wrong ends one connection and fails one
 * snapshot; both ends of that are told why.
 */
#define LOG_MODULE "relay"
#include "store/relay.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/timeline.h"
#include "store/relay_link.h"
#include "wire/local.h"
#include "wire/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

enum {
	MAX_GUESTS = 256,
	CONNECT_MS = 10000,
	LOOK_MS = 100,
	WORDS_MS = 2000,
	PARTING_MS = 500,
	DEAD_MS = 3000
};

struct relay;

/* A connection, and the thread that serves it. */
struct guest {
	struct relay *relay;
	struct relay_link link;
	bool tcp, started;
	atomic_bool ended;
	pthread_t thread;
	char who[TCP_PEER_TEXT];
};

struct relay {
	const struct relay_options *opt;
	struct spool *spool;
	struct guest *guests[MAX_GUESTS];
	atomic_uint handed_on;
	atomic_bool ending;
};

/* ---- the writer of a snapshot ---- */

/* A snapshot on its way to the cache. */
struct forward {
	struct relay *relay;
	struct shot *shot;
	struct relay_link link;
	pthread_t thread;
	int rc;
	bool told;        /* of a failure: the cache has heard of it, or has ended the connection */
	atomic_bool over; /* nothing is waited for any more */
	struct err err;
};

static int send_ready(struct stream *st, uint64_t bytes, struct err *err)
{
	struct block b = {.type = BLOCK_COMPLETE, .bytes = bytes};

	return stream_send(st, &b, err);
}

static int send_item(struct stream *st, const struct block *b, struct err *err)
{
	if (b->type == BLOCK_OBJECT)
		return stream_send_object(st, b->name, b->data, b->n_data, err);
	return stream_send(st, b, err);
}

/* The cache takes no more, and may have said why. */
static int last_words(struct forward *f, struct err *err)
{
	struct block b;
	struct err why;

	f->link.st.silence_ms = WORDS_MS;
	if ((err->no == EPIPE || err->no == ECONNRESET) &&
	    stream_expect(&f->link.st, BLOCK_COMPLETE, &b, &why) && why.no != EPIPE)
		*err = why;
	return -1;
}

static void log_packing(const struct forward *f)
{
	char what[256];

	snprintf(what, sizeof(what), "snapshot '%s'", shot_name(f->shot));
	packer_log(f->link.st.packer, what);
}

/* A cache that has heard it answers. One that is full does not read: see end_forward. */
static void tell_failure(struct forward *f, const struct err *why)
{
	struct block b;
	struct err ended;

	stream_send_failure(&f->link.st, why);
	f->told = stream_receive(&f->link.st, &b, &ended) == 0 || ended.no == EPIPE;
}

/* Everything that comes, until the cache has all of it and says so. */
static int forward_items(struct forward *f, struct err *err)
{
	struct item *at = NULL;
	struct block b;
	int rc;

	while ((rc = shot_next(f->shot, &at, &b, err)) > 0) {
		/* pages go with their size only; a block says it itself */
		if (b.type != BLOCK_OBJECT && b.type != BLOCK_ZEROS)
			b.bytes = 0;
		if (send_item(&f->link.st, &b, err))
			return last_words(f, err);
	}
	if (rc < 0) {
		tell_failure(f, err);
		return -1;
	}
	if (send_ready(&f->link.st, shot_bytes(f->shot), err))
		return -1;
	return stream_expect(&f->link.st, BLOCK_COMPLETE, &b, err);
}

static void *forward_thread(void *arg)
{
	struct forward *f = arg;

	f->rc = forward_items(f, &f->err);
	if (f->rc) {
		relay_link_explain(&f->link, &f->err);
		err_wrap(&f->err, "image cache at %s, port %u", f->relay->opt->host,
			 f->relay->opt->port);
		shot_fail(f->shot, &f->err);
	} else {
		log_packing(f);
	}
	return NULL;
}

/*
 * What goes to the cache is packed, as it pays or as was asked for: pages that are the same as others in their block go
 * once (those that are zero have no data anyway). A cache of before that gets it as it is.
 */
static int forward_compress(struct forward *f, struct err *err)
{
	enum compress how = f->relay->opt->compress;

	if (f->link.st.version_in >= BLOCK_VERSION_FORMS)
		return stream_compress(&f->link.st, how, err);
	if (how == COMPRESS_LZ4 || how == COMPRESS_ZSTD)
		log_warn("image cache at %s, port %u: an older ferry, which reads nothing that is compressed: it goes as it is",
			 f->relay->opt->host, f->relay->opt->port);
	return 0;
}

/* Connects to the cache, which says that it is ready for this snapshot. */
static int forward_open(struct forward *f, struct relay *r, struct shot *shot, struct err *err)
{
	struct block b = {.type = BLOCK_SNAPSHOT};
	const int forever = 0;

	*f = (struct forward){.relay = r, .shot = shot};
	relay_link_init(&f->link, tcp_connect(r->opt->host, r->opt->port, CONNECT_MS, err),
			&r->ending);
	if (f->link.fd < 0)
		return err_wrap(err, "image-proxy: no image-cache is reached");
	snprintf(b.name, sizeof(b.name), "%s", shot_name(shot));
	if (relay_link_call(&f->link, r->opt->secret, err) || forward_compress(f, err) ||
	    stream_send(&f->link.st, &b, err) || stream_expect(&f->link.st, BLOCK_COMPLETE, &b, err)) {
		relay_link_explain(&f->link, err);
		return err_wrap(err, "image cache at %s, port %u", r->opt->host, r->opt->port);
	}
	f->link.st.silence_ms = 0;
	f->link.st.heard = true;
	f->link.st.stop = &f->over;
	/* a full cache may make us wait for as long as its reader likes; a tunnel lets it by itself */
	if (!f->link.tunnel)
		(void)!setsockopt(f->link.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &forever,
				  sizeof(forever));
	return 0;
}

/* For so long the forwarder may take to end: true. */
static bool joined(struct forward *f, int ms)
{
	uint64_t end_ms = clock_ms() + (uint64_t)ms;
	const struct timespec end = {.tv_sec = (time_t)(end_ms / 1000),
				     .tv_nsec = (long)(end_ms % 1000) * 1000000};

	return pthread_clockjoin_np(f->thread, NULL, CLOCK_MONOTONIC, &end) == 0;
}

static int writer_gone(void *of, struct err *err)
{
	return relay_link_gone(of, "the writer of the snapshot is gone before it was complete", err);
}

/* That a dump was killed a broken connection tells as well; what one says that has failed should get there. */
static uint64_t words_ms(int rc, const struct err *err)
{
	return rc && (err->no == EPIPE || err->no == ECONNRESET) ? PARTING_MS : WORDS_MS;
}

/*
 * The dump has been received (@rc), or has failed. Until the cache has all of it: as long as the dump waits for that; or
 * until it has been told of the failure: a moment, as one that is full does not hear it.
 */
static int end_forward(struct guest *g, struct forward *f, int rc, struct err *err)
{
	uint64_t end_ms = clock_ms() + words_ms(rc, err);

	while (!joined(f, LOOK_MS)) {
		if (atomic_load(&f->over))
			continue;
		if (rc == 0 && writer_gone(&g->link, err))
			rc = -1;
		else if (!atomic_load(&g->relay->ending) && (rc == 0 || clock_ms() < end_ms))
			continue;
		atomic_store(&f->over, true);
	}
	if (!f->rc)
		return rc;
	if (rc == 0 || !atomic_load(&f->over))
		*err = f->err;
	return -1;
}

/* The dump's images into the spool and on to the cache. */
static int receive_and_forward(struct guest *g, struct shot *shot, struct err *err)
{
	struct forward f;
	int no, rc = forward_open(&f, g->relay, shot, err);

	if (rc == 0)
		rc = send_ready(&g->link.st, 0, err);
	if (rc == 0) {
		no = pthread_create(&f.thread, NULL, forward_thread, &f);
		rc = no ? err_sysno(err, no, "cannot start a thread") : 0;
	}
	if (rc == 0) {
		rc = end_forward(g, &f, stream_receive_shot(&g->link.st, shot, err), err);
	}
	if (rc == 0)
		atomic_fetch_add(&g->relay->handed_on, 1);
	if (f.rc && !f.told)
		relay_link_reset(&f.link);
	else
		relay_link_close(&f.link);
	return rc;
}

static int receive_only(struct guest *g, struct shot *shot, struct err *err)
{
	return send_ready(&g->link.st, 0, err) || stream_receive_shot(&g->link.st, shot, err) ? -1 :
												0;
}

static int serve_writer(struct guest *g, const char *name, struct err *err)
{
	uint64_t start = timeline_now();
	struct shot *shot;
	int rc;

	/* a dump that was killed and is begun again comes before it is known that the first one is dead */
	spool_await_writer(g->relay->spool, name, DEAD_MS);
	shot = spool_write(g->relay->spool, name, err);
	if (!shot)
		return -1;
	log_info("%s: snapshot '%s' begins", g->who, name);
	/* it waits for our answer: whoever does not hear that any more is gone */
	g->link.st.writer_gone = writer_gone;
	g->link.st.writer = &g->link;
	rc = g->relay->opt->host ? receive_and_forward(g, shot, err) : receive_only(g, shot, err);
	if (rc) {
		shot_fail(shot, err);
	} else {
		log_info("%s: snapshot '%s' is complete: %llu bytes, at most %llu held", g->who,
			 name, (unsigned long long)shot_bytes(shot),
			 (unsigned long long)spool_peak_bytes(g->relay->spool));
		timeline_span("snapshot", start);
		rc = send_ready(&g->link.st, shot_bytes(shot), err);
	}
	/* a cache keeps it for whoever asks; at the source nobody will */
	if (g->relay->opt->host)
		shot_forget(shot);
	shot_close_writer(shot);
	return rc;
}

/* ---- a reader ---- */

/* A restore that was killed while it waited: nothing else would show it until there is something to send. */
static int reader_gone(void *of, struct err *err)
{
	return relay_link_gone(of, "the reader of the snapshot is gone", err);
}

static int answer_get(struct guest *g, struct shot *shot, const struct block *ask, struct err *err)
{
	struct block absent = {.type = BLOCK_SKIP};
	cleanup_free void *data = NULL;
	size_t bytes;
	const struct asker asker = {reader_gone, &g->link};
	int rc = shot_get(shot, &asker, ask->name, &data, &bytes, err);

	if (rc < 0)
		return -1;
	timeline_mark(ask->name);
	if (rc == 0)
		return stream_send_object(&g->link.st, ask->name, data, bytes, err);
	strcpy(absent.name, ask->name);
	return stream_send(&g->link.st, &absent, err);
}

static int answer_pages(struct guest *g, struct shot *shot, const struct block *ask, uint8_t *buf,
			struct err *err)
{
	const struct asker asker = {reader_gone, &g->link};

	if (!ask->bytes || ask->bytes > BLOCK_DATA_MAX)
		return err_set(err, EPROTO, "pages-%u.img: %llu bytes are asked for at once",
			       ask->id, (unsigned long long)ask->bytes);
	if (shot_get_pages(shot, &asker, ask->id, ask->off, buf, ask->bytes, err))
		return -1;
	return stream_send_pages(&g->link.st, ask->id, ask->off, buf, ask->bytes, err);
}

static int answer_more(struct guest *g, struct shot *shot, const struct block *ask, uint8_t *buf,
		       struct err *err)
{
	const struct asker asker = {reader_gone, &g->link};
	struct block absent = {.type = BLOCK_SKIP};
	size_t n;
	int rc = shot_read_pages(shot, &asker, ask->id, ask->off, buf,
				 MIN(ask->bytes, (uint64_t)BLOCK_DATA_MAX), &n, err);

	if (rc < 0)
		return -1;
	if (rc > 0)
		return stream_send(&g->link.st, &absent, err);
	if (send_ready(&g->link.st, n, err))
		return -1;
	return n ? stream_send_pages(&g->link.st, ask->id, ask->off, buf, n, err) : 0;
}

/* The shot that the reader asks about from now on: the one that he has opened, or one that it builds on. */
static int answer_level(struct guest *g, struct shot *opened, struct shot **now,
			const struct block *ask, struct err *err)
{
	struct block absent = {.type = BLOCK_SKIP};
	struct shot *shot = opened;

	for (uint32_t i = 0; shot && i < ask->id; i++)
		shot = shot_parent(shot);
	if (!shot)
		return stream_send(&g->link.st, &absent, err);
	*now = shot;
	return send_ready(&g->link.st, 0, err);
}

static int answer_done(struct guest *g, struct shot *shot, struct err *err)
{
	shot_forget(shot);
	atomic_fetch_add(&g->relay->handed_on, 1);
	return send_ready(&g->link.st, 0, err);
}

/* It has come, all of it. */
static int answer_wait(struct guest *g, struct shot *shot, struct err *err)
{
	const struct asker asker = {reader_gone, &g->link};

	return shot_wait(shot, &asker, err) ? -1 : send_ready(&g->link.st, shot_bytes(shot), err);
}

static int answer(struct guest *g, struct shot *shot, const struct block *ask, uint8_t *buf,
		  struct err *err)
{
	switch (ask->type) {
	case BLOCK_GET:
		return answer_get(g, shot, ask, err);
	case BLOCK_GET_PAGES:
		return answer_pages(g, shot, ask, buf, err);
	case BLOCK_READ_PAGES:
		return answer_more(g, shot, ask, buf, err);
	case BLOCK_WAIT:
		return answer_wait(g, shot, err);
	case BLOCK_DONE:
		return answer_done(g, shot, err);
	default:
		return err_set(err, EPROTO, "a block of type %d is no question", ask->type);
	}
}

/* Until the reader goes, or gets an answer that is an error: then there is nothing more to ask. */
static int serve_reader(struct guest *g, const char *name, struct err *err)
{
	cleanup_free uint8_t *buf = NULL;
	struct shot *shot, *now;
	struct block ask;
	struct err gone;
	int rc;

	if (posix_memalign((void **)&buf, PAGE_BYTES, BLOCK_DATA_MAX))
		return err_nomem(err);
	shot = spool_read(g->relay->spool, name, err);
	if (!shot)
		return -1;
	log_info("%s: asks for snapshot '%s'", g->who, name);
	now = shot;
	do {
		rc = stream_receive(&g->link.st, &ask, err);
		if (rc && err->no == EPIPE) { /* it has what it wanted, or not; it is gone */
			shot_close_reader(shot);
			return 0;
		}
		if (rc == 0 && ask.type == BLOCK_LEVEL)
			rc = answer_level(g, shot, &now, &ask, err);
		else if (rc == 0)
			rc = answer(g, ask.type == BLOCK_DONE ? shot : now, &ask, buf, err);
	} while (rc == 0);
	shot_close_reader(shot);
	if (reader_gone(&g->link, &gone) == 0)
		return -1;
	log_info("%s: has gone while it waited for snapshot '%s'", g->who, name);
	return 0;
}

/* ---- connections ---- */

static int greet(struct guest *g, struct err *err)
{
	int rc;

	if (g->tcp)
		return relay_link_answer(&g->link, g->relay->opt->secret, err);
	rc = local_check_peer(g->link.fd, err) || stream_receive_preamble(&g->link.st, err) ||
	     stream_send_preamble(&g->link.st, err);
	if (rc == 0)
		stream_spare_sums(&g->link.st);
	return rc ? -1 : 0;
}

static int serve(struct guest *g, struct err *err)
{
	struct block first;

	if (stream_receive(&g->link.st, &first, err))
		return -1;
	g->link.st.silence_ms = 0;
	switch (first.type) {
	case BLOCK_SNAPSHOT:
		return serve_writer(g, first.name, err);
	case BLOCK_OPEN:
		return serve_reader(g, first.name, err);
	default:
		return err_set(err, EPROTO, "a connection does not begin with a block of type %d",
			       first.type);
	}
}

static void *guest_thread(void *arg)
{
	struct guest *g = arg;
	struct err err;

	if (greet(g, &err)) {
		log_warn("%s is dropped: %s", g->who, err.text);
	} else if (serve(g, &err)) {
		relay_link_explain(&g->link, &err);
		log_error("%s: %s", g->who, err.text);
		stream_send_failure(&g->link.st, &err);
	}
	relay_link_end(&g->link);
	atomic_store(&g->ended, true);
	return NULL;
}

static void remove_guest(struct relay *r, size_t i)
{
	struct guest *g = r->guests[i];

	if (g->started)
		pthread_join(g->thread, NULL);
	relay_link_close(&g->link);
	free(g);
	r->guests[i] = NULL;
}

/* A place for one more; those who are gone make room. */
static struct guest **free_place(struct relay *r)
{
	struct guest **place = NULL;

	for (size_t i = 0; i < MAX_GUESTS; i++) {
		if (r->guests[i] && atomic_load(&r->guests[i]->ended))
			remove_guest(r, i);
		if (!r->guests[i] && !place)
			place = &r->guests[i];
	}
	return place;
}

static void welcome(struct relay *r, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct guest **place = free_place(r), *g;

	if (fd < 0)
		return;
	g = place ? calloc(1, sizeof(*g)) : NULL;
	if (!g) {
		log_warn("a connection is dropped: there are too many");
		close(fd);
		return;
	}
	g->relay = r;
	g->tcp = listener == r->opt->tcp;
	if (g->tcp)
		tcp_prepare(fd);
	tcp_peer_text(fd, g->who);
	relay_link_init(&g->link, fd, &r->ending);
	*place = g;
	g->started = pthread_create(&g->thread, NULL, guest_thread, g) == 0;
	if (!g->started) {
		log_warn("a connection is dropped: there can be no more threads");
		remove_guest(r, (size_t)(place - r->guests));
	}
}

/* Has the work been done for which it was started? */
static bool is_done(struct relay *r)
{
	if (!r->opt->once || !atomic_load(&r->handed_on))
		return false;
	free_place(r);
	for (size_t i = 0; i < MAX_GUESTS; i++)
		if (r->guests[i])
			return false;
	return true;
}

static int listen_and_serve(struct relay *r, struct err *err)
{
	struct pollfd p[] = {{.fd = r->opt->local, .events = POLLIN},
			     {.fd = r->opt->tcp, .events = POLLIN}};
	struct err why;

	while (!is_done(r)) {
		if (r->opt->interrupted(&why))
			return 0; /* as it was asked to */
		if (poll(p, ARRAY_SIZE(p), LOOK_MS) < 0 && errno != EINTR)
			return err_sys(err, "poll");
		for (size_t i = 0; i < ARRAY_SIZE(p); i++)
			if (p[i].fd >= 0 && p[i].revents)
				welcome(r, p[i].fd);
	}
	return 0;
}

int relay_run(const struct relay_options *opt, struct err *err)
{
	struct relay *r = calloc(1, sizeof(*r));
	struct err why;
	int rc;

	if (!r)
		return err_nomem(err);
	r->opt = opt;
	r->spool = spool_create(opt->max_bytes, err);
	if (r->spool && opt->host)
		spool_forwards(r->spool);
	rc = r->spool ? listen_and_serve(r, err) : -1;
	if (r->spool) {
		err_set(&why, ECANCELED, "the relay was ended");
		spool_stop(r->spool, &why);
	}
	atomic_store(&r->ending, true);
	for (size_t i = 0; i < MAX_GUESTS; i++)
		if (r->guests[i])
			remove_guest(r, i);
	spool_free(r->spool);
	free(r);
	return rc;
}

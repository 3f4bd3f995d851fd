// SPDX-License-Identifier: Apache-2.0
/*
 * The source's part of post-copy: lanes are opened before the freeze; pages are
 * served over them from the moment in which the target builds the tree until it
 * needs none any more. The frozen tree here is kept until then, armed as at the
 * commit (keeper.h): whatever happens, it does not run on while it runs there.
 */
#define LOG_MODULE "source"
#include "base/clock.h"
#include "base/log.h"
#include "migrate/given.h"
#include "migrate/source.h"

#include <errno.h>
#include <string.h>
#include <sys/poll.h>

enum {
	LANE_MS = 20000,  /* until a lane is open: ssh may take its time */
	SSH_BULK_MAX = 4, /* sshd drops some of those that come when many have not logged in yet */
	RETRY_MS = 200,   /* after lanes broke, doubled each time */
	RETRY_MAX_MS = 5000,
	TICK_MS = 200,
	DRAINED_MS = 5000,
	BUILT_MS = 60000,
	REASON_MS = 2000, /* for the target to say why its lanes are closed */
};

/* ---- lanes ---- */

static void close_lanes(struct source *s)
{
	for (size_t i = 0; i < s->n_lanes; i++)
		lane_close(&s->lanes[i]);
	s->n_lanes = 0;
}

/* How they are opened. */
enum way { WAY_TLS, WAY_TCP, WAY_SSH };

/* Room for a new set: one lane for demand, the others for the bulk. */
static void begin_set(struct source *s, enum way way)
{
	size_t bulk = s->opt->connections;
	uint32_t now = (uint32_t)(clock_ms() / 10);

	if (way == WAY_SSH)
		bulk = s->opt->connections_wanted ? MIN(bulk, (size_t)SSH_BULK_MAX) : 1;
	close_lanes(s);
	s->n_lanes = 1 + MAX(MIN(bulk, (size_t)LANES_MAX - 1), (size_t)1);
	for (size_t i = 0; i < s->n_lanes; i++)
		s->lanes[i] = LANE_NONE;
	s->lane_set = now == s->lane_set ? now + 1 : now;
}

static int dial(struct source *s, enum way way, size_t i, struct err *err)
{
	const struct settle_options *settle = &s->opt->settle;
	const struct lane_call call = {
		.token = settle->token,
		.kind = i ? LANE_BULK : LANE_DEMAND,
		.place = {LANE_VERSION, (uint8_t)s->n_lanes, (uint8_t)i, s->lane_set},
	};

	switch (way) {
	case WAY_TLS:
		return lane_dial_tls(s->transport.tls, s->transport.address, s->transport.port,
				     &call, &s->lanes[i], err);
	case WAY_TCP:
		return lane_dial_tcp(s->door_address, s->door_port, &call, &s->lanes[i], err);
	default:
		return lane_dial_ssh(settle->remote, &call, &s->lanes[i], err);
	}
}

/* All at once: ssh takes most of the time. */
static int dial_some(struct source *s, enum way way, size_t from, size_t to, struct err *err)
{
	for (size_t i = from; i < to; i++) {
		if (dial(s, way, i, err) < 0)
			return -1;
		lane_patience(&s->lanes[i], s->opt->patience_ms);
		/* before the other side has been heard: once that is ready, any number of questions may come */
		if (i == 0 && lane_go_direct(&s->lanes[0], err) < 0)
			return -1;
		if (i && s->lanes[i].tunnel)
			tunnel_unhurried(s->lanes[i].tunnel);
	}
	return 0;
}

static int hear_some(struct source *s, size_t from, size_t to, struct err *err)
{
	for (size_t i = from; i < to; i++) {
		if (lane_heard(&s->lanes[i], LANE_MS, s->ch.peer, err) < 0)
			return -1;
	}
	return 0;
}

static int open_lanes(struct source *s, struct err *err)
{
	enum way way = s->transport.used ? WAY_TLS : s->door_port ? WAY_TCP : WAY_SSH;

	begin_set(s, way);
	if (dial_some(s, way, 0, 2, err) < 0) {
		if (way != WAY_TLS)
			return -1;
		/* when that does not work any more there is still ssh */
		log_warn("%s", err->text);
		way = WAY_SSH;
		begin_set(s, way);
		if (dial_some(s, way, 0, 2, err) < 0)
			return -1;
	}
	if (hear_some(s, 0, 2, err) < 0)
		return -1;
	/* the first ones tell what the other side knows: an older ferry takes these two */
	if (s->lanes[0].place.version == 0)
		s->n_lanes = 2;
	log_info("%zu lanes, version %u", s->n_lanes, s->lanes[0].place.version);
	if (dial_some(s, way, 2, s->n_lanes, err) < 0)
		return -1;
	return hear_some(s, 2, s->n_lanes, err);
}

Wire__Doors *source_hear_doors(struct source *s, struct err *err)
{
	Wire__Doors *doors = channel_expect(&s->ch, MSG_DOORS, err);

	if (!doors || !doors->cannot)
		return doors;
	err_set(err, ENOTSUP, "%s: %s", s->ch.peer, doors->cannot);
	wire_free(doors);
	return NULL;
}

static int hear_lane_doors(struct source *s, struct err *err)
{
	Wire__Doors *doors = source_hear_doors(s, err);
	int rc = 0;

	if (!doors)
		return -1;
	s->shared_late = doors->has_shared && doors->shared;
	if (s->opt->plain_tcp) {
		s->door_port = (uint16_t)doors->port;
		snprintf(s->door_address, sizeof(s->door_address), "%s",
			 doors->address ? doors->address : "");
		if (!s->door_port || !*s->door_address)
			rc = err_set(err, ENOTSUP, "%s: opens no port for --insecure-plain-tcp",
				     s->ch.peer);
	}
	wire_free(doors);
	return rc;
}

/* Without lanes the rest of the memory cannot follow: less is better than nothing, unless the user said how. */
static int do_without(struct source *s, struct err *err)
{
	char note[1200];

	close_lanes(s);
	if (s->opt->mode_wanted || s->ch.broken)
		return -1;
	s->mode &= ~WIRE_MODE_POSTCOPY;
	snprintf(note, sizeof(note), "the memory moves before the program runs there: %s", err->text);
	progress_note(s->opt->progress, note);
	return 0;
}

int source_lanes(struct source *s, struct err *err)
{
	Wire__Plan plan = WIRE__PLAN__INIT;

	if (!(s->mode & WIRE_MODE_POSTCOPY))
		return 0;
	if ((hear_lane_doors(s, err) < 0 || open_lanes(s, err) < 0) && do_without(s, err) < 0)
		return -1;
	plan.mode = s->mode;
	return channel_send(&s->ch, MSG_PLAN, &plan.base, err);
}

void source_undo_lanes(struct source *s)
{
	pages_stop(s->pages);
	s->pages = NULL;
	close_lanes(s);
}

/* ---- pages ---- */

/* The thread of the pages takes the descriptors; the ssh of the lane stays ours to end. */
static int serve_lanes(struct source *s, struct err *err)
{
	const struct pages_packing packing = {
		.codecs = s->lanes[0].place.version >= LANE_PACKS ? s->codecs : 0,
		.measure = s->opt->compress == COMPRESS_AUTO,
	};
	int in[LANES_MAX], out[LANES_MAX];

	for (size_t i = 0; i < s->n_lanes; i++) {
		in[i] = s->lanes[i].in;
		out[i] = s->lanes[i].out;
		s->lanes[i].in = s->lanes[i].out = -1;
	}
	return pages_connect(s->pages, in, out, s->n_lanes,
			     s->lanes[0].direct ? s->lanes[0].tunnel : NULL, &packing, err);
}

int source_serve(struct source *s, struct err *err)
{
	s->pages = pages_start(s->serve, err);
	return s->pages ? serve_lanes(s, err) : -1;
}

/*
 * Lanes broke. A target that gives up undoes everything, and closes them, before it says why
 * (undo_target in stages.c): its reason counts, if there is one.
 */
static int hear_reason(struct source *s, struct err *err)
{
	Wire__Built *built;
	struct err why;

	s->ch.timeout_ms = REASON_MS;
	built = channel_expect(&s->ch, MSG_BUILT, &why);
	if (!built && !s->ch.broken) {
		*err = why;
		return -1;
	}
	if (built)
		wire_free(built);
	return err_set(err, ECONNRESET, "%s: a connection for memory broke before the commit",
		       s->ch.peer);
}

/* Until there is a word of the target. */
int source_await_built(struct source *s, struct err *err)
{
	uint64_t end_ms = clock_ms() + BUILT_MS;
	int rc;

	while ((rc = channel_look(&s->ch, err)) == 0 && clock_ms() < end_ms) {
		if (source_check_interrupt(s, err) < 0)
			return -1;
		switch (pages_wait(s->pages, s->ch.in, TICK_MS, err)) {
		case PAGES_GONE:
			return -1;
		case PAGES_LOST:
			return hear_reason(s, err);
		default:
			break;
		}
	}
	return rc < 0 ? -1 : 0;
}

/* ---- after the commit ---- */

/* Waits. True: the user has lost patience. Without a front nobody can. */
static bool pause_retry(struct source *s, int ms)
{
	struct pollfd pfd = {.fd = s->front_gone ? -1 : s->link, .events = POLLIN};
	struct err err;

	if (poll(&pfd, 1, ms) <= 0 || link_check(s->link, &err) == 0)
		return false;
	s->front_gone = link_ended(s->link);
	return !s->front_gone;
}

/* The tree is neither here nor there any more ours to decide: whoever knows more may settle it later. */
static int leave(struct source *s, struct err *err)
{
	struct err late;

	s->end = SOURCE_LEFT;
	if (source_end_freeze(s, CAPTURE_LEAVE_STOPPED, &late) < 0)
		log_error("leaving the tree stopped: %s", late.text);
	keeper_disarm(s->link, &s->kept, false);
	return err_set(err, EINTR,
		       "the program runs on %s and still needs memory from here: it is left stopped; "
		       "bring the two together with ferry migrate --recover %d %s",
		       s->ch.peer, s->opt->pid, s->ch.peer);
}

/* The copy there was ended before it had all its memory: this one is as it was at the freeze. */
static int go_home(struct source *s, struct err *err)
{
	struct err late;

	s->end = SOURCE_HOME;
	if (source_end_freeze(s, CAPTURE_THAW, &late) < 0)
		log_error("thaw: %s", late.text);
	keeper_disarm(s->link, &s->kept, true);
	return err_set(err, ECONNRESET,
		       "%s: the program was ended there before it had all of its memory; it runs on "
		       "here, as it was when it was stopped",
		       s->ch.peer);
}

static int look_for_interrupt(void *arg, struct err *err)
{
	struct source *s = arg;

	return link_check(s->link, err);
}

/* 1: lanes are open again, 0: nothing more is needed, -1. */
static int reconnect(struct source *s, struct err *err)
{
	const struct settle_options *opt = &s->opt->settle;
	int wait_ms = RETRY_MS;
	enum wire_fate fate;
	struct err why;

	/* an ssh ends when nobody has its pipes any more */
	pages_disconnect(s->pages);
	progress_note(s->opt->progress,
		      "the connection broke; what is missing there is sent as soon as "
		      "there is another");
	for (;;) {
		if (open_lanes(s, &why) == 0 && serve_lanes(s, &why) == 0)
			return 1;
		log_warn("%s", why.text);
		if (connect_query(opt->remote, opt->token, s->front_gone ? -1 : s->link,
				  look_for_interrupt, s, &fate, &why) == 0) {
			if (fate == WIRE_FATE_RUNNING)
				return 0;
			if (fate != WIRE_FATE_FILLING)
				return go_home(s, err);
		} else {
			log_warn("asking %s: %s", s->ch.peer, why.text);
		}
		if (pause_retry(s, wait_ms))
			return leave(s, err);
		wait_ms = MIN(2 * wait_ms, RETRY_MAX_MS);
	}
}

static void report(struct source *s, uint64_t total)
{
	uint64_t left = pages_left(s->pages);

	progress_bytes(s->opt->progress, (total - left) * PAGE_BYTES, total * PAGE_BYTES);
}

/* Until the other side needs nothing more: 0. -1: s->end says what became of the tree. */
static int serve_rest(struct source *s, struct err *err)
{
	uint64_t total = serve_pages(s->serve);
	bool told = false;
	int rc;

	for (;;) {
		int watch = s->front_gone || told ? -1 : s->link;

		switch (pages_wait(s->pages, watch, TICK_MS, err)) {
		case PAGES_CLOSED:
			/* what was not asked for is not needed any more */
			progress_bytes(s->opt->progress, total * PAGE_BYTES, total * PAGE_BYTES);
			return 0;
		case PAGES_LOST:
			rc = reconnect(s, err);
			if (rc <= 0)
				return rc;
			break;
		case PAGES_GONE:
			s->end = SOURCE_LEFT;
			return err_wrap(err, "the program on %s waits for memory that is lost",
					s->ch.peer);
		case PAGES_SERVING:
			report(s, total);
			if (watch >= 0 && pause_retry(s, 0)) {
				told = true;
				progress_note(s->opt->progress,
					      "the program runs there already, and needs the rest of its "
					      "memory: that is sent first");
			}
		}
	}
}

/* What the other side has seen; without its messages that stays unknown. */
static void hear_drained(struct source *s)
{
	Wire__Drained *d;
	struct err err;

	if (s->ch.broken)
		return;
	s->ch.timeout_ms = DRAINED_MS;
	d = channel_expect(&s->ch, MSG_DRAINED, &err);
	if (!d) {
		log_warn("%s", err.text);
		return;
	}
	s->lazy = (struct progress_lazy){.known = true,
					 .faults = d->faults,
					 .p50_ns = d->p50_ns,
					 .p99_ns = d->p99_ns,
					 .max_ns = d->max_ns,
					 .drain_ns = d->drain_ns,
					 .urgent_bytes = d->urgent_pages * PAGE_BYTES,
					 .bulk_bytes = d->bulk_pages * PAGE_BYTES,
					 .losses = d->losses};
	wire_free(d);
}

int source_postcopy(struct source *s, struct err *err)
{
	struct serve_net_stats st;
	int rc;

	if (!s->pages)
		return 0;
	if (s->capture)
		capture_unwatch(s->capture);
	rc = serve_rest(s, err);
	pages_stats(s->pages, &st);
	s->lane_bytes = st.sent_bytes;
	s->zero_bytes = st.zero_pages * PAGE_BYTES;
	log_info("%llu pages went over lanes, %llu of them packed, in %llu bytes",
		 (unsigned long long)st.pages, (unsigned long long)st.packed_pages,
		 (unsigned long long)st.sent_bytes);
	if (rc == 0)
		source_end_tree(s);
	pages_stop(s->pages);
	s->pages = NULL;
	if (rc == 0)
		hear_drained(s);
	close_lanes(s);
	return rc;
}

/* ---- what an earlier migration left behind ---- */

static int settle_home(struct source *s, enum wire_fate fate, bool *moved_out, struct err *err)
{
	*moved_out = fate == WIRE_FATE_RUNNING || fate == WIRE_FATE_FILLING;
	if (fate == WIRE_FATE_RUNNING) {
		source_end_tree(s);
		return 0;
	}
	if (fate != WIRE_FATE_FILLING) {
		if (source_end_freeze(s, CAPTURE_THAW, err) < 0)
			return -1;
		keeper_disarm(s->link, &s->kept, true);
		return 0;
	}
	if (!s->serve)
		return err_set(err, EINVAL,
			       "%s: the program waits there for memory of which nothing is noted here",
			       s->ch.peer);
	if (open_lanes(s, err) < 0 || source_serve(s, err) < 0 || source_postcopy(s, err) < 0) {
		*moved_out = s->end != SOURCE_HOME;
		return -1;
	}
	return 0;
}

/* If who hands out the files of the tree was killed. 1: another does so now; 0: none is needed; -1. */
static int give_files_again(const struct migrate_options *opt, const char *token_or_pid,
			    struct files_home *out, struct err *err)
{
	struct given given;
	int rc = given_find(token_or_pid, &given, err);

	if (rc <= 0)
		return rc;
	rc = files_home_again(opt->settle.remote, &given, out, err) < 0 ? -1 : 1;
	given_free(&given);
	if (rc > 0)
		progress_note(opt->progress,
			      "the files that the program has here are handed out again");
	return rc;
}

/* The tree there has all of its memory; perhaps it misses files. @err says what there is not. */
static int recover_files(const struct migrate_options *opt, const char *token_or_pid,
			 bool *moved_out, struct err *err)
{
	struct files_home files = {.control = -1};
	struct err why;
	int rc = give_files_again(opt, token_or_pid, &files, &why);

	if (rc < 0)
		*err = why;
	*moved_out = rc > 0;
	files_home_close(&files);
	return rc > 0 ? 0 : -1;
}

/* The files first: the program may wait for them as well. */
static int settle_all(struct source *s, enum wire_fate fate, bool *moved_out, struct err *err)
{
	bool there = fate == WIRE_FATE_RUNNING || fate == WIRE_FATE_FILLING;
	struct err why;
	int files = there ? give_files_again(s->opt, s->opt->settle.token, &s->files_home, &why) : 0;
	int rc = settle_home(s, fate, moved_out, err);

	if (!*moved_out) {
		files_home_end(&s->files_home);
		given_remove(s->opt->settle.token);
		return rc;
	}
	files_home_moved(&s->files_home);
	files_home_close(&s->files_home);
	if (rc == 0 && files < 0)
		return err_set(err, why.no,
			       "the program runs on %s, but its files are not handed out: %s",
			       s->ch.peer, why.text);
	return rc;
}

int migrate_recover(const struct migrate_options *opt, const char *token_or_pid, bool *moved_out,
		    struct err *err)
{
	struct migrate_options own = *opt;
	struct source s = {.opt = &own,
			   .link = -1,
			   .front_gone = true,
			   .view = VIEW_OURS,
			   .files_home = {.control = -1},
			   .home = -1,
			   .ch = {.peer = opt->settle.remote->host, .broken = true}};
	enum wire_fate fate;
	struct home home;
	int rc;

	if (home_open(token_or_pid, &home, err) < 0)
		return err->no == ENOENT || err->no == ESRCH ?
			       recover_files(opt, token_or_pid, moved_out, err) :
			       -1;
	own.settle.token = home.token;
	own.pid = home.tasks.v[0].pid;
	s.home = steal_fd(&home.fd);
	s.kept = home.tasks;
	s.serve = home.serve;
	rc = connect_query(opt->settle.remote, home.token, -1, NULL, NULL, &fate, err);
	if (rc == 0)
		rc = settle_all(&s, fate, moved_out, err);
	source_undo_lanes(&s);
	close(s.home);
	s.serve = NULL;
	home_close(&home);
	return rc;
}

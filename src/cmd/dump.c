// SPDX-License-Identifier: Apache-2.0
/*
 * ferry dump: a running tree into a directory of images.
 *
 * From the freeze to the end of it signals wait, so that every way out goes
 * through capture_finish: on failure the tree runs on as if nothing had been.
 */
#define LOG_MODULE "dump"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "base/timeline.h"
#include "capture/capture.h"
#include "cmd/common.h"
#include "cmd/dump_lazy.h"
#include "cmd/dump_stats.h"
#include "cmd/incremental.h"
#include "cmd/ps_args.h"
#include "cmd/round.h"
#include "stats.pb-c.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

struct dump_args {
	const char *tree, *timeline;
	bool leave_running, leave_stopped, kill;
	unsigned int pre_copy; /* enum own_round_when */
	uint64_t timeout_s;
	struct lazy_args lazy;
	struct ps_args server;
	struct incremental_args incremental;
	struct image_args images;
};

static const char *const when_words[] = {"auto", "yes", "no", NULL};

static const struct opt_row rows[] = {
	TREE_ROWS(struct dump_args, tree, timeout_s),
	{.short_name = 'R',
	 .long_name = "leave-running",
	 .help = "let the tree run on afterwards",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct dump_args, leave_running)},
	{.short_name = 's',
	 .long_name = "leave-stopped",
	 .help = "leave the tree stopped afterwards, as by SIGSTOP",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct dump_args, leave_stopped)},
	{.long_name = "kill",
	 .help = "with -D -: end the tree when the stream is written, though nobody has confirmed it",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct dump_args, kill)},
	{.long_name = "pre-copy",
	 .arg = "WHEN",
	 .help = "copy most memory before the freeze, into the directory " OWN_ROUND_DIR
		 " of the images: auto (default: with -R, of 64 MiB or more), yes or no",
	 .type = OPT_WORD,
	 .offset = offsetof(struct dump_args, pre_copy),
	 .words = when_words},
	{.long_name = "lazy-pages",
	 .help = "leave private memory in the frozen tree, and hand it out to lazy-pages on request",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct dump_args, lazy.on)},
	{.long_name = "lazy-timeout",
	 .arg = "SECONDS",
	 .help = "with --lazy-pages: give up when nobody has asked for SECONDS (default 0: never)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct dump_args, lazy.timeout_s),
	 .max = 86400},
	INCREMENTAL_ROWS(struct dump_args, incremental),
	PS_ROWS(struct dump_args, server),
	{.long_name = "timeline",
	 .arg = "FILE",
	 .help = "append what happens when to FILE, in Chrome's trace format",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct dump_args, timeline)},
	REMOTE_ROWS(struct dump_args, images.place),
	COMPRESS_ROW(struct dump_args, images.place),
	IMAGE_ROWS(struct dump_args, images),
	{0},
};

static const struct opt_spec spec = {
	.command = "dump",
	.arguments = "-t PID",
	.summary = "saves a tree of processes to a directory of images",
	.details = "The tree is gone afterwards unless -R or -s is given. With -D - it is left stopped\n"
		   "unless -R or --kill is given, as nobody confirms what goes into a pipe.\n",
	.max_args = 0,
	.rows = rows,
};

/* Microseconds since @from, as the stats image counts. */
static uint32_t elapsed_us(uint64_t from)
{
	return (uint32_t)(clock_us() - from);
}

struct dump {
	const struct dump_args *args;
	struct image_env env;
	pid_t pid;
	struct capture_session *session;
	struct lazy_phase lazy;
	struct tls *tls;
	struct ps_client server; /* fd -1: the memory goes into the images */
	struct incremental incremental;
	struct own_round round;
	DumpStatsEntry stats;
};

static int write_stats(struct dump *d, struct err *err)
{
	struct capture_stats s;

	capture_stats(d->session, &s);
	d->stats.frozen_time = (uint32_t)(s.freeze_ns / 1000);
	d->stats.pages_written = s.pages;
	d->stats.pages_scanned = s.pages + s.zero_pages + s.kept_pages;
	d->stats.pages_skipped_parent = s.kept_pages;
	return dump_stats_write(d->env.work_fd, &d->stats, err);
}

/*
 * Does a reader who works already get all images before the pages? Of a dump that builds on another one it shows only
 * while it reads memory what those are; and what stays here with --lazy-pages, which is most, has no pages to wait for.
 */
static bool saves_early(const struct dump *d)
{
	return store_streams(d->env.store) && !d->incremental.precopy && !d->args->lazy.on;
}

/* All images, before the pages. */
static int save_early(void *arg, struct err *err)
{
	struct dump *d = arg;
	uint64_t at = timeline_now();

	if (capture_save(d->session, d->env.store, err) < 0)
		return -1;
	timeline_span("images", at);
	return 0;
}

static int dump_memory(struct dump *d, struct err *err)
{
	struct store_sink sink;
	struct memory_options memory = {.sink = &sink.sink,
					.serve = d->lazy.serve,
					.precopy = d->incremental.precopy};

	store_sink_init(&sink, capture_state(d->session)->snap, d->env.store);
	if (d->server.fd >= 0)
		memory.sink = &d->server.sink;
	if (saves_early(d)) {
		sink.announced = true;
		memory.announce = save_early;
		memory.arg = d;
	}
	if (capture_memory(d->session, &memory, err) < 0)
		return -1;
	/* what the server has not confirmed is not saved */
	return d->server.fd >= 0 ? ps_client_close(&d->server, err) : 0;
}

/* Everything between freeze and finish. */
static int dump_frozen(struct dump *d, struct err *err)
{
	struct store *store = d->env.store;
	uint64_t start = clock_us(), at = timeline_now();

	if (capture_freeze(d->session, (unsigned int)d->args->timeout_s * 1000, err) < 0)
		return -1;
	d->stats.freezing_time = elapsed_us(start);
	timeline_span("freeze", at);
	at = timeline_now();
	if (signals_check(err) < 0 || capture_collect(d->session, err) < 0 || signals_check(err) < 0)
		return -1;
	timeline_span("collect", at);
	at = timeline_now();
	start = clock_us();
	if (dump_memory(d, err) < 0)
		return -1;
	d->stats.memdump_time = d->stats.memwrite_time = elapsed_us(start);
	timeline_span("memory", at);
	at = timeline_now();
	if (signals_check(err) < 0 || (!saves_early(d) && capture_save(d->session, store, err) < 0) ||
	    store_complete(store, err) < 0)
		return -1;
	timeline_span("complete", at);
	if (image_env_action(&d->env, "post-dump", d->pid, err) < 0)
		return -1;
	return signals_check(err);
}

/* The images are complete; what is left of the memory goes to whoever asks. */
static int dump_lazily(struct dump *d, enum capture_end *end, struct err *err)
{
	if (!d->args->lazy.on)
		return 0;
	if (capture_arm(d->session, err) < 0 || image_env_ready(&d->env, err) < 0) {
		*end = CAPTURE_THAW;
		return -1;
	}
	return lazy_phase_serve(&d->lazy, end, err);
}

/* A stream that goes into a pipe. */
static bool nobody_confirms(const struct dump *d)
{
	return d->env.images.streams && !d->env.images.confirmed;
}

/*
 * Whoever reads a directory finds what is there. That a reader at the other end of a pipe got
 * everything, or that there is one that could use it, nobody tells us: the tree must not be the price.
 */
static enum capture_end planned_end(const struct dump *d)
{
	if (d->args->leave_running)
		return CAPTURE_THAW;
	if (d->args->leave_stopped || (nobody_confirms(d) && !d->args->kill))
		return CAPTURE_LEAVE_STOPPED;
	return CAPTURE_KILL;
}

/* What the user did not ask for is said. */
static void tell_end(const struct dump *d)
{
	if (nobody_confirms(d) && !d->args->leave_running && !d->args->leave_stopped && !d->args->kill)
		fprintf(stderr,
			"ferry dump: the stream is written; pid %d and its descendants are left stopped, "
			"as nobody confirms a stream: kill them when they run elsewhere (kill -KILL), or "
			"let them go on (kill -CONT)\n",
			d->pid);
}

/* Does the memory go into a directory, in no other way than the usual one? */
static bool takes_own_round(const struct dump_args *args)
{
	return !args->lazy.on && !args->server.use && !args->incremental.track_mem &&
	       !args->incremental.prev_images_dir && !images_are_streamed(&args->images.place);
}

/* What was copied before: by earlier commands, or by a round of our own. */
static int copy_before(struct dump *d, struct err *err)
{
	const struct dump_args *args = d->args;

	if (incremental_open(&d->incremental, &args->incremental, &d->env, d->pid, err) < 0)
		return -1;
	if (takes_own_round(args) &&
	    own_round_make(&d->round, args->pre_copy, args->leave_running, d->pid, &d->env.kinds,
			   d->incremental.timeout_ms, d->env.images_fd, d->env.store, err) < 0)
		return -1;
	if (d->round.precopy) {
		d->incremental.precopy = d->round.precopy;
		d->incremental.dedup = true; /* nobody else builds on that directory */
	}
	return 0;
}

/* All that may be refused while the tree still runs. */
static int before_freeze(struct dump *d, struct err *err)
{
	d->session = capture_open(d->pid, &d->env.kinds, err);
	if (!d->session)
		return -1;
	capture_expect_tracking(d->session, true);
	if (capture_check(d->session, err) < 0)
		return -1;
	if (image_env_action(&d->env, "pre-dump", d->pid, err) < 0 || copy_before(d, err) < 0)
		return -1;
	/* the holder is gone: what is watched now is watched by us, or by somebody else */
	precopy_hand_over(d->incremental.precopy, d->session);
	return d->args->server.use ?
		       ps_args_connect(&d->args->server, d->tls, d->pid, &d->server, err) :
		       0;
}

static int dump_tree(struct dump *d, struct err *err)
{
	enum capture_end end = planned_end(d);
	struct err late;
	uint64_t start;
	int rc;

	if (before_freeze(d, err) < 0) {
		/* a restore may wait for the images already */
		image_store_fail(&d->env.images, err);
		return -1;
	}
	if (dump_frozen(d, err) < 0) {
		image_store_fail(&d->env.images, err);
		if (capture_finish(d->session, CAPTURE_THAW, &late) < 0)
			log_error("thaw: %s", late.text);
		return -1;
	}
	start = timeline_now();
	rc = dump_lazily(d, &end, err);
	if (capture_finish(d->session, end, &late) < 0) {
		if (rc == 0)
			*err = late;
		return err_wrap(err, "the images are complete, but");
	}
	if (rc < 0)
		return -1;
	if (incremental_finish(&d->incremental, &d->env, capture_state(d->session)->snap, &late) < 0)
		incremental_warn(&spec, &late);
	tell_end(d);
	timeline_span("after the images", start);
	timeline_mark("end of the dump");
	if ((!d->env.images.streams || d->args->images.work_dir) && write_stats(d, &late) < 0)
		log_warn("no statistics: %s", late.text);
	return image_env_ready(&d->env, err);
}

/* Everything that a stream cannot be asked for. */
static int check_stream(const struct dump_args *args, struct err *err)
{
	const struct {
		bool given;
		const char *name;
	} others[] = {
		{args->lazy.on && !args->images.place.remote, "--lazy-pages"},
		{args->server.use, "--page-server"},
		{args->incremental.track_mem && !args->images.place.remote, "--track-mem"},
		{args->incremental.prev_images_dir != NULL, "--prev-images-dir"},
	};

	if (args->kill && (args->images.place.remote || !images_are_streamed(&args->images.place)))
		return err_set(err, 0, "--kill makes sense with -D - only");
	if (!images_are_streamed(&args->images.place))
		return image_store_check(&args->images.place, IMAGES_WRITE, err);
	if (args->kill && (args->leave_running || args->leave_stopped))
		return err_set(err, 0, "--kill excludes --leave-running and --leave-stopped");
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (others[i].given)
			return err_set(err, 0, "%s excludes %s: all memory goes with the images",
				       others[i].name,
				       args->images.place.remote ? "--remote" : "-D -");
	return image_store_check(&args->images.place, IMAGES_WRITE, err);
}

static int check_args(const struct dump_args *args, pid_t *pid_out, struct err *err)
{
	if (!args->tree)
		return err_set(err, 0, "-t PID is missing");
	if (args->leave_running && args->leave_stopped)
		return err_set(err, 0, "--leave-running and --leave-stopped exclude each other");
	if (args->lazy.on && args->leave_running)
		return err_set(err, 0, "--lazy-pages and --leave-running exclude each other");
	if (args->lazy.on && args->server.use)
		return err_set(err, 0, "--lazy-pages and --page-server exclude each other");
	if (args->server.tls.on && !args->lazy.on && !args->server.use)
		return err_set(err, 0, "--tls makes sense with --page-server or --lazy-pages only");
	if (args->lazy.on && !args->server.port)
		return err_set(err, 0, "--lazy-pages needs --port");
	if (args->pre_copy == OWN_ROUND_YES && !takes_own_round(args))
		return err_set(err, 0,
			       "--pre-copy=yes excludes -D -, --remote, --lazy-pages, --page-server, "
			       "--track-mem and --prev-images-dir");
	if (parse_pid(args->tree, pid_out, err) < 0)
		return err_wrap(err, "--tree");
	if (incremental_check(&args->incremental, &args->images.place, err) < 0 ||
	    check_stream(args, err) < 0)
		return -1;
	return ps_args_check(&args->server, err);
}

static int run(int argc, char **argv)
{
	struct dump_args args = {.timeout_s = 10,
				 .server = PS_ARGS_DEFAULT,
				 .incremental = INCREMENTAL_ARGS_DEFAULT,
				 .images = IMAGE_ARGS_DEFAULT};
	struct dump d = {.args = &args, .server.fd = -1, .stats = DUMP_STATS_ENTRY__INIT};
	struct opt_rest rest;
	sigset_t saved;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (check_args(&args, &d.pid, &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	/* a tree that runs on, and is watched on, can be dumped incrementally again */
	d.incremental = (struct incremental){.spec = &spec,
					     .go_on = args.incremental.track_mem && args.leave_running,
					     .timeout_ms = (unsigned int)args.timeout_s * 1000};
	args.lazy.address = args.server.address;
	args.lazy.port = args.server.port;
	signals_hold(&saved);
	rc = args.timeline ? timeline_open(args.timeline, "dump", &err) : 0;
	if (rc == 0)
		rc = image_env_open(&d.env, &args.images, IMAGES_WRITE, &err);
	if (rc == 0)
		rc = tls_args_open(&args.server.tls, args.lazy.on ? TLS_SERVER : TLS_CLIENT, &d.tls,
				   &err);
	if (rc == 0 && args.lazy.on)
		rc = lazy_phase_open(&d.lazy, &args.lazy, d.tls, &err);
	if (rc == 0)
		rc = dump_tree(&d, &err);
	capture_close(d.session);
	lazy_phase_close(&d.lazy);
	ps_client_finish(&d.server);
	tls_free(d.tls);
	incremental_close(&d.incremental);
	own_round_close(&d.round);
	image_env_close(&d.env);
	signals_discard();
	signals_release(&saved);
	return rc < 0 ? cmd_fail(&spec, &err) : EXIT_DONE;
}

const struct cmd cmd_dump = {.spec = &spec, .run = run};

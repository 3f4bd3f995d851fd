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
#include "capture/capture.h"
#include "cmd/common.h"
#include "cmd/dump_lazy.h"
#include "cmd/dump_stats.h"
#include "cmd/incremental.h"
#include "cmd/ps_args.h"
#include "stats.pb-c.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

struct dump_args {
	const char *tree;
	bool leave_running, leave_stopped;
	uint64_t timeout_s;
	struct lazy_args lazy;
	struct ps_args server;
	struct incremental_args incremental;
	struct image_args images;
};

static const struct opt_row rows[] = {
	{.short_name = 't',
	 .long_name = "tree",
	 .arg = "PID",
	 .help = "the root of the tree to dump",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct dump_args, tree)},
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
	{.long_name = "timeout",
	 .arg = "SECONDS",
	 .help = "give up when the tree cannot be frozen within SECONDS (default 10; 0: never)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct dump_args, timeout_s),
	 .max = 86400},
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
	IMAGE_ROWS(struct dump_args, images),
	{0},
};

static const struct opt_spec spec = {
	.command = "dump",
	.arguments = "-t PID",
	.summary = "saves a tree of processes to a directory of images",
	.details = "The tree is gone afterwards unless -R or -s is given.\n",
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
	struct ps_client server; /* fd -1: the memory goes into the images */
	struct incremental incremental;
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

static int dump_memory(struct dump *d, struct err *err)
{
	struct store_sink sink;
	struct memory_options memory = {.sink = &sink.sink,
					.serve = d->lazy.serve,
					.precopy = d->incremental.precopy};

	store_sink_init(&sink, capture_state(d->session)->snap, d->env.store);
	if (d->server.fd >= 0)
		memory.sink = &d->server.sink;
	if (capture_memory(d->session, &memory, err) < 0)
		return -1;
	/* what the server has not confirmed is not saved */
	return d->server.fd >= 0 ? ps_client_close(&d->server, err) : 0;
}

/* Everything between freeze and finish. */
static int dump_frozen(struct dump *d, struct err *err)
{
	struct store *store = d->env.store;
	uint64_t start = clock_us();

	if (capture_freeze(d->session, (unsigned int)d->args->timeout_s * 1000, err) < 0)
		return -1;
	d->stats.freezing_time = elapsed_us(start);
	if (signals_check(err) < 0 || capture_collect(d->session, err) < 0 || signals_check(err) < 0)
		return -1;
	start = clock_us();
	if (dump_memory(d, err) < 0)
		return -1;
	d->stats.memdump_time = d->stats.memwrite_time = elapsed_us(start);
	if (signals_check(err) < 0 || capture_save(d->session, store, err) < 0 ||
	    store_complete(store, err) < 0)
		return -1;
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

static int dump_tree(struct dump *d, struct err *err)
{
	enum capture_end end = d->args->leave_running ? CAPTURE_THAW :
			       d->args->leave_stopped ? CAPTURE_LEAVE_STOPPED :
							CAPTURE_KILL;
	struct err late;
	int rc;

	capture_expect_tracking(d->session, true);
	if (capture_check(d->session, err) < 0)
		return -1;
	if (image_env_action(&d->env, "pre-dump", d->pid, err) < 0 ||
	    incremental_open(&d->incremental, &d->args->incremental, &d->env, d->pid, err) < 0)
		return -1;
	/* the holder is gone: what is watched now is watched by us, or by somebody else */
	capture_expect_tracking(d->session, d->incremental.precopy != NULL);
	if (d->args->server.use && ps_args_connect(&d->args->server, d->pid, &d->server, err) < 0)
		return -1;
	if (dump_frozen(d, err) < 0) {
		if (capture_finish(d->session, CAPTURE_THAW, &late) < 0)
			log_error("thaw: %s", late.text);
		return -1;
	}
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
	if (write_stats(d, &late) < 0)
		log_warn("no statistics: %s", late.text);
	return image_env_ready(&d->env, err);
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
	if (args->lazy.on && !args->server.port)
		return err_set(err, 0, "--lazy-pages needs --port");
	if (parse_pid(args->tree, pid_out, err) < 0)
		return err_wrap(err, "--tree");
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
	rc = image_env_open(&d.env, &args.images, &err);
	if (rc == 0 && args.lazy.on)
		rc = lazy_phase_open(&d.lazy, &args.lazy, &err);
	if (rc == 0) {
		d.session = capture_open(d.pid, &d.env.kinds, &err);
		rc = d.session ? dump_tree(&d, &err) : -1;
	}
	capture_close(d.session);
	lazy_phase_close(&d.lazy);
	ps_client_finish(&d.server);
	incremental_close(&d.incremental);
	image_env_close(&d.env);
	signals_discard();
	signals_release(&saved);
	return rc < 0 ? cmd_fail(&spec, &err) : EXIT_DONE;
}

const struct cmd cmd_dump = {.spec = &spec, .run = run};

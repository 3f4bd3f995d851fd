// SPDX-License-Identifier: Apache-2.0
/*
 * ferry pre-dump: the memory of a running tree into a directory, on which a
 * later pre-dump or dump builds. The tree stops for moments only.
 */
#define LOG_MODULE "pre-dump"
#include "base/io.h"
#include "base/log.h"
#include "capture/capture.h"
#include "cmd/dump_stats.h"
#include "cmd/incremental.h"
#include "cmd/ps_args.h"
#include "cmd/round.h"
#include "store/store.h"

#include <errno.h>
#include <string.h>

struct pre_dump_args {
	const char *tree;
	uint64_t timeout_s;
	struct ps_args server;
	struct incremental_args incremental;
	struct image_args images;
};

static const struct opt_row rows[] = {
	TREE_ROWS(struct pre_dump_args, tree, timeout_s),
	INCREMENTAL_ROWS(struct pre_dump_args, incremental),
	PS_ROWS(struct pre_dump_args, server),
	REMOTE_ROWS(struct pre_dump_args, images.place),
	IMAGE_ROWS(struct pre_dump_args, images),
	{0},
};

static const struct opt_spec spec = {
	.command = "pre-dump",
	.arguments = "-t PID",
	.summary = "copies the memory of a running tree, for a dump that builds on it",
	.details = "The tree runs on. A process stays that watches what it writes, until the next\n"
		   "pre-dump or dump with --prev-images-dir or --prev-snapshot takes over (see ferry-pre-dump(1)).\n",
	.max_args = 0,
	.rows = rows,
};

struct pre_dump {
	const struct pre_dump_args *args;
	struct image_env env;
	pid_t pid;
	struct snapshot *snap; /* owns what the images are made of */
	struct tls *tls;
	struct ps_client server;
	struct incremental incremental;
	struct precopy_stats stats;
};

/* What cannot be dumped is not worth a pre-dump. */
static int check_tree(struct pre_dump *d, struct err *err)
{
	struct capture_session *s = capture_open(d->pid, &d->env.kinds, err);
	int rc;

	if (!s)
		return -1;
	capture_expect_tracking(s, true);
	rc = capture_check(s, err);
	capture_close(s);
	return rc;
}

static int copy(struct pre_dump *d, struct err *err)
{
	return round_save(d->incremental.precopy, d->snap, d->env.store,
			  d->server.fd >= 0 ? &d->server : NULL, &d->stats, err);
}

static int write_stats(struct pre_dump *d, struct err *err)
{
	DumpStatsEntry stats = DUMP_STATS_ENTRY__INIT;
	const struct precopy_stats *s = &d->stats;
	uint64_t stop_ns = MAX(s->stop_ns, precopy_open_stop_ns(d->incremental.precopy));

	stats.frozen_time = (uint32_t)(stop_ns / 1000);
	stats.memdump_time = stats.memwrite_time = (uint32_t)(s->copy_ns / 1000);
	stats.pages_scanned = s->pages + s->zero_pages + s->kept_pages;
	stats.pages_skipped_parent = s->kept_pages;
	stats.pages_written = s->pages;
	return dump_stats_write(d->env.work_fd, &stats, err);
}

static int pre_dump(struct pre_dump *d, struct err *err)
{
	struct err late;

	if (check_tree(d, err) < 0 || image_env_action(&d->env, "pre-dump", d->pid, err) < 0)
		return -1;
	if (incremental_open(&d->incremental, &d->args->incremental, &d->env, d->pid, err) < 0)
		return -1;
	if (d->args->server.use &&
	    ps_args_connect(&d->args->server, d->tls, d->pid, &d->server, err) < 0)
		return -1;
	if (copy(d, err) < 0) {
		image_store_fail(&d->env.images, err);
		return -1;
	}
	if ((!d->env.images.streams || d->args->images.work_dir) && write_stats(d, &late) < 0)
		log_warn("no statistics: %s", late.text);
	if (incremental_finish(&d->incremental, &d->env, d->snap, &late) < 0)
		incremental_warn(&spec, &late);
	return image_env_ready(&d->env, err);
}

static int check_args(const struct pre_dump_args *args, pid_t *pid_out, struct err *err)
{
	if (!args->tree)
		return err_set(err, 0, "-t PID is missing");
	if (parse_pid(args->tree, pid_out, err) < 0)
		return err_wrap(err, "--tree");
	if (args->server.tls.on && !args->server.use)
		return err_set(err, 0, "--tls makes sense with --page-server only");
	if (args->server.use && args->images.place.remote)
		return err_set(err, 0, "--page-server and --remote exclude each other");
	if (incremental_check(&args->incremental, &args->images.place, err) < 0 ||
	    image_store_check(&args->images.place, IMAGES_ROUND, err) < 0)
		return -1;
	return ps_args_check(&args->server, err);
}

static int run(int argc, char **argv)
{
	struct pre_dump_args args = {.timeout_s = 10,
				     .server = PS_ARGS_DEFAULT,
				     .incremental = INCREMENTAL_ARGS_DEFAULT,
				     .images = IMAGE_ARGS_DEFAULT};
	struct pre_dump d = {.args = &args, .server.fd = -1};
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
	d.incremental = (struct incremental){.spec = &spec,
					     .go_on = true,
					     .timeout_ms = (unsigned int)args.timeout_s * 1000};
	signals_hold(&saved);
	rc = image_env_open(&d.env, &args.images, IMAGES_ROUND, &err);
	if (rc == 0) {
		d.snap = snapshot_create(&err);
		rc = d.snap && tls_args_open(&args.server.tls, TLS_CLIENT, &d.tls, &err) == 0 ?
			     pre_dump(&d, &err) :
			     -1;
	}
	ps_client_finish(&d.server);
	tls_free(d.tls);
	incremental_close(&d.incremental);
	snapshot_free(d.snap);
	image_env_close(&d.env);
	signals_discard();
	signals_release(&saved);
	return rc < 0 ? cmd_fail(&spec, &err) : EXIT_DONE;
}

const struct cmd cmd_pre_dump = {.spec = &spec, .run = run};

// SPDX-License-Identifier: Apache-2.0
/*
 * ferry image-cache and ferry image-proxy: snapshots in memory between a dump
 * and a restore on another host.
 */
#define LOG_MODULE "relay"
#include "base/log.h"
#include "base/timeline.h"
#include "cmd/common.h"
#include "cmd/daemon.h"
#include "wire/local.h"
#include "wire/tcp.h"

#include <fcntl.h>
#include <string.h>

struct relay_args {
	const char *work_dir, *address, *secret_file, *timeline;
	uint64_t port, max_bytes;
	unsigned int compress; /* enum compress */
	bool plain, once;
	struct daemon_args daemon;
	struct log_args log;
};

#define RELAY_ROWS                                                                                  \
	{.short_name = 'W',                                                                         \
	 .long_name = "work-dir",                                                                   \
	 .arg = "DIR",                                                                              \
	 .help = "directory of socket, log and pid file (default: the current one)",                \
	 .type = OPT_TEXT,                                                                          \
	 .offset = offsetof(struct relay_args, work_dir)},                                          \
		{.long_name = "secret-file",                                                        \
		 .arg = "FILE",                                                                     \
		 .help = "the secret that image-cache and image-proxy share: 16 bytes or more, "    \
			 "for nobody else to read; between them goes TLS, keyed by it",             \
		 .type = OPT_TEXT,                                                                  \
		 .offset = offsetof(struct relay_args, secret_file)},                               \
		{.long_name = "insecure-plain-tcp",                                                 \
		 .help = "without a secret: whoever reaches the port can read and change memory",   \
		 .type = OPT_FLAG,                                                                  \
		 .offset = offsetof(struct relay_args, plain)},                                     \
		{.long_name = "max-memory",                                                         \
		 .arg = "SIZE",                                                                     \
		 .help = "hold at most SIZE bytes (suffix K, M or G); who writes has to wait then", \
		 .type = OPT_BYTES,                                                                 \
		 .offset = offsetof(struct relay_args, max_bytes),                                  \
		 .min = 4 << 20,                                                                    \
		 .max = INT64_MAX},                                                                 \
		{.long_name = "once",                                                               \
		 .help = "end when one snapshot has been handed on",                                \
		 .type = OPT_FLAG,                                                                  \
		 .offset = offsetof(struct relay_args, once)},                                      \
		DAEMON_ROWS(struct relay_args, daemon),                                             \
		{.long_name = "timeline",                                                           \
		 .arg = "FILE",                                                                     \
		 .help = "append what happens when to FILE, in Chrome's trace format",              \
		 .type = OPT_TEXT,                                                                  \
		 .offset = offsetof(struct relay_args, timeline)},                                  \
		LOG_ROWS(struct relay_args, log),                                                   \
	{                                                                                           \
		0                                                                                   \
	}

static const struct opt_row cache_rows[] = {
	{.long_name = "address",
	 .arg = "ADDRESS",
	 .help = "numeric address to listen on (default: 127.0.0.1)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct relay_args, address)},
	{.long_name = "port",
	 .arg = "PORT",
	 .help = "port to listen on; 0 (the default): a free one, which is printed",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct relay_args, port),
	 .max = 65535},
	RELAY_ROWS,
};

static const struct opt_row proxy_rows[] = {
	{.long_name = "address",
	 .arg = "HOST",
	 .help = "host of the image-cache (default: this one)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct relay_args, address)},
	{.long_name = "port",
	 .arg = "PORT",
	 .help = "port of the image-cache",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct relay_args, port),
	 .min = 1,
	 .max = 65535},
	{.long_name = "compress",
	 .arg = "auto|none|lz4|zstd",
	 .help = "compress what goes to the cache: as it pays, which is measured (auto, the default), never, or "
		 "always with lz4 or zstd",
	 .type = OPT_WORD,
	 .offset = offsetof(struct relay_args, compress),
	 .words = compress_words},
	RELAY_ROWS,
};

static const struct opt_spec cache_spec = {
	.command = "image-cache",
	.arguments = "",
	.summary = "keeps images in memory until a restore --remote asks for them",
	.details = "It gets them from an image-proxy on another host, while that still gets them.\n",
	.rows = cache_rows,
};

static const struct opt_spec proxy_spec = {
	.command = "image-proxy",
	.arguments = "--port PORT",
	.summary = "forwards the images of a dump --remote to an image-cache",
	.details = "Each goes on as it is written; the dump ends well when the cache has everything.\n",
	.rows = proxy_rows,
};

struct image_relay {
	const struct relay_args *args;
	const struct opt_spec *spec;
	int work_fd, status_fd;
	struct secret secret;
	struct relay_options opt;
};

static bool is_cache(const struct image_relay *r)
{
	return r->spec == &cache_spec;
}

static int check_args(const struct image_relay *r, struct err *err)
{
	const struct relay_args *a = r->args;

	if (a->secret_file && a->plain)
		return err_set(err, 0, "--secret-file and --insecure-plain-tcp exclude each other");
	if (!a->secret_file && !a->plain)
		return err_set(err, 0,
			       "--secret-file is missing; --insecure-plain-tcp does without, where the "
			       "network is trusted or the port is that of a tunnel");
	if (!is_cache(r) && !a->port)
		return err_set(err, 0, "--port is missing");
	return 0;
}

static int open_all(struct image_relay *r, struct err *err)
{
	const struct relay_args *a = r->args;

	r->work_fd = open(a->work_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->work_fd < 0)
		return err_sys(err, "%.200s: cannot open the work directory", a->work_dir);
	if (log_args_open(&a->log, r->work_fd, err) ||
	    (a->timeline && timeline_open(a->timeline, r->spec->command, err)))
		return -1;
	if (status_fd_take(a->daemon.status_fd, &r->status_fd, err) < 0)
		return -1;
	signal(SIGPIPE, SIG_IGN);
	if (a->secret_file && secret_read(a->secret_file, &r->secret, err))
		return -1;
	r->opt.secret = a->secret_file ? &r->secret : NULL;
	r->opt.max_bytes = a->max_bytes;
	r->opt.once = a->once;
	r->opt.compress = (enum compress)a->compress;
	r->opt.interrupted = signals_check;
	r->opt.port = (uint16_t)a->port;
	if (!is_cache(r))
		r->opt.host = a->address ? a->address : "127.0.0.1";
	r->opt.local = local_listen(r->work_fd,
				    is_cache(r) ? RELAY_CACHE_SOCKET : RELAY_PROXY_SOCKET, err);
	if (r->opt.local < 0)
		return -1;
	return is_cache(r) ? listen_and_tell(a->address, (uint16_t)a->port, &r->opt.tcp, err) : 0;
}

static void close_all(struct image_relay *r)
{
	if (r->opt.local >= 0) {
		unlinkat(r->work_fd, is_cache(r) ? RELAY_CACHE_SOCKET : RELAY_PROXY_SOCKET, 0);
		close(r->opt.local);
	}
	if (r->opt.tcp >= 0)
		close(r->opt.tcp);
	if (r->work_fd >= 0)
		close(r->work_fd);
}

static int open_and_run(void *arg, int ready_fd, struct err *err)
{
	struct image_relay *r = arg;
	sigset_t saved;
	int rc;

	signals_hold(&saved);
	rc = open_all(r, err) ||
	     daemon_announce(&r->args->daemon, r->work_fd, r->status_fd, ready_fd, err) ||
	     relay_run(&r->opt, err);
	if (rc && r->args->log.file) /* a daemon has no other voice */
		log_error("%s", err->text);
	close_all(r);
	signals_discard();
	signals_release(&saved);
	return rc ? -1 : 0;
}

static int run_relay(const struct opt_spec *spec, int argc, char **argv)
{
	struct relay_args args = {.work_dir = ".",
				  .daemon = {.status_fd = NO_STATUS_FD},
				  .log = LOG_ARGS_DEFAULT};
	struct image_relay r = {.args = &args,
				.spec = spec,
				.work_fd = -1,
				.status_fd = -1,
				.opt = {.local = -1, .tcp = -1}};
	int rc;
	struct opt_rest rest;
	struct err err;

	rc = cmd_options(spec, argc, argv, &args, &rest);
	if (rc >= 0)
		return rc;
	if (check_args(&r, &err) < 0) {
		cmd_fail(spec, &err);
		return EXIT_USAGE;
	}
	return daemon_run(spec, &args.daemon, open_and_run, &r);
}

static int run_cache(int argc, char **argv)
{
	return run_relay(&cache_spec, argc, argv);
}

static int run_proxy(int argc, char **argv)
{
	return run_relay(&proxy_spec, argc, argv);
}

const struct cmd cmd_image_cache = {.spec = &cache_spec, .run = run_cache};
const struct cmd cmd_image_proxy = {.spec = &proxy_spec, .run = run_proxy};

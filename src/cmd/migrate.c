// SPDX-License-Identifier: Apache-2.0
/*
 * ferry migrate: a tree from here to another host.
 *
 * Two processes (migrate/keeper.h has the theory): the front, which is this
 * command, belongs to the user's terminal and watches; the driver does the
 * work in a session of its own.
 */
#include "base/log.h"
#include "cmd/common.h"
#include "cmd/lazy_root.h"
#include "cmd/tls_args.h"
#include "cmd/whole.h"
#include "migrate/source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

struct migrate_args {
	const char *ssh, *remote_ferry, *recover;
	unsigned int pids, files, on_unknown;
	uint64_t timeout_s, files_timeout_s, pool_bytes, unknown_after_s, max_rounds,
		max_downtime_ms, bandwidth, connections, dead_after_s;
	unsigned int mode, transport, compress;
	bool plain_tcp, overwrite_files, no_background, detach_files, writeback, json, quiet;
	struct opt_list with;
	struct tls_args tls;
	struct log_args log;
	struct kind_args kinds;
};

static const char *const pids_words[] = {
	[PIDS_SAME] = "same", [PIDS_AUTO] = "auto", [PIDS_NEW] = "new", NULL};

enum { FILES_COPY, FILES_NONE, FILES_LAZY, FILES_SHARED };
static const char *const files_words[] = {
	[FILES_COPY] = "copy", [FILES_NONE] = "none", [FILES_LAZY] = "lazy", [FILES_SHARED] = "shared", NULL};

static const char *const unknown_words[] = {
	[UNKNOWN_WAIT] = "wait", [UNKNOWN_HOME] = "home", [UNKNOWN_END] = "end", NULL};

static const char *const transport_words[] = {
	[TRANSPORT_SSH] = "ssh", [TRANSPORT_AUTO] = "auto", [TRANSPORT_TLS] = "tls", NULL};

static const char *const mode_words[] = {"stop", "precopy", "postcopy", "hybrid", NULL};
static const enum wire_mode modes[] = {WIRE_MODE_STOP, WIRE_MODE_PRECOPY, WIRE_MODE_POSTCOPY,
				       WIRE_MODE_HYBRID};
/* of --mode and --files: the user has not said */
#define NOT_SAID UINT_MAX

static const struct opt_row rows[] = {
	{.long_name = "ssh",
	 .arg = "COMMAND",
	 .help = "how to reach HOST (default: ssh); split at blanks, HOST and the remote "
		 "command are appended",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct migrate_args, ssh)},
	{.long_name = "remote-ferry",
	 .arg = "PATH",
	 .help = "ferry on the other host (default: from PATH there, or else the path of this one)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct migrate_args, remote_ferry)},
	{.long_name = "pids",
	 .arg = "auto|same|new",
	 .help = "pids that are taken there: use a new pid namespace if needed (auto, the "
		 "default), refuse (same); or always use a new one (new)",
	 .type = OPT_WORD,
	 .offset = offsetof(struct migrate_args, pids),
	 .words = pids_words},
	{.long_name = "files",
	 .arg = "lazy|copy|none|shared",
	 .help = "where some of the tree's files are missing or different there: leave them all here until "
		 "they are used (lazy, the default); or copy those, or list them and refuse; or trust that "
		 "they are the same there (shared)",
	 .type = OPT_WORD,
	 .offset = offsetof(struct migrate_args, files),
	 .words = files_words},
	{.long_name = "files-timeout",
	 .arg = "SECONDS",
	 .help = "with --files=lazy: how long this host may be silent before a read there fails "
		 "(default 60); 0: for ever",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, files_timeout_s),
	 .max = 1000000},
	POOL_ROW(struct migrate_args, pool_bytes),
	{.long_name = "no-background",
	 .help = "with --files=lazy: fetch only what is used",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, no_background)},
	{.long_name = "detach-files",
	 .help = "with --files=lazy: when all that the tree uses has come, this host is needed no more; what has "
		 "not come by then cannot be opened",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, detach_files)},
	{.long_name = "writeback",
	 .help = "with --files=lazy: what the tree changes there goes home at fsync and close, not only what it "
		 "leaves there",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, writeback)},
	{.long_name = "with",
	 .arg = "PATH",
	 .help = "with --detach-files: fetch this, too, with all that is below it; may be given many times",
	 .type = OPT_LIST,
	 .offset = offsetof(struct migrate_args, with)},
	{.long_name = "overwrite-files",
	 .help = "let copied files replace files with other content",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, overwrite_files)},
	{.long_name = "mode",
	 .arg = "stop|precopy|postcopy|hybrid",
	 .help = "when the memory moves: while the tree is stopped, in rounds before, after it runs "
		 "there, or both (the default)",
	 .type = OPT_WORD,
	 .offset = offsetof(struct migrate_args, mode),
	 .words = mode_words},
	{.long_name = "max-rounds",
	 .arg = "N",
	 .help = "send the memory at most N times before the freeze (default: as often as it pays)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, max_rounds),
	 .max = 1000},
	{.long_name = "max-downtime",
	 .arg = "MS",
	 .help = "with --mode=precopy: refuse when the rest would take longer than MS milliseconds",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, max_downtime_ms),
	 .max = 3600000},
	{.long_name = "bandwidth",
	 .arg = "RATE",
	 .help = "send at most RATE bytes a second (suffix K, M or G) while the tree still runs here",
	 .type = OPT_BYTES,
	 .offset = offsetof(struct migrate_args, bandwidth),
	 .max = UINT64_MAX},
	{.long_name = "transport",
	 .arg = "auto|ssh|tls",
	 .help = "over which connection everything moves: one with TLS, to a port that is opened for "
		 "it, or else that of ssh (auto, the default); always ssh; or only TLS",
	 .type = OPT_WORD,
	 .offset = offsetof(struct migrate_args, transport),
	 .words = transport_words},
	{.long_name = "connections",
	 .arg = "N",
	 .help = "with TLS: use N connections beside each other, and as many for memory that follows "
		 "(default: one for two processors, at most 4)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, connections),
	 .min = 1,
	 .max = TRUNK_WAYS_MAX},
	{.long_name = "compress",
	 .arg = "auto|none|lz4|zstd",
	 .help = "compress memory and files on their way: as it pays, which is measured (auto, the "
		 "default), never, or always with lz4 or zstd",
	 .type = OPT_WORD,
	 .offset = offsetof(struct migrate_args, compress),
	 .words = compress_words},
	{.long_name = "dead-after",
	 .arg = "SECONDS",
	 .help = "with TLS: the link is dead when nothing has been heard of the other machine for "
		 "SECONDS (default 10)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, dead_after_s),
	 .min = 2,
	 .max = 3600},
	{.long_name = "insecure-plain-tcp",
	 .help = "send memory over TCP, faster than ssh but not encrypted: for networks that you trust",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, plain_tcp)},
	{.long_name = "timeout",
	 .arg = "SECONDS",
	 .help = "give up when the tree cannot be frozen within SECONDS (default 10; 0: never)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, timeout_s),
	 .max = 86400},
	{.long_name = "on-unknown",
	 .arg = "wait|home|end",
	 .help = "when the connection breaks at the moment of the commit and the host cannot be "
		 "asked: keep the tree stopped and ask on (the default), or after a while let it "
		 "run at home, or end it",
	 .type = OPT_WORD,
	 .offset = offsetof(struct migrate_args, on_unknown),
	 .words = unknown_words},
	{.long_name = "unknown-after",
	 .arg = "SECONDS",
	 .help = "how long a while is for --on-unknown (default 60)",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct migrate_args, unknown_after_s),
	 .max = 86400},
	{.long_name = "recover",
	 .arg = "PID|TOKEN",
	 .help = "settle a migration to HOST that was killed: the tree, left stopped here, runs on, or "
		 "is ended, or its memory follows, as HOST's record wants it",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct migrate_args, recover)},
	{.long_name = "json",
	 .help = "report as one JSON object per line on standard output",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, json)},
	{.short_name = 'q',
	 .long_name = "quiet",
	 .help = "report nothing but failure",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct migrate_args, quiet)},
	TLS_FILE_ROWS(struct migrate_args, tls),
	LOG_ROWS(struct migrate_args, log),
	KIND_ROWS(struct migrate_args, kinds),
	{0},
};

static const struct opt_spec spec = {
	.command = "migrate",
	.arguments = "PID [USER@]HOST|ferry://HOST",
	.summary = "moves a running tree of processes to another host",
	.details = "The tree runs on there; the one here is ended. If anything fails before the commit, or\n"
		   "the command is interrupted, the tree here runs on as if nothing had been.\n",
	.min_args = 1,
	.max_args = 2,
	.rows = rows,
};

static enum progress_style style_of(const struct migrate_args *args)
{
	if (args->json)
		return PROGRESS_JSON;
	if (args->quiet)
		return PROGRESS_QUIET;
	return isatty(STDERR_FILENO) ? PROGRESS_TERMINAL : PROGRESS_PLAIN;
}

/* The driver. Returns its exit status. */
static int drive(const struct migrate_options *opt, const struct connection *conn, int link)
{
	struct err err;

	if (migrate_source(opt, conn->in, conn->out, link, &err) == 0)
		return EXIT_DONE;
	if (err.no == ESRCH)
		err_wrap(&err, "pid %d", opt->pid);
	return cmd_fail(&spec, &err);
}

/* Starts the driver; the front's end of the link comes back. */
static int start_driver(const struct migrate_options *opt, const struct connection *conn,
			char *title, pid_t *pid_out, struct err *err)
{
	int link[2];
	sigset_t saved;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) < 0)
		return err_sys(err, "socketpair");
	fflush(NULL);
	*pid_out = fork();
	if (*pid_out == 0) {
		close(link[0]);
		/* what the user's terminal or kill(1) has to say comes over the link */
		signals_hold(&saved);
		setsid();
		prctl(PR_SET_NAME, "ferry-keeper");
		memcpy(title, "keeper", MIN(strlen(title) + 1, sizeof("keeper")));
		exit(drive(opt, conn, link[1]));
	}
	close(link[1]);
	close(conn->in);
	close(conn->out);
	if (*pid_out < 0) {
		close(link[0]);
		return err_sys(err, "fork");
	}
	return link[0];
}

static int move(struct migrate_options *opt, char *title, struct err *err)
{
	struct connection conn;
	cleanup_close int link = -1;
	sigset_t saved;
	pid_t driver = -1;
	int status;

	/* a signal that comes before the front watches waits for it */
	signals_hold(&saved);
	if (connect_agent(opt->settle.remote, "agent", &conn, err) < 0)
		return -1;
	link = start_driver(opt, &conn, title, &driver, err);
	if (link < 0)
		return -1;
	status = front_watch(link, driver, &opt->settle);
	connection_end(conn.pid, 2000);
	return status;
}

/* Each keeps one processor busy at each end, and the rest of the machine has work of its own. */
static unsigned int usual_connections(void)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	return (unsigned int)MAX(1, MIN(processors / 2, 4));
}

static int fill_detach(const struct migrate_args *args, struct migrate_options *opt, struct err *err)
{
	char root[32];

	if (args->with.n && !args->detach_files)
		return err_set(err, 0, "--with is for --detach-files");
	if (!args->detach_files)
		return 0;
	if (args->recover)
		return err_set(err, 0,
			       "--detach-files says how a tree moves, which --recover finds done");
	if (opt->files.mode != WIRE_FILES_LAZY)
		return err_set(err, 0,
			       "--detach-files is for --files=lazy: with the others no file stays here");
	if (args->no_background)
		return err_set(err, 0, "--detach-files and --no-background exclude each other");
	snprintf(root, sizeof(root), "/proc/%d/root", opt->pid);
	if (whole_check_below(root, &args->with, err) < 0)
		return -1;
	opt->files.detach = true;
	opt->files.whole = args->with.v;
	opt->files.n_whole = args->with.n;
	return 0;
}

static int fill_writeback(const struct migrate_args *args, struct migrate_options *opt,
			  struct err *err)
{
	if (!args->writeback)
		return 0;
	if (args->recover)
		return err_set(err, 0,
			       "--writeback says how a tree moves, which --recover finds done");
	if (opt->files.mode != WIRE_FILES_LAZY)
		return err_set(err, 0,
			       "--writeback is for --files=lazy: with the others the tree has no file of "
			       "this host's there");
	if (args->detach_files)
		return err_set(err, 0,
			       "--writeback and --detach-files exclude each other: what is changed there "
			       "comes here as long as the tree runs");
	/* copies would go nowhere */
	opt->files.wanted = true;
	opt->files.writeback = true;
	return 0;
}

static int fill_options(const struct migrate_args *args, const struct opt_rest *rest,
			struct migrate_options *opt, struct err *err)
{
	unsigned int files;

	if (rest->n != (args->recover ? 1u : 2u))
		return err_set(err, 0,
			       args->recover ? "--recover takes one more word, the HOST" :
					       "PID and HOST are needed");
	if (!args->recover && parse_pid(rest->v[0], &opt->pid, err) < 0)
		return -1;
	if (args->recover && !wire_token_valid(args->recover) &&
	    parse_pid(args->recover, &opt->pid, err) < 0)
		return err_wrap(err, "--recover");
	/* what lies in the host's own directories, as shared memory, is copied also when all else is lazy */
	opt->files.wanted = args->files != NOT_SAID;
	files = opt->files.wanted ? args->files : FILES_LAZY;
	opt->files.copy = files == FILES_COPY || files == FILES_LAZY;
	opt->files.mode = files == FILES_LAZY   ? WIRE_FILES_LAZY :
			  files == FILES_SHARED ? WIRE_FILES_SHARED :
						  WIRE_FILES_COMPARE;
	opt->files.timeout_ms = args->files_timeout_s * 1000;
	opt->files.pool_bytes = args->pool_bytes;
	opt->files.fill = !args->no_background;
	opt->files.overwrite = args->overwrite_files;
	if (fill_detach(args, opt, err) < 0 || fill_writeback(args, opt, err) < 0)
		return -1;
	opt->pids = (enum pids_mode)args->pids;
	opt->mode_wanted = args->mode != NOT_SAID;
	opt->mode = opt->mode_wanted ? modes[args->mode] : WIRE_MODE_HYBRID;
	opt->plain_tcp = args->plain_tcp;
	opt->transport = (enum transport)args->transport;
	opt->compress = (enum compress)args->compress;
	opt->connections_wanted = args->connections != 0;
	opt->connections = args->connections ? (unsigned int)args->connections : usual_connections();
	if (args->plain_tcp && opt->transport == TRANSPORT_TLS)
		return err_set(err, 0, "--insecure-plain-tcp and --transport=tls exclude each other");
	opt->patience_ms = (unsigned int)args->dead_after_s * 1000;
	opt->max_rounds = (unsigned int)args->max_rounds;
	opt->max_downtime_ms = (unsigned int)args->max_downtime_ms;
	opt->bandwidth = args->bandwidth;
	opt->timeout_s = (unsigned int)args->timeout_s;
	opt->settle.on_unknown = (enum on_unknown)args->on_unknown;
	opt->settle.unknown_after_s = (unsigned int)args->unknown_after_s;
	if (kind_args_resolve(&args->kinds, &opt->kinds, err) < 0)
		return -1;
	opt->kinds.overwrite_files = args->overwrite_files;
	return 0;
}

static int recover(const struct migrate_options *opt, const char *what, struct err *err)
{
	const char *host = opt->settle.remote->host;
	bool moved;

	if (migrate_recover(opt, what, &moved, err) < 0)
		return -1;
	if (opt->progress->style != PROGRESS_QUIET)
		printf("%s runs %s%s now\n", what, moved ? "on " : "here", moved ? host : "");
	return EXIT_DONE;
}

static int run(int argc, char **argv)
{
	struct migrate_args args = {.ssh = "ssh",
				    .mode = NOT_SAID,
				    .files = NOT_SAID,
				    .pids = PIDS_AUTO,
				    .transport = TRANSPORT_AUTO,
				    .dead_after_s = 10,
				    .timeout_s = 10,
				    .files_timeout_s = 60,
				    .pool_bytes = POOL_DEFAULT_BYTES,
				    .unknown_after_s = 60,
				    .log = LOG_ARGS_DEFAULT,
				    .kinds = KIND_ARGS_DEFAULT};
	char token[WIRE_TOKEN_CHARS + 1];
	struct progress progress;
	struct tls_files tls;
	struct remote remote;
	struct migrate_options opt = {.settle = {.remote = &remote, .token = token},
				      .progress = &progress};
	struct opt_rest rest;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (fill_options(&args, &rest, &opt, &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	/* what is not named "ferry call" finds by itself */
	tls = (struct tls_files){.cacert = args.tls.cacert,
				 .cacrl = args.tls.cacrl,
				 .cert = args.tls.cert,
				 .key = args.tls.key};
	remote = (struct remote){.ssh = args.ssh,
				 .host = rest.v[rest.n - 1],
				 .ferry = args.remote_ferry,
				 .tls = &tls};
	signal(SIGPIPE, SIG_IGN);
	progress_init(&progress, style_of(&args));
	if (log_args_open(&args.log, AT_FDCWD, &err) < 0 || token_make(token, &err) < 0)
		rc = -1;
	else if (args.recover)
		rc = recover(&opt, args.recover, &err);
	else
		rc = move(&opt, argv[0], &err);
	kind_args_free(&opt.kinds);
	return rc < 0 ? cmd_fail(&spec, &err) : rc;
}

const struct cmd cmd_migrate = {.spec = &spec, .run = run};

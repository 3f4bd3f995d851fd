// SPDX-License-Identifier: Apache-2.0
/*
 * ferry lazyfs: mounts the files of a tree that came from another host.
 *
 * Two processes: the worker serves the mount; the watcher waits for its end,
 * and when that was not a regular one, takes the dead mount away. It also
 * removes the cache.
 */
#define LOG_MODULE "lazyfs"
#include "base/io.h"
#include "base/log.h"
#include "cmd/common.h"
#include "cmd/daemon.h"
#include "cmd/lazy_root.h"
#include "cmd/lazyfs_status.h"
#include "lazyfs/fs.h"
#include "migrate/connect.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/wait.h>

extern char **environ;

enum { ON_CHANGE_FAIL, ON_CHANGE_REFETCH };
enum { SCOPE_NAMED, SCOPE_ROOT };

static const char *const change_words[] = {"fail", "refetch", NULL};
static const char *const scope_words[] = {"tree", "root", NULL};

struct lazyfs_args {
	const char *mount_options, *cache_dir, *source_root, *ssh, *remote_ferry;
	unsigned int on_change, scope;
	uint64_t timeout_s, pool_bytes;
	bool foreground, no_background, no_local_files, writeback, materialise, status, json, detach;
	struct opt_list with;
	struct log_args log;
};

static const struct opt_row rows[] = {
	{.short_name = 'o',
	 .long_name = "options",
	 .arg = "OPTION,...",
	 .help = "mount options, as allow_other, ro or suid; see fuse(8)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct lazyfs_args, mount_options)},
	{.short_name = 'f',
	 .long_name = "foreground",
	 .help = "stay in the foreground",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, foreground)},
	{.long_name = "cache-dir",
	 .arg = "DIR",
	 .help = "where the cache is made (default: /var/tmp)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct lazyfs_args, cache_dir)},
	POOL_ROW(struct lazyfs_args, pool_bytes),
	{.long_name = "scope",
	 .arg = "tree|root",
	 .help = "show what the tree has (the default), or all below the source's root",
	 .type = OPT_WORD,
	 .offset = offsetof(struct lazyfs_args, scope),
	 .words = scope_words},
	{.long_name = "source-root",
	 .arg = "DIR",
	 .help = "the directory at the source that is the tree's / (default: /)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct lazyfs_args, source_root)},
	{.long_name = "on-change",
	 .arg = "fail|refetch",
	 .help = "a file that is changed at the source: reads of what is missing fail (the default), "
		 "or it is fetched anew",
	 .type = OPT_WORD,
	 .offset = offsetof(struct lazyfs_args, on_change),
	 .words = change_words},
	{.long_name = "timeout",
	 .arg = "SECONDS",
	 .help = "how long the source may be silent before a read fails (default 60); 0: for ever",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct lazyfs_args, timeout_s),
	 .max = 1000000},
	{.long_name = "no-background",
	 .help = "fetch only what is used",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, no_background)},
	{.long_name = "no-local-files",
	 .help = "do not look whether this host has the same files",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, no_local_files)},
	{.long_name = "writeback",
	 .help = "send changes home: names at once, contents at fsync and close",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, writeback)},
	{.long_name = "materialise",
	 .help = "when it is unmounted, fetch the rest and leave the files in the directory",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, materialise)},
	{.long_name = "status",
	 .help = "print what the mount at MOUNTPOINT has fetched",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, status)},
	{.long_name = "json",
	 .help = "with --status: print JSON",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, json)},
	{.long_name = "detach",
	 .help = "of a migrated tree's root directory: fetch all that it uses, then let the source go",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct lazyfs_args, detach)},
	{.long_name = "with",
	 .arg = "PATH",
	 .help = "with --detach: fetch this, too, with all that is below it; may be given many times",
	 .type = OPT_LIST,
	 .offset = offsetof(struct lazyfs_args, with)},
	{.long_name = "ssh",
	 .arg = "COMMAND",
	 .help = "how to reach the host (default: ssh); split at blanks, HOST and the remote "
		 "command are appended",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct lazyfs_args, ssh)},
	{.long_name = "remote-ferry",
	 .arg = "PATH",
	 .help = "ferry on the other host (default: from PATH there, or else the path of this one)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct lazyfs_args, remote_ferry)},
	{.long_name = "log-file",
	 .arg = "FILE",
	 .help = "write the log to FILE",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct lazyfs_args, log.file)},
	{.short_name = 'v',
	 .long_name = "verbosity",
	 .arg = "N",
	 .help = "log more: -v raises the level by one, -vN sets it: 1 errors, 2 warnings, "
		 "3 information, 4 all",
	 .type = OPT_VERBOSE,
	 .offset = offsetof(struct lazyfs_args, log.verbose)},
	{0},
};

static const struct opt_spec spec = {
	.command = "lazyfs",
	.arguments = "MOUNTPOINT [IMGDIR [USER@]HOST]",
	.summary = "mounts the files of a tree from another host, fetched when they are used",
	.details = "The images in IMGDIR name the files; HOST is where the tree came from.\n"
		   "'fusermount3 -u MOUNTPOINT' ends it.\n",
	.min_args = 1,
	.max_args = 3,
	.rows = rows,
};

struct job {
	const struct lazyfs_args *args;
	const char *images, *host;
	char mountpoint[PATH_MAX];
	char cache[PATH_MAX]; /* ours alone */
	int cache_fd, local_root;
	struct pool pool;
	struct remote remote;
	struct connection conn;
	int words_fd; /* what ssh says on stderr while we go into the background, or -1 */
};

/* ---- the connection ---- */

static const char *agent_command(const struct job *job)
{
	return job->args->writeback ? "agent --files --writeback" : "agent --files";
}

/*
 * ssh lives as long as the mount, and would keep our stderr open for so long: whoever reads it would
 * wait for that. So a file takes its words, and show_words hands them on if it fails.
 */
static int connect_quietly(struct job *job, struct err *err)
{
	cleanup_close int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	int rc;

	if (saved < 0 || dup2(job->words_fd, STDERR_FILENO) < 0)
		return err_sys(err, "cannot set ssh's stderr up");
	rc = connect_agent(&job->remote, agent_command(job), &job->conn, err);
	if (dup2(saved, STDERR_FILENO) < 0)
		return err_sys(err, "cannot restore stderr");
	return rc;
}

static void show_words(const struct job *job)
{
	char text[4096];
	ssize_t n = job->words_fd < 0 ? 0 : pread(job->words_fd, text, sizeof(text), 0);

	if (n > 0 && io_write_full(STDERR_FILENO, text, (size_t)n) < 0)
		log_debug("stderr: %s", strerror(errno));
}

static int link_open(void *arg, int *in_out, int *out_out, struct err *err)
{
	struct job *job = arg;
	int rc = job->words_fd >= 0 ?
			 connect_quietly(job, err) :
			 connect_agent(&job->remote, agent_command(job), &job->conn, err);

	if (rc < 0)
		return -1;
	*in_out = job->conn.in;
	*out_out = job->conn.out;
	return 0;
}

static void link_close(void *arg)
{
	connection_end(((struct job *)arg)->conn.pid, 1000);
}

/* ---- the worker ---- */

static int load_images(const struct job *job, struct want *want, struct err *err)
{
	cleanup_close int fd = open(job->images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct lazyfs_args *a = job->args;
	struct snapshot *snap;
	struct store *store;
	int rc;

	if (fd < 0)
		return err_sys(err, "%.200s: cannot open the images directory", job->images);
	store = store_dir_open(fd, err);
	if (!store)
		return -1;
	snap = snapshot_load(store, err);
	rc = snap ? want_make(snap, a->source_root, a->scope == SCOPE_ROOT, want, err) : -1;
	snapshot_free(snap);
	store_close(store);
	return rc == 0 && a->writeback ? want_writes(want, err) : rc;
}

/*
 * The root directory of this host as it is below all that is mounted on it, by us too, now or later: who opens
 * files there can never come to ask himself.
 */
static void open_local_root(struct job *job)
{
	if (job->args->no_local_files)
		return;
	job->local_root = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (job->local_root < 0)
		log_info("files of this host are not looked at, which takes root: %s",
			 strerror(errno));
}

static struct lazyfs *mount_it(struct job *job, const struct want *want, struct err *err)
{
	const struct remote_link link = {.open = link_open, .close = link_close, .arg = job};
	const struct lazyfs_args *a = job->args;
	const struct lazyfs_options opt = {
		.mountpoint = job->mountpoint,
		.fuse_fd = -1,
		.local_root = job->local_root,
		.source = job->host,
		.mount_options = a->mount_options,
		.cache_fd = job->cache_fd,
		.pool = &job->pool,
		.timeout_ms = a->timeout_s * 1000,
		.refetch = a->on_change == ON_CHANGE_REFETCH,
		.writeback = a->writeback,
		.fill = !a->no_background,
		.place = a->materialise,
		.everything = a->scope == SCOPE_ROOT,
		.allow_other = geteuid() == 0,
	};
	struct lazyfs *fs = lazyfs_create(&link, want, &opt, err);

	if (fs && lazyfs_mount(fs, err) < 0) {
		lazyfs_free(fs);
		return NULL;
	}
	return fs;
}

/* @ready_fd: of daemon_fork, or -1. */
static int work(struct job *job, int ready_fd, struct err *err)
{
	struct want want = {0};
	struct lazyfs *fs = NULL;
	int rc = load_images(job, &want, err);

	signal(SIGPIPE, SIG_IGN);
	open_local_root(job);
	pool_try(job->args->cache_dir, job->args->pool_bytes, &job->pool);
	job->words_fd = ready_fd < 0 ? -1 : memfd_create("ssh-stderr", MFD_CLOEXEC);
	if (rc == 0) {
		fs = mount_it(job, &want, err);
		rc = fs ? 0 : -1;
		if (rc < 0)
			show_words(job);
	}
	if (rc == 0 && ready_fd >= 0)
		rc = daemon_ready(ready_fd, err);
	if (job->words_fd >= 0)
		close(job->words_fd);
	job->words_fd = -1;
	if (rc == 0)
		rc = lazyfs_run(fs, err);
	lazyfs_free(fs);
	pool_close(&job->pool);
	if (job->local_root >= 0)
		close(job->local_root);
	want_free(&want);
	return rc;
}

/* ---- the watcher ---- */

static void remove_cache(const struct job *job)
{
	cleanup_dir DIR *dir = fdopendir(dup(job->cache_fd));
	const struct dirent *d;

	if (faccessat(job->cache_fd, LAZYFS_UNSENT, F_OK, 0) == 0) {
		log_error("%s: has what could not be sent home: see " LAZYFS_UNSENT " there",
			  job->cache);
		return;
	}
	while (dir && (d = readdir(dir)))
		if (d->d_name[0] != '.')
			(void)unlinkat(job->cache_fd, d->d_name, 0);
	if (rmdir(job->cache) < 0)
		log_warn("%s: %s", job->cache, strerror(errno));
}

/* A mount without a server answers ENOTCONN to everybody; it is ours, and has nothing left to lose. */
static void remove_dead_mount(const struct job *job)
{
	char *argv[] = {(char *)"fusermount3", (char *)"-uz", (char *)job->mountpoint, NULL};
	struct statfs st;
	pid_t pid;

	/* attributes would come from the kernel's cache */
	if (statfs(job->mountpoint, &st) == 0 || errno != ENOTCONN)
		return;
	if (umount2(job->mountpoint, MNT_DETACH) == 0)
		return;
	if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) == 0)
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
}

/* Waits for the worker, and hands it the signals that are for both. */
static int watch(pid_t worker, const sigset_t *set)
{
	int status, sig;

	for (;;) {
		pid_t done = waitpid(worker, &status, WNOHANG);

		if (done == worker)
			break;
		if (done < 0 && errno != EINTR)
			return EXIT_FAILED;
		if (sigwait(set, &sig) == 0 && sig != SIGCHLD)
			kill(worker, sig == SIGQUIT ? SIGTERM : sig);
	}
	if (WIFSIGNALED(status)) {
		log_error("the process that serves the mount was killed by signal %d",
			  WTERMSIG(status));
		return EXIT_FAILED;
	}
	return WEXITSTATUS(status);
}

static int work_and_exit(struct job *job, int ready_fd)
{
	struct err err;

	if (work(job, ready_fd, &err) == 0)
		return EXIT_DONE;
	log_error("%s", err.text);
	return cmd_fail(&spec, &err);
}

static int run_watched(struct job *job, int ready_fd, struct err *err)
{
	sigset_t set, saved;
	pid_t worker;
	int status;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigprocmask(SIG_BLOCK, &set, &saved);
	worker = fork();
	if (worker < 0)
		return err_sys(err, "cannot fork");
	if (worker == 0) {
		sigprocmask(SIG_SETMASK, &saved, NULL);
		exit(work_and_exit(job, ready_fd));
	}
	if (ready_fd >= 0) {
		close(ready_fd);
		if (daemon_leave_terminal(err) < 0)
			log_warn("%s", err->text);
	}
	status = watch(worker, &set);
	remove_dead_mount(job);
	remove_cache(job);
	return status;
}

/* ---- the command ---- */

static int prepare(struct job *job, const struct opt_rest *rest, struct err *err)
{
	const struct lazyfs_args *a = job->args;
	const char *dir = a->cache_dir;

	if (!realpath(rest->v[0], job->mountpoint))
		return err_sys(err, "%.200s", rest->v[0]);
	job->images = rest->v[1];
	job->host = rest->v[2];
	job->remote = (struct remote){.ssh = a->ssh, .host = job->host, .ferry = a->remote_ferry};
	if (strpbrk(job->host, ",\\ "))
		return err_set(err, EINVAL, "'%.80s' is not the name of a host", job->host);
	if ((size_t)snprintf(job->cache, sizeof(job->cache), "%s/ferry-lazyfs-XXXXXX", dir) >=
	    sizeof(job->cache))
		return err_set(err, ENAMETOOLONG, "%.200s: too long", dir);
	if (!mkdtemp(job->cache))
		return err_sys(err, "%.200s: cannot make a cache there", dir);
	job->cache_fd = open(job->cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return job->cache_fd < 0 ? err_sys(err, "%.200s", job->cache) : 0;
}

static int check_usage(const struct lazyfs_args *args, const struct opt_rest *rest, struct err *err)
{
	const bool asks = args->status || args->detach;

	if (asks && (rest->n != 1 || (args->status && args->detach)))
		return err_set(err, 0, "--status and --detach take MOUNTPOINT alone");
	if (args->json && !args->status)
		return err_set(err, 0, "--json is for --status");
	if (args->writeback && asks)
		return err_set(err, 0, "--writeback is for a mount");
	if (args->with.n && !args->detach)
		return err_set(err, 0, "--with is for --detach");
	if (!asks && rest->n != 3)
		return err_set(err, 0, "MOUNTPOINT, IMGDIR and [USER@]HOST are needed");
	return 0;
}

static int run(int argc, char **argv)
{
	struct lazyfs_args args = {.source_root = "/",
				   .cache_dir = TREEROOT_CACHE_DIR,
				   .ssh = "ssh",
				   .timeout_s = 60,
				   .pool_bytes = POOL_DEFAULT_BYTES,
				   .log = LOG_ARGS_DEFAULT};
	struct job job = {
		.args = &args, .cache_fd = -1, .local_root = -1, .pool = POOL_NONE, .words_fd = -1};
	struct opt_rest rest;
	struct err err;
	int status, ready_fd = -1, rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (check_usage(&args, &rest, &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	if (args.detach)
		return lazyfs_let_source_go(rest.v[0], &args.with, &err) < 0 ? cmd_fail(&spec, &err) :
									       EXIT_DONE;
	if (args.status)
		return lazyfs_print_status(rest.v[0], args.json, &err) < 0 ? cmd_fail(&spec, &err) :
									     EXIT_DONE;
	if (log_args_open(&args.log, AT_FDCWD, &err) < 0 || prepare(&job, &rest, &err) < 0)
		return cmd_fail(&spec, &err);
	rc = args.foreground ? 0 : daemon_fork(&ready_fd, &status, &err);
	if (rc > 0)
		return status;
	if (rc == 0)
		rc = run_watched(&job, ready_fd, &err);
	return rc < 0 ? cmd_fail(&spec, &err) : rc;
}

const struct cmd cmd_lazyfs = {.spec = &spec, .run = run};

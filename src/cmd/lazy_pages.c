// SPDX-License-Identifier: Apache-2.0
/*
 * ferry lazy-pages: the daemon that gives a restored tree its pages while it
 * already runs (ferry-lazy-pages(1)).
 *
 * From when the tree runs until nothing is missing, this process must not go
 * away: signals that ask it to are answered with a word in the log. If it is killed
 * nevertheless, or gives up, the guardian ends the tree (mem/guardian.h); for that the
 * userfaultfds are never closed here while pages are missing.
 */
#define LOG_MODULE "lazy"
#include "base/log.h"
#include "cmd/common.h"
#include "cmd/daemon.h"
#include "cmd/tls_args.h"
#include "kernel/proc.h"
#include "mem/guardian.h"
#include "mem/lazy.h"
#include "mem/lazy_image.h"
#include "mem/lazy_ps.h"
#include "mem/lazy_sock.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

struct lazy_pages_args {
	struct image_args images;
	bool page_server, daemon;
	const char *address, *pidfile;
	uint64_t port, reconnect_s;
	struct tls_args tls;
};

#define ROW(name, value, text, kind, field)                                  \
	.long_name = (name), .arg = (value), .help = (text), .type = (kind), \
	.offset = offsetof(struct lazy_pages_args, field)

static const struct opt_row rows[] = {
	{.short_name = 'D',
	 ROW("images-dir", "DIR", "directory of the images (default: the current one)", OPT_TEXT,
	     images.place.images_dir)},
	{.short_name = 'W',
	 ROW("work-dir", "DIR", "directory of socket, log and pid file (default: that of the images)",
	     OPT_TEXT, images.work_dir)},
	REMOTE_ROWS(struct lazy_pages_args, images.place),
	LOG_ROWS(struct lazy_pages_args, images.log),
	{ROW("page-server", NULL, "get the pages from a server instead of the images", OPT_FLAG,
	     page_server)},
	{ROW("address", "HOST", "host of the server (default: this one)", OPT_TEXT, address)},
	{ROW("port", "PORT", "port of the server", OPT_NUMBER, port), .min = 1, .max = 65535},
	TLS_ROWS(struct lazy_pages_args, tls),
	{ROW("reconnect-timeout", "SECONDS",
	     "give a lost server up, and with it the tree, after SECONDS (default 0: never)",
	     OPT_NUMBER, reconnect_s),
	 .max = 1000000},
	{ROW("daemon", NULL, "go into the background when a restore can connect", OPT_FLAG, daemon)},
	{ROW("pidfile", "FILE", "write the pid of the daemon to FILE (relative to the work directory)",
	     OPT_TEXT, pidfile)},
	{ROW("status-fd", "FD", "write a zero byte to descriptor FD when a restore can connect",
	     OPT_NUMBER, images.status_fd),
	 .max = 1048575},
	{0},
};

static const struct opt_spec spec = {
	.command = "lazy-pages",
	.arguments = "",
	.summary = "gives a tree that was restored with --lazy-pages its memory as it needs it",
	.details = "Waits for one 'restore --lazy-pages' with the same work directory, and ends when the "
		   "tree has all of its memory.\n",
	.max_args = 0,
	.rows = rows,
};

struct task {
	pid_t vpid;
	int uffd; /* until the engine has it */
	struct lazy_space *space;
};

struct lazy_daemon {
	const struct lazy_pages_args *args;
	struct image_env env;
	struct snapshot *snap;
	struct tls *tls;
	struct lazy_source *source;
	struct guardian *guardian;
	struct lazy *engine;
	VEC(struct task) tasks;
	int ready_fd; /* --daemon: whoever waits for us to be ready; -1 */
	int listener, sock, signals;
	pid_t restorer;
	bool finished;     /* the tree runs */
	bool pidfile_made; /* by us */
};

/* ---- before: waiting for a restore ---- */

static int open_signals(struct err *err)
{
	sigset_t set;
	int fd;

	sigprocmask(SIG_BLOCK, NULL, &set);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(err, "cannot wait for signals") : fd;
}

/* Waits until the descriptor is readable; -1 also when a signal says that we shall end. */
static int await_fd(const struct lazy_daemon *d, int fd, struct err *err)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = d->signals, .events = POLLIN}};

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return err_sys(err, "cannot wait for a restore");
		if (signals_check(err) < 0)
			return -1;
		if (p[0].revents)
			return 0;
	}
}

static int become_ready(struct lazy_daemon *d, struct err *err)
{
	d->listener = lazy_sock_listen(d->env.work_fd, err);
	if (d->listener < 0)
		return -1;
	if (d->args->pidfile) {
		if (write_pidfile(d->env.work_fd, d->args->pidfile, getpid(), err) < 0)
			return -1;
		d->pidfile_made = true;
	}
	if (image_env_ready(&d->env, err) < 0)
		return -1;
	return d->ready_fd >= 0 ? daemon_ready(steal_fd(&d->ready_fd), err) : 0;
}

static int accept_restore(struct lazy_daemon *d, struct err *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (await_fd(d, d->listener, err) < 0)
		return -1;
	d->sock = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);
	close(steal_fd(&d->listener));
	lazy_sock_unlink(d->env.work_fd);
	if (d->sock < 0)
		return err_sys(err, "cannot accept the connection of a restore");
	if (getsockopt(d->sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		d->restorer = peer.pid;
	return 0;
}

/* One record for each task of the images, in any order. */
static int take_record(struct lazy_daemon *d, struct err *err)
{
	struct lazy_sock_msg msg;
	struct task t;

	if (await_fd(d, d->sock, err) < 0 || lazy_sock_recv(d->sock, false, &msg, err) < 0)
		return -1;
	if (msg.kind == LAZY_SOCK_EOF)
		return err_set(err, EPIPE, "the restore ended before it had announced all tasks");
	t = (struct task){.vpid = msg.vpid, .uffd = msg.uffd};
	if (!snapshot_task(d->snap, (uint32_t)msg.vpid)) {
		if (msg.uffd >= 0)
			close(msg.uffd);
		return err_set(err, EPROTO,
			       "the restore announces pid %d, which is not in the images", msg.vpid);
	}
	return vec_push(&d->tasks, t) ? 0 : err_nomem(err);
}

static int take_records(struct lazy_daemon *d, struct err *err)
{
	while (d->tasks.n < d->snap->tasks.n)
		if (take_record(d, err) < 0)
			return -1;
	return 0;
}

/* ---- the engine ---- */

static int open_source(struct lazy_daemon *d, struct err *err)
{
	struct lazy_ps_options ps = {.host = d->args->address ? d->args->address : "localhost",
				     .port = (uint16_t)d->args->port,
				     .tls = d->tls,
				     .reconnect_s = (unsigned int)d->args->reconnect_s};

	d->source = d->args->page_server ? lazy_ps_open(&ps, err) :
					   lazy_image_open(d->snap, d->env.store, err);
	return d->source ? 0 : -1;
}

static int add_space(struct lazy_daemon *d, struct task *t, struct err *err)
{
	const struct snap_task *st = snapshot_task(d->snap, (uint32_t)t->vpid);

	if (t->uffd < 0)
		return 0;
	t->space = lazy_add(d->engine, (lazy_object)t->vpid, steal_fd(&t->uffd), -1, err);
	if (!t->space)
		return -1;
	return st->pagemap ? lazy_image_missing(t->space, st->pagemap, err) : 0;
}

static int open_engine(struct lazy_daemon *d, struct err *err)
{
	if (!d->source && open_source(d, err) < 0)
		return -1;
	d->engine = lazy_open(d->source, d->guardian, err);
	if (!d->engine)
		return -1;
	vec_foreach (t, &d->tasks)
		if (add_space(d, t, err) < 0)
			return err_wrap(err, "task %d", t->vpid);
	return 0;
}

/* ---- who the tasks are, for the guardian ---- */

static bool has_uffd_areas(pid_t pid)
{
	proc_vmas vmas = {0};
	struct err unused;
	bool found = false;

	if (proc_vmas_read(pid, true, &vmas, &unused) == 0)
		vec_foreach (v, &vmas)
			found = found || v->flags & PROC_VMF_UFFD;
	proc_vmas_finish(&vmas);
	return found;
}

static bool is_task(pid_t pid, pid_t vpid)
{
	struct proc_status st = {0};
	struct err unused;
	bool same = proc_status(pid, &st, &unused) == 0 && st.nspid.n > 0 &&
		    st.nspid.v[st.nspid.n - 1] == vpid;

	proc_status_finish(&st);
	return same && has_uffd_areas(pid);
}

static bool descends(pid_t pid, pid_t from)
{
	struct proc_stat st;
	struct err unused;

	while (pid > 1 && pid != from) {
		if (proc_stat(pid, &st, &unused) < 0)
			return false;
		pid = st.ppid;
	}
	return pid == from;
}

/* The protocol tells virtual pids only: the task has that pid in its own namespace, and areas to be filled. */
static pid_t find_task(pid_t vpid, pid_t restorer)
{
	cleanup_dir DIR *dir = opendir("/proc");
	pid_t found = 0;

	for (struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir)) {
		pid_t pid = (pid_t)atoi(e->d_name);

		if (pid <= 0 || !is_task(pid, vpid))
			continue;
		if (!found || descends(pid, restorer))
			found = pid;
	}
	return found;
}

static int watch_tasks(struct lazy_daemon *d, struct err *err)
{
	vec_foreach (t, &d->tasks) {
		pid_t pid = t->space ? find_task(t->vpid, d->restorer) : 0;
		int fd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

		if (t->space && fd < 0)
			log_warn("task %d cannot be found: should this process be killed, it is not "
				 "ended but left waiting",
				 t->vpid);
		if (fd >= 0 && lazy_watch(t->space, fd, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- serving ---- */

/* The last word of the restore. */
static int hear_restore(struct lazy_daemon *d, struct err *err)
{
	struct lazy_sock_msg msg;

	if (lazy_sock_recv(d->sock, true, &msg, err) < 0)
		return -1;
	if (msg.kind == LAZY_SOCK_EOF)
		return err_set(err, EPIPE, "the restore has failed");
	close(steal_fd(&d->sock));
	d->finished = true;
	if (watch_tasks(d, err) < 0)
		return -1;
	lazy_start(d->engine);
	return 0;
}

static int hear_signals(struct lazy_daemon *d, struct err *err)
{
	struct signalfd_siginfo si;

	while (read(d->signals, &si, sizeof(si)) == sizeof(si)) {
		if (!d->finished || si.ssi_signo == SIGQUIT)
			return err_set(err, EINTR, "ended by SIG%s", sigabbrev_np((int)si.ssi_signo));
		log_warn("SIG%s is ignored: the tree still needs %llu pages, and would have to be ended "
			 "(SIGQUIT does)",
			 sigabbrev_np((int)si.ssi_signo),
			 (unsigned long long)lazy_left_pages(d->engine));
	}
	return 0;
}

static int hear_all(struct lazy_daemon *d, struct err *err)
{
	struct pollfd p = {.fd = d->sock, .events = POLLIN};

	if (hear_signals(d, err) < 0)
		return -1;
	return d->sock >= 0 && poll(&p, 1, 0) > 0 ? hear_restore(d, err) : 0;
}

/* One descriptor that tells of signals and of the restore. */
static int open_watch(const struct lazy_daemon *d, struct err *err)
{
	cleanup_close int fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN};

	if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, d->sock, &ev) < 0 ||
	    epoll_ctl(fd, EPOLL_CTL_ADD, d->signals, &ev) < 0)
		return err_sys(err, "cannot wait for the restore");
	return steal_fd(&fd);
}

static int serve(struct lazy_daemon *d, struct err *err)
{
	cleanup_close int watch = open_watch(d, err);

	if (watch < 0)
		return -1;
	while (!d->finished || lazy_left_pages(d->engine))
		if (lazy_step(d->engine, watch, -1, err) < 0 || hear_all(d, err) < 0)
			return -1;
	return 0;
}

static void log_stats(const struct lazy_daemon *d)
{
	struct lazy_stats st;

	lazy_stats(d->engine, &st);
	log_info("%llu faults (p50 %llu us, p99 %llu us, max %llu us), %llu on holes; %llu pages on "
		 "demand, %llu in the background, %llu dropped, %llu discarded by the program; %llu "
		 "forks, connection lost %llu times; all there after %llu ms",
		 (unsigned long long)st.faults, (unsigned long long)st.fault_p50_ns / 1000,
		 (unsigned long long)st.fault_p99_ns / 1000,
		 (unsigned long long)st.fault_max_ns / 1000, (unsigned long long)st.hole_faults,
		 (unsigned long long)st.urgent_pages, (unsigned long long)st.bulk_pages,
		 (unsigned long long)st.dropped_pages, (unsigned long long)st.gone_pages,
		 (unsigned long long)st.forks, (unsigned long long)st.losses,
		 (unsigned long long)st.drain_ns / 1000000);
}

/* The tree has everything. From here on nothing of ours matters to it. */
static int farewell(struct lazy_daemon *d, struct err *err)
{
	int rc = 0;

	log_stats(d);
	if (d->args->page_server && lazy_ps_finish(d->source, d->engine, err) < 0)
		rc = err_wrap(err, "the tree has all of its memory, but the server may not know");
	guardian_end(d->guardian);
	lazy_close(d->engine);
	if (d->args->page_server)
		lazy_ps_close(d->source);
	else
		lazy_image_close(d->source);
	tls_free(d->tls);
	return rc;
}

/* What is in a relay is not needed any more: nobody shall wait for us who makes room there. */
static int load_images(struct lazy_daemon *d, struct err *err)
{
	d->snap = snapshot_load_memory(d->env.store, err);
	if (d->snap && d->args->images.place.remote) {
		image_store_close(&d->env.images);
		d->env.store = NULL;
	}
	return d->snap ? 0 : -1;
}

static int run_daemon(struct lazy_daemon *d, struct err *err)
{
	d->signals = open_signals(err);
	if (d->signals < 0)
		return -1;
	if (tls_args_open(&d->args->tls, TLS_CLIENT, &d->tls, err) < 0)
		return -1;
	if (load_images(d, err) < 0)
		return -1;
	/* a server would take an early connection that is not used for a client that has died */
	if (!d->args->page_server && open_source(d, err) < 0)
		return -1;
	d->guardian = guardian_start(GUARDIAN_KILL, err);
	if (!d->guardian)
		return -1;
	if (become_ready(d, err) < 0 || accept_restore(d, err) < 0 || take_records(d, err) < 0 ||
	    open_engine(d, err) < 0 || serve(d, err) < 0) {
		if (d->tasks.n == 0)
			guardian_end(d->guardian);
		return -1;
	}
	return farewell(d, err);
}

static enum image_use images_use(const struct lazy_pages_args *args)
{
	return args->images.place.remote ? IMAGES_READ : IMAGES_DIRECTORY;
}

static int check_args(const struct lazy_pages_args *args, struct err *err)
{
	if (args->images.place.remote && !args->page_server)
		return err_set(
			err, 0,
			"--remote needs --page-server: memory that goes through relays is there before the tree runs");
	if (args->page_server && !args->port)
		return err_set(err, 0, "--page-server needs --port");
	if (!args->page_server && (args->port || args->address))
		return err_set(err, 0, "--address and --port need --page-server");
	if (!args->page_server && args->tls.on)
		return err_set(err, 0, "--tls needs --page-server");
	if (image_store_check(&args->images.place, images_use(args), err) < 0)
		return -1;
	return tls_args_check(&args->tls, err);
}

static int run(int argc, char **argv)
{
	struct lazy_pages_args args = {.images = IMAGE_ARGS_DEFAULT};
	struct lazy_daemon d = {
		.args = &args, .ready_fd = -1, .listener = -1, .sock = -1, .signals = -1};
	struct opt_rest rest;
	sigset_t saved;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest), status;

	if (rc >= 0)
		return rc;
	if (check_args(&args, &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	if (args.daemon) {
		rc = daemon_fork(&d.ready_fd, &status, &err);
		if (rc > 0)
			return status;
		if (rc < 0)
			return cmd_fail(&spec, &err);
	}
	signals_hold(&saved);
	rc = image_env_open(&d.env, &args.images, images_use(&args), &err);
	if (rc == 0)
		rc = run_daemon(&d, &err);
	if (rc < 0 && args.images.log.file) /* a daemon has no other voice */
		log_error("%s", err.text);
	if (d.listener >= 0)
		lazy_sock_unlink(d.env.work_fd);
	if (d.pidfile_made)
		unlinkat(d.env.work_fd, args.pidfile, 0);
	/* userfaultfds are left to the end of the process, and to the guardian: see above */
	return rc < 0 ? cmd_fail(&spec, &err) : EXIT_DONE;
}

const struct cmd cmd_lazy_pages = {.spec = &spec, .run = run};

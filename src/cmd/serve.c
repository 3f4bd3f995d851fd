// SPDX-License-Identifier: Apache-2.0
/*
 * ferry serve: takes trees from the peers of a cluster, who are known by their certificates, instead of
 * sshd. Here is what listens; each connection is served by a process of its own (serve_peer.c), so that
 * what one of them does or breaks is nobody else's.
 */
#define LOG_MODULE "serve"
#include "base/log.h"
#include "cmd/common.h"
#include "cmd/daemon.h"
#include "cmd/serve_peer.h"
#include "migrate/peers.h"
#include "wire/call.h"
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { MAX_PEERS = 256, MAX_STRANGERS = 32 };

struct serve_args {
	const char *address, *peers, *agent_socket;
	uint64_t port;
	struct daemon_args daemon;
	struct tls_args tls;
	struct log_args log;
};

static const struct opt_row rows[] = {
	{.long_name = "address",
	 .arg = "ADDRESS",
	 .help = "numeric address to listen on (default: every one of this host)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct serve_args, address)},
	{.long_name = "port",
	 .arg = "PORT",
	 .help = "port to listen on (default 9393); 0: a free one, which is printed",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct serve_args, port),
	 .max = 65535},
	{.long_name = "peers",
	 .arg = "FILE",
	 .help = "who may do what: lines with the name of a certificate and rights (default: "
		 "/etc/ferry/peers)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct serve_args, peers)},
	{.long_name = "agent-socket",
	 .arg = "PATH",
	 .help = "do not start agents, but hand connections to whoever does that there (systemd); this "
		 "process then needs no rights",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct serve_args, agent_socket)},
	DAEMON_ROWS(struct serve_args, daemon),
	TLS_FILE_ROWS(struct serve_args, tls),
	LOG_ROWS(struct serve_args, log),
	{0},
};

static const struct opt_spec spec = {
	.command = "serve",
	.arguments = "",
	.summary = "takes trees from peers that are known by their certificates",
	.details = "They call it with ferry migrate PID ferry://HOST. Both sides have a certificate of the\n"
		   "same authority; a file says who may do what.\n",
	.max_args = 0,
	.rows = rows,
};

/* A process that serves a connection. */
struct guest {
	pid_t pid;
	int admitted; /* readable when it is known who that is; -1: it is */
};

struct server {
	const struct serve_args *args;
	struct serve_options opt;
	int listener, signals, status_fd;
	sigset_t saved; /* what signals were blocked before */
	struct guest guests[MAX_PEERS];
	size_t n;
};

/* ---- guests ---- */

static void forget(struct server *s, size_t i)
{
	if (s->guests[i].admitted >= 0)
		close(s->guests[i].admitted);
	memmove(s->guests + i, s->guests + i + 1, (--s->n - i) * sizeof(*s->guests));
}

static void reap(struct server *s)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (size_t i = 0; i < s->n; i++)
			if (s->guests[i].pid == pid) {
				forget(s, i);
				break;
			}
}

/* So many who have not shown who they are: the oldest of them has had the most time to. */
static void make_room(struct server *s)
{
	size_t strangers = 0, oldest = s->n;

	for (size_t i = s->n; i-- > 0;)
		if (s->guests[i].admitted >= 0) {
			strangers++;
			oldest = i;
		}
	if (strangers < MAX_STRANGERS && s->n < MAX_PEERS)
		return;
	if (oldest == s->n)
		return;
	log_warn("too many connections do not say who they are: the oldest is dropped");
	kill(s->guests[oldest].pid, SIGKILL);
	forget(s, oldest);
}

/* The child. Its exit status is for nobody: what there is to say is in the log. */
static _Noreturn void serve_one(struct server *s, int fd, int admitted)
{
	struct err err;
	int rc;

	close(s->listener);
	close(s->signals);
	for (size_t i = 0; i < s->n; i++)
		if (s->guests[i].admitted >= 0)
			close(s->guests[i].admitted);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, &s->saved, NULL);
	rc = serve_peer(&s->opt, fd, admitted, &err);
	if (rc < 0)
		log_warn("%s", err.text);
	_exit(rc < 0 ? EXIT_FAILED : EXIT_DONE);
}

static void take(struct server *s)
{
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	int told[2];
	pid_t pid;

	if (fd < 0)
		return;
	make_room(s);
	if (s->n == MAX_PEERS || pipe2(told, O_CLOEXEC) < 0) {
		log_warn("a connection is dropped: there are too many");
		close(fd);
		return;
	}
	pid = fork();
	if (pid == 0) {
		close(told[0]);
		serve_one(s, fd, told[1]);
	}
	close(fd);
	close(told[1]);
	if (pid < 0) {
		log_warn("a connection is dropped: fork: %s", strerror(errno));
		close(told[0]);
		return;
	}
	s->guests[s->n++] = (struct guest){.pid = pid, .admitted = told[0]};
}

/* ---- the daemon ---- */

/* 1: it is to end. */
static int take_signal(struct server *s)
{
	struct signalfd_siginfo info;

	if (read(s->signals, &info, sizeof(info)) != sizeof(info))
		return 0;
	if (info.ssi_signo != SIGCHLD)
		return 1;
	reap(s);
	return 0;
}

static int look_once(struct server *s, struct err *err)
{
	struct pollfd p[2 + MAX_PEERS] = {{.fd = s->listener, .events = POLLIN},
					  {.fd = s->signals, .events = POLLIN}};
	size_t n = s->n;

	for (size_t i = 0; i < n; i++)
		p[2 + i] = (struct pollfd){.fd = s->guests[i].admitted, .events = POLLIN};
	if (poll(p, 2 + n, -1) < 0)
		return errno == EINTR ? 0 : err_sys(err, "poll");
	for (size_t i = 0; i < n; i++)
		if (p[2 + i].revents)
			close(steal_fd(&s->guests[i].admitted));
	if (p[1].revents && take_signal(s))
		return 1;
	if (p[0].revents)
		take(s);
	return 0;
}

/*
 * Until a signal says that it is to end. Who is being served goes on: a migration must not be cut because
 * the daemon is restarted.
 */
static int listen_on(struct server *s, struct err *err)
{
	int rc;

	while ((rc = look_once(s, err)) == 0)
		;
	if (rc > 0)
		log_info("takes nobody any more; %zu connections go on", s->n);
	return MIN(rc, 0);
}

/* What would be wrong for everybody is said at once. */
static int check_files(const struct server *s, struct err *err)
{
	const struct tls_files files = tls_args_files(&s->args->tls);
	struct tls *tls = tls_with_files(TLS_SERVER, &files, err);
	struct peers peers;

	if (!tls)
		return -1;
	tls_free(tls);
	if (peers_read(s->args->peers, &peers, err))
		return -1;
	if (!peers.n)
		log_warn("%s: nobody may do anything", s->args->peers);
	peers_free(&peers);
	return 0;
}

static int watch_signals(struct server *s, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigprocmask(SIG_BLOCK, &set, &s->saved);
	signal(SIGPIPE, SIG_IGN);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signals < 0 ? err_sys(err, "signalfd") : 0;
}

static int open_all(struct server *s, struct err *err)
{
	const struct serve_args *a = s->args;

	if (log_args_open(&a->log, AT_FDCWD, err) || check_files(s, err) || watch_signals(s, err) ||
	    status_fd_take(a->daemon.status_fd, &s->status_fd, err))
		return -1;
	if (a->address)
		return listen_and_tell(a->address, (uint16_t)a->port, &s->listener, err);
	/* IPv6 sockets take IPv4, too; but not every host has them */
	return listen_and_tell("::", (uint16_t)a->port, &s->listener, err) &&
			       listen_and_tell("0.0.0.0", (uint16_t)a->port, &s->listener, err) ?
		       -1 :
		       0;
}

static int open_and_run(void *arg, int ready_fd, struct err *err)
{
	struct server *s = arg;
	int rc = open_all(s, err) ||
		 daemon_announce(&s->args->daemon, AT_FDCWD, s->status_fd, ready_fd, err) ||
		 listen_on(s, err);

	if (s->args->daemon.pidfile && s->listener >= 0)
		unlink(s->args->daemon.pidfile);
	return rc ? -1 : 0;
}

static int run(int argc, char **argv)
{
	struct serve_args args = {.port = CALL_PORT,
				  .peers = "/etc/ferry/peers",
				  .daemon = {.status_fd = NO_STATUS_FD},
				  .log = {.verbose = 3}};
	struct server s = {.args = &args, .listener = -1, .signals = -1, .status_fd = -1};
	struct opt_rest rest;
	int rc;

	rc = cmd_options(&spec, argc, argv, &args, &rest);
	if (rc >= 0)
		return rc;
	s.opt = (struct serve_options){.tls = &args.tls,
				       .peers = args.peers,
				       .agent_socket = args.agent_socket};
	return daemon_run(&spec, &args.daemon, open_and_run, &s);
}

const struct cmd cmd_serve = {.spec = &spec, .run = run};

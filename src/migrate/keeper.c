// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "keeper"
#include "migrate/keeper.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "migrate/home.h"
#include "migrate/progress.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* What goes over the link: one byte, and behind TASKS their number and the tasks. */
enum link_byte {
	LINK_TASKS = 'T',     /* driver */
	LINK_ARMED = 'A',     /* driver */
	LINK_DISARMED = 'D',  /* driver */
	LINK_ASK = 'Q',       /* driver */
	LINK_ACK = 'a',       /* front */
	LINK_INTERRUPT = 'I', /* front */
	LINK_NEVER = 'N',     /* front: settled */
	LINK_RUNNING = 'R',
	LINK_FILLING = 'F',
	LINK_LEFT = 'L',
};

enum { RETRY_MS = 1000, RETRY_MAX_MS = 15000, MAX_KEPT = 1 << 20 };

static int send_byte(int link, char byte)
{
	return send(link, &byte, 1, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

/* ---- driver ---- */

int link_check(int link, struct err *err)
{
	char byte;
	ssize_t n = recv(link, &byte, 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n == 1 && byte == LINK_INTERRUPT)
		return err_set(err, EINTR, "interrupted");
	return err_set(err, EINTR, "interrupted: the command was killed");
}

bool link_ended(int link)
{
	char byte;

	return recv(link, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

/* Waits for an answer of the front. Interrupts that come in between have no meaning any more. */
static int wait_byte(int link)
{
	char byte;
	ssize_t n;

	do
		n = recv(link, &byte, 1, 0);
	while ((n < 0 && errno == EINTR) || (n == 1 && byte == LINK_INTERRUPT));
	return n == 1 ? byte : -1;
}

/* Without a front there is nobody to tell, and we could go on alone: but it just was there. */
static int front_killed(struct err *err)
{
	return err_set(err, EINTR, "interrupted: the command was killed");
}

int keeper_tell(int link, const kept_tasks *tasks, struct err *err)
{
	uint32_t n = (uint32_t)tasks->n;
	char byte;
	ssize_t got;

	if (send_byte(link, LINK_TASKS) < 0 || io_write_full(link, &n, sizeof(n)) < 0 ||
	    io_write_full(link, tasks->v, tasks->n * sizeof(*tasks->v)) < 0)
		return front_killed(err);
	do
		got = recv(link, &byte, 1, 0);
	while (got < 0 && errno == EINTR);
	if (got == 1 && byte == LINK_INTERRUPT)
		return err_set(err, EINTR, "interrupted");
	return got == 1 && byte == LINK_ACK ? 0 : front_killed(err);
}

int keeper_arm(int link, const kept_tasks *tasks, struct err *err)
{
	/* it needs no answer: what has been said before our end counts (watch) */
	if (send_byte(link, LINK_ARMED) < 0)
		return front_killed(err);
	vec_foreach (t, tasks) {
		if (t->stop && kill(t->pid, SIGSTOP) < 0)
			return err_sys(err, "pid %d: cannot keep it stopped", t->pid);
	}
	return 0;
}

void keeper_disarm(int link, const kept_tasks *tasks, bool continue_tasks)
{
	/* SIGCONT takes a SIGSTOP back that is still pending */
	vec_foreach (t, tasks) {
		if (continue_tasks && t->stop)
			kill(t->pid, SIGCONT);
	}
	send_byte(link, LINK_DISARMED);
}

/* ---- asking, in either process ---- */

struct asking {
	int watch_fd; /* readable: the user wants no more of it; -1: none */
	const struct settle_options *opt;
};

static int stop_asking(void *arg, struct err *err)
{
	return err_set(err, EINTR, "interrupted");
}

/* True if the user lost patience. */
static bool pause_asking(const struct asking *a, int ms)
{
	struct pollfd pfd = {.fd = a->watch_fd, .events = POLLIN};

	return poll(&pfd, 1, ms) > 0;
}

static enum settled settle(const struct asking *a)
{
	const struct settle_options *opt = a->opt;
	uint64_t give_up_ns = clock_ns() + (uint64_t)opt->unknown_after_s * 1000000000;
	int wait_ms = RETRY_MS;
	struct err err;

	for (unsigned int tries = 0;; tries++) {
		enum wire_fate fate;

		if (connect_query(opt->remote, opt->token, a->watch_fd, stop_asking, NULL, &fate,
				  &err) == 0)
			return fate == WIRE_FATE_RUNNING ? SETTLED_RUNNING :
			       fate == WIRE_FATE_FILLING ? SETTLED_FILLING :
							   SETTLED_NEVER;
		if (err.no == EINTR)
			return SETTLED_LEFT;
		log_warn("asking %s: %s", opt->remote->host, err.text);
		if (opt->on_unknown != UNKNOWN_WAIT && clock_ns() >= give_up_ns)
			return opt->on_unknown == UNKNOWN_HOME ? SETTLED_NEVER : SETTLED_RUNNING;
		if (tries == 0)
			dprintf(STDERR_FILENO,
				"ferry migrate: the connection broke at the moment of the commit; the "
				"tree stays stopped while %s is asked whether it runs there\n",
				opt->remote->host);
		if (pause_asking(a, wait_ms))
			return SETTLED_LEFT;
		wait_ms = MIN(2 * wait_ms, RETRY_MAX_MS);
	}
}

enum settled keeper_settle(int link, const struct settle_options *opt)
{
	const struct asking alone = {.watch_fd = -1, .opt = opt};
	int answer = -1;

	if (send_byte(link, LINK_ASK) == 0)
		answer = wait_byte(link);
	switch (answer) {
	case LINK_NEVER:
		return SETTLED_NEVER;
	case LINK_RUNNING:
		return SETTLED_RUNNING;
	case LINK_FILLING:
		return SETTLED_FILLING;
	case LINK_LEFT:
		return SETTLED_LEFT;
	default:
		return settle(&alone); /* the front is dead */
	}
}

/* ---- front ---- */

struct front {
	int link, sigfd, driverfd;
	pid_t driver;
	const struct settle_options *opt;
	bool armed;
	VEC(struct front_task {
		pid_t pid;
		int pidfd;
		bool stop;
	})
	tasks;
};

static void forget_tasks(struct front *f)
{
	vec_foreach (t, &f->tasks) {
		if (t->pidfd >= 0)
			close(t->pidfd);
	}
	vec_free(&f->tasks);
	f->armed = false;
}

/* Takes the list that follows LINK_TASKS. */
static int take_tasks(struct front *f)
{
	struct kept_task task;
	uint32_t n;

	forget_tasks(f);
	if (io_read_full(f->link, &n, sizeof(n)) < 0 || n > MAX_KEPT)
		return -1;
	for (uint32_t i = 0; i < n; i++) {
		struct front_task t;

		if (io_read_full(f->link, &task, sizeof(task)) < 0)
			return -1;
		/* a descriptor, because a pid can be used again */
		t.pidfd = (int)syscall(SYS_pidfd_open, task.pid, 0);
		t.pid = task.pid;
		t.stop = task.stop;
		if (!vec_push(&f->tasks, t)) {
			if (t.pidfd >= 0)
				close(t.pidfd);
			return -1;
		}
	}
	return send_byte(f->link, LINK_ACK);
}

static void answer(struct front *f)
{
	static const char bytes[] = {[SETTLED_NEVER] = LINK_NEVER,
				     [SETTLED_RUNNING] = LINK_RUNNING,
				     [SETTLED_FILLING] = LINK_FILLING,
				     [SETTLED_LEFT] = LINK_LEFT};
	const struct asking a = {.watch_fd = f->sigfd, .opt = f->opt};

	send_byte(f->link, bytes[settle(&a)]);
}

/* False: the link has ended. */
static bool serve_link(struct front *f)
{
	char byte;
	ssize_t n = recv(f->link, &byte, 1, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	switch (byte) {
	case LINK_TASKS:
		return take_tasks(f) == 0;
	case LINK_ARMED:
		f->armed = true;
		return true;
	case LINK_DISARMED:
		forget_tasks(f);
		return true;
	case LINK_ASK:
		answer(f);
		return true;
	default:
		return false;
	}
}

static void signal_tasks(struct front *f, int sig, bool all)
{
	vec_foreach (t, &f->tasks) {
		if (t->pidfd >= 0 && (all || t->stop))
			syscall(SYS_pidfd_send_signal, t->pidfd, sig, NULL, 0);
	}
}

/* The driver was killed with the tree in its hands. */
static int settle_alone(struct front *f)
{
	const struct asking a = {.watch_fd = f->sigfd, .opt = f->opt};
	const char *host = f->opt->remote->host;

	switch (settle(&a)) {
	case SETTLED_RUNNING:
		signal_tasks(f, SIGKILL, true);
		home_remove(f->opt->token);
		dprintf(STDERR_FILENO, "ferry migrate: was killed, but the tree runs on %s\n", host);
		break;
	case SETTLED_NEVER:
		signal_tasks(f, SIGCONT, false);
		home_remove(f->opt->token);
		dprintf(STDERR_FILENO, "ferry migrate: was killed; the tree runs on here\n");
		break;
	case SETTLED_FILLING:
		dprintf(STDERR_FILENO,
			"ferry migrate: was killed; the tree runs on %s and still needs memory from here: "
			"it is left stopped; bring the two together with ferry migrate --recover %d %s\n",
			host, f->tasks.n ? f->tasks.v[0].pid : 0, host);
		break;
	case SETTLED_LEFT:
		dprintf(STDERR_FILENO,
			"ferry migrate: was killed; the tree is left stopped: ferry migrate --recover %d %s "
			"settles it when %s can be reached\n",
			f->tasks.n ? f->tasks.v[0].pid : 0, host, host);
		break;
	}
	return 1;
}

static void drain_signals(struct front *f)
{
	struct signalfd_siginfo info;

	while (read(f->sigfd, &info, sizeof(info)) > 0)
		;
	send_byte(f->link, LINK_INTERRUPT);
}

static int driver_status(struct front *f)
{
	int status;

	while (waitpid(f->driver, &status, 0) < 0) {
		if (errno != EINTR)
			return 1;
	}
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	if (f->armed)
		return settle_alone(f);
	dprintf(STDERR_FILENO, "ferry migrate: was killed; the tree runs on here\n");
	return 1;
}

static void watch(struct front *f)
{
	struct pollfd fds[] = {
		{.fd = f->link, .events = POLLIN},
		{.fd = f->sigfd, .events = POLLIN},
		{.fd = f->driverfd, .events = POLLIN},
	};

	for (;;) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			return;
		if (fds[1].revents)
			drain_signals(f);
		if (fds[0].revents && !serve_link(f)) {
			/* a driver that waits for an answer must not wait for ever, with the tree in its hands */
			shutdown(f->link, SHUT_RDWR);
			fds[0].fd = -1;
		} else if (!fds[0].revents && fds[2].revents) {
			/* what the driver said before its end counts: the link comes first */
			return;
		}
		fds[0].revents = fds[1].revents = fds[2].revents = 0;
		if (fds[0].fd < 0 && f->driverfd < 0)
			return;
	}
}

int front_watch(int link, pid_t driver, const struct settle_options *opt)
{
	struct front f = {.link = link, .driver = driver, .opt = opt};
	sigset_t set;
	int status;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	f.sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	f.driverfd = (int)syscall(SYS_pidfd_open, driver, 0);
	watch(&f);
	status = driver_status(&f);
	forget_tasks(&f);
	if (f.sigfd >= 0)
		close(f.sigfd);
	if (f.driverfd >= 0)
		close(f.driverfd);
	return status;
}

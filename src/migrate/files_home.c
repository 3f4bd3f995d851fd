// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "files"
#include "migrate/files_home.h"

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "lazyfs/serve.h"
#include "migrate/files_policy.h"
#include "migrate/lane.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
	HEARD_MS = 20000, /* until the destination takes the connection: ssh may take its time */
	RETRY_FIRST_MS = 200, /* after it broke, doubled each time */
	RETRY_MOST_MS = 10000,
	SILENT_MS = 45000, /* the destination says something every ten seconds */
	SSH_END_MS = 2000,
	REFUSED_MOST = 3, /* attempts that reach the host, where nobody wants the files any more */
	ALONE_MS = 24 * 3600 * 1000, /* then nobody will */
	POLICY_BYTES_MAX = 256 * 1024 * 1024,
	SSH_FAILED = 255,
};

/* Over the control socket, with @bytes behind it. Each is answered by a struct reply. */
enum order { ORDER_OPEN, ORDER_RELEASE, ORDER_MOVED, ORDER_END };

struct order_head {
	uint32_t order, bytes;
};

struct reply {
	int32_t no;
	char text[sizeof(((struct err *)NULL)->text)];
};

struct keeper {
	const struct remote *remote;
	const char *token;
	struct view view;
	int control, over;           /* over: eventfd: a session has ended */
	bool released, moved, ended; /* ended: by the driver */
	uint8_t *given;              /* what is handed out, as it was told */
	size_t given_bytes;
	int given_fd; /* of its record; -1: there is none */
	const struct serve_policy *_Atomic policy;
	struct lane lane;
	pthread_t thread;
	bool serving, bye; /* bye: of the session that has ended */
	bool writes;       /* changes are taken */
};

/* ---- one session ---- */

static void *serve(void *arg)
{
	struct keeper *k = arg;
	const struct serve_options opt = {.policy = &k->policy,
					  .silent_ms = SILENT_MS,
					  .writes = k->writes};
	const uint64_t one = 1;
	struct mntns_way way;
	struct err err;

	/* ssh stays outside: only this thread goes in, and ends there */
	if (view_enter(&k->view, &way, &err) < 0) {
		log_error("%s", err.text);
		close(k->lane.in);
		close(k->lane.out);
	} else if (lazyfs_serve(k->lane.in, k->lane.out, &opt, &k->bye, &err) < 0) {
		log_warn("%s", err.text);
	}
	mntns_forget(&way);
	if (write(k->over, &one, sizeof(one)) < 0)
		log_error("eventfd: %s", strerror(errno));
	return NULL;
}

static int set_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

/*
 * -1 + err; *refused_out: the host was reached, and nobody there takes the
 * connection.
 */
static int connect_lane(struct keeper *k, bool *refused_out, struct err *err)
{
	const struct lane_call call = {.token = k->token, .kind = LANE_FILES};
	int status, no;

	*refused_out = false;
	if (lane_dial_ssh(k->remote, &call, &k->lane, err) < 0)
		return -1;
	if (lane_heard(&k->lane, HEARD_MS, k->remote->host, err) == 0 &&
	    set_blocking(k->lane.in) == 0 && set_blocking(k->lane.out) == 0) {
		k->bye = false;
		no = pthread_create(&k->thread, NULL, serve, k);
		if (!no) {
			k->serving = true;
			return 0;
		}
		err_sysno(err, no, "cannot start a thread");
	}
	/* the agent there has ended by itself, if it was started at all: it says how */
	for (int i = 0; i < SSH_END_MS / 20 && k->lane.ssh > 0; i++) {
		if (waitpid(k->lane.ssh, &status, WNOHANG) == k->lane.ssh) {
			*refused_out = WIFEXITED(status) && WEXITSTATUS(status) != SSH_FAILED;
			k->lane.ssh = 0;
		} else {
			(void)poll(NULL, 0, 20);
		}
	}
	lane_close(&k->lane);
	return -1;
}

static void end_session(struct keeper *k)
{
	uint64_t n;

	if (!k->serving)
		return;
	pthread_join(k->thread, NULL);
	k->serving = false;
	if (read(k->over, &n, sizeof(n)) < 0)
		log_debug("eventfd: %s", strerror(errno));
	/* the server has closed the descriptors */
	k->lane.in = k->lane.out = -1;
	lane_close(&k->lane);
}

/* ---- what the driver says ---- */

static int reply(struct keeper *k, int no, const char *text)
{
	struct reply msg = {.no = no};

	snprintf(msg.text, sizeof(msg.text), "%s", text);
	return io_write_full(k->control, &msg, sizeof(msg));
}

static int take_policy(struct keeper *k, const uint8_t *data, size_t bytes, struct err *err)
{
	/* the one before it stays: a thread may look at it */
	struct serve_policy *p = policy_decode(data, bytes, err);

	if (!p)
		return -1;
	atomic_store(&k->policy, p);
	k->writes = policy_writes(p);
	return 0;
}

/* From now on nobody else knows what is handed out. In a view nobody could look for it. */
static void note_given(struct keeper *k, const uint8_t *data, size_t bytes)
{
	struct err err;
	int32_t pid;

	if (bytes != sizeof(pid) || k->view.ns >= 0 || k->given_fd >= 0)
		return;
	memcpy(&pid, data, sizeof(pid));
	k->given_fd = given_write(k->token, pid, k->given, k->given_bytes, &err);
	if (k->given_fd < 0)
		log_warn("%s", err.text);
}

/* False: it is over. */
static bool obey(struct keeper *k)
{
	struct order_head head;
	cleanup_free uint8_t *data = NULL;
	struct err err;
	int rc = 0;

	if (io_read_full(k->control, &head, sizeof(head)) < 0 || head.bytes > POLICY_BYTES_MAX)
		goto gone;
	data = malloc(head.bytes + 1u);
	if (!data || io_read_full(k->control, data, head.bytes) < 0)
		goto gone;
	if (head.order == ORDER_OPEN) {
		rc = take_policy(k, data, head.bytes, &err);
		free(k->given);
		k->given = steal_ptr(&data);
		k->given_bytes = head.bytes;
	} else if (head.order == ORDER_RELEASE) {
		note_given(k, data, head.bytes);
	}
	k->released = k->released || head.order == ORDER_RELEASE;
	k->moved = k->moved || head.order == ORDER_MOVED;
	k->ended = head.order == ORDER_END;
	(void)!reply(k, rc < 0 ? err.no : 0, rc < 0 ? err.text : "");
	return head.order != ORDER_END;
gone:
	close(steal_fd(&k->control));
	return k->released;
}

/* Waits for @ms, the end of the session or an order; false: it is over. */
static bool wait_for_news(struct keeper *k, int ms)
{
	struct pollfd p[] = {{.fd = k->control, .events = POLLIN}, {.fd = k->over, .events = POLLIN}};

	while (poll(p, ARRAY_SIZE(p), ms) < 0 && errno == EINTR)
		;
	if (p[0].revents && !obey(k))
		return false;
	if (p[1].revents)
		end_session(k);
	return true;
}

/* Until the destination says that it needs nothing more, or does not want us any more. */
static void keep_connected(struct keeper *k)
{
	uint64_t alone_ms = 0, delay = RETRY_FIRST_MS;
	unsigned int refused_times = 0;
	struct err err;
	bool refused;

	for (;;) {
		while (k->serving) {
			if (!wait_for_news(k, -1))
				return;
			alone_ms = clock_ms();
			delay = RETRY_FIRST_MS;
		}
		if (k->bye)
			return;
		if (connect_lane(k, &refused, &err) == 0) {
			refused_times = 0;
			continue;
		}
		log_info("%s; next attempt in %llu ms", err.text, (unsigned long long)delay);
		refused_times = refused ? refused_times + 1 : 0;
		if (refused_times == REFUSED_MOST || clock_ms() - alone_ms > ALONE_MS ||
		    !wait_for_news(k, (int)delay))
			return;
		delay = MIN(delay * 2, (uint64_t)RETRY_MOST_MS);
	}
}

/* Only the control socket and the view are ours. */
static void leave_driver(struct keeper *k)
{
	static const int defaults[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD};
	int fds[] = {k->control, k->view.ns};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	if (null >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1)
		(void)!dup2(null, 2);
	io_close_others(fds, ARRAY_SIZE(fds));
	setsid();
	if (chdir("/") < 0)
		log_debug("chdir: /");
	for (size_t i = 0; i < ARRAY_SIZE(defaults); i++)
		signal(defaults[i], SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	umask(0); /* the other side has applied that of its program */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "ferry-files");
}

/* The tree has come from elsewhere, and gone on; all that was its own is there. */
static void let_go(struct keeper *k)
{
	struct mntns_way way;
	struct err err;

	if (view_enter(&k->view, &way, &err) < 0 || view_let_go(&k->view, &err) < 0)
		log_error("%s", err.text);
	mntns_forget(&way);
}

__attribute__((noreturn)) static void keeper_main(struct keeper *k)
{
	struct serve_policy nothing = {.hello = {.version = LF_VERSION, .root = "/"}};
	const struct lf_creds own = {.uid = geteuid(), .gid = getegid(), .reads_all = true};
	struct err err = {0};
	bool refused;

	leave_driver(k);
	k->over = eventfd(0, EFD_CLOEXEC);
	atomic_store(&k->policy, &nothing);
	/* who asks now must hear of all, if this is not the first process */
	if (!vec_push(&nothing.hello.creds, own) || k->over < 0)
		err_nomem(&err);
	else if (k->given && take_policy(k, k->given, k->given_bytes, &err) < 0)
		log_error("%s", err.text);
	else if (connect_lane(k, &refused, &err) == 0 && reply(k, 0, "") == 0)
		keep_connected(k);
	/* it may have needed nothing more before the driver knew that it runs there */
	while (k->bye && !k->moved && k->control >= 0 && obey(k))
		;
	if (k->bye && k->moved)
		let_go(k);
	if (k->given_fd >= 0 && (k->bye || k->ended))
		given_remove(k->token);
	if (!k->serving && !k->bye)
		(void)!reply(k, err.no ? err.no : EIO, err.text);
	_exit(0);
}

/* ---- in the driver ---- */

static int hear(struct files_home *h, int timeout_ms, struct err *err)
{
	struct pollfd p = {.fd = h->control, .events = POLLIN};
	struct reply msg;
	int n;

	while ((n = poll(&p, 1, timeout_ms)) < 0 && errno == EINTR)
		;
	if (n == 0)
		return err_set(err, ETIMEDOUT,
			       "lazy files: the process that hands them out is silent");
	if (n < 0 || io_read_full(h->control, &msg, sizeof(msg)) < 0)
		return err_sys(err, "lazy files: the process that hands them out is gone");
	msg.text[sizeof(msg.text) - 1] = '\0';
	return msg.no ? err_set(err, msg.no, "lazy files: %s", msg.text) : 0;
}

static int tell(struct files_home *h, enum order order, const void *data, size_t bytes,
		struct err *err)
{
	struct order_head head = {.order = order, .bytes = (uint32_t)bytes};

	if (bytes > POLICY_BYTES_MAX)
		return err_set(err, E2BIG, "lazy files: the tree has too many files");
	if (io_write_full(h->control, &head, sizeof(head)) < 0 ||
	    io_write_full(h->control, data, bytes) < 0)
		return err_sys(err, "lazy files: the process that hands them out is gone");
	return hear(h, SSH_END_MS + HEARD_MS, err);
}

/* @given: what another has handed out; NULL: that is told later. */
static int start(const struct remote *remote, const char *token, const struct view *view,
		 const struct given *given, bool writes, struct files_home *out, struct err *err)
{
	struct keeper k = {.remote = remote,
			   .token = token,
			   .view = *view,
			   .over = -1,
			   .lane = LANE_NONE,
			   .given = given ? given->data : NULL,
			   .given_bytes = given ? given->bytes : 0,
			   .given_fd = -1,
			   .writes = writes};
	int pair[2], status;
	pid_t middle;

	*out = (struct files_home){.control = -1, .writes = writes};
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "socketpair");
	k.control = pair[1];
	middle = fork();
	if (middle == 0) {
		pid_t pid = fork();

		if (pid == 0)
			keeper_main(&k);
		_exit(pid < 0);
	}
	close(pair[1]);
	out->control = pair[0];
	while (middle > 0 && waitpid(middle, &status, 0) < 0 && errno == EINTR)
		;
	if (middle < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
		files_home_close(out);
		return err_sysno(err, EAGAIN, "cannot fork");
	}
	if (hear(out, HEARD_MS + 2 * SSH_END_MS, err) == 0)
		return 0;
	files_home_close(out);
	return -1;
}

int files_home_start(const struct remote *remote, const char *token, const struct view *view,
		     bool writes, struct files_home *out, struct err *err)
{
	return start(remote, token, view, NULL, writes, out, err);
}

int files_home_again(const struct remote *remote, const struct given *given, struct files_home *out,
		     struct err *err)
{
	if (start(remote, given->token, &VIEW_OURS, given, false, out, err) < 0)
		return -1;
	if (files_home_release(out, given->pid, err) == 0)
		return 0;
	files_home_close(out);
	return -1;
}

int files_home_open(struct files_home *h, pid_t root, const Wire__FileList *list, struct err *err)
{
	struct lf_out out = {0};
	int rc = policy_encode(root, list, h->writes, &out, err);

	if (rc == 0)
		rc = tell(h, ORDER_OPEN, out.data, out.bytes, err);
	lf_out_free(&out);
	return rc;
}

int files_home_release(struct files_home *h, pid_t root, struct err *err)
{
	const int32_t pid = root;

	return tell(h, ORDER_RELEASE, &pid, sizeof(pid), err);
}

void files_home_moved(struct files_home *h)
{
	struct err err;

	if (h->control >= 0 && tell(h, ORDER_MOVED, "", 0, &err) < 0)
		log_warn("%s", err.text);
}

void files_home_end(struct files_home *h)
{
	struct err err;

	if (h->control >= 0 && tell(h, ORDER_END, "", 0, &err) < 0)
		log_debug("%s", err.text);
	files_home_close(h);
}

void files_home_close(struct files_home *h)
{
	if (h->control >= 0)
		close(steal_fd(&h->control));
}

// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "holder"
#include "cmd/holder.h"

#include "base/io.h"
#include "base/log.h"
#include "kernel/proc.h"
#include "migrate/record.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

/*
 * The talk: the command asks, the holder answers, with the state's memfd; then
 * follow the descriptors, some in each message; the command says that it has everything,
 * and the holder ends. Until then the holder has it all, and goes on if the command dies.
 */
#define ASK_MAGIC 0x66727968u
enum { FDS_AT_A_TIME = 200, TALK_MS = 10000, END_MS = 120000 };

enum ask_what { ASK_TAKE = 1, ASK_END = 2, ASK_TAKEN = 3 };

struct ask {
	uint32_t magic, what;
	struct holder_level level;
};

struct answer {
	uint32_t magic;
	uint32_t yes; /* else: not this level */
	uint64_t n_fds;
	uint64_t identity; /* of the level */
};

int holder_level_of(int dirfd, struct holder_level *out, struct err *err)
{
	struct stat st;

	if (fstatat(dirfd, "inventory.img", &st, 0))
		return err_sys(err, "inventory.img");
	*out = (struct holder_level){
		.dev = st.st_dev,
		.ino = st.st_ino,
		.mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000ULL + (uint64_t)st.st_mtim.tv_nsec,
		.bytes = (uint64_t)st.st_size,
	};
	return 0;
}

/* ---- the socket ---- */

/* Where the holder of a tree listens. *dirfd_out keeps the directory open for the address. */
static int address_of(pid_t root, struct sockaddr_un *out, int *dirfd_out, struct err *err)
{
	*dirfd_out = record_directory(err);
	if (*dirfd_out < 0)
		return -1;
	*out = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/tracking-%d", *dirfd_out,
		 root);
	return 0;
}

static int open_socket(struct err *err)
{
	struct timeval limit = {.tv_sec = TALK_MS / 1000};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_sys(err, "cannot make a socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

int holder_listen(pid_t root, struct err *err)
{
	cleanup_close int fd = open_socket(err);
	cleanup_close int dirfd = -1;
	struct sockaddr_un at;

	if (fd < 0 || address_of(root, &at, &dirfd, err))
		return -1;
	unlink(at.sun_path); /* of one that was killed: holder_take has asked */
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || chmod(at.sun_path, 0600) || listen(fd, 4))
		return err_sys(err, "cannot listen for the next command on pid %d", root);
	return steal_fd(&fd);
}

static int send_with(int fd, const void *data, size_t bytes, const int *fds, size_t n)
{
	char control[CMSG_SPACE(FDS_AT_A_TIME * sizeof(int))] = {0};
	struct iovec v = {(void *)data, bytes};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	struct cmsghdr *c = (struct cmsghdr *)control;

	if (n) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)bytes ? 0 : -1;
}

/* The descriptors are added to @fds. */
static int receive_with(int fd, void *data, size_t bytes, precopy_fds *fds)
{
	char control[CMSG_SPACE(FDS_AT_A_TIME * sizeof(int))];
	struct iovec v = {data, bytes};
	struct msghdr m = {.msg_iov = &v,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c;

	for (c = got >= 0 ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int one;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (!vec_push(fds, one))
				close(one);
		}
	}
	return got == (ssize_t)bytes ? 0 : -1;
}

/* ---- the command's side ---- */

static int receive_all(int fd, const struct answer *a, precopy_fds *fds)
{
	uint32_t word;

	while (fds->n < a->n_fds + 1)
		if (receive_with(fd, &word, sizeof(word), fds) || !fds->n)
			return -1;
	return 0;
}

/*
 * Waits until the holder is gone, so that nothing of the tracking is left. (It takes seconds for each
 * gigabyte when it ends the tracking of a tree that runs on: precopy_end.)
 */
static void await_end(int fd)
{
	struct timeval limit = {.tv_sec = END_MS / 1000};
	char byte;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while (recv(fd, &byte, 1, 0) > 0)
		;
}

/* 1: @fds has the state and the tracking; 0: it is of no use, see @why. */
static int talk(int fd, struct holder_level *level, precopy_fds *fds, struct err *why)
{
	struct ask ask = {.magic = ASK_MAGIC, .what = level ? ASK_TAKE : ASK_END};
	struct answer answer;

	if (level)
		ask.level = *level;
	ask.level.identity = 0;
	if (send_with(fd, &ask, sizeof(ask), NULL, 0) ||
	    receive_with(fd, &answer, sizeof(answer), fds) || answer.magic != ASK_MAGIC) {
		err_set(why, EPROTO, "the process that holds the tracking does not answer");
		return 0;
	}
	if (!answer.yes) {
		await_end(fd);
		err_set(why, ESTALE,
			"the last round of this tree did not go to the directory or snapshot that this one builds on");
		return 0;
	}
	if (receive_all(fd, &answer, fds)) {
		err_set(why, EPROTO, "the process that holds the tracking broke off");
		return 0;
	}
	if (level)
		level->identity = answer.identity;
	return 1;
}

static int take_over(int fd, pid_t root, precopy_fds *fds, const struct kind_options *opt,
		     unsigned int timeout_ms, struct precopy **out, struct err *err)
{
	struct ask taken = {.magic = ASK_MAGIC, .what = ASK_TAKEN};

	*out = precopy_unpack(root, opt, timeout_ms, fds->v[0], fds->v + 1, fds->n - 1, err);
	close(fds->v[0]);
	fds->n = 0;
	if (!*out)
		return -1;
	/* Whether it hears us or not, it ends when this connection does. */
	if (send_with(fd, &taken, sizeof(taken), NULL, 0) == 0)
		await_end(fd);
	return 0;
}

int holder_take(pid_t root, struct holder_level *level, const struct kind_options *opt,
		unsigned int timeout_ms, struct precopy **out, struct err *why, struct err *err)
{
	cleanup_close int fd = open_socket(err);
	cleanup_close int dirfd = -1;
	struct sockaddr_un at;
	precopy_fds fds = {0};
	int rc = 0;

	*out = NULL;
	if (fd < 0)
		return -1;
	if (address_of(root, &at, &dirfd, why))
		return 0;
	if (connect(fd, (struct sockaddr *)&at, sizeof(at))) {
		err_set(why, ESRCH, "nobody holds the tracking of pid %d any more", root);
		return 0;
	}
	if (talk(fd, level, &fds, why))
		rc = take_over(fd, root, &fds, opt, timeout_ms, out, err);
	vec_foreach (f, &fds)
		close(*f);
	vec_free(&fds);
	return rc;
}

/* ---- the holder ---- */

struct holder {
	struct precopy *precopy;
	pid_t root;
	struct holder_level level;
	int listener, tree; /* a pidfd */
};

static bool is_allowed(int fd)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static int send_state(int fd, const struct precopy *p, uint64_t identity, struct err *err)
{
	cleanup_close int state = -1;
	struct answer answer = {.magic = ASK_MAGIC, .yes = 1, .identity = identity};
	precopy_fds fds = {0};
	size_t at, n;
	int rc = precopy_pack(p, &state, &fds, err);

	answer.n_fds = fds.n;
	if (rc == 0)
		rc = send_with(fd, &answer, sizeof(answer), &state, 1);
	for (at = 0; at < fds.n && rc == 0; at += n) {
		n = MIN(fds.n - at, (size_t)FDS_AT_A_TIME);
		rc = send_with(fd, &(uint32_t){(uint32_t)n}, sizeof(uint32_t), fds.v + at, n);
	}
	vec_free(&fds);
	return rc;
}

/* Is it what the command builds on? It cannot know the identity. */
static bool same_level(const struct holder_level *ours, struct holder_level theirs)
{
	theirs.identity = ours->identity;
	return memcmp(ours, &theirs, sizeof(theirs)) == 0;
}

/* What a command left the holder to do. */
enum served { GO_ON, END_TRACKING, TAKEN_OVER };

static enum served serve(struct holder *h, int fd)
{
	struct answer no = {.magic = ASK_MAGIC};
	precopy_fds none = {0};
	struct err err;
	struct ask ask;

	if (!is_allowed(fd) || receive_with(fd, &ask, sizeof(ask), &none) || ask.magic != ASK_MAGIC)
		return GO_ON;
	if (ask.what != ASK_TAKE || !same_level(&h->level, ask.level)) {
		if (send_with(fd, &no, sizeof(no), NULL, 0))
			log_debug("the command has gone");
		return ask.what == ASK_TAKE || ask.what == ASK_END ? END_TRACKING : GO_ON;
	}
	if (send_state(fd, h->precopy, h->level.identity, &err))
		return GO_ON;
	return receive_with(fd, &ask, sizeof(ask), &none) == 0 && ask.what == ASK_TAKEN ? TAKEN_OVER :
											  GO_ON;
}

static void end(struct holder *h, bool taken_over)
{
	cleanup_close int dirfd = -1;
	struct sockaddr_un at;
	struct err err;

	if (!h->precopy)
		return;
	if (taken_over)
		precopy_close(h->precopy);
	else
		precopy_end(h->precopy);
	h->precopy = NULL;
	if (address_of(h->root, &at, &dirfd, &err) == 0)
		unlink(at.sun_path);
}

static void hold(struct holder *h, unsigned int timeout_s)
{
	struct pollfd fds[2] = {{.fd = h->listener, .events = POLLIN},
				{.fd = h->tree, .events = POLLIN}};
	struct timespec start, now;
	struct timeval limit = {.tv_sec = TALK_MS / 1000};
	enum served done = GO_ON;

	clock_gettime(CLOCK_BOOTTIME, &start);
	while (done == GO_ON) {
		int n = poll(fds, 2, 1000);

		clock_gettime(CLOCK_BOOTTIME, &now);
		if ((n < 0 && errno != EINTR) || fds[1].revents ||
		    (timeout_s && now.tv_sec - start.tv_sec >= (time_t)timeout_s))
			break;
		if (n > 0 && fds[0].revents) {
			cleanup_close int fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC);

			if (fd < 0)
				continue;
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
			setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
			done = serve(h, fd);
			/* before the command sees our end, no trace of us is left, and the name is free */
			if (done != GO_ON)
				end(h, done == TAKEN_OVER);
		}
	}
	end(h, false);
}

/* Everything but what the holder needs: whoever started the command may wait for the end of its pipes. */
static int close_others(const struct holder *h, struct err *err)
{
	precopy_fds keep = {0};
	proc_pids open_fds = {0};
	int state = -1, rc, null;

	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i <= 2; i++)
		if (dup2(null, i) < 0)
			return err_sys(err, "/dev/null");
	rc = precopy_pack(h->precopy, &state, &keep, err);
	if (rc == 0)
		rc = proc_fds(getpid(), &open_fds, err);
	vec_foreach (fd, &open_fds) {
		bool used = *fd <= 2 || *fd == h->listener || *fd == h->tree;

		vec_foreach (k, &keep)
			used |= *k == *fd;
		if (!used)
			close(*fd);
	}
	vec_free(&open_fds);
	vec_free(&keep);
	return rc;
}

/* The life of the holder. It ends as the process does. */
static _Noreturn void live(struct holder *h, unsigned int timeout_s)
{
	struct err err;
	sigset_t none;

	log_init(-1, LOG_ERROR);
	setsid();
	prctl(PR_SET_NAME, "ferry-holder");
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (close_others(h, &err) == 0 && chdir("/") == 0)
		hold(h, timeout_s);
	_exit(0);
}

int holder_start(struct precopy *p, pid_t root, const struct holder_level *level, int listener,
		 unsigned int timeout_s, struct err *err)
{
	struct holder h = {.precopy = p, .root = root, .level = *level, .listener = listener};
	pid_t pid;

	h.tree = (int)syscall(SYS_pidfd_open, root, 0);
	if (h.tree < 0)
		return err_sys(err, "pid %d: cannot hold its tracking", root);
	pid = fork();
	if (pid == 0)
		live(&h, timeout_s);
	close(h.tree);
	if (pid < 0)
		return err_sys(err, "pid %d: cannot start a process that holds its tracking", root);
	log_info("pid %d holds the tracking", pid);
	return 0;
}

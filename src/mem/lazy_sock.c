// SPDX-License-Identifier: Apache-2.0
#include "mem/lazy_sock.h"

#include "base/io.h"
#include "wire/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define SOCKET_NAME "lazy-pages.socket"
#define FINISH_WORD 0x52535446u
enum { BACKLOG = 10, RECORD_TIMEOUT_S = 10 };

/* The directory by its descriptor: its path may be longer than an address. */
static socklen_t address(int dirfd, struct sockaddr_un *a)
{
	a->sun_family = AF_UNIX;
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
			   (size_t)snprintf(a->sun_path, sizeof(a->sun_path),
					    "/proc/self/fd/%d/" SOCKET_NAME, dirfd));
}

int lazy_sock_listen(int dirfd, struct err *err)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a;
	socklen_t len = address(dirfd, &a);

	unlinkat(dirfd, SOCKET_NAME, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, BACKLOG) < 0)
		return err_sys(err, SOCKET_NAME ": cannot make the socket in the work directory");
	return steal_fd(&fd);
}

void lazy_sock_unlink(int dirfd)
{
	unlinkat(dirfd, SOCKET_NAME, 0);
}

int lazy_sock_connect(int dirfd, struct err *err)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a;
	socklen_t len = address(dirfd, &a);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, len) < 0)
		return err_sys(err,
			       SOCKET_NAME ": cannot connect to the lazy-pages daemon in the work "
					   "directory (start 'ferry lazy-pages' first, with the "
					   "same -W or -D)");
	return steal_fd(&fd);
}

/* ---- sending ---- */

static int send_all(int sock, const void *data, size_t bytes, struct err *err)
{
	ssize_t n = send(sock, data, bytes, MSG_NOSIGNAL);

	if (n == (ssize_t)bytes)
		return 0;
	return err_sysno(err, n < 0 ? errno : EPIPE, "cannot talk to the lazy-pages daemon");
}

int lazy_sock_announce(int sock, pid_t vpid, int uffd, struct err *err)
{
	int32_t word = uffd < 0 ? -vpid : vpid;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	char zero = 0;
	struct iovec iov = {&zero, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};

	if (send_all(sock, &word, sizeof(word), err) < 0)
		return -1;
	if (uffd < 0)
		return 0;
	control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
					.cmsg_level = SOL_SOCKET,
					.cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.head), &uffd, sizeof(uffd));
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) != 1)
		return err_sys(err, "cannot hand a userfaultfd to the lazy-pages daemon");
	return 0;
}

int lazy_sock_finish(int sock, struct err *err)
{
	uint32_t word = FINISH_WORD;

	return send_all(sock, &word, sizeof(word), err);
}

/* ---- receiving ---- */

static int set_timeout(int sock, int seconds)
{
	struct timeval t = {.tv_sec = seconds};

	return setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

static int check_uffd(int fd, struct err *err)
{
	char target[64];
	int flags = fcntl(fd, F_GETFL);

	if (io_readlinkf(target, sizeof(target), "/proc/self/fd/%d", fd) < 0 ||
	    strcmp(target, "anon_inode:[userfaultfd]") != 0)
		return err_set(err, EPROTO,
			       "the restore sent a descriptor that is not a userfaultfd");
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(err, "cannot use the userfaultfd of a task");
	return 0;
}

/* The byte with the descriptor. */
static int recv_fd(int sock, struct err *err)
{
	cleanup_close int fd = local_receive_fd(sock, err);

	if (fd < 0 && err->no == ENODATA)
		return err_set(err, EPROTO, "the restore sent no userfaultfd with the pid of a task");
	if (fd < 0)
		return err_wrap(err, "the restore did not send the userfaultfd of a task");
	return check_uffd(fd, err) < 0 ? -1 : steal_fd(&fd);
}

static int recv_word(int sock, int32_t *word, struct err *err)
{
	size_t got = 0;
	ssize_t n;

	set_timeout(sock, 0);
	while (got < sizeof(*word)) {
		n = recv(sock, (char *)word + got, sizeof(*word) - got, 0);
		if (n < 0 && errno == EINTR && !got)
			return err_sys(err, "waiting for the restore");
		if (n < 0 && errno != EINTR)
			return err_sys(err, "cannot hear from the restore");
		if (n == 0)
			return got ? err_set(err, EPROTO, "the restore ended within a record") : 0;
		got += n > 0 ? (size_t)n : 0;
		set_timeout(sock, RECORD_TIMEOUT_S);
	}
	return 1;
}

int lazy_sock_recv(int sock, bool finish, struct lazy_sock_msg *out, struct err *err)
{
	int32_t word;
	int r = recv_word(sock, &word, err);

	*out = (struct lazy_sock_msg){.kind = LAZY_SOCK_EOF, .uffd = -1};
	if (r <= 0)
		return r;
	if (finish) {
		out->kind = LAZY_SOCK_FINISH;
		return (uint32_t)word == FINISH_WORD ?
			       0 :
			       err_set(err, EPROTO,
				       "the restore announces more tasks than there are");
	}
	if (word == 0 || word == INT32_MIN || (uint32_t)word == FINISH_WORD)
		return err_set(err, EPROTO, "the restore says 0x%x, which is no pid", (uint32_t)word);
	out->kind = word > 0 ? LAZY_SOCK_TASK : LAZY_SOCK_NONE;
	out->vpid = word > 0 ? word : -word;
	if (word > 0) {
		out->uffd = recv_fd(sock, err);
		if (out->uffd < 0)
			return -1;
	}
	return 0;
}

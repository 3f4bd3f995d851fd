// SPDX-License-Identifier: Apache-2.0
/*
 * A path of a socket has 108 bytes at most; by way of /proc/self/fd the directory may be as
 * deep as it likes.
 */
#include "wire/local.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { BACKLOG = 64 };

static int address_of(int dirfd, const char *name, struct sockaddr_un *out, struct err *err)
{
	int n;

	*out = (struct sockaddr_un){.sun_family = AF_UNIX};
	n = snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s", dirfd, name);
	return n < (int)sizeof(out->sun_path) ?
		       0 :
		       err_set(err, ENAMETOOLONG, "socket %.80s: the name is too long", name);
}

static int new_socket(int flags, struct err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	return fd < 0 ? err_sys(err, "cannot make a socket") : fd;
}

int local_connect(int dirfd, const char *name, struct err *err)
{
	cleanup_close int fd = new_socket(0, err);
	struct sockaddr_un addr;

	if (fd < 0 || address_of(dirfd, name, &addr, err))
		return -1;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return err_sys(err, "%s in the work directory: nobody listens", name);
	return steal_fd(&fd);
}

int local_listen(int dirfd, const char *name, struct err *err)
{
	cleanup_close int fd = new_socket(SOCK_NONBLOCK, err);
	cleanup_close int other = -1;
	struct sockaddr_un addr;
	struct err ignored;

	if (fd < 0 || address_of(dirfd, name, &addr, err))
		return -1;
	other = local_connect(dirfd, name, &ignored);
	if (other >= 0)
		return err_set(err, EADDRINUSE,
			       "%s in the work directory: somebody listens there already", name);
	if (unlinkat(dirfd, name, 0) && errno != ENOENT)
		return err_sys(err, "%s in the work directory: cannot remove the old socket", name);
	/* nobody else can connect from the first moment on */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    fchmodat(dirfd, name, 0600, 0) || listen(fd, BACKLOG))
		return err_sys(err, "%s in the work directory: cannot listen", name);
	return steal_fd(&fd);
}

/* The first descriptor of a control message; the others are closed. */
static int first_fd(const struct cmsghdr *c)
{
	size_t many = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int fd = -1, got;

	for (size_t i = 0; i < many; i++) {
		memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
		if (fd >= 0)
			close(got);
		else
			fd = got;
	}
	return fd;
}

int local_receive_fd(int sock, struct err *err)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(8 * sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n == 1 ? CMSG_FIRSTHDR(&msg) : NULL;
	int fd = -1;

	if (n < 0)
		return err_sys(err, "cannot receive a descriptor");
	if (n == 0)
		return err_set(err, EPIPE, "the connection ends where a descriptor should come");
	/* of descriptors there is one control message at most: unix(7) */
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		fd = first_fd(c);
	return fd >= 0 ? fd : err_set(err, ENODATA, "a byte came without its descriptor");
}

int local_check_peer(int fd, struct err *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		return err_sys(err, "cannot ask who is at the other end");
	if (peer.uid != geteuid() && peer.uid != 0)
		return err_set(err, EACCES, "pid %d of user %u may not connect", peer.pid, peer.uid);
	return 0;
}

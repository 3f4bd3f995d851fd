// SPDX-License-Identifier: Apache-2.0
#include "store/incoming.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

enum { MODE = 0644 };

static int open_hidden(int dirfd, struct incoming *out)
{
	static atomic_uint last;

	snprintf(out->hidden, sizeof(out->hidden), ".incoming-%d-%u", getpid(),
		 atomic_fetch_add(&last, 1));
	return openat(dirfd, out->hidden, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, MODE);
}

int incoming_open(int dirfd, struct incoming *out, struct err *err)
{
	*out = (struct incoming){.fd = openat(dirfd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, MODE)};
	if (out->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT))
		out->fd = open_hidden(dirfd, out);
	return out->fd < 0 ? err_sys(err, "cannot make a new image") : 0;
}

static int give_name(const struct incoming *f, int dirfd, const char *name)
{
	char path[32];

	if (f->hidden[0])
		return renameat(dirfd, f->hidden, dirfd, name);
	if (unlinkat(dirfd, name, 0) && errno != ENOENT)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	return linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW);
}

int incoming_publish(struct incoming *f, int dirfd, const char *name, struct err *err)
{
	if (give_name(f, dirfd, name)) {
		err_sys(err, "%s: cannot give the image its name", name);
		incoming_discard(f, dirfd);
		return -1;
	}
	/* a full disk may show only here (NFS, quotas) */
	if (close(steal_fd(&f->fd)))
		return err_sys(err, "%s: cannot write the image", name);
	return 0;
}

void incoming_discard(struct incoming *f, int dirfd)
{
	if (f->fd < 0)
		return;
	if (f->hidden[0])
		unlinkat(dirfd, f->hidden, 0);
	close(steal_fd(&f->fd));
}

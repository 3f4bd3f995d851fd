// SPDX-License-Identifier: Apache-2.0
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int io_read_full(int fd, void *buf, size_t len)
{
	char *p = buf;
	ssize_t n;

	while (len) {
		n = read(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EPIPE;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int io_write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;
	ssize_t n;

	while (len) {
		n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int io_pread_full(int fd, void *buf, size_t len, off_t off)
{
	char *p = buf;
	ssize_t n;

	while (len) {
		n = pread(fd, p, len, off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EPIPE;
		if (n <= 0)
			return -1;
		p += n;
		off += n;
		len -= (size_t)n;
	}
	return 0;
}

int io_pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
	const char *p = buf;
	ssize_t n;

	while (len) {
		n = pwrite(fd, p, len, off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return -1;
		p += n;
		off += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Formats a path into buf; -1 with ENAMETOOLONG. */
static int vpath(char *buf, size_t size, const char *fmt, va_list ap)
{
	int n = vsnprintf(buf, size, fmt, ap);

	if (n < 0 || (size_t)n >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return 0;
}

int io_openf(int flags, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vpath(path, sizeof(path), fmt, ap);
	va_end(ap);
	return rc ? -1 : open(path, flags | O_CLOEXEC, 0644);
}

static int read_all(int fd, char **text_out, size_t *len_out)
{
	size_t cap = 4096, n = 0;
	cleanup_free char *buf = malloc(cap);
	char *bigger;
	ssize_t r;

	while (buf) {
		r = read(fd, buf + n, cap - n - 1);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -1;
		n += (size_t)r;
		if (r == 0)
			break;
		if (cap - n - 1 == 0) {
			bigger = realloc(buf, cap * 2);
			if (!bigger)
				return -1;
			buf = bigger;
			cap *= 2;
		}
	}
	if (!buf)
		return -1;
	buf[n] = 0;
	if (len_out)
		*len_out = n;
	*text_out = steal_ptr(&buf);
	return 0;
}

int io_read_file(int dirfd, const char *path, char **text_out, size_t *len_out)
{
	cleanup_close int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);

	*text_out = NULL;
	return fd < 0 ? -1 : read_all(fd, text_out, len_out);
}

int io_read_filef(char **text_out, size_t *len_out, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int rc;

	*text_out = NULL;
	va_start(ap, fmt);
	rc = vpath(path, sizeof(path), fmt, ap);
	va_end(ap);
	return rc ? -1 : io_read_file(AT_FDCWD, path, text_out, len_out);
}

int io_readlinkf(char *buf, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	ssize_t n;
	int rc;

	va_start(ap, fmt);
	rc = vpath(path, sizeof(path), fmt, ap);
	va_end(ap);
	if (rc)
		return -1;
	n = readlink(path, buf, size);
	if (n < 0)
		return -1;
	if ((size_t)n >= size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	buf[n] = 0;
	return 0;
}

int io_write_textf(const char *text, const char *fmt, ...)
{
	cleanup_close int fd = -1;
	char path[PATH_MAX];
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vpath(path, sizeof(path), fmt, ap);
	va_end(ap);
	if (rc)
		return -1;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -1 : io_write_full(fd, text, strlen(text));
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

void io_close_others(int *fds, size_t n)
{
	unsigned int from = 3;

	qsort(fds, n, sizeof(*fds), by_number);
	for (size_t i = 0; i < n; i++) {
		if (fds[i] > (int)from)
			syscall(SYS_close_range, from, (unsigned int)fds[i] - 1, 0);
		from = MAX(from, (unsigned int)fds[i] + 1);
	}
	syscall(SYS_close_range, from, ~0u, 0);
}

int io_own_directory(const char *path, mode_t others, struct err *err)
{
	cleanup_close int fd = -1;
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, "%.200s: cannot make it", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%.200s: cannot open the directory", path);
	if (st.st_uid != geteuid() || st.st_mode & others)
		return err_set(err, EPERM,
			       "%.200s belongs to user %u with the mode %o, and should be ours alone: "
			       "remove it",
			       path, st.st_uid, st.st_mode & 07777);
	return steal_fd(&fd);
}

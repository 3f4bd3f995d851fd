// SPDX-License-Identifier: Apache-2.0
/*
 * One write per event to a file opened for appending: lines of several processes do not mix
 * (write(2), O_APPEND).
 */
#include "base/timeline.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <time.h>

static int timeline_fd = -1;

static void write_line(const char *fmt, ...) printf_like(1, 2);

static void write_line(const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	/* a picture with a gap is no reason to fail */
	if (n > 0 && n < (int)sizeof(line))
		(void)!write(timeline_fd, line, (size_t)n);
}

int timeline_open(const char *path, const char *who, struct err *err)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd >= 0 && write(fd, "[\n", 2) != 2)
			return err_sys(err, "--timeline %.200s: cannot write", path);
		if (fd < 0 && errno == EEXIST)
			fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	}
	if (fd < 0)
		return err_sys(err, "--timeline %.200s: cannot open", path);
	timeline_fd = fd;
	write_line("{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"args\":{\"name\":\"%s\"}},\n",
		   getpid(), who);
	return 0;
}

uint64_t timeline_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void timeline_span(const char *name, uint64_t start)
{
	if (timeline_fd < 0)
		return;
	write_line("{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%" PRIu64
		   ",\"dur\":%" PRIu64 "},\n",
		   name, getpid(), gettid(), start, timeline_now() - start);
}

void timeline_mark(const char *name)
{
	if (timeline_fd < 0)
		return;
	write_line("{\"name\":\"%s\",\"ph\":\"i\",\"s\":\"t\",\"pid\":%d,\"tid\":%d,\"ts\":%" PRIu64
		   "},\n",
		   name, getpid(), gettid(), timeline_now());
}

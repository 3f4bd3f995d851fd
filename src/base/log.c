// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <time.h>

static struct {
	int fd;
	enum log_level level;
	struct timespec start;
} sink = {.fd = 2, .level = LOG_WARN};

void log_init(int fd, enum log_level level)
{
	struct timespec real;

	sink.fd = fd;
	sink.level = level;
	clock_gettime(CLOCK_MONOTONIC, &sink.start);
	clock_gettime(CLOCK_REALTIME, &real);
	/* so that the logs of two hosts can be laid beside each other */
	log_write(LOG_DEBUG, "log", "the real time is %lld.%06ld s", (long long)real.tv_sec,
		  real.tv_nsec / 1000);
}

enum log_level log_get_level(void)
{
	return sink.level;
}

void log_write(enum log_level level, const char *module, const char *fmt, ...)
{
	static const char *const tag[] = {"error", "warning", "info", "debug"};
	int saved = errno, n;
	struct timespec now;
	char line[1400];
	va_list ap;
	double t;

	if (level > sink.level)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	t = (double)(now.tv_sec - sink.start.tv_sec) +
	    (double)(now.tv_nsec - sink.start.tv_nsec) / 1e9;
	n = snprintf(line, sizeof(line), "%10.6f %s %s: ", t, tag[level], module);
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (write(sink.fd, line, (size_t)n) < 0)
		(void)0; /* a log that cannot be written must not stop the work */
	errno = saved;
}

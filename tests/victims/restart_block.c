// SPDX-License-Identifier: Apache-2.0
// Calls that the kernel restarts with the time that is left (the restart block): none ends early.
#include "restart.h"
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t start_ns(void)
{
	return victim_now_ns();
}

static void check_end(const struct restart_case *self, int64_t start, long ret, int err, int want)
{
	int64_t slept_ms = (victim_now_ns() - start) / 1000000;

	CHECK(want ? ret == -1 && err == want : ret == 0, "%s returned %ld (%s)", self->name, ret,
	      strerror(err));
	CHECK(slept_ms >= RESTART_TIMEOUT_MS, "%s slept only %ld ms", self->name, (long)slept_ms);
}

static struct timespec timeout(void)
{
	return (struct timespec){RESTART_TIMEOUT_MS / 1000, RESTART_TIMEOUT_MS % 1000 * 1000000};
}

static void in_nanosleep(const struct restart_case *self)
{
	int64_t start = start_ns();
	struct timespec ts = timeout(), rest = {-1, -1};
	long ret = syscall(SYS_nanosleep, &ts, &rest);

	check_end(self, start, ret, errno, 0);
}

static void in_nanosleep_without_rest(const struct restart_case *self)
{
	int64_t start = start_ns();
	struct timespec ts = timeout();
	long ret = syscall(SYS_nanosleep, &ts, NULL);

	check_end(self, start, ret, errno, 0);
}

static void in_clock_nanosleep(const struct restart_case *self)
{
	int64_t start = start_ns();
	struct timespec ts = timeout(), rest;
	long ret = syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &ts, &rest);

	check_end(self, start, ret, errno, 0);
}

static void in_poll(const struct restart_case *self)
{
	int64_t start = start_ns();
	long ret = syscall(SYS_poll, NULL, 0, RESTART_TIMEOUT_MS);

	check_end(self, start, ret, errno, 0);
}

static void in_futex(const struct restart_case *self)
{
	static uint32_t word;
	int64_t start = start_ns();
	struct timespec ts = timeout();
	long ret = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);

	check_end(self, start, ret, errno, ETIMEDOUT);
}

static void in_absolute_futex(const struct restart_case *self)
{
	static uint32_t word;
	int64_t start = start_ns();
	struct timespec ts;
	long ret;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += RESTART_TIMEOUT_MS / 1000;
	ret = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &ts, NULL,
		      FUTEX_BITSET_MATCH_ANY);
	check_end(self, start, ret, errno, ETIMEDOUT);
}

// A sleeper without a timeout next to the others: poll for ever, until the pipe has something.
static int pipe_fds[2];

static void in_endless_poll(const struct restart_case *self)
{
	struct pollfd pfd = {pipe_fds[0], POLLIN, 0};
	long ret = syscall(SYS_poll, &pfd, 1, -1);

	CHECK(ret == 1, "%s returned %ld (%s)", self->name, ret, strerror(errno));
}

static void release_poll(const struct restart_case *self)
{
	MUST(write(pipe_fds[1], "x", 1));
}

int main(int argc, char **argv)
{
	static const struct restart_case cases[] = {
		{"nanosleep", in_nanosleep, NULL},
		{"nanosleep without rest", in_nanosleep_without_rest, NULL},
		{"clock_nanosleep", in_clock_nanosleep, NULL},
		{"poll", in_poll, NULL},
		{"futex with timeout", in_futex, NULL},
		{"futex until a time", in_absolute_futex, NULL},
		{"endless poll", in_endless_poll, release_poll},
	};

	victim_start(argc, argv);
	MUST(pipe(pipe_fds));
	restart_run(cases, ARRAY_SIZE(cases));
}

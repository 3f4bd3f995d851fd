// SPDX-License-Identifier: Apache-2.0
// Calls that the kernel simply starts again: without timeout, with an absolute one, or with one
// that the kernel updates in place.
#include "restart.h"
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int read_pipe[2], poll_pipe[2], select_pipe[2], full_pipe[2];
static uint32_t futex_word;
static pid_t child;

static void in_read(const struct restart_case *self)
{
	char byte = 0;
	ssize_t ret = read(read_pipe[0], &byte, 1);

	CHECK(ret == 1 && byte == 'r', "read returned %zd (%s)", ret, strerror(errno));
}

static void release_read(const struct restart_case *self)
{
	MUST(write(read_pipe[1], "r", 1));
}

static void in_write(const struct restart_case *self)
{
	ssize_t ret = write(full_pipe[1], "w", 1);

	CHECK(ret == 1, "write returned %zd (%s)", ret, strerror(errno));
}

static void release_write(const struct restart_case *self)
{
	char page[VICTIM_PAGE];

	MUST(read(full_pipe[0], page, sizeof(page)));
}

static void in_futex(const struct restart_case *self)
{
	long ret = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);

	CHECK(ret == 0, "futex returned %ld (%s)", ret, strerror(errno));
}

static void release_futex(const struct restart_case *self)
{
	futex_word = 1;
	CHECK(syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 1,
	      "nobody waits in the futex");
}

static void in_ppoll(const struct restart_case *self)
{
	struct pollfd pfd = {poll_pipe[0], POLLIN, 0};
	struct timespec ts = {3600, 0};
	long ret = syscall(SYS_ppoll, &pfd, 1, &ts, NULL, 8);

	CHECK(ret == 1, "ppoll returned %ld (%s)", ret, strerror(errno));
}

static void release_ppoll(const struct restart_case *self)
{
	MUST(write(poll_pipe[1], "p", 1));
}

static void in_select(const struct restart_case *self)
{
	struct timeval tv = {3600, 0};
	fd_set set;
	int ret;

	FD_ZERO(&set);
	FD_SET(select_pipe[0], &set);
	ret = syscall(SYS_select, select_pipe[0] + 1, &set, NULL, NULL, &tv);
	CHECK(ret == 1, "select returned %d (%s)", ret, strerror(errno));
}

static void release_select(const struct restart_case *self)
{
	MUST(write(select_pipe[1], "s", 1));
}

static void check_slept(const struct restart_case *self, int64_t start, long ret, int want_errno)
{
	int err = errno;
	int64_t slept_ms = (victim_now_ns() - start) / 1000000;

	CHECK(want_errno ? ret == -1 && err == want_errno : ret == 0, "%s returned %ld (%s)",
	      self->name, ret, strerror(err));
	CHECK(slept_ms >= RESTART_TIMEOUT_MS, "%s slept only %ld ms", self->name, (long)slept_ms);
}

static void in_short_select(const struct restart_case *self)
{
	int64_t start = victim_now_ns();
	struct timeval tv = {RESTART_TIMEOUT_MS / 1000, 0};

	check_slept(self, start, syscall(SYS_select, 0, NULL, NULL, NULL, &tv), 0);
}

static struct timespec absolute(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += RESTART_TIMEOUT_MS / 1000;
	return ts;
}

static void in_absolute_sleep(const struct restart_case *self)
{
	int64_t start = victim_now_ns();
	struct timespec ts = absolute();

	check_slept(self, start,
		    syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL), 0);
}

static void in_wait4(const struct restart_case *self)
{
	int status;
	pid_t ret = syscall(SYS_wait4, child, &status, 0, NULL);

	CHECK(ret == child && status == SIGTERM, "wait4 returned %d (%s) status %#x", ret,
	      strerror(errno), status);
}

static void release_wait4(const struct restart_case *self)
{
	kill(child, SIGTERM);
}

static void sleeping_child(void *arg)
{
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	static const struct restart_case cases[] = {
		{"read", in_read, release_read},
		{"write", in_write, release_write},
		{"futex", in_futex, release_futex},
		{"ppoll", in_ppoll, release_ppoll},
		{"select", in_select, release_select},
		{"select with timeout", in_short_select, NULL},
		{"clock_nanosleep absolute", in_absolute_sleep, NULL},
		{"wait4", in_wait4, release_wait4},
	};
	char page[VICTIM_PAGE] = "";

	victim_start(argc, argv);
	MUST(pipe(read_pipe));
	MUST(pipe(poll_pipe));
	MUST(pipe(select_pipe));
	MUST(pipe(full_pipe));
	for (int i = 0; i < 16; i++)
		MUST(write(full_pipe[1], page, sizeof(page)));
	child = victim_fork(sleeping_child, NULL);
	restart_run(cases, ARRAY_SIZE(cases));
}

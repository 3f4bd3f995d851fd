// SPDX-License-Identifier: Apache-2.0
// Calls that the kernel ends with EINTR even when no handler has run (see signal(7)). No signal was
// sent here: the program must not learn that it was stopped.
#include "restart.h"
#include "victim.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

static int epoll_pipe[2], epoll_fd, empty_epoll_fd;

static void in_epoll(const struct restart_case *self)
{
	struct epoll_event event = {0};
	long ret = syscall(SYS_epoll_wait, epoll_fd, &event, 1, -1);

	CHECK(ret == 1 && event.data.u64 == 77, "epoll_wait returned %ld (%s)", ret, strerror(errno));
}

static void release_epoll(const struct restart_case *self)
{
	MUST(write(epoll_pipe[1], "e", 1));
}

static void in_epoll_pwait(const struct restart_case *self)
{
	int64_t start = victim_now_ns();
	struct epoll_event event;
	long ret = syscall(SYS_epoll_pwait, empty_epoll_fd, &event, 1, RESTART_TIMEOUT_MS, NULL, 8);

	CHECK(ret == 0, "epoll_pwait returned %ld (%s)", ret, strerror(errno));
	CHECK(victim_now_ns() - start >= RESTART_TIMEOUT_MS * 1000000, "epoll_pwait ended early");
}

static void in_sigwait(const struct restart_case *self)
{
	sigset_t set;
	siginfo_t info;
	long ret;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ret = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8);
	CHECK(ret == SIGUSR1, "sigtimedwait returned %ld (%s)", ret, strerror(errno));
}

static void release_sigwait(const struct restart_case *self)
{
	kill(getpid(), SIGUSR1);
}

int main(int argc, char **argv)
{
	static const struct restart_case cases[] = {
		{"epoll_wait", in_epoll, release_epoll},
		{"epoll_pwait", in_epoll_pwait, NULL},
		{"sigtimedwait", in_sigwait, release_sigwait},
	};
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};
	sigset_t set;

	victim_start(argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	MUST(pipe(epoll_pipe));
	epoll_fd = MUST(epoll_create1(0));
	empty_epoll_fd = MUST(epoll_create1(0));
	MUST(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, epoll_pipe[0], &event));
	restart_run(cases, ARRAY_SIZE(cases));
}

// SPDX-License-Identifier: Apache-2.0
// Blocked signals that wait in the process's queue and in two threads' queues, with all their
// siginfo and, for real-time signals, in their order.
#include "victim.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int stage;
static volatile pid_t other_tid;

static void queue_to_process(int sig, int code, int value)
{
	siginfo_t info = {.si_signo = sig, .si_code = code};

	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_int = value;
	MUST(syscall(SYS_rt_sigqueueinfo, getpid(), sig, &info));
}

static void queue_to_thread(pid_t tid, int sig, int value)
{
	siginfo_t info = {.si_signo = sig, .si_code = SI_QUEUE};

	info.si_pid = getpid();
	info.si_uid = 54321;
	info.si_value.sival_int = value;
	MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, sig, &info));
}

static void expect(int sig, int code, int value)
{
	struct timespec now = {0};
	siginfo_t info = {0};
	sigset_t set;
	int got;

	sigemptyset(&set);
	sigaddset(&set, sig);
	// glibc's wrapper hides SI_TKILL.
	got = syscall(SYS_rt_sigtimedwait, &set, &info, &now, 8);
	CHECK(got == sig, "signal %d is not pending: %s", sig, strerror(errno));
	CHECK(info.si_code == code, "signal %d: code was %d, is %d", sig, code, info.si_code);
	CHECK(info.si_pid == getpid(), "signal %d: sender was %d, is %d", sig, getpid(), info.si_pid);
	if (code == SI_QUEUE || code < SI_TKILL)
		CHECK(info.si_value.sival_int == value, "signal %d: value was %d, is %d", sig,
		      value, info.si_value.sival_int);
}

static void expect_none(void)
{
	struct timespec now = {0};
	sigset_t set;
	int got;

	sigfillset(&set);
	got = sigtimedwait(&set, NULL, &now);
	CHECK(got < 0, "signal %d too many is pending", got);
}

static void *other_thread(void *arg)
{
	other_tid = syscall(SYS_gettid);
	while (stage < 1)
		victim_sleep_ms(2);
	expect(SIGUSR2, SI_TKILL, 0);
	expect(SIGRTMIN + 5, SI_QUEUE, 71);
	expect(SIGRTMIN + 5, SI_QUEUE, 72);
	expect(SIGRTMIN + 5, SI_QUEUE, 73);
	stage = 2;
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	sigset_t set;

	victim_start(argc, argv);
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	CHECK(pthread_create(&thread, NULL, other_thread, NULL) == 0, "pthread_create");
	while (!other_tid)
		victim_sleep_ms(1);
	MUST(kill(getpid(), SIGUSR1));
	for (int i = 0; i < 5; i++)
		queue_to_process(SIGRTMIN + 1, SI_QUEUE, 1000 + i);
	queue_to_process(SIGRTMIN + 2, -77, 5);
	MUST(syscall(SYS_tgkill, getpid(), other_tid, SIGUSR2));
	for (int i = 0; i < 3; i++)
		queue_to_thread(other_tid, SIGRTMIN + 5, 71 + i);
	queue_to_thread(getpid(), SIGRTMIN + 6, 99);
	victim_ready();
	victim_wait();
	stage = 1;
	while (stage < 2)
		victim_sleep_ms(2);
	pthread_join(thread, NULL);
	expect(SIGUSR1, SI_USER, 0);
	for (int i = 0; i < 5; i++)
		expect(SIGRTMIN + 1, SI_QUEUE, 1000 + i);
	expect(SIGRTMIN + 2, -77, 5);
	expect(SIGRTMIN + 6, SI_QUEUE, 99);
	expect_none();
	victim_pass();
}

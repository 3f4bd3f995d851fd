// SPDX-License-Identifier: Apache-2.0
// POSIX timers: ids with gaps, clocks, all notification types, armed, disarmed and ticking ones.
#include "victim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TIMERS 8

struct timer {
	clockid_t clock;
	int notify, sig;
	uintptr_t value;
	long first_s, interval_ns;
};

static const struct timer timers[TIMERS] = {
	{CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, 0xabcdef0123, 5000, 8},
	{CLOCK_REALTIME, SIGEV_NONE, 0, 1, 6000, 0},
	{CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, 2, 0, 0}, // deleted: a gap
	{CLOCK_REALTIME, SIGEV_SIGNAL, 2, 3, 0, 0},  // disarmed
	{CLOCK_MONOTONIC, SIGEV_THREAD_ID, 3, 4, 7000, 999999999},
	{CLOCK_BOOTTIME, SIGEV_SIGNAL, 4, 5, 8000, 0},
	{CLOCK_MONOTONIC, SIGEV_SIGNAL, 5, 6, 0, 30000000}, // ticks
	{CLOCK_MONOTONIC, SIGEV_NONE, 0, 7, 9000, 0},
};

static int ids[TIMERS];
static volatile int ticks;
static volatile uintptr_t tick_value;

static void on_tick(int sig, siginfo_t *info, void *context)
{
	ticks++;
	tick_value = (uintptr_t)info->si_value.sival_ptr;
}

static void create(int nr)
{
	const struct timer *t = &timers[nr];
	struct itimerspec when = {{0, t->interval_ns}, {t->first_s, t->first_s ? 0 : t->interval_ns}};
	struct sigevent ev = {.sigev_notify = t->notify, .sigev_signo = SIGRTMIN + 3 + t->sig};

	ev.sigev_value.sival_ptr = (void *)t->value;
	if (t->notify == SIGEV_THREAD_ID)
		ev._sigev_un._tid = syscall(SYS_gettid);
	MUST(syscall(SYS_timer_create, t->clock, &ev, &ids[nr]));
	MUST(syscall(SYS_timer_settime, ids[nr], 0, &when, NULL));
}

static void compare(int nr)
{
	const struct timer *t = &timers[nr];
	struct itimerspec now;

	MUST(syscall(SYS_timer_gettime, ids[nr], &now));
	CHECK(now.it_interval.tv_sec == 0 && now.it_interval.tv_nsec == t->interval_ns,
	      "timer %d: interval %ld ns, is %ld", nr, t->interval_ns, now.it_interval.tv_nsec);
	if (t->first_s)
		CHECK(now.it_value.tv_sec <= t->first_s && now.it_value.tv_sec > t->first_s - 120,
		      "timer %d: value was %ld s, is %ld s", nr, t->first_s, now.it_value.tv_sec);
	else if (!t->interval_ns)
		CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0, "timer %d is armed", nr);
}

// Everything that the kernel tells about timers, but for a remaining time.
static char *describe(void)
{
	return victim_read_file("/proc/self/timers");
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO};
	char *was, *is;
	int before;

	victim_start(argc, argv);
	sigaction(SIGRTMIN + 8, &sa, NULL);
	for (int i = 0; i < TIMERS; i++)
		create(i);
	MUST(syscall(SYS_timer_delete, ids[2]));
	was = describe();
	while (!ticks)
		victim_sleep_ms(5);
	victim_ready();
	victim_wait();
	is = describe();
	CHECK(strcmp(was, is) == 0, "timers were\n%sare\n%s", was, is);
	for (int i = 0; i < TIMERS; i++)
		if (i != 2)
			compare(i);
	before = ticks;
	for (int64_t end = victim_now_ns() + 5000000000LL; ticks < before + 3;) {
		CHECK(victim_now_ns() < end, "the ticking timer has stopped");
		victim_sleep_ms(20);
	}
	CHECK(tick_value == 6, "the tick's value is %#lx", tick_value);
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// The three interval timers: one ticks, two are far away.
#include "victim.h"

#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

static volatile int ticks;

static void on_tick(int sig)
{
	ticks++;
}

static double seconds(struct timeval tv)
{
	return tv.tv_sec + tv.tv_usec / 1e6;
}

static void compare(int which, double value, double interval)
{
	struct itimerval now;

	MUST(getitimer(which, &now));
	CHECK(seconds(now.it_interval) > interval - 0.01 && seconds(now.it_interval) < interval + 0.01,
	      "timer %d: interval was %f, is %f", which, interval, seconds(now.it_interval));
	CHECK(seconds(now.it_value) <= value + 0.1 && seconds(now.it_value) > value - 120,
	      "timer %d: value was %f, is %f", which, value, seconds(now.it_value));
}

int main(int argc, char **argv)
{
	struct itimerval real = {{0, 50000}, {0, 50000}}, virtual = {{7, 500000}, {5000, 1}},
			 prof = {{0, 0}, {777, 250000}};
	int before;

	victim_start(argc, argv);
	signal(SIGALRM, on_tick);
	MUST(setitimer(ITIMER_VIRTUAL, &virtual, NULL));
	MUST(setitimer(ITIMER_PROF, &prof, NULL));
	MUST(setitimer(ITIMER_REAL, &real, NULL));
	while (!ticks)
		victim_sleep_ms(5);
	victim_ready();
	victim_wait();
	before = ticks;
	compare(ITIMER_VIRTUAL, 5000, 7.5);
	compare(ITIMER_PROF, 777.25, 0);
	for (int64_t end = victim_now_ns() + 5000000000LL; ticks < before + 3;) {
		CHECK(victim_now_ns() < end, "the real timer does not tick any more");
		victim_sleep_ms(20);
	}
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// Clocks read through the vdso, all the time and by pointers found before: monotonic and boot time
// never go back and do not leap, and getcpu works.
#include "victim.h"

#include <pthread.h>
#include <sched.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MAX_LEAP_NS 120000000000LL

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE,
				   CLOCK_MONOTONIC_RAW};
static volatile int done;

static int64_t read_clock(clockid_t id)
{
	struct timespec ts;

	CHECK(clock_gettime(id, &ts) == 0, "clock %d: %s", id, strerror(errno));
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void *watch(void *arg)
{
	int64_t last[ARRAY_SIZE(clocks)];

	for (size_t i = 0; i < ARRAY_SIZE(clocks); i++)
		last[i] = read_clock(clocks[i]);
	while (!done) {
		for (size_t i = 0; i < ARRAY_SIZE(clocks); i++) {
			int64_t now = read_clock(clocks[i]);

			// How far the raw clock is from the adjusted one, which a restore puts in its
			// place, is each machine's own affair: it is only read.
			if (clocks[i] == CLOCK_MONOTONIC_RAW)
				continue;
			CHECK(now >= last[i], "clock %d goes back by %ld ns", clocks[i],
			      (long)(last[i] - now));
			CHECK(now - last[i] < MAX_LEAP_NS, "clock %d leaps by %ld ns", clocks[i],
			      (long)(now - last[i]));
			last[i] = now;
		}
		if (last[0] % 16 == 0)
			victim_sleep_ms(1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	struct timeval tv;
	time_t before = time(NULL);
	unsigned int cpu, node;

	victim_start(argc, argv);
	CHECK(pthread_create(&thread, NULL, watch, NULL) == 0, "pthread_create");
	victim_sleep_ms(20);
	victim_ready();
	victim_wait();
	victim_sleep_ms(20);
	done = 1;
	pthread_join(thread, NULL);
	CHECK(gettimeofday(&tv, NULL) == 0 && tv.tv_sec >= before && tv.tv_sec < before + 120,
	      "gettimeofday is off");
	CHECK(time(NULL) - tv.tv_sec <= 1, "time() is off");
	CHECK(getcpu(&cpu, &node) == 0 && cpu < (unsigned int)sysconf(_SC_NPROCESSORS_CONF),
	      "getcpu says %u", cpu);
	victim_pass();
}

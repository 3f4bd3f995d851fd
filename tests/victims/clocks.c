// SPDX-License-Identifier: Apache-2.0
// Clocks that never run backwards, whoever looks at them: threads that read them all the time through the
// vdso and by system calls.
#include "victim.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	clockid_t id;
	int by_call;
} ways[] = {
	{"CLOCK_MONOTONIC", CLOCK_MONOTONIC, 0},
	{"CLOCK_MONOTONIC by a call", CLOCK_MONOTONIC, 1},
	{"CLOCK_BOOTTIME", CLOCK_BOOTTIME, 0},
};

static volatile int done;

static int64_t read_clock(size_t way)
{
	struct timespec ts;

	if (ways[way].by_call)
		syscall(SYS_clock_gettime, ways[way].id, &ts);
	else
		clock_gettime(ways[way].id, &ts);
	return ts.tv_sec * 1000000000L + ts.tv_nsec;
}

static void *watch(void *arg)
{
	int64_t last[ARRAY_SIZE(ways)] = {0}, now;

	while (!done) {
		for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
			now = read_clock(i);
			CHECK(now >= last[i], "%s went back by %ld ns", ways[i].name,
			      (long)(last[i] - now));
			last[i] = now;
		}
		usleep(200);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	victim_start(argc, argv);
	CHECK(pthread_create(&thread, NULL, watch, NULL) == 0, "pthread_create");
	victim_ready();
	victim_wait();
	victim_sleep_ms(50);
	done = 1;
	pthread_join(thread, NULL);
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// See restart.h.
#include "restart.h"
#include "victim.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_CASES 24

static struct {
	const struct restart_case *what;
	pthread_t thread;
	volatile pid_t tid;
	volatile int returned;
} sleepers[MAX_CASES];

static void *sleeper(void *arg)
{
	int nr = (intptr_t)arg;

	sleepers[nr].tid = syscall(SYS_gettid);
	sleepers[nr].what->sleep(sleepers[nr].what);
	sleepers[nr].returned = 1;
	return NULL;
}

static bool asleep(pid_t tid)
{
	char path[64], *text;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	text = victim_read_file(path);
	return strrchr(text, ')')[2] == 'S';
}

void restart_run(const struct restart_case *cases, int count)
{
	CHECK(count <= MAX_CASES, "too many cases");
	for (int i = 0; i < count; i++) {
		sleepers[i].what = &cases[i];
		CHECK(pthread_create(&sleepers[i].thread, NULL, sleeper, (void *)(intptr_t)i) == 0,
		      "pthread_create");
	}
	for (int i = 0; i < count; i++)
		while (!sleepers[i].tid || !asleep(sleepers[i].tid))
			victim_sleep_ms(1);
	victim_ready();
	victim_wait();
	victim_sleep_ms(100);
	for (int i = 0; i < count; i++) {
		if (!cases[i].release)
			continue;
		CHECK(!sleepers[i].returned, "%s returned early", cases[i].name);
		cases[i].release(&cases[i]);
	}
	for (int i = 0; i < count; i++)
		pthread_join(sleepers[i].thread, NULL);
	victim_pass();
}

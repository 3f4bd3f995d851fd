// SPDX-License-Identifier: Apache-2.0
// I/O priority, timer slack and affinity: they belong to threads, and few dumpers think of them.
#include "victim.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 4
#define IOPRIO_BEST_EFFORT 2
#define IOPRIO_IDLE 3

static volatile int go;
static pthread_barrier_t set_up;

static void check_thread(int nr, int ioprio, long slack)
{
	int ioprio_now = syscall(SYS_ioprio_get, 1, 0);
	long slack_now = prctl(PR_GET_TIMERSLACK);

	CHECK(ioprio_now == ioprio, "thread %d: ioprio was %#x, is %#x", nr, ioprio, ioprio_now);
	CHECK(slack_now == slack, "thread %d: slack was %ld, is %ld", nr, slack, slack_now);
}

// Allow all CPUs but the nr-th, if there is more than one.
static cpu_set_t restrict_cpus(int nr)
{
	cpu_set_t cpus;

	MUST(sched_getaffinity(0, sizeof(cpus), &cpus));
	nr %= CPU_COUNT(&cpus);
	for (int cpu = 0; CPU_COUNT(&cpus) > 1 && cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &cpus) && nr-- == 0) {
			CPU_CLR(cpu, &cpus);
			break;
		}
	}
	MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
	return cpus;
}

static void *thread(void *arg)
{
	cpu_set_t cpus, cpus_now;
	int nr = (intptr_t)arg, ioprio = IOPRIO_BEST_EFFORT << 13 | nr;
	long slack = 60000 + 1000 * nr;

	if (nr == THREADS - 1)
		ioprio = IOPRIO_IDLE << 13;
	MUST(syscall(SYS_ioprio_set, 1, 0, ioprio));
	MUST(prctl(PR_SET_TIMERSLACK, slack));
	cpus = restrict_cpus(nr);
	pthread_barrier_wait(&set_up);
	while (!go)
		victim_sleep_ms(10);
	check_thread(nr, ioprio, slack);
	MUST(sched_getaffinity(0, sizeof(cpus_now), &cpus_now));
	CHECK(CPU_EQUAL(&cpus, &cpus_now), "thread %d: affinity", nr);
	return NULL;
}

// What the first thread gets when it asks for the default; it has that slack then.
static long default_slack(void)
{
	MUST(prctl(PR_SET_TIMERSLACK, 0UL));
	return prctl(PR_GET_TIMERSLACK);
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	long slack, slack_now;

	victim_start(argc, argv);
	slack = default_slack();
	MUST(prctl(PR_SET_TIMERSLACK, 123456UL));
	MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT << 13 | 7));
	pthread_barrier_init(&set_up, NULL, THREADS + 1);
	for (intptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, thread, (void *)i) == 0, "pthread_create");
	pthread_barrier_wait(&set_up);
	victim_ready();
	victim_wait();
	go = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	check_thread(-1, IOPRIO_BEST_EFFORT << 13 | 7, 123456);
	slack_now = default_slack();
	CHECK(slack_now == slack, "the default slack was %ld, is %ld", slack, slack_now);
	victim_pass();
}

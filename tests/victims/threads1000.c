// SPDX-License-Identifier: Apache-2.0
// A thousand threads, each asleep in a futex and each with its own id, TLS and name.
#include "victim.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 1000

static _Thread_local int tls_value;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int started, go;

static void *thread(void *arg)
{
	int nr = (intptr_t)arg;
	pid_t tid = syscall(SYS_gettid);
	char name[16], now[16];

	tls_value = nr * 7;
	snprintf(name, sizeof(name), "worker-%d", nr);
	prctl(PR_SET_NAME, name);
	pthread_mutex_lock(&lock);
	started++;
	pthread_cond_broadcast(&changed);
	while (!go)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	CHECK(tls_value == nr * 7, "thread %d: TLS variable is %d", nr, tls_value);
	CHECK(tid == syscall(SYS_gettid), "thread %d: tid was %d", nr, tid);
	prctl(PR_GET_NAME, now);
	CHECK(strcmp(name, now) == 0, "thread %d: name is %s", nr, now);
	return (void *)(intptr_t)tid;
}

int main(int argc, char **argv)
{
	static pthread_t threads[THREADS];
	pthread_attr_t attr;
	void *ret;

	victim_start(argc, argv);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 32768);
	for (intptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], &attr, thread, (void *)i) == 0, "thread %zd", i);
	pthread_mutex_lock(&lock);
	while (started < THREADS)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	victim_ready();
	victim_wait();
	pthread_mutex_lock(&lock);
	go = 1;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < THREADS; i++) {
		CHECK(pthread_join(threads[i], &ret) == 0, "pthread_join %d", i);
		CHECK(ret, "thread %d has no tid", i);
	}
	victim_pass();
}

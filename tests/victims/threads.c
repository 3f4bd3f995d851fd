// SPDX-License-Identifier: Apache-2.0
// Eight threads, no two alike: TLS and gs base, name, signal mask, alternate stack, robust list,
// clear_child_tid, nice, scheduling policy. (The rest: threads_more.)
#include "victim.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 8
#define ARCH_SET_GS 0x1001
#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004

struct state {
	pid_t tid;
	unsigned long fs, gs, tls_address;
	char name[16];
	sigset_t mask;
	stack_t altstack;
	void *robust_head;
	size_t robust_len;
	int nice, policy, priority;
	int *clear_tid;
};

static _Thread_local unsigned long tls_value;
static volatile int go;
static pthread_barrier_t set_up;
static pthread_mutex_t robust;
static char altstacks[THREADS][16384];

static void get_state(struct state *st)
{
	struct sched_param param;

	memset(st, 0, sizeof(*st));
	st->tid = syscall(SYS_gettid);
	syscall(SYS_arch_prctl, ARCH_GET_FS, &st->fs);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &st->gs);
	st->tls_address = (unsigned long)&tls_value;
	prctl(PR_GET_NAME, st->name);
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &st->mask, 8);
	sigaltstack(NULL, &st->altstack);
	syscall(SYS_get_robust_list, 0, &st->robust_head, &st->robust_len);
	st->nice = getpriority(PRIO_PROCESS, st->tid);
	st->policy = sched_getscheduler(st->tid);
	sched_getparam(st->tid, &param);
	st->priority = param.sched_priority;
	prctl(PR_GET_TID_ADDRESS, &st->clear_tid);
}

#define SAME(field, fmt)                                                \
	CHECK(memcmp(&was->field, &is->field, sizeof(was->field)) == 0, \
	      "thread %d: " #field " was " fmt ", is " fmt, nr, was->field, is->field)

static void compare(int nr, const struct state *was, const struct state *is)
{
	SAME(tid, "%d");
	SAME(fs, "%#lx");
	SAME(gs, "%#lx");
	SAME(tls_address, "%#lx");
	SAME(altstack.ss_sp, "%p");
	SAME(altstack.ss_flags, "%d");
	SAME(altstack.ss_size, "%zu");
	SAME(robust_head, "%p");
	SAME(robust_len, "%zu");
	SAME(nice, "%d");
	SAME(policy, "%d");
	SAME(priority, "%d");
	SAME(clear_tid, "%p");
	CHECK(strcmp(was->name, is->name) == 0, "thread %d: name %s", nr, is->name);
	CHECK(memcmp(&was->mask, &is->mask, 8) == 0, "thread %d: signal mask", nr);
}

static void set_policy(int policy, int priority)
{
	struct sched_param param = {.sched_priority = priority};

	// Real-time policies need a share of the control group: not everywhere.
	if (syscall(SYS_sched_setscheduler, 0, policy, &param) < 0 && errno != EPERM)
		CHECK(false, "sched_setscheduler: %s", strerror(errno));
}

static void make_different(int nr)
{
	char name[16];
	sigset_t mask;
	stack_t ss = {.ss_sp = altstacks[nr], .ss_size = 8192 + 1024 * nr};

	tls_value = 0x1111UL * (nr + 1);
	MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x10000UL * (nr + 1)));
	snprintf(name, sizeof(name), "thr %d)(\\x", nr);
	prctl(PR_SET_NAME, name);
	sigemptyset(&mask);
	sigaddset(&mask, SIGHUP + nr % 4);
	sigaddset(&mask, SIGRTMIN + nr);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (nr % 2)
		MUST(sigaltstack(&ss, NULL));
	MUST(setpriority(PRIO_PROCESS, syscall(SYS_gettid), nr));
	switch (nr) {
	case 2:
		set_policy(SCHED_BATCH, 0);
		break;
	case 3:
		set_policy(SCHED_IDLE, 0);
		break;
	case 4:
		set_policy(SCHED_FIFO, 3);
		break;
	case 5:
		set_policy(SCHED_RR, 5);
		break;
	}
}

static void *thread(void *arg)
{
	int nr = (intptr_t)arg;
	struct state was, is;

	make_different(nr);
	get_state(&was);
	if (nr == 6)
		pthread_mutex_lock(&robust);
	pthread_barrier_wait(&set_up);
	while (!go)
		victim_sleep_ms(10);
	CHECK(tls_value == 0x1111UL * (nr + 1), "thread %d: TLS variable is %#lx", nr, tls_value);
	get_state(&is);
	compare(nr, &was, &is);
	return (void *)(intptr_t)(nr + 100);
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	pthread_mutexattr_t attr;
	void *ret;

	victim_start(argc, argv);
	pthread_barrier_init(&set_up, NULL, THREADS + 1);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	for (intptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, thread, (void *)i) == 0, "pthread_create");
	pthread_barrier_wait(&set_up);
	victim_ready();
	victim_wait();
	go = 1;
	for (intptr_t i = 0; i < THREADS; i++) {
		// Ends only if clear_child_tid is in force.
		CHECK(pthread_join(threads[i], &ret) == 0, "pthread_join");
		CHECK(ret == (void *)(i + 100), "thread %zd returned %p", i, ret);
	}
	// Its owner is dead: only a robust list that the kernel knows can tell.
	CHECK(pthread_mutex_trylock(&robust) == EOWNERDEAD, "robust mutex has no dead owner");
	victim_pass();
}

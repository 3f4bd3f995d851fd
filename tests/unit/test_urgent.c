// SPDX-License-Identifier: Apache-2.0
/*
 * What stands still because of us comes first, and afterwards everything has the priority that it had.
 */
#include "unit.h"

#include "kernel/urgent.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NICE = 3 };

static bool may(void)
{
	struct sched_param p = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_FIFO, &p) < 0)
		return false;
	p.sched_priority = 0;
	return sched_setscheduler(0, SCHED_OTHER, &p) == 0;
}

struct other {
	pthread_t thread;
	atomic_int tid;
	atomic_bool end;
};

static void *other_main(void *arg)
{
	struct other *o = arg;

	atomic_store(&o->tid, (int)syscall(SYS_gettid));
	while (!atomic_load(&o->end))
		usleep(1000);
	return NULL;
}

static void begin_other(struct other *o)
{
	*o = (struct other){0};
	assert_int_equal(pthread_create(&o->thread, NULL, other_main, o), 0);
	while (!atomic_load(&o->tid))
		usleep(1000);
}

static void end_other(struct other *o)
{
	atomic_store(&o->end, true);
	pthread_join(o->thread, NULL);
}

static int policy_of(pid_t tid)
{
	return sched_getscheduler(tid) & ~SCHED_RESET_ON_FORK;
}

static void expect(pid_t tid, int policy, int nice)
{
	assert_int_equal(policy_of(tid), policy);
	assert_int_equal(getpriority(PRIO_PROCESS, (id_t)tid), nice);
}

/* The policy of a child made now. */
static int policy_of_child(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(policy_of(0));
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status);
}

static void brief_work_comes_first(void **state)
{
	struct urgent u = {0};
	struct other before, later;

	(void)state;
	if (!may())
		skip();
	begin_other(&before);
	urgent_begin(&u, URGENT_BRIEF);
	expect(0, SCHED_FIFO, NICE);
	expect(before.tid, SCHED_FIFO, NICE);
	assert_int_equal(policy_of_child(), SCHED_OTHER);
	begin_other(&later);
	assert_int_equal(policy_of(later.tid), SCHED_OTHER);
	urgent_begin(&u, URGENT_BRIEF); /* it is already */
	urgent_end(&u);
	expect(0, SCHED_OTHER, NICE);
	expect(before.tid, SCHED_OTHER, NICE);
	expect(later.tid, SCHED_OTHER, NICE);
	unhurried_thread(later.tid);
	expect(later.tid, SCHED_OTHER, NICE + 5);
	urgent_begin(&u, URGENT_BRIEF); /* and it stays so */
	expect(later.tid, SCHED_FIFO, NICE + 5);
	urgent_end(&u);
	expect(later.tid, SCHED_OTHER, NICE + 5);
	end_other(&before);
	end_other(&later);
}

static void long_work_has_a_nice_value(void **state)
{
	struct urgent u = {0};

	(void)state;
	if (!may())
		skip();
	urgent_begin(&u, URGENT_BUSY);
	expect(0, SCHED_OTHER, -20);
	urgent_end(&u);
	expect(0, SCHED_OTHER, NICE);
	urgent_end(&u);
	expect(0, SCHED_OTHER, NICE);
}

static pid_t one_who_waits(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static void end_one(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void another_task_becomes_urgent(void **state)
{
	struct urgent u = {0};
	pid_t pid;

	(void)state;
	if (!may())
		skip();
	pid = one_who_waits();
	urgent_task(&u, pid); /* we are not */
	expect(pid, SCHED_OTHER, NICE);
	urgent_begin(&u, URGENT_BRIEF);
	urgent_task(&u, pid);
	expect(pid, SCHED_OTHER, -20);
	urgent_end(&u);
	end_one(pid);
}

static void a_task_stays_beside_us(void **state)
{
	struct urgent u = {0};
	cpu_set_t all, one;
	pid_t pid;

	(void)state;
	if (!may())
		skip();
	pid = one_who_waits();
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	urgent_beside(&u, pid); /* we are not urgent */
	urgent_begin(&u, URGENT_BUSY);
	urgent_beside(&u, pid); /* nor is this brief */
	urgent_end(&u);
	assert_int_equal(sched_getaffinity(pid, sizeof(one), &one), 0);
	assert_true(CPU_EQUAL(&one, &all));
	urgent_begin(&u, URGENT_BRIEF);
	urgent_beside(&u, pid);
	assert_int_equal(sched_getaffinity(pid, sizeof(one), &one), 0);
	assert_int_equal(CPU_COUNT(&one), 1);
	assert_int_equal(sched_getaffinity(0, sizeof(one), &one), 0);
	assert_true(CPU_EQUAL(&one, &all)); /* we are as we were */
	urgent_end(&u);
	end_one(pid);
}

/* 0: as it is to be. */
static int outlive(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		urgent_not_here();
		_exit(policy_of(0) != SCHED_OTHER || getpriority(PRIO_PROCESS, 0) != 0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void what_outlives_it_is_as_others(void **state)
{
	struct urgent u = {0};

	(void)state;
	if (!may())
		skip();
	urgent_begin(&u, URGENT_BRIEF);
	assert_int_equal(outlive(), 0);
	urgent_end(&u);
	urgent_begin(&u, URGENT_BUSY);
	assert_int_equal(outlive(), 0);
	urgent_end(&u);
	expect(0, SCHED_OTHER, NICE);
}

/* Whoever runs ferry under a policy of his own has decided. */
static void a_real_time_policy_stays(void **state)
{
	struct sched_param p = {.sched_priority = 7};
	struct urgent u = {0};

	(void)state;
	if (!may())
		skip();
	assert_int_equal(sched_setscheduler(0, SCHED_RR, &p), 0);
	urgent_begin(&u, URGENT_BRIEF);
	assert_int_equal(policy_of(0), SCHED_RR);
	assert_false(u.on);
	urgent_end(&u);
	assert_int_equal(policy_of(0), SCHED_RR);
	p.sched_priority = 0;
	assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &p), 0);
}

/* Refused: all is as it was, in the end too. */
static void without_the_right_nothing_happens(void **state)
{
	struct urgent u = {0};
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		bool same;

		if (setresuid(65534, 65534, 65534) < 0)
			_exit(2);
		urgent_begin(&u, URGENT_BRIEF);
		same = policy_of(0) == SCHED_OTHER && getpriority(PRIO_PROCESS, 0) == NICE;
		urgent_end(&u);
		_exit(!same || policy_of(0) != SCHED_OTHER || getpriority(PRIO_PROCESS, 0) != NICE);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 2)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(brief_work_comes_first),
		cmocka_unit_test(long_work_has_a_nice_value),
		cmocka_unit_test(another_task_becomes_urgent),
		cmocka_unit_test(a_task_stays_beside_us),
		cmocka_unit_test(what_outlives_it_is_as_others),
		cmocka_unit_test(a_real_time_policy_stays),
		cmocka_unit_test(without_the_right_nothing_happens),
	};

	if (setpriority(PRIO_PROCESS, 0, NICE) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include "kernel/urgent.h"

#define LOG_MODULE "urgent"
#include "base/log.h"
#include "kernel/proc.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LOWEST_NICE = -20, UNHURRIED_NICE = 5, SLACK_NS = 50000, CPUS_MAX = 8192 };

static int set_policy(pid_t tid, int policy, int priority)
{
	struct sched_param p = {.sched_priority = priority};

	return sched_setscheduler(tid, policy, &p);
}

static int raise_thread(pid_t tid, const struct urgent *u)
{
	if (u->how == URGENT_BRIEF && set_policy(tid, SCHED_FIFO | SCHED_RESET_ON_FORK, 1) == 0)
		return 0;
	return setpriority(PRIO_PROCESS, (id_t)tid, LOWEST_NICE);
}

/* Not what has a nice value of its own. One that was made meanwhile has 0, whatever its maker had (SCHED_RESET_ON_FORK). */
static int lower_thread(pid_t tid, const struct urgent *u)
{
	int policy = sched_getscheduler(tid), nice = getpriority(PRIO_PROCESS, (id_t)tid), rc = 0;

	if (policy >= 0 && (policy & ~SCHED_RESET_ON_FORK) == SCHED_FIFO)
		rc = set_policy(tid, u->policy, 0);
	if (nice == LOWEST_NICE || nice == 0)
		rc |= setpriority(PRIO_PROCESS, (id_t)tid, u->nice);
	return rc;
}

/* A thread that has ended meanwhile is none that matters. */
static void each_thread(const struct urgent *u, bool up)
{
	proc_pids threads = {0};
	struct err err;
	int failed = 0;

	if (proc_threads(getpid(), &threads, &err) < 0) {
		log_warn("%s", err.text);
		return;
	}
	for (size_t i = 0; i < threads.n; i++) {
		int rc = up ? raise_thread(threads.v[i], u) : lower_thread(threads.v[i], u);

		if (rc < 0 && errno != ESRCH)
			failed = errno;
	}
	vec_free(&threads);
	if (failed && up)
		log_info("the freeze waits for a processor as everybody does: %s (CAP_SYS_NICE)",
			 strerror(failed));
	else if (failed)
		log_warn("threads keep the priority of the freeze: %s", strerror(failed));
}

void urgent_begin(struct urgent *u, enum urgency how)
{
	int policy = sched_getscheduler(0);

	if (u->on || (policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE))
		return;
	*u = (struct urgent){
		.on = true,
		.policy = policy,
		.nice = getpriority(PRIO_PROCESS, 0),
		.how = how,
	};
	each_thread(u, true);
}

void urgent_task(const struct urgent *u, pid_t pid)
{
	if (u->on && setpriority(PRIO_PROCESS, (id_t)pid, LOWEST_NICE) < 0)
		log_debug("pid %d: %s", pid, strerror(errno));
}

void urgent_beside(const struct urgent *u, pid_t pid)
{
	size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX);
	cleanup_free cpu_set_t *here = calloc(1, bytes);
	int cpu = sched_getcpu();

	if (!u->on || u->how != URGENT_BRIEF || !here || cpu < 0 || cpu >= CPUS_MAX)
		return;
	CPU_SET_S((size_t)cpu, bytes, here);
	if (sched_setaffinity(pid, bytes, here) < 0)
		log_debug("pid %d: %s", pid, strerror(errno));
}

void urgent_not_here(void)
{
	/* the policy is not inherited */
	if (getpriority(PRIO_PROCESS, 0) == LOWEST_NICE)
		(void)setpriority(PRIO_PROCESS, 0, 0);
}

void urgent_slack(void)
{
	int policy = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;

	if (prctl(PR_GET_TIMERSLACK))
		return;
	/* since Linux 6.12 a real-time thread has none, and takes none */
	if (policy == SCHED_FIFO || policy == SCHED_RR)
		(void)set_policy(0, SCHED_OTHER, 0);
	(void)prctl(PR_SET_TIMERSLACK, (unsigned long)SLACK_NS);
}

void unhurried_thread(pid_t tid)
{
	int nice = getpriority(PRIO_PROCESS, (id_t)getpid());

	if (setpriority(PRIO_PROCESS, (id_t)tid, nice + UNHURRIED_NICE) < 0)
		log_debug("thread %d: %s", tid, strerror(errno));
}

void urgent_end(struct urgent *u)
{
	if (u->on)
		each_thread(u, false);
	u->on = false;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The processor first, for as long as a program stands still because of us.
 *
 * On a busy machine, from which programs are moved away, a freeze of ten milliseconds becomes one of fifty: each time
 * that one process wakes another it waits for somebody's slice to end. A real-time policy (sched(7)) goes before all
 * ordinary ones, also those of other control groups and sessions, which a nice value does not. It is for short work:
 * whoever computes for seconds under it keeps the machine's other work waiting (the kernel leaves that 5 % of the time).
 */
#ifndef FERRY_KERNEL_URGENT_H
#define FERRY_KERNEL_URGENT_H

#include <stdbool.h>
#include <sys/types.h>

enum urgency {
	URGENT_BUSY, /* work that may take seconds: the lowest nice value */
	URGENT_BRIEF, /* SCHED_FIFO with the lowest real-time priority; where that is refused as URGENT_BUSY */
};

/* What the threads of this process had before. All zero: they are not urgent. */
struct urgent {
	bool on;
	int policy, nice;
	enum urgency how;
};

/*
 * All threads of this process become urgent; not what they make from now on. Not if its user has already given it
 * a real-time policy. Best effort: what CAP_SYS_NICE is missing for costs time only, and is logged.
 */
void urgent_begin(struct urgent *u, enum urgency how);

/*
 * Another task, and those that it makes, have the lowest nice value, until each is given its own before it runs. No real-time policy: that takes a
 * task's timer slack away, and the default of its children.
 */
void urgent_task(const struct urgent *u, pid_t pid);

/*
 * Another task, and those that it makes, stay on the processor on which the caller is, until each is given its own affinity before it runs.
 * For one that does a little for us again and again while we wait: to wake another processor, and be woken by it, takes longer than
 * what it does. Only for URGENT_BRIEF.
 */
void urgent_beside(const struct urgent *u, pid_t pid);

/* All threads have the policy and nice value again that the first one had. Nothing happens where they are not urgent. */
void urgent_end(struct urgent *u);

/* A process that was made by an urgent one, and outlives the freeze, is as any other again, with the nice value 0. */
void urgent_not_here(void);

/*
 * A process that a real-time thread has made has no timer slack (prctl(2), PR_SET_TIMERSLACK), which would be the
 * default of all that it makes, for good. This one has the kernel's standard slack afterwards, and an ordinary policy; one that
 * has any slack stays as it is. Only system calls.
 */
void urgent_slack(void);

/*
 * The opposite: this thread (0: the caller) moves what nobody waits for. Where processors are scarce the program that has moved, and what
 * it waits for, come first. Best effort.
 */
void unhurried_thread(pid_t tid);

#endif

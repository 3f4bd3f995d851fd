// SPDX-License-Identifier: Apache-2.0
/*
 * The registry: every kind of resource, one line each. Order of fd kinds is
 * the priority of their claims, order of task kinds the order of their emits.
 */
#include "kinds/fd/fd.h"
#include "kinds/kind.h"
#include "kinds/task/task.h"

// clang-format off
const struct fd_kind *const fd_kinds[] = {
	&refuse_kind,
	&pipe_kind,
	&fifo_kind,
	&eventfd_kind,
	&epoll_kind,
	&timerfd_kind,
	&signalfd_kind,
	&tty_kind,
	&unix_kind,
	&inet_kind,
	&othersock_kind,
	&memfd_kind,
	&file_kind,
	NULL,
};

const struct task_kind *const task_kinds[] = {
	&name_kind,   &sched_kind,     &altstack_kind,    &futex_kind,
	&rseq_kind,   &sigaction_kind, &personality_kind, &prctl_kind,
	&oom_kind,    &modes_kind,     &rlimit_kind, /* raising one takes a capability that creds may drop */
	&creds_kind,  &traits_kind, /* the second undoes what the first resets */
	&pending_kind, &itimer_kind,   &ptimer_kind, /* time starts to run */
	NULL,
};
// clang-format on

const struct fd_kind *fd_kind_by_type(FdTypes type)
{
	for (const struct fd_kind *const *k = fd_kinds; *k; k++)
		if ((*k)->type == type && type != FD_TYPES__UND)
			return *k;
	return NULL;
}

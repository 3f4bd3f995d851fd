// SPDX-License-Identifier: Apache-2.0
/* The task kinds, for the registry. */
#ifndef FERRY_KINDS_TASK_TASK_H
#define FERRY_KINDS_TASK_TASK_H

#include "kinds/kind.h"

extern const struct task_kind name_kind, sched_kind, altstack_kind, futex_kind, rseq_kind;
extern const struct task_kind sigaction_kind, personality_kind, prctl_kind, oom_kind, creds_kind;
extern const struct task_kind traits_kind, rlimit_kind, pending_kind, itimer_kind, ptimer_kind;
extern const struct task_kind modes_kind;

/* What this process may do, for limits that only CAP_SYS_RESOURCE lifts. */
bool have_capability(int cap);

#endif

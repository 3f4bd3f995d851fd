// SPDX-License-Identifier: Apache-2.0
/*
 * Resource limits, getrlimit(2). Another user's limits can be read by
 * prlimit(2) only with CAP_SYS_RESOURCE, so the task is asked itself.
 */
#define LOG_MODULE "rlimit"
#include "base/log.h"
#include "kinds/task/task.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { N_LIMITS = 16 };

static int rlimit_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
			struct task_query *q, struct err *err)
{
	int i;

	q->data = script_data(s, NULL, N_LIMITS * sizeof(struct rlimit));
	for (i = 0; i < N_LIMITS; i++)
		script_call(s, "read a resource limit", SYS_prlimit64, SV(0), SV(i), SV(0),
			    SV(q->data + (uint64_t)i * sizeof(struct rlimit)));
	return 0;
}

static int rlimit_collect(struct capture *c, struct task_facts *t, size_t thread,
			  const struct script *s, const struct task_query *q, struct err *err)
{
	const struct rlimit *lim = script_ptr(s, q->data);
	TaskRlimitsEntry *all = snap_new(c->snap, TaskRlimitsEntry, task_rlimits_entry);
	int i;

	if (!all)
		return err_nomem(err);
	all->rlimits = arena_array(&c->snap->arena, RlimitEntry *, N_LIMITS);
	for (i = 0; all->rlimits && i < N_LIMITS; i++) {
		RlimitEntry *e = snap_new(c->snap, RlimitEntry, rlimit_entry);

		if (!e)
			return err_nomem(err);
		e->cur = lim[i].rlim_cur;
		e->max = lim[i].rlim_max;
		all->rlimits[all->n_rlimits++] = e;
	}
	t->snap->core[0]->tc->rlimits = all;
	return all->rlimits ? 0 : err_nomem(err);
}

/* What can be set here: without CAP_SYS_RESOURCE not above our own hard limit. */
static struct rlimit possible_limit(const RlimitEntry *e, int which)
{
	struct rlimit want = {e->cur, e->max}, own;

	if (have_capability(CAP_SYS_RESOURCE) || getrlimit((__rlimit_resource_t)which, &own))
		return want;
	want.rlim_max = MIN(want.rlim_max, own.rlim_max);
	want.rlim_cur = MIN(want.rlim_cur, want.rlim_max);
	return want;
}

static int rlimit_check(struct restore *r, const struct snap_task *t, size_t thread, struct err *err)
{
	const TaskRlimitsEntry *all = t->core[0]->tc->rlimits;
	size_t i;

	for (i = 0; all && i < all->n_rlimits && i < N_LIMITS; i++) {
		const RlimitEntry *e = all->rlimits[i];
		struct rlimit can = possible_limit(e, (int)i);

		if (e->cur > e->max)
			return err_set(err, EINVAL,
				       "core-%u.img: resource limit %zu has a soft limit above its hard limit",
				       t->ps->pid, i);
		if (can.rlim_max != e->max)
			log_warn("pid %u: hard limit %zu was %llu and can only be %llu here without CAP_SYS_RESOURCE",
				 t->ps->pid, i, (unsigned long long)e->max,
				 (unsigned long long)can.rlim_max);
	}
	return 0;
}

static int rlimit_emit(struct restore *r, const struct snap_task *t, size_t thread,
		       struct script *s, struct err *err)
{
	const TaskRlimitsEntry *all = t->core[0]->tc->rlimits;
	struct rlimit lim;
	size_t i;

	for (i = 0; all && i < all->n_rlimits && i < N_LIMITS; i++) {
		lim = possible_limit(all->rlimits[i], (int)i);
		script_call(s, "set a resource limit", SYS_prlimit64, SV(0), SV(i),
			    SV(script_data(s, &lim, sizeof(lim))), SV(0));
	}
	return 0;
}

const struct task_kind rlimit_kind = {
	.name = "rlimit",
	.when = KIND_PER_PROCESS,
	.query = rlimit_query,
	.collect = rlimit_collect,
	.check = rlimit_check,
	.emit = rlimit_emit,
};

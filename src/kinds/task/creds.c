// SPDX-License-Identifier: Apache-2.0
/*
 * Credentials: ids, groups, five capability sets, securebits, no_new_privs;
 * credentials(7), capabilities(7). They are a thread's own.
 *
 * The order of the emit: with SECBIT_NO_SETUID_FIXUP the changes of ids keep
 * the capabilities, which the bounding set and the final securebits still
 * need; the capability sets come last.
 */
#define LOG_MODULE "creds"
#include "base/io.h"
#include "base/log.h"
#include "kernel/proc.h"
#include "kinds/task/task.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static uint32_t *cap_words(struct capture *c, uint64_t caps)
{
	uint32_t words[2] = {(uint32_t)caps, (uint32_t)(caps >> 32)};

	return arena_dup(&c->snap->arena, words, sizeof(words));
}

static int fill_creds(struct capture *c, const struct proc_status *st, CredsEntry *e)
{
	e->uid = st->uid[0];
	e->euid = st->uid[1];
	e->suid = st->uid[2];
	e->fsuid = st->uid[3];
	e->gid = st->gid[0];
	e->egid = st->gid[1];
	e->sgid = st->gid[2];
	e->fsgid = st->gid[3];
	e->n_cap_inh = e->n_cap_prm = e->n_cap_eff = e->n_cap_bnd = e->n_cap_amb = 2;
	e->cap_inh = cap_words(c, st->cap_inh);
	e->cap_prm = cap_words(c, st->cap_prm);
	e->cap_eff = cap_words(c, st->cap_eff);
	e->cap_bnd = cap_words(c, st->cap_bnd);
	e->cap_amb = cap_words(c, st->cap_amb);
	e->n_groups = st->groups.n;
	e->groups = arena_dup(&c->snap->arena, st->groups.v, st->groups.n * sizeof(*st->groups.v));
	if (st->no_new_privs) {
		e->has_no_new_privs = true;
		e->no_new_privs = 1;
	}
	return e->cap_inh && e->cap_prm && e->cap_eff && e->cap_bnd && e->cap_amb && e->groups ? 0 :
												 -1;
}

static int creds_outside(struct capture *c, struct task_facts *t, size_t thread, struct err *err)
{
	CredsEntry *e = snap_new(c->snap, CredsEntry, creds_entry);

	if (!e || fill_creds(c, t->threads[thread].status, e))
		return err_nomem(err);
	t->snap->core[thread]->thread_core->creds = e;
	return 0;
}

static int creds_query(struct capture *c, struct task_facts *t, size_t thread, struct script *s,
		       struct task_query *q, struct err *err)
{
	q->op = script_call(s, "read the securebits", SYS_prctl, SV(PR_GET_SECUREBITS));
	return 0;
}

static int creds_collect(struct capture *c, struct task_facts *t, size_t thread,
			 const struct script *s, const struct task_query *q, struct err *err)
{
	t->snap->core[thread]->thread_core->creds->secbits = (uint32_t)script_result(s, q->op);
	return 0;
}

static uint64_t words_to_caps(size_t n, const uint32_t *w)
{
	return (n > 0 ? w[0] : 0) | (n > 1 ? (uint64_t)w[1] << 32 : 0);
}

struct own_caps {
	uint64_t effective, permitted;
};

/* Asked for each limit of each task: a call, not a file of /proc. */
static struct own_caps own_caps(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	if (syscall(SYS_capget, &head, data))
		return (struct own_caps){0};
	return (struct own_caps){
		.effective = data[0].effective | (uint64_t)data[1].effective << 32,
		.permitted = data[0].permitted | (uint64_t)data[1].permitted << 32,
	};
}

/* It never changes while we run, and is asked for by each thread of a tree: so the kernel is asked once. */
static uint64_t own_bounding_set(void)
{
	static _Atomic uint64_t known;
	uint64_t caps = known;

	if (caps)
		return caps;
	for (int i = 0; i < 64; i++)
		if (prctl(PR_CAPBSET_READ, i) == 1)
			caps |= 1ULL << i;
	known = caps;
	return caps;
}

bool have_capability(int cap)
{
	return own_caps().effective >> cap & 1;
}

static int creds_check(struct restore *r, const struct snap_task *t, size_t thread, struct err *err)
{
	const CredsEntry *e = t->core[thread]->thread_core->creds;
	uint64_t lacking = words_to_caps(e->n_cap_prm, e->cap_prm) & ~own_caps().permitted;

	if (lacking && thread == 0)
		log_warn("pid %u had capabilities that we do not have and cannot give it: %llx",
			 t->ps->pid, (unsigned long long)lacking);
	return 0;
}

static void emit_ids(const CredsEntry *e, struct script *s)
{
	script_call(s, "set the supplementary groups", SYS_setgroups, SV(e->n_groups),
		    SV(script_data(s, e->groups, e->n_groups * sizeof(*e->groups))));
	script_call(s, "set the group ids", SYS_setresgid, SV(e->gid), SV(e->egid), SV(e->sgid));
	script_try(s, "set the file system group id", SYS_setfsgid, SV(e->fsgid));
	script_call(s, "set the user ids", SYS_setresuid, SV(e->uid), SV(e->euid), SV(e->suid));
	script_try(s, "set the file system user id", SYS_setfsuid, SV(e->fsuid));
}

static void emit_caps(const CredsEntry *e, struct script *s)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	uint64_t mine = own_caps().permitted;
	uint64_t prm = words_to_caps(e->n_cap_prm, e->cap_prm) & mine;
	uint64_t eff = words_to_caps(e->n_cap_eff, e->cap_eff) & mine;
	uint64_t inh = words_to_caps(e->n_cap_inh, e->cap_inh),
		 amb = words_to_caps(e->n_cap_amb, e->cap_amb) & prm;
	uint64_t drop = own_bounding_set() & ~words_to_caps(e->n_cap_bnd, e->cap_bnd);
	struct __user_cap_data_struct data[2];
	int i;

	for (i = 0; i < 64; i++)
		if (drop >> i & 1)
			script_call(s, "drop a capability from the bounding set", SYS_prctl,
				    SV(PR_CAPBSET_DROP), SV(i));
	for (i = 0; i < 2; i++) {
		data[i].permitted = (uint32_t)(prm >> 32 * i);
		data[i].effective = (uint32_t)(eff >> 32 * i);
		data[i].inheritable = (uint32_t)(inh >> 32 * i);
	}
	script_call(s, "set the capabilities", SYS_capset, SV(script_data(s, &head, sizeof(head))),
		    SV(script_data(s, data, sizeof(data))));
	script_call(s, "clear the ambient capabilities", SYS_prctl, SV(PR_CAP_AMBIENT),
		    SV(PR_CAP_AMBIENT_CLEAR_ALL), SV(0), SV(0), SV(0));
	for (i = 0; i < 64; i++)
		if (amb >> i & 1)
			script_call(s, "raise an ambient capability", SYS_prctl, SV(PR_CAP_AMBIENT),
				    SV(PR_CAP_AMBIENT_RAISE), SV(i), SV(0), SV(0));
}

static int creds_emit(struct restore *r, const struct snap_task *t, size_t thread, struct script *s,
		      struct err *err)
{
	const CredsEntry *e = t->core[thread]->thread_core->creds;

	script_call(s, "keep capabilities over changes of ids", SYS_prctl, SV(PR_SET_SECUREBITS),
		    SV(1 << SECURE_NO_SETUID_FIXUP));
	emit_ids(e, s);
	/* The final securebits need CAP_SETPCAP, so before the sets; ambient ones may be forbidden by them: then there are none. */
	script_call(s, "set the securebits", SYS_prctl, SV(PR_SET_SECUREBITS), SV(e->secbits));
	emit_caps(e, s);
	if (e->no_new_privs)
		script_call(s, "set no_new_privs", SYS_prctl, SV(PR_SET_NO_NEW_PRIVS), SV(1), SV(0),
			    SV(0), SV(0));
	return 0;
}

const struct task_kind creds_kind = {
	.name = "creds",
	.when = KIND_PER_THREAD,
	.outside = creds_outside,
	.query = creds_query,
	.collect = creds_collect,
	.check = creds_check,
	.emit = creds_emit,
};

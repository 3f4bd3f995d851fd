// SPDX-License-Identifier: Apache-2.0
/*
 * Who forks whom.
 *
 * A session is only ever inherited by fork or founded by setsid(), so the
 * session that a task shall have decides when and by whom it is forked:
 *
 *	- by its parent, before or after the parent's own setsid(); or
 *	- the session's leader is a brother: the brother forks it with CLONE_PARENT; or
 *	- the leader is deeper in the tree, and the parent adopted the task when
 *	  the ones in between died: the leader forks a helper, which forks the task and
 *	  exits, while the parent is a subreaper; or
 *	- the leader is gone: a helper gets its pid, founds the session, and is the
 *	  brother of the first case.
 *
 * Process groups can be joined later (births.c). The session of the root is
 * its own, or with --shell-job ours: it is written 0 here.
 */
#include "restore/session.h"

#define LOG_MODULE "restore"
#include "base/log.h"

#include <errno.h>
#include <string.h>

const char *task_comm(const struct rtask *t)
{
	const CoreEntry *core = t->snap && t->snap->core ? t->snap->core[0] : NULL;

	return core && core->tc && core->tc->comm ? core->tc->comm : "?";
}

struct rtask *session_task(struct restore_session *s, pid_t vpid)
{
	vec_foreach (tp, &s->tasks)
		if ((*tp)->vpid == vpid)
			return *tp;
	vec_foreach (tp, &s->helpers)
		if ((*tp)->vpid == vpid)
			return *tp;
	return NULL;
}

static struct rtask *new_task(struct restore_session *s, pid_t vpid, struct err *err)
{
	struct rtask *t = arena_new(&s->arena, struct rtask);

	if (!t) {
		err_nomem(err);
		return NULL;
	}
	t->vpid = vpid;
	t->pidfd = -1;
	t->n_slots = 1;
	t->need = -1;
	return t;
}

static bool is_zombie(const struct snap_task *st)
{
	return st->core[0]->tc && st->core[0]->tc->task_state == TASK_DEAD;
}

static int add_tasks(struct restore_session *s, struct err *err)
{
	vec_foreach (sp, &s->r.snap->tasks) {
		struct snap_task *st = *sp;
		struct rtask *t = new_task(s, (pid_t)st->ps->pid, err);

		if (!t)
			return -1;
		t->snap = st;
		t->zombie = is_zombie(st);
		t->n_slots = t->zombie ? 1 : st->n_threads;
		t->sid = (pid_t)st->ps->sid;
		t->pgid = (pid_t)st->ps->pgid;
		t->parent = st->ps->ppid ? session_task(s, (pid_t)st->ps->ppid) : NULL;
		if (!t->parent && s->tasks.n > 0)
			return err_set(err, EINVAL, "pstree.img: pid %d has no parent in the tree",
				       t->vpid);
		if (!vec_push(&s->tasks, t))
			return err_nomem(err);
	}
	return 0;
}

/* The root's session: its own, or ours. */
static int resolve_shell_job(struct restore_session *s, struct err *err)
{
	struct rtask *root = s->tasks.v[0];
	pid_t old_sid = root->sid, old_pgid = root->pgid;
	bool foreign_group = old_pgid != root->vpid && !session_task(s, old_pgid);

	if (old_sid == root->vpid)
		return 0;
	if (!s->opt.kinds->shell_job)
		return err_set(err, EINVAL,
			       "pid %d (%s) is not the leader of its session %d: the tree was a job "
			       "of a shell; give --shell-job to make it a job of this one",
			       root->vpid, task_comm(root), old_sid);
	vec_foreach (tp, &s->tasks) {
		if ((*tp)->sid == old_sid)
			(*tp)->sid = 0;
		if ((foreign_group && (*tp)->pgid == old_pgid) || (*tp)->pgid == old_sid)
			(*tp)->pgid = 0;
	}
	return 0;
}

/* Leaders found their session themselves, but their children may need an older one: children come first here. */
static void find_needs(struct restore_session *s)
{
	for (size_t i = s->tasks.n; i-- > 0;) {
		struct rtask *t = s->tasks.v[i];

		t->wants_setsid = t->sid == t->vpid;
		if (!t->wants_setsid)
			t->need = t->sid;
		/* its children have been here and may have left what they need */
		if (t->parent && t->need >= 0 && t->parent->sid == t->parent->vpid &&
		    t->need != t->parent->vpid && t->parent->need < 0 && t->need != t->vpid)
			t->parent->need = t->need;
	}
}

struct rtask *plan_helper(struct restore_session *s, pid_t vpid, struct rtask *owner, struct err *err)
{
	struct rtask *h = new_task(s, vpid, err);

	if (!h)
		return NULL;
	if (!vec_push(&s->helpers, h)) {
		err_nomem(err);
		return NULL;
	}
	h->owner = h->creator = owner;
	h->share_files = true; /* cheap, and what it forks may share with the owner */
	h->sid = h->born_sid = owner->sid;
	return h;
}

static bool is_ancestor(const struct rtask *a, const struct rtask *t)
{
	for (t = t->parent ? t->parent : t->owner; t; t = t->parent ? t->parent : t->owner)
		if (t == a)
			return true;
	return false;
}

/* A number for a helper whose pid does not matter. */
static pid_t spare_vpid(struct restore_session *s)
{
	pid_t pid = 32700;

	while (session_task(s, pid))
		pid--;
	return pid;
}

/* The session is neither the parent's old nor its new one. */
static int plan_foreign_session(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rtask *l = session_task(s, t->need), *h;

	if (!l && t->need > 0) {
		l = plan_helper(s, t->need, t->parent, err);
		if (!l)
			return -1;
		l->sid = t->need;
		l->wants_setsid = true;
	}
	if (l && (l->parent == t->parent || l->owner == t->parent)) {
		t->creator = l;
		t->as_sibling = true;
		return 0;
	}
	if (!l || !is_ancestor(t->parent, l))
		return err_set(err, ENOTSUP,
			       "pid %d (%s) is in session %d, which none of its ancestors' children "
			       "lead: cannot be rebuilt",
			       t->vpid, task_comm(t), t->need);
	h = plan_helper(s, spare_vpid(s), l, err);
	if (!h)
		return -1;
	h->need = t->need;
	t->creator = h;
	t->adopted = true;
	t->parent->adopts = true;
	return 0;
}

static int plan_birth(struct restore_session *s, struct rtask *t, struct err *err)
{
	struct rtask *p = t->parent;

	t->creator = p;
	if (t->need < 0 || t->need == p->sid) {
		t->born_sid = p->sid;
	} else if (p->wants_setsid && t->need == p->born_sid) {
		t->born_sid = t->need;
		t->before_setsid = true;
	} else {
		t->born_sid = t->need;
		if (plan_foreign_session(s, t, err) < 0)
			return -1;
	}
	if (!t->zombie && !p->zombie && t->snap->ids && p->snap->ids &&
	    t->snap->ids->files_id == p->snap->ids->files_id) {
		if (t->creator != p)
			return err_set(err, ENOTSUP,
				       "pid %d (%s) shares its descriptor table with its parent, but "
				       "not its session: cannot be rebuilt",
				       t->vpid, task_comm(t));
		t->share_files = true;
	}
	return 0;
}

/* A process must not be born into a table that it shares with nobody it could get it from. */
static int check_files_ids(struct restore_session *s, struct err *err)
{
	vec_foreach (tp, &s->tasks)
		for (struct rtask **op = s->tasks.v; op < tp; op++) {
			const TaskKobjIdsEntry *a = (*tp)->snap->ids, *b = (*op)->snap->ids;
			const struct rtask *up = (*tp)->parent;

			if (!a || !b || (*tp)->zombie || (*op)->zombie || a->files_id != b->files_id)
				continue;
			if (up && up->snap->ids && up->snap->ids->files_id == a->files_id)
				continue;
			return err_set(err, ENOTSUP,
				       "pid %d and pid %d share one descriptor table but are not "
				       "parent and child: cannot be rebuilt",
				       (*op)->vpid, (*tp)->vpid);
		}
	return 0;
}

int plan_tree(struct restore_session *s, struct err *err)
{
	struct rtask *root;

	if (s->r.snap->tasks.n == 0)
		return err_set(err, EINVAL, "pstree.img: the tree has no task");
	if (add_tasks(s, err) < 0 || check_files_ids(s, err) < 0)
		return -1;
	root = s->tasks.v[0];
	if (root->zombie)
		return err_set(err, EINVAL, "the root of the tree, pid %d, is a zombie", root->vpid);
	if (resolve_shell_job(s, err) < 0)
		return -1;
	find_needs(s);
	root->born_sid = 0;
	vec_foreach (tp, &s->tasks)
		if (*tp != root && plan_birth(s, *tp, err) < 0)
			return -1;
	vec_foreach (tp, &s->tasks)
		if (!(*tp)->zombie && space_plan(s, *tp, err) < 0)
			return task_wrap(*tp, err);
	vec_foreach (tp, &s->tasks) {
		struct rtask *t = *tp;

		t->inherits = t->parent && !t->zombie && t->creator == t->parent &&
			      space_shares(s, t->parent, t);
		log_debug("pid %d (%s): from %s %d%s%s", t->vpid, task_comm(t),
			  t->creator ? "task" : "us", t->creator ? t->creator->vpid : 0,
			  t->as_sibling ? ", as its brother" : "",
			  t->inherits ? ", with its memory" : "");
	}
	return 0;
}

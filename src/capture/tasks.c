// SPDX-License-Identifier: Apache-2.0
/*
 * Describing tasks: the process tree, ids of shared things, registers, working
 * directory, and what the task kinds add, from outside and by a visit.
 */
#define LOG_MODULE "tasks"
#include "base/io.h"
#include "base/log.h"
#include "capture/session.h"
#include "kernel/xstate.h"
#include "kinds/modes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* While one task is worked at, the others of its batch are on their way in and out. */
enum { MAX_TASK_KINDS = 32, INSPECT_BATCH = 16 };

static const char *const ns_names[CAPTURE_NS_COUNT] = {"mnt",    "net",  "uts", "user",
						       "cgroup", "time", "ipc", "pid"};

/* ---- what is refused ---- */

static ino_t ns_inode(pid_t pid, const char *name)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return stat(path, &st) ? 0 : st.st_ino;
}

/* Is a task in the same namespace as we are? -1: it has ended. */
static int shares_ns(struct capture_session *s, pid_t pid, enum capture_ns ns)
{
	ino_t ino = ns_inode(pid, ns_names[ns]);

	if (!s->own_ns[ns])
		s->own_ns[ns] = ns_inode(getpid(), ns_names[ns]);
	return ino ? ino == s->own_ns[ns] : -1;
}

/* As mounts_are_ours, asked once for each namespace. */
static bool mounts_known(struct capture_session *s, pid_t pid)
{
	ino_t ino = ns_inode(pid, ns_names[CAPTURE_NS_MNT]);

	if (ino && ino == s->like_ours_mnt)
		return true;
	if (!mounts_are_ours(pid))
		return false;
	s->like_ours_mnt = ino;
	return true;
}

static int refuse_namespace(pid_t pid, enum capture_ns ns, struct err *err)
{
	return err_set(err, ENOTSUP,
		       "pid %d is in a %s namespace of its own, which this version does not carry; "
		       "run ferry inside of it",
		       pid, ns_names[ns]);
}

/* A tree whose files are elsewhere: whoever knows what that means looks from inside (migrate/view.h). */
static int refuse_lazy(pid_t pid, struct err *err)
{
	return err_set(err, ENOTSUP,
		       "the files of pid %d are on the host that it came from (migrate --files=lazy), and "
		       "images would not hold them; ferry migrate moves it on, or back",
		       pid);
}

static int has_ended(pid_t pid, struct err *err)
{
	return err_set(err, ESRCH, "pid %d has ended", pid);
}

/* Where a task cannot go along for its mounts; one that ends meanwhile has none at all. */
static int refuse_mounts(pid_t pid, struct err *err)
{
	bool lazy = capture_root_is_lazy(pid);

	if (!ns_inode(pid, ns_names[CAPTURE_NS_MNT]))
		return has_ended(pid, err);
	return lazy ? refuse_lazy(pid, err) : refuse_namespace(pid, CAPTURE_NS_MNT, err);
}

/* The tree has one IPC namespace, whose ever it is. */
static int ipc_allowed(const struct capture_session *s, pid_t pid, struct err *err)
{
	ino_t root = ns_inode(s->root, ns_names[CAPTURE_NS_IPC]);
	ino_t its = ns_inode(pid, ns_names[CAPTURE_NS_IPC]);

	if (!root || !its)
		return has_ended(its ? s->root : pid, err);
	if (its != root)
		return err_set(err, ENOTSUP,
			       "pid %d is in another IPC namespace than pid %d, the root of the tree, "
			       "which this version does not carry",
			       pid, s->root);
	return 0;
}

static int namespaces_allowed(struct capture_session *s, pid_t pid, struct err *err)
{
	enum capture_ns ns;
	int shares;

	for (ns = 0; ns < CAPTURE_NS_OURS; ns = ns + 1) {
		shares = shares_ns(s, pid, ns);
		if (shares < 0)
			return has_ended(pid, err);
		if (shares || (ns == CAPTURE_NS_MNT && mounts_known(s, pid)))
			continue;
		return ns == CAPTURE_NS_MNT ? refuse_mounts(pid, err) :
					      refuse_namespace(pid, ns, err);
	}
	return ipc_allowed(s, pid, err);
}

int tasks_share_ipc(struct capture_session *s)
{
	return shares_ns(s, s->root, CAPTURE_NS_IPC);
}

static int status_allowed(pid_t pid, const struct proc_status *st, struct err *err)
{
	if (st->tracer && st->tracer != getpid())
		return err_set(err, EBUSY, "pid %d is traced by pid %d; detach the debugger first",
			       pid, st->tracer);
	if (st->seccomp)
		return err_set(err, ENOTSUP,
			       "pid %d has seccomp filters, which this version does not carry", pid);
	if (st->nspid.n > 1 && st->nspid.v[st->nspid.n - 1] == 1)
		return err_set(err, ENOTSUP,
			       "pid %d is the init of a pid namespace (a container), which this version does not carry",
			       pid);
	return 0;
}

int task_allowed(struct capture_session *s, pid_t pid, const struct proc_stat *stat,
		 const struct proc_status *st, struct err *err)
{
	if (stat->flags & 0x200000 /* PF_KTHREAD */)
		return err_set(err, EINVAL, "pid %d is a kernel thread", pid);
	if (pid == getpid() || pid == 1)
		return err_set(err, EINVAL, "pid %d is %s and cannot be carried", pid,
			       pid == 1 ? "init" : "ferry itself");
	if (status_allowed(pid, st, err) || namespaces_allowed(s, pid, err))
		return -1;
	return modes_allowed(pid, err);
}

/* ---- ids of shared things ---- */

static bool same_object(pid_t a, pid_t b, int type)
{
	return syscall(SYS_kcmp, a, b, type, 0, 0) == 0;
}

static int describe_ids(struct capture_session *s, struct live_task *t, struct err *err)
{
	TaskKobjIdsEntry *ids = snap_new(s->c.snap, TaskKobjIdsEntry, task_kobj_ids_entry);
	const struct live_task *p = t->parent;

	if (!ids)
		return err_nomem(err);
	if (p && same_object(t->facts.pid, p->facts.pid, KCMP_VM))
		return err_set(err, ENOTSUP,
			       "pids %d and %d share their memory (vfork or clone), which is not carried",
			       p->facts.pid, t->facts.pid);
	if (p && (same_object(t->facts.pid, p->facts.pid, KCMP_FS) ||
		  same_object(t->facts.pid, p->facts.pid, KCMP_SIGHAND)))
		return err_set(err, ENOTSUP,
			       "pids %d and %d share their working directory or signal handlers, which is not carried",
			       p->facts.pid, t->facts.pid);
	t->shares_files = p && same_object(t->facts.pid, p->facts.pid, KCMP_FILES);
	ids->vm_id = ids->fs_id = ids->sighand_id = s->next_id;
	ids->files_id = t->shares_files ? p->facts.snap->ids->files_id : s->next_id;
	s->next_id++;
	ids->has_pid_ns_id = ids->has_net_ns_id = ids->has_ipc_ns_id = ids->has_uts_ns_id = true;
	ids->has_time_ns_id = ids->has_mnt_ns_id = ids->has_user_ns_id = ids->has_cgroup_ns_id = true;
	ids->pid_ns_id = 1;
	ids->net_ns_id = 2;
	ids->ipc_ns_id = 3;
	ids->uts_ns_id = 4;
	ids->time_ns_id = shares_ns(s, t->facts.pid, CAPTURE_NS_TIME) == 1 ? 5 : 9;
	ids->mnt_ns_id = 6;
	ids->user_ns_id = 7;
	ids->cgroup_ns_id = 8;
	t->facts.snap->ids = ids;
	return 0;
}

/* ---- the process tree ---- */

/* The image's pids are those of the tree's innermost pid namespace. */
pid_t task_image_pid(pid_t tid, bool nested)
{
	struct proc_status st;
	struct err err;
	pid_t v = 0;

	if (!nested)
		return tid;
	if (proc_status(tid, &st, &err) == 0) {
		v = st.nspid.n ? st.nspid.v[st.nspid.n - 1] : tid;
		proc_status_finish(&st);
	}
	return v;
}

/* A process group or session id seen from the tree: /proc/PID/status has them per namespace, too. */
static pid_t virt_group(const struct live_task *t, const char *key, pid_t real, bool nested)
{
	cleanup_free char *text = NULL;
	char *line, *end;
	pid_t v = real;

	if (!nested || io_read_filef(&text, NULL, "/proc/%d/status", t->facts.pid))
		return real;
	line = strstr(text, key);
	if (!line)
		return real;
	end = strchrnul(line, '\n');
	*end = 0;
	while (end > line && end[-1] != '\t' && end[-1] != ' ')
		end--;
	v = (pid_t)strtol(end, NULL, 10);
	return v;
}

static int name_threads(struct capture_session *s, struct live_task *t, bool nested, struct err *err)
{
	size_t n = t->facts.zombie ? 1 : t->threads.n, i;

	t->facts.threads = calloc(n, sizeof(*t->facts.threads));
	if (!t->facts.threads)
		return err_nomem(err);
	t->facts.n_threads = n;
	t->facts.vpid = task_image_pid(t->facts.pid, nested);
	for (i = 0; i < n; i++) {
		t->facts.threads[i].tid = t->facts.zombie ? t->facts.pid : t->threads.v[i].tid;
		t->facts.threads[i].vtid = task_image_pid(t->facts.threads[i].tid, nested);
	}
	return vec_push(&s->c.tasks, &t->facts) ? 0 : err_nomem(err);
}

static int describe_pstree(struct capture_session *s, struct live_task *t, bool nested,
			   struct err *err)
{
	PstreeEntry *ps = snap_new(s->c.snap, PstreeEntry, pstree_entry);
	size_t i;

	if (!ps)
		return err_nomem(err);
	ps->pid = (uint32_t)t->facts.vpid;
	ps->ppid = t->parent ? (uint32_t)t->parent->facts.vpid : 0;
	ps->pgid = (uint32_t)virt_group(t, "NSpgid:", t->stat.pgrp, nested);
	ps->sid = (uint32_t)virt_group(t, "NSsid:", t->stat.session, nested);
	ps->n_threads = t->facts.n_threads;
	ps->threads = arena_array(&s->c.snap->arena, uint32_t, ps->n_threads);
	for (i = 0; ps->threads && i < ps->n_threads; i++)
		ps->threads[i] = (uint32_t)t->facts.threads[i].vtid;
	t->facts.snap->ps = ps;
	return ps->threads ? 0 : err_nomem(err);
}

/* ---- registers ---- */

static void describe_gpregs(const struct user_regs_struct *live, UserX86RegsEntry *e)
{
	struct user_regs_struct r = *live;

	pt_restart_regs(&r, false);
	e->r15 = r.r15;
	e->r14 = r.r14;
	e->r13 = r.r13;
	e->r12 = r.r12;
	e->bp = r.rbp;
	e->bx = r.rbx;
	e->r11 = r.r11;
	e->r10 = r.r10;
	e->r9 = r.r9;
	e->r8 = r.r8;
	e->ax = r.rax;
	e->cx = r.rcx;
	e->dx = r.rdx;
	e->si = r.rsi;
	e->di = r.rdi;
	e->orig_ax = live->orig_rax;
	e->ip = r.rip;
	e->cs = r.cs;
	e->flags = r.eflags;
	e->sp = r.rsp;
	e->ss = r.ss;
	e->fs_base = r.fs_base;
	e->gs_base = r.gs_base;
	e->ds = r.ds;
	e->es = r.es;
	e->fs = r.fs;
	e->gs = r.gs;
	e->has_mode = true;
	e->mode = USER_X86_REGS_MODE__NATIVE;
}

static CoreEntry *new_core(struct capture_session *s, bool leader, bool zombie)
{
	struct snapshot *snap = s->c.snap;
	CoreEntry *core = snap_new(snap, CoreEntry, core_entry);

	if (!core)
		return NULL;
	core->mtype = CORE_ENTRY__MARCH__X86_64;
	if (leader)
		core->tc = snap_new(snap, TaskCoreEntry, task_core_entry);
	if (leader && !core->tc)
		return NULL;
	if (zombie)
		return core;
	core->thread_info = snap_new(snap, ThreadInfoX86, thread_info_x86);
	core->thread_core = snap_new(snap, ThreadCoreEntry, thread_core_entry);
	if (core->thread_info)
		core->thread_info->gpregs = snap_new(snap, UserX86RegsEntry, user_x86_regs_entry);
	return core->thread_info && core->thread_core && core->thread_info->gpregs ? core : NULL;
}

static int describe_registers(struct capture_session *s, const struct live_thread *th,
			      CoreEntry *core, struct err *err)
{
	uint8_t xsave[PT_XSTATE_MAX_BYTES] __attribute__((aligned(64)));
	size_t bytes = sizeof(xsave);

	if (th->regs.cs != 0x33)
		return err_set(err, ENOTSUP, "thread %d runs 32-bit code, which is not carried",
			       th->tid);
	describe_gpregs(&th->regs, core->thread_info->gpregs);
	if (pt_get_xstate(th->tid, xsave, &bytes, err))
		return -1;
	return xstate_to_fpregs(xsave, bytes, &s->c.snap->arena, &core->thread_info->fpregs, err);
}

static int describe_zombie(struct capture_session *s, struct live_task *t, struct err *err)
{
	TaskCoreEntry *tc = t->facts.snap->core[0]->tc;

	tc->task_state = TASK_DEAD;
	tc->exit_code = (uint32_t)t->stat.exit_code;
	tc->flags = (uint32_t)t->stat.flags;
	tc->comm = arena_strdup(&s->c.snap->arena, t->stat.comm);
	return tc->comm ? 0 : err_nomem(err);
}

static int describe_cores(struct capture_session *s, struct live_task *t, struct err *err)
{
	struct snap_task *snap = t->facts.snap;
	size_t i;

	snap->n_threads = t->facts.n_threads;
	snap->core = arena_array(&s->c.snap->arena, CoreEntry *, snap->n_threads);
	for (i = 0; snap->core && i < snap->n_threads; i++) {
		snap->core[i] = new_core(s, i == 0, t->facts.zombie);
		if (!snap->core[i])
			return err_nomem(err);
		if (t->facts.zombie)
			return describe_zombie(s, t, err);
		if (describe_registers(s, &t->threads.v[i], snap->core[i], err))
			return -1;
		snap->core[i]->thread_core->has_blk_sigset = true;
		snap->core[i]->thread_core->blk_sigset = t->threads.v[i].sigmask;
	}
	if (!snap->core)
		return err_nomem(err);
	snap->core[0]->tc->blk_sigset = t->threads.v[0].sigmask;
	snap->core[0]->tc->flags = (uint32_t)t->stat.flags;
	snap->core[0]->tc->task_state = TASK_ALIVE;
	if (t->threads.v[0].group_sig) {
		snap->core[0]->tc->task_state = TASK_STOPPED;
		snap->core[0]->tc->has_stop_signo = true;
		snap->core[0]->tc->stop_signo = (uint32_t)t->threads.v[0].group_sig;
	}
	return 0;
}

/* ---- working directory, root, umask ---- */

static int describe_dir(struct capture_session *s, pid_t pid, const char *which, uint32_t *id_out,
			struct err *err)
{
	cleanup_close int fd = io_openf(O_PATH, "/proc/%d/%s", pid, which);
	char link[PATH_MAX];

	if (fd < 0 || io_readlinkf(link, sizeof(link), "/proc/%d/%s", pid, which))
		return err_sys(err, "cannot look at the %s of pid %d", which, pid);
	if (file_capture_path(&s->c, fd, link, O_DIRECTORY, 0, id_out, err))
		return err_wrap(err, "%s of pid %d", which, pid);
	return 0;
}

static int describe_fs(struct capture_session *s, struct live_task *t, struct err *err)
{
	FsEntry *fs = snap_new(s->c.snap, FsEntry, fs_entry);

	if (!fs)
		return err_nomem(err);
	fs->has_umask = true;
	fs->umask = t->status.umask;
	t->facts.snap->fs = fs;
	if (describe_dir(s, t->facts.pid, "cwd", &fs->cwd_id, err))
		return -1;
	return describe_dir(s, t->facts.pid, "root", &fs->root_id, err);
}

/* ---- one after the other ---- */

static int describe_task(struct capture_session *s, struct live_task *t, bool nested, struct err *err)
{
	t->facts.snap = arena_new(&s->c.snap->arena, struct snap_task);
	if (!t->facts.snap || !vec_push(&s->c.snap->tasks, t->facts.snap))
		return err_nomem(err);
	if (name_threads(s, t, nested, err) || describe_pstree(s, t, nested, err))
		return -1;
	if (!t->facts.zombie) {
		t->facts.pidfd = (int)syscall(SYS_pidfd_open, t->facts.pid, 0);
		if (t->facts.pidfd < 0)
			return err_sys(err, "cannot open a pidfd for pid %d", t->facts.pid);
		if (proc_status(t->facts.pid, &t->status, err) ||
		    task_allowed(s, t->facts.pid, &t->stat, &t->status, err) ||
		    describe_ids(s, t, err))
			return -1;
	}
	return describe_cores(s, t, err);
}

bool tasks_nested(struct capture_session *s)
{
	return !shares_ns(s, s->root, CAPTURE_NS_PID);
}

int tasks_describe(struct capture_session *s, struct err *err)
{
	bool nested = tasks_nested(s);

	s->next_id = 2; /* 1 is ours */
	vec_foreach (it, &s->tasks) {
		if (describe_task(s, *it, nested, err))
			return -1;
	}
	/* Paths: exe, directories; after every pid is known. */
	vec_foreach (it, &s->tasks) {
		if (!(*it)->facts.zombie && describe_fs(s, *it, err))
			return -1;
	}
	return 0;
}

/* ---- kinds ---- */

static int run_outside(struct capture_session *s, struct live_task *t, size_t thread, struct err *err)
{
	const struct task_kind *const *k;
	struct proc_status other = {0};
	int rc = 0;

	if (thread && proc_status(t->facts.threads[thread].tid, &other, err))
		return -1;
	t->facts.threads[thread].status = thread ? &other : &t->status;
	for (k = task_kinds; *k && rc == 0; k++) {
		if (!(*k)->outside || ((*k)->when == KIND_PER_PROCESS && thread))
			continue;
		if ((*k)->outside(&s->c, &t->facts, thread, err))
			rc = err_wrap(err, "%s", (*k)->name);
	}
	t->facts.threads[thread].status = NULL;
	proc_status_finish(&other);
	return rc;
}

static int run_queries(struct capture_session *s, struct live_task *t, size_t thread,
		       struct script *script, struct task_query q[MAX_TASK_KINDS], struct err *err)
{
	size_t i;

	for (i = 0; task_kinds[i] && i < MAX_TASK_KINDS; i++) {
		if (!task_kinds[i]->query || (task_kinds[i]->when == KIND_PER_PROCESS && thread))
			continue;
		if (task_kinds[i]->query(&s->c, &t->facts, thread, script, &q[i], err))
			return err_wrap(err, "%s", task_kinds[i]->name);
	}
	return 0;
}

static int run_collects(struct capture_session *s, struct live_task *t, size_t thread,
			const struct script *script, const struct task_query q[MAX_TASK_KINDS],
			struct err *err)
{
	size_t i;

	for (i = 0; task_kinds[i] && i < MAX_TASK_KINDS; i++) {
		if (!task_kinds[i]->collect || (task_kinds[i]->when == KIND_PER_PROCESS && thread))
			continue;
		if (task_kinds[i]->collect(&s->c, &t->facts, thread, script, &q[i], err))
			return err_wrap(err, "%s", task_kinds[i]->name);
	}
	return 0;
}

static struct visit_thread visitor_of(const struct live_thread *th)
{
	return (struct visit_thread){.tid = th->tid, .regs = th->regs, .sigmask = th->sigmask};
}

/* One task of those that are visited at the same time. */
struct inspection {
	struct live_task *t;
	struct task_query q[MAX_TASK_KINDS];
	unsigned int brk_op;
	bool asked; /* the leader's script runs, or has run */
	struct visit v;
};

static int ask_leader(struct capture_session *s, struct inspection *in, struct err *err)
{
	in->brk_op = script_call(&in->v.script, "read the break", SYS_brk, SV(0));
	if (run_queries(s, in->t, 0, &in->v.script, in->q, err) || visit_start(&in->v, err))
		return -1;
	in->asked = true;
	return 0;
}

static int hear_leader(struct capture_session *s, struct inspection *in, struct err *err)
{
	in->t->facts.snap->mm->mm_brk = (uint64_t)script_result(&in->v.script, in->brk_op);
	return run_collects(s, in->t, 0, &in->v.script, in->q, err);
}

/* As many other threads as may visit at a time, from @first on. */
static int inspect_guests(struct capture_session *s, struct live_task *t, size_t first,
			  unsigned int n, struct visit *v, struct err *err)
{
	struct task_query q[VISIT_MAX_GUESTS][MAX_TASK_KINDS] = {0};
	struct visit_thread guests[VISIT_MAX_GUESTS];
	unsigned int i;

	for (i = 0; i < n; i++) {
		guests[i] = visitor_of(&t->threads.v[first + i]);
		script_reset(&v->guest_script[i]);
		if (run_queries(s, t, first + i, &v->guest_script[i], q[i], err))
			return -1;
	}
	if (visit_guests(v, guests, n, err))
		return -1;
	for (i = 0; i < n; i++)
		if (run_collects(s, t, first + i, &v->guest_script[i], q[i], err))
			return -1;
	return 0;
}

/*
 * No call tells whether what is mapped from now on is locked (mlockall with MCL_FUTURE). But then the
 * visitor's own region is, so more memory is locked than the areas that were there say.
 */
static int find_future_locks(struct live_task *t, struct err *err)
{
	uint64_t locked_kb = 0, on_fault_kb = 0;
	TaskCoreEntry *tc = t->facts.snap->core[0]->tc;
	struct proc_status st;

	if (proc_status(t->facts.pid, &st, err))
		return -1;
	proc_status_finish(&st);
	vec_foreach (v, &t->vmas) {
		if (!(v->flags & PROC_VMF_LOCKED))
			continue;
		locked_kb += (v->end - v->start) >> 10;
		on_fault_kb += v->flags & PROC_VMF_LOCKONFAULT ? (v->end - v->start) >> 10 : 0;
	}
	if (st.vm_locked_kb <= locked_kb)
		return 0;
	tc->has_ferry_lock_future = true;
	tc->ferry_lock_future = MCL_FUTURE |
				(locked_kb && locked_kb == on_fault_kb ? MCL_ONFAULT : 0);
	return 0;
}

static int inspect_guests_all(struct capture_session *s, struct inspection *in, struct err *err)
{
	struct live_task *t = in->t;
	unsigned int n;

	for (size_t i = 1; i < t->threads.n; i += n) {
		n = (unsigned int)MIN(t->threads.n - i, (size_t)in->v.n_guests);
		if (inspect_guests(s, t, i, n, &in->v, err))
			return -1;
	}
	return 0;
}

static int prepare(struct inspection *in, struct err *err)
{
	struct live_task *t = in->t;
	struct visit_thread host = visitor_of(&t->threads.v[0]);

	return visit_prepare(&in->v, t->facts.pid, &host, (unsigned int)t->threads.n - 1, &t->vmas,
			     t->keep_left, err);
}

/* All leaders are asked before the first is listened to. */
static int inspect_inside(struct capture_session *s, struct inspection *all, size_t n, struct err *err)
{
	struct err ignored;
	size_t i;
	int rc = 0;

	for (i = 0; i < n && rc == 0; i++)
		if (find_future_locks(all[i].t, err) || ask_leader(s, &all[i], err))
			rc = err_wrap(err, "pid %d", all[i].t->facts.pid);
	/* none is called home in the middle of a script */
	for (i = 0; i < n && all[i].asked; i++)
		if (visit_wait(&all[i].v, rc ? &ignored : err) && rc == 0)
			rc = err_wrap(err, "pid %d", all[i].t->facts.pid);
	for (i = 0; i < n && rc == 0; i++)
		if (hear_leader(s, &all[i], err) || inspect_guests_all(s, &all[i], err))
			rc = err_wrap(err, "pid %d", all[i].t->facts.pid);
	return rc;
}

static int inspect_outside(struct capture_session *s, struct live_task *t, struct err *err)
{
	for (size_t i = 0; i < t->threads.n; i++)
		if (run_outside(s, t, i, err))
			return err_wrap(err, "pid %d", t->facts.pid);
	return 0;
}

static int inspect_batch(struct capture_session *s, struct inspection *all, size_t n, struct err *err)
{
	struct visit *visits[INSPECT_BATCH] = {0};
	struct err second;
	size_t prepared;
	int rc = 0;

	for (prepared = 0; prepared < n; prepared++) {
		struct inspection *in = &all[prepared];

		visits[prepared] = &in->v;
		rc = inspect_outside(s, in->t, err);
		if (rc == 0 && prepare(in, err))
			rc = err_wrap(err, "pid %d", in->t->facts.pid);
		if (rc)
			break;
	}
	if (rc == 0 && visits_open(visits, n, err))
		return -1;
	if (rc == 0)
		rc = inspect_inside(s, all, n, err);
	if (visits_close(visits, prepared, rc ? &second : err)) {
		if (rc)
			log_error("%s", second.text);
		rc = -1;
	}
	return rc;
}

int tasks_inspect(struct capture_session *s, struct err *err)
{
	/* 140 KiB each: the first touch of all of it would cost a freeze more than the visits do */
	cleanup_free struct inspection *all = malloc(INSPECT_BATCH * sizeof(*all));
	size_t at = 0, n;

	if (!all)
		return err_nomem(err);
	while (at < s->tasks.n) {
		for (n = 0; n < INSPECT_BATCH && at < s->tasks.n; at++) {
			if (s->tasks.v[at]->facts.zombie)
				continue;
			memset(&all[n], 0, offsetof(struct inspection, v));
			all[n++].t = s->tasks.v[at];
		}
		if (n && inspect_batch(s, all, n, err))
			return -1;
	}
	return 0;
}

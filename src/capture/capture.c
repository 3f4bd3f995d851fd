// SPDX-License-Identifier: Apache-2.0
/*
 * The order of things, and the guard: whatever fails between freeze and
 * finish, capture_close() thaws.
 */
#define LOG_MODULE "capture"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "capture/precopy_priv.h"
#include "capture/session.h"
#include "kernel/xstate.h"
#include "kinds/locks.h"
#include "kinds/sysv.h"
#include "mem/drain.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

struct capture_session *capture_open(pid_t pid, const struct kind_options *opt, struct err *err)
{
	struct capture_session *s = calloc(1, sizeof(*s));
	struct proc_stat st;

	if (!s) {
		err_nomem(err);
		return NULL;
	}
	s->root = pid;
	s->c.opt = opt;
	s->sleeps = &s->own_sleeps;
	if (proc_stat(pid, &st, err)) {
		if (err->no == ENOENT)
			err_set(err, ESRCH, "there is no process %d", pid);
		goto fail;
	}
	s->c.snap = snapshot_create(err);
	if (!s->c.snap)
		goto fail;
	(void)xstate_bytes(); /* asks the processor, now and not in a freeze */
	return s;
fail:
	free(s);
	return NULL;
}

void capture_expect_tracking(struct capture_session *s, bool expected)
{
	s->tracked = expected;
}

struct capture *capture_state(struct capture_session *s)
{
	return &s->c;
}

static void forget_tree(struct capture_session *s)
{
	fds_forget(s);
	vec_free(&s->c.tasks);
	vec_foreach (t, &s->tasks) {
		live_task_free(*t);
	}
	vec_free(&s->tasks);
	vec_foreach (m, &s->c.shmem) {
		close(m->fd);
	}
	vec_free(&s->c.shmem);
	vec_foreach (m, &s->c.sysv) {
		close(m->fd);
	}
	vec_free(&s->c.sysv);
	vec_free(&s->mapped);
	vec_free(&s->known);
}

/* A snapshot that a look at the running tree has used starts anew. */
static int renew_snapshot(struct capture_session *s, struct err *err)
{
	struct snapshot *fresh = snapshot_create(err);

	if (!fresh)
		return -1;
	snapshot_free(s->c.snap);
	s->c.snap = fresh;
	s->c.last_file_id = s->c.last_remap_id = s->c.last_pages_id = 0;
	return 0;
}

/* ---- the look at the running tree ---- */

/* What may be refused of System V objects can be seen from outside only where they are in our namespace. */
static int ipc_allowed(struct capture_session *s, struct err *err)
{
	VEC(pid_t) pids = {0};
	int rc = 0;

	if (tasks_share_ipc(s) != 1)
		return 0;
	vec_foreach (t, &s->c.tasks)
		if (!vec_push(&pids, (*t)->pid))
			rc = err_nomem(err);
	if (rc == 0)
		rc = sysv_allowed(pids.v, pids.n, err);
	vec_free(&pids);
	return rc;
}

static int look_at_task(struct capture_session *s, pid_t pid, struct err *err)
{
	struct live_task *t = calloc(1, sizeof(*t));
	proc_vmas vmas;
	int rc;

	if (!t || !vec_push(&s->tasks, t)) {
		free(t);
		return err_nomem(err);
	}
	t->facts.pid = t->facts.vpid = pid;
	t->facts.zombie = true; /* unless it is still there when we have looked */
	t->facts.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (proc_stat(pid, &t->stat, err))
		return -1;
	if (t->facts.pidfd < 0 || t->stat.state == 'Z')
		return 0;
	if (proc_status(pid, &t->status, err) || task_allowed(s, pid, &t->stat, &t->status, err))
		return -1;
	t->facts.zombie = false;
	if (!vec_push(&s->c.tasks, &t->facts))
		return err_nomem(err);
	if (proc_vmas_read(pid, true, &vmas, err))
		return -1;
	rc = areas_allowed(s, pid, &vmas, err);
	proc_vmas_finish(&vmas);
	return rc;
}

/*
 * A terminal of the tree whose session leader is not part of it: a shell's job.
 * It needs --shell-job, as a job's group and session are somebody else's.
 */
static int session_allowed(struct capture_session *s, struct err *err)
{
	struct proc_stat st;

	if (s->c.opt->shell_job)
		return 0;
	if (proc_stat(s->root, &st, err))
		return -1;
	if (st.session != s->root)
		return err_set(err, ENOTSUP,
			       "pid %d belongs to the session of pid %d, which is not carried; "
			       "use --shell-job if it is a job of a shell",
			       s->root, st.session);
	return 0;
}

/* Refused, but not because its number belongs to somebody else by now: a tree may fork and reap all the time. */
static bool is_refusal(const struct capture_session *s, pid_t pid, const struct err *why)
{
	struct err err;
	proc_pids now;
	bool there = false;

	if (why->no == ESRCH || why->no == ENOENT)
		return false;
	if (proc_tree(s->root, &now, &err))
		return true;
	vec_foreach (p, &now) {
		there |= *p == pid;
	}
	vec_free(&now);
	return there;
}

int capture_check(struct capture_session *s, struct err *err)
{
	struct err one;
	proc_pids pids;
	size_t i;
	int rc = 0;

	s->c.preflight = true;
	if (session_allowed(s, err) || proc_tree(s->root, &pids, err))
		return -1;
	for (i = 0; i < pids.n; i++)
		if (look_at_task(s, pids.v[i], &one) && is_refusal(s, pids.v[i], &one)) {
			if (rc == 0)
				*err = one;
			else
				log_error("%s", one.text);
			rc = -1;
		}
	vec_free(&pids);
	if (fds_gather(s, &one) && one.no != ESRCH && one.no != ENOENT && one.no != EBADF) {
		if (rc == 0)
			*err = one;
		rc = -1;
	}
	if (rc == 0)
		rc = locks_capture(&s->c, err);
	if (rc == 0)
		rc = ipc_allowed(s, err);
	forget_tree(s);
	s->c.preflight = false;
	return renew_snapshot(s, &one) && rc == 0 ? (*err = one, -1) : rc;
}

/* ---- freeze ---- */

/* Every description of the tree is held by us for a while. */
static void raise_fd_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &lim))
			log_debug("cannot raise the limit of descriptors");
	}
}

int capture_freeze(struct capture_session *s, unsigned int timeout_ms, struct err *err)
{
	raise_fd_limit();
	if (session_allowed(s, err))
		return -1;
	return freeze_tree(s, timeout_ms, err);
}

/* ---- collect ---- */

static int describe_inventory(struct capture_session *s, struct err *err)
{
	struct snapshot *snap = s->c.snap;
	InventoryEntry *inv = snap_new(snap, InventoryEntry, inventory_entry);
	TaskKobjIdsEntry *ids = snap_new(snap, TaskKobjIdsEntry, task_kobj_ids_entry);

	if (!inv || !ids)
		return err_nomem(err);
	*ids = *snap->tasks.v[0]->ids;
	ids->vm_id = ids->files_id = ids->fs_id = ids->sighand_id = 1;
	ids->ipc_ns_id = 3;
	ids->time_ns_id = 5;
	inv->img_version = 2;
	inv->has_fdinfo_per_id = inv->fdinfo_per_id = true;
	inv->has_ns_per_id = inv->ns_per_id = true;
	inv->root_ids = ids;
	inv->has_lsmtype = true;
	inv->lsmtype = LSMTYPE__NO_LSM;
	inv->plugins_entry = snap_new(snap, PluginsEntry, plugins_entry);
	snap->inventory = inv;
	snap->seccomp = snap_new(snap, SeccompEntry, seccomp_entry);
	return inv->plugins_entry && snap->seccomp ? 0 : err_nomem(err);
}

/* "monotonic SECONDS NANOSECONDS" and "boottime ..." of /proc/PID/timens_offsets, in ns. */
static void read_offsets(pid_t pid, int64_t out[2])
{
	cleanup_free char *text = NULL;
	long long sec, ns;
	char *p;

	out[0] = out[1] = 0;
	if (io_read_filef(&text, NULL, "/proc/%d/timens_offsets", pid))
		return;
	if ((p = strstr(text, "monotonic")) && sscanf(p + 9, "%lld %lld", &sec, &ns) == 2)
		out[0] = sec * 1000000000LL + ns;
	if ((p = strstr(text, "boottime")) && sscanf(p + 8, "%lld %lld", &sec, &ns) == 2)
		out[1] = sec * 1000000000LL + ns;
}

static int64_t clock_now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

void capture_clocks(pid_t pid, int64_t *monotonic_ns, int64_t *boottime_ns)
{
	int64_t ours[2], theirs[2];

	read_offsets(getpid(), ours);
	read_offsets(pid, theirs);
	*monotonic_ns = clock_now(CLOCK_MONOTONIC) + theirs[0] - ours[0];
	*boottime_ns = clock_now(CLOCK_BOOTTIME) + theirs[1] - ours[1];
}

static Timespec *new_timespec(struct snapshot *snap, int64_t ns)
{
	Timespec *e = snap_new(snap, Timespec, timespec);

	if (!e)
		return NULL;
	e->tv_sec = (uint64_t)(ns / 1000000000LL);
	e->tv_nsec = (uint64_t)(ns % 1000000000LL);
	return e;
}

/* The clocks as the tree sees them, at this moment. */
static int describe_clocks(struct capture_session *s, struct err *err)
{
	struct snapshot *snap = s->c.snap;
	int64_t monotonic_ns, boottime_ns;

	capture_clocks(s->root, &monotonic_ns, &boottime_ns);
	snap->timens = snap_new(snap, TimensEntry, timens_entry);
	if (!snap->timens)
		return err_nomem(err);
	snap->timens->monotonic = new_timespec(snap, monotonic_ns);
	snap->timens->boottime = new_timespec(snap, boottime_ns);
	snap->timens_id = snap->tasks.v[0]->ids->time_ns_id == 5 ? 0 :
								   snap->tasks.v[0]->ids->time_ns_id;
	return snap->timens->monotonic && snap->timens->boottime ? 0 : err_nomem(err);
}

static int ipc_capture(struct capture_session *s, struct err *err)
{
	int ours = tasks_share_ipc(s);

	if (ours < 0)
		return err_set(err, ESRCH, "pid %d has ended", s->root);
	return sysv_capture(&s->c, s->root, ours, err);
}

int capture_collect(struct capture_session *s, struct err *err)
{
	s->collected = true;
	if (tasks_describe(s, err) || fds_gather(s, err))
		return -1;
	vec_foreach (t, &s->tasks) {
		if (!(*t)->facts.zombie && areas_describe(s, *t, err))
			return -1;
	}
	if (fds_capture(s, err) || locks_capture(&s->c, err) || ipc_capture(s, err))
		return -1;
	if (tasks_inspect(s, err))
		return -1;
	vec_foreach (t, &s->tasks) {
		s->stats.n_threads += (*t)->threads.n;
	}
	s->stats.n_tasks = s->tasks.n;
	if (describe_inventory(s, err) || describe_clocks(s, err))
		return -1;
	log_info("collected: %zu tasks, %lu threads, %zu descriptions after %.3f ms", s->tasks.n,
		 (unsigned long)s->stats.n_threads, s->c.fds.n,
		 (double)(clock_ns() - s->freeze_started_ns) / 1e6);
	/* not before the visits: their mmap would wait for whoever walks the page tables */
	return seen_confirm_start(s, err);
}

/* ---- memory ---- */

/* One thing to drain: a task or a shared segment. */
struct portion {
	const struct live_task *task; /* NULL: shared memory */
	int fd;
	mem_ranges plan;
	const mem_ranges *rest; /* instead of the plan: what pre-copy has left to send */
	mem_ranges hot;         /* of it, what must not come late */
	struct serve_file late; /* shared memory that comes late; no name: it does not */
	struct snap_pagemap *pm;
};
typedef VEC(struct portion) portions;

static struct snap_pagemap *new_pagemap(struct capture_session *s, bool shmem, uint64_t id)
{
	struct snap_pagemap *pm = arena_new(&s->c.snap->arena, struct snap_pagemap);

	if (!pm)
		return NULL;
	pm->shmem = shmem;
	pm->id = id;
	pm->pages_id = ++s->c.last_pages_id;
	return pm;
}

static int plan_task(const struct capture_session *s, const struct memory_options *how,
		     const struct live_task *t, struct portion *p, struct err *err)
{
	/* with pre-copy the data are there already, and are put in place without a question over the net */
	size_t data_pages = how->precopy ? 0 : HOT_DATA_PAGES / s->tasks.n;

	if (how->serve && hot_pages(t, data_pages, &p->hot, err))
		return -1;
	if (how->precopy && precopy_plan(how->precopy, t, &p->hot, &p->rest, err))
		return -1;
	if (p->rest)
		return 0;
	return how->blocks ? drain_plan_late(t->facts.pid, t->facts.snap->mm, &p->plan, err) :
			     drain_plan_task(t->facts.pid, t->facts.snap->mm, &p->plan, err);
}

/* What pre-copy has left does not come late where it is little. */
static int hurry_little(const struct memory_options *how, portions *all, struct err *err)
{
	uint64_t bytes = 0;

	vec_foreach (p, all)
		bytes += p->rest ? mem_ranges_bytes(p->rest) : 0;
	if (!how->serve || bytes > how->little_bytes)
		return 0;
	vec_foreach (p, all) {
		mem_ranges hot = {0};

		if (!p->rest)
			continue;
		if (mem_ranges_union(&p->hot, p->rest, &hot, err) < 0) {
			vec_free(&hot);
			return -1;
		}
		vec_free(&p->hot);
		p->hot = hot;
	}
	return 0;
}

static int plan_memory(struct capture_session *s, const struct memory_options *how, portions *out,
		       struct err *err)
{
	int rc;

	vec_foreach (t, &s->tasks) {
		struct portion p = {.task = *t, .fd = -1};

		if ((*t)->facts.zombie)
			continue;
		p.pm = new_pagemap(s, false, (uint64_t)(*t)->facts.vpid);
		if (!p.pm)
			return err_nomem(err);
		(*t)->facts.snap->pagemap = p.pm;
		/* also after a failure: what it has is freed with the others */
		rc = plan_task(s, how, *t, &p, err);
		if (!vec_push(out, p))
			rc = err_nomem(err);
		if (rc)
			return -1;
	}
	vec_foreach (m, &s->c.shmem) {
		struct portion p = {.fd = m->fd, .pm = new_pagemap(s, true, m->shmid)};

		if (!p.pm || !vec_push(&s->c.snap->shmem, p.pm))
			return err_nomem(err);
		rc = how->serve && how->shared && shared_may_be_late(s, m, &p.late) ?
			     drain_plan_file_late(m->fd, m->bytes, &p.plan, err) :
			     drain_plan_file(m->fd, m->bytes, &p.plan, err);
		if (!vec_push(out, p))
			rc = err_nomem(err);
		if (rc)
			return -1;
	}
	return hurry_little(how, out, err);
}

/* Shared memory stays where it is. */
static int leave_shared(struct drain *d, struct portion *p, struct serve *serve, struct err *err)
{
	if (d->sink->ops->begin(d->sink, p->pm, err))
		return -1;
	vec_foreach (r, &p->plan) {
		if (d->sink->ops->absent(d->sink, p->pm, r->start, (r->end - r->start) / PAGE_BYTES,
					 PE_LAZY, err))
			return -1;
	}
	if (d->sink->ops->end(d->sink, p->pm, err))
		return -1;
	return serve_add_file(serve, &p->late, &p->plan, err);
}

/* A task's memory; with @serve what may come later stays there. */
static int drain_portion(struct drain *d, struct portion *p, struct serve *serve,
			 struct precopy *precopy, struct err *err)
{
	const struct task_facts *t;
	mem_ranges lazy = {0};
	int rc;

	if (p->late.name)
		return leave_shared(d, p, serve, err);
	if (!p->task)
		return drain_file(d, p->fd, &p->plan, p->pm, err);
	t = &p->task->facts;
	d->lazy = serve ? &lazy : NULL;
	d->now = &p->hot;
	rc = p->rest ? precopy_drain(precopy, d, p->task, p->pm, err) :
		       drain_task(d, t->pid, t->snap->mm, &p->plan, p->pm, err);
	d->lazy = NULL;
	d->now = NULL;
	if (rc == 0 && serve)
		return serve_add(serve, t->vpid, t->pid, &lazy, err);
	vec_free(&lazy);
	return rc;
}

static int drain_all(struct capture_session *s, struct drain *d, const portions *all,
		     const struct memory_options *how, struct err *err)
{
	int rc = 0;

	vec_foreach (p, all) {
		d->total_bytes += mem_ranges_bytes(p->rest ? p->rest : &p->plan);
	}
	/* what a restore needs before it makes the first task goes first */
	vec_foreach (p, all) {
		if (rc == 0 && how->announce && !p->task)
			rc = drain_portion(d, p, NULL, NULL, err);
	}
	vec_foreach (p, all) {
		if (rc == 0 && !(how->announce && !p->task))
			rc = drain_portion(d, p, how->serve, how->precopy, err);
	}
	s->stats.pages = d->pages;
	s->stats.zero_pages = d->zero_pages;
	s->stats.kept_pages = d->kept_pages;
	s->stats.bytes = d->pages * PAGE_BYTES;
	s->c.snap->incremental = d->kept_pages != 0;
	return rc;
}

/* The pagemaps as the plan has them; then the receiver is told. */
static int announce(struct capture_session *s, const portions *all,
		    const struct memory_options *how, struct err *err)
{
	struct snapshot *snap = s->c.snap;
	int rc;

	vec_foreach (p, all) {
		rc = p->task ? drain_announce_task(p->task->facts.snap->mm, &p->plan, snap, p->pm,
						   err) :
			       drain_announce_file(&p->plan, snap, p->pm, err);
		if (rc)
			return -1;
	}
	return how->announce(how->arg, err);
}

int capture_memory(struct capture_session *s, const struct memory_options *how, struct err *err)
{
	portions all = {0};
	struct drain d;
	int rc;

	if (drain_init(&d, how->sink, err))
		return -1;
	d.progress = how->progress;
	d.arg = how->arg;
	rc = plan_memory(s, how, &all, err);
	if (rc == 0 && how->announce) {
		d.announced = true;
		rc = announce(s, &all, how, err);
	}
	if (rc == 0)
		rc = drain_all(s, &d, &all, how, err);
	drain_finish(&d);
	vec_foreach (p, &all) {
		vec_free(&p->plan);
		vec_free(&p->hot);
	}
	vec_free(&all);
	log_info("memory: %lu pages, %lu zero pages left out, %lu sent before",
		 (unsigned long)s->stats.pages, (unsigned long)s->stats.zero_pages,
		 (unsigned long)s->stats.kept_pages);
	return rc;
}

int capture_save(struct capture_session *s, struct store *store, struct err *err)
{
	/* What we could not load again is found while the tree still lives. */
	if (snapshot_verify(s->c.snap, err))
		return err_wrap(err, "the images would not be good");
	if (snapshot_save(s->c.snap, store, err))
		return -1;
	s->c.saved = true;
	return 0;
}

/* ---- the end ---- */

int capture_finish(struct capture_session *s, enum capture_end end, struct err *err)
{
	struct err one;
	int rc = 0;

	if (!s->frozen)
		return 0;
	if (capture_confirm(s, &one))
		log_debug("%s", one.text);
	/* A program that runs on finds its files as before, as with CRIU; a stopped one may be restored. */
	if (end == CAPTURE_THAW)
		s->c.saved = false;
	/* also after a capture that failed half-way: kinds know what they have changed */
	if (end != CAPTURE_KILL)
		rc = fds_undo(s, err);
	if (thaw_tree(s, end, &one)) {
		if (rc == 0)
			*err = one;
		rc = -1;
	}
	if (end == CAPTURE_KILL) {
		fds_drop(s);
		sysv_drop(&s->c);
	}
	log_info("%s after %.3f ms", end == CAPTURE_KILL ? "ended" : "let go",
		 (double)s->stats.freeze_ns / 1e6);
	return rc;
}

void capture_stats(const struct capture_session *s, struct capture_stats *out)
{
	*out = s->stats;
}

void capture_close(struct capture_session *s)
{
	struct err err;

	if (!s)
		return;
	if (capture_finish(s, CAPTURE_THAW, &err))
		log_error("%s", err.text);
	forget_tree(s);
	sleeps_finish(&s->own_sleeps);
	seen_forget(s);
	snapshot_free(s->c.snap);
	free(s);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Stopping a whole tree, and letting it go.
 *
 * Every thread is seized and interrupted; new tasks and threads may appear
 * until the last of them is stopped, so the tree is listed again until nothing
 * new is found. A thread that waits for its vfork child cannot stop before the
 * child has called exec, and the child may already be stopped by us: then
 * everything is let go and tried again a moment later.
 */
#define LOG_MODULE "freeze"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "capture/session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { STRAGGLER_MS = 50, RETRY_MS = 3, RELEASE_MS = 5000, ENDING_TRIES = 100 };

void live_task_free(struct live_task *t)
{
	if (!t)
		return;
	vec_free(&t->threads);
	proc_vmas_finish(&t->vmas);
	proc_status_finish(&t->status);
	if (t->facts.pidfd >= 0)
		close(t->facts.pidfd);
	free(t->facts.threads);
	free(t);
}

static struct live_task *find_task(const struct capture_session *s, pid_t pid)
{
	vec_foreach (t, &s->tasks) {
		if ((*t)->facts.pid == pid)
			return *t;
	}
	return NULL;
}

static bool knows_thread(const struct live_task *t, pid_t tid, size_t hint)
{
	if (hint < t->threads.n && t->threads.v[hint].tid == tid)
		return true;
	vec_foreach (th, &t->threads) {
		if (th->tid == tid)
			return true;
	}
	return false;
}

static struct live_task *add_task(struct capture_session *s, pid_t pid, struct err *err)
{
	struct live_task *t = calloc(1, sizeof(*t));

	if (!t || !vec_push(&s->tasks, t)) {
		free(t);
		err_nomem(err);
		return NULL;
	}
	t->facts.pid = pid;
	t->facts.pidfd = -1;
	return t;
}

static bool thread_is_gone(pid_t tid)
{
	struct proc_stat st;
	struct err err;

	return proc_stat(tid, &st, &err) || st.state == 'Z' || st.state == 'X';
}

static bool has_tracer(pid_t tid)
{
	struct proc_status st;
	struct err err;
	bool traced;

	if (proc_status(tid, &st, &err))
		return false;
	traced = st.tracer != 0;
	proc_status_finish(&st);
	return traced;
}

/*
 * A thread that exits cannot be seized, with EPERM, from the moment in which it begins to; it looks
 * like any other in /proc until a little later. Does it go?
 */
static bool is_ending(pid_t tid)
{
	static const struct timespec nap = {.tv_nsec = 500000};

	for (int tries = 0; tries < ENDING_TRIES; tries++) {
		if (thread_is_gone(tid))
			return true;
		if (has_tracer(tid))
			return false;
		nanosleep(&nap, NULL);
	}
	return false;
}

static int seize_thread(struct live_task *t, pid_t tid, bool *found, struct err *err)
{
	struct live_thread th = {.tid = tid};

	/* on the list first: whoever is seized must be let go again */
	if (!vec_push(&t->threads, th))
		return err_nomem(err);
	if (pt_seize(tid, 0, err)) {
		t->threads.n--;
		return err->no == ESRCH || (err->no == EPERM && is_ending(tid)) ? 0 : -1;
	}
	*found = true;
	return pt_interrupt(tid, err) && err->no != ESRCH ? -1 : 0;
}

/* Seizes and interrupts the threads of a task that are new, and appends its children. */
static int seize_threads(struct live_task *t, proc_pids *tree, bool *found, struct err *err)
{
	proc_pids tids;
	int rc = 0;
	size_t i;

	if (proc_threads(t->facts.pid, &tids, err))
		return err->no == ENOENT || err->no == ESRCH ? 0 : -1;
	for (i = 0; i < tids.n && rc == 0; i++) {
		if (!knows_thread(t, tids.v[i], i))
			rc = seize_thread(t, tids.v[i], found, err);
		if (rc == 0)
			rc = proc_children(t->facts.pid, tids.v[i], tree, err);
	}
	vec_free(&tids);
	return rc;
}

/* One pass over the tree as it is listed now. */
static int seize_pass(struct capture_session *s, bool *found, struct err *err)
{
	proc_pids pids = {0};
	size_t i;
	int rc = 0;

	if (!vec_push(&pids, s->root))
		return err_nomem(err);
	for (i = 0; i < pids.n && rc == 0; i++) {
		struct live_task *t = find_task(s, pids.v[i]);

		if (!t) {
			*found = true;
			t = add_task(s, pids.v[i], err);
		}
		rc = t ? seize_threads(t, &pids, found, err) : -1;
	}
	vec_free(&pids);
	return rc;
}

/* Removes element @i of an array, keeping the order. */
#define vec_remove(vec, i)                                                                           \
	do {                                                                                         \
		memmove(&(vec)->v[i], &(vec)->v[(i) + 1], ((vec)->n - (i)-1) * sizeof((vec)->v[0])); \
		(vec)->n--;                                                                          \
	} while (0)

/* Waits for every thread's stop. 0; 1: somebody cannot stop now; -1. */
static int wait_all(struct capture_session *s, struct err *err)
{
	size_t i;

	vec_foreach (it, &s->tasks) {
		struct live_task *t = *it;

		for (i = 0; i < t->threads.n; i++) {
			struct live_thread *th = &t->threads.v[i];
			int sig = 0, stop;

			if (th->stopped)
				continue;
			stop = pt_wait_stop(th->tid, STRAGGLER_MS, &sig, err);
			if (stop < 0)
				return err->no == ETIMEDOUT ? 1 : -1;
			if (stop == PT_GONE) {
				vec_remove(&t->threads, i);
				i--;
				continue;
			}
			th->stopped = true;
			th->group_sig = stop == PT_GROUP_STOPPED ? sig : 0;
		}
	}
	return 0;
}

/* A thread that is let go at once: what it sleeps in is not to be seen at its next stop. */
static void note_sleep(struct capture_session *s, pid_t tid)
{
	struct user_regs_struct regs;
	struct err err;

	if (pt_get_regs(tid, &regs, &err) || sleeps_settle(s->sleeps, tid, -1, &regs, &err))
		log_debug("%s", err.text);
}

/* Lets a thread go, if it is stopped. False: it is not, yet. */
static bool let_thread_go(struct capture_session *s, struct live_thread *th)
{
	struct err err;

	if (!th->stopped && pt_wait_stop(th->tid, 0, NULL, &err) < 0 && err.no == ETIMEDOUT)
		return false;
	note_sleep(s, th->tid);
	if (pt_detach(th->tid, 0, &err) && err.no != ESRCH)
		log_warn("%s", err.text);
	return true;
}

/* Those that are stopped; the others stay on the list. How many they are. */
static size_t release_stopped(struct capture_session *s)
{
	size_t left = 0;

	vec_foreach (t, &s->tasks) {
		for (size_t i = (*t)->threads.n; i-- > 0;)
			if (let_thread_go(s, &(*t)->threads.v[i]))
				vec_remove(&(*t)->threads, i);
		left += (*t)->threads.n;
	}
	return left;
}

/*
 * Lets every thread go that we have, and forgets the tasks. One may stop only when another has gone on: so whoever
 * stops is let go at once, in whatever order that is.
 */
static void release_all(struct capture_session *s)
{
	static const struct timespec nap = {.tv_nsec = 500000};
	uint64_t end = clock_ns() + RELEASE_MS * 1000000ULL;
	size_t left;

	while ((left = release_stopped(s)) != 0 && clock_ns() < end)
		nanosleep(&nap, NULL);
	if (left)
		log_warn("%zu threads do not stop, and stay traced until we end", left);
	vec_foreach (t, &s->tasks) {
		live_task_free(*t);
	}
	s->tasks.n = 0;
}

static int freeze_once(struct capture_session *s, struct err *err)
{
	bool found = true;
	int rc = 0;

	while (found && rc == 0) {
		found = false;
		rc = seize_pass(s, &found, err);
		if (rc == 0)
			rc = wait_all(s, err);
	}
	return rc;
}

/* Threads are listed by their ids, and ids start again from 300 at the end of their range. */
static void leader_first(struct live_task *t)
{
	for (size_t i = 1; i < t->threads.n; i++)
		if (t->threads.v[i].tid == t->facts.pid) {
			struct live_thread leader = t->threads.v[i];

			memmove(&t->threads.v[1], &t->threads.v[0], i * sizeof(leader));
			t->threads.v[0] = leader;
			return;
		}
}

/* Tasks that ended while we listed, and zombies. */
static int sort_out(struct capture_session *s, struct err *err)
{
	size_t i;

	for (i = 0; i < s->tasks.n; i++) {
		struct live_task *t = s->tasks.v[i];

		if (proc_stat(t->facts.pid, &t->stat, err)) {
			if (err->no != ENOENT && err->no != ESRCH)
				return -1;
			live_task_free(t);
			vec_remove(&s->tasks, i);
			i--;
			continue;
		}
		t->facts.zombie = t->stat.state == 'Z';
		if (t->facts.zombie && t->threads.n)
			return err_set(err, ENOTSUP,
				       "pid %d: its first thread has ended while others run, which cannot be carried",
				       t->facts.pid);
		if (!t->facts.zombie && !t->threads.n)
			return err_set(err, EAGAIN, "pid %d is ending right now; try again",
				       t->facts.pid);
		t->parent = find_task(s, t->stat.ppid);
		leader_first(t);
	}
	if (!s->tasks.n || s->tasks.v[0]->facts.pid != s->root || s->tasks.v[0]->facts.zombie)
		return err_set(err, ESRCH, "pid %d has ended", s->root);
	return 0;
}

static int read_thread(struct live_thread *th, struct err *err)
{
	if (pt_get_regs(th->tid, &th->regs, err))
		return -1;
	return pt_get_sigmask(th->tid, &th->sigmask, err);
}

/* Lets a thread run for a moment; its areas are read again, too. */
static int run_on(struct live_task *t, struct live_thread *th, long ns, struct err *err)
{
	const struct timespec nap = {.tv_nsec = ns};

	if (pt_cont(th->tid, 0, err))
		return -1;
	nanosleep(&nap, NULL);
	if (pt_interrupt(th->tid, err) || pt_wait_stop(th->tid, 5000, NULL, err) < 0 ||
	    read_thread(th, err))
		return -1;
	proc_vmas_finish(&t->vmas);
	t->seen = NULL;
	return proc_vmas_read(t->facts.pid, true, &t->vmas, err);
}

/* A thread that a killed ferry left on its way gets time to arrive. */
static int let_home(struct live_task *t, struct live_thread *th, struct err *err)
{
	enum visit_way way = VISIT_AT_HOME;
	int tries;

	for (tries = 0; tries < VISIT_HOME_TRIES; tries++) {
		way = visit_way_home(t->facts.pid, &t->vmas, &th->regs);
		if (way == VISIT_AT_HOME)
			return 0;
		if (run_on(t, th, visit_nap_ns(tries), err))
			return -1;
	}
	if (way == VISIT_AWAY)
		return err_set(err, EAGAIN,
			       "thread %d is on its way home from a ferry that was killed; try again",
			       th->tid);
	log_info("thread %d: what looks like the way home of a visit stays on its stack", th->tid);
	t->keep_left = true;
	return 0;
}

/*
 * A restartable sequence that is interrupted by our visit must be aborted, as
 * the kernel does for any preemption; it does not see that we come back into
 * the middle of it. See rseq(2): struct rseq_cs { u32 version, flags; u64
 * start_ip, post_commit_offset, abort_ip }.
 */
static void abort_rseq(int mem_fd, struct live_thread *th)
{
	uint64_t cs_addr = 0, cs[4];
	struct pt_rseq conf;
	struct err err;

	if (pt_get_rseq(th->tid, &conf, &err) || !conf.pointer)
		return;
	th->rseq = conf.pointer;
	if (pread(mem_fd, &cs_addr, 8, (off_t)(conf.pointer + 8)) == 8 && cs_addr &&
	    pread(mem_fd, cs, sizeof(cs), (off_t)cs_addr) == (ssize_t)sizeof(cs) &&
	    th->regs.rip - cs[1] < cs[2])
		th->regs.rip = cs[3];
}

static void hide_interrupt(struct live_thread *th)
{
	struct proc_status st;
	struct err err;

	if ((int64_t)th->regs.rax != -EINTR || (int64_t)th->regs.orig_rax < 0 ||
	    proc_status(th->tid, &st, &err))
		return;
	pt_hide_interrupt(&th->regs, ((st.sig_pending | st.shared_pending) & ~th->sigmask) != 0);
	proc_status_finish(&st);
}

/* From here on the registers that we hold are what the thread gets back. */
static int settle_regs(struct capture_session *s, int mem_fd, struct live_thread *th, struct err *err)
{
	struct user_regs_struct before;

	if (sleeps_settle(s->sleeps, th->tid, mem_fd, &th->regs, err))
		return -1;
	before = th->regs;
	hide_interrupt(th);
	abort_rseq(mem_fd, th);
	return memcmp(&before, &th->regs, sizeof(before)) ? pt_set_regs(th->tid, &th->regs, err) : 0;
}

static int read_states(struct capture_session *s, struct err *err)
{
	bool leftovers;

	vec_foreach (it, &s->tasks) {
		struct live_task *t = *it;
		cleanup_close int mem_fd = -1;

		if (t->facts.zombie)
			continue;
		mem_fd = io_openf(O_RDONLY, "/proc/%d/mem", t->facts.pid);
		if (mem_fd < 0)
			return err_sys(err, "cannot open the memory of pid %d", t->facts.pid);
		if (seen_read(s, t, err))
			return -1;
		leftovers = visit_has_leftovers(mem_fd, &t->vmas);
		vec_foreach (th, &t->threads) {
			if (read_thread(th, err) || (leftovers && let_home(t, th, err)))
				return -1;
			if (settle_regs(s, mem_fd, th, err))
				return -1;
		}
	}
	return 0;
}

int freeze_tree(struct capture_session *s, unsigned int timeout_ms, struct err *err)
{
	static const struct timespec nap = {.tv_nsec = RETRY_MS * 1000000};
	uint64_t end = clock_ns() + timeout_ms * 1000000ULL;
	int rc;

	for (;;) {
		s->freeze_started_ns = clock_ns();
		rc = freeze_once(s, err);
		if (rc <= 0)
			break;
		release_all(s);
		if (timeout_ms && clock_ns() > end) {
			err_wrap(err, "cannot freeze the tree of pid %d within %u ms (--timeout)",
				 s->root, timeout_ms);
			return -1;
		}
		nanosleep(&nap, NULL);
	}
	s->frozen = true;
	if (rc == 0)
		rc = sort_out(s, err);
	if (rc == 0)
		rc = read_states(s, err);
	if (rc) {
		s->frozen = false;
		release_all(s);
		return -1;
	}
	log_info("frozen: %zu tasks in %.3f ms", s->tasks.n,
		 (double)(clock_ns() - s->freeze_started_ns) / 1e6);
	return 0;
}

/* Everything ends; when this returns nothing of the tree runs any more. */
static int kill_all(struct capture_session *s, struct err *err)
{
	int rc = 0;

	vec_foreach (it, &s->tasks) {
		if (!(*it)->facts.zombie && kill((*it)->facts.pid, SIGKILL) && errno != ESRCH)
			rc = err_sys(err, "cannot end pid %d", (*it)->facts.pid);
	}
	vec_foreach (it, &s->tasks) {
		struct live_task *t = *it;
		size_t i;
		int status;

		/* Threads first: the leader reports last. Each tracee's end is reported to us, its tracer. */
		for (i = t->threads.n; i-- > 0;)
			while (waitpid(t->threads.v[i].tid, &status, __WALL) > 0 && WIFSTOPPED(status))
				;
	}
	s->killed = true;
	return rc;
}

static int detach_all(struct capture_session *s, bool stop, struct err *err)
{
	struct err one;
	int rc = 0;

	vec_foreach (it, &s->tasks) {
		struct live_task *t = *it;

		if (stop && !t->facts.zombie && kill(t->facts.pid, SIGSTOP))
			rc = err_sys(err, "cannot stop pid %d", t->facts.pid);
	}
	vec_foreach (it, &s->tasks) {
		vec_foreach (th, &(*it)->threads) {
			if (pt_detach(th->tid, 0, &one) && one.no != ESRCH) {
				log_error("%s", one.text);
				*err = one;
				rc = -1;
			}
		}
	}
	return rc;
}

/* It ran when we came: it is ours to stop and to continue. */
static bool was_running(const struct live_task *t)
{
	const struct snap_task *snap = t->facts.snap;

	if (t->facts.zombie)
		return false;
	return !snap || !snap->core || !snap->core[0]->tc ||
	       snap->core[0]->tc->task_state != TASK_STOPPED;
}

int capture_arm(struct capture_session *s, struct err *err)
{
	s->armed = true;
	vec_foreach (it, &s->tasks) {
		if (was_running(*it) && kill((*it)->facts.pid, SIGSTOP))
			return err_sys(err, "pid %d: cannot keep it stopped", (*it)->facts.pid);
	}
	return 0;
}

/* SIGCONT takes back a SIGSTOP that waits. */
static void disarm_tree(struct capture_session *s)
{
	vec_foreach (it, &s->tasks) {
		if (s->armed && was_running(*it))
			kill((*it)->facts.pid, SIGCONT);
	}
	s->armed = false;
}

int thaw_tree(struct capture_session *s, enum capture_end end, struct err *err)
{
	int rc;

	if (!s->frozen)
		return 0;
	s->frozen = false;
	if (end == CAPTURE_THAW)
		disarm_tree(s);
	rc = end == CAPTURE_KILL ? kill_all(s, err) :
				   detach_all(s, end == CAPTURE_LEAVE_STOPPED, err);
	s->stats.freeze_ns = clock_ns() - s->freeze_started_ns;
	return rc;
}

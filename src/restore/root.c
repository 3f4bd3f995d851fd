// SPDX-License-Identifier: Apache-2.0
/*
 * The first task, and what must be around it.
 *
 * Time: the images hold the tree's clocks as they were at the dump. Offsets of
 * a time namespace can be set only until its first task enters, and a process
 * cannot take an unshare() of it back when it has threads, so a short-lived
 * "maker" unshares, writes the offsets, and forks the root with CLONE_PARENT. It works in
 * our memory while we wait for its end, so that nothing is copied twice.
 *
 * Pids: a new pid namespace needs a first process. Unless the root itself was
 * pid 1, that is a small init of ours: it forks the root, reaps orphans, and
 * ends when the last task has ended, with the status of the root.
 */
#include "restore/session.h"

#include "base/io.h"
#include "kernel/proc.h"
#include "kernel/ptrace.h"
#include "kernel/urgent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef NS_GET_PID_FROM_PIDNS
#define NS_GET_PID_FROM_PIDNS _IOR(0xb7, 0x6, int) /* Linux 6.12 */
#endif

/* What the maker or init tells us through a pipe. */
struct report {
	int no; /* errno, 0: done */
	pid_t pid;
	char step[64];
};

struct boot {
	struct restore_session *s;
	char offsets[128];    /* text for timens_offsets; "" = no time namespace */
	uint64_t flags;       /* more of clone3 */
	int out;              /* the pipe's write end; -1: there is none */
	struct report report; /* of the maker, which shares our memory */
};

enum { MAKER_STACK_BYTES = 64 * 1024 };

/* ---- clocks ---- */

static int current_offset(const char *text, const char *clock, int64_t *ns_out)
{
	const char *at = strstr(text, clock);
	long long sec;
	long nsec;

	if (!at || sscanf(at + strlen(clock), "%lld %ld", &sec, &nsec) != 2)
		return -1;
	*ns_out = sec * 1000000000LL + nsec;
	return 0;
}

static int64_t lead_of(clockid_t clock, const Timespec *saved)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return ((int64_t)saved->tv_sec - now.tv_sec) * 1000000000LL +
	       ((int64_t)saved->tv_nsec - now.tv_nsec);
}

struct clock_lead clock_lead_of(const TimensEntry *te)
{
	return (struct clock_lead){
		.monotonic_ns = lead_of(CLOCK_MONOTONIC, te->monotonic),
		.boottime_ns = lead_of(CLOCK_BOOTTIME, te->boottime),
	};
}

static void print_offset(char *out, size_t size, const char *clock, int64_t ns)
{
	int64_t sec = ns / 1000000000LL, nsec = ns % 1000000000LL;

	if (nsec < 0) {
		nsec += 1000000000LL;
		sec--;
	}
	snprintf(out + strlen(out), size - strlen(out), "%s %lld %lld\n", clock, (long long)sec,
		 (long long)nsec);
}

/* Offsets are counted from the clocks of the machine, not from those of our own time namespace. */
static int compute_offsets(const struct clock_lead *lead, char *out, size_t size, struct err *err)
{
	cleanup_free char *text = NULL;
	int64_t mono, boot;

	if (io_read_filef(&text, NULL, "/proc/thread-self/timens_offsets") < 0 &&
	    io_read_filef(&text, NULL, "/proc/self/timens_offsets") < 0)
		return err_sys(err, "cannot read /proc/self/timens_offsets; time namespaces "
				    "(CONFIG_TIME_NS) keep the clocks of the tree going");
	if (current_offset(text, "monotonic", &mono) < 0 ||
	    current_offset(text, "boottime", &boot) < 0)
		return err_set(err, EPROTO, "/proc/self/timens_offsets cannot be understood: %s",
			       text);
	print_offset(out, size, "monotonic", mono + lead->monotonic_ns);
	print_offset(out, size, "boottime", boot + lead->boottime_ns);
	return 0;
}

/* ---- in the child: only system calls from here on ---- */

static void tell(const struct boot *b, const char *step, int no, pid_t pid)
{
	struct report r = {.no = no, .pid = pid};

	strncpy(r.step, step, sizeof(r.step) - 1);
	if (write(b->out, &r, sizeof(r)) != sizeof(r))
		_exit(1);
}

static const char *enter_time(const struct boot *b)
{
	size_t len = strlen(b->offsets);
	int fd;

	if (!len)
		return NULL;
	if (unshare(CLONE_NEWTIME) < 0)
		return "make a time namespace";
	fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, b->offsets, len) != (ssize_t)len)
		return "set the clocks of the time namespace";
	close(fd);
	return NULL;
}

/*
 * A forked child keeps its parent's rseq registration, and the kernel would kill
 * it when it finds the area unmapped. libc tells where the area is, but not
 * the length that it registered, which must be given again.
 */
static void leave_rseq(void)
{
	uint8_t *area = (uint8_t *)__builtin_thread_pointer() + __rseq_offset;

	for (uint32_t bytes = 32; __rseq_size && bytes <= 1024; bytes += 32)
		if (syscall(SYS_rseq, area, bytes, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0)
			return;
}

__attribute__((noreturn)) static void enter_blob(const struct restore_session *s,
						 const struct blob_slot *slot)
{
	__asm__ volatile("jmp *%0" : : "r"(s->region + blob_entry()), "D"(slot) : "memory");
	__builtin_unreachable();
}

/* Forks the root with its pid; the child is in the blob. Returns its pid or -1. */
static pid_t clone_root(const struct restore_session *s, uint64_t flags)
{
	struct rtask *root = s->tasks.v[0];
	pid_t vpid = root->vpid;
	struct clone_args args = {
		.flags = flags | CLONE_CLEAR_SIGHAND,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
		.set_tid = (uintptr_t)&vpid,
		.set_tid_size = 1,
	};
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0) {
		leave_rseq();
		enter_blob(s, leader(root)->slot);
	}
	return pid;
}

static const char clone_step[] = "create the first task with its old pid (clone3)";

/* A process in our memory, while this thread is suspended: CLONE_VM | CLONE_VFORK. */
static int maker_main(void *arg)
{
	struct boot *b = arg;
	const char *failed;

	urgent_slack(); /* it stays the default of the whole tree */
	failed = enter_time(b);
	if (!failed) {
		b->report.pid = clone_root(b->s, b->flags | CLONE_PARENT);
		failed = b->report.pid < 0 ? clone_step : NULL;
	}
	b->report.no = failed ? errno : 0;
	strncpy(b->report.step, failed ? failed : "", sizeof(b->report.step) - 1);
	_exit(0);
}

/* Pid 1. Signals of the namespace do not reach it: it has no handlers. */
__attribute__((noreturn)) static void init_main(const struct boot *b)
{
	const char *failed;
	int status, result = 0;
	pid_t root, got;

	urgent_slack();
	failed = enter_time(b);
	root = failed ? -1 : clone_root(b->s, b->flags);
	if (!failed && root < 0)
		failed = clone_step;
	tell(b, failed ? failed : "", failed ? errno : 0, root);
	if (failed)
		_exit(1);
	if (!b->s->opt.kinds->shell_job)
		setsid(); /* a shell job would lose its parent in the session, and with it ^Z */
	prctl(PR_SET_NAME, "ferry-init");
	syscall(SYS_close_range, 0, ~0U, 0);
	for (;;) {
		got = wait4(-1, &status, __WALL, NULL);
		if (got == root)
			result = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (got < 0 && errno == ECHILD)
			_exit(result);
	}
}

/* ---- in the coordinator ---- */

static int check_report(const struct report *r, struct err *err)
{
	if (r->no == EEXIST)
		return err_set(err, r->no, "cannot %s: the pid is in use here", r->step);
	if (r->no)
		return err_sysno(err, r->no, "cannot %s", r->step);
	return 0;
}

static int by_maker(struct boot *b, pid_t *pid_out, struct err *err)
{
	uint8_t *stack = mmap(NULL, MAKER_STACK_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pid_t maker;

	if (stack == MAP_FAILED)
		return err_nomem(err);
	b->report.no = ECHILD; /* what stands there if it dies */
	strcpy(b->report.step, "have the first task made");
	maker = clone(maker_main, stack + MAKER_STACK_BYTES,
		      CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, b);
	if (maker < 0)
		err_sys(err, "cannot fork");
	while (maker > 0 && waitpid(maker, NULL, 0) < 0 && errno == EINTR)
		;
	munmap(stack, MAKER_STACK_BYTES);
	*pid_out = b->report.pid;
	return maker < 0 ? -1 : check_report(&b->report, err);
}

/* Only as a sibling of ours, which cannot come from a maker: our parent would have to reap that. */
static int directly(struct boot *b, pid_t *pid_out, struct err *err)
{
	const char *failed = enter_time(b);

	if (failed)
		return err_sys(err, "cannot %s", failed);
	*pid_out = clone_root(b->s, b->flags | (b->s->opt.sibling ? CLONE_PARENT : 0));
	if (*pid_out >= 0)
		return 0;
	if (errno == EEXIST)
		return err_set(err, errno, "cannot %s: the pid is in use here", clone_step);
	return err_sys(err, "cannot %s", clone_step);
}

static int by_init(struct boot *b, struct err *err)
{
	struct restore_session *s = b->s;
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_CLEAR_SIGHAND | (s->opt.sibling ? CLONE_PARENT : 0),
		.exit_signal = s->opt.sibling ? 0 : SIGCHLD,
	};
	struct report r = {0};
	pid_t pid;
	int p[2], rc;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "cannot make a pipe");
	b->out = p[1];
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0) {
		close(p[0]);
		close(p[1]);
		return err_sys(err, "cannot make a pid namespace");
	}
	if (pid == 0)
		init_main(b);
	s->init_pid = pid;
	close(steal_fd(&b->out)); /* or an init that died would never be noticed */
	rc = pt_seize(pid, PTRACE_O_EXITKILL, err);
	if (rc == 0 && io_read_full(p[0], &r, sizeof(r)) < 0)
		rc = err_sys(err, "the process that makes the first task died");
	close(p[0]);
	return rc < 0 ? -1 : check_report(&r, err);
}

static int open_pidns(struct restore_session *s, pid_t member, struct err *err)
{
	s->pidns_fd = io_openf(O_RDONLY, "/proc/%d/ns/pid", member);
	return s->pidns_fd < 0 ? err_sys(err, "cannot open the new pid namespace") : 0;
}

static int make_root(struct restore_session *s, struct boot *b, pid_t *pid, struct err *err)
{
	struct rtask *root = s->tasks.v[0];
	int r;

	if (s->new_pidns && root->vpid != 1)
		return by_init(b, err) < 0 ? -1 : open_pidns(s, s->init_pid, err);
	if (s->new_pidns)
		b->flags |= CLONE_NEWPID;
	r = s->opt.sibling ? directly(b, pid, err) : by_maker(b, pid, err);
	if (r == 0 && s->new_pidns)
		r = open_pidns(s, *pid, err);
	return r;
}

static void drop_fds(const struct restore_session *s, struct script *sc)
{
	script_call(sc, "close inherited descriptors", SYS_close_range, SV(0), SV(s->base_fd - 1),
		    SV(0));
}

/* The husk is a copy of us: descriptors and memory go. One that was made ahead shares our descriptors. */
static int empty_root(struct restore_session *s, bool ahead, struct err *err)
{
	struct rslot *rs = leader(s->tasks.v[0]);
	struct script *sc = &rs->script;
	static const uint64_t dfl[4];

	s->tasks.v[0]->vdso_now = vdso_set_start(&s->vdso);
	if (!ahead) {
		ipc_script(s, sc);
		drop_fds(s, sc);
	}
	/* zombies must stay, whatever we were started with */
	script_call(sc, "set SIGCHLD to its default", SYS_rt_sigaction, SV(SIGCHLD),
		    SV(script_data(sc, dfl, sizeof(dfl))), SV(0), SV(8));
	if (s->new_pidns)
		script_call(sc, "mount the new pid namespace's /proc", SYS_mount,
			    SV(script_string(sc, "proc")), SV(script_string(sc, "/proc")),
			    SV(script_string(sc, "proc")), SV(MS_NOSUID | MS_NODEV | MS_NOEXEC),
			    SV(0));
	space_empty_script(s, rs);
	return slot_run(s, rs, err) < 0 ? task_wrap(rs->task, err) : 0;
}

static int create(struct restore_session *s, const struct clock_lead *lead, uint64_t flags,
		  struct err *err)
{
	struct rtask *root = s->tasks.v[0];
	struct boot b = {.s = s, .out = -1, .flags = flags};
	sigset_t all, old;
	int r;

	if (lead && compute_offsets(lead, b.offsets, sizeof(b.offsets), err) < 0)
		return -1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* tasks are born with all signals blocked */
	r = make_root(s, &b, &root->pid, err);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0)
		return task_wrap(root, err);
	root->queued = true;
	return 0;
}

/* What the broker has opened since the task was made; as a fork would do it. */
static int take_fds(struct restore_session *s, struct err *err)
{
	struct rtask *root = s->tasks.v[0];
	struct rlimit lim;

	/* the numbers of the broker are above the limit that the task was born with */
	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || prlimit(root->pid, RLIMIT_NOFILE, &lim, NULL) < 0) {
		err_sys(err, "cannot set the limit of open files");
		return task_wrap(root, err);
	}
	script_call(&leader(root)->script, "take a copy of our descriptors (unshare)", SYS_unshare,
		    SV(CLONE_FILES));
	ipc_script(s, &leader(root)->script);
	drop_fds(s, &leader(root)->script);
	return slot_run(s, leader(root), err) < 0 ? task_wrap(root, err) : 0;
}

int root_create(struct restore_session *s, struct err *err)
{
	struct rtask *root = s->tasks.v[0];
	const TimensEntry *te = s->r.snap->timens;
	struct clock_lead lead;

	if (root->pid)
		return mounts_leave(s, err) < 0 ? -1 : take_fds(s, err);
	if (te)
		lead = clock_lead_of(te);
	if (create(s, te ? &lead : NULL, 0, err) < 0 || mounts_leave(s, err) < 0)
		return -1;
	return task_born(s, root, err) < 0 ? -1 : empty_root(s, false, err);
}

int root_create_ahead(struct restore_session *s, const struct clock_lead *lead, struct err *err)
{
	struct rtask *root = s->tasks.v[0];

	if (create(s, lead, CLONE_FILES, err) < 0 || task_born(s, root, err) < 0 ||
	    pt_seize(root->pid, PTRACE_O_EXITKILL, err) < 0)
		return -1;
	root->seized = true;
	return empty_root(s, true, err);
}

/* ---- pids ---- */

/* Before Linux 6.12: look for the process whose innermost pid it is. */
static int search_pid(pid_t init, pid_t vpid, pid_t *out, struct err *err)
{
	proc_pids tree = {0};
	pid_t found = 0;

	if (proc_tree(init, &tree, err) < 0)
		return -1;
	for (size_t i = 0; i < tree.n && !found; i++) {
		proc_pids threads = {0};

		if (proc_threads(tree.v[i], &threads, err) < 0)
			continue; /* it may be gone by now */
		for (size_t j = 0; j < threads.n && !found; j++) {
			struct proc_status st = {0};

			if (proc_status(threads.v[j], &st, err) == 0 && st.nspid.n > 0 &&
			    st.nspid.v[st.nspid.n - 1] == vpid)
				found = threads.v[j];
			proc_status_finish(&st);
		}
		vec_free(&threads);
	}
	vec_free(&tree);
	*out = found;
	return found ? 0 :
		       err_set(err, ESRCH, "pid %d of the new pid namespace cannot be found", vpid);
}

int real_pid(struct restore_session *s, pid_t vpid, pid_t *out, struct err *err)
{
	struct rtask *root = s->tasks.v[0];
	int pid;

	if (!s->new_pidns) {
		*out = vpid;
		return 0;
	}
	pid = ioctl(s->pidns_fd, NS_GET_PID_FROM_PIDNS, vpid);
	if (pid > 0) {
		*out = pid;
		return 0;
	}
	return search_pid(s->init_pid ? s->init_pid : root->pid, vpid, out, err);
}

int task_born(struct restore_session *s, struct rtask *t, struct err *err)
{
	pid_t pid;

	if (real_pid(s, t->vpid, &pid, err) < 0)
		return -1;
	t->pid = leader(t)->tid = pid;
	t->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (t->pidfd < 0)
		return err_sys(err, "cannot open a pidfd");
	if (!t->snap || t->zombie)
		return 0;
	if (pt_seize(pid, PTRACE_O_EXITKILL, err) < 0)
		return -1;
	t->seized = true;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Visits to a live, stopped task: the blob is brought in, runs scripts, and is
 * taken away again, in such a way that the task survives our death at any
 * instruction.
 *
 * How. The only memory of a task that nobody uses and that can hold code is the
 * zero tail of an executable mapping, first of all of the vdso (1.4 KiB here). We
 * write a stub there, through /proc/PID/mem: code that can unmap the blob, put
 * back the signal mask and every general register, and jump to where the task
 * was; and behind the code the values to put back. From the moment that a
 * thread's registers point into the stub or the blob, the way home is there:
 *
 *	entry	syscall (mmap of the blob's region); falls through to
 *	unmap	syscall (munmap of the region)
 *	mask	rt_sigprocmask
 *	home	general registers, flags, jump
 *
 * While we live we let it make one `syscall` and set the registers ourselves; if
 * we die, the thread just runs on, and this is the right thing to do. In the blob
 * it waits on a robust futex of ours, so it learns of our death at once.
 * Vector registers are never touched by stub or blob, and no call of theirs
 * disturbs the restart block of an interrupted sleep.
 *
 * The thread that opened the visit (the host) stays in the blob until the end
 * and unmaps the region. Other threads of the process may enter as guests, a few
 * at a time; if we die meanwhile, the host lets the guests leave first.
 */
#ifndef FERRY_BLOB_VISIT_H
#define FERRY_BLOB_VISIT_H

#include "blob/run.h"
#include "kernel/proc.h"
#include "kernel/ptrace.h"

/* A thread that is in the trap of pt_interrupt, and what it must get back. */
struct visit_thread {
	pid_t tid;
	struct user_regs_struct regs; /* set at the end: the thread's own, or as the caller wants them */
	uint64_t sigmask;
};

enum { VISIT_REGION_BYTES = 512 * 1024, VISIT_MAX_GUESTS = 16 };

struct visit {
	struct visit_thread host;
	pid_t pid;
	uint64_t stub; /* where its code is */
	uint64_t set;  /* where our values are */
	uint64_t sequence;
	const proc_vmas *vmas; /* the caller's; until it is open */
	bool entered;          /* there may be a stub, and registers that are not the host's own */
	bool mapping;          /* the host is making the region */
	bool inside;           /* the host executes the blob */
	bool others;           /* a killed visitor's values are there, too */
	bool clear;            /* and what it left is to be unmapped */
	bool lost;             /* closing failed */
	int traps;             /* of the call that the host is making, how many are still to come */
	int mem_fd;            /* /proc/PID/mem; -1: closed */
	uint8_t *ours;         /* the region */
	uint64_t theirs;
	struct blob_slot *slot, *guest_slot[VISIT_MAX_GUESTS];
	unsigned int n_guests; /* how many may come at a time */
	unsigned int room;     /* for how many there is room in the stub's page */
	/* large, and nothing before the visit is open: last, so that nobody clears them */
	struct script script, guest_script[VISIT_MAX_GUESTS];
};

/* Has a visitor been killed in the process whose memory @mem_fd is? Only then the next question makes sense. */
bool visit_has_leftovers(int mem_fd, const proc_vmas *vmas) must_check;

/*
 * Is a stopped thread with these registers still on its way home from a visitor
 * that was killed, or in a signal handler on top of it? Then it must run a
 * little before anything is done with it: its registers are not its own yet.
 * "Maybe" is said of a thread whose stack holds the frame of a handler that
 * returns to the way: the handler runs, or it is a dead frame. A host can need a
 * moment (it waits for guests, which may be stopped), and on a busy machine a
 * thread that may run does not run at once: the naps between the questions get
 * longer.
 */
enum visit_way { VISIT_AT_HOME, VISIT_MAYBE_AWAY, VISIT_AWAY };
enum visit_way visit_way_home(pid_t pid, const proc_vmas *vmas, const struct user_regs_struct *regs)
	must_check;
enum { VISIT_HOME_TRIES = 200 };
static inline long visit_nap_ns(int tries)
{
	return tries < 20 ? 200000 : tries < 100 ? 2000000 : 20000000;
}

/*
 * Brings the blob in, with places for up to @guests other threads at a time.
 * @vmas: the process's areas. @keep_left: a thread may be away still, so what
 * killed visitors left stays mapped. On failure the thread is as it was.
 */
int visit_open(struct visit *v, pid_t pid, const struct visit_thread *host, unsigned int guests,
	       const proc_vmas *vmas, bool keep_left, struct err *err) must_check;

/*
 * The same for several processes at once, so that one can be worked at while others are on their
 * way: first visit_prepare() for each, which changes nothing yet (@vmas must stay until they are
 * open); then all are opened or, after a failure, all closed. A visit that was only prepared is closed, too.
 */
int visit_prepare(struct visit *v, pid_t pid, const struct visit_thread *host, unsigned int guests,
		  const proc_vmas *vmas, bool keep_left, struct err *err) must_check;
int visits_open(struct visit *const *v, size_t n, struct err *err) must_check;

/* Runs v->script in the host thread; results stay readable until the script is reset. */
int visit_run(struct visit *v, struct err *err) must_check;

/* Starts it and does not wait: for who has something to do meanwhile. Then waits for what was started. */
int visit_start(struct visit *v, struct err *err) must_check;
int visit_wait(struct visit *v, struct err *err) must_check;

/* Can the host still answer? For loops that wait for it, every few milliseconds: 0, or -1. */
int visit_alive(struct visit *v, struct err *err) must_check;

/*
 * A descriptor that the host makes by one system call, and that becomes ours: it
 * is closed in the task within the same script, also if we die meanwhile. v->script must be
 * empty, and is so afterwards. @what names it for messages ("a userfaultfd"). err.no
 * is the errno of the call, if it was the call that failed.
 */
int visit_take_fd(struct visit *v, const char *what, long nr, uint64_t arg0, uint64_t arg1,
		  int *fd_out, struct err *err) must_check;

/*
 * Other threads run v->guest_script[0..n): enter, run, leave. They are stopped
 * and themselves again at return. @n is at most v->n_guests. The host has run a script before.
 */
int visit_guests(struct visit *v, const struct visit_thread *guests, unsigned int n, struct err *err)
	must_check;

/* The host leaves, the region and the stub are gone. Always releases what is ours; -1 if the task ended. */
int visit_close(struct visit *v, struct err *err) must_check;
/* Several: the first error, after all of them were tried. */
int visits_close(struct visit *const *v, size_t n, struct err *err) must_check;

#endif

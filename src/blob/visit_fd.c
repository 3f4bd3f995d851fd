// SPDX-License-Identifier: Apache-2.0
/*
 * Taking a descriptor that only the task itself can make. The script makes it,
 * says so, waits until we have taken our copy or are dead, and closes it: at no
 * moment does its life in the task depend on us.
 *
 * The wait is a futex_waitv(2) without a timeout, as the blob's own: it leaves
 * the restart block alone.
 */
#include "blob/visit.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* What script and coordinator tell each other. */
struct handover {
	uint32_t made;  /* futex: the descriptor is there, or the call failed */
	uint32_t taken; /* futex */
	struct {
		uint64_t val, uaddr;
		uint32_t flags, reserved;
	} wait[2]; /* for taken, and for our death: struct futex_waitv */
};

static uint64_t add_handover(struct visit *v, struct handover **ours_out)
{
	struct handover h = {.wait = {{.flags = FUTEX_32}, {.flags = FUTEX_32}}};
	uint64_t at = script_data(&v->script, NULL, sizeof(h));
	uint64_t slot = v->theirs + (uint64_t)((uint8_t *)v->slot - v->ours);

	*ours_out = NULL;
	if (v->script.overflow)
		return 0;
	h.wait[0].uaddr = at + offsetof(struct handover, taken);
	h.wait[1].uaddr = slot + offsetof(struct blob_slot, owner);
	h.wait[1].val = v->slot->owner;
	*ours_out = script_ptr(&v->script, at);
	**ours_out = h;
	return at;
}

static int host_alive(void *arg, struct err *err)
{
	return visit_alive(arg, err);
}

/* Waits until the script has made the call. */
static int await_made(struct visit *v, struct handover *h, struct err *err)
{
	static const struct timespec tick = {.tv_nsec = 2 * 1000 * 1000};

	while (!__atomic_load_n(&h->made, __ATOMIC_ACQUIRE))
		if (syscall(SYS_futex, &h->made, FUTEX_WAIT, 0, &tick, NULL, 0) < 0 &&
		    errno == ETIMEDOUT && visit_alive(v, err))
			return -1;
	return 0;
}

static int take(struct visit *v, const char *what, int64_t theirs, int *fd_out, struct err *err)
{
	cleanup_close int pidfd = -1;

	if (theirs < 0)
		return err_sysno(err, (int)-theirs, "pid %d: cannot make %s", v->pid, what);
	pidfd = (int)syscall(SYS_pidfd_open, v->pid, 0);
	if (pidfd >= 0)
		*fd_out = (int)syscall(SYS_pidfd_getfd, pidfd, (int)theirs, 0);
	if (*fd_out < 0)
		return err_sys(err, "pid %d: cannot take %s", v->pid, what);
	return 0;
}

int visit_take_fd(struct visit *v, const char *what, long nr, uint64_t arg0, uint64_t arg1,
		  int *fd_out, struct err *err)
{
	struct handover *h;
	uint64_t at = add_handover(v, &h);
	unsigned int make;
	struct err late;
	int rc;

	*fd_out = -1;
	make = script_try(&v->script, what, nr, SV(arg0), SV(arg1));
	script_call(&v->script, "say that it is there", BLOB_OP_STORE32,
		    SV(at + offsetof(struct handover, made)), SV(1));
	script_try(&v->script, "wake ferry", SYS_futex, SV(at + offsetof(struct handover, made)),
		   SV(FUTEX_WAKE), SV(1), SV(0), SV(0), SV(0));
	script_try(&v->script, "wait for ferry", SYS_futex_waitv,
		   SV(at + offsetof(struct handover, wait)), SV(2), SV(0), SV(0), SV(0));
	script_try(&v->script, "close it", SYS_close, SR(make));
	if (!h || v->script.overflow)
		return err_set(err, ENOSPC, "a script for thread %d does not fit", v->host.tid);
	if (visit_start(v, err))
		return -1;
	rc = await_made(v, h, err);
	if (rc == 0)
		rc = take(v, what, script_result(&v->script, make), fd_out, err);
	__atomic_store_n(&h->taken, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &h->taken, FUTEX_WAKE, 1, NULL, NULL, 0);
	if (blob_wait(v->slot, &v->script, host_alive, v, rc ? &late : err))
		rc = -1;
	script_reset(&v->script);
	if (rc && *fd_out >= 0)
		close(steal_fd(fd_out));
	return rc;
}

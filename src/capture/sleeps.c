// SPDX-License-Identifier: Apache-2.0
/*
 * See sleeps.h. The states are those of the kernel's restart block: a call that returns
 * ERESTART_RESTARTBLOCK is replaced by restart_syscall when its thread runs on, with no other register
 * changed (arch/x86, handling of signals on the way out of a system call).
 */
#define LOG_MODULE "sleeps"
#include "capture/sleeps.h"

#include "base/log.h"
#include "kernel/proc.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not in errno.h: the kernel's own. */
enum { RESTART_BY_BLOCK = 516 };

static size_t place_of(const struct sleeps *s, pid_t tid)
{
	size_t low = 0, high = s->notes.n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (s->notes.v[mid].tid < tid)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct sleep_note *find_note(const struct sleeps *s, pid_t tid)
{
	size_t at = place_of(s, tid);

	return at < s->notes.n && s->notes.v[at].tid == tid ? &s->notes.v[at] : NULL;
}

int sleeps_add(struct sleeps *s, const struct sleep_note *note, struct err *err)
{
	size_t at = place_of(s, note->tid);

	if (at == s->notes.n || s->notes.v[at].tid != note->tid) {
		if (!vec_push(&s->notes, *note))
			return err_nomem(err);
		memmove(&s->notes.v[at + 1], &s->notes.v[at], (s->notes.n - 1 - at) * sizeof(*note));
	}
	s->notes.v[at] = *note;
	return 0;
}

static void forget(struct sleeps *s, pid_t tid)
{
	struct sleep_note *note = find_note(s, tid);

	if (!note)
		return;
	memmove(note, note + 1, (size_t)(&s->notes.v[s->notes.n] - (note + 1)) * sizeof(*note));
	s->notes.n--;
}

static struct sleep_note note_of(pid_t tid, const struct user_regs_struct *r)
{
	struct sleep_note note = {.tid = tid,
				  .nr = r->orig_rax,
				  .ip = r->rip,
				  .sp = r->rsp,
				  .args = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9}};
	struct proc_stat st;
	struct err ignored;

	if (proc_stat(tid, &st, &ignored) == 0)
		note.start_time = st.start_time;
	return note;
}

static bool same_call(const struct sleep_note *a, const struct sleep_note *b)
{
	return a->start_time == b->start_time && a->ip == b->ip && a->sp == b->sp &&
	       memcmp(a->args, b->args, sizeof(a->args)) == 0;
}

/* Calls that have a restart block, on this architecture. */
static bool can_sleep_on(uint64_t nr)
{
	return nr == SYS_nanosleep || nr == SYS_clock_nanosleep || nr == SYS_futex || nr == SYS_poll;
}

/* mov $NR,%eax; syscall. Nobody would jump between the two. -1: there is something else. */
static int64_t number_in_code(int mem_fd, uint64_t ip)
{
	uint8_t code[7];
	uint32_t nr;

	if (pread(mem_fd, code, sizeof(code), (off_t)(ip - sizeof(code))) != (ssize_t)sizeof(code) ||
	    code[0] != 0xb8 || code[5] != 0x0f || code[6] != 0x05)
		return -1;
	memcpy(&nr, &code[1], sizeof(nr));
	return can_sleep_on(nr) ? (int64_t)nr : -1;
}

int sleeps_settle(struct sleeps *s, pid_t tid, int mem_fd, struct user_regs_struct *regs,
		  struct err *err)
{
	const struct sleep_note *known;
	struct sleep_note now;
	int64_t nr;

	if ((int64_t)regs->orig_rax < 0 || (int64_t)regs->rax != -RESTART_BY_BLOCK) {
		forget(s, tid);
		return 0;
	}
	now = note_of(tid, regs);
	if (regs->orig_rax != SYS_restart_syscall)
		return sleeps_add(s, &now, err);
	known = find_note(s, tid);
	if (known && same_call(known, &now)) {
		regs->orig_rax = known->nr;
		return 0;
	}
	forget(s, tid);
	nr = number_in_code(mem_fd, regs->rip);
	if (nr >= 0)
		regs->orig_rax = (uint64_t)nr;
	else
		log_info("thread %d: which call it sleeps in is not known; elsewhere it ends with EINTR",
			 tid);
	return 0;
}

void sleeps_finish(struct sleeps *s)
{
	vec_free(&s->notes);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The interpreter that runs inside tasks. Freestanding: no libc, no data, no
 * relocations; everything is in the section blob_text, which is copied as it
 * is to wherever it shall run. It touches general registers only, so the
 * task's vector state is never disturbed.
 *
 * It makes no sleeping system call with a timeout: such a call would replace
 * the restart block of the call that the task was interrupted in.
 */
#include "blob/op.h"

#include <asm/unistd.h>
#include <linux/futex.h>
#include <stddef.h>

#define BLOB static __attribute__((section("blob_text"), noinline, no_stack_protector))

#ifndef __NR_futex_waitv
#define __NR_futex_waitv 449
#endif

struct waitv {
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};

/* The first function of the section's order is found by symbol, not by position. */
void blob_enter(void);

__attribute__((always_inline)) static inline int64_t sys6(int64_t nr, uint64_t a, uint64_t b,
							  uint64_t c, uint64_t d, uint64_t e,
							  uint64_t f)
{
	register uint64_t r10 __asm__("r10") = d;
	register uint64_t r8 __asm__("r8") = e;
	register uint64_t r9 __asm__("r9") = f;
	int64_t ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

BLOB void blob_loop(struct blob_slot *slot);

/* clone_into: clone3 whose child continues in blob_loop() on the stack that the arguments name. */
__asm__(".pushsection blob_text, \"ax\"\n"
	"clone_into:\n"
	"	mov %rdx, %r12\n" /* saved by the caller, see run_op */
	"	mov $435, %eax\n" /* clone3 */
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jz 1f\n"
	"	ret\n"
	"1:	mov %r12, %rdi\n"
	"	xor %ebp, %ebp\n"
	"	call blob_loop\n"
	"	ud2\n"
	".popsection\n");

BLOB int64_t do_clone(uint64_t args, uint64_t size, uint64_t child_slot)
{
	int64_t ret;

	/* clone_into changes r12, rcx, r11: tell the compiler. */
	__asm__ volatile("call clone_into"
			 : "=a"(ret), "+D"(args), "+S"(size), "+d"(child_slot)
			 :
			 : "r12", "rcx", "r11", "r8", "r9", "r10", "memory", "cc");
	return ret;
}

/*
 * timer_create gives increasing ids: create and delete until the wanted one
 * comes up. For kernels without PR_TIMER_CREATE_RESTORE_IDS (before 6.15).
 */
BLOB int64_t timer_create_id(uint64_t clock, uint64_t sigevent, int32_t id, uint64_t id_addr)
{
	volatile int32_t *got = (volatile int32_t *)id_addr;
	int64_t ret;

	for (;;) {
		*got = id;
		ret = sys6(__NR_timer_create, clock, sigevent, id_addr, 0, 0, 0);
		if (ret < 0 || *got == id)
			return ret;
		sys6(__NR_timer_delete, (uint64_t)*got, 0, 0, 0, 0, 0);
		if (*got > id)
			return -17; /* EEXIST: the counter is past it */
	}
}

BLOB int64_t run_op(const struct blob_op *ops, const struct blob_op *op)
{
	uint64_t a[6];
	int i;

	for (i = 0; i < 6; i++)
		a[i] = op->arg_kind[i] == BLOB_ARG_RESULT ? (uint64_t)ops[op->arg[i]].result :
							    op->arg[i];
	if (op->nr >= 0)
		return sys6(op->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (op->nr == BLOB_OP_CLONE)
		return do_clone(a[0], a[1], a[2]);
	if (op->nr == BLOB_OP_TIMER_CREATE)
		return timer_create_id(a[0], a[1], (int32_t)a[2], a[3]);
	if (op->nr == BLOB_OP_STORE32) {
		*(volatile uint32_t *)a[0] = (uint32_t)a[1];
		return 0;
	}
	if (op->nr == BLOB_OP_STORE64) {
		*(volatile uint64_t *)a[0] = a[1];
		return 0;
	}
	if (op->nr == BLOB_OP_RDTSC)
		return (int64_t)__builtin_ia32_rdtsc();
	return -38; /* ENOSYS */
}

BLOB int as_expected(const struct blob_op *op)
{
	if (op->expect == BLOB_EXPECT_ANY)
		return 1;
	if (op->expect == BLOB_EXPECT_ZERO)
		return op->result == 0;
	if (op->expect == BLOB_EXPECT_SAME)
		return op->result == op->want;
	return (uint64_t)op->result < (uint64_t)-4095;
}

BLOB void run_script(struct blob_slot *slot)
{
	struct blob_op *ops = (struct blob_op *)slot->ops;
	uint32_t i;

	slot->failed = 0;
	for (i = 0; i < slot->n_ops; i++) {
		ops[i].result = run_op(ops, &ops[i]);
		if (!as_expected(&ops[i])) {
			slot->failed = i + 1;
			return;
		}
	}
}

/* How long the host waits for guests: one may never have come in (we died just then). */
enum { GUEST_PATIENCE_NS = 20 * 1000 * 1000 };

BLOB int64_t now_ns(void)
{
	int64_t ts[2] = {0, 0};

	sys6(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (uint64_t)ts, 0, 0, 0, 0);
	return ts[0] * 1000000000 + ts[1];
}

/*
 * Waits until all guests have left. A clock measures it, not a number of tries:
 * on a busy machine one yield can take as long as everything else together.
 */
BLOB int guests_left(const struct blob_slot *slot)
{
	int64_t end = 0;
	uint32_t guest;

	for (guest = 0; guest < slot->guests; guest++) {
		const uint32_t *gone = (const uint32_t *)(slot->guest_gone +
							  guest * slot->guest_stride);

		while (!__atomic_load_n(gone, __ATOMIC_ACQUIRE)) {
			int64_t now = now_ns();

			if (!end)
				end = now + GUEST_PATIENCE_NS;
			if (now > end)
				return 0;
			sys6(__NR_sched_yield, 0, 0, 0, 0, 0, 0);
		}
	}
	return 1;
}

BLOB void leave(struct blob_slot *slot)
{
	uint64_t home;

	if (slot->flags & BLOB_DIE_WITH_OWNER)
		for (;;)
			sys6(__NR_exit_group, 1, 0, 0, 0, 0, 0);
	/* The region is ours to unmap, but not under the feet of guests: then the next visitor does it. */
	home = guests_left(slot) ? slot->home : slot->home_keep;
	__asm__ volatile("jmp *%0" : : "r"(home), "b"(slot->home_values));
	__builtin_unreachable();
}

/* A wake-up costs as much as a whole script. */
enum { SPINS = 1000 };

BLOB void spin(const struct blob_slot *slot, uint32_t command)
{
	int i;

	for (i = 0; i < SPINS && __atomic_load_n(&slot->command, __ATOMIC_RELAXED) == command; i++)
		__builtin_ia32_pause();
}

BLOB __attribute__((used)) void blob_loop(struct blob_slot *slot)
{
	struct waitv w[2];
	uint32_t command, owner;

	for (;;) {
		command = __atomic_load_n(&slot->command, __ATOMIC_ACQUIRE);
		owner = __atomic_load_n(&slot->owner, __ATOMIC_ACQUIRE);
		if (owner & FUTEX_OWNER_DIED)
			leave(slot);
		if (command != slot->done) {
			run_script(slot);
			__atomic_store_n(&slot->done, command, __ATOMIC_RELEASE);
			sys6(__NR_futex, (uint64_t)&slot->done, FUTEX_WAKE, 1, 0, 0, 0);
			continue;
		}
		if (slot->flags & BLOB_SPIN)
			spin(slot, command);
		w[0].val = command;
		w[0].uaddr = (uint64_t)&slot->command;
		w[1].val = owner;
		w[1].uaddr = (uint64_t)&slot->owner;
		w[0].flags = w[1].flags = FUTEX_32;
		w[0].reserved = w[1].reserved = 0;
		sys6(__NR_futex_waitv, (uint64_t)w, 2, 0, 0, 0, 0);
	}
}

/* Entry from outside: rdi = slot. */
__attribute__((section("blob_text"), naked, used)) void blob_enter(void)
{
	__asm__ volatile("mov %c0(%%rdi), %%rsp\n"
			 "xor %%ebp, %%ebp\n"
			 "call blob_loop\n"
			 "ud2\n"
			 :
			 : "i"(offsetof(struct blob_slot, stack_top)));
}

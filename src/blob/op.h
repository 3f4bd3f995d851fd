// SPDX-License-Identifier: Apache-2.0
/*
 * What the blob and its coordinator share: the layout of the region, slots and
 * operations. Freestanding; included by both sides.
 *
 * The blob is one small position-independent program. It is mapped, with a
 * shared data region, into a stopped task (capture) or is all there is in a
 * half-built one (restore), and executes scripts: arrays of operations, almost
 * all of them one system call. Everything that thinks is outside.
 *
 * A task (or thread) that executes the blob owns one slot. The coordinator
 * writes a script into the slot's data area, sets `command` and wakes it; the
 * blob runs the operations until one fails, sets `done` to the command number
 * and wakes the coordinator. While it waits it also watches the region's owner
 * word, a robust futex of the coordinator: when the coordinator dies, the
 * kernel marks the word, and the blob goes home (capture) or exits (restore).
 */
#ifndef FERRY_BLOB_OP_H
#define FERRY_BLOB_OP_H

#include <stdint.h>

enum blob_arg_kind {
	BLOB_ARG_VALUE = 0,
	BLOB_ARG_RESULT = 1, /* the result of operation number arg[i] of this script */
};

enum blob_expect {
	BLOB_EXPECT_OK = 0, /* not an errno */
	BLOB_EXPECT_ZERO,
	BLOB_EXPECT_SAME, /* == want */
	BLOB_EXPECT_ANY,  /* the coordinator looks at the result itself */
};

/* Operation numbers below zero are not system calls. */
enum blob_op_nr {
	BLOB_OP_CLONE = -2, /* arg: clone_args (its stack fields are the child slot's), size, child slot address */
	BLOB_OP_TIMER_CREATE =
		-3, /* arg: clock, sigevent, id wanted, address of an int: create until the id fits */
	BLOB_OP_STORE32 = -4, /* arg: address, value */
	BLOB_OP_STORE64 = -5, /* arg: address, value */
	BLOB_OP_RDTSC = -6,   /* result: the time stamp counter; for tests */
};

struct blob_op {
	int64_t nr;
	uint64_t arg[6];
	uint8_t arg_kind[6];
	uint8_t expect;
	uint8_t pad;
	int64_t want;
	int64_t result;
};

enum blob_flags {
	BLOB_DIE_WITH_OWNER = 1, /* restore: exit_group when the coordinator is gone */
	BLOB_SPIN = 2, /* the next command comes at once: look for it a while before sleeping */
};

struct blob_slot {
	uint32_t command; /* futex; coordinator: number of the command to run, 0 at first */
	uint32_t done;    /* futex; blob: number of the last command that ended */
	uint32_t owner; /* robust futex word of the coordinator (its tid, then FUTEX_OWNER_DIED) */
	uint32_t flags;
	uint64_t home; /* where to jump when the owner died, see visit.h */
	uint64_t ops;  /* address of the script, in the task's space */
	uint32_t n_ops;
	uint32_t failed; /* 0, or 1 + index of the operation that failed */
	uint64_t stack_top;
	uint64_t data; /* address and size of the slot's data area */
	uint64_t data_bytes;
	uint64_t home_values; /* in rbx then */
	uint64_t home_keep;   /* as home, but without unmapping the region */
	uint32_t guests;      /* host: so many may be inside; each sets a word when it has left: */
	uint32_t pad;
	uint64_t guest_gone, guest_stride; /* address of the first word, distance of the next */
	uint64_t robust;                   /* coordinator: link of its robust list */
	uint64_t on_list;
};

#endif

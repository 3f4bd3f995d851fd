// SPDX-License-Identifier: Apache-2.0
/*
 * The way home of a visited thread (blob/visit.h): the code in the zero tail of an executable
 * mapping, the values behind it, and how both are found again when their visitor was killed.
 */
#ifndef FERRY_BLOB_STUB_H
#define FERRY_BLOB_STUB_H

#include "blob/visit.h"

/*
 * What one thread gets back. The code finds it through rbx; the last two
 * instructions, which restore rbx itself, are in the tail.
 */
struct stub_values {
	uint64_t sequence;      /* 0: free; else the higher, the later */
	uint64_t region, bytes; /* to unmap; guests: 0 */
	uint64_t gone; /* guests: set by the tail, when the region is not needed any more */
	uint64_t mask, flags;
	uint64_t tail_address;
	uint64_t r15, r14, r13, r12, rbp, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rsp, rbx, rip;
	uint8_t tail[16]; /* mov rbx(%rip), %rbx; jmp *rip(%rip) */
};

/* The last instructions of a guest, whose values are in the region: they say that it is not needed any more. */
struct guest_tail {
	uint64_t rbx, rip;
	uint8_t code[24]; /* movl $1, gone(%rbx); mov rbx(%rip), %rbx; jmp *rip(%rip) */
};

/*
 * Behind the code are two sets: the values of a host and the tails of its
 * guests. A visitor that finds the values of one that was killed takes the
 * other set: a signal handler may be running on top of a thread's way home, and
 * will return to it.
 */
enum { STUB_MAX_SETS = 2 };

/* The code, to be copied, and its labels. Never run here. */
extern const uint8_t ferry_stub[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_entry[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_home[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_unmap[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_mask[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_end[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_tail[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_guest_tail[] __attribute__((visibility("hidden")));

static inline size_t stub_code_bytes(void)
{
	return (size_t)(ferry_stub_end - ferry_stub);
}

/* Where a label is in a copy of the code at @stub. */
static inline uint64_t stub_label(uint64_t stub, const uint8_t *label)
{
	return stub + (uint64_t)(label - ferry_stub);
}

/* What brings a thread back to where it is. */
struct stub_values stub_values_for(const struct visit_thread *t);

/* A place for a stub in a process. */
struct stub_place {
	uint64_t stub;
	unsigned int sets, guests;                /* guests a set */
	bool leftover;                            /* a visitor was killed here */
	struct stub_values values[STUB_MAX_SETS]; /* as they are there now */
};

/* Bytes of one set; address of set number @set of a stub. */
uint64_t stub_set_bytes(unsigned int guests);
uint64_t stub_set_at(uint64_t stub, unsigned int guests, unsigned int set);

/* Looks in the process whose memory @mem_fd is and whose areas @vmas are. False: there is no room. */
bool stub_find_place(int mem_fd, const proc_vmas *vmas, struct stub_place *p) must_check;

/* The set to use: a free one, or else the one that was left longest ago; and the sequence number for it. */
unsigned int stub_choose_set(const struct stub_place *p, uint64_t *sequence);

/* Is this area the region of a visitor that was killed? */
bool stub_is_region(int mem_fd, const struct proc_vma *vma);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The extended registers of a thread: the kernel's xsave area (regset
 * NT_X86_XSTATE, standard format) to and from the message of core images.
 */
#ifndef FERRY_KERNEL_XSTATE_H
#define FERRY_KERNEL_XSTATE_H

#include "base/arena.h"
#include "base/attrs.h"
#include "base/err.h"

#include "core-x86.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

/* The largest area that any known CPU needs (with AMX tiles: 11 KiB). */
enum { XSTATE_MAX_BYTES = 16384 };

/* The components that this machine's kernel enabled (XCR0), and the size of its user xsave area. */
uint64_t xstate_xcr0(void);
size_t xstate_bytes(void);

/*
 * An area of @bytes as PTRACE_GETREGSET gave it, as a message in the arena.
 * Fails on a component in use that the image format cannot express (AMX tiles).
 */
int xstate_to_fpregs(const void *xsave, size_t bytes, struct arena *arena, UserX86FpregsEntry **out,
		     struct err *err) must_check;

/*
 * Fills an area of @bytes for PTRACE_SETREGSET on this machine; @bytes is what
 * PTRACE_GETREGSET reports here. Fails as xstate_check does.
 */
int xstate_from_fpregs(const UserX86FpregsEntry *fp, void *xsave, size_t bytes, struct err *err)
	must_check;

/* Can this CPU hold these registers? The error names the extension that is missing. */
int xstate_check(const UserX86FpregsEntry *fp, struct err *err) must_check;

#endif

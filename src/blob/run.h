// SPDX-License-Identifier: Apache-2.0
/*
 * Running scripts: the coordinator's side of a slot (op.h).
 */
#ifndef FERRY_BLOB_RUN_H
#define FERRY_BLOB_RUN_H

#include "blob/script.h"

#include <stdbool.h>
#include <sys/types.h>

/* The blob's code: position independent, to be copied to executable memory. Entry: rdi = slot address in the task. */
const uint8_t *blob_code(void);
size_t blob_code_bytes(void);
size_t blob_entry(void); /* offset of the entry; rsp need not be set: the slot says where its stack is */

/*
 * Makes a slot ready in shared memory: @ours and @theirs are the same
 * @bytes-long, 64-byte aligned piece of it as we and the task see it; the stack
 * (8 KiB) and the data area are laid out behind the struct. Registers this
 * thread's robust futex for the owner word.
 */
struct blob_slot *blob_slot_init(void *ours, uint64_t theirs, size_t bytes, uint32_t flags,
				 uint64_t home);
enum { BLOB_STACK_BYTES = 8192, BLOB_SLOT_MIN_BYTES = 16384 };

/* Takes the slot off the robust list, before its memory is unmapped. */
void blob_slot_finish(struct blob_slot *slot);

/* A script on the slot's data area. */
void blob_script_init(struct script *s, struct blob_slot *slot, uint64_t slot_theirs);

/* Starts the script built so far; several slots may run at once. */
void blob_start(struct blob_slot *slot, const struct script *s);

/*
 * Waits for its end. @alive is asked every few milliseconds whether the task
 * can still answer: 0, or -1 with the reason. Fails with the label of the
 * operation that failed (script_error).
 */
int blob_wait(struct blob_slot *slot, const struct script *s,
	      int (*alive)(void *arg, struct err *err), void *arg, struct err *err) must_check;

/* Start and wait. */
int script_run(struct blob_slot *slot, const struct script *s,
	       int (*alive)(void *arg, struct err *err), void *arg, struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Builds scripts for the blob and reads their results. A script lives in the
 * data area of one slot, which is shared memory: the builder writes through
 * the coordinator's mapping and hands out addresses of the task's space.
 *
 * Building never fails half-way: a script that overflows its area is marked
 * and script_run() (blob/run.h) reports it.
 */
#ifndef FERRY_BLOB_SCRIPT_H
#define FERRY_BLOB_SCRIPT_H

#include "base/attrs.h"
#include "base/err.h"
#include "blob/op.h"

#include <stdbool.h>
#include <stddef.h>

enum { SCRIPT_MAX_OPS = 1024 };

struct script {
	uint8_t *ours;           /* the data area as the coordinator sees it */
	uint64_t theirs;         /* and as the task sees it */
	size_t bytes, low, high; /* operations grow up from low, data down from high */
	unsigned int n_ops;
	const char *label[SCRIPT_MAX_OPS]; /* string literals or longer-lived strings */
	bool overflow;
};

/* Takes an area of shared memory; empties the script. */
void script_init(struct script *s, void *ours, uint64_t theirs, size_t bytes);
void script_reset(struct script *s);

/* An argument: a plain value, or the result of an earlier operation of the same script. */
struct script_arg {
	uint64_t v;
	enum blob_arg_kind kind;
};
#define SV(x) ((struct script_arg){.v = (uint64_t)(x), .kind = BLOB_ARG_VALUE})
#define SR(op) ((struct script_arg){.v = (uint64_t)(op), .kind = BLOB_ARG_RESULT})

/*
 * Appends an operation; returns its index (also after an overflow, so that
 * callers need not check). @label says what it does, for error text:
 * "set the alternate signal stack".
 */
unsigned int script_op(struct script *s, const char *label, int64_t nr, enum blob_expect expect,
		       int64_t want, const struct script_arg *args, unsigned int n_args);

/* A system call that must not fail: script_call(s, "label", SYS_prctl, SV(PR_SET_NAME), SV(addr)) */
#define script_call(s, label, nr, ...)                                                             \
	script_op((s), (label), (nr), BLOB_EXPECT_OK, 0, (const struct script_arg[]){__VA_ARGS__}, \
		  sizeof((const struct script_arg[]){__VA_ARGS__}) / sizeof(struct script_arg))
/* A system call whose result the coordinator reads with script_result(). */
#define script_try(s, label, nr, ...)                                                               \
	script_op((s), (label), (nr), BLOB_EXPECT_ANY, 0, (const struct script_arg[]){__VA_ARGS__}, \
		  sizeof((const struct script_arg[]){__VA_ARGS__}) / sizeof(struct script_arg))
/* One that must give exactly @want. */
#define script_same(s, label, want, nr, ...)                             \
	script_op((s), (label), (nr), BLOB_EXPECT_SAME, (int64_t)(want), \
		  (const struct script_arg[]){__VA_ARGS__},              \
		  sizeof((const struct script_arg[]){__VA_ARGS__}) / sizeof(struct script_arg))

/* Copies data into the area (or zeroes it if data is NULL); returns its address in the task, 8-aligned (16 from 16 bytes on). */
uint64_t script_data(struct script *s, const void *data, size_t bytes);
uint64_t script_string(struct script *s, const char *text);

/* The coordinator's view of an address that script_data gave. */
void *script_ptr(const struct script *s, uint64_t theirs);

/* Result of an operation after the run: >= 0, or a negative errno. */
int64_t script_result(const struct script *s, unsigned int op);

/* True if another @n_ops operations with @data_bytes of data would still fit (chunk long lists by this). */
bool script_has_room(const struct script *s, unsigned int n_ops, size_t data_bytes);

/* After a run that ended at a failing operation (op->failed): "LABEL: strerror". Returns -1. */
int script_error(const struct script *s, const struct blob_slot *slot, struct err *err);

#endif

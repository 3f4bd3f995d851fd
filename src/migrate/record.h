// SPDX-License-Identifier: Apache-2.0
/*
 * The record of a commit, at the destination: /run/ferry/TOKEN (for other users
 * than root $XDG_RUNTIME_DIR/ferry/TOKEN). It decides, once, whether the tree of
 * this token may run here: whoever makes the file first wins. The agent makes
 * it before it lets the tree run; a source that has lost its agent makes it by
 * a query, and from then on no agent may run that tree.
 *
 * While the agent is between the two it holds a lock (flock) on the file, so
 * that a query waits for the outcome; a lock dies with its holder.
 */
#ifndef FERRY_MIGRATE_RECORD_H
#define FERRY_MIGRATE_RECORD_H

#include "base/err.h"
#include "kernel/proc.h"
#include "wire/msg.h"

#include <stdbool.h>
#include <sys/types.h>

/* The directory of records, opened; made if it is missing. -1 + err. The caller closes it. */
int record_directory(struct err *err) must_check;

/* Other files of a migration there are called TOKEN and what they are (".home"). */
enum { RECORD_NAME_BYTES = WIRE_TOKEN_CHARS + 8 };
void record_name(const char *token, const char *what, char out[RECORD_NAME_BYTES]);
void record_remove_file(const char *token, const char *what);

/*
 * A file there, locked (flock), which appears under @name as a whole or, when the name is taken, not at all: then -1 with
 * EEXIST. The descriptor, or -1 with errno.
 */
struct iovec;
int record_create_file(int dirfd, const char *name, const struct iovec *pieces, size_t n);

/*
 * Claims the token for the tree whose root is @pid. @lacking: the tasks, when they will run without all of
 * their memory, which this process fetches; else NULL. Returns a descriptor that holds the lock, or -1.
 */
int record_claim(const char *token, pid_t pid, const proc_pids *lacking, struct err *err) must_check;

enum record_outcome {
	RECORD_FAILED,
	RECORD_RUNNING,
	RECORD_FILLING, /* it runs, and lacks memory, as was said when it was claimed */
};

/* Writes the outcome and gives up the lock (closes @fd). */
int record_settle(int fd, pid_t pid, enum record_outcome outcome, struct err *err) must_check;

/* A tree that was filling has all of its memory now. */
int record_filled(const char *token, pid_t pid, struct err *err) must_check;

/* The source knows how it went: the record is not needed any more. */
void record_remove(const char *token);

/*
 * What became of the token? If nobody claimed it, nobody ever will after this. A tree that lacks memory, and
 * has lost the process that fetches it, is ended by this if its guardian did not live to do so.
 */
int record_query(const char *token, enum wire_fate *fate_out, pid_t *pid_out, struct err *err)
	must_check;

#endif

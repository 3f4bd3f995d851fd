// SPDX-License-Identifier: Apache-2.0
/*
 * The record of a migration at home: /run/ferry/TOKEN.home (for other users than
 * root below $XDG_RUNTIME_DIR). It is written before the commit and removed when the
 * tree here has been ended or runs on. If every process of the migration is killed in between,
 * the tree is left stopped, and this says which it is, where it may run, and
 * which of its pages may still be asked for: ferry migrate --recover settles it.
 *
 * The driver holds a lock (flock) on it as long as it lives.
 */
#ifndef FERRY_MIGRATE_HOME_H
#define FERRY_MIGRATE_HOME_H

#include "mem/serve.h"
#include "migrate/keeper.h"

/* @serve may be NULL. Returns a descriptor that holds the lock, or -1. */
int home_write(const char *token, const char *host, const kept_tasks *tasks,
	       const struct serve *serve, struct err *err) must_check;

/* It is settled. */
void home_remove(const char *token);

struct home {
	char token[WIRE_TOKEN_CHARS + 1];
	char host[256];
	kept_tasks tasks;    /* those that still live */
	struct serve *serve; /* NULL: no pages were left here */
	int fd;              /* holds the lock */
};

/*
 * Finds the record of a token, or of the tree whose root is this pid. -1 + err: there is
 * none, its tree is gone (then it is removed), or its migration is under way.
 */
int home_open(const char *token_or_pid, struct home *out, struct err *err) must_check;
void home_close(struct home *h);

#endif

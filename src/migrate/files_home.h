// SPDX-License-Identifier: Apache-2.0
/*
 * --files=lazy at home: a process that hands out the files of the tree, for as
 * long as the tree runs at the destination and needs them. It opens the
 * connection, and opens it again when it breaks: ssh goes in the direction that
 * the migration has gone, so the destination needs no way back.
 *
 * What it hands out is said here and not by the destination: what the tasks
 * could read, and the very files that they had open. Read-only (lazyfs/serve.h), unless it was started to take changes.
 */
#ifndef FERRY_MIGRATE_FILES_HOME_H
#define FERRY_MIGRATE_FILES_HOME_H

#include "migrate/connect.h"
#include "migrate/given.h"
#include "migrate/view.h"

struct files_home {
	int control; /* to the process; -1: there is none */
	bool writes; /* it takes changes */
};

/*
 * Starts it; 0: the destination has taken the connection. Until files_home_open nothing but "/" is told.
 * What it hands out is what is seen in @view, which stays the caller's. @writes: it takes changes, as far as the tree could make them.
 */
int files_home_start(const struct remote *remote, const char *token, const struct view *view,
		     bool writes, struct files_home *out, struct err *err) must_check;

/* From now on: the files of the tree of @root, which is stopped; @list are the paths that it has. */
int files_home_open(struct files_home *h, pid_t root, const Wire__FileList *list, struct err *err)
	must_check;

/*
 * Say this before the commit: it goes on without us, until the destination needs nothing more. @root as in files_home_open:
 * where the tree's files are ours, too, it is noted (given.h), so that another process can take over.
 */
int files_home_release(struct files_home *h, pid_t root, struct err *err) must_check;

/* Another process hands out what one did that was killed, and is released already. */
int files_home_again(const struct remote *remote, const struct given *given, struct files_home *out,
		     struct err *err) must_check;

/* The tree is there. What it has changed here (@view) need not be kept here when it has been handed out. */
void files_home_moved(struct files_home *h);

/* It ends: the tree stays here. */
void files_home_end(struct files_home *h);
void files_home_close(struct files_home *h);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The source's side of a migration: its actions in the table of stages
 * (stages.c), and what they share. All of it runs in the driver (keeper.h).
 */
#ifndef FERRY_MIGRATE_SOURCE_H
#define FERRY_MIGRATE_SOURCE_H

#include "base/arena.h"
#include "capture/capture.h"
#include "migrate/files.h"
#include "migrate/keeper.h"
#include "migrate/progress.h"

enum pids_mode { PIDS_SAME = 0, PIDS_AUTO = 1, PIDS_NEW = 2 }; /* on the wire */

struct migrate_options {
	pid_t pid;
	struct kind_options kinds;
	struct file_policy files;
	enum pids_mode pids;
	unsigned int timeout_s; /* for the freeze */
	struct settle_options settle;
	struct progress *progress;
};

struct source {
	const struct migrate_options *opt;
	struct channel ch;
	int link; /* to the front */
	bool same_kernel;
	struct capture_session *capture;
	bool frozen;
	struct file_source *files;
	struct arena paths_arena;
	Wire__FileList paths; /* of the last look */
	kept_tasks kept;      /* armed: the tree would stay stopped without us */
	uint64_t freeze_start_ns, frozen_ns;
	uint64_t memory_bytes;
	pid_t new_pid;
	bool new_pid_namespace;
	enum settled fate; /* when the commit failed */
};

/*
 * Moves the tree of opt->pid. Takes @in and @out (the connection); @link is the
 * driver's end of the link. 0: it runs there.
 */
int migrate_source(const struct migrate_options *opt, int in, int out, int link, struct err *err)
	must_check;

/* ---- the actions ---- */
int source_check_interrupt(struct source *s, struct err *err) must_check;
int source_hello(struct source *s, struct err *err) must_check;
int source_preflight(struct source *s, struct err *err) must_check;
int source_files(struct source *s, struct err *err) must_check;
int source_freeze(struct source *s, struct err *err) must_check;
void source_undo_freeze(struct source *s);
int source_changes(struct source *s, struct err *err) must_check;
int source_state(struct source *s, struct err *err) must_check;
int source_commit(struct source *s, struct err *err) must_check;
void source_undo_commit(struct source *s);
int source_farewell(struct source *s, struct err *err) must_check;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The target's side of a migration: its actions in the table of stages
 * (stages.c). It runs in "ferry agent", which reads and writes nothing but its
 * stdin and stdout.
 */
#ifndef FERRY_MIGRATE_TARGET_H
#define FERRY_MIGRATE_TARGET_H

#include "kernel/proc.h"
#include "kernel/urgent.h"
#include "lazyfs/treeroot.h"
#include "mem/guardian.h"
#include "migrate/files.h"
#include "migrate/lane_source.h"
#include "migrate/transport.h"
#include "restore/restore.h"
#include "wire/channel.h"

#include <pthread.h>
#include <stdatomic.h>

struct target {
	struct channel ch;
	char token[WIRE_TOKEN_CHARS + 1];
	bool same_kernel;
	bool query_only; /* the source only asked; there is no migration */
	Wire__Needs *needs;
	struct kind_options kinds;
	struct restore_options restore_opt;
	struct file_target *files;
	struct treeroot root;       /* --files=lazy */
	enum wire_files files_mode; /* as it is done */
	bool lazy_root;
	struct store *store;
	struct restore_session *ahead; /* what was made of the tree before its images are here */
	struct restore_session *restore;
	uint64_t told_ns;     /* when progress was sent last */
	struct urgent urgent; /* as long as the tree stands still */

	struct store *area; /* what rounds of pre-copy have brought; the store's, when there is one */
	struct kept *kept; /* of it, and still true; NULL: none */

	/* post-copy: target_lazy.c */
	enum wire_mode mode;
	struct tls *tls; /* of those who come to the hall by TCP; NULL: none */
	struct hall *hall;
	struct lane_source *lanes;
	struct guardian *guardian;
	struct lazy *lazy; /* the thread's, while it runs */
	struct restore_lazy restore_lazy;
	proc_pids announced; /* tasks */
	pthread_t fill_thread;
	atomic_bool fill_ready; /* all tasks are announced: their faults must be answered */
	atomic_bool built;      /* and the source may have been told so */
	bool filling;           /* there is a thread */
	int fill_wake;          /* eventfd: look at what follows */
	atomic_bool fill_go;    /* the tree runs: fetch everything */
	atomic_bool fill_stop;
	bool filled, fill_failed; /* how the thread ended */
	struct err fill_err;
};

/* Serves one source. Takes @in and @out. 0: a tree runs here now, or a question was answered. */
int migrate_target(int in, int out, struct err *err) must_check;

/* What of the needs cannot be had here; fills the verdict in @arena. */
int verdict_make(struct arena *arena, const Wire__Needs *needs, Wire__Verdict *out, struct err *err)
	must_check;

/* ---- the actions ---- */
int target_hello(struct target *t, struct err *err) must_check;
int target_preflight(struct target *t, struct err *err) must_check;
int target_files(struct target *t, struct err *err) must_check;
void target_undo_files(struct target *t);
int target_commit_files(struct target *t, struct err *err) must_check; /* the tree is about to run */
int target_lanes(struct target *t, struct err *err) must_check;
void target_undo_lanes(struct target *t);
int target_precopy(struct target *t, struct err *err) must_check;
void target_undo_precopy(struct target *t);
int target_prepare(struct target *t, struct err *err) must_check;
void target_undo_prepare(struct target *t);
int target_changes(struct target *t, struct err *err) must_check;
int target_state(struct target *t, struct err *err) must_check;
void target_undo_state(struct target *t);
int target_commit(struct target *t, struct err *err) must_check;
int target_postcopy(struct target *t, struct err *err) must_check;
int target_farewell(struct target *t, struct err *err) must_check;

/* The target's part of the stage is done. */
int target_tell_done(struct target *t, struct err *err) must_check;

/* ---- the engine that fetches what is missing ---- */

/*
 * Before the tree is built: the restore announces its tasks to it. Its thread is started apart, after the last
 * process that this one forks. When the tree runs, it fetches everything.
 */
int target_fill_open(struct target *t, struct err *err) must_check;
int target_fill_start(struct target *t, struct err *err) must_check;
void target_fill_go(struct target *t);

/* The tree is dead, or will be: it was not committed. */
void target_undo_fill(struct target *t);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The target's side of a migration: its actions in the table of stages
 * (stages.c). It runs in "ferry agent", which reads and writes nothing but its
 * stdin and stdout.
 */
#ifndef FERRY_MIGRATE_TARGET_H
#define FERRY_MIGRATE_TARGET_H

#include "migrate/files.h"
#include "restore/restore.h"
#include "wire/channel.h"

struct target {
	struct channel ch;
	char token[WIRE_TOKEN_CHARS + 1];
	bool same_kernel;
	bool query_only; /* the source only asked; there is no migration */
	Wire__Needs *needs;
	struct kind_options kinds;
	struct restore_options restore_opt;
	struct file_target *files;
	struct store *store;
	struct restore_session *restore;
	uint64_t told_ns; /* when progress was sent last */
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
int target_changes(struct target *t, struct err *err) must_check;
int target_state(struct target *t, struct err *err) must_check;
void target_undo_state(struct target *t);
int target_commit(struct target *t, struct err *err) must_check;
int target_farewell(struct target *t, struct err *err) must_check;

#endif

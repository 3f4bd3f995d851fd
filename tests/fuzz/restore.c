// SPDX-License-Identifier: Apache-2.0
/*
 * Images into the plan of a restore and through all of its checks, those of
 * every kind included; nothing is made. The images are a good snapshot with
 * some fields changed.
 */
#define LOG_MODULE "fuzz"
#include "sample.h"
#include "snapshot_edit.h"

#include "base/log.h"
#include "restore/restore.h"
#include "store/store.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Paths that exist, so that the checks have more to look at than the first one. */
static void use_real_paths(struct snapshot *snap)
{
	vec_foreach (file, &snap->files) {
		if ((*file)->type != FD_TYPES__REG)
			continue;
		switch ((*file)->id) {
		case FILE_EXE:
			(*file)->reg->name = "/bin/sh";
			break;
		case FILE_CWD:
		case FILE_ROOT:
			(*file)->reg->name = "/";
			break;
		default:
			(*file)->reg->name = "/dev/null";
		}
	}
}

/* A terminal needs its other end; the tests of its kind have both. */
static void drop_terminal(struct snapshot *snap)
{
	struct snap_task *root = snap->tasks.v[0];

	for (size_t i = 0; i < snap->files.n; i++)
		if (snap->files.v[i]->id == FILE_TTY)
			snap->files.v[i--] = snap->files.v[--snap->files.n];
	for (size_t i = 0; i < root->fds.n; i++)
		if (root->fds.v[i]->id == FILE_TTY)
			root->fds.v[i--] = root->fds.v[--root->fds.n];
}

static int put_pages(struct store *store, uint32_t pages_id, struct err *err)
{
	static const uint8_t zero[5 * PAGE_BYTES];

	return store_put_pages(store, pages_id, zero, sizeof(zero), err) ||
	       store_put_pages(store, pages_id, NULL, 0, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot *snap = sample_snapshot();
	struct kind_options kinds = {.shell_job = true,
				     .ext_unix_sk = true,
				     .file_locks = true,
				     .link_remap = true,
				     .evasive_devices = true};
	struct restore_options opt = {.kinds = &kinds, .pids = RESTORE_PIDS_NEW};
	struct err err = {0};
	struct store *store = store_memory_open(&err);
	struct restore_session *s;

	log_init(-1, LOG_ERROR);
	use_real_paths(snap);
	drop_terminal(snap);
	snapshot_edit(snap, data, size);
	if (store && !snapshot_verify(snap, &err) && !snapshot_save(snap, store, &err) &&
	    !put_pages(store, SAMPLE_ROOT, &err) && !put_pages(store, SAMPLE_CHILD, &err) &&
	    !put_pages(store, 1, &err) && !put_pages(store, 2, &err) && !store_complete(store, &err)) {
		s = restore_open(store, &opt, &err);
		if ((!s || restore_check(s, &err)) && !err.text[0])
			__builtin_trap(); /* refused without a reason */
		if (getenv("FUZZ_SAY"))
			fprintf(stderr, "%s\n", err.text);
		restore_close(s);
	}
	store_close(store);
	snapshot_free(snap);
	return 0;
}

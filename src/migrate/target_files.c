// SPDX-License-Identifier: Apache-2.0
/*
 * The target's part of the files of the tree. What is copied is in files_target.c;
 * with lazy files the tree gets a root directory of its own.
 */
#define LOG_MODULE "target"
#include "base/log.h"
#include "migrate/files_door.h"
#include "migrate/target.h"

#include <errno.h>
#include <string.h>

int target_tell_done(struct target *t, struct err *err)
{
	Wire__Stage msg = WIRE__STAGE__INIT;

	msg.id = t->ch.stage;
	return channel_send(&t->ch, MSG_DONE, &msg.base, err);
}

/* Nothing is left of it, and the files are compared and copied. */
static void end_lazy(struct target *t)
{
	t->restore_opt.root_mount = NULL;
	t->files_mode = WIRE_FILES_COMPARE;
	if (!t->lazy_root)
		return;
	treeroot_abandon(&t->root);
	files_door_remove(t->token);
	t->lazy_root = false;
}

/* The connection for the files, which the source opens; if it cannot, it goes on without lazy files. */
static int await_lazy(struct target *t, struct err *err)
{
	struct err ignored;
	struct frame f;

	if (treeroot_await(&t->root, t->ch.in, err) == 0)
		return target_tell_done(t, err);
	if (err->no != ECANCELED || channel_peek(&t->ch, &f, &ignored) < 0 || f.type != MSG_FILE_LIST)
		return -1;
	log_info("the source has no connection for lazy files");
	end_lazy(t);
	return 0;
}

static int begin_lazy(struct target *t, struct err *err)
{
	/* how the source is reached: sshd tells it */
	const char *from = getenv("SSH_CONNECTION");
	char host[64] = "source";
	const struct files_door_options opt = {
		.token = t->token,
		.source = host,
		.timeout_ms = t->needs->files_timeout_ms,
		.pool_bytes = t->needs->has_files_pool_bytes ? t->needs->files_pool_bytes :
							       POOL_DEFAULT_BYTES,
		.fill = t->needs->files_fill,
		.detach = t->needs->files_detach,
		.writeback = t->needs->files_writeback,
		.whole = t->needs->files_whole,
		.n_whole = t->needs->n_files_whole,
	};
	Wire__Doors doors = WIRE__DOORS__INIT;
	struct err why;

	if (from)
		snprintf(host, sizeof(host), "%.*s", (int)MIN(strcspn(from, " "), sizeof(host) - 1),
			 from);
	if (files_door_open(&opt, &t->root, &why) < 0) {
		doors.cannot = why.text;
		end_lazy(t);
		return channel_send(&t->ch, MSG_DOORS, &doors.base, err);
	}
	t->lazy_root = true;
	doors.has_detaches = doors.detaches = opt.detach;
	doors.has_writes = doors.writes = opt.writeback;
	t->restore_opt.root_mount = &t->root.mount;
	return channel_send(&t->ch, MSG_DOORS, &doors.base, err) < 0 ? -1 : await_lazy(t, err);
}

/* Whether all files are here is asked first: then the tree needs no root directory of its own. */
static int choose_way(struct target *t, struct err *err)
{
	struct frame f;

	if (files_compare(t->files, &t->ch, err) < 0 || channel_peek(&t->ch, &f, err) < 0)
		return -1;
	if (f.type != MSG_LAZY_ROOT) {
		end_lazy(t);
		return 0;
	}
	return channel_expect_empty(&t->ch, MSG_LAZY_ROOT, err) < 0 ? -1 : begin_lazy(t, err);
}

/* @ahead: of the freeze. */
static int prime(struct target *t, bool ahead, struct err *err)
{
	Wire__FileList *list = channel_expect(&t->ch, MSG_LAZY_LIST, err);
	cleanup_free struct lazyfs_part *parts = NULL;
	size_t n = 0;
	int rc;

	if (!list)
		return -1;
	parts = calloc(list->n_files + 1, sizeof(*parts));
	for (size_t i = 0; parts && i < list->n_files; i++) {
		const Wire__FileNote *f = list->files[i];

		if (lf_path_valid(f->path))
			parts[n++] = (struct lazyfs_part){f->path, f->part_from, f->part_to};
	}
	if (!parts)
		rc = err_nomem(err);
	else if (ahead)
		rc = treeroot_prime_ahead(&t->root, parts, n, err);
	else
		rc = treeroot_prime(&t->root, parts, n, err);
	if (rc == 0 && list->has_carried)
		rc = treeroot_carry(&t->root, list->carried.data, list->carried.len, err);
	wire_free(list);
	return rc;
}

int target_files(struct target *t, struct err *err)
{
	t->files_mode = t->needs->has_files_mode ? (enum wire_files)t->needs->files_mode :
						   WIRE_FILES_COMPARE;
	if (t->files_mode > WIRE_FILES_SHARED)
		return err_set(err, EPROTO, "files in mode %u are not known here", t->files_mode);
	if (t->files_mode == WIRE_FILES_SHARED)
		return 0;
	t->files = file_target_create(t->same_kernel, err);
	if (!t->files || (t->files_mode == WIRE_FILES_LAZY && choose_way(t, err) < 0) ||
	    (t->files_mode == WIRE_FILES_LAZY && prime(t, true, err) < 0) ||
	    files_receive(t->files, &t->ch, err) < 0)
		return -1;
	return target_tell_done(t, err);
}

int target_changes(struct target *t, struct err *err)
{
	if (t->files_mode == WIRE_FILES_SHARED)
		return 0;
	if (t->files_mode == WIRE_FILES_LAZY && prime(t, false, err) < 0)
		return -1;
	if (files_receive(t->files, &t->ch, err) < 0 || files_place(t->files, err) < 0)
		return -1;
	return target_tell_done(t, err);
}

int target_commit_files(struct target *t, struct err *err)
{
	return t->lazy_root ? treeroot_commit(&t->root, err) : 0;
}

void target_undo_files(struct target *t)
{
	if (t->files)
		files_undo(t->files);
	end_lazy(t);
}

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

static enum wire_files mode_of(const struct target *t)
{
	return t->needs->has_files_mode ? (enum wire_files)t->needs->files_mode : WIRE_FILES_COMPARE;
}

int target_tell_done(struct target *t, struct err *err)
{
	Wire__Stage msg = WIRE__STAGE__INIT;

	msg.id = t->ch.stage;
	return channel_send(&t->ch, MSG_DONE, &msg.base, err);
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
		.fill = t->needs->files_fill,
	};
	Wire__Doors doors = WIRE__DOORS__INIT;
	struct err why;

	if (from)
		snprintf(host, sizeof(host), "%.*s", (int)MIN(strcspn(from, " "), sizeof(host) - 1),
			 from);
	t->lazy_root = true;
	if (files_door_open(&opt, &t->root, &why) < 0) {
		doors.cannot = why.text;
		return channel_send(&t->ch, MSG_DOORS, &doors.base, err);
	}
	t->restore_opt.root_mount = &t->root.mount;
	if (channel_send(&t->ch, MSG_DOORS, &doors.base, err) < 0 ||
	    treeroot_await(&t->root, t->ch.in, err) < 0)
		return -1;
	return target_tell_done(t, err);
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
	enum wire_files mode = mode_of(t);

	if (mode > WIRE_FILES_SHARED)
		return err_set(err, EPROTO, "files in mode %u are not known here", mode);
	if (mode == WIRE_FILES_SHARED)
		return 0;
	if (mode == WIRE_FILES_LAZY && (begin_lazy(t, err) < 0 || prime(t, true, err) < 0))
		return -1;
	t->files = file_target_create(t->same_kernel, err);
	if (!t->files || files_receive(t->files, &t->ch, err) < 0)
		return -1;
	return target_tell_done(t, err);
}

int target_changes(struct target *t, struct err *err)
{
	if (mode_of(t) == WIRE_FILES_SHARED)
		return 0;
	if (mode_of(t) == WIRE_FILES_LAZY && prime(t, false, err) < 0)
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
	if (!t->lazy_root)
		return;
	treeroot_abandon(&t->root);
	files_door_remove(t->token);
	t->lazy_root = false;
}

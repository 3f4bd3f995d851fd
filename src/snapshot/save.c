// SPDX-License-Identifier: Apache-2.0
/*
 * From a snapshot to its images. Real `criu restore` reads what this writes, so
 * the set of images is CRIU's: those that every dump has, and those that exist
 * only when there is something in them. A directory may hold an older dump:
 * the store is told of the latter that do not exist now.
 */
#include "snapshot/snapshot.h"

#include "base/map.h"
#include "snapshot/image.h"
#include "store/store.h"

#include <stdarg.h>
#include <string.h>

struct saver {
	struct store *store;
	struct map written; /* optional kinds, by address */
	struct map tables;  /* files_ids whose fdinfo has been written */
};

static void saver_finish(struct saver *s)
{
	map_free(&s->written);
	map_free(&s->tables);
}

/* Stores the image in @w under a formatted name and frees the writer. */
static int put(struct saver *s, struct image_writer *w, struct err *err, const char *fmt, ...)
	printf_like(4, 5) must_check;

static int put(struct saver *s, struct image_writer *w, struct err *err, const char *fmt, ...)
{
	char object[64];
	va_list ap;
	int rc;

	va_start(ap, fmt);
	vsnprintf(object, sizeof(object), fmt, ap);
	va_end(ap);
	rc = image_writer_finish(w, err);
	if (!rc)
		rc = store_put(s->store, object, w->data, w->bytes, err);
	image_writer_free(w);
	return rc ? err_wrap(err, "cannot save %s", object) : 0;
}

static const struct image_kind *kind_of_pattern(const char *pattern)
{
	const struct image_kind *k = image_kinds;

	while (strcmp(k->pattern, pattern))
		k++;
	return k;
}

/* An image with one entry; @id is the number in the pattern, if it has one. */
static int save_entry(struct saver *s, const char *pattern, uint32_t id,
		      const ProtobufCMessage *entry, struct err *err)
{
	struct image_writer w;
	char object[64];

	snprintf(object, sizeof(object), pattern, id);
	image_writer_init(&w, kind_of_pattern(pattern));
	image_write(&w, entry);
	return put(s, &w, err, "%s", object);
}

/* Starts an optional image; the caller has something to put in it. */
static int begin_optional(struct saver *s, const char *object, struct image_writer *w, struct err *err)
{
	const struct image_kind *kind = kind_of_pattern(object);

	if (!map_set(&s->written, (uintptr_t)kind, (void *)kind))
		return err_nomem(err);
	image_writer_init(w, kind);
	return 0;
}

/* An optional image with these entries, unless there are none. */
static int save_list(struct saver *s, const char *object, void *const *list, size_t n, struct err *err)
{
	struct image_writer w;
	size_t i;

	if (!n)
		return 0;
	if (begin_optional(s, object, &w, err))
		return -1;
	for (i = 0; i < n; i++)
		image_write(&w, list[i]);
	return put(s, &w, err, "%s", object);
}

static int save_payloads(struct saver *s, const char *object, const struct snap_payload *list,
			 size_t n, struct err *err)
{
	struct image_writer w;
	size_t i;

	if (!n)
		return 0;
	if (begin_optional(s, object, &w, err))
		return -1;
	for (i = 0; i < n; i++) {
		image_write(&w, list[i].entry);
		image_write_raw(&w, list[i].data, list[i].bytes);
	}
	return put(s, &w, err, "%s", object);
}

/* Values and messages of IPC namespaces are padded to 8 bytes. */
static void write_padding(struct image_writer *w, size_t bytes)
{
	static const uint8_t zero[8];

	image_write_raw(w, zero, -bytes & 7);
}

static int save_pagemap(struct saver *s, const struct snap_pagemap *pm, struct err *err)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct image_writer w;
	char name[64];

	if (pm->remote)
		return 0;
	image_writer_init(&w, kind_of_pattern("pagemap-%u.img"));
	head.pages_id = pm->pages_id;
	image_write(&w, &head.base);
	vec_foreach (entry, &pm->entries)
		image_write(&w, &(*entry)->base);
	return put(s, &w, err, "%s", snapshot_pagemap_name(pm, name));
}

static int save_ghost(struct saver *s, const struct snap_ghost *ghost, struct err *err)
{
	const uint8_t *data = ghost->data;
	struct image_writer w;
	size_t i;

	image_writer_init(&w, kind_of_pattern("ghost-file-%x.img"));
	image_write(&w, &ghost->entry->base);
	if (!ghost->entry->chunks)
		image_write_raw(&w, data, ghost->bytes);
	for (i = 0; i < ghost->n_chunks; i++) {
		image_write(&w, &ghost->chunks[i]->base);
		image_write_raw(&w, data, ghost->chunks[i]->len);
		data += ghost->chunks[i]->len;
	}
	return put(s, &w, err, "ghost-file-%x.img", ghost->id);
}

/* The descriptor table, once for all tasks that share it. */
static int save_fds(struct saver *s, const struct snap_task *task, struct err *err)
{
	struct image_writer w;
	int added = map_add(&s->tables, task->ids->files_id, s);

	if (added < 0)
		return err_nomem(err);
	if (!added)
		return 0;
	image_writer_init(&w, kind_of_pattern("fdinfo-%u.img"));
	vec_foreach (fd, &task->fds)
		image_write(&w, &(*fd)->base);
	return put(s, &w, err, "fdinfo-%u.img", task->ids->files_id);
}

static int save_task(struct saver *s, const struct snap_task *task, struct err *err)
{
	uint32_t pid = task->ps->pid;
	size_t i;

	if (save_entry(s, "core-%u.img", pid, &task->core[0]->base, err))
		return -1;
	if (!task->ids) /* a zombie */
		return 0;
	for (i = 1; i < task->n_threads; i++)
		if (save_entry(s, "core-%u.img", task->ps->threads[i], &task->core[i]->base, err))
			return -1;
	if (save_entry(s, "ids-%u.img", pid, &task->ids->base, err) || save_fds(s, task, err) ||
	    save_entry(s, "mm-%u.img", pid, &task->mm->base, err) ||
	    save_entry(s, "fs-%u.img", pid, &task->fs->base, err))
		return -1;
	return save_pagemap(s, task->pagemap, err);
}

static int save_tree(struct saver *s, const struct snapshot *snap, struct err *err)
{
	struct image_writer w;

	image_writer_init(&w, kind_of_pattern("pstree.img"));
	vec_foreach (task, &snap->tasks)
		image_write(&w, &(*task)->ps->base);
	if (put(s, &w, err, "pstree.img"))
		return -1;
	vec_foreach (task, &snap->tasks)
		if (save_task(s, *task, err))
			return -1;
	return 0;
}

#define SAVE_LIST(s, object, list, err) \
	save_list((s), (object), (void *const *)(list).v, (list).n, (err))

static int save_files(struct saver *s, const struct snapshot *snap, struct err *err)
{
	struct image_writer w;

	image_writer_init(&w, kind_of_pattern("files.img"));
	vec_foreach (file, &snap->files)
		image_write(&w, &(*file)->base);
	if (put(s, &w, err, "files.img"))
		return -1;
	vec_foreach (ghost, &snap->ghosts)
		if (save_ghost(s, *ghost, err))
			return -1;
	if (SAVE_LIST(s, "remap-fpath.img", snap->remaps, err) ||
	    SAVE_LIST(s, "memfd.img", snap->memfds, err) ||
	    SAVE_LIST(s, "tty-info.img", snap->tty_info, err) ||
	    SAVE_LIST(s, "tty-data.img", snap->tty_data, err) ||
	    SAVE_LIST(s, "filelocks.img", snap->locks, err))
		return -1;
	if (save_payloads(s, "pipes-data.img", snap->pipes_data.v, snap->pipes_data.n, err) ||
	    save_payloads(s, "fifo-data.img", snap->fifo_data.v, snap->fifo_data.n, err) ||
	    save_payloads(s, "sk-queues.img", snap->sk_queues.v, snap->sk_queues.n, err))
		return -1;
	vec_foreach (pm, &snap->shmem)
		if (save_pagemap(s, *pm, err))
			return -1;
	return 0;
}

static int save_queues(struct saver *s, const struct snap_ipc *ipc, struct err *err)
{
	struct image_writer w;

	image_writer_init(&w, kind_of_pattern("ipcns-msg-%u.img"));
	vec_foreach (q, &ipc->msg) {
		image_write(&w, &q->entry->base);
		for (uint32_t i = 0; i < q->entry->qnum; i++) {
			image_write(&w, q->messages[i].entry);
			image_write_raw(&w, q->messages[i].data, q->messages[i].bytes);
			write_padding(&w, q->messages[i].bytes);
		}
	}
	return put(s, &w, err, "ipcns-msg-%u.img", ipc->ns_id);
}

/* Of an IPC namespace all images exist, also those with nothing in them; of images that others made, the limits may be missing. */
static int save_ipc(struct saver *s, const struct snap_ipc *ipc, struct err *err)
{
	struct image_writer w;

	if (!ipc->ns_id)
		return 0;
	if (ipc->var && save_entry(s, "ipcns-var-%u.img", ipc->ns_id, &ipc->var->base, err))
		return -1;
	image_writer_init(&w, kind_of_pattern("ipcns-shm-%u.img"));
	vec_foreach (e, &ipc->shm)
		image_write(&w, &(*e)->base);
	if (put(s, &w, err, "ipcns-shm-%u.img", ipc->ns_id))
		return -1;
	image_writer_init(&w, kind_of_pattern("ipcns-sem-%u.img"));
	vec_foreach (p, &ipc->sem) {
		image_write(&w, p->entry);
		image_write_raw(&w, p->data, p->bytes);
		write_padding(&w, p->bytes);
	}
	if (put(s, &w, err, "ipcns-sem-%u.img", ipc->ns_id))
		return -1;
	return save_queues(s, ipc, err);
}

/* seccomp.img always exists; without filters it holds an empty entry. */
static int save_seccomp(struct saver *s, const struct snapshot *snap, struct err *err)
{
	SeccompEntry none = SECCOMP_ENTRY__INIT;
	void *entry = snap->seccomp ? snap->seccomp : &none;

	return save_list(s, "seccomp.img", &entry, 1, err);
}

/* The images that an older dump may have left and that would be read with this one. */
static int skip_absent(struct saver *s, const struct snapshot *snap, struct err *err)
{
	const struct image_kind *k;

	for (k = image_kinds; k->pattern; k++)
		if (k->optional && !map_get(&s->written, (uintptr_t)k) &&
		    store_skip(s->store, k->pattern, err))
			return -1;
	if ((!snap->timens || snap->timens_id) && store_skip(s->store, "timens-0.img", err))
		return -1;
	/* memory elsewhere, parent elsewhere: the link may be that of a server in this directory */
	if (snap->incremental || (snap->tasks.v[0]->pagemap && snap->tasks.v[0]->pagemap->remote))
		return 0;
	return store_skip(s->store, "parent", err);
}

int snapshot_save(const struct snapshot *snap, struct store *store, struct err *err)
{
	struct saver s = {.store = store};
	int rc = -1;

	if (save_tree(&s, snap, err) || save_files(&s, snap, err) || save_seccomp(&s, snap, err) ||
	    save_ipc(&s, &snap->ipc, err))
		goto finish;
	if (snap->timens && save_entry(&s, "timens-%u.img", snap->timens_id, &snap->timens->base, err))
		goto finish;
	if (skip_absent(&s, snap, err))
		goto finish;
	rc = save_entry(&s, "inventory.img", 0, &snap->inventory->base, err);
finish:
	saver_finish(&s);
	return rc;
}

int snapshot_save_pagemap(const struct snap_pagemap *pm, struct store *store, struct err *err)
{
	struct saver s = {.store = store};

	return save_pagemap(&s, pm, err);
}

int snapshot_save_inventory(const InventoryEntry *inventory, struct store *store, struct err *err)
{
	struct saver s = {.store = store};

	return save_entry(&s, "inventory.img", 0, &inventory->base, err);
}

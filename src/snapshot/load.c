// SPDX-License-Identifier: Apache-2.0
/*
 * From images to a snapshot. The images are asked for in the order in which a
 * restore needs them and each only once, so that loading can begin while the
 * other side still writes.
 *
 * This file finds the images and hangs their entries together; verify*.c says
 * whether they make sense. What is old or optional is made uniform here.
 */
#define LOG_MODULE "images"
#include "snapshot/snapshot.h"

#include "base/log.h"
#include "base/map.h"
#include "snapshot/image.h"
#include "snapshot/verify.h"
#include "store/store.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

struct loader {
	struct snapshot *snap;
	struct store *store;
	struct map tids; /* of all tasks and threads: none comes twice, so no image is read twice */
	struct map tables; /* files_ids whose fdinfo has been read */
	struct map shmem;  /* segments whose pagemap has been asked for */
};

/* One image being read. */
struct input {
	char name[64];
	void *data;
	struct image_reader reader;
};

static void input_close(struct input *in)
{
	free(in->data);
}

#define cleanup_input __attribute__((cleanup(input_close)))

/* Waits for an image: 1 = it is there, 0 = it does not exist, -1. */
static int input_open(struct loader *l, struct input *in, struct err *err, const char *fmt, ...)
	printf_like(4, 5) must_check;

static int input_open(struct loader *l, struct input *in, struct err *err, const char *fmt, ...)
{
	size_t bytes;
	va_list ap;
	int rc;

	va_start(ap, fmt);
	vsnprintf(in->name, sizeof(in->name), fmt, ap);
	va_end(ap);
	rc = store_get(l->store, in->name, &in->data, &bytes, err);
	if (rc)
		return rc < 0 ? -1 : 0;
	if (image_reader_init(&in->reader, in->name, in->data, bytes, &l->snap->arena, err) ||
	    image_reader_expect(&in->reader, in->name, err))
		return -1;
	return 1;
}

static int missing(const struct input *in, struct err *err)
{
	return err_set(err, ENOENT,
		       "%s: the image is missing: the dump was not completed, or not copied completely",
		       in->name);
}

/*
 * Drops the fields that our description of a message does not have, at any
 * depth, so that they are not written again behind a mistaken meaning. True:
 * there were some.
 */
static bool drop_unknown_fields(ProtobufCMessage *m)
{
	const ProtobufCMessageDescriptor *d = m->descriptor;
	const ProtobufCFieldDescriptor *f;
	bool found = m->n_unknown_fields != 0;
	char *base = (char *)m;
	ProtobufCMessage **list;
	size_t i, n;

	m->n_unknown_fields = 0;
	m->unknown_fields = NULL;
	for (f = d->fields; f < d->fields + d->n_fields; f++) {
		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		list = (ProtobufCMessage **)(base + f->offset);
		n = 1;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			n = *(const size_t *)(base + f->quantifier_offset);
			list = *(ProtobufCMessage ***)list;
		}
		for (i = 0; i < n; i++)
			if (list[i])
				found |= drop_unknown_fields(list[i]);
	}
	return found;
}

/* The next entry: 1, 0 at the end, -1. */
static int next(struct input *in, void *entry_out, struct err *err)
{
	ProtobufCMessage *entry;
	int rc = image_read(&in->reader, &entry, err);

	if (rc == 1 && drop_unknown_fields(entry))
		log_warn("%s: entry %u has fields that this version of ferry does not know; "
			 "they are ignored",
			 in->name, in->reader.n_entries - 1);
	*(ProtobufCMessage **)entry_out = entry;
	return rc;
}

/* The one entry of an image: 1, 0 if there is no such image and it is optional, -1. */
static int only(struct input *in, int opened, void *entry_out, struct err *err)
{
	if (opened <= 0)
		return opened;
	if (next(in, entry_out, err) == 1)
		return 1;
	if (in->reader.n_entries == 0 && in->reader.off == in->reader.bytes)
		err_set(err, EINVAL, "%s: the image has no entry", in->name);
	return -1;
}

/* Loads the one entry of a required image. */
static int load_required(struct loader *l, const char *pattern, uint32_t id, void *entry_out,
			 struct err *err)
{
	cleanup_input struct input in = {0};
	int rc = only(&in, input_open(l, &in, err, pattern, id), entry_out, err);

	return rc == 1 ? 0 : rc == 0 ? missing(&in, err) : -1;
}

/* As load_required, but the entry may be missing (NULL). */
static int load_optional(struct loader *l, const char *pattern, uint32_t id, void *entry_out,
			 struct err *err)
{
	cleanup_input struct input in = {0};
	int rc;

	*(void **)entry_out = NULL;
	rc = only(&in, input_open(l, &in, err, pattern, id), entry_out, err);
	return rc < 0 ? -1 : 0;
}

/* Pushes every entry of an optional image; @list is a VEC of pointers. */
#define load_list(l, list, object, err)                                     \
	({                                                                  \
		cleanup_input struct input in_ = {0};                       \
		__typeof__(*(list)->v) entry_;                              \
		int rc_ = input_open((l), &in_, (err), "%s", (object));     \
		while (rc_ == 1 && (rc_ = next(&in_, &entry_, (err))) == 1) \
			if (!vec_push((list), entry_))                      \
				rc_ = err_nomem(err);                       \
		rc_;                                                        \
	})

static int load_payloads(struct loader *l, const char *object, struct snap_payload **list,
			 size_t *n, size_t *cap, struct err *err)
{
	cleanup_input struct input in = {0};
	struct snap_payload p;
	int rc = input_open(l, &in, err, "%s", object);

	while (rc == 1 && (rc = next(&in, &p.entry, err)) == 1) {
		p.bytes = in.reader.extra_bytes;
		p.data = arena_dup(&l->snap->arena, in.reader.extra, p.bytes);
		if (!p.data || !vec_grow((void **)list, cap, *n, sizeof(p)))
			return err_nomem(err);
		(*list)[(*n)++] = p;
	}
	return rc;
}

#define LOAD_PAYLOADS(l, list, object, err) \
	load_payloads((l), (object), &(list)->v, &(list)->n, &(list)->cap, (err))

/* Entries of any age say how many pages, and where they are. */
static void modernise(PagemapEntry *e)
{
	if (!e->has_nr_pages) {
		e->nr_pages = e->compat_nr_pages;
		e->compat_nr_pages = 0;
		e->has_nr_pages = true;
	}
	if (!e->has_flags) {
		e->flags = e->has_in_parent && e->in_parent ? PE_PARENT : PE_PRESENT;
		e->has_flags = true;
	}
}

/* 1 and *pm_out, 0 if there is no such image, -1. */
static int load_pagemap(struct loader *l, bool shmem, uint64_t id, struct snap_pagemap **pm_out,
			struct err *err)
{
	cleanup_input struct input in = {0};
	PagemapHead *head;
	PagemapEntry *entry;
	struct snap_pagemap *pm;
	char name[64];
	int rc;

	*pm_out = NULL;
	pm = arena_new(&l->snap->arena, struct snap_pagemap);
	if (!pm)
		return err_nomem(err);
	pm->shmem = shmem;
	pm->id = id;
	rc = only(&in, input_open(l, &in, err, "%s", snapshot_pagemap_name(pm, name)), &head, err);
	if (rc != 1)
		return rc;
	pm->pages_id = head->pages_id;
	while ((rc = next(&in, &entry, err)) == 1) {
		modernise(entry);
		if (!vec_push(&pm->entries, entry)) {
			vec_free(&pm->entries);
			return err_nomem(err);
		}
	}
	if (rc < 0) {
		vec_free(&pm->entries);
		return -1;
	}
	*pm_out = pm;
	return 1;
}

static int no_parent(const struct snap_pagemap *pm, struct err *err)
{
	char name[64];

	return err_set(err, ENOENT,
		       "%s: some pages are in a parent directory of images, but the link \"parent\" is "
		       "missing: copy that directory too, and keep the link",
		       snapshot_pagemap_name(pm, name));
}

/* As load_pagemap; with PE_PARENT entries also those of the directories that it builds on. */
static int load_pagemaps(struct loader *l, bool shmem, uint64_t id, struct snap_pagemap **pm_out,
			 struct err *err)
{
	struct store *own = l->store, *parent;
	struct snap_pagemap *pm;
	char name[64];
	int rc = load_pagemap(l, shmem, id, pm_out, err);

	for (pm = *pm_out; rc == 1 && snapshot_pagemap_needs_parent(pm); pm = pm->parent) {
		rc = store_parent(l->store, &parent, err);
		if (rc == 0)
			rc = parent ? 1 : no_parent(pm, err);
		if (rc != 1)
			break;
		l->store = parent;
		rc = load_pagemap(l, shmem, id, &pm->parent, err);
		if (rc == 0)
			rc = err_set(err, ENOENT,
				     "%s: the image is missing in a parent directory, where some of the "
				     "pages should be",
				     snapshot_pagemap_name(pm, name));
	}
	l->store = own;
	return rc;
}

/* The table of descriptors, when its first user is loaded. Without an image there are none. */
static int load_fds(struct loader *l, struct snap_task *task, struct err *err)
{
	cleanup_input struct input in = {0};
	FdinfoEntry *entry;
	int rc = map_add(&l->tables, task->ids->files_id, task);

	if (rc < 0)
		return err_nomem(err);
	if (rc == 0)
		return 0;
	rc = input_open(l, &in, err, "fdinfo-%u.img", task->ids->files_id);
	while (rc == 1 && (rc = next(&in, &entry, err)) == 1)
		if (!vec_push(&task->fds, entry))
			return err_nomem(err);
	return rc;
}

static int claim_tid(struct loader *l, uint32_t tid, struct err *err)
{
	int rc = map_add(&l->tids, tid, l);

	if (rc < 0)
		return err_nomem(err);
	return rc ? 0 : err_set(err, EINVAL, "pstree.img: pid %u occurs twice", tid);
}

/* The cores of the other threads; the leader's is there. */
static int load_threads(struct loader *l, struct snap_task *task, struct err *err)
{
	CoreEntry **core;
	size_t i;

	if (!task->ps->n_threads)
		return err_set(err, EINVAL, "pstree.img: pid %u has no threads", task->ps->pid);
	core = arena_array(&l->snap->arena, CoreEntry *, task->ps->n_threads);
	if (!core)
		return err_nomem(err);
	core[0] = task->core[0];
	task->core = core;
	for (i = 1; i < task->ps->n_threads; i++)
		if (claim_tid(l, task->ps->threads[i], err) ||
		    load_required(l, "core-%u.img", task->ps->threads[i], &core[i], err))
			return -1;
	task->n_threads = task->ps->n_threads;
	return 0;
}

/* ids-PID.img; long ago they were part of the core. */
static int load_ids(struct loader *l, struct snap_task *task, struct err *err)
{
	if (load_optional(l, "ids-%u.img", task->ps->pid, &task->ids, err))
		return -1;
	if (!task->ids)
		task->ids = task->core[0]->ids;
	if (!task->ids)
		return err_set(err, ENOENT,
			       "ids-%u.img: the image is missing: the dump was not completed, or not "
			       "copied completely",
			       task->ps->pid);
	return 0;
}

static int load_task(struct loader *l, struct snap_task *task, struct err *err)
{
	uint32_t pid = task->ps->pid;
	int rc;

	task->core = arena_new(&l->snap->arena, CoreEntry *);
	if (!task->core)
		return err_nomem(err);
	task->n_threads = 1;
	if (claim_tid(l, pid, err) || load_required(l, "core-%u.img", pid, &task->core[0], err))
		return -1;
	if (!task->core[0]->tc)
		return err_set(err, EINVAL, "core-%u.img: the core of a task has no tc", pid);
	if (task->core[0]->tc->task_state == TASK_DEAD)
		return 0;
	if (load_ids(l, task, err) || load_required(l, "mm-%u.img", pid, &task->mm, err) ||
	    load_fds(l, task, err) || load_required(l, "fs-%u.img", pid, &task->fs, err))
		return -1;
	rc = load_pagemaps(l, false, pid, &task->pagemap, err);
	if (rc == 0)
		return err_set(err, ENOENT,
			       "pagemap-%u.img: the image is missing: the memory went elsewhere (a page "
			       "server's directory?) or was not copied",
			       pid);
	return rc < 0 ? -1 : load_threads(l, task, err);
}

static int load_tree(struct loader *l, struct err *err)
{
	cleanup_input struct input in = {0};
	struct snap_task *task;
	PstreeEntry *ps;
	int rc = input_open(l, &in, err, "pstree.img");

	if (rc == 0)
		return missing(&in, err);
	while (rc == 1 && (rc = next(&in, &ps, err)) == 1) {
		task = arena_new(&l->snap->arena, struct snap_task);
		if (!task || !vec_push(&l->snap->tasks, task))
			return err_nomem(err);
		task->ps = ps;
	}
	return rc;
}

/* Chunks are gathered; without chunks everything behind the first entry is content. */
static int load_ghost_chunks(struct loader *l, struct input *in, struct snap_ghost *ghost,
			     struct err *err)
{
	VEC(GhostChunkEntry *) chunks = {0};
	GhostChunkEntry *chunk;
	int rc;

	/* All contents together are shorter than the image. */
	ghost->data = arena_alloc(&l->snap->arena, in->reader.bytes);
	if (!ghost->data)
		return err_nomem(err);
	while ((rc = next(in, &chunk, err)) == 1) {
		memcpy(ghost->data + ghost->bytes, in->reader.extra, in->reader.extra_bytes);
		ghost->bytes += in->reader.extra_bytes;
		if (!vec_push(&chunks, chunk))
			rc = err_nomem(err);
		if (rc < 0)
			break;
	}
	if (rc == 0 && chunks.n) {
		ghost->n_chunks = chunks.n;
		ghost->chunks = arena_dup(&l->snap->arena, chunks.v, chunks.n * sizeof(*chunks.v));
		if (!ghost->chunks)
			rc = err_nomem(err);
	}
	vec_free(&chunks);
	return rc;
}

static int load_ghost(struct loader *l, uint32_t id, struct err *err)
{
	cleanup_input struct input in = {0};
	struct snap_ghost *ghost;
	int rc;

	if (snapshot_ghost(l->snap, id)) /* a second link to the same file */
		return 0;
	ghost = arena_new(&l->snap->arena, struct snap_ghost);
	if (!ghost)
		return err_nomem(err);
	ghost->id = id;
	rc = only(&in, input_open(l, &in, err, "ghost-file-%x.img", id), &ghost->entry, err);
	if (rc != 1)
		return rc == 0 ? missing(&in, err) : -1;
	if (ghost->entry->chunks) {
		if (load_ghost_chunks(l, &in, ghost, err))
			return -1;
	} else if (in.reader.extra_bytes) {
		ghost->bytes = in.reader.extra_bytes;
		ghost->data = arena_dup(&l->snap->arena, in.reader.extra, ghost->bytes);
		if (!ghost->data)
			return err_nomem(err);
	}
	return vec_push(&l->snap->ghosts, ghost) ? 0 : err_nomem(err);
}

static int load_files(struct loader *l, struct err *err)
{
	struct snapshot *snap = l->snap;

	if (load_list(l, &snap->memfds, "memfd.img", err) < 0 ||
	    load_list(l, &snap->files, "files.img", err) < 0 ||
	    load_list(l, &snap->remaps, "remap-fpath.img", err) < 0)
		return -1;
	if (!snap->files.n)
		return err_set(err, ENOENT,
			       "files.img: the image is missing or empty; dumps of old versions of CRIU, "
			       "which have an image per kind of file, cannot be restored");
	vec_foreach (remap, &snap->remaps)
		if ((*remap)->has_remap_type && (*remap)->remap_type == REMAP_TYPE__GHOST &&
		    load_ghost(l, (*remap)->remap_id, err))
			return -1;
	return 0;
}

/* What hangs on descriptors. */
static int load_contents(struct loader *l, struct err *err)
{
	struct snapshot *snap = l->snap;

	if (load_list(l, &snap->tty_info, "tty-info.img", err) < 0 ||
	    load_list(l, &snap->tty_data, "tty-data.img", err) < 0 ||
	    load_list(l, &snap->locks, "filelocks.img", err) < 0)
		return -1;
	if (load_optional(l, "seccomp.img", 0, &snap->seccomp, err))
		return -1;
	if (LOAD_PAYLOADS(l, &snap->pipes_data, "pipes-data.img", err) < 0 ||
	    LOAD_PAYLOADS(l, &snap->fifo_data, "fifo-data.img", err) < 0 ||
	    LOAD_PAYLOADS(l, &snap->sk_queues, "sk-queues.img", err) < 0)
		return -1;
	return 0;
}

/* The pages of a shared segment, if it has any. */
static int load_segment(struct loader *l, uint64_t shmid, struct err *err)
{
	struct snap_pagemap *pm;
	int rc = map_add(&l->shmem, shmid, l);

	if (rc <= 0)
		return rc < 0 ? err_nomem(err) : 0;
	rc = load_pagemaps(l, true, shmid, &pm, err);
	if (pm && !vec_push(&l->snap->shmem, pm)) {
		snapshot_pagemap_free(pm);
		return err_nomem(err);
	}
	return rc < 0 ? -1 : 0;
}

static int load_segments(struct loader *l, struct err *err)
{
	const VmaEntry *vma;
	size_t i;

	vec_foreach (memfd, &l->snap->memfds)
		if (load_segment(l, (*memfd)->shmid, err))
			return -1;
	vec_foreach (task, &l->snap->tasks) {
		for (i = 0; (*task)->mm && i < (*task)->mm->n_vmas; i++) {
			vma = (*task)->mm->vmas[i];
			if ((vma->status & VMA_ANON_SHARED) && load_segment(l, vma->shmid, err))
				return -1;
		}
	}
	return 0;
}

/* A queue and its messages: 1, 0 at the end of the image, -1. */
static int load_queue(struct loader *l, struct input *in, struct snap_queue *q, struct err *err)
{
	struct snap_payload *m;
	int rc = next(in, &q->entry, err);

	if (rc != 1)
		return rc;
	/* each has a frame and some bytes in the image */
	if (q->entry->qnum > in->reader.bytes / 8)
		return err_set(err, EINVAL, "%s: queue %u cannot have %u messages", in->name,
			       q->entry->desc->id, q->entry->qnum);
	q->messages = arena_array(&l->snap->arena, struct snap_payload, q->entry->qnum + 1);
	if (!q->messages)
		return err_nomem(err);
	for (uint32_t i = 0; i < q->entry->qnum; i++) {
		m = &q->messages[i];
		rc = next(in, &m->entry, err);
		if (rc != 1)
			return rc < 0 ? -1 :
					err_set(err, EINVAL, "%s: messages are missing", in->name);
		m->bytes = in->reader.extra_bytes;
		m->data = arena_dup(&l->snap->arena, in->reader.extra, m->bytes);
		if (!m->data)
			return err_nomem(err);
	}
	return 1;
}

static int load_queues(struct loader *l, struct err *err)
{
	struct snap_ipc *ipc = &l->snap->ipc;
	cleanup_input struct input in = {0};
	struct snap_queue q;
	int rc = input_open(l, &in, err, "ipcns-msg-%u.img", ipc->ns_id);

	while (rc == 1 && (rc = load_queue(l, &in, &q, err)) == 1)
		if (!vec_push(&ipc->msg, q))
			return err_nomem(err);
	return rc;
}

/* ipcns-*-N, where the root has another IPC namespace than whoever dumped it. */
static int load_ipc(struct loader *l, struct err *err)
{
	const TaskKobjIdsEntry *outer = l->snap->inventory->root_ids;
	const TaskKobjIdsEntry *root = l->snap->tasks.v[0]->ids;
	struct snap_ipc *ipc = &l->snap->ipc;
	char shm[64], sem[64];

	if (!root || !root->has_ipc_ns_id || !root->ipc_ns_id ||
	    (outer && outer->has_ipc_ns_id && outer->ipc_ns_id == root->ipc_ns_id))
		return 0;
	ipc->ns_id = root->ipc_ns_id;
	snprintf(shm, sizeof(shm), "ipcns-shm-%u.img", ipc->ns_id);
	snprintf(sem, sizeof(sem), "ipcns-sem-%u.img", ipc->ns_id);
	if (load_optional(l, "ipcns-var-%u.img", ipc->ns_id, &ipc->var, err) ||
	    load_list(l, &ipc->shm, shm, err) < 0 || LOAD_PAYLOADS(l, &ipc->sem, sem, err) < 0 ||
	    load_queues(l, err) < 0)
		return -1;
	vec_foreach (e, &ipc->shm)
		if (load_segment(l, (*e)->desc->id, err))
			return -1;
	return 0;
}

/* timens-N: N is 0 if the root stayed in the time namespace of whoever dumped it. */
static int load_timens(struct loader *l, struct err *err)
{
	const TaskKobjIdsEntry *outer = l->snap->inventory->root_ids;
	const TaskKobjIdsEntry *root = l->snap->tasks.v[0]->ids;

	if (root && root->has_time_ns_id &&
	    (!outer || !outer->has_time_ns_id || outer->time_ns_id != root->time_ns_id))
		l->snap->timens_id = root->time_ns_id;
	return load_optional(l, "timens-%u.img", l->snap->timens_id, &l->snap->timens, err);
}

static int load_all(struct loader *l, struct err *err)
{
	struct snapshot *snap = l->snap;

	if (load_required(l, "inventory.img", 0, &snap->inventory, err) || load_tree(l, err))
		return -1;
	if (!snap->tasks.n)
		return err_set(err, EINVAL, "pstree.img: the image has no task");
	if (load_files(l, err))
		return -1;
	vec_foreach (task, &snap->tasks)
		if (load_task(l, *task, err))
			return -1;
	if (load_timens(l, err) || load_contents(l, err) || load_segments(l, err) || load_ipc(l, err))
		return -1;
	return snapshot_verify(snap, err);
}

/* Zombies have no mm; without a pagemap there is nothing to serve. */
static int load_task_memory(struct loader *l, struct snap_task *task, struct err *err)
{
	if (claim_tid(l, task->ps->pid, err) ||
	    load_optional(l, "mm-%u.img", task->ps->pid, &task->mm, err))
		return -1;
	if (!task->mm)
		return 0;
	return load_pagemaps(l, false, task->ps->pid, &task->pagemap, err) < 0 ? -1 : 0;
}

static int load_memory(struct loader *l, struct err *err)
{
	if (load_required(l, "inventory.img", 0, &l->snap->inventory, err) || load_tree(l, err))
		return -1;
	vec_foreach (task, &l->snap->tasks)
		if (load_task_memory(l, *task, err) ||
		    ((*task)->pagemap && verify_task_pages(*task, err)))
			return -1;
	return 0;
}

static struct snapshot *load(struct store *store, int (*what)(struct loader *l, struct err *err),
			     struct err *err)
{
	struct loader l = {.snap = snapshot_create(err), .store = store};
	int rc;

	if (!l.snap)
		return NULL;
	rc = what(&l, err);
	map_free(&l.tids);
	map_free(&l.tables);
	map_free(&l.shmem);
	if (rc) {
		snapshot_free(l.snap);
		return NULL;
	}
	return l.snap;
}

struct snapshot *snapshot_load(struct store *store, struct err *err)
{
	return load(store, load_all, err);
}

struct snapshot *snapshot_load_memory(struct store *store, struct err *err)
{
	return load(store, load_memory, err);
}

int snapshot_load_pagemap(struct snapshot *snap, struct store *store, bool shmem, uint64_t id,
			  struct snap_pagemap **pm_out, struct err *err)
{
	struct loader l = {.snap = snap, .store = store};

	return load_pagemap(&l, shmem, id, pm_out, err);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Making, freeing and searching a snapshot.
 */
#include "snapshot/snapshot.h"

#include "base/map.h"

#include <string.h>

/* How far each list has been indexed, and its map. */
struct list_index {
	struct map map;
	size_t n;
};

struct snap_index {
	struct list_index tasks, files, shmem, remaps, ghosts, memfds, tty_info, sysv;
};

struct snapshot *snapshot_create(struct err *err)
{
	struct snapshot *snap = calloc(1, sizeof(*snap));

	if (snap)
		snap->index = calloc(1, sizeof(*snap->index));
	if (!snap || !snap->index) {
		free(snap);
		err_nomem(err);
		return NULL;
	}
	return snap;
}

static void free_index(struct snap_index *index)
{
	map_free(&index->tasks.map);
	map_free(&index->files.map);
	map_free(&index->shmem.map);
	map_free(&index->remaps.map);
	map_free(&index->ghosts.map);
	map_free(&index->memfds.map);
	map_free(&index->tty_info.map);
	map_free(&index->sysv.map);
	free(index);
}

void snapshot_pagemap_free(struct snap_pagemap *pm)
{
	for (; pm; pm = pm->parent)
		vec_free(&pm->entries);
}

void snapshot_free(struct snapshot *snap)
{
	if (!snap)
		return;
	vec_foreach (task, &snap->tasks) {
		snapshot_pagemap_free((*task)->pagemap);
		vec_free(&(*task)->fds);
	}
	vec_foreach (pm, &snap->shmem)
		snapshot_pagemap_free(*pm);
	vec_free(&snap->tasks);
	vec_free(&snap->files);
	vec_free(&snap->remaps);
	vec_free(&snap->ghosts);
	vec_free(&snap->memfds);
	vec_free(&snap->pipes_data);
	vec_free(&snap->fifo_data);
	vec_free(&snap->sk_queues);
	vec_free(&snap->tty_info);
	vec_free(&snap->tty_data);
	vec_free(&snap->locks);
	vec_free(&snap->shmem);
	vec_free(&snap->ipc.shm);
	vec_free(&snap->ipc.sem);
	vec_free(&snap->ipc.msg);
	free_index(snap->index);
	arena_free(&snap->arena);
	free(snap);
}

/*
 * The element of a list whose key_of is @key. Of equal keys the first counts.
 * Without memory for the index the list is walked.
 */
static void *look_up(struct list_index *index, void *const *list, size_t n, uint64_t key,
		     bool (*key_of)(const void *element, uint64_t *key_out))
{
	uint64_t k;
	size_t i;

	while (index->n < n && key_of(list[index->n], &k)) {
		if (map_add(&index->map, k, list[index->n]) < 0)
			break;
		index->n++;
	}
	if (map_get(&index->map, key))
		return map_get(&index->map, key);
	for (i = index->n; i < n; i++)
		if (key_of(list[i], &k) && k == key)
			return list[i];
	return NULL;
}

static bool task_key(const void *element, uint64_t *key)
{
	const struct snap_task *task = element;

	if (task->ps)
		*key = task->ps->pid;
	return task->ps;
}

static bool file_key(const void *element, uint64_t *key)
{
	*key = ((const FileEntry *)element)->id;
	return true;
}

static bool pagemap_key(const void *element, uint64_t *key)
{
	*key = ((const struct snap_pagemap *)element)->id;
	return true;
}

static bool remap_key(const void *element, uint64_t *key)
{
	*key = ((const RemapFilePathEntry *)element)->orig_id;
	return true;
}

static bool ghost_key(const void *element, uint64_t *key)
{
	*key = ((const struct snap_ghost *)element)->id;
	return true;
}

static bool memfd_key(const void *element, uint64_t *key)
{
	*key = ((const MemfdInodeEntry *)element)->inode_id;
	return true;
}

static bool tty_key(const void *element, uint64_t *key)
{
	*key = ((const TtyInfoEntry *)element)->id;
	return true;
}

static bool sysv_key(const void *element, uint64_t *key)
{
	*key = ((const IpcShmEntry *)element)->desc->id;
	return true;
}

#define LOOK_UP(snap, list, key, key_of)                                                    \
	look_up(&(snap)->index->list, (void *const *)(snap)->list.v, (snap)->list.n, (key), \
		(key_of))

struct snap_task *snapshot_task(const struct snapshot *snap, uint32_t pid)
{
	return LOOK_UP(snap, tasks, pid, task_key);
}

FileEntry *snapshot_file(const struct snapshot *snap, uint32_t id)
{
	return LOOK_UP(snap, files, id, file_key);
}

struct snap_pagemap *snapshot_shmem(const struct snapshot *snap, uint64_t shmid)
{
	return LOOK_UP(snap, shmem, shmid, pagemap_key);
}

RemapFilePathEntry *snapshot_remap(const struct snapshot *snap, uint32_t file_id)
{
	return LOOK_UP(snap, remaps, file_id, remap_key);
}

struct snap_ghost *snapshot_ghost(const struct snapshot *snap, uint32_t remap_id)
{
	return LOOK_UP(snap, ghosts, remap_id, ghost_key);
}

MemfdInodeEntry *snapshot_memfd(const struct snapshot *snap, uint64_t inode_id)
{
	return LOOK_UP(snap, memfds, inode_id, memfd_key);
}

IpcShmEntry *snapshot_sysv(const struct snapshot *snap, uint64_t shmid)
{
	return look_up(&snap->index->sysv, (void *const *)snap->ipc.shm.v, snap->ipc.shm.n, shmid,
		       sysv_key);
}

TtyInfoEntry *snapshot_tty_info(const struct snapshot *snap, uint32_t id)
{
	return LOOK_UP(snap, tty_info, id, tty_key);
}

const char *snapshot_pagemap_name(const struct snap_pagemap *pm, char buf[static 64])
{
	snprintf(buf, 64, "pagemap-%s%llu.img", pm->shmem ? "shmem-" : "",
		 (unsigned long long)pm->id);
	return buf;
}

uint64_t snapshot_pagemap_bytes(const struct snap_pagemap *pm)
{
	uint64_t pages = 0;

	vec_foreach (entry, &pm->entries)
		if ((*entry)->flags & PE_PRESENT)
			pages += (*entry)->nr_pages;
	return pages * PAGE_BYTES;
}

bool snapshot_pagemap_needs_parent(const struct snap_pagemap *pm)
{
	vec_foreach (entry, &pm->entries)
		if (((*entry)->flags & (PE_PARENT | PE_PRESENT)) == PE_PARENT)
			return true;
	return false;
}

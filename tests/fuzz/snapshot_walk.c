// SPDX-License-Identifier: Apache-2.0
#include "snapshot_walk.h"

#include "store/store.h"

#include <errno.h>
#include <string.h>

#define promise(condition)                                                                 \
	do {                                                                               \
		if (!(condition)) {                                                        \
			fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, \
				#condition);                                               \
			__builtin_trap();                                                  \
		}                                                                          \
	} while (0)

static void walk_core(const CoreEntry *core)
{
	const ThreadCoreEntry *tc = core->thread_core;

	promise(core->thread_info->gpregs && core->thread_info->fpregs->n_xmm_space == 64);
	promise(tc->creds && tc->creds->n_cap_eff <= 2);
	promise(!tc->comm || strlen(tc->comm) < 16);
	for (size_t i = 0; tc->signals_p && i < tc->signals_p->n_signals; i++)
		promise(tc->signals_p->signals[i]->siginfo.len == 128);
}

static void walk_areas(const struct snapshot *snap, const MmEntry *mm)
{
	promise(snapshot_file(snap, mm->exe_file_id)->reg->name);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *vma = mm->vmas[i];
		const FileEntry *file;

		promise(vma->start < vma->end && (vma->start | vma->end) % PAGE_BYTES == 0);
		if (!(vma->status & VMA_REGULAR) ||
		    !(vma->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED)) ||
		    (vma->status & VMA_GUARD))
			continue;
		file = snapshot_file(snap, (uint32_t)vma->shmid);
		promise(vma->status & VMA_MEMFD ? file->memfd != NULL : file->reg != NULL);
	}
}

static void walk_pagemap(const struct snap_pagemap *pm)
{
	uint64_t end = 0;

	promise(snapshot_pagemap_bytes(pm) <= 1UL << 56);
	vec_foreach (e, &pm->entries) {
		promise((*e)->vaddr >= end && (*e)->nr_pages);
		end = (*e)->vaddr + (*e)->nr_pages * PAGE_BYTES;
		promise(end <= 1UL << 56);
	}
}

static void walk_task(const struct snapshot *snap, const struct snap_task *task)
{
	promise(snapshot_task(snap, task->ps->pid) == task);
	promise(task->core[0]->tc->comm);
	if (!task->ids) {
		promise(task->core[0]->tc->task_state == TASK_DEAD);
		return;
	}
	promise(task->core[0]->tc->n_sigactions == 62 && task->core[0]->tc->timers->real);
	for (size_t i = 0; i < task->n_threads; i++)
		walk_core(task->core[i]);
	promise(snapshot_file(snap, task->fs->cwd_id)->reg->name);
	promise(snapshot_file(snap, task->fs->root_id)->reg->name);
	vec_foreach (fd, &task->fds)
		promise(snapshot_file(snap, (*fd)->id)->type == (*fd)->type);
	walk_areas(snap, task->mm);
	walk_pagemap(task->pagemap);
}

static void walk_ghost(const struct snap_ghost *ghost)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < ghost->bytes; i++)
		sum += ghost->data[i];
	promise(sum <= 255 * (uint64_t)ghost->bytes);
	for (size_t i = 0; i < ghost->n_chunks; i++) {
		promise(ghost->chunks[i]->off + ghost->chunks[i]->len <= ghost->entry->size);
		promise(ghost->chunks[i]->len <= ghost->bytes);
	}
}

void snapshot_walk(const struct snapshot *snap)
{
	promise(snap->inventory->root_ids && snap->tasks.n);
	vec_foreach (task, &snap->tasks)
		walk_task(snap, *task);
	vec_foreach (file, &snap->files) {
		promise(snapshot_file(snap, (*file)->id) == *file);
		if ((*file)->type == FD_TYPES__MEMFD)
			promise(snapshot_memfd(snap, (*file)->memfd->inode_id)->name);
		if ((*file)->type == FD_TYPES__TTY)
			promise(snapshot_tty_info(snap, (*file)->tty->tty_info_id));
	}
	vec_foreach (pm, &snap->shmem)
		walk_pagemap(*pm);
	vec_foreach (ghost, &snap->ghosts)
		walk_ghost(*ghost);
	vec_foreach (remap, &snap->remaps)
		promise(snapshot_file(snap, (*remap)->orig_id));
	vec_foreach (p, &snap->sk_queues)
		promise(snapshot_file(snap, ((SkPacketEntry *)p->entry)->id_for)->usk);
}

/* Edits may mark pages PE_PARENT, and a store in memory has no parent. */
static bool needs_parent(const struct snapshot *snap)
{
	vec_foreach (task, &snap->tasks)
		if ((*task)->pagemap && snapshot_pagemap_needs_parent((*task)->pagemap))
			return true;
	vec_foreach (pm, &snap->shmem)
		if (snapshot_pagemap_needs_parent(*pm))
			return true;
	return false;
}

void snapshot_round_trip(const struct snapshot *snap)
{
	struct err err = {0};
	struct store *store = store_memory_open(&err);
	struct snapshot *back;

	if (!store)
		return;
	if (snapshot_save(snap, store, &err) || store_complete(store, &err)) {
		fprintf(stderr, "not saved: %s\n", err.text);
		__builtin_trap();
	}
	back = snapshot_load(store, &err);
	if (needs_parent(snap)) {
		promise(!back && err.no == ENOENT);
		store_close(store);
		return;
	}
	if (!back) {
		fprintf(stderr, "not loaded again: %s\n", err.text);
		__builtin_trap();
	}
	snapshot_walk(back);
	snapshot_free(back);
	store_close(store);
}

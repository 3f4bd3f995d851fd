// SPDX-License-Identifier: Apache-2.0
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *sample_must(void *p)
{
	if (!p) {
		fputs("out of memory\n", stderr);
		exit(99);
	}
	return p;
}

static void sample_check(bool ok)
{
	sample_must(ok ? &ok : NULL);
}

static FownEntry *sample_fown(struct snapshot *snap)
{
	return sample_new(snap, FownEntry, fown_entry);
}

static FileEntry *sample_file(struct snapshot *snap, uint32_t id, FdTypes type)
{
	FileEntry *file = sample_new(snap, FileEntry, file_entry);

	file->id = id;
	file->type = type;
	sample_check(vec_push(&snap->files, file));
	return file;
}

RegFileEntry *sample_path(struct snapshot *snap, uint32_t id, const char *name)
{
	FileEntry *file = sample_file(snap, id, FD_TYPES__REG);

	file->reg = sample_new(snap, RegFileEntry, reg_file_entry);
	file->reg->id = id;
	file->reg->name = sample_must(arena_strdup(&snap->arena, name));
	file->reg->fown = sample_fown(snap);
	return file->reg;
}

static void sample_pipe(struct snapshot *snap, uint32_t id, uint32_t flags)
{
	FileEntry *file = sample_file(snap, id, FD_TYPES__PIPE);

	file->pipe = sample_new(snap, PipeEntry, pipe_entry);
	file->pipe->id = id;
	file->pipe->pipe_id = 7000;
	file->pipe->flags = flags;
	file->pipe->fown = sample_fown(snap);
}

static void sample_socket(struct snapshot *snap, uint32_t id, uint32_t ino, uint32_t peer)
{
	FileEntry *file = sample_file(snap, id, FD_TYPES__UNIXSK);

	file->usk = sample_new(snap, UnixSkEntry, unix_sk_entry);
	file->usk->id = id;
	file->usk->ino = ino;
	file->usk->peer = peer;
	file->usk->type = 1;
	file->usk->state = 1;
	file->usk->fown = sample_fown(snap);
	file->usk->opts = sample_new(snap, SkOptsEntry, sk_opts_entry);
}

static void sample_special_files(struct snapshot *snap)
{
	MemfdInodeEntry *inode = sample_new(snap, MemfdInodeEntry, memfd_inode_entry);
	TtyInfoEntry *tty = sample_new(snap, TtyInfoEntry, tty_info_entry);
	FileEntry *file;

	file = sample_file(snap, FILE_EVENTFD, FD_TYPES__EVENTFD);
	file->efd = sample_new(snap, EventfdFileEntry, eventfd_file_entry);
	file->efd->id = FILE_EVENTFD;
	file->efd->fown = sample_fown(snap);

	file = sample_file(snap, FILE_MEMFD, FD_TYPES__MEMFD);
	file->memfd = sample_new(snap, MemfdFileEntry, memfd_file_entry);
	file->memfd->id = FILE_MEMFD;
	file->memfd->inode_id = 1;
	file->memfd->fown = sample_fown(snap);
	inode->name = "sample";
	inode->inode_id = 1;
	inode->shmid = 500;
	inode->size = 2 * PAGE_BYTES + 1;
	sample_check(vec_push(&snap->memfds, inode));

	file = sample_file(snap, FILE_TTY, FD_TYPES__TTY);
	file->tty = sample_new(snap, TtyFileEntry, tty_file_entry);
	file->tty->id = FILE_TTY;
	file->tty->tty_info_id = 2;
	file->tty->has_regf_id = true;
	file->tty->regf_id = FILE_TTY_PATH;
	file->tty->fown = sample_fown(snap);
	sample_path(snap, FILE_TTY_PATH, "/dev/pts/1");
	tty->id = 2;
	tty->type = TTY_TYPE__PTY;
	sample_check(vec_push(&snap->tty_info, tty));

	file = sample_file(snap, FILE_FIFO, FD_TYPES__FIFO);
	file->fifo = sample_new(snap, FifoEntry, fifo_entry);
	file->fifo->id = FILE_FIFO;
	file->fifo->pipe_id = 7001;
	file->fifo->has_regf_id = true;
	file->fifo->regf_id = FILE_FIFO_PATH;
	sample_path(snap, FILE_FIFO_PATH, "/tmp/fifo");
}

static void sample_remap(struct snapshot *snap, uint32_t orig, uint32_t to, RemapType type)
{
	RemapFilePathEntry *remap = sample_new(snap, RemapFilePathEntry, remap_file_path_entry);

	remap->orig_id = orig;
	remap->remap_id = to;
	remap->has_remap_type = true;
	remap->remap_type = type;
	sample_check(vec_push(&snap->remaps, remap));
}

static void sample_deleted_files(struct snapshot *snap)
{
	struct snap_ghost *ghost = sample_array(snap, struct snap_ghost, 1);

	sample_path(snap, FILE_GHOST, "/tmp/gone");
	sample_path(snap, FILE_LINKED, "/tmp/linked");
	sample_path(snap, FILE_LINK, "/tmp/link_remap.1");
	sample_remap(snap, FILE_GHOST, 0x1f, REMAP_TYPE__GHOST);
	sample_remap(snap, FILE_LINKED, FILE_LINK, REMAP_TYPE__LINKED);
	ghost->id = 0x1f;
	ghost->entry = sample_new(snap, GhostFileEntry, ghost_file_entry);
	ghost->entry->has_chunks = ghost->entry->chunks = true;
	ghost->entry->has_size = true;
	ghost->entry->size = 100000;
	ghost->n_chunks = 2;
	ghost->chunks = sample_array(snap, GhostChunkEntry *, 2);
	for (uint64_t i = 0; i < 2; i++) {
		ghost->chunks[i] = sample_new(snap, GhostChunkEntry, ghost_chunk_entry);
		ghost->chunks[i]->off = i * 65536;
		ghost->chunks[i]->len = 3;
	}
	ghost->data = sample_must(arena_dup(&snap->arena, "onetwo", 6));
	ghost->bytes = 6;
	sample_check(vec_push(&snap->ghosts, ghost));
}

static struct snap_payload sample_payload(struct snapshot *snap, ProtobufCMessage *entry,
					  const char *text)
{
	uint8_t *data = sample_must(arena_dup(&snap->arena, text, strlen(text)));

	return (struct snap_payload){entry, data, strlen(text)};
}

static void sample_contents(struct snapshot *snap)
{
	PipeDataEntry *pipe = sample_new(snap, PipeDataEntry, pipe_data_entry);
	PipeDataEntry *fifo = sample_new(snap, PipeDataEntry, pipe_data_entry);
	SkPacketEntry *packet = sample_new(snap, SkPacketEntry, sk_packet_entry);
	TtyDataEntry *typed = sample_new(snap, TtyDataEntry, tty_data_entry);
	FileLockEntry *lock = sample_new(snap, FileLockEntry, file_lock_entry);

	pipe->pipe_id = 7000;
	pipe->bytes = 4;
	pipe->has_size = true;
	pipe->size = 65536;
	fifo->pipe_id = 7001;
	packet->id_for = FILE_SOCKET;
	packet->length = 6;
	typed->tty_id = 2;
	typed->data.data = (uint8_t *)"typed";
	typed->data.len = 5;
	lock->pid = SAMPLE_ROOT;
	lock->flag = 2;
	lock->type = 1;
	lock->fd = 8;
	sample_check(vec_push(&snap->pipes_data, sample_payload(snap, &pipe->base, "pipe")) &&
		     vec_push(&snap->fifo_data, sample_payload(snap, &fifo->base, "")) &&
		     vec_push(&snap->sk_queues, sample_payload(snap, &packet->base, "packet")) &&
		     vec_push(&snap->tty_data, typed) && vec_push(&snap->locks, lock));
}

static void sample_files(struct snapshot *snap)
{
	sample_path(snap, FILE_EXE, "/bin/sample");
	sample_path(snap, FILE_CWD, "/tmp");
	sample_path(snap, FILE_ROOT, "/");
	sample_pipe(snap, FILE_PIPE_R, 0);
	sample_pipe(snap, FILE_PIPE_W, 1);
	sample_special_files(snap);
	sample_socket(snap, FILE_SOCKET, 8000, 8001);
	sample_socket(snap, FILE_PEER, 8001, 8000);
	sample_deleted_files(snap);
	sample_contents(snap);
}

/* ---- tasks ---- */

static ThreadInfoX86 *sample_registers(struct snapshot *snap)
{
	ThreadInfoX86 *info = sample_new(snap, ThreadInfoX86, thread_info_x86);
	UserX86FpregsEntry *fp = sample_new(snap, UserX86FpregsEntry, user_x86_fpregs_entry);

	info->gpregs = sample_new(snap, UserX86RegsEntry, user_x86_regs_entry);
	info->gpregs->ip = 0x400123;
	info->fpregs = fp;
	fp->n_st_space = 32;
	fp->st_space = sample_array(snap, uint32_t, 32);
	fp->n_xmm_space = 64;
	fp->xmm_space = sample_array(snap, uint32_t, 64);
	fp->xsave = sample_new(snap, UserX86XsaveEntry, user_x86_xsave_entry);
	fp->xsave->n_ymmh_space = 64;
	fp->xsave->ymmh_space = sample_array(snap, uint32_t, 64);
	return info;
}

static CoreEntry *sample_thread(struct snapshot *snap, const char *comm)
{
	CoreEntry *core = sample_new(snap, CoreEntry, core_entry);
	ThreadCoreEntry *tc = sample_new(snap, ThreadCoreEntry, thread_core_entry);

	core->mtype = CORE_ENTRY__MARCH__X86_64;
	core->thread_info = sample_registers(snap);
	core->thread_core = tc;
	tc->creds = sample_new(snap, CredsEntry, creds_entry);
	tc->comm = sample_must(arena_strdup(&snap->arena, comm));
	tc->signals_p = sample_new(snap, SignalQueueEntry, signal_queue_entry);
	tc->signals_p->n_signals = 1;
	tc->signals_p->signals = sample_array(snap, SiginfoEntry *, 1);
	tc->signals_p->signals[0] = sample_new(snap, SiginfoEntry, siginfo_entry);
	tc->signals_p->signals[0]->siginfo.len = 128;
	tc->signals_p->signals[0]->siginfo.data = sample_array(snap, uint8_t, 128);
	return core;
}

static TaskCoreEntry *sample_tc(struct snapshot *snap, const char *comm)
{
	TaskCoreEntry *tc = sample_new(snap, TaskCoreEntry, task_core_entry);

	tc->task_state = TASK_ALIVE;
	tc->comm = sample_must(arena_strdup(&snap->arena, comm));
	tc->timers = sample_new(snap, TaskTimersEntry, task_timers_entry);
	tc->timers->real = sample_new(snap, ItimerEntry, itimer_entry);
	tc->timers->virt = sample_new(snap, ItimerEntry, itimer_entry);
	tc->timers->prof = sample_new(snap, ItimerEntry, itimer_entry);
	tc->rlimits = sample_new(snap, TaskRlimitsEntry, task_rlimits_entry);
	tc->rlimits->n_rlimits = 16;
	tc->rlimits->rlimits = sample_array(snap, RlimitEntry *, 16);
	for (size_t i = 0; i < 16; i++)
		tc->rlimits->rlimits[i] = sample_new(snap, RlimitEntry, rlimit_entry);
	tc->n_sigactions = 62;
	tc->sigactions = sample_array(snap, SaEntry *, 62);
	for (size_t i = 0; i < 62; i++)
		tc->sigactions[i] = sample_new(snap, SaEntry, sa_entry);
	return tc;
}

struct sample_area {
	uint64_t start, pages;
	uint32_t status, flags;
	uint64_t shmid;
};

static MmEntry *sample_mm(struct snapshot *snap)
{
	static const struct sample_area areas[] = {
		{0x400000, 4, VMA_REGULAR | VMA_FILE_PRIVATE, MAP_PRIVATE, FILE_EXE},
		{0x10000000, 16, VMA_REGULAR | VMA_ANON_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS, 0},
		{0x10010000, 16, VMA_REGULAR | VMA_ANON_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS, 0},
		{0x20000000, 3, VMA_REGULAR | VMA_FILE_SHARED | VMA_MEMFD, MAP_SHARED, FILE_MEMFD},
		{0x30000000, 8, VMA_REGULAR | VMA_ANON_SHARED, MAP_SHARED | MAP_ANONYMOUS, 600},
		{0x7ff000000000, 2, VMA_REGULAR | VMA_ANON_PRIVATE | VMA_VVAR,
		 MAP_PRIVATE | MAP_ANONYMOUS, 0},
		{0x7ff000002000, 2, VMA_REGULAR | VMA_ANON_PRIVATE | VMA_VDSO,
		 MAP_PRIVATE | MAP_ANONYMOUS, 0},
		{0xffffffffff600000, 1, VMA_VSYSCALL | VMA_ANON_PRIVATE,
		 MAP_PRIVATE | MAP_ANONYMOUS, 0},
		{0x10004000, 1, VMA_GUARD, 0, 0},
	};
	MmEntry *mm = sample_new(snap, MmEntry, mm_entry);

	mm->exe_file_id = FILE_EXE;
	mm->n_vmas = ARRAY_SIZE(areas);
	mm->vmas = sample_array(snap, VmaEntry *, ARRAY_SIZE(areas));
	for (size_t i = 0; i < ARRAY_SIZE(areas); i++) {
		VmaEntry *vma = sample_new(snap, VmaEntry, vma_entry);

		vma->start = areas[i].start;
		vma->end = areas[i].start + areas[i].pages * PAGE_BYTES;
		vma->status = areas[i].status;
		vma->flags = areas[i].flags;
		vma->shmid = areas[i].shmid;
		vma->fd = -1;
		mm->vmas[i] = vma;
	}
	return mm;
}

static struct snap_pagemap *sample_pagemap(struct snapshot *snap, bool shmem, uint64_t id,
					   uint32_t pages_id)
{
	struct snap_pagemap *pm = sample_array(snap, struct snap_pagemap, 1);

	pm->shmem = shmem;
	pm->id = id;
	pm->pages_id = pages_id;
	return pm;
}

static PagemapEntry *sample_pages(struct snapshot *snap, struct snap_pagemap *pm, uint64_t vaddr,
				  uint64_t pages)
{
	PagemapEntry *e = sample_new(snap, PagemapEntry, pagemap_entry);

	e->vaddr = vaddr;
	e->has_nr_pages = true;
	e->nr_pages = pages;
	e->has_flags = true;
	e->flags = PE_PRESENT;
	sample_check(vec_push(&pm->entries, e));
	return e;
}

static struct snap_task *sample_task(struct snapshot *snap, uint32_t pid, uint32_t ppid,
				     size_t n_threads)
{
	struct snap_task *task = sample_array(snap, struct snap_task, 1);

	task->ps = sample_new(snap, PstreeEntry, pstree_entry);
	task->ps->pid = pid;
	task->ps->ppid = ppid;
	task->ps->pgid = task->ps->sid = SAMPLE_ROOT;
	task->n_threads = task->ps->n_threads = n_threads;
	task->ps->threads = sample_array(snap, uint32_t, n_threads);
	task->core = sample_array(snap, CoreEntry *, n_threads);
	for (size_t i = 0; i < n_threads; i++) {
		task->ps->threads[i] = pid + (uint32_t)i;
		task->core[i] = sample_thread(snap, i ? "worker" : "sample");
	}
	task->core[0]->tc = sample_tc(snap, "sample");
	task->ids = sample_new(snap, TaskKobjIdsEntry, task_kobj_ids_entry);
	task->ids->vm_id = task->ids->fs_id = task->ids->sighand_id = pid;
	task->ids->files_id = 2;
	task->ids->has_ipc_ns_id = true;
	task->ids->ipc_ns_id = SAMPLE_IPC;
	task->mm = sample_mm(snap);
	task->fs = sample_new(snap, FsEntry, fs_entry);
	task->fs->cwd_id = FILE_CWD;
	task->fs->root_id = FILE_ROOT;
	task->pagemap = sample_pagemap(snap, false, pid, pid);
	sample_pages(snap, task->pagemap, 0x400000, 1);
	sample_pages(snap, task->pagemap, 0x1000f000, 2); /* over the border of two areas */
	sample_pages(snap, task->pagemap, 0x7ff000002000, 2);
	sample_check(vec_push(&snap->tasks, task));
	return task;
}

static void sample_fd(struct snapshot *snap, struct snap_task *task, uint32_t fd, uint32_t id)
{
	FdinfoEntry *e = sample_new(snap, FdinfoEntry, fdinfo_entry);

	e->fd = fd;
	e->id = id;
	e->type = snapshot_file(snap, id)->type;
	sample_check(vec_push(&task->fds, e));
}

static IpcDescEntry *sample_desc(struct snapshot *snap, uint32_t id)
{
	IpcDescEntry *desc = sample_new(snap, IpcDescEntry, ipc_desc_entry);

	desc->key = 0x1000 + id;
	desc->mode = 0640;
	desc->id = id;
	return desc;
}

/* A segment, two semaphores, and a queue with two messages. */
static void sample_ipc(struct snapshot *snap)
{
	IpcShmEntry *shm = sample_new(snap, IpcShmEntry, ipc_shm_entry);
	IpcSemEntry *sem = sample_new(snap, IpcSemEntry, ipc_sem_entry);
	struct snap_queue queue = {.entry = sample_new(snap, IpcMsgEntry, ipc_msg_entry)};
	struct snap_payload values = {.entry = &sem->base, .bytes = 4};

	snap->ipc.ns_id = SAMPLE_IPC;
	snap->ipc.var = sample_new(snap, IpcVarEntry, ipc_var_entry);
	snap->ipc.var->n_sem_ctls = 4;
	snap->ipc.var->sem_ctls = sample_array(snap, uint32_t, 4);
	shm->desc = sample_desc(snap, SAMPLE_SEGMENT);
	shm->size = 2 * PAGE_BYTES - 5;
	shm->has_in_pagemaps = shm->in_pagemaps = true;
	sample_check(vec_push(&snap->ipc.shm, shm));
	sem->desc = sample_desc(snap, 1);
	sem->nsems = 2;
	values.data = (uint8_t *)sample_array(snap, uint16_t, 2);
	values.data[2] = 3;
	sample_check(vec_push(&snap->ipc.sem, values));
	queue.entry->desc = sample_desc(snap, 2);
	queue.entry->qnum = 2;
	queue.messages = sample_array(snap, struct snap_payload, 2);
	for (size_t i = 0; i < 2; i++) {
		IpcMsg *m = sample_new(snap, IpcMsg, ipc_msg);

		m->mtype = i + 1;
		m->msize = (uint32_t)(5 * i);
		queue.messages[i].entry = &m->base;
		queue.messages[i].data = (uint8_t *)"bytes";
		queue.messages[i].bytes = m->msize;
	}
	sample_check(vec_push(&snap->ipc.msg, queue));
}

struct snapshot *sample_snapshot(void)
{
	static const uint32_t fds[] = {FILE_TTY,   FILE_PIPE_R, FILE_PIPE_W, FILE_EVENTFD,
				       FILE_MEMFD, FILE_SOCKET, FILE_PEER,   FILE_FIFO,
				       FILE_GHOST, FILE_LINKED};
	struct err err;
	struct snapshot *snap = sample_must(snapshot_create(&err));
	struct snap_task *root, *zombie;
	struct snap_pagemap *pm;

	snap->inventory = sample_new(snap, InventoryEntry, inventory_entry);
	snap->inventory->img_version = 2;
	snap->inventory->has_fdinfo_per_id = snap->inventory->fdinfo_per_id = true;
	snap->inventory->root_ids = sample_new(snap, TaskKobjIdsEntry, task_kobj_ids_entry);
	snap->inventory->root_ids->files_id = 1;
	snap->timens = sample_new(snap, TimensEntry, timens_entry);
	snap->timens->monotonic = sample_new(snap, Timespec, timespec);
	snap->timens->boottime = sample_new(snap, Timespec, timespec);
	sample_files(snap);
	root = sample_task(snap, SAMPLE_ROOT, 0, 2);
	for (uint32_t i = 0; i < ARRAY_SIZE(fds); i++)
		sample_fd(snap, root, i, fds[i]);
	sample_task(snap, SAMPLE_CHILD, SAMPLE_ROOT, 1);
	zombie = sample_array(snap, struct snap_task, 1);
	zombie->ps = sample_new(snap, PstreeEntry, pstree_entry);
	zombie->ps->pid = SAMPLE_ZOMBIE;
	zombie->ps->ppid = SAMPLE_CHILD;
	zombie->ps->pgid = zombie->ps->sid = SAMPLE_ROOT;
	zombie->n_threads = 1;
	zombie->core = sample_array(snap, CoreEntry *, 1);
	zombie->core[0] = sample_new(snap, CoreEntry, core_entry);
	zombie->core[0]->mtype = CORE_ENTRY__MARCH__X86_64;
	zombie->core[0]->tc = sample_tc(snap, "gone");
	zombie->core[0]->tc->task_state = TASK_DEAD;
	sample_check(vec_push(&snap->tasks, zombie));
	pm = sample_pagemap(snap, true, 500, 1);
	sample_pages(snap, pm, 0, 3);
	sample_check(vec_push(&snap->shmem, pm));
	sample_ipc(snap);
	pm = sample_pagemap(snap, true, SAMPLE_SEGMENT, 7);
	sample_pages(snap, pm, 0, 2);
	sample_check(vec_push(&snap->shmem, pm));
	pm = sample_pagemap(snap, true, 600, 2);
	sample_pages(snap, pm, 7 * PAGE_BYTES, 1);
	sample_check(vec_push(&snap->shmem, pm));
	return snap;
}

// SPDX-License-Identifier: Apache-2.0
// Golden dumps: each decodes to the facts that their README states, or is refused by name.
#include "fixtures.h"

#include "mnt.pb-c.h"
#include "netdev.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "utsns.pb-c.h"

enum { PAGE = 4096 };

static const CoreEntry *core(const struct snapshot *snap, uint32_t pid, size_t thread)
{
	const struct snap_task *task = snapshot_task(snap, pid);

	assert_non_null(task);
	assert_true(thread < task->n_threads);
	return task->core[thread];
}

/* A page that starts with the tag and is filled with a byte. */
static void check_stamp(const char *name, uint32_t pages_id, uint64_t off, const char *tag, int fill)
{
	unsigned char page[PAGE];
	size_t len = strlen(tag);
	bool has_bases = !strcmp(name, "threads"); /* three addresses inside */

	fixture_pages(name, pages_id, off, page, sizeof(page));
	assert_memory_equal(page, tag, len);
	for (size_t i = len; i < sizeof(page); i++)
		if (page[i] != fill && !(has_bases && i >= 64 && i < 88))
			fail_msg("%s: byte %zu of the page %s is %#x", name, i, tag, page[i]);
}

static const PagemapEntry *pages_at(const struct snap_pagemap *pm, uint64_t vaddr)
{
	vec_foreach (e, &pm->entries)
		if ((*e)->vaddr == vaddr)
			return *e;
	return NULL;
}

static const VmaEntry *area_at(const struct snapshot *snap, uint32_t pid, uint64_t start)
{
	const MmEntry *mm = snapshot_task(snap, pid)->mm;

	for (size_t i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->start == start)
			return mm->vmas[i];
	fail_msg("no area at %llx", (unsigned long long)start);
	return NULL;
}

static const FdinfoEntry *descriptor(const struct snapshot *snap, uint32_t pid, uint32_t fd)
{
	vec_foreach (e, &snapshot_task(snap, pid)->fds)
		if ((*e)->fd == fd)
			return *e;
	fail_msg("no fd %u", fd);
	return NULL;
}

/* What is common to all: three standard descriptors, directories, limits, a task in nanosleep. */
static void check_common(const struct snapshot *snap)
{
	const struct snap_task *root = snap->tasks.v[0];
	const CoreEntry *leader = root->core[0];
	const MmEntry *mm = root->mm;
	const RegFileEntry *reg;

	assert_int_equal(root->ps->pid, 34);
	assert_int_equal(root->ps->ppid, 0);
	assert_int_equal(root->ps->pgid, 34);
	assert_int_equal(root->ps->sid, 34);
	assert_int_equal(snap->inventory->img_version, 2);
	assert_int_equal(root->ids->files_id, 2);
	assert_int_equal(snap->inventory->root_ids->time_ns_id, root->ids->time_ns_id);
	reg = snapshot_file(snap, descriptor(snap, 34, 0)->id)->reg;
	assert_string_equal(reg->name, "/dev/null");
	assert_int_equal(reg->flags & O_ACCMODE, O_RDONLY);
	reg = snapshot_file(snap, descriptor(snap, 34, 1)->id)->reg;
	assert_string_equal(reg->name, "/dev/null");
	assert_int_equal(reg->flags & O_ACCMODE, O_WRONLY);
	assert_string_equal(snapshot_file(snap, root->fs->cwd_id)->reg->name, "/");
	assert_string_equal(snapshot_file(snap, root->fs->root_id)->reg->name, "/");
	assert_int_equal(leader->tc->rlimits->n_rlimits, 16);
	assert_int_equal(leader->tc->n_sigactions, 62);
	assert_int_equal(leader->thread_info->gpregs->ax, (uint64_t)-4);
	assert_int_equal(mm->exe_file_id, 1);
	assert_int_equal(mm->vmas[mm->n_vmas - 1]->start, 0xffffffffff600000);
	assert_true(mm->vmas[mm->n_vmas - 1]->status & VMA_VSYSCALL);
	assert_non_null(snap->timens);
	assert_int_equal(snap->timens_id, 0);
	assert_null(snapshot_task(snap, 1));
	assert_null(snapshot_file(snap, 10000));
}

static void single(void **state)
{
	struct snapshot *snap;
	const struct snap_task *task;
	const TaskCoreEntry *tc;
	unsigned char page[PAGE], zero[PAGE] = {0};
	static const struct {
		uint64_t vaddr, pages;
		uint32_t flags;
	} runs[] = {
		{0x400000, 1, PE_PRESENT},
		{0x20000000, 1, PE_LAZY | PE_PRESENT},
		{0x20002000, 2, PE_LAZY | PE_PRESENT},
		{0x20100000, 1, PE_LAZY | PE_PRESENT},
	};

	need_fixtures();
	snap = fixture_load("single");
	task = snapshot_task(snap, 34);
	check_common(snap);
	tc = task->core[0]->tc;
	assert_string_equal(tc->comm, "fx-single");
	assert_int_equal(task->fs->umask, 027);
	assert_int_equal(task->core[0]->thread_core->sched_nice, 5);
	assert_int_equal(tc->rlimits->rlimits[7]->cur, 64);
	assert_int_equal(tc->rlimits->rlimits[7]->max, 128);
	assert_int_equal(tc->blk_sigset, 0x800);
	assert_true(tc->sigactions[8]->sigaction > 1);
	assert_int_equal(tc->sigactions[8]->mask, 0x4800);
	assert_int_equal(tc->sigactions[8]->flags, 0x4000000);
	assert_int_equal(tc->sigactions[0]->sigaction, 1);
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		assert_int_equal(task->pagemap->entries.v[i]->vaddr, runs[i].vaddr);
		assert_int_equal(task->pagemap->entries.v[i]->nr_pages, runs[i].pages);
		assert_int_equal(task->pagemap->entries.v[i]->flags, runs[i].flags);
	}
	assert_null(pages_at(task->pagemap, 0x20001000));
	check_stamp("single", 1, PAGE, "single:page0:", 'A');
	fixture_pages("single", 1, 2 * PAGE, page, PAGE);
	assert_memory_equal(page, zero, PAGE);
	check_stamp("single", 1, 3 * PAGE, "single:page3:", 'D');
	check_stamp("single", 1, 4 * PAGE, "single:ro:", 'R');
	assert_int_equal(snapshot_pagemap_bytes(task->pagemap), 32768);
	assert_int_equal(area_at(snap, 34, 0x20100000)->prot, 1);
	assert_int_equal(area_at(snap, 34, 0x20200000)->prot, 0);
	assert_int_equal(area_at(snap, 34, 0x20200000)->end, 0x20203000);
	snapshot_free(snap);
}

static void threads(void **state)
{
	static const struct {
		uint32_t tid;
		const char *comm;
		uint64_t fs_base, clear_tid, futex;
	} facts[] = {
		{34, "fx-threads", 0x405000, 0x402050, 4202496},
		{36, "fx-thr-a", 0x405040, 0x402050, 4202520},
		{37, "fx-thr-b", 0x405080, 0x402054, 4202544},
	};
	struct snapshot *snap;
	uint64_t bases[3];

	need_fixtures();
	snap = fixture_load("threads");
	check_common(snap);
	assert_int_equal(snap->tasks.v[0]->n_threads, 3);
	for (size_t i = 0; i < ARRAY_SIZE(facts); i++) {
		const CoreEntry *c = core(snap, 34, i);

		assert_int_equal(snap->tasks.v[0]->ps->threads[i], facts[i].tid);
		assert_string_equal(c->thread_core->comm, facts[i].comm);
		assert_int_equal(c->thread_info->gpregs->fs_base, facts[i].fs_base);
		assert_int_equal(c->thread_info->clear_tid_addr, facts[i].clear_tid);
		assert_int_equal(c->thread_core->futex_rla, facts[i].futex);
		assert_int_equal(c->thread_core->futex_rla_len, 24);
		assert_int_equal(c->tc != NULL, i == 0);
	}
	assert_int_equal(core(snap, 34, 0)->tc->blk_sigset, 0x800);
	assert_int_equal(core(snap, 34, 1)->thread_core->blk_sigset, 2560);
	assert_int_equal(core(snap, 34, 2)->thread_core->blk_sigset, 75776);
	assert_int_equal(core(snap, 34, 1)->thread_core->sas->ss_sp, 4206592);
	assert_int_equal(core(snap, 34, 1)->thread_core->sas->ss_size, 4096);
	assert_int_equal(core(snap, 34, 1)->thread_core->sas->ss_flags, 0);
	assert_int_equal(core(snap, 34, 0)->thread_core->sas->ss_flags, 2);
	assert_int_equal(core(snap, 34, 2)->thread_core->sched_nice, 7);
	check_stamp("threads", 1, 16384, "threads:page0:", 'T');
	fixture_pages("threads", 1, 16384 + 64, bases, sizeof(bases));
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(bases[i], facts[i].fs_base);
	snapshot_free(snap);
}

static void family(void **state)
{
	const PipeEntry *ends[2] = {0};
	struct snapshot *snap;
	const PipeDataEntry *data;

	need_fixtures();
	snap = fixture_load("family");
	check_common(snap);
	assert_int_equal(snap->tasks.n, 4);
	assert_string_equal(core(snap, 34, 0)->tc->comm, "fx-parent");
	assert_string_equal(core(snap, 36, 0)->tc->comm, "fx-child1");
	assert_string_equal(core(snap, 37, 0)->tc->comm, "fx-child2");
	assert_int_equal(snapshot_task(snap, 36)->ps->ppid, 34);
	assert_int_equal(snapshot_task(snap, 37)->ps->pgid, 37);
	assert_int_equal(core(snap, 38, 0)->tc->task_state, TASK_DEAD);
	assert_int_equal(core(snap, 38, 0)->tc->exit_code, 7 << 8);
	assert_null(core(snap, 38, 0)->thread_core);
	assert_null(snapshot_task(snap, 38)->ids);
	assert_null(snapshot_task(snap, 38)->mm);
	assert_int_equal(snapshot_task(snap, 38)->n_threads, 1); /* the list in the image is junk */
	for (uint32_t pid = 34; pid <= 37; pid += pid == 34 ? 2 : 1) {
		assert_true(snapshot_task(snap, pid)->fds.n >= 3);
		assert_int_equal(snapshot_task(snap, pid)->pagemap->pages_id,
				 pid == 34 ? 1 : pid - 34);
	}
	vec_foreach (file, &snap->files) {
		if ((*file)->type != FD_TYPES__PIPE)
			continue;
		ends[((*file)->pipe->flags & O_ACCMODE) == O_WRONLY] = (*file)->pipe;
	}
	assert_int_equal(ends[0]->pipe_id, ends[1]->pipe_id);
	assert_int_equal(ends[0]->flags, 0);
	assert_int_equal(ends[1]->flags, 0x801);
	assert_int_equal(snap->pipes_data.n, 1);
	data = (const PipeDataEntry *)snap->pipes_data.v[0].entry;
	assert_int_equal(data->pipe_id, ends[0]->pipe_id);
	assert_int_equal(data->size, 8192);
	assert_int_equal(snap->pipes_data.v[0].bytes, 10);
	assert_memory_equal(snap->pipes_data.v[0].data, "hello-pipe", 10);
	check_stamp("family", 1, PAGE, "family:cow0:", 'P');
	check_stamp("family", 3, PAGE, "family:cow0:", 'P');
	check_stamp("family", 1, 2 * PAGE, "family:cow1:", 'Q');
	check_stamp("family", 3, 2 * PAGE, "family:cow1:", 'Q');
	check_stamp("family", 2, 2 * PAGE, "family:child1:", '1');
	snapshot_free(snap);
}

static void file(void **state)
{
	const RegFileEntry *reg;
	const FileLockEntry *lock;
	struct snapshot *snap;
	const VmaEntry *vma;
	char start[16];

	need_fixtures();
	snap = fixture_load("file");
	check_common(snap);
	assert_int_equal(descriptor(snap, 34, 3)->id, 6);
	assert_int_equal(descriptor(snap, 34, 20)->id, 6);
	reg = snapshot_file(snap, 6)->reg;
	assert_string_equal(strrchr(reg->name, '/'), "/fx-file.txt");
	assert_int_equal(reg->flags & O_ACCMODE, O_RDWR);
	assert_int_equal(reg->pos, 5);
	assert_int_equal(reg->size, 16);
	reg = snapshot_file(snap, descriptor(snap, 34, 4)->id)->reg;
	assert_int_equal(reg->id, 7);
	assert_true(reg->flags & O_APPEND);
	assert_int_equal(reg->pos, 10);
	reg = snapshot_file(snap, descriptor(snap, 34, 5)->id)->reg;
	assert_string_equal(reg->name, "/usr");
	assert_true(reg->flags & O_DIRECTORY);
	assert_int_equal(descriptor(snap, 34, 6)->flags, 1);
	assert_int_equal(descriptor(snap, 34, 5)->flags, 0);
	vma = area_at(snap, 34, 0x30000000);
	assert_int_equal(vma->status, VMA_REGULAR | VMA_FILE_PRIVATE);
	assert_int_equal(vma->shmid, 2);
	assert_int_equal(vma->fdflags, 2);
	vma = area_at(snap, 34, 0x30100000);
	assert_int_equal(vma->status, VMA_REGULAR | VMA_FILE_SHARED);
	assert_int_equal(vma->shmid, 2);
	reg = snapshot_file(snap, 2)->reg;
	assert_int_equal(reg->pos, 0);
	assert_int_equal(reg->flags, 0);
	assert_non_null(pages_at(snap->tasks.v[0]->pagemap, 0x30000000));
	assert_null(pages_at(snap->tasks.v[0]->pagemap, 0x30100000));
	/* the private copy: its place in the file follows from what comes before */
	uint64_t off = 0;
	vec_foreach (e, &snap->tasks.v[0]->pagemap->entries) {
		if ((*e)->vaddr == 0x30000000)
			break;
		off += (*e)->nr_pages * PAGE;
	}
	fixture_pages("file", 1, off, start, sizeof(start));
	assert_memory_equal(start, "X123456789abcdef", 16);
	assert_int_equal(snap->locks.n, 1);
	lock = snap->locks.v[0];
	assert_int_equal(lock->flag, 2);
	assert_int_equal(lock->type, 1);
	assert_int_equal(lock->pid, 34);
	assert_int_equal(lock->fd, 4);
	assert_int_equal(lock->start, 0);
	assert_int_equal(lock->len, 0);
	snapshot_free(snap);
}

static void check_pair(const struct snapshot *snap, uint32_t id, uint32_t type)
{
	const UnixSkEntry *a = snapshot_file(snap, id)->usk, *b = snapshot_file(snap, id + 1)->usk;

	assert_int_equal(a->type, type);
	assert_int_equal(b->type, type);
	assert_int_equal(a->peer, b->ino);
	assert_int_equal(b->peer, a->ino);
}

static void sockets(void **state)
{
	static const struct {
		uint32_t id_for;
		const char *data;
	} queue[] = {{6, "stream-data"}, {8, "one"}, {8, "second"}, {10, "with-fd"}};
	static const uint32_t order[] = {6, 5, 8, 7, 11, 10, 9, 12, 13, 14};
	const SkPacketEntry *packet = NULL;
	struct snapshot *snap;
	const UnixSkEntry *s;
	size_t n = 0;

	need_fixtures();
	snap = fixture_load("sockets");
	check_common(snap);
	check_pair(snap, 5, 1);
	check_pair(snap, 7, 2);
	check_pair(snap, 9, 5);
	s = snapshot_file(snap, 12)->usk;
	assert_int_equal(s->state, 10);
	assert_int_equal(s->backlog, 5);
	assert_int_equal(s->name.len, 14);
	assert_memory_equal(s->name.data, "\0ferry-fixture", 14);
	s = snapshot_file(snap, 13)->usk;
	assert_int_equal(s->type, 5);
	assert_int_equal(s->state, 10);
	assert_int_equal(s->backlog, 9);
	assert_string_equal((const char *)s->name.data, "/root/compat/data/fx-listen.sock");
	assert_non_null(s->file_perms);
	s = snapshot_file(snap, 14)->usk;
	assert_int_equal(s->state, 7);
	assert_memory_equal(s->name.data, "\0ferry-dgram", 12);
	assert_int_equal(snap->sk_queues.n, 4);
	for (size_t i = 0; i < ARRAY_SIZE(queue); i++) {
		packet = (const SkPacketEntry *)snap->sk_queues.v[i].entry;
		assert_int_equal(packet->id_for, queue[i].id_for);
		assert_int_equal(snap->sk_queues.v[i].bytes, strlen(queue[i].data));
		assert_memory_equal(snap->sk_queues.v[i].data, queue[i].data, packet->length);
	}
	assert_int_equal(packet->scm[0]->type, 1);
	assert_int_equal(packet->scm[0]->rights[0], 11);
	assert_int_equal(snapshot_file(snap, 11)->efd->counter, 42);
	assert_int_equal(descriptor(snap, 34, 9)->id, 11);
	vec_foreach (f, &snap->files)
		if ((*f)->type == FD_TYPES__UNIXSK || (*f)->type == FD_TYPES__EVENTFD)
			assert_int_equal((*f)->id, order[n++]);
	assert_int_equal(n, ARRAY_SIZE(order));
	snapshot_free(snap);
}

static void events(void **state)
{
	const EventpollFileEntry *epoll;
	struct snapshot *snap;

	need_fixtures();
	snap = fixture_load("events");
	check_common(snap);
	assert_int_equal(snapshot_file(snap, 5)->efd->counter, 5);
	assert_int_equal(snapshot_file(snap, 5)->efd->flags, 0x802);
	assert_int_equal(snapshot_file(snap, 6)->efd->counter, 0);
	assert_int_equal(snapshot_file(snap, 6)->efd->flags, 2);
	assert_int_equal(snapshot_file(snap, 7)->tfd->clockid, 1);
	assert_int_equal(snapshot_file(snap, 7)->tfd->isec, 3);
	assert_int_equal(snapshot_file(snap, 7)->tfd->insec, 500);
	assert_int_equal(snapshot_file(snap, 7)->tfd->vsec, 99999);
	assert_int_equal(snapshot_file(snap, 8)->tfd->clockid, 0);
	assert_int_equal(snapshot_file(snap, 8)->tfd->vsec + snapshot_file(snap, 8)->tfd->vnsec, 0);
	assert_int_equal(snapshot_file(snap, 9)->sgfd->sigmask, 0x4200);
	assert_int_equal(descriptor(snap, 34, 8)->id, 10);
	assert_int_equal(descriptor(snap, 34, 8)->flags, 1);
	epoll = snapshot_file(snap, 10)->epfd;
	assert_int_equal(epoll->n_tfd, 3);
	for (size_t i = 0; i < 3; i++) {
		const EventpollTfdEntry *t = epoll->tfd[i];

		assert_int_equal(t->id, 0);
		assert_int_equal(t->events, t->tfd == 3 ? 0x19 :
					    t->tfd == 5 ? 0x80000019 :
							  0x40000019);
		assert_int_equal(t->data, t->tfd == 3 ? 0x1111222233334444 : t->tfd);
	}
	snapshot_free(snap);
}

static void shm(void **state)
{
	static const char *const names[] = {"shm:page0:", "shm:page5:"};
	struct snapshot *snap;
	const VmaEntry *vma;

	need_fixtures();
	snap = fixture_load("shm");
	check_common(snap);
	assert_int_equal(snap->memfds.n, 2);
	for (uint32_t i = 0; i < 2; i++) {
		const MemfdInodeEntry *inode =
			snapshot_memfd(snap, snapshot_file(snap, 2 + i)->memfd->inode_id);

		assert_int_equal(inode->inode_id, i + 1);
		assert_string_equal(inode->name, "/dev/zero");
		assert_int_equal(inode->seals, 1);
		assert_int_equal(inode->shmid, 7298 + i);
		vma = area_at(snap, 34, 0x40000000 + i * 0x1000000);
		assert_int_equal(vma->status, VMA_REGULAR | VMA_FILE_SHARED | VMA_MEMFD);
		assert_int_equal(vma->end - vma->start, (i ? 1 : 8) * PAGE);
		assert_int_equal(vma->shmid, 2 + i);
	}
	vma = area_at(snap, 37, 0x40004000);
	assert_int_equal(vma->end, 0x40008000);
	assert_int_equal(vma->pgoff, 16384);
	assert_int_equal(snap->shmem.n, 2);
	assert_int_equal(snapshot_shmem(snap, 7298)->pages_id, 1);
	assert_int_equal(snapshot_shmem(snap, 7298)->entries.v[0]->vaddr, 0);
	assert_int_equal(snapshot_shmem(snap, 7298)->entries.v[1]->vaddr, 0x5000);
	for (uint64_t i = 0; i < 2; i++)
		check_stamp("shm", 1, i * PAGE, names[i], i ? 'S' : 's');
	assert_int_equal(snapshot_shmem(snap, 7299)->pages_id, 2);
	check_stamp("shm", 2, 0, "shm2:page0:", 'z');
	assert_int_equal(snapshot_task(snap, 34)->pagemap->pages_id, 3);
	assert_int_equal(snapshot_task(snap, 37)->pagemap->pages_id, 4);
	assert_null(snapshot_shmem(snap, 1));
	snapshot_free(snap);
}

static void memfd(void **state)
{
	const MemfdFileEntry *f;
	const MemfdInodeEntry *inode;
	const VmaEntry *vma;
	struct snapshot *snap;
	char text[4];

	need_fixtures();
	snap = fixture_load("memfd");
	check_common(snap);
	assert_int_equal(descriptor(snap, 34, 3)->flags, 1);
	f = snapshot_file(snap, descriptor(snap, 34, 3)->id)->memfd;
	inode = snapshot_memfd(snap, f->inode_id);
	assert_int_equal(f->pos, 7);
	assert_string_equal(inode->name, "ferry-memfd");
	assert_int_equal(inode->size, 8292);
	assert_int_equal(inode->seals, 2 | 4);
	vma = area_at(snap, 34, 0x50000000);
	assert_int_equal(vma->end - vma->start, 3 * PAGE);
	assert_int_equal(vma->shmid, 2);
	assert_int_equal(snapshot_file(snap, 2)->memfd->inode_id, f->inode_id);
	assert_int_equal(snapshot_file(snap, 2)->memfd->pos, 0);
	assert_int_equal(inode->shmid, 7312);
	assert_int_equal(snapshot_shmem(snap, 7312)->entries.v[0]->vaddr, 0);
	assert_int_equal(snapshot_shmem(snap, 7312)->entries.v[1]->vaddr, 0x2000);
	check_stamp("memfd", snapshot_shmem(snap, 7312)->pages_id, 0, "memfd:page0:", 'm');
	fixture_pages("memfd", snapshot_shmem(snap, 7312)->pages_id, PAGE, text, 4);
	assert_memory_equal(text, "tail", 4);
	f = snapshot_file(snap, descriptor(snap, 34, 4)->id)->memfd;
	inode = snapshot_memfd(snap, f->inode_id);
	assert_int_equal(f->pos, 3);
	assert_string_equal(inode->name, "plain");
	assert_int_equal(inode->size, 3);
	assert_int_equal(inode->seals, 1);
	fixture_pages("memfd", snapshot_shmem(snap, 7313)->pages_id, 0, text, 3);
	assert_memory_equal(text, "xyz", 3);
	snapshot_free(snap);
}

static void ghost(void **state)
{
	const struct snap_ghost *small, *big;
	struct snapshot *snap;

	need_fixtures();
	snap = fixture_load("ghost");
	check_common(snap);
	assert_int_equal(descriptor(snap, 34, 3)->id, 5);
	assert_int_equal(snapshot_file(snap, 5)->reg->pos, 6);
	assert_int_equal(snapshot_file(snap, 5)->reg->size, 20);
	assert_int_equal(snapshot_file(snap, 6)->reg->pos, 65636);
	assert_int_equal(snapshot_file(snap, 6)->reg->size, 131072);
	assert_int_equal(snapshot_remap(snap, 5)->remap_id, 1);
	assert_int_equal(snapshot_remap(snap, 6)->remap_id, 2);
	assert_int_equal(snapshot_remap(snap, 6)->remap_type, REMAP_TYPE__GHOST);
	assert_null(snapshot_remap(snap, 1));
	small = snapshot_ghost(snap, 1);
	assert_int_equal(small->bytes, 20);
	assert_int_equal(small->n_chunks, 0);
	assert_memory_equal(small->data, "ghost-contents-small", 20);
	big = snapshot_ghost(snap, 2);
	assert_int_equal(big->entry->size, 131072);
	assert_int_equal(big->n_chunks, 2);
	assert_int_equal(big->chunks[0]->off, 0);
	assert_int_equal(big->chunks[0]->len, 4096);
	assert_int_equal(big->chunks[1]->off, 65536);
	assert_int_equal(big->chunks[1]->len, 4096);
	assert_int_equal(big->bytes, 8192);
	assert_memory_equal(big->data, "ghost:chunk0:gggg", 17);
	assert_memory_equal(big->data + 4096, "ghost:chunk1:GGGG", 17);
	assert_int_equal(big->data[4096 + 99], 'G');
	assert_int_equal(big->data[4096 + 100], 0);
	snapshot_free(snap);
}

/* signo and code of a stored siginfo */
static void check_siginfo(const SignalQueueEntry *q, size_t i, int signo, int code)
{
	int words[3];

	assert_true(i < q->n_signals);
	assert_int_equal(q->signals[i]->siginfo.len, 128);
	memcpy(words, q->signals[i]->siginfo.data, sizeof(words));
	assert_int_equal(words[0], signo);
	assert_int_equal(words[2], code);
}

static void sigtimers(void **state)
{
	const TaskTimersEntry *t;
	const CoreEntry *c;
	struct snapshot *snap;
	uint32_t value;

	need_fixtures();
	snap = fixture_load("sigtimers");
	check_common(snap);
	c = core(snap, 34, 0);
	t = c->tc->timers;
	assert_int_equal(c->tc->blk_sigset, 0xc00002200);
	assert_int_equal(c->tc->signals_s->n_signals, 2);
	check_siginfo(c->tc->signals_s, 0, 10, 0);
	check_siginfo(c->tc->signals_s, 1, 36, -1);
	memcpy(&value, c->tc->signals_s->signals[1]->siginfo.data + 24, sizeof(value));
	assert_int_equal(value, 0xdeadbeef);
	assert_int_equal(c->thread_core->signals_p->n_signals, 1);
	check_siginfo(c->thread_core->signals_p, 0, 35, -6);
	assert_int_equal(t->real->isec, 2);
	assert_int_equal(t->real->iusec, 250000);
	assert_int_equal(t->real->vsec, 4999);
	assert_int_equal(t->virt->isec + t->virt->iusec, 0);
	assert_int_equal(t->virt->vsec, 900);
	assert_int_equal(t->n_posix, 3);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(t->posix[i]->it_id, i);
		assert_int_equal(t->posix[i]->sival_ptr, 0x1234);
	}
	assert_int_equal(t->posix[0]->si_signo, 36);
	assert_int_equal(t->posix[0]->it_sigev_notify, 0);
	assert_int_equal(t->posix[0]->clock_id, 1);
	assert_int_equal(t->posix[0]->isec, 7);
	assert_int_equal(t->posix[0]->insec, 8);
	assert_int_equal(t->posix[1]->it_sigev_notify, 1);
	assert_int_equal(t->posix[1]->clock_id, 0);
	assert_int_equal(t->posix[2]->it_sigev_notify, 4);
	assert_int_equal(t->posix[2]->notify_thread_id, 34);
	snapshot_free(snap);
}

static void tcplisten(void **state)
{
	const InetSkEntry *s;
	struct snapshot *snap;

	need_fixtures();
	snap = fixture_load("tcplisten");
	check_common(snap);
	s = snapshot_file(snap, 5)->isk;
	assert_int_equal(s->family, 2);
	assert_int_equal(s->state, 10);
	assert_int_equal(s->src_port, 31337);
	assert_int_equal(s->src_addr[0], 0x0100007f);
	assert_int_equal(s->backlog, 7);
	assert_true(s->opts->reuseaddr);
	s = snapshot_file(snap, 6)->isk;
	assert_int_equal(s->family, 10);
	assert_int_equal(s->n_src_addr, 4);
	assert_int_equal(s->src_port, 31338);
	assert_int_equal(s->backlog, 3);
	assert_true(s->v6only);
	s = snapshot_file(snap, 7)->isk;
	assert_int_equal(s->proto, 17);
	assert_int_equal(s->state, 7);
	assert_int_equal(s->src_port, 31339);
	s = snapshot_file(snap, 8)->isk;
	assert_int_equal(s->proto, 6);
	assert_int_equal(s->state, 7);
	assert_int_equal(s->src_port, 0);
	assert_false(s->has_ns_id);
	snapshot_free(snap);
}

/* The established sockets decode; it is for their kind to refuse them. */
static void tcpest(void **state)
{
	struct image_reader r[2];
	struct arena arena = {0};
	TcpStreamEntry *tcp[2];
	struct snapshot *snap;
	struct store *store;
	struct err err;
	void *data[2];
	size_t bytes;

	need_fixtures();
	snap = fixture_load("tcpest");
	check_common(snap);
	assert_int_equal(snap->inventory->network_lock_method, 2);
	assert_int_equal(snapshot_file(snap, 5)->isk->src_port, 31348);
	assert_int_equal(snapshot_file(snap, 5)->isk->dst_port, 31347);
	assert_true(snapshot_file(snap, 6)->isk->tcp_opts->nodelay);
	store = fixture_store("tcpest");
	for (size_t i = 0; i < 2; i++) {
		const char *name = i ? "tcp-stream-56927.img" : "tcp-stream-56926.img";

		assert_int_equal(store_get(store, name, &data[i], &bytes, &err), 0);
		assert_int_equal(image_reader_init(&r[i], name, data[i], bytes, &arena, &err), 0);
		assert_int_equal(image_read(&r[i], (ProtobufCMessage **)&tcp[i], &err), 1);
		assert_int_equal(tcp[i]->opt_mask, 7);
		assert_int_equal(tcp[i]->snd_wscale, 10);
		assert_int_equal(tcp[i]->rcv_wscale, 10);
		assert_int_equal(tcp[i]->outq_len, 0);
	}
	assert_int_equal(r[0].extra_bytes, 15);
	assert_memory_equal(r[0].extra, "reply-to-client", 15);
	assert_memory_equal(r[1].extra, "to-server", 9);
	assert_int_equal(tcp[0]->inq_seq, tcp[1]->outq_seq);
	assert_int_equal(tcp[1]->inq_seq, tcp[0]->outq_seq);
	free(data[0]);
	free(data[1]);
	arena_free(&arena);
	store_close(store);
	snapshot_free(snap);
}

static void pty(void **state)
{
	const TtyFileEntry *master, *slave;
	struct snapshot *snap;

	need_fixtures();
	snap = fixture_load("pty");
	check_common(snap);
	master = snapshot_file(snap, descriptor(snap, 34, 3)->id)->tty;
	slave = snapshot_file(snap, descriptor(snap, 34, 4)->id)->tty;
	assert_int_equal(master->id, 5);
	assert_int_equal(slave->id, 7);
	assert_int_equal(master->tty_info_id, 1);
	assert_int_equal(slave->tty_info_id, 0);
	assert_string_equal(snapshot_file(snap, master->regf_id)->reg->name, "/dev/pts/ptmx");
	assert_string_equal(snapshot_file(snap, slave->regf_id)->reg->name, "/dev/pts/0");
	assert_int_equal(snapshot_tty_info(snap, 0)->winsize->ws_row, 33);
	assert_int_equal(snapshot_tty_info(snap, 0)->winsize->ws_col, 101);
	assert_int_equal(snapshot_tty_info(snap, 0)->pty->index, 0);
	assert_int_equal(snapshot_tty_info(snap, 0)->termios->c_lflag, 35379);
	assert_int_equal(snap->tty_data.n, 1);
	assert_int_equal(snap->tty_data.v[0]->tty_id, 0);
	assert_int_equal(snap->tty_data.v[0]->data.len, 6);
	assert_memory_equal(snap->tty_data.v[0]->data.data, "typed\n", 6);
	snapshot_free(snap);
}

static void fifo(void **state)
{
	const InotifyFileEntry *inotify;
	const FifoEntry *f;
	struct snapshot *snap;

	need_fixtures();
	snap = fixture_load("fifo");
	check_common(snap);
	f = snapshot_file(snap, descriptor(snap, 34, 3)->id)->fifo;
	assert_int_equal(f->id, 5);
	assert_int_equal(f->regf_id, 6);
	assert_int_equal(snapshot_file(snap, 6)->reg->mode, 010640);
	assert_int_equal(snap->fifo_data.n, 1);
	assert_int_equal(((PipeDataEntry *)snap->fifo_data.v[0].entry)->size, 65536);
	assert_int_equal(((PipeDataEntry *)snap->fifo_data.v[0].entry)->pipe_id, f->pipe_id);
	assert_int_equal(snap->fifo_data.v[0].bytes, 10);
	assert_memory_equal(snap->fifo_data.v[0].data, "fifo-bytes", 10);
	inotify = snapshot_file(snap, descriptor(snap, 34, 4)->id)->ify;
	assert_int_equal(inotify->flags, 0x800);
	assert_int_equal(inotify->wd[0]->mask, 0x302);
	assert_string_equal(inotify->wd[0]->f_handle->path, "/root/compat/data");
	snapshot_free(snap);
}

static void glibc(void **state)
{
	struct snapshot *snap;
	const MmEntry *mm;
	bool heap = false;

	need_fixtures();
	snap = fixture_load("glibc");
	assert_int_equal(snap->tasks.v[0]->n_threads, 2);
	assert_string_equal(core(snap, 34, 0)->thread_core->comm, "glibc_static");
	assert_string_equal(core(snap, 34, 1)->thread_core->comm, "fx-worker");
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(core(snap, 34, i)->thread_core->rseq_entry->rseq_abi_size, 32);
		assert_int_equal(core(snap, 34, i)->thread_core->rseq_entry->signature, 0x53053053);
		assert_int_equal(core(snap, 34, i)->thread_core->futex_rla_len, 24);
	}
	mm = snap->tasks.v[0]->mm;
	for (size_t i = 0; i < mm->n_vmas; i++)
		heap |= (mm->vmas[i]->status & VMA_HEAP) != 0;
	assert_true(heap);
	vec_foreach (e, &snap->tasks.v[0]->pagemap->entries)
		assert_int_equal((*e)->flags, PE_PRESENT);
	snapshot_free(snap);
}

/* A page server's part lies in another directory: with it the dump is complete. */
static void pageserver(void **state)
{
	struct store *local, *server, *both;
	static const char *const images[] = {"inventory.img", "pstree.img",   "core-47.img",
					     "ids-47.img",    "mm-47.img",    "fs-47.img",
					     "files.img",     "fdinfo-2.img", "pagemap-47.img"};
	struct snapshot *snap;
	struct err err = {0};
	void *data;
	size_t bytes;

	need_fixtures();
	local = fixture_store("pageserver/local");
	server = fixture_store("pageserver/server");
	both = store_memory_open(&err);
	assert_null(snapshot_load(local, &err));
	assert_non_null(strstr(err.text, "pagemap-47.img: the image is missing"));
	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		struct store *from = strncmp(images[i], "pagemap", 7) ? local : server;

		assert_int_equal(store_get(from, images[i], &data, &bytes, &err), 0);
		assert_int_equal(store_put(both, images[i], data, bytes, &err), 0);
		free(data);
	}
	assert_int_equal(store_complete(both, &err), 0);
	snap = snapshot_load(both, &err);
	if (!snap)
		fail_msg("%s", err.text);
	assert_int_equal(snap->tasks.v[0]->pagemap->pages_id, 65537);
	assert_int_equal(snapshot_check_pages(snap, both, &err), -1);
	assert_non_null(strstr(err.text, "pages-65537.img"));
	assert_int_equal(snapshot_check_pages(snap, server, &err), 0);
	snapshot_free(snap);
	store_close(local);
	store_close(server);
	store_close(both);
}

/* What cannot be restored is refused, by image and by name. */
static void refusals(void **state)
{
	static const struct {
		const char *name, *text;
	} cases[] = {
		{"seccomp", "core-34.img: thread 34 of pid 34 has a seccomp filter"},
		{"lazydump",
		 "pagemap-30.img: 1 pages at 20000000: the contents stayed with the source"},
		{"parentchain/base", "pstree.img: the image is missing"},
		{"namespaces", "ids-1.img: pid 1 is in another pid namespace (id 9)"},
		{"cpuinfo", "inventory.img: the image is missing"},
	};
	struct snapshot *snap;
	struct store *store;
	struct err err;

	need_fixtures();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		store = fixture_store(cases[i].name);
		snap = snapshot_load(store, &err);
		if (snap)
			assert_int_equal(snapshot_check_pages(snap, store, &err), -1);
		snapshot_free(snap);
		if (!strstr(err.text, cases[i].text))
			fail_msg("%s: '%s' is not about '%s'", cases[i].name, err.text,
				 cases[i].text);
		store_close(store);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(single),     cmocka_unit_test(threads),   cmocka_unit_test(family),
		cmocka_unit_test(file),       cmocka_unit_test(sockets),   cmocka_unit_test(events),
		cmocka_unit_test(shm),        cmocka_unit_test(memfd),     cmocka_unit_test(ghost),
		cmocka_unit_test(sigtimers),  cmocka_unit_test(tcplisten), cmocka_unit_test(tcpest),
		cmocka_unit_test(pty),        cmocka_unit_test(fifo),      cmocka_unit_test(glibc),
		cmocka_unit_test(pageserver), cmocka_unit_test(refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// snapshot: save and load, look-ups, and every sentence of the verification.
#include "unit.h"

#include "sample.h"

#include "snapshot/image.h"
#include "store/store.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static struct store *saved(const struct snapshot *snap)
{
	struct err err = {0};
	struct store *s = store_memory_open(&err);

	assert_non_null(s);
	if (snapshot_save(snap, s, &err) || store_complete(s, &err))
		fail_msg("%s", err.text);
	return s;
}

static void put_pages(struct store *s, uint32_t id, size_t pages)
{
	static const uint8_t page[PAGE_BYTES];
	struct err err;

	for (size_t i = 0; i < pages; i++)
		assert_int_equal(store_put_pages(s, id, page, sizeof(page), &err), 0);
	assert_int_equal(store_put_pages(s, id, NULL, 0, &err), 0);
}

static void what_is_saved_loads_again(void **state)
{
	struct snapshot *snap = sample_snapshot(), *back;
	struct store *s = saved(snap);
	struct err err = {0};

	back = snapshot_load(s, &err);
	if (!back)
		fail_msg("%s", err.text);
	assert_int_equal(back->tasks.n, 3);
	assert_int_equal(back->files.n, snap->files.n);
	assert_int_equal(snapshot_task(back, SAMPLE_ROOT)->n_threads, 2);
	assert_int_equal(snapshot_task(back, SAMPLE_ROOT)->fds.n, 10);
	assert_int_equal(snapshot_task(back, SAMPLE_CHILD)->fds.n, 0); /* the table is its parent's */
	assert_null(snapshot_task(back, SAMPLE_ZOMBIE)->mm);
	assert_int_equal(snapshot_ghost(back, 0x1f)->n_chunks, 2);
	assert_int_equal(snapshot_ghost(back, 0x1f)->bytes, 6);
	assert_memory_equal(snapshot_ghost(back, 0x1f)->data, "onetwo", 6);
	assert_memory_equal(back->pipes_data.v[0].data, "pipe", 4);
	assert_memory_equal(back->sk_queues.v[0].data, "packet", 6);
	assert_int_equal(back->shmem.n, 3);
	assert_int_equal(back->ipc.ns_id, SAMPLE_IPC);
	assert_int_equal(snapshot_sysv(back, SAMPLE_SEGMENT)->size, 2 * PAGE_BYTES - 5);
	assert_null(snapshot_sysv(back, 600));
	assert_int_equal(back->ipc.sem.v[0].bytes, 4);
	assert_int_equal(back->ipc.sem.v[0].data[2], 3);
	assert_int_equal(back->ipc.msg.n, 1);
	assert_int_equal(back->ipc.msg.v[0].messages[0].bytes, 0);
	assert_memory_equal(back->ipc.msg.v[0].messages[1].data, "bytes", 5);
	assert_non_null(back->timens);
	assert_non_null(back->seccomp); /* an empty entry is written, as CRIU does */
	assert_int_equal(back->seccomp->n_seccomp_filters, 0);
	snapshot_free(back);
	snapshot_free(snap);
	store_close(s);
}

static void saving_twice_gives_the_same(void **state)
{
	struct snapshot *snap = sample_snapshot(), *back;
	struct store *first = saved(snap), *second;
	struct err err = {0};
	void *a, *b;
	size_t n, m;

	back = snapshot_load(first, &err);
	assert_non_null(back);
	second = saved(back);
	for (const struct image_kind *k = image_kinds; k->pattern; k++) {
		char object[64];
		int rc;

		snprintf(object, sizeof(object), k->pattern, SAMPLE_ROOT);
		rc = store_get(first, object, &a, &n, &err);
		assert_int_equal(store_get(second, object, &b, &m, &err), rc);
		if (rc == 0) {
			assert_int_equal(n, m);
			assert_memory_equal(a, b, n);
		}
		free(a);
		free(b);
	}
	snapshot_free(back);
	snapshot_free(snap);
	store_close(first);
	store_close(second);
}

/* The other side waits for the inventory, and for what will not come not at all. */
static void the_inventory_is_last_and_the_rest_is_skipped(void **state)
{
	struct snapshot *snap = sample_snapshot();
	struct err err = {0};
	struct store *s = store_memory_open(&err);
	static const char *const absent[] = {"cgroup.img", "apparmor.img", "reg-files.img", "parent"};
	unsigned int calls = 0;
	void *data;
	size_t bytes;

	assert_int_equal(snapshot_save(snap, s, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
		assert_int_equal(store_get(s, absent[i], &data, &bytes, &err), 1); /* does not hang */
	store_close(s);

	/* Whichever call to the store fails, there is no inventory then. */
	for (unsigned int at = 1;; at++) {
		struct store *inner = store_memory_open(&err);
		struct store *fault = store_fault_open(inner, at, ENOSPC, &err);
		int rc = snapshot_save(snap, fault, &err);

		assert_int_equal(store_complete(inner, &err), 0);
		assert_int_equal(store_get(inner, "inventory.img", &data, &bytes, &(struct err){0}),
				 rc ? 1 : 0);
		free(data);
		store_close(fault);
		calls = at;
		if (!rc)
			break;
		assert_int_equal(rc, -1);
		assert_int_equal(err.no, ENOSPC);
		assert_non_null(strstr(err.text, "injected fault"));
	}
	assert_true(calls > 40);
	snapshot_free(snap);
}

/* Each image that is needed is missed by name; the others are optional. */
static void missing_images_are_named(void **state)
{
	static const char *const needed[] = {
		"inventory.img",
		"pstree.img",
		"core-100.img",
		"core-101.img",
		"ids-100.img",
		"mm-100.img",
		"fs-100.img",
		"files.img",
		"core-103.img",
		"mm-102.img",
		"pagemap-100.img",
		"ghost-file-1f.img",
		"pagemap-102.img",
		"pagemap-shmem-500.img",
		"pagemap-shmem-600.img",
		"pagemap-shmem-700.img",
	};
	static const char *const optional[] = {"timens-0.img",      "seccomp.img",
					       "fdinfo-2.img",      "pipes-data.img",
					       "ipcns-var-100.img", "ipcns-sem-100.img",
					       "ipcns-msg-100.img"};
	struct snapshot *snap = sample_snapshot(), *back;
	struct err err = {0};
	char what[64];
	void *data;
	size_t bytes;

	for (size_t i = 0; i < ARRAY_SIZE(needed) + ARRAY_SIZE(optional); i++) {
		bool is_needed = i < ARRAY_SIZE(needed);
		const char *missing = is_needed ? needed[i] : optional[i - ARRAY_SIZE(needed)];
		struct store *all = saved(snap), *some = store_memory_open(&err);

		for (const struct image_kind *k = image_kinds; k->pattern; k++) {
			static const unsigned int numbers[] = {0,   2,   0x1f, 100, 101,
							       102, 103, 500,  600, 700};

			for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
				snprintf(what, sizeof(what), k->pattern, numbers[n]);
				if (!strcmp(what, missing) || (n && !strchr(k->pattern, '%')))
					continue;
				if (store_get(all, what, &data, &bytes, &err) == 0)
					assert_int_equal(store_put(some, what, data, bytes, &err), 0);
				free(data);
			}
		}
		assert_int_equal(store_complete(some, &err), 0);
		back = snapshot_load(some, &err);
		if (is_needed) {
			assert_null(back);
			snprintf(what, sizeof(what), "%s: the image is missing", missing);
			if (!strstr(err.text, what))
				fail_msg("'%s' is not about %s", err.text, missing);
		} else if (!back) {
			fail_msg("without %s: %s", missing, err.text);
		}
		snapshot_free(back);
		store_close(all);
		store_close(some);
	}
	snapshot_free(snap);
}

static void lookups_follow_additions(void **state)
{
	struct snapshot *snap = sample_snapshot();

	assert_null(snapshot_file(snap, 5000));
	for (uint32_t id = 5000; id < 7000; id++) {
		sample_path(snap, id, "/x");
		assert_int_equal(snapshot_file(snap, id)->id, id);
		assert_null(snapshot_file(snap, id + 1));
	}
	assert_int_equal(snapshot_file(snap, FILE_EXE)->id, FILE_EXE);
	assert_ptr_equal(snapshot_memfd(snap, 1), snap->memfds.v[0]);
	assert_ptr_equal(snapshot_tty_info(snap, 2), snap->tty_info.v[0]);
	assert_ptr_equal(snapshot_shmem(snap, 600), snap->shmem.v[2]);
	snapshot_free(snap);
	snapshot_free(NULL);
}

static void old_pagemaps_are_made_uniform(void **state)
{
	struct snapshot *snap = sample_snapshot(), *back;
	const PagemapEntry *e;
	struct store *s;
	struct err err;

	snap->tasks.v[0]->pagemap->entries.v[0]->has_nr_pages = false;
	snap->tasks.v[0]->pagemap->entries.v[0]->compat_nr_pages = 1;
	snap->tasks.v[0]->pagemap->entries.v[0]->has_flags = false;
	s = saved(snap);
	back = snapshot_load(s, &err);
	assert_non_null(back);
	e = back->tasks.v[0]->pagemap->entries.v[0];
	assert_int_equal(e->nr_pages, 1);
	assert_int_equal(e->flags, PE_PRESENT);
	snapshot_free(back);
	store_close(s);
	snap->tasks.v[0]->pagemap->entries.v[0]->has_in_parent = true;
	snap->tasks.v[0]->pagemap->entries.v[0]->in_parent = true;
	s = saved(snap);
	assert_null(snapshot_load(s, &err));
	assert_non_null(strstr(err.text, "parent directory"));
	store_close(s);
	snapshot_free(snap);
}

static void missing_pages_are_found(void **state)
{
	struct snapshot *snap = sample_snapshot();
	struct store *s = store_memory_open(&(struct err){0}), *fault;
	struct err err = {0};

	put_pages(s, SAMPLE_ROOT, 5);
	put_pages(s, SAMPLE_CHILD, 5);
	put_pages(s, 1, 3);
	put_pages(s, 7, 2);
	put_pages(s, 2, 0);
	assert_int_equal(store_complete(s, &err), 0);
	assert_int_equal(snapshot_check_pages(snap, s, &err), -1);
	assert_string_equal(err.text, "pages-2.img: offset 0: the image ends, but "
				      "pagemap-shmem-600.img needs 4096 bytes");
	fault = store_fault_open(s, 1000, EIO, &err); /* has no descriptors: asks for the last page */
	assert_int_equal(snapshot_check_pages(snap, fault, &err), -1);
	assert_non_null(strstr(err.text, "pages-2.img: offset 4095"));
	store_close(fault);
	snapshot_free(snap);
}

static void an_image_in_the_place_of_another_is_noticed(void **state)
{
	struct snapshot *snap = sample_snapshot();
	struct store *all = saved(snap), *swapped = store_memory_open(&(struct err){0});
	static const char *const names[] = {"inventory.img", "pstree.img",   "core-100.img",
					    "core-101.img",  "core-102.img", "core-103.img",
					    "ids-100.img",   "mm-100.img",   "fs-100.img",
					    "files.img"};
	struct err err = {0};
	void *data;
	size_t bytes;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *from = !strcmp(names[i], "mm-100.img") ? "fs-100.img" : names[i];

		if (store_get(all, from, &data, &bytes, &err))
			fail_msg("%s", from);
		assert_int_equal(store_put(swapped, names[i], data, bytes, &err), 0);
		free(data);
	}
	assert_int_equal(store_get(all, "ghost-file-1f.img", &data, &bytes, &err), 0);
	assert_int_equal(store_put(swapped, "ghost-file-1f.img", data, bytes, &err), 0);
	free(data);
	assert_int_equal(store_complete(swapped, &err), 0);
	assert_null(snapshot_load(swapped, &err));
	assert_non_null(strstr(err.text, "mm-100.img: offset 4: the image is a FS image"));
	store_close(swapped);
	store_close(all);
	snapshot_free(snap);
}

/* ---- verification: one change, one sentence ---- */

#define ROOT (s->tasks.v[0])
#define CHILD (s->tasks.v[1])
#define ZOMBIE (s->tasks.v[2])
#define TC (ROOT->core[0]->tc)
#define THREAD (ROOT->core[1]->thread_core)
#define MM (ROOT->mm)
#define RUN(n) (ROOT->pagemap->entries.v[n])

/* The queued packet carries a descriptor of this file. */
static void add_rights(struct snapshot *s, uint32_t file_id)
{
	SkPacketEntry *packet = (SkPacketEntry *)s->sk_queues.v[0].entry;

	packet->n_scm = 1;
	packet->scm = sample_array(s, ScmEntry *, 1);
	packet->scm[0] = sample_new(s, ScmEntry, scm_entry);
	packet->scm[0]->type = 1;
	packet->scm[0]->n_rights = 1;
	packet->scm[0]->rights = sample_array(s, uint32_t, 1);
	packet->scm[0]->rights[0] = file_id;
}

/* Each case: a number for the switch, what is broken, what is said. */
#define SEGMENT s->ipc.shm.v[0]
#define MESSAGE ((IpcMsg *)s->ipc.msg.v[0].messages[1].entry)
#define CASES(X)                                                                                    \
	X(s->inventory->img_version = 3, "inventory.img: version 3")                                \
	X(s->inventory->fdinfo_per_id = false, "inventory.img: fdinfo_per_id is not set")           \
	X(s->inventory->root_ids = NULL, "inventory.img: root_ids are missing")                     \
	X(s->inventory->has_allow_uprobes = s->inventory->allow_uprobes = true, "uprobes")          \
	X(ROOT->ps->ppid = 1, "pstree.img: the first task (pid 100) has a parent (1)")              \
	X(CHILD->ps->ppid = 0, "the parent (0) of pid 102 does not come before it")                 \
	X(CHILD->ps->ppid = 102, "the parent (102) of pid 102 does not come before it")             \
	X(CHILD->ps->ppid = 101, "the parent (101) of pid 102 does not come before it")             \
	X(CHILD->ps->ppid = 103, "the parent (103) of pid 102 does not come before it")             \
	X(ZOMBIE->ps->pid = 101, "pstree.img: pid 101 occurs twice")                                \
	X(ROOT->ps->pid = 0, "pstree.img: 0 cannot be a pid")                                       \
	X(ZOMBIE->ps->pid = 5000000, "pstree.img: 5000000 cannot be a pid")                         \
	X(CHILD->ps->sid = UINT32_MAX,                                                              \
	  "pid 102 has an impossible session (4294967295) or group (100)")                          \
	X(ROOT->ps->threads[0] = 101, "the first thread of pid 100 is 101")                         \
	X(ROOT->ps->threads[1] = 102, "pstree.img: pid 102 occurs twice")                           \
	X(ROOT->n_threads = 0, "pstree.img: pid 100 has no threads")                                \
	X(TC->task_state = TASK_DEAD, "the root of the tree (pid 100) is dead")                     \
	X(ROOT->core[0]->tc = NULL, "core-100.img: the core of a task has no tc")                   \
	X(ROOT->ids->files_id = 1, "ids-100.img: files_id 1 is the one of whoever dumped")          \
	X(CHILD->mm = NULL, "mm-102.img: the image is missing")                                     \
	X((CHILD->ids->has_net_ns_id = true, CHILD->ids->net_ns_id = 9),                            \
	  "ids-102.img: pid 102 is in another net namespace (id 9)")                                \
	X((CHILD->ids->has_time_ns_id = true, CHILD->ids->time_ns_id = 9),                          \
	  "ids-102.img: pid 102 is in another time namespace than the root")                        \
	X(TC->task_state = 6, "core-100.img: task_state 6")                                         \
	X(TC->comm = "sixteen letters!", "core-100.img: comm is longer")                            \
	X(TC->timers = NULL, "core-100.img: timers or rlimits are missing")                         \
	X(TC->rlimits->n_rlimits = 17, "more than 16 resource limits")                              \
	X(TC->n_sigactions = 61, "there are 61 signal actions")                                     \
	X((TC->has_stop_signo = true, TC->stop_signo = 65), "stop_signo is no signal")              \
	X(TC->sigactions[5]->compat_sigaction = true, "32-bit programs are not supported")          \
	X((TC->has_old_seccomp_mode = true, TC->old_seccomp_mode = SECCOMP_MODE__strict),           \
	  "has a seccomp mode of its own")                                                          \
	X(ROOT->core[1]->tc = TC, "core-101.img: the core of a thread has parts of a process")      \
	X(ROOT->core[1]->thread_core = NULL, "core-101.img: thread_core is missing")                \
	X(ROOT->core[1]->thread_info = NULL, "core-101.img: thread_info")                           \
	X(ROOT->core[1]->mtype = CORE_ENTRY__MARCH__AARCH64, "another architecture")                \
	X((ROOT->core[1]->thread_info->gpregs->has_mode = true,                                     \
	   ROOT->core[1]->thread_info->gpregs->mode = USER_X86_REGS_MODE__COMPAT),                  \
	  "32-bit programs are not supported")                                                      \
	X(ROOT->core[1]->thread_info->fpregs->n_st_space = 31, "st_space must have 32 words")       \
	X(ROOT->core[1]->thread_info->fpregs->xsave->n_ymmh_space = 63, "xsave area")               \
	X((ROOT->core[1]->thread_info->fpregs->xsave->cet = sample_new(s, UserX86CetEntry,          \
								       user_x86_cet_entry),         \
	   ROOT->core[1]->thread_info->fpregs->xsave->cet->cet = 1),                                \
	  "core-101.img: the thread has a shadow stack")                                            \
	X(THREAD->creds = NULL, "core-101.img: creds are missing")                                  \
	X((THREAD->creds->n_cap_eff = 3, THREAD->creds->cap_eff = sample_array(s, uint32_t, 3)),    \
	  "more than 64 bits")                                                                      \
	X((s->inventory->has_lsmtype = true, s->inventory->lsmtype = LSMTYPE__APPARMOR,             \
	   THREAD->creds->lsm_profile = "cage"),                                                    \
	  "thread 101 is confined by a security module (cage)")                                     \
	X((THREAD->has_seccomp_mode = true, THREAD->seccomp_mode = SECCOMP_MODE__filter),           \
	  "core-101.img: thread 101 of pid 100 has a seccomp filter")                               \
	X(THREAD->signals_p->signals[0]->siginfo.len = 127, "128 bytes of siginfo")                 \
	X((THREAD->has_ferry_affinity = true, THREAD->ferry_affinity.len = 2000),                   \
	  "the set of CPUs is too long")                                                            \
	X(s->files.v[1]->id = FILE_EXE, "files.img: id 1 occurs twice")                             \
	X(s->files.v[1]->type = 99, "files.img: file 2 has a type (99)")                            \
	X(s->files.v[1]->type = FD_TYPES__PIPE, "files.img: file 2 has no pipe entry")              \
	X(s->files.v[1]->reg->id = 99, "the reg entry of file 2 has another id")                    \
	X(s->files.v[1]->reg->name = "tmp", "file 2: the path 'tmp' is not absolute")               \
	X(snapshot_file(s, FILE_FIFO)->fifo->regf_id = 77, "files.img: file 10: file 77 is not in") \
	X(snapshot_file(s, FILE_TTY)->tty->regf_id = FILE_PIPE_R, "file 4 is not one with a path")  \
	X(snapshot_file(s, FILE_TTY)->tty->tty_info_id = 9, "terminal 9 is not in tty-info.img")    \
	X(snapshot_file(s, FILE_MEMFD)->memfd->inode_id = 9, "inode 9 is not in memfd.img")         \
	X(ROOT->fs->cwd_id = 99, "fs-100.img: working directory: file 99 is not in files.img")      \
	X(ROOT->fs->root_id = FILE_EVENTFD, "fs-100.img: root directory: file 6 is not one")        \
	X(ROOT->fds.v[1]->fd = 0, "fdinfo-2.img: fd 0 occurs twice")                                \
	X(ROOT->fds.v[1]->fd = 1u << 30, "cannot be a descriptor")                                  \
	X(ROOT->fds.v[1]->id = 99, "fdinfo-2.img: file 99 of fd 1 is not in files.img")             \
	X(ROOT->fds.v[1]->type = FD_TYPES__REG, "fdinfo-2.img: fd 1 has type 1")                    \
	X(s->remaps.v[0]->orig_id = 99, "remap-fpath.img: file 99 is not in files.img")             \
	X(s->remaps.v[0]->remap_id = 0x20, "ghost-file-20.img: the image is missing")               \
	X(s->remaps.v[1]->remap_id = FILE_PIPE_R, "remap-fpath.img: file 4 is not one")             \
	X(s->remaps.v[1]->remap_type = REMAP_TYPE__PROCFS, "/proc of a process that is dead")       \
	X(s->ghosts.v[0]->chunks[1]->off = 99998, "ghost-file-1f.img: chunk 1")                     \
	X(s->ghosts.v[0]->chunks[1]->off = 2, "ghost-file-1f.img: chunk 1")                         \
	X(s->ghosts.v[0]->chunks[1]->len = UINT64_MAX, "ghost-file-1f.img: chunk 1")                \
	X(s->ghosts.v[0]->entry->has_size = false, "ghost-file-1f.img: the size")                   \
	X(s->ghosts.v[0]->bytes = 5, "ghost-file-1f.img: the chunks are incomplete")                \
	X(s->pipes_data.v[0].bytes = 3, "pipes-data.img: the contents of pipe 7000")                \
	X((((PipeDataEntry *)s->pipes_data.v[0].entry)->n_ferry_packet_bytes = 2,                   \
	   ((PipeDataEntry *)s->pipes_data.v[0].entry)->ferry_packet_bytes =                        \
		   sample_array(s, uint32_t, 2)),                                                   \
	  "the packets of pipe 7000 are not its contents")                                          \
	X(((PipeDataEntry *)s->pipes_data.v[0].entry)->size = 3, "cannot have a size of 3")         \
	X(((SkPacketEntry *)s->sk_queues.v[0].entry)->id_for = FILE_EXE, "file 1 is not a unix")    \
	X(add_rights(s, 99), "a packet for file 12 carries file 99, which is not in files.img")     \
	X(s->tty_data.v[0]->tty_id = 3, "tty-data.img: terminal 3")                                 \
	X(s->locks.v[0]->pid = 99, "filelocks.img: pid 99")                                         \
	X(s->locks.v[0]->pid = -100, "filelocks.img: pid -100")                                     \
	X(s->memfds.v[0]->size = UINT64_MAX, "memfd.img: inode 1 has an impossible size")           \
	X((s->memfds.v[0]->has_hugetlb_flag = true, s->memfds.v[0]->hugetlb_flag = 1), "hugetlbfs") \
	X(s->memfds.v[0]->shmid = 501, "pagemap-shmem-501.img: the image is missing")               \
	X(MM->exe_file_id = FILE_PIPE_W, "mm-100.img: executable: file 5")                          \
	X(MM->n_aios = 1, "mm-100.img: pid 100 has an asynchronous I/O context")                    \
	X(MM->n_mm_saved_auxv = 5000, "mm-100.img: the auxiliary vector")                           \
	X(MM->vmas[1]->start = 0x400000, "areas are not in order or overlap")                       \
	X(MM->vmas[1]->end = MM->vmas[1]->start, "not a range of pages")                            \
	X(MM->vmas[1]->end += 1, "not a range of pages")                                            \
	X(MM->vmas[6]->end = 1UL << 57, "not a range of pages")                                     \
	X(MM->vmas[1]->status |= 1u << 30, "its status has bits that are not known")                \
	X(MM->vmas[4]->shmid = 601, "pagemap-shmem-601.img: the image is missing")                  \
	X(MM->vmas[4]->status |= VMA_SYSVIPC, "the System V segment that it maps is not in")        \
	X(MM->vmas[1]->status |= VMA_SHSTK, "a shadow stack, which is not supported")               \
	X(MM->vmas[1]->status |= VMA_AIORING, "asynchronous I/O")                                   \
	X(MM->vmas[1]->status |= VMA_FILE_SHARED, "does not say what is behind it")                 \
	X(MM->vmas[1]->flags |= MAP_HUGETLB, "hugetlbfs, which are not supported")                  \
	X(MM->vmas[0]->pgoff = 1, "its offset is not possible")                                     \
	X(MM->vmas[0]->shmid = 99, "the file that it maps is not in files.img")                     \
	X(MM->vmas[0]->shmid = (1UL << 32) + FILE_EXE, "the file that it maps is not in")           \
	X(MM->vmas[0]->shmid = FILE_PIPE_R, "the file that it maps is of the wrong type")           \
	X(MM->vmas[3]->shmid = FILE_EXE, "the file that it maps is of the wrong type")              \
	X(MM->vmas[1]->status = VMA_GUARD, "areas must come before guard ranges")                   \
	X(RUN(0)->vaddr += 1, "pagemap-100.img: 1 pages at 400001: not a range of pages")           \
	X(RUN(0)->nr_pages = 0, "not a range of pages")                                             \
	X(RUN(0)->nr_pages = UINT64_MAX / 2, "not a range of pages")                                \
	X(RUN(0)->vaddr = 1UL << 60, "not a range of pages")                                        \
	X(RUN(1)->vaddr = 0x400000, "entries are not in order or overlap")                          \
	X(RUN(0)->flags = 8 | PE_PRESENT, "the flags have bits that are not known")                 \
	X(RUN(0)->flags = 0, "do not say where the contents are")                                   \
	X(RUN(0)->nr_pages = 5, "outside of the private areas in mm")                               \
	X(RUN(0)->vaddr = 0x3ff000, "outside of the private areas in mm")                           \
	X(RUN(1)->nr_pages = 18, "outside of the private areas in mm")                              \
	X(RUN(1)->vaddr = 0x20000000, "outside of the private areas in mm")                         \
	X(RUN(2)->vaddr = 0xffffffffff600000, "not a range of pages")                               \
	X(s->shmem.v[0]->entries.v[0]->nr_pages = 4, "pagemap-shmem-500.img: 4 pages at 0: behind") \
	X(s->shmem.v[2]->entries.v[0]->vaddr += 4096, "pagemap-shmem-600.img")                      \
	X(s->shmem.v[1]->entries.v[0]->nr_pages = 3, "pagemap-shmem-700.img: 3 pages at 0: behind") \
	X((MM->vmas[4]->status |= VMA_SYSVIPC, MM->vmas[4]->shmid = SAMPLE_SEGMENT),                \
	  "it cannot be a part of its System V segment")                                            \
	X(CHILD->ids->ipc_ns_id = 77, "pid 102 is in another ipc namespace than the root")          \
	X(SEGMENT->desc->id = 701, "id 701 (key 0x12bc): the id occurs twice")                      \
	X(SEGMENT->desc->id = UINT32_MAX, "ipcns-shm-100.img: id 4294967295")                       \
	X(SEGMENT->size = 0, "ipcns-shm-100.img: id 700 (key 0x12bc): the size is not possible")    \
	X(SEGMENT->in_pagemaps = false, "ipcns-shm-100.img: the contents of segment 700")           \
	X((SEGMENT->has_hugetlb_flag = true, SEGMENT->hugetlb_flag = 1), "SHM_HUGETLB")             \
	X(s->ipc.var->n_sem_ctls = 3, "ipcns-var-100.img: there are not four limits")               \
	X(s->ipc.sem.v[0].bytes = 2, "ipcns-sem-100.img: id 1 (key 0x1001): values are missing")    \
	X(((IpcSemEntry *)s->ipc.sem.v[0].entry)->nsems = 0, "the number of semaphores is not")     \
	X(MESSAGE->mtype = 0, "ipcns-msg-100.img: id 2 (key 0x1002): it has a message that is not") \
	X(MESSAGE->mtype = 1UL << 63, "it has a message that is not possible")                      \
	X(MESSAGE->msize = 6, "it has a message that is not possible")

#define BREAK(change, said)            \
	case __COUNTER__ - FIRST_CASE: \
		change;                \
		*text = said;          \
		return true;

/* Makes change number @n; false: there are no more. */
static bool break_it(struct snapshot *s, int n, const char **text)
{
	enum { FIRST_CASE = __COUNTER__ + 1 };

	switch (n) {
		CASES(BREAK)
	}
	return false;
}

static void each_defect_has_its_sentence(void **state)
{
	const char *text = NULL;
	int n;

	for (n = 0;; n++) {
		struct snapshot *snap = sample_snapshot();
		struct err err = {0};
		bool more;

		assert_int_equal(snapshot_verify(snap, &err), 0);
		more = break_it(snap, n, &text);
		if (more && snapshot_verify(snap, &err) == 0)
			fail_msg("case %d (%s) was not noticed", n, text);
		if (more && !strstr(err.text, text))
			fail_msg("case %d: '%s' is not about '%s'", n, err.text, text);
		if (more && err.no != EINVAL && err.no != ENOENT && err.no != EOPNOTSUPP)
			fail_msg("case %d: errno %d", n, err.no);
		snapshot_free(snap);
		if (!more)
			break;
	}
	assert_true(n > 100);
}

/* As CRIU of other versions writes it, or as it may be: no reason to refuse. */
static void harmless_variants_are_accepted(void **state)
{
	struct snapshot *s = sample_snapshot();
	struct err err = {0};

	s->inventory->img_version = 1;
	s->inventory->has_lsmtype = true;
	s->inventory->lsmtype = LSMTYPE__NO_LSM;
	THREAD->creds->lsm_profile = "unconfined";
	s->inventory->plugins_entry = sample_new(s, PluginsEntry, plugins_entry);
	s->inventory->root_ids->has_time_ns_id = true;
	s->inventory->root_ids->time_ns_id = 5;
	ROOT->ids->has_time_ns_id = CHILD->ids->has_time_ns_id = true;
	ROOT->ids->time_ns_id = CHILD->ids->time_ns_id = 9; /* CRIU restored it once */
	ROOT->ps->sid = ROOT->ps->pgid = 77;                /* a session leader that is dead */
	TC->rlimits->n_rlimits = 15;
	TC->task_state = TASK_STOPPED;
	RUN(0)->flags |= PE_LAZY;
	add_rights(s, FILE_EVENTFD);
	s->remaps.v[1]->has_remap_type = false; /* linked is the default */
	s->ipc.var = NULL;
	if (snapshot_verify(s, &err))
		fail_msg("%s", err.text);
	store_close(saved(s));
	snapshot_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_saved_loads_again),
		cmocka_unit_test(saving_twice_gives_the_same),
		cmocka_unit_test(the_inventory_is_last_and_the_rest_is_skipped),
		cmocka_unit_test(missing_images_are_named),
		cmocka_unit_test(lookups_follow_additions),
		cmocka_unit_test(old_pagemaps_are_made_uniform),
		cmocka_unit_test(missing_pages_are_found),
		cmocka_unit_test(an_image_in_the_place_of_another_is_noticed),
		cmocka_unit_test(each_defect_has_its_sentence),
		cmocka_unit_test(harmless_variants_are_accepted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A process tree as data: what capture fills and restore reads. The generated
 * protobuf messages ARE the model; this header only says how they hang
 * together (ferry-images(5)). All memory is in one arena, freed at once.
 *
 * capture/ builds a snapshot and snapshot_save() writes its images; restore/
 * gets one from snapshot_load(). Memory contents are not part of it: pagemaps
 * are, the bytes are in the store's pages.
 */
#ifndef FERRY_SNAPSHOT_SNAPSHOT_H
#define FERRY_SNAPSHOT_SNAPSHOT_H

#include "base/arena.h"
#include "base/err.h"
#include "base/vec.h"

#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "file-lock.pb-c.h"
#include "fs.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "ipc-var.pb-c.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk-packet.pb-c.h"
#include "sk-unix.pb-c.h"
#include "timens.pb-c.h"
#include "tty.pb-c.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct store;

/* vma_entry.status bits (image-format 3.4) */
enum vma_status {
	VMA_REGULAR = 1 << 0,
	VMA_VSYSCALL = 1 << 2,
	VMA_VDSO = 1 << 3,
	VMA_HEAP = 1 << 5,
	VMA_FILE_PRIVATE = 1 << 6,
	VMA_FILE_SHARED = 1 << 7,
	VMA_ANON_SHARED = 1 << 8,
	VMA_ANON_PRIVATE = 1 << 9,
	VMA_SYSVIPC = 1 << 10,
	VMA_SOCKET = 1 << 11,
	VMA_VVAR = 1 << 12,
	VMA_AIORING = 1 << 13,
	VMA_MEMFD = 1 << 14,
	VMA_SHSTK = 1 << 15,
	VMA_GUARD = 1 << 16,
};

enum pagemap_flags { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };
enum task_state { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3 };

/* An entry with raw bytes behind it: pipes-data, fifo-data, sk-queues. */
struct snap_payload {
	ProtobufCMessage *entry; /* PipeDataEntry, SkPacketEntry */
	uint8_t *data;
	size_t bytes;
};

/* One pagemap-PID.img or pagemap-shmem-ID.img. */
struct snap_pagemap {
	bool shmem;
	uint64_t id; /* pid, or segment id */
	uint32_t pages_id;
	/*
	 * Ascending; freed by snapshot_free. After snapshot_load each has nr_pages and flags,
	 * whatever the age of the image.
	 */
	VEC(PagemapEntry *) entries;
	/* Where its PE_PARENT entries are, in store_parent() of its store; set by snapshot_load only. */
	struct snap_pagemap *parent;
	bool remote; /* a page server keeps its image: snapshot_save leaves it out */
};

struct snap_ghost {
	uint32_t id; /* remap_id: ghost-file-%x.img */
	GhostFileEntry *entry;
	uint8_t *data; /* whole content (entry->chunks unset), NULL if none */
	size_t bytes;
	/* sparse content: chunks of data[] at their offsets; n_chunks 0 = contiguous */
	GhostChunkEntry **chunks;
	size_t n_chunks;
};

/* A message queue: ipcns-msg-N.img. */
struct snap_queue {
	IpcMsgEntry *entry;
	struct snap_payload *messages; /* IpcMsg; entry->qnum of them, in their order */
};

/* System V objects of a tree: ipcns-{var,shm,sem,msg}-N.img. */
struct snap_ipc {
	uint32_t ns_id; /* N; 0: the tree has none, and no IPC namespace of its own */
	IpcVarEntry *var;
	VEC(IpcShmEntry *) shm;       /* contents: pagemap-shmem-ID of desc->id */
	VEC(struct snap_payload) sem; /* IpcSemEntry; nsems 16-bit values */
	VEC(struct snap_queue) msg;
};

struct snap_task {
	PstreeEntry *ps;       /* pid, ppid, pgid, sid, threads (leader first) */
	CoreEntry **core;      /* one per ps->threads, same order; zombies: one */
	size_t n_threads;      /* 1 for zombies */
	TaskKobjIdsEntry *ids; /* NULL for zombies, as the next ones */
	MmEntry *mm;
	FsEntry *fs;
	struct snap_pagemap *pagemap;
	VEC(FdinfoEntry *) fds; /* of the first task with this files_id; other sharers' are empty */
};

struct snapshot {
	struct arena arena;
	InventoryEntry *inventory;
	TimensEntry *timens; /* timens-N.img of the root task's time namespace, or NULL */
	uint32_t timens_id;  /* N */
	SeccompEntry *seccomp;
	VEC(struct snap_task *) tasks; /* parents before children; [0] is the root */
	VEC(FileEntry *) files;        /* files.img */
	VEC(RemapFilePathEntry *) remaps;
	VEC(struct snap_ghost *) ghosts;
	VEC(MemfdInodeEntry *) memfds;
	VEC(struct snap_payload) pipes_data;
	VEC(struct snap_payload) fifo_data;
	VEC(struct snap_payload) sk_queues; /* queue order per socket */
	VEC(TtyInfoEntry *) tty_info;
	VEC(TtyDataEntry *) tty_data;
	VEC(FileLockEntry *) locks;
	VEC(struct snap_pagemap *) shmem;
	struct snap_ipc ipc;
	bool incremental; /* some pages are in the store's parent, whose link snapshot_save keeps */
	struct snap_index *index; /* for the look-ups */
};

struct snapshot *snapshot_create(struct err *err) must_check;
void snapshot_free(struct snapshot *snap); /* NULL is allowed */

/* A zeroed, initialised message in the snapshot's arena, or NULL: snap_new(snap, FileEntry, file_entry). */
#define snap_new(snap, Type, prefix)                        \
	({                                                  \
		Type *m_ = arena_new(&(snap)->arena, Type); \
		if (m_)                                     \
			prefix##__init(m_);                 \
		m_;                                         \
	})

/*
 * Look-ups, in about constant time; NULL: there is none. They index what was
 * added since the last one, so elements are only ever added at the end, with
 * their ids set, and one thread at a time looks up.
 */
struct snap_task *snapshot_task(const struct snapshot *snap, uint32_t pid);
FileEntry *snapshot_file(const struct snapshot *snap, uint32_t id);
struct snap_pagemap *snapshot_shmem(const struct snapshot *snap, uint64_t shmid);
RemapFilePathEntry *snapshot_remap(const struct snapshot *snap, uint32_t file_id); /* orig_id */
struct snap_ghost *snapshot_ghost(const struct snapshot *snap, uint32_t remap_id);
MemfdInodeEntry *snapshot_memfd(const struct snapshot *snap, uint64_t inode_id);
IpcShmEntry *snapshot_sysv(const struct snapshot *snap, uint64_t shmid);
TtyInfoEntry *snapshot_tty_info(const struct snapshot *snap, uint32_t id);

/* "pagemap-34.img" of a pagemap, for messages and stores. */
const char *snapshot_pagemap_name(const struct snap_pagemap *pm, char buf[static 64]);

/* The bytes of its pages that are in pages-N.img. */
uint64_t snapshot_pagemap_bytes(const struct snap_pagemap *pm);

/* Frees the entries of a pagemap and of its parents; the structs are the arena's. */
void snapshot_pagemap_free(struct snap_pagemap *pm);

/* Has it entries whose contents are in the parent? */
bool snapshot_pagemap_needs_parent(const struct snap_pagemap *pm);

/*
 * Writes every image of @snap but the pages to the store; the inventory goes
 * last. Tells the store which optional images there will not be (store_skip).
 * Does not complete the store.
 */
int snapshot_save(const struct snapshot *snap, struct store *store, struct err *err) must_check;

/* Writes one pagemap: a round of pre-copy has nothing else. */
int snapshot_save_pagemap(const struct snap_pagemap *pm, struct store *store, struct err *err)
	must_check;

/* Writes inventory.img, as the last image: a directory without one is no dump. */
int snapshot_save_inventory(const InventoryEntry *inventory, struct store *store, struct err *err)
	must_check;

/*
 * Reads all images of a tree that CRIU or ferry wrote, and verifies them
 * (required parts, ids that resolve, sorted areas and pagemaps, lengths and
 * counts within limits): a snapshot that was loaded can be walked without
 * further checks of its references. Errors name image and offset.
 */
struct snapshot *snapshot_load(struct store *store, struct err *err) must_check;

/* The parts of snapshot_load for messages already decoded; used on captures too. */
int snapshot_verify(const struct snapshot *snap, struct err *err) must_check;

/*
 * One pagemap, without its parents, into the arena of @snap: 1 and *pm_out, whose entries the
 * caller frees (snapshot_pagemap_free), 0 if there is no such image, -1.
 */
int snapshot_load_pagemap(struct snapshot *snap, struct store *store, bool shmem, uint64_t id,
			  struct snap_pagemap **pm_out, struct err *err) must_check;

/*
 * Are all bytes that the pagemaps, and those of parents, name in the pages images? Waits until the
 * pages have arrived, so it is not part of snapshot_load. A store without
 * pages descriptors is asked for the last page of each.
 */
int snapshot_check_pages(const struct snapshot *snap, struct store *store, struct err *err)
	must_check;
/* The same where pages that stayed with the source (PE_LAZY alone) will come later. */
int snapshot_check_pages_lazy(const struct snapshot *snap, struct store *store, struct err *err)
	must_check;

/*
 * Reads and verifies only what serving memory needs: the tree, and the areas and pagemaps of
 * its tasks. Images of any other kind may be missing, or be more than we understand.
 */
struct snapshot *snapshot_load_memory(struct store *store, struct err *err) must_check;

#endif

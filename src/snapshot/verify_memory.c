// SPDX-License-Identifier: Apache-2.0
/*
 * mm-PID.img and the pagemaps: areas in order, backed by files that exist, and
 * pages only where an area can take them. The restorer writes page contents to
 * the addresses given here without looking again.
 */
#include "snapshot/verify.h"

#include "snapshot/extents.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* User addresses with five-level page tables; with four the kernel says no by itself. */
#define ADDRESS_LIMIT (1UL << 56)

enum { AUXV_LIMIT = 1024 };

#define VMA_KNOWN                                                                          \
	(VMA_REGULAR | 1u << 1 | VMA_VSYSCALL | VMA_VDSO | VMA_HEAP | VMA_FILE_PRIVATE |   \
	 VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE | VMA_SYSVIPC | VMA_SOCKET | \
	 VMA_VVAR | VMA_AIORING | VMA_MEMFD | VMA_SHSTK | VMA_GUARD | 1u << 17)
#define VMA_BACKING (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE)

static const struct {
	uint32_t status;
	const char *what;
} unsupported[] = {
	{VMA_SOCKET, "the ring of a packet socket"},
	{VMA_AIORING, "an asynchronous I/O context (io_setup)"},
	{VMA_SHSTK, "a shadow stack"},
	{1u << 17, "uprobes"},
};

/* Has its pages in the task's own pagemap. */
static bool is_private(const VmaEntry *vma)
{
	return (vma->status & VMA_REGULAR) && (vma->status & (VMA_FILE_PRIVATE | VMA_ANON_PRIVATE));
}

static int bad_vma(uint32_t pid, const VmaEntry *vma, struct err *err, const char *what)
{
	return err_set(err, EINVAL, "mm-%u.img: area %llx-%llx: %s", pid,
		       (unsigned long long)vma->start, (unsigned long long)vma->end, what);
}

/* CRIU writes a pagemap for every segment that is not empty, though no page may be in it. */
static int verify_segment(const struct snapshot *snap, uint64_t shmid, struct err *err)
{
	if (snapshot_shmem(snap, shmid))
		return 0;
	return err_set(err, ENOENT,
		       "pagemap-shmem-%llu.img: the image is missing: the dump was not completed, or not "
		       "copied completely",
		       (unsigned long long)shmid);
}

static int verify_sysv_area(const struct snapshot *snap, uint32_t pid, const VmaEntry *vma,
			    struct err *err)
{
	const IpcShmEntry *e = snapshot_sysv(snap, vma->shmid);

	if (!e)
		return bad_vma(pid, vma, err,
			       "the System V segment that it maps is not in ipcns-shm-N.img");
	if (!(vma->status & VMA_ANON_SHARED) || !(vma->flags & MAP_SHARED) ||
	    vma->pgoff + (vma->end - vma->start) > PAGE_ALIGN(e->size))
		return bad_vma(pid, vma, err, "it cannot be a part of its System V segment");
	return verify_segment(snap, vma->shmid, err);
}

/* The file or segment behind a mapping. */
static int verify_backing(const struct snapshot *snap, uint32_t pid, const VmaEntry *vma,
			  struct err *err)
{
	const FileEntry *file;

	if (vma->status & VMA_SYSVIPC)
		return verify_sysv_area(snap, pid, vma, err);
	if (vma->status & VMA_ANON_SHARED)
		return verify_segment(snap, vma->shmid, err);
	if (!(vma->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED)))
		return 0;
	file = vma->shmid <= UINT32_MAX ? snapshot_file(snap, (uint32_t)vma->shmid) : NULL;
	if (!file)
		return bad_vma(pid, vma, err, "the file that it maps is not in files.img");
	if (file->type != (vma->status & VMA_MEMFD ? FD_TYPES__MEMFD : FD_TYPES__REG))
		return bad_vma(pid, vma, err, "the file that it maps is of the wrong type");
	return 0;
}

static int verify_vma(const struct snapshot *snap, uint32_t pid, const VmaEntry *vma, struct err *err)
{
	uint32_t backing = vma->status & VMA_BACKING;

	if (vma->start >= vma->end || (vma->start | vma->end) % PAGE_BYTES ||
	    (vma->end > ADDRESS_LIMIT && !(vma->status & VMA_VSYSCALL)))
		return bad_vma(pid, vma, err, "not a range of pages");
	if (vma->status & ~VMA_KNOWN)
		return bad_vma(pid, vma, err, "its status has bits that are not known");
	for (size_t i = 0; i < ARRAY_SIZE(unsupported); i++)
		if (vma->status & unsupported[i].status)
			return err_set(err, EOPNOTSUPP,
				       "mm-%u.img: area %llx-%llx of pid %u is %s, which is not supported",
				       pid, (unsigned long long)vma->start,
				       (unsigned long long)vma->end, pid, unsupported[i].what);
	if (vma->flags & MAP_HUGETLB)
		return err_set(err, EOPNOTSUPP,
			       "mm-%u.img: area %llx-%llx of pid %u has huge pages of hugetlbfs, which are "
			       "not supported",
			       pid, (unsigned long long)vma->start, (unsigned long long)vma->end,
			       pid);
	if (!(vma->status & VMA_REGULAR) || (vma->status & VMA_GUARD))
		return 0;
	if (!backing || (backing & (backing - 1)))
		return bad_vma(pid, vma, err, "its status does not say what is behind it");
	if (vma->pgoff % PAGE_BYTES || vma->pgoff > INT64_MAX - (vma->end - vma->start))
		return bad_vma(pid, vma, err, "its offset is not possible");
	return verify_backing(snap, pid, vma, err);
}

static int verify_mm(const struct snapshot *snap, const struct snap_task *task, struct err *err)
{
	const MmEntry *mm = task->mm;
	uint32_t pid = task->ps->pid;
	uint64_t end = 0;
	bool guards = false;
	char who[64];

	snprintf(who, sizeof(who), "mm-%u.img: executable", pid);
	if (verify_path_id(snap, mm->exe_file_id, who, err))
		return -1;
	if (mm->n_aios)
		return err_set(err, EOPNOTSUPP,
			       "mm-%u.img: pid %u has an asynchronous I/O context (io_setup), which is not "
			       "supported",
			       pid, pid);
	if (mm->n_mm_saved_auxv > AUXV_LIMIT)
		return err_set(err, EINVAL, "mm-%u.img: the auxiliary vector is too long", pid);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *vma = mm->vmas[i];

		if (verify_vma(snap, pid, vma, err))
			return -1;
		/* Guard ranges lie inside other areas and come last. */
		if ((vma->status & VMA_GUARD) && !guards) {
			guards = true;
			end = 0;
		} else if (guards && !(vma->status & VMA_GUARD)) {
			return bad_vma(pid, vma, err, "areas must come before guard ranges");
		}
		if (vma->start < end)
			return bad_vma(pid, vma, err, "areas are not in order or overlap");
		end = vma->end;
	}
	return 0;
}

/* ---- pagemaps ---- */

static int bad_entry(const struct snap_pagemap *pm, const PagemapEntry *e, int no, struct err *err,
		     const char *what)
{
	char name[64];

	return err_set(err, no, "%s: %llu pages at %llx: %s", snapshot_pagemap_name(pm, name),
		       (unsigned long long)e->nr_pages, (unsigned long long)e->vaddr, what);
}

static int verify_entry(const struct snap_pagemap *pm, const PagemapEntry *e, uint64_t end,
			struct err *err)
{
	if (!e->has_nr_pages || !e->has_flags || e->vaddr % PAGE_BYTES || e->nr_pages == 0 ||
	    e->vaddr > ADDRESS_LIMIT || e->nr_pages > (ADDRESS_LIMIT - e->vaddr) / PAGE_BYTES)
		return bad_entry(pm, e, EINVAL, err, "not a range of pages");
	if (e->vaddr < end)
		return bad_entry(pm, e, EINVAL, err, "entries are not in order or overlap");
	if (e->flags & ~(uint32_t)(PE_PARENT | PE_LAZY | PE_PRESENT))
		return bad_entry(pm, e, EINVAL, err, "the flags have bits that are not known");
	if (!(e->flags & (PE_PRESENT | PE_PARENT | PE_LAZY)))
		return bad_entry(pm, e, EOPNOTSUPP, err,
				 "the flags do not say where the contents are");
	return 0;
}

/*
 * The pagemaps of parent directories, which hold more than is used of them; all
 * that is must be there.
 */
static int verify_parents(const struct snap_pagemap *pm, struct err *err)
{
	snap_extents extents = {0};
	const struct snap_pagemap *p;
	uint64_t end;
	int rc = 0;

	for (p = pm->parent; p; p = p->parent) {
		end = 0;
		vec_foreach (entry, &p->entries) {
			if (verify_entry(p, *entry, end, err))
				return err_wrap(err, "in a parent directory of images");
			end = (*entry)->vaddr + (*entry)->nr_pages * PAGE_BYTES;
		}
	}
	if (pm->parent)
		rc = pagemap_extents(pm, 0, UINT64_MAX, &extents, err);
	vec_free(&extents);
	return rc;
}

/* The pages of a task lie in its private areas; one entry may span areas that touch. */
int verify_task_pages(const struct snap_task *task, struct err *err)
{
	const struct snap_pagemap *pm = task->pagemap;
	const MmEntry *mm = task->mm;
	uint64_t end = 0, at;
	size_t i = 0;

	vec_foreach (entry, &pm->entries) {
		if (verify_entry(pm, *entry, end, err))
			return -1;
		at = (*entry)->vaddr;
		end = at + (*entry)->nr_pages * PAGE_BYTES;
		while (at < end) {
			while (i < mm->n_vmas && mm->vmas[i]->end <= at)
				i++;
			if (i == mm->n_vmas || mm->vmas[i]->start > at ||
			    !is_private(mm->vmas[i]) || (mm->vmas[i]->status & VMA_GUARD))
				return bad_entry(pm, *entry, EINVAL, err,
						 "outside of the private areas in mm");
			at = MIN(end, mm->vmas[i]->end);
		}
	}
	return verify_parents(pm, err);
}

/* How large a segment must be for what is mapped of it. */
static uint64_t segment_bytes(const struct snapshot *snap, uint64_t shmid)
{
	const IpcShmEntry *sysv = snapshot_sysv(snap, shmid);
	uint64_t bytes = sysv ? sysv->size : 0;

	vec_foreach (memfd, &snap->memfds)
		if ((*memfd)->shmid == shmid)
			bytes = MAX(bytes, (*memfd)->size);
	vec_foreach (task, &snap->tasks) {
		for (size_t i = 0; (*task)->mm && i < (*task)->mm->n_vmas; i++) {
			const VmaEntry *vma = (*task)->mm->vmas[i];

			if ((vma->status & VMA_ANON_SHARED) && vma->shmid == shmid)
				bytes = MAX(bytes, vma->pgoff + (vma->end - vma->start));
		}
	}
	return bytes > ADDRESS_LIMIT ? ADDRESS_LIMIT : PAGE_ALIGN(bytes);
}

static int verify_segment_pages(const struct snapshot *snap, const struct snap_pagemap *pm,
				struct err *err)
{
	uint64_t end = 0, size = segment_bytes(snap, pm->id);

	vec_foreach (entry, &pm->entries) {
		if (verify_entry(pm, *entry, end, err))
			return -1;
		end = (*entry)->vaddr + (*entry)->nr_pages * PAGE_BYTES;
		if (end > size)
			return bad_entry(pm, *entry, EINVAL, err, "behind the end of the segment");
	}
	return verify_parents(pm, err);
}

static int verify_memfds(const struct snapshot *snap, struct err *err)
{
	vec_foreach (memfd, &snap->memfds) {
		if (snapshot_memfd(snap, (*memfd)->inode_id) != *memfd)
			return err_set(err, EINVAL, "memfd.img: inode %llu occurs twice",
				       (unsigned long long)(*memfd)->inode_id);
		if ((*memfd)->size > INT64_MAX)
			return err_set(err, EINVAL, "memfd.img: inode %llu has an impossible size",
				       (unsigned long long)(*memfd)->inode_id);
		if ((*memfd)->size && verify_segment(snap, (*memfd)->shmid, err))
			return -1;
		if ((*memfd)->has_hugetlb_flag && (*memfd)->hugetlb_flag)
			return err_set(err, EOPNOTSUPP,
				       "memfd.img: '%s' has huge pages of hugetlbfs, which are not supported",
				       (*memfd)->name);
	}
	return 0;
}

int verify_memory(const struct snapshot *snap, struct err *err)
{
	if (verify_memfds(snap, err))
		return -1;
	vec_foreach (task, &snap->tasks)
		if ((*task)->mm && (verify_mm(snap, *task, err) || verify_task_pages(*task, err)))
			return -1;
	vec_foreach (pm, &snap->shmem)
		if (verify_segment_pages(snap, *pm, err))
			return -1;
	return 0;
}

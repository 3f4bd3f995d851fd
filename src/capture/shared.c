// SPDX-License-Identifier: Apache-2.0
/*
 * Which shared memory may follow after the tree runs elsewhere (mem/lazy_shm.c): what nobody can get at but by mappings
 * that a userfaultfd can watch. A read(2), or a mapping made later, would see zeros: so there must be no descriptor of it.
 */
#include "capture/session.h"

#include "mem/lazy.h"

#include <fcntl.h>
#include <sys/mman.h>

/* Below this a round trip costs more than the bytes. */
enum { LATE_MIN_BYTES = 256 << 10 };

static const MemfdInodeEntry *inode_of(const struct snapshot *snap, uint64_t shmid)
{
	vec_foreach (m, &snap->memfds) {
		if ((*m)->shmid == (uint32_t)shmid)
			return *m;
	}
	return NULL;
}

/* Descriptions and mappings have an entry each. */
static size_t count_entries(const struct snapshot *snap, const MemfdInodeEntry *m)
{
	size_t n = 0;

	vec_foreach (f, &snap->files) {
		n += (*f)->type == FD_TYPES__MEMFD && (*f)->memfd->inode_id == m->inode_id;
	}
	return n;
}

static bool shows(const struct snapshot *snap, const VmaEntry *v, const MemfdInodeEntry *m)
{
	const FileEntry *f = v->status & VMA_MEMFD ? snapshot_file(snap, (uint32_t)v->shmid) : NULL;

	return f && f->memfd && f->memfd->inode_id == m->inode_id;
}

/* Counts the mappings; false if there is one that cannot be watched. */
static bool all_watchable(const struct capture_session *s, const MemfdInodeEntry *m,
			  struct serve_file *where, size_t *n_out)
{
	*n_out = 0;
	vec_foreach (t, &s->tasks) {
		const MmEntry *mm = (*t)->facts.zombie ? NULL : (*t)->facts.snap->mm;

		for (size_t i = 0; mm && i < mm->n_vmas; i++) {
			const VmaEntry *v = mm->vmas[i];

			if (!shows(s->c.snap, v, m))
				continue;
			if (!(v->status & VMA_FILE_SHARED) || v->flags & MAP_LOCKED)
				return false;
			*where = (struct serve_file){.pid = (*t)->facts.pid,
						     .start = v->start,
						     .end = v->end};
			++*n_out;
		}
	}
	return true;
}

bool shared_may_be_late(const struct capture_session *s, const struct shmem_source *src,
			struct serve_file *where)
{
	/* whoever fills it in writes to it, when it is sealed already */
	static const uint32_t harmless = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;
	const MemfdInodeEntry *m = inode_of(s->c.snap, src->shmid);
	size_t mappings;

	if (!m || src->bytes < LATE_MIN_BYTES || m->seals & ~harmless ||
	    !all_watchable(s, m, where, &mappings) || !mappings ||
	    mappings != count_entries(s->c.snap, m))
		return false;
	where->name = LAZY_SHARED | (uint32_t)src->shmid;
	return true;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Describing an address space: /proc/PID/smaps to vma entries, and the marks
 * of the mm (brk, arguments, auxiliary vector, executable).
 */
#define LOG_MODULE "areas"
#include "base/io.h"
#include "base/log.h"
#include "capture/session.h"
#include "kinds/memfd.h"
#include "kinds/sysv.h"
#include "mem/drain.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

static bool is_named(const struct proc_vma *v, const char *name)
{
	return strcmp(v->name, name) == 0;
}

static bool starts_with(const struct proc_vma *v, const char *prefix)
{
	return strncmp(v->name, prefix, strlen(prefix)) == 0;
}

static bool is_vvar(const struct proc_vma *v)
{
	return is_named(v, "[vvar]") || is_named(v, "[vvar_vclock]");
}

/* ---- refusals ---- */

bool area_has_own_pages(const struct proc_vma *v)
{
	return !v->shared && !is_vvar(v) && !is_named(v, "[vdso]") && !is_named(v, "[vsyscall]") &&
	       !is_named(v, "[uprobes]");
}

/* Why an area cannot be carried; NULL if it can. */
static const char *refusal(const struct capture_session *s, const struct proc_vma *v)
{
	if (is_named(v, "[vsyscall]") || is_vvar(v) || is_named(v, "[vdso]") ||
	    is_named(v, "[uprobes]"))
		return NULL;
	if (v->flags & PROC_VMF_HUGETLB)
		return "huge page (hugetlb) mapping";
	if (v->flags & PROC_VMF_SHADOW_STACK)
		return "shadow stack";
	if (v->flags & PROC_VMF_SEALED)
		return "sealed (mseal) mapping";
	if (v->flags & PROC_VMF_PROTECTION_KEY)
		return "mapping with a protection key (pkey_mprotect)";
	if (v->flags & PROC_VMF_UFFD)
		return "mapping watched by a userfaultfd";
	if (v->flags & PROC_VMF_UFFD_WP && !s->tracked)
		return "mapping write-protected by a userfaultfd (of a ferry-holder that a pre-dump "
		       "left? end it)";
	if (starts_with(v, "/[aio]"))
		return "asynchronous I/O ring";
	if (starts_with(v, "anon_inode:[io_uring]"))
		return "io_uring";
	if (starts_with(v, "anon_inode:[perf_event]"))
		return "perf event buffer";
	if (starts_with(v, "socket:"))
		return "packet socket ring";
	if (starts_with(v, "/secretmem"))
		return "secret memory";
	if (v->flags & (PROC_VMF_IO | PROC_VMF_PFNMAP))
		return "device memory";
	if (starts_with(v, "anon_inode:"))
		return "mapping of a kernel object";
	return NULL;
}

int areas_allowed(const struct capture_session *s, pid_t pid, const proc_vmas *vmas, struct err *err)
{
	const char *why;
	size_t i;

	for (i = 0; i < vmas->n; i++) {
		why = refusal(s, &vmas->v[i]);
		if (why)
			return err_set(err, ENOTSUP,
				       "pid %d: %s at %llx-%llx (%s), which this version does not carry",
				       pid, why, (unsigned long long)vmas->v[i].start,
				       (unsigned long long)vmas->v[i].end, vmas->v[i].name);
	}
	return 0;
}

/* ---- areas ---- */

static uint32_t flags_of(const struct proc_vma *v)
{
	return (v->shared ? MAP_SHARED : MAP_PRIVATE) |
	       (v->flags & PROC_VMF_GROWSDOWN ? MAP_GROWSDOWN : 0) |
	       (v->flags & PROC_VMF_LOCKED ? MAP_LOCKED : 0) |
	       (v->flags & PROC_VMF_NORESERVE ? MAP_NORESERVE : 0) |
	       (v->flags & PROC_VMF_DROPPABLE ? MAP_DROPPABLE : 0);
}

static uint64_t madvice_of(const struct proc_vma *v)
{
	static const struct {
		uint64_t flag;
		int advice;
	} map[] = {
		{PROC_VMF_SEQUENTIAL, MADV_SEQUENTIAL}, {PROC_VMF_RANDOM, MADV_RANDOM},
		{PROC_VMF_DONTFORK, MADV_DONTFORK},     {PROC_VMF_MERGEABLE, MADV_MERGEABLE},
		{PROC_VMF_HUGEPAGE, MADV_HUGEPAGE},     {PROC_VMF_NOHUGEPAGE, MADV_NOHUGEPAGE},
		{PROC_VMF_DONTDUMP, MADV_DONTDUMP},     {PROC_VMF_WIPEONFORK, MADV_WIPEONFORK},
	};
	uint64_t bits = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(map); i++)
		if (v->flags & map[i].flag)
			bits |= 1ULL << map[i].advice;
	return bits;
}

/* Special areas of the kernel: true if @e is done. */
static bool describe_special(const struct proc_vma *v, VmaEntry *e)
{
	if (is_named(v, "[vsyscall]"))
		e->status = VMA_VSYSCALL | VMA_ANON_PRIVATE;
	else if (is_named(v, "[vdso]"))
		e->status = VMA_REGULAR | VMA_VDSO | VMA_ANON_PRIVATE;
	else if (is_vvar(v))
		e->status = VMA_REGULAR | VMA_VVAR | VMA_ANON_PRIVATE;
	else
		return false;
	e->flags = MAP_PRIVATE | MAP_ANONYMOUS;
	e->pgoff = 0;
	return true;
}

/*
 * Areas and executables of one file share an entry of the image, those of other tasks, too: CRIU
 * keeps the sharing of pages only between tasks that have the same exe_file_id.
 */
static int mapped_file_id(struct capture_session *s, int fd, const struct stat *st,
			  const char *link, uint32_t fdflags, uint32_t *id_out, struct err *err)
{
	struct mapped_file new = {st->st_dev, st->st_ino, fdflags, 0, NULL};

	vec_foreach (m, &s->mapped) {
		if (m->dev == st->st_dev && m->ino == st->st_ino && m->fdflags == fdflags &&
		    strcmp(m->link, link) == 0) {
			*id_out = m->id;
			return 0;
		}
	}
	if (file_capture_path(&s->c, fd, link, fdflags, 0, id_out, err))
		return -1;
	new.id = *id_out;
	new.link = arena_strdup(&s->c.snap->arena, link);
	return new.link &&vec_push(&s->mapped, new) ? 0 : err_nomem(err);
}

static const struct known_mapping *known_mapping(const struct capture_session *s,
						 const struct proc_vma *v)
{
	vec_foreach (k, &s->known) {
		if (k->ino == v->ino && k->dev_major == v->dev_major &&
		    k->dev_minor == v->dev_minor && strcmp(k->name, v->name) == 0)
			return k;
	}
	return NULL;
}

static int remember_mapping(struct capture_session *s, const struct proc_vma *v, const VmaEntry *e,
			    struct err *err)
{
	struct known_mapping new = {
		.dev_major = v->dev_major,
		.dev_minor = v->dev_minor,
		.ino = v->ino,
		.name = arena_strdup(&s->c.snap->arena, v->name),
		.fdflags = e->fdflags,
		.id = (uint32_t)e->shmid,
	};

	return new.name &&vec_push(&s->known, new) ? 0 : err_nomem(err);
}

/*
 * Most mappings show again what another one shows: five system calls less for each. Only private
 * ones, for which it does not matter how their descriptor had been opened.
 */
static bool describe_known(const struct capture_session *s, const struct proc_vma *v, VmaEntry *e)
{
	const struct known_mapping *k = v->shared ? NULL : known_mapping(s, v);

	if (!k)
		return false;
	e->has_fdflags = true;
	e->fdflags = k->fdflags;
	e->status = VMA_REGULAR | VMA_FILE_PRIVATE;
	e->shmid = k->id;
	return true;
}

static int describe_file(struct capture_session *s, pid_t pid, const struct proc_vma *v,
			 VmaEntry *e, struct err *err)
{
	cleanup_close int fd = -1;
	char path[96], link[PATH_MAX];
	struct stat st, mode;
	uint32_t id;

	if (describe_known(s, v, e))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", pid,
		 (unsigned long long)v->start, (unsigned long long)v->end);
	if (lstat(path, &mode) || io_readlinkf(link, sizeof(link), "%s", path))
		return err_sys(err, "cannot look at the mapped file %s of pid %d", v->name, pid);
	e->has_fdflags = true;
	e->fdflags = mode.st_mode & S_IWUSR ? O_RDWR : O_RDONLY;
	fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(err, "cannot open the mapped file %s of pid %d", v->name, pid);
	if (memfd_is_shared_memory(&st, link)) {
		cleanup_close int mem = open(path, (e->fdflags == O_RDWR ? O_RDWR : O_RDONLY) |
							   O_CLOEXEC);

		if (mem < 0)
			return err_sys(err, "cannot open the shared memory %s of pid %d", v->name,
				       pid);
		e->status = VMA_REGULAR | VMA_MEMFD |
			    (v->shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE);
		if (memfd_capture_shared(&s->c, mem, link, &id, err))
			return -1;
	} else {
		e->status = VMA_REGULAR | (v->shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE);
		if (mapped_file_id(s, fd, &st, link, e->fdflags, &id, err))
			return -1;
	}
	e->shmid = id;
	return e->status == (VMA_REGULAR | VMA_FILE_PRIVATE) ? remember_mapping(s, v, e, err) : 0;
}

/* System V segments are known by id, not by file; the kernel gives their inodes that number. */
static int describe_sysv(struct capture_session *s, pid_t pid, const struct proc_vma *v,
			 VmaEntry *e, struct err *err)
{
	char path[96];
	struct stat mode;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", pid,
		 (unsigned long long)v->start, (unsigned long long)v->end);
	if (lstat(path, &mode))
		return err_sys(err, "cannot look at %s of pid %d", v->name, pid);
	e->has_fdflags = true;
	e->fdflags = mode.st_mode & S_IWUSR ? O_RDWR : O_RDONLY;
	e->flags |= MAP_ANONYMOUS;
	e->status = VMA_REGULAR | VMA_ANON_SHARED | VMA_SYSVIPC;
	e->shmid = v->ino;
	return sysv_note(&s->c, path, v->ino, err) ? err_wrap(err, "pid %d", pid) : 0;
}

static int describe_area(struct capture_session *s, pid_t pid, const struct proc_vma *v,
			 VmaEntry *e, struct err *err)
{
	e->start = v->start;
	e->end = v->end;
	e->pgoff = v->pgoff;
	e->prot = (v->read ? PROT_READ : 0u) | (v->write ? PROT_WRITE : 0u) |
		  (v->exec ? PROT_EXEC : 0u);
	e->flags = flags_of(v);
	e->fd = -1;
	e->madv = madvice_of(v);
	e->has_madv = e->madv != 0;
	if (describe_special(v, e))
		return 0;
	if (v->shared && sysv_is_area(v->dev_major, v->dev_minor, v->name))
		return describe_sysv(s, pid, v, e, err);
	if (v->ino || v->shared)
		return describe_file(s, pid, v, e, err);
	e->flags |= MAP_ANONYMOUS;
	e->pgoff = 0;
	e->status = VMA_REGULAR | VMA_ANON_PRIVATE | (is_named(v, "[heap]") ? VMA_HEAP : 0);
	return 0;
}

/* Guard regions (MADV_GUARD_INSTALL) follow the areas that they are in. */
static int add_guards(struct capture_session *s, const mem_ranges *guards, MmEntry *mm,
		      struct err *err)
{
	vec_foreach (g, guards) {
		VmaEntry *e = snap_new(s->c.snap, VmaEntry, vma_entry);

		if (!e)
			return err_nomem(err);
		e->start = g->start;
		e->end = g->end;
		e->flags = MAP_PRIVATE | MAP_ANONYMOUS;
		e->status = VMA_GUARD;
		e->fd = -1;
		mm->vmas[mm->n_vmas++] = e;
	}
	return 0;
}

static int describe_vmas(struct capture_session *s, struct live_task *t, const mem_ranges *guards,
			 MmEntry *mm, struct err *err)
{
	if (guards->n > MEM_MAX_GUARDS)
		return err_set(err, E2BIG, "pid %d has more than %d guard regions", t->facts.pid,
			       MEM_MAX_GUARDS);
	mm->vmas = arena_array(&s->c.snap->arena, VmaEntry *, t->vmas.n + guards->n);
	if (!mm->vmas)
		return err_nomem(err);
	vec_foreach (v, &t->vmas) {
		VmaEntry *e;

		if (is_named(v, "[uprobes]"))
			continue;
		e = snap_new(s->c.snap, VmaEntry, vma_entry);
		if (!e)
			return err_nomem(err);
		if (describe_area(s, t->facts.pid, v, e, err))
			return -1;
		mm->vmas[mm->n_vmas++] = e;
	}
	return add_guards(s, guards, mm, err);
}

/* ---- the mm ---- */

static int describe_marks(struct capture_session *s, const struct live_task *t, MmEntry *mm,
			  struct err *err)
{
	const struct proc_stat *st = &t->stat;
	cleanup_free char *auxv = NULL;
	size_t bytes;

	mm->mm_start_code = st->start_code;
	mm->mm_end_code = st->end_code;
	mm->mm_start_data = st->start_data;
	mm->mm_end_data = st->end_data;
	mm->mm_start_stack = st->start_stack;
	mm->mm_start_brk = st->start_brk;
	mm->mm_arg_start = st->arg_start;
	mm->mm_arg_end = st->arg_end;
	mm->mm_env_start = st->env_start;
	mm->mm_env_end = st->env_end;
	if (io_read_filef(&auxv, &bytes, "/proc/%d/auxv", t->facts.pid))
		return err_sys(err, "cannot read the auxiliary vector of pid %d", t->facts.pid);
	mm->n_mm_saved_auxv = bytes / sizeof(uint64_t);
	/* CRIU stores it without the AT_NULL pair at the end, and takes no more words than that. */
	if (mm->n_mm_saved_auxv >= 2 && ((const uint64_t *)auxv)[mm->n_mm_saved_auxv - 2] == 0)
		mm->n_mm_saved_auxv -= 2;
	mm->mm_saved_auxv = arena_dup(&s->c.snap->arena, auxv,
				      mm->n_mm_saved_auxv * sizeof(uint64_t));
	return mm->mm_saved_auxv ? 0 : err_nomem(err);
}

static int describe_exe(struct capture_session *s, const struct live_task *t, MmEntry *mm,
			struct err *err)
{
	cleanup_close int fd = io_openf(O_PATH, "/proc/%d/exe", t->facts.pid);
	char link[PATH_MAX];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) ||
	    io_readlinkf(link, sizeof(link), "/proc/%d/exe", t->facts.pid))
		return err_sys(err, "cannot look at the executable of pid %d", t->facts.pid);
	if (mapped_file_id(s, fd, &st, link, O_RDONLY, &mm->exe_file_id, err))
		return err_wrap(err, "executable of pid %d", t->facts.pid);
	return 0;
}

int areas_describe(struct capture_session *s, struct live_task *t, struct err *err)
{
	MmEntry *mm = snap_new(s->c.snap, MmEntry, mm_entry);
	mem_ranges found = {0};
	int rc = 0;

	if (!mm)
		return err_nomem(err);
	t->facts.snap->mm = mm;
	if (areas_allowed(s, t->facts.pid, &t->vmas, err) || describe_exe(s, t, mm, err) ||
	    describe_marks(s, t, mm, err))
		return -1;
	if (!t->seen)
		rc = mem_find_guards(t->facts.pid, &found, err);
	if (rc == 0)
		rc = describe_vmas(s, t, t->seen ? &t->seen->guards : &found, mm, err);
	vec_free(&found);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * memfds, and shared anonymous memory, whose backing file is the same kind of
 * file under the name "/dev/zero". See kinds/memfd.h for who copies contents.
 *
 * At restore the broker keeps one descriptor per inode, open for both
 * directions; descriptions and mappings are opened through it. Seals come last
 * (memfd_seal_all). A "/dev/zero" is not made by memfd_create: a shared
 * anonymous mapping of ours is opened through /proc/self/map_files, so that the
 * restored program shows the same mappings as before.
 */
#include "kinds/memfd.h"

#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/files.h"

#define LOG_MODULE "memfd"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

static const char memfd_prefix[] = "/memfd:";
static const char deleted[] = " (deleted)";
static const char zero_name[] = "/dev/zero";

dev_t memfd_shmem_dev(void)
{
	static dev_t dev;
	struct stat st;
	int fd;

	if (dev)
		return dev;
	fd = memfd_create("ferry-probe", MFD_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0)
		dev = st.st_dev;
	if (fd >= 0)
		close(fd);
	return dev;
}

static bool is_memfd_link(const char *link)
{
	return strncmp(link, memfd_prefix, sizeof(memfd_prefix) - 1) == 0;
}

static bool is_zero_link(const char *link)
{
	return strncmp(link, zero_name, sizeof(zero_name) - 1) == 0 &&
	       strcmp(link + sizeof(zero_name) - 1, deleted) == 0;
}

bool memfd_is_shared_memory(const struct stat *st, const char *link)
{
	return S_ISREG(st->st_mode) && st->st_nlink == 0 && st->st_dev == memfd_shmem_dev() &&
	       (is_memfd_link(link) || is_zero_link(link));
}

/* A memfd made with MFD_HUGETLB lives on another mount of the kernel's. */
static bool is_huge(const struct stat *st, const char *link)
{
	return S_ISREG(st->st_mode) && st->st_nlink == 0 && is_memfd_link(link) &&
	       (unsigned long)st->st_blksize > PAGE_BYTES && st->st_dev != memfd_shmem_dev();
}

/* ---- capture ---- */

static bool memfd_claims(const struct capture *c, const struct fd_facts *f)
{
	return !(f->flags & O_PATH) &&
	       (memfd_is_shared_memory(&f->st, f->link) || is_huge(&f->st, f->link));
}

static int memfd_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	if (is_huge(&f->st, f->link))
		return err_set(
			err, ENOTSUP,
			"a memfd in huge pages cannot be carried; support comes in a later release");
	return 0;
}

static MemfdInodeEntry *find_inode(const struct capture *c, uint64_t ino)
{
	vec_foreach (it, &c->snap->memfds) {
		if ((*it)->shmid == (uint32_t)ino)
			return *it;
	}
	return NULL;
}

/* "/memfd:NAME (deleted)" without what is not the name. */
static char *inode_name(struct capture *c, const char *link)
{
	size_t len = strlen(link), tail = sizeof(deleted) - 1, head = sizeof(memfd_prefix) - 1;

	if (len >= tail && strcmp(link + len - tail, deleted) == 0)
		len -= tail;
	if (is_memfd_link(link) && len >= head)
		return arena_printf(&c->snap->arena, "%.*s", (int)(len - head), link + head);
	return arena_printf(&c->snap->arena, "%.*s", (int)len, link);
}

/* Hands the contents over to whoever copies them. */
static int add_source(struct capture *c, int fd, const struct stat *st, struct err *err)
{
	struct shmem_source src = {.shmid = st->st_ino, .bytes = (uint64_t)st->st_size};

	src.fd = reopen(fd, O_RDONLY);
	if (src.fd < 0)
		return err_sys(err, "cannot open its memory for reading");
	if (vec_push(&c->shmem, src))
		return 0;
	close(src.fd);
	return err_nomem(err);
}

/* The inode entry of a file, made when it is seen for the first time. */
static MemfdInodeEntry *capture_inode(struct capture *c, int fd, const char *link, struct err *err)
{
	MemfdInodeEntry *e;
	struct stat st;
	int seals;

	if (fstat(fd, &st)) {
		err_sys(err, "cannot stat its memory");
		return NULL;
	}
	e = find_inode(c, st.st_ino);
	if (e)
		return e;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0) {
		err_sys(err, "cannot read its seals");
		return NULL;
	}
	e = snap_new(c->snap, MemfdInodeEntry, memfd_inode_entry);
	if (e)
		e->name = inode_name(c, link);
	if (!e || !e->name) {
		err_nomem(err);
		return NULL;
	}
	e->uid = st.st_uid;
	e->gid = st.st_gid;
	e->size = (uint64_t)st.st_size;
	e->shmid = (uint32_t)st.st_ino;
	e->seals = (uint32_t)seals;
	e->inode_id = c->snap->memfds.n + 1;
	e->has_mode = true;
	e->mode = st.st_mode;
	if (!c->preflight && add_source(c, fd, &st, err))
		return NULL;
	if (!vec_push(&c->snap->memfds, e)) {
		err_nomem(err);
		return NULL;
	}
	return e;
}

static int add_file(struct capture *c, uint32_t id, uint32_t flags, uint64_t pos, FownEntry *fown,
		    const MemfdInodeEntry *inode, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	MemfdFileEntry *e = snap_new(c->snap, MemfdFileEntry, memfd_file_entry);

	if (!fe || !e || !fown)
		return err_nomem(err);
	fe->type = FD_TYPES__MEMFD;
	fe->id = e->id = id;
	fe->memfd = e;
	e->flags = flags;
	e->pos = pos;
	e->fown = fown;
	e->inode_id = (uint32_t)inode->inode_id;
	return capture_add_file(c, fe, err);
}

static int memfd_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	const MemfdInodeEntry *inode = capture_inode(c, f->own, f->link, err);

	if (!inode)
		return -1;
	return add_file(c, f->id, f->flags, f->pos, capture_fown(c, f), inode, err);
}

int memfd_capture_shared(struct capture *c, int fd, const char *link, uint32_t *file_id_out,
			 struct err *err)
{
	const MemfdInodeEntry *inode = capture_inode(c, fd, link, err);

	if (!inode)
		return -1;
	*file_id_out = capture_next_file_id(c);
	return add_file(c, *file_id_out, 0, 0, snap_new(c->snap, FownEntry, fown_entry), inode, err);
}

/* ---- restore ---- */

/* The file behind a shared anonymous mapping; -1 + errno. */
static int create_anonymous(uint64_t bytes)
{
	size_t len = PAGE_ALIGN(bytes);
	char path[64];
	void *map;
	int fd;

	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	if (map == MAP_FAILED)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map,
		 (unsigned long)map + len);
	fd = open(path, O_RDWR | O_CLOEXEC);
	munmap(map, len);
	return fd;
}

static int create_memfd(const MemfdInodeEntry *e)
{
	unsigned int flags = MFD_CLOEXEC;

	/* A memfd without MFD_ALLOW_SEALING is born with F_SEAL_SEAL, and with nothing else. */
	if (e->seals != F_SEAL_SEAL)
		flags |= MFD_ALLOW_SEALING;
	if (e->has_hugetlb_flag)
		flags |= e->hugetlb_flag;
	return memfd_create(e->name, flags);
}

static int set_attributes(int fd, const MemfdInodeEntry *e, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return err_sys(err, "cannot stat shared memory '%s'", e->name);
	if ((uint64_t)st.st_size != e->size && ftruncate(fd, (off_t)e->size))
		return err_sys(err, "cannot make shared memory '%s' of %" PRIu64 " bytes", e->name,
			       e->size);
	if ((st.st_uid != e->uid || st.st_gid != e->gid) && fchown(fd, e->uid, e->gid))
		return err_sys(err, "cannot give shared memory '%s' to user %u, group %u", e->name,
			       e->uid, e->gid);
	if (e->has_mode && (st.st_mode & 07777) != (e->mode & 07777) && fchmod(fd, e->mode & 07777))
		return err_sys(err, "cannot set the mode of shared memory '%s'", e->name);
	return 0;
}

int memfd_inode_fd(struct restore *r, uint64_t inode_id, struct err *err)
{
	const MemfdInodeEntry *e = snapshot_memfd(r->snap, inode_id);
	int fd = broker_kept(r, SHELF_MEMFD, inode_id);

	if (fd >= 0)
		return fd;
	if (!e)
		return err_set(err, EINVAL, "memfd.img: there is no inode %" PRIu64, inode_id);
	if (strcmp(e->name, zero_name) == 0 && e->size)
		fd = create_anonymous(e->size);
	if (fd < 0)
		fd = create_memfd(e);
	if (fd < 0)
		return err_sys(err, "cannot make shared memory '%s'", e->name);
	if (set_attributes(fd, e, err)) {
		close(fd);
		return -1;
	}
	return broker_keep(r, SHELF_MEMFD, inode_id, fd, err);
}

int memfd_seal_all(struct restore *r, struct err *err)
{
	vec_foreach (it, &r->snap->memfds) {
		int fd = broker_kept(r, SHELF_MEMFD, (*it)->inode_id);

		if (fd < 0 || !(*it)->seals || (*it)->seals == F_SEAL_SEAL)
			continue;
		if (fcntl(fd, F_ADD_SEALS, (*it)->seals))
			return err_sys(err, "cannot seal memfd '%s' (seals %#x)", (*it)->name,
				       (*it)->seals);
	}
	return 0;
}

static int memfd_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	if (!snapshot_memfd(r->snap, fe->memfd->inode_id))
		return err_set(err, EINVAL, "memfd.img: there is no inode %u", fe->memfd->inode_id);
	return 0;
}

int memfd_open_again(struct restore *r, const MemfdFileEntry *e, uint32_t flags, struct err *err)
{
	int inode = memfd_inode_fd(r, e->inode_id, err), fd;

	if (inode < 0)
		return -1;
	fd = reopen(inode, flags);
	return fd >= 0 ? fd : err_sys(err, "cannot open a memfd with flags 0%o", flags);
}

static int memfd_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const MemfdFileEntry *e = fe->memfd;
	cleanup_close int fd = memfd_open_again(r, e, e->flags, err);

	if (fd < 0)
		return -1;
	if (e->pos && e->pos != UINT64_MAX && lseek(fd, (off_t)e->pos, SEEK_SET) < 0)
		return err_sys(err, "cannot go to position %" PRIu64 " of a memfd", e->pos);
	*fd_out = steal_fd(&fd);
	return 0;
}

static int memfd_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		      struct script *s, struct err *err)
{
	emit_fown(fe->memfd->fown, fe->memfd->flags, place, s);
	return 0;
}

const struct fd_kind memfd_kind = {
	.name = "memfd",
	.type = FD_TYPES__MEMFD,
	.claims = memfd_claims,
	.allowed = memfd_allowed,
	.capture = memfd_capture,
	.check = memfd_check,
	.open = memfd_open,
	.emit = memfd_emit,
};

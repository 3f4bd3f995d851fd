// SPDX-License-Identifier: Apache-2.0
/*
 * Everything that is opened by its path: regular files, directories, harmless
 * character devices, O_PATH descriptors of anything; and the files that a task
 * has without a descriptor (executable, cwd, root, mapped files).
 *
 * An image names a file by its path, so the first question is whether the path
 * still leads to the open file (classify). If not, the content is carried as a
 * ghost, or the file gets another name (remap.c, ghost.c); a path that leads
 * to some other file is refused.
 *
 * At restore a path is opened with O_PATH first and compared with the entry
 * (type, mode, size, build id): so nothing blocks in a fifo or touches a
 * device that happens to have the name. Then the same file is opened again
 * with the flags of the entry.
 */
#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/files.h"
#include "kinds/memfd.h"

#define LOG_MODULE "file"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define KERNEL_O_TMPFILE 020000000 /* __O_TMPFILE, without the O_DIRECTORY it comes with */
#define KERNEL_O_LARGEFILE 0100000

/* Character devices without state of their own: opening them again is as good. */
static const struct device {
	unsigned int minor;
	const char *path;
} mem_devices[] = {
	{3, "/dev/null"},   {5, "/dev/zero"},    {7, "/dev/full"},
	{8, "/dev/random"}, {9, "/dev/urandom"},
};
enum { MEM_MAJOR = 1 };

static const char *device_path(dev_t rdev)
{
	for (size_t i = 0; i < ARRAY_SIZE(mem_devices); i++)
		if (major(rdev) == MEM_MAJOR && minor(rdev) == mem_devices[i].minor)
			return mem_devices[i].path;
	return NULL;
}

/* ---- capture ---- */

static bool same_inode(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The link text without " (deleted)", in the snapshot's arena; the text itself if there is none. */
static const char *without_deleted(struct capture *c, const char *link)
{
	static const char mark[] = " (deleted)";
	size_t len = strlen(link), mark_len = sizeof(mark) - 1;
	char *name;

	if (len <= mark_len || strcmp(link + len - mark_len, mark) != 0)
		return link;
	name = arena_strdup(&c->snap->arena, link);
	if (name)
		name[len - mark_len] = 0;
	return name;
}

/* A path that leads elsewhere: another device node may do, else it is refused. */
static int classify_other(struct capture *c, const char *link, bool exists, struct path_facts *p,
			  struct err *err)
{
	const char *device = device_path(p->st.st_rdev);

	if (c->opt->evasive_devices && S_ISCHR(p->st.st_mode) && device) {
		p->name = device;
		p->state = PATH_SAME;
		return 0;
	}
	if (exists)
		return err_set(err, ESTALE,
			       "%s is another file by now (replaced, or mounted over), so its path cannot stand for it",
			       link);
	return err_sys(err, "%s cannot be looked up from here (another root or mount namespace?)",
		       link);
}

/* Fills ->name and ->state from the /proc link text of the file. */
static int classify(struct capture *c, const char *link, struct path_facts *p, struct err *err)
{
	struct stat at;
	bool exists;

	if (*link != '/')
		return err_set(err, ENOTSUP, "%s has no path that can be opened again", link);
	p->name = link;
	p->state = PATH_SAME;
	exists = lstat(link, &at) == 0;
	if (exists && same_inode(&at, &p->st))
		return 0;
	p->name = without_deleted(c, link);
	if (!p->name)
		return err_nomem(err);
	if (p->name == link)
		return classify_other(c, link, exists, p, err);
	if (lstat(p->name, &at) == 0 && same_inode(&at, &p->st))
		return 0;
	if (c->opt->evasive_devices && S_ISCHR(p->st.st_mode) && device_path(p->st.st_rdev))
		return classify_other(c, link, exists, p, err);
	p->state = p->st.st_nlink == 0 || S_ISDIR(p->st.st_mode) ? PATH_DELETED : PATH_UNLINKED;
	return 0;
}

/* A file of /proc/PID: it belongs to a task that the destination has not made yet. */
static bool is_proc_pid(int fd, const char *link)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) || fs.f_type != PROC_SUPER_MAGIC)
		return false;
	return strncmp(link, "/proc/", 6) == 0 && link[6] >= '0' && link[6] <= '9';
}

static int device_allowed(const struct capture *c, const struct path_facts *p, struct err *err)
{
	unsigned int maj = major(p->st.st_rdev), min = minor(p->st.st_rdev);
	char key[64];

	if (S_ISCHR(p->st.st_mode) && device_path(p->st.st_rdev))
		return 0;
	snprintf(key, sizeof(key), "dev[%u/%u]", maj, min);
	if (kind_external(c->opt, key))
		return 0;
	return err_set(err, ENOTSUP,
		       "%s device %u:%u may have state that cannot be carried; if opening it again is enough, say "
		       "--external '%s'",
		       S_ISCHR(p->st.st_mode) ? "character" : "block", maj, min, key);
}

static int path_allowed(struct capture *c, const char *link, uint32_t flags, struct path_facts *p,
			struct err *err)
{
	if (is_proc_pid(p->fd, link))
		return err_set(
			err, ENOTSUP,
			"open files of /proc/PID cannot be carried; support comes in a later release");
	if (memfd_is_shared_memory(&p->st, link))
		return err_set(err, ENOTSUP,
			       "a memfd by O_PATH or as an executable cannot be carried; support comes in "
			       "a later release");
	if (classify(c, link, p, err))
		return -1;
	if ((S_ISCHR(p->st.st_mode) || S_ISBLK(p->st.st_mode)) && !(flags & O_PATH) &&
	    device_allowed(c, p, err))
		return -1;
	return p->state == PATH_SAME ? 0 : remap_allowed(c, p, err);
}

int file_path_allowed(struct capture *c, int fd, const char *link, struct err *err)
{
	struct path_facts p = {.fd = fd};

	if (fstat(fd, &p.st))
		return err_sys(err, "cannot stat %s", link);
	return path_allowed(c, link, O_PATH, &p, err);
}

/* The value of --external file[MNT:INO] for this descriptor (decimal, or CRIU's hexadecimal), or NULL. */
static const char *external_file(const struct capture *c, int mnt_id, uint64_t ino)
{
	char dec[64], hex[64];
	const char *found;

	snprintf(dec, sizeof(dec), "file[%d:%" PRIu64 "]", mnt_id, ino);
	snprintf(hex, sizeof(hex), "file[%x:%" PRIx64 "]", (unsigned int)mnt_id, ino);
	found = kind_external(c->opt, hex);
	return found ? found : kind_external(c->opt, dec);
}

static bool file_claims(const struct capture *c, const struct fd_facts *f)
{
	mode_t m = f->st.st_mode;

	if (f->flags & O_PATH)
		return *f->link == '/';
	return S_ISREG(m) || S_ISDIR(m) || S_ISLNK(m) || S_ISCHR(m) || S_ISBLK(m);
}

static int file_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	struct path_facts p = {.fd = f->own, .st = f->st};

	if (external_file(c, f->mnt_id, f->st.st_ino))
		return 0;
	return path_allowed(c, f->link, f->flags, &p, err);
}

static int add_build_id(struct capture *c, const struct path_facts *p, RegFileEntry *rfe,
			struct err *err)
{
	cleanup_close int fd = reopen(p->fd, O_RDONLY | O_NONBLOCK);
	uint32_t words[BUILD_ID_MAX_WORDS];

	/* Not readable: the size has to do. */
	rfe->n_build_id = fd < 0 ? 0 : build_id_read(fd, words);
	if (!rfe->n_build_id)
		return 0;
	rfe->build_id = arena_dup(&c->snap->arena, words, rfe->n_build_id * sizeof(*words));
	return rfe->build_id ? 0 : err_nomem(err);
}

/* The REG entry of a file; the caller adds fown. */
static RegFileEntry *add_entry(struct capture *c, uint32_t id, uint32_t flags, uint64_t pos,
			       const char *name, FownEntry *fown, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	RegFileEntry *rfe = snap_new(c->snap, RegFileEntry, reg_file_entry);

	if (!fe || !rfe || !fown) {
		err_nomem(err);
		return NULL;
	}
	fe->type = FD_TYPES__REG;
	fe->id = rfe->id = id;
	fe->reg = rfe;
	/* A file that was made by O_TMPFILE is opened by name after all. */
	rfe->flags = flags & KERNEL_O_TMPFILE ? flags & ~(uint32_t)(KERNEL_O_TMPFILE | O_DIRECTORY) :
						flags;
	rfe->pos = pos;
	rfe->fown = fown;
	rfe->name = arena_strdup(&c->snap->arena, name);
	if (!rfe->name) {
		err_nomem(err);
		return NULL;
	}
	return capture_add_file(c, fe, err) ? NULL : rfe;
}

static int capture_path(struct capture *c, uint32_t id, const char *link, uint32_t flags,
			uint64_t pos, FownEntry *fown, struct path_facts *p, struct err *err)
{
	RegFileEntry *rfe;

	if (path_allowed(c, link, flags, p, err))
		return -1;
	rfe = add_entry(c, id, flags, pos, p->name, fown, err);
	if (!rfe)
		return -1;
	rfe->has_mode = true;
	rfe->mode = p->st.st_mode;
	if (S_ISREG(p->st.st_mode)) {
		rfe->has_size = true;
		rfe->size = (uint64_t)p->st.st_size;
		if (!c->preflight && add_build_id(c, p, rfe, err))
			return -1;
	}
	return p->state == PATH_SAME ? 0 : remap_capture(c, id, p, err);
}

int file_capture_path(struct capture *c, int fd, const char *link, uint32_t flags, uint64_t pos,
		      uint32_t *id_out, struct err *err)
{
	struct path_facts p = {.fd = fd};

	if (fstat(fd, &p.st))
		return err_sys(err, "cannot stat %s", link);
	*id_out = capture_next_file_id(c);
	return capture_path(c, *id_out, link, flags, pos, snap_new(c->snap, FownEntry, fown_entry),
			    &p, err);
}

static int file_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	const char *external = external_file(c, f->mnt_id, f->st.st_ino);
	struct path_facts p = {.fd = f->own};
	RegFileEntry *rfe;
	char key[64];

	if (external) {
		/* Everything before ":NAME" is the key at restore. */
		snprintf(key, sizeof(key), "%.*s", (int)(strchr(external, ']') - external) + 1,
			 external);
		rfe = add_entry(c, f->id, f->flags, f->pos, key, capture_fown(c, f), err);
		if (rfe)
			rfe->has_ext = rfe->ext = true;
		return rfe ? 0 : -1;
	}
	/* The facts may be older than the freeze. */
	if (fstat(f->own, &p.st))
		return err_sys(err, "cannot stat %s", f->link);
	return capture_path(c, f->id, f->link, f->flags, f->pos, capture_fown(c, f), &p, err);
}

static int file_undo(struct capture *c, struct fd_facts *f, struct err *err)
{
	return file_undo_links(c, err);
}

/* ---- restore ---- */

uint32_t reopen_flags(uint32_t flags)
{
	return (flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC | O_ASYNC | KERNEL_O_TMPFILE)) |
	       O_NOCTTY;
}

int reopen(int fd, uint32_t flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, (int)((reopen_flags(flags) & ~(uint32_t)O_NOFOLLOW) | O_CLOEXEC));
}

int path_open(const struct restore *r, const char *path, uint32_t flags)
{
	const char *root = r->opt ? r->opt->root : NULL;
	struct open_how how = {
		.flags = reopen_flags(flags) & ~(uint32_t)KERNEL_O_LARGEFILE,
		.resolve = RESOLVE_IN_ROOT,
	};
	cleanup_close int dir = -1;

	how.flags |= O_CLOEXEC;
	if (flags & O_PATH)
		how.flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	if (!root)
		return open(path, (int)how.flags);
	dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? -1 : (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

int path_open_parent(const struct restore *r, const char *path, const char **base_out)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];

	if (!slash || !slash[1] || (size_t)(slash - path) >= sizeof(dir)) {
		errno = EINVAL;
		return -1;
	}
	*base_out = slash + 1;
	if (slash == path)
		return path_open(r, "/", O_PATH | O_DIRECTORY);
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = 0;
	return path_open(r, dir, O_PATH | O_DIRECTORY);
}

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "a regular file";
	case S_IFDIR:
		return "a directory";
	case S_IFCHR:
		return "a character device";
	case S_IFBLK:
		return "a block device";
	case S_IFIFO:
		return "a fifo";
	case S_IFLNK:
		return "a symbolic link";
	case S_IFSOCK:
		return "a socket";
	default:
		return "of an unknown type";
	}
}

static int verify_build_id(const RegFileEntry *rfe, int path_fd, struct err *err)
{
	cleanup_close int fd = -1;
	uint32_t words[BUILD_ID_MAX_WORDS];
	size_t n;

	if (!rfe->n_build_id)
		return 0;
	fd = reopen(path_fd, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return err_sys(err, "cannot read %s to compare its build-id", rfe->name);
	n = build_id_read(fd, words);
	if (n == rfe->n_build_id && memcmp(words, rfe->build_id, n * sizeof(*words)) == 0)
		return 0;
	return err_set(err, EINVAL,
		       "%s is another build than when it was dumped (the build-ids differ); put the same build there",
		       rfe->name);
}

/* Is the file found by the path the one of the image? */
static int verify(const RegFileEntry *rfe, int fd, struct err *err)
{
	bool grows = (rfe->flags & O_ACCMODE) == O_WRONLY && (rfe->flags & O_APPEND);
	struct stat st;

	if (fstat(fd, &st))
		return err_sys(err, "cannot stat %s", rfe->name);
	if (rfe->has_mode && (st.st_mode & S_IFMT) != (rfe->mode & S_IFMT))
		return err_set(err, EINVAL, "%s is %s here, and was %s when it was dumped",
			       rfe->name, type_name(st.st_mode), type_name(rfe->mode));
	if (rfe->has_mode && st.st_mode != rfe->mode)
		return err_set(err, EINVAL,
			       "%s has mode %04o, expected %04o; chmod it, or restore the file as it was",
			       rfe->name, st.st_mode & 07777, rfe->mode & 07777);
	if (rfe->has_size && S_ISREG(st.st_mode) && !grows && (uint64_t)st.st_size != rfe->size)
		return err_set(err, EINVAL,
			       "%s has %" PRIu64 " bytes, expected %" PRIu64
			       "; it was changed after the dump: put the file back as it was",
			       rfe->name, (uint64_t)st.st_size, rfe->size);
	return verify_build_id(rfe, fd, err);
}

/* The --inherit-fd descriptor for the path, or -1. */
static int inherited(const struct restore *r, const RegFileEntry *rfe)
{
	return kind_inherited(r->opt, rfe->name);
}

static int no_external(const RegFileEntry *rfe, struct err *err)
{
	return err_set(err, ENOENT, "%s is external: give the file with --inherit-fd 'fd[N]:%s'",
		       rfe->name, rfe->name);
}

/* In a look ahead of the freeze a regular file may be missing or old: the caller copies it later. */
static bool comes_later(const struct restore *r, const RegFileEntry *rfe)
{
	return r->preflight && rfe->has_mode && S_ISREG(rfe->mode);
}

/* Is this only the path of a terminal? Its node comes into being with it (tty.c). */
static bool names_terminal(const struct restore *r, const FileEntry *fe)
{
	if (!fe->reg->has_mode || !S_ISCHR(fe->reg->mode))
		return false;
	vec_foreach (it, &r->snap->files)
		if ((*it)->tty && (*it)->tty->has_regf_id && (*it)->tty->regf_id == fe->id)
			return true;
	return false;
}

static int file_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	const RegFileEntry *rfe = fe->reg;
	const RemapFilePathEntry *remap;
	cleanup_close int fd = -1;

	if (inherited(r, rfe) >= 0 || names_terminal(r, fe))
		return 0;
	if (rfe->ext)
		return no_external(rfe, err);
	if (*rfe->name != '/')
		return err_set(err, EINVAL, "files.img: '%s' is not an absolute path", rfe->name);
	remap = snapshot_remap(r->snap, fe->id);
	if (remap)
		return remap_check(r, remap, err);
	if (comes_later(r, rfe))
		return 0;
	fd = path_open(r, rfe->name, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return err_sys(err, "cannot find %s; the restored program needs it there", rfe->name);
	return verify(rfe, fd, err);
}

/* Opens the entry with these flags; the position stays at the start. -1 + err. */
static int open_entry(struct restore *r, const RegFileEntry *rfe, uint32_t flags, struct err *err)
{
	const RemapFilePathEntry *remap = snapshot_remap(r->snap, rfe->id);
	int given = inherited(r, rfe), fd;
	cleanup_close int found = -1;

	if (given >= 0) {
		fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
		return fd >= 0 ? fd :
				 err_sys(err, "cannot take descriptor %d given for %s", given,
					 rfe->name);
	}
	if (rfe->ext)
		return no_external(rfe, err);
	if (remap)
		return remap_open(r, remap, rfe, flags, err);
	found = path_open(r, rfe->name, O_PATH | O_NOFOLLOW);
	if (found < 0)
		return err_sys(err, "cannot find %s; the restored program needs it there", rfe->name);
	if (verify(rfe, found, err))
		return -1;
	/* Those two flags are visible later: only a look-up by name leaves them in place. */
	fd = flags & (O_NOFOLLOW | O_PATH) ? path_open(r, rfe->name, flags) : reopen(found, flags);
	return fd >= 0 ? fd : err_sys(err, "cannot open %s with flags 0%o", rfe->name, flags);
}

static int file_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const RegFileEntry *rfe = fe->reg;
	cleanup_close int fd = open_entry(r, rfe, rfe->flags, err);

	if (fd < 0)
		return -1;
	/* A descriptor that was inherited comes with the position its giver wants. */
	if (!(rfe->flags & O_PATH) && rfe->pos && rfe->pos != UINT64_MAX && inherited(r, rfe) < 0 &&
	    lseek(fd, (off_t)rfe->pos, SEEK_SET) < 0)
		return err_sys(err, "cannot go to position %" PRIu64 " of %s", rfe->pos, rfe->name);
	*fd_out = steal_fd(&fd);
	return 0;
}

int file_open_path(struct restore *r, const FileEntry *fe, uint32_t flags, struct err *err)
{
	if (fe->type == FD_TYPES__REG)
		return open_entry(r, fe->reg, flags, err);
	if (fe->type == FD_TYPES__MEMFD)
		return memfd_open_again(r, fe->memfd, flags, err);
	return err_set(err, EINVAL, "files.img: file id %u is not a file with a path", fe->id);
}

static int file_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		     struct script *s, struct err *err)
{
	emit_fown(fe->reg->fown, fe->reg->flags, place, s);
	return 0;
}

static void file_commit(struct restore *r, const FileEntry *fe)
{
	const RemapFilePathEntry *remap = snapshot_remap(r->snap, fe->id);

	if (remap)
		remap_commit(r, remap);
}

const struct fd_kind file_kind = {
	.name = "file",
	.type = FD_TYPES__REG,
	.claims = file_claims,
	.allowed = file_allowed,
	.capture = file_capture,
	.undo = file_undo,
	.check = file_check,
	.open = file_open,
	.emit = file_emit,
	.commit = file_commit,
};

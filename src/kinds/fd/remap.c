// SPDX-License-Identifier: Apache-2.0
/*
 * Files whose name is gone. A file with no name left travels as a ghost: its
 * content is in the images. A file that has other names gets a new one beside
 * the old ("link_remap.N", only with --link-remap: it changes the file system).
 *
 * At restore the file is made or found once per remap. It gets its old name
 * back for an instant, if that is free, so that the kernel shows the
 * same path as before, is opened with O_PATH, and loses it again; the O_PATH
 * descriptor stays with the broker, and every description of the file is
 * opened through it. So it does not matter how many there are, or when they
 * are asked for. Several names of one inode each get such a descriptor.
 */
#include "kinds/broker.h"
#include "kinds/fd/files.h"

#define LOG_MODULE "remap"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

enum { MAX_LINK_TRIES = 1000 };

/* ---- capture ---- */

int remap_allowed(const struct capture *c, const struct path_facts *p, struct err *err)
{
	uint64_t bytes = (uint64_t)p->st.st_blocks * 512;

	if (p->state == PATH_UNLINKED) {
		if (c->opt->link_remap)
			return 0;
		return err_set(err, ENOENT,
			       "%s was deleted but the file has other names; --link-remap may give it one more",
			       p->name);
	}
	if (S_ISSOCK(p->st.st_mode))
		return err_set(err, ENOTSUP, "%s is a deleted socket file", p->name);
	if (S_ISREG(p->st.st_mode) && bytes > c->opt->ghost_limit)
		return err_set(err, EFBIG,
			       "%s was deleted and holds %" PRIu64
			       " bytes, more than deleted files may have (%" PRIu64
			       "); raise that with --ghost-limit",
			       p->name, bytes, c->opt->ghost_limit);
	return 0;
}

static int add_remap(struct capture *c, uint32_t file_id, uint32_t remap_id, RemapType type,
		     struct err *err)
{
	RemapFilePathEntry *remap = snap_new(c->snap, RemapFilePathEntry, remap_file_path_entry);

	if (!remap)
		return err_nomem(err);
	remap->orig_id = file_id;
	remap->remap_id = remap_id;
	remap->has_remap_type = true;
	remap->remap_type = type;
	return vec_push(&c->snap->remaps, remap) ? 0 : err_nomem(err);
}

RegFileEntry *capture_reg(const struct capture *c, uint32_t id)
{
	const FileEntry *fe = snapshot_file(c->snap, id);

	return fe ? fe->reg : NULL;
}

/* A link that was made for the same inode before, 0 if there is none. */
static uint32_t find_link(const struct capture *c, const struct path_facts *p)
{
	const RegFileEntry *rfe;
	struct stat st;

	vec_foreach (it, &c->snap->remaps) {
		if ((*it)->remap_type != REMAP_TYPE__LINKED)
			continue;
		rfe = capture_reg(c, (*it)->remap_id);
		if (rfe && lstat(rfe->name, &st) == 0 && st.st_dev == p->st.st_dev &&
		    st.st_ino == p->st.st_ino)
			return (*it)->remap_id;
	}
	return 0;
}

/* Links the file beside its old name under a number that is free; sets the id and the path. */
static int make_link(struct capture *c, const struct path_facts *p, uint32_t *id_out, char *path,
		     size_t size, struct err *err)
{
	int dir_len = (int)(strrchr(p->name, '/') - p->name);
	char from[40];

	snprintf(from, sizeof(from), "/proc/self/fd/%d", p->fd);
	for (int i = 0; i < MAX_LINK_TRIES; i++) {
		*id_out = capture_next_file_id(c);
		if (snprintf(path, size, "%.*s/link_remap.%u", dir_len, p->name, *id_out) >= (int)size)
			return err_set(err, ENAMETOOLONG, "the path of %s is too long", p->name);
		if (linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	return err_sys(err, "cannot link %s, the deleted %s, as %s", from, p->name, path);
}

static int capture_link(struct capture *c, uint32_t file_id, const struct path_facts *p,
			struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	RegFileEntry *rfe = snap_new(c->snap, RegFileEntry, reg_file_entry);
	FownEntry *fown = snap_new(c->snap, FownEntry, fown_entry);
	uint32_t link_id = find_link(c, p);
	char path[PATH_MAX];

	if (link_id)
		return add_remap(c, file_id, link_id, REMAP_TYPE__LINKED, err);
	if (!fe || !rfe || !fown)
		return err_nomem(err);
	if (make_link(c, p, &link_id, path, sizeof(path), err))
		return -1;
	fe->type = FD_TYPES__REG;
	fe->id = rfe->id = link_id;
	fe->reg = rfe;
	rfe->fown = fown;
	rfe->has_mode = true;
	rfe->mode = p->st.st_mode;
	rfe->has_size = S_ISREG(p->st.st_mode);
	rfe->size = (uint64_t)p->st.st_size;
	rfe->name = arena_strdup(&c->snap->arena, path);
	if (!rfe->name || !vec_push(&c->snap->files, fe) ||
	    add_remap(c, file_id, link_id, REMAP_TYPE__LINKED, err)) {
		unlink(path);
		return err_nomem(err);
	}
	return 0;
}

int remap_capture(struct capture *c, uint32_t file_id, const struct path_facts *p, struct err *err)
{
	uint32_t remap_id;

	if (c->preflight)
		return 0;
	if (p->state == PATH_UNLINKED)
		return capture_link(c, file_id, p, err);
	if (ghost_capture(c, p, &remap_id, err))
		return -1;
	return add_remap(c, file_id, remap_id, REMAP_TYPE__GHOST, err);
}

int file_undo_links(struct capture *c, struct err *err)
{
	const RegFileEntry *rfe;
	int rc = 0;

	if (c->saved)
		return 0;
	vec_foreach (it, &c->snap->remaps) {
		if ((*it)->remap_type != REMAP_TYPE__LINKED)
			continue;
		rfe = capture_reg(c, (*it)->remap_id);
		if (rfe && unlink(rfe->name) && errno != ENOENT)
			rc = err_sys(err, "cannot remove %s, which the dump made", rfe->name);
	}
	return rc;
}

/* ---- restore ---- */

enum { REMAP_GHOST_BIT = 1u << 31 };

static RemapType remap_type(const RemapFilePathEntry *remap)
{
	if (remap->has_remap_type)
		return remap->remap_type;
	return remap->remap_id & (uint32_t)REMAP_GHOST_BIT ? REMAP_TYPE__GHOST : REMAP_TYPE__LINKED;
}

static const struct snap_ghost *remap_ghost(const struct restore *r, const RemapFilePathEntry *remap)
{
	uint32_t id = remap->has_remap_type ? remap->remap_id :
					      remap->remap_id & ~(uint32_t)REMAP_GHOST_BIT;

	return snapshot_ghost(r->snap, id);
}

static const RegFileEntry *restored_reg(const struct restore *r, uint32_t id)
{
	const FileEntry *fe = snapshot_file(r->snap, id);

	return fe ? fe->reg : NULL;
}

int remap_check(struct restore *r, const RemapFilePathEntry *remap, struct err *err)
{
	const RegFileEntry *link;
	cleanup_close int fd = -1;

	switch (remap_type(remap)) {
	case REMAP_TYPE__GHOST:
		if (!remap_ghost(r, remap))
			return err_set(err, EINVAL, "remap-fpath.img: there is no ghost %x",
				       remap->remap_id);
		return 0;
	case REMAP_TYPE__LINKED:
		link = restored_reg(r, remap->remap_id);
		if (!link)
			return err_set(err, EINVAL, "remap-fpath.img: there is no file id %u",
				       remap->remap_id);
		if (r->preflight)
			return 0;
		fd = path_open(r, link->name, O_PATH | O_NOFOLLOW);
		if (fd < 0)
			return err_sys(err,
				       "cannot find %s, the link that the dump made for a deleted file",
				       link->name);
		return 0;
	default:
		return err_set(
			err, ENOTSUP,
			"open files of /proc/PID cannot be restored; support comes in a later release");
	}
}

/* Directories that had to be made for the old path, to be removed again: paths in the order of making. */
struct made_dirs {
	VEC(char *) paths;
};

/* As path_open_parent, but makes what is missing of the way there. -1 + errno. */
static int open_parent_made(const struct restore *r, const char *path, const char **base_out,
			    struct made_dirs *made)
{
	const char *base, *slash = strrchr(path, '/');
	int fd = path_open_parent(r, path, base_out), up, rc;
	char *dir;

	if (fd >= 0 || errno != ENOENT)
		return fd;
	dir = strndup(path, (size_t)(slash - path));
	if (!dir)
		return -1;
	up = open_parent_made(r, dir, &base, made);
	if (up < 0) {
		free(dir);
		return -1;
	}
	rc = mkdirat(up, base, 0700);
	close(up);
	if (rc || !vec_push(&made->paths, dir)) {
		free(dir);
		return -1;
	}
	return path_open_parent(r, path, base_out);
}

static void remove_made(const struct restore *r, struct made_dirs *made)
{
	const char *base;
	int fd;

	while (made->paths.n > 0) {
		char *dir = made->paths.v[--made->paths.n];

		fd = path_open_parent(r, dir, &base);
		if (fd < 0 || unlinkat(fd, base, AT_REMOVEDIR))
			log_warn("cannot remove %s, made for a deleted file: %s", dir,
				 strerror(errno));
		if (fd >= 0)
			close(fd);
		free(dir);
	}
	vec_free(&made->paths);
}

/* Puts @obj at its old name (or one beside, if that is taken), and gives an O_PATH descriptor of it there. */
static int name_for_an_instant(const struct restore *r, int obj, const char *path, struct err *err)
{
	struct made_dirs made = {0};
	char from[40], beside[64];
	const char *base;
	int dir = open_parent_made(r, path, &base, &made), rc, fd = -1;

	snprintf(from, sizeof(from), "/proc/self/fd/%d", obj);
	rc = dir < 0 ? -1 : linkat(AT_FDCWD, from, dir, base, AT_SYMLINK_FOLLOW);
	if (rc && dir >= 0 && errno == EEXIST) {
		snprintf(beside, sizeof(beside), ".ferry-deleted-%d-%d", getpid(), obj);
		log_info("%s exists: a deleted file of this name is restored as %s", path, beside);
		base = beside;
		rc = linkat(AT_FDCWD, from, dir, base, AT_SYMLINK_FOLLOW);
	}
	if (rc)
		err_sys(err, "cannot give a deleted file its name %s for a moment", path);
	if (rc == 0) {
		fd = openat(dir, base, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			err_sys(err, "cannot open the deleted file %s", path);
		unlinkat(dir, base, 0);
	}
	if (dir >= 0)
		close(dir);
	remove_made(r, &made);
	return fd;
}

/* The first remap of the images with the same file and name as this one: under its id the descriptor is kept. */
static const RemapFilePathEntry *first_alike(const struct restore *r,
					     const RemapFilePathEntry *remap, const char *name)
{
	vec_foreach (it, &r->snap->remaps) {
		const RegFileEntry *rfe = restored_reg(r, (*it)->orig_id);

		if ((*it)->remap_id == remap->remap_id && remap_type(*it) == remap_type(remap) &&
		    rfe && strcmp(rfe->name, name) == 0)
			return *it;
	}
	return remap;
}

static size_t count_names(const struct restore *r, const RemapFilePathEntry *remap)
{
	const RegFileEntry *rfe;
	size_t n = 0;

	vec_foreach (it, &r->snap->remaps) {
		rfe = restored_reg(r, (*it)->orig_id);
		n += (*it)->remap_id == remap->remap_id && remap_type(*it) == remap_type(remap) &&
		     rfe && first_alike(r, *it, rfe->name) == *it;
	}
	return n;
}

/* Names @obj once for every different name that entries of this remap have, and keeps the descriptors. */
static int keep_all_names(struct restore *r, const RemapFilePathEntry *remap, int obj, struct err *err)
{
	const RegFileEntry *rfe;
	int fd;

	vec_foreach (it, &r->snap->remaps) {
		if ((*it)->remap_id != remap->remap_id || remap_type(*it) != remap_type(remap))
			continue;
		rfe = restored_reg(r, (*it)->orig_id);
		if (!rfe || first_alike(r, *it, rfe->name) != *it)
			continue;
		fd = name_for_an_instant(r, obj, rfe->name, err);
		if (fd < 0 || broker_keep(r, SHELF_REMAP, (*it)->orig_id, fd, err) < 0)
			return -1;
	}
	return 0;
}

/* A deleted directory has no second name: it is made under its own. */
static int keep_directory(struct restore *r, const RemapFilePathEntry *remap,
			  const struct snap_ghost *ghost, const char *path, struct err *err)
{
	struct made_dirs made = {0};
	char beside[64];
	const char *base;
	int dir = open_parent_made(r, path, &base, &made), fd = -1;
	struct stat st;

	if (dir < 0) {
		err_sys(err, "cannot make the way to the deleted directory %s", path);
	} else {
		if (fstatat(dir, base, &st, AT_SYMLINK_NOFOLLOW) == 0) {
			snprintf(beside, sizeof(beside), ".ferry-deleted-%d-%x", getpid(), ghost->id);
			base = beside;
		}
		fd = ghost_create(ghost, dir, base, false, err);
		if (fd >= 0)
			unlinkat(dir, base, AT_REMOVEDIR);
		close(dir);
	}
	remove_made(r, &made);
	vec_foreach (it, &r->snap->remaps) {
		if (fd < 0)
			break;
		if ((*it)->remap_id == remap->remap_id && remap_type(*it) == REMAP_TYPE__GHOST)
			return broker_keep(r, SHELF_REMAP, (*it)->orig_id, fd, err) < 0 ? -1 : 0;
	}
	return -1;
}

static int keep_ghost(struct restore *r, const RemapFilePathEntry *remap,
		      const struct snap_ghost *ghost, const char *path, struct err *err)
{
	struct made_dirs made = {0};
	char temp[64];
	const char *base;
	int dir = open_parent_made(r, path, &base, &made), obj = -1, rc = -1;

	snprintf(temp, sizeof(temp), ".ferry-ghost-%d-%x", getpid(), ghost->id);
	if (dir < 0)
		err_sys(err, "cannot make the way to the deleted file %s", path);
	else
		obj = ghost_create(ghost, dir, temp, count_names(r, remap) == 1, err);
	if (obj >= 0) {
		rc = keep_all_names(r, remap, obj, err);
		/* A regular file may have been made without a name at all. */
		unlinkat(dir, temp, 0);
		close(obj);
	}
	if (dir >= 0)
		close(dir);
	remove_made(r, &made);
	return rc;
}

static int keep_link(struct restore *r, const RemapFilePathEntry *remap, struct err *err)
{
	const RegFileEntry *link = restored_reg(r, remap->remap_id);
	cleanup_close int obj = -1;

	if (!link)
		return err_set(err, EINVAL, "remap-fpath.img: there is no file id %u",
			       remap->remap_id);
	obj = path_open(r, link->name, O_PATH | O_NOFOLLOW);
	if (obj < 0)
		return err_sys(err, "cannot find %s, the link that the dump made for a deleted file",
			       link->name);
	return keep_all_names(r, remap, obj, err);
}

/* Makes or finds the file of a remap and keeps it with the broker. */
static int keep(struct restore *r, const RemapFilePathEntry *remap, const char *path, struct err *err)
{
	const struct snap_ghost *ghost;

	if (remap_check(r, remap, err))
		return -1;
	if (remap_type(remap) == REMAP_TYPE__LINKED)
		return keep_link(r, remap, err);
	ghost = remap_ghost(r, remap);
	if (S_ISDIR(ghost->entry->mode))
		return keep_directory(r, remap, ghost, path, err);
	return keep_ghost(r, remap, ghost, path, err);
}

/* The descriptor kept for an entry, -1 if there is none yet. */
static int kept(const struct restore *r, const RemapFilePathEntry *remap, const char *name)
{
	int fd = broker_kept(r, SHELF_REMAP, first_alike(r, remap, name)->orig_id);

	if (fd >= 0 || remap_type(remap) != REMAP_TYPE__GHOST)
		return fd;
	/* A directory is kept under the id of its first entry, whatever the names. */
	vec_foreach (it, &r->snap->remaps) {
		if ((*it)->remap_id == remap->remap_id && remap_type(*it) == REMAP_TYPE__GHOST)
			return broker_kept(r, SHELF_REMAP, (*it)->orig_id);
	}
	return -1;
}

int remap_open(struct restore *r, const RemapFilePathEntry *remap, const RegFileEntry *rfe,
	       uint32_t flags, struct err *err)
{
	int fd = kept(r, remap, rfe->name);

	if (*rfe->name != '/')
		return err_set(err, EINVAL, "files.img: '%s' is not an absolute path", rfe->name);
	if (fd < 0 && keep(r, remap, rfe->name, err))
		return -1;
	if (fd < 0)
		fd = kept(r, remap, rfe->name);
	fd = reopen(fd, flags);
	return fd >= 0 ? fd :
			 err_sys(err, "cannot open the deleted file %s with flags 0%o", rfe->name,
				 flags);
}

void remap_commit(struct restore *r, const RemapFilePathEntry *remap)
{
	const RegFileEntry *link = remap_type(remap) == REMAP_TYPE__LINKED ?
					   restored_reg(r, remap->remap_id) :
					   NULL;
	cleanup_close int dir = -1;
	const char *base;

	if (!link)
		return;
	dir = path_open_parent(r, link->name, &base);
	/* Several entries may share the link. */
	if (dir < 0 || (unlinkat(dir, base, 0) && errno != ENOENT))
		log_warn("cannot remove %s, which the dump made: %s", link->name, strerror(errno));
}

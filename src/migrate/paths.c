// SPDX-License-Identifier: Apache-2.0
/*
 * The paths that a tree depends on: executables, mapped files, open files,
 * working and root directories. Deleted files travel inside the images and
 * sockets are made again by their kind, so neither is listed.
 */
#include "migrate/needs.h"

#include "base/io.h"
#include "base/vec.h"
#include "base/xattr.h"
#include "kernel/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* Debian 12's linux/magic.h lacks these. */
#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202
#endif

struct walk {
	pid_t root;
	struct arena *arena;
	struct map seen; /* by hash of the path: struct seen_path */
	VEC(Wire__FileNote *) notes;
};

struct seen_path {
	const char *path;
	Wire__FileNote *note; /* NULL: not one that is listed */
	struct seen_path *next;
};

/* The entry of a path, made if it is new. NULL: out of memory. */
static struct seen_path *see(struct walk *w, const char *path, bool *fresh)
{
	uint64_t hash = map_hash(path);
	struct seen_path *first = map_get(&w->seen, hash), *entry;

	*fresh = false;
	for (entry = first; entry; entry = entry->next) {
		if (!strcmp(entry->path, path))
			return entry;
	}
	*fresh = true;
	entry = arena_new(w->arena, struct seen_path);
	if (!entry || !(entry->path = arena_strdup(w->arena, path)))
		return NULL;
	entry->next = first;
	return map_set(&w->seen, hash, entry) ? entry : NULL;
}

/* File systems whose files are made by the kernel: looked for, never copied. */
static bool is_pseudo(long magic)
{
	static const long pseudo[] = {PROC_SUPER_MAGIC,    SYSFS_MAGIC,      CGROUP_SUPER_MAGIC,
				      CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,    TRACEFS_MAGIC,
				      DEVPTS_SUPER_MAGIC,  SECURITYFS_MAGIC, BPF_FS_MAGIC,
				      EFIVARFS_MAGIC,      NSFS_MAGIC,       HUGETLBFS_MAGIC,
				      MQUEUE_MAGIC};

	for (size_t i = 0; i < ARRAY_SIZE(pseudo); i++) {
		if (magic == pseudo[i])
			return true;
	}
	return false;
}

/* Into the note of the file that @fd leads to: what travels with its copy. */
static int add_attrs(struct walk *w, int fd, Wire__FileNote *n, struct err *err)
{
	xattr_list list = {0};
	char path[40];
	int rc;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rc = xattr_read(path, &list, err);
	n->attrs = rc ? NULL : arena_array(w->arena, Wire__FileAttr *, list.n + 1);
	if (!rc && !n->attrs)
		rc = err_nomem(err);
	for (size_t i = 0; i < list.n && !rc; i++) {
		Wire__FileAttr *a = arena_new(w->arena, Wire__FileAttr);

		if (a) {
			wire__file_attr__init(a);
			a->name = arena_strdup(w->arena, list.v[i].name);
			a->value.len = list.v[i].bytes;
			a->value.data = arena_dup(w->arena, list.v[i].value, list.v[i].bytes);
		}
		if (!a || !a->name || !a->value.data)
			rc = err_nomem(err);
		else
			n->attrs[n->n_attrs++] = a;
	}
	xattr_free(&list);
	return rc ? err_wrap(err, "%s", n->path) : 0;
}

static int add_note(struct walk *w, struct seen_path *seen, int fd, const struct stat *st,
		    long magic, struct err *err)
{
	Wire__FileNote *n = arena_new(w->arena, Wire__FileNote);
	char target[PATH_MAX];

	if (!n)
		return err_nomem(err);
	wire__file_note__init(n);
	n->path = (char *)seen->path;
	n->mode = st->st_mode;
	n->uid = st->st_uid;
	n->gid = st->st_gid;
	n->size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
	n->mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
	n->dev = st->st_dev;
	n->ino = st->st_ino;
	n->has_fs_magic = true;
	n->fs_magic = (uint64_t)magic;
	n->has_must_exist = true;
	n->must_exist = is_pseudo(magic) || !(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode) ||
					      S_ISFIFO(st->st_mode) || S_ISLNK(st->st_mode));
	n->has_written = true;
	if (S_ISLNK(st->st_mode) && io_readlinkf(target, sizeof(target), "%s", seen->path) == 0 &&
	    !(n->link_target = arena_strdup(w->arena, target)))
		return err_nomem(err);
	if (!n->must_exist && !S_ISLNK(st->st_mode) && add_attrs(w, fd, n, err))
		return -1;
	seen->note = n;
	return vec_push(&w->notes, n) ? 0 : err_nomem(err);
}

static bool is_deleted(const char *path)
{
	static const char mark[] = " (deleted)";
	size_t len = strlen(path);

	return len > sizeof(mark) - 1 && !strcmp(path + len - (sizeof(mark) - 1), mark);
}

/* Terminals are found by their kind, not by their path. */
static bool is_terminal(const struct stat *st)
{
	unsigned int major = (unsigned int)(st->st_rdev >> 8 & 0xfff);

	return S_ISCHR(st->st_mode) && (major == 4 || major == 5 || (major >= 136 && major <= 143));
}

/*
 * A path that is not known yet. It is what a link of /proc shows, which the
 * kernel makes relative to our root directory, not to the task's.
 */
static int add_path_itself(struct walk *w, const char *path, bool written, struct err *err)
{
	cleanup_close int fd = -1;
	struct statfs fs;
	struct stat st;
	bool fresh;
	struct seen_path *seen = see(w, path, &fresh);

	if (!seen)
		return err_nomem(err);
	if (fresh) {
		/* the links of /proc are resolved: one that ends at a symbolic link means the link itself */
		fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		/* gone meanwhile, or only its inode is left under another name: capture knows what to do */
		if (fd < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
			return 0;
		if (S_ISSOCK(st.st_mode) || is_terminal(&st))
			return 0;
		if (add_note(w, seen, fd, &st, (long)fs.f_type, err) < 0)
			return -1;
	}
	if (written && seen->note)
		seen->note->written = true;
	return 0;
}

/* A path and, before it, the directories above it: where they are missing they must be made first. */
static int add_path(struct walk *w, const char *path, bool written, struct err *err)
{
	char parent[PATH_MAX];

	if (path[0] != '/' || is_deleted(path))
		return 0;
	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
		if (add_path_itself(w, parent, false, err) < 0)
			return -1;
	}
	return add_path_itself(w, path, written, err);
}

static int add_link(struct walk *w, pid_t pid, const char *name, bool written, struct err *err)
{
	char path[PATH_MAX];

	if (io_readlinkf(path, sizeof(path), "/proc/%d/%s", pid, name) < 0)
		return 0; /* a zombie, or it ended */
	return add_path(w, path, written, err);
}

static bool is_writable(pid_t pid, int fd)
{
	cleanup_free char *info = NULL;
	const char *flags;
	unsigned int value;

	if (io_read_filef(&info, NULL, "/proc/%d/fdinfo/%d", pid, fd) < 0)
		return false;
	flags = strstr(info, "flags:");
	return flags && sscanf(flags + 6, "%o", &value) == 1 && (value & O_ACCMODE) != O_RDONLY;
}

static int add_fds(struct walk *w, pid_t pid, struct err *err)
{
	proc_pids fds = {0};
	char name[24];
	int rc = proc_fds(pid, &fds, err);

	if (rc < 0 && (err->no == ENOENT || err->no == ESRCH))
		rc = 0;
	for (size_t i = 0; i < fds.n && !rc; i++) {
		snprintf(name, sizeof(name), "fd/%d", fds.v[i]);
		rc = add_link(w, pid, name, is_writable(pid, fds.v[i]), err);
	}
	vec_free(&fds);
	return rc;
}

static bool same_file(const struct proc_vma *a, const struct proc_vma *b)
{
	return a->ino == b->ino && a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

/* Privately mapped and written to, now or before the linker made it read-only, just below what still is. */
static bool has_own_pages(const proc_vmas *vmas, size_t i)
{
	const struct proc_vma *v = &vmas->v[i];

	if (v->shared || v->exec)
		return false;
	return v->write || (i + 1 < vmas->n && vmas->v[i + 1].write && v[1].start == v->end &&
			    same_file(v, v + 1));
}

static int add_part(struct walk *w, const struct proc_vma *v, struct err *err)
{
	bool fresh;
	struct seen_path *seen = see(w, v->name, &fresh);
	uint64_t end = v->pgoff + (v->end - v->start);
	Wire__FileNote *n = seen ? seen->note : NULL;

	if (!seen)
		return err_nomem(err);
	if (!n)
		return 0;
	n->part_from = n->has_part_to ? MIN(n->part_from, v->pgoff) : v->pgoff;
	n->part_to = n->has_part_to ? MAX(n->part_to, end) : end;
	n->has_part_from = n->has_part_to = true;
	return 0;
}

static int add_mapped(struct walk *w, pid_t pid, struct err *err)
{
	proc_vmas vmas = {0};
	int rc = proc_vmas_read(pid, false, &vmas, err);

	if (rc < 0 && (err->no == ENOENT || err->no == ESRCH))
		rc = 0;
	for (size_t i = 0; i < vmas.n && !rc; i++) {
		if (vmas.v[i].ino)
			rc = add_path(w, vmas.v[i].name, vmas.v[i].shared && vmas.v[i].write, err);
		if (vmas.v[i].ino && !rc && has_own_pages(&vmas, i))
			rc = add_part(w, &vmas.v[i], err);
	}
	proc_vmas_finish(&vmas);
	return rc;
}

static int walk_tree(struct walk *w, struct err *err)
{
	proc_pids tree = {0};
	int rc = proc_tree(w->root, &tree, err);

	for (size_t i = 0; i < tree.n && !rc; i++) {
		if (add_link(w, tree.v[i], "root", false, err) < 0 ||
		    add_link(w, tree.v[i], "cwd", false, err) < 0 ||
		    add_link(w, tree.v[i], "exe", false, err) < 0 ||
		    add_mapped(w, tree.v[i], err) < 0 || add_fds(w, tree.v[i], err) < 0)
			rc = -1;
	}
	vec_free(&tree);
	return rc;
}

int needs_paths(pid_t root, const char *const *extra, struct arena *arena, Wire__FileList *out,
		struct err *err)
{
	struct walk w = {.root = root, .arena = arena};
	int rc = walk_tree(&w, err);

	for (; extra && *extra && !rc; extra++)
		rc = add_path(&w, *extra, false, err);
	if (!rc) {
		out->n_files = w.notes.n;
		out->files = arena_dup(arena, w.notes.v, w.notes.n * sizeof(*w.notes.v));
		if (!out->files && w.notes.n)
			rc = err_nomem(err);
	}
	vec_free(&w.notes);
	map_free(&w.seen);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What programs made or changed, when they have ended: it lies in the cache, and
 * must not go with it.
 *
 * A file goes to its own path where that is safe: the name is free, or has still the file that
 * it was made from (carried.h: the tree has come home), no link leads elsewhere, and the directory that gets it is the one that the program saw, by owner
 * and mode. (Otherwise a user who may write to a directory at the source could write to one of
 * the same name here, with our rights.) All else is kept in a folder. A list tells.
 */
#define LOG_MODULE "lazyfs"
#include "base/log.h"
#include "lazyfs/fill.h"
#include "lazyfs/jail.h"
#include "lazyfs/place.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

struct keeping {
	struct lazyfs *fs;
	int root, folder; /* the host's "/"; what cannot go to its path; -1: there is none yet */
	const char *kept; /* its name */
	FILE *list;
	char path[LF_PATH_MAX + 1]; /* where we are; "" at the top */
	unsigned int n_placed, n_kept, n_failed;
	struct err *err;
};

static void note(struct keeping *k, const char *what, const char *more)
{
	if (k->list)
		fprintf(k->list, "%-8s %s%s\n", what, k->path, more);
	log_info("%s %s%s", what, k->path, more);
}

static void failed(struct keeping *k, const char *what)
{
	int no = errno;
	char more[200];

	snprintf(more, sizeof(more), " (%.100s: %.60s)", what, strerror(no));
	note(k, "lost", more);
	if (!k->n_failed++)
		err_sysno(k->err, no, "%.300s: %.100s", k->path, what);
}

/* ---- directories ---- */

/* The same to programs: whoever may write to the one may write to the other. */
static bool same_rights(int fd, const struct node *dir)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_uid == dir->attr.uid && st.st_gid == dir->attr.gid &&
	       (st.st_mode & 07777) == (dir->attr.mode & 07777);
}

/* The directory @name in the one of @at, made if it is missing and we may. */
static int step_into(struct keeping *k, int at, const char *name, const struct node *parent,
		     struct node *dir, bool checked)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(at, name, flags);
	struct err err;

	if (fd >= 0 || errno != ENOENT)
		return fd;
	if (checked && !same_rights(at, parent)) {
		errno = EPERM;
		return -1;
	}
	if (place_node(k->fs, dir, at, name, &err) < 0) {
		errno = err.no;
		return -1;
	}
	return openat(at, name, flags);
}

/*
 * The directory of k->path below @top, and the name in it. @checked: only one that has the same rights
 * there. -1 + errno.
 */
static int open_parent(struct keeping *k, int top, bool checked, const char **name_out)
{
	struct node *dir = &k->fs->root;
	const char *p = k->path;
	int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (fd >= 0) {
		size_t n = strcspn(++p, "/");
		char name[NAME_MAX + 1];
		const struct name *e;
		int next;

		if (!p[n])
			break;
		snprintf(name, sizeof(name), "%.*s", (int)n, p);
		p += n;
		e = dirnames_find(&dir->names, name);
		next = e && e->node ? step_into(k, fd, name, dir, e->node, checked) : -1;
		close(fd);
		fd = next;
		dir = e ? e->node : NULL;
	}
	if (fd >= 0 && checked && !same_rights(fd, dir)) {
		close(fd);
		errno = EPERM;
		fd = -1;
	}
	*name_out = p;
	return fd;
}

/* Every directory of @path; the last one is for us alone. */
static int make_folder(const char *path)
{
	char part[PATH_MAX];

	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -1;
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -1;
	return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- one file ---- */

/*
 * Is this still the file from which the tree's own has come? Nobody can set the time of a status change: a
 * file that has the same one, to the nanosecond, is that file.
 */
static bool is_base(int dir, const char *name, const struct lf_ident *base)
{
	struct lf_attr now;
	struct stat st;

	if (!base || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode) ||
	    st.st_nlink != 1)
		return false;
	jail_attr(&st, &now);
	return now.id.size == base->size && now.id.mtime_ns == base->mtime_ns &&
	       now.id.ctime_ns == base->ctime_ns;
}

/* Under a name of our own first: the other one appears with a whole file behind it. */
static int put(struct keeping *k, struct node *n, int dir, const char *name,
	       const struct lf_ident *base)
{
	char temp[48];
	struct err err;

	snprintf(temp, sizeof(temp), ".ferry-%d-%u", getpid(), k->n_placed + k->n_kept);
	if (place_node(k->fs, n, dir, temp, &err) < 0) {
		(void)unlinkat(dir, temp, 0);
		errno = err.no;
		return -1;
	}
	if (renameat2(dir, temp, dir, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno == EEXIST && is_base(dir, name, base) && renameat(dir, temp, dir, name) == 0)
		return 0;
	int no = errno;
	(void)unlinkat(dir, temp, S_ISDIR(n->attr.mode) ? AT_REMOVEDIR : 0);
	errno = no;
	return -1;
}

static bool is_volatile(const char *path)
{
	return !strncmp(path, "/run/", 5);
}

static int put_at_path(struct keeping *k, struct node *n)
{
	const struct lf_ident *base = carried_base(&k->fs->bases, k->path);
	const char *name;
	cleanup_close int dir = -1;
	struct stat st;

	if (!base && n->source && !n->carried && !strcmp(n->source, k->path))
		base = &n->origin;
	if (is_volatile(k->path))
		return -1;
	dir = open_parent(k, k->root, true, &name);
	if (dir < 0)
		return -1;
	if (S_ISDIR(n->attr.mode) && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return S_ISDIR(st.st_mode) ? 0 : -1;
	return put(k, n, dir, name, base);
}

/* The ranges of a file that did not come: reads of the copy give zeros there. */
static void list_missing(struct node *n, FILE *to)
{
	struct content *c = n->content;
	uint64_t blocks, at = 0;

	pthread_mutex_lock(&c->lock);
	blocks = (c->source_size + BLOCK_BYTES - 1) / BLOCK_BYTES;
	while ((at = blocks_next(&c->here, at, blocks, false)) < blocks) {
		uint64_t end = blocks_next(&c->here, at, blocks, true);

		fprintf(to, "         missing: bytes %" PRIu64 " to %" PRIu64 "\n",
			(uint64_t)(at * BLOCK_BYTES),
			(uint64_t)MIN(end * BLOCK_BYTES, c->source_size));
		at = end;
	}
	pthread_mutex_unlock(&c->lock);
}

static int put_in_folder(struct keeping *k, struct node *n)
{
	cleanup_close int dir = -1;
	const char *name;

	if (k->folder < 0)
		k->folder = make_folder(k->kept);
	if (k->folder < 0)
		return -1;
	dir = open_parent(k, k->folder, false, &name);
	if (dir < 0)
		return -1;
	if (put(k, n, dir, name, NULL) < 0 && !(errno == EEXIST && S_ISDIR(n->attr.mode)))
		return -1;
	return 0;
}

static int open_list(struct keeping *k)
{
	char name[PATH_MAX];
	const char *slash = strrchr(k->kept, '/');
	int fd = -1;

	snprintf(name, sizeof(name), "%.*s", (int)(slash - k->kept), k->kept);
	fd = make_folder(name);
	if (fd < 0)
		return -1;
	close(fd);
	snprintf(name, sizeof(name), "%s.txt", k->kept);
	fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	k->list = fd < 0 ? NULL : fdopen(fd, "w");
	if (!k->list && fd >= 0)
		close(fd);
	return k->list ? 0 : -1;
}

static void keep_one(struct keeping *k, struct node *n)
{
	int error;

	if (S_ISSOCK(n->attr.mode))
		return;
	if (!k->list && open_list(k) < 0)
		log_error("%s.txt: %s", k->kept, strerror(errno));
	error = fill_one(k->fs, n);
	if (!error && put_at_path(k, n) == 0) {
		k->n_placed++;
		if (!S_ISDIR(n->attr.mode))
			note(k, "placed", "");
		return;
	}
	if (error && !n->content) {
		errno = error;
		failed(k, "nothing of it could be fetched");
		return;
	}
	if (put_in_folder(k, n) < 0) {
		failed(k, "cannot be kept");
		return;
	}
	k->n_kept++;
	if (!error) {
		if (!S_ISDIR(n->attr.mode))
			note(k, "kept", "");
		return;
	}
	note(k, "part", "");
	if (k->list)
		list_missing(n, k->list);
	if (!k->n_failed++)
		err_sysno(k->err, error, "%.300s: not all of it could be fetched", k->path);
}

/* ---- all of them ---- */

/* @all: the directory has another name than at the source, or is not there at all. */
static void walk(struct keeping *k, struct node *dir, bool all)
{
	struct patience p = node_patience(k->fs, NULL);
	size_t end = strlen(k->path);
	int error = all ? node_load(k->fs, dir, &p, LISTING_ALONE) : 0;

	if (error) {
		errno = error;
		failed(k, "cannot be listed");
	}
	for (const struct name *e = dir->names.first; e; e = e->next) {
		struct node *n = e->node;
		bool changed;

		if (!n || end + strlen(e->text) + 2 > sizeof(k->path))
			continue;
		sprintf(k->path + end, "/%s", e->text);
		if (want_local(k->path)) {
			k->path[end] = '\0'; /* where the host's own is shown */
			continue;
		}
		changed = all || !carried_is_name_at_home(k->fs, e) ||
			  (S_ISDIR(n->attr.mode) && n->carried);
		if (changed || (!S_ISDIR(n->attr.mode) && carried_changed(n)))
			keep_one(k, n);
		if (S_ISDIR(n->attr.mode))
			walk(k, n, changed);
		k->path[end] = '\0';
	}
}

/* What the tree removed goes where it came from, if it is untouched there. */
static void remove_gone(struct keeping *k, const char *path, const struct lf_ident *base)
{
	const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
				     .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS |
						RESOLVE_NO_SYMLINKS};
	const char *name = strrchr(path, '/') + 1;
	cleanup_close int dir = -1;

	snprintf(k->path, sizeof(k->path), "%.*s", (int)(name - path), path);
	dir = (int)syscall(SYS_openat2, k->root, k->path[1] ? k->path + 1 : ".", &how, sizeof(how));
	snprintf(k->path, sizeof(k->path), "%s", path);
	if (dir < 0 || is_volatile(path) || !is_base(dir, name, base))
		return;
	if (!k->list && open_list(k) < 0)
		log_error("%s.txt: %s", k->kept, strerror(errno));
	if (unlinkat(dir, name, 0) == 0)
		note(k, "removed", "");
	else
		failed(k, "cannot be removed");
}

static void remove_all_gone(struct keeping *k)
{
	vec_foreach (b, &k->fs->bases.all) {
		if (!node_known(k->fs, (*b)->path) && !want_local((*b)->path))
			remove_gone(k, (*b)->path, &(*b)->id);
	}
	k->path[0] = '\0';
}

int lazyfs_keep_changes(struct lazyfs *fs, const char *kept, struct err *err)
{
	struct keeping k = {.fs = fs, .folder = -1, .kept = kept, .err = err};

	atomic_store(&fs->stop, true);
	fill_join(fs);
	atomic_store(&fs->stop, false);
	k.root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (k.root < 0)
		return err_sys(err, "cannot open /");
	walk(&k, &fs->root, false);
	remove_all_gone(&k);
	close(k.root);
	if (k.folder >= 0)
		close(k.folder);
	if (k.list && fclose(k.list) != 0 && !k.n_failed++)
		err_sys(err, "%.200s.txt: cannot write it", kept);
	log_info("%u files at their paths, %u in %s", k.n_placed, k.n_kept, kept);
	return k.n_failed ? -1 : 0;
}

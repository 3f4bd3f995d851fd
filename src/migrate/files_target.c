// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "files"
#include "migrate/files.h"

#include "base/io.h"
#include "base/log.h"
#include "base/vec.h"
#include "base/xattr.h"
#include "migrate/left.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* A copy on its way to a name. */
struct staged {
	char *path;
	char *temp;   /* its temporary name; NULL: it has none (O_TMPFILE) */
	char *backup; /* where the file lies that it replaced; NULL: there was none */
	int fd;       /* -1: it is complete and in place */
	dev_t dev;
	ino_t ino; /* of the copy in place */
	bool placed;
	bool overwrite;
	bool stale; /* what it replaces is noted in left.h */
	mode_t mode;
	uid_t uid;
	gid_t gid;
	int64_t mtime_ns;
	xattr_list attrs;
};

/* A directory, fifo or symbolic link that we made. */
struct made {
	char *path;
	char *target; /* of the link */
	mode_t mode;
	uid_t uid;
	gid_t gid;
	xattr_list attrs;
	bool exists; /* it has been made */
};

/* A file here that was the same as the tree's in an earlier round, and what both were like. */
struct twin {
	char *path;
	struct {
		uint64_t ino, size;
		int64_t mtime_ns;
	} there;
	struct {
		dev_t dev;
		ino_t ino;
		off_t size;
		struct timespec mtime, ctime;
	} here;
};

struct file_target {
	bool same_kernel;
	VEC(struct twin) twins;
	VEC(struct staged) staged;
	VEC(struct made) made;
	Wire__FileList *list; /* of the round at hand */
};

struct file_target *file_target_create(bool same_kernel, struct err *err)
{
	struct file_target *ft = calloc(1, sizeof(*ft));

	if (!ft) {
		err_nomem(err);
		return NULL;
	}
	ft->same_kernel = same_kernel;
	return ft;
}

static void free_made(struct made *m)
{
	free(m->path);
	free(m->target);
	xattr_free(&m->attrs);
}

static void free_twins(struct file_target *ft)
{
	vec_foreach (t, &ft->twins)
		free(t->path);
	vec_free(&ft->twins);
}

void file_target_free(struct file_target *ft)
{
	if (!ft)
		return;
	vec_foreach (s, &ft->staged) {
		free(s->path);
		free(s->temp);
		free(s->backup);
		xattr_free(&s->attrs);
		if (s->fd >= 0)
			close(s->fd);
	}
	vec_foreach (m, &ft->made)
		free_made(m);
	free_twins(ft);
	vec_free(&ft->staged);
	vec_free(&ft->made);
	if (ft->list)
		wire_free(ft->list);
	free(ft);
}

static struct staged *find_staged(struct file_target *ft, const char *path)
{
	vec_foreach (s, &ft->staged) {
		if (!strcmp(s->path, path))
			return s;
	}
	return NULL;
}

/* ---- comparing ---- */

/* File systems that several hosts see at once; their inode numbers are the same everywhere. */
static bool is_network(long magic)
{
	static const unsigned long network[] = {NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC,
						CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC,
						CEPH_SUPER_MAGIC, OCFS2_SUPER_MAGIC,
						AFS_FS_MAGIC,     V9FS_MAGIC};

	for (size_t i = 0; i < ARRAY_SIZE(network); i++) {
		if ((unsigned long)magic == network[i])
			return true;
	}
	return false;
}

static bool same_file(const struct file_target *ft, const Wire__FileNote *n, const struct stat *st)
{
	struct statfs fs;

	if (n->ino != st->st_ino)
		return false;
	if (ft->same_kernel && n->dev == st->st_dev)
		return true;
	return n->has_fs_magic && is_network((long)n->fs_magic) && statfs(n->path, &fs) == 0 &&
	       (uint64_t)fs.f_type == n->fs_magic;
}

/* Whole paths only, so that no name leads out of where it seems to lie. */
static int check_path(const char *path, struct err *err)
{
	size_t len = strlen(path);

	if (path[0] != '/' || len >= PATH_MAX || strstr(path, "/../") ||
	    (len >= 3 && !strcmp(path + len - 3, "/..")))
		return err_set(err, EPROTO, "%.200s: not a path that can be copied", path);
	return 0;
}

/* The attributes of a note, in place of those in @out. */
static int take_attrs(const Wire__FileNote *n, xattr_list *out, struct err *err)
{
	xattr_free(out);
	for (size_t i = 0; i < n->n_attrs; i++) {
		const Wire__FileAttr *a = n->attrs[i];

		if (!xattr_is_carried(a->name))
			return err_set(err, EPROTO, "%.200s: attribute %.200s is not for copies",
				       n->path, a->name);
		if (!xattr_push(out, a->name, a->value.data, a->value.len))
			return err_nomem(err);
	}
	return 0;
}

static int note_made(struct file_target *ft, const Wire__FileNote *n, struct err *err)
{
	struct made m = {.mode = n->mode, .uid = n->uid, .gid = n->gid};

	vec_foreach (known, &ft->made) {
		if (!strcmp(known->path, n->path))
			return 0;
	}
	m.path = strdup(n->path);
	m.target = n->link_target ? strdup(n->link_target) : NULL;
	if (m.path && (m.target || !n->link_target) && !take_attrs(n, &m.attrs, err) &&
	    vec_push(&ft->made, m))
		return 0;
	free_made(&m);
	return err->no == EPROTO ? -1 : err_nomem(err);
}

/* A symbolic link must lead to the same place. */
static int compare_link(const Wire__FileNote *n, Wire__FileState *out)
{
	char target[PATH_MAX];

	if (io_readlinkf(target, sizeof(target), "%s", n->path) < 0 || !n->link_target ||
	    strcmp(target, n->link_target) != 0)
		out->state = WIRE_FILE_WRONG_TYPE;
	else
		out->state = WIRE_FILE_SAME;
	return 0;
}

/* The digest of a file here goes into @out, which owns it. */
static int digest_here(const char *path, Wire__FileState *out, struct err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	out->sha256.data = malloc(SHA256_BYTES);
	if (!out->sha256.data)
		return err_nomem(err);
	if (fd < 0 || file_sha256(fd, out->sha256.data) < 0)
		return err_sys(err, "%s: cannot read it to compare it", path);
	out->has_sha256 = true;
	out->sha256.len = SHA256_BYTES;
	return 0;
}

/* To be looked at when the tree is stopped. If it is not the same after all, the round fails, or a copy takes its place. */
static int note_twin(struct file_target *ft, const Wire__FileNote *n, const struct stat *st,
		     struct err *err)
{
	struct twin t = {.there = {n->ino, n->size, n->mtime_ns},
			 .here = {st->st_dev, st->st_ino, st->st_size, st->st_mtim, st->st_ctim}};

	t.path = strdup(n->path);
	if (t.path && vec_push(&ft->twins, t))
		return 0;
	free(t.path);
	return err_nomem(err);
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* NULL: it never was the same, or somebody has touched the one here since. */
static const struct twin *find_twin(const struct file_target *ft, const char *path,
				    const struct stat *st)
{
	vec_foreach (t, &ft->twins) {
		if (t->here.ino == st->st_ino && t->here.dev == st->st_dev &&
		    t->here.size == st->st_size && same_time(&t->here.mtime, &st->st_mtim) &&
		    same_time(&t->here.ctime, &st->st_ctim) && !strcmp(t->path, path))
			return t;
	}
	return NULL;
}

/* And the tree has not written to its own since. */
static bool still_same(const struct twin *t, const Wire__FileNote *n)
{
	return t->there.ino == n->ino && t->there.size == n->size && t->there.mtime_ns == n->mtime_ns;
}

static int compare_regular(struct file_target *ft, const Wire__FileNote *n, const struct stat *st,
			   Wire__FileState *out, struct err *err)
{
	int64_t mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
	const struct twin *twin = find_twin(ft, n->path, st);

	if (same_file(ft, n, st)) {
		out->state = WIRE_FILE_SHARED;
	} else if (n->size == (uint64_t)st->st_size && (n->size == 0 || n->mtime_ns == mtime_ns)) {
		out->state = WIRE_FILE_SAME;
		return twin || !n->written ? 0 : note_twin(ft, n, st, err);
	} else if (twin && !still_same(twin, n)) {
		out->state = WIRE_FILE_STALE;
	} else if (twin && !n->written) {
		out->state = WIRE_FILE_SAME;
	} else if (left_unchanged(n->path, st)) {
		out->state = WIRE_FILE_STALE;
	} else if (n->size != (uint64_t)st->st_size) {
		out->state = WIRE_FILE_DIFFERENT;
	} else {
		out->state = WIRE_FILE_UNSURE;
		if (digest_here(n->path, out, err) < 0)
			return -1;
		return twin ? 0 : note_twin(ft, n, st, err);
	}
	return 0;
}

/* What the copy will look like: as the note of the last round says. */
static int describe_staged(struct staged *s, const Wire__FileNote *n, struct err *err)
{
	s->mode = n->mode & 07777;
	s->uid = n->uid;
	s->gid = n->gid;
	s->mtime_ns = n->mtime_ns;
	return take_attrs(n, &s->attrs, err);
}

static int compare(struct file_target *ft, const Wire__FileNote *n, Wire__FileState *out,
		   struct err *err)
{
	struct staged *staged = find_staged(ft, n->path);
	struct stat st;

	if (check_path(n->path, err) < 0)
		return -1;
	if (staged) {
		out->state = WIRE_FILE_STAGED;
		return describe_staged(staged, n, err);
	}
	if ((S_ISLNK(n->mode) ? lstat(n->path, &st) : stat(n->path, &st)) < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			return err_sys(err, "%s: cannot look at it", n->path);
		out->state = WIRE_FILE_MISSING;
		if (n->must_exist || S_ISREG(n->mode))
			return 0;
		out->state = WIRE_FILE_MADE;
		return note_made(ft, n, err);
	}
	if (S_ISLNK(n->mode))
		return compare_link(n, out);
	if ((st.st_mode & S_IFMT) != (n->mode & S_IFMT)) {
		out->state = WIRE_FILE_WRONG_TYPE;
		return 0;
	}
	if (S_ISREG(n->mode) && !n->must_exist)
		return compare_regular(ft, n, &st, out, err);
	out->state = WIRE_FILE_SAME;
	return 0;
}

static int answer_list(struct file_target *ft, struct channel *ch, struct err *err)
{
	size_t n = ft->list->n_files;
	cleanup_free Wire__FileState *states = calloc(n + 1, sizeof(*states));
	cleanup_free Wire__FileState **pointers = calloc(n + 1, sizeof(*pointers));
	Wire__FileStates msg = WIRE__FILE_STATES__INIT;
	int rc = 0;

	if (!states || !pointers)
		return err_nomem(err);
	for (size_t i = 0; i < n && !rc; i++) {
		wire__file_state__init(&states[i]);
		pointers[i] = &states[i];
		rc = compare(ft, ft->list->files[i], &states[i], err);
	}
	msg.n_states = n;
	msg.states = pointers;
	if (!rc)
		rc = channel_send(ch, MSG_FILE_STATES, &msg.base, err);
	for (size_t i = 0; i < n; i++)
		free(states[i].sha256.data);
	return rc;
}

/* ---- receiving ---- */

static int make_one(const struct made *m)
{
	switch (m->mode & S_IFMT) {
	case S_IFDIR:
		return mkdir(m->path, 0700);
	case S_IFIFO:
		return mkfifo(m->path, 0600);
	case S_IFLNK:
		if (m->target)
			return symlink(m->target, m->path);
	}
	errno = EINVAL;
	return -1;
}

static int set_made(const struct made *m, struct err *err)
{
	cleanup_close int fd = -1;

	if (lchown(m->path, m->uid, m->gid) < 0)
		return err_sys(err, "%s: cannot set its owner", m->path);
	if (S_ISLNK(m->mode))
		return 0;
	fd = open(m->path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, m->mode & 07777) < 0)
		return err_sys(err, "%s: cannot set its mode", m->path);
	return xattr_write(fd, &m->attrs, err) < 0 ? err_wrap(err, "%s", m->path) : 0;
}

/* What is not a regular file and missing; in the order of the list: outer directories first. */
static int make_missing(struct file_target *ft, struct err *err)
{
	vec_foreach (m, &ft->made) {
		int rc;

		if (m->exists)
			continue;
		rc = make_one(m);
		if (rc < 0 && errno == EEXIST)
			continue; /* somebody else's: not ours to undo */
		if (rc < 0)
			return err_sys(err, "%s: cannot make it", m->path);
		m->exists = true;
		if (set_made(m, err) < 0)
			return -1;
	}
	return 0;
}

static void directory_of(const char *path, char *out, size_t size)
{
	const char *slash = strrchr(path, '/');

	snprintf(out, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* A file without a name in the directory of the path, or where that cannot be, one with a temporary name. */
static int open_temp(struct staged *s, struct err *err)
{
	char dir[PATH_MAX];

	directory_of(s->path, dir, sizeof(dir));
	s->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (s->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return err_sys(err, "%s: cannot make a file in %s", s->path, dir);
	if (asprintf(&s->temp, "%s/.ferry-XXXXXX", strcmp(dir, "/") ? dir : "") < 0) {
		s->temp = NULL;
		return err_nomem(err);
	}
	s->fd = mkostemp(s->temp, O_CLOEXEC);
	if (s->fd >= 0)
		return 0;
	free(steal_ptr(&s->temp));
	return err_sys(err, "%s: cannot make a file in %s", s->path, dir);
}

/* The staged file that FILE_BEGIN speaks of; made if it is new. */
static struct staged *begin_file(struct file_target *ft, uint32_t index, struct err *err)
{
	const Wire__FileNote *n;
	struct staged s = {.fd = -1};
	struct staged *known;
	struct stat st;

	if (index >= ft->list->n_files || !S_ISREG(ft->list->files[index]->mode)) {
		err_set(err, EPROTO, "file %u of the list cannot be received", index);
		return NULL;
	}
	n = ft->list->files[index];
	known = find_staged(ft, n->path);
	if (known)
		return known;
	s.path = strdup(n->path);
	if (!s.path || !vec_push(&ft->staged, s)) {
		free(s.path);
		err_nomem(err);
		return NULL;
	}
	known = &ft->staged.v[ft->staged.n - 1];
	if (describe_staged(known, n, err) < 0)
		return NULL;
	/* if something is there, it is stale, or the user said --overwrite-files */
	known->overwrite = stat(n->path, &st) == 0;
	known->stale = known->overwrite && left_unchanged(n->path, &st);
	return open_temp(known, err) < 0 ? NULL : known;
}

static int take_data(const struct staged *s, const struct frame *f, struct err *err)
{
	uint64_t off;

	if (f->bytes < sizeof(off))
		return err_set(err, EPROTO, "%s: data without an offset", s->path);
	memcpy(&off, f->body, sizeof(off));
	off = le64toh(off);
	if (off > INT64_MAX - f->bytes)
		return err_set(err, EPROTO, "%s: offset out of range", s->path);
	if (io_pwrite_full(s->fd, f->body + sizeof(off), f->bytes - sizeof(off), (off_t)off) < 0)
		return err_sys(err, "%s: cannot write the copy", s->path);
	return 0;
}

static int set_attrs(const struct staged *s, struct err *err)
{
	return xattr_write(s->fd, &s->attrs, err) < 0 ? err_wrap(err, "%s", s->path) : 0;
}

/* From FILE_BEGIN to FILE_END. */
static int receive_file(struct file_target *ft, struct channel *ch, const struct frame *first,
			struct err *err)
{
	Wire__FileBegin *b = (Wire__FileBegin *)msg_unpack(MSG_FILE_BEGIN, first->body,
							   first->bytes, err);
	struct staged *s;
	Wire__FileEnd *end;
	struct frame f;
	int rc = 0;

	if (!b)
		return -1;
	s = make_missing(ft, err) < 0 ? NULL : begin_file(ft, b->index, err);
	wire_free(b);
	if (!s)
		return -1;
	for (;;) {
		if (channel_recv(ch, &f, err) < 0)
			return -1;
		if (f.type != MSG_FILE_DATA)
			break;
		if (take_data(s, &f, err) < 0)
			return -1;
	}
	if (f.type != MSG_FILE_END)
		return err_set(err, EPROTO, "%s: the copy has no end", s->path);
	end = (Wire__FileEnd *)msg_unpack(MSG_FILE_END, f.body, f.bytes, err);
	if (!end)
		return -1;
	if (end->size > INT64_MAX || ftruncate(s->fd, (off_t)end->size) < 0)
		rc = err_sys(err, "%s: cannot give the copy its size", s->path);
	wire_free(end);
	/* only to learn in time that it can be done: what is written later takes some away */
	return rc ? rc : set_attrs(s, err);
}

/* A list that is only a question: what is missing is not yet to be made, and what differs not decided about. */
static void forget_answers(struct file_target *ft)
{
	while (ft->made.n && !ft->made.v[ft->made.n - 1].exists)
		free_made(&ft->made.v[--ft->made.n]);
	free_twins(ft);
}

static int take_list(struct file_target *ft, struct channel *ch, struct err *err)
{
	Wire__FileList *list = channel_expect(ch, MSG_FILE_LIST, err);

	if (!list)
		return -1;
	if (ft->list)
		wire_free(ft->list);
	ft->list = list;
	return answer_list(ft, ch, err);
}

int files_compare(struct file_target *ft, struct channel *ch, struct err *err)
{
	if (take_list(ft, ch, err) < 0)
		return -1;
	forget_answers(ft);
	return 0;
}

int files_receive(struct file_target *ft, struct channel *ch, struct err *err)
{
	struct frame f;

	if (take_list(ft, ch, err) < 0)
		return -1;
	for (;;) {
		if (channel_recv(ch, &f, err) < 0)
			return -1;
		if (f.type == MSG_FILES_SENT)
			return make_missing(ft, err);
		if (f.type != MSG_FILE_BEGIN)
			return err_set(err, EPROTO, "message %s in place of a file",
				       msg_info(f.type)->name);
		if (receive_file(ft, ch, &f, err) < 0)
			return -1;
	}
}

/* ---- names ---- */

/* A free name beside @path. */
static char *beside(const char *path, const char *what)
{
	const char *slash = strrchr(path, '/');
	char *name;

	if (asprintf(&name, "%.*s/.%.200s.ferry-%s-%d", (int)(slash - path), path, slash + 1, what,
		     getpid()) < 0)
		return NULL;
	return name;
}

static int set_attributes(const struct staged *s, struct err *err)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
				    {.tv_sec = s->mtime_ns / 1000000000,
				     .tv_nsec = s->mtime_ns % 1000000000}};

	/* each undoes a part of those behind it */
	if (fchown(s->fd, s->uid, s->gid) < 0 || fchmod(s->fd, s->mode) < 0)
		return err_sys(err, "%s: cannot set owner and mode of the copy", s->path);
	if (set_attrs(s, err) < 0)
		return -1;
	if (futimens(s->fd, times) < 0)
		return err_sys(err, "%s: cannot set the time of the copy", s->path);
	return 0;
}

/* The copy gets a name that must be free. -1 with errno. */
static int give_name(struct staged *s, const char *name)
{
	char link[64];
	int rc;

	if (!s->temp) {
		/* the first needs CAP_DAC_READ_SEARCH, the second /proc */
		rc = linkat(s->fd, "", AT_FDCWD, name, AT_EMPTY_PATH);
		if (rc == 0 || errno != ENOENT)
			return rc;
		snprintf(link, sizeof(link), "/proc/self/fd/%d", s->fd);
		return linkat(AT_FDCWD, link, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
	}
	rc = renameat2(AT_FDCWD, s->temp, AT_FDCWD, name, RENAME_NOREPLACE);
	if (rc == 0)
		free(steal_ptr(&s->temp));
	return rc;
}

/* The old file keeps a name of its own until the commit. */
static int replace(struct staged *s, struct err *err)
{
	cleanup_free char *fresh = beside(s->path, "new");
	cleanup_free char *backup = beside(s->path, "old");

	if (!fresh || !backup)
		return err_nomem(err);
	if (give_name(s, fresh) < 0)
		return err_sys(err, "%s: cannot name the copy", fresh);
	s->temp = steal_ptr(&fresh);
	if (link(s->path, backup) < 0)
		return err_sys(err, "%s: cannot keep the old file as %s", s->path, backup);
	s->backup = steal_ptr(&backup);
	if (rename(s->temp, s->path) < 0)
		return err_sys(err, "%s: cannot replace it", s->path);
	free(steal_ptr(&s->temp));
	return 0;
}

/*
 * The copy is complete: close it. The kernel takes no file as a program's
 * executable (PR_SET_MM_MAP) that someone has open for writing.
 */
static int end_writing(struct staged *s, struct err *err)
{
	struct stat st;

	if (fstat(s->fd, &st) < 0)
		return err_sys(err, "%s: cannot look at the copy", s->path);
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	close(steal_fd(&s->fd));
	return 0;
}

int files_place(struct file_target *ft, struct err *err)
{
	vec_foreach (s, &ft->staged) {
		if (s->placed)
			continue;
		if (set_attributes(s, err) < 0)
			return -1;
		if (s->overwrite) {
			if (replace(s, err) < 0)
				return -1;
		} else if (give_name(s, s->path) < 0) {
			return err_sys(err, "%s: cannot put the copy in place", s->path);
		}
		s->placed = true;
		if (end_writing(s, err) < 0)
			return -1;
	}
	return 0;
}

static void undo_staged(struct staged *s)
{
	struct stat there;

	if (s->temp && unlink(s->temp) < 0 && errno != ENOENT)
		log_warn("%s: cannot remove it: %s", s->temp, strerror(errno));
	if (s->backup) {
		if (rename(s->backup, s->path) < 0)
			log_error("%s: cannot put the old file back; it is %s: %s", s->path,
				  s->backup, strerror(errno));
		/* names that come and go change the change time */
		else if (s->stale && left_note_path(s->path) < 0)
			log_debug("%s: not noted as left behind", s->path);
	} else if (s->placed && lstat(s->path, &there) == 0 && there.st_ino == s->ino &&
		   there.st_dev == s->dev) {
		if (unlink(s->path) < 0)
			log_warn("%s: cannot remove it: %s", s->path, strerror(errno));
	}
	s->placed = false;
}

void files_undo(struct file_target *ft)
{
	vec_foreach (s, &ft->staged)
		undo_staged(s);
	/* inner directories last made, first removed; those in use by now stay */
	for (size_t i = ft->made.n; i-- > 0;) {
		struct made *m = &ft->made.v[i];

		if (m->exists && (S_ISDIR(m->mode) ? rmdir(m->path) : unlink(m->path)) < 0)
			log_warn("%s: cannot remove it: %s", m->path, strerror(errno));
		m->exists = false;
	}
}

void files_keep(struct file_target *ft)
{
	vec_foreach (s, &ft->staged) {
		if (s->backup && unlink(s->backup) < 0)
			log_warn("%s: cannot remove it: %s", s->backup, strerror(errno));
		free(steal_ptr(&s->backup));
		s->placed = false;
	}
	vec_foreach (m, &ft->made)
		m->exists = false;
}

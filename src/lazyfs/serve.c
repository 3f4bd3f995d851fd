// SPDX-License-Identifier: Apache-2.0
/*
 * One thread, one request after the other; answers are gathered and written
 * when nothing more is to be read at the moment, or when there are many. The
 * client never blocks in writing, so neither side waits for the other.
 */
#define LOG_MODULE "lazyfs"
#include "lazyfs/serve_priv.h"

#include "base/io.h"
#include "base/log.h"
#include "lazyfs/change.h"
#include "lazyfs/jail.h"
#include "lazyfs/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/xattr.h>

static int below_step(struct server *s, struct err *err);

/* ---- frames ---- */

static int flush(struct server *s, struct err *err)
{
	if (s->answers.bytes && io_write_full(s->out, s->answers.data, s->answers.bytes) < 0)
		return err_sys(err, "the connection to the lazy file system broke");
	s->sent_bytes += s->answers.bytes;
	s->answers.bytes = 0;
	return 0;
}

static bool more_to_read(const struct server *s)
{
	struct pollfd p = {.fd = s->in, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

/* Waits until there is something to read, and not for ever where the client would say something now and then. */
static int await_client(const struct server *s, struct err *err)
{
	struct pollfd p = {.fd = s->in, .events = POLLIN};
	int n;

	if (!s->opt->silent_ms)
		return 0;
	while ((n = poll(&p, 1, (int)s->opt->silent_ms)) < 0 && errno == EINTR)
		;
	if (n == 0)
		return err_set(err, ETIMEDOUT, "the lazy file system is silent for %u seconds",
			       s->opt->silent_ms / 1000);
	return n < 0 ? err_sys(err, "poll") : 0;
}

/* 1: *f is the next frame; 0: the stream has ended between frames; -1. */
static int next_frame(struct server *s, struct frame *f, struct err *err)
{
	int rc;

	while ((rc = frame_next(&s->reader, f, err)) == 0) {
		size_t room;
		uint8_t *space = frame_reader_space(&s->reader, &room);
		ssize_t n;

		if (!space)
			return err_nomem(err);
		if ((s->answers.bytes > FLUSH_BYTES || !more_to_read(s)) && flush(s, err) < 0)
			return -1;
		if (s->below && !more_to_read(s)) {
			if (below_step(s, err) < 0)
				return -1;
			continue;
		}
		if (await_client(s, err) < 0)
			return -1;
		do
			n = read(s->in, space, room);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return err_sys(err, "the connection to the lazy file system broke");
		if (n == 0)
			return 0;
		frame_reader_fed(&s->reader, (size_t)n);
	}
	return rc;
}

int serve_answer(struct server *s, const struct lf_reply *r, struct err *err)
{
	return lf_put_reply(&s->answers, r) < 0 ? err_nomem(err) : 0;
}

int serve_fail(struct server *s, const struct lf_request *q, int no, struct err *err)
{
	struct lf_reply r = {.type = LF_FAILED, .id = q->id, .error = no > 0 ? no : EIO};

	return serve_answer(s, &r, err);
}

/* ---- what the tree has open ---- */

static int held_cmp(const void *a, const void *b)
{
	return strcmp(((const struct jail_held *)a)->path, ((const struct jail_held *)b)->path);
}

int serve_policy_finish(struct serve_policy *p, struct err *err)
{
	if (p->held.n)
		qsort(p->held.v, p->held.n, sizeof(*p->held.v), held_cmp);
	vec_foreach (h, &p->held) {
		const struct lf_export e = {.path = h->path};

		if (!vec_push(&p->hello.exports, e))
			return err_nomem(err);
	}
	return 0;
}

void serve_policy_free(struct serve_policy *p)
{
	vec_free(&p->held);
	lf_hello_free(&p->hello);
	arena_free(&p->arena);
}

const struct jail_held *serve_held(const struct server *s, const char *path)
{
	const struct jail_held key = {.path = path};

	if (!s->policy || !s->policy->held.n)
		return NULL;
	return bsearch(&key, s->policy->held.v, s->policy->held.n, sizeof(key), held_cmp);
}

/* ---- names and attributes ---- */

static int do_stat(struct server *s, const struct lf_request *q, struct err *err)
{
	struct lf_reply r = {.type = LF_ATTR, .id = q->id};
	struct stat st;
	cleanup_close int fd = jail_find(&s->jail, q->path, serve_held(s, q->path), &st);

	if (fd < 0)
		return serve_fail(s, q, errno, err);
	jail_attr(&st, &r.attr);
	return serve_answer(s, &r, err);
}

static int do_readlink(struct server *s, const struct lf_request *q, struct err *err)
{
	struct lf_reply r = {.type = LF_TARGET, .id = q->id};
	struct stat st;
	cleanup_close int fd = jail_find(&s->jail, q->path, serve_held(s, q->path), &st);
	char target[PATH_MAX];
	ssize_t n;

	if (fd < 0)
		return serve_fail(s, q, errno, err);
	n = readlinkat(fd, "", target, sizeof(target));
	if (n <= 0 || n > LF_PATH_MAX)
		return serve_fail(s, q, n < 0 ? errno : EINVAL, err);
	r.target = (const uint8_t *)target;
	r.target_bytes = (uint64_t)n;
	return serve_answer(s, &r, err);
}

/* What a program of the tree may see of attributes; the rest is for the kernel and the administrator. */
static bool xattr_wanted(const char *name)
{
	return (!strncmp(name, "user.", 5) && strcmp(name, CHANGE_MARK) != 0) ||
	       !strcmp(name, "security.capability");
}

static int add_xattr(struct server *s, struct lf_reply *r, const char *path, const char *name,
		     size_t *total)
{
	ssize_t n = getxattr(path, name, s->buf, XATTR_SIZE_MAX);
	struct lf_xattr x = {.name = arena_strdup(&s->arena, name)};

	if (n < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : errno;
	x.bytes = (uint32_t)n;
	x.value = arena_dup(&s->arena, s->buf, (size_t)n + 1);
	*total += (size_t)n;
	if (*total > XATTR_BYTES)
		return E2BIG;
	return x.name && x.value && vec_push(&r->xattrs, x) ? 0 : ENOMEM;
}

static int do_xattrs(struct server *s, const struct lf_request *q, struct err *err)
{
	struct lf_reply r = {.type = LF_XATTR_LIST, .id = q->id};
	char path[64], *names = arena_alloc(&s->arena, XATTR_LIST_MAX);
	struct stat st;
	cleanup_close int fd = jail_find(&s->jail, q->path, serve_held(s, q->path), &st);
	size_t total = 0;
	ssize_t n;
	int no = 0;

	if (fd < 0 || !names)
		return serve_fail(s, q, names ? errno : ENOMEM, err);
	/* the calls with a descriptor refuse O_PATH; our own entry leads to the file itself, also to a link */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = listxattr(path, names, XATTR_LIST_MAX);
	if (n < 0 && errno != EOPNOTSUPP)
		return serve_fail(s, q, errno, err);
	for (const char *p = names; n > 0 && p < names + n && !no; p += strlen(p) + 1)
		if (xattr_wanted(p))
			no = add_xattr(s, &r, path, p, &total);
	int rc = no ? serve_fail(s, q, no, err) : serve_answer(s, &r, err);
	lf_reply_free(&r);
	return rc;
}

/* ---- directories ---- */

struct listing {
	struct server *s;
	const struct lf_request *q;
	struct lf_reply r;
	size_t bytes;
	struct err *err;
	bool folders;
	size_t most; /* bytes of one that is sent as a whole or not at all; 0: this one is sent in pieces */
	size_t sent;         /* bytes of such */
	bool silent;         /* it is known there already: only what is below it is of interest */
	bool failed;         /* that was answered */
	struct below *below; /* gets the directories that it has; NULL: nobody wants to know */
};

static int list_flush(struct listing *l, bool more)
{
	int rc;

	if (l->most)
		l->sent += l->bytes;
	if (l->silent) {
		l->r.entries.n = 0;
		l->bytes = 0;
		return 0;
	}
	l->r.last = !more;
	/* those below follow, and then a message without any */
	l->r.more = more || l->below;
	rc = serve_answer(l->s, &l->r, l->err);
	l->r.entries.n = 0;
	l->bytes = 0;
	if (rc == 0 && l->s->answers.bytes > FLUSH_BYTES)
		rc = flush(l->s, l->err);
	return rc;
}

static int list_fail(struct listing *l, int no)
{
	l->failed = true;
	return serve_fail(l->s, l->q, no, l->err);
}

/* What the link @name in @dirfd holds, in the arena; NULL: out of memory; "": nothing, or it is gone. */
static const char *link_target(struct listing *l, int dirfd, const char *name, const struct stat *st)
{
	char target[LF_PATH_MAX + 1];
	ssize_t n = 0;

	if (l->folders && S_ISLNK(st->st_mode))
		n = readlinkat(dirfd, name, target, sizeof(target));
	if (n <= 0 || n > LF_PATH_MAX)
		return "";
	target[n] = '\0';
	return arena_strdup(&l->s->arena, target);
}

/* Where there is something that could be listed, too. */
static bool list_note(struct listing *l, const char *name)
{
	char path[LF_PATH_MAX + 1];
	const char *copy;

	if (!l->below || scope_join(path, l->r.path, name) < 0)
		return true;
	/* each that is told takes some of it */
	if (l->below->dirs.n >= l->below->most / FOLDER_HEAD)
		return true;
	copy = arena_strdup(&l->below->arena, path);
	return copy && vec_push(&l->below->dirs, copy);
}

/* @dirfd and @at lead to the entry. 1: it is too much for one that is sent as a whole; -1. */
static int list_add(struct listing *l, const char *name, const struct stat *st, int dirfd,
		    const char *at)
{
	struct lf_entry e = {.name = arena_strdup(&l->s->arena, name),
			     .target = link_target(l, dirfd, at, st)};
	size_t bytes = LF_ENTRY_HEAD + strlen(name) + (e.target ? strlen(e.target) : 0);

	if (l->most && l->bytes + bytes > l->most)
		return 1;
	if (l->bytes + bytes > LF_LIST_BYTES && list_flush(l, true) < 0)
		return -1;
	jail_attr(st, &e.attr);
	if (!e.name || !e.target || !vec_push(&l->r.entries, e) ||
	    (S_ISDIR(st->st_mode) && !list_note(l, e.name)))
		return err_nomem(l->err);
	l->bytes += bytes;
	return 0;
}

/* A child of a directory on the way. What is gone meanwhile is left out. */
static int list_child(void *arg, const char *name)
{
	struct listing *l = arg;
	char path[LF_PATH_MAX + 1];
	cleanup_close int fd = -1;
	struct stat st;

	if (scope_join(path, l->q->path, name) < 0)
		return 0;
	fd = jail_find(&l->s->jail, path, serve_held(l->s, path), &st);
	return fd < 0 ? 0 : list_add(l, name, &st, fd, "");
}

/* Is this entry a mount of a file system of the kernel's? */
static bool is_pseudo_mount(int dirfd, const char *name, const struct stat *st, dev_t dev)
{
	cleanup_close int fd = -1;

	if (!S_ISDIR(st->st_mode) || st->st_dev == dev)
		return false;
	fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || jail_is_pseudo(fd);
}

/* What the directory has, in messages that are sent but the last one; 1: it is too much to be sent as a whole. -1. */
static int list_whole(struct listing *l, int fd)
{
	cleanup_dir DIR *dir = fdopendir(fd);
	const struct dirent *d;
	struct stat self, st;
	int rc = 0;

	if (!dir || fstat(dirfd(dir), &self) < 0) {
		int no = errno;

		if (!dir)
			close(fd);
		return l->most ? 1 : list_fail(l, no);
	}
	while (rc == 0 && (d = readdir(dir))) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		/* gone meanwhile, or not to be searched */
		if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
			continue;
		if (is_pseudo_mount(dirfd(dir), d->d_name, &st, self.st_dev))
			continue;
		rc = list_add(l, d->d_name, &st, dirfd(dir), d->d_name);
	}
	return rc ? rc : list_flush(l, false);
}

/* ---- directories below, that nobody waits for ---- */

static void below_free(struct below *b)
{
	vec_free(&b->dirs);
	arena_free(&b->arena);
	free(b);
}

/* No more of it comes. */
static int below_end(struct server *s, struct below **at, struct err *err)
{
	struct below *b = *at;
	struct lf_reply r = {.type = LF_FOLDER, .id = b->id, .path = b->path};
	int rc = serve_answer(s, &r, err);

	*at = b->next;
	below_free(b);
	return rc;
}

/* To be done when nobody asks for anything; the newest first, and those that had to wait for too many others not at all. */
static int below_begin(struct server *s, struct listing *l, struct err *err)
{
	struct below *b = l->below, **at = &s->below;

	l->below = NULL;
	b->next = s->below;
	s->below = b;
	for (size_t i = 0; *at; i++) {
		if (i < BELOW_MOST)
			at = &(*at)->next;
		else if (below_end(s, at, err) < 0)
			return -1;
	}
	return 0;
}

/* The next one of the newest. */
static int below_step(struct server *s, struct err *err)
{
	struct below *b = s->below;
	const struct lf_request q = {.id = b->id, .path = b->path};
	size_t most = MIN(b->most, (size_t)LF_BELOW_MAX);
	struct listing l = {.s = s, .q = &q, .err = err, .folders = true, .below = b};
	size_t n_dirs = b->dirs.n;
	int fd = -1, rc = 0;

	arena_free(&s->arena);
	if (b->at == n_dirs || b->sent >= most || b->policy != s->policy)
		return below_end(s, &s->below, err);
	l.r = (struct lf_reply){.type = LF_FOLDER, .id = b->id, .path = b->dirs.v[b->at++]};
	l.most = MIN(most - b->sent, (size_t)LF_FOLDER_BYTES);
	if (scope_place(&s->scope, l.r.path) == SCOPE_INSIDE)
		fd = jail_open(&s->jail, l.r.path, serve_held(s, l.r.path), true);
	if (fd >= 0)
		rc = list_whole(&l, fd);
	/* those of one that was too large were work, too, and so is one that cannot be read */
	b->sent += FOLDER_HEAD + strlen(l.r.path) + l.sent + l.bytes;
	if (rc == 1)
		b->dirs.n = n_dirs; /* what is in it was not told */
	lf_reply_free(&l.r);
	return rc < 0 ? -1 : 0;
}

static int do_list(struct server *s, const struct lf_request *q, enum scope_place place,
		   struct err *err)
{
	struct listing l = {.s = s,
			    .q = q,
			    .r = {.type = q->bytes & LF_FOLDERS ? LF_FOLDER : LF_ENTRIES,
				  .id = q->id,
				  .path = q->path},
			    .err = err,
			    .folders = q->bytes & LF_FOLDERS,
			    .silent = (q->bytes & LF_FOLDERS) && (q->bytes & LF_ONLY_BELOW)};
	int fd, rc;

	/* what is only below has an end even where nothing is */
	if (l.folders && (q->offset || l.silent)) {
		l.below = calloc(1, sizeof(*l.below));
		if (!l.below)
			return err_nomem(err);
		l.below->policy = s->policy;
		l.below->id = q->id;
		l.below->most = (size_t)MIN(q->offset, (uint64_t)LF_BELOW_MAX);
		l.below->path = arena_strdup(&l.below->arena, q->path);
	}
	if (place == SCOPE_INSIDE) {
		fd = jail_open(&s->jail, q->path, serve_held(s, q->path), true);
		rc = fd < 0 ? list_fail(&l, errno) : list_whole(&l, fd);
	} else {
		rc = scope_children(&s->scope, q->path, list_child, &l);
		if (rc == 0)
			rc = list_flush(&l, false);
	}
	if (rc == 0 && l.below && !l.below->path)
		rc = err_nomem(err);
	if (rc == 0 && l.below && !l.failed)
		rc = below_begin(s, &l, err);
	lf_reply_free(&l.r);
	if (l.below)
		below_free(l.below);
	return rc;
}

/* ---- changes ---- */

static int do_change(struct server *s, const struct lf_request *q, struct err *err)
{
	struct lf_reply r = {.type = LF_ATTR, .id = q->id};
	int no = s->writes ? change_apply(&s->jail, &s->scope, s->hello.token, q, &r.attr) : EROFS;

	return no ? serve_fail(s, q, no, err) : serve_answer(s, &r, err);
}

/* ---- the session ---- */

static int handle(struct server *s, const struct frame *f, struct err *err)
{
	struct lf_request q;
	enum scope_place place;

	if (f->type == LF_BYE) {
		s->bye = true;
		return 0;
	}
	arena_free(&s->arena);
	s->requests++;
	if (lf_get_request(f, &q, &s->arena, err) < 0)
		return -1;
	if (lf_is_change(q.type))
		return do_change(s, &q, err);
	place = scope_place(&s->scope, q.path);
	if (place == SCOPE_OUTSIDE || (place == SCOPE_FILE && q.type == LF_LIST) ||
	    (place == SCOPE_WAY && q.type != LF_STAT && q.type != LF_LIST))
		return serve_fail(s, &q, EACCES, err);
	switch (q.type) {
	case LF_STAT:
		return do_stat(s, &q, err);
	case LF_LIST:
		return do_list(s, &q, place, err);
	case LF_READLINK:
		return do_readlink(s, &q, err);
	case LF_XATTRS:
		return do_xattrs(s, &q, err);
	case LF_READ:
		return serve_data_read(s, &q, err);
	case LF_DIGEST:
		return serve_data_digest(s, &q, err);
	default:
		return serve_data_seek(s, &q, err);
	}
}

static void forget_rules(struct server *s)
{
	for (size_t i = 0; i < OPEN_FILES; i++)
		serve_data_close(&s->files[i]);
	jail_finish(&s->jail);
	scope_finish(&s->scope);
}

static int take_rules(struct server *s, const struct lf_hello *hello, struct err *err)
{
	if (scope_init(&s->scope, hello->exports.v, hello->exports.n, err) < 0)
		return -1;
	if (jail_init(&s->jail, hello->root, hello->creds.v, hello->creds.n, err) < 0)
		return -1;
	s->jail.writes = s->writes;
	return 0;
}

/* Another policy may be in force than a moment ago. */
static int follow_policy(struct server *s, struct err *err)
{
	const struct serve_policy *now = s->opt->policy ? atomic_load(s->opt->policy) : NULL;

	if (now == s->policy)
		return 0;
	forget_rules(s);
	s->policy = now;
	return take_rules(s, &now->hello, err);
}

/* Whether it may send changes is said at our start; a client that needs it should know at once. */
static int take_wishes(struct server *s, struct err *err)
{
	const bool wants = lf_writes(s->hello.version);

	if (wants && !s->opt->writes)
		return err_set(err, EROFS,
			       "files are handed out read-only here: changes are taken by "
			       "'ferry agent --files --writeback' only");
	s->writes = wants;
	return 0;
}

/* The first frame decides what is served, where we do not know better; what is wrong with it is told. */
static int begin(struct server *s, struct err *err)
{
	struct frame f;
	struct err why;
	int rc = next_frame(s, &f, err);

	if (rc == 0)
		return err_set(err, EPIPE, "the connection ended before anything was asked for");
	if (rc < 0)
		return -1;
	if (lf_get_hello(&f, &s->hello, &s->hello_arena, &why) == 0 && take_wishes(s, &why) == 0 &&
	    (s->opt->policy ? follow_policy(s, &why) : take_rules(s, &s->hello, &why)) == 0)
		return lf_put_empty(&s->answers, LF_READY) < 0 ? err_nomem(err) : flush(s, err);
	if (lf_put_refused(&s->answers, why.text) < 0 || flush(s, err) < 0)
		return -1;
	*err = why;
	return -1;
}

static int session(struct server *s, struct err *err)
{
	struct frame f;
	int rc;

	if (begin(s, err) < 0)
		return -1;
	log_info("serving %zu paths", s->scope.n);
	while (!s->bye && (rc = next_frame(s, &f, err)) == 1)
		if (follow_policy(s, err) < 0 || handle(s, &f, err) < 0)
			return -1;
	return s->bye || rc == 0 ? 0 : -1;
}

static void server_free(struct server *s)
{
	while (s->below) {
		struct below *next = s->below->next;

		below_free(s->below);
		s->below = next;
	}
	forget_rules(s);
	lf_hello_free(&s->hello);
	lf_out_free(&s->answers);
	frame_reader_finish(&s->reader);
	arena_free(&s->hello_arena);
	arena_free(&s->arena);
	close(s->in);
	close(s->out);
	free(s->buf);
	free(s);
}

int lazyfs_serve(int in, int out, const struct serve_options *opt, bool *bye_out, struct err *err)
{
	static const struct serve_options any = {0};
	struct server *s = calloc(1, sizeof(*s));
	int rc;

	if (s)
		s->buf = malloc(LF_READ_MAX);
	if (!s || !s->buf) {
		free(s);
		close(in);
		close(out);
		return err_nomem(err);
	}
	s->opt = opt ? opt : &any;
	s->in = in;
	s->out = out;
	s->jail = (struct jail){.root = -1, .self_fds = -1};
	frame_reader_init(&s->reader, lf_limit);
	/* fewer, larger pieces to ssh; a socket or a small limit is no reason to stop */
	(void)fcntl(out, F_SETPIPE_SZ, 1024 * 1024);
	rc = session(s, err);
	if (bye_out)
		*bye_out = s->bye;
	log_info("%llu requests, %llu bytes sent", (unsigned long long)s->requests,
		 (unsigned long long)s->sent_bytes);
	server_free(s);
	return rc;
}

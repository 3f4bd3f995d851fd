// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/proto.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/stat.h>

#define KIB(n) ((n)*1024)
#define MIB(n) ((n)*1024 * 1024)

enum {
	MAGIC_BYTES = 8,
	ERRNO_MAX = 4095,
	XATTRS_MAX = MIB(4),
	REQUEST_MAX = KIB(8),
	CHANGE_MAX = KIB(16), /* without data */
};
static const char magic[MAGIC_BYTES + 1] = "ferryfs\n";

int64_t lf_limit(uint16_t type)
{
	switch (type) {
	case LF_HELLO:
		return MIB(32);
	case LF_READY:
	case LF_BYE:
		return 0;
	case LF_REFUSED:
		return KIB(2);
	case LF_STAT:
	case LF_LIST:
	case LF_READLINK:
	case LF_XATTRS:
	case LF_READ:
	case LF_SEEK:
	case LF_DIGEST:
	case LF_TARGET:
		return REQUEST_MAX;
	case LF_WRITE:
		return CHANGE_MAX + LF_READ_MAX;
	case LF_RESIZE:
	case LF_SETTLE:
	case LF_CREATE:
	case LF_REMOVE:
	case LF_RENAME:
	case LF_SET:
		return CHANGE_MAX;
	case LF_XATTR:
		return CHANGE_MAX + XATTR_SIZE_MAX;
	case LF_FAILED:
	case LF_ATTR:
	case LF_POSITION:
	case LF_SUM:
		return 256;
	case LF_ENTRIES:
		return LF_LIST_BYTES + KIB(1);
	case LF_FOLDER:
		return LF_LIST_BYTES + KIB(16);
	case LF_XATTR_LIST:
		return XATTRS_MAX;
	case LF_DATA:
		return LF_READ_MAX + KIB(4);
	default:
		return -1;
	}
}

bool lf_name_valid(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0;
}

bool lf_path_valid(const char *path)
{
	char name[NAME_MAX + 1];
	const char *p = path;

	if (*p != '/' || strlen(path) > LF_PATH_MAX)
		return false;
	if (!p[1])
		return true;
	while (*p) {
		size_t n = strcspn(++p, "/");

		if (n > NAME_MAX)
			return false;
		memcpy(name, p, n);
		name[n] = '\0';
		if (!lf_name_valid(name))
			return false;
		p += n;
	}
	return true;
}

bool lf_ident_same(const struct lf_ident *a, const struct lf_ident *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

/* ---- writing ---- */

static void put(struct lf_out *o, const void *data, size_t bytes)
{
	if (o->failed)
		return;
	if (o->cap - o->bytes < bytes) {
		size_t cap = MAX(o->cap * 2, o->bytes + bytes + 256);
		uint8_t *bigger = realloc(o->data, cap);

		if (!bigger) {
			o->failed = true;
			return;
		}
		o->data = bigger;
		o->cap = cap;
	}
	if (bytes)
		memcpy(o->data + o->bytes, data, bytes);
	o->bytes += bytes;
}

static void put16(struct lf_out *o, uint16_t v)
{
	v = htole16(v);
	put(o, &v, sizeof(v));
}

static void put32(struct lf_out *o, uint32_t v)
{
	v = htole32(v);
	put(o, &v, sizeof(v));
}

static void put64(struct lf_out *o, uint64_t v)
{
	v = htole64(v);
	put(o, &v, sizeof(v));
}

static void put_text(struct lf_out *o, const char *s)
{
	size_t n = strlen(s);

	put16(o, (uint16_t)n);
	put(o, s, n);
}

static void put_ident(struct lf_out *o, const struct lf_ident *id)
{
	put64(o, id->dev);
	put64(o, id->ino);
	put64(o, id->size);
	put64(o, (uint64_t)id->mtime_ns);
	put64(o, (uint64_t)id->ctime_ns);
}

static void put_attr(struct lf_out *o, const struct lf_attr *a)
{
	put_ident(o, &a->id);
	put64(o, a->blocks);
	put64(o, a->rdev);
	put32(o, a->mode);
	put32(o, a->nlink);
	put32(o, a->uid);
	put32(o, a->gid);
	put64(o, (uint64_t)a->atime_ns);
}

static size_t begin(struct lf_out *o)
{
	static const uint8_t zero[FRAME_HEADER_BYTES];
	size_t start = o->bytes;

	put(o, zero, sizeof(zero));
	return start;
}

static int end(struct lf_out *o, size_t start, uint16_t type)
{
	if (o->failed) {
		o->bytes = start;
		return -1;
	}
	frame_header(o->data + start, type, (uint32_t)(o->bytes - start - FRAME_HEADER_BYTES));
	return 0;
}

void lf_out_free(struct lf_out *out)
{
	free(out->data);
	*out = (struct lf_out){0};
}

int lf_put_hello(struct lf_out *out, const struct lf_hello *hello)
{
	size_t start = begin(out);

	put(out, magic, MAGIC_BYTES);
	put32(out, hello->version);
	if (lf_writes(hello->version))
		put64(out, hello->token);
	put_text(out, hello->root);
	put32(out, (uint32_t)hello->exports.n);
	vec_foreach (e, &hello->exports) {
		put32(out, e->whole);
		put_text(out, e->path);
	}
	put32(out, (uint32_t)hello->creds.n);
	vec_foreach (c, &hello->creds) {
		put32(out, c->uid);
		put32(out, c->gid);
		put32(out, c->reads_all | (lf_writes(hello->version) && c->writes_all) << 1 |
				   (hello->version == LF_VERSION_OWNERS && c->owns_all) << 2);
		put32(out, c->n_groups);
		for (uint32_t i = 0; i < c->n_groups; i++)
			put32(out, c->groups[i]);
	}
	return end(out, start, LF_HELLO);
}

int lf_put_empty(struct lf_out *out, uint16_t type)
{
	return end(out, begin(out), type);
}

int lf_put_refused(struct lf_out *out, const char *why)
{
	size_t start = begin(out);

	put(out, why, MIN(strlen(why), (size_t)KIB(1)));
	return end(out, start, LF_REFUSED);
}

int lf_put_request(struct lf_out *out, const struct lf_request *r)
{
	size_t start = begin(out);

	put64(out, r->id);
	put64(out, r->offset);
	put32(out, r->bytes);
	put_ident(out, &r->want);
	put_text(out, r->path);
	if (lf_is_change(r->type)) {
		put32(out, r->flags);
		put32(out, r->mode);
		put64(out, (uint64_t)r->time_ns);
		put_text(out, r->other);
		put_ident(out, &r->replaced);
		put(out, r->data, r->data_bytes);
	}
	return end(out, start, r->type);
}

static void put_data(struct lf_out *out, const struct lf_reply *r)
{
	size_t bytes = 0;

	put64(out, r->position);
	put64(out, r->covered);
	put32(out, r->n_extents);
	for (uint32_t i = 0; i < r->n_extents; i++) {
		put32(out, r->extents[i].at);
		put32(out, r->extents[i].bytes);
		bytes += r->extents[i].bytes;
	}
	put(out, r->data, bytes);
}

int lf_put_reply(struct lf_out *out, const struct lf_reply *r)
{
	size_t start = begin(out);

	put64(out, r->id);
	switch (r->type) {
	case LF_FAILED:
		put32(out, (uint32_t)r->error);
		break;
	case LF_ATTR:
		put_attr(out, &r->attr);
		break;
	case LF_ENTRIES:
		put32(out, r->more);
		put32(out, (uint32_t)r->entries.n);
		vec_foreach (e, &r->entries) {
			put_attr(out, &e->attr);
			put_text(out, e->name);
		}
		break;
	case LF_FOLDER:
		put32(out, r->more);
		put32(out, r->last);
		put_text(out, r->path);
		put32(out, (uint32_t)r->entries.n);
		vec_foreach (e, &r->entries) {
			put_attr(out, &e->attr);
			put_text(out, e->name);
			put_text(out, e->target);
		}
		break;
	case LF_TARGET:
		put(out, r->target, r->target_bytes);
		break;
	case LF_XATTR_LIST:
		put32(out, (uint32_t)r->xattrs.n);
		vec_foreach (x, &r->xattrs) {
			put_text(out, x->name);
			put32(out, x->bytes);
			put(out, x->value, x->bytes);
		}
		break;
	case LF_DATA:
		put_data(out, r);
		break;
	case LF_POSITION:
		put64(out, r->position);
		break;
	case LF_SUM:
		put(out, r->sum, sizeof(r->sum));
		break;
	}
	return end(out, start, r->type);
}

/* ---- reading ---- */

struct in {
	const uint8_t *p, *end;
	bool bad;
};

static const uint8_t *take(struct in *in, size_t bytes)
{
	const uint8_t *p = in->p;

	if (in->bad || (size_t)(in->end - p) < bytes) {
		in->bad = true;
		return NULL;
	}
	in->p += bytes;
	return p;
}

static uint16_t get16(struct in *in)
{
	const uint8_t *p = take(in, 2);
	uint16_t v = 0;

	if (p)
		memcpy(&v, p, 2);
	return le16toh(v);
}

static uint32_t get32(struct in *in)
{
	const uint8_t *p = take(in, 4);
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, 4);
	return le32toh(v);
}

static uint64_t get64(struct in *in)
{
	const uint8_t *p = take(in, 8);
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, 8);
	return le64toh(v);
}

static bool get_bool(struct in *in)
{
	uint32_t v = get32(in);

	in->bad |= v > 1;
	return v;
}

/* A text without NUL inside; "" when it is bad. */
static const char *get_text(struct in *in, struct arena *arena)
{
	size_t n = get16(in);
	const uint8_t *p = take(in, n);
	char *s = NULL;

	if (p && !memchr(p, 0, n) && (s = arena_alloc(arena, n + 1))) {
		memcpy(s, p, n);
		s[n] = '\0';
	}
	in->bad |= !s;
	return s ? s : "";
}

static void get_ident(struct in *in, struct lf_ident *id)
{
	id->dev = get64(in);
	id->ino = get64(in);
	id->size = get64(in);
	id->mtime_ns = (int64_t)get64(in);
	id->ctime_ns = (int64_t)get64(in);
	in->bad |= id->size > INT64_MAX;
}

static void get_attr(struct in *in, struct lf_attr *a)
{
	get_ident(in, &a->id);
	a->blocks = get64(in);
	a->rdev = get64(in);
	a->mode = get32(in);
	a->nlink = get32(in);
	a->uid = get32(in);
	a->gid = get32(in);
	a->atime_ns = (int64_t)get64(in);
}

static int finish(const struct in *in, const struct frame *f, struct err *err)
{
	if (in->bad || in->p != in->end)
		return err_set(err, EPROTO, "a message of type %u is damaged", f->type);
	return 0;
}

static struct in begin_get(const struct frame *f)
{
	return (struct in){.p = f->body, .end = f->body + f->bytes};
}

static void get_exports(struct in *in, struct lf_hello *out, struct arena *arena)
{
	uint32_t n = get32(in);

	in->bad |= n > LF_EXPORTS_MAX;
	for (uint32_t i = 0; i < n && !in->bad; i++) {
		struct lf_export e = {.whole = get_bool(in)};

		e.path = get_text(in, arena);
		in->bad |= !lf_path_valid(e.path) || !vec_push(&out->exports, e);
	}
}

static void get_creds(struct in *in, struct lf_hello *out, struct arena *arena)
{
	uint32_t n = get32(in);

	in->bad |= n > LF_CREDS_MAX;
	for (uint32_t i = 0; i < n && !in->bad; i++) {
		struct lf_creds c = {.uid = get32(in)};
		uint32_t *groups = NULL, flags;

		c.gid = get32(in);
		flags = get32(in);
		in->bad |= flags > (out->version == LF_VERSION_OWNERS ? 7u :
				    lf_writes(out->version)           ? 3u :
									1u);
		c.reads_all = flags & 1;
		c.writes_all = flags & 2;
		c.owns_all = flags & 4;
		c.n_groups = get32(in);
		if (c.n_groups <= LF_GROUPS_MAX && c.n_groups <= (size_t)(in->end - in->p) / 4)
			groups = arena_array(arena, uint32_t, c.n_groups + 1);
		if (!groups) {
			in->bad = true;
			return;
		}
		for (uint32_t g = 0; g < c.n_groups; g++)
			groups[g] = get32(in);
		c.groups = groups;
		in->bad |= !vec_push(&out->creds, c);
	}
}

int lf_get_hello(const struct frame *f, struct lf_hello *out, struct arena *arena, struct err *err)
{
	struct in in = begin_get(f);
	const uint8_t *m = take(&in, MAGIC_BYTES);

	*out = (struct lf_hello){0};
	if (f->type != LF_HELLO || !m || memcmp(m, magic, MAGIC_BYTES) != 0)
		return err_set(err, EPROTO, "the peer is not a ferry lazyfs");
	out->version = get32(&in);
	if (!in.bad && (out->version < LF_VERSION || out->version > LF_VERSION_OWNERS))
		return err_set(err, EPROTO,
			       "the peer speaks version %u of the file protocol, this ferry %u to %u: "
			       "install the same version on both",
			       out->version, LF_VERSION, LF_VERSION_OWNERS);
	if (lf_writes(out->version))
		out->token = get64(&in);
	out->root = get_text(&in, arena);
	in.bad |= !lf_path_valid(out->root);
	get_exports(&in, out, arena);
	get_creds(&in, out, arena);
	return finish(&in, f, err);
}

void lf_hello_free(struct lf_hello *hello)
{
	vec_free(&hello->exports);
	vec_free(&hello->creds);
}

int lf_get_refused(const struct frame *f, char *why, size_t size, struct err *err)
{
	size_t n = MIN(f->bytes, size - 1);

	if (f->type != LF_REFUSED)
		return err_set(err, EPROTO, "a message of type %u is out of order", f->type);
	for (size_t i = 0; i < n; i++)
		why[i] = f->body[i] < ' ' || f->body[i] == 127 ? '?' : (char)f->body[i];
	why[n] = '\0';
	return 0;
}

bool lf_xattr_valid(const char *name)
{
	return !strncmp(name, "user.", 5) && name[5] && strlen(name) <= XATTR_NAME_MAX &&
	       strcmp(name, LF_MARK_XATTR) != 0;
}

/* Is what a change says of its kind possible? */
static bool change_valid(const struct lf_request *q)
{
	const uint32_t type = q->mode & S_IFMT;

	if (q->flags > LF_FLAGS || (q->type != LF_WRITE && q->type != LF_XATTR && q->data_bytes))
		return false;
	switch (q->type) {
	case LF_WRITE:
		return q->bytes && (!q->data_bytes || q->data_bytes == q->bytes) &&
		       q->offset <= (uint64_t)INT64_MAX - q->bytes;
	case LF_CREATE:
		return type == S_IFLNK ? *q->other && strlen(q->other) <= LF_PATH_MAX :
					 !*q->other && (type == S_IFREG || type == S_IFDIR);
	case LF_RENAME:
		return lf_path_valid(q->other);
	case LF_SET:
		return q->bytes && q->bytes <= LF_SET_ALL && q->mode <= 07777 && !*q->other;
	case LF_XATTR:
		return lf_xattr_valid(q->other) && q->mode <= 1 && q->data_bytes == q->bytes &&
		       (!q->mode || !q->bytes) && q->bytes <= XATTR_SIZE_MAX;
	default:
		return !*q->other;
	}
}

static void get_change(struct in *in, struct lf_request *out, struct arena *arena)
{
	out->flags = get32(in);
	out->mode = get32(in);
	out->time_ns = (int64_t)get64(in);
	out->other = get_text(in, arena);
	get_ident(in, &out->replaced);
	if (in->bad)
		return;
	out->data_bytes = (uint32_t)(in->end - in->p);
	out->data = take(in, out->data_bytes);
	in->bad |= !change_valid(out);
}

int lf_get_request(const struct frame *f, struct lf_request *out, struct arena *arena, struct err *err)
{
	struct in in = begin_get(f);

	*out = (struct lf_request){.type = f->type};
	out->id = get64(&in);
	out->offset = get64(&in);
	out->bytes = get32(&in);
	get_ident(&in, &out->want);
	out->path = get_text(&in, arena);
	in.bad |= f->type < LF_STAT || f->type > LF_XATTR || !lf_path_valid(out->path) ||
		  out->offset > INT64_MAX ||
		  (f->type == LF_READ && (out->bytes == 0 || out->bytes > LF_READ_MAX)) ||
		  (f->type == LF_DIGEST && (out->bytes == 0 || out->bytes > LF_DIGEST_MAX)) ||
		  (f->type == LF_SEEK && out->bytes != SEEK_DATA && out->bytes != SEEK_HOLE);
	if (lf_is_change(f->type))
		get_change(&in, out, arena);
	return finish(&in, f, err);
}

static void get_entries(struct in *in, struct lf_reply *out, struct arena *arena)
{
	const bool folder = out->type == LF_FOLDER;
	uint32_t n;

	out->more = get_bool(in);
	if (folder) {
		out->last = get_bool(in);
		out->path = get_text(in, arena);
		in->bad |= !lf_path_valid(out->path);
	}
	n = get32(in);
	for (uint32_t i = 0; i < n && !in->bad; i++) {
		struct lf_entry e = {0};

		get_attr(in, &e.attr);
		e.name = get_text(in, arena);
		if (folder)
			e.target = get_text(in, arena);
		in->bad |= !lf_name_valid(e.name) ||
			   (folder && strlen(e.target) > (S_ISLNK(e.attr.mode) ? LF_PATH_MAX : 0)) ||
			   !vec_push(&out->entries, e);
	}
}

static void get_xattrs(struct in *in, struct lf_reply *out, struct arena *arena)
{
	uint32_t n = get32(in);

	for (uint32_t i = 0; i < n && !in->bad; i++) {
		struct lf_xattr x = {.name = get_text(in, arena)};

		x.bytes = get32(in);
		x.value = take(in, x.bytes);
		in->bad |= !*x.name || strlen(x.name) > 255 || !vec_push(&out->xattrs, x);
	}
}

static void get_data(struct in *in, struct lf_reply *out)
{
	uint64_t at = 0, bytes = 0;

	out->position = get64(in);
	out->covered = get64(in);
	out->n_extents = get32(in);
	in->bad |= out->n_extents > LF_EXTENTS_MAX || out->position > INT64_MAX ||
		   out->covered > INT64_MAX - out->position;
	for (uint32_t i = 0; i < out->n_extents && !in->bad; i++) {
		struct lf_extent *e = &out->extents[i];

		e->at = get32(in);
		e->bytes = get32(in);
		in->bad |= e->at < at || !e->bytes || (uint64_t)e->at + e->bytes > out->covered;
		at = (uint64_t)e->at + e->bytes;
		bytes += e->bytes;
	}
	out->data = take(in, bytes);
}

static void get_sum(struct in *in, struct lf_reply *out)
{
	const uint8_t *p = take(in, sizeof(out->sum));

	if (p)
		memcpy(out->sum, p, sizeof(out->sum));
}

int lf_get_reply(const struct frame *f, struct lf_reply *out, struct arena *arena, struct err *err)
{
	struct in in = begin_get(f);

	*out = (struct lf_reply){.type = f->type};
	out->id = get64(&in);
	switch (f->type) {
	case LF_FAILED:
		out->error = (int)get32(&in);
		in.bad |= out->error < 1 || out->error > ERRNO_MAX;
		break;
	case LF_ATTR:
		get_attr(&in, &out->attr);
		break;
	case LF_ENTRIES:
	case LF_FOLDER:
		get_entries(&in, out, arena);
		break;
	case LF_TARGET:
		out->target_bytes = (uint64_t)(in.end - in.p);
		out->target = take(&in, out->target_bytes);
		in.bad |= !out->target_bytes || out->target_bytes > LF_PATH_MAX ||
			  (out->target && memchr(out->target, 0, out->target_bytes));
		break;
	case LF_XATTR_LIST:
		get_xattrs(&in, out, arena);
		break;
	case LF_DATA:
		get_data(&in, out);
		break;
	case LF_POSITION:
		out->position = get64(&in);
		in.bad |= out->position > INT64_MAX;
		break;
	case LF_SUM:
		get_sum(&in, out);
		break;
	default:
		in.bad = true;
	}
	return finish(&in, f, err);
}

void lf_reply_free(struct lf_reply *r)
{
	vec_free(&r->entries);
	vec_free(&r->xattrs);
}

bool lf_creds_same(const struct lf_creds *a, const struct lf_creds *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->reads_all == b->reads_all &&
	       a->writes_all == b->writes_all && a->owns_all == b->owns_all &&
	       a->n_groups == b->n_groups &&
	       (!a->n_groups || !memcmp(a->groups, b->groups, a->n_groups * sizeof(a->groups[0])));
}

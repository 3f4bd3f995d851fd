// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "files"
#include "migrate/files.h"

#include "base/io.h"
#include "base/log.h"
#include "base/map.h"
#include "base/vec.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/stat.h>

static_assert(SHA256_BYTES == SHA256_DIGEST_LENGTH, "the same digest");

/* What the destination has of one block. */
struct block {
	bool hole;
	uint8_t sha256[SHA256_BYTES];
};

/* A file that was sent; it may be sent again in the second round. */
struct sent_file {
	struct sent_file *next; /* same hash */
	uint64_t size;
	VEC(struct block) blocks;
	char path[];
};

struct file_source {
	struct file_policy policy;
	struct map sent; /* by hash of the path: struct sent_file */
	struct file_totals totals;
	uint8_t *buf; /* one block */
};

/* One round. */
struct round {
	struct file_source *fs;
	struct channel *ch;
	const Wire__FileList *list;
	void (*refused)(void *arg, const char *text);
	void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
	void *arg;
	uint64_t done_bytes, total_bytes;
	VEC(char *) refusals; /* of what memory cannot hold only the number is known */
	unsigned int n_refused;
};

struct file_source *file_source_create(const struct file_policy *policy, struct err *err)
{
	struct file_source *fs = calloc(1, sizeof(*fs));

	if (fs)
		fs->buf = malloc(FILE_BLOCK_BYTES);
	if (!fs || !fs->buf) {
		free(fs);
		err_nomem(err);
		return NULL;
	}
	fs->policy = *policy;
	return fs;
}

void file_source_free(struct file_source *fs)
{
	struct sent_file *f, *next;

	if (!fs)
		return;
	for (size_t i = 0; i < fs->sent.cap; i++) {
		for (f = fs->sent.slots[i].value; f; f = next) {
			next = f->next;
			vec_free(&f->blocks);
			free(f);
		}
	}
	map_free(&fs->sent);
	free(fs->buf);
	free(fs);
}

void file_source_totals(const struct file_source *fs, struct file_totals *out)
{
	*out = fs->totals;
}

int file_sha256(int fd, uint8_t out[SHA256_BYTES])
{
	cleanup_free uint8_t *buf = malloc(FILE_BLOCK_BYTES);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	off_t off = 0;
	ssize_t n = -1;

	errno = ENOMEM;
	if (buf && ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL)) {
		while ((n = pread(fd, buf, FILE_BLOCK_BYTES, off)) > 0) {
			EVP_DigestUpdate(ctx, buf, (size_t)n);
			off += n;
		}
		EVP_DigestFinal_ex(ctx, out, NULL);
	}
	EVP_MD_CTX_free(ctx);
	return n < 0 ? -1 : 0;
}

/* ---- sending one file ---- */

static struct sent_file *find_sent(struct file_source *fs, const char *path)
{
	struct sent_file *f = map_get(&fs->sent, map_hash(path));

	while (f && strcmp(f->path, path) != 0)
		f = f->next;
	return f;
}

static struct sent_file *new_sent(struct file_source *fs, const char *path, struct err *err)
{
	struct sent_file *f = calloc(1, sizeof(*f) + strlen(path) + 1);
	uint64_t hash = map_hash(path);

	if (!f) {
		err_nomem(err);
		return NULL;
	}
	strcpy(f->path, path);
	f->next = map_get(&fs->sent, hash);
	if (!map_set(&fs->sent, hash, f)) {
		free(f);
		err_nomem(err);
		return NULL;
	}
	return f;
}

struct sending {
	struct round *r;
	struct sent_file *f;
	uint32_t index;
	bool begun;
};

static int begin(struct sending *s, struct err *err)
{
	Wire__FileBegin msg = WIRE__FILE_BEGIN__INIT;

	if (s->begun)
		return 0;
	s->begun = true;
	msg.index = s->index;
	return channel_send(s->r->ch, MSG_FILE_BEGIN, &msg.base, err);
}

static int send_block(struct sending *s, uint64_t off, size_t bytes, struct err *err)
{
	uint64_t le_off = htole64(off);
	struct iovec pieces[] = {{&le_off, sizeof(le_off)}, {s->r->fs->buf, bytes}};

	if (begin(s, err) < 0)
		return -1;
	s->r->done_bytes += bytes;
	s->r->fs->totals.bytes += bytes;
	if (s->r->progress)
		s->r->progress(s->r->arg, s->r->done_bytes, s->r->total_bytes);
	return channel_send_raw(s->r->ch, MSG_FILE_DATA, pieces, ARRAY_SIZE(pieces), err);
}

/* No data between @off and @off + @bytes. */
static bool is_hole(int fd, uint64_t off, size_t bytes)
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);

	return data < 0 ? errno == ENXIO : (uint64_t)data >= off + bytes;
}

/* Sends block @i if the destination does not have it like this. Returns the bytes read, or -1. */
static ssize_t sync_block(struct sending *s, int fd, size_t i, size_t bytes, struct err *err)
{
	struct block *known = i < s->f->blocks.n ? &s->f->blocks.v[i] : NULL;
	uint64_t off = (uint64_t)i * FILE_BLOCK_BYTES;
	uint8_t *buf = s->r->fs->buf;
	struct block now = {.hole = is_hole(fd, off, bytes)};
	ssize_t n = (ssize_t)bytes;

	/* the copy is as empty as a hole where nothing was written yet */
	if (now.hole && (!known || known->hole)) {
		if (!known && !vec_push(&s->f->blocks, now))
			return err_nomem(err);
		return n;
	}
	n = pread(fd, buf, bytes, (off_t)off);
	if (n < 0)
		return err_sys(err, "%s: cannot read it", s->f->path);
	if (n == 0)
		return 0;
	now.hole = false;
	SHA256(buf, (size_t)n, now.sha256);
	if (known && !known->hole && !memcmp(known->sha256, now.sha256, SHA256_BYTES))
		return n;
	if (send_block(s, off, (size_t)n, err) < 0)
		return -1;
	if (known)
		*known = now;
	else if (!vec_push(&s->f->blocks, now))
		return err_nomem(err);
	return n;
}

/* Brings the destination's copy up to date. */
static int sync_file(struct round *r, uint32_t index, struct sent_file *f, bool first, struct err *err)
{
	struct sending s = {.r = r, .f = f, .index = index};
	cleanup_close int fd = open(f->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	Wire__FileEnd end = WIRE__FILE_END__INIT;
	uint64_t done = 0, size;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s: cannot open it to copy it", f->path);
	size = (uint64_t)st.st_size;
	for (size_t i = 0; done < size; i++) {
		size_t want = (size_t)MIN(size - done, (uint64_t)FILE_BLOCK_BYTES);
		ssize_t n = sync_block(&s, fd, i, want, err);

		if (n < 0)
			return -1;
		done += (uint64_t)n;
		if ((size_t)n < want)
			break; /* it was cut while we read */
	}
	f->blocks.n = MIN(f->blocks.n, (size_t)((done + FILE_BLOCK_BYTES - 1) / FILE_BLOCK_BYTES));
	if (!first && !s.begun && done == f->size)
		return 0;
	f->size = done;
	end.size = done;
	if (begin(&s, err) < 0)
		return -1;
	log_debug("%s: %s, %llu bytes", f->path, first ? "copied" : "brought up to date",
		  (unsigned long long)done);
	return channel_send(r->ch, MSG_FILE_END, &end.base, err);
}

static int copy_file(struct round *r, uint32_t index, struct err *err)
{
	struct sent_file *f = new_sent(r->fs, r->list->files[index]->path, err);

	if (!f)
		return -1;
	r->fs->totals.files++;
	return sync_file(r, index, f, true, err);
}

/* ---- deciding ---- */

static void refuse(struct round *r, const char *path, const char *why)
{
	char *text;

	if (asprintf(&text, "%.300s: %s", path, why) < 0)
		text = NULL;
	if (!vec_push(&r->refusals, text))
		free(text);
	r->n_refused++;
}

static int same_content(const char *path, const Wire__FileState *state, bool *same, struct err *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	uint8_t sha256[SHA256_BYTES];

	if (fd < 0 || file_sha256(fd, sha256) < 0)
		return err_sys(err, "%s: cannot read it to compare it", path);
	*same = state->sha256.len == SHA256_BYTES &&
		!memcmp(state->sha256.data, sha256, SHA256_BYTES);
	return 0;
}

enum verdict { LEAVE, COPY, UPDATE };

/* What to do with one path; refusals are noted. */
static int decide(struct round *r, const Wire__FileNote *note, const Wire__FileState *state,
		  enum verdict *out, struct err *err)
{
	const struct file_policy *p = &r->fs->policy;
	bool same = false;

	*out = LEAVE;
	switch (state->state) {
	case WIRE_FILE_SAME:
	case WIRE_FILE_SHARED:
		return 0;
	case WIRE_FILE_STAGED:
		if (!find_sent(r->fs, note->path))
			return err_set(err, EPROTO, "%s: the destination claims a copy", note->path);
		*out = UPDATE;
		return 0;
	case WIRE_FILE_MADE:
		if (!p->copy)
			refuse(r, note->path, "missing at the destination");
		return 0;
	case WIRE_FILE_MISSING:
		if (note->must_exist)
			refuse(r, note->path, "missing at the destination, and cannot be copied");
		else if (!p->copy)
			refuse(r, note->path, "missing at the destination");
		else
			*out = COPY;
		return 0;
	case WIRE_FILE_STALE:
		if (!p->copy)
			refuse(r, note->path, "older at the destination");
		else
			*out = COPY;
		return 0;
	case WIRE_FILE_UNSURE:
		if (same_content(note->path, state, &same, err) < 0)
			return -1;
		if (same)
			return 0;
		break;
	case WIRE_FILE_DIFFERENT:
		break;
	case WIRE_FILE_WRONG_TYPE:
		refuse(r, note->path, "another type of file, or another link, at the destination");
		return 0;
	default:
		return err_set(err, EPROTO, "%s: unknown state %u", note->path, state->state);
	}
	if (!p->copy)
		refuse(r, note->path, "different at the destination");
	else if (!p->overwrite)
		refuse(r, note->path,
		       "exists at the destination with other content; see --overwrite-files");
	else
		*out = COPY;
	return 0;
}

/* One refusal is the sentence itself; several are listed before it. */
static int tell_refusals(struct round *r, struct err *err)
{
	const char *first = r->refusals.n && r->refusals.v[0] ? r->refusals.v[0] : "a file";

	if (r->n_refused == 1)
		return err_set(err, EEXIST, "%s", first);
	vec_foreach (text, &r->refusals) {
		if (r->refused && *text)
			r->refused(r->arg, *text);
	}
	return err_set(err, EEXIST, "%s (and %u more)", first, r->n_refused - 1);
}

static int decide_all(struct round *r, const Wire__FileStates *states, uint8_t *verdicts,
		      struct err *err)
{
	for (uint32_t i = 0; i < r->list->n_files; i++) {
		enum verdict v;

		if (decide(r, r->list->files[i], states->states[i], &v, err) < 0)
			return -1;
		verdicts[i] = (uint8_t)v;
		if (v != LEAVE)
			r->total_bytes += r->list->files[i]->size;
	}
	return r->n_refused ? tell_refusals(r, err) : 0;
}

static int send_all(struct round *r, const uint8_t *verdicts, struct err *err)
{
	struct sent_file *f;

	for (uint32_t i = 0; i < r->list->n_files; i++) {
		if (verdicts[i] == COPY && copy_file(r, i, err) < 0)
			return -1;
		if (verdicts[i] != UPDATE)
			continue;
		f = find_sent(r->fs, r->list->files[i]->path);
		if (!f || sync_file(r, i, f, false, err) < 0)
			return -1;
	}
	return channel_send(r->ch, MSG_FILES_SENT, NULL, err);
}

/* The destination's answers to a list. Free with wire_free. NULL + err. */
static Wire__FileStates *hear_states(struct channel *ch, const Wire__FileList *list, struct err *err)
{
	Wire__FileStates *states = channel_expect(ch, MSG_FILE_STATES, err);

	if (!states || states->n_states == list->n_files)
		return states;
	err_set(err, EPROTO, "%zu answers about %zu files", states->n_states, list->n_files);
	wire_free(states);
	return NULL;
}

static int is_there(const Wire__FileNote *note, const Wire__FileState *state, bool *out,
		    struct err *err)
{
	/* a stale one is the tree's own, as it left it there: its newer state takes its place */
	*out = state->state == WIRE_FILE_SAME || state->state == WIRE_FILE_SHARED ||
	       state->state == WIRE_FILE_STALE;
	return state->state == WIRE_FILE_UNSURE ? same_content(note->path, state, out, err) : 0;
}

int files_are_there(struct channel *ch, const Wire__FileList *list, const char **what_out,
		    struct err *err)
{
	Wire__FileStates *states;
	int rc = 0;

	*what_out = NULL;
	if (files_ask(ch, list, err) < 0)
		return -1;
	states = hear_states(ch, list, err);
	if (!states)
		return -1;
	for (size_t i = 0; i < list->n_files && !rc && !*what_out; i++) {
		bool there;

		rc = is_there(list->files[i], states->states[i], &there, err);
		if (!rc && !there)
			*what_out = list->files[i]->path;
	}
	wire_free(states);
	return rc;
}

int files_ask(struct channel *ch, const Wire__FileList *list, struct err *err)
{
	return channel_send(ch, MSG_FILE_LIST, &list->base, err);
}

int files_send(struct file_source *fs, struct channel *ch, const Wire__FileList *list,
	       void (*refused)(void *arg, const char *text),
	       void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
	       struct err *err)
{
	struct round r = {.fs = fs,
			  .ch = ch,
			  .list = list,
			  .refused = refused,
			  .progress = progress,
			  .arg = arg};
	cleanup_free uint8_t *verdicts = calloc(list->n_files + 1, 1);
	Wire__FileStates *states;
	int rc;

	if (!verdicts)
		return err_nomem(err);
	states = hear_states(ch, list, err);
	if (!states)
		return -1;
	rc = decide_all(&r, states, verdicts, err);
	wire_free(states);
	vec_foreach (text, &r.refusals)
		free(*text);
	vec_free(&r.refusals);
	return rc < 0 ? -1 : send_all(&r, verdicts, err);
}

// SPDX-License-Identifier: Apache-2.0
/* Contents of files: for those who read, compare, or look for holes. A few files stay open for a while. */
#include "lazyfs/serve_priv.h"

#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- contents ---- */

void serve_data_close(struct open_file *f)
{
	if (!f->path)
		return;
	close(f->fd);
	free(f->path);
	*f = (struct open_file){0};
}

/* The descriptor of a file, opened if it is not yet; -1 + errno. */
static int get_file(struct server *s, const char *path, struct open_file **out)
{
	struct open_file *oldest = &s->files[0];

	for (size_t i = 0; i < OPEN_FILES; i++) {
		struct open_file *f = &s->files[i];

		if (f->path && !strcmp(f->path, path)) {
			f->used = s->requests;
			*out = f;
			return 0;
		}
		if (f->used < oldest->used)
			oldest = f;
	}
	serve_data_close(oldest);
	oldest->fd = jail_open(&s->jail, path, serve_held(s, path), false);
	if (oldest->fd < 0)
		return -1;
	oldest->path = strdup(path);
	if (!oldest->path) {
		close(oldest->fd);
		errno = ENOMEM;
		return -1;
	}
	oldest->used = s->requests;
	*out = oldest;
	return 0;
}

static bool unchanged(int fd, const struct lf_ident *want)
{
	struct lf_attr now;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return false;
	jail_attr(&st, &now);
	return lf_ident_same(&now.id, want);
}

/*
 * The file that the request means: by name, and still with the identity that
 * the client knows. A descriptor that was opened earlier may be of a file that
 * has another name by now; its ctime tells. -1 + errno, ESTALE: it was changed.
 */
static int wanted_file(struct server *s, const struct lf_request *q, struct open_file **out)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		if (get_file(s, q->path, out) < 0) {
			if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
				errno = ESTALE;
			return -1;
		}
		if (unchanged((*out)->fd, &q->want))
			return 0;
		/* perhaps another file has the name now, and that one is meant */
		serve_data_close(*out);
	}
	errno = ESTALE;
	return -1;
}

/* As many blocks as bytes: no holes, and none to look for, which may cost more than to read. */
static bool is_dense(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size;
}

static int gather_dense(struct server *s, int fd, const struct lf_request *q, struct lf_reply *r)
{
	uint64_t n = MIN((uint64_t)q->bytes, q->want.size - q->offset);

	if (io_pread_full(fd, s->buf, n, (off_t)q->offset) < 0)
		return -1;
	r->extents[0] = (struct lf_extent){.bytes = (uint32_t)n};
	r->n_extents = 1;
	r->covered = n;
	r->data = s->buf;
	return 0;
}

/* Reads the data of the range into s->buf; what is not in an extent is a hole. -1 + errno. */
static int gather(struct server *s, int fd, const struct lf_request *q, struct lf_reply *r)
{
	uint64_t size = q->want.size, at = q->offset, end = MIN(q->offset + q->bytes, size);
	size_t filled = 0;

	if (is_dense(fd))
		return gather_dense(s, fd, q, r);

	while (at < end && r->n_extents < LF_EXTENTS_MAX) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;
		uint64_t n;

		if (data < 0 && errno == ENXIO)
			data = (off_t)size;
		if (data < 0)
			return -1;
		if ((uint64_t)data >= end) {
			/* a hole may be told as a whole; block maps know 4 KiB */
			at = MAX(end, (uint64_t)data >= size ? size : (uint64_t)data & ~4095ull);
			break;
		}
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole <= data)
			return -1;
		n = MIN((uint64_t)hole, end) - (uint64_t)data;
		if (io_pread_full(fd, s->buf + filled, n, data) < 0)
			return -1;
		r->extents[r->n_extents++] = (struct lf_extent){.at = (uint32_t)((uint64_t)data -
										 q->offset),
								.bytes = (uint32_t)n};
		filled += n;
		at = (uint64_t)data + n;
	}
	r->covered = at - q->offset;
	r->data = s->buf;
	return 0;
}

int serve_data_read(struct server *s, const struct lf_request *q, struct err *err)
{
	struct lf_reply r = {.type = LF_DATA, .id = q->id, .position = q->offset};
	struct open_file *f;

	if (q->offset >= q->want.size)
		return serve_fail(s, q, EINVAL, err);
	if (wanted_file(s, q, &f) < 0)
		return serve_fail(s, q, errno, err);
	/* a file that is cut while it is read ends early (EPIPE), or has no data where it had */
	if (gather(s, f->fd, q, &r) < 0)
		return serve_fail(s, q, unchanged(f->fd, &q->want) ? errno : ESTALE, err);
	if (!unchanged(f->fd, &q->want))
		return serve_fail(s, q, ESTALE, err);
	return serve_answer(s, &r, err);
}

/* So that the client can use a file of its own that is the same. */
int serve_data_digest(struct server *s, const struct lf_request *q, struct err *err)
{
	uint64_t at = q->offset, end = MIN(q->offset + q->bytes, q->want.size);
	struct lf_reply r = {.type = LF_SUM, .id = q->id};
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	struct open_file *f;
	int no = 0;

	if (!ctx || !EVP_DigestInit_ex(ctx, EVP_sha256(), NULL))
		no = ENOMEM;
	if (!no && wanted_file(s, q, &f) < 0)
		no = errno;
	while (!no && at < end) {
		size_t n = (size_t)MIN(end - at, (uint64_t)LF_READ_MAX);

		if (io_pread_full(f->fd, s->buf, n, (off_t)at) < 0)
			no = unchanged(f->fd, &q->want) ? errno : ESTALE;
		else if (!EVP_DigestUpdate(ctx, s->buf, n))
			no = EIO;
		at += n;
	}
	if (!no && !EVP_DigestFinal_ex(ctx, r.sum, NULL))
		no = EIO;
	if (!no && !unchanged(f->fd, &q->want))
		no = ESTALE;
	EVP_MD_CTX_free(ctx);
	return no ? serve_fail(s, q, no, err) : serve_answer(s, &r, err);
}

int serve_data_seek(struct server *s, const struct lf_request *q, struct err *err)
{
	struct lf_reply r = {.type = LF_POSITION, .id = q->id};
	struct open_file *f;
	off_t pos;

	if (wanted_file(s, q, &f) < 0)
		return serve_fail(s, q, errno, err);
	pos = lseek(f->fd, (off_t)q->offset, (int)q->bytes);
	if (pos < 0)
		return serve_fail(s, q, errno, err);
	r.position = (uint64_t)pos;
	return serve_answer(s, &r, err);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Images for criu restore --stream: CRIU asks for one name at a time, and is kept waiting for what has not
 * arrived. What it has opened it reads when it likes.
 */
#include "store/image_stream.h"

#include "base/vec.h"
#include "store/stream.h"
#include "wire/streamer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

enum { PAGES_BYTES = 256 << 10 }; /* at once from the store */

/* An image on its way. */
struct outgoing_image {
	int fd;
	bool is_pages, is_last; /* is_last: nothing comes behind what is in buf */
	uint32_t id;
	uint64_t off; /* of the pages behind those in buf */
	uint8_t *buf;
	size_t at, n; /* of buf: written, all */
	char name[STORE_NAME_MAX_BYTES + 1];
};

struct serve {
	int sock;
	bool closed, whole; /* whole: it builds on nothing */
	struct store *from;
	int (*interrupted)(struct err *err);
	VEC(struct outgoing_image *) images;
	VEC(struct pollfd) polls; /* of the socket, then of the images */
};

static void free_image(struct outgoing_image *img)
{
	if (img->fd >= 0)
		close(img->fd);
	free(img->buf);
	free(img);
}

/* ---- one image ---- */

/* The next pages. 1: there is no such image. */
static int next_pages(struct serve *s, struct outgoing_image *img, struct err *err)
{
	int rc = store_read_pages(s->from, img->id, img->off, img->buf, PAGES_BYTES, &img->n, err);

	img->at = 0;
	img->off += img->n;
	img->is_last = img->n == 0;
	return rc < 0 ? err_wrap(err, "%s", img->name) : rc;
}

/* Pages behind others. */
static int more_pages(struct serve *s, struct outgoing_image *img, struct err *err)
{
	int rc = next_pages(s, img, err);

	return rc > 0 ? err_set(err, EPROTO, "%s: it is gone", img->name) : rc;
}

/* CRIU's stream has no place for what an image builds on. It is known when the first image is there. */
static int check_parent(struct serve *s, struct err *err)
{
	struct store *parent;

	if (s->whole)
		return 0;
	if (store_parent(s->from, &parent, err))
		return -1;
	s->whole = !parent;
	return parent ? err_set(err, ENOTSUP,
				"the snapshot builds on another one, which CRIU cannot restore from a "
				"stream; ferry restore can") :
			0;
}

/* The image, or the first pages of it. 1: there is none. */
static int find(struct serve *s, struct outgoing_image *img, struct err *err)
{
	void *data;
	int rc;

	if (streamer_is_pages(img->name, &img->id)) {
		img->is_pages = true;
		img->buf = malloc(PAGES_BYTES);
		return img->buf ? next_pages(s, img, err) : err_nomem(err);
	}
	rc = store_get(s->from, img->name, &data, &img->n, err);
	img->is_last = true;
	if (rc == 0)
		img->buf = data;
	return rc == 0 && check_parent(s, err) ? -1 : rc;
}

/* Into the pipe. 1: that was all, or CRIU wants no more; 0: it is full; -1. */
static int write_image(struct serve *s, struct outgoing_image *img, struct err *err)
{
	ssize_t n;

	for (;;) {
		if (img->at == img->n && !img->is_last && more_pages(s, img, err))
			return -1;
		if (img->at == img->n && img->is_last)
			return 1;
		n = write(img->fd, img->buf + img->at, img->n - img->at);
		if (n < 0 && errno == EPIPE)
			return 1;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_sys(err, "%s: cannot write", img->name);
		img->at += n > 0 ? (size_t)n : 0;
	}
}

/* ---- all of them ---- */

static int reply(struct serve *s, bool exists, struct err *err)
{
	uint8_t bytes[STREAMER_REPLY_BYTES];
	struct stream st;
	int rc;

	streamer_reply(exists, bytes);
	stream_init(&st, -1, s->sock, s->interrupted);
	rc = stream_send_raw(&st, bytes, sizeof(bytes), err);
	stream_finish(&st);
	return rc;
}

/* Answers a request for @img. 1: it is on its way, 0: there is no such image. */
static int answer(struct serve *s, struct outgoing_image *img, struct err *err)
{
	int rc = find(s, img, err);

	if (rc < 0 || reply(s, rc == 0, err))
		return -1;
	if (rc)
		return 0;
	img->fd = image_stream_pipe(s->sock, img->name, s->interrupted, err);
	if (img->fd < 0)
		return -1;
	if (img->is_pages)
		(void)!fcntl(img->fd, F_SETPIPE_SZ, PAGES_BYTES);
	return vec_push(&s->images, img) ? 1 : err_nomem(err);
}

/* A question, or the end of the connection. */
static int take_request(struct serve *s, struct err *err)
{
	char name[STORE_NAME_MAX_BYTES + 1];
	struct outgoing_image *img;
	int rc = image_stream_request(s->sock, s->interrupted, name, err);

	if (rc <= 0) {
		s->closed = rc == 0;
		return rc;
	}
	img = calloc(1, sizeof(*img));
	if (!img)
		return err_nomem(err);
	img->fd = -1;
	strcpy(img->name, name);
	rc = answer(s, img, err);
	if (rc <= 0)
		free_image(img);
	return rc < 0 ? -1 : 0;
}

/* Until a pipe has room, or a question comes. */
static int await(struct serve *s, struct err *err)
{
	s->polls.n = 0;
	if (!vec_push(&s->polls, (struct pollfd){.fd = s->closed ? -1 : s->sock, .events = POLLIN}))
		return err_nomem(err);
	vec_foreach (img, &s->images)
		if (!vec_push(&s->polls, (struct pollfd){.fd = (*img)->fd, .events = POLLOUT}))
			return err_nomem(err);
	return image_stream_wait(s->polls.v, s->polls.n, s->interrupted, err);
}

/* Writes what fits. Images that are written leave the list. */
static int step(struct serve *s, struct err *err)
{
	size_t kept = 0, n = s->images.n, i;
	int rc = 0;

	for (i = 0; i < n && rc >= 0; i++) {
		rc = s->polls.v[i + 1].revents ? write_image(s, s->images.v[i], err) : 0;
		if (rc > 0)
			free_image(s->images.v[i]);
		else
			s->images.v[kept++] = s->images.v[i];
	}
	for (; i < n; i++) /* after an error */
		s->images.v[kept++] = s->images.v[i];
	s->images.n = kept;
	if (rc < 0)
		return -1;
	return s->polls.v[0].revents ? take_request(s, err) : 0;
}

int image_stream_serve(int sock, struct store *from, int (*interrupted)(struct err *err),
		       struct err *err)
{
	struct serve s = {.sock = sock, .from = from, .interrupted = interrupted};
	int rc = 0;

	while (rc == 0 && (!s.closed || s.images.n))
		rc = await(&s, err) || step(&s, err) ? -1 : 0;
	vec_foreach (img, &s.images)
		free_image(*img);
	vec_free(&s.images);
	vec_free(&s.polls);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Images from criu dump --stream. Pages go into the store as they come; another image when it is complete, as
 * stores take those whole.
 */
#include "store/image_stream.h"

#include "base/vec.h"
#include "wire/streamer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

enum {
	IMAGES_MAX = 4096, /* open at once: a dump opens some forty, and a few for each task */
	FIRST_BYTES = 8 << 10,
	PAGES_BYTES = 1 << 20, /* so many go into the store at once, and into the pipe */
};

/* An image on its way. */
struct incoming_image {
	int fd;
	bool is_pages;
	uint32_t id;
	uint8_t *buf; /* what is not in the store yet */
	size_t n, cap;
	char name[STORE_NAME_MAX_BYTES + 1];
};

struct capture {
	int sock;
	bool closed, inventory;
	struct store *into;
	int (*interrupted)(struct err *err);
	VEC(struct incoming_image *) images;
	VEC(struct pollfd) polls; /* of the socket, then of the images */
};

static void free_image(struct incoming_image *img)
{
	close(img->fd);
	free(img->buf);
	free(img);
}

/* ---- one image ---- */

/* Room for more, at least a byte. */
static int make_room(struct incoming_image *img, struct err *err)
{
	size_t cap = img->cap ? img->cap * 2 : img->is_pages ? PAGES_BYTES : FIRST_BYTES;
	uint8_t *more;

	if (img->n < img->cap)
		return 0;
	if (img->n > STORE_OBJECT_MAX_BYTES)
		return err_set(err, EFBIG, "%s: more than %lu bytes are no image", img->name,
			       STORE_OBJECT_MAX_BYTES);
	more = realloc(img->buf, cap);
	if (!more)
		return err_nomem(err);
	img->buf = more;
	img->cap = cap;
	return 0;
}

/* Pages that are whole, into the store; all of them at the end of the image. */
static int put_pages(struct capture *c, struct incoming_image *img, bool end, struct err *err)
{
	size_t n = end ? img->n : img->n / PAGE_BYTES * PAGE_BYTES;

	if (n && store_put_pages(c->into, img->id, img->buf, n, err))
		return -1;
	img->n -= n;
	if (img->n)
		memmove(img->buf, img->buf + n, img->n);
	return end ? store_put_pages(c->into, img->id, NULL, 0, err) : 0;
}

static int finish_image(struct capture *c, struct incoming_image *img, struct err *err)
{
	if (img->is_pages)
		return put_pages(c, img, true, err);
	c->inventory |= !strcmp(img->name, "inventory.img");
	return store_put(c->into, img->name, img->buf, img->n, err);
}

/* What the pipe has. 1: that was all, and it is in the store; 0: there will be more; -1. */
static int read_image(struct capture *c, struct incoming_image *img, struct err *err)
{
	ssize_t n;

	if (make_room(img, err))
		return -1;
	n = read(img->fd, img->buf + img->n, img->cap - img->n);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return err_sys(err, "%s: cannot read", img->name);
	img->n += (size_t)n;
	if (n == 0)
		return finish_image(c, img, err) ? -1 : 1;
	return img->is_pages && img->n == img->cap ? put_pages(c, img, false, err) : 0;
}

/* ---- all of them ---- */

/* A new image, or the end of the connection. */
static int take_request(struct capture *c, struct err *err)
{
	struct incoming_image *img;
	char name[STORE_NAME_MAX_BYTES + 1];
	int rc = image_stream_request(c->sock, c->interrupted, name, err);

	if (rc <= 0) {
		c->closed = rc == 0;
		return rc;
	}
	if (c->images.n == IMAGES_MAX)
		return err_set(err, EMFILE, "%s: CRIU has %d images open at once", name, IMAGES_MAX);
	img = calloc(1, sizeof(*img));
	if (!img)
		return err_nomem(err);
	strcpy(img->name, name);
	img->is_pages = streamer_is_pages(name, &img->id);
	img->fd = image_stream_pipe(c->sock, name, c->interrupted, err);
	if (img->fd < 0 || !vec_push(&c->images, img)) {
		rc = img->fd < 0 ? -1 : err_nomem(err);
		if (img->fd >= 0)
			close(img->fd);
		free(img);
		return rc;
	}
	/* Fewer switches; not for the many small ones, as there is an upper bound of pages in a user's pipes. */
	if (img->is_pages)
		(void)!fcntl(img->fd, F_SETPIPE_SZ, PAGES_BYTES);
	return 0;
}

/* Until a pipe or the connection can be read. */
static int await(struct capture *c, struct err *err)
{
	c->polls.n = 0;
	if (!vec_push(&c->polls, (struct pollfd){.fd = c->closed ? -1 : c->sock, .events = POLLIN}))
		return err_nomem(err);
	vec_foreach (img, &c->images)
		if (!vec_push(&c->polls, (struct pollfd){.fd = (*img)->fd, .events = POLLIN}))
			return err_nomem(err);
	return image_stream_wait(c->polls.v, c->polls.n, c->interrupted, err);
}

/* Reads what there is. Images that are complete leave the list. */
static int step(struct capture *c, struct err *err)
{
	size_t kept = 0, n = c->images.n, i;
	int rc = 0;

	for (i = 0; i < n && rc >= 0; i++) {
		rc = c->polls.v[i + 1].revents ? read_image(c, c->images.v[i], err) : 0;
		if (rc > 0)
			free_image(c->images.v[i]);
		else
			c->images.v[kept++] = c->images.v[i];
	}
	for (; i < n; i++) /* after an error */
		c->images.v[kept++] = c->images.v[i];
	c->images.n = kept;
	if (rc < 0)
		return -1;
	return c->polls.v[0].revents ? take_request(c, err) : 0;
}

int image_stream_capture(int sock, struct store *into, int (*interrupted)(struct err *err),
			 struct err *err)
{
	struct capture c = {.sock = sock, .into = into, .interrupted = interrupted};
	int rc = 0;

	while (rc == 0 && (!c.closed || c.images.n))
		rc = await(&c, err) || step(&c, err) ? -1 : 0;
	vec_foreach (img, &c.images)
		free_image(*img);
	vec_free(&c.images);
	vec_free(&c.polls);
	if (rc == 0 && !c.inventory)
		rc = err_set(err, EPIPE, "CRIU has ended its dump before it was complete");
	return rc ? -1 : store_complete(into, err);
}

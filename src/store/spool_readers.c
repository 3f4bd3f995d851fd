// SPDX-License-Identifier: Apache-2.0
// Those who wait for what a spool gets: readers, who find by name and offset, and the forwarder, who takes all in its order.
#include "store/spool_priv.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>

/* How often it is asked whether the asker is still there. */
enum { LOOK_MS = 200 };

/* Until something comes, or has perhaps. A writer that waits for room must know that we wait, too. -1: for nobody. */
static int wait_for_more(struct shot *shot, const struct asker *asker, struct err *err)
{
	uint64_t adds = shot->adds;

	shot->waiting++;
	pthread_cond_broadcast(&shot->spool->room);
	spool_wait(shot->spool, &shot->spool->came, asker ? clock_ms() + LOOK_MS : 0);
	if (shot->adds == adds)
		shot->waiting--;
	return asker ? asker->gone(asker->of, err) : 0;
}

static int was_let_go(const struct shot *shot, const char *name, struct err *err)
{
	if (shot->failed) {
		*err = shot->why;
		return -1;
	}
	return err_set(err, ENOBUFS,
		       "%s: was handed out before and then let go to make room; a second restore "
		       "needs a larger --max-memory",
		       name);
}

/* Waits for an image. 0: it is pinned, 1: it will not come, -1. The lock is held. */
static int await_image(struct shot *shot, const struct asker *asker, const char *name,
		       struct item **out, struct err *err)
{
	struct item *it;

	while (!(it = spool_find_image(shot, name)) && !shot->failed && !shot->complete) {
		if (wait_for_more(shot, asker, err))
			return -1;
	}
	if (!it && shot->failed) {
		*err = shot->why;
		return -1;
	}
	if (!it || it->type == BLOCK_SKIP)
		return 1;
	if (it->gone)
		return was_let_go(shot, name, err);
	it->pins++;
	*out = it;
	return 0;
}

int shot_get(struct shot *shot, const struct asker *asker, const char *name, void **data_out,
	     size_t *bytes_out, struct err *err)
{
	struct spool *sp = shot->spool;
	struct item *it = NULL;
	int rc;

	pthread_mutex_lock(&sp->lock);
	rc = await_image(shot, asker, name, &it, err);
	pthread_mutex_unlock(&sp->lock);
	if (rc)
		return rc;
	*data_out = malloc(it->n_data ? it->n_data : 1);
	if (!*data_out)
		rc = err_nomem(err);
	else if (it->n_data)
		memcpy(*data_out, it->data, it->n_data);
	*bytes_out = it->n_data;
	pthread_mutex_lock(&sp->lock);
	it->spent |= rc == 0;
	spool_unpin(shot, it);
	pthread_mutex_unlock(&sp->lock);
	return rc;
}

/* The piece at an offset that has arrived. */
static struct item *find_piece(const struct run *run, uint64_t off)
{
	size_t low = 0, high = run->pieces.n, mid;

	while (high - low > 1) {
		mid = low + (high - low) / 2;
		if (run->pieces.v[mid]->off <= off)
			low = mid;
		else
			high = mid;
	}
	return run->pieces.v[low];
}

/* Waits for the first of the bytes. 0: the piece with it is pinned. The lock is held. */
static int await_piece(struct shot *shot, const struct asker *asker, uint32_t id, uint64_t off,
		       size_t bytes, struct item **out, struct err *err)
{
	struct run *run;
	char name[32];

	for (;;) {
		run = map_get(&shot->runs, id);
		if (run && run->bytes > off)
			break;
		if (shot->failed) {
			*err = shot->why;
			return -1;
		}
		if (!run && shot->complete)
			return err_set(err, ENOENT, "pages-%u.img: there is no such image", id);
		if (run && (run->ended || shot->complete))
			return err_set(err, EINVAL,
				       "pages-%u.img: offset %llu: %zu bytes should follow, but the image "
				       "ends at %llu",
				       id, (unsigned long long)off, bytes,
				       (unsigned long long)run->bytes);
		if (wait_for_more(shot, asker, err))
			return -1;
	}
	*out = find_piece(run, off);
	if ((*out)->gone && (*out)->type == BLOCK_PAGES) {
		snprintf(name, sizeof(name), "pages-%u.img", id);
		return was_let_go(shot, name, err);
	}
	(*out)->pins++;
	return 0;
}

/* Notes that these bytes of a piece were handed out. The lock is held. */
static void note_seen(struct item *it, uint64_t from, uint64_t to)
{
	size_t pages = (it->n_data + PAGE_BYTES - 1) / PAGE_BYTES, seen = 0, page;

	for (page = (from + PAGE_BYTES - 1) / PAGE_BYTES;
	     page < pages && ((page + 1) * PAGE_BYTES <= to || to == it->n_data); page++)
		it->seen[page / 64] |= 1ULL << page % 64;
	for (size_t i = 0; i < SEEN_WORDS; i++)
		seen += (size_t)__builtin_popcountll(it->seen[i]);
	it->spent |= seen == pages;
}

/* Copies what one piece has of the bytes. Returns how many, or -1. */
static ssize_t copy_piece(struct shot *shot, const struct asker *asker, uint32_t id, uint64_t off,
			  uint8_t *buf, size_t bytes, struct err *err)
{
	struct spool *sp = shot->spool;
	struct item *it = NULL;
	uint64_t from;
	size_t n;
	int rc;

	pthread_mutex_lock(&sp->lock);
	rc = await_piece(shot, asker, id, off, bytes, &it, err);
	pthread_mutex_unlock(&sp->lock);
	if (rc)
		return -1;
	from = off - it->off;
	n = (size_t)MIN((uint64_t)bytes, it->bytes - from);
	if (it->type == BLOCK_ZEROS)
		memset(buf, 0, n);
	else
		memcpy(buf, it->data + from, n);
	pthread_mutex_lock(&sp->lock);
	if (it->type == BLOCK_PAGES)
		note_seen(it, from, from + n);
	spool_unpin(shot, it);
	pthread_mutex_unlock(&sp->lock);
	return (ssize_t)n;
}

int shot_get_pages(struct shot *shot, const struct asker *asker, uint32_t id, uint64_t off,
		   void *buf, size_t bytes, struct err *err)
{
	uint8_t *p = buf;
	ssize_t n;

	for (uint64_t at = off; bytes; at += (uint64_t)n, p += n, bytes -= (size_t)n) {
		n = copy_piece(shot, asker, id, at, p, bytes, err);
		if (n < 0 && err->no == EINVAL)
			return err_set(err, EINVAL,
				       "pages-%u.img: offset %llu: %zu bytes should follow, but the image "
				       "ends before",
				       id, (unsigned long long)off, bytes + (size_t)(at - off));
		if (n < 0)
			return -1;
	}
	return 0;
}

int shot_read_pages(struct shot *shot, const struct asker *asker, uint32_t id, uint64_t off,
		    void *buf, size_t bytes, size_t *bytes_out, struct err *err)
{
	ssize_t n = copy_piece(shot, asker, id, off, buf, bytes, err);

	*bytes_out = n > 0 ? (size_t)n : 0;
	if (n >= 0 || err->no == EINVAL) /* the end */
		return 0;
	return err->no == ENOENT ? 1 : -1;
}

int shot_wait(struct shot *shot, const struct asker *asker, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&shot->spool->lock);
	while (rc == 0 && !shot->failed && !shot->complete)
		rc = wait_for_more(shot, asker, err);
	if (rc == 0 && shot->failed) {
		*err = shot->why;
		rc = -1;
	}
	pthread_mutex_unlock(&shot->spool->lock);
	return rc;
}

/* ---- the forwarder ---- */

static void item_block(const struct item *it, struct block *out)
{
	*out = (struct block){
		.type = it->type,
		.id = it->id,
		.off = it->off,
		.bytes = it->bytes,
		.data = it->data,
		.n_data = it->n_data,
	};
	strcpy(out->name, it->name);
}

int shot_next(struct shot *shot, struct item **at, struct block *out, struct err *err)
{
	struct item *it;
	int rc = 1;

	pthread_mutex_lock(&shot->spool->lock);
	if (*at) {
		(*at)->spent = true;
		spool_unpin(shot, *at);
		if (shot->spool->forwards && !(*at)->pins && !shot->readers)
			spool_let_go(shot->spool, *at);
	}
	while (!(it = *at ? (*at)->next : shot->first) && !shot->failed && !shot->complete)
		pthread_cond_wait(&shot->spool->came, &shot->spool->lock);
	if (it && !shot->failed) {
		it->pins++;
		*at = it;
		item_block(it, out);
	} else if (shot->failed) {
		*err = shot->why;
		rc = -1;
	} else {
		rc = 0;
	}
	pthread_mutex_unlock(&shot->spool->lock);
	return rc;
}

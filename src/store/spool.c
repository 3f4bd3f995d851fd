// SPDX-License-Identifier: Apache-2.0
/*
 * One lock for all, and two conditions: what came wakes all readers, and room wakes all writers; each
 * looks for himself. Bytes are copied without the lock, from items that
 * are pinned meanwhile.
 */
#include "store/spool_priv.h"

#include "base/clock.h"
#include "store/bufs.h"

#include <errno.h>
#include <string.h>

/* Who asks for a snapshot so soon after its failure is somewhat late for it; later he is early for the next one. */
enum { FRESH_MS = 10000 };

bool spool_wait(struct spool *sp, pthread_cond_t *cond, uint64_t end_ms)
{
	const struct timespec end = {.tv_sec = (time_t)(end_ms / 1000),
				     .tv_nsec = (long)(end_ms % 1000) * 1000000};

	if (end_ms)
		return pthread_cond_clockwait(cond, &sp->lock, CLOCK_MONOTONIC, &end) != ETIMEDOUT;
	pthread_cond_wait(cond, &sp->lock);
	return true;
}

/* ---- the spool ---- */

struct spool *spool_create(uint64_t max_bytes, struct err *err)
{
	struct spool *sp = calloc(1, sizeof(*sp));

	if (!sp) {
		err_nomem(err);
		return NULL;
	}
	sp->max_bytes = max_bytes;
	pthread_mutex_init(&sp->lock, NULL);
	pthread_cond_init(&sp->came, NULL);
	pthread_cond_init(&sp->room, NULL);
	return sp;
}

void spool_forwards(struct spool *sp)
{
	sp->forwards = true;
}

void spool_soften(struct spool *sp)
{
	sp->soft = true;
}

void spool_let_go(struct spool *sp, struct item *it)
{
	if (it->buf)
		sp->held_bytes -= it->n_data;
	bufs_free(it->buf);
	it->buf = NULL;
	it->data = NULL;
	it->gone = true;
}

static void free_shot(struct shot *shot)
{
	struct item *it, *next;

	for (it = shot->first; it; it = next) {
		next = it->next;
		spool_let_go(shot->spool, it);
		free(it);
	}
	for (size_t i = 0; i < shot->runs.cap; i++) {
		struct run *run = shot->runs.slots[i].value;

		if (run)
			vec_free(&run->pieces);
		free(run);
	}
	map_free(&shot->images);
	map_free(&shot->runs);
	free(shot);
}

/* The lock is held. */
static void unref(struct shot *shot)
{
	struct spool *sp = shot->spool;
	struct shot *parent;

	if (--shot->refs)
		return;
	parent = shot->parent;
	free_shot(shot);
	pthread_cond_broadcast(&sp->room);
	if (parent) {
		parent->children--;
		unref(parent);
	}
}

/* The lock is held. */
static void unlist(struct shot *shot)
{
	struct shot **at = &shot->spool->shots;

	if (!shot->listed)
		return;
	while (*at != shot)
		at = &(*at)->next;
	*at = shot->next;
	shot->listed = false;
	shot->spool->leaving += shot->refs - 1 - shot->children;
	unref(shot);
}

/* What spool_write or spool_read has given. The lock is held. */
static void let_go_of(struct shot *shot)
{
	if (!shot->listed)
		shot->spool->leaving--;
	unref(shot);
}

void spool_free(struct spool *sp)
{
	if (!sp)
		return;
	while (sp->shots)
		unlist(sp->shots);
	pthread_cond_destroy(&sp->came);
	pthread_cond_destroy(&sp->room);
	pthread_mutex_destroy(&sp->lock);
	free(sp);
}

uint64_t spool_peak_bytes(struct spool *sp)
{
	uint64_t peak;

	pthread_mutex_lock(&sp->lock);
	peak = sp->peak_bytes;
	pthread_mutex_unlock(&sp->lock);
	return peak;
}

/* What has come of a snapshot that failed is of no use to anybody. The lock is held. */
static void let_all_go(struct shot *shot)
{
	for (struct item *it = shot->first; it; it = it->next) {
		if (!it->pins)
			spool_let_go(shot->spool, it);
	}
}

/* The lock is held. */
static void fail(struct shot *shot, const struct err *why)
{
	if (!shot->failed && !shot->complete) {
		shot->failed = true;
		shot->failed_ms = clock_ms();
		shot->why = *why;
		let_all_go(shot);
	}
	pthread_cond_broadcast(&shot->spool->came);
	pthread_cond_broadcast(&shot->spool->room);
}

void spool_unpin(struct shot *shot, struct item *it)
{
	it->pins--;
	if (shot->failed && !it->pins)
		spool_let_go(shot->spool, it);
	if (it->spent || it->gone)
		pthread_cond_broadcast(&shot->spool->room);
}

void spool_stop(struct spool *sp, const struct err *why)
{
	pthread_mutex_lock(&sp->lock);
	sp->stopped = true;
	sp->why = *why;
	for (struct shot *shot = sp->shots; shot; shot = shot->next)
		fail(shot, why);
	pthread_mutex_unlock(&sp->lock);
}

static struct shot *find_shot(struct spool *sp, const char *name)
{
	struct shot *shot = sp->shots;

	while (shot && strcmp(shot->name, name))
		shot = shot->next;
	return shot;
}

static struct shot *make_shot(struct spool *sp, const char *name, struct err *err)
{
	struct shot *shot = calloc(1, sizeof(*shot) + strlen(name) + 1);

	if (!shot) {
		err_nomem(err);
		return NULL;
	}
	strcpy(shot->name, name);
	shot->spool = sp;
	shot->end = &shot->first;
	shot->refs = 1;
	shot->listed = true;
	shot->next = sp->shots;
	sp->shots = shot;
	return shot;
}

/* The snapshot of a name, made if there is none. The lock is held. */
static struct shot *hold_shot(struct spool *sp, const char *name, struct err *err)
{
	struct shot *shot;

	if (sp->stopped) {
		*err = sp->why;
		return NULL;
	}
	shot = find_shot(sp, name);
	if (!shot)
		shot = make_shot(sp, name, err);
	if (shot)
		shot->refs++;
	return shot;
}

struct shot *spool_write(struct spool *sp, const char *name, struct err *err)
{
	struct shot *shot;

	pthread_mutex_lock(&sp->lock);
	shot = find_shot(sp, name);
	if (shot && shot->failed)
		unlist(shot);
	shot = hold_shot(sp, name, err);
	if (shot && shot->written) {
		err_set(err, EEXIST,
			shot->complete ? "there is a snapshot %s already" :
					 "a snapshot %s is being written already",
			name);
		unref(shot);
		shot = NULL;
	}
	if (shot)
		shot->written = true;
	pthread_mutex_unlock(&sp->lock);
	return shot;
}

void spool_await_writer(struct spool *sp, const char *name, int ms)
{
	uint64_t end_ms = clock_ms() + (uint64_t)ms;
	const struct shot *shot;

	pthread_mutex_lock(&sp->lock);
	do {
		shot = find_shot(sp, name);
	} while (shot && shot->written && !shot->failed && !shot->complete &&
		 spool_wait(sp, &sp->came, end_ms));
	pthread_mutex_unlock(&sp->lock);
}

/* The last words of a snapshot that has failed, to whom they may mean; it is not known any more. The lock is held. */
static int hear_of_failure(struct shot *shot, struct err *err)
{
	uint64_t ago_ms = clock_ms() - shot->failed_ms;
	int rc = 0;

	if (ago_ms < FRESH_MS)
		rc = err_set(err, shot->why.no,
			     "%.900s (%.1f s ago; whoever asks again waits for the next dump)",
			     shot->why.text, (double)ago_ms / 1000);
	unlist(shot);
	return rc;
}

struct shot *spool_read(struct spool *sp, const char *name, struct err *err)
{
	struct shot *shot;

	pthread_mutex_lock(&sp->lock);
	shot = sp->stopped ? NULL : find_shot(sp, name);
	if (shot && shot->failed && hear_of_failure(shot, err))
		shot = NULL;
	else
		shot = hold_shot(sp, name, err);
	if (shot)
		shot->readers++;
	pthread_mutex_unlock(&sp->lock);
	return shot;
}

void shot_close_writer(struct shot *shot)
{
	struct spool *sp = shot ? shot->spool : NULL;
	struct err why;

	if (!shot)
		return;
	err_set(&why, EPIPE, "the dump ended before it was complete");
	pthread_mutex_lock(&sp->lock);
	fail(shot, &why);
	let_go_of(shot);
	pthread_mutex_unlock(&sp->lock);
}

void shot_close_reader(struct shot *shot)
{
	struct spool *sp = shot ? shot->spool : NULL;

	if (!shot)
		return;
	pthread_mutex_lock(&sp->lock);
	shot->readers--;
	/* it frees nothing any more, which others may have waited for */
	pthread_cond_broadcast(&sp->room);
	/* nobody has come for it, and nobody will know that it was asked for; or it has failed, and here is who was told */
	if ((!shot->readers && !shot->written) || shot->failed)
		unlist(shot);
	let_go_of(shot);
	pthread_mutex_unlock(&sp->lock);
}

void shot_forget(struct shot *shot)
{
	struct spool *sp = shot->spool;
	struct shot *parent;

	pthread_mutex_lock(&shot->spool->lock);
	for (; shot; shot = parent) {
		parent = shot->parent;
		unlist(shot);
	}
	pthread_mutex_unlock(&sp->lock);
}

struct shot *shot_parent(struct shot *shot)
{
	struct shot *parent;

	pthread_mutex_lock(&shot->spool->lock);
	parent = shot->parent;
	pthread_mutex_unlock(&shot->spool->lock);
	return parent;
}

const char *shot_name(const struct shot *shot)
{
	return shot->name;
}

/* ---- room ---- */

/* Lets go of what was handed out, oldest first, until @bytes fit. */
static bool make_room(struct spool *sp, uint64_t bytes)
{
	for (struct shot *shot = sp->shots; shot; shot = shot->next) {
		struct item *it = shot->oldest ? shot->oldest : shot->first;
		bool prefix = true;

		for (; it && sp->held_bytes + bytes > sp->max_bytes; it = it->next) {
			if (it->spent && !it->pins && !it->gone)
				spool_let_go(sp, it);
			prefix &= it->gone;
			if (prefix)
				shot->oldest = it;
		}
	}
	return sp->held_bytes + bytes <= sp->max_bytes;
}

/* All readers wait for what is to come. */
static bool is_stuck(const struct shot *shot)
{
	return shot->readers && shot->waiting >= shot->readers;
}

/* Does somebody read another one, or is about to, or to let it go? Then there may be room for this one, too. */
static bool others_go_on(const struct shot *shot)
{
	const struct shot *other;

	for (other = shot->spool->shots; other; other = other->next) {
		if (other != shot && !other->failed && other->readers &&
		    (other->reserved || !is_stuck(other)))
			return true;
	}
	return shot->spool->leaving > !shot->listed;
}

static int wait_for_room(struct shot *shot, size_t bytes, int ms, struct err *err)
{
	uint64_t end_ms = ms < 0 ? 0 : clock_ms() + (uint64_t)ms;
	struct spool *sp = shot->spool;
	struct err why;

	if (bytes > sp->max_bytes && !sp->soft)
		return err_set(err, ENOSPC,
			       "%zu bytes do not fit in the %llu that may be held (--max-memory)",
			       bytes, (unsigned long long)sp->max_bytes);
	while (!make_room(sp, bytes)) {
		if (shot->failed)
			break;
		if (is_stuck(shot) && sp->soft)
			return 0;
		if (is_stuck(shot) && !others_go_on(shot)) {
			err_set(&why, ENOSPC,
				"the restore waits for what does not fit in the %llu bytes that may be held "
				"(--max-memory)",
				(unsigned long long)sp->max_bytes);
			fail(shot, &why);
			break;
		}
		if (!spool_wait(sp, &sp->room, end_ms))
			return 1;
	}
	if (!shot->failed)
		return 0;
	*err = shot->why;
	return -1;
}

int shot_reserve(struct shot *shot, size_t bytes, int ms, struct err *err)
{
	struct spool *sp = shot->spool;
	int rc = 0;

	pthread_mutex_lock(&sp->lock);
	if (shot->failed) {
		*err = shot->why;
		rc = -1;
	} else if (sp->max_bytes && bytes) {
		rc = wait_for_room(shot, bytes, ms, err);
	}
	if (rc == 0) {
		sp->held_bytes += bytes;
		shot->reserved += bytes;
	}
	sp->peak_bytes = MAX(sp->peak_bytes, sp->held_bytes);
	pthread_mutex_unlock(&sp->lock);
	return rc;
}

void shot_release(struct shot *shot, size_t bytes)
{
	pthread_mutex_lock(&shot->spool->lock);
	shot->spool->held_bytes -= bytes;
	shot->reserved -= bytes;
	pthread_cond_broadcast(&shot->spool->room);
	pthread_mutex_unlock(&shot->spool->lock);
}

/* ---- the writer ---- */

struct item *spool_find_image(const struct shot *shot, const char *name)
{
	struct item *it = map_get(&shot->images, map_hash(name));

	while (it && strcmp(it->name, name))
		it = it->same_hash;
	return it;
}

static int index_image(struct shot *shot, struct item *it, struct err *err)
{
	uint64_t hash = map_hash(it->name);

	if (spool_find_image(shot, it->name))
		return err_set(err, EEXIST, "%s: written twice", it->name);
	if (it->type == BLOCK_OBJECT && !strcmp(it->name, "inventory.img"))
		shot->identity = snapshot_identity(it->data, it->n_data);
	it->same_hash = map_get(&shot->images, hash);
	return map_set(&shot->images, hash, it) ? 0 : err_nomem(err);
}

static struct run *make_run(struct shot *shot, uint32_t id)
{
	struct run *run = map_get(&shot->runs, id);

	if (run)
		return run;
	run = calloc(1, sizeof(*run));
	if (run && map_set(&shot->runs, id, run))
		return run;
	free(run);
	return NULL;
}

static int index_pages(struct shot *shot, struct item *it, struct err *err)
{
	struct run *run = make_run(shot, it->id);

	if (!run)
		return err_nomem(err);
	if (run->ended)
		return err_set(err, EEXIST, "pages-%u.img: written twice", it->id);
	if (it->off != run->bytes || it->bytes > INT64_MAX - it->off)
		return err_set(err, EPROTO, "pages-%u.img: offset %llu comes after %llu", it->id,
			       (unsigned long long)it->off, (unsigned long long)run->bytes);
	if (it->type == BLOCK_PAGES_END) {
		run->ended = true;
		return 0;
	}
	if (!vec_push(&run->pieces, it))
		return err_nomem(err);
	run->bytes += it->bytes;
	return 0;
}

uint64_t snapshot_identity(const void *inventory, size_t bytes)
{
	const uint8_t *p = inventory;
	uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a */

	for (size_t i = 0; i < bytes; i++)
		hash = (hash ^ p[i]) * 0x100000001b3ULL;
	return hash & INT64_MAX;
}

/* The lock is held. */
static int set_parent(struct shot *shot, const char *name, uint64_t identity, struct err *err)
{
	struct shot *parent = find_shot(shot->spool, name);

	if (shot->spool->forwards)
		return 0;
	if (shot->parent || shot->first)
		return err_set(err, EPROTO, "a snapshot says too late on which one it builds");
	if (!parent || !parent->complete || parent->identity != identity)
		return err_set(err, ENOENT,
			       "the snapshot %s, on which this one builds, is not here (any more)",
			       name);
	parent->refs++;
	shot->parent = parent;
	return 0;
}

static int index_item(struct shot *shot, struct item *it, struct err *err)
{
	switch (it->type) {
	case BLOCK_OBJECT:
	case BLOCK_SKIP:
		return index_image(shot, it, err);
	case BLOCK_PARENT:
		return set_parent(shot, it->name, it->off, err);
	case BLOCK_PAGES:
	case BLOCK_ZEROS:
	case BLOCK_PAGES_END:
		return index_pages(shot, it, err);
	default:
		return err_set(err, EPROTO, "a block of type %d among the images", it->type);
	}
}

static struct item *new_item(const struct block *b, uint8_t *buf)
{
	struct item *it = calloc(1, sizeof(*it) + strlen(b->name) + 1);

	if (!it)
		return NULL;
	strcpy(it->name, b->name);
	it->type = b->type;
	it->id = b->id;
	it->off = b->off;
	it->bytes = b->type == BLOCK_ZEROS ? b->bytes : b->n_data;
	it->buf = buf;
	it->data = b->data;
	it->n_data = b->n_data;
	it->spent = !b->n_data;
	return it;
}

int shot_add(struct shot *shot, const struct block *b, uint8_t *buf, struct err *err)
{
	struct spool *sp = shot->spool;
	struct item *it = new_item(b, buf);
	int rc;

	if (!it) {
		bufs_free(buf);
		shot_release(shot, b->n_data);
		return err_nomem(err);
	}
	pthread_mutex_lock(&sp->lock);
	shot->reserved -= it->n_data;
	rc = shot->failed ? (*err = shot->why, -1) : index_item(shot, it, err);
	if (rc == 0) {
		*shot->end = it;
		shot->end = &it->next;
		shot->bytes += it->bytes;
		/* whoever waits has yet to look whether it was this that he waits for */
		shot->adds++;
		shot->waiting = 0;
	} else {
		/* room was reserved, also where there is no memory behind it */
		sp->held_bytes -= it->n_data;
		bufs_free(it->buf);
		free(it);
	}
	pthread_cond_broadcast(&sp->came);
	pthread_mutex_unlock(&sp->lock);
	return rc;
}

void shot_complete(struct shot *shot)
{
	pthread_mutex_lock(&shot->spool->lock);
	if (!shot->failed)
		shot->complete = true;
	pthread_cond_broadcast(&shot->spool->came);
	pthread_mutex_unlock(&shot->spool->lock);
}

void shot_fail(struct shot *shot, const struct err *why)
{
	pthread_mutex_lock(&shot->spool->lock);
	fail(shot, why);
	pthread_mutex_unlock(&shot->spool->lock);
}

uint64_t shot_pages_bytes(struct shot *shot, uint32_t id)
{
	const struct run *run;
	uint64_t bytes;

	pthread_mutex_lock(&shot->spool->lock);
	run = map_get(&shot->runs, id);
	bytes = run ? run->bytes : 0;
	pthread_mutex_unlock(&shot->spool->lock);
	return bytes;
}

uint64_t shot_bytes(struct shot *shot)
{
	uint64_t bytes;

	pthread_mutex_lock(&shot->spool->lock);
	bytes = shot->bytes;
	pthread_mutex_unlock(&shot->spool->lock);
	return bytes;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * One lock for all, and two conditions: what came wakes all readers, and room wakes all writers; each
 * looks for himself. Bytes are copied without the lock, from items that
 * are pinned meanwhile.
 */
#include "store/spool.h"

#include "base/map.h"
#include "base/vec.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { SEEN_WORDS = (BLOCK_DATA_MAX / PAGE_BYTES + 63) / 64 };

struct item {
	struct item *next;      /* that came after it */
	struct item *same_hash; /* images */
	enum block_type type;
	uint32_t id;
	uint64_t off, bytes; /* @bytes: of the image, of the pages, of the run of zeros */
	uint8_t *buf;        /* memory of data; NULL: there is none, or it was let go */
	const uint8_t *data;
	size_t n_data;
	unsigned int pins;
	bool spent, gone;          /* handed out completely; let go */
	uint64_t seen[SEEN_WORDS]; /* pages that were handed out */
	char name[];
};

/* The pages of one id. */
struct run {
	VEC(struct item *) pieces; /* ascending, without gaps */
	uint64_t bytes;
	bool ended;
};

struct shot {
	struct spool *spool;
	struct shot *next; /* of the spool */
	unsigned int refs;
	bool listed, written, complete, failed;
	struct err why;
	unsigned int readers;
	unsigned int waiting; /* readers that have looked since the last item was added, and wait */
	uint64_t adds;
	uint64_t bytes;
	struct item *first, **end;
	struct item *oldest; /* all before it have been let go; NULL: none has */
	struct map images;   /* by hash of the name: struct item */
	struct map runs;     /* by id */
	char name[];
};

struct spool {
	pthread_mutex_t lock; /* guards everything, shots too */
	pthread_cond_t came;  /* something has come, or nothing will: for readers and forwarders */
	pthread_cond_t room;  /* there may be room, or reason to give up: for writers */
	uint64_t max_bytes, held_bytes, peak_bytes;
	struct shot *shots;
	bool stopped;
	bool forwards; /* what was forwarded is for nobody else */
	struct err why;
};

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

static void let_go(struct spool *sp, struct item *it)
{
	if (it->buf)
		sp->held_bytes -= it->n_data;
	free(it->buf);
	it->buf = NULL;
	it->data = NULL;
	it->gone = true;
}

static void free_shot(struct shot *shot)
{
	struct item *it, *next;

	for (it = shot->first; it; it = next) {
		next = it->next;
		let_go(shot->spool, it);
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

	if (--shot->refs)
		return;
	free_shot(shot);
	pthread_cond_broadcast(&sp->room);
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

/* The lock is held. */
static void fail(struct shot *shot, const struct err *why)
{
	if (!shot->failed && !shot->complete) {
		shot->failed = true;
		shot->why = *why;
	}
	pthread_cond_broadcast(&shot->spool->came);
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
		unref(shot);
		err_set(err, EEXIST, "there is a snapshot %s already", name);
		shot = NULL;
	}
	if (shot)
		shot->written = true;
	pthread_mutex_unlock(&sp->lock);
	return shot;
}

struct shot *spool_read(struct spool *sp, const char *name, struct err *err)
{
	struct shot *shot;

	pthread_mutex_lock(&sp->lock);
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
	unref(shot);
	pthread_mutex_unlock(&sp->lock);
}

void shot_close_reader(struct shot *shot)
{
	struct spool *sp = shot ? shot->spool : NULL;

	if (!shot)
		return;
	pthread_mutex_lock(&sp->lock);
	shot->readers--;
	/* nobody has come for it, and nobody will know that it was asked for */
	if (!shot->readers && !shot->written)
		unlist(shot);
	unref(shot);
	pthread_mutex_unlock(&sp->lock);
}

void shot_forget(struct shot *shot)
{
	pthread_mutex_lock(&shot->spool->lock);
	unlist(shot);
	pthread_mutex_unlock(&shot->spool->lock);
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
				let_go(sp, it);
			prefix &= it->gone;
			if (prefix)
				shot->oldest = it;
		}
	}
	return sp->held_bytes + bytes <= sp->max_bytes;
}

/* All readers wait for what is to come, and it cannot come. */
static bool is_stuck(const struct shot *shot)
{
	return shot->readers && shot->waiting >= shot->readers;
}

static int wait_for_room(struct shot *shot, size_t bytes, struct err *err)
{
	struct spool *sp = shot->spool;
	struct err why;

	if (bytes > sp->max_bytes)
		return err_set(err, ENOSPC,
			       "%zu bytes do not fit in the %llu that may be held (--max-memory)",
			       bytes, (unsigned long long)sp->max_bytes);
	while (!make_room(sp, bytes)) {
		if (shot->failed)
			break;
		if (is_stuck(shot)) {
			err_set(&why, ENOSPC,
				"the restore waits for what does not fit in the %llu bytes that may be held "
				"(--max-memory)",
				(unsigned long long)sp->max_bytes);
			fail(shot, &why);
			break;
		}
		pthread_cond_wait(&sp->room, &sp->lock);
	}
	if (!shot->failed)
		return 0;
	*err = shot->why;
	return -1;
}

int shot_reserve(struct shot *shot, size_t bytes, struct err *err)
{
	struct spool *sp = shot->spool;
	int rc = 0;

	pthread_mutex_lock(&sp->lock);
	if (shot->failed) {
		*err = shot->why;
		rc = -1;
	} else if (sp->max_bytes) {
		rc = wait_for_room(shot, bytes, err);
	}
	if (rc == 0)
		sp->held_bytes += bytes;
	sp->peak_bytes = MAX(sp->peak_bytes, sp->held_bytes);
	pthread_mutex_unlock(&sp->lock);
	return rc;
}

void shot_release(struct shot *shot, size_t bytes)
{
	pthread_mutex_lock(&shot->spool->lock);
	shot->spool->held_bytes -= bytes;
	pthread_cond_broadcast(&shot->spool->room);
	pthread_mutex_unlock(&shot->spool->lock);
}

/* ---- the writer ---- */

static struct item *find_image(const struct shot *shot, const char *name)
{
	struct item *it = map_get(&shot->images, map_hash(name));

	while (it && strcmp(it->name, name))
		it = it->same_hash;
	return it;
}

static int index_image(struct shot *shot, struct item *it, struct err *err)
{
	uint64_t hash = map_hash(it->name);

	if (find_image(shot, it->name))
		return err_set(err, EEXIST, "%s: written twice", it->name);
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

static int index_item(struct shot *shot, struct item *it, struct err *err)
{
	switch (it->type) {
	case BLOCK_OBJECT:
	case BLOCK_SKIP:
		return index_image(shot, it, err);
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
		free(buf);
		shot_release(shot, b->n_data);
		return err_nomem(err);
	}
	pthread_mutex_lock(&sp->lock);
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
		free(it->buf);
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

/* ---- readers ---- */

/* Until something comes. A writer that waits for room must know that we wait, too. */
static void wait_for_more(struct shot *shot)
{
	uint64_t adds = shot->adds;

	shot->waiting++;
	pthread_cond_broadcast(&shot->spool->room);
	pthread_cond_wait(&shot->spool->came, &shot->spool->lock);
	if (shot->adds == adds)
		shot->waiting--;
}

static int was_let_go(const char *name, struct err *err)
{
	return err_set(err, ENOBUFS,
		       "%s: was handed out before and then let go to make room; a second restore "
		       "needs a larger --max-memory",
		       name);
}

/* Waits for an image. 0: it is pinned, 1: it will not come, -1. The lock is held. */
static int await_image(struct shot *shot, const char *name, struct item **out, struct err *err)
{
	struct item *it;

	while (!(it = find_image(shot, name)) && !shot->failed && !shot->complete)
		wait_for_more(shot);
	if (!it && shot->failed) {
		*err = shot->why;
		return -1;
	}
	if (!it || it->type == BLOCK_SKIP)
		return 1;
	if (it->gone)
		return was_let_go(name, err);
	it->pins++;
	*out = it;
	return 0;
}

/* The item may go, if it was handed out. The lock is held. */
static void unpin(struct shot *shot, struct item *it)
{
	it->pins--;
	if (it->spent)
		pthread_cond_broadcast(&shot->spool->room);
}

int shot_get(struct shot *shot, const char *name, void **data_out, size_t *bytes_out, struct err *err)
{
	struct spool *sp = shot->spool;
	struct item *it = NULL;
	int rc;

	pthread_mutex_lock(&sp->lock);
	rc = await_image(shot, name, &it, err);
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
	unpin(shot, it);
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
static int await_piece(struct shot *shot, uint32_t id, uint64_t off, size_t bytes,
		       struct item **out, struct err *err)
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
		wait_for_more(shot);
	}
	*out = find_piece(run, off);
	if ((*out)->gone && (*out)->type == BLOCK_PAGES) {
		snprintf(name, sizeof(name), "pages-%u.img", id);
		return was_let_go(name, err);
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
static ssize_t copy_piece(struct shot *shot, uint32_t id, uint64_t off, uint8_t *buf, size_t bytes,
			  struct err *err)
{
	struct spool *sp = shot->spool;
	struct item *it = NULL;
	uint64_t from;
	size_t n;
	int rc;

	pthread_mutex_lock(&sp->lock);
	rc = await_piece(shot, id, off, bytes, &it, err);
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
	unpin(shot, it);
	pthread_mutex_unlock(&sp->lock);
	return (ssize_t)n;
}

int shot_get_pages(struct shot *shot, uint32_t id, uint64_t off, void *buf, size_t bytes,
		   struct err *err)
{
	uint8_t *p = buf;
	ssize_t n;

	for (uint64_t at = off; bytes; at += (uint64_t)n, p += n, bytes -= (size_t)n) {
		n = copy_piece(shot, id, at, p, bytes, err);
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

int shot_read_pages(struct shot *shot, uint32_t id, uint64_t off, void *buf, size_t bytes,
		    size_t *bytes_out, struct err *err)
{
	ssize_t n = copy_piece(shot, id, off, buf, bytes, err);

	*bytes_out = n > 0 ? (size_t)n : 0;
	if (n >= 0 || err->no == EINVAL) /* the end */
		return 0;
	return err->no == ENOENT ? 1 : -1;
}

int shot_wait(struct shot *shot, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&shot->spool->lock);
	while (!shot->failed && !shot->complete)
		wait_for_more(shot);
	if (shot->failed) {
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
		unpin(shot, *at);
		if (shot->spool->forwards && !(*at)->pins && !shot->readers)
			let_go(shot->spool, *at);
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

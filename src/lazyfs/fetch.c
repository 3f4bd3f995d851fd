// SPDX-License-Identifier: Apache-2.0
/*
 * Which blocks are asked for, by whom, and what happens when they come. A
 * block is asked for once, however many wait for it.
 */
#define LOG_MODULE "lazyfs"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "lazyfs/content_priv.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <string.h>

/* Pieces are small enough that a reader gets going with the first, and large enough for a fast link. */
enum { PIECE_BLOCKS = 256 * 1024 / 4096, FETCHES_MOST = 48 };

/*
 * What nobody waits for delays what somebody asks for behind it. So as much is on its way as comes within a few
 * milliseconds beside the round trip, as measured.
 */
enum {
	EARLY_MS = 20,
	EARLY_FIRST = 512 * 1024,
	EARLY_LEAST = 128 * 1024,
	EARLY_MOST = 4 * 1024 * 1024,
};

/* Of a program: up to here all of it comes, of a larger one so much behind each place that is used. */
#define PROGRAM_WHOLE (16ull * 1024 * 1024)
#define PROGRAM_PIECE (1024ull * 1024)
#define PROGRAM_SMALL (1024ull * 1024) /* all of it at the first read */

struct fetch {
	struct remote_call call;
	struct content *c;
	struct fetch *next;
	uint64_t first, end; /* blocks */
	unsigned int generation;
	char *path;        /* as it was then */
	bool early;        /* nobody waited for it */
	uint64_t asked_ms; /* of these only */
};

static uint64_t block_end(uint64_t bytes)
{
	return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

/* ---- what comes ---- */

/* Writes the part of the extents that is within bytes from..to into the cache file. */
static int store_range(const struct content *c, const struct lf_reply *r, uint64_t from, uint64_t to)
{
	const uint8_t *data = r->data;

	for (uint32_t i = 0; i < r->n_extents; i++) {
		const struct lf_extent *e = &r->extents[i];
		uint64_t at = r->position + e->at, end = at + e->bytes;
		uint64_t lo = MAX(at, from), hi = MIN(end, to);

		if (lo < hi && io_pwrite_full(c->fd, data + (lo - at), hi - lo, (off_t)lo) < 0)
			return errno;
		data += e->bytes;
	}
	return 0;
}

/* Stores what is still missing of what the answer covers; what was written here meanwhile stays. */
static int store(struct content *c, const struct fetch *f, const struct lf_reply *r)
{
	uint64_t covered = r->position + r->covered, end, block;
	int error;

	if (r->type != LF_DATA || r->position != f->first * BLOCK_BYTES || !r->covered ||
	    covered > c->id.size)
		return EPROTO;
	/* the last block of a file counts as whole */
	end = covered >= c->id.size ? block_end(covered) : covered / BLOCK_BYTES;
	end = MIN(end, block_end(c->source_size));
	error = content_pin_locked(c);
	if (error)
		return error;
	block = blocks_next(&c->here, f->first, MAX(end, f->first), false);
	while (block < end && !error) {
		uint64_t stop = blocks_next(&c->here, block, end, true);

		error = store_range(c, r, block * BLOCK_BYTES,
				    MIN(stop * BLOCK_BYTES, c->source_size));
		if (!error && !blocks_set(&c->here, block, stop))
			error = ENOMEM;
		block = blocks_next(&c->here, stop, end, false);
	}
	content_unpin_locked(c);
	return error;
}

void content_stale(struct content *c)
{
	if (c->stale || !c->path)
		return;
	c->stale = true;
	atomic_fetch_add(&c->env->stale_files, 1);
	log_warn("%s: was changed at the source; what is missing of it cannot be read", c->path);
}

static void note_error(struct content *c, const struct fetch *f, int error)
{
	/* we are changing it, and ask again after it */
	if (error == ESTALE && c->sending)
		return;
	c->errors++;
	c->last_error = error;
	c->error_first = f->first;
	c->error_end = f->end;
	if (error == ESTALE) {
		if (!c->env->refetch || c->modified)
			content_stale(c);
	} else if (error != ECANCELED) {
		atomic_fetch_add(&c->env->fetch_errors, 1);
		log_warn("%s: cannot fetch: %s", f->path, strerror(error));
	}
}

/* ---- what nobody waits for ---- */

void content_env_pace(struct content_env *env, uint64_t round_trip_ms)
{
	env->round_trip_ms = round_trip_ms;
	atomic_store(&env->early_window, EARLY_FIRST);
}

static bool early_room(struct content_env *env)
{
	return atomic_load(&env->early_bytes) < atomic_load(&env->early_window);
}

/* An answer has come, or will not: does the link carry more? */
static void early_over(struct content_env *env, const struct fetch *f)
{
	uint64_t bytes = (f->end - f->first) * BLOCK_BYTES, took = clock_ms() - f->asked_ms;
	uint64_t window = atomic_load(&env->early_window);

	atomic_fetch_sub(&env->early_bytes, bytes);
	if (took > EARLY_MS + 2 * env->round_trip_ms)
		window = MAX(window - MIN(bytes / 2, window), (uint64_t)EARLY_LEAST);
	else
		window = MIN(window + bytes, (uint64_t)EARLY_MOST);
	atomic_store(&env->early_window, window);
}

/* Nothing is asked for early where it could fail, or be the same on this host. */
static bool may_ask_early(struct content *c)
{
	return c->path && !c->dead && !c->stale && !c->sending && !c->doubt && content_only_there(c);
}

static void stream(struct content *c);

static void unlink_fetch(struct content *c, const struct fetch *f)
{
	struct fetch **p = &c->fetches;

	while (*p != f)
		p = &(*p)->next;
	*p = f->next;
}

static void fetched(struct remote_call *call, int error, const struct lf_reply *reply)
{
	struct fetch *f = (struct fetch *)((char *)call - offsetof(struct fetch, call));
	struct content *c = f->c;

	pthread_mutex_lock(&c->lock);
	unlink_fetch(c, f);
	if (f->early)
		early_over(c->env, f);
	if (!c->dead && f->generation == c->generation) {
		if (!error)
			error = store(c, f, reply);
		/* whoever comes to need what nobody waited for asks himself */
		if (error && !f->early)
			note_error(c, f, error);
		else if (error)
			c->stream_end = 0;
		stream(c);
	}
	pthread_mutex_unlock(&c->lock);
	/* whoever is woken needs the lock */
	pthread_cond_broadcast(&c->cond);
	content_put(c);
	free(f->path);
	free(f);
}

/* ---- what is asked for ---- */

static int ask(struct content *c, uint64_t first, uint64_t end, bool early)
{
	struct fetch *f = calloc(1, sizeof(*f));
	int error;

	if (!f || !(f->path = strdup(c->path))) {
		free(f);
		return ENOMEM;
	}
	f->c = c;
	f->first = first;
	f->end = end;
	f->generation = c->generation;
	f->early = early;
	f->call.done = fetched;
	f->call.q = (struct lf_request){
		.type = LF_READ,
		.offset = first * BLOCK_BYTES,
		.bytes = (uint32_t)((end - first) * BLOCK_BYTES),
		.want = c->id,
		.path = f->path,
	};
	c->refs++;
	f->next = c->fetches;
	c->fetches = f;
	if (early) {
		f->asked_ms = clock_ms();
		atomic_fetch_add(&c->env->early_bytes, (end - first) * BLOCK_BYTES);
	}
	error = remote_submit(c->env->remote, &f->call);
	if (error) {
		if (early)
			atomic_fetch_sub(&c->env->early_bytes, (end - first) * BLOCK_BYTES);
		unlink_fetch(c, f);
		c->refs--;
		free(f->path);
		free(f);
	}
	return error;
}

/* The next block at or after @block that nobody has asked for; *end_out: the next one that somebody has. */
static uint64_t not_asked(const struct content *c, uint64_t block, uint64_t end, uint64_t *end_out)
{
	bool again = true;

	while (again) {
		again = false;
		block = blocks_next(&c->here, block, end, false);
		if (block >= end)
			return end;
		for (const struct fetch *f = c->fetches; f; f = f->next) {
			if (f->generation == c->generation && f->first <= block && block < f->end) {
				block = f->end;
				again = true;
			}
		}
	}
	if (block >= end)
		return end;
	end = blocks_next(&c->here, block, end, true);
	for (const struct fetch *f = c->fetches; f; f = f->next)
		if (f->generation == c->generation && f->first > block)
			end = MIN(end, f->first);
	*end_out = end;
	return block;
}

static size_t in_flight(const struct content *c)
{
	size_t n = 0;

	for (const struct fetch *f = c->fetches; f; f = f->next)
		n++;
	return n;
}

/* Asks for what is missing of the range and not on its way; what somebody waits for has no limit. */
static int ask_range(struct content *c, uint64_t first, uint64_t end, bool waiting)
{
	size_t n = in_flight(c);
	uint64_t stop = 0;
	int error = 0;

	end = MIN(end, block_end(c->source_size));
	while (!error && (waiting || n < FETCHES_MOST) &&
	       (first = not_asked(c, first, end, &stop)) < end) {
		stop = MIN(stop, first + PIECE_BLOCKS);
		error = ask(c, first, stop, false);
		first = stop;
		n++;
	}
	return error;
}

/* What is missing of the range and not on its way, as far as there is room. Bytes that were asked for. */
static uint64_t ask_early(struct content *c, uint64_t first, uint64_t end)
{
	uint64_t stop = 0, bytes = 0;

	end = MIN(end, block_end(c->source_size));
	while (early_room(c->env) && (first = not_asked(c, first, end, &stop)) < end) {
		stop = MIN(stop, first + PIECE_BLOCKS);
		if (ask(c, first, stop, true))
			break;
		bytes += (stop - first) * BLOCK_BYTES;
		first = stop;
	}
	return bytes;
}

/* Goes on with what was begun by content_note_jump: from where the program is used to the end, and then what is before it. */
static void stream(struct content *c)
{
	if (!c->stream_end || !may_ask_early(c))
		return;
	ask_early(c, c->stream_first, c->stream_end);
	if (c->source_size <= PROGRAM_WHOLE)
		ask_early(c, 0, c->stream_first);
}

void content_note_jump(struct content *c, const struct ahead *ahead, uint64_t at)
{
	if (!c->program || (c->source_size > PROGRAM_SMALL && !ahead_jumps(ahead, at)))
		return;
	c->stream_first = at / BLOCK_BYTES;
	c->stream_end = block_end(c->source_size <= PROGRAM_WHOLE ? c->source_size :
								    at + PROGRAM_PIECE);
}

bool content_begin(struct content *c)
{
	uint64_t end = block_end(c->source_size), stop;
	bool asked = false;

	pthread_mutex_lock(&c->lock);
	if (c->source_size <= CONTENT_SMALL && !c->modified && may_ask_early(c) && end &&
	    not_asked(c, 0, end, &stop) == 0)
		asked = ask_range(c, 0, end, true) == 0;
	if (asked)
		atomic_fetch_add(&c->env->demands, 1);
	pthread_mutex_unlock(&c->lock);
	return asked;
}

uint64_t content_early(struct content *c)
{
	uint64_t bytes = 0;

	pthread_mutex_lock(&c->lock);
	if (c->source_size <= CONTENT_SMALL && !c->modified && may_ask_early(c))
		bytes = ask_early(c, 0, block_end(c->source_size));
	c->early |= bytes > 0;
	pthread_mutex_unlock(&c->lock);
	return bytes;
}

bool content_early_used(struct content *c)
{
	bool used;

	pthread_mutex_lock(&c->lock);
	used = c->early;
	c->early = false;
	pthread_mutex_unlock(&c->lock);
	return used;
}

static bool is_here(const struct content *c, uint64_t first, uint64_t end)
{
	end = MIN(end, block_end(c->source_size));
	return first >= end || blocks_next(&c->here, first, end, false) == end;
}

int content_restart(struct content *c, const struct lf_ident *id)
{
	int error = content_pin_locked(c);

	if (error)
		return error;
	content_leave_pool(c);
	if (ftruncate(c->fd, 0) < 0 || ftruncate(c->fd, (off_t)id->size) < 0)
		error = errno;
	content_unpin_locked(c);
	blocks_free(&c->here);
	blocks_free(&c->dirty);
	blocks_free(&c->going);
	c->generation++;
	c->id = *id;
	c->size = c->source_size = c->low = id->size;
	c->twin = TWIN_NONE;
	c->unpoolable = false;
	c->stale = false;
	return error;
}

/* The source has another content by now, which is wanted instead. */
static int begin_anew(struct content *c, const struct patience *p)
{
	cleanup_free char *path = strdup(c->path);
	struct lf_request q = {.type = LF_STAT, .path = path};
	unsigned int generation = c->generation;
	struct lf_attr now;
	int error;

	if (!path)
		return ENOMEM;
	pthread_mutex_unlock(&c->lock);
	error = remote_ask(c->env->remote, &q, p, remote_take_attr, &now);
	pthread_mutex_lock(&c->lock);
	if (error || generation != c->generation)
		return error; /* or another reader has done it */
	if (c->modified || (now.mode & 0170000) != 0100000) {
		content_stale(c);
		return EIO;
	}
	return content_restart(c, &now.id);
}

/* What the program is told of an error of the source's or the link's. */
static int for_program(int error)
{
	return error == EINTR || error == ENOMEM ? error : EIO;
}

int content_ensure(struct content *c, uint64_t at, uint64_t end, uint64_t ahead_to,
		   const struct patience *p)
{
	uint64_t first = at / BLOCK_BYTES, stop = block_end(end);
	unsigned int errors = c->errors;
	int error = 0;

	while (c->path && !error && !is_here(c, first, stop)) {
		if (c->stale)
			return EIO;
		if (c->sending || c->doubt) {
			error = content_await_home(c, p);
			continue;
		}
		if (errors != c->errors) {
			errors = c->errors;
			/* what failed may have been for somebody else; then it is asked for again */
			if (c->error_first < stop && c->error_end > first)
				error = c->last_error;
			if (c->last_error == ESTALE && c->env->refetch)
				error = begin_anew(c, p);
			continue;
		}
		if (c->twin != TWIN_NONE) {
			error = content_use_local(c, first, stop, p);
			continue;
		}
		error = ask_range(c, first, stop, true);
		if (!error)
			stream(c);
		if (!error && ahead_to > end && !ask_range(c, stop, block_end(ahead_to), false))
			ahead_to = 0;
		if (error)
			break;
		wait_step(&c->cond, &c->lock, PATIENCE_STEP_MS);
		if (!is_here(c, first, stop))
			error = patience_check(p, c->env->remote);
	}
	/* what this host has does not come ahead, too */
	if (!error && c->path && !c->sending && ahead_to > end && !c->stale && c->twin == TWIN_NONE)
		(void)!ask_range(c, stop, block_end(ahead_to), false);
	return error ? for_program(error) : 0;
}

int content_demand(struct content *c, uint64_t at, uint64_t end, uint64_t ahead_to,
		   const struct patience *p)
{
	uint64_t stop;

	if (c->path && !is_here(c, at / BLOCK_BYTES, block_end(end))) {
		atomic_store(&c->env->demand_ms, clock_ms());
		if (not_asked(c, at / BLOCK_BYTES, block_end(end), &stop) < block_end(end))
			atomic_fetch_add(&c->env->demands, 1);
	}
	return content_ensure(c, at, end, ahead_to, p);
}

int content_fill(struct content *c, uint64_t bytes, bool *complete_out, const struct patience *p)
{
	uint64_t end, first;
	int error = 0;

	pthread_mutex_lock(&c->lock);
	end = block_end(c->source_size);
	first = c->path ? blocks_next(&c->here, 0, end, false) : end;
	if (first < end)
		error = content_ensure(c, first * BLOCK_BYTES,
				       MIN(first * BLOCK_BYTES + bytes, c->source_size), 0, p);
	*complete_out = content_complete(c);
	pthread_mutex_unlock(&c->lock);
	return error;
}

/* ---- holes ---- */

static int take_position(void *arg, const struct lf_reply *reply)
{
	if (reply->type != LF_POSITION)
		return EPROTO;
	*(uint64_t *)arg = reply->position;
	return 0;
}

/* Where the source has data, or a hole, at or after @at and before @end; @end if it has none. */
static int seek_source(struct content *c, uint64_t at, uint64_t end, int whence, uint64_t *out,
		       const struct patience *p)
{
	int error = content_await_home(c, p);
	cleanup_free char *path = strdup(c->path);
	struct lf_request q = {.type = LF_SEEK,
			       .offset = at,
			       .bytes = (uint32_t)whence,
			       .want = c->id,
			       .path = path};
	uint64_t found = end;

	if (!error && !path)
		error = ENOMEM;
	if (error)
		return for_program(error);
	pthread_mutex_unlock(&c->lock);
	error = remote_ask(c->env->remote, &q, p, take_position, &found);
	pthread_mutex_lock(&c->lock);
	if (error == ENXIO)
		error = 0;
	*out = MIN(MAX(found, at), end);
	return error ? for_program(error) : 0;
}

static int seek_cache(struct content *c, uint64_t at, uint64_t end, int whence, uint64_t *out)
{
	off_t found = lseek(c->fd, (off_t)at, whence);

	if (found < 0 && errno != ENXIO)
		return errno;
	*out = found < 0 ? end : MIN((uint64_t)found, end);
	return 0;
}

/* Goes from run to run of blocks that are here and that are not. */
static int seek_locked(struct content *c, uint64_t at, int whence, uint64_t *out,
		       const struct patience *p)
{
	while (at < c->size) {
		uint64_t block = at / BLOCK_BYTES, blocks = block_end(c->source_size), end = c->size;
		bool here = !c->path || block >= blocks || blocks_get(&c->here, block);
		int error;

		if (c->path && block < blocks)
			end = MIN(end, blocks_next(&c->here, block, blocks, !here) * BLOCK_BYTES);
		/* the last missing block ends with the source's part of it, and then there is a hole */
		if (!here)
			end = MIN(end, c->source_size);
		else if (block < blocks && end == blocks * BLOCK_BYTES)
			end = c->size;
		error = here ? seek_cache(c, at, end, whence, out) :
			       seek_source(c, at, end, whence, out, p);
		if (error || *out < end)
			return error;
		at = MAX(end, at + 1);
	}
	*out = c->size;
	return whence == SEEK_DATA ? ENXIO : 0;
}

int content_seek(struct content *c, uint64_t at, int whence, uint64_t *out, const struct patience *p)
{
	int error;

	pthread_mutex_lock(&c->lock);
	error = at >= c->size ? ENXIO : content_pin_locked(c);
	if (!error) {
		error = seek_locked(c, at, whence, out, p);
		content_unpin_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
	return error;
}

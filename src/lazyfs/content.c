// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazyfs"
#include "lazyfs/content.h"

#include "base/io.h"
#include "base/log.h"
#include "lazyfs/content_priv.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_FILE_BYTES (1ull << 44) /* the map of a file of 16 TiB is 512 MiB */

struct content *content_create(struct content_env *env, const char *path, const struct lf_ident *id)
{
	struct content *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	if (path && !(c->path = strdup(path))) {
		free(c);
		return NULL;
	}
	c->env = env;
	c->refs = 1;
	c->fd = c->local = -1;
	if (id)
		c->id = *id;
	c->size = c->source_size = c->low = path ? c->id.size : 0;
	pthread_mutex_init(&c->lock, NULL);
	wait_cond_init(&c->cond);
	return c;
}

static void cache_name(const struct content *c, char name[32])
{
	snprintf(name, 32, "%" PRIx64, c->number);
}

void content_put(struct content *c)
{
	char name[32];
	bool last;

	pthread_mutex_lock(&c->lock);
	last = --c->refs == 0;
	pthread_mutex_unlock(&c->lock);
	if (!last)
		return;
	content_pool(c);
	if (c->fd >= 0)
		close(c->fd);
	if (c->local >= 0)
		close(c->local);
	cache_name(c, name);
	if (c->number && !c->unsent && unlinkat(c->env->cache_fd, name, 0) < 0)
		log_warn("cache file %s: %s", name, strerror(errno));
	blocks_free(&c->here);
	blocks_free(&c->dirty);
	blocks_free(&c->going);
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->lock);
	free(c->path);
	free(c);
}

void content_destroy(struct content *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->dead = true;
	pthread_mutex_unlock(&c->lock);
	content_put(c);
}

/* ---- the pool ---- */

/* With the lock. Where `local` is still the same at the end, all of it is on this host already. */
static bool may_pool(const struct content *c)
{
	return c->env->pool && c->open_to_all && c->path && c->number && !c->pooled &&
	       !c->unpoolable && c->local < 0 && !c->modified && !c->stale &&
	       c->size == c->source_size && c->size >= POOL_LEAST_BYTES && content_complete(c);
}

void content_pool(struct content *c)
{
	char name[32];
	int error;

	pthread_mutex_lock(&c->lock);
	if (may_pool(c) && content_pin_locked(c) == 0) {
		cache_name(c, name);
		error = pool_add(c->env->pool, c->env->cache_fd, name, c->fd, c->size);
		c->pooled = !error;
		c->unpoolable = error != 0;
		if (error && error != EEXIST)
			log_debug("%s: not kept for later: %s", c->path, strerror(error));
		content_unpin_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
}

void content_leave_pool(struct content *c)
{
	if (c->pooled)
		pool_drop(c->env->pool, c->fd, c->size);
	c->pooled = false;
}

/* ---- the cache file; under the lock ---- */

int content_pin_locked(struct content *c)
{
	char name[32];

	if (c->fd < 0) {
		bool first = !c->number;

		if (first)
			c->number = atomic_fetch_add(&c->env->next_number, 1) + 1;
		cache_name(c, name);
		c->fd = openat(c->env->cache_fd, name,
			       O_RDWR | O_CLOEXEC | O_NOFOLLOW | (first ? O_CREAT | O_EXCL : 0),
			       0600);
		if (c->fd < 0) {
			int no = errno;

			c->number = first ? 0 : c->number;
			log_warn("cache file %s: %s", name, strerror(no));
			return no;
		}
		if (first && c->size && ftruncate(c->fd, (off_t)c->size) < 0)
			return errno;
	}
	c->pins++;
	return 0;
}

void content_unpin_locked(struct content *c)
{
	if (--c->pins || c->fd < 0)
		return;
	close(c->fd);
	c->fd = -1;
}

int content_pin(struct content *c)
{
	int error;

	pthread_mutex_lock(&c->lock);
	error = content_pin_locked(c);
	pthread_mutex_unlock(&c->lock);
	return error;
}

void content_unpin(struct content *c)
{
	pthread_mutex_lock(&c->lock);
	content_unpin_locked(c);
	pthread_mutex_unlock(&c->lock);
}

/* ---- reading and writing ---- */

ssize_t content_read(struct content *c, void *buf, size_t bytes, uint64_t at, struct ahead *ahead,
		     const struct patience *p)
{
	uint64_t ahead_to = 0;
	ssize_t n = 0;
	int error = 0;

	pthread_mutex_lock(&c->lock);
	bytes = at < c->size ? MIN(bytes, c->size - at) : 0;
	if (bytes && ahead) {
		content_note_jump(c, ahead, at);
		ahead_to = ahead_plan(ahead, at, bytes);
	}
	if (bytes)
		error = content_demand(c, at, at + bytes, ahead_to, p);
	if (!error && bytes)
		error = content_pin_locked(c);
	pthread_mutex_unlock(&c->lock);
	if (error || !bytes)
		return -error;
	while ((size_t)n < bytes) {
		ssize_t got = pread(c->fd, (char *)buf + n, bytes - (size_t)n, (off_t)at + n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			error = errno;
		if (got <= 0)
			break; /* cut short meanwhile */
		n += got;
	}
	content_unpin(c);
	return error ? -error : n;
}

/* Is this block at the source only? */
static bool missing(const struct content *c, uint64_t block)
{
	return c->path && block * BLOCK_BYTES < c->source_size && !blocks_get(&c->here, block);
}

/* Brings the blocks here of which @at to @end is only a part: the first and the last one. */
static int bring_edges(struct content *c, uint64_t at, uint64_t end, const struct patience *p)
{
	uint64_t first = at / BLOCK_BYTES, last = (end - 1) / BLOCK_BYTES;
	int error = 0;

	if (at % BLOCK_BYTES && missing(c, first))
		error = content_demand(c, at, at + 1, 0, p);
	if (!error && end % BLOCK_BYTES && end < c->source_size && missing(c, last))
		error = content_demand(c, end - 1, end, 0, p);
	return error;
}

/* The range is from here from now on, whatever is still on its way. */
static int own(struct content *c, uint64_t at, uint64_t end)
{
	uint64_t first = at / BLOCK_BYTES, stop = (end + BLOCK_BYTES - 1) / BLOCK_BYTES;

	c->modified = true;
	if (c->env->writes && !blocks_set(&c->dirty, first, stop))
		return ENOMEM;
	return blocks_set(&c->here, first, stop) ? 0 : ENOMEM;
}

int content_write(struct content *c, const void *buf, size_t bytes, uint64_t at,
		  const struct patience *p)
{
	uint64_t end = at + bytes;
	int error = 0;

	if (end > MAX_FILE_BYTES)
		return EFBIG;
	if (!bytes)
		return 0;
	pthread_mutex_lock(&c->lock);
	error = bring_edges(c, at, end, p);
	if (!error)
		error = content_pin_locked(c);
	if (!error) {
		content_leave_pool(c);
		/* only what was written counts as ours: else a full disk would turn missing blocks into zeros */
		if (io_pwrite_full(c->fd, buf, bytes, (off_t)at) < 0)
			error = errno;
		if (!error)
			error = own(c, at, end);
		if (!error)
			c->size = MAX(c->size, end);
		content_unpin_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
	return error;
}

int content_truncate(struct content *c, uint64_t size)
{
	int error;

	if (size > MAX_FILE_BYTES)
		return EFBIG;
	pthread_mutex_lock(&c->lock);
	error = content_pin_locked(c);
	if (!error) {
		content_leave_pool(c);
		if (ftruncate(c->fd, (off_t)size) < 0) {
			error = errno;
		} else {
			c->size = size;
			c->source_size = MIN(c->source_size, size);
			c->low = MIN(c->low, size);
			c->modified = true;
		}
		content_unpin_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
	return error;
}

static int allocate_locked(struct content *c, int mode, uint64_t at, uint64_t end,
			   const struct patience *p)
{
	bool clears = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
	/* whole blocks need not come to be cleared */
	int error = clears ? bring_edges(c, at, end, p) : 0;

	content_leave_pool(c);
	if (!error && fallocate(c->fd, mode, (off_t)at, (off_t)(end - at)) < 0)
		error = errno;
	if (!error && clears)
		error = own(c, at, MIN(end, MAX(c->size, c->source_size)));
	if (!error && !(mode & FALLOC_FL_KEEP_SIZE))
		c->size = MAX(c->size, end);
	c->modified = true;
	return error;
}

int content_allocate(struct content *c, int mode, uint64_t at, uint64_t bytes,
		     const struct patience *p)
{
	const int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
	int error;

	if (mode & ~known)
		return EOPNOTSUPP;
	if (!bytes || at + bytes < at || at + bytes > MAX_FILE_BYTES)
		return bytes ? EFBIG : EINVAL;
	pthread_mutex_lock(&c->lock);
	error = content_pin_locked(c);
	if (!error) {
		error = allocate_locked(c, mode, at, at + bytes, p);
		content_unpin_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
	return error;
}

int content_sync(struct content *c, bool data_only)
{
	int error;

	/* nothing of the source's would be lost */
	pthread_mutex_lock(&c->lock);
	error = c->modified ? content_pin_locked(c) : -1;
	pthread_mutex_unlock(&c->lock);
	if (error)
		return error < 0 ? 0 : error;
	if ((data_only ? fdatasync(c->fd) : fsync(c->fd)) < 0)
		error = errno;
	content_unpin(c);
	return error;
}

/* ---- state ---- */

uint64_t content_size(struct content *c)
{
	uint64_t size;

	pthread_mutex_lock(&c->lock);
	size = c->size;
	pthread_mutex_unlock(&c->lock);
	return size;
}

bool content_complete(const struct content *c)
{
	uint64_t blocks = (c->source_size + BLOCK_BYTES - 1) / BLOCK_BYTES;

	return !c->path || blocks_next(&c->here, 0, blocks, false) == blocks;
}

void content_get_state(struct content *c, struct content_state *out)
{
	struct stat st;

	pthread_mutex_lock(&c->lock);
	*out = (struct content_state){
		.size = c->size,
		.source_bytes = c->path ? c->id.size : 0,
		.complete = content_complete(c),
		.modified = c->modified,
		.stale = c->stale,
	};
	if (c->path)
		out->here_bytes = out->complete ? c->id.size :
						  MIN(c->here.n_set * BLOCK_BYTES, c->id.size);
	if (out->complete && c->number && content_pin_locked(c) == 0) {
		if (fstat(c->fd, &st) == 0)
			out->blocks_512 = (uint64_t)st.st_blocks;
		content_unpin_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
}

/* Is this news of what we do ourselves at the moment, or did before we heard of what we did since? */
static bool is_own_work(const struct content *c, const struct lf_ident *now)
{
	return c->env->writes && (c->sending || (now->dev == c->id.dev && now->ino == c->id.ino &&
						 now->ctime_ns < c->id.ctime_ns));
}

bool content_revalidate(struct content *c, const struct lf_attr *now)
{
	bool same;

	pthread_mutex_lock(&c->lock);
	same = c->path && lf_ident_same(&c->id, &now->id);
	if (c->path && !same && !is_own_work(c, &now->id)) {
		if (c->env->refetch && !c->modified && S_ISREG(now->mode))
			same = content_restart(c, &now->id) == 0;
		else if (!content_complete(c))
			content_stale(c);
	}
	same = same && !c->modified;
	pthread_mutex_unlock(&c->lock);
	return same;
}

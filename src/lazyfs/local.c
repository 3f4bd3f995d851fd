// SPDX-License-Identifier: Apache-2.0
/*
 * Files that this host has already: a file with the same path and size, and then one of the pool
 * with the same beginning, is compared piece by piece, by the digests of both sides, when a piece is needed;
 * what is the same is copied into the cache file. (Into it, because nobody promises that the host's file stays
 * as it is.) The first piece that differs ends it.
 */
#define LOG_MODULE "lazyfs"
#include "base/io.h"
#include "base/log.h"
#include "lazyfs/content_priv.h"
#include "lazyfs/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum {
	FIRST_BYTES = 128 * 1024,
	SURE_BYTES = 1024 * 1024, /* what begins like one of the pool mostly goes on like it */
};

/* A regular file of this size, at the path without any link; -1. */
static int open_local(const struct content_env *env, const char *path, uint64_t size)
{
	const struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
				     .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS};
	const struct open_how look = {.flags = O_PATH | O_CLOEXEC, .resolve = how.resolve};
	cleanup_close int found = (int)syscall(SYS_openat2, env->local_root, path + 1, &look,
					       sizeof(look));
	struct stat a, b;
	int fd;

	/* looked at before it is opened: to open a device or a pipe has effects */
	if (found < 0 || fstat(found, &a) < 0 || !S_ISREG(a.st_mode) || (uint64_t)a.st_size != size)
		return -1;
	fd = (int)syscall(SYS_openat2, env->local_root, path + 1, &how, sizeof(how));
	if (fd >= 0 && fstat(fd, &b) == 0 && S_ISREG(b.st_mode) && a.st_ino == b.st_ino &&
	    a.st_dev == b.st_dev)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static int take_sum(void *arg, const struct lf_reply *reply)
{
	if (reply->type != LF_SUM)
		return EPROTO;
	memcpy(arg, reply->sum, LF_SUM_BYTES);
	return 0;
}

struct piece {
	uint64_t at, bytes;
	uint8_t *data; /* of the host's file */
};

/* Without the lock: the source's digest of a piece. 0 or an errno value. */
static int ask_sum(struct content *c, const struct lf_ident *id, const struct piece *piece,
		   uint8_t sum[LF_SUM_BYTES], const struct patience *p)
{
	const struct lf_request q = {.type = LF_DIGEST,
				     .offset = piece->at,
				     .bytes = (uint32_t)piece->bytes,
				     .want = *id,
				     .path = c->path};

	return remote_ask(c->env->remote, &q, p, take_sum, sum);
}

/* Without the lock. 0: the host's file has this digest there; ENOENT: it has not; or another errno value. */
static int compare(int fd, struct piece *piece, const uint8_t there[LF_SUM_BYTES])
{
	uint8_t here[LF_SUM_BYTES];

	piece->data = malloc(piece->bytes);
	if (!piece->data)
		return ENOMEM;
	if (io_pread_full(fd, piece->data, piece->bytes, (off_t)piece->at) < 0 ||
	    !EVP_Digest(piece->data, piece->bytes, here, NULL, EVP_sha256(), NULL) ||
	    memcmp(here, there, sizeof(here)) != 0)
		return ENOENT;
	return 0;
}

/* With the lock: what is still missing. */
static int take(struct content *c, const struct piece *piece)
{
	uint64_t block = piece->at / BLOCK_BYTES;
	uint64_t end = (piece->at + piece->bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
	uint64_t last = MIN(piece->at + piece->bytes, c->source_size);
	atomic_uint_least64_t *count = c->twin == TWIN_POOL ? &c->env->pool_bytes :
							      &c->env->local_bytes;
	int error = content_pin_locked(c);

	if (error)
		return error;
	end = MIN(end, (c->source_size + BLOCK_BYTES - 1) / BLOCK_BYTES);
	while (!error && (block = blocks_next(&c->here, block, end, false)) < end) {
		uint64_t stop = blocks_next(&c->here, block, end, true);
		uint64_t from = block * BLOCK_BYTES, to = MIN(stop * BLOCK_BYTES, last);

		if (io_pwrite_full(c->fd, piece->data + (from - piece->at), to - from, (off_t)from) <
		    0)
			error = errno;
		else if (!blocks_set(&c->here, block, stop))
			error = ENOMEM;
		else
			atomic_fetch_add(count, to - from);
		block = stop;
	}
	content_unpin_locked(c);
	return error;
}

/* Small at first, for somebody who needs the beginning only, and twice as large each time. */
static struct piece choose(struct content *c, uint64_t first)
{
	uint64_t at = first * BLOCK_BYTES;

	c->local_step = c->local_step ? MIN(c->local_step * 2, (uint64_t)LF_DIGEST_MAX) : FIRST_BYTES;
	return (struct piece){.at = at, .bytes = MIN(c->id.size - at, c->local_step)};
}

/* This one is not the same, or not there. */
static void give_up(struct content *c)
{
	if (c->local >= 0)
		close(steal_fd(&c->local));
	c->local_step = 0;
	c->twin = c->twin == TWIN_PATH && c->env->pool && pool_may_have(c->env->pool, c->id.size) ?
			  TWIN_POOL :
			  TWIN_NONE;
}

bool content_is_local(const struct content_env *env, const char *path, uint64_t size)
{
	cleanup_close int fd = env->local_root < 0 ? -1 : open_local(env, path, size);

	return fd >= 0 || (env->pool && pool_may_have(env->pool, size));
}

bool content_only_there(struct content *c)
{
	if (c->twin == TWIN_NONE)
		return true;
	if (c->comparing || c->local >= 0 || content_is_local(c->env, c->path, c->id.size))
		return false;
	c->twin = TWIN_NONE;
	return true;
}

/*
 * One piece of the file of this host. In the pool it is found by the digest of the first one, so that one
 * comes along with it. 0 or an errno value: ENOENT, it is another one.
 */
static int use_piece(struct content *c, uint64_t first, const struct patience *p)
{
	const bool by_sum = c->local < 0 && c->twin == TWIN_POOL;
	const struct lf_ident id = c->id;
	struct piece piece = by_sum ? (struct piece){.bytes = MIN(id.size, (uint64_t)POOL_KEY_BYTES)} :
				      choose(c, first);
	unsigned int generation = c->generation;
	uint8_t sum[LF_SUM_BYTES];
	int fd = c->local, error;

	pthread_mutex_unlock(&c->lock);
	error = ask_sum(c, &id, &piece, sum, p);
	if (!error && by_sum)
		fd = pool_find(c->env->pool, id.size, sum);
	if (!error)
		error = fd < 0 ? ENOENT : compare(fd, &piece, sum);
	pthread_mutex_lock(&c->lock);
	c->local = fd;
	if (!error && generation == c->generation)
		error = take(c, &piece);
	if (!error && by_sum)
		c->local_step = SURE_BYTES;
	free(piece.data);
	return error;
}

/* The next file that could be the same is opened, or there is no further one. */
static void open_twin(struct content *c)
{
	if (c->twin == TWIN_PATH && c->env->local_root >= 0)
		c->local = open_local(c->env, c->path, c->id.size);
	if (c->twin == TWIN_PATH && c->local < 0)
		give_up(c);
}

int content_use_local(struct content *c, uint64_t first, uint64_t end, const struct patience *p)
{
	int error = 0;

	while (c->comparing && !error) {
		wait_step(&c->cond, &c->lock, PATIENCE_STEP_MS);
		error = patience_check(p, c->env->remote);
	}
	/* somebody else may have done it; the caller looks again */
	end = MIN(end, (c->source_size + BLOCK_BYTES - 1) / BLOCK_BYTES);
	first = blocks_next(&c->here, first, end, false);
	if (error || c->twin == TWIN_NONE || first >= end)
		return error;
	c->comparing = true;
	if (c->local < 0)
		open_twin(c);
	if (c->twin != TWIN_NONE) {
		error = use_piece(c, first, p);
		/* whatever it was, the source is asked next, and says it again */
		if (error)
			give_up(c);
		error = error == EINTR ? EINTR : 0;
	}
	c->comparing = false;
	pthread_cond_broadcast(&c->cond);
	return error;
}

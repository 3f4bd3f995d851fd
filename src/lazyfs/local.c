// SPDX-License-Identifier: Apache-2.0
/*
 * Files that this host has already: a file with the same path and size is compared
 * piece by piece, by the digests of both sides, when a piece is needed; what is the same
 * is copied into the cache file. (Into it, because nobody promises that the host's file stays as it
 * is.) The first piece that differs ends it.
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

enum { FIRST_BYTES = 128 * 1024 };

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

/* Without the lock. 0: the piece is the same on both sides; ENOENT: it is not; or another errno value. */
static int compare(struct content *c, const struct lf_ident *id, int fd, struct piece *piece,
		   const struct patience *p)
{
	const struct lf_request q = {.type = LF_DIGEST,
				     .offset = piece->at,
				     .bytes = (uint32_t)piece->bytes,
				     .want = *id,
				     .path = c->path};
	uint8_t here[LF_SUM_BYTES], there[LF_SUM_BYTES];
	int error;

	piece->data = malloc(piece->bytes);
	if (!piece->data)
		return ENOMEM;
	error = remote_ask(c->env->remote, &q, p, take_sum, there);
	if (error)
		return error;
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
			atomic_fetch_add(&c->env->local_bytes, to - from);
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

static void give_up(struct content *c)
{
	if (c->local >= 0)
		close(steal_fd(&c->local));
	c->no_local = true;
}

bool content_is_local(const struct content_env *env, const char *path, uint64_t size)
{
	cleanup_close int fd = env->local_root < 0 ? -1 : open_local(env, path, size);

	return fd >= 0;
}

bool content_only_there(struct content *c)
{
	if (c->no_local)
		return true;
	if (c->comparing || c->local >= 0 || content_is_local(c->env, c->path, c->id.size))
		return false;
	give_up(c);
	return true;
}

static int compare_and_take(struct content *c, uint64_t first, const struct patience *p)
{
	struct piece piece = choose(c, first);
	const struct lf_ident id = c->id;
	unsigned int generation = c->generation;
	int error;

	pthread_mutex_unlock(&c->lock);
	error = compare(c, &id, c->local, &piece, p);
	pthread_mutex_lock(&c->lock);
	if (!error && generation == c->generation)
		error = take(c, &piece);
	free(piece.data);
	if (!error)
		return 0;
	give_up(c);
	/* whatever it was, the source is asked next, and says it again */
	return error == EINTR ? EINTR : 0;
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
	if (error || c->no_local || first >= end)
		return error;
	c->comparing = true;
	if (c->local < 0)
		c->local = open_local(c->env, c->path, c->id.size);
	if (c->local < 0)
		give_up(c);
	else
		error = compare_and_take(c, first, p);
	c->comparing = false;
	pthread_cond_broadcast(&c->cond);
	return error;
}

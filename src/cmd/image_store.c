// SPDX-License-Identifier: Apache-2.0
#include "cmd/image_store.h"

#include "cmd/common.h"
#include "wire/local.h"

#include <errno.h>
#include <string.h>

/* So much of a stream is read before the restore asks for it; what it has had is let go for that. */
enum { AHEAD_BYTES = 128 << 20 };

bool images_are_streamed(const struct image_place *place)
{
	return place->remote || !strcmp(place->images_dir, "-");
}

static int check_remote(const struct image_place *place, enum image_use use, struct err *err)
{
	if (!place->remote)
		return place->snapshot ?
			       err_set(err, 0, "--snapshot makes sense with --remote only") :
			       0;
	if (use == IMAGES_DIRECTORY)
		return err_set(err, 0, "--remote is for dump and restore only");
	if (!strcmp(place->images_dir, "-"))
		return err_set(err, 0, "--remote and -D - exclude each other");
	if (place->snapshot && strlen(place->snapshot) > BLOCK_NAME_MAX)
		return err_set(err, 0, "--snapshot: a name has at most %d bytes", BLOCK_NAME_MAX);
	return 0;
}

int image_store_check(const struct image_place *place, enum image_use use, struct err *err)
{
	if (check_remote(place, use, err))
		return -1;
	if (place->compress != COMPRESS_AUTO &&
	    (use != IMAGES_WRITE || strcmp(place->images_dir, "-")))
		return err_set(err, 0, "--compress is for a stream that is written (-D -) only");
	if (place->remote || strcmp(place->images_dir, "-"))
		return 0;
	if (use == IMAGES_DIRECTORY || use == IMAGES_ROUND)
		return err_set(err, 0,
			       "-D - (a stream) is for dump and restore only; use a directory");
	if (isatty(use == IMAGES_WRITE ? STDOUT_FILENO : STDIN_FILENO))
		return err_set(err, 0,
			       "-D -: standard %s is a terminal; images go through a pipe or file",
			       use == IMAGES_WRITE ? "output" : "input");
	return 0;
}

static int open_writer(struct image_store *is, enum compress compress, struct err *err)
{
	stream_init(&is->st, -1, STDOUT_FILENO, signals_check);
	is->streams = true;
	if (stream_compress(&is->st, compress, err) || stream_send_preamble(&is->st, err))
		return -1;
	is->store = stream_store_open(&is->st, "", false, err);
	return is->store ? 0 : -1;
}

static int receive(struct image_store *is, struct err *err)
{
	struct block first;

	if (stream_receive_preamble(&is->st, err) ||
	    stream_expect(&is->st, BLOCK_SNAPSHOT, &first, err))
		return -1;
	return stream_receive_shot(&is->st, is->shot, err);
}

static void *pump(void *arg)
{
	struct image_store *is = arg;
	struct err err;

	if (receive(is, &err))
		shot_fail(is->shot, &err);
	return NULL;
}

static int open_reader(struct image_store *is, struct err *err)
{
	struct shot *reader;
	int no;

	stream_init(&is->st, STDIN_FILENO, -1, signals_check);
	is->st.stop = &is->stop;
	is->streams = true;
	is->spool = spool_create(AHEAD_BYTES, err);
	if (is->spool)
		spool_soften(is->spool);
	is->shot = is->spool ? spool_write(is->spool, "", err) : NULL;
	reader = is->shot ? spool_read(is->spool, "", err) : NULL;
	is->store = reader ? spool_store_open(reader, false, err) : NULL;
	if (!is->store)
		return -1;
	no = pthread_create(&is->pump, NULL, pump, is);
	if (no)
		return err_sysno(err, no, "cannot start a thread");
	is->pumping = true;
	return 0;
}

/* Nothing is wrong yet; but perhaps nobody ever writes it. */
static void say_await(const char *name)
{
	dprintf(STDERR_FILENO,
		"ferry: snapshot '%s': nothing of it has come yet; has its dump begun, and is this its name?\n",
		name);
}

/* To the relay of this side; it answers when it is one. */
static int open_remote(struct image_store *is, const struct image_place *place, int work_fd,
		       enum image_use use, struct err *err)
{
	bool writes = use == IMAGES_WRITE || use == IMAGES_ROUND;
	const char *socket = writes ? RELAY_PROXY_SOCKET : RELAY_CACHE_SOCKET;
	const char *name = place->snapshot ? place->snapshot : SNAPSHOT_DEFAULT;

	is->fd = local_connect(work_fd, socket, err);
	if (is->fd < 0)
		return err_wrap(err, "--remote needs %s", writes ? "image-proxy" : "image-cache");
	stream_init(&is->st, is->fd, is->fd, signals_check);
	is->st.on_await = say_await;
	is->streams = true;
	is->confirmed = true;
	if (stream_send_preamble(&is->st, err) || stream_receive_preamble(&is->st, err))
		return -1;
	stream_spare_sums(&is->st);
	is->store = writes ? stream_store_open(&is->st, name, true, err) :
			     cache_store_open(&is->st, name, err);
	return is->store ? 0 : -1;
}

int image_store_open(struct image_store *is, const struct image_place *place, int images_fd,
		     int work_fd, enum image_use use, struct err *err)
{
	*is = (struct image_store){.fd = -1};
	if (place->remote)
		return open_remote(is, place, work_fd, use, err);
	if (images_fd < 0)
		return use == IMAGES_WRITE ? open_writer(is, (enum compress)place->compress, err) :
					     open_reader(is, err);
	is->store = store_dir_open(images_fd, err);
	return is->store ? 0 : -1;
}

int image_store_done(struct image_store *is, struct err *err)
{
	return is->confirmed ? cache_done(&is->st, err) : 0;
}

void image_store_fail(struct image_store *is, const struct err *why)
{
	if (is->streams && !is->spool)
		stream_send_failure(&is->st, why);
}

void image_store_close(struct image_store *is)
{
	struct err why;

	store_close(is->store);
	if (is->spool) {
		/* what still comes is for nobody */
		atomic_store(&is->stop, true);
		err_set(&why, ECANCELED, "the restore has ended");
		spool_stop(is->spool, &why);
	}
	if (is->pumping)
		pthread_join(is->pump, NULL);
	shot_close_writer(is->shot);
	spool_free(is->spool);
	if (is->streams)
		stream_finish(&is->st);
	if (is->fd >= 0)
		close(is->fd);
	*is = (struct image_store){.fd = -1};
}

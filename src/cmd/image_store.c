// SPDX-License-Identifier: Apache-2.0
#include "cmd/image_store.h"

#include "cmd/common.h"

#include <errno.h>
#include <string.h>

bool images_are_streamed(const char *images_dir)
{
	return !strcmp(images_dir, "-");
}

int image_store_check(const char *images_dir, enum image_use use, struct err *err)
{
	if (!images_are_streamed(images_dir))
		return 0;
	if (use == IMAGES_DIRECTORY)
		return err_set(err, 0,
			       "-D - (a stream) is for dump and restore only; use a directory");
	if (isatty(use == IMAGES_WRITE ? STDOUT_FILENO : STDIN_FILENO))
		return err_set(err, 0,
			       "-D -: standard %s is a terminal; images go through a pipe or file",
			       use == IMAGES_WRITE ? "output" : "input");
	return 0;
}

static int open_writer(struct image_store *is, struct err *err)
{
	stream_init(&is->st, -1, STDOUT_FILENO, signals_check);
	is->streams = true;
	if (stream_send_preamble(&is->st, err))
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
	is->streams = true;
	is->spool = spool_create(0, err);
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

int image_store_open(struct image_store *is, int images_fd, enum image_use use, struct err *err)
{
	*is = (struct image_store){0};
	if (images_fd < 0)
		return use == IMAGES_WRITE ? open_writer(is, err) : open_reader(is, err);
	is->store = store_dir_open(images_fd, err);
	return is->store ? 0 : -1;
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
		atomic_store(&is->st.stop, true);
		err_set(&why, ECANCELED, "the restore has ended");
		spool_stop(is->spool, &why);
	}
	if (is->pumping)
		pthread_join(is->pump, NULL);
	shot_close_writer(is->shot);
	spool_free(is->spool);
	if (is->streams)
		stream_finish(&is->st);
	*is = (struct image_store){0};
}

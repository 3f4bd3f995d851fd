// SPDX-License-Identifier: Apache-2.0
/*
 * ferry image-stream: what CRIU's dump and restore --stream talk to, in place of criu-image-streamer. The images are
 * those of ferry's own streams and relays, so either side may be ferry's or CRIU's.
 */
#define LOG_MODULE "stream"
#include "store/image_stream.h"
#include "base/log.h"
#include "cmd/common.h"
#include "cmd/daemon.h"
#include "wire/local.h"
#include "wire/streamer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct stream_args {
	struct image_place place;
	const char *socket_dir, *work_dir;
	struct daemon_args daemon;
	struct log_args log;
};

static const struct opt_row rows[] = {
	{.short_name = 'D',
	 .long_name = "images-dir",
	 .arg = "DIR",
	 .help = "the directory that CRIU gets as -D: its socket is there (default: the current one)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct stream_args, socket_dir)},
	{.short_name = 'W',
	 .long_name = "work-dir",
	 .arg = "DIR",
	 .help = "directory of log, pid file and a relay's socket (default: that of the images)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct stream_args, work_dir)},
	REMOTE_ROWS(struct stream_args, place),
	COMPRESS_ROW(struct stream_args, place),
	DAEMON_ROWS(struct stream_args, daemon),
	LOG_ROWS(struct stream_args, log),
	{0},
};

static const struct opt_spec spec = {
	.command = "image-stream",
	.arguments = "capture|serve",
	.summary = "carries the images of CRIU's dump and restore --stream",
	.details = "capture: from criu dump to standard output, or to an image-proxy (--remote).\n"
		   "serve: from standard input, or an image-cache (--remote), to criu restore.\n",
	.min_args = 1,
	.max_args = 1,
	.rows = rows,
};

struct image_stream {
	const struct stream_args *args;
	bool serves;
	int dir_fd, work_fd, status_fd;
	int listener, sock;
	struct image_store images;
};

static const char *socket_name(const struct image_stream *s)
{
	return s->serves ? STREAMER_SERVE_SOCKET : STREAMER_CAPTURE_SOCKET;
}

static enum image_use use_of(const struct image_stream *s)
{
	return s->serves ? IMAGES_READ : IMAGES_WRITE;
}

static int open_dir(const char *path, int *out, struct err *err)
{
	*out = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *out < 0 ? err_sys(err, "%.200s: cannot open the directory", path) : 0;
}

static int open_all(struct image_stream *s, struct err *err)
{
	const struct stream_args *a = s->args;

	if (open_dir(a->socket_dir, &s->dir_fd, err) ||
	    open_dir(a->work_dir ? a->work_dir : a->socket_dir, &s->work_fd, err) ||
	    log_args_open(&a->log, s->work_fd, err) ||
	    status_fd_take(a->daemon.status_fd, &s->status_fd, err))
		return -1;
	signal(SIGPIPE, SIG_IGN);
	if (image_store_open(&s->images, &a->place, -1, s->work_fd, use_of(s), err))
		return -1;
	s->listener = local_listen(s->dir_fd, socket_name(s), err);
	return s->listener < 0 ? -1 : 0;
}

/* CRIU connects once, and nobody else may. */
static int accept_criu(struct image_stream *s, struct err *err)
{
	struct pollfd p = {.fd = s->listener, .events = POLLIN};

	while (s->sock < 0) {
		if (image_stream_wait(&p, 1, signals_check, err))
			return -1;
		s->sock = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
		if (s->sock < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
			return err_sys(err, "%s: cannot accept", socket_name(s));
		if (s->sock >= 0 && local_check_peer(s->sock, err)) {
			log_warn("a connection is dropped: %s", err->text);
			close(steal_fd(&s->sock));
		}
	}
	unlinkat(s->dir_fd, socket_name(s), 0);
	close(steal_fd(&s->listener));
	return 0;
}

static int carry(struct image_stream *s, struct err *err)
{
	if (accept_criu(s, err))
		return -1;
	log_info("CRIU is there");
	return s->serves ? image_stream_serve(s->sock, s->images.store, signals_check, err) :
			   image_stream_capture(s->sock, s->images.store, signals_check, err);
}

static void close_all(struct image_stream *s, const struct err *why)
{
	if (why && s->images.store && !s->serves)
		image_store_fail(&s->images, why);
	image_store_close(&s->images);
	if (s->listener >= 0) {
		unlinkat(s->dir_fd, socket_name(s), 0);
		close(s->listener);
	}
	if (s->sock >= 0)
		close(s->sock);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	if (s->work_fd >= 0)
		close(s->work_fd);
}

static int open_and_carry(void *arg, int ready_fd, struct err *err)
{
	struct image_stream *s = arg;
	sigset_t saved;
	int rc;

	signals_hold(&saved);
	rc = open_all(s, err) ||
	     daemon_announce(&s->args->daemon, s->work_fd, s->status_fd, ready_fd, err) ||
	     carry(s, err);
	if (rc && s->args->log.file) /* a daemon has no other voice */
		log_error("%s", err->text);
	close_all(s, rc ? err : NULL);
	signals_discard();
	signals_release(&saved);
	return rc ? -1 : 0;
}

static int check_args(struct image_stream *s, const char *word, struct err *err)
{
	const struct stream_args *a = s->args;

	s->serves = !strcmp(word, "serve");
	if (!s->serves && strcmp(word, "capture") != 0)
		return err_set(err, 0, "'%.40s' is neither capture nor serve", word);
	if (a->daemon.background && !a->place.remote)
		return err_set(err, 0,
			       "--daemon needs --remote, as the stream would end with the terminal");
	return image_store_check(&a->place, use_of(s), err);
}

static int run(int argc, char **argv)
{
	struct stream_args args = {.socket_dir = ".",
				   .daemon = {.status_fd = NO_STATUS_FD},
				   .log = LOG_ARGS_DEFAULT};
	struct image_stream s = {.args = &args,
				 .dir_fd = -1,
				 .work_fd = -1,
				 .status_fd = -1,
				 .listener = -1,
				 .sock = -1,
				 .images = {.fd = -1}};
	struct opt_rest rest;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	args.place.images_dir = args.place.remote ? "." : "-";
	if (check_args(&s, rest.v[0], &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	return daemon_run(&spec, &args.daemon, open_and_carry, &s);
}

const struct cmd cmd_image_stream = {.spec = &spec, .run = run};

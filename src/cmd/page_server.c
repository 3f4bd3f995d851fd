// SPDX-License-Identifier: Apache-2.0
/*
 * ferry page-server: memory of a dump on another host into a directory here.
 */
#define LOG_MODULE "page-server"
#include "base/io.h"
#include "base/log.h"
#include "cmd/daemon.h"
#include "cmd/ps_args.h"
#include "mem/ps_server.h"
#include "mem/serve_net.h"
#include "snapshot/snapshot.h"
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct server_args {
	const char *images_dir, *work_dir, *prev_images_dir, *address;
	uint64_t port, socket;
	struct daemon_args daemon;
	bool lazy, auto_dedup;
	struct tls_args tls;
	struct log_args log;
};

static const struct opt_row rows[] = {
	{.short_name = 'D',
	 .long_name = "images-dir",
	 .arg = "DIR",
	 .help = "directory of the images (default: the current one)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct server_args, images_dir)},
	{.short_name = 'W',
	 .long_name = "work-dir",
	 .arg = "DIR",
	 .help = "directory of log and pid file (default: that of the images)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct server_args, work_dir)},
	{.long_name = "address",
	 .arg = "ADDRESS",
	 .help = "numeric address to listen on (default: 127.0.0.1)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct server_args, address)},
	{.long_name = "port",
	 .arg = "PORT",
	 .help = "port to listen on; 0 (the default): a free one, which is printed",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct server_args, port),
	 .max = 65535},
	{.long_name = "ps-socket",
	 .arg = "FD",
	 .help = "do not listen: descriptor FD is the connection",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct server_args, socket),
	 .max = 1048575},
	{.long_name = "lazy-pages",
	 .help = "hand the memory of the images out to lazy-pages instead of receiving any",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct server_args, lazy)},
	{.long_name = "prev-images-dir",
	 .arg = "DIR",
	 .help = "earlier images (relative to those) that these build on",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct server_args, prev_images_dir)},
	{.long_name = "auto-dedup",
	 .help = "free the space of pages in earlier images that these ones replace",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct server_args, auto_dedup)},
	DAEMON_ROWS(struct server_args, daemon),
	TLS_ROWS(struct server_args, tls),
	LOG_ROWS(struct server_args, log),
	{0},
};

static const struct opt_spec spec = {
	.command = "page-server",
	.arguments = "",
	.summary = "receives the memory of a dump on another host",
	.details = "Exits with 0 when everything is stored that a dump --page-server has sent.\n",
	.max_args = 0,
	.rows = rows,
};

struct page_server {
	const struct server_args *args;
	int images_fd, work_fd, status_fd;
	int fd;                /* listens, or is the connection */
	struct store *store;   /* of the images; with --prev-images-dir or --lazy-pages only */
	struct snapshot *snap; /* with --lazy-pages */
	struct serve *serve;
	struct tls *tls;
	struct ps_server_options opt;
};

static int open_dir(const char *path, const char *what, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_sys(err, "%.200s: cannot open the %s directory", path, what) : fd;
}

static int open_parent(struct page_server *s, struct err *err)
{
	if (!s->args->prev_images_dir)
		return 0;
	s->store = store_dir_open(s->images_fd, err);
	if (!s->store || store_set_parent(s->store, s->args->prev_images_dir, err) ||
	    store_parent(s->store, &s->opt.parent, err))
		return -1;
	s->opt.dedup = s->args->auto_dedup ? s->store : NULL;
	return 0;
}

/* All memory that may be asked for. */
static int open_images(struct page_server *s, struct err *err)
{
	if (!s->args->lazy)
		return 0;
	s->store = store_dir_open(s->images_fd, err);
	s->snap = s->store ? snapshot_load(s->store, err) : NULL;
	s->serve = s->snap ? serve_create(err) : NULL;
	if (!s->serve || snapshot_check_pages(s->snap, s->store, err))
		return -1;
	vec_foreach (task, &s->snap->tasks)
		if ((*task)->pagemap && serve_add_image(s->serve, (*task)->pagemap, s->store, err))
			return -1;
	log_info("%llu pages can be asked for", (unsigned long long)serve_pages(s->serve));
	return 0;
}

static int listen_or_take(struct page_server *s, struct err *err)
{
	const struct server_args *a = s->args;

	if (a->socket != NO_SOCKET) {
		s->opt.given = true;
		s->fd = ps_given_socket(a->socket, err);
		return s->fd < 0 ? -1 : 0;
	}
	return listen_and_tell(a->address, (uint16_t)a->port, &s->fd, err);
}

static int open_all(struct page_server *s, struct err *err)
{
	const struct server_args *a = s->args;

	s->images_fd = open_dir(a->images_dir, "images", err);
	if (s->images_fd < 0)
		return -1;
	s->work_fd = open_dir(a->work_dir ? a->work_dir : a->images_dir, "work", err);
	if (s->work_fd < 0 || log_args_open(&a->log, s->work_fd, err))
		return -1;
	s->opt.dirfd = s->images_fd;
	if (tls_args_open(&a->tls, TLS_SERVER, &s->tls, err))
		return -1;
	s->opt.tls = s->tls;
	if (status_fd_take(a->daemon.status_fd, &s->status_fd, err) || open_parent(s, err) ||
	    open_images(s, err))
		return -1;
	signal(SIGPIPE, SIG_IGN);
	return listen_or_take(s, err);
}

static void close_all(struct page_server *s)
{
	serve_free(s->serve);
	snapshot_free(s->snap);
	store_close(s->store);
	tls_free(s->tls);
	if (s->fd >= 0)
		close(s->fd);
	if (s->work_fd >= 0)
		close(s->work_fd);
	if (s->images_fd >= 0)
		close(s->images_fd);
}

/* Until a client says that it has enough. */
static int serve_images(struct page_server *s, struct err *err)
{
	struct serve_net *net = serve_net_create(s->serve, false, err);
	struct serve_net_stats st;
	int rc = net ? 0 : -1;

	if (rc == 0)
		serve_net_secure(net, s->tls);
	if (rc == 0 && s->opt.given)
		rc = serve_net_add_socket(net, s->fd, "the given socket", err);
	else if (rc == 0)
		serve_net_listen(net, s->fd);
	if (net)
		s->fd = -1;
	while (rc == 0 && !serve_net_closed(net)) {
		rc = serve_net_step(net, -1, -1, err);
		serve_net_stats(net, &st);
		if (rc == 0 && s->opt.given && !st.peers && !serve_net_closed(net))
			rc = err_set(err, EPIPE,
				     "the connection ended before all memory was fetched");
	}
	serve_net_free(net);
	return rc;
}

static int serve(struct page_server *s, struct err *err)
{
	if (s->args->lazy)
		return serve_images(s, err);
	return ps_server_run(s->fd, &s->opt, err);
}

static int open_and_serve(void *arg, int ready_fd, struct err *err)
{
	struct page_server *s = arg;
	int rc = open_all(s, err) ||
		 daemon_announce(&s->args->daemon, s->work_fd, s->status_fd, ready_fd, err);

	if (rc == 0)
		rc = serve(s, err);
	if (rc && s->args->log.file) /* a daemon has no other voice */
		log_error("%s", err->text);
	close_all(s);
	return rc ? -1 : 0;
}

static int check_args(const struct server_args *args, struct err *err)
{
	if (args->socket != NO_SOCKET && (args->address || args->port))
		return err_set(err, 0, "--ps-socket excludes --address and --port: it is connected");
	if (args->auto_dedup && !args->prev_images_dir)
		return err_set(err, 0, "--auto-dedup needs --prev-images-dir");
	if (args->lazy && args->prev_images_dir)
		return err_set(err, 0, "--lazy-pages and --prev-images-dir exclude each other");
	return tls_args_check(&args->tls, err);
}

static int run(int argc, char **argv)
{
	struct server_args args = {.images_dir = ".",
				   .socket = NO_SOCKET,
				   .daemon = {.status_fd = NO_STATUS_FD},
				   .log = LOG_ARGS_DEFAULT};
	struct page_server s = {
		.args = &args, .images_fd = -1, .work_fd = -1, .status_fd = -1, .fd = -1};
	struct opt_rest rest;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (check_args(&args, &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	return daemon_run(&spec, &args.daemon, open_and_serve, &s);
}

const struct cmd cmd_page_server = {.spec = &spec, .run = run};

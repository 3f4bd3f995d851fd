// SPDX-License-Identifier: Apache-2.0
/*
 * ferry page-server: memory of a dump on another host into a directory here.
 */
#define LOG_MODULE "page-server"
#include "base/io.h"
#include "base/log.h"
#include "cmd/ps_args.h"
#include "mem/ps_server.h"
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct server_args {
	const char *images_dir, *work_dir, *prev_images_dir, *pidfile, *address;
	uint64_t port, socket, status_fd;
	bool daemon;
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
	{.long_name = "prev-images-dir",
	 .arg = "DIR",
	 .help = "earlier images (relative to those) that these build on",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct server_args, prev_images_dir)},
	{.short_name = 'd',
	 .long_name = "daemon",
	 .help = "return when it listens; it works in the background",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct server_args, daemon)},
	{.long_name = "pidfile",
	 .arg = "FILE",
	 .help = "write the server's pid to FILE (relative to the work directory)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct server_args, pidfile)},
	{.long_name = "status-fd",
	 .arg = "FD",
	 .help = "write a zero byte to descriptor FD when it listens",
	 .type = OPT_NUMBER,
	 .offset = offsetof(struct server_args, status_fd),
	 .max = 1048575},
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
	int fd;              /* listens, or is the connection */
	struct store *store; /* with --prev-images-dir: of the images, for the sake of its parent */
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
	return 0;
}

static int open_status(struct page_server *s, struct err *err)
{
	if (s->args->status_fd == NO_STATUS_FD)
		return 0;
	s->status_fd = (int)s->args->status_fd;
	if (fcntl(s->status_fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "--status-fd: descriptor %d", s->status_fd);
	return 0;
}

static int listen_or_take(struct page_server *s, struct err *err)
{
	const struct server_args *a = s->args;
	uint16_t port;

	if (a->socket != NO_SOCKET) {
		s->opt.given = true;
		s->fd = ps_given_socket(a->socket, err);
		return s->fd < 0 ? -1 : 0;
	}
	s->fd = tcp_listen(a->address, (uint16_t)a->port, &port, err);
	if (s->fd < 0)
		return -1;
	log_info("listening on %s, port %u", a->address ? a->address : "127.0.0.1", port);
	if (!a->port && (printf("%u\n", port) < 0 || fflush(stdout)))
		return err_sys(err, "cannot print the port");
	return 0;
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
	if (open_status(s, err) || open_parent(s, err))
		return -1;
	signal(SIGPIPE, SIG_IGN);
	return listen_or_take(s, err);
}

static void close_all(struct page_server *s)
{
	store_close(s->store);
	if (s->fd >= 0)
		close(s->fd);
	if (s->work_fd >= 0)
		close(s->work_fd);
	if (s->images_fd >= 0)
		close(s->images_fd);
}

/* It is there: whoever waits for that is told. */
static int announce(struct page_server *s, pid_t pid, struct err *err)
{
	struct image_env env = {.status_fd = s->status_fd};

	if (s->args->pidfile && write_pidfile(s->work_fd, s->args->pidfile, pid, err) < 0)
		return -1;
	return image_env_ready(&env, err);
}

/* In the background nobody reads what is printed; only a log file is written. */
static int leave_terminal(struct err *err)
{
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    dup2(null, STDERR_FILENO) < 0)
		return err_sys(err, "cannot leave the terminal");
	(void)setsid();
	return 0;
}

/* Starts the background process: in it 0, else its pid, or -1. It waits until we have announced it. */
static pid_t split(int gate[2], struct err *err)
{
	pid_t pid;
	char go;

	if (pipe2(gate, O_CLOEXEC))
		return err_sys(err, "cannot make a pipe");
	pid = fork();
	if (pid < 0)
		return err_sys(err, "cannot start the background process");
	if (pid > 0)
		return pid;
	close(gate[1]);
	/* the end of the pipe without a byte: the parent could not announce us */
	if (read(gate[0], &go, 1) != 1)
		_exit(EXIT_FAILED);
	close(gate[0]);
	return 0;
}

/* 0: go on and serve; 1: the background process does; -1 */
static int go_to_background(struct page_server *s, struct err *err)
{
	int gate[2];
	pid_t pid = split(gate, err);

	if (pid < 0)
		return -1;
	if (pid == 0)
		return leave_terminal(err);
	if (announce(s, pid, err))
		return -1;
	return io_write_full(gate[1], "", 1) ? err_sys(err, "the background process") : 1;
}

static int serve(struct page_server *s, struct err *err)
{
	int rc = s->args->daemon ? go_to_background(s, err) : announce(s, getpid(), err);

	if (rc)
		return rc > 0 ? 0 : -1;
	rc = ps_server_run(s->fd, &s->opt, err);
	if (rc)
		log_error("%s", err->text);
	return rc;
}

static int check_args(const struct server_args *args, struct err *err)
{
	if (args->socket != NO_SOCKET && (args->address || args->port))
		return err_set(err, 0, "--ps-socket excludes --address and --port: it is connected");
	return 0;
}

static int run(int argc, char **argv)
{
	struct server_args args = {.images_dir = ".",
				   .socket = NO_SOCKET,
				   .status_fd = NO_STATUS_FD,
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
	rc = open_all(&s, &err);
	if (rc == 0)
		rc = serve(&s, &err);
	close_all(&s);
	return rc < 0 ? cmd_fail(&spec, &err) : EXIT_DONE;
}

const struct cmd cmd_page_server = {.spec = &spec, .run = run};

// SPDX-License-Identifier: Apache-2.0
/*
 * ferry call: to "ferry serve" what ssh is to sshd. ferry migrate starts it for a host that is called
 * ferry://HOST; its standard input and output are then those of the agent there. Without a command it
 * asks what we may do there.
 */
#define LOG_MODULE "call"
#include "wire/call.h"
#include "base/io.h"
#include "base/log.h"
#include "cmd/common.h"
#include "cmd/tls_args.h"
#include "migrate/connect.h"
#include "wire/pump.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { CONNECT_MS = 10000, ANSWER_MS = 20000 };

struct call_args {
	struct tls_args tls;
	struct log_args log;
};

static const struct opt_row rows[] = {
	TLS_FILE_ROWS(struct call_args, tls),
	LOG_ROWS(struct call_args, log),
	{0},
};

static const struct opt_spec spec = {
	.command = "call",
	.arguments = "ferry://HOST[:PORT] [COMMAND]",
	.summary = "reaches ferry serve on another host, as ssh reaches sshd",
	.details = "Without a COMMAND it asks what we may do there. With one, stdin and stdout are those of\n"
		   "the agent there; ferry migrate uses it so.\n",
	.min_args = 1,
	.max_args = 2,
	.rows = rows,
};

static int await_answer(int fd, struct tunnel *tunnel, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (poll(&p, 1, ANSWER_MS) == 0)
		return err_set(err, ETIMEDOUT, "it does not answer");
	return tunnel_fault(tunnel, err);
}

/* Says what we want. 0: granted; the text of the answer is in @text. */
static int ask(int fd, struct tunnel *tunnel, enum call_what what, char text[CALL_TEXT_MAX + 1],
	       struct err *err)
{
	const struct call call = {.what = what};
	uint8_t out[CALL_BYTES], head[CALL_HEAD_BYTES], raw[CALL_TEXT_MAX];
	size_t bytes;
	bool yes;

	call_encode(&call, out);
	if (io_write_full(fd, out, sizeof(out)) < 0 || await_answer(fd, tunnel, err) ||
	    io_read_full(fd, head, sizeof(head)) < 0) {
		if (!tunnel_fault(tunnel, err))
			err_set(err, EPIPE, "it ended the connection");
		return -1;
	}
	if (call_answer_head(head, &yes, &bytes, err))
		return -1;
	if (io_read_full(fd, raw, bytes) < 0)
		return err_set(err, EPIPE, "it ended the connection");
	call_answer_text(raw, bytes, text);
	return yes ? 0 : err_set(err, EACCES, "it refuses: %s", text);
}

/* Takes @fd. */
static int converse(int fd, struct tunnel *tunnel, enum call_what what, struct err *err)
{
	char text[CALL_TEXT_MAX + 1];

	if (ask(fd, tunnel, what, text, err)) {
		close(fd);
		return -1;
	}
	if (what == CALL_ASK) {
		close(fd);
		return printf("%s\n", text) < 0 || fflush(stdout) ? err_sys(err, "stdout") : 0;
	}
	return pump_run((struct pump_end){STDIN_FILENO, STDOUT_FILENO}, (struct pump_end){fd, fd},
			err);
}

static int call(const struct call_args *args, const char *url, enum call_what what, struct err *err)
{
	const struct tls_files files = tls_args_files(&args->tls);
	char host[CALL_HOST_MAX + 1];
	struct tunnel *tunnel;
	struct tls *tls;
	uint16_t port;
	int fd, rc;

	if (call_url_parse(url, host, &port, err))
		return -1;
	tls = tls_with_files(TLS_CLIENT, &files, err);
	if (!tls)
		return -1;
	fd = tcp_connect(host, port, CONNECT_MS, err);
	tunnel = fd < 0 ? NULL : tunnel_open(tls, fd, host, NULL, &fd, err);
	rc = tunnel ? converse(fd, tunnel, what, err) : -1;
	if (rc == 0)
		rc = tunnel_fault(tunnel, err);
	tunnel_finish(tunnel);
	tls_free(tls);
	return rc < 0 ? err_wrap(err, "%.200s", url) : 0;
}

static int run(int argc, char **argv)
{
	struct call_args args = {.log = LOG_ARGS_DEFAULT};
	enum call_what what = CALL_ASK;
	struct opt_rest rest;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (rest.n == 2 && !call_of_command(rest.v[1], &what)) {
		err_set(&err, 0, "'%.80s' is nothing that can be asked for", rest.v[1]);
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	signal(SIGPIPE, SIG_IGN);
	if (log_args_open(&args.log, AT_FDCWD, &err) < 0 || call(&args, rest.v[0], what, &err) < 0)
		return cmd_fail(&spec, &err);
	return EXIT_DONE;
}

const struct cmd cmd_call = {.spec = &spec, .run = run};

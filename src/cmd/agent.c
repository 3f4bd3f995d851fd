// SPDX-License-Identifier: Apache-2.0
/*
 * ferry agent: the far side of ferry migrate, started there by ssh. It speaks
 * on its stdin and stdout, listens to nothing else but, for one migration, whoever
 * knows its secret (migrate/transport.h), and ends with the
 * connection; a tree that it restored and committed stays.
 */
#include "base/io.h"
#include "base/log.h"
#include "cmd/common.h"
#include "lazyfs/serve.h"
#include "migrate/lane.h"
#include "migrate/target.h"
#include "wire/call.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

struct agent_args {
	bool join, files, writeback, call;
	struct log_args log;
};

static const struct opt_row rows[] = {
	{.long_name = "join",
	 .help = "hand stdin and stdout to an agent that runs already, as one more connection",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct agent_args, join)},
	{.long_name = "files",
	 .help = "hand out the files of a tree, read-only; ferry lazyfs starts it",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct agent_args, files)},
	{.long_name = "writeback",
	 .help = "with --files: take changes, too, as far as the tree could make them",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct agent_args, writeback)},
	{.long_name = "call",
	 .help = "stdin begins with a call that ferry serve has checked, which says what to do",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct agent_args, call)},
	LOG_ROWS(struct agent_args, log),
	{0},
};

static const struct opt_spec spec = {
	.command = "agent",
	.arguments = "",
	.summary = "receives a tree on stdin; ferry migrate starts it by ssh",
	.rows = rows,
};

/*
 * The connection moves away from the standard descriptors, so that no message
 * of a library can get into it, and nothing that lives longer than we do keeps
 * it (and with it the ssh session) open.
 */
static int take_connection(int *in_out, int *out_out, struct err *err)
{
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	*in_out = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	*out_out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (null < 0 || *in_out < 0 || *out_out < 0)
		return err_sys(err, "cannot set up standard descriptors");
	if (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		return err_sys(err, "cannot set up standard descriptors");
	return 0;
}

static void leave_terminal(void)
{
	static const int sigs[] = {SIGINT, SIGQUIT, SIGHUP, SIGTERM};

	/* ssh was started with these ignored; we are not to be */
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		signal(sigs[i], SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	/* fails if we lead a session already: then it is not the user's */
	(void)setsid();
	if (chdir("/") < 0)
		log_debug("chdir: /");
}

/*
 * A key that may run "ferry agent" only (authorized_keys, command=) may also join one, and have
 * files; one that may run "ferry agent --files" only may do nothing else: above all not change any.
 */
static bool asked_for(const struct agent_args *args, const char *what)
{
	const char *asked = getenv("SSH_ORIGINAL_COMMAND");

	return !args->join && !args->files && asked && strstr(asked, what);
}

/* Instead of options, and of what sshd puts into the environment. */
static int take_call(struct agent_args *args, int in, struct err *err)
{
	uint8_t bytes[CALL_BYTES];
	struct call call;

	if (io_read_full(in, bytes, sizeof(bytes)) < 0)
		return err_sys(err, "no call has come");
	if (call_decode(bytes, &call, err))
		return -1;
	args->join = call.what == CALL_JOIN;
	args->files = call.what == CALL_FILES;
	unsetenv("SSH_ORIGINAL_COMMAND");
	if (call.address[0] && setenv(TRANSPORT_ADDRESS, call.address, 1))
		return err_nomem(err);
	return 0;
}

static int serve(struct agent_args *args, int in, int out, struct err *err)
{
	if (args->call && take_call(args, in, err))
		return -1;
	if (args->files || asked_for(args, "agent --files")) {
		const struct serve_options opt = {
			.writes = args->writeback || asked_for(args, "agent --files --writeback"),
		};

		umask(0); /* the client has applied that of its program */
		return lazyfs_serve(in, out, &opt, NULL, err);
	}
	if (args->join || asked_for(args, "agent --join"))
		return lane_join(in, out, err);
	return migrate_target(in, out, err);
}

static int run(int argc, char **argv)
{
	struct agent_args args = {.log = LOG_ARGS_DEFAULT};
	struct opt_rest rest;
	struct err err;
	int in, out, rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (isatty(STDIN_FILENO)) {
		err_set(&err, 0, "stdin is a terminal; ferry migrate starts the agent");
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	if (log_args_open(&args.log, AT_FDCWD, &err) < 0 || take_connection(&in, &out, &err) < 0)
		return cmd_fail(&spec, &err);
	leave_terminal();
	if (args.writeback && !args.files) {
		err_set(&err, 0, "--writeback is for --files");
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	/* the source has been told why, and tells its user */
	rc = serve(&args, in, out, &err);
	if (rc < 0) {
		log_error("%s", err.text);
		return EXIT_FAILED;
	}
	return EXIT_DONE;
}

const struct cmd cmd_agent = {.spec = &spec, .run = run};

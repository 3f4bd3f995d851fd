// SPDX-License-Identifier: Apache-2.0
/*
 * What dump and restore (and partly check and migrate) have in common: the
 * options with CRIU's names, the directories, the log, action scripts, and
 * signals that must wait.
 */
#ifndef FERRY_CMD_COMMON_H
#define FERRY_CMD_COMMON_H

#include "cmd/cmd.h"
#include "cmd/image_store.h"
#include "kinds/kind.h"

#include <signal.h>

/* As the user gave them; what kind_options wants is made by kind_args_resolve. */
struct kind_args {
	bool shell_job, ext_unix_sk, file_locks, link_remap, evasive_devices;
	uint64_t ghost_limit_bytes;
	struct opt_list external, inherit_fd;
	const char *root;
};

/* The log: of every command that has one. */
struct log_args {
	const char *file;
	unsigned int verbose;
};

struct image_args {
	struct image_place place;
	const char *work_dir, *action_script;
	uint64_t status_fd; /* NO_STATUS_FD: none */
	struct log_args log;
	struct kind_args kinds;
};

#define NO_STATUS_FD UINT64_MAX

#define KIND_ARGS_DEFAULT ((struct kind_args){.ghost_limit_bytes = 1 << 20})
#define LOG_ARGS_DEFAULT ((struct log_args){.verbose = 2})
#define IMAGE_ARGS_DEFAULT                              \
	((struct image_args){.place.images_dir = ".",   \
			     .status_fd = NO_STATUS_FD, \
			     .log = LOG_ARGS_DEFAULT,   \
			     .kinds = KIND_ARGS_DEFAULT})

/* Rows of the options tables; @Args is the command's struct, @at the member of it that holds the args. */
#define LOG_ROWS(Args, at)                                                              \
	{.short_name = 'o',                                                             \
	 .long_name = "log-file",                                                       \
	 .arg = "FILE",                                                                 \
	 .help = "write the log to FILE (relative to the work directory)",              \
	 .type = OPT_TEXT,                                                              \
	 .offset = offsetof(Args, at.file)},                                            \
	{                                                                               \
		.short_name = 'v', .long_name = "verbosity", .arg = "N",                \
		.help = "log more: -v raises the level by one, -vN sets it: 1 errors, " \
			"2 warnings, 3 information, 4 all",                             \
		.type = OPT_VERBOSE, .offset = offsetof(Args, at.verbose)               \
	}

#define KIND_ROWS(Args, at)                                                                     \
	{.short_name = 'j',                                                                     \
	 .long_name = "shell-job",                                                              \
	 .help = "the tree may belong to a terminal outside of it",                             \
	 .type = OPT_FLAG,                                                                      \
	 .offset = offsetof(Args, at.shell_job)},                                               \
		{.long_name = "ext-unix-sk",                                                    \
		 .help = "unix sockets may be connected to programs outside of the tree",       \
		 .type = OPT_FLAG,                                                              \
		 .offset = offsetof(Args, at.ext_unix_sk)},                                     \
		{.long_name = "file-locks",                                                     \
		 .help = "carry POSIX and flock locks",                                         \
		 .type = OPT_FLAG,                                                              \
		 .offset = offsetof(Args, at.file_locks)},                                      \
		{.long_name = "link-remap",                                                     \
		 .help = "give unlinked files that have other links a temporary name",          \
		 .type = OPT_FLAG,                                                              \
		 .offset = offsetof(Args, at.link_remap)},                                      \
		{.long_name = "ghost-limit",                                                    \
		 .arg = "SIZE",                                                                 \
		 .help = "carry deleted files up to SIZE bytes (suffix K, M or G; default 1M)", \
		 .type = OPT_BYTES,                                                             \
		 .offset = offsetof(Args, at.ghost_limit_bytes),                                \
		 .max = UINT64_MAX},                                                            \
		{.long_name = "evasive-devices",                                                \
		 .help = "use any path to a device that cannot be reached by its own",          \
		 .type = OPT_FLAG,                                                              \
		 .offset = offsetof(Args, at.evasive_devices)},                                 \
	{                                                                                       \
		.long_name = "external", .arg = "RESOURCE",                                     \
		.help = "a resource that exists outside of the tree, such as file[HEX:HEX]; "   \
			"may be repeated",                                                      \
		.type = OPT_LIST, .offset = offsetof(Args, at.external)                         \
	}

/* The tree that a command takes, and how long it may take to stop: fields of @Args. */
#define TREE_ROWS(Args, pid_text, seconds)                                                              \
	{.short_name = 't',                                                                             \
	 .long_name = "tree",                                                                           \
	 .arg = "PID",                                                                                  \
	 .help = "the root of the tree to dump",                                                        \
	 .type = OPT_TEXT,                                                                              \
	 .offset = offsetof(Args, pid_text)},                                                           \
	{                                                                                               \
		.long_name = "timeout", .arg = "SECONDS",                                               \
		.help = "give up when the tree cannot be frozen within SECONDS (default 10; 0: never)", \
		.type = OPT_NUMBER, .offset = offsetof(Args, seconds), .max = 86400                     \
	}

#define IMAGE_ROWS(Args, at)                                                                        \
	{.short_name = 'D',                                                                         \
	 .long_name = "images-dir",                                                                 \
	 .arg = "DIR",                                                                              \
	 .help = "directory of the images (default: the current one); dump and restore: -, a "      \
		 "stream on stdout or stdin",                                                       \
	 .type = OPT_TEXT,                                                                          \
	 .offset = offsetof(Args, at.place.images_dir)},                                            \
		{.short_name = 'W',                                                                 \
		 .long_name = "work-dir",                                                           \
		 .arg = "DIR",                                                                      \
		 .help = "directory of log, pid file and statistics (default: that of the images)", \
		 .type = OPT_TEXT,                                                                  \
		 .offset = offsetof(Args, at.work_dir)},                                            \
		LOG_ROWS(Args, at.log), KIND_ROWS(Args, at.kinds),                                  \
		{.long_name = "action-script",                                                      \
		 .arg = "FILE",                                                                     \
		 .help = "run FILE at each step, with its name in CRTOOLS_SCRIPT_ACTION",           \
		 .type = OPT_TEXT,                                                                  \
		 .offset = offsetof(Args, at.action_script)},                                       \
	{                                                                                           \
		.long_name = "status-fd", .arg = "FD",                                              \
		.help = "write a zero byte to descriptor FD when the work is done",                 \
		.type = OPT_NUMBER, .offset = offsetof(Args, at.status_fd), .max = 1048575          \
	}

/* Options and directories, opened. */
struct image_env {
	const struct image_args *args;
	int images_fd, work_fd;
	int status_fd; /* -1: none */
	struct kind_options kinds;
	struct image_store images;
	struct store *store; /* that of images */
};

/*
 * Opens the log (relative to @dirfd). Without a file and without -v nothing is
 * logged: the one sentence on failure is enough.
 */
int log_args_open(const struct log_args *args, int dirfd, struct err *err) must_check;

/* Fills @out from @args. Values keep pointing into @args. kind_args_free releases what was allocated. */
int kind_args_resolve(const struct kind_args *args, struct kind_options *out, struct err *err)
	must_check;
void kind_args_free(struct kind_options *opt);

int image_env_open(struct image_env *env, const struct image_args *args, enum image_use use,
		   struct err *err) must_check;
void image_env_close(struct image_env *env);

/*
 * Runs the action script, if there is one, and waits for it. @pid is the root
 * of the tree, or 0 before there is one. -1 if it failed.
 */
int image_env_action(const struct image_env *env, const char *action, pid_t pid, struct err *err)
	must_check;

/* Takes the descriptor of --status-fd over; without one *out stays as it is. */
int status_fd_take(uint64_t arg, int *out, struct err *err) must_check;

/* Listens (tcp_listen); prints the port when it was left to the kernel (@port 0). *fd_out is set, perhaps to -1. */
int listen_and_tell(const char *address, uint16_t port, int *fd_out, struct err *err) must_check;

/* Tells the holder of --status-fd that we are there. */
int image_env_ready(struct image_env *env, struct err *err) must_check;

/* A new file of the work directory with this text; it must not exist. */
int write_pidfile(int dirfd, const char *path, pid_t pid, struct err *err) must_check;

/* A process id as a user writes it. */
int parse_pid(const char *text, pid_t *out, struct err *err) must_check;

/*
 * SIGINT, SIGTERM, SIGHUP and SIGQUIT wait from signals_hold until
 * signals_release; between steps signals_check says whether one came.
 */
void signals_hold(sigset_t *saved);
int signals_check(struct err *err) must_check; /* -1, EINTR: one is waiting */
void signals_release(const sigset_t *saved);
void signals_discard(void); /* forget those that wait: the work was done before they mattered */

#endif

// SPDX-License-Identifier: Apache-2.0
#include "cmd/common.h"
#include "base/io.h"
#include "base/log.h"
#include "store/store.h"
#include "wire/tcp.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/wait.h>

int log_args_open(const struct log_args *args, int dirfd, struct err *err)
{
	enum log_level level = args->verbose ? (enum log_level)(args->verbose - 1) : LOG_ERROR;
	int fd = -1;

	if (args->file) {
		fd = openat(dirfd, args->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0)
			return err_sys(err, "%.200s: cannot open the log", args->file);
	} else if (args->verbose > 2) {
		fd = STDERR_FILENO;
	}
	log_init(fd, level);
	return 0;
}

/* "fd[N]:KEY" */
static int parse_inherit(const char *text, int *fd_out, const char **key_out, struct err *err)
{
	const char *close = strchr(text, ']');
	char digits[12];
	uint64_t fd;

	if (strncmp(text, "fd[", 3) || !close || close[1] != ':' || !close[2] ||
	    (size_t)(close - text) - 3 >= sizeof(digits))
		return err_set(err, EINVAL, "--inherit-fd: '%.80s' is not of the form fd[N]:KEY",
			       text);
	snprintf(digits, sizeof(digits), "%.*s", (int)(close - text - 3), text + 3);
	if (opt_number(digits, "--inherit-fd", 0, INT_MAX, &fd, err) < 0)
		return -1;
	if (fcntl((int)fd, F_GETFD) < 0)
		return err_sys(err, "--inherit-fd: descriptor %d", (int)fd);
	*fd_out = (int)fd;
	*key_out = close + 2;
	return 0;
}

int kind_args_resolve(const struct kind_args *args, struct kind_options *out, struct err *err)
{
	*out = (struct kind_options){
		.shell_job = args->shell_job,
		.ext_unix_sk = args->ext_unix_sk,
		.file_locks = args->file_locks,
		.link_remap = args->link_remap,
		.evasive_devices = args->evasive_devices,
		.ghost_limit = args->ghost_limit_bytes,
		.root = args->root,
	};
	static_assert(ARRAY_SIZE(args->inherit_fd.v) <= ARRAY_SIZE(out->inherit), "all must fit");
	for (size_t i = 0; i < args->inherit_fd.n; i++) {
		if (parse_inherit(args->inherit_fd.v[i], &out->inherit[i].fd, &out->inherit[i].key,
				  err) < 0)
			return -1;
		out->n_inherit++;
	}
	if (args->external.n) {
		out->external = calloc(args->external.n + 1, sizeof(*out->external));
		if (!out->external)
			return err_nomem(err);
		memcpy(out->external, args->external.v, args->external.n * sizeof(*out->external));
	}
	return 0;
}

void kind_args_free(struct kind_options *opt)
{
	free(opt->external);
	opt->external = NULL;
}

#ifndef NDEBUG
/* FERRY_STORE_FAULT=N:ERRNO: the N-th use of the store fails. For tests of the way out. */
static int add_fault(struct store **store, struct err *err)
{
	const char *text = getenv("FERRY_STORE_FAULT");
	struct store *faulty;
	unsigned int at;
	int no;

	if (!text)
		return 0;
	if (sscanf(text, "%u:%d", &at, &no) != 2)
		return err_set(err, EINVAL, "FERRY_STORE_FAULT: '%.40s' is not N:ERRNO", text);
	faulty = store_fault_open(*store, at, no, err);
	if (!faulty)
		return -1;
	*store = faulty;
	return 0;
}
#else
static int add_fault(struct store **store, struct err *err)
{
	return 0;
}
#endif

static int open_dir(const char *path, const char *what, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_sys(err, "%.200s: cannot open the %s directory", path, what) : fd;
}

/* Of a stream there is no directory: logs and the like go to the current one. */
static const char *work_dir_of(const struct image_args *args)
{
	if (args->work_dir)
		return args->work_dir;
	return strcmp(args->place.images_dir, "-") ? args->place.images_dir : ".";
}

int status_fd_take(uint64_t arg, int *out, struct err *err)
{
	if (arg == NO_STATUS_FD)
		return 0;
	*out = (int)arg;
	if (fcntl(*out, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "--status-fd: descriptor %d", *out);
	return 0;
}

int listen_and_tell(const char *address, uint16_t port, int *fd_out, struct err *err)
{
	uint16_t got;

	*fd_out = tcp_listen(address, port, &got, err);
	if (*fd_out < 0)
		return -1;
	log_info("listening on %s, port %u", address ? address : "127.0.0.1", got);
	if (!port && (printf("%u\n", got) < 0 || fflush(stdout)))
		return err_sys(err, "cannot print the port");
	return 0;
}

int image_env_open(struct image_env *env, const struct image_args *args, enum image_use use,
		   struct err *err)
{
	*env = (struct image_env){.args = args, .images_fd = -1, .work_fd = -1, .status_fd = -1};
	if (image_store_check(&args->place, use, err) < 0)
		return -1;
	if (!images_are_streamed(&args->place)) {
		env->images_fd = open_dir(args->place.images_dir, "images", err);
		if (env->images_fd < 0)
			return -1;
	}
	env->work_fd = open_dir(work_dir_of(args), "work", err);
	if (env->work_fd < 0)
		return -1;
	if (log_args_open(&args->log, env->work_fd, err) < 0)
		return -1;
	if (status_fd_take(args->status_fd, &env->status_fd, err) < 0)
		return -1;
	if (kind_args_resolve(&args->kinds, &env->kinds, err) < 0)
		return -1;
	signal(SIGPIPE, SIG_IGN);
	if (image_store_open(&env->images, &args->place, env->images_fd, env->work_fd, use, err) < 0 ||
	    add_fault(&env->images.store, err) < 0)
		return -1;
	env->store = env->images.store;
	return 0;
}

void image_env_close(struct image_env *env)
{
	image_store_close(&env->images);
	kind_args_free(&env->kinds);
	if (env->images_fd >= 0)
		close(env->images_fd);
	if (env->work_fd >= 0)
		close(env->work_fd);
	env->store = NULL;
	env->images_fd = env->work_fd = -1;
}

/* ---- action scripts ---- */

/* In the child: the environment that CRIU's scripts expect. Does not return. */
static void exec_script(const struct image_env *env, const char *action, pid_t pid)
{
	const char *script = env->args->action_script;
	char text[PATH_MAX];
	sigset_t none;

	if (io_readlinkf(text, sizeof(text), "/proc/self/fd/%d", env->images_fd) == 0)
		setenv("CRTOOLS_IMAGE_DIR", text, 1);
	setenv("CRTOOLS_SCRIPT_ACTION", action, 1);
	if (pid > 0) {
		snprintf(text, sizeof(text), "%d", pid);
		setenv("CRTOOLS_INIT_PID", text, 1);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execl("/bin/sh", "sh", "-c", script, (char *)NULL);
	_exit(127);
}

int image_env_action(const struct image_env *env, const char *action, pid_t pid, struct err *err)
{
	const char *script = env->args->action_script;
	int status;
	pid_t child;

	if (!script)
		return 0;
	child = fork();
	if (child < 0)
		return err_sys(err, "action script %.200s: cannot start it", script);
	if (child == 0)
		exec_script(env, action, pid);
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			return err_sys(err, "action script %.200s: cannot wait for it", script);
	}
	if (WIFSIGNALED(status))
		return err_set(err, 0, "action script %.200s: killed by signal %d at %s", script,
			       WTERMSIG(status), action);
	if (WEXITSTATUS(status))
		return err_set(err, 0, "action script %.200s: exit status %d at %s", script,
			       WEXITSTATUS(status), action);
	return 0;
}

int image_env_ready(struct image_env *env, struct err *err)
{
	if (env->status_fd < 0)
		return 0;
	if (io_write_full(env->status_fd, "", 1) < 0)
		return err_sys(err, "--status-fd: cannot write to descriptor %d", env->status_fd);
	close(steal_fd(&env->status_fd));
	return 0;
}

int write_pidfile(int dirfd, const char *path, pid_t pid, struct err *err)
{
	cleanup_close int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", pid);

	if (fd < 0)
		return err_sys(err, "%.200s: cannot make the pid file", path);
	if (io_write_full(fd, text, (size_t)n) < 0)
		return err_sys(err, "%.200s: cannot write the pid file", path);
	return 0;
}

int parse_pid(const char *text, pid_t *out, struct err *err)
{
	uint64_t value;

	if (opt_number(text, "PID", 1, 1 << 22, &value, err) < 0)
		return -1;
	*out = (pid_t)value;
	return 0;
}

/* ---- signals that wait ---- */

static void waiting_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGQUIT);
}

void signals_hold(sigset_t *saved)
{
	sigset_t set;

	waiting_set(&set);
	sigprocmask(SIG_BLOCK, &set, saved);
}

int signals_check(struct err *err)
{
	sigset_t set, pending;

	waiting_set(&set);
	sigpending(&pending);
	for (int sig = 1; sig < NSIG; sig++) {
		if (sigismember(&set, sig) == 1 && sigismember(&pending, sig) == 1)
			return err_set(err, EINTR, "interrupted by SIG%s", sigabbrev_np(sig));
	}
	return 0;
}

void signals_discard(void)
{
	static const struct timespec now;
	sigset_t set;

	waiting_set(&set);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
}

void signals_release(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

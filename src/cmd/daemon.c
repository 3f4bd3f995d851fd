// SPDX-License-Identifier: Apache-2.0
#include "cmd/daemon.h"

#include "base/io.h"
#include "cmd/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

/* The exit status of a child that ended before it was ready. */
static int child_status(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return EXIT_FAILED;
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

int daemon_fork(int *ready_fd_out, int *status_out, struct err *err)
{
	int p[2];
	pid_t child;
	char c;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "cannot make a pipe");
	child = fork();
	if (child < 0) {
		close(p[0]);
		close(p[1]);
		return err_sys(err, "cannot fork");
	}
	if (child == 0) {
		close(p[0]);
		setsid();
		*ready_fd_out = p[1];
		return 0;
	}
	close(p[1]);
	*status_out = io_read_full(p[0], &c, 1) == 0 ? EXIT_DONE : child_status(child);
	close(p[0]);
	return 1;
}

int daemon_leave_terminal(struct err *err)
{
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return err_sys(err, "cannot open /dev/null");
	for (int i = 0; i <= 2; i++)
		if (dup2(null, i) < 0)
			return err_sys(err, "cannot leave the terminal");
	return 0;
}

int daemon_ready(int ready_fd, struct err *err)
{
	cleanup_close int fd = ready_fd;

	if (daemon_leave_terminal(err) < 0)
		return -1;
	return io_write_full(fd, "", 1) < 0 ? err_sys(err, "cannot tell that all is ready") : 0;
}

int daemon_run(const struct opt_spec *spec, const struct daemon_args *args,
	       int (*work)(void *arg, int ready_fd, struct err *err), void *arg)
{
	int status, ready_fd = -1, rc = 0;
	struct err err;

	if (args->background)
		rc = daemon_fork(&ready_fd, &status, &err);
	if (rc > 0)
		return status;
	if (rc == 0)
		rc = work(arg, ready_fd, &err);
	return rc < 0 ? cmd_fail(spec, &err) : EXIT_DONE;
}

int daemon_announce(const struct daemon_args *args, int dir_fd, int status_fd, int ready_fd,
		    struct err *err)
{
	struct image_env env = {.status_fd = status_fd};

	if (args->pidfile && write_pidfile(dir_fd, args->pidfile, getpid(), err) < 0)
		return -1;
	if (image_env_ready(&env, err) < 0)
		return -1;
	return ready_fd >= 0 ? daemon_ready(ready_fd, err) : 0;
}

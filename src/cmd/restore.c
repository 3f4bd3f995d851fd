// SPDX-License-Identifier: Apache-2.0
/*
 * ferry restore: images into a running tree.
 *
 * What was built and not committed dies with us, so that failure at any point,
 * and SIGKILL too, leaves nothing behind.
 */
#include "restore/restore.h"
#define LOG_MODULE "restore"
#include "base/log.h"
#include "base/timeline.h"
#include "cmd/common.h"
#include "cmd/lazy_root.h"
#include "mem/lazy_sock.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>

struct restore_args {
	bool detached, sibling, exec_cmd, leave_stopped, lazy;
	const char *pidfile, *timeline;
	unsigned int pids;
	struct lazy_root_args files;
	struct image_args images;
};

static const char *const pids_words[] = {
	[RESTORE_PIDS_SAME] = "same", [RESTORE_PIDS_AUTO] = "auto", [RESTORE_PIDS_NEW] = "new", NULL};

static const struct opt_row rows[] = {
	{.short_name = 'd',
	 .long_name = "restore-detached",
	 .help = "return when the tree runs, instead of waiting for its end",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct restore_args, detached)},
	{.short_name = 'S',
	 .long_name = "restore-sibling",
	 .help = "make the root a child of the caller of ferry (with -d)",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct restore_args, sibling)},
	{.short_name = 's',
	 .long_name = "leave-stopped",
	 .help = "leave the restored tree stopped, as by SIGSTOP",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct restore_args, leave_stopped)},
	{.long_name = "pidfile",
	 .arg = "FILE",
	 .help = "write the pid of the root to FILE (relative to the work directory)",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct restore_args, pidfile)},
	{.long_name = "exec-cmd",
	 .help = "then become the command after --, as the parent of the root",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct restore_args, exec_cmd)},
	{.long_name = "pids",
	 .arg = "same|auto|new",
	 .help = "pids that are taken: refuse (same), use a new pid namespace if needed (auto) "
		 "or always (new); default same",
	 .type = OPT_WORD,
	 .offset = offsetof(struct restore_args, pids),
	 .words = pids_words},
	{.long_name = "lazy-pages",
	 .help = "let the tree run before its memory is there: 'lazy-pages' brings it",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct restore_args, lazy)},
	LAZY_ROOT_ROWS(struct restore_args, files),
	{.long_name = "root",
	 .arg = "DIR",
	 .help = "open the paths of the tree below DIR",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct restore_args, images.kinds.root)},
	{.long_name = "inherit-fd",
	 .arg = "fd[N]:KEY",
	 .help = "use our descriptor N for the file that KEY names in the images; may be repeated",
	 .type = OPT_LIST,
	 .offset = offsetof(struct restore_args, images.kinds.inherit_fd)},
	{.long_name = "timeline",
	 .arg = "FILE",
	 .help = "append what happens when to FILE, in Chrome's trace format",
	 .type = OPT_TEXT,
	 .offset = offsetof(struct restore_args, timeline)},
	REMOTE_ROWS(struct restore_args, images.place),
	IMAGE_ROWS(struct restore_args, images),
	{0},
};

static const struct opt_spec spec = {
	.command = "restore",
	.arguments = "",
	.summary = "makes a tree of processes from a directory of images",
	.details = "Without -d it waits for the end of the root and exits with its status.\n",
	.max_args = 0,
	.command_follows = true,
	.rows = rows,
};

static int check_args(const struct restore_args *args, const struct opt_rest *rest, struct err *err)
{
	if (args->exec_cmd && !rest->command)
		return err_set(err, 0, "--exec-cmd needs a command after --");
	if (!args->exec_cmd && rest->command)
		return err_set(err, 0, "a command after -- needs --exec-cmd");
	if (args->lazy && images_are_streamed(&args->images.place) && !args->images.place.remote)
		return err_set(err, 0,
			       "--lazy-pages excludes -D -: all memory comes with the images");
	if (args->files.host && images_are_streamed(&args->images.place))
		return err_set(err, 0,
			       "--lazy-files excludes -D - and --remote: all images are needed first");
	if (args->files.host && args->images.kinds.root)
		return err_set(err, 0, "--lazy-files excludes --root");
	if (lazy_root_check(&args->files, err) < 0)
		return -1;
	if (image_store_check(&args->images.place, IMAGES_READ, err) < 0)
		return -1;
	if (args->sibling && !args->detached)
		return err_set(err, 0, "--restore-sibling makes sense with --restore-detached only");
	return 0;
}

/* Pages that come later: at the daemon or still at the source. */
static int check_pages(const struct restore *state, bool lazy, struct err *err)
{
	/* they are on their way, and looked at as they come */
	if (store_streams(state->store))
		return 0;
	return lazy ? snapshot_check_pages_lazy(state->snap, state->store, err) :
		      snapshot_check_pages(state->snap, state->store, err);
}

/* restore_lazy: the daemon gets the userfaultfd of a task. */
static int announce(void *arg, pid_t vpid, pid_t pid, int uffd, struct err *err)
{
	cleanup_close int fd = uffd;

	return lazy_sock_announce(*(int *)arg, vpid, fd, err);
}

static int restore_tree(struct restore_session *s, struct image_env *env,
			const struct restore_args *args, int lazy_sock, struct treeroot *root,
			struct err *err)
{
	struct restore *state = restore_state(s);
	struct err late;
	pid_t pid;

	if (args->files.host && lazy_root_open(&args->files, state->snap, root, err) < 0)
		return -1;
	if (restore_check(s, err) < 0 || signals_check(err) < 0 ||
	    check_pages(state, args->lazy, err) < 0 || restore_build(s, NULL, NULL, err) < 0 ||
	    store_arrived(state->store, err) < 0)
		return -1;
	pid = restore_root_pid(s);
	if (args->pidfile && write_pidfile(env->work_fd, args->pidfile, pid, err) < 0)
		return -1;
	if (image_env_action(env, "post-restore", pid, err) < 0 ||
	    image_env_action(env, "pre-resume", pid, err) < 0 || signals_check(err) < 0 ||
	    (args->lazy && lazy_sock_finish(lazy_sock, err) < 0) ||
	    (args->files.host && treeroot_commit(root, err) < 0) || restore_commit(s, err) < 0) {
		if (args->pidfile)
			unlinkat(env->work_fd, args->pidfile, 0);
		return -1;
	}
	/* it runs: what fails from here on is only told */
	timeline_mark("the tree runs");
	if (image_store_done(&env->images, &late) < 0)
		log_warn("%s", late.text);
	if (image_env_action(env, "post-resume", pid, &late) < 0 || image_env_ready(env, &late) < 0)
		log_warn("%s", late.text);
	return 0;
}

/* The exit status of the root, as a shell would have it. */
static int wait_root(pid_t pid, struct err *err)
{
	int status;

	for (;;) {
		pid_t got = waitpid(pid, &status, 0);

		if (got == pid)
			break;
		if (got < 0 && errno != EINTR)
			return err_sys(err, "the tree runs, but pid %d cannot be waited for", pid);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Returns the exit status. */
static int after_restore(const struct restore_args *args, char **command, pid_t pid)
{
	struct err err;
	int status;

	if (args->exec_cmd) {
		signal(SIGPIPE, SIG_DFL);
		execvp(command[0], command);
		err_sys(&err, "the tree runs, but %.200s cannot be executed", command[0]);
		return cmd_fail(&spec, &err);
	}
	if (args->detached)
		return EXIT_DONE;
	status = wait_root(pid, &err);
	return status < 0 ? cmd_fail(&spec, &err) : status;
}

static int run(int argc, char **argv)
{
	struct restore_args args = {.pids = RESTORE_PIDS_SAME,
				    .files = LAZY_ROOT_ARGS_DEFAULT,
				    .images = IMAGE_ARGS_DEFAULT};
	struct treeroot root = TREEROOT_NONE;
	struct image_env env = {.images_fd = -1, .work_fd = -1};
	struct restore_options opt = {.kinds = &env.kinds};
	struct restore_session *s = NULL;
	cleanup_close int lazy_sock = -1;
	struct restore_lazy lazy = {.announce = announce, .arg = &lazy_sock, .marked = true};
	struct opt_rest rest;
	sigset_t saved;
	pid_t pid = 0;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (check_args(&args, &rest, &err) < 0) {
		cmd_fail(&spec, &err);
		return EXIT_USAGE;
	}
	opt.pids = (enum restore_pids)args.pids;
	opt.sibling = args.sibling;
	opt.leave_stopped = args.leave_stopped;
	opt.interrupted = signals_check;
	opt.root_mount = args.files.host ? &root.mount : NULL;
	signals_hold(&saved);
	rc = args.timeline ? timeline_open(args.timeline, "restore", &err) : 0;
	if (rc == 0)
		rc = image_env_open(&env, &args.images, IMAGES_READ, &err);
	if (rc == 0)
		rc = image_env_action(&env, "pre-restore", 0, &err);
	if (rc == 0 && args.lazy) {
		opt.lazy = &lazy;
		lazy_sock = lazy_sock_connect(env.work_fd, &err);
		rc = lazy_sock < 0 ? -1 : 0;
	}
	if (rc == 0) {
		s = restore_open(env.store, &opt, &err);
		rc = s ? restore_tree(s, &env, &args, lazy_sock, &root, &err) : -1;
	}
	/* the daemon must not wait for us as long as we wait for the tree */
	if (lazy_sock >= 0)
		close(steal_fd(&lazy_sock));
	if (rc == 0)
		pid = restore_wait_pid(s);
	restore_close(s);
	if (rc < 0)
		treeroot_abandon(&root);
	else
		treeroot_close(&root);
	image_env_close(&env);
	if (rc < 0)
		signals_discard();
	signals_release(&saved);
	return rc < 0 ? cmd_fail(&spec, &err) : after_restore(&args, rest.command, pid);
}

const struct cmd cmd_restore = {.spec = &spec, .run = run};

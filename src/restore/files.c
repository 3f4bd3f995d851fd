// SPDX-License-Identifier: Apache-2.0
/*
 * Descriptors and directories.
 *
 * The broker has opened every description in our process, at numbers above all
 * that the tree uses. The tasks were forked from us, so they have them at the same
 * numbers and put them in place with dup3(); what is left above is closed last,
 * when areas are mapped and the executable is noted (threads.c).
 */
#include "restore/session.h"

#include "base/io.h"
#include "kernel/proc.h"
#include "kinds/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum {
	SPARE_FDS = 64,       /* for ourselves, below the broker's numbers */
	BROKER_MIN_FDS = 256, /* that must at least be possible above them */
	EMIT_OPS = 128,       /* room that a kind may count on */
	EMIT_BYTES = 16 * 1024,
};

/* The lowest number for the broker; raises our limit so that it can be used. */
int files_base(struct restore_session *s, struct err *err)
{
	struct rlimit lim;
	proc_pids own = {0};
	int highest = 2;

	if (proc_fds(getpid(), &own, err) < 0)
		return -1;
	vec_foreach(fd, &own)
		highest = MAX(highest, *fd);
	vec_free(&own);
	vec_foreach(tp, &s->tasks)
		vec_foreach(fe, &(*tp)->snap->fds)
			highest = MAX(highest, (int)(*fe)->fd);
	s->base_fd = highest + 1 + SPARE_FDS;
	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return err_sys(err, "cannot read our limit of open files");
	s->nofile.soft = lim.rlim_cur;
	if (lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		s->nofile.changed = setrlimit(RLIMIT_NOFILE, &lim) == 0;
	}
	if ((uint64_t)s->base_fd + BROKER_MIN_FDS + s->r.snap->files.n > lim.rlim_cur)
		return err_set(err, EMFILE, "the tree uses descriptors up to %d: needs a limit of open files "
			"(ulimit -n) of %llu, it is %llu", highest,
			(unsigned long long)s->base_fd + BROKER_MIN_FDS + s->r.snap->files.n,
			(unsigned long long)lim.rlim_cur);
	return 0;
}

static int place_fds(struct restore_session *s, struct rtask *t, struct err *err)
{
	vec_foreach(fp, &t->snap->fds) {
		const FdinfoEntry *fe = *fp;
		int fd = broker_fd(&s->r, fe->id, err);

		if (fd < 0)
			return err_wrap(err, "fd %u", fe->fd);
		if (slot_room(s, leader(t), 1, 0, err) < 0)
			return -1;
		script_same(&leader(t)->script, "put a descriptor in place (dup3)", fe->fd, SYS_dup3, SV(fd),
			SV(fe->fd), SV(fe->flags & FD_CLOEXEC ? O_CLOEXEC : 0));
	}
	return 0;
}

/* Has this description been seen in an earlier task, or earlier in this one? */
static bool is_first(const struct restore_session *s, const struct rtask *t, const FdinfoEntry *fe)
{
	vec_foreach(tp, &s->tasks)
		vec_foreach(fp, &(*tp)->snap->fds) {
			if (*tp == t && *fp == fe)
				return true;
			if ((*fp)->id == fe->id)
				return false;
		}
	return true;
}

/* What kinds want a holder to do itself. */
static int emit_fds(struct restore_session *s, struct rtask *t, struct err *err)
{
	vec_foreach(fp, &t->snap->fds) {
		const FdinfoEntry *fi = *fp;
		const FileEntry *fe = snapshot_file(s->r.snap, fi->id);
		const struct fd_kind *kind = fe ? fd_kind_by_type(fe->type) : NULL;
		struct fd_place place = {.task = t->snap, .fd = (int)fi->fd};

		if (!kind || !kind->emit)
			continue;
		place.first = is_first(s, t, fi);
		if (slot_room(s, leader(t), EMIT_OPS, EMIT_BYTES, err) < 0 ||
		    kind->emit(&s->r, fe, &place, &leader(t)->script, err) < 0)
			return err_wrap(err, "fd %u (%s)", fi->fd, kind->name);
	}
	return 0;
}

static const char *dir_name(const struct restore_session *s, uint32_t id)
{
	const FileEntry *fe = snapshot_file(s->r.snap, id);

	return fe && fe->reg ? fe->reg->name : "/";
}

static int place_dirs(struct restore_session *s, struct rtask *t, struct err *err)
{
	const FsEntry *fs = t->snap->fs;
	struct script *sc = &leader(t)->script;
	int cwd = broker_fd(&s->r, fs->cwd_id, err), root;

	if (cwd < 0)
		return err_wrap(err, "working directory");
	if (slot_room(s, leader(t), 4, 0, err) < 0)
		return -1;
	if (s->opt.kinds->root || strcmp(dir_name(s, fs->root_id), "/") != 0) {
		root = broker_fd(&s->r, fs->root_id, err);
		if (root < 0)
			return err_wrap(err, "root directory");
		script_call(sc, "go to the root directory", SYS_fchdir, SV(root));
		script_call(sc, "change the root directory", SYS_chroot, SV(script_string(sc, ".")));
	}
	script_call(sc, "go to the working directory", SYS_fchdir, SV(cwd));
	if (fs->has_umask)
		script_call(sc, "set the umask", SYS_umask, SV(fs->umask));
	return 0;
}

int files_install(struct restore_session *s, struct err *err)
{
	vec_foreach(tp, &s->tasks) {
		struct rtask *t = *tp;

		if (t->zombie)
			continue;
		/* a table that is shared was filled by the task that it came from */
		if (!t->share_files && (place_fds(s, t, err) < 0 || emit_fds(s, t, err) < 0))
			return task_wrap(t, err);
		if (place_dirs(s, t, err) < 0 || slot_start(s, leader(t), err) < 0)
			return task_wrap(t, err);
	}
	return slots_wait(s, err);
}

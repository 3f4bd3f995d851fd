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
#include "kinds/memfd.h"
#include "mem/fill.h"

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
	vec_foreach (fd, &own)
		highest = MAX(highest, *fd);
	vec_free(&own);
	vec_foreach (tp, &s->tasks)
		vec_foreach (fe, &(*tp)->snap->fds)
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
		return err_set(err, EMFILE,
			       "the tree uses descriptors up to %d: needs a limit of open files "
			       "(ulimit -n) of %llu, it is %llu",
			       highest,
			       (unsigned long long)s->base_fd + BROKER_MIN_FDS + s->r.snap->files.n,
			       (unsigned long long)lim.rlim_cur);
	return 0;
}

int raise_fd(const struct restore_session *s, int fd, struct err *err)
{
	int up = fcntl(fd, F_DUPFD_CLOEXEC, s->base_fd);

	if (up < 0)
		err_sys(err, "cannot move a descriptor above %d", s->base_fd);
	close(fd);
	return up;
}

int held_fd(const struct restore_session *s, uint32_t id, uint32_t flags)
{
	vec_foreach (h, &s->held)
		if (h->id == id && h->flags == flags)
			return h->fd;
	return -1;
}

/* Every task has entries of its own for its directories: those of one name share a descriptor. */
static int find_alias(const struct restore_session *s, const FileEntry *fe, uint32_t flags)
{
	if (!fe->reg || fe->reg->ext || snapshot_remap(s->r.snap, fe->id))
		return -1;
	vec_foreach (h, &s->held)
		if (h->flags == flags && h->fe->reg && strcmp(h->fe->reg->name, fe->reg->name) == 0 &&
		    !snapshot_remap(s->r.snap, h->id))
			return h->fd;
	return -1;
}

int hold_file(struct restore_session *s, uint32_t id, uint32_t flags, struct err *err)
{
	struct held_file h = {.id = id, .flags = flags, .fe = snapshot_file(s->r.snap, id)};

	if (held_fd(s, id, flags) >= 0)
		return 0;
	if (!h.fe)
		return err_set(err, EINVAL, "files.img has no file %u", id);
	h.fd = find_alias(s, h.fe, flags);
	h.alias = h.fd >= 0;
	if (!h.alias) {
		h.fd = file_open_path(&s->r, h.fe, flags, err);
		if (h.fd >= 0)
			h.fd = raise_fd(s, h.fd, err);
	}
	if (h.fd < 0)
		return -1;
	if (vec_push(&s->held, h))
		return 0;
	if (!h.alias)
		close(h.fd);
	return err_nomem(err);
}

static int fill_memfd(struct restore_session *s, const MemfdInodeEntry *m,
		      const struct snap_pagemap *pm, int fd, struct err *err)
{
	const struct restore_lazy *lazy = s->opt.lazy;
	int own;

	if (!pagemap_comes_late(pm))
		return fill_shmem(s->r.store, pm, fd, m->size, err);
	if (!lazy || !lazy->shared)
		return err_set(err, EOPNOTSUPP,
			       "the contents stayed with the source, which is supported for shared "
			       "memory in a migration only");
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return own < 0 ? err_sys(err, "dup") : lazy->shared(lazy->arg, pm, own, m->size, err);
}

static int fill_memfds(struct restore_session *s, struct err *err)
{
	vec_foreach (mp, &s->r.snap->memfds) {
		const MemfdInodeEntry *m = *mp;
		const struct snap_pagemap *pm = snapshot_shmem(s->r.snap, m->shmid);
		int fd = memfd_inode_fd(&s->r, m->inode_id, err);

		if (fd < 0 || (pm && fill_memfd(s, m, pm, fd, err) < 0))
			return err_wrap(err, "memfd %s", m->name);
	}
	return 0;
}

int files_open(struct restore_session *s, struct err *err)
{
	vec_foreach (tp, &s->tasks) {
		const struct snap_task *st = (*tp)->snap;

		if ((*tp)->zombie)
			continue;
		if (hold_file(s, st->mm->exe_file_id, O_RDONLY, err) < 0 ||
		    hold_file(s, st->fs->cwd_id, O_PATH, err) < 0 ||
		    hold_file(s, st->fs->root_id, O_PATH, err) < 0)
			return task_wrap(*tp, err);
	}
	return space_open_files(s, err) < 0 ? -1 : fill_memfds(s, err);
}

void files_close(struct restore_session *s)
{
	struct rlimit lim;

	vec_foreach (h, &s->held)
		if (!h->alias)
			close(h->fd);
	vec_free(&s->held);
	vec_foreach (g, &s->segments)
		if (g->fd >= 0)
			close(g->fd);
	vec_free(&s->segments);
	if (s->nofile.changed && getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = s->nofile.soft;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
	s->nofile.changed = false;
}

static int place_fds(struct restore_session *s, struct rtask *t, struct err *err)
{
	vec_foreach (fp, &t->snap->fds) {
		const FdinfoEntry *fe = *fp;
		int fd = broker_fd(&s->r, fe->id, err);

		if (fd < 0)
			return err_wrap(err, "fd %u", fe->fd);
		if (slot_room(s, leader(t), 1, 0, err) < 0)
			return -1;
		script_same(&leader(t)->script, "put a descriptor in place (dup3)", fe->fd, SYS_dup3,
			    SV(fd), SV(fe->fd), SV(fe->flags & FD_CLOEXEC ? O_CLOEXEC : 0));
	}
	return 0;
}

/* Has this description been seen in an earlier task, or earlier in this one? */
static bool is_first(const struct restore_session *s, const struct rtask *t, const FdinfoEntry *fe)
{
	vec_foreach (tp, &s->tasks)
		vec_foreach (fp, &(*tp)->snap->fds) {
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
	vec_foreach (fp, &t->snap->fds) {
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

	if (slot_room(s, leader(t), 4, 0, err) < 0)
		return -1;
	if (s->opt.kinds->root || strcmp(dir_name(s, fs->root_id), "/") != 0) {
		script_call(sc, "go to the root directory", SYS_fchdir,
			    SV(held_fd(s, fs->root_id, O_PATH)));
		script_call(sc, "change the root directory", SYS_chroot, SV(script_string(sc, ".")));
	}
	script_call(sc, "go to the working directory", SYS_fchdir,
		    SV(held_fd(s, fs->cwd_id, O_PATH)));
	if (fs->has_umask)
		script_call(sc, "set the umask", SYS_umask, SV(fs->umask));
	return 0;
}

int files_install(struct restore_session *s, struct err *err)
{
	vec_foreach (tp, &s->tasks) {
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

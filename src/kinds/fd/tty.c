// SPDX-License-Identifier: Apache-2.0
/*
 * Terminals: pseudo terminals whose master is in the tree, and the terminal
 * that a shell job was started on (--shell-job).
 *
 * Theory. A pseudo terminal has a number, two ends with a queue each, and one
 * set of settings, which belongs to the slave but can be reached from both
 * ends. The images have one tty_info per end (id = 2 * number, + 1 for the
 * master) and a file entry per description. Here the first slave entry of a
 * number in files.img sets what both ends share; the master does if there is
 * no slave.
 *
 * The number cannot be asked for: opening ptmx gives the lowest free one. So
 * masters are opened until it comes up, and the others closed.
 *
 * A slave whose master is closed is hung up for good: its info has no
 * settings. It is restored by hanging up a new one.
 *
 * A slave whose master is outside the tree is the terminal of a shell job.
 * Its restored descriptors are opened on the terminal of the restoring command.
 *
 * Only the leader of a session can take a controlling terminal (TIOCSCTTY), and
 * the others have it from being forked later. So the leader takes it as soon as
 * it has founded the session (tty.h), before the rest of its children are made.
 */
#define LOG_MODULE "tty"
#include "kinds/tty.h"
#include "base/io.h"
#include "base/log.h"
#include "kernel/proc.h"
#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/files.h"
#include "kinds/fd/ttyqueue.h"
#include "kinds/fd/ttyset.h"
#include "kinds/kind.h"
#include "kinds/sockopt.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>

enum {
	TTY_MAJOR = 4,
	TTYAUX_MAJOR = 5,
	PTS_MAJOR_FIRST = 136,
	PTS_MAJOR_LAST = 143,
	SERIAL_MINOR = 64,
	MAX_PTY_INDEX = 4096, /* kernel.pty.max */
	CTTY_ID = 2 * 1006,   /* images: the number that stands for /dev/tty */
};

enum tty_end { END_NONE, END_MASTER, END_SLAVE, END_CTTY, END_CONSOLE, END_VT, END_SERIAL };

static enum tty_end end_of(dev_t rdev)
{
	unsigned int ma = major(rdev), mi = minor(rdev);

	if (ma >= PTS_MAJOR_FIRST && ma <= PTS_MAJOR_LAST)
		return END_SLAVE;
	if (ma == TTY_MAJOR)
		return mi < SERIAL_MINOR ? END_VT : END_SERIAL;
	if (ma == TTYAUX_MAJOR)
		return mi == 2 ? END_MASTER :
		       mi == 1 ? END_CONSOLE :
		       mi == 0 ? END_CTTY :
				 END_SERIAL;
	return END_NONE;
}

static bool tty_claims(const struct capture *c, const struct fd_facts *f)
{
	return S_ISCHR(f->st.st_mode) && !(f->flags & O_PATH) && end_of(f->st.st_rdev) != END_NONE;
}

/* ---- capture: facts ---- */

struct tty_facts {
	enum tty_end end;
	uint32_t index;                /* of a pseudo terminal */
	const struct fd_facts *master; /* of a slave, if it is in the tree */
	bool hung_up;
	bool external;             /* --external tty[RDEV:DEV] */
	struct task_facts *holder; /* a task whose controlling terminal it is */
	struct task_facts *leader; /* the leader of that session */
	pid_t session, foreground; /* real ids */
};

static uint32_t slave_index(dev_t rdev)
{
	return (major(rdev) - PTS_MAJOR_FIRST) * 256 + minor(rdev);
}

static bool is_external(const struct capture *c, const struct fd_facts *f)
{
	char key[64];

	snprintf(key, sizeof(key), "tty[%llx:%llx]", (unsigned long long)f->st.st_rdev,
		 (unsigned long long)f->st.st_dev);
	return kind_external(c->opt, key) != NULL;
}

static const struct fd_facts *find_master(const struct capture *c, uint32_t index)
{
	vec_foreach (it, &c->fds) {
		int number;

		if ((*it)->kind == &tty_kind && end_of((*it)->st.st_rdev) == END_MASTER &&
		    !ioctl((*it)->own, TIOCGPTN, &number) && (uint32_t)number == index)
			return *it;
	}
	return NULL;
}

/* Whose controlling terminal it is: the terminal itself only tells its own session. */
static int find_session(struct capture *c, uint32_t index, struct tty_facts *t, struct err *err)
{
	dev_t rdev = makedev(PTS_MAJOR_FIRST + index / 256, index % 256);
	struct proc_stat st;

	vec_foreach (it, &c->tasks) {
		if ((*it)->zombie)
			continue;
		if (proc_stat((*it)->pid, &st, err)) {
			if (c->preflight)
				continue; /* it has just ended */
			return -1;
		}
		if (st.tty_nr != (int)rdev)
			continue;
		t->holder = *it;
		t->session = st.session;
		t->foreground = st.tpgid;
		if (st.session == (*it)->pid)
			t->leader = *it;
	}
	return 0;
}

static int find_facts(struct capture *c, const struct fd_facts *f, struct tty_facts *t,
		      struct err *err)
{
	struct winsize size;
	int number;

	memset(t, 0, sizeof(*t));
	t->end = end_of(f->st.st_rdev);
	t->external = is_external(c, f);
	if (t->external || (t->end != END_MASTER && t->end != END_SLAVE && t->end != END_CTTY))
		return 0;
	t->hung_up = ioctl(f->own, TIOCGWINSZ, &size) && errno == EIO;
	if (t->end == END_MASTER) {
		if (ioctl(f->own, TIOCGPTN, &number))
			return err_sys(err, "cannot ask for the number of a pseudo terminal");
		t->index = (uint32_t)number;
		t->master = f;
	} else if (t->end == END_SLAVE) {
		t->index = slave_index(f->st.st_rdev);
		t->master = t->hung_up ? NULL : find_master(c, t->index);
	}
	return t->end == END_CTTY || t->hung_up ? 0 : find_session(c, t->index, t, err);
}

/* ---- capture: what is refused ---- */

/* Does anybody have a descriptor of the slave with this number? */
static bool has_slave(const struct capture *c, uint32_t index)
{
	vec_foreach (it, &c->fds) {
		if ((*it)->kind == &tty_kind && end_of((*it)->st.st_rdev) == END_SLAVE &&
		    slave_index((*it)->st.st_rdev) == index)
			return true;
	}
	return false;
}

static int pty_allowed(struct capture *c, const struct tty_facts *t, struct err *err)
{
	if (t->hung_up)
		return 0;
	if (!t->master) {
		if (c->opt->shell_job)
			return 0;
		return err_set(err, 0,
			       "terminal /dev/pts/%u is handled by a program outside the tree; if "
			       "this is a job of your shell, --shell-job (-j) takes it along",
			       t->index);
	}
	if (!t->holder)
		return 0;
	if (!t->leader)
		return err_set(err, 0,
			       "terminal /dev/pts/%u is in the tree, but the session that it "
			       "controls is led by pid %d, outside",
			       t->index, t->session);
	if (!has_slave(c, t->index))
		return err_set(err, 0,
			       "terminal /dev/pts/%u controls the session of pid %d, but nobody has "
			       "a descriptor of it; comes in a later release",
			       t->index, t->leader->pid);
	return 0;
}

static int facts_allowed(struct capture *c, const struct fd_facts *f, const struct tty_facts *t,
			 struct err *err)
{
	if (t->external)
		return 0;
	switch (t->end) {
	case END_MASTER:
	case END_SLAVE:
		return pty_allowed(c, t, err);
	case END_CTTY:
		return 0;
	default:
		return err_set(err, 0, "%s is a console or serial line of this machine", f->link);
	}
}

static int tty_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	struct tty_facts t;

	return find_facts(c, f, &t, err) || facts_allowed(c, f, &t, err) ? -1 : 0;
}

/* ---- capture: the info of one end ---- */

static bool flag(int fd, unsigned long request)
{
	int on = 0;

	return !ioctl(fd, request, &on) && on;
}

/* The images' id of a process group or session of the tree, whose leader may be gone. */
static uint32_t virt_group(const struct capture *c, pid_t real)
{
	pid_t virt = capture_virt_pid(c, real);
	struct proc_stat st;
	struct err ignored;

	if (virt || !real)
		return (uint32_t)virt;
	vec_foreach (it, &c->tasks) {
		if ((*it)->snap && (*it)->snap->ps && !proc_stat((*it)->pid, &st, &ignored)) {
			if (st.pgrp == real)
				return (*it)->snap->ps->pgid;
			if (st.session == real)
				return (*it)->snap->ps->sid;
		}
	}
	return 0;
}

static int capture_queue(struct capture *c, struct fd_facts *f, const struct tty_facts *t,
			 uint32_t info_id, struct err *err)
{
	cleanup_free uint8_t *data = NULL;
	struct ttyqueue *q = NULL;
	TtyDataEntry *entry;
	size_t bytes;

	if (ttyqueue_take(f->own, t->master->own, &q, &data, &bytes, err))
		return -1;
	f->kept = q;
	if (!bytes)
		return 0;
	entry = snap_new(c->snap, TtyDataEntry, tty_data_entry);
	if (!entry)
		return err_nomem(err);
	entry->tty_id = info_id;
	entry->data.len = bytes;
	entry->data.data = arena_dup(&c->snap->arena, data, bytes);
	if (!entry->data.data || !vec_push(&c->snap->tty_data, entry))
		return err_nomem(err);
	return 0;
}

static uint32_t info_id_of(const struct fd_facts *f, const struct tty_facts *t)
{
	if (t->external)
		return (uint32_t)f->st.st_rdev << 8; /* above those of pseudo terminals */
	if (t->end == END_CTTY)
		return CTTY_ID;
	return 2 * t->index + (t->end == END_MASTER);
}

static int capture_info(struct capture *c, struct fd_facts *f, const struct tty_facts *t,
			struct err *err)
{
	TtyInfoEntry *info = snap_new(c->snap, TtyInfoEntry, tty_info_entry);

	if (!info || !vec_push(&c->snap->tty_info, info))
		return err_nomem(err);
	info->id = info_id_of(f, t);
	info->type = t->external        ? TTY_TYPE__EXT_TTY :
		     t->end == END_CTTY ? TTY_TYPE__CTTY :
					  TTY_TYPE__PTY;
	info->rdev = (uint32_t)f->st.st_rdev;
	info->has_dev = info->has_uid = info->has_gid = true;
	info->dev = (uint32_t)f->st.st_dev;
	info->uid = f->st.st_uid;
	info->gid = f->st.st_gid;
	info->sid = virt_group(c, t->session);
	info->pgrp = virt_group(c, t->foreground);
	if (info->type == TTY_TYPE__PTY) {
		info->pty = snap_new(c->snap, TtyPtyEntry, tty_pty_entry);
		if (!info->pty)
			return err_nomem(err);
		info->pty->index = t->index;
	}
	if (t->hung_up)
		return 0;
	info->exclusive = flag(f->own, TIOCGEXCL);
	if (t->end == END_MASTER) {
		info->locked = flag(f->own, TIOCGPTLCK);
		info->packet_mode = flag(f->own, TIOCGPKT);
	}
	if (ttyset_capture(c->snap, f->own, info, err))
		return -1;
	/* what is typed at the user's own terminal stays there */
	if (c->preflight || !t->master || t->external)
		return 0;
	return capture_queue(c, f, t, info->id, err);
}

/*
 * The entry with the path. Not one of the file kind: a terminal's node comes and
 * goes with it, and carries no contents.
 */
static int capture_path(struct capture *c, const struct fd_facts *f, uint32_t *id_out, struct err *err)
{
	static const char gone[] = " (deleted)";
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	RegFileEntry *reg = snap_new(c->snap, RegFileEntry, reg_file_entry);
	size_t len = strlen(f->link);

	if (!fe || !reg)
		return err_nomem(err);
	if (len > strlen(gone) && strcmp(f->link + len - strlen(gone), gone) == 0)
		len -= strlen(gone);
	fe->type = FD_TYPES__REG;
	fe->id = reg->id = *id_out = capture_next_file_id(c);
	fe->reg = reg;
	reg->flags = f->flags;
	reg->has_mode = true;
	reg->mode = f->st.st_mode;
	reg->fown = snap_new(c->snap, FownEntry, fown_entry);
	reg->name = arena_printf(&c->snap->arena, "%.*s", (int)len, f->link);
	if (!reg->fown || !reg->name)
		return err_nomem(err);
	return capture_add_file(c, fe, err);
}

static int tty_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	TtyFileEntry *tty = snap_new(c->snap, TtyFileEntry, tty_file_entry);
	struct tty_facts t;

	if (!fe || !tty)
		return err_nomem(err);
	if (find_facts(c, f, &t, err) || facts_allowed(c, f, &t, err))
		return -1;
	fe->type = FD_TYPES__TTY;
	fe->id = tty->id = f->id;
	fe->tty = tty;
	tty->flags = f->flags;
	tty->tty_info_id = info_id_of(f, &t);
	tty->fown = capture_fown(c, f);
	if (!tty->fown)
		return err_nomem(err);
	if (!snapshot_tty_info(c->snap, tty->tty_info_id) && capture_info(c, f, &t, err))
		return -1;
	tty->has_regf_id = true;
	if (capture_path(c, f, &tty->regf_id, err))
		return -1;
	return capture_add_file(c, fe, err);
}

static int tty_undo(struct capture *c, struct fd_facts *f, struct err *err)
{
	struct ttyqueue *q = f->kept;

	f->kept = NULL;
	return q ? ttyqueue_put_back(q, err) : 0;
}

static void tty_drop(struct capture *c, struct fd_facts *f)
{
	if (f->kept)
		ttyqueue_drop(f->kept);
	f->kept = NULL;
}

/* ---- restore: which is which ---- */

/* The first entry in files.img of this info, or NULL. */
static const FileEntry *first_of_info(const struct restore *r, uint32_t info_id)
{
	vec_foreach (it, &r->snap->files) {
		if ((*it)->tty && (*it)->tty->tty_info_id == info_id)
			return *it;
	}
	return NULL;
}

static TtyInfoEntry *info_of(const struct restore *r, const FileEntry *fe)
{
	return snapshot_tty_info(r->snap, fe->tty->tty_info_id);
}

static bool is_master(const TtyInfoEntry *info)
{
	return info->type == TTY_TYPE__PTY && (info->id & 1);
}

static const FileEntry *master_of(const struct restore *r, const TtyInfoEntry *info)
{
	return first_of_info(r, info->id | 1);
}

/* The terminal of the command that restores: the first of its standard descriptors that is one, or -1. */
static int own_terminal(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (isatty(fd))
			return fd;
	return -1;
}

static int inherit_fd(const struct restore *r, const TtyInfoEntry *info)
{
	char key[64];

	snprintf(key, sizeof(key), "tty:[%x:%x]", info->rdev, info->dev);
	return kind_inherited(r->opt, key);
}

/* Is this the terminal of a shell job? */
static bool is_job_terminal(const struct restore *r, const TtyInfoEntry *info)
{
	return info->type == TTY_TYPE__PTY && !is_master(info) && info->termios &&
	       !master_of(r, info);
}

/* /dev/tty is opened as what it stood for: the pseudo terminal of the same session. */
static const TtyInfoEntry *ctty_slave(const struct restore *r, const TtyInfoEntry *info)
{
	vec_foreach (it, &r->snap->tty_info) {
		if ((*it)->type == TTY_TYPE__PTY && !is_master(*it) && (*it)->sid &&
		    (*it)->sid == info->sid)
			return *it;
	}
	return NULL;
}

/* ---- restore: check ---- */

static int check_terminal(const struct restore *r, const char *what, struct err *err)
{
	if (!r->opt->shell_job)
		return err_set(err, 0,
			       "%s is the terminal of a shell job; --shell-job (-j) puts this "
			       "command's own terminal in its place",
			       what);
	if (own_terminal() < 0)
		return err_set(err, 0,
			       "%s is the terminal of a shell job, and there is no terminal here to "
			       "take its place",
			       what);
	return 0;
}

static int check_pty(const struct restore *r, const TtyInfoEntry *info, struct err *err)
{
	char path[32];

	if (!info->pty || info->pty->index >= MAX_PTY_INDEX || info->id / 2 != info->pty->index)
		return err_set(err, EINVAL, "pseudo terminal with an impossible number");
	snprintf(path, sizeof(path), "/dev/pts/%u", info->pty->index);
	if (is_job_terminal(r, info))
		return check_terminal(r, path, err);
	if (is_master(info) && !ttyset_number_free(info->pty->index))
		return err_set(err, EEXIST, "terminal number %s is in use here", path);
	return 0;
}

static int tty_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	const TtyInfoEntry *info = fe->tty ? info_of(r, fe) : NULL;

	if (!info)
		return err_set(err, EINVAL, "the entry has no terminal in it");
	if (ttyset_check(info, err))
		return -1;
	if (inherit_fd(r, info) >= 0)
		return 0;
	switch (info->type) {
	case TTY_TYPE__PTY:
		return check_pty(r, info, err);
	case TTY_TYPE__CTTY:
		return ctty_slave(r, info) ? 0 : check_terminal(r, "/dev/tty", err);
	case TTY_TYPE__EXT_TTY:
		return err_set(err, 0,
			       "the terminal was left out of the images; --inherit-fd "
			       "fd[N]:tty[%x:%x] gives one for it",
			       info->rdev, info->dev);
	default:
		return err_set(err, 0, "a console or serial line cannot be restored");
	}
}

/* ---- restore: open ---- */

static int open_ptmx(struct restore *r, const FileEntry *fe)
{
	const FileEntry *path = fe && fe->tty->has_regf_id ?
					snapshot_file(r->snap, fe->tty->regf_id) :
					NULL;
	uint32_t flags = O_NOCTTY | (fe ? fe->tty->flags & O_ACCMODE : O_RDWR);
	int fd = -1;

	if (path && path->reg && is_master(info_of(r, fe)))
		fd = path_open(r, path->reg->name, flags);
	return fd >= 0 ? fd : open("/dev/ptmx", (int)flags | O_CLOEXEC);
}

/* Opens masters until @index comes up; -1 + err if it is taken. */
static int open_master(struct restore *r, const FileEntry *fe, uint32_t index, struct err *err)
{
	VEC(int) others = {0};
	int number = -1, fd = -1, ret = 0, tries = 100;

	for (;;) {
		fd = open_ptmx(r, fe);
		if (fd < 0 || ioctl(fd, TIOCGPTN, &number)) {
			ret = err_sys(err, "cannot open a new pseudo terminal");
			break;
		}
		if ((uint32_t)number == index)
			break;
		if ((uint32_t)number > index && tries-- > 0) {
			close(fd);
			usleep(10000); /* see ttyset_number_free */
		} else if ((uint32_t)number > index) {
			ret = err_set(err, EEXIST, "terminal number /dev/pts/%u is in use here",
				      index);
			break;
		} else if (!vec_push(&others, fd)) {
			ret = err_nomem(err);
			break;
		}
	}
	vec_foreach (other, &others)
		close(*other);
	vec_free(&others);
	if (ret && fd >= 0)
		close(fd);
	return ret ? -1 : fd;
}

static int open_slave(int master, uint32_t flags, struct err *err)
{
	int unlocked = 0, fd;

	if (ioctl(master, TIOCSPTLCK, &unlocked))
		return err_sys(err, "cannot unlock a pseudo terminal");
	fd = ioctl(master, TIOCGPTPEER, (flags & O_ACCMODE) | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? err_sys(err, "cannot open the slave of a pseudo terminal") : fd;
}

/* With its master closed at once. The number is only a name then; another will do. */
static int open_hung_up(struct restore *r, const TtyInfoEntry *info, uint32_t flags, struct err *err)
{
	cleanup_close int master = open_master(r, NULL, info->pty->index, err);

	if (master < 0) {
		log_info("hung-up terminal /dev/pts/%u gets another number", info->pty->index);
		master = open_ptmx(r, NULL);
		if (master < 0)
			return err_sys(err, "cannot open a new pseudo terminal");
	}
	return open_slave(master, flags, err);
}

static int open_own_terminal(uint32_t flags, struct err *err)
{
	int fd = io_openf((int)(flags & O_ACCMODE) | O_NOCTTY, "/proc/self/fd/%d", own_terminal());

	/* somebody else's terminal (su) may be ours to use and not to open */
	if (fd < 0)
		fd = fcntl(own_terminal(), F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? err_sys(err, "cannot open this command's terminal") : fd;
}

static int open_fd(struct restore *r, const FileEntry *fe, const TtyInfoEntry *info, struct err *err)
{
	int inherited = inherit_fd(r, info), master;

	if (inherited >= 0) {
		inherited = fcntl(inherited, F_DUPFD_CLOEXEC, 0);
		return inherited < 0 ? err_sys(err, "cannot use the inherited terminal") : inherited;
	}
	if (info->type == TTY_TYPE__CTTY) {
		info = ctty_slave(r, info);
		if (!info)
			return open_own_terminal(fe->tty->flags, err);
	}
	if (is_master(info))
		return open_master(r, fe, info->pty->index, err);
	if (!info->termios)
		return open_hung_up(r, info, fe->tty->flags, err);
	if (is_job_terminal(r, info))
		return open_own_terminal(fe->tty->flags, err);
	master = broker_fd(r, master_of(r, info)->id, err);
	return master < 0 ? -1 : open_slave(master, fe->tty->flags, err);
}

static int tty_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	*fd_out = open_fd(r, fe, info_of(r, fe), err);
	return *fd_out < 0 ? -1 : 0;
}

/* ---- restore: settings and queues ---- */

static int fill_queue(struct restore *r, const TtyInfoEntry *info, int fd, int master, struct err *err)
{
	vec_foreach (it, &r->snap->tty_data) {
		if ((*it)->tty_id == info->id &&
		    ttyqueue_put(fd, master, (*it)->data.data, (*it)->data.len))
			return err_sys(err, "cannot fill a terminal's input queue");
	}
	return 0;
}

static int set_owner(struct restore *r, const FileEntry *fe, const TtyInfoEntry *info, int fd,
		     struct err *err)
{
	const FileEntry *path = fe->tty->has_regf_id ? snapshot_file(r->snap, fe->tty->regf_id) :
						       NULL;

	if (info->has_uid && info->has_gid && fchown(fd, info->uid, info->gid))
		return err_sys(err, "cannot give a terminal to its user");
	if (path && path->reg && path->reg->has_mode && fchmod(fd, path->reg->mode & 07777))
		return err_sys(err, "cannot set the mode of a terminal");
	return 0;
}

static int link_slave(struct restore *r, const FileEntry *fe, const TtyInfoEntry *info, int fd,
		      struct err *err)
{
	int master;

	if (first_of_info(r, info->id) != fe)
		return 0;
	if (is_job_terminal(r, info))
		return ttyset_restore(info, fd, err); /* its size and owner are the user's */
	master = broker_fd(r, master_of(r, info)->id, err);
	if (master < 0 || ttyset_restore(info, fd, err) || ttyset_size(info, fd, err) ||
	    set_owner(r, fe, info, fd, err) || fill_queue(r, info, fd, master, err) ||
	    ttyset_lock(info, fd, err))
		return -1;
	if (info->exclusive && ioctl(fd, TIOCEXCL))
		return err_sys(err, "cannot make a terminal exclusive");
	return 0;
}

static int link_master(struct restore *r, const FileEntry *fe, const TtyInfoEntry *info, int fd,
		       struct err *err)
{
	bool has_slave = first_of_info(r, info->id & ~1u) != NULL;
	int lock = info->locked, packet = info->packet_mode, unlocked = 0;

	if (ioctl(fd, TIOCSPTLCK, &unlocked))
		return err_sys(err, "cannot unlock a pseudo terminal");
	/* a change of settings in packet mode would be told to the master, so they come first */
	if (ttyset_restore(info, fd, err) || ttyset_size(info, fd, err) ||
	    fill_queue(r, info, fd, fd, err) || (!has_slave && ttyset_lock(info, fd, err)))
		return -1;
	if (ioctl(fd, TIOCSPTLCK, &lock) || ioctl(fd, TIOCPKT, &packet))
		return err_sys(err, "cannot set a pseudo terminal's lock and packet mode");
	if (info->exclusive && ioctl(fd, TIOCEXCL))
		return err_sys(err, "cannot make a terminal exclusive");
	return 0;
}

static int tty_link(struct restore *r, const FileEntry *fe, int fd, struct err *err)
{
	const TtyInfoEntry *info = info_of(r, fe);

	if (inherit_fd(r, info) >= 0)
		return 0;
	if (info->type == TTY_TYPE__PTY && info->termios &&
	    (is_master(info) ? link_master : link_slave)(r, fe, info, fd, err))
		return -1;
	return sockopt_set_flags(fd, fe->tty->flags, err);
}

/* ---- restore: the controlling terminal ---- */

/* Is @place the lowest descriptor of the slave with this info in its task? */
static bool is_first_of_task(const struct restore *r, const struct fd_place *place, uint32_t info_id)
{
	const struct snap_task *table = snap_fd_table(r->snap, place->task);

	vec_foreach (it, &table->fds) {
		const FileEntry *fe = snapshot_file(r->snap, (*it)->id);

		if (fe && fe->tty && fe->tty->tty_info_id == info_id && (int)(*it)->fd < place->fd)
			return false;
	}
	return true;
}

static bool group_exists(const struct restore *r, uint32_t pgrp)
{
	vec_foreach (it, &r->snap->tasks)
		if ((*it)->ps->pgid == pgrp)
			return true;
	return false;
}

static void emit_foreground(const TtyInfoEntry *info, const struct fd_place *place, struct script *s)
{
	int32_t group = (int32_t)info->pgrp;

	script_call(s, "set the foreground process group of a terminal", SYS_ioctl, SV(place->fd),
		    SV(TIOCSPGRP), SV(script_data(s, &group, sizeof(group))));
}

/*
 * A group of the tree that was in the foreground of the user's terminal is so
 * again, if we are: whoever is in the foreground may give it away.
 */
static bool gives_foreground(const struct restore *r, const TtyInfoEntry *info,
			     const struct fd_place *place)
{
	int own = own_terminal();

	return info->pgrp && place->first && info->pgrp != place->task->ps->sid &&
	       snapshot_task(r->snap, info->pgrp) && own >= 0 && tcgetpgrp(own) == getpgrp();
}

int tty_of_session(struct restore *r, uint32_t sid, struct err *err)
{
	vec_foreach (it, &r->snap->tty_info) {
		const TtyInfoEntry *info = *it;
		const FileEntry *fe;

		if (info->type != TTY_TYPE__PTY || is_master(info) || !info->sid ||
		    info->sid != sid || !info->termios || is_job_terminal(r, info))
			continue;
		fe = first_of_info(r, info->id);
		if (fe)
			return broker_fd(r, fe->id, err);
	}
	return TTY_NO_SESSION;
}

static int tty_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		    struct script *s, struct err *err)
{
	const TtyInfoEntry *info = info_of(r, fe);
	const struct snap_task *t = place->task;

	emit_fown(fe->tty->fown, fe->tty->flags, place, s);
	if (info->type != TTY_TYPE__PTY || is_master(info) || !info->termios ||
	    !is_first_of_task(r, place, info->id))
		return 0;
	if (is_job_terminal(r, info)) {
		if (gives_foreground(r, info, place))
			emit_foreground(info, place, s);
		return 0;
	}
	/* anybody of the session may; all of them put the same group there */
	if (info->sid && info->sid == t->ps->sid && info->pgrp && group_exists(r, info->pgrp))
		emit_foreground(info, place, s);
	return 0;
}

const struct fd_kind tty_kind = {
	.name = "tty",
	.type = FD_TYPES__TTY,
	.claims = tty_claims,
	.allowed = tty_allowed,
	.capture = tty_capture,
	.undo = tty_undo,
	.drop = tty_drop,
	.check = tty_check,
	.open = tty_open,
	.link = tty_link,
	.emit = tty_emit,
};

// SPDX-License-Identifier: Apache-2.0
/*
 * Pipes. The ends are separate descriptions tied by pipe_id, the inode number.
 * At restore the first end that is opened makes the pipe: both ends go to the
 * broker's shelf until every description is open (so that no open blocks, and
 * contents can be written without a writer in the tree), and the entries take
 * theirs: the first of each direction the end itself, the others by opening it
 * once more.
 *
 * A pipe whose other end is open outside the tree would lose its partner: it
 * is refused, unless the user gives the end at restore (--external here,
 * --inherit-fd there) or it is a standard stream of a --shell-job.
 */
#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/files.h"
#include "kinds/fd/pipedata.h"

#define LOG_MODULE "pipe"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

static bool reads(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_WRONLY;
}

static bool writes(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* ---- capture ---- */

static bool pipe_claims(const struct capture *c, const struct fd_facts *f)
{
	return S_ISFIFO(f->st.st_mode) && strncmp(f->link, "pipe:[", 6) == 0;
}

/* Does the tree hold an end of the other direction? */
static bool has_partner(const struct capture *c, const struct fd_facts *f)
{
	vec_foreach (it, &c->fds) {
		if ((*it)->kind == f->kind && (*it)->st.st_ino == f->st.st_ino &&
		    (reads(f->flags) ? writes((*it)->flags) : reads((*it)->flags)))
			return true;
	}
	return false;
}

/* Has everybody closed the other end? The kernel tells by poll(2). */
static bool is_hung_up(const struct fd_facts *f)
{
	struct pollfd p = {.fd = f->own};

	return poll(&p, 1, 0) > 0 && (p.revents & (reads(f->flags) ? POLLHUP : POLLERR));
}

static bool is_standard_stream(const struct fd_facts *f)
{
	vec_foreach (h, &f->holders) {
		if (h->fd > STDERR_FILENO)
			return false;
	}
	return true;
}

static bool is_external(const struct capture *c, const struct fd_facts *f)
{
	char key[64];

	snprintf(key, sizeof(key), "pipe[%" PRIu64 "]", (uint64_t)f->st.st_ino);
	if (kind_external(c->opt, key))
		return true;
	snprintf(key, sizeof(key), "pipe:[%" PRIu64 "]", (uint64_t)f->st.st_ino);
	return kind_external(c->opt, key) != NULL;
}

static int pipe_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	uint64_t ino = f->st.st_ino;

	if (f->flags & O_PATH)
		return err_set(err, ENOTSUP, "an O_PATH descriptor of a pipe cannot be opened again");
	if (has_partner(c, f) || is_hung_up(f) || is_external(c, f))
		return 0;
	if (c->opt->shell_job && is_standard_stream(f)) {
		log_info("the other end of %s is outside the tree; give one at restore with --inherit-fd 'fd[N]:%s'",
			 f->link, f->link);
		return 0;
	}
	return err_set(err, ENOTCONN,
		       "its other end is open outside the tree; say --external 'pipe[%" PRIu64
		       "]' here and give an end at restore with --inherit-fd 'fd[N]:pipe:[%" PRIu64
		       "]'",
		       ino, ino);
}

/* Is any writer of the tree in packet mode? */
static bool has_packets(const struct capture *c, const struct fd_facts *f)
{
	vec_foreach (it, &c->fds) {
		if ((*it)->kind == f->kind && (*it)->st.st_ino == f->st.st_ino &&
		    ((*it)->flags & O_DIRECT))
			return true;
	}
	return false;
}

static int pipe_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	PipeEntry *e = snap_new(c->snap, PipeEntry, pipe_entry);
	FownEntry *fown = capture_fown(c, f);

	if (!fe || !e || !fown)
		return err_nomem(err);
	fe->type = FD_TYPES__PIPE;
	fe->id = e->id = f->id;
	fe->pipe = e;
	e->pipe_id = (uint32_t)f->st.st_ino;
	e->flags = f->flags;
	e->fown = fown;
	if (reads(f->flags) && !is_external(c, f) &&
	    pipedata_capture(c, f, e->pipe_id, has_packets(c, f), &c->snap->pipes_data, err))
		return -1;
	return capture_add_file(c, fe, err);
}

/* ---- restore ---- */

static int inherited(const struct restore *r, const PipeEntry *e)
{
	char key[64];

	snprintf(key, sizeof(key), "pipe:[%u]", e->pipe_id);
	return kind_inherited(r->opt, key);
}

/* The user's own end: the same description if its direction fits, else opened once more. */
static int take_inherited(int given, const PipeEntry *e, struct err *err)
{
	int flags = fcntl(given, F_GETFL), fd;

	if (flags >= 0 && ((uint32_t)flags & O_ACCMODE) == (e->flags & O_ACCMODE))
		fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
	else
		fd = reopen(given, (e->flags & O_ACCMODE) | O_NONBLOCK);
	return fd >= 0 ? fd :
			 err_sys(err, "cannot use descriptor %d given for pipe:[%u]", given,
				 e->pipe_id);
}

/* Makes the pipe of an id, with its contents, on the broker's shelves. */
static int make_pipe(struct restore *r, const PipeEntry *e, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return err_sys(err, "cannot make a pipe");
	if (broker_keep(r, SHELF_PIPE_READ, e->pipe_id, ends[0], err) < 0) {
		close(ends[1]);
		return -1;
	}
	if (broker_keep(r, SHELF_PIPE_WRITE, e->pipe_id, ends[1], err) < 0)
		return -1;
	return pipedata_restore(broker_kept(r, SHELF_PIPE_WRITE, e->pipe_id),
				pipedata_find(&r->snap->pipes_data, e->pipe_id), err);
}

/* Has another entry taken the end of this direction already? */
static bool is_taken(struct restore *r, const PipeEntry *e)
{
	vec_foreach (it, &r->snap->files) {
		const PipeEntry *other = (*it)->pipe;

		if (other && other->id != e->id && other->pipe_id == e->pipe_id &&
		    (other->flags & O_ACCMODE) == (e->flags & O_ACCMODE) && broker_has(r, other->id))
			return true;
	}
	return false;
}

static int pipe_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const PipeEntry *e = fe->pipe;
	int given = inherited(r, e), end;
	cleanup_close int fd = -1;

	if (given >= 0) {
		fd = take_inherited(given, e, err);
	} else {
		if (broker_kept(r, SHELF_PIPE_READ, e->pipe_id) < 0 && make_pipe(r, e, err))
			return -1;
		end = broker_kept(r, reads(e->flags) ? SHELF_PIPE_READ : SHELF_PIPE_WRITE,
				  e->pipe_id);
		if ((e->flags & O_ACCMODE) == O_RDWR || is_taken(r, e))
			fd = reopen(end, e->flags & (O_ACCMODE | O_NONBLOCK));
		else
			fd = fcntl(end, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return err_sys(err, "cannot open an end of a pipe");
	}
	if (fd < 0 || fd_set_flags(fd, e->flags, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

static int pipe_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		     struct script *s, struct err *err)
{
	emit_fown(fe->pipe->fown, fe->pipe->flags, place, s);
	return 0;
}

const struct fd_kind pipe_kind = {
	.name = "pipe",
	.type = FD_TYPES__PIPE,
	.claims = pipe_claims,
	.allowed = pipe_allowed,
	.capture = pipe_capture,
	.open = pipe_open,
	.emit = pipe_emit,
};

// SPDX-License-Identifier: Apache-2.0
/*
 * Fifos: a path (an entry of type REG of its own, so a deleted fifo becomes a
 * ghost like any other file) and what is in the pipe behind it.
 *
 * Opening one end of a fifo waits for the other. At restore the broker keeps
 * the fifo open for both directions until every end is open.
 */
#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/fd/files.h"
#include "kinds/fd/pipedata.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

static bool fifo_claims(const struct capture *c, const struct fd_facts *f)
{
	return S_ISFIFO(f->st.st_mode) && !(f->flags & O_PATH) && *f->link == '/';
}

static int fifo_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	return file_path_allowed(c, f->own, f->link, err);
}

static int fifo_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	FifoEntry *e = snap_new(c->snap, FifoEntry, fifo_entry);
	FownEntry *fown = capture_fown(c, f);

	if (!fe || !e || !fown)
		return err_nomem(err);
	fe->type = FD_TYPES__FIFO;
	fe->id = e->id = f->id;
	fe->fifo = e;
	e->pipe_id = (uint32_t)f->st.st_ino;
	e->has_regf_id = true;
	if (file_capture_path(c, f->own, f->link, f->flags, 0, &e->regf_id, err))
		return -1;
	capture_reg(c, e->regf_id)->fown = fown;
	if ((f->flags & O_ACCMODE) != O_WRONLY &&
	    pipedata_capture(c, f, e->pipe_id, (f->flags & O_DIRECT) != 0, &c->snap->fifo_data, err))
		return -1;
	return capture_add_file(c, fe, err);
}

static const FileEntry *path_entry(const struct restore *r, const FileEntry *fe, struct err *err)
{
	const FileEntry *path = fe->fifo->has_regf_id ? snapshot_file(r->snap, fe->fifo->regf_id) :
							NULL;

	if (path && path->reg)
		return path;
	err_set(err, EINVAL, "files.img: fifo %u has no entry with its path", fe->id);
	return NULL;
}

static int fifo_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	return path_entry(r, fe, err) ? 0 : -1;
}

/* Opens the fifo in both directions and fills it; the broker keeps it so. */
static int make_contents(struct restore *r, const FileEntry *fe, const FileEntry *path,
			 struct err *err)
{
	const struct snap_payload *data = pipedata_find(&r->snap->fifo_data, fe->fifo->pipe_id);
	int fd = file_open_path(r, path, O_RDWR | O_NONBLOCK, err), bytes = 0;
	struct stat st;

	if (fd < 0)
		return -1;
	fd = broker_keep(r, SHELF_FIFO, fe->fifo->pipe_id, fd, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) || !S_ISFIFO(st.st_mode))
		return err_set(err, EINVAL, "%s is not a fifo here", path->reg->name);
	if (ioctl(fd, FIONREAD, &bytes))
		return err_sys(err, "cannot look into %s", path->reg->name);
	if (bytes)
		return err_set(err, EBUSY,
			       "%s is in use and holds %d bytes here; end the program that has it open",
			       path->reg->name, bytes);
	return pipedata_restore(fd, data, err);
}

static int fifo_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const FileEntry *path = path_entry(r, fe, err);
	cleanup_close int fd = -1;

	if (!path)
		return -1;
	if (broker_kept(r, SHELF_FIFO, fe->fifo->pipe_id) < 0 && make_contents(r, fe, path, err))
		return -1;
	fd = file_open_path(r, path, (path->reg->flags & ~(uint32_t)O_DIRECT) | O_NONBLOCK, err);
	if (fd < 0 || fd_set_flags(fd, path->reg->flags, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

static int fifo_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
		     struct script *s, struct err *err)
{
	const FileEntry *path = path_entry(r, fe, err);

	if (!path)
		return -1;
	emit_fown(path->reg->fown, path->reg->flags, place, s);
	return 0;
}

const struct fd_kind fifo_kind = {
	.name = "fifo",
	.type = FD_TYPES__FIFO,
	.claims = fifo_claims,
	.allowed = fifo_allowed,
	.capture = fifo_capture,
	.check = fifo_check,
	.open = fifo_open,
	.emit = fifo_emit,
};

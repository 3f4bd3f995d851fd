// SPDX-License-Identifier: Apache-2.0
/*
 * signalfd: a signal mask. What it reads is the pending signals of the reader,
 * which travel with the tasks.
 */
#include "kinds/fd/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

static bool signalfd_claims(const struct capture *c, const struct fd_facts *f)
{
	return strcmp(f->link, "anon_inode:[signalfd]") == 0;
}

static int signalfd_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	SignalfdEntry *e = snap_new(c->snap, SignalfdEntry, signalfd_entry);
	FownEntry *fown = capture_fown(c, f);

	if (!fe || !e || !fown)
		return err_nomem(err);
	if (!fdinfo_u64(f->info, "sigmask", 16, &e->sigmask))
		return err_set(err, EINVAL, "its fdinfo has no sigmask");
	fe->type = FD_TYPES__SIGNALFD;
	fe->id = e->id = f->id;
	fe->sgfd = e;
	e->flags = f->flags;
	e->fown = fown;
	return capture_add_file(c, fe, err);
}

static int signalfd_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const SignalfdEntry *e = fe->sgfd;
	cleanup_close int fd = (int)syscall(SYS_signalfd4, -1, &e->sigmask, sizeof(e->sigmask),
					    SFD_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "cannot make a signalfd");
	if (fd_set_flags(fd, e->flags, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

static int signalfd_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
			 struct script *s, struct err *err)
{
	emit_fown(fe->sgfd->fown, fe->sgfd->flags, place, s);
	return 0;
}

const struct fd_kind signalfd_kind = {
	.name = "signalfd",
	.type = FD_TYPES__SIGNALFD,
	.claims = signalfd_claims,
	.capture = signalfd_capture,
	.open = signalfd_open,
	.emit = signalfd_emit,
};

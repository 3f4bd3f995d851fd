// SPDX-License-Identifier: Apache-2.0
/*
 * eventfd: a counter. EFD_SEMAPHORE shows in fdinfo since Linux 6.5 only; the
 * image format has no place for it, so it goes into a field of ours that other
 * readers skip.
 */
#include "kinds/fd/fd.h"

#define LOG_MODULE "eventfd"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

#define EVENTFD_MAX (UINT64_MAX - 1) /* the highest value that write(2) can bring about */

static bool eventfd_claims(const struct capture *c, const struct fd_facts *f)
{
	return strcmp(f->link, "anon_inode:[eventfd]") == 0;
}

static int eventfd_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	EventfdFileEntry *e = snap_new(c->snap, EventfdFileEntry, eventfd_file_entry);
	FownEntry *fown = capture_fown(c, f);
	uint64_t semaphore = 0;

	if (!fe || !e || !fown)
		return err_nomem(err);
	if (!fdinfo_u64(f->info, "eventfd-count", 16, &e->counter))
		return err_set(err, EINVAL, "its fdinfo has no eventfd-count");
	if (!fdinfo_u64(f->info, "eventfd-semaphore", 10, &semaphore))
		log_warn("fd %d of pid %d: this kernel does not tell whether an eventfd is a semaphore; taken as a counter",
			 f->holders.v[0].fd, f->holders.v[0].pid);
	fe->type = FD_TYPES__EVENTFD;
	fe->id = e->id = f->id;
	fe->efd = e;
	e->flags = f->flags;
	e->fown = fown;
	e->has_ferry_semaphore = e->ferry_semaphore = semaphore != 0;
	return capture_add_file(c, fe, err);
}

static int eventfd_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	const EventfdFileEntry *e = fe->efd;
	uint64_t counter = MIN(e->counter, EVENTFD_MAX);
	cleanup_close int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK |
						  (e->ferry_semaphore ? EFD_SEMAPHORE : 0));

	if (fd < 0)
		return err_sys(err, "cannot make an eventfd");
	if (counter && write(fd, &counter, sizeof(counter)) != (ssize_t)sizeof(counter))
		return err_sys(err, "cannot set the count of an eventfd");
	if (fd_set_flags(fd, e->flags, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

static int eventfd_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
			struct script *s, struct err *err)
{
	emit_fown(fe->efd->fown, fe->efd->flags, place, s);
	return 0;
}

const struct fd_kind eventfd_kind = {
	.name = "eventfd",
	.type = FD_TYPES__EVENTFD,
	.claims = eventfd_claims,
	.capture = eventfd_capture,
	.open = eventfd_open,
	.emit = eventfd_emit,
};

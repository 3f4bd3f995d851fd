// SPDX-License-Identifier: Apache-2.0
/*
 * files.img, and all that names its ids: descriptors, directories, queues,
 * terminals, locks.
 */
#include "snapshot/verify.h"

#include "base/map.h"

#include <errno.h>
#include <string.h>

enum {
	FD_LIMIT = 1 << 30,        /* largest fs.nr_open of a 64-bit kernel */
	PIPE_LIMIT = 1 << 30,      /* F_SETPIPE_SZ takes an int */
	TTY_QUEUE_LIMIT = 1 << 16, /* the kernel's buffer of a terminal */
};

/* Where a file_entry of each type has its message. */
static const struct {
	FdTypes type;
	const char *name;
	size_t offset;
} file_types[] = {
	{FD_TYPES__REG, "reg", offsetof(FileEntry, reg)},
	{FD_TYPES__PIPE, "pipe", offsetof(FileEntry, pipe)},
	{FD_TYPES__FIFO, "fifo", offsetof(FileEntry, fifo)},
	{FD_TYPES__INETSK, "isk", offsetof(FileEntry, isk)},
	{FD_TYPES__UNIXSK, "usk", offsetof(FileEntry, usk)},
	{FD_TYPES__EVENTFD, "efd", offsetof(FileEntry, efd)},
	{FD_TYPES__EVENTPOLL, "epfd", offsetof(FileEntry, epfd)},
	{FD_TYPES__INOTIFY, "ify", offsetof(FileEntry, ify)},
	{FD_TYPES__SIGNALFD, "sgfd", offsetof(FileEntry, sgfd)},
	{FD_TYPES__PACKETSK, "psk", offsetof(FileEntry, psk)},
	{FD_TYPES__TTY, "tty", offsetof(FileEntry, tty)},
	{FD_TYPES__FANOTIFY, "ffy", offsetof(FileEntry, ffy)},
	{FD_TYPES__NETLINKSK, "nlsk", offsetof(FileEntry, nlsk)},
	{FD_TYPES__NS, "nsf", offsetof(FileEntry, nsf)},
	{FD_TYPES__TUNF, "tunf", offsetof(FileEntry, tunf)},
	{FD_TYPES__EXT, "ext", offsetof(FileEntry, ext)},
	{FD_TYPES__TIMERFD, "tfd", offsetof(FileEntry, tfd)},
	{FD_TYPES__MEMFD, "memfd", offsetof(FileEntry, memfd)},
	{FD_TYPES__BPFMAP, "bpf", offsetof(FileEntry, bpf)},
	{FD_TYPES__PIDFD, "pidfd", offsetof(FileEntry, pidfd)},
};

int verify_path_id(const struct snapshot *snap, uint32_t id, const char *who, struct err *err)
{
	const FileEntry *file = snapshot_file(snap, id);

	if (!file)
		return err_set(err, EINVAL, "%s: file %u is not in files.img", who, id);
	if (file->type != FD_TYPES__REG)
		return err_set(err, EINVAL, "%s: file %u is not one with a path", who, id);
	return 0;
}

/* The message that belongs to the type is there, and repeats the id. */
static int verify_file_entry(const FileEntry *file, struct err *err)
{
	const ProtobufCMessage *inner;
	const ProtobufCFieldDescriptor *id_field;
	size_t i = 0;

	while (i < ARRAY_SIZE(file_types) && file_types[i].type != file->type)
		i++;
	if (i == ARRAY_SIZE(file_types))
		return err_set(err, EOPNOTSUPP,
			       "files.img: file %u has a type (%d) that is not known", file->id,
			       (int)file->type);
	inner = *(ProtobufCMessage *const *)((const char *)file + file_types[i].offset);
	if (!inner)
		return err_set(err, EINVAL, "files.img: file %u has no %s entry", file->id,
			       file_types[i].name);
	id_field = protobuf_c_message_descriptor_get_field(inner->descriptor, 1);
	if (*(const uint32_t *)((const char *)inner + id_field->offset) != file->id)
		return err_set(err, EINVAL, "files.img: the %s entry of file %u has another id",
			       file_types[i].name, file->id);
	return 0;
}

/* What the messages refer to. The paths of fifos and terminals lie in files of their own. */
static int verify_file_references(const struct snapshot *snap, const FileEntry *file, struct err *err)
{
	char who[64];

	snprintf(who, sizeof(who), "files.img: file %u", file->id);
	if (file->type == FD_TYPES__REG && file->reg->name[0] != '/' && !file->reg->ext)
		return err_set(err, EINVAL, "%s: the path '%s' is not absolute", who,
			       file->reg->name);
	if (file->type == FD_TYPES__FIFO && file->fifo->has_regf_id)
		return verify_path_id(snap, file->fifo->regf_id, who, err);
	if (file->type == FD_TYPES__MEMFD && !snapshot_memfd(snap, file->memfd->inode_id))
		return err_set(err, EINVAL, "%s: inode %u is not in memfd.img", who,
			       file->memfd->inode_id);
	if (file->type == FD_TYPES__EVENTPOLL)
		for (size_t i = 0; i < file->epfd->n_tfd; i++)
			if (file->epfd->tfd[i]->has_ferry_file_id &&
			    !snapshot_file(snap, file->epfd->tfd[i]->ferry_file_id))
				return err_set(err, EINVAL,
					       "%s: it watches file %u, which is not there", who,
					       file->epfd->tfd[i]->ferry_file_id);
	if (file->type == FD_TYPES__TTY) {
		if (!snapshot_tty_info(snap, file->tty->tty_info_id))
			return err_set(err, EINVAL, "%s: terminal %u is not in tty-info.img", who,
				       file->tty->tty_info_id);
		if (file->tty->has_regf_id)
			return verify_path_id(snap, file->tty->regf_id, who, err);
	}
	return 0;
}

static int verify_file_list(const struct snapshot *snap, struct err *err)
{
	struct map ids = {0};
	int rc = 0;

	vec_foreach (file, &snap->files) {
		rc = map_add(&ids, (*file)->id, *file);
		if (rc < 0)
			err_nomem(err);
		else if (rc == 0)
			rc = err_set(err, EINVAL, "files.img: id %u occurs twice", (*file)->id);
		else
			rc = verify_file_entry(*file, err);
		if (rc)
			break;
	}
	map_free(&ids);
	if (rc)
		return -1;
	vec_foreach (file, &snap->files)
		if (verify_file_references(snap, *file, err))
			return -1;
	return 0;
}

/* ---- descriptors, directories ---- */

static int verify_fd(const struct snapshot *snap, const FdinfoEntry *fd, uint32_t table,
		     struct err *err)
{
	const FileEntry *file = snapshot_file(snap, fd->id);

	if (fd->fd >= FD_LIMIT)
		return err_set(err, EINVAL, "fdinfo-%u.img: %u cannot be a descriptor", table,
			       fd->fd);
	if (!file)
		return err_set(err, EINVAL, "fdinfo-%u.img: file %u of fd %u is not in files.img",
			       table, fd->id, fd->fd);
	if (file->type != fd->type)
		return err_set(err, EINVAL,
			       "fdinfo-%u.img: fd %u has type %d, but file %u in files.img has type %d",
			       table, fd->fd, (int)fd->type, fd->id, (int)file->type);
	return 0;
}

static int verify_fds(const struct snapshot *snap, const struct snap_task *task, struct err *err)
{
	struct map fds = {0};
	int rc = 0;

	vec_foreach (fd, &task->fds) {
		rc = map_add(&fds, (*fd)->fd, *fd);
		if (rc < 0)
			err_nomem(err);
		else if (rc == 0)
			rc = err_set(err, EINVAL, "fdinfo-%u.img: fd %u occurs twice",
				     task->ids->files_id, (*fd)->fd);
		else
			rc = verify_fd(snap, *fd, task->ids->files_id, err);
		if (rc)
			break;
	}
	map_free(&fds);
	return rc;
}

static int verify_task_files(const struct snapshot *snap, const struct snap_task *task,
			     struct err *err)
{
	char who[64];

	if (!task->ids) /* a zombie has no files */
		return 0;
	snprintf(who, sizeof(who), "fs-%u.img: working directory", task->ps->pid);
	if (verify_path_id(snap, task->fs->cwd_id, who, err))
		return -1;
	snprintf(who, sizeof(who), "fs-%u.img: root directory", task->ps->pid);
	if (verify_path_id(snap, task->fs->root_id, who, err))
		return -1;
	return verify_fds(snap, task, err);
}

/* ---- deleted files ---- */

static int verify_ghost(const struct snap_ghost *ghost, struct err *err)
{
	uint64_t end = 0, total = 0;

	if (!ghost->entry)
		return err_set(err, EINVAL, "ghost-file-%x.img: the image has no entry", ghost->id);
	if (ghost->entry->chunks && !ghost->entry->has_size)
		return err_set(err, EINVAL, "ghost-file-%x.img: the size of the file is missing",
			       ghost->id);
	for (size_t i = 0; i < ghost->n_chunks; i++) {
		const GhostChunkEntry *c = ghost->chunks[i];

		if (c->off < end || c->len > ghost->entry->size ||
		    c->off > ghost->entry->size - c->len)
			return err_set(err, EINVAL,
				       "ghost-file-%x.img: chunk %zu (%llu bytes at %llu) is out of order "
				       "or outside of the file (%llu bytes)",
				       ghost->id, i, (unsigned long long)c->len,
				       (unsigned long long)c->off,
				       (unsigned long long)ghost->entry->size);
		end = c->off + c->len;
		total += c->len;
	}
	if (ghost->entry->chunks && total != ghost->bytes)
		return err_set(err, EINVAL, "ghost-file-%x.img: the chunks are incomplete",
			       ghost->id);
	return 0;
}

static int verify_remap(const struct snapshot *snap, const RemapFilePathEntry *remap, struct err *err)
{
	/* CRIU of old wrote no type, and ghosts had this bit in their id. */
	const uint32_t old_ghost_bit = 1u << 31;

	if (!snapshot_file(snap, remap->orig_id))
		return err_set(err, EINVAL, "remap-fpath.img: file %u is not in files.img",
			       remap->orig_id);
	if (!remap->has_remap_type && (remap->remap_id & old_ghost_bit))
		return err_set(err, EOPNOTSUPP,
			       "remap-fpath.img: the image was written by so old a version of CRIU that it "
			       "cannot be restored");
	if (!remap->has_remap_type || remap->remap_type == REMAP_TYPE__LINKED)
		return verify_path_id(snap, remap->remap_id, "remap-fpath.img", err);
	if (remap->remap_type == REMAP_TYPE__GHOST)
		return snapshot_ghost(snap, remap->remap_id) ?
			       0 :
			       err_set(err, EINVAL, "ghost-file-%x.img: the image is missing",
				       remap->remap_id);
	return err_set(err, EOPNOTSUPP,
		       "remap-fpath.img: file %u is in /proc of a process that is dead; that is not "
		       "supported",
		       remap->orig_id);
}

/* ---- contents ---- */

static int verify_pipe_data(const struct snap_payload *p, const char *image, struct err *err)
{
	const PipeDataEntry *e = (const PipeDataEntry *)p->entry;
	uint64_t total = 0;

	if (e->bytes != p->bytes)
		return err_set(err, EINVAL, "%s: the contents of pipe %u are incomplete", image,
			       e->pipe_id);
	if (e->has_size && (e->size > PIPE_LIMIT || e->size < e->bytes))
		return err_set(err, EINVAL, "%s: pipe %u cannot have a size of %u (it holds %u)",
			       image, e->pipe_id, e->size, e->bytes);
	for (size_t i = 0; i < e->n_ferry_packet_bytes; i++)
		total += e->ferry_packet_bytes[i];
	if (e->n_ferry_packet_bytes && total != e->bytes)
		return err_set(err, EINVAL, "%s: the packets of pipe %u are not its contents",
			       image, e->pipe_id);
	return 0;
}

static int verify_queue(const struct snapshot *snap, const struct snap_payload *p, struct err *err)
{
	const SkPacketEntry *e = (const SkPacketEntry *)p->entry;
	const FileEntry *file = snapshot_file(snap, e->id_for);

	if (!file || file->type != FD_TYPES__UNIXSK)
		return err_set(err, EINVAL, "sk-queues.img: file %u is not a unix socket", e->id_for);
	if (e->length != p->bytes)
		return err_set(err, EINVAL, "sk-queues.img: a packet for file %u is incomplete",
			       e->id_for);
	for (size_t i = 0; i < e->n_scm; i++)
		for (size_t k = 0; k < e->scm[i]->n_rights; k++)
			if (!snapshot_file(snap, e->scm[i]->rights[k]))
				return err_set(err, EINVAL,
					       "sk-queues.img: a packet for file %u carries file %u, which "
					       "is not in files.img",
					       e->id_for, e->scm[i]->rights[k]);
	return 0;
}

static int verify_terminals(const struct snapshot *snap, struct err *err)
{
	vec_foreach (data, &snap->tty_data) {
		if (!snapshot_tty_info(snap, (*data)->tty_id))
			return err_set(err, EINVAL,
				       "tty-data.img: terminal %u is not in tty-info.img",
				       (*data)->tty_id);
		if ((*data)->data.len > TTY_QUEUE_LIMIT)
			return err_set(err, EINVAL,
				       "tty-data.img: terminal %u cannot have %zu bytes queued",
				       (*data)->tty_id, (*data)->data.len);
	}
	return 0;
}

int verify_files(const struct snapshot *snap, struct err *err)
{
	if (verify_file_list(snap, err))
		return -1;
	vec_foreach (task, &snap->tasks)
		if (verify_task_files(snap, *task, err))
			return -1;
	vec_foreach (ghost, &snap->ghosts)
		if (verify_ghost(*ghost, err))
			return -1;
	vec_foreach (remap, &snap->remaps)
		if (verify_remap(snap, *remap, err))
			return -1;
	vec_foreach (p, &snap->pipes_data)
		if (verify_pipe_data(p, "pipes-data.img", err))
			return -1;
	vec_foreach (p, &snap->fifo_data)
		if (verify_pipe_data(p, "fifo-data.img", err))
			return -1;
	vec_foreach (p, &snap->sk_queues)
		if (verify_queue(snap, p, err))
			return -1;
	vec_foreach (lock, &snap->locks)
		if ((*lock)->pid <= 0 || !snapshot_task(snap, (uint32_t)(*lock)->pid))
			return err_set(err, EINVAL, "filelocks.img: pid %d is not in pstree.img",
				       (*lock)->pid);
	return verify_terminals(snap, err);
}

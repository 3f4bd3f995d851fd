// SPDX-License-Identifier: Apache-2.0
/*
 * tee(2) copies a pipe's buffers into another pipe without consuming them, so
 * the source never notices. The private pipe must have as many buffers as the
 * source, and is then read out. In packet mode one read gives one packet; the
 * image format knows no packets, so their lengths go into a field of ours.
 */
#include "kinds/fd/pipedata.h"

#define LOG_MODULE "pipe"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

typedef VEC(uint32_t) length_list;

static const payload_list *as_list(const void *list)
{
	return list;
}

const struct snap_payload *pipedata_find(const void *list, uint32_t pipe_id)
{
	vec_foreach (p, as_list(list)) {
		const PipeDataEntry *e = (const PipeDataEntry *)p->entry;

		if (e->pipe_id == pipe_id)
			return p;
	}
	return NULL;
}

/* ---- capture ---- */

/* Copies what is in the pipe of @source into a new pipe; its read end in *fd_out. */
static int copy_buffers(int source, int capacity, size_t bytes, int *fd_out, struct err *err)
{
	int ends[2];
	ssize_t n;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		return err_sys(err, "cannot make a pipe");
	/* Without the right to a pipe this large a smaller one may do. */
	if (fcntl(ends[1], F_SETPIPE_SZ, capacity) < 0)
		log_debug("a pipe of %d bytes is more than we may have", capacity);
	n = tee(source, ends[1], bytes, SPLICE_F_NONBLOCK);
	close(ends[1]);
	if (n == (ssize_t)bytes) {
		*fd_out = ends[0];
		return 0;
	}
	if (n < 0)
		err_sys(err, "cannot copy what is in it");
	else
		err_set(err, EPERM,
			"cannot copy the %zu bytes in it: its size (%d) is more than we may have; raise "
			"/proc/sys/fs/pipe-max-size",
			bytes, capacity);
	close(ends[0]);
	return -1;
}

/* Reads everything; the length of each read in @lengths. */
static int read_out(int fd, uint8_t *data, size_t bytes, length_list *lengths, struct err *err)
{
	size_t done = 0;
	ssize_t n;

	while (done < bytes) {
		n = read(fd, data + done, bytes - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(err, n < 0 ? errno : EIO,
				       "cannot read the copy of what is in it");
		if (!vec_push(lengths, (uint32_t)n))
			return err_nomem(err);
		done += (size_t)n;
	}
	return 0;
}

static int read_contents(struct capture *c, const struct fd_facts *f, int capacity,
			 PipeDataEntry *e, uint8_t *data, bool packets, struct err *err)
{
	cleanup_close int fd = -1;
	length_list lengths = {0};
	int rc;

	if (copy_buffers(f->own, capacity, e->bytes, &fd, err))
		return -1;
	rc = read_out(fd, data, e->bytes, &lengths, err);
	/* One read gave all of it: a stream. More than one: packets, even if the mode is off by now. */
	if (rc == 0 && (packets || lengths.n > 1)) {
		e->n_ferry_packet_bytes = lengths.n;
		e->ferry_packet_bytes = arena_dup(&c->snap->arena, lengths.v,
						  lengths.n * sizeof(*lengths.v));
		if (!e->ferry_packet_bytes)
			rc = err_nomem(err);
	}
	vec_free(&lengths);
	return rc;
}

int pipedata_capture(struct capture *c, const struct fd_facts *f, uint32_t pipe_id, bool packets,
		     void *list, struct err *err)
{
	payload_list *payloads = list;
	struct snap_payload p = {0};
	PipeDataEntry *e;
	int capacity = fcntl(f->own, F_GETPIPE_SZ), bytes = 0;

	if (pipedata_find(list, pipe_id))
		return 0;
	if (capacity < 0 || ioctl(f->own, FIONREAD, &bytes))
		return err_sys(err, "cannot find out how much is in it");
	e = snap_new(c->snap, PipeDataEntry, pipe_data_entry);
	if (!e)
		return err_nomem(err);
	e->pipe_id = pipe_id;
	e->bytes = (uint32_t)bytes;
	e->has_size = true;
	e->size = (uint32_t)capacity;
	p.entry = &e->base;
	p.bytes = e->bytes;
	if (bytes) {
		p.data = arena_alloc(&c->snap->arena, p.bytes);
		if (!p.data)
			return err_nomem(err);
		if (read_contents(c, f, capacity, e, p.data, packets, err))
			return -1;
	}
	return vec_push(payloads, p) ? 0 : err_nomem(err);
}

/* ---- restore ---- */

static int set_size(int fd, uint32_t size, struct err *err)
{
	int now = fcntl(fd, F_GETPIPE_SZ);

	if (now < 0)
		return err_sys(err, "cannot find out the size of a pipe");
	if ((uint32_t)now == size || fcntl(fd, F_SETPIPE_SZ, size) >= 0)
		return 0;
	if (errno != EPERM && errno != EBUSY)
		return err_sys(err, "cannot make a pipe of %u bytes", size);
	log_warn("a pipe of %u bytes becomes one of %d (/proc/sys/fs/pipe-max-size forbids more)",
		 size, now);
	return 0;
}

/* One packet, or the whole stream. The pipe is not read meanwhile: what does not fit never will. */
static int write_part(int fd, const uint8_t *data, size_t bytes, size_t total, struct err *err)
{
	ssize_t n = write(fd, data, bytes);

	if (n == (ssize_t)bytes)
		return 0;
	if (n < 0 && errno != EAGAIN)
		return err_sys(err, "cannot write what was in a pipe");
	return err_set(err, ENOSPC,
		       "the %zu bytes that were in a pipe do not fit into the largest we may have; raise "
		       "/proc/sys/fs/pipe-max-size",
		       total);
}

static int write_packets(int fd, const PipeDataEntry *e, const struct snap_payload *data,
			 struct err *err)
{
	size_t done = 0;

	for (size_t i = 0; i < e->n_ferry_packet_bytes; i++) {
		uint32_t len = e->ferry_packet_bytes[i];

		if (len > data->bytes - done)
			return err_set(err, EINVAL,
				       "pipes-data.img: the packets of pipe %u are longer than its data",
				       e->pipe_id);
		if (write_part(fd, data->data + done, len, data->bytes, err))
			return -1;
		done += len;
	}
	if (done != data->bytes)
		return err_set(err, EINVAL,
			       "pipes-data.img: the packets of pipe %u are shorter than its data",
			       e->pipe_id);
	return 0;
}

int pipedata_restore(int write_fd, const struct snap_payload *data, struct err *err)
{
	const PipeDataEntry *e = data ? (const PipeDataEntry *)data->entry : NULL;
	int before = fcntl(write_fd, F_GETFL), rc = 0;
	bool packets;

	if (!e)
		return 0;
	if (e->has_size && set_size(write_fd, e->size, err))
		return -1;
	if (!data->bytes)
		return 0;
	packets = e->n_ferry_packet_bytes > 0;
	if (before < 0 || fcntl(write_fd, F_SETFL, before | O_NONBLOCK | (packets ? O_DIRECT : 0)))
		return err_sys(err, "cannot set the flags of a pipe");
	rc = packets ? write_packets(write_fd, e, data, err) :
		       write_part(write_fd, data->data, data->bytes, data->bytes, err);
	if (fcntl(write_fd, F_SETFL, before) && rc == 0)
		rc = err_sys(err, "cannot set the flags of a pipe");
	return rc;
}

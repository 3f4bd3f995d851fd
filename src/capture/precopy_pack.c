// SPDX-License-Identifier: Apache-2.0
/*
 * The state of pre-copy as bytes, from one ferry to the next on the same host: a
 * header, for each task a record followed by its three sets of ranges, and the notes of sleeps. It comes from a
 * process of the same user, but its lengths are checked all the same.
 */
#include "capture/precopy_priv.h"

#include "base/io.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* The number changes with the layout. */
#define PACK_MAGIC 0x66727963745f3032ULL

enum { PACK_SETS = 3, PACK_MAX_BYTES = 1 << 30 };

struct pack_header {
	uint64_t magic;
	uint64_t last_scan_ns;
	int32_t root;
	uint32_t method, rounds, n_tasks, n_sleeps;
};

struct pack_task {
	int32_t pid, vpid;
	uint64_t start_time;
	uint32_t has_track, has_uffd;
	uint64_t n[PACK_SETS]; /* of ranges: registered, sent, zeros */
};

static int put(int fd, const void *data, size_t bytes, struct err *err)
{
	return io_write_full(fd, data, bytes) ? err_sys(err, "cannot pack the state of tracking") : 0;
}

static int pack_task(int fd, const struct tracked *t, precopy_fds *fds, struct err *err)
{
	static const mem_ranges none;
	const mem_ranges *sets[PACK_SETS] = {t->track ? track_registered(t->track) : &none,
					     &t->sent, &t->zeros};
	struct pack_task rec = {.pid = t->pid,
				.vpid = t->vpid,
				.start_time = t->start_time,
				.has_track = t->track != NULL};

	if (t->track && track_uffd(t->track) >= 0) {
		rec.has_uffd = 1;
		if (!vec_push(fds, track_uffd(t->track)))
			return err_nomem(err);
	}
	for (size_t i = 0; i < PACK_SETS; i++)
		rec.n[i] = sets[i]->n;
	if (put(fd, &rec, sizeof(rec), err))
		return -1;
	for (size_t i = 0; i < PACK_SETS; i++)
		if (put(fd, sets[i]->v, sets[i]->n * sizeof(struct mem_range), err))
			return -1;
	return 0;
}

int precopy_pack(const struct precopy *p, int *state_fd_out, precopy_fds *fds_out, struct err *err)
{
	struct pack_header h = {.magic = PACK_MAGIC,
				.last_scan_ns = p->last_scan_ns,
				.root = p->root,
				.method = p->method,
				.rounds = p->rounds,
				.n_tasks = (uint32_t)p->tasks.n,
				.n_sleeps = (uint32_t)p->sleeps.notes.n};
	cleanup_close int fd = memfd_create("ferry-tracking", MFD_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "cannot pack the state of tracking");
	if (put(fd, &h, sizeof(h), err))
		return -1;
	vec_foreach (t, &p->tasks)
		if (pack_task(fd, *t, fds_out, err))
			return -1;
	if (put(fd, p->sleeps.notes.v, p->sleeps.notes.n * sizeof(struct sleep_note), err))
		return -1;
	*state_fd_out = steal_fd(&fd);
	return 0;
}

/* What is being read, and how far. */
struct input {
	const uint8_t *data;
	size_t bytes, at;
	const int *fds;
	size_t n_fds, fd_at;
};

static int bad_state(struct err *err)
{
	return err_set(err, EPROTO, "the state of tracking is of another version of ferry");
}

static const void *take(struct input *in, size_t bytes)
{
	const void *at = in->data + in->at;

	if (bytes > in->bytes - in->at)
		return NULL;
	in->at += bytes;
	return at;
}

static int take_ranges(struct input *in, uint64_t n, mem_ranges *out, struct err *err)
{
	struct mem_range r;
	const void *at;

	for (; n; n--) {
		at = take(in, sizeof(r));
		if (!at)
			return bad_state(err);
		memcpy(&r, at, sizeof(r));
		if (r.start >= r.end || (out->n && r.start < out->v[out->n - 1].end))
			return bad_state(err);
		if (mem_ranges_push(out, r.start, r.end, err))
			return -1;
	}
	return 0;
}

static int unpack_task(struct precopy *p, struct input *in, struct err *err)
{
	mem_ranges registered = {0};
	struct pack_task rec;
	struct tracked *t;
	const void *at = take(in, sizeof(rec));
	int rc, uffd = -1;

	if (!at)
		return bad_state(err);
	memcpy(&rec, at, sizeof(rec));
	t = precopy_add(p, rec.pid, rec.start_time, err);
	if (!t)
		return -1;
	t->vpid = rec.vpid;
	rc = take_ranges(in, rec.n[0], &registered, err);
	if (rc == 0)
		rc = take_ranges(in, rec.n[1], &t->sent, err);
	if (rc == 0)
		rc = take_ranges(in, rec.n[2], &t->zeros, err);
	if (rc == 0 && rec.has_uffd)
		uffd = in->fd_at < in->n_fds ? in->fds[in->fd_at++] : -1;
	if (rc == 0 && (p->method == TRACK_UFFD && rec.has_track) != (uffd >= 0))
		rc = bad_state(err);
	if (rc == 0 && rec.has_track) {
		t->track = track_adopt(t->pid, p->method, steal_fd(&uffd), &registered, err);
		rc = t->track ? 0 : -1;
	}
	if (uffd >= 0)
		close(uffd);
	vec_free(&registered);
	return rc;
}

static int unpack_sleeps(struct precopy *p, struct input *in, uint32_t n, struct err *err)
{
	struct sleep_note note;
	const void *at;

	for (; n; n--) {
		at = take(in, sizeof(note));
		if (!at)
			return bad_state(err);
		memcpy(&note, at, sizeof(note));
		if (sleeps_add(&p->sleeps, &note, err))
			return -1;
	}
	return 0;
}

static int unpack_all(struct precopy *p, struct input *in, struct err *err)
{
	struct pack_header h;
	const void *at = take(in, sizeof(h));

	if (!at)
		return bad_state(err);
	memcpy(&h, at, sizeof(h));
	if (h.magic != PACK_MAGIC || h.root != p->root || h.method != p->method)
		return bad_state(err);
	p->last_scan_ns = h.last_scan_ns;
	p->rounds = h.rounds;
	for (uint32_t i = 0; i < h.n_tasks; i++)
		if (unpack_task(p, in, err))
			return -1;
	return unpack_sleeps(p, in, h.n_sleeps, err);
}

struct precopy *precopy_unpack(pid_t root, const struct kind_options *opt, unsigned int timeout_ms,
			       int state_fd, const int *fds, size_t n_fds, struct err *err)
{
	struct precopy *p = precopy_create(root, opt, timeout_ms, err);
	struct input in = {.fds = fds, .n_fds = n_fds};
	void *data = MAP_FAILED;
	struct stat st;
	int rc = -1;

	if (p && fstat(state_fd, &st) == 0 && st.st_size > 0 && st.st_size <= PACK_MAX_BYTES) {
		in.bytes = (size_t)st.st_size;
		data = mmap(NULL, in.bytes, PROT_READ, MAP_PRIVATE, state_fd, 0);
	}
	if (data != MAP_FAILED) {
		in.data = data;
		rc = unpack_all(p, &in, err);
		munmap(data, in.bytes);
	} else if (p) {
		bad_state(err);
	}
	while (in.fd_at < n_fds)
		close(fds[in.fd_at++]);
	if (rc == 0)
		return p;
	precopy_close(p);
	return NULL;
}

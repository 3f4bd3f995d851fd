// SPDX-License-Identifier: Apache-2.0
/*
 * Opens each file description once and remembers it by file id.
 *
 * The table of slots is made from files.img, sorted by id. A slot is opened in
 * the order of files.img or, when another kind needs it first, on demand;
 * a slot that is asked for while it is being opened is a cycle in hostile
 * images. Entries without a descriptor (executables, mapped files, the path of
 * a fifo) are opened only on demand.
 */
#include "kinds/broker.h"

#include "kinds/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum slot_state { SLOT_CLOSED, SLOT_OPENING, SLOT_OPEN, SLOT_LINKED };

struct slot {
	const FileEntry *fe;
	const struct fd_kind *kind; /* NULL: nobody restores this type */
	enum slot_state state;
	bool wanted; /* some task has it */
	int fd;
};

struct kept {
	enum broker_shelf shelf;
	uint64_t id;
	int fd;
};

struct broker {
	struct restore *r;
	int base_fd;
	struct slot *slots; /* by ascending id */
	size_t n_slots;
	VEC(struct kept) shelf;
};

static int compare_ids(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	return x->fe->id < y->fe->id ? -1 : x->fe->id > y->fe->id;
}

static struct slot *slot_find(const struct broker *b, uint32_t file_id)
{
	size_t low = 0, high = b->n_slots;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (b->slots[mid].fe->id < file_id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < b->n_slots && b->slots[low].fe->id == file_id ? &b->slots[low] : NULL;
}

struct broker *broker_create(struct restore *r, int base_fd, struct err *err)
{
	struct broker *b = calloc(1, sizeof(*b));
	struct slot *slot;

	if (b)
		b->slots = calloc(MAX(r->snap->files.n, (size_t)1), sizeof(*b->slots));
	if (!b || !b->slots) {
		free(b);
		err_nomem(err);
		return NULL;
	}
	b->r = r;
	b->base_fd = base_fd;
	vec_foreach (fe, &r->snap->files) {
		slot = &b->slots[b->n_slots++];
		slot->fe = *fe;
		slot->kind = fd_kind_by_type((*fe)->type);
		slot->fd = -1;
	}
	qsort(b->slots, b->n_slots, sizeof(*b->slots), compare_ids);
	vec_foreach (t, &r->snap->tasks) {
		vec_foreach (fdi, &(*t)->fds) {
			slot = slot_find(b, (*fdi)->id);
			if (slot)
				slot->wanted = true;
		}
	}
	r->broker = b;
	return b;
}

void broker_close(struct broker *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n_slots; i++)
		if (b->slots[i].fd >= 0)
			close(b->slots[i].fd);
	vec_foreach (k, &b->shelf)
		close(k->fd);
	vec_free(&b->shelf);
	free(b->slots);
	if (b->r->broker == b)
		b->r->broker = NULL;
	free(b);
}

/* Moves a descriptor out of the way of the tree's numbers; takes it. -1 + err. */
static int move_up(const struct broker *b, int fd, struct err *err)
{
	int up;

	if (fd >= b->base_fd)
		return fd;
	up = fcntl(fd, F_DUPFD_CLOEXEC, b->base_fd);
	if (up < 0)
		err_sys(err,
			"cannot move a descriptor above %d; a higher limit of open files (ulimit -n) helps",
			b->base_fd);
	close(fd);
	return up;
}

const struct snap_task *snap_fd_table(const struct snapshot *snap, const struct snap_task *t)
{
	if (!t->ids || t->fds.n)
		return t;
	vec_foreach (it, &snap->tasks) {
		if ((*it)->ids && (*it)->ids->files_id == t->ids->files_id && (*it)->fds.n)
			return *it;
	}
	return t;
}

const char *broker_describe(const struct restore *r, uint32_t file_id, char *buf, size_t size)
{
	const FileEntry *fe = snapshot_file(r->snap, file_id);
	const char *path = fe && fe->reg ? fe->reg->name : NULL;

	vec_foreach (t, &r->snap->tasks) {
		vec_foreach (fdi, &(*t)->fds) {
			if ((*fdi)->id != file_id)
				continue;
			snprintf(buf, size, "fd %u of pid %u%s%s%s", (*fdi)->fd, (*t)->ps->pid,
				 path ? " (" : "", path ? path : "", path ? ")" : "");
			return buf;
		}
	}
	if (path)
		snprintf(buf, size, "%s", path);
	else
		snprintf(buf, size, "file id %u of files.img", file_id);
	return buf;
}

static int wrap(const struct restore *r, uint32_t file_id, struct err *err)
{
	char what[512];

	return err_wrap(err, "%s", broker_describe(r, file_id, what, sizeof(what)));
}

static int unsupported(const struct restore *r, const FileEntry *fe, struct err *err)
{
	err_set(err, ENOTSUP,
		"files of type %d of the image format cannot be restored by this version of ferry",
		(int)fe->type);
	return wrap(r, fe->id, err);
}

int broker_check(struct restore *r, struct err *err)
{
	const struct fd_kind *kind;

	vec_foreach (it, &r->snap->files) {
		kind = fd_kind_by_type((*it)->type);
		if (!kind)
			return unsupported(r, *it, err);
		if (kind->check && kind->check(r, *it, err))
			return wrap(r, (*it)->id, err);
	}
	return locks_check(r, err);
}

static int open_slot(struct broker *b, struct slot *slot, struct err *err)
{
	int fd = -1;

	if (!slot->kind)
		return unsupported(b->r, slot->fe, err);
	if (slot->state == SLOT_OPENING)
		return err_set(err, EINVAL, "files.img: file id %u needs itself to be open first",
			       slot->fe->id);
	slot->state = SLOT_OPENING;
	if (slot->kind->open(b->r, slot->fe, &fd, err)) {
		slot->state = SLOT_CLOSED;
		return wrap(b->r, slot->fe->id, err);
	}
	if (slot->fd >= 0) {
		/* Its own open() gave it through broker_give: one of both is enough. */
		if (fd >= 0 && fd != slot->fd)
			close(fd);
	} else {
		slot->fd = move_up(b, fd, err);
	}
	slot->state = slot->fd >= 0 ? SLOT_OPEN : SLOT_CLOSED;
	return slot->fd >= 0 ? 0 : wrap(b->r, slot->fe->id, err);
}

/* link() of everything open, but of kinds that want to be @last; what a link() opens is linked in the next round. */
static int link_all(struct broker *b, bool last, struct err *err)
{
	bool again = true;

	while (again) {
		again = false;
		for (size_t i = 0; i < b->n_slots; i++) {
			struct slot *slot = &b->slots[i];

			if (slot->state != SLOT_OPEN || (slot->kind->links_last && !last))
				continue;
			slot->state = SLOT_LINKED;
			again = true;
			if (slot->kind->link && slot->kind->link(b->r, slot->fe, slot->fd, err))
				return wrap(b->r, slot->fe->id, err);
		}
	}
	return 0;
}

/* Lets go of the ends that only had to be there while others were opened. */
static void clear_shelf(struct broker *b)
{
	size_t n = 0;

	vec_foreach (k, &b->shelf) {
		if (k->shelf == SHELF_MEMFD || k->shelf == SHELF_REMAP)
			b->shelf.v[n++] = *k;
		else
			close(k->fd);
	}
	b->shelf.n = n;
}

int broker_open_all(struct broker *b, struct err *err)
{
	vec_foreach (fe, &b->r->snap->files) {
		struct slot *slot = slot_find(b, (*fe)->id);

		if (slot->wanted && slot->state == SLOT_CLOSED && open_slot(b, slot, err))
			return -1;
	}
	if (link_all(b, false, err))
		return -1;
	clear_shelf(b);
	return link_all(b, true, err);
}

int broker_fd(struct restore *r, uint32_t file_id, struct err *err)
{
	struct slot *slot = slot_find(r->broker, file_id);

	if (!slot)
		return err_set(err, EINVAL, "files.img has no file id %u", file_id);
	if (slot->fd < 0 && open_slot(r->broker, slot, err))
		return -1;
	return slot->fd;
}

int broker_give(struct restore *r, uint32_t file_id, int fd, struct err *err)
{
	struct slot *slot = slot_find(r->broker, file_id);

	if (!slot || slot->fd >= 0 || !slot->kind) {
		close(fd);
		return err_set(err, EINVAL, "files.img: file id %u is missing, or is made twice",
			       file_id);
	}
	slot->fd = move_up(r->broker, fd, err);
	if (slot->fd < 0)
		return -1;
	if (slot->state == SLOT_CLOSED)
		slot->state = SLOT_OPEN;
	return 0;
}

bool broker_has(struct restore *r, uint32_t file_id)
{
	const struct slot *slot = slot_find(r->broker, file_id);

	return slot && slot->fd >= 0;
}

int broker_keep(struct restore *r, enum broker_shelf shelf, uint64_t id, int fd, struct err *err)
{
	struct broker *b = r->broker;
	int up = move_up(b, fd, err);

	if (up < 0)
		return -1;
	if (vec_push(&b->shelf, (struct kept){.shelf = shelf, .id = id, .fd = up}))
		return up;
	close(up);
	return err_nomem(err);
}

int broker_kept(const struct restore *r, enum broker_shelf shelf, uint64_t id)
{
	if (!r->broker)
		return -1;
	vec_foreach (k, &r->broker->shelf) {
		if (k->shelf == shelf && k->id == id)
			return k->fd;
	}
	return -1;
}

void broker_commit(struct broker *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n_slots; i++)
		if (b->slots[i].kind && b->slots[i].kind->commit)
			b->slots[i].kind->commit(b->r, b->slots[i].fe);
}

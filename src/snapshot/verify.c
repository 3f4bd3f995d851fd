// SPDX-License-Identifier: Apache-2.0
/*
 * Does a snapshot make sense, and does it hold nothing that we could not
 * restore? What is wrong is named by image; what is right but not supported is
 * refused by name here, unless it belongs to a kind of descriptor (those speak
 * for themselves, in kinds/).
 *
 * This file: the inventory, the tree and its namespaces.
 */
#include "snapshot/verify.h"

#include "base/map.h"

#include <errno.h>
#include <string.h>

/* Linux gives pids up to this one (PID_MAX_LIMIT). */
enum { PID_LIMIT = 4 * 1024 * 1024 };

static int verify_inventory(const struct snapshot *snap, struct err *err)
{
	const InventoryEntry *inv = snap->inventory;

	if (!inv)
		return err_set(err, EINVAL, "inventory.img: the image is missing");
	if (inv->img_version != 1 && inv->img_version != 2)
		return err_set(err, EINVAL,
			       "inventory.img: version %u of the images is not known (1 and 2 are)",
			       inv->img_version);
	if (!inv->has_fdinfo_per_id || !inv->fdinfo_per_id)
		return err_set(err, EINVAL,
			       "inventory.img: fdinfo_per_id is not set: images of so old a version of "
			       "CRIU cannot be restored");
	if (!inv->root_ids)
		return err_set(err, EINVAL, "inventory.img: root_ids are missing");
	if (inv->plugins_entry && inv->plugins_entry->n_plugins)
		return err_set(err, EOPNOTSUPP,
			       "inventory.img: the tree was dumped with the CRIU plugin %s; plugins are "
			       "not supported",
			       inv->plugins_entry->plugins[0]);
	if (inv->has_allow_uprobes && inv->allow_uprobes)
		return err_set(err, EOPNOTSUPP,
			       "inventory.img: the tree was dumped with --allow-uprobes; uprobes are not "
			       "supported: remove them and dump again");
	return 0;
}

/* ---- namespaces ---- */

#define NAMESPACE(name_)                                                 \
	{                                                                \
#name_, offsetof(TaskKobjIdsEntry, has_##name_##_ns_id), \
			offsetof(TaskKobjIdsEntry, name_##_ns_id)        \
	}

static const struct {
	const char *name;
	size_t has, id;
} namespaces[] = {
	NAMESPACE(pid), NAMESPACE(net),  NAMESPACE(uts),
	NAMESPACE(mnt), NAMESPACE(user), NAMESPACE(cgroup),
};

/* The id of a namespace; absent means 0. */
static uint32_t namespace_id(const TaskKobjIdsEntry *ids, size_t has, size_t id)
{
	const char *base = (const char *)ids;

	return *(const protobuf_c_boolean *)(base + has) ? *(const uint32_t *)(base + id) : 0;
}

/* Those that can be the tree's own, and then are of all its tasks. */
static const struct {
	const char *name;
	size_t has, id;
} own_namespaces[] = {NAMESPACE(time), NAMESPACE(ipc)};

/* Every task must be in the namespaces of whoever dumped it, but for time and IPC. */
static int verify_namespaces(const struct snapshot *snap, const struct snap_task *task,
			     struct err *err)
{
	const TaskKobjIdsEntry *outer = snap->inventory->root_ids;
	const TaskKobjIdsEntry *root = snap->tasks.v[0]->ids;
	uint32_t id;

	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
		id = namespace_id(task->ids, namespaces[i].has, namespaces[i].id);
		if (id != namespace_id(outer, namespaces[i].has, namespaces[i].id))
			return err_set(err, EOPNOTSUPP,
				       "ids-%u.img: pid %u is in another %s namespace (id %u) than whoever "
				       "dumped it; restoring namespaces is not supported",
				       task->ps->pid, task->ps->pid, namespaces[i].name, id);
	}
	for (size_t i = 0; root && i < ARRAY_SIZE(own_namespaces); i++) {
		id = namespace_id(task->ids, own_namespaces[i].has, own_namespaces[i].id);
		if (id != namespace_id(root, own_namespaces[i].has, own_namespaces[i].id))
			return err_set(err, EOPNOTSUPP,
				       "ids-%u.img: pid %u is in another %s namespace than the root of the tree; "
				       "that is not supported",
				       task->ps->pid, task->ps->pid, own_namespaces[i].name);
	}
	return 0;
}

/* ---- the tree ---- */

static bool is_zombie(const struct snap_task *task)
{
	return task->core[0]->tc->task_state == TASK_DEAD;
}

/* Pids and tids are unique and possible. */
static int claim_pid(struct map *pids, uint32_t pid, const struct snap_task *task, struct err *err)
{
	int rc;

	if (pid == 0 || pid > PID_LIMIT)
		return err_set(err, EINVAL, "pstree.img: %u cannot be a pid", pid);
	rc = map_add(pids, pid, (void *)task);
	if (rc < 0)
		return err_nomem(err);
	return rc ? 0 : err_set(err, EINVAL, "pstree.img: pid %u occurs twice", pid);
}

static int verify_parent(const struct map *pids, const struct snap_task *task, bool root,
			 struct err *err)
{
	const struct snap_task *parent = map_get(pids, task->ps->ppid);

	if (root && task->ps->ppid)
		return err_set(err, EINVAL,
			       "pstree.img: the first task (pid %u) has a parent (%u) that is not in the "
			       "image",
			       task->ps->pid, task->ps->ppid);
	if (root)
		return 0;
	if (!parent || parent == task || parent->ps->pid != task->ps->ppid)
		return err_set(err, EINVAL,
			       "pstree.img: the parent (%u) of pid %u does not come before it",
			       task->ps->ppid, task->ps->pid);
	if (is_zombie(parent))
		return err_set(err, EINVAL, "pstree.img: the parent (%u) of pid %u is dead",
			       task->ps->ppid, task->ps->pid);
	return 0;
}

/* The members of snap_task: all there for a live task, no more than needed for a dead one. */
static int verify_parts(const struct snap_task *task, struct err *err)
{
	uint32_t pid = task->ps->pid;

	if (!task->core || !task->core[0] || !task->core[0]->tc)
		return err_set(err, EINVAL, "core-%u.img: the core of a task has no tc", pid);
	if (is_zombie(task))
		return 0;
	if (!task->ids || !task->mm || !task->fs || !task->pagemap)
		return err_set(err, EINVAL, "%s-%u.img: the image is missing",
			       !task->ids ? "ids" :
			       !task->mm  ? "mm" :
			       !task->fs  ? "fs" :
					    "pagemap",
			       pid);
	if (task->n_threads != task->ps->n_threads || !task->n_threads)
		return err_set(err, EINVAL, "pstree.img: pid %u has no threads", pid);
	if (task->ps->threads[0] != pid)
		return err_set(err, EINVAL,
			       "pstree.img: the first thread of pid %u is %u, not its leader", pid,
			       task->ps->threads[0]);
	for (size_t i = 0; i < task->n_threads; i++)
		if (!task->core[i])
			return err_set(err, EINVAL, "core-%u.img: the image is missing",
				       task->ps->threads[i]);
	return 0;
}

static int verify_task(const struct snapshot *snap, const struct snap_task *task, struct map *pids,
		       struct err *err)
{
	bool root = task == snap->tasks.v[0];

	if (!task->ps)
		return err_set(err, EINVAL, "pstree.img: a task is missing");
	if (task->ps->sid > PID_LIMIT || task->ps->pgid > PID_LIMIT)
		return err_set(err, EINVAL,
			       "pstree.img: pid %u has an impossible session (%u) or group (%u)",
			       task->ps->pid, task->ps->sid, task->ps->pgid);
	if (claim_pid(pids, task->ps->pid, task, err) || verify_parts(task, err) ||
	    verify_parent(pids, task, root, err) || verify_cores(snap, task, err))
		return -1;
	if (is_zombie(task))
		return root ? err_set(err, EOPNOTSUPP,
				      "pstree.img: the root of the tree (pid %u) is dead",
				      task->ps->pid) :
			      0;
	for (size_t i = 1; i < task->n_threads; i++)
		if (claim_pid(pids, task->ps->threads[i], task, err))
			return -1;
	if (root && task->ids->files_id == snap->inventory->root_ids->files_id)
		return err_set(err, EINVAL,
			       "ids-%u.img: files_id %u is the one of whoever dumped the tree "
			       "(inventory.img)",
			       task->ps->pid, task->ids->files_id);
	return verify_namespaces(snap, task, err);
}

static int verify_tree(const struct snapshot *snap, struct err *err)
{
	struct map pids = {0};
	int rc = 0;

	if (!snap->tasks.n)
		return err_set(err, EINVAL, "pstree.img: the image has no task");
	for (size_t i = 0; i < snap->tasks.n && !rc; i++)
		rc = verify_task(snap, snap->tasks.v[i], &pids, err);
	map_free(&pids);
	return rc;
}

int snapshot_verify(const struct snapshot *snap, struct err *err)
{
	if (verify_inventory(snap, err) || verify_tree(snap, err) || verify_files(snap, err) ||
	    verify_ipc(snap, err))
		return -1;
	return verify_memory(snap, err);
}

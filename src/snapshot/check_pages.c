// SPDX-License-Identifier: Apache-2.0
/*
 * Are the pages there that the pagemaps promise? One look at sizes, so that a
 * pages image that was cut is found before a task is made.
 */
#include "snapshot/snapshot.h"

#include "store/store.h"

#include <errno.h>
#include <sys/stat.h>

/* Pages that are still at the source would silently be zero. */
static int refuse_lazy(const struct snap_pagemap *pm, struct err *err)
{
	char name[64];

	vec_foreach (e, &pm->entries) {
		if (((*e)->flags & (PE_LAZY | PE_PRESENT)) == PE_LAZY)
			return err_set(err, EOPNOTSUPP,
				       "%s: %llu pages at %llx: the contents stayed with the source (dump "
				       "--lazy-pages)",
				       snapshot_pagemap_name(pm, name),
				       (unsigned long long)(*e)->nr_pages,
				       (unsigned long long)(*e)->vaddr);
	}
	return 0;
}

static int check_level(const struct snap_pagemap *pm, struct store *store, struct err *err)
{
	uint64_t bytes = snapshot_pagemap_bytes(pm);
	struct stat st;
	char name[64];
	uint8_t last;
	int fd;

	if (!bytes)
		return 0;
	snapshot_pagemap_name(pm, name);
	fd = store_pages_fd(store, pm->pages_id);
	if (fd < 0) {
		if (store_get_pages(store, pm->pages_id, bytes - 1, &last, 1, err))
			return err_wrap(err, "%s", name);
		return 0;
	}
	if (fstat(fd, &st))
		return err_sys(err, "pages-%u.img: fstat", pm->pages_id);
	if ((uint64_t)st.st_size < bytes)
		return err_set(err, EINVAL,
			       "pages-%u.img: offset %lld: the image ends, but %s needs %llu bytes",
			       pm->pages_id, (long long)st.st_size, name, (unsigned long long)bytes);
	return 0;
}

static int check_pagemap(const struct snap_pagemap *pm, struct store *store, struct err *err)
{
	for (; pm; pm = pm->parent) {
		if (check_level(pm, store, err))
			return -1;
		if (pm->parent && store_parent(store, &store, err))
			return -1;
	}
	return 0;
}

static int check_all(const struct snapshot *snap, struct store *store, bool lazy, struct err *err)
{
	vec_foreach (task, &snap->tasks)
		if ((*task)->pagemap && ((!lazy && refuse_lazy((*task)->pagemap, err)) ||
					 check_pagemap((*task)->pagemap, store, err)))
			return -1;
	vec_foreach (pm, &snap->shmem)
		if (check_pagemap(*pm, store, err))
			return -1;
	return 0;
}

int snapshot_check_pages(const struct snapshot *snap, struct store *store, struct err *err)
{
	return check_all(snap, store, false, err);
}

int snapshot_check_pages_lazy(const struct snapshot *snap, struct store *store, struct err *err)
{
	return check_all(snap, store, true, err);
}

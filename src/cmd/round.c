// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "round"
#include "cmd/round.h"

#include "base/io.h"
#include "base/log.h"
#include "cmd/common.h"
#include "kernel/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

static int make_inventory(struct snapshot *snap, struct err *err)
{
	InventoryEntry *inv = snap_new(snap, InventoryEntry, inventory_entry);
	cleanup_free char *uptime = NULL;

	if (!inv)
		return err_nomem(err);
	if (io_read_filef(&uptime, NULL, "/proc/uptime"))
		return err_sys(err, "/proc/uptime");
	inv->img_version = 2;
	inv->has_fdinfo_per_id = inv->fdinfo_per_id = true;
	inv->has_ns_per_id = inv->ns_per_id = true;
	inv->has_dump_uptime = true; /* CRIU tells reused pids by it */
	inv->dump_uptime = (uint64_t)(strtod(uptime, NULL) * 1e6);
	inv->has_pre_dump_mode = true;
	inv->pre_dump_mode = 2; /* read, not spliced */
	snap->inventory = inv;
	return 0;
}

/* The pagemaps hold the snapshot's entries, as store_sink puts them there. */
static int save_pagemaps(const struct precopy *p, struct store *store, struct err *err)
{
	vec_foreach (pm, precopy_pagemaps(p))
		if (snapshot_save_pagemap(*pm, store, err) < 0)
			return -1;
	return 0;
}

int round_save(struct precopy *p, struct snapshot *snap, struct store *store,
	       struct ps_client *server, struct precopy_stats *stats, struct err *err)
{
	struct store_sink sink;

	store_sink_init(&sink, snap, store);
	/* A directory with an inventory is complete: what lies there from earlier is not, from now on. */
	if ((!store_streams(store) && store_skip(store, "inventory.img", err) < 0) ||
	    precopy_round(p, server ? &server->sink : &sink.sink, stats, err) < 0)
		return -1;
	snap->incremental = stats->kept_pages != 0;
	if (signals_check(err) < 0 ||
	    (server ? ps_client_close(server, err) : save_pagemaps(p, store, err)) < 0)
		return -1;
	if (!snap->incremental && store_skip(store, "parent", err) < 0)
		return -1;
	if (make_inventory(snap, err) < 0 || snapshot_save_inventory(snap->inventory, store, err) < 0)
		return -1;
	return store_complete(store, err);
}

/* ---- before a dump ---- */

static bool is_large(pid_t root)
{
	uint64_t pages = 0;
	struct err ignored;
	proc_pids pids;

	if (proc_tree(root, &pids, &ignored))
		return false;
	vec_foreach (pid, &pids)
		pages += proc_private_pages(*pid);
	vec_free(&pids);
	return pages * PAGE_BYTES >= OWN_ROUND_WORTH_BYTES;
}

static struct store *open_own_dir(int images_fd, struct err *err)
{
	cleanup_close int fd = -1;

	if (mkdirat(images_fd, OWN_ROUND_DIR, 0755) && errno != EEXIST) {
		err_sys(err, "cannot make the directory %s in that of the images", OWN_ROUND_DIR);
		return NULL;
	}
	fd = openat(images_fd, OWN_ROUND_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		err_sys(err, "cannot open the directory %s in that of the images", OWN_ROUND_DIR);
		return NULL;
	}
	return store_dir_open(fd, err);
}

static int save_own(struct own_round *r, int images_fd, struct store *store, struct err *err)
{
	struct store *before = open_own_dir(images_fd, err);
	struct precopy_stats stats;
	int rc = -1;

	r->snap = before ? snapshot_create(err) : NULL;
	/* an earlier dump of this directory may build on what is replaced now */
	if (r->snap && store_skip(store, "inventory.img", err) == 0)
		rc = round_save(r->precopy, r->snap, before, NULL, &stats, err);
	store_close(before);
	if (rc < 0 || store_set_parent(store, OWN_ROUND_DIR, err) < 0)
		return -1;
	log_info("the tree runs while %lu pages are copied to %s, %.3f ms",
		 (unsigned long)stats.pages, OWN_ROUND_DIR, (double)stats.copy_ns / 1e6);
	return 0;
}

int own_round_make(struct own_round *r, enum own_round_when when, bool worth, pid_t pid,
		   const struct kind_options *kinds, unsigned int timeout_ms, int images_fd,
		   struct store *store, struct err *err)
{
	if (when == OWN_ROUND_NO || (when == OWN_ROUND_AUTO && !(worth && is_large(pid))))
		return 0;
	r->precopy = precopy_open(pid, kinds, timeout_ms, err);
	if (!r->precopy && when == OWN_ROUND_AUTO) {
		log_info("all memory is copied in the freeze: %s", err->text);
		return 0;
	}
	if (!r->precopy || save_own(r, images_fd, store, err) < 0) {
		precopy_end(r->precopy);
		r->precopy = NULL;
		return err_wrap(err, "--pre-copy");
	}
	return 0;
}

void own_round_close(struct own_round *r)
{
	snapshot_free(r->snap);
	*r = (struct own_round){0};
}

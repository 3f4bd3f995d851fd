// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/want.h"

#include "snapshot/snapshot.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (!path[n] || path[n] == '/');
}

bool want_local(const char *path)
{
	return below(path, "/proc") || below(path, "/sys") || below(path, "/dev");
}

static int add_file(const struct snapshot *snap, const RegFileEntry *reg, struct want *out,
		    struct err *err)
{
	struct lf_export e = {.path = reg->name};
	struct want_file f = {.size = reg->has_size ? reg->size : UINT64_MAX};

	if (!lf_path_valid(reg->name) || !reg->name[1] || want_local(reg->name) ||
	    (reg->has_ext && reg->ext) || snapshot_remap(snap, reg->id))
		return 0;
	/* images of old versions do not say what it is; to be whole means nothing for a file */
	e.whole = !reg->has_mode || S_ISDIR(reg->mode);
	e.path = f.path = arena_strdup(&out->arena, reg->name);
	if (!e.path || !vec_push(&out->hello.exports, e))
		return err_nomem(err);
	if (out->hello.exports.n > LF_EXPORTS_MAX)
		return err_set(err, E2BIG, "the tree has more than %d files", LF_EXPORTS_MAX);
	if ((!reg->has_mode || S_ISREG(reg->mode)) && !vec_push(&out->files, f))
		return err_nomem(err);
	return 0;
}

static int add_creds(const CredsEntry *entry, struct want *out, struct err *err)
{
	const uint32_t reads = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
	const uint32_t owns = 1u << CAP_CHOWN | 1u << CAP_FOWNER;
	uint32_t *groups;
	struct lf_creds c = {
		.uid = entry->fsuid,
		.gid = entry->fsgid,
		.n_groups = (uint32_t)entry->n_groups,
		.groups = entry->groups,
		.reads_all = entry->n_cap_eff && (entry->cap_eff[0] & reads),
		.writes_all = entry->n_cap_eff && (entry->cap_eff[0] & 1u << CAP_DAC_OVERRIDE),
		.owns_all = entry->n_cap_eff && (entry->cap_eff[0] & owns) == owns,
	};

	vec_foreach (have, &out->hello.creds)
		if (lf_creds_same(have, &c))
			return 0;
	if (c.n_groups > LF_GROUPS_MAX || out->hello.creds.n == LF_CREDS_MAX)
		return err_set(err, E2BIG, "the tree's tasks have too many different rights");
	groups = arena_array(&out->arena, uint32_t, c.n_groups + 1);
	if (!groups)
		return err_nomem(err);
	if (c.n_groups)
		memcpy(groups, entry->groups, c.n_groups * sizeof(groups[0]));
	c.groups = groups;
	return vec_push(&out->hello.creds, c) ? 0 : err_nomem(err);
}

static int add_task(const struct snap_task *task, struct want *out, struct err *err)
{
	for (size_t i = 0; i < task->n_threads; i++) {
		const ThreadCoreEntry *core = task->core[i]->thread_core;

		if (core && core->creds && add_creds(core->creds, out, err) < 0)
			return -1;
	}
	return 0;
}

int want_make(const struct snapshot *snap, const char *source_root, bool everything,
	      struct want *out, struct err *err)
{
	const struct lf_export all = {.path = "/", .whole = true};

	*out = (struct want){.hello = {.version = LF_VERSION}};
	out->hello.root = arena_strdup(&out->arena, source_root);
	if (!out->hello.root)
		return err_nomem(err);
	if (!lf_path_valid(source_root))
		return err_set(err, EINVAL, "%.200s: not an absolute path without . and ..",
			       source_root);
	vec_foreach (file, &snap->files)
		if ((*file)->reg && add_file(snap, (*file)->reg, out, err) < 0)
			return -1;
	vec_foreach (task, &snap->tasks)
		if (add_task(*task, out, err) < 0)
			return -1;
	if (everything && !vec_push(&out->hello.exports, all))
		return err_nomem(err);
	return 0;
}

int want_writes(struct want *w, struct err *err)
{
	w->hello.version = LF_VERSION_WRITES;
	/* an older source need not refuse where it makes no difference */
	vec_foreach (c, &w->hello.creds)
		if (c->owns_all)
			w->hello.version = LF_VERSION_OWNERS;
	if (getrandom(&w->hello.token, sizeof(w->hello.token), 0) < 0)
		return err_sys(err, "getrandom");
	return 0;
}

void want_free(struct want *w)
{
	lf_hello_free(&w->hello);
	vec_free(&w->files);
	arena_free(&w->arena);
}

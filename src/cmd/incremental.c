// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "incremental"
#include "cmd/incremental.h"

#include "base/log.h"
#include "snapshot/dedup.h"
#include "store/store.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void incremental_warn(const struct opt_spec *spec, const struct err *err)
{
	log_warn("%s", err->text);
	fprintf(stderr, "ferry %s: warning: %s\n", spec->command, err->text);
}

int incremental_check(const struct incremental_args *args, const struct image_place *place,
		      struct err *err)
{
	if (place->remote && (args->prev_images_dir || args->auto_dedup))
		return err_set(
			err, 0,
			"--remote excludes --prev-images-dir and --auto-dedup: see --prev-snapshot");
	if (!place->remote && args->prev_snapshot)
		return err_set(err, 0, "--prev-snapshot makes sense with --remote only");
	if (args->prev_snapshot && strlen(args->prev_snapshot) > BLOCK_NAME_MAX)
		return err_set(err, 0, "--prev-snapshot: a name has at most %d bytes",
			       BLOCK_NAME_MAX);
	return 0;
}

/* What a relay of this work directory was given under a name. */
static int level_of_snapshot(int work_fd, const char *name, uint64_t identity,
			     struct holder_level *out, struct err *err)
{
	struct stat st;

	if (fstat(work_fd, &st))
		return err_sys(err, "the work directory");
	*out = (struct holder_level){.dev = st.st_dev,
				     .ino = st.st_ino,
				     .snapshot = true,
				     .name_hash = snapshot_identity(name, strlen(name)),
				     .identity = identity};
	return 0;
}

static const char *name_of(const struct image_place *place)
{
	return place->snapshot ? place->snapshot : SNAPSHOT_DEFAULT;
}

/* The level that the new images would build on; @found_out: it is one. */
static int look_at_parent(const char *prev, int images_fd, struct holder_level *level,
			  bool *found_out, struct err *why, struct err *err)
{
	cleanup_close int fd = openat(images_fd, prev, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "--prev-images-dir %.200s: cannot open the directory", prev);
	*found_out = holder_level_of(fd, level, why) == 0;
	if (!*found_out)
		err_wrap(why, "%.200s is not a complete directory of images", prev);
	return 0;
}

int incremental_open(struct incremental *in, const struct incremental_args *args,
		     struct image_env *env, pid_t pid, struct err *err)
{
	const char *prev = args->prev_snapshot ? args->prev_snapshot : args->prev_images_dir;
	char parent[STREAM_PARENT_MAX];
	struct holder_level level = {0};
	struct err why, unused;
	bool found = false;

	in->args = args;
	in->pid = pid;
	if (args->prev_snapshot) {
		found = true; /* as far as we know: the relay tells when we build on it */
		if (level_of_snapshot(env->work_fd, prev, 0, &level, err))
			return -1;
	} else if (prev && look_at_parent(prev, env->images_fd, &level, &found, &why, err)) {
		return -1;
	}
	if (holder_take(pid, found ? &level : NULL, &env->kinds, in->timeout_ms, &in->precopy,
			found ? &why : &unused, err))
		return -1;
	if (in->precopy) {
		if (args->prev_snapshot)
			stream_parent_name(prev, level.identity, parent);
		if (store_set_parent(env->store, args->prev_snapshot ? parent : prev, err))
			return -1;
	} else if (prev) {
		err_wrap(&why, "cannot build on %.200s, so everything is saved again", prev);
		incremental_warn(in->spec, &why);
	}
	if (!in->precopy && in->go_on) {
		in->precopy = precopy_open(pid, &env->kinds, in->timeout_ms, err);
		if (!in->precopy)
			return err_wrap(err, "--track-mem");
	}
	if (in->precopy && in->go_on)
		precopy_go_on(in->precopy);
	return 0;
}

static int dedup(struct incremental *in, struct image_env *env, const struct snapshot *snap,
		 struct err *err)
{
	uint64_t bytes = 0;
	int rc = 0;

	if (!(in->dedup || in->args->auto_dedup) || !snap->incremental)
		return 0;
	if (!snap->tasks.n) /* a pre-dump: there is nothing but the pagemaps of its round */
		vec_foreach (pm, precopy_pagemaps(in->precopy))
			rc = rc ? rc : dedup_parents(*pm, env->store, &bytes, err);
	vec_foreach (t, &snap->tasks)
		if ((*t)->pagemap && rc == 0)
			rc = dedup_parents((*t)->pagemap, env->store, &bytes, err);
	vec_foreach (pm, &snap->shmem)
		rc = rc ? rc : dedup_parents(*pm, env->store, &bytes, err);
	log_info("freed %lu bytes of earlier images", (unsigned long)bytes);
	return rc ? err_wrap(err, "--auto-dedup") : 0;
}

/* Where the images of this command are now. */
static int level_of(const struct image_env *env, struct holder_level *out, struct err *err)
{
	const struct image_place *place = &env->args->place;

	return place->remote ? level_of_snapshot(env->work_fd, name_of(place),
						 env->images.st.identity, out, err) :
			       holder_level_of(env->images_fd, out, err);
}

int incremental_finish(struct incremental *in, struct image_env *env, const struct snapshot *snap,
		       struct err *err)
{
	cleanup_close int listener = -1;
	struct holder_level level;

	if (dedup(in, env, snap, err))
		return -1;
	if (!in->precopy || !in->go_on)
		return 0;
	listener = holder_listen(in->pid, err);
	if (listener < 0 || level_of(env, &level, err) ||
	    holder_start(in->precopy, in->pid, &level, listener,
			 (unsigned int)in->args->track_timeout_s, err))
		return err_wrap(err, "the images are complete, but the tree is not watched any more");
	in->held = true;
	return 0;
}

void incremental_close(struct incremental *in)
{
	if (in->held)
		precopy_close(in->precopy);
	else
		precopy_end(in->precopy);
	in->precopy = NULL;
}

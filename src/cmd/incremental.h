// SPDX-License-Identifier: Apache-2.0
/*
 * What dump and pre-dump do alike for images that build on earlier ones: the
 * options, taking the tracking over from its holder, the link to the parent, giving
 * the tracking to a new holder, and removing what the new images have replaced.
 */
#ifndef FERRY_CMD_INCREMENTAL_H
#define FERRY_CMD_INCREMENTAL_H

#include "cmd/common.h"
#include "cmd/holder.h"

struct incremental_args {
	const char *prev_images_dir, *prev_snapshot;
	bool track_mem, auto_dedup;
	uint64_t track_timeout_s;
};

#define INCREMENTAL_ARGS_DEFAULT ((struct incremental_args){.track_timeout_s = 3600})

#define INCREMENTAL_ROWS(Args, at)                                                                         \
	{.long_name = "prev-images-dir",                                                                   \
	 .arg = "DIR",                                                                                     \
	 .help = "build on the images in DIR (relative to the images directory): pages that "              \
		 "have not changed since stay there",                                                      \
	 .type = OPT_TEXT,                                                                                 \
	 .offset = offsetof(Args, at.prev_images_dir)},                                                    \
		{.long_name = "prev-snapshot",                                                             \
		 .arg = "NAME",                                                                            \
		 .help = "with --remote: build on the snapshot NAME, which is in the image-cache already", \
		 .type = OPT_TEXT,                                                                         \
		 .offset = offsetof(Args, at.prev_snapshot)},                                              \
		{.long_name = "track-mem",                                                                 \
		 .help = "watch from now on which pages the tree writes, so that the next images "         \
			 "can build on these",                                                             \
		 .type = OPT_FLAG,                                                                         \
		 .offset = offsetof(Args, at.track_mem)},                                                  \
		{.long_name = "track-timeout",                                                             \
		 .arg = "SECONDS",                                                                         \
		 .help = "watch no longer than SECONDS (default 3600; 0: as long as the tree lives)",      \
		 .type = OPT_NUMBER,                                                                       \
		 .offset = offsetof(Args, at.track_timeout_s),                                             \
		 .max = 31536000},                                                                         \
	{                                                                                                  \
		.long_name = "auto-dedup",                                                                 \
		.help = "free the space of pages in earlier images that these ones replace",               \
		.type = OPT_FLAG, .offset = offsetof(Args, at.auto_dedup)                                  \
	}

/* The caller sets those before precopy. */
struct incremental {
	const struct opt_spec *spec; /* for warnings */
	bool go_on;                  /* the tree runs on and is watched on */
	bool dedup;                  /* free what is replaced, as with --auto-dedup */
	unsigned int timeout_ms;
	struct precopy *precopy; /* NULL: everything is sent */
	bool held;               /* another process has the tracking now */
	const struct incremental_args *args;
	pid_t pid;
};

/* Do these options fit where the images go? The text is that of a usage error. */
int incremental_check(const struct incremental_args *args, const struct image_place *place,
		      struct err *err) must_check;

/*
 * Before the freeze: takes over what the last command has left, if it fits the
 * directory that these images build on, and makes the link to that; if not, says so on stderr, and
 * everything will be sent. No other tracking of this tree is left.
 */
int incremental_open(struct incremental *in, const struct incremental_args *args,
		     struct image_env *env, pid_t pid, struct err *err) must_check;

/* When the images are complete: dedup of the earlier ones, and a holder if the tracking goes on. */
int incremental_finish(struct incremental *in, struct image_env *env, const struct snapshot *snap,
		       struct err *err) must_check;

void incremental_close(struct incremental *in);

/* "ferry COMMAND: warning: TEXT" to stderr. */
void incremental_warn(const struct opt_spec *spec, const struct err *err);

#endif

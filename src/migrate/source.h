// SPDX-License-Identifier: Apache-2.0
/*
 * The source's side of a migration: its actions in the table of stages
 * (stages.c), and what they share. All of it runs in the driver (keeper.h).
 */
#ifndef FERRY_MIGRATE_SOURCE_H
#define FERRY_MIGRATE_SOURCE_H

#include "base/arena.h"
#include "capture/capture.h"
#include "kernel/urgent.h"
#include "migrate/files.h"
#include "migrate/files_home.h"
#include "migrate/home.h"
#include "migrate/keeper.h"
#include "migrate/lane.h"
#include "migrate/pages.h"
#include "migrate/progress.h"
#include "migrate/transport.h"
#include "migrate/view.h"

enum pids_mode { PIDS_SAME = 0, PIDS_AUTO = 1, PIDS_NEW = 2 }; /* on the wire */

struct migrate_options {
	pid_t pid;
	struct kind_options kinds;
	struct file_policy files;
	enum pids_mode pids;
	enum wire_mode mode;
	bool mode_wanted; /* the user's word: refuse rather than do it in another way */
	bool plain_tcp;   /* lanes by TCP, not encrypted */
	enum transport transport;
	enum compress compress;   /* of pages and files, on their way */
	unsigned int connections; /* of TLS, for the messages; and as many lanes for the bulk */
	bool connections_wanted;  /* the user's word: over ssh, too */
	unsigned int patience_ms; /* silence of the other machine over TLS or TCP */
	uint64_t bandwidth;       /* bytes a second for rounds of pre-copy; 0: as fast as it goes */
	unsigned int max_rounds;  /* 0: as many as pay */
	unsigned int max_downtime_ms; /* 0: no limit */
	unsigned int timeout_s;       /* for the freeze */
	struct settle_options settle;
	struct progress *progress;
};

/* What became of the tree when the commit was not the end of it. */
enum source_end {
	SOURCE_GOES_ON,
	SOURCE_HOME, /* it runs on here: it was ended there before it had all of its memory */
	SOURCE_LEFT, /* it is left stopped here, and runs there without all of its memory */
};

struct source {
	const struct migrate_options *opt;
	struct channel ch;
	int link; /* to the front */
	bool same_kernel;
	struct view view; /* of the tree's files */
	struct capture_session *capture;
	bool frozen;
	bool changes_on_way;  /* the destination has not yet said that the files are in place */
	struct store *images; /* while they are sent */
	struct file_source *files;
	enum wire_files files_mode; /* as it is done */
	struct files_home files_home;
	struct arena paths_arena;
	Wire__FileList paths;        /* of the last look */
	ProtobufCBinaryData carried; /* what it has changed on other hosts (lazyfs/carried.h) */
	kept_tasks kept;             /* armed: the tree would stay stopped without us */
	int home;                    /* holds the record of that; -1: none */
	uint64_t freeze_start_ns, frozen_ns;
	struct urgent urgent; /* as long as the tree stands still */
	uint64_t memory_bytes;
	pid_t new_pid;
	bool new_pid_namespace;
	enum settled fate; /* when the commit failed */

	struct transport_source transport;
	unsigned int codecs; /* that both ends know, and the user allows */
	bool padding;        /* the other end allows it in prepare */

	/* pre-copy: precopy.c */
	struct precopy *precopy;
	unsigned int rounds;
	uint64_t round_bytes;
	uint64_t little_bytes; /* see memory_options */

	/* post-copy: source_lazy.c */
	enum wire_mode mode; /* as it is done */
	char door_address[64];
	uint16_t door_port; /* 0: lanes go over ssh */
	struct lane lanes[LANES_MAX];
	size_t n_lanes;
	uint32_t lane_set;   /* the last attempt to open them */
	bool shared_late;    /* shared memory may be among what follows */
	struct serve *serve; /* pages that stay here for now */
	struct pages *pages; /* and the thread that hands them out */
	bool front_gone;
	enum source_end end;
	uint64_t lane_bytes, zero_bytes;
	struct progress_lazy lazy;
};

/*
 * Moves the tree of opt->pid. Takes @in and @out (the connection); @link is the
 * driver's end of the link. 0: it runs there.
 */
int migrate_source(const struct migrate_options *opt, int in, int out, int link, struct err *err)
	must_check;

/*
 * Settles what an earlier migration left behind: the tree of @token_or_pid, stopped
 * here. opt->settle.remote says how to reach the host. *moved_out: it runs there.
 */
int migrate_recover(const struct migrate_options *opt, const char *token_or_pid, bool *moved_out,
		    struct err *err) must_check;

/* ---- the actions ---- */
int source_check_interrupt(struct source *s, struct err *err) must_check;
int source_hello(struct source *s, struct err *err) must_check;
int source_preflight(struct source *s, struct err *err) must_check;
int source_files(struct source *s, struct err *err) must_check;
void source_undo_files(struct source *s);

/* Waits until the changes of files are in place there, if any are on their way. */
int source_hear_changes(struct source *s, struct err *err) must_check;

int source_lanes(struct source *s, struct err *err) must_check;
void source_undo_lanes(struct source *s);
int source_precopy(struct source *s, struct err *err) must_check;
void source_undo_precopy(struct source *s);
int source_prepare(struct source *s, struct err *err) must_check;
int source_freeze(struct source *s, struct err *err) must_check;
void source_undo_freeze(struct source *s);
int source_changes(struct source *s, struct err *err) must_check;
int source_state(struct source *s, struct err *err) must_check;
int source_commit(struct source *s, struct err *err) must_check;
void source_undo_commit(struct source *s);
int source_postcopy(struct source *s, struct err *err) must_check;
int source_farewell(struct source *s, struct err *err) must_check;

/* ---- what they share ---- */

/* The other side's doors are open (MSG_DOORS). Free with wire_free. NULL + err: or why they cannot be. */
Wire__Doors *source_hear_doors(struct source *s, struct err *err) must_check;

/* choose.c: takes out of s->mode what does not suit the tree, unless it is the user's word; says so. */
int source_choose(struct source *s, struct err *err) must_check;

/* Begins to hand out the pages that stayed here, over the lanes. */
int source_serve(struct source *s, struct err *err) must_check;

/* Waits until the target says something; -1 when it cannot build any more, as a lane broke. */
int source_await_built(struct source *s, struct err *err) must_check;

/* Does something where the tree's paths are; see view.h. */
int source_in_view(struct source *s, int (*work)(struct source *s, struct err *err), struct err *err)
	must_check;

/* The tree has ended here: what it changed on its way need not be kept here. */
void source_files_moved(struct source *s);

/* Ends the freeze once. */
int source_end_freeze(struct source *s, enum capture_end end, struct err *err) must_check;

/* It runs there, and needs nothing more from here: the tree is killed. */
void source_end_tree(struct source *s);

#endif

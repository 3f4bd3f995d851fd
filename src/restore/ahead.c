// SPDX-License-Identifier: Apache-2.0
/*
 * The first task of a tree, made before there are images.
 *
 * What it takes to make it does not depend on them, but for three things: its pid and the clocks of
 * its time namespace, which whoever still runs the tree tells, and the place of the region, which is a guess.
 * So it can wait in the blob, empty, while the tree still runs. What the guess was worth is seen when the images
 * are there; if it was wrong, the task is ended, and another one made.
 *
 * The clocks go on meanwhile, so the tree finds that as much time has gone by as really has. They must not
 * have gone by less than the images say: a clock never runs backwards. (It would, if the word of the clocks
 * had been longer on its way than the images.)
 *
 * The task shares our table of descriptors. When the broker has opened everything it takes a copy, and has what a
 * task that is forked then would have.
 *
 * A tree with a root directory of its own gets its mount namespace here, and the task is in it; whatever becomes of the
 * task, the session of the images takes the namespace over.
 */
#include "restore/session.h"

#define LOG_MODULE "restore"
#include "base/log.h"
#include "kernel/xstate.h"
#include "mem/fill.h"

#include <errno.h>
#include <string.h>
#include <time.h>

static int make(struct restore_session *s, const struct restore_wish *w, struct err *err)
{
	struct rtask *root = arena_new(&s->arena, struct rtask);
	struct err late;
	int rc;

	if (!root || !vec_push(&s->tasks, root))
		return err_nomem(err);
	root->vpid = w->pid;
	root->pidfd = -1;
	root->n_slots = 1;
	if (vdso_find(&s->vdso, err) < 0 || region_create_ahead(s, root, w->n_threads, err) < 0)
		return -1;
	s->lead = w->lead;
	if (scratch_make(s, err) < 0)
		return -1;
	memset(s->scratch, 0, FILL_SCRATCH_BYTES); /* touched for the first time now */
	(void)xstate_bytes();                      /* and the processor is asked */
	/* where the tree's root directory is another one, the task is born below it, as its children will be */
	if (mounts_enter(s, err) < 0)
		return -1;
	rc = root_create_ahead(s, &s->lead, err);
	if (mounts_leave(s, rc < 0 ? &late : err) == 0)
		return rc;
	if (rc < 0)
		log_error("%s", late.text);
	return -1;
}

/* The root directory of the tree is mounted in the namespace: that is of use without the task, too. */
static bool keep_mounts(struct restore_session *s, const struct err *why)
{
	if (s->mnt_fd < 0)
		return false;
	log_info("only the tree's mount namespace is made ahead: %s", why->text);
	session_kill(s);
	s->tasks.v[0]->pid = 0;
	region_destroy(s);
	return true;
}

struct restore_session *restore_ahead(const struct restore_options *opt,
				      const struct restore_wish *wish, struct err *err)
{
	struct restore_session *s = calloc(1, sizeof(*s));

	if (!s) {
		err_nomem(err);
		return NULL;
	}
	s->opt = *opt;
	s->r.opt = opt->kinds;
	s->pidns_fd = s->ipc_fd = s->mnt_fd = -1;
	s->mnt_way = MNTNS_HERE;
	if (opt->pids == RESTORE_PIDS_NEW)
		err_set(err, EINVAL, "the tree gets a pid namespace of its own");
	else if (restore_pids_free(&wish->pid, 1, err) == 0 &&
		 (make(s, wish, err) == 0 || keep_mounts(s, err)))
		return s;
	restore_close(s);
	return NULL;
}

/* Are the clocks of the task behind those of the images? */
static bool is_behind(const struct restore_session *ahead, const TimensEntry *te)
{
	struct clock_lead now = clock_lead_of(te);

	return now.monotonic_ns > ahead->lead.monotonic_ns ||
	       now.boottime_ns > ahead->lead.boottime_ns;
}

/* Why it cannot be the root of this tree; NULL if it can. */
static const char *misfit(const struct restore_session *s, const struct restore_session *ahead)
{
	const TimensEntry *te = s->r.snap->timens;

	if (s->new_pidns || s->opt.sibling)
		return "the tree gets a pid namespace of its own, or another parent";
	if (s->tasks.v[0]->vpid != ahead->tasks.v[0]->vpid)
		return "the tree has another root";
	if (!te || is_behind(ahead, te))
		return "its clocks are behind those of the tree";
	if (!region_fits(s, ahead))
		return "its place for scripts is not free";
	return NULL;
}

void root_take_ahead(struct restore_session *s)
{
	struct restore_session *ahead = s->opt.ahead;
	struct rtask *root = s->tasks.v[0], *made;
	const char *why;

	if (!ahead || !ahead->region)
		return;
	why = misfit(s, ahead);
	if (why) {
		log_info("the task that was made ahead cannot be used: %s", why);
		session_kill(ahead);
		ahead->tasks.v[0]->pid = 0;
		region_destroy(ahead);
		return;
	}
	made = ahead->tasks.v[0];
	region_take(s, ahead);
	root->slots = made->slots;
	leader(root)->task = root;
	root->pid = made->pid;
	root->pidfd = steal_fd(&made->pidfd);
	root->seized = root->queued = true;
	root->vdso_now = made->vdso_now;
	made->pid = 0;
	made->slots = NULL;
}

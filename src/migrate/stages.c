// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "stages"
#include "migrate/stages.h"

#include "base/log.h"
#include "migrate/source.h"
#include "migrate/target.h"

#include <errno.h>

const struct stage stages[] = {
	{WIRE_STAGE_HELLO, source_hello, NULL, target_hello, NULL, false},
	{WIRE_STAGE_PREFLIGHT, source_preflight, NULL, target_preflight, NULL, false},
	{WIRE_STAGE_FILES, source_files, source_undo_files, target_files, target_undo_files, false},
	{WIRE_STAGE_LANES, source_lanes, source_undo_lanes, target_lanes, target_undo_lanes, false},
	{WIRE_STAGE_PRECOPY, source_precopy, source_undo_precopy, target_precopy,
	 target_undo_precopy, false},
	{WIRE_STAGE_PREPARE, source_prepare, NULL, target_prepare, target_undo_prepare, false},
	{WIRE_STAGE_FREEZE, source_freeze, source_undo_freeze, NULL, NULL, false, true, true},
	{WIRE_STAGE_CHANGES, source_changes, NULL, target_changes, NULL, false, true, true},
	{WIRE_STAGE_STATE, source_state, NULL, target_state, target_undo_state, false, true, true},
	{WIRE_STAGE_COMMIT, source_commit, source_undo_commit, target_commit, NULL, true, true, true},
	{WIRE_STAGE_POSTCOPY, source_postcopy, NULL, target_postcopy, NULL, false},
	{WIRE_STAGE_FAREWELL, source_farewell, NULL, target_farewell, NULL, false},
};
static_assert(ARRAY_SIZE(stages) == WIRE_STAGES, "one row for each stage");

/* Of a post-copy little moves while the tree stands still; else all memory that is left. */
static enum urgency urgency(enum wire_mode mode)
{
	return mode & WIRE_MODE_POSTCOPY ? URGENT_BRIEF : URGENT_BUSY;
}

/* ---- source ---- */

static int announce(struct source *s, const struct stage *stage, struct err *err)
{
	Wire__Stage msg = WIRE__STAGE__INIT;
	enum wire_stage id = stage->id;
	int rc;

	progress_stage(s->opt->progress, wire_stage_name(id));
	log_info("stage %s", wire_stage_name(id));
	s->ch.stage = id;
	if (id == WIRE_STAGE_HELLO)
		return 0; /* before the handshake nothing else can be said */
	msg.id = id;
	if (stage->quiet)
		channel_hold(&s->ch);
	rc = channel_send(&s->ch, MSG_STAGE, &msg.base, err);
	channel_release(&s->ch);
	return rc;
}

static void undo_source(struct source *s, size_t begun, const struct err *why)
{
	if (!s->ch.broken)
		channel_abort(&s->ch, why);
	for (size_t i = begun; i-- > 0;) {
		if (stages[i].undo_source)
			stages[i].undo_source(s);
	}
}

int stages_run_source(struct source *s, struct err *err)
{
	bool committed = false;
	int rc;

	for (size_t i = 0; i < WIRE_STAGES; i++) {
		rc = committed ? 0 : source_check_interrupt(s, err);
		if (stages[i].frozen)
			urgent_begin(&s->urgent, urgency(s->mode));
		if (rc == 0)
			rc = announce(s, &stages[i], err);
		/* after the commit a broken connection does not keep us from our part */
		if (rc == 0 || (committed && s->ch.broken))
			rc = stages[i].source(s, err);
		if (rc < 0 && !committed) {
			undo_source(s, i + 1, err);
			urgent_end(&s->urgent);
			return -1;
		}
		if (rc < 0)
			log_warn("stage %s: %s", wire_stage_name(stages[i].id), err->text);
		committed |= stages[i].commits;
		if (committed)
			urgent_end(&s->urgent);
		if (s->end != SOURCE_GOES_ON)
			return -1;
	}
	return 0;
}

/* ---- target ---- */

/* The source's word that the next stage begins. */
static int await_stage(struct target *t, enum wire_stage id, struct err *err)
{
	Wire__Stage *msg;
	int rc = 0;

	if (id == WIRE_STAGE_HELLO)
		return 0;
	msg = channel_expect(&t->ch, MSG_STAGE, err);
	if (!msg)
		return -1;
	if (msg->id != id)
		rc = err_set(err, EPROTO, "stage %u where %s belongs", msg->id, wire_stage_name(id));
	wire_free(msg);
	t->ch.stage = id;
	return rc;
}

static void undo_target(struct target *t, size_t begun, const struct err *why)
{
	for (size_t i = begun; i-- > 0;) {
		if (stages[i].undo_target)
			stages[i].undo_target(t);
	}
	/* when the source knows, everything is undone already */
	if (!t->ch.broken)
		channel_abort(&t->ch, why);
}

enum { FEW_TASKS = 4 }; /* more of them build side by side */

/* We, and what is already there of the tree; all its tasks get priority and processors of the images before they run. */
static void make_haste(struct target *t)
{
	pid_t root = t->ahead ? restore_root_pid(t->ahead) : 0;
	bool before = t->urgent.on;

	urgent_begin(&t->urgent, urgency(t->mode));
	if (before || !root)
		return;
	urgent_task(&t->urgent, root);
	if (t->needs->n_pids <= FEW_TASKS)
		urgent_beside(&t->urgent, root);
}

int stages_run_target(struct target *t, struct err *err)
{
	bool committed = false;
	int rc;

	for (size_t i = 0; i < WIRE_STAGES && !t->query_only; i++) {
		rc = await_stage(t, stages[i].id, err);
		if (rc == 0)
			log_info("stage %s", wire_stage_name(stages[i].id));
		if (stages[i].frozen)
			make_haste(t);
		/* a tree that runs here needs its memory also when the messages have ended */
		if ((rc == 0 || (committed && t->ch.broken)) && stages[i].target)
			rc = stages[i].target(t, err);
		if (rc < 0 && !committed) {
			undo_target(t, i + 1, err);
			urgent_end(&t->urgent);
			return -1;
		}
		if (rc < 0)
			log_warn("stage %s: %s", wire_stage_name(stages[i].id), err->text);
		committed |= stages[i].commits;
		if (committed)
			urgent_end(&t->urgent);
		/* the source waits for us to fetch, or to end: then it asks for the tree's fate */
		if (t->fill_failed)
			return -1;
	}
	return 0;
}

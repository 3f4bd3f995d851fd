// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "target"
#include "migrate/target.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/warm.h"
#include "migrate/connect.h"
#include "migrate/progress.h"
#include "migrate/record.h"
#include "migrate/source.h"
#include "migrate/stages.h"
#include "migrate/wire_store.h"
#include "store/store.h"

#include <errno.h>
#include <string.h>

/* How often the source hears of progress: seldom enough never to fill the way back. */
#define TELL_NS 200000000u

/* What a snapshot of a few tasks, and making them, takes. */
enum { BUILD_HEAP_BYTES = 6 << 20, BUILD_DESCRIPTORS = 1024, CLOCKS_EARLY_NS = 50 * 1000 * 1000 };

/* ---- hello, or a question instead of a migration ---- */

static int answer_query(struct target *t, const struct frame *f, struct err *err)
{
	Wire__Query *query = (Wire__Query *)msg_unpack(f->type, f->body, f->bytes, err);
	Wire__Answer answer = WIRE__ANSWER__INIT;
	enum wire_fate fate;
	pid_t pid;
	int rc;

	if (!query)
		return -1;
	rc = record_query(query->token, &fate, &pid, err);
	wire_free(query);
	if (rc < 0)
		return -1;
	answer.fate = fate;
	answer.has_pid = true;
	answer.pid = (uint32_t)pid;
	t->query_only = true;
	return channel_send(&t->ch, MSG_ANSWER, &answer.base, err);
}

int target_hello(struct target *t, struct err *err)
{
	struct frame f;

	if (connect_welcome(&t->ch, t->token, &t->same_kernel, err) < 0)
		return -1;
	/* what comes next says what this connection is for; a stage is the driver's to take */
	if (channel_peek(&t->ch, &f, err) < 0)
		return -1;
	if (f.type != MSG_QUERY)
		return 0;
	return channel_recv(&t->ch, &f, err) < 0 ? -1 : answer_query(t, &f, err);
}

/* ---- before the freeze ---- */

static void take_options(struct target *t)
{
	const Wire__Needs *n = t->needs;

	t->kinds = (struct kind_options){
		.shell_job = n->shell_job,
		.ext_unix_sk = n->ext_unix_sk,
		.file_locks = n->file_locks,
		.link_remap = n->link_remap,
		.evasive_devices = n->evasive_devices,
		.overwrite_files = n->overwrite_files,
		.ghost_limit = n->ghost_limit,
		.external = n->n_external ? (const char **)n->external : NULL,
	};
	t->restore_opt = (struct restore_options){
		.kinds = &t->kinds,
		.pids = n->pids_mode == PIDS_SAME ? RESTORE_PIDS_SAME :
			n->pids_mode == PIDS_NEW  ? RESTORE_PIDS_NEW :
						    RESTORE_PIDS_AUTO,
	};
}

/* protobuf-c counts its arrays; kind_options wants a NULL at the end. */
static int end_external(Wire__Needs *n, struct err *err)
{
	char **longer;

	if (!n->n_external)
		return 0;
	longer = realloc(n->external, (n->n_external + 1) * sizeof(*longer));
	if (!longer)
		return err_nomem(err);
	longer[n->n_external] = NULL;
	n->external = longer;
	return 0;
}

/* From now on messages may come packed. */
static int agree_on_codecs(struct target *t, Wire__Verdict *verdict, struct err *err)
{
	verdict->codecs = t->needs->codecs & PACK_CODECS;
	verdict->has_codecs = verdict->codecs != 0;
	if (!verdict->codecs)
		return 0;
	t->ch.unpacker = unpacker_create(&pack_messages, err);
	return t->ch.unpacker ? 0 : -1;
}

int target_preflight(struct target *t, struct err *err)
{
	struct arena arena = {0};
	Wire__Verdict verdict = WIRE__VERDICT__INIT;
	int rc;

	t->needs = channel_expect(&t->ch, MSG_NEEDS, err);
	if (!t->needs || end_external(t->needs, err) < 0)
		return -1;
	take_options(t);
	rc = verdict_make(&arena, t->needs, &verdict, err);
	if (rc == 0 && !verdict.n_refused)
		transport_open(t, &arena, &verdict);
	if (rc == 0)
		rc = agree_on_codecs(t, &verdict, err);
	verdict.has_padding = verdict.padding = true;
	if (rc == 0)
		rc = channel_send(&t->ch, MSG_VERDICT, &verdict.base, err);
	if (rc == 0 && verdict.has_port)
		rc = transport_await(t, err);
	arena_free(&arena);
	return rc;
}

/* What the rounds have brought is the parent of the images; in a hybrid it is put in place later. */
static int take_rounds(struct target *t, struct err *err)
{
	if (!t->area)
		return 0;
	if (t->mode & WIRE_MODE_POSTCOPY) {
		t->kept = kept_create(t->area, err);
		if (!t->kept)
			return -1;
		lane_source_keep(t->lanes, t->kept);
	}
	store_memory_set_parent(t->store, t->area);
	t->area = NULL;
	return 0;
}

/*
 * The tree's clocks must be ahead of where they are by no less than the images will say, and we do not know for how long the
 * word of them was on its way. But the source has read them after our last message. So they are ahead by a little more than
 * they should be, up to CLOCKS_EARLY_NS, as if the tree had been stopped for longer.
 */
static struct clock_lead lead_of(const struct target *t, const Wire__Prepare *msg)
{
	uint64_t now = clock_ns();
	int64_t way_ns = (int64_t)MIN(now - MIN(t->ch.sent_at_ns, now), (uint64_t)CLOCKS_EARLY_NS);

	return (struct clock_lead){
		.monotonic_ns = msg->monotonic_ns - (int64_t)now + way_ns,
		.boottime_ns = msg->boottime_ns - (int64_t)clock_of(CLOCK_BOOTTIME) + way_ns,
	};
}

/* Everything that takes time and does not need the images: the tree at home still runs. */
static int make_ready(struct target *t, const Wire__Prepare *msg, struct err *err)
{
	struct restore_wish wish = {
		.pid = (pid_t)msg->pid,
		.n_threads = t->needs->n_pids,
		.lead = lead_of(t, msg),
	};
	struct err why;

	t->store = store_memory_open(err);
	if (!t->store || take_rounds(t, err) < 0)
		return -1;
	if ((t->mode & WIRE_MODE_POSTCOPY) && target_fill_open(t, err) < 0)
		return -1;
	t->ahead = restore_ahead(&t->restore_opt, &wish, &why);
	if (!t->ahead)
		log_info("no task is made ahead: %s", why.text);
	/* after the last fork: what was there before it is copied at the first write */
	warm_up(BUILD_HEAP_BYTES);
	warm_again();
	warm_descriptors(BUILD_DESCRIPTORS);
	if (t->lazy && target_fill_start(t, err) < 0)
		return -1;
	/* now, while the source waits for our word: nothing is on its way */
	if ((t->mode & WIRE_MODE_POSTCOPY) && channel_go_direct(&t->ch, err) < 0)
		return -1;
	return target_tell_done(t, err);
}

int target_prepare(struct target *t, struct err *err)
{
	Wire__Prepare *msg = channel_expect(&t->ch, MSG_PREPARE, err);
	int rc;

	if (!msg)
		return -1;
	rc = make_ready(t, msg, err);
	wire_free(msg);
	return rc;
}

void target_undo_prepare(struct target *t)
{
	restore_close(t->ahead);
	t->ahead = NULL;
	target_undo_state(t);
}

/* ---- frozen ---- */

static void tell_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	struct target *t = arg;
	uint64_t now = clock_ns();
	Wire__Progress msg = WIRE__PROGRESS__INIT;
	struct err ignored;

	if (now - t->told_ns < TELL_NS)
		return;
	t->told_ns = now;
	msg.done_bytes = done_bytes;
	msg.total_bytes = total_bytes;
	if (channel_send(&t->ch, MSG_PROGRESS, &msg.base, &ignored) < 0)
		log_debug("progress: %s", ignored.text); /* the next read says it, too */
}

static int build(struct target *t, struct err *err)
{
	if (wire_store_receive(&t->ch, t->store, err) < 0)
		return -1;
	t->restore_opt.ahead = t->ahead;
	t->restore = restore_open(t->store, &t->restore_opt, err);
	if (!t->restore || restore_check(t->restore, err) < 0)
		return -1;
	t->told_ns = clock_ns();
	return restore_build(t->restore, tell_progress, t, err);
}

int target_state(struct target *t, struct err *err)
{
	Wire__Built msg = WIRE__BUILT__INIT;

	if (build(t, err) < 0)
		return -1;
	atomic_store(&t->built, true);
	msg.pid = (uint32_t)restore_root_pid(t->restore);
	msg.has_new_pid_namespace = true;
	msg.new_pid_namespace = restore_new_pidns(t->restore);
	return channel_send(&t->ch, MSG_BUILT, &msg.base, err);
}

/* A tree that was not committed goes with its session. */
void target_undo_state(struct target *t)
{
	restore_close(t->restore);
	t->restore = NULL;
	target_undo_fill(t);
	kept_free(t->kept);
	t->kept = NULL;
	store_close(t->store);
	t->store = NULL;
}

/* ---- the commit; record.h has the theory ---- */

static int await_commit(struct target *t, struct err *err)
{
	Wire__Commit *msg = channel_expect(&t->ch, MSG_COMMIT, err);
	int rc = 0;

	if (!msg)
		return -1;
	if (strcmp(msg->token, t->token) != 0)
		rc = err_set(err, EPROTO, "the commit is of another migration");
	wire_free(msg);
	return rc;
}

int target_commit(struct target *t, struct err *err)
{
	Wire__Running msg = WIRE__RUNNING__INIT;
	pid_t pid = restore_root_pid(t->restore);
	struct err late;
	int record;

	if (await_commit(t, err) < 0 || target_commit_files(t, err) < 0)
		return -1;
	record = record_claim(t->token, pid, t->lazy ? &t->announced : NULL, err);
	if (record < 0)
		return -1;
	if (restore_commit(t->restore, err) < 0) {
		/* nothing of it may be left when the record says so */
		target_undo_state(t);
		if (record_settle(record, pid, RECORD_FAILED, &late) < 0)
			log_error("%s", late.text);
		return -1;
	}
	/* it runs. Whatever fails from here on changes nothing about that; and the processor is the tree's. */
	urgent_end(&t->urgent);
	if (record_settle(record, pid, t->lazy ? RECORD_FILLING : RECORD_RUNNING, &late) < 0)
		log_error("%s", late.text);
	if (t->files)
		files_keep(t->files);
	msg.pid = (uint32_t)pid;
	if (channel_send(&t->ch, MSG_RUNNING, &msg.base, &late) < 0)
		log_warn("the source could not be told: %s", late.text);
	if (t->lazy)
		target_fill_go(t);
	return 0;
}

int target_farewell(struct target *t, struct err *err)
{
	if (channel_expect_empty(&t->ch, MSG_BYE, err) < 0)
		return -1;
	/* the source will not ask any more */
	record_remove(t->token);
	return 0;
}

int migrate_target(int in, int out, struct err *err)
{
	struct target t = {.fill_wake = -1, .root = TREEROOT_NONE};
	struct err late;
	int rc;

	channel_init(&t.ch, in, out, WIRE_TARGET, "the source");
	t.ch.arg = &t;
	rc = stages_run_target(&t, err);
	if (t.filling && atomic_load(&t.fill_go) && target_postcopy(&t, &late) < 0)
		log_error("%s", late.text);
	if (t.fill_failed)
		return -1; /* what holds the tree's memory must not be closed: the guardian ends it */
	target_undo_prepare(&t); /* only ends the session of a tree that runs */
	target_undo_lanes(&t);
	target_undo_precopy(&t);
	file_target_free(t.files);
	treeroot_close(&t.root);
	vec_free(&t.announced);
	if (t.needs)
		wire_free(t.needs);
	channel_finish(&t.ch);
	tls_free(t.tls);
	return rc;
}

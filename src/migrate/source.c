// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "source"
#include "migrate/source.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/warm.h"
#include "kernel/proc.h"
#include "lazyfs/treeroot.h"
#include "migrate/left.h"
#include "migrate/needs.h"
#include "migrate/stages.h"
#include "migrate/wire_store.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

/* Silence of the destination after which the connection counts as broken. */
enum { SILENCE_MS = 60000, SILENCE_AT_COMMIT_MS = 15000 };

/* What describing and saving a tree of a few tasks takes. */
enum { FREEZE_HEAP_BYTES = 6 << 20 };

/* ---- what the channel calls while it waits ---- */

static int on_watch(void *arg, struct err *err)
{
	struct source *s = arg;

	return link_check(s->link, err);
}

static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	struct source *s = arg;

	progress_bytes(s->opt->progress, done_bytes, total_bytes);
}

int source_check_interrupt(struct source *s, struct err *err)
{
	return link_check(s->link, err);
}

int source_in_view(struct source *s, int (*work)(struct source *s, struct err *err), struct err *err)
{
	struct mntns_way way;
	int rc = view_enter(&s->view, &way, err);

	if (rc == 0)
		rc = work(s, err);
	return view_leave(&way, rc, err);
}

/* ---- before the freeze ---- */

int source_hello(struct source *s, struct err *err)
{
	return connect_hello(&s->ch, s->opt->settle.token, &s->same_kernel, err);
}

static void add_options(const struct source *s, Wire__Needs *msg)
{
	const struct migrate_options *opt = s->opt;
	const struct kind_options *k = &opt->kinds;

	msg->pids_mode = opt->pids;
	msg->has_mode = msg->has_plain_tcp = true;
	msg->mode = s->mode;
	msg->plain_tcp = opt->plain_tcp;
	msg->has_shell_job = msg->has_ext_unix_sk = msg->has_file_locks = true;
	msg->has_link_remap = msg->has_evasive_devices = msg->has_ghost_limit = true;
	msg->shell_job = k->shell_job;
	msg->ext_unix_sk = k->ext_unix_sk;
	msg->file_locks = k->file_locks;
	msg->link_remap = k->link_remap;
	msg->evasive_devices = k->evasive_devices;
	msg->ghost_limit = k->ghost_limit;
	msg->has_overwrite_files = true;
	msg->overwrite_files = opt->files.overwrite;
	msg->has_files_mode = msg->has_files_timeout_ms = msg->has_files_fill = true;
	msg->files_mode = opt->files.mode;
	msg->files_timeout_ms = opt->files.timeout_ms;
	msg->files_fill = opt->files.fill;
	msg->has_files_detach = msg->files_detach = opt->files.detach;
	msg->has_files_writeback = msg->files_writeback = opt->files.writeback;
	msg->has_files_pool_bytes = true;
	msg->files_pool_bytes = opt->files.pool_bytes;
	msg->files_whole = (char **)opt->files.whole;
	msg->n_files_whole = opt->files.n_whole;
	msg->has_patience_ms = true;
	msg->patience_ms = opt->patience_ms;
	msg->codecs = compress_codecs(opt->compress);
	msg->has_codecs = msg->codecs != 0;
	msg->external = (char **)k->external;
	while (k->external && k->external[msg->n_external])
		msg->n_external++;
}

/* What both know. What the user has asked for by name must be there. */
static int agree_on_codecs(struct source *s, const Wire__Verdict *v, struct err *err)
{
	unsigned int wanted = compress_codecs(s->opt->compress), both = wanted & v->codecs;
	bool measure = s->opt->compress == COMPRESS_AUTO;

	if (!wanted || (!both && measure))
		return 0;
	if (!both)
		return err_set(err, ENOTSUP, "--compress: the ferry at %s does not know it",
			       s->ch.peer);
	s->codecs = both;
	s->ch.packer = packer_create(&pack_messages, both, measure, err);
	return s->ch.packer ? 0 : -1;
}

/* The target's word on our needs: notes are told, refusals end it. */
static int hear_verdict(struct source *s, struct err *err)
{
	Wire__Verdict *v = channel_expect(&s->ch, MSG_VERDICT, err);
	const char *host = s->ch.peer;
	int rc = 0;

	if (!v)
		return -1;
	for (size_t i = 0; i < v->n_noted; i++)
		progress_note(s->opt->progress, v->noted[i]);
	for (size_t i = 0; i < v->n_refused && v->n_refused > 1; i++)
		progress_refused(s->opt->progress, v->refused[i]);
	if (v->n_refused == 1)
		rc = err_set(err, ENOTSUP, "%s: %s", host, v->refused[0]);
	else if (v->n_refused)
		rc = err_set(err, ENOTSUP, "%s: %s (and %zu more)", host, v->refused[0],
			     v->n_refused - 1);
	else
		rc = agree_on_codecs(s, v, err);
	s->padding = v->padding;
	if (rc == 0)
		rc = transport_choose(&s->transport, v, &s->ch, s->opt->progress, err);
	wire_free(v);
	return rc;
}

static int look_at_tree(struct source *s, struct err *err)
{
	s->capture = capture_open(s->opt->pid, &s->opt->kinds, err);
	return s->capture ? capture_check(s->capture, err) : -1;
}

int source_preflight(struct source *s, struct err *err)
{
	struct arena arena = {0};
	Wire__Needs needs = WIRE__NEEDS__INIT;
	int rc;

	if (view_open(s->opt->pid, &s->view, err) < 0 || source_in_view(s, look_at_tree, err) < 0 ||
	    source_choose(s, err) < 0)
		return -1;
	rc = needs_gather(s->opt->pid, &arena, &needs, err);
	if (rc == 0)
		rc = transport_offer(&s->transport, s->opt, &needs, err);
	if (rc == 0) {
		add_options(s, &needs);
		rc = channel_send(&s->ch, MSG_NEEDS, &needs.base, err);
	}
	arena_free(&arena);
	return rc < 0 ? -1 : hear_verdict(s, err);
}

/* The root's pid as the tree sees it. */
static int seen_pid(pid_t pid, uint32_t *out, struct err *err)
{
	struct proc_status st;

	if (proc_status(pid, &st, err) < 0)
		return -1;
	*out = (uint32_t)(st.nspid.n ? st.nspid.v[st.nspid.n - 1] : pid);
	proc_status_finish(&st);
	return 0;
}

int source_prepare(struct source *s, struct err *err)
{
	Wire__Prepare msg = WIRE__PREPARE__INIT;
	cleanup_free uint8_t *padding = s->padding ? calloc(1, PREPARE_PADDING_BYTES) : NULL;

	if (seen_pid(s->opt->pid, &msg.pid, err) < 0)
		return -1;
	/*
	 * The images take the same way soon: now all buffers on it are touched for the first time, and
	 * TCP may send as much at once. Without it that is some milliseconds of the freeze.
	 */
	msg.has_padding = padding != NULL;
	msg.padding.data = padding;
	msg.padding.len = padding ? PREPARE_PADDING_BYTES : 0;
	capture_clocks(s->opt->pid, &msg.monotonic_ns, &msg.boottime_ns);
	if (channel_send(&s->ch, MSG_PREPARE, &msg.base, err) < 0)
		return -1;
	warm_up(FREEZE_HEAP_BYTES);
	if ((s->mode & WIRE_MODE_POSTCOPY) && capture_look_ahead(s->capture, err) < 0)
		return -1;
	if (channel_expect_done(&s->ch, err) < 0)
		return -1;
	/* what is sent in the freeze is small then, and each message waited for */
	return s->mode & WIRE_MODE_POSTCOPY ? channel_go_direct(&s->ch, err) : 0;
}

/* ---- frozen ---- */

static int freeze(struct source *s, struct err *err)
{
	if (capture_freeze(s->capture, s->opt->timeout_s * 1000, err) < 0)
		return -1;
	return source_check_interrupt(s, err);
}

int source_freeze(struct source *s, struct err *err)
{
	s->freeze_start_ns = clock_ns();
	s->frozen = true; /* partly, even when it fails */
	return source_in_view(s, freeze, err);
}

int source_end_freeze(struct source *s, enum capture_end end, struct err *err)
{
	struct mntns_way way;
	struct err late;
	int rc;

	if (end != CAPTURE_LEAVE_STOPPED && s->home >= 0)
		home_remove(s->opt->settle.token);
	if (!s->frozen)
		return 0;
	s->frozen = false;
	rc = view_enter(&s->view, &way, &late);
	if (rc < 0)
		log_error("%s", late.text); /* the tree must be let go all the same */
	rc = capture_finish(s->capture, end, err);
	return view_leave(&way, rc, err);
}

void source_undo_freeze(struct source *s)
{
	struct err err;

	if (source_end_freeze(s, CAPTURE_THAW, &err) < 0)
		log_error("thaw: %s", err.text);
}

static int send_state(struct source *s, struct err *err)
{
	struct store *store = s->images;
	struct store_sink sink;
	struct memory_options memory = {.sink = &sink.sink,
					.precopy = s->precopy,
					.progress = on_progress,
					.arg = s};

	if (s->mode & WIRE_MODE_POSTCOPY) {
		s->serve = serve_create(err);
		if (!s->serve)
			return -1;
		memory.serve = s->serve;
		memory.blocks = true;
		memory.little_bytes = s->little_bytes;
		memory.shared = s->shared_late;
	}
	store_sink_init(&sink, capture_state(s->capture)->snap, store);
	channel_hold(&s->ch);
	if (capture_memory(s->capture, &memory, err) < 0 || capture_save(s->capture, store, err) < 0)
		return -1;
	channel_release(&s->ch);
	return store_complete(store, err);
}

/* Every task of the tree that lives; those that are stopped already stay so by themselves. */
static int list_kept(struct source *s, struct err *err)
{
	const struct capture *c = capture_state(s->capture);

	vec_foreach (tp, &c->tasks) {
		const struct task_facts *t = *tp;
		struct kept_task kept = {.pid = t->pid, .stop = true};

		if (t->zombie)
			continue;
		if (t->snap && t->snap->core && t->snap->core[0]->tc)
			kept.stop = t->snap->core[0]->tc->task_state != TASK_STOPPED;
		if (!vec_push(&s->kept, kept))
			return err_nomem(err);
	}
	return 0;
}

/* What the commit needs, as far as it changes nothing yet: it need not wait for that then. */
static int ready_to_commit(struct source *s, struct err *err)
{
	if (list_kept(s, err) < 0)
		return -1;
	s->home = home_write(s->opt->settle.token, s->ch.peer, &s->kept, s->serve, err);
	return s->home < 0 ? -1 : keeper_tell(s->link, &s->kept, err);
}

static int confirm(struct source *s, struct err *err)
{
	return capture_confirm(s->capture, err);
}

int source_state(struct source *s, struct err *err)
{
	struct capture_stats stats;
	Wire__Built *built;
	int rc;

	s->images = wire_store_open(&s->ch, err);
	if (!s->images)
		return -1;
	rc = source_in_view(s, send_state, err);
	store_close(s->images);
	s->images = NULL;
	/* the target may touch memory as soon as it builds */
	if (rc == 0 && s->serve)
		rc = source_serve(s, err);
	if (rc < 0 || source_hear_changes(s, err) < 0)
		return -1;
	/* while the target builds */
	if (source_in_view(s, confirm, err) < 0 || ready_to_commit(s, err) < 0)
		return -1;
	capture_stats(s->capture, &stats);
	s->memory_bytes = stats.bytes + (s->serve ? serve_pages(s->serve) * PAGE_BYTES : 0);
	if (s->pages && source_await_built(s, err) < 0)
		return -1;
	built = channel_expect(&s->ch, MSG_BUILT, err);
	if (!built)
		return -1;
	s->new_pid = (pid_t)built->pid;
	s->new_pid_namespace = built->new_pid_namespace;
	wire_free(built);
	return 0;
}

/* ---- the commit; see keeper.h for the theory ---- */

/* Sends COMMIT and waits for RUNNING. */
static int say_commit(struct source *s, struct err *err)
{
	Wire__Commit msg = WIRE__COMMIT__INIT;
	Wire__Running *running;

	msg.token = (char *)s->opt->settle.token;
	/* from here on the user's wish to stop comes too late */
	s->ch.watch_fd = -1;
	s->ch.timeout_ms = SILENCE_AT_COMMIT_MS;
	if (channel_send(&s->ch, MSG_COMMIT, &msg.base, err) < 0)
		return -1;
	running = channel_expect(&s->ch, MSG_RUNNING, err);
	if (!running)
		return -1;
	s->new_pid = (pid_t)running->pid;
	wire_free(running);
	return 0;
}

static int undo_links(struct source *s, struct err *err)
{
	return file_undo_links(capture_state(s->capture), err);
}

void source_end_tree(struct source *s)
{
	struct err err;

	if (source_end_freeze(s, CAPTURE_KILL, &err) < 0)
		log_error("ending the tree at home: %s", err.text);
	vec_foreach (t, &s->kept) {
		if (!s->capture)
			kill(t->pid, SIGKILL);
	}
	keeper_disarm(s->link, &s->kept, false);
	source_files_moved(s);
	if (!s->capture)
		return;
	/* no images will be restored from here */
	capture_state(s->capture)->saved = false;
	if (source_in_view(s, undo_links, &err) < 0)
		log_warn("%s", err.text);
}

/* The gap is over. The tree here ends, unless its memory is still needed. */
static void runs_there(struct source *s)
{
	s->frozen_ns = clock_ns() - s->freeze_start_ns;
	if (!s->pages)
		source_end_tree(s);
}

int source_commit(struct source *s, struct err *err)
{
	struct err why;

	if (keeper_arm(s->link, &s->kept, err) < 0)
		return -1;
	if (s->files_mode == WIRE_FILES_LAZY &&
	    files_home_release(&s->files_home, s->opt->pid, err) < 0)
		return -1;
	if (say_commit(s, &why) == 0) {
		runs_there(s);
		return 0;
	}
	/* unless the target itself said that it gave up, only it knows */
	if (s->ch.broken) {
		log_warn("at the commit: %s", why.text);
		s->fate = keeper_settle(s->link, &s->opt->settle);
		if (s->fate == SETTLED_RUNNING || s->fate == SETTLED_FILLING) {
			runs_there(s);
			return 0;
		}
	}
	*err = why;
	return -1;
}

void source_undo_commit(struct source *s)
{
	struct err err;

	if (s->fate != SETTLED_LEFT) {
		keeper_disarm(s->link, &s->kept, true);
		return;
	}
	if (source_end_freeze(s, CAPTURE_LEAVE_STOPPED, &err) < 0)
		log_error("leaving the tree stopped: %s", err.text);
	keeper_disarm(s->link, &s->kept, false);
	dprintf(STDERR_FILENO,
		"ferry migrate: the tree is left stopped: ferry migrate --recover %d %s settles it when "
		"%s can be reached\n",
		s->opt->pid, s->ch.peer, s->ch.peer);
}

int source_farewell(struct source *s, struct err *err)
{
	/* these may be written to again only by a tree that has them itself */
	if (s->files_mode != WIRE_FILES_SHARED && s->view.ns < 0)
		left_note(&s->paths);
	return channel_send(&s->ch, MSG_BYE, NULL, err);
}

/* ---- all of it ---- */

static void tell_moved(struct source *s)
{
	struct progress_summary sum = {.pid = s->opt->pid,
				       .new_pid = s->new_pid,
				       .host = s->ch.peer,
				       .new_pid_namespace = s->new_pid_namespace,
				       .frozen_ns = s->frozen_ns,
				       .sent_bytes = s->ch.sent_bytes + s->lane_bytes,
				       .zero_bytes = s->zero_bytes,
				       .rounds = s->rounds,
				       .round_bytes = s->round_bytes,
				       .lazy = s->lazy,
				       .memory_bytes = s->memory_bytes};
	char list[sizeof(TREEROOT_KEPT_DIR) + WIRE_TOKEN_CHARS + 8];
	struct file_totals files;

	if (s->files_mode == WIRE_FILES_LAZY) {
		snprintf(list, sizeof(list), "%s/%s.txt", TREEROOT_KEPT_DIR, s->opt->settle.token);
		sum.kept_list = list;
		sum.detaches = s->opt->files.detach;
		sum.writes_home = s->opt->files.writeback;
	}
	packer_log(s->ch.packer, "packed");
	file_source_totals(s->files, &files);
	sum.files = files.files;
	sum.file_bytes = files.bytes;
	progress_moved(s->opt->progress, &sum);
}

int migrate_source(const struct migrate_options *opt, int in, int out, int link, struct err *err)
{
	struct source s = {.opt = opt,
			   .link = link,
			   .mode = opt->mode,
			   .files_mode = opt->files.mode,
			   .lanes = {LANE_NONE, LANE_NONE},
			   .home = -1,
			   .view = VIEW_OURS,
			   .files_home = {.control = -1}};
	int rc;

	channel_init(&s.ch, in, out, WIRE_SOURCE, opt->settle.remote->host);
	s.ch.timeout_ms = SILENCE_MS;
	s.ch.watch_fd = link;
	s.ch.on_watch = on_watch;
	s.ch.on_progress = on_progress;
	s.ch.arg = &s;
	rc = stages_run_source(&s, err);
	if (rc == 0)
		tell_moved(&s);
	else
		progress_failed(opt->progress, err->text);
	source_undo_lanes(&s);
	source_undo_precopy(&s);
	serve_free(s.serve);
	if (s.home >= 0)
		close(s.home);
	capture_close(s.capture);
	view_close(&s.view);
	file_source_free(s.files);
	files_home_close(&s.files_home);
	arena_free(&s.paths_arena);
	vec_free(&s.kept);
	channel_finish(&s.ch);
	tls_free(s.transport.tls);
	return rc;
}

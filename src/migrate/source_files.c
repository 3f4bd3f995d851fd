// SPDX-License-Identifier: Apache-2.0
/*
 * The source's part of the files of the tree: they are compared and copied
 * (files.h), or stay here and are handed out (files_home.h), or are the same there.
 */
#define LOG_MODULE "source"
#include "base/log.h"
#include "lazyfs/carried.h"
#include "lazyfs/want.h"
#include "migrate/needs.h"
#include "migrate/source.h"

#include <errno.h>

typedef VEC(const char *) paths;

/* What each host has of its own is never lazy: these go one way, all other paths the other. In s->paths_arena. */
static int split_paths(struct source *s, Wire__FileList *own, Wire__FileList *lazy, struct err *err)
{
	const Wire__FileList *all = &s->paths;

	wire__file_list__init(own);
	wire__file_list__init(lazy);
	own->files = arena_array(&s->paths_arena, Wire__FileNote *, all->n_files + 1);
	lazy->files = arena_array(&s->paths_arena, Wire__FileNote *, all->n_files + 1);
	if (!own->files || !lazy->files)
		return err_nomem(err);
	for (size_t i = 0; i < all->n_files; i++) {
		Wire__FileList *to = want_local(all->files[i]->path) ? own : lazy;

		to->files[to->n_files++] = all->files[i];
	}
	return 0;
}

/* Links that the capture made for deleted files (--link-remap): a restore opens them. */
static int add_links(struct source *s, paths *out, struct err *err)
{
	const struct snapshot *snap = capture_state(s->capture)->snap;

	vec_foreach (remap, &snap->remaps) {
		const FileEntry *link = NULL;

		/* remaps are few, and not yet indexed */
		vec_foreach (file, &snap->files) {
			if ((*remap)->remap_type == REMAP_TYPE__LINKED &&
			    (*file)->id == (*remap)->remap_id)
				link = *file;
		}
		if (link && link->reg && !vec_push(out, link->reg->name))
			return err_nomem(err);
	}
	return 0;
}

static int add_changed(void *arg, const char *path, const struct lf_ident *base)
{
	paths *out = arg;

	return base || vec_push(out, path) ? 0 : -1;
}

static void on_refused(void *arg, const char *text)
{
	struct source *s = arg;

	progress_refused(s->opt->progress, text);
}

static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
	struct source *s = arg;

	progress_bytes(s->opt->progress, done_bytes, total_bytes);
}

/* In the view: what the tree has changed since it left the host of its files. In s->paths_arena. */
static int find_carried(struct source *s, struct err *err)
{
	cleanup_free uint8_t *data = NULL;
	size_t bytes;

	if (s->view.ns < 0)
		return 0;
	view_flush(s->opt->pid);
	if (carried_read("/", &data, &bytes, err) < 0)
		return -1;
	s->carried.len = bytes;
	s->carried.data = arena_dup(&s->paths_arena, data, bytes);
	return s->carried.data || !bytes ? 0 : err_nomem(err);
}

static int find_paths(struct source *s, struct err *err)
{
	paths extra = {0};
	int rc;

	arena_free(&s->paths_arena);
	wire__file_list__init(&s->paths);
	rc = find_carried(s, err);
	if (rc == 0 && s->frozen)
		rc = add_links(s, &extra, err);
	/* where its root directory does not go along, the tree's own files must */
	if (rc == 0 && s->files_mode == WIRE_FILES_COMPARE)
		rc = carried_parse(s->carried.data, s->carried.len, add_changed, &extra, err);
	if (rc == 0 && !vec_push(&extra, NULL))
		rc = err_nomem(err);
	if (rc == 0)
		rc = needs_paths(s->opt->pid, extra.v, &s->paths_arena, &s->paths, err);
	vec_free(&extra);
	return rc;
}

static int look_at_paths(struct source *s, struct err *err)
{
	return source_in_view(s, find_paths, err);
}

static int send_files(struct source *s, const Wire__FileList *list, struct err *err)
{
	struct mntns_way way;
	int rc = view_enter(&s->view, &way, err);

	if (rc == 0)
		rc = files_send(s->files, &s->ch, list, on_refused, on_progress, s, err);
	return view_leave(&way, rc, err);
}

/* A whole round, to its end. */
static int round_of_files(struct source *s, const Wire__FileList *list, struct err *err)
{
	if (files_ask(&s->ch, list, err) < 0 || send_files(s, list, err) < 0)
		return -1;
	return channel_expect_done(&s->ch, err);
}

/* ---- lazy ---- */

/* Files that no lazy file system has. */
static int find_unservable(const Wire__FileList *list, struct err *err)
{
	for (size_t i = 0; i < list->n_files; i++)
		if (list->files[i]->must_exist)
			return err_set(err, ENOTSUP,
				       "%s: a device or file of the kernel's does not stay here (copy, or have "
				       "it there: migrate --files=copy)",
				       list->files[i]->path);
	return 0;
}

/* The tree gets a root directory there: the destination opens the door, and we connect. */
static int begin_lazy(struct source *s, struct err *err)
{
	Wire__Doors *door;
	bool detaches, writes;

	if (channel_send(&s->ch, MSG_LAZY_ROOT, NULL, err) < 0)
		return -1;
	door = source_hear_doors(s, err);
	if (!door)
		return -1;
	detaches = door->detaches || !s->opt->files.detach;
	writes = door->writes || !s->opt->files.writeback;
	wire_free(door);
	if (!detaches)
		return err_set(err, EOPNOTSUPP,
			       "%s has an older ferry, which would not let the files here go by itself; "
			       "update it, or leave out --detach-files",
			       s->opt->settle.remote->host);
	if (!writes)
		return err_set(err, EOPNOTSUPP,
			       "%s has an older ferry, which would not send home what the tree changes; "
			       "update it, or leave out --writeback",
			       s->opt->settle.remote->host);
	return files_home_start(s->opt->settle.remote, s->opt->settle.token, &s->view,
				s->opt->files.writeback, &s->files_home, err);
}

/* Where it cannot be, files are copied, unless the user said how; what was said until now is not sent again. */
static int copy_instead(struct source *s, struct err *err)
{
	char note[1200];

	if (s->opt->files.wanted || s->ch.broken)
		return -1;
	s->files_mode = WIRE_FILES_COMPARE;
	snprintf(note, sizeof(note), "the files that are missing there are copied: %s", err->text);
	progress_note(s->opt->progress, note);
	return look_at_paths(s, err);
}

struct question {
	Wire__FileList list;
	const char *missing;
};

static int ask_all_there(struct source *s, struct question *q, struct err *err)
{
	struct mntns_way way;
	int rc = view_enter(&s->view, &way, err);

	if (rc == 0)
		rc = files_are_there(&s->ch, &q->list, &q->missing, err);
	return view_leave(&way, rc, err);
}

/*
 * Where all that the tree has is there too, and it has changed nothing on its way, it needs no root directory
 * of its own, and nothing from here.
 */
static int choose_way(struct source *s, struct err *err)
{
	struct question q;
	Wire__FileList own;

	if (split_paths(s, &own, &q.list, err) < 0 || ask_all_there(s, &q, err) < 0)
		return -1;
	if (!q.missing && !s->carried.len && !s->opt->files.writeback) {
		log_info("all files are there");
		s->files_mode = WIRE_FILES_COMPARE;
		return 0;
	}
	log_info("lazy files, as %s is not there, or another one",
		 q.missing      ? q.missing :
		 s->carried.len ? "a change" :
				  "what it will change");
	if (find_unservable(&q.list, err) < 0 || begin_lazy(s, err) < 0)
		return copy_instead(s, err);
	/* the destination has the root directory of the tree */
	return channel_expect_done(&s->ch, err);
}

/* They are handed out from here, and may be asked for there; once before the freeze, and as they are then. */
static int tell_lazy(struct source *s, const Wire__FileList *list, struct err *err)
{
	return files_home_open(&s->files_home, s->opt->pid, list, err) < 0 ?
		       -1 :
		       channel_send(&s->ch, MSG_LAZY_LIST, &list->base, err);
}

/* A change that comes from the next host would end on the root directory that the tree has here, and with it. */
static int refuse_chain(const struct source *s, struct err *err)
{
	if (s->view.ns < 0)
		return 0;
	return err_set(err, EOPNOTSUPP,
		       "pid %d has the files of another host here, and what it changes would come no "
		       "further than to this one; move it home first, or leave out --writeback",
		       s->opt->pid);
}

int source_files(struct source *s, struct err *err)
{
	Wire__FileList own, lazy;

	s->files = file_source_create(&s->opt->files, err);
	if (!s->files)
		return -1;
	if (s->files_mode == WIRE_FILES_SHARED)
		return 0;
	if (s->opt->files.writeback && refuse_chain(s, err) < 0)
		return -1;
	if (look_at_paths(s, err) < 0 || (s->files_mode == WIRE_FILES_LAZY && choose_way(s, err) < 0))
		return -1;
	if (s->files_mode == WIRE_FILES_COMPARE)
		return round_of_files(s, &s->paths, err);
	if (split_paths(s, &own, &lazy, err) < 0 || tell_lazy(s, &lazy, err) < 0)
		return -1;
	return round_of_files(s, &own, err);
}

/* The second round begins. @own: what is compared. */
static int ask_again(struct source *s, Wire__FileList *own, struct err *err)
{
	Wire__FileList lazy;

	if (look_at_paths(s, err) < 0)
		return -1;
	*own = s->paths;
	if (s->files_mode == WIRE_FILES_LAZY) {
		if (split_paths(s, own, &lazy, err) < 0)
			return -1;
		lazy.has_carried = s->carried.len > 0;
		lazy.carried = s->carried;
		if (tell_lazy(s, &lazy, err) < 0)
			return -1;
	}
	return files_ask(&s->ch, own, err);
}

static int collect(struct source *s, struct err *err)
{
	return capture_collect(s->capture, err);
}

/*
 * The destination compares while the tree is looked at here, and puts copies in place while the state is on its way:
 * nothing waits for a word from there. Only links that the capture makes are not known before it.
 */
int source_changes(struct source *s, struct err *err)
{
	bool links_first = s->opt->kinds.link_remap;
	Wire__FileList own;

	if (s->files_mode == WIRE_FILES_SHARED)
		return source_in_view(s, collect, err);
	if (links_first && source_in_view(s, collect, err) < 0)
		return -1;
	if (ask_again(s, &own, err) < 0 || (!links_first && source_in_view(s, collect, err) < 0) ||
	    send_files(s, &own, err) < 0)
		return -1;
	s->changes_on_way = true;
	return 0;
}

int source_hear_changes(struct source *s, struct err *err)
{
	if (!s->changes_on_way)
		return 0;
	s->changes_on_way = false;
	return channel_expect_done(&s->ch, err);
}

void source_undo_files(struct source *s)
{
	/* if nobody knows whether the tree runs there, it may need its files */
	if (s->fate == SETTLED_LEFT)
		files_home_close(&s->files_home);
	else
		files_home_end(&s->files_home);
}

static int let_go(struct source *s, struct err *err)
{
	return view_let_go(&s->view, err);
}

void source_files_moved(struct source *s)
{
	struct err err;

	if (s->files_mode == WIRE_FILES_LAZY)
		files_home_moved(&s->files_home);
	else if (s->files_mode == WIRE_FILES_COMPARE && source_in_view(s, let_go, &err) < 0)
		log_warn("%s", err.text);
}

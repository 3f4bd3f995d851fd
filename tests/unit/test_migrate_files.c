// SPDX-License-Identifier: Apache-2.0
/*
 * Files between two sides: the source in one thread, the target in another,
 * each with a root directory of its own (chroot), a pipe each way between
 * them. Needs root.
 */
#include "migrate/files.h"

#include "base/arena.h"
#include "base/io.h"
#include "base/xattr.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cmocka.h>

enum { MIB = 1 << 20, MAX_PATHS = 8 };

/* One test's world. Paths of the list are below "/w"; here and there are the two roots. */
struct world {
	char here[PATH_MAX], there[PATH_MAX];
	struct file_source *fs;
	struct file_target *ft;
	const char *paths[MAX_PATHS];
	size_t n_paths;
	unsigned int refused;
	char last_refused[600];
	/* of the last round */
	struct channel source, target;
	int source_rc, target_rc;
	struct err source_err, target_err;
	bool place;
	/* the next one is only a question */
	bool question;
	const char *missing;
};

static void make_sides(struct world *w, bool copy, bool overwrite)
{
	struct file_policy policy = {.copy = copy, .overwrite = overwrite};
	struct err err;

	w->fs = file_source_create(&policy, &err);
	w->ft = file_target_create(false, &err);
	assert_true(w->fs && w->ft);
}

static void world_init(struct world *w, bool copy, bool overwrite)
{
	char top[] = "/tmp/ferry-files-XXXXXX", path[PATH_MAX + 8];

	*w = (struct world){0};
	assert_non_null(mkdtemp(top));
	snprintf(w->here, sizeof(w->here), "%s/here", top);
	snprintf(w->there, sizeof(w->there), "%s/there", top);
	assert_int_equal(mkdir(w->here, 0755), 0);
	assert_int_equal(mkdir(w->there, 0755), 0);
	snprintf(path, sizeof(path), "%s/w", w->here);
	assert_int_equal(mkdir(path, 0750), 0);
	make_sides(w, copy, overwrite);
}

static void world_finish(struct world *w)
{
	char command[PATH_MAX + 32];

	file_source_free(w->fs);
	file_target_free(w->ft);
	snprintf(command, sizeof(command), "rm -rf '%.*s'", (int)(strrchr(w->here, '/') - w->here),
		 w->here);
	assert_int_equal(system(command), 0);
}

static const char *at(const char *root, const char *path)
{
	static char buf[4][2 * PATH_MAX];
	static unsigned int i;

	snprintf(buf[++i % 4], sizeof(buf[0]), "%s%s", root, path);
	return buf[i % 4];
}

static void write_at(const char *root, const char *path, off_t off, const void *data, size_t bytes)
{
	int fd = open(at(root, path), O_WRONLY | O_CREAT | O_CLOEXEC, 0640);

	assert_true(fd >= 0);
	assert_int_equal(io_pwrite_full(fd, data, bytes, off), 0);
	close(fd);
}

/* Another modification time than what was written in the same moment. */
static void make_old(const char *root, const char *path)
{
	static const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};

	assert_int_equal(utimensat(AT_FDCWD, at(root, path), times, 0), 0);
}

static void need(struct world *w, const char *path)
{
	w->paths[w->n_paths++] = path;
}

/* ---- a round, in two threads ---- */

static void note_refused(void *arg, const char *text)
{
	struct world *w = arg;

	w->refused++;
	snprintf(w->last_refused, sizeof(w->last_refused), "%s", text);
}

static void enter(const char *root)
{
	if (unshare(CLONE_FS) < 0 || chroot(root) < 0 || chdir("/") < 0)
		fail_msg("chroot %s: %s", root, strerror(errno));
}

static void note_attrs(const char *path, struct arena *arena, Wire__FileNote *n)
{
	xattr_list list = {0};
	struct err err;

	if (xattr_read(path, &list, &err))
		list.n = 0; /* the hostile one is not there */
	n->attrs = arena_array(arena, Wire__FileAttr *, list.n + 1);
	for (size_t i = 0; i < list.n; i++) {
		Wire__FileAttr *a = arena_new(arena, Wire__FileAttr);

		wire__file_attr__init(a);
		a->name = arena_strdup(arena, list.v[i].name);
		a->value.data = arena_dup(arena, list.v[i].value, list.v[i].bytes);
		a->value.len = list.v[i].bytes;
		n->attrs[n->n_attrs++] = a;
	}
	xattr_free(&list);
}

static void *run_source(void *arg)
{
	struct world *w = arg;
	Wire__FileNote notes[MAX_PATHS], *pointers[MAX_PATHS];
	Wire__FileList list = WIRE__FILE_LIST__INIT;
	struct arena arena = {0};
	struct stat st;

	enter(w->here);
	for (size_t i = 0; i < w->n_paths; i++) {
		wire__file_note__init(&notes[i]);
		memset(&st, 0, sizeof(st));
		if (lstat(w->paths[i], &st) < 0)
			st.st_mode = S_IFREG | 0600; /* only the hostile one is not there */
		notes[i].path = (char *)w->paths[i];
		notes[i].mode = st.st_mode;
		notes[i].uid = st.st_uid;
		notes[i].gid = st.st_gid;
		notes[i].size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
		notes[i].mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
		notes[i].dev = st.st_dev;
		notes[i].ino = st.st_ino;
		if (S_ISLNK(st.st_mode))
			notes[i].link_target = (char *)"/elsewhere";
		else if (!S_ISSOCK(st.st_mode))
			note_attrs(w->paths[i], &arena, &notes[i]);
		notes[i].has_written = notes[i].written = true;
		pointers[i] = &notes[i];
	}
	list.files = pointers;
	list.n_files = w->n_paths;
	if (w->question)
		w->source_rc = files_are_there(&w->source, &list, &w->missing, &w->source_err);
	else
		w->source_rc = files_ask(&w->source, &list, &w->source_err);
	if (w->source_rc == 0 && !w->question)
		w->source_rc = files_send(w->fs, &w->source, &list, note_refused, NULL, w,
					  &w->source_err);
	if (w->source_rc == 0)
		w->source_rc = channel_expect_done(&w->source, &w->source_err);
	if (w->source_rc < 0 && !w->source.broken)
		channel_abort(&w->source, &w->source_err);
	arena_free(&arena);
	return NULL;
}

static void *run_target(void *arg)
{
	struct world *w = arg;
	Wire__Stage done = WIRE__STAGE__INIT;

	enter(w->there);
	w->target_rc = w->question ? files_compare(w->ft, &w->target, &w->target_err) :
				     files_receive(w->ft, &w->target, &w->target_err);
	if (w->target_rc == 0 && w->place)
		w->target_rc = files_place(w->ft, &w->target_err);
	if (w->target_rc == 0)
		w->target_rc = channel_send(&w->target, MSG_DONE, &done.base, &w->target_err);
	else if (!w->target.broken)
		channel_abort(&w->target, &w->target_err);
	return NULL;
}

static void *run_undo(void *arg)
{
	struct world *w = arg;

	enter(w->there);
	files_undo(w->ft);
	return NULL;
}

static void *run_keep(void *arg)
{
	struct world *w = arg;

	enter(w->there);
	files_keep(w->ft);
	return NULL;
}

static void in_thread(struct world *w, void *(*fn)(void *))
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, fn, w), 0);
	pthread_join(thread, NULL);
}

/* Returns the source's result. */
static int run_round(struct world *w, bool place)
{
	int there[2], back[2];
	pthread_t source, target;

	assert_int_equal(pipe2(there, O_CLOEXEC), 0);
	assert_int_equal(pipe2(back, O_CLOEXEC), 0);
	channel_init(&w->source, back[0], there[1], WIRE_SOURCE, "there");
	channel_init(&w->target, there[0], back[1], WIRE_TARGET, "the source");
	w->source.timeout_ms = w->target.timeout_ms = 20000;
	w->source.stage = w->target.stage = WIRE_STAGE_FILES;
	w->place = place;
	assert_int_equal(pthread_create(&target, NULL, run_target, w), 0);
	assert_int_equal(pthread_create(&source, NULL, run_source, w), 0);
	pthread_join(source, NULL);
	pthread_join(target, NULL);
	channel_finish(&w->source);
	channel_finish(&w->target);
	return w->source_rc;
}

static uint64_t sent_bytes(const struct world *w)
{
	struct file_totals totals;

	file_source_totals(w->fs, &totals);
	return totals.bytes;
}

static void assert_same(const struct world *w, const char *path)
{
	char *a = NULL, *b = NULL;
	size_t a_bytes, b_bytes;
	struct stat here, there;

	assert_int_equal(io_read_file(AT_FDCWD, at(w->here, path), &a, &a_bytes), 0);
	assert_int_equal(io_read_file(AT_FDCWD, at(w->there, path), &b, &b_bytes), 0);
	assert_int_equal(a_bytes, b_bytes);
	assert_memory_equal(a, b, a_bytes);
	assert_int_equal(stat(at(w->here, path), &here), 0);
	assert_int_equal(stat(at(w->there, path), &there), 0);
	assert_int_equal(here.st_mode, there.st_mode);
	assert_int_equal(here.st_uid, there.st_uid);
	assert_int_equal(here.st_mtim.tv_sec, there.st_mtim.tv_sec);
	assert_int_equal(here.st_mtim.tv_nsec, there.st_mtim.tv_nsec);
	free(a);
	free(b);
}

/* An attribute is the same, or (@want NULL) not there. */
static void assert_attr(const struct world *w, const char *path, const char *name, const void *want,
			ssize_t bytes)
{
	char value[64];

	assert_int_equal(getxattr(at(w->there, path), name, value, sizeof(value)), bytes);
	if (bytes >= 0)
		assert_memory_equal(value, want, (size_t)bytes);
}

static bool exists(const char *root, const char *path)
{
	return access(at(root, path), F_OK) == 0;
}

/* The number of entries of a directory; leftovers show here. */
static unsigned int entries(const char *root, const char *path)
{
	cleanup_dir DIR *dir = opendir(at(root, path));
	unsigned int n = 0;
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
	return n;
}

static char *pattern(size_t bytes)
{
	char *data = malloc(bytes);

	assert_non_null(data);
	for (size_t i = 0; i < bytes; i++)
		data[i] = (char)(i * 31 + i / 4096);
	return data;
}

/* ---- the tests ---- */

static void missing_is_copied(void **state)
{
	struct world w;

	world_init(&w, true, false);
	write_at(w.here, "/w/small", 0, "settings", 8);
	assert_int_equal(chown(at(w.here, "/w/small"), 1234, 4321), 0);
	assert_int_equal(chmod(at(w.here, "/w/small"), 04751), 0);
	assert_int_equal(mkfifo(at(w.here, "/w/fifo"), 0640), 0);
	need(&w, "/w");
	need(&w, "/w/small");
	need(&w, "/w/fifo");
	assert_int_equal(run_round(&w, false), 0);
	/* a copy has no name before it is complete */
	assert_false(exists(w.there, "/w/small"));
	assert_int_equal(run_round(&w, true), 0);
	assert_same(&w, "/w/small");
	assert_true(exists(w.there, "/w/fifo"));
	in_thread(&w, run_keep);
	in_thread(&w, run_undo); /* there is no way back any more */
	assert_same(&w, "/w/small");
	assert_int_equal(entries(w.there, "/w"), 2);
	world_finish(&w);
}

/* Capabilities, access control lists and attributes of users; a copy has those of its original only. */
static void attributes_are_copied(void **state)
{
	/* linux/capability.h: version 2 with the effective bit; CAP_NET_BIND_SERVICE */
	static const uint32_t caps[] = {0x02000001, 1 << 10, 0, 0, 0};
	/* linux/posix_acl_xattr.h: rw for the owner, r for user 1234 and the group, mask r, none for others */
	static const uint32_t acl[] = {2,          0x00060001, UINT32_MAX, 0x00040002,
				       1234,       0x00040004, UINT32_MAX, 0x00040010,
				       UINT32_MAX, 0x00000020, UINT32_MAX};
	struct world w;
	char *path;

	world_init(&w, true, false);
	write_at(w.here, "/w/tool", 0, "program", 7);
	path = strdup(at(w.here, "/w/tool"));
	assert_int_equal(setxattr(path, "security.capability", caps, sizeof(caps), 0), 0);
	assert_int_equal(setxattr(path, "user.note", "old", 3, 0), 0);
	assert_int_equal(setxattr(path, "user.gone", "x", 1, 0), 0);
	/* an inherited list that a plain file must not keep */
	write_at(w.here, "/w/plain", 0, "text", 4);
	assert_int_equal(setxattr(at(w.here, "/w"), "system.posix_acl_default", acl, sizeof(acl), 0),
			 0);
	need(&w, "/w");
	need(&w, "/w/tool");
	need(&w, "/w/plain");
	assert_int_equal(run_round(&w, false), 0);
	/* they change before the second round, which sends no contents */
	assert_int_equal(setxattr(path, "user.note", "new!", 4, 0), 0);
	assert_int_equal(removexattr(path, "user.gone"), 0);
	assert_int_equal(setxattr(path, "system.posix_acl_access", acl, sizeof(acl), 0), 0);
	assert_int_equal(run_round(&w, true), 0);
	assert_same(&w, "/w/tool");
	assert_same(&w, "/w/plain");
	assert_attr(&w, "/w/tool", "security.capability", caps, sizeof(caps));
	assert_attr(&w, "/w/tool", "system.posix_acl_access", acl, sizeof(acl));
	assert_attr(&w, "/w/tool", "user.note", "new!", 4);
	assert_attr(&w, "/w/tool", "user.gone", NULL, -1);
	assert_attr(&w, "/w", "system.posix_acl_default", acl, sizeof(acl));
	assert_attr(&w, "/w/plain", "system.posix_acl_access", NULL, -1);
	free(path);
	world_finish(&w);
}

static void links_are_made_as_links(void **state)
{
	char target[64] = "";
	struct world w;

	world_init(&w, true, false);
	assert_int_equal(symlink("/elsewhere", at(w.here, "/w/link")), 0);
	need(&w, "/w");
	need(&w, "/w/link");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(run_round(&w, true), 0);
	assert_int_equal(readlink(at(w.there, "/w/link"), target, sizeof(target) - 1), 10);
	assert_string_equal(target, "/elsewhere");
	in_thread(&w, run_undo);
	assert_false(exists(w.there, "/w"));
	world_finish(&w);
	/* one that leads elsewhere is not touched */
	world_init(&w, true, true);
	assert_int_equal(symlink("/elsewhere", at(w.here, "/w/link")), 0);
	assert_int_equal(mkdir(at(w.there, "/w"), 0755), 0);
	assert_int_equal(symlink("/other", at(w.there, "/w/link")), 0);
	need(&w, "/w/link");
	assert_int_equal(run_round(&w, false), -1);
	assert_non_null(strstr(w.source_err.text, "another link"));
	world_finish(&w);
}

static void only_changes_are_sent_again(void **state)
{
	char *data = pattern(5 * MIB + 1000);
	uint64_t first;
	struct world w;

	world_init(&w, true, false);
	write_at(w.here, "/w/log", 0, data, 5 * MIB + 1000);
	need(&w, "/w");
	need(&w, "/w/log");
	assert_int_equal(run_round(&w, false), 0);
	first = sent_bytes(&w);
	assert_int_equal(first, 5 * MIB + 1000);
	/* one block is changed, the end grows */
	write_at(w.here, "/w/log", 2 * MIB + 7, "changed", 7);
	write_at(w.here, "/w/log", 5 * MIB + 1000, "more", 4);
	assert_int_equal(run_round(&w, true), 0);
	assert_int_equal(sent_bytes(&w) - first, MIB + 1004);
	assert_same(&w, "/w/log");
	free(data);
	world_finish(&w);
}

static void cut_files_stay_cut(void **state)
{
	char *data = pattern(3 * MIB);
	struct world w;

	world_init(&w, true, false);
	write_at(w.here, "/w/log", 0, data, 3 * MIB);
	need(&w, "/w");
	need(&w, "/w/log");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(truncate(at(w.here, "/w/log"), 100), 0);
	write_at(w.here, "/w/log", 2 * MIB, "x", 1);
	assert_int_equal(run_round(&w, true), 0);
	assert_same(&w, "/w/log");
	free(data);
	world_finish(&w);
}

static void holes_are_not_sent(void **state)
{
	struct world w;
	struct stat st;

	world_init(&w, true, false);
	write_at(w.here, "/w/sparse", 100 * (off_t)MIB, "end", 3);
	need(&w, "/w");
	need(&w, "/w/sparse");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(run_round(&w, true), 0);
	assert_true(sent_bytes(&w) <= MIB);
	assert_int_equal(stat(at(w.there, "/w/sparse"), &st), 0);
	assert_int_equal(st.st_size, 100 * (off_t)MIB + 3);
	assert_true(st.st_blocks * 512 < MIB);
	world_finish(&w);
}

static void same_content_is_left(void **state)
{
	struct world w;
	struct stat before, after;

	world_init(&w, true, false);
	assert_int_equal(mkdir(at(w.there, "/w"), 0700), 0);
	write_at(w.here, "/w/lib", 0, "same bytes", 10);
	write_at(w.there, "/w/lib", 0, "same bytes", 10);
	make_old(w.there, "/w/lib");
	assert_int_equal(stat(at(w.there, "/w/lib"), &before), 0);
	need(&w, "/w");
	need(&w, "/w/lib");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(run_round(&w, true), 0);
	assert_int_equal(sent_bytes(&w), 0);
	assert_int_equal(stat(at(w.there, "/w/lib"), &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	world_finish(&w);
}

static void different_is_refused(void **state)
{
	struct world w;
	char *text = NULL;

	world_init(&w, true, false);
	assert_int_equal(mkdir(at(w.there, "/w"), 0700), 0);
	write_at(w.here, "/w/a", 0, "ours", 4);
	write_at(w.there, "/w/a", 0, "them", 4);
	make_old(w.there, "/w/a");
	write_at(w.here, "/w/b", 0, "ours", 4);
	write_at(w.there, "/w/b", 0, "longer", 6);
	write_at(w.here, "/w/c", 0, "missing there", 13);
	need(&w, "/w/a");
	need(&w, "/w/b");
	need(&w, "/w/c");
	assert_int_equal(run_round(&w, false), -1);
	assert_int_equal(w.refused, 2);
	assert_non_null(
		strstr(w.source_err.text, "/w/a: exists at the destination with other content"));
	assert_non_null(strstr(w.source_err.text, "(and 1 more)"));
	in_thread(&w, run_undo);
	assert_int_equal(io_read_file(AT_FDCWD, at(w.there, "/w/a"), &text, NULL), 0);
	assert_string_equal(text, "them");
	free(text);
	assert_int_equal(entries(w.there, "/w"), 2);
	world_finish(&w);
}

static void ask(struct world *w)
{
	w->question = true;
	assert_int_equal(run_round(w, false), 0);
	w->question = false;
}

/* Nothing is made or sent for it, and what differs is not overwritten by the way of it. */
static void a_question_changes_nothing(void **state)
{
	struct world w;

	world_init(&w, true, false);
	assert_int_equal(mkdir(at(w.here, "/w/dir"), 0700), 0);
	need(&w, "/w");
	need(&w, "/w/dir");
	ask(&w);
	assert_string_equal(w.missing, "/w");
	assert_int_equal(mkdir(at(w.there, "/w"), 0700), 0);
	ask(&w);
	assert_string_equal(w.missing, "/w/dir");
	assert_int_equal(entries(w.there, "/w"), 0);
	assert_int_equal(mkdir(at(w.there, "/w/dir"), 0700), 0);
	write_at(w.here, "/w/lib", 0, "same bytes", 10);
	write_at(w.there, "/w/lib", 0, "same bytes", 10);
	make_old(w.there, "/w/lib");
	need(&w, "/w/lib");
	ask(&w);
	assert_null(w.missing);
	write_at(w.there, "/w/lib", 0, "some bytes", 10);
	make_old(w.there, "/w/lib");
	ask(&w);
	assert_string_equal(w.missing, "/w/lib");
	assert_int_equal(run_round(&w, false), -1);
	assert_non_null(strstr(w.source_err.text, "/w/lib: exists at the destination"));
	world_finish(&w);
}

/* What was the same when it was looked at is brought up to date, unless somebody there has written to it. */
static void same_content_is_kept_up(void **state)
{
	struct world w;
	char *text = NULL;

	world_init(&w, true, false);
	assert_int_equal(mkdir(at(w.there, "/w"), 0700), 0);
	for (int theirs = 0; theirs < 2; theirs++) {
		write_at(w.here, "/w/log", 0, "one", 3);
		write_at(w.there, "/w/log", 0, "one", 3);
		make_old(w.there, "/w/log");
		w.n_paths = 0;
		need(&w, "/w/log");
		assert_int_equal(run_round(&w, false), 0);
		write_at(w.here, "/w/log", 3, " two", 4);
		if (theirs)
			write_at(w.there, "/w/log", 3, " of another", 11);
		assert_int_equal(run_round(&w, true), theirs ? -1 : 0);
		if (!theirs)
			assert_same(&w, "/w/log");
		in_thread(&w, run_undo);
		assert_int_equal(io_read_file(AT_FDCWD, at(w.there, "/w/log"), &text, NULL), 0);
		assert_string_equal(text, theirs ? "one of another" : "one");
		free(steal_ptr(&text));
		assert_int_equal(entries(w.there, "/w"), 1);
		file_target_free(w.ft);
		file_source_free(w.fs);
		make_sides(&w, true, false);
		assert_int_equal(truncate(at(w.here, "/w/log"), 0), 0);
	}
	world_finish(&w);
}

static void overwriting_can_be_undone(void **state)
{
	struct world w;
	char *text = NULL;

	world_init(&w, true, true);
	assert_int_equal(mkdir(at(w.there, "/w"), 0700), 0);
	write_at(w.here, "/w/a", 0, "ours", 4);
	write_at(w.there, "/w/a", 0, "theirs", 6);
	need(&w, "/w/a");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(run_round(&w, true), 0);
	assert_same(&w, "/w/a");
	in_thread(&w, run_undo);
	assert_int_equal(io_read_file(AT_FDCWD, at(w.there, "/w/a"), &text, NULL), 0);
	assert_string_equal(text, "theirs");
	free(text);
	assert_int_equal(entries(w.there, "/w"), 1);
	world_finish(&w);
}

static void overwriting_leaves_no_backup(void **state)
{
	struct world w;

	world_init(&w, true, true);
	assert_int_equal(mkdir(at(w.there, "/w"), 0700), 0);
	write_at(w.here, "/w/a", 0, "ours", 4);
	write_at(w.there, "/w/a", 0, "theirs", 6);
	need(&w, "/w/a");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(run_round(&w, true), 0);
	in_thread(&w, run_keep);
	assert_same(&w, "/w/a");
	assert_int_equal(entries(w.there, "/w"), 1);
	world_finish(&w);
}

static void undo_removes_all(void **state)
{
	struct world w;

	world_init(&w, true, false);
	assert_int_equal(mkdir(at(w.here, "/w/deep"), 0755), 0);
	write_at(w.here, "/w/deep/file", 0, "x", 1);
	need(&w, "/w");
	need(&w, "/w/deep");
	need(&w, "/w/deep/file");
	assert_int_equal(run_round(&w, false), 0);
	assert_int_equal(run_round(&w, true), 0);
	assert_true(exists(w.there, "/w/deep/file"));
	in_thread(&w, run_undo);
	assert_false(exists(w.there, "/w"));
	world_finish(&w);
}

/* Somebody makes the file between the rounds: it is not ours to replace. */
static void a_name_taken_meanwhile(void **state)
{
	struct world w;
	char *text = NULL;

	world_init(&w, true, false);
	write_at(w.here, "/w/a", 0, "ours", 4);
	need(&w, "/w");
	need(&w, "/w/a");
	assert_int_equal(run_round(&w, false), 0);
	write_at(w.there, "/w/a", 0, "theirs", 6);
	assert_int_equal(run_round(&w, true), -1);
	assert_non_null(strstr(w.source_err.text, "cannot put the copy in place: File exists"));
	in_thread(&w, run_undo);
	assert_int_equal(io_read_file(AT_FDCWD, at(w.there, "/w/a"), &text, NULL), 0);
	assert_string_equal(text, "theirs");
	free(text);
	world_finish(&w);
}

static void none_lists_and_refuses(void **state)
{
	struct world w;

	world_init(&w, false, false);
	write_at(w.here, "/w/a", 0, "ours", 4);
	need(&w, "/w");
	need(&w, "/w/a");
	assert_int_equal(run_round(&w, false), -1);
	assert_int_equal(w.refused, 2);
	assert_string_equal(w.last_refused, "/w/a: missing at the destination");
	assert_false(exists(w.there, "/w"));
	world_finish(&w);
}

static void paths_cannot_lead_out(void **state)
{
	static const char *const bad[] = {"w/a", "/w/../a", "/..", "/w/.."};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct world w;

		world_init(&w, true, true);
		need(&w, bad[i]);
		assert_int_equal(run_round(&w, false), -1);
		assert_non_null(strstr(w.source_err.text, "not a path that can be copied"));
		assert_int_equal(entries(w.there, "/"), 0);
		world_finish(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(missing_is_copied),
		cmocka_unit_test(attributes_are_copied),
		cmocka_unit_test(links_are_made_as_links),
		cmocka_unit_test(only_changes_are_sent_again),
		cmocka_unit_test(cut_files_stay_cut),
		cmocka_unit_test(holes_are_not_sent),
		cmocka_unit_test(same_content_is_left),
		cmocka_unit_test(a_question_changes_nothing),
		cmocka_unit_test(same_content_is_kept_up),
		cmocka_unit_test(different_is_refused),
		cmocka_unit_test(overwriting_can_be_undone),
		cmocka_unit_test(overwriting_leaves_no_backup),
		cmocka_unit_test(undo_removes_all),
		cmocka_unit_test(a_name_taken_meanwhile),
		cmocka_unit_test(none_lists_and_refuses),
		cmocka_unit_test(paths_cannot_lead_out),
	};

	signal(SIGPIPE, SIG_IGN);
	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root for chroot\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

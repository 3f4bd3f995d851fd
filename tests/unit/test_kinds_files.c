// SPDX-License-Identifier: Apache-2.0
/*
 * Files by path, ghosts, link remaps and locks: round trips in the program.
 */
#include "kinds_round.h"

#include "kinds/locks.h"

#include <sys/file.h>
#include <sys/sysmacros.h>

static const char *in_dir(const char *name)
{
	static char path[4][192];
	static unsigned int n;

	n = (n + 1) % 4;
	snprintf(path[n], sizeof(path[n]), "%s/%s", dir, name);
	return path[n];
}

static int make_file(const char *name, const char *text, int flags)
{
	int fd = open(in_dir(name), flags | O_CREAT, 0640);

	assert_true(fd >= 0);
	if (text && (flags & O_ACCMODE) != O_RDONLY)
		assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	return fd;
}

static void assert_link(int fd, const char *want)
{
	char link[512];

	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/fd/%d", fd), 0);
	assert_string_equal(link, want);
}

static void test_file_keeps_position_and_flags(void **state)
{
	int fd = make_file("plain", "0123456789", O_RDWR | O_APPEND | O_NONBLOCK), back;
	struct fd_facts *f;
	const RegFileEntry *rfe;

	lseek(fd, 5, SEEK_SET);
	f = round_add(&t, fd);
	round_capture(&t);
	rfe = snapshot_file(t.c.snap, f->id)->reg;
	assert_string_equal(rfe->name, in_dir("plain"));
	assert_int_equal(rfe->size, 10);
	assert_int_equal(rfe->mode, S_IFREG | 0640);
	assert_int_equal(rfe->pos, 5);
	round_restore(&t);
	back = round_fd(&t, f);
	assert_int_equal(lseek(back, 0, SEEK_CUR), 5);
	assert_int_equal(round_flags(back), round_flags(fd));
	/* A description of its own. */
	lseek(back, 7, SEEK_SET);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 5);
	close(fd);
}

static void test_directory_device_and_path(void **state)
{
	int d = open(dir, O_RDONLY | O_DIRECTORY), null = open("/dev/null", O_WRONLY),
	    path = open(dir, O_PATH | O_NOFOLLOW);
	struct fd_facts *fd = round_add(&t, d), *fn = round_add(&t, null), *fp = round_add(&t, path);

	round_capture(&t);
	round_restore(&t);
	assert_int_equal(round_flags(round_fd(&t, fd)), round_flags(d));
	assert_int_equal(round_flags(round_fd(&t, fn)), round_flags(null));
	assert_int_equal(round_flags(round_fd(&t, fp)), round_flags(path));
	close(d);
	close(null);
	close(path);
}

static void test_size_mode_and_missing_are_named(void **state)
{
	int fd = make_file("changing", "0123456789", O_RDWR);

	round_add(&t, fd);
	round_capture(&t);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(round_try_restore(&t), -1);
	assert_non_null(strstr(t.err.text, "has 11 bytes, expected 10"));
	assert_non_null(strstr(t.err.text, in_dir("changing")));
	assert_int_equal(ftruncate(fd, 10), 0);
	assert_int_equal(fchmod(fd, 0600), 0);
	assert_int_equal(broker_check(&t.r, &t.err), -1);
	assert_non_null(strstr(t.err.text, "has mode 0600, expected 0640"));
	unlink(in_dir("changing"));
	assert_int_equal(broker_check(&t.r, &t.err), -1);
	assert_non_null(strstr(t.err.text, "cannot find"));
	/* Ahead of a migration the file may still be on its way. */
	t.r.preflight = true;
	assert_int_equal(broker_check(&t.r, &t.err), 0);
	close(fd);
}

static void test_append_only_log_may_have_grown(void **state)
{
	int fd = make_file("log", "line\n", O_WRONLY | O_APPEND);

	round_add(&t, fd);
	round_capture(&t);
	assert_int_equal(write(fd, "more\n", 5), 5);
	round_restore(&t);
	close(fd);
}

static void test_replaced_path_is_refused(void **state)
{
	int fd = make_file("replaced", "old", O_RDWR);
	struct fd_facts *f;

	/* Keeps the inode alive under another name, and puts another file at the old one, as a mount would. */
	assert_int_equal(link(in_dir("replaced"), in_dir("other-name")), 0);
	f = round_add(&t, fd);
	unlink(in_dir("replaced"));
	close(make_file("replaced", "new", O_RDWR));
	assert_int_equal(round_allowed(&t, f), -1);
	assert_non_null(strstr(t.err.text, "is another file by now"));
	close(fd);
}

static void test_other_devices_are_refused(void **state)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	const char *external[] = {"dev[1/11]:kmsg", NULL};
	struct fd_facts *f;

	if (fd < 0)
		skip_because("/dev/kmsg cannot be opened");
	f = round_add(&t, fd);
	assert_int_equal(round_allowed(&t, f), -1);
	assert_non_null(strstr(t.err.text, "--external 'dev[1/11]'"));
	t.opt.external = external;
	assert_int_equal(round_allowed(&t, f), 0);
	close(fd);
}

static void test_external_file_comes_by_inherit_fd(void **state)
{
	int fd = make_file("external", "inside", O_RDWR),
	    other = make_file("other", "outside", O_RDWR);
	struct fd_facts *f = round_add(&t, fd);
	char key[64];
	const char *external[] = {key, NULL};

	snprintf(key, sizeof(key), "file[%x:%lx]", (unsigned int)f->mnt_id,
		 (unsigned long)f->st.st_ino);
	t.opt.external = external;
	round_capture(&t);
	assert_true(snapshot_file(t.c.snap, f->id)->reg->ext);
	assert_int_equal(round_try_restore(&t), -1);
	assert_non_null(strstr(t.err.text, "--inherit-fd"));
	t.opt.inherit[0].fd = other;
	t.opt.inherit[0].key = key;
	t.opt.n_inherit = 1;
	round_restore(&t);
	assert_link(round_fd(&t, f), in_dir("other"));
	close(fd);
	close(other);
}

static void test_small_ghost(void **state)
{
	int fd = make_file("small", "ghost contents", O_RDWR), back,
	    again = open(in_dir("small"), O_RDONLY);
	struct timespec times[2] = {{.tv_sec = 1000000000, .tv_nsec = 5000},
				    {.tv_sec = 1100000000, .tv_nsec = 7000}};
	struct fd_facts *f, *g;
	struct stat before, after;
	char buf[32] = "", want[256];

	assert_int_equal(futimens(fd, times), 0);
	unlink(in_dir("small"));
	fstat(fd, &before);
	f = round_add(&t, fd);
	g = round_add(&t, again);
	round_capture(&t);
	assert_int_equal(t.c.snap->ghosts.n, 1);
	assert_int_equal(t.c.snap->remaps.n, 2);
	round_restore(&t);
	back = round_fd(&t, f);
	assert_int_equal(lseek(back, 0, SEEK_CUR), 14);
	fstat(back, &after);
	assert_int_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
	assert_int_equal(after.st_mtim.tv_nsec, 7000);
	assert_int_equal(pread(back, buf, sizeof(buf), 0), 14);
	assert_string_equal(buf, "ghost contents");
	assert_int_equal(after.st_mode, before.st_mode);
	assert_int_equal(after.st_nlink, 0);
	snprintf(want, sizeof(want), "%s (deleted)", in_dir("small"));
	assert_link(back, want);
	/* Both descriptions are of one inode. */
	fstat(round_fd(&t, g), &before);
	assert_int_equal(after.st_ino, before.st_ino);
	assert_int_equal(round_flags(round_fd(&t, g)) & O_ACCMODE, O_RDONLY);
	close(fd);
	close(again);
}

static void test_sparse_ghost_stays_sparse(void **state)
{
	int fd = make_file("sparse", NULL, O_RDWR), back;
	struct fd_facts *f;
	struct stat st;
	char buf[16] = "";

	assert_int_equal(pwrite(fd, "start", 5, 0), 5);
	assert_int_equal(pwrite(fd, "middle", 6, 64 << 20), 6);
	assert_int_equal(ftruncate(fd, 128 << 20), 0);
	unlink(in_dir("sparse"));
	f = round_add(&t, fd);
	round_capture(&t);
	assert_true(t.c.snap->ghosts.v[0]->bytes < 1 << 20);
	assert_int_equal(t.c.snap->ghosts.v[0]->n_chunks, 2);
	round_restore(&t);
	back = round_fd(&t, f);
	fstat(back, &st);
	assert_int_equal(st.st_size, 128 << 20);
	assert_true(st.st_blocks * 512 < 1 << 20);
	assert_int_equal(pread(back, buf, 6, 64 << 20), 6);
	assert_string_equal(buf, "middle");
	close(fd);
}

static void test_ghost_limit_names_size_and_option(void **state)
{
	int fd = make_file("large", NULL, O_RDWR);
	struct fd_facts *f;
	char page[4096] = "x";

	for (int i = 0; i < 4; i++)
		assert_int_equal(write(fd, page, sizeof(page)), (ssize_t)sizeof(page));
	fsync(fd);
	unlink(in_dir("large"));
	f = round_add(&t, fd);
	t.opt.ghost_limit = 8192;
	assert_int_equal(round_allowed(&t, f), -1);
	assert_non_null(strstr(t.err.text, "16384"));
	assert_non_null(strstr(t.err.text, "8192"));
	assert_non_null(strstr(t.err.text, "--ghost-limit"));
	close(fd);
}

static void test_ghosts_with_two_names_and_without_directory(void **state)
{
	struct fd_facts *fa, *fb, *fd;
	char want[256];
	struct stat sa, sb;
	int a, b, d;

	assert_int_equal(mkdir(in_dir("gone"), 0755), 0);
	a = make_file("gone/a", "twice", O_RDWR);
	assert_int_equal(link(in_dir("gone/a"), in_dir("gone/b")), 0);
	b = open(in_dir("gone/b"), O_RDONLY);
	d = open(in_dir("gone"), O_RDONLY | O_DIRECTORY);
	unlink(in_dir("gone/a"));
	unlink(in_dir("gone/b"));
	assert_int_equal(rmdir(in_dir("gone")), 0);
	fa = round_add(&t, a);
	fb = round_add(&t, b);
	fd = round_add(&t, d);
	round_capture(&t);
	assert_int_equal(t.c.snap->ghosts.n, 2);
	round_restore(&t);
	fstat(round_fd(&t, fa), &sa);
	fstat(round_fd(&t, fb), &sb);
	assert_int_equal(sa.st_ino, sb.st_ino);
	snprintf(want, sizeof(want), "%s (deleted)", in_dir("gone/b"));
	assert_link(round_fd(&t, fb), want);
	fstat(round_fd(&t, fd), &sa);
	assert_true(S_ISDIR(sa.st_mode));
	assert_int_equal(access(in_dir("gone"), F_OK), -1);
	close(a);
	close(b);
	close(d);
}

static void test_ghost_leaves_a_new_file_alone(void **state)
{
	int fd = make_file("again", "old", O_RDWR), now;
	struct fd_facts *f;
	char buf[8] = "";

	unlink(in_dir("again"));
	now = make_file("again", "new", O_RDWR);
	f = round_add(&t, fd);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(pread(round_fd(&t, f), buf, sizeof(buf), 0), 3);
	assert_string_equal(buf, "old");
	assert_int_equal(pread(now, buf, sizeof(buf), 0), 3);
	assert_string_equal(buf, "new");
	assert_int_equal(access(in_dir("again"), F_OK), 0);
	close(fd);
	close(now);
}

static void test_tmpfile_is_a_ghost(void **state)
{
	int fd = open(dir, O_TMPFILE | O_RDWR, 0600);
	struct fd_facts *f;
	char buf[8] = "";

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "tmp", 3), 3);
	f = round_add(&t, fd);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(pread(round_fd(&t, f), buf, sizeof(buf), 0), 3);
	assert_string_equal(buf, "tmp");
	close(fd);
}

static const char *link_path(void)
{
	const RemapFilePathEntry *remap = t.c.snap->remaps.v[0];

	assert_int_equal(remap->remap_type, REMAP_TYPE__LINKED);
	return snapshot_file(t.c.snap, remap->remap_id)->reg->name;
}

static void test_link_remap(void **state)
{
	int fd = make_file("linked", "text", O_RDWR);
	struct fd_facts *f;
	struct stat a, b;
	char want[256];

	assert_int_equal(link(in_dir("linked"), in_dir("keeps")), 0);
	unlink(in_dir("linked"));
	f = round_add(&t, fd);
	assert_int_equal(round_allowed(&t, f), -1);
	assert_non_null(strstr(t.err.text, "--link-remap"));
	t.opt.link_remap = true;
	round_capture(&t);
	assert_int_equal(access(link_path(), F_OK), 0);
	/* A complete image needs the link; a failed dump does not. */
	t.c.saved = true;
	round_check_ok(&t, f->kind->undo(&t.c, f, &t.err));
	assert_int_equal(access(link_path(), F_OK), 0);
	round_restore(&t);
	fstat(fd, &a);
	fstat(round_fd(&t, f), &b);
	assert_int_equal(a.st_ino, b.st_ino);
	snprintf(want, sizeof(want), "%s (deleted)", in_dir("linked"));
	assert_link(round_fd(&t, f), want);
	broker_commit(t.r.broker);
	assert_int_equal(access(link_path(), F_OK), -1);
	close(fd);
}

static void test_link_remap_is_undone(void **state)
{
	int fd = make_file("undone", "text", O_RDWR);
	struct fd_facts *f;

	assert_int_equal(link(in_dir("undone"), in_dir("stays")), 0);
	unlink(in_dir("undone"));
	t.opt.link_remap = true;
	f = round_add(&t, fd);
	round_capture(&t);
	assert_int_equal(access(link_path(), F_OK), 0);
	round_check_ok(&t, f->kind->undo(&t.c, f, &t.err));
	assert_int_equal(access(link_path(), F_OK), -1);
	close(fd);
}

static void test_root_option(void **state)
{
	char inner[256];
	int fd;
	struct fd_facts *f;

	/* The file of the image is at the same path below the root only. */
	fd = make_file("rooted", "root", O_RDONLY);
	f = round_add(&t, fd);
	round_capture(&t);
	snprintf(inner, sizeof(inner), "mkdir -p %s/root%s && mv %s %s/root%s", dir, dir,
		 in_dir("rooted"), dir, in_dir("rooted"));
	assert_int_equal(system(inner), 0);
	assert_int_equal(round_try_restore(&t), -1);
	t.opt.root = in_dir("root");
	round_restore(&t);
	snprintf(inner, sizeof(inner), "%s/root%s", dir, in_dir("rooted"));
	assert_link(round_fd(&t, f), inner);
	close(fd);
}

static void test_executable_has_a_build_id(void **state)
{
	int fd = open("/proc/self/exe", O_PATH);
	char link[512];
	uint32_t id = 0;
	const RegFileEntry *rfe;

	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/exe"), 0);
	t.r.snap = t.c.snap;
	round_check_ok(&t, file_capture_path(&t.c, fd, link, O_RDONLY, 0, &id, &t.err));
	rfe = snapshot_file(t.c.snap, id)->reg;
	assert_string_equal(rfe->name, link);
	assert_int_equal(rfe->n_build_id, 5);
	round_check_ok(&t, broker_check(&t.r, &t.err));
	rfe->build_id[4] ^= 1;
	assert_int_equal(broker_check(&t.r, &t.err), -1);
	assert_non_null(strstr(t.err.text, "build-id"));
	close(fd);
}

static void test_locks(void **state)
{
	int flocked = make_file("flocked", "x", O_RDWR), ofd = make_file("ofd", "x", O_RDWR),
	    posix = make_file("posix", "x", O_RDWR), other = open(in_dir("flocked"), O_RDWR);
	struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 20};
	struct flock probe = range;
	size_t next = 0;
	struct fd_facts *ff, *fo;

	assert_int_equal(flock(flocked, LOCK_EX), 0);
	assert_int_equal(fcntl(ofd, F_OFD_SETLK, &range), 0);
	assert_int_equal(fcntl(posix, F_SETLK, &range), 0);
	ff = round_add(&t, flocked);
	fo = round_add(&t, ofd);
	round_add(&t, posix);
	assert_int_equal(locks_capture(&t.c, &t.err), -1);
	assert_non_null(strstr(t.err.text, "--file-locks"));
	t.opt.file_locks = true;
	round_check_ok(&t, locks_capture(&t.c, &t.err));
	assert_int_equal(t.c.snap->locks.n, 3);
	assert_int_equal(t.c.snap->locks.v[0]->flag, LOCK_FLAG_FLOCK);
	assert_int_equal(t.c.snap->locks.v[1]->flag, LOCK_FLAG_OFD);
	assert_int_equal(t.c.snap->locks.v[2]->flag, LOCK_FLAG_POSIX);
	assert_int_equal(t.c.snap->locks.v[2]->start, 100);
	assert_int_equal(t.c.snap->locks.v[2]->len, 20);
	round_capture(&t);
	flock(flocked, LOCK_UN);
	range.l_type = F_UNLCK;
	fcntl(ofd, F_OFD_SETLK, &range);
	fcntl(posix, F_SETLK, &range);
	round_restore(&t);
	round_check_ok(&t, locks_restore_shared(&t.r, &t.err));
	assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(fcntl(ofd, F_OFD_GETLK, &probe), 0);
	assert_int_equal(probe.l_type, F_WRLCK);
	assert_int_equal(probe.l_start, 100);
	/* The POSIX lock is for the task to take. */
	script_reset(&t.script);
	assert_false(locks_emit(&t.r, t.snap_task, &next, &t.script));
	assert_int_equal(t.script.n_ops, 1);
	round_run(&t);
	probe = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
	assert_int_equal(fcntl(posix, F_OFD_GETLK, &probe), 0);
	assert_int_equal(probe.l_start, 100);
	assert_int_equal(probe.l_len, 20);
	assert_int_equal(probe.l_pid, getpid());
	flock(round_fd(&t, ff), LOCK_UN);
	(void)fo;
	close(flocked);
	close(ofd);
	close(posix);
	close(other);
}

static void test_lock_lines(void **state)
{
	struct lock_facts lock;

	assert_true(locks_parse_line("lock:\t1: FLOCK  ADVISORY  WRITE 412 fe:00:11108780 0 EOF\n",
				     &lock));
	assert_int_equal(lock.flag, LOCK_FLAG_FLOCK);
	assert_int_equal(lock.type, F_WRLCK);
	assert_int_equal(lock.len, 0);
	assert_true(locks_parse_line("lock:\t12: POSIX  ADVISORY  READ  99 00:1a:77 10 29\n", &lock));
	assert_int_equal(lock.flag, LOCK_FLAG_POSIX);
	assert_int_equal(lock.type, F_RDLCK);
	assert_int_equal(lock.ino, 77);
	assert_int_equal(lock.start, 10);
	assert_int_equal(lock.len, 20);
	assert_true(locks_parse_line("lock:\t1: OFDLCK ADVISORY  READ -1 00:1a:77 0 0\n", &lock));
	assert_int_equal(lock.flag, LOCK_FLAG_OFD);
	assert_int_equal(lock.len, 1);
	assert_true(locks_parse_line("lock:\t1: LEASE  ACTIVE    READ 5 00:1a:77 0 EOF\n", &lock));
	assert_int_equal(lock.flag, LOCK_FLAG_LEASE);
	assert_false(locks_parse_line("lock:\t1: NEWKIND ADVISORY READ 5 00:1a:77 0 EOF\n", &lock));
	assert_false(locks_parse_line("lock:\tgarbage\n", &lock));
}

#define t_round(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		t_round(test_file_keeps_position_and_flags),
		t_round(test_directory_device_and_path),
		t_round(test_size_mode_and_missing_are_named),
		t_round(test_append_only_log_may_have_grown),
		t_round(test_replaced_path_is_refused),
		t_round(test_other_devices_are_refused),
		t_round(test_external_file_comes_by_inherit_fd),
		t_round(test_small_ghost),
		t_round(test_sparse_ghost_stays_sparse),
		t_round(test_ghost_limit_names_size_and_option),
		t_round(test_ghosts_with_two_names_and_without_directory),
		t_round(test_ghost_leaves_a_new_file_alone),
		t_round(test_tmpfile_is_a_ghost),
		t_round(test_link_remap),
		t_round(test_link_remap_is_undone),
		t_round(test_root_option),
		t_round(test_executable_has_a_build_id),
		t_round(test_locks),
		cmocka_unit_test(test_lock_lines),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

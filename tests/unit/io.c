// SPDX-License-Identifier: Apache-2.0
// base/io: whole reads and writes over descriptors that give little at a time.
#include "unit.h"

#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static int memory_file(const char *text)
{
	int fd = memfd_create("unit", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

/* Writes "0123456789" in pieces of one byte. */
static void *dribble(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < 10; i++) {
		if (write(fd, &"0123456789"[i], 1) != 1)
			break;
		usleep(500);
	}
	close(fd);
	return NULL;
}

static void read_full_collects_pieces(void **state)
{
	char buf[11] = "";
	pthread_t thread;
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(pthread_create(&thread, NULL, dribble, &p[1]), 0);
	assert_int_equal(io_read_full(p[0], buf, 10), 0);
	pthread_join(thread, NULL);
	assert_string_equal(buf, "0123456789");

	errno = 0;
	assert_int_equal(io_read_full(p[0], buf, 1), -1); /* end of file */
	assert_int_equal(errno, EPIPE);
	close(p[0]);
}

static void read_full_of_a_short_file_fails(void **state)
{
	int fd = memory_file("abc");
	char buf[8];

	assert_int_equal(io_read_full(fd, buf, 4), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(io_pread_full(fd, buf, 2, 1), 0);
	assert_memory_equal(buf, "bc", 2);
	assert_int_equal(io_pread_full(fd, buf, 3, 1), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(io_read_full(fd, buf, 0), 0);
	close(fd);
}

static void pwrite_full_writes_at_the_offset(void **state)
{
	int fd = memory_file("abcdef");
	char buf[7] = "";

	assert_int_equal(io_pwrite_full(fd, "XY", 2, 3), 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
	assert_int_equal(io_pread_full(fd, buf, 6, 0), 0);
	assert_string_equal(buf, "abcXYf");
	close(fd);
}

static void write_to_nobody_fails(void **state)
{
	int p[2];

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(pipe(p), 0);
	close(p[0]);
	assert_int_equal(io_write_full(p[1], "x", 1), -1);
	assert_int_equal(errno, EPIPE);
	close(p[1]);
	assert_int_equal(io_write_full(-1, "x", 1), -1);
	assert_int_equal(errno, EBADF);
}

static void openf_formats_and_sets_cloexec(void **state)
{
	int fd = io_openf(O_RDONLY, "/proc/%s/status", "self");
	char deep[PATH_MAX + 10];

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);

	memset(deep, 'a', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = 0;
	assert_int_equal(io_openf(O_RDONLY, "/%s", deep), -1);
	assert_int_equal(errno, ENAMETOOLONG);
}

static void read_file_takes_any_size(void **state)
{
	static const size_t sizes[] = {0, 1, 4094, 4095, 4096, 4097, 100000};
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		cleanup_free char *want = malloc(sizes[i] + 1);
		cleanup_free char *text = NULL;
		int fd = memfd_create("unit", MFD_CLOEXEC);
		size_t len = 77;

		assert_non_null(want);
		memset(want, 'a' + (int)i, sizes[i]);
		assert_int_equal(io_write_full(fd, want, sizes[i]), 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		assert_int_equal(io_read_file(AT_FDCWD, path, &text, &len), 0);
		assert_int_equal(len, sizes[i]);
		assert_memory_equal(text, want, sizes[i]);
		assert_int_equal(text[len], 0);
		close(fd);
	}
}

static void read_file_reports_errors(void **state)
{
	char *text = (char *)1;

	assert_int_equal(io_read_filef(&text, NULL, "/proc/self/nothing-%d", 1), -1);
	assert_int_equal(errno, ENOENT);
	assert_null(text);
	assert_int_equal(io_read_filef(&text, NULL, "/proc/self"), -1);
	assert_int_equal(errno, EISDIR);
	assert_null(text);
}

static void readlink_refuses_to_cut(void **state)
{
	char dir[] = "/tmp/ferry-unit-XXXXXX", path[64], buf[8];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/l", dir);
	assert_int_equal(symlink("1234567", path), 0);
	assert_int_equal(io_readlinkf(buf, sizeof(buf), "%s/l", dir), 0);
	assert_string_equal(buf, "1234567");
	assert_int_equal(io_readlinkf(buf, 7, "%s/l", dir), -1);
	assert_int_equal(errno, ENAMETOOLONG);
	unlink(path);
	assert_int_equal(io_readlinkf(buf, sizeof(buf), "%s/l", dir), -1);
	assert_int_equal(errno, ENOENT);
	rmdir(dir);
}

static void write_text_needs_the_file(void **state)
{
	cleanup_free char *text = NULL;

	assert_int_equal(io_write_textf("unit-io", "/proc/%s/comm", "self"), 0);
	assert_int_equal(io_read_filef(&text, NULL, "/proc/self/comm"), 0);
	assert_string_equal(text, "unit-io\n");
	assert_int_equal(io_write_textf("x", "/proc/self/nothing"), -1);
	assert_int_equal(errno, ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_full_collects_pieces),
		cmocka_unit_test(read_full_of_a_short_file_fails),
		cmocka_unit_test(pwrite_full_writes_at_the_offset),
		cmocka_unit_test(write_to_nobody_fails),
		cmocka_unit_test(openf_formats_and_sets_cloexec),
		cmocka_unit_test(read_file_takes_any_size),
		cmocka_unit_test(read_file_reports_errors),
		cmocka_unit_test(readlink_refuses_to_cut),
		cmocka_unit_test(write_text_needs_the_file),
	};

	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}

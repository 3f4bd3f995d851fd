// SPDX-License-Identifier: Apache-2.0
// Files that are kept for later mounts: how they are found, what goes first, and who may have the directory.
#include "unit.h"

#include "base/io.h"
#include "lazyfs/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES = 300 * 1024, FIRST = 128 * 1024 };

struct fixture {
	char dir[64];
	int fd;
	struct pool pool;
	uint8_t data[FILE_BYTES];
	char name[16];
};

static void begin(struct fixture *f, uint64_t max)
{
	struct err err;

	strcpy(f->dir, "/tmp/ferry-pool-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->fd >= 0);
	assert_int_equal(pool_open(f->dir, max, &f->pool, &err), 0);
}

static void end(struct fixture *f)
{
	char command[128];

	pool_close(&f->pool);
	close(f->fd);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	assert_int_equal(system(command), 0);
}

/* A cache file of this kind, in f->name; its descriptor. */
static int make(struct fixture *f, uint8_t kind)
{
	int fd;

	for (size_t i = 0; i < FILE_BYTES; i++)
		f->data[i] = (uint8_t)(kind + i / 4096);
	snprintf(f->name, sizeof(f->name), "%u", kind);
	fd = openat(f->fd, f->name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, f->data, FILE_BYTES), 0);
	return fd;
}

static int find(struct fixture *f, uint8_t kind)
{
	uint8_t sum[LF_SUM_BYTES];

	for (size_t i = 0; i < FIRST; i++)
		f->data[i] = (uint8_t)(kind + i / 4096);
	assert_true(EVP_Digest(f->data, FIRST, sum, NULL, EVP_sha256(), NULL));
	return pool_find(&f->pool, FILE_BYTES, sum);
}

static bool has(struct fixture *f, uint8_t kind)
{
	int fd = find(f, kind);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void add(struct fixture *f, uint8_t kind)
{
	int fd = make(f, kind);

	assert_int_equal(pool_add(&f->pool, f->fd, f->name, fd, FILE_BYTES), 0);
	close(fd);
}

static void test_finds_by_contents(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;
	int fd;

	begin(f, 100 << 20);
	assert_false(pool_may_have(&f->pool, FILE_BYTES));
	add(f, 1);
	assert_true(pool_may_have(&f->pool, FILE_BYTES));
	assert_false(pool_may_have(&f->pool, FILE_BYTES + 1));
	assert_true(has(f, 1));
	assert_false(has(f, 2));
	/* the same contents again */
	fd = make(f, 1);
	assert_int_equal(pool_add(&f->pool, f->fd, f->name, fd, FILE_BYTES), EEXIST);
	close(fd);
	/* it stays when the cache file goes, also for another process */
	assert_int_equal(unlinkat(f->fd, "1", 0), 0);
	pool_close(&f->pool);
	assert_false(pool_may_have(&f->pool, FILE_BYTES));
	assert_int_equal(pool_open(f->dir, 100 << 20, &f->pool, &err), 0);
	assert_true(has(f, 1));
	end(f);
	free(f);
}

static void test_drops_its_own_only(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int first, second;

	begin(f, 100 << 20);
	first = make(f, 1);
	assert_int_equal(pool_add(&f->pool, f->fd, f->name, first, FILE_BYTES), 0);
	assert_int_equal(unlinkat(f->fd, "1", 0), 0);
	second = make(f, 1);
	pool_drop(&f->pool, second, FILE_BYTES);
	assert_true(has(f, 1));
	pool_drop(&f->pool, first, FILE_BYTES);
	assert_false(has(f, 1));
	assert_false(pool_may_have(&f->pool, FILE_BYTES));
	close(first);
	close(second);
	end(f);
	free(f);
}

/* Whoever was used longest ago goes; what is too large for the bounds is not taken. */
static void test_bounds(void **state)
{
	const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	begin(f, 4 * FILE_BYTES);
	for (uint8_t kind = 1; kind <= 4; kind++) {
		add(f, kind);
		fd = openat(f->fd, f->name, O_RDONLY | O_CLOEXEC);
		assert_int_equal(futimens(fd, old), 0);
		close(fd);
	}
	assert_true(has(f, 3)); /* used now */
	add(f, 5);
	assert_true(has(f, 3));
	assert_true(has(f, 5));
	assert_false(has(f, 1) && has(f, 2) && has(f, 4));
	pool_close(&f->pool);
	f->pool = POOL_NONE;
	end(f);
	begin(f, FILE_BYTES);
	fd = make(f, 1);
	assert_int_equal(pool_add(&f->pool, f->fd, f->name, fd, FILE_BYTES), ENOSPC);
	close(fd);
	end(f);
	free(f);
}

static void test_is_ours_alone(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[128], target[160];
	struct err err;

	begin(f, 100 << 20);
	snprintf(path, sizeof(path), "%s/ferry-files.%u", f->dir, geteuid());
	snprintf(target, sizeof(target), "%s/elsewhere", f->dir);
	pool_close(&f->pool);
	assert_int_equal(chmod(path, 0755), 0);
	assert_int_equal(pool_open(f->dir, 1 << 20, &f->pool, &err), -1);
	assert_non_null(strstr(err.text, "ours alone"));
	assert_int_equal(f->pool.fd, -1);
	assert_int_equal(rename(path, target), 0);
	assert_int_equal(chmod(target, 0700), 0);
	assert_int_equal(symlink(target, path), 0);
	assert_int_equal(pool_open(f->dir, 1 << 20, &f->pool, &err), -1);
	end(f);
	free(f);
}

/* Whatever is there by mistake does not stay in the way. */
static void test_strange_names(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char text[300];
	int fd;

	begin(f, 8 * FILE_BYTES);
	memset(text, 'x', sizeof(text));
	text[100] = '\0';
	assert_int_equal(mkdirat(f->pool.fd, text, 0700), 0);
	fd = openat(f->pool.fd, "4b000", O_WRONLY | O_CREAT | O_CLOEXEC,
		    0600); /* the folder of FILE_BYTES */
	assert_true(fd >= 0);
	close(fd);
	fd = make(f, 1);
	assert_int_equal(pool_add(&f->pool, f->fd, f->name, fd, FILE_BYTES), ENOTDIR);
	close(fd);
	assert_false(has(f, 1));
	assert_int_equal(unlinkat(f->pool.fd, "4b000", 0), 0);
	add(f, 2);
	assert_true(has(f, 2));
	end(f);
	free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_finds_by_contents),
		cmocka_unit_test(test_drops_its_own_only),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_is_ours_alone),
		cmocka_unit_test(test_strange_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

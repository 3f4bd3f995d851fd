// SPDX-License-Identifier: Apache-2.0
// store: directory, memory and fault stores behind the same interface.
#include "unit.h"

#include "store/spool.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static char folder[64];
static int folder_fd;

static int folder_make(void **state)
{
	strcpy(folder, "/tmp/ferry-store-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder_fd < 0 ? -1 : 0;
}

static int folder_remove(void **state)
{
	char command[128];

	close(folder_fd);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static struct store *open_dir(void)
{
	struct err err;
	struct store *s = store_dir_open(folder_fd, &err);

	assert_non_null(s);
	return s;
}

static struct store *open_memory(void)
{
	struct err err;
	struct store *s = store_memory_open(&err);

	assert_non_null(s);
	return s;
}

static void put(struct store *s, const char *name, const char *text)
{
	struct err err = {0};

	if (store_put(s, name, text, strlen(text), &err))
		fail_msg("%s", err.text);
}

static void expect(struct store *s, const char *name, const char *text)
{
	struct err err = {0};
	void *data;
	size_t bytes;

	assert_int_equal(store_get(s, name, &data, &bytes, &err), 0);
	assert_int_equal(bytes, strlen(text));
	assert_memory_equal(data, text, bytes);
	free(data);
}

static void expect_none(struct store *s, const char *name)
{
	struct err err = {0};
	void *data;
	size_t bytes;

	assert_int_equal(store_get(s, name, &data, &bytes, &err), 1);
	assert_null(data);
}

/* What every store must do. */
static void check_store(struct store *s)
{
	char page[8192], back[8192];
	struct err err = {0};

	put(s, "core-1.img", "one");
	put(s, "core-2.img", "");
	expect(s, "core-1.img", "one");
	expect(s, "core-2.img", "");
	assert_int_equal(store_put(s, "core-1.img", "x", 1, &err), -1);
	assert_int_equal(err.no, EEXIST);
	assert_non_null(strstr(err.text, "core-1.img"));

	memset(page, 'a', 4096);
	memset(page + 4096, 'b', 4096);
	assert_int_equal(store_put_pages(s, 7, page, 4096, &err), 0);
	assert_int_equal(store_put_pages(s, 7, page + 4096, 4096, &err), 0);
	assert_int_equal(store_get_pages(s, 7, 0, back, 8192, &err), 0);
	assert_memory_equal(page, back, 8192);
	assert_int_equal(store_put_pages(s, 7, NULL, 0, &err), 0);
	assert_int_equal(store_put_pages(s, 7, page, 4096, &err), -1); /* the end was said */
	assert_int_equal(store_get_pages(s, 7, 4095, back, 2, &err), 0);
	assert_memory_equal(back, "ab", 2);
	assert_int_equal(store_get_pages(s, 7, 8000, back, 4096, &err), -1);
	assert_non_null(strstr(err.text, "pages-7.img: offset 8000"));
	assert_int_equal(store_get_pages(s, 7, UINT64_MAX - 10, back, 4096, &err), -1);

	assert_int_equal(store_skip(s, "memfd.img", &err), 0);
	expect_none(s, "memfd.img");
	assert_int_equal(store_complete(s, &err), 0);
	expect_none(s, "core-3.img");
	assert_int_equal(store_get_pages(s, 8, 0, back, 1, &err), -1);
	assert_non_null(strstr(err.text, "pages-8.img"));
	assert_int_equal(store_pages_fd(s, 8), -1);
}

/* A snapshot of a spool, by its writer's end. */
static void check_spool(void)
{
	struct err err;
	struct spool *sp = spool_create(0, &err);
	struct shot *shot = sp ? spool_write(sp, "x", &err) : NULL;
	struct store *s = shot ? spool_store_open(shot, true, &err) : NULL;

	assert_non_null(s);
	check_store(s);
	store_close(s);
	spool_free(sp);
}

static void all_stores_behave_alike(void **state)
{
	struct store *dir = open_dir(), *memory = open_memory();
	struct stat st;

	check_store(dir);
	check_store(memory);
	check_spool();
	assert_int_equal(fstat(store_pages_fd(dir, 7), &st), 0);
	assert_int_equal(st.st_size, 8192);
	assert_int_equal(fstat(store_pages_fd(memory, 7), &st), 0);
	assert_int_equal(st.st_size, 8192);
	store_close(dir);
	store_close(memory);
	store_close(NULL);
}

static void bad_names_are_refused(void **state)
{
	static const char *const names[] = {"", ".", "..", "../x", "a/b", ".hidden", "/etc/passwd"};
	char longer[STORE_NAME_MAX_BYTES + 2];
	struct store *s = open_dir();
	struct err err = {0};
	void *data;
	size_t bytes;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_int_equal(store_put(s, names[i], "x", 1, &err), -1);
		assert_int_equal(store_get(s, names[i], &data, &bytes, &err), -1);
		assert_int_equal(store_skip(s, names[i], &err), -1);
		assert_non_null(strstr(err.text, "cannot be the name of an image"));
	}
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(store_put(s, longer, "x", 1, &err), -1);
	longer[STORE_NAME_MAX_BYTES] = 0;
	assert_int_equal(store_put(s, longer, "x", 1, &err), 0);
	store_close(s);
}

static int write_file(const char *name, const char *text)
{
	int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

static void a_reused_directory_forgets_the_old_dump(void **state)
{
	struct store *s = open_dir();
	struct err err = {0};
	struct stat st;

	assert_int_equal(write_file("inventory.img", "old"), 0);
	assert_int_equal(write_file("memfd.img", "old"), 0);
	assert_int_equal(write_file("precious", "data"), 0);
	assert_int_equal(symlinkat("precious", folder_fd, "core-9.img"), 0);
	assert_int_equal(symlinkat("precious", folder_fd, "pages-9.img"), 0);
	expect(s, "inventory.img", "old"); /* reading changes nothing */

	/* From the first put on the directory is no complete dump any more. */
	put(s, "core-9.img", "new");
	assert_int_equal(fstatat(folder_fd, "inventory.img", &st, 0), -1);
	assert_int_equal(fstatat(folder_fd, "core-9.img", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(store_put_pages(s, 9, "page", 4, &err), 0);
	assert_int_equal(store_skip(s, "memfd.img", &err), 0);
	assert_int_equal(store_skip(s, "memfd.img", &err), 0); /* nothing there: fine */
	expect_none(s, "memfd.img");
	put(s, "inventory.img", "new");
	expect(s, "inventory.img", "new");
	expect(s, "precious", "data"); /* links are replaced, not followed */
	store_close(s);
}

static void images_have_mode_0644(void **state)
{
	struct store *s = open_dir();
	struct err err = {0};
	mode_t mask = umask(022);
	struct stat st;

	put(s, "fs-5.img", "x");
	assert_int_equal(store_put_pages(s, 5, "page", 4, &err), 0);
	umask(mask);
	assert_int_equal(fstatat(folder_fd, "fs-5.img", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(fstatat(folder_fd, "pages-5.img", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	store_close(s);
}

static void a_directory_is_read_with_care(void **state)
{
	struct store *s = open_dir();
	struct err err = {0};
	void *data;
	size_t bytes;
	int fd;

	assert_int_equal(mkdirat(folder_fd, "mm-1.img", 0700), 0);
	assert_int_equal(store_get(s, "mm-1.img", &data, &bytes, &err), -1);
	assert_non_null(strstr(err.text, "mm-1.img: not a regular file"));
	assert_int_equal(mkfifoat(folder_fd, "mm-2.img", 0600), 0);
	assert_int_equal(store_get(s, "mm-2.img", &data, &bytes, &err), -1); /* and does not hang */
	fd = openat(folder_fd, "mm-3.img", O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)1 << 40), 0); /* a hole of a terabyte */
	close(fd);
	assert_int_equal(store_get(s, "mm-3.img", &data, &bytes, &err), -1);
	assert_int_equal(err.no, EFBIG);
	store_close(s);
}

/* ---- waiting ---- */

static void sleep_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* A writer that takes its time. */
static void *slow_writer(void *arg)
{
	struct store *s = arg;
	struct err err;
	char page[4096];
	int bad = 0;

	sleep_ms(20);
	bad |= store_put(s, "inventory.img", "here", 4, &err);
	sleep_ms(20);
	bad |= store_skip(s, "memfd.img", &err);
	sleep_ms(20);
	for (int i = 0; i < 8; i++) {
		memset(page, 'a' + i, sizeof(page));
		bad |= store_put_pages(s, 1, page, sizeof(page), &err);
		sleep_ms(5);
	}
	bad |= store_put_pages(s, 1, NULL, 0, &err);
	sleep_ms(20);
	bad |= store_complete(s, &err);
	return bad ? s : NULL;
}

static void a_get_waits_for_the_writer(void **state)
{
	struct store *s = open_memory();
	struct err err = {0};
	char back[8192];
	pthread_t writer;
	void *result;
	struct stat st;

	assert_int_equal(pthread_create(&writer, NULL, slow_writer, s), 0);
	expect(s, "inventory.img", "here");
	expect_none(s, "memfd.img"); /* long before the store is complete */
	assert_int_equal(store_get_pages(s, 1, 7 * 4096 - 1, back, 2, &err), 0);
	assert_memory_equal(back, "gh", 2);
	assert_int_equal(fstat(store_pages_fd(s, 1), &st), 0);
	assert_int_equal(st.st_size, 8 * 4096); /* all of them, not some */
	assert_int_equal(store_get_pages(s, 1, 7 * 4096, back, 8192, &err), -1);
	expect_none(s, "core-1.img"); /* waits for store_complete */
	assert_int_equal(pthread_join(writer, &result), 0);
	assert_null(result);
	store_close(s);
}

static void *breaking_writer(void *arg)
{
	struct err why;

	sleep_ms(20);
	err_set(&why, ECONNRESET, "the connection broke");
	store_memory_fail(arg, &why);
	return NULL;
}

static void a_broken_connection_ends_the_wait(void **state)
{
	struct store *s = open_memory();
	struct err err = {0};
	pthread_t writer;
	void *data;
	size_t bytes;
	char back[1];

	put(s, "pstree.img", "tree");
	assert_int_equal(pthread_create(&writer, NULL, breaking_writer, s), 0);
	assert_int_equal(store_get(s, "inventory.img", &data, &bytes, &err), -1);
	assert_string_equal(err.text, "the connection broke");
	assert_int_equal(err.no, ECONNRESET);
	assert_int_equal(store_get_pages(s, 1, 0, back, 1, &err), -1);
	assert_string_equal(err.text, "the connection broke");
	assert_int_equal(store_pages_fd(s, 1), -1);
	expect(s, "pstree.img", "tree"); /* what has arrived is still good */
	assert_int_equal(pthread_join(writer, NULL), 0);
	store_close(s);
}

static void many_names_are_found(void **state)
{
	struct store *s = open_memory();
	struct err err = {0};
	char name[32], text[32];

	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "core-%d.img", i);
		snprintf(text, sizeof(text), "%d", i * 7);
		put(s, name, text);
	}
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "core-%d.img", i);
		snprintf(text, sizeof(text), "%d", i * 7);
		expect(s, name, text);
	}
	assert_int_equal(store_complete(s, &err), 0);
	expect_none(s, "core-5000.img");
	store_close(s);
}

/* ---- faults ---- */

/* Runs a little dump; how many of its calls worked. */
static int little_dump(struct store *s, struct err *err)
{
	void *data = NULL;
	size_t bytes;
	char back[4];
	int n = 0;

	n += store_put(s, "a.img", "x", 1, err) == 0;
	n += store_put_pages(s, 1, "page", 4, err) == 0;
	n += store_get(s, "a.img", &data, &bytes, err) == 0;
	free(data);
	n += store_get_pages(s, 1, 0, back, 4, err) == 0;
	n += store_skip(s, "b.img", err) == 0;
	n += store_complete(s, err) == 0;
	return n;
}

static void a_fault_strikes_at_its_call_and_stays(void **state)
{
	for (int at = 1; at <= 7; at++) {
		struct err err = {0};
		struct store *s = store_fault_open(open_memory(), (unsigned int)at, ENOSPC, &err);

		assert_non_null(s);
		assert_int_equal(store_pages_fd(s, 1), -1);
		assert_int_equal(little_dump(s, &err), at - 1);
		if (at <= 6) {
			assert_int_equal(err.no, ENOSPC);
			assert_non_null(strstr(err.text, "injected fault"));
		}
		store_close(s);
	}
}

int main(void)
{
#define WITH_FOLDER(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)
	const struct CMUnitTest tests[] = {
		WITH_FOLDER(all_stores_behave_alike),
		WITH_FOLDER(bad_names_are_refused),
		WITH_FOLDER(a_reused_directory_forgets_the_old_dump),
		WITH_FOLDER(images_have_mode_0644),
		WITH_FOLDER(a_directory_is_read_with_care),
		cmocka_unit_test(a_get_waits_for_the_writer),
		cmocka_unit_test(a_broken_connection_ends_the_wait),
		cmocka_unit_test(many_names_are_found),
		cmocka_unit_test(a_fault_strikes_at_its_call_and_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

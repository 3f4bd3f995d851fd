// SPDX-License-Identifier: Apache-2.0
// What a page server keeps: images that exist only after the end, with the entries and pages sent.
#include "unit.h"

#include "mem/ps_store.h"
#include "snapshot/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static const struct ps_object task = {.id = 30}, segment = {.shmem = true, .id = 7};

static char path[] = "/dev/shm/ferry-ps-XXXXXX";
static int dirfd_, pair[2];
static struct ps_store *store;
static struct err err;

static int set_up(void **state)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	if (!mkdtemp(path) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	dirfd_ = open(path, O_RDONLY | O_DIRECTORY);
	store = ps_store_create(dirfd_, NULL, &err);
	return store ? 0 : -1;
}

/* Names in the directory, hidden ones too; they are removed. */
static size_t clear_names(void)
{
	cleanup_dir DIR *d = opendir(path);
	const struct dirent *e;
	size_t n = 0;

	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
			unlinkat(dirfd_, e->d_name, 0);
			n++;
		}
	return n;
}

static int tear_down(void **state)
{
	ps_store_free(store);
	clear_names();
	close(dirfd_);
	close(pair[0]);
	close(pair[1]);
	return rmdir(path);
}

static void begin(const struct ps_object *object)
{
	bool has_parent = true;

	assert_int_equal(ps_store_begin(store, object, &has_parent, &err), 0);
	assert_false(has_parent);
}

/* Sends @n pages filled with @fill. */
static int add(const struct ps_object *object, uint64_t vaddr, uint64_t n, uint16_t flags, int fill)
{
	struct ps_request r = {.cmd = PS_ADD_F,
			       .flags = flags,
			       .nr_pages = n,
			       .vaddr = vaddr,
			       .dst_id = ps_dst_id(object)};
	uint8_t page[PAGE_BYTES];

	memset(page, fill, sizeof(page));
	for (uint64_t i = 0; i < ps_data_bytes(&r) / PAGE_BYTES; i++)
		assert_int_equal(write(pair[1], page, sizeof(page)), sizeof(page));
	return ps_store_add(store, &r, pair[0], &err);
}

static void size_is(const char *name, off_t bytes)
{
	struct stat st;

	assert_int_equal(fstatat(dirfd_, name, &st, 0), 0);
	if (bytes >= 0)
		assert_int_equal(st.st_size, bytes);
	assert_true(st.st_blocks * 512 <= st.st_size + (off_t)PAGE_BYTES);
}

static void named_at_the_end(void **state)
{
	cleanup_close int fd = -1;
	uint8_t byte;

	begin(&task);
	assert_int_equal(add(&task, 0x1000, 2, PE_PRESENT, 'a'), 0);
	assert_int_equal(add(&task, 0x3000, 1, PE_PRESENT, 'b'), 0); /* the same entry */
	assert_int_equal(add(&task, 0x8000, 4, PE_LAZY, 0), 0);
	begin(&segment);
	assert_int_equal(add(&segment, 0, 1, PE_PRESENT, 'c'), 0);
	assert_int_equal(clear_names(), 0);
	assert_int_equal(ps_store_publish(store, &err), 0);
	size_is("pages-65537.img", 3 * PAGE_BYTES);
	size_is("pages-65538.img", PAGE_BYTES);
	size_is("pagemap-30.img", -1);
	size_is("pagemap-shmem-7.img", -1);
	fd = openat(dirfd_, "pages-65537.img", O_RDONLY);
	assert_int_equal(pread(fd, &byte, 1, 2 * PAGE_BYTES), 1);
	assert_int_equal(byte, 'b');
	assert_int_equal(clear_names(), 4);
}

static void nothing_without_the_end(void **state)
{
	begin(&task);
	assert_int_equal(add(&task, 0x1000, 2, PE_PRESENT, 'a'), 0);
	ps_store_free(store);
	store = NULL;
	assert_int_equal(clear_names(), 0);
}

/* More room than needed, less, and room for what never comes. */
static void room(void **state)
{
	static const struct ps_object other = {.id = 31}, third = {.id = 32};

	ps_store_prepare(store, &task, 4096);
	while (ps_store_prepare_step(store))
		;
	ps_store_prepare(store, &third, 2048);
	(void)ps_store_prepare_step(store);
	begin(&other);
	assert_int_equal(add(&other, 0x1000, 1, PE_PRESENT, 'x'), 0);
	begin(&task);
	assert_int_equal(add(&task, 0x1000, 5, PE_PRESENT, 'y'), 0);
	assert_int_equal(ps_store_publish(store, &err), 0);
	size_is("pages-65537.img", PAGE_BYTES);
	size_is("pages-65538.img", 5 * PAGE_BYTES);
	assert_int_equal(clear_names(), 4);
}

static void refused(void **state)
{
	bool has_parent;

	assert_int_equal(add(&task, 0x1000, 1, PE_LAZY, 0), -1); /* nothing has begun */
	begin(&task);
	assert_int_equal(ps_store_begin(store, &task, &has_parent, &err), -1);
	assert_non_null(strstr(err.text, "begun twice"));
	assert_int_equal(add(&segment, 0, 1, PE_LAZY, 0), -1);
	assert_non_null(strstr(err.text, "dst_id 0x702"));
	assert_int_equal(add(&task, 0x5000, 2, PE_LAZY, 0), 0);
	assert_int_equal(add(&task, 0x6000, 1, PE_LAZY, 0), -1); /* not ascending */
	assert_int_equal(err.no, EPROTO);
	assert_int_equal(add(&task, 0x9000, 1, PE_PARENT, 0), -1); /* of which there is none */
	assert_non_null(strstr(err.text, "parent"));
}

static void cut_off(void **state)
{
	struct ps_request r = {.cmd = PS_ADD_F,
			       .flags = PE_PRESENT,
			       .nr_pages = 2,
			       .vaddr = 0x1000,
			       .dst_id = ps_dst_id(&task)};

	begin(&task);
	assert_int_equal(write(pair[1], "half", 4), 4);
	shutdown(pair[1], SHUT_WR);
	assert_int_equal(ps_store_add(store, &r, pair[0], &err), -1);
	assert_non_null(strstr(err.text, "8188 bytes to come"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(named_at_the_end), TEST(nothing_without_the_end), TEST(room), TEST(refused),
		TEST(cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// Parent directories of images: pages are found through the chain, a broken chain is one clear error.
#include "fixtures.h"

#include "mem/fill.h"
#include "snapshot/extents.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { LEVELS = 3, PAGES = 12 };
#define AREA 0x30000000UL

static char folder[64];
static struct store *top;                /* of the chain: level 0 */
static struct snap_pagemap maps[LEVELS]; /* by level */
static PagemapEntry entries[LEVELS][PAGES];

static void shell(const char *fmt, ...)
{
	char command[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	assert_int_equal(system(command), 0);
}

static struct store *open_level(const char *name)
{
	char path[128];
	struct store *s;
	struct err err;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	s = store_dir_open(fd, &err);
	close(fd);
	assert_non_null(s);
	return s;
}

static int make_folder(void **state)
{
	strcpy(folder, "/tmp/ferry-chain-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	for (int i = 0; i < LEVELS; i++)
		vec_free(&maps[i].entries);
	memset(maps, 0, sizeof(maps));
	store_close(top);
	top = NULL;
	shell("rm -rf %s", folder);
	return 0;
}

/* Contents of the page at @vaddr that level @level stores. */
static uint8_t mark(int level, uint64_t vaddr)
{
	return (uint8_t)(1 + level * 64 + (vaddr - AREA) / PAGE_BYTES);
}

static void add(int level, unsigned int page, unsigned int n, uint32_t flags)
{
	struct snap_pagemap *pm = &maps[level];
	PagemapEntry *e = &entries[level][pm->entries.n];

	pagemap_entry__init(e);
	e->vaddr = AREA + page * PAGE_BYTES;
	e->has_nr_pages = e->has_flags = true;
	e->nr_pages = n;
	e->flags = flags;
	assert_true(vec_push(&pm->entries, e));
}

/* Directories 0 (the last dump), 1 and 2, each the parent of the one before; the pages as added. */
static void make_chain(void)
{
	char name[8], target[16];
	uint8_t page[PAGE_BYTES];
	struct store *s;
	struct err err;

	for (int level = LEVELS - 1; level >= 0; level--) {
		snprintf(name, sizeof(name), "%d", level);
		snprintf(target, sizeof(target), "../%d", level + 1);
		shell("mkdir %s/%s", folder, name);
		s = open_level(name);
		maps[level].pages_id = 5 + (uint32_t)level;
		maps[level].parent = level + 1 < LEVELS ? &maps[level + 1] : NULL;
		if (maps[level].parent && store_set_parent(s, target, &err))
			fail_msg("%s", err.text);
		vec_foreach (e, &maps[level].entries) {
			for (uint64_t i = 0; (*e)->flags & PE_PRESENT && i < (*e)->nr_pages; i++) {
				memset(page, mark(level, (*e)->vaddr + i * PAGE_BYTES), sizeof(page));
				assert_int_equal(store_put_pages(s, maps[level].pages_id, page,
								 sizeof(page), &err),
						 0);
			}
		}
		store_close(s);
	}
	top = open_level("0");
}

/* Pages 0..11: which level has the contents; 9: none. */
static const int where[PAGES] = {0, 1, 2, 2, 9, 1, 0, 0, 2, 9, 2, 1};

static void add_all(void)
{
	add(0, 0, 1, PE_PRESENT);
	add(0, 1, 3, PE_PARENT); /* from two levels */
	add(0, 5, 1, PE_PARENT);
	add(0, 6, 2, PE_PRESENT);
	add(0, 8, 1, PE_PARENT);
	add(0, 10, 2, PE_PARENT);
	add(1, 0, 2, PE_PRESENT); /* page 0 was written again since */
	add(1, 2, 2, PE_PARENT);
	add(1, 5, 2, PE_PRESENT);
	add(1, 7, 4, PE_PARENT); /* more than is asked for */
	add(1, 11, 1, PE_PRESENT);
	add(2, 0, 12, PE_PRESENT);
}

static void pages_come_from_their_levels(void **state)
{
	static uint8_t buf[PAGE_BYTES];
	uint8_t *area = mmap((void *)AREA, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	struct fill_area whole = {AREA, AREA + PAGES * PAGE_BYTES, FILL_WRITE};
	struct fill_job job = {.pid = getpid(), .uffd = -1, .areas = &whole, .n_areas = 1};
	struct err err;

	add_all();
	make_chain();
	job.store = top;
	job.pagemap = &maps[0];
	assert_ptr_equal(area, (void *)AREA);
	if (fill_task(&job, &err))
		fail_msg("%s", err.text);
	for (unsigned int i = 0; i < PAGES; i++) {
		uint64_t at = AREA + i * PAGE_BYTES;
		uint8_t want = where[i] == 9 ? 0 : mark(where[i], at);

		assert_int_equal(area[i * PAGE_BYTES], want);
		assert_int_equal(area[(i + 1) * PAGE_BYTES - 1], want);
		assert_int_equal(pagemap_read(top, &maps[0], at, buf, sizeof(buf), &err),
				 where[i] != 9);
		if (where[i] != 9)
			assert_int_equal(buf[77], want);
	}
	assert_int_equal(pagemap_present_bytes(&maps[0]), 10 * PAGE_BYTES);
	assert_int_equal(snapshot_pagemap_bytes(&maps[0]), 3 * PAGE_BYTES);
	munmap(area, PAGES * PAGE_BYTES);
}

static void shared_memory_too(void **state)
{
	int fd = memfd_create("chain", MFD_CLOEXEC);
	uint8_t byte;
	struct err err;

	add_all();
	make_chain();
	for (int level = 0; level < LEVELS; level++) {
		maps[level].shmem = true;
		vec_foreach (e, &maps[level].entries)
			(*e)->vaddr -= AREA;
	}
	assert_int_equal(ftruncate(fd, PAGES * PAGE_BYTES), 0);
	if (fill_shmem(top, &maps[0], fd, PAGES * PAGE_BYTES, &err))
		fail_msg("%s", err.text);
	for (unsigned int i = 0; i < PAGES; i++) {
		assert_int_equal(pread(fd, &byte, 1, (off_t)(i * PAGE_BYTES)), 1);
		assert_int_equal(byte, where[i] == 9 ? 0 : mark(where[i], AREA + i * PAGE_BYTES));
	}
	close(fd);
}

static void a_page_that_the_parent_has_not(void **state)
{
	snap_extents x = {0};
	struct err err;

	add(0, 0, 2, PE_PARENT);
	add(1, 0, 1, PE_PRESENT);
	make_chain();
	assert_int_equal(pagemap_extents(&maps[0], 0, UINT64_MAX, &x, &err), -1);
	assert_non_null(strstr(err.text, "0x30001000"));
	vec_free(&x);
	entries[1][0].nr_pages = 2;
	entries[1][0].flags = PE_LAZY;
	assert_int_equal(pagemap_extents(&maps[0], 0, UINT64_MAX, &x, &err), -1);
	assert_non_null(strstr(err.text, "left at the source"));
	vec_free(&x);
	entries[1][0].flags = PE_PARENT; /* and so is the last one's */
	add(2, 0, 2, PE_PARENT);
	assert_int_equal(pagemap_extents(&maps[0], 0, UINT64_MAX, &x, &err), -1);
	assert_non_null(strstr(err.text, "missing"));
	vec_free(&x);
}

/* What store_parent of directory 0 says. */
static int ask_parent(struct err *err)
{
	struct store *s, *at;
	int rc = 0;

	s = at = open_level("0");
	while (rc == 0 && at)
		rc = store_parent(at, &at, err);
	store_close(s);
	return rc;
}

static void broken_links(void **state)
{
	struct err err;

	shell("mkdir %s/0 %s/1 %s/2", folder, folder, folder);
	assert_int_equal(ask_parent(&err), 0); /* no link, no parent */
	shell("ln -s ../1 %s/0/parent; ln -s ../2 %s/1/parent", folder, folder);
	assert_int_equal(ask_parent(&err), 0);
	shell("ln -s ../1 %s/2/parent", folder);
	assert_int_equal(ask_parent(&err), -1);
	assert_int_equal(err.no, ELOOP);
	assert_non_null(strstr(err.text, "circle"));
	shell("ln -sfn ../7 %s/2/parent", folder);
	assert_int_equal(ask_parent(&err), -1);
	assert_int_equal(err.no, ENOENT);
	assert_non_null(strstr(err.text, "../7"));
	shell("rm %s/2/parent; touch %s/2/parent", folder, folder);
	assert_int_equal(ask_parent(&err), -1);
	assert_int_equal(err.no, ENOTDIR);
}

/* The one that CRIU restored; links do not survive in the place where it is kept. */
static void copy_fixture(void)
{
	shell("cp -r " FIXTURES "/parentchain/. %s && chmod -R u+w %s", folder, folder);
	shell("rm -f %s/top/parent; ln -s ../base %s/top/parent", folder, folder);
}

static void real_chain(void **state)
{
	struct snap_pagemap *pm;
	struct snapshot *snap;
	char page[PAGE_BYTES];
	struct err err;

	need_fixtures();
	copy_fixture();
	top = open_level("top");
	snap = snapshot_load(top, &err);
	if (!snap || snapshot_check_pages(snap, top, &err))
		fail_msg("%s", err.text);
	pm = snap->tasks.v[0]->pagemap;
	assert_true(snapshot_pagemap_needs_parent(pm));
	assert_non_null(pm->parent);
	assert_int_equal(pagemap_read(top, pm, 0x20000000, page, sizeof(page), &err), 1);
	assert_memory_equal(page, "single:page0:AAA", 16);
	assert_int_equal(pagemap_read(top, pm, 0x20001000, page, sizeof(page), &err), 0);
	assert_int_equal(pagemap_read(top, pm, 0x20002000, page, sizeof(page), &err), 1);
	assert_int_equal(page[0], 0);
	assert_int_equal(pagemap_read(top, pm, 0x20003000, page, sizeof(page), &err), 1);
	assert_memory_equal(page, "single:page3:DDD", 16); /* the older one starts with OLD */
	snapshot_free(snap);
	shell("truncate -s 4096 %s/base/pages-1.img", folder);
	snap = snapshot_load(top, &err);
	assert_non_null(snap);
	assert_int_equal(snapshot_check_pages(snap, top, &err), -1);
	snapshot_free(snap);
}

static void real_chain_without_links(void **state)
{
	struct err err;

	need_fixtures();
	copy_fixture();
	shell("rm %s/base/pagemap-34.img", folder);
	top = open_level("top");
	assert_null(snapshot_load(top, &err));
	assert_non_null(strstr(err.text, "pagemap-34.img: the image is missing in a parent"));
	store_close(top);
	shell("rm %s/top/parent", folder);
	top = open_level("top");
	assert_null(snapshot_load(top, &err));
	assert_non_null(strstr(err.text, "the link \"parent\" is missing"));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		TEST(pages_come_from_their_levels),
		TEST(shared_memory_too),
		TEST(a_page_that_the_parent_has_not),
		TEST(broken_links),
		TEST(real_chain),
		TEST(real_chain_without_links),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

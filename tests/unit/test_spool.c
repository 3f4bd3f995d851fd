// SPDX-License-Identifier: Apache-2.0
// store/spool: readers wait and find, writers wait for room, and nobody waits for ever.
#include "unit.h"

#include "store/spool.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

static void no_error(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%s", err->text);
}

static struct spool *new_spool(uint64_t max_bytes)
{
	struct err err;
	struct spool *sp = spool_create(max_bytes, &err);

	assert_non_null(sp);
	return sp;
}

static struct store *writer_of(struct spool *sp, const char *name)
{
	struct err err = {0};
	struct shot *shot = spool_write(sp, name, &err);
	struct store *s = shot ? spool_store_open(shot, true, &err) : NULL;

	if (!s)
		fail_msg("%s", err.text);
	return s;
}

static struct store *reader_of(struct spool *sp, const char *name)
{
	struct err err = {0};
	struct shot *shot = spool_read(sp, name, &err);
	struct store *s = shot ? spool_store_open(shot, false, &err) : NULL;

	if (!s)
		fail_msg("%s", err.text);
	return s;
}

struct put_job {
	struct store *s;
	unsigned int pages;
	int rc;
	struct err err;
};

/* Pages whose first byte is their number, one put each, then the end. */
static void *put_pages(void *arg)
{
	struct put_job *job = arg;
	uint8_t page[PAGE_BYTES] = {0};

	for (unsigned int i = 0; i < job->pages; i++) {
		page[0] = (uint8_t)(i + 1);
		job->rc = store_put_pages(job->s, 1, page, sizeof(page), &job->err);
		if (job->rc)
			return NULL;
	}
	job->rc = store_put_pages(job->s, 1, NULL, 0, &job->err) || store_complete(job->s, &job->err);
	return NULL;
}

/* Much more goes through than is ever held; the reader gets all of it. */
static void a_slow_reader_bounds_the_writer(void **state)
{
	enum { PAGES = 100, ROOM = 8 };
	struct spool *sp = new_spool(ROOM * PAGE_BYTES);
	struct put_job job = {.s = writer_of(sp, "x"), .pages = PAGES};
	struct store *reader = reader_of(sp, "x");
	uint8_t page[PAGE_BYTES];
	struct err err = {0};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, put_pages, &job), 0);
	for (unsigned int i = 0; i < PAGES; i++) {
		no_error(store_get_pages(reader, 1, i * PAGE_BYTES, page, sizeof(page), &err), &err);
		assert_int_equal(page[0], i + 1);
		usleep(i % 10 ? 0 : 1000);
	}
	pthread_join(thread, NULL);
	no_error(job.rc, &job.err);
	no_error(store_arrived(reader, &err), &err);
	assert_true(spool_peak_bytes(sp) <= ROOM * PAGE_BYTES);
	/* what was let go cannot be had again, and that is said */
	assert_int_equal(store_get_pages(reader, 1, 0, page, sizeof(page), &err), -1);
	assert_non_null(strstr(err.text, "--max-memory"));
	store_close(reader);
	store_close(job.s);
	spool_free(sp);
}

/* A soft bound holds for who reads in order, and gives way to who wants what comes behind more than fits. */
static void a_soft_bound_gives_way(void **state)
{
	enum { PAGES = 100, ROOM = 8 };
	struct spool *sp = new_spool(ROOM * PAGE_BYTES);
	struct put_job job = {.s = writer_of(sp, "x"), .pages = PAGES};
	struct store *reader = reader_of(sp, "x");
	uint8_t page[PAGE_BYTES];
	struct err err = {0};
	pthread_t thread;

	spool_soften(sp);
	assert_int_equal(pthread_create(&thread, NULL, put_pages, &job), 0);
	for (unsigned int i = 0; i < PAGES / 2; i++)
		no_error(store_get_pages(reader, 1, i * PAGE_BYTES, page, sizeof(page), &err), &err);
	assert_true(spool_peak_bytes(sp) <= ROOM * PAGE_BYTES);
	no_error(store_get_pages(reader, 1, (PAGES - 1) * PAGE_BYTES, page, sizeof(page), &err),
		 &err);
	assert_int_equal(page[0], PAGES);
	pthread_join(thread, NULL);
	no_error(job.rc, &job.err);
	no_error(store_arrived(reader, &err), &err);
	no_error(store_get_pages(reader, 1, PAGES / 2 * PAGE_BYTES, page, sizeof(page), &err), &err);
	assert_int_equal(page[0], PAGES / 2 + 1);
	store_close(reader);
	store_close(job.s);
	spool_free(sp);
}

/* What was forwarded does not stay, also without a bound. */
static void a_forwarder_keeps_nothing(void **state)
{
	enum { PAGES = 50 };
	struct err err = {0};
	struct spool *sp = new_spool(0);
	struct shot *shot = spool_write(sp, "x", &err);
	struct store *writer = spool_store_open(shot, true, &err);
	uint8_t page[PAGE_BYTES] = {1};
	struct item *at = NULL;
	struct block b;

	assert_non_null(writer);
	spool_forwards(sp);
	for (int i = 0; i < PAGES; i++) {
		no_error(store_put_pages(writer, 1, page, sizeof(page), &err), &err);
		do
			assert_int_equal(shot_next(shot, &at, &b, &err), 1);
		while (b.type != BLOCK_PAGES);
		assert_memory_equal(b.data, page, sizeof(page));
	}
	assert_true(spool_peak_bytes(sp) <= 2 * PAGE_BYTES);
	store_close(writer);
	spool_free(sp);
}

/* The reader wants what comes behind more than fits: both are told, instead of waiting for ever. */
static void what_cannot_end_is_ended(void **state)
{
	struct spool *sp = new_spool(4 * PAGE_BYTES);
	struct put_job job = {.s = writer_of(sp, "x"), .pages = 6};
	struct store *reader = reader_of(sp, "x");
	struct err err = {0};
	pthread_t thread;
	size_t bytes;
	void *data;

	assert_int_equal(pthread_create(&thread, NULL, put_pages, &job), 0);
	assert_int_equal(store_get(reader, "late.img", &data, &bytes, &err), -1);
	assert_int_equal(err.no, ENOSPC);
	assert_non_null(strstr(err.text, "--max-memory"));
	pthread_join(thread, NULL);
	assert_int_equal(job.rc, -1);
	assert_int_equal(job.err.no, ENOSPC);
	store_close(reader);
	store_close(job.s);
	spool_free(sp);
}

struct get_job {
	struct store *s;
	unsigned int pages;
	struct err err;
	int rc;
};

static void *get_pages(void *arg)
{
	struct get_job *job = arg;
	uint8_t page[PAGE_BYTES];

	for (unsigned int i = 0; i < job->pages && job->rc == 0; i++) {
		job->rc = store_get_pages(job->s, 1, i * PAGE_BYTES, page, sizeof(page), &job->err);
		if (job->rc == 0 && page[0] != (uint8_t)(i + 1))
			job->rc = err_set(&job->err, EIO, "page %u is another one", i);
	}
	return NULL;
}

static void await_peak(struct spool *sp, uint64_t bytes)
{
	while (spool_peak_bytes(sp) < bytes)
		usleep(1000);
	usleep(50000);
}

/* The one finds no room, as it is taken by another: which is read, so that there will be some. */
static void snapshots_share_the_room(void **state)
{
	enum { PAGES = 100, ROOM = 8 };
	struct spool *sp = new_spool(ROOM * PAGE_BYTES);
	struct put_job put[] = {{.s = writer_of(sp, "1"), .pages = PAGES},
				{.s = writer_of(sp, "2"), .pages = PAGES}};
	struct get_job get[] = {{.s = reader_of(sp, "1"), .pages = PAGES},
				{.s = reader_of(sp, "2"), .pages = PAGES}};
	pthread_t threads[4];

	assert_int_equal(pthread_create(&threads[0], NULL, put_pages, &put[0]), 0);
	await_peak(sp, ROOM * PAGE_BYTES);
	assert_int_equal(pthread_create(&threads[1], NULL, put_pages, &put[1]), 0);
	assert_int_equal(pthread_create(&threads[2], NULL, get_pages, &get[1]), 0);
	usleep(50000);
	assert_int_equal(pthread_create(&threads[3], NULL, get_pages, &get[0]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < 2; i++) {
		no_error(put[i].rc, &put[i].err);
		no_error(get[i].rc, &get[i].err);
		store_close(get[i].s);
		store_close(put[i].s);
	}
	assert_true(spool_peak_bytes(sp) <= ROOM * PAGE_BYTES);
	spool_free(sp);
}

/* If nobody reads what takes the room it is not waited for. */
static void what_nobody_reads_is_not_waited_for(void **state)
{
	enum { ROOM = 8 };
	struct spool *sp = new_spool(ROOM * PAGE_BYTES);
	struct put_job put[] = {{.s = writer_of(sp, "1"), .pages = ROOM},
				{.s = writer_of(sp, "2"), .pages = 1}};
	struct get_job get = {.s = reader_of(sp, "2"), .pages = 1};
	pthread_t thread;

	put_pages(&put[0]);
	no_error(put[0].rc, &put[0].err);
	assert_int_equal(pthread_create(&thread, NULL, get_pages, &get), 0);
	put_pages(&put[1]);
	pthread_join(thread, NULL);
	assert_int_equal(put[1].rc, -1);
	assert_int_equal(put[1].err.no, ENOSPC);
	assert_int_equal(get.rc, -1);
	assert_int_equal(get.err.no, ENOSPC);
	store_close(get.s);
	store_close(put[0].s);
	store_close(put[1].s);
	spool_free(sp);
}

/* What has come of one that fails takes no room. */
static void what_failed_is_let_go(void **state)
{
	enum { ROOM = 8 };
	struct spool *sp = new_spool(ROOM * PAGE_BYTES);
	struct put_job put = {.s = writer_of(sp, "2"), .pages = ROOM};
	struct store *dies = writer_of(sp, "1"), *reader = reader_of(sp, "1");
	uint8_t page[PAGE_BYTES] = {1};
	struct err err = {0};
	size_t bytes;
	void *data;

	no_error(store_put(dies, "core-1.img", "x", 1, &err), &err);
	for (int i = 0; i < ROOM - 1; i++)
		no_error(store_put_pages(dies, 1, page, sizeof(page), &err), &err);
	store_close(dies);
	put_pages(&put);
	no_error(put.rc, &put.err);
	/* and the reader hears why, also of what had come */
	assert_int_equal(store_get(reader, "core-1.img", &data, &bytes, &err), -1);
	assert_non_null(strstr(err.text, "before it was complete"));
	assert_int_equal(store_get_pages(reader, 1, 0, page, sizeof(page), &err), -1);
	assert_non_null(strstr(err.text, "before it was complete"));
	store_close(reader);
	store_close(put.s);
	spool_free(sp);
}

/* Who waits for a moment only is told that there is no room, and it is as before. */
static void a_wait_for_room_may_end(void **state)
{
	struct spool *sp = new_spool(4);
	struct err err = {0};
	struct shot *shot = spool_write(sp, "x", &err), *other = spool_write(sp, "y", &err);

	assert_non_null(shot);
	assert_non_null(other);
	no_error(shot_reserve(shot, 3, 0, &err), &err);
	assert_int_equal(shot_reserve(other, 2, 10, &err), 1);
	assert_int_equal(shot_reserve(other, 1, 10, &err), 0);
	shot_release(shot, 3);
	assert_int_equal(shot_reserve(other, 3, 10, &err), 0);
	shot_release(other, 4);
	shot_close_writer(shot);
	shot_close_writer(other);
	spool_free(sp);
}

static void snapshots_are_kept_apart(void **state)
{
	struct spool *sp = new_spool(0);
	struct store *one = writer_of(sp, "1"), *two = writer_of(sp, "2"), *r;
	struct err err = {0};
	size_t bytes;
	void *data;

	no_error(store_put(one, "core-1.img", "one", 3, &err), &err);
	no_error(store_put(two, "core-1.img", "two", 3, &err), &err);
	no_error(store_complete(one, &err), &err);
	no_error(store_complete(two, &err), &err);
	r = reader_of(sp, "2");
	no_error(store_get(r, "core-1.img", &data, &bytes, &err), &err);
	assert_memory_equal(data, "two", 3);
	free(data);
	store_close(r);
	assert_null(spool_write(sp, "1", &err));
	assert_int_equal(err.no, EEXIST);
	store_close(one);
	store_close(two);
	spool_free(sp);
}

/* The reader comes first; the first writer dies; the second one is another matter. */
static void a_writer_that_dies_fails_its_readers_only(void **state)
{
	struct spool *sp = new_spool(0);
	struct store *early = reader_of(sp, "x"), *w = writer_of(sp, "x"), *again, *late;
	struct err err = {0};
	size_t bytes;
	void *data;

	no_error(store_put(w, "a.img", "a", 1, &err), &err);
	store_close(w);
	assert_int_equal(store_get(early, "b.img", &data, &bytes, &err), -1);
	assert_non_null(strstr(err.text, "before it was complete"));
	assert_int_equal(store_arrived(early, &err), -1);
	again = writer_of(sp, "x");
	no_error(store_put(again, "b.img", "b", 1, &err), &err);
	no_error(store_complete(again, &err), &err);
	late = reader_of(sp, "x");
	no_error(store_get(late, "b.img", &data, &bytes, &err), &err);
	free(data);
	assert_int_equal(store_get(late, "a.img", &data, &bytes, &err), 1);
	store_close(early);
	store_close(late);
	store_close(again);
	spool_free(sp);
}

/* Who comes after a failure hears of it, once: then somebody knows, and the next one waits for another writer. */
static void a_failure_is_told_once(void **state)
{
	struct spool *sp = new_spool(0);
	struct store *r, *w = writer_of(sp, "x");
	struct err err = {0};

	store_close(w);
	assert_null(spool_read(sp, "x", &err));
	assert_non_null(strstr(err.text, "before it was complete"));
	assert_non_null(strstr(err.text, " s ago"));
	r = reader_of(sp, "x");
	w = writer_of(sp, "x");
	no_error(store_complete(w, &err), &err);
	no_error(store_arrived(r, &err), &err);
	store_close(r);
	store_close(w);
	spool_free(sp);
}

/* So it is with who was told while he waited. */
static void who_waited_was_told(void **state)
{
	struct spool *sp = new_spool(0);
	struct store *r = reader_of(sp, "x"), *w = writer_of(sp, "x");
	struct err err = {0};

	store_close(w);
	assert_int_equal(store_arrived(r, &err), -1);
	store_close(r);
	r = reader_of(sp, "x");
	w = writer_of(sp, "x");
	no_error(store_complete(w, &err), &err);
	no_error(store_arrived(r, &err), &err);
	store_close(r);
	store_close(w);
	spool_free(sp);
}

static int goes_after_two_looks(void *of, struct err *err)
{
	int *looks = of;

	return ++*looks < 2 ? 0 : err_set(err, EPIPE, "gone");
}

static void nothing_is_read_for_who_is_gone(void **state)
{
	struct spool *sp = new_spool(0);
	struct shot *r;
	int looks = 0;
	const struct asker asker = {goes_after_two_looks, &looks};
	struct err err = {0};
	uint8_t page[PAGE_BYTES];
	size_t bytes;
	void *data;

	r = spool_read(sp, "x", &err);
	assert_non_null(r);
	assert_int_equal(shot_get(r, &asker, "a.img", &data, &bytes, &err), -1);
	assert_string_equal(err.text, "gone");
	assert_int_equal(looks, 2);
	assert_int_equal(shot_get_pages(r, &asker, 1, 0, page, sizeof(page), &err), -1);
	assert_int_equal(shot_read_pages(r, &asker, 1, 0, page, sizeof(page), &bytes, &err), -1);
	assert_int_equal(shot_wait(r, &asker, &err), -1);
	assert_int_equal(looks, 5);
	shot_close_reader(r);
	spool_free(sp);
}

static void *await_writer(void *arg)
{
	spool_await_writer(arg, "x", INT_MAX);
	return NULL;
}

/* Who would write what another one still writes waits for his end, and takes his place. */
static void a_writer_is_waited_for(void **state)
{
	struct spool *sp = new_spool(0);
	struct store *w;
	pthread_t thread;
	struct err err = {0};

	spool_await_writer(sp, "x", INT_MAX); /* there is none */
	w = writer_of(sp, "x");
	spool_await_writer(sp, "x", 10);
	assert_null(spool_write(sp, "x", &err));
	assert_non_null(strstr(err.text, "being written"));
	assert_int_equal(pthread_create(&thread, NULL, await_writer, sp), 0);
	store_close(w);
	assert_int_equal(pthread_join(thread, NULL), 0);
	w = writer_of(sp, "x");
	no_error(store_complete(w, &err), &err);
	spool_await_writer(sp, "x", INT_MAX); /* it has ended well */
	store_close(w);
	spool_free(sp);
}

/* A forwarder sees everything in the order in which it came. */
static void a_forwarder_follows(void **state)
{
	struct spool *sp = new_spool(0);
	struct err err = {0};
	struct shot *follow = spool_read(sp, "x", &err);
	struct store *w = writer_of(sp, "x");
	struct item *at = NULL;
	uint8_t page[PAGE_BYTES] = {1};
	struct block b;

	no_error(store_put(w, "a.img", "a", 1, &err), &err);
	no_error(store_put_pages(w, 3, page, sizeof(page), &err), &err);
	no_error(store_put_pages(w, 3, NULL, 0, &err), &err);
	no_error(store_skip(w, "c.img", &err), &err);
	no_error(store_complete(w, &err), &err);
	assert_int_equal(shot_next(follow, &at, &b, &err), 1);
	assert_int_equal(b.type, BLOCK_OBJECT);
	assert_string_equal(b.name, "a.img");
	assert_int_equal(shot_next(follow, &at, &b, &err), 1);
	assert_int_equal(b.type, BLOCK_PAGES);
	assert_int_equal(b.n_data, PAGE_BYTES);
	assert_int_equal(shot_next(follow, &at, &b, &err), 1);
	assert_int_equal(b.type, BLOCK_PAGES_END);
	assert_int_equal(shot_next(follow, &at, &b, &err), 1);
	assert_int_equal(b.type, BLOCK_SKIP);
	assert_int_equal(shot_next(follow, &at, &b, &err), 0);
	shot_close_reader(follow);
	store_close(w);
	spool_free(sp);
}

/* Pages that do not follow each other. */
static void gaps_are_refused(void **state)
{
	struct spool *sp = new_spool(0);
	struct err err = {0};
	struct shot *shot = spool_write(sp, "x", &err);
	struct block zeros = {.type = BLOCK_ZEROS, .id = 1, .off = PAGE_BYTES, .bytes = PAGE_BYTES};

	assert_int_equal(shot_add(shot, &zeros, NULL, &err), -1);
	assert_non_null(strstr(err.text, "pages-1.img"));
	shot_close_writer(shot);
	spool_free(sp);
}

/* Two ids by turns, as CRIU may send them; a reader who does not know how many there are. */
static void pages_are_read_to_their_end(void **state)
{
	struct spool *sp = new_spool(0);
	struct store *w = writer_of(sp, "x"), *r = reader_of(sp, "x");
	uint8_t page[PAGE_BYTES] = {0}, got[4 * PAGE_BYTES];
	uint64_t off[2] = {0};
	struct err err = {0};
	size_t n;

	for (unsigned int i = 0; i < 6; i++) {
		page[0] = (uint8_t)(i + 1);
		no_error(store_put_pages(w, i % 2, page, sizeof(page), &err), &err);
	}
	for (unsigned int id = 0; id < 2; id++)
		no_error(store_put_pages(w, id, NULL, 0, &err), &err);
	no_error(store_complete(w, &err), &err);
	for (unsigned int id = 0; id < 2; id++) {
		for (;; off[id] += n) {
			no_error(store_read_pages(r, id, off[id], got, sizeof(got), &n, &err), &err);
			if (!n)
				break;
			assert_int_equal(got[0], 2 * off[id] / PAGE_BYTES + id + 1);
		}
		assert_int_equal(off[id], 3 * PAGE_BYTES);
	}
	assert_int_equal(store_read_pages(r, 2, 0, got, sizeof(got), &n, &err), 1);
	store_close(w);
	store_close(r);
	spool_free(sp);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slow_reader_bounds_the_writer),
		cmocka_unit_test(a_soft_bound_gives_way),
		cmocka_unit_test(a_forwarder_keeps_nothing),
		cmocka_unit_test(what_cannot_end_is_ended),
		cmocka_unit_test(snapshots_share_the_room),
		cmocka_unit_test(what_nobody_reads_is_not_waited_for),
		cmocka_unit_test(what_failed_is_let_go),
		cmocka_unit_test(a_wait_for_room_may_end),
		cmocka_unit_test(snapshots_are_kept_apart),
		cmocka_unit_test(a_writer_that_dies_fails_its_readers_only),
		cmocka_unit_test(a_failure_is_told_once),
		cmocka_unit_test(who_waited_was_told),
		cmocka_unit_test(nothing_is_read_for_who_is_gone),
		cmocka_unit_test(a_writer_is_waited_for),
		cmocka_unit_test(a_forwarder_follows),
		cmocka_unit_test(gaps_are_refused),
		cmocka_unit_test(pages_are_read_to_their_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

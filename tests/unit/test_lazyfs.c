// SPDX-License-Identifier: Apache-2.0
// The parts of the lazy file system that are data structures: block map, names, read-ahead, scope, protocol.
#include "unit.h"

#include "lazyfs/ahead.h"
#include "lazyfs/blocks.h"
#include "lazyfs/dirnames.h"
#include "lazyfs/scope.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* Against an array of bytes, with ranges that begin and end anywhere. */
static void blocks_model(void **state)
{
	enum { N = 40000 };
	cleanup_free uint8_t *model = calloc(1, N);
	struct blocks b = {0};
	uint64_t set = 0;

	srand(7);
	assert_non_null(model);
	for (int round = 0; round < 300; round++) {
		uint64_t first = (uint64_t)rand() % N, end = first + (uint64_t)rand() % 600;
		bool want = rand() % 2;
		uint64_t from = (uint64_t)rand() % N, next = from;

		end = MIN(end, (uint64_t)N);
		assert_true(blocks_set(&b, first, end));
		for (uint64_t i = first; i < end; i++) {
			set += !model[i];
			model[i] = 1;
		}
		assert_int_equal(b.n_set, set);
		while (next < N && model[next] != want)
			next++;
		assert_int_equal(blocks_next(&b, from, N, want), next);
		assert_int_equal(blocks_get(&b, from), model[from]);
	}
	blocks_free(&b);
}

static void blocks_large(void **state)
{
	const uint64_t far = 1ull << 31; /* of a file of 8 TiB */
	struct blocks b = {0};

	assert_int_equal(blocks_next(&b, 0, far, false), 0);
	assert_int_equal(blocks_next(&b, 5, far, true), far);
	assert_true(blocks_set(&b, far, far + 1));
	assert_true(blocks_get(&b, far));
	assert_false(blocks_get(&b, far - 1));
	assert_int_equal(blocks_next(&b, 0, far + 100, true), far);
	assert_int_equal(blocks_next(&b, far, far + 100, false), far + 1);
	assert_true(blocks_set(&b, 3, 3));
	assert_int_equal(b.n_set, 1);
	blocks_free(&b);
}

static void names_model(void **state)
{
	enum { N = 500 };
	struct node *nodes = (struct node *)0x1000;
	struct names t = {0};
	size_t n = 0;
	char text[16];

	for (int i = 0; i < N; i++) {
		snprintf(text, sizeof(text), "name%d", i);
		assert_null(dirnames_find(&t, text));
		assert_non_null(dirnames_add(&t, text, nodes));
	}
	for (int i = 0; i < N; i += 2) {
		snprintf(text, sizeof(text), "name%d", i);
		dirnames_remove(&t, dirnames_find(&t, text));
		assert_null(dirnames_find(&t, text));
	}
	for (const struct name *e = t.first; e; e = e->next)
		n++;
	assert_int_equal(n, N / 2);
	assert_int_equal(t.n, N / 2);
	assert_string_equal(t.first->text, "name1");
	dirnames_free(&t);
}

static void ahead_of_readers(void **state)
{
	struct ahead a = {0};
	uint64_t at = 0, most = 0;

	/* one that goes on: farther and farther, up to the limit, and never behind what it reads */
	for (int i = 0; i < 1000; i++, at += 128 * 1024) {
		uint64_t end = ahead_plan(&a, at, 128 * 1024);

		assert_true(end >= at + 128 * 1024);
		most = MAX(most, end - at);
	}
	assert_true(most > AHEAD_MOST && most <= AHEAD_MOST + 128 * 1024);
	/* one that jumps: exactly what it reads */
	a = (struct ahead){0};
	for (int i = 1; i < 100; i++) {
		at = (uint64_t)(i * 7919 % 100) << 24 | 1ull << 40;
		assert_int_equal(ahead_plan(&a, at, 4096), at + 4096);
	}
}

static int collect(void *arg, const char *name)
{
	strcat(arg, name);
	strcat(arg, " ");
	return 0;
}

static void scope_places(void **state)
{
	static const struct lf_export exports[] = {
		{"/usr/lib/b.so", false}, {"/usr/lib/a.so", false},  {"/usr/lib-x/c", false},
		{"/srv/www", true},       {"/srv/www/index", false}, {"/srv/www-old", false},
		{"/usr/lib/a.so", false}, {"/bin/sh", false},
	};
	char names[256] = "";
	struct scope s;
	struct err err;

	assert_int_equal(scope_init(&s, exports, ARRAY_SIZE(exports), &err), 0);
	assert_int_equal(scope_place(&s, "/"), SCOPE_WAY);
	assert_int_equal(scope_place(&s, "/usr"), SCOPE_WAY);
	assert_int_equal(scope_place(&s, "/usr/lib"), SCOPE_WAY);
	assert_int_equal(scope_place(&s, "/usr/lib/a.so"), SCOPE_FILE);
	assert_int_equal(scope_place(&s, "/usr/lib/a.so.1"), SCOPE_OUTSIDE);
	assert_int_equal(scope_place(&s, "/usr/lib/a"), SCOPE_OUTSIDE);
	assert_int_equal(scope_place(&s, "/usr/li"), SCOPE_OUTSIDE);
	assert_int_equal(scope_place(&s, "/srv/www"), SCOPE_INSIDE);
	assert_int_equal(scope_place(&s, "/srv/www/a/b/c"), SCOPE_INSIDE);
	assert_int_equal(scope_place(&s, "/srv/www-old"), SCOPE_FILE);
	assert_int_equal(scope_place(&s, "/srv/www-new"), SCOPE_OUTSIDE);
	assert_int_equal(scope_place(&s, "/etc/shadow"), SCOPE_OUTSIDE);
	assert_int_equal(scope_children(&s, "/", collect, names), 0);
	assert_string_equal(names, "bin srv usr ");
	names[0] = '\0';
	assert_int_equal(scope_children(&s, "/usr", collect, names), 0);
	assert_string_equal(names, "lib lib-x ");
	names[0] = '\0';
	assert_int_equal(scope_children(&s, "/srv", collect, names), 0);
	assert_string_equal(names, "www www-old ");
	scope_finish(&s);
}

static void scope_everything(void **state)
{
	static const struct lf_export exports[] = {{"/a", false}, {"/", true}};
	struct scope s;
	struct err err;

	assert_int_equal(scope_init(&s, exports, ARRAY_SIZE(exports), &err), 0);
	assert_int_equal(s.n, 1);
	assert_int_equal(scope_place(&s, "/"), SCOPE_INSIDE);
	assert_int_equal(scope_place(&s, "/etc/passwd"), SCOPE_INSIDE);
	scope_finish(&s);
}

static void paths(void **state)
{
	static const char *const good[] = {"/", "/a", "/a/b", "/...", "/.a", "/a b"};
	static const char *const bad[] = {"",     "a",     "/a/",   "//",      "/a//b", "/.",
					  "/a/.", "/a/..", "/../a", "/a/../b", "./a"};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(lf_path_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(lf_path_valid(bad[i]));
}

static struct frame frame_of(const struct lf_out *o)
{
	return (struct frame){.type = (uint16_t)(o->data[4] | o->data[5] << 8),
			      .body = o->data + FRAME_HEADER_BYTES,
			      .bytes = o->bytes - FRAME_HEADER_BYTES};
}

static void hello_round_trip(void **state)
{
	const uint32_t groups[] = {4, 5, 6};
	struct lf_hello hello = {.version = LF_VERSION, .root = "/srv"}, got;
	struct arena arena = {0};
	struct lf_out out = {0};
	struct frame f;
	struct err err;

	assert_true(vec_push(&hello.exports, (struct lf_export){"/a", true}));
	assert_true(vec_push(&hello.creds, (struct lf_creds){.uid = 7,
							     .gid = 8,
							     .n_groups = 3,
							     .groups = groups,
							     .reads_all = true}));
	assert_int_equal(lf_put_hello(&out, &hello), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_hello(&f, &got, &arena, &err), 0);
	assert_string_equal(got.root, "/srv");
	assert_true(got.exports.n == 1 && got.exports.v[0].whole);
	assert_true(got.creds.n == 1 && got.creds.v[0].reads_all && got.creds.v[0].uid == 7);
	assert_memory_equal(got.creds.v[0].groups, groups, sizeof(groups));
	lf_hello_free(&got);
	/* each shorter frame is refused */
	for (size_t n = 0; n < f.bytes; n++) {
		struct frame cut = {.type = f.type, .body = f.body, .bytes = n};

		assert_int_equal(lf_get_hello(&cut, &got, &arena, &err), -1);
		lf_hello_free(&got);
	}
	lf_hello_free(&hello);
	lf_out_free(&out);
	arena_free(&arena);
}

/* What only the one version says is nothing to the other. */
static void versions(void **state)
{
	const struct lf_creds creds = {.writes_all = true, .owns_all = true};
	struct lf_hello hello = {.version = LF_VERSION, .root = "/", .token = 5}, got;
	struct arena arena = {0};
	struct lf_out out = {0};
	struct frame f;
	struct err err;

	assert_true(vec_push(&hello.creds, creds));
	for (uint32_t v = LF_VERSION - 1; v <= LF_VERSION_OWNERS + 1; v++) {
		const bool known = v >= LF_VERSION && v <= LF_VERSION_OWNERS;

		hello.version = v;
		out.bytes = 0;
		assert_int_equal(lf_put_hello(&out, &hello), 0);
		f = frame_of(&out);
		assert_int_equal(lf_get_hello(&f, &got, &arena, &err), known ? 0 : -1);
		if (known) {
			assert_int_equal(got.token, lf_writes(v) ? 5 : 0);
			assert_int_equal(got.creds.v[0].writes_all, lf_writes(v));
			assert_int_equal(got.creds.v[0].owns_all, v == LF_VERSION_OWNERS);
		} else {
			assert_non_null(strstr(err.text, "install the same version on both"));
		}
		lf_hello_free(&got);
	}
	lf_hello_free(&hello);
	lf_out_free(&out);
	arena_free(&arena);
}

static void change_round_trip(void **state)
{
	const struct lf_request q = {.type = LF_RENAME,
				     .id = 3,
				     .path = "/a",
				     .other = "/b",
				     .want = {.ino = 5},
				     .replaced = {.ino = 6},
				     .flags = LF_RESUME,
				     .time_ns = 7};
	struct arena arena = {0};
	struct lf_request got;
	struct lf_out out = {0};
	struct frame f;
	struct err err;

	assert_int_equal(lf_put_request(&out, &q), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_request(&f, &got, &arena, &err), 0);
	assert_string_equal(got.other, "/b");
	assert_true(got.want.ino == 5 && got.replaced.ino == 6 && got.flags == LF_RESUME &&
		    got.time_ns == 7 && !got.data_bytes);
	for (size_t n = 0; n < f.bytes; n++) {
		struct frame cut = {.type = f.type, .body = f.body, .bytes = n};

		assert_int_equal(lf_get_request(&cut, &got, &arena, &err), -1);
	}
	lf_out_free(&out);
	arena_free(&arena);
}

static void folder_round_trip(void **state)
{
	struct lf_reply r = {.type = LF_FOLDER, .id = 9, .more = true, .path = "/a/b"};
	struct lf_entry link = {.name = "l", .target = "to", .attr.mode = S_IFLNK | 0777};
	struct lf_out out = {0};
	struct arena arena = {0};
	struct lf_reply got;
	struct frame f;
	struct err err;

	assert_true(vec_push(&r.entries, link));
	assert_int_equal(lf_put_reply(&out, &r), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_reply(&f, &got, &arena, &err), 0);
	assert_true(got.more && !got.last);
	assert_string_equal(got.path, "/a/b");
	assert_int_equal(got.entries.n, 1);
	assert_string_equal(got.entries.v[0].target, "to");
	lf_reply_free(&got);
	out.bytes = 0;
	/* nothing but a link holds something, and a path is one */
	r.entries.v[0].attr.mode = S_IFREG;
	assert_int_equal(lf_put_reply(&out, &r), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_reply(&f, &got, &arena, &err), -1);
	lf_reply_free(&got);
	out.bytes = 0;
	r.entries.n = 0;
	r.path = "/a/../b";
	assert_int_equal(lf_put_reply(&out, &r), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_reply(&f, &got, &arena, &err), -1);
	lf_reply_free(&got);
	lf_reply_free(&r);
	lf_out_free(&out);
	arena_free(&arena);
}

static void data_round_trip(void **state)
{
	struct lf_reply r = {.type = LF_DATA,
			     .id = 9,
			     .position = 4096,
			     .covered = 8192,
			     .n_extents = 2,
			     .extents = {{0, 3}, {4096, 2}},
			     .data = (const uint8_t *)"abcde"};
	struct lf_out out = {0};
	struct arena arena = {0};
	struct lf_reply got;
	struct frame f;
	struct err err;

	assert_int_equal(lf_put_reply(&out, &r), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_reply(&f, &got, &arena, &err), 0);
	assert_int_equal(got.id, 9);
	assert_int_equal(got.n_extents, 2);
	assert_memory_equal(got.data, "abcde", 5);
	out.bytes = 0;
	/* what overlaps, or reaches outside of what it covers, is not believed */
	r.extents[1].at = 2;
	assert_int_equal(lf_put_reply(&out, &r), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_reply(&f, &got, &arena, &err), -1);
	out.bytes = 0;
	r.extents[1] = (struct lf_extent){8191, 2};
	assert_int_equal(lf_put_reply(&out, &r), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_reply(&f, &got, &arena, &err), -1);
	lf_out_free(&out);
	arena_free(&arena);
}

static void requests_checked(void **state)
{
	static const uint8_t data[] = {1};
	static const struct lf_request bad[] = {
		{.type = LF_STAT, .path = "/a/../b"},
		{.type = LF_STAT, .path = "etc"},
		{.type = LF_READ, .path = "/a", .bytes = LF_READ_MAX + 1},
		{.type = LF_READ, .path = "/a", .bytes = 0},
		{.type = LF_READ, .path = "/a", .bytes = 1, .offset = 1ull << 63},
		{.type = LF_SEEK, .path = "/a", .bytes = SEEK_SET},
		{.type = LF_WRITE, .path = "/a", .other = "", .bytes = 0},
		{.type = LF_WRITE, .path = "/a", .other = "x", .bytes = 1, .flags = 4},
		{.type = LF_WRITE, .path = "/a", .other = "", .bytes = 2, .data = data, .data_bytes = 1},
		{.type = LF_WRITE, .path = "/a", .other = "", .bytes = 2, .offset = INT64_MAX - 1},
		{.type = LF_RESIZE, .path = "/a", .other = "", .data = data, .data_bytes = 1},
		{.type = LF_REMOVE, .path = "/a", .other = "/b"},
		{.type = LF_RENAME, .path = "/a", .other = "/../b"},
		{.type = LF_RENAME, .path = "/a", .other = ""},
		{.type = LF_CREATE, .path = "/a", .other = "", .mode = S_IFLNK},
		{.type = LF_CREATE, .path = "/a", .other = "", .mode = S_IFCHR},
		{.type = LF_CREATE, .path = "/a", .other = "x", .mode = S_IFREG},
	};
	const struct lf_request good = {
		.type = LF_READ, .id = 3, .path = "/a", .bytes = 4096, .want = {.ino = 5}};
	struct arena arena = {0};
	struct lf_request got;
	struct lf_out out = {0};
	struct frame f;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		out.bytes = 0;
		assert_int_equal(lf_put_request(&out, &bad[i]), 0);
		f = frame_of(&out);
		assert_int_equal(lf_get_request(&f, &got, &arena, &err), -1);
	}
	out.bytes = 0;
	assert_int_equal(lf_put_request(&out, &good), 0);
	f = frame_of(&out);
	assert_int_equal(lf_get_request(&f, &got, &arena, &err), 0);
	assert_true(got.id == 3 && got.want.ino == 5 && got.bytes == 4096);
	lf_out_free(&out);
	arena_free(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_model),
		cmocka_unit_test(blocks_large),
		cmocka_unit_test(names_model),
		cmocka_unit_test(ahead_of_readers),
		cmocka_unit_test(scope_places),
		cmocka_unit_test(scope_everything),
		cmocka_unit_test(paths),
		cmocka_unit_test(hello_round_trip),
		cmocka_unit_test(data_round_trip),
		cmocka_unit_test(folder_round_trip),
		cmocka_unit_test(requests_checked),
		cmocka_unit_test(versions),
		cmocka_unit_test(change_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

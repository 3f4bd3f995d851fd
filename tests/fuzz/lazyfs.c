// SPDX-License-Identifier: Apache-2.0
// The lazy file system's protocol, both directions: what is accepted is within limits and encodes to the same bytes.
#include "lazyfs/proto.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

/* One frame of each type behind each other. */
size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const uint32_t groups[] = {1, 2};
	struct lf_hello hello = {.version = LF_VERSION, .root = "/"};
	struct lf_reply data = {.type = LF_DATA,
				.id = 1,
				.covered = 4096,
				.n_extents = 1,
				.extents = {{1, 3}},
				.data = (const uint8_t *)"abc"};
	struct lf_reply entries = {.type = LF_ENTRIES, .id = 2};
	struct lf_reply folder = {.type = LF_FOLDER, .id = 10, .more = true, .path = "/d"};
	struct lf_reply xattrs = {.type = LF_XATTR_LIST, .id = 3};
	const struct lf_reply others[] = {
		{.type = LF_FAILED, .id = 4, .error = 5},
		{.type = LF_ATTR, .id = 5},
		{.type = LF_POSITION, .id = 6, .position = 77},
		{.type = LF_SUM, .id = 9, .sum = {1, 2}},
		{.type = LF_TARGET, .id = 7, .target = (const uint8_t *)"to", .target_bytes = 2},
	};
	const struct lf_request q = {.type = LF_READ, .id = 8, .bytes = 4096, .path = "/a/b"};
	const struct lf_request changes[] = {
		{.type = LF_WRITE,
		 .path = "/a",
		 .other = "",
		 .bytes = 3,
		 .data_bytes = 3,
		 .data = (const uint8_t *)"abc"},
		{.type = LF_WRITE, .path = "/a", .other = "", .bytes = 4096, .flags = LF_RESUME},
		{.type = LF_RESIZE, .path = "/a", .other = "", .offset = 5},
		{.type = LF_SETTLE, .path = "/a", .other = "", .flags = LF_DURABLE, .time_ns = 7},
		{.type = LF_CREATE, .path = "/l", .other = "to", .mode = S_IFLNK | 0777},
		{.type = LF_REMOVE, .path = "/l", .other = ""},
		{.type = LF_RENAME, .path = "/a", .other = "/b", .replaced = {.ino = 9}},
		{.type = LF_SET, .path = "/a", .other = "", .bytes = LF_SET_MODE, .mode = 0640},
		{.type = LF_XATTR,
		 .path = "/a",
		 .other = "user.b",
		 .bytes = 1,
		 .data_bytes = 1,
		 .data = (const uint8_t *)"v"},
	};
	struct lf_hello writes = {.version = LF_VERSION_WRITES, .root = "/", .token = 11};
	struct lf_out o = {0};
	bool ok = vec_push(&hello.exports, (struct lf_export){"/a/b", true}) &&
		  vec_push(&hello.creds, (struct lf_creds){.n_groups = 2, .groups = groups}) &&
		  vec_push(&entries.entries, (struct lf_entry){.name = "n"}) &&
		  vec_push(&folder.entries, (struct lf_entry){.name = "l",
							      .target = "to",
							      .attr.mode = S_IFLNK | 0777}) &&
		  vec_push(&xattrs.xattrs, (struct lf_xattr){"user.a", (const uint8_t *)"v", 1});
	size_t n = 0;

	ok = ok && vec_push(&writes.creds, (struct lf_creds){.writes_all = true}) &&
	     !lf_put_hello(&o, &writes);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		ok = ok && !lf_put_request(&o, &changes[i]);
	ok = ok && !lf_put_hello(&o, &hello) && !lf_put_request(&o, &q) &&
	     !lf_put_reply(&o, &data) && !lf_put_reply(&o, &entries) &&
	     !lf_put_reply(&o, &folder) && !lf_put_reply(&o, &xattrs) && !lf_put_refused(&o, "no");
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		ok = ok && !lf_put_reply(&o, &others[i]);
	if (ok && o.bytes <= cap) {
		memcpy(out, o.data, o.bytes);
		n = o.bytes;
	}
	lf_hello_free(&hello);
	lf_hello_free(&writes);
	lf_reply_free(&entries);
	lf_reply_free(&folder);
	lf_reply_free(&xattrs);
	lf_out_free(&o);
	return n;
}

static void same(const struct frame *f, const struct lf_out *o)
{
	if (o->bytes != f->bytes + FRAME_HEADER_BYTES ||
	    memcmp(o->data + FRAME_HEADER_BYTES, f->body, f->bytes) != 0)
		abort();
}

static void try_hello(const struct frame *f, struct arena *arena)
{
	struct lf_out o = {0};
	struct lf_hello h;
	struct err err;

	if (lf_get_hello(f, &h, arena, &err) == 0) {
		vec_foreach (e, &h.exports)
			if (!lf_path_valid(e->path))
				abort();
		if (lf_put_hello(&o, &h) == 0)
			same(f, &o);
	}
	lf_hello_free(&h);
	lf_out_free(&o);
}

static void try_request(const struct frame *f, struct arena *arena)
{
	struct lf_out o = {0};
	struct lf_request q;
	struct err err;

	if (lf_get_request(f, &q, arena, &err) == 0) {
		if (!lf_path_valid(q.path) || (q.type == LF_READ && q.bytes > LF_READ_MAX))
			abort();
		if (q.type == LF_RENAME && !lf_path_valid(q.other))
			abort();
		if (lf_is_change(q.type) && q.data_bytes &&
		    ((q.type != LF_WRITE && q.type != LF_XATTR) || q.data_bytes != q.bytes))
			abort();
		if (lf_put_request(&o, &q) == 0)
			same(f, &o);
	}
	lf_out_free(&o);
}

static void try_reply(const struct frame *f, struct arena *arena)
{
	struct lf_out o = {0};
	struct lf_reply r;
	struct err err;

	if (lf_get_reply(f, &r, arena, &err) == 0) {
		vec_foreach (e, &r.entries)
			if (!lf_name_valid(e->name))
				abort();
		for (uint32_t i = 0; i < r.n_extents; i++)
			if ((uint64_t)r.extents[i].at + r.extents[i].bytes > r.covered)
				abort();
		if (lf_put_reply(&o, &r) == 0)
			same(f, &o);
	}
	lf_reply_free(&r);
	lf_out_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame_reader reader;
	struct arena arena = {0};
	struct frame f;
	struct err err;
	char why[64];

	frame_reader_init(&reader, lf_limit);
	while (size) {
		size_t room, n;
		uint8_t *space = frame_reader_space(&reader, &room);

		if (!space)
			break;
		n = MIN(room, size);
		memcpy(space, data, n);
		frame_reader_fed(&reader, n);
		data += n;
		size -= n;
		while (frame_next(&reader, &f, &err) == 1) {
			try_hello(&f, &arena);
			try_request(&f, &arena);
			try_reply(&f, &arena);
			if (lf_get_refused(&f, why, sizeof(why), &err) == 0 &&
			    strlen(why) >= sizeof(why))
				abort();
			arena_free(&arena);
		}
	}
	frame_reader_finish(&reader);
	return 0;
}

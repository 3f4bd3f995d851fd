// SPDX-License-Identifier: Apache-2.0
// The frame codec: any cut of the stream gives the same frames; hostile headers are refused.
#include "wire/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Types 1 to 3 exist, with these limits. */
static int64_t limit(uint16_t type)
{
	static const int64_t limits[] = {-1, 10, 1 << 20, 0};

	return type < ARRAY_SIZE(limits) ? limits[type] : -1;
}

static void feed(struct frame_reader *r, const uint8_t *data, size_t bytes)
{
	while (bytes) {
		size_t room, n;
		uint8_t *to = frame_reader_space(r, &room);

		assert_non_null(to);
		n = MIN(room, bytes);
		memcpy(to, data, n);
		frame_reader_fed(r, n);
		data += n;
		bytes -= n;
	}
}

static size_t put(uint8_t *to, uint16_t type, const void *body, uint32_t bytes)
{
	frame_header(to, type, bytes);
	if (bytes)
		memcpy(to + FRAME_HEADER_BYTES, body, bytes);
	return FRAME_HEADER_BYTES + bytes;
}

static void header_layout(void **state)
{
	static const uint8_t want[] = {0x04, 0x03, 0x02, 0x01, 0x06, 0x05, 0, 0};
	uint8_t got[FRAME_HEADER_BYTES];

	frame_header(got, 0x0506, 0x01020304);
	assert_memory_equal(got, want, sizeof(want));
}

/* The stream is fed in pieces of every size. */
static void any_cut(void **state)
{
	uint8_t stream[64];
	size_t bytes = 0;
	struct err err;
	struct frame f;

	bytes += put(stream + bytes, 1, "hello", 5);
	bytes += put(stream + bytes, 3, NULL, 0);
	bytes += put(stream + bytes, 2, "pages and pages", 15);
	for (size_t piece = 1; piece <= bytes; piece++) {
		static const struct frame want[] = {
			{1, (const uint8_t *)"hello", 5},
			{3, NULL, 0},
			{2, (const uint8_t *)"pages and pages", 15},
		};
		struct frame_reader r;
		size_t seen = 0;

		frame_reader_init(&r, limit);
		for (size_t at = 0; at < bytes; at += piece) {
			feed(&r, stream + at, MIN(piece, bytes - at));
			while (frame_next(&r, &f, &err) == 1) {
				assert_true(seen < ARRAY_SIZE(want));
				assert_int_equal(f.type, want[seen].type);
				assert_int_equal(f.bytes, want[seen].bytes);
				if (f.bytes)
					assert_memory_equal(f.body, want[seen].body, f.bytes);
				seen++;
			}
		}
		assert_int_equal(seen, ARRAY_SIZE(want));
		frame_reader_finish(&r);
	}
}

static void large_frame(void **state)
{
	size_t bytes = 1 << 20;
	uint8_t *stream = malloc(bytes + FRAME_HEADER_BYTES), *body = malloc(bytes);
	struct frame_reader r;
	struct frame f;
	struct err err;

	assert_true(stream && body);
	for (size_t i = 0; i < bytes; i++)
		body[i] = (uint8_t)(i * 7 + i / 256);
	put(stream, 2, body, (uint32_t)bytes);
	frame_reader_init(&r, limit);
	/* the limit is checked as soon as the header is there, and room is made for the frame */
	feed(&r, stream, 100);
	assert_int_equal(frame_next(&r, &f, &err), 0);
	feed(&r, stream + 100, bytes + FRAME_HEADER_BYTES - 100);
	assert_int_equal(frame_next(&r, &f, &err), 1);
	assert_int_equal(f.bytes, bytes);
	assert_memory_equal(f.body, body, bytes);
	frame_reader_finish(&r);
	free(stream);
	free(body);
}

static void peek_leaves_it(void **state)
{
	struct frame_reader r;
	uint8_t stream[32];
	struct frame f;
	struct err err;

	frame_reader_init(&r, limit);
	feed(&r, stream, put(stream, 1, "x", 1));
	assert_int_equal(frame_peek(&r, &f, &err), 1);
	assert_int_equal(frame_peek(&r, &f, &err), 1);
	assert_int_equal(frame_next(&r, &f, &err), 1);
	assert_int_equal(frame_next(&r, &f, &err), 0);
	frame_reader_finish(&r);
}

static void refuse(const void *stream, size_t bytes, const char *text)
{
	struct frame_reader r;
	struct frame f;
	struct err err = {0};

	frame_reader_init(&r, limit);
	feed(&r, stream, bytes);
	assert_int_equal(frame_next(&r, &f, &err), -1);
	/* and for good */
	assert_int_equal(frame_next(&r, &f, &err), -1);
	if (!strstr(err.text, text))
		fail_msg("said '%s', not '%s'", err.text, text);
	frame_reader_finish(&r);
}

static void hostile_headers(void **state)
{
	uint8_t header[FRAME_HEADER_BYTES];

	frame_header(header, 1, 11);
	refuse(header, sizeof(header), "11 bytes are more than 10");
	frame_header(header, 2, UINT32_MAX);
	refuse(header, sizeof(header), "4294967295 bytes are more than");
	frame_header(header, 3, 1);
	refuse(header, sizeof(header), "1 bytes are more than 0");
	frame_header(header, 4, 0);
	refuse(header, sizeof(header), "not of a ferry agent");
	frame_header(header, 1, 3);
	header[7] = 1;
	refuse(header, sizeof(header), "not of a ferry agent");
	refuse("bash: ferry: command not found\n", 31, "'bash: ferry: command not found'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_layout),   cmocka_unit_test(any_cut),
		cmocka_unit_test(large_frame),     cmocka_unit_test(peek_leaves_it),
		cmocka_unit_test(hostile_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

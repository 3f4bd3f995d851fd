// SPDX-License-Identifier: Apache-2.0
// Packed messages: what comes out is what went in; what was not packed so is refused; and the choice goes by what is
// measured.
#include "wire/pack.h"

#include "base/le.h"
#include "unit.h"
#include "wire/channel.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { PAGES = 200 };

static uint8_t pages[PAGES * PACK_PAGE_BYTES];
static uint8_t head[16] = "a head of 16 b.";
static struct iovec pieces[] = {{head, sizeof(head)}, {pages, sizeof(pages)}};

static uint64_t noise_state;

static uint64_t noise(void)
{
	noise_state ^= noise_state << 13;
	noise_state ^= noise_state >> 7;
	noise_state ^= noise_state << 17;
	return noise_state;
}

enum content { TEXT, ZEROS, NOISE, SAME_NOISE };

static void fill(enum content content)
{
	noise_state = 88172645463325252u;
	memset(pages, 0, sizeof(pages));
	for (size_t i = 0; i + 8 <= sizeof(pages) && content != ZEROS; i += 8) {
		uint64_t v = content == TEXT ? (i / 64) & 0xff : noise();

		if (content == SAME_NOISE && i % PACK_PAGE_BYTES == 0)
			noise_state = 88172645463325252u + i / PACK_PAGE_BYTES % 3;
		memcpy(pages + i, &v, 8);
	}
}

static struct packer *make_packer(unsigned int codecs, bool measure)
{
	struct err err;
	struct packer *p = packer_create(&pack_messages, codecs, measure, &err);

	assert_non_null(p);
	return p;
}

static void must_be_equal(struct unpacker *u, const struct iovec *packed, uint16_t type)
{
	struct frame f;
	struct err err;

	assert_int_equal(unpack(u, packed->iov_base, packed->iov_len, &f, &err), 0);
	assert_int_equal(f.type, type);
	assert_int_equal(f.bytes, sizeof(head) + sizeof(pages));
	assert_memory_equal(f.body, head, sizeof(head));
	assert_memory_equal(f.body + sizeof(head), pages, sizeof(pages));
}

static void what_comes_out_went_in(void **state)
{
	static const unsigned int codecs[] = {1 << CODEC_LZ4, 1 << CODEC_ZSTD};
	struct err err;
	struct unpacker *u = unpacker_create(&pack_messages, &err);

	assert_non_null(u);
	for (size_t c = 0; c < ARRAY_SIZE(codecs); c++) {
		struct packer *p = make_packer(codecs[c], false);

		for (enum content content = TEXT; content <= SAME_NOISE; content++) {
			struct iovec out;

			fill(content);
			if (content == NOISE) {
				assert_int_equal(packer_pack(p, MSG_ROUND_PAGES, pieces, 2, &out), 0);
				continue;
			}
			assert_int_equal(packer_pack(p, MSG_ROUND_PAGES, pieces, 2, &out), 1);
			must_be_equal(u, &out, MSG_ROUND_PAGES);
			/* three pages that cannot be compressed, and names for all others */
			if (content == SAME_NOISE)
				assert_in_range(out.iov_len, 3 * PACK_PAGE_BYTES,
						4 * PACK_PAGE_BYTES);
			if (content == ZEROS)
				assert_in_range(out.iov_len, 1, 2 * PAGES + 100);
			assert_int_equal(packer_pack(p, MSG_FILE_DATA, pieces, 2, &out), 1);
			must_be_equal(u, &out, MSG_FILE_DATA);
		}
		packer_free(p);
	}
	unpacker_free(u);
}

static void small_and_other_messages_go_as_they_are(void **state)
{
	struct packer *p = make_packer(PACK_CODECS, false);
	struct iovec out, few[] = {{head, sizeof(head)}, {pages, 1000}};

	fill(ZEROS);
	assert_int_equal(packer_pack(p, MSG_ROUND_PAGES, few, 2, &out), 0);
	assert_int_equal(packer_pack(p, MSG_FILE_LIST, pieces, 2, &out), 0);
	packer_free(p);
}

/* Somebody else's idea of a packed message. */
static void must_be_refused(struct unpacker *u, const uint8_t *body, size_t bytes, const char *words)
{
	struct frame f;
	struct err err;

	assert_int_equal(unpack(u, body, bytes, &f, &err), -1);
	if (!strstr(err.text, words))
		fail_msg("'%s' where '%s' was expected", err.text, words);
}

static void what_was_not_packed_so(void **state)
{
	struct packer *p = make_packer(1 << CODEC_LZ4, false);
	uint8_t bad[PACK_BODY_MAX];
	struct iovec out;
	struct err err;
	struct unpacker *u = unpacker_create(&pack_messages, &err);
	struct {
		size_t at;
		uint8_t value;
		const char *words;
	} changes[] = {
		{0, MSG_COMMIT, "not sent so"},
		{0, MSG_FILE_DATA, "not sent so"},
		{2, 9, "codec 9 is not known"},
		{2, CODEC_NONE, "codec 0 is not known"},
		{2, CODEC_ZSTD, "what it says"},
		{3, 1, "beginning"},
		{4, 17, "what it says"},
		{7, 1, "longer"},
		{9, 2, "longer"},
		{10, 0, "not there"},
		{10, 0xfe, "not there"}, /* the first page would be zero, but others are like it */
	};

	fill(TEXT);
	assert_int_equal(packer_pack(p, MSG_PAGES, pieces, 2, &out), 1);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		memcpy(bad, out.iov_base, out.iov_len);
		bad[changes[i].at] = changes[i].value;
		if (changes[i].at == 10 && changes[i].value == 0)
			bad[11] = 0; /* the first page, like itself */
		must_be_refused(u, bad, out.iov_len, changes[i].words);
	}
	for (size_t n = 0; n < PACK_FIXED_BYTES; n++)
		must_be_refused(u, out.iov_base, n, "beginning");
	must_be_refused(u, out.iov_base, PACK_FIXED_BYTES + 2 * PAGES, "longer");
	must_be_refused(u, out.iov_base, out.iov_len - 1, "what it says");
	packer_free(p);
	unpacker_free(u);
}

/* ---- the choice ---- */

/* A link with this many ns for a byte, as it would be seen. How many of the last 100 of 300 messages were packed? */
static unsigned int packed_on(double ns_per_byte)
{
	struct packer *p = make_packer(PACK_CODECS, true);
	unsigned int packed = 0;

	for (int i = 0; i < 300; i++) {
		struct iovec out;
		size_t bytes = sizeof(head) + sizeof(pages);
		int rc = packer_pack(p, MSG_ROUND_PAGES, pieces, 2, &out);

		if (rc)
			bytes = out.iov_len;
		packed += rc && i >= 200;
		packer_sent(p, bytes, (uint64_t)((double)bytes * ns_per_byte), ns_per_byte > 1);
	}
	packer_free(p);
	return packed;
}

static void slow_links_pack_and_fast_ones_do_not(void **state)
{
	fill(TEXT);
	assert_in_range(packed_on(1000), 90, 100); /* 1 MB/s */
	assert_in_range(packed_on(0.001), 0, 10);  /* 1000 GB/s: it only tries now and then */
	fill(NOISE);
	assert_int_equal(packed_on(1000), 0);
}

/* It has been slow, and is fast now, but always full: there is somebody who is slow to read, say. */
static void a_codec_does_not_make_the_link_look_slow(void **state)
{
	struct packer *p = make_packer(PACK_CODECS, true);
	struct pack_totals totals;

	fill(TEXT);
	for (int i = 0; i < 300; i++) {
		struct iovec out;
		size_t bytes = sizeof(head) + sizeof(pages);

		if (packer_pack(p, MSG_ROUND_PAGES, pieces, 2, &out))
			bytes = out.iov_len;
		packer_sent(p, bytes, i < 100 ? (uint64_t)bytes * 1000 : bytes / 100, true);
	}
	packer_totals(p, &totals);
	assert_in_range(totals.messages[CODEC_NONE], 50, 210);
	assert_in_range(totals.messages[CODEC_LZ4] + totals.messages[CODEC_ZSTD], 90, 250);
	packer_free(p);
}

/* ---- over a channel ---- */

static void *send_main(void *arg)
{
	struct channel *ch = arg;
	struct err err;

	for (int i = 0; i < 20; i++)
		if (channel_send_raw(ch, MSG_ROUND_PAGES, pieces, 2, &err) < 0)
			return "failed";
	return NULL;
}

static void through_a_channel(void **state)
{
	struct channel source, target;
	int ab[2], ba[2];
	struct frame f;
	struct err err;
	pthread_t thread;
	void *failed;

	assert_int_equal(pipe2(ab, O_CLOEXEC) | pipe2(ba, O_CLOEXEC), 0);
	channel_init(&source, ba[0], ab[1], WIRE_SOURCE, "there");
	channel_init(&target, ab[0], ba[1], WIRE_TARGET, "here");
	source.stage = target.stage = WIRE_STAGE_PRECOPY;
	target.timeout_ms = 20000;
	source.packer = make_packer(1 << CODEC_LZ4, false);
	fill(TEXT);
	assert_int_equal(pthread_create(&thread, NULL, send_main, &source), 0);
	/* who has not agreed to it refuses it */
	assert_int_equal(channel_recv(&target, &f, &err), -1);
	assert_non_null(strstr(err.text, "not agreed on"));
	target.unpacker = unpacker_create(&pack_messages, &err);
	assert_non_null(target.unpacker);
	for (int i = 1; i < 20; i++) {
		assert_int_equal(channel_recv(&target, &f, &err), 0);
		assert_int_equal(f.type, MSG_ROUND_PAGES);
		assert_memory_equal(f.body + sizeof(head), pages, sizeof(pages));
	}
	pthread_join(thread, &failed);
	assert_null(failed);
	assert_in_range(target.received_bytes, 1, 20 * sizeof(pages) / 4);
	/* what is inside obeys its own rules */
	target.stage = WIRE_STAGE_STATE;
	assert_null(send_main(&source));
	assert_int_equal(channel_recv(&target, &f, &err), -1);
	assert_non_null(strstr(err.text, "round-pages: out of order in stage state"));
	channel_finish(&source);
	channel_finish(&target);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_comes_out_went_in),
		cmocka_unit_test(small_and_other_messages_go_as_they_are),
		cmocka_unit_test(what_was_not_packed_so),
		cmocka_unit_test(slow_links_pack_and_fast_ones_do_not),
		cmocka_unit_test(a_codec_does_not_make_the_link_look_slow),
		cmocka_unit_test(through_a_channel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

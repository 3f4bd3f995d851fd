// SPDX-License-Identifier: Apache-2.0
// wire/block and store/stream: what was put comes out again; every damage is found; nothing else is a stream.
#include "unit.h"

#include "base/crc32c.h"
#include "base/io.h"
#include "store/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { MANY_BYTES = 3 << 20 };

static int new_file(void)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void no_error(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%s", err->text);
}

/* The pages of the sample: text, zeros, text. */
static void fill_pages(uint8_t pages[3 * PAGE_BYTES])
{
	memset(pages, 'a', PAGE_BYTES);
	memset(pages + PAGE_BYTES, 0, PAGE_BYTES);
	memset(pages + 2 * PAGE_BYTES, 'c', PAGE_BYTES);
}

/* Writes the sample; with @many also an image of several blocks. */
static void write_sample(int fd, bool many, enum compress compress)
{
	_Alignas(8) uint8_t pages[3 * PAGE_BYTES];
	struct err err = {0};
	struct stream st;
	struct store *s;
	uint8_t *image;

	fill_pages(pages);
	stream_init(&st, -1, fd, NULL);
	no_error(stream_compress(&st, compress, &err), &err);
	no_error(stream_send_preamble(&st, &err), &err);
	s = stream_store_open(&st, "round-1", false, &err);
	assert_non_null(s);
	no_error(store_put(s, "core-1.img", "one", 3, &err), &err);
	no_error(store_put(s, "empty.img", "", 0, &err), &err);
	no_error(store_skip(s, "memfd.img", &err), &err);
	assert_int_equal(store_put(s, "core-1.img", "two", 3, &err), -1);
	assert_int_equal(err.no, EEXIST);
	if (many) {
		image = malloc(MANY_BYTES);
		assert_non_null(image);
		memset(image, 'm', MANY_BYTES);
		no_error(store_put(s, "ghost-file-1.img", image, MANY_BYTES, &err), &err);
		free(image);
	}
	no_error(store_put_pages(s, 7, pages, sizeof(pages), &err), &err);
	no_error(store_put_pages(s, 7, NULL, 0, &err), &err);
	no_error(store_complete(s, &err), &err);
	store_close(s);
	stream_finish(&st);
}

/* Reads a stream into a spool: 0, or -1. *reader_out, if it is not NULL, holds what came. */
static int read_back(int fd, struct spool *sp, struct store **reader_out, struct err *err)
{
	struct shot *writer = spool_write(sp, "s", err), *reader;
	struct block first;
	struct stream st;
	int rc;

	assert_non_null(writer);
	if (reader_out) {
		reader = spool_read(sp, "s", err);
		assert_non_null(reader);
		*reader_out = spool_store_open(reader, false, err);
		assert_non_null(*reader_out);
	}
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	stream_init(&st, fd, -1, NULL);
	rc = stream_receive_preamble(&st, err);
	if (rc == 0)
		rc = stream_expect(&st, BLOCK_SNAPSHOT, &first, err);
	if (rc == 0)
		rc = stream_receive_shot(&st, writer, err);
	shot_close_writer(writer);
	stream_finish(&st);
	return rc;
}

static void comes_out(enum compress compress)
{
	uint8_t pages[3 * PAGE_BYTES], back[3 * PAGE_BYTES];
	struct err err = {0};
	struct spool *sp = spool_create(0, &err);
	struct store *s;
	int fd = new_file();
	size_t bytes;
	void *data;

	fill_pages(pages);
	write_sample(fd, true, compress);
	no_error(read_back(fd, sp, &s, &err), &err);
	no_error(store_get(s, "core-1.img", &data, &bytes, &err), &err);
	assert_int_equal(bytes, 3);
	assert_memory_equal(data, "one", 3);
	free(data);
	no_error(store_get(s, "empty.img", &data, &bytes, &err), &err);
	assert_int_equal(bytes, 0);
	free(data);
	no_error(store_get(s, "ghost-file-1.img", &data, &bytes, &err), &err);
	assert_int_equal(bytes, MANY_BYTES);
	for (size_t i = 0; i < bytes; i++)
		if (((uint8_t *)data)[i] != 'm')
			fail_msg("byte %zu", i);
	free(data);
	assert_int_equal(store_get(s, "memfd.img", &data, &bytes, &err), 1);
	assert_int_equal(store_get(s, "files.img", &data, &bytes, &err), 1);
	no_error(store_get_pages(s, 7, 0, back, sizeof(back), &err), &err);
	assert_memory_equal(pages, back, sizeof(back));
	assert_int_equal(store_get_pages(s, 7, sizeof(back), back, 1, &err), -1);
	no_error(store_arrived(s, &err), &err);
	store_close(s);
	spool_free(sp);
	close(fd);
}

static void what_was_put_comes_out(void **state)
{
	comes_out(COMPRESS_NONE);
	comes_out(COMPRESS_LZ4);
	comes_out(COMPRESS_ZSTD);
	comes_out(COMPRESS_AUTO);
}

/* What is compressed says in its first bytes that version 1 does not read it; what is not can be read by all. */
static void compressed_streams_are_small_and_say_so(void **state)
{
	static const enum compress how[] = {COMPRESS_NONE, COMPRESS_LZ4, COMPRESS_ZSTD};
	off_t whole = 0;

	for (size_t i = 0; i < ARRAY_SIZE(how); i++) {
		int fd = new_file();
		uint8_t p[BLOCK_PREAMBLE_BYTES];
		off_t bytes;

		write_sample(fd, true, how[i]);
		assert_int_equal(pread(fd, p, sizeof(p), 0), sizeof(p));
		assert_int_equal(p[10], how[i] == COMPRESS_NONE ? 1 : 2);
		bytes = lseek(fd, 0, SEEK_END);
		if (i == 0)
			whole = bytes;
		else
			assert_true(bytes < whole / 20);
		close(fd);
	}
}

/* The zero page takes no room. */
static void zero_pages_are_left_out(void **state)
{
	int fd = new_file();

	write_sample(fd, false, COMPRESS_NONE);
	assert_true(lseek(fd, 0, SEEK_END) < (off_t)(2 * PAGE_BYTES + 800));
	close(fd);
}

/* Reads a damaged stream; it must be refused with a reason. */
static void expect_refused(int fd, const char *what, size_t at)
{
	struct err err = {0};
	struct spool *sp = spool_create(0, &err);
	struct store *s;

	if (read_back(fd, sp, &s, &err) == 0)
		fail_msg("%s at %zu was not noticed", what, at);
	assert_true(strlen(err.text) > 10);
	assert_int_equal(store_arrived(s, &err), -1);
	store_close(s);
	spool_free(sp);
}

static void flip_bits(enum compress compress)
{
	int fd = new_file();
	off_t end;
	uint8_t byte, damaged;

	write_sample(fd, false, compress);
	end = lseek(fd, 0, SEEK_END);
	for (off_t at = 0; at<end; at += at> 700 && at < end - 100 ? 97 : 1) {
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		damaged = byte ^ (uint8_t)(1 << at % 8);
		assert_int_equal(pwrite(fd, &damaged, 1, at), 1);
		expect_refused(fd, "a flipped bit", (size_t)at);
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	close(fd);
}

static void every_flipped_bit_is_found(void **state)
{
	flip_bits(COMPRESS_NONE);
	flip_bits(COMPRESS_LZ4);
	flip_bits(COMPRESS_ZSTD);
}

static void every_truncation_is_found(void **state)
{
	int fd = new_file();
	off_t end;

	write_sample(fd, false, COMPRESS_LZ4);
	end = lseek(fd, 0, SEEK_END);
	for (off_t at = end - 1; at >= 0; at -= at > 1000 ? 97 : 1) {
		assert_int_equal(ftruncate(fd, at), 0);
		expect_refused(fd, "an end", (size_t)at);
	}
	close(fd);
}

static void preamble(uint8_t p[BLOCK_PREAMBLE_BYTES], uint8_t lowest)
{
	uint32_t crc;

	block_preamble(BLOCK_VERSION_PLAIN, p);
	p[8] = 9;
	p[10] = lowest;
	crc = crc32c(0, p, 12);
	memcpy(p + 12, &crc, 4);
}

static void versions_and_other_things(void **state)
{
	uint8_t p[BLOCK_PREAMBLE_BYTES];
	struct err err = {0};
	uint16_t version;

	preamble(p, BLOCK_VERSION);
	no_error(block_check_preamble(p, &version, &err), &err); /* newer, but we may read it */
	assert_int_equal(version, 9);
	preamble(p, BLOCK_VERSION + 1);
	assert_int_equal(block_check_preamble(p, &version, &err), -1);
	assert_non_null(strstr(err.text, "version 9"));
	assert_non_null(strstr(err.text, "newer"));
	p[9] = 1;
	assert_int_equal(block_check_preamble(p, &version, &err), -1);
	assert_non_null(strstr(err.text, "damaged"));
	assert_int_equal(block_check_preamble((const uint8_t *)"tar: no such fil", &version, &err),
			 -1);
	assert_non_null(strstr(err.text, "tar: no such fil"));
	assert_int_equal(block_check_preamble((const uint8_t *)"\x28\xb5\x2f\xfd_____________",
					      &version, &err),
			 -1);
	assert_non_null(strstr(err.text, "compressed"));
}

/* The check value of the catalogue, in pieces too. */
static void checksum_is_crc32c(void **state)
{
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(crc32c(0, "1234567890ab", 3), "456789", 6), 0xe3069283);
}

/* Only where both have agreed on it. */
static void a_block_without_checksum_is_refused(void **state)
{
	struct block first = {.type = BLOCK_SNAPSHOT};
	struct err err = {0};
	struct spool *sp = spool_create(0, &err);
	int fd = new_file();
	struct stream st;

	stream_init(&st, -1, fd, NULL);
	stream_spare_sums(&st); /* nobody has said that he knows of it */
	assert_false(st.unsummed);
	st.unsummed = true;
	no_error(stream_send_preamble(&st, &err), &err);
	no_error(stream_send(&st, &first, &err), &err);
	assert_int_equal(read_back(fd, sp, NULL, &err), -1);
	assert_non_null(strstr(err.text, "has no checksum"));
	stream_finish(&st);
	stream_init(&st, fd, -1, NULL);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	no_error(stream_receive_preamble(&st, &err), &err);
	stream_spare_sums(&st);
	no_error(stream_expect(&st, BLOCK_SNAPSHOT, &first, &err), &err);
	stream_finish(&st);
	spool_free(sp);
	close(fd);
}

/* A writer that says why it stops: the reader says it, too. */
static void a_failure_is_told(void **state)
{
	struct err err = {0}, why;
	struct spool *sp = spool_create(0, &err);
	int fd = new_file();
	struct stream st;
	struct store *s;

	stream_init(&st, -1, fd, NULL);
	no_error(stream_send_preamble(&st, &err), &err);
	s = stream_store_open(&st, "", false, &err);
	assert_non_null(s);
	no_error(store_put(s, "core-1.img", "one", 3, &err), &err);
	err_set(&why, 0, "pid 7: it has a lease");
	stream_send_failure(&st, &why);
	store_close(s);
	stream_finish(&st);
	assert_int_equal(read_back(fd, sp, NULL, &err), -1);
	assert_non_null(strstr(err.text, "the dump failed: pid 7: it has a lease"));
	spool_free(sp);
	close(fd);
}

/* What a reader hears of @why, who is told it as he is, or through @relays others. */
static void hear(const struct err *why, int relays, struct err *heard)
{
	struct block first = {.type = BLOCK_SNAPSHOT};
	struct stream st;
	struct spool *sp;
	int fd;

	*heard = *why;
	for (int i = 0; i <= relays; i++) {
		fd = new_file();
		sp = spool_create(0, heard);
		stream_init(&st, -1, fd, NULL);
		no_error(stream_send_preamble(&st, heard), heard);
		no_error(stream_send(&st, &first, heard), heard);
		stream_send_failure(&st, i ? heard : why);
		stream_finish(&st);
		assert_int_equal(read_back(fd, sp, NULL, heard), -1);
		spool_free(sp);
		close(fd);
	}
}

/* However many pass it on, and whatever its words are. */
static void whose_failure_it_is_is_said_once(void **state)
{
	struct err why, heard;

	for (int relays = 0; relays < 3; relays++) {
		err_set(&why, EIO, "pid 7: it has a lease");
		hear(&why, relays, &heard);
		assert_string_equal(heard.text, "the dump failed: pid 7: it has a lease");
		assert_int_equal(heard.no, STREAM_PASSED_ON);
		err_set(&why, EIO, "the dump failed to think of a reason");
		hear(&why, relays, &heard);
		assert_string_equal(heard.text,
				    "the dump failed: the dump failed to think of a reason");
	}
}

/* The other side's reason is nothing, or ends early, or is no text: there is always one to show. */
static void a_failure_without_a_reason_is_one(void **state)
{
	static const struct {
		const char *data;
		size_t bytes;
		const char *shown;
	} texts[] = {
		{"", 0, "does not say why"},
		{"\0secret", 7, "does not say why"},
		{"it\0secret", 9, "it"},
		{"\033[2Jclean", 9, "?[2Jclean"},
	};
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct block b = {.type = BLOCK_FAIL,
				  .data = (const uint8_t *)texts[i].data,
				  .n_data = texts[i].bytes};

		assert_int_equal(stream_failure(&b, &err), -1);
		assert_non_null(strstr(err.text, texts[i].shown));
		assert_null(strstr(err.text, "secret"));
	}
}

/* Names from outside that are no names of images. */
static void paths_are_refused(void **state)
{
	static const char *const names[] = {"../core-1.img", "/etc/passwd", ".hidden", ""};
	struct err err = {0};
	struct block b = {.type = BLOCK_OBJECT, .bytes = 1, .data = (const uint8_t *)"x", .n_data = 1};
	struct block first = {.type = BLOCK_SNAPSHOT};
	struct spool *sp;
	struct stream st;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		fd = new_file();
		sp = spool_create(0, &err);
		stream_init(&st, -1, fd, NULL);
		no_error(stream_send_preamble(&st, &err), &err);
		no_error(stream_send(&st, &first, &err), &err);
		strcpy(b.name, names[i]);
		no_error(stream_send(&st, &b, &err), &err);
		stream_finish(&st);
		assert_int_equal(read_back(fd, sp, NULL, &err), -1);
		assert_non_null(strstr(err.text, "cannot be the name of an image"));
		spool_free(sp);
		close(fd);
	}
}

/* A block of pages with good sums, whose packed body is somebody else's idea. */
static void expect_packed_refused(struct block *b, uint16_t inside, size_t raw_bytes,
				  const char *words)
{
	struct block first = {.type = BLOCK_SNAPSHOT};
	uint8_t head[BLOCK_HEADER_BYTES], fields[BLOCK_FIXED_MAX];
	struct iovec pieces[2], packed;
	struct err err = {0};
	struct spool *sp = spool_create(0, &err);
	struct packer *p = packer_create(&pack_blocks, 1 << CODEC_LZ4, false, &err);
	int fd = new_file();
	struct stream st;

	stream_init(&st, -1, fd, NULL);
	no_error(stream_compress(&st, COMPRESS_LZ4, &err), &err);
	no_error(stream_send_preamble(&st, &err), &err);
	no_error(stream_send(&st, &first, &err), &err);
	block_pieces(b, fields, pieces);
	assert_int_equal(packer_pack(p, inside, pieces, 2, &packed), 1);
	block_encode_packed(b, st.seq_out, 0, &packed, raw_bytes, head);
	no_error(stream_send_raw(&st, head, sizeof(head), &err), &err);
	no_error(stream_send_raw(&st, packed.iov_base, packed.iov_len, &err), &err);
	stream_finish(&st);
	assert_int_equal(read_back(fd, sp, NULL, &err), -1);
	if (!strstr(err.text, words))
		fail_msg("instead of '%s': %s", words, err.text);
	packer_free(p);
	spool_free(sp);
	close(fd);
}

static void what_was_not_packed_so_is_refused(void **state)
{
	_Alignas(8) uint8_t pages[3 * PAGE_BYTES];
	struct block b = {.type = BLOCK_PAGES, .id = 1, .data = pages, .n_data = sizeof(pages)};
	size_t raw = sizeof(pages) + 12;

	fill_pages(pages);
	expect_packed_refused(&b, BLOCK_PAGES, raw,
			      "ends before it is complete"); /* as far as it goes, it is good */
	expect_packed_refused(&b, BLOCK_PAGES, raw - 1, "does not hold what it says");
	expect_packed_refused(&b, BLOCK_OBJECT, raw, "does not hold what it says");
	expect_packed_refused(&b, BLOCK_PAGES, 40, "cannot be compressed so");
	expect_packed_refused(&b, BLOCK_PAGES, PACK_RAW_MAX + 1, "cannot be compressed so");
	b.type = BLOCK_FAIL;
	expect_packed_refused(&b, BLOCK_PAGES, raw, "cannot be compressed so");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(checksum_is_crc32c),
		cmocka_unit_test(what_was_put_comes_out),
		cmocka_unit_test(compressed_streams_are_small_and_say_so),
		cmocka_unit_test(zero_pages_are_left_out),
		cmocka_unit_test(every_flipped_bit_is_found),
		cmocka_unit_test(every_truncation_is_found),
		cmocka_unit_test(versions_and_other_things),
		cmocka_unit_test(a_block_without_checksum_is_refused),
		cmocka_unit_test(a_failure_is_told),
		cmocka_unit_test(whose_failure_it_is_is_said_once),
		cmocka_unit_test(a_failure_without_a_reason_is_one),
		cmocka_unit_test(paths_are_refused),
		cmocka_unit_test(what_was_not_packed_so_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

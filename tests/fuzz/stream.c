// SPDX-License-Identifier: Apache-2.0
/*
 * A stream of images: whatever comes, the reader ends with all of it or a reason. Checksums would refuse nearly
 * every damage at the door, so the input is also taken as bodies of blocks, which get good headers.
 */
#include "store/stream.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

static int memory_file(void)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0)
		abort();
	return fd;
}

/* Everything that a reader asks for afterwards. */
static void read_all(struct shot *shot)
{
	static const char *const names[] = {"core-1.img", "ghost-file-1.img", "x"};
	uint8_t page[PAGE_BYTES];
	struct err err;
	size_t bytes;
	void *image;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (shot_get(shot, NULL, names[i], &image, &bytes, &err) == 0)
			free(image);
	for (uint32_t id = 0; id < 3; id++)
		for (uint64_t off = 0; off < 3 * PAGE_BYTES; off += PAGE_BYTES / 2)
			if (shot_get_pages(shot, NULL, id, off, page, sizeof(page), &err) &&
			    !strlen(err.text))
				abort();
}

/* Large memory that a stream takes when it needs it, kept from one to the next: to get it is most of an input's time. */
static struct stream kept;

static void give_memory(struct stream *to, struct stream *from)
{
	to->body = steal_ptr(&from->body);
	to->packed = steal_ptr(&from->packed);
	to->unpacker = steal_ptr(&from->unpacker);
}

static void receive(int fd)
{
	struct err err = {0};
	struct spool *sp = spool_create(8 << 20, &err);
	struct shot *writer = sp ? spool_write(sp, "s", &err) : NULL;
	struct shot *reader = writer ? spool_read(sp, "s", &err) : NULL;
	struct block first;
	struct stream st;

	if (!reader)
		abort();
	stream_init(&st, fd, -1, NULL);
	give_memory(&st, &kept);
	if (lseek(fd, 0, SEEK_SET))
		abort();
	if (stream_receive_preamble(&st, &err) || stream_expect(&st, BLOCK_SNAPSHOT, &first, &err))
		shot_fail(writer, &err);
	else if (stream_receive_shot(&st, writer, &err) && !strlen(err.text))
		abort();
	read_all(reader);
	shot_close_reader(reader);
	shot_close_writer(writer);
	if (spool_peak_bytes(sp) > 8 << 20)
		abort();
	spool_free(sp);
	give_memory(&kept, &st);
	stream_finish(&st);
}

/* u8 type, u8 fields, u8 length: a block of a good form, of what the input has. */
static void write_blocks(struct stream *st, const uint8_t *data, size_t size)
{
	struct block b;
	struct err err;
	size_t n;

	for (int left = 64; size >= 3 && left; data += n, size -= n, left--) {
		b = (struct block){.type = (enum block_type)(1 + data[0] % 10)};
		b.id = data[1] & 1;
		b.off = (uint64_t)(data[1] >> 1 & 7) * PAGE_BYTES;
		b.bytes = (data[1] & 128) ? (uint64_t)data[2] * 16 : data[2];
		if (b.type == BLOCK_OBJECT || b.type == BLOCK_SKIP || b.type == BLOCK_PARENT)
			strcpy(b.name, data[1] & 16 ? "core-1.img" : data[1] & 32 ? "../x" : "x");
		n = MIN((size_t)data[2], size - 3);
		data += 3;
		size -= 3;
		if (b.type == BLOCK_OBJECT || b.type == BLOCK_MORE || b.type == BLOCK_PAGES ||
		    b.type == BLOCK_FAIL) {
			b.data = data;
			b.n_data = n;
		} else {
			n = 0;
		}
		if (stream_send(st, &b, &err))
			abort();
	}
}

/* Pages as one packed block with good sums, of which a byte is not as it was packed. */
static void write_packed(struct stream *st, const uint8_t *data, size_t size)
{
	static struct packer *packers[2];
	static const struct block b = {.type = BLOCK_PAGES};
	uint8_t pages[3 * PAGE_BYTES] = {0}, fields[BLOCK_FIXED_MAX], head[BLOCK_HEADER_BYTES];
	struct iovec pieces[2], packed;
	size_t which = size ? data[0] & 1 : 0, at;
	struct err err;

	if (!packers[which])
		packers[which] = packer_create(&pack_blocks,
					       which ? 1 << CODEC_ZSTD : 1 << CODEC_LZ4, false, &err);
	if (!packers[which])
		abort();
	if (size)
		memcpy(pages, data, MIN(size, sizeof(pages)));
	block_pieces(&b, fields, pieces);
	pieces[1] = (struct iovec){pages, sizeof(pages)};
	if (!packer_pack(packers[which], BLOCK_PAGES, pieces, 2, &packed))
		return;
	/* the last bytes of the input damage it, or not */
	for (size_t i = 3; i <= 9 && i <= size; i += 3) {
		at = (data[size - i] | (size_t)data[size - i + 1] << 8) % packed.iov_len;
		((uint8_t *)packed.iov_base)[at] ^= data[size - i + 2];
	}
	block_encode_packed(&b, st->seq_out++, 0, &packed, pieces[0].iov_len + sizeof(pages), head);
	if (stream_send_raw(st, head, sizeof(head), &err) ||
	    stream_send_raw(st, packed.iov_base, packed.iov_len, &err))
		abort();
}

/* A whole stream, of which one block is packed. */
size_t fuzz_seed(uint8_t *out, size_t cap)
{
	static const uint8_t pages[PAGE_BYTES] = {1};
	int fd = memory_file();
	struct stream st;
	struct store *s;
	struct err err;
	ssize_t n;

	stream_init(&st, -1, fd, NULL);
	if (stream_compress(&st, COMPRESS_LZ4, &err) || stream_send_preamble(&st, &err))
		abort();
	s = stream_store_open(&st, "", false, &err);
	if (!s || store_put(s, "core-1.img", "text", 4, &err) || store_skip(s, "x", &err) ||
	    store_put_pages(s, 1, pages, sizeof(pages), &err) ||
	    store_put_pages(s, 1, NULL, 0, &err) || store_complete(s, &err))
		abort();
	store_close(s);
	stream_finish(&st);
	n = pread(fd, out, cap, 0);
	close(fd);
	return n < 0 ? 0 : (size_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct block first = {.type = BLOCK_SNAPSHOT};
	int fd = memory_file();
	struct stream st;
	struct err err;

	if (size && write(fd, data, size) != (ssize_t)size)
		abort();
	receive(fd);
	if (ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET))
		abort();
	stream_init(&st, -1, fd, NULL);
	if (stream_send_preamble(&st, &err) || stream_send(&st, &first, &err))
		abort();
	write_packed(&st, data, size);
	write_blocks(&st, data, size);
	stream_finish(&st);
	receive(fd);
	close(fd);
	return 0;
}

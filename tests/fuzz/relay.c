// SPDX-License-Identifier: Apache-2.0
/*
 * What relays and their readers get from the network: a stranger's greeting, and
 * answers to questions. Whoever greets well comes to TLS and not to the blocks, and an answer that is none is an
 * error with a reason.
 */
#include "store/relay.h"

#include "base/le.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(uint8_t *out, size_t cap);

static int memory_file(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size) || lseek(fd, 0, SEEK_SET))
		abort();
	return fd;
}

static void greet(const uint8_t *data, size_t size, int null)
{
	static const struct secret secret = {.key = "not in any input"};
	for (int as_server = 0; as_server < 2; as_server++) {
		struct secret key = {0};
		struct err err = {0};
		struct stream st;
		int fd = memory_file(data, size), rc;

		stream_init(&st, fd, null, NULL);
		rc = as_server ? stream_greet_client(&st, &secret, &key, &err) :
				 stream_greet_server(&st, &secret, &key, &err);
		/* a key, or a reason: nobody gets on without either */
		if (rc ? !strlen(err.text) : !memcmp(&key, &(struct secret){0}, sizeof(key)))
			abort();
		stream_finish(&st);
		close(fd);
	}
}

/* What a peer of bad will may have packed: its beginning is often possible, and the rest is not. */
static void send_packed(struct stream *st, const struct block *b, uint8_t kind)
{
	uint8_t body[PACK_FIXED_BYTES + 2 * 3 + 255], head[BLOCK_HEADER_BYTES];
	uint16_t n_pages = b->type == BLOCK_PAGES ? kind >> 4 & 3 : 0;
	size_t fixed = PACK_FIXED_BYTES + 2 * (size_t)n_pages;
	struct iovec packed = {body, fixed + b->n_data};
	struct err err;

	put_le16(body, (uint16_t)b->type);
	body[2] = 1 + (kind & 1);
	body[3] = 0;
	put_le32(body + 4, b->type == BLOCK_PAGES ? 12 : kind);
	put_le16(body + 8, n_pages);
	for (uint16_t i = 0; i < n_pages; i++)
		put_le16(body + PACK_FIXED_BYTES + 2 * (size_t)i, kind & 2 ? PACK_LITERAL :
								  kind & 4 ? PACK_ZERO :
									     0);
	if (b->n_data)
		memcpy(body + fixed, b->data, b->n_data);
	if (kind & 8) /* any beginning at all */
		memmove(body, body + fixed, b->n_data);
	block_encode_packed(b, st->seq_out++, 0, &packed, 12 + (size_t)MAX(n_pages, 1) * PAGE_BYTES,
			    head);
	if (stream_send_raw(st, head, sizeof(head), &err) ||
	    stream_send_raw(st, body, packed.iov_len, &err))
		abort();
}

/* u8 type, u8 fields, u8 length: an answer of a good form; from type 128 on it is packed, somehow. */
static int answers(const uint8_t *data, size_t size)
{
	int fd = memory_file(NULL, 0);
	struct stream st;
	struct block b;
	struct err err;
	uint8_t type;
	size_t n;

	stream_init(&st, -1, fd, NULL);
	for (; size >= 3; data += n, size -= n) {
		type = data[0];
		b = (struct block){.type = (enum block_type)(2 + type % 8)};
		if (b.type == BLOCK_OBJECT || b.type == BLOCK_SKIP)
			strcpy(b.name, "core-1.img");
		b.id = data[1] & 1;
		b.off = (uint64_t)(data[1] >> 1 & 3) * 16;
		b.bytes = data[1] & 64 ? data[2] : data[1] & 128 ? INT64_MAX : 16;
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
		if (b.data && b.type != BLOCK_FAIL && type & 128)
			send_packed(&st, &b, type >> 3 ^ data[-2]);
		else if (stream_send(&st, &b, &err))
			abort();
	}
	stream_finish(&st);
	if (lseek(fd, 0, SEEK_SET))
		abort();
	return fd;
}

static void ask(int fd, int null)
{
	struct err err = {0};
	uint8_t page[64];
	struct stream st;
	struct store *s, *parent;
	size_t bytes;
	void *image;
	int rc;

	stream_init(&st, fd, null, NULL);
	s = cache_store_open(&st, "s", &err);
	if (!s)
		abort();
	do {
		rc = store_get(s, "core-1.img", &image, &bytes, &err);
		if (rc == 0)
			free(image);
		if (rc >= 0)
			rc = store_get_pages(s, 1, 16, page, sizeof(page), &err);
		if (rc == 0)
			rc = store_read_pages(s, 1, 16, page, sizeof(page), &bytes, &err);
		if (rc >= 0)
			rc = store_parent(s, &parent, &err);
		if (rc == 0 && parent)
			rc = store_get_pages(parent, 0, 0, page, 16, &err);
	} while (rc == 0);
	if (!strlen(err.text))
		abort();
	if (store_arrived(s, &err) == 0 && cache_done(&st, &err) == 0)
		(void)!store_get_pages(s, 1, 0, page, 1, &err);
	store_close(s);
	stream_finish(&st);
}

/* The greeting of a client that has a secret, then pages. */
size_t fuzz_seed(uint8_t *out, size_t cap)
{
	if (cap < 200)
		return 0;
	memset(out, 0, 200);
	block_preamble(BLOCK_VERSION_PLAIN, out);
	out[BLOCK_PREAMBLE_BYTES] = 2;
	return 200;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC), fd;

	if (null < 0)
		abort();
	greet(data, size, null);
	fd = answers(data, size);
	ask(fd, null);
	close(fd);
	close(null);
	return 0;
}

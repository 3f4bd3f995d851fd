// SPDX-License-Identifier: Apache-2.0
/*
 * One image: the reader, and the printer in all its forms.
 */
#include "snapshot/image.h"
#include "snapshot/print.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is decoded needs no more memory than this many times the image, plus a base for its parts. */
enum { PER_BYTE = 512, PER_IMAGE = 1 << 20 };

static void read_all(const uint8_t *data, size_t size)
{
	struct arena arena = {0};
	struct image_reader r;
	ProtobufCMessage *entry;
	struct err err;
	size_t sum = 0;

	if (!image_reader_init(&r, "fuzz.img", data, size, &arena, &err)) {
		while (image_read(&r, &entry, &err) == 1) {
			sum += protobuf_c_message_get_packed_size(entry) + 4 + r.extra_bytes;
			for (size_t i = 0; i < r.extra_bytes; i++)
				sum += r.extra[i] & 0; /* every byte of the view can be read */
		}
		if (r.off > r.bytes || arena.used_bytes > PER_BYTE * size + PER_IMAGE)
			__builtin_trap();
	}
	arena_free(&arena);
	if (sum == SIZE_MAX)
		__builtin_trap();
}

static void print_all(const uint8_t *data, size_t size)
{
	static const enum print_form forms[] = {PRINT_TEXT, PRINT_JSON, PRINT_JSON_PRETTY};
	char *text = NULL;
	size_t bytes;
	struct err err;
	FILE *to;

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		to = open_memstream(&text, &bytes);
		if (!to)
			return;
		if (image_print(to, forms[i], "fuzz.img", data, size, &err) && !err.text[0])
			__builtin_trap(); /* a failure without a reason */
		fclose(to);
		free(text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	read_all(data, size);
	print_all(data, size);
	return 0;
}

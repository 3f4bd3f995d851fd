// SPDX-License-Identifier: Apache-2.0
/*
 * The container format of images: magics and framed messages (ferry-images(5)).
 * No I/O: a writer fills a buffer, a reader walks one.
 */
#ifndef FERRY_SNAPSHOT_IMAGE_H
#define FERRY_SNAPSHOT_IMAGE_H

#include "base/arena.h"
#include "base/attrs.h"
#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#define IMAGE_MAGIC_COMMON 0x54564319u
#define IMAGE_MAGIC_SERVICE 0x55105940u
#define IMAGE_MAGIC_INVENTORY 0x58313116u

/* One row per kind of image. */
struct image_kind {
	const char *pattern; /* "core-%u.img": how its objects are named */
	uint32_t magic;      /* 0: raw, no header */
	const ProtobufCMessageDescriptor *entry;
	const ProtobufCMessageDescriptor *rest; /* of the second and later entries where they differ (pagemap, ghost chunks), else NULL */
};

/* The table, ended by a row with pattern NULL. */
extern const struct image_kind image_kinds[];
const struct image_kind *image_kind_by_magic(uint32_t magic);
const struct image_kind *image_kind_by_name(const char *object); /* matches the pattern */

struct image_writer {
	uint8_t *data;
	size_t bytes, cap;
	bool failed; /* an allocation failed: checked once, by image_writer_finish */
};

/* Starts an image of this kind (header included). */
void image_writer_init(struct image_writer *w, const struct image_kind *kind);
void image_write(struct image_writer *w, const ProtobufCMessage *entry);
void image_write_raw(struct image_writer *w, const void *data, size_t bytes);
/* 0, or -1 if memory ran out. The buffer stays the writer's until image_writer_free. */
int image_writer_finish(struct image_writer *w, struct err *err) must_check;
void image_writer_free(struct image_writer *w);

struct image_reader {
	const char *name; /* for messages */
	const struct image_kind *kind;
	const uint8_t *data;
	size_t bytes, off;
	unsigned int n_entries; /* read so far */
	struct arena *arena;    /* messages are decoded into it */
};

/* Checks the header. The buffer must outlive the reader; decoded messages copy what they need. */
int image_reader_init(struct image_reader *r, const char *name, const void *data, size_t bytes,
		      struct arena *arena, struct err *err) must_check;
/* 1 and *entry_out: an entry; 0: end of the image; -1: error naming image and offset. */
int image_read(struct image_reader *r, ProtobufCMessage **entry_out, struct err *err) must_check;
/* A view of the next @bytes raw bytes of the buffer. */
int image_read_raw(struct image_reader *r, const uint8_t **data_out, size_t bytes, struct err *err) must_check;

#endif

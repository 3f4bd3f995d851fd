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

enum image_header {
	IMAGE_TWO_WORDS, /* common magic, magic of the kind */
	IMAGE_ONE_WORD,  /* inventory: its magic alone */
	IMAGE_SERVICE,   /* service magic, magic of the kind */
	IMAGE_RAW,       /* no header, no entries */
};

/* Raw bytes behind an entry. */
enum image_extra {
	EXTRA_NONE,
	EXTRA_PIPE,     /* entry.bytes */
	EXTRA_SK_QUEUE, /* entry.length */
	EXTRA_TCP,      /* entry.inq_len, then entry.outq_len */
	EXTRA_SEM,      /* entry.nsems 16-bit values, padded to 8 bytes */
	EXTRA_MSG,      /* entry.qnum framed ipc_msg, each followed by msize bytes padded to 8 */
	EXTRA_SHM,      /* entry.size padded to 4, unless in_pagemaps */
	EXTRA_BPF,      /* entry.keys_bytes, then entry.values_bytes */
	EXTRA_GHOST,    /* the rest of the image, or chunks of entry.len */
};

/* One row per kind of image. */
struct image_kind {
	const char *name; /* "CORE": what crit calls it */
	const char *pattern; /* "core-%u.img": how its objects are named (%u decimal, %x hexadecimal) */
	enum image_header header;
	uint32_t magic; /* 0: raw, no header */
	const ProtobufCMessageDescriptor *entry;
	const ProtobufCMessageDescriptor
		*rest; /* of the second and later entries where they differ (pagemap, ghost chunks), else NULL */
	enum image_extra extra;
	bool optional; /* written only when there is something in it, and read whenever it exists */
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
	unsigned int n_sub;     /* ipc_msg entries that still belong to the last queue */
	struct arena *arena;    /* messages are decoded into it */
	const uint8_t *extra; /* view of the raw bytes behind the entry read last, without padding */
	size_t extra_bytes;
};

/*
 * Checks the header: the magic must be known. Both header versions are read. The
 * buffer must outlive the reader; decoded messages copy what they need.
 */
int image_reader_init(struct image_reader *r, const char *name, const void *data, size_t bytes,
		      struct arena *arena, struct err *err) must_check;

/* Is the image of the kind that the name of the object stands for? */
int image_reader_expect(const struct image_reader *r, const char *object, struct err *err) must_check;

/*
 * 1 and *entry_out: an entry, and the raw bytes behind it in r->extra; 0: end
 * of the image; -1: error naming image and offset. What is allocated is
 * bounded by a small multiple of the bytes read.
 */
int image_read(struct image_reader *r, ProtobufCMessage **entry_out, struct err *err) must_check;

/* A view of the next @bytes raw bytes of the buffer. */
int image_read_raw(struct image_reader *r, const uint8_t **data_out, size_t bytes, struct err *err)
	must_check;

#endif

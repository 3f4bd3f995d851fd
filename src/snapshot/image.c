// SPDX-License-Identifier: Apache-2.0
/*
 * Reading and writing the framing of images.
 *
 * A reader trusts nothing: every length is compared with what is left of the
 * buffer before it is used, and a message may allocate no more than a multiple
 * of its encoded size. protobuf-c decodes straight into the arena; the tables
 * it makes on the way and frees again go back to the arena for the next
 * message, so that they are paid for once.
 */
#include "snapshot/image.h"

#include "snapshot/diagnose.h"

#include "bpfmap-data.pb-c.h"
#include "ghost-file.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "pipe-data.pb-c.h"
#include "sk-packet.pb-c.h"
#include "tcp-stream.pb-c.h"

#include <errno.h>
#include <string.h>

/* ---- writer ---- */

void image_write_raw(struct image_writer *w, const void *data, size_t bytes)
{
	size_t cap = w->cap ? w->cap : 4096;
	uint8_t *bigger;

	if (w->failed || bytes > SIZE_MAX / 4 - w->bytes) {
		w->failed = true;
		return;
	}
	while (cap < w->bytes + bytes)
		cap *= 2;
	if (cap != w->cap) {
		bigger = realloc(w->data, cap);
		if (!bigger) {
			w->failed = true;
			return;
		}
		w->data = bigger;
		w->cap = cap;
	}
	if (bytes)
		memcpy(w->data + w->bytes, data, bytes);
	w->bytes += bytes;
}

static void write_u32(struct image_writer *w, uint32_t v)
{
	image_write_raw(w, &v, sizeof(v)); /* x86: little endian */
}

void image_writer_init(struct image_writer *w, const struct image_kind *kind)
{
	memset(w, 0, sizeof(*w));
	if (kind->header == IMAGE_TWO_WORDS)
		write_u32(w, IMAGE_MAGIC_COMMON);
	if (kind->header == IMAGE_SERVICE)
		write_u32(w, IMAGE_MAGIC_SERVICE);
	if (kind->header != IMAGE_RAW)
		write_u32(w, kind->magic);
}

struct append {
	ProtobufCBuffer base;
	struct image_writer *w;
};

static void append(ProtobufCBuffer *buffer, size_t len, const uint8_t *data)
{
	image_write_raw(((struct append *)buffer)->w, data, len);
}

void image_write(struct image_writer *w, const ProtobufCMessage *entry)
{
	struct append to = {.base = {append}, .w = w};
	size_t bytes = protobuf_c_message_get_packed_size(entry);

	if (bytes > UINT32_MAX) {
		w->failed = true;
		return;
	}
	write_u32(w, (uint32_t)bytes);
	protobuf_c_message_pack_to_buffer(entry, &to.base);
}

int image_writer_finish(struct image_writer *w, struct err *err)
{
	return w->failed ? err_nomem(err) : 0;
}

void image_writer_free(struct image_writer *w)
{
	free(w->data);
	memset(w, 0, sizeof(*w));
}

/* ---- reader ---- */

static int malformed(const struct image_reader *r, size_t off, struct err *err, const char *what)
{
	return err_set(err, EINVAL, "%s: offset %zu: %s", r->name, off, what);
}

/* The next 32-bit word, which must be there. */
static uint32_t take_u32(struct image_reader *r)
{
	uint32_t v;

	memcpy(&v, r->data + r->off, sizeof(v));
	r->off += sizeof(v);
	return v;
}

int image_reader_init(struct image_reader *r, const char *name, const void *data, size_t bytes,
		      struct arena *arena, struct err *err)
{
	uint32_t magic;

	*r = (struct image_reader){.name = name, .data = data, .bytes = bytes, .arena = arena};
	if (bytes < sizeof(magic))
		return malformed(r, bytes, err, "the image ends inside its header");
	magic = take_u32(r);
	/* Images of version 1 have the magic of their kind alone. */
	if (magic == IMAGE_MAGIC_COMMON || magic == IMAGE_MAGIC_SERVICE) {
		if (bytes - r->off < sizeof(magic))
			return malformed(r, bytes, err, "the image ends inside its header");
		magic = take_u32(r);
	}
	r->kind = image_kind_by_magic(magic);
	if (!r->kind)
		return err_set(err, EINVAL,
			       "%s: offset %zu: unknown magic 0x%08x: not an image of CRIU or ferry",
			       name, r->off - sizeof(magic), magic);
	return 0;
}

int image_reader_expect(const struct image_reader *r, const char *object, struct err *err)
{
	const struct image_kind *named = image_kind_by_name(object);

	if (named && named->magic == r->kind->magic)
		return 0;
	return err_set(err, EINVAL,
		       "%s: offset %zu: the image is a %s image (magic 0x%08x) where a %s image "
		       "belongs",
		       r->name, r->off - sizeof(uint32_t), r->kind->name, r->kind->magic,
		       named ? named->name : "different");
}

int image_read_raw(struct image_reader *r, const uint8_t **data_out, size_t bytes, struct err *err)
{
	if (bytes > r->bytes - r->off)
		return err_set(err, EINVAL,
			       "%s: offset %zu: %zu bytes of data should follow, but the image ends "
			       "after %zu",
			       r->name, r->off, bytes, r->bytes - r->off);
	*data_out = r->data + r->off;
	r->off += bytes;
	return 0;
}

/*
 * The allocator of one message. Whatever protobuf-c frees after a success are
 * its tables of scanned fields; they have sizes of a power of two. Their sizes
 * are remembered so that they can be given back.
 */
struct decoding {
	ProtobufCAllocator allocator;
	struct arena *arena;
	size_t budget;
	bool over_budget, out_of_memory;
	struct {
		void *p;
		size_t bytes;
	} large[64];
	size_t n_large;
};

/* Any legitimate message needs less: what costs most per encoded byte are fields of one byte. */
enum { DECODE_BYTES_BASE = 64 * 1024, DECODE_BYTES_PER_BYTE = 256 };

static void *decode_alloc(void *data, size_t bytes)
{
	struct decoding *d = data;
	void *p;

	if (bytes > d->budget) {
		d->over_budget = true;
		return NULL;
	}
	p = arena_alloc(d->arena, bytes ? bytes : 1);
	if (!p) {
		d->out_of_memory = true;
		return NULL;
	}
	d->budget -= bytes;
	if (arena_recyclable(bytes) && d->n_large < ARRAY_SIZE(d->large)) {
		d->large[d->n_large].p = p;
		d->large[d->n_large++].bytes = bytes;
	}
	return p;
}

static void decode_free(void *data, void *p)
{
	struct decoding *d = data;
	size_t i;

	for (i = d->n_large; p && i-- > 0;) {
		if (d->large[i].p != p)
			continue;
		arena_recycle(d->arena, p, d->large[i].bytes);
		d->large[i] = d->large[--d->n_large];
		return;
	}
}

/* protobuf-c does not say what is wrong with a message. */
static void explain(const struct image_reader *r, const ProtobufCMessageDescriptor *type,
		    const uint8_t *data, size_t bytes, struct err *err)
{
	struct message_fault fault;
	bool found = message_find_fault(type, data, bytes, &fault);

	err_set(err, EINVAL, "%s: offset %zu: entry %u (%zu bytes) is not a %s: %s%s%s", r->name,
		(size_t)(data - r->data) + (found ? fault.off : 0), r->n_entries, bytes, type->name,
		found && fault.field[0] ? fault.field : "", found && fault.field[0] ? ": " : "",
		found ? fault.what : "it does not decode");
}

static ProtobufCMessage *decode(struct image_reader *r, const ProtobufCMessageDescriptor *type,
				const uint8_t *data, size_t bytes, struct err *err)
{
	struct decoding d = {
		.allocator = {decode_alloc, decode_free, &d},
		.arena = r->arena,
		.budget = DECODE_BYTES_BASE + DECODE_BYTES_PER_BYTE * bytes,
	};
	ProtobufCMessage *entry = protobuf_c_message_unpack(type, &d.allocator, bytes, data);

	if (entry)
		return entry;
	if (d.out_of_memory)
		err_nomem(err);
	else if (d.over_budget)
		err_set(err, EINVAL,
			"%s: offset %zu: entry %u (%zu bytes) would need far more memory than its size "
			"explains",
			r->name, (size_t)(data - r->data), r->n_entries, bytes);
	else
		explain(r, type, data, bytes, err);
	return NULL;
}

/* Reads a frame: length, message. */
static int read_message(struct image_reader *r, const ProtobufCMessageDescriptor *type,
			ProtobufCMessage **entry_out, struct err *err)
{
	size_t start = r->off;
	uint32_t len;

	if (r->bytes - r->off < sizeof(len))
		return malformed(r, start, err, "the image ends inside the length of an entry");
	len = take_u32(r);
	if (len > r->bytes - r->off)
		return err_set(err, EINVAL,
			       "%s: offset %zu: entry %u should have %u bytes, but the image ends after %zu",
			       r->name, start, r->n_entries, len, r->bytes - r->off);
	*entry_out = decode(r, type, r->data + r->off, len, err);
	if (!*entry_out)
		return -1;
	r->off += len;
	return 0;
}

/* How many raw bytes follow the entry, and how many more to skip. False: the entry makes no sense here. */
static bool extra_size(struct image_reader *r, const ProtobufCMessage *entry, uint64_t *bytes,
		       uint64_t *padding)
{
	const void *e = entry;

	*bytes = *padding = 0;
	switch (r->kind->extra) {
	case EXTRA_NONE:
		break;
	case EXTRA_PIPE:
		*bytes = ((const PipeDataEntry *)e)->bytes;
		break;
	case EXTRA_SK_QUEUE:
		*bytes = ((const SkPacketEntry *)e)->length;
		break;
	case EXTRA_TCP:
		*bytes = (uint64_t)((const TcpStreamEntry *)e)->inq_len +
			 ((const TcpStreamEntry *)e)->outq_len;
		break;
	case EXTRA_BPF:
		*bytes = (uint64_t)((const BpfmapDataEntry *)e)->keys_bytes +
			 ((const BpfmapDataEntry *)e)->values_bytes;
		break;
	case EXTRA_SEM:
		*bytes = 2 * (uint64_t)((const IpcSemEntry *)e)->nsems;
		*padding = -*bytes & 7;
		break;
	case EXTRA_MSG:
		if (entry->descriptor == &ipc_msg_entry__descriptor) {
			r->n_sub = ((const IpcMsgEntry *)e)->qnum;
			break;
		}
		*bytes = ((const IpcMsg *)e)->msize;
		*padding = -*bytes & 7;
		break;
	case EXTRA_SHM:
		if (!((const IpcShmEntry *)e)->in_pagemaps) {
			*bytes = ((const IpcShmEntry *)e)->size;
			*padding = -*bytes & 3;
		}
		break;
	case EXTRA_GHOST:
		if (entry->descriptor == &ghost_chunk_entry__descriptor)
			*bytes = ((const GhostChunkEntry *)e)->len;
		else if (!((const GhostFileEntry *)e)->chunks)
			*bytes = r->bytes - r->off;
		break;
	}
	return *bytes <= r->bytes - r->off && *padding <= r->bytes - r->off - *bytes;
}

int image_read(struct image_reader *r, ProtobufCMessage **entry_out, struct err *err)
{
	const ProtobufCMessageDescriptor *type = r->kind->entry;
	uint64_t bytes, padding;

	*entry_out = NULL;
	r->extra = NULL;
	r->extra_bytes = 0;
	if (r->off == r->bytes && !r->n_sub)
		return 0;
	if (r->n_sub) {
		type = &ipc_msg__descriptor;
		r->n_sub--;
	} else if (r->n_entries && r->kind->rest) {
		type = r->kind->rest;
	}
	if (read_message(r, type, entry_out, err))
		return -1;
	if (!extra_size(r, *entry_out, &bytes, &padding))
		return err_set(err, EINVAL,
			       "%s: offset %zu: entry %u says that %llu bytes of data follow, but the "
			       "image ends after %zu",
			       r->name, r->off, r->n_entries, (unsigned long long)(bytes + padding),
			       r->bytes - r->off);
	r->extra = r->data + r->off;
	r->extra_bytes = bytes;
	r->off += bytes + padding;
	r->n_entries++;
	return 1;
}

// SPDX-License-Identifier: Apache-2.0
// snapshot/image: the table of kinds, framing, extra bytes, and what is wrong with bad images.
#include "unit.h"

#include "snapshot/image.h"

#include "core.pb-c.h"
#include "fs.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"
#include "seccomp.pb-c.h"
#include "stats.pb-c.h"
#include "tcp-stream.pb-c.h"

#include <string.h>

static uint32_t word(const struct image_writer *w, size_t off)
{
	uint32_t v;

	memcpy(&v, w->data + off, sizeof(v));
	return v;
}

static void each_kind_is_found_by_name_and_magic(void **state)
{
	const struct image_kind *k;
	char object[64];

	for (k = image_kinds; k->pattern; k++) {
		snprintf(object, sizeof(object), k->pattern, 0x12u);
		assert_ptr_equal(image_kind_by_name(object), k);
		assert_non_null(k->name);
		assert_true((k->header == IMAGE_RAW) == (k->magic == 0));
		assert_true((k->header == IMAGE_RAW) == (k->entry == NULL));
		if (k->magic) {
			assert_non_null(image_kind_by_magic(k->magic));
			assert_string_equal(image_kind_by_magic(k->magic)->name, k->name);
		}
		if (k->optional)
			assert_null(strchr(k->pattern, '%'));
	}
	assert_null(image_kind_by_magic(0));
	assert_null(image_kind_by_magic(0x12345678));
}

static void names_are_matched_whole(void **state)
{
	assert_string_equal(image_kind_by_name("core-34.img")->name, "CORE");
	assert_string_equal(image_kind_by_name("pagemap-shmem-0.img")->pattern,
			    "pagemap-shmem-%u.img");
	assert_string_equal(image_kind_by_name("ghost-file-1f.img")->name, "GHOST_FILE");
	assert_string_equal(image_kind_by_name("tcp-stream-56926.img")->name, "TCP_STREAM");
	assert_string_equal(image_kind_by_name("tmpfs-dev-46.tar.gz.img")->name, "TMPFS_DEV");
	assert_null(image_kind_by_name("core-.img"));
	assert_null(image_kind_by_name("core-x.img"));
	assert_null(image_kind_by_name("core-1f.img"));
	assert_null(image_kind_by_name("ghost-file-1F.img"));
	assert_null(image_kind_by_name("core-34.img2"));
	assert_null(image_kind_by_name("xcore-34.img"));
	assert_null(image_kind_by_name("core-34"));
	assert_null(image_kind_by_name(""));
}

static void headers_are_those_of_criu(void **state)
{
	StatsEntry stats = STATS_ENTRY__INIT;
	SeccompEntry none = SECCOMP_ENTRY__INIT;
	struct image_writer w;
	struct err err;

	image_writer_init(&w, image_kind_by_name("seccomp.img"));
	image_write(&w, &none.base);
	assert_int_equal(image_writer_finish(&w, &err), 0);
	assert_int_equal(w.bytes, 12); /* two magics and the length of an empty entry */
	assert_int_equal(word(&w, 0), 0x54564319);
	assert_int_equal(word(&w, 4), 0x64413049);
	assert_int_equal(word(&w, 8), 0);
	image_writer_free(&w);

	image_writer_init(&w, image_kind_by_name("inventory.img"));
	assert_int_equal(w.bytes, 4);
	assert_int_equal(word(&w, 0), 0x58313116);
	image_writer_free(&w);

	image_writer_init(&w, image_kind_by_name("stats-dump"));
	image_write(&w, &stats.base);
	assert_int_equal(word(&w, 0), 0x55105940);
	assert_int_equal(word(&w, 4), 0x57093306);
	image_writer_free(&w);
	assert_null(w.data);
}

/* Reads the image in @w under @name. */
struct reading {
	struct arena arena;
	struct image_reader r;
	struct err err;
	ProtobufCMessage *entry;
};

static int reading_init(struct reading *in, const char *name, const struct image_writer *w)
{
	memset(in, 0, sizeof(*in));
	return image_reader_init(&in->r, name, w->data, w->bytes, &in->arena, &in->err);
}

static int read_next(struct reading *in)
{
	return image_read(&in->r, &in->entry, &in->err);
}

static void entries_come_back_in_order(void **state)
{
	uint32_t threads[] = {1, 2, 300000};
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("pstree.img"));
	for (uint32_t pid = 1; pid <= 1000; pid++) {
		ps.pid = pid;
		ps.n_threads = 3;
		ps.threads = threads;
		image_write(&w, &ps.base);
	}
	assert_int_equal(image_writer_finish(&w, &in.err), 0);
	assert_int_equal(reading_init(&in, "pstree.img", &w), 0);
	for (uint32_t pid = 1; pid <= 1000; pid++) {
		assert_int_equal(read_next(&in), 1);
		assert_int_equal(((PstreeEntry *)in.entry)->pid, pid);
		assert_int_equal(((PstreeEntry *)in.entry)->n_threads, 3);
		assert_int_equal(((PstreeEntry *)in.entry)->threads[2], 300000);
	}
	assert_int_equal(read_next(&in), 0);
	assert_int_equal(read_next(&in), 0);
	assert_int_equal(in.r.n_entries, 1000);
	arena_free(&in.arena);
	image_writer_free(&w);
}

static void a_pagemap_has_a_head_and_then_entries(void **state)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	PagemapEntry e = PAGEMAP_ENTRY__INIT;
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("pagemap-1.img"));
	head.pages_id = 65537;
	image_write(&w, &head.base);
	e.vaddr = 0x7ffc80de4000;
	e.has_nr_pages = true;
	e.nr_pages = 2;
	image_write(&w, &e.base);
	/* the required old page count is there, as 0 */
	assert_non_null(memmem(w.data, w.bytes, "\x10\x00", 2));
	assert_int_equal(reading_init(&in, "pagemap-1.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_ptr_equal(in.entry->descriptor, &pagemap_head__descriptor);
	assert_int_equal(read_next(&in), 1);
	assert_ptr_equal(in.entry->descriptor, &pagemap_entry__descriptor);
	assert_int_equal(((PagemapEntry *)in.entry)->vaddr, 0x7ffc80de4000);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);
}

/* ---- extra bytes ---- */

static void pipes_and_streams_carry_bytes(void **state)
{
	PipeDataEntry pipe = PIPE_DATA_ENTRY__INIT;
	TcpStreamEntry tcp = TCP_STREAM_ENTRY__INIT;
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("pipes-data.img"));
	pipe.bytes = 5;
	image_write(&w, &pipe.base);
	image_write_raw(&w, "hello", 5);
	pipe.bytes = 0;
	image_write(&w, &pipe.base);
	assert_int_equal(reading_init(&in, "pipes-data.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 5);
	assert_memory_equal(in.r.extra, "hello", 5);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 0);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);

	image_writer_init(&w, image_kind_by_name("tcp-stream-1f.img"));
	tcp.inq_len = 2;
	tcp.outq_len = 3;
	image_write(&w, &tcp.base);
	image_write_raw(&w, "inout", 5);
	assert_int_equal(reading_init(&in, "tcp-stream-1f.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 5);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);
}

static void ipc_images_are_padded(void **state)
{
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	IpcSemEntry sem = IPC_SEM_ENTRY__INIT;
	IpcMsgEntry queue = IPC_MSG_ENTRY__INIT;
	IpcShmEntry shm = IPC_SHM_ENTRY__INIT;
	IpcMsg msg = IPC_MSG__INIT;
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("ipcns-sem-9.img"));
	sem.desc = &desc;
	sem.nsems = 3;
	image_write(&w, &sem.base);
	image_write_raw(&w, "\1\0\2\0\3\0\0\0", 8);
	image_write(&w, &sem.base);
	image_write_raw(&w, "\4\0\5\0\6\0\0\0", 8);
	assert_int_equal(reading_init(&in, "ipcns-sem-9.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 6);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra[0], 4);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);

	image_writer_init(&w, image_kind_by_name("ipcns-msg-9.img"));
	queue.desc = &desc;
	queue.qnum = 2;
	image_write(&w, &queue.base);
	msg.mtype = 5;
	msg.msize = 3;
	image_write(&w, &msg.base);
	image_write_raw(&w, "one\0\0\0\0\0", 8);
	msg.msize = 8;
	image_write(&w, &msg.base);
	image_write_raw(&w, "eight---", 8);
	queue.qnum = 0;
	image_write(&w, &queue.base);
	assert_int_equal(reading_init(&in, "ipcns-msg-9.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(read_next(&in), 1);
	assert_ptr_equal(in.entry->descriptor, &ipc_msg__descriptor);
	assert_int_equal(in.r.extra_bytes, 3);
	assert_int_equal(read_next(&in), 1);
	assert_memory_equal(in.r.extra, "eight---", 8);
	assert_int_equal(read_next(&in), 1);
	assert_ptr_equal(in.entry->descriptor, &ipc_msg_entry__descriptor);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);

	image_writer_init(&w, image_kind_by_name("ipcns-shm-9.img"));
	shm.desc = &desc;
	shm.size = 5;
	image_write(&w, &shm.base);
	image_write_raw(&w, "old..\0\0\0", 8);
	shm.has_in_pagemaps = shm.in_pagemaps = true;
	image_write(&w, &shm.base);
	assert_int_equal(reading_init(&in, "ipcns-shm-9.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 5);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 0);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);
}

static void a_queue_without_its_messages_is_cut(void **state)
{
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	IpcMsgEntry queue = IPC_MSG_ENTRY__INIT;
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("ipcns-msg-9.img"));
	queue.desc = &desc;
	queue.qnum = 4000000000u;
	image_write(&w, &queue.base);
	assert_int_equal(reading_init(&in, "ipcns-msg-9.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(read_next(&in), -1);
	arena_free(&in.arena);
	image_writer_free(&w);
}

static void ghosts_come_whole_or_in_chunks(void **state)
{
	GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("ghost-file-1.img"));
	image_write(&w, &ghost.base);
	image_write_raw(&w, "all the rest", 12);
	assert_int_equal(reading_init(&in, "ghost-file-1.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 12);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);

	image_writer_init(&w, image_kind_by_name("ghost-file-2.img"));
	ghost.has_chunks = ghost.chunks = true;
	image_write(&w, &ghost.base);
	chunk.len = 4;
	image_write(&w, &chunk.base);
	image_write_raw(&w, "abcd", 4);
	chunk.off = 65536;
	chunk.len = UINT64_MAX;
	image_write(&w, &chunk.base);
	image_write_raw(&w, "efgh", 4);
	assert_int_equal(reading_init(&in, "ghost-file-2.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(in.r.extra_bytes, 0);
	assert_int_equal(read_next(&in), 1);
	assert_memory_equal(in.r.extra, "abcd", 4);
	assert_int_equal(read_next(&in), -1); /* the second one promises too much */
	assert_non_null(strstr(in.err.text, "ghost-file-2.img: offset "));
	arena_free(&in.arena);
	image_writer_free(&w);
}

/* ---- bad images ---- */

static void old_headers_are_read(void **state)
{
	struct image_writer w = {0};
	FsEntry fs = FS_ENTRY__INIT;
	struct reading in;
	uint32_t magic = 0x51403912;

	image_write_raw(&w, &magic, 4);
	image_write(&w, &fs.base);
	assert_int_equal(reading_init(&in, "fs-3.img", &w), 0);
	assert_int_equal(read_next(&in), 1);
	assert_int_equal(read_next(&in), 0);
	arena_free(&in.arena);
	image_writer_free(&w);
}

static void bad_headers_are_named(void **state)
{
	static const struct {
		const char *name;
		uint32_t words[2];
		size_t bytes;
		const char *text;
	} cases[] = {
		{"mm-3.img", {0}, 0, "mm-3.img: offset 0: the image ends inside its header"},
		{"mm-3.img", {0x54564319}, 3, "the image ends inside its header"},
		{"mm-3.img", {0x54564319}, 4, "mm-3.img: offset 4: the image ends"},
		{"mm-3.img", {0x54564319, 0x1234}, 8, "mm-3.img: offset 4: unknown magic 0x00001234"},
		{"mm-3.img",
		 {0x54564319, 0x51403912},
		 8,
		 "the image is a FS image (magic 0x51403912) where a MM image belongs"},
		{"unheard-of.img", {0x1234}, 4, "unknown magic"},
	};
	struct reading in;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct image_writer w = {.data = (uint8_t *)cases[i].words, .bytes = cases[i].bytes};

		assert_true(reading_init(&in, cases[i].name, &w) ||
			    image_reader_expect(&in.r, cases[i].name, &in.err));
		if (!strstr(in.err.text, cases[i].text))
			fail_msg("'%s' is not about '%s'", in.err.text, cases[i].text);
	}
}

static void kinds_that_share_a_magic_are_alike(void **state)
{
	struct image_writer w;
	struct reading in;

	image_writer_init(&w, image_kind_by_name("pagemap-shmem-3.img"));
	assert_int_equal(reading_init(&in, "pagemap-3.img", &w), 0);
	assert_int_equal(image_reader_expect(&in.r, "pagemap-3.img", &in.err), 0);
	assert_int_equal(image_reader_expect(&in.r, "pages-3.img", &in.err), -1);
	assert_int_equal(image_reader_expect(&in.r, "no-image", &in.err), -1);
	image_writer_free(&w);
}

static void every_cut_of_an_image_is_noticed(void **state)
{
	PipeDataEntry pipe = PIPE_DATA_ENTRY__INIT;
	size_t entry_end[3], n = 0;
	struct image_writer w;
	struct reading in;
	int rc;

	image_writer_init(&w, image_kind_by_name("pipes-data.img"));
	entry_end[n++] = w.bytes;
	for (int i = 0; i < 2; i++) {
		pipe.bytes = 5;
		image_write(&w, &pipe.base);
		image_write_raw(&w, "hello", 5);
		entry_end[n++] = w.bytes;
	}
	for (size_t cut = 8; cut <= w.bytes; cut++) {
		struct image_writer part = {.data = w.data, .bytes = cut};
		bool whole = cut == entry_end[0] || cut == entry_end[1] || cut == entry_end[2];

		assert_int_equal(reading_init(&in, "pipes-data.img", &part), 0);
		while ((rc = read_next(&in)) == 1)
			;
		assert_int_equal(rc, whole ? 0 : -1);
		if (!whole)
			assert_non_null(strstr(in.err.text, "pipes-data.img: offset "));
		arena_free(&in.arena);
	}
	image_writer_free(&w);
}

static void a_missing_required_field_is_an_error(void **state)
{
	static const uint32_t image[] = {0x54564319, 0x51403912, 0};
	struct image_writer w = {.data = (uint8_t *)image, .bytes = sizeof(image)};
	struct reading in;

	assert_int_equal(reading_init(&in, "fs-3.img", &w), 0);
	assert_int_equal(read_next(&in), -1);
	assert_non_null(strstr(
		in.err.text,
		"fs-3.img: offset 12: entry 0 (0 bytes) is not a fs_entry: cwd_id: it is missing"));
	arena_free(&in.arena);
}

/* What is wrong inside a message is named by field and offset. */
static void faults_are_named_by_field(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *text;
	} cases[] = {
		{"\x08\x01", 2,
		 "offset 14: entry 0 (2 bytes) is not a fs_entry: root_id: it is missing"},
		{"\x08\x01\x10", 3,
		 "offset 15: entry 0 (3 bytes) is not a fs_entry: root_id: its number"},
		{"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12,
		 "cwd_id: its number does not"},
		{"\x0d\x01\x00\x00\x00\x10\x01", 7, "cwd_id: it has the wire type of another field"},
		{"\x08\x01\x10\x01\x7a\x05", 6,
		 "offset 17: entry 0 (6 bytes) is not a fs_entry: it is longer"},
		{"\x08\x01\x10\x01\x7f", 5, "its wire type is not known"},
	};
	struct image_writer w;
	struct reading in;
	uint32_t len;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		image_writer_init(&w, image_kind_by_name("fs-3.img"));
		len = (uint32_t)cases[i].n;
		image_write_raw(&w, &len, 4);
		image_write_raw(&w, cases[i].bytes, cases[i].n);
		assert_int_equal(reading_init(&in, "fs-3.img", &w), 0);
		assert_int_equal(read_next(&in), -1);
		if (!strstr(in.err.text, cases[i].text))
			fail_msg("case %zu: '%s' is not about '%s'", i, in.err.text, cases[i].text);
		arena_free(&in.arena);
		image_writer_free(&w);
	}
}

/* In a message inside of a message, too. */
static void faults_are_named_by_path(void **state)
{
	static const uint8_t image[] = {0x19, 0x43, 0x56, 0x54, 0x47, 0x38,
					0x05, 0x55, 8,    0,    0,    0, /* length */
					0x08, 1,    0x12, 4, /* mtype; thread_info of 4 bytes */
					0x08, 0,    0x12, 0x05};
	struct image_writer w = {.data = (uint8_t *)image, .bytes = sizeof(image)};
	struct reading in;

	assert_int_equal(reading_init(&in, "core-3.img", &w), 0);
	assert_int_equal(read_next(&in), -1);
	assert_non_null(strstr(in.err.text,
			       "core-3.img: offset 19: entry 0 (8 bytes) is not a core_entry: "
			       "thread_info.gpregs: it is longer than what it is in"));
	arena_free(&in.arena);
}

static void memory_is_bounded_by_the_image(void **state)
{
	struct image_writer w, entry = {0};
	struct reading in;
	uint32_t len;

	/* An mm entry of a hundred thousand empty areas: two bytes each, a hundred in memory. */
	for (int i = 0; i < 100000; i++)
		image_write_raw(&entry, "\x72\x00", 2);
	image_writer_init(&w, image_kind_by_name("mm-3.img"));
	len = (uint32_t)entry.bytes;
	image_write_raw(&w, &len, 4);
	image_write_raw(&w, entry.data, entry.bytes);
	assert_int_equal(reading_init(&in, "mm-3.img", &w), 0);
	assert_int_equal(read_next(&in), -1);
	assert_true(in.arena.used_bytes < 64 * 1024 + 256 * w.bytes);
	arena_free(&in.arena);
	image_writer_free(&entry);
	image_writer_free(&w);
}

/* Tables that protobuf-c makes while it decodes are used again by the next message. */
static void decoding_many_entries_does_not_pile_up(void **state)
{
	uint32_t threads[2000];
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	struct image_writer w;
	struct reading in;

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = (uint32_t)(i + 1);
	ps.threads = threads;
	ps.n_threads = ARRAY_SIZE(threads);
	image_writer_init(&w, image_kind_by_name("pstree.img"));
	for (int i = 0; i < 50; i++)
		image_write(&w, &ps.base);
	assert_int_equal(reading_init(&in, "pstree.img", &w), 0);
	while (read_next(&in) == 1) {
		const PstreeEntry *back = (PstreeEntry *)in.entry;

		assert_int_equal(back->n_threads, ARRAY_SIZE(threads));
		assert_memory_equal(back->threads, threads, sizeof(threads));
	}
	assert_int_equal(in.r.n_entries, 50);
	assert_true(in.arena.used_bytes < 50 * sizeof(threads) + 300 * 1024);
	arena_free(&in.arena);
	image_writer_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kind_is_found_by_name_and_magic),
		cmocka_unit_test(names_are_matched_whole),
		cmocka_unit_test(headers_are_those_of_criu),
		cmocka_unit_test(entries_come_back_in_order),
		cmocka_unit_test(a_pagemap_has_a_head_and_then_entries),
		cmocka_unit_test(pipes_and_streams_carry_bytes),
		cmocka_unit_test(ipc_images_are_padded),
		cmocka_unit_test(a_queue_without_its_messages_is_cut),
		cmocka_unit_test(ghosts_come_whole_or_in_chunks),
		cmocka_unit_test(old_headers_are_read),
		cmocka_unit_test(bad_headers_are_named),
		cmocka_unit_test(kinds_that_share_a_magic_are_alike),
		cmocka_unit_test(every_cut_of_an_image_is_noticed),
		cmocka_unit_test(a_missing_required_field_is_an_error),
		cmocka_unit_test(faults_are_named_by_field),
		cmocka_unit_test(faults_are_named_by_path),
		cmocka_unit_test(memory_is_bounded_by_the_image),
		cmocka_unit_test(decoding_many_entries_does_not_pile_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

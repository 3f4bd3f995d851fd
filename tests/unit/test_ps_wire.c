// SPDX-License-Identifier: Apache-2.0
// The codec of CRIU's page-server protocol: what real CRIU sends, and what nobody may send.
#include "unit.h"

#include "mem/ps_wire.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <string.h>

/* OPEN2 of pid 30, pages of it, a hole, and a GET with rubbish in the unused bytes, as CRIU 4.2.1 sends them. */
static void known_requests(void **state)
{
	static const uint8_t open2[PS_REQUEST_BYTES] = {4, [24] = 0x01, [25] = 0x1e};
	static const uint8_t add[PS_REQUEST_BYTES] = {
		6,           0,           6,           0,           [8] = 2,
		[16] = 0x00, [17] = 0x10, [18] = 0x40, [24] = 0x01, [25] = 0x1e};
	static const uint8_t get[PS_REQUEST_BYTES] = {
		7, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, [8] = 1, [17] = 0x20, [24] = 30};
	struct ps_object object;
	struct ps_request r;
	struct err err;
	uint32_t pid;

	assert_int_equal(ps_decode(open2, &r, &err), 0);
	assert_int_equal(r.cmd, PS_OPEN2);
	assert_int_equal(ps_object_of(r.dst_id, &object, &err), 0);
	assert_false(object.shmem);
	assert_int_equal(object.id, 30);
	assert_int_equal(ps_data_bytes(&r), 0);

	assert_int_equal(ps_decode(add, &r, &err), 0);
	assert_int_equal(r.flags, PE_PRESENT | PE_LAZY);
	assert_int_equal(r.vaddr, 0x401000);
	assert_int_equal(r.nr_pages, 2);
	assert_int_equal(ps_data_bytes(&r), 2 * PAGE_BYTES);

	assert_int_equal(ps_decode(get, &r, &err), 0);
	assert_int_equal(r.cmd, PS_GET);
	assert_int_equal(ps_data_bytes(&r), 0);
	assert_int_equal(ps_pid_of(r.dst_id, &pid, &err), 0);
	assert_int_equal(pid, 30);
}

/* What ferries say among themselves is no request of anybody else's. */
static void packed_answers(void **state)
{
	struct ps_request good = {.cmd = PS_PACKED,
				  .nr_pages = 2,
				  .vaddr = 0x1000,
				  .dst_id = 30,
				  .packed_bytes = 77},
			  bad, r;
	uint8_t bytes[PS_REQUEST_BYTES];
	struct err err;

	ps_encode(&good, bytes);
	assert_int_equal(ps_decode(bytes, &r, &err), -1);
	assert_int_equal(ps_decode_ferry(bytes, &r, &err), 0);
	assert_true(r.cmd == PS_PACKED && r.nr_pages == 2 && r.vaddr == 0x1000 && r.dst_id == 30);
	assert_int_equal(ps_data_bytes(&r), 77);
	for (int i = 0; i < 6; i++) {
		bad = good;
		switch (i) {
		case 0:
			bad.packed_bytes = 0;
			break;
		case 1:
			bad.packed_bytes = 2 * PAGE_BYTES;
			break;
		case 2:
			bad.nr_pages = PACK_PAGES_MAX + 1;
			break;
		case 3:
			bad.nr_pages = 0;
			break;
		case 4:
			bad.vaddr = 0x1001;
			break;
		default:
			bad.flags = PE_PRESENT;
		}
		ps_encode(&bad, bytes);
		assert_int_equal(ps_decode_ferry(bytes, &r, &err), -1);
	}
	/* all others are as ever */
	ps_encode(&(struct ps_request){.cmd = PS_GET, .nr_pages = 1, .dst_id = 30}, bytes);
	assert_int_equal(ps_decode_ferry(bytes, &r, &err), 0);
	assert_int_equal(r.cmd, PS_GET);
}

/* Requests, pages, and the answer to CLOSE are pieces of their own, however they come. */
static void pieces(void **state)
{
	static const struct ps_request add = {.cmd = PS_ADD_F,
					      .flags = PE_PRESENT,
					      .nr_pages = 6,
					      .vaddr = 0x1000};
	static uint8_t bytes[2 * PS_REQUEST_BYTES + 6 * PAGE_BYTES + 4];
	const size_t all = sizeof(bytes);
	uint64_t cut = 0;
	size_t at = 0;

	ps_encode(&add, bytes);
	ps_encode(&(struct ps_request){.cmd = PS_CLOSE}, bytes + PS_REQUEST_BYTES + 6 * PAGE_BYTES);
	assert_int_equal(ps_cut(&cut, bytes, 3), 0);
	assert_int_equal(ps_cut(&cut, bytes, PS_REQUEST_BYTES - 1), 0);
	assert_int_equal(ps_cut(&cut, bytes, all), PS_REQUEST_BYTES);
	at += PS_REQUEST_BYTES;
	assert_int_equal(ps_cut(&cut, bytes + at, PS_PIECE_BYTES - 1), 0);
	assert_int_equal(ps_cut(&cut, bytes + at, all - at), PS_PIECE_BYTES);
	at += PS_PIECE_BYTES;
	assert_int_equal(ps_cut(&cut, bytes + at, all - at), 2 * PAGE_BYTES);
	at += 2 * PAGE_BYTES;
	assert_int_equal(ps_cut(&cut, bytes + at, all - at), PS_REQUEST_BYTES);
	at += PS_REQUEST_BYTES;
	assert_int_equal(ps_cut(&cut, bytes + at, all - at), 4);
}

static void round_trip(void **state)
{
	static const struct ps_request requests[] = {
		{.cmd = PS_ADD, .nr_pages = 3, .vaddr = 0x1000, .dst_id = 0x101},
		{.cmd = PS_HOLE, .nr_pages = 1, .vaddr = 0, .dst_id = 0x102},
		{.cmd = PS_OPEN, .dst_id = 0x202},
		{.cmd = PS_OPEN2, .nr_pages = 1000, .dst_id = 0x1e01},
		{.cmd = PS_PARENT, .dst_id = 0x1e01},
		{.cmd = PS_ADD_F, .flags = PE_LAZY, .nr_pages = 1, .vaddr = 0x7ffffffff000, .dst_id = 1},
		{.cmd = PS_ADD_F, .flags = PE_PARENT, .nr_pages = PS_VADDR_END / PAGE_BYTES},
		{.cmd = PS_ADD_F, .flags = PE_PRESENT, .nr_pages = 0, .vaddr = 0x1000},
		{.cmd = PS_CLOSE},
		{.cmd = PS_FORCE_CLOSE},
	};
	uint8_t bytes[PS_REQUEST_BYTES], again[PS_REQUEST_BYTES];
	struct ps_request got;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		ps_encode(&requests[i], bytes);
		assert_int_equal(ps_decode(bytes, &got, &err), 0);
		assert_int_equal(got.cmd, requests[i].cmd);
		assert_int_equal(got.flags, requests[i].flags);
		assert_int_equal(got.nr_pages, requests[i].nr_pages);
		assert_int_equal(got.vaddr, requests[i].vaddr);
		assert_int_equal(got.dst_id, requests[i].dst_id);
		ps_encode(&got, again);
		assert_memory_equal(again, bytes, sizeof(again));
	}
}

/* Each is refused by the name of its field. */
static void refused(void **state)
{
	static const struct {
		struct ps_request r;
		const char *why;
	} cases[] = {
		{{.cmd = 0}, "unknown command 0"},
		{{.cmd = 8}, "unknown command 8"},
		{{.cmd = 0x4547 /* "GE" */}, "unknown command 17735"},
		{{.cmd = PS_CLOSE, .flags = PE_PRESENT}, "flags"},
		{{.cmd = PS_GET, .flags = PE_LAZY, .nr_pages = 1}, "flags"},
		{{.cmd = PS_ADD_F, .nr_pages = 1}, "without flags"},
		{{.cmd = PS_ADD_F, .flags = 8, .nr_pages = 1}, "unknown flags 0x8"},
		{{.cmd = PS_ADD_F, .flags = PE_PRESENT | PE_PARENT, .nr_pages = 1}, "flags 0x5"},
		{{.cmd = PS_ADD_F, .flags = PE_PRESENT, .nr_pages = 1, .vaddr = 0x1001},
		 "vaddr 0x1001"},
		{{.cmd = PS_ADD, .nr_pages = 1, .vaddr = PS_VADDR_END}, "vaddr"},
		{{.cmd = PS_ADD_F, .flags = PE_PRESENT, .nr_pages = UINT64_MAX, .vaddr = 0x1000},
		 "nr_pages"},
		{{.cmd = PS_ADD, .nr_pages = PS_VADDR_END / PAGE_BYTES, .vaddr = 0x1000}, "nr_pages"},
		{{.cmd = PS_GET, .nr_pages = 0, .vaddr = 0x1000}, "nr_pages is 0"},
		{{.cmd = PS_HOLE}, "nr_pages is 0"},
	};
	uint8_t bytes[PS_REQUEST_BYTES];
	struct ps_request got;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ps_encode(&cases[i].r, bytes);
		assert_int_equal(ps_decode(bytes, &got, &err), -1);
		assert_int_equal(err.no, EPROTO);
		if (!strstr(err.text, cases[i].why))
			fail_msg("'%s' does not say '%s'", err.text, cases[i].why);
	}
}

static void objects(void **state)
{
	static const struct ps_object good[] = {{false, 1}, {false, 4194304}, {true, 0}, {true, 7298}};
	static const uint64_t bad[] = {0, 0x1e00, 0x1e03, 0x1eff, 0x0001, 0x40000101, UINT64_MAX};
	static const uint8_t old_tasks[] = {10, 11, 16, 17}, old_shmem[] = {27, 28, 29, 32, 33, 34};
	struct ps_object got;
	struct err err;
	uint32_t pid;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(ps_object_of(ps_dst_id(&good[i]), &got, &err), 0);
		assert_int_equal(got.shmem, good[i].shmem);
		assert_int_equal(got.id, good[i].id);
	}
	for (size_t i = 0; i < ARRAY_SIZE(old_tasks); i++)
		assert_true(!ps_object_of(0x500 | old_tasks[i], &got, &err) && !got.shmem &&
			    got.id == 5);
	for (size_t i = 0; i < ARRAY_SIZE(old_shmem); i++)
		assert_true(!ps_object_of(0x500 | old_shmem[i], &got, &err) && got.shmem &&
			    got.id == 5);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(ps_object_of(bad[i], &got, &err), -1);
		assert_non_null(strstr(err.text, "dst_id"));
	}
	assert_int_equal(ps_pid_of(0, &pid, &err), -1);
	assert_int_equal(ps_pid_of(0x1e01 << 16, &pid, &err), -1);
}

static void names(void **state)
{
	char buf[16];

	assert_string_equal(ps_cmd_name(PS_ADD_F, buf), "ADD_F");
	assert_string_equal(ps_cmd_name(PS_FORCE_CLOSE, buf), "FORCE_CLOSE");
	assert_string_equal(ps_cmd_name(65535, buf), "command 65535");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_requests), cmocka_unit_test(packed_answers),
		cmocka_unit_test(pieces),         cmocka_unit_test(round_trip),
		cmocka_unit_test(refused),        cmocka_unit_test(objects),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

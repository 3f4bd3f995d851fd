// SPDX-License-Identifier: Apache-2.0
/*
 * CRIU's page-server protocol: requests of 32 bytes, in both directions, over
 * one stream. ferry-protocol(7) has the conversation. This is the codec: no I/O.
 *
 *	offset  0     2       4        8          16      24
 *	        +-----+-------+--------+----------+-------+--------+
 *	        | cmd | flags | unused | nr_pages | vaddr | dst_id |
 *	        +-----+-------+--------+----------+-------+--------+
 *
 * Numbers are little endian. Flags are those of a pagemap (PE_*) and belong to
 * ADD_F alone. "unused" is zero from us, and anything from CRIU.
 */
#ifndef FERRY_MEM_PS_WIRE_H
#define FERRY_MEM_PS_WIRE_H

#include "base/attrs.h"
#include "base/err.h"
#include "wire/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ps_cmd {
	PS_ADD = 1,              /* pages follow; as ADD_F with PE_PRESENT */
	PS_HOLE = 2,             /* as ADD_F with PE_PARENT */
	PS_OPEN = 3,             /* as OPEN2, without an answer */
	PS_OPEN2 = 4,            /* begins an object; answer: one byte, is there a parent of it? */
	PS_PARENT = 5,           /* asks the same and begins nothing; answer: 32 bits */
	PS_ADD_F = 6,            /* pages follow if PE_PRESENT is set; the answer to GET, too */
	PS_GET = 7,              /* asks for pages; dst_id is the plain pid, as in the answer */
	PS_CLOSE = 0x1023,       /* that was all; answer: 32 bits, 0 if it is stored */
	PS_FORCE_CLOSE = 0x1024, /* the same, on a socket that the client was given */
	/* Between two ferries that have agreed on it (migrate/lane.h), and never to or from others. */
	PS_PACKED = 0x4601, /* an answer to GET: pages follow, made smaller (wire/pack.h); "unused" says by how many bytes */
};

enum {
	PS_REQUEST_BYTES = 32,
	PS_PIECE_BYTES = 16384, /* of pages, over TLS */
	PS_FLAGS_KNOWN = 7,     /* PE_PARENT | PE_LAZY | PE_PRESENT */
};

/* Addresses (and offsets of shared memory) end here: no program's memory comes near. */
#define PS_VADDR_END (1ULL << 56)

/* OPEN2 and PARENT may say in nr_pages how many pages the object will have, about: CRIU ignores it. */
struct ps_request {
	uint16_t cmd;   /* enum ps_cmd */
	uint16_t flags; /* PE_*, of ADD_F */
	uint64_t nr_pages;
	uint64_t vaddr; /* bytes */
	uint64_t dst_id;
	uint32_t packed_bytes; /* of PACKED; else 0 */
};

void ps_encode(const struct ps_request *r, uint8_t out[static PS_REQUEST_BYTES]);

/*
 * Decodes and checks what can be checked by itself: a command that exists, flags
 * where they belong and not contradicting each other, an aligned range of
 * addresses that exists. -1, EPROTO, and the name of the field. Whether dst_id is
 * one is for ps_object_of, or, of GET, for whoever knows the pids.
 */
int ps_decode(const uint8_t in[static PS_REQUEST_BYTES], struct ps_request *out, struct err *err)
	must_check;

/* The same, where PACKED is allowed, too. */
int ps_decode_ferry(const uint8_t in[static PS_REQUEST_BYTES], struct ps_request *out,
		    struct err *err) must_check;

/* What is inside of a packed answer is an ADD_F's pages. */
extern const struct pack_types ps_pack_types;

/* "ADD_F" and so on; "command 99" of unknown ones is in @buf. */
const char *ps_cmd_name(uint16_t cmd, char buf[static 16]);

/* Bytes of page data that follow this request. */
uint64_t ps_data_bytes(const struct ps_request *r);

/*
 * Over TLS CRIU's peers do not put the parts of a request together, nor take a record apart that
 * goes on after the end of the pages, or of 64 KiB of them: so a request is a record, and each full 16 KiB of
 * its pages are one, and the rest. This, the tunnel_cut of wire/tunnel.h, does it for requests and for answers.
 */
size_t ps_cut(uint64_t *state, const uint8_t *next, size_t n);

/* What dst_id stands for in requests that store: the memory of a task or a shared segment. */
struct ps_object {
	bool shmem;
	uint64_t id; /* pid, as in the names of images, or segment id */
};

uint64_t ps_dst_id(const struct ps_object *object);

/* The numbers of older CRIU are understood too. -1, EPROTO: it is neither, or the id is out of range. */
int ps_object_of(uint64_t dst_id, struct ps_object *out, struct err *err) must_check;

/* The pid of a GET. -1, EPROTO. */
int ps_pid_of(uint64_t dst_id, uint32_t *pid_out, struct err *err) must_check;

#endif

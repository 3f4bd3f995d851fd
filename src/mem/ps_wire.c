// SPDX-License-Identifier: Apache-2.0
#include "mem/ps_wire.h"

#include "base/le.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <string.h>

/* The low byte of dst_id. Others are what CRIU before 3.0 took from its table of images. */
enum { KIND_TASK = 1, KIND_SHMEM = 2, KIND_BITS = 8 };

/* No pid of Linux is larger (PID_MAX_LIMIT); segment ids are inode numbers or smaller. */
enum { PID_LIMIT = 1 << 22 };

static_assert(PS_FLAGS_KNOWN == (PE_PARENT | PE_LAZY | PE_PRESENT), "the flags of pagemaps");

static const struct command {
	uint16_t cmd;
	const char *name;
	bool pages; /* nr_pages and vaddr are a range */
} commands[] = {
	{PS_ADD, "ADD", true},
	{PS_HOLE, "HOLE", true},
	{PS_OPEN, "OPEN", false},
	{PS_OPEN2, "OPEN2", false},
	{PS_PARENT, "PARENT", false},
	{PS_ADD_F, "ADD_F", true},
	{PS_GET, "GET", true},
	{PS_CLOSE, "CLOSE", false},
	{PS_FORCE_CLOSE, "FORCE_CLOSE", false},
};

static const struct command *find_command(uint16_t cmd)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].cmd == cmd)
			return &commands[i];
	return NULL;
}

const char *ps_cmd_name(uint16_t cmd, char buf[static 16])
{
	const struct command *c = find_command(cmd);

	if (c)
		return c->name;
	snprintf(buf, 16, "command %u", cmd);
	return buf;
}

void ps_encode(const struct ps_request *r, uint8_t out[static PS_REQUEST_BYTES])
{
	memset(out, 0, PS_REQUEST_BYTES);
	put_le16(out, r->cmd);
	put_le16(out + 2, r->flags);
	put_le32(out + 4, r->packed_bytes);
	put_le64(out + 8, r->nr_pages);
	put_le64(out + 16, r->vaddr);
	put_le64(out + 24, r->dst_id);
}

static int check_flags(const struct ps_request *r, const char *name, struct err *err)
{
	if (r->cmd != PS_ADD_F)
		return r->flags ? err_set(err, EPROTO,
					  "page server: %s with flags 0x%x, which are ADD_F's",
					  name, r->flags) :
				  0;
	if (r->flags & ~PS_FLAGS_KNOWN)
		return err_set(err, EPROTO, "page server: ADD_F with unknown flags 0x%x", r->flags);
	if (!r->flags)
		return err_set(err, EPROTO, "page server: ADD_F without flags");
	if ((r->flags & PE_PARENT) && (r->flags & PE_PRESENT))
		return err_set(err, EPROTO,
			       "page server: ADD_F with flags 0x%x: pages are either here or in the "
			       "parent",
			       r->flags);
	return 0;
}

static int check_range(const struct ps_request *r, const char *name, struct err *err)
{
	if (r->vaddr % PAGE_BYTES)
		return err_set(err, EPROTO, "page server: %s: vaddr 0x%llx is not that of a page",
			       name, (unsigned long long)r->vaddr);
	if (r->vaddr >= PS_VADDR_END)
		return err_set(err, EPROTO, "page server: %s: vaddr 0x%llx is out of range", name,
			       (unsigned long long)r->vaddr);
	/* an answer of no pages is how CRIU says that it does not hold them */
	if (r->nr_pages == 0 && r->cmd != PS_ADD_F)
		return err_set(err, EPROTO, "page server: %s: nr_pages is 0", name);
	if (r->nr_pages > (PS_VADDR_END - r->vaddr) / PAGE_BYTES)
		return err_set(err, EPROTO,
			       "page server: %s: nr_pages %llu at 0x%llx is out of range", name,
			       (unsigned long long)r->nr_pages, (unsigned long long)r->vaddr);
	return 0;
}

int ps_decode(const uint8_t in[static PS_REQUEST_BYTES], struct ps_request *out, struct err *err)
{
	const struct command *c;

	*out = (struct ps_request){
		.cmd = get_le16(in),
		.flags = get_le16(in + 2),
		.nr_pages = get_le64(in + 8),
		.vaddr = get_le64(in + 16),
		.dst_id = get_le64(in + 24),
	};
	c = find_command(out->cmd);
	if (!c)
		return err_set(err, EPROTO, "page server: unknown command %u", out->cmd);
	if (check_flags(out, c->name, err))
		return -1;
	return c->pages ? check_range(out, c->name, err) : 0;
}

int ps_decode_ferry(const uint8_t in[static PS_REQUEST_BYTES], struct ps_request *out, struct err *err)
{
	if (get_le16(in) != PS_PACKED)
		return ps_decode(in, out, err);
	*out = (struct ps_request){
		.cmd = PS_PACKED,
		.flags = get_le16(in + 2),
		.packed_bytes = get_le32(in + 4),
		.nr_pages = get_le64(in + 8),
		.vaddr = get_le64(in + 16),
		.dst_id = get_le64(in + 24),
	};
	if (check_flags(out, "PACKED", err) || check_range(out, "PACKED", err))
		return -1;
	if (out->nr_pages > PACK_PAGES_MAX || out->packed_bytes == 0 ||
	    out->packed_bytes >= out->nr_pages * PAGE_BYTES)
		return err_set(err, EPROTO, "page server: PACKED: %llu pages in %u bytes",
			       (unsigned long long)out->nr_pages, out->packed_bytes);
	return 0;
}

static bool is_answer(uint16_t type)
{
	return type == PS_ADD_F;
}

const struct pack_types ps_pack_types = {is_answer, is_answer};

uint64_t ps_data_bytes(const struct ps_request *r)
{
	bool data = r->cmd == PS_ADD || (r->cmd == PS_ADD_F && (r->flags & PE_PRESENT));

	return data ? r->nr_pages * PAGE_BYTES : r->packed_bytes;
}

size_t ps_cut(uint64_t *state, const uint8_t *next, size_t n)
{
	struct ps_request r;
	struct err err;
	size_t piece = MIN(*state, (uint64_t)PS_PIECE_BYTES);

	if (piece > n)
		return 0;
	if (piece) {
		*state -= piece;
		return piece;
	}
	if (n < sizeof(uint32_t))
		return 0;
	if (!find_command(get_le16(next))) /* the answer to CLOSE */
		return n;
	if (n < PS_REQUEST_BYTES)
		return 0;
	if (ps_decode(next, &r, &err) == 0)
		*state = ps_data_bytes(&r);
	return PS_REQUEST_BYTES;
}

/* ---- objects ---- */

uint64_t ps_dst_id(const struct ps_object *object)
{
	return object->id << KIND_BITS | (object->shmem ? KIND_SHMEM : KIND_TASK);
}

int ps_pid_of(uint64_t dst_id, uint32_t *pid_out, struct err *err)
{
	if (dst_id == 0 || dst_id > PID_LIMIT)
		return err_set(err, EPROTO, "page server: dst_id 0x%llx is not a pid",
			       (unsigned long long)dst_id);
	*pid_out = (uint32_t)dst_id;
	return 0;
}

int ps_object_of(uint64_t dst_id, struct ps_object *out, struct err *err)
{
	uint32_t pid;

	out->id = dst_id >> KIND_BITS;
	switch (dst_id & ((1 << KIND_BITS) - 1)) {
	case KIND_TASK:
	case 10:
	case 11:
	case 16:
	case 17:
		out->shmem = false;
		break;
	case KIND_SHMEM:
	case 27:
	case 28:
	case 29:
	case 32:
	case 33:
	case 34:
		out->shmem = true;
		return 0;
	default:
		return err_set(err, EPROTO,
			       "page server: dst_id 0x%llx is neither a task's nor that of shared memory",
			       (unsigned long long)dst_id);
	}
	if (ps_pid_of(out->id, &pid, err))
		return err_set(err, EPROTO, "page server: dst_id 0x%llx: there is no pid %llu",
			       (unsigned long long)dst_id, (unsigned long long)out->id);
	return 0;
}

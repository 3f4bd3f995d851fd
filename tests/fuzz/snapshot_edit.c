// SPDX-License-Identifier: Apache-2.0
#include "snapshot_edit.h"

#include <string.h>

enum { MAX_EDITS = 16, EDIT_BYTES = 12 };

struct messages {
	VEC(ProtobufCMessage *) list;
};

/* Notes a message and all below it. */
static void collect(struct messages *all, ProtobufCMessage *m)
{
	const ProtobufCFieldDescriptor *d;
	ProtobufCMessage **values;
	size_t n;

	if (!m || !vec_push(&all->list, m))
		return;
	for (d = m->descriptor->fields; d < m->descriptor->fields + m->descriptor->n_fields; d++) {
		if (d->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		values = (ProtobufCMessage **)((char *)m + d->offset);
		n = 1;
		if (d->label == PROTOBUF_C_LABEL_REPEATED) {
			n = *(size_t *)((char *)m + d->quantifier_offset);
			values = *(ProtobufCMessage ***)values;
		}
		for (size_t i = 0; i < n; i++)
			collect(all, values[i]);
	}
}

#define COLLECT(all, vec)          \
	vec_foreach (entry, (vec)) \
	collect((all), &(*entry)->base)

static void collect_all(struct messages *all, struct snapshot *snap)
{
	collect(all, &snap->inventory->base);
	vec_foreach (t, &snap->tasks) {
		struct snap_task *task = *t;

		collect(all, &task->ps->base);
		for (size_t i = 0; i < task->n_threads; i++)
			collect(all, &task->core[i]->base);
		if (!task->ids)
			continue;
		collect(all, &task->ids->base);
		collect(all, &task->mm->base);
		collect(all, &task->fs->base);
		COLLECT(all, &task->pagemap->entries);
		COLLECT(all, &task->fds);
	}
	COLLECT(all, &snap->files);
	COLLECT(all, &snap->remaps);
	COLLECT(all, &snap->memfds);
	COLLECT(all, &snap->tty_info);
	COLLECT(all, &snap->tty_data);
	COLLECT(all, &snap->locks);
	vec_foreach (pm, &snap->shmem)
		COLLECT(all, &(*pm)->entries);
	vec_foreach (ghost, &snap->ghosts) {
		collect(all, &(*ghost)->entry->base);
		for (size_t i = 0; i < (*ghost)->n_chunks; i++)
			collect(all, &(*ghost)->chunks[i]->base);
	}
	vec_foreach (p, &snap->pipes_data)
		collect(all, p->entry);
	vec_foreach (p, &snap->sk_queues)
		collect(all, p->entry);
}

/* A number for a field: one of those where limits lie, or near the old one, or any. */
static uint64_t new_number(uint64_t old, uint8_t how, uint64_t any)
{
	static const uint64_t limits[] = {
		0,         1,         2,         3,         99,         100,        101,
		102,       103,       4095,      4096,      0x7fffffff, 0x80000000, 0xffffffff,
		1UL << 32, 1UL << 47, 1UL << 56, INT64_MAX, 1UL << 63,  UINT64_MAX,
	};

	if (how < ARRAY_SIZE(limits))
		return limits[how];
	if (how < 64)
		return old ^ 1UL << how;
	if (how < 128)
		return old + (how - 96) * (how & 1 ? 1 : PAGE_BYTES);
	return any;
}

static void edit_scalar(void *field, ProtobufCType type, uint8_t how, uint64_t any)
{
	static char *const texts[] = {"", "/", "relative", "/a/very/long/name/of/a/file"};
	ProtobufCBinaryData *bytes = field;
	uint64_t number = 0;

	switch (type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)field = texts[how % ARRAY_SIZE(texts)];
		break;
	case PROTOBUF_C_TYPE_BYTES:
		bytes->len = bytes->len ? any % bytes->len : 0;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)field = how & 1;
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		memcpy(&number, field, 8);
		number = new_number(number, how, any);
		memcpy(field, &number, 8);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		break;
	default:
		memcpy(&number, field, 4);
		number = new_number(number, how, any);
		memcpy(field, &number, 4);
		break;
	}
}

/* A list gets shorter, or one of its messages takes the place of another. */
static void edit_list(char *m, const ProtobufCFieldDescriptor *d, uint8_t how, uint64_t any)
{
	size_t *n = (size_t *)(m + d->quantifier_offset);
	void **list = *(void ***)(m + d->offset);

	if (!*n)
		return;
	if (how & 1)
		*n = any % *n;
	else if (d->type == PROTOBUF_C_TYPE_MESSAGE)
		list[any % *n] = list[(any >> 32) % *n];
	else if (d->type == PROTOBUF_C_TYPE_UINT32)
		((uint32_t *)list)[any % *n] = (uint32_t)(any >> 32);
}

static void edit(struct messages *all, const uint8_t *data)
{
	ProtobufCMessage *m;
	const ProtobufCFieldDescriptor *d;
	char *field;
	uint16_t index;
	uint64_t any;

	memcpy(&index, data, sizeof(index));
	memcpy(&any, data + 4, sizeof(any));
	m = all->list.v[index % all->list.n];
	if (!m->descriptor->n_fields)
		return;
	d = &m->descriptor->fields[data[2] % m->descriptor->n_fields];
	field = (char *)m + d->offset;
	if (d->label == PROTOBUF_C_LABEL_REPEATED) {
		edit_list((char *)m, d, data[3], any);
		return;
	}
	if (d->label == PROTOBUF_C_LABEL_OPTIONAL &&
	    (d->type == PROTOBUF_C_TYPE_MESSAGE || d->type == PROTOBUF_C_TYPE_STRING)) {
		if (data[3] & 0x80)
			*(void **)field = NULL;
		else if (d->type == PROTOBUF_C_TYPE_STRING)
			edit_scalar(field, d->type, data[3], any);
		return;
	}
	if (d->label == PROTOBUF_C_LABEL_OPTIONAL)
		*(protobuf_c_boolean *)((char *)m + d->quantifier_offset) = data[3] != 0x80;
	edit_scalar(field, d->type, data[3], any);
}

void snapshot_edit(struct snapshot *snap, const uint8_t *data, size_t size)
{
	struct messages all = {0};

	collect_all(&all, snap);
	for (size_t i = 0; i < MAX_EDITS && (i + 1) * EDIT_BYTES <= size; i++)
		edit(&all, data + i * EDIT_BYTES);
	vec_free(&all.list);
}

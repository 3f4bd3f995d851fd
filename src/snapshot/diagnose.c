// SPDX-License-Identifier: Apache-2.0
/*
 * Walks the encoding of a message beside its description.
 */
#include "snapshot/diagnose.h"

#include <string.h>

enum {
	WIRE_VARINT = 0,
	WIRE_64BIT = 1,
	WIRE_BYTES = 2,
	WIRE_32BIT = 5,
	MAX_DEPTH = 16,
	MAX_FIELDS = 256,
};

/* A message on the way down. */
struct level {
	const ProtobufCMessageDescriptor *type;
	size_t off, end;
	size_t path; /* length of the path of this message in fault->field */
	unsigned int depth;
};

static bool fault_at(struct message_fault *fault, size_t off, const char *what)
{
	fault->off = off;
	fault->what = what;
	return true;
}

/* Sets the path to that of a field of the message. */
static void set_field(struct message_fault *fault, const struct level *l, const char *name)
{
	snprintf(fault->field + l->path, sizeof(fault->field) - l->path, "%s%s", l->path ? "." : "",
		 name);
}

/* Moves *off over a number of at most ten bytes; false: there is none. */
static bool take_varint(const uint8_t *data, size_t *off, size_t end, uint64_t *v_out)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; shift < 70 && *off < end; shift += 7) {
		uint8_t byte = data[(*off)++];

		if (shift < 64)
			v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*v_out = v;
			return true;
		}
	}
	return false;
}

/* The wire type that a field should have. */
static unsigned int wire_type(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return WIRE_64BIT;
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return WIRE_32BIT;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return WIRE_BYTES;
	default:
		return WIRE_VARINT;
	}
}

static bool find_fault(struct level *l, const uint8_t *data, struct message_fault *fault);

/* A value: moves over it, or into it. */
static bool fault_in_value(struct level *l, const ProtobufCFieldDescriptor *field,
			   unsigned int wire, const uint8_t *data, struct message_fault *fault)
{
	size_t start = l->off, bytes;
	struct level below;
	uint64_t v;

	switch (wire) {
	case WIRE_VARINT:
		return take_varint(data, &l->off, l->end, &v) ?
			       false :
			       fault_at(fault, start, "its number does not end");
	case WIRE_64BIT:
	case WIRE_32BIT:
		bytes = wire == WIRE_64BIT ? 8 : 4;
		if (bytes > l->end - l->off)
			return fault_at(fault, start, "it is cut off");
		l->off += bytes;
		return false;
	case WIRE_BYTES:
		break;
	default:
		return fault_at(fault, start, "its wire type is not known");
	}
	if (!take_varint(data, &l->off, l->end, &v))
		return fault_at(fault, start, "its length does not end");
	if (v > l->end - l->off)
		return fault_at(fault, start, "it is longer than what it is in");
	if (field && field->type == PROTOBUF_C_TYPE_MESSAGE && l->depth < MAX_DEPTH) {
		below = (struct level){field->descriptor, l->off, l->off + v, strlen(fault->field),
				       l->depth + 1};
		if (find_fault(&below, data, fault))
			return true;
	}
	l->off += v;
	return false;
}

static bool find_fault(struct level *l, const uint8_t *data, struct message_fault *fault)
{
	const ProtobufCFieldDescriptor *field;
	bool seen[MAX_FIELDS] = {false};
	unsigned int wire;
	size_t start;
	uint64_t tag;

	while (l->off < l->end) {
		start = l->off;
		fault->field[l->path] = 0;
		if (!take_varint(data, &l->off, l->end, &tag))
			return fault_at(fault, start, "the number of a field does not end");
		if (tag >> 3 == 0 || tag >> 3 > INT32_MAX)
			return fault_at(fault, start, "the number of a field is not possible");
		field = protobuf_c_message_descriptor_get_field(l->type, (unsigned int)(tag >> 3));
		wire = tag & 7;
		if (field) {
			set_field(fault, l, field->name);
			if (field - l->type->fields < MAX_FIELDS)
				seen[field - l->type->fields] = true;
			if (wire != wire_type(field->type) &&
			    !(wire == WIRE_BYTES && field->label == PROTOBUF_C_LABEL_REPEATED))
				return fault_at(fault, start,
						"it has the wire type of another field");
		}
		if (fault_in_value(l, field, wire, data, fault))
			return true;
	}
	for (unsigned int i = 0; i < l->type->n_fields && i < MAX_FIELDS; i++) {
		if (seen[i] || l->type->fields[i].label != PROTOBUF_C_LABEL_REQUIRED)
			continue;
		set_field(fault, l, l->type->fields[i].name);
		return fault_at(fault, l->end, "it is missing");
	}
	return false;
}

bool message_find_fault(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t bytes,
			struct message_fault *fault)
{
	struct level l = {.type = type, .end = bytes};

	memset(fault, 0, sizeof(*fault));
	return find_fault(&l, data, fault);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * How numbers in messages are best read by people: a table by message and
 * field, for the fields that are not plain numbers.
 */
#ifndef FERRY_SNAPSHOT_HINTS_H
#define FERRY_SNAPSHOT_HINTS_H

#include "base/attrs.h"

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

enum hint {
	HINT_NONE,
	HINT_HEX,       /* also for every number below a message */
	HINT_DEV,       /* major << 20 | minor */
	HINT_OLD_DEV,   /* as stat(2) has it */
	HINT_ADDRESS,   /* words of one IPv4 or IPv6 address */
	HINT_UNIX_NAME, /* bytes: leading NUL = abstract */
	HINT_BITS,      /* names of bits */
	HINT_VALUES,    /* names of values */
};

/* A name of a bit or of a value; a table ends with name NULL. */
struct hint_name {
	const char *name;
	uint64_t value;
};

/* The hint of a field; *names_out is set for BITS and VALUES. */
enum hint hint_of(const ProtobufCMessageDescriptor *message, const ProtobufCFieldDescriptor *field,
		  const struct hint_name **names_out);

#endif

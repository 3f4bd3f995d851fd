// SPDX-License-Identifier: Apache-2.0
/*
 * Why a message does not decode; protobuf-c only says that it does not.
 */
#ifndef FERRY_SNAPSHOT_DIAGNOSE_H
#define FERRY_SNAPSHOT_DIAGNOSE_H

#include "base/attrs.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct message_fault {
	size_t off;       /* in the encoded message */
	char field[128];  /* "thread_info.gpregs.ip", or empty */
	const char *what; /* "is missing" */
};

/* The first fault of an encoded message; false: none was found. */
bool message_find_fault(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t bytes,
			struct message_fault *fault);

#endif

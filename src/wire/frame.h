// SPDX-License-Identifier: Apache-2.0
/*
 * Frames: how messages follow each other on a byte stream. No I/O here: the
 * reader is fed bytes and gives frames, so that a test or a fuzzer drives it.
 *
 *	offset  0        4      6      8
 *	        +--------+------+------+------------------+
 *	        | length | type | zero | length bytes ... |
 *	        +--------+------+------+------------------+
 *
 * Numbers are little endian. "zero" must be zero. Each type has its own limit
 * on the length, so that a hostile peer cannot make us allocate at will.
 */
#ifndef FERRY_WIRE_FRAME_H
#define FERRY_WIRE_FRAME_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdint.h>

enum { FRAME_HEADER_BYTES = 8 };

struct frame {
	uint16_t type;
	const uint8_t *body; /* in the reader's buffer: valid until it is fed again */
	size_t bytes;
};

/* The limit of a type's body; -1: no such type. */
typedef int64_t (*frame_limit)(uint16_t type);

struct frame_reader {
	uint8_t *buf;
	size_t start, end, cap; /* unread bytes are start..end */
	frame_limit limit;
};

void frame_reader_init(struct frame_reader *r, frame_limit limit);
void frame_reader_finish(struct frame_reader *r);

/*
 * Where the next bytes of the stream go: *room_out is set to how many fit, at
 * least one. NULL if memory ran out or the frame at hand is whole already.
 */
uint8_t *frame_reader_space(struct frame_reader *r, size_t *room_out);
void frame_reader_fed(struct frame_reader *r, size_t bytes);

/* 1: *out is the next frame, taken off; 0: feed more first; -1: the stream is not ours, for good. */
int frame_next(struct frame_reader *r, struct frame *out, struct err *err) must_check;

/* As frame_next, but the frame stays. */
int frame_peek(struct frame_reader *r, struct frame *out, struct err *err) must_check;

void frame_header(uint8_t out[FRAME_HEADER_BYTES], uint16_t type, uint32_t bytes);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The messages of a migration: one table that says of each type who may send
 * it, in which stages, how large it may be and what its body is. A peer that is
 * out of order or hostile is refused here, in one place.
 */
#ifndef FERRY_WIRE_MSG_H
#define FERRY_WIRE_MSG_H

#include "base/attrs.h"
#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "ferry-wire.pb-c.h"

/* What we speak, and the oldest that we understand. */
#define WIRE_VERSION 4u
#define WIRE_LOWEST 4u
#define WIRE_MAGIC "ferry"

enum { WIRE_TOKEN_CHARS = 32, PREPARE_PADDING_BYTES = 128 * 1024 };

/* Stages in the order in which they are gone through; the numbers are on the wire. */
enum wire_stage {
	WIRE_STAGE_HELLO = 0,
	WIRE_STAGE_PREFLIGHT = 1,
	WIRE_STAGE_FILES = 2,
	WIRE_STAGE_LANES = 3,
	WIRE_STAGE_PRECOPY = 4,
	WIRE_STAGE_PREPARE = 5,
	WIRE_STAGE_FREEZE = 6,
	WIRE_STAGE_CHANGES = 7,
	WIRE_STAGE_STATE = 8,
	WIRE_STAGE_COMMIT = 9,
	WIRE_STAGE_POSTCOPY = 10,
	WIRE_STAGE_FAREWELL = 11,
	WIRE_STAGES
};

/* Numbers are on the wire and never reused. */
enum msg_type {
	MSG_HELLO = 1,        /* source */
	MSG_WELCOME = 2,      /* target: a Hello, too */
	MSG_STAGE = 3,        /* source: the next stage begins */
	MSG_DONE = 4,         /* target: its part of the stage is done */
	MSG_ABORT = 5,        /* both: undo everything */
	MSG_PROGRESS = 6,     /* target */
	MSG_QUERY = 7,        /* source, instead of the first stage */
	MSG_ANSWER = 8,       /* target */
	MSG_NEEDS = 9,        /* source */
	MSG_VERDICT = 10,     /* target */
	MSG_FILE_LIST = 11,   /* source */
	MSG_FILE_STATES = 12, /* target */
	MSG_FILE_BEGIN = 13,  /* source */
	MSG_FILE_DATA = 14,   /* source: u64 offset, bytes */
	MSG_FILE_END = 15,    /* source */
	MSG_FILES_SENT = 16,  /* source */
	MSG_OBJECT = 17,      /* source: u16 length of the name, name, bytes */
	MSG_PAGES = 18,       /* source: u32 pages id, bytes (none: the end of these pages) */
	MSG_COMPLETE = 19,    /* source: nothing more will come */
	MSG_BUILT = 20,       /* target */
	MSG_COMMIT = 21,      /* source: from here on the target may run it */
	MSG_RUNNING = 22,     /* target */
	MSG_BYE = 23,         /* source: the tree at home is gone */
	MSG_DOORS = 24,       /* target */
	MSG_PLAN = 25,        /* source */
	MSG_DRAINED = 26,     /* target: nothing is missing any more */
	MSG_ROUND_PAGES = 27, /* source: u64 pid in the images, u64 address, pages */
	MSG_ROUND_END = 28,   /* source; answer: MSG_DONE */
	MSG_LAZY_LIST = 29,   /* source: paths of the tree whose files stay at home */
	MSG_TRANSPORT = 30,   /* source: over which connection everything goes from now on */
	MSG_PREPARE = 31,     /* source; answer: MSG_DONE */
	MSG_PACKED = 32,      /* source: another one, made smaller (pack.h) */
	MSG_LAZY_ROOT = 33,   /* source: not all is there; answer: MSG_DOORS */
};

enum wire_file_state {
	WIRE_FILE_SAME = 0, /* by size and modification time */
	WIRE_FILE_MISSING = 1,
	WIRE_FILE_UNSURE = 2, /* same size, other time: compare sha256 */
	WIRE_FILE_DIFFERENT = 3,
	WIRE_FILE_WRONG_TYPE = 4,
	WIRE_FILE_SHARED = 5, /* it is the same file */
	WIRE_FILE_STAGED = 6, /* was sent before; waits to be put in place */
	WIRE_FILE_STALE = 8, /* different, but a tree that moved away left it like this: migrate/left.h */
	WIRE_FILE_MADE = 7, /* a directory or fifo that was missing and can be made */
};

enum wire_fate {
	WIRE_FATE_NEVER = 0,   /* it does not run there and never will */
	WIRE_FATE_RUNNING = 1, /* it ran there: never run it at home again */
	WIRE_FATE_FILLING = 2, /* it runs there, and needs pages from home */
	WIRE_FATE_LOST = 3, /* it ran there without all of its pages, and was ended with its agent */
};

/* Where the files of the tree are. */
enum wire_files {
	WIRE_FILES_COMPARE = 0, /* both sides have them; the source decides about what differs */
	WIRE_FILES_LAZY = 1,    /* at the source, until they are used */
	WIRE_FILES_SHARED = 2,  /* the same on both sides */
};

/* How memory moves: bits. */
enum wire_mode {
	WIRE_MODE_STOP = 0,
	WIRE_MODE_PRECOPY = 1,  /* in rounds, before the freeze */
	WIRE_MODE_POSTCOPY = 2, /* what is left, after the commit */
	WIRE_MODE_HYBRID = 3,
};

enum wire_side { WIRE_SOURCE = 1, WIRE_TARGET = 2 };

struct msg_info {
	const char *name;
	uint8_t senders; /* enum wire_side bits */
	uint32_t stages; /* bits 1 << enum wire_stage */
	uint32_t max_bytes;
	const ProtobufCMessageDescriptor *body; /* NULL: raw bytes */
};

/* NULL: no such message. */
const struct msg_info *msg_info(uint16_t type);

/* For frame_reader_init. */
int64_t msg_limit(uint16_t type);

const char *wire_stage_name(enum wire_stage stage);

/* May @sender send this now? */
int msg_allowed(uint16_t type, enum wire_side sender, enum wire_stage stage, struct err *err)
	must_check;

/* Decodes a body of a type that has a message. Free with protobuf_c_message_free_unpacked(, NULL). NULL + err. */
ProtobufCMessage *msg_unpack(uint16_t type, const uint8_t *body, size_t bytes, struct err *err)
	must_check;

/* 32 hexadecimal digits and nothing else? Tokens become file names. */
int wire_token_valid(const char *token);

#endif

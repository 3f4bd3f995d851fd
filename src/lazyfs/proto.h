// SPDX-License-Identifier: Apache-2.0
/*
 * The protocol between a lazy file system and the source of its files, over
 * the frames of wire/frame.h. No I/O here; hostile bytes end in an error.
 *
 * The client says hello once: what the tree has, and whom its tasks are. Then
 * it sends requests, as many at a time as it likes; each names its file by
 * path and, where contents are meant, by identity, so that the source keeps
 * nothing that a new connection would have to bring back. Answers carry the
 * number of their request. ferry-protocol(7) has the layout.
 */
#ifndef FERRY_LAZYFS_PROTO_H
#define FERRY_LAZYFS_PROTO_H

#include "base/arena.h"
#include "base/err.h"
#include "base/vec.h"
#include "wire/frame.h"

#include <stdbool.h>
#include <stdint.h>

#define LF_VERSION 2u        /* nothing is changed at the source */
#define LF_VERSION_WRITES 3u /* the client asks for leave to send changes home */
#define LF_VERSION_OWNERS \
	4u /* the same, and the tree has tasks that may change any file's owner and mode */

/* Numbers are on the wire and never reused; they begin where those of wire/msg.h do not reach. */
enum lf_type {
	LF_HELLO = 256,    /* client */
	LF_READY = 257,    /* source */
	LF_REFUSED = 258,  /* source: a sentence; it ends */
	LF_BYE = 259,      /* client: everything is here */
	LF_STAT = 264,     /* client: requests */
	LF_LIST = 265,     /* answers: LF_ENTRIES, the last one without "more" */
	LF_READLINK = 266, /* answer: LF_TARGET */
	LF_XATTRS = 267,   /* answer: LF_XATTR_LIST */
	LF_READ = 268,     /* answer: LF_DATA */
	LF_SEEK = 269,     /* answer: LF_POSITION */
	LF_DIGEST = 270,   /* answer: LF_SUM */
	LF_WRITE = 271,    /* changes, of version 3; answer: LF_ATTR as it is after it */
	LF_RESIZE = 272,
	LF_SETTLE = 273, /* the changes of a file are complete for now */
	LF_CREATE = 274,
	LF_REMOVE = 275,
	LF_RENAME = 276,
	LF_SET = 277, /* these two: only to a source that has answered with LF_FOLDER */
	LF_XATTR = 278,
	LF_FAILED = 280, /* source: errno */
	LF_ATTR = 281,
	LF_ENTRIES = 282,
	LF_TARGET = 283,
	LF_XATTR_LIST = 284,
	LF_DATA = 285,
	LF_POSITION = 286,
	LF_SUM = 287,
	LF_FOLDER = 288, /* as LF_ENTRIES, of one directory of those that a list was asked for */
};

enum {
	LF_PATH_MAX = 4095,              /* bytes of a path, without NUL */
	LF_READ_MAX = 512 * 1024,        /* bytes of one LF_READ */
	LF_DIGEST_MAX = 8 * 1024 * 1024, /* bytes that one LF_DIGEST is about */
	LF_SUM_BYTES = 32,               /* SHA-256 */
	LF_EXTENTS_MAX = 128,            /* of one LF_DATA */
	LF_LIST_BYTES = 128 * 1024,
	LF_FOLDER_BYTES = 48 * 1024, /* of a directory that comes with another one */
	LF_BELOW_MAX = 1024 * 1024,  /* the offset of a list, at most */
	LF_ENTRY_HEAD = 100, /* so much of it is taken by an entry, beside name and target */
	LF_EXPORTS_MAX = 65536,
	LF_CREDS_MAX = 256,
	LF_GROUPS_MAX = 65536,
};

/* What a file is recognised by: another value of any of them is another content. */
struct lf_ident {
	uint64_t dev, ino, size;
	int64_t mtime_ns, ctime_ns;
};

struct lf_attr {
	struct lf_ident id;
	uint64_t blocks; /* of 512 bytes */
	uint64_t rdev;
	uint32_t mode, nlink, uid, gid;
	int64_t atime_ns;
};

/* A path that the tree has: a file, or a directory with everything below it. */
struct lf_export {
	const char *path;
	bool whole; /* a directory: all of it */
};

/* With whose rights the tree reads: one for each different set of its tasks. */
struct lf_creds {
	uint32_t uid, gid;
	uint32_t n_groups;
	const uint32_t *groups;
	bool reads_all;  /* CAP_DAC_OVERRIDE or CAP_DAC_READ_SEARCH was in effect */
	bool writes_all; /* CAP_DAC_OVERRIDE was; of version 3 */
	bool owns_all;   /* CAP_CHOWN and CAP_FOWNER were; of version 4 */
};

struct lf_hello {
	uint32_t version;
	uint64_t token; /* version 3 and 4: marks files that this client is in the middle of changing */
	const char *root; /* the tree's root directory, as the source sees it */
	VEC(struct lf_export) exports;
	VEC(struct lf_creds) creds;
};

/* Of a change. */
enum {
	LF_RESUME = 1,  /* an answer was missed: see LF_WRITE in ferry-protocol(7) */
	LF_DURABLE = 2, /* SETTLE: as fsync(2) */
	LF_FLAGS = 3,
};

/* What an LF_SET is about, in its bytes. */
enum {
	LF_SET_MODE = 1,
	LF_SET_UID = 2,
	LF_SET_GID = 4,
	LF_SET_MTIME = 8,
	LF_SET_ATIME = 16,
	LF_SET_ALL = 31,
};

/*
 * Of a list, in its bytes. An older source ignores it, and its offset, and answers with LF_ENTRIES. With LF_FOLDERS answers are LF_FOLDER:
 * the directory itself, unless LF_ONLY_BELOW, and then those below it, level by level, as long as all of these together have
 * no more bytes than its offset, and nothing else is asked for. Each of them is one message, and one that does not fit in LF_FOLDER_BYTES is left out.
 */
enum { LF_FOLDERS = 1, LF_ONLY_BELOW = 2 };

struct lf_request {
	uint16_t type; /* LF_STAT to LF_XATTR */
	uint64_t id;
	uint64_t offset; /* READ, SEEK, DIGEST, WRITE; RESIZE: the size; LIST: see LF_FOLDERS; SET: access time */
	uint32_t bytes; /* READ, DIGEST, WRITE, XATTR; SET: LF_SET_MODE, ...; SEEK: SEEK_DATA or SEEK_HOLE */
	struct lf_ident want; /* READ, SEEK, DIGEST, and all changes but CREATE */
	const char *path;     /* "/", or "/a/b" below the tree's root */

	/* changes only */
	uint32_t flags, mode; /* mode: CREATE, with the type; SET; XATTR: 1 to remove it */
	int64_t time_ns; /* SETTLE, SET: modification; WRITE, RESIZE: what the last SETTLE said */
	const char *other; /* RENAME: the new path; CREATE: what a link holds; XATTR: its name; else "" */
	/* RENAME: what is at the new path; inode 0: nothing is. SET: "device" and "inode" are user and group */
	struct lf_ident replaced;
	const uint8_t *data; /* WRITE, XATTR */
	uint32_t data_bytes; /* as many as bytes; WRITE: 0: they are zeros */
};

static inline bool lf_is_change(uint16_t type)
{
	return type >= LF_WRITE && type <= LF_XATTR;
}

/* Does a client that says this version send changes? */
static inline bool lf_writes(uint32_t version)
{
	return version >= LF_VERSION_WRITES;
}

/* While a file is changed it has this attribute at home, see lazyfs/change.h: no program sets it. */
#define LF_MARK_XATTR "user.ferry.writing"

/* May a program's change of this extended attribute go home? */
bool lf_xattr_valid(const char *name);

struct lf_entry {
	const char *name, *target; /* target: FOLDER, what a link holds; else "" or NULL */
	struct lf_attr attr;
};

struct lf_xattr {
	const char *name;
	const uint8_t *value;
	uint32_t bytes;
};

struct lf_extent {
	uint32_t at, bytes; /* within the range that the data covers */
};

struct lf_reply {
	uint16_t type;
	uint64_t id;
	int error;           /* FAILED */
	struct lf_attr attr; /* ATTR */
	bool more;           /* ENTRIES, FOLDER: another one follows */
	bool last;           /* FOLDER: of this directory there are no more */
	const char *path;    /* FOLDER: the directory */
	VEC(struct lf_entry) entries;
	VEC(struct lf_xattr) xattrs;
	const uint8_t *target; /* TARGET, not ended by NUL */
	uint64_t target_bytes;
	uint8_t sum[LF_SUM_BYTES]; /* SUM: of the bytes from the offset on, up to the end of the file at most */
	uint64_t position; /* POSITION; DATA: where it begins */
	uint64_t covered;  /* DATA: how far it tells; what no extent has is a hole */
	struct lf_extent extents[LF_EXTENTS_MAX];
	uint32_t n_extents;
	const uint8_t *data; /* of the extents, behind each other */
};

/* The largest body of a type, for frame_reader_init; -1: no such type. */
int64_t lf_limit(uint16_t type);

/* "/", or an absolute path of at most LF_PATH_MAX bytes without empty, "." and ".." components. */
bool lf_path_valid(const char *path);
/* A component of one. */
bool lf_name_valid(const char *name);

/* Bytes to send: a whole frame. */
struct lf_out {
	uint8_t *data;
	size_t bytes, cap;
	bool failed; /* memory ran out */
};

void lf_out_free(struct lf_out *out);

/* Each appends one frame. -1: out of memory (out->failed), and nothing was appended. */
int lf_put_hello(struct lf_out *out, const struct lf_hello *hello) must_check;
int lf_put_empty(struct lf_out *out, uint16_t type) must_check; /* READY, BYE */
int lf_put_refused(struct lf_out *out, const char *why) must_check;
int lf_put_request(struct lf_out *out, const struct lf_request *r) must_check;
int lf_put_reply(struct lf_out *out, const struct lf_reply *r) must_check;

/* Decoded values live in @arena or point into the frame. */
int lf_get_hello(const struct frame *f, struct lf_hello *out, struct arena *arena, struct err *err)
	must_check;
int lf_get_refused(const struct frame *f, char *why, size_t size, struct err *err) must_check;
int lf_get_request(const struct frame *f, struct lf_request *out, struct arena *arena,
		   struct err *err) must_check;
/* Also -1 if the answer contradicts itself: extents that overlap, or reach outside. */
int lf_get_reply(const struct frame *f, struct lf_reply *out, struct arena *arena, struct err *err)
	must_check;

void lf_hello_free(struct lf_hello *hello);
void lf_reply_free(struct lf_reply *r);

bool lf_creds_same(const struct lf_creds *a, const struct lf_creds *b);
bool lf_ident_same(const struct lf_ident *a, const struct lf_ident *b);

#endif

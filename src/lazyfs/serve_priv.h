// SPDX-License-Identifier: Apache-2.0
/* What the files of the source's side share: serve.c, with the session and names, and serve_data.c, with contents. */
#ifndef FERRY_LAZYFS_SERVE_PRIV_H
#define FERRY_LAZYFS_SERVE_PRIV_H

#include "base/arena.h"
#include "base/vec.h"
#include "lazyfs/jail.h"
#include "lazyfs/scope.h"
#include "lazyfs/serve.h"

enum {
	OPEN_FILES = 64,
	FLUSH_BYTES = 256 * 1024,
	XATTR_BYTES = 1024 * 1024,
	BELOW_MOST = 8,   /* questions for what is below */
	FOLDER_HEAD = 32, /* bytes of a message of a directory that has nothing */
};

/* A file that was read from a moment ago. */
struct open_file {
	char *path;
	int fd;
	uint64_t used; /* when: a count of requests */
};

/* Directories below one that was asked for. */
struct below {
	struct below *next;
	struct arena arena;
	const struct serve_policy *policy; /* that was in force */
	uint64_t id;                       /* of the request */
	const char *path;
	VEC(const char *) dirs; /* level by level; those before `at` were listed */
	size_t at, sent, most;  /* sent, most: bytes */
};

struct server {
	const struct serve_options *opt;
	const struct serve_policy *policy; /* that is in force; NULL: the client's word */
	int in, out;
	struct frame_reader reader;
	struct arena hello_arena, arena; /* arena: of one request */
	struct lf_hello hello;
	struct scope scope;
	struct jail jail;
	struct lf_out answers;
	struct open_file files[OPEN_FILES];
	uint64_t requests, sent_bytes;
	uint8_t *buf;        /* LF_READ_MAX */
	struct below *below; /* the newest first */
	bool bye, writes;
};

/* serve.c */
int serve_answer(struct server *s, const struct lf_reply *r, struct err *err);
/* Answers that it cannot be done, for the reason @no (an errno value). */
int serve_fail(struct server *s, const struct lf_request *q, int no, struct err *err);
/* What a task of the tree has open under this path; NULL: nothing. */
const struct jail_held *serve_held(const struct server *s, const char *path);

/* serve_data.c */
int serve_data_read(struct server *s, const struct lf_request *q, struct err *err);
int serve_data_digest(struct server *s, const struct lf_request *q, struct err *err);
int serve_data_seek(struct server *s, const struct lf_request *q, struct err *err);
void serve_data_close(struct open_file *f);

#endif

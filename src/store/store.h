// SPDX-License-Identifier: Apache-2.0
/*
 * Where images live. A store holds objects (whole images, by their CRIU file
 * name: "core-34.img") and pages (the raw bytes of "pages-N.img", by N).
 *
 * The property that everything else leans on: a get BLOCKS until the thing has
 * arrived, or until the store knows that it will never come. So a reader may
 * start while the writer still works. In a directory everything has arrived.
 *
 * One thread may put while another gets; two puts of one name are an error.
 */
#ifndef FERRY_STORE_STORE_H
#define FERRY_STORE_STORE_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct store;

/* No image comes near: what is larger is not an image (get and put refuse it). */
#define STORE_OBJECT_MAX_BYTES (1UL << 30)
#define STORE_NAME_MAX_BYTES 128

struct store_ops {
	const char *name; /* "dir", "wire", "memory", "stream", "spool", "cache", "fault" */
	int (*put)(struct store *s, const char *object, const void *data, size_t bytes,
		   struct err *err);
	int (*get)(struct store *s, const char *object, void **data_out, size_t *bytes_out,
		   struct err *err);
	int (*put_pages)(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
			 struct err *err);
	int (*get_pages)(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
			 struct err *err);
	int (*read_pages)(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
			  size_t *bytes_out, struct err *err); /* optional: store_read_pages */
	/*
	 * A descriptor from which pages_id's bytes can be read by pread/splice at
	 * their offsets, or -1 if this store has none (then use get_pages). The
	 * store keeps ownership. Blocks until all of its pages have arrived.
	 */
	int (*pages_fd)(struct store *s, uint32_t pages_id);
	/* Says that an object will not come. Optional. */
	int (*skip)(struct store *s, const char *object, struct err *err);
	int (*complete)(struct store *s, struct err *err);
	int (*arrived)(struct store *s, struct err *err); /* optional */
	/* Optional: store_parent and store_set_parent. */
	int (*parent)(struct store *s, struct store **parent_out, struct err *err);
	int (*set_parent)(struct store *s, const char *target, struct err *err);
	int (*punch_pages)(struct store *s, uint32_t pages_id, uint64_t off, uint64_t bytes,
			   struct err *err);
	void (*close)(struct store *s);
};

/* Implementations embed this first. */
struct store {
	const struct store_ops *ops;
	bool streams; /* store_streams */
};

/* Can an image have this name? As names come from the other side of a connection, too. */
int store_name_valid(const char *object, struct err *err) must_check;

/* Stores an object under a new name. The bytes are copied or written before it returns. */
int store_put(struct store *s, const char *object, const void *data, size_t bytes, struct err *err)
	must_check;

/*
 * Waits for an object. 0: *data_out (caller frees) and *bytes_out are set.
 * 1: the store is complete and has no such object. -1: error.
 */
int store_get(struct store *s, const char *object, void **data_out, size_t *bytes_out,
	      struct err *err) must_check;

/* Appends to the pages of @pages_id, in order; bytes == 0 says that there will be no more. */
int store_put_pages(struct store *s, uint32_t pages_id, const void *data, size_t bytes,
		    struct err *err) must_check;

/* Waits for @bytes at @off of the pages of @pages_id; fewer there is an error naming the image and offset. */
int store_get_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
		    struct err *err) must_check;

/*
 * For who does not know how many there are: waits until there are pages at @off, and takes what there
 * is of them, at most @bytes. 0, with *bytes_out 0 at the end; 1: the store is complete and has no such pages; -1.
 */
int store_read_pages(struct store *s, uint32_t pages_id, uint64_t off, void *buf, size_t bytes,
		     size_t *bytes_out, struct err *err) must_check;

int store_pages_fd(struct store *s, uint32_t pages_id);

/*
 * The writer says that this object will not be put: a directory forgets a stale
 * one of that name, a waiting get returns 1.
 */
int store_skip(struct store *s, const char *object, struct err *err) must_check;

/* The writer says that nothing more will come: every waiting or later get of a missing object returns 1. */
int store_complete(struct store *s, struct err *err) must_check;

/*
 * Waits until everything has arrived: 0 when the writer has completed the store, so that all that came is
 * sound and nothing is missing; -1 when it will never be. Who builds from a store whose images are still on their
 * way asks this before it lets the result run.
 */
int store_arrived(struct store *s, struct err *err) must_check;

/*
 * Does a reader work while the writer still puts? Then what a reader needs first is to
 * be put first: all images before the pages.
 */
bool store_streams(const struct store *s);

/*
 * The store that this one builds on: pages that a pagemap marks PE_PARENT are
 * there. *parent_out is NULL if there is none; it is closed with its child. A link
 * that leads nowhere, or back to a store that it came from, is an error.
 */
int store_parent(struct store *s, struct store **parent_out, struct err *err) must_check;

/*
 * The writer says what this store builds on: @target becomes the link "parent" of
 * a directory, so a relative one starts there. Fails where it leads nowhere.
 */
int store_set_parent(struct store *s, const char *target, struct err *err) must_check;

/* Frees the space of a piece of stored pages, which reads as zeros from then on. Directories only. */
int store_punch_pages(struct store *s, uint32_t pages_id, uint64_t off, uint64_t bytes,
		      struct err *err) must_check;

/* NULL is allowed. */
void store_close(struct store *s);

/*
 * A directory in CRIU's layout. @dirfd is duplicated. Images get mode 0644; on
 * put a stale image of the same name is replaced. The first put removes a stale
 * inventory.img: a directory without one is no dump, so a dump that fails half
 * way leaves nothing that looks like one. "stats-dump" and the like are not
 * objects of a store.
 */
struct store *store_dir_open(int dirfd, struct err *err) must_check;

/*
 * In memory: objects on the heap, pages in one memfd per pages id. For tests,
 * and for the receiving side of a migration (another thread puts).
 */
struct store *store_memory_open(struct err *err) must_check;

/* Pages marked PE_PARENT are in @parent, which is closed with @s from now on. */
void store_memory_set_parent(struct store *s, struct store *parent);

/* Makes every waiting get fail with this reason (the connection broke). */
void store_memory_fail(struct store *s, const struct err *why);

/*
 * Wraps another store (and closes it): the @fail_at-th call (from 1) of any op
 * that can report an error fails with @no, and so do all that follow. It has no
 * pages descriptors, so that pages are read through it too. For tests; FERRY_STORE_FAULT=N:ERRNO in the environment of a
 * debug build of the commands uses it too.
 */
struct store *store_fault_open(struct store *inner, unsigned int fail_at, int no, struct err *err)
	must_check;

#endif

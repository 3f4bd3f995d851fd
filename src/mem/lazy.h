// SPDX-License-Identifier: Apache-2.0
/*
 * The fault engine of post-copy: a tree runs while pages of it are missing.
 *
 * An area that is registered with a userfaultfd in MISSING mode stops a thread
 * at the first touch of an absent page. The engine owns the userfaultfds of a tree, knows
 * which pages are missing, asks a source for them (those that a thread waits
 * for first, their neighbours next, the rest in the background), and puts in what comes. It
 * follows the program when that forks, remaps, unmaps and discards memory.
 *
 * Two rules: a page that is missing is never answered with zeros, and a source
 * that is lost ends nothing: threads wait until it is back.
 *
 * One thread works an engine, whichever it is. The loop of a user:
 *
 *	poll the descriptor of the engine and those of the source
 *	lazy_run() when the engine's is readable, and after every batch of answers
 *	the source's own work calls lazy_answer(), lazy_end(), lazy_push()
 *	until lazy_left_pages() is 0
 *
 * or lazy_step(), for a source that can be polled by its one descriptor.
 * What happens when the process of the engine dies: guardian.h.
 */
#ifndef FERRY_MEM_LAZY_H
#define FERRY_MEM_LAZY_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct guardian;
struct lazy;
struct lazy_space;

/*
 * Under which name a source knows memory, as the images do: the task's pid in
 * them. Children that are forked while pages are missing ask under the name of their parent.
 */
typedef uint64_t lazy_object;

/* ---- sources ---- */

/* One question to the source. The engine's; valid until lazy_end(), or until the source is lost. */
struct lazy_request {
	lazy_object object;
	uint64_t vaddr; /* at the time of the dump */
	uint64_t pages;
	bool urgent; /* a thread waits for the first page */
	uint64_t sent_ns;
	void *user; /* the source's own */
	struct lazy_request *next_of_source;
	struct lazy_request *prev, *next; /* the engine's list */
};

struct lazy_source;

struct lazy_source_ops {
	const char *name;
	/*
	 * Takes a request: 0; 1: not now (background only: it is offered again at the next lazy_run);
	 * -1: the source is lost. Must not block, and must not call the engine back.
	 */
	int (*request)(struct lazy_source *s, struct lazy_request *rq, struct err *err);
	/* How many of @pages pages can be asked for with one request, at least 1. NULL: all. */
	uint64_t (*extent)(struct lazy_source *s, lazy_object object, uint64_t vaddr, uint64_t pages);
	/*
	 * For lazy_step(): what to poll for (*events: POLLIN, POLLOUT); -1: nothing now. And what to
	 * do when it is ready, or when *timeout_ms (-1 at first, may be lowered) is over. -1: the source is lost.
	 */
	int (*poll_fd)(struct lazy_source *s, short *events, int *timeout_ms);
	int (*work)(struct lazy_source *s, struct lazy *z, struct err *err);
	/*
	 * After -1 of the others, the requests being gone: 0: it has been found again, 1: not yet (asked again
	 * when *timeout_ms of poll_fd is over), -1: given up. NULL: never comes back.
	 */
	int (*reconnect)(struct lazy_source *s, struct err *err);
};

/* Implementations embed this first. */
struct lazy_source {
	const struct lazy_source_ops *ops;
	/*
	 * So many pages at most may be asked for in the background at once: less, when threads that
	 * wait would have to wait for them, too (no fast_lane). 0: the source sends them by itself
	 * (lazy_push), and is only asked for what threads wait for.
	 */
	uint64_t window_pages;
	/* An urgent request asks for so many pages at most: that one, and those behind it (0: that one). */
	uint64_t around_pages;
	/* Urgent requests overtake the background: worth asking for a page that is on its way already. */
	bool fast_lane;
	/* So many background requests are answered beside each other (0: one). */
	unsigned int beside;
};

/* Pages of a request have come: @n pages at @vaddr, within it, in any order and number of calls. */
int lazy_answer(struct lazy *z, struct lazy_request *rq, uint64_t vaddr, const void *data,
		uint64_t n, struct err *err) must_check;

/* The same for pages that hold only zeros at the source. */
int lazy_answer_zero(struct lazy *z, struct lazy_request *rq, uint64_t vaddr, uint64_t n,
		     struct err *err) must_check;

/* No more will come for it; pages that did not come are missing again, and asked for anew. Frees it. */
void lazy_end(struct lazy *z, struct lazy_request *rq);

/* Pages that nobody asked for. Those that are not missing (any more) are dropped. @data NULL: zeros. */
int lazy_push(struct lazy *z, lazy_object object, uint64_t vaddr, const void *data, uint64_t n,
	      struct err *err) must_check;

/* The connection is gone: all requests end. Nothing is asked for until lazy_back(). */
void lazy_lost(struct lazy *z);
/* Another connection: what threads wait for is asked for again, at the next lazy_run. */
void lazy_back(struct lazy *z);

/* ---- engine ---- */

/*
 * @source and @guardian (NULL: none, for tests) must outlive the engine. The
 * guardian must have been started before: it shares the descriptors from then on.
 */
struct lazy *lazy_open(struct lazy_source *source, struct guardian *guardian, struct err *err)
	must_check;

/* Closes every userfaultfd. Only when nothing is missing or the tree is dead: see guardian.h. NULL allowed. */
void lazy_close(struct lazy *z);

/* Can memory come late on this kernel, for this user? -1 says why not. */
int lazy_probe(struct err *err) must_check;

/* Features that the userfaultfd of a task must have been given by UFFDIO_API. */
uint64_t lazy_uffd_features(void);

/*
 * Adds an address space. @uffd: a non-blocking userfaultfd made in the task, its handshake
 * done, areas registered; the engine takes it, also on failure. @pidfd of the task, for the
 * guardian (taken, too), or -1. NULL + err.
 */
struct lazy_space *lazy_add(struct lazy *z, lazy_object object, int uffd, int pidfd, struct err *err)
	must_check;

/*
 * Shared memory: objects LAZY_SHARED | id are files, whose offsets are the addresses. @fd: the file of @bytes, writable,
 * with no page where one is missing; taken, also on failure. Every area in the tree that shows it must be in some
 * view, and no descriptor of it be in the tree: what is read or mapped by that would be zeros. NULL + err.
 */
#define LAZY_SHARED (1ULL << 32)
struct lazy_space *lazy_add_shared(struct lazy *z, lazy_object object, int fd, uint64_t bytes,
				   struct err *err) must_check;

struct lazy_area {
	uint64_t start, end; /* in the task */
	uint64_t off;        /* of @start in the object */
	lazy_object object;
};

/*
 * A task that has shared memory mapped: a userfaultfd of its own for these areas (as for lazy_add; taken, as is
 * @pidfd, also on failure). A fork, an unmapping, a move or a discard in them lasts until all of it is there.
 */
int lazy_view_add(struct lazy *z, int uffd, int pidfd, const struct lazy_area *areas, size_t n,
		  struct err *err) must_check;

/* The pidfd of its task (taken), for the guardian, when it was not known at first. Once. */
int lazy_watch(struct lazy_space *sp, int pidfd, struct err *err) must_check;

/*
 * @pages pages of it are missing from @vaddr on: before the first lazy_run,
 * ascending, no page twice.
 */
int lazy_missing(struct lazy_space *sp, uint64_t vaddr, uint64_t pages, struct err *err) must_check;

/*
 * The background begins with these pages, as far as they are missing, in the order in which they are named: what is
 * known to be in use. Before lazy_start(). Nothing depends on it, so it cannot fail.
 */
void lazy_prefer(struct lazy_space *sp, uint64_t vaddr, uint64_t pages);

/* From now on also in the background. Before, only what threads touch is asked for. */
void lazy_start(struct lazy *z);

/* Readable when a task needs the engine. */
int lazy_fd(const struct lazy *z);

/*
 * Does what tasks need, and asks for more. Never blocks. -1 only when memory
 * is exhausted or the kernel refuses what it must not refuse: the tree must be ended then.
 */
int lazy_run(struct lazy *z, struct err *err) must_check;

/*
 * Waits at most @timeout_ms (-1: no limit) for tasks or source, and works. Also returns when
 * @watch_fd (-1: none) is readable. A lost source is reconnected; -1 also when it was given up.
 */
int lazy_step(struct lazy *z, int watch_fd, int timeout_ms, struct err *err) must_check;

/* Pages that are still missing in some task. 0: every userfaultfd has been closed. */
uint64_t lazy_left_pages(const struct lazy *z);
/* Is a page of an object still missing in some task? For sources that push, to skip what came on demand. */
bool lazy_wants(const struct lazy *z, lazy_object object, uint64_t vaddr);

struct lazy_stats {
	uint64_t faults;        /* of threads, on missing pages */
	uint64_t hole_faults;   /* on pages that the program never had: zeros */
	uint64_t urgent_pages;  /* came on demand */
	uint64_t bulk_pages;    /* came otherwise */
	uint64_t dropped_pages; /* came too late, or unasked for, or twice */
	uint64_t gone_pages;    /* discarded by the program before they came */
	uint64_t forks, losses; /* children adopted; times the source was lost */
	uint64_t spaces;
	uint64_t fault_p50_ns, fault_p99_ns, fault_max_ns; /* from the event to the page in place */
	uint64_t drain_ns; /* from lazy_start to nothing missing; 0: not yet */
};
void lazy_stats(const struct lazy *z, struct lazy_stats *out);

#endif

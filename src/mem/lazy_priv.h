// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of the fault engine share:
 *
 *	lazy.c         spaces, requests, the loop
 *	lazy_events.c  what tasks say: faults, forks, remaps
 *	lazy_place.c   pages into spaces
 *	lazy_shm.c     shared memory, and who has it mapped
 *	lazy_map.c     which pages are missing
 *	lazy_stat.c    figures
 */
#ifndef FERRY_MEM_LAZY_PRIV_H
#define FERRY_MEM_LAZY_PRIV_H

#include "mem/lazy.h"
#include "mem/lazy_map.h"

/* A thread that waits at an address. */
struct lazy_wait {
	uint64_t addr;
	uint64_t since_ns;
	enum {
		WAIT_NEW,  /* not looked at yet */
		WAIT_PAGE, /* for a missing page */
		WAIT_HOLE, /* nothing is missing there: for zeros */
	} what;
};

/* Pages with which the background begins. */
struct lazy_range {
	uint64_t vaddr, pages;
};

struct lazy_space {
	struct lazy *z;
	struct lazy_space *next;
	lazy_object object;
	int uffd;     /* -1: closed; freed at the next lazy_run. Of shared memory: its file */
	int pidfd;    /* of the task; -1: not known */
	bool child;   /* forked while pages were missing */
	bool watched; /* its pidfd is */
	bool shared;  /* addresses are offsets in a file of @bytes (lazy_shm.c) */
	uint64_t bytes;
	struct lazy_map map;
	VEC(struct lazy_wait) waits;
	VEC(struct lazy_range) preferred;
	size_t next_preferred;
	uint64_t cursor; /* where the background goes on */
};

enum { LATENCY_BUCKETS = 64 * 8 };

struct lazy {
	struct lazy_source *source;
	struct guardian *guardian;
	int epoll, timer; /* the timer: something has to be tried again */
	struct lazy_space *spaces, **spaces_end;
	struct lazy_view *views;
	int views_epoll;              /* -1: there was none yet */
	struct lazy_request requests; /* list head */
	struct lazy_space *turn;      /* whose background pages are asked for next */
	uint64_t bulk_asked_pages, bulk_step_pages;
	uint64_t window_pages, base_ns; /* see adapt_window() */
	bool started;
	bool lost; /* requests may still be on the list: lazy_lost() takes them off */
	bool broken; /* the kernel refused, or memory is exhausted: @why; nothing can be done any more */
	struct err why;
	uint64_t fault_ns;        /* when a thread last met a missing page, or got one */
	uint64_t look_ns;         /* when dead tasks and the guardian were looked for */
	bool short_of;            /* memory for what a task says: it waits until there is some */
	struct lazy_space *spare; /* with room for its map: for the child of the next fork */
	struct lazy_map_room room;
	bool ask_again; /* requests ended without all their pages, or could not be made: look at those that wait */
	bool told_short; /* that there is no memory was said */
	uint64_t start_ns;
	struct lazy_stats st;
	uint64_t latency[LATENCY_BUCKETS];
};

/* lazy.c */
void lazy_space_close(struct lazy_space *sp);
/* A space that nobody polls. Takes the descriptor, also on failure. */
struct lazy_space *lazy_space_link(struct lazy *z, lazy_object object, int fd, struct err *err);
struct lazy_space *lazy_space_new(struct lazy *z, lazy_object object, int uffd, struct err *err);
/* Asks for the page that a thread waits for, if it is not on its way. */
void lazy_ask_urgent(struct lazy_space *sp, uint64_t addr);
/* Runs lazy_run() again in a moment, whatever happens. */
void lazy_retry_soon(struct lazy *z);
/* Says, once, that there is no memory for what a task says, and has it tried again. */
void lazy_short_of_memory(struct lazy *z);

/* lazy_events.c */
/* Reads all that the userfaultfd has. May close the space, and add others at the end of the list. */
int lazy_events(struct lazy_space *sp, struct err *err) must_check;
/* What threads wait for: zeros for holes, requests for pages that are on nobody's way. */
int lazy_waits(struct lazy_space *sp, bool ask_again, struct err *err) must_check;
/* A thread waits at an address. */
int lazy_fault(struct lazy_space *sp, uint64_t addr, struct err *err) must_check;

/* lazy_place.c */
/* @data NULL: zeros. Counts in *placed the pages that some space took. */
int lazy_place(struct lazy *z, lazy_object object, uint64_t dump, const uint8_t *data, uint64_t n,
	       uint64_t *placed, struct err *err) must_check;
/* Zeros where nothing is missing: 0, 1 (not now), -1. */
int lazy_place_hole(struct lazy_space *sp, uint64_t addr, struct err *err) must_check;

/* lazy_shm.c */
/* Pages into the file of shared memory; @data NULL: zeros. Bytes, or a negative errno. */
int64_t lazy_shared_write(const struct lazy_space *sp, uint64_t off, const uint8_t *data,
			  uint64_t bytes);
/* These offsets of an object are no longer missing: whoever waits there tries again. */
void lazy_views_wake(const struct lazy *z, lazy_object object, uint64_t start, uint64_t end);
/* What threads wait for. */
int lazy_views_events(struct lazy *z, struct err *err) must_check;
/* Does a task wait until shared memory is complete? */
bool lazy_views_held(const struct lazy *z);
/* Closes what is complete, and looks again at views that had an event. */
int lazy_views_work(struct lazy *z, struct err *err) must_check;
/* Tasks may have ended, and shared memory that only they had is not needed any more. */
void lazy_views_close_dead(struct lazy *z);
void lazy_views_close(struct lazy *z);

/* lazy_stat.c */
void lazy_stat_fault(struct lazy *z, uint64_t ns);

#endif

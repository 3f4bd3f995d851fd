// SPDX-License-Identifier: Apache-2.0
/*
 * Pages into address spaces. What has to be placed is looked up anew before
 * each call of the kernel: events that the task is waiting for to be read come between
 * (EAGAIN), and change what is missing and where.
 */
#include "base/clock.h"
#include "mem/lazy_priv.h"

#define LOG_MODULE "lazy"
#include "base/log.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <time.h>

/*
 * So often, for a moment each, a task is given time to go on with what it changes, before
 * its pages are dropped and asked for again: a fork copies page tables for milliseconds.
 */
enum { YIELDS = 20, PATIENCE = 120, MOMENT_NS = 50000 };

/* Nobody waits for these pages any more. */
static void note_placed(struct lazy_space *sp, uint64_t start, uint64_t end)
{
	uint64_t now = 0;
	size_t kept = 0;

	for (size_t i = 0; i < sp->waits.n; i++) {
		struct lazy_wait w = sp->waits.v[i];

		if (w.addr < start || w.addr >= end) {
			sp->waits.v[kept++] = w;
			continue;
		}
		now = now ? now : clock_ns();
		if (w.what != WAIT_PAGE)
			continue;
		lazy_stat_fault(sp->z, now - w.since_ns);
		sp->z->fault_ns = now;
	}
	sp->waits.n = kept;
}

static void wake(const struct lazy_space *sp, uint64_t addr, uint64_t bytes)
{
	struct uffdio_range r = {addr, bytes};

	ioctl(sp->uffd, UFFDIO_WAKE, &r);
}

/* One call of the kernel. Returns bytes placed, or a negative errno. */
static int64_t copy_in(const struct lazy_space *sp, uint64_t addr, const uint8_t *data, uint64_t bytes)
{
	struct uffdio_copy c = {.dst = addr, .src = (uintptr_t)data, .len = bytes};
	struct uffdio_zeropage z = {.range = {addr, bytes}};
	int r = data ? ioctl(sp->uffd, UFFDIO_COPY, &c) : ioctl(sp->uffd, UFFDIO_ZEROPAGE, &z);
	int64_t done = data ? c.copy : z.zeropage;

	if (r == 0)
		return (int64_t)bytes;
	return errno == EAGAIN && done > 0 ? done : -errno;
}

static void took(struct lazy_space *sp, uint64_t addr, uint64_t bytes)
{
	lazy_map_clear(&sp->map, addr, addr + bytes);
	note_placed(sp, addr, addr + bytes);
	if (sp->shared)
		lazy_views_wake(sp->z, sp->object, addr, addr + bytes);
}

/*
 * No area there is registered: not unmapped, for that is an event, but never
 * passed on to a child (MADV_DONTFORK, MADV_WIPEONFORK), or not registered as it should.
 */
static void no_area(struct lazy_space *sp, uint64_t addr)
{
	if (!sp->child)
		log_warn("the page at 0x%llx of task %llu is not in an area that is filled lazily",
			 (unsigned long long)addr, (unsigned long long)sp->object);
	sp->z->st.gone_pages++;
	took(sp, addr, PAGE_BYTES);
}

struct attempt {
	uint64_t limit_pages; /* of one call: it must not cross areas */
	uint64_t no_area_at;  /* where a single page had no area; events have been read since */
	unsigned int tries;
};

/* What the kernel said, but success. 0: look again; 1: give up for now; -1. */
static int refused(struct lazy_space *sp, const struct lazy_run *run, int no, struct attempt *a,
		   struct err *err)
{
	static const struct timespec moment = {.tv_nsec = MOMENT_NS};

	if (sp->shared)
		return err_sysno(err, no, "cannot write shared memory at offset 0x%llx",
				 (unsigned long long)run->addr);
	switch (no) {
	case EEXIST:
		took(sp, run->addr, PAGE_BYTES);
		wake(sp, run->addr, PAGE_BYTES);
		return 0;
	case EAGAIN: /* the task forks, unmaps, ..: it goes on when we have read of it */
		if (lazy_events(sp, err) < 0)
			return -1;
		if (++a->tries == PATIENCE)
			return 1;
		if (a->tries < YIELDS)
			sched_yield();
		else
			nanosleep(&moment, NULL);
		return 0;
	case ENOENT:
		if (run->pages > 1) {
			a->limit_pages = MAX(run->pages / 8, 1UL);
		} else if (a->no_area_at == run->addr) {
			no_area(sp, run->addr);
			return 0;
		} else {
			a->no_area_at = run->addr;
		}
		return lazy_events(sp, err); /* it may be on its way out */
	case ESRCH:
	case ENOSPC:
		lazy_space_close(sp);
		return 0;
	default:
		return err_sysno(err, no, "cannot place a page at 0x%llx of task %llu",
				 (unsigned long long)run->addr, (unsigned long long)sp->object);
	}
}

static int place_in(struct lazy_space *sp, uint64_t dump, const uint8_t *data, uint64_t n,
		    uint64_t *placed, struct err *err)
{
	struct attempt a = {.limit_pages = n};
	uint64_t end = dump + n * PAGE_BYTES;
	struct lazy_run run;
	int64_t done;
	int r;

	while (sp->uffd >= 0 && lazy_map_at_dump(&sp->map, dump, end, &run)) {
		run.pages = MIN(run.pages, a.limit_pages);
		done = (sp->shared ? lazy_shared_write :
				     copy_in)(sp, run.addr, data ? data + (run.dump - dump) : NULL,
					      run.pages * PAGE_BYTES);
		if (done > 0) {
			*placed += (uint64_t)done / PAGE_BYTES;
			took(sp, run.addr, (uint64_t)done);
			a.tries = 0;
			a.limit_pages = MIN(a.limit_pages * 2, n);
			continue;
		}
		r = refused(sp, &run, (int)-done, &a, err);
		if (r < 0)
			return -1;
		if (r > 0) {
			lazy_map_ask(&sp->map, dump, end, false);
			sp->z->ask_again = true;
			lazy_retry_soon(sp->z);
			return 0;
		}
	}
	return 0;
}

int lazy_place(struct lazy *z, lazy_object object, uint64_t dump, const uint8_t *data, uint64_t n,
	       uint64_t *placed, struct err *err)
{
	*placed = 0;
	/* a fork meanwhile adds a space behind these */
	for (struct lazy_space *sp = z->spaces; sp; sp = sp->next) {
		if (sp->uffd < 0 || sp->object != object)
			continue;
		if (place_in(sp, dump, data, n, placed, err) < 0)
			return -1;
		if (sp->uffd >= 0 && sp->map.missing == 0)
			lazy_space_close(sp);
	}
	return 0;
}

int lazy_place_hole(struct lazy_space *sp, uint64_t addr, struct err *err)
{
	int64_t done = copy_in(sp, addr, NULL, PAGE_BYTES);

	switch (-done) {
	case EAGAIN:
		return 1;
	case EEXIST: /* it has come meanwhile */
		wake(sp, addr, PAGE_BYTES);
		break;
	case ENOENT: /* unmapped meanwhile: the thread finds out by itself */
		wake(sp, addr, PAGE_BYTES);
		break;
	case ESRCH:
	case ENOSPC:
		lazy_space_close(sp);
		return 0;
	default:
		if (done < 0)
			return err_sysno(err, (int)-done, "cannot place a page of zeros at 0x%llx",
					 (unsigned long long)addr);
	}
	note_placed(sp, addr, addr + PAGE_BYTES);
	return 0;
}

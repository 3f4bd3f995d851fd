// SPDX-License-Identifier: Apache-2.0
/*
 * timerfd. The image holds the time that was left, so a timer goes on counting
 * from the moment of the restore; it is armed by the task itself (emit), which
 * is late in the restore and inside its time namespace. An absolute timer of
 * the real-time clock means a date: that goes into fields of ours, and the
 * restored timer fires at the date.
 *
 * A periodic timer that has expired stands still until somebody looks at it:
 * timerfd_gettime on our duplicate makes the kernel catch up first, and only
 * then does fdinfo show the number of unread expirations.
 */
#include "base/io.h"
#include "kinds/fd/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif
enum { NSEC_PER_SEC = 1000000000 };

static bool timerfd_claims(const struct capture *c, const struct fd_facts *f)
{
	return strcmp(f->link, "anon_inode:[timerfd]") == 0;
}

static bool is_date(const TimerfdEntry *e)
{
	return (e->settime_flags & TFD_TIMER_ABSTIME) &&
	       (e->clockid == CLOCK_REALTIME || e->clockid == CLOCK_REALTIME_ALARM);
}

static void note_date(TimerfdEntry *e)
{
	struct timespec now;

	if (!is_date(e) || (!e->vsec && !e->vnsec) || clock_gettime(CLOCK_REALTIME, &now))
		return;
	e->has_ferry_abs_sec = e->has_ferry_abs_nsec = true;
	e->ferry_abs_sec = e->vsec + (uint64_t)now.tv_sec;
	e->ferry_abs_nsec = e->vnsec + (uint64_t)now.tv_nsec;
	if (e->ferry_abs_nsec >= NSEC_PER_SEC) {
		e->ferry_abs_nsec -= NSEC_PER_SEC;
		e->ferry_abs_sec++;
	}
}

/* Clock, flags, ticks and times of the timer as it is now. */
static int read_timer(const struct fd_facts *f, TimerfdEntry *e, struct err *err)
{
	cleanup_free char *info = NULL;
	struct itimerspec its;
	uint64_t clock = 0, flags = 0;

	if (timerfd_gettime(f->own, &its))
		return err_sys(err, "cannot read the timer");
	if (io_read_filef(&info, NULL, "/proc/self/fdinfo/%d", f->own))
		return err_sys(err, "cannot read its fdinfo");
	if (!fdinfo_u64(info, "clockid", 10, &clock) || !fdinfo_u64(info, "ticks", 10, &e->ticks) ||
	    !fdinfo_u64(info, "settime flags", 8, &flags))
		return err_set(err, EINVAL, "its fdinfo lacks clockid, ticks or settime flags");
	e->clockid = (uint32_t)clock;
	e->settime_flags = (uint32_t)flags;
	e->vsec = (uint64_t)its.it_value.tv_sec;
	e->vnsec = (uint64_t)its.it_value.tv_nsec;
	e->isec = (uint64_t)its.it_interval.tv_sec;
	e->insec = (uint64_t)its.it_interval.tv_nsec;
	note_date(e);
	return 0;
}

static int timerfd_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	FileEntry *fe = snap_new(c->snap, FileEntry, file_entry);
	TimerfdEntry *e = snap_new(c->snap, TimerfdEntry, timerfd_entry);
	FownEntry *fown = capture_fown(c, f);

	if (!fe || !e || !fown)
		return err_nomem(err);
	if (read_timer(f, e, err))
		return -1;
	fe->type = FD_TYPES__TIMERFD;
	fe->id = e->id = f->id;
	fe->tfd = e;
	e->flags = f->flags;
	e->fown = fown;
	return capture_add_file(c, fe, err);
}

static int timerfd_check(struct restore *r, const FileEntry *fe, struct err *err)
{
	const TimerfdEntry *e = fe->tfd;
	cleanup_close int fd = timerfd_create((int)e->clockid, TFD_CLOEXEC);
	uint64_t ticks = 1;

	if (fd < 0)
		return err_sys(err, "cannot make a timer of clock %u", e->clockid);
	if (e->vnsec >= NSEC_PER_SEC || e->insec >= NSEC_PER_SEC || e->ferry_abs_nsec >= NSEC_PER_SEC)
		return err_set(err, EINVAL,
			       "files.img: the timer has more than a second of nanoseconds");
	if (e->ticks && ioctl(fd, TFD_IOC_SET_TICKS, &ticks))
		return err_sys(err,
			       "this kernel cannot give a timer its %" PRIu64
			       " unread expirations back (CONFIG_CHECKPOINT_RESTORE)",
			       e->ticks);
	return 0;
}

static int timerfd_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	cleanup_close int fd = timerfd_create((int)fe->tfd->clockid, TFD_CLOEXEC);

	if (fd < 0)
		return err_sys(err, "cannot make a timer of clock %u", fe->tfd->clockid);
	if (fd_set_flags(fd, fe->tfd->flags, err))
		return -1;
	*fd_out = steal_fd(&fd);
	return 0;
}

/* What settime() must be given, for an image of ferry's or of CRIU's (which has no date). */
static uint32_t timer_value(const TimerfdEntry *e, struct itimerspec *its)
{
	struct timespec now;

	*its = (struct itimerspec){
		.it_value = {.tv_sec = (time_t)e->vsec, .tv_nsec = (long)e->vnsec},
		.it_interval = {.tv_sec = (time_t)e->isec, .tv_nsec = (long)e->insec},
	};
	/*
	 * CRIU reads fdinfo only, where a periodic timer that stands still after it expired looks like one
	 * that is off; its unread expirations tell them apart.
	 */
	if (!e->vsec && !e->vnsec && e->ticks)
		its->it_value = its->it_interval;
	if (!is_date(e) || (!e->vsec && !e->vnsec))
		return 0;
	if (e->has_ferry_abs_sec) {
		its->it_value.tv_sec = (time_t)e->ferry_abs_sec;
		its->it_value.tv_nsec = (long)e->ferry_abs_nsec;
		return e->settime_flags;
	}
	if (clock_gettime(CLOCK_REALTIME, &now))
		return 0;
	its->it_value.tv_sec += now.tv_sec;
	its->it_value.tv_nsec += now.tv_nsec;
	if (its->it_value.tv_nsec >= NSEC_PER_SEC) {
		its->it_value.tv_nsec -= NSEC_PER_SEC;
		its->it_value.tv_sec++;
	}
	return e->settime_flags;
}

static int timerfd_emit(struct restore *r, const FileEntry *fe, const struct fd_place *place,
			struct script *s, struct err *err)
{
	const TimerfdEntry *e = fe->tfd;
	struct itimerspec its;
	uint32_t flags;

	if (!place->first)
		return 0;
	flags = timer_value(e, &its);
	if (its.it_value.tv_sec || its.it_value.tv_nsec || its.it_interval.tv_sec ||
	    its.it_interval.tv_nsec)
		script_call(s, "arm a timerfd", SYS_timerfd_settime, SV(place->fd), SV(flags),
			    SV(script_data(s, &its, sizeof(its))), SV(0));
	if (e->ticks)
		script_call(s, "set the expirations of a timerfd", SYS_ioctl, SV(place->fd),
			    SV(TFD_IOC_SET_TICKS), SV(script_data(s, &e->ticks, sizeof(e->ticks))));
	emit_fown(e->fown, e->flags, place, s);
	return 0;
}

const struct fd_kind timerfd_kind = {
	.name = "timerfd",
	.type = FD_TYPES__TIMERFD,
	.claims = timerfd_claims,
	.capture = timerfd_capture,
	.check = timerfd_check,
	.open = timerfd_open,
	.emit = timerfd_emit,
};

// SPDX-License-Identifier: Apache-2.0
/*
 * Descriptors without a path: pipes, fifos, eventfd, epoll, timerfd, signalfd,
 * memfd; refusals, owners, and what the broker does with odd images.
 */
#include "kinds_round.h"

#include "kinds/fd/epoll.h"
#include "kinds/memfd.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static void close_both(const int ends[2])
{
	close(ends[0]);
	close(ends[1]);
}

static void test_pipe_contents_and_ends(void **state)
{
	int ends[2], second;
	struct fd_facts *r, *w, *again;
	char buf[16] = "";

	assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
	assert_true(fcntl(ends[0], F_SETPIPE_SZ, 16384) == 16384);
	assert_int_equal(write(ends[1], "hello", 5), 5);
	second = open("/proc/self/fd/3", O_RDONLY | O_NONBLOCK);
	if (ends[0] != 3) {
		close(second);
		snprintf(buf, sizeof(buf), "/dev/fd/%d", ends[0]);
		second = open(buf, O_RDONLY | O_NONBLOCK);
	}
	r = round_add(&t, ends[0]);
	w = round_add(&t, ends[1]);
	again = round_add(&t, second);
	round_capture(&t);
	assert_int_equal(t.c.snap->pipes_data.n, 1);
	/* The source still has all of it. */
	memset(buf, 0, sizeof(buf));
	assert_int_equal(read(ends[0], buf, sizeof(buf)), 5);
	assert_string_equal(buf, "hello");
	round_restore(&t);
	assert_int_equal(fcntl(round_fd(&t, r), F_GETPIPE_SZ), 16384);
	assert_int_equal(round_flags(round_fd(&t, r)), round_flags(ends[0]));
	assert_int_equal(round_flags(round_fd(&t, w)), round_flags(ends[1]));
	memset(buf, 0, sizeof(buf));
	assert_int_equal(read(round_fd(&t, again), buf, sizeof(buf)), 5);
	assert_string_equal(buf, "hello");
	assert_int_equal(write(round_fd(&t, w), "more", 4), 4);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), 4);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), -1);
	assert_int_equal(errno, EAGAIN);
	close_both(ends);
	close(second);
}

static void test_full_pipe(void **state)
{
	static char data[65536], back[65536];
	int ends[2];
	struct fd_facts *r;

	assert_int_equal(pipe2(ends, 0), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 4096);
	assert_int_equal(write(ends[1], data, sizeof(data)), (ssize_t)sizeof(data));
	r = round_add(&t, ends[0]);
	round_add(&t, ends[1]);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(read(round_fd(&t, r), back, sizeof(back)), (ssize_t)sizeof(back));
	assert_memory_equal(data, back, sizeof(data));
	close_both(ends);
}

static void test_packets_stay_packets(void **state)
{
	int ends[2];
	struct fd_facts *r, *w;
	char buf[64] = "";

	assert_int_equal(pipe2(ends, O_DIRECT | O_NONBLOCK), 0);
	assert_int_equal(write(ends[1], "one", 3), 3);
	assert_int_equal(write(ends[1], "second", 6), 6);
	r = round_add(&t, ends[0]);
	w = round_add(&t, ends[1]);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), 3);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "second", 6);
	assert_true(round_flags(round_fd(&t, w)) & O_DIRECT);
	close_both(ends);
}

static void test_half_pipe_is_refused_unless_given(void **state)
{
	int ends[2], mine[2];
	struct fd_facts *w;
	char key[64], buf[8] = "";
	const char *external[] = {key, NULL};

	assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
	w = round_add(&t, ends[1]);
	assert_int_equal(round_allowed(&t, w), -1);
	assert_non_null(strstr(t.err.text, "open outside the tree"));
	snprintf(key, sizeof(key), "pipe[%lu]", (unsigned long)w->st.st_ino);
	t.opt.external = external;
	round_capture(&t);
	assert_int_equal(pipe2(mine, O_NONBLOCK), 0);
	t.opt.inherit[0].fd = mine[1];
	t.opt.inherit[0].key = key;
	t.opt.n_inherit = 1;
	round_restore(&t);
	assert_int_equal(write(round_fd(&t, w), "out", 3), 3);
	assert_int_equal(read(mine[0], buf, sizeof(buf)), 3);
	close_both(ends);
	close_both(mine);
}

static void test_widow_pipe_gives_end_of_file(void **state)
{
	int ends[2];
	struct fd_facts *r;
	char buf[16] = "";

	assert_int_equal(pipe2(ends, 0), 0);
	assert_int_equal(write(ends[1], "last", 4), 4);
	close(ends[1]);
	r = round_add(&t, ends[0]);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), 4);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), 0);
	close(ends[0]);
}

static void test_fifo(void **state)
{
	char path[128], buf[16] = "";
	struct fd_facts *r, *w;
	int rd, wr, dir_fd = open(dir, O_RDONLY | O_DIRECTORY);

	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	rd = open(path, O_RDONLY | O_NONBLOCK);
	wr = open(path, O_WRONLY);
	assert_int_equal(write(wr, "queued", 6), 6);
	r = round_add(&t, rd);
	w = round_add(&t, wr);
	round_capture(&t);
	assert_int_equal(t.c.snap->fifo_data.n, 1);
	/* As if another program used it at the destination. */
	assert_int_equal(round_try_restore(&t), -1);
	assert_non_null(strstr(t.err.text, "in use"));
	broker_close(t.r.broker);
	close(rd);
	close(wr);
	/* The tree is gone: so are the duplicates of its descriptors. */
	assert_true(dup2(dir_fd, r->own) == r->own && dup2(dir_fd, w->own) == w->own);
	round_restore(&t);
	assert_int_equal(read(round_fd(&t, r), buf, sizeof(buf)), 6);
	assert_string_equal(buf, "queued");
	assert_int_equal(write(round_fd(&t, w), "x", 1), 1);
	assert_int_equal(round_flags(round_fd(&t, w)) & (O_ACCMODE | O_NONBLOCK), O_WRONLY);
	close(dir_fd);
}

static void test_eventfd(void **state)
{
	int plain = eventfd(5, EFD_NONBLOCK), sem = eventfd(3, EFD_SEMAPHORE);
	struct fd_facts *fp = round_add(&t, plain), *fs = round_add(&t, sem);
	uint64_t v;

	round_capture(&t);
	round_restore(&t);
	assert_int_equal(read(round_fd(&t, fp), &v, sizeof(v)), 8);
	assert_int_equal(v, 5);
	assert_int_equal(round_flags(round_fd(&t, fp)), round_flags(plain));
	assert_int_equal(read(round_fd(&t, fs), &v, sizeof(v)), 8);
	assert_int_equal(v, 1);
	assert_int_equal(read(round_fd(&t, fs), &v, sizeof(v)), 8);
	assert_int_equal(v, 1);
	close(plain);
	close(sem);
}

static void test_eventfd_at_its_limit(void **state)
{
	int fd = eventfd(0, 0);
	uint64_t v = UINT64_MAX - 1;
	struct fd_facts *f;

	assert_int_equal(write(fd, &v, sizeof(v)), 8);
	f = round_add(&t, fd);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(read(round_fd(&t, f), &v, sizeof(v)), 8);
	assert_true(v == UINT64_MAX - 1);
	close(fd);
}

static void test_signalfd(void **state)
{
	struct fd_facts *f;
	sigset_t set;
	uint64_t mask = 0;
	cleanup_free char *info = NULL;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, 64);
	fd = signalfd(-1, &set, SFD_NONBLOCK);
	f = round_add(&t, fd);
	round_capture(&t);
	round_restore(&t);
	assert_int_equal(io_read_filef(&info, NULL, "/proc/self/fdinfo/%d", round_fd(&t, f)), 0);
	assert_true(fdinfo_u64(info, "sigmask", 16, &mask));
	assert_true(mask == (1ull << 63 | 1ull << (SIGUSR1 - 1)));
	assert_int_equal(round_flags(round_fd(&t, f)), round_flags(fd));
	close(fd);
}

static void test_timerfd(void **state)
{
	int far = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK),
	    due = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK),
	    date = timerfd_create(CLOCK_REALTIME, 0), off = timerfd_create(CLOCK_BOOTTIME, 0);
	struct itimerspec its = {.it_value = {.tv_sec = 5000},
				 .it_interval = {.tv_sec = 7, .tv_nsec = 9}},
			  now;
	struct fd_facts *ff, *fd, *ft, *fo;
	struct timespec clock;
	uint64_t ticks = 0;

	assert_int_equal(timerfd_settime(far, 0, &its, NULL), 0);
	its = (struct itimerspec){.it_value = {.tv_nsec = 1000000},
				  .it_interval = {.tv_nsec = 10000000}};
	assert_int_equal(timerfd_settime(due, 0, &its, NULL), 0);
	clock_gettime(CLOCK_REALTIME, &clock);
	its = (struct itimerspec){.it_value = {.tv_sec = clock.tv_sec + 3000, .tv_nsec = 123456789}};
	assert_int_equal(timerfd_settime(date, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &its,
					 NULL),
			 0);
	usleep(55000);
	ff = round_add(&t, far);
	fd = round_add(&t, due);
	ft = round_add(&t, date);
	fo = round_add(&t, off);
	round_capture(&t);
	assert_in_range(snapshot_file(t.c.snap, fd->id)->tfd->ticks, 5, 1000);
	round_restore(&t);
	assert_int_equal(timerfd_gettime(round_fd(&t, ff), &now), 0);
	assert_in_range(now.it_value.tv_sec, 4900, 5000);
	assert_int_equal(now.it_interval.tv_sec, 7);
	assert_int_equal(now.it_interval.tv_nsec, 9);
	assert_int_equal(read(round_fd(&t, fd), &ticks, sizeof(ticks)), 8);
	assert_in_range(ticks, 5, 1000);
	/* A date is a date: to the nanosecond, and still cancelled when the clock is set. */
	assert_int_equal(snapshot_file(t.c.snap, ft->id)->tfd->settime_flags, 3);
	assert_in_range(snapshot_file(t.c.snap, ft->id)->tfd->ferry_abs_sec, clock.tv_sec + 2999,
			clock.tv_sec + 3000);
	assert_int_equal(timerfd_gettime(round_fd(&t, fo), &now), 0);
	assert_int_equal(now.it_value.tv_sec + now.it_value.tv_nsec, 0);
	assert_int_equal(round_flags(round_fd(&t, ff)), round_flags(far));
	close(far);
	close(due);
	close(date);
	close(off);
}

/* The lines of a set, in the order of the numbers. */
static void add_watch(int set, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	assert_int_equal(epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev), 0);
}

static void test_epoll(void **state)
{
	int set = epoll_create1(0), ends[2], e1 = eventfd(0, 0), e2 = eventfd(1, 0), dup1, reused, n;
	struct fd_facts *fs, *f2, *fr, *fw;
	struct epoll_event got[8];
	uint64_t one = 1;

	assert_int_equal(pipe2(ends, 0), 0);
	add_watch(set, ends[0], EPOLLIN | EPOLLET, 0x1111222233334444);
	/* e1 lives on as a duplicate; its number goes to another file. */
	add_watch(set, e1, EPOLLIN, 7);
	dup1 = fcntl(e1, F_DUPFD, 100);
	close(e1);
	reused = eventfd(0, 0);
	assert_int_equal(reused, e1);
	add_watch(set, e2, EPOLLIN | EPOLLONESHOT, 9);
	fs = round_add(&t, set);
	round_add(&t, dup1);
	fr = round_add(&t, reused);
	f2 = round_add(&t, e2);
	round_add(&t, ends[0]);
	fw = round_add(&t, ends[1]);
	round_capture(&t);
	round_restore(&t);
	n = epoll_wait(round_fd(&t, fs), got, 8, 0);
	assert_int_equal(n, 1);
	assert_true(got[0].data.u64 == 9);
	/* The reused number is not watched, the duplicate is. */
	assert_int_equal(write(round_fd(&t, fr), &one, 8), 8);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 8, 0), 0);
	assert_int_equal(write(round_fd(&t, t.c.fds.v[1]), &one, 8), 8);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 8, 0), 1);
	assert_true(got[0].data.u64 == 7);
	assert_int_equal(read(round_fd(&t, t.c.fds.v[1]), &one, 8), 8);
	assert_int_equal(write(round_fd(&t, fw), "x", 1), 1);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 8, 0), 1);
	assert_true(got[0].data.u64 == 0x1111222233334444);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 8, 0), 0);
	/* Its key is the number it was added under. */
	assert_int_equal(dup2(round_fd(&t, f2), e2), e2);
	assert_int_equal(epoll_ctl(round_fd(&t, fs), EPOLL_CTL_DEL, e2, NULL), 0);
	close(set);
	close_both(ends);
	close(dup1);
	close(reused);
	close(e2);
}

static void test_epoll_entries_that_have_fired_once(void **state)
{
	int set = epoll_create1(0), ends[2], e = eventfd(1, 0), fresh = eventfd(0, 0);
	struct epoll_event got[4], again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5};
	struct fd_facts *fs, *fe;
	uint64_t one = 1;

	assert_int_equal(pipe2(ends, 0), 0);
	close(ends[1]);
	add_watch(set, ends[0], EPOLLIN | EPOLLONESHOT, 1);
	add_watch(set, e, EPOLLIN | EPOLLONESHOT, 2);
	assert_int_equal(epoll_wait(set, got, 4, 0), 2);
	assert_int_equal(epoll_wait(set, got, 4, 0), 0);
	add_watch(set, fresh, EPOLLIN | EPOLLONESHOT, 3);
	/* The event that was reported is over by now. */
	assert_int_equal(read(e, &one, 8), 8);
	fs = round_add(&t, set);
	round_add(&t, ends[0]);
	fe = round_add(&t, e);
	round_add(&t, fresh);
	round_capture(&t);
	round_restore(&t);
	/* Not even the hang-up of the pipe is reported again, nor what comes to the eventfd. */
	one = 1;
	assert_int_equal(write(round_fd(&t, fe), &one, 8), 8);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 4, 0), 0);
	assert_int_equal(write(round_fd(&t, t.c.fds.v[3]), &one, 8), 8);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 4, 0), 1);
	assert_true(got[0].data.u64 == 3);
	/* The program arms it again. */
	assert_int_equal(dup2(round_fd(&t, fe), e), e);
	assert_int_equal(epoll_ctl(round_fd(&t, fs), EPOLL_CTL_MOD, e, &again), 0);
	assert_int_equal(epoll_wait(round_fd(&t, fs), got, 4, 0), 1);
	assert_true(got[0].data.u64 == 5);
	close(set);
	close(ends[0]);
	close(e);
	close(fresh);
}

static void test_epoll_with_a_target_outside_is_refused(void **state)
{
	int set = epoll_create1(0), e = eventfd(0, 0);
	struct fd_facts *f;

	add_watch(set, e, EPOLLIN, 1);
	f = round_add(&t, set);
	assert_int_equal(f->kind->capture(&t.c, f, &t.err), -1);
	assert_non_null(strstr(t.err.text, "only outside"));
	close(set);
	close(e);
}

static void test_epoll_of_criu_images(void **state)
{
	int set = epoll_create1(0), e = eventfd(1, 0);
	EventpollTfdEntry *tfd;
	struct fd_facts *fs, *fe;
	struct epoll_event got;

	add_watch(set, e, EPOLLIN, 77);
	fs = round_add(&t, set);
	fe = round_add(&t, e);
	round_capture(&t);
	tfd = snapshot_file(t.c.snap, fs->id)->epfd->tfd[0];
	assert_int_equal(tfd->tfd, e);
	tfd->has_ferry_file_id = false;
	round_restore(&t);
	assert_int_equal(epoll_wait(round_fd(&t, fs), &got, 1, 0), 1);
	assert_true(got.data.u64 == 77);
	(void)fe;
	close(set);
	close(e);
}

static void test_epoll_lines(void **state)
{
	struct epoll_target e;

	assert_true(epoll_parse_target(
		"tfd:       22 events: 80000019 data: 1111222233334444  pos:7 ino:40e sdev:10\n", &e));
	assert_int_equal(e.tfd, 22);
	assert_int_equal(e.events, 0x80000019);
	assert_true(e.data == 0x1111222233334444);
	assert_int_equal(e.pos, 7);
	assert_int_equal(e.ino, 0x40e);
	assert_int_equal(e.sdev, 0x10);
	assert_false(epoll_parse_target("tfd: -1 events: 1 data: 1  pos:7 ino:40e sdev:10\n", &e));
	assert_false(epoll_parse_target("tfd: 5 events: 1\n", &e));
}

static void test_memfd(void **state)
{
	int fd = memfd_create("test-memfd", MFD_ALLOW_SEALING), plain = memfd_create("plain", 0),
	    ro, back;
	struct fd_facts *f, *fr, *fp;
	char path[40], buf[16] = "", link[64];
	struct stat a, b;

	assert_int_equal(write(fd, "contents", 8), 8);
	assert_int_equal(ftruncate(fd, 10000), 0);
	lseek(fd, 3, SEEK_SET);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK), 0);
	f = round_add(&t, fd);
	fr = round_add(&t, ro);
	fp = round_add(&t, plain);
	round_capture(&t);
	assert_int_equal(t.c.snap->memfds.n, 2);
	assert_int_equal(t.c.shmem.n, 2);
	assert_int_equal(t.c.shmem.v[0].bytes, 10000);
	assert_int_equal(pread(t.c.shmem.v[0].fd, buf, sizeof(buf), 0), sizeof(buf));
	assert_string_equal(buf, "contents");
	round_restore(&t);
	back = memfd_inode_fd(&t.r, 1, &t.err);
	assert_int_equal(pwrite(back, "restored", 8, 0), 8);
	round_check_ok(&t, memfd_seal_all(&t.r, &t.err));
	back = round_fd(&t, f);
	assert_int_equal(fcntl(back, F_GET_SEALS), F_SEAL_GROW | F_SEAL_SHRINK);
	assert_int_equal(fcntl(round_fd(&t, fp), F_GET_SEALS), F_SEAL_SEAL);
	assert_int_equal(lseek(back, 0, SEEK_CUR), 3);
	assert_int_equal(pread(round_fd(&t, fr), buf, 8, 0), 8);
	assert_memory_equal(buf, "restored", 8);
	fstat(back, &a);
	fstat(round_fd(&t, fr), &b);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_size, 10000);
	assert_int_equal(round_flags(round_fd(&t, fr)) & O_ACCMODE, O_RDONLY);
	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/fd/%d", back), 0);
	assert_string_equal(link, "/memfd:test-memfd (deleted)");
	close(fd);
	close(ro);
	close(plain);
}

static void test_shared_anonymous_memory(void **state)
{
	char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char path[64], link[64];
	uint32_t id = 0, again = 0;
	struct stat st;
	int fd;

	assert_true(map != MAP_FAILED);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map,
		 (unsigned long)map + 8192);
	fd = open(path, O_RDWR);
	if (fd < 0)
		skip_because("map_files cannot be opened: %s", strerror(errno));
	assert_int_equal(io_readlinkf(link, sizeof(link), "%s", path), 0);
	fstat(fd, &st);
	assert_true(memfd_is_shared_memory(&st, link));
	round_check_ok(&t, memfd_capture_shared(&t.c, fd, link, &id, &t.err));
	round_check_ok(&t, memfd_capture_shared(&t.c, fd, link, &again, &t.err));
	assert_int_not_equal(id, again);
	assert_int_equal(t.c.snap->memfds.n, 1);
	assert_string_equal(t.c.snap->memfds.v[0]->name, "/dev/zero");
	close(fd);
	round_restore(&t);
	fd = file_open_path(&t.r, snapshot_file(t.c.snap, id), O_RDWR, &t.err);
	round_check_ok(&t, fd < 0 ? -1 : 0);
	assert_int_equal(io_readlinkf(link, sizeof(link), "/proc/self/fd/%d", fd), 0);
	assert_string_equal(link, "/dev/zero (deleted)");
	fstat(fd, &st);
	assert_int_equal(st.st_size, 8192);
	close(fd);
	munmap(map, 8192);
}

static void test_owner_of_signals(void **state)
{
	int ends[2];
	struct f_owner_ex own = {.type = F_OWNER_PID, .pid = getpid()}, back = {0};
	struct fd_facts *f;

	assert_int_equal(pipe2(ends, 0), 0);
	assert_int_equal(fcntl(ends[0], F_SETOWN_EX, &own), 0);
	assert_int_equal(fcntl(ends[0], F_SETSIG, SIGWINCH), 0);
	assert_int_equal(fcntl(ends[0], F_SETFL, O_ASYNC), 0);
	f = round_add(&t, ends[0]);
	round_add(&t, ends[1]);
	round_capture(&t);
	assert_int_equal(snapshot_file(t.c.snap, f->id)->pipe->fown->pid, getpid());
	round_restore(&t);
	assert_int_equal(fcntl(round_fd(&t, f), F_GETOWN_EX, &back), 0);
	assert_int_equal(back.pid, getpid());
	assert_int_equal(back.type, F_OWNER_PID);
	assert_int_equal(fcntl(round_fd(&t, f), F_GETSIG), SIGWINCH);
	assert_true(fcntl(round_fd(&t, f), F_GETFL) & O_ASYNC);
	close_both(ends);
}

static void test_refusals_have_names(void **state)
{
	int watch = inotify_init(), pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0),
	    ns = open("/proc/self/ns/uts", O_RDONLY);
	const struct {
		int fd;
		const char *name;
	} all[] = {{watch, "inotify"}, {pidfd, "pidfd"}, {ns, "namespace"}};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct fd_facts *f = round_add(&t, all[i].fd);

		assert_string_equal(f->kind->name, "refuse");
		assert_int_equal(round_allowed(&t, f), -1);
		assert_non_null(strstr(t.err.text, all[i].name));
		close(all[i].fd);
	}
}

static void test_broker_and_odd_images(void **state)
{
	FileEntry *fe = snap_new(t.c.snap, FileEntry, file_entry);
	int fd;

	fe->type = FD_TYPES__TUNF;
	fe->id = 9;
	assert_true(vec_push(&t.c.snap->files, fe));
	t.r.snap = t.c.snap;
	assert_int_equal(broker_check(&t.r, &t.err), -1);
	assert_non_null(strstr(t.err.text, "type 15"));
	assert_non_null(broker_create(&t.r, ROUND_BROKER_BASE, &t.err));
	assert_int_equal(broker_fd(&t.r, 9, &t.err), -1);
	assert_int_equal(broker_fd(&t.r, 77, &t.err), -1);
	assert_non_null(strstr(t.err.text, "no file id 77"));
	/* The broker takes a descriptor also when it has no use for it. */
	fd = eventfd(0, 0);
	assert_int_equal(broker_give(&t.r, 77, fd, &t.err), -1);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void test_broker_moves_descriptors_up(void **state)
{
	struct fd_facts *f = round_add(&t, eventfd(0, 0));

	round_capture(&t);
	round_restore(&t);
	assert_true(round_fd(&t, f) >= ROUND_BROKER_BASE);
	assert_true(fcntl(round_fd(&t, f), F_GETFD) & FD_CLOEXEC);
	close(f->holders.v[0].fd);
}

#define t_round(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		t_round(test_pipe_contents_and_ends),
		t_round(test_full_pipe),
		t_round(test_packets_stay_packets),
		t_round(test_half_pipe_is_refused_unless_given),
		t_round(test_widow_pipe_gives_end_of_file),
		t_round(test_fifo),
		t_round(test_eventfd),
		t_round(test_eventfd_at_its_limit),
		t_round(test_signalfd),
		t_round(test_timerfd),
		t_round(test_epoll),
		t_round(test_epoll_entries_that_have_fired_once),
		t_round(test_epoll_with_a_target_outside_is_refused),
		t_round(test_epoll_of_criu_images),
		cmocka_unit_test(test_epoll_lines),
		t_round(test_memfd),
		t_round(test_shared_anonymous_memory),
		t_round(test_owner_of_signals),
		t_round(test_refusals_have_names),
		t_round(test_broker_and_odd_images),
		t_round(test_broker_moves_descriptors_up),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Taking. A slave in canonical mode gives whole lines; the unfinished rest
 * comes out when ICANON is off for a moment. Turning it off and on again with
 * data in the queue would make one line of it all, so the whole queue has to
 * come out and go in again. A master is always raw.
 *
 * Putting. TIOCSTI hands bytes straight to the line discipline, so they are
 * there when it returns, in the queue of a master as well. For the time being
 * the settings of a slave do nothing but split lines. What does not fit into
 * the line discipline (4 KiB) is written from the other end and waits in the
 * driver, as it did.
 *
 * The keeper is forked twice so that nobody waits for it by accident, in a
 * session of its own so that the terminal's signals do not reach it, and calls
 * only what is safe after fork in a process with threads.
 */
#include "kinds/fd/ttyqueue.h"

#include "base/io.h"
#include "kernel/urgent.h"
#include "kinds/fd/ttyset.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum {
	STI_MAX = 4095, /* N_TTY_BUF_SIZE - 1 */
	READ_CHUNK = 4096,
};

struct ttyqueue {
	int control; /* closed or 'p': put it back; 'd': drop it */
	int report;
};

/* What the keeper reports, followed by the bytes. */
struct report {
	int32_t error; /* errno, 0 */
	uint32_t bytes;
};

/* ---- taking (in the keeper) ---- */

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0 && (p.revents & POLLIN);
}

/* read(2) into what is left of the buffer; at its end, ENOBUFS. */
static ssize_t read_some(int fd, uint8_t *buf, size_t used)
{
	size_t room = TTYQUEUE_MAX - used;
	ssize_t got;

	if (room == 0) {
		errno = ENOBUFS;
		return -1;
	}
	do
		got = read(fd, buf + used, MIN(room, (size_t)READ_CHUNK));
	while (got < 0 && errno == EINTR);
	return got;
}

/* In packet mode every read begins with a byte that tells of changes, or is 0 before data. */
static int take_master(int fd, uint8_t *buf, size_t *used)
{
	int packet = 0;
	ssize_t got;

	if (ioctl(fd, TIOCGPKT, &packet))
		return -1;
	while (readable(fd)) {
		got = read_some(fd, buf, *used);
		if (got < 0)
			return errno == EIO ? 0 : -1; /* every slave is closed */
		if (got == 0)
			break;
		if (packet && buf[*used] != TIOCPKT_DATA)
			continue;
		if (packet)
			memmove(buf + *used, buf + *used + 1, (size_t)--got);
		*used += (size_t)got;
	}
	return 0;
}

static bool ends_line(const struct tty_settings *t, uint8_t c)
{
	return c == '\n' || (t->cc[VEOL] && c == t->cc[VEOL]) || (t->cc[VEOL2] && c == t->cc[VEOL2]);
}

/* Whole lines; a line that was ended by the end-of-file character lacks it, and an empty one reads as 0. */
static int take_lines(int fd, const struct tty_settings *t, uint8_t *buf, size_t *used)
{
	ssize_t got;

	while (readable(fd)) {
		got = read_some(fd, buf, *used);
		if (got < 0)
			return -1;
		*used += (size_t)got;
		if (got > 0 && (ends_line(t, buf[*used - 1]) || got == READ_CHUNK))
			continue;
		if (*used == TTYQUEUE_MAX) {
			errno = ENOBUFS;
			return -1;
		}
		buf[(*used)++] = t->cc[VEOF];
	}
	return 0;
}

static int take_raw(int fd, uint8_t *buf, size_t *used)
{
	ssize_t got;

	while ((got = read_some(fd, buf, *used)) > 0)
		*used += (size_t)got;
	return got < 0 ? -1 : 0;
}

static int take_slave(int fd, uint8_t *buf, size_t *used)
{
	struct tty_settings old, raw;
	int ret = 0, no;

	if (ioctl(fd, TCGETS, &old))
		return -1;
	raw = old;
	if ((old.lflag & (ICANON | EXTPROC)) == ICANON) {
		ret = take_lines(fd, &old, buf, used);
		raw.lflag &= ~(uint32_t)ICANON;
	}
	raw.cc[VMIN] = raw.cc[VTIME] = 0; /* reads never wait */
	if (!ret)
		ret = ioctl(fd, TCSETS, &raw);
	if (!ret)
		ret = take_raw(fd, buf, used);
	no = errno;
	if (ioctl(fd, TCSETS, &old))
		return -1;
	errno = no;
	return ret;
}

/* ---- putting ---- */

static int push(int fd, const uint8_t *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (ioctl(fd, TIOCSTI, data + i))
			return -1;
	return 0;
}

/* Writes without waiting; what does not fit at once is an error: there is nobody who reads. */
static int write_now(int fd, const uint8_t *data, size_t bytes)
{
	int flags = fcntl(fd, F_GETFL), no;
	size_t done = 0;
	ssize_t n = 0;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return -1;
	while (done < bytes && (n = write(fd, data + done, bytes - done)) > 0)
		done += (size_t)n;
	no = n < 0 ? errno : ENOBUFS;
	if (fcntl(fd, F_SETFL, flags))
		return -1;
	errno = no;
	return done == bytes ? 0 : -1;
}

/* From the slave, without post-processing. */
static int write_as_slave(int master, const uint8_t *data, size_t bytes)
{
	cleanup_close int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct tty_settings old, plain;
	int ret, no;

	if (slave < 0 || ioctl(slave, TCGETS, &old))
		return -1;
	plain = old;
	plain.oflag &= ~(uint32_t)OPOST;
	if (ioctl(slave, TCSETS, &plain))
		return -1;
	ret = write_now(slave, data, bytes);
	no = errno;
	if (ioctl(slave, TCSETS, &old))
		return -1;
	errno = no;
	return ret;
}

/* Special characters that mean something in a queue: ends of lines, and what read(2) goes by. */
static bool keeps_meaning(int cc)
{
	return cc == VEOF || cc == VEOL || cc == VEOL2 || cc == VMIN || cc == VTIME ||
	       cc == VSTART || cc == VSTOP;
}

static int push_slave(int fd, const uint8_t *data, size_t bytes)
{
	struct tty_settings old, calm;
	int ret, no;

	if (ioctl(fd, TCGETS, &old))
		return -1;
	calm = old;
	/* flow control and EXTPROC stay: a master in packet mode would be told of a change */
	calm.iflag &= IXON | IXOFF | IXANY;
	calm.lflag &= ICANON | EXTPROC;
	for (int i = 0; i < TTY_NCCS; i++)
		if (!keeps_meaning(i))
			calm.cc[i] = 0;
	if (ioctl(fd, TCSETS, &calm))
		return -1;
	ret = push(fd, data, bytes);
	no = errno;
	if (ioctl(fd, TCSETS, &old))
		return -1;
	errno = no;
	return ret;
}

int ttyqueue_put(int fd, int master, const uint8_t *data, size_t bytes)
{
	size_t first = MIN(bytes, (size_t)STI_MAX);

	if (fd == master ? push(fd, data, first) : push_slave(fd, data, first))
		return -1;
	if (first == bytes)
		return 0;
	return fd == master ? write_as_slave(fd, data + first, bytes - first) :
			      write_now(master, data + first, bytes - first);
}

/* ---- the keeper ---- */

static void keep(int fd, int master, int control, int report_fd, uint8_t *buf)
{
	struct report report = {0};
	size_t used = 0;
	char order = 'p';

	if ((fd == master ? take_master : take_slave)(fd, buf, &used))
		report.error = errno;
	report.bytes = (uint32_t)used;
	if (io_write_full(report_fd, &report, sizeof(report)) || io_write_full(report_fd, buf, used))
		order = 'p'; /* nobody is there any more: the next read says so */
	while (read(control, &order, 1) < 0 && errno == EINTR)
		;
	if (order != 'd') {
		report.error = ttyqueue_put(fd, master, buf, used) ? errno : 0;
		if (io_write_full(report_fd, &report, sizeof(report)))
			_exit(1);
	}
	_exit(0);
}

/* Runs in the second child. Of our descriptors only four live on, at 3 to 6. */
static void be_keeper(int fd, int master, int control, int report_fd, uint8_t *buf)
{
	int from[4] = {fd, master, control, report_fd};

	urgent_not_here();
	setsid();
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	for (int i = 0; i < 4; i++) {
		from[i] = fcntl(from[i], F_DUPFD, 7);
		if (from[i] < 0)
			_exit(1);
	}
	for (int i = 0; i < 4; i++)
		if (dup2(from[i], 3 + i) < 0)
			_exit(1);
	syscall(SYS_close_range, 7, ~0u, 0);
	keep(fd == master ? 4 : 3, 4, 5, 6, buf);
}

static int fork_keeper(int fd, int master, const int control[2], const int report[2], uint8_t *buf)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			be_keeper(fd, master, control[0], report[1], buf);
		_exit(pid < 0);
	}
	if (pid < 0)
		return -1;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		errno = EAGAIN;
		return -1;
	}
	return 0;
}

static struct ttyqueue *start_keeper(int fd, int master, struct err *err)
{
	struct ttyqueue *q = malloc(sizeof(*q));
	cleanup_free uint8_t *buf = malloc(TTYQUEUE_MAX);
	int control[2] = {-1, -1}, report[2] = {-1, -1};

	if (!q || !buf) {
		err_nomem(err);
		goto fail;
	}
	if (pipe2(control, O_CLOEXEC) || pipe2(report, O_CLOEXEC) ||
	    fork_keeper(fd, master, control, report, buf)) {
		err_sys(err, "cannot start a keeper of terminal input");
		goto fail;
	}
	close(control[0]);
	close(report[1]);
	q->control = control[1];
	q->report = report[0];
	return q;
fail:
	for (int i = 0; i < 2; i++) {
		if (control[i] >= 0)
			close(control[i]);
		if (report[i] >= 0)
			close(report[i]);
	}
	free(q);
	return NULL;
}

static void forget(struct ttyqueue *q)
{
	close(q->control);
	close(q->report);
	free(q);
}

int ttyqueue_take(int fd, int master, struct ttyqueue **out, uint8_t **data_out, size_t *bytes_out,
		  struct err *err)
{
	struct report report;
	struct ttyqueue *q;

	*out = NULL;
	*data_out = NULL;
	*bytes_out = 0;
	if (fd == master && !readable(fd))
		return 0;
	q = start_keeper(fd, master, err);
	if (!q)
		return -1;
	if (io_read_full(q->report, &report, sizeof(report)) || report.bytes > TTYQUEUE_MAX) {
		err_sys(err, "the keeper of terminal input does not answer");
		goto fail;
	}
	*data_out = malloc(report.bytes + 1);
	if (!*data_out) {
		err_nomem(err);
		goto fail;
	}
	if (io_read_full(q->report, *data_out, report.bytes) || report.error) {
		err_sysno(err, report.error ? report.error : errno,
			  "cannot read a terminal's input queue");
		goto fail;
	}
	*bytes_out = report.bytes;
	if (report.bytes) {
		*out = q;
		return 0;
	}
	forget(q); /* nothing to put back */
	return 0;
fail:
	free(*data_out);
	*data_out = NULL;
	forget(q);
	return -1;
}

/* The keeper holds the other end of the report until it exits. */
static void wait_and_forget(struct ttyqueue *q)
{
	ssize_t got = 1;
	char byte;

	while (got > 0 || (got < 0 && errno == EINTR))
		got = read(q->report, &byte, 1);
	forget(q);
}

int ttyqueue_put_back(struct ttyqueue *q, struct err *err)
{
	struct report report;
	int ret = 0;

	if (io_write_full(q->control, "p", 1) || io_read_full(q->report, &report, sizeof(report)))
		ret = err_sys(err, "the keeper of terminal input has gone; its queue is lost");
	else if (report.error)
		ret = err_sysno(err, report.error, "cannot put back a terminal's input queue");
	wait_and_forget(q);
	return ret;
}

void ttyqueue_drop(struct ttyqueue *q)
{
	if (io_write_full(q->control, "d", 1))
		forget(q); /* it has gone already */
	else
		wait_and_forget(q);
}

// SPDX-License-Identifier: Apache-2.0
// Open files: offset, flags, append, O_PATH, directory, read-only, close-on-exec, owner and signal
// of asynchronous I/O.
#include "victim.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct descriptor {
	const char *path;
	int flags;
	off_t offset;
	int fd, fd_flags, fl;
	struct stat st;
	char link[PATH_MAX];
};

static struct descriptor all[] = {
	{"plain", O_RDWR, 5},
	{"plain", O_RDONLY, 0},
	{"plain", O_WRONLY | O_NONBLOCK | O_CLOEXEC, 8},
	{"log", O_WRONLY | O_APPEND, 16},
	{"plain", O_RDWR | O_SYNC, 1L << 33},
	{"plain", O_RDWR | O_DSYNC | O_NOATIME, 3},
	{"plain", O_PATH, 0},
	{"a-link", O_PATH | O_NOFOLLOW, 0},
	{"", O_RDONLY | O_DIRECTORY, 0},
	{"", O_PATH | O_DIRECTORY, 0},
	{"name with\nnewline and \\ space", O_RDONLY, 2},
};

static void make_file(const char *name, const char *text)
{
	int fd = MUST(open(victim_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0644));

	MUST(write(fd, text, strlen(text)));
	close(fd);
}

static void look(const struct descriptor *d, struct descriptor *now)
{
	char path[64];

	memset(now, 0, sizeof(*now));
	now->fd_flags = MUST(fcntl(d->fd, F_GETFD));
	now->fl = MUST(fcntl(d->fd, F_GETFL));
	now->offset = d->flags & O_PATH ? 0 : lseek(d->fd, 0, SEEK_CUR);
	MUST(fstat(d->fd, &now->st));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", d->fd);
	MUST(readlink(path, now->link, sizeof(now->link) - 1));
}

static void compare(size_t nr, const struct descriptor *was)
{
	struct descriptor is;

	look(was, &is);
	CHECK(was->fd_flags == is.fd_flags, "file %zu: fd flags %d, are %d", nr, was->fd_flags,
	      is.fd_flags);
	// The O_DIRECTORY of an open directory says nothing that fstat does not.
	CHECK(((was->fl ^ is.fl) & ~O_DIRECTORY) == 0, "file %zu: flags were %#o, are %#o", nr,
	      was->fl, is.fl);
	CHECK(was->offset == is.offset, "file %zu: offset was %ld, is %ld", nr, (long)was->offset,
	      (long)is.offset);
	CHECK(victim_moved() || (was->st.st_ino == is.st.st_ino && was->st.st_dev == is.st.st_dev),
	      "file %zu: another file", nr);
	CHECK(strcmp(was->link, is.link) == 0, "file %zu: was %s, is %s", nr, was->link, is.link);
}

static void open_all(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct descriptor *d = &all[i], now;

		d->fd = MUST(open(*d->path ? victim_path(d->path) : victim_dir(), d->flags));
		if (!(d->flags & (O_PATH | O_DIRECTORY)))
			MUST(lseek(d->fd, d->offset, SEEK_SET));
		look(d, &now);
		now.path = d->path;
		now.flags = d->flags;
		now.fd = d->fd;
		*d = now;
	}
}

int main(int argc, char **argv)
{
	char text[32] = "";
	struct f_owner_ex owner;
	int high, pipes[2];

	victim_start(argc, argv);
	make_file("plain", "0123456789abcdef");
	make_file("log", "0123456789abcdef");
	make_file(all[10].path, "strange");
	unlink(victim_path("a-link"));
	MUST(symlink("plain", victim_path("a-link")));
	open_all();
	high = MUST(fcntl(all[0].fd, F_DUPFD, 200));
	MUST(pipe(pipes));
	owner = (struct f_owner_ex){F_OWNER_PID, getpid()};
	MUST(fcntl(pipes[0], F_SETOWN_EX, &owner));
	MUST(fcntl(pipes[0], F_SETSIG, SIGRTMIN + 1));
	victim_ready();
	victim_wait();
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		compare(i, &all[i]);
	CHECK(victim_same_file(getpid(), high, getpid(), all[0].fd), "dup is no dup any more");
	MUST(read(high, text, 3));
	CHECK(strcmp(text, "567") == 0, "read %s", text);
	CHECK(lseek(all[0].fd, 0, SEEK_CUR) == 8, "offset is not shared by the dup");
	MUST(write(all[3].fd, "more", 4));
	CHECK(lseek(all[3].fd, 0, SEEK_CUR) == 20, "not appended");
	CHECK(write(all[1].fd, "x", 1) < 0 && errno == EBADF, "read-only file was written");
	CHECK(fcntl(pipes[0], F_GETSIG) == SIGRTMIN + 1, "signal of the owner");
	MUST(fcntl(pipes[0], F_GETOWN_EX, &owner));
	CHECK(owner.type == F_OWNER_PID && owner.pid == getpid(), "owner is %d", owner.pid);
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// File locks of two tasks: flock, POSIX ranges, read and write; still held, by the same owners.
#include "victim.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

static int posix_fd, flock_fd;
static volatile int *stage;

static void lock(int fd, short type, off_t start, off_t len)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	MUST(fcntl(fd, F_SETLK, &fl));
}

// Who stands in the way of a write lock on the byte? 0: nobody.
static pid_t owner_of(int fd, off_t byte, short *type)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	MUST(fcntl(fd, F_GETLK, &fl));
	*type = fl.l_type;
	return fl.l_type == F_UNLCK ? 0 : fl.l_pid;
}

static void expect(off_t byte, pid_t want, short want_type)
{
	short type;
	pid_t pid = owner_of(posix_fd, byte, &type);

	CHECK(pid == want && (!want || type == want_type),
	      "byte %ld: owner was %d, is %d (type %d)", (long)byte, want, pid, type);
}

static void child(void *arg)
{
	pid_t parent = getppid();

	lock(posix_fd, F_WRLCK, 300, 0);
	lock(posix_fd, F_RDLCK, 200, 10);
	*stage = 1;
	victim_wait();
	expect(5, parent, F_WRLCK);
	expect(105, parent, F_RDLCK);
	expect(150, 0, 0);
	expect(400, 0, 0); // own locks do not stand in the own way
	*stage = 2;
	while (*stage < 3)
		victim_sleep_ms(2);
}

int main(int argc, char **argv)
{
	int other;
	pid_t pid;

	victim_start(argc, argv);
	stage = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	posix_fd = MUST(open(victim_path("posix"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	flock_fd = MUST(open(victim_path("flock"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	lock(posix_fd, F_WRLCK, 0, 10);
	lock(posix_fd, F_RDLCK, 100, 10);
	MUST(flock(flock_fd, LOCK_EX));
	pid = victim_fork(child, NULL);
	while (!*stage)
		victim_sleep_ms(2);
	victim_ready();
	victim_wait();
	while (*stage < 2) {
		CHECK(access(victim_path("reason"), F_OK) < 0, "child: %s",
		      victim_read_file(victim_path("reason")));
		victim_sleep_ms(2);
	}
	expect(5, 0, 0);
	expect(305, pid, F_WRLCK);
	expect(1L << 40, pid, F_WRLCK);
	expect(205, pid, F_RDLCK);
	expect(250, 0, 0);
	other = MUST(open(victim_path("flock"), O_RDWR));
	CHECK(flock(other, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK, "flock is lost");
	*stage = 3;
	victim_reap(pid);
	CHECK(flock(flock_fd, LOCK_UN) == 0 && flock(other, LOCK_EX | LOCK_NB) == 0,
	      "flock belongs to another description: %s", strerror(errno));
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// Named pipes: content, size, ends in two tasks, one opened for both.
#include "victim.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int reader, writer, both;

static void child(void *arg)
{
	close(reader);
	victim_wait();
	MUST(write(writer, "+child", 6));
}

static void expect(int fd, const char *want)
{
	char buf[64] = "";
	ssize_t got = read(fd, buf, sizeof(buf) - 1);

	CHECK(got == (ssize_t)strlen(want) && strcmp(buf, want) == 0, "read %zd '%s' for '%s'", got,
	      buf, want);
}

int main(int argc, char **argv)
{
	pid_t pid;

	victim_start(argc, argv);
	unlink(victim_path("fifo"));
	unlink(victim_path("fifo2"));
	MUST(mkfifo(victim_path("fifo"), 0640));
	MUST(mkfifo(victim_path("fifo2"), 0600));
	reader = MUST(open(victim_path("fifo"), O_RDONLY | O_NONBLOCK));
	writer = MUST(open(victim_path("fifo"), O_WRONLY));
	both = MUST(open(victim_path("fifo2"), O_RDWR));
	MUST(fcntl(both, F_SETPIPE_SZ, 4 * VICTIM_PAGE));
	MUST(write(writer, "queued", 6));
	MUST(write(both, "for myself", 10));
	pid = victim_fork(child, NULL);
	close(writer);
	victim_ready();
	victim_wait();
	victim_reap(pid);
	expect(reader, "queued+child");
	CHECK(read(reader, &pid, 1) == 0, "no end of file: %s", strerror(errno));
	CHECK(fcntl(reader, F_GETFL) & O_NONBLOCK, "O_NONBLOCK is lost");
	CHECK(fcntl(both, F_GETPIPE_SZ) == 4 * (int)VICTIM_PAGE, "size is %d",
	      fcntl(both, F_GETPIPE_SZ));
	expect(both, "for myself");
	// The name still leads to the same pipe.
	writer = MUST(open(victim_path("fifo2"), O_WRONLY));
	MUST(write(writer, "by name", 7));
	expect(both, "by name");
	victim_pass();
}

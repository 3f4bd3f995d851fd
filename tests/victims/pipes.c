// SPDX-License-Identifier: Apache-2.0
// Pipes: contents, sizes, flags, full and empty ones, one with a dead reading or writing
// end, ends in two tasks.
#include "victim.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int plain[2], big[2], no_writer[2], no_reader[2], empty[2], to_child[2], full[2];

static void child(void *arg)
{
	char text[8] = "";

	close(to_child[1]);
	victim_wait();
	CHECK(read(to_child[0], text, 5) == 5 && strcmp(text, "early") == 0, "got '%s'", text);
	CHECK(read(to_child[0], text, 5) == 5 && strcmp(text, "later") == 0, "got '%s'", text);
	CHECK(read(to_child[0], text, 5) == 0, "no end of file");
}

static void expect_bytes(int fd, const char *want)
{
	char buf[64] = "";
	ssize_t got = read(fd, buf, sizeof(buf));

	CHECK(got == (ssize_t)strlen(want) && memcmp(buf, want, got) == 0,
	      "read %zd bytes '%s' (%s) for '%s'", got, buf, strerror(errno), want);
}

static void set_up(void)
{
	char page[VICTIM_PAGE] = "";

	MUST(pipe(plain));
	MUST(write(plain[1], "plain content", 13));
	MUST(pipe2(big, O_NONBLOCK));
	MUST(fcntl(big[1], F_SETPIPE_SZ, 1 << 20));
	for (int i = 0; i < 200; i++) {
		victim_fill(page, sizeof(page), i);
		MUST(write(big[1], page, sizeof(page)));
	}
	MUST(pipe(no_writer));
	MUST(write(no_writer[1], "last words", 10));
	close(no_writer[1]);
	MUST(pipe(no_reader));
	close(no_reader[0]);
	MUST(pipe2(empty, O_NONBLOCK));
	MUST(fcntl(empty[1], F_SETPIPE_SZ, VICTIM_PAGE));
	MUST(pipe2(full, O_NONBLOCK));
	while (write(full[1], page, sizeof(page)) > 0)
		;
	MUST(pipe(to_child));
	MUST(write(to_child[1], "early", 5));
}

int main(int argc, char **argv)
{
	char page[VICTIM_PAGE];
	int queued;
	pid_t pid;

	victim_start(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	set_up();
	pid = victim_fork(child, NULL);
	victim_ready();
	victim_wait();
	expect_bytes(plain[0], "plain content");
	CHECK(fcntl(big[0], F_GETPIPE_SZ) == 1 << 20, "size is %d", fcntl(big[0], F_GETPIPE_SZ));
	MUST(ioctl(big[0], FIONREAD, &queued));
	CHECK(queued == 200 * (int)VICTIM_PAGE, "%d bytes in the big pipe", queued);
	for (int i = 0; i < 200; i++) {
		CHECK(read(big[0], page, sizeof(page)) == sizeof(page), "big pipe, page %d", i);
		CHECK(victim_check(page, sizeof(page), i) < 0, "big pipe, page %d differs", i);
	}
	expect_bytes(no_writer[0], "last words");
	expect_bytes(no_writer[0], "");
	CHECK(write(no_reader[1], "x", 1) < 0 && errno == EPIPE, "a reader has come to life");
	CHECK(fcntl(empty[0], F_GETPIPE_SZ) == (int)VICTIM_PAGE, "size of the empty pipe");
	CHECK(read(empty[0], page, 1) < 0 && errno == EAGAIN, "empty pipe: %s", strerror(errno));
	CHECK(write(full[1], page, 1) < 0 && errno == EAGAIN, "full pipe: %s", strerror(errno));
	MUST(write(to_child[1], "later", 5));
	close(to_child[0]);
	close(to_child[1]);
	victim_reap(pid);
	victim_pass();
}

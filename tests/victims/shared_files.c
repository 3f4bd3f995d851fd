// SPDX-License-Identifier: Apache-2.0
// Descriptions shared by dup and by fork, at the same and at different descriptor numbers, and two
// that look alike but are not shared.
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static int inherited, twin, pipe_fds[2], child_only;
static volatile int *turn;

static void child(void *arg)
{
	int moved = MUST(dup2(inherited, 55));

	close(inherited);
	child_only = MUST(open(victim_path("file"), O_RDWR));
	MUST(lseek(child_only, 3, SEEK_SET));
	turn[0] = 1;
	victim_wait();
	CHECK(lseek(child_only, 0, SEEK_CUR) == 3, "child's own offset");
	CHECK(victim_same_file(getpid(), moved, getppid(), inherited), "file is not shared");
	CHECK(victim_same_file(getpid(), pipe_fds[1], getppid(), pipe_fds[1]), "pipe is not shared");
	CHECK(!victim_same_file(getpid(), child_only, getppid(), twin), "too much is shared");
	MUST(lseek(moved, 42, SEEK_SET));
	MUST(write(pipe_fds[1], "child", 5));
	turn[1] = 1;
	while (turn[1] < 2)
		victim_sleep_ms(2);
}

int main(int argc, char **argv)
{
	char text[8] = "";
	pid_t pid;

	victim_start(argc, argv);
	turn = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	inherited = MUST(open(victim_path("file"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	twin = MUST(open(victim_path("file"), O_RDWR));
	MUST(pipe(pipe_fds));
	MUST(lseek(inherited, 7, SEEK_SET));
	MUST(lseek(twin, 9, SEEK_SET));
	pid = victim_fork(child, NULL);
	while (!turn[0])
		victim_sleep_ms(1);
	victim_ready();
	victim_wait();
	while (!turn[1]) {
		CHECK(access(victim_path("reason"), F_OK) < 0, "child: %s",
		      victim_read_file(victim_path("reason")));
		victim_sleep_ms(2);
	}
	CHECK(lseek(inherited, 0, SEEK_CUR) == 42, "offset moved by the child is not seen");
	CHECK(lseek(twin, 0, SEEK_CUR) == 9, "offset of the twin moved");
	MUST(read(pipe_fds[0], text, 5));
	CHECK(strcmp(text, "child") == 0, "read %s", text);
	turn[1] = 2;
	victim_reap(pid);
	victim_pass();
}

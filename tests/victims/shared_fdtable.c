// SPDX-License-Identifier: Apache-2.0
// Two processes with one descriptor table (CLONE_FILES): what one opens, the other can use.
#include "victim.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int *fd_of_child;

int main(int argc, char **argv)
{
	char text[8] = "";
	int pipe_fds[2];
	pid_t pid;

	victim_start(argc, argv);
	fd_of_child = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	MUST(pipe(pipe_fds));
	pid = MUST(syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL));
	if (pid == 0) {
		victim_wait();
		*fd_of_child = MUST(open(victim_path("opened-by-child"), O_RDWR | O_CREAT, 0644));
		MUST(write(*fd_of_child, "child", 5));
		_exit(0);
	}
	victim_ready();
	victim_wait();
	victim_reap(pid);
	CHECK(*fd_of_child > 2, "child has opened nothing");
	CHECK(pread(*fd_of_child, text, 5, 0) == 5 && strcmp(text, "child") == 0,
	      "the table is not shared any more: %s", strerror(errno));
	victim_pass();
}

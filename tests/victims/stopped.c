// SPDX-License-Identifier: Apache-2.0
// A child that was stopped by SIGSTOP, and one by SIGTSTP: still stopped afterwards, and SIGCONT
// makes them go on where they were. One more is stopped with its parent not having noticed yet.
#include "victim.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static void sleeper(void *arg)
{
	victim_wait();
}

static char state_of(pid_t pid)
{
	char path[32], *text, *paren;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	text = victim_read_file(path);
	paren = strrchr(text, ')');
	return paren[2];
}

static pid_t make_stopped(int sig, bool notice)
{
	pid_t pid = victim_fork(sleeper, NULL);
	int status;

	// In a group of its own: an orphaned one ignores SIGTSTP.
	setpgid(pid, pid);
	kill(pid, sig);
	if (notice) {
		MUST(waitpid(pid, &status, WUNTRACED));
		CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == sig, "set-up: status %#x", status);
	}
	while (state_of(pid) != 'T')
		victim_sleep_ms(1);
	return pid;
}

int main(int argc, char **argv)
{
	pid_t stopped[3];

	victim_start(argc, argv);
	stopped[0] = make_stopped(SIGSTOP, true);
	stopped[1] = make_stopped(SIGTSTP, true);
	stopped[2] = make_stopped(SIGSTOP, false);
	victim_ready();
	victim_wait();
	for (int i = 0; i < 3; i++) {
		char state = state_of(stopped[i]);

		CHECK(state == 'T', "child %d was stopped, is in state %c", i, state);
	}
	for (int i = 0; i < 3; i++) {
		kill(stopped[i], SIGCONT);
		victim_reap(stopped[i]);
	}
	victim_pass();
}

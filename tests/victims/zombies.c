// SPDX-License-Identifier: Apache-2.0
// Dead children that nobody has waited for: exit code, death by signal, zombie in another group,
// zombie of a child.
#include "victim.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t kids[4];

static pid_t spawn_exit(int code, bool new_group)
{
	pid_t pid = MUST(fork());

	if (pid)
		return pid;
	if (new_group)
		setpgid(0, 0);
	_exit(code);
}

static pid_t spawn_signalled(int sig)
{
	pid_t pid = MUST(fork());

	if (pid)
		return pid;
	signal(sig, SIG_DFL);
	kill(getpid(), sig);
	for (;;)
		pause();
}

static void await_zombie(pid_t pid)
{
	siginfo_t info;

	MUST(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
}

static void expect_status(pid_t pid, int want)
{
	int status = -1;
	pid_t got = waitpid(pid, &status, 0);

	CHECK(got == pid, "waitpid(%d): %s", pid, strerror(errno));
	CHECK(status == want, "zombie %d: status was %#x, is %#x", pid, want, status);
}

static void parent_of_zombie(void *arg)
{
	pid_t zombie = spawn_exit(33, false);

	await_zombie(zombie);
	victim_wait();
	expect_status(zombie, 33 << 8);
}

int main(int argc, char **argv)
{
	struct rlimit no_core = {0, 0};
	pid_t child;

	victim_start(argc, argv);
	setrlimit(RLIMIT_CORE, &no_core);
	kids[0] = spawn_exit(7, false);
	kids[1] = spawn_signalled(SIGUSR1);
	kids[2] = spawn_signalled(SIGKILL);
	kids[3] = spawn_exit(0, true);
	for (int i = 0; i < 4; i++)
		await_zombie(kids[i]);
	child = victim_fork(parent_of_zombie, NULL);
	victim_sleep_ms(50);
	victim_ready();
	victim_wait();
	victim_reap(child);
	expect_status(kids[2], SIGKILL);
	expect_status(kids[0], 7 << 8);
	expect_status(kids[1], SIGUSR1);
	expect_status(kids[3], 0);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "one child too many");
	victim_pass();
}

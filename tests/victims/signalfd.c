// SPDX-License-Identifier: Apache-2.0
// signalfd: mask, flags, a pending signal that is read afterwards.
#include "victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct signalfd_siginfo info = {0};
	sigset_t set, other;
	int fd, empty;

	victim_start(argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 7);
	sigemptyset(&other);
	sigaddset(&other, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = MUST(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
	empty = MUST(signalfd(-1, &other, SFD_NONBLOCK));
	MUST(kill(getpid(), SIGUSR1));
	victim_ready();
	victim_wait();
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "close-on-exec");
	CHECK(read(fd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1,
	      "pending signal is lost: %s", strerror(errno));
	CHECK(info.ssi_pid == (uint32_t)getpid(), "sender is %u", info.ssi_pid);
	CHECK(read(fd, &info, sizeof(info)) < 0 && errno == EAGAIN, "one signal too many");
	MUST(sigqueue(getpid(), SIGRTMIN + 7, (union sigval){.sival_int = 99}));
	CHECK(read(fd, &info, sizeof(info)) == sizeof(info) && info.ssi_int == 99, "new signal");
	CHECK(read(empty, &info, sizeof(info)) < 0 && errno == EAGAIN, "the other one");
	victim_pass();
}

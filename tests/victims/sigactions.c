// SPDX-License-Identifier: Apache-2.0
// Every signal's disposition, with mask, flags and restorer; and that handlers are really called.
#include "victim.h"

#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ksigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static volatile int calls, last_signal;

static void plain_handler(int sig)
{
	calls++;
	last_signal = sig;
}

static void info_handler(int sig, siginfo_t *info, void *context)
{
	calls++;
	last_signal = info->si_signo;
}

static bool settable(int sig)
{
	return sig != SIGKILL && sig != SIGSTOP && sig != 32 && sig != 33;
}

static void set_action(int sig)
{
	static const int flags[] = {0, SA_RESTART, SA_NODEFER, SA_ONSTACK, SA_RESTART | SA_ONSTACK};
	struct sigaction sa = {.sa_flags = flags[sig % 5]};

	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, sig % 31 + 1);
	sigaddset(&sa.sa_mask, SIGRTMIN + sig % 20);
	if (sig % 7 == 0) {
		sa.sa_handler = SIG_IGN;
	} else if (sig % 7 == 1) {
		sa.sa_handler = SIG_DFL;
	} else if (sig % 2) {
		sa.sa_handler = plain_handler;
	} else {
		sa.sa_sigaction = info_handler;
		sa.sa_flags |= SA_SIGINFO;
	}
	if (sig == SIGCHLD)
		sa.sa_flags |= SA_NOCLDSTOP | SA_NOCLDWAIT;
	if (sig == SIGUSR2)
		sa.sa_flags |= SA_RESETHAND;
	MUST(sigaction(sig, &sa, NULL));
}

static void get_all(struct ksigaction *all)
{
	for (int sig = 1; sig <= 64; sig++)
		MUST(syscall(SYS_rt_sigaction, sig, NULL, &all[sig], 8));
}

static void expect_call(int sig)
{
	int before = calls;

	raise(sig);
	CHECK(calls == before + 1 && last_signal == sig, "handler of signal %d was not called", sig);
}

int main(int argc, char **argv)
{
	static struct ksigaction was[65], is[65];

	victim_start(argc, argv);
	for (int sig = 1; sig <= 64; sig++)
		if (settable(sig))
			set_action(sig);
	get_all(was);
	victim_ready();
	victim_wait();
	get_all(is);
	for (int sig = 1; sig <= 64; sig++)
		CHECK(memcmp(&was[sig], &is[sig], sizeof(was[0])) == 0,
		      "signal %d: handler %p/%p flags %#lx/%#lx restorer %p/%p mask %#lx/%#lx", sig,
		      was[sig].handler, is[sig].handler, was[sig].flags, is[sig].flags,
		      was[sig].restorer, is[sig].restorer, was[sig].mask, is[sig].mask);
	expect_call(SIGUSR1);
	expect_call(SIGUSR2);
	expect_call(SIGRTMIN + 10);
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Threads asleep in system calls. Each row is a call that must not notice the interruption: it may
 * end late, never early, and never with EINTR.
 */
#ifndef RESTART_H
#define RESTART_H

struct restart_case {
	const char *name;
	// Sleep. 0 when the outcome is right, else text in problem.
	void (*sleep)(const struct restart_case *self);
	// Let the sleeper go; NULL for calls that end by their own timeout.
	void (*release)(const struct restart_case *self);
};

// How long the calls with a timeout sleep.
#define RESTART_TIMEOUT_MS 5000L

// Run one thread per row from "ready" to the verdict. Does not return.
_Noreturn void restart_run(const struct restart_case *cases, int count);

#endif

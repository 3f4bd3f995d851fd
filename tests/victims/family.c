// SPDX-License-Identifier: Apache-2.0
// Children and grandchildren: pids, parents, process groups, sessions, and that a parent can still
// wait for its children.
#include "victim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	ROOT,
	CHILD_GROUP,       // leads a process group of its own
	GRANDCHILD_GROUP,  // is in that group
	CHILD_SESSION,     // leads a session
	GRANDCHILD_LEADER, // in that session, leads a group there
	GREAT_GRANDCHILD,  // in that group
	CHILD_PLAIN,       // session and group of the root
	MEMBERS
};

struct member {
	pid_t pid, ppid, pgid, sid;
};

static struct member *members;

static struct member about_me(void)
{
	return (struct member){getpid(), getppid(), getpgid(0), getsid(0)};
}

static void compare(int nr)
{
	struct member is = about_me(), *was = &members[nr];

	CHECK(is.pid == was->pid, "member %d: pid was %d, is %d", nr, was->pid, is.pid);
	if (nr != ROOT)
		CHECK(is.ppid == was->ppid, "member %d: ppid was %d, is %d", nr, was->ppid, is.ppid);
	CHECK(is.pgid == was->pgid, "member %d: pgid was %d, is %d", nr, was->pgid, is.pgid);
	CHECK(is.sid == was->sid, "member %d: sid was %d, is %d", nr, was->sid, is.sid);
}

// Say what this member is, wait for the test, look again, reap the children.
static void live(int nr, const pid_t *children, int count)
{
	members[nr] = about_me();
	victim_wait();
	compare(nr);
	for (int i = 0; i < count; i++)
		victim_reap(children[i]);
}

static void leaf(void *arg)
{
	live((intptr_t)arg, NULL, 0);
}

static void child_group(void *arg)
{
	pid_t child;

	setpgid(0, 0);
	child = victim_fork(leaf, (void *)GRANDCHILD_GROUP);
	live(CHILD_GROUP, &child, 1);
}

static void grandchild_leader(void *arg)
{
	pid_t child;

	setpgid(0, 0);
	child = victim_fork(leaf, (void *)GREAT_GRANDCHILD);
	live(GRANDCHILD_LEADER, &child, 1);
}

static void child_session(void *arg)
{
	pid_t child;

	MUST(setsid());
	child = victim_fork(grandchild_leader, NULL);
	live(CHILD_SESSION, &child, 1);
}

static void expect(bool right, const char *what)
{
	CHECK(right, "set-up: %s", what);
}

int main(int argc, char **argv)
{
	pid_t children[3];

	victim_start(argc, argv);
	members = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	children[0] = victim_fork(child_group, NULL);
	children[1] = victim_fork(child_session, NULL);
	children[2] = victim_fork(leaf, (void *)CHILD_PLAIN);
	for (int i = CHILD_GROUP; i < MEMBERS; i++)
		while (!*(volatile pid_t *)&members[i].sid)
			victim_sleep_ms(2);
	members[ROOT] = about_me();
	expect(members[GRANDCHILD_GROUP].pgid == members[CHILD_GROUP].pid, "group of grandchild");
	expect(members[GREAT_GRANDCHILD].sid == members[CHILD_SESSION].pid, "session");
	expect(members[GREAT_GRANDCHILD].pgid == members[GRANDCHILD_LEADER].pid, "group there");
	victim_ready();
	victim_wait();
	compare(ROOT);
	for (int i = 0; i < 3; i++)
		victim_reap(children[i]);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "one child too many");
	victim_pass();
}

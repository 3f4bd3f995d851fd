// SPDX-License-Identifier: Apache-2.0
// A process group and a session whose leaders are dead, the members adopted by a subreaper.
#include "victim.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct ids {
	pid_t pid, pgid, sid;
};

static struct ids *shared;

static void member(void *arg)
{
	struct ids *mine = arg;

	while (getppid() != getsid(getppid()) || getppid() == mine->sid)
		victim_sleep_ms(1);
	mine->pgid = getpgid(0);
	mine->sid = getsid(0);
	__atomic_store_n(&mine->pid, getpid(), __ATOMIC_RELEASE);
	victim_wait();
	CHECK(getpid() == mine->pid, "pid was %d, is %d", mine->pid, getpid());
	CHECK(getpgid(0) == mine->pgid, "pgid was %d, is %d", mine->pgid, getpgid(0));
	CHECK(getsid(0) == mine->sid, "sid was %d, is %d", mine->sid, getsid(0));
}

// Start a leader of a group (or session), let it have one child, and die.
static pid_t make_orphan(struct ids *ids, bool session)
{
	pid_t leader = MUST(fork());

	if (leader == 0) {
		if (session)
			setsid();
		else
			setpgid(0, 0);
		ids->sid = session ? getpid() : 0;
		victim_fork(member, ids);
		_exit(0);
	}
	MUST(waitpid(leader, NULL, 0));
	while (!__atomic_load_n(&ids->pid, __ATOMIC_ACQUIRE))
		victim_sleep_ms(1);
	CHECK((session ? ids->sid : ids->pgid) == leader, "set-up");
	return ids->pid;
}

int main(int argc, char **argv)
{
	pid_t in_group, in_session;

	victim_start(argc, argv);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
	shared = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	in_group = make_orphan(&shared[0], false);
	in_session = make_orphan(&shared[1], true);
	victim_ready();
	victim_wait();
	victim_reap(in_group);
	victim_reap(in_session);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "one child too many");
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// System V segments of an IPC namespace that others use, too: parts of them, protections, attached for
// reading only, marked for destruction, of other owners; shared by parent and child, afterwards, too.
#include "victim.h"

#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

enum { PAGES = 9, TAIL = 100 }; // not whole pages

struct known {
	int id;
	struct shmid_ds ds;
};

static struct known whole, dying, foreign;
static char *area, *parts, *last, *theirs;
static volatile int *flags;

static struct shmid_ds look(int id)
{
	struct shmid_ds ds;

	memset(&ds, 0, sizeof(ds));
	MUST(shmctl(id, IPC_STAT, &ds));
	return ds;
}

static void same(const struct known *k)
{
	struct shmid_ds is = look(k->id);
	const struct ipc_perm *a = &k->ds.shm_perm, *b = &is.shm_perm;

	CHECK(a->__key == b->__key && a->uid == b->uid && a->gid == b->gid && a->cuid == b->cuid &&
		      a->cgid == b->cgid && a->mode == b->mode,
	      "segment %d: key %x uid %u gid %u cuid %u cgid %u mode %o, was %x %u %u %u %u %o",
	      k->id, b->__key, b->uid, b->gid, b->cuid, b->cgid, b->mode, a->__key, a->uid, a->gid,
	      a->cuid, a->cgid, a->mode);
	CHECK(is.shm_segsz == k->ds.shm_segsz, "segment %d: %zu bytes", k->id, is.shm_segsz);
	CHECK(is.shm_nattch == k->ds.shm_nattch, "segment %d: attached %lu times, was %lu", k->id,
	      (unsigned long)is.shm_nattch, (unsigned long)k->ds.shm_nattch);
}

static int make(key_t key, int mode)
{
	return MUST(
		shmget(key, PAGES * VICTIM_PAGE - VICTIM_PAGE + TAIL, IPC_CREAT | IPC_EXCL | mode));
}

static void child(void *arg)
{
	char *mine = shmat(whole.id, NULL, SHM_RDONLY);

	CHECK(mine != (void *)-1, "shmat: %s", strerror(errno));
	flags[0] = 1;
	victim_wait();
	CHECK(victim_check(mine + VICTIM_PAGE, VICTIM_PAGE, 1) < 0, "page 1, read-only");
	CHECK(mprotect(mine, VICTIM_PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES,
	      "what was attached for reading can be written");
	area[6 * VICTIM_PAGE] = 77;
	CHECK(mine[6 * VICTIM_PAGE] == 77, "two areas of one segment differ");
	flags[1] = 1;
	while (!flags[2])
		victim_sleep_ms(2);
	CHECK(victim_check(theirs, VICTIM_PAGE, 888) < 0, "parent's write is not seen");
}

// A segment that another user made, and that was given to a third.
static void make_foreign(void)
{
	struct shmid_ds ds;

	MUST(setegid(65534));
	MUST(seteuid(65534));
	foreign.id = make((key_t)(0x40000000 + getpid()), 0640);
	MUST(seteuid(0));
	MUST(setegid(0));
	ds = look(foreign.id);
	ds.shm_perm.uid = 7;
	ds.shm_perm.gid = 8;
	ds.shm_perm.mode = 0604;
	MUST(shmctl(foreign.id, IPC_SET, &ds));
	theirs = shmat(foreign.id, NULL, 0);
	CHECK(theirs != (void *)-1, "shmat: %s", strerror(errno));
}

// Five areas of one segment: two protections, one gone, one moved.
static void make_parts(void)
{
	char *room = victim_map(4 * PAGES * VICTIM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);

	parts = shmat(whole.id, room, SHM_REMAP);
	CHECK(parts == room, "shmat: %s", strerror(errno));
	MUST(mprotect(parts + VICTIM_PAGE, VICTIM_PAGE, PROT_READ));
	MUST(munmap(parts + 3 * VICTIM_PAGE, VICTIM_PAGE));
	last = mremap(parts + 5 * VICTIM_PAGE, 2 * VICTIM_PAGE, 2 * VICTIM_PAGE,
		      MREMAP_MAYMOVE | MREMAP_FIXED, room + 3 * PAGES * VICTIM_PAGE);
	CHECK(last != MAP_FAILED, "mremap: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	pid_t pid;

	victim_start(argc, argv);
	if (geteuid() != 0)
		victim_skip("needs root");
	flags = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	whole.id = make(IPC_PRIVATE, 0600);
	area = shmat(whole.id, NULL, 0);
	CHECK(area != (void *)-1, "shmat: %s", strerror(errno));
	for (int i = 0; i < PAGES; i += 2)
		victim_fill(area + i * VICTIM_PAGE, i == PAGES - 1 ? TAIL : VICTIM_PAGE, i);
	victim_fill(area + VICTIM_PAGE, VICTIM_PAGE, 1);
	make_parts();
	make_foreign();
	dying.id = make((key_t)(0x50000000 + getpid()), 0600);
	CHECK(shmat(dying.id, NULL, 0) != (void *)-1, "shmat: %s", strerror(errno));
	MUST(shmctl(dying.id, IPC_RMID, NULL));
	pid = victim_fork(child, NULL);
	while (!flags[0])
		victim_sleep_ms(1);
	whole.ds = look(whole.id);
	dying.ds = look(dying.id);
	foreign.ds = look(foreign.id);
	victim_ready();
	victim_wait();
	for (int i = 0; i < PAGES; i += 2)
		CHECK(i == 6 || victim_check(area + i * VICTIM_PAGE,
					     i == PAGES - 1 ? TAIL : VICTIM_PAGE, i) < 0,
		      "page %d", i);
	CHECK(area[3 * VICTIM_PAGE] == 0, "hole is not zero");
	while (!flags[1]) {
		CHECK(access(victim_path("reason"), F_OK) < 0, "child: %s",
		      victim_read_file(victim_path("reason")));
		victim_sleep_ms(2);
	}
	CHECK(last[VICTIM_PAGE] == 77, "the child's write is not seen in the part that was moved");
	CHECK(victim_check(parts + VICTIM_PAGE, VICTIM_PAGE, 1) < 0, "the read-only part");
	same(&whole);
	same(&dying);
	same(&foreign);
	CHECK(MUST(shmget(foreign.ds.shm_perm.__key, 1, 0)) == foreign.id, "another id for its key");
	victim_fill(theirs, VICTIM_PAGE, 888);
	flags[2] = 1;
	victim_reap(pid);
	MUST(shmctl(whole.id, IPC_RMID, NULL));
	MUST(shmctl(foreign.id, IPC_RMID, NULL));
	victim_pass();
}

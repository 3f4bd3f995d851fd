// SPDX-License-Identifier: Apache-2.0
// An IPC namespace of its own: segments, attached and not, semaphores, queues with messages, and limits.
#include "victim.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

enum { SEMS = 3, BIG = 3000 };

struct message {
	long type;
	char text[BIG];
};

static void put(const char *path, const char *text)
{
	int fd = MUST(open(path, O_WRONLY));

	CHECK(write(fd, text, strlen(text)) > 0, "%s: %s", path, strerror(errno));
	close(fd);
}

static void receive(int queue, long type, const char *text, size_t bytes)
{
	struct message m;
	ssize_t n = msgrcv(queue, &m, sizeof(m.text), 0, IPC_NOWAIT);

	CHECK(n == (ssize_t)bytes && m.type == type, "message of %zd bytes, type %ld (%s)", n,
	      m.type, strerror(errno));
	CHECK(memcmp(m.text, text, bytes) == 0, "message of type %ld has other bytes", type);
}

int main(int argc, char **argv)
{
	unsigned short values[SEMS] = {7, 0, 32000}, now[SEMS];
	struct message m = {.type = 5};
	int shm, loose, sem, queue, empty, spare;
	struct semid_ds sd;
	struct msqid_ds qd;
	char *area, *text;

	victim_start(argc, argv);
	if (geteuid() != 0)
		victim_skip("needs root");
	MUST(unshare(CLONE_NEWIPC));
	put("/proc/sys/kernel/msgmnb", "20000");
	// ids that are not the first ones
	spare = MUST(shmget(IPC_PRIVATE, VICTIM_PAGE, 0600));
	shm = MUST(shmget(0x1111, 3 * VICTIM_PAGE, IPC_CREAT | 0640));
	loose = MUST(shmget(0x1112, 2 * VICTIM_PAGE, IPC_CREAT | 0600));
	MUST(shmctl(spare, IPC_RMID, NULL));
	area = shmat(loose, NULL, 0);
	victim_fill(area, 2 * VICTIM_PAGE, 2);
	MUST(shmdt(area));
	area = shmat(shm, NULL, 0);
	victim_fill(area + VICTIM_PAGE, VICTIM_PAGE, 1);
	spare = MUST(semget(IPC_PRIVATE, 1, 0600));
	sem = MUST(semget(0x2222, SEMS, IPC_CREAT | 0620));
	MUST(semctl(spare, 0, IPC_RMID));
	MUST(semctl(sem, 0, SETALL, values));
	spare = MUST(msgget(IPC_PRIVATE, 0600));
	queue = MUST(msgget(0x3333, IPC_CREAT | 0660));
	empty = MUST(msgget(0x3334, IPC_CREAT | 0600));
	MUST(msgctl(spare, IPC_RMID, NULL));
	memcpy(m.text, "first", 5);
	MUST(msgsnd(queue, &m, 5, 0));
	m.type = 9;
	MUST(msgsnd(queue, &m, 0, 0));
	m.type = 5;
	victim_fill(m.text, BIG, 3);
	MUST(msgsnd(queue, &m, BIG, 0));
	put("/proc/sys/kernel/shmmni", "1234");
	victim_ready();
	victim_wait();
	CHECK(victim_check(area + VICTIM_PAGE, VICTIM_PAGE, 1) < 0, "page 1");
	CHECK(area[0] == 0 && area[2 * VICTIM_PAGE] == 0, "holes are not zero");
	CHECK(shmget(0x1111, 1, 0) == shm && shmget(0x1112, 1, 0) == loose,
	      "other ids for their keys");
	area = shmat(loose, NULL, 0);
	CHECK(area != (void *)-1 && victim_check(area, 2 * VICTIM_PAGE, 2) < 0,
	      "the segment that nobody had attached");
	CHECK(semget(0x2222, 0, 0) == sem, "another id for the semaphores");
	MUST(semctl(sem, 0, GETALL, now));
	CHECK(memcmp(now, values, sizeof(now)) == 0, "semaphores: %u %u %u", now[0], now[1], now[2]);
	MUST(semctl(sem, 0, IPC_STAT, &sd));
	CHECK(sd.sem_perm.mode == 0620, "semaphores: mode %o", sd.sem_perm.mode);
	CHECK(msgget(0x3333, 0) == queue && msgget(0x3334, 0) == empty, "other ids for the queues");
	MUST(msgctl(queue, IPC_STAT, &qd));
	CHECK(qd.msg_qbytes == 20000 && qd.msg_qnum == 3 && qd.msg_perm.mode == 0660,
	      "queue: %lu bytes, %lu messages, mode %o", (unsigned long)qd.msg_qbytes,
	      (unsigned long)qd.msg_qnum, qd.msg_perm.mode);
	receive(queue, 5, "first", 5);
	receive(queue, 9, "", 0);
	victim_fill(m.text, BIG, 3);
	receive(queue, 5, m.text, BIG);
	MUST(msgctl(empty, IPC_STAT, &qd));
	CHECK(qd.msg_qnum == 0, "the empty queue has messages");
	text = victim_read_file("/proc/sys/kernel/shmmni");
	CHECK(atoi(text) == 1234, "limit of segments: %s", text);
	victim_pass();
}

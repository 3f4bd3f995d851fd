// SPDX-License-Identifier: Apache-2.0
// The golden dump of an IPC namespace decodes to the facts that its README states.
#include "fixtures.h"

static void sysv(void **state)
{
	struct snapshot *snap;
	const VmaEntry *vma = NULL;
	const struct snap_queue *q;
	const IpcShmEntry *shm;
	const IpcSemEntry *sem;
	uint16_t values[3];
	unsigned char page[4096];

	need_fixtures();
	snap = fixture_load("sysv");
	assert_int_equal(snap->ipc.ns_id, 9);
	assert_int_equal(snap->ipc.var->msg_ctlmnb, 16384);
	shm = snapshot_sysv(snap, 0);
	assert_non_null(shm);
	assert_int_equal(shm->desc->key, 0x1111);
	assert_int_equal(shm->size, 8192);
	for (size_t i = 0; i < snapshot_task(snap, 34)->mm->n_vmas; i++)
		if (snapshot_task(snap, 34)->mm->vmas[i]->start == 0x60000000)
			vma = snapshot_task(snap, 34)->mm->vmas[i];
	assert_non_null(vma);
	assert_int_equal(vma->status, VMA_REGULAR | VMA_ANON_SHARED | VMA_SYSVIPC);
	assert_int_equal(vma->shmid, 0);
	fixture_pages("sysv", snapshot_shmem(snap, 0)->pages_id, 0, page, sizeof(page));
	assert_memory_equal(page, "sysv:page0:", 11);
	assert_int_equal(page[4095], 'v');
	assert_int_equal(snap->ipc.sem.n, 1);
	sem = (const IpcSemEntry *)snap->ipc.sem.v[0].entry;
	assert_int_equal(sem->desc->key, 0x2222);
	assert_int_equal(sem->nsems, 3);
	memcpy(values, snap->ipc.sem.v[0].data, sizeof(values));
	for (uint16_t i = 0; i < 3; i++)
		assert_int_equal(values[i], i + 1);
	assert_int_equal(snap->ipc.msg.n, 1);
	q = &snap->ipc.msg.v[0];
	assert_int_equal(q->entry->desc->key, 0x3333);
	assert_int_equal(q->entry->qnum, 2);
	assert_int_equal(((const IpcMsg *)q->messages[0].entry)->mtype, 5);
	assert_memory_equal(q->messages[0].data, "message-one", 11);
	assert_int_equal(((const IpcMsg *)q->messages[1].entry)->mtype, 9);
	assert_memory_equal(q->messages[1].data, "two", 3);
	snapshot_free(snap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sysv),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

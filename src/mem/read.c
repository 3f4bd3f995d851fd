// SPDX-License-Identifier: Apache-2.0
#include "mem/read.h"

#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>

int task_memory_open(struct task_memory *m, pid_t pid, struct err *err)
{
	*m = (struct task_memory){
		.pid = pid,
		.mem = io_openf(O_RDONLY, "/proc/%d/mem", pid),
		.pagemap = io_openf(O_RDONLY, "/proc/%d/pagemap", pid),
	};
	if (m->mem >= 0 && m->pagemap >= 0)
		return 0;
	err_sys(err, "cannot open the memory of pid %d", pid);
	task_memory_close(m);
	return -1;
}

void task_memory_close(struct task_memory *m)
{
	if (m->mem >= 0)
		close(m->mem);
	if (m->pagemap >= 0)
		close(m->pagemap);
	m->mem = m->pagemap = -1;
}

/* For so few pages the question whether they are shared costs more than it saves. */
enum { FEW_PAGES_BYTES = 64 << 10 };

/* Are there pages that the task shares copy-on-write with another? */
static bool has_shared_pages(int pagemap, uint64_t addr, size_t bytes)
{
	const uint64_t present = 1ULL << 63, file = 1ULL << 61, exclusive = 1ULL << 56;
	uint64_t entries[512];
	size_t left = bytes / PAGE_BYTES, n;

	for (; left; left -= n, addr += n * PAGE_BYTES) {
		n = MIN(left, ARRAY_SIZE(entries));
		if (io_pread_full(pagemap, entries, n * 8, (off_t)(addr / PAGE_BYTES * 8)))
			return true;
		for (size_t i = 0; i < n; i++)
			if ((entries[i] & (present | file | exclusive)) == present)
				return true;
	}
	return false;
}

int task_memory_read(const struct task_memory *m, uint64_t addr, void *buf, size_t bytes,
		     struct err *err)
{
	struct iovec local = {buf, bytes}, remote = {(void *)(uintptr_t)addr, bytes};

	if (bytes > FEW_PAGES_BYTES && !has_shared_pages(m->pagemap, addr, bytes) &&
	    process_vm_readv(m->pid, &local, 1, &remote, 1, 0) == (ssize_t)bytes)
		return 0;
	if (io_pread_full(m->mem, buf, bytes, (off_t)addr) == 0)
		return 0;
	return err_sys(err, "cannot read %zu bytes of memory of pid %d at %llx", bytes, m->pid,
		       (unsigned long long)addr);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/warm.h"

#include "base/attrs.h"
#include "base/io.h"

#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
	LARGEST_BLOCK_BYTES = 1 << 20, /* larger ones are mapped: they are rare, and go back */
	STACK_BYTES = 192 << 10,
	LARGEST_AREA_BYTES = 64 << 20,
	PAGEMAP_ENTRIES = 512,
};
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

static int map_code(struct dl_phdr_info *info, size_t size, void *arg)
{
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t start = (info->dlpi_addr + p->p_vaddr) & ~(uintptr_t)(PAGE_BYTES - 1);

		if (p->p_type == PT_LOAD && !(p->p_flags & PF_W))
			(void)madvise((void *)start,
				      info->dlpi_addr + p->p_vaddr + p->p_filesz - start,
				      MADV_POPULATE_READ);
	}
	return 0;
}

static void touch_stack(void)
{
	volatile uint8_t stack[STACK_BYTES];

	for (size_t at = 0; at < sizeof(stack); at += PAGE_BYTES)
		stack[at] = 0;
}

void warm_up(size_t heap_bytes)
{
	size_t n = heap_bytes / LARGEST_BLOCK_BYTES + 1;
	void **blocks = calloc(n, sizeof(*blocks));

	mallopt(M_ARENA_MAX, 1); /* a thread's own would be cold */
	mallopt(M_MMAP_THRESHOLD, 2 * LARGEST_BLOCK_BYTES);
	mallopt(M_TRIM_THRESHOLD, (int)(2 * n * LARGEST_BLOCK_BYTES));
	for (size_t i = 0; blocks && i < n; i++) {
		volatile uint8_t *block = malloc(LARGEST_BLOCK_BYTES);

		for (size_t at = 0; block && at < LARGEST_BLOCK_BYTES; at += PAGE_BYTES)
			block[at] = 0;
		blocks[i] = (void *)block;
	}
	for (size_t i = 0; blocks && i < n; i++)
		free(blocks[i]);
	free(blocks);
	touch_stack();
	(void)dl_iterate_phdr(map_code, NULL);
}

static void own(uint64_t start, uint64_t end)
{
	if (start < end)
		(void)madvise((void *)start, end - start, MADV_POPULATE_WRITE);
}

/* The pages of an area that are there, run by run. */
static void own_area(int pagemap, uint64_t start, uint64_t end)
{
	uint64_t entries[PAGEMAP_ENTRIES], from = end;

	for (uint64_t at = start; at < end;) {
		size_t n = MIN((end - at) / PAGE_BYTES, (uint64_t)PAGEMAP_ENTRIES);
		ssize_t got = pread(pagemap, entries, n * sizeof(entries[0]),
				    (off_t)(at / PAGE_BYTES * sizeof(entries[0])));

		if (got <= 0)
			return;
		n = (size_t)got / sizeof(entries[0]);
		for (size_t i = 0; i < n; i++, at += PAGE_BYTES) {
			if (!(entries[i] & PAGEMAP_PRESENT)) {
				own(from, at);
				from = end;
			} else if (from == end) {
				from = at;
			}
		}
	}
	own(from, end);
}

void warm_again(void)
{
	cleanup_close int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	cleanup_free char *maps = NULL;
	char *rest = NULL;

	if (pagemap < 0 || io_read_filef(&maps, NULL, "/proc/self/maps") < 0)
		return;
	for (char *line = strtok_r(maps, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned long start, end;
		char mode[5];

		if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) == 3 &&
		    strncmp(mode, "rw", 2) == 0 && mode[3] == 'p' &&
		    end - start <= LARGEST_AREA_BYTES)
			own_area(pagemap, start, end);
	}
}

void warm_descriptors(int n)
{
	int last = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, n - 1);

	if (last >= 0)
		close(last);
}

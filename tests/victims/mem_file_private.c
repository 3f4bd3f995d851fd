// SPDX-License-Identifier: Apache-2.0
// Private file mappings: pages that were written are the task's own, the others are the file's; with
// offsets, protections, an executable one, and one that reaches past the end of its file.
#include "victim.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 16

static sigjmp_buf after_fault;

static void on_fault(int sig)
{
	siglongjmp(after_fault, sig);
}

static char *map_file(int fd, size_t pages, int prot, size_t first_page)
{
	char *ptr = mmap(NULL, pages * VICTIM_PAGE, prot, MAP_PRIVATE, fd, first_page * VICTIM_PAGE);

	CHECK(ptr != MAP_FAILED, "mmap: %s", strerror(errno));
	return ptr;
}

int main(int argc, char **argv)
{
	char *whole, *part, *read_only, *code, *past, *lines[5], *now;
	char **const areas[5] = {&whole, &part, &read_only, &code, &past};
	char page[VICTIM_PAGE];
	int fd;

	victim_start(argc, argv);
	fd = MUST(open(victim_path("mapped"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	for (int i = 0; i < PAGES; i++) {
		victim_fill(page, sizeof(page), i);
		MUST(write(fd, page, sizeof(page)));
	}
	whole = map_file(fd, PAGES, PROT_READ | PROT_WRITE, 0);
	part = map_file(fd, 4, PROT_READ | PROT_WRITE, 6);
	read_only = map_file(fd, 2, PROT_READ | PROT_WRITE, 1);
	code = map_file(fd, 1, PROT_READ | PROT_EXEC, 3);
	past = map_file(fd, 4, PROT_READ | PROT_WRITE, PAGES - 2);
	close(fd);
	for (int i = 0; i < PAGES; i += 3)
		victim_fill(whole + i * VICTIM_PAGE, VICTIM_PAGE, 100 + i);
	victim_fill(part + VICTIM_PAGE, VICTIM_PAGE, 200);
	victim_fill(read_only, VICTIM_PAGE, 300);
	victim_fill(past + VICTIM_PAGE, VICTIM_PAGE, 400);
	MUST(mprotect(read_only, 2 * VICTIM_PAGE, PROT_READ));
	for (int i = 0; i < 5; i++)
		lines[i] = victim_maps_line(*areas[i]);
	victim_ready();
	victim_wait();
	for (int i = 0; i < 5; i++) {
		now = victim_maps_line(*areas[i]);
		CHECK(now && victim_same_area(lines[i], now), "maps: was '%s', is '%s'", lines[i],
		      now);
	}
	for (int i = 0; i < PAGES; i++)
		CHECK(victim_check(whole + i * VICTIM_PAGE, VICTIM_PAGE, i % 3 ? i : 100 + i) < 0,
		      "page %d", i);
	CHECK(victim_check(part + VICTIM_PAGE, VICTIM_PAGE, 200) < 0, "written page of a part");
	CHECK(victim_check(part + 2 * VICTIM_PAGE, VICTIM_PAGE, 8) < 0, "file page of a part");
	CHECK(victim_check(read_only, VICTIM_PAGE, 300) < 0, "read-only, written before");
	CHECK(victim_check(read_only + VICTIM_PAGE, VICTIM_PAGE, 2) < 0, "read-only, the file's");
	CHECK(victim_check(code, VICTIM_PAGE, 3) < 0, "executable page");
	CHECK(victim_check(past + VICTIM_PAGE, VICTIM_PAGE, 400) < 0, "last page of the file");
	signal(SIGBUS, on_fault);
	if (sigsetjmp(after_fault, 1) == 0) {
		*(volatile char *)(past + 2 * VICTIM_PAGE);
		CHECK(false, "no SIGBUS past the end of the file");
	}
	// A write does not reach the file.
	fd = MUST(open(victim_path("mapped"), O_RDONLY));
	for (int i = 0; i < PAGES; i++) {
		MUST(read(fd, page, sizeof(page)));
		CHECK(victim_check(page, sizeof(page), i) < 0, "file was changed at page %d", i);
	}
	victim_pass();
}

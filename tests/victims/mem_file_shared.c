// SPDX-License-Identifier: Apache-2.0
// Shared file mappings of two processes: what one writes, the other and the file see. One mapping
// is read-only from a read-only descriptor and cannot be made writable.
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 8

static char *shared, *read_only;
static volatile int *flags;

static void child(void *arg)
{
	victim_wait();
	CHECK(victim_check(shared + VICTIM_PAGE, VICTIM_PAGE, 1) < 0, "page written before");
	victim_fill(shared + 4 * VICTIM_PAGE, VICTIM_PAGE, 444);
	flags[0] = 1;
}

int main(int argc, char **argv)
{
	char page[VICTIM_PAGE], *line, *now;
	pid_t pid;
	int fd;

	victim_start(argc, argv);
	fd = MUST(open(victim_path("shared"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	MUST(ftruncate(fd, PAGES * VICTIM_PAGE - 100));
	shared = mmap(NULL, PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(shared != MAP_FAILED, "mmap: %s", strerror(errno));
	close(fd);
	fd = MUST(open(victim_path("shared"), O_RDONLY));
	read_only = mmap(NULL, 2 * VICTIM_PAGE, PROT_READ, MAP_SHARED, fd, VICTIM_PAGE);
	CHECK(read_only != MAP_FAILED, "mmap: %s", strerror(errno));
	close(fd);
	flags = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	victim_fill(shared + VICTIM_PAGE, VICTIM_PAGE, 1);
	line = victim_maps_line(read_only);
	pid = victim_fork(child, NULL);
	victim_ready();
	victim_wait();
	victim_reap(pid);
	CHECK(flags[0] == 1, "child's word is not seen");
	CHECK(victim_check(shared + 4 * VICTIM_PAGE, VICTIM_PAGE, 444) < 0, "child's page");
	CHECK(victim_check(read_only, VICTIM_PAGE, 1) < 0, "read-only view");
	now = victim_maps_line(read_only);
	CHECK(now && victim_same_area(line, now), "maps: was '%s', is '%s'", line, now);
	CHECK(mprotect(read_only, VICTIM_PAGE, PROT_READ | PROT_WRITE) < 0,
	      "a mapping of a read-only descriptor was made writable");
	fd = MUST(open(victim_path("shared"), O_RDONLY));
	MUST(pread(fd, page, sizeof(page), 4 * VICTIM_PAGE));
	CHECK(victim_check(page, sizeof(page), 444) < 0, "child's page is not in the file");
	CHECK(lseek(fd, 0, SEEK_END) == PAGES * VICTIM_PAGE - 100, "size of the file");
	victim_pass();
}

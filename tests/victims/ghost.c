// SPDX-License-Identifier: Apache-2.0
// Deleted files that are still open or mapped: small, big, sparse, empty, opened twice, only mapped;
// their content, holes, size and mode are kept.
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BIG_PAGES 64
#define SPARSE_SIZE (8L << 20)

static int make(const char *name, int flags, mode_t mode)
{
	int fd = MUST(open(victim_path(name), O_CREAT | O_TRUNC | flags, 0600));

	MUST(fchmod(fd, mode));
	return fd;
}

static void check_fd(int fd, const char *name, off_t size, mode_t mode, off_t offset)
{
	struct stat st;

	MUST(fstat(fd, &st));
	CHECK(st.st_size == size, "%s: size was %ld, is %ld", name, (long)size, (long)st.st_size);
	CHECK((st.st_mode & 07777) == mode, "%s: mode was %o, is %o", name, mode, st.st_mode & 07777);
	CHECK(st.st_nlink == 0, "%s: is not deleted any more", name);
	CHECK(lseek(fd, 0, SEEK_CUR) == offset, "%s: offset is %ld", name,
	      (long)lseek(fd, 0, SEEK_CUR));
	CHECK(access(victim_path(name), F_OK) < 0, "%s: the name is back", name);
}

int main(int argc, char **argv)
{
	int small, again, big, sparse, empty, gone_fd;
	char page[VICTIM_PAGE], first[1];
	char *mapped, *gone;
	struct stat st;

	victim_start(argc, argv);
	small = make("small", O_RDWR, 0640);
	MUST(write(small, "small ghost", 11));
	MUST(lseek(small, 6, SEEK_SET));
	again = MUST(open(victim_path("small"), O_RDONLY));
	big = make("big", O_RDWR, 0600);
	for (int i = 0; i < BIG_PAGES; i++) {
		victim_fill(page, sizeof(page), i);
		MUST(write(big, page, sizeof(page)));
	}
	sparse = make("sparse", O_RDWR, 0604);
	MUST(ftruncate(sparse, SPARSE_SIZE));
	MUST(pwrite(sparse, page, sizeof(page), SPARSE_SIZE / 2));
	empty = make("empty", O_WRONLY | O_APPEND, 0200);
	mapped = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, big, 5 * VICTIM_PAGE);
	CHECK(mapped != MAP_FAILED, "mmap: %s", strerror(errno));
	gone_fd = make("gone", O_RDWR, 0600);
	MUST(write(gone_fd, "only mapped", 11));
	gone = mmap(NULL, VICTIM_PAGE, PROT_READ, MAP_PRIVATE, gone_fd, 0);
	CHECK(gone != MAP_FAILED, "mmap: %s", strerror(errno));
	close(gone_fd);
	for (const char *const *name =
		     (const char *const[]){"small", "big", "sparse", "empty", "gone", NULL};
	     *name; name++)
		MUST(unlink(victim_path(*name)));
	victim_ready();
	victim_wait();
	check_fd(small, "small", 11, 0640, 6);
	check_fd(again, "small", 11, 0640, 0);
	check_fd(big, "big", BIG_PAGES * VICTIM_PAGE, 0600, BIG_PAGES * VICTIM_PAGE);
	check_fd(sparse, "sparse", SPARSE_SIZE, 0604, 0);
	check_fd(empty, "empty", 0, 0200, 0);
	MUST(pread(small, page, 11, 0));
	CHECK(memcmp(page, "small ghost", 11) == 0, "content of the small one");
	MUST(pwrite(small, "S", 1, 0));
	MUST(read(again, first, 1));
	CHECK(first[0] == 'S', "two descriptors, two files");
	for (int i = 0; i < BIG_PAGES; i++) {
		MUST(pread(big, page, sizeof(page), i * VICTIM_PAGE));
		CHECK(victim_check(page, sizeof(page), i) < 0, "page %d of the big one", i);
	}
	MUST(pread(sparse, page, sizeof(page), SPARSE_SIZE / 2));
	CHECK(victim_check(page, sizeof(page), BIG_PAGES - 1) < 0, "content of the sparse one");
	MUST(fstat(sparse, &st));
	CHECK(st.st_blocks * 512 < SPARSE_SIZE / 4, "the sparse one has no holes any more");
	mapped[0] = 'M';
	MUST(pread(big, page, 1, 5 * VICTIM_PAGE));
	CHECK(page[0] == 'M', "mapping and descriptor are two files");
	CHECK(memcmp(gone, "only mapped", 11) == 0, "the one that is only mapped");
	victim_pass();
}

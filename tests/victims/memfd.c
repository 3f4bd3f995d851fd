// SPDX-License-Identifier: Apache-2.0
// memfds: name, seals, size, offset, holes, shared and private mappings, one that only a mapping
// keeps alive, one shared by two processes.
#include "victim.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char *shared;
static int plain_fd;

static char *map_fd(int fd, size_t pages, int flags)
{
	char *ptr = mmap(NULL, pages * VICTIM_PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	CHECK(ptr != MAP_FAILED, "mmap: %s", strerror(errno));
	return ptr;
}

static void child(void *arg)
{
	victim_wait();
	victim_fill(shared + 3 * VICTIM_PAGE, VICTIM_PAGE, 33);
	MUST(lseek(plain_fd, 1234, SEEK_SET));
}

static void check_name(int fd, const char *want)
{
	char path[64], link[PATH_MAX] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	MUST(readlink(path, link, sizeof(link) - 1));
	CHECK(strcmp(link, want) == 0, "link was %s, is %s", want, link);
}

int main(int argc, char **argv)
{
	char *private, *orphan, *page = malloc(VICTIM_PAGE);
	int sealed, seals;
	struct stat st;
	pid_t pid;

	victim_start(argc, argv);
	sealed = MUST(memfd_create("sealed one", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	victim_fill(page, VICTIM_PAGE, 1);
	MUST(write(sealed, page, 1000));
	MUST(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));

	plain_fd = MUST(memfd_create("plain", 0));
	MUST(ftruncate(plain_fd, 8 * VICTIM_PAGE + 17));
	MUST(fchmod(plain_fd, 0640));
	shared = map_fd(plain_fd, 9, MAP_SHARED);
	private = map_fd(plain_fd, 9, MAP_PRIVATE);
	victim_fill(shared + VICTIM_PAGE, VICTIM_PAGE, 11);
	victim_fill(private + 2 * VICTIM_PAGE, VICTIM_PAGE, 22);
	MUST(lseek(plain_fd, 777, SEEK_SET));

	int gone = MUST(memfd_create("gone", MFD_CLOEXEC));
	MUST(ftruncate(gone, 3 * VICTIM_PAGE));
	orphan = map_fd(gone, 3, MAP_SHARED);
	victim_fill(orphan + VICTIM_PAGE, VICTIM_PAGE, 44);
	close(gone);

	pid = victim_fork(child, NULL);
	victim_ready();
	victim_wait();
	CHECK(lseek(plain_fd, 0, SEEK_CUR) == 777 || lseek(plain_fd, 0, SEEK_CUR) == 1234,
	      "offset is %ld", (long)lseek(plain_fd, 0, SEEK_CUR));
	victim_reap(pid);
	check_name(sealed, "/memfd:sealed one (deleted)");
	check_name(plain_fd, "/memfd:plain (deleted)");
	seals = MUST(fcntl(sealed, F_GET_SEALS));
	CHECK(seals == (F_SEAL_WRITE | F_SEAL_SHRINK), "seals are %#x", seals);
	CHECK(fcntl(plain_fd, F_GET_SEALS) == F_SEAL_SEAL, "plain one can be sealed");
	CHECK(fcntl(sealed, F_GETFD) == FD_CLOEXEC, "close-on-exec is lost");
	CHECK(lseek(sealed, 0, SEEK_CUR) == 1000, "offset of the sealed one");
	MUST(pread(sealed, page, 1000, 0));
	CHECK(victim_check(page, 1000, 1) < 0, "content of the sealed one");
	MUST(fstat(plain_fd, &st));
	CHECK(st.st_size == 8 * VICTIM_PAGE + 17 && (st.st_mode & 07777) == 0640,
	      "size %ld mode %o", (long)st.st_size, st.st_mode);
	CHECK(lseek(plain_fd, 0, SEEK_CUR) == 1234, "offset is not shared any more");
	CHECK(victim_check(shared + VICTIM_PAGE, VICTIM_PAGE, 11) < 0, "shared mapping");
	CHECK(victim_check(shared + 3 * VICTIM_PAGE, VICTIM_PAGE, 33) < 0, "child's write");
	CHECK(victim_check(private + VICTIM_PAGE, VICTIM_PAGE, 11) < 0, "private, not written");
	CHECK(victim_check(private + 2 * VICTIM_PAGE, VICTIM_PAGE, 22) < 0, "private, written");
	CHECK(shared[2 * VICTIM_PAGE] == 0, "private write went to the file");
	CHECK(victim_check(orphan + VICTIM_PAGE, VICTIM_PAGE, 44) < 0, "without descriptor");
	CHECK(orphan[0] == 0, "hole of the one without descriptor");
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// An open file whose name was deleted while another hard link to it remains: needs --link-remap.

#include "victim.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char text[16] = "";
	struct stat st, other;
	int fd;

	victim_start(argc, argv);
	fd = MUST(open(victim_path("first-name"), O_RDWR | O_CREAT | O_TRUNC, 0644));
	MUST(write(fd, "two names", 9));
	unlink(victim_path("second-name"));
	MUST(link(victim_path("first-name"), victim_path("second-name")));
	MUST(unlink(victim_path("first-name")));
	victim_ready();
	victim_wait();
	MUST(pread(fd, text, 9, 0));
	CHECK(strcmp(text, "two names") == 0, "content is %s", text);
	CHECK(lseek(fd, 0, SEEK_CUR) == 9, "offset");
	MUST(fstat(fd, &st));
	MUST(stat(victim_path("second-name"), &other));
	CHECK(st.st_ino == other.st_ino, "it is not the file of the second name any more");
	// A dump that leaves it running keeps one more name: the images need it.
	CHECK(st.st_nlink <= 2, "it has %ld links", (long)st.st_nlink);
	victim_pass();
}

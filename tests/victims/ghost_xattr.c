// SPDX-License-Identifier: Apache-2.0
// The extended attributes of a deleted file that is still open.
#include "victim.h"

#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char value[32] = "";
	int fd;

	victim_start(argc, argv);
	fd = MUST(open(victim_path("marked"), O_CREAT | O_RDWR, 0600));
	MUST(write(fd, "content", 7));
	if (fsetxattr(fd, "user.mark", "on it", 5, 0) || fsetxattr(fd, "user.empty", "", 0, 0))
		victim_skip("no extended attributes here: %s", strerror(errno));
	MUST(unlink(victim_path("marked")));
	victim_ready();
	victim_wait();
	CHECK(fgetxattr(fd, "user.mark", value, sizeof(value)) == 5 && memcmp(value, "on it", 5) == 0,
	      "the attribute is '%s'", value);
	CHECK(fgetxattr(fd, "user.empty", value, sizeof(value)) == 0, "the empty one: %s",
	      strerror(errno));
	MUST(pread(fd, value, 7, 0));
	CHECK(memcmp(value, "content", 7) == 0, "the content is '%.7s'", value);
	victim_pass();
}

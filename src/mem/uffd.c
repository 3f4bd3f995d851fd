// SPDX-License-Identifier: Apache-2.0
#include "mem/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

int uffd_handshake(int uffd, uint64_t features, struct err *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};

	if (ioctl(uffd, UFFDIO_API, &api) == 0)
		return 0;
	return err_sys(err, "cannot use a userfaultfd%s",
		       features & UFFD_FEATURE_EVENT_FORK && errno == EPERM ?
			       " (following forks needs CAP_SYS_PTRACE)" :
			       "");
}

int uffd_register(int uffd, uint64_t start, uint64_t bytes)
{
	struct uffdio_register reg = {.range = {start, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

/* What the kernel says of a range that no area can hold. */
static int try_nowhere(int uffd)
{
	struct uffdio_zeropage z = {.range = {0x10000, 0x7f0000000000}};

	return ioctl(uffd, UFFDIO_ZEROPAGE, &z) == 0 ? 0 : errno;
}

/* EAGAIN comes before the range is looked at. */
bool uffd_is_changing(int uffd)
{
	return try_nowhere(uffd) == EAGAIN;
}

/*
 * ENOENT as long as there is a space, else ESRCH (ENOSPC before Linux 4.11). EINVAL: there was no
 * handshake, so no area is registered either.
 */
bool uffd_space_lives(int uffd)
{
	int no = try_nowhere(uffd);

	return no != ESRCH && no != ENOSPC && no != EINVAL;
}

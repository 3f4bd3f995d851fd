// SPDX-License-Identifier: Apache-2.0
// Unix sockets with abstract names, which contain zero bytes.
#include "unix_named.h"
#include "victim.h"

#include <stdio.h>

static socklen_t abstract_address(struct sockaddr_un *address, const char *name)
{
	int len;

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	len = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "%s%cx",
		       victim_path(name), 0);
	return offsetof(struct sockaddr_un, sun_path) + 1 + len;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	unix_named_run(abstract_address);
}

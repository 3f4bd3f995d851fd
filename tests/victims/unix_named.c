// SPDX-License-Identifier: Apache-2.0
// Unix sockets with path names.
#include "unix_named.h"
#include "victim.h"

#include <stdio.h>

static socklen_t path_address(struct sockaddr_un *address, const char *name)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof(address->sun_path), "%s", victim_path(name));
	return offsetof(struct sockaddr_un, sun_path) + strlen(address->sun_path) + 1;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	unix_named_run(path_address);
}

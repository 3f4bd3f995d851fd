// SPDX-License-Identifier: Apache-2.0
/*
 * Sockets of families that cannot be carried: claimed to be refused by name.
 */
#include "kinds/fd/fd.h"
#include "kinds/sockopt.h"

#include <errno.h>
#include <sys/socket.h>

static const struct {
	int family;
	const char *name, *reason;
} families[] = {
	{AF_NETLINK, "netlink", "support comes in a later release"},
	{AF_PACKET, "packet", "support comes in a later release"},
	{AF_VSOCK, "vsock", "it belongs to this virtual machine"},
	{AF_ALG, "crypto (AF_ALG)", "its state cannot be read from outside"},
	{AF_XDP, "AF_XDP", "its rings belong to a network device of this machine"},
	{AF_CAN, "CAN", "support comes in a later release"},
	{AF_BLUETOOTH, "bluetooth", "it belongs to a device of this machine"},
	{AF_TIPC, "TIPC", "not supported"},
};

static bool othersock_claims(const struct capture *c, const struct fd_facts *f)
{
	return S_ISSOCK(f->st.st_mode);
}

static int othersock_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	int family = sockopt_int(f->own, SOL_SOCKET, SO_DOMAIN);

	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		if (families[i].family == family)
			return err_set(err, ENOTSUP, "%s socket: %s", families[i].name,
				       families[i].reason);
	return err_set(err, ENOTSUP, "socket of family %d: not supported", family);
}

static int othersock_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	return othersock_allowed(c, f, err);
}

static int othersock_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	return err_set(err, ENOTSUP, "sockets of this family cannot be restored");
}

const struct fd_kind othersock_kind = {
	.name = "socket",
	.type = FD_TYPES__UND,
	.claims = othersock_claims,
	.allowed = othersock_allowed,
	.capture = othersock_capture,
	.open = othersock_open,
};

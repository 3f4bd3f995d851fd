// SPDX-License-Identifier: Apache-2.0
#include "cmd/ps_args.h"

#include "base/io.h"
#include "kernel/proc.h"
#include "wire/tcp.h"

#include <errno.h>
#include <fcntl.h>

enum { CONNECT_MS = 10000 };

int ps_args_check(const struct ps_args *args, struct err *err)
{
	if (tls_args_check(&args->tls, err))
		return -1;
	if (!args->use) {
		if (args->socket != NO_SOCKET)
			return err_set(err, 0, "--ps-socket makes sense with --page-server only");
		return 0;
	}
	if (args->socket != NO_SOCKET) {
		if (args->address || args->port)
			return err_set(err, 0,
				       "--ps-socket excludes --address and --port: it is connected");
		if (args->tls.on && !args->tls.no_name_check)
			return err_set(err, 0,
				       "--ps-socket with --tls needs --tls-no-cn-verify: there is no "
				       "name that the server's certificate could be compared with");
		return 0;
	}
	if (!args->port)
		return err_set(err, 0, "--page-server needs --port");
	return 0;
}

int ps_given_socket(uint64_t fd, struct err *err)
{
	socklen_t len = sizeof(int);
	int type;

	if (getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return err_sys(err, "--ps-socket: descriptor %d", (int)fd);
	if (type != SOCK_STREAM)
		return err_set(err, EINVAL, "--ps-socket: descriptor %d is not a stream socket",
			       (int)fd);
	if (fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "--ps-socket: descriptor %d", (int)fd);
	return (int)fd;
}

/* Anonymous pages of a process, about; its pid in its own namespace. Zombies have none. */
static int look_at(pid_t pid, struct ps_object *object, uint64_t *pages, struct err *err)
{
	struct proc_status st;

	if (proc_status(pid, &st, err))
		return -1;
	*object = (struct ps_object){.id = (uint64_t)(st.nspid.n ? st.nspid.v[st.nspid.n - 1] : pid)};
	proc_status_finish(&st);
	*pages = proc_private_pages(pid);
	return 0;
}

static int announce(struct ps_client *c, pid_t root, struct err *err)
{
	proc_pids pids = {0};
	struct ps_object object;
	uint64_t pages;
	bool has_parent;
	int rc;

	if (proc_tree(root, &pids, err))
		return -1;
	rc = 0;
	for (size_t i = 0; i < pids.n && rc == 0; i++) {
		if (look_at(pids.v[i], &object, &pages, err))
			continue; /* gone by now */
		rc = ps_client_announce(c, &object, pages, &has_parent, err);
	}
	vec_free(&pids);
	return rc;
}

int ps_args_connect(const struct ps_args *args, const struct tls *tls, pid_t root,
		    struct ps_client *out, struct err *err)
{
	bool given = args->socket != NO_SOCKET;
	const char *host = given ? NULL : args->address ? args->address : "127.0.0.1";
	struct tunnel *tunnel = NULL;
	int fd = given ? ps_given_socket(args->socket, err) :
			 tcp_connect(host, (uint16_t)args->port, CONNECT_MS, err);

	if (fd >= 0 && tls) {
		tunnel = tunnel_open(tls, fd, host, ps_cut, &fd, err);
		fd = tunnel ? fd : -1;
	}
	if (fd < 0)
		return err_wrap(err, "page server");
	ps_client_init(out, fd, tunnel, given);
	out->interrupted = signals_check;
	if (announce(out, root, err) == 0)
		return 0;
	ps_client_finish(out);
	return -1;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * sock_diag requests with libmnl. A request names one socket (by inode) or
 * asks for a dump; both kinds of answer pass through one receive loop.
 */
#include "kernel/diag.h"

#include "base/io.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <time.h>

enum {
	ANSWER_BYTES = 65536, /* the kernel fills at most 32 KiB per message of a dump */
	UNIX_SHOW = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS |
		    UDIAG_SHOW_RQLEN,
};

static void close_netlink(struct mnl_socket *const *nl)
{
	if (*nl)
		mnl_socket_close(*nl);
}

/*
 * Sends @request and feeds the answers to @parse. Returns 0 when the answer is
 * complete, or -1 with errno (ENOENT: no such socket).
 */
static int ask(const struct nlmsghdr *request, mnl_cb_t parse, void *arg)
{
	__attribute__((cleanup(close_netlink))) struct mnl_socket *nl = NULL;
	cleanup_free uint8_t *buf = malloc(ANSWER_BYTES);
	bool dump = request->nlmsg_flags & NLM_F_DUMP;
	ssize_t got;
	int ret = MNL_CB_OK;

	if (!buf)
		return -1;
	nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
		return -1;
	if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
		return -1;
	while (ret > MNL_CB_STOP) {
		got = mnl_socket_recvfrom(nl, buf, ANSWER_BYTES);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		ret = mnl_cb_run(buf, (size_t)got, request->nlmsg_seq, mnl_socket_get_portid(nl),
				 parse, arg);
		if (ret < 0)
			return -1;
		if (!dump)
			break;
	}
	return 0;
}

static uint32_t next_seq(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint32_t)now.tv_nsec | 1;
}

/* ---- unix ---- */

struct unix_walk {
	bool (*each)(const struct diag_unix *u, void *arg);
	void *arg;
	struct diag_unix *keep; /* instead of each: the one that was asked for */
	bool no_memory;
};

void diag_unix_finish(struct diag_unix *u)
{
	free(u->pending);
	u->pending = NULL;
	u->n_pending = 0;
}

static int copy_pending(struct diag_unix *u, const struct nlattr *attr)
{
	size_t bytes = mnl_attr_get_payload_len(attr);

	if (bytes < sizeof(uint32_t) || u->pending)
		return 0;
	u->pending = malloc(bytes);
	if (!u->pending)
		return -1;
	memcpy(u->pending, mnl_attr_get_payload(attr), bytes);
	u->n_pending = bytes / sizeof(uint32_t);
	return 0;
}

static int parse_unix_attr(struct diag_unix *u, const struct nlattr *attr)
{
	const void *data = mnl_attr_get_payload(attr);
	size_t bytes = mnl_attr_get_payload_len(attr);
	struct unix_diag_vfs vfs;
	struct unix_diag_rqlen rqlen;

	switch (mnl_attr_get_type(attr)) {
	case UNIX_DIAG_NAME:
		u->name_bytes = MIN(bytes, sizeof(u->name));
		memcpy(u->name, data, u->name_bytes);
		break;
	case UNIX_DIAG_VFS:
		if (bytes < sizeof(vfs))
			break;
		memcpy(&vfs, data, sizeof(vfs));
		u->has_vfs = true;
		u->vfs_ino = vfs.udiag_vfs_ino;
		/* the kernel's own encoding: 12 bits major, 20 bits minor */
		u->vfs_dev = makedev(vfs.udiag_vfs_dev >> 20, vfs.udiag_vfs_dev & 0xfffff);
		break;
	case UNIX_DIAG_PEER:
		if (bytes < sizeof(uint32_t))
			break;
		u->has_peer = true;
		memcpy(&u->peer, data, sizeof(u->peer));
		break;
	case UNIX_DIAG_ICONS:
		return copy_pending(u, attr);
	case UNIX_DIAG_RQLEN:
		if (bytes < sizeof(rqlen))
			break;
		memcpy(&rqlen, data, sizeof(rqlen));
		u->queue = rqlen.udiag_rqueue;
		u->backlog = rqlen.udiag_wqueue;
		break;
	case UNIX_DIAG_SHUTDOWN:
		if (bytes >= 1)
			u->shutdown = *(const uint8_t *)data;
		break;
	default:
		break;
	}
	return 0;
}

static int parse_unix(const struct nlmsghdr *nlh, void *arg)
{
	struct unix_walk *walk = arg;
	const struct unix_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;
	struct diag_unix u = {0};
	bool go_on;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*msg))
		return MNL_CB_OK;
	u.ino = msg->udiag_ino;
	u.type = msg->udiag_type;
	u.state = msg->udiag_state;
	mnl_attr_for_each(attr, nlh, sizeof(*msg))
	{
		if (parse_unix_attr(&u, attr)) {
			diag_unix_finish(&u);
			walk->no_memory = true;
			return MNL_CB_STOP;
		}
	}
	if (walk->keep) {
		*walk->keep = u;
		return MNL_CB_STOP;
	}
	go_on = walk->each(&u, walk->arg);
	diag_unix_finish(&u);
	return go_on ? MNL_CB_OK : MNL_CB_STOP;
}

static int ask_unix(uint32_t ino, uint16_t flags, struct unix_walk *walk)
{
	uint8_t buf[NLMSG_SPACE(sizeof(struct unix_diag_req))] = {0};
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct unix_diag_req *req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));

	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nlh->nlmsg_seq = next_seq();
	req->sdiag_family = AF_UNIX;
	req->udiag_states = ~0u;
	req->udiag_ino = ino;
	req->udiag_show = UNIX_SHOW;
	req->udiag_cookie[0] = req->udiag_cookie[1] = ~0u;
	return ask(nlh, parse_unix, walk);
}

int diag_unix_one(uint32_t ino, struct diag_unix *out, struct err *err)
{
	struct unix_walk walk = {.keep = out};

	memset(out, 0, sizeof(*out));
	if (ask_unix(ino, 0, &walk)) {
		if (errno == ENOENT)
			return 0;
		return err_sys(err, "cannot ask the kernel about unix socket %u (sock_diag)", ino);
	}
	if (walk.no_memory)
		return err_nomem(err);
	return 1;
}

int diag_unix_each(bool (*each)(const struct diag_unix *u, void *arg), void *arg, struct err *err)
{
	struct unix_walk walk = {.each = each, .arg = arg};

	if (ask_unix(0, NLM_F_DUMP, &walk))
		return err_sys(err, "cannot list unix sockets (sock_diag)");
	if (walk.no_memory)
		return err_nomem(err);
	return 0;
}

/* ---- internet ---- */

struct inet_walk {
	int protocol;
	uint16_t port;
	bool (*each)(const struct diag_inet *s, void *arg);
	void *arg;
};

static int parse_inet(const struct nlmsghdr *nlh, void *arg)
{
	struct inet_walk *walk = arg;
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attr;
	struct diag_inet s = {.protocol = walk->protocol};

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*msg))
		return MNL_CB_OK;
	s.family = msg->idiag_family;
	s.ino = msg->idiag_inode;
	s.state = msg->idiag_state;
	s.uid = msg->idiag_uid;
	s.ifindex = msg->id.idiag_if;
	s.src_port = ntohs(msg->id.idiag_sport);
	s.dst_port = ntohs(msg->id.idiag_dport);
	memcpy(&s.src, msg->id.idiag_src, sizeof(s.src));
	memcpy(&s.dst, msg->id.idiag_dst, sizeof(s.dst));
	s.queue = msg->idiag_rqueue;
	s.backlog = msg->idiag_wqueue;
	if (walk->port && s.src_port != walk->port)
		return MNL_CB_OK;
	mnl_attr_for_each(attr, nlh, sizeof(*msg))
	{
		if (mnl_attr_get_payload_len(attr) < 1)
			continue;
		if (mnl_attr_get_type(attr) == INET_DIAG_SHUTDOWN)
			s.shutdown = mnl_attr_get_u8(attr);
		else if (mnl_attr_get_type(attr) == INET_DIAG_SKV6ONLY)
			s.v6only = mnl_attr_get_u8(attr);
		else if (mnl_attr_get_type(attr) == INET_DIAG_MD5SIG)
			s.has_keys = true;
	}
	return walk->each(&s, walk->arg) ? MNL_CB_OK : MNL_CB_STOP;
}

int diag_inet_each(int family, int protocol, uint32_t states, uint16_t port,
		   bool (*each)(const struct diag_inet *s, void *arg), void *arg, struct err *err)
{
	uint8_t buf[NLMSG_SPACE(sizeof(struct inet_diag_req_v2))] = {0};
	struct inet_walk walk = {.protocol = protocol, .port = port, .each = each, .arg = arg};
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct inet_diag_req_v2 *req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));

	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = next_seq();
	req->sdiag_family = (uint8_t)family;
	req->sdiag_protocol = (uint8_t)protocol;
	req->idiag_states = states;
	/* keys come with the TCP_INFO only (net/ipv4/inet_diag.c) */
	if (protocol == IPPROTO_TCP)
		req->idiag_ext = 1 << (INET_DIAG_INFO - 1);
	req->id.idiag_sport = htons(port);
	/* a kernel without the protocol's handler answers ENOENT: then it has no such sockets either */
	if (ask(nlh, parse_inet, &walk) && errno != ENOENT)
		return err_sys(err, "cannot list sockets of family %d, protocol %d (sock_diag)",
			       family, protocol);
	return 0;
}

/* ---- owners ---- */

static bool task_holds(const char *pid, const char *link)
{
	cleanup_dir DIR *fds = NULL;
	char path[300], target[64];
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	fds = opendir(path);
	while (fds && (entry = readdir(fds)))
		if (entry->d_name[0] != '.' &&
		    !io_readlinkf(target, sizeof(target), "/proc/%s/fd/%s", pid, entry->d_name) &&
		    strcmp(target, link) == 0)
			return true;
	return false;
}

void diag_owner(uint32_t ino, char *text, size_t size)
{
	cleanup_dir DIR *proc = opendir("/proc");
	struct dirent *entry;
	char link[32];

	snprintf(link, sizeof(link), "socket:[%u]", ino);
	while (proc && (entry = readdir(proc))) {
		cleanup_free char *comm = NULL;

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
		    !task_holds(entry->d_name, link))
			continue;
		if (io_read_filef(&comm, NULL, "/proc/%s/comm", entry->d_name))
			snprintf(text, size, "pid %s", entry->d_name);
		else
			snprintf(text, size, "pid %s (%.*s)", entry->d_name,
				 (int)strcspn(comm, "\n"), comm);
		return;
	}
	snprintf(text, size, "a process that cannot be seen from here");
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel looks the sender's name up in the sender's socket when the message
 * is read, also if that has been closed. So a message is sent again through a
 * socket that has the name: one that is bound to it for a moment, without a file,
 * or, where the name is taken, the socket of the tree that has taken it.
 *
 * Credentials are a control message, in which root may name any user but only
 * processes that exist. The sender's need not any more, or not yet: then a child
 * of ours is made under its number, and ends at once; a process that nobody has
 * collected yet exists. (In a pid namespace that is still to be made it cannot be
 * there; readers will see pid 0.)
 */
#define LOG_MODULE "unix"
#include "kinds/fd/unixsender.h"

#include "base/log.h"
#include "kinds/broker.h"
#include "kinds/fd/fd.h"
#include "kinds/sockopt.h"
#include "kinds/sockpath.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NO_USER = 65534 }; /* what the kernel shows of a sender that it does not know */

/* ---- capture ---- */

ssize_t unixsender_peek(int fd, void *buf, size_t bytes, int flags, bool passcred,
			struct unixsender_note *note)
{
	note->iov = (struct iovec){.iov_base = buf, .iov_len = bytes};
	note->msg = (struct msghdr){
		.msg_name = &note->name,
		.msg_namelen = sizeof(note->name),
		.msg_iov = &note->iov,
		.msg_iovlen = 1,
	};
	if (passcred) {
		note->msg.msg_control = &note->control;
		/* no room for anything behind the credentials, such as a descriptor */
		note->msg.msg_controllen = CMSG_LEN(sizeof(struct ucred));
	}
	return recvmsg(fd, &note->msg, flags | MSG_PEEK | MSG_DONTWAIT);
}

/* The number that the tree knows a process by. */
static pid_t image_pid(const struct capture *c, pid_t real)
{
	const struct task_facts *root = c->tasks.n ? c->tasks.v[0] : NULL;
	pid_t virt = capture_virt_pid(c, real);

	if (virt || !root || root->pid != root->vpid)
		return virt;
	return real;
}

static void save_credentials(const struct capture *c, const struct ucred *cred, SkPacketEntry *entry)
{
	if (cred->pid == 0 && cred->uid == NO_USER)
		return; /* it was sent when nobody had asked for them */
	entry->has_ferry_pid = entry->has_ferry_uid = entry->has_ferry_gid = true;
	entry->ferry_pid = (uint32_t)image_pid(c, cred->pid);
	entry->ferry_uid = cred->uid;
	entry->ferry_gid = cred->gid;
}

int unixsender_save(struct capture *c, const struct unixsender_note *note, SkPacketEntry *entry,
		    struct err *err)
{
	struct msghdr msg = note->msg;
	const struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	size_t len = MIN((size_t)msg.msg_namelen, sizeof(note->name));
	struct ucred cred;

	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_CREDENTIALS) {
		memcpy(&cred, CMSG_DATA(cmsg), sizeof(cred));
		save_credentials(c, &cred, entry);
	}
	if (len <= offsetof(struct sockaddr_un, sun_path))
		return 0;
	entry->has_ferry_sender = true;
	entry->ferry_sender.len = len - offsetof(struct sockaddr_un, sun_path);
	entry->ferry_sender.data = arena_dup(&c->snap->arena, note->name.sun_path,
					     entry->ferry_sender.len);
	return entry->ferry_sender.data ? 0 : err_nomem(err);
}

/* ---- restore: the process ---- */

static void leave_pid(struct unixsender *s)
{
	if (s->pid > 0)
		waitpid(s->pid, NULL, __WALL);
	s->pid = 0;
}

/* Is there a process of this number, if need be for as long as @s says? */
static bool stand_for(struct unixsender *s, pid_t pid)
{
	struct clone_args args = {.set_tid = (uintptr_t)&pid, .set_tid_size = 1};
	long child;

	if (s->pid == pid || syscall(SYS_kill, pid, 0) == 0)
		return true;
	leave_pid(s);
	child = syscall(SYS_clone3, &args, sizeof(args));
	if (child == 0)
		_exit(0);
	if (child < 0)
		return false;
	s->pid = (pid_t)child;
	return true;
}

/* The credentials of @entry as a control message at the end of those of @msg, which have room for it. */
static void put_credentials(struct restore *r, struct unixsender *s, const SkPacketEntry *entry,
			    struct msghdr *msg)
{
	struct ucred cred = {.pid = (pid_t)entry->ferry_pid,
			     .uid = entry->ferry_uid,
			     .gid = entry->ferry_gid};
	struct cmsghdr *cmsg = (struct cmsghdr *)((uint8_t *)msg->msg_control + msg->msg_controllen);

	if (r->pid_ns || cred.pid <= 0 || !stand_for(s, cred.pid)) {
		log_warn("a message in a unix socket's queue was sent by pid %d, which is not to be had "
			 "here: its reader will see another one",
			 cred.pid);
		cred.pid = getpid();
	}
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_CREDENTIALS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(cred));
	memcpy(CMSG_DATA(cmsg), &cred, sizeof(cred));
	msg->msg_controllen += CMSG_SPACE(sizeof(cred));
}

/* ---- restore: the name ---- */

static bool has_name(int fd, const ProtobufCBinaryData *name)
{
	struct sockaddr_un addr = {0};
	socklen_t len = sizeof(addr);

	return getsockname(fd, (struct sockaddr *)&addr, &len) == 0 &&
	       len == offsetof(struct sockaddr_un, sun_path) + name->len &&
	       memcmp(addr.sun_path, name->data, name->len) == 0;
}

/* The socket of the tree that owns an abstract name, or -1. */
static int owner_of(struct restore *r, const ProtobufCBinaryData *name, struct err *err)
{
	vec_foreach (it, &r->snap->files) {
		const UnixSkEntry *u = (*it)->usk;

		if (u && u->type == SOCK_DGRAM && u->name.len == name->len &&
		    memcmp(u->name.data, name->data, name->len) == 0 && broker_has(r, u->id))
			return broker_fd(r, u->id, err);
	}
	return -1;
}

static void leave_name(struct unixsender *s)
{
	if (s->named > 0)
		close(s->named);
	s->named = 0;
	s->name_bytes = 0;
}

/* A datagram socket of ours with this name; -1 with @err if it cannot be. */
static int take_name(struct unixsender *s, const ProtobufCBinaryData *name, struct err *err)
{
	static const struct sockpath_place anywhere;
	int fd, rc;

	if (s->named > 0 && s->name_bytes == name->len && !memcmp(s->name, name->data, name->len))
		return s->named;
	leave_name(s);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, "cannot make a unix socket");
	rc = sockpath_is_path(name->data, name->len) ?
		     sockpath_bind_hidden(fd, name->data, name->len, err) :
		     sockpath_bind(fd, name->data, name->len, &anywhere, err);
	if (rc) {
		close(fd);
		return -1;
	}
	sockopt_grow_sndbuf(fd, 0);
	s->named = fd;
	memcpy(s->name, name->data, name->len);
	s->name_bytes = name->len;
	return fd;
}

/* Sends through a socket with the sender's name. -1 with @err if there is none that may. */
static ssize_t send_named(struct restore *r, struct unixsender *s, const SkPacketEntry *entry,
			  struct msghdr *msg, struct err *err)
{
	cleanup_close int file = -1;
	struct sockaddr_un to;
	socklen_t len;
	ssize_t sent;
	int fd = owner_of(r, &entry->ferry_sender, err);

	if (fd < 0)
		fd = take_name(s, &entry->ferry_sender, err);
	if (fd < 0 || sockpath_address(s->receiver, &to, &len, &file, err))
		return -1;
	msg->msg_name = &to;
	msg->msg_namelen = len;
	sent = sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	msg->msg_name = NULL;
	msg->msg_namelen = 0;
	return sent < 0 ? err_sys(err, "cannot send a message in the name of another socket") : sent;
}

ssize_t unixsender_send(struct restore *r, struct unixsender *s, const SkPacketEntry *entry,
			struct msghdr *msg, struct err *err)
{
	char text[128];
	ssize_t sent;

	if (entry->ferry_sender.len > sizeof(s->name))
		return err_set(err, EINVAL, "a message from a socket with an impossible name");
	if (entry->has_ferry_uid)
		put_credentials(r, s, entry, msg);
	if (entry->ferry_sender.len && !has_name(s->usual, &entry->ferry_sender)) {
		sent = s->receiver < 0 ? -1 : send_named(r, s, entry, msg, err);
		if (sent >= 0 || (s->receiver >= 0 && err->no == EAGAIN))
			return sent;
		log_warn("a message in a unix socket's queue was sent by %s; its reader will not see "
			 "that: %s",
			 sockpath_text(entry->ferry_sender.data, entry->ferry_sender.len, text,
				       sizeof(text)),
			 s->receiver < 0 ? "the socket has another peer now" : err->text);
	}
	sent = sendmsg(s->usual, msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	return sent < 0 ? err_sys(err, "cannot fill the receive queue") : sent;
}

void unixsender_finish(struct unixsender *s)
{
	leave_name(s);
	leave_pid(s);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What kinds ask of the two structs of kind.h: ids, owners, fdinfo lines,
 * options. Nothing here knows any kind.
 */
#include "kinds/kind.h"

#define LOG_MODULE "kinds"
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

pid_t capture_virt_pid(const struct capture *c, pid_t real)
{
	vec_foreach (it, &c->tasks) {
		const struct task_facts *t = *it;

		if (t->pid == real)
			return t->vpid;
		for (size_t i = 0; i < t->n_threads; i++)
			if (t->threads[i].tid == real)
				return t->threads[i].vtid;
	}
	return 0;
}

struct fd_facts *capture_fd_by_inode(const struct capture *c, const struct fd_kind *kind, uint64_t ino)
{
	vec_foreach (it, &c->fds) {
		if ((*it)->kind == kind && (*it)->st.st_ino == ino)
			return *it;
	}
	return NULL;
}

int capture_add_file(struct capture *c, FileEntry *fe, struct err *err)
{
	return vec_push(&c->snap->files, fe) ? 0 : err_nomem(err);
}

/* The image's number for the owner of a description; 0 and a warning if the owner is not of the tree. */
static uint32_t virt_owner(struct capture *c, const struct fd_facts *f, const struct f_owner_ex *owner)
{
	pid_t virt = capture_virt_pid(c, owner->pid);

	if (!virt && !c->preflight)
		log_warn("fd %d of pid %d (%s): the owner of its signals, pid %d, is not in the tree; "
			 "the restored descriptor will have no owner",
			 f->holders.v[0].fd, f->holders.v[0].pid, f->link, owner->pid);
	return (uint32_t)virt;
}

FownEntry *capture_fown(struct capture *c, const struct fd_facts *f)
{
	FownEntry *fown = snap_new(c->snap, FownEntry, fown_entry);
	struct f_owner_ex owner = {0};
	uid_t ids[2] = {0};
	int sig;

	if (!fown || (f->flags & O_PATH))
		return fown;
	sig = fcntl(f->own, F_GETSIG);
	fown->signum = sig > 0 ? (uint32_t)sig : 0;
	if (fcntl(f->own, F_GETOWN_EX, &owner) || owner.pid == 0)
		return fown;
	fown->pid = virt_owner(c, f, &owner);
	if (!fown->pid)
		return fown;
	fown->pid_type = (uint32_t)owner.type;
	if (fcntl(f->own, F_GETOWNER_UIDS, ids) == 0) {
		fown->uid = ids[0];
		fown->euid = ids[1];
	}
	return fown;
}

/*
 * The kernel notes the caller's ids beside the owner and checks them when it
 * sends the signal, so the calls run under the ids of the image. Real and
 * effective id come back from the saved one (credentials are restored later).
 */
void emit_fown(const FownEntry *fown, uint32_t flags, const struct fd_place *place, struct script *s)
{
	struct f_owner_ex owner;
	bool other_ids;

	if (!place->first || (flags & O_PATH))
		return;
	if (fown && fown->signum)
		script_call(s, "set the signal of a descriptor's owner", SYS_fcntl, SV(place->fd),
			    SV(F_SETSIG), SV(fown->signum));
	if (fown && fown->pid) {
		owner = (struct f_owner_ex){.type = (int)fown->pid_type, .pid = (pid_t)fown->pid};
		other_ids = fown->uid || fown->euid;
		if (other_ids)
			script_call(s, "take the ids of a descriptor's owner", SYS_setresuid,
				    SV(fown->uid), SV(fown->euid), SV(-1));
		script_call(s, "set the owner of a descriptor", SYS_fcntl, SV(place->fd),
			    SV(F_SETOWN_EX), SV(script_data(s, &owner, sizeof(owner))));
		if (other_ids)
			script_call(s, "leave the ids of a descriptor's owner", SYS_setresuid,
				    SV(0), SV(0), SV(-1));
	}
	if (flags & O_ASYNC)
		script_call(s, "ask for signals from a descriptor", SYS_fcntl, SV(place->fd),
			    SV(F_SETFL), SV(flags));
}

int fd_set_flags(int fd, uint32_t flags, struct err *err)
{
	const uint32_t settable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
	int now = fcntl(fd, F_GETFL);

	if (now < 0)
		return err_sys(err, "cannot read the flags of a descriptor");
	if (((uint32_t)now & settable) == (flags & settable))
		return 0;
	if (fcntl(fd, F_SETFL, (int)(((uint32_t)now & ~settable) | (flags & settable))))
		return err_sys(err, "cannot set flags 0%o of a descriptor", flags);
	return 0;
}

bool fdinfo_u64(const char *info, const char *key, int base, uint64_t *out)
{
	size_t len = strlen(key);
	const char *line = info, *digits;
	uint64_t v;
	char *end;

	while (line) {
		if (strncmp(line, key, len) == 0 && line[len] == ':') {
			digits = line + len + 1;
			digits += strspn(digits, " \t");
			errno = 0;
			v = strtoull(digits, &end, base);
			if (!isxdigit((unsigned char)*digits) || end == digits || errno)
				return false;
			*out = v;
			return true;
		}
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	return false;
}

const char *kind_external(const struct kind_options *opt, const char *key)
{
	size_t len = strlen(key);

	for (const char **it = opt->external; it && *it; it++)
		if (strncmp(*it, key, len) == 0 && ((*it)[len] == 0 || (*it)[len] == ':'))
			return *it;
	return NULL;
}

/* Equal but for the colon before a bracket, and for a slash at the front? */
static bool same_key(const char *given, const char *key)
{
	if (*given == '/')
		given++;
	if (*key == '/')
		key++;
	for (; *given && *key; given++, key++) {
		if (*key == ':' && key[1] == '[' && *given == '[')
			key++;
		if (*given != *key)
			return false;
	}
	return *given == *key;
}

int kind_inherited(const struct kind_options *opt, const char *key)
{
	for (size_t i = 0; opt && i < opt->n_inherit; i++)
		if (same_key(opt->inherit[i].key, key))
			return opt->inherit[i].fd;
	return -1;
}

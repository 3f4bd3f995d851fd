// SPDX-License-Identifier: Apache-2.0
/*
 * Descriptors that cannot be carried (yet): one kind that claims them all, first
 * in the registry, so that each is refused by its name and with a reason.
 */
#include "kinds/fd/fd.h"

#include <errno.h>
#include <linux/magic.h>
#include <string.h>

#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202
#endif
#ifndef SECRETMEM_MAGIC
#define SECRETMEM_MAGIC 0x5345434d
#endif
#ifndef NSFS_MAGIC
#define NSFS_MAGIC 0x6e736673
#endif
#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446
#endif

static const char *const inotify_links[] = {"anon_inode:inotify", "anon_inode:[inotify]", NULL};
static const char *const fanotify_links[] = {"anon_inode:[fanotify]", NULL};
static const char *const pidfd_links[] = {"anon_inode:[pidfd]", "pidfd:", NULL};
static const char *const io_uring_links[] = {"anon_inode:[io_uring]", NULL};
static const char *const uffd_links[] = {"anon_inode:[userfaultfd]", NULL};
static const char *const perf_links[] = {"anon_inode:[perf_event]", NULL};
static const char *const bpf_links[] = {"anon_inode:bpf-", "anon_inode:bpf_", "anon_inode:[bpf",
					NULL};
static const char *const seccomp_links[] = {"anon_inode:seccomp notify", "anon_inode:[seccomp", NULL};
static const char *const no_links[] = {NULL};

static const struct refusal {
	const char *name;
	const char *const *links; /* beginnings of the /proc link text */
	long fs_magic;            /* or the file system it is on, 0: any */
	const char *reason;
} refusals[] = {
	{"inotify", inotify_links, 0,
	 "inotify watches cannot be carried; support comes in a later release"},
	{"fanotify", fanotify_links, 0,
	 "fanotify marks cannot be carried; support comes in a later release"},
	{"pidfd", pidfd_links, PID_FS_MAGIC,
	 "pidfds cannot be carried; support comes in a later release"},
	{"io_uring", io_uring_links, 0, "io_uring requests in flight cannot be seen from outside"},
	{"userfaultfd", uffd_links, 0,
	 "a userfaultfd is tied to its address space and cannot be carried"},
	{"perf", perf_links, 0, "performance counters belong to this machine; close them first"},
	{"bpf", bpf_links, 0, "BPF objects cannot be carried; support comes in a later release"},
	{"seccomp-notify", seccomp_links, 0, "a seccomp supervisor cannot be carried"},
	{"mqueue", no_links, MQUEUE_MAGIC,
	 "POSIX message queues cannot be carried; support comes in a later release"},
	{"namespace", no_links, NSFS_MAGIC,
	 "descriptors of namespaces cannot be carried; support comes in a later release"},
	{"secretmem", no_links, SECRETMEM_MAGIC,
	 "secret memory can be read by nobody but the program itself"},
};

static bool matches(const struct refusal *no, const struct fd_facts *f)
{
	if (no->fs_magic && f->fs_magic == no->fs_magic)
		return true;
	for (const char *const *link = no->links; *link; link++)
		if (strncmp(f->link, *link, strlen(*link)) == 0)
			return true;
	return false;
}

static const struct refusal *find(const struct fd_facts *f)
{
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++)
		if (matches(&refusals[i], f))
			return &refusals[i];
	return NULL;
}

static bool refuse_claims(const struct capture *c, const struct fd_facts *f)
{
	return find(f) != NULL;
}

static int refuse_allowed(struct capture *c, const struct fd_facts *f, struct err *err)
{
	const struct refusal *no = find(f);

	return err_set(err, ENOTSUP, "%s: %s", no ? no->name : "refuse",
		       no ? no->reason : "not supported");
}

static int refuse_capture(struct capture *c, struct fd_facts *f, struct err *err)
{
	return refuse_allowed(c, f, err);
}

static int refuse_open(struct restore *r, const FileEntry *fe, int *fd_out, struct err *err)
{
	return err_set(err, ENOTSUP,
		       "this kind of descriptor cannot be restored by this version of ferry");
}

const struct fd_kind refuse_kind = {
	.name = "refuse",
	.type = FD_TYPES__UND,
	.claims = refuse_claims,
	.allowed = refuse_allowed,
	.capture = refuse_capture,
	.open = refuse_open,
};

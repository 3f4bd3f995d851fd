// SPDX-License-Identifier: Apache-2.0
#include "kernel/probe.h"
#include "base/io.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/sock_diag.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

/* Debian 12's headers lack these. */
#ifndef ARCH_MAP_VDSO_64
#define ARCH_MAP_VDSO_64 0x2003
#endif
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define PROBE_TIMER_RESTORE_IDS 77 /* PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15 */
#define PROBE_TIMER_RESTORE_IDS_GET 2
#define PROBE_MADV_GUARD_INSTALL 102   /* Linux 6.13 */
#define PROBE_PAGEMAP_SCAN 0xc0606610u /* Linux 6.7 */

static int result(long rc)
{
	return rc < 0 ? errno : 0;
}

/* Runs @fn in a child (its exit status is the errno), so that what it changes is gone afterwards. */
static int in_child(int (*fn)(void))
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return errno;
	if (child == 0)
		syscall(SYS_exit_group, fn()); /* not _exit: nothing of ours may run */
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			return errno;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : EFAULT;
}

/* Seizes a sleeping child, stops it and runs @fn on it. */
static int on_tracee(int (*fn)(pid_t pid))
{
	pid_t self = getpid(), child = fork();
	int status, rc = 0;

	if (child < 0)
		return errno;
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* killed before that, we would leave it for ever, with our end of ssh's pipes */
		if (getppid() != self)
			_exit(1);
		for (;;)
			pause();
	}
	if (ptrace(PTRACE_SEIZE, child, NULL, NULL) < 0 ||
	    ptrace(PTRACE_INTERRUPT, child, NULL, NULL) < 0 || waitpid(child, &status, __WALL) < 0)
		rc = errno;
	else if (fn)
		rc = fn(child);
	kill(child, SIGKILL);
	while (waitpid(child, &status, __WALL) > 0 && !WIFEXITED(status) && !WIFSIGNALED(status))
		;
	return rc;
}

static int test_seize(void)
{
	return on_tracee(NULL);
}

static int rseq_configuration(pid_t pid)
{
	uint64_t config[3];

	return result(ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, sizeof(config), config));
}

static int test_rseq(void)
{
	return on_tracee(rseq_configuration);
}

static int vm_readv(pid_t pid)
{
	static int word;
	int copy;
	struct iovec to = {&copy, sizeof(copy)}, from = {&word, sizeof(word)};

	return result(process_vm_readv(pid, &to, 1, &from, 1, 0));
}

static int test_vm_readv(void)
{
	return on_tracee(vm_readv);
}

static int getfd(pid_t pid)
{
	cleanup_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	cleanup_close int fd = -1;

	if (pidfd < 0)
		return errno;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, STDERR_FILENO, 0);
	/* a closed stderr is no fault of the kernel's */
	return fd < 0 && errno != EBADF ? errno : 0;
}

static int test_pidfd_getfd(void)
{
	return on_tracee(getfd);
}

static int kcmp_vm(pid_t pid)
{
	return result(syscall(SYS_kcmp, getpid(), pid, KCMP_VM, 0, 0));
}

static int test_kcmp(void)
{
	return on_tracee(kcmp_vm);
}

static int map_files(pid_t pid)
{
	cleanup_free char *maps = NULL;
	unsigned long start, end;
	char link[4096];
	char *line;

	if (io_read_filef(&maps, NULL, "/proc/%d/maps", pid) < 0)
		return errno;
	/* the first area is the program itself, which is a file */
	line = maps;
	if (sscanf(line, "%lx-%lx", &start, &end) != 2)
		return EINVAL;
	return result(io_readlinkf(link, sizeof(link), "/proc/%d/map_files/%lx-%lx", pid, start, end));
}

static int test_map_files(void)
{
	return on_tracee(map_files);
}

static int test_proc_timers(void)
{
	cleanup_close int fd = open("/proc/self/timers", O_RDONLY | O_CLOEXEC);

	return result(fd);
}

static int test_set_tid(void)
{
	pid_t self = (pid_t)syscall(SYS_getpid);
	struct clone_args args = {.exit_signal = SIGCHLD,
				  .set_tid = (uintptr_t)&self,
				  .set_tid_size = 1};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		syscall(SYS_exit_group, 0);
	/* our own pid is taken: the kernel gets as far as to say so when it lets us choose */
	return pid < 0 && errno == EEXIST ? 0 : pid < 0 ? errno : EINVAL;
}

static int test_mm_map(void)
{
	unsigned int bytes = 0;

	return result(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &bytes, 0, 0));
}

static int test_map_vdso(void)
{
	/* "there is one already" is the answer of a kernel that can */
	long rc = syscall(SYS_arch_prctl, ARCH_MAP_VDSO_64, 0);

	return rc < 0 && errno == EEXIST ? 0 : rc < 0 ? errno : 0;
}

static int test_timer_ids(void)
{
	return result(prctl(PROBE_TIMER_RESTORE_IDS, PROBE_TIMER_RESTORE_IDS_GET, 0, 0, 0));
}

static int test_noreplace(void)
{
	void *first = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *second;
	int rc;

	if (first == MAP_FAILED)
		return errno;
	second = mmap(first, PAGE_BYTES, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	rc = second == MAP_FAILED && errno == EEXIST ? 0 : EOPNOTSUPP;
	if (second != MAP_FAILED && second != first)
		munmap(second, PAGE_BYTES);
	munmap(first, PAGE_BYTES);
	return rc;
}

static int test_guard(void)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	if (page == MAP_FAILED)
		return errno;
	rc = result(madvise(page, PAGE_BYTES, PROBE_MADV_GUARD_INSTALL));
	munmap(page, PAGE_BYTES);
	return rc;
}

static int test_memfd(void)
{
	cleanup_close int fd = memfd_create("ferry-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	return result(fd);
}

static int test_pagemap_scan(void)
{
	/* struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, four masks */
	uint64_t arg[12] = {sizeof(arg)};
	cleanup_close int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	return result(syscall(SYS_ioctl, fd, PROBE_PAGEMAP_SCAN, arg));
}

static int test_sock_diag(void)
{
	cleanup_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	return result(fd);
}

static int test_peek_off(void)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int off = 0;

	if (fd < 0)
		return errno;
	return result(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off)));
}

static int new_pid_namespace(void)
{
	return result(unshare(CLONE_NEWPID | CLONE_NEWNS));
}

static int test_new_pidns(void)
{
	return in_child(new_pid_namespace);
}

static int new_time_namespace(void)
{
	return result(unshare(CLONE_NEWTIME));
}

static int test_timens(void)
{
	return in_child(new_time_namespace);
}

#define BOTH (PROBE_DUMP | PROBE_RESTORE)

const struct kernel_probe kernel_probes[] = {
	{"ptrace-seize", "to stop tasks without their noticing", BOTH, test_seize},
	{"rseq-configuration", "to find restartable sequences", PROBE_DUMP, test_rseq},
	{"process-vm-readv", "to copy memory out of tasks", PROBE_DUMP, test_vm_readv},
	{"pidfd-getfd", "to look at open descriptions", BOTH, test_pidfd_getfd},
	{"kcmp", "to find what tasks share", PROBE_DUMP, test_kcmp},
	{"map-files", "to reach mapped files, also deleted ones", PROBE_DUMP, test_map_files},
	{"proc-timers", "to list POSIX timers", PROBE_DUMP, test_proc_timers},
	{"sock-diag", "to list sockets", PROBE_DUMP, test_sock_diag},
	{"peek-off", "to read socket queues without consuming them", PROBE_DUMP, test_peek_off},
	{"clone3-set-tid", "to make tasks with their old pids", PROBE_RESTORE, test_set_tid},
	{"mm-map", "to restore the layout fields of memory", PROBE_RESTORE, test_mm_map},
	{"map-vdso", "to place the vdso", PROBE_RESTORE, test_map_vdso},
	{"map-fixed-noreplace", "to map without overwriting", PROBE_RESTORE, test_noreplace},
	{"memfd", "to restore shared memory", PROBE_RESTORE, test_memfd},
	{"pid-namespace", "to restore with --pids=new", PROBE_NEW_PIDS, test_new_pidns},
	{"time-namespace", "to keep monotonic clocks going", PROBE_OPTIONAL, test_timens},
	{"pagemap-scan", "to find used pages faster", PROBE_OPTIONAL, test_pagemap_scan},
	{"timer-restore-ids", "to restore POSIX timers faster", PROBE_OPTIONAL, test_timer_ids},
	{"guard-regions", "to carry guard regions", PROBE_OPTIONAL, test_guard},
	{0},
};

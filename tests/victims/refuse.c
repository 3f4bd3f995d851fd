// SPDX-License-Identifier: Apache-2.0
/*
 * What ferry must refuse by name for now. refuse DIR KIND has one thing of that kind; after the
 * refusal it must run on, and the thing must work as before.
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int fds[2];

static void tcp_set_up(void)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);
	int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));

	MUST(bind(listener, (struct sockaddr *)&name, len));
	MUST(listen(listener, 1));
	MUST(getsockname(listener, (struct sockaddr *)&name, &len));
	fds[0] = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(fds[0], (struct sockaddr *)&name, len));
	fds[1] = MUST(accept(listener, NULL, NULL));
	MUST(send(fds[0], "on the way", 10, 0));
}

static void tcp_check(void)
{
	char text[16] = "";

	CHECK(recv(fds[1], text, 10, MSG_WAITALL) == 10 && strcmp(text, "on the way") == 0,
	      "got %s", text);
	MUST(send(fds[1], "back", 4, 0));
	CHECK(recv(fds[0], text, 4, MSG_WAITALL) == 4, "connection is dead: %s", strerror(errno));
}

static void inotify_set_up(void)
{
	fds[0] = MUST(inotify_init1(IN_NONBLOCK));
	MUST(inotify_add_watch(fds[0], victim_dir(), IN_CREATE));
}

static void inotify_check(void)
{
	char buf[4096];
	int fd;

	while (read(fds[0], buf, sizeof(buf)) > 0)
		;
	fd = MUST(open(victim_path("new"), O_CREAT | O_RDWR, 0644));
	close(fd);
	CHECK(read(fds[0], buf, sizeof(buf)) > 0, "the watch is dead: %s", strerror(errno));
}

static void inflight_set_up(void)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'f';
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *head = CMSG_FIRSTHDR(&msg);

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	*head = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA(head), &fds[0], sizeof(int));
	MUST(sendmsg(fds[0], &msg, 0));
}

static void inflight_check(void)
{
	char control[CMSG_SPACE(sizeof(int))], byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	int received = -1;

	CHECK(recvmsg(fds[1], &msg, MSG_DONTWAIT) == 1 && byte == 'f', "message: %s",
	      strerror(errno));
	CHECK(CMSG_FIRSTHDR(&msg), "the descriptor is lost");
	memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	CHECK(victim_same_file(getpid(), received, getpid(), fds[0]), "another descriptor");
}

static void seccomp_set_up(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(code), code};

	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}

static void seccomp_check(void)
{
	CHECK(syscall(SYS_getppid) < 0 && errno == ENOTTY, "the filter is gone");
}

static void uts_set_up(void)
{
	if (unshare(CLONE_NEWUTS) < 0)
		victim_skip("unshare: %s", strerror(errno));
	MUST(sethostname("victim-host", 11));
}

static void uts_check(void)
{
	char name[64] = "";

	MUST(gethostname(name, sizeof(name) - 1));
	CHECK(strcmp(name, "victim-host") == 0, "host name is %s", name);
}

static void pidfd_set_up(void)
{
	fds[0] = MUST(syscall(SYS_pidfd_open, getpid(), 0));
}

static void pidfd_check(void)
{
	CHECK(syscall(SYS_pidfd_send_signal, fds[0], 0, NULL, 0) == 0, "pidfd: %s", strerror(errno));
}

// A segment that a process outside of the tree has attached, too: one that has left it.
static void sysvshm_set_up(void)
{
	int ready[2];
	char *ptr, byte;

	fds[0] = MUST(shmget(IPC_PRIVATE, VICTIM_PAGE, 0600));
	ptr = shmat(fds[0], NULL, 0);
	CHECK(ptr != (void *)-1, "shmat: %s", strerror(errno));
	MUST(shmctl(fds[0], IPC_RMID, NULL));
	strcpy(ptr, "segment");
	MUST(pipe(ready));
	if (MUST(fork()) == 0) {
		pid_t victim = getppid();

		if (MUST(fork()))
			_exit(0);
		close(ready[0]);
		CHECK(write(ready[1], "", 1) == 1, "write: %s", strerror(errno));
		close(ready[1]);
		while (kill(victim, 0) == 0)
			victim_sleep_ms(20);
		_exit(0);
	}
	MUST(wait(NULL));
	close(ready[1]);
	CHECK(read(ready[0], &byte, 1) == 1, "no word of the other one");
	close(ready[0]);
}

static void sysvshm_check(void)
{
	struct shmid_ds ds;

	MUST(shmctl(fds[0], IPC_STAT, &ds));
	CHECK(ds.shm_nattch == 2, "attached %lu times", (unsigned long)ds.shm_nattch);
}

static void sysvsem_set_up(void)
{
	fds[0] = MUST(semget(IPC_PRIVATE, 1, 0600));
	MUST(semctl(fds[0], 0, SETVAL, 3));
	MUST(semop(fds[0], &(struct sembuf){0, -1, 0}, 1));
}

static void sysvsem_check(void)
{
	CHECK(semctl(fds[0], 0, GETVAL) == 2, "value %d", semctl(fds[0], 0, GETVAL));
	MUST(semctl(fds[0], 0, IPC_RMID));
}

static void sysvmsg_set_up(void)
{
	struct {
		long type;
		char text[4];
	} m = {1, "one"};

	fds[0] = MUST(msgget(IPC_PRIVATE, 0600));
	MUST(msgsnd(fds[0], &m, sizeof(m.text), 0));
}

static void sysvmsg_check(void)
{
	struct msqid_ds ds;

	MUST(msgctl(fds[0], IPC_STAT, &ds));
	CHECK(ds.msg_qnum == 1, "%lu messages", (unsigned long)ds.msg_qnum);
	MUST(msgctl(fds[0], IPC_RMID, NULL));
}

static void nothing_to_check(void)
{
}

static void netlink_set_up(void)
{
	fds[0] = MUST(socket(AF_NETLINK, SOCK_RAW, 0));
}

static void packet_set_up(void)
{
	fds[0] = socket(AF_PACKET, SOCK_RAW, 0);
	if (fds[0] < 0)
		victim_skip("packet socket: %s", strerror(errno));
}

static void fanotify_set_up(void)
{
	fds[0] = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
	if (fds[0] < 0)
		victim_skip("fanotify: %s", strerror(errno));
}

static void userfaultfd_set_up(void)
{
	fds[0] = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fds[0] < 0)
		victim_skip("userfaultfd: %s", strerror(errno));
}

static void io_uring_set_up(void)
{
	char params[120] = "";

	fds[0] = syscall(SYS_io_uring_setup, 4, params);
	if (fds[0] < 0)
		victim_skip("io_uring: %s", strerror(errno));
}

// A client that nobody has accepted yet.
static void pending_set_up(void)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);

	fds[0] = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(fds[0], (struct sockaddr *)&name, len));
	MUST(listen(fds[0], 5));
	MUST(getsockname(fds[0], (struct sockaddr *)&name, &len));
	fds[1] = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(fds[1], (struct sockaddr *)&name, len));
}

static void pending_check(void)
{
	struct pollfd pfd = {fds[0], POLLIN, 0};

	CHECK(poll(&pfd, 1, 0) == 1, "the pending connection is lost");
	MUST(accept(fds[0], NULL, NULL));
}

// Not a kind: a task that cannot be stopped, because its child has not left vfork yet. The child
// gives the verdict; the parent's pid is in DIR/parent.
static void vfork_set_up(void)
{
	char pid_text[32];
	int fd = MUST(open(victim_path("parent"), O_WRONLY | O_CREAT | O_TRUNC, 0644));

	snprintf(pid_text, sizeof(pid_text), "%d\n", getpid());
	MUST(write(fd, pid_text, strlen(pid_text)));
	close(fd);
	if (MUST(vfork()) == 0) {
		victim_adopt();
		victim_ready();
		victim_wait();
		victim_pass();
	}
	_exit(0);
}

// Not a kind: a child that is in vfork most of the time, when it cannot be stopped.
static void vfork_late_set_up(void)
{
	if (MUST(fork()) != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		pid_t child = MUST(vfork());

		if (child == 0) {
			usleep(200000);
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		waitpid(child, NULL, 0);
		usleep(100000);
	}
}

static void keys_set_up(void)
{
	if (syscall(SYS_add_key, "user", "ferry", "secret", 6, KEY_SPEC_PROCESS_KEYRING) < 0)
		victim_skip("no keys here: %s", strerror(errno));
}

static void keys_check(void)
{
	CHECK(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "ferry", 0) > 0,
	      "the key is gone: %s", strerror(errno));
}

static void mempolicy_set_up(void)
{
	unsigned long node0 = 1;

	if (syscall(SYS_set_mempolicy, 1 /* MPOL_PREFERRED */, &node0, 8 * sizeof(node0)))
		victim_skip("no memory policies here: %s", strerror(errno));
}

static void mdwe_set_up(void)
{
	if (prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0))
		victim_skip("no PR_SET_MDWE here: %s", strerror(errno));
}

static void corked_set_up(void)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);

	fds[0] = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	fds[1] = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	MUST(bind(fds[1], (struct sockaddr *)&name, len));
	MUST(getsockname(fds[1], (struct sockaddr *)&name, &len));
	MUST(connect(fds[0], (struct sockaddr *)&name, len));
	MUST(send(fds[0], "half ", 5, MSG_MORE));
}

static void corked_check(void)
{
	char text[16] = "";

	MUST(send(fds[0], "done", 4, 0));
	CHECK(recv(fds[1], text, sizeof(text) - 1, 0) == 9 && strcmp(text, "half done") == 0,
	      "got %s", text);
}

/* A listener that takes connections of one peer only, who knows a key. */
static void signed_set_up(void)
{
	struct tcp_md5sig key = {.tcpm_keylen = 6};
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	fds[0] = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(fds[0], (struct sockaddr *)&name, sizeof(name)));
	name.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	memcpy(&key.tcpm_addr, &name, sizeof(name));
	memcpy(key.tcpm_key, "secret", 6);
	if (setsockopt(fds[0], IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)))
		victim_skip("no TCP_MD5SIG here: %s", strerror(errno));
	MUST(listen(fds[0], 5));
}

static void unix_error_set_up(void)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	/* what was sent is thrown away with the peer, and the sender hears of it */
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
	MUST(send(fds[0], "unread", 6, 0));
	MUST(connect(fds[1], &none, sizeof(none)));
}

static void unix_error_check(void)
{
	int value = 0;
	socklen_t len = sizeof(value);

	MUST(getsockopt(fds[0], SOL_SOCKET, SO_ERROR, &value, &len));
	CHECK(value == ECONNRESET, "the error is %d", value);
}

static const struct {
	const char *name;
	void (*set_up)(void), (*check)(void);
} kinds[] = {
	{"keys", keys_set_up, keys_check},
	{"mempolicy", mempolicy_set_up, nothing_to_check},
	{"mdwe", mdwe_set_up, nothing_to_check},
	{"corked", corked_set_up, corked_check},
	{"signed", signed_set_up, nothing_to_check},
	{"unix_error", unix_error_set_up, unix_error_check},
	{"tcp", tcp_set_up, tcp_check},
	{"tcp_pending", pending_set_up, pending_check},
	{"inotify", inotify_set_up, inotify_check},
	{"inflight", inflight_set_up, inflight_check},
	{"seccomp", seccomp_set_up, seccomp_check},
	{"uts", uts_set_up, uts_check},
	{"pidfd", pidfd_set_up, pidfd_check},
	{"sysvshm", sysvshm_set_up, sysvshm_check},
	{"sysvsem", sysvsem_set_up, sysvsem_check},
	{"sysvmsg", sysvmsg_set_up, sysvmsg_check},
	{"netlink", netlink_set_up, nothing_to_check},
	{"packet", packet_set_up, nothing_to_check},
	{"fanotify", fanotify_set_up, nothing_to_check},
	{"userfaultfd", userfaultfd_set_up, nothing_to_check},
	{"vfork", vfork_set_up, nothing_to_check},
	{"vfork_late", vfork_late_set_up, nothing_to_check},
	{"io_uring", io_uring_set_up, nothing_to_check},
};

int main(int argc, char **argv)
{
	size_t nr = 0;

	while (nr < ARRAY_SIZE(kinds) && (argc < 3 || strcmp(kinds[nr].name, argv[2]) != 0))
		nr++;
	if (nr == ARRAY_SIZE(kinds)) {
		fprintf(stderr, "usage: %s DIR KIND\n", argv[0]);
		return 2;
	}
	victim_start(argc, argv);
	kinds[nr].set_up();
	victim_ready();
	victim_wait();
	kinds[nr].check();
	victim_pass();
}

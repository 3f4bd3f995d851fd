// SPDX-License-Identifier: Apache-2.0
/*
 * How long a thread waits for a missing page, and how fast the rest comes:
 * the fault engine of ferry beside floors of the same run.
 *
 *	bench-lazy page-server|tcp|tls [MIB]
 *
 * A server process answers GET requests over TCP on the loopback; a victim process touches
 * its missing memory in random order and measures each touch itself; this process is the engine
 * between them, as ferry lazy-pages is. Prints lines "NAME VALUE UNIT". With "tcp" and "tls" the memory is
 * that of another process, and comes over the lanes of ferry migrate (lanes.c); the floor is the same.
 *
 *	floor	one question and answer over the same kind of socket, between the same two processes, and a
 *		copy of the page; for the rate: the bytes read from such a socket into fresh huge pages
 *	bare	faults that are answered by the simplest loop that can (one process, which sleeps for each step);
 *		bare_busy: beside two processes of which one sends, and the other reads, as for the rate of the floor
 *	fault	without background
 *	busy	with the background at full rate
 *		and as fast as it comes meanwhile (busy_rate)
 *	drain	all of the memory in the background, nobody touches it
 *
 * With BENCH_APART in the environment what is at home runs on one processor, and everything else on another, as on two machines.
 */
#include "lazy.h"

#include "mem/lazy.h"
#include "mem/lazy_ps.h"
#include "mem/ps_wire.h"
#include "mem/uffd.h"
#include "snapshot/snapshot.h"
#include "wire/tcp.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { FLOOR_ROUNDS = 3000, FAULTS = 3000, HUGE_BYTES = 2 << 20 };

static uint64_t pages;
static uint16_t server_port;

__attribute__((noreturn)) void die(const char *what, const struct err *err)
{
	fprintf(stderr, "bench-lazy: %s: %s\n", what, err ? err->text : "failed");
	exit(1);
}

/* Does nothing unless BENCH_APART is set. */
static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (getenv("BENCH_APART") && sched_setaffinity(0, sizeof(set), &set) < 0)
		die("sched_setaffinity", NULL);
}

void at_home(void)
{
	run_on(0);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_latency(const char *name, uint64_t *ns, size_t n)
{
	qsort(ns, n, sizeof(*ns), by_value);
	printf("%s_p50 %.1f us\n%s_p99 %.1f us\n", name, (double)ns[n / 2] / 1e3, name,
	       (double)ns[n * 99 / 100] / 1e3);
	fflush(stdout);
}

void fill_memory(uint8_t *memory, uint64_t n)
{
	madvise(memory, n * PAGE_BYTES, MADV_HUGEPAGE);
	for (uint64_t i = 0; i < n; i++)
		memset(memory + i * PAGE_BYTES, (int)(i % 251) + 1, PAGE_BYTES);
}

/* ---- the server ---- */

static bool recv_all(int fd, void *buf, size_t bytes)
{
	return recv(fd, buf, bytes, MSG_WAITALL) == (ssize_t)bytes;
}

static void serve_one(int fd, uint8_t *memory)
{
	uint8_t head[PS_REQUEST_BYTES];
	struct ps_request r;
	struct err err;

	while (recv_all(fd, head, sizeof(head))) {
		if (ps_decode(head, &r, &err) < 0)
			die("server", &err);
		if (r.cmd == PS_CLOSE) {
			(void)!send(fd, "\0\0\0\0", 4, MSG_NOSIGNAL);
			return;
		}
		r.cmd = PS_ADD_F;
		r.flags = PE_PRESENT;
		ps_encode(&r, head);
		if (send(fd, head, sizeof(head), MSG_MORE | MSG_NOSIGNAL) < 0)
			return;
		for (uint64_t off = 0, all = r.nr_pages * PAGE_BYTES; off < all;) {
			ssize_t n = send(fd, memory + (r.vaddr - AREA) + off, all - off,
					 MSG_NOSIGNAL);

			if (n <= 0)
				return;
			off += (uint64_t)n;
		}
	}
}

static pid_t start_server(uint16_t *port)
{
	struct err err;
	int fd = tcp_listen(NULL, 0, port, &err);
	pid_t pid;

	if (fd < 0)
		die("listen", &err);
	fcntl(fd, F_SETFL, 0);
	pid = fork();
	if (pid == 0) {
		at_home();
		uint8_t *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fill_memory(memory, pages);
		for (;;) {
			int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

			if (peer < 0)
				_exit(1);
			tcp_prepare(peer);
			serve_one(peer, memory);
			close(peer);
		}
	}
	close(fd);
	return pid;
}

/* ---- floors ---- */

static void ask(int fd, uint64_t page, uint64_t n)
{
	struct ps_request r = {.cmd = PS_GET,
			       .nr_pages = n,
			       .vaddr = AREA + page * PAGE_BYTES,
			       .dst_id = OBJECT};
	uint8_t head[PS_REQUEST_BYTES];

	ps_encode(&r, head);
	if (send(fd, head, sizeof(head), MSG_NOSIGNAL) != sizeof(head))
		die("floor: send", NULL);
}

static void latency_floor(uint16_t port)
{
	static uint64_t ns[FLOOR_ROUNDS];
	uint8_t answer[PS_REQUEST_BYTES + PAGE_BYTES], page[PAGE_BYTES];
	struct err err;
	int fd = tcp_connect("127.0.0.1", port, 1000, &err);

	if (fd < 0)
		die("floor", &err);
	for (size_t i = 0; i < FLOOR_ROUNDS; i++) {
		uint64_t start = now_ns();

		ask(fd, i * 7919 % pages, 1);
		if (!recv_all(fd, answer, sizeof(answer)))
			die("floor: receive", NULL);
		memcpy(page, answer + PS_REQUEST_BYTES, PAGE_BYTES);
		__asm__ volatile("" : : "r"(page) : "memory");
		ns[i] = now_ns() - start;
	}
	close(fd);
	print_latency("floor", ns, FLOOR_ROUNDS);
}

static double rate_floor(uint16_t port)
{
	size_t bytes = pages * PAGE_BYTES;
	uint8_t head[PS_REQUEST_BYTES];
	uint8_t *at = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *to = (uint8_t *)(((uintptr_t)at + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	struct err err;
	int fd = tcp_connect("127.0.0.1", port, 1000, &err);
	uint64_t start;
	double rate;

	if (fd < 0 || at == MAP_FAILED)
		die("floor", &err);
	madvise(to, bytes, MADV_HUGEPAGE);
	start = now_ns();
	ask(fd, 0, pages);
	if (!recv_all(fd, head, sizeof(head)))
		die("floor: receive", NULL);
	for (size_t off = 0; off < bytes;) {
		ssize_t n = recv(fd, to + off, MIN(bytes - off, 1UL << 20), 0);

		if (n <= 0)
			die("floor: receive", NULL);
		off += (size_t)n;
	}
	rate = (double)bytes / (double)(now_ns() - start) * 1e3;
	munmap(at, bytes + HUGE_BYTES);
	close(fd);
	return rate;
}

/* ---- the victim ---- */

struct shared {
	volatile uint32_t uffd, go, done, bad;
	uint64_t ns[FAULTS];
	size_t n;
};

__attribute__((noreturn)) static void victim(struct shared *sh, bool touch)
{
	uint64_t random = 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mmap((void *)AREA, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		_exit(1);
	madvise((void *)AREA, pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	sh->uffd = (uint32_t)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	while (!sh->go)
		usleep(500);
	close((int)sh->uffd);
	for (int i = 0; touch && i < 20 * FAULTS && sh->n < FAULTS; i++) {
		uint8_t *at, there;
		uint64_t page, start;

		random = random * 6364136223846793005UL + 1442695040888963407UL;
		page = (random >> 33) % pages;
		at = (uint8_t *)(AREA + page * PAGE_BYTES);
		if (mincore(at, PAGE_BYTES, &there) < 0 || there)
			continue; /* it has come already */
		start = now_ns();
		if (*(volatile uint8_t *)at != page % 251 + 1)
			sh->bad = 1;
		sh->ns[sh->n++] = now_ns() - start;
	}
	sh->done = 1;
	pause();
	_exit(0);
}

static struct lazy_source *page_server_open(struct err *err)
{
	struct lazy_ps_options opt = {.host = "127.0.0.1", .port = server_port};

	return lazy_ps_open(&opt, err);
}

static const struct way page_server_way = {page_server_open, lazy_ps_close};

/* Starts one, which waits for sh->go. Its userfaultfd is registered. */
static struct shared *start_victim(bool touch, pid_t *pid, int *pidfd, int *uffd)
{
	struct shared *sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct err err;

	sh->uffd = ~0U;
	*pid = fork();
	if (*pid == 0)
		victim(sh, touch);
	while (sh->uffd == ~0U)
		usleep(500);
	*pidfd = (int)syscall(SYS_pidfd_open, *pid, 0);
	*uffd = (int)syscall(SYS_pidfd_getfd, *pidfd, sh->uffd, 0);
	if (*uffd < 0 || uffd_handshake(*uffd, lazy_uffd_features(), &err) < 0 ||
	    uffd_register(*uffd, AREA, pages * PAGE_BYTES) < 0)
		die("userfaultfd", NULL);
	return sh;
}

static void end_victim(struct shared *sh, pid_t pid, const char *name)
{
	if (sh->bad)
		die(name, NULL);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(sh, sizeof(*sh));
}

/* The least that any engine does for a fault: it sleeps for it, asks, sleeps for the answer, puts the page in its place. */
static void answer_faults(int uffd, int server)
{
	uint8_t answer[PS_REQUEST_BYTES + PAGE_BYTES];
	struct uffdio_copy copy = {.src = (uintptr_t)answer + PS_REQUEST_BYTES, .len = PAGE_BYTES};
	struct uffd_msg msg;

	fcntl(uffd, F_SETFL, 0);
	while (read(uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		if (msg.event != UFFD_EVENT_PAGEFAULT)
			continue;
		copy.dst = msg.arg.pagefault.address & ~(PAGE_BYTES - 1);
		ask(server, (copy.dst - AREA) / PAGE_BYTES, 1);
		if (!recv_all(server, answer, sizeof(answer)))
			die("bare: receive", NULL);
		if (ioctl(uffd, UFFDIO_COPY, &copy) < 0)
			die("bare: UFFDIO_COPY", NULL);
	}
	_exit(0);
}

/* What the bulk of a post-copy does at least: bytes go over a socket all the time, into fresh memory. Its group is to be ended. */
static pid_t start_bulk(void)
{
	uint16_t port;
	pid_t pid = fork();

	if (pid == 0) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		start_server(&port);
		for (;;)
			rate_floor(port);
	}
	usleep(300000); /* its memory is filled */
	return pid;
}

static void bare_faults(uint16_t port, const char *name)
{
	int pidfd, uffd, server;
	struct shared *sh;
	pid_t pid, engine;
	struct err err;

	sh = start_victim(true, &pid, &pidfd, &uffd);
	server = tcp_connect("127.0.0.1", port, 1000, &err);
	if (server < 0)
		die("bare", &err);
	engine = fork();
	if (engine == 0)
		answer_faults(uffd, server);
	close(server);
	close(pidfd);
	close(uffd);
	sh->go = 1;
	while (!sh->done)
		usleep(500);
	print_latency(name, sh->ns, sh->n);
	end_victim(sh, pid, name);
	kill(engine, SIGKILL);
	waitpid(engine, NULL, 0);
}

static double serve_victim(const struct way *way, const char *name, bool touch, bool background)
{
	struct lazy_source *source;
	struct lazy_space *space;
	struct lazy_stats st;
	struct shared *sh;
	struct lazy *z;
	struct err err;
	uint64_t start;
	int pidfd, uffd;
	pid_t pid;

	sh = start_victim(touch, &pid, &pidfd, &uffd);
	source = way->open(&err);
	z = source ? lazy_open(source, NULL, &err) : NULL;
	space = z ? lazy_add(z, OBJECT, uffd, pidfd, &err) : NULL;
	if (!space || lazy_missing(space, AREA, pages, &err) < 0)
		die(name, &err);
	sh->go = 1;
	start = now_ns();
	if (background)
		lazy_start(z);
	while (touch ? !sh->done : lazy_left_pages(z) > 0)
		if (lazy_step(z, -1, 10, &err) < 0)
			die(name, &err);
	start = now_ns() - start;
	lazy_stats(z, &st);
	if (touch && background)
		printf("%s_rate %.0f MB/s\n", name,
		       (double)(st.bulk_pages * PAGE_BYTES) / (double)start * 1e3);
	if (touch && sh->n > 10)
		print_latency(name, sh->ns, sh->n);
	if (touch)
		printf("%s_faults %zu\n", name, sh->n);
	end_victim(sh, pid, name);
	lazy_close(z);
	way->close(source);
	return st.drain_ns ? (double)(pages * PAGE_BYTES) / (double)st.drain_ns * 1e3 : 0;
}

static const struct way *find_way(const char *name)
{
	if (strcmp(name, "page-server") == 0)
		return &page_server_way;
	return strcmp(name, "tcp") == 0 || strcmp(name, "tls") == 0 ? lanes_way(name, pages) : NULL;
}

int main(int argc, char **argv)
{
	const struct way *way;
	pid_t server, bulk;
	double floor, drain;

	pages = (argc > 2 ? strtoul(argv[2], NULL, 10) : 512) * 256;
	way = argc > 1 && pages ? find_way(argv[1]) : NULL;
	if (!way) {
		fprintf(stderr, "usage: bench-lazy page-server|tcp|tls [MIB]\n");
		return 2;
	}
	run_on(1);
	server = start_server(&server_port);
	latency_floor(server_port);
	bare_faults(server_port, "bare");
	bulk = start_bulk();
	bare_faults(server_port, "bare_busy");
	kill(-bulk, SIGKILL);
	waitpid(bulk, NULL, 0);
	serve_victim(way, "fault", true, false);
	serve_victim(way, "busy", true, true);
	serve_victim(way, "warm", false, true);
	rate_floor(server_port); /* the first of each finds cold memory */
	floor = rate_floor(server_port);
	drain = serve_victim(way, "drain", false, true);
	printf("rate_floor %.0f MB/s\ndrain %.0f MB/s\n", floor, drain);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * How fast bytes go through a TLS tunnel, beside a plain connection of the same run.
 *
 *	bench-transport [MIB [CONNECTIONS]]
 *
 * This process sends over the loopback to a child, through both ends' tunnels, as a migration does; then the same over
 * plain TCP. Prints lines "NAME VALUE UNIT":
 *
 *	plain, tls	bytes of memory in the time until the other side has all of them
 *	tls_seal	the same by the processor's time of the sender's tunnel: one core has no more to give
 *	tls_open	and of the receiver's
 *
 * For one connection also what anybody could reach with this libssl and this kernel, by the same measure: a loop in one thread
 * at each end, that does nothing else, with our cipher and large buffers of the kernel:
 *
 *	copy_*		write(2) and read(2), of 256 KiB: what the kernel takes
 *	record_*	SSL_write and SSL_read, a record at a time, as libssl does by itself
 *	gather_*	the same, with 256 KiB of records for a system call, as the tunnel does
 *	hop_*		write(2) and read(2) through a pair of unix sockets, as between a tunnel and its user
 */
#include "base/attrs.h"
#include "base/clock.h"
#include "base/io.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

enum {
	PIECE_BYTES = 1 << 20,
	TIMEOUT_MS = 10000,
	WAYS_MAX = 8,
	RECORD_BYTES = 16 << 10,
	GATHER_BYTES = 256 << 10,
	KERNEL_BYTES = 16 << 20, /* what the kernel may hold of a bare connection: with less it was slower */
	HOP_BYTES = 512 << 10,	 /* and between tunnel and user, in wire/tunnel.c */
};

static size_t total, ways = 1; /* bytes of each connection; connections */
static struct secret secret = {.key = {1, 2, 3}};

__attribute__((noreturn)) static void die(const char *what, const struct err *err)
{
	fprintf(stderr, "bench-transport: %s: %s\n", what, err ? err->text : "failed");
	exit(1);
}

/* An end of a connection, and its tunnel if it has one. */
struct end {
	int fd;
	struct tls *tls;
	struct tunnel *tunnel;
};

static void wrap(struct end *e, enum tls_role role)
{
	struct err err;
	int user;

	e->tls = tls_with_secret(role, &secret, &err);
	if (e->tls)
		e->tunnel = tunnel_open(e->tls, e->fd, NULL, NULL, &user, &err);
	if (!e->tunnel)
		die("tunnel", &err);
	e->fd = user;
}

static void end_close(struct end *e)
{
	close(e->fd);
	tunnel_finish(e->tunnel);
	tls_free(e->tls);
}

/* Nanoseconds of the processor that the threads beside this one have taken: they are all tunnels. */
static uint64_t others_ns(void)
{
	cleanup_dir DIR *tasks = opendir("/proc/self/task");
	uint64_t ns = 0;
	struct dirent *d;

	while (tasks && (d = readdir(tasks))) {
		cleanup_free char *text = NULL;

		if (d->d_name[0] == '.' || atoi(d->d_name) == getpid() ||
		    io_read_filef(&text, NULL, "/proc/self/task/%s/schedstat", d->d_name))
			continue;
		ns += strtoull(text, NULL, 10);
	}
	return ns;
}

/* ---- the child ---- */

static void receive_all(struct end *ends, size_t n)
{
	cleanup_free uint8_t *buf = malloc(PIECE_BYTES);
	size_t left[WAYS_MAX], open = n;
	struct pollfd p[WAYS_MAX];

	if (!buf)
		die("memory", NULL);
	for (size_t i = 0; i < n; i++) {
		left[i] = total;
		p[i] = (struct pollfd){.fd = ends[i].fd, .events = POLLIN};
	}
	while (open) {
		if (poll(p, n, TIMEOUT_MS) <= 0)
			die("nothing comes", NULL);
		for (size_t i = 0; i < n; i++) {
			ssize_t got;

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			got = recv(p[i].fd, buf, MIN(left[i], (size_t)PIECE_BYTES), 0);
			if (got <= 0)
				die("the connection ended", NULL);
			left[i] -= (size_t)got;
			if (!left[i]) {
				p[i].fd = -1;
				open--;
			}
		}
	}
}

__attribute__((noreturn)) static void receiver(int listener, bool tls)
{
	struct end ends[WAYS_MAX] = {0};
	struct pollfd p = {.fd = listener, .events = POLLIN};
	uint64_t before, took;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < ways; i++) {
		if (poll(&p, 1, TIMEOUT_MS) != 1)
			die("nobody connects", NULL);
		ends[i].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (ends[i].fd < 0)
			die("accept", NULL);
		tcp_prepare(ends[i].fd);
		if (tls)
			wrap(&ends[i], TLS_SERVER);
	}
	before = others_ns();
	receive_all(ends, ways);
	took = others_ns() - before;
	if (io_write_full(ends[0].fd, &took, sizeof(took)))
		die("answer", NULL);
	for (size_t i = 0; i < ways; i++)
		end_close(&ends[i]);
	exit(0);
}

/* ---- this process ---- */

/* A piece to each that can take one, until all have everything. */
static void send_all(struct end *ends, size_t n, const uint8_t *memory)
{
	size_t at[WAYS_MAX] = {0}, open = n;
	struct pollfd p[WAYS_MAX];

	for (size_t i = 0; i < n; i++)
		p[i] = (struct pollfd){.fd = ends[i].fd, .events = POLLOUT};
	while (open) {
		if (poll(p, n, TIMEOUT_MS) <= 0)
			die("nothing goes", NULL);
		for (size_t i = 0; i < n; i++) {
			ssize_t done;

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			done = send(p[i].fd, memory + at[i] % PIECE_BYTES,
				    MIN(total - at[i], PIECE_BYTES - at[i] % PIECE_BYTES),
				    MSG_NOSIGNAL | MSG_DONTWAIT);
			if (done < 0)
				continue; /* until poll says so again */
			at[i] += (size_t)done;
			if (at[i] == total) {
				p[i].fd = -1;
				open--;
			}
		}
	}
}

static double mb_per_s(uint64_t ns)
{
	return (double)(total * ways) * 1e3 / (double)ns;
}

static void measure(bool tls, const uint8_t *memory)
{
	struct end ends[WAYS_MAX] = {0};
	uint64_t start, before, sealed, opened;
	uint16_t port;
	struct err err;
	int status, listener = tcp_listen(NULL, 0, &port, &err);
	pid_t child;

	if (listener < 0)
		die("listen", &err);
	child = fork();
	if (child == 0)
		receiver(listener, tls);
	close(listener);
	for (size_t i = 0; i < ways; i++) {
		ends[i].fd = tcp_connect("127.0.0.1", port, TIMEOUT_MS, &err);
		if (ends[i].fd < 0)
			die("connect", &err);
		if (tls)
			wrap(&ends[i], TLS_CLIENT);
	}
	before = others_ns();
	start = clock_ns();
	send_all(ends, ways, memory);
	if (io_read_full(ends[0].fd, &opened, sizeof(opened)))
		die("no answer", NULL);
	start = clock_ns() - start;
	sealed = others_ns() - before;
	printf("%s %.0f MB/s\n", tls ? "tls" : "plain", mb_per_s(start));
	if (tls)
		printf("tls_seal %.0f MB/s\ntls_open %.0f MB/s\n", mb_per_s(sealed),
		       mb_per_s(opened));
	fflush(stdout);
	for (size_t i = 0; i < ways; i++)
		end_close(&ends[i]);
	if (waitpid(child, &status, 0) != child || status)
		die("the receiver", NULL);
}

/* ---- nothing but the calls: for one connection ---- */

struct bare {
	const char *name;
	bool tls, gather, hop;
};

/* Of the calling thread. */
static uint64_t thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Large buffers, and, with TLS, a session whose handshake is done. NULL: without TLS. */
static SSL *bare_begin(const struct bare *b, int fd, struct tls *tls)
{
	const int bytes = b->hop ? HOP_BYTES : KERNEL_BYTES;
	BIO *gather = NULL, *net;
	struct err err;
	SSL *ssl;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		die("large buffers (needs root)", NULL);
	if (!b->tls)
		return NULL;
	ssl = tls_session(tls, fd, &err);
	if (!ssl)
		die("session", &err);
	if (!b->gather) {
		SSL_set_read_ahead(ssl, 0);
		SSL_set_default_read_buffer_len(ssl, 0);
	}
	if (SSL_do_handshake(ssl) != 1)
		die("handshake", NULL);
	if (!b->gather)
		return ssl;
	net = SSL_get_wbio(ssl);
	gather = BIO_new(BIO_f_buffer());
	if (!gather || BIO_set_write_buffer_size(gather, GATHER_BYTES + RECORD_BYTES) <= 0 ||
	    !BIO_up_ref(net))
		die("memory", NULL);
	SSL_set0_wbio(ssl, BIO_push(gather, net));
	return ssl;
}

/* Processor's time of sending everything. */
static uint64_t bare_send(const struct bare *b, int fd, SSL *ssl, const uint8_t *memory)
{
	uint64_t before = thread_ns();
	size_t piece = b->tls && !b->gather ? RECORD_BYTES : GATHER_BYTES;

	for (size_t at = 0; at < total; at += piece) {
		const uint8_t *from = memory + at % PIECE_BYTES;

		for (size_t done = 0; ssl && done < piece;) {
			int n = SSL_write(ssl, from + done, (int)(piece - done));

			if (n <= 0)
				die("SSL_write", NULL);
			done += (size_t)n;
		}
		if (ssl ? BIO_flush(SSL_get_wbio(ssl)) <= 0 : io_write_full(fd, from, piece))
			die("sending", NULL);
	}
	return thread_ns() - before;
}

static uint64_t bare_receive(int fd, SSL *ssl, uint8_t *buf)
{
	uint64_t before = thread_ns();

	for (size_t left = total; left;) {
		ssize_t n = ssl ? SSL_read(ssl, buf, RECORD_BYTES) : read(fd, buf, GATHER_BYTES);

		if (n <= 0)
			die("the connection ended", NULL);
		left -= (size_t)n;
	}
	return thread_ns() - before;
}

/* Both ends of a connection within this process. */
static void connect_self(bool hop, int pair[2])
{
	struct pollfd p = {.events = POLLIN};
	uint16_t port;
	struct err err;

	if (hop) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			die("socketpair", NULL);
		return;
	}
	p.fd = tcp_listen(NULL, 0, &port, &err);
	if (p.fd < 0)
		die("listen", &err);
	pair[0] = tcp_connect("127.0.0.1", port, TIMEOUT_MS, &err);
	if (pair[0] < 0)
		die("connect", &err);
	if (poll(&p, 1, TIMEOUT_MS) != 1)
		die("nobody connects", NULL);
	pair[1] = accept4(p.fd, NULL, NULL, SOCK_CLOEXEC);
	if (pair[1] < 0)
		die("accept", NULL);
	tcp_prepare(pair[1]);
	close(p.fd);
}

static struct tls *bare_tls(enum tls_role role)
{
	struct err err;
	struct tls *tls = tls_with_secret(role, &secret, &err);

	if (!tls)
		die("TLS", &err);
	return tls;
}

__attribute__((noreturn)) static void bare_receiver(const struct bare *b, int fd)
{
	cleanup_free uint8_t *buf = malloc(PIECE_BYTES);
	struct tls *tls = bare_tls(TLS_SERVER);
	SSL *ssl = bare_begin(b, fd, tls);
	uint64_t took;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!buf)
		die("memory", NULL);
	took = bare_receive(fd, ssl, buf);
	if (io_write_full(fd, &took, sizeof(took)))
		die("answer", NULL);
	SSL_free(ssl);
	tls_free(tls);
	exit(0);
}

static void measure_bare(const struct bare *b, const uint8_t *memory)
{
	uint64_t sent, received;
	struct tls *tls;
	int pair[2], status;
	pid_t child;
	SSL *ssl;

	connect_self(b->hop, pair);
	child = fork();
	if (child < 0)
		die("fork", NULL);
	if (child == 0) {
		close(pair[0]);
		bare_receiver(b, pair[1]);
	}
	close(pair[1]);
	tls = bare_tls(TLS_CLIENT);
	ssl = bare_begin(b, pair[0], tls);
	sent = bare_send(b, pair[0], ssl, memory);
	if (io_read_full(pair[0], &received, sizeof(received)))
		die("no answer", NULL);
	printf("%s_send %.0f MB/s\n%s_receive %.0f MB/s\n", b->name, mb_per_s(sent), b->name,
	       mb_per_s(received));
	fflush(stdout);
	SSL_free(ssl);
	tls_free(tls);
	close(pair[0]);
	if (waitpid(child, &status, 0) != child || status)
		die("the receiver", NULL);
}

int main(int argc, char **argv)
{
	static const struct bare bares[] = {
		{.name = "copy"},
		{.name = "record", .tls = true},
		{.name = "gather", .tls = true, .gather = true},
		{.name = "hop", .hop = true},
	};
	uint8_t *memory = malloc(PIECE_BYTES);

	ways = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
	if (!memory || ways < 1 || ways > WAYS_MAX)
		die("arguments", NULL);
	total = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1024) * (1 << 20) / ways;
	for (size_t i = 0; i < PIECE_BYTES; i++)
		memory[i] = (uint8_t)(i * 7 + i / 251);
	measure(false, memory);
	measure(true, memory);
	for (size_t i = 0; ways == 1 && i < ARRAY_SIZE(bares); i++)
		measure_bare(&bares[i], memory);
	free(memory);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Both ends of a post-copy without a migration around it: a process that has the memory, as the tree at home,
 * one that hands it out, as the source of ferry migrate, and the lanes between that and this one. Nothing is
 * packed (--compress=none).
 */
#include "lazy.h"

#include "migrate/connect.h"
#include "migrate/lane_source.h"
#include "migrate/pages.h"
#include "wire/tls.h"

#include <openssl/rand.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_MS = 20000 };

static struct lanes {
	uint64_t pages;
	uint8_t n; /* lanes: as ferry migrate has them by default */
	char token[WIRE_TOKEN_CHARS + 1];
	struct tls *client, *server; /* NULL: plain TCP */
	struct hall *hall;
	struct lane_source *source;
	pid_t home;
} the;

/* ---- at home ---- */

/* Returns its pid: a process with the memory, in which nothing happens. */
static pid_t start_tree(void)
{
	int ready[2];
	char byte;
	pid_t pid;

	if (pipe(ready) < 0)
		die("pipe", NULL);
	pid = fork();
	if (pid == 0) {
		uint8_t *memory = mmap((void *)AREA, the.pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (memory != (void *)AREA)
			_exit(1);
		fill_memory(memory, the.pages);
		(void)!write(ready[1], "", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		die("the tree at home", NULL);
	close(ready[0]);
	return pid;
}

static void dial(struct lane *lane, uint8_t index)
{
	const struct lane_call call = {
		.token = the.token,
		.kind = index ? LANE_BULK : LANE_DEMAND,
		.place = {LANE_VERSION, the.n, index, 1},
	};
	uint16_t port = hall_port(the.hall);
	struct err err;
	int rc;

	if (the.client)
		rc = lane_dial_tls(the.client, "127.0.0.1", port, &call, lane, &err);
	else
		rc = lane_dial_tcp("127.0.0.1", port, &call, lane, &err);
	if (rc < 0)
		die("a lane", &err);
	if (!index && lane_go_direct(lane, &err) < 0)
		die("a lane", &err);
	if (index && lane->tunnel)
		tunnel_unhurried(lane->tunnel);
}

__attribute__((noreturn)) static void be_home(void)
{
	struct pages_packing plain = {0};
	struct lane lanes[LANES_MAX];
	mem_ranges ranges = {0};
	struct serve *serve;
	struct pages *served;
	struct err err;
	int fds[LANES_MAX];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	at_home();
	serve = serve_create(&err);
	if (!serve || mem_ranges_push(&ranges, AREA, AREA + the.pages * PAGE_BYTES, &err) < 0 ||
	    serve_add(serve, OBJECT, start_tree(), &ranges, &err) < 0)
		die("home", &err);
	for (uint8_t i = 0; i < the.n; i++)
		dial(&lanes[i], i);
	for (uint8_t i = 0; i < the.n; i++) {
		if (lane_heard(&lanes[i], LIMIT_MS, "here", &err) < 0)
			die("a lane", &err);
		fds[i] = lanes[i].in;
	}
	served = pages_start(serve, &err);
	if (!served || pages_connect(served, fds, fds, the.n,
				     lanes[0].direct ? lanes[0].tunnel : NULL, &plain, &err) < 0)
		die("home", &err);
	for (;;)
		pause();
}

/* ---- here ---- */

static struct lazy_source *lanes_open(struct err *err)
{
	if (token_make(the.token, err) < 0)
		return NULL;
	the.hall = hall_open(the.token, "127.0.0.1", the.server, err);
	the.source = the.hall ? lane_source_create(the.hall, err) : NULL;
	if (!the.source)
		return NULL;
	the.home = fork();
	if (the.home == 0)
		be_home();
	if (lane_source_await(the.source, -1, LIMIT_MS, err) == 1)
		return lane_source_base(the.source);
	die("the lanes do not come", NULL);
}

static void lanes_close(struct lazy_source *source)
{
	kill(the.home, SIGKILL);
	waitpid(the.home, NULL, 0);
	lane_source_free(the.source);
	hall_close(the.hall);
}

const struct way *lanes_way(const char *transport, uint64_t pages)
{
	static const struct way way = {lanes_open, lanes_close};
	struct secret secret;
	struct err err;

	the.pages = pages;
	the.n = (uint8_t)(1 + MAX(1, MIN(sysconf(_SC_NPROCESSORS_ONLN) / 2, 4)));
	if (strcmp(transport, "tls") != 0)
		return &way;
	if (RAND_bytes(secret.key, sizeof(secret.key)) != 1)
		die("a secret", NULL);
	the.client = tls_with_secret(TLS_CLIENT, &secret, &err);
	the.server = the.client ? tls_with_secret(TLS_SERVER, &secret, &err) : NULL;
	if (!the.server)
		die("TLS", &err);
	return &way;
}

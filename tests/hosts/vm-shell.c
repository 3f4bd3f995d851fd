// SPDX-License-Identifier: Apache-2.0
/*
 * A remote shell without keys, for virtual machines that live as long as a test:
 *
 *	vm-shell serve ADDRESS PORT TOKEN [RC]       runs the commands that come in; RC first
 *	vm-shell run ADDRESS PORT TOKEN HOST COMMAND...   takes the place of ssh
 *
 * A connection begins with one line, "TOKEN COMMAND"; then it is the command's
 * standard input and output. Its standard error is the server's. `run` cannot know
 * the command's exit status. The server may be pid 1: it collects all orphans.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "vm-shell: %s: %s\n", what, strerror(errno));
	return 1;
}

static struct sockaddr_in address_of(const char *host, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	inet_pton(AF_INET, host, &a.sin_addr);
	return a;
}

static int write_all(int fd, const char *data, size_t bytes)
{
	ssize_t n;

	for (; bytes; data += n, bytes -= (size_t)n) {
		n = write(fd, data, bytes);
		if (n <= 0)
			return -1;
	}
	return 0;
}

/* ---- serve ---- */

/* Byte by byte: what follows the line belongs to the command. */
static int read_line(int fd, char *line, size_t max)
{
	size_t n;

	for (n = 0; n + 1 < max; n++) {
		if (read(fd, &line[n], 1) != 1)
			return -1;
		if (line[n] == '\n')
			break;
	}
	line[n] = 0;
	return 0;
}

static void execute(int fd, const char *token)
{
	char line[65536];
	size_t n = strlen(token);

	if (read_line(fd, line, sizeof(line)) || strncmp(line, token, n) != 0 || line[n] != ' ')
		_exit(1);
	setsid();
	signal(SIGCHLD, SIG_DFL);
	dup2(fd, 0);
	dup2(fd, 1);
	close(fd);
	execl("/bin/sh", "sh", "-c", line + n + 1, (char *)NULL);
	_exit(127);
}

static int serve(char **argv)
{
	struct sockaddr_in a = address_of(argv[0], argv[1]);
	int fd, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct pollfd p = {.fd = s, .events = POLLIN};

	/* Ready when the port answers: what must be there before is made before. */
	if (argv[3] && system(argv[3]) != 0)
		return fail(argv[3]);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 16))
		return fail(argv[1]);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (poll(&p, 1, 10) <= 0)
			continue;
		fd = accept4(s, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		if (fork() == 0)
			execute(fd, argv[2]);
		close(fd);
	}
}

/* ---- run ---- */

/* Copies what is there; 0 at the end of the input. */
static int copy(int from, int to)
{
	static char buf[65536];
	ssize_t n = read(from, buf, sizeof(buf));

	return n > 0 && write_all(to, buf, (size_t)n) == 0;
}

static int relay(int s)
{
	struct pollfd p[2] = {{.fd = s, .events = POLLIN}, {.fd = 0, .events = POLLIN}};

	for (;;) {
		if (poll(p, 2, -1) < 0)
			return fail("poll");
		if (p[0].revents && !copy(s, 1))
			return 0;
		if (p[1].revents && !copy(0, s)) {
			shutdown(s, SHUT_WR);
			p[1].fd = -1;
		}
	}
}

static int run(char **argv)
{
	struct sockaddr_in a = address_of(argv[0], argv[1]);
	int s = socket(AF_INET, SOCK_STREAM, 0);
	char **word;

	if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof(a)))
		return fail(argv[1]);
	if (write_all(s, argv[2], strlen(argv[2])))
		return fail("write");
	for (word = argv + 4; *word; word++)
		if (write_all(s, " ", 1) || write_all(s, *word, strlen(*word)))
			return fail("write");
	if (write_all(s, "\n", 1))
		return fail("write");
	return relay(s);
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 5 && argc <= 6 && strcmp(argv[1], "serve") == 0)
		return serve(argv + 2);
	if (argc >= 7 && strcmp(argv[1], "run") == 0)
		return run(argv + 2);
	fprintf(stderr, "usage: vm-shell serve ADDRESS PORT TOKEN [RC]\n"
			"       vm-shell run ADDRESS PORT TOKEN HOST COMMAND...\n");
	return 2;
}

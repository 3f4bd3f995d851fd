// SPDX-License-Identifier: Apache-2.0
// epoll: many targets of several kinds, edge-triggered and one-shot ones, data words, a target whose
// descriptor was duplicated, an epoll inside an epoll, one set shared by two tasks.
#include "victim.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MANY 100

static int set;

static void add(int epfd, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	MUST(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event));
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

// The targets as fdinfo tells them, without position in the kernel's tree and inode numbers.
static char *targets(int fd)
{
	char path[64], *text, *save, *lines[MANY + 20], *out = calloc(1, 65536);
	int count = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	text = victim_read_file(path);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (strncmp(line, "tfd:", 4) == 0)
			lines[count++] = line;
	qsort(lines, count, sizeof(lines[0]), compare_lines);
	for (int i = 0; i < count; i++) {
		char *pos = strstr(lines[i], " pos:");

		if (pos)
			*pos = '\0';
		strcat(strcat(out, lines[i]), "\n");
	}
	return out;
}

static void expect(int epfd, int want_count, uint64_t want_data, const char *what)
{
	struct epoll_event events[8] = {0};
	int got = epoll_wait(epfd, events, 8, 0);

	CHECK(got == want_count, "%s: %d events for %d", what, got, want_count);
	if (want_count == 1)
		CHECK(events[0].data.u64 == want_data, "%s: data is %#lx", what, events[0].data.u64);
}

static void child(void *arg)
{
	victim_wait();
	CHECK(victim_same_file(getpid(), set, getppid(), set), "the set is not shared");
}

int main(int argc, char **argv)
{
	int many[MANY], oneshot, edge, inner, outer, socks[2], level, duplicate;
	char *was, *is;
	pid_t pid;

	victim_start(argc, argv);
	set = MUST(epoll_create1(EPOLL_CLOEXEC));
	for (int i = 0; i < MANY; i++) {
		many[i] = MUST(eventfd(0, EFD_NONBLOCK));
		add(set, many[i], EPOLLIN | (i % 2 ? EPOLLET : 0), 0x100000000UL * i + 5);
	}
	inner = MUST(epoll_create1(0));
	outer = MUST(epoll_create1(0));
	level = MUST(eventfd(0, 0));
	add(inner, level, EPOLLIN | EPOLLPRI | EPOLLRDHUP, 0xfedcba9876543210);
	add(outer, inner, EPOLLIN, 11);
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	edge = MUST(epoll_create1(0));
	add(edge, socks[0], EPOLLIN | EPOLLOUT | EPOLLET, 12);
	oneshot = MUST(epoll_create1(0));
	add(oneshot, socks[1], EPOLLOUT | EPOLLONESHOT, 13);
	expect(oneshot, 1, 13, "set-up: one-shot"); // now it is spent
	// Two descriptors, one description.
	duplicate = MUST(dup(many[3]));
	pid = victim_fork(child, NULL);
	was = targets(set);
	victim_ready();
	victim_wait();
	is = targets(set);
	CHECK(strcmp(was, is) == 0, "targets were\n%sare\n%s", was, is);
	victim_reap(pid);
	expect(set, 0, 0, "nothing has happened");
	MUST(eventfd_write(many[42], 1));
	expect(set, 1, 42 * 0x100000000UL + 5, "level-triggered");
	expect(set, 1, 42 * 0x100000000UL + 5, "level-triggered, again");
	MUST(eventfd_write(many[42], 1));
	MUST(read(many[42], &(uint64_t){0}, 8));
	MUST(eventfd_write(duplicate, 1));
	expect(set, 1, 3 * 0x100000000UL + 5, "edge-triggered, by the duplicate");
	expect(set, 0, 0, "edge-triggered, second look");
	MUST(eventfd_write(level, 1));
	expect(inner, 1, 0xfedcba9876543210, "inner set");
	expect(outer, 1, 11, "outer set");
	expect(oneshot, 0, 0, "spent one-shot fires again");
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
// See victim.h.
#include "victim.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READY_TIMEOUT_MS 20000

static char dir[PATH_MAX];
static pid_t main_pid;

const char *victim_dir(void)
{
	return dir;
}

void victim_set_dir(const char *path)
{
	snprintf(dir, sizeof(dir), "%s", path);
}

const char *victim_path(const char *name)
{
	static _Thread_local char bufs[4][PATH_MAX + 64];
	static _Thread_local unsigned int next;
	char *buf = bufs[next++ % ARRAY_SIZE(bufs)];

	snprintf(buf, sizeof(bufs[0]), "%s/%s", dir, name);
	return buf;
}

// Write a small file in one step: readers see all of it or nothing.
static void put_file(const char *name, const char *text)
{
	char tmp[64];
	int fd;

	snprintf(tmp, sizeof(tmp), ".%s.%d", name, (int)syscall(SYS_gettid));
	fd = open(victim_path(tmp), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) == (ssize_t)strlen(text))
		rename(victim_path(tmp), victim_path(name));
	close(fd);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

// What the command does after the fork: wait until the victim is ready, dead or given up.
_Noreturn static void await_ready(pid_t child)
{
	int status;

	for (int ms = 0; ms < READY_TIMEOUT_MS; ms += 2) {
		if (access(victim_path("ready"), F_OK) == 0)
			exit(0);
		if (waitpid(child, &status, WNOHANG) == child) {
			if (access(victim_path("result"), F_OK) == 0)
				exit(0);
			fprintf(stderr, "victim died before it was ready (status %#x)\n", status);
			exit(1);
		}
		victim_sleep_ms(2);
	}
	fprintf(stderr, "victim is not ready after %d s\n", READY_TIMEOUT_MS / 1000);
	kill(child, SIGKILL);
	exit(1);
}

void victim_start(int argc, char **argv)
{
	int null;

	if (argc < 2 || !realpath(argv[1], dir)) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		exit(2);
	}
	main_pid = fork();
	if (main_pid < 0) {
		perror("fork");
		exit(1);
	}
	if (main_pid > 0)
		await_ready(main_pid);

	reset_signals();
	setsid();
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
	    close_range(3, ~0U, 0) < 0 || chdir("/") < 0)
		_exit(1);
	victim_adopt();
}

void victim_adopt(void)
{
	char text[32];

	main_pid = getpid();
	snprintf(text, sizeof(text), "%d\n", main_pid);
	put_file("pid", text);
}

void victim_ready(void)
{
	put_file("ready", "ready\n");
}

bool victim_asked(void)
{
	return access(victim_path("verify"), F_OK) == 0;
}

void victim_wait(void)
{
	while (!victim_asked())
		victim_sleep_ms(10);
}

void victim_pass(void)
{
	if (getpid() != main_pid)
		_exit(0);
	put_file("result", "PASS\n");
	_exit(0);
}

void victim_fail(const char *file, int line, const char *fmt, ...)
{
	char text[1024], full[1200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	file = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
	if (getpid() != main_pid) {
		snprintf(full, sizeof(full), "%s:%d: pid %d: %s\n", file, line, getpid(), text);
		put_file("reason", full);
		_exit(1);
	}
	snprintf(full, sizeof(full), "FAIL: %s:%d: %s\n", file, line, text);
	put_file("result", full);
	_exit(1);
}

void victim_skip(const char *fmt, ...)
{
	char text[512], full[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(full, sizeof(full), "SKIP: %s\n", text);
	put_file("result", full);
	_exit(0);
}

pid_t victim_fork(void (*fn)(void *), void *arg)
{
	pid_t pid = MUST(fork());

	if (pid)
		return pid;
	fn(arg);
	_exit(0);
}

void victim_reap(pid_t pid)
{
	int status;
	pid_t got;

	do
		got = waitpid(pid, &status, 0);
	while (got < 0 && errno == EINTR);
	CHECK(got == pid, "waitpid(%d) gives %d: %s", pid, got, strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (access(victim_path("reason"), F_OK) == 0)
		CHECK(false, "child: %s", victim_read_file(victim_path("reason")));
	CHECK(false, "child %d ended with status %#x", pid, status);
}

void *victim_map(size_t bytes, int prot, int flags)
{
	void *ptr = mmap(NULL, bytes, prot, flags, -1, 0);

	CHECK(ptr != MAP_FAILED, "mmap of %zu bytes: %s", bytes, strerror(errno));
	return ptr;
}

static uint64_t pattern(unsigned int tag, size_t word)
{
	return (word + 1) * 0x9e3779b97f4a7c15ULL ^ ((uint64_t)tag << 32 | ~tag);
}

void victim_fill(void *ptr, size_t bytes, unsigned int tag)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t value = pattern(tag, i / 8);

		memcpy((char *)ptr + i, &value, bytes - i < 8 ? bytes - i : 8);
	}
}

ssize_t victim_check(const void *ptr, size_t bytes, unsigned int tag)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t value = pattern(tag, i / 8);

		if (memcmp((const char *)ptr + i, &value, bytes - i < 8 ? bytes - i : 8) != 0)
			return i;
	}
	return -1;
}

static uint64_t page_word(uint64_t place, uint32_t generation, size_t i)
{
	return (place << 32 | generation) * 0x9e3779b97f4a7c15UL + i;
}

void victim_write_page(char *page, uint64_t place, uint32_t generation)
{
	uint64_t *words = (uint64_t *)page;

	for (size_t i = 0; i < VICTIM_PAGE / 8; i++)
		words[i] = page_word(place, generation, i);
}

void victim_check_page(const char *page, uint64_t place, uint32_t generation)
{
	const uint64_t *words = (const uint64_t *)page;

	for (size_t i = 0; i < VICTIM_PAGE / 8; i++)
		CHECK(words[i] == page_word(place, generation, i),
		      "pid %d: page %lx (generation %u) at %p: word %zu is %lx", getpid(), place,
		      generation, page, i, words[i]);
}

uint64_t victim_random(uint64_t *state)
{
	*state = *state * 6364136223846793005UL + 1442695040888963407UL;
	return *state >> 33;
}

char *victim_read_file(const char *path)
{
	size_t len = 0, room = 65536;
	char *text = malloc(room + 1);
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t got;

	CHECK(text, "no memory");
	while ((got = read(fd, text + len, room - len)) > 0) {
		len += got;
		if (len == room) {
			room *= 2;
			text = realloc(text, room + 1);
			CHECK(text, "no memory");
		}
	}
	CHECK(got == 0, "read %s: %s", path, strerror(errno));
	close(fd);
	text[len] = '\0';
	return text;
}

char *victim_lines(const char *path, const char *const *keys)
{
	char *text = victim_read_file(path), *out = calloc(1, strlen(text) + 1), *save;

	CHECK(out, "no memory");
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		for (const char *const *key = keys; *key; key++) {
			size_t len = strlen(*key);

			if (strncmp(line, *key, len) == 0 && line[len] == ':') {
				strcat(out, line);
				strcat(out, "\n");
			}
		}
	}
	free(text);
	return out;
}

uint64_t victim_pfn(pid_t pid, const void *addr)
{
	char path[64];
	uint64_t entry = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(pread(fd, &entry, 8, (uintptr_t)addr / VICTIM_PAGE * 8));
	close(fd);
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

// Find addr in maps or smaps text: start of the line of its area.
static char *find_area(char *text, const void *addr)
{
	unsigned long start, end;
	char *line = text;

	while (line && *line) {
		char *newline = strchr(line, '\n');

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && (uintptr_t)addr >= start &&
		    (uintptr_t)addr < end)
			return line;
		line = newline ? newline + 1 : NULL;
	}
	return NULL;
}

static char *copy_line(const char *line)
{
	char *copy = strndup(line, strcspn(line, "\n"));

	CHECK(copy, "no memory");
	return copy;
}

char *victim_maps_line(const void *addr)
{
	char *text = victim_read_file("/proc/self/maps"), *line = find_area(text, addr), *copy;

	copy = line ? copy_line(line) : NULL;
	free(text);
	return copy;
}

bool victim_moved(void)
{
	return access(victim_path("moved"), F_OK) == 0;
}

bool victim_same_area(const char *was, const char *is)
{
	// Addresses, rights and offset; device and inode are skipped; the path.
	const char *format = "%127s %15s %31s %*s %*s %4095[^\n]";
	char was_text[4][4096] = {0}, is_text[4][4096] = {0};

	if (strcmp(was, is) == 0)
		return true;
	if (!victim_moved())
		return false;
	sscanf(was, format, was_text[0], was_text[1], was_text[2], was_text[3]);
	sscanf(is, format, is_text[0], is_text[1], is_text[2], is_text[3]);
	for (int i = 0; i < 4; i++)
		if (strcmp(was_text[i], is_text[i]) != 0)
			return false;
	return true;
}

char *victim_vmflags(const void *addr)
{
	char *text = victim_read_file("/proc/self/smaps"), *line = find_area(text, addr), *copy;

	line = line ? strstr(line, "VmFlags:") : NULL;
	CHECK(line, "no VmFlags for %p", addr);
	copy = copy_line(line);
	free(text);
	return copy;
}

int64_t victim_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

void victim_sleep_ms(long ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

bool victim_same_file(pid_t pid1, int fd1, pid_t pid2, int fd2)
{
	return syscall(SYS_kcmp, pid1, pid2, 0 /* KCMP_FILE */, (long)fd1, (long)fd2) == 0;
}

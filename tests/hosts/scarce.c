// SPDX-License-Identifier: Apache-2.0
/*
 * LD_PRELOAD: "ferry SCARCE_COMMAND" gets no memory for its allocation number SCARCE_AT (malloc, calloc, realloc,
 * anonymous mmap, of all threads together, counted from 1), with SCARCE_EVER for none after it either. In the file
 * SCARCE_COUNT it adds a line when it ends: how many it had asked for, and whether one was refused. Other programs are
 * left alone.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);

static atomic_ulong asked;
static unsigned long at;
static bool ours, ever;

__attribute__((constructor)) static void begin(void)
{
	char line[4096];
	const char *command = getenv("SCARCE_COMMAND"), *text = getenv("SCARCE_AT");
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, line, sizeof(line) - 1);

	close(fd);
	if (n <= 0 || !command)
		return;
	line[n] = '\0';
	if (strlen(line) < 5 || strcmp(line + strlen(line) - 5, "ferry") != 0)
		return;
	at = text ? strtoul(text, NULL, 10) : 0;
	ever = getenv("SCARCE_EVER") != NULL;
	ours = (ssize_t)strlen(line) + 1 < n && strcmp(line + strlen(line) + 1, command) == 0;
}

__attribute__((destructor)) static void end(void)
{
	const char *path = ours ? getenv("SCARCE_COUNT") : NULL;
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;

	if (fd >= 0)
		dprintf(fd, "%lu %s\n", asked, at && asked >= at ? "refused" : "had");
	close(fd);
}

static bool refused(void)
{
	unsigned long number;

	if (!ours)
		return false;
	number = atomic_fetch_add(&asked, 1) + 1;
	if (!at || (ever ? number < at : number != at))
		return false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return refused() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
	return refused() ? NULL : __libc_realloc(old, size);
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	static void *(*next)(void *, size_t, int, int, int, off_t);

	if ((flags & MAP_ANONYMOUS) && refused())
		return MAP_FAILED;
	if (!next)
		next = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
	return next(addr, length, prot, flags, fd, offset);
}

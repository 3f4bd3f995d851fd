// SPDX-License-Identifier: Apache-2.0
/*
 * Runs a fuzz target (LLVMFuzzerTestOneInput) over mutations of a corpus, with
 * any compiler and without a fuzzing engine:
 *
 *	fuzz-NAME [FILE | DIRECTORY]...
 *
 * For FUZZ_SECONDS (default 3) it takes an input of the corpus, damages it and
 * hands it over. FUZZ_SEED chooses which inputs: the same for the same number; "random"
 * is another run each time, which is for finding, as "make fuzz" does; without it a run
 * repeats the last one, so that a change that breaks nothing fails nothing. The input of the moment is kept in a
 * file, FUZZ_INPUT (default fuzz-NAME.input in $BUILD_DIR or /tmp), which survives
 * a crash: give it as the only FILE with FUZZ_SECONDS=0 to see the
 * crash again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A target may define this: writes one more input of the corpus to @out, returns its size. */
__attribute__((weak)) size_t fuzz_seed(uint8_t *out, size_t cap);

enum { MAX_INPUT_BYTES = 1 << 16, MAX_CORPUS = 4096 };

struct input {
	uint8_t *data;
	size_t bytes;
};

static struct input corpus[MAX_CORPUS];
static size_t corpus_n;
static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static size_t random_below(size_t n)
{
	return n ? random_next() % n : 0;
}

static void die(const char *what)
{
	fprintf(stderr, "fuzz: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void corpus_add_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data = malloc(MAX_INPUT_BYTES);

	if (!f || !data)
		die(path);
	if (corpus_n < MAX_CORPUS)
		corpus[corpus_n++] = (struct input){data, fread(data, 1, MAX_INPUT_BYTES, f)};
	fclose(f);
}

static void corpus_add(const char *path)
{
	char below[4096];
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	if (stat(path, &st))
		die(path);
	if (S_ISREG(st.st_mode)) {
		corpus_add_file(path);
		return;
	}
	dir = opendir(path);
	if (!dir)
		die(path);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
		if (!stat(below, &st) && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
			corpus_add(below);
	}
	closedir(dir);
}

static void corpus_add_seed(void)
{
	uint8_t *data = malloc(MAX_INPUT_BYTES);

	if (!data)
		die("seed");
	corpus[corpus_n++] = (struct input){data, fuzz_seed(data, MAX_INPUT_BYTES)};
}

/* Overwrites with a number that is often a limit of something. */
static void damage_number(uint8_t *data, size_t bytes)
{
	static const uint64_t limits[] = {
		0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, ~0ULL,
	};
	uint64_t v = limits[random_below(sizeof(limits) / sizeof(limits[0]))];
	size_t width = (size_t)1 << random_below(4);

	if (bytes >= width)
		memcpy(data + random_below(bytes - width + 1), &v, width);
}

/* Removes, repeats or swaps in a piece of another input. Returns the new size. */
static size_t damage_shape(uint8_t *data, size_t bytes)
{
	size_t at = random_below(bytes), len = 1 + random_below(bytes - at);
	const struct input *other;

	switch (random_below(4)) {
	case 0:
		return random_below(bytes + 1); /* truncate */
	case 1:
		if (at + len > bytes)
			return bytes;
		memmove(data + at, data + at + len, bytes - at - len);
		return bytes - len;
	case 2:
		if (at + len > bytes || bytes + len > MAX_INPUT_BYTES)
			return bytes;
		memmove(data + at + len, data + at, bytes - at);
		return bytes + len;
	default:
		other = &corpus[random_below(corpus_n)];
		len = len < other->bytes ? len : other->bytes;
		if (at + len > bytes)
			return bytes;
		memcpy(data + at, other->data + random_below(other->bytes - len + 1), len);
		return bytes;
	}
}

static size_t mutate(uint8_t *data, size_t bytes)
{
	for (size_t n = 1 + random_below(6); n && bytes; n--) {
		switch (random_below(4)) {
		case 0:
			data[random_below(bytes)] ^= (uint8_t)(1u << random_below(8));
			break;
		case 1:
			data[random_below(bytes)] = (uint8_t)random_next();
			break;
		case 2:
			damage_number(data, bytes);
			break;
		default:
			bytes = damage_shape(data, bytes);
		}
	}
	return bytes;
}

/* Opens the file that holds the input of the moment and outlives us. */
static int open_input_file(const char *program)
{
	const char *path = getenv("FUZZ_INPUT"), *folder = getenv("BUILD_DIR"), *name;
	char buf[4096];
	int fd;

	name = strrchr(program, '/');
	if (!path) {
		snprintf(buf, sizeof(buf), "%s/%s.input", folder ? folder : "/tmp",
			 name ? name + 1 : program);
		path = buf;
	}
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		die(path);
	return fd;
}

static void keep_input(int fd, const uint8_t *data, size_t bytes)
{
	if (ftruncate(fd, (off_t)bytes) || pwrite(fd, data, bytes, 0) != (ssize_t)bytes)
		die("keeping the input");
}

/* The target gets a heap copy of the exact size, so that ASan sees a read past the end. */
static void try_input(const uint8_t *data, size_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);

	if (!copy)
		die("input");
	memcpy(copy, data, bytes);
	LLVMFuzzerTestOneInput(copy, bytes);
	free(copy);
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Xorshift cannot begin with 0. */
static uint64_t first_random(const char *seed)
{
	static const uint64_t fixed = 0x9e3779b97f4a7c15ULL;

	if (!seed)
		return fixed;
	return (strcmp(seed, "random") ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) * fixed) | 1;
}

int main(int argc, char **argv)
{
	const char *seconds = getenv("FUZZ_SECONDS");
	double limit = seconds ? atof(seconds) : 3, start = now_s();
	const struct input *from;
	unsigned long runs = 0;
	static uint8_t data[MAX_INPUT_BYTES];
	size_t bytes;
	int keep;

	for (int i = 1; i < argc; i++)
		corpus_add(argv[i]);
	if (fuzz_seed)
		corpus_add_seed();
	if (!corpus_n)
		corpus[corpus_n++] = (struct input){(uint8_t *)"ferry", 5};
	random_state = first_random(getenv("FUZZ_SEED"));
	printf("seed %#llx, %zu inputs\n", (unsigned long long)random_state, corpus_n);
	fflush(stdout);

	for (size_t i = 0; i < corpus_n; i++, runs++)
		try_input(corpus[i].data, corpus[i].bytes);
	keep = limit > 0 ? open_input_file(argv[0]) : -1;
	while (keep >= 0 && now_s() - start < limit) {
		from = &corpus[random_below(corpus_n)];
		memcpy(data, from->data, from->bytes);
		bytes = mutate(data, from->bytes);
		keep_input(keep, data, bytes);
		try_input(data, bytes);
		runs++;
	}
	printf("%lu inputs tried\n", runs);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Contents of lazy files over a connection to the real source, which breaks, changes and goes.
#include "unit.h"

#include "base/io.h"
#include "lazyfs/content.h"
#include "lazyfs/jail.h"
#include "lazyfs/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { FILE_BYTES = 1 << 20, MODEL_BYTES = 3 << 20 };

/* A source in threads of its own, one for each connection, and what the client needs to reach it. */
struct fixture {
	char dir[64], path[96];
	int cache_fd;
	struct lf_hello hello;
	struct content_env env;
	int ours;  /* our end of the present connection */
	bool down; /* nobody answers */
	unsigned int connections;
	bool relayed; /* further connections are */
	unsigned int lose; /* a bit for each of the next answers: it is lost, and the connection with it */
};

static const struct serve_options reads, writes = {.writes = true};

static void *serve_with(const struct serve_options *opt, int fd)
{
	struct err err;

	(void)!lazyfs_serve(fd, fcntl(fd, F_DUPFD_CLOEXEC, 3), opt, NULL, &err);
	return NULL;
}

static void *serve(void *arg)
{
	return serve_with(&reads, (int)(intptr_t)arg);
}

static void *serve_changes(void *arg)
{
	return serve_with(&writes, (int)(intptr_t)arg);
}

struct relay {
	struct fixture *f;
	int client, source;
};

/* One read is one message here: the client waits for the answer before it asks again. 0: it is over. */
static ssize_t pass_on(int from, int to)
{
	static _Thread_local uint8_t buf[1 << 20];
	ssize_t n = read(from, buf, sizeof(buf));

	return n > 0 && (to < 0 || io_write_full(to, buf, (size_t)n) == 0) ? n : 0;
}

/* Answers are counted from the one after "ready". */
static void *relay(void *arg)
{
	struct relay *r = arg;
	struct pollfd p[] = {{.fd = r->client, .events = POLLIN},
			     {.fd = r->source, .events = POLLIN}};
	bool ready = false, over = false;

	while (!over && poll(p, 2, -1) > 0) {
		if (p[0].revents)
			over = !pass_on(r->client, r->source);
		if (over || !p[1].revents)
			continue;
		if (ready) {
			over = r->f->lose & 1;
			r->f->lose >>= 1;
		}
		over = !pass_on(r->source, over ? -1 : r->client) || over;
		ready = true;
	}
	close(r->client);
	close(r->source);
	free(r);
	return NULL;
}

static int relay_start(struct fixture *f, int source)
{
	struct relay *r = malloc(sizeof(*r));
	pthread_t thread;
	int sv[2];

	if (!r)
		abort();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	*r = (struct relay){f, sv[0], source};
	assert_int_equal(pthread_create(&thread, NULL, relay, r), 0);
	pthread_detach(thread);
	return sv[1];
}

static int link_open(void *arg, int *in_out, int *out_out, struct err *err)
{
	struct fixture *f = arg;
	pthread_t thread;
	int sv[2];

	if (f->down)
		return err_set(err, EHOSTDOWN, "down");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0 ||
	    pthread_create(&thread, NULL, f->env.writes ? serve_changes : serve,
			   (void *)(intptr_t)sv[1]))
		return err_sys(err, "source");
	pthread_detach(thread);
	if (f->relayed)
		sv[0] = relay_start(f, sv[0]);
	f->ours = sv[0];
	f->connections++;
	*in_out = sv[0];
	*out_out = fcntl(sv[0], F_DUPFD_CLOEXEC, 3);
	return 0;
}

static void fill(uint8_t *to, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (uint8_t)(seed = seed * 1103515245 + 12345, seed >> 16);
}

/* The source's file: data, a hole, data. */
static void write_source(const struct fixture *f, unsigned int seed, uint8_t *copy)
{
	cleanup_close int fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	memset(copy, 0, MODEL_BYTES);
	fill(copy, 300000, seed);
	fill(copy + 700001, FILE_BYTES - 700001 - 77, seed + 1);
	assert_true(fd >= 0);
	assert_int_equal(io_pwrite_full(fd, copy, 300000, 0), 0);
	assert_int_equal(io_pwrite_full(fd, copy + 700001, FILE_BYTES - 700001 - 77, 700001), 0);
	assert_int_equal(ftruncate(fd, FILE_BYTES - 77), 0);
}

static int set_up_as(void **state, bool changes)
{
	const struct lf_creds root = {.reads_all = true, .writes_all = changes};
	const struct remote_link link = {.open = link_open, .arg = calloc(1, sizeof(struct fixture))};
	struct fixture *f = link.arg;
	struct lf_export e = {.whole = true};
	struct err err;

	if (!f)
		abort();
	strcpy(f->dir, "/tmp/ferry-unit-lazyfs-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/file", f->dir);
	f->cache_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->hello = (struct lf_hello){.version = changes ? LF_VERSION_WRITES : LF_VERSION,
				     .token = changes ? 0x123456789abcdef : 0,
				     .root = "/"};
	f->env.writes = changes;
	e.path = f->dir;
	assert_true(vec_push(&f->hello.exports, e) && vec_push(&f->hello.creds, root));
	f->env.cache_fd = f->cache_fd;
	f->env.local_root = -1;
	f->env.remote = remote_open(&link, &f->hello, &err);
	assert_non_null(f->env.remote);
	*state = f;
	return 0;
}

static int set_up(void **state)
{
	return set_up_as(state, false);
}

static int set_up_changes(void **state)
{
	return set_up_as(state, true);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char command[128];

	remote_close(f->env.remote);
	lf_hello_free(&f->hello);
	close(f->cache_fd);
	snprintf(command, sizeof(command), "rm -r %s", f->dir);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static struct content *open_content(struct fixture *f)
{
	struct lf_attr attr;
	struct content *c;
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	jail_attr(&st, &attr);
	c = content_create(&f->env, f->path, &attr.id);
	assert_non_null(c);
	return c;
}

static void expect(struct content *c, uint64_t at, size_t n, const uint8_t *want)
{
	struct patience p = patience_start(20000, NULL, NULL);
	cleanup_free uint8_t *got = malloc(n + 1);

	assert_int_equal(content_read(c, got, n, at, NULL, &p), (ssize_t)n);
	assert_memory_equal(got, want + at, n);
}

/* One random change of contents and model; the size is returned. */
static uint64_t change(struct content *c, uint8_t *model, uint64_t size)
{
	struct patience p = patience_start(20000, NULL, NULL);
	uint64_t at = (uint64_t)rand() % (2 << 20), n = (uint64_t)rand() % 30000 + 1, old = size;
	cleanup_free uint8_t *data = malloc(n);

	switch (rand() % 4) {
	case 0:
	case 1:
		fill(data, n, (unsigned int)rand());
		assert_int_equal(content_write(c, data, n, at, &p), 0);
		memcpy(model + at, data, n);
		return MAX(size, at + n);
	case 2:
		size = rand() % 3 ? MAX(at, old / 2) : old + n;
		size = MIN(size, 2ull << 20);
		assert_int_equal(content_truncate(c, size), 0);
		memset(model + MIN(size, old), 0, MAX(size, old) - MIN(size, old));
		return size;
	default:
		assert_int_equal(content_allocate(c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
						  n, &p),
				 0);
		memset(model + at, 0, n);
		return size;
	}
}

/* Random changes beside an array; now and then the connection breaks. */
static void model_test(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);

	srand(11);
	for (unsigned int round = 0; round < 6; round++) {
		uint64_t size = FILE_BYTES - 77;
		struct content *c;

		write_source(f, round, model);
		c = open_content(f);
		for (int i = 0; i < 120; i++) {
			uint64_t at = (uint64_t)rand() % (2 << 20);

			size = change(c, model, size);
			assert_int_equal(content_size(c), size);
			if (at < size)
				expect(c, at, MIN(size - at, 50000), model);
			if (i == 60)
				shutdown(f->ours, SHUT_RDWR);
		}
		expect(c, 0, size, model);
		content_destroy(c);
	}
	assert_true(f->connections > 6);
}

static void fills(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct patience p = patience_start(20000, NULL, NULL);
	struct content_state st;
	bool complete = false;
	struct content *c;

	write_source(f, 1, model);
	c = open_content(f);
	assert_int_equal(content_write(c, "mine", 4, 5000, &p), 0);
	memcpy(model + 5000, "mine", 4);
	for (int i = 0; i < 100 && !complete; i++)
		assert_int_equal(content_fill(c, 100000, &complete, &p), 0);
	assert_true(complete);
	f->down = true;
	shutdown(f->ours, SHUT_RDWR);
	expect(c, 0, FILE_BYTES - 77, model);
	content_get_state(c, &st);
	assert_true(st.complete && st.modified && !st.stale);
	assert_int_equal(st.here_bytes, FILE_BYTES - 77);
	/* the hole was not filled */
	assert_true(st.blocks_512 * 512 < 750000);
	content_destroy(c);
}

static void change_is_seen(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *old = malloc(MODEL_BYTES), *new = malloc(MODEL_BYTES);
	struct patience p = patience_start(20000, NULL, NULL);
	struct content *c;
	uint8_t byte;

	write_source(f, 1, old);
	c = open_content(f);
	expect(c, 0, 4096, old);
	write_source(f, 2, new);
	assert_int_equal(content_read(c, &byte, 1, 290000, NULL, &p), -EIO);
	expect(c, 0, 4096, old); /* what was here stays what it was */
	assert_int_equal(atomic_load(&f->env.stale_files), 1);
	content_destroy(c);

	f->env.refetch = true;
	write_source(f, 1, old);
	c = open_content(f);
	expect(c, 0, 4096, old);
	write_source(f, 2, new);
	expect(c, 280000, 20000, new);
	expect(c, 0, 4096, new);
	/* but not if something was written here */
	assert_int_equal(content_write(c, "x", 1, 0, &p), 0);
	write_source(f, 3, old);
	assert_int_equal(content_read(c, &byte, 1, 900000, NULL, &p), -EIO);
	content_destroy(c);
}

static void gives_up(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct patience p;
	struct content *c;
	uint8_t byte;

	write_source(f, 1, model);
	c = open_content(f);
	f->down = true;
	shutdown(f->ours, SHUT_RDWR);
	p = patience_start(300, NULL, NULL);
	assert_int_equal(content_read(c, &byte, 1, 0, NULL, &p), -EIO);
	/* and when it is back, so are the data */
	f->down = false;
	expect(c, 0, 4096, model);
	content_destroy(c);
}

static void holes(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct patience p = patience_start(20000, NULL, NULL);
	struct content *c;
	uint64_t at;

	write_source(f, 1, model);
	c = open_content(f);
	assert_int_equal(content_seek(c, 350000, SEEK_DATA, &at, &p), 0);
	assert_int_equal(at, 700001 & ~4095);
	assert_int_equal(content_write(c, "x", 1, 500000, &p), 0);
	assert_int_equal(content_seek(c, 350000, SEEK_DATA, &at, &p), 0);
	assert_int_equal(at, 500000 & ~4095);
	assert_int_equal(content_seek(c, FILE_BYTES - 80, SEEK_HOLE, &at, &p), 0);
	assert_int_equal(at, FILE_BYTES - 77);
	assert_int_equal(content_seek(c, FILE_BYTES, SEEK_DATA, &at, &p), ENXIO);
	content_destroy(c);
}

/* The file of the source is also below "host", with this difference from it at its end. */
static void write_host_copy(struct fixture *f, const uint8_t *model, const char *end)
{
	char command[256], path[200];
	cleanup_close int fd = -1;

	snprintf(command, sizeof(command), "mkdir -p %s/host%s", f->dir, f->dir);
	assert_int_equal(system(command), 0);
	snprintf(path, sizeof(path), "%s/host%s", f->dir, f->path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, model, FILE_BYTES - 77), 0);
	assert_int_equal(io_pwrite_full(fd, end, strlen(end), FILE_BYTES - 100), 0);
	snprintf(path, sizeof(path), "%s/host", f->dir);
	f->env.local_root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->env.local_root >= 0);
}

/* A file that this host has is used instead of the source's, where it is the same and only there. */
static void local_files(void **state)
{
	static const char *const ends[] = {"", "different"};
	struct patience p = patience_start(20000, NULL, NULL);
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		struct remote_state before, after;
		uint64_t local, received;
		struct content *c;

		write_source(f, 3, model);
		write_host_copy(f, model, ends[i]);
		c = open_content(f);
		remote_get_state(f->env.remote, &before);
		assert_int_equal(content_write(c, "mine", 4, 300010, &p), 0);
		memcpy(model + 300010, "mine", 4);
		expect(c, 10000, 50000, model);
		expect(c, 0, FILE_BYTES - 77, model);
		remote_get_state(f->env.remote, &after);
		/* the block that was written to came from there, too, but for the four bytes */
		local = atomic_exchange(&f->env.local_bytes, 0);
		received = after.received_bytes - before.received_bytes;
		if (i == 0) {
			assert_int_equal(local, FILE_BYTES - 77);
			assert_true(received < 1000);
		} else {
			assert_in_range(local, 128 * 1024, FILE_BYTES - 4096);
			assert_in_range(received, 4096, FILE_BYTES - 128 * 1024);
		}
		content_destroy(c);
		close(f->env.local_root);
		f->env.local_root = -1;
	}
}

static void expect_at_home(const struct fixture *f, const uint8_t *model, uint64_t size)
{
	cleanup_close int fd = open(f->path, O_RDONLY);
	cleanup_free uint8_t *got = malloc(size + 1);
	struct stat st;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	assert_int_equal(st.st_size, size);
	assert_int_equal(io_pread_full(fd, got, size, 0), 0);
	assert_memory_equal(got, model, size);
	/* nothing is left to say that somebody is at it */
	assert_int_equal(fgetxattr(fd, "user.ferry.writing", got, 0), -1);
}

struct cutter {
	struct fixture *f;
	unsigned int after_us;
};

static void *cut_later(void *arg)
{
	const struct cutter *cutter = arg;

	usleep(cutter->after_us);
	shutdown(cutter->f->ours, SHUT_RDWR);
	return NULL;
}

/* Random changes go home in pieces, also while the connection breaks. */
static void sends_home(void **state)
{
	struct patience p = patience_start(20000, NULL, NULL);
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct fixture *f = *state;
	struct content_state st;
	struct lf_ident id;

	srand(12);
	for (unsigned int round = 0; round < 5; round++) {
		uint64_t size = FILE_BYTES - 77;
		struct content *c;

		write_source(f, round, model);
		c = open_content(f);
		for (int i = 0; i < 60; i++) {
			struct cutter cutter = {f, (unsigned int)rand() % 2000};
			pthread_t thread;
			const bool cut = rand() % 4 == 0;
			int error;

			for (int n = rand() % 4; n >= 0; n--)
				size = change(c, model, size);
			if (cut)
				assert_int_equal(pthread_create(&thread, NULL, cut_later, &cutter),
						 0);
			error = content_send(c, 1000000000ll * (1000 + i), rand() % 2, &p, &id);
			if (cut)
				pthread_join(thread, NULL);
			assert_int_equal(error, 0);
			assert_int_equal(id.size, size);
			expect_at_home(f, model, size);
			/* what is still missing comes from the file as it is by now */
			if (size)
				expect(c, (uint64_t)rand() % size, 1, model);
		}
		expect(c, 0, size, model);
		content_get_state(c, &st);
		assert_true(!st.modified && !st.stale);
		content_destroy(c);
	}
	assert_true(f->connections > 6);
}

/* Any of the answers may be lost after what they answer was done: that is nobody else's change. */
static void loses_answers(void **state)
{
	struct patience p = patience_start(60000, NULL, NULL);
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct fixture *f = *state;
	struct content *c;
	struct lf_ident id;

	f->relayed = true;
	shutdown(f->ours, SHUT_RDWR);
	/* write, which makes it longer; settle; and what resolves the doubts between them */
	for (unsigned int lose = 0; lose < 32; lose++) {
		const uint64_t size = FILE_BYTES + 5;

		write_source(f, lose, model);
		c = open_content(f);
		assert_int_equal(content_write(c, "longer", 6, FILE_BYTES - 1, &p), 0);
		memcpy(model + FILE_BYTES - 1, "longer", 6);
		expect(c, 0, FILE_BYTES - 1, model);
		f->lose = lose;
		assert_int_equal(content_send(c, 1000000000ll * (1000 + lose), lose % 2, &p, &id), 0);
		assert_int_equal(id.size, size);
		expect_at_home(f, model, size);
		content_destroy(c);
	}
}

/* Nobody is there when it is to go home; then it goes the next time. */
static void sends_later(void **state)
{
	struct patience p = patience_start(20000, NULL, NULL), little;
	cleanup_free uint8_t *model = malloc(MODEL_BYTES);
	struct fixture *f = *state;
	struct content *c;
	struct lf_ident id;

	write_source(f, 4, model);
	c = open_content(f);
	assert_int_equal(content_write(c, "first", 5, 4000, &p), 0);
	memcpy(model + 4000, "first", 5);
	f->down = true;
	shutdown(f->ours, SHUT_RDWR);
	little = patience_start(300, NULL, NULL);
	assert_int_equal(content_send(c, 1, true, &little, &id), EIO);
	assert_int_equal(content_truncate(c, 600000), 0);
	f->down = false;
	expect(c, 290000, 10000, model);
	assert_int_equal(content_send(c, 1000000000, true, &p, &id), 0);
	expect_at_home(f, model, 600000);
	content_destroy(c);
}

/* What somebody else did at home is not overwritten, and what was done here stays. */
static void conflicts(void **state)
{
	struct patience p = patience_start(20000, NULL, NULL);
	cleanup_free uint8_t *model = malloc(MODEL_BYTES), *other = malloc(MODEL_BYTES);
	struct fixture *f = *state;
	struct content *c;
	struct lf_ident id;

	write_source(f, 5, model);
	c = open_content(f);
	assert_int_equal(content_write(c, "mine", 4, 0, &p), 0);
	write_source(f, 6, other);
	for (int i = 0; i < 2; i++)
		assert_int_equal(content_send(c, 1000000000, false, &p, &id), ESTALE);
	expect_at_home(f, other, FILE_BYTES - 77);
	expect(c, 0, 4, (const uint8_t *)"mine");
	assert_int_equal(atomic_load(&f->env.stale_files), 1);
	content_destroy(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(model_test, set_up, tear_down),
		cmocka_unit_test_setup_teardown(fills, set_up, tear_down),
		cmocka_unit_test_setup_teardown(change_is_seen, set_up, tear_down),
		cmocka_unit_test_setup_teardown(gives_up, set_up, tear_down),
		cmocka_unit_test_setup_teardown(holes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(local_files, set_up, tear_down),
		cmocka_unit_test_setup_teardown(sends_home, set_up_changes, tear_down),
		cmocka_unit_test_setup_teardown(loses_answers, set_up_changes, tear_down),
		cmocka_unit_test_setup_teardown(sends_later, set_up_changes, tear_down),
		cmocka_unit_test_setup_teardown(conflicts, set_up_changes, tear_down),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

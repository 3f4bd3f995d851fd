// SPDX-License-Identifier: Apache-2.0
// What is handed out of a tree's files: from a process, as bytes and back; and damaged bytes.
#include "unit.h"

#include "migrate/files_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void encode(struct lf_out *out, char *paths[], size_t n, bool writes)
{
	Wire__FileNote notes[4], *pointers[4];
	Wire__FileList list = WIRE__FILE_LIST__INIT;
	struct err err;

	for (size_t i = 0; i < n; i++) {
		wire__file_note__init(&notes[i]);
		notes[i].path = paths[i];
		notes[i].dev = 100 + i;
		notes[i].ino = 200 + i;
		pointers[i] = &notes[i];
	}
	list.n_files = n;
	list.files = pointers;
	assert_int_equal(policy_encode(getpid(), &list, writes, out, &err), 0);
}

static void round_trip(void **state)
{
	char *paths[] = {(char *)"/z/last", (char *)"/", (char *)"/a", (char *)"not/absolute"};
	struct lf_out out = {0};
	struct serve_policy *p;
	bool root = false;
	struct err err;

	encode(&out, paths, ARRAY_SIZE(paths), false);
	p = policy_decode(out.data, out.bytes, &err);
	assert_non_null(p);
	assert_false(policy_writes(p));
	assert_false(p->hello.creds.v[0].writes_all);
	assert_string_equal(p->hello.root, "/");
	assert_int_equal(p->hello.creds.n, 1);
	assert_int_equal(p->hello.creds.v[0].uid, geteuid());
	assert_int_equal(p->held.n, 3);
	assert_string_equal(p->held.v[0].path, "/");
	assert_string_equal(p->held.v[2].path, "/z/last");
	assert_int_equal(p->held.v[2].dev, 100);
	assert_int_equal(p->held.v[2].ino, 200);
	vec_foreach (e, &p->hello.exports)
		root |= e->whole && !strcmp(e->path, "/");
	assert_true(root);
	serve_policy_free(p);
	free(p);
	lf_out_free(&out);
}

/* Leave to change files is part of it: a process that takes over hands out no less, and no more. */
static void takes_changes(void **state)
{
	char *paths[] = {(char *)"/a"};
	struct lf_out out = {0};
	struct serve_policy *p;
	struct err err;

	encode(&out, paths, ARRAY_SIZE(paths), true);
	p = policy_decode(out.data, out.bytes, &err);
	assert_non_null(p);
	assert_true(policy_writes(p));
	assert_int_equal(p->hello.creds.v[0].writes_all, geteuid() == 0);
	assert_int_equal(p->held.n, 1);
	serve_policy_free(p);
	free(p);
	lf_out_free(&out);
}

/* Each beginning of it is refused, or is one of fewer files. */
static void cut_off(void **state)
{
	char *paths[] = {(char *)"/a", (char *)"/b"};
	struct lf_out out = {0};
	size_t whole = 0;
	struct err err;

	encode(&out, paths, ARRAY_SIZE(paths), false);
	for (size_t n = 0; n < out.bytes; n++) {
		cleanup_free uint8_t *copy = malloc(n + 1);
		struct serve_policy *p;

		memcpy(copy, out.data, n);
		p = policy_decode(copy, n, &err);
		if (!p)
			continue;
		assert_true(p->held.n < 2);
		whole++;
		serve_policy_free(p);
		free(p);
	}
	assert_int_equal(whole, 2);
	lf_out_free(&out);
}

/*
 * As a process that is root but takes the rights of a task: what the task may not read is found if the tree has that
 * very file open, and only then.
 */
static void held_files(void **state)
{
	const struct lf_creds nobody = {.uid = 65534, .gid = 65534};
	char dir[] = "/tmp/ferry-unit-policy-XXXXXX", path[64];
	struct jail_held held = {.path = path};
	struct stat st, found;
	int status;

	if (geteuid() != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/secret", dir);
	close(open(path, O_WRONLY | O_CREAT, 0600));
	assert_int_equal(stat(path, &st), 0);
	held.dev = st.st_dev;
	held.ino = st.st_ino;
	/* in a process of its own: rights are given away */
	if (fork() == 0) {
		struct jail_held other = held;
		struct jail j;
		struct err err;
		bool ok = jail_init(&j, "/", &nobody, 1, &err) == 0;

		other.ino++;
		ok = ok && jail_open(&j, path, NULL, false) < 0 && errno == EACCES;
		ok = ok && jail_open(&j, path, &held, false) >= 0;
		ok = ok && jail_find(&j, path, &held, &found) >= 0;
		ok = ok && jail_open(&j, path, &other, false) < 0 && errno == EACCES;
		ok = ok && jail_open(&j, path, NULL, false) < 0 && errno == EACCES;
		_exit(!ok);
	}
	assert_true(wait(&status) > 0);
	unlink(path);
	rmdir(dir);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(takes_changes),
		cmocka_unit_test(cut_off),
		cmocka_unit_test(held_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Golden dumps against crit: the pretty JSON of each image equals what crit
 * made of it. And against ourselves: loading and saving changes no byte.
 */
#include "fixtures.h"

#include "snapshot/print.h"

#include <dirent.h>
#include <jansson.h>

static const char *const dumps[] = {
	"single",  "threads", "family",    "file",      "sockets",    "events",  "shm",
	"memfd",   "ghost",   "sigtimers", "tcplisten", "tcpest",     "pty",     "fifo",
	"seccomp", "sysv",    "glibc",     "lazydump",  "namespaces", "cpuinfo",
};

/* Strings are alike but for the line breaks in crit's base64. */
static bool same_text(const char *a, const char *b)
{
	for (;; a++, b++) {
		a += strspn(a, "\n");
		b += strspn(b, "\n");
		if (*a != *b)
			return false;
		if (!*a)
			return true;
	}
}

static void compare(const json_t *want, const json_t *got, const char *where)
{
	const char *key;
	json_t *value;
	char below[512];
	size_t i;

	if (!got || json_typeof(want) != json_typeof(got))
		fail_msg("%s: different types, or missing", where);
	switch (json_typeof(want)) {
	case JSON_OBJECT:
		assert_int_equal(json_object_size(want), json_object_size(got));
		json_object_foreach((json_t *)want, key, value)
		{
			snprintf(below, sizeof(below), "%s/%s", where, key);
			/* crit knows no name for the state of a dead task */
			if (!strcmp(key, "task_state") && json_is_number(value)) {
				assert_string_equal(json_string_value(json_object_get(got, key)),
						    "Dead");
				continue;
			}
			compare(value, json_object_get(got, key), below);
		}
		break;
	case JSON_ARRAY:
		if (json_array_size(want) != json_array_size(got))
			fail_msg("%s: %zu elements, not %zu", where, json_array_size(got),
				 json_array_size(want));
		for (i = 0; i < json_array_size(want); i++) {
			snprintf(below, sizeof(below), "%s/%zu", where, i);
			compare(json_array_get(want, i), json_array_get(got, i), below);
		}
		break;
	case JSON_STRING:
		if (!same_text(json_string_value(want), json_string_value(got)))
			fail_msg("%s: '%s', not '%s'", where, json_string_value(got),
				 json_string_value(want));
		break;
	default:
		if (!json_equal(want, got))
			fail_msg("%s: different values", where);
	}
}

/* Numbers up to 2^64-1 are beyond jansson's integers; as doubles they can still be compared. */
enum { LOAD_FLAGS = JSON_DECODE_INT_AS_REAL | JSON_REJECT_DUPLICATES };

/* The JSON of one image, or NULL and err. */
static json_t *image_json(struct store *store, const char *object, enum print_form form,
			  struct err *err)
{
	json_error_t json_err;
	void *data = NULL;
	char *text = NULL;
	size_t bytes;
	json_t *json;
	FILE *to;
	int rc;

	assert_int_equal(store_get(store, object, &data, &bytes, err), 0);
	to = open_memstream(&text, &(size_t){0});
	rc = image_print(to, form, object, data, bytes, err);
	fclose(to);
	free(data);
	json = rc ? NULL : json_loads(text, LOAD_FLAGS, &json_err);
	if (!rc && !json)
		fail_msg("%s: line %d: %s", object, json_err.line, json_err.text);
	free(text);
	return json;
}

static void equals_crit(void **state)
{
	json_error_t json_err;
	json_t *all, *want, *got;
	struct store *store;
	unsigned int compared = 0;
	const char *object;
	struct err err;
	char path[256];

	need_fixtures();
	for (size_t i = 0; i < ARRAY_SIZE(dumps); i++) {
		snprintf(path, sizeof(path), FIXTURES "/crit/%s.json", dumps[i]);
		all = json_load_file(path, LOAD_FLAGS, &json_err);
		assert_non_null(all);
		store = fixture_store(dumps[i]);
		json_object_foreach(all, object, want)
		{
			if (!json_object_get(want, "magic")) /* raw: crit has nothing to say */
				continue;
			got = image_json(store, object, PRINT_JSON_PRETTY, &err);
			if (!got)
				fail_msg("%s: %s", dumps[i], err.text);
			snprintf(path, sizeof(path), "%s/%s", dumps[i], object);
			compare(want, got, path);
			json_decref(got);
			compared++;
		}
		store_close(store);
		json_decref(all);
	}
	assert_true(compared > 250);
}

/* Plain JSON spells nothing out: every value that is no enum, text or bytes is a number. */
static void plain_json_has_numbers(void **state)
{
	struct store *store;
	struct err err;
	json_t *json;

	need_fixtures();
	store = fixture_store("single");
	json = image_json(store, "pagemap-34.img", PRINT_JSON, &err);
	assert_non_null(json);
	json_t *entry = json_array_get(json_object_get(json, "entries"), 2);
	assert_true(json_real_value(json_object_get(entry, "vaddr")) == 0x20000000);
	assert_true(json_real_value(json_object_get(entry, "flags")) == 6);
	json_decref(json);
	json = image_json(store, "core-34.img", PRINT_JSON, &err);
	entry = json_array_get(json_object_get(json, "entries"), 0);
	assert_string_equal(json_string_value(json_object_get(entry, "mtype")), "X86_64");
	json_decref(json);
	store_close(store);
}

static void strings_are_escaped(void **state)
{
	static const struct {
		const char *text, *json;
	} cases[] = {
		{"", "\"\""},
		{"a\"b\\c", "\"a\\\"b\\\\c\""},
		{"line\nbreak\x01\x7f", "\"line\\u000abreak\\u0001\\u007f\""},
		{"gr\xc3\xbc\xc3\x9f", "\"gr\xc3\xbc\xc3\x9f\""},
		{"\xe2\x82\xac\xf0\x9f\x9a\xa2", "\"\xe2\x82\xac\xf0\x9f\x9a\xa2\""},
		{"bad\xff\xc3", "\"bad\\udcff\\udcc3\""},
		{"\xc0\xaf\xed\xa0\x80", "\"\\udcc0\\udcaf\\udced\\udca0\\udc80\""}, /* not UTF-8 either */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *text = NULL;
		size_t bytes;
		FILE *to = open_memstream(&text, &bytes);

		print_json_string(to, cases[i].text);
		fclose(to);
		assert_string_equal(text, cases[i].json);
		free(text);
	}
}

/* ---- load and save ---- */

static void compare_image(struct store *before, struct store *after, const char *dump,
			  const char *object)
{
	void *a = NULL, *b = NULL;
	size_t n, m;
	struct err err;

	assert_int_equal(store_get(before, object, &a, &n, &err), 0);
	if (store_get(after, object, &b, &m, &err))
		fail_msg("%s/%s: not saved", dump, object);
	if (n != m || memcmp(a, b, n) != 0)
		fail_msg("%s/%s: saved differently", dump, object);
	free(a);
	free(b);
}

static bool is_part_of_snapshot(const char *object)
{
	const struct image_kind *kind = image_kind_by_name(object);

	return kind && kind->header != IMAGE_RAW && kind->header != IMAGE_SERVICE &&
	       strcmp(kind->name, "TCP_STREAM") != 0;
}

static void save_gives_the_same_bytes(void **state)
{
	unsigned int compared = 0;
	struct store *before, *after;
	struct snapshot *snap;
	struct dirent *entry;
	struct err err = {0};
	char path[256];
	DIR *dir;

	need_fixtures();
	for (size_t i = 0; i < ARRAY_SIZE(dumps); i++) {
		before = fixture_store(dumps[i]);
		snap = snapshot_load(before, &err);
		if (snap) {
			after = store_memory_open(&err);
			if (snapshot_save(snap, after, &err) || store_complete(after, &err))
				fail_msg("%s: %s", dumps[i], err.text);
			snprintf(path, sizeof(path), FIXTURES "/%s", dumps[i]);
			dir = opendir(path);
			while ((entry = readdir(dir))) {
				if (!is_part_of_snapshot(entry->d_name))
					continue;
				compare_image(before, after, dumps[i], entry->d_name);
				compared++;
			}
			closedir(dir);
			store_close(after);
			snapshot_free(snap);
		}
		store_close(before);
	}
	assert_true(compared > 150);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equals_crit),
		cmocka_unit_test(plain_json_has_numbers),
		cmocka_unit_test(strings_are_escaped),
		cmocka_unit_test(save_gives_the_same_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

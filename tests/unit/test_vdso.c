// SPDX-License-Identifier: Apache-2.0
// kernel/vdso: symbols of images, and another kernel's image that is made to use ours.
#include "unit.h"

#include "kernel/vdso.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static struct vdso_set ours;

static int find_ours(void **state)
{
	struct err err;

	return vdso_find(&ours, &err);
}

static uint64_t symbol(const void *image, const char *name)
{
	struct vdso_symbols s;
	struct err err;

	assert_int_equal(vdso_parse(image, ours.image_bytes, &s, &err), 0);
	for (size_t i = 0; i < s.n; i++)
		if (strcmp(s.v[i].name, name) == 0)
			return s.v[i].off;
	return 0;
}

/* A writable copy of our image: "another kernel's". */
static uint8_t *copy_image(void)
{
	uint8_t *copy = mmap(NULL, ours.image_bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(copy, MAP_FAILED);
	memcpy(copy, ours.image, ours.image_bytes);
	return copy;
}

static void make_executable(uint8_t *image)
{
	assert_int_equal(mprotect(image, ours.image_bytes, PROT_READ | PROT_EXEC), 0);
}

static void rename_symbol(uint8_t *image, const char *from, const char *to)
{
	uint8_t *at = memmem(image, ours.image_bytes, from, strlen(from) + 1);

	assert_non_null(at);
	memcpy(at, to, strlen(to));
}

static int redirect(uint8_t *old, const uint8_t *new, struct err *err)
{
	return vdso_redirect(old, ours.image_bytes, new, ours.image_bytes, (uintptr_t)ours.image,
			     err);
}

static void set_is_found(void **state)
{
	assert_true(ours.n >= 2);
	assert_ptr_equal(ours.image, (void *)ours.part[ours.n - 1].start);
	for (size_t i = 1; i < ours.n; i++)
		assert_true(ours.part[i].start >= ours.part[i - 1].end);
	assert_true(symbol(ours.image, "__vdso_clock_gettime") > 0);
	assert_true(vdso_syscall_offset(ours.image, ours.image_bytes) > 0);
}

/* The copy has no vvar of its own: only through the jumps can it know the time. */
static void redirected_functions_work(void **state)
{
	uint8_t *old = copy_image();
	int (*gettime)(clockid_t, struct timespec *);
	struct timespec before, now, after;
	struct err err;

	assert_int_equal(redirect(old, ours.image, &err), 0);
	make_executable(old);
	gettime = (void *)(old + symbol(ours.image, "__vdso_clock_gettime"));
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_int_equal(gettime(CLOCK_MONOTONIC, &now), 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true(now.tv_sec >= before.tv_sec && now.tv_sec <= after.tv_sec);
	assert_int_equal(gettime(12345, &now), -EINVAL);
	munmap(old, ours.image_bytes);
}

/* What the kernel here has not got becomes a system call. */
static void missing_function_is_a_system_call(void **state)
{
	uint8_t *old = copy_image(), *new = copy_image();
	time_t (*get_time)(time_t *);
	time_t before, now = 0;
	struct err err;

	rename_symbol(new, "__vdso_time", "__vdsx_time");
	assert_int_equal(redirect(old, new, &err), 0);
	make_executable(old);
	get_time = (void *)(old + symbol(ours.image, "__vdso_time"));
	before = time(NULL);
	assert_true(get_time(&now) >= before);
	assert_true(now >= before && now <= before + 5);
	munmap(old, ours.image_bytes);
	munmap(new, ours.image_bytes);
}

static void unknown_function_is_named(void **state)
{
	uint8_t *old = copy_image();
	struct err err;

	rename_symbol(old, "__vdso_time", "__vdso_tame");
	assert_int_equal(redirect(old, ours.image, &err), -1);
	assert_non_null(strstr(err.text, "__vdso_tame"));
	munmap(old, ours.image_bytes);
}

static void cut_images_are_errors(void **state)
{
	struct vdso_symbols s;
	struct err err;

	for (size_t bytes = 0; bytes < 1024; bytes += 8)
		assert_int_equal(vdso_parse(ours.image, bytes, &s, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_is_found),
		cmocka_unit_test(redirected_functions_work),
		cmocka_unit_test(missing_function_is_a_system_call),
		cmocka_unit_test(unknown_function_is_named),
		cmocka_unit_test(cut_images_are_errors),
	};

	return cmocka_run_group_tests(tests, find_ours, NULL);
}

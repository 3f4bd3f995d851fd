// SPDX-License-Identifier: Apache-2.0
// base/log: what is written, what is not, and what it leaves alone.
#define LOG_MODULE "unit"
#include "unit.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

/* Everything logged since; the caller frees. */
static char *logged(int fd)
{
	char *text = NULL;

	assert_int_equal(io_read_filef(&text, NULL, "/proc/self/fd/%d", fd), 0);
	return text;
}

static int fresh_log(enum log_level level)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_true(fd >= 0);
	log_init(fd, level);
	return fd;
}

static void levels_above_are_silent(void **state)
{
	int fd = fresh_log(LOG_WARN);
	cleanup_free char *text = NULL;

	log_info("not this");
	log_debug("nor this");
	log_warn("but %s", "this");
	text = logged(fd);
	assert_null(strstr(text, "not this"));
	assert_null(strstr(text, "nor this"));
	assert_non_null(strstr(text, " warning unit: but this\n"));
	assert_int_equal(log_get_level(), LOG_WARN);
	close(fd);
}

static void errno_is_kept(void **state)
{
	int fd = fresh_log(LOG_DEBUG);

	errno = ERANGE;
	log_debug("x");
	assert_int_equal(errno, ERANGE);
	close(fd);
	errno = ENOENT;
	log_error("into a closed descriptor");
	assert_int_equal(errno, ENOENT);
}

static void a_long_line_is_cut_and_ends_in_a_newline(void **state)
{
	int fd = fresh_log(LOG_DEBUG);
	cleanup_free char *text = NULL;

	log_error("%05000d", 0);
	log_error("after");
	text = logged(fd);
	assert_non_null(strstr(text, "000\n"));
	assert_non_null(strstr(text, " error unit: after\n"));
	assert_true(strlen(text) < 2000);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_above_are_silent),
		cmocka_unit_test(errno_is_kept),
		cmocka_unit_test(a_long_line_is_cut_and_ends_in_a_newline),
	};
	int failed = cmocka_run_group_tests_name("log", tests, NULL, NULL);

	log_init(STDERR_FILENO, LOG_WARN);
	return failed;
}

// SPDX-License-Identifier: Apache-2.0
// What the modes of migrate are made of: the area of pre-copy rounds, lanes and their door, the record at home.
#include "migrate/area.h"
#include "migrate/given.h"
#include "migrate/home.h"
#include "migrate/kept.h"
#include "migrate/lane.h"
#include "migrate/record.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static void the_area_keeps_the_last_of_each_page(void **state)
{
	uint8_t page[2 * PAGE], got[2 * PAGE];
	struct err err;
	struct store *s = area_open(&err);
	void *image;
	size_t bytes;

	assert_non_null(s);
	memset(page, 1, sizeof(page));
	assert_int_equal(area_put(s, 7, 0x10000, page, sizeof(page), &err), 0);
	memset(page, 2, PAGE);
	assert_int_equal(area_put(s, 7, 0x11000, page, PAGE, &err), 0);
	assert_int_equal(area_put(s, 9, 0x11000, page, PAGE, &err), 0);
	assert_int_equal(store_get_pages(s, 1, 0x10000, got, sizeof(got), &err), 0);
	assert_int_equal(got[0], 1);
	assert_int_equal(got[PAGE], 2);
	assert_int_equal(store_get(s, "pagemap-7.img", &image, &bytes, &err), 0);
	free(image);
	assert_int_equal(store_get(s, "pagemap-9.img", &image, &bytes, &err), 0);
	free(image);
	store_close(s);
}

/* A page that never came must not read as zeros. */
static void the_area_has_no_zeros_of_its_own(void **state)
{
	uint8_t page[PAGE] = {0}, got[2 * PAGE];
	struct err err;
	struct store *s = area_open(&err);

	assert_non_null(s);
	assert_int_equal(area_put(s, 7, 0x10000, page, PAGE, &err), 0);
	assert_int_equal(store_get_pages(s, 1, 0x10000, got, PAGE, &err), 0);
	assert_int_equal(store_get_pages(s, 1, 0x10000, got, sizeof(got), &err), -1);
	assert_int_equal(store_get_pages(s, 1, 0x20000, got, PAGE, &err), -1);
	assert_non_null(strstr(err.text, "never sent"));
	assert_int_equal(store_get_pages(s, 2, 0x10000, got, PAGE, &err), -1);
	store_close(s);
}

static void what_is_kept_is_told_from_what_is_not(void **state)
{
	uint8_t pages[4 * PAGE], back[2 * PAGE];
	struct err err;
	struct store *s = area_open(&err);
	struct kept *k = kept_create(s, &err);
	bool here;

	for (size_t i = 0; i < sizeof(pages); i++)
		pages[i] = (uint8_t)(i / PAGE + 1);
	assert_int_equal(area_put(s, 7, 0x10000, pages, sizeof(pages), &err), 0);
	assert_int_equal(kept_add(k, 7, 0x10000, 2, &err), 0);
	assert_int_equal(kept_add(k, 7, 0x13000, 1, &err), 0);
	assert_int_equal(kept_pages(k), 3);
	/* never came: a page behind, another task, an address that wraps */
	assert_int_equal(kept_add(k, 7, 0x13000, 2, &err), -1);
	assert_int_equal(err.no, ENODATA);
	assert_int_equal(kept_add(k, 8, 0x10000, 1, &err), -1);
	assert_int_equal(kept_add(k, 7, UINT64_MAX - PAGE + 1, 1, &err), -1);

	assert_int_equal(kept_extent(k, 7, 0xf000, 9, &here), 1);
	assert_false(here);
	assert_int_equal(kept_extent(k, 7, 0x10000, 9, &here), 2);
	assert_true(here);
	assert_int_equal(kept_extent(k, 7, 0x11000, 9, &here), 1);
	assert_true(here);
	assert_int_equal(kept_extent(k, 7, 0x12000, 9, &here), 1);
	assert_false(here);
	assert_int_equal(kept_extent(k, 7, 0x14000, 9, &here), 9);
	assert_false(here);
	assert_int_equal(kept_extent(k, 9, 0x10000, 9, &here), 9);
	assert_false(here);

	assert_int_equal(kept_read(k, 7, 0x10000, back, 2, &err), 0);
	assert_memory_equal(back, pages, sizeof(back));
	kept_free(k);
	store_close(s);
}

static void the_area_refuses_what_are_no_pages(void **state)
{
	uint8_t page[PAGE] = {0};
	struct err err;
	struct store *s = area_open(&err);

	assert_non_null(s);
	assert_int_equal(area_put(s, 7, 0x10001, page, PAGE, &err), -1);
	assert_int_equal(area_put(s, 7, 0x10000, page, PAGE - 1, &err), -1);
	assert_int_equal(area_put(s, 7, 0x7ffffffff000, page, PAGE, &err), -1);
	assert_int_equal(area_put(s, 7, UINT64_MAX - PAGE + 1, page, PAGE, &err), -1);
	assert_int_equal(area_put(s, 0, 0x10000, page, PAGE, &err), -1);
	assert_int_equal(area_put(s, 1ULL << 40, 0x10000, page, PAGE, &err), -1);
	store_close(s);
}

/* ---- lanes ---- */

static void need_records(void)
{
	struct err err;
	int fd = record_directory(&err);

	if (fd < 0)
		skip_because("%s", err.text);
	close(fd);
}

/* The far end of a lane's ssh: what sshd gives "ferry agent --join". */
struct joining {
	int fd, rc;
	struct hall *hall;
	struct lane lane;
};

static void *join_main(void *arg)
{
	struct joining *j = arg;
	struct err err;

	j->rc = lane_join(j->fd, dup(j->fd), &err);
	return NULL;
}

static void say_hello(int fd, const char *token, char kind)
{
	uint8_t hello[48] = {0};

	memcpy(hello, "ferrylan", 8);
	memcpy(hello + 8, token, WIRE_TOKEN_CHARS);
	hello[40] = (uint8_t)kind;
	assert_int_equal(write(fd, hello, sizeof(hello)), sizeof(hello));
}

static int take_lane(struct hall *hall, struct lane *lane)
{
	struct pollfd pfd = {.fd = hall_fd(hall), .events = POLLIN};
	struct err err;
	int n = 0;

	for (int i = 0; i < 50 && n == 0; i++) {
		(void)poll(&pfd, 1, 100);
		n = hall_work(hall, lane, &err);
	}
	return n;
}

static void a_lane_goes_through_the_door(void **state)
{
	char token[WIRE_TOKEN_CHARS + 1], byte;
	struct joining j = {0};
	struct lane lane;
	pthread_t thread;
	struct hall *hall;
	struct err err;
	int pair[2];

	need_records();
	assert_int_equal(token_make(token, &err), 0);
	hall = hall_open(token, NULL, NULL, &err);
	assert_non_null(hall);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	j.fd = pair[1];
	assert_int_equal(pthread_create(&thread, NULL, join_main, &j), 0);
	say_hello(pair[0], token, 'd');
	assert_int_equal(take_lane(hall, &lane), 1);
	assert_int_equal(lane.kind, LANE_DEMAND);
	assert_int_equal(read(pair[0], &byte, 1), 1);
	assert_int_equal(byte, 'd');
	assert_int_equal(write(pair[0], "x", 1), 1);
	assert_int_equal(read(lane.in, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	/* when the agent lets go, --join ends */
	lane_close(&lane);
	pthread_join(thread, NULL);
	assert_int_equal(j.rc, 0);
	assert_int_equal(read(pair[0], &byte, 1), 0);
	close(pair[0]);
	hall_close(hall);
}

static void strangers_are_no_lanes(void **state)
{
	char token[WIRE_TOKEN_CHARS + 1], other[WIRE_TOKEN_CHARS + 1];
	struct joining j = {0};
	struct hall *hall;
	struct lane lane;
	struct err err;
	int pair[2];

	need_records();
	assert_int_equal(token_make(token, &err), 0);
	assert_int_equal(token_make(other, &err), 0);
	hall = hall_open(token, "127.0.0.1", NULL, &err);
	assert_non_null(hall);
	assert_int_not_equal(hall_port(hall), 0);
	for (int i = 0; i < 2; i++) {
		/* another migration's token, and bytes that are no lane's */
		const struct lane_call call = {.token = i ? token : other,
					       .kind = i ? (enum lane_kind)'x' : LANE_BULK};

		assert_int_equal(lane_dial_tcp("127.0.0.1", hall_port(hall), &call, &lane, &err), 0);
		for (int k = 0; k < 5; k++) {
			struct lane none;

			assert_int_equal(hall_work(hall, &none, &err), 0);
			usleep(20000);
		}
		assert_int_equal(lane_heard(&lane, 2000, "here", &err), -1);
		lane_close(&lane);
	}
	/* nobody takes lanes of the other token */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	j.fd = pair[1];
	say_hello(pair[0], other, 'b');
	join_main(&j);
	assert_int_equal(j.rc, -1);
	close(pair[0]);
	hall_close(hall);
}

static void *work_main(void *arg)
{
	struct joining *j = arg;

	j->rc = take_lane(j->hall, &j->lane);
	return NULL;
}

/* With TLS the token alone is nothing. */
static void who_does_not_know_the_secret(void **state)
{
	struct secret secret = {.key = {1, 2, 3}}, guess = {.key = {1, 2, 4}};
	char token[WIRE_TOKEN_CHARS + 1];
	const struct lane_call trunk = {.token = token, .kind = LANE_TRUNK},
			       bulk = {.token = token, .kind = LANE_BULK};
	struct joining j = {0};
	struct tls *server, *right, *wrong;
	struct lane lane;
	struct err err;
	pthread_t thread;

	need_records();
	assert_int_equal(token_make(token, &err), 0);
	server = tls_with_secret(TLS_SERVER, &secret, &err);
	right = tls_with_secret(TLS_CLIENT, &secret, &err);
	wrong = tls_with_secret(TLS_CLIENT, &guess, &err);
	assert_true(server && right && wrong);
	j.hall = hall_open(token, "127.0.0.1", server, &err);
	assert_non_null(j.hall);
	assert_int_equal(pthread_create(&thread, NULL, work_main, &j), 0);
	assert_int_equal(lane_dial_tls(wrong, "127.0.0.1", hall_port(j.hall), &trunk, &lane, &err),
			 -1);
	assert_non_null(strstr(err.text, "refuses our secret"));
	assert_int_equal(lane_dial_tcp("127.0.0.1", hall_port(j.hall), &bulk, &lane, &err), 0);
	assert_int_equal(lane_heard(&lane, 3000, "here", &err), -1);
	lane_close(&lane);
	assert_int_equal(lane_dial_tls(right, "127.0.0.1", hall_port(j.hall), &trunk, &lane, &err),
			 0);
	assert_int_equal(lane_heard(&lane, 10000, "here", &err), 0);
	pthread_join(thread, NULL);
	assert_int_equal(j.rc, 1);
	assert_int_equal(j.lane.kind, LANE_TRUNK);
	lane_close(&j.lane);
	lane_close(&lane);
	hall_close(j.hall);
	tls_free(server);
	tls_free(right);
	tls_free(wrong);
}

/* ---- the record at home ---- */

static void the_record_at_home_knows_the_tree(void **state)
{
	char token[WIRE_TOKEN_CHARS + 1], text[16];
	pid_t child = fork();
	kept_tasks kept = {0};
	struct home home;
	struct err err;
	int fd;

	if (child == 0) {
		pause();
		_exit(0);
	}
	need_records();
	snprintf(text, sizeof(text), "%d", child);
	assert_true(vec_push(&kept, (struct kept_task){.pid = child, .stop = 1}));
	assert_int_equal(token_make(token, &err), 0);
	fd = home_write(token, "host-b", &kept, NULL, &err);
	assert_true(fd >= 0);
	assert_int_equal(home_open(token, &home, &err), -1);
	assert_non_null(strstr(err.text, "under way"));
	close(fd);
	assert_int_equal(home_open(text, &home, &err), 0);
	assert_string_equal(home.token, token);
	assert_string_equal(home.host, "host-b");
	assert_int_equal(home.tasks.n, 1);
	assert_int_equal(home.tasks.v[0].pid, child);
	home_close(&home);
	/* a record of the dead is of no use to anybody */
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(home_open(token, &home, &err), -1);
	assert_int_equal(home_open(token, &home, &err), -1);
	assert_int_equal(err.no, ENOENT);
	vec_free(&kept);
}

static void what_was_handed_out_is_found_when_its_process_is_gone(void **state)
{
	static const char data[] = "any bytes";
	char token[WIRE_TOKEN_CHARS + 1];
	struct given given;
	struct err err;
	int held;

	need_records();
	assert_int_equal(token_make(token, &err), 0);
	assert_int_equal(given_find(token, &given, &err), 0);
	held = given_write(token, getpid(), data, sizeof(data), &err);
	assert_true(held >= 0);
	assert_int_equal(given_find(token, &given, &err), 0);
	close(held);
	for (int by_pid = 0; by_pid < 2; by_pid++) {
		char pid[16];

		snprintf(pid, sizeof(pid), "%d", getpid());
		assert_int_equal(given_find(by_pid ? pid : token, &given, &err), 1);
		assert_string_equal(given.token, token);
		assert_int_equal(given.pid, getpid());
		assert_int_equal(given.bytes, sizeof(data));
		assert_memory_equal(given.data, data, sizeof(data));
		given_free(&given);
	}
	assert_int_equal(given_find("1", &given, &err), 0);
	given_remove(token);
	assert_int_equal(given_find(token, &given, &err), 0);
}

/* ---- the record of a commit ---- */

static pid_t fork_sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0)
		while (true)
			pause();
	return pid;
}

/* What a query finds in the record of a process that died, with the commit still in its hands or (@settled) not. */
static enum wire_fate fate_after_death(pid_t root, pid_t other, bool lacks, bool settled)
{
	char token[WIRE_TOKEN_CHARS + 1];
	enum wire_fate fate;
	struct err err;
	pid_t agent, found;
	int status;

	assert_int_equal(token_make(token, &err), 0);
	agent = fork();
	if (agent == 0) {
		proc_pids tasks = {0};
		bool ok = vec_push(&tasks, root) && vec_push(&tasks, other);
		int record = record_claim(token, root, lacks ? &tasks : NULL, &err);

		ok = ok && record >= 0 &&
		     (!settled || record_settle(record, root,
						lacks ? RECORD_FILLING : RECORD_RUNNING, &err) == 0);
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(waitpid(agent, &status, 0), agent);
	assert_int_equal(status, 0);
	assert_int_equal(record_query(token, &fate, &found, &err), 0);
	record_remove(token);
	return fate;
}

static bool is_dead(pid_t child)
{
	int status;

	if (waitpid(child, &status, WNOHANG) != child)
		return false;
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* Also if it died before it could write that it had let the tree go. */
static void without_its_agent_a_tree_that_lacks_memory_is_ended(void **state)
{
	need_records();
	for (int settled = 0; settled < 2; settled++) {
		pid_t root = fork_sleeper(), other = fork_sleeper();

		assert_int_equal(fate_after_death(root, other, true, settled), WIRE_FATE_LOST);
		assert_true(is_dead(root));
		assert_true(is_dead(other));
	}
}

static void without_its_agent_a_tree_that_has_all_goes_on(void **state)
{
	need_records();
	for (int settled = 0; settled < 2; settled++) {
		pid_t root = fork_sleeper(), other = fork_sleeper();

		assert_int_equal(fate_after_death(root, other, false, settled), WIRE_FATE_RUNNING);
		assert_false(is_dead(root));
		kill(root, SIGKILL);
		kill(other, SIGKILL);
		waitpid(root, NULL, 0);
		waitpid(other, NULL, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_area_keeps_the_last_of_each_page),
		cmocka_unit_test(the_area_has_no_zeros_of_its_own),
		cmocka_unit_test(what_is_kept_is_told_from_what_is_not),
		cmocka_unit_test(the_area_refuses_what_are_no_pages),
		cmocka_unit_test(a_lane_goes_through_the_door),
		cmocka_unit_test(strangers_are_no_lanes),
		cmocka_unit_test(who_does_not_know_the_secret),
		cmocka_unit_test(the_record_at_home_knows_the_tree),
		cmocka_unit_test(what_was_handed_out_is_found_when_its_process_is_gone),
		cmocka_unit_test(without_its_agent_a_tree_that_lacks_memory_is_ended),
		cmocka_unit_test(without_its_agent_a_tree_that_has_all_goes_on),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

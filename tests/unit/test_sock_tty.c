// SPDX-License-Identifier: Apache-2.0
/*
 * Pseudo terminals through capture and restore, both in this process.
 */
#include "fdworld.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <termios.h>

static void open_pty(int *master, int *slave)
{
	int unlocked = 0;

	*master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0)
		skip_because("cannot open a pseudo terminal here");
	assert_int_equal(ioctl(*master, TIOCSPTLCK, &unlocked), 0);
	*slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(*slave >= 0);
}

static void clear_flags(int slave, tcflag_t local)
{
	struct termios t;

	assert_int_equal(tcgetattr(slave, &t), 0);
	t.c_lflag &= ~local;
	t.c_cc[VINTR] = 'q';
	assert_int_equal(tcsetattr(slave, TCSANOW, &t), 0);
}

static void assert_read(int fd, const char *want)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char buf[8192];
	ssize_t got;

	if (*want)
		assert_int_equal(poll(&p, 1, 1000), 1);
	got = read(fd, buf, sizeof(buf));
	assert_int_equal(got, strlen(want));
	assert_memory_equal(buf, want, (size_t)got);
}

static void assert_nothing(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 0), 0);
}

static void type(int master, const char *text)
{
	assert_int_equal(write(master, text, strlen(text)), strlen(text));
}

static void undo(struct world *w)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->facts[i].kind->undo)
			world_ok(w, w->facts[i].kind->undo(&w->c, &w->facts[i], &w->err));
}

static int number_of(int master)
{
	int number = -1;

	assert_int_equal(ioctl(master, TIOCGPTN, &number), 0);
	return number;
}

/* Lines stay lines, the unfinished one too, an end of file in between, and nothing is echoed again. */
static void check_canonical(int master, int slave)
{
	assert_read(slave, "one\n");
	assert_read(slave, "two");
	assert_read(slave, "");
	assert_nothing(slave);
	type(master, "ree\n");
	assert_read(slave, "three\n");
	assert_read(master, "printed\r\n");
	assert_nothing(master);
}

static void test_canonical(void **state)
{
	struct winsize size = {.ws_row = 33, .ws_col = 101}, restored;
	struct termios t;
	struct world w;
	int master, slave, number;

	world_init(&w);
	open_pty(&master, &slave);
	number = number_of(master);
	clear_flags(slave, ECHO);
	ioctl(master, TIOCSWINSZ, &size);
	ioctl(slave, TIOCEXCL);
	type(slave, "printed\n");
	type(master, "one\ntwo\004\004th");
	world_add(&w, master);
	world_add(&w, slave);
	world_ok(&w, world_capture(&w));
	undo(&w);
	check_canonical(master, slave);
	world_kill(&w);

	world_ok(&w, world_restore(&w));
	master = world_fd(&w, 1);
	slave = world_fd(&w, 2);
	assert_int_equal(number_of(master), number);
	assert_int_equal(tcgetattr(slave, &t), 0);
	assert_int_equal(t.c_lflag & ECHO, 0);
	assert_int_equal(t.c_cc[VINTR], 'q');
	assert_int_equal(ioctl(slave, TIOCGWINSZ, &restored), 0);
	assert_memory_equal(&restored, &size, sizeof(size));
	assert_int_equal(ioctl(slave, TIOCGEXCL, &number), 0);
	assert_int_equal(number, 1);
	check_canonical(master, slave);
	world_finish(&w);
}

/* With echo on: what was typed was echoed once, before. */
static void test_echo(void **state)
{
	struct world w;
	int master, slave;

	world_init(&w);
	open_pty(&master, &slave);
	type(master, "typed\r");
	assert_read(master, "typed\r\n");
	world_add(&w, slave);
	world_add(&w, master);
	world_ok(&w, world_capture(&w));
	undo(&w);
	assert_nothing(master);
	assert_read(slave, "typed\n");
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_nothing(world_fd(&w, 2));
	assert_read(world_fd(&w, 1), "typed\n");
	world_finish(&w);
}

static void test_raw_and_packet(void **state)
{
	static char text[8001];
	struct termios t;
	struct world w;
	int master, slave, on = 1;

	world_init(&w);
	open_pty(&master, &slave);
	tcgetattr(slave, &t);
	cfmakeraw(&t);
	t.c_cc[VMIN] = 3;
	tcsetattr(slave, TCSANOW, &t);
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		text[i] = (char)('a' + i % 26);
	type(slave, text); /* more than a line discipline holds */
	assert_int_equal(ioctl(master, TIOCPKT, &on), 0);
	type(master, "\003x");
	world_add(&w, master);
	world_add(&w, slave);
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	master = world_fd(&w, 1);
	slave = world_fd(&w, 2);
	on = 0;
	assert_int_equal(ioctl(master, TIOCGPKT, &on), 0);
	assert_int_equal(on, 1);
	for (size_t got = 0; got < sizeof(text) - 1;) {
		struct pollfd p = {.fd = master, .events = POLLIN};
		char buf[4097];
		ssize_t n;

		assert_int_equal(poll(&p, 1, 1000), 1);
		n = read(master, buf, sizeof(buf));
		assert_true(n > 1);
		assert_int_equal(buf[0], TIOCPKT_DATA);
		assert_memory_equal(buf + 1, text + got, (size_t)n - 1);
		got += (size_t)n - 1;
	}
	type(master, "y");
	assert_read(slave, "\003xy");
	world_finish(&w);
}

static void test_hung_up(void **state)
{
	struct world w;
	struct winsize size;
	int master, slave;
	char byte;

	world_init(&w);
	open_pty(&master, &slave);
	close(master);
	world_add(&w, slave);
	world_ok(&w, world_capture(&w));
	assert_null(w.c.snap->tty_info.v[0]->termios);
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_int_equal(read(world_fd(&w, 1), &byte, 1), 0);
	assert_int_equal(ioctl(world_fd(&w, 1), TIOCGWINSZ, &size), -1);
	assert_int_equal(errno, EIO);
	world_finish(&w);
}

/* Several descriptions of one slave, and a master whose slave was never opened. */
static void test_descriptions(void **state)
{
	struct world w;
	int master, slave, again, lonely;

	world_init(&w);
	open_pty(&master, &slave);
	again = ioctl(master, TIOCGPTPEER, O_RDONLY | O_NOCTTY | O_NONBLOCK);
	lonely = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	type(master, "line\n");
	world_add(&w, lonely);
	world_add(&w, again);
	world_add(&w, slave);
	world_add(&w, master);
	world_ok(&w, world_capture(&w));
	assert_int_equal(w.c.snap->tty_info.n, 3);
	assert_int_equal(w.c.snap->tty_data.n, 2); /* the line, and its echo */
	world_kill(&w);
	world_ok(&w, world_restore(&w));
	assert_true(fcntl(world_fd(&w, 2), F_GETFL) & O_NONBLOCK);
	assert_false(fcntl(world_fd(&w, 3), F_GETFL) & O_NONBLOCK);
	assert_read(world_fd(&w, 3), "line\n");
	assert_int_equal(read(world_fd(&w, 2), &(char){0}, 1), -1);
	assert_read(world_fd(&w, 4), "line\r\n");
	assert_int_equal(ioctl(world_fd(&w, 1), TIOCGPTLCK, &master), 0);
	assert_int_equal(master, 1); /* as ptmx gives it */
	world_finish(&w);
}

static void test_refusals(void **state)
{
	struct world w;
	int master, slave, null;
	char path[32];

	world_init(&w);
	open_pty(&master, &slave);
	world_add(&w, slave);
	world_refuses(&w, world_capture(&w), "--shell-job");
	w.opt.shell_job = true;
	world_ok(&w, world_capture(&w));
	world_kill(&w);
	w.opt.shell_job = false;
	world_refuses(&w, world_check(&w), "--shell-job");
	w.opt.shell_job = true;
	null = open("/dev/null", O_RDWR);
	if (!isatty(0) && !isatty(1) && !isatty(2))
		world_refuses(&w, world_check(&w), "no terminal here");
	close(null);
	world_finish(&w);

	world_init(&w);
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	world_add(&w, master);
	world_add(&w, slave);
	world_ok(&w, world_capture(&w));
	snprintf(path, sizeof(path), "/dev/pts/%d", number_of(master));
	world_refuses(&w, world_check(&w), path);
	world_kill(&w);
	world_finish(&w);
}

/* Terminal numbers are taken again at once by whoever opens one on this machine: use a devpts of our own. */
static int private_devpts(void **state)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666") ||
	    mount("/dev/pts/ptmx", "/dev/ptmx", NULL, MS_BIND, NULL))
		print_message("no devpts of our own: %s\n", strerror(errno));
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_canonical),      cmocka_unit_test(test_echo),
		cmocka_unit_test(test_raw_and_packet), cmocka_unit_test(test_hung_up),
		cmocka_unit_test(test_descriptions),   cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, private_devpts, NULL);
}

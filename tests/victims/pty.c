// SPDX-License-Identifier: Apache-2.0
// A pseudo terminal inside the tree: the parent has the master, a child has the slave as controlling
// terminal and standard input; modes, window size, queued input, foreground group.
#include "victim.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

static int master;
static char slave_name[64];
static volatile int *stage;

static void set_modes(int fd, struct termios *tio)
{
	struct winsize size = {33, 101, 5, 7};

	MUST(tcgetattr(fd, tio));
	tio->c_lflag &= ~(ECHO | ECHOE);
	tio->c_iflag |= IXANY;
	tio->c_cc[VINTR] = 'k' & 0x1f;
	tio->c_cc[VEOF] = 'z' & 0x1f;
	MUST(tcsetattr(fd, TCSANOW, tio));
	MUST(tcgetattr(fd, tio));
	MUST(ioctl(fd, TIOCSWINSZ, &size));
}

static void session_leader(void *arg)
{
	struct termios was, is;
	struct winsize size;
	char text[32] = "";
	int slave, tty;

	MUST(setsid());
	slave = MUST(open(slave_name, O_RDWR));
	MUST(ioctl(slave, TIOCSCTTY, 0));
	for (int fd = 0; fd < 3; fd++)
		MUST(dup2(slave, fd));
	close(slave);
	close(master);
	set_modes(0, &was);
	*stage = 1;
	victim_wait();
	MUST(tcgetattr(0, &is));
	CHECK(was.c_iflag == is.c_iflag && was.c_oflag == is.c_oflag && was.c_cflag == is.c_cflag &&
		      was.c_lflag == is.c_lflag && memcmp(was.c_cc, is.c_cc, NCCS) == 0,
	      "modes: %x %x %x %x became %x %x %x %x", was.c_iflag, was.c_oflag, was.c_cflag,
	      was.c_lflag, is.c_iflag, is.c_oflag, is.c_cflag, is.c_lflag);
	MUST(ioctl(0, TIOCGWINSZ, &size));
	CHECK(size.ws_row == 33 && size.ws_col == 101 && size.ws_xpixel == 5 && size.ws_ypixel == 7,
	      "window is %d x %d", size.ws_row, size.ws_col);
	CHECK(tcgetpgrp(0) == getpid(), "foreground group was %d, is %d", getpid(), tcgetpgrp(0));
	CHECK(tcgetsid(0) == getpid(), "session of the terminal is %d", tcgetsid(0));
	tty = open("/dev/tty", O_RDWR);
	CHECK(tty >= 0, "no controlling terminal: %s", strerror(errno));
	close(tty);
	CHECK(read(0, text, sizeof(text)) == 6 && strcmp(text, "typed\n") == 0, "read '%s'", text);
	MUST(write(1, "reply", 5));
}

int main(int argc, char **argv)
{
	char text[32] = "";
	pid_t pid;
	int index;

	victim_start(argc, argv);
	stage = victim_map(VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	MUST(grantpt(master));
	MUST(unlockpt(master));
	MUST(ptsname_r(master, slave_name, sizeof(slave_name)));
	MUST(ioctl(master, TIOCGPTN, &index));
	pid = victim_fork(session_leader, NULL);
	while (!*stage)
		victim_sleep_ms(2);
	MUST(write(master, "typed\n", 6));
	victim_sleep_ms(20);
	victim_ready();
	victim_wait();
	victim_reap(pid);
	CHECK(read(master, text, sizeof(text)) == 5 && strcmp(text, "reply") == 0, "read '%s'", text);
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
/*
 * An oddity of the images: special characters are packed four to a word, as
 * many as libc's struct has, into the first of as many words as the kernel's
 * has characters. The rest is padding, which CRIU leaves uninitialised.
 */
#include "kinds/fd/ttyset.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum {
	CC_WORDS = TTY_NCCS,
	CC_PACKED = 8, /* words that hold characters: 32 of them */
};

/* ---- capture ---- */

static TermiosEntry *new_entry(struct snapshot *snap, const struct tty_settings *t)
{
	TermiosEntry *e = snap_new(snap, TermiosEntry, termios_entry);

	if (!e)
		return NULL;
	e->c_iflag = t->iflag;
	e->c_oflag = t->oflag;
	e->c_cflag = t->cflag;
	e->c_lflag = t->lflag;
	e->c_line = t->line;
	e->n_c_cc = CC_WORDS;
	e->c_cc = arena_array(&snap->arena, uint32_t, CC_WORDS);
	if (!e->c_cc)
		return NULL;
	memcpy(e->c_cc, t->cc, sizeof(t->cc));
	return e;
}

int ttyset_capture(struct snapshot *snap, int fd, TtyInfoEntry *info, struct err *err)
{
	struct tty_settings now, locked;
	struct winsize size;

	if (ioctl(fd, TCGETS, &now) || ioctl(fd, TIOCGLCKTRMIOS, &locked) ||
	    ioctl(fd, TIOCGWINSZ, &size))
		return err_sys(err, "cannot read the settings of a terminal");
	info->termios = new_entry(snap, &now);
	info->termios_locked = new_entry(snap, &locked);
	info->winsize = snap_new(snap, WinsizeEntry, winsize_entry);
	if (!info->termios || !info->termios_locked || !info->winsize)
		return err_nomem(err);
	info->winsize->ws_row = size.ws_row;
	info->winsize->ws_col = size.ws_col;
	info->winsize->ws_xpixel = size.ws_xpixel;
	info->winsize->ws_ypixel = size.ws_ypixel;
	return 0;
}

/* ---- restore ---- */

static int check_entry(const TermiosEntry *e, struct err *err)
{
	if (e && e->n_c_cc < CC_PACKED)
		return err_set(err, EINVAL, "terminal settings with %zu special characters",
			       e->n_c_cc);
	return 0;
}

int ttyset_check(const TtyInfoEntry *info, struct err *err)
{
	return check_entry(info->termios, err) || check_entry(info->termios_locked, err) ? -1 : 0;
}

static struct tty_settings settings_of(const TermiosEntry *e)
{
	struct tty_settings t = {.iflag = e->c_iflag,
				 .oflag = e->c_oflag,
				 .cflag = e->c_cflag,
				 .lflag = e->c_lflag,
				 .line = (uint8_t)e->c_line};

	memcpy(t.cc, e->c_cc, sizeof(t.cc));
	return t;
}

int ttyset_restore(const TtyInfoEntry *info, int fd, struct err *err)
{
	struct tty_settings t;
	sigset_t ttou, old;
	int ret;

	if (!info->termios)
		return 0;
	/* from the background of our own terminal that would stop us */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	t = settings_of(info->termios);
	ret = ioctl(fd, TCSETS, &t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret ? err_sys(err, "cannot set a terminal's settings") : 0;
}

int ttyset_size(const TtyInfoEntry *info, int fd, struct err *err)
{
	struct winsize size;

	if (!info->winsize)
		return 0;
	size.ws_row = (unsigned short)info->winsize->ws_row;
	size.ws_col = (unsigned short)info->winsize->ws_col;
	size.ws_xpixel = (unsigned short)info->winsize->ws_xpixel;
	size.ws_ypixel = (unsigned short)info->winsize->ws_ypixel;
	if (ioctl(fd, TIOCSWINSZ, &size))
		return err_sys(err, "cannot set a terminal's size");
	return 0;
}

int ttyset_lock(const TtyInfoEntry *info, int fd, struct err *err)
{
	struct tty_settings t;

	if (!info->termios_locked)
		return 0;
	t = settings_of(info->termios_locked);
	if (ioctl(fd, TIOCSLCKTRMIOS, &t))
		return err_sys(err, "cannot lock a terminal's settings");
	return 0;
}

bool ttyset_number_free(uint32_t index)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/pts/%u", index);
	for (int tries = 0; tries < 100; tries++) {
		if (access(path, F_OK))
			return true;
		usleep(10000);
	}
	return false;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A tree that was restored into a pid namespace of its own (--pids=new) has a mount
 * namespace, too, for its /proc. It is a copy of the one it was made in, and mounts
 * come in from there (MS_SLAVE). As long as both show the same file systems at the
 * same places, paths mean the same in both, and the tree can be carried as if it
 * were in ours.
 */
#include "base/io.h"
#include "capture/capture.h"
#include "capture/session.h"

#include <string.h>

typedef VEC(char *) lines;

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Cuts a line of mountinfo down to device, root, place and options; false: /proc itself, which may differ. */
static bool cut_line(char *line)
{
	char *what, *place, *end = line;

	/* "ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS ..." */
	for (int field = 0; field < 6 && end; field++)
		end = strchr(field ? end + 1 : end, ' ');
	if (end)
		*end = 0;
	what = strchr(line, ' ');
	what = what ? strchr(what + 1, ' ') : NULL;
	place = what ? strchr(what + 1, ' ') : NULL;
	place = place ? strchr(place + 1, ' ') : NULL;
	if (!place || strncmp(place, " /proc ", 7) == 0)
		return false;
	memmove(line, what, strlen(what) + 1);
	return true;
}

/* The mounts that a process sees, sorted; they point into @text. */
static bool read_mounts(const char *who, char **text, lines *out)
{
	char *rest = NULL;

	if (io_read_filef(text, NULL, "/proc/%s/mountinfo", who))
		return false;
	for (char *line = strtok_r(*text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (cut_line(line) && !vec_push(out, line))
			return false;
	if (out->n)
		qsort(out->v, out->n, sizeof(*out->v), compare_lines);
	return true;
}

bool mounts_are_ours(pid_t pid)
{
	cleanup_free char *their_text = NULL, *our_text = NULL;
	lines theirs = {0}, ours = {0};
	char who[16];
	bool same;

	snprintf(who, sizeof(who), "%d", pid);
	same = read_mounts(who, &their_text, &theirs) &&
	       read_mounts("thread-self", &our_text, &ours) && theirs.n == ours.n;
	for (size_t i = 0; i < ours.n && same; i++)
		same = strcmp(theirs.v[i], ours.v[i]) == 0;
	vec_free(&theirs);
	vec_free(&ours);
	return same;
}

bool capture_root_is_lazy(pid_t pid)
{
	cleanup_free char *text = NULL;
	char *rest = NULL;

	if (io_read_filef(&text, NULL, "/proc/%d/mountinfo", pid) < 0)
		return false;
	/* "ID PARENT DEVICE / / OPTIONS ... - TYPE SOURCE OPTIONS" */
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		const char *type = strstr(line, " - ");

		if (type && strstr(line, " / / ") && !strncmp(type + 3, "fuse.ferry ", 11))
			return true;
	}
	return false;
}

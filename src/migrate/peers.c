// SPDX-License-Identifier: Apache-2.0
#include "migrate/peers.h"

#include "base/io.h"
#include "base/vec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static const char blanks[] = " \t\r";

static const struct {
	const char *word;
	unsigned int right;
} words[] = {{"send", PEER_SEND}, {"files", PEER_FILES}, {"none", 0}};

/* "send,files" */
static int parse_rights(char *text, unsigned int *out, struct err *err)
{
	char *save = NULL;

	*out = 0;
	for (char *w = strtok_r(text, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		size_t i = 0;

		while (i < ARRAY_SIZE(words) && strcmp(words[i].word, w) != 0)
			i++;
		if (i == ARRAY_SIZE(words))
			return err_set(err, EINVAL, "'%.40s' is no right: send, files or none", w);
		*out |= words[i].right;
	}
	return 0;
}

static int parse_line(char *line, struct peers *out, struct err *err)
{
	char *save = NULL, *name, *rights;
	struct peer peer = {.rights = 0};

	line[strcspn(line, "#")] = '\0';
	name = strtok_r(line, blanks, &save);
	rights = strtok_r(NULL, blanks, &save);
	if (!name)
		return 0;
	if (!rights || strtok_r(NULL, blanks, &save))
		return err_set(err, EINVAL, "a line has a name, and rights with commas between them");
	if (strlen(name) > PEER_NAME_MAX)
		return err_set(err, EINVAL, "a name has at most %d bytes", PEER_NAME_MAX);
	snprintf(peer.name, sizeof(peer.name), "%s", name);
	if (parse_rights(rights, &peer.rights, err) < 0)
		return -1;
	return vec_push(out, peer) ? 0 : err_nomem(err);
}

int peers_read(const char *path, struct peers *out, struct err *err)
{
	cleanup_free char *text = NULL;
	char *next, *line;
	size_t len;
	int no = 0;

	*out = (struct peers){0};
	if (io_read_file(AT_FDCWD, path, &text, &len) < 0)
		return err_sys(err, "%.200s: cannot read who may do what", path);
	if (memchr(text, 0, len))
		return err_set(err, EINVAL, "%.200s: is no text", path);
	for (line = text; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		no++;
		if (parse_line(line, out, err) < 0) {
			peers_free(out);
			return err_wrap(err, "%.200s, line %d", path, no);
		}
	}
	return 0;
}

void peers_free(struct peers *p)
{
	vec_free(p);
}

const struct peer *peers_find(const struct peers *p, peer_has_name has_name, void *arg)
{
	for (size_t i = 0; i < p->n; i++)
		if (strcmp(p->v[i].name, "*") == 0 || has_name(arg, p->v[i].name))
			return &p->v[i];
	return NULL;
}

const char *peer_rights_text(unsigned int rights, char buf[static PEER_RIGHTS_TEXT])
{
	snprintf(buf, PEER_RIGHTS_TEXT, "%s%s%s", rights & PEER_SEND ? "send" : "",
		 (rights & PEER_SEND) && (rights & PEER_FILES) ? ", " : "",
		 rights & PEER_FILES ? "files" : "");
	return rights ? buf : "nothing";
}

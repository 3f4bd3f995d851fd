// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/status.h"

#include <inttypes.h>
#include <sys/stat.h>

struct totals {
	uint64_t files, complete_files, modified_files, bytes, here_bytes;
};

/* With the lock. Files that nobody has touched count as not here. */
static void count(struct node *dir, struct totals *t)
{
	for (const struct name *e = dir->names.first; e; e = e->next) {
		struct content_state cs = {0};
		struct node *n = e->node;

		if (n && (n->attr.mode & S_IFMT) == S_IFDIR)
			count(n, t);
		if (!n || (n->attr.mode & S_IFMT) != S_IFREG)
			continue;
		if (n->content)
			content_get_state(n->content, &cs);
		else
			cs.source_bytes = n->origin.size;
		t->files++;
		t->complete_files += n->content ? cs.complete : !cs.source_bytes;
		t->modified_files += cs.modified;
		t->bytes += cs.source_bytes;
		t->here_bytes += cs.here_bytes;
	}
}

/* @text with what JSON does not allow in a string replaced. */
static void plain(char *to, size_t size, const char *text)
{
	size_t n = 0;

	for (; *text && n + 1 < size; text++)
		to[n++] = (unsigned char)*text < ' ' || *text == '"' || *text == '\\' ? '?' : *text;
	to[n] = '\0';
}

char *status_json(struct lazyfs *fs)
{
	struct remote_state rs;
	struct totals t = {0};
	char source[256], *out;
	const char *state;
	int n;

	pthread_mutex_lock(&fs->lock);
	count(&fs->root, &t);
	pthread_mutex_unlock(&fs->lock);
	remote_get_state(fs->remote, &rs);
	state = atomic_load(&fs->complete) ? "complete" : rs.up ? "connected" : "disconnected";
	plain(source, sizeof(source), fs->opt.source);
	n = asprintf(&out,
		     "{\"state\": \"%s\", \"source\": \"%s\", \"policy\": \"%s\", \"writeback\": %s, "
		     "\"files\": %" PRIu64 ", \"complete_files\": %" PRIu64
		     ", \"modified_files\": %" PRIu64 ", \"changed_at_source\": %" PRIu64
		     ", \"bytes\": %" PRIu64 ", \"here_bytes\": %" PRIu64 ", \"local_bytes\": %" PRIu64
		     ", \"pool_bytes\": %" PRIu64 ", \"received_bytes\": %" PRIu64
		     ", \"requests\": %" PRIu64 ", \"demands\": %" PRIu64
		     ", \"in_flight\": %zu, \"connects\": %" PRIu64 ", \"errors\": %" PRIu64
		     ", \"named_complete\": %s, \"detaching\": %s, \"fill_error\": %d, \"pid\": %d}",
		     state, source, fs->opt.refetch ? "refetch" : "fail",
		     fs->opt.writeback ? "true" : "false", t.files, t.complete_files,
		     t.modified_files, atomic_load(&fs->env.stale_files), t.bytes, t.here_bytes,
		     atomic_load(&fs->env.local_bytes), atomic_load(&fs->env.pool_bytes),
		     rs.received_bytes, rs.requests, atomic_load(&fs->env.demands), rs.in_flight,
		     rs.connects, atomic_load(&fs->env.fetch_errors),
		     atomic_load(&fs->named_complete) ? "true" : "false",
		     atomic_load(&fs->detach) ? "true" : "false", atomic_load(&fs->fill_error),
		     getpid());
	return n < 0 ? NULL : out;
}

// SPDX-License-Identifier: Apache-2.0
#include "migrate/files_policy.h"

#include "base/io.h"
#include "base/le.h"
#include "kernel/proc.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>

bool policy_writes(const struct serve_policy *p)
{
	return lf_writes(p->hello.version);
}

/* ---- from the tree ---- */

static int add_thread(struct serve_policy *p, pid_t tid, struct err *err)
{
	const uint64_t reads = 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_DAC_READ_SEARCH;
	const uint64_t owns = 1ull << CAP_CHOWN | 1ull << CAP_FOWNER;
	struct proc_status st;
	struct lf_creds c;
	int rc = 0;

	if (proc_status(tid, &st, err) < 0)
		return err->no == ENOENT || err->no == ESRCH ? 0 : -1;
	c = (struct lf_creds){.uid = st.uid[3],
			      .gid = st.gid[3],
			      .n_groups = (uint32_t)st.groups.n,
			      .groups = st.groups.v,
			      .reads_all = st.cap_eff & reads,
			      .writes_all = policy_writes(p) && st.cap_eff & 1ull << CAP_DAC_OVERRIDE,
			      .owns_all = policy_writes(p) && (st.cap_eff & owns) == owns};
	vec_foreach (have, &p->hello.creds)
		if (lf_creds_same(have, &c))
			goto out;
	c.groups = st.groups.n ? arena_dup(&p->arena, st.groups.v, st.groups.n * sizeof(uint32_t)) :
				 NULL;
	if (c.n_groups > LF_GROUPS_MAX || p->hello.creds.n == LF_CREDS_MAX)
		rc = err_set(err, E2BIG, "the tree's tasks have too many different rights");
	else if ((c.n_groups && !c.groups) || !vec_push(&p->hello.creds, c))
		rc = err_nomem(err);
out:
	proc_status_finish(&st);
	return rc;
}

/* All that is below the task's root directory. */
static int add_root(struct serve_policy *p, pid_t pid, struct err *err)
{
	struct lf_export e = {.whole = true};
	char path[PATH_MAX];

	if (io_readlinkf(path, sizeof(path), "/proc/%d/root", pid) < 0 || !lf_path_valid(path))
		return 0; /* a zombie has none */
	vec_foreach (have, &p->hello.exports)
		if (!strcmp(have->path, path))
			return 0;
	e.path = arena_strdup(&p->arena, path);
	return e.path && vec_push(&p->hello.exports, e) ? 0 : err_nomem(err);
}

static int add_task(struct serve_policy *p, pid_t pid, struct err *err)
{
	proc_pids threads = {0};
	int rc = add_root(p, pid, err);

	if (rc == 0 && proc_threads(pid, &threads, err) < 0)
		rc = err->no == ENOENT || err->no == ESRCH ? 0 : -1;
	for (size_t i = 0; i < threads.n && !rc; i++)
		rc = add_thread(p, threads.v[i], err);
	vec_free(&threads);
	return rc;
}

static int gather(struct serve_policy *p, pid_t root, struct err *err)
{
	proc_pids tree = {0};
	int rc = proc_tree(root, &tree, err);

	for (size_t i = 0; i < tree.n && !rc; i++)
		rc = add_task(p, tree.v[i], err);
	vec_free(&tree);
	return rc;
}

/* ---- as bytes: a hello, and behind it device, inode and path of each file that is open ---- */

static int put_bytes(struct lf_out *out, const void *data, size_t bytes)
{
	if (out->bytes + bytes > out->cap) {
		size_t cap = MAX(out->cap * 2, out->bytes + bytes);
		uint8_t *more = realloc(out->data, cap);

		if (!more)
			return -1;
		out->data = more;
		out->cap = cap;
	}
	memcpy(out->data + out->bytes, data, bytes);
	out->bytes += bytes;
	return 0;
}

int policy_encode(pid_t root, const Wire__FileList *list, bool writes, struct lf_out *out,
		  struct err *err)
{
	struct serve_policy p = {
		.hello = {.version = writes ? LF_VERSION_OWNERS : LF_VERSION, .root = "/"}};
	int rc = gather(&p, root, err);

	if (rc == 0 && lf_put_hello(out, &p.hello) < 0)
		rc = err_nomem(err);
	for (size_t i = 0; i < list->n_files && !rc; i++) {
		const Wire__FileNote *n = list->files[i];
		const uint64_t id[2] = {n->dev, n->ino};

		if (!lf_path_valid(n->path))
			continue;
		if (put_bytes(out, id, sizeof(id)) < 0 ||
		    put_bytes(out, n->path, strlen(n->path) + 1) < 0)
			rc = err_nomem(err);
	}
	serve_policy_free(&p);
	return rc;
}

static int get_held(struct serve_policy *p, const uint8_t *at, const uint8_t *end, struct err *err)
{
	while (at < end) {
		struct jail_held h;
		uint64_t id[2];
		const uint8_t *nul;

		if ((size_t)(end - at) < sizeof(id) + 2)
			return err_set(err, EPROTO, "lazy files: an open file is cut off");
		memcpy(id, at, sizeof(id));
		at += sizeof(id);
		nul = memchr(at, 0, (size_t)(end - at));
		if (!nul)
			return err_set(err, EPROTO, "lazy files: a path has no end");
		h = (struct jail_held){.path = arena_strdup(&p->arena, (const char *)at),
				       .dev = id[0],
				       .ino = id[1]};
		if (!h.path || !vec_push(&p->held, h))
			return err_nomem(err);
		at = nul + 1;
	}
	return 0;
}

struct serve_policy *policy_decode(const uint8_t *data, size_t bytes, struct err *err)
{
	struct serve_policy *p = calloc(1, sizeof(*p));
	struct frame f = {.type = LF_HELLO};
	int rc = 0;

	if (!p) {
		err_nomem(err);
		return NULL;
	}
	/* a frame begins with its length (wire/frame.h) */
	if (bytes >= FRAME_HEADER_BYTES) {
		f.body = data + FRAME_HEADER_BYTES;
		f.bytes = MIN((size_t)get_le32(data), bytes - FRAME_HEADER_BYTES);
		rc = lf_get_hello(&f, &p->hello, &p->arena, err);
	} else {
		rc = err_set(err, EPROTO, "lazy files: nothing says what is to be handed out");
	}
	if (rc == 0)
		rc = get_held(p, f.body + f.bytes, data + bytes, err);
	if (rc == 0)
		rc = serve_policy_finish(p, err);
	if (rc == 0)
		return p;
	serve_policy_free(p);
	free(p);
	return NULL;
}

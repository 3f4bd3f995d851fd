// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc.h"
#include "base/io.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* ---- stat ---- */

int parse_stat(const char *text, struct proc_stat *out)
{
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	uint64_t field[53] = {0};
	size_t len;
	char *end;
	int i;

	memset(out, 0, sizeof(*out));
	if (!open || !close || close < open)
		return -1;
	out->pid = (pid_t)strtol(text, NULL, 10);
	len = MIN((size_t)(close - open - 1), sizeof(out->comm) - 1);
	memcpy(out->comm, open + 1, len);
	if (close[1] != ' ' || !close[2])
		return -1;
	out->state = close[2];
	text = close + 3;
	for (i = 4; i <= 52; i++) { /* field numbers of proc(5) */
		field[i] = (uint64_t)strtoll(text, &end, 10);
		if (end == text)
			break;
		if (field[i] == INT64_MAX) /* addresses are unsigned */
			field[i] = strtoull(text, &end, 10);
		text = end;
	}
	if (i <= 22)
		return -1;
	out->ppid = (pid_t)field[4];
	out->pgrp = (pid_t)field[5];
	out->session = (pid_t)field[6];
	out->tty_nr = (int)field[7];
	out->tpgid = (pid_t)field[8];
	out->flags = field[9];
	out->nice = (int)field[19];
	out->start_time = field[22];
	out->start_code = field[26];
	out->end_code = field[27];
	out->start_stack = field[28];
	out->exit_signal = (int)field[38];
	out->start_data = field[45];
	out->end_data = field[46];
	out->start_brk = field[47];
	out->arg_start = field[48];
	out->arg_end = field[49];
	out->env_start = field[50];
	out->env_end = field[51];
	out->exit_code = (int)field[52];
	return 0;
}

/* A parser has failed; errno tells whether memory is what was missing. Returns -1. */
static int not_understood(pid_t tid, const char *file, struct err *err)
{
	if (errno == ENOMEM)
		return err_nomem(err);
	return err_set(err, EPROTO, "/proc/%d/%s is not as proc(5) says", tid, file);
}

int proc_stat(pid_t tid, struct proc_stat *out, struct err *err)
{
	cleanup_free char *text = NULL;

	if (io_read_filef(&text, NULL, "/proc/%d/stat", tid))
		return err_sys(err, "cannot read /proc/%d/stat", tid);
	if (parse_stat(text, out))
		return err_set(err, EPROTO, "/proc/%d/stat is not as proc(5) says", tid);
	return 0;
}

/* ---- status ---- */

static const char *value_of(const char *line, const char *key)
{
	size_t n = strlen(key);

	return strncmp(line, key, n) == 0 && line[n] == ':' ? line + n + 1 : NULL;
}

static void four(const char *v, uint32_t out[4])
{
	char *end;
	int i;

	for (i = 0; i < 4; i++) {
		out[i] = (uint32_t)strtoul(v, &end, 10);
		v = end;
	}
}

/* "Name:\tTEXT" with \\n and \\\\ undone. */
static void parse_name(const char *v, char *out, size_t size)
{
	size_t n = 0;

	for (v += *v == '\t'; *v && n < size - 1; v++) {
		if (v[0] == '\\' && v[1] == 'n') {
			out[n++] = '\n';
			v++;
		} else {
			v += v[0] == '\\' && v[1] == '\\';
			out[n++] = *v;
		}
	}
	out[n] = 0;
}

static int parse_status_line(const char *line, struct proc_status *out)
{
	static const struct {
		const char *key;
		size_t off;
	} hex64[] =
		{
			{"SigPnd", offsetof(struct proc_status, sig_pending)},
			{"ShdPnd", offsetof(struct proc_status, shared_pending)},
			{"SigBlk", offsetof(struct proc_status, sig_blocked)},
			{"CapInh", offsetof(struct proc_status, cap_inh)},
			{"CapPrm", offsetof(struct proc_status, cap_prm)},
			{"CapEff", offsetof(struct proc_status, cap_eff)},
			{"CapBnd", offsetof(struct proc_status, cap_bnd)},
			{"CapAmb", offsetof(struct proc_status, cap_amb)},
		},
	  dec[] = {
		  {"PPid", offsetof(struct proc_status, ppid)},
		  {"TracerPid", offsetof(struct proc_status, tracer)},
		  {"NoNewPrivs", offsetof(struct proc_status, no_new_privs)},
		  {"Seccomp", offsetof(struct proc_status, seccomp)},
		  {"Threads", offsetof(struct proc_status, threads)},
	  };
	const char *v;
	char *end;
	size_t i;
	long n;

	for (i = 0; i < ARRAY_SIZE(hex64); i++)
		if ((v = value_of(line, hex64[i].key)))
			*(uint64_t *)((char *)out + hex64[i].off) = strtoull(v, NULL, 16);
	for (i = 0; i < ARRAY_SIZE(dec); i++)
		if ((v = value_of(line, dec[i].key)))
			*(int *)((char *)out + dec[i].off) = (int)strtol(v, NULL, 10);
	if ((v = value_of(line, "Name")))
		parse_name(v, out->name, sizeof(out->name));
	if ((v = value_of(line, "State")))
		out->state = v[strspn(v, " \t")];
	if ((v = value_of(line, "Umask")))
		out->umask = (unsigned int)strtoul(v, NULL, 8);
	if ((v = value_of(line, "Uid")))
		four(v, out->uid);
	if ((v = value_of(line, "Gid")))
		four(v, out->gid);
	if ((v = value_of(line, "VmLck")))
		out->vm_locked_kb = strtoull(v, NULL, 10);
	if ((v = value_of(line, "Groups")))
		for (n = strtol(v, &end, 10); end != v; v = end, n = strtol(v, &end, 10))
			if (!vec_push(&out->groups, (uint32_t)n))
				return -1;
	if ((v = value_of(line, "NSpid")))
		for (n = strtol(v, &end, 10); end != v; v = end, n = strtol(v, &end, 10))
			if (!vec_push(&out->nspid, (pid_t)n))
				return -1;
	return 0;
}

int parse_status(const char *text, struct proc_status *out)
{
	char line[1 << 16];
	const char *end;
	size_t len;

	memset(out, 0, sizeof(*out));
	for (; *text; text = *end ? end + 1 : end) {
		end = strchrnul(text, '\n');
		len = MIN((size_t)(end - text), sizeof(line) - 1);
		memcpy(line, text, len);
		line[len] = 0;
		if (parse_status_line(line, out))
			return -1;
	}
	return out->state ? 0 : -1;
}

int proc_status(pid_t tid, struct proc_status *out, struct err *err)
{
	cleanup_free char *text = NULL;

	memset(out, 0, sizeof(*out));
	if (io_read_filef(&text, NULL, "/proc/%d/status", tid))
		return err_sys(err, "cannot read /proc/%d/status", tid);
	errno = 0;
	if (parse_status(text, out))
		return not_understood(tid, "status", err);
	return 0;
}

void proc_status_finish(struct proc_status *s)
{
	vec_free(&s->groups);
	vec_free(&s->nspid);
}

/* ---- maps and smaps ---- */

static const struct {
	char name[3];
	uint32_t bit;
} vm_flags[] = {
	{"gd", PROC_VMF_GROWSDOWN},    {"lo", PROC_VMF_LOCKED},    {"sr", PROC_VMF_SEQUENTIAL},
	{"rr", PROC_VMF_RANDOM},       {"dc", PROC_VMF_DONTFORK},  {"nr", PROC_VMF_NORESERVE},
	{"ht", PROC_VMF_HUGETLB},      {"dd", PROC_VMF_DONTDUMP},  {"hg", PROC_VMF_HUGEPAGE},
	{"nh", PROC_VMF_NOHUGEPAGE},   {"mg", PROC_VMF_MERGEABLE}, {"wf", PROC_VMF_WIPEONFORK},
	{"io", PROC_VMF_IO},           {"pf", PROC_VMF_PFNMAP},    {"sl", PROC_VMF_SEALED},
	{"ss", PROC_VMF_SHADOW_STACK}, {"um", PROC_VMF_UFFD},      {"uw", PROC_VMF_UFFD_WP},
	{"ui", PROC_VMF_UFFD},         {"dp", PROC_VMF_DROPPABLE}, {"ac", PROC_VMF_ACCOUNT},
	{"lf", PROC_VMF_LOCKONFAULT},
};

static uint64_t parse_vm_flags(const char *p, const char *end)
{
	uint64_t flags = 0;
	size_t i;

	for (; p + 2 <= end; p += 3)
		for (i = 0; i < ARRAY_SIZE(vm_flags); i++)
			if (p[0] == vm_flags[i].name[0] && p[1] == vm_flags[i].name[1])
				flags |= vm_flags[i].bit;
	return flags;
}

/* "start-end perms offset major:minor inode   name" */
static int parse_vma_line(const char *line, const char *end, struct proc_vma *v)
{
	const char *p = line;
	char *q;

	memset(v, 0, sizeof(*v));
	v->page_bytes = PAGE_BYTES;
	v->start = strtoull(p, &q, 16);
	if (q == p || *q != '-')
		return -1;
	v->end = strtoull(q + 1, &q, 16);
	if (*q != ' ' || end - q < 6)
		return -1;
	v->read = q[1] == 'r';
	v->write = q[2] == 'w';
	v->exec = q[3] == 'x';
	v->shared = q[4] == 's';
	v->pgoff = strtoull(q + 5, &q, 16);
	v->dev_major = (unsigned int)strtoul(q, &q, 16);
	if (*q != ':')
		return -1;
	v->dev_minor = (unsigned int)strtoul(q + 1, &q, 16);
	v->ino = strtoull(q, &q, 10);
	while (q < end && *q == ' ')
		q++;
	if (q > end || v->start >= v->end)
		return -1;
	v->name = strndup(q, (size_t)(end - q));
	return v->name ? 0 : -1;
}

int parse_vmas(const char *text, proc_vmas *out)
{
	struct proc_vma v;
	const char *end;

	for (; *text; text = *end ? end + 1 : end) {
		end = strchrnul(text, '\n');
		if (end == text)
			continue;
		if (isupper((unsigned char)*text)) { /* a "Key: value" line of smaps */
			if (!out->n)
				return -1;
			if (strncmp(text, "VmFlags: ", 9) == 0)
				out->v[out->n - 1].flags |= parse_vm_flags(text + 9, end);
			else if (strncmp(text, "ProtectionKey:", 14) == 0 &&
				 strtoull(text + 14, NULL, 10) != 0)
				out->v[out->n - 1].flags |= PROC_VMF_PROTECTION_KEY;
			else if (strncmp(text, "KernelPageSize:", 15) == 0)
				out->v[out->n - 1].page_bytes = strtoull(text + 15, NULL, 10) * 1024;
			continue;
		}
		if (parse_vma_line(text, end, &v))
			return -1;
		if (!vec_push(out, v)) {
			free(v.name);
			return -1;
		}
	}
	return 0;
}

int proc_vmas_read(pid_t pid, bool with_flags, proc_vmas *out, struct err *err)
{
	const char *file = with_flags ? "smaps" : "maps";
	cleanup_free char *text = NULL;

	memset(out, 0, sizeof(*out));
	if (io_read_filef(&text, NULL, "/proc/%d/%s", pid, file))
		return err_sys(err, "cannot read /proc/%d/%s", pid, file);
	errno = 0;
	if (parse_vmas(text, out)) {
		not_understood(pid, file, err);
		proc_vmas_finish(out);
		return -1;
	}
	return 0;
}

void proc_vmas_finish(proc_vmas *v)
{
	size_t i;

	for (i = 0; i < v->n; i++)
		free(v->v[i].name);
	vec_free(v);
}

/* ---- smaps_rollup ---- */

int parse_rollup(const char *text, struct proc_rollup *out)
{
	static const char *const keys[] = {"Anonymous", "Pss_Anon"};
	uint64_t *values[] = {&out->anon_kb, &out->pss_anon_kb};
	size_t found = 0;
	const char *v;
	char *end;

	for (; *text; text += strcspn(text, "\n"), text += *text == '\n')
		for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
			if (!(v = value_of(text, keys[i])))
				continue;
			*values[i] = strtoull(v, &end, 10);
			if (end == v)
				return -1;
			found |= 1U << i;
		}
	return found == (1U << ARRAY_SIZE(keys)) - 1 ? 0 : -1;
}

int proc_rollup(pid_t pid, struct proc_rollup *out, struct err *err)
{
	cleanup_free char *text = NULL;

	if (io_read_filef(&text, NULL, "/proc/%d/smaps_rollup", pid))
		return err_sys(err, "cannot read /proc/%d/smaps_rollup", pid);
	if (parse_rollup(text, out))
		return err_set(err, EPROTO, "/proc/%d/smaps_rollup is not as proc(5) says", pid);
	return 0;
}

uint64_t proc_private_pages(pid_t pid)
{
	cleanup_free char *text = NULL;
	unsigned long long resident, shared;

	if (io_read_filef(&text, NULL, "/proc/%d/statm", pid) ||
	    sscanf(text, "%*u %llu %llu", &resident, &shared) != 2 || resident < shared)
		return 0;
	return resident - shared;
}

/* ---- directories of numbers ---- */

static int compare_pids(const void *a, const void *b)
{
	return *(const pid_t *)a - *(const pid_t *)b;
}

static int read_numbers(const char *path, proc_pids *out, struct err *err)
{
	cleanup_dir DIR *d = opendir(path);
	struct dirent *e;
	char *end;
	long n;

	memset(out, 0, sizeof(*out));
	if (!d)
		return err_sys(err, "cannot list %s", path);
	while (errno = 0, (e = readdir(d))) {
		n = strtol(e->d_name, &end, 10);
		if (*end || end == e->d_name)
			continue;
		if (!vec_push(out, (pid_t)n)) {
			vec_free(out);
			return err_nomem(err);
		}
	}
	if (errno) {
		vec_free(out);
		return err_sys(err, "cannot list %s", path);
	}
	if (out->n)
		qsort(out->v, out->n, sizeof(*out->v), compare_pids);
	return 0;
}

int proc_threads(pid_t pid, proc_pids *out, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return read_numbers(path, out, err);
}

int proc_fds(pid_t pid, proc_pids *out, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	return read_numbers(path, out, err);
}

int proc_children(pid_t pid, pid_t tid, proc_pids *out, struct err *err)
{
	cleanup_free char *text = NULL;
	char *p, *end;
	long n;

	if (io_read_filef(&text, NULL, "/proc/%d/task/%d/children", pid, tid))
		return 0;
	for (p = text, n = strtol(p, &end, 10); end != p; p = end, n = strtol(p, &end, 10))
		if (!vec_push(out, (pid_t)n))
			return err_nomem(err);
	return 0;
}

/* Appends the children of every thread of @pid. */
static int add_children(pid_t pid, proc_pids *tree, struct err *err)
{
	proc_pids threads;
	size_t i;
	int rc = 0;

	if (proc_threads(pid, &threads, err))
		return err->no == ENOENT || err->no == ESRCH ? 0 : -1; /* it ended meanwhile */
	for (i = 0; i < threads.n && rc == 0; i++)
		rc = proc_children(pid, threads.v[i], tree, err);
	vec_free(&threads);
	return rc;
}

int proc_tree(pid_t root, proc_pids *tree, struct err *err)
{
	size_t i;

	memset(tree, 0, sizeof(*tree));
	if (!vec_push(tree, root))
		return err_nomem(err);
	for (i = 0; i < tree->n; i++)
		if (add_children(tree->v[i], tree, err)) {
			vec_free(tree);
			return -1;
		}
	return 0;
}

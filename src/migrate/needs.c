// SPDX-License-Identifier: Apache-2.0
#include "migrate/needs.h"

#include "base/io.h"
#include "base/vec.h"
#include "kernel/proc.h"

#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <string.h>

void boot_id_read(char buf[40])
{
	cleanup_free char *text = NULL;

	buf[0] = '\0';
	if (io_read_filef(&text, NULL, "/proc/sys/kernel/random/boot_id") == 0)
		snprintf(buf, 40, "%.*s", (int)strcspn(text, "\n"), text);
}

/* ---- process ids, users and groups ---- */

typedef VEC(Wire__IdName *) id_list;

struct gather {
	struct arena *arena;
	VEC(uint32_t) pids;
	id_list users, groups;
	VEC(Wire__Port *) ports;
	struct map sockets; /* inode + 1 -> itself: the tree's sockets */
};

static int add_id(struct gather *g, id_list *list, uint32_t id, const char *(*name_of)(uint32_t),
		  struct err *err)
{
	Wire__IdName *entry;
	const char *name;

	for (size_t i = 0; i < list->n; i++) {
		if (list->v[i]->id == id)
			return 0;
	}
	entry = arena_new(g->arena, Wire__IdName);
	if (!entry)
		return err_nomem(err);
	wire__id_name__init(entry);
	entry->id = id;
	name = name_of(id);
	if (name && !(entry->name = arena_strdup(g->arena, name)))
		return err_nomem(err);
	return vec_push(list, entry) ? 0 : err_nomem(err);
}

static const char *user_name(uint32_t id)
{
	struct passwd *pw = getpwuid(id);

	return pw ? pw->pw_name : NULL;
}

static const char *group_name(uint32_t id)
{
	struct group *gr = getgrgid(id);

	return gr ? gr->gr_name : NULL;
}

static int add_thread(struct gather *g, pid_t tid, struct err *err)
{
	struct proc_status st;
	int rc = 0;

	if (proc_status(tid, &st, err) < 0)
		return err->no == ENOENT || err->no == ESRCH ? 0 : -1; /* it ended meanwhile */
	for (size_t i = 0; i < ARRAY_SIZE(st.uid) && !rc; i++) {
		rc = add_id(g, &g->users, st.uid[i], user_name, err);
		if (!rc)
			rc = add_id(g, &g->groups, st.gid[i], group_name, err);
	}
	for (size_t i = 0; i < st.groups.n && !rc; i++)
		rc = add_id(g, &g->groups, st.groups.v[i], group_name, err);
	if (!rc && !vec_push(&g->pids, (uint32_t)(st.nspid.n ? st.nspid.v[st.nspid.n - 1] : tid)))
		rc = err_nomem(err);
	proc_status_finish(&st);
	return rc;
}

static int add_threads(struct gather *g, pid_t pid, struct err *err)
{
	proc_pids threads = {0};
	int rc = proc_threads(pid, &threads, err);

	if (rc < 0 && (err->no == ENOENT || err->no == ESRCH))
		rc = 0;
	for (size_t i = 0; i < threads.n && !rc; i++)
		rc = add_thread(g, threads.v[i], err);
	vec_free(&threads);
	return rc;
}

/* ---- ports ---- */

static int add_sockets(struct gather *g, pid_t pid, struct err *err)
{
	proc_pids fds = {0};
	unsigned long ino;
	char link[64];
	int rc = proc_fds(pid, &fds, err);

	if (rc < 0 && (err->no == ENOENT || err->no == ESRCH))
		rc = 0;
	for (size_t i = 0; i < fds.n && !rc; i++) {
		if (io_readlinkf(link, sizeof(link), "/proc/%d/fd/%d", pid, fds.v[i]) < 0 ||
		    sscanf(link, "socket:[%lu]", &ino) != 1)
			continue;
		if (!map_set(&g->sockets, ino, g))
			rc = err_nomem(err);
	}
	vec_free(&fds);
	return rc;
}

/* A line of /proc/PID/net/{tcp,udp}{,6}: "sl local rem st tx:rx tr:when retr uid timeout inode" */
static int add_port(struct gather *g, const char *line, uint32_t family, uint32_t protocol,
		    struct err *err)
{
	unsigned int words = family == 6 ? 4 : 1, port, state;
	char address[33];
	uint32_t raw[4];
	unsigned long ino;
	Wire__Port *p;

	if (sscanf(line, " %*u: %32[0-9A-F]:%X %*[0-9A-F]:%*X %X %*s %*s %*s %*u %*u %lu", address,
		   &port, &state, &ino) != 4 ||
	    strlen(address) != words * 8)
		return 0;
	/* TCP: listening; the connected ones are refused elsewhere. UDP: any that is bound. */
	if ((protocol == IPPROTO_TCP && state != 0x0a) || port == 0 || !map_get(&g->sockets, ino))
		return 0;
	for (unsigned int i = 0; i < words; i++) {
		if (sscanf(address + 8 * i, "%8x", &raw[i]) != 1)
			return 0;
	}
	p = arena_new(g->arena, Wire__Port);
	if (!p)
		return err_nomem(err);
	wire__port__init(p);
	p->family = family;
	p->protocol = protocol;
	p->port = port;
	p->address.len = words * 4;
	/* the kernel prints each word of the address as a number of our byte order */
	p->address.data = arena_dup(g->arena, raw, words * 4);
	if (!p->address.data || !vec_push(&g->ports, p))
		return err_nomem(err);
	return 0;
}

static int add_ports(struct gather *g, pid_t root, struct err *err)
{
	static const struct {
		const char *file;
		uint32_t family, protocol;
	} tables[] = {
		{"tcp", 4, IPPROTO_TCP},
		{"tcp6", 6, IPPROTO_TCP},
		{"udp", 4, IPPROTO_UDP},
		{"udp6", 6, IPPROTO_UDP},
	};

	if (!g->sockets.n)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		cleanup_free char *text = NULL;
		char *line, *save = NULL;

		if (io_read_filef(&text, NULL, "/proc/%d/net/%s", root, tables[i].file) < 0)
			continue; /* no IPv6 here */
		for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			if (add_port(g, line, tables[i].family, tables[i].protocol, err) < 0)
				return -1;
		}
	}
	return 0;
}

/* ---- all of it ---- */

static int add_cpu(struct gather *g, Wire__Needs *out, struct err *err)
{
	struct cpu_features cpu;

	cpu_features_read(&cpu);
	out->xcr0 = cpu.xcr0;
	out->cpu_features = arena_array(g->arena, char *, cpu.n);
	if (!out->cpu_features)
		return err_nomem(err);
	for (size_t i = 0; i < cpu.n; i++)
		out->cpu_features[i] = (char *)cpu.names[i];
	out->n_cpu_features = cpu.n;
	return 0;
}

/* Copies an array of @n elements to the arena, which then owns it. */
#define KEEP(g, out, field, vec)                                                              \
	({                                                                                    \
		(out)->n_##field = (vec)->n;                                                  \
		(out)->field = arena_dup((g)->arena, (vec)->v, (vec)->n * sizeof(*(vec)->v)); \
		(out)->field || !(vec)->n;                                                    \
	})

static int gather_all(struct gather *g, pid_t root, Wire__Needs *out, struct err *err)
{
	proc_pids tree = {0};
	int rc = proc_tree(root, &tree, err);

	for (size_t i = 0; i < tree.n && !rc; i++) {
		rc = add_threads(g, tree.v[i], err);
		if (!rc)
			rc = add_sockets(g, tree.v[i], err);
	}
	vec_free(&tree);
	if (!rc)
		rc = add_ports(g, root, err);
	if (!rc)
		rc = add_cpu(g, out, err);
	if (!rc && !(KEEP(g, out, pids, &g->pids) && KEEP(g, out, users, &g->users) &&
		     KEEP(g, out, groups, &g->groups) && KEEP(g, out, ports, &g->ports)))
		rc = err_nomem(err);
	return rc;
}

int needs_gather(pid_t root, struct arena *arena, Wire__Needs *out, struct err *err)
{
	struct gather g = {.arena = arena};
	int rc = gather_all(&g, root, out, err);

	vec_free(&g.pids);
	vec_free(&g.users);
	vec_free(&g.groups);
	vec_free(&g.ports);
	map_free(&g.sockets);
	return rc;
}

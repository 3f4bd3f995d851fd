// SPDX-License-Identifier: Apache-2.0
/*
 * The target's look at what the tree needs, while it still runs at home: all
 * that is missing or in the way is listed at once. Nothing is changed here.
 */
#include "migrate/target.h"

#include "kernel/probe.h"
#include "migrate/needs.h"
#include "migrate/source.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

typedef VEC(char *) texts;

struct look {
	struct arena *arena;
	const Wire__Needs *needs;
	texts refused, noted;
};

static int add(struct look *l, texts *list, struct err *err, const char *fmt, ...) printf_like(4, 5);

static int add(struct look *l, texts *list, struct err *err, const char *fmt, ...)
{
	char text[600], *copy;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	copy = arena_strdup(l->arena, text);
	return copy && vec_push(list, copy) ? 0 : err_nomem(err);
}

/* ---- kernel and processor ---- */

static int look_at_kernel(struct look *l, struct err *err)
{
	unsigned int need = PROBE_RESTORE;

	if (l->needs->pids_mode == PIDS_NEW)
		need |= PROBE_NEW_PIDS;
	for (const struct kernel_probe *p = kernel_probes; p->name; p++) {
		int no = p->needed_by & need ? p->test() : 0;

		if (no && add(l, &l->refused, err, "the kernel there does not let us use %s (%s): %s",
			      p->name, p->purpose, strerror(no)) < 0)
			return -1;
	}
	return 0;
}

static bool have_feature(const struct cpu_features *cpu, const char *name)
{
	for (size_t i = 0; i < cpu->n; i++) {
		if (!strcmp(cpu->names[i], name))
			return true;
	}
	return false;
}

/*
 * A program that saves its own registers knows since its start how much room that
 * takes: the dynamic linker does so whenever it looks up a function. `xsavec` leaves
 * out what is not in use; without it, `xsave` writes all that the processor has, and
 * where that is more than at home, over the stack.
 */
static bool saves_too_much(const Wire__Needs *n, uint64_t xcr0)
{
	if (!(xcr0 & ~n->xcr0))
		return false;
	for (size_t i = 0; i < n->n_cpu_features; i++) {
		if (!strcmp(n->cpu_features[i], "xsavec"))
			return false;
	}
	return true;
}

static int look_at_cpu(struct look *l, struct err *err)
{
	char missing[400] = "";
	struct cpu_features cpu;

	cpu_features_read(&cpu);
	for (size_t i = 0; i < l->needs->n_cpu_features; i++) {
		const char *name = l->needs->cpu_features[i];
		size_t len = strlen(missing);

		if (!have_feature(&cpu, name))
			snprintf(missing + len, sizeof(missing) - len, "%s%.32s", len ? ", " : "",
				 name);
	}
	if (*missing && add(l, &l->refused, err, "the processor there lacks %s", missing) < 0)
		return -1;
	if (l->needs->xcr0 & ~cpu.xcr0)
		return add(l, &l->refused, err,
			   "the processor state there lacks components (xcr0 %#llx there, %#llx here)",
			   (unsigned long long)cpu.xcr0, (unsigned long long)l->needs->xcr0);
	if (saves_too_much(l->needs, cpu.xcr0))
		return add(l, &l->refused, err,
			   "the processor state there is larger (xcr0 %#llx there, %#llx here), and programs "
			   "that save it by xsave, as the dynamic linker does where xsavec is missing, have no room for it",
			   (unsigned long long)cpu.xcr0, (unsigned long long)l->needs->xcr0);
	return 0;
}

/* ---- process ids ---- */

static int look_at_pids(struct look *l, struct err *err)
{
	const Wire__Needs *n = l->needs;
	cleanup_free pid_t *pids = calloc(n->n_pids + 1, sizeof(*pids));
	struct err owner;

	if (!pids)
		return err_nomem(err);
	for (size_t i = 0; i < n->n_pids; i++) {
		if (n->pids[i] == 0 || n->pids[i] > INT32_MAX)
			return err_set(err, EPROTO, "pid %u is none", n->pids[i]);
		pids[i] = (pid_t)n->pids[i];
	}
	if (n->pids_mode == PIDS_NEW)
		return add(l, &l->noted, err,
			   "the tree gets a pid namespace of its own there, as --pids=new wants it");
	if (restore_pids_free(pids, n->n_pids, &owner) == 0)
		return 0;
	if (n->pids_mode == PIDS_SAME)
		return add(l, &l->refused, err, "%.500s", owner.text);
	return add(l, &l->noted, err, "%.400s: the tree gets a pid namespace of its own there",
		   owner.text);
}

/* ---- users and groups ---- */

static int look_at_users(struct look *l, struct err *err)
{
	const Wire__Needs *n = l->needs;

	for (size_t i = 0; i < n->n_users; i++) {
		const struct passwd *pw = getpwuid(n->users[i]->id);

		if (pw && n->users[i]->name && strcmp(pw->pw_name, n->users[i]->name) != 0 &&
		    add(l, &l->refused, err, "user %u is %.32s here and %.32s there",
			n->users[i]->id, n->users[i]->name, pw->pw_name) < 0)
			return -1;
	}
	for (size_t i = 0; i < n->n_groups; i++) {
		const struct group *gr = getgrgid(n->groups[i]->id);

		if (gr && n->groups[i]->name && strcmp(gr->gr_name, n->groups[i]->name) != 0 &&
		    add(l, &l->refused, err, "group %u is %.32s here and %.32s there",
			n->groups[i]->id, n->groups[i]->name, gr->gr_name) < 0)
			return -1;
	}
	return 0;
}

/* ---- ports ---- */

/* Binds and closes again: nothing of it is left. Returns an errno. */
static int try_port(const Wire__Port *p)
{
	int type = p->protocol == IPPROTO_UDP ? SOCK_DGRAM : SOCK_STREAM;
	int one = 1, no = 0;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} addr = {0};
	socklen_t len;
	cleanup_close int fd = socket(p->family == 6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC,
				      (int)p->protocol);

	if (fd < 0)
		return errno;
	if (p->family == 6) {
		addr.in6.sin6_family = AF_INET6;
		addr.in6.sin6_port = htons((uint16_t)p->port);
		memcpy(&addr.in6.sin6_addr, p->address.data, sizeof(addr.in6.sin6_addr));
		len = sizeof(addr.in6);
		/* whether it takes IPv4 along is not known here: the other table tells */
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	} else {
		addr.in.sin_family = AF_INET;
		addr.in.sin_port = htons((uint16_t)p->port);
		memcpy(&addr.in.sin_addr, p->address.data, sizeof(addr.in.sin_addr));
		len = sizeof(addr.in);
	}
	/* connections that linger do not count; who listens does */
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &addr.sa, len) < 0)
		no = errno;
	return no;
}

static int look_at_ports(struct look *l, struct err *err)
{
	const Wire__Needs *n = l->needs;

	for (size_t i = 0; i < n->n_ports; i++) {
		const Wire__Port *p = n->ports[i];
		char text[INET6_ADDRSTRLEN];
		int no;

		if ((p->family != 4 && p->family != 6) ||
		    p->address.len != (p->family == 6 ? 16 : 4) || p->port > 65535)
			return err_set(err, EPROTO, "port %zu of the list is none", i);
		/* multicast and link-local addresses depend on more than can be seen here */
		if (p->family == 6 && IN6_IS_ADDR_LINKLOCAL((struct in6_addr *)p->address.data))
			continue;
		no = try_port(p);
		if (!no)
			continue;
		inet_ntop(p->family == 6 ? AF_INET6 : AF_INET, p->address.data, text, sizeof(text));
		if (add(l, &l->refused, err, "%s port %u of address %s cannot be had there: %s",
			p->protocol == IPPROTO_UDP ? "udp" : "tcp", p->port, text, strerror(no)) < 0)
			return -1;
	}
	return 0;
}

/* ---- all of it ---- */

int verdict_make(struct arena *arena, const Wire__Needs *needs, Wire__Verdict *out, struct err *err)
{
	struct look l = {.arena = arena, .needs = needs};
	int rc = -1;

	if (look_at_kernel(&l, err) == 0 && look_at_cpu(&l, err) == 0 &&
	    look_at_pids(&l, err) == 0 && look_at_users(&l, err) == 0 && look_at_ports(&l, err) == 0)
		rc = 0;
	out->n_refused = l.refused.n;
	out->refused = arena_dup(arena, l.refused.v, l.refused.n * sizeof(*l.refused.v));
	out->n_noted = l.noted.n;
	out->noted = arena_dup(arena, l.noted.v, l.noted.n * sizeof(*l.noted.v));
	if (rc == 0 && ((l.refused.n && !out->refused) || (l.noted.n && !out->noted)))
		rc = err_nomem(err);
	vec_free(&l.refused);
	vec_free(&l.noted);
	return rc;
}

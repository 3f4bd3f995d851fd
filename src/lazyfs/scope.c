// SPDX-License-Identifier: Apache-2.0
#include "lazyfs/scope.h"

#include <limits.h>
#include <string.h>

/* As strcmp, with '/' below all other characters: what is below a directory follows it at once. */
static int path_cmp(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	if (*a == *b)
		return 0;
	if (!*a || !*b)
		return *a ? 1 : -1;
	if (*a == '/' || *b == '/')
		return *a == '/' ? -1 : 1;
	return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
}

/* "/" comes out as "", so that each path is that of its directory, "/" and a name. */
static const char *norm(const char *path)
{
	return path[1] ? path : "";
}

/* Is @path @dir itself or below it? */
static bool within(const char *dir, const char *path)
{
	size_t n = strlen(norm(dir));

	return !strncmp(norm(path), norm(dir), n) && (!norm(path)[n] || norm(path)[n] == '/');
}

static int by_path(const void *a, const void *b)
{
	const struct lf_export *x = *(const struct lf_export *const *)a;
	const struct lf_export *y = *(const struct lf_export *const *)b;
	int cmp = path_cmp(norm(x->path), norm(y->path));

	return cmp ? cmp : (int)y->whole - (int)x->whole;
}

int scope_init(struct scope *s, const struct lf_export *exports, size_t n, struct err *err)
{
	*s = (struct scope){.v = calloc(n + 1, sizeof(const struct lf_export *))};
	if (!s->v)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++)
		s->v[i] = &exports[i];
	qsort((void *)s->v, n, sizeof(s->v[0]), by_path);
	for (size_t i = 0; i < n; i++) {
		const struct lf_export *last = s->n ? s->v[s->n - 1] : NULL;

		if (last && (last->whole ? within(last->path, s->v[i]->path) :
					   !strcmp(last->path, s->v[i]->path)))
			continue;
		s->v[s->n++] = s->v[i];
	}
	return 0;
}

void scope_finish(struct scope *s)
{
	free((void *)s->v);
	*s = (struct scope){0};
}

/* The first export that does not sort before @path. */
static size_t find(const struct scope *s, const char *path)
{
	size_t lo = 0, hi = s->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (path_cmp(norm(s->v[mid]->path), norm(path)) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Is @path below a whole directory? Only an export that is one of its ancestors can say so. */
static bool below_whole(const struct scope *s, const char *path)
{
	char up[LF_PATH_MAX + 1];
	char *slash;

	if (strlen(path) > LF_PATH_MAX)
		return false;
	strcpy(up, path);
	while ((slash = strrchr(up, '/'))) {
		size_t i;

		slash[slash == up] = '\0';
		i = find(s, up);
		if (i < s->n && s->v[i]->whole && !strcmp(s->v[i]->path, up))
			return true;
		if (slash == up)
			break;
	}
	return false;
}

enum scope_place scope_place(const struct scope *s, const char *path)
{
	size_t i = find(s, path);

	if (i < s->n && !strcmp(s->v[i]->path, path) && s->v[i]->whole)
		return SCOPE_INSIDE;
	if (below_whole(s, path))
		return SCOPE_INSIDE;
	/* something below a path that is named as a file: then it is a directory by now */
	if (i < s->n && !strcmp(s->v[i]->path, path))
		return i + 1 < s->n && within(path, s->v[i + 1]->path) ? SCOPE_WAY : SCOPE_FILE;
	if (i < s->n && within(path, s->v[i]->path))
		return SCOPE_WAY;
	return !path[1] ? SCOPE_WAY : SCOPE_OUTSIDE;
}

int scope_children(const struct scope *s, const char *dir, int (*each)(void *arg, const char *name),
		   void *arg)
{
	char name[NAME_MAX + 1], last[NAME_MAX + 1] = "";
	size_t skip = strlen(norm(dir)) + 1;

	for (size_t i = find(s, dir); i < s->n && within(dir, s->v[i]->path); i++) {
		const char *p = s->v[i]->path;
		size_t n;
		int rc;

		if (!strcmp(p, dir))
			continue;
		n = strcspn(p + skip, "/");
		memcpy(name, p + skip, n);
		name[n] = '\0';
		if (!strcmp(name, last))
			continue;
		strcpy(last, name);
		rc = each(arg, name);
		if (rc)
			return rc;
	}
	return 0;
}

int scope_join(char out[LF_PATH_MAX + 1], const char *dir, const char *name)
{
	int n = snprintf(out, LF_PATH_MAX + 1, "%s/%s", norm(dir), name);

	return n < 0 || n > LF_PATH_MAX ? -1 : 0;
}

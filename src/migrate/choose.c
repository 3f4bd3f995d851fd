// SPDX-License-Identifier: Apache-2.0
/*
 * How the memory moves, when the user has not said: chosen while nothing is stopped, and a choice
 * that differs from the usual one is told. (What a kernel or a connection cannot do shows when it is tried:
 * source_lanes, source_precopy.)
 *
 * Pages that come late are placed one by one, and there is no way to place one page in two address spaces: only a
 * fork shares, of pages that are there already. So a tree whose processes share much memory since their forks
 * would need more at the destination than at home, perhaps more than there is. Its memory is put in place
 * before it runs, by which the sharing is kept.
 */
#include "migrate/source.h"

#include "kernel/proc.h"

/* So much may be separate there that was shared here, without a word. */
enum { SHARED_MAX_MB = 64 };

/* What the tree would need more if nothing was shared. A process that ends meanwhile does not count. */
static int shared_kb(pid_t root, uint64_t *out, struct err *err)
{
	uint64_t anon_kb = 0, own_kb = 0;
	struct proc_rollup one;
	struct err ignored;
	proc_pids pids;

	*out = 0;
	if (proc_tree(root, &pids, err))
		return -1;
	vec_foreach (pid, &pids) {
		if (pids.n == 1 || proc_rollup(*pid, &one, &ignored))
			continue;
		anon_kb += one.anon_kb;
		own_kb += one.pss_anon_kb;
	}
	vec_free(&pids);
	*out = anon_kb - MIN(own_kb, anon_kb);
	return 0;
}

int source_choose(struct source *s, struct err *err)
{
	char note[256];
	uint64_t kb;

	if (!(s->mode & WIRE_MODE_POSTCOPY))
		return 0;
	if (shared_kb(s->opt->pid, &kb, err) < 0)
		return -1;
	if (kb <= SHARED_MAX_MB * 1024)
		return 0;
	if (!s->opt->mode_wanted)
		s->mode &= ~WIRE_MODE_POSTCOPY;
	snprintf(note, sizeof(note),
		 s->opt->mode_wanted ?
			 "%llu MB that processes share since a fork will be separate there" :
			 "the memory moves before the program runs there (precopy): its processes share "
			 "%llu MB since a fork, and pages that follow would be separate",
		 (unsigned long long)kb / 1000);
	progress_note(s->opt->progress, note);
	return 0;
}

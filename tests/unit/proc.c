// SPDX-License-Identifier: Apache-2.0
// kernel/proc: texts of real kernels, of hostile tasks, and cut short.
#include "unit.h"

#include "kernel/proc.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static const char stat_text[] =
	"4242 (a) R (b) S 1 4242 4240 34816 4250 4194560 1 2 3 4 5 6 7 8 20 -5 3 0 987654 "
	"1000000 100 18446744073709551615 94000000000000 94000000100000 140720000000000 0 0 0 0 0 0 "
	"0 0 0 17 1 0 0 0 0 0 94000000200000 94000000210000 94000001000000 140720000001000 "
	"140720000001010 140720000001010 140720000002000 256\n";

static void stat_is_read_past_a_hostile_name(void **state)
{
	struct proc_stat s;

	assert_int_equal(parse_stat(stat_text, &s), 0);
	assert_int_equal(s.pid, 4242);
	assert_string_equal(s.comm, "a) R (b");
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.ppid, 1);
	assert_int_equal(s.pgrp, 4242);
	assert_int_equal(s.session, 4240);
	assert_int_equal(s.tty_nr, 34816);
	assert_int_equal(s.tpgid, 4250);
	assert_int_equal(s.nice, -5);
	assert_int_equal(s.start_time, 987654);
	assert_int_equal(s.exit_signal, SIGCHLD);
	assert_true(s.start_code == 94000000000000 && s.end_code == 94000000100000);
	assert_true(s.start_data == 94000000200000 && s.end_data == 94000000210000);
	assert_true(s.start_brk == 94000001000000);
	assert_true(s.arg_start == 140720000001000 && s.env_end == 140720000002000);
	assert_int_equal(s.exit_code, 256);
}

static void rollup_has_two_numbers(void **state)
{
	static const char text[] = "55ad38e00000-7fff0 ---p 00000000 00:00 0 [rollup]\n"
				   "Rss:               4000 kB\nPss_Anon:           123 kB\n"
				   "Anonymous:          456 kB\nLazyFree:             0 kB\n";
	struct proc_rollup r;
	struct err err;

	assert_int_equal(parse_rollup(text, &r), 0);
	assert_int_equal(r.anon_kb, 456);
	assert_int_equal(r.pss_anon_kb, 123);
	assert_int_equal(parse_rollup("", &r), -1);
	assert_int_equal(parse_rollup("Pss_Anon: 1 kB\n", &r), -1);
	assert_int_equal(parse_rollup("Pss_Anon: 1 kB\nAnonymous: kB\n", &r), -1);
	assert_int_equal(proc_rollup(getpid(), &r, &err), 0);
	assert_true(r.anon_kb > 0 && r.pss_anon_kb <= r.anon_kb);
}

static void a_cut_stat_is_refused(void **state)
{
	char text[sizeof(stat_text)];
	struct proc_stat s;

	assert_int_equal(parse_stat("", &s), -1);
	assert_int_equal(parse_stat("1 (x", &s), -1);
	assert_int_equal(parse_stat("1 )x(", &s), -1);
	assert_int_equal(parse_stat("1 (x)", &s), -1);
	assert_int_equal(parse_stat("1 (x) ", &s), -1);
	memcpy(text, stat_text, sizeof(text));
	text[60] = 0; /* within the first 22 fields */
	assert_int_equal(parse_stat(text, &s), -1);
}

static void status_gives_ids_groups_and_sets(void **state)
{
	static const char text[] =
		"Name:\tx\nUmask:\t0027\nState:\tt (tracing stop)\nPPid:\t7\n"
		"TracerPid:\t99\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"
		"Groups:\t4 24 4294967294 \nNSpid:\t4242\t17\t1\nVmLck:\t      64 kB\n"
		"Threads:\t3\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\n"
		"SigBlk:\t8000000000000000\nCapInh:\t0000000000000003\n"
		"CapPrm:\t000001ffffffffff\nCapEff:\t000001fffffffffe\n"
		"CapBnd:\t000001fffffffffd\nCapAmb:\t0000000000000004\n"
		"NoNewPrivs:\t1\nSeccomp:\t2\n";
	struct proc_status s;

	assert_int_equal(parse_status(text, &s), 0);
	assert_int_equal(s.state, 't');
	assert_int_equal(s.umask, 027);
	assert_int_equal(s.ppid, 7);
	assert_int_equal(s.tracer, 99);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(s.uid[i], 1 + i);
		assert_int_equal(s.gid[i], 5 + i);
	}
	assert_int_equal(s.groups.n, 3);
	assert_true(s.groups.v[2] == 4294967294u);
	assert_int_equal(s.nspid.n, 3);
	assert_int_equal(s.nspid.v[2], 1);
	assert_int_equal(s.vm_locked_kb, 64);
	assert_int_equal(s.threads, 3);
	assert_true(s.sig_pending == 1 && s.shared_pending == 2 && s.sig_blocked == 1ULL << 63);
	assert_true(s.cap_inh == 3 && s.cap_prm == 0x1ffffffffff && s.cap_eff == 0x1fffffffffe);
	assert_true(s.cap_bnd == 0x1fffffffffd && s.cap_amb == 4);
	assert_int_equal(s.no_new_privs, 1);
	assert_int_equal(s.seccomp, 2);
	proc_status_finish(&s);
}

static void status_without_groups_or_state(void **state)
{
	struct proc_status s;

	assert_int_equal(parse_status("State:\tR (running)\nGroups:\t \nUid:\t0\n", &s), 0);
	assert_int_equal(s.groups.n, 0);
	proc_status_finish(&s);
	assert_int_equal(parse_status("", &s), -1);
	proc_status_finish(&s);
}

static void smaps_gives_areas_with_flags(void **state)
{
	static const char text[] =
		"00400000-00401000 r-xp 00001000 08:11 123                        /bin/a b (deleted)\n"
		"Size:                  4 kB\nKernelPageSize:        4 kB\n"
		"VmFlags: rd ex mr mw me lo \n"
		"7f0000000000-7f0000200000 rw-s 00000000 00:0f 9                  /anon_hugepage\n"
		"KernelPageSize:     2048 kB\nProtectionKey:         0\nVmFlags: rd wr sh mr mw me ms ht dd hg \n"
		"7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]\n"
		"ProtectionKey:         3\nVmFlags: rd wr mr mw me gd ac \n"
		"7ffd00000000-7ffd00001000 ---p 00000000 00:00 0 \n";
	proc_vmas v = {0};

	assert_int_equal(parse_vmas(text, &v), 0);
	assert_int_equal(v.n, 4);
	assert_true(v.v[0].start == 0x400000 && v.v[0].end == 0x401000 && v.v[0].pgoff == 0x1000);
	assert_true(v.v[0].read && !v.v[0].write && v.v[0].exec && !v.v[0].shared);
	assert_true(v.v[0].dev_major == 8 && v.v[0].dev_minor == 0x11 && v.v[0].ino == 123);
	assert_string_equal(v.v[0].name, "/bin/a b (deleted)");
	assert_true(v.v[0].flags == PROC_VMF_LOCKED);
	assert_true(v.v[1].shared && v.v[1].write && v.v[1].page_bytes == 2048 * 1024);
	assert_true(v.v[1].flags == (PROC_VMF_HUGETLB | PROC_VMF_DONTDUMP | PROC_VMF_HUGEPAGE));
	assert_true(v.v[2].flags == (PROC_VMF_GROWSDOWN | PROC_VMF_ACCOUNT | PROC_VMF_PROTECTION_KEY));
	assert_string_equal(v.v[3].name, "");
	assert_true(!v.v[3].read && v.v[3].page_bytes == PAGE_BYTES);
	proc_vmas_finish(&v);
}

static void malformed_maps_are_refused(void **state)
{
	static const char *const texts[] = {
		"VmFlags: rd\n",                           /* of no area */
		"zzz\n",                                   /* no address */
		"00400000 r-xp\n",                         /* no end */
		"00400000-00401000\n",                     /* nothing else */
		"00400000-00401000 r-xp 0 08\n",           /* no minor number */
		"00401000-00400000 r-xp 0 08:01 1 /x\n",   /* backwards */
		"00400000-00401000 r\n-xp 0 08:01 1 /x\n", /* broken in two */
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		proc_vmas v = {0};

		assert_int_equal(parse_vmas(texts[i], &v), -1);
		proc_vmas_finish(&v);
	}
}

static void this_process_is_as_it_says(void **state)
{
	struct proc_status status;
	struct proc_stat stat;
	proc_pids pids;
	struct err err;
	bool found = false;

	prctl(PR_SET_NAME, "u(n)i t", 0, 0, 0);
	assert_int_equal(proc_stat(getpid(), &stat, &err), 0);
	assert_string_equal(stat.comm, "u(n)i t");
	assert_int_equal(stat.ppid, getppid());
	assert_int_equal(proc_status(getpid(), &status, &err), 0);
	assert_int_equal(status.uid[0], getuid());
	proc_status_finish(&status);
	assert_int_equal(proc_threads(getpid(), &pids, &err), 0);
	assert_int_equal(pids.n, 1);
	vec_free(&pids);
	assert_int_equal(proc_fds(getpid(), &pids, &err), 0);
	vec_foreach (fd, &pids)
		found |= *fd == 1;
	assert_true(found);
	vec_free(&pids);
}

static void areas_of_this_process_are_found(void **state)
{
	uint8_t *p = mmap(NULL, 3 * PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool found = false;
	struct err err;
	proc_vmas v;

	assert_true(p != MAP_FAILED);
	assert_int_equal(madvise(p, 3 * PAGE_BYTES, MADV_DONTFORK), 0);
	assert_int_equal(proc_vmas_read(getpid(), true, &v, &err), 0);
	vec_foreach (a, &v) {
		if (a->start != (uintptr_t)p)
			continue;
		found = true;
		assert_true(a->end == a->start + 3 * PAGE_BYTES);
		assert_true(a->shared && a->read && !a->write && a->ino);
		assert_true(a->flags & PROC_VMF_DONTFORK);
	}
	assert_true(found);
	proc_vmas_finish(&v);
	munmap(p, 3 * PAGE_BYTES);
}

static void tree_has_children_and_grandchildren(void **state)
{
	pid_t child;
	struct err err;
	proc_pids tree;
	int p[2];
	char c;

	assert_int_equal(pipe(p), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (write(p[1], "x", 1) != 1)
				_exit(1);
		}
		pause();
		_exit(0);
	}
	assert_int_equal(read(p[0], &c, 1), 1);
	assert_int_equal(proc_tree(child, &tree, &err), 0);
	assert_int_equal(tree.n, 2);
	assert_int_equal(tree.v[0], child);
	vec_free(&tree);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(p[0]);
	close(p[1]);
	assert_int_equal(proc_stat(child, &(struct proc_stat){0}, &err), -1);
	assert_int_equal(err.no, ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stat_is_read_past_a_hostile_name),
		cmocka_unit_test(a_cut_stat_is_refused),
		cmocka_unit_test(rollup_has_two_numbers),
		cmocka_unit_test(status_gives_ids_groups_and_sets),
		cmocka_unit_test(status_without_groups_or_state),
		cmocka_unit_test(smaps_gives_areas_with_flags),
		cmocka_unit_test(malformed_maps_are_refused),
		cmocka_unit_test(this_process_is_as_it_says),
		cmocka_unit_test(areas_of_this_process_are_found),
		cmocka_unit_test(tree_has_children_and_grandchildren),
	};

	return cmocka_run_group_tests_name("proc", tests, NULL, NULL);
}

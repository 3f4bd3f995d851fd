// SPDX-License-Identifier: Apache-2.0
/*
 * What of the processor a program can come to depend on. The C library picks
 * its routines by cpuid once, at start; so every instruction set that the
 * source has may be in use, and the destination must have it.
 */
#include "migrate/needs.h"

#include <cpuid.h>

enum reg { EAX, EBX, ECX, EDX };

struct cpu_bit {
	const char *name;
	unsigned int leaf, subleaf;
	enum reg reg;
	unsigned int bit;
};

/* Intel SDM volume 2, CPUID; names as in /proc/cpuinfo. */
static const struct cpu_bit bits[] = {
	{"pni", 1, 0, ECX, 0},
	{"pclmulqdq", 1, 0, ECX, 1},
	{"ssse3", 1, 0, ECX, 9},
	{"fma", 1, 0, ECX, 12},
	{"cx16", 1, 0, ECX, 13},
	{"sse4_1", 1, 0, ECX, 19},
	{"sse4_2", 1, 0, ECX, 20},
	{"movbe", 1, 0, ECX, 22},
	{"popcnt", 1, 0, ECX, 23},
	{"aes", 1, 0, ECX, 25},
	{"xsave", 1, 0, ECX, 26},
	{"avx", 1, 0, ECX, 28},
	{"f16c", 1, 0, ECX, 29},
	{"rdrand", 1, 0, ECX, 30},
	{"fsgsbase", 7, 0, EBX, 0},
	{"bmi1", 7, 0, EBX, 3},
	{"hle", 7, 0, EBX, 4},
	{"avx2", 7, 0, EBX, 5},
	{"bmi2", 7, 0, EBX, 8},
	{"erms", 7, 0, EBX, 9},
	{"rtm", 7, 0, EBX, 11},
	{"avx512f", 7, 0, EBX, 16},
	{"avx512dq", 7, 0, EBX, 17},
	{"rdseed", 7, 0, EBX, 18},
	{"adx", 7, 0, EBX, 19},
	{"avx512ifma", 7, 0, EBX, 21},
	{"clflushopt", 7, 0, EBX, 23},
	{"clwb", 7, 0, EBX, 24},
	{"avx512cd", 7, 0, EBX, 28},
	{"sha_ni", 7, 0, EBX, 29},
	{"avx512bw", 7, 0, EBX, 30},
	{"avx512vl", 7, 0, EBX, 31},
	{"avx512vbmi", 7, 0, ECX, 1},
	{"avx512_vbmi2", 7, 0, ECX, 6},
	{"gfni", 7, 0, ECX, 8},
	{"vaes", 7, 0, ECX, 9},
	{"vpclmulqdq", 7, 0, ECX, 10},
	{"avx512_vnni", 7, 0, ECX, 11},
	{"avx512_bitalg", 7, 0, ECX, 12},
	{"avx512_vpopcntdq", 7, 0, ECX, 14},
	{"rdpid", 7, 0, ECX, 22},
	{"movdiri", 7, 0, ECX, 27},
	{"movdir64b", 7, 0, ECX, 28},
	{"avx512_vp2intersect", 7, 0, EDX, 8},
	{"serialize", 7, 0, EDX, 14},
	{"amx_bf16", 7, 0, EDX, 22},
	{"avx512_fp16", 7, 0, EDX, 23},
	{"amx_tile", 7, 0, EDX, 24},
	{"amx_int8", 7, 0, EDX, 25},
	{"avx_vnni", 7, 1, EAX, 4},
	{"avx512_bf16", 7, 1, EAX, 5},
	{"xsaveopt", 0xd, 1, EAX, 0},
	{"xsavec", 0xd, 1, EAX, 1},
	{"abm", 0x80000001, 0, ECX, 5},
	{"sse4a", 0x80000001, 0, ECX, 6},
	{"xop", 0x80000001, 0, ECX, 11},
	{"fma4", 0x80000001, 0, ECX, 16},
	{"tbm", 0x80000001, 0, ECX, 21},
	{"rdtscp", 0x80000001, 0, EDX, 27},
};
static_assert(ARRAY_SIZE(bits) <= ARRAY_SIZE(((struct cpu_features *)0)->names), "all must fit");

static bool has(const struct cpu_bit *b)
{
	unsigned int r[4] = {0};

	return __get_cpuid_count(b->leaf, b->subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) &&
	       r[b->reg] >> b->bit & 1;
}

static uint64_t read_xcr0(void)
{
	unsigned int a, b, c = 0, d, low, high;

	/* OSXSAVE: without it xgetbv is an invalid instruction */
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

void cpu_features_read(struct cpu_features *out)
{
	*out = (struct cpu_features){.xcr0 = read_xcr0()};
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		if (has(&bits[i]))
			out->names[out->n++] = bits[i].name;
	}
}

// SPDX-License-Identifier: Apache-2.0
// Threads that never leave their registers: x87 stack and control word, MXCSR, all of XMM/YMM and
// the general registers hold values in a loop without a system call, and are compared at its end.
#include "victim.h"

#include <immintrin.h>
#include <pthread.h>
#include <unistd.h>

#define THREADS 2

struct vectors {
	uint64_t words[16][4];
} __attribute__((aligned(64)));

static volatile uint32_t stop;
static volatile int running;

// Load 16 vector registers, wait for *stop in a loop that touches none of them, store them.
__attribute__((target("avx"), noinline)) static void hold_vectors(const struct vectors *in,
								  struct vectors *out)
{
	asm volatile("vmovdqa 0x000(%0), %%ymm0\n vmovdqa 0x020(%0), %%ymm1\n"
		     "vmovdqa 0x040(%0), %%ymm2\n vmovdqa 0x060(%0), %%ymm3\n"
		     "vmovdqa 0x080(%0), %%ymm4\n vmovdqa 0x0a0(%0), %%ymm5\n"
		     "vmovdqa 0x0c0(%0), %%ymm6\n vmovdqa 0x0e0(%0), %%ymm7\n"
		     "vmovdqa 0x100(%0), %%ymm8\n vmovdqa 0x120(%0), %%ymm9\n"
		     "vmovdqa 0x140(%0), %%ymm10\n vmovdqa 0x160(%0), %%ymm11\n"
		     "vmovdqa 0x180(%0), %%ymm12\n vmovdqa 0x1a0(%0), %%ymm13\n"
		     "vmovdqa 0x1c0(%0), %%ymm14\n vmovdqa 0x1e0(%0), %%ymm15\n"
		     "1: pause\n cmpl $0, (%2)\n je 1b\n"
		     "vmovdqa %%ymm0, 0x000(%1)\n vmovdqa %%ymm1, 0x020(%1)\n"
		     "vmovdqa %%ymm2, 0x040(%1)\n vmovdqa %%ymm3, 0x060(%1)\n"
		     "vmovdqa %%ymm4, 0x080(%1)\n vmovdqa %%ymm5, 0x0a0(%1)\n"
		     "vmovdqa %%ymm6, 0x0c0(%1)\n vmovdqa %%ymm7, 0x0e0(%1)\n"
		     "vmovdqa %%ymm8, 0x100(%1)\n vmovdqa %%ymm9, 0x120(%1)\n"
		     "vmovdqa %%ymm10, 0x140(%1)\n vmovdqa %%ymm11, 0x160(%1)\n"
		     "vmovdqa %%ymm12, 0x180(%1)\n vmovdqa %%ymm13, 0x1a0(%1)\n"
		     "vmovdqa %%ymm14, 0x1c0(%1)\n vmovdqa %%ymm15, 0x1e0(%1)\n"
		     :
		     : "r"(in), "r"(out), "r"(&stop)
		     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
		       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void *vector_thread(void *arg)
{
	static struct vectors in, out;
	unsigned int mxcsr = _mm_getcsr();

	victim_fill(&in, sizeof(in), 9);
	_mm_setcsr(mxcsr | 0x6000 | 0x8000); // round to zero, flush to zero
	__atomic_add_fetch(&running, 1, __ATOMIC_SEQ_CST);
	hold_vectors(&in, &out);
	CHECK((_mm_getcsr() & 0xe000) == 0xe000, "MXCSR is %#x", _mm_getcsr());
	for (int i = 0; i < 16; i++)
		CHECK(memcmp(in.words[i], out.words[i], 32) == 0,
		      "ymm%d: %lx %lx %lx %lx became %lx %lx %lx %lx", i, in.words[i][0],
		      in.words[i][1], in.words[i][2], in.words[i][3], out.words[i][0],
		      out.words[i][1], out.words[i][2], out.words[i][3]);
	return NULL;
}

// Eight values on the x87 stack, single precision and round-up in the control word, general
// registers full.
static void *x87_thread(void *arg)
{
	static const double in[8] = {1.5, -2.25, 3.0e100, 4.125, 5e-100, 6.5, -7.75, 8.0625};
	double out[8];
	uint16_t control = 0x0b7f, control_now;
	uint64_t general[8];
	const uint64_t marks[8] = {0x1111, 0x2222222222222222,
				   0x3333, 0x4444,
				   0x5555, 0x6666,
				   0x7777, 0x8888};

	__atomic_add_fetch(&running, 1, __ATOMIC_SEQ_CST);
	asm volatile("fninit\n fldcw %[cw]\n"
		     "fldl 0x00(%[in])\n fldl 0x08(%[in])\n fldl 0x10(%[in])\n fldl 0x18(%[in])\n"
		     "fldl 0x20(%[in])\n fldl 0x28(%[in])\n fldl 0x30(%[in])\n fldl 0x38(%[in])\n"
		     "mov 0x00(%[marks]), %%r8\n mov 0x08(%[marks]), %%r9\n"
		     "mov 0x10(%[marks]), %%r10\n mov 0x18(%[marks]), %%r11\n"
		     "mov 0x20(%[marks]), %%r12\n mov 0x28(%[marks]), %%r13\n"
		     "mov 0x30(%[marks]), %%r14\n mov 0x38(%[marks]), %%r15\n"
		     "std\n"
		     "1: pause\n cmpl $0, (%[stop])\n je 1b\n"
		     "pushf\n cld\n popq %%rax\n btq $10, %%rax\n jc 2f\n xorl %%r8d, %%r8d\n 2:\n"
		     "mov %%r8, 0x00(%[general])\n mov %%r9, 0x08(%[general])\n"
		     "mov %%r10, 0x10(%[general])\n mov %%r11, 0x18(%[general])\n"
		     "mov %%r12, 0x20(%[general])\n mov %%r13, 0x28(%[general])\n"
		     "mov %%r14, 0x30(%[general])\n mov %%r15, 0x38(%[general])\n"
		     "fnstcw %[now]\n"
		     "fstpl 0x38(%[out])\n fstpl 0x30(%[out])\n fstpl 0x28(%[out])\n"
		     "fstpl 0x20(%[out])\n fstpl 0x18(%[out])\n fstpl 0x10(%[out])\n"
		     "fstpl 0x08(%[out])\n fstpl 0x00(%[out])\n fninit\n"
		     : [now] "=m"(control_now)
		     : [cw] "m"(control), [in] "r"(in), [out] "r"(out), [stop] "r"(&stop),
		       [marks] "r"(marks), [general] "r"(general)
		     : "memory", "cc", "rax", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
	CHECK(control_now == control, "control word was %#x, is %#x", control, control_now);
	for (int i = 0; i < 8; i++) {
		CHECK(memcmp(&in[i], &out[i], 8) == 0, "st%d: %g became %g", 7 - i, in[i], out[i]);
		CHECK(general[i] == marks[i], "r%d: %#lx became %#lx", 8 + i, marks[i], general[i]);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	victim_start(argc, argv);
	if (!__builtin_cpu_supports("avx"))
		victim_skip("this CPU has no AVX");
	CHECK(pthread_create(&threads[0], NULL, vector_thread, NULL) == 0, "pthread_create");
	CHECK(pthread_create(&threads[1], NULL, x87_thread, NULL) == 0, "pthread_create");
	while (running < THREADS)
		victim_sleep_ms(1);
	victim_sleep_ms(20);
	victim_ready();
	victim_wait();
	stop = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	victim_pass();
}

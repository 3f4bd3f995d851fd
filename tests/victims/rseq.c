// SPDX-License-Identifier: Apache-2.0
// Restartable sequences: the registration that glibc made for each thread is alive (the kernel
// keeps cpu_id right), and a thread interrupted inside a sequence resumes at its abort handler.
#include "victim.h"

#include <pthread.h>
#include <sched.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int done, spinning;
static volatile uint64_t completed, aborted;

static struct rseq *my_rseq(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

// A sequence that takes some thousand cycles, so that an interruption most likely falls into it.
static void *spin_in_sequence(void *arg)
{
	struct rseq *rs = my_rseq();

	while (!done) {
		uint64_t rounds = 100000, was_aborted = 0;

		spinning = 1;
		asm volatile(".pushsection .data.rel.local, \"aw\"\n"
			     ".balign 32\n"
			     "3: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n"
			     ".popsection\n"
			     "lea 3b(%%rip), %%rax\n"
			     "mov %%rax, %[cs]\n"
			     "1: dec %[rounds]\n jnz 1b\n"
			     "2: jmp 5f\n"
			     ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
			     "4: movq $1, %[aborted]\n"
			     "5:\n"
			     : [cs] "=m"(rs->rseq_cs), [rounds] "+r"(rounds), [aborted] "+r"(was_aborted)
			     :
			     : "rax", "memory", "cc");
		if (was_aborted)
			aborted++;
		else
			completed++;
		CHECK(was_aborted || rounds == 0, "left the sequence in its middle");
	}
	return NULL;
}

static void *check_thread(void *arg)
{
	while (!done)
		victim_sleep_ms(5);
	for (int i = 0; i < 200; i++) {
		uint32_t mine = my_rseq()->cpu_id;
		unsigned int cpu;

		syscall(SYS_getcpu, &cpu, NULL, NULL);
		if (cpu == mine && mine == my_rseq()->cpu_id)
			return NULL;
		sched_yield();
	}
	CHECK(false, "cpu_id is %u and does not follow", my_rseq()->cpu_id);
}

int main(int argc, char **argv)
{
	pthread_t threads[2];
	uint64_t before;

	victim_start(argc, argv);
	if (__rseq_size == 0)
		victim_skip("glibc has not registered rseq");
	CHECK(pthread_create(&threads[0], NULL, spin_in_sequence, NULL) == 0, "pthread_create");
	CHECK(pthread_create(&threads[1], NULL, check_thread, NULL) == 0, "pthread_create");
	while (!spinning)
		victim_sleep_ms(1);
	victim_ready();
	victim_wait();
	before = completed + aborted;
	victim_sleep_ms(20);
	CHECK(completed + aborted > before, "the sequence is stuck");
	done = 1;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	// A thread is registered once: a second time is refused.
	CHECK(syscall(SYS_rseq, my_rseq(), 32, 0, 0x53053053) < 0 && errno == EBUSY,
	      "rseq is not registered any more (%s)", strerror(errno));
	victim_pass();
}

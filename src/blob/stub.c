// SPDX-License-Identifier: Apache-2.0
#include "blob/stub.h"
#include "base/io.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

/* ---- the code and its values ---- */

/* How stubs are recognised that an earlier visitor left when it was killed. */
#define STUB_MAGIC "ferry home stub\\0"
enum { STUB_MAGIC_BYTES = 16 };

/* Position independent. Copied, never run here. The numbers are offsets in struct stub_values. */
__asm__(".pushsection .rodata\n"
	".globl ferry_stub\n.hidden ferry_stub\n"
	".globl ferry_stub_entry\n.hidden ferry_stub_entry\n"
	".globl ferry_stub_home\n.hidden ferry_stub_home\n"
	".globl ferry_stub_unmap\n.hidden ferry_stub_unmap\n"
	".globl ferry_stub_mask\n.hidden ferry_stub_mask\n"
	".globl ferry_stub_end\n.hidden ferry_stub_end\n"
	".globl ferry_stub_tail\n.hidden ferry_stub_tail\n"
	".globl ferry_guest_tail\n.hidden ferry_guest_tail\n"
	".balign 16\n"
	"ferry_stub:\n"
	"	.ascii \"" STUB_MAGIC "\"\n"
	"ferry_stub_entry:\n"
	"	syscall\n" /* mmap */
	"	mov %rax, %rdi\n"
	"	jmp 1f\n"
	"ferry_stub_home:\n"
	"	mov 168(%rbx), %rsp\n"
	"	mov 8(%rbx), %rdi\n"
	"1:	mov 16(%rbx), %rsi\n"
	"	test %rsi, %rsi\n"
	"	jz ferry_stub_mask\n"
	"	mov $11, %eax\n"
	"ferry_stub_unmap:\n"
	"	syscall\n" /* munmap */
	"ferry_stub_mask:\n" /* rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8), on the thread's own stack: signals may come now */
	"	mov 168(%rbx), %rsp\n"
	"	mov $14, %eax\n"
	"	mov $2, %edi\n"
	"	lea 32(%rbx), %rsi\n"
	"	xor %edx, %edx\n"
	"	mov $8, %r10d\n"
	"	syscall\n"
	/* The flags, without a stack: DF, then OF by an addition, then the five of the low byte. */
	"	mov 40(%rbx), %rax\n"
	"	cld\n"
	"	test $0x400, %eax\n"
	"	jz 2f\n"
	"	std\n"
	"2:	mov %eax, %ecx\n"
	"	shr $11, %ecx\n"
	"	and $1, %ecx\n"
	"	add $0x7f, %cl\n"
	"	mov 40(%rbx), %ah\n"
	"	sahf\n"
	"	mov 56(%rbx), %r15\n"
	"	mov 64(%rbx), %r14\n"
	"	mov 72(%rbx), %r13\n"
	"	mov 80(%rbx), %r12\n"
	"	mov 88(%rbx), %rbp\n"
	"	mov 96(%rbx), %r11\n"
	"	mov 104(%rbx), %r10\n"
	"	mov 112(%rbx), %r9\n"
	"	mov 120(%rbx), %r8\n"
	"	mov 128(%rbx), %rax\n"
	"	mov 136(%rbx), %rcx\n"
	"	mov 144(%rbx), %rdx\n"
	"	mov 152(%rbx), %rsi\n"
	"	mov 160(%rbx), %rdi\n"
	"	jmp *48(%rbx)\n"
	".balign 16\n"
	"ferry_stub_end:\n"
	"ferry_stub_tail:\n" /* as it stands behind rip: 16 bytes after rbx, 8 after rip */
	"	mov -23(%rip), %rbx\n"
	"	jmp *-21(%rip)\n"
	".balign 16\n"
	"ferry_guest_tail:\n" /* 16 bytes after its rbx, 8 after its rip */
	"	movl $1, 24(%rbx)\n"
	"	mov -30(%rip), %rbx\n"
	"	jmp *-28(%rip)\n"
	".balign 8\n"
	".zero 8\n"
	".popsection\n");

/* The stub's assembly knows these. */
_Static_assert(offsetof(struct stub_values, gone) == 24, "layout");
_Static_assert(offsetof(struct stub_values, mask) == 32, "layout");
_Static_assert(offsetof(struct stub_values, tail_address) == 48, "layout");
_Static_assert(offsetof(struct stub_values, r15) == 56, "layout");
_Static_assert(offsetof(struct stub_values, rdi) == 160, "layout");
_Static_assert(offsetof(struct stub_values, rsp) == 168, "layout");
_Static_assert(offsetof(struct stub_values, tail) - offsetof(struct stub_values, rbx) == 16,
	       "layout");

struct stub_values stub_values_for(const struct visit_thread *t)
{
	struct user_regs_struct r = t->regs;
	struct stub_values v;

	pt_restart_regs(&r, true);
	v = (struct stub_values){
		.mask = t->sigmask,
		.flags = r.eflags,
		.r15 = r.r15,
		.r14 = r.r14,
		.r13 = r.r13,
		.r12 = r.r12,
		.rbp = r.rbp,
		.rbx = r.rbx,
		.r11 = r.r11,
		.r10 = r.r10,
		.r9 = r.r9,
		.r8 = r.r8,
		.rax = r.rax,
		.rcx = r.rcx,
		.rdx = r.rdx,
		.rsi = r.rsi,
		.rdi = r.rdi,
		.rsp = r.rsp,
		.rip = r.rip,
	};
	return v;
}

/* ---- a place for it ---- */

uint64_t stub_set_bytes(unsigned int guests)
{
	return sizeof(struct stub_values) + guests * sizeof(struct guest_tail);
}

uint64_t stub_set_at(uint64_t stub, unsigned int guests, unsigned int set)
{
	return stub + stub_code_bytes() + set * stub_set_bytes(guests);
}

/* How the room behind the code is used; always the same for the same room. */
static void divide_room(struct stub_place *p, size_t room)
{
	p->sets = room >= 2 * stub_set_bytes(1) ? STUB_MAX_SETS : 1;
	p->guests = (unsigned int)MIN((room / p->sets - sizeof(struct stub_values)) /
					      sizeof(struct guest_tail),
				      (size_t)VISIT_MAX_GUESTS);
}

/*
 * The place for stubs in the last page of an area: where stubs are already (an
 * earlier visitor was killed), or a zero tail that is big enough.
 */
static bool place_in(int mem_fd, const struct proc_vma *vma, struct stub_place *p)
{
	uint8_t page[PAGE_BYTES], *old;
	uint64_t base = vma->end - PAGE_BYTES;
	size_t used = PAGE_BYTES;
	unsigned int i;

	memset(p, 0, sizeof(*p));
	if (pread(mem_fd, page, sizeof(page), (off_t)base) != (ssize_t)sizeof(page))
		return false;
	old = memmem(page, sizeof(page), ferry_stub, STUB_MAGIC_BYTES);
	if (old) {
		used = (size_t)(old - page);
	} else {
		while (used && page[used - 1] == 0)
			used--;
		used = (used + 31) & ~(size_t)15; /* a zero that belongs to what is before stays */
	}
	if (used + stub_code_bytes() + stub_set_bytes(1) > PAGE_BYTES)
		return false;
	p->leftover = old != NULL;
	p->stub = base + used;
	divide_room(p, PAGE_BYTES - used - stub_code_bytes());
	for (i = 0; i < p->sets && old; i++)
		memcpy(&p->values[i], page + used + stub_code_bytes() + i * stub_set_bytes(p->guests),
		       sizeof(p->values[i]));
	return true;
}

bool stub_find_place(int mem_fd, const proc_vmas *vmas, struct stub_place *p)
{
	int pass;
	size_t i;

	for (pass = 0; pass < 2; pass++)
		for (i = 0; i < vmas->n; i++) {
			const struct proc_vma *vma = &vmas->v[i];
			bool vdso = strcmp(vma->name, "[vdso]") == 0;

			if (!vma->exec || !vma->read || vma->shared || vma->start >> 47)
				continue;
			if ((pass == 0 ? vdso : vma->ino != 0) && place_in(mem_fd, vma, p))
				return true;
		}
	return false;
}

unsigned int stub_choose_set(const struct stub_place *p, uint64_t *sequence)
{
	unsigned int best = 0, i;

	*sequence = 1;
	for (i = 0; i < p->sets; i++) {
		if (p->values[i].sequence < p->values[best].sequence)
			best = i;
		*sequence = MAX(*sequence, p->values[i].sequence + 1);
	}
	return best;
}

/* It starts with the blob's code. */
bool stub_is_region(int mem_fd, const struct proc_vma *vma)
{
	uint8_t head[64];

	return vma->shared && vma->exec && vma->end - vma->start == VISIT_REGION_BYTES &&
	       strncmp(vma->name, "/dev/zero", 9) == 0 &&
	       pread(mem_fd, head, sizeof(head), (off_t)vma->start) == (ssize_t)sizeof(head) &&
	       memcmp(head, blob_code(), sizeof(head)) == 0;
}

bool visit_has_leftovers(int mem_fd, const proc_vmas *vmas)
{
	struct stub_place p;

	return stub_find_place(mem_fd, vmas, &p) && p.leftover;
}

/* The addresses that only a visit uses: the stub's page and the regions. */
struct way {
	uint64_t from[8], to[8];
	unsigned int n;
};

static bool on_way(const struct way *w, uint64_t addr)
{
	unsigned int i;

	for (i = 0; i < w->n; i++)
		if (addr >= w->from[i] && addr < w->to[i])
			return true;
	return false;
}

static void add_to_way(struct way *w, uint64_t from, uint64_t to)
{
	if (w->n == ARRAY_SIZE(w->from))
		return;
	w->from[w->n] = from;
	w->to[w->n++] = to;
}

/* Is this place on a stack the instruction pointer in the frame of a signal handler? */
static bool in_signal_frame(int mem_fd, uint64_t at)
{
	ucontext_t uc;

	if (pread(mem_fd, &uc, sizeof(uc),
		  (off_t)(at - offsetof(ucontext_t, uc_mcontext.gregs[REG_RIP]))) !=
	    (ssize_t)sizeof(uc))
		return false;
	/* arch/x86/include/uapi/asm/ucontext.h: three flags; the kernel never sets a link. */
	return (uc.uc_flags & ~7UL) == 0 && !uc.uc_link &&
	       (uc.uc_mcontext.gregs[REG_CSGSFS] & 0xffff) == 0x33;
}

/* Is there the frame of a signal handler in the live part of a stack that returns to the way? */
static bool stack_leads_home(int mem_fd, const proc_vmas *vmas, uint64_t rsp, const struct way *w)
{
	uint64_t words[1024], bytes;
	size_t i, n;

	for (i = 0; i < vmas->n && vmas->v[i].end <= rsp; i++)
		;
	if (i == vmas->n || vmas->v[i].start > rsp)
		return false;
	rsp &= ~7ULL;
	bytes = MIN(vmas->v[i].end - rsp, (uint64_t)8 * sizeof(words));
	for (; bytes >= 8; rsp += n * 8, bytes -= n * 8) {
		n = MIN(bytes, sizeof(words)) / 8;
		if (pread(mem_fd, words, n * 8, (off_t)rsp) != (ssize_t)(n * 8))
			return false;
		for (i = 0; i < n; i++)
			if (on_way(w, words[i]) && in_signal_frame(mem_fd, rsp + i * 8))
				return true;
	}
	return false;
}

enum visit_way visit_way_home(pid_t pid, const proc_vmas *vmas, const struct user_regs_struct *regs)
{
	cleanup_close int mem_fd = io_openf(O_RDONLY, "/proc/%d/mem", pid);
	struct way w = {.n = 0};
	struct stub_place p;
	size_t i;

	if (mem_fd < 0 || !stub_find_place(mem_fd, vmas, &p) || !p.leftover)
		return VISIT_AT_HOME;
	add_to_way(&w, p.stub, stub_set_at(p.stub, p.guests, p.sets));
	for (i = 0; i < vmas->n; i++)
		if (stub_is_region(mem_fd, &vmas->v[i]))
			add_to_way(&w, vmas->v[i].start, vmas->v[i].end);
	if (on_way(&w, regs->rip) || on_way(&w, regs->rsp))
		return VISIT_AWAY;
	return stack_leads_home(mem_fd, vmas, regs->rsp, &w) ? VISIT_MAYBE_AWAY : VISIT_AT_HOME;
}

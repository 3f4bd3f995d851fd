// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "visit"
#include "blob/visit.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

/* ---- the stub ---- */

/*
 * What one thread gets back. The code finds it through rbx; the last two
 * instructions, which restore rbx itself, are in the tail.
 */
struct stub_values {
	uint64_t sequence;      /* 0: free; else the higher, the later */
	uint64_t region, bytes; /* to unmap; guests: 0 */
	uint64_t gone; /* guests: set by the tail, when the region is not needed any more */
	uint64_t mask, flags;
	uint64_t tail_address;
	uint64_t r15, r14, r13, r12, rbp, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rsp, rbx, rip;
	uint8_t tail[16]; /* mov rbx(%rip), %rbx; jmp *rip(%rip) */
};

/* The last instructions of a guest, whose values are in the region: they say that it is not needed any more. */
struct guest_tail {
	uint64_t rbx, rip;
	uint8_t code[24]; /* movl $1, gone(%rbx); mov rbx(%rip), %rbx; jmp *rip(%rip) */
};

/*
 * Behind the code are two sets: the values of a host and the tails of its
 * guests. A visitor that finds the values of one that was killed takes the
 * other set: a signal handler may be running on top of a thread's way home, and
 * will return to it.
 */
enum { STUB_MAX_SETS = 2 };

/* How stubs are recognised that an earlier visitor left when it was killed. */
#define STUB_MAGIC "ferry home stub\\0"
enum { STUB_MAGIC_BYTES = 16 };

/* Position independent. Copied, never run here. The numbers are offsets in struct stub_values. */
__asm__(".pushsection .rodata\n"
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

extern const uint8_t ferry_stub[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_entry[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_home[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_unmap[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_mask[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_end[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_stub_tail[] __attribute__((visibility("hidden")));
extern const uint8_t ferry_guest_tail[] __attribute__((visibility("hidden")));

/* The stub's assembly knows these. */
_Static_assert(offsetof(struct stub_values, gone) == 24, "layout");
_Static_assert(offsetof(struct stub_values, mask) == 32, "layout");
_Static_assert(offsetof(struct stub_values, tail_address) == 48, "layout");
_Static_assert(offsetof(struct stub_values, r15) == 56, "layout");
_Static_assert(offsetof(struct stub_values, rdi) == 160, "layout");
_Static_assert(offsetof(struct stub_values, rsp) == 168, "layout");
_Static_assert(offsetof(struct stub_values, tail) - offsetof(struct stub_values, rbx) == 16,
	       "layout");

static size_t code_bytes(void)
{
	return (size_t)(ferry_stub_end - ferry_stub);
}

static uint64_t in_stub(uint64_t stub, const uint8_t *label)
{
	return stub + (uint64_t)(label - ferry_stub);
}

static struct stub_values values_for(const struct visit_thread *t)
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

static int poke(struct visit *v, uint64_t addr, const void *data, size_t bytes, struct err *err)
{
	if (io_pwrite_full(v->mem_fd, data, bytes, (off_t)addr))
		return err_sys(err, "cannot write to the memory of task %d", v->pid);
	return 0;
}

/* ---- a place for it ---- */

struct place {
	uint64_t stub;             /* 0: none */
	unsigned int sets, guests; /* guests a set */
	bool leftover;
	struct stub_values values[STUB_MAX_SETS]; /* as they are there now */
};

static uint64_t set_bytes(unsigned int guests)
{
	return sizeof(struct stub_values) + guests * sizeof(struct guest_tail);
}

static uint64_t set_at(uint64_t stub, unsigned int guests, unsigned int set)
{
	return stub + code_bytes() + set * set_bytes(guests);
}

/* How the room behind the code is used; always the same for the same room. */
static void divide_room(struct place *p, size_t room)
{
	p->sets = room >= 2 * set_bytes(1) ? STUB_MAX_SETS : 1;
	p->guests = (unsigned int)MIN((room / p->sets - sizeof(struct stub_values)) /
					      sizeof(struct guest_tail),
				      (size_t)VISIT_MAX_GUESTS);
}

/*
 * The place for stubs in the last page of an area: where stubs are already (an
 * earlier visitor was killed), or a zero tail that is big enough.
 */
static bool place_in(int mem_fd, const struct proc_vma *vma, struct place *p)
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
	if (used + code_bytes() + set_bytes(1) > PAGE_BYTES)
		return false;
	p->leftover = old != NULL;
	p->stub = base + used;
	divide_room(p, PAGE_BYTES - used - code_bytes());
	for (i = 0; i < p->sets && old; i++)
		memcpy(&p->values[i], page + used + code_bytes() + i * set_bytes(p->guests),
		       sizeof(p->values[i]));
	return true;
}

static bool find_place(int mem_fd, const proc_vmas *vmas, struct place *p)
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

/* The set to use: a free one, or else the one that was left longest ago. */
static unsigned int choose_set(const struct place *p, uint64_t *sequence)
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

/* Is this area the region of a visitor that was killed? It starts with the blob's code. */
static bool is_region(int mem_fd, const struct proc_vma *vma)
{
	uint8_t head[64];

	return vma->shared && vma->exec && vma->end - vma->start == VISIT_REGION_BYTES &&
	       strncmp(vma->name, "/dev/zero", 9) == 0 &&
	       pread(mem_fd, head, sizeof(head), (off_t)vma->start) == (ssize_t)sizeof(head) &&
	       memcmp(head, blob_code(), sizeof(head)) == 0;
}

bool visit_has_leftovers(int mem_fd, const proc_vmas *vmas)
{
	struct place p;

	return find_place(mem_fd, vmas, &p) && p.leftover;
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
	struct place p;
	size_t i;

	if (mem_fd < 0 || !find_place(mem_fd, vmas, &p) || !p.leftover)
		return VISIT_AT_HOME;
	add_to_way(&w, p.stub, set_at(p.stub, p.guests, p.sets));
	for (i = 0; i < vmas->n; i++)
		if (is_region(mem_fd, &vmas->v[i]))
			add_to_way(&w, vmas->v[i].start, vmas->v[i].end);
	if (on_way(&w, regs->rip) || on_way(&w, regs->rsp))
		return VISIT_AWAY;
	return stack_leads_home(mem_fd, vmas, regs->rsp, &w) ? VISIT_MAYBE_AWAY : VISIT_AT_HOME;
}

/* ---- getting in ---- */

static int thread_alive(void *arg, struct err *err)
{
	pid_t tid = *(pid_t *)arg;
	int sig = 0, stop;

	stop = pt_wait(tid, 0, &sig, err);
	if (stop < 0)
		return err->no == ETIMEDOUT ? 0 : -1;
	if (stop == PT_GONE)
		return err_set(err, ESRCH, "thread %d was killed while it was looked at", tid);
	/* A SIGSTOP from elsewhere: it must be passed on to be in effect after we have gone. */
	return pt_cont(tid, stop == PT_SIGNAL ? sig : 0, err);
}

static int map_region(struct visit *v, struct err *err)
{
	cleanup_close int fd = io_openf(O_RDWR, "/proc/%d/map_files/%llx-%llx", v->pid,
					(unsigned long long)v->theirs,
					(unsigned long long)v->theirs + VISIT_REGION_BYTES);

	if (fd < 0)
		return err_sys(err, "cannot open the blob's region in task %d", v->pid);
	v->ours = mmap(NULL, VISIT_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (v->ours == MAP_FAILED) {
		v->ours = NULL;
		return err_sys(err, "cannot map the blob's region of task %d", v->pid);
	}
	return 0;
}

/* The region: code, the host's slot, and for each guest its values and its slot. */
enum {
	CODE_BYTES = 8192,
	HOST_BYTES = 160 * 1024,
	GUEST_BYTES = 16 * 1024 + 512,
	GUEST_VALUES_BYTES = 512
};
_Static_assert(CODE_BYTES + HOST_BYTES + VISIT_MAX_GUESTS * GUEST_BYTES <= VISIT_REGION_BYTES,
	       "the region is too small");
_Static_assert(sizeof(struct stub_values) <= GUEST_VALUES_BYTES, "the values of a guest do not fit");

static size_t guest_offset(unsigned int guest)
{
	return CODE_BYTES + HOST_BYTES + guest * GUEST_BYTES;
}

static struct stub_values *guest_values(struct visit *v, unsigned int guest)
{
	return (struct stub_values *)(v->ours + guest_offset(guest));
}

static void lay_out(struct visit *v)
{
	unsigned int i;
	size_t at;

	memcpy(v->ours, blob_code(), blob_code_bytes());
	v->slot = blob_slot_init(v->ours + CODE_BYTES, v->theirs + CODE_BYTES, HOST_BYTES,
				 BLOB_SPIN, in_stub(v->stub, ferry_stub_home));
	v->slot->home_keep = in_stub(v->stub, ferry_stub_mask);
	v->slot->home_values = v->set;
	v->slot->guest_gone = v->theirs + guest_offset(0) + offsetof(struct stub_values, gone);
	v->slot->guest_stride = GUEST_BYTES;
	blob_script_init(&v->script, v->slot, v->theirs + CODE_BYTES);
	for (i = 0; i < v->n_guests; i++) {
		at = guest_offset(i) + GUEST_VALUES_BYTES;
		v->guest_slot[i] = blob_slot_init(v->ours + at, v->theirs + at,
						  GUEST_BYTES - GUEST_VALUES_BYTES, BLOB_SPIN,
						  in_stub(v->stub, ferry_stub_home));
		v->guest_slot[i]->home_values = v->theirs + guest_offset(i);
		blob_script_init(&v->guest_script[i], v->guest_slot[i], v->theirs + at);
	}
}

/*
 * Points a stopped thread at the blob, all signals blocked, and lets it run.
 * First at the stub, which would take it home with the mask that it has: should we
 * die between two calls, it must neither be itself with all signals blocked nor
 * have a handler run on the small stack in the region.
 */
static int send_in(struct visit *v, const struct visit_thread *t, const struct blob_slot *slot,
		   uint64_t slot_theirs, struct err *err)
{
	struct user_regs_struct r = t->regs;

	r.rip = slot->home;
	r.rbx = slot->home_values;
	r.orig_rax = (uint64_t)-1;
	if (pt_set_regs(t->tid, &r, err) || pt_set_sigmask(t->tid, ~0ULL, err))
		return -1;
	r.rip = v->theirs + blob_entry();
	r.rdi = slot_theirs;
	r.rax = 0;
	r.eflags &= ~(uint64_t)0x400; /* direction flag, as the ABI wants it in functions */
	return pt_set_regs(t->tid, &r, err) || pt_cont(t->tid, 0, err) ? -1 : 0;
}

/* Lets the thread make the stub's mmap. */
static int make_region(struct visit *v, struct err *err)
{
	struct user_regs_struct r = v->host.regs;

	r.rip = in_stub(v->stub, ferry_stub_entry);
	r.rbx = v->set;
	r.rax = SYS_mmap;
	r.orig_rax = (uint64_t)-1;
	r.rdi = 0;
	r.rsi = VISIT_REGION_BYTES;
	r.rdx = PROT_READ | PROT_WRITE | PROT_EXEC;
	r.r10 = MAP_SHARED | MAP_ANONYMOUS;
	r.r8 = (uint64_t)-1;
	r.r9 = 0;
	if (pt_set_regs(v->host.tid, &r, err) || pt_set_sigmask(v->host.tid, ~0ULL, err) ||
	    pt_step_syscall(v->host.tid, err) || pt_get_regs(v->host.tid, &r, err))
		return -1;
	if (r.rax == (uint64_t)-EACCES)
		return err_set(err, EACCES,
			       "task %d may have no memory that is written and executed (PR_SET_MDWE, or "
			       "a security module forbids it), which is not carried",
			       v->pid);
	if (r.rax >= (uint64_t)-4095)
		return err_sysno(err, (int)-(int64_t)r.rax, "cannot map the blob into task %d",
				 v->pid);
	v->theirs = r.rax;
	return 0;
}

/* The thread gets its own registers; the mask first, see the header. */
static int set_home(const struct visit_thread *t, struct err *err)
{
	if (pt_set_sigmask(t->tid, t->sigmask, err))
		return -1;
	return pt_set_regs(t->tid, &t->regs, err);
}

/* The code, and the host's values: from here on the host would find home. */
static int write_host(struct visit *v, struct err *err)
{
	struct stub_values values = values_for(&v->host);

	values.tail_address = v->set + offsetof(struct stub_values, tail);
	memcpy(values.tail, ferry_stub_tail, sizeof(values.tail));
	values.sequence = v->sequence;
	values.region = v->theirs;
	values.bytes = VISIT_REGION_BYTES;
	if (poke(v, v->set, &values, sizeof(values), err))
		return -1;
	return poke(v, v->stub, ferry_stub, code_bytes(), err);
}

/* The host goes in when its first script is there: it wakes up once, and finds what to do. */
int visit_start(struct visit *v, struct err *err)
{
	if (v->script.overflow)
		return err_set(err, ENOSPC, "a script of %u operations does not fit in its area",
			       v->script.n_ops);
	blob_start(v->slot, &v->script);
	if (!v->inside && send_in(v, &v->host, v->slot, v->theirs + CODE_BYTES, err))
		return -1;
	v->inside = true;
	return 0;
}

int visit_run(struct visit *v, struct err *err)
{
	if (v->script.n_ops == 0 && v->inside)
		return 0;
	if (visit_start(v, err))
		return -1;
	return blob_wait(v->slot, &v->script, thread_alive, &v->host.tid, err);
}

/* Unmaps what killed visitors could not take with them. */
static int clear_leftovers(struct visit *v, const proc_vmas *vmas, struct err *err)
{
	size_t i;

	for (i = 0; i < vmas->n; i++)
		if (is_region(v->mem_fd, &vmas->v[i]))
			script_call(&v->script, "unmap what a killed visitor left", SYS_munmap,
				    SV(vmas->v[i].start), SV(VISIT_REGION_BYTES));
	if (v->script.n_ops == 0)
		return 0;
	if (visit_run(v, err))
		return -1;
	script_reset(&v->script);
	return 0;
}

int visit_open(struct visit *v, pid_t pid, const struct visit_thread *host, unsigned int guests,
	       const proc_vmas *vmas, bool keep_left, struct err *err)
{
	struct err second;
	struct place p;

	memset(v, 0, sizeof(*v));
	v->pid = pid;
	v->host = *host;
	v->mem_fd = io_openf(O_RDWR, "/proc/%d/mem", pid);
	if (v->mem_fd < 0)
		return err_sys(err, "cannot open the memory of task %d", pid);
	if (!find_place(v->mem_fd, vmas, &p)) {
		err_set(err, ENOSPC,
			"task %d has no executable mapping with %zu free bytes at its end", pid,
			code_bytes() + set_bytes(1));
		goto fail;
	}
	v->stub = p.stub;
	v->room = p.guests;
	v->n_guests = MIN(p.guests, guests);
	v->set = set_at(p.stub, p.guests, choose_set(&p, &v->sequence));
	v->others = p.leftover;
	if (write_host(v, err))
		goto fail;
	if (make_region(v, err) || write_host(v, err) || map_region(v, err))
		goto undo;
	lay_out(v);
	if (p.leftover && !keep_left && clear_leftovers(v, vmas, err))
		goto undo;
	return 0;
undo:
	if (visit_close(v, &second))
		log_debug("task %d: %s", pid, second.text);
	return -1;
fail:
	close(v->mem_fd);
	v->mem_fd = -1;
	return -1;
}

int visit_alive(struct visit *v, struct err *err)
{
	return thread_alive(&v->host.tid, err);
}

/* ---- guests ---- */

static int await_stop(const struct visit_thread *t, struct err *err)
{
	int stop = pt_wait_stop(t->tid, 10000, NULL, err);

	if (stop < 0)
		return -1;
	return stop == PT_GONE ?
		       err_set(err, ESRCH, "thread %d was killed while it was looked at", t->tid) :
		       0;
}

/* Gets a thread that executes the blob back into our trap. */
static int fetch(const struct visit_thread *t, struct err *err)
{
	return pt_interrupt(t->tid, err) ? -1 : await_stop(t, err);
}

/* Their values go to the region, their tails to the stub. */
static int write_guests(struct visit *v, const struct visit_thread *guests, unsigned int n,
			struct err *err)
{
	struct guest_tail tails[VISIT_MAX_GUESTS];
	uint64_t at = v->set + sizeof(struct stub_values);
	unsigned int i;

	for (i = 0; i < n; i++) {
		struct stub_values values = values_for(&guests[i]);

		tails[i].rbx = values.rbx;
		tails[i].rip = values.rip;
		memcpy(tails[i].code, ferry_guest_tail, sizeof(tails[i].code));
		values.tail_address = at + i * sizeof(tails[i]) + offsetof(struct guest_tail, code);
		*guest_values(v, i) = values;
	}
	return poke(v, at, tails, n * sizeof(tails[0]), err);
}

/* From here on the host would wait for this guest, too. */
static int send_guest(struct visit *v, const struct visit_thread *t, unsigned int i, struct err *err)
{
	__atomic_store_n(&v->slot->guests, i + 1, __ATOMIC_SEQ_CST);
	return send_in(v, t, v->guest_slot[i], v->theirs + guest_offset(i) + GUEST_VALUES_BYTES, err);
}

/* Runs their scripts and gets those that came in back into our trap; *entered says how many came in. */
static int run_guests(struct visit *v, const struct visit_thread *guests, unsigned int n,
		      unsigned int *entered, struct err *err)
{
	struct err second;
	unsigned int i;
	int rc = 0;

	for (i = 0; i < n && rc == 0; i++) {
		if (v->guest_script[i].overflow)
			rc = err_set(err, ENOSPC, "a script for thread %d does not fit",
				     guests[i].tid);
		else
			rc = send_guest(v, &guests[i], i, err);
		if (rc == 0)
			blob_start(v->guest_slot[i], &v->guest_script[i]);
		*entered += rc == 0;
	}
	for (i = 0; i < *entered && rc == 0; i++)
		rc = blob_wait(v->guest_slot[i], &v->guest_script[i], thread_alive,
			       (void *)&guests[i].tid, err);
	for (i = 0; i < *entered; i++)
		if (pt_interrupt(guests[i].tid, &second) && rc == 0) {
			*err = second;
			rc = -1;
		}
	return rc;
}

int visit_guests(struct visit *v, const struct visit_thread *guests, unsigned int n, struct err *err)
{
	unsigned int entered = 0, i;
	struct err second;
	int rc;

	if (n > v->n_guests)
		return err_set(err, EINVAL, "%u guests at a time are too many", n);
	if (!v->inside)
		return err_set(err, EINVAL, "guests before their host");
	if (write_guests(v, guests, n, err))
		return -1;
	rc = run_guests(v, guests, n, &entered, err);
	for (i = 0; i < n; i++)
		if ((i < entered && await_stop(&guests[i], &second)) ||
		    set_home(&guests[i], &second)) {
			if (rc == 0)
				*err = second;
			rc = -1;
		}
	__atomic_store_n(&v->slot->guests, 0, __ATOMIC_SEQ_CST);
	return rc;
}

/* ---- getting out ---- */

/* Lets it make the stub's munmap, if there is a region. */
static int remove_region(struct visit *v, struct err *err)
{
	struct user_regs_struct r = v->host.regs;

	if (!v->theirs)
		return 0;
	r.rip = in_stub(v->stub, ferry_stub_unmap);
	r.rbx = v->set;
	r.rax = SYS_munmap;
	r.orig_rax = (uint64_t)-1;
	r.rdi = v->theirs;
	r.rsi = VISIT_REGION_BYTES;
	return pt_set_regs(v->host.tid, &r, err) || pt_step_syscall(v->host.tid, err) ? -1 : 0;
}

/* Clears our values; the code too, unless somebody else's way home may still need it. */
static int erase(struct visit *v, struct err *err)
{
	static const uint8_t zeros[PAGE_BYTES];
	uint64_t from = v->others ? v->set : v->stub;

	return poke(v, from, zeros, v->set + set_bytes(v->room) - from, err);
}

int visit_close(struct visit *v, struct err *err)
{
	unsigned int i;
	int rc = 0;

	if (v->mem_fd < 0)
		return 0;
	if (v->inside)
		rc = fetch(&v->host, err);
	if (rc == 0)
		rc = remove_region(v, err);
	if (rc == 0)
		rc = set_home(&v->host, err);
	if (rc == 0)
		rc = erase(v, err);
	blob_slot_finish(v->slot);
	for (i = 0; i < v->n_guests; i++)
		blob_slot_finish(v->guest_slot[i]);
	if (v->ours)
		munmap(v->ours, VISIT_REGION_BYTES);
	close(v->mem_fd);
	v->mem_fd = -1;
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "visit"
#include "blob/visit.h"
#include "base/io.h"
#include "base/log.h"
#include "blob/stub.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int poke(struct visit *v, uint64_t addr, const void *data, size_t bytes, struct err *err)
{
	if (io_pwrite_full(v->mem_fd, data, bytes, (off_t)addr))
		return err_sys(err, "cannot write to the memory of task %d", v->pid);
	return 0;
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

static void lay_out(struct visit *v, uint32_t flags)
{
	unsigned int i;
	size_t at;

	memcpy(v->ours, blob_code(), blob_code_bytes());
	v->slot = blob_slot_init(v->ours + CODE_BYTES, v->theirs + CODE_BYTES, HOST_BYTES,
				 BLOB_SPIN, stub_label(v->stub, ferry_stub_home));
	v->slot->home_keep = stub_label(v->stub, ferry_stub_mask);
	v->slot->home_values = v->set;
	v->slot->guest_gone = v->theirs + guest_offset(0) + offsetof(struct stub_values, gone);
	v->slot->guest_stride = GUEST_BYTES;
	blob_script_init(&v->script, v->slot, v->theirs + CODE_BYTES);
	for (i = 0; i < v->n_guests; i++) {
		at = guest_offset(i) + GUEST_VALUES_BYTES;
		v->guest_slot[i] = blob_slot_init(v->ours + at, v->theirs + at,
						  GUEST_BYTES - GUEST_VALUES_BYTES, BLOB_SPIN,
						  stub_label(v->stub, ferry_stub_home));
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

/*
 * A system call of the host's that the stub makes: begun, gone through, ended. Each part after the
 * first waits for the thread; who visits several does one part for all of them, and then the next.
 */
static int call_begin(struct visit *v, struct err *err)
{
	if (pt_to_syscall(v->host.tid, err))
		return -1;
	v->traps = 2; /* entry and exit */
	return 0;
}

/* Waits for the next trap, and sends the thread on to the exit if it was the entry. */
static int call_on(struct visit *v, struct err *err)
{
	bool entry = v->traps == 2;

	v->traps = 0; /* after a failure there is nothing to wait for */
	if (pt_await_trap(v->host.tid, err) || (entry && pt_to_syscall(v->host.tid, err)))
		return -1;
	v->traps = entry;
	return 0;
}

static int begin_mmap(struct visit *v, struct err *err)
{
	struct user_regs_struct r = v->host.regs;

	r.rip = stub_label(v->stub, ferry_stub_entry);
	r.rbx = v->set;
	r.rax = SYS_mmap;
	r.orig_rax = (uint64_t)-1;
	r.rdi = 0;
	r.rsi = VISIT_REGION_BYTES;
	r.rdx = PROT_READ | PROT_WRITE | PROT_EXEC;
	r.r10 = MAP_SHARED | MAP_ANONYMOUS;
	r.r8 = (uint64_t)-1;
	r.r9 = 0;
	/* first at the stub, then the mask: see send_in */
	if (pt_set_regs(v->host.tid, &r, err) || pt_set_sigmask(v->host.tid, ~0ULL, err))
		return -1;
	v->mapping = true;
	return call_begin(v, err);
}

static int end_mmap(struct visit *v, struct err *err)
{
	struct user_regs_struct r;

	if (call_on(v, err))
		return -1;
	v->mapping = false;
	if (pt_get_regs(v->host.tid, &r, err))
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
	struct stub_values values = stub_values_for(&v->host);

	values.tail_address = v->set + offsetof(struct stub_values, tail);
	memcpy(values.tail, ferry_stub_tail, sizeof(values.tail));
	values.sequence = v->sequence;
	values.region = v->theirs;
	values.bytes = VISIT_REGION_BYTES;
	if (poke(v, v->set, &values, sizeof(values), err))
		return -1;
	return poke(v, v->stub, ferry_stub, stub_code_bytes(), err);
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

int visit_wait(struct visit *v, struct err *err)
{
	return blob_wait(v->slot, &v->script, thread_alive, &v->host.tid, err);
}

int visit_run(struct visit *v, struct err *err)
{
	if (v->script.n_ops == 0 && v->inside)
		return 0;
	return visit_start(v, err) ? -1 : visit_wait(v, err);
}

/* Unmaps what killed visitors could not take with them. */
static int clear_leftovers(struct visit *v, const proc_vmas *vmas, struct err *err)
{
	size_t i;

	for (i = 0; i < vmas->n; i++)
		if (stub_is_region(v->mem_fd, &vmas->v[i]))
			script_call(&v->script, "unmap what a killed visitor left", SYS_munmap,
				    SV(vmas->v[i].start), SV(VISIT_REGION_BYTES));
	if (v->script.n_ops == 0)
		return 0;
	if (visit_run(v, err))
		return -1;
	script_reset(&v->script);
	return 0;
}

int visit_prepare(struct visit *v, pid_t pid, const struct visit_thread *host, unsigned int guests,
		  const proc_vmas *vmas, bool keep_left, struct err *err)
{
	struct stub_place p;

	memset(v, 0, offsetof(struct visit, script));
	v->pid = pid;
	v->host = *host;
	v->vmas = vmas;
	v->mem_fd = io_openf(O_RDWR, "/proc/%d/mem", pid);
	if (v->mem_fd < 0)
		return err_sys(err, "cannot open the memory of task %d", pid);
	if (!stub_find_place(v->mem_fd, vmas, &p)) {
		close(steal_fd(&v->mem_fd));
		return err_set(err, ENOSPC,
			       "task %d has no executable mapping with %zu free bytes at its end",
			       pid, stub_code_bytes() + stub_set_bytes(1));
	}
	v->stub = p.stub;
	v->room = p.guests;
	v->n_guests = MIN(p.guests, guests);
	v->set = stub_set_at(p.stub, p.guests, stub_choose_set(&p, &v->sequence));
	v->others = p.leftover;
	v->clear = p.leftover && !keep_left;
	return 0;
}

static int enter(struct visit *v, struct err *err)
{
	v->entered = true;
	return write_host(v, err) || begin_mmap(v, err) ? -1 : 0;
}

static int settle_in(struct visit *v, uint32_t flags, struct err *err)
{
	if (end_mmap(v, err) || write_host(v, err) || map_region(v, err))
		return -1;
	lay_out(v, flags);
	return v->clear ? clear_leftovers(v, v->vmas, err) : 0;
}

int visits_open(struct visit *const *v, size_t n, struct err *err)
{
	/* looking for the next command takes processor time from the other visits */
	uint32_t flags = n == 1 ? BLOB_SPIN : 0;
	struct err second;
	int rc = 0;
	size_t i;

	for (i = 0; i < n && rc == 0; i++)
		rc = enter(v[i], err);
	for (i = 0; i < n && rc == 0; i++)
		rc = call_on(v[i], err);
	for (i = 0; i < n && rc == 0; i++)
		rc = settle_in(v[i], flags, err);
	if (rc && visits_close(v, n, &second))
		log_debug("%s", second.text);
	return rc;
}

int visit_open(struct visit *v, pid_t pid, const struct visit_thread *host, unsigned int guests,
	       const proc_vmas *vmas, bool keep_left, struct err *err)
{
	if (visit_prepare(v, pid, host, guests, vmas, keep_left, err))
		return -1;
	return visits_open(&v, 1, err);
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

/* Their values go to the region, their tails to the stub. */
static int write_guests(struct visit *v, const struct visit_thread *guests, unsigned int n,
			struct err *err)
{
	struct guest_tail tails[VISIT_MAX_GUESTS];
	uint64_t at = v->set + sizeof(struct stub_values);
	unsigned int i;

	for (i = 0; i < n; i++) {
		struct stub_values values = stub_values_for(&guests[i]);

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

/* The stub's munmap, if there is a region. */
static int begin_munmap(struct visit *v, struct err *err)
{
	struct user_regs_struct r = v->host.regs;

	if (!v->theirs)
		return 0;
	r.rip = stub_label(v->stub, ferry_stub_unmap);
	r.rbx = v->set;
	r.rax = SYS_munmap;
	r.orig_rax = (uint64_t)-1;
	r.rdi = v->theirs;
	r.rsi = VISIT_REGION_BYTES;
	return pt_set_regs(v->host.tid, &r, err) ? -1 : call_begin(v, err);
}

/* Clears our values; the code too, unless somebody else's way home may still need it. */
static int erase(struct visit *v, struct err *err)
{
	static const uint8_t zeros[PAGE_BYTES];
	uint64_t from = v->others ? v->set : v->stub;

	return poke(v, from, zeros, v->set + stub_set_bytes(v->room) - from, err);
}

/* Ends what an opening that failed left half done, and calls the host back into our trap. */
static int call_back(struct visit *v, struct err *err)
{
	struct err ignored;

	if (v->traps == 2 && call_on(v, err))
		return -1;
	/* no region: then nothing is to be unmapped */
	if (v->mapping && v->traps && end_mmap(v, &ignored))
		log_debug("%s", ignored.text);
	return v->inside ? pt_interrupt(v->host.tid, err) : 0;
}

static int begin_leaving(struct visit *v, struct err *err)
{
	return (v->inside && await_stop(&v->host, err)) || begin_munmap(v, err) ? -1 : 0;
}

static int go_on_leaving(struct visit *v, struct err *err)
{
	return v->traps ? call_on(v, err) : 0;
}

static int be_home(struct visit *v, struct err *err)
{
	return (v->traps && call_on(v, err)) || set_home(&v->host, err) || erase(v, err) ? -1 : 0;
}

static void release(struct visit *v)
{
	if (v->mem_fd < 0)
		return;
	blob_slot_finish(v->slot);
	for (unsigned int i = 0; i < v->n_guests; i++)
		blob_slot_finish(v->guest_slot[i]);
	if (v->ours)
		munmap(v->ours, VISIT_REGION_BYTES);
	close(steal_fd(&v->mem_fd));
}

int visits_close(struct visit *const *v, size_t n, struct err *err)
{
	static int (*const steps[])(struct visit * v, struct err * err) = {call_back, begin_leaving,
									   go_on_leaving, be_home};
	struct err one;
	int rc = 0;
	size_t i;

	for (size_t step = 0; step < ARRAY_SIZE(steps); step++) {
		for (i = 0; i < n; i++) {
			if (v[i]->mem_fd < 0 || !v[i]->entered || v[i]->lost)
				continue;
			if (!steps[step](v[i], &one))
				continue;
			v[i]->lost = true;
			if (rc == 0)
				*err = one;
			rc = -1;
		}
	}
	for (i = 0; i < n; i++)
		release(v[i]);
	return rc;
}

int visit_close(struct visit *v, struct err *err)
{
	return visits_close(&v, 1, err);
}

// SPDX-License-Identifier: Apache-2.0
#include "blob/run.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

/* The section that interp.c is compiled into; the linker provides its bounds. */
extern const uint8_t __start_blob_text[] __attribute__((visibility("hidden")));
extern const uint8_t __stop_blob_text[] __attribute__((visibility("hidden")));
void blob_enter(void);

enum { SPINS = 1000 };      /* looks before sleeping, with BLOB_SPIN */
enum { ROBUST_MAX = 1500 }; /* the kernel walks at most 2048 entries at exit */

/* Robust futexes of this thread: entries are the slots' robust links, in our mappings. */
static _Thread_local struct robust_list_head robust;
static _Thread_local unsigned int n_robust;
static _Thread_local pid_t robust_tid; /* a forked child starts with an empty list */

const uint8_t *blob_code(void)
{
	return __start_blob_text;
}

size_t blob_code_bytes(void)
{
	return (size_t)(__stop_blob_text - __start_blob_text);
}

size_t blob_entry(void)
{
	return (size_t)((uintptr_t)blob_enter - (uintptr_t)__start_blob_text);
}

static struct robust_list *slot_node(struct blob_slot *slot)
{
	return (struct robust_list *)&slot->robust;
}

static void robust_add(struct blob_slot *slot)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	if (robust_tid != tid) {
		robust_tid = tid;
		n_robust = 0;
		robust.list.next = &robust.list;
		robust.futex_offset = (long)offsetof(struct blob_slot, owner) -
				      (long)offsetof(struct blob_slot, robust);
		syscall(SYS_set_robust_list, &robust, sizeof(robust));
	}
	if (n_robust == ROBUST_MAX)
		return;
	slot->on_list = 1;
	slot_node(slot)->next = robust.list.next;
	robust.list.next = slot_node(slot);
	n_robust++;
}

void blob_slot_finish(struct blob_slot *slot)
{
	struct robust_list *p = &robust.list;

	if (!slot || !slot->on_list)
		return;
	while (p->next != &robust.list && p->next != slot_node(slot))
		p = p->next;
	if (p->next == slot_node(slot)) {
		p->next = p->next->next;
		n_robust--;
	}
	slot->on_list = 0;
}

struct blob_slot *blob_slot_init(void *ours, uint64_t theirs, size_t bytes, uint32_t flags,
				 uint64_t home)
{
	struct blob_slot *slot = ours;
	size_t head = (sizeof(*slot) + 63) & ~(size_t)63;

	memset(slot, 0, sizeof(*slot));
	slot->flags = flags;
	slot->home = home;
	slot->stack_top = theirs + head + BLOB_STACK_BYTES;
	slot->data = slot->stack_top;
	slot->data_bytes = bytes - head - BLOB_STACK_BYTES;
	slot->owner = (uint32_t)syscall(SYS_gettid) | FUTEX_WAITERS;
	robust_add(slot);
	return slot;
}

void blob_script_init(struct script *s, struct blob_slot *slot, uint64_t slot_theirs)
{
	script_init(s, (uint8_t *)slot + (slot->data - slot_theirs), slot->data, slot->data_bytes);
}

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void blob_start(struct blob_slot *slot, const struct script *s)
{
	slot->ops = s->theirs;
	slot->n_ops = s->n_ops;
	__atomic_store_n(&slot->command, slot->command + 1, __ATOMIC_RELEASE);
	futex_wake(&slot->command);
}

int blob_wait(struct blob_slot *slot, const struct script *s,
	      int (*alive)(void *arg, struct err *err), void *arg, struct err *err)
{
	static const struct timespec tick = {.tv_nsec = 5 * 1000 * 1000};
	uint32_t done;
	int i;

	for (i = 0; i < SPINS && (slot->flags & BLOB_SPIN); i++) {
		if (__atomic_load_n(&slot->done, __ATOMIC_ACQUIRE) == slot->command)
			break;
		__builtin_ia32_pause();
	}

	for (;;) {
		done = __atomic_load_n(&slot->done, __ATOMIC_ACQUIRE);
		if (done == slot->command)
			break;
		if (syscall(SYS_futex, &slot->done, FUTEX_WAIT, done, &tick, NULL, 0) < 0 &&
		    errno == ETIMEDOUT && alive && alive(arg, err))
			return -1;
	}
	return slot->failed ? script_error(s, slot, err) : 0;
}

int script_run(struct blob_slot *slot, const struct script *s,
	       int (*alive)(void *arg, struct err *err), void *arg, struct err *err)
{
	if (s->overflow)
		return err_set(err, ENOSPC, "a script of %u operations does not fit in its area",
			       s->n_ops);
	if (s->n_ops == 0)
		return 0;
	blob_start(slot, s);
	return blob_wait(slot, s, alive, arg, err);
}

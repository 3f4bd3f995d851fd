// SPDX-License-Identifier: Apache-2.0
/*
 * The xsave area has a fixed start (512 bytes in fxsave layout, a header of 64
 * bytes) and, behind it, one piece per component at an offset that CPUID leaf
 * 0xd gives. Images hold each piece in a field of its own, whole, so that they
 * move between CPUs with different offsets.
 *
 * A component whose bit in the header's xstate_bv is clear is in its initial
 * state and its piece means nothing. The message keeps such pieces (CRIU
 * expects the upper halves of the ymm registers always), as zeroes.
 */
#include "kernel/xstate.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

enum {
	LEGACY_BYTES = 512,
	HEADER_OFF = 512,
	HEADER_BYTES = 64,
	SW_BYTES_OFF = 464, /* the kernel's note: XCR0 of the writer */
	ST_OFF = 32,
	XMM_OFF = 160,
	X87 = 0,
	SSE = 1,
};

#define MXCSR_DEFAULT_MASK 0xffbfu

/* The start of the area: struct fxsave. */
struct fxsave {
	uint16_t cwd, swd, twd, fop;
	uint64_t rip, rdp;
	uint32_t mxcsr, mxcsr_mask;
};

/* Components behind the header that the image format has a field for. */
struct component {
	unsigned int nr;
	const char *name;
	uint32_t bytes;      /* architectural size: checked against CPUID */
	uint32_t elem_bytes; /* of the repeated field */
	size_t n_off, v_off; /* of the field in UserX86XsaveEntry */
};

#define COMPONENT(number, text, size, elem, field)                                     \
	{                                                                              \
		.nr = (number), .name = (text), .bytes = (size), .elem_bytes = (elem), \
		.n_off = offsetof(UserX86XsaveEntry, n_##field),                       \
		.v_off = offsetof(UserX86XsaveEntry, field)                            \
	}

static const struct component components[] = {
	COMPONENT(2, "AVX", 256, 4, ymmh_space),
	COMPONENT(3, "MPX bounds", 64, 8, bndreg_state),
	COMPONENT(4, "MPX configuration", 64, 8, bndcsr_state),
	COMPONENT(5, "AVX-512 masks", 64, 8, opmask_reg),
	COMPONENT(6, "AVX-512 upper halves", 512, 8, zmm_upper),
	COMPONENT(7, "AVX-512 upper registers", 1024, 8, hi16_zmm),
	COMPONENT(9, "protection keys", 8, 4, pkru),
};

/*
 * What CPUID says, asked once: in a virtual machine each CPUID leaves the machine, which takes
 * longer than all else that is done for one thread.
 */
static struct {
	uint64_t xcr0;
	uint32_t bytes;
	struct {
		uint32_t size, off;
	} piece[ARRAY_SIZE(components)];
} cpu;
static pthread_once_t cpu_once = PTHREAD_ONCE_INIT;

static void ask_cpu(void)
{
	uint32_t a, b, c, d;

	cpu.bytes = LEGACY_BYTES + HEADER_BYTES;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	cpu.xcr0 = (uint64_t)d << 32 | a;
	if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		cpu.bytes = b;
	for (size_t i = 0; i < ARRAY_SIZE(components); i++) {
		if (__get_cpuid_count(0xd, components[i].nr, &a, &b, &c, &d)) {
			cpu.piece[i].size = a;
			cpu.piece[i].off = b;
		}
	}
}

uint64_t xstate_xcr0(void)
{
	pthread_once(&cpu_once, ask_cpu);
	return cpu.xcr0;
}

size_t xstate_bytes(void)
{
	pthread_once(&cpu_once, ask_cpu);
	return cpu.bytes;
}

/* Where a component lies in the standard format; false if this CPU has not got it. */
static bool component_place(const struct component *c, size_t area_bytes, size_t *off_out)
{
	uint32_t size, off;

	if (!(xstate_xcr0() & 1ULL << c->nr))
		return false;
	size = cpu.piece[c - components].size;
	off = cpu.piece[c - components].off;
	if (size != c->bytes || off < LEGACY_BYTES + HEADER_BYTES || off + size > area_bytes)
		return false;
	*off_out = off;
	return true;
}

static const char *component_name(unsigned int nr)
{
	for (size_t i = 0; i < ARRAY_SIZE(components); i++)
		if (components[i].nr == nr)
			return components[i].name;
	if (nr == 17 || nr == 18)
		return "AMX tiles";
	return "unknown extension";
}

/* Copies one piece of the area (or zeroes) into its repeated field. */
static int piece_to_field(const struct component *c, const void *piece, struct arena *arena,
			  UserX86XsaveEntry *xs)
{
	size_t *n = (size_t *)((uint8_t *)xs + c->n_off);
	void **v = (void **)((uint8_t *)xs + c->v_off);

	*v = arena_alloc(arena, c->bytes);
	if (!*v)
		return -1;
	if (piece)
		memcpy(*v, piece, c->bytes);
	*n = c->bytes / c->elem_bytes;
	return 0;
}

static int legacy_to_fpregs(const uint8_t *area, struct arena *arena, UserX86FpregsEntry *fp)
{
	struct fxsave fx;

	memcpy(&fx, area, sizeof(fx));
	fp->cwd = fx.cwd;
	fp->swd = fx.swd;
	fp->twd = fx.twd;
	fp->fop = fx.fop;
	fp->rip = fx.rip;
	fp->rdp = fx.rdp;
	fp->mxcsr = fx.mxcsr;
	fp->mxcsr_mask = fx.mxcsr_mask;
	fp->n_st_space = 32;
	fp->st_space = arena_dup(arena, area + ST_OFF, 128);
	fp->n_xmm_space = 64;
	fp->xmm_space = arena_dup(arena, area + XMM_OFF, 256);
	return fp->st_space && fp->xmm_space ? 0 : -1;
}

/* Components in use that have no field in the image. */
static int refuse_inexpressible(uint64_t bv, struct err *err)
{
	uint64_t known = 1 << X87 | 1 << SSE;

	for (size_t i = 0; i < ARRAY_SIZE(components); i++)
		known |= 1ULL << components[i].nr;
	if (!(bv & ~known))
		return 0;
	return err_set(err, ENOTSUP,
		       "extended registers: %s (xsave component %d) cannot be "
		       "carried: images have no field for it",
		       component_name((unsigned int)__builtin_ctzll(bv & ~known)),
		       __builtin_ctzll(bv & ~known));
}

int xstate_to_fpregs(const void *xsave, size_t bytes, struct arena *arena, UserX86FpregsEntry **out,
		     struct err *err)
{
	const uint8_t *area = xsave;
	UserX86FpregsEntry *fp;
	UserX86XsaveEntry *xs;
	uint64_t bv;
	size_t off;

	if (bytes < LEGACY_BYTES + HEADER_BYTES)
		return err_set(err, EINVAL,
			       "extended registers: the kernel gave %zu bytes, "
			       "fewer than an xsave area has",
			       bytes);
	fp = arena_new(arena, UserX86FpregsEntry);
	xs = arena_new(arena, UserX86XsaveEntry);
	if (!fp || !xs)
		return err_nomem(err);
	user_x86_fpregs_entry__init(fp);
	user_x86_xsave_entry__init(xs);
	if (legacy_to_fpregs(area, arena, fp) < 0)
		return err_nomem(err);
	memcpy(&bv, area + HEADER_OFF, sizeof(bv));
	if (refuse_inexpressible(bv, err) < 0)
		return -1;
	xs->xstate_bv = bv;
	for (size_t i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *c = &components[i];

		if (!component_place(c, bytes, &off))
			continue;
		if (piece_to_field(c, bv & 1ULL << c->nr ? area + off : NULL, arena, xs) < 0)
			return err_nomem(err);
	}
	fp->xsave = xs;
	*out = fp;
	return 0;
}

int xstate_check(const UserX86FpregsEntry *fp, struct err *err)
{
	uint64_t lacking = fp->xsave ? fp->xsave->xstate_bv & ~xstate_xcr0() : 0;

	if (fp->n_st_space != 32 || fp->n_xmm_space != 64)
		return err_set(err, EINVAL,
			       "extended registers: the image holds %zu words of x87 "
			       "and %zu of SSE registers, not 32 and 64",
			       fp->n_st_space, fp->n_xmm_space);
	if (lacking)
		return err_set(err, ENOTSUP,
			       "extended registers: the program uses %s (xsave "
			       "component %d), which the CPU here has not got",
			       component_name((unsigned int)__builtin_ctzll(lacking)),
			       __builtin_ctzll(lacking));
	return 0;
}

/* One field of the message into its piece; short fields leave the rest zero. */
static int field_to_piece(const struct component *c, const UserX86XsaveEntry *xs, uint8_t *area,
			  size_t bytes, struct err *err)
{
	size_t n = *(const size_t *)((const uint8_t *)xs + c->n_off);
	const void *v = *(void *const *)((const uint8_t *)xs + c->v_off);
	size_t off;

	if (!(xs->xstate_bv & 1ULL << c->nr))
		return 0;
	if (!component_place(c, bytes, &off))
		return err_set(err, ENOTSUP,
			       "extended registers: no place for %s in this "
			       "machine's xsave area",
			       c->name);
	if (n == 0 || n > c->bytes / c->elem_bytes)
		return err_set(err, EINVAL,
			       "extended registers: the image holds %zu words of %s, "
			       "not %u",
			       n, c->name, c->bytes / c->elem_bytes);
	memcpy(area + off, v, n * c->elem_bytes);
	return 0;
}

int xstate_from_fpregs(const UserX86FpregsEntry *fp, void *xsave, size_t bytes, struct err *err)
{
	uint8_t *area = xsave;
	struct fxsave fx = {
		.cwd = (uint16_t)fp->cwd,
		.swd = (uint16_t)fp->swd,
		.twd = (uint16_t)fp->twd,
		.fop = (uint16_t)fp->fop,
		.rip = fp->rip,
		.rdp = fp->rdp,
		/* reserved bits would make the kernel refuse the whole set */
		.mxcsr = fp->mxcsr & (fp->mxcsr_mask ? fp->mxcsr_mask : MXCSR_DEFAULT_MASK),
		.mxcsr_mask = fp->mxcsr_mask,
	};
	uint64_t xcr0 = xstate_xcr0();
	uint64_t bv = 1 << X87 | 1 << SSE;

	if (xstate_check(fp, err) < 0)
		return -1;
	if (bytes < LEGACY_BYTES + HEADER_BYTES)
		return err_set(err, EINVAL,
			       "extended registers: the kernel here takes %zu bytes, "
			       "fewer than an xsave area has",
			       bytes);
	memset(area, 0, bytes);
	memcpy(area, &fx, sizeof(fx));
	memcpy(area + ST_OFF, fp->st_space, 128);
	memcpy(area + XMM_OFF, fp->xmm_space, 256);
	memcpy(area + SW_BYTES_OFF, &xcr0, sizeof(xcr0));
	if (fp->xsave) {
		bv = fp->xsave->xstate_bv;
		for (size_t i = 0; i < ARRAY_SIZE(components); i++)
			if (field_to_piece(&components[i], fp->xsave, area, bytes, err) < 0)
				return -1;
	}
	memcpy(area + HEADER_OFF, &bv, sizeof(bv));
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "kernel/vdso.h"

#include "kernel/proc.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

/* A bounded view of an ELF image as it lies in memory (file offset == address - base). */
struct view {
	const uint8_t *data;
	size_t bytes;
};

static bool view_get(const struct view *v, uint64_t off, void *out, size_t bytes)
{
	if (off > v->bytes || bytes > v->bytes - off)
		return false;
	memcpy(out, v->data + off, bytes);
	return true;
}

struct dynamic {
	uint64_t base; /* address that the image was linked for */
	uint64_t symtab, strtab, strsz, hash;
};

static bool read_dynamic(const struct view *v, uint64_t off, uint64_t bytes, struct dynamic *d)
{
	Elf64_Dyn dyn;

	for (uint64_t i = 0; i < bytes / sizeof(dyn); i++) {
		if (!view_get(v, off + i * sizeof(dyn), &dyn, sizeof(dyn)))
			return false;
		switch (dyn.d_tag) {
		case DT_NULL:
			return true;
		case DT_SYMTAB:
			d->symtab = dyn.d_un.d_ptr - d->base;
			break;
		case DT_STRTAB:
			d->strtab = dyn.d_un.d_ptr - d->base;
			break;
		case DT_STRSZ:
			d->strsz = dyn.d_un.d_val;
			break;
		case DT_HASH:
			d->hash = dyn.d_un.d_ptr - d->base;
			break;
		}
	}
	return true;
}

static bool find_dynamic(const struct view *v, struct dynamic *d)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	uint64_t dyn_off = 0, dyn_bytes = 0;
	bool loaded = false;

	if (!view_get(v, 0, &eh, sizeof(eh)) || memcmp(eh.e_ident, ELFMAG, SELFMAG) ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64 ||
	    eh.e_phentsize != sizeof(ph))
		return false;
	for (unsigned int i = 0; i < eh.e_phnum; i++) {
		if (!view_get(v, eh.e_phoff + i * sizeof(ph), &ph, sizeof(ph)))
			return false;
		if (ph.p_type == PT_LOAD && !loaded) {
			d->base = ph.p_vaddr - ph.p_offset;
			loaded = true;
		} else if (ph.p_type == PT_DYNAMIC) {
			dyn_off = ph.p_offset;
			dyn_bytes = ph.p_filesz;
		}
	}
	return loaded && dyn_bytes && read_dynamic(v, dyn_off, dyn_bytes, d) && d->symtab &&
	       d->strtab;
}

/* DT_HASH counts the symbols; without it they end where the strings begin. */
static bool count_symbols(const struct view *v, const struct dynamic *d, uint64_t *n)
{
	uint32_t chains;

	if (d->hash) {
		if (!view_get(v, d->hash + 4, &chains, sizeof(chains)))
			return false;
		*n = chains;
	} else if (d->strtab > d->symtab) {
		*n = (d->strtab - d->symtab) / sizeof(Elf64_Sym);
	} else {
		return false;
	}
	return *n <= v->bytes / sizeof(Elf64_Sym);
}

/* Copies a NUL-terminated name; false if it leaves the image or is too long to be one of ours. */
static bool view_name(const struct view *v, uint64_t off, char *out, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (!view_get(v, off + i, &out[i], 1))
			return false;
		if (!out[i])
			return true;
	}
	return false;
}

int vdso_parse(const void *image, size_t bytes, struct vdso_symbols *out, struct err *err)
{
	struct view v = {image, bytes};
	struct dynamic d = {0};
	struct vdso_symbol *s;
	uint64_t n;
	Elf64_Sym sym;

	out->n = 0;
	if (!find_dynamic(&v, &d) || !count_symbols(&v, &d, &n))
		return err_set(err, EINVAL, "the vdso image is not an ELF object that can be read");
	for (uint64_t i = 1; i < n && out->n < VDSO_MAX_SYMBOLS; i++) {
		s = &out->v[out->n];
		if (!view_get(&v, d.symtab + i * sizeof(sym), &sym, sizeof(sym)))
			return err_set(err, EINVAL, "the vdso image's symbol table leaves the image");
		if (ELF64_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_shndx == SHN_UNDEF)
			continue;
		if (!view_name(&v, d.strtab + sym.st_name, s->name, sizeof(s->name)))
			continue;
		if (strncmp(s->name, "__vdso_", 7) != 0)
			continue;
		s->off = sym.st_value - d.base;
		s->bytes = sym.st_size;
		if (s->off >= bytes || s->bytes > bytes - s->off)
			return err_set(err, EINVAL, "the vdso image's function %s leaves the image",
				       s->name);
		out->n++;
	}
	return 0;
}

int vdso_find(struct vdso_set *out, struct err *err)
{
	proc_vmas vmas = {0};
	bool found = false;

	if (proc_vmas_read(getpid(), false, &vmas, err) < 0)
		return -1;
	memset(out, 0, sizeof(*out));
	vec_foreach (v, &vmas) {
		if (strncmp(v->name, "[vvar", 5) != 0 && strcmp(v->name, "[vdso]") != 0)
			continue;
		if (out->n == VDSO_MAX_PARTS)
			break;
		out->part[out->n++] = (struct vdso_part){v->start, v->end};
		if (strcmp(v->name, "[vdso]") != 0)
			continue;
		found = true;
		out->image = (const void *)v->start;
		out->image_bytes = v->end - v->start;
		break;
	}
	proc_vmas_finish(&vmas);
	if (!found)
		return err_set(err, ENOENT,
			       "this kernel gives processes no vdso in the order that ferry "
			       "knows (vvar areas first)");
	return 0;
}

static const struct vdso_symbol *find_symbol(const struct vdso_symbols *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->v[i].name, name) == 0)
			return &s->v[i];
	return NULL;
}

/* jmp *0(%rip), with the address behind it */
enum { JUMP_BYTES = 14 };

static void put_jump(uint8_t *at, uint64_t target)
{
	static const uint8_t jump[6] = {0xff, 0x25, 0, 0, 0, 0};

	memcpy(at, jump, sizeof(jump));
	memcpy(at + sizeof(jump), &target, sizeof(target));
}

/* What to do with a function that the kernel here does not offer. */
static const struct fallback {
	const char *name;
	int nr; /* its system call; -1: the old code works anywhere, it uses no kernel data */
	bool state; /* getrandom: a question for the state's size (len of state ~0) is answered with ENOSYS */
} fallbacks[] = {
	{"__vdso_clock_gettime", SYS_clock_gettime, false},
	{"__vdso_gettimeofday", SYS_gettimeofday, false},
	{"__vdso_time", SYS_time, false},
	{"__vdso_getcpu", SYS_getcpu, false},
	{"__vdso_clock_getres", SYS_clock_getres, false},
	{"__vdso_getrandom", SYS_getrandom, true},
	{"__vdso_sgx_enter_enclave", -1, false},
	{"__vdso_futex_robust_list32_try_unlock", -1, false},
	{"__vdso_futex_robust_list64_try_unlock", -1, false},
};

/* mov $nr,%eax; syscall; ret, before it for getrandom: cmp $-1,%r8; jne; mov $-ENOSYS,%rax; ret */
static size_t put_syscall(uint8_t *at, int nr, bool state)
{
	static const uint8_t guard[] = {0x49, 0x83, 0xf8, 0xff, 0x75, 0x08, 0x48,
					0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3};
	uint8_t call[] = {0xb8, (uint8_t)nr, (uint8_t)(nr >> 8), 0, 0, 0x0f, 0x05, 0xc3};
	size_t n = 0;

	if (state) {
		memcpy(at, guard, sizeof(guard));
		n = sizeof(guard);
	}
	memcpy(at + n, call, sizeof(call));
	return n + sizeof(call);
}

static int redirect_missing(uint8_t *old, const struct vdso_symbol *s, uint64_t room, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(fallbacks); i++) {
		const struct fallback *f = &fallbacks[i];

		if (strcmp(f->name, s->name) != 0)
			continue;
		if (f->nr < 0)
			return 0;
		if (room < (f->state ? 22U : 8U))
			break;
		put_syscall(old + s->off, f->nr, f->state);
		return 0;
	}
	return err_set(err, ENOTSUP, "the kernel here has no %s, which the program may use", s->name);
}

int vdso_redirect(void *old, size_t old_bytes, const void *new_image, size_t new_bytes,
		  uint64_t new_addr, struct err *err)
{
	struct vdso_symbols from, to;

	if (vdso_parse(old, old_bytes, &from, err) < 0 ||
	    vdso_parse(new_image, new_bytes, &to, err) < 0)
		return -1;
	for (size_t i = 0; i < from.n; i++) {
		const struct vdso_symbol *s = &from.v[i], *t = find_symbol(&to, s->name);
		uint64_t room = old_bytes - s->off;

		/* up to the next function: padding between two may be used */
		for (size_t j = 0; j < from.n; j++)
			if (from.v[j].off > s->off)
				room = MIN(room, from.v[j].off - s->off);
		if (!t) {
			if (redirect_missing(old, s, room, err) < 0)
				return -1;
			continue;
		}
		if (room < JUMP_BYTES)
			return err_set(err, ENOTSUP,
				       "the vdso's %s has only %llu bytes, too few for a jump",
				       s->name, (unsigned long long)room);
		put_jump((uint8_t *)old + s->off, new_addr + t->off);
	}
	return 0;
}

uint64_t vdso_syscall_offset(const void *image, size_t bytes)
{
	const uint8_t *p = image;

	for (size_t i = 64; i + 1 < bytes; i++)
		if (p[i] == 0x0f && p[i + 1] == 0x05)
			return i;
	return 0;
}

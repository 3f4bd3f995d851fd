// SPDX-License-Identifier: Apache-2.0
// One task, private anonymous memory of every sort: patterns with holes, protections, content
// behind PROT_NONE, the zero page, a large sparse area, code, heap, data, stack.
#include "victim.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PATTERN_PAGES 64
#define SPARSE_BYTES (1UL << 30)

static char data_section[3 * VICTIM_PAGE] = "not in bss";
static char bss_section[5 * VICTIM_PAGE];

static char *page_at(char *base, size_t page)
{
	return base + page * VICTIM_PAGE;
}

static void fill_pattern(char *base)
{
	for (size_t i = 0; i < PATTERN_PAGES; i++)
		if (i % 3)
			victim_fill(page_at(base, i), VICTIM_PAGE, i);
}

static void check_pattern(char *base)
{
	for (size_t i = 0; i < PATTERN_PAGES; i++) {
		if (i % 3) {
			CHECK(victim_check(page_at(base, i), VICTIM_PAGE, i) < 0,
			      "page %zu differs", i);
			continue;
		}
		CHECK(victim_pfn(getpid(), page_at(base, i)) == 0,
		      "page %zu was a hole, is present", i);
		for (size_t j = 0; j < VICTIM_PAGE; j++)
			CHECK(page_at(base, i)[j] == 0, "hole %zu is not zero", i);
	}
}

// mov eax, imm32; ret
static void write_code(unsigned char *code, uint32_t value)
{
	code[0] = 0xb8;
	memcpy(code + 1, &value, 4);
	code[5] = 0xc3;
}

static uint32_t run_code(void *code)
{
	uint32_t (*fn)(void) = (uint32_t(*)(void))code;

	return fn();
}

// Eight pages whose protections all differ from their neighbours'.
static const int prots[8] = {
	PROT_READ,  PROT_READ | PROT_WRITE,
	PROT_NONE,  PROT_READ | PROT_EXEC,
	PROT_WRITE, PROT_READ,
	PROT_NONE,  PROT_READ | PROT_WRITE | PROT_EXEC,
};

static char *make_protected(char *lines[8])
{
	char *base = victim_map(8 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);

	for (int i = 0; i < 8; i++) {
		victim_fill(page_at(base, i), VICTIM_PAGE, 0x100 + i);
		if (prots[i] & PROT_EXEC)
			write_code((unsigned char *)page_at(base, i), 0x1000 + i);
		MUST(mprotect(page_at(base, i), VICTIM_PAGE, prots[i]));
	}
	for (int i = 0; i < 8; i++)
		lines[i] = victim_maps_line(page_at(base, i));
	return base;
}

static void check_protected(char *base, char *lines[8])
{
	for (int i = 0; i < 8; i++) {
		char *now = victim_maps_line(page_at(base, i));

		CHECK(now && strcmp(now, lines[i]) == 0, "maps: was '%s', is '%s'", lines[i], now);
	}
	for (int i = 0; i < 8; i++) {
		size_t skip = prots[i] & PROT_EXEC ? 8 : 0;

		if (prots[i] & PROT_EXEC)
			CHECK(run_code(page_at(base, i)) == 0x1000U + i, "code on page %d", i);
		MUST(mprotect(page_at(base, i), VICTIM_PAGE, PROT_READ | PROT_WRITE));
		if (!skip)
			CHECK(victim_check(page_at(base, i), VICTIM_PAGE, 0x100 + i) < 0,
			      "protected page %d differs", i);
	}
}

int main(int argc, char **argv)
{
	char *pattern, *zero, *sparse, *heap, *protected, *lines[8];
	volatile char stack[3 * VICTIM_PAGE];
	char zero_sum = 0;

	victim_start(argc, argv);
	pattern = victim_map(PATTERN_PAGES * VICTIM_PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS);
	fill_pattern(pattern);
	protected = make_protected(lines);
	zero = victim_map(4 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	for (int i = 0; i < 4; i++)
		zero_sum |= *(volatile char *)page_at(zero, i);
	sparse = victim_map(SPARSE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	victim_fill(sparse + SPARSE_BYTES / 2, VICTIM_PAGE, 0x200);
	heap = malloc(100000);
	CHECK(heap && !zero_sum, "no memory");
	victim_fill(heap, 100000, 0x300);
	victim_fill(data_section, sizeof(data_section), 0x400);
	victim_fill(bss_section, sizeof(bss_section), 0x500);
	victim_fill((void *)stack, sizeof(stack), 0x600);

	victim_ready();
	victim_wait();

	check_pattern(pattern);
	check_protected(protected, lines);
	for (size_t i = 0; i < 4 * VICTIM_PAGE; i++)
		CHECK(zero[i] == 0, "zero page is not zero at %zu", i);
	CHECK(victim_check(sparse + SPARSE_BYTES / 2, VICTIM_PAGE, 0x200) < 0, "sparse page");
	CHECK(sparse[0] == 0 && sparse[SPARSE_BYTES - 1] == 0, "sparse area is not zero");
	CHECK(victim_check(heap, 100000, 0x300) < 0, "heap");
	CHECK(victim_check(data_section, sizeof(data_section), 0x400) < 0, "data");
	CHECK(victim_check(bss_section, sizeof(bss_section), 0x500) < 0, "bss");
	CHECK(victim_check((void *)stack, sizeof(stack), 0x600) < 0, "stack");
	free(heap);
	heap = sbrk(4 * VICTIM_PAGE);
	CHECK(heap != (void *)-1, "brk does not grow: %s", strerror(errno));
	victim_pass();
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The build-id note of an ELF file: what tells two builds of one program apart
 * when path and size do not. The files are not trusted: every offset is
 * checked, and a file that makes no sense simply has no build id.
 */
#include "base/io.h"
#include "kinds/fd/files.h"

#include <elf.h>
#include <string.h>

enum { MAX_PHDRS = 128, MAX_NOTES_BYTES = 32 * 1024 };

/* Looks for the build-id note in a block of notes; its length in bytes, 0 if there is none. */
static size_t find_note(const uint8_t *notes, size_t bytes, const uint8_t **id_out)
{
	Elf64_Nhdr n;
	size_t off = 0, name, desc;

	while (bytes - off >= sizeof(n)) {
		memcpy(&n, notes + off, sizeof(n));
		off += sizeof(n);
		name = ((size_t)n.n_namesz + 3) & ~(size_t)3;
		desc = ((size_t)n.n_descsz + 3) & ~(size_t)3;
		if (name > bytes - off || desc > bytes - off - name)
			return 0;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 &&
		    memcmp(notes + off, "GNU", 4) == 0) {
			*id_out = notes + off + name;
			return n.n_descsz;
		}
		off += name + desc;
	}
	return 0;
}

static size_t read_notes(int fd, const Elf64_Phdr *ph, uint32_t words[BUILD_ID_MAX_WORDS])
{
	uint8_t notes[MAX_NOTES_BYTES]; /* not of the heap: "out of memory" must not look like "no build id" */
	const uint8_t *id = NULL;
	size_t bytes;

	if (ph->p_filesz > MAX_NOTES_BYTES || ph->p_filesz < sizeof(Elf64_Nhdr))
		return 0;
	if (io_pread_full(fd, notes, ph->p_filesz, (off_t)ph->p_offset))
		return 0;
	bytes = find_note(notes, ph->p_filesz, &id);
	if (!bytes || bytes > BUILD_ID_MAX_WORDS * sizeof(uint32_t))
		return 0;
	memset(words, 0, BUILD_ID_MAX_WORDS * sizeof(uint32_t));
	memcpy(words, id, bytes);
	return (bytes + 3) / 4;
}

size_t build_id_read(int fd, uint32_t words[BUILD_ID_MAX_WORDS])
{
	Elf64_Phdr ph[MAX_PHDRS];
	Elf64_Ehdr eh;
	size_t n;

	if (io_pread_full(fd, &eh, sizeof(eh), 0) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_phentsize != sizeof(*ph) ||
	    eh.e_phnum > MAX_PHDRS)
		return 0;
	if (io_pread_full(fd, ph, eh.e_phnum * sizeof(*ph), (off_t)eh.e_phoff))
		return 0;
	for (unsigned int i = 0; i < eh.e_phnum; i++) {
		n = ph[i].p_type == PT_NOTE ? read_notes(fd, &ph[i], words) : 0;
		if (n)
			return n;
	}
	return 0;
}

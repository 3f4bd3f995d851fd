// SPDX-License-Identifier: Apache-2.0
/*
 * Between the files that make up the regular-file kind (file.c, remap.c,
 * ghost.c, buildid.c) and those that use paths of it (fifo.c).
 */
#ifndef FERRY_KINDS_FD_FILES_H
#define FERRY_KINDS_FD_FILES_H

#include "kinds/kind.h"

/* What has become of the path of an open file. */
enum path_state {
	PATH_SAME,     /* still leads to the file */
	PATH_DELETED,  /* the file has no name left */
	PATH_UNLINKED, /* this name is gone, the file has others */
};

/* A file by descriptor and path, while it is captured. */
struct path_facts {
	int fd; /* any descriptor of it */
	struct stat st;
	const char *name; /* without " (deleted)" */
	enum path_state state;
};

/* open(2) below --root, without following a link out of it; O_CLOEXEC is added. -1 + errno. */
int path_open(const struct restore *r, const char *path, uint32_t flags);

/*
 * The directory that holds @path, below --root, and the last component (in
 * @path). -1 + errno.
 */
int path_open_parent(const struct restore *r, const char *path, const char **base_out);

/* Opens what @fd (any descriptor, O_PATH too) is open on once more; -1 + errno. */
int reopen(int fd, uint32_t flags);

/* Flags of a description that may be given to open(2) again: nothing that creates, cuts or signals. */
uint32_t reopen_flags(uint32_t flags);

/* Can a file without (this) name be carried? Before anything is changed: 0, or -1 and the reason. */
int remap_allowed(const struct capture *c, const struct path_facts *p, struct err *err) must_check;

/* Carries it: a ghost in the images, or a link in the file system. The entry @file_id must name @p->name. */
int remap_capture(struct capture *c, uint32_t file_id, const struct path_facts *p, struct err *err)
	must_check;

/* The REG entry with this id among the files captured so far, NULL if there is none. */
RegFileEntry *capture_reg(const struct capture *c, uint32_t id);

/* Can the remap be followed here? */
int remap_check(struct restore *r, const RemapFilePathEntry *remap, struct err *err) must_check;

/* Opens entry @rfe, whose name no longer leads to its file. -1 + err. */
int remap_open(struct restore *r, const RemapFilePathEntry *remap, const RegFileEntry *rfe,
	       uint32_t flags, struct err *err) must_check;

/* Removes the link of a LINKED remap. */
void remap_commit(struct restore *r, const RemapFilePathEntry *remap);

/*
 * Reads the content of a ghost into the snapshot, and makes a new file from it
 * in @dirfd: under @name, or, if it may be @nameless, with no name yet where
 * type and file system allow that; such a file can be linked once only.
 * Returns a descriptor (O_PATH for anything but regular files).
 */
int ghost_capture(struct capture *c, const struct path_facts *p, uint32_t *remap_id_out,
		  struct err *err) must_check;
int ghost_create(const struct snap_ghost *ghost, int dirfd, const char *name, bool nameless,
		 struct err *err) must_check;

/* Another description of a memfd; -1 + err. */
int memfd_open_again(struct restore *r, const MemfdFileEntry *e, uint32_t flags, struct err *err)
	must_check;

/*
 * The build id of an ELF file as words for reg_file_entry.build_id: their
 * number (0: none, or not an ELF file). @fd must be readable.
 */
enum { BUILD_ID_MAX_WORDS = 16 };
size_t build_id_read(int fd, uint32_t words[BUILD_ID_MAX_WORDS]);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Golden dumps of real CRIU, which lie beside the repository when they are there.
 */
#ifndef FERRY_TESTS_FIXTURES_H
#define FERRY_TESTS_FIXTURES_H

#include "unit.h"

#include "snapshot/image.h"
#include "snapshot/snapshot.h"
#include "store/store.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define FIXTURES "../shared/doc/criu/fixtures"

#define need_fixtures()                                                                 \
	do {                                                                            \
		if (access(FIXTURES, R_OK))                                             \
			skip_because("the golden images are not there (%s)", FIXTURES); \
	} while (0)

static inline struct store *fixture_store(const char *name)
{
	struct store *store;
	struct err err;
	char path[256];
	int fd;

	snprintf(path, sizeof(path), FIXTURES "/%s", name);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		fail_msg("%s: not there", path);
	store = store_dir_open(fd, &err);
	close(fd);
	assert_non_null(store);
	return store;
}

/* The whole dump; fails the test if it does not load. */
static inline struct snapshot *fixture_load(const char *name)
{
	struct store *store = fixture_store(name);
	struct err err = {0};
	struct snapshot *snap = snapshot_load(store, &err);

	if (!snap)
		fail_msg("%s: %s", name, err.text);
	if (snapshot_check_pages(snap, store, &err))
		fail_msg("%s: %s", name, err.text);
	store_close(store);
	return snap;
}

/* Bytes of pages-ID.img. */
static inline void fixture_pages(const char *name, uint32_t id, uint64_t off, void *buf, size_t bytes)
{
	struct store *store = fixture_store(name);
	struct err err = {0};

	if (store_get_pages(store, id, off, buf, bytes, &err))
		fail_msg("%s: %s", name, err.text);
	store_close(store);
}

#endif

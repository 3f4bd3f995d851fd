// SPDX-License-Identifier: Apache-2.0
#include "cmd/dump_stats.h"

#include "base/io.h"
#include "snapshot/image.h"

#include <errno.h>
#include <fcntl.h>

int dump_stats_write(int work_fd, DumpStatsEntry *stats, struct err *err)
{
	const struct image_kind *kind = image_kind_by_name("stats-dump");
	cleanup_close int fd = -1;
	StatsEntry entry = STATS_ENTRY__INIT;
	struct image_writer w;
	int rc;

	if (!kind)
		return err_set(err, ENOENT, "no such image");
	entry.dump = stats;
	image_writer_init(&w, kind);
	image_write(&w, &entry.base);
	rc = image_writer_finish(&w, err);
	if (rc == 0) {
		fd = openat(work_fd, "stats-dump", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0 || io_write_full(fd, w.data, w.bytes) < 0)
			rc = err_sys(err, "stats-dump");
	}
	image_writer_free(&w);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
#include "migrate/progress.h"
#include "base/clock.h"

#include <inttypes.h>
#include <jansson.h>
#include <time.h>

/* How often the line is drawn or a JSON object with numbers is written. */
#define DRAW_NS 100000000u

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

/* Writes an object with the time since the start; takes the reference. */
static void emit(struct progress *p, json_t *object)
{
	if (!object)
		return;
	json_object_set_new(object, "time", json_real(seconds(clock_ns() - p->start_ns)));
	json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	fflush(stdout);
	json_decref(object);
}

static void clear_line(struct progress *p)
{
	if (p->line)
		fputs("\r\033[K", stderr);
	p->line = false;
}

void progress_init(struct progress *p, enum progress_style style)
{
	*p = (struct progress){.style = style, .stage = "start", .start_ns = clock_ns()};
}

/* "12.3 MiB" */
static const char *human(char *buf, size_t size, double bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t u = 0;

	while (bytes >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		bytes /= 1024;
		u++;
	}
	snprintf(buf, size, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
	return buf;
}

static void draw(struct progress *p, uint64_t done, uint64_t total)
{
	double elapsed = seconds(clock_ns() - p->stage_ns);
	char a[32], b[32], c[32];

	fprintf(stderr, "\r\033[K%-10s", p->stage);
	if (done)
		fprintf(stderr, "%s", human(a, sizeof(a), (double)done));
	if (done && total)
		fprintf(stderr, " of %s", human(b, sizeof(b), (double)total));
	if (done && elapsed > 0.05)
		fprintf(stderr, ", %s/s", human(c, sizeof(c), (double)done / elapsed));
	fflush(stderr);
	p->line = true;
}

void progress_stage(struct progress *p, const char *stage)
{
	p->stage = stage;
	p->stage_ns = clock_ns();
	p->drawn_ns = 0;
	if (p->style == PROGRESS_JSON)
		emit(p, json_pack("{s:s, s:s}", "event", "stage", "stage", stage));
	else if (p->style == PROGRESS_TERMINAL)
		draw(p, 0, 0);
}

void progress_bytes(struct progress *p, uint64_t done, uint64_t total)
{
	uint64_t now = clock_ns();

	if (p->style < PROGRESS_TERMINAL || (now - p->drawn_ns < DRAW_NS && done != total))
		return;
	p->drawn_ns = now;
	if (p->style == PROGRESS_TERMINAL)
		draw(p, done, total);
	else
		emit(p, json_pack("{s:s, s:s, s:I, s:I}", "event", "progress", "stage", p->stage,
				  "done", (json_int_t)done, "total", (json_int_t)total));
}

static void tell(struct progress *p, const char *event, const char *text, FILE *to)
{
	if (p->style == PROGRESS_JSON) {
		/* paths are bytes; what is not UTF-8 is not said */
		emit(p, json_pack("{s:s, s:s}", "event", event, "text", text));
		return;
	}
	clear_line(p);
	fprintf(to, "%s\n", text);
	fflush(to);
}

void progress_note(struct progress *p, const char *text)
{
	if (p->style != PROGRESS_QUIET)
		tell(p, "note", text, stdout);
}

void progress_refused(struct progress *p, const char *text)
{
	tell(p, "refused", text, stderr);
}

/* What post-copy was like, for the summary. */
static json_t *lazy_json(const struct progress_lazy *l)
{
	return json_pack("{s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:I}", "faults",
			 (json_int_t)l->faults, "fault_p50_seconds", seconds(l->p50_ns),
			 "fault_p99_seconds", seconds(l->p99_ns), "fault_max_seconds",
			 seconds(l->max_ns), "drain_seconds", seconds(l->drain_ns), "demand_bytes",
			 (json_int_t)l->urgent_bytes, "bulk_bytes", (json_int_t)l->bulk_bytes,
			 "reconnections", (json_int_t)l->losses);
}

static void moved_json(struct progress *p, const struct progress_summary *s)
{
	json_t *o = json_pack("{s:s, s:i, s:s, s:i, s:b, s:f, s:f, s:I, s:I, s:i, s:I, s:i, s:I, s:I}",
			      "event", "moved", "pid", (int)s->pid, "host", s->host, "new_pid",
			      (int)s->new_pid, "new_pid_namespace", (int)s->new_pid_namespace,
			      "total_seconds", seconds(clock_ns() - p->start_ns), "frozen_seconds",
			      seconds(s->frozen_ns), "sent_bytes", (json_int_t)s->sent_bytes,
			      "memory_bytes", (json_int_t)s->memory_bytes, "files", (int)s->files,
			      "file_bytes", (json_int_t)s->file_bytes, "rounds", (int)s->rounds,
			      "round_bytes", (json_int_t)s->round_bytes, "zero_bytes",
			      (json_int_t)s->zero_bytes);

	if (o && s->kept_list) {
		json_object_set_new(o, "lazy_files_list", json_string(s->kept_list));
		json_object_set_new(o, "lazy_files_detach", json_boolean(s->detaches));
		json_object_set_new(o, "lazy_files_writeback", json_boolean(s->writes_home));
	}
	if (o && s->lazy.known)
		json_object_set_new(o, "postcopy", lazy_json(&s->lazy));
	emit(p, o);
}

/* The second line of the summary: how the memory moved, if not in the freeze alone. */
static void tell_modes(const struct progress_summary *s)
{
	char bytes[32];

	if (s->rounds)
		printf("%u %s before the freeze, %s", s->rounds, s->rounds == 1 ? "round" : "rounds",
		       human(bytes, sizeof(bytes), (double)s->round_bytes));
	if (s->lazy.known)
		printf("%s%s after it in %.2f s: %" PRIu64 " faults, p50 %.2f ms, p99 %.2f ms",
		       s->rounds ? "; " : "",
		       human(bytes, sizeof(bytes),
			     (double)(s->lazy.urgent_bytes + s->lazy.bulk_bytes)),
		       seconds(s->lazy.drain_ns), s->lazy.faults, (double)s->lazy.p50_ns / 1e6,
		       (double)s->lazy.p99_ns / 1e6);
	if (s->lazy.known && s->lazy.losses)
		printf(", %" PRIu64 " broken connections", s->lazy.losses);
	if (s->rounds || s->lazy.known)
		printf("\n");
}

/* Where the files are, for how long, and what becomes of those that change. */
static void tell_files(const struct progress_summary *s)
{
	if (s->writes_home) {
		printf("its files come from here when it uses them, and what it changes goes home at fsync and close;\n"
		       "what cannot go home becomes files of %s when it has ended, listed in %s\n",
		       s->host, s->kept_list);
		return;
	}
	if (s->detaches)
		printf("its files come from here until all that it uses is there, as 'ferry lazyfs --status /proc/%d/root' says there;\n",
		       s->new_pid);
	else
		printf("its files come from here when it uses them, until 'ferry lazyfs --detach /proc/%d/root' there;\n",
		       s->new_pid);
	printf("what it changes becomes files of %s when it has ended, listed in %s\n", s->host,
	       s->kept_list);
}

void progress_moved(struct progress *p, const struct progress_summary *s)
{
	char sent[32], files[64] = "", frozen[32];

	if (p->style == PROGRESS_JSON) {
		moved_json(p, s);
		return;
	}
	clear_line(p);
	if (p->style == PROGRESS_QUIET)
		return;
	if (s->frozen_ns < 10000000000u)
		snprintf(frozen, sizeof(frozen), "%.1f ms", (double)s->frozen_ns / 1e6);
	else
		snprintf(frozen, sizeof(frozen), "%.1f s", seconds(s->frozen_ns));
	if (s->files)
		snprintf(files, sizeof(files), ", %u %s copied", s->files,
			 s->files == 1 ? "file" : "files");
	printf("pid %d runs on %s now: moved in %.2f s, frozen for %s, %s sent%s\n", s->pid,
	       s->host, seconds(clock_ns() - p->start_ns), frozen,
	       human(sent, sizeof(sent), (double)s->sent_bytes), files);
	tell_modes(s);
	if (s->kept_list)
		tell_files(s);
	fflush(stdout);
}

void progress_failed(struct progress *p, const char *text)
{
	clear_line(p);
	if (p->style == PROGRESS_JSON)
		emit(p, json_pack("{s:s, s:s, s:s}", "event", "failed", "stage", p->stage, "text",
				  text));
}

// SPDX-License-Identifier: Apache-2.0
/*
 * ferry check: what this kernel offers, and with a PID what of that tree would
 * be refused. Nothing is stopped or changed.
 */
#include "base/log.h"
#include "capture/capture.h"
#include "cmd/common.h"
#include "kernel/probe.h"

#include <fcntl.h>
#include <jansson.h>
#include <string.h>

struct check_args {
	bool json;
	struct log_args log;
	struct kind_args kinds;
};

static const struct opt_row rows[] = {
	{.long_name = "json",
	 .help = "one JSON document instead of text",
	 .type = OPT_FLAG,
	 .offset = offsetof(struct check_args, json)},
	LOG_ROWS(struct check_args, log),
	KIND_ROWS(struct check_args, kinds),
	{0},
};

static const struct opt_spec spec = {
	.command = "check",
	.arguments = "[PID]",
	.summary = "tells what this kernel, or a tree of processes, allows",
	.details = "Exits with 1 if something that is needed is missing, or if the tree would be refused.\n",
	.max_args = 1,
	.rows = rows,
};

/* "dump, restore" */
static const char *needed_by(unsigned int need, char *buf, size_t size)
{
	snprintf(buf, size, "%s%s%s", need & PROBE_DUMP ? "dump" : "",
		 (need & PROBE_DUMP) && (need & PROBE_RESTORE) ? ", " : "",
		 need & PROBE_RESTORE  ? "restore" :
		 need & PROBE_NEW_PIDS ? "--pids=new" :
		 need                  ? "" :
					 "optional");
	return buf;
}

static void print_probe(const struct kernel_probe *p, int no)
{
	char need[40];

	printf("%-8s %-20s %-14s %s%s%s\n", no ? "missing" : "ok", p->name,
	       needed_by(p->needed_by, need, sizeof(need)), p->purpose, no ? ": " : "",
	       no ? strerror(no) : "");
}

static int add_json(json_t *list, const struct kernel_probe *p, int no)
{
	char need[40];
	json_t *row = json_pack("{s:s, s:b, s:s, s:s}", "feature", p->name, "ok", !no, "needed_by",
				needed_by(p->needed_by, need, sizeof(need)), "purpose", p->purpose);

	if (row && no)
		json_object_set_new(row, "error", json_string(strerror(no)));
	return json_array_append_new(list, row);
}

static int print_json(json_t *document)
{
	int rc = document ? json_dumpf(document, stdout, JSON_INDENT(2)) : -1;

	if (rc == 0)
		putchar('\n');
	json_decref(document);
	return rc;
}

static int check_kernel(const struct check_args *args)
{
	json_t *list = args->json ? json_array() : NULL;
	bool missing = false;

	for (const struct kernel_probe *p = kernel_probes; p->name; p++) {
		int no = p->test();

		missing |= no && p->needed_by;
		if (!args->json)
			print_probe(p, no);
		else if (add_json(list, p, no) < 0)
			missing = true;
	}
	if (args->json && print_json(json_pack("{s:o, s:b}", "features", list, "ok", !missing)) < 0)
		return EXIT_FAILED;
	return missing ? EXIT_FAILED : EXIT_DONE;
}

static int look_at_tree(const char *text, const struct check_args *args, struct err *err)
{
	struct kind_options kinds = {0};
	struct capture_session *s = NULL;
	pid_t pid;
	int rc;

	if (parse_pid(text, &pid, err) < 0)
		return -1;
	rc = kind_args_resolve(&args->kinds, &kinds, err);
	if (rc == 0) {
		s = capture_open(pid, &kinds, err);
		rc = s ? capture_check(s, err) : -1;
	}
	capture_close(s);
	kind_args_free(&kinds);
	return rc;
}

static int check_tree(const char *pid, const struct check_args *args)
{
	struct err err;
	int rc = look_at_tree(pid, args, &err);

	if (args->json) {
		json_t *doc = json_pack("{s:s, s:b}", "pid", pid, "ok", rc == 0);

		if (doc && rc < 0)
			json_object_set_new(doc, "error", json_string(err.text));
		return print_json(doc) < 0 || rc < 0 ? EXIT_FAILED : EXIT_DONE;
	}
	if (rc < 0)
		return cmd_fail(&spec, &err);
	printf("pid %s: nothing would be refused\n", pid);
	return EXIT_DONE;
}

static int run(int argc, char **argv)
{
	struct check_args args = {.log = LOG_ARGS_DEFAULT, .kinds = KIND_ARGS_DEFAULT};
	struct opt_rest rest;
	struct err err;
	int rc = cmd_options(&spec, argc, argv, &args, &rest);

	if (rc >= 0)
		return rc;
	if (log_args_open(&args.log, AT_FDCWD, &err) < 0)
		return cmd_fail(&spec, &err);
	return rest.n ? check_tree(rest.v[0], &args) : check_kernel(&args);
}

const struct cmd cmd_check = {.spec = &spec, .run = run};

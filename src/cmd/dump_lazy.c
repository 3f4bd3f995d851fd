// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "lazy"
#include "cmd/dump_lazy.h"

#include "base/clock.h"
#include "base/log.h"
#include "cmd/common.h"
#include "wire/tcp.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <time.h>

enum { TICK_MS = 1000 };

int lazy_phase_open(struct lazy_phase *l, const struct lazy_args *args, const struct tls *tls,
		    struct err *err)
{
	uint16_t port;
	int fd;

	*l = (struct lazy_phase){.timeout_s = args->timeout_s};
	l->serve = serve_create(err);
	if (!l->serve)
		return -1;
	/* CRIU's client reads an answer without data as an error */
	l->net = serve_net_create(l->serve, false, err);
	if (!l->net)
		return -1;
	fd = tcp_listen(args->address, (uint16_t)args->port, &port, err);
	if (fd < 0)
		return -1;
	log_info("listening on port %u", port);
	serve_net_secure(l->net, tls);
	serve_net_listen(l->net, fd);
	return 0;
}

void lazy_phase_close(struct lazy_phase *l)
{
	serve_net_free(l->net);
	serve_free(l->serve);
	*l = (struct lazy_phase){0};
}

/* Readable when one of the signals that wait has come. */
static int signals_fd(struct err *err)
{
	sigset_t set;
	int fd;

	sigprocmask(SIG_BLOCK, NULL, &set);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(err, "signalfd") : fd;
}

/* Until a CLOSE is accepted (0), or something else ends it (-1). */
static int serve_all(struct lazy_phase *l, struct err *err)
{
	cleanup_close int sigfd = signals_fd(err);
	uint64_t last_s = clock_ms() / 1000, checked_s = 0, requests = 0;
	struct serve_net_stats st;

	if (sigfd < 0)
		return -1;
	while (!serve_net_closed(l->net)) {
		if (serve_net_step(l->net, sigfd, TICK_MS, err) < 0 || signals_check(err) < 0)
			return -1;
		if (clock_ms() / 1000 != checked_s && serve_check(l->serve, err) < 0)
			return -1;
		checked_s = clock_ms() / 1000;
		serve_net_stats(l->net, &st);
		if (st.requests != requests)
			last_s = clock_ms() / 1000;
		requests = st.requests;
		if (l->timeout_s && clock_ms() / 1000 - last_s >= l->timeout_s)
			return err_set(err, ETIMEDOUT,
				       "nobody has asked for pages for %llu seconds (--lazy-timeout)",
				       (unsigned long long)l->timeout_s);
	}
	return 0;
}

int lazy_phase_serve(struct lazy_phase *l, enum capture_end *end_out, struct err *err)
{
	int rc = serve_all(l, err);
	struct serve_net_stats st;

	serve_net_stats(l->net, &st);
	log_info("%llu of %llu pages handed out in %llu answers, %llu connections dropped",
		 (unsigned long long)(serve_pages(l->serve) - serve_left(l->serve)),
		 (unsigned long long)serve_pages(l->serve), (unsigned long long)st.requests,
		 (unsigned long long)st.dropped);
	if (rc == 0)
		return 0;
	if (st.requests == 0) {
		*end_out = CAPTURE_THAW;
		return err_wrap(err, "nobody fetched the memory, the tree runs on here");
	}
	*end_out = CAPTURE_LEAVE_STOPPED;
	return err_wrap(err,
			"memory was handed out, so the program may run elsewhere: the tree here is "
			"left stopped; continue it with kill -CONT, or end it");
}

// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "serve"
#include "cmd/serve_peer.h"

#include "base/io.h"
#include "base/log.h"
#include "migrate/peers.h"
#include "wire/call.h"
#include "wire/pump.h"
#include "wire/tcp.h"
#include "wire/tunnel.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

extern char **environ;

/* For the peer to say what he wants: the handshake has its own limit (wire/tunnel.c). */
enum { CALL_S = 15 };

static bool has_name(void *arg, const char *name)
{
	return tunnel_peer_has_name(arg, name);
}

/* ---- who and what ---- */

static int hear_call(int fd, struct tunnel *tunnel, struct call *call, struct err *err)
{
	const struct timeval limit = {.tv_sec = CALL_S}, none = {0};
	uint8_t in[CALL_BYTES];

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		return err_sys(err, "setsockopt");
	if (io_read_full(fd, in, sizeof(in)) < 0) {
		err_set(err, EPROTO, "it says nothing");
		return tunnel_explain(tunnel, err);
	}
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none)))
		return err_sys(err, "setsockopt");
	return call_decode(in, call, err);
}

static int answer(int fd, bool yes, const char *text, struct err *err)
{
	uint8_t out[CALL_ANSWER_MAX];

	if (io_write_full(fd, out, call_answer(yes, text, out)) == 0)
		return 0;
	return err_sys(err, "it cannot be answered");
}

/* What the file says of the peer; *name_out is for the log. The file is read each time: no reload is needed. */
static int find_rights(const struct serve_options *opt, struct tunnel *tunnel,
		       unsigned int *rights_out, char name_out[PEER_NAME_MAX + 1], struct err *err)
{
	struct peers peers;
	const struct peer *peer;

	if (peers_read(opt->peers, &peers, err))
		return -1;
	peer = peers_find(&peers, has_name, tunnel);
	*rights_out = peer ? peer->rights : 0;
	snprintf(name_out, PEER_NAME_MAX + 1, "%s", peer ? peer->name : "somebody without a line");
	peers_free(&peers);
	return 0;
}

/* ---- the agent ---- */

static int start_agent(pid_t *pid_out, struct err *err)
{
	static char self[] = "/proc/self/exe", ferry[] = "ferry", agent[] = "agent",
		    call[] = "--call";
	char *argv[] = {ferry, agent, call, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int pair[2], no;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return err_sys(err, "socketpair");
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, pair[1], STDOUT_FILENO);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	no = posix_spawn(pid_out, self, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	close(pair[1]);
	if (!no)
		return pair[0];
	close(pair[0]);
	return err_sysno(err, no, "cannot start an agent");
}

static int call_agent(const char *path, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, ENAMETOOLONG, "%.200s: too long for a socket", path);
	memcpy(addr.sun_path, path, strlen(path));
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(err, "%s: nobody starts agents there", path);
	return steal_fd(&fd);
}

/* A connection to an agent that knows what it is to do; *pid_out is set if it is our child. */
static int reach_agent(const struct serve_options *opt, const struct call *call, pid_t *pid_out,
		       struct err *err)
{
	cleanup_close int fd = opt->agent_socket ? call_agent(opt->agent_socket, err) :
						   start_agent(pid_out, err);
	uint8_t out[CALL_BYTES];

	if (fd < 0)
		return -1;
	call_encode(call, out);
	if (io_write_full(fd, out, sizeof(out)) < 0)
		return err_sys(err, "the agent is gone");
	return steal_fd(&fd);
}

/* ---- one connection ---- */

/* The address at which we were reached: agents open their ports there. */
static void own_address(int fd, char out[CALL_ADDRESS_MAX + 1])
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);

	out[0] = '\0';
	if (getsockname(fd, (struct sockaddr *)&addr, &len) == 0)
		(void)!getnameinfo((struct sockaddr *)&addr, len, out, CALL_ADDRESS_MAX + 1, NULL,
				   0, NI_NUMERICHOST);
	/* an IPv4 address at a socket of IPv6 */
	if (strncmp(out, "::ffff:", 7) == 0 && strchr(out, '.'))
		memmove(out, out + 7, strlen(out + 7) + 1);
}

static unsigned int right_for(enum call_what what)
{
	return what == CALL_FILES ? PEER_FILES : PEER_SEND;
}

/* Says no, and makes the error of it. */
static int refuse(int fd, const char *text, struct err *err)
{
	struct err ignored;

	(void)!answer(fd, false, text, &ignored);
	return err_set(err, EACCES, "%s", text);
}

/* 1: the agent is at *agent_out, and everything goes there; 0: that was all; -1. */
static int admit(const struct serve_options *opt, int fd, struct tunnel *tunnel,
		 const char *address, int *agent_out, pid_t *pid_out, struct err *err)
{
	char name[PEER_NAME_MAX + 1], buf[PEER_RIGHTS_TEXT], text[CALL_TEXT_MAX];
	unsigned int rights;
	struct call call = {.what = CALL_ASK};
	struct err why;

	if (hear_call(fd, tunnel, &call, err))
		return -1;
	if (find_rights(opt, tunnel, &rights, name, &why)) {
		log_error("%s", why.text);
		return refuse(fd, "this host does not know who may do what", err);
	}
	if (call.what == CALL_ASK) {
		snprintf(text, sizeof(text), "you may do here: %s", peer_rights_text(rights, buf));
		log_info("%s (%s) asks what it may do", tunnel_peer(tunnel), name);
		return answer(fd, true, text, err);
	}
	if (!(rights & right_for(call.what))) {
		snprintf(text, sizeof(text), "you may not do that here (%s); you may do: %s",
			 call_command(call.what), peer_rights_text(rights, buf));
		(void)refuse(fd, text, err);
		return err_set(err, EACCES, "%s may not: %s", name, call_command(call.what));
	}
	snprintf(call.address, sizeof(call.address), "%s", address);
	*agent_out = reach_agent(opt, &call, pid_out, &why);
	if (*agent_out < 0) {
		log_error("%s", why.text);
		return refuse(fd, "this host cannot start an agent", err);
	}
	log_info("%s (%s): ferry %s", tunnel_peer(tunnel), name, call_command(call.what));
	return answer(fd, true, "", err) ? -1 : 1;
}

static int serve_tunnel(const struct serve_options *opt, int fd, struct tunnel *tunnel,
			const char *address, int *admitted, struct err *err)
{
	int agent = -1, rc;
	pid_t pid = -1;

	rc = admit(opt, fd, tunnel, address, &agent, &pid, err);
	close(steal_fd(admitted));
	if (rc <= 0) {
		close(fd);
		if (agent >= 0)
			close(agent);
	} else {
		rc = pump_run((struct pump_end){fd, fd}, (struct pump_end){agent, agent}, err);
	}
	/* it ends by itself when nobody speaks to it any more */
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return rc;
}

int serve_peer(const struct serve_options *opt, int fd, int admitted, struct err *err)
{
	const struct tls_files files = tls_args_files(opt->tls);
	struct tls *tls = tls_with_files(TLS_SERVER, &files, err);
	char address[CALL_ADDRESS_MAX + 1], peer[TCP_PEER_TEXT];
	struct tunnel *tunnel;
	int rc;

	tcp_prepare(fd);
	tcp_peer_text(fd, peer);
	own_address(fd, address);
	tunnel = tls ? tunnel_open(tls, fd, NULL, NULL, &fd, err) : NULL;
	if (!tunnel) {
		if (!tls)
			close(fd);
		close(admitted);
		tls_free(tls);
		return err_wrap(err, "%s", peer);
	}
	rc = serve_tunnel(opt, fd, tunnel, address, &admitted, err);
	if (rc < 0)
		err_wrap(err, "%s", peer);
	tunnel_finish(tunnel);
	tls_free(tls);
	return rc;
}

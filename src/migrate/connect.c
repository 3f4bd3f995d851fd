// SPDX-License-Identifier: Apache-2.0
#include "migrate/connect.h"

#include "base/io.h"
#include "migrate/needs.h"
#include "wire/call.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

enum { MAX_WORDS = 64, EXTRA_WORDS = 2, QUERY_TIMEOUT_MS = 20000 };

/* One word of @p (after blanks) goes to @to; returns what follows it, NULL if a quote is open. */
static const char *split_word(const char *p, char *to)
{
	char quote = 0;

	for (; *p && (quote || !isspace((unsigned char)*p)); p++) {
		if (quote ? *p == quote : *p == '\'' || *p == '"')
			quote = quote ? 0 : *p;
		else if (*p == '\\' && quote != '\'' && p[1])
			*to++ = *++p;
		else
			*to++ = *p;
	}
	*to = '\0';
	return quote ? NULL : p;
}

char **split_words(const char *line, struct err *err)
{
	/* the words lie behind the pointers, in the same allocation */
	size_t table = (MAX_WORDS + EXTRA_WORDS + 1) * sizeof(char *);
	cleanup_free char **words = calloc(1, table + strlen(line) + MAX_WORDS + 1);
	char *to = (char *)words + table;
	size_t n = 0;

	if (!words) {
		err_nomem(err);
		return NULL;
	}
	for (;;) {
		while (isspace((unsigned char)*line))
			line++;
		if (!*line)
			break;
		if (n == MAX_WORDS) {
			err_set(err, E2BIG, "--ssh: more than %d words", MAX_WORDS);
			return NULL;
		}
		words[n++] = to;
		line = split_word(line, to);
		if (!line) {
			err_set(err, EINVAL, "--ssh: a quote is not closed");
			return NULL;
		}
		to += strlen(to) + 1;
	}
	if (n == 0) {
		err_set(err, EINVAL, "--ssh: no command");
		return NULL;
	}
	return steal_ptr(&words);
}

/* @text as one word of a shell: in single quotes. */
static void quote(char *to, size_t size, const char *text)
{
	size_t n = 0;

	if (n < size - 1)
		to[n++] = '\'';
	for (; *text && n + 6 < size; text++) {
		if (*text == '\'') {
			memcpy(to + n, "'\\''", 4);
			n += 4;
		} else {
			to[n++] = *text;
		}
	}
	to[n++] = '\'';
	to[n] = '\0';
}

/* What the login shell there is to run: ferry with @command, which needs no quotes. */
static int remote_command(const struct remote *remote, const char *command, char *out, size_t size,
			  struct err *err)
{
	char self[PATH_MAX], word[PATH_MAX + 64], script[PATH_MAX + 256];

	if (remote->ferry) {
		quote(word, sizeof(word), remote->ferry);
		snprintf(out, size, "exec %s %s", word, command);
		return 0;
	}
	if (io_readlinkf(self, sizeof(self), "/proc/self/exe") < 0)
		return err_sys(err, "/proc/self/exe");
	quote(word, sizeof(word), self);
	/* the login shell may be any; this is for sh */
	snprintf(script, sizeof(script),
		 "if command -v ferry >/dev/null 2>&1; then exec ferry %s; else exec %s %s; fi",
		 command, word, command);
	quote(word, sizeof(word), script);
	snprintf(out, size, "exec sh -c %s", word);
	return 0;
}

/* posix_spawn with these two descriptors as stdin and stdout; terminal signals are ignored from the start. */
static int spawn(char **argv, int in, int out, pid_t *pid_out)
{
	static const int ignored[] = {SIGINT, SIGQUIT, SIGHUP, SIGTERM};
	struct sigaction old[ARRAY_SIZE(ignored)], ign = {.sa_handler = SIG_IGN};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, pipe_set;
	int no;

	sigemptyset(&none);
	sigemptyset(&pipe_set);
	sigaddset(&pipe_set, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipe_set);
	/* ssh leaves a signal ignored that was ignored when it started */
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		sigaction(ignored[i], &ign, &old[i]);
	no = posix_spawnp(pid_out, argv[0], &actions, &attr, argv, environ);
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		sigaction(ignored[i], &old[i], NULL);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return no;
}

/* Runs it with two new pipes. */
static int start(char **argv, struct connection *out, struct err *err)
{
	int to[2] = {-1, -1}, from[2] = {-1, -1};
	int no;

	if (pipe2(to, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	if (pipe2(from, O_CLOEXEC) < 0) {
		close(to[0]);
		close(to[1]);
		return err_sys(err, "pipe");
	}
	no = spawn(argv, to[0], from[1], &out->pid);
	close(to[0]);
	close(from[1]);
	out->in = from[0];
	out->out = to[1];
	if (!no)
		return 0;
	close(out->in);
	close(out->out);
	return err_sysno(err, no, "cannot run %.200s", argv[0]);
}

/* This very program, as "ferry call". */
static int start_call(const struct remote *remote, const char *command, struct connection *out,
		      struct err *err)
{
	static const struct tls_files usual;
	const struct tls_files *tls = remote->tls ? remote->tls : &usual;
	const struct {
		const char *name, *value;
	} options[] = {{"--tls-cacert", tls->cacert},
		       {"--tls-crl", tls->cacrl},
		       {"--tls-cert", tls->cert},
		       {"--tls-key", tls->key}};
	const char *argv[2 + 2 * ARRAY_SIZE(options) + 3] = {"/proc/self/exe", "call"};
	size_t n = 2;

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		if (options[i].value) {
			argv[n++] = options[i].name;
			argv[n++] = options[i].value;
		}
	}
	argv[n++] = remote->host;
	argv[n] = command;
	return start((char **)argv, out, err);
}

int connect_agent(const struct remote *remote, const char *command, struct connection *out,
		  struct err *err)
{
	cleanup_free char **argv = NULL;
	char line[2 * PATH_MAX + 512];
	size_t n = 0;

	if (remote->host[0] == '-' || !remote->host[0])
		return err_set(err, EINVAL, "'%.80s' is not the name of a host", remote->host);
	if (call_is_url(remote->host))
		return start_call(remote, command, out, err);
	argv = split_words(remote->ssh, err);
	if (!argv || remote_command(remote, command, line, sizeof(line), err) < 0)
		return -1;
	while (argv[n])
		n++;
	argv[n++] = (char *)remote->host;
	argv[n] = line;
	return start(argv, out, err);
}

void connection_end(pid_t ssh, unsigned int ms)
{
	const struct timespec step = {.tv_nsec = 10000000};

	for (unsigned int waited = 0; waited < ms; waited += 10) {
		if (waitpid(ssh, NULL, WNOHANG) != 0)
			return;
		nanosleep(&step, NULL);
	}
	kill(ssh, SIGKILL);
	while (waitpid(ssh, NULL, 0) < 0 && errno == EINTR)
		;
}

int token_make(char out[WIRE_TOKEN_CHARS + 1], struct err *err)
{
	uint8_t raw[WIRE_TOKEN_CHARS / 2];

	if (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		return err_sys(err, "getrandom");
	for (size_t i = 0; i < sizeof(raw); i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	return 0;
}

/* ---- handshake ---- */

static int send_hello(struct channel *ch, uint16_t type, const char *token, struct err *err)
{
	Wire__Hello msg = WIRE__HELLO__INIT;
	char host[HOST_NAME_MAX + 1] = "", boot_id[40];

	gethostname(host, sizeof(host) - 1);
	boot_id_read(boot_id);
	msg.magic = (char *)WIRE_MAGIC;
	msg.version = WIRE_VERSION;
	msg.lowest = WIRE_LOWEST;
	msg.token = (char *)token;
	msg.ferry = (char *)FERRY_VERSION;
	msg.host = host;
	msg.boot_id = boot_id;
	return channel_send(ch, type, &msg.base, err);
}

/* "ferry 1.2 at HOST speaks version 4" */
static void say_versions(char *to, size_t size, const char *ferry, const char *host,
			 uint32_t lowest, uint32_t version)
{
	int n = snprintf(to, size, "ferry%s%.32s at %.64s speaks version%s %u", *ferry ? " " : "",
			 ferry, host, lowest == version ? "" : "s", lowest);

	if (lowest != version && n >= 0 && (size_t)n < size)
		snprintf(to + n, size - (size_t)n, " to %u", version);
}

/* Whichever end says it, and whoever reads it: both are named. */
static int refuse_version(const struct channel *ch, const Wire__Hello *peer, struct err *err)
{
	char host[HOST_NAME_MAX + 1] = "", theirs[160], ours[160];

	gethostname(host, sizeof(host) - 1);
	say_versions(theirs, sizeof(theirs), peer->ferry ? peer->ferry : "",
		     peer->host ? peer->host : ch->peer, peer->lowest, peer->version);
	say_versions(ours, sizeof(ours), FERRY_VERSION, host, WIRE_LOWEST, WIRE_VERSION);
	return err_set(err, EPROTO, "%s of the protocol, but %s: install the same version on both",
		       theirs, ours);
}

/* Both must understand what the older of the two speaks. */
static int check_hello(const struct channel *ch, const Wire__Hello *peer, bool *same_kernel_out,
		       struct err *err)
{
	char boot_id[40];

	if (strcmp(peer->magic, WIRE_MAGIC) != 0)
		return err_set(err, EPROTO, "%s: does not speak ferry's protocol", ch->peer);
	if (peer->version < WIRE_LOWEST || peer->lowest > WIRE_VERSION)
		return refuse_version(ch, peer, err);
	boot_id_read(boot_id);
	if (same_kernel_out)
		*same_kernel_out = peer->boot_id && boot_id[0] && !strcmp(peer->boot_id, boot_id);
	return 0;
}

int connect_hello(struct channel *ch, const char *token, bool *same_kernel_out, struct err *err)
{
	Wire__Hello *peer;
	int rc;

	if (send_hello(ch, MSG_HELLO, token, err) < 0 ||
	    !(peer = channel_expect(ch, MSG_WELCOME, err))) {
		if (!ch->broken)
			return -1;
		return err_set(err, err->no, "%s: no ferry agent answered", ch->peer);
	}
	rc = check_hello(ch, peer, same_kernel_out, err);
	wire_free(peer);
	return rc;
}

int connect_welcome(struct channel *ch, char token_out[WIRE_TOKEN_CHARS + 1], bool *same_kernel_out,
		    struct err *err)
{
	Wire__Hello *peer = channel_expect(ch, MSG_HELLO, err);
	int rc;

	if (!peer)
		return -1;
	rc = check_hello(ch, peer, same_kernel_out, err);
	if (rc == 0 && !wire_token_valid(peer->token))
		rc = err_set(err, EPROTO, "%s: not a token", ch->peer);
	if (rc == 0)
		snprintf(token_out, WIRE_TOKEN_CHARS + 1, "%s", peer->token);
	wire_free(peer);
	return rc < 0 ? -1 : send_hello(ch, MSG_WELCOME, token_out, err);
}

static int ask(struct channel *ch, const char *token, enum wire_fate *fate_out, struct err *err)
{
	Wire__Query query = WIRE__QUERY__INIT;
	Wire__Answer *answer;
	int rc = 0;

	query.token = (char *)token;
	if (connect_hello(ch, token, NULL, err) < 0 ||
	    channel_send(ch, MSG_QUERY, &query.base, err) < 0)
		return -1;
	answer = channel_expect(ch, MSG_ANSWER, err);
	if (!answer)
		return -1;
	if (answer->fate <= WIRE_FATE_LOST)
		*fate_out = (enum wire_fate)answer->fate;
	else
		rc = err_set(err, EPROTO, "%s: unknown answer %u", ch->peer, answer->fate);
	wire_free(answer);
	return rc;
}

int connect_query(const struct remote *remote, const char *token, int watch_fd,
		  int (*on_watch)(void *arg, struct err *err), void *arg, enum wire_fate *fate_out,
		  struct err *err)
{
	struct connection conn;
	struct channel ch;
	int rc;

	if (connect_agent(remote, "agent", &conn, err) < 0)
		return -1;
	channel_init(&ch, conn.in, conn.out, WIRE_SOURCE, remote->host);
	ch.timeout_ms = QUERY_TIMEOUT_MS;
	ch.watch_fd = watch_fd;
	ch.on_watch = on_watch;
	ch.arg = arg;
	rc = ask(&ch, token, fate_out, err);
	channel_finish(&ch);
	connection_end(conn.pid, 1000);
	return rc;
}

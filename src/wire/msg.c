// SPDX-License-Identifier: Apache-2.0
#include "wire/msg.h"

#include "wire/pack.h"

#include <errno.h>
#include <string.h>

#define S(stage) (1u << WIRE_STAGE_##stage)
#define ANY_STAGE ((1u << WIRE_STAGES) - 1)
#define FILES (S(FILES) | S(CHANGES))
#define KIB(n) ((n)*1024u)
#define MIB(n) ((n)*1024u * 1024u)

static const struct msg_info table[] = {
	[MSG_HELLO] = {.name = "hello",
		       .senders = WIRE_SOURCE,
		       .stages = S(HELLO),
		       .max_bytes = KIB(4),
		       .body = &wire__hello__descriptor},
	[MSG_WELCOME] = {.name = "welcome",
			 .senders = WIRE_TARGET,
			 .stages = S(HELLO),
			 .max_bytes = KIB(4),
			 .body = &wire__hello__descriptor},
	[MSG_STAGE] = {.name = "stage",
		       .senders = WIRE_SOURCE,
		       .stages = ANY_STAGE,
		       .max_bytes = 64,
		       .body = &wire__stage__descriptor},
	[MSG_DONE] = {.name = "done",
		      .senders = WIRE_TARGET,
		      .stages = ANY_STAGE,
		      .max_bytes = 64,
		      .body = &wire__stage__descriptor},
	[MSG_ABORT] = {.name = "abort",
		       .senders = WIRE_SOURCE | WIRE_TARGET,
		       .stages = ANY_STAGE,
		       .max_bytes = KIB(4),
		       .body = &wire__abort__descriptor},
	[MSG_PROGRESS] = {.name = "progress",
			  .senders = WIRE_TARGET,
			  .stages = ANY_STAGE,
			  .max_bytes = 64,
			  .body = &wire__progress__descriptor},
	[MSG_QUERY] = {.name = "query",
		       .senders = WIRE_SOURCE,
		       .stages = S(HELLO),
		       .max_bytes = 256,
		       .body = &wire__query__descriptor},
	[MSG_ANSWER] = {.name = "answer",
			.senders = WIRE_TARGET,
			.stages = S(HELLO),
			.max_bytes = 256,
			.body = &wire__answer__descriptor},
	[MSG_NEEDS] = {.name = "needs",
		       .senders = WIRE_SOURCE,
		       .stages = S(PREFLIGHT),
		       .max_bytes = MIB(4),
		       .body = &wire__needs__descriptor},
	[MSG_VERDICT] = {.name = "verdict",
			 .senders = WIRE_TARGET,
			 .stages = S(PREFLIGHT),
			 .max_bytes = MIB(4),
			 .body = &wire__verdict__descriptor},
	[MSG_FILE_LIST] = {.name = "file-list",
			   .senders = WIRE_SOURCE,
			   .stages = FILES,
			   .max_bytes = MIB(64),
			   .body = &wire__file_list__descriptor},
	[MSG_FILE_STATES] = {.name = "file-states",
			     .senders = WIRE_TARGET,
			     .stages = FILES,
			     .max_bytes = MIB(64),
			     .body = &wire__file_states__descriptor},
	[MSG_FILE_BEGIN] = {.name = "file-begin",
			    .senders = WIRE_SOURCE,
			    .stages = FILES,
			    .max_bytes = 64,
			    .body = &wire__file_begin__descriptor},
	[MSG_FILE_DATA] = {.name = "file-data",
			   .senders = WIRE_SOURCE,
			   .stages = FILES,
			   .max_bytes = MIB(1) + 8},
	[MSG_FILE_END] = {.name = "file-end",
			  .senders = WIRE_SOURCE,
			  .stages = FILES,
			  .max_bytes = 64,
			  .body = &wire__file_end__descriptor},
	[MSG_FILES_SENT] = {.name = "files-sent", .senders = WIRE_SOURCE, .stages = FILES},
	[MSG_OBJECT] = {.name = "object",
			.senders = WIRE_SOURCE,
			.stages = S(STATE),
			.max_bytes = MIB(256)},
	[MSG_PAGES] = {.name = "pages",
		       .senders = WIRE_SOURCE,
		       .stages = S(STATE),
		       .max_bytes = MIB(1) + 4},
	[MSG_COMPLETE] = {.name = "complete", .senders = WIRE_SOURCE, .stages = S(STATE)},
	[MSG_BUILT] = {.name = "built",
		       .senders = WIRE_TARGET,
		       .stages = S(STATE),
		       .max_bytes = KIB(4),
		       .body = &wire__built__descriptor},
	[MSG_COMMIT] = {.name = "commit",
			.senders = WIRE_SOURCE,
			.stages = S(COMMIT),
			.max_bytes = 256,
			.body = &wire__commit__descriptor},
	[MSG_RUNNING] = {.name = "running",
			 .senders = WIRE_TARGET,
			 .stages = S(COMMIT),
			 .max_bytes = 64,
			 .body = &wire__running__descriptor},
	[MSG_BYE] = {.name = "bye", .senders = WIRE_SOURCE, .stages = S(FAREWELL)},
	[MSG_DOORS] = {.name = "doors",
		       .senders = WIRE_TARGET,
		       .stages = S(LANES) | S(FILES),
		       .max_bytes = KIB(2),
		       .body = &wire__doors__descriptor},
	[MSG_LAZY_LIST] = {.name = "lazy-list",
			   .senders = WIRE_SOURCE,
			   .stages = FILES,
			   .max_bytes = MIB(64),
			   .body = &wire__file_list__descriptor},
	[MSG_LAZY_ROOT] = {.name = "lazy-root", .senders = WIRE_SOURCE, .stages = S(FILES)},
	[MSG_PLAN] = {.name = "plan",
		      .senders = WIRE_SOURCE,
		      .stages = S(LANES),
		      .max_bytes = 64,
		      .body = &wire__plan__descriptor},
	[MSG_ROUND_PAGES] = {.name = "round-pages",
			     .senders = WIRE_SOURCE,
			     .stages = S(PRECOPY),
			     .max_bytes = MIB(1) + 16},
	[MSG_ROUND_END] = {.name = "round-end", .senders = WIRE_SOURCE, .stages = S(PRECOPY)},
	[MSG_TRANSPORT] = {.name = "transport",
			   .senders = WIRE_SOURCE,
			   .stages = S(PREFLIGHT),
			   .max_bytes = 64,
			   .body = &wire__transport__descriptor},
	[MSG_PREPARE] = {.name = "prepare",
			 .senders = WIRE_SOURCE,
			 .stages = S(PREPARE),
			 .max_bytes = PREPARE_PADDING_BYTES + 256,
			 .body = &wire__prepare__descriptor},
	[MSG_PACKED] = {.name = "packed",
			.senders = WIRE_SOURCE,
			.stages = FILES | S(PRECOPY) | S(STATE),
			.max_bytes = PACK_BODY_MAX},
	[MSG_DRAINED] = {.name = "drained",
			 .senders = WIRE_TARGET,
			 .stages = S(POSTCOPY),
			 .max_bytes = 256,
			 .body = &wire__drained__descriptor},
};

static const char *const stage_names[] = {
	[WIRE_STAGE_HELLO] = "hello",       [WIRE_STAGE_PREFLIGHT] = "preflight",
	[WIRE_STAGE_FILES] = "files",       [WIRE_STAGE_LANES] = "lanes",
	[WIRE_STAGE_PRECOPY] = "precopy",   [WIRE_STAGE_PREPARE] = "prepare",
	[WIRE_STAGE_FREEZE] = "freeze",     [WIRE_STAGE_CHANGES] = "changes",
	[WIRE_STAGE_STATE] = "state",       [WIRE_STAGE_COMMIT] = "commit",
	[WIRE_STAGE_POSTCOPY] = "postcopy", [WIRE_STAGE_FAREWELL] = "farewell",
};
static_assert(ARRAY_SIZE(stage_names) == WIRE_STAGES, "every stage has a name");

const struct msg_info *msg_info(uint16_t type)
{
	return type < ARRAY_SIZE(table) && table[type].name ? &table[type] : NULL;
}

int64_t msg_limit(uint16_t type)
{
	const struct msg_info *info = msg_info(type);

	return info ? (int64_t)info->max_bytes : -1;
}

const char *wire_stage_name(enum wire_stage stage)
{
	return stage < WIRE_STAGES ? stage_names[stage] : "unknown";
}

int msg_allowed(uint16_t type, enum wire_side sender, enum wire_stage stage, struct err *err)
{
	const struct msg_info *info = msg_info(type);

	if (!info)
		return err_set(err, EPROTO, "message of unknown type %u", type);
	if (!(info->senders & sender))
		return err_set(err, EPROTO, "message %s: the peer may not send it", info->name);
	if (!(info->stages & (1u << stage)))
		return err_set(err, EPROTO, "message %s: out of order in stage %s", info->name,
			       wire_stage_name(stage));
	return 0;
}

ProtobufCMessage *msg_unpack(uint16_t type, const uint8_t *body, size_t bytes, struct err *err)
{
	const struct msg_info *info = msg_info(type);
	ProtobufCMessage *msg = NULL;

	errno = 0;
	if (info && info->body)
		msg = protobuf_c_message_unpack(info->body, NULL, bytes, body);
	if (!msg && errno == ENOMEM)
		err_nomem(err);
	else if (!msg)
		err_set(err, EPROTO, "message %s: its %zu bytes cannot be decoded",
			info ? info->name : "?", bytes);
	return msg;
}

int wire_token_valid(const char *token)
{
	return strlen(token) == WIRE_TOKEN_CHARS &&
	       strspn(token, "0123456789abcdef") == WIRE_TOKEN_CHARS;
}

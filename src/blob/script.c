// SPDX-License-Identifier: Apache-2.0
#include "blob/script.h"

#include <errno.h>
#include <string.h>

void script_init(struct script *s, void *ours, uint64_t theirs, size_t bytes)
{
	s->ours = ours;
	s->theirs = theirs;
	s->bytes = bytes & ~(size_t)15;
	script_reset(s);
}

void script_reset(struct script *s)
{
	s->low = 0;
	s->high = s->bytes;
	s->n_ops = 0;
	s->overflow = false;
}

bool script_has_room(const struct script *s, unsigned int n_ops, size_t data_bytes)
{
	size_t need = n_ops * sizeof(struct blob_op) + data_bytes + 64;

	return !s->overflow && s->n_ops + n_ops <= SCRIPT_MAX_OPS && s->high - s->low >= need;
}

unsigned int script_op(struct script *s, const char *label, int64_t nr, enum blob_expect expect,
		       int64_t want, const struct script_arg *args, unsigned int n_args)
{
	struct blob_op *op = (struct blob_op *)(s->ours + s->low);
	unsigned int i;

	if (s->overflow || s->n_ops == SCRIPT_MAX_OPS || s->high - s->low < sizeof(*op)) {
		s->overflow = true;
		return 0;
	}
	memset(op, 0, sizeof(*op));
	op->nr = nr;
	op->expect = (uint8_t)expect;
	op->want = want;
	for (i = 0; i < n_args && i < ARRAY_SIZE(op->arg); i++) {
		op->arg[i] = args[i].v;
		op->arg_kind[i] = (uint8_t)args[i].kind;
	}
	s->label[s->n_ops] = label;
	s->low += sizeof(*op);
	return s->n_ops++;
}

uint64_t script_data(struct script *s, const void *data, size_t bytes)
{
	size_t need = (bytes + 15) & ~(size_t)15;

	if (s->overflow || need < bytes || s->high - s->low < need) {
		s->overflow = true;
		return s->theirs; /* a valid address; the script will not be run */
	}
	s->high -= need;
	if (data)
		memcpy(s->ours + s->high, data, bytes);
	else
		memset(s->ours + s->high, 0, bytes);
	return s->theirs + s->high;
}

uint64_t script_string(struct script *s, const char *text)
{
	return script_data(s, text, strlen(text) + 1);
}

void *script_ptr(const struct script *s, uint64_t theirs)
{
	return s->ours + (theirs - s->theirs);
}

int64_t script_result(const struct script *s, unsigned int op)
{
	return ((const struct blob_op *)s->ours)[op].result;
}

int script_error(const struct script *s, const struct blob_slot *slot, struct err *err)
{
	unsigned int i = slot->failed - 1;
	int64_t res;

	if (slot->failed == 0 || i >= s->n_ops)
		return err_set(err, EIO, "the task answered that operation %u of %u failed", i,
			       s->n_ops);
	res = script_result(s, i);
	if ((uint64_t)res >= (uint64_t)-4095)
		return err_sysno(err, (int)-res, "cannot %s", s->label[i]);
	return err_set(err, EPROTO, "cannot %s: unexpected result %lld", s->label[i], (long long)res);
}

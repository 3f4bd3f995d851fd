// SPDX-License-Identifier: Apache-2.0
#include "migrate/source.h"
#include "migrate/target.h"

int source_precopy(struct source *s, struct err *err)
{
	return 0;
}

void source_undo_precopy(struct source *s)
{
}

int target_precopy(struct target *t, struct err *err)
{
	return 0;
}

void target_undo_precopy(struct target *t)
{
}

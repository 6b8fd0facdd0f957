/* SPDX-License-Identifier: BSD-3-Clause
 * Every driver and filter, by name. A new one is a file and a row here. */
#include <string.h>

#include "block/blk.h"
#include "block/driver/driver.h"
#include "block/filter/filter.h"

const struct blk_ops *const blk_registry[] = {
	&blk_ram,
	&blk_file,
	&blk_block,
	&blk_null,
	&blk_fault,
	&blk_delay,
	&blk_crash,
	&blk_integrity,
	NULL,
};

const struct blk_ops *blk_find(const char *name)
{
	for (const struct blk_ops *const *o = blk_registry; *o; o++)
		if (strcmp((*o)->name, name) == 0)
			return *o;
	return NULL;
}

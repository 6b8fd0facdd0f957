/* SPDX-License-Identifier: BSD-3-Clause
 * Every driver and filter, by name. A new one is a file and a row here; one that needs a higher layer is added by it. */
#include <string.h>

#include "base/check.h"
#include "block/blk.h"
#include "block/driver/driver.h"
#include "block/filter/filter.h"

const struct blk_ops *blk_registry[BLK_KINDS_MAX + 1] = {
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
	for (const struct blk_ops **o = blk_registry; *o; o++)
		if (strcmp((*o)->name, name) == 0)
			return *o;
	return NULL;
}

void blk_register(const struct blk_ops *ops)
{
	unsigned n = 0;

	while (blk_registry[n] && blk_registry[n] != ops)
		n++;
	CHECK(n < BLK_KINDS_MAX);
	blk_registry[n] = ops;
}

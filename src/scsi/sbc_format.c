/* SPDX-License-Identifier: BSD-3-Clause */
#include "scsi/sbc.h"

uint8_t format_load(struct lu *lu)
{
	uint8_t type;

	if (lu->store->load && lu->store->load(lu->store->ctx, lu->id, "format", &type, 1) == 1 && type <= 3)
		return type;
	return (uint8_t)lu->conf.pi;
}

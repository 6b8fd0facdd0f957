/* SPDX-License-Identifier: BSD-3-Clause
 * WRITE ATOMIC (16) (SBC-4 4.29, 5.48): nobody sees part of it, and after a crash all of it is there or nothing.
 * The first by a freeze of its range, the second by the stack below, which says up to what length it can
 * (blk.untorn_bytes). A boundary may be given; the write is one operation all the same. On the command's loop. */
#include "scsi/sbc.h"

enum { AT_LEN = 3 }; /* scratch: bytes, while the command waits for its freeze */
enum { BOUNDARY_AT = 10, LENGTH_AT = 12 };

uint32_t sbc_atomic_max(const struct lu_loop *ll)
{
	const struct blk *b = ll->pub.blk;

	return b ? MIN(b->untorn_bytes, (uint32_t)SBC_STEP) >> ll->shift : 0;
}

bool sbc_atomic_offered(const struct scsi_cmd *c)
{
	return sbc_atomic_max(c->ll);
}

int64_t sbc_atomic_prepare(struct scsi_cmd *c)
{
	uint32_t max = sbc_atomic_max(c->ll);

	if (!max)
		scsi_reply_sense(c, SENSE_INVALID_OPCODE);
	else if (c->nblk > max)
		scsi_reply_field(c, SENSE_INVALID_FIELD, LENGTH_AT, -1);
	else if (be16(c->cdb + BOUNDARY_AT) > max)
		scsi_reply_field(c, SENSE_INVALID_FIELD, BOUNDARY_AT, -1);
	else
		return (int64_t)c->len;
	return -1;
}

static void written(struct scsi_cmd *c)
{
	c->status = SCSI_GOOD;
	scsi_end(c);
}

static void granted(struct lu_freeze *fz)
{
	struct scsi_cmd *c = lu_freeze_own(fz);

	if (c->must_abort)
		return; /* its end is on its way, and thaws */
	c->state = SCSI_CMD_RUNNING;
	c->len = c->scratch[AT_LEN];
	sbc_write_then(c, BLK_ATOMIC | sbc_write_flags(c), written);
}

void sbc_atomic(struct scsi_cmd *c)
{
	if (!c->len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (c->out_len < c->len) { /* part of it is not what was asked for */
		scsi_reply_field(c, SENSE_INVALID_FIELD, LENGTH_AT, -1);
		return;
	}
	c->scratch[AT_LEN] = c->len;
	c->len = 0; /* while it waits no freeze waits for it */
	c->state = SCSI_CMD_FREEZING;
	c->freeze = lu_freeze(c->ll, c->off, c->scratch[AT_LEN], c, granted);
	if (!c->freeze) {
		c->state = SCSI_CMD_RUNNING;
		scsi_reply(c, SCSI_BUSY);
	}
}

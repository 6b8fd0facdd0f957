/* SPDX-License-Identifier: BSD-3-Clause
 * The medium as a thing: START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, PRE-FETCH (SBC-4 5.31, 5.15, 5.13). On
 * the command's loop; ejecting and preventing are decided on the unit's home. */
#include "scsi/sbc.h"

/* --- PRE-FETCH --- */

enum { FETCHED, FETCH_STEP = 512 << 10, IMMED = 0x02 }; /* scratch: bytes read so far */

static void fetch_step(struct scsi_cmd *c);

static void fetch_end(struct scsi_cmd *c)
{
	c->status = SCSI_GOOD; /* not CONDITION MET: nobody promises that they stay in the page cache */
	scsi_end(c);
}

static void fetch_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	scsi_pages_put(c->loop, c->iov, io->req.niov);
	if (io->status < 0) {
		sbc_fail(c, false);
		return;
	}
	c->scratch[FETCHED] += io->req.len;
	if (c->scratch[FETCHED] == c->len || c->must_abort)
		fetch_end(c);
	else
		fetch_step(c);
}

static void fetch_step(struct scsi_cmd *c)
{
	uint64_t at = c->scratch[FETCHED];

	c->io.req = (struct blk_req){ .op = BLK_READ, .flags = BLK_LEND, .off = c->off + at,
		.len = MIN(c->len - at, (uint64_t)FETCH_STEP), .iov = c->iov, .niov = c->iov_max };
	sbc_submit(c, fetch_done);
}

/* Reads the blocks through the page cache and drops them, up to what VPD B0 says. Where there is nothing to bring nearer, or
 * the command is not to wait, GOOD says that not all blocks were fetched (SBC-4 5.13). */
void sbc_prefetch(struct scsi_cmd *c)
{
	struct blk *b = c->ll->pub.blk;

	if (!c->nblk)
		c->len = (c->ll->pub.nblk - c->lba) << c->ll->shift;
	c->len = MIN(c->len, (uint64_t)LIM_TRANSFER);
	c->scratch[FETCHED] = 0;
	if (!c->len || (c->cdb[1] & IMMED) || (b->caps & BLK_VOLATILE) || !(b->caps & BLK_CAN_LEND) ||
	    scsi_iov_reserve(c, FETCH_STEP / PAGE_BYTES + 1)) {
		c->len = 0;
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	fetch_step(c);
}

/* --- START STOP UNIT --- */

enum { START = 0x01, LOEJ = 0x02, NO_FLUSH = 0x04 };

static void run_load_eject(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct lu_pub *p = &j->lu->pub;
	bool load = c->cdb[4] & START;

	if (load == p->ejected && j->lu->npreventers) { /* it would move */
		scsi_job_sense(j, SENSE(5, 0x53, 0x02), -1); /* medium removal prevented */
		lu_job_end(j);
		return;
	}
	if (load && p->ejected) {
		j->ua = UA_MEDIUM_CHANGED;
		j->ua_except = c->nexus->id;
	}
	p->ejected = !load;
	lu_publish(j);
}

static void flushed(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (io->status < 0) {
		sbc_fail(c, true);
	} else if (c->cdb[4] & LOEJ) {
		scsi_job(c, run_load_eject);
	} else {
		c->status = SCSI_GOOD;
		scsi_end(c);
	}
}

/* There is no motor: stopping flushes, starting does nothing. With a power condition START and LOEJ mean
 * nothing. IMMED may be ignored. */
void sbc_start_stop(struct scsi_cmd *c)
{
	bool start = c->cdb[4] & START, loej = c->cdb[4] & LOEJ;
	struct blk *b = c->ll->pub.blk;

	if (c->cdb[4] >> 4) {
		scsi_reply(c, SCSI_GOOD);
	} else if (loej && !c->lu->conf.removable) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 4, 1);
	} else if (!start && !(c->cdb[4] & NO_FLUSH) && b && !(b->caps & BLK_READ_ONLY)) {
		sbc_flush(c, flushed);
	} else if (loej) {
		scsi_job(c, run_load_eject);
	} else {
		scsi_reply(c, SCSI_GOOD);
	}
}

/* --- PREVENT ALLOW MEDIUM REMOVAL --- */

static void run_prevent(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);

	if (lu_prevent(j->lu, c->nexus->id, c->cdb[4] & 1))
		scsi_job_status(j, SCSI_BUSY);
	lu_job_end(j);
}

void sbc_prevent_allow(struct scsi_cmd *c)
{
	struct itl *itl = scsi_itl(c);

	if (itl)
		itl->prevents = c->cdb[4] & 1; /* nexus loss must then allow it again */
	scsi_job(c, run_prevent);
}

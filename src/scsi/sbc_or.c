/* SPDX-License-Identifier: BSD-3-Clause
 * ORWRITE (16) (SBC-4 5.11) and READ DEFECT DATA (SBC-4 5.22, 5.23). ORWRITE freezes its range on every loop, reads it,
 * ORs it into its data-out and writes that: atomic against every other command. On the command's loop. */
#include "scsi/sbc.h"

enum { OR_AT = 3, OR_LEN = 4, OR_IOV = 5 }; /* scsi_cmd.scratch: bytes read so far, all of them, a page of segments */
enum { OR_STEP = 512 << 10, OR_NIOV = 256 };

static struct iovec *or_iov(const struct scsi_cmd *c)
{
	return (struct iovec *)(uintptr_t)c->scratch[OR_IOV];
}

static void or_bytes(uint8_t *to, const uint8_t *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] |= from[i];
}

/* ORs what was read into the data-out at byte `at`; both are vectors of pages. */
static void or_into(struct scsi_cmd *c, size_t at, const struct iovec *v, int n)
{
	for (int i = 0; i < n; i++)
		for (size_t done = 0; done < v[i].iov_len;) {
			struct iovec *to = &c->iov[at / PAGE_BYTES]; /* data-out: full pages but for the last */
			size_t off = at % PAGE_BYTES, part = MIN(v[i].iov_len - done, PAGE_BYTES - off);
			or_bytes((uint8_t *)to->iov_base + off, (const uint8_t *)v[i].iov_base + done, part);
			done += part;
			at += part;
		}
}

static void or_step(struct scsi_cmd *c);

static void or_end(struct scsi_cmd *c)
{
	page_put(loop_pages(c->loop), or_iov(c));
}

static void or_read(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (io->status < 0 || c->must_abort) {
		scsi_pages_put(c->loop, or_iov(c), io->req.niov);
		or_end(c);
		sbc_fail(c, false);
		return;
	}
	or_into(c, c->scratch[OR_AT], io->req.iov, io->req.niov);
	scsi_pages_put(c->loop, or_iov(c), io->req.niov);
	c->scratch[OR_AT] += io->req.len;
	or_step(c);
}

static void or_step(struct scsi_cmd *c)
{
	uint64_t left = c->len - c->scratch[OR_AT], step = MIN(left, (uint64_t)OR_STEP);
	bool lend = c->ll->pub.blk->caps & BLK_CAN_LEND;
	int n = lend || !step ? OR_NIOV : scsi_pages_get(c->loop, or_iov(c), step);

	if (!step) {
		or_end(c);
		sbc_write(c);
		return;
	}
	if (n < 0) {
		or_end(c);
		scsi_end_sense(c, SENSE(0xb, 0x55, 0x03));
		return;
	}
	c->io.req = (struct blk_req){ .op = BLK_READ, .flags = lend ? BLK_LEND : 0, .off = c->off + c->scratch[OR_AT],
		.len = step, .iov = or_iov(c), .niov = n };
	sbc_submit(c, or_read);
}

static void or_granted(struct lu_freeze *fz)
{
	struct scsi_cmd *c = lu_freeze_own(fz);

	if (c->must_abort)
		return; /* its end is on its way, and thaws */
	c->state = SCSI_CMD_RUNNING;
	c->len = c->scratch[OR_LEN];
	void *p = page_get(loop_pages(c->loop));
	if (!p) {
		scsi_end_sense(c, SENSE(0xb, 0x55, 0x03));
		return;
	}
	c->scratch[OR_IOV] = (uintptr_t)p;
	c->scratch[OR_AT] = 0;
	or_step(c);
}

void sbc_orwrite(struct scsi_cmd *c)
{
	uint64_t bs = 1ull << c->ll->shift;

	c->scratch[OR_LEN] = MIN(c->len, c->out_len & ~(bs - 1)); /* what came of it, in whole blocks */
	if (!c->scratch[OR_LEN]) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	c->len = 0; /* while it waits no freeze waits for it */
	c->state = SCSI_CMD_FREEZING;
	c->freeze = lu_freeze(c->ll, c->off, c->scratch[OR_LEN], c, or_granted);
	if (!c->freeze) {
		c->state = SCSI_CMD_RUNNING;
		scsi_reply(c, SCSI_BUSY);
	}
}

/* There is no defect list: both lists are valid and empty, in the format asked for. */
void sbc_defects(struct scsi_cmd *c)
{
	bool ten = c->cdb[0] == 0x37;
	uint8_t p[8] = { 0 };

	p[1] = ten ? c->cdb[2] & 0x1f : c->cdb[1] & 0x1f; /* REQ_PLIST, REQ_GLIST, format */
	scsi_reply_data(c, p, ten ? 4 : 8);
}

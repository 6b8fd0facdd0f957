/* SPDX-License-Identifier: BSD-3-Clause
 * Block commands (SBC-4 5): reads, writes, capacity, flush, and the table of all of them. Data moves in
 * requests of at most 1 MiB, one after the other. On the command's loop. */
#include "scsi/priv.h"
#include "scsi/sbc.h"

/* --- requests below --- */

/* Sends c->io.req down; done runs from the loop's queue. */
void sbc_submit(struct scsi_cmd *c, blk_done_fn *done)
{
	c->io.loop = c->loop;
	blk_submit(c->ll->pub.blk, &c->io, done, c);
}

/* Ends a command whose request failed. */
void sbc_fail(struct scsi_cmd *c, bool writes)
{
	sense_from_errno(c, c->io.status, writes, c->io.fail_off);
	scsi_end(c);
}

void sbc_flush(struct scsi_cmd *c, blk_done_fn *done)
{
	c->io.req = (struct blk_req){ .op = BLK_FLUSH };
	sbc_submit(c, done);
}

/* --- READ --- */

enum { PROGRESS, TOTAL, FLAGS }; /* scratch: bytes done, bytes to do, a write's flags */

static void read_step(struct scsi_cmd *c);

static void read_finish(struct scsi_cmd *c)
{
	c->in_len = (uint32_t)MIN(c->want_in, c->room_in);
	if (unlikely(c->in_len < c->scratch[TOTAL]))
		scsi_data_trim(c, c->in_len);
	c->status = SCSI_GOOD;
	scsi_end(c);
}

static void read_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (unlikely(io->status < 0)) {
		sbc_fail(c, false); /* a failed request has lent nothing */
		return;
	}
	if (io->req.flags & BLK_LEND)
		c->niov += io->req.niov;
	c->scratch[PROGRESS] += io->req.len;
	if (likely(c->scratch[PROGRESS] == c->scratch[TOTAL]))
		read_finish(c);
	else if (unlikely(c->must_abort))
		scsi_end(c);
	else
		read_step(c);
}

static void read_step(struct scsi_cmd *c)
{
	struct blk_req *r = &c->io.req;
	uint64_t done = c->scratch[PROGRESS];

	r->op = BLK_READ;
	r->flags = c->ll->pub.blk->caps & BLK_CAN_LEND ? BLK_LEND | (c->send_only ? BLK_SEND : 0u) : 0;
	r->off = c->off + done;
	r->len = MIN(c->scratch[TOTAL] - done, (uint64_t)SBC_STEP);
	if (r->flags) {
		r->iov = c->iov + c->niov;
		r->niov = c->iov_max - c->niov;
	} else {
		r->iov = c->iov + done / PAGE_BYTES;
		r->niov = (int)((r->len + PAGE_BYTES - 1) / PAGE_BYTES);
	}
	if (c->op->cdb_len > 6 && (c->cdb[1] & 0x10))
		r->flags |= BLK_DPO;
	sbc_submit(c, read_done);
}

/* Room for what will be read: entries only when the driver lends its pages, else pages. */
static int read_room(struct scsi_cmd *c, uint64_t len)
{
	if (unlikely(c->niov))
		scsi_data_free(c); /* data that came with a read */
	if (likely(c->ll->pub.blk->caps & BLK_CAN_LEND)) {
		uint64_t pages = ((c->off & (PAGE_BYTES - 1)) + len + PAGE_BYTES - 1) / PAGE_BYTES;
		return scsi_iov_reserve(c, (unsigned)(pages + len / SBC_STEP)); /* a page may be cut by two requests */
	}
	return scsi_data_alloc(c, (uint32_t)len);
}

static void read_flushed(struct blk_io *io, void *ctx)
{
	if (io->status < 0)
		sbc_fail(ctx, true);
	else
		read_step(ctx);
}

void sbc_read(struct scsi_cmd *c)
{
	uint64_t len = c->len, bs = 1ull << c->ll->shift;
	int e;

	c->want_in = len;
	if (unlikely(len > c->room_in))
		len = (c->room_in + bs - 1) & ~(bs - 1);
	if (unlikely(!len)) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	c->scratch[PROGRESS] = 0;
	c->scratch[TOTAL] = len;
	e = read_room(c, len);
	if (unlikely(e)) {
		sense_from_errno(c, e, false, UINT64_MAX);
		scsi_reply(c, SCSI_CHECK_CONDITION);
		return;
	}
	/* FUA: from the medium; what only a cache holds is written to it first (SBC-4 5.16). */
	if (unlikely(c->op->cdb_len > 6 && (c->cdb[1] & 0x08) && (c->ll->pub.blk->caps & BLK_WRITE_CACHE)))
		sbc_flush(c, read_flushed);
	else
		read_step(c);
}

/* --- WRITE --- */

static void write_step(struct scsi_cmd *c);

static void write_finish(struct scsi_cmd *c)
{
	if (unlikely(c->resume != NULL)) {
		c->resume(c);
		return;
	}
	c->status = SCSI_GOOD;
	scsi_end(c);
}

static void write_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (unlikely(io->status < 0)) {
		sbc_fail(c, true);
		return;
	}
	c->scratch[PROGRESS] += io->req.len;
	if (likely(c->scratch[PROGRESS] == c->scratch[TOTAL])) {
		write_finish(c);
	} else if (unlikely(c->must_abort)) {
		scsi_end(c);
	} else {
		write_step(c);
	}
}

static void write_step(struct scsi_cmd *c)
{
	struct blk_req *r = &c->io.req;
	uint64_t done = c->scratch[PROGRESS];

	r->op = BLK_WRITE;
	r->flags = (uint32_t)c->scratch[FLAGS];
	r->off = c->off + done;
	r->len = MIN(c->scratch[TOTAL] - done, (uint64_t)SBC_STEP);
	r->iov = c->iov + done / PAGE_BYTES;
	r->niov = (int)((r->len + PAGE_BYTES - 1) / PAGE_BYTES);
	sbc_submit(c, write_done);
}

uint32_t sbc_write_flags(const struct scsi_cmd *c)
{
	uint32_t flags = c->ll->pub.wce ? 0 : BLK_FUA;

	if (c->op->cdb_len > 6)
		flags |= (c->cdb[1] & 0x08 ? BLK_FUA : 0u) | (c->cdb[1] & 0x10 ? BLK_DPO : 0u);
	return flags;
}

/* Only whole blocks that arrived are written. */
static inline void write_start(struct scsi_cmd *c, uint32_t flags)
{
	uint64_t len = c->out_len & ~((1ull << c->ll->shift) - 1);

	if (unlikely(len != c->out_len))
		scsi_data_trim(c, len);
	if (unlikely(!len)) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	c->len = len;
	c->scratch[PROGRESS] = 0;
	c->scratch[TOTAL] = len;
	c->scratch[FLAGS] = BLK_PAGES | flags;
	write_step(c);
}

void sbc_write(struct scsi_cmd *c)
{
	c->resume = NULL;
	write_start(c, sbc_write_flags(c));
}

void sbc_write_then(struct scsi_cmd *c, uint32_t flags, void (*fn)(struct scsi_cmd *c))
{
	c->resume = fn;
	write_start(c, flags | (c->cdb[1] & 0x10 ? BLK_DPO : 0u));
}

/* --- SYNCHRONIZE CACHE --- */

static void sync_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (io->status < 0) {
		sbc_fail(c, true);
		return;
	}
	c->status = SCSI_GOOD;
	scsi_end(c);
}

/* IMMED may be ignored: status after the flush is the stronger promise. */
static void sbc_sync(struct scsi_cmd *c)
{
	c->len = 0; /* no range on the medium of its own */
	sbc_flush(c, sync_done);
}

/* --- READ CAPACITY --- */

static void sbc_capacity10(struct scsi_cmd *c)
{
	uint64_t last = c->ll->pub.nblk ? c->ll->pub.nblk - 1 : 0;
	uint8_t p[8];

	put_be32(p, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
	put_be32(p + 4, 1u << c->ll->shift);
	scsi_reply_data(c, p, sizeof(p));
}

static void sbc_capacity16(struct scsi_cmd *c)
{
	uint8_t p[32] = { 0 };

	put_be64(p, c->ll->pub.nblk ? c->ll->pub.nblk - 1 : 0);
	put_be32(p + 8, 1u << c->ll->shift);
	if (c->ll->pub.pi_type)
		p[12] = (uint8_t)((c->ll->pub.pi_type - 1) << 1 | 1); /* P_TYPE, PROT_EN; an interval is a block */
	p[13] = (uint8_t)__builtin_ctz(c->ll->pub.pbs >> c->ll->shift); /* LBPPBE */
	p[14] = c->ll->pub.thin ? 0xc0 : 0; /* LBPME, LBPRZ */
	scsi_reply_data(c, p, sizeof(p));
}

/* --- the table --- */

#define F2 0xff, 0xff
#define F4 F2, F2
#define F8 F4, F4
#define RD (SCSI_IN | SCSI_MEDIUM | SCSI_PR_READ | SCSI_BLOCKS)
#define WR (SCSI_OUT | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE | SCSI_BLOCKS)
#define VERIFY (SCSI_OUT | SCSI_MEDIUM | SCSI_PR_READ)
#define SYNC (SCSI_MEDIUM | SCSI_PR_WRITE)

const struct scsi_op sbc_ops[] = {
	{ .opcode = 0x08, .name = "READ (6)", .spec = "SBC-3 5.7", .cdb_len = 6, .flags = RD, .exec = sbc_read,
	  .lba = { 1, 3 }, .nblk = { 4, 1 }, .usage = { 0x08, 0x1f, F2, 0xff } },
	{ .opcode = 0x28, .name = "READ (10)", .spec = "SBC-4 5.16", .cdb_len = 10, .flags = RD, .exec = sbc_read,
	  .lba = { 2, 4 }, .nblk = { 7, 2 }, .usage = { 0x28, 0x18, F4, 0x3f, F2 } },
	{ .opcode = 0xa8, .name = "READ (12)", .spec = "SBC-4 5.17", .cdb_len = 12, .flags = RD, .exec = sbc_read,
	  .lba = { 2, 4 }, .nblk = { 6, 4 }, .usage = { 0xa8, 0x18, F4, F4, 0x3f } },
	{ .opcode = 0x88, .name = "READ (16)", .spec = "SBC-4 5.18", .cdb_len = 16, .flags = RD, .exec = sbc_read,
	  .lba = { 2, 8 }, .nblk = { 10, 4 }, .usage = { 0x88, 0x18, F8, F4, 0x3f } },
	{ .opcode = 0x0a, .name = "WRITE (6)", .spec = "SBC-3 5.31", .cdb_len = 6, .flags = WR, .exec = sbc_write,
	  .lba = { 1, 3 }, .nblk = { 4, 1 }, .usage = { 0x0a, 0x1f, F2, 0xff } },
	{ .opcode = 0x2a, .name = "WRITE (10)", .spec = "SBC-4 5.40", .cdb_len = 10, .flags = WR,
	  .exec = sbc_write, .lba = { 2, 4 }, .nblk = { 7, 2 }, .usage = { 0x2a, 0x18, F4, 0x3f, F2 } },
	{ .opcode = 0xaa, .name = "WRITE (12)", .spec = "SBC-4 5.41", .cdb_len = 12, .flags = WR,
	  .exec = sbc_write, .lba = { 2, 4 }, .nblk = { 6, 4 }, .usage = { 0xaa, 0x18, F4, F4, 0x3f } },
	{ .opcode = 0x8a, .name = "WRITE (16)", .spec = "SBC-4 5.42", .cdb_len = 16, .flags = WR,
	  .exec = sbc_write, .lba = { 2, 8 }, .nblk = { 10, 4 }, .usage = { 0x8a, 0x18, F8, F4, 0x3f } },
	{ .opcode = 0x35, .name = "SYNCHRONIZE CACHE (10)", .spec = "SBC-4 5.33", .cdb_len = 10, .flags = SYNC,
	  .exec = sbc_sync, .lba = { 2, 4 }, .nblk = { 7, 2 }, .usage = { 0x35, 0x06, F4, 0x3f, F2 } },
	{ .opcode = 0x91, .name = "SYNCHRONIZE CACHE (16)", .spec = "SBC-4 5.34", .cdb_len = 16, .flags = SYNC,
	  .exec = sbc_sync, .lba = { 2, 8 }, .nblk = { 10, 4 }, .usage = { 0x91, 0x06, F8, F4, 0x3f } },
	{ .opcode = 0x25, .name = "READ CAPACITY (10)", .spec = "SBC-4 5.20", .cdb_len = 10,
	  .flags = SCSI_IN | SCSI_MEDIUM | SCSI_PR_FREE, .exec = sbc_capacity10, .usage = { 0x25 } },
	{ .opcode = 0x9e, .action = 0x10, .name = "READ CAPACITY (16)", .spec = "SBC-4 5.21", .cdb_len = 16,
	  .flags = SCSI_IN | SCSI_SA | SCSI_MEDIUM | SCSI_PR_FREE, .alloc = { 10, 4 }, .exec = sbc_capacity16,
	  .usage = { 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F4 } },
	{ .opcode = 0x2f, .name = "VERIFY (10)", .spec = "SBC-4 5.36", .cdb_len = 10, .flags = VERIFY,
	  .prepare = sbc_verify_prepare, .exec = sbc_verify, .lba = { 2, 4 }, .nblk = { 7, 2 },
	  .usage = { 0x2f, 0x16, F4, 0x3f, F2 } },
	{ .opcode = 0xaf, .name = "VERIFY (12)", .spec = "SBC-4 5.37", .cdb_len = 12, .flags = VERIFY,
	  .prepare = sbc_verify_prepare, .exec = sbc_verify, .lba = { 2, 4 }, .nblk = { 6, 4 },
	  .usage = { 0xaf, 0x16, F4, F4, 0x3f } },
	{ .opcode = 0x8f, .name = "VERIFY (16)", .spec = "SBC-4 5.38", .cdb_len = 16, .flags = VERIFY,
	  .prepare = sbc_verify_prepare, .exec = sbc_verify, .lba = { 2, 8 }, .nblk = { 10, 4 },
	  .usage = { 0x8f, 0x16, F8, F4, 0x3f } },
	{ .opcode = 0x2e, .name = "WRITE AND VERIFY (10)", .spec = "SBC-4 5.44", .cdb_len = 10, .flags = WR,
	  .prepare = sbc_write_verify_prepare, .exec = sbc_write_verify, .lba = { 2, 4 }, .nblk = { 7, 2 },
	  .usage = { 0x2e, 0x16, F4, 0x3f, F2 } },
	{ .opcode = 0xae, .name = "WRITE AND VERIFY (12)", .spec = "SBC-4 5.45", .cdb_len = 12, .flags = WR,
	  .prepare = sbc_write_verify_prepare, .exec = sbc_write_verify, .lba = { 2, 4 }, .nblk = { 6, 4 },
	  .usage = { 0xae, 0x16, F4, F4, 0x3f } },
	{ .opcode = 0x8e, .name = "WRITE AND VERIFY (16)", .spec = "SBC-4 5.46", .cdb_len = 16, .flags = WR,
	  .prepare = sbc_write_verify_prepare, .exec = sbc_write_verify, .lba = { 2, 8 }, .nblk = { 10, 4 },
	  .usage = { 0x8e, 0x16, F8, F4, 0x3f } },
	{ .opcode = 0x89, .name = "COMPARE AND WRITE", .spec = "SBC-4 5.3", .cdb_len = 16,
	  .flags = WR & ~SCSI_BLOCKS, .prepare = sbc_caw_prepare, .exec = sbc_caw, .lba = { 2, 8 },
	  .nblk = { 13, 1 }, .usage = { 0x89, 0x18, F8, 0, 0, 0, 0xff, 0x3f } },
	{ .opcode = 0x9c, .name = "WRITE ATOMIC (16)", .spec = "SBC-4 5.48", .cdb_len = 16, .flags = WR,
	  .prepare = sbc_atomic_prepare, .offered = sbc_atomic_offered, .exec = sbc_atomic, .lba = { 2, 8 }, .nblk = { 12, 2 },
	  .usage = { 0x9c, 0x18, F8, F4, 0x3f } },
	{ .opcode = 0x41, .name = "WRITE SAME (10)", .spec = "SBC-4 5.52", .cdb_len = 10,
	  .flags = WR & ~SCSI_BLOCKS, .prepare = sbc_write_same_prepare, .exec = sbc_write_same, .lba = { 2, 4 },
	  .nblk = { 7, 2 }, .usage = { 0x41, 0x08, F4, 0x3f, F2 } },
	{ .opcode = 0x93, .name = "WRITE SAME (16)", .spec = "SBC-4 5.53", .cdb_len = 16,
	  .flags = WR & ~SCSI_BLOCKS, .prepare = sbc_write_same_prepare, .exec = sbc_write_same, .lba = { 2, 8 },
	  .nblk = { 10, 4 }, .usage = { 0x93, 0x09, F8, F4, 0x3f } },
	{ .opcode = 0x42, .name = "UNMAP", .spec = "SBC-4 5.35", .cdb_len = 10, .flags = WR & ~SCSI_BLOCKS,
	  .offered = sbc_unmap_offered, .prepare = sbc_unmap_prepare, .exec = sbc_unmap, .param = { 7, 2 },
	  .usage = { 0x42, 0, 0, 0, 0, 0, 0x3f, F2 } },
	{ .opcode = 0x9e, .action = 0x12, .name = "GET LBA STATUS (16)", .spec = "SBC-4 5.6", .cdb_len = 16,
	  .flags = SCSI_IN | SCSI_SA | SCSI_MEDIUM | SCSI_PR_READ, .lba = { 2, 8 }, .alloc = { 10, 4 },
	  .exec = sbc_lba_status, .usage = { 0x9e, 0x12, F8, F4, 0xff } },
	{ .opcode = 0x8b, .name = "ORWRITE (16)", .spec = "SBC-4 5.11", .cdb_len = 16, .flags = WR,
	  .exec = sbc_orwrite, .lba = { 2, 8 }, .nblk = { 10, 4 }, .usage = { 0x8b, 0x18, F8, F4, 0x3f } },
	{ .opcode = 0x37, .name = "READ DEFECT DATA (10)", .spec = "SBC-4 5.22", .cdb_len = 10,
	  .flags = SCSI_IN | SCSI_MEDIUM | SCSI_PR_READ, .alloc = { 7, 2 }, .exec = sbc_defects,
	  .usage = { 0x37, 0, 0x1f, 0, 0, 0, 0, F2 } },
	{ .opcode = 0xb7, .name = "READ DEFECT DATA (12)", .spec = "SBC-4 5.23", .cdb_len = 12,
	  .flags = SCSI_IN | SCSI_MEDIUM | SCSI_PR_READ, .alloc = { 6, 4 }, .exec = sbc_defects,
	  .usage = { 0xb7, 0x1f, F4, F4 } },
	{ .opcode = 0x34, .name = "PRE-FETCH (10)", .spec = "SBC-4 5.13", .cdb_len = 10,
	  .flags = SCSI_MEDIUM | SCSI_PR_READ, .exec = sbc_prefetch, .lba = { 2, 4 }, .nblk = { 7, 2 },
	  .usage = { 0x34, 0x02, F4, 0x3f, F2 } },
	{ .opcode = 0x90, .name = "PRE-FETCH (16)", .spec = "SBC-4 5.14", .cdb_len = 16,
	  .flags = SCSI_MEDIUM | SCSI_PR_READ, .exec = sbc_prefetch, .lba = { 2, 8 }, .nblk = { 10, 4 },
	  .usage = { 0x90, 0x02, F8, F4, 0x3f } },
	{ .opcode = 0x1b, .name = "START STOP UNIT", .spec = "SBC-4 5.31", .cdb_len = 6,
	  .flags = SCSI_PR_WRITE | SCSI_PR_START, .exec = sbc_start_stop,
	  .usage = { 0x1b, 0x01, 0, 0x0f, 0xf7 } },
	{ .opcode = 0x1e, .name = "PREVENT ALLOW MEDIUM REMOVAL", .spec = "SBC-4 5.15", .cdb_len = 6,
	  .flags = SCSI_PR_WRITE | SCSI_PR_START, .exec = sbc_prevent_allow, .usage = { 0x1e, 0, 0, 0, 0x01 } },
	{ .name = NULL },
};

/* SPDX-License-Identifier: BSD-3-Clause
 * Commands that read the medium to look at it: VERIFY, WRITE AND VERIFY, COMPARE AND WRITE (SBC-4 5.3, 5.36 ff,
 * 5.46 ff). What is read goes through a side vector, step by step, and is compared with the data-out pages.
 * On the command's loop. */
#include "scsi/sbc.h"

enum { AT, SIDE, NSIDE, BYTCHK, LEN }; /* scratch: bytes looked at; side vector, its entries; mode; CAW's length */
enum { CHECK_NONE = 0, CHECK_ALL = 1, CHECK_ONE = 3 }; /* BYTCHK: nothing, all blocks, each against one block */
enum { STEP = 512 << 10 };       /* with lent pages at most 129 entries: fits a page */

static struct iovec *side(const struct scsi_cmd *c)
{
	return (struct iovec *)(uintptr_t)c->scratch[SIDE];
}

static int side_open(struct scsi_cmd *c)
{
	void *p = page_get(loop_pages(c->loop));

	c->scratch[AT] = 0;
	c->scratch[SIDE] = (uintptr_t)p;
	c->scratch[NSIDE] = 0;
	return p ? 0 : -ENOMEM;
}

/* Puts the pages that were read. */
static void side_drop(struct scsi_cmd *c)
{
	scsi_pages_put(c->loop, side(c), (int)c->scratch[NSIDE]);
	c->scratch[NSIDE] = 0;
}

static void side_close(struct scsi_cmd *c)
{
	side_drop(c);
	page_put(loop_pages(c->loop), side(c));
}

static int side_pages(struct scsi_cmd *c, uint64_t len)
{
	int n = scsi_pages_get(c->loop, side(c), len);

	c->scratch[NSIDE] = n < 0 ? 0 : (uint64_t)n;
	return n < 0 ? n : 0;
}

/* --- comparing --- */

/* A place in a vector; run() bytes lie there in one piece. */
struct place { const struct iovec *v; size_t at; };

static size_t run(const struct place *p)
{
	return p->v->iov_len - p->at;
}

static void advance(struct place *p, size_t n)
{
	while (n) {
		size_t part = MIN(n, run(p));
		p->at += part;
		n -= part;
		if (p->at == p->v->iov_len) {
			p->v++;
			p->at = 0;
		}
	}
}

static size_t differ_at(const uint8_t *a, const uint8_t *b, size_t n)
{
	size_t i = 0;

	if (!memcmp(a, b, n))
		return n;
	while (a[i] == b[i])
		i++;
	return i;
}

/* First difference of n bytes, or n. */
static uint64_t compare(struct place a, struct place b, uint64_t n)
{
	uint64_t done = 0;

	while (done < n) {
		size_t part = MIN(n - done, MIN(run(&a), run(&b)));
		size_t same = differ_at((uint8_t *)a.v->iov_base + a.at, (uint8_t *)b.v->iov_base + b.at, part);
		done += same;
		if (same < part)
			return done;
		advance(&a, part);
		advance(&b, part);
	}
	return n;
}

/* The step that was read against the data-out; byte of the data-out that differs, or UINT64_MAX. */
static uint64_t compare_step(const struct scsi_cmd *c, uint64_t len)
{
	uint64_t at = c->scratch[AT], bs = 1ull << c->ll->shift, same;
	struct place medium = { side(c), 0 }, data = { c->iov, 0 };

	if (c->scratch[BYTCHK] == CHECK_ALL) {
		advance(&data, at);
		same = compare(medium, data, len);
		return same == len ? UINT64_MAX : at + same;
	}
	for (uint64_t done = 0; done < len; done += bs) {
		same = compare(medium, (struct place){ c->iov, 0 }, bs);
		if (same < bs)
			return same;
		advance(&medium, bs);
	}
	return UINT64_MAX;
}

/* --- reading step by step --- */

static void step(struct scsi_cmd *c);
static void caw_write(struct scsi_cmd *c);

/* Everything was read and equal. */
static void equal(struct scsi_cmd *c)
{
	if (c->op->exec == sbc_caw && !c->must_abort) {
		caw_write(c);
		return;
	}
	side_close(c);
	c->status = SCSI_GOOD;
	scsi_end(c);
}

/* INFORMATION is the first byte of the data-out that differs: SBC-4 5.3 */
static void miscompare(struct scsi_cmd *c, uint64_t at)
{
	struct sense_extra x = { .has_info = true, .info = at };

	side_close(c);
	sense_set(c, SENSE_MISCOMPARE, &x);
	scsi_end(c);
}

static void step_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;
	uint64_t differs = UINT64_MAX;

	if (io->req.flags & BLK_LEND)
		c->scratch[NSIDE] = (uint64_t)io->req.niov;
	if (io->status < 0) {
		side_close(c);
		sbc_fail(c, false);
		return;
	}
	if (c->scratch[BYTCHK])
		differs = compare_step(c, io->req.len);
	if (differs != UINT64_MAX) {
		miscompare(c, differs);
		return;
	}
	side_drop(c);
	c->scratch[AT] += io->req.len;
	if (c->scratch[AT] == c->len) {
		equal(c);
	} else if (c->must_abort) {
		side_close(c);
		scsi_end(c);
	} else {
		step(c);
	}
}

static void step_no_memory(struct scsi_cmd *c)
{
	side_close(c);
	sense_from_errno(c, -ENOMEM, false, UINT64_MAX);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

static void step(struct scsi_cmd *c)
{
	struct blk_req *r = &c->io.req;
	bool lend = c->ll->pub.blk->caps & BLK_CAN_LEND;

	*r = (struct blk_req){ .op = BLK_READ, .flags = lend ? BLK_LEND : 0, .off = c->off + c->scratch[AT],
		.len = MIN(c->len - c->scratch[AT], (uint64_t)STEP), .iov = side(c), .niov = IOV_PAGE };
	if (!lend) {
		if (side_pages(c, r->len)) {
			step_no_memory(c);
			return;
		}
		r->niov = (int)c->scratch[NSIDE];
	}
	sbc_submit(c, step_done);
}

/* Compares c->off, c->len by c->scratch[BYTCHK]. May be called from exec and from a completion. */
static void look(struct scsi_cmd *c)
{
	if (!c->len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (side_open(c)) {
		sense_from_errno(c, -ENOMEM, false, UINT64_MAX);
		scsi_reply(c, SCSI_CHECK_CONDITION);
		return;
	}
	step(c);
}

/* --- VERIFY, WRITE AND VERIFY --- */

static unsigned bytchk(const struct scsi_cmd *c)
{
	return c->cdb[1] >> 1 & 3;
}

int64_t sbc_verify_prepare(struct scsi_cmd *c)
{
	uint64_t bs = 1ull << c->ll->shift;

	switch (bytchk(c)) {
	case CHECK_NONE: return 0;
	case CHECK_ONE: return c->nblk ? (int64_t)bs : 0;
	case CHECK_ALL:
		if (c->len <= LIM_TRANSFER)
			return (int64_t)c->len;
		scsi_reply_field(c, SENSE_INVALID_FIELD, c->op->nblk.at, -1);
		return -1;
	default:
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 2);
		return -1;
	}
}

void sbc_verify(struct scsi_cmd *c)
{
	uint64_t bs = 1ull << c->ll->shift;

	c->scratch[BYTCHK] = bytchk(c);
	if (c->scratch[BYTCHK] == CHECK_ALL)
		c->len = c->out_len & ~(bs - 1); /* what came of it */
	if (c->scratch[BYTCHK] == CHECK_ONE && c->out_len < bs && c->len)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 2);
	else
		look(c);
}

int64_t sbc_write_verify_prepare(struct scsi_cmd *c)
{
	if (bytchk(c) > CHECK_ALL) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 2);
		return -1;
	}
	return (int64_t)c->len;
}

/* The blocks are on the medium. */
static void written(struct scsi_cmd *c)
{
	c->scratch[BYTCHK] = bytchk(c);
	if (c->must_abort)
		scsi_end(c);
	else
		look(c);
}

void sbc_write_verify(struct scsi_cmd *c)
{
	sbc_write_then(c, BLK_FUA, written);
}

/* --- COMPARE AND WRITE --- */

int64_t sbc_caw_prepare(struct scsi_cmd *c)
{
	uint64_t want = 2 * c->len;

	if (c->nblk <= SBC_CAW_MAX && c->room_out == want)
		return (int64_t)want;
	scsi_reply_field(c, SENSE_INVALID_FIELD, 13, -1);
	return -1;
}

static void caw_written(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	side_close(c);
	if (io->status < 0) {
		sbc_fail(c, true);
		return;
	}
	c->status = SCSI_GOOD;
	scsi_end(c);
}

/* The second half of the data-out: a vector of its own, that lies in the side page. */
static void caw_write(struct scsi_cmd *c)
{
	struct place p = { c->iov, 0 };
	struct blk_req *r = &c->io.req;
	int n = 0;

	advance(&p, c->len);
	for (uint64_t left = c->len; left; n++) {
		size_t part = MIN(left, run(&p));
		side(c)[n] = (struct iovec){ (uint8_t *)p.v->iov_base + p.at, part };
		left -= part;
		if (left)
			advance(&p, part);
	}
	*r = (struct blk_req){ .op = BLK_WRITE, .flags = BLK_PAGES | sbc_write_flags(c), .off = c->off,
		.len = c->len, .iov = side(c), .niov = n };
	sbc_submit(c, caw_written);
}

/* Nobody else is in the range, on any loop, until scsi_end() thaws it. */
static void caw_granted(struct lu_freeze *fz)
{
	struct scsi_cmd *c = lu_freeze_own(fz);

	if (c->must_abort)
		return; /* its end is on its way, and thaws */
	c->len = c->scratch[LEN];
	c->state = SCSI_CMD_RUNNING;
	look(c);
}

/* While it waits the command has no range, so that no freeze waits for it. */
void sbc_caw(struct scsi_cmd *c)
{
	if (!c->len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	c->scratch[BYTCHK] = CHECK_ALL;
	c->scratch[LEN] = c->len;
	c->len = 0;
	c->state = SCSI_CMD_FREEZING;
	c->freeze = lu_freeze(c->ll, c->off, c->scratch[LEN], c, caw_granted);
	if (!c->freeze) {
		c->state = SCSI_CMD_RUNNING;
		scsi_reply(c, SCSI_BUSY);
	}
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Commands on ranges that move little or no data: WRITE SAME, UNMAP, GET LBA STATUS (SBC-4 5.52, 5.35, 5.6). On
 * the command's loop. */
#include "scsi/sbc.h"

enum { AT, PAGE, NTH }; /* scratch: bytes done; a page of ours; descriptor of UNMAP */
enum { CHUNK = 1 << 30 }; /* bytes of one metadata request: others get their turn in between */

static void no_memory(struct scsi_cmd *c)
{
	sense_from_errno(c, -ENOMEM, true, UINT64_MAX);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

/* --- WRITE SAME --- */

enum { NDOB = 0x01, UNMAP = 0x08 };

static bool has_ndob(const struct scsi_cmd *c)
{
	return c->cdb[0] == 0x93 && (c->cdb[1] & NDOB);
}

/* 0 blocks: to the end of the medium. The data-out is exactly one block. */
int64_t sbc_write_same_prepare(struct scsi_cmd *c)
{
	uint64_t bs = 1ull << c->ll->shift, want = has_ndob(c) ? 0 : bs;

	if (!c->nblk)
		c->nblk = c->ll->pub.nblk - c->lba;
	c->len = c->nblk << c->ll->shift;
	if (c->nblk > SBC_SAME_MAX) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, c->op->nblk.at, -1);
	} else if ((c->cdb[1] & UNMAP) && !c->ll->pub.thin) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 3);
	} else if (c->room_out != want) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, -1);
	} else {
		return (int64_t)want;
	}
	return -1;
}

static void same_step(struct scsi_cmd *c);

static void same_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;
	void *page = (void *)(uintptr_t)c->scratch[PAGE];
	bool over = io->status < 0 || (c->scratch[AT] += io->req.len) == c->len || c->must_abort;

	if (!over) {
		same_step(c);
		return;
	}
	if (page)
		page_put(loop_pages(c->loop), page);
	if (io->status < 0) {
		sbc_fail(c, true);
		return;
	}
	c->status = SCSI_GOOD;
	scsi_end(c);
}

/* c->scratch[PAGE] is the vector whose entries all name the one page of pattern; without it: zeros. */
static void same_step(struct scsi_cmd *c)
{
	struct blk_req *r = &c->io.req;
	uint64_t left = c->len - c->scratch[AT];
	struct iovec *v = (struct iovec *)(uintptr_t)c->scratch[PAGE];
	uint32_t fua = c->ll->pub.wce ? 0 : BLK_FUA;

	*r = (struct blk_req){ .off = c->off + c->scratch[AT] };
	if (!v) {
		r->op = BLK_ZERO;
		r->flags = fua | (c->cdb[1] & UNMAP ? BLK_MAY_UNMAP : 0u);
		r->len = MIN(left, (uint64_t)CHUNK);
	} else {
		r->op = BLK_WRITE;
		r->flags = fua | BLK_PAGES;
		r->len = MIN(left, (uint64_t)SBC_STEP);
		r->iov = v;
		r->niov = (int)((r->len + PAGE_BYTES - 1) / PAGE_BYTES);
		for (int i = 0; i < r->niov; i++)
			v[i] = (struct iovec){ c->iov[0].iov_base, MIN(r->len - (uint64_t)i * PAGE_BYTES, PAGE_BYTES) };
	}
	sbc_submit(c, same_done);
}

/* The block that came, repeated to fill its page; nobody writes it any more afterwards. */
static void fill_page(struct scsi_cmd *c)
{
	size_t bs = (size_t)1 << c->ll->shift;
	uint8_t *p = c->iov[0].iov_base;

	for (size_t at = bs; at < PAGE_BYTES; at += bs)
		memcpy(p + at, p, bs);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

void sbc_write_same(struct scsi_cmd *c)
{
	size_t bs = (size_t)1 << c->ll->shift;

	c->scratch[AT] = c->scratch[PAGE] = 0;
	if (!c->len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (!has_ndob(c) && !is_zero(c->iov[0].iov_base, bs)) {
		c->scratch[PAGE] = (uintptr_t)page_get(loop_pages(c->loop));
		if (!c->scratch[PAGE]) {
			no_memory(c);
			return;
		}
		fill_page(c);
	}
	same_step(c);
}

/* --- UNMAP --- */

int64_t sbc_unmap_prepare(struct scsi_cmd *c)
{
	uint64_t want = scsi_field(c->cdb, c->op->param);

	if (!c->ll->pub.thin) {
		scsi_reply_sense(c, SENSE_INVALID_OPCODE);
		return -1;
	}
	return (int64_t)want;
}

struct unmap_desc { uint64_t lba, nblk; };

static struct unmap_desc unmap_desc(const struct scsi_cmd *c, unsigned i)
{
	uint8_t p[12];

	scsi_data_get(c, 8 + 16 * i, p, sizeof(p));
	return (struct unmap_desc){ be64(p), be32(p + 8) };
}

static void unmap_step(struct scsi_cmd *c);

static void unmap_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;

	if (io->status < 0) {
		sbc_fail(c, true);
		return;
	}
	c->scratch[AT] += io->req.len;
	unmap_step(c);
}

/* The next chunk; scratch[PAGE] is the number of descriptors. Runs from the loop's queue. */
static void unmap_step(struct scsi_cmd *c)
{
	unsigned shift = c->ll->shift;

	while (c->scratch[NTH] < c->scratch[PAGE] && !c->must_abort) {
		struct unmap_desc d = unmap_desc(c, (unsigned)c->scratch[NTH]);
		uint64_t left = (d.nblk << shift) - c->scratch[AT];
		if (left) {
			c->io.req = (struct blk_req){ .op = BLK_DISCARD, .flags = c->ll->pub.wce ? 0 : BLK_FUA,
				.off = (d.lba << shift) + c->scratch[AT], .len = MIN(left, (uint64_t)CHUNK) };
			sbc_submit(c, unmap_done);
			return;
		}
		c->scratch[NTH]++;
		c->scratch[AT] = 0;
	}
	c->status = SCSI_GOOD;
	scsi_end(c);
}

static void unmap_task(struct task *t)
{
	unmap_step(container_of(t, struct scsi_cmd, task));
}

/* No range of what must be unmapped is frozen now. */
static void unmap_enter(struct scsi_cmd *c)
{
	c->task.run = unmap_task;
	loop_defer(c->loop, &c->task);
}

/* Checks every descriptor before any takes effect; sets the range that all lie in. Failed it? */
static bool unmap_check(struct scsi_cmd *c, unsigned n)
{
	uint64_t cap = c->ll->pub.nblk, from = cap, to = 0;

	for (unsigned i = 0; i < n; i++) {
		struct unmap_desc d = unmap_desc(c, i);
		if (d.lba > cap || d.nblk > cap - d.lba) {
			scsi_reply_sense(c, SENSE_LBA_RANGE);
			return true;
		}
		if (!d.nblk)
			continue;
		from = MIN(from, d.lba);
		to = MAX(to, d.lba + d.nblk);
	}
	c->off = from << c->ll->shift;
	c->len = to > from ? (to - from) << c->ll->shift : 0;
	return false;
}

void sbc_unmap(struct scsi_cmd *c)
{
	uint8_t head[8];
	unsigned n;

	if (!c->out_len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (c->out_len < sizeof(head)) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	scsi_data_get(c, 0, head, sizeof(head));
	n = be16(head + 2) / 16u;
	if (n > SBC_UNMAP_MAX) {
		scsi_reply_field(c, SENSE_INVALID_PARAM, 2, -1);
		return;
	}
	n = MIN(n, (c->out_len - 8u) / 16u); /* as many as came whole */
	if (unmap_check(c, n))
		return;
	c->scratch[AT] = c->scratch[NTH] = 0;
	c->scratch[PAGE] = n;
	lu_enter(c, unmap_enter);
}

/* --- GET LBA STATUS --- */

enum { MAPPED = 0, DEALLOCATED = 1, STATUS_MAX = 128 };

/* Extents in bytes to descriptors in blocks, neighbours of one kind as one. Only a block that is a hole as a
 * whole is deallocated. */
static unsigned status_list(const struct scsi_cmd *c, const struct blk_extent *e, int n, uint8_t *p)
{
	unsigned shift = c->ll->shift, used = 0;
	uint64_t lba = c->lba, bs = 1ull << shift;

	for (int i = 0; i < n; i++) {
		bool hole = e[i].kind == BLK_HOLE;
		uint64_t end = e[i].off + e[i].len;
		end = hole || i + 1 == n ? end >> shift : (end + bs - 1) >> shift;
		if (end <= lba)
			continue;
		uint64_t nblk = MIN(end - lba, (uint64_t)UINT32_MAX);
		uint8_t status = hole ? DEALLOCATED : MAPPED;
		uint8_t *last = used ? p + 16 * (used - 1) : NULL;
		if (last && last[12] == status && be32(last + 8) + nblk <= UINT32_MAX) {
			put_be32(last + 8, (uint32_t)(be32(last + 8) + nblk));
		} else if (used == STATUS_MAX) {
			break;
		} else {
			memset(p + 16 * used, 0, 16);
			put_be64(p + 16 * used, lba);
			put_be32(p + 16 * used + 8, (uint32_t)nblk);
			p[16 * used++ + 12] = status;
		}
		lba += nblk;
		if (nblk == UINT32_MAX)
			break;
	}
	return used;
}

static void status_reply(struct scsi_cmd *c, const struct blk_extent *e, int n)
{
	uint8_t p[8 + 16 * STATUS_MAX] = { 0 };
	unsigned used = status_list(c, e, n, p + 8);

	put_be32(p, 4 + 16 * used);
	scsi_reply_data(c, p, 8 + 16 * used);
}

static void status_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;
	void *page = (void *)(uintptr_t)c->scratch[PAGE];

	if (io->status < 0)
		sbc_fail(c, false);
	else
		status_reply(c, page, io->req.nmap);
	page_put(loop_pages(c->loop), page);
}

void sbc_lba_status(struct scsi_cmd *c)
{
	struct blk *b = c->ll->pub.blk;
	uint64_t end = c->ll->pub.nblk << c->ll->shift;
	void *page;

	if (c->lba == c->ll->pub.nblk) {
		scsi_reply_sense(c, SENSE_LBA_RANGE);
		return;
	}
	if (!(b->caps & BLK_CAN_MAP)) { /* nothing is known of holes: all is mapped */
		struct blk_extent all = { c->off, end - c->off, BLK_DATA };
		status_reply(c, &all, 1);
		return;
	}
	page = page_get(loop_pages(c->loop));
	if (!page) {
		no_memory(c);
		return;
	}
	c->scratch[PAGE] = (uintptr_t)page;
	c->io.req = (struct blk_req){ .op = BLK_MAP, .off = c->off, .len = end - c->off, .map = page,
		.nmap = (int)(PAGE_BYTES / sizeof(struct blk_extent)) };
	sbc_submit(c, status_done);
}

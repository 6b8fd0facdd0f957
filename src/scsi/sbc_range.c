/* SPDX-License-Identifier: BSD-3-Clause
 * Commands on ranges that move little or no data: WRITE SAME, UNMAP, GET LBA STATUS (SBC-4 5.52, 5.35, 5.6). On
 * the command's loop. */
#include "scsi/sbc.h"

enum { AT, PAGE, NTH }; /* scratch: bytes done; a page of ours; descriptor of UNMAP */
enum { CHUNK = 1 << 30, WRITTEN_CHUNK = 16 << 20 }; /* bytes of one request that is, or is not, a matter of metadata */

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

/* As many as the CDB can say where zeros are a matter of metadata. */
uint64_t sbc_same_max(const struct lu_pub *p)
{
	return p->thin ? UINT32_MAX : SBC_SAME_MAX;
}

/* 0 blocks: to the end of the medium. The data-out is exactly one block. */
int64_t sbc_write_same_prepare(struct scsi_cmd *c)
{
	uint64_t bs = 1ull << c->ll->shift, want = has_ndob(c) ? 0 : bs;

	if (!c->nblk)
		c->nblk = c->ll->pub.nblk - c->lba;
	c->len = c->nblk << c->ll->shift;
	if (c->nblk > sbc_same_max(&c->ll->pub)) {
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
		r->len = MIN(left, (uint64_t)(c->ll->pub.thin ? CHUNK : WRITTEN_CHUNK));
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

bool sbc_unmap_offered(const struct scsi_cmd *c)
{
	return c->ll->pub.thin;
}

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

/* --- GET LBA STATUS, SBC-4 5.6 --- */

enum { MAPPED_OR_UNKNOWN = 0, DEALLOCATED = 1, MAPPED = 3, UNKNOWN = 4 }; /* PROVISIONING STATUS, table 53 */
enum { ALL_LBAS = 0x00, ALL_KNOWN = 0x01, ONLY_MAPPED = 0x02, ONLY_DEALLOCATED = 0x03, ONLY_ANCHORED = 0x04, MAY_FAIL = 0x10 };
enum { BY_ALLOCATION = 1, BY_CAPACITY = 3 }; /* COMPLETION CONDITION, table 51 */
enum { STATUS_MAX = 128, EXTENTS = ((int)PAGE_BYTES - 16 * STATUS_MAX) / (int)sizeof(struct blk_extent) };
enum { NEXT, STATUS, USED, FULL }; /* scratch: next LBA; page of descriptors, then extents; descriptors; no more fits */

/* What a report of that type says of such blocks; -1: nothing. */
static int status_said(const struct scsi_cmd *c, bool hole)
{
	bool known = !c->ll->pub.thin || c->ll->pub.blk->caps & BLK_CAN_MAP;

	switch (c->cdb[14]) {
	case ALL_LBAS:
		return hole ? DEALLOCATED : MAPPED_OR_UNKNOWN;
	case ALL_KNOWN:
		return hole ? DEALLOCATED : known ? MAPPED : UNKNOWN;
	case ONLY_MAPPED:
		return hole || !known ? -1 : MAPPED;
	case ONLY_DEALLOCATED:
		return hole ? DEALLOCATED : -1;
	default:
		return -1; /* no block is anchored, none is known to fail */
	}
}

static unsigned status_room(const struct scsi_cmd *c)
{
	uint64_t bytes = MIN(scsi_alloc_len(c), (uint64_t)c->room_in);

	return (unsigned)MIN(MAX(bytes, 24u) / 16, (uint64_t)STATUS_MAX); /* at least one */
}

/* Blocks from scratch[NEXT] on; neighbours of one status as one. False: no room. */
static bool status_add(struct scsi_cmd *c, uint64_t nblk, int status)
{
	uint8_t *p = (uint8_t *)(uintptr_t)c->scratch[STATUS], *last = p + 16 * c->scratch[USED] - 16;

	if (status < 0) {
		c->scratch[NEXT] += nblk;
		return true;
	}
	nblk = MIN(nblk, (uint64_t)UINT32_MAX);
	if (c->scratch[USED] && last[12] == status && be64(last) + be32(last + 8) == c->scratch[NEXT] &&
	    be32(last + 8) + nblk <= UINT32_MAX) {
		put_be32(last + 8, (uint32_t)(be32(last + 8) + nblk));
	} else if (c->scratch[USED] == status_room(c)) {
		return false;
	} else {
		memset(last + 16, 0, 16);
		put_be64(last + 16, c->scratch[NEXT]);
		put_be32(last + 24, (uint32_t)nblk);
		last[16 + 12] = (uint8_t)status;
		c->scratch[USED]++;
	}
	c->scratch[NEXT] += nblk;
	return true;
}

/* Extents in bytes to descriptors in blocks. Only a block that is a hole as a whole is deallocated. */
static void status_list(struct scsi_cmd *c, const struct blk_extent *e, int n)
{
	unsigned shift = c->ll->shift;
	uint64_t bs = 1ull << shift;

	for (int i = 0; i < n && !c->scratch[FULL]; i++) {
		bool hole = e[i].kind == BLK_HOLE;
		uint64_t end = e[i].off + e[i].len;
		end = hole || i + 1 == n ? end >> shift : (end + bs - 1) >> shift;
		while (end > c->scratch[NEXT] && !c->scratch[FULL])
			c->scratch[FULL] = !status_add(c, end - c->scratch[NEXT], status_said(c, hole));
	}
}

static void status_reply(struct scsi_cmd *c)
{
	uint8_t p[8 + 16 * STATUS_MAX] = { 0 };
	unsigned bytes = 16 * (unsigned)c->scratch[USED];
	unsigned why = c->scratch[NEXT] >= c->ll->pub.nblk ? BY_CAPACITY : c->scratch[FULL] ? BY_ALLOCATION : 0;

	put_be32(p, 4 + bytes);
	p[7] = (uint8_t)(why << 1 | 1); /* RTP */
	if (bytes)
		memcpy(p + 8, (void *)(uintptr_t)c->scratch[STATUS], bytes);
	page_put(loop_pages(c->loop), (void *)(uintptr_t)c->scratch[STATUS]);
	scsi_reply_data(c, p, 8 + bytes);
}

static void status_step(struct scsi_cmd *c);

static void status_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;
	uint64_t before = c->scratch[NEXT];

	if (io->status < 0) {
		page_put(loop_pages(c->loop), (void *)(uintptr_t)c->scratch[STATUS]);
		sbc_fail(c, false);
		return;
	}
	status_list(c, io->req.map, io->req.nmap);
	bool stuck = c->scratch[NEXT] == before; /* less than a block: it counts as mapped */
	if (stuck && !c->scratch[FULL])
		c->scratch[FULL] = !status_add(c, 1, status_said(c, false));
	if (c->scratch[FULL] || c->must_abort || c->scratch[NEXT] >= c->ll->pub.nblk)
		status_reply(c);
	else
		status_step(c);
}

static void status_step(struct scsi_cmd *c)
{
	uint64_t off = c->scratch[NEXT] << c->ll->shift;

	c->io.req = (struct blk_req){ .op = BLK_MAP, .off = off, .len = (c->ll->pub.nblk << c->ll->shift) - off,
		.map = (struct blk_extent *)(uintptr_t)(c->scratch[STATUS] + 16 * STATUS_MAX), .nmap = EXTENTS };
	sbc_submit(c, status_done);
}

static bool type_known(uint8_t type)
{
	return type <= ONLY_ANCHORED || type == MAY_FAIL;
}

void sbc_lba_status(struct scsi_cmd *c)
{
	uint8_t type = c->cdb[14];
	uint64_t nblk = c->ll->pub.nblk;

	if (!type_known(type)) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 14, -1);
		return;
	}
	if (c->lba == nblk) {
		scsi_reply_sense(c, SENSE_LBA_RANGE);
		return;
	}
	c->scratch[STATUS] = (uintptr_t)page_get(loop_pages(c->loop));
	if (!c->scratch[STATUS]) {
		no_memory(c);
		return;
	}
	c->scratch[NEXT] = c->lba;
	c->scratch[USED] = c->scratch[FULL] = 0;
	if (type == ONLY_ANCHORED || type == MAY_FAIL) {
		c->scratch[NEXT] = nblk;
		status_reply(c);
	} else if (!c->ll->pub.thin || !(c->ll->pub.blk->caps & BLK_CAN_MAP)) { /* nothing is known of holes */
		status_list(c, &(struct blk_extent){ c->off, (nblk << c->ll->shift) - c->off, BLK_DATA }, 1);
		status_reply(c);
	} else {
		status_step(c);
	}
}

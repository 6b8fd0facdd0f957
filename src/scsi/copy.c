/* SPDX-License-Identifier: BSD-3-Clause
 * EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 5.17.3, 6.4, 6.24): copies between the units that the nexus
 * sees, without a round trip of the data. It moves in steps: the destination range is frozen on every loop, a step is
 * read as references to pages and written from them (between RAM disks no byte is copied), the range thaws.
 * A step's pages are all the memory a copy holds; task management ends it between two steps.
 * On the command's loop. */
#include "scsi/pr.h"
#include "scsi/sbc.h"

enum {
	CSCD_MAX = 16, SEGMENTS_MAX = 64, CSCD_LEN = 32, SEGMENT_MAX_BYTES = 64 << 20,
	LISTS_MAX = CSCD_MAX * CSCD_LEN + SEGMENTS_MAX * 32,
	STEP_BYTES = 512 << 10, STEP_IOV = STEP_BYTES / 4096 + 2,
	CSCD_IDENTIFICATION = 0xe4, SEG_BLOCKS = 0x02, SEG_OFFSET = 0x0a,
	COPY = 4 /* scsi_cmd.scratch: the struct copy */
};
#define SENSE_TOO_MANY_CSCD SENSE(5, 0x26, 0x06)
#define SENSE_CSCD_TYPE SENSE(5, 0x26, 0x07)
#define SENSE_TOO_MANY_SEGMENTS SENSE(5, 0x26, 0x08)
#define SENSE_SEGMENT_TYPE SENSE(5, 0x26, 0x09)
#define SENSE_INLINE_LENGTH SENSE(5, 0x26, 0x0a)
#define SENSE_UNREACHABLE SENSE(0xa, 0x08, 0x04)
#define SENSE_NOT_REACHABLE SENSE(0xa, 0x0d, 0x02)
#define SENSE_COPY_ABORTED SENSE(0xa, 0x00, 0x00)
#define SENSE_IN_PROGRESS SENSE(5, 0x00, 0x16)

struct segment {
	struct lu_loop *src, *dst;
	uint64_t        from, to, len; /* bytes */
};

struct copy {
	struct scsi_cmd   *c;
	struct copy_result *result;    /* in the nexus; NULL: nobody will ask */
	unsigned           nseg, at;
	uint64_t           done;       /* of the segment at hand */
	uint64_t           step;       /* bytes of the step under way */
	struct lu_freeze  *freeze;
	struct lu_loop    *held[2 * SEGMENTS_MAX];
	unsigned           nheld;
	struct iovec       iov[STEP_IOV];
	int                niov;
	struct segment     seg[SEGMENTS_MAX];
};

/* --- who is meant --- */

/* The unit with that designator among those of the nexus; SPC-4 6.4.5.? names it as VPD page 83h does. */
static struct itl *find_unit(struct scsi_nexus *n, const uint8_t *cscd)
{
	uint8_t have[512];
	unsigned len = cscd[7];

	struct itl *itl;

	for (unsigned i = 0; len <= 20 && i < n->map->n; i++) {
		if (!n->map->lu[i])
			continue;
		size_t all = vpd_lu_designators(n->map->lu[i], have);
		for (size_t at = 0; at + 4 <= all; at += 4u + have[at + 3])
			if ((have[at] & 0x0f) == (cscd[4] & 0x0f) && (have[at + 1] & 0x3f) == (cscd[5] & 0x3f) &&
			    have[at + 3] == len && !memcmp(have + at + 4, cscd + 8, len))
				return nexus_itl(n, i, &itl) ? NULL : itl;
	}
	return NULL;
}

/* May this nexus read or write the unit now? As the gates of a READ or WRITE would say. */
static bool unit_allows(const struct scsi_nexus *n, const struct itl *itl, bool writes)
{
	const struct lu_pub *p = &itl->ll->pub;

	if (p->alert & (LU_NOT_READY | LU_SANITIZE) || (writes && p->alert & LU_WRITE_PROTECT))
		return false;
	if (p->alert & LU_RESERVED && p->reserved_by != n->id)
		return false;
	if (p->alert & LU_PATHS && !alua_does_io(itl))
		return false;
	return !(p->alert & LU_PERSISTENT) || pr_permits(itl, writes ? SCSI_PR_WRITE : SCSI_PR_READ);
}

/* The same at any later moment: the nexus may have lost the unit, or somebody else have reserved it. */
static bool still_allows(const struct scsi_nexus *n, const struct lu_loop *ll, bool writes)
{
	const struct itl *itl;

	list_for_each(itl, &ll->itls, node)
		if (itl->nexus == n)
			return unit_allows(n, itl, writes);
	return false;
}

/* --- parameter list --- */

static uint32_t parse_cscds(struct scsi_nexus *n, const uint8_t *p, unsigned count, struct itl **unit)
{
	for (unsigned i = 0; i < count; i++, p += CSCD_LEN) {
		if (p[0] != CSCD_IDENTIFICATION)
			return SENSE_CSCD_TYPE;
		unit[i] = find_unit(n, p);
		if (!unit[i])
			return SENSE_NOT_REACHABLE;
	}
	return 0;
}

/* Bytes from and to, of a descriptor of 28 (blocks) or 32 (bytes and offsets) bytes; SPC-4 6.4.6.3, 6.4.6.13. */
static uint32_t segment_range(const uint8_t *p, struct segment *s)
{
	uint64_t sbs = 1ull << s->src->shift, dbs = 1ull << s->dst->shift;
	uint64_t from = be64(p + 12), to = be64(p + 20), soff = 0, doff = 0;
	bool dc = p[1] & 2;

	if (p[0] == SEG_BLOCKS) {
		s->len = be16(p + 10) * (dc ? dbs : sbs);
	} else {
		s->len = be32(p + 8);
		soff = be16(p + 28);
		doff = be16(p + 30);
	}
	if (from > s->src->pub.nblk || to > s->dst->pub.nblk)
		return SENSE_COPY_ABORTED;
	s->from = from * sbs + soff;
	s->to = to * dbs + doff;
	if ((s->from | s->len) % sbs || (s->to | s->len) % dbs || s->len > SEGMENT_MAX_BYTES)
		return SENSE_INVALID_PARAM;
	uint64_t scap = s->src->pub.nblk * sbs, dcap = s->dst->pub.nblk * dbs;
	if (s->from > scap || s->len > scap - s->from || s->to > dcap || s->len > dcap - s->to)
		return SENSE_COPY_ABORTED;
	return 0;
}

static void hold(struct copy *k, struct lu_loop *ll)
{
	ll->users++; /* it is not closed under the copy */
	k->held[k->nheld++] = ll;
}

static uint32_t parse_segments(struct copy *k, const uint8_t *p, uint32_t len, struct itl **unit, unsigned nunit)
{
	const struct scsi_nexus *n = k->c->nexus;

	while (len) {
		if (p[0] != SEG_BLOCKS && p[0] != SEG_OFFSET)
			return SENSE_SEGMENT_TYPE;
		uint32_t all = len >= 4 ? be16(p + 2) + 4u : UINT32_MAX;
		if (all > len || all != (p[0] == SEG_BLOCKS ? 28u : 32u))
			return SENSE_PARAM_LENGTH;
		if (k->nseg == SEGMENTS_MAX)
			return SENSE_TOO_MANY_SEGMENTS;
		unsigned src = be16(p + 4), dst = be16(p + 6);
		if (src >= nunit || dst >= nunit)
			return SENSE_UNREACHABLE;
		if (!unit_allows(n, unit[src], false) || !unit_allows(n, unit[dst], true))
			return SENSE_NOT_REACHABLE;
		struct segment *s = &k->seg[k->nseg];
		*s = (struct segment){ .src = unit[src]->ll, .dst = unit[dst]->ll };
		uint32_t bad = segment_range(p, s);
		if (bad)
			return bad;
		k->nseg++;
		p += all;
		len -= all;
	}
	for (unsigned i = 0; i < k->nseg; i++) {
		hold(k, k->seg[i].src);
		hold(k, k->seg[i].dst);
	}
	return 0;
}

static unsigned least_segments(const uint8_t *p, uint32_t len)
{
	unsigned n = 0;

	while (len >= 4 && be16(p + 2) + 4u <= len) {
		len -= be16(p + 2) + 4u;
		p += be16(p + 2) + 4u;
		n++;
	}
	return n;
}

static uint32_t parse(struct copy *k, const uint8_t *p, uint32_t len)
{
	struct itl *unit[CSCD_MAX];

	if (len < 16)
		return SENSE_PARAM_LENGTH;
	uint64_t cscd = be16(p + 2), segs = be32(p + 8), inl = be32(p + 12);
	if (16 + cscd + segs + inl > len || cscd % CSCD_LEN || cscd + segs > LISTS_MAX)
		return SENSE_PARAM_LENGTH;
	if (cscd / CSCD_LEN > CSCD_MAX)
		return SENSE_TOO_MANY_CSCD;
	if (least_segments(p + 16 + cscd, (uint32_t)segs) > SEGMENTS_MAX)
		return SENSE_TOO_MANY_SEGMENTS;
	if (inl)
		return SENSE_INLINE_LENGTH;
	uint32_t bad = parse_cscds(k->c->nexus, p + 16, (unsigned)cscd / CSCD_LEN, unit);
	return bad ? bad : parse_segments(k, p + 16 + cscd, (uint32_t)segs, unit, (unsigned)cscd / CSCD_LEN);
}

/* --- what RECEIVE COPY RESULTS will tell --- */

static struct copy_result *result_find(struct scsi_nexus *n, const struct lu *lu, uint8_t id)
{
	for (unsigned i = 0; i < COPY_RESULTS; i++)
		if (n->copies[i].lu == lu && n->copies[i].list_id == id)
			return &n->copies[i];
	return NULL;
}

/* A place for the result; the oldest finished one gives way. */
static struct copy_result *result_new(struct scsi_nexus *n, const struct lu *lu, uint8_t id)
{
	struct copy_result *r = result_find(n, lu, id), *best = NULL;

	for (unsigned i = 0; !r && i < COPY_RESULTS; i++) {
		struct copy_result *x = &n->copies[i];
		if ((!x->lu || x->status) && (!best || x->seq < best->seq))
			best = x;
	}
	r = r ? r : best;
	if (r)
		*r = (struct copy_result){ .lu = lu, .list_id = id, .seq = ++n->copy_seq };
	return r;
}

/* --- copying --- */

static void next_step(struct copy *k);

static void finish(struct copy *k, uint32_t sense)
{
	struct scsi_cmd *c = k->c;

	if (k->result)
		k->result->status = sense || c->must_abort ? 2 : 1;
	for (unsigned i = 0; i < k->nheld; i++) {
		k->held[i]->users--;
		if (!list_empty(&k->held[i]->waits))
			lu_wait_check(k->held[i]);
	}
	free(k);
	if (sense)
		scsi_end_sense(c, sense);
	else
		scsi_end(c);
}

static void put_pages(struct copy *k)
{
	scsi_pages_put(k->c->loop, k->iov, k->niov);
	k->niov = 0;
}

static void step_failed(struct copy *k, uint32_t sense)
{
	put_pages(k);
	lu_thaw(k->freeze);
	finish(k, sense);
}

static void step_over(struct copy *k, int status)
{
	if (status < 0) {
		step_failed(k, SENSE_COPY_ABORTED);
		return;
	}
	put_pages(k);
	lu_thaw(k->freeze);
	k->freeze = NULL;
	k->done += k->step;
	if (k->result)
		k->result->bytes += k->step;
	next_step(k);
}

static void step_written(struct blk_io *io, void *ctx)
{
	step_over(ctx, io->status);
}

static void step_read(struct blk_io *io, void *ctx)
{
	struct copy *k = ctx;
	struct segment *s = &k->seg[k->at];
	struct lu_pub *to = &s->dst->pub;

	if (io->req.flags & BLK_LEND)
		k->niov = io->req.niov;
	if (io->status < 0 || k->c->must_abort) {
		step_over(k, io->status < 0 ? io->status : -ECANCELED);
		return;
	}
	io->req = (struct blk_req){ .op = BLK_WRITE, .flags = BLK_PAGES | (to->wce ? 0u : (unsigned)BLK_FUA),
		.off = s->to + k->done, .len = k->step, .iov = k->iov, .niov = k->niov };
	io->loop = k->c->loop;
	blk_submit(to->blk, io, step_written, k);
}

/* Asked once the range is frozen: whoever takes the destination away later, by a reservation say, sees the step as done
 * before, because it cannot look at the range until then. */
static void step_granted(struct lu_freeze *fz)
{
	struct scsi_cmd *c = lu_freeze_own(fz);
	struct copy *k = (struct copy *)(uintptr_t)c->scratch[COPY];
	struct segment *s = &k->seg[k->at];
	struct blk *from = s->src->pub.blk;

	if (c->must_abort || !still_allows(c->nexus, s->src, false) || !still_allows(c->nexus, s->dst, true)) {
		step_failed(k, SENSE_NOT_REACHABLE);
		return;
	}
	bool lend = from->caps & BLK_CAN_LEND;
	int n = lend ? STEP_IOV : scsi_pages_get(c->loop, k->iov, k->step);
	if (n < 0) {
		step_over(k, -ENOMEM);
		return;
	}
	k->niov = lend ? 0 : n;
	c->io.req = (struct blk_req){ .op = BLK_READ, .flags = lend ? BLK_LEND : 0, .off = s->from + k->done,
		.len = k->step, .iov = k->iov, .niov = n };
	c->io.loop = c->loop;
	blk_submit(from, &c->io, step_read, k);
}

static void next_step(struct copy *k)
{
	while (k->at < k->nseg && k->done == k->seg[k->at].len) {
		k->at++;
		k->done = 0;
		if (k->result)
			k->result->segments++;
	}
	if (k->at == k->nseg || k->c->must_abort) {
		finish(k, 0); /* an aborted command's status goes nowhere */
		return;
	}
	struct segment *s = &k->seg[k->at];
	k->step = MIN(s->len - k->done, (uint64_t)STEP_BYTES);
	k->freeze = lu_freeze(s->dst, s->to + k->done, k->step, k->c, step_granted);
	if (!k->freeze)
		finish(k, SENSE(0xb, 0x55, 0x03));
}

static void start_task(struct task *t)
{
	struct scsi_cmd *c = container_of(t, struct scsi_cmd, task);

	next_step((struct copy *)(uintptr_t)c->scratch[COPY]);
}

void copy_extended(struct scsi_cmd *c)
{
	uint32_t len = be32(c->cdb + 10);
	struct copy_result *old;

	if (!len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	uint8_t *p = c->out_len == len && len <= LISTS_MAX + 64u ? malloc(len) : NULL;
	struct copy *k = p ? calloc(1, sizeof(*k)) : NULL;
	if (!k) {
		free(p);
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	scsi_data_get(c, 0, p, len);
	k->c = c;
	uint8_t id = p[0], usage = p[1] >> 3 & 3;
	old = result_find(c->nexus, c->lu, id);
	uint32_t bad = usage != 3 && old && !old->status ? SENSE_IN_PROGRESS : parse(k, p, len);
	free(p);
	if (bad) {
		free(k);
		scsi_reply_sense(c, bad);
		return;
	}
	k->result = usage == 3 ? NULL : result_new(c->nexus, c->lu, id);
	c->scratch[COPY] = (uintptr_t)k;
	c->task.run = start_task; /* scsi_end() must not run inside this call */
	loop_defer(c->loop, &c->task);
}

/* --- RECEIVE COPY RESULTS --- */

/* COPY STATUS, SPC-4 6.24.2. */
void copy_status(struct scsi_cmd *c)
{
	struct copy_result *r = result_find(c->nexus, c->lu, c->cdb[2]);
	uint8_t p[12] = { 0 };

	if (!r) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
		return;
	}
	put_be32(p, 8);
	p[4] = r->status;
	put_be16(p + 5, (uint16_t)r->segments);
	p[7] = 1; /* transfer count in KiB */
	put_be32(p + 8, (uint32_t)MIN(r->bytes >> 10, (uint64_t)UINT32_MAX));
	scsi_reply_data(c, p, sizeof(p));
}

static const uint8_t descriptor_types[] = { SEG_BLOCKS, SEG_OFFSET, CSCD_IDENTIFICATION };

/* OPERATING PARAMETERS, SPC-4 6.24.4. */
void copy_parameters(struct scsi_cmd *c)
{
	uint8_t p[44 + sizeof(descriptor_types)] = { 0 };

	put_be32(p, sizeof(p) - 4);
	p[4] = 1; /* SNLID */
	put_be16(p + 8, CSCD_MAX);
	put_be16(p + 10, SEGMENTS_MAX);
	put_be32(p + 12, LISTS_MAX);
	put_be32(p + 16, SEGMENT_MAX_BYTES);
	put_be16(p + 34, COPY_RESULTS);
	p[36] = COPY_RESULTS;
	p[37] = 9;
	p[43] = sizeof(descriptor_types);
	memcpy(p + 44, descriptor_types, sizeof(descriptor_types));
	scsi_reply_data(c, p, sizeof(p));
}

/* VPD page 8Fh, SPC-4 7.8.17: commands, limits, descriptors, CSCD identifiers, general copy operations. */
int copy_vpd(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	static const uint8_t commands[] = { 0x00, 0x01, 0x00, 0x0c, 7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03, 0, 0, 0, 0 };
	size_t at = sizeof(commands);

	memset(p, 0, 160);
	memcpy(p, commands, sizeof(commands));
	put_be16(p + at, 0x0004);
	put_be16(p + at + 2, 28);
	put_be16(p + at + 8, CSCD_MAX);
	put_be16(p + at + 10, SEGMENTS_MAX);
	put_be32(p + at + 12, LISTS_MAX);
	at += 32;
	put_be16(p + at, 0x0008);
	put_be16(p + at + 2, 4);
	p[at + 4] = sizeof(descriptor_types);
	memcpy(p + at + 5, descriptor_types, sizeof(descriptor_types));
	at += 8;
	put_be16(p + at, 0x000c); /* no well known CSCD identifiers */
	put_be16(p + at + 2, 4);
	at += 8;
	put_be16(p + at, 0x8001);
	put_be16(p + at + 2, 32);
	put_be32(p + at + 4, COPY_RESULTS);
	put_be32(p + at + 8, COPY_RESULTS);
	put_be32(p + at + 12, SEGMENT_MAX_BYTES);
	p[at + 16] = 9;
	return (int)at + 36;
}

/* SPDX-License-Identifier: BSD-3-Clause
 * EXTENDED COPY (LID1) and (LID4): their parameter lists (SPC-4 5.17.7, 6.4, 6.5). All of a list is checked before any of
 * it is done. On the command's loop. */
#include "scsi/copy.h"

enum { HEAD1 = 16, HEAD4 = 48, LIST_MAX = HEAD4 + COPY_LISTS_MAX };
enum { ID_NEW = 0, ID_KEEP_NOTHING = 2, ID_NONE = 3 }; /* LIST ID USAGE, SPC-4 tables 128 and 129 */

#define SENSE_TOO_MANY_CSCD SENSE(5, 0x26, 0x06)
#define SENSE_CSCD_TYPE SENSE(5, 0x26, 0x07)
#define SENSE_TOO_MANY_SEGMENTS SENSE(5, 0x26, 0x08)
#define SENSE_SEGMENT_TYPE SENSE(5, 0x26, 0x09)
#define SENSE_INEXACT SENSE(0xa, 0x26, 0x0a)
#define SENSE_INLINE_LENGTH SENSE(5, 0x26, 0x0b)
#define SENSE_GRANULARITY SENSE(0xa, 0x26, 0x0d)

struct xlist {
	struct scsi_cmd *c;
	const uint8_t   *p;
	uint32_t         len;              /* bytes of p */
	uint32_t         id;
	uint8_t          usage;
	bool             immed, g_sense;
	uint32_t         cscd_at, cscd_len, seg_at, seg_len, inline_len; /* bytes */
	struct itl      *unit[COPY_CSCDS_MAX];
	unsigned         nunit;
};

static const struct copy_fault fine = { 0, -1 };

/* --- heads --- */

static struct copy_fault head1(struct xlist *l)
{
	if (l->len < HEAD1)
		return copy_fault(SENSE_PARAM_LENGTH, -1);
	l->id = l->p[0];
	l->cscd_at = HEAD1;
	l->cscd_len = be16(l->p + 2);
	l->seg_len = be32(l->p + 8);
	l->inline_len = be32(l->p + 12);
	return fine;
}

static struct copy_fault head4(struct xlist *l)
{
	if (l->len < HEAD4)
		return copy_fault(SENSE_PARAM_LENGTH, -1);
	if (l->p[0] != 0x01)
		return copy_fault(SENSE_INVALID_PARAM, 0);
	if (be16(l->p + 2) != COPY_CSCD_LEN)
		return copy_fault(SENSE_INVALID_PARAM, 2);
	if (l->p[16] != 0xff)
		return copy_fault(SENSE_INVALID_PARAM, 16);
	l->g_sense = l->p[15] & 2;
	l->immed = l->p[15] & 1;
	l->id = be32(l->p + 20);
	l->cscd_at = HEAD4;
	l->cscd_len = be16(l->p + 42);
	l->seg_len = be16(l->p + 44);
	l->inline_len = be16(l->p + 46);
	return fine;
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

static struct copy_fault check_lengths(const struct xlist *l)
{
	uint64_t lists = (uint64_t)l->cscd_len + l->seg_len;

	if (l->cscd_at + lists + l->inline_len > l->len || l->cscd_len % COPY_CSCD_LEN || lists > COPY_LISTS_MAX)
		return copy_fault(SENSE_PARAM_LENGTH, -1);
	if (l->cscd_len / COPY_CSCD_LEN > COPY_CSCDS_MAX)
		return copy_fault(SENSE_TOO_MANY_CSCD, -1);
	if (least_segments(l->p + l->seg_at, l->seg_len) > COPY_SEGMENTS_MAX)
		return copy_fault(SENSE_TOO_MANY_SEGMENTS, -1);
	return l->inline_len ? copy_fault(SENSE_INLINE_LENGTH, -1) : fine;
}

static struct copy_fault check_usage(const struct xlist *l)
{
	if (l->usage == 1)
		return copy_fault(SENSE_INVALID_PARAM, 1);
	if (l->usage == ID_NONE && l->id)
		return copy_fault(SENSE_INVALID_PARAM, l->cscd_at == HEAD4 ? 20 : 0);
	/* SPC-4 6.4.2 says "in CDB" of these fields of the list. */
	if (l->immed && (l->g_sense || l->usage == ID_NONE))
		return copy_fault(SENSE_INVALID_FIELD, -1);
	return fine;
}

/* --- CSCD descriptors --- */

/* A disk block length that is not the unit's would make every count mean something else. */
static struct copy_fault check_block(const struct itl *itl, const uint8_t *p, int at)
{
	uint32_t says = (uint32_t)be_field(p + 29, 3);

	return says && says != itl->ll->pub.bs ? copy_fault(SENSE_INVALID_PARAM, at + 29) : fine;
}

static struct copy_fault parse_cscds(struct xlist *l)
{
	for (uint32_t at = l->cscd_at; at < l->seg_at; at += COPY_CSCD_LEN) {
		const uint8_t *p = l->p + at;
		if (p[0] != CSCD_IDENTIFICATION)
			return copy_fault(SENSE_CSCD_TYPE, (int)at);
		struct itl *itl = copy_unit(l->c->nexus, p);
		if (!itl)
			return copy_fault(SENSE_COPY_NOT_REACHABLE, (int)at);
		if ((p[1] & 0x1f) != itl->ll->lu->type->device_type)
			return copy_fault(SENSE_COPY_DEVICE_TYPE, (int)at);
		struct copy_fault f = check_block(itl, p, (int)at);
		if (f.sense)
			return f;
		l->unit[l->nunit++] = itl;
	}
	return fine;
}

/* The unit of a CSCD descriptor ID, and where it is described. */
static struct itl *unit_of(const struct xlist *l, unsigned id, int *ret_at)
{
	*ret_at = id < l->nunit ? (int)(l->cscd_at + id * COPY_CSCD_LEN) : -1;
	if (id < l->nunit)
		return l->unit[id];
	return id == CSCD_SELF ? scsi_itl(l->c) : NULL;
}

/* --- segment descriptors: bytes from, to and their number --- */

static uint64_t bytes_of(const struct lu_loop *ll)
{
	return ll->pub.nblk << ll->shift;
}

/* Whole blocks on both sides, inside both. */
static struct copy_fault check_range(const struct copy_seg *s, uint64_t from, uint64_t to, unsigned soff, unsigned doff, int at)
{
	uint64_t sbs = 1ull << s->src->shift, dbs = 1ull << s->dst->shift, cap = bytes_of(s->src), dcap = bytes_of(s->dst);

	if (s->len % (1 << COPY_GRANULARITY))
		return copy_fault(SENSE_GRANULARITY, at);
	if (((soff | s->len) & (sbs - 1)) || ((doff | s->len) & (dbs - 1)))
		return copy_fault(SENSE_INEXACT, at);
	if (s->len > COPY_SEGMENT_BYTES)
		return copy_fault(SENSE_INVALID_PARAM, at);
	if (from > s->src->pub.nblk || s->from > cap || s->len > cap - s->from || to > s->dst->pub.nblk || s->to > dcap ||
	    s->len > dcap - s->to)
		return copy_fault(SENSE_COPY_ABORTED, at);
	return fine;
}

static struct copy_fault seg_blocks(const uint8_t *p, struct copy_seg *s, int at)
{
	uint64_t from = be64(p + 12), to = be64(p + 20);

	s->len = (uint64_t)be16(p + 10) << (p[1] & 2 ? s->dst->shift : s->src->shift);
	s->from = from << s->src->shift;
	s->to = to << s->dst->shift;
	return check_range(s, from, to, 0, 0, at);
}

static struct copy_fault seg_offset(const uint8_t *p, struct copy_seg *s, int at)
{
	uint64_t from = be64(p + 12), to = be64(p + 20);
	unsigned soff = be16(p + 28), doff = be16(p + 30);

	s->len = be32(p + 8);
	s->from = (from << s->src->shift) + soff;
	s->to = (to << s->dst->shift) + doff;
	return check_range(s, from, to, soff, doff, at);
}

/* As far as both units go, SPC-4 6.4.6.19; 0 blocks: all there are. */
static struct copy_fault seg_image(const uint8_t *p, struct copy_seg *s, int at)
{
	uint64_t from = be64(p + 8), to = be64(p + 16), n = be32(p + 24);

	/* Protection information would have to come along. */
	if (s->src->shift != s->dst->shift || s->src->pub.pi_type || s->dst->pub.pi_type)
		return copy_fault(SENSE_COPY_DEVICE_TYPE, at);
	if (from > s->src->pub.nblk || to > s->dst->pub.nblk)
		return copy_fault(SENSE_COPY_ABORTED, at);
	n = MIN(n ? n : UINT64_MAX, MIN(s->src->pub.nblk - from, s->dst->pub.nblk - to));
	s->len = n << s->src->shift;
	s->from = from << s->src->shift;
	s->to = to << s->dst->shift;
	return fine;
}

/* Verify CSCD: may the unit be read now? TUR asks what we look at anyway; SPC-4 6.4.6.9. */
static struct copy_fault seg_verify(const uint8_t *p, struct copy_seg *s, int at)
{
	s->src = NULL;
	return fine;
}

static const struct seg_type {
	uint8_t code;
	uint16_t bytes;
	bool writes;
	struct copy_fault (*parse)(const uint8_t *p, struct copy_seg *s, int at);
} seg_types[] = {
	{ SEG_BLOCKS, 28, true, seg_blocks }, { SEG_VERIFY, 12, false, seg_verify }, { SEG_OFFSET, 32, true, seg_offset },
	{ SEG_IMAGE, 28, true, seg_image },
};

static struct copy_fault parse_segment(const struct xlist *l, const uint8_t *p, const struct seg_type *t, struct copy_seg *s)
{
	const struct scsi_nexus *n = l->c->nexus;
	struct itl *src = unit_of(l, be16(p + 4), &s->src_at);
	struct itl *dst = t->writes ? unit_of(l, be16(p + 6), &s->dst_at) : NULL;
	int at = (int)(p - l->p);

	if (!src || (t->writes && !dst))
		return copy_fault(SENSE_COPY_UNREACHABLE, at + (src ? 6 : 4));
	if (!copy_allows(n, src, false))
		return copy_fault(SENSE_COPY_NOT_REACHABLE, s->src_at);
	if (dst && !copy_allows(n, dst, true))
		return copy_fault(SENSE_COPY_NOT_REACHABLE, s->dst_at);
	s->src = src->ll;
	s->dst = dst ? dst->ll : NULL;
	return t->parse(p, s, at);
}

static const struct seg_type *seg_type(uint8_t code)
{
	for (unsigned i = 0; i < ARRAY_LEN(seg_types); i++)
		if (seg_types[i].code == code)
			return &seg_types[i];
	return NULL;
}

static struct copy_fault parse_segments(const struct xlist *l, struct copy *k)
{
	const uint8_t *p = l->p + l->seg_at, *stop = p + l->seg_len;

	while (p < stop) {
		const struct seg_type *t = seg_type(p[0]);
		if (!t)
			return copy_fault(SENSE_SEGMENT_TYPE, (int)(p - l->p));
		if (stop - p < t->bytes || be16(p + 2) + 4u != t->bytes)
			return copy_fault(SENSE_PARAM_LENGTH, -1);
		if (k->nseg == COPY_SEGMENTS_MAX)
			return copy_fault(SENSE_TOO_MANY_SEGMENTS, -1);
		struct copy_fault f = parse_segment(l, p, t, &k->seg[k->nseg]);
		if (f.sense)
			return f;
		k->nseg++;
		p += t->bytes;
	}
	return fine;
}

/* --- the commands --- */

static struct copy_fault parse(struct xlist *l, struct copy *k, bool lid4)
{
	struct copy_fault f = lid4 ? head4(l) : head1(l);

	if (f.sense)
		return f;
	l->usage = l->p[1] >> 3 & 3;
	l->seg_at = l->cscd_at + l->cscd_len;
	f = check_lengths(l);
	f = f.sense ? f : check_usage(l);
	f = f.sense ? f : parse_cscds(l);
	return f.sense ? f : parse_segments(l, k);
}

/* An error in segment n: its number is told too, SPC-4 5.17.7.4 b. */
static void refuse(struct scsi_cmd *c, struct copy_fault f, unsigned n)
{
	struct sense_extra x = { .has_field = f.byte >= 0, .byte = (uint16_t)MAX(f.byte, 0), .bit = -1,
		.has_segment = f.sense >> 16 == 0xa, .segment = (uint16_t)n };

	sense_set(c, f.sense, &x);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

/* SPC-4 6.4.2: sense data with GOOD status, for those who ask. */
static void good_with_sense(struct copy *k)
{
	struct sense_extra x = { .has_segment = true, .segment = (uint16_t)k->nseg };

	if (k->c->status != SCSI_GOOD)
		return;
	sense_set(k->c, SENSE(0xf, 0x00, 0x20), &x); /* EXTENDED COPY INFORMATION AVAILABLE */
	k->c->status = SCSI_GOOD;
}

static bool place_result(struct xlist *l, struct copy *k, bool lid4)
{
	uint32_t bad = l->usage == ID_NONE ? 0 : copy_result_new(l->c, l->id, lid4 ? COPY_LID4 : COPY_LID1, &k->result);

	if (bad)
		scsi_reply_sense(l->c, bad);
	else if (l->usage != ID_NONE && !k->result)
		scsi_reply(l->c, SCSI_BUSY);
	else
		return true;
	return false;
}

static void extended(struct scsi_cmd *c, uint8_t *p, struct copy *k, bool lid4)
{
	struct xlist l = { .c = c, .p = p, .len = c->out_len };

	scsi_data_get(c, 0, p, c->out_len);
	struct copy_fault f = parse(&l, k, lid4);
	if (f.sense)
		refuse(c, f, k->nseg);
	if (f.sense || !place_result(&l, k, lid4)) {
		copy_free(k);
		return;
	}
	k->counts_segments = true;
	k->ended = l.g_sense ? good_with_sense : NULL;
	copy_begin(k, l.immed);
}

static void begin(struct scsi_cmd *c, bool lid4)
{
	uint32_t len = be32(c->cdb + 10);

	if (!len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (!copy_may_begin(c))
		return;
	bool fits = c->out_len == len && len <= LIST_MAX + 64u;
	uint8_t *p = fits ? malloc(len) : NULL;
	struct copy *k = p ? copy_new(c, COPY_SEGMENTS_MAX) : NULL;
	if (k)
		extended(c, p, k, lid4);
	else
		scsi_reply_sense(c, fits ? SENSE(0xb, 0x55, 0x03) : SENSE_PARAM_LENGTH);
	free(p);
}

void copy_extended(struct scsi_cmd *c)
{
	begin(c, false);
}

void copy_extended4(struct scsi_cmd *c)
{
	begin(c, true);
}

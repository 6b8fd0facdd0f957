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

/* Of a CSCD descriptor, by one of the two; neither: none. */
struct unit { struct itl *itl; struct copy_party *party; };

struct xlist {
	struct scsi_cmd *c;
	uint8_t         *p;                /* on the heap */
	uint32_t         len;              /* bytes of p */
	uint32_t         id;
	uint8_t          usage;
	bool             immed, g_sense;
	uint32_t         cscd_at, cscd_len, seg_at, seg_len, inline_len; /* bytes */
	struct unit      unit[COPY_CSCDS_MAX];
	unsigned         nunit;
	bool             lid4;
	struct copy     *k;
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
static struct copy_fault check_block(const struct lu_loop *ll, const uint8_t *p, int at)
{
	uint32_t says = (uint32_t)be_field(p + 29, 3);

	return says && says != ll->pub.bs ? copy_fault(SENSE_INVALID_PARAM, at + 29) : fine;
}

static struct lu_loop *unit_ll(const struct unit *u)
{
	return u->itl ? u->itl->ll : u->party ? u->party->ll : NULL;
}

static bool unit_allows(const struct scsi_nexus *n, const struct unit *u, bool writes)
{
	return u->itl ? copy_allows(n, u->itl, writes) : writes ? u->party->writes : u->party->reads;
}

static struct copy_fault parse_cscds(struct xlist *l)
{
	for (uint32_t at = l->cscd_at; at < l->seg_at; at += COPY_CSCD_LEN) {
		const uint8_t *p = l->p + at;
		if (p[0] != CSCD_IDENTIFICATION)
			return copy_fault(SENSE_CSCD_TYPE, (int)at);
		struct unit u = { .itl = copy_unit(l->c->nexus, p) };
		if (!u.itl)
			u.party = copy_third_find(l->k->third, p);
		if (!unit_ll(&u))
			return copy_fault(SENSE_COPY_NOT_REACHABLE, (int)at);
		if ((p[1] & 0x1f) != unit_ll(&u)->lu->type->device_type)
			return copy_fault(SENSE_COPY_DEVICE_TYPE, (int)at);
		struct copy_fault f = check_block(unit_ll(&u), p, (int)at);
		if (f.sense)
			return f;
		l->unit[l->nunit++] = u;
	}
	return fine;
}

/* The unit of a CSCD descriptor ID, and where it is described. */
static struct unit unit_of(const struct xlist *l, unsigned id, int *ret_at)
{
	*ret_at = id < l->nunit ? (int)(l->cscd_at + id * COPY_CSCD_LEN) : -1;
	if (id < l->nunit)
		return l->unit[id];
	return (struct unit){ .itl = id == CSCD_SELF ? scsi_itl(l->c) : NULL };
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
	struct unit src = unit_of(l, be16(p + 4), &s->src_at), dst = { NULL, NULL };
	int at = (int)(p - l->p);

	if (t->writes)
		dst = unit_of(l, be16(p + 6), &s->dst_at);
	s->src = unit_ll(&src);
	s->dst = unit_ll(&dst);
	if (!s->src || (t->writes && !s->dst))
		return copy_fault(SENSE_COPY_UNREACHABLE, at + (s->src ? 6 : 4));
	if (!unit_allows(n, &src, false))
		return copy_fault(SENSE_COPY_NOT_REACHABLE, s->src_at);
	if (s->dst && !unit_allows(n, &dst, true))
		return copy_fault(SENSE_COPY_NOT_REACHABLE, s->dst_at);
	s->src_party = src.party;
	s->dst_party = dst.party;
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

static struct copy_fault parse_head(struct xlist *l)
{
	struct copy_fault f = l->lid4 ? head4(l) : head1(l);

	if (f.sense)
		return f;
	l->usage = l->p[1] >> 3 & 3;
	l->seg_at = l->cscd_at + l->cscd_len;
	f = check_lengths(l);
	return f.sense ? f : check_usage(l);
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

static bool place_result(struct xlist *l, struct copy *k)
{
	uint32_t bad = l->usage == ID_NONE ? 0 : copy_result_new(l->c, l->id, l->lid4 ? COPY_LID4 : COPY_LID1, &k->result);

	if (bad)
		scsi_reply_sense(l->c, bad);
	else if (l->usage != ID_NONE && !k->result)
		scsi_reply(l->c, SCSI_BUSY);
	else
		return true;
	return false;
}

static void drop(struct xlist *l)
{
	if (l->k)
		copy_free(l->k);
	free(l->p);
	free(l);
}

/* All units are known that can be. */
static void begin_list(struct xlist *l)
{
	struct copy *k = l->k;
	struct copy_fault f = parse_cscds(l);

	f = f.sense ? f : parse_segments(l, k);
	if (f.sense)
		refuse(l->c, f, k->nseg);
	if (!f.sense && place_result(l, k)) {
		k->counts_segments = true;
		k->ended = l->g_sense ? good_with_sense : NULL;
		copy_begin(k, l->immed);
		l->k = NULL;
	}
	drop(l);
}

static void looked(struct copy_third *t)
{
	struct xlist *l = t->ctx;

	if (l->c->must_abort) {
		scsi_reply(l->c, SCSI_TASK_ABORTED);
		drop(l);
	} else if (copy_may_begin(l->c)) {
		begin_list(l);
	} else {
		drop(l);
	}
}

/* Descriptors of units that the nexus does not see. 0 or -ENOMEM. */
static int find_strangers(struct xlist *l)
{
	for (uint32_t at = l->cscd_at; at < l->seg_at; at += COPY_CSCD_LEN) {
		const uint8_t *p = l->p + at;
		if (p[0] != CSCD_IDENTIFICATION || copy_unit(l->c->nexus, p))
			continue;
		if (!l->k->third)
			l->k->third = copy_third_new(l->c, looked, l);
		if (!l->k->third)
			return -ENOMEM;
		copy_third_add(l->k->third, p);
	}
	return 0;
}

static void extended(struct xlist *l)
{
	scsi_data_get(l->c, 0, l->p, l->len);
	struct copy_fault f = parse_head(l);
	int e = f.sense ? 0 : find_strangers(l);
	if (f.sense || e) {
		refuse(l->c, f.sense ? f : copy_fault(SENSE(0xb, 0x55, 0x03), -1), 0);
		drop(l);
		return;
	}
	l->c->len = 0;
	if (l->k->third)
		copy_third_go(l->k->third, l->c->loop);
	else
		begin_list(l);
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
	struct xlist *l = fits ? calloc(1, sizeof(*l)) : NULL;
	if (l)
		*l = (struct xlist){ .c = c, .lid4 = lid4, .len = len, .p = malloc(len), .k = copy_new(c, COPY_SEGMENTS_MAX) };
	if (l && l->p && l->k) {
		extended(l);
		return;
	}
	scsi_reply_sense(c, fits ? SENSE(0xb, 0x55, 0x03) : SENSE_PARAM_LENGTH);
	if (l)
		drop(l);
}

void copy_extended(struct scsi_cmd *c)
{
	begin(c, false);
}

void copy_extended4(struct scsi_cmd *c)
{
	begin(c, true);
}

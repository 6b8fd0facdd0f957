/* SPDX-License-Identifier: BSD-3-Clause
 * Block commands of a unit that keeps protection information (SBC-4 4.21): each block with its eight bytes after it
 * where the CDB asks for that, checked on the way. Their rows stand over those of sbc.c, only for such units. Data
 * moves in steps through pages of our own, because blocks of 520 bytes fit none. On the command's loop. */
#include "scsi/pi.h"
#include "scsi/sbc.h"

enum { WORK };                          /* scratch: a page, struct work */
enum { STEP_BLOCKS = 512, STEP_BYTES = 512 << 10, SIDE = 160 };
_Static_assert(STEP_BLOCKS * PI_BYTES <= PAGE_BYTES, "the tuples of a step fit a page");
_Static_assert(STEP_BYTES / PAGE_BYTES + 1 < SIDE, "so do its segments, and one more for an odd beginning");

/* A place in a vector. */
struct span { const struct iovec *v; size_t at; };

struct work {
	struct pi_rule medium, data;    /* checks of what is read, of what came */
	unsigned      compare;          /* tuples: PI_GUARD ...; with `looks` */
	bool          moves;            /* tuples are transferred */
	bool          looks, one;       /* data is compared; each block against one */
	uint64_t      n, done, step;    /* blocks */
	struct span   out;              /* in the command's data */
	uint32_t      flags;            /* of writes */
	bool          then_verify;
	uint8_t      *tuples;
	int           nside;
	struct iovec  side[SIDE];
};
_Static_assert(sizeof(struct work) <= PAGE_BYTES, "work fits a page");

static struct work *work(const struct scsi_cmd *c)
{
	return (struct work *)(uintptr_t)c->scratch[WORK];
}

static uint64_t block(const struct scsi_cmd *c)
{
	return 1ull << c->ll->shift;
}

/* --- the CDB --- */

static bool is32(const struct scsi_cmd *c)
{
	return c->cdb[0] == 0x7f;
}

/* The byte with PROTECT, DPO, FUA, BYTCHK. */
static uint8_t bits(const struct scsi_cmd *c)
{
	return is32(c) ? c->cdb[10] : c->cdb[1];
}

static unsigned code(const struct scsi_cmd *c)
{
	return bits(c) >> 5;
}

static unsigned bytchk(const struct scsi_cmd *c)
{
	return bits(c) >> 1 & 3;
}

/* SBC-4 4.21.2.4: with type 2, tuples come with 32-byte commands only, and those with type 2 only. Failed it? */
static bool refused(struct scsi_cmd *c)
{
	unsigned type = c->ll->pub.pi_type;
	bool six = c->op->cdb_len == 6;

	if (is32(c) ? type != 2 : (type == 2 && !six && code(c)))
		scsi_reply_sense(c, SENSE_INVALID_OPCODE);
	else if ((c->nblk << c->ll->shift) + c->nblk * PI_BYTES > LIM_TRANSFER && (c->op->flags & SCSI_BLOCKS) && !six && code(c))
		scsi_reply_field(c, SENSE_INVALID_FIELD, c->op->nblk.at, -1);
	else if (!six && code(c) && (!type || pi_checks(PI_READ, code(c)) < 0))
		scsi_reply_field(c, SENSE_INVALID_FIELD, is32(c) ? 10 : 1, 7);
	else
		return false;
	return true;
}

static struct pi_rule rule(const struct scsi_cmd *c, enum pi_table table)
{
	unsigned type = c->ll->pub.pi_type;
	struct pi_rule r = { .type = (uint8_t)type, .ref = (uint32_t)c->lba };

	r.checks = (uint8_t)pi_checks(table, c->op->cdb_len == 6 ? 0 : code(c));
	r.knows_ref = type == 1 || is32(c);
	r.knows_app = is32(c);
	if (is32(c)) {
		r.ref = be32(c->cdb + 20);
		r.app = be16(c->cdb + 24);
		r.mask = be16(c->cdb + 26);
	}
	return r;
}

/* --- spans --- */

static size_t here(struct span *s, size_t n)
{
	while (s->at == s->v->iov_len) {
		s->v++;
		s->at = 0;
	}
	return MIN(n, s->v->iov_len - s->at);
}

static uint8_t *at(const struct span *s)
{
	return (uint8_t *)s->v->iov_base + s->at;
}

static uint16_t guard(struct span *s, size_t n)
{
	uint16_t crc = 0;

	while (n) {
		size_t part = here(s, n);
		crc = pi_guard(crc, at(s), part);
		s->at += part;
		n -= part;
	}
	return crc;
}

static void move(struct span *to, struct span *from, size_t n)
{
	while (n) {
		size_t part = here(to, here(from, n));
		memcpy(at(to), at(from), part);
		to->at += part;
		from->at += part;
		n -= part;
	}
}

/* First difference of n bytes, or n. Goes through all of them. */
static uint64_t differ(struct span *a, struct span *b, uint64_t n)
{
	uint64_t first = n;

	for (uint64_t done = 0; done < n;) {
		size_t part = here(a, here(b, n - done));
		for (size_t i = 0; first == n && i < part && memcmp(at(a), at(b), part); i++)
			if (at(a)[i] != at(b)[i])
				first = done + i;
		a->at += part;
		b->at += part;
		done += part;
	}
	return first;
}

static struct span memory(struct iovec *v, void *p, size_t n)
{
	*v = (struct iovec){ p, n };
	return (struct span){ v, 0 };
}

static void tuple_put(struct span *to, uint8_t *t)
{
	struct iovec v;
	struct span s = memory(&v, t, PI_BYTES);

	move(to, &s, PI_BYTES);
}

static void tuple_get(struct span *from, uint8_t *t)
{
	struct iovec v;
	struct span s = memory(&v, t, PI_BYTES);

	move(&s, from, PI_BYTES);
}

/* --- beginning and ending --- */

static int work_open(struct scsi_cmd *c)
{
	struct page_cache *pc = loop_pages(c->loop);
	struct work *w = page_get(pc);
	uint8_t *tuples = page_get(pc);

	if (!w || !tuples) {
		if (w)
			page_put(pc, w);
		if (tuples)
			page_put(pc, tuples);
		return -ENOMEM;
	}
	memset(w, 0, offsetof(struct work, side));
	w->tuples = tuples;
	w->n = c->nblk;
	w->out = (struct span){ c->iov, 0 };
	c->scratch[WORK] = (uintptr_t)w;
	return 0;
}

static void side_put(struct scsi_cmd *c)
{
	struct work *w = work(c);

	scsi_pages_put(c->loop, w->side, w->nside);
	w->nside = 0;
}

static void work_close(struct scsi_cmd *c)
{
	struct page_cache *pc = loop_pages(c->loop);
	struct work *w = work(c);

	side_put(c);
	page_put(pc, w->tuples);
	page_put(pc, w);
}

static void no_memory(struct scsi_cmd *c)
{
	sense_from_errno(c, -ENOMEM, false, UINT64_MAX);
	scsi_reply(c, SCSI_CHECK_CONDITION);
}

static void end_good(struct scsi_cmd *c)
{
	work_close(c);
	c->status = SCSI_GOOD;
	scsi_end(c);
}

/* From a completion. */
static void end_failed(struct scsi_cmd *c, uint32_t sense, uint64_t info)
{
	struct sense_extra x = { .has_info = true, .info = info };

	work_close(c);
	sense_set(c, sense, &x);
	scsi_end(c);
}

static uint64_t step_blocks(const struct scsi_cmd *c)
{
	const struct work *w = work(c);

	return MIN(w->n - w->done, MIN((uint64_t)STEP_BLOCKS, STEP_BYTES / block(c)));
}

/* --- reading: READ, and what VERIFY looks at --- */

static void read_step(struct scsi_cmd *c);
static void read_over(struct scsi_cmd *c);

/* Checks the tuples that were read. Failed it? */
static bool medium_bad(struct scsi_cmd *c)
{
	struct work *w = work(c);
	struct span s = { w->side, 0 };

	for (uint64_t i = 0; w->medium.checks && i < w->step; i++) {
		bool crc = w->medium.checks & PI_GUARD;
		unsigned bad = pi_check(&w->medium, w->tuples + i * PI_BYTES, crc ? guard(&s, block(c)) : 0, w->done + i);
		if (bad) {
			end_failed(c, SENSE(0xb, 0x10, bad), c->lba + w->done + i);
			return true;
		}
	}
	return false;
}

static void hand_out(struct scsi_cmd *c)
{
	struct work *w = work(c);
	struct span s = { w->side, 0 };

	for (uint64_t i = 0; i < w->step; i++) {
		move(&w->out, &s, block(c));
		if (w->moves)
			tuple_put(&w->out, w->tuples + i * PI_BYTES);
	}
}

/* The ASCQ of the first part of a tuple that differs, 0 = none (SBC-4 table 128). */
static unsigned tuple_differs(const struct scsi_cmd *c, const uint8_t *medium, const uint8_t *data, uint64_t i)
{
	const struct work *w = work(c);
	unsigned type = w->medium.type;
	uint32_t ref = w->one ? pi_ref(type, be32(data + 4), w->done + i) : be32(data + 4);

	if (pi_escapes(type, medium))
		return 0;
	if ((w->compare & PI_GUARD) && be16(medium) != be16(data))
		return 1;
	if ((w->compare & PI_APP) && w->data.knows_app && be16(medium + 2) != be16(data + 2))
		return 2;
	return (w->compare & PI_REF) && be32(medium + 4) != ref ? 3 : 0;
}

/* Compares the step with the data-out. Failed it? INFORMATION: the byte of the data-out that differs. */
static bool looks_bad(struct scsi_cmd *c)
{
	struct work *w = work(c);
	struct span s = { w->side, 0 };
	uint64_t stride = block(c) + (w->moves ? PI_BYTES : 0);

	for (uint64_t i = 0; w->looks && i < w->step; i++) {
		uint8_t t[PI_BYTES];
		uint64_t begin = w->one ? 0 : (w->done + i) * stride;
		if (w->one)
			w->out = (struct span){ c->iov, 0 };
		uint64_t same = differ(&s, &w->out, block(c));
		if (same < block(c)) {
			end_failed(c, SENSE_MISCOMPARE, begin + same);
			return true;
		}
		if (!w->moves)
			continue;
		tuple_get(&w->out, t);
		unsigned bad = tuple_differs(c, w->tuples + i * PI_BYTES, t, i);
		if (bad) {
			end_failed(c, SENSE(0xe, 0x10, bad), c->lba + w->done + i);
			return true;
		}
	}
	return false;
}

static bool is_read(const struct scsi_cmd *c)
{
	return c->op->flags & SCSI_IN;
}

static void read_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;
	struct work *w = work(c);

	if (io->req.flags & BLK_LEND)
		w->nside = io->req.niov;
	if (io->status < 0) {
		work_close(c);
		sbc_fail(c, false);
		return;
	}
	if (medium_bad(c) || (!is_read(c) && looks_bad(c)))
		return;
	if (is_read(c))
		hand_out(c);
	side_put(c);
	w->done += w->step;
	if (c->must_abort) {
		work_close(c);
		scsi_end(c);
	} else if (w->done == w->n) {
		read_over(c);
	} else {
		read_step(c);
	}
}

static void read_step(struct scsi_cmd *c)
{
	bool lend = c->ll->pub.blk->caps & BLK_CAN_LEND;
	struct work *w = work(c);
	int n = SIDE;

	w->step = step_blocks(c);
	if (!lend) {
		n = scsi_pages_get(c->loop, w->side, w->step * block(c));
		if (n < 0) {
			work_close(c);
			no_memory(c);
			return;
		}
		w->nside = n;
	}
	c->io.req = (struct blk_req){ .op = BLK_READ, .flags = BLK_TUPLES | (lend ? BLK_LEND : 0u),
		.off = c->off + w->done * block(c), .len = w->step * block(c), .iov = w->side, .niov = n,
		.tuples = w->tuples };
	sbc_submit(c, read_done);
}

static void read_over(struct scsi_cmd *c)
{
	if (is_read(c)) {
		c->in_len = (uint32_t)MIN(c->want_in, c->room_in);
		scsi_data_trim(c, c->in_len);
	}
	end_good(c);
}

static void read_flushed(struct blk_io *io, void *ctx)
{
	if (io->status < 0) {
		work_close(ctx);
		sbc_fail(ctx, true);
	} else {
		read_step(ctx);
	}
}

static int read_open(struct scsi_cmd *c)
{
	bool moves = pi_checks(PI_READ, c->op->cdb_len == 6 ? 0 : code(c)) & PI_MOVES;
	uint64_t stride = block(c) + (moves ? PI_BYTES : 0), n;
	int e;

	c->want_in = c->nblk * stride;
	n = MIN(c->nblk, (c->room_in + stride - 1) / stride);
	e = scsi_data_alloc(c, (uint32_t)(n * stride));
	e = e ? e : work_open(c);
	if (e)
		return e;
	work(c)->n = n;
	work(c)->moves = moves;
	work(c)->medium = rule(c, PI_READ);
	return 0;
}

static void pi_read(struct scsi_cmd *c)
{
	int e;

	if (!c->ll->pub.pi_type) {
		sbc_read(c);
		return;
	}
	if (!c->nblk || !c->room_in) {
		c->want_in = c->len;
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	e = read_open(c);
	if (e) {
		sense_from_errno(c, e, false, UINT64_MAX);
		scsi_reply(c, SCSI_CHECK_CONDITION);
	} else if (c->op->cdb_len > 6 && (bits(c) & 0x08) && (c->ll->pub.blk->caps & BLK_WRITE_CACHE)) {
		sbc_flush(c, read_flushed);
	} else {
		read_step(c);
	}
}

static int64_t pi_read_prepare(struct scsi_cmd *c)
{
	return refused(c) ? -1 : 0;
}

/* --- writing --- */

static void write_step(struct scsi_cmd *c);
static void verify_begin(struct scsi_cmd *c);

static void write_done(struct blk_io *io, void *ctx)
{
	struct scsi_cmd *c = ctx;
	struct work *w = work(c);

	side_put(c);
	if (io->status < 0) {
		work_close(c);
		sbc_fail(c, true);
		return;
	}
	w->done += w->step;
	if (c->must_abort) {
		work_close(c);
		scsi_end(c);
	} else if (w->done < w->n) {
		write_step(c);
	} else if (w->then_verify) {
		work_close(c);
		verify_begin(c);
	} else {
		end_good(c);
	}
}

/* One block for all (WRITE SAME): its tuple counts on. */
static void same_tuple(const struct scsi_cmd *c, uint8_t *t, uint64_t i)
{
	const struct work *w = work(c);

	put_be32(t + 4, pi_ref(w->data.type, be32(t + 4), w->done + i));
}

static void write_step(struct scsi_cmd *c)
{
	struct work *w = work(c);
	struct span s = { w->side, 0 };
	int n;

	w->step = step_blocks(c);
	n = scsi_pages_get(c->loop, w->side, w->step * block(c));
	if (n < 0) {
		work_close(c);
		no_memory(c);
		return;
	}
	w->nside = n;
	for (uint64_t i = 0; i < w->step; i++) {
		if (w->one)
			w->out = (struct span){ c->iov, 0 };
		move(&s, &w->out, block(c));
		tuple_get(&w->out, w->tuples + i * PI_BYTES);
		if (w->one)
			same_tuple(c, w->tuples + i * PI_BYTES, i);
	}
	c->io.req = (struct blk_req){ .op = BLK_WRITE, .flags = w->flags | BLK_TUPLES | BLK_PAGES,
		.off = c->off + w->done * block(c), .len = w->step * block(c), .iov = w->side, .niov = n,
		.tuples = w->tuples };
	sbc_submit(c, write_done);
}

/* All that came is checked before anything is written. Failed it? */
static bool data_bad(struct scsi_cmd *c, uint64_t n)
{
	struct work *w = work(c);
	struct span s = w->out;

	for (uint64_t i = 0; i < n; i++) {
		uint8_t t[PI_BYTES];
		uint16_t crc = guard(&s, block(c));
		tuple_get(&s, t);
		unsigned bad = pi_check(&w->data, t, crc, i);
		struct sense_extra x = { .has_info = true, .info = c->lba + i };
		if (!bad)
			continue;
		work_close(c);
		sense_set(c, SENSE(0xb, 0x10, bad), &x);
		scsi_reply(c, SCSI_CHECK_CONDITION);
		return true;
	}
	return false;
}

static uint32_t write_flags(const struct scsi_cmd *c)
{
	return (c->ll->pub.wce ? 0 : BLK_FUA) | (bits(c) & 0x08 ? BLK_FUA : 0u) | (bits(c) & 0x10 ? BLK_DPO : 0u);
}

static bool moves_out(const struct scsi_cmd *c)
{
	return pi_checks(PI_WRITE, code(c)) & PI_MOVES;
}

static int64_t pi_write_prepare(struct scsi_cmd *c)
{
	if (refused(c))
		return -1;
	return (int64_t)(c->nblk * (block(c) + (c->op->cdb_len > 6 && moves_out(c) ? PI_BYTES : 0)));
}

/* Less than was asked for leaves it open where a block begins. */
static bool cut_short(struct scsi_cmd *c)
{
	if (c->out_len == c->want_out)
		return false;
	scsi_reply_field(c, SENSE_INVALID_FIELD, c->op->nblk.at, -1);
	return true;
}

static void write_begin(struct scsi_cmd *c, bool then_verify, bool one)
{
	if (cut_short(c))
		return;
	if (!c->nblk) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (work_open(c)) {
		no_memory(c);
		return;
	}
	work(c)->data = rule(c, PI_WRITE);
	work(c)->flags = then_verify ? BLK_FUA : write_flags(c);
	work(c)->then_verify = then_verify;
	work(c)->one = one;
	if (!data_bad(c, one ? 1 : c->nblk))
		write_step(c);
}

static void write_good(struct scsi_cmd *c)
{
	c->status = SCSI_GOOD;
	scsi_end(c);
}

static void pi_write(struct scsi_cmd *c)
{
	if (c->op->cdb_len > 6 && moves_out(c))
		write_begin(c, false, false);
	else if (is32(c))
		sbc_write_then(c, write_flags(c), write_good);
	else
		sbc_write(c);
}

/* --- VERIFY, WRITE AND VERIFY --- */

static int64_t pi_verify_prepare(struct scsi_cmd *c)
{
	static const bool wanted[4] = { false, true, false, true };
	uint64_t n = bytchk(c) == 3 ? MIN(c->nblk, (uint64_t)1) : c->nblk;

	if (refused(c))
		return -1;
	if (bytchk(c) == 2) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, is32(c) ? 10 : 1, 2);
		return -1;
	}
	return wanted[bytchk(c)] ? (int64_t)(n * (block(c) + (moves_out(c) ? PI_BYTES : 0))) : 0;
}

/* From exec, and when WRITE AND VERIFY has written. */
static void verify_begin(struct scsi_cmd *c)
{
	struct work *w;

	if (work_open(c)) {
		no_memory(c);
		return;
	}
	w = work(c);
	w->looks = bytchk(c);
	w->one = bytchk(c) == 3;
	w->moves = moves_out(c) && (w->looks || (c->op->flags & SCSI_WRITES));
	w->medium = rule(c, w->looks ? PI_VERIFY_MEDIUM : PI_READ);
	w->data = rule(c, PI_VERIFY_DATA);
	w->compare = (unsigned)pi_checks(PI_VERIFY_COMPARE, code(c));
	if (!(c->op->flags & SCSI_WRITES) && w->looks && w->moves && data_bad(c, w->one ? 1 : c->nblk))
		return;
	read_step(c);
}

static void pi_verify(struct scsi_cmd *c)
{
	if (!c->ll->pub.pi_type)
		sbc_verify(c);
	else if (cut_short(c))
		return;
	else if (!c->nblk)
		scsi_reply(c, SCSI_GOOD);
	else
		verify_begin(c);
}

static int64_t pi_write_verify_prepare(struct scsi_cmd *c)
{
	if (bytchk(c) > 1) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, is32(c) ? 10 : 1, 2);
		return -1;
	}
	return pi_write_prepare(c);
}

static void verify_written(struct scsi_cmd *c)
{
	if (c->must_abort)
		scsi_end(c);
	else
		verify_begin(c);
}

static void pi_write_verify(struct scsi_cmd *c)
{
	if (!c->ll->pub.pi_type)
		sbc_write_verify(c);
	else if (moves_out(c))
		write_begin(c, true, false);
	else if (cut_short(c))
		return;
	else
		sbc_write_then(c, BLK_FUA, verify_written);
}

/* --- WRITE SAME --- */

enum { NDOB = 0x01, UNMAP = 0x08 };

/* With a tuple there is one block of data, and nothing is unmapped: unmapped blocks have none. */
static int64_t pi_same_prepare(struct scsi_cmd *c)
{
	uint64_t want = block(c) + PI_BYTES;

	if (refused(c))
		return -1;
	if (!moves_out(c) && !is32(c))
		return sbc_write_same_prepare(c);
	if (!c->nblk)
		c->nblk = c->ll->pub.nblk - c->lba;
	c->len = c->nblk << c->ll->shift;
	if (!moves_out(c))
		want -= PI_BYTES;
	if (c->nblk > SBC_SAME_MAX)
		scsi_reply_field(c, SENSE_INVALID_FIELD, c->op->nblk.at, -1);
	else if (bits(c) & (UNMAP | NDOB))
		scsi_reply_field(c, SENSE_INVALID_FIELD, is32(c) ? 10 : 1, bits(c) & NDOB ? 0 : 3);
	else if (c->room_out != want)
		scsi_reply_field(c, SENSE_INVALID_FIELD, is32(c) ? 10 : 1, -1);
	else
		return (int64_t)want;
	return -1;
}

/* Without a tuple in the data-out, the stack below makes them. */
static void pi_same(struct scsi_cmd *c)
{
	if (moves_out(c))
		write_begin(c, false, true);
	else
		sbc_write_same(c);
}

/* --- the table --- */

#define F2 0xff, 0xff
#define F4 F2, F2
#define F8 F4, F4
#define RD (SCSI_IN | SCSI_MEDIUM | SCSI_PR_READ | SCSI_BLOCKS)
#define WR (SCSI_OUT | SCSI_MEDIUM | SCSI_WRITES | SCSI_PR_WRITE)
#define VF (SCSI_OUT | SCSI_MEDIUM | SCSI_PR_READ)

#define ROW10(op, what, clause, fl, mask, pr, ex)                                                              \
	{ .opcode = op, .name = what " (10)", .spec = clause, .cdb_len = 10, .flags = fl, .prepare = pr, .exec = ex,   \
	  .lba = { 2, 4 }, .nblk = { 7, 2 }, .usage = { op, mask, F4, 0x3f, F2 } }
#define ROW12(op, what, clause, fl, mask, pr, ex)                                                              \
	{ .opcode = op, .name = what " (12)", .spec = clause, .cdb_len = 12, .flags = fl, .prepare = pr, .exec = ex,   \
	  .lba = { 2, 4 }, .nblk = { 6, 4 }, .usage = { op, mask, F4, F4, 0x3f } }
#define ROW16(op, what, clause, fl, mask, pr, ex)                                                              \
	{ .opcode = op, .name = what " (16)", .spec = clause, .cdb_len = 16, .flags = fl, .prepare = pr, .exec = ex,   \
	  .lba = { 2, 8 }, .nblk = { 10, 4 }, .usage = { op, mask, F8, F4, 0x3f } }
#define ROW32(sa, what, clause, fl, mask, pr, ex)                                                              \
	{ .opcode = 0x7f, .action = sa, .name = what " (32)", .spec = clause, .cdb_len = 32, .flags = (fl) | SCSI_SA,  \
	  .prepare = pr, .exec = ex, .lba = { 12, 8 }, .nblk = { 28, 4 },                                              \
	  .usage = { 0x7f, 0, 0, 0, 0, 0, 0x3f, 0x18, 0, sa, mask, 0, F8, F4, F4, F4 } }

const struct scsi_op pi_ops[] = {
	{ .opcode = 0x08, .name = "READ (6)", .spec = "SBC-3 5.7", .cdb_len = 6, .flags = RD, .exec = pi_read,
	  .prepare = pi_read_prepare, .lba = { 1, 3 }, .nblk = { 4, 1 }, .usage = { 0x08, 0x1f, F2, 0xff } },
	ROW10(0x28, "READ", "SBC-4 5.16", RD, 0xf8, pi_read_prepare, pi_read),
	ROW12(0xa8, "READ", "SBC-4 5.17", RD, 0xf8, pi_read_prepare, pi_read),
	ROW16(0x88, "READ", "SBC-4 5.18", RD, 0xf8, pi_read_prepare, pi_read),
	ROW32(0x09, "READ", "SBC-4 5.19", RD, 0xf8, pi_read_prepare, pi_read),
	ROW10(0x2a, "WRITE", "SBC-4 5.40", WR | SCSI_BLOCKS, 0xf8, pi_write_prepare, pi_write),
	ROW12(0xaa, "WRITE", "SBC-4 5.41", WR | SCSI_BLOCKS, 0xf8, pi_write_prepare, pi_write),
	ROW16(0x8a, "WRITE", "SBC-4 5.42", WR | SCSI_BLOCKS, 0xf8, pi_write_prepare, pi_write),
	ROW32(0x0b, "WRITE", "SBC-4 5.43", WR | SCSI_BLOCKS, 0xf8, pi_write_prepare, pi_write),
	ROW10(0x2f, "VERIFY", "SBC-4 5.36", VF, 0xf6, pi_verify_prepare, pi_verify),
	ROW12(0xaf, "VERIFY", "SBC-4 5.37", VF, 0xf6, pi_verify_prepare, pi_verify),
	ROW16(0x8f, "VERIFY", "SBC-4 5.38", VF, 0xf6, pi_verify_prepare, pi_verify),
	ROW32(0x0a, "VERIFY", "SBC-4 5.39", VF, 0xf6, pi_verify_prepare, pi_verify),
	ROW10(0x2e, "WRITE AND VERIFY", "SBC-4 5.44", WR | SCSI_BLOCKS, 0xf6, pi_write_verify_prepare, pi_write_verify),
	ROW12(0xae, "WRITE AND VERIFY", "SBC-4 5.45", WR | SCSI_BLOCKS, 0xf6, pi_write_verify_prepare, pi_write_verify),
	ROW16(0x8e, "WRITE AND VERIFY", "SBC-4 5.46", WR | SCSI_BLOCKS, 0xf6, pi_write_verify_prepare, pi_write_verify),
	ROW32(0x0c, "WRITE AND VERIFY", "SBC-4 5.47", WR | SCSI_BLOCKS, 0xf6, pi_write_verify_prepare, pi_write_verify),
	ROW10(0x41, "WRITE SAME", "SBC-4 5.52", WR, 0xe8, pi_same_prepare, pi_same),
	ROW16(0x93, "WRITE SAME", "SBC-4 5.53", WR, 0xe9, pi_same_prepare, pi_same),
	ROW32(0x0d, "WRITE SAME", "SBC-4 5.54", WR, 0xe9, pi_same_prepare, pi_same),
	{ .name = NULL },
};

/* SPDX-License-Identifier: BSD-3-Clause
 * Keeps a CRC32C and eight bytes of protection information for each block beside the medium
 * (docs/design/0012-protection.md). What the medium gives back changed is -EBADMSG, never data.
 *
 *   option   default  meaning
 *   store    -        the file with the checksums, made if there is none; "memory" for what ends with the process
 *   unit     512      bytes of one checksum: the logical block
 *
 * Invariants
 *  1. A request holds its range from before it looks at entries until its data is where it belongs: reads share it,
 *     everything else excludes.
 *  2. Data goes to the medium only when the store durably has it as a candidate.
 *  3. A generation is settled only by a flush of the medium that began after every write of it had ended. */
#include "block/filter/integrity.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "block/filter/filter.h"
#include "loop/round.h"

enum { PAGES_ACTIVE = SUM_CACHE_PAGES / 2 };

static void start(struct sum_req *r);

/* ---- ranges -------------------------------------------------------------------------------------------- */

static bool conflict(const struct sum_req *a, const struct sum_req *b)
{
	if (a->large && b->large)
		return true; /* there is one intent */
	return (a->exclusive || b->exclusive) && a->off < b->off + b->len && b->off < a->off + a->len;
}

static bool has_conflict(const struct list *head, const struct sum_req *r)
{
	const struct sum_req *other;

	list_for_each(other, head, node) {
		if (other == r)
			return false;
		if (conflict(other, r))
			return true;
	}
	return false;
}

static bool fits(const struct sums *s, const struct sum_req *r)
{
	return list_empty(&s->active) || s->pages_active + r->npages <= PAGES_ACTIVE;
}

static void admit(struct sum_req *r)
{
	list_del(&r->node);
	list_add_tail(&r->s->active, &r->node);
	r->s->pages_active += r->npages;
	start(r);
}

/* The first that may begin, or NULL; what does not fit keeps its turn. */
static struct sum_req *next_ready(struct sums *s)
{
	struct sum_req *r;

	list_for_each(r, &s->waiting, node) {
		if (!fits(s, r))
			return NULL;
		if (!has_conflict(&s->active, r) && !has_conflict(&s->waiting, r))
			return r;
	}
	return NULL;
}

/* A request may end while it is admitted, and so come here again: each time from the front. */
static void admit_waiting(struct sums *s)
{
	struct sum_req *r;

	while ((r = next_ready(s)))
		admit(r);
}

static bool is_large_zero(const struct sum_req *r)
{
	const struct blk_req *req = &r->io->req;

	return (req->op == BLK_ZERO || req->op == BLK_DISCARD) && !(req->flags & BLK_MARK_BAD) && r->npages > SUM_SMALL;
}

static struct sum_req *req_get(struct sums *s)
{
	struct sum_req *r = s->free;

	if (!r)
		return aligned_alloc(64, (sizeof(*r) + 63) & ~(size_t)63); /* as many as are in flight at once, kept */
	s->free = r->next_free;
	return r;
}

static void req_begin(struct sums *s, struct blk_io *io, bool exclusive)
{
	struct sum_req *r = req_get(s);

	if (!r) {
		blk_done(io, -ENOMEM);
		return;
	}
	r->s = s;
	r->io = io;
	r->off = io->req.off;
	r->len = io->req.len;
	r->exclusive = exclusive;
	r->pinned = false;
	r->first = (r->off >> s->shift) / SUM_PER_PAGE;
	r->npages = ((r->off + r->len - 1) >> s->shift) / SUM_PER_PAGE + 1 - r->first;
	r->large = is_large_zero(r);
	if (r->large)
		r->npages = 1; /* at a time, at its ends */
	r->gen = 0;
	r->slot = -1;
	r->nload = 0;
	r->more = NULL;
	list_init(&r->wait);
	list_init(&r->node);
	list_add_tail(&s->waiting, &r->node);
	if (fits(s, r) && !has_conflict(&s->active, r) && !has_conflict(&s->waiting, r))
		admit(r);
}

static void req_free(struct sum_req *r)
{
	struct sums *s = r->s;

	sum_unpin(r);
	list_del(&r->node);
	s->pages_active -= r->npages;
	r->next_free = s->free;
	s->free = r;
	admit_waiting(s);
	if (!list_empty(&s->loaders))
		sum_wake_loaders(s);
}

void sum_end(struct sum_req *r, int status)
{
	struct blk_io *io = r->io;

	req_free(r);
	blk_done(io, status);
}

void sum_end_at(struct sum_req *r, int status, uint64_t off)
{
	r->io->fail_off = off;
	sum_end(r, status);
}

static uint64_t first_unit(const struct sum_req *r)
{
	return r->off >> r->s->shift;
}

static uint64_t units(const struct sum_req *r)
{
	return r->len >> r->s->shift;
}

/* ---- flush and generations ----------------------------------------------------------------------------- */

uint64_t sum_flush_begin(struct sums *s)
{
	uint64_t upto = s->gen;
	const struct sum_req *r;

	list_for_each(r, &s->active, node)
		if (r->gen)
			upto = MIN(upto, r->gen - 1);
	if (s->gen >= s->limit)
		upto = 0; /* the store could not reserve more: writes that begin now look like those before */
	else
		s->gen++;
	return upto;
}

void sum_settle(struct sums *s, uint64_t upto)
{
	s->rules.settled = MAX(s->rules.settled, upto);
}

static void flush_over(struct sum_req *r)
{
	struct blk_io *io = r->io;

	r->next_free = r->s->free;
	r->s->free = r;
	blk_done(io, io->status);
}

static void flush_done(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status == 0) {
		sum_settle(r->s, r->upto);
		sum_super_save(r, flush_over);
	} else {
		flush_over(r);
	}
}

static void flush(struct sums *s, struct blk_io *io)
{
	struct sum_req *r = req_get(s);

	if (!r) {
		blk_done(io, -ENOMEM);
		return;
	}
	r->s = s;
	r->io = io;
	r->upto = sum_flush_begin(s);
	blk_push(io, flush_done, r);
	blk_pass(s->b, io);
}

/* ---- reads --------------------------------------------------------------------------------------------- */

static void put_lent(struct blk_io *io)
{
	for (int i = 0; (io->req.flags & BLK_LEND) && i < io->req.niov; i++)
		page_put(loop_pages(io->loop), io->req.iov[i].iov_base);
}

static void read_done(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	struct sums *s = r->s;
	struct sum_walk w = { io->req.iov, 0 };
	uint8_t *tuples = io->req.flags & BLK_TUPLES ? io->req.tuples : NULL, *p = NULL;

	if (io->status < 0) {
		sum_end(r, io->status);
		return;
	}
	for (uint64_t i = 0, n = units(r); i < n; i++) {
		p = sum_next(s, p, first_unit(r) + i, NULL);
		int e = sum_verify(&s->rules, p, sum_walk_crc(&w, s->unit), tuples ? tuples + i * SUM_TUPLE : NULL);
		if (e < 0) {
			if (e == -EBADMSG)
				log_warn("checksum mismatch disk=%s block=%llu note=\"the medium does not hold what was written; "
					"initiators get MEDIUM ERROR until the block is written again\"", s->data->name,
					(unsigned long long)(first_unit(r) + i));
			put_lent(io);
			sum_end_at(r, e, r->off + (i << s->shift));
			return;
		}
	}
	sum_end(r, 0);
}

static void read_loaded(struct sum_req *r)
{
	struct blk_io *io = r->io;

	blk_push(io, read_done, r);
	io->req.flags &= ~(uint32_t)(BLK_SEND | BLK_TUPLES); /* we do look at it */
	blk_pass(r->s->b, io);
}

/* ---- writes -------------------------------------------------------------------------------------------- */

static void each_entry(struct sum_req *r, void (*fn)(uint8_t *p))
{
	for (uint64_t i = 0, n = units(r); i < n; i++) {
		struct sum_page *page;
		fn(sum_at(r->s, first_unit(r) + i, &page));
		sum_dirty(r->s, page);
	}
}

static void data_written(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status < 0)
		each_entry(r, sum_loosen);
	r->gen = 0;
	sum_end(r, io->status);
}

void sum_write_data(struct sum_req *r)
{
	struct blk_io *io = r->io;

	blk_push(io, data_written, r);
	io->req.flags &= ~(uint32_t)(BLK_TUPLES | BLK_ATOMIC);
	if (io->req.op == BLK_DISCARD && !(r->s->data->caps & BLK_CAN_DISCARD)) {
		io->req.op = BLK_ZERO; /* it must read as zeros */
		io->req.flags |= BLK_MAY_UNMAP;
	}
	blk_pass(r->s->b, io);
}

static void committed(struct sum_req *r)
{
	if (r->status < 0) {
		each_entry(r, sum_undo);
		r->gen = 0;
		sum_end(r, r->status);
	} else if (r->io->req.flags & BLK_MARK_BAD) {
		r->gen = 0;
		sum_end(r, 0);
	} else {
		sum_write_data(r);
	}
}

/* The tuple of a write that brings none. */
static void make_tuple(struct sums *s, uint8_t *t, struct sum_walk w, uint64_t unit)
{
	uint32_t type = atomic_load_explicit(&s->b->tuple_type, memory_order_relaxed);

	memset(t, 0xff, SUM_TUPLE);
	if (!type)
		return;
	put_be16(t, sum_walk_guard(&w, s->unit));
	if (type == 1)
		put_be32(t + 4, (uint32_t)unit);
}

void sum_tuples(struct sum_req *r, uint8_t *to)
{
	const struct blk_req *req = &r->io->req;
	struct sum_walk w = { req->iov, 0 };

	if (req->flags & BLK_TUPLES) {
		memcpy(to, req->tuples, units(r) * SUM_TUPLE);
		return;
	}
	for (uint64_t i = 0, n = units(r); i < n; i++) {
		make_tuple(r->s, to + i * SUM_TUPLE, w, first_unit(r) + i);
		sum_walk_crc(&w, r->s->unit);
	}
}

/* The candidates of the data that came, or of zeros. */
static void put_entries(struct sum_req *r)
{
	struct sums *s = r->s;
	const struct blk_req *req = &r->io->req;
	bool writes = req->op == BLK_WRITE;
	struct sum_walk w = { writes ? req->iov : NULL, 0 };
	struct sum_page *page;
	uint8_t *p = NULL;

	r->gen = s->gen;
	for (uint64_t i = 0, n = units(r); i < n; i++) {
		p = sum_next(s, p, first_unit(r) + i, &page);
		struct sum_walk data = w;
		struct sum_side to = { .crc = writes ? sum_walk_crc(&w, s->unit) : s->rules.zero_crc };
		if (!writes)
			memset(to.tuple, 0xff, SUM_TUPLE);
		else if (req->flags & BLK_TUPLES)
			memcpy(to.tuple, req->tuples + i * SUM_TUPLE, SUM_TUPLE);
		else
			make_tuple(s, to.tuple, data, first_unit(r) + i);
		if (req->flags & BLK_MARK_BAD)
			sum_mark_bad(p, r->gen);
		else
			sum_replace(p, &to, r->gen);
		sum_dirty(s, page);
	}
}

static void logged(struct sum_req *r)
{
	put_entries(r);
	sum_commit(r, committed);
}

static void write_ready(struct sum_req *r)
{
	if (r->io->req.flags & BLK_ATOMIC)
		sum_log_write(r, logged);
	else
		logged(r);
}

/* --- before entries are replaced, each must have one candidate --- */

static void write_prepare(struct sum_req *r);

static enum sum_state worst_state(const struct sum_req *r)
{
	struct sum_entry e;
	enum sum_state worst = SUM_SETTLED;
	uint8_t *p = NULL;

	for (uint64_t i = 0, n = units(r); i < n; i++)
		if (sum_decode((p = sum_next(r->s, p, first_unit(r) + i, NULL)), &e) == 0)
			worst = MAX(worst, sum_state(&r->s->rules, &e));
	return worst;
}

static void prepare_flushed(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status < 0) {
		sum_end(r, io->status);
		return;
	}
	sum_settle(r->s, r->upto);
	if (r->s->gen >= r->s->limit) /* the store has not let us reserve more for a long time */
		sum_end(r, -EIO);
	else
		sum_super_save(r, write_prepare);
}

static void resolve_put(struct sum_req *r)
{
	for (int i = 0; i < r->nmore; i++)
		page_put(loop_pages(r->io->loop), r->more[i].iov_base);
	free(r->more);
	r->more = NULL;
}

/* A block that is in doubt and cannot be read stays as it is: its candidates may be all that is known of it. Marking
 * it bad, or zeroing much, lets it be written again. */
static void resolved(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	struct sum_walk w = { r->more, 0 };

	for (uint64_t i = 0, n = units(r); io->status == 0 && i < n; i++)
		sum_resolve(&r->s->rules, sum_at(r->s, first_unit(r) + i, NULL), sum_walk_crc(&w, r->s->unit));
	resolve_put(r);
	if (io->status < 0)
		sum_end_at(r, io->status, io->fail_off);
	else
		write_prepare(r);
}

/* After a crash: reads what is there, to know which candidate it is. Rare, so that malloc() will do. */
static void resolve(struct sum_req *r)
{
	uint64_t n = (r->len + PAGE_BYTES - 1) / PAGE_BYTES;

	r->more = calloc(n, sizeof(*r->more));
	for (r->nmore = 0; r->more && (uint64_t)r->nmore < n; r->nmore++) {
		void *p = page_get(loop_pages(r->io->loop));
		if (!p)
			break;
		r->more[r->nmore] = (struct iovec){ p, MIN(PAGE_BYTES, r->len - (uint64_t)r->nmore * PAGE_BYTES) };
	}
	if (!r->more || (uint64_t)r->nmore < n) {
		resolve_put(r);
		sum_end(r, -ENOMEM);
		return;
	}
	r->sub.loop = r->io->loop;
	r->sub.req = (struct blk_req){ .op = BLK_READ, .off = r->off, .len = r->len, .iov = r->more, .niov = r->nmore };
	blk_submit(r->s->data, &r->sub, resolved, r);
}

static bool is_stuck(const struct sum_req *r)
{
	const struct sums *s = r->s;

	return s->stuck_len && s->stuck_off < r->off + r->len && r->off < s->stuck_off + s->stuck_len;
}

static void write_prepare(struct sum_req *r)
{
	if (is_stuck(r)) {
		sum_end(r, -EIO);
		return;
	}
	if (sum_log_retire(r, write_prepare))
		return;
	if (r->io->req.flags & BLK_MARK_BAD) {
		logged(r);
		return;
	}
	switch (worst_state(r)) {
	case SUM_SETTLED:
		write_ready(r);
		break;
	case SUM_UNSETTLED:
		r->upto = sum_flush_begin(r->s);
		r->sub.loop = r->io->loop;
		r->sub.req = (struct blk_req){ .op = BLK_FLUSH };
		blk_submit(r->s->data, &r->sub, prepare_flushed, r);
		break;
	case SUM_UNKNOWN:
		resolve(r);
		break;
	}
}

/* ---- zeroing much: an intent, zeros, and blank entries ---------------------------------------------------- */

static void zero_over(struct sum_req *r, int status)
{
	sum_end(r, status);
}

typedef void zero_step_fn(struct blk_io *io, void *ctx);

static void zero_sub(struct sum_req *r, struct blk *to, struct blk_req req, zero_step_fn *next)
{
	r->sub.loop = r->io->loop;
	r->sub.req = req;
	blk_submit(to, &r->sub, next, r);
}

static void zero_intent(struct sum_req *r, uint64_t len, zero_step_fn *next)
{
	sum_intent_fill(r->s->intent_page, r->off, len);
	r->iov[0] = (struct iovec){ r->s->intent_page, SUM_PAGE };
	zero_sub(r, r->s->store, (struct blk_req){ .op = BLK_WRITE, .off = SUM_INTENT_AT, .len = SUM_PAGE, .iov = r->iov,
		.niov = 1, .flags = BLK_FUA }, next);
}

/* What cannot be taken back will be done when the store is opened again: nothing may be written there before. */
static void zero_taken_back(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status < 0) {
		r->s->stuck_off = r->off;
		r->s->stuck_len = r->len;
	}
	zero_over(r, r->status);
}

/* Nobody may find the intent after a restart: what is written to the range from now on would be zeroed. */
void sum_zero_give_up(struct sum_req *r, int status)
{
	r->status = status;
	zero_intent(r, 0, zero_taken_back);
}

static bool zero_failed(struct sum_req *r)
{
	int status = r->sub.status;

	if (status < 0)
		sum_zero_give_up(r, status);
	return status < 0;
}

static void zero_intent_gone(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	r->status = io->status;
	zero_taken_back(io, r);
}

static void zero_edges_done(struct sum_req *r)
{
	if (r->status < 0)
		sum_zero_give_up(r, r->status);
	else
		zero_intent(r, 0, zero_intent_gone);
}

static uint64_t edge_end(uint64_t unit, uint64_t end)
{
	return MIN(end, (unit / SUM_PER_PAGE + 1) * SUM_PER_PAGE);
}

static void blank_units(struct sum_req *r, uint64_t unit, uint64_t end)
{
	struct sum_page *page;

	for (; unit < end; unit++) {
		memset(sum_at(r->s, unit, &page), 0, SUM_ENTRY);
		sum_dirty(r->s, page);
	}
}

static void zero_tail_loaded(struct sum_req *r)
{
	uint64_t end = first_unit(r) + units(r);

	blank_units(r, end / SUM_PER_PAGE * SUM_PER_PAGE, end);
	sum_unpin(r);
	sum_commit(r, zero_edges_done);
}

/* The pages at both ends may have entries of neighbours. */
static void zero_tail(struct sum_req *r)
{
	uint64_t end = first_unit(r) + units(r);

	if (end % SUM_PER_PAGE == 0) {
		sum_commit(r, zero_edges_done);
		return;
	}
	r->first = end / SUM_PER_PAGE;
	sum_load(r, zero_tail_loaded);
}

static void zero_head_loaded(struct sum_req *r)
{
	blank_units(r, first_unit(r), edge_end(first_unit(r), first_unit(r) + units(r)));
	sum_unpin(r);
	zero_tail(r);
}

static void zero_cleared(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (zero_failed(r))
		return;
	if (first_unit(r) % SUM_PER_PAGE)
		sum_load(r, zero_head_loaded);
	else
		zero_tail(r);
}

static void zero_flushed(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	uint64_t first = (first_unit(r) + SUM_PER_PAGE - 1) / SUM_PER_PAGE, end = (first_unit(r) + units(r)) / SUM_PER_PAGE;

	if (zero_failed(r))
		return;
	sum_settle(r->s, r->upto);
	sum_forget(r->s, first, end);
	zero_sub(r, r->s->store, (struct blk_req){ .op = BLK_ZERO, .flags = BLK_MAY_UNMAP,
		.off = SUM_ENTRIES_AT + first * SUM_PAGE, .len = (end - first) * SUM_PAGE }, zero_cleared);
}

static void zero_zeroed(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (zero_failed(r))
		return;
	r->upto = sum_flush_begin(r->s);
	zero_sub(r, r->s->data, (struct blk_req){ .op = BLK_FLUSH }, zero_flushed);
}

static void zero_intended(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	bool punch = r->io->req.op == BLK_DISCARD || (r->io->req.flags & BLK_MAY_UNMAP);

	if (!zero_failed(r))
		zero_sub(r, r->s->data, (struct blk_req){ .op = BLK_ZERO, .flags = punch ? BLK_MAY_UNMAP : 0, .off = r->off,
			.len = r->len }, zero_zeroed);
}

/* No slot of the log is in the way, and this is the only one of its kind. */
static void zero_large(struct sum_req *r)
{
	if (is_stuck(r))
		sum_end(r, -EIO);
	else if (!sum_log_retire(r, zero_large))
		zero_intent(r, r->len, zero_intended);
}

/* ---- the node ------------------------------------------------------------------------------------------ */

static void start(struct sum_req *r)
{
	if (r->io->req.op == BLK_READ)
		sum_load(r, read_loaded);
	else if (r->large)
		zero_large(r);
	else
		sum_load(r, write_prepare);
}

static void integrity_submit(struct blk *b, struct blk_io *io)
{
	struct sums *s = *(struct sums **)b->priv;

	if (io->req.op == BLK_FLUSH)
		flush(s, io);
	else if (io->req.op == BLK_MAP)
		blk_pass(b, io);
	else
		req_begin(s, io, io->req.op != BLK_READ);
}

static int check_conf(const struct blk *b, const struct integrity_conf *c, struct err *e)
{
	if (c->unit != 512 && c->unit != 4096)
		return err_at(e, -EINVAL, "unit", "a checksum covers 512 or 4096 bytes, not %llu",
			(unsigned long long)c->unit);
	if (c->unit < b->block_bytes)
		return err_at(e, -EINVAL, "unit", "blocks of %u bytes are the least that %s can write: give bs=4096",
			b->block_bytes, b->name);
	if (b->home)
		return err_set(e, -EINVAL, "checksums of checksums: leave one integrity filter out");
	return 0;
}

static void sums_free(struct sums *s)
{
	sum_cache_close(s);
	free(s);
}

static void sums_init(struct sums *s, struct blk *b, uint32_t unit)
{
	memset(s, 0, sizeof(*s));
	s->b = b;
	s->data = b->child[0];
	s->unit = unit;
	s->shift = (uint32_t)__builtin_ctz(unit);
	s->bytes = blk_bytes(b) / unit * unit;
	s->read_only = b->caps & BLK_READ_ONLY;
	list_init(&s->active);
	list_init(&s->waiting);
	list_init(&s->loaders);
	list_init(&s->next);
	list_init(&s->now);
}

static int open_over(struct blk *b, const struct integrity_conf *c, struct blk *store, struct err *e)
{
	static unsigned next_home;
	struct sums *s;
	int r = check_conf(b, c, e);

	if (r < 0)
		return r;
	s = aligned_alloc(4096, (sizeof(*s) + 4095) & ~(size_t)4095);
	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	sums_init(s, b, (uint32_t)c->unit);
	r = sum_cache_open(s) < 0 ? err_set(e, -ENOMEM, "out of memory") : sum_open(s, c, store, e);
	if (r < 0) {
		if (!store)
			blk_close(s->store);
		sums_free(s);
		return r;
	}
	*(struct sums **)b->priv = s;
	b->child[1] = s->store;
	b->home = loop_group.n ? loop_group.loop[next_home++ % loop_group.n] : NULL;
	b->block_bytes = s->unit;
	b->bytes = s->bytes;
	b->caps = (b->caps | BLK_CAN_TUPLES) & ~(uint32_t)BLK_CAN_COPY;
	b->untorn_bytes = SUM_ATOMIC_MAX;
	return 0;
}

static int integrity_open(struct blk *b, const void *conf, struct err *e)
{
	return open_over(b, conf, NULL, e);
}

/* Tests bring a store of their own. */
struct over_conf { struct integrity_conf c; struct blk *store; };

static int over_open(struct blk *b, const void *conf, struct err *e)
{
	const struct over_conf *o = conf;

	return open_over(b, &o->c, o->store, e);
}

static void integrity_close(struct blk *b)
{
	struct sums *s = *(struct sums **)b->priv;

	sum_close(s);
	sums_free(s);
}

/* A disk grows when it is opened again. */
static int integrity_poll(struct blk *b)
{
	return 0;
}

#define AT(x) offsetof(struct integrity_conf, x)
static const struct conf_field integrity_fields[] = {
	{ "store", CONF_TEXT, CONF_REQUIRED, AT(store), NULL, NULL, NULL,
		"File that keeps checksums and protection information, made if there is none; memory for a disk that "
		"ends with the process.", NULL },
	{ "unit", CONF_BYTES, 0, AT(unit), "512", NULL, NULL, "Bytes that one checksum covers: the logical block.", NULL },
	{ 0 },
};

const struct blk_ops blk_integrity = {
	.name = "integrity",
	.filter = true,
	.priv_bytes = sizeof(struct sums *),
	.conf_bytes = sizeof(struct integrity_conf),
	.config = integrity_fields,
	.open = integrity_open,
	.close = integrity_close,
	.submit = integrity_submit,
	.poll_size = integrity_poll,
};

int integrity_open_over(struct blk **ret, struct blk *data, struct blk *store, uint64_t unit, struct err *e)
{
	static struct blk_ops ops;
	struct over_conf o = { .c = { .unit = unit }, .store = store };

	ops = blk_integrity;
	ops.open = over_open;
	return blk_open(ret, &ops, &o, data, e);
}

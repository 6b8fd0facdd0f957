/* SPDX-License-Identifier: BSD-3-Clause
 * The redo log of atomic writes: a few slots in the store. A slot is live from its commit until the medium has its
 * data durably and the store knows that; nothing that overlaps is written while it is live, because opening after a
 * crash writes a live slot's data again. */
#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "block/filter/integrity.h"

uint64_t sum_slot_at(int slot)
{
	return SUM_LOG_AT + (uint64_t)slot * SUM_SLOT_BYTES;
}

/* --- giving slots up: flush the medium, then clear the headers of all that were live before --- */

static void pages_put(struct sum_req *r)
{
	for (unsigned i = 0; i < r->nload; i++)
		page_put(loop_pages(r->io->loop), r->iov[i].iov_base);
	r->nload = 0;
}

/* n pages of zeros in r->iov. */
static int pages_get(struct sum_req *r, unsigned n)
{
	for (r->nload = 0; r->nload < n; r->nload++) {
		void *p = page_get(loop_pages(r->io->loop));
		if (!p) {
			pages_put(r);
			return -ENOMEM;
		}
		memset(p, 0, SUM_PAGE);
		r->iov[r->nload] = (struct iovec){ p, SUM_PAGE };
	}
	return 0;
}

/* A request of our own that forks. */
static void forks_begin(struct sum_req *r, blk_done_fn *done)
{
	r->sub.loop = r->io->loop;
	r->sub.status = 0;
	r->sub.depth = 0;
	r->sub.pending = 0;
	blk_push(&r->sub, done, r);
}

static void retired(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	struct sums *s = r->s;

	pages_put(r);
	if (io->status < 0) {
		sum_end(r, io->status);
		return;
	}
	for (int i = 0; i < SUM_SLOTS; i++)
		if (s->slot[i].live && s->slot[i].seq <= r->slots_upto)
			s->slot[i].live = false;
	r->then(r);
}

static void retire_flush(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	if (io->status < 0) {
		retired(io, r);
		return;
	}
	io->req = (struct blk_req){ .op = BLK_FLUSH };
	blk_submit(r->s->store, io, retired, r);
}

static void retire_clear(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	struct sums *s = r->s;

	if (io->status < 0) {
		retired(io, r);
		return;
	}
	sum_settle(s, r->upto);
	forks_begin(r, retire_flush);
	for (int i = 0; i < SUM_SLOTS; i++)
		if (s->slot[i].live && s->slot[i].seq <= r->slots_upto)
			blk_fork(io, s->store, &(struct blk_req){ .op = BLK_WRITE, .off = sum_slot_at(i), .len = SUM_PAGE,
				.iov = r->iov, .niov = 1 });
	if (!io->pending)
		blk_done(io, 0);
}

/* What is in flight into a slot's range has the range locked, and so does who asks: the slots up to now are those
 * whose data is written, but for writes under way elsewhere, which number later. */
static void retire(struct sum_req *r, sum_step_fn *then)
{
	struct sums *s = r->s;
	struct sum_req *other;

	if (pages_get(r, 1) < 0) {
		sum_end(r, -ENOMEM);
		return;
	}
	r->then = then;
	r->slots_upto = s->slot_seq;
	list_for_each(other, &s->active, node)
		if (other->slot >= 0)
			r->slots_upto = MIN(r->slots_upto, s->slot[other->slot].seq - 1);
	r->upto = sum_flush_begin(s);
	r->sub.loop = r->io->loop;
	r->sub.req = (struct blk_req){ .op = BLK_FLUSH };
	blk_submit(s->data, &r->sub, retire_clear, r);
}

bool sum_log_retire(struct sum_req *r, sum_step_fn *then)
{
	for (int i = 0; i < SUM_SLOTS; i++) {
		struct sum_slot *slot = &r->s->slot[i];
		if (slot->live && slot->off < r->off + r->len && r->off < slot->off + slot->len) {
			retire(r, then);
			return true;
		}
	}
	return false;
}

/* --- filling one --- */

static void logged(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;

	pages_put(r);
	if (io->status < 0)
		sum_end(r, io->status);
	else
		r->then(r);
}

static int free_slot(const struct sums *s)
{
	for (int i = 0; i < SUM_SLOTS; i++)
		if (!s->slot[i].live)
			return i;
	return -1;
}

static void log_again(struct sum_req *r)
{
	sum_log_write(r, r->then_log);
}

/* Header, tuples and data, where the slot has them. */
static void log_send(struct sum_req *r, uint32_t crc)
{
	struct sums *s = r->s;
	const struct blk_req *req = &r->io->req;
	struct sum_slot *slot = &s->slot[r->slot];
	uint8_t *tuples = r->iov[1].iov_base;

	memset(tuples, 0xff, SUM_PAGE);
	sum_tuples(r, tuples);
	sum_slot_fill(r->iov[0].iov_base, slot, crc, crc32c(0, tuples, SUM_PAGE));
	forks_begin(r, logged);
	blk_fork(&r->sub, s->store, &(struct blk_req){ .op = BLK_WRITE, .off = sum_slot_at(r->slot), .len = 2 * SUM_PAGE,
		.iov = r->iov, .niov = 2 });
	blk_fork(&r->sub, s->store, &(struct blk_req){ .op = BLK_WRITE, .off = sum_slot_at(r->slot) + 2 * SUM_PAGE,
		.len = r->len, .iov = req->iov, .niov = req->niov });
}

void sum_log_write(struct sum_req *r, sum_step_fn *then)
{
	struct sums *s = r->s;
	int i = free_slot(s);

	if (i < 0) {
		r->then_log = then;
		retire(r, log_again);
		return;
	}
	if (pages_get(r, 2) < 0) {
		sum_end(r, -ENOMEM);
		return;
	}
	r->slot = i;
	s->slot[i] = (struct sum_slot){ true, r->off, r->len, ++s->slot_seq };
	r->then = then;
	log_send(r, crc32c_iov(0, r->io->req.iov, r->io->req.niov, 0, r->len));
}

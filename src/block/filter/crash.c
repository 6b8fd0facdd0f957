/* SPDX-License-Identifier: BSD-3-Clause
 * A write cache that loses power. What is written stays in memory until a flush; when the power goes, some of
 * it reaches the medium, some does not, and some is torn between sectors.
 *
 *   option   default  meaning
 *   flush    0        the power goes at this flush, from 1, instead of doing it; 0: only by crash_cut()
 *   seed     1        draws the fate of each write
 *
 * For tests: memory comes from malloc, and all requests come from one loop.
 *
 * Invariants
 *  1. cell[n] lists the versions of sector n that the medium may lack, newest first; what a read returns is the
 *     newest, or else the medium's.
 *  2. A version leaves its list when the medium has it or a later one, and no read that began before is under way.
 *  3. After the power went, a sector holds a version that was current at some time since its last flush, or the
 *     flushed one; the sectors of one write may differ in that.
 *  4. A FUA write goes to the medium at once and takes along nothing but itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "block/filter/filter.h"

enum { SECTOR = 512, RUN_BYTES = 64 << 10 };

struct version {
	struct version *older;
	uint64_t        write; /* which write it belongs to; tells when */
	char            data[SECTOR];
};

struct crash_conf {
	uint64_t flush, seed;
};

struct crash {
	struct crash_conf c;
	struct blk       *b;
	struct version  **cell;     /* [sectors] */
	uint64_t          sectors, dirty_from, dirty_to;
	uint64_t          writes, flushes;
	unsigned          reading;  /* reads under way below */
	bool              off;      /* the power is gone */
	bool              cutting;  /* the drain under way is the last */
	struct blk_io    *waiting, **waiting_end; /* arrived during a drain, or the flush itself: by io->parent */
	struct blk_io    *flushing; /* the request that the drain is for; NULL: crash_cut() */
	bool              draining;
	uint64_t          next;     /* sector the drain is at */
	struct iovec      iov;
	struct blk_io     io;       /* the drain's own request */
	char              run[RUN_BYTES];
};

static const struct conf_field crash_fields[] = {
	{ "flush", CONF_UINT, 0, offsetof(struct crash_conf, flush), "0", NULL, NULL,
		"The power goes at this flush, from 1; 0: never by itself.", NULL },
	{ "seed", CONF_UINT, 0, offsetof(struct crash_conf, seed), "1", NULL, NULL, "Draws the fate of each write.",
		NULL },
	{ 0 },
};

static uint64_t draw(const struct crash *c, uint64_t a, uint64_t b)
{
	uint64_t z = c->c.seed * 0x9e3779b97f4a7c15ull + a * 0xbf58476d1ce4e5b9ull + b * 0x94d049bb133111ebull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* A third of all writes survives, a third is lost, a third is torn sector by sector. */
static bool survives(const struct crash *c, const struct version *v, uint64_t sector)
{
	switch (draw(c, v->write, UINT64_MAX) % 3) {
	case 0: return true;
	case 1: return false;
	default: return draw(c, v->write, sector) & 1;
	}
}

/* ---- versions ---------------------------------------------------------------------------------------- */

/* Forgets versions not younger than `write`. */
static void cell_trim(struct crash *c, uint64_t sector, uint64_t write)
{
	struct version **at = &c->cell[sector], *v, *older;

	while (*at && (*at)->write > write)
		at = &(*at)->older;
	for (v = *at; v; v = older) {
		older = v->older;
		free(v);
	}
	*at = NULL;
}

static void mark_dirty(struct crash *c, uint64_t from, uint64_t to)
{
	c->dirty_from = MIN(c->dirty_from, from);
	c->dirty_to = MAX(c->dirty_to, to);
}

static void iov_read(const struct iovec *iov, uint64_t skip, char *to, size_t len)
{
	for (; skip >= iov->iov_len; iov++)
		skip -= iov->iov_len;
	while (len) {
		size_t n = MIN(len, iov->iov_len - skip);
		memcpy(to, (char *)iov->iov_base + skip, n);
		to += n;
		len -= n;
		iov++;
		skip = 0;
	}
}

static void iov_write(const struct iovec *iov, uint64_t skip, const char *from, size_t len)
{
	for (; skip >= iov->iov_len; iov++)
		skip -= iov->iov_len;
	while (len) {
		size_t n = MIN(len, iov->iov_len - skip);
		memcpy((char *)iov->iov_base + skip, from, n);
		from += n;
		len -= n;
		iov++;
		skip = 0;
	}
}

static int hold(struct crash *c, const struct blk_req *r)
{
	uint64_t first = r->off / SECTOR, n = r->len / SECTOR;

	c->writes++;
	mark_dirty(c, first, first + n);
	for (uint64_t i = 0; i < n; i++) {
		struct version *v = calloc(1, sizeof(*v));

		if (!v)
			return -ENOMEM;
		v->write = c->writes;
		if (r->op == BLK_WRITE)
			iov_read(r->iov, i * SECTOR, v->data, SECTOR);
		v->older = c->cell[first + i];
		c->cell[first + i] = v;
	}
	return 0;
}

/* ---- writing out: at a flush all, at a power cut what the seed lets through ------------------------------ */

static void crash_serve(struct crash *c, struct blk_io *io);
static void drain_next(struct crash *c);

static const struct version *drained_version(const struct crash *c, uint64_t sector)
{
	const struct version *v = c->cell[sector];

	while (c->cutting && v && !survives(c, v, sector))
		v = v->older;
	return v;
}

static void serve_waiting(struct crash *c)
{
	struct blk_io *io = c->waiting, *next;

	c->waiting = NULL;
	c->waiting_end = &c->waiting;
	for (; io; io = next) {
		next = io->parent;
		crash_serve(c, io);
	}
}

static void drain_end(struct crash *c, int status)
{
	struct blk_io *io = c->flushing;

	c->draining = false;
	c->flushing = NULL;
	c->off |= c->cutting;
	if (io)
		blk_done(io, c->off ? -EIO : status);
	serve_waiting(c);
}

static void flush_done(struct blk_io *io, void *ctx)
{
	drain_end(ctx, io->status);
}

static void run_done(struct blk_io *io, void *ctx)
{
	if (io->status < 0)
		drain_end(ctx, io->status);
	else
		drain_next(ctx);
}

static void drain_request(struct crash *c, enum blk_op op, uint64_t off, uint64_t len, blk_done_fn *done)
{
	c->iov = (struct iovec){ c->run, len };
	c->io.req = (struct blk_req){ .op = op, .off = off, .len = len, .iov = &c->iov, .niov = 1 };
	blk_submit(c->b->child[0], &c->io, done, c);
}

/* Writes the next run of adjoining sectors; at the end, the child's flush. */
static void drain_next(struct crash *c)
{
	uint64_t from, len = 0;

	while (c->next < c->dirty_to && !drained_version(c, c->next))
		cell_trim(c, c->next++, UINT64_MAX);
	for (from = c->next; c->next < c->dirty_to && len < RUN_BYTES; len += SECTOR) {
		const struct version *v = drained_version(c, c->next);

		if (!v)
			break;
		memcpy(c->run + len, v->data, SECTOR);
		cell_trim(c, c->next++, UINT64_MAX);
	}
	if (len) {
		drain_request(c, BLK_WRITE, from * SECTOR, len, run_done);
		return;
	}
	c->dirty_from = UINT64_MAX;
	c->dirty_to = 0;
	drain_request(c, BLK_FLUSH, 0, 0, flush_done);
}

/* Begins when no read is under way that may need what the drain takes away. */
static void drain_try(struct crash *c)
{
	if (c->draining && !c->reading && c->next == UINT64_MAX) {
		c->next = MIN(c->dirty_from, c->dirty_to);
		drain_next(c);
	}
}

static void drain_begin(struct crash *c, struct loop *l, struct blk_io *io, bool cut)
{
	c->draining = true;
	c->flushing = io;
	c->cutting = cut;
	c->next = UINT64_MAX;
	c->io.loop = l;
	drain_try(c);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static void read_done(struct blk_io *io, void *ctx)
{
	struct crash *c = ctx;
	uint64_t first = io->req.off / SECTOR, n = io->req.len / SECTOR;

	for (uint64_t i = 0; io->status == 0 && i < n; i++)
		if (c->cell[first + i])
			iov_write(io->req.iov, i * SECTOR, c->cell[first + i]->data, SECTOR);
	c->reading--;
	if (io->status < 0 && blk_scratch(io)[0])
		for (uint64_t i = 0; i < blk_scratch(io)[0]; i++)
			page_put(loop_pages(io->loop), io->req.iov[i].iov_base);
	else if (blk_scratch(io)[0])
		io->req.niov = (int)blk_scratch(io)[0];
	blk_done(io, io->status);
	drain_try(c);
}

/* A lent read gets pages of this filter's own, because those of the child may not be changed. */
static int take_pages(struct blk_io *io, uint64_t *ret_n)
{
	struct page_cache *pc = loop_pages(io->loop);
	uint64_t n = 0;

	for (uint64_t left = io->req.len; left; n++) {
		size_t len = MIN(left, PAGE_BYTES);
		void *p = page_get(pc);

		if (!p) {
			while (n)
				page_put(pc, io->req.iov[--n].iov_base);
			return -ENOMEM;
		}
		io->req.iov[n] = (struct iovec){ p, len };
		left -= len;
	}
	*ret_n = n;
	return 0;
}

static void crash_read(struct crash *c, struct blk_io *io)
{
	uint64_t pages = 0;

	if (io->req.flags & BLK_LEND) {
		int r = take_pages(io, &pages);
		if (r < 0) {
			blk_done(io, r);
			return;
		}
	}
	c->reading++;
	blk_push(io, read_done, c)[0] = pages;
	if (pages)
		io->req.niov = (int)pages;
	io->req.flags &= ~(uint32_t)BLK_LEND;
	blk_pass(c->b, io);
}

static void fua_done(struct blk_io *io, void *ctx)
{
	struct crash *c = ctx;
	uint64_t first = io->req.off / SECTOR, n = io->req.len / SECTOR;

	for (uint64_t i = 0; io->status == 0 && i < n; i++)
		cell_trim(c, first + i, blk_scratch(io)[0]);
	c->reading--;
	blk_done(io, io->status);
	drain_try(c);
}

static void crash_write(struct crash *c, struct blk_io *io)
{
	if (io->req.flags & BLK_FUA) {
		c->reading++; /* a drain waits for it too */
		blk_push(io, fua_done, c)[0] = ++c->writes;
		blk_pass(c->b, io);
		return;
	}
	blk_done(io, hold(c, &io->req));
}

static void crash_flush(struct crash *c, struct blk_io *io)
{
	drain_begin(c, io->loop, io, ++c->flushes == c->c.flush);
}

static void crash_map(struct crash *c, struct blk_io *io)
{
	io->req.map[0] = (struct blk_extent){ io->req.off, io->req.len, BLK_DATA };
	io->req.nmap = 1;
	blk_done(io, 0);
}

static void crash_serve(struct crash *c, struct blk_io *io)
{
	static void (*const exec[BLK_OPS])(struct crash *c, struct blk_io *io) = {
		[BLK_READ] = crash_read,     [BLK_WRITE] = crash_write, [BLK_FLUSH] = crash_flush,
		[BLK_DISCARD] = crash_write, [BLK_ZERO] = crash_write, [BLK_MAP] = crash_map,
	};

	if (c->off) {
		blk_done(io, -EIO);
	} else if (c->draining) {
		io->parent = NULL;
		*c->waiting_end = io;
		c->waiting_end = &io->parent;
	} else {
		exec[io->req.op](c, io);
	}
}

static void crash_submit(struct blk *b, struct blk_io *io)
{
	crash_serve(b->priv, io);
}

void crash_cut(struct blk *b, struct loop *l, uint64_t seed)
{
	struct crash *c = b->priv;

	while (c->draining)
		loop_turn(l, UINT64_MAX);
	c->c.seed = seed;
	if (!c->off)
		drain_begin(c, l, NULL, true);
	while (c->draining)
		loop_turn(l, UINT64_MAX);
}

bool crash_is_off(const struct blk *b)
{
	const struct crash *c = b->priv;

	return c->off;
}

static int crash_open(struct blk *b, const void *conf, struct err *e)
{
	struct crash *c = b->priv;
	size_t bytes;

	c->c = *(const struct crash_conf *)conf;
	c->b = b;
	c->sectors = blk_bytes(b) / SECTOR;
	c->dirty_from = UINT64_MAX;
	c->waiting_end = &c->waiting;
	bytes = (c->sectors + 1) * sizeof(*c->cell);
	c->cell = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->cell == MAP_FAILED)
		return err_set(e, -ENOMEM, "no address space to hold the writes of %llu bytes: use a smaller disk",
			(unsigned long long)blk_bytes(b));
	b->block_bytes = MAX(b->block_bytes, (uint32_t)SECTOR);
	b->caps &= ~(uint32_t)(BLK_CAN_MAP | BLK_CAN_TUPLES);
	b->untorn_bytes = 0;
	b->caps |= BLK_WRITE_CACHE | BLK_CAN_LEND;
	return 0;
}

static void crash_close(struct blk *b)
{
	struct crash *c = b->priv;

	for (uint64_t i = MIN(c->dirty_from, c->dirty_to); i < c->dirty_to; i++)
		cell_trim(c, i, UINT64_MAX);
	munmap(c->cell, (c->sectors + 1) * sizeof(*c->cell));
}

const struct blk_ops blk_crash = {
	.name = "crash",
	.filter = true,
	.priv_bytes = sizeof(struct crash),
	.conf_bytes = sizeof(struct crash_conf),
	.config = crash_fields,
	.open = crash_open,
	.close = crash_close,
	.submit = crash_submit,
};

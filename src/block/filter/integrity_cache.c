/* SPDX-License-Identifier: BSD-3-Clause
 * The store's pages in memory, and commits: one write and flush of the store for all requests that wait for it.
 *
 * A page that a request has pinned stays. A dirty page stays until a commit has written it. A commit writes copies,
 * because the next requests change pages while it runs. */
#include <errno.h>
#include <stdlib.h>

#include "block/filter/integrity.h"

int sum_cache_open(struct sums *s)
{
	s->page = calloc(SUM_CACHE_PAGES, sizeof(*s->page));
	return s->page ? 0 : -ENOMEM;
}

void sum_cache_close(struct sums *s)
{
	for (unsigned i = 0; s->page && i < s->npages; i++)
		free(s->page[i].bytes);
	free(s->page);
	while (s->free) {
		struct sum_req *r = s->free;
		s->free = r->next_free;
		free(r);
	}
}

struct sum_page *sum_find(struct sums *s, uint64_t index)
{
	struct sum_page *p = s->bucket[index % SUM_BUCKETS];

	while (p && p->index != index)
		p = p->next;
	return p;
}

static void unhash(struct sums *s, struct sum_page *p)
{
	struct sum_page **at = &s->bucket[p->index % SUM_BUCKETS];

	while (*at && *at != p)
		at = &(*at)->next;
	if (*at)
		*at = p->next;
	p->index = UINT64_MAX;
}

static void hash(struct sums *s, struct sum_page *p, uint64_t index)
{
	struct sum_page **at = &s->bucket[index % SUM_BUCKETS];

	p->index = index;
	p->next = *at;
	*at = p;
}

static bool in_use(const struct sum_page *p)
{
	return p->pins || p->loading || p->dirty || p->busy;
}

/* A page for other contents: a fresh one, or the next that was not touched since the hand passed. */
static struct sum_page *take_page(struct sums *s)
{
	if (s->npages < SUM_CACHE_PAGES) {
		struct sum_page *p = &s->page[s->npages];
		p->bytes = aligned_alloc(SUM_PAGE, SUM_PAGE);
		p->index = UINT64_MAX;
		if (p->bytes) {
			s->npages++;
			return p;
		}
	}
	for (unsigned i = 0; i < 2 * s->npages; i++) {
		struct sum_page *p = &s->page[s->hand++ % s->npages];
		if (in_use(p))
			continue;
		if (!p->hot) {
			unhash(s, p);
			return p;
		}
		p->hot = false;
	}
	return NULL;
}

void sum_dirty(struct sums *s, struct sum_page *p)
{
	if (p->dirty)
		return;
	p->dirty = true;
	s->ndirty++;
	p->next_dirty = s->dirty;
	s->dirty = p;
}

/* Pages whose entries are being cleared below: what was not written yet must not be written any more. */
void sum_forget(struct sums *s, uint64_t first, uint64_t end)
{
	struct sum_page **at = &s->dirty;

	while (*at) {
		struct sum_page *p = *at;
		if (p->index >= first && p->index < end) {
			*at = p->next_dirty;
			p->dirty = false;
			s->ndirty--;
		} else {
			at = &p->next_dirty;
		}
	}
	for (unsigned i = 0; i < s->npages; i++) {
		struct sum_page *p = &s->page[i];
		if (p->index < first || p->index >= end)
			continue;
		if (in_use(p)) { /* a commit of somebody's writes it just now */
			memset(p->bytes, 0, SUM_PAGE);
			sum_dirty(s, p);
		} else {
			unhash(s, p);
		}
	}
}

/* --- loading --- */

static void load_try(struct sum_req *r);

void sum_wake_loaders(struct sums *s)
{
	struct list again;
	struct sum_req *r;

	list_init(&again);
	list_splice_tail(&again, &s->loaders);
	while (!list_empty(&again)) {
		r = list_first(&again, struct sum_req, wait);
		list_del(&r->wait);
		load_try(r);
	}
}

static void load_done(struct blk_io *io, void *ctx)
{
	struct sum_req *r = ctx;
	struct sums *s = r->s;

	for (unsigned i = 0; i < r->nload; i++) {
		r->load[i]->loading = false;
		if (io->status < 0)
			unhash(s, r->load[i]);
	}
	if (io->status < 0)
		(r->large ? sum_zero_give_up : sum_end)(r, io->status);
	else
		load_try(r);
	sum_wake_loaders(s);
}

static void wait_for_page(struct sum_req *r)
{
	list_add_tail(&r->s->loaders, &r->wait);
}

/* Reads a run of missing pages from `index` on. */
static void load_run(struct sum_req *r, uint64_t index)
{
	struct sums *s = r->s;
	uint64_t end = r->first + r->npages;

	r->nload = 0;
	for (uint64_t i = index; i < end && r->nload < SUM_LOAD && !sum_find(s, i); i++) {
		struct sum_page *p = take_page(s);
		if (!p)
			break;
		p->loading = true;
		hash(s, p, i);
		r->iov[r->nload] = (struct iovec){ p->bytes, SUM_PAGE };
		r->load[r->nload++] = p;
	}
	if (!r->nload) {
		wait_for_page(r);
		return;
	}
	r->sub.loop = r->io->loop;
	r->sub.req = (struct blk_req){ .op = BLK_READ, .off = SUM_ENTRIES_AT + index * SUM_PAGE,
		.len = (uint64_t)r->nload * SUM_PAGE, .iov = r->iov, .niov = (int)r->nload };
	blk_submit(s->store, &r->sub, load_done, r);
}

static void load_try(struct sum_req *r)
{
	for (uint64_t i = r->first; i < r->first + r->npages; i++) {
		struct sum_page *p = sum_find(r->s, i);
		if (!p) {
			load_run(r, i);
			return;
		}
		if (p->loading) {
			wait_for_page(r);
			return;
		}
	}
	for (uint64_t i = r->first; i < r->first + r->npages; i++) {
		struct sum_page *p = sum_find(r->s, i);
		p->pins++;
		p->hot = true;
	}
	r->pinned = true;
	r->then(r);
}

void sum_load(struct sum_req *r, sum_step_fn *then)
{
	r->then = then;
	load_try(r);
}

void sum_unpin(struct sum_req *r)
{
	for (uint64_t i = r->first; r->pinned && i < r->first + r->npages; i++)
		sum_find(r->s, i)->pins--;
	r->pinned = false;
}

uint8_t *sum_at(struct sums *s, uint64_t unit, struct sum_page **ret_page)
{
	struct sum_page *p = sum_find(s, unit / SUM_PER_PAGE);

	CHECK(p);
	if (ret_page)
		*ret_page = p;
	return p->bytes + unit % SUM_PER_PAGE * SUM_ENTRY;
}

/* --- commits --- */

static void commit_start(struct sums *s, struct loop *l);

static void commit_over(struct sums *s, int status)
{
	struct page_cache *pc = loop_pages(s->commit.loop);
	struct loop *l = s->commit.loop;
	struct list now;

	for (unsigned i = 0; i < s->ncommit; i++) {
		s->commit_page[i]->busy = false;
		if (status < 0)
			sum_dirty(s, s->commit_page[i]); /* the next one tries again */
		page_put(pc, s->commit_iov[i].iov_base);
	}
	s->ncommit = 0;
	s->committing = false;
	list_init(&now);
	list_splice_tail(&now, &s->now);
	if (!list_empty(&s->next))
		commit_start(s, l);
	while (!list_empty(&now)) {
		struct sum_req *r = list_first(&now, struct sum_req, wait);
		list_del(&r->wait);
		r->status = status;
		r->then(r);
	}
	sum_wake_loaders(s);
}

static void commit_flushed(struct blk_io *io, void *ctx)
{
	commit_over(ctx, io->status);
}

static void commit_written(struct blk_io *io, void *ctx)
{
	struct sums *s = ctx;

	if (io->status < 0) {
		commit_over(s, io->status);
		return;
	}
	io->req = (struct blk_req){ .op = BLK_FLUSH };
	blk_submit(s->store, io, commit_flushed, s);
}

/* Copies of the dirty pages; whether there was room for all. */
static bool commit_collect(struct sums *s)
{
	while (s->dirty) {
		struct sum_page *p = s->dirty;
		void *copy = s->ncommit < SUM_COMMIT ? page_get(loop_pages(s->commit.loop)) : NULL;
		if (!copy)
			return false;
		memcpy(copy, p->bytes, SUM_PAGE);
		s->dirty = p->next_dirty;
		s->ndirty--;
		p->dirty = false;
		p->busy = true;
		s->commit_iov[s->ncommit] = (struct iovec){ copy, SUM_PAGE };
		s->commit_page[s->ncommit++] = p;
	}
	return true;
}

static void commit_more(struct blk_io *io, void *ctx);

/* Sends the copies down as forks of one request. */
static void commit_send(struct sums *s, blk_done_fn *done)
{
	struct blk_io *io = &s->commit;

	io->status = 0;
	io->depth = 0;
	io->pending = 0;
	blk_push(io, done, s);
	for (unsigned i = 0; i < s->ncommit; i++)
		blk_fork(io, s->store, &(struct blk_req){ .op = BLK_WRITE, .iov = &s->commit_iov[i], .niov = 1,
			.off = SUM_ENTRIES_AT + s->commit_page[i]->index * SUM_PAGE, .len = SUM_PAGE });
	if (!s->ncommit)
		blk_done(io, 0);
}

static void commit_collect_send(struct sums *s)
{
	bool all = commit_collect(s);

	if (!all && !s->ncommit)
		commit_over(s, -ENOMEM);
	else
		commit_send(s, all ? commit_written : commit_more);
}

/* There were more than one turn takes: those that are written are clean, the rest follows before the flush. */
static void commit_more(struct blk_io *io, void *ctx)
{
	struct sums *s = ctx;

	if (io->status < 0) {
		commit_over(s, io->status);
		return;
	}
	for (unsigned i = 0; i < s->ncommit; i++) {
		s->commit_page[i]->busy = false;
		page_put(loop_pages(io->loop), s->commit_iov[i].iov_base);
	}
	s->ncommit = 0;
	commit_collect_send(s);
}

static void commit_start(struct sums *s, struct loop *l)
{
	s->committing = true;
	s->commit.loop = l;
	list_splice_tail(&s->now, &s->next);
	commit_collect_send(s);
}

void sum_commit(struct sum_req *r, sum_step_fn *then)
{
	struct sums *s = r->s;

	if ((s->store->caps & BLK_VOLATILE) && s->ndirty < SUM_COMMIT) { /* what ends with the process needs no order */
		r->status = 0;
		then(r);
		return;
	}
	r->then = then;
	list_add_tail(&s->next, &r->wait);
	if (!s->committing)
		commit_start(s, r->io->loop);
}

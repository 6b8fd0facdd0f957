/* SPDX-License-Identifier: BSD-3-Clause
 * Requests on their way down and up a stack.
 *
 * Down: blk_submit() pushes the caller's frame and enters the top node, on its home loop when it has one.
 * Up: blk_done() queues the request on the loop of the frame on top; blk_pop() restores that frame's request
 * and calls its done. io->loop is always the loop on which the request is at that moment. */
#include "block/blk.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

_Static_assert(offsetof(struct blk_io, task) <= 64, "the first cache line holds what every layer reads");
_Static_assert(sizeof(void *) == sizeof(uint64_t), "copy_req() copies from_off by map");
_Static_assert(offsetof(struct blk_io, op) <= 128, "a request without a system operation needs two lines");

/* Filters show what they filter until they say otherwise. */
static void blk_inherit(struct blk *b, struct blk *child)
{
	b->child[0] = child;
	b->home = child->home;
	b->bytes = blk_bytes(child);
	b->block_bytes = child->block_bytes;
	b->phys_bytes = child->phys_bytes;
	b->caps = child->caps & ~(b->ops->copies ? 0u : (unsigned)BLK_CAN_COPY);
	b->discard_bytes = child->discard_bytes;
	b->discard_max = child->discard_max;
	b->forks_max = child->forks_max;
	b->untorn_bytes = child->untorn_bytes;
	memcpy(b->name, child->name, sizeof(b->name));
}

int blk_open(struct blk **ret, const struct blk_ops *ops, const void *conf, struct blk *child, struct err *e)
{
	struct blk *b = calloc(1, sizeof(*b) + ops->priv_bytes);
	int r;

	if (!b)
		return err_set(e, -ENOMEM, "out of memory");
	CHECK(ops->filter == (child != NULL));
	b->ops = ops;
	b->priv = b + 1;
	b->block_bytes = 1;
	b->phys_bytes = PAGE_BYTES;
	snprintf(b->name, sizeof(b->name), "%s", ops->name);
	if (child)
		blk_inherit(b, child);
	r = ops->open ? ops->open(b, conf, e) : 0;
	if (r < 0) {
		free(b);
		return r;
	}
	*ret = b;
	return 0;
}

void blk_close(struct blk *b)
{
	if (!b)
		return;
	if (b->ops->close)
		b->ops->close(b);
	for (int i = 0; i < BLK_CHILD_MAX; i++)
		blk_close(b->child[i]);
	free(b);
}

void blk_tuple_type(struct blk *b, unsigned type)
{
	for (; b; b = b->child[0])
		atomic_store_explicit(&b->tuple_type, type, memory_order_relaxed);
}

static void blk_enter(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct blk *b = (struct blk *)(uintptr_t)io->scratch[0];

	io->loop = b->home;
	b->ops->submit(b, io);
}

/* Hands io to b, where b lives. The driver's scratch is free until then and carries b over. */
static void blk_hand(struct blk *b, struct blk_io *io)
{
	if (__builtin_expect(!b->home || b->home == io->loop, 1)) {
		b->ops->submit(b, io);
		return;
	}
	io->scratch[0] = (uintptr_t)b;
	io->task.run = blk_enter;
	loop_post(b->home, &io->task);
}

void blk_pass(struct blk *b, struct blk_io *io)
{
	blk_hand(b->child[0], io);
}

static void blk_pop(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);
	struct blk_frame *f = &io->frame[--io->depth];
	int niov = io->req.niov, nmap = io->req.nmap;

	io->req = f->req;
	io->loop = f->loop;
	if (io->req.op == BLK_READ && (io->req.flags & BLK_LEND))
		io->req.niov = io->status < 0 ? 0 : niov;
	else if (io->req.op == BLK_MAP)
		io->req.nmap = nmap;
	f->done(io, f->ctx);
}

void blk_done(struct blk_io *io, int status)
{
	struct loop *to = io->frame[io->depth - 1].loop;

	DCHECK(io->depth > 0 && io->pending == 0 && status <= 0);
	io->status = status;
	io->task.run = blk_pop;
	if (__builtin_expect(to == io->loop, 1))
		loop_defer(to, &io->task);
	else
		loop_post(to, &io->task);
}

void blk_fail_at(struct blk_io *io, int status, uint64_t off)
{
	io->fail_off = off;
	blk_done(io, status);
}

/* Field by field: a wide load over fields that were just stored one by one waits until all stores before them have
 * reached the cache, among them a page of write data. */
static void copy_req(struct blk_req *to, const volatile struct blk_req *from)
{
	to->op = from->op;
	to->niov = from->niov;
	to->off = from->off;
	to->len = from->len;
	to->iov = from->iov;
	to->flags = from->flags;
	to->nmap = from->nmap;
	to->map = from->map;
}

uint64_t *blk_push(struct blk_io *io, blk_done_fn *done, void *ctx)
{
	struct blk_frame *f = &io->frame[io->depth++];

	CHECK(io->depth <= BLK_DEPTH_MAX);
	copy_req(&f->req, &io->req);
	f->done = done;
	f->ctx = ctx;
	f->loop = io->loop;
	return f->scratch;
}

uint64_t *blk_scratch(struct blk_io *io)
{
	return io->frame[io->depth].scratch;
}

static bool changes(enum blk_op op)
{
	return op == BLK_WRITE || op == BLK_DISCARD || op == BLK_ZERO || op == BLK_COPY;
}

static bool needs_iov(enum blk_op op)
{
	return op == BLK_READ || op == BLK_WRITE;
}

static bool room_for(const struct blk_req *r)
{
	if (!(r->flags & BLK_LEND) || r->op != BLK_READ)
		return r->niov > 0;
	return r->niov > 0 && (uint64_t)r->niov >= ((r->off & (PAGE_BYTES - 1)) + r->len + PAGE_BYTES - 1) / PAGE_BYTES;
}

static int check_copy(const struct blk *b, const struct blk_req *r)
{
	uint64_t bytes = blk_bytes(r->from);

	if (!(b->caps & r->from->caps & BLK_CAN_COPY) || ((r->from_off | r->len) & (r->from->block_bytes - 1)))
		return -EOPNOTSUPP;
	return r->from_off > bytes || r->len > bytes - r->from_off ? -ERANGE : 0;
}

static int blk_check(const struct blk *b, const struct blk_req *r)
{
	uint64_t bytes = blk_bytes(b);

	if (r->op == BLK_FLUSH)
		return 0;
	if ((r->off | r->len) & (b->block_bytes - 1))
		return -EINVAL;
	if (r->off > bytes || r->len > bytes - r->off)
		return -ERANGE;
	if (needs_iov(r->op) && r->len > 0 && !room_for(r))
		return -EINVAL;
	if (r->op == BLK_MAP && (r->nmap <= 0 || r->len == 0))
		return -EINVAL;
	if (changes(r->op) && (b->caps & BLK_READ_ONLY))
		return -EROFS;
	return r->op == BLK_COPY ? check_copy(b, r) : 0;
}

void blk_submit(struct blk *b, struct blk_io *io, blk_done_fn *done, void *ctx)
{
	int r;

	io->status = 0;
	io->fail_off = UINT64_MAX;
	io->depth = 0;
	io->pending = 0;
	blk_push(io, done, ctx);
	r = blk_check(b, &io->req);
	if (__builtin_expect(r < 0, 0)) {
		blk_done(io, r);
	} else if (io->req.len == 0 && io->req.op != BLK_FLUSH) {
		io->req.niov = 0;
		blk_done(io, 0);
	} else {
		blk_hand(b, io);
	}
}

/* Requests for forks: a list per thread that grows by slabs and keeps them, so that a steady load allocates
 * nothing. */
enum { FORK_SLAB = 32 };

struct fork_slab {
	struct fork_slab *next;
	struct blk_io io[FORK_SLAB];
};

static _Thread_local struct blk_io *fork_free;
static pthread_key_t fork_key;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void fork_slabs_free(void *p)
{
	for (struct fork_slab *s = p, *next; s; s = next) {
		next = s->next;
		free(s);
	}
}

static void fork_key_make(void)
{
	CHECK(pthread_key_create(&fork_key, fork_slabs_free) == 0);
}

static bool fork_grow(void)
{
	struct fork_slab *s = aligned_alloc(64, (sizeof(*s) + 63) & ~(size_t)63);

	if (!s)
		return false;
	pthread_once(&fork_once, fork_key_make);
	s->next = pthread_getspecific(fork_key);
	pthread_setspecific(fork_key, s);
	for (int i = 0; i < FORK_SLAB; i++) {
		s->io[i].parent = fork_free;
		fork_free = &s->io[i];
	}
	return true;
}

static void fork_ended(struct blk_io *parent, int status)
{
	if (status < 0 && parent->status == 0)
		parent->status = status;
	if (--parent->pending == 0)
		blk_done(parent, parent->status);
}

static void fork_done(struct blk_io *io, void *ctx)
{
	int status = io->status;

	io->parent = fork_free;
	fork_free = io;
	fork_ended(ctx, status);
}

static void fork_failed(struct task *t)
{
	struct blk_io *io = container_of(t, struct blk_io, task);

	fork_ended(io, -ENOMEM);
}

/* Without memory for a fork the request fails once the others are done; when there is no other, a task stands
 * for it. */
static void fork_refuse(struct blk_io *io)
{
	io->status = -ENOMEM;
	if (io->pending == 0) {
		io->pending = 1;
		io->task.run = fork_failed;
		loop_defer(io->loop, &io->task);
	}
}

void blk_fork(struct blk_io *io, struct blk *to, const struct blk_req *req)
{
	struct blk_io *f;

	if (!fork_free && !fork_grow()) {
		fork_refuse(io);
		return;
	}
	f = fork_free;
	fork_free = f->parent;
	f->req = *req;
	f->loop = io->loop;
	f->parent = io;
	io->pending++;
	blk_submit(to, f, fork_done, io);
}

struct sync_wait {
	bool done;
};

static void sync_done(struct blk_io *io, void *ctx)
{
	struct sync_wait *w = ctx;

	w->done = true;
}

int blk_sync(struct loop *l, struct blk *b, struct blk_req *req)
{
	struct sync_wait w = { false };
	struct blk_io *io = aligned_alloc(64, (sizeof(*io) + 63) & ~(size_t)63);
	int r;

	if (!io)
		return -ENOMEM;
	io->req = *req;
	io->loop = l;
	blk_submit(b, io, sync_done, &w);
	while (!w.done)
		loop_turn(l, UINT64_MAX);
	*req = io->req;
	r = io->status;
	free(io);
	return r;
}

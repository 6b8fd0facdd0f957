/* SPDX-License-Identifier: BSD-3-Clause
 * The simulated world: virtual clock, events, the order in which loops get their turn, and the loop backend. */
#include "loop/sim_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	TURN_NS = 3000,      /* a turn takes up to this long */
	PAUSE_1_IN = 64,     /* turns before which the loop loses its processor */
	PAUSE_NS = 400000,
	WORK_NS = 300000,
};

struct sim *sim;

/* splitmix64 */
static uint64_t draw(void)
{
	uint64_t z = sim->random += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

uint64_t sim_random(uint64_t n)
{
	return draw() % n;
}

bool sim_chance(unsigned pct)
{
	return pct && sim_random(100) < pct;
}

void sim_note(uint64_t what)
{
	uint64_t h = (sim->hash ^ what) * 0xff51afd7ed558ccd;
	sim->hash = h ^ h >> 29;
}

uint64_t sim_hash(void)
{
	return sim->hash;
}

uint64_t sim_now_ns(void)
{
	return sim->now_ns;
}

struct sim *sim_new(uint64_t seed)
{
	CHECK(!sim);
	sim = calloc(1, sizeof(*sim));
	CHECK(sim);
	sim->random = seed * 0x2545f4914f6cdd1d + 1;
	sim->now_ns = SIM_S;
	list_init(&sim->loops);
	sim->net = (struct sim_net_conf){ .latency_ns = 20 * SIM_US, .jitter_ns = 100 * SIM_US, .segment_bytes = 9000,
		.window_bytes = 256 << 10, .short_pct = 20 };
	return sim;
}

void sim_free(struct sim *s)
{
	CHECK(s == sim && list_empty(&s->loops));
	for (unsigned i = 0; i < s->nfd; i++) {
		sim_sock_free(s->fd[i].sock);
		sim_disk_free(s->fd[i].disk);
	}
	for (size_t i = 0; i < s->nheap; i++)
		sim_flight_discard(&s->heap[i]);
	free(s->heap);
	free(s);
	sim = NULL;
}

/* --- descriptors --- */

int sim_fd_new(struct sim_sock *s, struct sim_disk *d)
{
	CHECK(sim->nfd < SIM_FDS);
	sim->fd[sim->nfd] = (struct sim_fd){ s, d };
	return LOOP_SIM_FD + (int)sim->nfd++;
}

static struct sim_fd *fd_of(int fd)
{
	unsigned i = (unsigned)(fd - LOOP_SIM_FD);
	return fd >= LOOP_SIM_FD && i < sim->nfd ? &sim->fd[i] : NULL;
}

struct sim_sock *sim_sock_of(int fd)
{
	return fd_of(fd) ? fd_of(fd)->sock : NULL;
}

struct sim_disk *sim_disk_of(int fd)
{
	return fd_of(fd) ? fd_of(fd)->disk : NULL;
}

/* --- events: a binary heap by time, then by the order in which they were made --- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

void sim_after(uint64_t delay_ns, void (*fire)(void *ctx), void *ctx)
{
	if (sim->nheap == sim->heap_room) {
		sim->heap_room = MAX(2 * sim->heap_room, (size_t)1024);
		sim->heap = realloc(sim->heap, sim->heap_room * sizeof(*sim->heap));
		CHECK(sim->heap);
	}
	struct sim_event e = { sim->now_ns + delay_ns, sim->seq++, fire, ctx };
	size_t at = sim->nheap++;
	for (; at && before(&e, &sim->heap[(at - 1) / 2]); at = (at - 1) / 2)
		sim->heap[at] = sim->heap[(at - 1) / 2];
	sim->heap[at] = e;
}

static struct sim_event event_take(void)
{
	struct sim_event top = sim->heap[0], last = sim->heap[--sim->nheap];
	size_t at = 0, child;
	while ((child = 2 * at + 1) < sim->nheap) {
		if (child + 1 < sim->nheap && before(&sim->heap[child + 1], &sim->heap[child]))
			child++;
		if (!before(&sim->heap[child], &last))
			break;
		sim->heap[at] = sim->heap[child];
		at = child;
	}
	sim->heap[at] = last;
	return top;
}

static uint64_t events_next(void)
{
	return sim->nheap ? sim->heap[0].at_ns : UINT64_MAX;
}

static void events_run(void)
{
	while (events_next() <= sim->now_ns) {
		struct sim_event e = event_take();
		e.fire(e.ctx);
	}
}

/* --- turns --- */

static bool runnable(struct sim_loop *sl)
{
	if (sl->paused_ns > sim->now_ns)
		return false;
	return sl->done || loop_busy(sl->loop) || timers_next(sl->loop) <= sim->now_ns;
}

/* The n-th of the loops that could run, or NULL; *ret_n: how many could. */
static struct sim_loop *runnable_nth(unsigned n, unsigned *ret_n)
{
	struct sim_loop *sl, *found = NULL;
	unsigned k = 0;
	list_for_each(sl, &sim->loops, node)
		if (runnable(sl) && k++ == n)
			found = sl;
	*ret_n = k;
	return found;
}

static uint64_t next_time(void)
{
	uint64_t next = events_next();
	struct sim_loop *sl;
	list_for_each(sl, &sim->loops, node) {
		uint64_t t = sl->done || loop_busy(sl->loop) ? sim->now_ns : timers_next(sl->loop);
		t = MAX(t, sl->paused_ns);
		next = MIN(next, t);
	}
	return next;
}

void sim_stall(struct loop *l, uint64_t ns)
{
	struct sim_loop *sl = l->be_priv;
	sl->paused_ns = MAX(sl->paused_ns, sim->now_ns + ns);
	sl->stalled = true;
	sim_note(ns);
}

static void turn(struct sim_loop *sl)
{
	if (!sim_random(PAUSE_1_IN)) {
		sl->paused_ns = sim->now_ns + sim_random(PAUSE_NS);
		return;
	}
	sim_note(sim->now_ns << 8 | sl->number);
	if (!sl->stalled)
		sl->loop->now_ns = sim->now_ns;
	sl->stalled = false; /* its poll finds out how late it is, and reads sockets before timers fire */
	loop_turn(sl->loop, 0);
	sim->now_ns += 1 + sim_random(TURN_NS);
}

/* One thing happens. False: nothing can until then. */
static bool step(uint64_t until_ns)
{
	unsigned n;
	events_run();
	runnable_nth(0, &n);
	if (n) {
		turn(runnable_nth((unsigned)sim_random(n), &n));
		return sim->now_ns < until_ns;
	}
	uint64_t next = next_time();
	if (next >= until_ns) {
		if (until_ns != UINT64_MAX)
			sim->now_ns = MAX(sim->now_ns, until_ns);
		return false;
	}
	sim->now_ns = MAX(sim->now_ns, next);
	return true;
}

bool sim_run_until(bool (*pred)(void *ctx), void *ctx, uint64_t until_ns)
{
	while (!pred || !pred(ctx))
		if (!step(until_ns))
			return pred && pred(ctx);
	return true;
}

/* --- the backend --- */

static struct sim_loop *sim_of(struct loop *l)
{
	return l->be_priv;
}

static int back_init(struct loop *l, unsigned depth)
{
	struct sim_loop *sl = calloc(1, sizeof(*sl));
	if (!sl)
		return -ENOMEM;
	CHECK(sim);
	sl->loop = l;
	sl->done_end = &sl->done;
	sl->number = sim->nloops++;
	list_add_tail(&sim->loops, &sl->node);
	l->be_priv = sl;
	return 0;
}

static void back_fini(struct loop *l)
{
	if (!l->be_priv)
		return;
	list_del(&sim_of(l)->node);
	free(l->be_priv);
	l->be_priv = NULL;
}

void sim_op_end(struct op *op, int res)
{
	struct sim_loop *sl = sim_of(op->loop);
	sim_note((uint64_t)op->kind << 56 ^ (uint64_t)(uint32_t)op->fd << 32 ^ (uint32_t)res);
	sim_note(op->off);
	op->res = res;
	op->next = NULL;
	*sl->done_end = op;
	sl->done_end = &op->next;
}

static void work_run(void *ctx)
{
	struct op *op = ctx;
	op->work(op);
	sim_op_end(op, op->res);
}

static void end_ebadf(void *ctx)
{
	sim_op_end(ctx, -EBADF);
}

static void back_submit(struct loop *l, struct op *op)
{
	if (op->kind == OP_WORK)
		sim_after(1 + sim_random(WORK_NS), work_run, op);
	else if (sim_sock_of(op->fd))
		sim_sock_submit(op);
	else if (sim_disk_of(op->fd))
		sim_disk_submit(op);
	else
		sim_after(1, end_ebadf, op);
}

static void back_cancel(struct loop *l, struct op *op)
{
	if (op->kind != OP_WORK && sim_sock_of(op->fd))
		sim_sock_cancel(op);
}

static unsigned done_run(struct sim_loop *sl)
{
	unsigned n = 0;
	struct op *op = sl->done, *next;
	sl->done = NULL;
	sl->done_end = &sl->done;
	for (; op; op = next, n++) {
		next = op->next;
		op_finish(op, op->res);
	}
	return n;
}

/* A loop that is turned by hand and may wait (a helper of the control thread) lets the world go on meanwhile. */
static unsigned back_poll(struct loop *l, uint64_t deadline_ns)
{
	struct sim_loop *sl = sim_of(l);
	uint64_t paused = sl->paused_ns;
	events_run();
	while (!sl->done && !loop_busy(l) && deadline_ns > sim->now_ns) {
		CHECK(next_time() != UINT64_MAX || deadline_ns != UINT64_MAX); /* it would wait for ever */
		sl->paused_ns = UINT64_MAX;
		step(deadline_ns);
		sl->paused_ns = paused;
	}
	return done_run(sl);
}

static void back_wake(struct loop *l)
{
}

static uint64_t back_now(struct loop *l)
{
	return sim->now_ns;
}

static void back_forget(struct loop *l, int fd)
{
	if (sim_sock_of(fd))
		sim_close(fd);
}

const struct loop_backend loop_sim = {
	.name = "sim",
	.init = back_init,
	.fini = back_fini,
	.submit = back_submit,
	.cancel = back_cancel,
	.poll = back_poll,
	.wake = back_wake,
	.now_ns = back_now,
	.forget = back_forget,
};

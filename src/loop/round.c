/* SPDX-License-Identifier: BSD-3-Clause
 * Rounds: one task out to each loop and one back. The count of legs lives on the calling loop alone, so there
 * is nothing to share. */
#include "loop/internal.h"

#include <stdlib.h>

struct round {
	struct round  *next;  /* in the loop's free list */
	struct loop   *from;
	round_leg_fn  *fn;
	round_done_fn *done;
	void          *ctx;
	unsigned       pending, nlegs;
	struct task    task;
	struct round_leg leg[];
};

/* A round that is over is used again; memory is asked for only when more run at once than ever before. */
static struct round *round_take(struct loop *l)
{
	struct round *r = l->rounds;
	if (r && r->nlegs >= loop_group.n) {
		l->rounds = r->next;
		return r;
	}
	r = calloc(1, sizeof(*r) + loop_group.n * sizeof(r->leg[0]));
	CHECK(r);
	r->nlegs = loop_group.n;
	return r;
}

void rounds_fini(struct loop *l)
{
	for (struct round *r = l->rounds, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	l->rounds = NULL;
}

static void send_to(struct loop *from, struct loop *to, struct task *t)
{
	if (from == to)
		loop_defer(to, t);
	else
		loop_post(to, t);
}

static void round_over(struct round *r)
{
	round_done_fn *done = r->done;
	void *ctx = r->ctx;
	r->next = r->from->rounds;
	r->from->rounds = r;
	done(ctx);
}

static void over_run(struct task *t)
{
	round_over(container_of(t, struct round, task));
}

static void leg_back(struct task *t)
{
	struct round *r = container_of(t, struct round_leg, task)->round;
	if (!--r->pending)
		round_over(r);
}

static void leg_run(struct task *t)
{
	struct round_leg *leg = container_of(t, struct round_leg, task);
	leg->round->fn(leg, leg->round->ctx);
}

void round_start(struct loop *from, round_leg_fn *fn, round_done_fn *done, void *ctx)
{
	struct round *r = round_take(from);
	r->from = from;
	r->fn = fn;
	r->done = done;
	r->ctx = ctx;
	unsigned n = r->pending = loop_group.n;
	if (!n) {
		r->task.run = over_run;
		loop_defer(from, &r->task);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		struct round_leg *leg = &r->leg[i];
		leg->round = r;
		leg->loop = loop_group.loop[i];
		leg->priv = NULL;
		leg->task.run = leg_run;
		send_to(from, leg->loop, &leg->task);
	}
}

void round_leg_done(struct round_leg *leg)
{
	leg->task.run = leg_back;
	send_to(leg->loop, leg->round->from, &leg->task);
}

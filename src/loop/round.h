/* SPDX-License-Identifier: BSD-3-Clause
 * A round: run a function on every I/O loop and hear when all have finished. The one mechanism by which
 * state that several loops share is replaced, frozen or drained. A leg may finish later (it keeps the leg
 * and calls round_leg_done() when, say, its last overlapping command has ended). */
#ifndef LUNETTE_LOOP_ROUND_H
#define LUNETTE_LOOP_ROUND_H

#include "loop/loop.h"

/* All I/O loops of the process, fixed before the first one runs. */
struct loop_group {
	unsigned     n;
	struct loop *loop[256]; /* LIM_LOOPS */
};
extern struct loop_group loop_group;

struct round;
struct round_leg {
	struct task   task;
	struct round *round;
	struct loop  *loop; /* where this leg runs */
	void         *priv; /* the leg function's own, between start and round_leg_done() */
	struct list   node; /* likewise */
};
typedef void round_leg_fn(struct round_leg *leg, void *ctx);
typedef void round_done_fn(void *ctx);

/* Called on an I/O loop or the control loop; done runs there. Never fails: rounds come from a pool of the
 * calling loop. */
void round_start(struct loop *from, round_leg_fn *fn, round_done_fn *done, void *ctx);
/* On leg->loop, exactly once per leg. */
void round_leg_done(struct round_leg *leg);

#endif

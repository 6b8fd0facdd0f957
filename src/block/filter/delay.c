/* SPDX-License-Identifier: BSD-3-Clause
 * Holds requests for a while before it hands them down.
 *
 *   option   default  meaning
 *   time     -        how long
 *   op       any      which requests: any, read, write, flush, discard, zero, map */
#include "base/check.h"
#include "block/filter/filter.h"

struct delay_conf {
	uint64_t time_ns, op;
};

static const struct conf_field delay_fields[] = {
	{ "time", CONF_TIME, CONF_REQUIRED, offsetof(struct delay_conf, time_ns), NULL, NULL, "1h",
		"How long a request is held.", NULL },
	{ "op", CONF_ENUM, 0, offsetof(struct delay_conf, op), "any", NULL, NULL, "Which requests are held.",
		blk_op_choices },
	{ 0 },
};

/* The scratch of the driver below is free until the request gets there: the timer waits in it. */
struct held {
	struct timer timer;
	struct blk  *b;
};
_Static_assert(sizeof(struct held) <= sizeof(((struct blk_io *)0)->scratch), "fits in the driver's scratch");

static void delay_fire(struct timer *t)
{
	struct held *h = container_of(t, struct held, timer);
	struct blk_io *io = container_of((void *)h, struct blk_io, scratch);

	blk_pass(h->b, io);
}

static void delay_submit(struct blk *b, struct blk_io *io)
{
	const struct delay_conf *c = b->priv;
	struct held *h = (struct held *)(void *)io->scratch;

	if (!blk_op_chosen(c->op, io->req.op)) {
		blk_pass(b, io);
		return;
	}
	*h = (struct held){ .timer.fire = delay_fire, .b = b };
	loop_timer_set(io->loop, &h->timer, loop_now_ns(io->loop) + c->time_ns);
}

static int delay_open(struct blk *b, const void *conf, struct err *e)
{
	*(struct delay_conf *)b->priv = *(const struct delay_conf *)conf;
	return 0;
}

const struct blk_ops blk_delay = {
	.name = "delay",
	.filter = true,
	.priv_bytes = sizeof(struct delay_conf),
	.conf_bytes = sizeof(struct delay_conf),
	.config = delay_fields,
	.open = delay_open,
	.submit = delay_submit,
};

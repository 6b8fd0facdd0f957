/* SPDX-License-Identifier: BSD-3-Clause
 * Jobs: changes of a logical unit's shared state, one at a time, on its home loop. A job that changes what commands
 * see publishes it: a round gives every loop its copy, with the unit attentions, before the job ends and so before
 * the status of the command that caused it. */
#include <stdio.h>

#include "scsi/priv.h"

static void job_back(struct task *t)
{
	struct lu_job *j = container_of(t, struct lu_job, task);

	j->done(j);
}

static void job_run(struct lu_job *j)
{
	if (j->lu->sealed && j->sealed)
		j->sealed(j);
	else
		j->run(j);
}

static void job_arrives(struct task *t)
{
	struct lu_job *j = container_of(t, struct lu_job, task);
	bool idle = list_empty(&j->lu->jobs);

	list_add_tail(&j->lu->jobs, &j->node);
	if (idle)
		job_run(j);
}

static void job_turn(struct task *t)
{
	struct lu_job *j = container_of(t, struct lu_job, task);

	job_run(j);
}

void lu_job_start(struct lu_job *j, struct lu *lu, struct loop *from, void (*run)(struct lu_job *j),
	void (*done)(struct lu_job *j))
{
	lu_job_start_or(j, lu, from, run, NULL, done);
}

void lu_job_start_or(struct lu_job *j, struct lu *lu, struct loop *from, void (*run)(struct lu_job *j),
	void (*sealed)(struct lu_job *j), void (*done)(struct lu_job *j))
{
	j->lu = lu;
	j->from = from;
	j->run = run;
	j->done = done;
	j->ua = 0;
	j->ua_except = 0;
	j->sealed = sealed;
	j->task.run = job_arrives;
	scsi_send(from, lu->home, &j->task);
}

void lu_job_end(struct lu_job *j)
{
	struct lu *lu = j->lu;
	struct loop *home = lu->home;

	list_del(&j->node);
	struct lu_job *next = list_empty(&lu->jobs) ? NULL : list_first(&lu->jobs, struct lu_job, node);
	j->task.run = job_back;
	scsi_send(home, j->from, &j->task); /* what held the unit may let it go now: lu is not touched any more */
	if (!next)
		return;
	next->task.run = job_turn; /* from the queue: jobs that fail at once do not pile up on the stack */
	loop_defer(home, &next->task);
}

/* --- saving --- */

static void save_back(struct task *t)
{
	struct lu_job *j = container_of(t, struct lu_job, task);
	struct lu_save *s = &j->lu->save;

	free(s->buf);
	s->then(j, s->result);
}

/* The control thread is the only one that touches the store. */
static void save_on_control(struct task *t)
{
	struct lu_job *j = container_of(t, struct lu_job, task);
	const struct lu_store *st = j->lu->store;
	struct lu_save *s = &j->lu->save;

	s->result = st->save(st->ctx, j->lu->id, s->what, s->buf, s->len);
	t->run = save_back;
	loop_post(j->lu->home, t);
}

void lu_save(struct lu_job *j, const char *what, const void *buf, size_t len, void (*then)(struct lu_job *j, int result))
{
	struct lu_save *s = &j->lu->save;
	void *copy = j->lu->store->save ? malloc(len + 1) : NULL;

	if (!copy) {
		then(j, j->lu->store->save ? -ENOMEM : 0);
		return;
	}
	memcpy(copy, buf, len);
	*s = (struct lu_save){ .buf = copy, .len = len, .then = then };
	snprintf(s->what, sizeof(s->what), "%s", what);
	j->task.run = save_on_control;
	loop_post(scsi_control, &j->task);
}

/* --- publishing --- */

void lu_snapshot(struct lu_loop *ll)
{
	bool aca = ll->pub.alert & LU_ACA;

	ll->pub = ll->lu->pub; /* stable: home runs no other job until this round is over */
	ll->shift = (uint8_t)__builtin_ctz(ll->pub.bs);
	if (aca)
		lu_resume(ll);
}

static void publish_leg(struct round_leg *leg, void *ctx)
{
	struct lu_job *j = ctx;
	struct lu_loop *ll = lu_on(j->lu, leg->loop);

	if (j->ua)
		ua_broadcast(ll, j->ua, j->ua_except);
	lu_snapshot(ll);
	round_leg_done(leg);
}

static void published(void *ctx)
{
	lu_job_end(ctx);
}

void lu_publish(struct lu_job *j)
{
	lu_derive(j->lu);
	round_start(j->lu->home, publish_leg, published, j);
}

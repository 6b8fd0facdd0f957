/* SPDX-License-Identifier: BSD-3-Clause
 * A logical unit that takes the place of another of the same identity, when the configuration of its disk changes: who is
 * registered and who holds a reservation stays (SPC-4 5.13), and so do access states. The old one is sealed first: a job
 * on its home, after which commands that would change its state end with BUSY, so that nothing acknowledged is missed.
 * Then a job of the new one takes the state over: nobody sees that unit yet, but it may have work of its own already. */
#include "scsi/alua.h"
#include "scsi/pr.h"

struct inherit {
	struct lu_job      job; /* of the old one, then of the new one */
	struct lu         *old, *next;
	struct pr_state   *pr;
	struct alua_state *alua;
	bool               failed;
	void             (*done)(void *ctx, int result);
	void              *ctx;
};

static void *copy_of(const void *p, size_t len)
{
	void *q = p ? malloc(len) : NULL;

	return q ? memcpy(q, p, len) : NULL;
}

static void run_seal(struct lu_job *j)
{
	struct inherit *in = container_of(j, struct inherit, job);
	const struct lu_pub *p = &j->lu->pub;

	in->pr = copy_of(p->pr, p->pr ? sizeof(*p->pr) + p->pr->n * sizeof(p->pr->reg[0]) : 0);
	in->alua = copy_of(p->alua, p->alua ? sizeof(*p->alua) + p->alua->n * sizeof(p->alua->group[0]) : 0);
	in->failed = (p->pr && !in->pr) || (p->alua && !in->alua);
	j->lu->sealed = true;
	lu_job_end(j);
}

static void run_take(struct lu_job *j)
{
	struct inherit *in = container_of(j, struct inherit, job);
	struct lu *next = j->lu;

	for (unsigned i = 0; in->alua && i < in->alua->n; i++)
		if (in->alua->group[i].access == ALUA_TRANSITIONING) /* nothing runs on the new one yet */
			in->alua->group[i].access = in->alua->group[i].to;
	pr_free(next);
	alua_free(next);
	next->pub.pr = in->pr;
	next->pub.alua = in->alua;
	lu_publish(j);
}

static void end(struct inherit *in, int result)
{
	struct lu *old = in->old;

	lu_unhold(in->next); /* free for what done() does with it */
	in->done(in->ctx, result);
	free(in);
	lu_unhold(old);
}

static void taken(struct lu_job *j)
{
	end(container_of(j, struct inherit, job), 0);
}

static void sealed(struct lu_job *j)
{
	struct inherit *in = container_of(j, struct inherit, job);

	if (!in->failed) {
		lu_job_start(&in->job, in->next, scsi_control, run_take, taken);
		return;
	}
	free(in->pr);
	free(in->alua);
	end(in, -ENOMEM);
}

bool lu_same_identity(const struct lu *a, const struct lu *b)
{
	return !memcmp(a->id, b->id, sizeof(a->id));
}

void lu_inherit(struct lu *next, struct lu *old, void (*done)(void *ctx, int result), void *ctx)
{
	struct inherit *in = calloc(1, sizeof(*in));

	if (!in) {
		done(ctx, -ENOMEM);
		return;
	}
	*in = (struct inherit){ .old = old, .next = next, .done = done, .ctx = ctx };
	lu_hold(old);
	lu_hold(next);
	lu_job_start(&in->job, old, scsi_control, run_seal, sealed);
}

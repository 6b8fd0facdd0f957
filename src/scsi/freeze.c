/* SPDX-License-Identifier: BSD-3-Clause
 * Freezing a range of a logical unit on every loop. New commands that overlap are held; the freeze is granted
 * when the old ones have ended. COMPARE AND WRITE and the ghost writes of a lost nexus stand on it.
 *
 * 1. lu->home keeps the freezes in order of request; one starts when nothing before it overlaps. So two that
 *    overlap queue, and since a freeze waits only for I/O below, never for another freeze, none deadlocks.
 * 2. Freezing is a round whose legs add the range to ll->frozen and end when no other RUNNING command overlaps.
 * 3. Thawing is a round whose legs remove the range and resume what was held. */
#include "scsi/priv.h"

struct freeze_at { struct list node; struct lu_freeze *fz; };

struct lu_freeze {
	struct task       task;
	struct list       node;    /* lu->freezes, home */
	struct lu_freeze *next;    /* free list */
	struct lu_loop   *ll;      /* of the requester */
	struct lu        *lu;
	struct loop      *pool;    /* whose free list it goes back to = the requester's loop */
	uint64_t          off, len;
	struct scsi_cmd  *own;
	void            (*granted)(struct lu_freeze *fz);
	bool              started;  /* home */
	bool              is_granted, thaw; /* requester */
	struct freeze_at  at[];
};

static void home_start_ready(struct lu *lu);

static bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a < b + blen && b < a + alen;
}

bool lu_frozen(const struct lu_loop *ll, uint64_t off, uint64_t len)
{
	const struct freeze_at *at;

	list_for_each(at, &ll->frozen, node)
		if (overlap(off, len, at->fz->off, at->fz->len))
			return true;
	return false;
}

/* --- legs --- */

static void freeze_leg(struct round_leg *leg, void *ctx)
{
	struct lu_freeze *fz = ctx;
	struct lu_loop *ll = lu_on(fz->lu, leg->loop);
	struct freeze_at *at = &fz->at[loop_index(leg->loop)];

	at->fz = fz;
	list_add_tail(&ll->frozen, &at->node);
	lu_wait_range(ll, leg, fz->off, fz->len, fz->own);
}

static void thaw_leg(struct round_leg *leg, void *ctx)
{
	struct lu_freeze *fz = ctx;
	struct lu_loop *ll = lu_on(fz->lu, leg->loop);

	list_del(&fz->at[loop_index(leg->loop)].node);
	lu_resume(ll);
	round_leg_done(leg);
}

/* --- requester --- */

static void requester_freed(struct task *t)
{
	struct lu_freeze *fz = container_of(t, struct lu_freeze, task);
	struct lu_loop *ll = fz->ll;
	struct scsi_loop *sl = scsi_loop(fz->pool);

	fz->next = sl->freeze_free;
	sl->freeze_free = fz;
	ll->users--;
	lu_wait_check(ll);
}

static void home_thaw(struct task *t);

static void requester_granted(struct task *t)
{
	struct lu_freeze *fz = container_of(t, struct lu_freeze, task);

	fz->is_granted = true;
	if (!fz->thaw) {
		fz->granted(fz);
		return;
	}
	fz->task.run = home_thaw;
	scsi_send(fz->pool, fz->lu->home, &fz->task);
}

/* --- home --- */

static void home_granted(void *ctx)
{
	struct lu_freeze *fz = ctx;

	fz->task.run = requester_granted;
	scsi_send(fz->lu->home, fz->pool, &fz->task);
}

static void home_thawed(void *ctx)
{
	struct lu_freeze *fz = ctx;
	struct lu *lu = fz->lu;

	list_del(&fz->node);
	home_start_ready(lu);
	fz->task.run = requester_freed;
	scsi_send(lu->home, fz->pool, &fz->task); /* lu may go from now on */
}

static void home_thaw(struct task *t)
{
	struct lu_freeze *fz = container_of(t, struct lu_freeze, task);

	round_start(fz->lu->home, thaw_leg, home_thawed, fz);
}

static bool blocked(const struct lu *lu, const struct lu_freeze *fz)
{
	const struct lu_freeze *before;

	list_for_each(before, &lu->freezes, node) {
		if (before == fz)
			return false;
		if (overlap(before->off, before->len, fz->off, fz->len))
			return true;
	}
	return false;
}

static void home_start_ready(struct lu *lu)
{
	struct lu_freeze *fz;

	list_for_each(fz, &lu->freezes, node) {
		if (fz->started || blocked(lu, fz))
			continue;
		fz->started = true;
		round_start(lu->home, freeze_leg, home_granted, fz);
	}
}

static void home_request(struct task *t)
{
	struct lu_freeze *fz = container_of(t, struct lu_freeze, task);

	list_add_tail(&fz->lu->freezes, &fz->node);
	home_start_ready(fz->lu);
}

/* --- interface --- */

static struct lu_freeze *freeze_get(struct loop *l)
{
	struct scsi_loop *sl = scsi_loop(l);
	struct lu_freeze *fz = sl->freeze_free;

	if (!fz)
		return calloc(1, sizeof(*fz) + LIM_LOOPS * sizeof(fz->at[0])); /* kept for ever after */
	sl->freeze_free = fz->next;
	return fz;
}

struct lu_freeze *lu_freeze(struct lu_loop *ll, uint64_t off, uint64_t len, struct scsi_cmd *own,
	void (*granted)(struct lu_freeze *fz))
{
	struct lu_freeze *fz = freeze_get(ll->loop);

	if (!fz)
		return NULL;
	*fz = (struct lu_freeze){ .ll = ll, .lu = ll->lu, .pool = ll->loop, .off = off, .len = len, .own = own,
		.granted = granted, .task.run = home_request };
	ll->users++;
	scsi_send(ll->loop, ll->lu->home, &fz->task);
	return fz;
}

struct scsi_cmd *lu_freeze_own(const struct lu_freeze *fz)
{
	return fz->own;
}

void lu_thaw(struct lu_freeze *fz)
{
	fz->thaw = true;
	if (!fz->is_granted)
		return; /* requester_granted() will see it */
	fz->task.run = home_thaw;
	scsi_send(fz->pool, fz->lu->home, &fz->task);
}

void freeze_pool_free(struct scsi_loop *sl)
{
	while (sl->freeze_free) {
		struct lu_freeze *fz = sl->freeze_free;
		sl->freeze_free = fz->next;
		free(fz);
	}
	while (!list_empty(&sl->wait_free)) {
		struct lu_wait *w = list_first(&sl->wait_free, struct lu_wait, node);
		list_del(&w->node);
		free(w);
	}
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Freezing a range of a logical unit on every loop. New commands that overlap are held; the freeze is granted
 * when the old ones have ended. COMPARE AND WRITE and the ghost writes of a lost nexus stand on it.
 *
 * 1. lu->home keeps the freezes in order of request; one starts when nothing before it overlaps. So two that
 *    overlap queue, and since a freeze waits only for I/O below, never for another freeze, none deadlocks.
 *    Those that only hold writes back pass over each other. A lease in the way is taken away.
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
	struct lu_range   range[2];
	struct scsi_cmd  *own;
	void             *ctx;
	void            (*granted)(struct lu_freeze *fz), (*broken)(struct lu_freeze *fz);
	uint64_t          lease;    /* its id, 0 = no lease */
	struct task       broke;    /* home to requester: a write took the lease */
	bool              started, held, leaving; /* home: legs sent; all loops hold it; it is on its way out */
	bool              gone, unowned; /* home: a broken lease is off all loops; its owner has thawed it */
	bool              is_granted, thaw; /* requester */
	struct freeze_at  at[];
};

static void home_start_ready(struct lu *lu);

bool lu_range_holds(const struct lu_range *r, const struct scsi_cmd *c)
{
	return lu_range_meets(r, c->off, c->len) && (r->kind == FREEZE_ALL || (c->op && c->op->flags & SCSI_WRITES));
}

enum lu_obstacle lu_obstacle(const struct lu_loop *ll, const struct scsi_cmd *c)
{
	enum lu_obstacle worst = LU_CLEAR;
	const struct freeze_at *at;

	list_for_each(at, &ll->frozen, node) {
		const struct lu_range *r = at->fz->range;
		if (at->fz->lease && !(c->op && c->op->flags & SCSI_WRITES))
			break; /* leases come last */
		if (!lu_range_holds(&r[0], c) && !lu_range_holds(&r[1], c))
			continue;
		if (!at->fz->lease)
			return LU_FROZEN;
		worst = LU_LEASED;
	}
	return worst;
}

bool lu_leased(const struct lu_loop *ll, uint64_t id)
{
	const struct freeze_at *at;

	list_for_each(at, &ll->frozen, node)
		if (at->fz->lease == id)
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
	if (fz->lease)
		list_add_tail(&ll->frozen, &at->node);
	else
		list_add_head(&ll->frozen, &at->node);
	lu_wait_ranges(ll, leg, fz->range, fz->own);
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
	struct lu *lu = fz->lu;

	fz->held = true;
	fz->task.run = requester_granted;
	scsi_send(lu->home, fz->pool, &fz->task);
	if (fz->lease)
		home_start_ready(lu); /* somebody may have waited to take it */
}

static void requester_broke(struct task *t)
{
	struct lu_freeze *fz = container_of(t, struct lu_freeze, broke);

	if (!fz->thaw)
		fz->broken(fz);
}

static void home_freed(struct lu_freeze *fz)
{
	fz->task.run = requester_freed;
	scsi_send(fz->lu->home, fz->pool, &fz->task); /* lu may go from now on */
}

static void home_broken(void *ctx)
{
	struct lu_freeze *fz = ctx;

	list_del(&fz->node);
	fz->gone = true;
	home_start_ready(fz->lu);
	if (fz->unowned) {
		home_freed(fz);
		return;
	}
	fz->broke.run = requester_broke;
	scsi_send(fz->lu->home, fz->pool, &fz->broke);
}

static void home_thawed(void *ctx)
{
	struct lu_freeze *fz = ctx;
	struct lu *lu = fz->lu;

	list_del(&fz->node);
	home_start_ready(lu);
	home_freed(fz);
}

static void home_thaw(struct task *t)
{
	struct lu_freeze *fz = container_of(t, struct lu_freeze, task);

	if (fz->gone) {
		home_freed(fz);
	} else if (fz->leaving) {
		fz->unowned = true;
	} else {
		fz->leaving = true;
		round_start(fz->lu->home, thaw_leg, home_thawed, fz);
	}
}

static bool ranges_conflict(const struct lu_range *a, const struct lu_range *b)
{
	return (a->kind == FREEZE_ALL || b->kind == FREEZE_ALL) && lu_range_meets(a, b->off, b->len);
}

static bool conflict(const struct lu_freeze *a, const struct lu_freeze *b)
{
	return ranges_conflict(&a->range[0], &b->range[0]) || ranges_conflict(&a->range[0], &b->range[1]) ||
		ranges_conflict(&a->range[1], &b->range[0]) || ranges_conflict(&a->range[1], &b->range[1]);
}

/* Also takes away what leases are in the way. */
static bool blocked(const struct lu *lu, const struct lu_freeze *fz)
{
	bool is = false;
	struct lu_freeze *before;

	list_for_each(before, &lu->freezes, node) {
		if (before == fz)
			break;
		if (!conflict(before, fz))
			continue;
		is = true;
		if (before->lease && before->held && !before->leaving) {
			before->leaving = true;
			round_start(lu->home, thaw_leg, home_broken, before);
		}
	}
	return is;
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

static struct lu_freeze *freeze_new(struct lu_loop *ll, const struct lu_range range[2], void (*granted)(struct lu_freeze *fz))
{
	struct lu_freeze *fz = freeze_get(ll->loop);

	if (!fz)
		return NULL;
	*fz = (struct lu_freeze){ .ll = ll, .lu = ll->lu, .pool = ll->loop, .range = { range[0], range[1] },
		.granted = granted, .task.run = home_request };
	ll->users++;
	return fz;
}

/* Once it is complete: home is another thread. */
static struct lu_freeze *freeze_send(struct lu_freeze *fz)
{
	scsi_send(fz->pool, fz->lu->home, &fz->task);
	return fz;
}

struct lu_freeze *lu_freeze(struct lu_loop *ll, uint64_t off, uint64_t len, struct scsi_cmd *own,
	void (*granted)(struct lu_freeze *fz))
{
	struct lu_range range[2] = { { off, len, FREEZE_ALL } };
	struct lu_freeze *fz = freeze_new(ll, range, granted);

	if (!fz)
		return NULL;
	fz->own = own;
	return freeze_send(fz);
}

struct lu_freeze *lu_freeze_ranges(struct lu_loop *ll, const struct lu_range range[2], void *ctx,
	void (*granted)(struct lu_freeze *fz))
{
	struct lu_freeze *fz = freeze_new(ll, range, granted);

	if (!fz)
		return NULL;
	fz->ctx = ctx;
	return freeze_send(fz);
}

struct lu_freeze *lu_lease(struct lu_loop *ll, uint64_t off, uint64_t len, uint64_t id, void *ctx,
	void (*granted)(struct lu_freeze *fz), void (*broken)(struct lu_freeze *fz))
{
	struct lu_range range[2] = { { off, len, FREEZE_LEASE } };
	struct lu_freeze *fz = freeze_new(ll, range, granted);

	if (!fz)
		return NULL;
	fz->lease = id;
	fz->ctx = ctx;
	fz->broken = broken;
	return freeze_send(fz);
}

void *lu_freeze_ctx(const struct lu_freeze *fz)
{
	return fz->ctx;
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

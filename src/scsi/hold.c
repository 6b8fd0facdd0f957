/* SPDX-License-Identifier: BSD-3-Clause
 * Commands that must wait before they run, and waits for commands to end. Each on the loop of the lu_loop. */
#include "scsi/priv.h"

/* --- entering --- */

/* SAM-5 8.6: an ORDERED command runs after all older ones of its nexus and before all newer ones; HEAD OF QUEUE
 * passes. Commands of different nexuses are not ordered: nobody could tell. */
static bool ordered_behind(const struct lu_loop *ll, const struct scsi_cmd *c)
{
	const struct scsi_cmd *older;

	if (c->attr == SCSI_HEAD_OF_QUEUE)
		return false;
	list_for_each(older, &ll->cmds, in_lu) {
		if (older == c)
			return false;
		if (older->nexus == c->nexus && !older->background && (c->attr == SCSI_ORDERED || older->attr == SCSI_ORDERED))
			return true;
	}
	return false;
}

/* The one place where a command that could run may have to wait. */
static inline enum lu_obstacle obstacle(const struct lu_loop *ll, const struct scsi_cmd *c)
{
	enum lu_obstacle o = LU_CLEAR;

	if (unlikely(!list_empty(&ll->frozen)) && c->len)
		o = lu_obstacle(ll, c);
	if (unlikely(ll->pub.alert & LU_ACA) && task_set_blocks(ll, c))
		return LU_FROZEN;
	return unlikely(ll->ordered) && ordered_behind(ll, c) ? LU_FROZEN : o;
}

static void lease_taken(struct lu_freeze *fz)
{
	struct scsi_cmd *c = lu_freeze_own(fz);

	if (c->must_abort)
		return; /* its end is on its way, and thaws */
	c->freeze = NULL;
	lu_thaw(fz);
	lu_enter(c, c->resume); /* held until the thaw has come here */
}

/* A write to what is leased takes the lease away by a freeze of its range; then it enters like any other. */
static void take_lease(struct scsi_cmd *c)
{
	c->state = SCSI_CMD_FREEZING;
	c->freeze = lu_freeze(c->ll, c->off, c->len, c, lease_taken);
	if (c->freeze)
		return;
	c->state = SCSI_CMD_RUNNING;
	c->len = 0;
	scsi_reply(c, SCSI_BUSY);
}

void lu_resume(struct lu_loop *ll)
{
	struct scsi_cmd *c, *tmp;

	list_for_each_safe(c, tmp, &ll->cmds, in_lu) {
		enum lu_obstacle o = c->state == SCSI_CMD_HELD ? obstacle(ll, c) : LU_FROZEN;
		if (o == LU_FROZEN)
			continue;
		if (o == LU_LEASED) {
			take_lease(c);
			continue;
		}
		c->state = SCSI_CMD_RUNNING;
		c->resume(c);
	}
}

void lu_enter(struct scsi_cmd *c, void (*fn)(struct scsi_cmd *c))
{
	enum lu_obstacle o = obstacle(c->ll, c);

	if (likely(o == LU_CLEAR)) {
		c->state = SCSI_CMD_RUNNING;
		fn(c);
		return;
	}
	c->resume = fn;
	c->state = SCSI_CMD_HELD;
	if (o == LU_LEASED)
		take_lease(c);
}

/* --- waiting --- */

/* A wait on behalf of a command passes over others that wait like it: two that were both aborted would wait for each
 * other. */
static bool awaited(const struct lu_wait *w, const struct scsi_cmd *c)
{
	return c->must_abort && c->seq < w->seq && !(w->except && c->state == SCSI_CMD_ENDING);
}

static bool through(const struct lu_tags *tags, const struct scsi_cmd *c)
{
	for (unsigned i = 0; i < tags->n; i++)
		if (tags->tag[i] == c->nexus->tpgt)
			return true;
	return false;
}

static bool tags_over(const struct lu_loop *ll, const struct lu_wait *w)
{
	const struct scsi_cmd *c;

	list_for_each(c, &ll->cmds, in_lu)
		if (c != w->except && c->seq < w->seq && c->state != SCSI_CMD_ENDING && through(w->tags, c))
			return false;
	return true;
}

static bool wait_over(const struct lu_loop *ll, const struct lu_wait *w)
{
	const struct scsi_cmd *c;

	if (w->tags)
		return tags_over(ll, w);
	if (!w->range[0].len && !w->seq)
		return list_empty(&ll->cmds) && !ll->users;
	list_for_each(c, &ll->cmds, in_lu) {
		if (!w->range[0].len) {
			if (awaited(w, c))
				return false;
		} else if (c != w->except && c->state == SCSI_CMD_RUNNING &&
			(lu_range_holds(&w->range[0], c) || lu_range_holds(&w->range[1], c))) {
			return false;
		}
	}
	return true;
}

void lu_wait_check(struct lu_loop *ll)
{
	struct lu_wait *w, *tmp;
	struct list over;

	list_init(&over);
	list_for_each_safe(w, tmp, &ll->waits, node) {
		if (wait_over(ll, w)) {
			list_del(&w->node);
			list_add_tail(&over, &w->node);
		}
	}
	while (!list_empty(&over)) {
		w = list_first(&over, struct lu_wait, node);
		list_del(&w->node);
		list_add_tail(&scsi_loop(ll->loop)->wait_free, &w->node);
		round_leg_done(w->leg);
	}
}

static void wait_add(struct lu_loop *ll, const struct lu_wait *what)
{
	struct scsi_loop *sl = scsi_loop(ll->loop);
	struct lu_wait *w;

	if (wait_over(ll, what)) {
		round_leg_done(what->leg);
		return;
	}
	if (list_empty(&sl->wait_free)) {
		w = malloc(sizeof(*w)); /* as many as wait at once, kept */
		CHECK(w);
	} else {
		w = list_first(&sl->wait_free, struct lu_wait, node);
		list_del(&w->node);
	}
	*w = *what;
	list_add_tail(&ll->waits, &w->node);
}

void lu_wait_ranges(struct lu_loop *ll, struct round_leg *leg, const struct lu_range range[2], struct scsi_cmd *except)
{
	wait_add(ll, &(struct lu_wait){ .leg = leg, .range = { range[0], range[1] }, .except = except });
}

void lu_wait_aborted(struct lu_loop *ll, struct round_leg *leg, struct scsi_cmd *except)
{
	wait_add(ll, &(struct lu_wait){ .leg = leg, .seq = ll->seq, .except = except });
}

void lu_wait_all(struct lu_loop *ll, struct round_leg *leg)
{
	wait_add(ll, &(struct lu_wait){ .leg = leg });
}

void lu_wait_tags(struct lu_loop *ll, struct round_leg *leg, const struct lu_tags *tags, struct scsi_cmd *except)
{
	wait_add(ll, &(struct lu_wait){ .leg = leg, .seq = ll->seq, .tags = tags, .except = except });
}

/* SPDX-License-Identifier: BSD-3-Clause
 * The target device: a name and a LUN map of which every loop has the same immutable copy, and the I_T nexuses,
 * each on its loop. */
#include <stdio.h>

#include "scsi/priv.h"

/* --- LUN addressing, SAM-5 4.7: peripheral device and flat space --- */

int lun_decode(const uint8_t lun[8])
{
	static const uint8_t zero[6];

	if (unlikely(memcmp(lun + 2, zero, 6)))
		return -1;
	if (likely(lun[0] == 0))
		return lun[1];
	if (lun[0] >> 6 == 1)
		return (lun[0] & 0x3f) << 8 | lun[1];
	return -1;
}

void lun_encode(uint8_t lun[8], unsigned n)
{
	memset(lun, 0, 8);
	put_be16(lun, (uint16_t)(n < 256 ? n : 0x4000 | n));
}

/* --- the map --- */

struct scsi_target *scsi_target_new(const char *name)
{
	struct scsi_target *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->name = strdup(name);
	t->map = calloc(1, sizeof(*t->map));
	if (!t->name || !t->map) {
		scsi_target_free(t);
		return NULL;
	}
	for (unsigned i = 0; i < LIM_LOOPS; i++)
		t->per_loop[i] = t->map;
	return t;
}

void scsi_target_free(struct scsi_target *t)
{
	if (!t)
		return;
	free(t->name);
	free(t->map);
	free(t);
}

const char *scsi_target_name(const struct scsi_target *t)
{
	return t->name;
}

/* --- what a nexus has of the units that it uses --- */

static struct itl *itl_new(struct scsi_nexus *n, unsigned lun, struct lu_loop *ll)
{
	struct itl *itl = &n->page[lun / ITL_PAGE]->itl[lun % ITL_PAGE];

	*itl = (struct itl){ .ll = ll, .nexus = n };
	list_add_tail(&ll->itls, &itl->node);
	ua_add(itl, UA_POWER_ON);
	if (n->remapped)
		ua_add(itl, UA_LUNS_CHANGED);
	pr_note(itl, n);
	return itl;
}

int nexus_itl(struct scsi_nexus *n, unsigned lun, struct itl **ret)
{
	struct lu_loop *ll = nexus_ll(n, lun);
	struct itl *itl = nexus_peek(n, lun);

	if (!ll)
		return -ENOENT;
	if (!itl && !n->page[lun / ITL_PAGE]) {
		struct itl_page *p = calloc(1, sizeof(*p));
		if (!p)
			return -ENOMEM;
		n->page[lun / ITL_PAGE] = p;
	}
	*ret = itl ? itl : itl_new(n, lun, ll);
	return 0;
}

static void itl_drop(struct itl *itl)
{
	list_del(&itl->node);
	itl->ll = NULL;
}

/* Calls fn for every unit that the nexus has used. */
static void each_itl(struct scsi_nexus *n, void (*fn)(struct itl *itl, unsigned lun))
{
	for (unsigned i = 0; i < LIM_LUNS / ITL_PAGE; i++)
		for (unsigned k = 0; n->page[i] && k < ITL_PAGE; k++)
			if (n->page[i]->itl[k].ll)
				fn(&n->page[i]->itl[k], i * ITL_PAGE + k);
}

static void forget_luns(struct itl *itl, unsigned lun)
{
	ua_take(itl, UA_LUNS_CHANGED);
}

void nexus_luns_seen(struct scsi_nexus *n)
{
	n->remapped = false;
	each_itl(n, forget_luns);
}

/* --- a new map --- */

static bool map_same(const struct lun_map *a, const struct lun_map *b)
{
	for (unsigned i = 0; i < MAX(a->n, b->n); i++)
		if ((i < a->n ? a->lu[i] : NULL) != (i < b->n ? b->lu[i] : NULL))
			return false;
	return true;
}

/* A unit that a nexus no longer sees, but others may. */
struct leaving { struct lu_job job; struct lu_loop *ll; uint64_t nexus_id; };

static void left(struct lu_job *j)
{
	struct leaving *l = container_of(j, struct leaving, job);

	l->ll->users--;
	lu_wait_check(l->ll);
	free(l);
}

static void run_leave(struct lu_job *j)
{
	lu_give_up(j, container_of(j, struct leaving, job)->nexus_id);
}

static void leave(const struct scsi_nexus *n, const struct itl *itl)
{
	struct lu_loop *ll = itl->ll;
	struct leaving *l = ll->pub.reserved_by == n->id || itl->prevents || itl->aca ? calloc(1, sizeof(*l)) : NULL;

	if (!l)
		return; /* out of memory: a reset of the unit frees it too */
	l->ll = ll;
	l->nexus_id = n->id;
	ll->users++;
	lu_job_start(&l->job, ll->lu, n->loop, run_leave, left);
}

/* A unit that the new map does not have at this LUN is left; another at the same LUN is new to the nexus. */
static void remap_itl(struct itl *itl, unsigned lun)
{
	if (nexus_ll(itl->nexus, lun) == itl->ll)
		return;
	leave(itl->nexus, itl);
	itl_drop(itl);
}

static void tell_luns(struct itl *itl, unsigned lun)
{
	ua_add(itl, UA_LUNS_CHANGED);
}

/* There are other target port groups: REPORT TARGET PORT GROUPS says another thing. */
static void tell_access(struct itl *itl, unsigned lun)
{
	ua_add(itl, UA_ACCESS_CHANGED);
}

static void tell_inquiry(struct itl *itl, unsigned lun)
{
	ua_add(itl, UA_INQUIRY_CHANGED);
}

static void nexus_remap(struct scsi_nexus *n, const struct lun_map *map)
{
	bool same = map_same(n->map, map), described = n->map->tpgs == map->tpgs;
	bool ports = n->map->nports == map->nports && !memcmp(n->map->port, map->port, sizeof(map->port));

	n->map = map;
	if (!same) {
		each_itl(n, remap_itl);
		each_itl(n, tell_luns);
		copy_forget_gone(n);
		n->remapped = true;
	}
	if (!described)
		each_itl(n, tell_inquiry);
	if (!ports && map->tpgs)
		each_itl(n, tell_access);
}

static void map_leg(struct round_leg *leg, void *ctx)
{
	struct scsi_target *t = ctx;
	struct scsi_nexus *n;

	t->per_loop[loop_index(leg->loop)] = t->map;
	list_for_each(n, &scsi_loop(leg->loop)->nexuses, node)
		if (n->target == t)
			nexus_remap(n, t->map);
	round_leg_done(leg);
}

static void map_done(void *ctx)
{
	struct scsi_target *t = ctx;

	free(t->old);
	t->old = NULL;
	t->changing = false;
	if (t->done)
		t->done(t->done_ctx);
}

void scsi_target_set_ports(struct scsi_target *t, const struct scsi_ports *ports)
{
	CHECK(ports->n <= LIM_PORTALS);
	t->ports = *ports;
}

/* One change at a time: the caller waits for done before the next. */
void scsi_target_set_luns(struct scsi_target *t, const struct scsi_lun *luns, unsigned n,
	void (*done)(void *ctx), void *ctx)
{
	unsigned size = 0;
	struct lun_map *map;

	CHECK(!t->changing);
	for (unsigned i = 0; i < n; i++)
		size = MAX(size, luns[i].lun + 1u);
	CHECK(size <= LIM_LUNS);
	map = calloc(1, sizeof(*map) + size * sizeof(map->lu[0]));
	CHECK(map);
	map->n = size;
	map->tpgs = t->ports.tpgs;
	map->transition_s = t->ports.transition_s;
	map->nports = t->ports.n;
	memcpy(map->port, t->ports.tag, sizeof(map->port));
	for (unsigned i = 0; i < n; i++)
		map->lu[luns[i].lun] = luns[i].lu;
	t->old = t->map;
	t->map = map;
	t->changing = true;
	t->done = done;
	t->done_ctx = ctx;
	round_start(scsi_control, map_leg, map_done, t);
}

/* --- nexus --- */

struct scsi_nexus *scsi_nexus_new(struct scsi_target *t, struct loop *l, const char *initiator,
	const uint8_t isid[6], uint16_t tpgt)
{
	struct scsi_loop *sl = scsi_loop(l);
	struct scsi_nexus *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->id = sl->next_id++;
	n->target = t;
	n->loop = l;
	n->tpgt = tpgt;
	memcpy(n->isid, isid, 6);
	snprintf(n->initiator, sizeof(n->initiator), "%s", initiator);
	list_init(&n->cmds);
	list_init(&n->copies);
	n->map = t->per_loop[loop_index(l)];
	list_add_tail(&sl->nexuses, &n->node);
	return n;
}

int scsi_nexus_principal(struct scsi_nexus *n, const char *text)
{
	n->principal = strdup(text);
	return n->principal ? 0 : -ENOMEM;
}

void scsi_nexus_transport(struct scsi_nexus *n, uint8_t level, void (*lost)(void *ctx, const uint8_t lun[8]), void *ctx)
{
	n->level = level;
	n->lost = lost;
	n->lost_ctx = ctx;
}

/* --- nexus loss --- */

static void drop_at(struct itl *itl, unsigned lun)
{
	itl_drop(itl);
}

static void nexus_free(struct scsi_nexus *n)
{
	void (*gone)(void *) = n->gone;
	void *ctx = n->gone_ctx;

	list_del(&n->node);
	copy_forget_all(n);
	each_itl(n, drop_at);
	for (unsigned i = 0; i < LIM_LUNS / ITL_PAGE; i++)
		free(n->page[i]);
	free(n->principal);
	free(n);
	if (gone)
		gone(ctx);
}

static void release_next(struct scsi_nexus *n);

static void released(struct lu_job *j)
{
	struct scsi_nexus *n = container_of(j, struct scsi_nexus, job);
	struct lu_loop *ll = n->release;

	n->release = NULL;
	ll->users--;
	lu_wait_check(ll);
	release_next(n);
}

static void run_release(struct lu_job *j)
{
	lu_give_up(j, container_of(j, struct scsi_nexus, job)->id);
}

/* Gives up, one unit after the other, what the nexus held. */
static void release_next(struct scsi_nexus *n)
{
	while (n->next_lun < LIM_LUNS) {
		struct itl *itl = nexus_peek(n, n->next_lun++);
		struct lu_loop *ll = itl ? itl->ll : NULL;
		if (!ll || (ll->pub.reserved_by != n->id && !itl->prevents && !itl->aca))
			continue;
		itl->prevents = itl->aca = false;
		n->release = ll;
		ll->users++;
		lu_job_start(&n->job, ll->lu, n->loop, run_release, released);
		return;
	}
	nexus_free(n);
}

void nexus_check(struct scsi_nexus *n)
{
	if (list_empty(&n->cmds) && !n->tmfs && !n->release && !n->next_lun)
		release_next(n);
}

static void ghost_granted(struct lu_freeze *fz)
{
	/* Nothing to do: the range stays frozen until the write ends and thaws it. */
}

static void close_task(struct task *t)
{
	struct scsi_nexus *n = container_of(t, struct scsi_nexus, job.task);

	n->closing = true;
	nexus_check(n);
}

/* A write that runs keeps its range frozen for everybody until it ends. */
static void abort_to_ghost(struct scsi_cmd *c)
{
	scsi_abort(c);
	if (c->state == SCSI_CMD_RUNNING && c->ll && c->len && !c->freeze && c->op && (c->op->flags & SCSI_WRITES))
		c->freeze = lu_freeze(c->ll, c->off, c->len, c, ghost_granted);
}

void scsi_cmd_drop(struct scsi_cmd *c)
{
	struct itl *itl = c->ll ? scsi_itl(c) : NULL;

	if (c->must_abort)
		return;
	if (itl)
		ua_add(itl, UA_PROTOCOL_EVENT);
	abort_to_ghost(c);
}

void scsi_nexus_close(struct scsi_nexus *n, void (*gone)(void *ctx), void *ctx)
{
	struct scsi_cmd *c, *tmp;

	n->gone = gone;
	n->gone_ctx = ctx;
	list_for_each_safe(c, tmp, &n->cmds, in_nexus)
		abort_to_ghost(c);
	n->job.task.run = close_task;
	loop_defer(n->loop, &n->job.task);
}

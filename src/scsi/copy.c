/* SPDX-License-Identifier: BSD-3-Clause
 * Moving data for the copy manager, in steps: source and destination are frozen on every loop, a step moves, they thaw.
 * A step is one copy below when both media can (BLK_COPY), else parts: zeros where the source has a hole, else a read and
 * a write of the same pages, which are all the memory that a copy holds. Task management, COPY OPERATION ABORT and whoever
 * takes a unit away end it between two parts. On the loop of its nexus. */
#include "scsi/copy.h"

#include "scsi/pr.h"

enum { QUICK_NS = 10000000, SLOW_NS = 50000000 }; /* after a step that took less they grow, after more they shrink */
enum { MEMORY_NS = 2000000 }; /* before a copy looks again for memory */

/* --- who is meant --- */

/* The unit with that designator among those of the nexus; SPC-4 6.4.5.6 names it as VPD page 83h does. */
struct itl *copy_unit(struct scsi_nexus *n, const uint8_t *cscd)
{
	uint8_t have[512];
	unsigned len = cscd[7];
	struct itl *itl;

	for (unsigned i = 0; len <= 20 && i < n->map->n; i++) {
		if (!n->map->lu[i])
			continue;
		size_t all = vpd_lu_designators(n->map->lu[i], have);
		for (size_t at = 0; at + 4 <= all; at += 4u + have[at + 3])
			if ((have[at] & 0x0f) == (cscd[4] & 0x0f) && (have[at + 1] & 0x3f) == (cscd[5] & 0x3f) &&
			    have[at + 3] == len && !memcmp(have + at + 4, cscd + 8, len))
				return nexus_itl(n, i, &itl) ? NULL : itl;
	}
	return NULL;
}

bool copy_allows(const struct scsi_nexus *n, const struct itl *itl, bool writes)
{
	const struct lu_pub *p = &itl->ll->pub;

	if (p->alert & (LU_NOT_READY | LU_SANITIZE) || (writes && p->alert & LU_WRITE_PROTECT))
		return false;
	if (p->alert & LU_RESERVED && p->reserved_by != n->id)
		return false;
	if (p->alert & LU_PATHS && !alua_does_io(itl))
		return false;
	return !(p->alert & LU_PERSISTENT) || pr_permits(itl, writes ? SCSI_PR_WRITE : SCSI_PR_READ);
}

static const struct itl *itl_on(const struct scsi_nexus *n, const struct lu_loop *ll)
{
	const struct itl *itl;

	list_for_each(itl, &ll->itls, node)
		if (itl->nexus == n)
			return itl;
	return NULL;
}

/* The same at any later moment: the nexus may have lost the unit, or somebody else have reserved it. */
static bool still_allows(const struct scsi_nexus *n, const struct lu_loop *ll, bool writes)
{
	const struct itl *itl = itl_on(n, ll);

	return itl && copy_allows(n, itl, writes);
}

/* --- life --- */

void copy_refuse(struct scsi_cmd *c, struct copy_fault f)
{
	if (f.byte >= 0)
		scsi_reply_field(c, f.sense, (unsigned)f.byte, -1);
	else
		scsi_reply_sense(c, f.sense);
}

static void next_step(struct copy *k);

static void again(struct timer *t)
{
	next_step(container_of(t, struct copy, again));
}

struct copy *copy_new(struct scsi_cmd *c, unsigned nseg)
{
	struct copy *k = calloc(1, sizeof(*k));
	struct copy_seg *seg = calloc(nseg + 1, sizeof(*seg));

	if (!k || !seg) {
		free(k);
		free(seg);
		return NULL;
	}
	k->c = c;
	k->seg = seg;
	k->leap = COPY_LEAP_FIRST;
	k->again.fire = again;
	list_init(&k->aborters);
	return k;
}

void copy_free(struct copy *k)
{
	copy_third_free(k->third);
	free(k->seg);
	free(k);
}

bool copy_may_begin(struct scsi_cmd *c)
{
	if (c->nexus->ncopies < COPY_RESULTS && scsi_loop(c->loop)->ncopies < COPIES_MAX)
		return true;
	scsi_reply(c, SCSI_BUSY);
	return false;
}

static void hold(struct copy *k, int by)
{
	k->c->nexus->ncopies += (unsigned)by;
	scsi_loop(k->c->loop)->ncopies += (unsigned)by;
	for (unsigned i = 0; i < k->nseg; i++) {
		struct lu_loop *ll[2] = { k->seg[i].src, k->seg[i].dst };
		for (unsigned j = 0; j < 2; j++) {
			if (!ll[j])
				continue;
			ll[j]->users += (unsigned)by; /* it is not closed under the copy */
			if (by < 0 && !list_empty(&ll[j]->waits))
				lu_wait_check(ll[j]);
		}
	}
}

/* What may be asked later. */
static void keep_result(struct copy *k)
{
	const struct scsi_cmd *c = k->c;
	struct copy_result *r = k->result;

	if (!r)
		return;
	r->copy = NULL;
	r->busy = false;
	if (r->forget) {
		copy_result_drop(r);
		return;
	}
	if (c->must_abort || k->cancelled) {
		r->state = COPY_TERMINATED;
		r->status = SCSI_TASK_ABORTED;
		return;
	}
	r->state = c->status == SCSI_GOOD ? COPY_DONE : k->short_of_data ? COPY_PARTIAL : COPY_FAILED;
	r->status = c->status;
	r->sense_len = c->sense_len;
	memcpy(r->sense, c->sense, c->sense_len);
}

static void answer_aborters(struct copy *k)
{
	while (!list_empty(&k->aborters)) {
		struct lu_job *j = list_first(&k->aborters, struct lu_job, node);
		list_del(&j->node);
		scsi_reply(scsi_job_cmd(j), SCSI_GOOD);
	}
}

/* Ends with the status and sense that k->c has. From the loop's queue. */
static void end(struct copy *k)
{
	struct scsi_cmd *c = k->c;
	bool background = c == &k->bg;

	if (k->ended)
		k->ended(k);
	keep_result(k);
	answer_aborters(k);
	hold(k, -1);
	if (!background)
		copy_free(k);
	scsi_end(c); /* in the background: frees k */
}

static void background_done(struct scsi_cmd *c)
{
	copy_free(container_of(c, struct copy, bg));
}

/* In fixed format the status and sense of the unit at fault lie behind our own; SPC-4 5.17.7.4. */
static void fault_sense(struct copy *k, uint32_t sense, int err, bool source)
{
	struct copy_seg *s = &k->seg[k->at];
	int at = source ? s->src_at : s->dst_at;
	uint64_t done = k->done + k->moved;
	struct sense_extra x = { .has_info = done > 0, .info = (s->len - done) >> (s->dst ? s->dst->shift : 0),
		.has_segment = true, .segment = (uint16_t)k->at, .has_field = at >= 0, .byte = (uint16_t)MAX(at, 0), .bit = -1 };
	uint8_t theirs[LIM_SENSE];

	if (!k->counts_segments)
		x = (struct sense_extra){ .has_info = true, .info = k->result ? k->result->bytes >> k->result->shift : 0 };
	if (err) {
		struct scsi_cmd *c = k->c;
		struct lu_loop *ll = c->ll;
		c->ll = source ? s->src : s->dst;
		sense_from_errno(c, err, !source, k->io.fail_off);
		c->ll = ll;
		x.forward_len = c->sense_len;
		memcpy(theirs, c->sense, c->sense_len);
		x.forward = theirs;
		x.from_source = source;
	}
	sense_set(k->c, sense, &x);
}

/* --- memory: taken before a step freezes anything, so that whoever waits for it is in nobody's way --- */

/* One copy always gets it; others look again later, and so find that they were aborted. */
static bool charge(struct copy *k)
{
	struct scsi_loop *sl = scsi_loop(k->c->loop);

	if (sl->copy_bytes && sl->copy_bytes + COPY_PART > sl->copy_budget) {
		loop_timer_set(k->c->loop, &k->again, loop_now_ns(k->c->loop) + MEMORY_NS);
		return false;
	}
	sl->copy_bytes += COPY_PART;
	k->charged = true;
	return true;
}

static void uncharge(struct copy *k)
{
	if (k->charged)
		scsi_loop(k->c->loop)->copy_bytes -= COPY_PART;
	k->charged = false;
}

/* After a step, however it ended. */
static void thaw(struct copy *k)
{
	for (unsigned i = 0; i < 2; i++) {
		if (k->freeze[i])
			lu_thaw(k->freeze[i]);
		k->freeze[i] = NULL;
	}
	uncharge(k);
}

static void put_pages(struct copy *k)
{
	scsi_pages_put(k->c->loop, k->iov, k->niov);
	k->niov = 0;
}

/* err: of a request to the source or destination; 0: none. */
static void fail(struct copy *k, uint32_t sense, int err, bool source)
{
	put_pages(k);
	thaw(k);
	fault_sense(k, sense, err, source);
	end(k);
}

static void finish(struct copy *k)
{
	if (k->cancelled && !k->c->must_abort) {
		sense_set(k->c, SENSE_COPY_CLEARED, NULL);
	} else if (k->short_of_data) {
		struct sense_extra x = { .has_info = true, .info = k->result ? k->result->bytes >> k->result->shift : 0 };
		sense_set(k->c, SENSE(x.info ? 0xa : 5, 0x0d, 0x04), &x); /* COPY TARGET DEVICE DATA UNDERRUN, SBC-4 4.28.2 */
	} else {
		k->c->status = SCSI_GOOD;
	}
	end(k);
}

/* --- a step, in parts: all of it is frozen --- */

static void go_on(struct copy *k);

/* How long others had to wait for a step decides how long the next one is. */
static void step_over(struct copy *k)
{
	uint64_t took = loop_now_ns(k->c->loop) - k->began_ns;

	if (took < QUICK_NS && k->moved == k->leap)
		k->leap = MIN(k->leap * 2, (uint64_t)COPY_LEAP_MAX);
	else if (took > SLOW_NS)
		k->leap = MAX(k->leap / 2, (uint64_t)COPY_PART);
	thaw(k);
	k->done += k->moved;
	k->moved = 0;
	next_step(k);
}

static void part_over(struct copy *k)
{
	put_pages(k);
	k->moved += k->part;
	k->data_left -= MIN(k->data_left, k->part);
	if (k->result)
		k->result->bytes += k->part;
	if (k->moved < k->step)
		go_on(k);
	else
		step_over(k);
}

static void request(struct copy *k, const struct lu_loop *ll, blk_done_fn *done)
{
	k->io.loop = k->c->loop;
	if (k->result)
		k->result->requests++;
	blk_submit(ll->pub.blk, &k->io, done, k);
}

static uint64_t source_at(const struct copy *k)
{
	return k->seg[k->at].from + k->done + k->moved;
}

static uint64_t target_at(const struct copy *k)
{
	return k->seg[k->at].to + k->done + k->moved;
}

static uint32_t write_flags(const struct lu_loop *to)
{
	return (to->pub.wce ? 0u : (unsigned)BLK_FUA) | (to->pub.thin ? (unsigned)BLK_MAY_UNMAP : 0u);
}

static void written(struct blk_io *io, void *ctx)
{
	if (io->status < 0)
		fail(ctx, SENSE_COPY_THIRD_PARTY, io->status, false);
	else
		part_over(ctx);
}

static void read_over(struct blk_io *io, void *ctx)
{
	struct copy *k = ctx;
	struct copy_seg *s = &k->seg[k->at];

	if (io->req.flags & BLK_LEND)
		k->niov = io->req.niov;
	if (io->status < 0) {
		fail(k, SENSE_COPY_THIRD_PARTY, io->status, true);
		return;
	}
	if (k->c->must_abort || k->cancelled) {
		k->part = 0;
		part_over(k);
		return;
	}
	io->req = (struct blk_req){ .op = BLK_WRITE, .flags = BLK_PAGES | (s->dst->pub.wce ? 0u : (unsigned)BLK_FUA),
		.off = target_at(k), .len = k->part, .iov = k->iov, .niov = k->niov };
	request(k, s->dst, written);
}

static void read_part(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];
	bool lend = s->src->pub.blk->caps & BLK_CAN_LEND;

	k->part = MIN(k->part, (uint64_t)COPY_PART);
	int n = lend ? COPY_PART_IOV : scsi_pages_get(k->c->loop, k->iov, k->part);
	if (n < 0) {
		fail(k, SENSE(0xa, 0x55, 0x03), 0, false);
		return;
	}
	k->niov = lend ? 0 : n;
	k->io.req = (struct blk_req){ .op = BLK_READ, .flags = lend ? BLK_LEND : 0, .off = source_at(k), .len = k->part,
		.iov = k->iov, .niov = n };
	request(k, s->src, read_over);
}

static void zero_part(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];

	k->io.req = (struct blk_req){ .op = BLK_ZERO, .flags = write_flags(s->dst), .off = target_at(k), .len = k->part };
	request(k, s->dst, written);
}

/* What the source has here: a hole becomes one, whole blocks of it. */
static void mapped(struct blk_io *io, void *ctx)
{
	struct copy *k = ctx;
	struct copy_seg *s = &k->seg[k->at];
	struct blk_extent e = k->io.status < 0 ? (struct blk_extent){ 0, k->part, BLK_DATA } : *io->req.map;
	uint64_t bs = 1ull << MAX(s->src->shift, s->dst->shift);

	put_pages(k);
	if (e.kind != BLK_DATA && (e.len >= bs || e.len == k->part)) {
		k->part = e.len == k->part ? e.len : e.len & ~(bs - 1);
		zero_part(k);
		return;
	}
	k->data_left = e.kind == BLK_DATA ? (e.len + bs - 1) & ~(bs - 1) : bs;
	k->part = MIN(k->part, k->data_left);
	read_part(k);
}

static void map_part(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];

	if (scsi_pages_get(k->c->loop, k->iov, sizeof(struct blk_extent)) < 0) {
		fail(k, SENSE(0xa, 0x55, 0x03), 0, false);
		return;
	}
	k->niov = 1;
	k->io.req = (struct blk_req){ .op = BLK_MAP, .off = source_at(k), .len = k->part, .nmap = 1,
		.map = k->iov[0].iov_base };
	request(k, s->src, mapped);
}

static void copied(struct blk_io *io, void *ctx)
{
	struct copy *k = ctx;

	if (io->status == 0) {
		part_over(k);
	} else if (io->status != -EOPNOTSUPP) {
		fail(k, SENSE_COPY_THIRD_PARTY, io->status, false);
	} else {
		k->offload = false;
		k->leap = MIN(k->leap, (uint64_t)COPY_LEAP_MEMORY);
		step_over(k); /* the next one takes memory */
	}
}

static void move(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];

	k->part = k->step - k->moved;
	if (!s->src) {
		zero_part(k);
	} else if (k->offload) {
		k->io.req = (struct blk_req){ .op = BLK_COPY, .flags = write_flags(s->dst), .off = target_at(k), .len = k->part,
			.from = s->src->pub.blk, .from_off = source_at(k) };
		request(k, s->dst, copied);
	} else if (!k->data_left && (s->src->pub.blk->caps & BLK_CAN_MAP)) {
		map_part(k);
	} else {
		k->part = k->data_left ? MIN(k->part, k->data_left) : k->part;
		read_part(k);
	}
}

/* Rights of another nexus have been asked for at the beginning of the step. */
static bool source_allowed(const struct copy *k, const struct copy_seg *s)
{
	return !s->src || s->src_party || still_allows(k->c->nexus, s->src, false);
}

static bool target_allowed(const struct copy *k, const struct copy_seg *s)
{
	return itl_on(k->c->nexus, k->c->ll) && (s->dst_party || still_allows(k->c->nexus, s->dst, true));
}

/* Asked once all is frozen: whoever takes a unit away later, by a reservation say, sees the step as done before, because
 * it cannot look at the range until then. */
static void go_on(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];

	if (k->c->must_abort || k->cancelled) {
		step_over(k);
	} else if (!source_allowed(k, s)) {
		fail(k, SENSE_COPY_NOT_REACHABLE, 0, true);
	} else if (!target_allowed(k, s)) {
		fail(k, SENSE_COPY_NOT_REACHABLE, 0, false);
	} else if (s->lease && !lu_leased(s->src, s->lease)) {
		fail(k, SENSE_TOKEN(k->result && k->result->bytes ? 0xa : 5, TOKEN_CANCELLED), 0, true);
	} else {
		move(k);
	}
}

static void ask_parties(struct copy *k);

static void party_answered(void *ctx)
{
	struct copy *k = ctx;
	struct copy_seg *s = &k->seg[k->at];
	bool source = k->asks++ == 0;

	if (source ? s->src_party->reads : s->dst_party->writes)
		ask_parties(k);
	else
		fail(k, SENSE_COPY_NOT_REACHABLE, 0, source);
}

/* Do those by whose rights the copy goes on still have them? One after the other. */
static void ask_parties(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];
	struct copy_party *party[2] = { s->src_party, s->dst_party };

	while (k->asks < 2 && !party[k->asks])
		k->asks++;
	if (k->asks < 2)
		copy_party_ask(party[k->asks], party_answered, k);
	else
		go_on(k);
}

static void all_granted(struct lu_freeze *fz)
{
	struct copy *k = lu_freeze_ctx(fz);

	k->began_ns = loop_now_ns(k->c->loop);
	k->asks = 0;
	ask_parties(k);
}

static struct lu_range source_range(const struct copy *k)
{
	return (struct lu_range){ k->seg[k->at].from + k->done, k->step, FREEZE_WRITES };
}

static struct lu_range target_range(const struct copy *k)
{
	return (struct lu_range){ k->seg[k->at].to + k->done, k->step, FREEZE_ALL };
}

static bool freeze(struct copy *k, unsigned i, struct lu_loop *ll, const struct lu_range range[2],
	void (*granted)(struct lu_freeze *fz))
{
	k->freeze[i] = lu_freeze_ranges(ll, range, k, granted);
	if (!k->freeze[i])
		fail(k, SENSE(0xa, 0x55, 0x03), 0, false);
	return k->freeze[i];
}

/* Units are asked in one order by all copies, on every loop, or two in opposite directions would wait for each other. */
static bool source_is_first(const struct copy_seg *s)
{
	return (uintptr_t)s->src->lu < (uintptr_t)s->dst->lu;
}

static void first_granted(struct lu_freeze *fz)
{
	struct copy *k = lu_freeze_ctx(fz);
	struct copy_seg *s = &k->seg[k->at];
	bool source_first = source_is_first(s);
	struct lu_range range[2] = { source_first ? target_range(k) : source_range(k) };

	if (k->c->must_abort || k->cancelled) {
		thaw(k);
		finish(k);
		return;
	}
	freeze(k, 1, source_first ? s->dst : s->src, range, all_granted);
}

static void freeze_two(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];
	bool source_first = source_is_first(s);
	struct lu_range range[2] = { source_first ? source_range(k) : target_range(k) };

	freeze(k, 0, source_first ? s->src : s->dst, range, first_granted);
}

static void freeze_one(struct copy *k)
{
	struct copy_seg *s = &k->seg[k->at];
	struct lu_range range[2] = { target_range(k) };

	if (s->src)
		range[1] = source_range(k);
	freeze(k, 0, s->dst, range, all_granted);
}

/* May BLK_COPY be tried? Steps through memory are shorter. */
static void choose_way(struct copy *k)
{
	const struct copy_seg *s = &k->seg[k->at];
	const struct blk *from = s->src ? s->src->pub.blk : NULL, *to = s->dst ? s->dst->pub.blk : NULL;

	k->offload = from && to && (from->caps & to->caps & BLK_CAN_COPY);
	if (from && !k->offload)
		k->leap = MIN(k->leap, (uint64_t)COPY_LEAP_MEMORY);
}

static void next_step(struct copy *k)
{
	while (k->at < k->nseg && k->done == k->seg[k->at].len) {
		k->at++;
		k->done = 0;
		k->data_left = 0;
		if (k->at < k->nseg)
			choose_way(k);
		if (k->result && k->counts_segments)
			k->result->segments = MIN(k->at + 1, k->nseg);
	}
	if (k->at == k->nseg || k->c->must_abort || k->cancelled) {
		finish(k); /* an aborted command's status goes nowhere */
		return;
	}
	if (k->seg[k->at].src && !k->offload && !charge(k))
		return;
	k->step = MIN(k->seg[k->at].len - k->done, k->leap);
	if (k->seg[k->at].src && k->seg[k->at].src != k->seg[k->at].dst)
		freeze_two(k);
	else
		freeze_one(k);
}

static void start_task(struct task *t)
{
	struct copy *k = (struct copy *)(uintptr_t)container_of(t, struct scsi_cmd, task)->scratch[0];

	if (k->nseg)
		choose_way(k);
	next_step(k);
}

/* A command that no initiator sent, in the lists where aborts look. */
static void go_background(struct copy *k)
{
	struct scsi_cmd *c = k->c, *bg = &k->bg;

	scsi_cmd_init(bg, c->loop);
	bg->nexus = c->nexus;
	memcpy(bg->lun, c->lun, sizeof(bg->lun));
	bg->attr = SCSI_SIMPLE;
	bg->background = true;
	bg->ll = c->ll;
	bg->lu = c->lu;
	bg->seq = c->ll->seq++;
	bg->state = SCSI_CMD_RUNNING;
	bg->done = background_done;
	list_add_tail(&c->nexus->cmds, &bg->in_nexus);
	list_add_tail(&c->ll->cmds, &bg->in_lu);
	k->c = bg;
	scsi_reply(c, SCSI_GOOD);
}

void copy_begin(struct copy *k, bool background)
{
	k->c->len = 0; /* it holds its ranges by freezes */
	hold(k, 1);
	if (k->result) {
		k->result->copy = k;
		k->result->busy = true;
		k->result->state = background ? COPY_BACKGROUND : COPY_FOREGROUND;
		k->result->segments = k->counts_segments && k->nseg;
	}
	if (background)
		go_background(k);
	k->c->scratch[0] = (uintptr_t)k;
	k->c->task.run = start_task; /* scsi_end() must not run inside this call */
	loop_defer(k->c->loop, &k->c->task);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * REPORT and SET TARGET PORT GROUPS, the gate that access states are, and changes of them. A change is a job on the
 * unit's home: saved on the control thread when it is to be kept, published with 2A/06; groups that leave I/O are
 * published as transitioning, drained outside the job, and then a second job gives them their new state. */
#include "scsi/alua.h"
#include "scsi/priv.h"

#define SENSE_SET_FAILED SENSE(4, 0x67, 0x0a)

bool alua_offered(const struct scsi_cmd *c)
{
	return c->nexus->map->tpgs != 0;
}

bool alua_set_offered(const struct scsi_cmd *c)
{
	return c->nexus->map->tpgs & 2;
}

/* --- the gate --- */

static const struct { uint8_t access; uint32_t allowed, sense; } gates[] = {
	{ ALUA_STANDBY, SCSI_IN_STANDBY, SENSE(2, 0x04, 0x0b) },
	{ ALUA_UNAVAILABLE, SCSI_IN_UNAVAILABLE, SENSE(2, 0x04, 0x0c) },
	{ ALUA_OFFLINE, SCSI_IN_UNAVAILABLE, SENSE(2, 0x04, 0x12) },
	{ ALUA_TRANSITIONING, SCSI_IN_TRANSITION, SENSE(2, 0x04, 0x0a) },
};

bool alua_refuses(struct scsi_cmd *c)
{
	uint8_t access = alua_access(c->ll->pub.alua, c->nexus->tpgt);

	if (!alua_offered(c))
		return false; /* a target that reports no asymmetric access has none */
	for (unsigned i = 0; i < ARRAY_LEN(gates); i++) {
		if (gates[i].access != access || (c->op->flags & gates[i].allowed))
			continue;
		scsi_reply_sense(c, gates[i].sense);
		return true;
	}
	return false;
}

bool alua_does_io(const struct itl *itl)
{
	return !itl->nexus->map->tpgs || alua_is_active(alua_access(itl->ll->pub.alua, itl->nexus->tpgt));
}

bool alua_gated(const struct alua_state *s)
{
	for (unsigned i = 0; s && i < s->n; i++)
		if (!alua_is_active(s->group[i].access))
			return true;
	return false;
}

/* SPC-4 5.16.2.4.5: 001b where the port is unavailable. */
uint8_t alua_qualifier(const struct scsi_cmd *c)
{
	uint8_t access = alua_access(c->ll->pub.alua, c->nexus->tpgt);

	return alua_offered(c) && (access == ALUA_UNAVAILABLE || access == ALUA_OFFLINE) ? 0x20 : 0;
}

/* --- REPORT TARGET PORT GROUPS, SPC-4 6.37 --- */

static unsigned put_group(uint8_t *p, const struct alua_state *s, uint16_t tag)
{
	const struct alua_group *g = alua_find(s, tag);

	memset(p, 0, 12);
	p[0] = (uint8_t)(g ? g->access | g->preferred << 7 : ALUA_OPTIMIZED);
	p[1] = 0xcf; /* T_SUP O_SUP U_SUP S_SUP AN_SUP AO_SUP */
	put_be16(p + 2, tag);
	p[5] = g ? g->why : ALUA_CONFIGURED;
	p[7] = 1; /* one target port, whose relative identifier is the tag too */
	put_be16(p + 10, tag);
	return 12;
}

void alua_report(struct scsi_cmd *c)
{
	const struct lun_map *map = c->nexus->map;
	uint8_t p[8 + 12 * LIM_PORTALS] = { 0 };
	bool extended = c->cdb[1] >> 5 == 1;
	unsigned n = extended ? 8 : 4;

	if (c->cdb[1] >> 5 > 1) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 7);
		return;
	}
	if (extended) {
		p[4] = 0x10;
		p[5] = map->transition_s;
	}
	for (unsigned i = 0; i < map->nports; i++)
		n += put_group(p + n, c->ll->pub.alua, map->port[i]);
	put_be32(p, n - 4);
	scsi_reply_data(c, p, n);
}

/* --- a change under way --- */

struct alua_op {
	struct task    task;
	struct lu_job  job;
	struct lu     *lu;
	struct loop   *from;
	struct scsi_cmd *cmd;           /* SET TARGET PORT GROUPS, or NULL: the control thread's */
	struct alua_change change[LIM_PORTALS];
	unsigned       n;
	enum alua_why  why;
	bool           keep, rebase;
	struct alua_state *final;       /* when nothing is transitioning any more */
	const struct alua_state *old;   /* freed when no loop has it */
	struct lu_tags leaving;
	uint32_t       seq;
	unsigned       limit_s;         /* to drain; 0 = none */
	struct timer   timer;
	bool           late, answered, drained; /* late: the limit is over; both others: it can be freed */
	uint8_t        save[ALUA_SAVE_MAX];
	size_t         save_len;
	int            result;
	void         (*done)(void *ctx, int result);
	void          *ctx;
};

static struct alua_op *op_of(struct lu_job *j)
{
	return container_of(j, struct alua_op, job);
}

static void op_answer(struct alua_op *op)
{
	struct scsi_cmd *c = op->cmd;

	if (!c && op->done)
		op->done(op->ctx, op->result);
	if (!c)
		return;
	if (op->result && op->result != -EBUSY) {
		scsi_end_sense(c, SENSE_SET_FAILED);
		return;
	}
	c->status = op->result ? SCSI_BUSY : SCSI_GOOD;
	scsi_end(c);
}

static void op_free(struct alua_op *op)
{
	struct lu *lu = op->cmd ? NULL : op->lu;

	free(op->final);
	free(op);
	if (lu)
		lu_unhold(lu);
}

static void op_finish(struct alua_op *op)
{
	op_answer(op);
	op_free(op);
}

/* home: every loop gets `next`; ends the job. */
static void op_publish(struct alua_op *op, struct alua_state *next)
{
	op->old = op->lu->pub.alua;
	op->lu->pub.alua = next;
	op->job.ua = op->late && !op->cmd ? UA_ACCESS_FAILED : UA_ACCESS_CHANGED;
	op->job.ua_except = op->cmd ? op->cmd->nexus->id : 0;
	lu_publish(&op->job);
}

static void op_forget_old(struct alua_op *op)
{
	free((void *)op->old);
	op->old = NULL;
}

static void second_done(struct lu_job *j)
{
	op_forget_old(op_of(j));
	op_finish(op_of(j));
}

static struct alua_state *same_as(const struct alua_state *s)
{
	struct alua_state *t = NULL;

	return alua_apply(s, NULL, 0, ALUA_CONFIGURED, false, &t) ? NULL : t;
}

/* Gives the drained groups their state, but those that a later change has taken over. */
static void run_second(struct lu_job *j)
{
	struct alua_op *op = op_of(j);
	struct alua_state *next = same_as(j->lu->pub.alua);

	if (!next)
		op->result = -ENOMEM; /* they stay transitioning: whoever asked asks again */
	for (unsigned i = 0; next && i < next->n; i++) {
		const struct alua_group *g = alua_find(op->final, next->group[i].tag);
		if (g && next->group[i].seq == op->seq)
			next->group[i] = *g;
	}
	if (next)
		op_publish(op, next);
	else
		lu_job_end(j);
}

static void drain_leg(struct round_leg *leg, void *ctx)
{
	struct alua_op *op = ctx;

	lu_wait_tags(lu_on(op->lu, leg->loop), leg, &op->leaving, op->cmd);
}

/* SPC-4 5.16.2.5: a transition that failed ends in unavailable. */
static void run_late(struct lu_job *j)
{
	struct alua_op *op = op_of(j);
	struct alua_state *next = same_as(j->lu->pub.alua);

	op->result = -ETIMEDOUT;
	for (unsigned i = 0; next && i < next->n; i++) {
		if (next->group[i].seq != op->seq)
			continue;
		next->group[i].access = ALUA_UNAVAILABLE;
		next->group[i].busy = true;
		next->group[i].seq = 0;
	}
	if (next)
		op_publish(op, next);
	else
		lu_job_end(j);
}

static void late_done(struct lu_job *j)
{
	struct alua_op *op = op_of(j);

	op_forget_old(op);
	op_answer(op);
	op->answered = true;
	if (op->drained)
		op_free(op);
}

static void late(struct timer *t)
{
	struct alua_op *op = container_of(t, struct alua_op, timer);

	op->late = true;
	lu_job_start(&op->job, op->lu, op->from, run_late, late_done);
}

static void drained(void *ctx)
{
	struct alua_op *op = ctx;

	op->drained = true;
	if (op->late) {
		if (op->answered)
			op_free(op);
		return;
	}
	loop_timer_clear(op->from, &op->timer);
	lu_job_start(&op->job, op->lu, op->from, run_second, second_done);
}

static void first_done(struct lu_job *j)
{
	struct alua_op *op = op_of(j);

	op_forget_old(op);
	if (op->result || !op->leaving.n) {
		op_finish(op);
		return;
	}
	if (op->cmd) {
		op->cmd->state = SCSI_CMD_ENDING;
		lu_wait_check(op->cmd->ll); /* of others like it */
	}
	op->timer.fire = late;
	if (op->limit_s)
		loop_timer_set(op->from, &op->timer, loop_now_ns(op->from) + op->limit_s * 1000000000ull);
	round_start(op->from, drain_leg, drained, op);
}

static bool is_named(const struct alua_op *op, uint16_t tag)
{
	for (unsigned i = 0; i < op->n; i++)
		if (op->change[i].tag == tag)
			return true;
	return false;
}

/* Groups that lose I/O, or were losing it when this came. */
static void find_leaving(struct alua_op *op, const struct alua_state *old)
{
	for (unsigned i = 0; i < op->final->n; i++) {
		const struct alua_group *g = &op->final->group[i];
		const struct alua_group *o = alua_find(old, g->tag);
		uint8_t was = o ? o->access : ALUA_OPTIMIZED;
		bool leaves = was != g->access && (alua_is_active(was) || was == ALUA_TRANSITIONING);
		if (!alua_is_active(g->access) && (leaves || (o && o->busy && is_named(op, g->tag))))
			op->leaving.tag[op->leaving.n++] = g->tag;
	}
}

static void publish_first(struct alua_op *op)
{
	struct alua_state *next = same_as(op->final);

	if (!next) {
		op->result = -ENOMEM;
		lu_job_end(&op->job);
		return;
	}
	op->seq = ++op->lu->alua_seq;
	for (unsigned i = 0; i < next->n; i++)
		for (unsigned k = 0; k < op->leaving.n; k++)
			if (next->group[i].tag == op->leaving.tag[k]) {
				next->group[i].to = next->group[i].access;
				next->group[i].access = ALUA_TRANSITIONING;
				next->group[i].seq = op->seq;
			}
	op_publish(op, next);
}

static void saved(struct task *t)
{
	struct alua_op *op = container_of(t, struct alua_op, task);

	if (op->result < 0)
		lu_job_end(&op->job); /* what cannot be kept is not done */
	else
		publish_first(op);
}

static void save_on_control(struct task *t)
{
	struct alua_op *op = container_of(t, struct alua_op, task);
	const struct lu_store *st = op->lu->store;

	op->result = st->save(st->ctx, op->lu->id, "alua", op->save, op->save_len);
	op->result = MIN(op->result, 0);
	op->task.run = saved;
	loop_post(op->lu->home, &op->task);
}

/* Is there something to be saved, and where it can be found again? */
static bool wants_save(struct alua_op *op, const struct alua_state *old)
{
	const struct lu *lu = op->lu;
	uint8_t before[ALUA_SAVE_MAX];

	if (!lu->store->save || (lu->pub.blk && (lu->pub.blk->caps & BLK_VOLATILE) && !lu->conf.serial))
		return false;
	op->save_len = alua_encode(op->final, op->save);
	return alua_encode(old, before) != op->save_len || memcmp(before, op->save, op->save_len) != 0;
}

static void run_first(struct lu_job *j)
{
	struct alua_op *op = op_of(j);
	const struct alua_state *old = j->lu->pub.alua;

	op->result = op->rebase ? alua_rebase(old, op->change, op->n, &op->final)
		: alua_apply(old, op->change, op->n, op->why, op->keep, &op->final);
	if (!op->result)
		find_leaving(op, old);
	if (op->result || (!op->leaving.n && alua_equal(old, op->final))) {
		lu_job_end(j);
		return;
	}
	if (!wants_save(op, old)) {
		publish_first(op);
		return;
	}
	op->task.run = save_on_control;
	loop_post(scsi_control, &op->task);
}

static struct alua_op *op_new(struct lu *lu, struct loop *from, const struct alua_change *c, unsigned n)
{
	struct alua_op *op = n <= LIM_PORTALS ? calloc(1, sizeof(*op)) : NULL;

	if (!op)
		return NULL;
	op->lu = lu;
	op->from = from;
	if (n)
		memcpy(op->change, c, n * sizeof(*c));
	op->n = n;
	return op;
}

/* Another unit takes this one's place, and has its states already. */
static void run_sealed(struct lu_job *j)
{
	op_of(j)->result = -EBUSY;
	lu_job_end(j);
}

static void op_start(struct alua_op *op)
{
	lu_job_start_or(&op->job, op->lu, op->from, run_first, run_sealed, first_done);
}

/* --- SET TARGET PORT GROUPS, SPC-4 6.45 --- */

static bool may_set(uint8_t access)
{
	return access <= ALUA_UNAVAILABLE || access == ALUA_OFFLINE;
}

static bool has_port(const struct lun_map *map, uint16_t tag)
{
	for (unsigned i = 0; i < map->nports; i++)
		if (map->port[i] == tag)
			return true;
	return false;
}

/* Reads one descriptor at byte `at` of the list. Failed the command? */
static bool parse_group(struct scsi_cmd *c, unsigned at, struct alua_op *op)
{
	uint8_t p[4];
	unsigned bad = 0;

	scsi_data_get(c, at, p, 4);
	struct alua_change x = { be16(p + 2), p[0] & 0x0f, ALUA_AS_IT_IS };
	if (p[0] & 0xf0 || !may_set(x.access))
		bad = at;
	else if (!has_port(c->nexus->map, x.tag))
		bad = at + 2;
	for (unsigned i = 0; i < op->n; i++)
		if (op->change[i].tag == x.tag)
			bad = at + 2;
	op->change[op->n++] = x;
	if (bad)
		scsi_reply_field(c, SENSE_INVALID_PARAM, bad, -1);
	return bad;
}

void alua_set(struct scsi_cmd *c)
{
	uint32_t len = be32(c->cdb + 6);
	struct alua_op *op;

	if (!len) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (len % 4 || len < 8 || len > 4 + 4 * LIM_PORTALS) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 6, -1);
		return;
	}
	if (c->out_len < len) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	op = op_new(c->lu, c->loop, NULL, 0);
	if (!op) {
		scsi_reply_sense(c, SENSE_SET_FAILED);
		return;
	}
	op->cmd = c;
	op->why = ALUA_EXPLICIT;
	op->keep = true;
	op->limit_s = c->nexus->map->transition_s;
	for (unsigned at = 4; at < len; at += 4)
		if (parse_group(c, at, op)) {
			free(op);
			return;
		}
	op_start(op);
}

/* --- the control thread's --- */

int lu_alua_init(struct lu *lu, const struct alua_change *c, unsigned n)
{
	struct alua_state *s;

	if (lu->control_jobs)
		return -EBUSY;
	int r = alua_rebase(lu->pub.alua, c, n, &s);
	if (r)
		return r;
	alua_free(lu);
	lu->pub.alua = s;
	lu_derive(lu);
	for (unsigned i = 0; i < lu->nloops; i++)
		if (lu->ll[i])
			lu->ll[i]->pub = lu->pub; /* no loop uses it yet */
	return 0;
}

static void control_start(struct lu *lu, struct alua_op *op, void (*done)(void *ctx, int result), void *ctx)
{
	if (!op) {
		if (done)
			done(ctx, -ENOMEM);
		return;
	}
	op->done = done;
	op->ctx = ctx;
	lu_hold(lu);
	op_start(op);
}

void lu_alua_configure(struct lu *lu, const struct alua_change *c, unsigned n, void (*done)(void *ctx, int result),
	void *ctx)
{
	struct alua_op *op = op_new(lu, scsi_control, c, n);

	if (op)
		op->rebase = true;
	control_start(lu, op, done, ctx);
}

void lu_alua_change(struct lu *lu, const struct alua_change *c, unsigned n, bool keep, unsigned limit_s,
	void (*done)(void *ctx, int result), void *ctx)
{
	struct alua_op *op = op_new(lu, scsi_control, c, n);

	if (op) {
		op->why = ALUA_IMPLICIT;
		op->keep = keep;
		op->limit_s = limit_s;
	}
	control_start(lu, op, done, ctx);
}

struct alua_look { struct lu_job job; struct alua_state *s; void (*done)(void *ctx, const struct alua_state *s); void *ctx; };

static void run_look(struct lu_job *j)
{
	container_of(j, struct alua_look, job)->s = j->lu->pub.alua ? same_as(j->lu->pub.alua) : NULL;
	lu_job_end(j);
}

static void looked(struct lu_job *j)
{
	struct alua_look *k = container_of(j, struct alua_look, job);
	struct lu *lu = j->lu;

	k->done(k->ctx, k->s);
	free(k->s);
	free(k);
	lu_unhold(lu);
}

void lu_alua_show(struct lu *lu, void (*done)(void *ctx, const struct alua_state *s), void *ctx)
{
	struct alua_look *k = calloc(1, sizeof(*k));

	if (!k) {
		done(ctx, NULL);
		return;
	}
	k->done = done;
	k->ctx = ctx;
	lu_hold(lu);
	lu_job_start(&k->job, lu, scsi_control, run_look, looked);
}

/* What was damaged counts as not saved: the configuration's states are safe to start from. */
void alua_load(struct lu *lu)
{
	uint8_t p[ALUA_SAVE_MAX];
	struct alua_state *s = NULL;
	int n = lu->store->load ? lu->store->load(lu->store->ctx, lu->id, "alua", p, sizeof(p)) : -ENOENT;

	if (n > 0 && alua_decode(p, (size_t)MIN(n, (int)sizeof(p)), &s) == 0)
		lu->pub.alua = s;
}

void alua_free(struct lu *lu)
{
	free((void *)lu->pub.alua);
	lu->pub.alua = NULL;
}

/* SPDX-License-Identifier: BSD-3-Clause
 * PERSISTENT RESERVE IN and OUT, and the gate that reservations are. A change is made on the unit's home, saved on
 * the control thread when it shall survive power loss, published by a round that also tells whom it concerns and, for
 * PREEMPT AND ABORT, waits until nothing of the preempted can touch the medium; then the command is answered. */
#include <stdio.h>

#include "scsi/pr.h"

enum { PR_LIST = 24, PR_LIST_MAX = 64 << 10 };

/* --- the gate --- */

bool pr_permits(const struct itl *itl, uint32_t flags)
{
	uint8_t type = itl->ll->pub.pr->type;
	bool shared_read = type == PR_WRITE_EX || type == PR_WRITE_EX_RO || type == PR_WRITE_EX_AR;

	if (itl->pr_holder || (itl->pr_registered && type >= PR_WRITE_EX_RO))
		return true;
	return (flags & SCSI_PR_FREE) || (shared_read && (flags & SCSI_PR_READ));
}

bool pr_allows(const struct scsi_cmd *c, const struct itl *itl)
{
	uint32_t flags = c->op->flags;

	if (flags & SCSI_PR_START && (c->cdb[0] == 0x1b ? (c->cdb[4] & 0xf1) == 1 : !(c->cdb[4] & 1)))
		return true; /* SPC-4 table 52: allowed as under RESERVE */
	return pr_permits(itl, flags);
}

void pr_note(struct itl *itl, const struct scsi_nexus *n)
{
	const struct pr_state *s = itl->ll->pub.pr;
	int i = pr_find(s, n);

	itl->pr_registered = i >= 0;
	itl->pr_holder = i >= 0 && s->type && (pr_all_registrants(s->type) || s->holder == i);
}

bool pr_any(const struct pr_state *s)
{
	return s && s->n;
}

/* RESERVE and RELEASE where there are registrations (SPC-4 5.12.3, CRH = 1): no effect for those whom a reservation lets
 * in, else a conflict (SPC-2 5.5.1). Answered it? */
bool pr_answers_reserve(struct scsi_cmd *c)
{
	const struct pr_state *s = c->ll->pub.pr;
	struct itl *itl = scsi_itl(c);

	if (!pr_any(s))
		return false;
	scsi_reply(c, itl && s->type && pr_permits(itl, SCSI_PR_WRITE) ? SCSI_GOOD : SCSI_RESERVATION_CONFLICT);
	return true;
}

/* --- a change under way: home owns it --- */

struct pr_gone { struct pr_gone *next; uint64_t id; };

struct pr_change {
	struct task        task;
	struct lu_job     *job;
	struct lu         *lu;
	struct scsi_cmd   *cmd;          /* NULL: the administrator's */
	struct pr_outcome  out;
	const struct pr_state *old;
	uint8_t           *save;
	int                save_len, save_result;
	struct pr_gone    *gone[LIM_LOOPS]; /* by loop: aborted nexuses that prevented medium removal, or were in ACA */
};

static bool concerned(const struct pr_change *ch, const struct scsi_nexus *n, uint16_t *ua, bool *abort)
{
	for (unsigned i = 0; i < ch->out.nevents; i++)
		if (pr_matches(&ch->out.events[i].who, n)) {
			*ua = ch->out.events[i].ua;
			*abort = ch->out.events[i].abort;
			return true;
		}
	return false;
}

/* SPC-4 5.13.11.2.6: PREEMPT AND ABORT lets the medium go that the preempted held back. */
static void leg_allow(struct pr_change *ch, struct itl *itl, const struct scsi_nexus *n)
{
	struct pr_gone *g = itl->prevents || itl->aca ? malloc(sizeof(*g)) : NULL;

	if (!g)
		return; /* out of memory: losing the nexus lets it go too */
	itl->prevents = itl->aca = false; /* SAM-5 5.9.5: it ends their ACA too */
	*g = (struct pr_gone){ ch->gone[loop_index(n->loop)], n->id };
	ch->gone[loop_index(n->loop)] = g;
}

static void leg_nexus(struct pr_change *ch, struct itl *itl)
{
	struct lu_loop *ll = itl->ll;
	struct scsi_nexus *n = itl->nexus;
	uint16_t ua;
	bool abort = false, hit = concerned(ch, n, &ua, &abort);

	pr_note(itl, n);
	if (hit && ua && !(ch->cmd && n == ch->cmd->nexus))
		ua_add(itl, ua);
	if (hit && abort)
		leg_allow(ch, itl, n);
	struct scsi_cmd *c, *tmp;
	if (abort)
		list_for_each_safe(c, tmp, &n->cmds, in_nexus)
			if (c->ll == ll && c != ch->cmd)
				scsi_abort_by(c, false);
}

static void publish_leg(struct round_leg *leg, void *ctx)
{
	struct pr_change *ch = ctx;
	struct lu_loop *ll = lu_on(ch->lu, leg->loop);
	struct itl *itl;

	lu_snapshot(ll);
	list_for_each(itl, &ll->itls, node)
		leg_nexus(ch, itl);
	round_leg_done(leg);
}

static void published(void *ctx)
{
	struct pr_change *ch = ctx;
	unsigned naca = ch->lu->naca;

	free((void *)ch->old);
	for (unsigned i = 0; i < LIM_LOOPS; i++)
		while (ch->gone[i]) {
			struct pr_gone *g = ch->gone[i];
			ch->gone[i] = g->next;
			lu_prevent(ch->lu, g->id, false);
			lu_aca_end(ch->lu, g->id);
			free(g);
		}
	if (ch->lu->naca != naca)
		lu_publish(ch->job);
	else
		lu_job_end(ch->job);
}

static void publish(struct pr_change *ch)
{
	struct lu *lu = ch->lu;

	ch->old = lu->pub.pr;
	lu->pub.pr = ch->out.next;
	lu_derive(lu);
	round_start(lu->home, publish_leg, published, ch);
}

static void saved(struct task *t)
{
	struct pr_change *ch = container_of(t, struct pr_change, task);
	struct lu_job *j = ch->job;

	if (ch->save_result < 0) { /* what cannot be kept is not promised */
		if (ch->cmd)
			scsi_job_sense(j, SENSE(5, 0x55, 0x04), -1);
		free(ch->out.next);
		ch->out.nevents = 0;
		lu_job_end(j);
		return;
	}
	publish(ch);
}

static void save_on_control(struct task *t)
{
	struct pr_change *ch = container_of(t, struct pr_change, task);
	const struct lu_store *st = ch->lu->store;

	ch->save_result = st->save ? st->save(st->ctx, ch->lu->id, "pr", ch->save, (size_t)ch->save_len) : -ENOSYS;
	ch->task.run = saved;
	loop_post(ch->lu->home, &ch->task);
}

static void who_is(const struct scsi_nexus *n, struct pr_who *w)
{
	memset(w, 0, sizeof(*w));
	memcpy(w->initiator, n->initiator, sizeof(w->initiator));
	snprintf(w->target, sizeof(w->target), "%s", n->target->name);
	memcpy(w->isid, n->isid, 6);
	w->port = n->tpgt;
}

/* --- parameter lists --- */

/* What follows the list: a length and TransportIDs. Returns how many, or -EINVAL. */
static int parse_others(const uint8_t *p, size_t n, const struct pr_request *r, struct pr_who **ret)
{
	struct pr_who *w = NULL;
	int count = 0;

	while (n) {
		struct pr_who *more = realloc(w, (size_t)(count + 1) * sizeof(*w));
		int used = more ? pr_parse_transport_id(p, n, &more[count]) : -EINVAL;
		w = more ? more : w;
		if (used < 0 || count == PR_REGS_MAX) {
			free(w);
			return -EINVAL;
		}
		memcpy(w[count].target, r->who->target, sizeof(w->target));
		w[count].port = r->action == 7 ? r->port : r->who->port;
		count++;
		p += used;
		n -= (size_t)used;
	}
	*ret = w;
	return count;
}

/* The relative identifiers of the target's ports are its portal group tags. */
static bool has_port(const struct scsi_nexus *n, uint16_t port)
{
	bool found = port == n->tpgt;

	for (unsigned i = 0; i < n->map->nports; i++)
		found |= n->map->port[i] == port;
	return found;
}

/* REGISTER AND MOVE, SPC-4 6.16.4. */
static int parse_move(const struct scsi_nexus *nexus, const uint8_t *p, size_t n, struct pr_request *r,
	struct pr_who **others)
{
	uint32_t len = be32(p + 20);

	r->unreg = p[17] & 2;
	r->aptpl = p[17] & 1;
	r->port = be16(p + 18);
	if (len != n - PR_LIST || !has_port(nexus, r->port))
		return -EINVAL;
	int k = parse_others(p + PR_LIST, n - PR_LIST, r, others);
	return k == 1 ? 1 : -EINVAL;
}

static int parse_basic(const uint8_t *p, size_t n, struct pr_request *r, struct pr_who **others)
{
	bool registers = r->action == 0 || r->action == 6;

	r->spec_i_pt = p[20] & 8;
	r->all_ports = registers && p[20] & 4; /* SPC-4 table 216: the others ignore these two */
	r->aptpl = registers && p[20] & 1;
	if (!r->spec_i_pt)
		return 0;
	if (r->action != 0 || n < PR_LIST + 4 || be32(p + PR_LIST) != n - PR_LIST - 4)
		return -EINVAL;
	return parse_others(p + PR_LIST + 4, n - PR_LIST - 4, r, others);
}

/* --- the job --- */

static void run_change(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct pr_change *ch = (struct pr_change *)(uintptr_t)c->scratch[3];
	struct pr_request *r = (struct pr_request *)(uintptr_t)c->scratch[4];
	const struct pr_state *old = j->lu->pub.pr;

	ch->job = j;
	ch->lu = j->lu;
	if (j->lu->pub.reserved_by) { /* another loop's RESERVE came first; SPC-2 5.5.1 */
		scsi_job_status(j, SCSI_RESERVATION_CONFLICT);
		lu_job_end(j);
		return;
	}
	int e = pr_apply(old, r, &ch->out);
	if (!e && ch->out.status == SCSI_GOOD && (ch->out.next->aptpl || (old && old->aptpl))) {
		ch->save_len = pr_encode(ch->out.next, &ch->save);
		e = ch->save_len < 0 ? ch->save_len : 0;
	}
	if (e)
		scsi_job_sense(j, SENSE(0xb, 0x55, 0x03), -1);
	else if (ch->out.status == SCSI_CHECK_CONDITION)
		scsi_job_sense(j, ch->out.sense, ch->out.sense == SENSE_INVALID_FIELD ? 2 : -1);
	else if (ch->out.status)
		scsi_job_status(j, ch->out.status);
	if (e || ch->out.status) {
		free(ch->out.next);
		ch->out.nevents = 0;
		lu_job_end(j);
	} else if (ch->save) {
		ch->task.run = save_on_control;
		loop_post(scsi_control, &ch->task);
	} else {
		publish(ch);
	}
}

static void answer(void *ctx)
{
	struct pr_change *ch = ctx;
	struct scsi_cmd *c = ch->cmd;
	struct pr_request *r = (struct pr_request *)(uintptr_t)c->scratch[4];

	free((void *)r->who);
	free((void *)r->other);
	free(r);
	free(ch->save);
	free(ch->out.events);
	free(ch);
	scsi_job_end(&c->job);
}

static void aborted_leg(struct round_leg *leg, void *ctx)
{
	struct pr_change *ch = ctx;

	lu_wait_aborted(lu_on(ch->cmd->lu, leg->loop), leg, ch->cmd);
}

/* PREEMPT AND ABORT answers when what it aborted has ended. That wait is no part of the job: a preempted nexus' own
 * command may be the next job. */
static void job_done(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct pr_change *ch = (struct pr_change *)(uintptr_t)c->scratch[3];

	for (unsigned i = 0; i < ch->out.nevents; i++)
		if (ch->out.events[i].abort) {
			c->fence = true;
			c->state = SCSI_CMD_ENDING;
			lu_wait_check(c->ll); /* of others like it */
			round_start(c->loop, aborted_leg, answer, ch);
			return;
		}
	answer(ch);
}

static void start_change(struct scsi_cmd *c, struct pr_request *r)
{
	struct pr_change *ch = calloc(1, sizeof(*ch));

	if (!ch) {
		free((void *)r->who);
		free((void *)r->other);
		free(r);
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		return;
	}
	ch->cmd = c;
	c->scratch[3] = (uintptr_t)ch;
	c->scratch[4] = (uintptr_t)r;
	scsi_job_with(c, run_change, job_done);
}

static struct pr_request *make_request(struct scsi_cmd *c)
{
	struct pr_request *r = calloc(1, sizeof(*r));
	struct pr_who *w = calloc(1, sizeof(*w));

	if (!r || !w) {
		free(r);
		free(w);
		return NULL;
	}
	who_is(c->nexus, w);
	w->any_isid = c->lu->conf.pr_by_name;
	r->who = w;
	r->action = c->cdb[1] & 0x1f;
	r->type = c->cdb[2] & 0x0f;
	r->scope = c->cdb[2] >> 4; /* of the logical unit: 0, the only one */
	return r;
}

/* PERSISTENT RESERVE OUT, SPC-4 6.16. */
void pr_out(struct scsi_cmd *c)
{
	uint32_t len = be32(c->cdb + 5);
	uint8_t *p = len >= PR_LIST && len <= PR_LIST_MAX && c->out_len == len ? malloc(len) : NULL;
	struct pr_request *r = p ? make_request(c) : NULL;
	struct pr_who *others = NULL;

	if (!p || !r) {
		free(p);
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	scsi_data_get(c, 0, p, len);
	r->key = be64(p);
	r->new_key = be64(p + 8);
	int n = r->action == 7 ? parse_move(c->nexus, p, len, r, &others) : parse_basic(p, len, r, &others);
	bool extra = r->action != 7 && !(p[20] & 8) && len != PR_LIST;
	free(p);
	r->other = others;
	r->nother = n > 0 ? (unsigned)n : 0;
	if (n >= 0 && !extra) {
		start_change(c, r);
		return;
	}
	free((void *)r->who);
	free(others);
	free(r);
	if (extra)
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	else
		scsi_reply_sense(c, SENSE_INVALID_PARAM);
}

/* --- PERSISTENT RESERVE IN, SPC-4 6.15 --- */

static void read_keys(struct scsi_cmd *c, const struct pr_state *s)
{
	uint8_t p[8 + 8 * PR_REGS_MAX];
	unsigned n = s ? s->n : 0;

	put_be32(p, s ? s->generation : 0);
	put_be32(p + 4, 8 * n);
	for (unsigned i = 0; i < n; i++)
		put_be64(p + 8 + 8 * i, s->reg[i].key);
	scsi_reply_data(c, p, 8 + 8 * n);
}

static void read_reservation(struct scsi_cmd *c, const struct pr_state *s)
{
	uint8_t p[24] = { 0 };
	bool held = s && s->type;

	put_be32(p, s ? s->generation : 0);
	put_be32(p + 4, held ? 16 : 0);
	if (held) {
		put_be64(p + 8, s->holder >= 0 ? s->reg[s->holder].key : 0); /* all registrants: zero */
		p[21] = s->type;
	}
	scsi_reply_data(c, p, held ? 24 : 8);
}

static void report_capabilities(struct scsi_cmd *c, const struct pr_state *s)
{
	/* CRH SIP_C ATP_C PTPL_C; TMV, ALLOW COMMANDS 100b: what table 65 marks with b is allowed; the types */
	uint8_t p[8] = { 0, 8, 0x1d, 0xc0, 0xea, 0x01 };

	p[3] |= s && s->aptpl;
	scsi_reply_data(c, p, sizeof(p));
}

static unsigned full_status(const struct pr_state *s, unsigned i, uint8_t *p)
{
	const struct pr_reg *g = &s->reg[i];
	bool holds = s->type && (pr_all_registrants(s->type) || s->holder == (int)i);

	memset(p, 0, 24);
	put_be64(p, g->key);
	p[12] = (uint8_t)(holds | (g->who.any_port ? 2 : 0)); /* R_HOLDER, ALL_TG_PT */
	p[13] = holds ? s->type : 0;
	put_be16(p + 18, g->who.any_port ? 0 : g->who.port);
	unsigned n = pr_transport_id(&g->who, p + 24);
	put_be32(p + 20, n);
	return 24 + n;
}

static void read_full_status(struct scsi_cmd *c, const struct pr_state *s)
{
	unsigned n = s ? s->n : 0;
	uint8_t one[24 + PR_TRANSPORT_ID_MAX], *p = malloc(8 + n * sizeof(one));
	uint32_t len = 8;

	if (!p) {
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned k = full_status(s, i, one);
		memcpy(p + len, one, k);
		len += k;
	}
	put_be32(p, s ? s->generation : 0);
	put_be32(p + 4, len - 8);
	scsi_reply_data(c, p, len);
	free(p);
}

void pr_in(struct scsi_cmd *c)
{
	static void (*const action[])(struct scsi_cmd *c, const struct pr_state *s) = { read_keys, read_reservation,
		report_capabilities, read_full_status };

	action[c->cdb[1] & 3](c, c->ll->pub.pr);
}

/* --- the administrator --- */

struct pr_admin {
	struct lu_job    job;
	struct pr_change ch;
	struct pr_state *copy;
	bool             reserved;
	int              result;
	void           (*shown)(void *ctx, const struct pr_state *s, bool reserved);
	void           (*cleared)(void *ctx, int result);
	void            *ctx;
};

static void admin_done(struct lu_job *j)
{
	struct pr_admin *a = container_of(j, struct pr_admin, job);
	struct lu *lu = j->lu;

	if (a->shown)
		a->shown(a->ctx, a->copy, a->reserved);
	if (a->cleared)
		a->cleared(a->ctx, a->result ? a->result : a->ch.save_result);
	free(a->copy);
	free(a->ch.save);
	free(a->ch.out.events);
	free(a);
	lu_unhold(lu);
}

static void run_show(struct lu_job *j)
{
	struct pr_admin *a = container_of(j, struct pr_admin, job);
	const struct pr_state *s = j->lu->pub.pr;
	size_t len = s ? sizeof(*s) + s->n * sizeof(s->reg[0]) : 0;

	a->copy = s ? malloc(len) : NULL;
	if (a->copy)
		memcpy(a->copy, s, len);
	a->reserved = j->lu->pub.reserved_by != 0;
	lu_job_end(j);
}

static void run_clear(struct lu_job *j)
{
	struct pr_admin *a = container_of(j, struct pr_admin, job);
	const struct pr_state *old = j->lu->pub.pr;

	a->ch.job = j;
	a->ch.lu = j->lu;
	if (!old || !old->n) {
		j->ua = j->lu->pub.reserved_by ? UA_RESERVATIONS_RELEASED : 0;
		j->lu->pub.reserved_by = 0;
		lu_publish(j);
		return;
	}
	a->result = pr_cleared(old, &a->ch.out);
	if (!a->result && old->aptpl) {
		a->ch.save_len = pr_encode(a->ch.out.next, &a->ch.save);
		a->result = MIN(a->ch.save_len, 0);
	}
	if (a->result) {
		free(a->ch.out.next);
		lu_job_end(j);
	} else if (a->ch.save) {
		a->ch.task.run = save_on_control;
		loop_post(scsi_control, &a->ch.task);
	} else {
		publish(&a->ch);
	}
}

static struct pr_admin *admin_start(struct lu *lu, void (*run)(struct lu_job *j), void *ctx)
{
	struct pr_admin *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->ctx = ctx;
	lu_hold(lu);
	lu_job_start(&a->job, lu, scsi_control, run, admin_done); /* done is not called inside: the caller fills in the rest */
	return a;
}

void lu_pr_show(struct lu *lu, void (*done)(void *ctx, const struct pr_state *s, bool reserved), void *ctx)
{
	struct pr_admin *a = admin_start(lu, run_show, ctx);

	if (a)
		a->shown = done;
	else
		done(ctx, NULL, false);
}

void lu_pr_clear(struct lu *lu, void (*done)(void *ctx, int result), void *ctx)
{
	struct pr_admin *a = admin_start(lu, run_clear, ctx);

	if (a)
		a->cleared = done;
	else
		done(ctx, -ENOMEM);
}

/* --- load, end --- */

/* Control thread, before the unit is in use. An error: what was saved is damaged, or cannot be read; to go on without
 * it would let in whom a reservation keeps out. */
int pr_load(struct lu *lu, struct err *e)
{
	size_t room = 16 + (size_t)PR_REGS_MAX * 480;
	uint8_t *p = malloc(room);
	struct pr_state *s = NULL;
	int n = p && lu->store->load ? lu->store->load(lu->store->ctx, lu->id, "pr", p, room) : -ENOENT;
	int r = !p ? -ENOMEM : n == -ENOENT ? 0 : n < 0 ? n : pr_decode(p, (size_t)n, &s);

	free(p);
	lu->pub.pr = s;
	if (r)
		return err_set(e, r, "the saved persistent reservations of volume '%s' are damaged; remove its pr file in the "
			"state directory to start without them", lu->name);
	return 0;
}

void pr_free(struct lu *lu)
{
	free((void *)lu->pub.pr);
	lu->pub.pr = NULL;
}

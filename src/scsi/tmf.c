/* SPDX-License-Identifier: BSD-3-Clause
 * Task management (SAM-5 7). Aborting is a mark on commands; a function answers when every marked command has
 * ended, so nothing of it can touch the medium any more. Runs on the nexus' loop; functions that concern other
 * nexuses go over all loops by rounds, and resets end with a job on the unit's home. */
#include "base/log.h"
#include "scsi/priv.h"

#define SAY_NS 10000000000ull /* one line in so long a time for each unit and loop */

static void tmf_end(struct scsi_tmf *t, enum scsi_tmf_result result)
{
	struct scsi_nexus *n = t->nexus;

	t->result = result;
	if (t->ll) {
		t->ll->users--;
		lu_wait_check(t->ll);
	}
	n->tmfs--;
	t->done(t);
	if (n->closing)
		nexus_check(n);
}

static void end_task(struct task *task)
{
	struct scsi_tmf *t = container_of(task, struct scsi_tmf, task);

	tmf_end(t, t->result);
}

static void tmf_end_later(struct scsi_tmf *t, enum scsi_tmf_result result)
{
	t->result = result;
	t->task.run = end_task;
	loop_defer(t->nexus->loop, &t->task);
}

/* aborted: one that another function has marked already counts too. */
static struct scsi_cmd *find_tag(const struct lu_loop *ll, const struct scsi_nexus *n, uint64_t tag, bool aborted)
{
	struct scsi_cmd *c;

	list_for_each(c, &ll->cmds, in_lu)
		if (c->nexus == n && !c->background && c->tag == tag && (aborted || !c->must_abort))
			return c;
	return NULL;
}

static bool has_tasks(const struct lu_loop *ll, const struct scsi_nexus *n)
{
	const struct scsi_cmd *c;

	list_for_each(c, &ll->cmds, in_lu)
		if (c->nexus == n && !c->background)
			return true;
	return false;
}

/* --- aborts: a round whose legs end when what they marked has ended --- */

/* The transports of other nexuses that lost commands. */
static void tell_others(struct lu_loop *ll)
{
	struct scsi_cmd *c;

	list_for_each(c, &ll->cmds, in_lu) {
		struct scsi_nexus *n = c->nexus;
		if (n->hit && n->lost)
			n->lost(n->lost_ctx, c->lun);
		n->hit = false;
	}
}

/* What goes on in the background is in no task set (SAM-5 5.5); SPC-4 table 109. */
static bool ends_background(enum scsi_tmf_kind kind)
{
	return kind == SCSI_LU_RESET || kind == SCSI_TARGET_RESET || kind == SCSI_I_T_NEXUS_RESET;
}

/* Marks; other nexuses that lose commands to CLEAR TASK SET hear of it (SAM-5 5.14, TAS = 0). */
static void mark(struct lu_loop *ll, const struct scsi_tmf *t)
{
	bool clear = t->kind == SCSI_CLEAR_TASK_SET, shared = clear && !ll->pub.tst;
	bool everybody = shared || t->kind == SCSI_LU_RESET || t->kind == SCSI_TARGET_RESET;
	struct scsi_cmd *c, *tmp;
	bool others = false;

	list_for_each_safe(c, tmp, &ll->cmds, in_lu) {
		bool own = c->nexus->id == t->nexus_id;
		if ((!own && !everybody) || (t->kind == SCSI_ABORT_TASK && c->tag != t->tag))
			continue;
		if (c->background ? !ends_background(t->kind) : own && t->covers && !t->covers(t, c))
			continue;
		struct itl *itl = scsi_itl(c);
		if (!own && clear && itl && !c->must_abort && !ll->pub.tas)
			ua_add(itl, UA_CLEARED);
		if (!own && !c->must_abort && !ll->pub.tas)
			others = c->nexus->hit = true;
		scsi_abort_by(c, own);
	}
	if (others)
		tell_others(ll);
}

/* On the nexus' own loop, when the function arrives: a command that comes after it is not its affair, and would
 * never be answered. */
static void mark_here(const struct scsi_tmf *t)
{
	const struct scsi_nexus *n = t->nexus;

	if (t->ll)
		mark(t->ll, t);
	for (unsigned i = 0; !t->ll && i < n->map->n; i++)
		if (n->map->lu[i])
			mark(nexus_ll(n, i), t);
}

static void abort_leg(struct round_leg *leg, void *ctx)
{
	struct scsi_tmf *t = ctx;
	struct lu_loop *ll = lu_on(t->ll->lu, leg->loop);

	if (leg->loop != t->nexus->loop)
		mark(ll, t);
	if (t->kind == SCSI_LU_RESET || t->kind == SCSI_TARGET_RESET)
		copy_forget(ll);
	lu_wait_aborted(ll, leg, NULL);
}

static void aborted(void *ctx)
{
	tmf_end(ctx, SCSI_TMF_COMPLETE);
}

/* --- resets --- */

static void run_reset(struct lu_job *j)
{
	struct scsi_tmf *t = container_of(j, struct scsi_tmf, job);
	struct lu *lu = j->lu;

	lu->pub.reserved_by = 0;
	lu->npreventers = 0;
	lu_aca_end_all(lu);
	memcpy(lu->pub.mode, lu->pub.saved, sizeof(lu->pub.saved));
	j->ua = t->kind == SCSI_TARGET_RESET ? UA_TARGET_RESET : UA_LU_RESET;
	lu_publish(j);
}

/* The unit is not reset; only what this nexus held is gone, as when it is lost (SAM-5 6.3.4). */
static void run_loss(struct lu_job *j)
{
	lu_give_up(j, container_of(j, struct scsi_tmf, job)->nexus_id);
}

static void run_clear_aca(struct lu_job *j)
{
	lu_aca_end(j->lu, container_of(j, struct scsi_tmf, job)->nexus_id);
	lu_publish(j);
}

static void target_reset_next(struct scsi_tmf *t);

static void reset_done(struct lu_job *j)
{
	struct scsi_tmf *t = container_of(j, struct scsi_tmf, job);

	if (t->kind == SCSI_LU_RESET || t->kind == SCSI_CLEAR_ACA)
		tmf_end(t, SCSI_TMF_COMPLETE);
	else
		target_reset_next(t);
}

static void reset_aborted(void *ctx)
{
	struct scsi_tmf *t = ctx;

	lu_job_start(&t->job, t->ll->lu, t->nexus->loop, t->kind == SCSI_I_T_NEXUS_RESET ? run_loss
		: t->kind == SCSI_CLEAR_ACA ? run_clear_aca : run_reset, reset_done);
}

static void reset_lu(struct scsi_tmf *t)
{
	round_start(t->nexus->loop, abort_leg, reset_aborted, t);
}

static void target_reset_next(struct scsi_tmf *t)
{
	struct scsi_nexus *n = t->nexus;

	if (t->ll) {
		t->ll->users--;
		lu_wait_check(t->ll);
		t->ll = NULL;
	}
	while (t->next_lun < n->map->n) {
		struct lu_loop *ll = nexus_ll(n, t->next_lun++);
		if (!ll)
			continue;
		t->ll = ll;
		ll->users++;
		reset_lu(t);
		return;
	}
	tmf_end_later(t, SCSI_TMF_COMPLETE);
}

/* --- the functions --- */

/* SAM-5 7.4: ends the commands with the ACA attribute, then the condition; without one there is nothing to do. */
static void clear_aca(struct scsi_tmf *t, struct itl *itl)
{
	if (!itl || !itl->aca) {
		tmf_end_later(t, SCSI_TMF_COMPLETE);
		return;
	}
	task_set_clear_aca(t->nexus, itl);
	round_start(t->nexus->loop, abort_leg, reset_aborted, t);
}

/* Like ABORT TASK SET at every unit; SAM-5 7.6. */
static void nexus_reset(struct scsi_tmf *t)
{
	struct scsi_nexus *n = t->nexus;

	for (unsigned i = 0; i < n->map->n; i++) {
		struct itl *itl = nexus_peek(n, i);
		if (!itl)
			continue;
		itl->prevents = false;
		ua_add(itl, UA_NEXUS_LOSS);
	}
	mark_here(t);
	target_reset_next(t);
}

/* SAM-5 7.9: is a unit attention pending? The first of them, and whether there are more. */
static void query_async(struct scsi_tmf *t)
{
	enum { ONE = 0x10, MORE = 0x20, UNIT_ATTENTION = 6 }; /* UADE depth, sense key */
	struct itl *itl = NULL;

	if (nexus_itl(t->nexus, (unsigned)lun_decode(t->lun), &itl) || !itl->nua) {
		tmf_end_later(t, SCSI_TMF_COMPLETE);
		return;
	}
	t->info[0] = (itl->nua > 1 ? MORE : ONE) | UNIT_ATTENTION;
	put_be16(t->info + 1, itl->ua[0]);
	tmf_end_later(t, SCSI_TMF_SUCCEEDED);
}

/* An initiator that waited in vain: whoever looks for the cause of its timeout shall find it here. c: the command, or
 * NULL for all of the unit. */
static void say_timeout(struct scsi_tmf *t, const struct scsi_cmd *c)
{
	struct lu_loop *ll = t->ll;
	uint64_t now = loop_now_ns(ll->loop);

	if (ll->said_ns && now - ll->said_ns < SAY_NS)
		return;
	ll->said_ns = now;
	if (!c)
		log_warn("logical unit reset volume=%s initiator=%s reason=\"the initiator's error handling asks for it, after "
			"aborts that did not help: look at the disk below the volume\"", ll->lu->name, t->nexus->initiator);
	else if (c->state == SCSI_CMD_WAIT_DATA)
		log_warn("command aborted volume=%s initiator=%s command=%02xh reason=\"the initiator gave up before all its "
			"data had come: look at the network\"", ll->lu->name, t->nexus->initiator, c->cdb[0]);
	else
		log_warn("command aborted volume=%s initiator=%s command=%02xh reason=\"the initiator gave up waiting: the disk "
			"below the volume is slow or hangs; see the system's log and lunette status\"", ll->lu->name,
			t->nexus->initiator, c->cdb[0]);
}

static void on_lu(struct scsi_tmf *t)
{
	struct lu_loop *ll = t->ll;
	struct scsi_cmd *c;

	switch (t->kind) {
	case SCSI_ABORT_TASK:
		c = find_tag(ll, t->nexus, t->tag, true); /* if marked: the answer still waits for its end */
		if (!c) {
			tmf_end_later(t, SCSI_TMF_NO_TASK);
			return;
		}
		say_timeout(t, c);
		mark_here(t);
		round_start(t->nexus->loop, abort_leg, aborted, t);
		return;
	case SCSI_ABORT_TASK_SET:
	case SCSI_CLEAR_TASK_SET:
		mark_here(t);
		round_start(t->nexus->loop, abort_leg, aborted, t);
		return;
	case SCSI_LU_RESET:
		say_timeout(t, NULL);
		mark_here(t);
		reset_lu(t);
		return;
	case SCSI_QUERY_TASK:
		tmf_end_later(t, find_tag(ll, t->nexus, t->tag, false) ? SCSI_TMF_SUCCEEDED : SCSI_TMF_COMPLETE);
		return;
	case SCSI_QUERY_TASK_SET:
		tmf_end_later(t, has_tasks(ll, t->nexus) ? SCSI_TMF_SUCCEEDED : SCSI_TMF_COMPLETE);
		return;
	case SCSI_QUERY_ASYNC_EVENT:
		query_async(t);
		return;
	default:
		clear_aca(t, nexus_peek(t->nexus, (unsigned)lun_decode(t->lun)));
	}
}

void scsi_tmf(struct scsi_tmf *t)
{
	struct scsi_nexus *n = t->nexus;
	int lun = lun_decode(t->lun);

	t->ll = NULL;
	t->nexus_id = n->id;
	t->next_lun = 0;
	memset(t->info, 0, sizeof(t->info));
	n->tmfs++;
	if (t->kind == SCSI_TARGET_RESET) {
		mark_here(t);
		target_reset_next(t);
		return;
	}
	if (t->kind == SCSI_I_T_NEXUS_RESET) {
		nexus_reset(t);
		return;
	}
	if (lun < 0 || !nexus_ll(n, (unsigned)lun)) {
		tmf_end_later(t, SCSI_TMF_NO_LUN);
		return;
	}
	t->ll = nexus_ll(n, (unsigned)lun);
	t->ll->users++;
	on_lu(t);
}

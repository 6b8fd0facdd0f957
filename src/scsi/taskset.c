/* SPDX-License-Identifier: BSD-3-Clause
 * Task set control (SAM-5 5.8, 5.9, 8; SPC-4 7.5.8): what a CHECK CONDITION does to other commands (QErr), auto
 * contingent allegiance (ACA), and what is told of commands that another nexus ended (TAS). On the command's loop; who is
 * in ACA is decided on the unit's home. Commands that end well never come here. */
#include "scsi/priv.h"

enum { ESTABLISHED }; /* scratch */
enum { QERR_NONE = 0, QERR_ALL = 1, QERR_NEXUS = 3 };

/* NACA of the CONTROL byte, which ends a CDB but for the variable ones. */
static bool wants_aca(const struct scsi_cmd *c)
{
	static const uint8_t control[8] = { 5, 9, 9, 1, 15, 11, 0, 0 }; /* by group code */
	uint8_t at = control[c->cdb[0] >> 5];

	return at && c->cdb[at] & SCSI_NACA;
}

/* --- who is in ACA: home --- */

static unsigned aca_find(const struct lu *lu, uint64_t id)
{
	unsigned i = 0;

	while (i < lu->naca && lu->aca[i] != id)
		i++;
	return i;
}

void lu_aca_end(struct lu *lu, uint64_t id)
{
	unsigned i = aca_find(lu, id);

	if (i < lu->naca)
		lu->aca[i] = lu->aca[--lu->naca];
}

void lu_aca_end_all(struct lu *lu)
{
	lu->naca = 0;
}

/* One task set for all nexuses (TST 000b) knows one ACA at a time. Established it? */
static bool aca_begin(struct lu *lu, uint64_t id)
{
	if (aca_find(lu, id) < lu->naca)
		return true;
	if (lu->naca && !lu->pub.tst)
		return false;
	uint64_t *more = realloc(lu->aca, (lu->naca + 1) * sizeof(*more));
	if (!more)
		return false;
	lu->aca = more;
	lu->aca[lu->naca++] = id;
	return true;
}

/* --- aborts --- */

void scsi_abort_by(struct scsi_cmd *c, bool own)
{
	if (!own && c->ll->pub.tas && !c->must_abort)
		c->told = true;
	scsi_abort(c);
}

/* The unit attention of a nexus that lost a command to another one without a status; SAM-5 5.14. */
static void lost_to_other(struct scsi_cmd *c)
{
	struct itl *itl = scsi_itl(c);

	if (itl && !c->ll->pub.tas && !c->must_abort)
		ua_add(itl, UA_CLEARED);
}

/* QErr: commands of the faulted task set, or of the nexus. */
static void fault_leg(struct round_leg *leg, void *ctx)
{
	struct scsi_cmd *faulted = ctx, *c, *tmp;
	struct lu_loop *ll = lu_on(faulted->lu, leg->loop);
	uint8_t qerr = ll->pub.qerr;
	bool all = qerr == QERR_ALL && !ll->pub.tst;

	list_for_each_safe(c, tmp, &ll->cmds, in_lu) {
		bool own = c->nexus->id == faulted->nexus->id;
		if (c == faulted || c->told || c->background || qerr == QERR_NONE || !(own || all))
			continue;
		if (!own)
			lost_to_other(c);
		scsi_abort_by(c, own);
	}
	lu_snapshot(ll);
	round_leg_done(leg);
}

static void fault_known(void *ctx)
{
	struct scsi_cmd *c = ctx;

	lu_job_end(&c->job);
}

static void run_fault(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct lu *lu = j->lu;

	c->scratch[ESTABLISHED] = wants_aca(c) && aca_begin(lu, c->nexus->id);
	if (!wants_aca(c) && c->attr == SCSI_ACA)
		lu_aca_end(lu, c->nexus->id); /* SAM-5 5.9.5: a new CHECK CONDITION without NACA ends it */
	lu_derive(lu);
	round_start(lu->home, fault_leg, fault_known, c);
}

static void run_undo(struct lu_job *j)
{
	lu_aca_end(j->lu, scsi_job_cmd(j)->nexus->id);
	lu_publish(j);
}

static void undone(struct lu_job *j)
{
	scsi_end(scsi_job_cmd(j));
}

static void fault_done(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct itl *itl = scsi_itl(c);

	if (c->scratch[ESTABLISHED] && (!itl || c->must_abort)) { /* nobody will hear of the CHECK CONDITION */
		lu_job_start(&c->job, c->lu, c->loop, run_undo, undone);
		return;
	}
	if (itl && (c->scratch[ESTABLISHED] || c->attr == SCSI_ACA)) {
		itl->aca = c->scratch[ESTABLISHED];
		lu_resume(c->ll);
	}
	scsi_end(c);
}

bool task_set_fault(struct scsi_cmd *c)
{
	bool aca = wants_aca(c) || (c->attr == SCSI_ACA && c->ll->pub.naca);

	if (c->faulted || c->background || c->must_abort || (!aca && !c->ll->pub.qerr))
		return false;
	c->faulted = true;
	lu_job_start(&c->job, c->lu, c->loop, run_fault, fault_done);
	return true;
}

/* --- gates --- */

static bool has_aca_command(const struct scsi_cmd *c)
{
	const struct scsi_cmd *other;

	list_for_each(other, &c->ll->cmds, in_lu)
		if (other != c && other->nexus == c->nexus && other->attr == SCSI_ACA)
			return true;
	return false;
}

/* SAM-5 5.9.2: new commands of the faulted nexus, and of others in the same task set. */
bool task_set_refuses(struct scsi_cmd *c, const struct itl *itl)
{
	const struct lu_pub *pub = &c->ll->pub;
	bool preempts = c->cdb[0] == 0x5f && (c->cdb[1] & 0x1f) == 5;

	if (itl->aca) {
		if (c->attr == SCSI_ACA && !has_aca_command(c))
			return false;
		scsi_reply(c, SCSI_ACA_ACTIVE);
	} else if (pub->aca_by && pub->aca_by != c->nexus->id) {
		if (preempts && c->attr != SCSI_ACA)
			return false;
		scsi_reply(c, c->attr == SCSI_ACA || wants_aca(c) ? SCSI_ACA_ACTIVE : SCSI_BUSY);
	} else if (c->attr >= SCSI_ACA) {
		scsi_reply_sense(c, SENSE(5, 0x49, 0x00)); /* the attribute means nothing now; and others do not exist */
	} else {
		return false;
	}
	return true;
}

/* Older commands of a task set in ACA wait until it is cleared. */
bool task_set_blocks(const struct lu_loop *ll, const struct scsi_cmd *c)
{
	const struct itl *itl = scsi_itl(c);

	if (c->attr == SCSI_ACA || !ll->pub.naca)
		return false;
	return (itl && itl->aca) || (ll->pub.aca_by && ll->pub.aca_by != c->nexus->id &&
		!(c->cdb[0] == 0x5f && (c->cdb[1] & 0x1f) == 5));
}

/* UA_INTLCK_CTRL: 00b clears a unit attention when it is told with CHECK CONDITION; else only REQUEST SENSE does. */
uint16_t task_set_ua(const struct scsi_cmd *c, struct itl *itl)
{
	return c->ll->pub.ua_intlck ? itl->ua[0] : ua_pop(itl);
}

/* UA_INTLCK_CTRL 11b: who does not hear of a conflict hears of it by a unit attention; SPC-4 table 394. */
void task_set_status(struct scsi_cmd *c, enum scsi_status status)
{
	struct itl *itl = c->ll ? scsi_itl(c) : NULL;

	if (itl && c->ll->pub.ua_intlck == 3)
		ua_add(itl, status == SCSI_BUSY ? UA_WAS_BUSY : status == SCSI_TASK_SET_FULL ? UA_WAS_FULL : UA_WAS_CONFLICT);
	scsi_reply(c, status);
}

/* --- CLEAR ACA --- */

void task_set_clear_aca(struct scsi_nexus *n, struct itl *itl)
{
	struct scsi_cmd *c, *tmp;

	itl->aca = false;
	list_for_each_safe(c, tmp, &n->cmds, in_nexus)
		if (c->ll == itl->ll && c->attr == SCSI_ACA)
			scsi_abort(c);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Suites tmf and rfc7144: task management (RFC 7143 4.2.3, 11.5, 11.6; RFC 7144 6). */
#include <stdio.h>
#include <string.h>

#include "lunette/check/check.h"

static const char waits[] = "ImmediateData=No\nFirstBurstLength=512\nMaxBurstLength=4096";

/* A write that waits for the answer to its R2T. */
static struct pdu *waiting(struct conn *c, uint32_t lba)
{
	struct check *k = c->k;
	uint32_t itt = send_req(c, req_write(k, lba, 4096 / k->block));

	return want_itt(c, ISCSI_R2T, itt);
}

static void answer_r2t(struct conn *c, const struct pdu *p)
{
	serve(c, p, pattern(c->k, 4096, 0x22), 0);
}

/* Nothing for that task may come any more, a Reject of late data aside. */
static void over(struct conn *c, uint32_t itt, const char *what)
{
	for (struct pdu *p; (p = poll_pdu(c, CHECK_QUIET_MS)) != NULL;)
		must(c->k, p->op == ISCSI_REJECT || be32(p->h + BHS_ITT) != itt, "%s after %s", pdu_words(c, p), what);
}

CASE(tmf, abort_task, "11.5.1, 11.6.1 a", NEED_WRITE,
	"ABORT TASK of a write that waits for data: complete, no response to the write, its tag is free again")
{
	struct conn *c = session(k, waits);
	uint8_t *old = pattern(k, 4096, 1), *new = pattern(k, 4096, 2);

	poke(c, 0, 4096 / k->block, old);
	struct pdu *p = waiting(c, 0);
	uint32_t itt = be32(p->h + BHS_ITT);
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK, itt, c->s->cmd_sn - 1), NULL);
	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	answer_r2t(c, p); /* was on its way */
	over(c, itt, "the Task Management Function Response");
	alive(c);
	struct result x = finish(c, send_req(c, with_itt(req_write(k, 0, 4096 / k->block), itt)), 4096, new);
	good(c, &x, "a write with the same tag");
	same(k, peek(c, 0, 4096 / k->block), new, 4096, "what was written");
}

CASE(tmf, abort_unknown, "11.6.1 c", 0, "ABORT TASK of a task that is not there, RefCmdSN outside the window: response 1")
{
	struct conn *c = session(k, "");
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK, 0x999, c->s->cmd_sn - 1000), NULL);

	must(k, r == TMF_RSP_NO_TASK, "response %u", r);
}

CASE(tmf, abort_ended, "7.11, 11.6.1", NEED_LUN, "ABORT TASK of a task that ended: response 1")
{
	struct conn *c = session(k, "");
	uint32_t n = c->s->cmd_sn;
	struct result x = tur(c);
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK, be32(x.last->h + BHS_ITT), n), NULL);

	must(k, r == TMF_RSP_NO_TASK, "response %u", r);
}

CASE(tmf, abort_lost, "7.11, 11.6.1 b", NEED_LUN,
	"ABORT TASK of a command that never arrived: complete, and its CmdSN counts as received")
{
	struct conn *c = session(k, "");
	uint32_t n = c->s->cmd_sn, held = send_req(c, with_sn(req_tur(k), n + 1));

	quiet(c, CHECK_QUIET_MS);
	c->s->cmd_sn = n + 2;
	send_req(c, req_tmf(k, TMF_ABORT_TASK, 0x4444, n));
	bool told = false, came = false;
	while (!told || !came) {
		struct pdu *p = next(c);
		told |= p->op == ISCSI_TMF_RSP;
		came |= p->op == ISCSI_SCSI_RSP && be32(p->h + BHS_ITT) == held;
		must(k, p->op != ISCSI_TMF_RSP || p->h[RSP_RESPONSE] == 0, "response %u", p->h[RSP_RESPONSE]);
	}
	send_req(c, with_sn(req_tur(k), n)); /* comes after all */
	quiet(c, CHECK_QUIET_MS);
	must(k, ping_exp(c) == n + 2, "ExpCmdSN %#x, %#x was due", c->last_exp, n + 2);
}

CASE(tmf, abort_held, "11.5.1, 4.2.2.1", NEED_LUN,
	"ABORT TASK of a command that waits behind a gap: complete; it is not carried out when the gap is filled")
{
	struct conn *c = session(k, "");
	uint32_t n = c->s->cmd_sn, itt = send_req(c, with_sn(req_tur(k), n + 1));

	c->s->cmd_sn = n + 2;
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK, itt, n + 1), NULL);
	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	uint32_t first = send_req(c, with_sn(req_tur(k), n));
	struct pdu *p = want(c, ISCSI_SCSI_RSP);
	must(k, be32(p->h + BHS_ITT) == first, "the aborted command was answered");
	over(c, itt, "ABORT TASK");
	must(k, ping_exp(c) == n + 2, "ExpCmdSN %#x, %#x was due", c->last_exp, n + 2);
}

CASE(tmf, abort_immediate, "11.5.1, 11.5.5", NEED_WRITE,
	"ABORT TASK of an immediate command: RefCmdSN is the request's own CmdSN")
{
	struct conn *c = session(k, waits);
	uint32_t itt = send_req(c, immediate(req_write(k, 0, 4096 / k->block)));

	want_itt(c, ISCSI_R2T, itt);
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK, itt, c->s->cmd_sn), NULL);
	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	over(c, itt, "ABORT TASK");
}

CASE(tmf, abort_of_tmf, "11.5.1", 0, "ABORT TASK is not executed on a task management request")
{
	struct conn *c = session(k, "");
	uint32_t n = c->s->cmd_sn;
	uint32_t itt = send_req(c, with_sn(not_immediate(req_tmf(k, TMF_ABORT_TASK, 0x888, n - 1000)), n + 1));

	c->s->cmd_sn = n + 2;
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK, itt, n + 1), NULL);
	must(k, r != TMF_RSP_COMPLETE, "response 0 for a request that waits behind a gap");
	send_req(c, with_sn(not_immediate(req_nop("x", 1)), n));
}

CASE(tmf, not_immediate, "4.2.2.1, 11.5", NEED_LUN, "a task management request that is not immediate takes its CmdSN")
{
	struct conn *c = session(k, "");
	uint32_t n = c->s->cmd_sn;
	uint8_t r = tmf(c, not_immediate(req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0)), NULL);

	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	must(k, ping_exp(c) == n + 1, "ExpCmdSN %#x, %#x was due", c->last_exp, n + 1);
	struct result x = tur(c);
	good(c, &x, "the next command");
}

/* 11.5.1: the initiator goes on to answer R2Ts, the target waits for that. */
static void task_set(struct check *k, uint8_t fn)
{
	struct conn *c = session(k, waits);
	struct pdu *p[3];
	uint32_t first = c->s->itt;

	for (unsigned i = 0; i < 3; i++)
		p[i] = waiting(c, i * 8);
	uint32_t itt = send_req(c, req_tmf(k, fn, ISCSI_NO_TAG, 0));
	for (unsigned i = 0; i < 3; i++)
		answer_r2t(c, p[i]);
	struct pdu *t = next(c);
	while (t->op != ISCSI_TMF_RSP) {
		must(k, t->op == ISCSI_R2T || t->op == ISCSI_REJECT || t->op == ISCSI_SCSI_RSP || t->op == ISCSI_NOP_IN, "%s",
			pdu_words(c, t));
		if (t->op == ISCSI_SCSI_RSP)
			send_req(c, req_nop(NULL, 0)); /* acknowledges */
		t = next(c);
	}
	if (t->h[RSP_RESPONSE] == TMF_RSP_NOT_SUPPORTED)
		check_unsupported(k, "response 5: not supported");
	must(k, be32(t->h + BHS_ITT) == itt && t->h[RSP_RESPONSE] == 0, "%s", pdu_words(c, t));
	for (uint32_t i = first; i < itt; i++)
		over(c, i, "the Task Management Function Response");
	alive(c);
	struct result x = tur(c);
	must(k, x.status == 0 || x.key == 6, "the next command: status %02x", x.status);
}

CASE(tmf, abort_task_set, "4.2.3.3, 11.5.1", NEED_WRITE,
	"ABORT TASK SET ends the writes of this session that wait for data, after their R2Ts are answered")
{
	task_set(k, TMF_ABORT_TASK_SET);
}

CASE(tmf, clear_task_set, "4.2.3.3, 11.5.1", NEED_WRITE | NEED_DISRUPT, "CLEAR TASK SET does so too")
{
	task_set(k, TMF_CLEAR_TASK_SET);
}

CASE(tmf, waits_for_data, "4.2.3.3 a, 11.5.1", NEED_WRITE,
	"without FastAbort the response to ABORT TASK SET waits for the answers to the R2Ts that are out")
{
	struct conn *c = session(k, waits);
	struct pdu *p = waiting(c, 0);
	uint32_t itt = send_req(c, req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0));

	quiet(c, CHECK_QUIET_MS * 2);
	answer_r2t(c, p);
	p = want_itt(c, ISCSI_TMF_RSP, itt);
	must(k, p->h[RSP_RESPONSE] == TMF_RSP_COMPLETE, "response %u", p->h[RSP_RESPONSE]);
}

CASE(tmf, abort_task_set_idle, "11.6.1", NEED_LUN, "ABORT TASK SET without tasks: complete")
{
	struct conn *c = session(k, "");
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0), NULL);

	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
}

CASE(tmf, abort_task_set_under_reads, "4.2.3.3, 11.5.1", NEED_LUN,
	"ABORT TASK SET among many reads: no response to any of them after its own response")
{
	for (unsigned round = 0; round < 5; round++) {
		struct conn *c = session(k, "");
		uint32_t first = c->s->itt, n = MIN(c->last_max - c->last_exp + 1, 24u);
		for (uint32_t i = 0; i < n; i++)
			send_req(c, req_read(k, 0, 16384 / k->block));
		uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0), NULL);
		must(k, r == TMF_RSP_COMPLETE, "response %u", r);
		for (struct pdu *p; (p = poll_pdu(c, 50)) != NULL;)
			must(k, p->op == ISCSI_NOP_IN || be32(p->h + BHS_ITT) - first >= n,
				"%s after the Task Management Function Response",
				pdu_words(c, p));
		alive(c);
		hang_up(c, false);
	}
}

CASE(tmf, abort_task_set_spares_others, "11.5.1", NEED_WRITE, "ABORT TASK SET leaves the tasks of other sessions alone")
{
	struct conn *c = session(k, waits), *d = session(k, waits);
	struct pdu *p = waiting(d, 0);
	uint8_t r = tmf(c, req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0), NULL);

	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	answer_r2t(d, p);
	struct pdu *e = want_itt(d, ISCSI_SCSI_RSP, be32(p->h + BHS_ITT));
	must(k, e->h[RSP_STATUS] == 0, "%s", pdu_words(d, e));
}

/* The function, and meanwhile the answer to an R2T, for which the target waits (4.2.3.3). */
static uint8_t reset_while(struct conn *c, uint8_t fn, const struct pdu *r2t)
{
	uint32_t itt = send_req(c, req_tmf(c->k, fn, ISCSI_NO_TAG, 0));

	answer_r2t(c, r2t);
	struct pdu *p = next(c);
	while (p->op == ISCSI_R2T || p->op == ISCSI_ASYNC || p->op == ISCSI_REJECT)
		p = next(c);
	must(c->k, p->op == ISCSI_TMF_RSP && be32(p->h + BHS_ITT) == itt, "%s", pdu_words(c, p));
	return p->h[RSP_RESPONSE];
}

CASE(tmf, lu_reset, "11.5.1, SAM-5 7.7", NEED_WRITE | NEED_DISRUPT,
	"LOGICAL UNIT RESET ends all tasks of the LUN, of every session, and raises a unit attention")
{
	struct conn *c = session(k, waits), *d = session(k, waits);
	struct pdu *p = waiting(c, 0), *q = waiting(d, 8);
	uint8_t r = reset_while(c, TMF_LU_RESET, p);

	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	over(c, be32(p->h + BHS_ITT), "LOGICAL UNIT RESET");
	answer_r2t(d, q);
	struct pdu *e = poll_pdu(d, CHECK_QUIET_MS * 2);
	must(k, !e || e->op != ISCSI_SCSI_RSP || e->h[RSP_STATUS], "the other session's write ended with GOOD");
	struct result x = tur(c);
	must(k, x.status == 2 && x.key == 6, "afterwards status %02x, sense %x/%02x/%02x", x.status, x.key, x.asc, x.ascq);
	x = tur(c);
	good(c, &x, "the command after the unit attention");
}

CASE(tmf, unknown_lun, "11.6.1", 0, "functions for a LUN that is not there: response 2")
{
	static const uint8_t fns[] = { TMF_ABORT_TASK_SET, TMF_CLEAR_TASK_SET, TMF_LU_RESET };
	struct conn *c = session(k, "");

	for (unsigned i = 0; i < ARRAY_LEN(fns); i++) {
		uint8_t r = tmf(c, with_lun(req_tmf(k, fns[i], ISCSI_NO_TAG, 0), 0x00ee000000000000u), NULL);
		must(k, r == TMF_RSP_NO_LUN, "function %u: response %u", fns[i], r);
	}
}

CASE(tmf, clear_aca, "11.5.1, 11.6.1", NEED_LUN, "CLEAR ACA without an ACA: complete, or not supported")
{
	struct conn *c = session(k, "");
	uint8_t r = tmf(c, req_tmf(k, TMF_CLEAR_ACA, ISCSI_NO_TAG, 0), NULL);

	must(k, r == TMF_RSP_COMPLETE || r == TMF_RSP_NOT_SUPPORTED || r == TMF_RSP_REJECTED, "response %u", r);
}

CASE(tmf, warm_reset, "11.5.1, 11.6.1", NEED_DISRUPT,
	"TARGET WARM RESET: complete, not supported or not authorized; sessions stay")
{
	struct conn *c = session(k, ""), *d = session(k, "");
	uint8_t r = tmf(c, req_tmf(k, TMF_WARM_RESET, ISCSI_NO_TAG, 0), NULL);

	must(k, r == TMF_RSP_COMPLETE || r == TMF_RSP_NOT_SUPPORTED || r == TMF_RSP_NOT_AUTHORIZED, "response %u", r);
	alive(c);
	alive(d);
}

CASE(tmf, cold_reset, "11.5.1, 11.6.1", NEED_DISRUPT, "TARGET COLD RESET: all connections end, or it is refused and they stay")
{
	struct conn *c = session(k, ""), *d = session(k, "");

	send_req(c, req_tmf(k, TMF_COLD_RESET, ISCSI_NO_TAG, 0));
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	must(k, p || c->closed, "no reaction");
	if (p && p->op == ISCSI_TMF_RSP && p->h[RSP_RESPONSE]) {
		must(k, p->h[RSP_RESPONSE] == TMF_RSP_NOT_SUPPORTED || p->h[RSP_RESPONSE] == TMF_RSP_NOT_AUTHORIZED ||
			p->h[RSP_RESPONSE] == TMF_RSP_REJECTED, "response %u", p->h[RSP_RESPONSE]);
		alive(d);
		return;
	}
	must(k, gone(c, (int)k->timeout_ms) && gone(d, (int)k->timeout_ms), "a connection stays open");
}

CASE(tmf, unknown_function, "11.5.1, 11.6.1", 0, "function codes that are not assigned: not supported, rejected, or a Reject")
{
	static const uint8_t fns[] = { 0, 13, 20, 64, 127 };

	for (unsigned i = 0; i < ARRAY_LEN(fns); i++) {
		struct conn *c = session(k, "");
		send_req(c, req_tmf(k, fns[i], ISCSI_NO_TAG, 0));
		refusal(c, BY_TMF | BY_REJECT | BY_CLOSE, REASONS_FORMAT, "an unassigned function");
		hang_up(c, false);
	}
}

CASE(tmf, reassign_below_level_2, "7.2.2, 11.6.1", NEED_LUN, "TASK REASSIGN where it is not supported: response 4")
{
	struct conn *c = session(k, "ErrorRecoveryLevel=0");
	uint8_t r = tmf(c, req_tmf(k, TMF_REASSIGN, 0x123, 0), NULL);

	must(k, r == TMF_RSP_NO_REASSIGN, "response %u", r);
}

CASE(tmf, many, "11.5, 4.2.2.1", NEED_LUN,
	"thirty immediate task management requests at once: each answered, or rejected with 06")
{
	struct conn *c = session(k, "");
	unsigned answered = 0;

	for (unsigned i = 0; i < 30; i++)
		send_req(c, req_tmf(k, TMF_ABORT_TASK, 0x9990 + i, c->s->cmd_sn - 1000));
	for (unsigned i = 0; i < 30; i++) {
		struct pdu *p = next(c);
		must(k, p->op == ISCSI_TMF_RSP ? p->h[RSP_RESPONSE] == TMF_RSP_NO_TASK : p->op == ISCSI_REJECT &&
			p->h[REJECT_REASON] == REJECT_IMMEDIATE, "%s", pdu_words(c, p));
		answered += p->op == ISCSI_TMF_RSP;
	}
	must(k, answered, "all were rejected");
}

/* --- RFC 7144 */

static struct conn *level_2(struct check *k, const char *keys)
{
	struct conn *c = session_with(k, keys, "iSCSIProtocolLevel", "2");

	return c;
}

static uint8_t tmf_2(struct conn *c, uint8_t fn, uint32_t ref, uint32_t ref_sn)
{
	uint8_t r = tmf(c, req_tmf(c->k, fn, ref, ref_sn), NULL);

	if (r == TMF_RSP_NOT_SUPPORTED)
		check_unsupported(c->k, "response 5 to function %u", fn);
	return r;
}

CASE(rfc7144, query_task, "RFC 7144 6.3, 6.4.2", NEED_WRITE, "QUERY TASK: 7 for a task that is there, 0 for one that is not")
{
	struct conn *c = level_2(k, waits);
	struct pdu *p = waiting(c, 0);
	uint8_t r = tmf_2(c, TMF_QUERY_TASK, be32(p->h + BHS_ITT), c->s->cmd_sn - 1);

	must(k, r == TMF_RSP_SUCCEEDED, "a task that waits for data: response %u", r);
	r = tmf_2(c, TMF_QUERY_TASK, 0x999, c->s->cmd_sn - 1);
	must(k, r == TMF_RSP_COMPLETE || r == TMF_RSP_NO_TASK, "no such task: response %u", r);
	answer_r2t(c, p);
	p = want_itt(c, ISCSI_SCSI_RSP, be32(p->h + BHS_ITT));
	must(k, p->h[RSP_STATUS] == 0, "the task that was asked about: %s", pdu_words(c, p));
}

CASE(rfc7144, query_task_set, "RFC 7144 6.3, 6.4.2", NEED_WRITE, "QUERY TASK SET: 7 while this nexus has tasks, else 0")
{
	struct conn *c = level_2(k, waits);
	uint8_t r = tmf_2(c, TMF_QUERY_TASK_SET, ISCSI_NO_TAG, 0);

	must(k, r == TMF_RSP_COMPLETE, "without tasks: response %u", r);
	struct pdu *p = waiting(c, 0);
	r = tmf_2(c, TMF_QUERY_TASK_SET, ISCSI_NO_TAG, 0);
	must(k, r == TMF_RSP_SUCCEEDED, "with one task: response %u", r);
	answer_r2t(c, p);
	want_itt(c, ISCSI_SCSI_RSP, be32(p->h + BHS_ITT));
}

CASE(rfc7144, i_t_nexus_reset, "RFC 7144 6.3, SAM-5 6.3.4", NEED_WRITE | NEED_DISRUPT,
	"I_T NEXUS RESET ends this nexus' tasks and spares those of others")
{
	struct conn *c = level_2(k, waits), *d = session(k, waits);
	struct pdu *p = waiting(c, 0), *q = waiting(d, 8);
	uint8_t r = reset_while(c, TMF_I_T_NEXUS_RESET, p);

	if (r == TMF_RSP_NOT_SUPPORTED)
		check_unsupported(k, "response 5");
	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	over(c, be32(p->h + BHS_ITT), "I_T NEXUS RESET");
	answer_r2t(d, q);
	q = want_itt(d, ISCSI_SCSI_RSP, be32(q->h + BHS_ITT));
	must(k, q->h[RSP_STATUS] == 0, "the other session's write: %s", pdu_words(d, q));
}

CASE(rfc7144, query_async_event, "RFC 7144 6.3, 6.4.2", NEED_DISRUPT,
	"QUERY ASYNCHRONOUS EVENT: 7 while a unit attention waits, else 0")
{
	struct conn *c = level_2(k, ""), *d = session(k, "");
	uint8_t r = tmf_2(c, TMF_QUERY_ASYNC, ISCSI_NO_TAG, 0);

	must(k, r == TMF_RSP_COMPLETE, "without a unit attention: response %u", r);
	must(k, tmf(d, req_tmf(k, TMF_LU_RESET, ISCSI_NO_TAG, 0), NULL) == 0, "LOGICAL UNIT RESET");
	r = tmf_2(c, TMF_QUERY_ASYNC, ISCSI_NO_TAG, 0);
	must(k, r == TMF_RSP_SUCCEEDED, "after a reset from another session: response %u", r);
	struct result x = tur(c);
	must(k, x.status == 2 && x.key == 6, "the unit attention is gone: status %02x", x.status);
}

CASE(rfc7144, not_below_level_2, "RFC 7144 6.3", NEED_LUN, "without level 2 the functions 9 to 12 are refused")
{
	for (int fn = TMF_QUERY_TASK; fn <= TMF_QUERY_ASYNC; fn++) {
		struct conn *c = session(k, "");
		send_req(c, req_tmf(k, (uint8_t)fn, ISCSI_NO_TAG, 0));
		refusal(c, BY_TMF | BY_REJECT | BY_CLOSE, REASONS_FORMAT, "a function of level 2");
		hang_up(c, false);
	}
}

CASE(rfc7144, priority, "RFC 7144 5.1.1, 7.1.1", NEED_LUN, "commands of every priority are taken at level 2")
{
	struct conn *c = level_2(k, "");

	for (uint8_t pri = 0; pri < 16; pri++) {
		struct req r = req_tur(k);
		r.h[2] = (uint8_t)(pri << 4);
		struct result x = command(c, r, NULL);
		good(c, &x, "TEST UNIT READY");
	}
}

CASE(rfc7144, priority_ignored, "RFC 7144 5.1.1", NEED_LUN, "below level 2 the priority field is reserved and is passed over")
{
	struct conn *c = session(k, "");
	struct req r = req_tur(k);

	r.h[2] = 0x50;
	struct result x = command(c, r, NULL);
	good(c, &x, "TEST UNIT READY");
}

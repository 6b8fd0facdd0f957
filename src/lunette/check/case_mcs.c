/* SPDX-License-Identifier: BSD-3-Clause
 * Suites mcs and async: several connections of one session (RFC 7143 4.2.2.1, 4.2.5.1, 6.3.4, 11.14), and what a target
 * says unasked (11.9). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lunette/check/check.h"

/* n connections of one session, as many as agreed. */
static struct conn *several(struct check *k, unsigned n, const char *keys, struct conn **ret)
{
	char all[256];

	snprintf(all, sizeof(all), "MaxConnections=%u%s%s", n, *keys ? "\n" : "", keys);
	struct conn *c = session(k, all);
	if (c->s->max_conns < n)
		check_unsupported(k, "MaxConnections=%u was offered, %u was the answer", n, c->s->max_conns);
	ret[0] = c;
	for (unsigned i = 1; i < n; i++)
		ret[i] = join(c, (uint16_t)i, NULL);
	return c;
}

CASE(mcs, joins, "6.3.1, 11.12.6", NEED_LUN, "a second connection joins with the session's TSIH and a new CID; both serve")
{
	struct conn *c[2];

	several(k, 2, "", c);
	alive(c[1]);
	alive(c[0]);
	for (unsigned i = 0; i < 6; i++) {
		struct result r = tur(c[i & 1]);
		good(c[i & 1], &r, "TEST UNIT READY");
	}
}

CASE(mcs, as_many_as_agreed, "13.2", 0, "as many connections as MaxConnections says, and not one more")
{
	struct conn *c = session(k, "MaxConnections=8");
	unsigned n = MIN(c->s->max_conns, 16u);
	uint16_t status;

	if (n < 2)
		check_unsupported(k, "MaxConnections=8 was offered, 1 was the answer");
	struct conn *d[16] = { c };
	for (unsigned i = 1; i < n; i++)
		d[i] = join(c, (uint16_t)(i * 7), NULL);
	must(k, !join(c, 999, &status), "connection %u was let in", n + 1);
	must(k, status >> 8 == 2, "status %04x", status);
	for (unsigned i = 0; i < n; i++)
		alive(d[i]);
}

CASE(mcs, order_over_connections, "4.2.2.1", NEED_LUN,
	"CmdSN is one for the session: a gap left on one connection holds what comes on another")
{
	struct conn *c[2];

	several(k, 2, "", c);
	uint32_t n = c[0]->s->cmd_sn, b = send_req(c[1], with_sn(req_tur(k), n + 1));
	quiet(c[1], CHECK_QUIET_MS);
	uint32_t a = send_req(c[0], with_sn(req_tur(k), n));
	c[0]->s->cmd_sn = n + 2;
	want_itt(c[0], ISCSI_SCSI_RSP, a);
	want_itt(c[1], ISCSI_SCSI_RSP, b);
	must(k, ping_exp(c[1]) == n + 2, "ExpCmdSN %#x, %#x was due", c[1]->last_exp, n + 2);
}

CASE(mcs, ordered_write_and_read, "4.2.2.1, 4.2.5.1", NEED_WRITE,
	"an ORDERED write on one connection is seen by an ORDERED read with the next CmdSN on another that came first")
{
	struct conn *c[2];

	several(k, 2, "", c);
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *data = pattern(k, k->block, 300 + i);
		uint32_t n = c[0]->s->cmd_sn;
		struct req r = with_sn(req_read(k, 2, 1), n + 1), w = with_sn(req_write(k, 2, 1), n);
		r.h[1] = (uint8_t)((r.h[1] & ~CMD_ATTR) | 2);
		w.h[1] = (uint8_t)((w.h[1] & ~CMD_ATTR) | 2);
		uint32_t ri = put(c[1], &r);
		w = with_data(w, data, c[0]->s->immediate ? k->block : 0);
		uint32_t wi = put(c[0], &w);
		c[0]->s->cmd_sn = n + 2;
		struct result x = finish(c[0], wi, k->block, data), y = finish(c[1], ri, k->block, NULL);
		good(c[0], &x, "write");
		good(c[1], &y, "read");
		same(k, y.data, data, k->block, "what the write before it wrote");
	}
}

CASE(mcs, allegiance, "4.2.5.1", NEED_WRITE, "R2Ts, Data-In and responses come on the connection of their command")
{
	struct conn *c[3];

	several(k, 3, "ImmediateData=No\nFirstBurstLength=512", c);
	uint8_t *data = pattern(k, 8192, 1);
	uint32_t w[3], r[3];
	for (unsigned i = 0; i < 3; i++) {
		w[i] = send_req(c[i], req_write(k, 100 + i * 16, 8192 / k->block));
		struct result x = finish(c[i], w[i], 8192, data);
		good(c[i], &x, "write");
		r[i] = send_req(c[i], req_read(k, 0, 8));
	}
	for (unsigned i = 0; i < 3; i++) {
		struct result x = finish(c[i], r[i], 8 * k->block, NULL);
		good(c[i], &x, "read");
	}
}

CASE(mcs, out_on_another, "4.2.5.1", NEED_WRITE, "Data-Out on another connection than its command's does not become data")
{
	struct conn *c[2];

	several(k, 2, "ImmediateData=No\nFirstBurstLength=512", c);
	struct pdu *p = want_itt(c[0], ISCSI_R2T, send_req(c[0], req_write(k, 0, 1)));
	serve(c[1], p, pattern(k, k->block, 1), 0);
	struct pdu *q = poll_pdu(c[0], CHECK_QUIET_MS * 2);
	must(k, !q || q->op != ISCSI_SCSI_RSP || q->h[RSP_STATUS], "GOOD");
}

CASE(mcs, statsn_of_its_own, "4.2.2.2", NEED_LUN, "StatSN is of each connection")
{
	struct conn *c[2];

	several(k, 2, "", c);
	uint32_t a = c[0]->exp_stat, b = c[1]->exp_stat;
	for (unsigned i = 0; i < 5; i++)
		tur(c[0]);
	alive(c[1]);
	must(k, c[0]->exp_stat == a + 5 && c[1]->exp_stat == b + 1, "StatSN went by %u and %u", c[0]->exp_stat - a,
		c[1]->exp_stat - b);
}

CASE(mcs, digests_of_its_own, "13.1, 13.12", NEED_LUN, "digests and MaxRecvDataSegmentLength are of each connection")
{
	struct conn *c = session(k, "MaxConnections=2");

	if (c->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	struct conn *d = dial(k);
	d->s = c->s;
	d->cid = 1;
	must(k, login_all(d, "HeaderDigest=CRC32C\nDataDigest=CRC32C\nMaxRecvDataSegmentLength=1024", false) == 0,
		"status %04x",
		d->status);
	must(k, d->hd && d->dd && !c->hd, "digests %u %u and %u", d->hd, d->dd, c->hd);
	peek(d, 0, 16);
	peek(c, 0, 16);
}

CASE(mcs, logout_of_another, "11.14, 11.15", NEED_LUN,
	"\"close the connection\" for the CID of another connection closes that one only")
{
	struct conn *c[3];

	several(k, 3, "", c);
	uint8_t r = logout(c[0], 1, 2);
	must(k, r == 0, "response %u", r);
	must(k, gone(c[2], (int)k->timeout_ms), "connection 2 stays open");
	alive(c[0]);
	alive(c[1]);
	struct conn *d = join(c[0], 2, NULL); /* its place is free again */
	alive(d);
}

CASE(mcs, logout_of_itself, "11.14", NEED_LUN, "\"close the connection\" for its own CID leaves the others")
{
	struct conn *c[2];

	several(k, 2, "", c);
	must(k, logout(c[0], 1, 0) == 0, "not 0");
	must(k, gone(c[0], (int)k->timeout_ms), "the connection stays open");
	alive(c[1]);
	struct result r = tur(c[1]);
	good(c[1], &r, "TEST UNIT READY on the connection that is left");
}

CASE(mcs, logout_session, "11.14", 0, "\"close the session\" ends all connections")
{
	struct conn *c[3];

	several(k, 3, "", c);
	must(k, logout(c[1], 0, 0) == 0, "not 0");
	for (unsigned i = 0; i < 3; i++)
		must(k, gone(c[i], (int)k->timeout_ms), "connection %u stays open", i);
}

CASE(mcs, last_connection_closes_session, "6.3.5", 0, "closing the last connection closes the session: its TSIH is gone (020a)")
{
	struct conn *c[2];
	uint16_t status;

	several(k, 2, "", c);
	must(k, logout(c[0], 1, 1) == 0 && logout(c[0], 1, 0) == 0, "not 0");
	gone(c[0], (int)k->timeout_ms);
	must(k, !join(c[0], 3, &status) && status == 0x020a, "status %04x", status);
}

CASE(mcs, reinstatement_of_one, "6.3.4", NEED_LUN, "a login with the CID of a connection takes its place; the others go on")
{
	struct conn *c[2];
	uint16_t status;

	several(k, 2, "", c);
	struct conn *d = join(c[0], 1, &status);
	if (!d)
		check_unsupported(k, "status %04x", status);
	must(k, gone(c[1], (int)k->timeout_ms), "the old connection stays open");
	alive(d);
	alive(c[0]);
	struct result r = tur(d);
	good(d, &r, "TEST UNIT READY on the new connection");
}

CASE(mcs, session_reinstatement, "6.3.5", 0, "a login with TSIH 0 and the session's ISID ends all its connections")
{
	struct conn *c[3];

	several(k, 3, "", c);
	struct conn *d = dial(k);
	memcpy(d->s->isid, c[0]->s->isid, 6);
	must(k, login_all(d, "", false) == 0, "status %04x", d->status);
	for (unsigned i = 0; i < 3; i++)
		must(k, gone(c[i], (int)k->timeout_ms), "connection %u stays open", i);
	alive(d);
}

CASE(mcs, abort_task_set_over_all, "4.2.3.3, 11.5.1", NEED_WRITE,
	"ABORT TASK SET on one connection ends the tasks on the others")
{
	struct conn *c[2];

	several(k, 2, "ImmediateData=No\nFirstBurstLength=512", c);
	struct pdu *p = want_itt(c[1], ISCSI_R2T, send_req(c[1], req_write(k, 0, 1)));
	uint32_t itt = send_req(c[0], req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0));
	serve(c[1], p, pattern(k, k->block, 1), 0); /* 11.5.1: goes on to answer */
	struct pdu *t = want_itt(c[0], ISCSI_TMF_RSP, itt);
	must(k, t->h[RSP_RESPONSE] == 0, "response %u", t->h[RSP_RESPONSE]);
	for (struct pdu *q; (q = poll_pdu(c[1], CHECK_QUIET_MS)) != NULL;)
		must(k, q->op == ISCSI_REJECT || be32(q->h + BHS_ITT) != be32(p->h + BHS_ITT), "%s after the response",
			pdu_words(c[1], q));
	alive(c[1]);
}

CASE(mcs, cut_connection, "7.1.4.4, 7.14", NEED_LUN,
	"one connection breaks at level 0: the others go on, or the session ends; a new session works")
{
	struct conn *c[2];

	several(k, 2, "", c);
	send_req(c[1], req_read(k, 0, 64));
	hang_up(c[1], true);
	send_req(c[0], req_nop("ping", 4));
	struct pdu *p = poll_pdu(c[0], (int)k->timeout_ms);
	while (p && p->op != ISCSI_NOP_IN)
		p = poll_pdu(c[0], (int)k->timeout_ms);
	must(k, p || c[0]->closed, "the other connection hangs");
	alive(session(k, ""));
}

CASE(mcs, other_initiator, "6.3.1", 0, "another initiator cannot join the session")
{
	struct conn *c = session(k, "MaxConnections=2"), *d = dial(k);

	if (c->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	memcpy(d->s->isid, c->s->isid, 6);
	d->s->tsih = c->s->tsih;
	d->cid = 1;
	snprintf(d->s->initiator, sizeof(d->s->initiator), "iqn.2026-11.test.lunette.check:thief");
	uint16_t status = login_all(d, "", false);
	must(k, status >> 8 == 2, "status %04x", status);
	alive(c);
}

CASE(mcs, leading_only_keys, "13.2 to 13.20", 0, "keys of the leading login in a further connection's login change nothing")
{
	struct conn *c = session(k, "MaxConnections=2\nMaxBurstLength=8192\nFirstBurstLength=512"), *d = dial(k);

	if (c->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	d->s = c->s;
	d->cid = 1;
	struct session before = *c->s;
	uint16_t status = login_all(d, "MaxBurstLength=65536\nErrorRecoveryLevel=2", false);
	must(k, status == 0 || status >> 8 == 2, "status %04x", status);
	*c->s = before;
	alive(c);
}

CASE(mcs, immediate_on_each, "4.2.2.1", 0, "one immediate request on each connection at once is served")
{
	struct conn *c[4];

	several(k, 4, "", c);
	for (unsigned i = 0; i < 4; i++) {
		send_req(c[i], req_nop("ping", 4));
		send_req(c[i], req_tmf(k, TMF_ABORT_TASK, 0x999, c[0]->s->cmd_sn - 1000));
	}
	for (unsigned i = 0; i < 4; i++) {
		struct pdu *p = next(c[i]), *q = next(c[i]);
		must(k, (p->op == ISCSI_NOP_IN) + (q->op == ISCSI_NOP_IN) == 1 && (p->op == ISCSI_TMF_RSP ||
			q->op == ISCSI_TMF_RSP),
			"connection %u: %s and %s", i, pdu_words(c[i], p), pdu_words(c[i], q));
	}
}

CASE(mcs, load_over_four, "4.2.2.1, 4.2.5.1", NEED_LUN,
	"200 reads over four connections, their CmdSNs dealt in turn: each ends with its data")
{
	struct conn *c[4];

	several(k, 4, "", c);
	uint8_t *ref = peek(c[0], 0, 8);
	for (unsigned round = 0; round < 50; round++) {
		uint32_t itt[4];
		for (unsigned i = 0; i < 4; i++)
			itt[i] = send_req(c[i], req_read(k, 0, 8));
		for (unsigned i = 0; i < 4; i++) {
			struct result r = finish(c[i], itt[i], 8 * k->block, NULL);
			good(c[i], &r, "read");
			same(k, r.data, ref, 8 * k->block, "the read");
		}
	}
}

/* Another address of this target with the same or another portal group tag, out of SendTargets. */
static bool other_portal(struct check *k, bool same_group, char host[256], char port[16])
{
	struct conn *d = discovery(k, "");
	char mine[16] = "";
	bool ours = false;

	const char *tag = answer(d, "TargetPortalGroupTag");
	snprintf(mine, sizeof(mine), "%s", tag ? tag : "");
	text(d, "SendTargets=All");
	for (uint32_t at = 0; at < d->ntext; at += (uint32_t)strlen(d->text + at) + 1) {
		const char *v = d->text + at, *comma = strrchr(v, ','), *colon;
		if (!strncmp(v, "TargetName=", 11))
			ours = !strcmp(v + 11, k->url->target);
		if (!ours || !comma || strncmp(v, "TargetAddress=", 14) || (strcmp(comma + 1, mine) == 0) != same_group)
			continue;
		v += 14;
		colon = memrchr(v, ':', (size_t)(comma - v));
		if (!colon || (*v == '[' && colon[-1] != ']'))
			colon = comma;
		snprintf(port, 16, "%.*s", colon == comma ? 4 : (int)(comma - colon - 1), colon == comma ? "3260" : colon + 1);
		snprintf(host, 256, "%.*s", (int)(colon - v) - 2 * (*v == '['), v + (*v == '['));
		if (strcmp(port, k->url->port) || strcmp(host, k->url->host))
			return true;
	}
	return false;
}

CASE(mcs, across_portals, "4.2.5, 4.4.1, 6.3.1", NEED_LUN, "a session spans the portals of its portal group")
{
	char host[256], port[16];

	if (!other_portal(k, true, host, port))
		check_unsupported(k, "SendTargets tells no second portal of this portal group");
	struct conn *c = session(k, "MaxConnections=2");
	if (c->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	struct conn *d = join_to(c, 1, host, port, NULL);
	struct result r = tur(d);
	good(d, &r, "TEST UNIT READY over the second portal");
	r = tur(c);
	good(c, &r, "TEST UNIT READY over the first");
}

CASE(mcs, not_across_groups, "4.4.1, 6.3.1", 0, "a session does not span portal groups: the join is refused")
{
	char host[256], port[16];
	uint16_t status;

	if (!other_portal(k, false, host, port))
		check_unsupported(k, "SendTargets tells no portal of another portal group");
	struct conn *c = session(k, "MaxConnections=2");
	must(k, !join_to(c, 1, host, port, &status), "a portal of another group let the connection in");
	must(k, status >> 8 == 2, "status %04x", status);
	alive(c);
}

/* --- async */

static struct conn *fast_abort(struct check *k, const char *more)
{
	char keys[256];

	snprintf(keys, sizeof(keys),
		"TaskReporting=FastAbort,ResponseFence,RFC3720\nImmediateData=No\nFirstBurstLength=512%s%s",
		*more ? "\n" : "", more);
	struct conn *c = session(k, keys);
	const char *v = answer(c, "TaskReporting");
	if (!v || strcmp(v, "FastAbort"))
		check_unsupported(k, "TaskReporting=FastAbort,... was answered %s", v ? v : "with nothing");
	return c;
}

/* Event 5 for our LUN must come; returns it acknowledged as 11.9.1 says. */
static void task_termination(struct conn *c)
{
	struct check *k = c->k;
	struct pdu *p = next(c);

	while (p->op != ISCSI_ASYNC && p->op != ISCSI_TMF_RSP)
		p = next(c);
	must(k, p->op == ISCSI_ASYNC && p->h[ASYNC_EVENT] == 5, "%s, event 5 was due", pdu_words(c, p));
	must(k, be64(p->h + BHS_LUN) == k->lun, "LUN field %016llx", (unsigned long long)be64(p->h + BHS_LUN));
	struct req r = with_itt(req_nop(NULL, 0), ISCSI_NO_TAG);
	memcpy(r.h + BHS_LUN, p->h + BHS_LUN, 8);
	put(c, &r);
}

CASE(async, task_termination, "4.2.3.4 d, 11.9.1", NEED_WRITE | NEED_DISRUPT,
	"FastAbort: LOGICAL UNIT RESET sends event 5 to another session whose tasks it ends")
{
	struct conn *a = fast_abort(k, ""), *b = fast_abort(k, "");

	want_itt(b, ISCSI_R2T, send_req(b, req_write(k, 0, 1)));
	send_req(a, req_tmf(k, TMF_LU_RESET, ISCSI_NO_TAG, 0));
	task_termination(b);
	struct pdu *p = want(a, ISCSI_TMF_RSP);
	must(k, p->h[RSP_RESPONSE] == 0, "response %u", p->h[RSP_RESPONSE]);
	alive(b);
}

CASE(async, task_termination_other_connection, "4.2.3.4 d", NEED_WRITE,
	"FastAbort: ABORT TASK SET sends event 5 on each other connection of the session that has affected tasks")
{
	struct conn *a = fast_abort(k, "MaxConnections=2");

	if (a->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	struct conn *b = join(a, 1, NULL);
	want_itt(b, ISCSI_R2T, send_req(b, req_write(k, 0, 1)));
	send_req(a, req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0));
	task_termination(b);
	struct pdu *p = want(a, ISCSI_TMF_RSP);
	must(k, p->h[RSP_RESPONSE] == 0, "response %u", p->h[RSP_RESPONSE]);
	alive(b);
}

CASE(async, fast_abort_without_data, "4.2.3.4 c", NEED_WRITE,
	"FastAbort: ABORT TASK SET does not wait for the data of the issuing connection's own R2Ts")
{
	struct conn *a = fast_abort(k, "");
	struct pdu *r = want_itt(a, ISCSI_R2T, send_req(a, req_write(k, 0, 1)));
	uint8_t response = tmf(a, req_tmf(k, TMF_ABORT_TASK_SET, ISCSI_NO_TAG, 0), NULL);

	must(k, response == 0, "response %u", response);
	for (struct pdu *p; (p = poll_pdu(a, CHECK_QUIET_MS)) != NULL;)
		must(k, be32(p->h + BHS_ITT) != be32(r->h + BHS_ITT), "%s after the response", pdu_words(a, p));
	alive(a);
}

CASE(async, no_event_5_without_fast_abort, "11.9.1", NEED_WRITE | NEED_DISRUPT, "without FastAbort event 5 is not used")
{
	struct conn *a = session(k, ""), *b = session(k, "ImmediateData=No\nFirstBurstLength=512");

	want_itt(b, ISCSI_R2T, send_req(b, req_write(k, 0, 1)));
	must(k, tmf(a, req_tmf(k, TMF_LU_RESET, ISCSI_NO_TAG, 0), NULL) == 0, "LOGICAL UNIT RESET");
	for (struct pdu *p; (p = poll_pdu(b, CHECK_QUIET_MS * 2)) != NULL;)
		must(k, p->op != ISCSI_ASYNC || p->h[ASYNC_EVENT] != 5, "event 5 came");
}

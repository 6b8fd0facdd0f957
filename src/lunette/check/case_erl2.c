/* SPDX-License-Identifier: BSD-3-Clause
 * Suite erl2: tasks outlive their connection (RFC 7143 6.3.4, 7.2.2, 7.5, 11.5.1, 11.14). */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lunette/check/check.h"

static struct conn *level_2(struct check *k, const char *more)
{
	char keys[512];

	snprintf(keys, sizeof(keys), "ErrorRecoveryLevel=2\nDefaultTime2Wait=0\nDefaultTime2Retain=20\nImmediateData=No\n"
		"FirstBurstLength=512\nMaxBurstLength=8192%s%s", *more ? "\n" : "", more);
	struct conn *c = session(k, keys);
	if (c->s->erl < 2)
		check_unsupported(k, "ErrorRecoveryLevel=2 was offered, %u was the answer", c->s->erl);
	return c;
}

/* Two connections of one session. */
static struct conn *pair(struct check *k, const char *more, struct conn **ret)
{
	char keys[256];

	snprintf(keys, sizeof(keys), "MaxConnections=2%s%s", *more ? "\n" : "", more);
	struct conn *c = level_2(k, keys);
	if (c->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	*ret = join(c, 1, NULL);
	return c;
}

static uint8_t reassign(struct conn *c, uint32_t itt, uint32_t exp_data_sn)
{
	struct req r = req_tmf(c->k, TMF_REASSIGN, itt, 0);

	put_be64(r.h + BHS_LUN, 0); /* reserved, 11.5.3 */
	put_be32(r.h + TMF_EXP_DATA_SN, exp_data_sn);
	uint32_t t = put(c, &r);
	struct pdu *p = next(c);
	must(c->k, p->op == ISCSI_TMF_RSP && be32(p->h + BHS_ITT) == t,
		"TASK REASSIGN is answered with %s (7.2.2: before anything else)",
		pdu_words(c, p));
	return p->h[RSP_RESPONSE];
}

/* The connection breaks; a new one with the same CID takes its place (implicit logout with reason 2). */
static struct conn *replace(struct conn *c, bool reset)
{
	hang_up(c, reset);
	return join(c, c->cid, NULL);
}

static void write_goes_on(struct conn *d, uint32_t itt, const uint8_t *data)
{
	struct check *k = d->k;
	uint8_t r = reassign(d, itt, 0);

	must(k, r == TMF_RSP_COMPLETE, "TASK REASSIGN: response %u", r);
	struct result x = finish(d, itt, 8192, data);
	good(d, &x, "the reassigned write");
	same(k, peek(d, 0, 8192 / k->block), data, 8192, "what the reassigned write wrote");
}

static uint32_t start_write(struct conn *c)
{
	uint32_t itt = send_req(c, req_write(c->k, 0, 8192 / c->k->block));

	want_itt(c, ISCSI_R2T, itt);
	return itt;
}

CASE(erl2, write_after_reinstatement, "6.3.4, 7.2.2", NEED_WRITE,
	"a write whose connection broke goes on over the one that replaced it")
{
	struct conn *c = level_2(k, "");
	uint32_t itt = start_write(c);

	write_goes_on(replace(c, true), itt, pattern(k, 8192, 1));
}

CASE(erl2, write_after_half, "7.2.2", NEED_WRITE, "a write with half its data received goes on and ends whole")
{
	struct conn *c = level_2(k, "");
	uint8_t *data = pattern(k, 8192, 2);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block));
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);

	send_req(c, req_out(k, itt, be32(p->h + BHS_TTT), 0, data, 4096, 0, false));
	alive(c);
	write_goes_on(replace(c, false), itt, data);
}

CASE(erl2, write_after_logout, "11.14.1, 11.15, 7.2.2", NEED_WRITE,
	"\"remove the connection for recovery\" of another connection, then TASK REASSIGN")
{
	struct conn *d, *c = pair(k, "", &d);
	uint32_t itt = start_write(c);
	uint8_t r = logout(d, 2, 0);

	must(k, r == 0, "logout: response %u", r);
	must(k, gone(c, (int)k->timeout_ms), "the connection stays open");
	write_goes_on(d, itt, pattern(k, 8192, 3));
}

CASE(erl2, write_after_own_logout, "11.14.1, 7.2.2", NEED_WRITE,
	"\"remove the connection for recovery\" of the connection itself, then TASK REASSIGN on a new one")
{
	struct conn *c = level_2(k, "");
	uint32_t itt = start_write(c);
	uint8_t r = logout(c, 2, 0);

	must(k, r == 0, "logout: response %u", r);
	must(k, gone(c, (int)k->timeout_ms), "the connection stays open");
	write_goes_on(join(c, 0, NULL), itt, pattern(k, 8192, 4));
}

CASE(erl2, logout_tells_times, "11.15.3, 11.15.4", 0, "the Logout Response for recovery tells Time2Wait and Time2Retain")
{
	struct conn *d, *c = pair(k, "", &d);

	send_req(d, req_logout(2, c->cid));
	struct pdu *p = want(d, ISCSI_LOGOUT_RSP);
	must(k, p->h[LOGOUT_RESPONSE] == 0, "response %u", p->h[LOGOUT_RESPONSE]);
	must(k, be16(p->h + LOGOUT_TIME2WAIT) <= 3600 && be16(p->h + LOGOUT_TIME2RETAIN) <= 3600,
		"Time2Wait %u, Time2Retain %u",
		be16(p->h + LOGOUT_TIME2WAIT), be16(p->h + LOGOUT_TIME2RETAIN));
	must(k, c->s->time2retain == 0 || be16(p->h + LOGOUT_TIME2RETAIN) > 0, "Time2Retain 0, %u was agreed",
		c->s->time2retain);
}

CASE(erl2, no_transfers_after_logout, "11.14", NEED_WRITE,
	"after \"remove for recovery\" nothing more comes on that connection")
{
	struct conn *d, *c = pair(k, "", &d);

	start_write(c);
	must(k, logout(d, 2, c->cid) == 0, "logout");
	struct pdu *p = poll_pdu(c, (int)k->timeout_ms);
	must(k, !p && c->closed, "%s", p ? pdu_words(c, p) : "the connection stays open");
}

/* A read that ended, its status not acknowledged, then the connection broke. */
static struct conn *read_lost(struct check *k, struct result *ret)
{
	struct conn *c = level_2(k, "MaxRecvDataSegmentLength=4096");

	hold_status(c);
	*ret = command(c, req_read(k, 0, 65536 / k->block), NULL);
	good(c, ret, "read");
	struct conn *d = replace(c, true);
	d->numbered = false;
	return d;
}

CASE(erl2, read_again, "7.2.2, 11.5.6", NEED_LUN,
	"a read whose status was not acknowledged: TASK REASSIGN with ExpDataSN 0 brings data and status")
{
	struct result r;
	struct conn *d = read_lost(k, &r);
	uint8_t x = reassign(d, be32(r.in[0]->h + BHS_ITT), 0);

	must(k, x == TMF_RSP_COMPLETE, "response %u", x);
	struct result y = finish(d, be32(r.in[0]->h + BHS_ITT), 65536, NULL);
	good(d, &y, "the reassigned read");
	same(k, y.data, r.data, 65536, "the data of the reassigned read");
}

CASE(erl2, read_status_only, "7.2.2, 11.5.6", NEED_LUN,
	"with an ExpDataSN that acknowledges all data, the status comes again (data may not, 7.2.2)")
{
	struct result r;
	struct conn *d = read_lost(k, &r);
	uint32_t itt = be32(r.in[0]->h + BHS_ITT);
	uint8_t x = reassign(d, itt, r.nin);

	must(k, x == TMF_RSP_COMPLETE, "response %u", x);
	struct pdu *p = next(d);
	while (p->op == ISCSI_DATA_IN && !(p->h[1] & DATA_STATUS_VALID))
		p = next(d);
	must(k, be32(p->h + BHS_ITT) == itt && p->h[RSP_STATUS] == 0, "%s", pdu_words(d, p));
}

CASE(erl2, read_tail, "7.2.2, 11.5.6", NEED_LUN,
	"with an ExpDataSN in the middle, at least what follows comes again, and the status")
{
	struct result r;
	struct conn *d = read_lost(k, &r);
	uint32_t itt = be32(r.in[0]->h + BHS_ITT), from = 9 * 4096, end = from;

	must(k, r.nin == 16, "%u Data-In PDUs", r.nin);
	uint8_t x = reassign(d, itt, 9);
	must(k, x == TMF_RSP_COMPLETE, "response %u", x);
	for (;;) {
		struct pdu *p = next(d);
		must(k, be32(p->h + BHS_ITT) == itt, "%s", pdu_words(d, p));
		if (p->op == ISCSI_DATA_IN) {
			uint32_t off = be32(p->h + DATA_OFFSET);
			must(k, off <= end && off + p->len <= 65536, "%u bytes at %u, after %u", p->len, off, end);
			same(k, p->data, r.data + off, p->len, "data of the reassigned read");
			end = MAX(end, off + p->len);
		}
		if (p->op == ISCSI_SCSI_RSP || (p->h[1] & DATA_STATUS_VALID))
			break;
	}
	must(k, end == 65536, "data up to %u of 65536", end);
}

CASE(erl2, status_of_no_data, "7.2.2", NEED_LUN, "the status of a command without data is sent again after TASK REASSIGN")
{
	struct conn *c = level_2(k, "");

	hold_status(c);
	struct result r = command(c, req_cmd(k, FLAG_FINAL, 0, "\xff\xff\xff\xff\xff\xff", 6), NULL);
	must(k, r.status == 2, "status %02x", r.status);
	struct conn *d = replace(c, true);
	uint8_t x = reassign(d, be32(r.last->h + BHS_ITT), 0);
	must(k, x == TMF_RSP_COMPLETE, "response %u", x);
	struct result y = finish(d, be32(r.last->h + BHS_ITT), 0, NULL);
	must(k, y.status == 2 && y.key == r.key && y.asc == r.asc, "status %02x sense %x/%02x, %x/%02x was due", y.status,
		y.key, y.asc,
		r.key, r.asc);
}

CASE(erl2, still_allegiant, "7.2.2, 11.6.1", NEED_WRITE,
	"TASK REASSIGN while the task's connection lives: response 3; the task goes on where it was")
{
	struct conn *d, *c = pair(k, "", &d);
	uint8_t *data = pattern(k, 8192, 5);
	uint32_t itt = send_req(c, req_write(k, 0, 8192 / k->block));
	struct pdu *p = want_itt(c, ISCSI_R2T, itt);
	uint8_t r = reassign(d, itt, 0);

	must(k, r == TMF_RSP_ALLEGIANT, "response %u", r);
	serve(c, p, data, 0);
	struct result x = finish(c, itt, 8192, data);
	good(c, &x, "write");
}

CASE(erl2, no_such_task, "11.6.1", 0, "TASK REASSIGN of a task that is not there: response 1")
{
	uint8_t r = reassign(level_2(k, ""), 0x7654, 0);

	must(k, r == TMF_RSP_NO_TASK, "response %u", r);
}

CASE(erl2, acknowledged_is_gone, "4.2.2.2, 11.6.1", NEED_LUN,
	"TASK REASSIGN of a task whose status was acknowledged: response 1")
{
	struct conn *c = level_2(k, "");
	struct result r = tur(c);

	alive(c); /* acknowledges */
	alive(c);
	struct conn *d = replace(c, true);
	uint8_t x = reassign(d, be32(r.last->h + BHS_ITT), 0);
	must(k, x == TMF_RSP_NO_TASK, "response %u", x);
}

CASE(erl2, twice, "7.2.2", NEED_WRITE, "a task may lose its connection twice")
{
	struct conn *c = level_2(k, "");
	uint32_t itt = start_write(c);
	struct conn *d = replace(c, true);
	uint8_t r = reassign(d, itt, 0);

	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	want_itt(d, ISCSI_R2T, itt);
	write_goes_on(replace(d, true), itt, pattern(k, 8192, 6));
}

CASE(erl2, many_tasks, "7.2.2", NEED_WRITE, "sixteen tasks, reads and writes, all go on after their connection broke")
{
	struct conn *c = level_2(k, "");
	uint8_t *data = pattern(k, 8192, 7), *ref = peek(c, 64, 8192 / k->block);
	uint32_t itt[16];

	hold_status(c);
	for (unsigned i = 0; i < 16; i++)
		itt[i] = send_req(c, i & 1 ? req_write(k, 0, 8192 / k->block) : req_read(k, 64, 8192 / k->block));
	nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL); /* they arrive; what they bring is lost */
	hang_up(c, true);
	struct conn *d = join(c, 0, NULL);
	d->numbered = false;
	for (unsigned i = 0; i < 16; i++) {
		uint8_t r = reassign(d, itt[i], 0);
		must(k, r == TMF_RSP_COMPLETE, "task %u: response %u", i, r);
		struct result x = finish(d, itt[i], 8192, i & 1 ? data : NULL);
		good(d, &x, "a reassigned task");
		if (!(i & 1))
			same(k, x.data, ref, 8192, "a reassigned read");
	}
	same(k, peek(d, 0, 8192 / k->block), data, 8192, "what the writes wrote");
}

CASE(erl2, abort_on_new_connection, "11.5.1", NEED_WRITE,
	"ABORT TASK on another connection, after the logout of the task's own, aborts it")
{
	struct conn *c = level_2(k, "");
	uint32_t itt = start_write(c), sn = c->s->cmd_sn - 1;
	struct conn *d = replace(c, true);
	uint8_t r = tmf(d, req_tmf(k, TMF_ABORT_TASK, itt, sn), NULL);

	must(k, r == TMF_RSP_COMPLETE, "response %u", r);
	r = reassign(d, itt, 0);
	must(k, r == TMF_RSP_NO_TASK, "TASK REASSIGN afterwards: response %u", r);
}

CASE(erl2, smaller_segments, "7.2.2, 11.5.6", NEED_LUN,
	"a read reassigned to a connection with a smaller MaxRecvDataSegmentLength obeys it")
{
	struct conn *c = level_2(k, "MaxRecvDataSegmentLength=16384");

	hold_status(c);
	struct result r = command(c, req_read(k, 0, 65536 / k->block), NULL);
	good(c, &r, "read");
	hang_up(c, true);
	struct conn *d = dial(k);
	d->s = c->s;
	must(k, login_all(d, "MaxRecvDataSegmentLength=1024", false) == 0, "status %04x", d->status);
	uint8_t x = reassign(d, be32(r.in[0]->h + BHS_ITT), 0);
	must(k, x == TMF_RSP_COMPLETE, "response %u", x);
	struct result y = finish(d, be32(r.in[0]->h + BHS_ITT), 65536, NULL);
	good(d, &y, "the reassigned read");
	for (unsigned i = 0; i < y.nin; i++)
		must(k, y.in[i]->len <= 1024, "a Data-In of %u bytes", y.in[i]->len);
	same(k, y.data, r.data, 65536, "the data");
}

CASE(erl2, unacknowledged_discarded, "11.14, 7.2.1", NEED_LUN,
	"commands behind a gap on the removed connection are discarded; the gap is plugged by retries on the new one")
{
	struct conn *c = level_2(k, "");
	uint32_t n = c->s->cmd_sn;

	send_req(c, with_sn(req_tur(k), n + 1)); /* n never comes on this connection */
	alive(c);
	struct conn *d = replace(c, true);
	must(k, ping_exp(d) == n, "ExpCmdSN %#x, %#x was due", d->last_exp, n);
	for (uint32_t i = 0; i < 2; i++) {
		struct pdu *p = want_itt(d, ISCSI_SCSI_RSP, send_req(d, with_sn(req_tur(k), n + i)));
		must(k, p->h[RSP_STATUS] == 0, "%s", pdu_words(d, p));
	}
	must(k, ping_exp(d) == n + 2, "ExpCmdSN %#x", d->last_exp);
}

CASE(erl2, session_waits, "6.3.6, 7.5.1", NEED_LUN, "the session outlives its last connection for Time2Wait and Time2Retain")
{
	struct conn *c = level_2(k, "");

	hang_up(c, true);
	nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
	struct conn *d = join(c, 0, NULL);
	struct result r = tur(d);
	good(d, &r, "TEST UNIT READY in the session that went on");
}

CASE(erl2, session_times_out, "6.3.5, 7.5, 7.15", NEED_SLOW, "after Time2Wait and Time2Retain the session is gone: 020a")
{
	struct conn *c = level_2(k, "DefaultTime2Retain=1");
	uint16_t status;

	if (c->s->time2wait + c->s->time2retain > 20)
		check_unsupported(k, "DefaultTime2Wait=%u, DefaultTime2Retain=%u", c->s->time2wait, c->s->time2retain);
	hang_up(c, true);
	nanosleep(&(struct timespec){ .tv_sec = c->s->time2wait + c->s->time2retain + 4 }, NULL);
	must(k, !join(c, 0, &status), "the session is still there");
	must(k, status == 0x020a, "status %04x, 020a was due", status);
}

CASE(erl2, other_connection_unharmed, "7.1.4.3", NEED_WRITE, "one of two connections breaks: the other goes on meanwhile")
{
	struct conn *d, *c = pair(k, "", &d);
	uint8_t *data = pattern(k, 8192, 8);
	uint32_t itt = start_write(c);

	hang_up(c, true);
	for (unsigned i = 0; i < 10; i++) {
		struct result r = tur(d);
		good(d, &r, "TEST UNIT READY on the other connection");
	}
	must(k, logout(d, 2, 0) == 0, "logout for recovery of the broken connection");
	write_goes_on(d, itt, data);
}

CASE(erl2, new_cid, "6.3.6, 11.14", NEED_WRITE,
	"a new connection with a new CID joins, removes the broken one for recovery, takes its task")
{
	struct conn *c = level_2(k, "MaxConnections=2");
	uint8_t *data = pattern(k, 8192, 9);

	if (c->s->max_conns < 2)
		check_unsupported(k, "MaxConnections=2 was offered, 1 was the answer");
	uint32_t itt = start_write(c);
	hang_up(c, true);
	struct conn *d = join(c, 5, NULL);
	must(k, logout(d, 2, 0) == 0, "logout for recovery of the broken connection");
	write_goes_on(d, itt, data);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine where things go wrong: several connections, SNACKs of level 1, lost connections at level 2,
 * sessions made anew. The target is played by hand, PDU by PDU. */
#include "played_target.h"

/* --- several connections --- */

/* Proves that further connections log in with the TSIH and a CID of their own and only the keys that concern them (6.3.1,
 * 13), that commands are dealt to all of them, with CmdSN in order of submission. */
static void test_connections(void **state)
{
	struct iscsi_ini_cmd c[8];
	uint32_t seen = 0;
	const uint8_t *h, *data;

	begin(0, 2, 0);
	assert_int_equal(iscsi_ini_connections(p.i), 2);
	p.w[1].at = 0;
	p.w[1].digests = false;
	h = sent(1, &data);
	p.w[1].digests = true;
	assert_int_equal(be16(h + 14), 5);
	assert_int_equal(be16(h + 20), 21);
	assert_null(memmem(data, bhs_data_len(h), "MaxBurstLength", 14));
	assert_non_null(memmem(data, bhs_data_len(h), "DataDigest", 10));
	for (unsigned k = 0; k < 8; k++) {
		c[k] = read_units(1);
		submit(&c[k]);
	}
	for (unsigned k = 0; k < 2; k++)
		for (unsigned n = 0; n < 4; n++) {
			h = must_send(k, 0x01);
			assert_int_equal(be32(h + 24) - 7, c[be32(h + 24) - 7].cmd_sn - 7);
			seen |= 1u << (be32(h + 24) - 7);
		}
	assert_int_equal(seen, 0xff);
	must_send_nothing(0);
	must_send_nothing(1);
	for (unsigned k = 0; k < 8; k++)
		assert_int_equal(c[k].cmd_sn, 7 + k);
}

/* --- level 1 --- */

/* Proves that missing and spoilt Data-In are asked for again, each once, that what comes twice does no harm, that a status
 * waits for its data and is not acknowledged before (11.16), and that a DataACK waits for the holes (11.16.2). */
static void test_data_snack(void **state)
{
	struct iscsi_ini_cmd c = read_units(8);
	const uint8_t *h;

	fill_from();
	begin(1, 1, 0);
	submit(&c);
	h = must_send(0, 0x01);
	data_in(0, h, 0, 0, false);
	data_in(0, h, 3, 0, false);                       /* 1 and 2 are lost */
	check_snack(0, 0, c.itt, 1, 2);
	data_in(0, h, 4, 0, true);                        /* spoilt */
	check_snack(0, 0, c.itt, 1, 2);
	check_snack(0, 0, c.itt, 4, 1);
	data_in(0, h, 5, 0x80 | DATA_ACK, false);
	data_in(0, h, 6, 0, false);
	data_in(0, h, 7, 0x80 | DATA_STATUS_VALID, false);
	must_send_nothing(0);
	must_tell_nothing();
	data_in(0, h, 1, 0, false);
	data_in(0, h, 1, 0, false);                       /* a copy */
	data_in(0, h, 2, 0, false);
	must_tell_nothing();
	must_send_nothing(0);
	assert_int_equal(iscsi_ini_ping(p.i, 0, NULL, 0), 0);
	assert_int_equal(be32(must_send(0, 0x00) + 28), p.w[0].stat_sn - 1);
	data_in(0, h, 4, 0, false);
	h = must_send(0, 0x10);
	assert_int_equal(h[1], 0x82);
	assert_int_equal(be32(h + 16), ISCSI_NO_TAG);
	assert_int_equal(be32(h + 20), 0xabcd);
	assert_int_equal(be32(h + 40), 8);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &c);
	assert_int_equal(c.error | c.status, 0);
	assert_int_equal(c.in_got, sizeof(in));
	assert_memory_equal(in, from, sizeof(in));
}

/* Proves that ExpDataSN shows what is missing at the end (11.4.8), that a SNACK is repeated after a while, and that the
 * connection is given up when nothing helps. */
static void test_data_tail(void **state)
{
	struct iscsi_ini_cmd c = read_units(4);
	const uint8_t *h;

	fill_from();
	begin(1, 1, 0);
	submit(&c);
	h = must_send(0, 0x01);
	data_in(0, h, 0, 0, false);
	respond(0, h, 4);
	check_snack(0, 0, c.itt, 1, 3);
	p.exp_cmd_sn = 8;
	pass(S + S / 2);
	check_snack(0, 0, c.itt, 1, 3);
	must_send(0, 0x00);
	for (uint32_t sn = 1; sn < 4; sn++)
		data_in(0, h, sn, 0, false);
	must_tell(INI_EV_CMD);
	assert_memory_equal(in, from, 4 * UNIT);
	c = read_units(4);
	submit(&c);
	h = must_send(0, 0x01);
	respond(0, h, 4);
	for (unsigned n = 0; n < 20 && !p.w[0].hung_up; n++)
		pass(S + S / 2);
	assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECONNRESET);
	must_tell(INI_EV_CLOSED);
}

/* Proves that a lost response is noticed by the next one, by a ping, and by a response that is spoilt, is asked for, and
 * counts once (11.16, 7.8). */
static void test_status_snack(void **state)
{
	struct iscsi_ini_cmd c[3] = { { .cdb = { 0 } }, { .cdb = { 0 } }, { .cdb = { 0 } } };
	uint8_t sense[32] = { 0, 18, 0x70 }, spoilt[48] = { 0x21, 0x80, 0, 2 };
	const uint8_t *h[3], *ping;
	uint32_t first;

	begin(1, 1, 0);
	for (unsigned k = 0; k < 3; k++) {
		submit(&c[k]);
		h[k] = must_send(0, 0x01);
	}
	first = p.w[0].stat_sn++;
	respond(0, h[1], 0);
	check_snack(0, 1, ISCSI_NO_TAG, first, 1);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &c[1]);
	respond_at(0, first, h[0], 0);
	respond_at(0, first, h[0], 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &c[0]);
	must_tell_nothing();
	memcpy(spoilt + 16, h[2] + 16, 4);
	answer(0, spoilt, sense, 20, true);
	check_snack(0, 1, ISCSI_NO_TAG, p.w[0].stat_sn, 1);
	p.w[0].stat_sn++;
	respond_at(0, p.w[0].stat_sn - 1, h[2], 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &c[2]);
	assert_int_equal(c[2].status, 0);

	submit(&c[0]);
	h[0] = must_send(0, 0x01);
	first = p.w[0].stat_sn++;                          /* its response is lost, and nothing follows */
	p.exp_cmd_sn = p.max_cmd_sn - 80;
	p.exp_cmd_sn = 11;
	pass(S + S / 2);
	ping = must_send(0, 0x00);
	nop_in(0, ping);
	check_snack(0, 1, ISCSI_NO_TAG, first, 1);
	respond_at(0, first, h[0], 0);
	must_tell(INI_EV_CMD);
}

/* Proves that a command which the target never counted is sent again with its number, tag and data (7.2.1): after a ping
 * shows the hole, and after a Reject for its data digest (7.8); and that a hole without a command is filled. */
static void test_command_retry(void **state)
{
	struct iscsi_ini_cmd c = { .cdb = { 0x2a }, .out = from, .out_len = 700 };
	uint8_t rej[48] = { 0x3f, 0x80, REJECT_DATA_DIGEST };
	const uint8_t *h, *again, *data;

	fill_from();
	begin(1, 1, 0);
	submit(&c);
	h = must_send(0, 0x01);
	pass(S + S / 2);
	nop_in(0, must_send(0, 0x00));                     /* ExpCmdSN stands at 7 */
	again = sent(0, &data);
	assert_memory_equal(h, again, 28);
	assert_memory_equal(data, from, 700);
	put_be32(rej + 16, ISCSI_NO_TAG);
	answer(0, rej, h, 48, false);
	p.w[0].stat_sn++;
	must_tell(INI_EV_REJECT);
	assert_memory_equal(must_send(0, 0x01), h, 28);
	p.exp_cmd_sn = 8;
	respond(0, h, 0);
	must_tell(INI_EV_CMD);
	rej[2] = 0x09;
	c = read_units(1);
	submit(&c);
	h = must_send(0, 0x01);
	answer(0, rej, h, 48, false);
	must_tell(INI_EV_CMD);
	h = must_send(0, 0x00);
	assert_int_equal(h[0], 0);
	assert_int_equal(be32(h + 24), 8);
}

/* Proves that a lost R2T is asked for by the number of the next, a copy is ignored, and a recovery R2T gets its data a
 * second time (11.8, 7.1.4.1). */
static void test_r2t(void **state)
{
	struct iscsi_ini_cmd c = { .cdb = { 0x2a }, .out = from, .out_len = 3072 };
	const uint8_t *h, *d;

	fill_from();
	begin(1, 1, 0);
	submit(&c);
	h = must_send(0, 0x01);
	r2t(0, h, 1, 2048, 512);
	check_snack(0, 0, c.itt, 0, 2);
	r2t(0, h, 0, 1024, 1024);
	assert_int_equal(be32(must_send(0, 0x05) + 40), 1024);
	r2t(0, h, 0, 1024, 1024);
	must_send_nothing(0);
	r2t(0, h, 1, 2048, 1024);
	must_send(0, 0x05);
	r2t(0, h, 2, 1024, 512);
	d = must_send(0, 0x05);
	assert_int_equal(be32(d + 20), 0x79);
	assert_int_equal(be32(d + 40), 1024);
	assert_int_equal(bhs_data_len(d), 512);
	respond(0, h, 3);
	must_tell(INI_EV_CMD);
}

/* --- level 2 --- */

static void lose(unsigned k)
{
	drain(k);
	p.w[k].up = false;
	iscsi_ini_lost(p.i, k, "cable");
	pass(0);
}

/* Proves that the tasks of a lost connection go on on another: logged out "for recovery" there, reassigned after
 * Time2Wait with what of their data is complete, or sent again when the target never counted them (7.2.2, 11.5.6,
 * 11.14); and that the connection comes back. */
static void test_reassign(void **state)
{
	struct iscsi_ini_cmd r = read_units(8), w = { .cdb = { 0x2a }, .out = from, .out_len = 4096 }, t = { .cdb = { 0 } };
	const uint8_t *hr, *hw, *ht, *req;

	fill_from();
	begin(2, 2, 0);
	submit(&r);
	hr = must_send(0, 0x01);
	submit(&w);
	hw = must_send(1, 0x01);
	submit(&t);
	ht = must_send(0, 0x01);
	data_in(0, hr, 0, 0, false);
	data_in(0, hr, 1, 0, false);
	data_in(0, hr, 3, 0, false);
	check_snack(0, 0, r.itt, 2, 1);
	p.exp_cmd_sn = 9;                                  /* r and w were counted, t was not */
	r2t(1, hw, 0, 1024, 1024);
	must_send(1, 0x05);
	lose(0);
	req = must_send(1, 0x06);
	assert_int_equal(req[1], 0x82);
	assert_int_equal(be16(req + 20), 20);
	assert_int_equal(be32(req + 28), p.w[0].stat_sn);  /* 11.14.4: of the connection that is lost */
	logout_rsp(1, req, 0);
	must_send_nothing(1);                              /* Time2Wait */
	pass(2 * S);
	req = must_send(1, 0x02);
	assert_int_equal(req[1], 0x80 | TMF_REASSIGN);
	assert_int_equal(be32(req + 20), r.itt);
	assert_int_equal(be32(req + 36), 2);
	assert_memory_equal(must_send(1, 0x01), ht, 28);
	p.exp_cmd_sn = 10;
	tmf_rsp(1, req, TMF_RSP_COMPLETE);
	for (uint32_t sn = 2; sn < 8; sn++)
		data_in(1, hr, sn, sn == 7 ? 0x81 : 0, false);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &r);
	assert_int_equal(r.error, 0);
	assert_memory_equal(in, from, sizeof(in));
	let_in(0, true, KEYS(FURTHER));
	must_tell(INI_EV_JOINED);
	respond(1, ht, 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &t);
	lose(1);
	req = must_send(0, 0x06);
	logout_rsp(0, req, 0);
	pass(2 * S);
	req = must_send(0, 0x02);
	assert_int_equal(be32(req + 20), w.itt);
	tmf_rsp(0, req, TMF_RSP_COMPLETE);
	r2t(0, hw, 5, 1024, 3072);                         /* where the target resumes is its business */
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(be32(must_send(0, 0x05) + 40), 1024 + 1024 * n);
	respond(0, hw, 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &w);
	assert_int_equal(w.error, 0);
	assert_int_equal(iscsi_ini_stats(p.i)->reassigned, 2);
}

/* Proves that the logout of a lost connection is made again where the connection that carried it is lost as well, before its
 * answer (7.1.4.3), and that both connections' tasks go on. */
static void test_logout_lost(void **state)
{
	struct iscsi_ini_cmd c[3] = { { .cdb = { 0 } }, { .cdb = { 0 } }, { .cdb = { 0 } } };
	const uint8_t *h[3], *a, *b;

	begin(2, 3, 0);
	for (unsigned k = 0; k < 3; k++) {
		submit(&c[k]);
		h[k] = must_send(k, 0x01);
	}
	p.exp_cmd_sn = 10;
	lose(0);
	must_send(1, 0x06);
	lose(1);
	a = must_send(2, 0x06);
	b = must_send(2, 0x06);
	assert_int_equal(be16(a + 20), 20);
	assert_int_equal(be16(b + 20), 21);
	logout_rsp(2, a, 1);                               /* that it had arrived does not matter */
	logout_rsp(2, b, 0);
	pass(2 * S);
	a = must_send(2, 0x02);
	b = must_send(2, 0x02);
	assert_int_equal(be32(a + 20), c[0].itt);
	assert_int_equal(be32(b + 20), c[1].itt);
	tmf_rsp(2, a, TMF_RSP_COMPLETE);
	tmf_rsp(2, b, TMF_RSP_COMPLETE);
	for (unsigned k = 0; k < 3; k++) {
		respond(2, h[k], 0);
		assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &c[k]);
		assert_int_equal(c[k].error, 0);
	}
}

/* Proves that "task still allegiant" is no reason to give the session up: the task is asked for again (7.2.2), and one that answers
 * a copy of the request waits for the answer before it, which got lost. */
static void test_reassign_again(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 } };
	const uint8_t *h, *req;

	begin(2, 2, 0);
	submit(&a);
	h = must_send(0, 0x01);
	p.exp_cmd_sn = 8;
	lose(0);
	logout_rsp(1, must_send(1, 0x06), 0);
	pass(2 * S);
	tmf_rsp(1, must_send(1, 0x02), TMF_RSP_ALLEGIANT);
	pass(0);
	must_send_pings(1);
	pass(2 * S);
	req = must_send(1, 0x02);
	assert_int_equal(be32(req + 20), a.itt);
	p.w[1].stat_sn++;                                  /* the answer, lost */
	tmf_rsp(1, req, TMF_RSP_ALLEGIANT);
	must_send(1, 0x10);
	p.w[1].stat_sn -= 2;
	tmf_rsp(1, req, TMF_RSP_COMPLETE);
	p.w[1].stat_sn++;
	respond(1, h, 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &a);
	assert_int_equal(a.error, 0);
}

/* Proves that a command of a connection that has come back by a login waits for what this connection says of ExpCmdSN: another may
 * still bring a PDU from before, and what was counted would be sent again, in vain (7.2.1, 7.2.2). */
static void test_reinstate_unsure(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 } }, b = { .cdb = { 0 } };
	const uint8_t *h;

	begin(2, 2, 0);
	submit(&a);
	submit(&b);
	must_send(0, 0x01);
	must_send(1, 0x01);
	lose(0);
	lose(1);
	pass(2 * S);
	let_in(0, true, KEYS(FURTHER));
	must_tell(INI_EV_JOINED);
	let_in(1, true, KEYS(FURTHER));
	must_tell(INI_EV_JOINED);
	pass(0);
	h = must_send(0, 0x00);
	nop_in(1, must_send(1, 0x00));                     /* made before the login of the other */
	pass(0);
	must_send_pings(1);
	assert_int_equal(be32(must_send(0, 0x01) + 16), b.itt);
	must_send_pings(0);
	p.exp_cmd_sn = 8;
	nop_in(0, h);
	pass(0);
	assert_int_equal(be32(must_send(1, 0x02) + 20), a.itt);
}

/* Proves that the only connection comes back by a login with its TSIH and CID after Time2Wait (6.3.4), and that a task the
 * target does not know any more is issued anew where that is harmless and fails where it is not. */
static void test_reinstate_connection(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 }, .retry = true }, b = { .cdb = { 0 } };
	const uint8_t *req, *h;
	uint32_t acked;

	begin(2, 1, 0);
	submit(&a);
	submit(&b);
	must_send(0, 0x01);
	must_send(0, 0x01);
	p.exp_cmd_sn = 9;
	acked = p.w[0].stat_sn;
	lose(0);
	assert_false(p.w[0].asked);
	pass(2 * S);
	assert_true(p.w[0].asked);
	let_in(0, true, KEYS(FURTHER));
	assert_int_equal(be16(p.w[0].out + 14), 5);
	assert_int_equal(be16(p.w[0].out + 20), 20);
	assert_int_equal(be32(p.w[0].out + 28), acked);    /* 11.12.9 */
	must_tell(INI_EV_JOINED);
	pass(0);
	nop_in(0, must_send(0, 0x00));                     /* tells which commands were counted */
	pass(0);
	req = must_send(0, 0x02);
	h = must_send(0, 0x02);
	tmf_rsp(0, req, TMF_RSP_NO_TASK);
	tmf_rsp(0, h, TMF_RSP_NO_TASK);
	assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECONNRESET);
	h = must_send(0, 0x01);
	assert_int_equal(be32(h + 24), 9);
	respond(0, h, 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &a);
	assert_int_equal(a.error, 0);
}

/* Proves that a session which cannot be recovered in Time2Wait + Time2Retain, or whose target refuses, is lost. */
static void test_recovery_fails(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 } };

	for (unsigned late = 0; late < 2; late++) {
		begin(2, 1, 0);
		submit(&a);
		must_send(0, 0x01);
		lose(0);
		pass(2 * S);
		if (late) {
			dial(0);
			pass(11 * S);
		} else {
			uint8_t h[48] = { 0x23, [36] = 2, [37] = 10 };
			dial(0);
			must_send(0, 0x03);
			answer(0, h, NULL, 0, false);
		}
		assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECONNRESET);
		must_tell(INI_EV_CLOSED);
	}
}

/* --- level 0 and what all levels end in --- */

/* Proves that a lost session is made anew with the same ISID and no TSIH, that commands which may be done twice are issued
 * again in their order and the others end, and that patience ends after retry_ns (7.1.4.4). */
static void test_session_anew(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 }, .retry = true }, b = { .cdb = { 0 } }, c = { .cdb = { 0 }, .retry = true };
	const uint8_t *h;

	begin(0, 2, 5 * S);
	submit(&a);
	must_send(0, 0x01);
	submit(&b);
	submit(&c);
	drain(0);
	drain(1);
	lose(1);
	assert_true(p.w[0].hung_up);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &b);
	assert_int_equal(b.error, -ECONNRESET);
	must_tell(INI_EV_DOWN);
	assert_int_equal(iscsi_ini_cmd(p.i, &b), 0);
	assert_true(p.w[0].asked);
	dial(0);
	iscsi_ini_lost(p.i, 0, "refused");
	pass(S);
	let_first_in(0, 2);
	assert_int_equal(be16(p.w[0].out + 14), 0);
	must_tell(INI_EV_LOGGED_IN);
	h = must_send(0, 0x01);
	assert_int_equal(be32(h + 16), a.itt);
	must_send(0, 0x01);
	must_send(0, 0x01);
	lose(0);
	while (p.n != p.head)
		p.head++;
	pass(6 * S);
	assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECONNRESET);
	must_tell(INI_EV_CMD);
	must_tell(INI_EV_CLOSED);
	assert_int_equal(iscsi_ini_cmd(p.i, &b), -ENOTCONN);
}

/* --- asynchronous messages --- */

static void async(unsigned k, uint8_t code, uint16_t p1, uint16_t p2, uint16_t p3)
{
	uint8_t h[48] = { 0x32, 0x80, [36] = code };

	put_be32(h + 16, ISCSI_NO_TAG);
	put_be16(h + 38, p1);
	put_be16(h + 40, p2);
	put_be16(h + 42, p3);
	answer(k, h, NULL, 0, false);
	p.w[k].stat_sn++;
	must_tell(INI_EV_ASYNC);
}

/* Proves that a connection which is asked to log out takes no new commands, logs out when its own have ended, and is
 * replaced (11.9.1, event 1); the last one takes its session along, which is made anew. */
static void test_async_logout(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 } }, b = { .cdb = { 0 } };
	const uint8_t *h, *req;

	begin(0, 2, 5 * S);
	submit(&a);
	h = must_send(0, 0x01);
	async(0, 1, 0, 0, 10);
	pass(0);
	must_send_nothing(0);
	submit(&b);
	must_send_nothing(0);
	must_send(1, 0x01);
	respond(0, h, 0);
	pass(0);
	req = must_send(0, 0x06);
	assert_int_equal(req[1], 0x81);
	logout_rsp(0, req, 0);
	must_tell(INI_EV_CMD);
	assert_true(p.w[0].hung_up);
	pass(3 * S);
	let_in(0, true, KEYS(FURTHER));
	must_tell(INI_EV_JOINED);
	begin(0, 1, 5 * S);
	async(0, 1, 0, 0, 10);
	pass(0);
	req = must_send(0, 0x06);
	assert_int_equal(req[1], 0x80);
	logout_rsp(0, req, 0);
	must_tell(INI_EV_DOWN);
	pass(0);
	let_first_in(0, 1);
	must_tell(INI_EV_LOGGED_IN);
}

/* Proves that a connection which is about to be dropped is recovered after the time that the target asks for (event 2), that
 * a wish to negotiate is answered with a Text Request (4), and terminated tasks end, with a word of it (5). */
static void test_async_others(void **state)
{
	struct iscsi_ini_cmd a = { .cdb = { 0 }, .lun = 1ull << 48 };
	const uint8_t *h, *req;

	begin(2, 2, 0);
	async(0, 2, 21, 7, 10);
	assert_true(p.w[1].hung_up);
	req = must_send(0, 0x06);
	assert_int_equal(be16(req + 20), 21);
	logout_rsp(0, req, 0);
	pass(0);
	async(0, 4, 0, 0, 3);
	h = must_send(0, 0x04);
	assert_int_equal(bhs_data_len(h), 0);
	submit(&a);
	must_send(0, 0x01);
	uint8_t ta[48] = { 0x32, 0x80, [9] = 1, [36] = 5 };
	put_be32(ta + 16, ISCSI_NO_TAG);
	answer(0, ta, NULL, 0, false);
	p.w[0].stat_sn++;
	assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECANCELED);
	must_tell(INI_EV_ASYNC);
	h = must_send(0, 0x00);
	assert_int_equal(be32(h + 16), ISCSI_NO_TAG);
	assert_int_equal(h[9], 1);
	assert_int_equal(be32(h + 28), p.w[0].stat_sn);
}

static int teardown(void **state)
{
	iscsi_ini_free(p.i);
	p.i = NULL;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connections), cmocka_unit_test(test_data_snack), cmocka_unit_test(test_data_tail),
		cmocka_unit_test(test_status_snack), cmocka_unit_test(test_command_retry), cmocka_unit_test(test_r2t),
		cmocka_unit_test(test_reassign), cmocka_unit_test(test_logout_lost),
		cmocka_unit_test(test_reassign_again), cmocka_unit_test(test_reinstate_unsure), cmocka_unit_test(test_reinstate_connection),
		cmocka_unit_test(test_recovery_fails), cmocka_unit_test(test_session_anew), cmocka_unit_test(test_async_logout),
		cmocka_unit_test(test_async_others),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}

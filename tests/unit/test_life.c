/* SPDX-License-Identifier: BSD-3-Clause
 * When a connection is given up: login time, signs of life, stalls (RFC 7143 4.6.3.6, 11.19). Time is passed in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "duplex.h"
#include "iscsi/impl.h"

static struct duplex d;
static uint64_t t0;

static void open_session(void)
{
	duplex_open(&d);
	duplex_login(&d, "", 0);
	assert_true(d.ready);
	uint8_t bhs[48], tur[16] = { 0 };
	duplex_cmd(&d, bhs, FLAG_FINAL, 0, tur); /* takes the unit attention */
	duplex_send(&d, bhs, NULL, 0);
	while (duplex_next(&d, NULL, NULL))
		;
	t0 = loop_now_ns(d.loop);
	iscsi_tick(d.conn, t0, false);
	duplex_send(&d, bhs, NULL, 0); /* a duplicate: ignored, but heard at t0 */
}

static void tick(uint64_t seconds, bool stalled)
{
	iscsi_tick(d.conn, t0 + seconds * NS_PER_S, stalled);
	duplex_run(&d);
}

static bool pinged(uint32_t *ret_ttt)
{
	const uint8_t *h = duplex_next(&d, NULL, NULL);

	if (!h)
		return false;
	assert_int_equal(h[0], ISCSI_NOP_IN);
	assert_int_equal(be32(h + BHS_ITT), ISCSI_NO_TAG);
	assert_int_not_equal(be32(h + BHS_TTT), ISCSI_NO_TAG);
	*ret_ttt = be32(h + BHS_TTT);
	return true;
}

/* Proves that a silent peer is asked once, and given up when it does not answer (11.19). */
static void test_silent_peer(void **state)
{
	uint32_t ttt;

	open_session();
	tick(NOP_IDLE_S - 1, false);
	assert_false(pinged(&ttt));
	tick(NOP_IDLE_S, false);
	assert_true(pinged(&ttt));
	tick(NOP_IDLE_S + NOP_WAIT_S - 1, false);
	assert_false(pinged(&ttt));
	assert_false(d.closed);
	tick(NOP_IDLE_S + NOP_WAIT_S, false);
	assert_true(d.closed);
	duplex_close(&d);
}

/* Proves that an answered ping, and a stall of our own, start the wait anew. */
static void test_answer_and_stall(void **state)
{
	uint8_t bhs[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };
	uint32_t ttt = 0;

	open_session();
	tick(NOP_IDLE_S, false);
	assert_true(pinged(&ttt));
	put_be32(bhs + BHS_ITT, ISCSI_NO_TAG);
	put_be32(bhs + BHS_TTT, ttt);
	duplex_send(&d, bhs, NULL, 0);
	tick(NOP_IDLE_S + NOP_WAIT_S, false);
	assert_false(d.closed);
	assert_true(pinged(&ttt)); /* silent again since the answer */
	tick(1000, true);          /* the process slept: nothing that came meanwhile was read */
	assert_false(d.closed);
	tick(1000 + NOP_WAIT_S, false);
	assert_true(d.closed);
	duplex_close(&d);
}

/* Proves that a peer which takes bulk data slowly, and so cannot have seen our ping, is not given up. */
static void test_slow_taker(void **state)
{
	uint8_t bhs[48], pdu[64], cdb[16] = { 0x28, 0, 0, 0, 0, 0, 0, 0, 128, 0 };
	uint32_t ttt;

	open_session();
	duplex_cmd(&d, bhs, FLAG_FINAL | CMD_READ, 65536, cdb);
	size_t n = duplex_pdu(&d, pdu, bhs, NULL, 0);
	assert_int_equal(duplex_put(&d, pdu, n), n);
	iscsi_tick(d.conn, t0 + NOP_IDLE_S * NS_PER_S, false); /* the ping waits beside the data */
	duplex_run(&d);                                       /* 64 KiB are taken */
	tick(NOP_IDLE_S + NOP_WAIT_S + 1, false);
	assert_false(d.closed);
	while (duplex_next(&d, NULL, NULL))
		;
	assert_false(pinged(&ttt));
	tick(NOP_IDLE_S + 2 * NOP_WAIT_S + 1, false); /* nothing moved since */
	assert_true(d.closed);
	duplex_close(&d);
}

/* Proves that who does not log in within LOGIN_S is sent away. */
static void test_login_time(void **state)
{
	duplex_open(&d);
	t0 = loop_now_ns(d.loop);
	iscsi_tick(d.conn, t0 + (LOGIN_S - 1) * NS_PER_S, false);
	duplex_run(&d);
	assert_false(d.closed);
	iscsi_tick(d.conn, t0 + (LOGIN_S + 1) * NS_PER_S, false);
	duplex_run(&d);
	assert_true(d.closed);
	duplex_close(&d);
}

static int setup(void **state)
{
	duplex_init(&d);
	return 0;
}

static int teardown(void **state)
{
	duplex_fini(&d);
	return 0;
}

/* Proves that a peer which answers pings but sends no data for an R2T is given up, and one that sends some is not. */
static void test_owed_data(void **state)
{
	uint8_t cmd[48], out[48] = { ISCSI_DATA_OUT }, nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };
	uint8_t write[16] = { 0x2a, [8] = 2 };
	static uint8_t data[512];
	const uint8_t *h;

	open_session();
	duplex_cmd(&d, cmd, FLAG_FINAL | CMD_WRITE, 1024, write);
	duplex_send(&d, cmd, NULL, 0);
	h = duplex_next(&d, NULL, NULL);
	assert_non_null(h);
	assert_int_equal(h[0], ISCSI_R2T);
	memcpy(out + BHS_ITT, h + BHS_ITT, 4);
	memcpy(out + BHS_TTT, h + BHS_TTT, 4);
	put_be32(nop + BHS_ITT, ISCSI_NO_TAG);
	tick(DATA_WAIT_S - 1, false);
	duplex_send(&d, out, data, 512); /* half of it */
	for (unsigned s = 0; s < DATA_WAIT_S; s += 10) {
		duplex_send(&d, nop, NULL, 0);
		tick(DATA_WAIT_S - 1 + s, false);
		assert_false(d.closed);
	}
	duplex_send(&d, nop, NULL, 0);
	tick(2 * DATA_WAIT_S, false);
	assert_true(d.closed);
	duplex_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_owed_data), cmocka_unit_test(test_silent_peer),
		cmocka_unit_test(test_answer_and_stall),
		cmocka_unit_test(test_slow_taker),
		cmocka_unit_test(test_login_time),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

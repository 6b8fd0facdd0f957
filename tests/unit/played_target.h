/* SPDX-License-Identifier: BSD-3-Clause
 * A target that is played by hand, PDU by PDU, against the initiator's engine: what test_initiator_recovery.c plays. */
#ifndef LUNETTE_TESTS_UNIT_PLAYED_TARGET_H
#define LUNETTE_TESTS_UNIT_PLAYED_TARGET_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/crc32c.h"
#include "iscsi/initiator.h"

#define S 1000000000ull
enum { OUT_MAX = 1 << 18, CONNS = 4, SEGMENT = 8192, UNIT = 512 };

/* The initiator under test and, per connection, what it sent and the numbers of the target that we play. */
static struct {
	struct iscsi_ini *i;
	struct wire {
		uint8_t  out[OUT_MAX];
		size_t   len, at;
		uint32_t stat_sn;
		bool     asked, hung_up, up, digests;
	} w[CONNS];
	uint32_t exp_cmd_sn, max_cmd_sn;
	uint64_t now;
	struct iscsi_ini_event ev[64];
	unsigned head, n;
} p;

/* --- playing --- */

static void events(void)
{
	struct iscsi_ini_event ev;

	while (iscsi_ini_next(p.i, &ev)) {
		if (ev.kind == INI_EV_CONNECT) {
			p.w[ev.conn].asked = true;
		} else if (ev.kind == INI_EV_HANGUP) {
			p.w[ev.conn].hung_up = true;
			p.w[ev.conn].up = false;
			iscsi_ini_lost(p.i, ev.conn, "closed");
		} else {
			ev.text = NULL;
			p.ev[p.n++ % 64] = ev;
		}
	}
}

static void pass(uint64_t ns)
{
	p.now += ns;
	iscsi_ini_tick(p.i, p.now);
	events();
	iscsi_ini_tick(p.i, p.now);
	events();
}

static bool told(enum iscsi_ini_event_kind kind, struct iscsi_ini_event *ret)
{
	events();
	if (p.head == p.n)
		return false;
	*ret = p.ev[p.head++ % 64];
	assert_int_equal(ret->kind, kind);
	return true;
}

static struct iscsi_ini_event must_tell(enum iscsi_ini_event_kind kind)
{
	struct iscsi_ini_event ev;

	assert_true(told(kind, &ev));
	return ev;
}

static void must_tell_nothing(void)
{
	events();
	assert_int_equal(p.head, p.n);
}

static void drain(unsigned k)
{
	struct wire *w = &p.w[k];
	struct iovec *iov;
	int n;

	while (w->up && (n = iscsi_ini_tx(p.i, k, &iov)) > 0) {
		assert_true(w->len + iov[0].iov_len <= OUT_MAX);
		memcpy(w->out + w->len, iov[0].iov_base, iov[0].iov_len);
		w->len += iov[0].iov_len;
		iscsi_ini_tx_done(p.i, k, iov[0].iov_len);
	}
}

/* The next PDU on connection k; NULL: none. */
static const uint8_t *sent(unsigned k, const uint8_t **data)
{
	struct wire *w = &p.w[k];
	const uint8_t *h = w->out + w->at;
	size_t n = 48, d = w->digests ? 4 : 0;

	drain(k);
	if (w->at == w->len)
		return NULL;
	n += d;
	if (data)
		*data = h + n;
	if (bhs_data_len(h))
		n += pad4(bhs_data_len(h)) + d;
	w->at += n;
	assert_true(w->at <= w->len);
	return h;
}

/* Pings that look after commands may come at any time. */
static const uint8_t *must_send(unsigned k, uint8_t opcode)
{
	const uint8_t *h = sent(k, NULL);

	while (h && opcode && (h[0] & 0x3f) == ISCSI_NOP_OUT)
		h = sent(k, NULL);
	assert_non_null(h);
	assert_int_equal(h[0] & 0x3f, opcode);
	return h;
}

static void must_send_nothing(unsigned k)
{
	assert_null(sent(k, NULL));
}

/* Nothing but such pings. */
static void must_send_pings(unsigned k)
{
	const uint8_t *h;

	while ((h = sent(k, NULL)))
		assert_int_equal(h[0] & 0x3f, ISCSI_NOP_OUT);
}

static void answer(unsigned k, uint8_t h[48], const void *data, uint32_t len, bool spoil)
{
	static uint8_t b[SEGMENT + 64];
	struct wire *w = &p.w[k];
	size_t n = 48;

	put_be24(h + 5, len);
	put_be32(h + 24, w->stat_sn);
	put_be32(h + 28, p.exp_cmd_sn);
	put_be32(h + 32, p.max_cmd_sn);
	memcpy(b, h, 48);
	if (w->digests) {
		put_le32(b + n, crc32c(0, b, 48));
		n += 4;
	}
	if (len) {
		memset(b + n, 0, pad4(len));
		memcpy(b + n, data, len);
		if (w->digests)
			put_le32(b + n + pad4(len), crc32c(0, b + n, pad4(len)) ^ spoil);
		n += pad4(len) + (w->digests ? 4 : 0);
	}
	iscsi_ini_rx(p.i, k, b, n);
}

static void dial(unsigned k)
{
	pass(0);
	assert_true(p.w[k].asked);
	p.w[k].asked = p.w[k].hung_up = false;
	p.w[k].up = true;
	p.w[k].len = p.w[k].at = 0;
	p.w[k].digests = false;
	p.w[k].stat_sn = 1000 * (k + 1);
	iscsi_ini_up(p.i, k);
}

/* Takes the login of connection k; keys: what is answered. */
static void let_in(unsigned k, bool digests, const char *keys, uint32_t len)
{
	const uint8_t *req;
	uint8_t h[48] = { 0x23, 0x87 };

	dial(k);
	req = must_send(k, 0x03);
	memcpy(h + 8, req + 8, 8);
	put_be16(h + 14, 5);
	memcpy(h + 16, req + 16, 4);
	answer(k, h, keys, len, false);
	p.w[k].stat_sn++;
	p.w[k].digests = digests;
}

#define KEYS(s) s, sizeof(s)
#define FURTHER "MaxRecvDataSegmentLength=1024\0HeaderDigest=CRC32C\0DataDigest=CRC32C"

/* The leading login of a session. */
static void let_first_in(unsigned level, unsigned conns)
{
	static const char rest[] = "InitialR2T=Yes\0ImmediateData=Yes\0MaxOutstandingR2T=1\0MaxRecvDataSegmentLength=1024\0"
		"FirstBurstLength=1024\0DefaultTime2Wait=2\0DefaultTime2Retain=10\0HeaderDigest=CRC32C\0DataDigest=CRC32C";
	char keys[400];
	size_t n = (size_t)snprintf(keys, sizeof(keys), "ErrorRecoveryLevel=%u", level) + 1;

	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "MaxConnections=%u", conns) + 1;
	memcpy(keys + n, rest, sizeof(rest));
	let_in(0, true, keys, (uint32_t)(n + sizeof(rest)));
}

static void begin(unsigned level, unsigned conns, uint64_t retry_ns)
{
	struct iscsi_ini_conf c;

	iscsi_ini_free(p.i);
	memset(&p, 0, sizeof(p));
	iscsi_ini_conf_defaults(&c);
	iscsi_ini_conf_level(&c, level);
	c.initiator = "iqn.2020-01.test:i";
	c.target = "iqn.2020-01.test:t";
	c.first_cmd_sn = p.exp_cmd_sn = 7;
	c.connections = conns;
	c.retry_ns = retry_ns;
	c.cid = 20;
	c.nop_ns = 100 * S;
	c.offer.time2retain = 20;
	c.offer.header_digest = c.offer.data_digest = true;
	p.max_cmd_sn = 100;
	p.now = S;
	p.i = iscsi_ini_new(&c);
	assert_non_null(p.i);
	let_first_in(level, conns);
	must_tell(INI_EV_LOGGED_IN);
	for (unsigned k = 1; k < conns; k++) {
		let_in(k, true, KEYS(FURTHER));
		assert_int_equal(must_tell(INI_EV_JOINED).conn, k);
	}
}

static struct iscsi_ini_cmd *submit(struct iscsi_ini_cmd *c)
{
	assert_int_equal(iscsi_ini_cmd(p.i, c), 0);
	return c;
}

static uint8_t from[8 * UNIT], in[8 * UNIT];

static void fill_from(void)
{
	for (unsigned k = 0; k < sizeof(from); k++)
		from[k] = (uint8_t)(k * 7 + k / 251);
	memset(in, 0, sizeof(in));
}

static struct iscsi_ini_cmd read_units(unsigned n)
{
	return (struct iscsi_ini_cmd){ .cdb = { 0x28 }, .attr = 1, .in = in, .in_len = n * UNIT };
}

/* --- answers of the target --- */

static void data_in(unsigned k, const uint8_t *cmd, uint32_t sn, uint8_t flags, bool spoil)
{
	uint8_t h[48] = { 0x25, flags };

	memcpy(h + 16, cmd + 16, 4);
	put_be32(h + 20, flags & DATA_ACK ? 0xabcd : ISCSI_NO_TAG);
	put_be32(h + 36, sn);
	put_be32(h + 40, sn * UNIT);
	answer(k, h, from + sn * UNIT, UNIT, spoil);
	p.w[k].stat_sn += flags & DATA_STATUS_VALID;
}

static void respond_at(unsigned k, uint32_t stat_sn, const uint8_t *cmd, uint32_t exp_data_sn)
{
	uint32_t now = p.w[k].stat_sn;
	uint8_t h[48] = { 0x21, 0x80 };

	memcpy(h + 16, cmd + 16, 4);
	put_be32(h + 36, exp_data_sn);
	p.w[k].stat_sn = stat_sn;
	answer(k, h, NULL, 0, false);
	p.w[k].stat_sn = now;
}

static void respond(unsigned k, const uint8_t *cmd, uint32_t exp_data_sn)
{
	respond_at(k, p.w[k].stat_sn, cmd, exp_data_sn);
	p.w[k].stat_sn++;
}

static void r2t(unsigned k, const uint8_t *cmd, uint32_t sn, uint32_t off, uint32_t len)
{
	uint8_t h[48] = { 0x31, 0x80 };

	memcpy(h + 16, cmd + 16, 4);
	put_be32(h + 20, 0x77 + sn);
	put_be32(h + 36, sn);
	put_be32(h + 40, off);
	put_be32(h + 44, len);
	answer(k, h, NULL, 0, false);
}

static void tmf_rsp(unsigned k, const uint8_t *req, uint8_t response)
{
	uint8_t h[48] = { 0x22, 0x80, response };

	memcpy(h + 16, req + 16, 4);
	answer(k, h, NULL, 0, false);
	p.w[k].stat_sn++;
}

static void logout_rsp(unsigned k, const uint8_t *req, uint8_t response)
{
	uint8_t h[48] = { 0x26, 0x80, response };

	memcpy(h + 16, req + 16, 4);
	answer(k, h, NULL, 0, false);
	p.w[k].stat_sn++;
}

static void nop_in(unsigned k, const uint8_t *ping)
{
	uint8_t h[48] = { 0x20, 0x80 };

	memcpy(h + 16, ping + 16, 4);
	put_be32(h + 20, ISCSI_NO_TAG);
	answer(k, h, NULL, 0, false);
	p.w[k].stat_sn++;
}

static void check_snack(unsigned k, uint8_t type, uint32_t itt, uint32_t begin_run, uint32_t run)
{
	const uint8_t *h = must_send(k, 0x10);

	assert_int_equal(h[1], 0x80 | type);
	assert_int_equal(be32(h + 16), itt);
	assert_int_equal(be32(h + 40), begin_run);
	assert_int_equal(be32(h + 44), run);
}

#endif

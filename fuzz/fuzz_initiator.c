/* SPDX-License-Identifier: BSD-3-Clause
 * What a hostile target may send to our initiator. Byte 0: recovery level, digests, how many connections; byte 1: how the stream
 * is cut; then steps: a PDU of the target (with tags, numbers, lengths and digests put right for a good part, so that handlers
 * are reached), time that passes, or a connection that is lost. Properties: no crash, no memory beyond its bounds; every
 * command that was taken ends exactly once by the time the session is closed, and what is read stays inside its room. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "fuzz.h"
#include "iscsi/initiator.h"

enum { CMDS = 12, ROOM = 4096, GUARD = 64 };

static struct {
	struct iscsi_ini *i;
	struct iscsi_ini_cmd cmd[CMDS];
	uint8_t  buf[CMDS][ROOM + GUARD];
	bool     busy[CMDS], up[INI_CONNS_MAX], digests, closed;
	uint32_t itt[INI_CONNS_MAX], stat_sn[INI_CONNS_MAX]; /* of what was sent last; next */
	uint64_t now;
} f;

static void zeros(void *p, size_t n)
{
	memset(p, 0, n);
}

static void submit(void)
{
	for (unsigned k = 0; k < CMDS; k++) {
		struct iscsi_ini_cmd *c = &f.cmd[k];

		if (f.busy[k])
			continue;
		memset(c, 0, sizeof(*c));
		memset(f.buf[k] + ROOM, 0xa5, GUARD);
		c->retry = k & 1;
		c->immediate = k % 5 == 4;
		if (k & 2) {
			c->out = f.buf[k];
			c->out_len = ROOM;
		} else {
			c->in = f.buf[k];
			c->in_len = ROOM;
		}
		f.busy[k] = iscsi_ini_cmd(f.i, c) == 0;
	}
}

static void ended(struct iscsi_ini_cmd *c)
{
	size_t k = (size_t)(c - f.cmd);

	CHECK(k < CMDS && f.busy[k]);
	f.busy[k] = false;
	for (unsigned n = 0; n < GUARD; n++)
		CHECK(f.buf[k][ROOM + n] == 0xa5);
	CHECK(c->sense_len <= sizeof(c->sense));
}

static void events(void)
{
	struct iscsi_ini_event ev;

	while (iscsi_ini_next(f.i, &ev)) {
		CHECK(!f.closed);
		if (ev.kind == INI_EV_CONNECT) {
			f.up[ev.conn] = true;
			f.stat_sn[ev.conn] = 1;
			iscsi_ini_up(f.i, ev.conn);
		} else if (ev.kind == INI_EV_HANGUP) {
			f.up[ev.conn] = false;
			iscsi_ini_lost(f.i, ev.conn, "closed");
		} else if (ev.kind == INI_EV_CMD) {
			ended(ev.cmd);
		} else if (ev.kind == INI_EV_CLOSED) {
			f.closed = true;
		}
	}
}

/* Takes what it sends and keeps the last tag, so that answers fit. */
static void take_sent(unsigned k)
{
	struct iovec *iov;
	bool first = true;

	for (; f.up[k] && iscsi_ini_tx(f.i, k, &iov) > 0; first = false) {
		if (first)
			f.itt[k] = be32((uint8_t *)iov[0].iov_base + BHS_ITT);
		iscsi_ini_tx_done(f.i, k, iov[0].iov_len);
	}
}

static void feed(unsigned k, const uint8_t *p, size_t n, size_t piece)
{
	for (size_t at = 0; at < n && f.up[k]; at += piece ? piece : n)
		iscsi_ini_rx(f.i, k, p + at, piece ? MIN(piece, n - at) : n);
}

static void let_in(unsigned k, unsigned level, unsigned conns, size_t piece)
{
	char keys[300];
	uint8_t pdu[400] = { ISCSI_LOGIN_RSP, 0x87 };
	size_t n = 0;

	take_sent(k);
#define KEY(...) n += (size_t)snprintf(keys + n, sizeof(keys) - n, __VA_ARGS__) + 1
	KEY("HeaderDigest=%s", f.digests ? "CRC32C" : "None");
	KEY("DataDigest=%s", f.digests ? "CRC32C" : "None");
	if (!iscsi_ini_tsih(f.i)) {
		KEY("ErrorRecoveryLevel=%u", level);
		KEY("MaxConnections=%u", conns);
		KEY("InitialR2T=No");
		KEY("MaxOutstandingR2T=1");
	}
#undef KEY
	pdu[LOGIN_ISID] = 0x80;
	pdu[LOGIN_ISID + 5] = 1;
	put_be16(pdu + LOGIN_TSIH, 9);
	put_be32(pdu + BHS_ITT, f.itt[k]);
	put_be24(pdu + BHS_DATA_LEN, (uint32_t)n);
	put_be32(pdu + BHS_STAT_SN, f.stat_sn[k]++);
	put_be32(pdu + BHS_EXP_CMD_SN, 1);
	put_be32(pdu + BHS_MAX_CMD_SN, 40);
	memcpy(pdu + ISCSI_BHS, keys, n);
	feed(k, pdu, ISCSI_BHS + pad4((uint32_t)n), piece);
}

/* One PDU as the input says, made to fit where its mode says so. */
static void play_pdu(unsigned k, const uint8_t *h, uint8_t mode, const uint8_t *data, uint32_t len, size_t piece)
{
	static uint8_t pdu[9000];
	size_t n = ISCSI_BHS;

	memcpy(pdu, h, ISCSI_BHS);
	put_be24(pdu + BHS_DATA_LEN, len);
	if (mode & 1)
		put_be32(pdu + BHS_STAT_SN, f.stat_sn[k]++);
	if (mode & 2)
		pdu[BHS_AHS_LEN] = 0;
	if (mode & 4)
		put_be32(pdu + BHS_ITT, mode & 8 ? f.itt[k] : f.cmd[h[BHS_ITT] % CMDS].itt);
	if (mode & 16) {
		put_be32(pdu + BHS_EXP_CMD_SN, 1 + h[BHS_EXP_CMD_SN] % 16);
		put_be32(pdu + BHS_MAX_CMD_SN, 40);
	}
	if (mode & 32)
		memset(pdu + 36, 0, 8);
	if (f.digests && !pdu[BHS_AHS_LEN]) {
		put_le32(pdu + n, crc32c(0, pdu, ISCSI_BHS));
		n += 4;
	}
	memcpy(pdu + n, data, len);
	memset(pdu + n + len, 0, pad4(len) - len);
	if (f.digests && len) {
		put_le32(pdu + n + pad4(len), crc32c(0, pdu + n, pad4(len)) ^ (mode >> 7));
		n += 4;
	}
	feed(k, pdu, n + pad4(len), piece);
}

static void play(const uint8_t *in, size_t size, unsigned conns, size_t piece)
{
	for (size_t at = 0; size - at >= 52 && !f.closed; at += 52) {
		unsigned k = in[at] % conns, what = in[at] >> 4;
		uint32_t len = MIN(be16(in + at + 2) & 0x0fffu, (uint32_t)(size - at - 52));

		submit();
		take_sent(k);
		if (what == 15 && f.up[k]) {
			f.up[k] = false;
			iscsi_ini_lost(f.i, k, "cable");
		} else if (what >= 13) {
			f.now += (uint64_t)in[at + 1] << 26;
			iscsi_ini_tick(f.i, f.now);
		} else if (f.up[k] && !iscsi_ini_joined(f.i, k) && what < 10) {
			let_in(k, iscsi_ini_params(f.i)->erl, conns, piece);
		} else if (f.up[k]) {
			play_pdu(k, in + at + 4, in[at + 1], in + at + 52, len, piece);
			at += len;
		}
		events();
		f.now += 1000000;
		iscsi_ini_tick(f.i, f.now);
		events();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct iscsi_ini_conf c;
	unsigned conns, level;

	if (size < 2)
		return 0;
	memset(&f, 0, sizeof(f));
	conns = 1 + (data[0] >> 6);
	level = (data[0] & 3) % 3;
	f.digests = data[0] & 4;
	f.now = 1000000000;
	iscsi_ini_conf_defaults(&c);
	iscsi_ini_conf_level(&c, level);
	c.initiator = "iqn.2020-01.test:i";
	c.target = "iqn.2020-01.test:t";
	c.connections = conns;
	c.offer.header_digest = c.offer.data_digest = f.digests;
	c.offer.max_recv_segment = 8192;
	c.retry_ns = data[0] & 8 ? 1000000000 : 0;
	c.recover_by_login = data[0] & 16;
	c.random = zeros;
	f.i = iscsi_ini_new(&c);
	CHECK(f.i);
	events();
	iscsi_ini_tick(f.i, f.now);
	if (data[0] & 32) /* else the login itself is the input's */
		let_in(0, level, conns, 0);
	events();
	play(data + 2, size - 2, conns, data[1] & 0x7f);
	iscsi_ini_close(f.i, "the end");
	events();
	CHECK(f.closed);
	for (unsigned k = 0; k < CMDS; k++)
		CHECK(!f.busy[k]);
	iscsi_ini_free(f.i);
	return 0;
}

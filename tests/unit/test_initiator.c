/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine, byte by byte, against a target that this test plays by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/crc32c.h"
#include "iscsi/chap.h"
#include "iscsi/initiator.h"

enum { OUT_MAX = 1 << 20, SEGMENT = 8192 };

/* The initiator under test, what it sent that is not looked at yet, and the numbers of the target that we play. */
static struct {
	struct iscsi_ini *i;
	uint8_t out[OUT_MAX];
	size_t len, at;
	size_t piece;                   /* bytes fed at a time, 0 = all */
	bool header_digest, data_digest;
	uint32_t stat_sn, exp_cmd_sn, max_cmd_sn, login_itt;
} p;
static uint8_t random_next;

static void not_random(void *to, size_t n)
{
	for (size_t k = 0; k < n; k++)
		((uint8_t *)to)[k] = random_next++;
}

/* Takes what the engine wants to send, in sends of at most 1000 bytes. */
static void drain(void)
{
	struct iovec *iov;

	while (iscsi_ini_tx(p.i, 0, &iov) > 0) {
		size_t n = iov[0].iov_len < 1000 ? iov[0].iov_len : 1000;
		assert_true(p.len + n <= OUT_MAX);
		memcpy(p.out + p.len, iov[0].iov_base, n);
		p.len += n;
		iscsi_ini_tx_done(p.i, 0, n);
	}
}

/* The next PDU of the initiator, NULL: none. */
static const uint8_t *sent(const uint8_t **data)
{
	const uint8_t *h;
	size_t at;

	drain();
	if (p.at == p.len)
		return NULL;
	h = p.out + p.at;
	at = p.at + 48;
	if (p.header_digest) {
		assert_int_equal(le32(p.out + at), crc32c(0, h, 48));
		at += 4;
	}
	*data = p.out + at;
	if (bhs_data_len(h)) {
		size_t n = pad4(bhs_data_len(h));
		at += n;
		if (p.data_digest) {
			assert_int_equal(le32(p.out + at), crc32c(0, *data, n));
			at += 4;
		}
	}
	assert_true(at <= p.len);
	p.at = at;
	return h;
}

static const uint8_t *must_send(uint8_t opcode, const uint8_t **data)
{
	const uint8_t *h = sent(data);

	assert_non_null(h);
	assert_int_equal(h[0] & 0x3f, opcode);
	if (opcode == ISCSI_LOGIN_REQ)
		p.login_itt = be32(h + 16);
	return h;
}

static void must_send_nothing(void)
{
	const uint8_t *data;

	assert_null(sent(&data));
}

static void feed(const uint8_t *b, size_t n)
{
	size_t step = p.piece ? p.piece : n;

	for (size_t at = 0; at < n; at += step)
		iscsi_ini_rx(p.i, 0, b + at, n - at < step ? n - at : step);
}

/* Sends a PDU of the target; the header's numbers are put in. spoil: 1 breaks the header digest, 2 that of the data. */
static void answer_spoilt(uint8_t h[48], const void *data, uint32_t len, int spoil)
{
	static uint8_t b[SEGMENT + 64];
	size_t n = 48;

	put_be24(h + 5, len);
	put_be32(h + 24, p.stat_sn);
	put_be32(h + 28, p.exp_cmd_sn);
	put_be32(h + 32, p.max_cmd_sn);
	memcpy(b, h, 48);
	if (p.header_digest) {
		put_le32(b + n, crc32c(0, b, 48) ^ (spoil == 1));
		n += 4;
	}
	if (len) {
		uint32_t all = pad4(len);
		memset(b + n, 0, all);
		memcpy(b + n, data, len);
		if (p.data_digest)
			put_le32(b + n + all, crc32c(0, b + n, all) ^ (spoil == 2));
		n += all + (p.data_digest ? 4 : 0);
	}
	feed(b, n);
}

static void answer(uint8_t h[48], const void *data, uint32_t len)
{
	answer_spoilt(h, data, len, 0);
}

/* Plays the host: what shall be hung up is, at once. */
static bool event(struct iscsi_ini_event *ev)
{
	while (iscsi_ini_next(p.i, ev)) {
		if (ev->kind != INI_EV_HANGUP)
			return true;
		iscsi_ini_lost(p.i, ev->conn, "closed");
	}
	return false;
}

static struct iscsi_ini_event must_tell(enum iscsi_ini_event_kind kind)
{
	struct iscsi_ini_event ev = { 0 };

	assert_true(event(&ev));
	assert_int_equal(ev.kind, kind);
	return ev;
}

static void must_close(const char *why)
{
	struct iscsi_ini_event ev = must_tell(INI_EV_CLOSED);

	assert_non_null(strstr(ev.text, why));
	assert_false(event(&ev));
	must_send_nothing();
}

static void begin(const struct iscsi_ini_conf *c)
{
	struct iscsi_ini_event ev;

	iscsi_ini_free(p.i);
	memset(&p, 0, sizeof(p));
	p.i = iscsi_ini_new(c);
	p.stat_sn = 100;
	p.exp_cmd_sn = c->first_cmd_sn;
	p.max_cmd_sn = c->first_cmd_sn + 31;
	assert_non_null(p.i);
	assert_true(iscsi_ini_next(p.i, &ev));
	assert_int_equal(ev.kind, INI_EV_CONNECT);
	iscsi_ini_up(p.i, 0);
}

static struct iscsi_ini_conf conf(void)
{
	struct iscsi_ini_conf c;

	iscsi_ini_conf_defaults(&c);
	c.initiator = "iqn.2020-01.test:i";
	c.target = "iqn.2020-01.test:t";
	c.first_cmd_sn = 7;
	c.offer.max_recv_segment = SEGMENT;
	c.random = not_random;
	random_next = 1;
	return c;
}

/* Answers a login request. flags: T, C, CSG, NSG. */
static void answer_login(uint8_t flags, const char *keys, uint32_t len)
{
	uint8_t h[48] = { 0x23, flags };

	memcpy(h + 8, "\x80\0\0\0\0\x01", 6);
	put_be16(h + 14, flags & 0x80 && (flags & 3) == 3 ? 5 : 0);
	put_be32(h + 16, p.login_itt);
	answer(h, keys, len);
	p.stat_sn++;
}
#define KEYS(s) s, sizeof(s)

static bool has_key(const uint8_t *data, uint32_t len, const char *pair)
{
	for (uint32_t at = 0; at < len; at += (uint32_t)strlen((const char *)data + at) + 1)
		if (!strcmp((const char *)data + at, pair))
			return true;
	return false;
}

static void log_in(const struct iscsi_ini_conf *c)
{
	static const char plain[] = "TargetPortalGroupTag=1\0MaxRecvDataSegmentLength=1024\0InitialR2T=No\0ImmediateData=Yes\0"
		"FirstBurstLength=3072\0MaxBurstLength=4096\0MaxOutstandingR2T=2\0HeaderDigest=None\0DataDigest=None";
	static const char crc[] = "TargetPortalGroupTag=1\0MaxRecvDataSegmentLength=1024\0InitialR2T=No\0ImmediateData=Yes\0"
		"FirstBurstLength=3072\0MaxBurstLength=4096\0MaxOutstandingR2T=2\0HeaderDigest=CRC32C\0DataDigest=CRC32C";
	const uint8_t *data;

	begin(c);
	must_send(0x03, &data);
	if (c->offer.data_digest)
		answer_login(0x87, crc, sizeof(crc));
	else
		answer_login(0x87, plain, sizeof(plain));
	must_tell(INI_EV_LOGGED_IN);
	p.header_digest = p.data_digest = c->offer.data_digest;
}

/* --- responses of the target --- */

static void respond(const uint8_t *cmd, uint8_t status, uint32_t exp_data_sn, const void *data, uint32_t len)
{
	uint8_t h[48] = { 0x21, 0x80, 0, status };

	memcpy(h + 16, cmd + 16, 4);
	put_be32(h + 36, exp_data_sn);
	answer(h, data, len);
	p.stat_sn++;
}

static void data_in(const uint8_t *cmd, uint32_t sn, uint32_t off, const void *data, uint32_t len, bool last)
{
	uint8_t h[48] = { 0x25, last ? 0x81 : 0 };

	memcpy(h + 16, cmd + 16, 4);
	put_be32(h + 20, ISCSI_NO_TAG);
	put_be32(h + 36, sn);
	put_be32(h + 40, off);
	answer(h, data, len);
	p.stat_sn += last;
}

static void r2t(const uint8_t *cmd, uint32_t ttt, uint32_t sn, uint32_t off, uint32_t len)
{
	uint8_t h[48] = { 0x31, 0x80 };

	memcpy(h + 16, cmd + 16, 4);
	put_be32(h + 20, ttt);
	put_be32(h + 36, sn);
	put_be32(h + 40, off);
	put_be32(h + 44, len);
	answer(h, NULL, 0);
}

static struct iscsi_ini_cmd *read_cmd(void *in, uint32_t len)
{
	static struct iscsi_ini_cmd c;

	c = (struct iscsi_ini_cmd){ .lun = 1ull << 48, .cdb = { 0x28, [8] = 8 }, .attr = 1, .in = in, .in_len = len };
	assert_int_equal(iscsi_ini_cmd(p.i, &c), 0);
	return &c;
}

/* Proves that a login without authentication is one request that says who we are, what we want, all keys and the
 * numbers of 11.12, and that the answer's values are in force. */
static void test_login(void **state)
{
	struct iscsi_ini_conf c = conf();
	const uint8_t *data, *h;

	begin(&c);
	h = must_send(0x03, &data);
	uint32_t len = bhs_data_len(h);
	assert_int_equal(h[0], 0x43);                 /* immediate */
	assert_int_equal(h[1], 0x87);                 /* T, CSG 1, NSG 3 */
	assert_memory_equal(h + 8, "\x80\0\0\0\0\x01\0\0", 8);
	assert_int_equal(be32(h + 24), 7);            /* CmdSN */
	assert_true(has_key(data, len, "InitiatorName=iqn.2020-01.test:i"));
	assert_true(has_key(data, len, "TargetName=iqn.2020-01.test:t"));
	assert_true(has_key(data, len, "SessionType=Normal"));
	assert_true(has_key(data, len, "MaxRecvDataSegmentLength=8192"));
	assert_true(has_key(data, len, "InitialR2T=No"));
	assert_true(has_key(data, len, "HeaderDigest=None"));
	assert_false(iscsi_ini_ready(p.i));
	answer_login(0x87, KEYS("MaxRecvDataSegmentLength=65536\0InitialR2T=Yes\0MaxBurstLength=16384"));
	must_tell(INI_EV_LOGGED_IN);
	assert_int_equal(iscsi_ini_tsih(p.i), 5);
	assert_int_equal(iscsi_ini_params(p.i)->max_xmit_segment, 65536);
	assert_int_equal(iscsi_ini_params(p.i)->max_burst, 16384);
	assert_true(iscsi_ini_params(p.i)->initial_r2t);
	must_send_nothing();
}

/* Proves that an answer in several PDUs (C bit, 6.2) is put together, and asked for with empty requests. */
static void test_login_parts(void **state)
{
	struct iscsi_ini_conf c = conf();
	const uint8_t *data, *h;

	begin(&c);
	must_send(0x03, &data);
	p.piece = 1;
	answer_login(0x44, "MaxBurstLe", 10);
	h = must_send(0x03, &data);
	assert_int_equal(bhs_data_len(h), 0);
	assert_int_equal(h[1] & 0xc0, 0);
	assert_int_equal(be32(h + 28), p.stat_sn);    /* ExpStatSN */
	answer_login(0x87, KEYS("ngth=32768\0InitialR2T=No"));
	must_tell(INI_EV_LOGGED_IN);
	assert_int_equal(iscsi_ini_params(p.i)->max_burst, 32768);
}

/* Proves that a refusal (11.13.5), an answer of another stage, and a lost connection end the login with the reason. */
static void test_login_refused(void **state)
{
	struct iscsi_ini_conf c = conf();
	uint8_t h[48] = { 0x23 };
	const uint8_t *data;

	begin(&c);
	must_send(0x03, &data);
	put_be32(h + 16, 1);
	h[36] = 2;
	h[37] = 3;
	answer(h, NULL, 0);
	assert_int_equal(must_tell(INI_EV_CLOSED).code, LOGIN_NOT_FOUND);
	begin(&c);
	must_send(0x03, &data);
	answer_login(0x81, "", 0);
	must_close("another stage");
	begin(&c);
	iscsi_ini_lost(p.i, 0, "cable");
	must_close("cable");
	begin(&c);
	iscsi_ini_tick(p.i, 1);
	assert_int_equal(iscsi_ini_tick(p.i, 15000000001ull), UINT64_MAX);
	must_close("timed out");
}

static void chap_until_response(struct iscsi_ini_conf *c, const uint8_t **data, uint32_t *len)
{
	const uint8_t *h;

	begin(c);
	h = must_send(0x03, data);
	assert_int_equal(h[1], 0);                    /* CSG 0, no transit */
	assert_true(has_key(*data, bhs_data_len(h), "AuthMethod=CHAP"));
	answer_login(0x00, KEYS("AuthMethod=CHAP"));
	h = must_send(0x03, data);
	assert_true(has_key(*data, bhs_data_len(h), "CHAP_A=8,7,6,5"));
	answer_login(0x00, KEYS("CHAP_A=7\0CHAP_I=9\0CHAP_C=0x000102030405060708090a0b0c0d0e0f"));
	h = must_send(0x03, data);
	assert_int_equal(h[1], 0x81);                 /* T, CSG 0, NSG 1 */
	*len = bhs_data_len(h);
}

static void chap_pair(char *pair, int alg, uint8_t id, const char *secret, const uint8_t *challenge, size_t n)
{
	uint8_t digest[CHAP_DIGEST_MAX];

	assert_int_equal(chap_response(alg, id, secret, challenge, n, digest), 0);
	strcpy(pair, "CHAP_R=");
	chap_encode_hex(digest, chap_digest_len(alg), pair + 7);
}

/* Proves CHAP both ways (12.1.3): our response is right, our challenge is fresh, the target's proof is checked, and
 * without a right one the login ends. */
static void test_chap(void **state)
{
	struct iscsi_chap_user me = { .name = "me", .secret = "my secret 1234" }, it = { .name = "target", .secret = "its secret 123" };
	struct iscsi_ini_conf c = conf();
	uint8_t challenge[16], ours[16];
	char pair[128], keys[256];
	const uint8_t *data;
	uint32_t len;

	for (int k = 0; k < 16; k++) {
		challenge[k] = (uint8_t)k;
		ours[k] = (uint8_t)(k + 1);           /* not_random() */
	}
	c.chap = &me;
	c.mutual = &it;
	for (int good = 1; good >= 0; good--) {
		random_next = 1;
		chap_until_response(&c, &data, &len);
		chap_pair(pair, 7, 9, me.secret, challenge, 16);
		assert_true(has_key(data, len, "CHAP_N=me"));
		assert_true(has_key(data, len, pair));
		assert_true(has_key(data, len, "CHAP_I=17"));
		assert_true(has_key(data, len, "CHAP_C=0x0102030405060708090a0b0c0d0e0f10"));
		chap_pair(pair, 7, 17, good ? it.secret : me.secret, ours, 16);
		memcpy(keys, "CHAP_N=target", 14);
		strcpy(keys + 14, pair);
		answer_login(0x81, keys, 14 + (uint32_t)strlen(pair) + 1);
		if (!good) {
			must_close("response is wrong");
			break;
		}
		assert_int_equal(must_send(0x03, &data)[1], 0x87);
		answer_login(0x87, KEYS("MaxBurstLength=32768"));
		must_tell(INI_EV_LOGGED_IN);
	}
	random_next = 1;
	chap_until_response(&c, &data, &len);
	answer_login(0x81, "", 0);
	must_close("did not prove itself");
}

/* Proves that a read lands in its room whatever pieces its bytes come in, with digests and without, and that its
 * header says what 11.3 wants. */
static void test_read(void **state)
{
	uint8_t from[4096], in[4096];
	struct iscsi_ini_conf c = conf();
	const uint8_t *h, *data;

	for (unsigned k = 0; k < sizeof(from); k++)
		from[k] = (uint8_t)(k * 7);
	for (int digests = 0; digests < 2; digests++) {
		c.offer.header_digest = c.offer.data_digest = digests;
		for (size_t piece = 0; piece < 60; piece += 1 + piece / 7) {
			log_in(&c);
			p.piece = piece;
			memset(in, 0, sizeof(in));
			struct iscsi_ini_cmd *cmd = read_cmd(in, 4096);
			h = must_send(0x01, &data);
			assert_int_equal(h[1], 0x80 | 0x40 | 1);
			assert_int_equal(be64(h + 8), 1ull << 48);
			assert_int_equal(be32(h + 20), 4096);
			assert_int_equal(be32(h + 24), 7);
			assert_int_equal(h[32], 0x28);
			data_in(h, 0, 0, from, 1001, false);
			data_in(h, 1, 1001, from + 1001, 3095, true);
			assert_ptr_equal(must_tell(INI_EV_CMD).cmd, cmd);
			assert_int_equal(cmd->error, 0);
			assert_int_equal(cmd->in_got, 4096);
			assert_memory_equal(in, from, 4096);
			assert_int_equal(iscsi_ini_inflight(p.i), 0);
		}
	}
}

/* Proves that status with sense data and residual reach the caller (11.4). */
static void test_status(void **state)
{
	static const uint8_t sense[] = { 0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0 };
	struct iscsi_ini_conf c = conf();
	const uint8_t *h, *data;
	uint8_t r[48] = { 0x21, 0x82 };

	log_in(&c);
	struct iscsi_ini_cmd *cmd = read_cmd(NULL, 512);
	h = must_send(0x01, &data);
	memcpy(r + 16, h + 16, 4);
	r[3] = 2;
	put_be32(r + 44, 512);
	answer(r, sense, sizeof(sense));
	must_tell(INI_EV_CMD);
	assert_int_equal(cmd->status, 2);
	assert_true(cmd->underflow);
	assert_int_equal(cmd->resid, 512);
	assert_int_equal(cmd->sense_len, 18);
	assert_int_equal(cmd->sense[12], 0x20);
}

static void check_out(uint32_t ttt, uint32_t sn, const uint8_t *from, uint32_t off, uint32_t len, bool final)
{
	const uint8_t *data, *h = must_send(0x05, &data);

	assert_int_equal(h[1], final ? 0x80 : 0);
	assert_int_equal(be32(h + 20), ttt);
	assert_int_equal(be32(h + 36), sn);
	assert_int_equal(be32(h + 40), off);
	assert_int_equal(bhs_data_len(h), len);
	assert_memory_equal(data, from + off, len);
}

/* Proves that data of a write goes out as agreed: immediate, unsolicited to FirstBurstLength, then what R2Ts ask for,
 * in segments the target takes, DataSN from 0 in each sequence (13.10, 13.11, 13.14, 11.7, 11.8). */
static void test_write(void **state)
{
	static uint8_t from[10000];
	struct iscsi_ini_conf c = conf();
	struct iscsi_ini_cmd cmd = { .cdb = { 0x2a }, .out = from, .out_len = sizeof(from) };
	const uint8_t *h, *data;

	for (unsigned k = 0; k < sizeof(from); k++)
		from[k] = (uint8_t)(k * 13 >> 3);
	for (int digests = 0; digests < 2; digests++) {
		c.offer.header_digest = c.offer.data_digest = digests;
		log_in(&c);
		assert_int_equal(iscsi_ini_cmd(p.i, &cmd), 0);
		h = must_send(0x01, &data);
		assert_int_equal(h[1], 0x20);         /* W, not final: more comes unasked */
		assert_int_equal(bhs_data_len(h), 1024);
		assert_memory_equal(data, from, 1024);
		check_out(ISCSI_NO_TAG, 0, from, 1024, 1024, false);
		check_out(ISCSI_NO_TAG, 1, from, 2048, 1024, true);
		must_send_nothing();
		r2t(h, 77, 0, 3072, 1500);
		r2t(h, 78, 1, 4572, 4096);
		check_out(77, 0, from, 3072, 1024, false);
		check_out(77, 1, from, 4096, 476, true);
		for (uint32_t k = 0; k < 4; k++)
			check_out(78, k, from, 4572 + 1024 * k, 1024, k == 3);
		r2t(h, 79, 2, 8668, 1332);
		check_out(79, 0, from, 8668, 1024, false);
		check_out(79, 1, from, 9692, 308, true);
		respond(h, 0, 3, NULL, 0);
		must_tell(INI_EV_CMD);
		assert_int_equal(cmd.error | cmd.status, 0);
	}
}

/* Proves that what a target may not do ends the connection, says why, and gives every command back. */
static void test_violations(void **state)
{
	static const struct { uint8_t h[48]; uint32_t len; const char *why; } bad[] = {
		{ { 0x25, 0x80, [19] = 0xff, [39] = 0 }, 4, "does not expect" },       /* Data-In of no command */
		{ { 0x25, 0x80, [39] = 1 }, 4, "does not expect" },                    /* DataSN */
		{ { 0x25, 0x80, [43] = 4 }, 4, "does not expect" },                    /* offset */
		{ { 0x25, 0x80 }, 516, "does not expect" },                            /* more than was asked for */
		{ { 0x31, 0x80, [47] = 4 }, 0, "R2T" },                                /* of a read */
		{ { 0x21, 0x80, [19] = 0xff }, 0, "no command" },
		{ { 0x23, 0x87 }, 0, "no place" },                                     /* login again */
		{ { 0x01 }, 0, "no place" },                                           /* a request */
		{ { 0x22, 0x80 }, 0, "no request" },
	};
	struct iscsi_ini_conf c = conf();
	uint8_t data[1024] = { 0 };
	const uint8_t *out;

	for (unsigned k = 0; k < sizeof(bad) / sizeof(bad[0]); k++) {
		log_in(&c);
		struct iscsi_ini_cmd *cmd = read_cmd(NULL, 512);
		must_send(0x01, &out);
		uint8_t h[48];
		memcpy(h, bad[k].h, 48);
		put_be32(h + 16, be32(out - 48 + 16) + be32(h + 16));
		answer(h, data, bad[k].len);
		assert_ptr_equal(must_tell(INI_EV_CMD).cmd, cmd);
		assert_int_equal(cmd->error, -ECONNRESET);
		must_close(bad[k].why);
		assert_int_equal(iscsi_ini_cmd(p.i, cmd), -ENOTCONN);
	}
	log_in(&c);
	read_cmd(NULL, 512);
	const uint8_t *h = must_send(0x01, &out);
	p.stat_sn++;
	respond(h, 0, 0, NULL, 0);
	must_tell(INI_EV_CMD);
	must_close("StatSN");
}

/* Proves that wrong digests are noticed (7.8; level 0 gives up the connection). */
static void test_digests(void **state)
{
	struct iscsi_ini_conf c = conf();
	uint8_t data[512] = { 1 };
	const uint8_t *h, *out;

	c.offer.header_digest = c.offer.data_digest = true;
	for (int spoil = 1; spoil <= 2; spoil++) {
		log_in(&c);
		read_cmd(NULL, 512);
		h = must_send(0x01, &out);
		uint8_t r[48] = { 0x25, 0x81 };
		memcpy(r + 16, h + 16, 4);
		answer_spoilt(r, data, 512, spoil);
		assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECONNRESET);
		must_close(spoil == 1 ? "header digest" : "data digest");
	}
}

/* Proves that no command leaves while the target's window is closed, but immediate ones (4.2.2.1). */
static void test_window(void **state)
{
	struct iscsi_ini_cmd cmd[3] = { { .cdb = { 0 } }, { .cdb = { 0 } }, { .cdb = { 0 }, .immediate = true } };
	struct iscsi_ini_conf c = conf();
	const uint8_t *h, *data;

	begin(&c);
	must_send(0x03, &data);
	p.max_cmd_sn = 7;
	answer_login(0x87, KEYS("InitialR2T=No"));
	must_tell(INI_EV_LOGGED_IN);
	for (int k = 0; k < 2; k++)
		assert_int_equal(iscsi_ini_cmd(p.i, &cmd[k]), 0);
	h = must_send(0x01, &data);
	assert_int_equal(be32(h + 24), 7);
	must_send_nothing();
	p.exp_cmd_sn = p.max_cmd_sn = 8;
	respond(h, 0, 0, NULL, 0);
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &cmd[0]);
	h = must_send(0x01, &data);
	assert_int_equal(be32(h + 24), 8);
	assert_int_equal(be32(h + 28), p.stat_sn);
	assert_int_equal(iscsi_ini_cmd(p.i, &cmd[2]), 0);
	h = must_send(0x01, &data);
	assert_int_equal(h[0], 0x41);
	assert_int_equal(be32(h + 24), 9);
	p.max_cmd_sn = 9;
	respond(h, 0, 0, NULL, 0);
	must_tell(INI_EV_CMD);
	assert_int_equal(iscsi_ini_cmd(p.i, &cmd[0]), 0);
	assert_int_equal(be32(must_send(0x01, &data) + 24), 9); /* the immediate one took no number */
}

/* Proves that a confirmed ABORT TASK or LUN reset gives back what it aborted, before its own end is told, and that
 * the memory of data that is being sent stays put until it is sent. */
static void test_task_management(void **state)
{
	static uint8_t from[2048];
	struct iscsi_ini_cmd w = { .lun = 1ull << 48, .cdb = { 0x2a }, .out = from, .out_len = 2048 };
	struct iscsi_ini_conf c = conf();
	const uint8_t *h, *data;
	struct iscsi_ini_event ev;
	struct iovec *iov;
	int ctx;

	log_in(&c);
	struct iscsi_ini_cmd *r = read_cmd(NULL, 512);
	must_send(0x01, &data);
	assert_int_equal(iscsi_ini_tmf(p.i, TMF_ABORT_TASK, r->lun, r, &ctx), 0);
	h = must_send(0x02, &data);
	assert_int_equal(h[1], 0x81);
	assert_int_equal(be32(h + 20), r->itt);
	assert_int_equal(be32(h + 32), r->cmd_sn);
	uint8_t rsp[48] = { 0x22, 0x80 };
	memcpy(rsp + 16, h + 16, 4);
	answer(rsp, NULL, 0);
	p.stat_sn++;
	assert_int_equal(must_tell(INI_EV_CMD).cmd->error, -ECANCELED);
	assert_ptr_equal(must_tell(INI_EV_TMF).ctx, &ctx);

	assert_int_equal(iscsi_ini_tmf(p.i, TMF_LU_RESET, w.lun, NULL, NULL), 0);
	h = must_send(0x02, &data);
	memcpy(rsp + 16, h + 16, 4);
	assert_int_equal(iscsi_ini_cmd(p.i, &w), 0);  /* after the reset: not its concern */
	assert_true(iscsi_ini_tx(p.i, 0, &iov) > 0);
	answer(rsp, NULL, 0);
	p.stat_sn++;
	must_tell(INI_EV_TMF);
	assert_false(event(&ev));
	uint8_t done[48];
	memcpy(done, iov[0].iov_base, 48);
	respond(done, 0, 0, NULL, 0);
	assert_false(event(&ev));                     /* its data is still in the batch */
	drain();
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, &w);
}

/* Proves that pings are answered with their data and tag, ours are heard, and silence is noticed (11.18, 11.19). */
static void test_nop(void **state)
{
	struct iscsi_ini_conf c = conf();
	uint8_t h[48] = { 0x20, 0x80 };
	const uint8_t *out, *data;

	c.nop_ns = 1000;
	log_in(&c);
	put_be32(h + 16, ISCSI_NO_TAG);
	put_be32(h + 20, 0x1234);
	answer(h, "ping", 4);
	out = must_send(0x00, &data);
	assert_int_equal(be32(out + 16), ISCSI_NO_TAG);
	assert_int_equal(be32(out + 20), 0x1234);
	assert_memory_equal(data, "ping", 4);
	iscsi_ini_tick(p.i, 5000);
	assert_int_equal(iscsi_ini_tick(p.i, 5999), 6000);
	must_send_nothing();
	iscsi_ini_tick(p.i, 6000);
	out = must_send(0x00, &data);
	assert_int_equal(be32(out + 20), ISCSI_NO_TAG);
	put_be32(h + 16, be32(out + 16));
	put_be32(h + 20, ISCSI_NO_TAG);
	answer(h, NULL, 0);
	p.stat_sn++;
	must_tell(INI_EV_NOP);
	iscsi_ini_tick(p.i, 6500);
	iscsi_ini_tick(p.i, 7500);
	must_send(0x00, &data);
	iscsi_ini_tick(p.i, 8500);
	must_close("does not answer");
}

/* Proves that a target that asks and does not read is given up before its questions have taken all memory. */
static void test_deaf_target(void **state)
{
	struct iscsi_ini_conf c = conf();
	uint8_t h[48] = { 0x20, 0x80 };

	log_in(&c);
	put_be32(h + 16, ISCSI_NO_TAG);
	put_be32(h + 20, 0x1234);
	for (int k = 0; k < 2000; k++)
		answer(h, "ping", 4);
	must_close("does not read");
}

/* Proves that SendTargets is put together from several answers (11.11), and that Reject, Async and Logout are told. */
static void test_others(void **state)
{
	struct iscsi_ini_conf c = conf();
	uint8_t h[48] = { 0x24, 0x00 };
	const uint8_t *out, *data;
	struct iscsi_ini_event ev;

	log_in(&c);
	assert_int_equal(iscsi_ini_send_targets(p.i, "All"), 0);
	out = must_send(0x04, &data);
	assert_string_equal((const char *)data, "SendTargets=All");
	memcpy(h + 16, out + 16, 4);
	put_be32(h + 20, 42);
	answer(h, "TargetName=iqn.a", 16);
	p.stat_sn++;
	out = must_send(0x04, &data);
	assert_int_equal(be32(out + 20), 42);
	h[1] = 0x80;
	put_be32(h + 20, ISCSI_NO_TAG);
	answer(h, "b\0", 2);
	p.stat_sn++;
	ev = must_tell(INI_EV_TARGETS);
	assert_string_equal(ev.text, "TargetName=iqn.ab");

	struct iscsi_ini_cmd *cmd = read_cmd(NULL, 512);
	out = must_send(0x01, &data);
	uint8_t rej[48] = { 0x3f, 0x80, 0x09 };
	put_be32(rej + 16, ISCSI_NO_TAG);
	answer(rej, out, 48);
	p.stat_sn++;
	assert_ptr_equal(must_tell(INI_EV_CMD).cmd, cmd);
	assert_int_equal(cmd->error, -EREMOTEIO);
	assert_int_equal(must_tell(INI_EV_REJECT).code, 9);
	out = must_send(0x00, &data);                 /* 7.3: its CmdSN must be used by something */
	assert_int_equal(out[0], 0);
	assert_int_equal(be32(out + 24), cmd->cmd_sn);

	uint8_t async[48] = { 0x32, 0x80, [36] = 1 };
	put_be32(async + 16, ISCSI_NO_TAG);
	answer(async, NULL, 0);
	p.stat_sn++;
	assert_int_equal(must_tell(INI_EV_ASYNC).code, 1);

	assert_int_equal(iscsi_ini_logout(p.i), 0);
	out = must_send(0x06, &data);
	assert_int_equal(out[1], 0x80);
	uint8_t bye[48] = { 0x26, 0x80 };
	memcpy(bye + 16, out + 16, 4);
	answer(bye, NULL, 0);
	must_tell(INI_EV_LOGOUT);
	iscsi_ini_lost(p.i, 0, "closed");
	must_close("logged out");
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
		cmocka_unit_test(test_login), cmocka_unit_test(test_login_parts), cmocka_unit_test(test_login_refused),
		cmocka_unit_test(test_chap), cmocka_unit_test(test_read), cmocka_unit_test(test_status),
		cmocka_unit_test(test_write), cmocka_unit_test(test_violations), cmocka_unit_test(test_digests),
		cmocka_unit_test(test_window), cmocka_unit_test(test_task_management), cmocka_unit_test(test_nop),
		cmocka_unit_test(test_deaf_target),
		cmocka_unit_test(test_others),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}

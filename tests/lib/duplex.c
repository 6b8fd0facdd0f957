/* SPDX-License-Identifier: BSD-3-Clause */
#include "duplex.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "loop/round.h"

static int test_identity(void *ctx, const char *name, bool volatile_, uint8_t id[16], struct err *e)
{
	memset(id, 0x5a, 16);
	return 0;
}

static int test_load(void *ctx, const uint8_t id[16], const char *what, void *buf, size_t len)
{
	return -2; /* -ENOENT */
}

static int test_save(void *ctx, const uint8_t id[16], const char *what, const void *buf, size_t len)
{
	return 0;
}

static void set_true(void *ctx)
{
	*(bool *)ctx = true;
}

static void turn(struct duplex *d)
{
	loop_turn(d->loop, 0);
}

void duplex_init(struct duplex *d)
{
	static struct lu_store store = { test_identity, test_load, test_save, NULL, NULL };
	const struct blk_ops *ram = blk_find("ram");
	struct lu_conf lc = { .bs = 512, .wce = true };
	struct err e = { 0 };
	struct blk *b;
	bool done = false;

	memset(d, 0, sizeof(*d));
	CHECK(page_arena_init(1 << 30, &e) == 0);
	d->loop = loop_new(&loop_epoll, 0, &e);
	CHECK(d->loop);
	loop_set_spin(d->loop, 0);
	loop_group.n = 1;
	loop_group.loop[0] = d->loop;
	CHECK(scsi_init(d->loop, &e) == 0);
	void *conf = calloc(1, ram->conf_bytes + 1);
	CHECK(conf && schema_defaults(ram->config, conf, &e) == 0);
	CHECK(schema_set(ram->config, conf, "size", "4MiB", &e) == 0);
	CHECK(blk_open(&b, ram, conf, NULL, &e) == 0);
	free(conf);
	store.control = d->loop;
	CHECK(lu_open(&d->lu, &lu_disk, "disk", &lc, b, &store, &e) == 0);
	d->target = scsi_target_new("iqn.2026-01.test:duplex");
	struct scsi_lun map = { 0, d->lu };
	scsi_target_set_luns(d->target, &map, 1, set_true, &done);
	while (!done)
		turn(d);
	d->pool = iscsi_pool_new(d->loop, 64 << 20);
	iscsi_offer_defaults(&d->offer);
	d->out = malloc(DUPLEX_MAX);
}

void duplex_fini(struct duplex *d)
{
	bool done = false;

	scsi_target_set_luns(d->target, NULL, 0, set_true, &done);
	while (!done)
		turn(d);
	done = false;
	lu_close(d->lu, set_true, &done);
	while (!done)
		turn(d);
	scsi_target_free(d->target);
	iscsi_pool_free(d->pool);
	scsi_fini();
	loop_free(d->loop);
	loop_group.n = 0;
	page_arena_fini();
	free(d->out);
}

static void wake(void *user)
{
	CHECK(!((struct duplex *)user)->ending);
}

static void test_random(void *p, size_t n)
{
	memset(p, 0x42, n);
}

void duplex_open(struct duplex *d)
{
	static const struct iscsi_host host = { wake, test_random };

	d->conn = iscsi_conn_new(d->pool, &host, d);
	CHECK(d->conn);
	iscsi_tick(d->conn, loop_now_ns(d->loop), false);
	d->session = NULL;
	d->nexus = NULL;
	d->ready = d->closed = d->logged_out = false;
	d->header_digest = d->data_digest = false;
	d->why[0] = 0;
	d->seen = 0;
	d->out_len = d->out_at = 0;
	d->cmd_sn = d->itt = 1;
}

void duplex_join(struct duplex *d, struct duplex *of, uint16_t cid)
{
	if (!d->out) {
		*d = (struct duplex){ .loop = of->loop, .pool = of->pool, .target = of->target, .lu = of->lu, .offer = of->offer };
		d->out = malloc(DUPLEX_MAX);
	}
	duplex_open(d);
	d->join = of->session;
	d->tsih = 1;
	d->cid = cid;
	d->cmd_sn = of->cmd_sn;
	d->itt = of->itt + 0x1000u * (cid + 1u);
}

void duplex_drop(struct duplex *d)
{
	d->ending = true;
	iscsi_conn_free(d->conn);
	d->ending = false;
	d->conn = NULL;
}

void duplex_close(struct duplex *d)
{
	bool gone = false;

	d->ending = true;
	iscsi_conn_free(d->conn);
	d->ending = false;
	if (d->nexus)
		scsi_nexus_close(d->nexus, set_true, &gone);
	while (d->nexus && !gone)
		turn(d);
	iscsi_session_free(d->session);
	d->conn = NULL;
	d->session = NULL;
}

static void admit(struct duplex *d)
{
	const struct iscsi_login *l = iscsi_conn_login(d->conn);
	const struct iscsi_params *p = iscsi_login_params(l);

	if (d->join) {
		iscsi_conn_admit(d->conn, 0, d->join);
		return;
	}
	if (!p->discovery)
		d->nexus = scsi_nexus_new(d->target, d->loop, p->initiator, iscsi_login_isid(l), 1);
	d->session = iscsi_session_new(d->nexus, p, 1, iscsi_login_cmd_sn(l), 32);
	iscsi_conn_admit(d->conn, 0, d->session);
}

static bool events(struct duplex *d)
{
	struct iscsi_event ev;
	bool any = false;

	while (iscsi_next(d->conn, &ev)) {
		any = true;
		d->seen |= 1u << ev.kind;
		if (ev.kind == ISCSI_EV_POLICY) {
			d->policy.offer = &d->offer;
			d->policy.tpgt = 1;
			iscsi_conn_policy(d->conn, &d->policy);
		} else if (ev.kind == ISCSI_EV_ADMIT) {
			admit(d);
		} else if (ev.kind == ISCSI_EV_FULL_FEATURE) {
			d->ready = true;
			d->header_digest = iscsi_conn_params(d->conn)->header_digest;
			d->data_digest = iscsi_conn_params(d->conn)->data_digest;
		} else if (ev.kind == ISCSI_EV_SEND_TARGETS) {
			struct iscsi_text t = { 0 };
			iscsi_text_put(&t, "TargetName", "iqn.2026-01.test:duplex");
			iscsi_conn_targets(d->conn, &t);
		} else if (ev.kind == ISCSI_EV_LOGOUT) {
			d->logged_out = true;
		} else if (ev.kind == ISCSI_EV_CLOSE) {
			d->closed = true;
			snprintf(d->why, sizeof(d->why), "%s", ev.text ? ev.text : "");
		}
	}
	return any;
}

static bool drain_tx(struct duplex *d)
{
	struct iovec *iov;
	bool any = false;
	int n;

	while ((n = iscsi_tx(d->conn, &iov)) > 0) {
		size_t all = 0;
		for (int i = 0; i < n; i++) {
			if (d->out_len + iov[i].iov_len <= DUPLEX_MAX) {
				memcpy(d->out + d->out_len, iov[i].iov_base, iov[i].iov_len);
				d->out_len += iov[i].iov_len;
			}
			all += iov[i].iov_len;
		}
		iscsi_tx_done(d->conn, all);
		any = true;
		events(d);
	}
	return any;
}

void duplex_run(struct duplex *d)
{
	int quiet = 0;

	while (quiet < 4) {
		bool busy = loop_turn(d->loop, 0);
		busy |= events(d);
		busy |= drain_tx(d);
		quiet = busy ? 0 : quiet + 1;
	}
}

/* One receive of at most max bytes. */
static size_t put_once(struct duplex *d, const uint8_t *from, size_t max)
{
	struct iovec iov[66];
	size_t got = 0;
	int k = iscsi_rx_want(d->conn, iov, 66);

	for (int i = 0; i < k && got < max; i++) {
		size_t run = MIN(iov[i].iov_len, max - got);
		memcpy(iov[i].iov_base, from + got, run);
		got += run;
	}
	if (got)
		iscsi_rx(d->conn, got);
	return got;
}

size_t duplex_put(struct duplex *d, const void *p, size_t n)
{
	size_t fed = 0, got;

	while (fed < n && (got = put_once(d, (const uint8_t *)p + fed, n - fed)))
		fed += got;
	return fed;
}

size_t duplex_feed(struct duplex *d, const void *p, size_t n, size_t piece)
{
	const uint8_t *from = p;
	size_t fed = 0, got;

	while (fed < n && (got = put_once(d, from + fed, piece ? MIN(piece, n - fed) : n - fed))) {
		fed += got;
		if (piece)
			events(d);
		else
			duplex_run(d);
	}
	duplex_run(d);
	return fed;
}

size_t duplex_pdu(const struct duplex *d, uint8_t *out, const uint8_t bhs[48], const void *data, uint32_t len)
{
	size_t n = 48;

	memcpy(out, bhs, 48);
	put_be24(out + BHS_DATA_LEN, len);
	if (d->header_digest) {
		put_le32(out + n, crc32c(0, out, 48));
		n += 4;
	}
	if (!len)
		return n;
	memcpy(out + n, data, len);
	memset(out + n + len, 0, pad4(len) - len);
	if (d->data_digest)
		put_le32(out + n + pad4(len), crc32c(0, out + n, pad4(len)));
	return n + pad4(len) + (d->data_digest ? 4 : 0);
}

void duplex_send(struct duplex *d, const uint8_t bhs[48], const void *data, uint32_t len)
{
	uint8_t *p = malloc(len + 64);
	size_t n = duplex_pdu(d, p, bhs, data, len);

	duplex_feed(d, p, n, 0);
	free(p);
}

const uint8_t *duplex_next(struct duplex *d, const uint8_t **data, uint32_t *len)
{
	uint8_t *h = d->out + d->out_at;
	bool login = (h[0] & OP_MASK) == ISCSI_LOGIN_RSP;
	uint32_t hd = d->header_digest && !login ? 4 : 0, dd = d->data_digest && !login ? 4 : 0;

	if (d->out_len - d->out_at < 48u + hd)
		return NULL;
	uint32_t n = bhs_data_len(h), all = 48 + hd + pad4(n) + (n ? dd : 0);
	CHECK(d->out_len - d->out_at >= all);
	if (hd)
		CHECK(crc32c(0, h, 48) == le32(h + 48));
	if (n && dd)
		CHECK(crc32c(0, h + 48 + hd, pad4(n)) == le32(h + 48 + hd + pad4(n)));
	if (data)
		*data = h + 48 + hd;
	if (len)
		*len = n;
	d->out_at += all;
	return h;
}

void duplex_login(struct duplex *d, const char *keys, size_t len)
{
	static const char names[] = "InitiatorName=iqn.2026-01.test:client\0TargetName=iqn.2026-01.test:duplex\0"
				    "SessionType=Normal";
	uint8_t bhs[48] = { ISCSI_LOGIN_REQ | OP_IMMEDIATE, LOGIN_TRANSIT | 1 << 2 | 3 };
	char text[2048];

	memcpy(text, names, sizeof(names));
	if (len)
		memcpy(text + sizeof(names), keys, len);
	bhs[LOGIN_ISID] = 0x80;
	put_be16(bhs + LOGIN_TSIH, d->tsih);
	put_be16(bhs + LOGIN_CID, d->cid);
	put_be32(bhs + BHS_EXP_STAT_SN, d->exp_stat_sn);
	put_be32(bhs + BHS_ITT, 7);
	put_be32(bhs + BHS_CMD_SN, d->cmd_sn);
	duplex_send(d, bhs, text, (uint32_t)(sizeof(names) + len));
}

void duplex_cmd(struct duplex *d, uint8_t bhs[48], uint8_t flags, uint32_t edtl, const uint8_t cdb[16])
{
	memset(bhs, 0, 48);
	bhs[BHS_OPCODE] = ISCSI_SCSI_CMD;
	bhs[BHS_FLAGS] = flags;
	put_be32(bhs + BHS_ITT, ++d->itt);
	put_be32(bhs + CMD_EDTL, edtl);
	put_be32(bhs + BHS_CMD_SN, d->cmd_sn++);
	memcpy(bhs + CMD_CDB, cdb, 16);
}

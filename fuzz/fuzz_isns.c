/* SPDX-License-Identifier: BSD-3-Clause
 * Fuzzes what a name server can say to the iSNS client (iscsi/isns.h): the input is the stream of its bytes, in which a
 * transaction identifier of 0xffff stands for the one that the client waits for.
 *
 * Properties: what the client sends is whole PDUs; once it gave up it takes and sends nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "fuzz.h"
#include "iscsi/isns.h"

enum { HDR = 12, INPUT_MAX = 1 << 16, STEPS = 64 };

static const uint8_t local[16] = { [10] = 0xff, 0xff, 127, 0, 0, 1 };
static const struct isns_portal portal = { { [10] = 0xff, 0xff, 127, 0, 0, 1 }, 3260, 1 };
static const struct isns_target targets[] = { { "iqn.a:b", "c", NULL, 0 }, { "iqn.a:d", NULL, NULL, 0 } };
static const struct isns_entity entity = { "e", "d", &portal, 1, targets, 2 };

/* Takes what it sends; the transaction of its last request, or of nothing. */
static uint16_t drain(struct isns *i, uint16_t xid)
{
	const uint8_t *p;
	size_t n = isns_tx(i, &p), at = 0;

	for (; at < n; at += HDR + be16(p + at + 4)) {
		CHECK(n - at >= HDR && n - at >= (size_t)HDR + be16(p + at + 4));
		if (!(be16(p + at + 2) & 0x8000))
			xid = be16(p + at + 8);
	}
	CHECK(at == n);
	if (n)
		isns_tx_done(i, n);
	return xid;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct isns *i = isns_new();
	struct isns_event ev;
	uint64_t now = 1;
	bool gone = false;
	uint16_t xid;

	CHECK(i && isns_set(i, &entity) == 0);
	isns_connected(i, local, 7, now);
	xid = drain(i, 0);
	len = len < INPUT_MAX ? len : INPUT_MAX;
	for (size_t at = 0; at < len && !gone;) {
		uint8_t pdu[HDR + 65535];
		size_t n = len - at < HDR ? len - at : (size_t)HDR + be16(data + at + 4);
		n = n < len - at ? n : len - at;
		memcpy(pdu, data + at, n);
		if (n >= HDR && be16(pdu + 8) == 0xffff)
			put_be16(pdu + 8, xid);
		isns_rx(i, pdu, n);
		at += n;
		now = isns_tick(i, now) % (UINT64_MAX / 2);
		xid = drain(i, xid);
		while (isns_next(i, &ev))
			gone |= ev.kind == ISNS_EV_REFUSED;
	}
	isns_leave(i);
	drain(i, xid);
	isns_free(i);
	return 0;
}

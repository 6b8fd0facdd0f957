/* SPDX-License-Identifier: BSD-3-Clause
 * Bytes at full feature phase. Byte 0: digests and data rules; byte 1: how the stream is cut; then PDUs as the peer
 * may send them, with lengths and digests put right for a good part of them so that handlers are reached.
 * Properties: no crash; what the target answers does not depend on how the stream was cut; when the connection is
 * gone, no page is kept but those of the disk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "duplex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct duplex d;

static void open_session(uint8_t how)
{
	static const char *const digest[] = { "HeaderDigest=None", "HeaderDigest=CRC32C" };
	static const char *const rule[] = { "InitialR2T=No", "InitialR2T=Yes" };
	char keys[200];
	size_t n = 0;

	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "%s", digest[how & 1]) + 1;
	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "%s", how & 2 ? "DataDigest=CRC32C" : "DataDigest=None") + 1;
	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "%s", rule[how >> 2 & 1]) + 1;
	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "MaxBurstLength=%u", 1024u << (how >> 3 & 7)) + 1;
	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "FirstBurstLength=%u", 512u << (how >> 3 & 7)) + 1;
	n += (size_t)snprintf(keys + n, sizeof(keys) - n, "MaxOutstandingR2T=%u", 1 + (how >> 6)) + 1;
	duplex_open(&d);
	duplex_login(&d, keys, n);
	CHECK(d.ready);
}

/* Input bytes to PDUs: each 50 bytes are a header, a length of data and a mode; the data follows. Each PDU is fed in
 * pieces and then everything that it set off runs, so that time is the same however it was cut. */
static void play(const uint8_t *in, size_t n, size_t piece)
{
	static uint8_t pdu[16384];

	for (size_t at = 0; n - at >= 50 && !d.closed;) {
		const uint8_t *h = in + at;
		uint32_t data = be16(h + 48) & 0x1fff, mode = h[48] >> 5;
		uint8_t bhs[48];
		memcpy(bhs, h, 48);
		at += 50;
		data = (uint32_t)(data < n - at ? data : n - at);
		if (mode & 1) { /* in order: its CmdSN is the next */
			put_be32(bhs + BHS_CMD_SN, d.cmd_sn);
			if (!(bhs[0] & OP_IMMEDIATE) && (bhs[0] & OP_MASK) != ISCSI_DATA_OUT)
				d.cmd_sn++;
		}
		if (mode & 2) {
			bhs[BHS_AHS_LEN] = 0;
			memset(bhs + BHS_LUN, 0, 8);
		}
		size_t len = duplex_pdu(&d, pdu, bhs, in + at, data);
		at += data;
		for (size_t off = 0; off < len && piece; off += piece)
			duplex_put(&d, pdu + off, piece < len - off ? piece : len - off);
		if (!piece)
			duplex_put(&d, pdu, len);
		duplex_run(&d);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t first[DUPLEX_MAX];
	size_t first_len = 0;
	bool first_closed = false;

	if (size < 2)
		return 0;
	for (int pass = 0; pass < 2; pass++) {
		duplex_init(&d); /* a new disk: what the first pass changed must not show in the second */
		open_session(data[0]);
		size_t start = d.out_len;
		play(data + 2, size - 2, pass ? 1 + data[1] : 0);
		if (!pass) {
			first_len = d.out_len - start;
			first_closed = d.closed;
			memcpy(first, d.out + start, first_len);
		} else {
			CHECK(first_closed == d.closed);
			CHECK(first_len == d.out_len - start && !memcmp(first, d.out + start, first_len));
		}
		duplex_close(&d);
		CHECK(page_used_bytes() <= DUPLEX_LU_BYTES + PAGE_BYTES);
		duplex_fini(&d);
	}
	return 0;
}

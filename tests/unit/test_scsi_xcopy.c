/* SPDX-License-Identifier: BSD-3-Clause
 * EXTENDED COPY: parameter lists and what is wrong with them, segments, limits, copies against each other and against
 * those who write what they read. */
#include "copy_bed.h"

/* Copies in opposite directions, between units and within one, over ranges that meet: none waits for ever, and one of
 * two orders is what comes out of each pair. */
static void opposite(void **state)
{
	for (unsigned i = 0; i < 40; i++) {
		unsigned a_unit = rnd(UNITS), b_unit = rnd(UNITS);
		uint32_t nblk = 2000 + rnd(2000), a = rnd(1000), b = 6000 + rnd(1000);
		struct answer x, y;
		start_xcopy(&x, n, a_unit, b_unit, a, b, nblk);
		for (unsigned k = rnd(20); k; k--)
			bed_turn();
		start_xcopy(&y, n2, b_unit, a_unit, b, a, nblk);
		bed_until(&x.done);
		bed_until(&y.done);
		assert_good(x);
		assert_good(y);
		bed_free(&x);
		bed_free(&y);
	}
}

/* What a copy meets at its destination is told as SPC-4 5.17.7.4 says: segment, residual, descriptor, and the unit's own
 * status and sense; and again by RECEIVE COPY FAILURE DETAILS, once. */
static void segment_details(void **state)
{
	static uint8_t data[2000 * BS];
	struct answer a;

	memset(data, 5, sizeof(data));
	assert_good(bed_rw(n, 0, true, 0, 2000, data, sizeof(data)));
	valve.hold = true;
	start_xcopy(&a, n, 0, 1, 0, 0, 2000);
	bed_settle();
	valve_release(0);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve.fail = -ENOSPC;
	bed_settle();
	struct blk_io *io = valve.held[0];
	valve.nheld = 0;
	valve.hold = false;
	valve.fail = 0;
	blk_done(io, -ENOSPC);
	bed_until(&a.done);
	const uint8_t *s = a.cmd->sense;
	assert_sense(a, 0xa, 0x0d, 0x01);
	assert_int_equal(s[0], 0xf0); /* VALID: some was written */
	assert_int_equal(be32(s + 3), 2000 - 1024);
	assert_int_equal(s[8], 0);
	assert_int_equal(s[9], 18);
	assert_int_equal(be16(s + 10), 0);
	assert_int_equal(s[15], 0x80);
	assert_int_equal(be16(s + 16), 16 + 32);
	assert_int_equal(s[18], SCSI_CHECK_CONDITION);
	assert_int_equal(s[19 + 2], 7);
	assert_int_equal(s[19 + 12] << 8 | s[19 + 13], 0x2707);
	assert_int_equal(a.cmd->sense_len, 8 + s[7]);
	struct answer d = RUN(n, 0, 0x84, 4, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0);
	assert_int_equal(d.data[56], SCSI_CHECK_CONDITION);
	assert_memory_equal(d.data + 60, s, a.cmd->sense_len);
	assert_int_equal(be32(RUN(n, 0, 0x84, 4, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0).data), 0);
	bed_free(&a);
}

/* While a step reads its source, that can be read but not written: what arrives is what was there before; and nobody sees
 * the destination until the step is over. */
static void holds_still(void **state)
{
	static uint8_t before[256 * BS], after[BS];
	struct answer a, r, w, d;

	memset(before, 'b', sizeof(before));
	memset(after, 'a', sizeof(after));
	assert_good(bed_rw(n, 1, true, 0, 256, before, sizeof(before)));
	valve.hold = true;
	start_xcopy(&a, n, 1, 0, 0, 0, 256);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve_release(0); /* the map; the read comes */
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(valve.held[0]->req.op, BLK_READ);
	bed_start_cmd(bed_cmd(&w, n2, 1, CDB(0x2a, 0, 0, 0, 0, 10, 0, 0, 1), 0, BS), after);
	bed_start_cmd(bed_cmd(&r, n2, 1, CDB(0x28, 0, 0, 0, 0, 10, 0, 0, 1), BS, 0), NULL);
	bed_start_cmd(bed_cmd(&d, n2, 0, CDB(0x28, 0, 0, 0, 0, 10, 0, 0, 1), BS, 0), NULL);
	bed_settle();
	assert_int_equal(valve.nheld, 2); /* the copy's read, the other's; not the write */
	assert_int_equal(w.done + d.done, 0);
	valve_open();
	struct answer *all[] = { &a, &r, &w, &d };
	for (unsigned i = 0; i < 4; i++) {
		bed_until(&all[i]->done);
		assert_good(*all[i]);
	}
	assert_int_equal(d.data[0], 'b');
	assert_memory_equal(bed_rw(n, 0, false, 0, 256, NULL, sizeof(before)).data, before, sizeof(before));
	assert_int_equal(bed_rw(n, 1, false, 10, 1, NULL, BS).data[0], 'a');
	for (unsigned i = 0; i < 4; i++) {
		bed_free(all[i]);
		free(all[i]->data);
	}
}

/* --- parameter lists --- */

/* One byte, or two, of a good list changed; what it must end with, and the byte that the sense points to, -1 = none. */
static const struct {
	bool lid4;
	unsigned at;
	uint16_t value; /* big endian, at at and at + 1 */
	uint8_t key, asc, ascq;
	int points_to;
} wrong[] = {
	{ false, 1, 0x0800, 5, 0x26, 0x00, 1 },      /* LIST ID USAGE 01b */
	{ false, 1, 0x1800, 5, 0x26, 0x00, 0 },      /* 11b with a list identifier */
	{ false, 2, 0x0041, 5, 0x1a, 0x00, -1 },     /* half a CSCD descriptor */
	{ false, 14, 0x0001, 5, 0x1a, 0x00, -1 },    /* inline data that did not come */
	{ false, 16, 0xe500, 5, 0x26, 0x07, 16 },    /* IPv4 */
	{ false, 48, 0xe000, 5, 0x26, 0x07, 48 },    /* Fibre Channel */
	{ false, 16, 0xe401, 0xa, 0x0d, 0x03, 16 },  /* a tape */
	{ false, 24, 0x1234, 0xa, 0x0d, 0x02, 16 },  /* nobody's name */
	{ false, 46, 0x1000, 5, 0x26, 0x00, 45 },    /* blocks of 4096 bytes in a unit that has 512 */
	{ false, 80, 0x0000, 5, 0x26, 0x09, 80 },    /* block to stream */
	{ false, 80, 0x1000, 5, 0x26, 0x09, 80 },    /* filemarks */
	{ false, 82, 0x0010, 5, 0x1a, 0x00, -1 },    /* a descriptor length that is not the type's */
	{ false, 84, 0x0002, 0xa, 0x08, 0x04, 84 },  /* no such source */
	{ false, 86, 0xc000, 0xa, 0x08, 0x04, 86 },  /* the null unit */
	{ false, 92, 0x0001, 0xa, 0x00, 0x00, 80 },  /* a source beyond the medium */
	{ true, 0, 0x0200, 5, 0x26, 0x00, 0 },       /* PARAMETER LIST FORMAT */
	{ true, 2, 0x0040, 5, 0x26, 0x00, 2 },       /* HEADER CSCD DESCRIPTOR LIST LENGTH */
	{ true, 16, 0xfe00, 5, 0x26, 0x00, 16 },     /* HEADER CSCD DESCRIPTOR TYPE CODE */
	{ true, 15, 0x03ff, 5, 0x24, 0x00, -1 },     /* IMMED with G_SENSE */
	{ true, 44, 0x0700, 5, 0x1a, 0x00, -1 },     /* more segments than came */
};

/* Each mistake in a parameter list of EXTENDED COPY has its sense, and points to its byte; nothing is copied; SPC-4 6.4. */
static void lists(void **state)
{
	uint8_t p[160], block[BS];
	struct answer a;

	memset(block, 9, sizeof(block));
	assert_good(bed_rw(n, 0, true, 0, 1, block, BS));
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		uint32_t len = xcopy_list(p, wrong[i].lid4, false, 3, 0, 1, 0, 0, 1);
		put_be16(p + wrong[i].at, wrong[i].value);
		bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x83, wrong[i].lid4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
		bed_until(&a.done);
		const uint8_t *s = a.cmd->sense;
		if (a.status != SCSI_CHECK_CONDITION || a.key != wrong[i].key || a.asc != wrong[i].asc || a.ascq != wrong[i].ascq)
			fail_msg("row %u: status %x sense %x/%02x/%02x", i, a.status, a.key, a.asc, a.ascq);
		if (wrong[i].points_to < 0 ? s[15] >> 7 : s[15] != 0x80 || be16(s + 16) != wrong[i].points_to)
			fail_msg("row %u: points to %x %u", i, s[15], be16(s + 16));
		bed_free(&a);
	}
	assert_int_equal(bed_rw(n, 1, false, 0, 1, NULL, BS).data[0], 0);
}

/* Segments of the other types: image copy as far as both units go, bytes with offsets, a check of a descriptor; the unit that
 * the command was sent to needs no descriptor; G_SENSE tells with GOOD how many segments were done. */
static void segments(void **state)
{
	static uint8_t data[64 * BS];
	uint8_t p[48 + 28 + 32 + 12] = { [0] = 1, [3] = 32, [15] = 2, [16] = 0xff, [45] = 28 + 32 + 12 }, *s = p + 48;
	struct answer a;

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / BS + 1);
	assert_good(bed_rw(n, 0, true, BLOCKS - 64, 64, data, sizeof(data)));
	s[0] = 0x16; /* to the end */
	s[3] = 24;
	put_be32(s + 4, UINT32_MAX);
	put_be64(s + 8, BLOCKS - 64);
	put_be64(s + 16, 100);
	s += 28;
	s[0] = 0x0a; /* 1024 bytes from the second block of one pair to the first of another */
	s[3] = 28;
	put_be32(s + 4, UINT32_MAX);
	put_be32(s + 8, 1024);
	put_be64(s + 12, 100);
	put_be64(s + 20, 300);
	put_be16(s + 28, 512);
	s += 32;
	s[0] = 0x07;
	s[3] = 8;
	put_be16(s + 4, UINT16_MAX);
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p)), 0, sizeof(p)), p);
	bed_until(&a.done);
	assert_good(a);
	assert_int_equal(a.cmd->sense[2], 0x0f);
	assert_int_equal(a.cmd->sense[12] << 8 | a.cmd->sense[13], 0x0020);
	assert_int_equal(be16(a.cmd->sense + 10), 3);
	bed_free(&a);
	assert_memory_equal(bed_rw(n, 0, false, 100, 64, NULL, sizeof(data)).data, data, sizeof(data));
	assert_memory_equal(bed_rw(n, 0, false, 300, 2, NULL, 1024).data, data + 512, 1024);
	put_be16(p + 48 + 28 + 30, 100); /* not at a block */
	assert_sense(bed_run(n, 0, CDB(0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p)), p, sizeof(p), 0), 0xa, 0x26, 0x0a);
}

static struct answer xcopy_to_lun0(struct scsi_nexus *by, uint32_t id)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, false, false, id, 0, 1, 0, 0, 1);

	return bed_run(by, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
}

/* 16 copies at once and no more; each has its list identifier, which none may have twice in either format; results of the
 * oldest give way. */
static void many(void **state)
{
	struct answer a[COPY_RESULTS], last;
	uint8_t p[160], data[BS] = { 1 };

	assert_good(bed_rw(n, 0, true, 0, 1, data, BS));
	valve.hold = true;
	for (unsigned i = 0; i < COPY_RESULTS; i++) {
		uint32_t len = xcopy_list(p, i & 1, false, i, 0, 1, 0, 16 * i, 1);
		bed_start_cmd(bed_cmd(&a[i], n, 0, CDB(0x83, i & 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
	}
	bed_settle();
	assert_int_equal(valve.nheld, COPY_RESULTS);
	uint32_t len = xcopy_list(p, false, false, 99, 0, 1, 0, 0, 1);
	last = bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
	assert_int_equal(last.status, SCSI_BUSY);
	valve_release(0);
	bed_until(&a[0].done);
	len = xcopy_list(p, false, false, 2, 0, 1, 0, 0, 1); /* under way, as LID1 */
	assert_sense(bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0), 5, 0x00, 0x16);
	len = xcopy_list(p, false, false, 3, 0, 1, 0, 0, 1); /* under way, as LID4 */
	assert_sense(bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0), 5, 0x26, 0x00);
	valve_open();
	for (unsigned i = 0; i < COPY_RESULTS; i++) {
		bed_until(&a[i].done);
		assert_good(a[i]);
		bed_free(&a[i]);
		assert_good(RUN(n, 0, 0x84, 5, 0, 0, 0, (uint8_t)i, 0, 0, 0, 0, 0, 0, 0, 64));
	}
	assert_good(xcopy_to_lun0(n, 77));
	assert_sense(RUN(n, 0, 0x84, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64), 5, 0x24, 0x00);
	assert_good(RUN(n, 0, 0x84, 5, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 64));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TX(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(opposite), TX(opposite, setup_mixed), TX(segment_details, setup_valve), TX(holds_still, setup_valve), T(lists),
		T(segments), TX(many, setup_valve),
	};

	rng = 42;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

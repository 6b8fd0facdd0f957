/* SPDX-License-Identifier: BSD-3-Clause
 * FORMAT UNIT (SBC-4 4.33, 5.4): protection types, patterns, progress, restarts, refusals. WRITE LONG with WR_UNCOR
 * (5.50, 5.51) and REASSIGN BLOCKS (5.24). */
#include "scsi_bed.h"
#include "scsi/sbc.h"

enum { SIZE = 8 << 20, BLOCKS = SIZE / 512 };

static struct lu *lu;
static struct blk *medium;
static struct scsi_nexus *n0, *n1;
static uint8_t buf[64 << 10];

static struct blk *checked(struct blk *data)
{
	struct err e = { 0 };
	struct blk *b;

	assert_int_equal(integrity_open_over(&b, data, bed_ram(4 << 20), 512, &e), 0);
	return b;
}

static void open_lu(struct blk *b)
{
	medium = b;
	lu = bed_lu(NULL, b);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n0 = bed_nexus(0, 1);
	n1 = bed_nexus(1, 2);
	bed_ready(n0, 0);
	bed_ready(n1, 0);
}

static void close_lu(void)
{
	bed_nexus_close(n0);
	bed_nexus_close(n1);
	bed_map(NULL, 0);
	bed_close(lu);
}

static struct answer format(uint8_t byte1, const void *list, uint32_t len)
{
	return bed_run(n0, 0, CDB(0x04, byte1), list, len, 0);
}

#define LIST(...) ((const uint8_t[]){ __VA_ARGS__ }), sizeof((const uint8_t[]){ __VA_ARGS__ })

static uint8_t capacity_byte(struct scsi_nexus *n)
{
	return RUN(n, 0, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32).data[12];
}

static void expect_all(uint8_t what)
{
	for (unsigned lba = 0; lba < BLOCKS; lba += 4093) {
		struct answer a = bed_rw(n0, 0, false, lba, 1, NULL, 512);
		assert_good(a);
		for (int i = 0; i < 512; i++)
			assert_int_equal(a.data[i], what);
	}
}

/* FMTPINFO and PROTECTION FIELD USAGE choose the type (table 44); data is zeros, tuples FFh; others hear 2A/09. */
static void test_types(void **state)
{
	static const struct { uint8_t info, usage, capacity; } rows[] = {
		{ 0x80, 0, 1 }, { 0xc0, 0, 3 }, { 0xc0, 1, 5 }, { 0x00, 0, 0 },
	};

	bed_start(BED_LOOPS);
	open_lu(checked(bed_ram(SIZE)));
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		memset(buf, 0x77, sizeof(buf));
		assert_good(bed_rw(n0, 0, true, 5, 128, buf, sizeof(buf)));
		assert_good(format(rows[i].info | 0x10, LIST(rows[i].usage, 0, 0, 0)));
		assert_sense(RUN(n1, 0, 0x00), 6, 0x2a, 0x09);
		assert_int_equal(capacity_byte(n0), rows[i].capacity);
		assert_int_equal(capacity_byte(n1), rows[i].capacity);
		expect_all(0);
		struct answer a = RUN(n0, 0, 0x28, 0x60, 0, 0, 0, 5, 0, 0, 1);
		if (rows[i].capacity == 1 || rows[i].capacity == 5) {
			assert_good(a);
			for (int k = 512; k < 520; k++)
				assert_int_equal(a.data[k], 0xff);
		}
	}
	assert_good(format(0x90, LIST(0, 0, 0, 0)));
	close_lu(); /* the type is kept */
	open_lu(checked(bed_ram(SIZE)));
	assert_int_equal(capacity_byte(n0), 1);
	close_lu();
	bed_stop();
}

/* An initialization pattern fills the blocks; without a list there are zeros, on a disk that keeps no tuples too. */
static void test_pattern(void **state)
{
	bed_start(BED_LOOPS);
	for (int k = 0; k < 2; k++) {
		open_lu(k ? checked(bed_ram(SIZE)) : bed_ram(SIZE));
		assert_good(format(0x10, LIST(0, 0x88, 0, 0, 0, 1, 0, 1, 0xc3)));
		expect_all(0xc3);
		assert_good(format(0x30, LIST(0, 0x80, 0, 0, 0, 0, 0, 0)));
		expect_all(0);
		assert_good(format(0x10, LIST(0, 0x88, 0, 0, 0, 1, 0, 1, 0xc3)));
		assert_good(format(0, NULL, 0));
		expect_all(0);
		close_lu();
	}
	bed_stop();
}

/* What is not offered is refused at its field, before anything is touched. */
static void test_refused(void **state)
{
	bed_start(BED_LOOPS);
	open_lu(checked(bed_ram(SIZE)));
	assert_sense(format(0x80, NULL, 0), 5, 0x24, 0);               /* FMTPINFO without a list */
	assert_sense(format(0x50, LIST(0, 0, 0, 0)), 5, 0x24, 0);      /* 01b */
	assert_sense(format(0x90, LIST(1, 0, 0, 0)), 5, 0x26, 0);      /* type 1 with a usage */
	assert_sense(format(0xd0, LIST(2, 0, 0, 0)), 5, 0x26, 0);
	assert_sense(format(0x10, LIST(1, 0, 0, 0)), 5, 0x26, 0);
	assert_sense(format(0x10, LIST(0, 0x08, 0, 0)), 5, 0x26, 0);   /* options without FOV */
	assert_sense(format(0x10, LIST(0, 0, 0, 4, 0, 0, 0, 1)), 5, 0x26, 0); /* a defect list */
	assert_sense(format(0x30, LIST(0, 0, 0, 1, 0, 0, 0, 0)), 5, 0x26, 0); /* an interval */
	assert_sense(format(0x10, LIST(0, 0x88, 0, 0, 0, 2, 0, 1, 0)), 5, 0x26, 0);
	assert_sense(format(0x10, LIST(0, 0x88, 0, 0, 0, 1, 0, 2, 0)), 5, 0x26, 0);
	assert_sense(format(0x10, LIST(0, 0)), 5, 0x1a, 0);
	close_lu();
	open_lu(bed_ram(SIZE));
	assert_sense(format(0x90, LIST(0, 0, 0, 0)), 5, 0x24, 0);      /* nothing keeps tuples here */
	close_lu();
	bed_stop();
}

/* With IMMED the command ends at once; until the work has, others hear 02/04/04 with progress and REQUEST SENSE says it too;
 * what a failed format leaves is 03/31/00 until another one. */
static void test_progress(void **state)
{
	bed_start(BED_LOOPS);
	open_lu(bed_valve(SIZE, 0, 0));
	valve.hold = true;
	assert_good(format(0x10, LIST(0, 0x02, 0, 0)));
	assert_sense(RUN(n1, 0, 0x00), 2, 0x04, 0x04);
	assert_sense(bed_rw(n0, 0, false, 0, 1, NULL, 512), 2, 0x04, 0x04);
	assert_good(RUN(n1, 0, 0x12, 0, 0, 0, 36));
	struct answer a = RUN(n0, 0, 0x03, 0, 0, 0, 252);
	assert_good(a);
	assert_int_equal(a.data[2] << 16 | a.data[12] << 8 | a.data[13], 0x020404);
	assert_int_equal(a.data[15] & 0x80, 0x80);
	valve_open();
	for (int i = 0; i < 50; i++)
		bed_settle();
	assert_sense(RUN(n1, 0, 0x00), 6, 0x2a, 0x09);
	assert_good(RUN(n1, 0, 0x00));
	valve.fail = -EIO;
	assert_sense(format(0, NULL, 0), 3, 0x31, 0x00);
	valve.fail = 0;
	assert_sense(bed_rw(n0, 0, false, 0, 1, NULL, 512), 3, 0x31, 0x00);
	assert_good(format(0, NULL, 0));
	assert_good(bed_rw(n0, 0, false, 0, 1, NULL, 512));
	close_lu();
	bed_stop();
}

/* WR_UNCOR makes a block a medium error at its LBA until it is written; nothing else of WRITE LONG is there. */
static void test_write_long(void **state)
{
	bed_start(BED_LOOPS);
	open_lu(checked(bed_ram(SIZE)));
	assert_good(RUN(n0, 0, 0x3f, 0x40, 0, 0, 0, 9));
	assert_good(RUN(n0, 0, 0x9f, 0x51, 0, 0, 0, 0, 0, 0, 0, 11));
	assert_sense(bed_rw(n1, 0, false, 0, 16, NULL, 8192), 3, 0x11, 0x14);
	assert_sense(bed_rw(n1, 0, false, 11, 1, NULL, 512), 3, 0x11, 0x14);
	assert_good(bed_rw(n1, 0, false, 10, 1, NULL, 512));
	assert_good(bed_rw(n1, 0, true, 9, 1, buf, 512));
	assert_good(bed_rw(n1, 0, true, 11, 1, buf, 512));
	assert_good(bed_rw(n1, 0, false, 0, 16, NULL, 8192));
	assert_sense(RUN(n0, 0, 0x3f, 0, 0, 0, 0, 9), 5, 0x24, 0);
	assert_sense(RUN(n0, 0, 0x3f, 0x40, 0, 0, 0x40, 0), 5, 0x21, 0);
	close_lu();
	open_lu(bed_ram(SIZE));
	assert_sense(RUN(n0, 0, 0x3f, 0x40, 0, 0, 0, 9), 5, 0x20, 0);
	close_lu();
	bed_stop();
}

static void granted(struct lu_freeze *fz)
{
	*(bool *)lu_freeze_ctx(fz) = true;
}

static void broken(struct lu_freeze *fz)
{
	*(bool *)lu_freeze_ctx(fz) = false;
	lu_thaw(fz);
}

/* WRITE LONG changes what a block gives like any write: what is frozen holds it back, and it takes leases (SBC-4 4.28). */
static void test_write_long_waits(void **state)
{
	const struct lu_range range[2] = { { 9 * 512, 512, FREEZE_ALL } };
	bool frozen = false, leased = false;
	struct answer a;

	bed_start(BED_LOOPS);
	open_lu(checked(bed_ram(SIZE)));
	struct lu_freeze *fz = lu_freeze_ranges(lu_on(lu, lu->home), range, &frozen, granted);
	bed_settle();
	assert_true(frozen);
	bed_start_cmd(bed_cmd(&a, n0, 0, CDB(0x3f, 0x40, 0, 0, 0, 9, 0, 0, 0, 0), 0, 0), NULL);
	bed_settle();
	assert_false(a.done);
	lu_thaw(fz);
	bed_until(&a.done);
	assert_good(a);
	bed_free(&a);
	assert_non_null(lu_lease(lu_on(lu, lu->home), 9 * 512, 512, 1, &leased, granted, broken));
	bed_settle();
	assert_true(leased);
	assert_good(RUN(n0, 0, 0x3f, 0x40, 0, 0, 0, 9));
	assert_false(leased);
	close_lu();
	bed_stop();
}

/* REASSIGN BLOCKS checks that the blocks exist. */
static void test_reassign(void **state)
{
	bed_start(BED_LOOPS);
	open_lu(bed_ram(SIZE));
	assert_good(bed_run(n0, 0, CDB(0x07), LIST(0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2), 0));
	assert_good(bed_run(n0, 0, CDB(0x07, 3), LIST(0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2), 0));
	assert_sense(bed_run(n0, 0, CDB(0x07), LIST(0, 0, 0, 4, 0, 0x10, 0, 0), 0), 5, 0x21, 0);
	assert_sense(bed_run(n0, 0, CDB(0x07), LIST(0, 0, 0, 8, 0, 0, 0, 0), 0), 5, 0x1a, 0);
	close_lu();
	bed_stop();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types), cmocka_unit_test(test_pattern), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_progress), cmocka_unit_test(test_write_long),
		cmocka_unit_test(test_write_long_waits), cmocka_unit_test(test_reassign),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

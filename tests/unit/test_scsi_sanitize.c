/* SPDX-License-Identifier: BSD-3-Clause
 * SANITIZE (SBC-4 4.11, 5.30) over a RAM disk below a valve that can hold and fail requests. */
#include "scsi_bed.h"
#include "scsi/pi.h"
#include "scsi/service.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 8 << 20, BLOCKS = SIZE / 512 };

static void start(struct blk *blk)
{
	lu = bed_lu(NULL, blk);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
}

static void stop(void)
{
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
}

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	start(bed_valve(SIZE, BLK_WRITE_CACHE, 0));
	return 0;
}

static int teardown(void **state)
{
	stop();
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

#define OUT(by, data, len, ...) bed_run(by, 0, CDB(__VA_ARGS__), data, len, 0)

static void fill(uint64_t lba, uint8_t v)
{
	uint8_t buf[8 * 512];

	memset(buf, v, sizeof(buf));
	assert_good(bed_rw(n, 0, true, lba, 8, buf, sizeof(buf)));
}

static void expect(uint64_t lba, const uint8_t *want, unsigned len)
{
	struct answer a = bed_rw(n2, 0, false, lba, 1, NULL, 512);

	assert_good(a);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(a.data[i], want[i % len]);
}

static unsigned list(uint8_t *p, unsigned head, unsigned pattern_len, uint8_t v)
{
	memset(p, v, 4 + pattern_len);
	p[0] = (uint8_t)head;
	p[1] = 0;
	put_be16(p + 2, (uint16_t)pattern_len);
	return 4 + pattern_len;
}

/* Turns until the unit is ready again for nexus by. */
static void wait_ready(struct scsi_nexus *by)
{
	for (int i = 0; i < 1000 && RUN(by, 0, 0x00).status; i++)
		bed_settle();
	assert_good(RUN(by, 0, 0x00));
}

/* BLOCK ERASE writes zeros over what is stored and then gives the space back; SBC-4 5.30.2.3, 4.11.4. */
static void block_erase(void **state)
{
	fill(0, 0x61);
	fill(BLOCKS - 8, 0x62);
	uint64_t before = page_used_bytes();
	assert_true(before);
	unsigned writes = valve.op_seen[BLK_WRITE];
	assert_good(RUN(n, 0, 0x48, 0x02));
	assert_int_equal(valve.op_seen[BLK_WRITE] - writes, 2);
	assert_true(valve.op_seen[BLK_DISCARD] >= 1);
	assert_true(valve.op_seen[BLK_FLUSH] >= 2);
	expect(0, (const uint8_t[]){ 0 }, 1);
	expect(BLOCKS - 1, (const uint8_t[]){ 0 }, 1);
	struct answer a = RUN(n, 0, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0);
	assert_int_equal(a.len, 24);
	assert_int_equal(be32(a.data + 16), BLOCKS);
	assert_int_equal(a.data[20], 1);
	a = RUN(n, 0, 0x12, 1, 0xb1, 0, 64);
	assert_int_equal(a.data[7], 0x40);
}

/* OVERWRITE writes the pattern from the start of each block, as often as said, the last time not inverted; 5.30.2.2. */
static void overwrite(void **state)
{
	uint8_t p[4 + 600];

	fill(7, 0x61);
	unsigned len = list(p, 0x01, 3, 0);
	memcpy(p + 4, "abc", 3);
	assert_good(OUT(n, p, len, 0x48, 0x01, 0, 0, 0, 0, 0, 0, (uint8_t)len));
	expect(0, (const uint8_t *)"abc", 3);
	expect(7, (const uint8_t *)"abc", 3);
	expect(BLOCKS - 1, (const uint8_t *)"abc", 3);
	unsigned writes = valve.op_seen[BLK_WRITE];
	len = list(p, 0x80 | 2, 512, 0x0f);
	assert_good(OUT(n, p, len, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 4));
	expect(9, (const uint8_t[]){ 0x0f }, 1);
	assert_int_equal(valve.op_seen[BLK_WRITE] - writes, 2 * 8); /* of a MiB */
}

/* An even number of passes with INVERT begins inverted: seen while the second pass is held back; 5.30.2.2. */
static void invert(void **state)
{
	uint8_t p[8];
	unsigned len = list(p, 0x80 | 2, 4, 0x0f);

	valve.hold = true;
	assert_good(OUT(n, p, len, 0x48, 0x81, 0, 0, 0, 0, 0, 0, (uint8_t)len));
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(*(uint8_t *)valve.held[0]->req.iov[0].iov_base, 0xf0);
	valve_open();
	wait_ready(n);
	expect(3, (const uint8_t[]){ 0x0f }, 1);
}

/* Lengths and counts that make no sense are refused before anything is touched; table 110, 5.30.2.2. */
static void refused(void **state)
{
	static uint8_t p[600];

	for (unsigned i = 0; i < 5; i++)
		assert_sense(OUT(n, p, i, 0x48, 0x01, 0, 0, 0, 0, 0, 0, (uint8_t)i), 5, 0x24, 0);
	assert_sense(OUT(n, p, 517, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 5), 5, 0x24, 0);
	assert_sense(OUT(n, p, 8, 0x48, 0x02, 0, 0, 0, 0, 0, 0, 8), 5, 0x24, 0);
	assert_sense(RUN(n, 0, 0x48, 0x03), 5, 0x24, 0); /* CRYPTOGRAPHIC ERASE */
	list(p, 0, 512, 0);
	assert_sense(OUT(n, p, 516, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 4), 5, 0x26, 0);
	list(p, 1, 512, 0);
	put_be16(p + 2, 0);
	assert_sense(OUT(n, p, 516, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 4), 5, 0x26, 0);
	put_be16(p + 2, 513);
	assert_sense(OUT(n, p, 516, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 4), 5, 0x26, 0);
	p[0] = 0x21; /* TEST */
	assert_sense(OUT(n, p, 516, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 4), 5, 0x26, 0);
	list(p, 1, 512, 0);
	assert_sense(OUT(n, p, 100, 0x48, 0x01, 0, 0, 0, 0, 0, 2, 4), 5, 0x1a, 0); /* the list did not come whole */
	assert_int_equal(valve.op_seen[BLK_WRITE], 0);
	assert_good(RUN(n, 0, 0x48, 0x1f)); /* nothing failed: nothing to leave */
}

static void begin_held(void)
{
	uint8_t p[8];
	unsigned len = list(p, 1, 4, 0x55);

	valve.hold = true;
	assert_good(OUT(n, p, len, 0x48, 0x81, 0, 0, 0, 0, 0, 0, (uint8_t)len));
	bed_settle();
}

/* While it runs all but what 4.11.2 lists is NOT READY, with progress, in both formats of sense data. */
static void meanwhile(void **state)
{
	static const uint8_t ok[][16] = { { 0x12, 0, 0, 0, 36 }, { 0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0 }, { 0x03, 0, 0, 0, 18 },
		{ 0x25 }, { 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32 }, { 0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 1, 0 },
		{ 0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4 }, { 0x1a, 0, 0x08, 0, 255 }, { 0x5a, 0, 0x0a, 0, 0, 0, 0, 0, 255 } };
	static const uint8_t no[][16] = { { 0x00 }, { 0x28, 0, 0, 0, 0, 0, 0, 0, 1 }, { 0x1a, 0, 0x01, 0, 255 }, { 0x1b },
		{ 0x5e, 0, 0, 0, 0, 0, 0, 0, 255 }, { 0x48, 0x02 }, { 0x48, 0x1f }, { 0x35 }, { 0x16 } };

	begin_held();
	for (unsigned i = 0; i < ARRAY_LEN(ok); i++)
		assert_good(bed_run(i & 1 ? n2 : n, 0, ok[i], 16, NULL, 0, 4096));
	for (unsigned i = 0; i < ARRAY_LEN(no); i++)
		assert_sense(bed_run(i & 1 ? n2 : n, 0, no[i], 16, NULL, 0, 4096), 2, 0x04, 0x1b);
	valve_release(0);
	for (int i = 0; i < 3; i++) {
		bed_settle();
		valve_release(0);
	}
	bed_settle();
	struct answer a = RUN(n2, 0, 0x03, 0, 0, 0, 252);
	assert_int_equal(a.data[2], 2);
	assert_int_equal(a.data[12] << 8 | a.data[13], 0x041b);
	assert_int_equal(a.data[15], 0x80);
	assert_in_range(be16(a.data + 16), 65536 / 4 - 400, 65536 / 4); /* half of the first pass of two */
	a = RUN(n, 0, 0x03, 1, 0, 0, 252);
	assert_int_equal(a.data[8], 0x02);
	assert_in_range(be16(a.data + 8 + 5), 65536 / 4 - 400, 65536 / 4);
	valve_open();
	wait_ready(n);
	assert_good(RUN(n2, 0, 0x00));
	a = RUN(n2, 0, 0x03, 0, 0, 0, 252);
	assert_int_equal(a.data[2] | a.data[12] | a.data[15], 0);
}

/* Commands that wait for data when it begins end NOT READY; those that run are awaited first; 4.11.3. */
static void others(void **state)
{
	uint8_t buf[512] = { 0x77 };
	struct answer running, waiting, s;
	uint8_t p[8];
	unsigned len = list(p, 1, 4, 0x55);

	valve.hold = true;
	bed_start_cmd(bed_cmd(&running, n2, 0, CDB(0x2a, 0, 0, 0, 0, 5, 0, 0, 1), 0, 512), buf);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	struct scsi_cmd *w = bed_cmd(&waiting, n2, 0, CDB(0x2a, 0, 0, 0, 0, 5, 0, 0, 1), 0, 512);
	scsi_begin(w);
	bed_start_cmd(bed_cmd(&s, n, 0, CDB(0x48, 0x01, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
	bed_settle();
	assert_int_equal(waiting.done, 1);
	assert_int_equal(waiting.key << 16 | waiting.asc << 8 | waiting.ascq, 0x02041b);
	assert_int_equal(valve.nheld, 1); /* nothing is destroyed before the old write has ended */
	valve_open();
	bed_until(&s.done);
	assert_int_equal(running.done, 1);
	assert_good(running);
	assert_good(s);
	bed_free(&running);
	bed_free(&waiting);
	bed_free(&s);
	expect(5, (const uint8_t[]){ 0x55 }, 1);
}

/* Task management ends the command and not the work, a reset neither; 4.11.3 f. */
static void task_management(void **state)
{
	struct answer s;

	fill(0, 1);
	valve.hold = true;
	struct scsi_cmd *c = bed_cmd(&s, n, 0, CDB(0x48, 0x02), 0, 0);
	bed_start_cmd(c, NULL);
	bed_settle();
	assert_int_equal(bed_tmf(n, 0, SCSI_ABORT_TASK, c->tag), SCSI_TMF_COMPLETE);
	assert_true(s.aborted);
	bed_free(&s);
	assert_int_equal(bed_tmf(n2, 0, SCSI_LU_RESET, 0), SCSI_TMF_COMPLETE);
	bed_settle();
	assert_sense(RUN(n2, 0, 0x00), 6, 0x29, 0x03);
	assert_sense(RUN(n2, 0, 0x00), 2, 0x04, 0x1b);
	valve_open();
	wait_ready(n2);
	bed_ready(n, 0);
	expect(0, (const uint8_t[]){ 0 }, 1);
}

static void fail_with(uint8_t byte1)
{
	valve.fail = -EIO;
	assert_sense(RUN(n, 0, 0x48, byte1), 3, 0x31, 0x03);
	valve.fail = 0;
}

/* A failure is MEDIUM ERROR for every command until it is left as AUSE allows, or another one succeeds; 4.11.4. */
static void failure(void **state)
{
	fail_with(0x02);
	assert_sense(RUN(n2, 0, 0x00), 3, 0x31, 0x03);
	assert_sense(RUN(n2, 0, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 3, 0x31, 0x03);
	assert_good(RUN(n2, 0, 0x12, 0, 0, 0, 36));
	assert_int_equal(RUN(n2, 0, 0x03, 0, 0, 0, 18).data[2], 3);
	assert_sense(RUN(n2, 0, 0x48, 0x1f), 5, 0x24, 0); /* restricted */
	assert_sense(RUN(n2, 0, 0x48, 0x22), 5, 0x24, 0);
	stop();
	start(bed_valve(SIZE, BLK_WRITE_CACHE, 0)); /* over a restart too; the identity is another, the store the same */
	assert_sense(RUN(n2, 0, 0x00), 3, 0x31, 0x03);
	assert_good(RUN(n, 0, 0x48, 0x02));
	assert_good(RUN(n2, 0, 0x00));
	fail_with(0x22); /* AUSE */
	assert_sense(RUN(n2, 0, 0x00), 3, 0x31, 0x03);
	assert_good(RUN(n2, 0, 0x48, 0x1f));
	assert_good(RUN(n, 0, 0x00));
}

/* What does not read back as it was written is a failure, not success. */
static void verified(void **state)
{
	uint8_t p[8];
	unsigned len = list(p, 1, 4, 0x55);

	fill(0, 1);
	valve.drop = true;
	assert_sense(RUN(n, 0, 0x48, 0x22), 3, 0x31, 0x03);
	assert_sense(OUT(n, p, len, 0x48, 0x21, 0, 0, 0, 0, 0, 0, (uint8_t)len), 3, 0x31, 0x03);
	assert_good(RUN(n, 0, 0x48, 0x1f));
	expect(0, (const uint8_t[]){ 1 }, 1);
}

/* A restart in the middle: the unit is not ready at once, goes on by itself, and ends; 4.11.3 c. */
static void restart(void **state)
{
	begin_held();
	int close = 0;
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	lu_close(lu, bed_count, &close);
	valve_open();
	bed_until(&close);
	struct blk *blk = bed_valve(SIZE, BLK_WRITE_CACHE, 0);
	valve.hold = true;
	start(blk);
	assert_sense(RUN(n, 0, 0x00), 2, 0x04, 0x1b);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve_open();
	wait_ready(n);
	expect(BLOCKS - 1, (const uint8_t[]){ 0x55 }, 1);
	assert_int_equal(bed.saved[0][1], SANITIZE_NONE);
}

/* Where blocks have tuples these are destroyed too: all FFh, which escapes every check; SBC-4 5.30.2.2, 5.30.2.3. */
static void tuples(void **state)
{
	struct lu_conf conf = { .wce = true, .pi = 1 };
	struct err e = { 0 };
	struct blk *b;
	uint8_t p[8], write[16] = { 0x8a, 1 << 5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1 }, block[520] = { 0x77 };
	unsigned len = list(p, 1, 4, 0x55);

	stop();
	assert_int_equal(integrity_open_over(&b, bed_ram(SIZE), bed_ram(8 << 20), 512, &e), 0);
	lu = bed_lu(&conf, b);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	put_be16(block + 512, pi_guard(0, block, 512));
	put_be16(block + 514, 0x1234);
	put_be32(block + 516, 7);
	assert_good(bed_run(n, 0, write, 16, block, 520, 0));
	for (int i = 0; i < 2; i++) {
		assert_good(i ? RUN(n, 0, 0x48, 0x02) : OUT(n, p, len, 0x48, 0x01, 0, 0, 0, 0, 0, 0, (uint8_t)len));
		struct answer a = bed_run(n2, 0, CDB(0x88, 1 << 5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1), NULL, 0, 520);
		assert_good(a);
		assert_int_equal(a.data[0], i ? 0 : 0x55);
		assert_int_equal(be64(a.data + 512), UINT64_MAX);
		expect(7, (const uint8_t[]){ i ? 0 : 0x55 }, 1);
	}
}

/* What was saved and is damaged keeps the unit from starting: nobody may read what was to be destroyed. */
static void damaged(void **state)
{
	struct lu_conf conf = { .wce = true };
	struct err e = { 0 };
	struct lu *other;
	struct blk *blk = bed_ram(SIZE);

	bed_save(NULL, lu->id, "sanitize", "\1\1\2", 3);
	assert_int_equal(lu_open(&other, &lu_disk, "disk", &conf, blk, &bed.store, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "SANITIZE"));
	blk_close(blk);
}

/* SANITIZE writes: refused when write protected (4.11.1) or reserved by another nexus. */
static void gates(void **state)
{
	uint8_t swp[16] = { 0, 0, 0, 0, 0x0a, 0x0a, 0, 0x10, 0x08 };

	assert_good(RUN(n2, 0, 0x16));
	assert_int_equal(RUN(n, 0, 0x48, 0x02).status, SCSI_RESERVATION_CONFLICT);
	assert_good(RUN(n2, 0, 0x17));
	assert_good(OUT(n, swp, 16, 0x15, 0x10, 0, 0, 16));
	assert_sense(RUN(n, 0, 0x48, 0x02), 7, 0x27, 0x02);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(block_erase), T(overwrite), T(invert), T(refused), T(meanwhile), T(others),
		T(task_management), T(failure), T(verified), T(restart), T(tuples), T(damaged), T(gates) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

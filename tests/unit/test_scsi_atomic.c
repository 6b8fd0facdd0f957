/* SPDX-License-Identifier: BSD-3-Clause
 * Commands that promise to be whole: WRITE ATOMIC (SBC-4 4.29, 5.48), and what it says of its limits. PRE-FETCH. */
#include "scsi_bed.h"
#include "scsi/sbc.h"

static struct lu *lu;
static struct scsi_nexus *n0, *n1;
static uint8_t buf[2 << 20];

static int begin(struct blk *b)
{
	bed_start(BED_LOOPS);
	lu = bed_lu(NULL, b);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n0 = bed_nexus(0, 1);
	n1 = bed_nexus(1, 2);
	bed_ready(n0, 0);
	bed_ready(n1, 0);
	return 0;
}

static void end(void)
{
	bed_nexus_close(n0);
	bed_nexus_close(n1);
	bed_map(NULL, 0);
	bed_close(lu);
	bed_stop();
}

static struct answer atomic(struct scsi_nexus *n, uint64_t lba, uint16_t nblk, uint16_t boundary, uint32_t out)
{
	uint8_t cdb[16] = { 0x9c };

	put_be64(cdb + 2, lba);
	put_be16(cdb + 10, boundary);
	put_be16(cdb + 12, nblk);
	return bed_run(n, 0, cdb, 16, buf, out, 0);
}

/* VPD B0 says what the medium below can; a longer one, or a longer boundary, is refused at its field; SBC-4 4.29.1. */
static void test_limits(void **state)
{
	begin(bed_ram(64 << 20));
	struct answer a = RUN(n0, 0, 0x12, 1, 0xb0, 1, 0);
	assert_int_equal(be32(a.data + 44), 2048);
	assert_int_equal(be32(a.data + 56), 2048);
	assert_int_equal(be32(a.data + 60), 2048);
	memset(buf, 0x5a, sizeof(buf));
	assert_good(atomic(n0, 7, 2048, 0, 1 << 20));
	assert_good(atomic(n0, 7, 0, 0, 0));
	assert_good(atomic(n0, 7, 16, 8, 8192));
	assert_sense(atomic(n0, 7, 2049, 0, 2049 * 512), 5, 0x24, 0);
	assert_sense(atomic(n0, 7, 16, 2049, 8192), 5, 0x24, 0);
	assert_sense(atomic(n0, 131072, 1, 0, 512), 5, 0x21, 0);
	a = bed_rw(n1, 0, false, 7, 2048, buf, 1 << 20);
	assert_good(a);
	for (int i = 0; i < 1 << 20; i++)
		assert_int_equal(a.data[i], 0x5a);
	end();

	begin(bed_valve(1 << 20, 0, 0)); /* a stack that promises nothing has no such command */
	valve.blk->untorn_bytes = 0;
	a = RUN(n0, 0, 0x12, 1, 0xb0, 1, 0);
	assert_int_equal(be32(a.data + 44), 0);
	assert_sense(atomic(n0, 0, 1, 0, 512), 5, 0x20, 0);
	end();
}

/* The write goes down as one request that must not be torn; a read on another loop waits for it; SBC-4 4.29.3. */
static void test_one_request(void **state)
{
	struct answer w, r;
	uint8_t wc[16] = { 0x9c, [13] = 64 }, rc[16] = { 0x88, [13] = 64 };

	begin(bed_valve(1 << 20, 0, 0));
	memset(buf, 0x11, sizeof(buf));
	valve.hold = true;
	bed_start_cmd(bed_cmd(&w, n0, 0, wc, 16, 0, 64 * 512), buf);
	for (int i = 0; i < 1000 && !valve.nheld; i++)
		bed_turn();
	assert_int_equal(valve.nheld, 1);
	assert_true(valve.flags & BLK_ATOMIC);
	assert_int_equal(valve.held[0]->req.len, 64 * 512);
	bed_start_cmd(bed_cmd(&r, n1, 0, rc, 16, 64 * 512, 0), NULL);
	bed_settle();
	assert_int_equal(valve.nheld, 1); /* the read is not even below */
	valve_open();
	bed_until(&w.done);
	bed_until(&r.done);
	assert_good(r);
	assert_int_equal(r.data[0], 0x11);
	assert_int_equal(r.data[64 * 512 - 1], 0x11);
	bed_free(&w);
	bed_free(&r);
	free(r.data);
	end();
}

/* PRE-FETCH reads the blocks, up to the end with a length of 0, where that brings them nearer; IMMED does not wait for any;
 * a block that cannot be read is an error; SBC-4 5.13. */
static void test_prefetch(void **state)
{
	begin(bed_valve(2 << 20, 0, BLK_VOLATILE));
	assert_good(RUN(n0, 0, 0x34, 0, 0, 0, 0, 1, 0, 0x08, 0));
	assert_int_equal(valve.op_seen[BLK_READ], 2);
	assert_good(RUN(n0, 0, 0x34, 0, 0, 0, 0, 1, 0, 0, 0));
	assert_int_equal(valve.op_seen[BLK_READ], 6);
	assert_good(RUN(n0, 0, 0x34, 0x02, 0, 0, 0, 1, 0, 0, 1));
	assert_int_equal(valve.op_seen[BLK_READ], 6);
	valve.fail = -EIO;
	assert_sense(RUN(n0, 0, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1), 3, 0x11, 0);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefetch),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_one_request),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

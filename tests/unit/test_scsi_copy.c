/* SPDX-License-Identifier: BSD-3-Clause
 * EXTENDED COPY and ORWRITE that something comes in between: task management, a reservation, a unit that goes. */
#include "scsi_bed.h"

static struct scsi_nexus *n, *n2;
static struct lu *from, *to; /* LUN 0, LUN 1; the valve is below the destination */
enum { SIZE = 16 << 20, BLOCKS = 8192, EX_ACCESS = 3 };

static void map(unsigned count)
{
	struct scsi_lun luns[2] = { { 0, from }, { 1, to } };

	bed_map(luns, count);
}

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	from = bed_lu(NULL, bed_ram(SIZE));
	to = bed_lu(NULL, bed_valve(SIZE, 0, 0));
	map(2);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	for (unsigned lun = 0; lun < 2; lun++) {
		bed_ready(n, lun);
		bed_ready(n2, lun);
	}
	static uint8_t data[BLOCKS * 512];
	memset(data, 's', sizeof(data)); /* what is no hole goes through memory, as the valve knows no copies */
	assert_int_equal(bed_rw(n, 0, true, 0, BLOCKS, data, sizeof(data)).status, SCSI_GOOD);
	return 0;
}

static int teardown(void **state)
{
	valve_open();
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(from);
	if (to)
		bed_close(to);
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

static void finish(struct answer *a)
{
	bed_until(&a->done);
	bed_free(a);
	free(a->data);
	a->data = NULL;
}

static void put_cscd(uint8_t *p, const struct lu *lu)
{
	uint8_t have[512];
	size_t all = vpd_lu_designators(lu, have);

	p[0] = 0xe4;
	for (size_t at = 0; at < all; at += 4u + have[at + 3]) {
		if ((have[at + 1] & 0x3f) != 3)
			continue;
		p[4] = have[at] & 0x0f;
		p[5] = 3;
		p[7] = have[at + 3];
		memcpy(p + 8, have + at + 4, p[7]);
	}
}

/* Begins a copy of BLOCKS blocks from LUN 0 to LUN 1, sent to LUN 0. */
static void start_copy(struct answer *a, uint8_t id)
{
	uint8_t p[16 + 64 + 28] = { [0] = id, [3] = 64, [11] = 28 };
	uint8_t *s = p + 80;

	put_cscd(p + 16, from);
	put_cscd(p + 48, to);
	s[0] = 2;
	s[3] = 24;
	s[7] = 1;
	put_be16(s + 10, BLOCKS);
	bed_start_cmd(bed_cmd(a, n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p)), 0, sizeof(p)), p);
}

static uint8_t told_status(uint8_t id)
{
	return RUN(n, 0, 0x84, 0, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12).data[4];
}

static void small_turn(unsigned i)
{
	loop_turn(i % 3 ? loop_group.loop[i % 3 - 1] : bed.control, 0);
}

/* ABORT TASK and LOGICAL UNIT RESET at any step of a copy: it ends, is told as failed, and its range is free again for
 * everybody (SAM-5 7.2, 7.7; SPC-4 5.17.3). */
static void aborted(void **state)
{
	for (unsigned steps = 0; steps < 60; steps++) {
		uint8_t buf[512] = { 0 }, id = (uint8_t)(steps + 1);
		struct bed_tmf tmf;
		struct answer a;
		bool reset = steps & 1;
		start_copy(&a, id);
		for (unsigned i = 0; i < steps; i++)
			small_turn(i);
		bool before = a.done;
		bed_tmf_start(&tmf, n, 0, reset ? SCSI_LU_RESET : SCSI_ABORT_TASK, a.cmd->tag);
		bed_until(&tmf.done);
		finish(&a);
		assert_true(before || a.aborted);
		bed_ready(n, 0);
		if (reset) /* forgets results, SPC-4 6.25 */
			assert_sense(RUN(n, 0, 0x84, 0, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12), 5, 0x24, 0);
		else
			assert_int_equal(told_status(id), before ? 1 : 2);
		assert_int_equal(bed_rw(n2, 1, true, 0, 1, buf, 512).status, SCSI_GOOD);
	}
}

/* A copy whose destination leaves the nexus' map stops after the step under way: the unit can be closed. */
static void unit_goes(void **state)
{
	struct answer a;
	int closed = 0;

	valve.hold = true;
	start_copy(&a, 1);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	map(1);
	lu_close(to, bed_count, &closed);
	bed_settle();
	assert_int_equal(closed, 0);
	unsigned writes = valve.op_seen[BLK_WRITE];
	valve_open();
	finish(&a);
	assert_int_equal(a.status, SCSI_CHECK_CONDITION);
	assert_int_equal(a.key, 0x0a);
	bed_until(&closed);
	assert_int_equal(valve.op_seen[BLK_WRITE], writes);
	to = NULL;
	bed_ready(n, 0);
	assert_int_equal(told_status(1), 2);
}

static uint8_t reserve_out(struct scsi_nexus *by, uint8_t action, uint8_t type, uint64_t key, uint64_t new_key)
{
	struct answer a;
	uint8_t p[24] = { 0 };

	put_be64(p, key);
	put_be64(p + 8, new_key);
	bed_start_cmd(bed_cmd(&a, by, 1, CDB(0x5f, action, type, 0, 0, 0, 0, 0, 24), 0, 24), p);
	finish(&a);
	return a.status;
}

/* Once another nexus has reserved the destination, a copy under way writes no more to it: fencing holds for copies too,
 * though they were sent to another unit (SPC-4 5.12.1). What only maps or lists conflicts with exclusive access as reads
 * do (SBC-4 table 13). */
static void reserved(void **state)
{
	struct answer a;

	valve.hold = true;
	start_copy(&a, 1);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	unsigned writes = valve.op_seen[BLK_WRITE];
	assert_int_equal(reserve_out(n2, 0, 0, 0, 2), SCSI_GOOD);
	assert_int_equal(reserve_out(n2, 1, EX_ACCESS, 2, 0), SCSI_GOOD);
	valve_open();
	finish(&a);
	assert_sense(a, 0x0a, 0x0d, 0x02);
	assert_int_equal(valve.op_seen[BLK_WRITE], writes);
	assert_int_equal(RUN(n, 1, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(RUN(n, 1, 0x37, 0, 0, 0, 0, 0, 0, 0, 64).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(RUN(n, 1, 0xb7, 0, 0, 0, 0, 0, 0, 0, 0, 64).status, SCSI_RESERVATION_CONFLICT);
}

/* ORWRITE that waits for its range, because a write hangs there: ABORT TASK ends it at once, it changes nothing, and the
 * range is free after the write; also when its nexus goes. SBC-4 5.11, SAM-5 7.2. */
static void orwrite_waits(void **state)
{
	uint8_t ones[512], zeros[512] = { 0 };

	memset(ones, 0xff, sizeof(ones));
	for (unsigned steps = 0; steps < 24; steps++) {
		struct answer hung, a;
		struct bed_tmf tmf = { .done = 1 };
		int gone = 0;
		valve.hold = true;
		bed_start_cmd(bed_cmd(&hung, n2, 1, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 0, 512), zeros);
		bed_settle();
		bed_start_cmd(bed_cmd(&a, n, 1, CDB(0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 0, 512), ones);
		for (unsigned i = 0; i < steps; i++)
			small_turn(i);
		assert_int_equal(a.done, 0);
		if (steps & 1)
			bed_tmf_start(&tmf, n, 1, SCSI_ABORT_TASK, a.cmd->tag);
		else
			scsi_nexus_close(n, bed_count, &gone);
		finish(&a); /* the write still hangs */
		assert_true(a.aborted);
		assert_int_equal(hung.done, 0);
		bed_until(&tmf.done);
		if (!(steps & 1)) {
			bed_until(&gone);
			n = bed_nexus(0, 1);
			bed_ready(n, 1);
		}
		valve_open();
		finish(&hung);
		assert_int_equal(bed_rw(n2, 1, false, 0, 1, NULL, 512).data[0], 0);
		assert_int_equal(bed_rw(n, 1, true, 0, 1, zeros, 512).status, SCSI_GOOD);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(aborted), T(unit_goes), T(reserved), T(orwrite_waits) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

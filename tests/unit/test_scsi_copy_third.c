/* SPDX-License-Identifier: BSD-3-Clause
 * Copies between units of different targets (SPC-4 5.17.2, 6.4.5.6): allowed by the rights of another nexus of the same
 * initiator, wherever it lives, as long as that nexus is there and may; and the memory that copies hold. */
#include "copy_bed.h"

#define CLIENT "iqn.2026-01.test:client"
enum { NBLK = 4000, EX_ACCESS = 3 };
static struct scsi_target *second;
static struct scsi_nexus *other; /* of the second target, on the other loop */
static uint8_t data[NBLK * BS];

static struct scsi_nexus *at_second(const char *initiator, const char *principal)
{
	struct scsi_nexus *to = bed_nexus_at(second, 1, 7, initiator, principal);

	bed_ready(to, 0);
	return to;
}

/* Unit 0 in the first target, unit 1 in the second, both as LUN 0; valve below unit 1. */
static int setup_two(void **state)
{
	bed_start(BED_LOOPS);
	setup_on(bed_ram(SIZE), bed_valve(SIZE, 0, 0));
	second = scsi_target_new("iqn.2026-01.test:second");
	bed_map_of(second, &(struct scsi_lun){ 0, lu[1] }, 1);
	bed_map(&(struct scsi_lun){ 0, lu[0] }, 1);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rnd(256);
	assert_good(bed_rw(n, 0, true, 0, NBLK, data, sizeof(data)));
	other = at_second(CLIENT, "user client");
	return 0;
}

static int teardown_two(void **state)
{
	valve_open();
	if (other)
		bed_nexus_close(other);
	other = NULL;
	bed_map_of(second, NULL, 0);
	teardown(state);
	scsi_target_free(second);
	return 0;
}

static struct answer copy(unsigned src, unsigned dst, bool lid4)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, lid4, false, 1, src, dst, 0, 0, NBLK);

	return bed_run(n, 0, CDB(0x83, lid4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
}

static void start(struct answer *a, bool lid4, bool immed, uint32_t id)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, lid4, immed, id, 0, 1, 0, 0, NBLK);

	bed_start_cmd(bed_cmd(a, n, 0, CDB(0x83, lid4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
}

static void finish(struct answer *a)
{
	bed_until(&a->done);
	bed_settle();
	bed_free(a);
}

/* Both ways, and by both commands; the data arrives. */
static void both_ways(void **state)
{
	static uint8_t back[NBLK * BS];

	assert_good(copy(0, 1, false));
	assert_memory_equal(bed_rw(other, 0, false, 0, NBLK, NULL, sizeof(data)).data, data, sizeof(data));
	memset(back, 0x3c, sizeof(back));
	assert_good(bed_rw(other, 0, true, 0, NBLK, back, sizeof(back)));
	assert_good(copy(1, 0, true));
	assert_memory_equal(bed_rw(n, 0, false, 0, NBLK, NULL, sizeof(back)).data, back, sizeof(back));
	assert_good(copy(1, 1, true)); /* onto itself, by the other's rights alone */
}

/* Without a session with the other target, and with one of another name or another proof, the unit is none that this
 * initiator reaches. */
static void nobody_vouches(void **state)
{
	static const char *const who[][2] = { { "iqn.2026-01.test:else", "user client" }, { CLIENT, "user else" } };

	bed_nexus_close(other);
	other = NULL;
	assert_sense(copy(0, 1, false), 0xa, 0x0d, 2);
	for (unsigned i = 0; i < ARRAY_LEN(who); i++) {
		other = at_second(who[i][0], who[i][1]);
		assert_sense(copy(0, 1, false), 0xa, 0x0d, 2);
		assert_sense(copy(1, 0, true), 0xa, 0x0d, 2);
		bed_nexus_close(other);
	}
	other = at_second(CLIENT, "user client");
	assert_good(copy(0, 1, false));
	bed_map_of(second, NULL, 0);
	assert_sense(copy(0, 1, false), 0xa, 0x0d, 2);
}

static uint8_t reserve_out(struct scsi_nexus *by, uint8_t action, uint8_t type, uint64_t key, uint64_t new_key)
{
	uint8_t p[24] = { 0 };

	put_be64(p, key);
	put_be64(p + 8, new_key);
	return bed_run(by, 0, CDB(0x5f, action, type, 0, 0, 0, 0, 0, 24), p, 24, 0).status;
}

/* The other nexus' rights are what counts: a reservation of somebody else keeps the copy out, its own does not. */
static void reserved(void **state)
{
	struct scsi_nexus *else_ = at_second("iqn.2026-01.test:else", "user else");

	assert_int_equal(reserve_out(else_, 0, 0, 0, 2), SCSI_GOOD);
	assert_int_equal(reserve_out(else_, 1, EX_ACCESS, 2, 0), SCSI_GOOD);
	assert_sense(copy(0, 1, false), 0xa, 0x0d, 2);
	assert_sense(copy(1, 0, false), 0xa, 0x0d, 2);
	assert_int_equal(reserve_out(else_, 3, 0, 2, 0), SCSI_GOOD);
	bed_ready(other, 0);
	assert_int_equal(reserve_out(other, 0, 0, 0, 3), SCSI_GOOD);
	assert_int_equal(reserve_out(other, 1, EX_ACCESS, 3, 0), SCSI_GOOD);
	assert_good(copy(0, 1, false));
	bed_nexus_close(else_);
}

/* The session with the other target ends while a copy is under way, or its map loses the unit, which is then closed: no
 * later step writes there, and nothing holds the unit. */
static void session_ends(void **state)
{
	for (unsigned unmap = 0; unmap < 2; unmap++) {
		struct answer a;
		valve.hold = true;
		start(&a, false, false, 1);
		bed_settle();
		assert_int_equal(valve.nheld, 1);
		if (unmap) {
			bed_map_of(second, NULL, 0);
		} else {
			bed_nexus_close(other);
			other = NULL;
		}
		unsigned writes = valve.op_seen[BLK_WRITE];
		valve_open();
		finish(&a);
		assert_sense(a, 0xa, 0x0d, 2);
		assert_true(valve.op_seen[BLK_WRITE] <= writes + 1); /* that step, of 1 MiB in parts of 512 KiB */
		if (!unmap)
			other = at_second(CLIENT, "user client");
	}
	bed_close(lu[1]);
	lu[1] = NULL;
}

/* A unit is closed, or a command aborted, or its session ended, at any moment while its other unit is looked for and the
 * copy goes on, in front and in the background: all end, and nothing is left behind. */
static void any_moment(void **state)
{
	for (unsigned steps = 0; steps < 90; steps++) {
		struct bed_tmf tmf = { .done = 1 };
		int gone = 1, closed = 1, mapped = 1;
		struct answer a;
		start(&a, steps & 1, steps & 1, steps);
		for (unsigned i = 0; i < steps / 3; i++)
			small_turn(i);
		if (steps % 3 == 0) {
			bed_tmf_start(&tmf, n, 0, SCSI_ABORT_TASK, a.cmd->tag);
		} else if (steps % 3 == 1) {
			scsi_nexus_close(n, bed_count, (gone = 0, &gone));
		} else {
			scsi_target_set_luns(second, NULL, 0, bed_count, (mapped = 0, &mapped));
			bed_until(&mapped);
			lu_close(lu[1], bed_count, (closed = 0, &closed));
		}
		finish(&a);
		bed_until(&tmf.done);
		bed_until(&gone);
		bed_until(&closed);
		if (steps % 3 == 1) {
			n = bed_nexus(0, 1);
			bed_ready(n, 0);
		} else if (steps % 3 == 2) {
			lu[1] = bed_lu(NULL, bed_valve(SIZE, 0, 0));
			bed_map_of(second, &(struct scsi_lun){ 0, lu[1] }, 1);
			bed_ready(other, 0);
		}
	}
	bed_ready(n, 0);
	assert_good(copy(0, 1, false));
}

/* A token of the other target's unit is good here, for who has a session there; for others it is unknown. */
static void token(void **state)
{
	const struct run all = { 0, 2048 };
	uint8_t t[TOKEN_BYTES];

	assert_good(bed_rw(other, 0, true, 0, 2048, data, 2048 * BS));
	assert_good(bed_run(n, 0, CDB(0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16), (uint8_t[BS]){ 0 }, BS, 0));
	assert_good(populate(other, 0, 0, &all, 1, t));
	assert_good(use(n, 0, t, 0, &all, 1, 0));
	assert_memory_equal(bed_rw(n, 0, false, 0, 2048, NULL, 2048 * BS).data, data, 2048 * BS);
	bed_nexus_close(other);
	other = NULL;
	assert_sense(use(n, 0, t, 0, &all, 1, 0), 5, 0x23, 4);
	other = at_second("iqn.2026-01.test:else", "user client");
	assert_sense(use(n, 0, t, 0, &all, 1, 0), 5, 0x23, 4);
}

/* Copies through memory hold no more of it than they may, and all end; one that waits for memory can be aborted while
 * those that have it hang. */
static void memory(void **state)
{
	struct scsi_loop *sl = scsi_loop(n->loop);
	struct answer a[5];
	struct bed_tmf tmf;

	scsi_copy_budget(2 * COPY_PART);
	valve.hold = true;
	for (unsigned i = 0; i < ARRAY_LEN(a); i++) {
		uint8_t p[160];
		uint32_t len = xcopy_list(p, false, false, i, 0, 1, i * 100, i * 3000, 100);
		bed_start_cmd(bed_cmd(&a[i], n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
	}
	bed_settle();
	assert_int_equal(sl->copy_bytes, 2 * COPY_PART);
	assert_int_equal(valve.nheld, 2);
	bed_tmf_start(&tmf, n, 0, SCSI_ABORT_TASK, a[4].cmd->tag);
	bed_until(&tmf.done);
	finish(&a[4]);
	assert_true(a[4].aborted);
	valve_open();
	for (unsigned i = 0; i < 4; i++) {
		finish(&a[i]);
		assert_good(a[i]);
	}
	assert_int_equal(sl->copy_bytes, 0);
	scsi_copy_budget(0); /* one can always go on */
	assert_good(copy(0, 1, false));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup_two, teardown_two)

int main(void)
{
	const struct CMUnitTest tests[] = { T(both_ways), T(nobody_vouches), T(reserved), T(session_ends), T(any_moment),
		T(token), T(memory) };

	rng = 0x9e3779b97f4a7c15;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

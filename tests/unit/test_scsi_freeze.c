/* SPDX-License-Identifier: BSD-3-Clause
 * Commands of several loops that meet in one range: freezes, COMPARE AND WRITE, task management, nexus loss with
 * writes that hang. The valve below holds requests until a test lets them go. */
#include "scsi_bed.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 16 << 20 };

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	lu = bed_lu(NULL, bed_valve(SIZE, 0, 0));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	return 0;
}

static int teardown(void **state)
{
	valve_open();
	if (n)
		bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

static void start_rw(struct answer *a, struct scsi_nexus *by, bool write, uint8_t lba, uint8_t nblk, const void *data)
{
	uint32_t bytes = nblk * 512u;

	bed_start_cmd(bed_cmd(a, by, 0, CDB(write ? 0x2a : 0x28, 0, 0, 0, 0, lba, 0, 0, nblk), write ? 0 : bytes,
		write ? bytes : 0), data);
}

static void start_caw(struct answer *a, struct scsi_nexus *by, uint8_t lba, const uint8_t *data)
{
	bed_start_cmd(bed_cmd(a, by, 0, CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 1), 0, 1024), data);
}

static void finish(struct answer *a)
{
	bed_until(&a->done);
	bed_free(a);
	free(a->data);
	a->data = NULL;
}

/* COMPARE AND WRITE starts when older overlapping commands of every loop have ended, and holds newer ones, reads
 * too, until it has ended; what does not overlap goes on; SBC-4 5.3 (one uninterrupted series). */
static void compare_and_write_holds(void **state)
{
	uint8_t one[512], data[1024] = { 0 };
	struct answer old, caw, late, other;

	memset(one, 1, 512);
	memset(data, 1, 512);
	memset(data + 512, 2, 512);
	valve.hold = true;
	start_rw(&old, n2, true, 5, 1, one);
	assert_int_equal(valve.nheld, 1);
	start_caw(&caw, n, 5, data);
	bed_settle();
	assert_int_equal(valve.nheld, 1); /* it waits for the write of the other loop */
	start_rw(&late, n2, false, 4, 2, NULL);
	start_rw(&other, n2, false, 6, 1, NULL);
	bed_settle();
	assert_int_equal(valve.nheld, 2); /* the late one is held by us, the other one by the valve */
	assert_int_equal(late.cmd->state, SCSI_CMD_HELD);
	valve_release(0);
	finish(&old);
	bed_settle();
	assert_int_equal(valve.nheld, 2);
	assert_int_equal(late.cmd->state, SCSI_CMD_HELD);
	valve_open();
	finish(&other);
	finish(&caw);
	assert_good(caw);
	bed_until(&late.done);
	assert_memory_equal(late.data + 512, data + 512, 512); /* it saw what was written */
	finish(&late);
	assert_good(late);
}

/* Of two COMPARE AND WRITE commands that overlap, on two loops, the second reads only when the first has written. */
static void compare_and_write_queue(void **state)
{
	uint8_t data[1024] = { 0 };
	struct answer first, second;

	memset(data + 512, 3, 512);
	valve.hold = true;
	start_caw(&first, n, 9, data);
	start_caw(&second, n2, 9, data);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve_release(0); /* the read; its write comes */
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(valve.held[0]->req.op, BLK_WRITE);
	valve_release(0);
	bed_settle();
	valve_open();
	finish(&first);
	finish(&second);
	assert_int_equal(first.status + second.status, SCSI_CHECK_CONDITION);
}

/* Many COMPARE AND WRITE commands of two loops on one block: each that succeeds saw the value of the one before. */
static void compare_and_write_counts(void **state)
{
	enum { ROUNDS = 200 };
	static uint8_t data[2][1024];
	struct answer a[2];
	uint64_t value = 0, won = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		for (unsigned k = 0; k < 2; k++) {
			put_be64(data[k], value);
			put_be64(data[k] + 512, value + 1);
			start_caw(&a[k], k ? n2 : n, 9, data[k]);
		}
		finish(&a[0]);
		finish(&a[1]);
		assert_int_equal(a[0].status + a[1].status, SCSI_CHECK_CONDITION); /* one of the two */
		won += (a[0].status == 0) + (a[1].status == 0);
		struct answer now = bed_rw(n, 0, false, 9, 1, NULL, 512);
		value = be64(now.data);
	}
	assert_int_equal(value, ROUNDS);
	assert_int_equal(won, ROUNDS);
}

/* ABORT TASK answers only when the write that it aborted can not touch the medium any more; SAM-5 7.2. */
static void abort_waits(void **state)
{
	uint8_t one[512] = { 1 };
	struct answer a;
	struct bed_tmf t;

	valve.hold = true;
	start_rw(&a, n, true, 5, 1, one);
	bed_tmf_start(&t, n, 0, SCSI_ABORT_TASK, a.cmd->tag);
	bed_settle();
	assert_int_equal(t.done, 0);
	valve_open();
	bed_until(&t.done);
	assert_int_equal(t.t.result, SCSI_TMF_COMPLETE);
	assert_int_equal(a.done, 1);
	assert_true(a.aborted);
	bed_free(&a);
	assert_int_equal(bed_tmf(n, 0, SCSI_ABORT_TASK, 12345), SCSI_TMF_NO_TASK);
	assert_int_equal(bed_tmf(n, 3, SCSI_ABORT_TASK, 12345), SCSI_TMF_NO_LUN);
}

/* An abort at any point of a COMPARE AND WRITE ends it exactly once, done or aborted; SAM-5 7.2. */
static void abort_anywhere(void **state)
{
	static uint8_t data[1024];
	struct answer a;

	for (unsigned turns = 0; turns < 40; turns++) {
		struct bed_tmf t;
		struct scsi_nexus *by = turns % 2 ? n : n2;
		start_caw(&a, by, 5, data);
		for (unsigned i = 0; i < turns / 4; i++)
			loop_turn(loop_group.loop[(turns / 2 + i) % 2], 0);
		bed_tmf_start(&t, by, 0, SCSI_ABORT_TASK, a.cmd->tag);
		for (unsigned i = 0; i < 4; i++)
			loop_turn(loop_group.loop[i % 2], 0);
		bed_until(&t.done);
		assert_int_equal(a.done, 1);
		bed_settle();
		assert_int_equal(a.done, 1);
		assert_true(a.aborted || a.status == SCSI_GOOD);
		bed_free(&a);
	}
}

/* Commands that wait for data or are held end at once when aborted; SAM-5 7. */
static void abort_waiting(void **state)
{
	uint8_t data[1024] = { 0 };
	struct answer wait, held, caw, old;
	struct bed_tmf t;

	valve.hold = true;
	start_rw(&old, n2, true, 5, 1, data);
	for (unsigned turns = 0; turns < 6; turns++) { /* at every point of its freeze */
		start_caw(&caw, n2, 5, data);
		for (unsigned i = 0; i < turns; i++)
			bed_turn();
		assert_int_equal(bed_tmf(n2, 0, SCSI_ABORT_TASK, caw.cmd->tag), SCSI_TMF_COMPLETE);
		assert_true(caw.aborted);
		bed_free(&caw);
	}
	start_caw(&caw, n2, 5, data);
	bed_settle();
	start_rw(&held, n, false, 5, 1, NULL);
	bed_settle();
	assert_int_equal(held.cmd->state, SCSI_CMD_HELD);
	scsi_begin(bed_cmd(&wait, n, 0, CDB(0x2a, 0, 0, 0, 0, 5, 0, 0, 1), 0, 512));
	bed_tmf_start(&t, n, 0, SCSI_ABORT_TASK_SET, 0);
	bed_until(&t.done);
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(old.done, 0); /* another nexus' */
	assert_true(wait.aborted && held.aborted);
	bed_free(&wait);
	bed_free(&held);
	bed_tmf_start(&t, n, 0, SCSI_LU_RESET, 0); /* takes the rest, of which one hangs below */
	bed_settle();
	assert_int_equal(t.done, 0);
	valve_open();
	bed_until(&t.done);
	assert_true(old.aborted && caw.aborted);
	bed_free(&old);
	bed_free(&caw);
}

/* CLEAR TASK SET aborts the commands of others and tells them 2F/00; QUERY finds what is there; SAM-5 7.5, 7.6. */
static void clear_task_set(void **state)
{
	struct answer a;

	scsi_begin(bed_cmd(&a, n2, 0, CDB(0x2a, 0, 0, 0, 0, 5, 0, 0, 1), 0, 512));
	assert_int_equal(bed_tmf(n2, 0, SCSI_QUERY_TASK, a.cmd->tag), SCSI_TMF_SUCCEEDED);
	assert_int_equal(bed_tmf(n2, 0, SCSI_QUERY_TASK, a.cmd->tag + 1), SCSI_TMF_COMPLETE);
	assert_int_equal(bed_tmf(n2, 0, SCSI_QUERY_TASK_SET, 0), SCSI_TMF_SUCCEEDED);
	assert_int_equal(bed_tmf(n, 0, SCSI_QUERY_TASK_SET, 0), SCSI_TMF_COMPLETE);
	assert_int_equal(bed_tmf(n, 0, SCSI_CLEAR_TASK_SET, 0), SCSI_TMF_COMPLETE);
	assert_true(a.aborted);
	bed_free(&a);
	assert_int_equal(bed_tmf(n2, 0, SCSI_QUERY_ASYNC_EVENT, 0), SCSI_TMF_SUCCEEDED);
	assert_sense(RUN(n2, 0, 0x00), 6, 0x2f, 0x00);
	assert_good(RUN(n2, 0, 0x00));
	assert_good(RUN(n, 0, 0x00));
	assert_int_equal(bed_tmf(n, 0, SCSI_CLEAR_ACA, 0), SCSI_TMF_COMPLETE); /* there is none */
	assert_int_equal(bed_tmf(n, 0, SCSI_I_T_NEXUS_RESET, 0), SCSI_TMF_COMPLETE);
	assert_sense(RUN(n, 0, 0x00), 6, 0x29, 0x07);
}

/* A write that hangs below when its nexus is lost keeps its range: another nexus' later write to it waits and so
 * comes after; gone() waits too. What does not overlap goes on. */
static void ghost_write(void **state)
{
	uint8_t old[512], new[512];
	struct answer ghost, late, other;
	int gone = 0;

	memset(old, 1, 512);
	memset(new, 2, 512);
	valve.hold = true;
	start_rw(&ghost, n, true, 5, 1, old);
	scsi_nexus_close(n, bed_count, &gone);
	n = NULL;
	bed_settle();
	valve.hold = false;
	assert_int_equal(gone, 0);
	start_rw(&late, n2, true, 5, 1, new);
	start_rw(&other, n2, true, 6, 1, new);
	finish(&other);
	bed_settle();
	assert_int_equal(late.done, 0);
	valve_open();
	bed_until(&gone);
	assert_true(ghost.aborted);
	bed_free(&ghost);
	finish(&late);
	assert_good(late);
	struct answer a = bed_rw(n2, 0, false, 5, 1, NULL, 512);
	assert_memory_equal(a.data, new, 512);
}

/* COMPARE AND WRITE commands that overlap in a ring, over both loops, all end: overlapping freezes queue. */
static void no_deadlock(void **state)
{
	static uint8_t data[8192];
	struct answer a[16];

	for (unsigned turn = 0; turn < 20; turn++) {
		for (unsigned i = 0; i < 16; i++) {
			uint8_t blocks = (uint8_t)(1 + (i + turn) % 7), lba = (uint8_t)(i * 3 % 11);
			bed_start_cmd(bed_cmd(&a[i], i % 2 ? n : n2, 0, CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0,
				blocks), 0, blocks * 1024u), data);
			if (i % 5 == turn % 5)
				bed_turn();
		}
		for (unsigned i = 0; i < 16; i++) {
			finish(&a[i]);
			assert_good(a[i]);
		}
	}
}

/* UNMAP of several ranges is held by a freeze in between them; its range is known only with its data. */
static void unmap_held(void **state)
{
	uint8_t list[40] = { 0, 38, 0, 32 }, data[1024] = { 0 };
	struct answer caw, unmap;

	list[15] = 2;
	list[19] = 1;
	list[31] = 9;
	list[35] = 1;
	valve.hold = true;
	start_caw(&caw, n, 5, data);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	bed_start_cmd(bed_cmd(&unmap, n2, 0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40), 0, 40), list);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(unmap.cmd->state, SCSI_CMD_HELD);
	valve_open();
	finish(&caw);
	finish(&unmap);
	assert_good(unmap);
	assert_int_equal(valve.op_seen[BLK_DISCARD], 2);
}

static void start_attr(struct answer *a, struct scsi_nexus *by, uint8_t lba, uint8_t attr)
{
	struct scsi_cmd *c = bed_cmd(a, by, 0, CDB(0x28, 0, 0, 0, 0, lba, 0, 0, 1), 512, 0);

	c->attr = attr;
	bed_start_cmd(c, NULL);
}

/* An ORDERED command starts when the older ones of its nexus have ended and holds the newer ones; HEAD OF QUEUE
 * and other nexuses pass; aborting it lets the others go; SAM-5 8.6. */
static void ordered(void **state)
{
	struct answer old, ord, late, head, other;

	valve.hold = true;
	start_attr(&old, n, 1, SCSI_SIMPLE);
	start_attr(&ord, n, 2, SCSI_ORDERED);
	start_attr(&late, n, 3, SCSI_SIMPLE);
	start_attr(&head, n, 4, SCSI_HEAD_OF_QUEUE);
	start_attr(&other, n2, 5, SCSI_SIMPLE);
	bed_settle();
	assert_int_equal(valve.nheld, 3);
	assert_int_equal(ord.cmd->state, SCSI_CMD_HELD);
	valve_release(0);
	finish(&old);
	bed_settle();
	assert_int_equal(valve.nheld, 3);
	assert_int_equal(ord.cmd->state, SCSI_CMD_RUNNING);
	assert_int_equal(late.cmd->state, SCSI_CMD_HELD);
	valve_open();
	finish(&ord);
	finish(&late);
	finish(&head);
	finish(&other);
	valve.hold = true;
	start_attr(&old, n, 1, SCSI_SIMPLE);
	start_attr(&ord, n, 2, SCSI_ORDERED);
	start_attr(&late, n, 3, SCSI_SIMPLE);
	struct bed_tmf t;
	bed_tmf_start(&t, n, 0, SCSI_ABORT_TASK, ord.cmd->tag);
	bed_until(&t.done);
	assert_true(ord.aborted);
	bed_free(&ord);
	assert_int_equal(late.cmd->state, SCSI_CMD_RUNNING);
	valve_open();
	finish(&old);
	finish(&late);
}

/* A unit leaves while a command of it hangs: it closes only when that has ended. */
static void close_waits(void **state)
{
	struct lu *second = bed_lu(NULL, bed_ram(1 << 20));
	struct scsi_lun swap[1] = { { 0, second } };
	uint8_t one[512] = { 1 };
	struct answer a;
	int gone = 0;

	valve.hold = true;
	start_rw(&a, n2, true, 5, 1, one);
	bed_map(swap, 1);
	lu_close(lu, bed_count, &gone);
	bed_settle();
	assert_int_equal(gone, 0);
	valve_open();
	finish(&a);
	bed_until(&gone);
	lu = second;
}

static int granted, broken;

static void count_granted(struct lu_freeze *fz)
{
	granted++;
}

static void count_broken(struct lu_freeze *fz)
{
	broken++;
}

/* A lease lets reads pass, and writes beside it; a write to it takes it away from every loop before it begins, and its owner
 * hears of it once; docs/design/0011. */
static void lease_breaks(void **state)
{
	struct lu_loop *here = lu_on(lu, n->loop), *there = lu_on(lu, n2->loop);
	uint8_t data[512] = { 0 };
	struct answer a;

	granted = broken = 0;
	struct lu_freeze *fz = lu_lease(here, 4096, 4096, 77, NULL, count_granted, count_broken);
	bed_until(&granted);
	assert_true(lu_leased(here, 77) && lu_leased(there, 77));
	valve.hold = true;
	start_rw(&a, n2, false, 8, 8, NULL);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve_release(0);
	finish(&a);
	start_rw(&a, n2, true, 7, 1, data);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve_release(0);
	finish(&a);
	assert_int_equal(broken, 0);
	start_rw(&a, n2, true, 8, 1, data);
	assert_int_equal(a.cmd->state, SCSI_CMD_FREEZING);
	for (int i = 0; i < 1000 && !valve.nheld; i++)
		bed_turn();
	assert_int_equal(valve.nheld, 1);
	assert_false(lu_leased(here, 77) || lu_leased(there, 77));
	bed_settle();
	assert_int_equal(broken, 1);
	lu_thaw(fz);
	valve_open();
	finish(&a);
	assert_good(a);
	bed_settle();
	assert_int_equal(broken, 1);
}

/* Whatever step of its life a lease is thawed at, and whether a write comes or is aborted, nothing stays behind, and the
 * write ends. */
static void lease_ends_anyhow(void **state)
{
	uint8_t data[512] = { 0 };

	for (unsigned steps = 0; steps < 60; steps++) {
		struct bed_tmf tmf = { .done = 1 };
		struct answer a;
		granted = broken = 0;
		struct lu_freeze *fz = lu_lease(lu_on(lu, n->loop), 0, 4096, 1 + steps, NULL, count_granted, count_broken);
		if (steps % 3)
			bed_settle();
		start_rw(&a, n2, true, 0, 1, data);
		for (unsigned i = 0; i < steps / 2; i++)
			loop_turn(i % 3 ? loop_group.loop[i % 3 - 1] : bed.control, 0);
		if (steps & 1)
			bed_tmf_start(&tmf, n2, 0, SCSI_ABORT_TASK, a.cmd->tag);
		lu_thaw(fz);
		finish(&a);
		bed_until(&tmf.done);
		bed_settle();
		assert_true(list_empty(&lu->freezes));
		assert_int_equal(lu_on(lu, n->loop)->users, 0);
		assert_true(list_empty(&lu_on(lu, n2->loop)->frozen));
		assert_true(broken <= 1);
	}
}

/* Two freezes that only hold writes back do not wait for each other; one request with two ranges holds both, and not what
 * lies between. */
static void two_ranges(void **state)
{
	struct lu_range r[2] = { { 0, 4096, FREEZE_WRITES }, { 16384, 4096, FREEZE_ALL } };
	struct lu_range w[2] = { { 0, 8192, FREEZE_WRITES } };
	uint8_t data[512] = { 0 };
	struct answer in, out, between;

	granted = 0;
	struct lu_freeze *a = lu_freeze_ranges(lu_on(lu, n->loop), r, NULL, count_granted);
	struct lu_freeze *b = lu_freeze_ranges(lu_on(lu, n2->loop), w, NULL, count_granted);
	bed_settle();
	assert_int_equal(granted, 2);
	assert_good(bed_rw(n2, 0, false, 0, 1, NULL, 512));
	start_rw(&in, n2, true, 1, 1, data);
	start_rw(&out, n2, false, 33, 1, NULL);
	start_rw(&between, n2, true, 20, 1, data);
	finish(&between);
	assert_good(between);
	assert_int_equal(in.done + out.done, 0);
	lu_thaw(a);
	finish(&out);
	assert_int_equal(in.done, 0);
	lu_thaw(b);
	finish(&in);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(lease_breaks), T(lease_ends_anyhow), T(two_ranges), T(compare_and_write_holds), T(compare_and_write_queue),
		T(compare_and_write_counts), T(abort_waits), T(abort_anywhere),
		T(abort_waiting), T(clear_task_set), T(ghost_write), T(no_deadlock), T(unmap_held), T(ordered), T(close_waits) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

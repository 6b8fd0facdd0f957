/* SPDX-License-Identifier: BSD-3-Clause
 * PERSISTENT RESERVE OUT over two loops: commands that preempt and abort each other, a nexus that goes in the middle
 * of a change, and what survives a power loss. */
#include "scsi_bed.h"
#include "scsi/pr.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 1 << 20, EX_ACCESS = 3 };

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
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

static void start_out(struct answer *a, struct scsi_nexus *by, uint8_t action, uint8_t type, uint64_t key,
	uint64_t new_key, uint8_t flags)
{
	uint8_t p[24] = { [20] = flags };

	put_be64(p, key);
	put_be64(p + 8, new_key);
	bed_start_cmd(bed_cmd(a, by, 0, CDB(0x5f, action, type, 0, 0, 0, 0, 0, 24), 0, 24), p);
}

static void finish(struct answer *a)
{
	bed_until(&a->done);
	bed_free(a);
	free(a->data);
	a->data = NULL;
}

static uint8_t out(struct scsi_nexus *by, uint8_t action, uint8_t type, uint64_t key, uint64_t new_key, uint8_t flags)
{
	struct answer a;

	start_out(&a, by, action, type, key, new_key, flags);
	finish(&a);
	bed_settle();
	return a.status;
}

static void start_write(struct answer *a, struct scsi_nexus *by)
{
	static const uint8_t data[512];

	bed_start_cmd(bed_cmd(a, by, 0, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 0, 512), data);
}

static uint8_t write_status(struct scsi_nexus *by)
{
	uint8_t data[512] = { 0 };

	return bed_rw(by, 0, true, 0, 1, data, 512).status;
}

/* One turn of one loop: so that everything may fall between any two steps. */
static void small_turn(unsigned i)
{
	loop_turn(i % 3 ? loop_group.loop[i % 3 - 1] : bed.control, 0);
}

/* Two nexuses preempt each other at once: one wins, the other is out, both commands end (SPC-4 5.12.11.2.6). */
static void against_each_other(void **state)
{
	for (unsigned head = 0; head < 24; head++) {
		struct answer a, b;
		out(n, 6, 0, 0, 1, 0);
		out(n2, 6, 0, 0, 2, 0);
		bed_ready(n, 0);
		bed_ready(n2, 0);
		assert_int_equal(out(n, 1, EX_ACCESS, 1, 0, 0), SCSI_GOOD);
		start_out(&a, n, 5, EX_ACCESS, 1, 2, 0);
		for (unsigned i = 0; i < head; i++)
			small_turn(i);
		start_out(&b, n2, 5, EX_ACCESS, 2, 1, 0);
		finish(&a);
		finish(&b);
		bed_settle();
		bool first = !a.aborted && a.status == SCSI_GOOD, second = !b.aborted && b.status == SCSI_GOOD;
		assert_true(first != second);
		bed_ready(n, 0);
		bed_ready(n2, 0);
		assert_int_equal(write_status(first ? n : n2), SCSI_GOOD);
		assert_int_equal(write_status(first ? n2 : n), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(out(first ? n : n2, 3, 0, first ? 1 : 2, 0, 0), SCSI_GOOD);
	}
}

/* Two that wait for a write of the preempted, which hangs, and are reset meanwhile, do not wait for each other when
 * it has ended: SAM-5 7.8, a reset comes to an end. */
static void reset_while_waiting(void **state)
{
	struct scsi_nexus *second = bed_nexus(0, 2), *third = bed_nexus(0, 3), *fourth = bed_nexus(1, 4);
	struct answer hung, a, b;
	struct bed_tmf reset;

	bed_ready(second, 0);
	bed_ready(third, 0);
	bed_ready(fourth, 0);
	assert_int_equal(out(n, 0, 0, 0, 1, 0), SCSI_GOOD);
	assert_int_equal(out(second, 0, 0, 0, 2, 0), SCSI_GOOD);
	assert_int_equal(out(third, 0, 0, 0, 3, 0), SCSI_GOOD);
	assert_int_equal(out(fourth, 0, 0, 0, 4, 0), SCSI_GOOD);
	valve.hold = true;
	start_write(&hung, third);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	start_out(&a, n, 5, EX_ACCESS, 1, 3, 0);
	start_out(&b, second, 5, EX_ACCESS, 2, 4, 0);
	bed_settle();
	assert_int_equal(a.done, 0); /* what it preempted could still touch the medium */
	bed_tmf_start(&reset, n, 0, SCSI_LU_RESET, 0);
	bed_settle();
	assert_int_equal(reset.done, 0);
	valve_open();
	finish(&hung);
	finish(&a);
	finish(&b);
	bed_until(&reset.done);
	assert_true(hung.aborted && a.aborted && b.aborted);
	bed_nexus_close(second);
	bed_nexus_close(third);
	bed_nexus_close(fourth);
}

static struct pr_state *saved(void)
{
	struct pr_state *s = NULL;
	uint8_t buf[4096];
	int len = bed_load(NULL, NULL, "pr", buf, sizeof(buf));

	assert_true(len > 0);
	assert_int_equal(pr_decode(buf, (size_t)len, &s), 0);
	return s;
}

/* A nexus that goes at any step of its RESERVE: the command ends, and what every loop obeys is what is saved; SPC-4
 * 5.12.5. */
static void nexus_goes(void **state)
{
	for (unsigned steps = 0; steps < 40; steps++) {
		struct scsi_nexus *goes = bed_nexus(steps & 1, 9);
		struct answer a;
		int gone = 0;
		bed_ready(goes, 0);
		assert_int_equal(out(goes, 0, 0, 0, 9, 1), SCSI_GOOD);
		start_out(&a, goes, 1, EX_ACCESS, 9, 0, 0);
		for (unsigned i = 0; i < steps && !a.done; i++)
			small_turn(i);
		scsi_nexus_close(goes, bed_count, &gone);
		bed_until(&gone);
		finish(&a);
		bed_settle();
		struct pr_state *s = saved();
		assert_int_equal(s->n, 1);
		assert_int_equal(write_status(n), s->type ? SCSI_RESERVATION_CONFLICT : SCSI_GOOD);
		assert_int_equal(write_status(n2), s->type ? SCSI_RESERVATION_CONFLICT : SCSI_GOOD);
		free(s);
		assert_int_equal(out(n, 0, 0, 0, 1, 1), SCSI_GOOD);
		assert_int_equal(out(n, 3, 0, 1, 0, 0), SCSI_GOOD);
	}
}

static void reopen(void)
{
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
	lu = bed_lu(NULL, bed_valve(SIZE, 0, 0));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
}

/* With APTPL registrations and reservation outlive the unit, without it they do not (SPC-4 5.12.5); a nexus that is not
 * registered cannot turn it off by unregistering (table 67: nothing but GOOD); what was damaged is not taken for
 * nothing. */
static void power_loss(void **state)
{
	struct lu_conf conf = { .wce = true };
	struct err e = { 0 };
	struct lu *bad;

	assert_int_equal(out(n, 0, 0, 0, 1, 1), SCSI_GOOD);
	assert_int_equal(out(n, 1, EX_ACCESS, 1, 0, 0), SCSI_GOOD);
	uint32_t generation = be32(RUN(n, 0, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64).data);
	assert_int_equal(out(n2, 0, 0, 0, 0, 0), SCSI_GOOD);
	assert_int_equal(out(n2, 6, 0, 0, 0, 0), SCSI_GOOD);
	assert_int_equal(be32(RUN(n, 0, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64).data), generation);
	reopen();
	assert_int_equal(write_status(n), SCSI_GOOD);
	assert_int_equal(write_status(n2), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(be64(RUN(n2, 0, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64).data + 8), 1);
	assert_int_equal(RUN(n2, 0, 0x5e, 1, 0, 0, 0, 0, 0, 0, 64).data[21], EX_ACCESS);
	assert_int_equal(lu_open(&bad, &lu_disk, "disk", &conf, NULL, &bed.store, &e), 0);
	bed_close(bad);
	bed.saved_len[0] = -EBADMSG;
	assert_int_equal(lu_open(&bad, &lu_disk, "disk", &conf, NULL, &bed.store, &e), -EBADMSG);
	assert_int_equal(out(n, 0, 0, 1, 1, 0), SCSI_GOOD);
	reopen();
	assert_int_equal(write_status(n2), SCSI_GOOD);
}

/* A list of initiator ports may name one twice, or the one that asks: each is registered once (5.12.7). The scope counts
 * only where there is a reservation (table 190). */
static void lists(void **state)
{
	uint8_t p[28 + 3 * PR_TRANSPORT_ID_MAX] = { [20] = 8 };
	struct pr_who who = { .port = 1 }, self = { .port = 1 };
	struct answer a;

	memcpy(who.initiator, n2->initiator, sizeof(who.initiator));
	memcpy(who.isid, n2->isid, 6);
	memcpy(self.initiator, n->initiator, sizeof(self.initiator));
	memcpy(self.isid, n->isid, 6);
	put_be64(p + 8, 7);
	uint8_t *at = p + 28;
	at += pr_transport_id(&who, at);
	at += pr_transport_id(&self, at);
	at += pr_transport_id(&who, at);
	uint32_t len = (uint32_t)(at - p);
	put_be32(p + 24, len - 28);
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x5f, 0, 0x10, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
	finish(&a);
	assert_int_equal(a.status, SCSI_GOOD);
	assert_int_equal(RUN(n, 0, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64).data[7], 16);
	assert_int_equal(out(n, 1, 0x10 | EX_ACCESS, 7, 0, 0), SCSI_CHECK_CONDITION);
	assert_int_equal(out(n2, 0, 0, 7, 0, 0), SCSI_GOOD);
	assert_int_equal(out(n, 3, 0x10, 7, 0, 0), SCSI_GOOD);
}

/* I_T NEXUS RESET gives up what RESERVE holds, as losing the nexus does; SAM-5 7.6, SPC-2 5.5.1. */
static void nexus_reset(void **state)
{
	assert_good(RUN(n, 0, 0x16));
	assert_int_equal(write_status(n2), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(bed_tmf(n, 0, SCSI_I_T_NEXUS_RESET, 0), SCSI_TMF_COMPLETE);
	assert_int_equal(write_status(n2), SCSI_GOOD);
	assert_sense(RUN(n, 0, 0x00), 6, 0x29, 0x07);
}

/* RESERVE beside registrations does nothing, with GOOD, for those whom a reservation lets in, and conflicts else (SPC-4
 * 5.12.3, SPC-2 5.5.1); what only reports the unit's commands conflicts with exclusive access as reads do (table 65). */
static void beside(void **state)
{
	assert_int_equal(out(n, 0, 0, 0, 1, 0), SCSI_GOOD);
	assert_int_equal(out(n2, 0, 0, 0, 2, 0), SCSI_GOOD);
	assert_int_equal(RUN(n, 0, 0x16).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(out(n, 1, EX_ACCESS, 1, 0, 0), SCSI_GOOD);
	assert_good(RUN(n, 0, 0x16));
	assert_good(RUN(n, 0, 0x17));
	assert_int_equal(RUN(n2, 0, 0x16).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(RUN(n2, 0, 0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 64).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(RUN(n2, 0, 0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 64).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(out(n, 2, EX_ACCESS, 1, 0, 0), SCSI_GOOD);
	assert_int_equal(out(n, 1, PR_WRITE_EX_RO, 1, 0, 0), SCSI_GOOD);
	assert_good(RUN(n2, 0, 0x56));
	assert_good(RUN(n2, 0, 0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 64));
	assert_int_equal(write_status(n), SCSI_GOOD);
}

/* SPC-2 5.5.1: while RESERVE holds the unit, PERSISTENT RESERVE conflicts for everybody, the holder too. */
static void instead(void **state)
{
	assert_good(RUN(n, 0, 0x16));
	assert_int_equal(out(n, 0, 0, 0, 1, 0), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(out(n2, 0, 0, 0, 1, 0), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(RUN(n, 0, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64).status, SCSI_RESERVATION_CONFLICT);
	assert_good(RUN(n, 0, 0x17));
	assert_int_equal(out(n, 0, 0, 0, 1, 0), SCSI_GOOD);
}

/* RESERVE and the first REGISTER at once, from two loops, at any interleaving: one of them gets the unit, never both. */
static void reserve_race(void **state)
{
	for (unsigned head = 0; head < 30; head++) {
		struct answer a, b;
		bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x16), 0, 0), NULL);
		for (unsigned i = 0; i < head; i++)
			small_turn(i);
		start_out(&b, n2, 0, 0, 0, 1, 0);
		finish(&a);
		finish(&b);
		bed_settle();
		assert_true((a.status == SCSI_GOOD) != (b.status == SCSI_GOOD));
		assert_int_equal(a.status == SCSI_GOOD ? b.status : a.status, SCSI_RESERVATION_CONFLICT);
		if (a.status == SCSI_GOOD)
			assert_good(RUN(n, 0, 0x17));
		else
			assert_int_equal(out(n2, 0, 0, 1, 0, 0), SCSI_GOOD);
	}
}

/* Table 216: APTPL and ALL_TG_PT count for registering alone, SPEC_I_PT is refused elsewhere; what is ignored changes
 * nothing. */
static void bits(void **state)
{
	static const uint8_t others[] = { 1, 2, 3, 4 };

	for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
		assert_int_equal(out(n, 6, 0, 0, 1, 0), SCSI_GOOD);
		assert_int_equal(out(n2, 6, 0, 0, 2, 0), SCSI_GOOD);
		assert_int_equal(out(n, others[i], EX_ACCESS, 1, 2, 0x05), SCSI_GOOD);
		assert_int_equal(RUN(n, 0, 0x5e, 2, 0, 0, 0, 0, 0, 0, 8).data[3] & 1, 0); /* PTPL_A */
		assert_int_equal(out(n, others[i], EX_ACCESS, 1, 2, 0x08), SCSI_CHECK_CONDITION);
		assert_int_equal(out(n, 6, 0, 0, 0, 0), SCSI_GOOD);
		bed_ready(n, 0);
		bed_ready(n2, 0);
		out(n2, 6, 0, 0, 0, 0);
	}
	assert_int_equal(out(n, 6, 0, 0, 1, 0x08), SCSI_CHECK_CONDITION); /* not with REGISTER AND IGNORE either */
}

/* REGISTER AND MOVE hands a reservation over to another initiator at any port of the target, and to no other port; 6.16.4. */
static void move_to_port(void **state)
{
	struct scsi_ports ports = { .tpgs = 1, .n = 2, .tag = { 1, 5 } };
	struct pr_who who = { .isid = { 0x80, 0, 0, 0, 0, 3 } };
	uint8_t p[24 + PR_TRANSPORT_ID_MAX] = { 0 }, id[6] = { 0x80, 0, 0, 0, 0, 3 };
	struct answer a;

	scsi_target_set_ports(bed.target, &ports);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	struct scsi_nexus *far = scsi_nexus_new(bed.target, loop_group.loop[1], n->initiator, id, 5);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	bed_ready(far, 0);
	memcpy(who.initiator, n->initiator, sizeof(who.initiator));
	assert_int_equal(out(n, 0, 0, 0, 1, 0), SCSI_GOOD);
	assert_int_equal(out(n, 1, EX_ACCESS, 1, 0, 0), SCSI_GOOD);
	unsigned len = pr_transport_id(&who, p + 24);
	put_be64(p, 1);
	put_be64(p + 8, 9);
	put_be32(p + 20, len);
	for (uint16_t port = 4; port < 6; port++) {
		put_be16(p + 18, port);
		bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x5f, 7, 0, 0, 0, 0, 0, 0, (uint8_t)(24 + len)), 0, 24 + len), p);
		finish(&a);
		assert_int_equal(a.status, port == 4 ? SCSI_CHECK_CONDITION : SCSI_GOOD);
	}
	bed_settle();
	assert_int_equal(write_status(far), SCSI_GOOD);
	assert_int_equal(write_status(n), SCSI_RESERVATION_CONFLICT);
	bed_nexus_close(far);
}

static void shown(void *ctx, const struct pr_state *s, bool reserved)
{
	int *regs = ctx;

	regs[0] = s ? (int)s->n : 0;
	regs[1] = s ? s->type : 0;
	regs[2] = reserved;
	regs[3]++;
}

static void cleared(void *ctx, int result)
{
	*(int *)ctx = result ? -1 : 1;
}

static void clear(int want)
{
	int done = 0;

	lu_pr_clear(lu, cleared, &done);
	bed_until(&done);
	assert_int_equal(done, want);
}

/* The administrator sees the table and clears it, on every loop and where it is kept; those who lose by it are told
 * 2A/03 as with CLEAR; what RESERVE holds goes too; what cannot be kept is not done. */
static void by_administrator(void **state)
{
	int regs[4] = { 0 };

	clear(1); /* nothing there: nothing happens */
	assert_int_equal(out(n, 0, 0, 0, 1, 1), SCSI_GOOD);
	assert_int_equal(out(n2, 0, 0, 0, 2, 1), SCSI_GOOD);
	assert_int_equal(out(n, 1, EX_ACCESS, 1, 0, 0), SCSI_GOOD);
	lu_pr_show(lu, shown, regs);
	bed_until(&regs[3]);
	assert_true(regs[0] == 2 && regs[1] == EX_ACCESS && !regs[2]);
	bed.save_fails = -EIO;
	clear(-1);
	assert_int_equal(write_status(n2), SCSI_RESERVATION_CONFLICT);
	bed.save_fails = 0;
	clear(1);
	assert_sense(RUN(n, 0, 0x00), 6, 0x2a, 0x03);
	assert_sense(RUN(n2, 0, 0x00), 6, 0x2a, 0x03);
	assert_int_equal(write_status(n2), SCSI_GOOD);
	struct pr_state *s = saved();
	assert_null(s);
	assert_good(RUN(n, 0, 0x16));
	clear(1);
	bed_ready(n2, 0);
	assert_int_equal(write_status(n2), SCSI_GOOD);
}

/* PREEMPT AND ABORT lets the medium go that the preempted held back; SPC-4 5.13.11.2.6. */
static void prevent_ends(void **state)
{
	assert_int_equal(out(n, 0, 0, 0, 1, 0), SCSI_GOOD);
	assert_int_equal(out(n2, 0, 0, 0, 2, 0), SCSI_GOOD);
	assert_good(RUN(n2, 0, 0x1e, 0, 0, 0, 1));
	assert_sense(RUN(n, 0, 0x1b, 0, 0, 0, 2), 5, 0x53, 0x02);
	assert_int_equal(out(n, 4, EX_ACCESS, 1, 2, 0), SCSI_GOOD); /* PREEMPT alone leaves it */
	assert_sense(RUN(n, 0, 0x1b, 0, 0, 0, 2), 5, 0x53, 0x02);
	bed_ready(n2, 0);
	assert_int_equal(out(n2, 0, 0, 0, 2, 0), SCSI_GOOD);
	assert_int_equal(out(n, 5, EX_ACCESS, 1, 2, 0), SCSI_GOOD);
	assert_good(RUN(n, 0, 0x1b, 0, 0, 0, 2));
}

static void inherited(void *ctx, int result)
{
	*(int *)ctx = result ? -1 : 1;
}

/* A unit that takes the place of another has its registrations and reservation from the first moment; what comes to the
 * old one later ends with BUSY, so no acknowledged change is missed, at any interleaving; SPC-4 5.13.1. */
static void taken_over(void **state)
{
	for (unsigned head = 0; head < 24; head++) {
		struct lu *old = lu, *next;
		struct answer a;
		int done = 0;
		bed.next_id--; /* the same identity */
		next = bed_lu(NULL, bed_ram(SIZE));
		assert_true(lu_same_identity(old, next));
		bed_ready(n, 0);
		assert_int_equal(out(n, 6, 0, 0, 1, 0), SCSI_GOOD);
		assert_int_equal(out(n, 1, PR_WRITE_EX, 1, 0, 0), SCSI_GOOD);
		start_out(&a, n2, 6, 0, 0, 7, 0);
		for (unsigned i = 0; i < head; i++)
			small_turn(i);
		lu_inherit(next, old, inherited, &done);
		bed_until(&done);
		finish(&a);
		assert_int_equal(done, 1);
		assert_int_equal(out(n, 3, 0, 1, 0, 0), SCSI_BUSY);
		assert_int_equal(RUN(n, 0, 0x16).status, SCSI_GOOD); /* its own reservation: nothing changes */
		assert_int_equal(RUN(n, 0, 0xa3, 0x05, 0, 0, 0, 0, 0, 0, 1).status, SCSI_BUSY); /* asked by a job too */
		bed_map(&(struct scsi_lun){ 0, next }, 1);
		bed_close(old);
		lu = next;
		bed_ready(n, 0);
		bed_ready(n2, 0);
		assert_int_equal(write_status(n2), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(write_status(n), SCSI_GOOD);
		struct answer keys = RUN(n, 0, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64);
		assert_int_equal(be32(keys.data + 4), a.status == SCSI_GOOD ? 16 : 8);
		assert_true(a.status == SCSI_GOOD || a.status == SCSI_BUSY);
		assert_int_equal(out(n, 3, 0, 1, 0, 0), SCSI_GOOD);
		bed_ready(n2, 0);
	}
}

static int setup_removable(void **state)
{
	bed_start(BED_LOOPS);
	lu = bed_lu(&(struct lu_conf){ .removable = true }, bed_valve(SIZE, 0, 0));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	return 0;
}

/* A unit that leaves the map of the nexus that reserved it is free for those who see it still. */
static void unit_leaves(void **state)
{
	struct scsi_target *other = scsi_target_new("iqn.2026-01.test:other");
	struct scsi_lun lun = { 0, lu };
	int done = 0;

	scsi_target_set_luns(other, &lun, 1, bed_count, &done);
	bed_until(&done);
	struct scsi_nexus *far = scsi_nexus_new(other, loop_group.loop[1], "iqn.2026-01.test:far", (uint8_t[6]){ 0x80 }, 1);
	assert_non_null(far);
	bed_ready(far, 0);
	assert_good(RUN(n, 0, 0x16));
	assert_int_equal(write_status(far), SCSI_RESERVATION_CONFLICT);
	bed_map(NULL, 0);
	bed_settle();
	assert_int_equal(write_status(far), SCSI_GOOD);
	bed_nexus_close(far);
	done = 0;
	scsi_target_set_luns(other, NULL, 0, bed_count, &done);
	bed_until(&done);
	scsi_target_free(other);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(against_each_other), T(reset_while_waiting), T(nexus_goes), T(power_loss),
		T(lists), T(nexus_reset), T(unit_leaves), T(beside),
		T(instead), T(reserve_race), T(by_administrator), T(taken_over), T(bits), T(move_to_port),
		cmocka_unit_test_setup_teardown(prevent_ends, setup_removable, teardown) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

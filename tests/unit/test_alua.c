/* SPDX-License-Identifier: BSD-3-Clause
 * Asymmetric access (SPC-4 5.16.2): the states as a value, REPORT and SET TARGET PORT GROUPS, which command each state
 * allows, that a group which leaves I/O is drained first, and who is told. */
#include <unistd.h>

#include "scsi_bed.h"
#include "scsi/alua.h"

enum { SIZE = 1 << 20, IMPLICIT = 1, EXPLICIT = 2 };
static struct scsi_nexus *one, *two; /* through groups 1 and 2, on different loops */
static struct lu *lu;
static const struct scsi_ports both = { .tpgs = IMPLICIT | EXPLICIT, .transition_s = 7, .n = 2, .tag = { 1, 2 } };

static struct scsi_nexus *nexus_at(unsigned loop, uint8_t isid, uint16_t tag)
{
	uint8_t id[6] = { 0x80, 0, 0, 0, 0, isid };

	return scsi_nexus_new(bed.target, loop_group.loop[loop], "iqn.2026-01.test:client", id, tag);
}

static void open_lu(void)
{
	lu = bed_lu(&(struct lu_conf){ .wce = true, .serial = "s" }, bed_valve(SIZE, 0, 0));
}

static void open_nexuses(void)
{
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	one = nexus_at(0, 1, 1);
	two = nexus_at(1, 2, 2);
	bed_ready(one, 0);
	bed_ready(two, 0);
}

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	scsi_target_set_ports(bed.target, &both);
	open_lu();
	open_nexuses();
	return 0;
}

static void close_all(void)
{
	valve_open();
	bed_nexus_close(one);
	bed_nexus_close(two);
	bed_map(NULL, 0);
	bed_close(lu);
}

static int teardown(void **state)
{
	close_all();
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

struct outcome { int done, result; };

static void set_done(void *ctx, int result)
{
	struct outcome *o = ctx;

	o->done++;
	o->result = result;
}

static void start_change(struct outcome *o, uint16_t tag, uint8_t access, bool keep)
{
	*o = (struct outcome){ 0 };
	lu_alua_change(lu, &(struct alua_change){ tag, access, ALUA_AS_IT_IS }, 1, keep, 0, set_done, o);
}

static void change(uint16_t tag, uint8_t access, bool keep)
{
	struct outcome o;

	start_change(&o, tag, access, keep);
	bed_until(&o.done);
	assert_int_equal(o.result, 0);
}

/* What REPORT TARGET PORT GROUPS says of a group: byte 0 of its descriptor. */
static int reported(struct scsi_nexus *n, uint16_t tag, uint8_t *ret_status)
{
	struct answer a = RUN(n, 0, 0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 2, 0);

	assert_good(a);
	assert_int_equal(be32(a.data), a.len - 4);
	for (size_t at = 4; at < a.len; at += 12) {
		if (be16(a.data + at + 2) != tag)
			continue;
		if (ret_status)
			*ret_status = a.data[at + 5];
		return a.data[at];
	}
	return -1;
}

/* Both formats; one group with one port per tag; allocation length cuts and is not the length; SPC-4 6.37. */
static void report(void **state)
{
	struct answer a = RUN(one, 0, 0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 2, 0);
	static const uint8_t want[28] = { 0, 0, 0, 24, 0, 0xcf, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0xcf, 0, 2, 0, 0, 0, 1,
		0, 0, 0, 2 };

	assert_int_equal(a.len, 28);
	assert_memory_equal(a.data, want, 28);
	a = RUN(two, 0, 0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 2, 0);
	assert_int_equal(a.len, 32);
	assert_int_equal(be32(a.data), 28);
	assert_int_equal(a.data[4], 0x10);
	assert_int_equal(a.data[5], 7); /* implicit transition time */
	assert_memory_equal(a.data + 8, want + 4, 24);
	a = RUN(one, 0, 0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 5);
	assert_int_equal(a.len, 5);
	assert_int_equal(be32(a.data), 24);
	assert_sense(RUN(one, 0, 0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 2, 0), 5, 0x24, 0);
	assert_int_equal(RUN(one, 0, 0x12, 0, 0, 0, 96).data[5] >> 4 & 3, 3); /* TPGS */
}

/* Port and group of page 83h are those of the nexus' portal group and of the report; the unit's own designators are
 * the same through both; SPC-4 7.8.6.7, 7.8.6.8. */
static void identity(void **state)
{
	uint8_t seen[2][512];
	size_t len[2];

	for (int i = 0; i < 2; i++) {
		struct answer a = RUN(i ? two : one, 0, 0x12, 1, 0x83, 2, 0);
		unsigned rel = 0, group = 0;
		len[i] = 0;
		for (size_t at = 4; at < a.len; at += 4u + a.data[at + 3]) {
			unsigned assoc = a.data[at + 1] >> 4 & 3, type = a.data[at + 1] & 15;
			if (assoc == 1 && type == 4)
				rel = be32(a.data + at + 4);
			if (assoc == 1 && type == 5)
				group = be32(a.data + at + 4);
			if (assoc == 0) {
				memcpy(seen[i] + len[i], a.data + at, 4u + a.data[at + 3]);
				len[i] += 4u + a.data[at + 3];
			}
		}
		assert_int_equal(rel, i + 1);
		assert_int_equal(group, i + 1);
	}
	assert_int_equal(len[0], len[1]);
	assert_memory_equal(seen[0], seen[1], len[0]);
}

static uint8_t list[64];

static struct answer set_groups(struct scsi_nexus *n, unsigned count, ...)
{
	uint8_t cdb[16] = { 0xa4, 0x0a };
	va_list ap;

	memset(list, 0, sizeof(list));
	va_start(ap, count);
	for (unsigned i = 0; i < count; i++) {
		list[4 + 4 * i] = (uint8_t)va_arg(ap, int);
		put_be16(list + 6 + 4 * i, (uint16_t)va_arg(ap, int));
	}
	va_end(ap);
	put_be32(cdb + 6, 4 + 4 * count);
	return bed_run(n, 0, cdb, 16, list, 4 + 4 * count, 0);
}

/* SET TARGET PORT GROUPS changes all groups it names or none; every other nexus gets 2A/06 once, the one that asked
 * none; what it must not set is refused; SPC-4 6.45, 5.16.2.5. */
static void set(void **state)
{
	uint8_t status;

	assert_good(set_groups(one, 2, ALUA_NON_OPTIMIZED, 1, ALUA_STANDBY, 2));
	assert_good(RUN(one, 0, 0x00));
	assert_sense(RUN(two, 0, 0x00), 6, 0x2a, 0x06);
	assert_sense(RUN(two, 0, 0x00), 2, 0x04, 0x0b);
	assert_int_equal(reported(one, 1, &status), ALUA_NON_OPTIMIZED);
	assert_int_equal(status, ALUA_EXPLICIT);
	assert_int_equal(reported(one, 2, &status), ALUA_STANDBY);
	assert_good(set_groups(two, 1, ALUA_OPTIMIZED, 2)); /* through the port that is in standby */
	assert_good(RUN(two, 0, 0x00));
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x06);
	assert_good(set_groups(one, 1, ALUA_OPTIMIZED, 2)); /* as it is: nobody is told */
	assert_good(RUN(two, 0, 0x00));

	assert_sense(set_groups(one, 1, 4, 2), 5, 0x26, 0);
	assert_sense(set_groups(one, 1, ALUA_TRANSITIONING, 2), 5, 0x26, 0);
	assert_sense(set_groups(one, 1, 7, 2), 5, 0x26, 0);
	assert_sense(set_groups(one, 2, ALUA_STANDBY, 2, ALUA_STANDBY, 3), 5, 0x26, 0);
	assert_sense(set_groups(one, 2, ALUA_STANDBY, 2, ALUA_OPTIMIZED, 2), 5, 0x26, 0);
	assert_int_equal(reported(one, 2, NULL), ALUA_OPTIMIZED);
	assert_good(RUN(one, 0, 0xa4, 0x0a));
	assert_sense(bed_run(one, 0, CDB(0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 6), list, 6, 0), 5, 0x24, 0);
	assert_sense(bed_run(one, 0, CDB(0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8), list, 4, 0), 5, 0x1a, 0);
}

/* Without explicit management there is no SET TARGET PORT GROUPS, without any no REPORT either, and no state gates;
 * REPORT SUPPORTED OPERATION CODES says the same, and INQUIRY; SPC-4 6.6.2 TPGS. */
static void modes(void **state)
{
	static const uint8_t rsoc[2][12] = { { 0xa3, 0x0c, 2, 0xa3, 0, 0x0a, 0, 0, 1, 0 }, { 0xa3, 0x0c, 2, 0xa4, 0, 0x0a, 0, 0,
		1, 0 } };

	change(2, ALUA_STANDBY, true);
	for (uint8_t tpgs = 0; tpgs < 4; tpgs++) {
		struct scsi_ports p = both;
		p.tpgs = tpgs;
		scsi_target_set_ports(bed.target, &p);
		bed_map(&(struct scsi_lun){ 0, lu }, 1);
		bed_ready(one, 0);
		bed_ready(two, 0);
		assert_int_equal(RUN(one, 0, 0x12, 0, 0, 0, 96).data[5] >> 4 & 3, tpgs);
		assert_int_equal(bed_run(one, 0, rsoc[0], 12, NULL, 0, 256).data[1] & 7, tpgs ? 3 : 1);
		assert_int_equal(bed_run(one, 0, rsoc[1], 12, NULL, 0, 256).data[1] & 7, tpgs & EXPLICIT ? 3 : 1);
		if (tpgs)
			assert_int_equal(reported(one, 2, NULL), ALUA_STANDBY);
		else
			assert_sense(RUN(one, 0, 0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 2, 0), 5, 0x24, 0);
		if (!(tpgs & EXPLICIT))
			assert_sense(set_groups(one, 1, ALUA_STANDBY, 2), 5, 0x24, 0);
		assert_int_equal(RUN(two, 0, 0x00).status, tpgs ? SCSI_CHECK_CONDITION : SCSI_GOOD);
	}
}

/* A change of what INQUIRY says is told with 3F/03, of the target port groups with 2A/06; the same again is not. */
static void mode_told(void **state)
{
	struct scsi_ports p = both;

	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	assert_good(RUN(one, 0, 0x00));
	p.tpgs = IMPLICIT;
	scsi_target_set_ports(bed.target, &p);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	assert_sense(RUN(one, 0, 0x00), 6, 0x3f, 0x03);
	assert_good(RUN(one, 0, 0x00));
	p.tag[2] = 9; /* a portal group more */
	p.n = 3;
	scsi_target_set_ports(bed.target, &p);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x06);
	assert_int_equal(reported(one, 9, NULL), ALUA_OPTIMIZED);
}

/* An implicit change is told to every nexus, each once; preference is independent of the state; 5.16.2.5, 5.16.2.6. */
static void implicit(void **state)
{
	struct outcome o = { 0 };
	uint8_t status;

	lu_alua_change(lu, &(struct alua_change){ 1, ALUA_NON_OPTIMIZED, 1 }, 1, false, 0, set_done, &o);
	bed_until(&o.done);
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x06);
	assert_sense(RUN(two, 0, 0x00), 6, 0x2a, 0x06);
	assert_good(RUN(one, 0, 0x00));
	assert_good(RUN(two, 0, 0x00));
	assert_int_equal(reported(two, 1, &status), 0x80 | ALUA_NON_OPTIMIZED);
	assert_int_equal(status, ALUA_IMPLICIT);
	change(1, ALUA_UNAVAILABLE, false);
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x06);
	assert_sense(RUN(one, 0, 0x00), 2, 0x04, 0x0c);
	bed_ready(two, 0);
	assert_int_equal(reported(two, 1, NULL), 0x80 | ALUA_UNAVAILABLE);
}

static void start_write(struct answer *a, struct scsi_nexus *by)
{
	static const uint8_t data[512];

	bed_start_cmd(bed_cmd(a, by, 0, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 0, 512), data);
}

static void finish(struct answer *a)
{
	bed_until(&a->done);
	bed_free(a);
	free(a->data);
	a->data = NULL;
}

/* A group that leaves I/O is transitioning until what came through it has ended, on its loop; the change is done only
 * then; commands through other groups are not waited for, new ones through it get 02/04/0A; 5.16.2.5. */
static void drains(void **state)
{
	struct answer mine, other;
	struct outcome o;

	valve.hold = true;
	start_write(&mine, two);
	start_write(&other, one);
	bed_settle();
	assert_int_equal(valve.nheld, 2);
	start_change(&o, 2, ALUA_STANDBY, false);
	bed_settle();
	assert_int_equal(o.done, 0);
	assert_sense(RUN(two, 0, 0x00), 6, 0x2a, 0x06);
	assert_sense(RUN(two, 0, 0x00), 2, 0x04, 0x0a);
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x06);
	assert_int_equal(reported(one, 2, NULL), ALUA_TRANSITIONING);
	assert_sense(set_groups(two, 1, ALUA_OPTIMIZED, 2), 2, 0x04, 0x0a);
	valve_release(valve.held[0]->loop == two->loop ? 0 : 1);
	bed_until(&o.done);
	assert_int_equal(mine.done, 1);
	assert_int_equal(other.done, 0);
	finish(&mine);
	assert_good(mine);
	assert_sense(RUN(two, 0, 0x00), 6, 0x2a, 0x06);
	assert_sense(RUN(two, 0, 0x00), 2, 0x04, 0x0b);
	valve_open();
	finish(&other);
	assert_good(other);
}

/* A later change of a group that drains wins, and both are answered, in whatever order they end. */
static void overtaken(void **state)
{
	struct answer hung;
	struct outcome a, b;

	valve.hold = true;
	start_write(&hung, two);
	bed_settle();
	start_change(&a, 2, ALUA_STANDBY, false);
	bed_settle();
	start_change(&b, 2, ALUA_UNAVAILABLE, false);
	bed_settle();
	assert_int_equal(a.done + b.done, 0);
	valve_open();
	bed_until(&a.done);
	bed_until(&b.done);
	finish(&hung);
	bed_ready(one, 0);
	assert_int_equal(reported(one, 2, NULL), ALUA_UNAVAILABLE);
	valve.hold = true;
	change(2, ALUA_OPTIMIZED, false);
	bed_ready(two, 0);
	start_write(&hung, two);
	bed_settle();
	start_change(&a, 2, ALUA_STANDBY, false);
	bed_settle();
	change(2, ALUA_NON_OPTIMIZED, false); /* back before it has drained: nothing to wait for */
	valve_open();
	bed_until(&a.done);
	finish(&hung);
	bed_ready(one, 0);
	assert_int_equal(reported(one, 2, NULL), ALUA_NON_OPTIMIZED);
}

/* What does not drain in time fails: unavailable, 2A/07 to everybody, the driver is told that something may still touch the
 * medium; a later change waits for that too; 5.16.2.5. */
static void too_slow(void **state)
{
	struct answer hung;
	struct outcome o = { 0 }, again;

	valve.hold = true;
	start_write(&hung, two);
	bed_settle();
	lu_alua_change(lu, &(struct alua_change){ 2, ALUA_STANDBY, ALUA_AS_IT_IS }, 1, false, 1, set_done, &o);
	for (int i = 0; i < 4000 && !o.done; i++) {
		bed_turn();
		usleep(1000);
	}
	assert_int_equal(o.result, -ETIMEDOUT);
	assert_int_equal(hung.done, 0);
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x06); /* it was transitioning */
	assert_sense(RUN(one, 0, 0x00), 6, 0x2a, 0x07);
	assert_int_equal(reported(one, 2, NULL), ALUA_UNAVAILABLE);
	start_change(&again, 2, ALUA_UNAVAILABLE, false);
	bed_settle();
	assert_int_equal(again.done, 0); /* not drained yet */
	valve_open();
	bed_until(&again.done);
	assert_int_equal(again.result, 0);
	finish(&hung);
	assert_good(hung);
	bed_ready(one, 0);
	assert_int_equal(reported(one, 2, NULL), ALUA_UNAVAILABLE);
	start_change(&again, 2, ALUA_UNAVAILABLE, false); /* nothing runs: nothing to wait for */
	bed_until(&again.done);
	assert_good(RUN(one, 0, 0x00));
}

static void start_set(struct answer *a, struct scsi_nexus *by, uint8_t access, uint16_t tag)
{
	uint8_t p[8] = { [4] = access };

	put_be16(p + 6, tag);
	bed_start_cmd(bed_cmd(a, by, 0, CDB(0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8), 0, 8), p);
}

/* Two SETs, each of which takes the other's group out of I/O, do not wait for each other, at any interleaving. */
static void against_each_other(void **state)
{
	for (unsigned head = 0; head < 40; head++) {
		struct answer a, b;
		start_set(&a, one, ALUA_STANDBY, 2);
		for (unsigned i = 0; i < head; i++)
			loop_turn(i % 3 ? loop_group.loop[i % 3 - 1] : bed.control, 0);
		start_set(&b, two, ALUA_STANDBY, 1);
		finish(&a);
		finish(&b);
		bed_settle();
		assert_good(a);
		change(1, ALUA_OPTIMIZED, false);
		change(2, ALUA_OPTIMIZED, false);
		bed_ready(one, 0);
		bed_ready(two, 0);
	}
}

/* A nexus that goes while its SET drains: the change is completed and nothing is left behind. */
static void asker_goes(void **state)
{
	struct answer hung, a;
	int gone = 0;

	valve.hold = true;
	start_write(&hung, two);
	bed_settle();
	start_set(&a, one, ALUA_STANDBY, 2);
	bed_settle();
	scsi_nexus_close(one, bed_count, &gone);
	bed_settle();
	assert_int_equal(gone, 0);
	valve_open();
	bed_until(&gone);
	finish(&hung);
	finish(&a);
	assert_true(a.aborted);
	one = nexus_at(0, 1, 1);
	bed_ready(one, 0);
	assert_int_equal(reported(one, 2, NULL), ALUA_STANDBY);
}

/* What was set outlives the unit until the configuration of the group changes; what was not to be kept does not;
 * damaged state counts as none; 5.16.2.9. */
static void kept(void **state)
{
	static const struct alua_change base = { 2, ALUA_NON_OPTIMIZED, 0 }, other = { 2, ALUA_UNAVAILABLE, 1 };

	assert_good(set_groups(one, 1, ALUA_STANDBY, 2));
	change(1, ALUA_NON_OPTIMIZED, false);
	close_all();
	open_lu();
	assert_int_equal(lu_alua_init(lu, NULL, 0), 0);
	open_nexuses();
	assert_int_equal(reported(one, 2, NULL), ALUA_STANDBY);
	assert_int_equal(reported(one, 1, NULL), ALUA_OPTIMIZED);
	close_all();
	open_lu();
	assert_int_equal(lu_alua_init(lu, &base, 1), 0); /* the configuration changed while it was closed */
	open_nexuses();
	assert_int_equal(reported(one, 2, NULL), ALUA_NON_OPTIMIZED);

	struct outcome o = { 0 };
	lu_alua_configure(lu, &other, 1, set_done, &o);
	bed_until(&o.done);
	bed_ready(one, 0);
	assert_int_equal(reported(one, 2, NULL), 0x80 | ALUA_UNAVAILABLE);
	assert_int_equal(RUN(two, 0, 0x12, 0, 0, 0, 96).data[0], 0x20); /* qualifier 001b, 5.16.2.4.5 */
	assert_int_equal(RUN(one, 0, 0x12, 0, 0, 0, 96).data[0], 0);
	change(2, ALUA_OPTIMIZED, true);
	lu_alua_configure(lu, &other, 1, NULL, NULL); /* a reload that says the same changes nothing */
	bed_settle();
	bed_ready(one, 0);
	assert_int_equal(reported(one, 2, NULL) & 15, ALUA_OPTIMIZED);
	bed.saved_len[0] = 5;
	close_all();
	open_lu();
	open_nexuses();
	assert_int_equal(reported(one, 2, NULL), ALUA_OPTIMIZED);
}

/* What cannot be kept is refused: 04/67/0A, and nothing changed; 6.45. */
static void not_saved(void **state)
{
	bed.store.save = NULL;
	assert_good(set_groups(one, 1, ALUA_NON_OPTIMIZED, 2)); /* nowhere to keep it at all: memory is all there is */
	bed.store.save = bed_save;
	bed_ready(two, 0);
	bed.nsaved = 1;
	bed.saved_len[0] = -1;
	snprintf(bed.saved_name[0], sizeof(bed.saved_name[0]), "alua");
	bed.save_fails = -EIO;
	assert_sense(set_groups(one, 1, ALUA_STANDBY, 2), 4, 0x67, 0x0a);
	assert_good(RUN(two, 0, 0x00));
	assert_int_equal(reported(one, 2, NULL), ALUA_NON_OPTIMIZED);
	bed.save_fails = 0;
	assert_good(set_groups(one, 1, ALUA_STANDBY, 2));
}

/* The commands that SPC-4 5.16.2.4.4, 5.16.2.4.5 and 5.16.2.5 name are allowed in their states; test_scsi_table tries each. */
static void allowed(void **state)
{
	enum { S = SCSI_IN_STANDBY, U = SCSI_IN_UNAVAILABLE, T_ = SCSI_IN_TRANSITION };
	static const struct { uint8_t opcode; int action; uint32_t in; } lists[] = {
		{ 0x12, 0, S | U | T_ }, { 0xa0, 0, S | U | T_ }, { 0xa3, 0x0a, S | U | T_ }, { 0x03, 0, S | U | T_ },
		{ 0x3c, 0, S | U | T_ }, { 0x3b, 0, S | U | T_ }, { 0xa4, 0x0a, S | U }, { 0x4c, 0, S }, { 0x4d, 0, S },
		{ 0x15, 0, S }, { 0x55, 0, S }, { 0x1a, 0, S }, { 0x5a, 0, S }, { 0x1c, 0, S }, { 0x1d, 0, S },
		{ 0x5e, 0, S }, { 0x5e, 1, S }, { 0x5e, 2, S }, { 0x5e, 3, S }, { 0x5f, 0, S }, { 0x5f, 4, S }, { 0x5f, 7, S },
	};
	const struct scsi_optab *tab = lu_on(lu, one->loop)->pub.ops;

	for (unsigned i = 0; i < ARRAY_LEN(lists); i++) {
		const struct scsi_op *op = scsi_optab_find(tab, lists[i].opcode, lists[i].action);
		assert_true(!op || (op->flags & lists[i].in) == lists[i].in);
	}
	assert_false(scsi_optab_find(tab, 0x00, 0)->flags & SCSI_ANY_STATE); /* how initiators look whether a path works */
}

/* The value: rebase keeps what departed from the same base; tags ascend; more groups than there may be are refused;
 * the saved form of every state reads back, a cut or changed one is refused. */
static void value(void **state)
{
	static const struct alua_change c[] = { { 9, ALUA_STANDBY, 1 }, { 3, ALUA_NON_OPTIMIZED, 0 }, { 7, ALUA_OFFLINE, -1 } };
	struct alua_change many[LIM_PORTALS + 1];
	struct alua_state *s, *t;
	uint8_t p[ALUA_SAVE_MAX];

	assert_int_equal(alua_apply(NULL, c, 3, ALUA_IMPLICIT, true, &s), 0);
	assert_int_equal(s->n, 3);
	assert_true(s->group[0].tag == 3 && s->group[1].tag == 7 && s->group[2].tag == 9);
	assert_true(alua_gated(s));
	size_t n = alua_encode(s, p);
	assert_int_equal(n, 8 + 3 * 8);
	assert_int_equal(alua_decode(p, n, &t), 0);
	assert_true(alua_equal(s, t));
	free(t);
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(alua_decode(p, cut, &t), -EINVAL);
	for (size_t at = 8; at < n; at++) { /* no byte of a record but its last may be anything */
		uint8_t was = p[at];
		p[at] = 0xff;
		if (at % 8 != 7 && alua_decode(p, n, &t) == 0) {
			assert_true(at % 8 < 2 && alua_find(t, be16(p + at / 8 * 8))); /* another tag in order */
			free(t);
		}
		p[at] = was;
	}
	assert_int_equal(alua_rebase(s, &(struct alua_change){ 9, ALUA_OPTIMIZED, 0 }, 1, &t), 0);
	assert_int_equal(alua_access(t, 9), ALUA_STANDBY); /* the base is as it was */
	free(t);
	assert_int_equal(alua_rebase(s, &(struct alua_change){ 9, ALUA_NON_OPTIMIZED, 0 }, 1, &t), 0);
	assert_int_equal(alua_access(t, 9), ALUA_NON_OPTIMIZED);
	assert_int_equal(alua_access(t, 7), ALUA_OFFLINE);
	free(t);
	for (unsigned i = 0; i <= LIM_PORTALS; i++)
		many[i] = (struct alua_change){ (uint16_t)(100 + i), ALUA_STANDBY, 0 };
	assert_int_equal(alua_apply(s, many, LIM_PORTALS, ALUA_IMPLICIT, false, &t), -E2BIG);
	assert_int_equal(alua_apply(NULL, many, LIM_PORTALS, ALUA_IMPLICIT, false, &t), 0);
	free(t);
	free(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(report), T(identity), T(set), T(modes), T(mode_told), T(implicit), T(drains), T(too_slow), T(overtaken),
		T(against_each_other), T(asker_goes), T(kept), T(not_saved), T(allowed), cmocka_unit_test(value),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

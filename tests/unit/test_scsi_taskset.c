/* SPDX-License-Identifier: BSD-3-Clause
 * Task set control and the mode pages that say it: QErr, TST, TAS, UA_INTLCK_CTRL, ACA (SAM-5 5.8, 5.9; SPC-4 7.5.8). */
#include "scsi_bed.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 8 << 20 };

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	lu = bed_lu(NULL, bed_valve(SIZE, BLK_WRITE_CACHE, 0));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	return 0;
}

static int teardown(void **state)
{
	if (n)
		bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

#define OUT(by, data, len, ...) bed_run(by, 0, CDB(__VA_ARGS__), data, len, 0)

enum { TST = 0x20, QERR_ALL = 0x02, QERR_NEXUS = 0x06, INTLCK2 = 0x20, INTLCK3 = 0x30, TAS = 0x40 };

/* Sets the control mode page: bytes 2 (TST), 3 (QErr), 4 (UA_INTLCK_CTRL), 5 (TAS). */
static void control(uint8_t b2, uint8_t b3, uint8_t b4, uint8_t b5)
{
	uint8_t p[16] = { 0, 0, 0, 0, 0x0a, 0x0a, b2, (uint8_t)(0x10 | b3), b4, b5 };

	assert_good(OUT(n, p, 16, 0x15, 0x10, 0, 0, 16));
	bed_ready(n2, 0);
}

/* A write that the valve holds. */
static struct scsi_cmd *held(struct answer *a, struct scsi_nexus *by, uint8_t lba)
{
	static const uint8_t buf[512];
	struct scsi_cmd *c = bed_cmd(a, by, 0, CDB(0x2a, 0, 0, 0, 0, lba, 0, 0, 1), 0, 512);

	valve.hold = true;
	bed_start_cmd(c, buf);
	bed_settle();
	return c;
}

/* A write that waits for its data. */
static struct scsi_cmd *waiting(struct answer *a, struct scsi_nexus *by)
{
	struct scsi_cmd *c = bed_cmd(a, by, 0, CDB(0x2a, 0, 0, 0, 0, 9, 0, 0, 1), 0, 512);

	scsi_begin(c);
	return c;
}

static struct answer with(struct scsi_nexus *by, enum scsi_attr attr, const uint8_t cdb[16])
{
	struct answer a;
	struct scsi_cmd *c = bed_cmd(&a, by, 0, cdb, 16, 4096, 0);

	c->attr = attr;
	bed_start_cmd(c, NULL);
	bed_until(&a.done);
	bed_settle();
	bed_free(&a);
	free(a.data);
	a.data = NULL;
	return a;
}

#define WITH(by, attr, ...) with(by, attr, (const uint8_t[16]){ __VA_ARGS__ })
#define BAD_NACA 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 4 /* a READ with a reserved bit and NACA */
#define TUR_NACA 0x00, 0, 0, 0, 0, 4

/* A CHECK CONDITION of n meets its own waiting write and one of n2: what becomes of them, and what n2 hears. */
static void qerr_case(uint8_t tst, uint8_t qerr, uint8_t tas, bool own_dies, bool other_dies)
{
	struct answer own, other;

	control(tst, qerr, 0, tas);
	waiting(&own, n);
	waiting(&other, n2);
	assert_sense(RUN(n, 0, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1), 5, 0x24, 0);
	assert_int_equal(own.done, own_dies);
	assert_int_equal(own.aborted, own_dies); /* no status goes to the nexus that got the CHECK CONDITION */
	assert_int_equal(other.done, other_dies);
	assert_int_equal(other.aborted, other_dies && !tas);
	if (other_dies && tas)
		assert_int_equal(other.status, SCSI_TASK_ABORTED);
	if (other_dies && !tas)
		assert_sense(RUN(n2, 0, 0x00), 6, 0x2f, 0x00);
	assert_good(RUN(n2, 0, 0x00));
	if (!own_dies)
		scsi_abort(own.cmd);
	if (!other_dies)
		scsi_abort(other.cmd);
	bed_until(&own.done);
	bed_until(&other.done);
	bed_free(&own);
	bed_free(&other);
}

/* QErr says which commands a CHECK CONDITION ends, over loops and nexuses as TST says; SPC-4 table 460. */
static void qerr(void **state)
{
	qerr_case(0, 0, 0, false, false);
	qerr_case(0, QERR_ALL, 0, true, true);
	qerr_case(0, QERR_ALL, TAS, true, true);
	qerr_case(TST, QERR_ALL, 0, true, false);
	qerr_case(0, QERR_NEXUS, 0, true, false);
	qerr_case(TST, QERR_NEXUS, TAS, true, false);
}

static void tas_case(enum scsi_tmf_kind kind, uint8_t tst, uint8_t tas, bool dies)
{
	struct answer other;

	control(tst, 0, 0, tas);
	waiting(&other, n2);
	assert_int_equal(bed_tmf(n, 0, kind, 0), SCSI_TMF_COMPLETE);
	assert_int_equal(other.done, dies);
	assert_int_equal(other.aborted, dies && !tas);
	if (dies && tas)
		assert_int_equal(other.status, SCSI_TASK_ABORTED);
	if (dies && !tas && kind == SCSI_CLEAR_TASK_SET)
		assert_sense(RUN(n2, 0, 0x00), 6, 0x2f, 0x00);
	else if (kind == SCSI_CLEAR_TASK_SET)
		assert_good(RUN(n2, 0, 0x00));
	if (!dies)
		scsi_abort(other.cmd);
	bed_until(&other.done);
	bed_free(&other);
	bed_ready(n, 0);
	bed_ready(n2, 0);
}

/* TAS: TASK ABORTED instead of silence and a unit attention; with TST 001b CLEAR TASK SET is one's own; SAM-5 7.5. */
static void tas(void **state)
{
	tas_case(SCSI_CLEAR_TASK_SET, 0, 0, true);
	tas_case(SCSI_CLEAR_TASK_SET, 0, TAS, true);
	tas_case(SCSI_CLEAR_TASK_SET, TST, TAS, false);
	tas_case(SCSI_LU_RESET, 0, TAS, true);
	tas_case(SCSI_LU_RESET, 0, 0, true);
}

/* UA_INTLCK_CTRL 10b: only REQUEST SENSE clears; 11b: a RESERVATION CONFLICT leaves one; SPC-4 table 461. */
static void interlock(void **state)
{
	control(0, 0, INTLCK2, 0);
	assert_int_equal(bed_tmf(n2, 0, SCSI_LU_RESET, 0), SCSI_TMF_COMPLETE);
	bed_ready(n2, 0); /* the page is as saved again: 00b */
	assert_sense(RUN(n, 0, 0x00), 6, 0x29, 0x03);
	control(0, 0, INTLCK2, 0);
	assert_sense(RUN(n2, 0, 0x00), 6, 0x2a, 0x01); /* still */
	assert_int_equal(RUN(n2, 0, 0x03, 0, 0, 0, 18).data[12], 0x2a);
	uint8_t p[16] = { 0, 0, 0, 0, 0x0a, 0x0a, 0, 0x10, INTLCK3 };
	assert_good(OUT(n2, p, 16, 0x15, 0x10, 0, 0, 16));
	for (int i = 0; i < 3; i++)
		assert_sense(RUN(n, 0, 0x00), 6, 0x2a, 0x01);
	assert_int_equal(RUN(n, 0, 0x03, 0, 0, 0, 18).data[12], 0x2a);
	assert_good(RUN(n, 0, 0x00));
	assert_good(RUN(n2, 0, 0x16));
	assert_int_equal(RUN(n, 0, 0x00).status, SCSI_RESERVATION_CONFLICT);
	assert_sense(RUN(n, 0, 0x00), 6, 0x2c, 0x09);
	assert_int_equal(RUN(n, 0, 0x03, 0, 0, 0, 18).data[13], 0x09);
	assert_int_equal(RUN(n, 0, 0x00).status, SCSI_RESERVATION_CONFLICT);
}

/* ACA with one task set: the faulted nexus gets ACA ACTIVE, others BUSY or ACA ACTIVE; ACA commands pass one at a time;
 * commands that were there wait, and go on after CLEAR ACA; SAM-5 5.9. */
static void aca_shared(void **state)
{
	struct answer own, other, aca;

	assert_int_equal(RUN(n, 0, 0x12, 0, 0, 0, 36).data[3] & 0x20, 0x20); /* NORMACA */
	struct scsi_cmd *c1 = waiting(&own, n), *c2 = waiting(&other, n2);
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_int_equal(RUN(n, 0, 0x00).status, SCSI_ACA_ACTIVE);
	assert_int_equal(RUN(n2, 0, 0x00).status, SCSI_BUSY);
	assert_int_equal(RUN(n2, 0, TUR_NACA).status, SCSI_ACA_ACTIVE);
	assert_int_equal(WITH(n2, SCSI_ACA, 0).status, SCSI_ACA_ACTIVE);
	assert_int_equal(RUN(n, 0, 0x03, 0, 0, 0, 18).status, SCSI_ACA_ACTIVE);
	assert_good(WITH(n, SCSI_ACA, 0x00));
	assert_int_equal(scsi_data_alloc(c1, 512), 0);
	assert_int_equal(scsi_data_alloc(c2, 512), 0);
	scsi_exec(c1);
	scsi_exec(c2);
	bed_settle();
	assert_int_equal(own.done + other.done, 0);
	struct scsi_cmd *c = bed_cmd(&aca, n, 0, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 512, 0);
	valve.hold = true;
	c->attr = SCSI_ACA;
	bed_start_cmd(c, NULL);
	bed_settle();
	assert_int_equal(WITH(n, SCSI_ACA, 0).status, SCSI_ACA_ACTIVE); /* one at a time */
	valve_open();
	bed_until(&aca.done);
	assert_good(aca);
	bed_free(&aca);
	free(aca.data);
	assert_int_equal(bed_tmf(n2, 0, SCSI_CLEAR_ACA, 0), SCSI_TMF_COMPLETE); /* not its own: nothing happens */
	assert_int_equal(RUN(n, 0, 0x00).status, SCSI_ACA_ACTIVE);
	assert_int_equal(bed_tmf(n, 0, SCSI_CLEAR_ACA, 0), SCSI_TMF_COMPLETE);
	bed_until(&own.done);
	bed_until(&other.done);
	assert_good(own);
	assert_good(other);
	bed_free(&own);
	bed_free(&other);
	assert_good(RUN(n, 0, 0x00));
	assert_good(RUN(n2, 0, 0x00));
	assert_sense(WITH(n, SCSI_ACA, 0), 5, 0x49, 0);
}

/* ACA with a task set each: others do not notice; SPC-4 table 458. */
static void aca_each(void **state)
{
	control(TST, 0, 0, 0);
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_good(RUN(n2, 0, 0x00));
	assert_sense(RUN(n2, 0, BAD_NACA), 5, 0x24, 0);
	assert_int_equal(RUN(n, 0, 0x00).status, SCSI_ACA_ACTIVE);
	assert_int_equal(RUN(n2, 0, 0x00).status, SCSI_ACA_ACTIVE);
	assert_int_equal(bed_tmf(n, 0, SCSI_CLEAR_ACA, 0), SCSI_TMF_COMPLETE);
	assert_good(RUN(n, 0, 0x00));
	assert_int_equal(RUN(n2, 0, 0x00).status, SCSI_ACA_ACTIVE);
	assert_int_equal(bed_tmf(n2, 0, SCSI_CLEAR_ACA, 0), SCSI_TMF_COMPLETE);
	assert_good(RUN(n2, 0, 0x00));
}

/* ACA ends with a failed ACA command without NACA, a reset, and the loss of the nexus; SAM-5 5.9.5. */
static void aca_ends(void **state)
{
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_sense(WITH(n, SCSI_ACA, BAD_NACA), 5, 0x24, 0); /* a new one in its place */
	assert_int_equal(RUN(n, 0, 0x00).status, SCSI_ACA_ACTIVE);
	assert_sense(WITH(n, SCSI_ACA, 0xff), 5, 0x20, 0);
	assert_good(RUN(n, 0, 0x00));
	assert_good(RUN(n2, 0, 0x00));
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_int_equal(bed_tmf(n2, 0, SCSI_LU_RESET, 0), SCSI_TMF_COMPLETE);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	assert_good(RUN(n, 0, 0x00));
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_int_equal(bed_tmf(n, 0, SCSI_I_T_NEXUS_RESET, 0), SCSI_TMF_COMPLETE);
	bed_ready(n, 0);
	assert_good(RUN(n2, 0, 0x00));
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_int_equal(RUN(n2, 0, 0x00).status, SCSI_BUSY);
	bed_nexus_close(n);
	n = NULL;
	assert_good(RUN(n2, 0, 0x00));
}

static void pr(struct scsi_nexus *by, uint8_t action, uint64_t key, uint64_t new)
{
	uint8_t p[24] = { 0 };

	put_be64(p, key);
	put_be64(p + 8, new);
	assert_good(OUT(by, p, 24, 0x5f, action, 0x03, 0, 0, 0, 0, 0, 24));
}

/* PREEMPT AND ABORT passes an ACA of another nexus, and ends that of the nexus that it preempts; SAM-5 5.9.2, 5.9.5. */
static void aca_preempted(void **state)
{
	pr(n, 0, 0, 1);
	pr(n2, 0, 0, 2);
	pr(n, 1, 1, 0);
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_int_equal(RUN(n2, 0, 0x00).status, SCSI_BUSY);
	pr(n2, 5, 2, 1);
	assert_good(RUN(n2, 0, 0x00));
	assert_sense(RUN(n, 0, 0x00), 6, 0x2a, 0x05); /* and not ACA ACTIVE */
}

/* A command whose CHECK CONDITION nobody hears, because it was aborted meanwhile, leaves no ACA behind. */
static void aca_aborted(void **state)
{
	struct answer a;
	struct scsi_cmd *c = bed_cmd(&a, n, 0, CDB(BAD_NACA), 512, 0);

	bed_start_cmd(c, NULL);
	for (int i = 0; i < 3 && !c->faulted; i++)
		loop_turn(n->loop, 0);
	assert_true(c->faulted && !a.done);
	assert_int_equal(bed_tmf(n, 0, SCSI_ABORT_TASK, c->tag), SCSI_TMF_COMPLETE);
	assert_true(a.aborted);
	bed_free(&a);
	assert_good(RUN(n, 0, 0x00));
	assert_good(RUN(n2, 0, 0x00));
}

/* QErr and ACA together: the commands are aborted, and the condition holds; SPC-4 table 460. */
static void aca_qerr(void **state)
{
	struct answer own, run;

	control(0, QERR_NEXUS, 0, 0);
	held(&run, n, 3);
	waiting(&own, n);
	assert_sense(RUN(n, 0, BAD_NACA), 5, 0x24, 0);
	assert_true(own.aborted);
	bed_free(&own);
	valve_open();
	bed_until(&run.done);
	assert_true(run.aborted);
	bed_free(&run);
	assert_int_equal(bed_tmf(n, 0, SCSI_CLEAR_ACA, 0), SCSI_TMF_COMPLETE);
	assert_good(RUN(n, 0, 0x00));
}

static bool has_page(struct answer a, uint8_t page, uint8_t sub)
{
	for (size_t at = 4; at + 4 <= a.len;) {
		bool spf = a.data[at] & 0x40;
		if ((a.data[at] & 0x3f) == page && (spf ? a.data[at + 1] : 0) == sub)
			return true;
		at += spf ? be16(a.data + at + 2) + 4u : a.data[at + 1] + 2u;
	}
	return false;
}

/* Pages and subpages: each alone, one page with its subpages, all with and without; what is not there; SPC-4 6.13. */
static void pages(void **state)
{
	struct answer a = RUN(n, 0, 0x1a, 0x08, 0x3f, 0, 255);

	assert_true(has_page(a, 0x0a, 0) && !has_page(a, 0x0a, 1));
	a = RUN(n, 0, 0x1a, 0x08, 0x3f, 0xff, 255);
	assert_true(has_page(a, 0x0a, 0) && has_page(a, 0x0a, 1) && has_page(a, 0x1c, 0) && has_page(a, 0x02, 0));
	assert_int_equal(a.data[0], a.len - 1);
	a = RUN(n, 0, 0x1a, 0x08, 0x0a, 0xff, 255);
	assert_true(has_page(a, 0x0a, 0) && has_page(a, 0x0a, 1) && !has_page(a, 0x08, 0));
	a = RUN(n, 0, 0x1a, 0x08, 0x0a, 0x01, 255);
	assert_int_equal(a.len, 4 + 32);
	assert_int_equal(a.data[4], 0xca);
	assert_int_equal(be16(a.data + 6), 0x1c);
	assert_int_equal(RUN(n, 0, 0x1a, 0x08, 0x19, 0, 255).data[6], 0x05); /* iSCSI */
	assert_sense(RUN(n, 0, 0x1a, 0, 0x0a, 0x44, 255), 5, 0x24, 0);
	assert_sense(RUN(n, 0, 0x1a, 0, 0x3f, 0x01, 255), 5, 0x24, 0);
	assert_sense(RUN(n, 0, 0x1a, 0, 0x05, 0, 255), 5, 0x24, 0);
}

/* Values that do not exist are refused and change nothing; a subpage has a header of its own; SPC-4 7.5.8, 7.5.7. */
static void refused(void **state)
{
	static const struct { uint8_t b[4]; } no[] = { { { 0, 0x14 } }, { { 0, 0x10, 0x10 } }, { { 0x40, 0x10 } }, { { 0, 0x30 } },
		{ { 0, 0x10, 0, 0x80 } } };
	uint8_t ext[36] = { 0, 0, 0, 0, 0x4a, 0x01, 0, 0x1c, 0x06, 0, LIM_SENSE };

	for (unsigned i = 0; i < ARRAY_LEN(no); i++) {
		uint8_t p[16] = { 0, 0, 0, 0, 0x0a, 0x0a };
		memcpy(p + 6, no[i].b, 4);
		assert_sense(OUT(n, p, 16, 0x15, 0x10, 0, 0, 16), 5, 0x26, 0);
	}
	assert_good(OUT(n, ext, 36, 0x15, 0x10, 0, 0, 36));
	ext[4] = 0x0a;
	assert_sense(OUT(n, ext, 36, 0x15, 0x10, 0, 0, 36), 5, 0x26, 0);
	ext[4] = 0x4a;
	assert_sense(OUT(n, ext, 7, 0x15, 0x10, 0, 0, 7), 5, 0x1a, 0);
	ext[7] = 0x1b;
	assert_sense(OUT(n, ext, 36, 0x15, 0x10, 0, 0, 36), 5, 0x26, 0);
	assert_good(RUN(n2, 0, 0x00));
}

/* TEST of informational exceptions, reported on request: REQUEST SENSE says a false prediction of failure; SPC-4 7.5.11. */
static void exceptions(void **state)
{
	uint8_t p[16] = { 0, 0, 0, 0, 0x1c, 0x0a, 0x04, 6 };

	assert_good(OUT(n, p, 16, 0x15, 0x10, 0, 0, 16));
	bed_ready(n2, 0);
	struct answer a = RUN(n2, 0, 0x03, 0, 0, 0, 18);
	assert_int_equal(a.data[2] << 16 | a.data[12] << 8 | a.data[13], 0x5dff);
	p[7] = 2;
	assert_sense(OUT(n, p, 16, 0x15, 0x10, 0, 0, 16), 5, 0x26, 0);
	p[6] = 0x0c;
	p[7] = 6;
	assert_good(OUT(n, p, 16, 0x15, 0x10, 0, 0, 16));
	bed_ready(n2, 0);
	assert_int_equal(RUN(n2, 0, 0x03, 0, 0, 0, 18).data[12], 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(qerr), T(tas), T(interlock), T(aca_shared), T(aca_each), T(aca_ends),
		T(aca_preempted), T(aca_aborted), T(aca_qerr), T(pages), T(refused), T(exceptions) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

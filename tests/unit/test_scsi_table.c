/* SPDX-License-Identifier: BSD-3-Clause
 * The command tables: what every row must say, and every gate with every row. */
#include "scsi_bed.h"
#include "scsi/alua.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 8 << 20, BLOCKS = SIZE / 512 };

typedef void row_fn(const struct scsi_op *op);

static void each(row_fn *fn)
{
	for (const struct scsi_op *const *t = lu_disk.ops; *t; t++)
		for (const struct scsi_op *op = *t; op->name; op++)
			fn(op);
}

#define must(op, x)                                                                                \
	do {                                                                                       \
		if (!(x))                                                                          \
			fail_msg("%s: %s", (op)->name, #x);                                        \
	} while (0)

static bool inside(const struct scsi_op *op, struct scsi_field f)
{
	return !f.bytes || (f.at && f.at + f.bytes < op->cdb_len);
}

static void row_lint(const struct scsi_op *op)
{
	static const uint8_t length[8] = { 6, 10, 10, 0, 16, 12, 0, 0 }; /* SPC-4 4.2.5.1: by group code */

	must(op, op->cdb_len == length[op->opcode >> 5]);
	must(op, op->usage[0] == op->opcode);
	must(op, op->exec && op->spec && strlen(op->spec) > 6);
	must(op, !(op->flags & SCSI_SA) || (op->usage[1] & 0x1f) == op->action);
	must(op, (op->flags & SCSI_SA) || !op->action);
	must(op, op->usage[op->cdb_len - 1] == 0); /* CONTROL: NACA is added to every row */
	for (unsigned i = op->cdb_len; i < sizeof(op->usage); i++)
		must(op, !op->usage[i]);
	must(op, inside(op, op->lba) && inside(op, op->nblk) && inside(op, op->alloc) && inside(op, op->param));
	must(op, !op->alloc.bytes || (op->flags & SCSI_IN));
	must(op, !op->param.bytes || (op->flags & SCSI_OUT));
	must(op, !(op->flags & SCSI_BLOCKS) || (op->lba.bytes && op->nblk.bytes));
	must(op, !(op->flags & SCSI_WRITES) || (op->flags & SCSI_PR_WRITE));
	must(op, __builtin_popcount(op->flags & (SCSI_PR_READ | SCSI_PR_WRITE | SCSI_PR_FREE)) == 1);
	must(op, !(op->flags & SCSI_ANY_LUN) || (op->flags & SCSI_NO_UA));
}

/* Every row has a mask that begins with its opcode, fields inside its CDB, one reservation class; SPC-4 4.2.5. */
static void lint(void **state)
{
	each(row_lint);
}

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	scsi_target_set_ports(bed.target, &(struct scsi_ports){ .tpgs = 3, .n = 1, .tag = { 1 } });
	lu = bed_lu(*state, bed_valve(SIZE, 0, 0));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	return 0;
}

static int teardown(void **state)
{
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

/* A CDB of the row that moves nothing: opcode and action, zeros elsewhere. */
static void blank(const struct scsi_op *op, uint8_t cdb[16])
{
	memset(cdb, 0, 16);
	cdb[0] = op->opcode;
	cdb[1] = op->action;
}

static struct answer run(struct scsi_nexus *by, unsigned lun, const uint8_t cdb[16])
{
	static uint8_t zeros[1 << 20];

	return bed_run(by, lun, cdb, 16, zeros, (cdb[0] == 0x41 || cdb[0] == 0x93) ? 512 : 0, 4096);
}

static unsigned code(struct answer a)
{
	return a.status == SCSI_CHECK_CONDITION ? (unsigned)(a.key << 16 | a.asc << 8 | a.ascq) : a.status;
}

static void row_reserved_bits(const struct scsi_op *op)
{
	uint8_t cdb[16];

	for (unsigned bit = 8; bit < op->cdb_len * 8u; bit++) {
		if ((scsi_usage(op, bit / 8) >> (bit % 8) & 1) || ((op->flags & SCSI_SA) && bit / 8 == 1 && bit % 8 < 5))
			continue;
		blank(op, cdb);
		cdb[bit / 8] = (uint8_t)(cdb[bit / 8] | 1u << (bit % 8));
		if (code(run(n, 0, cdb)) != 0x052400)
			fail_msg("%s takes byte %u bit %u", op->name, bit / 8, bit % 8);
	}
}

/* Every bit that no row's mask names is INVALID FIELD IN CDB; SPC-4 4.2.5.3. */
static void reserved_bits(void **state)
{
	each(row_reserved_bits);
}

static void row_bounds(const struct scsi_op *op)
{
	uint8_t cdb[16];

	if (!op->lba.bytes)
		return;
	blank(op, cdb);
	for (unsigned i = 0; i < op->lba.bytes; i++)
		cdb[op->lba.at + i] = op->usage[op->lba.at + i];
	must(op, code(run(n, 0, cdb)) == 0x052100);
	blank(op, cdb);
	put_be16(cdb + op->lba.at + op->lba.bytes - 2, BLOCKS - 1);
	if (op->nblk.bytes)
		cdb[op->nblk.at + op->nblk.bytes - 1] = 2;
	must(op, !op->nblk.bytes || code(run(n, 0, cdb)) == 0x052100);
}

/* Every row with an LBA refuses what lies beyond the last block; SBC-4 4.18.1. */
static void bounds(void **state)
{
	each(row_bounds);
}

static void row_attention(const struct scsi_op *op)
{
	struct scsi_nexus *fresh = bed_nexus(1, 77);
	uint8_t cdb[16];

	blank(op, cdb);
	unsigned got = code(run(fresh, 0, cdb));
	must(op, (got == 0x062900) == !(op->flags & SCSI_NO_UA));
	bed_nexus_close(fresh);
}

/* A pending unit attention comes before every row but those that SAM-5 5.14 exempts. */
static void attention(void **state)
{
	each(row_attention);
}

static void row_reserved_unit(const struct scsi_op *op)
{
	uint8_t cdb[16];

	blank(op, cdb);
	bool conflict = run(n2, 0, cdb).status == SCSI_RESERVATION_CONFLICT;
	bool allowed = (op->flags & SCSI_PR_FREE) && !(op->flags & SCSI_RES_CONFLICT);
	must(op, conflict == !(allowed || op->opcode == 0x1e)); /* PREVENT=0 is allowed */
}

/* With another nexus' reservation only the rows that SPC-2 5.5.1 lists run; START=1 too. */
static void reserved_unit(void **state)
{
	assert_good(RUN(n, 0, 0x16));
	each(row_reserved_unit);
	assert_good(RUN(n2, 0, 0x1b, 0, 0, 0, 1));
	assert_int_equal(RUN(n2, 0, 0x1e, 0, 0, 0, 1).status, SCSI_RESERVATION_CONFLICT);
	assert_good(RUN(n, 0, 0x17));
}

static void row_protected(const struct scsi_op *op)
{
	uint8_t cdb[16];

	blank(op, cdb);
	must(op, (code(run(n, 0, cdb)) == 0x072700) == !!(op->flags & SCSI_WRITES));
}

/* On a write-protected unit the rows that write are refused, even those that would write nothing; SBC-4 4.13. */
static void protected_unit(void **state)
{
	each(row_protected);
}

static void row_no_medium(const struct scsi_op *op)
{
	uint8_t cdb[16];

	blank(op, cdb);
	must(op, (code(run(n, 0, cdb)) == 0x023a02) == !!(op->flags & SCSI_MEDIUM));
}

/* Without a medium the rows that need one are NOT READY and the others run; SBC-4 4.3. */
static void no_medium(void **state)
{
	assert_good(RUN(n, 0, 0x1b, 0, 0, 0, 2));
	each(row_no_medium);
	assert_good(RUN(n, 0, 0x1b, 0, 0, 0, 3));
}

static const struct { uint8_t access; uint32_t allowed; unsigned sense; } states[] = {
	{ ALUA_STANDBY, SCSI_IN_STANDBY, 0x02040b }, { ALUA_UNAVAILABLE, SCSI_IN_UNAVAILABLE, 0x02040c },
	{ ALUA_OFFLINE, SCSI_IN_UNAVAILABLE, 0x020412 },
};
static unsigned in_state;

static void row_access(const struct scsi_op *op)
{
	uint8_t cdb[16];

	blank(op, cdb);
	must(op, (code(run(n, 0, cdb)) == states[in_state].sense) == !(op->flags & states[in_state].allowed));
}

static void changed(void *ctx, int result)
{
	++*(int *)ctx;
}

/* In each state that is not active the rows that SPC-4 5.16.2.4 lists run and the others are refused with its sense. */
static void access_states(void **state)
{
	for (in_state = 0; in_state < ARRAY_LEN(states); in_state++) {
		int done = 0;
		lu_alua_change(lu, &(struct alua_change){ 1, states[in_state].access, ALUA_AS_IT_IS }, 1, false, 0, changed, &done);
		bed_until(&done);
		bed_run(n, 0, CDB(0x03, 0, 0, 0, 96), NULL, 0, 96); /* takes the attention */
		each(row_access);
	}
}

static void row_no_room(const struct scsi_op *op)
{
	uint8_t cdb[16];

	if (!op->alloc.bytes)
		return;
	for (unsigned room = 0; room < 40; room += 13) {
		blank(op, cdb);
		memset(cdb + op->alloc.at, 0, op->alloc.bytes);
		cdb[op->alloc.at + op->alloc.bytes - 1] = (uint8_t)(room & op->usage[op->alloc.at + op->alloc.bytes - 1]);
		struct answer a = bed_run(n, 0, cdb, 16, NULL, 0, 20);
		must(op, a.len <= 20 && a.len <= room && a.want_in <= room);
	}
}

/* No row sends more than allocation length or room; SPC-4 4.2.5.6. */
static void no_room(void **state)
{
	each(row_no_room);
}

static void row_broken(const struct scsi_op *op)
{
	uint8_t cdb[16], data[2048] = { 0 };
	bool out = op->flags & SCSI_OUT;

	if (!(op->flags & SCSI_BLOCKS))
		return;
	blank(op, cdb);
	cdb[op->nblk.at + op->nblk.bytes - 1] = 1;
	must(op, code(bed_run(n, 0, cdb, 16, data, out ? 512 : 0, out ? 0 : 512)) >> 16 == 3);
}

/* What the medium fails to do is MEDIUM ERROR for every row that moves blocks; SBC-4 4.18. */
static void broken_medium(void **state)
{
	valve.fail = -EIO;
	each(row_broken);
	valve.fail = 0;
}

static struct lu_conf plain = { .wce = true }, ro = { .ro = true }, rmb = { .removable = true };

#define T(f, conf) { #f, f, setup, teardown, &conf }

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(lint), T(reserved_bits, plain), T(bounds, plain),
		T(attention, plain), T(reserved_unit, plain), T(protected_unit, ro), T(no_medium, rmb),
		T(no_room, plain), T(broken_medium, plain), T(access_states, plain) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

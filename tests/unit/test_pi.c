/* SPDX-License-Identifier: BSD-3-Clause
 * T10 protection information (SBC-4 4.21): every type with every value of RDPROTECT, WRPROTECT and VRPROTECT, 32-byte
 * commands, what the unit says of itself, and that tuples come back as they were sent. */
#include "scsi_bed.h"
#include "scsi/pi.h"
#include "scsi/sbc.h"

enum { SIZE = 8 << 20 };

static struct lu *lu;
static struct scsi_nexus *n;
static unsigned type, bs;
static uint8_t buf[3 << 20], back[3 << 20];

static void begin_as(struct lu_conf conf)
{
	struct err e = { 0 };
	struct blk *b;

	type = (unsigned)conf.pi;
	bs = (unsigned)conf.bs;
	bed_start(BED_LOOPS);
	assert_int_equal(integrity_open_over(&b, bed_ram(SIZE), bed_ram(8 << 20), bs, &e), 0);
	lu = bed_lu(&conf, b);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	bed_ready(n, 0);
}

static void begin(unsigned pi, unsigned block)
{
	begin_as((struct lu_conf){ .wce = true, .pi = pi, .bs = block });
}

static void end(void)
{
	bed_nexus_close(n);
	bed_map(NULL, 0);
	bed_close(lu);
	bed_stop();
}

/* CRC16-T10DIF of the cases that SBC-4 annex C lists, and of the usual check string. */
static void test_guard(void **state)
{
	uint8_t p[32] = { 0 };

	assert_int_equal(pi_guard(0, p, 32), 0);
	memset(p, 0xff, 2);
	assert_int_equal(pi_guard(0, p, 32), 0x21b8);
	memset(p, 0xff, 32);
	assert_int_equal(pi_guard(0, p, 32), 0xa293);
	for (int i = 0; i < 32; i++)
		p[i] = (uint8_t)i;
	assert_int_equal(pi_guard(0, p, 32), 0x0224);
	assert_int_equal(pi_guard(pi_guard(0, p, 7), p + 7, 25), 0x0224);
	for (int i = 0; i < 32; i++)
		p[i] = (uint8_t)(0xff - i);
	assert_int_equal(pi_guard(0, p, 32), 0xa0b7);
	assert_int_equal(pi_guard(0, "123456789", 9), 0xd0db);
}

/* --- commands: of 16 bytes, or of 32 where `wide` --- */

enum { READ = 0, WRITE, VERIFY, WRITE_VERIFY, SAME };
enum { APP = 0x1234 };
static bool wide;
static uint32_t first_ref; /* of wide commands */
static uint16_t app_mask;

static struct answer cmd(unsigned what, unsigned code, unsigned bits, uint64_t lba, uint32_t nblk, const void *out,
	uint32_t out_len, uint32_t in)
{
	static const uint8_t op16[] = { 0x88, 0x8a, 0x8f, 0x8e, 0x93 }, action[] = { 0x09, 0x0b, 0x0a, 0x0c, 0x0d };
	uint8_t cdb[32] = { wide ? 0x7f : op16[what] };

	if (!wide) {
		cdb[1] = (uint8_t)(code << 5 | bits);
		put_be64(cdb + 2, lba);
		put_be32(cdb + 10, nblk);
		return bed_run(n, 0, cdb, 16, out, out_len, in);
	}
	cdb[7] = 0x18;
	cdb[9] = action[what];
	cdb[10] = (uint8_t)(code << 5 | bits);
	put_be64(cdb + 12, lba);
	put_be32(cdb + 20, first_ref);
	put_be16(cdb + 24, APP);
	put_be16(cdb + 26, app_mask);
	put_be32(cdb + 28, nblk);
	return bed_run(n, 0, cdb, 32, out, out_len, in);
}

/* Blocks with tuples that every check passes. Returns the bytes. */
static uint32_t fill(uint8_t *p, uint64_t lba, uint32_t nblk, unsigned seed)
{
	for (uint32_t i = 0; i < nblk; i++, p += bs + 8) {
		for (unsigned k = 0; k < bs; k++)
			p[k] = (uint8_t)(seed + k * 7 + (unsigned)(lba + i) * 13);
		put_be16(p + bs, pi_guard(0, p, bs));
		put_be16(p + bs + 2, APP);
		put_be32(p + bs + 4, type == 3 ? 0x33333333 : wide ? first_ref + i : (uint32_t)(lba + i));
	}
	return nblk * (bs + 8);
}

/* Type 2 moves tuples with commands of 32 bytes only. */
static void choose(unsigned pi, unsigned block)
{
	begin(pi, block);
	wide = pi == 2;
	first_ref = 0x7000;
	app_mask = 0xffff;
}

/* What was sent with tuples comes back with them, without them as plain blocks, in one command and in parts, up to many
 * steps; for all types and both sizes of blocks. */
static void test_round_trip(void **state)
{
	for (unsigned k = 0; k < 6; k++) {
		choose(k % 3 + 1, k < 3 ? 512 : 4096);
		uint32_t many = k < 3 ? 1300 : 300, len = fill(buf, 5, many, 1);
		assert_good(cmd(WRITE, 1, 0, 5, many, buf, len, 0));
		struct answer a = cmd(READ, 1, 0, 5, many, NULL, 0, len);
		assert_good(a);
		assert_int_equal(a.len, len);
		assert_memory_equal(a.data, buf, len);
		first_ref += 3;
		a = cmd(READ, 1, 0, 8, 2, NULL, 0, sizeof(back));
		assert_int_equal(a.len, 2 * (bs + 8));
		assert_memory_equal(a.data, buf + 3 * (bs + 8), a.len);
		a = bed_rw(n, 0, false, 8, 3, back, 3 * bs); /* plain: checked, and without tuples */
		assert_int_equal(a.len, 3 * bs);
		for (unsigned i = 0; i < 3; i++)
			assert_memory_equal(a.data + i * bs, buf + (3 + i) * (bs + 8), bs);
		a = cmd(READ, 1, 0, 8, 4, NULL, 0, 2 * (bs + 8) + 5); /* less room than blocks */
		assert_int_equal(a.len, 2 * (bs + 8) + 5);
		assert_memory_equal(a.data, buf + 3 * (bs + 8), a.len);
		end();
	}
}

/* A plain write gets a true guard, no application tag, and the reference tag of its type (SBC-4 table 133). */
static void test_generated(void **state)
{
	for (unsigned pi = 1; pi <= 3; pi++) {
		choose(pi, 512);
		memset(buf, 0xa5, 1024);
		assert_good(bed_rw(n, 0, true, 100, 2, buf, 1024));
		struct answer a = cmd(READ, 3, 0, 100, 2, NULL, 0, 1040);
		assert_good(a);
		for (unsigned i = 0; i < 2; i++) {
			const uint8_t *t = a.data + i * 520 + 512;
			assert_int_equal(be16(t), pi_guard(0, buf, 512));
			assert_int_equal(be16(t + 2), 0xffff);
			assert_int_equal(be32(t + 4), pi == 1 ? 100 + i : 0xffffffff);
		}
		a = cmd(READ, 3, 0, 300, 1, NULL, 0, 520); /* never written */
		for (unsigned i = 512; i < 520; i++)
			assert_int_equal(a.data[i], 0xff);
		end();
	}
}

/* --- every value against every fault --- */

enum { GOOD_ONE, BAD_GUARD, BAD_APP, BAD_REF, FAULTS };

static void spoil(uint8_t *block, unsigned fault)
{
	if (fault)
		block[bs + (fault == BAD_GUARD ? 0u : fault == BAD_APP ? 2u : 4u)] ^= 0x40;
}

/* Which fault a code finds, by type: tables 79, 133, 127 in words. Application tags are known in wide commands only,
 * reference tags in types 1 and 2. */
static unsigned found(unsigned code, unsigned fault)
{
	static const char *const guard_checked = "0145", *const tags_checked = "0125";
	char c = (char)('0' + code);

	if (fault == BAD_GUARD)
		return strchr(guard_checked, c) ? 1 : 0;
	if (fault == BAD_APP)
		return wide && strchr(tags_checked, c) ? 2 : 0;
	if (fault == BAD_REF)
		return type != 3 && strchr(tags_checked, c) ? 3 : 0;
	return 0;
}

static void expect(struct answer a, unsigned ascq, unsigned key)
{
	if (ascq)
		assert_sense(a, key, 0x10, ascq);
	else
		assert_good(a);
}

static void every_code(unsigned fault)
{
	uint32_t len = fill(buf, 20, 6, fault);

	spoil(buf + 4 * (bs + 8), fault);
	for (unsigned code = 1; code <= 5; code++) {
		expect(cmd(WRITE, code, 0, 20, 6, buf, len, 0), found(code, fault), 0xb);
		expect(cmd(WRITE_VERIFY, code, 2, 20, 6, buf, len, 0), found(code, fault), 0xb);
	}
	assert_good(cmd(WRITE, 3, 0, 20, 6, buf, len, 0));
	for (unsigned code = 0; code <= 5; code++) {
		expect(cmd(READ, code, 0, 20, 6, NULL, 0, len), found(code, fault), 0xb);
		expect(cmd(VERIFY, code, 0, 20, 6, NULL, 0, 0), found(code, fault), 0xb);
	}
	for (unsigned code = 1; code <= 5; code++) /* the same fault in both: only the data-out is checked */
		expect(cmd(VERIFY, code, 2, 20, 6, buf, len, 0), found(code, fault), 0xb);
}

/* Each type, each code, each fault, on the way in, out, and in VERIFY. */
static void test_every_code(void **state)
{
	for (unsigned pi = 1; pi <= 3; pi++) {
		choose(pi, 512);
		for (unsigned fault = 0; fault < FAULTS; fault++)
			every_code(fault);
		for (unsigned what = READ; what <= SAME; what++)
			for (unsigned code = 6; code <= 7; code++)
				assert_sense(cmd(what, code, 0, 20, 1, buf, 520, 520), 5, 0x24, 0);
		end();
	}
}

/* A fault names its block, and nothing of the write is done. */
static void test_information(void **state)
{
	struct answer a;
	uint8_t cdb[16] = { 0x8a, 0x20, [9] = 20, [13] = 6 };

	choose(1, 512);
	uint32_t len = fill(buf, 20, 6, 1);
	assert_good(cmd(WRITE, 1, 0, 20, 6, buf, len, 0));
	len = fill(buf, 20, 6, 2);
	spoil(buf + 4 * 520, BAD_GUARD);
	bed_start_cmd(bed_cmd(&a, n, 0, cdb, 16, 0, len), buf);
	bed_until(&a.done);
	assert_int_equal(a.cmd->sense[0] & 0x80, 0x80);
	assert_int_equal(be32(a.cmd->sense + 3), 24);
	bed_free(&a);
	fill(buf, 20, 6, 1);
	a = cmd(READ, 1, 0, 20, 6, NULL, 0, len);
	assert_memory_equal(a.data, buf, len);
	end();
}

/* The application tag FFFFh turns checks off, for type 3 only with the reference tag FFFF_FFFFh (table 79, note h). */
static void test_escape(void **state)
{
	for (unsigned pi = 1; pi <= 3; pi++) {
		choose(pi, 512);
		uint32_t len = fill(buf, 20, 1, 1);
		put_be16(buf + 512, 0xbad);
		put_be16(buf + 514, 0xffff);
		expect(cmd(WRITE, 1, 0, 20, 1, buf, len, 0), pi == 3 ? 1 : 0, 0xb);
		put_be32(buf + 516, 0xffffffff);
		assert_good(cmd(WRITE, 1, 0, 20, 1, buf, len, 0));
		assert_good(cmd(READ, 1, 0, 20, 1, NULL, 0, len));
		end();
	}
}

/* What VERIFY compares of tuples, by code (table 128): a difference is a miscompare with the part's name. */
static void test_verify_compare(void **state)
{
	static const struct { unsigned code, differs, ascq1, ascq3; } rows[] = {
		{ 1, BAD_REF, 3, 3 }, { 2, BAD_REF, 3, 3 }, { 3, BAD_REF, 3, 3 }, { 4, BAD_REF, 3, 3 }, { 5, BAD_REF, 0, 0 },
		{ 2, BAD_GUARD, 0, 0 }, { 3, BAD_GUARD, 1, 1 },
	};

	for (unsigned pi = 1; pi <= 3; pi += 2) {
		choose(pi, 512);
		for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
			uint32_t len = fill(buf, 20, 4, 1);
			spoil(buf + 2 * 520, rows[i].differs); /* on the medium only */
			assert_good(cmd(WRITE, 3, 0, 20, 4, buf, len, 0));
			fill(buf, 20, 4, 1);
			expect(cmd(VERIFY, rows[i].code, 2, 20, 4, buf, len, 0), pi == 1 ? rows[i].ascq1 : rows[i].ascq3, 0xe);
			buf[2 * 520 + 9] ^= 1;
			put_be16(buf + 2 * 520 + 512, pi_guard(0, buf + 2 * 520, 512));
			assert_sense(cmd(VERIFY, rows[i].code, 2, 20, 4, buf, len, 0), 0xe, 0x1d, 0);
		}
		end();
	}
}

/* WRITE SAME spreads one block with its tuple, whose reference tag counts on; VERIFY with BYTCHK 11b agrees. */
static void test_same(void **state)
{
	for (unsigned pi = 1; pi <= 3; pi++) {
		choose(pi, 512);
		fill(buf, 40, 1, 3);
		assert_good(cmd(SAME, 1, 0, 40, 700, buf, 520, 0));
		assert_good(cmd(VERIFY, 1, 6, 40, 700, buf, 520, 0));
		struct answer a = cmd(READ, 1, 0, 40, 700, NULL, 0, 700 * 520);
		assert_good(a);
		assert_memory_equal(a.data + 699 * 520, buf, 514);
		assert_int_equal(be32(a.data + 699 * 520 + 516), be32(buf + 516) + (pi == 3 ? 0 : 699));
		assert_sense(cmd(SAME, 1, 0x08, 40, 1, buf, 520, 0), 5, 0x24, 0);
		if (!wide)
			assert_good(cmd(SAME, 0, 0x08, 40, 700, memset(back, 0, 512), 512, 0));
		end();
	}
}

/* Which commands a type refuses: tuples without a format for them, short ones with type 2, 32-byte ones without it;
 * SBC-4 4.21.2.4. */
static void test_refused(void **state)
{
	for (unsigned pi = 0; pi <= 3; pi++) {
		begin(pi, 512);
		for (unsigned what = READ; what <= SAME; what++) {
			wide = false;
			struct answer a = cmd(what, 1, 0, 1, 1, buf, what == VERIFY ? 0 : fill(buf, 1, 1, 1), 520);
			if (pi == 0)
				assert_sense(a, 5, 0x24, 0);
			else if (pi == 2)
				assert_sense(a, 5, 0x20, 0);
			else
				assert_good(a);
			wide = true;
			first_ref = 1;
			a = cmd(what, 1, 0, 1, 1, buf, what == VERIFY ? 0 : fill(buf, 1, 1, 1), 520);
			if (pi == 2)
				assert_good(a);
			else
				assert_sense(a, 5, 0x20, 0);
		}
		end();
	}
	wide = false;
	bed_start(BED_LOOPS); /* without a store there is nothing of it */
	lu = bed_lu(NULL, bed_ram(SIZE));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	bed_ready(n, 0);
	assert_sense(cmd(READ, 1, 0, 1, 1, NULL, 0, 520), 5, 0x24, 0);
	assert_int_equal(RUN(n, 0, 0x12, 0, 0, 0, 96).data[5] & 1, 0);
	assert_int_equal(RUN(n, 0, 0x12, 1, 0x86, 0, 96).data[4], 0);
	end();
}

/* INQUIRY, VPD 86h, READ CAPACITY (16), control mode page, REPORT SUPPORTED OPERATION CODES tell the truth. */
static void test_reports(void **state)
{
	for (unsigned pi = 0; pi <= 3; pi++) {
		begin(pi, 512);
		assert_int_equal(RUN(n, 0, 0x12, 0, 0, 0, 96).data[5] & 1, 1);
		assert_int_equal(RUN(n, 0, 0x12, 1, 0x86, 0, 96).data[4], 0x3f);
		struct answer a = RUN(n, 0, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32);
		assert_int_equal(a.data[12], pi ? (pi - 1) << 1 | 1 : 0);
		assert_int_equal(a.data[13] >> 4, 0);
		assert_int_equal(RUN(n, 0, 0x1a, 0x08, 0x0a, 0, 255).data[4 + 5] & 0x80, 0x80);
		a = RUN(n, 0, 0xa3, 0x0c, 2, 0x7f, 0, 0x09, 0, 0, 0, 255);
		assert_int_equal(a.data[1] & 7, 3);
		assert_int_equal(be16(a.data + 2), 32);
		end();
	}
}

/* The rows: what test_scsi_table.c asks of those of every unit. */
static void test_rows(void **state)
{
	for (const struct scsi_op *op = pi_ops; op->name; op++) {
		assert_int_equal(op->usage[0], op->opcode);
		assert_true(op->lba.at + op->lba.bytes <= op->cdb_len && op->nblk.at + op->nblk.bytes <= op->cdb_len);
		assert_true(op->prepare && op->exec && op->spec);
		assert_int_equal(op->opcode == 0x7f, op->cdb_len == 32);
		assert_true(op->opcode != 0x7f || (op->usage[7] == 0x18 && op->usage[9] == op->action));
		assert_true(!(op->flags & SCSI_WRITES) || (op->flags & SCSI_PR_WRITE));
	}
}

/* --- the gates, with every row of 32 bytes --- */

static struct answer wide_row(struct scsi_nexus *by, const struct scsi_op *op, uint64_t lba, unsigned byte, unsigned set)
{
	uint8_t cdb[32] = { 0x7f, [7] = 0x18, [9] = op->action };

	put_be64(cdb + 12, lba);
	cdb[byte] = (uint8_t)(cdb[byte] | set);
	return bed_run(by, 0, cdb, 32, buf, op->action == 0x0d ? bs : 0, bs);
}

#define each_wide(op) for (const struct scsi_op *op = pi_ops; op->name; op++) if (op->cdb_len == 32)

static void refuses_bits(const struct scsi_op *op)
{
	for (unsigned bit = 8; bit < 32 * 8; bit++) {
		bool known = bit / 8 == 7 || bit / 8 == 8 || bit / 8 == 9; /* length and service action: no such row */
		if (known || (scsi_usage(op, bit / 8) >> (bit % 8) & 1))
			continue;
		assert_sense(wide_row(n, op, 0, bit / 8, 1u << (bit % 8)), 5, 0x24, 0);
	}
}

/* Reserved bits, the last block, unit attentions, reservations, write protection and a medium that is not there mean the
 * same to commands of 32 bytes as to shorter ones; SPC-4 4.2.5, SBC-4 4.13, 4.18.1. */
static void test_wide_gates(void **state)
{
	begin_as((struct lu_conf){ .removable = true, .pi = 2, .bs = 512 });
	struct scsi_nexus *other = bed_nexus(1, 2);
	each_wide(op) {
		struct scsi_nexus *fresh = bed_nexus(1, 77);
		assert_sense(wide_row(fresh, op, 0, 0, 0), 6, 0x29, 0);
		bed_nexus_close(fresh);
		refuses_bits(op);
		assert_sense(wide_row(n, op, SIZE / 512, 31, 1), 5, 0x21, 0);
	}
	bed_ready(other, 0);
	assert_good(RUN(n, 0, 0x16));
	each_wide(op)
		assert_int_equal(wide_row(other, op, 0, 0, 0).status, SCSI_RESERVATION_CONFLICT);
	assert_good(RUN(n, 0, 0x17));
	assert_good(RUN(n, 0, 0x1b, 0, 0, 0, 2));
	each_wide(op)
		assert_sense(wide_row(n, op, 0, 0, 0), 2, 0x3a, 2);
	bed_nexus_close(other);
	end();
	begin_as((struct lu_conf){ .ro = true, .pi = 2, .bs = 512 });
	each_wide(op)
		if (op->flags & SCSI_WRITES)
			assert_sense(wide_row(n, op, 0, 31, 1), 7, 0x27, 0);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wide_gates),
		cmocka_unit_test(test_guard), cmocka_unit_test(test_rows), cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_generated), cmocka_unit_test(test_every_code), cmocka_unit_test(test_information),
		cmocka_unit_test(test_escape), cmocka_unit_test(test_verify_compare), cmocka_unit_test(test_same),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_reports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

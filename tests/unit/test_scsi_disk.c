/* SPDX-License-Identifier: BSD-3-Clause
 * Disk commands beyond reading and writing, over a RAM disk below a valve that can fail and that counts. The
 * last test says whether every row of the command tables ended well at least once. */
#include "scsi_bed.h"
#include "scsi/pr.h"

static uint8_t pr_id[PR_TRANSPORT_ID_MAX];

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 64 << 20, BLOCKS = SIZE / 512 };

static int setup_with(const struct lu_conf *conf, uint32_t caps_on, uint32_t caps_off)
{
	bed_start(BED_LOOPS);
	scsi_target_set_ports(bed.target, &(struct scsi_ports){ .tpgs = 3, .n = 1, .tag = { 1 } });
	lu = bed_lu(conf, bed_valve(SIZE, caps_on, caps_off));
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
	return 0;
}

static int setup(void **state)
{
	return setup_with(NULL, BLK_WRITE_CACHE, 0);
}

static int setup_removable(void **state)
{
	return setup_with(&(struct lu_conf){ .removable = true, .wce = true }, 0, 0);
}

static int setup_copying(void **state) /* nothing is lent, no cache */
{
	return setup_with(&(struct lu_conf){ .bs = 4096 }, BLK_WRITE_CACHE, BLK_CAN_LEND);
}

static int setup_ro(void **state)
{
	return setup_with(&(struct lu_conf){ .ro = true }, 0, 0);
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

static struct answer run(struct scsi_nexus *by, const uint8_t *cdb, size_t len, const void *out, uint32_t out_len,
	uint32_t in)
{
	return bed_run(by, 0, cdb, len, out, out_len, in);
}

#define DO(by, ...) run(by, CDB(__VA_ARGS__), NULL, 0, 1 << 16)
#define OUT(by, data, len, ...) run(by, CDB(__VA_ARGS__), data, len, 0)

static void fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 13 + (i >> 9));
}

/* Blocks lba.. hold want. */
static void expect(uint64_t lba, uint32_t nblk, const uint8_t *want)
{
	uint32_t bs = lu->pub.bs;
	struct answer a = bed_rw(n, 0, false, lba, nblk, NULL, nblk * bs);

	assert_good(a);
	assert_int_equal(a.len, nblk * bs);
	assert_memory_equal(a.data, want, nblk * bs);
}

/* All lengths of READ and WRITE say the same of the same blocks; 0 means 256 in six bytes; SBC-3 5.7. */
static void every_length(void **state)
{
	static uint8_t buf[256 * 512];

	fill(buf, sizeof(buf), 1);
	assert_good(OUT(n, buf, 256 * 512, 0x0a, 0, 0, 7, 0));
	expect(7, 256, buf);
	assert_int_equal(DO(n, 0x08, 0, 0, 7, 0).len, 1 << 16);
	fill(buf, sizeof(buf), 2);
	assert_good(OUT(n, buf, 1024, 0x2a, 0, 0, 0, 0, 7, 0, 0, 2));
	assert_memory_equal(DO(n, 0x28, 0, 0, 0, 0, 7, 0, 0, 2).data, buf, 1024);
	fill(buf, sizeof(buf), 3);
	assert_good(OUT(n, buf, 1024, 0xaa, 0, 0, 0, 0, 7, 0, 0, 0, 2));
	assert_memory_equal(DO(n, 0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 2).data, buf, 1024);
	fill(buf, sizeof(buf), 4);
	assert_good(OUT(n, buf, 1024, 0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2));
	assert_memory_equal(DO(n, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2).data, buf, 1024);
}

/* FUA and a write cache that is off reach the driver; without them nothing does; SBC-4 4.15, 5.40. */
static void fua(void **state)
{
	uint8_t buf[512] = { 1 };
	uint8_t wce_off[24] = { 0, 0, 0, 0, 0x08, 0x12 };

	assert_good(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1));
	assert_int_equal(valve.flags & BLK_FUA, 0);
	assert_good(OUT(n, buf, 512, 0x2a, 0x18, 0, 0, 0, 0, 0, 0, 1));
	assert_int_equal(valve.flags & (BLK_FUA | BLK_DPO), BLK_FUA | BLK_DPO);
	assert_int_equal(valve.op_seen[BLK_FLUSH], 0);
	assert_good(DO(n, 0x28, 0x08, 0, 0, 0, 0, 0, 0, 1));
	assert_int_equal(valve.op_seen[BLK_FLUSH], 1);
	assert_good(DO(n, 0x35));
	assert_good(DO(n, 0x91));
	assert_int_equal(valve.op_seen[BLK_FLUSH], 3);
	assert_good(OUT(n, wce_off, 24, 0x15, 0x10, 0, 0, 24));
	assert_good(OUT(n, buf, 512, 0x0a, 0, 0, 0, 1));
	assert_int_equal(valve.flags & BLK_FUA, BLK_FUA);
	assert_sense(DO(n2, 0x00), 6, 0x2a, 0x01);
	assert_good(DO(n, 0x00));
	assert_good(OUT(n2, buf, 512, 0x0a, 0, 0, 0, 1));
	assert_int_equal(valve.flags & BLK_FUA, BLK_FUA);
}

/* What fails below is the sense of the table, with the LBA where it is a medium error; SPC-4 4.5, SBC-4 4.18. */
static void errors(void **state)
{
	uint8_t buf[1024] = { 0 };
	struct answer a;

	valve.fail = -EIO;
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x28, 0, 0, 0, 0, 9, 0, 0, 2), 1024, 0), NULL);
	bed_until(&a.done);
	assert_int_equal(a.status, SCSI_CHECK_CONDITION);
	assert_int_equal(a.cmd->sense[0], 0xf0);
	assert_int_equal(be32(a.cmd->sense + 3), 9);
	assert_int_equal(a.key << 16 | a.asc << 8 | a.ascq, 0x031100);
	assert_int_equal(a.len, 0);
	bed_free(&a);
	assert_sense(OUT(n, buf, 1024, 0x2a, 0, 0, 0, 0, 9, 0, 0, 2), 3, 0x0c, 0);
	assert_sense(DO(n, 0x35), 3, 0x0c, 0);
	assert_sense(DO(n, 0x2f, 0, 0, 0, 0, 9, 0, 0, 2), 3, 0x11, 0);
	assert_sense(OUT(n, buf, 1024, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1), 3, 0x11, 0);
	assert_sense(OUT(n, buf, 512, 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1), 3, 0x0c, 0);
	valve.fail = -ENOSPC;
	assert_sense(OUT(n, buf, 1024, 0x2a, 0, 0, 0, 0, 9, 0, 0, 2), 7, 0x27, 0x07);
	valve.fail = -ENODEV;
	assert_sense(DO(n, 0x28, 0, 0, 0, 0, 9, 0, 0, 2), 4, 0x3e, 0x01);
	valve.fail = -EINVAL;
	assert_sense(DO(n, 0x28, 0, 0, 0, 0, 9, 0, 0, 2), 4, 0x44, 0x00);
	valve.fail = 0;
	assert_good(DO(n, 0x28, 0, 0, 0, 0, 9, 0, 0, 2));
}

/* VERIFY compares all blocks (BYTCHK 1), each with one (3), or reads only (0); 2 is reserved; SBC-4 5.36. */
static void verify(void **state)
{
	static uint8_t buf[2100 * 512];
	struct answer a;

	fill(buf, sizeof(buf), 5);
	for (unsigned k = 512; k < 2048; k += 512)
		memcpy(buf + k, buf, 512);
	assert_good(bed_rw(n, 0, true, 11, 2100, buf, sizeof(buf)));
	assert_good(DO(n, 0x2f, 0, 0, 0, 0, 11, 0, 8, 0x34));
	assert_good(OUT(n, buf, sizeof(buf), 0x2f, 0x02, 0, 0, 0, 11, 0, 8, 0x34));
	assert_good(OUT(n, buf, sizeof(buf), 0xaf, 0x02, 0, 0, 0, 11, 0, 0, 8, 0x34));
	assert_good(OUT(n, buf, sizeof(buf), 0x8f, 0x02, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 8, 0x34));
	assert_good(OUT(n, buf, 512, 0x2f, 0x06, 0, 0, 0, 11, 0, 0, 4));
	assert_sense(OUT(n, buf, 512, 0x2f, 0x06, 0, 0, 0, 11, 0, 0, 5), 0xe, 0x1d, 0);
	assert_sense(OUT(n, buf, 512, 0x2f, 0x04, 0, 0, 0, 11, 0, 0, 1), 5, 0x24, 0);
	buf[2099 * 512 + 17] ^= 1;
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x2f, 0x02, 0, 0, 0, 11, 0, 8, 0x34), 0, sizeof(buf)), buf);
	bed_until(&a.done);
	assert_int_equal(a.key, 0xe);
	assert_int_equal(be32(a.cmd->sense + 3), 2099 * 512 + 17);
	bed_free(&a);
	assert_good(OUT(n, NULL, 0, 0x2f, 0x02, 0, 0, 0, 11, 0, 0, 0));
}

/* WRITE AND VERIFY writes durably, then reads; SBC-4 5.44. */
static void write_verify(void **state)
{
	static uint8_t buf[64 * 512];
	static const uint8_t op[] = { 0x2e, 0xae, 0x8e };

	for (unsigned i = 0; i < 3; i++) {
		uint8_t cdb[16] = { op[i], i == 2 ? 0 : 2 };
		unsigned at = op[i] == 0x2e ? 7 : op[i] == 0xae ? 6 : 10, bytes = at == 7 ? 2 : 4;
		fill(buf, sizeof(buf), 9 + i);
		cdb[at == 10 ? 9 : 5] = 33;
		cdb[at + bytes - 1] = 64;
		assert_good(run(n, cdb, 16, buf, sizeof(buf), 0));
		assert_int_equal(valve.flags & BLK_FUA, BLK_FUA);
		expect(33, 64, buf);
	}
}

/* COMPARE AND WRITE writes only where all is equal, and says where it is not; SBC-4 5.3. */
static void compare_and_write(void **state)
{
	uint8_t old[4 * 512], both[8 * 512];
	struct answer a;

	fill(old, sizeof(old), 1);
	assert_good(bed_rw(n, 0, true, 21, 4, old, sizeof(old)));
	memcpy(both, old, sizeof(old));
	fill(both + sizeof(old), sizeof(old), 77);
	for (unsigned blocks = 1; blocks <= 4; blocks++) {
		uint8_t data[8 * 512];
		memcpy(data, both, blocks * 512);
		memcpy(data + blocks * 512, both + sizeof(old), blocks * 512);
		assert_good(bed_rw(n, 0, true, 21, 4, old, sizeof(old)));
		data[blocks * 512 - 1] ^= 4;
		bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, blocks), 0,
			blocks * 1024), data);
		bed_until(&a.done);
		assert_int_equal(a.key << 16 | a.asc << 8, 0x0e1d00);
		assert_int_equal(be32(a.cmd->sense + 3), blocks * 512 - 1);
		bed_free(&a);
		expect(21, 4, old);
		data[blocks * 512 - 1] ^= 4;
		assert_good(OUT(n2, data, blocks * 1024, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, blocks));
		expect(21, blocks, both + sizeof(old));
	}
	assert_sense(OUT(n, both, 512, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 1), 5, 0x24, 0);
	assert_sense(OUT(n, both, 2048, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 1), 5, 0x24, 0);
	assert_good(OUT(n, NULL, 0, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 0));
}

/* WRITE SAME repeats a block; zeros and NDOB are one metadata request; 0 blocks go to the end; SBC-4 5.52. */
static void write_same(void **state)
{
	static uint8_t want[3000 * 512], buf[1024];

	fill(buf, 512, 3);
	for (unsigned i = 0; i < 3000; i++)
		memcpy(want + i * 512, buf, 512);
	assert_good(OUT(n, buf, 512, 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x0b, 0xb8));
	expect(5, 3000, want);
	assert_good(OUT(n, buf, 512, 0x41, 0, 0, 1, 0xff, 0xf0, 0, 0, 0)); /* to the end */
	expect(BLOCKS - 16, 16, want);
	memset(want, 0, sizeof(want));
	memset(buf, 0, 512);
	unsigned writes = valve.op_seen[BLK_WRITE];
	assert_good(OUT(n, buf, 512, 0x41, 0x08, 0, 0, 0, 5, 0, 0, 8));
	expect(5, 8, want);
	assert_good(OUT(n, NULL, 0, 0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 8));
	expect(13, 8, want);
	assert_int_equal(valve.op_seen[BLK_ZERO], 2);
	assert_int_equal(valve.op_seen[BLK_WRITE], writes);
	fill(buf, 512, 3);
	assert_good(OUT(n, buf, 512, 0x93, 0x08, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 8)); /* not zeros: written */
	expect(5, 1, buf);
	assert_sense(OUT(n, buf, 512, 0x93, 0x10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 8), 5, 0x24, 0); /* ANCHOR */
	assert_sense(OUT(n, buf, 1024, 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 8), 5, 0x24, 0);
}

static unsigned unmap_list(uint8_t *p, unsigned count, const uint32_t (*d)[2])
{
	memset(p, 0, 8 + 16 * count);
	put_be16(p, (uint16_t)(6 + 16 * count));
	put_be16(p + 2, (uint16_t)(16 * count));
	for (unsigned i = 0; i < count; i++) {
		put_be64(p + 8 + 16 * i, d[i][0]);
		put_be32(p + 16 + 16 * i, d[i][1]);
	}
	return 8 + 16 * count;
}

/* What is unmapped reads as zeros and is a hole in GET LBA STATUS; its neighbours stay; SBC-4 5.35, 5.6. */
static void unmap(void **state)
{
	static uint8_t buf[64 * 512], zero[64 * 512];
	uint8_t list[8 + 16 * 2];
	const uint32_t two[][2] = { { 8, 16 }, { 40, 8 } }, beyond[][2] = { { 8, 16 }, { BLOCKS, 1 } };
	struct answer a;

	fill(buf, sizeof(buf), 8);
	assert_good(bed_rw(n, 0, true, 0, 64, buf, sizeof(buf)));
	unsigned len = unmap_list(list, 2, beyond);
	assert_sense(OUT(n, list, len, 0x42, 0, 0, 0, 0, 0, 0, 0, len), 5, 0x21, 0);
	expect(0, 64, buf); /* nothing took effect */
	len = unmap_list(list, 2, two);
	assert_good(OUT(n, list, len, 0x42, 0, 0, 0, 0, 0, 0, 0, len));
	expect(0, 8, buf);
	expect(8, 16, zero);
	expect(24, 16, buf + 24 * 512);
	expect(40, 8, zero);
	a = DO(n, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0);
	assert_good(a);
	assert_int_equal(be32(a.data), a.len - 4);
	static const struct { uint32_t lba, nblk; uint8_t status; } want[] = {
		{ 0, 8, 0 }, { 8, 16, 1 }, { 24, 16, 0 }, { 40, 8, 1 }, { 48, 16, 0 }, { 64, BLOCKS - 64, 1 } };
	assert_int_equal(a.len, 8 + 16 * ARRAY_LEN(want));
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		assert_int_equal(be64(a.data + 8 + 16 * i), want[i].lba);
		assert_int_equal(be32(a.data + 16 + 16 * i), want[i].nblk);
		assert_int_equal(a.data[20 + 16 * i], want[i].status);
	}
	a = DO(n, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 24);
	assert_int_equal(be64(a.data + 8), 9);
	assert_int_equal(be32(a.data + 16), 15);
	assert_good(OUT(n, NULL, 0, 0x42));
	assert_sense(OUT(n, list, 4, 0x42, 0, 0, 0, 0, 0, 0, 0, 4), 5, 0x1a, 0);
}

/* Commands that say what there is: SBC-4 5.20, 5.21, SPC-4 6.35, 6.36. */
static void reports(void **state)
{
	struct answer a = DO(n, 0x25);

	assert_int_equal(be32(a.data), BLOCKS - 1);
	assert_int_equal(be32(a.data + 4), 512);
	a = DO(n, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32);
	assert_int_equal(a.len, 32);
	assert_int_equal(be64(a.data), BLOCKS - 1);
	assert_int_equal(a.data[13], 3);
	assert_int_equal(a.data[14], 0xc0);
	a = DO(n, 0xa3, 0x0c, 0x03, 0x28, 0, 0, 0, 0, 1, 0);
	assert_int_equal(a.data[1], 3);
	assert_int_equal(be16(a.data + 2), 10);
	assert_int_equal(a.data[4], 0x28);
	assert_int_equal(a.data[5], 0x18);
	assert_sense(DO(n, 0xa3, 0x0c, 0x01, 0x9e, 0, 0, 0, 0, 1, 0), 5, 0x24, 0);
	assert_sense(DO(n, 0xa3, 0x0c, 0x02, 0x28, 0, 0, 0, 0, 1, 0), 5, 0x24, 0);
	assert_int_equal(DO(n, 0xa3, 0x0c, 0x82, 0x9e, 0, 0x10, 0, 0, 1, 0).data[1], 0x83);
	assert_int_equal(DO(n, 0xa3, 0x0c, 0x02, 0x9e, 0, 0x11, 0, 0, 1, 0).data[1], 1);
	a = DO(n, 0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 1, 0);
	assert_int_equal(a.len, 16);
	assert_int_equal(a.data[0], 0xfe);
	assert_sense(DO(n, 0xa3, 0x1e), 5, 0x24, 0);
	assert_good(DO(n, 0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0));
	assert_good(DO(n, 0x12, 0, 0, 0, 36));
	assert_good(DO(n, 0x03, 0, 0, 0, 36));
	assert_good(DO(n, 0x34, 0, 0, 0, 0, 0, 0, 0, 8));
	assert_good(DO(n, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8));
}

/* The list of all commands names each row that the unit offers once, as dispatch finds it; SPC-4 6.35.2. */
static void report_all(void **state)
{
	struct answer a = DO(n, 0xa3, 0x0c, 0, 0, 0, 0, 0, 1, 0, 0);
	unsigned rows = 0;

	for (const struct scsi_op *const *t = lu_disk.ops; *t; t++)
		for (const struct scsi_op *op = *t; op->name; op++)
			rows += op->opcode != 0x3f && op->opcode != 0x9f; /* WRITE LONG: only where bad blocks can be kept */
	assert_int_equal(be32(a.data), rows * 8);
	assert_int_equal(DO(n, 0xa3, 0x0c, 0x80, 0, 0, 0, 0, 1, 0, 0).len, 4 + rows * 20);
}

/* Mode pages: current, changeable, saved; what may not change is refused; saved values survive; SPC-4 6.11. */
static void mode_select(void **state)
{
	uint8_t d_sense[24] = { 0, 0, 0, 0, 0x0a, 0x0a, 0x04, 0x10 }, ten[20] = { 0 };
	struct answer a = DO(n, 0x1a, 0, 0x3f, 0, 255);

	assert_good(a);
	assert_int_equal(a.len, 4 + 8 + 12 + 16 + 20 + 12 + 8 + 8 + 40 + 12);
	assert_int_equal(a.data[0], a.len - 1);
	assert_int_equal(a.data[2], 0x10);
	assert_int_equal(be24(a.data + 9), 512);
	a = DO(n, 0x1a, 0x08, 0x48, 0, 255); /* changeable */
	assert_int_equal(a.data[4 + 2], 0x04);
	assert_int_equal(DO(n, 0x5a, 0x10, 0x3f, 0, 0, 0, 0, 1, 0).data[7], 16);
	assert_sense(DO(n, 0x1a, 0, 0x22, 0, 255), 5, 0x24, 0);
	memcpy(ten + 8, d_sense + 4, 12);
	assert_good(OUT(n, ten, 20, 0x55, 0x11, 0, 0, 0, 0, 0, 0, 20)); /* SP */
	assert_int_equal(bed.nsaved, 1);
	assert_int_equal(bed.saved[0][2], 0x04);
	assert_sense(DO(n2, 0x00), 6, 0x2a, 0x01);
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0xff), 0, 0), NULL);
	bed_until(&a.done);
	assert_int_equal(a.cmd->sense[0], 0x72);
	bed_free(&a);
	assert_int_equal(bed_tmf(n, 0, SCSI_LU_RESET, 0), SCSI_TMF_COMPLETE); /* saved: survives */
	bed_ready(n, 0);
	bed_ready(n2, 0);
	assert_int_equal(DO(n, 0x1a, 0x08, 0x0a, 0, 255).data[6] & 4, 4);
	d_sense[7] = 0x20;
	assert_sense(OUT(n, d_sense, 16, 0x15, 0x10, 0, 0, 16), 5, 0x26, 0);
	d_sense[7] = 0x10;
	assert_sense(OUT(n, d_sense, 10, 0x15, 0x10, 0, 0, 10), 5, 0x1a, 0);
	assert_sense(OUT(n, d_sense, 3, 0x15, 0x10, 0, 0, 3), 5, 0x1a, 0);
	uint8_t desc[24] = { 0, 0, 0, 8, 0, 0, 1, 0, 0, 0, 2, 0, 0x0a, 0x0a, 0x04, 0x10 };
	assert_good(OUT(n, desc, 24, 0x15, 0x10, 0, 0, 24));
	desc[10] = 16; /* another block length */
	assert_sense(OUT(n, desc, 24, 0x15, 0x10, 0, 0, 24), 5, 0x26, 0);
	desc[3] = 7;
	assert_sense(OUT(n, desc, 24, 0x15, 0x10, 0, 0, 24), 5, 0x26, 0);
	d_sense[5] = 9;
	assert_sense(OUT(n, d_sense, 16, 0x15, 0x10, 0, 0, 16), 5, 0x26, 0);
	assert_good(OUT(n, NULL, 0, 0x15, 0x10));
}

/* SWP refuses every write until it is taken back; SPC-4 7.5.8. */
static void soft_protect(void **state)
{
	uint8_t swp[16] = { 0, 0, 0, 0, 0x0a, 0x0a, 0, 0x10, 0x08 }, buf[512] = { 0 };

	assert_good(OUT(n, swp, 16, 0x15, 0x10, 0, 0, 16));
	assert_sense(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 7, 0x27, 0x02);
	assert_int_equal(DO(n, 0x1a, 0, 0x3f, 0, 255).data[2], 0x90);
	swp[8] = 0;
	assert_good(OUT(n, swp, 16, 0x15, 0x10, 0, 0, 16));
	assert_good(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1));
}

/* Reserved units answer others with RESERVATION CONFLICT, but INQUIRY and the like; SPC-2 5.5.1. */
static void reserve(void **state)
{
	assert_good(DO(n, 0x16));
	assert_good(DO(n, 0x56));
	assert_good(DO(n, 0x00));
	assert_int_equal(DO(n2, 0x00).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(DO(n2, 0x16).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(DO(n2, 0x1a, 0, 0x3f, 0, 255).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(DO(n2, 0x28, 0, 0, 0, 0, 0, 0, 0, 1).status, SCSI_RESERVATION_CONFLICT);
	assert_good(DO(n2, 0x12, 0, 0, 0, 36));
	assert_good(DO(n2, 0x25));
	assert_good(DO(n2, 0x17)); /* not his: nothing happens */
	assert_int_equal(DO(n2, 0x00).status, SCSI_RESERVATION_CONFLICT);
	assert_good(DO(n, 0x17));
	assert_good(DO(n2, 0x00));
	assert_good(DO(n2, 0x56));
	assert_good(DO(n2, 0x57));
	assert_good(DO(n2, 0x16));
	bed_nexus_close(n2); /* nexus loss releases */
	assert_good(DO(n, 0x00));
	n2 = bed_nexus(1, 2);
	bed_ready(n2, 0);
	assert_good(DO(n2, 0x16));
	assert_int_equal(bed_tmf(n, 0, SCSI_TARGET_RESET, 0), SCSI_TMF_COMPLETE);
	assert_sense(DO(n, 0x00), 6, 0x29, 0x02);
	assert_good(DO(n, 0x00));
}

static struct answer pr_out_cmd(struct scsi_nexus *from, uint8_t sa, uint8_t type, uint64_t key, uint64_t new_key,
	uint8_t flags)
{
	uint8_t p[24] = { [20] = flags };

	put_be64(p, key);
	put_be64(p + 8, new_key);
	return OUT(from, p, 24, 0x5f, sa, type, 0, 0, 0, 0, 0, 24);
}

/* Persistent reservations over two loops: who may do what under each type (SPC-4 table 51), unit attentions for the
 * others, PREEMPT AND ABORT, RESERVE beside them (5.12.3). */
static void persistent(void **state)
{
	static const struct { uint8_t type; bool read, registrants; } types[] = { { 1, true, false }, { 3, false, false },
		{ 5, true, true }, { 6, false, true }, { 7, true, true }, { 8, false, true } };
	uint8_t buf[512] = { 0 };

	assert_int_equal(pr_out_cmd(n, 1, 1, 0, 0, 0).status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(DO(n, 0x5e, 2, 0, 0, 0, 0, 0, 0, 8).data[2], 0x1d);
	for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
		bool ra = types[i].registrants;
		assert_good(pr_out_cmd(n, 0, 0, 0, 0x11, 0));
		assert_good(pr_out_cmd(n, 1, types[i].type, 0x11, 0, 0));
		assert_good(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1));
		assert_int_equal(OUT(n2, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1).status, SCSI_RESERVATION_CONFLICT);
		assert_int_equal(DO(n2, 0x28, 0, 0, 0, 0, 0, 0, 0, 1).status, types[i].read ? 0 : SCSI_RESERVATION_CONFLICT);
		assert_good(DO(n2, 0x00));
		assert_good(DO(n2, 0x12, 0, 0, 0, 36));
		assert_good(pr_out_cmd(n2, 6, 0, 0, 0x22, 0));
		assert_int_equal(OUT(n2, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1).status, ra ? 0 : SCSI_RESERVATION_CONFLICT);
		assert_int_equal(DO(n2, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64).data[7], 16);
		assert_int_equal(DO(n2, 0x5e, 1, 0, 0, 0, 0, 0, 0, 64).data[21], types[i].type);
		assert_good(DO(n2, 0x5e, 1, 0, 0, 0, 0, 0, 0, 64));
		assert_true(DO(n2, 0x5e, 3, 0, 0, 0, 0, 0, 4, 0).len > 8 + 2 * 48);
		assert_good(DO(n, 0x16)); /* no effect */
		assert_good(pr_out_cmd(n, 2, types[i].type, 0x11, 0, 0));
		if (ra)
			assert_sense(DO(n2, 0x00), 6, 0x2a, 0x04);
		assert_good(DO(n2, 0x00));
		assert_good(pr_out_cmd(n2, 3, 0, 0x22, 0, 0));
		assert_sense(DO(n, 0x00), 6, 0x2a, 0x03);
	}
	assert_good(pr_out_cmd(n, 0, 0, 0, 0x11, 1)); /* APTPL */
	assert_int_equal(DO(n, 0x5e, 2, 0, 0, 0, 0, 0, 0, 8).data[3], 0xc1);
	assert_good(pr_out_cmd(n2, 0, 0, 0, 0x22, 1));
	assert_good(pr_out_cmd(n, 1, 3, 0x11, 0, 0));
	assert_good(pr_out_cmd(n2, 5, 1, 0x22, 0x11, 0)); /* PREEMPT AND ABORT */
	assert_sense(DO(n, 0x00), 6, 0x2a, 0x05);
	assert_int_equal(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1).status, SCSI_RESERVATION_CONFLICT);
	assert_good(pr_out_cmd(n, 0, 0, 0, 0x11, 1));
	assert_good(pr_out_cmd(n, 4, 1, 0x11, 0x22, 0)); /* PREEMPT */
	assert_sense(DO(n2, 0x00), 6, 0x2a, 0x05);
	uint8_t move[24 + 48] = { 0 };
	put_be64(move, 0x11);
	put_be64(move + 8, 0x33);
	move[17] = 2; /* UNREG */
	struct pr_who to = { .port = n2->tpgt };
	memcpy(to.initiator, n2->initiator, sizeof(to.initiator));
	memcpy(to.isid, n2->isid, 6);
	unsigned id = pr_transport_id(&to, pr_id);
	assert_true(id <= 48);
	put_be16(move + 18, n->tpgt);
	put_be32(move + 20, id);
	memcpy(move + 24, pr_id, id);
	assert_good(OUT(n, move, 24 + id, 0x5f, 7, 0, 0, 0, 0, 0, 0, (uint8_t)(24 + id)));
	assert_good(OUT(n2, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1));
	assert_int_equal(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1).status, SCSI_RESERVATION_CONFLICT);
	bed_nexus_close(n2); /* what is registered outlives its nexus, 5.12.1 */
	assert_int_equal(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1).status, SCSI_RESERVATION_CONFLICT);
	n2 = bed_nexus(1, 2);
	bed_ready(n2, 0);
	assert_good(OUT(n2, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1));
	assert_good(pr_out_cmd(n2, 3, 0, 0x33, 0, 0));
	assert_sense(pr_out_cmd(n, 1, 2, 0, 0, 0x8), 5, 0x26, 0); /* SPEC_I_PT where it does not belong */
	assert_sense(OUT(n, move, 23, 0x5f, 0, 0, 0, 0, 0, 0, 0, 23), 5, 0x1a, 0);
}

/* A CSCD descriptor with the NAA designator that VPD page 83h gives (SPC-4 6.4.5). */
static void put_cscd(uint8_t *p, struct scsi_nexus *by, unsigned at_lun)
{
	struct answer a = bed_run(by, at_lun, CDB(0x12, 1, 0x83, 1, 0), NULL, 0, 1 << 16);

	memset(p, 0, 32);
	p[0] = 0xe4;
	for (uint8_t *d = a.data + 4; d < a.data + a.len; d += 4 + d[3]) {
		if ((d[1] & 0x3f) != 3)
			continue;
		p[4] = d[0] & 0x0f;
		p[5] = d[1] & 0x3f;
		p[7] = d[3];
		memcpy(p + 8, d + 4, d[3]);
	}
	put_be24(p + 29, 1u << nexus_ll(by, at_lun)->shift);
}

static size_t copy_list(uint8_t *p, uint8_t id, unsigned src, unsigned dst, uint16_t nblk, uint64_t from, uint64_t to)
{
	memset(p, 0, 16 + 64 + 28);
	p[0] = id;
	put_be16(p + 2, 64);
	put_be32(p + 8, 28);
	put_cscd(p + 16, n, 0);
	put_cscd(p + 48, n, 1);
	uint8_t *s = p + 80;
	s[0] = 0x02;
	put_be16(s + 2, 24);
	put_be16(s + 4, (uint16_t)src);
	put_be16(s + 6, (uint16_t)dst);
	put_be16(s + 10, nblk);
	put_be64(s + 12, from);
	put_be64(s + 20, to);
	return 16 + 64 + 28;
}

static struct answer copy(const uint8_t *p, size_t len)
{
	return OUT(n, p, (uint32_t)len, 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)(len >> 8), (uint8_t)len);
}

/* EXTENDED COPY within a unit and to another, larger than a step; RECEIVE COPY RESULTS; what is refused, and with which
 * sense (SPC-4 5.17.3, 6.4). */
static void copy_offload(void **state)
{
	static uint8_t data[3000 * 512], p[4096];
	struct lu *other = bed_lu(NULL, bed_ram(4 << 20));
	struct scsi_lun both[2] = { { 0, lu }, { 1, other } };
	unsigned unit = 1u << lu_on(lu, n->loop)->shift, per = 3000 * 512 / unit;

	bed_map(both, 2);
	bed_ready(n, 0);
	bed_ready(n, 1);
	bed_ready(n2, 0);
	fill(data, per * unit, 77);
	assert_int_equal(bed_rw(n, 0, true, 5, per, data, per * unit).status, 0);
	assert_sense(DO(n, 0x84, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64), 5, 0x24, 0);
	size_t len = copy_list(p, 9, 0, 1, (uint16_t)per, 5, 8);
	struct answer a = copy(p, len);
	assert_good(a);
	a = bed_rw(n, 1, false, 8 , per * unit / 512, NULL, per * unit);
	assert_memory_equal(a.data, data, per * unit);
	a = DO(n, 0x84, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64);
	assert_good(a);
	assert_int_equal(a.data[4], 1);
	assert_int_equal(be16(a.data + 5), 1);
	assert_int_equal(a.data[7], 0); /* in bytes */
	assert_int_equal(be32(a.data + 8), per * unit);
	assert_good(DO(n, 0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64));
	assert_good(copy(p, 0));
	p[80 + 7] = 7; /* no such descriptor */
	assert_sense(copy(p, len), 0xa, 0x08, 0x04);
	p[80 + 7] = 1;
	p[16] = 0xe0;
	assert_sense(copy(p, len), 5, 0x26, 0x07);
	p[16] = 0xe4;
	p[16 + 8] ^= 1;
	assert_sense(copy(p, len), 0xa, 0x0d, 0x02);
	p[16 + 8] ^= 1;
	p[80] = 0x04;
	assert_sense(copy(p, len), 5, 0x26, 0x09);
	p[80] = 0x02;
	assert_sense(copy(p, len - 1), 5, 0x1a, 0);
	put_be64(p + 80 + 20, 1 << 30);
	assert_sense(copy(p, len), 0xa, 0, 0);
	assert_good(pr_out_cmd(n2, 6, 0, 0, 0x22, 0)); /* a reservation keeps copies out as it does writes */
	assert_good(pr_out_cmd(n2, 1, 3, 0x22, 0, 0));
	len = copy_list(p, 9, 1, 0, 8, 0, 0);
	assert_int_equal(copy(p, len).status, SCSI_RESERVATION_CONFLICT);
	assert_good(pr_out_cmd(n2, 3, 0, 0x22, 0, 0));
	bed_map(both, 1);
	bed_close(other);
	bed_ready(n, 0);
	bed_ready(n2, 0);
}

/* ORWRITE sets bits and clears none, over more than one step; an empty defect list is valid (SBC-4 5.11, 5.22). */
static void orwrite(void **state)
{
	static uint8_t a[1 << 20], b[1 << 20];
	unsigned unit = 1u << lu_on(lu, n->loop)->shift, per = sizeof(a) / unit;
	uint8_t cdb[16] = { 0x8b };

	fill(a, sizeof(a), 5);
	fill(b, sizeof(b), 6);
	assert_int_equal(bed_rw(n, 0, true, 3, per, a, sizeof(a)).status, 0);
	put_be64(cdb + 2, 3);
	put_be32(cdb + 10, per);
	assert_good(run(n, cdb, 16, b, sizeof(b), 0));
	struct answer r = bed_rw(n, 0, false, 3, per, NULL, sizeof(a));
	for (size_t i = 0; i < sizeof(a); i++)
		a[i] |= b[i];
	assert_memory_equal(r.data, a, sizeof(a));
	put_be64(cdb + 2, 1ull << 40);
	assert_sense(run(n, cdb, 16, b, sizeof(b), 0), 5, 0x21, 0);
	assert_good(OUT(n, a, 2 * unit, 0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2)); /* test_scsi_atomic.c has the rest */
	assert_good(DO(n, 0x37, 0, 0x1d, 0, 0, 0, 0, 0, 64));
	assert_int_equal(DO(n, 0x37, 0, 0x1d, 0, 0, 0, 0, 0, 64).data[1], 0x1d);
	assert_good(DO(n, 0xb7, 0x08, 0, 0, 0, 0, 0, 0, 0, 64));
	assert_int_equal(DO(n, 0xb7, 0x08, 0, 0, 0, 0, 0, 0, 0, 64).len, 8);
}

/* The smallest uses of target port groups; test_alua.c has the rest. */
static void port_groups(void **state)
{
	uint8_t active[8] = { [7] = 1 };

	assert_int_equal(DO(n, 0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0).len, 16);
	assert_good(OUT(n, active, 8, 0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8));
}

/* A medium that may be ejected: not while prevented by any nexus; 02/3A without it; 28/00 when it is back. */
static void removable(void **state)
{
	uint8_t buf[512] = { 0 };

	assert_int_equal(DO(n, 0x12, 0, 0, 0, 36).data[1], 0x80);
	assert_good(DO(n2, 0x1e, 0, 0, 0, 1));
	assert_sense(DO(n, 0x1b, 0, 0, 0, 2), 5, 0x53, 0x02);
	assert_good(DO(n, 0x1e, 0, 0, 0, 0)); /* his own, that is none */
	assert_sense(DO(n, 0x1b, 0, 0, 0, 2), 5, 0x53, 0x02);
	assert_good(DO(n2, 0x1e, 0, 0, 0, 0));
	assert_good(DO(n, 0x1b, 0, 0, 0, 2));
	assert_sense(DO(n2, 0x00), 2, 0x3a, 0x02);
	assert_sense(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 2, 0x3a, 0x02);
	assert_good(DO(n, 0x1b, 0, 0, 0, 3));
	assert_good(DO(n, 0x00));
	assert_sense(DO(n2, 0x00), 6, 0x28, 0);
	assert_good(DO(n2, 0x1e, 0, 0, 0, 1));
	bed_nexus_close(n2); /* nexus loss allows again */
	assert_good(DO(n, 0x1b, 0, 0, 0, 2));
	assert_good(DO(n, 0x1b, 0, 0, 0, 3));
	n2 = bed_nexus(1, 2);
	bed_ready(n2, 0);
	assert_good(DO(n, 0x1b, 0, 0, 0, 0)); /* stop: nothing turns */
	assert_good(DO(n, 0x00));
}

/* The same reads and writes where the driver fills pages that are ours, in blocks of 4096. */
static void copying(void **state)
{
	static uint8_t buf[600 * 4096], both[2 * 4096];

	fill(buf, sizeof(buf), 4);
	assert_good(bed_rw(n, 0, true, 3, 600, buf, sizeof(buf)));
	assert_int_equal(valve.flags & BLK_FUA, BLK_FUA); /* wce off */
	expect(3, 600, buf);
	assert_good(OUT(n, buf, 200 * 4096, 0x2f, 0x02, 0, 0, 0, 3, 0, 0, 200));
	memcpy(both, buf, 4096);
	fill(both + 4096, 4096, 50);
	assert_good(OUT(n, both, 8192, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1));
	expect(3, 1, both + 4096);
	assert_sense(OUT(n, both, 8192, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1), 0xe, 0x1d, 0);
	assert_int_equal(bed_rw(n, 0, false, 3, 2, NULL, 5000).len, 5000);
	static const struct blk_extent map[] = { { 0, 512, BLK_DATA }, { 512, 11776, BLK_HOLE }, /* blocks 1 and 2 */
		{ 12288, 4096, BLK_ZEROED }, { 16384, 1024, BLK_HOLE }, { 17408, SIZE - 17408, BLK_DATA } };
	valve.map = map;
	valve.nmap = ARRAY_LEN(map);
	struct answer a = DO(n, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0);
	assert_int_equal(a.len, 8 + 3 * 16);
	assert_int_equal(be32(a.data + 8 + 8) << 8 | a.data[8 + 12], 1 << 8 | 0);
	assert_int_equal(be32(a.data + 24 + 8) << 8 | a.data[24 + 12], 2 << 8 | 1);
	assert_int_equal(be32(a.data + 40 + 8) << 8 | a.data[40 + 12], (SIZE / 4096 - 3) << 8 | 0);
}

/* A write-protected unit refuses writes and reads on; SBC-4 4.13. */
static void read_only(void **state)
{
	uint8_t buf[1024] = { 0 };

	assert_sense(OUT(n, buf, 512, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 7, 0x27, 0);
	assert_sense(OUT(n, buf, 24, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), 7, 0x27, 0);
	assert_sense(OUT(n, buf, 1024, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1), 7, 0x27, 0);
	assert_good(DO(n, 0x28, 0, 0, 0, 0, 0, 0, 0, 1));
}

/* A unit whose medium is missing is there and not ready, and comes alive; capacity growth is 2A/09. */
static void attach(void **state)
{
	struct err e = { 0 };
	struct lu *absent = bed_lu(NULL, NULL);
	struct scsi_lun both[2] = { { 0, lu }, { 1, absent } };

	bed_map(both, 2);
	bed_ready(n, 0);
	bed_ready(n, 1);
	assert_sense(RUN(n, 1, 0x00), 2, 0x04, 0x03);
	assert_sense(RUN(n, 1, 0x25), 2, 0x04, 0x03);
	assert_good(RUN(n, 1, 0x12, 0, 0, 0, 36));
	struct blk *blk = bed_ram(1 << 20);
	blk->block_bytes = 4096; /* a device that demands more than the 512 assumed so far */
	assert_int_equal(lu_attach(absent, blk, &e), 0);
	bed_settle();
	assert_sense(RUN(n, 1, 0x00), 6, 0x28, 0);
	assert_int_equal(be32(RUN(n, 1, 0x25).data), 255);
	assert_int_equal(be32(RUN(n, 1, 0x25).data + 4), 4096);
	assert_int_equal(bed_rw(n2, 1, false, 0, 1, NULL, 4096).status, SCSI_CHECK_CONDITION);
	assert_int_equal(bed_rw(n, 1, false, 255, 1, NULL, 4096).len, 4096);
	atomic_store(&lu_blk(absent)->bytes, 1 << 19); /* pretend: ram does not change */
	lu_space(absent, 0, 1 << 30); /* another change of the unit's state comes first */
	lu_capacity_changed(absent);
	bed_settle();
	assert_sense(RUN(n, 1, 0x00), 6, 0x2a, 0x09);
	assert_int_equal(be32(RUN(n, 1, 0x25).data), 127);
	bed_map(both, 1);
	bed_close(absent);
	bed_ready(n, 0);
	bed_ready(n2, 0);
}

/* Begins a LID4 copy in the background, of 8 blocks within the unit to which it is sent. */
static struct answer copy4(uint32_t id, bool immed)
{
	uint8_t p[48 + 28] = { [0] = 1, [3] = 32, [15] = immed, [16] = 0xff, [45] = 28, [48] = 2, [51] = 24, [52] = 0xff,
		[53] = 0xff, [54] = 0xff, [55] = 0xff, [59] = 8, [75] = 16 };

	put_be32(p + 20, id);
	return OUT(n, p, sizeof(p), 0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p));
}

/* A copy that its client asks to stop: COPY OPERATION ABORT ends when nothing of it can touch the medium any more, and its
 * status tells (SPC-4 6.3, 6.24). A token goes from POPULATE TOKEN to WRITE USING TOKEN. */
static void copy_commands(void **state)
{
	uint8_t blocks[8 * 4096] = { 1 }, list[536 + 16] = { 0, 30, [15] = 16, [27] = 8 };
	unsigned unit = 1u << lu_on(lu, n->loop)->shift;
	struct answer a;

	assert_good(bed_rw(n, 0, true, 0, 8, blocks, 8 * unit));
	assert_good(copy4(7, false));
	valve.hold = true;
	a = copy4(8, true);
	assert_good(a);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(DO(n, 0x84, 5, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 64).data[5], 0x12);
	assert_sense(copy4(8, true), 5, 0x00, 0x16);
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x83, 0x1c, 0, 0, 0, 8), 0, 0), NULL);
	bed_settle();
	assert_int_equal(a.done, 0);
	valve_open();
	bed_until(&a.done);
	assert_good(a);
	bed_free(&a);
	assert_int_equal(DO(n, 0x84, 5, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 64).data[5], 0x60);
	uint8_t none[16] = { 0 };
	assert_good(OUT(n, none, 16, 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16)); /* LID1, no segments */
	assert_int_equal(be32(DO(n, 0x84, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64).data), 0);
	assert_good(OUT(n, list, 32, 0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 32));
	assert_int_equal(be32(DO(n, 0x84, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0).data), 4 + 96);
	a = DO(n, 0x84, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 4, 0);
	assert_good(a);
	assert_int_equal(a.len, 32 + 4 + 2 + 512);
	memset(list, 0, sizeof(list));
	put_be16(list, 550);
	memcpy(list + 16, a.data + 38, 512);
	list[535] = 16;
	list[543] = 32;
	list[547] = 8;
	assert_good(OUT(n, list, sizeof(list), 0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 2, 0x28));
	a = bed_rw(n, 0, false, 32, 8, NULL, 8 * unit);
	assert_memory_equal(a.data, blocks, 8 * unit);
	assert_good(DO(n, 0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TX(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(every_length), T(fua), T(errors), T(verify), T(write_verify),
		T(compare_and_write), T(write_same), T(unmap), T(reports), T(report_all), T(port_groups), T(mode_select),
		T(soft_protect), T(reserve), T(persistent), T(copy_offload), TX(copy_offload, setup_copying),
		T(copy_commands), TX(copy_commands, setup_copying),
		T(orwrite), TX(orwrite, setup_copying),
		TX(removable, setup_removable), TX(copying, setup_copying),
		TX(read_only, setup_ro), T(attach) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

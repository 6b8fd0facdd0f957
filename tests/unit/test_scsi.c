/* SPDX-License-Identifier: BSD-3-Clause
 * Commands of a RAM disk, byte by byte. */
#include "scsi_bed.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 64 << 20, BLOCKS = SIZE / 512 };

static int setup(void **state)
{
	const struct lu_conf *conf = *state;

	bed_start(BED_LOOPS);
	lu = bed_lu(conf, bed_ram(SIZE));
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

/* INQUIRY says SPC-4, response format 2 and our names; SPC-4 6.6.2. */
static void inquiry(void **state)
{
	struct answer a = RUN(n, 0, 0x12, 0, 0, 0, 255);

	assert_good(a);
	assert_int_equal(a.len, 96);
	assert_int_equal(a.data[2], 6);
	assert_int_equal(a.data[3] & 15, 2);
	assert_memory_equal(a.data + 8, "LUNETTE VIRTUAL DISK    ", 24);
	a = RUN(n, 0, 0x12, 0, 0, 0, 5);
	assert_int_equal(a.len, 5);
	assert_int_equal(a.want_in, 5);
	assert_sense(RUN(n, 0, 0x12, 0, 0x80, 0, 255), 5, 0x24, 0);
	assert_sense(RUN(n, 0, 0x12, 2, 0, 0, 255), 5, 0x24, 0);
}

/* Every VPD page of page 00h can be read and names itself; ascending; SPC-4 7.8.15. */
static void vpd(void **state)
{
	struct answer list = RUN(n, 0, 0x12, 1, 0, 0, 255);
	uint8_t pages[32];
	unsigned count = be16(list.data + 2);

	assert_in_range(count, 10, sizeof(pages));
	memcpy(pages, list.data + 4, count);
	for (unsigned i = 0; i < count; i++) {
		struct answer a = RUN(n, 0, 0x12, 1, pages[i], 4, 0);
		assert_good(a);
		assert_int_equal(a.data[1], pages[i]);
		assert_int_equal(a.len, be16(a.data + 2) + 4u);
		assert_true(!i || pages[i] > pages[i - 1]);
	}
	assert_sense(RUN(n, 0, 0x12, 1, 0xc7, 1, 0), 5, 0x24, 0);
	struct answer b0 = RUN(n, 0, 0x12, 1, 0xb0, 1, 0);
	assert_int_equal(be16(b0.data + 2), 0x3c);
	assert_int_equal(be32(b0.data + 8), LIM_TRANSFER / 512);
}

/* A LUN without a unit: INQUIRY says 7Fh, REPORT LUNS answers, the rest is 05/25/00; SPC-4 6.6.2, SAM-5 4.7. */
static void no_unit(void **state)
{
	assert_int_equal(RUN(n, 5, 0x12, 0, 0, 0, 255).data[0], 0x7f);
	assert_sense(RUN(n, 5, 0x00), 5, 0x25, 0);
	assert_sense(RUN(n, 300, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 5, 0x25, 0);
	struct answer a = RUN(n, 5, 0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0);
	assert_good(a);
	assert_int_equal(be32(a.data), 8);
	a = RUN(n, 5, 0x03, 0, 0, 0, 252);
	assert_int_equal(a.data[12], 0x25);
}

/* What was written is read, at every size that changes how the data vector is kept; SBC-4 5.18, 5.42. */
static void read_write(void **state)
{
	static const uint32_t sizes[] = { 1, 8, 129, 136, 150, 1024, 2048, 2056, 2100, 32768 };
	uint8_t *buf = malloc(LIM_TRANSFER), *want = malloc(LIM_TRANSFER);

	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		for (unsigned k = 0; k < LIM_TRANSFER; k++)
			want[k] = (uint8_t)(k * 7 + (k >> 9) + i);
		struct answer a = bed_rw(n, 0, true, 3 + i, sizes[i], want, sizes[i] * 512);
		assert_good(a);
		a = bed_rw(n2, 0, false, 3 + i, sizes[i], NULL, sizes[i] * 512);
		assert_good(a);
		assert_int_equal(a.len, sizes[i] * 512);
		assert_memory_equal(a.data, want, a.len);
	}
	free(buf);
	free(want);
}

/* Blocks beyond the last are 05/21/00, also with a length of 0 beyond the end; SBC-4 5.16. */
static void bounds(void **state)
{
	assert_good(bed_rw(n, 0, false, BLOCKS - 1, 1, NULL, 512));
	assert_sense(bed_rw(n, 0, false, BLOCKS - 1, 2, NULL, 1024), 5, 0x21, 0);
	assert_good(bed_rw(n, 0, false, BLOCKS, 0, NULL, 0));
	assert_sense(bed_rw(n, 0, false, BLOCKS + 1, 0, NULL, 0), 5, 0x21, 0);
	assert_sense(bed_rw(n, 0, false, UINT64_MAX, 1, NULL, 512), 5, 0x21, 0);
	assert_sense(bed_rw(n, 0, false, 0, LIM_TRANSFER / 512 + 1, NULL, 512), 5, 0x24, 0);
}

/* Data moved is the smaller of what CDB and initiator say, whole blocks of a write; RFC 7143 11.4.5. */
static void residuals(void **state)
{
	uint8_t buf[4096], zero[4096] = { 0 };
	struct answer a;

	memset(buf, 0x5a, sizeof(buf));
	assert_good(bed_rw(n, 0, true, 100, 8, buf, 4096));
	a = bed_rw(n, 0, false, 100, 8, NULL, 700);
	assert_good(a);
	assert_int_equal(a.len, 700);
	assert_int_equal(a.want_in, 4096);
	a = bed_rw(n, 0, false, 100, 1, NULL, 4096);
	assert_int_equal(a.len, 512);
	assert_int_equal(a.want_in, 512);
	memset(buf, 0x77, sizeof(buf));
	a = bed_rw(n, 0, true, 100, 8, buf, 700); /* a part of a block is not dropped in silence: nothing is written */
	assert_sense(a, 5, 0x0e, 0x03);
	a = bed_rw(n, 0, true, 100, 8, buf, 512); /* one whole block came */
	assert_good(a);
	assert_int_equal(a.want_out, 4096);
	assert_int_equal(a.out_len, 512);
	a = bed_rw(n, 0, false, 100, 8, NULL, 4096);
	assert_memory_equal(a.data, buf, 512);
	memset(zero, 0x5a, sizeof(zero));
	assert_memory_equal(a.data + 512, zero, 4096 - 512);
}

/* Reserved bits are INVALID FIELD IN CDB with a pointer to the bit; unknown opcodes 05/20/00; SPC-4 4.5.2.4.2. */
static void cdb_fields(void **state)
{
	struct answer a;

	assert_sense(RUN(n, 0, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1), 5, 0x24, 0);
	assert_sense(RUN(n, 0, 0xff), 5, 0x20, 0);
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x28, 0, 0, 0, 0, 0, 0x40, 0, 1), 512, 0), NULL);
	bed_until(&a.done);
	assert_int_equal(a.cmd->sense[15], 0xc8 | 6);
	assert_int_equal(be16(a.cmd->sense + 16), 6);
	bed_free(&a);
	assert_sense(RUN(n, 0, 0x00, 0, 0, 0, 0, 3), 5, 0x24, 0); /* CONTROL: obsolete bits */
}

/* Power on, LUN list and reset unit attentions come once, per nexus; REPORT LUNS takes its own; SAM-5 5.14. */
static void unit_attentions(void **state)
{
	struct scsi_nexus *fresh = bed_nexus(1, 9);
	struct scsi_lun two[2] = { { 0, lu }, { 7, lu } };

	assert_good(RUN(fresh, 0, 0x12, 0, 0, 0, 36));
	assert_sense(RUN(fresh, 0, 0x00), 6, 0x29, 0x00);
	assert_good(RUN(fresh, 0, 0x00));
	bed_map(two, 2);
	assert_sense(RUN(n, 0, 0x00), 6, 0x3f, 0x0e);
	assert_int_equal(be32(RUN(fresh, 0, 0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0).data), 16);
	assert_good(RUN(fresh, 0, 0x00));
	bed_map(two, 1);
	assert_int_equal(bed_tmf(n, 0, SCSI_LU_RESET, 0), SCSI_TMF_COMPLETE);
	assert_sense(RUN(n, 0, 0x00), 6, 0x29, 0x03);
	assert_sense(RUN(n2, 0, 0x00), 6, 0x29, 0x03);
	assert_good(RUN(n2, 0, 0x00));
	bed_nexus_close(fresh);
}

/* A nexus that closes with commands waiting for data ends them as aborted; SAM-5 6.3.4. */
static void nexus_loss(void **state)
{
	struct scsi_nexus *lost = bed_nexus(0, 3);
	struct answer a;
	int gone = 0;

	bed_ready(lost, 0);
	struct scsi_cmd *c = bed_cmd(&a, lost, 0, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 8), 0, 4096);
	scsi_begin(c);
	assert_int_equal(c->state, SCSI_CMD_WAIT_DATA);
	assert_int_equal(c->out_len, 4096);
	scsi_nexus_close(lost, bed_count, &gone);
	bed_until(&gone);
	assert_int_equal(a.done, 1);
	assert_true(a.aborted);
	bed_free(&a);
}

/* REQUEST SENSE reports and takes a unit attention, in the format that DESC asks; SPC-4 6.39. */
static void request_sense(void **state)
{
	struct scsi_nexus *fresh = bed_nexus(0, 4);
	struct answer a = RUN(fresh, 0, 0x03, 0, 0, 0, 252);

	assert_good(a);
	assert_int_equal(a.data[0], 0x70);
	assert_int_equal(a.data[2], 6);
	assert_int_equal(a.data[12], 0x29);
	a = RUN(fresh, 0, 0x03, 1, 0, 0, 252);
	assert_int_equal(a.data[0], 0x72);
	assert_int_equal(a.data[1], 0);
	assert_good(RUN(fresh, 0, 0x00));
	bed_nexus_close(fresh);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(inquiry), T(vpd), T(no_unit), T(read_write), T(bounds), T(residuals),
		T(cdb_fields), T(unit_attentions), T(nexus_loss), T(request_sense) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Service commands: logs, self-tests, buffers, identifying information, time (SPC-4 6, 7.3; SBC-4 6.4). */
#include "scsi_bed.h"
#include "scsi/service.h"

static struct scsi_nexus *n, *n2;
static struct lu *lu;
enum { SIZE = 8 << 20, BLOCKS = SIZE / 512 };

static void start(struct blk *blk)
{
	lu = bed_lu(NULL, blk);
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	bed_ready(n, 0);
	bed_ready(n2, 0);
}

static void stop(void)
{
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	bed_close(lu);
}

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	start(bed_valve(SIZE, BLK_WRITE_CACHE, 0));
	return 0;
}

static int teardown(void **state)
{
	stop();
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

static struct answer run(struct scsi_nexus *by, const uint8_t *cdb, size_t len, const void *out, uint32_t out_len)
{
	return bed_run(by, 0, cdb, len, out, out_len, out_len ? 0 : 1 << 16);
}

#define DO(by, ...) run(by, CDB(__VA_ARGS__), NULL, 0)
#define OUT(by, data, len, ...) run(by, CDB(__VA_ARGS__), data, len)

/* --- logs --- */

static struct answer log_page(uint8_t page, uint8_t sub)
{
	struct answer a = DO(n, 0x4d, 0, 0x40 | page, sub, 0, 0, 0, 4, 0);

	assert_good(a);
	assert_int_equal(a.data[0], 0x80 | (sub ? 0x40 : 0) | page);
	assert_int_equal(a.data[1], sub);
	assert_int_equal(be16(a.data + 2), a.len - 4);
	return a;
}

/* Value of the parameter of eight bytes, or UINT64_MAX. */
static uint64_t counter(struct answer a, uint16_t code)
{
	for (size_t at = 4; at + 4 <= a.len; at += 4u + a.data[at + 3])
		if (be16(a.data + at) == code && a.data[at + 3] >= 8)
			return be64(a.data + at + 4);
	return UINT64_MAX;
}

/* The list of pages is what can be asked for, with subpages and per page; what is not there is refused; SPC-4 7.3.19 f. */
static void log_lists(void **state)
{
	uint8_t list[64];
	struct answer a = log_page(0, 0);
	size_t count = a.len - 4;

	assert_true(count > 8 && count < sizeof(list));
	memcpy(list, a.data + 4, count);
	a = log_page(0, 0xff);
	assert_int_equal(a.len - 4, 2 * (count + 1)); /* 00h/FFh is a subpage */
	for (size_t i = 0; i < count; i++) {
		log_page(list[i], 0);
		assert_true(log_page(list[i], 0xff).len >= 6);
	}
	assert_sense(DO(n, 0x4d, 0, 0x7f, 0, 0, 0, 0, 4, 0), 5, 0x24, 0);
	assert_sense(DO(n, 0x4d, 0, 0x42, 7, 0, 0, 0, 4, 0), 5, 0x24, 0);
	assert_sense(DO(n, 0x4d, 1, 0x40, 0, 0, 0, 0, 4, 0), 5, 0x24, 0); /* SP: nothing is saved */
}

/* Counters count, begin where the parameter pointer says, know thresholds and defaults, and are reset; SPC-4 6.7, 6.8. */
static void log_counters(void **state)
{
	uint8_t buf[1024] = { 0 };

	assert_good(bed_rw(n, 0, true, 0, 2, buf, 1024));
	assert_good(bed_rw(n2, 0, false, 0, 1, NULL, 512));
	assert_int_equal(counter(log_page(0x02, 0), 5), 1024);
	assert_int_equal(counter(log_page(0x03, 0), 5), 512);
	valve.fail = -EIO;
	assert_int_equal(bed_rw(n, 0, true, 0, 2, buf, 1024).key, 3);
	assert_int_equal(bed_rw(n2, 0, false, 0, 1, NULL, 512).key, 3);
	assert_int_equal(DO(n, 0x2f, 0, 0, 0, 0, 9, 0, 0, 2).key, 3);
	assert_int_equal(DO(n, 0x35).key, 3);
	valve.fail = 0;
	assert_sense(DO(n, 0xff), 5, 0x20, 0); /* the initiator's mistake is nobody's error */
	assert_int_equal(counter(log_page(0x02, 0), 6), 1);
	assert_int_equal(counter(log_page(0x03, 0), 6), 1);
	assert_int_equal(counter(log_page(0x05, 0), 6), 1);
	assert_int_equal(counter(log_page(0x06, 0), 0), 1);
	struct answer a = DO(n, 0x4d, 0, 0x42, 0, 0, 0, 5, 4, 0);
	assert_int_equal(a.len, 4 + 2 * 12);
	assert_int_equal(be16(a.data + 4), 5);
	assert_sense(DO(n, 0x4d, 0, 0x42, 0, 0, 0, 7, 4, 0), 5, 0x24, 0);
	assert_int_equal(counter(DO(n, 0x4d, 0, 0xc2, 0, 0, 0, 0, 4, 0), 6), 0);          /* default cumulative */
	assert_int_equal(be32(DO(n, 0x4d, 0, 0x02, 0, 0, 0, 0, 4, 0).data + 8), UINT32_MAX); /* threshold */
	assert_good(DO(n, 0x4c, 0x02, 0x43));
	assert_sense(DO(n2, 0x00), 6, 0x2a, 0x02);
	assert_int_equal(counter(log_page(0x03, 0), 6), 0);
	assert_int_equal(counter(log_page(0x02, 0), 6), 1);
	assert_good(DO(n, 0x4c, 0, 0xc0));
	assert_int_equal(counter(log_page(0x02, 0), 6), 0);
	assert_good(DO(n, 0x4c, 0, 0x40)); /* nothing to do */
	assert_sense(OUT(n, buf, 4, 0x4c, 0x02, 0x40, 0, 0, 0, 0, 0, 4), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 4, 0x4c, 0, 0x42, 0, 0, 0, 0, 0, 4), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 4, 0x4c, 0, 0x40, 0, 0, 0, 0, 0, 4), 5, 0x26, 0);
	assert_sense(OUT(n, buf, 3, 0x4c, 0, 0x40, 0, 0, 0, 0, 0, 3), 5, 0x1a, 0);
	assert_sense(DO(n, 0x4c, 0x02, 0x7e), 5, 0x24, 0);
}

/* Statistics say how many commands and blocks; SPC-4 7.3.6. */
static void log_performance(void **state)
{
	uint8_t buf[1024] = { 0 };

	assert_good(DO(n, 0x4c, 0x02, 0x40));
	bed_ready(n2, 0);
	for (int i = 0; i < 3; i++)
		assert_good(bed_rw(n, 0, true, 0, 2, buf, 1024));
	assert_good(bed_rw(n2, 0, false, 0, 1, NULL, 512));
	struct answer a = log_page(0x19, 0);
	assert_int_equal(a.data[7], 64);
	assert_int_equal(be64(a.data + 8), 1);
	assert_int_equal(be64(a.data + 16), 3);
	assert_int_equal(be64(a.data + 24), 6);
	assert_int_equal(be64(a.data + 32), 1);
}

/* --- self-tests --- */

static unsigned result(unsigned i)
{
	struct answer a = log_page(0x10, 0);

	assert_int_equal(a.len, 4 + 20 * 20);
	return a.data[4 + 20 * i + 4];
}

/* Self-tests in the foreground are answered when they are done and are in the log, newest first; SPC-4 5.15, 7.3.16. */
static void selftest(void **state)
{
	assert_good(DO(n, 0x1d, 0x04));
	assert_int_equal(valve.op_seen[BLK_READ], 3);
	assert_int_equal(result(0), 0x00);
	assert_good(DO(n, 0x1d, 0xa0)); /* short */
	assert_good(DO(n, 0x1d, 0xc0)); /* extended */
	assert_int_equal(valve.op_seen[BLK_READ], 6 + 8);
	assert_int_equal(result(0), 6 << 5);
	assert_int_equal(result(1), 5 << 5);
	valve.fail = -EIO;
	assert_sense(DO(n2, 0x1d, 0x04), 4, 0x3e, 0x03);
	valve.fail = 0;
	assert_int_equal(result(0), 7);
	assert_int_equal(be64(log_page(0x10, 0).data + 4 + 8), 0); /* the first failing block */
	assert_good(DO(n, 0x4c, 0x02, 0x50));
	assert_int_equal(result(1), 0);
	assert_sense(DO(n, 0x1d, 0x60), 5, 0x24, 0);
	assert_sense(DO(n, 0x1d, 0x24), 5, 0x24, 0);
	assert_sense(DO(n, 0x1d, 0x80), 5, 0x24, 0); /* nothing to abort */
}

/* In the background: answered at once, others go on, REQUEST SENSE tells, a second is refused, it can be aborted. */
static void selftest_background(void **state)
{
	uint8_t buf[512] = { 1 };

	valve.hold = true;
	assert_good(DO(n, 0x1d, 0x40));
	assert_int_equal(result(0), 2 << 5 | 0xf);
	assert_sense(DO(n2, 0x1d, 0x04), 2, 0x04, 0x09);
	struct answer a = DO(n2, 0x03, 0, 0, 0, 18);
	assert_int_equal(a.data[2] << 16 | a.data[12] << 8 | a.data[13], 0x020409);
	assert_int_equal(a.data[15], 0x80);
	assert_good(DO(n2, 0x00));
	assert_good(DO(n2, 0x1d, 0x80));
	valve_open();
	bed_settle();
	assert_int_equal(result(0), 2 << 5 | 1);
	assert_int_equal(DO(n2, 0x03, 0, 0, 0, 18).data[2], 0);
	assert_good(bed_rw(n, 0, true, 0, 1, buf, 512));
	assert_good(DO(n, 0x1d, 0x20));
	bed_settle();
	assert_int_equal(result(0), 1 << 5);
	valve.hold = true; /* a unit that closes ends its test */
	assert_good(DO(n, 0x1d, 0x40));
	int closed = 0;
	bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	lu_close(lu, bed_count, &closed);
	valve_open();
	bed_until(&closed);
	start(bed_valve(SIZE, BLK_WRITE_CACHE, 0));
}

/* Task management ends a command that waits for its self-test at once. */
static void selftest_aborted(void **state)
{
	struct answer a;
	struct scsi_cmd *c = bed_cmd(&a, n, 0, CDB(0x1d, 0xc0), 0, 0);

	valve.hold = true;
	bed_start_cmd(c, NULL);
	bed_settle();
	assert_int_equal(bed_tmf(n, 0, SCSI_ABORT_TASK, c->tag), SCSI_TMF_COMPLETE);
	assert_true(a.aborted);
	bed_free(&a);
	valve_open();
	bed_settle();
	assert_int_equal(result(0), 6 << 5);
}

/* Diagnostic pages: 00h is the only one; SPC-4 6.29, 6.42. */
static void diagnostics(void **state)
{
	uint8_t p[8] = { 0 };
	struct answer a;

	assert_good(OUT(n, p, 4, 0x1d, 0x10, 0, 0, 4));
	a = DO(n, 0x1c, 0, 0, 1, 0);
	assert_int_equal(a.len, 5);
	assert_good(DO(n, 0x1c, 1, 0, 1, 0));
	assert_sense(DO(n, 0x1c, 1, 0x40, 1, 0), 5, 0x24, 0);
	assert_sense(OUT(n, p, 4, 0x1d, 0, 0, 0, 4), 5, 0x24, 0);
	assert_sense(OUT(n, p, 4, 0x1d, 0x14, 0, 0, 4), 5, 0x24, 0);
	assert_sense(OUT(n, p, 3, 0x1d, 0x10, 0, 0, 3), 5, 0x1a, 0);
	assert_sense(OUT(n, p, 8, 0x1d, 0x10, 0, 0, 8), 5, 0x1a, 0);
	p[0] = 0x40;
	assert_sense(OUT(n, p, 4, 0x1d, 0x10, 0, 0, 4), 5, 0x26, 0);
}

/* --- buffers --- */

/* The data buffer keeps what was written where; the echo is one's own until another one writes; SPC-4 6.18, 6.49. */
static void buffers(void **state)
{
	static uint8_t buf[4097];
	struct answer a = DO(n, 0x3c, 0x03, 0, 0, 0, 0, 0, 0, 4);

	assert_int_equal(be24(a.data + 1), 4096);
	assert_int_equal(be24(DO(n, 0x3c, 0x03, 1, 0, 0, 0, 0, 0, 4).data + 1), 0);
	memcpy(buf, "buffer", 6);
	assert_good(OUT(n, buf, 6, 0x3b, 0x02, 0, 0, 0, 100, 0, 0, 6));
	a = DO(n2, 0x3c, 0x02, 0, 0, 0, 100, 0, 0, 6);
	assert_int_equal(a.len, 6);
	assert_memory_equal(a.data, "buffer", 6);
	assert_int_equal(DO(n2, 0x3c, 0x02, 0, 0, 0x10, 0, 0, 0, 6).len, 0);
	a = DO(n, 0x3c, 0x0b, 0, 0, 0, 0, 0, 0, 4);
	assert_int_equal(a.data[0], 1);
	assert_int_equal(be16(a.data + 2), 4096);
	assert_sense(DO(n, 0x3c, 0x0a, 0, 0, 0, 0, 0, 0x10, 0), 5, 0x2c, 0x00);
	assert_good(OUT(n, buf, 4096, 0x3b, 0x0a, 0, 0, 0, 0, 0, 0x10, 0));
	a = DO(n, 0x3c, 0x0a, 0, 0, 0, 0, 0, 0x10, 0);
	assert_int_equal(a.len, 4096);
	assert_memory_equal(a.data, buf, 4096);
	assert_sense(DO(n2, 0x3c, 0x0a, 0, 0, 0, 0, 0, 0x10, 0), 5, 0x2c, 0x00);
	assert_good(OUT(n2, buf, 6, 0x3b, 0x0a, 0, 0, 0, 0, 0, 0, 6));
	assert_sense(DO(n, 0x3c, 0x0a, 0, 0, 0, 0, 0, 0x10, 0), 0xb, 0x3f, 0x0f);
	assert_int_equal(DO(n2, 0x3c, 0x0a, 0, 0, 0, 0, 0, 0x10, 0).len, 6);
	assert_sense(OUT(n, buf, 4097, 0x3b, 0x0a, 0, 0, 0, 0, 0, 0x10, 1), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 6, 0x3b, 0x02, 0, 0, 0x0f, 0xfe, 0, 0, 6), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 6, 0x3b, 0x02, 1, 0, 0, 0, 0, 0, 6), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 6, 0x3b, 0x0a, 0, 0, 0, 1, 0, 0, 6), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 6, 0x3b, 0x05, 0, 0, 0, 0, 0, 0, 6), 5, 0x24, 0);
	assert_sense(DO(n, 0x3c, 0x1c, 0, 0, 0, 0, 0, 0, 6), 5, 0x24, 0);
	assert_sense(DO(n, 0x3c, 0x02, 0, 0, 0x10, 1, 0, 0, 6), 5, 0x24, 0);
	assert_sense(OUT(n, buf, 3, 0x3b, 0x02, 0, 0, 0, 0, 0, 0, 6), 5, 0x1a, 0);
}

/* --- identifying information, time --- */

#define SET_IDENT(by, data, len, type) OUT(by, data, len, 0xa4, 0x06, 0, 0, 0, 0, 0, 0, (len) >> 8, (uint8_t)(len), (type) << 1)
#define GET_IDENT(by, type) DO(by, 0xa3, 0x05, 0, 0, 0, 0, 0, 0, 4, 0, (type) << 1)

/* A label and a text are kept, over a restart too; others hear of it; what is too long or no text is refused; SPC-4 6.43. */
static void identifying(void **state)
{
	uint8_t text[300] = "label";

	assert_int_equal(GET_IDENT(n, 0).len, 4);
	assert_good(SET_IDENT(n, text, 5, 0));
	assert_sense(DO(n2, 0x00), 6, 0x3f, 0x05);
	struct answer a = GET_IDENT(n2, 0);
	assert_int_equal(be16(a.data + 2), 5);
	assert_memory_equal(a.data + 4, "label", 5);
	assert_int_equal(GET_IDENT(n2, 2).len, 4);
	assert_good(SET_IDENT(n, text, 6, 2));
	bed_ready(n2, 0);
	a = GET_IDENT(n, 0x7f);
	assert_int_equal(a.len, 12);
	assert_int_equal(be16(a.data + 6), 64);
	stop();
	start(bed_valve(SIZE, BLK_WRITE_CACHE, 0));
	assert_int_equal(GET_IDENT(n, 0).len, 9);
	assert_int_equal(GET_IDENT(n, 2).len, 10);
	assert_good(DO(n, 0xa4, 0x06)); /* no bytes: taken away */
	assert_int_equal(GET_IDENT(n, 0).len, 4);
	assert_sense(SET_IDENT(n, text, 65, 0), 5, 0x24, 0);
	assert_sense(SET_IDENT(n, text, 257, 2), 5, 0x24, 0);
	assert_sense(SET_IDENT(n, text, 5, 2), 5, 0x26, 0);
	assert_sense(SET_IDENT(n, text, 5, 1), 5, 0x24, 0);
	assert_sense(GET_IDENT(n, 1), 5, 0x24, 0);
	assert_sense(OUT(n, text, 3, 0xa4, 0x06, 0, 0, 0, 0, 0, 0, 0, 5), 5, 0x1a, 0);
}

static uint64_t now(struct answer a)
{
	assert_int_equal(be16(a.data), 10);
	return (uint64_t)be16(a.data + 4) << 32 | be32(a.data + 6);
}

#define GET_TIME(by) DO(by, 0xa3, 0x0f, 0, 0, 0, 0, 0, 0, 4, 0)
#define SET_TIME(by, data, len) OUT(by, data, len, 0xa4, 0x0f, 0, 0, 0, 0, 0, 0, 0, len)

/* The time is the machine's until somebody sets another, which goes on, also after a restart; SPC-4 6.38, 6.46. */
static void timestamp(void **state)
{
	uint8_t p[12] = { 0, 0, 0, 0, 0x01, 0x00 };
	struct answer a = GET_TIME(n);

	assert_int_equal(a.data[2], 3);
	assert_true(now(a) > 1700000000000);
	assert_good(SET_TIME(n, p, 12));
	assert_sense(DO(n2, 0x00), 6, 0x2a, 0x10);
	a = GET_TIME(n2);
	assert_int_equal(a.data[2], 2);
	assert_in_range(now(a), 1ull << 40, (1ull << 40) + 60000);
	stop();
	start(bed_valve(SIZE, BLK_WRITE_CACHE, 0));
	a = GET_TIME(n2);
	assert_int_equal(a.data[2], 2);
	assert_in_range(now(a), 1ull << 40, (1ull << 40) + 60000);
	p[0] = 1;
	assert_sense(SET_TIME(n, p, 12), 5, 0x26, 0);
	assert_sense(SET_TIME(n, p, 11), 5, 0x1a, 0);
	assert_good(DO(n, 0xa4, 0x0f));
}

/* The serial number of the medium is the unit's; SPC-4 6.20. */
static void medium_serial(void **state)
{
	struct answer a = DO(n, 0xab, 0x01, 0, 0, 0, 0, 0, 0, 1, 0);

	assert_int_equal(be32(a.data), 32);
	assert_memory_equal(a.data + 4, lu->serial, 32);
}

/* --- provisioning --- */

static void space(uint64_t used_mib, uint64_t left_mib)
{
	lu_space(lu, used_mib << 20, left_mib << 20);
	bed_settle();
}

/* A unit that knows the space below says it, and warns every nexus once when it falls below a threshold, again after it rose:
 * a share by default, a number by MODE SELECT; SBC-4 4.7.3.7, 6.4.5, 6.5.9. */
static void thresholds(void **state)
{
	uint8_t page[4 + 32] = { 0 };

	assert_sense(DO(n, 0x1a, 0x08, 0x1c, 0x02, 255), 5, 0x24, 0);
	assert_sense(DO(n, 0x4d, 0, 0x4c, 0, 0, 0, 0, 4, 0), 5, 0x24, 0);
	assert_int_equal(RUN(n, 0, 0x12, 1, 0xb2, 0, 64).data[4], 0);
	space(100, 900);
	assert_good(DO(n, 0x00));
	struct answer a = RUN(n, 0, 0x12, 1, 0xb2, 0, 64);
	assert_int_equal(a.data[4], 20 - 9);
	assert_true(a.data[7]);
	a = log_page(0x0c, 0);
	assert_int_equal(be32(a.data + 8), 900);
	assert_int_equal(be32(a.data + 20), 100);
	assert_int_equal(be16(a.data + 32), 90);
	space(890, 110);
	assert_good(DO(n, 0x00));
	space(920, 80);
	assert_sense(DO(n, 0x00), 6, 0x38, 0x07);
	assert_sense(DO(n2, 0x00), 6, 0x38, 0x07);
	space(930, 70);
	assert_good(DO(n, 0x00)); /* once */
	space(100, 900);
	space(930, 70);
	assert_sense(DO(n, 0x00), 6, 0x38, 0x07);
	bed_ready(n2, 0);
	a = DO(n, 0x1a, 0x08, 0x1c, 0x02, 255);
	assert_int_equal(a.len, sizeof(page));
	memcpy(page, a.data, sizeof(page));
	page[0] = 0;
	page[4] &= 0x7f;
	page[4 + 16] &= 0x7f;         /* not the share, */
	page[4 + 24] |= 0x80;         /* but a number: */
	put_be32(page + 4 + 28, 500); /* 500 MiB */
	assert_good(OUT(n, page, sizeof(page), 0x15, 0x10, 0, 0, sizeof(page)));
	bed_ready(n2, 0);
	space(100, 900);
	space(520, 480);
	assert_sense(DO(n, 0x00), 6, 0x38, 0x07);
	bed_ready(n2, 0);
	space(950, 50);
	assert_good(DO(n2, 0x00));
	page[4 + 16 + 7] = 101;
	assert_sense(OUT(n, page, sizeof(page), 0x15, 0x10, 0, 0, sizeof(page)), 5, 0x26, 0);
	uint8_t recovery[16] = { 0, 0, 0, 0, 0x01, 0x0a, 0xc0, 0x00 }; /* LBPERE off: nothing is told */
	assert_good(OUT(n, recovery, 16, 0x15, 0x10, 0, 0, 16));
	bed_ready(n2, 0);
	space(100, 900);
	space(950, 50);
	assert_good(DO(n, 0x00));
}

/* A store that is full ends writes with SPACE ALLOCATION FAILED, which is what stops a virtual machine instead of failing
 * it; reads go on; SBC-4 4.7.3.6. */
static void out_of_space(void **state)
{
	uint8_t buf[512] = { 0 };

	valve.fail = -ENOSPC;
	assert_sense(bed_rw(n, 0, true, 0, 1, buf, 512), 7, 0x27, 0x07);
	valve.fail = 0;
	assert_good(bed_rw(n, 0, false, 0, 1, NULL, 512));
	assert_good(bed_rw(n, 0, true, 0, 1, buf, 512));
}

/* Pages about the unit as a whole: who shares mode pages, and which ports there are; SPC-4 7.8.9, 7.8.14. */
static void vpd_pages(void **state)
{
	struct answer a = RUN(n, 0, 0x12, 1, 0x87, 0, 255);

	assert_int_equal(be16(a.data + 2), a.len - 4);
	assert_int_equal(be16(a.data + 4), 0x3fff);
	assert_int_equal(a.data[6], 0);
	a = RUN(n, 0, 0x12, 1, 0x88, 4, 0);
	assert_int_equal(be16(a.data + 2), a.len - 4);
	assert_int_equal(be16(a.data + 6), 1); /* relative port */
	assert_int_equal(be16(a.data + 14), a.len - 16);
	assert_int_equal(a.data[17], 0x98); /* PIV, of the port, SCSI name string */
	assert_memory_equal(a.data + 20, "iqn.2026-01.test:bed,t,0x0001", 30);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(log_lists), T(log_counters), T(log_performance), T(selftest),
		T(selftest_background), T(selftest_aborted), T(diagnostics), T(buffers), T(identifying), T(timestamp),
		T(medium_serial), T(thresholds), T(out_of_space), T(vpd_pages) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

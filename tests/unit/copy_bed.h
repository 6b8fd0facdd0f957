/* SPDX-License-Identifier: BSD-3-Clause
 * What the tests of copies share: two units on media of their choice, two nexuses, and copy commands built from what they
 * mean. Included by one test program each. */
#ifndef LUNETTE_TESTS_COPY_BED_H
#define LUNETTE_TESTS_COPY_BED_H

#include "scsi_bed.h"

#include <time.h>
#include <unistd.h>

#include "scsi/copy.h"
#include "scsi/token.h"

enum { UNITS = 2, SIZE = 8 << 20, BS = 512, BLOCKS = SIZE / BS, TOKENS = 6 };
static struct scsi_nexus *n, *n2;
static struct lu *lu[UNITS];
static uint8_t *model[UNITS];
static char path[UNITS][64];
static uint64_t rng;

static inline unsigned rnd(unsigned below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)(rng >> 20) % below;
}

static inline struct blk *file_blk(unsigned i)
{
	const struct blk_ops *ops = blk_find("file");
	void *conf = calloc(1, ops->conf_bytes);
	char text[128];
	struct err e = { 0 };
	struct blk *b;

	snprintf(path[i], sizeof(path[i]), "/tmp/lunette-token-%d-%u", getpid(), i);
	snprintf(text, sizeof(text), "path=%s,size=%d", path[i], SIZE);
	assert_int_equal(schema_defaults(ops->config, conf, &e), 0);
	assert_int_equal(schema_parse(ops->config, conf, text, &e), 0);
	if (blk_open(&b, ops, conf, NULL, &e))
		fail_msg("%s", e.text);
	schema_free(ops->config, conf);
	free(conf);
	return b;
}

static inline int setup_on(struct blk *a, struct blk *b)
{
	struct scsi_lun luns[UNITS];

	lu[0] = bed_lu(NULL, a);
	lu[1] = bed_lu(NULL, b);
	for (unsigned i = 0; i < UNITS; i++) {
		luns[i] = (struct scsi_lun){ (uint16_t)i, lu[i] };
		model[i] = calloc(1, SIZE);
	}
	bed_map(luns, UNITS);
	n = bed_nexus(0, 1);
	n2 = bed_nexus(1, 2);
	for (unsigned i = 0; i < UNITS; i++) {
		bed_ready(n, i);
		bed_ready(n2, i);
	}
	return 0;
}

static inline int setup(void **state)
{
	bed_start(BED_LOOPS);
	return setup_on(bed_ram(SIZE), bed_ram(SIZE));
}

static inline int setup_files(void **state)
{
	bed_start(BED_LOOPS);
	return setup_on(file_blk(0), file_blk(1));
}

static inline int setup_mixed(void **state)
{
	bed_start(BED_LOOPS);
	return setup_on(bed_ram(SIZE), file_blk(1));
}

static inline int setup_valve(void **state) /* below unit 1, which so copies through memory */
{
	bed_start(BED_LOOPS);
	return setup_on(bed_ram(SIZE), bed_valve(SIZE, 0, 0));
}

static inline int teardown(void **state)
{
	valve_open();
	if (n)
		bed_nexus_close(n);
	bed_nexus_close(n2);
	bed_map(NULL, 0);
	for (unsigned i = 0; i < UNITS; i++) {
		if (lu[i])
			bed_close(lu[i]);
		free(model[i]);
		if (*path[i])
			unlink(path[i]);
		*path[i] = 0;
	}
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
	bed_stop();
	return 0;
}

/* --- commands --- */

static inline void put_cscd(uint8_t *p, unsigned unit)
{
	uint8_t have[512];
	size_t all = vpd_lu_designators(lu[unit], have);

	p[0] = 0xe4;
	for (size_t at = 0; at < all; at += 4u + have[at + 3])
		if ((have[at + 1] & 0x3f) == 3)
			memcpy(p + 4, have + at, 4u + have[at + 3]);
}

/* A list of one segment: LID1 (head 16) or LID4 (48). Its length. */
static inline uint32_t xcopy_list(uint8_t *p, bool lid4, bool immed, uint32_t id, unsigned src, unsigned dst, uint32_t from,
	uint32_t to, uint32_t nblk)
{
	uint32_t head = lid4 ? 48 : 16;
	uint8_t *s = p + head + 64;

	memset(p, 0, head + 64 + 28);
	if (lid4) {
		p[0] = 1;
		p[3] = 32;
		p[15] = immed;
		p[16] = 0xff;
		put_be32(p + 20, id);
		put_be16(p + 42, 64);
		put_be16(p + 44, 28);
	} else {
		p[0] = (uint8_t)id;
		put_be16(p + 2, 64);
		put_be32(p + 8, 28);
	}
	put_cscd(p + head, src);
	put_cscd(p + head + 32, dst);
	s[0] = 2;
	s[3] = 24;
	s[7] = 1;
	put_be16(s + 10, (uint16_t)nblk);
	put_be64(s + 12, from);
	put_be64(s + 20, to);
	return head + 64 + 28;
}

static inline struct answer xcopy(struct scsi_nexus *by, bool lid4, unsigned src, unsigned dst, uint32_t from, uint32_t to,
	uint32_t nblk)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, lid4, false, 1, src, dst, from, to, nblk);

	return bed_run(by, rnd(UNITS), CDB(0x83, lid4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
}

struct run { uint32_t lba, nblk; };

static inline uint32_t put_runs(uint8_t *p, const struct run *r, unsigned count)
{
	for (unsigned i = 0; i < count; i++, p += 16) {
		memset(p, 0, 16);
		put_be64(p, r[i].lba);
		put_be32(p + 8, r[i].nblk);
	}
	return 16 * count;
}

/* The token of runs in unit; false: refused. */
static inline struct answer populate(struct scsi_nexus *by, unsigned unit, uint32_t idle, const struct run *r, unsigned count,
	uint8_t token[TOKEN_BYTES])
{
	uint8_t p[16 + 16 * 8] = { 0 };
	uint32_t len = 16 + put_runs(p + 16, r, count);
	struct answer a;

	put_be16(p, (uint16_t)(len - 2));
	put_be32(p + 4, idle);
	put_be16(p + 14, (uint16_t)(len - 16));
	a = bed_run(by, unit, CDB(0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, (uint8_t)len), p, len, 0);
	if (a.status)
		return a;
	a = RUN(by, unit, 0x84, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 4, 0);
	assert_good(a);
	assert_int_equal(a.len, 32 + 4 + 2 + TOKEN_BYTES);
	memcpy(token, a.data + 38, TOKEN_BYTES);
	return a;
}

static inline uint32_t use_list(uint8_t *p, const uint8_t token[TOKEN_BYTES], uint32_t offset, const struct run *r, unsigned count,
	uint8_t flags)
{
	memset(p, 0, 536);
	uint32_t runs = put_runs(p + 536, r, count);
	put_be16(p, (uint16_t)(534 + runs));
	p[2] = flags;
	put_be64(p + 8, offset);
	memcpy(p + 16, token, TOKEN_BYTES);
	put_be16(p + 534, (uint16_t)runs);
	return 536 + runs;
}

static inline struct answer use(struct scsi_nexus *by, unsigned unit, const uint8_t token[TOKEN_BYTES], uint32_t offset,
	const struct run *r, unsigned count, uint8_t flags)
{
	uint8_t p[536 + 16 * 8];
	uint32_t len = use_list(p, token, offset, r, count, flags);

	return bed_run(by, unit, CDB(0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, (uint8_t)(len >> 8), (uint8_t)len), p, len, 0);
}

/* What RECEIVE COPY STATUS (LID4) says of list 5 until it is over. */
static inline const uint8_t *await(struct scsi_nexus *by, unsigned unit, uint32_t id)
{
	for (int i = 0; i < 100000; i++) {
		struct answer a = RUN(by, unit, 0x84, 5, 0, 0, 0, (uint8_t)id, 0, 0, 0, 0, 0, 0, 1, 0);
		assert_good(a);
		if (a.data[5] < 0x10 || a.data[5] > 0x12)
			return a.data;
	}
	fail_msg("never over");
	return NULL;
}

static inline void check_all(void)
{
	for (unsigned i = 0; i < UNITS; i++)
		for (uint32_t at = 0; at < SIZE; at += 1 << 20) {
			struct answer a = bed_rw(n2, i, false, at / BS, (1 << 20) / BS, NULL, 1 << 20);
			assert_good(a);
			assert_memory_equal(a.data, model[i] + at, 1 << 20);
		}
}

static inline void start_xcopy(struct answer *a, struct scsi_nexus *by, unsigned src, unsigned dst, uint32_t from, uint32_t to,
	uint32_t nblk)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, false, false, 7, src, dst, from, to, nblk);

	bed_start_cmd(bed_cmd(a, by, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
}

static inline void small_turn(unsigned i)
{
	loop_turn(i % 3 ? loop_group.loop[i % 3 - 1] : bed.control, 0);
}

#endif

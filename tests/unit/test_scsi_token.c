/* SPDX-License-Identifier: BSD-3-Clause
 * Copies and tokens: random ones against a model, against each other, aborted at any step, and what tokens end by. */
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

static unsigned rnd(unsigned below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)(rng >> 20) % below;
}

static struct blk *file_blk(unsigned i)
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

static int setup_on(struct blk *a, struct blk *b)
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

static int setup(void **state)
{
	bed_start(BED_LOOPS);
	return setup_on(bed_ram(SIZE), bed_ram(SIZE));
}

static int setup_files(void **state)
{
	bed_start(BED_LOOPS);
	return setup_on(file_blk(0), file_blk(1));
}

static int setup_mixed(void **state)
{
	bed_start(BED_LOOPS);
	return setup_on(bed_ram(SIZE), file_blk(1));
}

static int setup_valve(void **state) /* below unit 1, which so copies through memory */
{
	bed_start(BED_LOOPS);
	return setup_on(bed_ram(SIZE), bed_valve(SIZE, 0, 0));
}

static int teardown(void **state)
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

static void put_cscd(uint8_t *p, unsigned unit)
{
	uint8_t have[512];
	size_t all = vpd_lu_designators(lu[unit], have);

	p[0] = 0xe4;
	for (size_t at = 0; at < all; at += 4u + have[at + 3])
		if ((have[at + 1] & 0x3f) == 3)
			memcpy(p + 4, have + at, 4u + have[at + 3]);
}

/* A list of one segment: LID1 (head 16) or LID4 (48). Its length. */
static uint32_t xcopy_list(uint8_t *p, bool lid4, bool immed, uint32_t id, unsigned src, unsigned dst, uint32_t from,
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

static struct answer xcopy(struct scsi_nexus *by, bool lid4, unsigned src, unsigned dst, uint32_t from, uint32_t to,
	uint32_t nblk)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, lid4, false, 1, src, dst, from, to, nblk);

	return bed_run(by, rnd(UNITS), CDB(0x83, lid4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
}

struct run { uint32_t lba, nblk; };

static uint32_t put_runs(uint8_t *p, const struct run *r, unsigned count)
{
	for (unsigned i = 0; i < count; i++, p += 16) {
		memset(p, 0, 16);
		put_be64(p, r[i].lba);
		put_be32(p + 8, r[i].nblk);
	}
	return 16 * count;
}

/* The token of runs in unit; false: refused. */
static struct answer populate(struct scsi_nexus *by, unsigned unit, uint32_t idle, const struct run *r, unsigned count,
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

static uint32_t use_list(uint8_t *p, const uint8_t token[TOKEN_BYTES], uint32_t offset, const struct run *r, unsigned count,
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

static struct answer use(struct scsi_nexus *by, unsigned unit, const uint8_t token[TOKEN_BYTES], uint32_t offset,
	const struct run *r, unsigned count, uint8_t flags)
{
	uint8_t p[536 + 16 * 8];
	uint32_t len = use_list(p, token, offset, r, count, flags);

	return bed_run(by, unit, CDB(0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, (uint8_t)(len >> 8), (uint8_t)len), p, len, 0);
}

/* What RECEIVE COPY STATUS (LID4) says of list 5 until it is over. */
static const uint8_t *await(struct scsi_nexus *by, unsigned unit, uint32_t id)
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

static void check_all(void)
{
	for (unsigned i = 0; i < UNITS; i++)
		for (uint32_t at = 0; at < SIZE; at += 1 << 20) {
			struct answer a = bed_rw(n2, i, false, at / BS, (1 << 20) / BS, NULL, 1 << 20);
			assert_good(a);
			assert_memory_equal(a.data, model[i] + at, 1 << 20);
		}
}

/* --- random commands against a model --- */

struct known { bool valid; uint8_t bytes[TOKEN_BYTES]; unsigned unit, nrun; struct run run[4]; };
static struct known known[TOKENS];

/* A change of these blocks: tokens that represent any of them are cancelled. */
static void changed(unsigned unit, uint32_t lba, uint32_t nblk)
{
	for (unsigned i = 0; i < TOKENS; i++)
		for (unsigned k = 0; nblk && known[i].valid && known[i].unit == unit && k < known[i].nrun; k++)
			if (lba < known[i].run[k].lba + known[i].run[k].nblk && known[i].run[k].lba < lba + nblk)
				known[i].valid = false;
}

static bool meet(uint32_t a, uint32_t b, uint32_t len)
{
	return a < b + len && b < a + len;
}

static void do_write(struct scsi_nexus *by)
{
	static uint8_t data[256 * BS];
	unsigned unit = rnd(UNITS);
	uint32_t nblk = 1 + rnd(256), lba = rnd(BLOCKS - nblk);

	for (uint32_t i = 0; i < nblk * BS; i++)
		data[i] = (uint8_t)rnd(256);
	assert_good(bed_rw(by, unit, true, lba, nblk, data, nblk * BS));
	memcpy(model[unit] + (size_t)lba * BS, data, nblk * BS);
	changed(unit, lba, nblk);
}

static void do_zero(struct scsi_nexus *by)
{
	unsigned unit = rnd(UNITS);
	uint32_t nblk = 1 + rnd(3000), lba = rnd(BLOCKS - nblk);
	uint8_t cdb[16] = { 0x93, (uint8_t)(rnd(2) ? 9 : 1) }, list[24] = { 0, 22, 0, 16 };

	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, nblk);
	if (rnd(2)) {
		assert_good(bed_run(by, unit, cdb, 16, NULL, 0, 0));
	} else {
		put_be64(list + 8, lba);
		put_be32(list + 16, nblk);
		assert_good(bed_run(by, unit, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), list, 24, 0));
	}
	memset(model[unit] + (size_t)lba * BS, 0, (size_t)nblk * BS);
	changed(unit, lba, nblk);
}

static void do_copy(struct scsi_nexus *by)
{
	unsigned src = rnd(UNITS), dst = rnd(UNITS), unit = rnd(2) ? 8 : 1;
	uint32_t nblk = rnd(5000) / unit * unit, from = rnd(BLOCKS - nblk) / unit * unit, to = rnd(BLOCKS - nblk) / unit * unit;

	if (src == dst && meet(from, to, nblk))
		return; /* what an overlapping copy gives is nobody's promise */
	assert_good(xcopy(by, rnd(2), src, dst, from, to, nblk));
	memcpy(model[dst] + (size_t)to * BS, model[src] + (size_t)from * BS, (size_t)nblk * BS);
	changed(dst, to, nblk);
}

/* Up to 4 runs, apart from each other. Their number. */
static unsigned some_runs(struct run *r)
{
	unsigned count = 1 + rnd(4);
	uint32_t at = rnd(BLOCKS / 4);

	for (unsigned i = 0; i < count; i++) {
		r[i] = (struct run){ at, rnd(BLOCKS / 8) };
		at += r[i].nblk + rnd(BLOCKS / 16);
	}
	return count;
}

static void do_populate(struct scsi_nexus *by)
{
	struct known *k = &known[rnd(TOKENS)];

	k->unit = rnd(UNITS);
	k->nrun = some_runs(k->run);
	assert_good(populate(by, k->unit, 0, k->run, k->nrun, k->bytes));
	k->valid = true;
}

static uint32_t blocks_in(const struct run *r, unsigned count)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < count; i++)
		sum += r[i].nblk;
	return sum;
}

/* The address of the i-th block that runs name. */
static uint32_t nth(const struct run *r, uint32_t i)
{
	while (i >= r->nblk)
		i -= (r++)->nblk;
	return r->lba + i;
}

static bool any_shared(const struct known *k, unsigned unit, const struct run *r, unsigned count)
{
	for (unsigned i = 0; unit == k->unit && i < count; i++)
		for (unsigned j = 0; j < k->nrun; j++)
			if (r[i].lba < k->run[j].lba + k->run[j].nblk && k->run[j].lba < r[i].lba + r[i].nblk)
				return true;
	return false;
}

static void do_use(struct scsi_nexus *by)
{
	struct known *k = &known[rnd(TOKENS)];
	unsigned unit = rnd(UNITS), count;
	struct run r[4];
	uint32_t have = k->nrun ? blocks_in(k->run, k->nrun) : 0, skip = have ? rnd(have) : 0;

	count = some_runs(r);
	uint32_t want = blocks_in(r, count), moved = MIN(want, have - skip);
	if (!k->nrun || (k->valid && (!have || any_shared(k, unit, r, count))))
		return; /* a token that its own use cancels has a test of its own */
	bool immed = rnd(3) == 0;
	struct answer a = use(by, unit, k->bytes, skip, r, count, immed);
	if (!k->valid) {
		assert_sense(a, 5, 0x23, 0x08);
		return;
	}
	if (immed)
		assert_good(a);
	else if (moved < want)
		assert_sense(a, 0xa, 0x0d, 0x04);
	else
		assert_good(a);
	const uint8_t *p = await(by, unit, 5);
	assert_int_equal(p[5], moved < want ? 0x03 : 0x01);
	assert_int_equal(be64(p + 16), moved);
	for (uint32_t i = 0; i < moved; i++) {
		uint32_t lba = nth(r, i);
		memcpy(model[unit] + (size_t)lba * BS, model[k->unit] + (size_t)nth(k->run, skip + i) * BS, BS);
	}
	for (uint32_t i = 0, left = moved; i < count; left -= MIN(left, r[i].nblk), i++)
		changed(unit, r[i].lba, MIN(left, r[i].nblk));
}

/* Random writes, zeros, copies of both kinds and uses of tokens by two nexuses give what the model gives, and a token is
 * valid as long as nobody wrote to what it represents. */
static void walk(void **state)
{
	static void (*const steps[])(struct scsi_nexus *by) = {
		do_write, do_write, do_zero, do_copy, do_copy, do_populate, do_use, do_use, do_use,
	};

	memset(known, 0, sizeof(known));
	for (int i = 0; i < 500; i++)
		steps[rnd(ARRAY_LEN(steps))](rnd(2) ? n : n2);
	check_all();
}

/* --- each other --- */

static void start_xcopy(struct answer *a, struct scsi_nexus *by, unsigned src, unsigned dst, uint32_t from, uint32_t to,
	uint32_t nblk)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, false, false, 7, src, dst, from, to, nblk);

	bed_start_cmd(bed_cmd(a, by, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
}

/* Copies in opposite directions, between units and within one, over ranges that meet: none waits for ever, and one of
 * two orders is what comes out of each pair. */
static void opposite(void **state)
{
	for (unsigned i = 0; i < 40; i++) {
		unsigned a_unit = rnd(UNITS), b_unit = rnd(UNITS);
		uint32_t nblk = 2000 + rnd(2000), a = rnd(1000), b = 6000 + rnd(1000);
		struct answer x, y;
		start_xcopy(&x, n, a_unit, b_unit, a, b, nblk);
		for (unsigned k = rnd(20); k; k--)
			bed_turn();
		start_xcopy(&y, n2, b_unit, a_unit, b, a, nblk);
		bed_until(&x.done);
		bed_until(&y.done);
		assert_good(x);
		assert_good(y);
		bed_free(&x);
		bed_free(&y);
	}
}

static void small_turn(unsigned i)
{
	loop_turn(i % 3 ? loop_group.loop[i % 3 - 1] : bed.control, 0);
}

static void start_use(struct answer *a, const uint8_t token[TOKEN_BYTES], uint8_t flags)
{
	struct run r = { 0, 4000 };
	uint8_t p[536 + 16];
	uint32_t len = use_list(p, token, 0, &r, 1, flags);

	bed_start_cmd(bed_cmd(a, n, 1, CDB(0x83, 0x11, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, (uint8_t)(len >> 8), (uint8_t)len), 0, len),
		p);
}

/* WRITE USING TOKEN ended at any step by ABORT TASK, a reset, COPY OPERATION ABORT, or the end of its session, in the
 * foreground or the background: the destination is free again, the token can be used again, nothing leaks. */
static void ended_anywhere(void **state)
{
	static uint8_t data[4000 * BS];
	struct run r = { 0, 4000 };
	uint8_t token[TOKEN_BYTES];

	memset(data, 'd', sizeof(data));
	assert_good(bed_rw(n, 0, true, 0, 4000, data, sizeof(data)));
	assert_good(populate(n, 0, 0, &r, 1, token));
	for (unsigned steps = 0; steps < 160; steps++) {
		bool immed = steps & 4;
		struct bed_tmf tmf = { .done = 1 };
		struct answer a, stop = { .done = 1 };
		int gone = 1;
		start_use(&a, token, immed);
		for (unsigned i = 0; i < steps / 2; i++)
			small_turn(i);
		switch (steps & 3) {
		case 0:
			bed_tmf_start(&tmf, n, 1, SCSI_ABORT_TASK, a.cmd->tag);
			break;
		case 1:
			bed_tmf_start(&tmf, n2, 1, SCSI_LU_RESET, 0);
			break;
		case 2:
			bed_start_cmd(bed_cmd(&stop, n, 1, CDB(0x83, 0x1c, 0, 0, 0, 5), 0, 0), NULL);
			break;
		default:
			gone = 0;
			scsi_nexus_close(n, bed_count, &gone);
		}
		bed_until(&a.done);
		bed_free(&a);
		bed_until(&tmf.done);
		bed_until(&stop.done);
		if (stop.cmd)
			bed_free(&stop);
		bed_until(&gone);
		if ((steps & 3) == 3)
			n = bed_nexus(0, 1);
		bed_settle();
		for (unsigned i = 0; i < UNITS; i++)
			bed_ready(n, i);
		bed_ready(n2, 1);
		assert_good(bed_rw(n2, 1, true, 0, 1, data, BS));
		if ((steps & 3) == 0 && immed)
			await(n, 1, 5); /* ABORT TASK does not concern it any more */
		assert_good(use(n, 1, token, 0, &r, 1, 0));
	}
}

/* --- what tokens are refused for, and end by --- */

static void zero_token(uint8_t token[TOKEN_BYTES])
{
	memset(token, 0, TOKEN_BYTES);
	put_be32(token, TOKEN_TYPE_ZERO);
	put_be16(token + 6, TOKEN_BYTES - 8);
}

/* The block device zero ROD token writes zeros, as many as asked for, from any offset; SBC-4 4.28.4. */
static void zeros(void **state)
{
	static uint8_t data[100 * BS];
	uint8_t token[TOKEN_BYTES];
	struct run r[2] = { { 10, 30 }, { 60, 20 } };

	memset(data, 1, sizeof(data));
	assert_good(bed_rw(n, 1, true, 0, 100, data, sizeof(data)));
	zero_token(token);
	assert_good(use(n2, 1, token, 1000, r, 2, 0));
	memset(data + 10 * BS, 0, 30 * BS);
	memset(data + 60 * BS, 0, 20 * BS);
	assert_memory_equal(bed_rw(n, 1, false, 0, 100, NULL, sizeof(data)).data, data, sizeof(data));
	assert_int_equal(be64(await(n2, 1, 5) + 16), 50);
}

/* SPC-4 5.17.6.5.2.3 and SBC-4 5.59.2: which token is refused with what. */
static void refused(void **state)
{
	uint8_t token[TOKEN_BYTES], bad[TOKEN_BYTES];
	struct run r = { 0, 8 }, twice[2] = { { 0, 8 }, { 7, 8 } }, far = { BLOCKS - 1, 2 }, nothing = { 5, 0 };

	assert_good(populate(n, 0, 0, &nothing, 1, token));
	assert_int_equal(be64(token + 56), 0);
	assert_sense(use(n, 1, token, 0, &r, 1, 0), 5, 0x26, 0x00);

	assert_sense(populate(n, 0, 0, twice, 2, token), 5, 0x26, 0x00);
	assert_sense(populate(n, 0, 0, &far, 1, token), 5, 0x21, 0x00);
	assert_sense(populate(n, 0, TOKEN_IDLE_MAX_S + 1, &r, 1, token), 5, 0x26, 0x00);
	assert_good(populate(n, 0, 0, &r, 1, token));
	assert_sense(use(n, 1, token, 8, &r, 1, 0), 5, 0x26, 0x00); /* beyond what it represents */
	memcpy(bad, token, TOKEN_BYTES);
	put_be16(bad + 6, 0x1f0);
	assert_sense(use(n, 1, bad, 0, &r, 1, 0), 5, 0x23, 0x0a);
	memcpy(bad, token, TOKEN_BYTES);
	put_be32(bad, 0x00800002);
	assert_sense(use(n, 1, bad, 0, &r, 1, 0), 5, 0x23, 0x01);
	memcpy(bad, token, TOKEN_BYTES);
	bad[300] ^= 1; /* no random byte can be guessed */
	bad[260] ^= 1;
	assert_sense(use(n, 1, bad, 0, &r, 1, 0), 5, 0x23, 0x05);
	memcpy(bad, token, TOKEN_BYTES);
	put_be64(bad + 8, 12345);
	assert_sense(use(n, 1, bad, 0, &r, 1, 0), 5, 0x23, 0x04);
	memcpy(bad, token, TOKEN_BYTES);
	bad[26] ^= 1; /* another unit */
	assert_sense(use(n, 1, bad, 0, &r, 1, 0), 5, 0x23, 0x04);
	assert_good(use(n2, 1, token, 0, &r, 1, 0)); /* whoever has it */
	assert_good(use(n2, 1, token, 0, &r, 1, 2)); /* for the last time: DEL_TKN */
	assert_sense(use(n2, 1, token, 0, &r, 1, 0), 5, 0x23, 0x09);
}

/* A token into whose own range it is written is cancelled before a block moves. */
static void onto_itself(void **state)
{
	uint8_t token[TOKEN_BYTES], data[16 * BS];
	struct run r = { 0, 16 }, over = { 8, 16 };

	memset(data, 3, sizeof(data));
	assert_good(bed_rw(n, 0, true, 0, 16, data, sizeof(data)));
	assert_good(populate(n, 0, 0, &r, 1, token));
	assert_sense(use(n, 0, token, 0, &over, 1, 0), 5, 0x23, 0x08);
	assert_int_equal(bed_rw(n, 0, false, 20, 1, NULL, BS).data[0], 0);
}

/* A write in the middle of a use: what was copied before is what the token represents, the rest is not copied. */
static void cancelled_midway(void **state)
{
	static uint8_t data[4000 * BS];
	struct run r = { 0, 4000 };
	uint8_t token[TOKEN_BYTES];
	struct answer a;

	memset(data, 'o', sizeof(data));
	assert_good(bed_rw(n, 0, true, 0, 4000, data, sizeof(data)));
	assert_good(populate(n, 0, 0, &r, 1, token));
	valve.hold = true;
	start_use(&a, token, 0);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	struct answer w;
	bed_start_cmd(bed_cmd(&w, n2, 0, CDB(0x2a, 0, 0, 0, 0x0f, 0x00, 0, 0, 1), 0, BS), model[0]);
	bed_settle();
	valve_open();
	bed_until(&w.done);
	assert_good(w);
	bed_until(&a.done);
	assert_int_equal(a.status, SCSI_CHECK_CONDITION);
	assert_int_equal(a.asc << 8 | a.ascq, 0x2308);
	bed_free(&a);
	bed_free(&w);
	uint64_t moved = be64(await(n, 1, 5) + 16);
	assert_true(moved > 0 && moved < 4000);
	struct answer got = bed_rw(n, 1, false, 0, 4000, NULL, sizeof(data));
	assert_memory_equal(got.data, data, moved * BS);
	assert_int_equal(got.data[moved * BS], 0);
}

/* Inactivity ends a token, a use puts the end off; more tokens than a unit keeps push the oldest out; SPC-4 5.17.6.7. */
static void old_age(void **state)
{
	uint8_t token[TOKEN_BYTES], first[TOKEN_BYTES];
	struct run r = { 0, 8 };
	struct answer a;

	assert_good(populate(n, 0, 1, &r, 1, token));
	assert_good(use(n, 1, token, 0, &r, 1, 0));
	time_t end = time(NULL) + 20;
	while (lu[0]->tokens && time(NULL) < end && tokens_report(lu[0], (uint8_t[TOKENS_MAX * 96]){ 0 }))
		loop_turn(lu[0]->home, 0);
	assert_sense(use(n, 1, token, 0, &r, 1, 0), 5, 0x23, 0x07);
	assert_true(list_empty(&lu[0]->freezes));
	for (unsigned i = 0; i <= TOKENS_MAX; i++)
		assert_good(populate(n, 0, 0, &r, 1, i ? token : first));
	assert_sense(use(n, 1, first, 0, &r, 1, 0), 5, 0x23, 0x08);
	assert_good(use(n, 1, token, 0, &r, 1, 0));
	a = RUN(n, 0, 0x84, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0);
	assert_int_equal(be32(a.data), 4 + TOKENS_MAX * 96);
	assert_memory_equal(a.data + 8 + 63 * 96, token, 96);
	for (unsigned i = 0; i < 2 * TOKENS_KEPT; i++)
		assert_good(populate(n, 0, 0, &r, 1, token));
	assert_sense(use(n, 1, first, 0, &r, 1, 0), 5, 0x23, 0x04); /* nobody remembers it */
}

/* Who may not read the source any more cannot use a token of it; nobody can when its unit is gone. */
static void rights(void **state)
{
	uint8_t token[TOKEN_BYTES], p[24] = { 0 };
	struct run r = { 0, 8 };

	assert_good(populate(n, 0, 0, &r, 1, token));
	put_be64(p + 8, 2);
	assert_good(bed_run(n2, 0, CDB(0x5f, 0, 0, 0, 0, 0, 0, 0, 24), p, 24, 0));
	put_be64(p, 2);
	assert_good(bed_run(n2, 0, CDB(0x5f, 1, 3, 0, 0, 0, 0, 0, 24), p, 24, 0));
	assert_sense(use(n, 1, token, 0, &r, 1, 0), 0xa, 0x0d, 0x02);
	assert_good(use(n2, 1, token, 0, &r, 1, 0));
	bed_map(&(struct scsi_lun){ 1, lu[1] }, 1);
	bed_close(lu[0]);
	lu[0] = NULL;
	bed_ready(n, 1);
	bed_ready(n2, 1);
	assert_sense(use(n2, 1, token, 0, &r, 1, 0), 5, 0x23, 0x04);
}

/* What a copy meets at its destination is told as SPC-4 5.17.7.4 says: segment, residual, descriptor, and the unit's own
 * status and sense; and again by RECEIVE COPY FAILURE DETAILS, once. */
static void segment_details(void **state)
{
	static uint8_t data[2000 * BS];
	struct answer a;

	memset(data, 5, sizeof(data));
	assert_good(bed_rw(n, 0, true, 0, 2000, data, sizeof(data)));
	valve.hold = true;
	start_xcopy(&a, n, 0, 1, 0, 0, 2000);
	bed_settle();
	valve_release(0);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve.fail = -ENOSPC;
	bed_settle();
	struct blk_io *io = valve.held[0];
	valve.nheld = 0;
	valve.hold = false;
	valve.fail = 0;
	blk_done(io, -ENOSPC);
	bed_until(&a.done);
	const uint8_t *s = a.cmd->sense;
	assert_sense(a, 0xa, 0x0d, 0x01);
	assert_int_equal(s[0], 0xf0); /* VALID: some was written */
	assert_int_equal(be32(s + 3), 2000 - 1024);
	assert_int_equal(s[8], 0);
	assert_int_equal(s[9], 18);
	assert_int_equal(be16(s + 10), 0);
	assert_int_equal(s[15], 0x80);
	assert_int_equal(be16(s + 16), 16 + 32);
	assert_int_equal(s[18], SCSI_CHECK_CONDITION);
	assert_int_equal(s[19 + 2], 7);
	assert_int_equal(s[19 + 12] << 8 | s[19 + 13], 0x2707);
	assert_int_equal(a.cmd->sense_len, 8 + s[7]);
	struct answer d = RUN(n, 0, 0x84, 4, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0);
	assert_int_equal(d.data[56], SCSI_CHECK_CONDITION);
	assert_memory_equal(d.data + 60, s, a.cmd->sense_len);
	assert_int_equal(be32(RUN(n, 0, 0x84, 4, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0).data), 0);
	bed_free(&a);
}

/* While a step reads its source, that can be read but not written: what arrives is what was there before; and nobody sees
 * the destination until the step is over. */
static void holds_still(void **state)
{
	static uint8_t before[256 * BS], after[BS];
	struct answer a, r, w, d;

	memset(before, 'b', sizeof(before));
	memset(after, 'a', sizeof(after));
	assert_good(bed_rw(n, 1, true, 0, 256, before, sizeof(before)));
	valve.hold = true;
	start_xcopy(&a, n, 1, 0, 0, 0, 256);
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	valve_release(0); /* the map; the read comes */
	bed_settle();
	assert_int_equal(valve.nheld, 1);
	assert_int_equal(valve.held[0]->req.op, BLK_READ);
	bed_start_cmd(bed_cmd(&w, n2, 1, CDB(0x2a, 0, 0, 0, 0, 10, 0, 0, 1), 0, BS), after);
	bed_start_cmd(bed_cmd(&r, n2, 1, CDB(0x28, 0, 0, 0, 0, 10, 0, 0, 1), BS, 0), NULL);
	bed_start_cmd(bed_cmd(&d, n2, 0, CDB(0x28, 0, 0, 0, 0, 10, 0, 0, 1), BS, 0), NULL);
	bed_settle();
	assert_int_equal(valve.nheld, 2); /* the copy's read, the other's; not the write */
	assert_int_equal(w.done + d.done, 0);
	valve_open();
	struct answer *all[] = { &a, &r, &w, &d };
	for (unsigned i = 0; i < 4; i++) {
		bed_until(&all[i]->done);
		assert_good(*all[i]);
	}
	assert_int_equal(d.data[0], 'b');
	assert_memory_equal(bed_rw(n, 0, false, 0, 256, NULL, sizeof(before)).data, before, sizeof(before));
	assert_int_equal(bed_rw(n, 1, false, 10, 1, NULL, BS).data[0], 'a');
	for (unsigned i = 0; i < 4; i++) {
		bed_free(all[i]);
		free(all[i]->data);
	}
}

/* A token from a unit with blocks of 512 bytes is written to one with 4096: offsets count in blocks of that one, and where
 * the token ends inside a block, the rest of the block is zeros; SBC-4 5.59.2. The other way round nothing is special. */
static void block_sizes(void **state)
{
	static uint8_t data[3 * 4096], have[3 * 4096];
	struct lu *big = bed_lu(&(struct lu_conf){ .bs = 4096, .wce = true }, bed_ram(SIZE));
	struct scsi_lun luns[3] = { { 0, lu[0] }, { 1, lu[1] }, { 2, big } };
	uint8_t token[TOKEN_BYTES];
	struct run r = { 100, 17 }, two = { 7, 2 }, three = { 7, 3 }, back = { 50, 16 };

	bed_map(luns, 3);
	for (unsigned i = 0; i < 3; i++)
		bed_ready(n, i);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / 512 + 1);
	assert_good(bed_rw(n, 0, true, 100, 17, data, 17 * 512));
	assert_good(populate(n, 0, 0, &r, 1, token));
	memset(have, 0xff, sizeof(have));
	assert_good(bed_rw(n, 2, true, 7, 3, have, sizeof(have)));
	assert_good(use(n, 2, token, 1, &two, 1, 0)); /* from byte 4096 on: 9 blocks of 512 */
	memset(have, 0, 8192);
	memcpy(have, data + 4096, 9 * 512);
	assert_memory_equal(bed_rw(n, 2, false, 7, 3, NULL, sizeof(have)).data, have, sizeof(have));
	assert_int_equal(be64(await(n, 2, 5) + 16), 2);
	assert_sense(use(n, 2, token, 1, &three, 1, 0), 0xa, 0x0d, 0x04);
	assert_int_equal(be64(await(n, 2, 5) + 16), 2);
	assert_good(populate(n, 2, 0, &two, 1, token));
	assert_good(use(n, 1, token, 0, &back, 1, 0));
	assert_memory_equal(bed_rw(n, 1, false, 50, 16, NULL, 8192).data, have, 8192);
	bed_map(luns, 2);
	bed_close(big);
}

/* --- parameter lists --- */

/* One byte, or two, of a good list changed; what it must end with, and the byte that the sense points to, -1 = none. */
static const struct {
	bool lid4;
	unsigned at;
	uint16_t value; /* big endian, at at and at + 1 */
	uint8_t key, asc, ascq;
	int points_to;
} wrong[] = {
	{ false, 1, 0x0800, 5, 0x26, 0x00, 1 },      /* LIST ID USAGE 01b */
	{ false, 1, 0x1800, 5, 0x26, 0x00, 0 },      /* 11b with a list identifier */
	{ false, 2, 0x0041, 5, 0x1a, 0x00, -1 },     /* half a CSCD descriptor */
	{ false, 14, 0x0001, 5, 0x1a, 0x00, -1 },    /* inline data that did not come */
	{ false, 16, 0xe500, 5, 0x26, 0x07, 16 },    /* IPv4 */
	{ false, 48, 0xe000, 5, 0x26, 0x07, 48 },    /* Fibre Channel */
	{ false, 16, 0xe401, 0xa, 0x0d, 0x03, 16 },  /* a tape */
	{ false, 24, 0x1234, 0xa, 0x0d, 0x02, 16 },  /* nobody's name */
	{ false, 46, 0x1000, 5, 0x26, 0x00, 45 },    /* blocks of 4096 bytes in a unit that has 512 */
	{ false, 80, 0x0000, 5, 0x26, 0x09, 80 },    /* block to stream */
	{ false, 80, 0x1000, 5, 0x26, 0x09, 80 },    /* filemarks */
	{ false, 82, 0x0010, 5, 0x1a, 0x00, -1 },    /* a descriptor length that is not the type's */
	{ false, 84, 0x0002, 0xa, 0x08, 0x04, 84 },  /* no such source */
	{ false, 86, 0xc000, 0xa, 0x08, 0x04, 86 },  /* the null unit */
	{ false, 92, 0x0001, 0xa, 0x00, 0x00, 80 },  /* a source beyond the medium */
	{ true, 0, 0x0200, 5, 0x26, 0x00, 0 },       /* PARAMETER LIST FORMAT */
	{ true, 2, 0x0040, 5, 0x26, 0x00, 2 },       /* HEADER CSCD DESCRIPTOR LIST LENGTH */
	{ true, 16, 0xfe00, 5, 0x26, 0x00, 16 },     /* HEADER CSCD DESCRIPTOR TYPE CODE */
	{ true, 15, 0x03ff, 5, 0x24, 0x00, -1 },     /* IMMED with G_SENSE */
	{ true, 44, 0x0700, 5, 0x1a, 0x00, -1 },     /* more segments than came */
};

/* Each mistake in a parameter list of EXTENDED COPY has its sense, and points to its byte; nothing is copied; SPC-4 6.4. */
static void lists(void **state)
{
	uint8_t p[160], block[BS];
	struct answer a;

	memset(block, 9, sizeof(block));
	assert_good(bed_rw(n, 0, true, 0, 1, block, BS));
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		uint32_t len = xcopy_list(p, wrong[i].lid4, false, 3, 0, 1, 0, 0, 1);
		put_be16(p + wrong[i].at, wrong[i].value);
		bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x83, wrong[i].lid4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
		bed_until(&a.done);
		const uint8_t *s = a.cmd->sense;
		if (a.status != SCSI_CHECK_CONDITION || a.key != wrong[i].key || a.asc != wrong[i].asc || a.ascq != wrong[i].ascq)
			fail_msg("row %u: status %x sense %x/%02x/%02x", i, a.status, a.key, a.asc, a.ascq);
		if (wrong[i].points_to < 0 ? s[15] >> 7 : s[15] != 0x80 || be16(s + 16) != wrong[i].points_to)
			fail_msg("row %u: points to %x %u", i, s[15], be16(s + 16));
		bed_free(&a);
	}
	assert_int_equal(bed_rw(n, 1, false, 0, 1, NULL, BS).data[0], 0);
}

/* Segments of the other types: image copy as far as both units go, bytes with offsets, a check of a descriptor; the unit that
 * the command was sent to needs no descriptor; G_SENSE tells with GOOD how many segments were done. */
static void segments(void **state)
{
	static uint8_t data[64 * BS];
	uint8_t p[48 + 28 + 32 + 12] = { [0] = 1, [3] = 32, [15] = 2, [16] = 0xff, [45] = 28 + 32 + 12 }, *s = p + 48;
	struct answer a;

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / BS + 1);
	assert_good(bed_rw(n, 0, true, BLOCKS - 64, 64, data, sizeof(data)));
	s[0] = 0x16; /* to the end */
	s[3] = 24;
	put_be32(s + 4, UINT32_MAX);
	put_be64(s + 8, BLOCKS - 64);
	put_be64(s + 16, 100);
	s += 28;
	s[0] = 0x0a; /* 1024 bytes from the second block of one pair to the first of another */
	s[3] = 28;
	put_be32(s + 4, UINT32_MAX);
	put_be32(s + 8, 1024);
	put_be64(s + 12, 100);
	put_be64(s + 20, 300);
	put_be16(s + 28, 512);
	s += 32;
	s[0] = 0x07;
	s[3] = 8;
	put_be16(s + 4, UINT16_MAX);
	bed_start_cmd(bed_cmd(&a, n, 0, CDB(0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p)), 0, sizeof(p)), p);
	bed_until(&a.done);
	assert_good(a);
	assert_int_equal(a.cmd->sense[2], 0x0f);
	assert_int_equal(a.cmd->sense[12] << 8 | a.cmd->sense[13], 0x0020);
	assert_int_equal(be16(a.cmd->sense + 10), 3);
	bed_free(&a);
	assert_memory_equal(bed_rw(n, 0, false, 100, 64, NULL, sizeof(data)).data, data, sizeof(data));
	assert_memory_equal(bed_rw(n, 0, false, 300, 2, NULL, 1024).data, data + 512, 1024);
	put_be16(p + 48 + 28 + 30, 100); /* not at a block */
	assert_sense(bed_run(n, 0, CDB(0x83, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p)), p, sizeof(p), 0), 0xa, 0x26, 0x0a);
}

static struct answer xcopy_to_lun0(struct scsi_nexus *by, uint32_t id)
{
	uint8_t p[160];
	uint32_t len = xcopy_list(p, false, false, id, 0, 1, 0, 0, 1);

	return bed_run(by, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
}

/* 16 copies at once and no more; each has its list identifier, which none may have twice in either format; results of the
 * oldest give way. */
static void many(void **state)
{
	struct answer a[COPY_RESULTS], last;
	uint8_t p[160], data[BS] = { 1 };

	assert_good(bed_rw(n, 0, true, 0, 1, data, BS));
	valve.hold = true;
	for (unsigned i = 0; i < COPY_RESULTS; i++) {
		uint32_t len = xcopy_list(p, i & 1, false, i, 0, 1, 0, 16 * i, 1);
		bed_start_cmd(bed_cmd(&a[i], n, 0, CDB(0x83, i & 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), 0, len), p);
	}
	bed_settle();
	assert_int_equal(valve.nheld, COPY_RESULTS);
	uint32_t len = xcopy_list(p, false, false, 99, 0, 1, 0, 0, 1);
	last = bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0);
	assert_int_equal(last.status, SCSI_BUSY);
	valve_release(0);
	bed_until(&a[0].done);
	len = xcopy_list(p, false, false, 2, 0, 1, 0, 0, 1); /* under way, as LID1 */
	assert_sense(bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0), 5, 0x00, 0x16);
	len = xcopy_list(p, false, false, 3, 0, 1, 0, 0, 1); /* under way, as LID4 */
	assert_sense(bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (uint8_t)len), p, len, 0), 5, 0x26, 0x00);
	valve_open();
	for (unsigned i = 0; i < COPY_RESULTS; i++) {
		bed_until(&a[i].done);
		assert_good(a[i]);
		bed_free(&a[i]);
		assert_good(RUN(n, 0, 0x84, 5, 0, 0, 0, (uint8_t)i, 0, 0, 0, 0, 0, 0, 0, 64));
	}
	assert_good(xcopy_to_lun0(n, 77));
	assert_sense(RUN(n, 0, 0x84, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64), 5, 0x24, 0x00);
	assert_good(RUN(n, 0, 0x84, 5, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 64));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TX(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(walk), TX(walk, setup_files), TX(walk, setup_mixed), TX(walk, setup_valve), T(opposite), TX(opposite, setup_mixed),
		T(ended_anywhere), TX(ended_anywhere, setup_mixed), T(zeros), T(refused), T(onto_itself),
		TX(cancelled_midway, setup_valve), T(old_age), T(rights), TX(segment_details, setup_valve), T(lists), T(segments),
		TX(many, setup_valve), TX(holds_still, setup_valve), T(block_sizes),
	};

	rng = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : 42;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Copies and tokens: random ones against a model, aborted at any step, and what tokens are refused for and end by. */
#include "copy_bed.h"

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

/* --- ends --- */

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

/* A unit that closes makes no more tokens, whose leases would keep it: POPULATE TOKEN whose data comes only then. */
static void made_too_late(void **state)
{
	uint8_t p[32] = { 0, 30 };
	struct answer a;
	int gone = 0;

	put_be16(p + 14, 16);
	put_be32(p + 24, 8);
	struct scsi_cmd *c = bed_cmd(&a, n2, 0, CDB(0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32), 0, 32);
	scsi_begin(c);
	bed_map(&(struct scsi_lun){ 1, lu[1] }, 1);
	lu_close(lu[0], bed_count, &gone);
	lu[0] = NULL;
	bed_settle();
	assert_int_equal(scsi_data_alloc(c, 32), 0);
	scsi_data_put(c, 0, p, 32);
	scsi_exec(c);
	bed_until(&a.done);
	assert_sense(a, 5, 0x55, 0x0c);
	bed_free(&a);
	bed_until(&gone);
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TX(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(walk), TX(walk, setup_files), TX(walk, setup_mixed), TX(walk, setup_valve), T(ended_anywhere),
		TX(ended_anywhere, setup_mixed), T(zeros), T(refused), T(onto_itself), TX(cancelled_midway, setup_valve), T(old_age),
		T(rights), T(made_too_late), T(block_sizes),
	};

	rng = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : 42;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

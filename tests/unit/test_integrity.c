/* SPDX-License-Identifier: BSD-3-Clause
 * The integrity filter: a medium that changed is an error and never data; what crashes leave is readable, belongs to
 * its tuple and is one of the versions since the last flush; atomic writes are whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "block/filter/filter.h"
#include "block/filter/integrity.h"
#include "blktest.h"

enum { UNIT = 512, DISK = 4 << 20, NUNITS = DISK / UNIT, BUF = 4 << 20 };

static struct loop *loop;
static char buf[BUF], back[BUF];
static struct bt_io one;

static struct blk *ram(uint64_t size)
{
	struct blk *b;
	char text[32];

	snprintf(text, sizeof(text), "size=%llu", (unsigned long long)size);
	if (bt_open(&b, "ram", text, NULL) < 0)
		fail_msg("%s", bt_error);
	return b;
}

static struct blk *over(const char *options, struct blk *child)
{
	struct blk *b;

	if (bt_open(&b, "integrity", options, child) < 0)
		fail_msg("%s", bt_error);
	return b;
}

static struct blk *over_store(struct blk *data, struct blk *store)
{
	struct err e = { 0 };
	struct blk *b;

	store->caps &= ~(uint32_t)BLK_VOLATILE; /* it plays a file that outlives crashes */
	if (integrity_open_over(&b, data, store, UNIT, &e) < 0)
		fail_msg("%s", e.text);
	return b;
}

static int run(struct blk *b, enum blk_op op, uint64_t off, uint64_t len, char *data)
{
	return bt_do(loop, b, op, 0, off, len, data);
}

/* Like run(), with tuples and any flags; where it failed is in one.io.fail_off. */
static int run_with(struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len, char *data,
	uint8_t *tuples)
{
	struct bt_io *t = &one;

	t->loop = t->io.loop = loop;
	bt_start(t, loop, b, BLK_FLUSH, 0, 0, 0, NULL);
	assert_int_equal(bt_wait(t), 0);
	bt_start(t, loop, b, BLK_MAP, 0, 0, UNIT, NULL); /* fills what bt_start() knows */
	bt_wait(t);
	t->done = false;
	t->iov[0] = (struct iovec){ data, len };
	t->io.req = (struct blk_req){ .op = op, .flags = flags | (tuples ? BLK_TUPLES : 0u), .off = off, .len = len,
		.iov = t->iov, .niov = 1, .tuples = tuples };
	blk_submit(b, &t->io, t->io.frame[0].done, t);
	return bt_wait(t);
}

/* Proves that reads give what was written, with zeros where it was zeroed, for both sizes of units and all lengths. */
static void test_model(void **state)
{
	static const char *const options[] = { "store=memory", "store=memory,unit=4096" };
	static char model[DISK];

	for (unsigned k = 0; k < 2; k++) {
		struct blk *b = over(options[k], ram(DISK));
		uint64_t seed = 5 + k, unit = k ? 4096 : UNIT;
		memset(model, 0, DISK);
		for (int i = 0; i < 600; i++) {
			uint64_t off = bt_random(&seed) % (DISK / unit) * unit;
			uint64_t len = (bt_random(&seed) % (i % 20 ? 40 : 4000) + 1) * unit;
			len = MIN(len, DISK - off);
			switch (bt_random(&seed) % 8) {
			case 0:
				assert_int_equal(run(b, i % 2 ? BLK_ZERO : BLK_DISCARD, off, len, NULL), 0);
				memset(model + off, 0, len);
				break;
			case 1: assert_int_equal(run(b, BLK_FLUSH, 0, 0, NULL), 0); break;
			case 2: case 3: case 4:
				bt_fill(buf, len, bt_random(&seed));
				assert_int_equal(bt_do(loop, b, BLK_WRITE, i % 3 ? BLK_PAGES : 0, off, len, buf), 0);
				memcpy(model + off, buf, len);
				break;
			default:
				assert_int_equal(bt_do(loop, b, BLK_READ, i % 3 ? BLK_LEND : 0, off, len, back), 0);
				assert_memory_equal(back, model + off, len);
			}
		}
		blk_close(b);
	}
}

/* Proves that any changed byte of the medium is -EBADMSG at its block, in reads of any length, that the neighbours
 * can be read, and that a new write heals it. */
static void test_flip_each_byte(void **state)
{
	struct blk *b = over("store=memory", ram(DISK)), *medium = b->child[0];

	bt_fill(buf, 8192, 1);
	assert_int_equal(run(b, BLK_WRITE, 0, 8192, buf), 0);
	for (int i = 0; i < UNIT; i++) {
		char was = buf[1024 + i], bad[UNIT];
		memcpy(bad, buf + 1024, UNIT);
		bad[i] = (char)(was ^ 1 << i % 8);
		assert_int_equal(run(medium, BLK_WRITE, 1024, UNIT, bad), 0);
		bt_start(&one, loop, b, BLK_READ, i % 2 ? BLK_LEND : 0, i % 3 ? 0 : 1024, i % 3 ? 8192 : UNIT, back);
		assert_int_equal(bt_wait(&one), -EBADMSG);
		assert_int_equal(one.io.fail_off, 1024);
		assert_int_equal(run(b, BLK_READ, 0, 1024, back), 0);
		assert_int_equal(run(b, BLK_READ, 1536, 4096, back), 0);
		assert_int_equal(run(b, BLK_WRITE, 1024, UNIT, buf + 1024), 0);
		assert_int_equal(run(b, BLK_READ, 0, 8192, back), 0);
		assert_memory_equal(buf, back, 8192);
	}
	bt_fill(back, UNIT, 9); /* a block that was never written reads as zeros or not at all */
	assert_int_equal(run(medium, BLK_WRITE, 1 << 20, UNIT, back), 0);
	assert_int_equal(run(b, BLK_READ, 1 << 20, UNIT, back), -EBADMSG);
	blk_close(b);
}

/* Proves that a version that was overwritten and flushed is noticed when it comes back. */
static void test_stale(void **state)
{
	struct blk *b = over("store=memory", ram(DISK)), *medium = b->child[0];
	static char first[4096], second[4096];

	bt_fill(first, 4096, 1);
	bt_fill(second, 4096, 2);
	assert_int_equal(run(b, BLK_WRITE, 0, 4096, first), 0);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(run(b, BLK_WRITE, 0, 4096, second), 0);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(run(medium, BLK_WRITE, 0, 4096, first), 0);
	assert_int_equal(run(b, BLK_READ, 0, 4096, back), -EBADMSG);
	assert_int_equal(run(medium, BLK_WRITE, 0, 4096, second), 0);
	assert_int_equal(run(b, BLK_READ, 0, 4096, back), 0);
	blk_close(b);
}

/* Proves that a flipped byte of an entry is never taken for good data: what is read is right or an error. */
static void test_damaged_entry(void **state)
{
	struct blk *data = ram(DISK), *store = ram(4 << 20), *b = over_store(data, store);
	uint8_t page[SUM_PAGE];
	int errors = 0;

	bt_fill(buf, UNIT, 1);
	assert_int_equal(run(b, BLK_WRITE, 0, UNIT, buf), 0);
	for (int i = 0; i < SUM_ENTRY; i++) {
		b->child[0] = b->child[1] = NULL;
		blk_close(b); /* a crash: nothing was put in order */
		assert_int_equal(run(store, BLK_READ, SUM_ENTRIES_AT, SUM_PAGE, (char *)page), 0);
		page[i] ^= 0x10;
		assert_int_equal(run(store, BLK_WRITE, SUM_ENTRIES_AT, SUM_PAGE, (char *)page), 0);
		b = over_store(data, store);
		int r = run(b, BLK_READ, 0, UNIT, back);
		if (r == 0)
			assert_memory_equal(buf, back, UNIT);
		else
			assert_int_equal(r, -EBADMSG);
		errors += r < 0;
		assert_int_equal(run(b, BLK_WRITE, 0, UNIT, buf), 0);
		assert_int_equal(run(b, BLK_READ, 0, UNIT, back), 0);
	}
	assert_true(errors > 0 && errors < SUM_ENTRY);
	blk_close(b);
}

/* Proves that tuples come back with their blocks, and are FFh for blocks written or zeroed without any. */
static void test_tuples(void **state)
{
	struct blk *b = over("store=memory", ram(DISK));
	uint8_t in[8 * 16], out[8 * 16];

	assert_true(b->caps & BLK_CAN_TUPLES);
	bt_fill((char *)in, sizeof(in), 3);
	bt_fill(buf, 8192, 4);
	assert_int_equal(run_with(b, BLK_WRITE, 0, 4096, 8192, buf, in), 0);
	assert_int_equal(run_with(b, BLK_READ, 0, 4096, 8192, back, out), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_memory_equal(buf, back, 8192);
	assert_int_equal(run_with(b, BLK_WRITE, 0, 4096, UNIT, buf, NULL), 0);
	assert_int_equal(run_with(b, BLK_ZERO, 0, 4096 + UNIT, UNIT, NULL, NULL), 0);
	memset(in, 0xff, 16);
	assert_int_equal(run_with(b, BLK_READ, 0, 4096, 8192, back, out), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(run_with(b, BLK_READ, 0, 0, UNIT, back, out), 0);
	assert_memory_equal(in, out, 8);
	blk_close(b);
}

/* Proves that a marked block cannot be read until it is written, also after a restart. */
static void test_marked_bad(void **state)
{
	struct blk *data = ram(DISK), *store = ram(4 << 20), *b = over_store(data, store);

	bt_fill(buf, 4096, 1);
	assert_int_equal(run(b, BLK_WRITE, 0, 4096, buf), 0);
	assert_int_equal(run_with(b, BLK_ZERO, BLK_MARK_BAD, 1024, UNIT, NULL, NULL), 0);
	b->child[0] = b->child[1] = NULL;
	blk_close(b);
	b = over_store(data, store);
	bt_start(&one, loop, b, BLK_READ, 0, 0, 4096, back);
	assert_int_equal(bt_wait(&one), -ENOTRECOVERABLE);
	assert_int_equal(one.io.fail_off, 1024);
	assert_int_equal(run(b, BLK_WRITE, 1024, UNIT, buf), 0);
	assert_int_equal(run(b, BLK_READ, 0, 4096, back), 0);
	blk_close(b);
}

/* Proves that a store in a file is found again, that the image stays a raw image, that the wrong store is refused with
 * a sentence, and that an image with data can be given a store. */
static void test_files(void **state)
{
	const char *dir = bt_mkdir();
	char path[300], options[400], more[400];
	struct blk *file, *b;

	snprintf(path, sizeof(path), "path=%s/disk,size=%d", dir, DISK);
	snprintf(options, sizeof(options), "store=%s/sums", dir);
	assert_int_equal(bt_open(&file, "file", path, NULL), 0);
	b = over(options, file);
	bt_fill(buf, 8192, 7);
	assert_int_equal(run(b, BLK_WRITE, 4096, 8192, buf), 0);
	blk_close(b);
	assert_int_equal(bt_open(&file, "file", path, NULL), 0);
	assert_int_equal(run(file, BLK_READ, 4096, 8192, back), 0);
	assert_memory_equal(buf, back, 8192);
	b = over(options, file);
	assert_int_equal(run(b, BLK_READ, 4096, 8192, back), 0);
	assert_int_equal(run(file, BLK_WRITE, 8192, 1, "x"), 0);
	assert_int_equal(run(b, BLK_READ, 4096, 8192, back), -EBADMSG);
	blk_close(b);

	char image[280];
	snprintf(image, sizeof(image), "%s/disk", dir);
	snprintf(path, sizeof(path), "path=%s", image);
	assert_int_equal(truncate(image, DISK + 65536), 0); /* a disk that grew: its store grows with it */
	assert_int_equal(bt_open(&file, "file", path, NULL), 0);
	b = over(options, file);
	assert_int_equal(blk_bytes(b), DISK + 65536);
	assert_int_equal(run(b, BLK_READ, DISK, 65536, back), 0);
	assert_int_equal(run(b, BLK_WRITE, DISK + 4096, 8192, buf), 0);
	assert_int_equal(run(file, BLK_WRITE, DISK + 512, 1, "z"), 0);
	assert_int_equal(run(b, BLK_READ, DISK, 65536, back), -EBADMSG);
	blk_close(b);
	assert_int_equal(truncate(image, DISK), 0); /* and one that was cut short is not taken for it */
	assert_int_equal(bt_open(&file, "file", path, NULL), 0);
	assert_int_equal(bt_open(&b, "integrity", options, file), -EINVAL);
	assert_non_null(strstr(bt_error, "cut short"));
	blk_close(file);
	assert_int_equal(truncate(image, DISK + 65536), 0);

	snprintf(more, sizeof(more), "store=%s/sums", dir);
	struct blk *other = ram(DISK / 2);
	assert_int_equal(bt_open(&b, "integrity", more, other), -EINVAL);
	assert_non_null(strstr(bt_error, "memory"));
	blk_close(other);
	assert_int_equal(bt_open(&file, "file", path, NULL), 0);
	snprintf(more, sizeof(more), "store=%s/sums,unit=4096", dir);
	assert_int_equal(bt_open(&b, "integrity", more, file), -EINVAL);
	assert_non_null(strstr(bt_error, "512"));
	snprintf(more, sizeof(more), "store=%s/fresh", dir);
	b = over(more, file);
	assert_int_equal(run(b, BLK_READ, 0, 65536, back), 0);
	assert_int_equal(run(b, BLK_WRITE, 4096, 8192, buf), 0);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, NULL), 0); /* until then what was there before counts, whatever it was */
	assert_int_equal(run(file, BLK_WRITE, 8192, 1, "y"), 0);
	assert_int_equal(run(b, BLK_READ, 4096, 8192, back), -EBADMSG);
	blk_close(b);
	bt_rmdir();
}

/* ---- crashes ------------------------------------------------------------------------------------------- */

enum { OPS = 12, ROUNDS = 4, HISTORY = 400 };

/* What each unit may hold: the operations on it, by number, from the newest that is surely durable on. */
struct op_seen { uint64_t off, len; bool zero, atomic; };
static struct op_seen op_seen[HISTORY];
static unsigned nop;
static unsigned floor_of[NUNITS], newest[NUNITS], done_newest[NUNITS], now_is[NUNITS];

struct crash_io {
	struct bt_io bt;
	unsigned op, flush_at;
	char data[65536];
	uint8_t tuples[65536 / UNIT * 8];
};
static struct crash_io cio[OPS];
static unsigned snap[OPS][NUNITS];

static void unit_fill(char *p, unsigned op, uint64_t unit)
{
	bt_fill(p, UNIT, op * 100003ull + unit);
	memcpy(p, &op, 4);
}

static void tuple_fill(uint8_t *p, unsigned op, uint64_t unit)
{
	put_be32(p, op);
	put_be32(p + 4, (uint32_t)unit);
}

static void crash_done(struct blk_io *io, void *ctx)
{
	struct crash_io *c = ctx;

	c->bt.done = true;
	if (io->status < 0)
		return;
	if (io->req.op == BLK_FLUSH) {
		for (unsigned i = 0; i < NUNITS; i++)
			floor_of[i] = MAX(floor_of[i], snap[c - cio][i]);
		return;
	}
	for (uint64_t i = io->req.off / UNIT; i < (io->req.off + io->req.len) / UNIT; i++)
		done_newest[i] = MAX(done_newest[i], c->op);
}

static void crash_start(struct crash_io *c, struct blk *b, uint64_t *seed)
{
	unsigned what = bt_random(seed) % 16;
	uint64_t off = bt_random(seed) % 96 * UNIT, len = (bt_random(seed) % 24 + 1) * UNIT;
	struct blk_req *r = &c->bt.io.req;

	c->bt.done = false;
	c->bt.loop = c->bt.io.loop = loop;
	if (what < 2) {
		memcpy(snap[c - cio], done_newest, sizeof(done_newest));
		*r = (struct blk_req){ .op = BLK_FLUSH };
		blk_submit(b, &c->bt.io, crash_done, c);
		return;
	}
	if (what == 3) /* large: by an intent */
		len = DISK - off;
	c->op = ++nop;
	assert_true(nop < HISTORY);
	op_seen[nop] = (struct op_seen){ off, len, what < 5, what > 11 };
	for (uint64_t i = 0; i < len / UNIT; i++)
		newest[off / UNIT + i] = nop;
	*r = (struct blk_req){ .op = what < 5 ? BLK_ZERO : BLK_WRITE, .off = off, .len = len };
	if (what == 4)
		r->op = BLK_DISCARD;
	if (what >= 5) {
		for (uint64_t i = 0; i < len / UNIT; i++) {
			unit_fill(c->data + i * UNIT, nop, off / UNIT + i);
			tuple_fill(c->tuples + i * 8, nop, off / UNIT + i);
		}
		c->bt.iov[0] = (struct iovec){ c->data, len };
		r->iov = c->bt.iov;
		r->niov = 1;
		r->tuples = c->tuples;
		r->flags = BLK_TUPLES | (what > 11 ? BLK_ATOMIC : 0u) | (what == 5 ? BLK_FUA : 0u);
	}
	blk_submit(b, &c->bt.io, crash_done, c);
}

/* Was the unit zeroed, or never written, by an operation from `from` on? Its number, or -1. */
static int zeroed_by(unsigned unit, unsigned from, unsigned to)
{
	uint64_t at = (uint64_t)unit * UNIT;

	for (unsigned i = to; i > 0 && i >= from; i--)
		if (op_seen[i].zero && at >= op_seen[i].off && at < op_seen[i].off + op_seen[i].len)
			return (int)i;
	return from == 0 ? 0 : -1;
}

static void check_unit(unsigned unit, const char *data, const uint8_t *tuple, uint64_t seed)
{
	static const char zeros[UNIT];
	uint8_t want[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	char full[UNIT];
	unsigned op;

	memcpy(&op, data, 4);
	if (!memcmp(data, zeros, UNIT)) {
		int by = zeroed_by(unit, floor_of[unit], newest[unit]);
		if (by < 0)
			fail_msg("seed %llu: unit %u is zeros, and was not zeroed since operation %u",
				(unsigned long long)seed, unit, floor_of[unit]);
		op = (unsigned)by;
	} else {
		if (op < floor_of[unit] || op > newest[unit])
			fail_msg("seed %llu: unit %u has version %u, not one of %u to %u", (unsigned long long)seed,
				unit, op, floor_of[unit], newest[unit]);
		unit_fill(full, op, unit);
		assert_memory_equal(full, data, UNIT);
		tuple_fill(want, op, unit);
	}
	assert_memory_equal(want, tuple, 8);
	now_is[unit] = op;
}

/* All of an atomic write, or nothing of it. */
static void check_atomic(unsigned from, uint64_t seed)
{
	for (unsigned i = from; i <= nop; i++) {
		const struct op_seen *o = &op_seen[i];
		bool some = false, older = false;
		for (uint64_t u = o->off / UNIT; o->atomic && u < (o->off + o->len) / UNIT; u++) {
			some |= now_is[u] == i;
			older |= now_is[u] < i;
		}
		if (some && older)
			fail_msg("seed %llu: atomic write %u was torn", (unsigned long long)seed, i);
	}
}

static void check_all(struct blk *b, unsigned from, uint64_t seed)
{
	static uint8_t tuples[NUNITS * 8];

	if (run_with(b, BLK_READ, 0, 0, DISK, back, tuples) < 0)
		fail_msg("seed %llu: byte %llu cannot be read", (unsigned long long)seed,
			(unsigned long long)one.io.fail_off);
	for (unsigned u = 0; u < NUNITS; u++)
		check_unit(u, back + (size_t)u * UNIT, tuples + u * 8, seed);
	check_atomic(from, seed);
	for (unsigned u = 0; u < NUNITS; u++)
		floor_of[u] = newest[u] = done_newest[u] = now_is[u];
}

static struct blk *crash_over(struct blk *b)
{
	struct blk *c;

	assert_int_equal(bt_open(&c, "crash", "", b), 0);
	return c;
}

/* Random operations, several at once, then the power goes at some moment. */
static void crash_once(struct blk *data, struct blk *store, uint64_t seed)
{
	struct blk *dc = crash_over(data), *sc = crash_over(store), *b = over_store(dc, sc);
	unsigned from = nop + 1;

	check_all(b, from, seed);
	for (int i = 0; i < OPS; i++)
		cio[i].bt.done = true;
	for (uint64_t n = 20 + bt_random(&seed) % 40; n; n--) {
		struct crash_io *c = &cio[bt_random(&seed) % OPS];
		if (c->bt.done)
			crash_start(c, b, &seed);
		for (uint64_t turns = bt_random(&seed) % 12; turns; turns--)
			loop_turn(loop, 0);
	}
	bool data_first = bt_random(&seed) & 1;
	crash_cut(data_first ? dc : sc, loop, bt_random(&seed));
	crash_cut(data_first ? sc : dc, loop, bt_random(&seed));
	for (int i = 0; i < OPS; i++)
		while (!cio[i].bt.done)
			loop_turn(loop, 0);
	dc->child[0] = sc->child[0] = NULL;
	blk_close(b);
}

/* Proves the crash rule, over many seeds and over crash after crash: no block becomes unreadable, each is one of the
 * versions since the last flush with its own tuple, and atomic writes are whole. */
static void test_crashes(void **state)
{
	const char *env = getenv("LUNETTE_SEEDS");
	uint64_t seeds = env ? strtoull(env, NULL, 10) : 60;

	for (uint64_t seed = 1; seed <= seeds; seed++) {
		struct blk *data = ram(DISK), *store = ram(4 << 20), *b;
		nop = 0;
		memset(floor_of, 0, sizeof(floor_of));
		memset(newest, 0, sizeof(newest));
		memset(done_newest, 0, sizeof(done_newest));
		b = over_store(data, store); /* the store is made while the disk can say that it is empty */
		b->child[0] = b->child[1] = NULL;
		blk_close(b);
		for (int round = 0; round < ROUNDS; round++)
			crash_once(data, store, seed * 100 + (uint64_t)round);
		b = over_store(data, store);
		check_all(b, 1, seed);
		bt_fill(back, UNIT, 1);
		assert_int_equal(run(data, BLK_WRITE, 40 * UNIT, UNIT, back), 0);
		assert_int_equal(run(b, BLK_READ, 40 * UNIT, UNIT, back), -EBADMSG); /* a crash excuses no corruption */
		blk_close(b);
	}
}

static struct blk *fault(const char *options, struct blk *child)
{
	struct blk *b;

	assert_int_equal(bt_open(&b, "fault", options, child), 0);
	return b;
}

/* Opens both again, as after a crash or not. */
static struct blk *again(struct blk *b, struct blk *data, struct blk *store, bool crash)
{
	if (crash)
		(*(struct sums **)b->priv)->read_only = true; /* nothing is closed in order */
	b->child[0] = b->child[1] = NULL;
	blk_close(b);
	return over_store(data, store);
}

/* Zeroing much that fails: what is written to that range afterwards stays when the disk is opened again. */
static void test_failed_zero(void **state)
{
	static const char *const faults[] = { "op=zero,nth=1", "op=flush,nth=1" };

	for (unsigned k = 0; k < ARRAY_LEN(faults); k++) {
		struct blk *data = fault(faults[k], ram(DISK)), *store = ram(4 << 20), *b = over_store(data, store);
		assert_int_equal(run(b, BLK_ZERO, 0, 3 << 20, NULL), -EIO);
		bt_fill(buf, 8192, 3);
		assert_int_equal(run(b, BLK_WRITE, 1 << 20, 8192, buf), 0);
		assert_int_equal(run(b, BLK_FLUSH, 0, 0, NULL), 0);
		b = again(b, data, store, true);
		assert_int_equal(run(b, BLK_READ, 1 << 20, 8192, back), 0);
		assert_memory_equal(buf, back, 8192);
		assert_int_equal(run(b, BLK_ZERO, 0, 3 << 20, NULL), 0);
		blk_close(b);
	}
}

/* The intent of such a zeroing cannot be taken back: the range takes no writes until the disk is opened again, which
 * zeroes it; the rest of the disk goes on. */
static void test_stuck_zero(void **state)
{
	struct blk *data = ram(DISK), *store = ram(4 << 20), *bad = fault("op=write,nth=2,count=0,off=8192,len=4096", store);
	struct blk *b = over_store(data, bad);

	bt_fill(buf, 8192, 3);
	assert_int_equal(run(b, BLK_ZERO, 0, 3 << 20, NULL), -EIO);
	assert_int_equal(run(b, BLK_WRITE, 1 << 20, 8192, buf), -EIO);
	assert_int_equal(run(b, BLK_ZERO, 1 << 20, 3 << 20, NULL), -EIO);
	assert_int_equal(run(b, BLK_WRITE, 3 << 20, 8192, buf), 0);
	assert_int_equal(run(b, BLK_READ, 0, 3 << 20, back), 0);
	b = again(b, data, store, false);
	bad->child[0] = NULL;
	blk_close(bad);
	assert_int_equal(run(b, BLK_WRITE, 1 << 20, 8192, buf), 0);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, NULL), 0);
	b = again(b, data, store, true);
	for (uint64_t off = 1 << 20; off <= 3 << 20; off += 2 << 20) {
		assert_int_equal(run(b, BLK_READ, off, 8192, back), 0);
		assert_memory_equal(buf, back, 8192);
	}
	blk_close(b);
}

static int setup(void **state)
{
	struct err e;

	if (page_arena_init(128 << 20, &e) < 0)
		return -1;
	loop = loop_new(&loop_epoll, 0, &e);
	return loop ? 0 : -1;
}

static int teardown(void **state)
{
	work_fini();
	integrity_fini();
	loop_free(loop);
	page_arena_fini();
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_flip_each_byte),
		cmocka_unit_test(test_stale),
		cmocka_unit_test(test_damaged_entry),
		cmocka_unit_test(test_tuples),
		cmocka_unit_test(test_marked_bad),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_failed_zero), cmocka_unit_test(test_stuck_zero), cmocka_unit_test(test_crashes),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * The filters that make a medium fail, wait and lose power. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "block/filter/filter.h"
#include "blktest.h"

enum { SECTOR = 512, DISK = 256 << 10, SECTORS = DISK / SECTOR };

static struct loop *loop;
static char buf[DISK];

static struct blk *ram_below(const char *filter, const char *options)
{
	struct blk *b;

	assert_int_equal(bt_open(&b, "ram", "size=256KiB", NULL), 0);
	if (bt_open(&b, filter, options, b) < 0)
		fail_msg("%s", bt_error);
	return b;
}

static int run(struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len)
{
	return bt_do(loop, b, op, flags, off, len, buf);
}

/* One of everything; returns how many failed, and checks that a failure is the one that was asked for. */
static int one_of_each(struct blk *b)
{
	static const struct { enum blk_op op; uint32_t flags; } steps[] = {
		{ BLK_WRITE, BLK_PAGES }, { BLK_WRITE, BLK_FUA }, { BLK_FLUSH, 0 }, { BLK_READ, BLK_LEND },
		{ BLK_READ, 0 }, { BLK_MAP, 0 }, { BLK_ZERO, 0 }, { BLK_DISCARD, 0 },
	};
	int failed = 0;

	for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
		bool flush = steps[i].op == BLK_FLUSH;
		int r = run(b, steps[i].op, steps[i].flags, flush ? 0 : 4096, flush ? 0 : 32768);
		assert_true(r == 0 || r == -ENOSPC);
		failed += r < 0;
	}
	return failed;
}

/* Proves that the n-th request fails and only that, for each n until nothing fails, before and after the medium
 * did the work, and that no page is lost. */
static void test_fault_each(void **state)
{
	static const char *const options[] = { "errno=ENOSPC", "errno=ENOSPC,after" };

	for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
		uint64_t used = page_used_bytes(), n = 1;
		struct blk *b = ram_below("fault", options[i]);
		for (;; n++) {
			fault_arm(b, n);
			if (!one_of_each(b))
				break;
			assert_int_equal(fault_seen(b), 8);
		}
		assert_int_equal(n, 9);
		blk_close(b);
		assert_int_equal(page_used_bytes(), used);
	}
}

/* Proves that a bad range fails what touches it, names its first byte, and leaves the rest alone. */
static void test_fault_range(void **state)
{
	struct blk *b = ram_below("fault", "op=read,nth=1,count=0,off=8KiB,len=1KiB");
	static struct bt_io t;

	assert_int_equal(run(b, BLK_WRITE, 0, 0, DISK), 0);
	assert_int_equal(run(b, BLK_READ, 0, 0, 8192), 0);
	assert_int_equal(run(b, BLK_READ, 0, 9216, 8192), 0);
	for (int i = 0; i < 3; i++) {
		bt_start(&t, loop, b, BLK_READ, 0, 4096, 8192, buf);
		assert_int_equal(bt_wait(&t), -EIO);
		assert_int_equal(t.io.fail_off, 8192);
	}
	bt_start(&t, loop, b, BLK_READ, 0, 8704, 512, buf);
	assert_int_equal(bt_wait(&t), -EIO);
	assert_int_equal(t.io.fail_off, 8704);
	blk_close(b);
}

/* Proves that a held read ends after a write that began later, and still ends. */
static void test_delay(void **state)
{
	struct blk *b = ram_below("delay", "time=20ms,op=read");
	static struct bt_io r, w;

	bt_start(&r, loop, b, BLK_READ, 0, 0, 512, buf);
	bt_start(&w, loop, b, BLK_WRITE, 0, 4096, 512, buf + 4096);
	assert_int_equal(bt_wait(&w), 0);
	assert_false(r.done);
	assert_int_equal(bt_wait(&r), 0);
	blk_close(b);
}

static void fill(char what)
{
	memset(buf, what, DISK);
}

/* Cuts the power below `b` and opens what is left: the child of a crash filter is a disk of its own. */
static struct blk *after_cut(struct blk *b, uint64_t seed)
{
	crash_cut(b, loop, seed);
	assert_true(crash_is_off(b));
	assert_int_equal(run(b, BLK_READ, 0, 0, 512), -EIO);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), -EIO);
	struct blk *left = b->child[0];
	b->child[0] = NULL;
	blk_close(b);
	return left;
}

/* What a cut can leave of sectors that were flushed with 'a' and then written with 'b' and partly 'c'. */
struct seen {
	int a, b, c, torn;
};

static void cut_once(uint64_t seed, struct seen *seen)
{
	struct blk *b = ram_below("crash", "");
	int kinds;

	fill('a');
	assert_int_equal(run(b, BLK_WRITE, 0, 0, DISK), 0);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), 0);
	fill('b');
	assert_int_equal(run(b, BLK_WRITE, BLK_PAGES, 0, DISK / 2), 0);
	fill('c');
	assert_int_equal(run(b, BLK_WRITE, 0, 0, DISK / 4), 0);
	assert_int_equal(run(b, BLK_READ, BLK_LEND, 0, DISK), 0);
	assert_int_equal(buf[0], 'c');
	assert_int_equal(buf[DISK / 4], 'b');
	assert_int_equal(buf[DISK / 2], 'a');
	b = after_cut(b, seed);
	assert_int_equal(run(b, BLK_READ, 0, 0, DISK), 0);
	kinds = 0;
	for (int i = 0; i < SECTORS; i++) {
		char k = buf[i * SECTOR];
		for (int j = 0; j < SECTOR; j++)
			assert_int_equal(buf[i * SECTOR + j], k);
		assert_true(k == 'a' || (k == 'b' && i < SECTORS / 2) || (k == 'c' && i < SECTORS / 4));
		seen->a += k == 'a' && i < SECTORS / 2;
		seen->b += k == 'b';
		seen->c += k == 'c';
		if (i < SECTORS / 4)
			kinds |= 1 << (k - 'a');
	}
	seen->torn += (kinds & (kinds - 1)) != 0;
	blk_close(b);
}

/* Proves that a cut leaves what was flushed, that of the rest each sector is wholly one of the versions since,
 * and that over seeds every fate occurs: kept, lost, torn. */
static void test_crash_fates(void **state)
{
	struct seen seen = { 0 };
	uint64_t used = page_used_bytes();

	for (uint64_t seed = 1; seed <= 60; seed++)
		cut_once(seed, &seen);
	assert_true(seen.a && seen.b && seen.c && seen.torn);
	assert_true(seen.torn < 60);
	assert_int_equal(page_used_bytes(), used);
}

/* Proves that one seed repeats exactly. */
static void test_crash_repeats(void **state)
{
	struct seen a = { 0 }, b = { 0 };

	for (uint64_t seed = 7; seed < 12; seed++) {
		cut_once(seed, &a);
		cut_once(seed, &b);
		assert_memory_equal(&a, &b, sizeof(a));
	}
}

/* Proves that a FUA write survives every cut and no write before it does so because of it. */
static void test_crash_fua(void **state)
{
	int lost = 0;

	for (uint64_t seed = 1; seed <= 30; seed++) {
		struct blk *b = ram_below("crash", "");
		fill('x');
		assert_int_equal(run(b, BLK_WRITE, 0, 0, 8192), 0);
		fill('y');
		assert_int_equal(run(b, BLK_WRITE, BLK_FUA, 4096, 8192), 0);
		b = after_cut(b, seed);
		assert_int_equal(run(b, BLK_READ, 0, 0, 16384), 0);
		for (int i = 4096; i < 12288; i++)
			assert_int_equal(buf[i], 'y');
		lost += buf[0] == 0;
		blk_close(b);
	}
	assert_true(lost > 0);
}

/* Proves that the power goes at the flush that was named, that it is not acknowledged, and that those before
 * were kept. */
static void test_crash_at_flush(void **state)
{
	struct blk *b = ram_below("crash", "flush=3,seed=5");

	for (int i = 1; i <= 3; i++) {
		fill((char)i);
		assert_int_equal(run(b, BLK_WRITE, 0, 4096 * (uint64_t)i, 4096), 0);
		assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), i < 3 ? 0 : -EIO);
		assert_int_equal(crash_is_off(b), i == 3);
	}
	b = after_cut(b, 5);
	assert_int_equal(run(b, BLK_READ, 0, 0, 16384), 0);
	for (int i = 1; i < 3; i++)
		assert_int_equal(buf[4096 * i + 17], i);
	blk_close(b);
}

static int setup(void **state)
{
	struct err e;

	if (page_arena_init(64 << 20, &e) < 0)
		return -1;
	loop = loop_new(&loop_epoll, 0, &e);
	return loop ? 0 : -1;
}

static int teardown(void **state)
{
	work_fini(); /* first: a worker may still be about to wake the loop */
	loop_free(loop);
	page_arena_fini();
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fault_each),
		cmocka_unit_test(test_fault_range),
		cmocka_unit_test(test_delay),
		cmocka_unit_test(test_crash_fates),
		cmocka_unit_test(test_crash_repeats),
		cmocka_unit_test(test_crash_fua),
		cmocka_unit_test(test_crash_at_flush),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * The RAM disk: pages that are taken, lent and swapped, by several loops at once. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "blktest.h"

static struct loop *loop;

static struct blk *open_ram(const char *options)
{
	struct blk *b;

	if (bt_open(&b, "ram", options, NULL) < 0)
		fail_msg("%s", bt_error);
	return b;
}

/* Proves that a whole page given with BLK_PAGES is kept, not copied, and that a read lends that very page. */
static void test_no_copy(void **state)
{
	struct blk *b = open_ram("size=1MiB");
	struct page_cache *pc = loop_pages(loop);
	char *p = page_get(pc);
	static struct bt_io t;
	struct iovec iov = { p, 4096 };
	struct blk_req w = { .op = BLK_WRITE, .flags = BLK_PAGES, .off = 8192, .len = 4096, .iov = &iov, .niov = 1 };

	memset(p, 'p', 4096);
	assert_int_equal(blk_sync(loop, b, &w), 0);
	assert_int_equal(page_refs(p), 2);
	page_put(pc, p);
	bt_start(&t, loop, b, BLK_READ, BLK_LEND, 8192 + 512, 1024, NULL);
	assert_int_equal(bt_wait(&t), 0);
	assert_int_equal(t.io.req.niov, 1);
	assert_ptr_equal(t.iov[0].iov_base, p + 512);
	assert_int_equal(page_refs(p), 2);
	bt_put(&t);
	/* Without BLK_PAGES, and where the page is not whole, it is copied. */
	page_ref(p);
	w.flags = 0;
	assert_int_equal(blk_sync(loop, b, &w), 0);
	assert_int_equal(page_refs(p), 1);
	w.flags = BLK_PAGES;
	w.off += 512;
	assert_int_equal(blk_sync(loop, b, &w), 0);
	assert_int_equal(page_refs(p), 1);
	page_put(pc, p);
	blk_close(b);
}

/* Proves that memory follows what is written and is given back by discard and close. */
static void test_memory(void **state)
{
	uint64_t used = page_used_bytes();
	struct blk *b = open_ram("size=64MiB");
	static char buf[1 << 20];

	for (int i = 0; i < 4; i++)
		assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, (uint64_t)i << 22, sizeof(buf), buf), 0);
	assert_int_equal(page_used_bytes(), used + (4 << 20));
	assert_int_equal(bt_do(loop, b, BLK_DISCARD, 0, 0, 1 << 20, NULL), 0);
	assert_int_equal(page_used_bytes(), used + (3 << 20));
	assert_int_equal(bt_do(loop, b, BLK_DISCARD, 0, (1 << 22) + 512, (1 << 20) - 1024, NULL), 0);
	assert_int_equal(page_used_bytes(), used + (2 << 20) + 2 * 4096);
	assert_int_equal(bt_do(loop, b, BLK_ZERO, 0, 0, 64 << 20, NULL), 0);
	assert_int_equal(page_used_bytes(), used);
	assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, 60 << 20, sizeof(buf), buf), 0);
	blk_close(b);
	assert_int_equal(page_used_bytes(), used);
}

/* Proves that a disk of 16 PiB opens, keeps data at its end, and that discard and map of all of it end. */
static void test_huge(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* its shadow has no room for the table */
#endif
	struct blk *b;
	uint64_t bytes = 16ull << 50;
	static struct bt_io t;
	char data[512], got[512];

	if (bt_open(&b, "ram", "size=16PiB", NULL) == -ENOMEM)
		skip(); /* a limit on address space */
	memset(data, 'e', sizeof(data));
	assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, bytes - 512, 512, data), 0);
	assert_int_equal(bt_do(loop, b, BLK_READ, 0, bytes - 512, 512, got), 0);
	assert_memory_equal(data, got, 512);
	bt_start(&t, loop, b, BLK_MAP, 0, 0, bytes, NULL);
	assert_int_equal(bt_wait(&t), 0);
	assert_int_equal(t.io.req.nmap, 2);
	assert_int_equal(t.map[0].kind, BLK_HOLE);
	assert_int_equal(t.map[1].kind, BLK_DATA);
	assert_int_equal(t.map[1].off, bytes - 4096);
	assert_int_equal(bt_do(loop, b, BLK_DISCARD, 0, 0, bytes, NULL), 0);
	assert_int_equal(bt_do(loop, b, BLK_READ, 0, bytes - 512, 512, got), 0);
	assert_int_equal(got[0] | got[511], 0);
	blk_close(b);
}

/* Proves that running out of memory fails the write with where it stopped, and the disk works on. */
static void test_exhausted(void **state)
{
	struct blk *b = open_ram("size=1GiB");
	static char buf[1 << 20];
	static struct bt_io t;
	uint64_t used = page_used_bytes();
	int r = 0;
	uint64_t off = 0;

	for (; r == 0 && off < 1 << 30; off += sizeof(buf)) {
		bt_start(&t, loop, b, BLK_WRITE, 0, off, sizeof(buf), buf);
		r = bt_wait(&t);
	}
	off -= sizeof(buf);
	assert_int_equal(r, -ENOMEM);
	assert_true(t.io.fail_off >= off && t.io.fail_off < off + sizeof(buf));
	assert_int_equal(bt_do(loop, b, BLK_READ, BLK_LEND, 0, sizeof(buf), buf), 0);
	assert_int_equal(bt_do(loop, b, BLK_DISCARD, 0, 0, 1 << 30, NULL), 0);
	assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, 0, sizeof(buf), buf), 0);
	blk_close(b);
	assert_int_equal(page_used_bytes(), used);
}

/* ---- several loops at once ---------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEPS = 4000 };
#else
enum { STEPS = 60000 }; /* enough to hit the window between lookup and reference most times */
#endif
enum { THREADS = 3, PAGES = 8 };

struct racer {
	pthread_t    thread;
	struct blk  *b;
	unsigned     index;
	uint64_t     seed;
	const char  *wrong;
};

/* Whether each 512-byte block is wholly one version: every byte of it the same. */
static bool blocks_whole(const char *p, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 512)
		for (int j = 1; j < 512; j++)
			if (p[i + (uint64_t)j] != p[i])
				return false;
	return true;
}

/* Whether the pages that a read lent do not change while others overwrite their place. */
static bool lent_stays(struct racer *r, struct bt_io *t, struct loop *l, char *a, char *b, uint64_t off, uint64_t len)
{
	bool same;

	bt_start(t, l, r->b, BLK_READ, BLK_LEND, off, len, NULL);
	if (bt_wait(t) != 0)
		return false;
	bt_copy(t, a);
	for (int i = 0; i < 4; i++)
		loop_turn(l, 0);
	bt_copy(t, b);
	same = memcmp(a, b, len) == 0;
	bt_put(t);
	return same;
}

static void race_step(struct racer *r, struct loop *l, struct bt_io *t, char *a, char *b)
{
	uint64_t x = bt_random(&r->seed), disk = PAGES * 4096;
	uint64_t len = (1 + x % 16) * 512, off = (x >> 8) % ((disk - len) / 512 + 1) * 512;

	if ((x >> 40) % 2) { /* whole pages */
		len = (1 + x % 3) * 4096;
		off = (x >> 8) % (PAGES - len / 4096 + 1) * 4096;
	}
	switch ((x >> 32) % 8) {
	case 0:
		bt_do(l, r->b, BLK_DISCARD, 0, off, len, NULL);
		break;
	case 1: case 2: case 3:
		if (!lent_stays(r, t, l, a, b, off, len))
			r->wrong = "a lent page changed";
		else if (!blocks_whole(a, len))
			r->wrong = "a block of two versions";
		break;
	default:
		for (uint64_t i = 0; i < len; i += 512)
			memset(a + i, (int)(x >> 50) + (int)i / 512, 512);
		bt_do(l, r->b, BLK_WRITE, (x >> 41) % 2 ? BLK_PAGES : 0, off, len, a);
	}
}

static void *race(void *arg)
{
	struct racer *r = arg;
	struct err e;
	struct loop *l = loop_new(&loop_epoll, r->index, &e);
	struct bt_io *t = calloc(1, sizeof(*t));
	char *a = malloc(PAGES * 4096), *b = malloc(PAGES * 4096);

	for (int i = 0; i < STEPS && !r->wrong; i++)
		race_step(r, l, t, a, b);
	free(a);
	free(b);
	free(t);
	loop_free(l);
	return NULL;
}

static struct blk *run_race(void *(*fn)(void *), struct racer *racers)
{
	struct blk *b = open_ram("size=32KiB");

	for (unsigned i = 0; i < THREADS; i++) {
		racers[i] = (struct racer){ .b = b, .index = i + 1, .seed = i * 1000 };
		pthread_create(&racers[i].thread, NULL, fn, &racers[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(racers[i].thread, NULL);
		if (racers[i].wrong)
			fail_msg("%s", racers[i].wrong);
	}
	return b;
}

/* Proves that loops which read, write and discard the same few pages never see a block of two versions, that
 * what they were lent never changes, and that no page is lost or put twice. */
static void test_race(void **state)
{
	struct racer racers[THREADS];
	uint64_t used = page_used_bytes();

	blk_close(run_race(race, racers));
	assert_int_equal(page_used_bytes(), used);
}

/* Each loop owns every third block of each page and counts in it. */
static void *count(void *arg)
{
	struct racer *r = arg;
	struct err e;
	struct loop *l = loop_new(&loop_epoll, r->index, &e);
	uint64_t block[64] = { 0 }, got[64];

	for (uint64_t n = 1; n <= STEPS && !r->wrong; n++) {
		uint64_t off = ((n % 2) * 8 + r->index) * 512;

		bt_do(l, r->b, BLK_READ, 0, off, 512, (char *)got);
		block[0] = n < 3 ? n : n - 2;
		if (n >= 3 && got[0] != block[0])
			r->wrong = "a write was lost";
		block[0] = n;
		bt_do(l, r->b, BLK_WRITE, 0, off, 512, (char *)block);
	}
	loop_free(l);
	return NULL;
}

/* Proves that writes to different blocks of one page from several loops lose nothing. */
static void test_parts_of_a_page(void **state)
{
	struct racer racers[THREADS];

	blk_close(run_race(count, racers));
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
	work_fini(); /* first: a worker may still be about to wake the loop */
	loop_free(loop);
	page_arena_fini();
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_copy),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_huge),
		cmocka_unit_test(test_exhausted),
		cmocka_unit_test(test_race),
		cmocka_unit_test(test_parts_of_a_page),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

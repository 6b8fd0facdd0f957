/* SPDX-License-Identifier: BSD-3-Clause
 * Every driver and filter of the registry through the same checks, against a model, on both real loops. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/check.h"
#include "block/filter/filter.h"
#include "blktest.h"

enum { DISK = 4 << 20, BIGGEST = 300 << 10, ROUNDS = 500, DEPTH = 8 };

/* How each driver is opened; the path is put for %s. A driver of the registry without a row fails the suite. */
struct subject {
	const char *driver, *options;
	bool        holds;         /* what was written is read */
	uint32_t    unit;          /* bytes of the smallest request here */
	const char *filter, *filter_options;
};
static const struct subject subjects[] = {
	{ "ram", "size=4MiB", true, 512, NULL, NULL },
	{ "ram", "size=4MiB", true, 4096, NULL, NULL },
	{ "file", "path=%s/disk,size=4MiB", true, 512, NULL, NULL },
	{ "file", "path=%s/disk,size=4MiB", true, 4096, NULL, NULL },
	{ "file", "path=%s/disk,size=4MiB,direct", true, 4096, NULL, NULL },
	{ "null", "size=4MiB", false, 512, NULL, NULL },
	{ "null", "size=4MiB", false, 4096, NULL, NULL },
	{ "ram", "size=4MiB", true, 512, "crash", "" },
	{ "file", "path=%s/disk,size=4MiB", true, 512, "crash", "" },
	{ "ram", "size=4MiB", true, 512, "integrity", "store=memory" },
	{ "file", "path=%s/disk,size=4MiB", true, 4096, "integrity", "store=memory,unit=4096" },
	{ "ram", "size=4MiB", true, 512, "delay", "time=1us" },
	{ "ram", "size=4MiB", true, 512, "fault", "" },
};
/* Need a device of the machine; test_blk_block has them. */
static const char *const elsewhere[] = { "block" };

static const struct loop_backend *const backends[] = { &loop_uring, &loop_epoll };

static struct loop *loop;
static struct blk *disk;
static const struct subject *sub;
static char *model, *buf;
static uint64_t seed;

static bool open_subject(void)
{
	char options[256];

	snprintf(options, sizeof(options), sub->options, bt_mkdir());
	int r = bt_open(&disk, sub->driver, options, NULL);
	if (r == -EINVAL && strstr(options, "direct")) {
		bt_rmdir();
		return false; /* the file system here has no direct I/O */
	}
	if (r < 0)
		fail_msg("%s: %s", options, bt_error);
	if (sub->filter && bt_open(&disk, sub->filter, sub->filter_options, disk) < 0)
		fail_msg("%s: %s", sub->filter, bt_error);
	memset(model, 0, DISK);
	seed = 1;
	return true;
}

static void close_subject(void)
{
	blk_close(disk);
	bt_rmdir();
}

static int run(enum blk_op op, uint32_t flags, uint64_t off, uint64_t len)
{
	return bt_do(loop, disk, op, flags, off, len, buf);
}

static uint64_t pick(uint64_t bound)
{
	return bt_random(&seed) % bound;
}

static void pick_range(uint64_t *off, uint64_t *len)
{
	*len = (1 + pick(BIGGEST / sub->unit)) * sub->unit;
	if (pick(2))
		*len = (1 + pick(4)) * sub->unit;
	*off = pick((DISK - *len) / sub->unit + 1) * sub->unit;
}

static void check_read(uint64_t off, uint64_t len, uint32_t flags)
{
	memset(buf, 0xa5, len);
	assert_int_equal(run(BLK_READ, flags, off, len), 0);
	assert_memory_equal(buf, model + off, len);
}

static void do_write(uint64_t off, uint64_t len, uint32_t flags)
{
	bt_fill(buf, len, bt_random(&seed));
	if (sub->holds)
		memcpy(model + off, buf, len);
	assert_int_equal(run(BLK_WRITE, flags, off, len), 0);
}

static void do_clear(uint64_t off, uint64_t len, enum blk_op op, uint32_t flags)
{
	memset(model + off, 0, len);
	assert_int_equal(run(op, flags, off, len), 0);
}

/* MAP adjoins, begins at off, and calls nothing a hole that is not zero. */
static void check_map(uint64_t off, uint64_t len)
{
	static struct bt_io t;
	uint64_t at = off;

	bt_start(&t, loop, disk, BLK_MAP, 0, off, len, NULL);
	assert_int_equal(bt_wait(&t), 0);
	assert_true(t.io.req.nmap >= 1);
	for (int i = 0; i < t.io.req.nmap; i++) {
		assert_int_equal(t.map[i].off, at);
		assert_true(t.map[i].len > 0);
		assert_true(t.map[i].off + t.map[i].len <= off + len);
		at += t.map[i].len;
		for (uint64_t j = 0; t.map[i].kind != BLK_DATA && j < t.map[i].len; j++)
			assert_int_equal(model[t.map[i].off + j], 0);
	}
}

static void random_step(void)
{
	uint64_t off, len;
	uint32_t fua = pick(8) ? 0 : BLK_FUA;

	pick_range(&off, &len);
	switch (pick(10)) {
	case 0: do_clear(off, len, BLK_DISCARD, fua); break;
	case 1: do_clear(off, len, BLK_ZERO, fua | (pick(2) ? BLK_MAY_UNMAP : 0)); break;
	case 2: check_map(off, len); break;
	case 3: assert_int_equal(run(BLK_FLUSH, 0, 0, 0), 0); break;
	case 4: check_read(off, len, 0); break;
	case 5: check_read(off, len, BLK_LEND); break;
	case 6: do_write(off, len, fua); break;
	default: do_write(off, len, fua | BLK_PAGES); break;
	}
}

/* Proves that any sequence of requests reads what the model says, and that holes read as zeros. */
static void check_random(void)
{
	for (int i = 0; i < ROUNDS; i++)
		random_step();
	for (uint64_t off = 0; off < DISK; off += 1 << 20)
		check_read(off, 1 << 20, BLK_LEND);
}

/* Proves that the first and the last block can be used and the one behind cannot. */
static void check_bounds(void)
{
	uint64_t last = DISK - sub->unit;

	assert_int_equal(blk_bytes(disk), DISK);
	do_write(last, sub->unit, BLK_PAGES);
	do_write(0, sub->unit, 0);
	check_read(last, sub->unit, BLK_LEND);
	check_read(0, sub->unit, 0);
	for (int op = 0; op < BLK_OPS; op++)
		if (op != BLK_FLUSH)
			assert_int_equal(run((enum blk_op)op, 0, last, 2 * sub->unit), -ERANGE);
}

/* Proves that a lent page keeps its bytes while the range is overwritten, discarded and zeroed. */
static void check_lend_is_stable(void)
{
	static struct bt_io t;
	char *seen = malloc(65536), *kept = malloc(65536);

	do_write(8192, 65536, BLK_PAGES);
	memcpy(kept, model + 8192, 65536);
	bt_start(&t, loop, disk, BLK_READ, BLK_LEND, 8192, 65536, NULL);
	assert_int_equal(bt_wait(&t), 0);
	do_write(8192, 65536, BLK_PAGES);
	do_write(12288, sub->unit, 0);
	do_clear(16384, 4096, BLK_DISCARD, 0);
	do_clear(24576 + sub->unit, sub->unit, BLK_ZERO, 0);
	bt_copy(&t, seen);
	assert_memory_equal(seen, kept, 65536);
	bt_put(&t);
	check_read(8192, 65536, BLK_LEND);
	free(seen);
	free(kept);
}

/* Proves that what the caller does with a page after its write was done changes nothing on the disk when the
 * page was not given, and that a page given twice serves both places. */
static void check_ownership(void)
{
	do_write(0, 8192, 0);
	memset(buf, 0x5a, 8192);
	check_read(0, 8192, BLK_LEND);
}

/* Proves that requests in flight together on separate ranges do not disturb each other. */
static void check_depth(void)
{
	static struct bt_io t[DEPTH];
	uint64_t part = DISK / DEPTH;

	for (int round = 0; round < 8; round++) {
		for (int i = 0; i < DEPTH; i++) {
			uint64_t off = (uint64_t)i * part;
			if ((round + i) % 3 == 0) {
				bt_start(&t[i], loop, disk, BLK_READ, BLK_LEND, off, part, NULL);
				continue;
			}
			bt_fill(buf + off, part, bt_random(&seed));
			if (sub->holds)
				memcpy(model + off, buf + off, part);
			bt_start(&t[i], loop, disk, BLK_WRITE, BLK_PAGES, off, part, buf + off);
		}
		for (int i = 0; i < DEPTH; i++) {
			assert_int_equal(bt_wait(&t[i]), 0);
			if (t[i].io.req.op != BLK_READ)
				continue;
			bt_copy(&t[i], buf + (uint64_t)i * part);
			bt_put(&t[i]);
			assert_memory_equal(buf + (uint64_t)i * part, model + (uint64_t)i * part, part);
		}
	}
	for (int i = 0; i < DEPTH; i++)
		assert_int_equal(t[i].ndone, 8);
	memset(t, 0, sizeof(t));
}

/* Proves that a discard frees space where the driver says it can, and that MAP tells. */
static void check_discard(void)
{
	static struct bt_io t;

	if (!(disk->caps & BLK_CAN_DISCARD) || !(disk->caps & BLK_CAN_MAP))
		return;
	do_write(0, DISK / 4, 0);
	assert_int_equal(run(BLK_FLUSH, 0, 0, 0), 0);
	do_clear(0, DISK, BLK_DISCARD, 0);
	bt_start(&t, loop, disk, BLK_MAP, 0, 0, DISK, NULL);
	assert_int_equal(bt_wait(&t), 0);
	assert_int_equal(t.io.req.nmap, 1);
	assert_int_equal(t.map[0].kind, BLK_HOLE);
	assert_int_equal(t.map[0].len, DISK);
}

static void (*const checks[])(void) = {
	check_random, check_bounds, check_lend_is_stable, check_ownership, check_depth, check_discard,
};

static void run_all(const struct loop_backend *backend)
{
	struct err e = { 0 };

	for (unsigned i = 0; i < ARRAY_LEN(subjects); i++) {
		loop = loop_new(backend, 0, &e);
		if (!loop) {
			print_message("%s: %s\n", backend->name, e.text);
			skip();
		}
		uint64_t used = page_used_bytes();
		sub = &subjects[i];
		for (unsigned c = 0; c < ARRAY_LEN(checks) && open_subject(); c++) {
			checks[c]();
			close_subject();
			assert_int_equal(page_used_bytes(), used);
		}
		work_fini(); /* first: a worker may still be about to wake the loop */
		integrity_fini();
		loop_free(loop);
	}
}

/* Proves all of the above for each driver and filter on io_uring, and that no page is lost by any of it. */
static void test_drivers_on_uring(void **state)
{
	run_all(backends[0]);
}

/* Proves the same on epoll. */
static void test_drivers_on_epoll(void **state)
{
	run_all(backends[1]);
}

static bool is_used(const struct subject *s, const char *name)
{
	return strcmp(s->driver, name) == 0 || (s->filter && strcmp(s->filter, name) == 0);
}

/* Proves that a new driver or filter cannot be forgotten here. */
static void test_every_driver_has_a_row(void **state)
{
	for (int i = 0; blk_registry[i]; i++) {
		bool found = false;
		for (unsigned j = 0; j < ARRAY_LEN(subjects); j++)
			found |= is_used(&subjects[j], blk_registry[i]->name);
		for (unsigned j = 0; j < ARRAY_LEN(elsewhere); j++)
			found |= strcmp(elsewhere[j], blk_registry[i]->name) == 0;
		if (!found)
			fail_msg("no row for %s", blk_registry[i]->name);
	}
}

static int setup(void **state)
{
	struct err e;

	model = aligned_alloc(4096, DISK);
	buf = aligned_alloc(4096, DISK);
	return page_arena_init(256 << 20, &e);
}

static int teardown(void **state)
{
	page_arena_fini();
	free(model);
	free(buf);
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_drivers_on_uring),
		cmocka_unit_test(test_drivers_on_epoll),
		cmocka_unit_test(test_every_driver_has_a_row),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

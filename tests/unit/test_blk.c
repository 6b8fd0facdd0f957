/* SPDX-License-Identifier: BSD-3-Clause
 * The framework of a stack: frames, homes, bounds, forks. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "block/blk.h"

enum { DISK_BYTES = 1 << 20 };

static struct loop *loop;

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

/* A driver that remembers what it was asked, and fails on demand. */
static struct {
	struct blk_req req;
	struct loop *loop;
	int calls, status;
	bool in_submit;
} probe;

static void probe_submit(struct blk *b, struct blk_io *io)
{
	probe.req = io->req;
	probe.loop = io->loop;
	probe.calls++;
	blk_done(io, probe.status);
}

static int probe_open(struct blk *b, const void *conf, struct err *e)
{
	b->bytes = DISK_BYTES;
	b->block_bytes = 512;
	b->home = (struct loop *)conf;
	return 0;
}

static const struct blk_ops probe_ops = { .name = "probe", .open = probe_open, .submit = probe_submit };

/* A filter that shifts requests by 4096 bytes and counts what comes back. */
static int shifted, refused;

static void shift_done(struct blk_io *io, void *ctx)
{
	assert_int_equal(blk_scratch(io)[0], 77);
	assert_ptr_equal(ctx, &shifted);
	shifted++;
	blk_done(io, io->status);
}

static void shift_submit(struct blk *b, struct blk_io *io)
{
	blk_push(io, shift_done, &shifted)[0] = 77;
	io->req.off += 4096;
	io->req.flags |= BLK_DPO;
	blk_pass(b, io);
}

static int shift_open(struct blk *b, const void *conf, struct err *e)
{
	b->bytes -= 4096;
	if (refused)
		return err_set(e, -EPERM, "refused");
	return 0;
}

static const struct blk_ops shift_ops = {
	.name = "shift", .filter = true, .open = shift_open, .submit = shift_submit
};

static struct blk *stack_of(int filters, struct loop *home)
{
	struct blk *b;
	struct err e;

	assert_int_equal(blk_open(&b, &probe_ops, home, NULL, &e), 0);
	for (int i = 0; i < filters; i++)
		assert_int_equal(blk_open(&b, &shift_ops, NULL, b, &e), 0);
	memset(&probe, 0, sizeof(probe));
	shifted = 0;
	return b;
}

static char buf[8192];
static struct iovec one = { buf, 4096 };

static struct blk_req request(enum blk_op op, uint64_t off, uint64_t len)
{
	return (struct blk_req){ .op = op, .off = off, .len = len, .iov = &one, .niov = 1 };
}

/* Proves that each filter's rewrite reaches the driver, that the caller finds its request as it was, and that
 * each frame's scratch is its own. */
static void test_frames(void **state)
{
	struct blk *b = stack_of(8, NULL);
	struct blk_req r = request(BLK_READ, 512, 4096);

	assert_int_equal(blk_sync(loop, b, &r), 0);
	assert_int_equal(probe.req.off, 512 + 8 * 4096);
	assert_int_equal(probe.req.flags, BLK_DPO);
	assert_int_equal(shifted, 8);
	assert_int_equal(r.off, 512);
	assert_int_equal(r.flags, 0);
	blk_close(b);
}

static bool ended;

static void mark_ended(struct blk_io *io, void *ctx)
{
	ended = true;
	assert_int_equal(io->status, *(int *)ctx);
}

/* Proves that done never runs inside submit, whether the request is served, refused or empty. */
static void test_done_is_deferred(void **state)
{
	static const struct { uint64_t off, len; int status; } rows[] = {
		{ 0, 4096, 0 }, { DISK_BYTES, 4096, -ERANGE }, { 0, 0, 0 },
	};
	struct blk *b = stack_of(0, NULL);
	struct blk_io io;

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		int expected = rows[i].status;
		io.req = request(BLK_READ, rows[i].off, rows[i].len);
		io.loop = loop;
		ended = false;
		blk_submit(b, &io, mark_ended, &expected);
		assert_false(ended);
		while (!ended)
			loop_turn(loop, 0);
	}
	assert_int_equal(probe.calls, 1);
	blk_close(b);
}

/* Proves that what a caller may not ask never reaches the driver, also where addresses overflow. */
static void test_bounds(void **state)
{
	static const struct { uint64_t off, len; int r; } rows[] = {
		{ 0, DISK_BYTES, 0 }, { DISK_BYTES - 512, 512, 0 }, { DISK_BYTES, 512, -ERANGE },
		{ DISK_BYTES - 512, 1024, -ERANGE }, { UINT64_MAX - 511, 512, -ERANGE },
		{ 512, UINT64_MAX - 511, -ERANGE }, { 1, 512, -EINVAL }, { 0, 511, -EINVAL },
	};
	struct blk *b = stack_of(0, NULL);

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct blk_req r = request(BLK_WRITE, rows[i].off, rows[i].len);
		probe.calls = 0;
		assert_int_equal(blk_sync(loop, b, &r), rows[i].r);
		assert_int_equal(probe.calls, rows[i].r == 0);
	}
	b->caps = BLK_READ_ONLY;
	for (int op = 0; op < BLK_OPS; op++) {
		struct blk_extent map[1];
		struct blk_req r = request((enum blk_op)op, 0, 512);
		bool writes = op == BLK_WRITE || op == BLK_DISCARD || op == BLK_ZERO || op == BLK_COPY;
		r.map = map;
		r.nmap = 1;
		assert_int_equal(blk_sync(loop, b, &r), writes ? -EROFS : 0);
	}
	blk_close(b);
}

/* Proves that a lent read must bring an entry for every page it touches. */
static void test_lend_room(void **state)
{
	struct iovec iov[3];
	struct blk *b = stack_of(0, NULL);
	struct blk_req r = { .op = BLK_READ, .flags = BLK_LEND, .off = 512, .len = 8192, .iov = iov, .niov = 2 };

	assert_int_equal(blk_sync(loop, b, &r), -EINVAL);
	assert_int_equal(r.niov, 0);
	r.niov = 3;
	assert_int_equal(blk_sync(loop, b, &r), 0);
	r.niov = 2;
	r.off = 4096;
	assert_int_equal(blk_sync(loop, b, &r), 0);
	blk_close(b);
}

/* Proves that a filter's failed open leaves its child to the caller, and that filters inherit geometry. */
static void test_open(void **state)
{
	struct blk *b = stack_of(0, NULL), *f;
	struct err e;

	refused = 1;
	assert_int_equal(blk_open(&f, &shift_ops, NULL, b, &e), -EPERM);
	refused = 0;
	assert_int_equal(blk_open(&f, &shift_ops, NULL, b, &e), 0);
	assert_int_equal(blk_bytes(f), DISK_BYTES - 4096);
	assert_int_equal(f->block_bytes, 512);
	blk_close(f);
	blk_close(NULL);
}

/* A filter that asks both halves of a request apart, three times each. */
static int fork_status;

static void split_submit(struct blk *b, struct blk_io *io)
{
	for (int i = 0; i < 100; i++) {
		struct blk_req half = io->req;
		half.len /= 2;
		half.off += i & 1 ? half.len : 0;
		if (i == 50)
			half.off = DISK_BYTES; /* this one fails */
		if (i != 50 || fork_status)
			blk_fork(io, b->child[0], &half);
	}
}

static const struct blk_ops split_ops = { .name = "split", .filter = true, .submit = split_submit };

/* Proves that a request is done when all of its forks are, with the error of the one that failed. */
static void test_forks(void **state)
{
	struct blk *b = stack_of(1, NULL);
	struct blk_req r = request(BLK_WRITE, 0, 4096);
	struct err e;

	assert_int_equal(blk_open(&b, &split_ops, NULL, b, &e), 0);
	for (fork_status = 0; fork_status < 2; fork_status++) {
		probe.calls = 0;
		assert_int_equal(blk_sync(loop, b, &r), fork_status ? -ERANGE : 0);
		assert_int_equal(probe.calls, 99);
	}
	probe.status = -EIO;
	fork_status = 0;
	assert_int_equal(blk_sync(loop, b, &r), -EIO);
	blk_close(b);
}

static void *home_thread(void *arg)
{
	loop_run(arg);
	return NULL;
}

static struct loop *popped_on;

static void where_done(struct blk_io *io, void *ctx)
{
	popped_on = loop_current();
	assert_ptr_equal(io->loop, popped_on);
	blk_done(io, io->status);
}

static void where_submit(struct blk *b, struct blk_io *io)
{
	blk_push(io, where_done, NULL);
	blk_pass(b, io);
}

static const struct blk_ops where_ops = { .name = "where", .filter = true, .submit = where_submit };

/* Proves that a node with a home runs there, that its frames are popped there and that the caller hears of it on
 * its own loop. */
static void test_home(void **state)
{
	struct err e;
	struct loop *home = loop_new(&loop_epoll, 1, &e);
	struct blk *b = stack_of(0, home), *above;
	struct blk_req r = request(BLK_WRITE, 0, 4096);
	pthread_t thread;

	assert_int_equal(blk_open(&b, &where_ops, NULL, b, &e), 0);
	assert_ptr_equal(b->home, home);
	pthread_create(&thread, NULL, home_thread, home);
	for (int i = 0; i < 100; i++) {
		probe.loop = popped_on = NULL;
		assert_int_equal(blk_sync(loop, b, &r), 0);
		assert_ptr_equal(probe.loop, home);
		assert_ptr_equal(popped_on, home);
	}
	/* A filter without a home above one that has: it stays with the caller. */
	assert_int_equal(blk_open(&above, &where_ops, NULL, b, &e), 0);
	above->home = NULL;
	assert_int_equal(blk_sync(loop, above, &r), 0);
	assert_ptr_equal(probe.loop, home);
	assert_ptr_equal(popped_on, loop);
	loop_stop(home);
	pthread_join(thread, NULL);
	blk_close(above);
	loop_free(home);
}

/* Proves that every registered name is found, and no other. */
static void test_registry(void **state)
{
	for (int i = 0; blk_registry[i]; i++)
		assert_ptr_equal(blk_find(blk_registry[i]->name), blk_registry[i]);
	assert_non_null(blk_find("ram"));
	assert_null(blk_find("floppy"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_done_is_deferred),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_lend_room),
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_forks),
		cmocka_unit_test(test_home),
		cmocka_unit_test(test_registry),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

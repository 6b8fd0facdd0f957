/* SPDX-License-Identifier: BSD-3-Clause
 * Block devices, by a loop device over a file. Skipped where one cannot be made (not root, a container). */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/check.h"
#include "blktest.h"

enum { DISK = 8 << 20 };

static struct loop *loop;
static char file[256], device[64], buf[DISK], model[DISK];
static int device_fd = -1;

static int free_device(void)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n;

	if (control < 0)
		return -1;
	n = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	return n;
}

/* A loop device with sectors of `sector` bytes; it goes with its descriptor. */
static bool make_device(uint32_t sector)
{
	struct loop_config c = { .block_size = sector, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int n = free_device(), fd;

	snprintf(file, sizeof(file), "%s/image", bt_mkdir());
	fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && ftruncate(fd, DISK) == 0);
	snprintf(device, sizeof(device), "/dev/loop%d", n);
	device_fd = n < 0 ? -1 : open(device, O_RDWR | O_CLOEXEC);
	c.fd = (uint32_t)fd;
	bool ok = device_fd >= 0 && ioctl(device_fd, LOOP_CONFIGURE, &c) == 0;
	close(fd);
	if (!ok) {
		close(device_fd);
		bt_rmdir();
	}
	return ok;
}

static void drop_device(void)
{
	close(device_fd);
	bt_rmdir();
}

static int try_open(struct blk **ret, const char *options)
{
	char text[200];

	snprintf(text, sizeof(text), "path=%s%s", device, options);
	return bt_open(ret, "block", text, NULL);
}

static struct blk *must_open(const char *options)
{
	struct blk *b;

	if (try_open(&b, options) < 0)
		fail_msg("%s", bt_error);
	return b;
}

static int run(struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len)
{
	return bt_do(loop, b, op, flags, off, len, buf);
}

/* Random requests of whole sectors against a model. */
static void check_random(struct blk *b, uint64_t unit)
{
	uint64_t seed = unit;

	memset(model, 0, DISK);
	for (int i = 0; i < 200; i++) {
		uint64_t x = bt_random(&seed);
		uint64_t len = (1 + x % 60) * unit, off = (x >> 8) % ((DISK - len) / unit + 1) * unit;
		uint32_t flags = (x >> 40) % 2 ? BLK_PAGES : 0;

		if ((x >> 32) % 4 == 0 && (b->caps & BLK_CAN_DISCARD)) {
			memset(model + off, 0, len);
			assert_int_equal(run(b, (x >> 36) % 2 ? BLK_DISCARD : BLK_ZERO, 0, off, len), 0);
		} else {
			bt_fill(buf, len, x);
			memcpy(model + off, buf, len);
			assert_int_equal(run(b, BLK_WRITE, flags | ((x >> 44) % 4 ? 0 : BLK_FUA), off, len), 0);
		}
		assert_int_equal(run(b, BLK_READ, (x >> 48) % 2 ? BLK_LEND : 0, off, len), 0);
		assert_memory_equal(buf, model + off, len);
	}
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), 0);
	assert_int_equal(run(b, BLK_READ, BLK_LEND, 0, DISK), 0);
	assert_memory_equal(buf, model, DISK);
}

/* Proves that a device gives its geometry and keeps data, with sectors of 512 and 4096 bytes, through the page
 * cache and past it, and that a request smaller than its sector is refused. */
static void test_device(void **state)
{
	static const uint32_t sectors[] = { 512, 4096 };

	for (unsigned i = 0; i < ARRAY_LEN(sectors); i++) {
		if (!make_device(sectors[i]))
			skip();
		for (int direct = 0; direct < 2; direct++) {
			struct blk *b = must_open(direct ? "" : ",direct=off");
			assert_int_equal(blk_bytes(b), DISK);
			assert_int_equal(b->block_bytes, sectors[i]);
			assert_int_equal(run(b, BLK_DISCARD, 0, 0, DISK), 0);
			check_random(b, sectors[i]);
			assert_int_equal(run(b, BLK_READ, 0, 0, 256), -EINVAL);
			blk_close(b);
		}
		drop_device();
	}
}

/* Proves that a device is opened for writing once, that readers may share it, and that what is no device is told
 * apart. */
static void test_device_refusals(void **state)
{
	struct blk *b, *c;

	if (!make_device(512))
		skip();
	b = must_open("");
	assert_int_equal(try_open(&c, ""), -EBUSY);
	assert_non_null(strstr(bt_error, "is in use"));
	assert_int_equal(try_open(&c, ",ro"), -EBUSY);
	blk_close(b);
	b = must_open(",ro");
	c = must_open(",ro");
	assert_int_equal(run(b, BLK_WRITE, 0, 0, 4096), -EROFS);
	blk_close(b);
	blk_close(c);
	snprintf(device, sizeof(device), "/dev/null");
	assert_int_equal(try_open(&c, ""), -ENOTBLK);
	snprintf(device, sizeof(device), "/dev/no-such-disk");
	assert_int_equal(try_open(&c, ""), -ENOENT);
	drop_device();
}

/* Proves that a device that grows is noticed, and that one that shrinks keeps its capacity and fails what is gone. */
static void test_device_resized(void **state)
{
	struct blk *b;

	if (!make_device(512))
		skip();
	b = must_open("");
	assert_int_equal(truncate(file, 2 * DISK), 0);
	assert_int_equal(ioctl(device_fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(b->ops->poll_size(b), 0);
	assert_int_equal(blk_bytes(b), 2 * DISK);
	assert_int_equal(run(b, BLK_WRITE, 0, 2 * DISK - 4096, 4096), 0);
	assert_int_equal(truncate(file, DISK), 0);
	assert_int_equal(ioctl(device_fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(run(b, BLK_READ, 0, 2 * DISK - 4096, 4096), -EIO);
	assert_int_equal(b->ops->poll_size(b), -ENXIO);
	assert_int_equal(blk_bytes(b), 2 * DISK);
	assert_int_equal(run(b, BLK_WRITE, 0, 2 * DISK - 4096, 4096), -EIO);
	blk_close(b);
	drop_device();
}

static int setup(const struct loop_backend *backend)
{
	struct err e;

	if (page_arena_init(64 << 20, &e) < 0)
		return -1;
	loop = loop_new(backend, 0, &e);
	return loop ? 0 : -1;
}

static int setup_best(void **state)
{
	return setup(NULL);
}

static int setup_epoll(void **state)
{
	return setup(&loop_epoll);
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
		cmocka_unit_test(test_device),
		cmocka_unit_test(test_device_refusals),
		cmocka_unit_test(test_device_resized),
	};

	return cmocka_run_group_tests_name("best loop", tests, setup_best, teardown) +
		cmocka_run_group_tests_name("epoll", tests, setup_epoll, teardown);
}

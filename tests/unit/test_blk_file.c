/* SPDX-License-Identifier: BSD-3-Clause
 * Disks in files: opening, locks, files that grow or are cut short, errors of the medium. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/check.h"
#include "block/driver/file.h"
#include "blktest.h"

static struct loop *loop;
static char path[256], buf[1 << 20];

static int try_open(struct blk **ret, const char *options)
{
	char text[600];

	snprintf(text, sizeof(text), "path=%s%s", path, options);
	return bt_open(ret, "file", text, NULL);
}

static struct blk *must_open(const char *options)
{
	struct blk *b;

	if (try_open(&b, options) < 0)
		fail_msg("%s", bt_error);
	return b;
}

static void must_refuse(const char *options, int code, const char *text)
{
	struct blk *b;

	assert_int_equal(try_open(&b, options), code);
	if (!strstr(bt_error, text))
		fail_msg("'%s' lacks '%s'", bt_error, text);
	assert_non_null(strstr(bt_error, ": ")); /* cause and next step */
}

static void make_file(off_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0 && ftruncate(fd, bytes) == 0);
	close(fd);
}

static int run(struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len)
{
	return bt_do(loop, b, op, flags, off, len, buf);
}

/* tmpfs does. */
static bool takes_any_size(void)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	bool takes = ftruncate(fd, (off_t)(7ull << 60)) == 0;

	close(fd);
	unlink(path);
	return takes;
}

/* Proves that each thing that cannot be served is refused with its cause and a next step, and nothing is left
 * behind. */
static void test_refusals(void **state)
{
	must_refuse("", -ENOENT, "give size= to make it");
	must_refuse(",size=1M,ro", -ENOENT, "does not exist");
	must_refuse(",size=9000000T", -EINVAL, "above the maximum");
	if (!takes_any_size()) {
		must_refuse(",size=7EiB", -EFBIG, "has no files so large");
		assert_int_equal(access(path, F_OK), -1);
	}
	make_file(0);
	must_refuse("", -EINVAL, "is empty");
	make_file(4096);
	must_refuse(",size=2048", -EINVAL, "has 4096 bytes, more than 2048");
	must_refuse(",size=8192,ro", -EINVAL, "and is read only");
	unlink(path);
	mkfifo(path, 0600);
	must_refuse("", -EINVAL, "neither a file nor a disk");
	unlink(path);
	mkdir(path, 0700);
	must_refuse("", -EISDIR, "is a directory");
	rmdir(path);
	assert_int_equal(symlink(path, path), 0);
	must_refuse("", -ELOOP, "symbolic links");
}

/* Proves that a file is made sparse with its size and for its owner only, and is found again with what was
 * written. */
static void test_make(void **state)
{
	struct blk *b = must_open(",size=1GiB");
	struct stat st;

	assert_int_equal(blk_bytes(b), 1 << 30);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 1 << 30);
	assert_true(st.st_blocks < 1024);
	assert_int_equal(st.st_mode & 0777, 0600);
	memset(buf, 'k', 4096);
	assert_int_equal(run(b, BLK_WRITE, BLK_FUA, 1 << 29, 4096), 0);
	blk_close(b);
	b = must_open("");
	assert_int_equal(run(b, BLK_READ, 0, 1 << 29, 4096), 0);
	assert_int_equal(buf[4095], 'k');
	blk_close(b);
	b = must_open(",size=1GiB");
	blk_close(b);
}

/* Proves that a file is opened for writing once, also within one process and by another name, that readers
 * may share it, and that closing frees it. */
static void test_lock(void **state)
{
	struct blk *b = must_open(",size=1MiB"), *c;
	char other[300];

	must_refuse("", -EBUSY, "is in use by another disk");
	must_refuse(",ro", -EBUSY, "is being written");
	snprintf(other, sizeof(other), "%s.link", path);
	assert_int_equal(link(path, other), 0);
	strcat(path, ".link");
	must_refuse("", -EBUSY, "is in use");
	blk_close(b);
	b = must_open(",ro");
	c = must_open(",ro");
	must_refuse("", -EBUSY, "is in use");
	assert_int_equal(run(b, BLK_WRITE, 0, 0, 512), -EROFS);
	assert_int_equal(run(b, BLK_READ, BLK_LEND, 0, 4096), 0);
	blk_close(b);
	blk_close(c);
	blk_close(must_open(""));
}

static int lock_as_qemu(int byte)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &l), 0);
	return fd;
}

/* Proves that an image that a virtual machine writes (byte 101) or refuses others to write (201) is refused, and
 * one that it only reads (100) is not. */
static void test_lock_of_qemu(void **state)
{
	static const struct { int byte, r; const char *options; } rows[] = {
		{ 101, -EBUSY, "" }, { 201, -EBUSY, "" }, { 103, -EBUSY, "" }, { 100, 0, "" }, { 200, -EBUSY, "" },
		{ 101, -EBUSY, ",ro" }, { 201, 0, ",ro" }, { 100, 0, ",ro" },
	};

	make_file(1 << 20);
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		int fd = lock_as_qemu(rows[i].byte);
		struct blk *b = NULL;
		assert_int_equal(try_open(&b, rows[i].options), rows[i].r);
		blk_close(b);
		close(fd);
	}
}

static int qemu_img(const char *verb)
{
	char line[800];

	snprintf(line, sizeof(line), "timeout 20 qemu-img %s >/dev/null 2>&1", verb);
	return system(line);
}

/* Proves that qemu-img itself keeps off an image that is served for writing, and only then. */
static void test_qemu_img_respects_us(void **state)
{
	char read[700], grow[400];

	if (qemu_img("--version") != 0)
		skip();
	struct blk *b = must_open(",size=1MiB");
	snprintf(read, sizeof(read), "convert -f raw -O raw %s %s.copy", path, path);
	snprintf(grow, sizeof(grow), "resize -f raw %s 2M", path);
	assert_int_not_equal(qemu_img(read), 0);
	assert_int_not_equal(qemu_img(grow), 0);
	blk_close(b);
	b = must_open(",ro");
	assert_int_equal(qemu_img(read), 0);
	assert_int_not_equal(qemu_img(grow), 0);
	blk_close(b);
	assert_int_equal(qemu_img(read), 0);
	assert_int_equal(qemu_img(grow), 0);
}

/* Proves that a file that is cut short fails exactly the blocks that are gone, that writes do not conjure it
 * back as zeros, that the capacity stays, and that it heals when it is long enough again. */
static void test_cut_short(void **state)
{
	struct blk *b = must_open(",size=1MiB");
	static struct bt_io t;
	const uint64_t half = 1 << 19;

	memset(buf, 'd', sizeof(buf));
	assert_int_equal(run(b, BLK_WRITE, 0, 0, 1 << 20), 0);
	assert_int_equal(truncate(path, (off_t)half + 100), 0);
	for (int lend = 0; lend < 2; lend++) {
		bt_start(&t, loop, b, BLK_READ, lend ? BLK_LEND : 0, half - 8192, 16384, buf);
		assert_int_equal(bt_wait(&t), -EIO);
		assert_int_equal(t.io.fail_off, half);
	}
	assert_int_equal(run(b, BLK_READ, BLK_LEND, half - 8192, 8192), 0);
	assert_int_equal(b->ops->poll_size(b), -ENXIO);
	assert_int_equal(blk_bytes(b), 1 << 20);
	bt_start(&t, loop, b, BLK_WRITE, 0, half - 512, 1024, buf);
	assert_int_equal(bt_wait(&t), -EIO);
	assert_int_equal(t.io.fail_off, half);
	assert_int_equal(run(b, BLK_WRITE, 0, (1 << 20) - 512, 512), -EIO);
	assert_int_equal(run(b, BLK_DISCARD, 0, half, 4096), -EIO);
	assert_int_equal(run(b, BLK_WRITE, 0, half - 512, 512), 0);
	assert_int_equal(truncate(path, 2 << 20), 0);
	assert_int_equal(b->ops->poll_size(b), 0);
	assert_true(b->space_known && b->space_free > 0 && b->space_used <= 4 << 20); /* and tells of the space below */
	assert_int_equal(blk_bytes(b), 2 << 20);
	assert_int_equal(run(b, BLK_WRITE, 0, (2 << 20) - 512, 512), 0);
	assert_int_equal(run(b, BLK_READ, 0, half - 512, 8192), 0);
	blk_close(b);
}

/* Proves that a read finds the missing end by itself and that writes know of it before the size is polled. */
static void test_cut_short_unpolled(void **state)
{
	struct blk *b = must_open(",size=1MiB");

	assert_int_equal(truncate(path, 4096), 0);
	assert_int_equal(run(b, BLK_READ, 0, 8192, 4096), -EIO);
	assert_int_equal(run(b, BLK_WRITE, 0, 8192, 4096), -EIO);
	assert_int_equal(run(b, BLK_READ, 0, 0, 4096), 0);
	blk_close(b);
}

/* Puts another descriptor in the place of the file's, and back. */
static int swap_fd(struct blk *b, const char *with)
{
	struct file *f = b->priv;
	int keep = dup(f->fd), other = open(with, O_RDWR | O_NONBLOCK);

	assert_true(keep >= 0 && other >= 0);
	assert_int_equal(dup2(other, f->fd), f->fd);
	close(other);
	return keep;
}

static void swap_back(struct blk *b, int keep)
{
	struct file *f = b->priv;

	assert_int_equal(dup2(keep, f->fd), f->fd);
	close(keep);
}

/* Proves that after one failed fsync every flush and FUA fails until the file is opened again, although the
 * kernel calls the next fsync a success, and that plain reads and writes go on. */
static void test_fsync_fails_once(void **state)
{
	struct blk *b = must_open(",size=1MiB");
	int keep;

	assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), 0);
	keep = swap_fd(b, "/dev/null"); /* fsync of it is EINVAL */
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), -EIO);
	swap_back(b, keep);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), -EIO);
		assert_int_equal(run(b, BLK_WRITE, BLK_FUA, 0, 4096), -EIO);
		assert_int_equal(run(b, BLK_ZERO, BLK_FUA, 0, 4096), -EIO);
		assert_int_equal(run(b, BLK_WRITE, 0, 0, 4096), 0);
		assert_int_equal(run(b, BLK_READ, 0, 0, 4096), 0);
	}
	blk_close(b);
	b = must_open("");
	assert_int_equal(run(b, BLK_WRITE, BLK_FUA, 0, 4096), 0);
	assert_int_equal(run(b, BLK_FLUSH, 0, 0, 0), 0);
	blk_close(b);
}

/* Proves that a full disk is told as such, with the place. */
static void test_no_space(void **state)
{
	struct blk *b = must_open(",size=1MiB");
	static struct bt_io t;
	int keep = swap_fd(b, "/dev/full");

	bt_start(&t, loop, b, BLK_WRITE, 0, 8192, 4096, buf);
	assert_int_equal(bt_wait(&t), -ENOSPC);
	assert_int_equal(t.io.fail_off, 8192);
	swap_back(b, keep);
	assert_int_equal(run(b, BLK_WRITE, 0, 8192, 4096), 0);
	blk_close(b);
}

/* Proves that where the file system can neither punch nor zero, zeros are written, of any length. */
static void test_zeros_written(void **state)
{
	static const uint64_t lens[] = { 512, 4096, 4608, (1 << 20) + 512, 3 << 20 };
	struct blk *b = must_open(",size=8MiB");
	struct file *f = b->priv;

	atomic_store(&f->no_punch, true);
	atomic_store(&f->no_zero, true);
	for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
		memset(buf, 'z', sizeof(buf));
		for (uint64_t off = 0; off < 8 << 20; off += sizeof(buf))
			assert_int_equal(run(b, BLK_WRITE, 0, off, sizeof(buf)), 0);
		assert_int_equal(run(b, i & 1 ? BLK_DISCARD : BLK_ZERO, BLK_FUA, 1536, lens[i]), 0);
		for (uint64_t off = 0; off < 8 << 20; off += sizeof(buf)) {
			assert_int_equal(run(b, BLK_READ, 0, off, sizeof(buf)), 0);
			for (uint64_t j = 0; j < sizeof(buf); j += 256)
				assert_int_equal(buf[j], off + j >= 1536 && off + j < 1536 + lens[i] ? 0 : 'z');
		}
	}
	blk_close(b);
}

/* Proves that one request of 16 MiB in 4096 pages, four times what one system call takes, is whole. */
static void test_many_pages(void **state)
{
	const uint64_t len = 16 << 20;
	struct blk *b = must_open(",size=20MiB");
	char *data = malloc(len), *got = malloc(len);
	struct bt_io *t = calloc(1, sizeof(*t));

	bt_fill(data, len, 3);
	assert_int_equal(bt_do(loop, b, BLK_WRITE, BLK_PAGES, 4096, len, data), 0);
	bt_start(t, loop, b, BLK_READ, BLK_LEND, 4096, len, NULL);
	assert_int_equal(bt_wait(t), 0);
	assert_int_equal(t->io.req.niov, 4096);
	bt_copy(t, got);
	bt_put(t);
	assert_memory_equal(data, got, len);
	free(t);
	free(got);
	free(data);
	blk_close(b);
}

/* Proves that direct I/O takes memory of any alignment. */
static void test_direct_unaligned(void **state)
{
	struct blk *b;
	char *data, *got;

	if (try_open(&b, ",size=4MiB,direct") == -EINVAL)
		skip(); /* no direct I/O here */
	data = malloc((3 << 20) + 8);
	got = malloc((3 << 20) + 8);
	bt_fill(data, (3 << 20) + 8, 4);
	assert_int_equal(bt_do(loop, b, BLK_WRITE, BLK_FUA, 4096, 3 << 20, data + 3), 0);
	assert_int_equal(bt_do(loop, b, BLK_READ, 0, 4096, 3 << 20, got + 5), 0);
	assert_memory_equal(data + 3, got + 5, 3 << 20);
	free(got);
	free(data);
	blk_close(b);
}

/* Proves that MAP calls what was cut off a file data and not a hole: a client reads what is data, and hears that it
 * is gone, but takes a hole for zeros. */
static void test_map_cut_short(void **state)
{
	struct blk *b = must_open(",size=4MiB");
	static struct bt_io t;

	assert_int_equal(truncate(path, 2 << 20), 0);
	bt_start(&t, loop, b, BLK_MAP, 0, 1 << 20, 3 << 20, NULL);
	assert_int_equal(bt_wait(&t), 0);
	for (int i = 0; i < t.io.req.nmap; i++)
		assert_true(t.map[i].kind == BLK_DATA || t.map[i].off + t.map[i].len <= 2 << 20);
	bt_start(&t, loop, b, BLK_MAP, 0, 3 << 20, 4096, NULL);
	assert_int_equal(bt_wait(&t), 0);
	assert_int_equal(t.io.req.nmap, 1);
	assert_int_equal(t.map[0].kind, BLK_DATA);
	assert_int_equal(t.map[0].len, 4096);
	blk_close(b);
}

/* Proves that MAP tells data from holes of a sparse file. */
static void test_map(void **state)
{
	struct blk *b = must_open(",size=4MiB");
	static struct bt_io t;

	assert_int_equal(run(b, BLK_WRITE, 0, 1 << 20, 1 << 20), 0);
	bt_start(&t, loop, b, BLK_MAP, 0, 0, 4 << 20, NULL);
	assert_int_equal(bt_wait(&t), 0);
	if (b->caps & BLK_CAN_MAP) {
		assert_int_equal(t.io.req.nmap, 3);
		assert_int_equal(t.map[0].kind, BLK_HOLE);
		assert_int_equal(t.map[1].off, 1 << 20);
		assert_int_equal(t.map[1].kind, BLK_DATA);
		assert_int_equal(t.map[2].kind, BLK_HOLE);
	}
	blk_close(b);
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

static int dir_setup(void **state)
{
	snprintf(path, sizeof(path), "%s/disk", bt_mkdir());
	return 0;
}

static int dir_teardown(void **state)
{
	bt_rmdir();
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_refusals),
		TEST(test_make),
		TEST(test_lock),
		TEST(test_lock_of_qemu),
		TEST(test_qemu_img_respects_us),
		TEST(test_cut_short),
		TEST(test_cut_short_unpolled),
		TEST(test_fsync_fails_once),
		TEST(test_no_space),
		TEST(test_zeros_written),
		TEST(test_many_pages),
		TEST(test_direct_unaligned),
		TEST(test_map),
		TEST(test_map_cut_short),
	};

	return cmocka_run_group_tests_name("best loop", tests, setup_best, teardown) +
		cmocka_run_group_tests_name("epoll", tests, setup_epoll, teardown);
}

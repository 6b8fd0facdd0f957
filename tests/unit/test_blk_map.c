/* SPDX-License-Identifier: BSD-3-Clause
 * Reads of a file that are lent from its mapping. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "block/driver/file.h"
#include "blktest.h"

enum { BYTES = 4 << 20 };

static struct loop *loop;
static struct blk *disk;
static char path[256], want[1 << 20], got[1 << 20];
static struct bt_io io;

/* Reads for a socket; says whether all of it came from the mapping, or -errno. */
static int read_lent(uint32_t flags, uint64_t off, uint64_t len)
{
	int mapped = 0, r;

	bt_start(&io, loop, disk, BLK_READ, BLK_LEND | flags, off, len, NULL);
	r = bt_wait(&io);
	if (r < 0)
		return r;
	for (int i = 0; i < io.io.req.niov; i++)
		mapped += !page_is_ours(io.io.req.iov[i].iov_base);
	assert_true(mapped == 0 || mapped == io.io.req.niov);
	bt_copy(&io, got);
	bt_put(&io);
	return mapped > 0;
}

/* The kernel keeps pages that are mapped, so they are unmapped first. */
static void evict(void)
{
	struct file *f = disk->priv;
	int fd = open(path, O_RDWR);

	madvise(f->map, f->map_bytes, MADV_DONTNEED);
	assert_true(fd >= 0 && fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
	close(fd);
}

/* File systems without NOWAIT are not mapped. */
static void need_mapping(void)
{
	if (!((struct file *)disk->priv)->map)
		skip();
}

/* Proves that a resident range is lent from the mapping, with the bytes of the file, whatever its length and
 * place, also right after a write; and that a reader who will look at the data gets pages instead. */
static void test_resident(void **state)
{
	static const struct { uint64_t off, len; } r[] = {
		{ 0, 1 << 20 }, { 512, 65536 }, { 4096 * 3, 4096 }, { 4096 * 63 + 512, 8192 }, { 1 << 20, 512 } };

	need_mapping();
	bt_fill(want, sizeof(want), 7);
	assert_int_equal(bt_do(loop, disk, BLK_WRITE, 0, 0, sizeof(want), want), 0);
	bt_fill(got, 4096, 9);
	assert_int_equal(bt_do(loop, disk, BLK_WRITE, 0, 1 << 20, 4096, got), 0);
	for (unsigned i = 0; i < 4; i++) {
		int mapped = read_lent(BLK_SEND, r[i].off, r[i].len);
		assert_true(mapped >= 0 && (mapped || r[i].len < 65536)); /* short ones need a newer kernel */
		assert_memory_equal(got, want + r[i].off, r[i].len);
	}
	assert_int_equal(read_lent(0, 0, 65536), 0);
	assert_memory_equal(got, want, 65536);
	bt_fill(want, 65536, 8);
	assert_int_equal(bt_do(loop, disk, BLK_WRITE, 0, 0, 65536, want), 0);
	assert_int_equal(read_lent(BLK_SEND, 0, 65536), 1);
	assert_memory_equal(got, want, 65536);
}

/* Proves that what left the page cache is read, not lent, also when it was lent before. */
static void test_evicted(void **state)
{
	need_mapping();
	read_lent(BLK_SEND, 8192, 4096);
	assert_int_equal(read_lent(BLK_SEND, 0, 65536), 1);
	evict();
	assert_int_equal(read_lent(BLK_SEND, 8192, 4096), 0);
	assert_memory_equal(got, want + 8192, 4096);
	evict();
	assert_int_equal(read_lent(BLK_SEND, 0, 65536), 0);
	assert_memory_equal(got, want, 65536);
}

/* Proves that a file that was cut short is an error of the medium where it was mapped, and no signal. */
static void test_cut(void **state)
{
	assert_true(read_lent(BLK_SEND, 65536, 65536) >= 0);
	assert_int_equal(truncate(path, 65536), 0);
	assert_int_equal(read_lent(BLK_SEND, 65536, 4096), -EIO);
	assert_int_equal(read_lent(BLK_SEND, 0, 131072), -EIO);
	assert_true(read_lent(BLK_SEND, 0, 65536) >= 0);
	assert_memory_equal(got, want, 65536);
	assert_int_equal(truncate(path, 32768 + 512), 0);
	assert_int_equal(disk->ops->poll_size(disk), -ENXIO);
	assert_int_equal(read_lent(BLK_SEND, 32768 + 512, 512), -EIO);
	assert_true(read_lent(BLK_SEND, 32768, 512) >= 0);
}

/* Proves that what is still lent when the disk is closed can be neither read nor become other memory. */
static void test_closed_while_lent(void **state)
{
	char text[300];
	int pipes[2];

	bt_start(&io, loop, disk, BLK_READ, BLK_LEND | BLK_SEND, 0, 65536, NULL);
	assert_int_equal(bt_wait(&io), 0);
	if (page_is_ours(io.iov[0].iov_base)) {
		bt_put(&io);
		skip(); /* nothing is lent from a mapping here */
	}
	blk_close(disk);
	assert_int_equal(pipe(pipes), 0);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(write(pipes[1], io.iov[i].iov_base, io.iov[i].iov_len), -1);
		assert_int_equal(errno, EFAULT);
	}
	char *p = mmap(io.iov[0].iov_base, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(p, MAP_FAILED);
	bt_put(&io);
	close(pipes[0]);
	close(pipes[1]);
	snprintf(text, sizeof(text), "path=%s", path);
	assert_int_equal(bt_open(&disk, "file", text, NULL), 0); /* its lock went with it */
}

static int setup(void **state)
{
	char text[300];

	if (page_arena_init(0, NULL) || !(loop = loop_new(&loop_epoll, 0, NULL)))
		return -1;
	snprintf(path, sizeof(path), "%s/disk", bt_mkdir());
	snprintf(text, sizeof(text), "path=%s,size=%d", path, BYTES);
	return bt_open(&disk, "file", text, NULL);
}

static int teardown(void **state)
{
	blk_close(disk);
	work_fini(); /* first: a worker may still be about to wake the loop */
	loop_free(loop);
	bt_rmdir();
	page_arena_fini();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resident),
		cmocka_unit_test(test_evicted),
		cmocka_unit_test(test_closed_while_lent),
		cmocka_unit_test(test_cut),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

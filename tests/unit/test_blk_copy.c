/* SPDX-License-Identifier: BSD-3-Clause
 * BLK_COPY: between RAM disks, between files, and where it must be refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/check.h"
#include "blktest.h"

static struct loop *loop;
static char mounted[400]; /* where a file system is, for as long */
enum { WAKE = 16 }; /* bytes by which a worker wakes the loop */

static struct blk *open_blk(const char *driver, const char *options, ...)
{
	struct blk *b;
	char text[512];
	va_list ap;

	va_start(ap, options);
	vsnprintf(text, sizeof(text), options, ap);
	va_end(ap);
	if (bt_open(&b, driver, text, NULL) < 0)
		fail_msg("%s", bt_error);
	return b;
}

static int copy(struct blk *to, uint64_t off, struct blk *from, uint64_t from_off, uint64_t len, uint32_t flags)
{
	struct blk_req r = { .op = BLK_COPY, .flags = flags, .off = off, .len = len, .from = from, .from_off = from_off };

	return blk_sync(loop, to, &r);
}

static void expect(struct blk *b, const char *model, uint64_t len)
{
	char *have = malloc(len);

	assert_int_equal(bt_do(loop, b, BLK_READ, 0, 0, len, have), 0);
	for (uint64_t i = 0; i < len; i++)
		if (have[i] != model[i])
			fail_msg("byte %llu differs", (unsigned long long)i);
	free(have);
}

/* Bytes and calls that this process has written: /proc/self/io. */
static uint64_t written(const char *what)
{
	FILE *f = fopen("/proc/self/io", "re");
	char name[32];
	unsigned long long v = 0, n;

	assert_non_null(f);
	while (fscanf(f, "%31[^:]: %llu\n", name, &n) == 2)
		if (!strcmp(name, what))
			v = n;
	fclose(f);
	return v;
}

/* Proves that copies between RAM disks take references, and cost no page but for parts of pages. */
static void ram_shares(void **state)
{
	struct blk *a = open_blk("ram", "size=64MiB"), *b = open_blk("ram", "size=64MiB");
	static char data[1 << 20];
	static struct bt_io t;

	bt_fill(data, sizeof(data), 1);
	assert_int_equal(bt_do(loop, a, BLK_WRITE, 0, 8192, sizeof(data), data), 0);
	assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, 40 << 20, 4096, data), 0);
	uint64_t used = page_used_bytes();
	assert_int_equal(copy(b, 8192, a, 8192, sizeof(data), 0), 0);
	assert_int_equal(page_used_bytes(), used);
	bt_start(&t, loop, b, BLK_READ, BLK_LEND, 8192, 4096, NULL);
	assert_int_equal(bt_wait(&t), 0);
	assert_int_equal(page_refs(t.iov[0].iov_base), 3); /* both disks and this read */
	assert_memory_equal(t.iov[0].iov_base, data, 4096);
	bt_put(&t);
	/* A hole is copied too: what was there goes. */
	assert_int_equal(copy(b, 0, a, 2 << 20, 62 << 20, 0), 0);
	assert_int_equal(page_used_bytes(), used - 4096);
	blk_close(a);
	blk_close(b);
	assert_int_equal(page_used_bytes(), 0);
}

/* Proves for random ranges, aligned and not, that a copy between RAM disks or within one gives what memmove gives, or is
 * refused because the ranges lie differently in their pages or meet. */
static void ram_random(void **state)
{
	enum { SIZE = 8 << 20 };
	struct blk *d[2] = { open_blk("ram", "size=8MiB"), open_blk("ram", "size=8MiB") };
	char *m[2] = { calloc(1, SIZE), calloc(1, SIZE) };
	uint64_t seed = 7, done = 0, refused = 0;

	for (int i = 0; i < 600; i++) {
		unsigned to = bt_random(&seed) & 1, from = bt_random(&seed) & 1;
		uint64_t unit = bt_random(&seed) & 1 ? 512 : 4096, len = bt_random(&seed) % (i % 8 ? 40000 : SIZE / 2) / unit * unit;
		uint64_t off = bt_random(&seed) % (SIZE - len) / unit * unit, src = bt_random(&seed) % (SIZE - len) / unit * unit;
		if (bt_random(&seed) % 3 == 0) {
			len = MIN(len, 65536u);
			bt_fill(m[to] + off, len, seed);
			if (len)
				assert_int_equal(bt_do(loop, d[to], BLK_WRITE, 0, off, len, m[to] + off), 0);
			continue;
		}
		bool meet = to == from && off < src + len && src < off + len;
		int want = len && (meet || ((off ^ src) & 4095)) ? -EOPNOTSUPP : 0;
		assert_int_equal(copy(d[to], off, d[from], src, len, 0), want);
		if (want == 0)
			memmove(m[to] + off, m[from] + src, len);
		want ? refused++ : done++;
	}
	assert_true(done > 100 && refused > 20);
	for (int i = 0; i < 2; i++) {
		expect(d[i], m[i], SIZE);
		free(m[i]);
		blk_close(d[i]);
	}
	assert_int_equal(page_used_bytes(), 0);
}

/* Proves that a copy is refused, or fails, before anything changes: another driver, a filter that does not know it, beyond
 * either end, a read-only destination. */
static void refused(void **state)
{
	const char *dir = bt_mkdir();
	struct blk *ram = open_blk("ram", "size=1MiB"), *file = open_blk("file", "path=%s/a,size=1MiB", dir), *top;

	assert_int_equal(copy(ram, 0, file, 0, 4096, 0), -EOPNOTSUPP);
	assert_int_equal(copy(file, 0, ram, 0, 4096, 0), -EOPNOTSUPP);
	assert_int_equal(copy(ram, 0, ram, (1 << 20) - 4096, 8192, 0), -ERANGE);
	assert_int_equal(copy(ram, 1 << 20, ram, 0, 4096, 0), -ERANGE);
	assert_int_equal(copy(ram, 8192, ram, 0, 4096, 0), 0);
	assert_int_equal(bt_open(&top, "fault", "op=copy,nth=1", ram), 0);
	assert_false(top->caps & BLK_CAN_COPY);
	assert_int_equal(copy(top, 8192, top, 0, 4096, 0), -EOPNOTSUPP);
	blk_close(file);
	file = open_blk("file", "path=%s/a,ro", dir);
	assert_int_equal(copy(file, 0, file, 8192, 4096, 0), -EROFS);
	blk_close(file);
	blk_close(top);
	bt_rmdir();
}

static void fill_holey(struct blk *b, char *model, uint64_t size, uint64_t seed)
{
	for (int i = 0; i < 12; i++) {
		uint64_t len = 4096 + bt_random(&seed) % 60000 / 512 * 512, off = bt_random(&seed) % (size - len) / 512 * 512;
		bt_fill(model + off, len, seed);
		assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, off, len, model + off), 0);
	}
}

static uint64_t blocks(const char *dir, const char *name)
{
	char path[300];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks;
}

/* Random copies between two files in dir against a model. */
static void files_random(const char *dir)
{
	enum { SIZE = 16 << 20 };
	struct blk *d[2] = { open_blk("file", "path=%s/a,size=16MiB", dir), open_blk("file", "path=%s/b,size=16MiB", dir) };
	char *m[2] = { calloc(1, SIZE), calloc(1, SIZE) };
	uint64_t seed = 11;

	fill_holey(d[0], m[0], SIZE, 3);
	for (int i = 0; i < 60; i++) {
		unsigned to = bt_random(&seed) & 1, from = !to, unit = i & 1 ? 512 : 4096;
		uint64_t len = bt_random(&seed) % (SIZE / 4) / unit * unit;
		uint64_t off = bt_random(&seed) % (SIZE - len) / unit * unit, src = bt_random(&seed) % (SIZE - len) / unit * unit;
		assert_int_equal(copy(d[to], off, d[from], src, len, i % 3 ? BLK_MAY_UNMAP : i % 5 ? 0 : BLK_FUA), 0);
		memcpy(m[to] + off, m[from] + src, len);
	}
	for (int i = 0; i < 2; i++) {
		expect(d[i], m[i], SIZE);
		free(m[i]);
		blk_close(d[i]);
	}
}

/* Proves that copies between files give the bytes, that a copy of a hole is a hole, and that zeros stay allocated where
 * holes are not wanted. */
static void files(void **state)
{
	const char *dir = bt_mkdir();

	files_random(dir);
	struct blk *a = open_blk("file", "path=%s/holey,size=1TiB", dir), *b = open_blk("file", "path=%s/to,size=1TiB", dir);
	char page[4096];
	bt_fill(page, sizeof(page), 5);
	assert_int_equal(bt_do(loop, a, BLK_WRITE, 0, 1ull << 39, 4096, page), 0);
	uint64_t bytes = written("wchar");
	assert_int_equal(copy(b, 0, a, 0, 1ull << 40, BLK_MAY_UNMAP), 0);
	assert_true(written("wchar") - bytes <= 4096 + WAKE);
	assert_true(blocks(dir, "to") <= 64);
	char have[4096];
	assert_int_equal(bt_do(loop, b, BLK_READ, 0, 1ull << 39, 4096, have), 0);
	assert_memory_equal(have, page, 4096);
	blk_close(a);
	blk_close(b);
	bt_rmdir();
}

static bool mount_xfs(char *dir, size_t n)
{
	char command[2400];

	snprintf(dir, n, "%s/m", bt_mkdir());
	snprintf(command, sizeof(command), "command -v mkfs.xfs >/dev/null && truncate -s 320M %s.img && mkfs.xfs -q %s.img && "
		"mkdir %s && mount -o loop %s.img %s 2>/dev/null", dir, dir, dir, dir, dir);
	if (geteuid() != 0 || system(command) != 0)
		return false;
	snprintf(mounted, sizeof(mounted), "%s", dir);
	return true;
}

/* Also after a failure. */
static int unmount(void **state)
{
	int r = *mounted ? umount2(mounted, MNT_DETACH) : 0;

	*mounted = 0;
	return r;
}

/* Proves that a copy inside a file system with reflinks writes no data and takes no space: XFS in a file, which needs root,
 * mkfs.xfs and loop devices; skipped without them. */
static void clones(void **state)
{
	char dir[400];
	static char data[4 << 20], have[4 << 20];

	if (!mount_xfs(dir, sizeof(dir))) {
		bt_rmdir();
		skip(); /* no XFS can be mounted here */
	}
	files_random(dir);
	struct blk *a = open_blk("file", "path=%s/big,size=100MiB", dir), *b = open_blk("file", "path=%s/to,size=100MiB", dir);
	for (int i = 0; i < 25; i++) {
		bt_fill(data, sizeof(data), (uint64_t)i + 1);
		assert_int_equal(bt_do(loop, a, BLK_WRITE, 0, (uint64_t)i * sizeof(data), sizeof(data), data), 0);
	}
	struct blk_req flush = { .op = BLK_FLUSH };
	assert_int_equal(blk_sync(loop, a, &flush), 0);
	struct statvfs before, after;
	assert_int_equal(statvfs(dir, &before), 0);
	uint64_t calls = written("syscw"), bytes = written("wchar");
	assert_int_equal(copy(b, 0, a, 0, 100 << 20, BLK_MAY_UNMAP), 0);
	assert_true(written("syscw") - calls <= 2);
	assert_true(written("wchar") - bytes <= WAKE);
	assert_int_equal(statvfs(dir, &after), 0);
	assert_true(before.f_bfree - after.f_bfree < 1024); /* 4 MiB of metadata; the data are 100 */
	assert_int_equal(bt_do(loop, b, BLK_READ, 0, 96 << 20, sizeof(have), have), 0);
	assert_memory_equal(have, data, sizeof(have));
	/* They part when one is written. */
	memset(have, 'x', 4096);
	assert_int_equal(bt_do(loop, b, BLK_WRITE, 0, 96 << 20, 4096, have), 0);
	assert_int_equal(bt_do(loop, a, BLK_READ, 0, 96 << 20, sizeof(have), have), 0);
	assert_memory_equal(have, data, sizeof(have));
	blk_close(a);
	blk_close(b);
	assert_int_equal(unmount(NULL), 0);
	bt_rmdir();
}

static int setup(void **state)
{
	struct err e = { 0 };

	assert_int_equal(page_arena_init(256 << 20, &e), 0);
	loop = loop_new(&loop_epoll, 0, &e);
	return !loop;
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
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram_shares), cmocka_unit_test(ram_random), cmocka_unit_test(refused), cmocka_unit_test(files),
		cmocka_unit_test_teardown(clones, unmount),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

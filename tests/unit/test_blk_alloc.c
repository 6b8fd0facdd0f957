/* SPDX-License-Identifier: BSD-3-Clause
 * Opening disks while memory runs out: the n-th allocation fails, for each n until none does. The linker puts the
 * functions below in front of the allocator. */
#include <dirent.h>
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
#include "blktest.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);

static long countdown = -1; /* allocations until one fails; negative: none does */

static bool refused(void)
{
	return countdown >= 0 && countdown-- == 0;
}

void *__wrap_malloc(size_t n)
{
	return refused() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each)
{
	return refused() ? NULL : __real_calloc(n, each);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
	return refused() ? NULL : __real_aligned_alloc(align, n);
}

char *__wrap_strdup(const char *s)
{
	return refused() ? NULL : __real_strdup(s);
}

static int open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* What the configuration does to open a disk, with every allocation of it counted. */
static int open_counted(struct blk **ret, const struct blk_ops *ops, const char *options, struct blk *child, void *conf)
{
	struct err e;
	int r = schema_defaults(ops->config, conf, &e);

	if (r == 0)
		r = schema_parse(ops->config, conf, options, &e);
	if (r == 0)
		r = schema_check(ops->config, conf, &e);
	if (r == 0)
		r = blk_open(ret, ops, conf, child, &e);
	schema_free(ops->config, conf);
	return r;
}

/* Returns how many allocations had to fail, one at a time, before none did. path: a file that must not be there
 * after a failure, or NULL. */
static long until_open(const char *driver, const char *options, const char *path)
{
	const struct blk_ops *ops = blk_find(driver);
	char conf[256] = { 0 };
	struct blk *b = NULL;

	assert_true(ops->conf_bytes <= sizeof(conf));
	for (long n = 0;; n++) {
		int fds = open_descriptors();
		countdown = n;
		int r = open_counted(&b, ops, options, NULL, conf);
		bool hit = countdown < 0;
		countdown = -1;
		if (r < 0) {
			assert_int_equal(r, -ENOMEM);
			assert_int_equal(open_descriptors(), fds);
			assert_true(!path || access(path, F_OK) != 0);
			continue;
		}
		blk_close(b);
		if (!hit)
			return n;
	}
}

/* Proves that each driver that cannot get memory says so, leaves no descriptor, no memory and no half-made file
 * behind, and opens once there is memory. */
static void test_drivers(void **state)
{
	char options[300], path[280];

	assert_true(until_open("ram", "size=1MiB", NULL) >= 1);
	assert_true(until_open("null", "size=1MiB", NULL) >= 1);
	snprintf(path, sizeof(path), "%s/disk", bt_mkdir());
	snprintf(options, sizeof(options), "path=%s,size=1MiB", path);
	assert_true(until_open("file", options, path) >= 3);
	bt_rmdir();
}

/* Proves the same of each filter, which also leaves its child to the caller. */
static void test_filters(void **state)
{
	static const struct { const char *name, *options; } filters[] = {
		{ "fault", "nth=1" }, { "delay", "time=1ms" }, { "crash", "" },
	};

	for (unsigned i = 0; i < ARRAY_LEN(filters); i++) {
		const struct blk_ops *ops = blk_find(filters[i].name);
		char conf[256] = { 0 };
		struct blk *child, *b;
		assert_int_equal(bt_open(&child, "ram", "size=1MiB", NULL), 0);
		for (long n = 0, r = -ENOMEM; r < 0; n++) {
			countdown = n;
			r = open_counted(&b, ops, filters[i].options, child, conf);
			countdown = -1;
			assert_true(r == 0 || r == -ENOMEM);
		}
		blk_close(b);
	}
}

static int setup(void **state)
{
	return page_arena_init(64 << 20, NULL);
}

static int teardown(void **state)
{
	page_arena_fini();
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_drivers),
		cmocka_unit_test(test_filters),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

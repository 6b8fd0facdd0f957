/* SPDX-License-Identifier: BSD-3-Clause */
#include "blktest.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

char bt_error[1024];
static char dir[256];

int bt_open(struct blk **ret, const char *driver, const char *options, struct blk *child)
{
	const struct blk_ops *ops = blk_find(driver);
	struct err e = { 0 };
	int r;

	CHECK(ops);
	void *conf = calloc(1, ops->conf_bytes + 1);
	CHECK(conf);
	r = schema_defaults(ops->config, conf, &e);
	if (r == 0)
		r = schema_parse(ops->config, conf, options, &e);
	if (r == 0)
		r = schema_check(ops->config, conf, &e);
	if (r == 0)
		r = blk_open(ret, ops, conf, child, &e);
	schema_free(ops->config, conf);
	free(conf);
	err_str(&e, bt_error, sizeof(bt_error));
	return r;
}

const char *bt_mkdir(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%s/lunette-blk-XXXXXX", tmp && strlen(tmp) < 100 ? tmp : "/tmp");
	CHECK(mkdtemp(dir));
	return dir;
}

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	remove(path);
	return 0;
}

void bt_rmdir(void)
{
	nftw(dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t page_count(uint64_t off, uint64_t len)
{
	return ((off & (PAGE_BYTES - 1)) + len + PAGE_BYTES - 1) / PAGE_BYTES;
}

/* Data in pages, laid out so that page boundaries meet those of the medium, as received data does. */
static void fill_pages(struct bt_io *t, uint64_t off, uint64_t len, const char *data)
{
	int n = 0;

	for (uint64_t done = 0; done < len;) {
		size_t at = (off + done) & (PAGE_BYTES - 1), part = MIN(PAGE_BYTES - at, len - done);
		char *p = page_get(loop_pages(t->loop));

		CHECK(p);
		memcpy(p + at, data + done, part);
		t->iov[n++] = (struct iovec){ p + at, part };
		done += part;
	}
	t->io.req.niov = n;
	t->npages = (uint64_t)n;
}

static void on_done(struct blk_io *io, void *ctx)
{
	struct bt_io *t = ctx;

	t->done = true;
	t->ndone++;
	for (uint64_t i = 0; i < t->npages; i++)
		page_put(loop_pages(t->loop), t->iov[i].iov_base);
	t->npages = 0;
}

void bt_start(struct bt_io *t, struct loop *l, struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len,
	char *data)
{
	CHECK(page_count(off, len) <= BT_IOV || (op != BLK_READ && op != BLK_WRITE));
	t->loop = t->io.loop = l;
	t->done = false;
	t->data = data;
	t->npages = 0;
	t->io.req = (struct blk_req){
		.op = op, .flags = flags, .off = off, .len = len, .iov = t->iov, .map = t->map, .nmap = ARRAY_LEN(t->map)
	};
	t->iov[0] = (struct iovec){ data, len };
	t->io.req.niov = 1;
	if (op == BLK_WRITE && (flags & BLK_PAGES))
		fill_pages(t, off, len, data);
	else if (op == BLK_READ && (flags & BLK_LEND))
		t->io.req.niov = (int)page_count(off, len);
	blk_submit(b, &t->io, on_done, t);
}

int bt_wait(struct bt_io *t)
{
	time_t begin = time(NULL);

	while (!t->done) {
		CHECK(time(NULL) - begin < 50); /* a request that never ends */
		loop_turn(t->loop, loop_now_ns(t->loop) + 1000000000);
	}
	return t->io.status;
}

void bt_copy(const struct bt_io *t, char *to)
{
	for (int i = 0; i < t->io.req.niov; i++) {
		memcpy(to, t->iov[i].iov_base, t->iov[i].iov_len);
		to += t->iov[i].iov_len;
	}
}

void bt_put(struct bt_io *t)
{
	for (int i = 0; i < t->io.req.niov; i++)
		page_put(loop_pages(t->loop), t->iov[i].iov_base);
	t->io.req.niov = 0;
}

int bt_do(struct loop *l, struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len, char *data)
{
	static _Thread_local struct bt_io memory;
	struct bt_io *t = &memory;
	int r;

	bt_start(t, l, b, op, flags, off, len, data);
	r = bt_wait(t);
	if (r == 0 && op == BLK_READ && (flags & BLK_LEND)) {
		bt_copy(t, data);
		bt_put(t);
	}
	return r;
}

uint64_t bt_random(uint64_t *seed)
{
	uint64_t z = (*seed += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

void bt_fill(char *p, uint64_t len, uint64_t seed)
{
	uint64_t i;

	for (i = 0; i + 8 <= len; i += 8) {
		uint64_t v = bt_random(&seed);
		memcpy(p + i, &v, 8);
	}
	for (; i < len; i++)
		p[i] = (char)i;
}

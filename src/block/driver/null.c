/* SPDX-License-Identifier: BSD-3-Clause
 * A disk of nothing: reads zeros, swallows writes. For measuring everything above a medium.
 *
 *   option   default  meaning
 *   size     -        capacity, 512 B to 8 EiB */
#include <string.h>

#include "base/check.h"
#include "block/blk.h"
#include "block/driver/driver.h"

struct null_conf {
	uint64_t size;
};

static const struct conf_field null_fields[] = {
	{ "size", CONF_BYTES, CONF_REQUIRED, offsetof(struct null_conf, size), NULL, "512", "8EiB",
		"Capacity in bytes.", NULL },
	{ 0 },
};

static void null_lend(struct blk_req *r)
{
	uint64_t left = r->len;
	int n = 0;

	while (left) {
		size_t len = MIN(left, PAGE_BYTES);
		page_ref(page_zero());
		r->iov[n++] = (struct iovec){ page_zero(), len };
		left -= len;
	}
	r->niov = n;
}

static void null_read(struct blk_req *r)
{
	if (r->flags & BLK_LEND) {
		null_lend(r);
		return;
	}
	for (int i = 0; i < r->niov; i++)
		memset(r->iov[i].iov_base, 0, r->iov[i].iov_len);
}

static void null_map(struct blk_req *r)
{
	r->map[0] = (struct blk_extent){ r->off, r->len, BLK_HOLE };
	r->nmap = 1;
}

static void null_submit(struct blk *b, struct blk_io *io)
{
	if (io->req.op == BLK_READ)
		null_read(&io->req);
	else if (io->req.op == BLK_MAP)
		null_map(&io->req);
	blk_done(io, 0);
}

static int null_open(struct blk *b, const void *conf, struct err *e)
{
	const struct null_conf *c = conf;

	b->bytes = c->size;
	b->caps = BLK_CAN_DISCARD | BLK_CAN_LEND | BLK_CAN_MAP | BLK_VOLATILE;
	return 0;
}

const struct blk_ops blk_null = {
	.name = "null",
	.conf_bytes = sizeof(struct null_conf),
	.config = null_fields,
	.open = null_open,
	.submit = null_submit,
};

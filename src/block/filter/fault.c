/* SPDX-License-Identifier: BSD-3-Clause
 * Fails requests on purpose.
 *
 *   option   default  meaning
 *   op       any      which requests: any, read, write, flush, discard, zero, map, copy
 *   nth      0        the number of the first that fails, from 1; 0: none is counted out, see count
 *   count    1        how many fail from there on; 0: all
 *   off      0        only requests that touch the range from here ...
 *   len      0        ... of so many bytes; 0: to the end. A failure names the first byte of the range it met
 *   errno    EIO      what they fail with
 *   after    off      the medium does the work before the failure is reported */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "block/filter/filter.h"

struct fault_conf {
	uint64_t op, nth, count, off, len, error;
	bool     after;
};

struct fault {
	struct fault_conf c;
	_Atomic uint64_t  seen;
};

const char *const blk_op_choices[] = { "any", "read", "write", "flush", "discard", "zero", "map", "copy", NULL };

static const char *const error_names[] = { "EIO", "ENOSPC", "ENOMEM", "ETIMEDOUT", "EOPNOTSUPP", "ENODEV", NULL };
static const int error_codes[] = { EIO, ENOSPC, ENOMEM, ETIMEDOUT, EOPNOTSUPP, ENODEV };

#define AT(x) offsetof(struct fault_conf, x)
static const struct conf_field fault_fields[] = {
	{ "op", CONF_ENUM, 0, AT(op), "any", NULL, NULL, "Which requests fail.", blk_op_choices },
	{ "nth", CONF_UINT, 0, AT(nth), "0", NULL, NULL, "The first that fails, from 1; 0: none.", NULL },
	{ "count", CONF_UINT, 0, AT(count), "1", NULL, NULL, "How many fail; 0: all from there on.", NULL },
	{ "off", CONF_BYTES, 0, AT(off), "0", NULL, NULL, "Beginning of the bad range, bytes.", NULL },
	{ "len", CONF_BYTES, 0, AT(len), "0", NULL, NULL, "Length of the bad range, bytes; 0: to the end.", NULL },
	{ "errno", CONF_ENUM, 0, AT(error), "EIO", NULL, NULL, "What they fail with.", error_names },
	{ "after", CONF_BOOL, 0, AT(after), "off", NULL, NULL, "Fail after the medium did the work.", NULL },
	{ 0 },
};

static uint64_t bad_end(const struct fault_conf *c)
{
	return c->len && c->len < UINT64_MAX - c->off ? c->off + c->len : UINT64_MAX;
}

static bool concerns(const struct fault_conf *c, const struct blk_req *r)
{
	if (!blk_op_chosen(c->op, r->op))
		return false;
	if (r->op == BLK_FLUSH)
		return true;
	return r->off < bad_end(c) && r->off + r->len > c->off;
}

static bool fails(struct fault *f, const struct blk_req *r)
{
	uint64_t n;

	if (!concerns(&f->c, r))
		return false;
	n = atomic_fetch_add_explicit(&f->seen, 1, memory_order_relaxed) + 1;
	return f->c.nth && n >= f->c.nth && (!f->c.count || n - f->c.nth < f->c.count);
}

static void fail(struct fault *f, struct blk_io *io)
{
	if (io->req.op == BLK_FLUSH)
		blk_done(io, -error_codes[f->c.error]);
	else
		blk_fail_at(io, -error_codes[f->c.error], MAX(io->req.off, f->c.off));
}

static void fail_after(struct blk_io *io, void *ctx)
{
	bool lent = io->req.op == BLK_READ && (io->req.flags & BLK_LEND);

	for (int i = 0; lent && i < io->req.niov; i++)
		page_put(loop_pages(io->loop), io->req.iov[i].iov_base);
	fail(ctx, io);
}

static void fault_submit(struct blk *b, struct blk_io *io)
{
	struct fault *f = b->priv;

	if (!fails(f, &io->req)) {
		blk_pass(b, io);
	} else if (f->c.after) {
		blk_push(io, fail_after, f);
		blk_pass(b, io);
	} else {
		fail(f, io);
	}
}

static int fault_open(struct blk *b, const void *conf, struct err *e)
{
	struct fault *f = b->priv;

	memcpy(&f->c, conf, sizeof(f->c));
	return 0;
}

uint64_t fault_seen(const struct blk *b)
{
	const struct fault *f = b->priv;

	return atomic_load_explicit(&f->seen, memory_order_relaxed);
}

void fault_arm(struct blk *b, uint64_t nth)
{
	struct fault *f = b->priv;

	f->c.nth = nth;
	atomic_store_explicit(&f->seen, 0, memory_order_relaxed);
}

const struct blk_ops blk_fault = {
	.name = "fault",
	.filter = true,
	.priv_bytes = sizeof(struct fault),
	.conf_bytes = sizeof(struct fault_conf),
	.config = fault_fields,
	.open = fault_open,
	.submit = fault_submit,
};

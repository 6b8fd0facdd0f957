/* SPDX-License-Identifier: BSD-3-Clause
 * BLK_COPY between two files of one file system, or within one: what the file system can do without moving data, it does.
 * 1. The whole range is cloned (FICLONERANGE): the files share it afterwards.
 * 2. Else holes become holes, or allocated zeros, and data is copied in the kernel (copy_file_range).
 * 3. Else -EOPNOTSUPP, and the caller reads and writes. An error that does not tell which side failed is one of those: the
 *    read or the write will say.
 * The work is done by a worker thread. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "block/driver/driver.h"
#include "block/driver/file.h"

static bool is_full(int error)
{
	return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

/* Errors that only the destination can have stay; the rest say that this is not the way. */
static int verdict(int error)
{
	return is_full(error) ? -error : -EOPNOTSUPP;
}

static int clone_range(struct file *to, uint64_t off, const struct file *from, uint64_t src, uint64_t len)
{
	struct file_clone_range r = { .src_fd = from->fd, .src_offset = src, .src_length = len, .dest_offset = off };

	if (((off | src | len) & (PAGE_BYTES - 1)) || atomic_load_explicit(&to->no_clone, memory_order_relaxed))
		return -EOPNOTSUPP;
	if (ioctl(to->fd, FICLONERANGE, &r) == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOTTY)
		atomic_store_explicit(&to->no_clone, true, memory_order_relaxed);
	return verdict(errno);
}

static int copy_data(struct file *to, uint64_t off, const struct file *from, uint64_t src, uint64_t len)
{
	off_t in = (off_t)src, out = (off_t)off;

	while (len) {
		ssize_t n = copy_file_range(from->fd, &in, to->fd, &out, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return verdict(n < 0 ? errno : EIO);
		len -= (uint64_t)n;
	}
	return 0;
}

static int make_zeros(struct file *to, uint64_t off, uint64_t len, bool may_unmap)
{
	int mode = (may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;

	return fallocate(to->fd, mode, (off_t)off, (off_t)len) < 0 ? verdict(errno) : 0;
}

/* Where the extent at src ends, at most `end`, and whether it is a hole. A file that does not tell is all data. */
static uint64_t extent_end(const struct file *from, uint64_t src, uint64_t end, bool *ret_hole)
{
	off_t at = lseek(from->fd, (off_t)src, SEEK_DATA);

	*ret_hole = at < 0 ? errno == ENXIO : (uint64_t)at > src;
	if (*ret_hole)
		return at < 0 ? end : MIN((uint64_t)at, end);
	at = lseek(from->fd, (off_t)src, SEEK_HOLE);
	return at < 0 || (uint64_t)at <= src ? end : MIN((uint64_t)at, end);
}

static int copy_extents(struct file *to, const struct file *from, const struct blk_req *r)
{
	uint64_t src = r->from_off, end = src + r->len;
	int res = 0;

	while (src < end && res == 0) {
		bool hole;
		uint64_t next = extent_end(from, src, end, &hole), off = r->off + (src - r->from_off);

		if (hole)
			res = make_zeros(to, off, next - src, r->flags & BLK_MAY_UNMAP);
		else
			res = copy_data(to, off, from, src, next - src);
		src = next;
	}
	return res;
}

static const struct file *source_file(const struct blk_req *r)
{
	const struct blk *from = blk_bottom(r->from);

	return from->ops == &blk_file ? from->priv : NULL;
}

static void copy_work(struct op *op)
{
	struct blk_io *io = container_of(op, struct blk_io, op);
	const struct file *from = source_file(&io->req);
	struct file *to = ((struct blk *)op->ctx)->priv;

	op->res = clone_range(to, io->req.off, from, io->req.from_off, io->req.len);
	if (op->res == -EOPNOTSUPP)
		op->res = copy_extents(to, from, &io->req);
}

static void copy_done(struct op *op)
{
	fileio_changed(op->ctx, container_of(op, struct blk_io, op), op->res);
}

void filecopy_submit(struct blk *b, struct blk_io *io)
{
	const struct file *from = source_file(&io->req);

	if (!from || io->req.from_off + io->req.len > atomic_load_explicit(&from->limit, memory_order_relaxed)) {
		blk_done(io, -EOPNOTSUPP); /* a source that was cut short is found by the read */
		return;
	}
	io->op.work = copy_work;
	fileio_start(b, io, OP_WORK, copy_done);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Requests on a descriptor, through the loop's system operations: nothing here blocks, and a medium that hangs
 * holds up its own requests only.
 *
 * Where a request stands is in its scratch: [0] bytes done, [1] iov index << 32 | bytes of that entry,
 * [2..3] one iovec for the rest of an entry. op.ctx is the node. */
#include "block/driver/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

enum { BOUNCE_BYTES = 1 << 20, SECTOR_BYTES = 512 };

static struct blk_io *op_io(struct op *op)
{
	return container_of(op, struct blk_io, op);
}

static struct file *op_file(struct op *op)
{
	return ((struct blk *)op->ctx)->priv;
}

void fileio_start(struct blk *b, struct blk_io *io, enum op_kind kind, op_fn *done)
{
	struct file *f = b->priv;

	io->op.kind = kind;
	io->op.flags = f->op_flags;
	io->op.fd = f->fd;
	io->op.done = done;
	io->op.ctx = b;
	loop_submit(io->loop, &io->op);
}

/* ---- reads and writes ---------------------------------------------------------------------------- */

static bool is_lent(const struct blk_req *r)
{
	return r->op == BLK_READ && (r->flags & BLK_LEND);
}

static void put_pages(struct blk_io *io, int n)
{
	struct page_cache *pc = loop_pages(io->loop);

	for (int i = 0; i < n; i++)
		page_put(pc, io->req.iov[i].iov_base);
	io->req.niov = 0;
}

/* Pages of our own for a lent read, each filled from its start. */
static int take_pages(struct blk_io *io)
{
	struct page_cache *pc = loop_pages(io->loop);
	uint64_t left = io->req.len;
	int n = 0;

	while (left) {
		size_t len = MIN(left, PAGE_BYTES);
		void *p = page_get(pc);

		if (!p) {
			put_pages(io, n);
			return -ENOMEM;
		}
		io->req.iov[n++] = (struct iovec){ p, len };
		left -= len;
	}
	io->req.niov = n;
	return 0;
}

/* Ends a request that failed `done` bytes after its start. A medium fails by whole sectors. */
static void fail(struct blk_io *io, int status, uint64_t done)
{
	if (is_lent(&io->req))
		put_pages(io, io->req.niov);
	blk_fail_at(io, status, (io->req.off + done) & ~(uint64_t)(SECTOR_BYTES - 1));
}

static bool is_lost(struct file *f)
{
	return atomic_load_explicit(&f->lost, memory_order_relaxed);
}

static void set_lost(struct file *f)
{
	atomic_store_explicit(&f->lost, true, memory_order_relaxed);
}

static void lower_limit(struct file *f, uint64_t to)
{
	uint64_t limit = atomic_load_explicit(&f->limit, memory_order_relaxed);

	while (to < limit)
		if (atomic_compare_exchange_weak_explicit(&f->limit, &limit, to, memory_order_relaxed,
			    memory_order_relaxed))
			break;
}

static void rw_advance(struct blk_io *io, uint64_t n)
{
	uint32_t i = (uint32_t)(io->scratch[1] >> 32);
	uint64_t at = (uint32_t)io->scratch[1] + n;

	io->scratch[0] += n;
	while (i < (uint32_t)io->req.niov && at >= io->req.iov[i].iov_len)
		at -= io->req.iov[i++].iov_len;
	io->scratch[1] = (uint64_t)i << 32 | at;
}

static void rw_done(struct op *op);

static void rw_start(struct blk *b, struct blk_io *io)
{
	uint32_t i = (uint32_t)(io->scratch[1] >> 32), at = (uint32_t)io->scratch[1];
	struct iovec *rest = (struct iovec *)&io->scratch[2];
	struct file *f = b->priv;
	struct op *op = &io->op;

	if (at) {
		*rest = (struct iovec){ (char *)io->req.iov[i].iov_base + at, io->req.iov[i].iov_len - at };
		op->iov = rest;
		op->niov = 1;
	} else {
		op->iov = io->req.iov + i;
		op->niov = MIN(io->req.niov - (int)i, (int)FILE_IOV_MAX);
	}
	op->kind = io->req.op == BLK_READ ? OP_READV : OP_WRITEV;
	op->flags = f->op_flags | (io->req.op == BLK_WRITE && (io->req.flags & BLK_FUA) ? OP_DSYNC : 0);
	op->fd = f->fd;
	op->off = io->req.off + io->scratch[0];
	op->done = rw_done;
	op->ctx = b;
	loop_submit(io->loop, op);
}

/* A durable write that fails says what a failed fsync says. */
static int durable_status(struct file *f, const struct blk_req *r, int status)
{
	if (!(r->flags & BLK_FUA) || r->op == BLK_READ)
		return status;
	if (status == -EIO)
		set_lost(f);
	return status == 0 && is_lost(f) ? -EIO : status;
}

static void rw_end(struct blk_io *io, struct file *f, int res)
{
	int status = durable_status(f, &io->req, res < 0 ? res : 0);

	if (status < 0)
		fail(io, status, res < 0 ? io->scratch[0] : 0);
	else
		blk_done(io, 0);
}

static bool is_again(int res)
{
	return res == -EINTR || res == -EAGAIN;
}

static void rw_done(struct op *op)
{
	struct blk_io *io = op_io(op);
	struct file *f = op_file(op);

	if (op->res > 0)
		rw_advance(io, (uint64_t)op->res);
	if (op->res < 0 && !is_again(op->res)) {
		rw_end(io, f, op->res);
	} else if (io->scratch[0] >= io->req.len) {
		rw_end(io, f, 0);
	} else if (op->res == 0 || (f->mem_align > 1 && io->scratch[0] % SECTOR_BYTES)) {
		/* The end of the file, where there should be data: it was cut short. */
		if (io->req.op == BLK_READ)
			lower_limit(f, io->req.off + io->scratch[0]);
		rw_end(io, f, -EIO);
	} else {
		rw_start(op->ctx, io);
	}
}

/* ---- direct I/O from memory that is not aligned: through a buffer, on the worker pool --------------- */

static void iov_copy(const struct iovec *iov, uint64_t skip, char *buf, size_t len, bool to_iov)
{
	for (; len; iov++) {
		size_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = MIN(len, iov->iov_len - skip);
		if (to_iov)
			memcpy((char *)iov->iov_base + skip, buf, n);
		else
			memcpy(buf, (char *)iov->iov_base + skip, n);
		skip = 0;
		buf += n;
		len -= n;
	}
}

static int bounce_some(struct file *f, struct blk_io *io, char *buf)
{
	size_t len = MIN(io->req.len - io->scratch[0], (uint64_t)BOUNCE_BYTES);
	off_t off = (off_t)(io->req.off + io->scratch[0]);
	struct iovec v = { buf, len };
	ssize_t n;

	if (io->req.op == BLK_READ) {
		n = preadv(f->fd, &v, 1, off);
	} else {
		iov_copy(io->req.iov, io->scratch[0], buf, len, false);
		n = pwritev2(f->fd, &v, 1, off, io->req.flags & BLK_FUA ? RWF_DSYNC : 0);
	}
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0 || n % SECTOR_BYTES)
		return -EIO;
	if (io->req.op == BLK_READ)
		iov_copy(io->req.iov, io->scratch[0], buf, (size_t)n, true);
	io->scratch[0] += (uint64_t)n;
	return 0;
}

static void bounce_work(struct op *op)
{
	struct blk_io *io = op_io(op);
	char *buf = aligned_alloc(PAGE_BYTES, BOUNCE_BYTES);

	op->res = buf ? 0 : -ENOMEM;
	while (op->res == 0 && io->scratch[0] < io->req.len)
		op->res = bounce_some(op_file(op), io, buf);
	free(buf);
}

static void bounce_done(struct op *op)
{
	rw_end(op_io(op), op_file(op), op->res);
}

static bool is_aligned(const struct file *f, const struct blk_req *r)
{
	uintptr_t bits = 0;

	if (f->mem_align == 1)
		return true;
	for (int i = 0; i < r->niov; i++)
		bits |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
	return (bits & (f->mem_align - 1)) == 0;
}

static void file_rw(struct blk *b, struct blk_io *io)
{
	struct file *f = b->priv;

	if (is_lent(&io->req)) {
		if (filemap_lend(b, io)) {
			blk_done(io, 0);
			return;
		}
		int r = take_pages(io);
		if (r < 0) {
			blk_done(io, r);
			return;
		}
	}
	if (is_aligned(f, &io->req)) {
		rw_start(b, io);
		return;
	}
	io->op.work = bounce_work;
	fileio_start(b, io, OP_WORK, bounce_done);
}

/* ---- flush --------------------------------------------------------------------------------------- */

/* After one failure the kernel has forgotten which pages it could not write: never say "durable" again. A flush
 * that succeeded beside one that failed covers nothing either. */
static void flush_done(struct op *op)
{
	struct file *f = op_file(op);

	if (op->res < 0 && op->res != -EINTR && op->res != -ECANCELED)
		set_lost(f);
	blk_done(op_io(op), is_lost(f) ? -EIO : MIN(op->res, 0));
}

static void file_flush(struct blk *b, struct blk_io *io)
{
	fileio_start(b, io, OP_FSYNC, flush_done);
}

/* ---- discard and zero ------------------------------------------------------------------------------ */

static void clear_start(struct blk *b, struct blk_io *io);

void fileio_changed(struct blk *b, struct blk_io *io, int res)
{
	if (res < 0)
		fail(io, durable_status(b->priv, &io->req, res), io->scratch[0]);
	else if (io->req.flags & BLK_FUA)
		file_flush(b, io);
	else
		blk_done(io, 0);
}

static void clear_write_done(struct op *op)
{
	struct blk_io *io = op_io(op);

	if (op->res > 0)
		io->scratch[0] += (uint64_t)op->res;
	if ((op->res < 0 && !is_again(op->res)) || op->res == 0)
		fileio_changed(op->ctx, io, op->res < 0 ? op->res : -EIO);
	else if (io->scratch[0] >= io->req.len)
		fileio_changed(op->ctx, io, 0);
	else
		clear_start(op->ctx, io);
}

/* Zeros as data, where nothing better is to be had. */
static void clear_write(struct blk *b, struct blk_io *io)
{
	uint64_t left = io->req.len - io->scratch[0];
	struct iovec *rest = (struct iovec *)&io->scratch[2];
	struct file *f = b->priv;

	if (left < PAGE_BYTES) {
		*rest = (struct iovec){ page_zero(), left };
		io->op.iov = rest;
		io->op.niov = 1;
	} else {
		io->op.iov = f->zeros;
		io->op.niov = (int)MIN(left / PAGE_BYTES, (uint64_t)FILE_ZERO_PAGES);
	}
	io->op.off = io->req.off + io->scratch[0];
	fileio_start(b, io, OP_WRITEV, clear_write_done);
}

static bool is_unsupported(int res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || res == -ENODEV;
}

static void clear_done(struct op *op)
{
	struct file *f = op_file(op);

	if (is_again(op->res)) {
		clear_start(op->ctx, op_io(op));
	} else if (is_unsupported(op->res)) {
		atomic_store_explicit(op->kind == OP_PUNCH ? &f->no_punch : &f->no_zero, true,
			memory_order_relaxed);
		clear_start(op->ctx, op_io(op));
	} else {
		fileio_changed(op->ctx, op_io(op), op->res);
	}
}

static void clear_start(struct blk *b, struct blk_io *io)
{
	struct file *f = b->priv;
	bool unmap = io->req.op == BLK_DISCARD || (io->req.flags & BLK_MAY_UNMAP);

	io->op.off = io->req.off;
	io->op.len = io->req.len;
	if (unmap && !atomic_load_explicit(&f->no_punch, memory_order_relaxed))
		fileio_start(b, io, OP_PUNCH, clear_done);
	else if (!atomic_load_explicit(&f->no_zero, memory_order_relaxed))
		fileio_start(b, io, OP_ZERO, clear_done);
	else
		clear_write(b, io);
}

/* ---- map ------------------------------------------------------------------------------------------- */

static uint64_t seek_or(int fd, uint64_t off, int whence, uint64_t end)
{
	off_t r = lseek(fd, (off_t)off, whence);

	return r < 0 ? end : MIN((uint64_t)r, end);
}

/* What was cut off a file is no hole: a client would take it for zeros without reading, and reading it fails. */
static uint64_t map_limit(int fd, uint64_t end)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? 0 : MIN((uint64_t)st.st_size & ~(uint64_t)(SECTOR_BYTES - 1), end);
}

static void map_work(struct op *op)
{
	struct blk_io *io = op_io(op);
	int fd = op_file(op)->fd, n = 0;
	uint64_t off = io->req.off, end = off + io->req.len, limit = map_limit(fd, end);

	while (off < end && n < io->req.nmap) {
		uint64_t data = off < limit ? seek_or(fd, off, SEEK_DATA, limit) : off;
		bool hole = data > off;
		uint64_t to = hole ? data : off < limit ? seek_or(fd, off, SEEK_HOLE, limit) : end;

		to = to > off ? to : end; /* changed in between: all data */
		io->req.map[n++] = (struct blk_extent){ off, to - off, hole ? BLK_HOLE : BLK_DATA };
		off = to;
	}
	io->req.nmap = n;
	op->res = 0;
}

static void map_done(struct op *op)
{
	blk_done(op_io(op), MIN(op->res, 0));
}

static void file_map(struct blk *b, struct blk_io *io)
{
	if (!(b->caps & BLK_CAN_MAP)) {
		io->req.map[0] = (struct blk_extent){ io->req.off, io->req.len, BLK_DATA };
		io->req.nmap = 1;
		blk_done(io, 0);
		return;
	}
	io->op.work = map_work;
	fileio_start(b, io, OP_WORK, map_done);
}

/* ---- the node -------------------------------------------------------------------------------------- */

/* What must not reach the medium: a promise of durability that cannot be kept, and a write behind the end of a
 * file that was cut short, which would make it whole again with zeros in the middle. */
static int refuse(struct file *f, struct blk_io *io)
{
	struct blk_req *r = &io->req;
	uint64_t limit = atomic_load_explicit(&f->limit, memory_order_relaxed);

	if (r->op == BLK_READ || r->op == BLK_MAP)
		return 0;
	if ((r->op == BLK_FLUSH || (r->flags & BLK_FUA)) && is_lost(f))
		return -EIO;
	if (r->off + r->len > limit) {
		io->fail_off = MAX(r->off, limit & ~(uint64_t)(SECTOR_BYTES - 1));
		return -EIO;
	}
	return 0;
}

void fileio_submit(struct blk *b, struct blk_io *io)
{
	static void (*const exec[BLK_OPS])(struct blk *b, struct blk_io *io) = {
		[BLK_READ] = file_rw,        [BLK_WRITE] = file_rw,     [BLK_FLUSH] = file_flush,
		[BLK_DISCARD] = clear_start, [BLK_ZERO] = clear_start, [BLK_MAP] = file_map,
		[BLK_COPY] = filecopy_submit,
	};
	int r = refuse(b->priv, io);

	if (r < 0) {
		blk_done(io, r);
		return;
	}
	io->scratch[0] = 0;
	io->scratch[1] = 0;
	exec[io->req.op](b, io);
}

/* Whether the file system can start a read without waiting for anything. */
static bool may_hang(int fd)
{
	char *p = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	struct iovec v = { p, PAGE_BYTES };
	bool hangs = !p || (preadv2(fd, &v, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP);

	free(p);
	return hangs;
}

void fileio_init(struct blk *b, int fd)
{
	struct file *f = b->priv;

	f->fd = fd;
	f->mem_align = 1;
	f->op_flags = may_hang(fd) ? OP_MAY_HANG : 0;
	for (int i = 0; i < FILE_ZERO_PAGES; i++)
		f->zeros[i] = (struct iovec){ page_zero(), PAGE_BYTES };
	b->caps |= BLK_CAN_LEND;
	if (!(b->caps & BLK_READ_ONLY))
		b->caps |= BLK_WRITE_CACHE;
}

int fileio_size(struct blk *b, uint64_t bytes)
{
	struct file *f = b->priv;

	bytes &= ~(uint64_t)(SECTOR_BYTES - 1);
	atomic_store_explicit(&f->limit, bytes, memory_order_relaxed);
	if (bytes < blk_bytes(b))
		return -ENXIO;
	atomic_store_explicit(&b->bytes, bytes, memory_order_relaxed);
	return 0;
}

void fileio_direct(struct blk *b, uint32_t align)
{
	struct file *f = b->priv;

	f->mem_align = align;
	f->op_flags |= OP_DIRECT;
}

void fileio_close(struct blk *b)
{
	struct file *f = b->priv;

	filemap_close(b);
	filepoll_close(f);
	close(f->fd); /* drops the locks */
}

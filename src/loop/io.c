/* SPDX-License-Identifier: BSD-3-Clause
 * The system calls behind operations, for the backends: one attempt that does not block, or the whole thing in
 * a worker thread. */
#include "loop/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int result(ssize_t n)
{
	return n < 0 ? -errno : (int)n;
}

static int vectors(const struct op *op)
{
	return MIN(op->niov, IOV_MAX);
}

/* The kernel's ways to say "not without waiting" or "I cannot promise that here". */
static bool would_wait(int res)
{
	return res == -EAGAIN || res == -EOPNOTSUPP || res == -EINVAL || res == -ENOSYS;
}

int io_nowait(struct op *op)
{
	ssize_t n;
	if (op->flags & (OP_DIRECT | OP_MAY_HANG))
		return -EAGAIN;
	if (op->kind == OP_READV)
		n = preadv2(op->fd, op->iov, vectors(op), (off_t)op->off, RWF_NOWAIT);
	else if (op->kind == OP_WRITEV && !(op->flags & OP_DSYNC))
		n = pwritev2(op->fd, op->iov, vectors(op), (off_t)op->off, RWF_NOWAIT);
	else
		return -EAGAIN;
	int res = result(n);
	return would_wait(res) ? -EAGAIN : res;
}

static int do_readv(struct op *op)
{
	return result(preadv(op->fd, op->iov, vectors(op), (off_t)op->off));
}

static int do_writev(struct op *op)
{
	int flags = op->flags & OP_DSYNC ? RWF_DSYNC : 0;
	return result(pwritev2(op->fd, op->iov, vectors(op), (off_t)op->off, flags));
}

static int do_fsync(struct op *op)
{
	return result(fdatasync(op->fd));
}

static int allocate(struct op *op, int mode)
{
	return result(fallocate(op->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)op->off, (off_t)op->len));
}

static int do_punch(struct op *op)
{
	return allocate(op, FALLOC_FL_PUNCH_HOLE);
}

/* File systems without ZERO_RANGE: a hole, then space for it. Devices: the older call. */
static int do_zero(struct op *op)
{
	int res = allocate(op, FALLOC_FL_ZERO_RANGE);
	if (res != -EOPNOTSUPP)
		return res;
	struct stat st;
	if (fstat(op->fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		uint64_t range[2] = { op->off, op->len };
		return result(ioctl(op->fd, BLKZEROOUT, range));
	}
	res = allocate(op, FALLOC_FL_PUNCH_HOLE);
	return res ? res : allocate(op, 0);
}

static int do_work(struct op *op)
{
	op->work(op);
	return op->res;
}

static int (*const blocking[])(struct op *op) = {
	[OP_READV] = do_readv,
	[OP_WRITEV] = do_writev,
	[OP_FSYNC] = do_fsync,
	[OP_PUNCH] = do_punch,
	[OP_ZERO] = do_zero,
	[OP_WORK] = do_work,
};

int io_blocking(struct op *op)
{
	CHECK(op->kind < ARRAY_LEN(blocking) && blocking[op->kind]);
	int res;
	do {
		res = blocking[op->kind](op);
	} while (res == -EINTR && op->kind != OP_WORK);
	return res;
}

static int do_recv(struct op *op)
{
	if (op->niov == 1)
		return result(recv(op->fd, op->iov[0].iov_base, op->iov[0].iov_len, MSG_DONTWAIT));
	struct msghdr msg = { .msg_iov = op->iov, .msg_iovlen = (size_t)op->niov };
	return result(recvmsg(op->fd, &msg, MSG_DONTWAIT));
}

static int do_send(struct op *op)
{
	if (op->niov == 1)
		return result(send(op->fd, op->iov[0].iov_base, op->iov[0].iov_len,
			MSG_DONTWAIT | MSG_NOSIGNAL));
	struct msghdr msg = { .msg_iov = op->iov, .msg_iovlen = (size_t)vectors(op) };
	return result(sendmsg(op->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static int do_accept(struct op *op)
{
	int fd = result(accept4(op->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
	if (fd >= 0)
		fd_generation_next(fd);
	return fd == -ECONNABORTED ? -EINTR : fd;
}

enum { CONNECTING = 1 }; /* op->state of an OP_CONNECT that has begun */

/* Still connecting: the socket is not writable yet. */
static int connect_result(struct op *op)
{
	struct pollfd p = { .fd = op->fd, .events = POLLOUT };
	if (poll(&p, 1, 0) == 0)
		return -EAGAIN;
	int error = 0;
	socklen_t n = sizeof(error);
	if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &n))
		return -errno;
	return -error;
}

static int do_connect(struct op *op)
{
	if (op->state & CONNECTING)
		return connect_result(op);
	fd_generation_next(op->fd);
	op->state |= CONNECTING;
	int res = result(connect(op->fd, op->addr, op->addrlen));
	return res == -EINPROGRESS || res == -EINTR ? -EAGAIN : res;
}

static int do_poll(struct op *op)
{
	struct pollfd p = { .fd = op->fd, .events = POLLIN };
	int n = poll(&p, 1, 0);
	return n == 0 ? -EAGAIN : result(n);
}

static int (*const attempt[])(struct op *op) = {
	[OP_RECV] = do_recv,
	[OP_SEND] = do_send,
	[OP_ACCEPT] = do_accept,
	[OP_CONNECT] = do_connect,
	[OP_POLL] = do_poll,
};

bool op_is_socket(const struct op *op)
{
	return op->kind < ARRAY_LEN(attempt) && attempt[op->kind];
}

int io_socket(struct op *op)
{
	int res;
	do {
		res = attempt[op->kind](op);
	} while (res == -EINTR);
	return res;
}

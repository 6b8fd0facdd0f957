/* SPDX-License-Identifier: BSD-3-Clause
 * The io_uring backend: every operation is a submission entry, and one io_uring_enter(2) per turn submits them all
 * and waits. Reads and writes of files are first tried without waiting, which is cheaper where they hit the
 * page cache. Completions of the kernel are delivered only when this thread asks (DEFER_TASKRUN), and a word in
 * shared memory says when asking is worth it, so that spinning costs no system calls. */
#include "loop/internal.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	CQ_FACTOR = 8,        /* completion entries for each submission entry: receives wait long */
	WORKERS_MAX = 256,    /* kernel threads for what blocks; the default lets one hung disk take them all */
};
enum { HOT_MAX = 8 };
enum {                        /* op->state */
	CONNECTING = 1,       /* see io.c */
	TRYING = 0x10,        /* in ur.tries */
	WAITING = 0x20,       /* in ur.backlog: the submission queue was full */
	POLLING = 0x40,       /* its entry is a poll, to be followed by an attempt */
	POOLED = 0x80,        /* with a worker */
	CANCELED = 0x100,
};
/* user_data that is no struct op */
enum { KEY_NONE = 0, KEY_WAKE = 1 };

struct ops {
	struct op *head, **tail;
};

struct ur {
	struct io_uring ring;
	int  wake_fd;
	bool enabled;    /* by the thread that turns the loop */
	bool wake_armed;
	bool flagged;    /* the kernel flags pending completions: no call is needed to look */
	struct ops tries, backlog;
	struct ops hot;  /* receives that a spinning loop tries itself */
	unsigned nhot;
};

static struct ur *ur_of(struct loop *l)
{
	return l->be_priv;
}

static void ops_init(struct ops *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void ops_put(struct ops *q, struct op *op)
{
	op->next = NULL;
	*q->tail = op;
	q->tail = &op->next;
}

/* From the best to what every kernel has that this backend supports (5.11). */
static const unsigned setups[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	0,
};

static int ring_make(struct ur *ur, unsigned depth)
{
	int rc = -EINVAL;
	for (unsigned i = 0; rc == -EINVAL && i < ARRAY_LEN(setups); i++) {
		struct io_uring_params p = { 0 };
		p.flags = setups[i] | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP;
		p.cq_entries = depth * CQ_FACTOR;
		rc = io_uring_queue_init_params(depth, &ur->ring, &p);
		ur->flagged = setups[i] & IORING_SETUP_TASKRUN_FLAG;
	}
	if (rc)
		return rc;
	unsigned need = IORING_FEAT_EXT_ARG | IORING_FEAT_FAST_POLL | IORING_FEAT_NODROP;
	if ((ur->ring.features & need) == need)
		return 0;
	io_uring_queue_exit(&ur->ring);
	return -ENOSYS;
}

static int ur_init(struct loop *l, unsigned depth)
{
	struct ur *ur = calloc(1, sizeof(*ur));
	if (!ur)
		return -ENOMEM;
	ops_init(&ur->tries);
	ops_init(&ur->backlog);
	ops_init(&ur->hot);
	int rc = ring_make(ur, depth);
	if (rc) {
		free(ur);
		return rc;
	}
	ur->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->be_priv = ur;
	if (ur->wake_fd >= 0)
		return 0;
	rc = -errno;
	io_uring_queue_exit(&ur->ring);
	free(ur);
	l->be_priv = NULL;
	return rc;
}

static void ur_fini(struct loop *l)
{
	struct ur *ur = ur_of(l);
	if (!ur)
		return;
	io_uring_queue_exit(&ur->ring);
	close(ur->wake_fd);
	free(ur);
	l->be_priv = NULL;
}

/* liburing 2.3 declares a function for it but does not export it. */
static int enable_rings(struct io_uring *ring)
{
	return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* The thread that enables the ring is its single issuer. */
static void enable(struct ur *ur)
{
	if (ur->enabled)
		return;
	ur->enabled = true;
	CHECK(enable_rings(&ur->ring) == 0);
	unsigned workers[2] = { WORKERS_MAX, WORKERS_MAX };
	io_uring_register_iowq_max_workers(&ur->ring, workers);
	io_uring_register_ring_fd(&ur->ring);
}

/* NULL: full, and the kernel takes no more until completions are reaped. */
static struct io_uring_sqe *sqe_get(struct ur *ur)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ur->ring);
	if (sqe || !ur->enabled)
		return sqe;
	io_uring_submit(&ur->ring);
	return io_uring_get_sqe(&ur->ring);
}

static struct msghdr *message(struct op *op)
{
	memset(&op->msg, 0, sizeof(op->msg));
	op->msg.msg_iov = op->iov;
	op->msg.msg_iovlen = (size_t)MIN(op->niov, 1024);
	return &op->msg;
}

static void prep_readv(struct io_uring_sqe *sqe, struct op *op)
{
	io_uring_prep_readv(sqe, op->fd, op->iov, (unsigned)MIN(op->niov, 1024), op->off);
}

static void prep_writev(struct io_uring_sqe *sqe, struct op *op)
{
	int flags = op->flags & OP_DSYNC ? RWF_DSYNC : 0;
	io_uring_prep_writev2(sqe, op->fd, op->iov, (unsigned)MIN(op->niov, 1024), op->off, flags);
}

static void prep_fsync(struct io_uring_sqe *sqe, struct op *op)
{
	io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
}

static void prep_recv(struct io_uring_sqe *sqe, struct op *op)
{
	if (op->niov == 1)
		io_uring_prep_recv(sqe, op->fd, op->iov[0].iov_base, op->iov[0].iov_len, 0);
	else
		io_uring_prep_recvmsg(sqe, op->fd, message(op), 0);
}

static void prep_send(struct io_uring_sqe *sqe, struct op *op)
{
	if (op->niov == 1)
		io_uring_prep_send(sqe, op->fd, op->iov[0].iov_base, op->iov[0].iov_len, MSG_NOSIGNAL);
	else
		io_uring_prep_sendmsg(sqe, op->fd, message(op), MSG_NOSIGNAL);
}

static void prep_accept(struct io_uring_sqe *sqe, struct op *op)
{
	io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void prep_connect(struct io_uring_sqe *sqe, struct op *op)
{
	io_uring_prep_connect(sqe, op->fd, op->addr, op->addrlen);
}

static void prep_poll(struct io_uring_sqe *sqe, struct op *op)
{
	bool out = op->kind == OP_SEND || op->kind == OP_CONNECT;
	io_uring_prep_poll_add(sqe, op->fd, out ? POLLOUT : POLLIN);
}

static void (*const prep[])(struct io_uring_sqe *sqe, struct op *op) = {
	[OP_READV] = prep_readv,
	[OP_WRITEV] = prep_writev,
	[OP_FSYNC] = prep_fsync,
	[OP_RECV] = prep_recv,
	[OP_SEND] = prep_send,
	[OP_ACCEPT] = prep_accept,
	[OP_CONNECT] = prep_connect,
	[OP_POLL] = prep_poll,
};

static void queue(struct ur *ur, struct op *op)
{
	struct io_uring_sqe *sqe = sqe_get(ur);
	if (!sqe) {
		op->state |= WAITING;
		ops_put(&ur->backlog, op);
		return;
	}
	if (op->state & POLLING)
		prep_poll(sqe, op);
	else
		prep[op->kind](sqe, op);
	io_uring_sqe_set_data(sqe, op);
}

/* A write through the page cache waits for locks and memory. The kernel's own workers do such writes of one file
 * strictly one after the other, with a wake-up each: five times slower than the pool. */
static bool buffered_write(const struct op *op)
{
	return op->kind == OP_WRITEV && !(op->flags & OP_DIRECT);
}

/* What has no entry of its own, or would block submission. */
static bool for_worker(const struct op *op)
{
	if (buffered_write(op) && op->flags & OP_DSYNC)
		return true;
	return op->kind >= ARRAY_LEN(prep) || !prep[op->kind] ||
		(op->kind <= OP_FSYNC && op->flags & OP_MAY_HANG);
}

static bool file_may_try(const struct op *op)
{
	return (op->kind == OP_READV || op->kind == OP_WRITEV) && !(op->flags & (OP_DSYNC | OP_DIRECT));
}

static bool is_stream(const struct op *op)
{
	return op->kind == OP_RECV || op->kind == OP_SEND;
}

/* While the loop spins it asks a few sockets for messages itself: that is cheaper than a poll for each, and the sender
 * finds nobody to wake. Not for bulk data, which should not be taken in small pieces: each is acknowledged. */
static void stream_wait(struct loop *l, struct op *op)
{
	struct ur *ur = ur_of(l);
	if (op->kind == OP_RECV && !(op->flags & OP_BULK) && ur->nhot < HOT_MAX && spin_budget(&l->spin)) {
		op->state = TRYING;
		ops_put(&ur->hot, op);
		ur->nhot++;
		return;
	}
	op->state = POLLING;
	queue(ur, op);
}

static void ur_submit(struct loop *l, struct op *op)
{
	struct ur *ur = ur_of(l);
	if (for_worker(op)) {
		op->state = POOLED;
		work_submit(op);
	} else if (op->kind == OP_SEND || file_may_try(op)) {
		op->state = TRYING;
		ops_put(&ur->tries, op);
	} else if (op->kind == OP_RECV) {
		stream_wait(l, op);
	} else {
		queue(ur, op);
	}
}

static int attempt(struct op *op)
{
	if (op->state & CANCELED)
		return -ECANCELED;
	return is_stream(op) ? io_socket(op) : io_nowait(op);
}

/* File operations that the page cache can serve at once, sends, and receives of sockets that have something. */
static unsigned tries_run(struct loop *l)
{
	struct ur *ur = ur_of(l);
	unsigned n = 0;
	struct op *op = ur->tries.head, *next;
	ops_init(&ur->tries);
	for (; op; op = next) {
		next = op->next;
		int res = attempt(op);
		if (res == -EAGAIN && buffered_write(op)) {
			op->state = POOLED;
			work_submit(op);
			continue;
		}
		if (res == -EAGAIN && is_stream(op)) {
			stream_wait(l, op);
			continue;
		}
		if (res == -EAGAIN) {
			op->state = 0;
			queue(ur, op);
			continue;
		}
		op_finish(op, res);
		n++;
	}
	return n;
}

static unsigned hot_run(struct ur *ur)
{
	unsigned n = 0;
	struct op *op = ur->hot.head, *next;
	ops_init(&ur->hot);
	for (; op; op = next) {
		next = op->next;
		int res = attempt(op);
		if (res == -EAGAIN) {
			ops_put(&ur->hot, op);
			continue;
		}
		ur->nhot--;
		op_finish(op, res);
		n++;
	}
	return n;
}

/* Before the loop sleeps, the kernel takes over. */
static void hot_arm(struct ur *ur)
{
	struct op *op = ur->hot.head, *next;
	ops_init(&ur->hot);
	ur->nhot = 0;
	for (; op; op = next) {
		next = op->next;
		op->state = (op->state & CANCELED) | POLLING;
		if (op->state & CANCELED) {
			op->state = TRYING | CANCELED;
			ops_put(&ur->tries, op);
		} else {
			queue(ur, op);
		}
	}
}

static unsigned backlog_run(struct ur *ur)
{
	unsigned n = 0;
	struct op *op = ur->backlog.head, *next;
	ops_init(&ur->backlog);
	for (; op; op = next) {
		next = op->next;
		op->state &= ~(uint32_t)WAITING;
		if (op->state & CANCELED) {
			op_finish(op, -ECANCELED);
			n++;
		} else {
			queue(ur, op);
		}
	}
	return n;
}

/* After the poll of an OP_CONNECT. */
static int connect_end(const struct op *op)
{
	int error = 0;
	socklen_t n = sizeof(error);
	if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &n))
		return -errno;
	return -error;
}

/* Old kernels honour O_NONBLOCK where newer ones wait: wait by a poll then. True: not finished. */
static bool again(struct ur *ur, struct op *op, int res)
{
	if (op->state & CANCELED)
		return false;
	bool polled = op->state & POLLING;
	op->state &= ~(uint32_t)POLLING;
	if (polled && res > 0 && is_stream(op)) {
		op->state = TRYING;
		ops_put(&ur->tries, op);
		return true;
	}
	if (polled && res > 0 && op->kind != OP_CONNECT) {
		queue(ur, op);
		return true;
	}
	if (res == -EINTR || (res == -ECONNABORTED && op->kind == OP_ACCEPT)) {
		queue(ur, op);
		return true;
	}
	bool wait = res == -EAGAIN || (res == -EINPROGRESS && op->kind == OP_CONNECT);
	if (!wait || !op_is_socket(op))
		return false;
	op->state |= POLLING;
	queue(ur, op);
	return true;
}

static int final_result(struct op *op, int res)
{
	if (op->state & CANCELED && (op->state & POLLING || res == -EINTR))
		return -ECANCELED;
	if (op->kind == OP_ACCEPT && res >= 0)
		fd_generation_next(res);
	if (op->kind == OP_CONNECT) {
		fd_generation_next(op->fd);
		return res > 0 ? connect_end(op) : res;
	}
	return res;
}

static unsigned complete(struct ur *ur, uint64_t key, int res)
{
	if (key == KEY_NONE)
		return 0;
	if (key == KEY_WAKE) {
		uint64_t v;
		ssize_t n = read(ur->wake_fd, &v, sizeof(v));
		(void)n;
		ur->wake_armed = false;
		return 0;
	}
	struct op *op = (struct op *)(uintptr_t)key;
	if (again(ur, op, res))
		return 0;
	op_finish(op, final_result(op, res));
	return 1;
}

/* Runs what is in the completion queue now. */
static unsigned reap(struct ur *ur)
{
	unsigned ran = 0;
	for (unsigned n = io_uring_cq_ready(&ur->ring); n; n--) {
		struct io_uring_cqe *cqe = &ur->ring.cq.cqes[*ur->ring.cq.khead & *ur->ring.cq.kring_mask];
		uint64_t key = cqe->user_data;
		int res = cqe->res;
		io_uring_cq_advance(&ur->ring, 1);
		ran += complete(ur, key, res);
	}
	return ran;
}

/* Submits, lets the kernel deliver, runs. */
static unsigned look(struct loop *l)
{
	struct ur *ur = ur_of(l);
	io_uring_submit_and_get_events(&ur->ring);
	unsigned ran = reap(ur);
	return ran + tries_run(l);
}

/* Whether look() might find something; without flags only asking tells. */
static bool may_have(struct ur *ur)
{
	unsigned flags = IO_URING_READ_ONCE(*ur->ring.sq.kflags);
	return io_uring_cq_ready(&ur->ring) || !ur->flagged ||
		flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static bool must_look(struct ur *ur)
{
	return io_uring_sq_ready(&ur->ring) || may_have(ur);
}

static bool ur_idle(struct loop *l)
{
	struct ur *ur = ur_of(l);
	return !ur->tries.head && !ur->backlog.head && !loop_busy(l);
}

static unsigned spin(struct loop *l, uint64_t deadline_ns)
{
	struct ur *ur = ur_of(l);
	uint64_t budget = spin_budget(&l->spin), began = l->now_ns;
	if (!budget)
		return 0;
	uint64_t until = MIN(deadline_ns, began + budget);
	unsigned ran = 0;
	do {
		ran = hot_run(ur);
		if (must_look(ur))
			ran += look(l);
		else if (!ur->nhot)
			cpu_relax();
	} while (!ran && ur_idle(l) && clock_now_ns() < until);
	spin_ended(&l->spin, ran || !ur_idle(l));
	return ran;
}

static void wake_arm(struct ur *ur)
{
	struct io_uring_sqe *sqe = ur->wake_armed ? NULL : sqe_get(ur);
	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, ur->wake_fd, POLLIN);
	io_uring_sqe_set_data64(sqe, KEY_WAKE);
	ur->wake_armed = true;
}

static void enter_and_wait(struct ur *ur, uint64_t wait_ns)
{
	struct io_uring_cqe *cqe;
	if (wait_ns == UINT64_MAX) {
		io_uring_submit_and_wait(&ur->ring, 1);
		return;
	}
	struct __kernel_timespec ts = { (long long)(wait_ns / 1000000000), (long long)(wait_ns % 1000000000) };
	io_uring_submit_and_wait_timeout(&ur->ring, &cqe, 1, &ts, NULL);
}

static unsigned sleep_until(struct loop *l, uint64_t deadline_ns)
{
	struct ur *ur = ur_of(l);
	hot_arm(ur);
	wake_arm(ur);
	if (!ur->wake_armed || ur->tries.head || !mailbox_sleep_begin(&l->mail))
		return look(l);
	uint64_t now = clock_now_ns();
	unsigned ran = 0;
	if (deadline_ns > now) {
		enter_and_wait(ur, deadline_ns == UINT64_MAX ? UINT64_MAX : deadline_ns - now);
		mailbox_sleep_end(&l->mail);
		ran = reap(ur);
		ran += tries_run(l);
		spin_slept(&l->spin, clock_now_ns() - now, ran || !mailbox_empty(&l->mail));
	}
	mailbox_sleep_end(&l->mail);
	return ran;
}

static unsigned ur_poll(struct loop *l, uint64_t deadline_ns)
{
	struct ur *ur = ur_of(l);
	enable(ur);
	unsigned ran = backlog_run(ur) + tries_run(l) + hot_run(ur);
	if (must_look(ur))
		ran += look(l);
	deadline_ns = MIN(deadline_ns, timers_next(l));
	if (ran || deadline_ns <= l->now_ns || !ur_idle(l))
		return ran;
	ran = spin(l, deadline_ns);
	if (!ran && ur_idle(l))
		ran = sleep_until(l, deadline_ns);
	return ran;
}

/* The cancellation's own completion carries KEY_NONE. */
static void cancel_entry(struct ur *ur, struct op *op)
{
	struct io_uring_sqe *sqe = sqe_get(ur);
	if (!sqe)
		return; /* advice */
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data64(sqe, KEY_NONE);
}

static void ur_cancel(struct loop *l, struct op *op)
{
	if (op->state & POOLED) {
		work_cancel(op);
		return;
	}
	bool in_kernel = !(op->state & (TRYING | WAITING));
	op->state |= CANCELED;
	if (in_kernel)
		cancel_entry(ur_of(l), op);
}

static void ur_wake(struct loop *l)
{
	uint64_t one = 1;
	ssize_t n = write(ur_of(l)->wake_fd, &one, sizeof(one));
	(void)n; /* a full counter wakes as well */
}

static uint64_t ur_now(struct loop *l)
{
	return clock_now_ns();
}

const struct loop_backend loop_uring = {
	.name = "uring",
	.init = ur_init,
	.fini = ur_fini,
	.submit = ur_submit,
	.cancel = ur_cancel,
	.poll = ur_poll,
	.wake = ur_wake,
	.now_ns = ur_now,
};

/* SPDX-License-Identifier: BSD-3-Clause
 * The epoll backend. Operations are tried when the turn polls, without asking for readiness first; a socket that
 * would block is registered once, edge triggered, and its readiness remembered, so that the steady state
 * needs no epoll_ctl. Files: an attempt that does not wait, else the worker pool. */
#include "loop/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, WAKE_KEY = -1 };
enum { IN, OUT, SIDES };
enum {                        /* op->state */
	PENDING = 0,          /* in the batch; OP_CONNECT uses 1 for itself, see io.c */
	ARMED = 0x10,         /* waits for readiness */
	CANCELED = 0x20,      /* in the batch, to end with -ECANCELED */
	POOLED = 0x40,        /* with a worker */
};

/* What is known of a descriptor. Zero: nothing. */
struct sock {
	uint32_t generation;
	bool registered;
	bool ready[SIDES];
	bool hung_up;             /* EPOLLRDHUP, HUP or ERR was seen: readiness does not end */
	struct list waiting[SIDES]; /* op.node; next NULL: never used */
};

struct ep {
	int fd, wake_fd;
	struct sock *sock;        /* by descriptor, unreserved */
	size_t nsock;
	struct op *batch, **batch_end;
	bool no_pwait2;
};

static struct ep *ep_of(struct loop *l)
{
	return l->be_priv;
}

static void ep_fini(struct loop *l)
{
	struct ep *ep = ep_of(l);
	if (!ep)
		return;
	if (ep->sock)
		munmap(ep->sock, ep->nsock * sizeof(*ep->sock));
	if (ep->fd >= 0)
		close(ep->fd);
	if (ep->wake_fd >= 0)
		close(ep->wake_fd);
	free(ep);
	l->be_priv = NULL;
}

static int ep_open(struct ep *ep)
{
	struct rlimit lim = { .rlim_max = 1 << 20 };
	getrlimit(RLIMIT_NOFILE, &lim);
	ep->nsock = (size_t)MIN(lim.rlim_max, (rlim_t)1 << 20);
	void *p = mmap(NULL, ep->nsock * sizeof(*ep->sock), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	ep->sock = p;
	ep->fd = epoll_create1(EPOLL_CLOEXEC);
	ep->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u64 = (uint64_t)WAKE_KEY };
	if (ep->fd < 0 || ep->wake_fd < 0 || epoll_ctl(ep->fd, EPOLL_CTL_ADD, ep->wake_fd, &ev))
		return -errno;
	return 0;
}

static int ep_init(struct loop *l, unsigned depth)
{
	struct ep *ep = calloc(1, sizeof(*ep));
	if (!ep)
		return -ENOMEM;
	l->be_priv = ep;
	ep->fd = ep->wake_fd = -1;
	ep->batch_end = &ep->batch;
	int rc = ep_open(ep);
	if (rc)
		ep_fini(l);
	return rc;
}

static void batch_put(struct ep *ep, struct op *op)
{
	op->next = NULL;
	*ep->batch_end = op;
	ep->batch_end = &op->next;
}

static void ep_submit(struct loop *l, struct op *op)
{
	if (op->kind == OP_WORK)
		work_submit(op);
	else
		batch_put(ep_of(l), op);
}

static int side_of(const struct op *op)
{
	return op->kind == OP_SEND || op->kind == OP_CONNECT ? OUT : IN;
}

/* Forgets a former life of the number. */
static struct sock *sock_of(struct ep *ep, int fd)
{
	if (fd < 0 || (size_t)fd >= ep->nsock)
		return NULL;
	struct sock *s = &ep->sock[fd];
	uint32_t generation = fd_generation(fd);
	if (!s->waiting[IN].next) {
		list_init(&s->waiting[IN]);
		list_init(&s->waiting[OUT]);
	}
	if (s->generation != generation) {
		s->generation = generation;
		s->registered = s->hung_up = false;
		s->ready[IN] = s->ready[OUT] = false;
	}
	return s;
}

/* Of listeners and plain descriptors nobody tells that their number has a new meaning. */
static bool must_renew(const struct op *op)
{
	return op->kind == OP_ACCEPT || op->kind == OP_POLL;
}

static int sock_register(struct ep *ep, struct sock *s, const struct op *op)
{
	if (s->registered && !must_renew(op))
		return 0;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	ev.data.u64 = (uint64_t)s->generation << 32 | (uint32_t)op->fd;
	int rc = epoll_ctl(ep->fd, EPOLL_CTL_ADD, op->fd, &ev);
	if (rc && errno == EEXIST)
		rc = epoll_ctl(ep->fd, EPOLL_CTL_MOD, op->fd, &ev);
	if (rc)
		return -errno;
	s->registered = true;
	return 0;
}

/* Waits for the next edge. An edge since the failed attempt is still in the kernel's list. */
static int sock_arm(struct ep *ep, struct sock *s, struct op *op)
{
	int rc = sock_register(ep, s, op);
	if (rc)
		return rc;
	s->ready[side_of(op)] = s->hung_up;
	list_add_tail(&s->waiting[side_of(op)], &op->node);
	op->state |= ARMED;
	return -EAGAIN;
}

static size_t wanted(const struct op *op)
{
	size_t n = 0;
	for (int i = 0; i < op->niov; i++)
		n += op->iov[i].iov_len;
	return n;
}

/* A stream that gave less than asked for is empty (epoll(7)): the next attempt can be saved. */
static void note_short(struct sock *s, const struct op *op, int res)
{
	if (op->kind == OP_RECV && res > 0 && s->registered && !s->hung_up && (size_t)res < wanted(op))
		s->ready[IN] = false;
}

/* Whether trying is useless: another waits before it, or the last edge is used up. */
static bool must_wait(const struct sock *s, const struct op *op)
{
	if (!list_empty(&s->waiting[side_of(op)]))
		return true;
	return s->registered && !s->ready[side_of(op)] && !must_renew(op) && op->kind != OP_CONNECT;
}

/* -EAGAIN: it waits. */
static int sock_start(struct ep *ep, struct op *op)
{
	struct sock *s = sock_of(ep, op->fd);
	if (!s)
		return -EBADF;
	int res = -EAGAIN;
	if (!must_wait(s, op)) {
		res = io_socket(op);
		s = sock_of(ep, op->fd); /* a connect began a new generation */
	}
	if (res == -EAGAIN)
		return sock_arm(ep, s, op);
	note_short(s, op, res);
	return res;
}

static int start(struct ep *ep, struct op *op)
{
	if (op->state & CANCELED)
		return -ECANCELED;
	if (op_is_socket(op))
		return sock_start(ep, op);
	int res = io_nowait(op);
	if (res == -EAGAIN) {
		op->state = POOLED;
		work_submit(op);
	}
	return res;
}

static unsigned batch_run(struct ep *ep)
{
	unsigned n = 0;
	struct op *op = ep->batch, *next;
	ep->batch = NULL;
	ep->batch_end = &ep->batch;
	for (; op; op = next) {
		next = op->next;
		int res = start(ep, op);
		if (res == -EAGAIN)
			continue;
		op_finish(op, res);
		n++;
	}
	return n;
}

/* Continues what waited for this side, in order, until it would block again. */
static unsigned side_ready(struct ep *ep, int fd, int side)
{
	unsigned n = 0;
	struct sock *s = &ep->sock[fd];
	uint32_t generation = s->generation;
	s->ready[side] = true;
	while (s->generation == generation && s->ready[side] && !list_empty(&s->waiting[side])) {
		struct op *op = list_first(&s->waiting[side], struct op, node);
		int res = io_socket(op);
		if (res == -EAGAIN) {
			s->ready[side] = s->hung_up && op->kind != OP_CONNECT;
			break;
		}
		list_del(&op->node);
		op->state = PENDING;
		note_short(s, op, res);
		op_finish(op, res);
		n++;
	}
	return n;
}

static unsigned event(struct ep *ep, const struct epoll_event *ev)
{
	enum { GONE = EPOLLRDHUP | EPOLLHUP | EPOLLERR };
	if (ev->data.u64 == (uint64_t)WAKE_KEY)
		return 0; /* edge triggered: the next write wakes again without a read of this one */
	int fd = (int)(uint32_t)ev->data.u64;
	struct sock *s = &ep->sock[fd];
	if (!s->registered || s->generation != (uint32_t)(ev->data.u64 >> 32))
		return 0;
	if (ev->events & GONE)
		s->hung_up = true;
	unsigned n = 0;
	if (ev->events & (EPOLLIN | GONE))
		n += side_ready(ep, fd, IN);
	if (s->generation == (uint32_t)(ev->data.u64 >> 32) && ev->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		n += side_ready(ep, fd, OUT);
	return n;
}

static int wait_events(struct ep *ep, struct epoll_event *ev, uint64_t wait_ns)
{
	if (!ep->no_pwait2 && wait_ns && wait_ns != UINT64_MAX) {
		struct timespec ts = { (time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000) };
		int n = epoll_pwait2(ep->fd, ev, EVENTS, &ts, NULL);
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		ep->no_pwait2 = true;
	}
	int ms = wait_ns == UINT64_MAX ? -1 : (int)MIN((wait_ns + 999999) / 1000000, (uint64_t)1 << 30);
	return epoll_wait(ep->fd, ev, EVENTS, ms);
}

static unsigned look(struct ep *ep, uint64_t wait_ns)
{
	struct epoll_event ev[EVENTS];
	unsigned ran = 0;
	int n = wait_events(ep, ev, wait_ns);
	for (int i = 0; i < n; i++)
		ran += event(ep, &ev[i]);
	return ran;
}

static bool ep_idle(struct loop *l)
{
	return !ep_of(l)->batch && !loop_busy(l);
}

/* Looks again and again for a while. Returns what it ran. */
static unsigned spin(struct loop *l, uint64_t deadline_ns)
{
	uint64_t budget = spin_budget(&l->spin), began = l->now_ns;
	if (!budget)
		return 0;
	uint64_t until = MIN(deadline_ns, began + budget);
	unsigned ran = 0;
	do {
		ran = look(ep_of(l), 0);
	} while (!ran && ep_idle(l) && clock_now_ns() < until);
	spin_ended(&l->spin, ran || !ep_idle(l));
	return ran;
}

static unsigned sleep_until(struct loop *l, uint64_t deadline_ns)
{
	if (!mailbox_sleep_begin(&l->mail))
		return 0;
	uint64_t now = clock_now_ns();
	unsigned ran = 0;
	if (deadline_ns > now) {
		ran = look(ep_of(l), deadline_ns == UINT64_MAX ? UINT64_MAX : deadline_ns - now);
		spin_slept(&l->spin, clock_now_ns() - now, ran || !mailbox_empty(&l->mail));
	}
	mailbox_sleep_end(&l->mail);
	return ran;
}

static unsigned ep_poll(struct loop *l, uint64_t deadline_ns)
{
	unsigned ran = batch_run(ep_of(l));
	deadline_ns = MIN(deadline_ns, timers_next(l)); /* what ran may have set one */
	if (deadline_ns <= l->now_ns || !ep_idle(l))
		return ran + look(ep_of(l), 0);
	unsigned found = spin(l, deadline_ns);
	if (!found && ep_idle(l))
		found = sleep_until(l, deadline_ns);
	return ran + found;
}

static void ep_cancel(struct loop *l, struct op *op)
{
	if (op->kind == OP_WORK || op->state & POOLED) {
		work_cancel(op);
		return;
	}
	if (op->state & ARMED) {
		list_del(&op->node);
		batch_put(ep_of(l), op);
	}
	op->state = CANCELED;
}

static void ep_forget(struct loop *l, int fd)
{
	struct ep *ep = ep_of(l);
	if (fd < 0 || (size_t)fd >= ep->nsock)
		return;
	struct sock *s = &ep->sock[fd];
	CHECK(!s->waiting[IN].next || (list_empty(&s->waiting[IN]) && list_empty(&s->waiting[OUT])));
	if (s->registered)
		epoll_ctl(ep->fd, EPOLL_CTL_DEL, fd, NULL);
	s->registered = s->hung_up = s->ready[IN] = s->ready[OUT] = false;
}

static void ep_wake(struct loop *l)
{
	uint64_t one = 1;
	ssize_t n = write(ep_of(l)->wake_fd, &one, sizeof(one));
	(void)n; /* a full counter wakes as well */
}

static uint64_t ep_now(struct loop *l)
{
	return clock_now_ns();
}

const struct loop_backend loop_epoll = {
	.name = "epoll",
	.init = ep_init,
	.fini = ep_fini,
	.submit = ep_submit,
	.cancel = ep_cancel,
	.poll = ep_poll,
	.wake = ep_wake,
	.now_ns = ep_now,
	.forget = ep_forget,
};

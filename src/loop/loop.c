/* SPDX-License-Identifier: BSD-3-Clause
 * The turn of a loop, the same for every backend. */
#include "loop/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	DEPTH = 512,        /* submission entries of one turn; more than that is submitted early */
	CHAIN_MAX = 64,     /* deferred tasks may defer this often in a turn before I/O gets its chance */
	MAIL_MAX = 4096,    /* letters read in one turn */
	STALL_NS = 500000000,
};

struct loop_group loop_group;
static _Thread_local struct loop *current;

uint64_t clock_now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void queue_init(struct task_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_put(struct task_queue *q, struct task *t)
{
	t->next = NULL;
	*q->tail = t;
	q->tail = &t->next;
}

/* Runs what is in the queue now; what these put in stays. Returns whether anything ran. */
static bool queue_run(struct loop *l, struct task_queue *q)
{
	struct task *t = q->head, *next;
	bool any = t != NULL;
	queue_init(q);
	for (; t; t = next) {
		next = t->next;
		l->ran++;
		t->run(t);
	}
	return any;
}

static int backend_init(struct loop *l, const struct loop_backend *backend)
{
	if (backend) {
		l->be = backend;
		return backend->init(l, DEPTH);
	}
	l->be = &loop_uring;
	if (!loop_uring.init(l, DEPTH))
		return 0;
	l->be = &loop_epoll;
	return loop_epoll.init(l, DEPTH);
}

struct loop *loop_new(const struct loop_backend *backend, unsigned index, struct err *e)
{
	struct loop *l = aligned_alloc(64, (sizeof(*l) + 63) & ~(size_t)63);
	if (!l) {
		err_set(e, -ENOMEM, "out of memory for a loop");
		return NULL;
	}
	memset(l, 0, sizeof(*l));
	l->index = index;
	l->spin.max_ns = LOOP_SPIN_NS;
	queue_init(&l->deferred);
	queue_init(&l->turn_end);
	mailbox_init(&l->mail);
	l->pages = page_cache_new();
	int rc = l->pages ? timers_init(l) : -ENOMEM;
	if (!rc)
		rc = backend_init(l, backend);
	if (rc) {
		err_set(e, rc, "cannot start the %s loop: %s", l->be ? l->be->name : "", strerror(-rc));
		l->be = NULL;
		loop_free(l);
		return NULL;
	}
	l->now_ns = l->be->now_ns(l);
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->be)
		l->be->fini(l);
	rounds_fini(l);
	timers_fini(l);
	page_cache_free(l->pages);
	free(l);
}

bool loop_busy(struct loop *l)
{
	return l->deferred.head || l->turn_end.head || !mailbox_empty(&l->mail);
}

static void mail_run(struct loop *l)
{
	struct task *t;
	for (unsigned n = 0; n < MAIL_MAX && (t = mailbox_take(&l->mail)); n++) {
		l->ran++;
		t->run(t);
	}
}

static void deferred_run(struct loop *l)
{
	for (unsigned n = 0; n < CHAIN_MAX && queue_run(l, &l->deferred);)
		n++;
}

static void poll_io(struct loop *l, uint64_t deadline_ns)
{
	uint64_t began = l->be->now_ns(l);
	bool late = began - l->now_ns > STALL_NS;
	deadline_ns = loop_busy(l) ? 0 : MIN(deadline_ns, timers_next(l));
	l->now_ns = began;
	l->be->poll(l, deadline_ns);
	l->now_ns = l->be->now_ns(l);
	uint64_t due = MAX(deadline_ns, began);
	l->stalled = late || (l->now_ns > due && l->now_ns - due > STALL_NS);
}

static void callbacks_run(struct loop *l)
{
	deferred_run(l);
	mail_run(l);
	timers_run(l);
	deferred_run(l);
	queue_run(l, &l->turn_end);
}

bool loop_turn(struct loop *l, uint64_t deadline_ns)
{
	struct loop *outer = current;
	uint64_t ran = l->ran;
	current = l;
	callbacks_run(l);
	poll_io(l, l->ran == ran ? deadline_ns : 0);
	current = outer;
	return l->ran != ran;
}

void loop_run(struct loop *l)
{
	struct loop *outer = current;
	current = l;
	while (!atomic_load_explicit(&l->mail.stop, memory_order_relaxed)) {
		callbacks_run(l);
		poll_io(l, UINT64_MAX);
	}
	current = outer;
	atomic_store(&l->mail.stop, false);
}

static void wake_if_asleep(struct loop *l)
{
	if (mailbox_must_wake(&l->mail))
		l->be->wake(l);
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->mail.stop, true);
	wake_if_asleep(l);
}

void loop_post(struct loop *to, struct task *t)
{
	mailbox_put(&to->mail, t);
	wake_if_asleep(to);
}

void op_post(struct op *op, int res)
{
	op->res = res;
	loop_post(op->loop, &op->task);
}

void loop_submit(struct loop *l, struct op *op)
{
	DCHECK(!current || current == l);
	op->loop = l;
	op->state = 0;
	l->be->submit(l, op);
}

void loop_cancel(struct loop *l, struct op *op)
{
	DCHECK(op->loop == l);
	l->be->cancel(l, op);
}

void loop_forget(struct loop *l, int fd)
{
	if (l->be->forget)
		l->be->forget(l, fd);
}

void loop_defer(struct loop *l, struct task *t)
{
	queue_put(&l->deferred, t);
}

void loop_at_turn_end(struct loop *l, struct task *t)
{
	queue_put(&l->turn_end, t);
}

uint64_t loop_now_ns(const struct loop *l)
{
	return l->now_ns;
}

unsigned loop_index(const struct loop *l)
{
	return l->index;
}

const char *loop_backend_name(const struct loop *l)
{
	return l->be->name;
}

struct page_cache *loop_pages(struct loop *l)
{
	return l->pages;
}

struct loop *loop_current(void)
{
	return current;
}

bool loop_stalled(const struct loop *l)
{
	return l->stalled;
}

void loop_set_spin(struct loop *l, uint64_t spin_ns)
{
	l->spin.max_ns = spin_ns;
	l->spin.fruitless = 0;
}

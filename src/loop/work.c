/* SPDX-License-Identifier: BSD-3-Clause
 * The worker pool: threads for what may block. Jobs of one descriptor share a lane, and a lane runs a bounded
 * number of jobs at once, so that a disk that hangs occupies a few threads and not all. When nothing makes
 * progress although jobs wait, a watcher adds threads one by one. */
#include "loop/internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum {
	LANES = 256,
	LANE_RUNS = 6,            /* jobs of one lane that run at once */
	THREADS_EASY = 8,         /* started as soon as a job finds no idle one */
	THREADS_MAX = 256,        /* reached only when jobs are stuck */
	STACK_BYTES = 256 << 10,
	WATCH_NS = 20000000,      /* without progress for so long, the pool is stuck */
	IDLE_S = 10,              /* a thread without work ends */
	FINI_NS = 500000000,      /* wait for threads that hang */
};
struct lane {
	struct list queue; /* of op.node */
	struct list node;  /* in pool.ready, when it may run a job more */
	unsigned    running;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t  more, watch, gone;
	bool        ready_made, watching, stopping;
	struct lane lane[LANES];
	struct list ready;
	unsigned    queued, threads, idle;
	uint64_t    begun; /* jobs, for the watcher's idea of progress */
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void cond_monotonic(pthread_cond_t *c)
{
	pthread_condattr_t a;
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(c, &a);
	pthread_condattr_destroy(&a);
}

static void pool_make(void)
{
	if (pool.ready_made)
		return;
	pool.ready_made = true;
	cond_monotonic(&pool.more);
	cond_monotonic(&pool.watch);
	cond_monotonic(&pool.gone);
	list_init(&pool.ready);
	for (unsigned i = 0; i < LANES; i++) {
		list_init(&pool.lane[i].queue);
		list_init(&pool.lane[i].node);
	}
}

/* Work without a descriptor is spread over all lanes. */
static struct lane *lane_of(const struct op *op)
{
	if (op->kind == OP_WORK && op->fd <= 0)
		return &pool.lane[((uintptr_t)op >> 6) * 2654435761u >> 16 & (LANES - 1)];
	return &pool.lane[op->fd & (LANES - 1)];
}

static void lane_offer(struct lane *lane)
{
	if (list_empty(&lane->node) && !list_empty(&lane->queue) && lane->running < LANE_RUNS)
		list_add_tail(&pool.ready, &lane->node);
}

static bool wait_until(pthread_cond_t *c, uint64_t at_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(at_ns / 1000000000), .tv_nsec = (long)(at_ns % 1000000000) };
	return pthread_cond_timedwait(c, &pool.lock, &ts) == 0;
}

/* Waits for a job with the lock held. NULL: this thread is to end. */
static struct lane *job_wait(void)
{
	while (list_empty(&pool.ready)) {
		if (pool.stopping)
			return NULL;
		pool.idle++;
		bool signalled = wait_until(&pool.more, clock_now_ns() + IDLE_S * 1000000000ull);
		pool.idle--;
		if (!signalled && list_empty(&pool.ready))
			return NULL;
	}
	struct lane *lane = list_first(&pool.ready, struct lane, node);
	list_del(&lane->node);
	return lane;
}

static void job_run(struct lane *lane)
{
	struct op *op = list_first(&lane->queue, struct op, node);
	list_del(&op->node);
	pool.queued--;
	pool.begun++;
	lane->running++;
	lane_offer(lane);
	pthread_mutex_unlock(&pool.lock);
	op_post(op, io_blocking(op));
	pthread_mutex_lock(&pool.lock);
	lane->running--;
	lane_offer(lane);
}

static void *worker(void *arg)
{
	struct lane *lane;
	pthread_mutex_lock(&pool.lock);
	while ((lane = job_wait()))
		job_run(lane);
	pool.threads--;
	pthread_cond_signal(&pool.gone);
	pthread_mutex_unlock(&pool.lock);
	return NULL;
}

/* Signals are the control thread's. */
static int start_thread(void *(*run)(void *arg))
{
	pthread_t t;
	pthread_attr_t a;
	sigset_t all, old;
	sigfillset(&all);
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&a, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&t, &a, run, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&a);
	if (!rc)
		pool.threads++;
	return rc;
}

/* Adds a thread whenever jobs wait and none has begun for a while. */
static void *watcher(void *arg)
{
	pthread_mutex_lock(&pool.lock);
	while (!pool.stopping) {
		if (!pool.queued) {
			pthread_cond_wait(&pool.watch, &pool.lock);
			continue;
		}
		uint64_t begun = pool.begun, until = clock_now_ns() + WATCH_NS;
		while (!pool.stopping && clock_now_ns() < until)
			wait_until(&pool.watch, until);
		bool stuck = begun == pool.begun && !list_empty(&pool.ready) && !pool.idle;
		if (stuck && pool.threads < THREADS_MAX)
			start_thread(worker);
	}
	pool.watching = false;
	pool.threads--;
	pthread_cond_signal(&pool.gone);
	pthread_mutex_unlock(&pool.lock);
	return NULL;
}

static void pool_grow(const struct op *op)
{
	if (pool.idle)
		pthread_cond_signal(&pool.more);
	if (pool.queued <= pool.idle)
		return;
	unsigned most = op->flags & OP_SERIAL && op->kind == OP_WORK ? THREADS_MAX : THREADS_EASY;
	if (pool.threads < most)
		start_thread(worker);
	if (pool.threads < THREADS_EASY)
		return;
	if (!pool.watching)
		pool.watching = !start_thread(watcher);
	if (pool.queued == 1)
		pthread_cond_signal(&pool.watch);
}

static void finish(struct task *t)
{
	struct op *op = container_of(t, struct op, task);
	op->done(op);
}

void work_submit(struct op *op)
{
	op->task.run = finish;
	pthread_mutex_lock(&pool.lock);
	pool_make();
	pool.stopping = false;
	struct lane *lane = lane_of(op);
	list_add_tail(&lane->queue, &op->node);
	pool.queued++;
	lane_offer(lane);
	pool_grow(op);
	/* Without a single thread nobody would ever run it. */
	bool alone = !pool.threads;
	pthread_mutex_unlock(&pool.lock);
	if (alone)
		work_cancel(op);
}

void work_cancel(struct op *op)
{
	pthread_mutex_lock(&pool.lock);
	bool mine = !list_empty(&op->node); /* a job that runs is in no list */
	if (mine) {
		struct lane *lane = lane_of(op);
		list_del(&op->node);
		pool.queued--;
		if (list_empty(&lane->queue))
			list_del(&lane->node);
	}
	pthread_mutex_unlock(&pool.lock);
	if (mine)
		op_post(op, -ECANCELED);
}

void work_fini(void)
{
	uint64_t until = clock_now_ns() + FINI_NS;
	pthread_mutex_lock(&pool.lock);
	pool_make();
	pool.stopping = true;
	pthread_cond_broadcast(&pool.more);
	pthread_cond_broadcast(&pool.watch);
	while (pool.threads && clock_now_ns() < until)
		wait_until(&pool.gone, until);
	pthread_mutex_unlock(&pool.lock);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * What the files of src/loop share and nobody else includes: the loop itself, its queues, its mailbox. */
#ifndef LUNETTE_LOOP_INTERNAL_H
#define LUNETTE_LOOP_INTERNAL_H

#include <stdatomic.h>

#include "base/limits.h"
#include "loop/loop.h"
#include "loop/round.h"

/* First in, first out; linked through task.next. */
struct task_queue {
	struct task *head, **tail;
};

/* Many producers, one consumer (the loop). A producer's part is one exchange and one store: wait-free.
 * A queue by Dmitry Vyukov's intrusive scheme: `tail` is the newest element, `head` the consumer's. */
struct mailbox {
	_Alignas(64) _Atomic(struct task *) tail;
	_Atomic bool asleep, stop;
	_Alignas(64) struct task *head;
	struct task stub;
};

void mailbox_init(struct mailbox *mb);
void mailbox_put(struct mailbox *mb, struct task *t); /* any thread */
struct task *mailbox_take(struct mailbox *mb);
bool mailbox_empty(struct mailbox *mb);
/* The sleeper's side of the race with loop_post(): after begin, either the loop sees the mail (false: do
 * not sleep) or the poster sees the sleeper and wakes it. */
bool mailbox_sleep_begin(struct mailbox *mb);
void mailbox_sleep_end(struct mailbox *mb);
/* The poster's side: whether it must wake the loop. */
bool mailbox_must_wake(struct mailbox *mb);

/* Generation of a descriptor number: raised whenever a backend makes or connects a socket of that number, so
 * that what another loop remembers of the number's former life is recognized as stale. Any thread. */
uint32_t fd_generation(int fd);
void fd_generation_next(int fd);

/* Adaptive polling: see spin.c. */
struct spin {
	uint64_t max_ns;   /* 0: never spin */
	unsigned fruitless; /* spins in a row that found nothing */
	unsigned quick;    /* sleeps in a row shorter than a spin */
};
/* How long to spin now, ns. */
uint64_t spin_budget(const struct spin *s);
void spin_ended(struct spin *s, bool found);
void spin_slept(struct spin *s, uint64_t ns, bool found);

struct loop {
	const struct loop_backend *be;
	void              *be_priv;
	struct page_cache *pages;
	uint64_t           now_ns;
	uint64_t           ran;      /* callbacks since the beginning */
	bool               stalled;
	unsigned           index;
	struct task_queue  deferred, turn_end;
	struct timer     **heap;     /* unreserved address space for TIMERS_MAX */
	uint32_t           ntimers;
	struct spin        spin;
	struct round      *rounds;   /* free ones */
	struct mailbox     mail;
};

enum { TIMERS_MAX = 1 << 20 };

/* In a loop that looks at memory until another changes it. */
static inline void cpu_relax(void)
{
#ifdef __x86_64__
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

uint64_t clock_now_ns(void);
int  timers_init(struct loop *l);
void timers_fini(struct loop *l);
void timers_run(struct loop *l);              /* fires what is due at l->now_ns */
uint64_t timers_next(const struct loop *l);   /* UINT64_MAX: none */
void rounds_fini(struct loop *l);

/* Whether the loop has callbacks to run without waiting. */
bool loop_busy(struct loop *l);
/* A backend's only way to finish an operation; from poll(). */
static inline void op_finish(struct op *op, int res)
{
	op->loop->ran++;
	op->res = res;
	op->done(op);
}
/* From another thread: done() runs on the op's loop. */
void op_post(struct op *op, int res);

/* Tries a file read or write that does not block: the result, or -EAGAIN when a thread must do it. */
int io_nowait(struct op *op);
/* Does the operation in this thread, blocking. */
int io_blocking(struct op *op);
/* One attempt of a socket operation on a non-blocking descriptor: the result or -EAGAIN. */
int io_socket(struct op *op);
bool op_is_socket(const struct op *op);

#endif

/* SPDX-License-Identifier: BSD-3-Clause
 * The channel between loops, and the handful of words that threads share besides it. */
#include "loop/internal.h"

#include <sys/mman.h>

static struct task *next_of(struct task *t)
{
	return __atomic_load_n(&t->next, __ATOMIC_ACQUIRE);
}

void mailbox_init(struct mailbox *mb)
{
	mb->stub.next = NULL;
	mb->head = &mb->stub;
	atomic_init(&mb->tail, &mb->stub);
	atomic_init(&mb->asleep, false);
	atomic_init(&mb->stop, false);
}

void mailbox_put(struct mailbox *mb, struct task *t)
{
	__atomic_store_n(&t->next, NULL, __ATOMIC_RELAXED);
	struct task *before = atomic_exchange(&mb->tail, t);
	__atomic_store_n(&before->next, t, __ATOMIC_RELEASE);
}

/* NULL also while a producer is between its two steps; mailbox_empty() tells the two apart. */
struct task *mailbox_take(struct mailbox *mb)
{
	struct task *head = mb->head, *next = next_of(head);
	if (head == &mb->stub) {
		if (!next)
			return NULL;
		mb->head = head = next;
		next = next_of(head);
	}
	if (!next) {
		if (head != atomic_load(&mb->tail))
			return NULL;
		/* The last element may only leave with another behind it. */
		mailbox_put(mb, &mb->stub);
		next = next_of(head);
		if (!next)
			return NULL;
	}
	mb->head = next;
	return head;
}

bool mailbox_empty(struct mailbox *mb)
{
	return mb->head == &mb->stub && atomic_load(&mb->tail) == &mb->stub;
}

bool mailbox_sleep_begin(struct mailbox *mb)
{
	atomic_store(&mb->asleep, true);
	if (mailbox_empty(mb) && !atomic_load(&mb->stop))
		return true;
	mailbox_sleep_end(mb);
	return false;
}

void mailbox_sleep_end(struct mailbox *mb)
{
	atomic_store_explicit(&mb->asleep, false, memory_order_relaxed);
}

bool mailbox_must_wake(struct mailbox *mb)
{
	return atomic_load(&mb->asleep) && atomic_exchange(&mb->asleep, false);
}

/* Descriptor numbers are dense and below the system's bound (fs.nr_open is 2^20 where it was not raised);
 * numbers above share entries, which costs a system call now and then. */
enum { GENERATIONS = 1 << 20 };
static _Atomic uint32_t generation[GENERATIONS];

uint32_t fd_generation(int fd)
{
	return atomic_load_explicit(&generation[fd & (GENERATIONS - 1)], memory_order_relaxed);
}

void fd_generation_next(int fd)
{
	atomic_fetch_add_explicit(&generation[fd & (GENERATIONS - 1)], 1, memory_order_relaxed);
}

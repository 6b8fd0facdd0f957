/* SPDX-License-Identifier: BSD-3-Clause
 * Timers: a binary heap of pointers to the owners' struct timer; each knows its place, so that re-arming and
 * clearing are O(log n) and allocate nothing. */
#include "loop/internal.h"

#include <errno.h>
#include <sys/mman.h>

#define HEAP_BYTES (TIMERS_MAX * sizeof(struct timer *))

int timers_init(struct loop *l)
{
	void *p = mmap(NULL, HEAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	l->heap = p;
	return 0;
}

void timers_fini(struct loop *l)
{
	if (l->heap)
		munmap(l->heap, HEAP_BYTES);
}

static void place(struct loop *l, uint32_t at, struct timer *t)
{
	l->heap[at] = t;
	t->heap = at + 1;
}

static void sift_up(struct loop *l, uint32_t at, struct timer *t)
{
	while (at) {
		uint32_t parent = (at - 1) / 2;
		if (l->heap[parent]->deadline_ns <= t->deadline_ns)
			break;
		place(l, at, l->heap[parent]);
		at = parent;
	}
	place(l, at, t);
}

static void sift_down(struct loop *l, uint32_t at, struct timer *t)
{
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= l->ntimers)
			break;
		if (child + 1 < l->ntimers && l->heap[child + 1]->deadline_ns < l->heap[child]->deadline_ns)
			child++;
		if (t->deadline_ns <= l->heap[child]->deadline_ns)
			break;
		place(l, at, l->heap[child]);
		at = child;
	}
	place(l, at, t);
}

/* t's deadline changed, or t is new at `at`. */
static void settle(struct loop *l, uint32_t at, struct timer *t)
{
	if (at && l->heap[(at - 1) / 2]->deadline_ns > t->deadline_ns)
		sift_up(l, at, t);
	else
		sift_down(l, at, t);
}

void loop_timer_set(struct loop *l, struct timer *t, uint64_t deadline_ns)
{
	t->deadline_ns = deadline_ns;
	if (t->heap) {
		settle(l, t->heap - 1, t);
		return;
	}
	CHECK(l->ntimers < TIMERS_MAX);
	sift_up(l, l->ntimers++, t);
}

void loop_timer_clear(struct loop *l, struct timer *t)
{
	t->deadline_ns = 0;
	if (!t->heap)
		return;
	uint32_t at = t->heap - 1;
	CHECK(at < l->ntimers && l->heap[at] == t);
	t->heap = 0;
	struct timer *last = l->heap[--l->ntimers];
	if (last != t)
		settle(l, at, last);
}

uint64_t timers_next(const struct loop *l)
{
	return l->ntimers ? l->heap[0]->deadline_ns : UINT64_MAX;
}

/* A timer that its own fire() sets to a time already past waits for the next turn. */
void timers_run(struct loop *l)
{
	for (uint32_t budget = l->ntimers; budget && l->ntimers; budget--) {
		struct timer *t = l->heap[0];
		if (t->deadline_ns > l->now_ns)
			return;
		loop_timer_clear(l, t);
		l->ran++;
		t->fire(t);
	}
}

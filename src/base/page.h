/* SPDX-License-Identifier: BSD-3-Clause
 * Pages: 4 KiB of memory with a reference count, the unit in which data moves between a socket and a
 * medium. One arena for the whole process, so that a RAM disk can lend a page to a socket (a second
 * reference) and take a received page in exchange for its old one (no copy), on any loop.
 *
 * A page that has more than one reference, or that lies in a RAM disk, is never written: whoever wants
 * to change it makes a new page and replaces the old. So a lent page stays byte for byte what it was
 * until it is put, which a digest or a retransmission needs.
 *
 * Each loop has a cache (LIFO); caches exchange batches with the arena. page_get and page_put are
 * called on the cache's own loop; references may be dropped on another loop than they were taken. */
#ifndef LUNETTE_BASE_PAGE_H
#define LUNETTE_BASE_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "base/err.h"

#define PAGE_BYTES ((size_t)4096)
enum { PAGE_SHIFT = 12, PAGE_BATCH = 256 };

/* Free pages of one loop, most recently used on top. Private but for the inline functions below. */
struct page_cache {
	_Atomic uint32_t n;              /* written by the owner only; read by page_used_bytes() */
	uint32_t stack[2 * PAGE_BATCH];  /* page numbers */
	struct page_cache *next;         /* all caches */
};

/* Private but for the inline functions below. */
struct page_arena {
	char             *base;
	size_t            bytes; /* what lies outside is not ours: put and ref pass over it */
	_Atomic uint32_t *refs; /* by page number; 0 = free */
	void             *zero;
};
extern struct page_arena page_arena;

/* Once, before any loop starts. max_bytes: address space to reserve; 0 = physical memory. */
int  page_arena_init(uint64_t max_bytes, struct err *e);
void page_arena_fini(void);

struct page_cache *page_cache_new(void); /* NULL: out of memory */
void page_cache_free(struct page_cache *pc); /* its pages go back to the arena */

/* Slow paths of the inline functions. */
bool page_cache_refill(struct page_cache *pc);
void page_cache_spill(struct page_cache *pc);

/* A dense number for a page, below 2^32, and back. 0 is never a page. */
static inline uint32_t page_number(const void *p)
{
	return (uint32_t)((size_t)((const char *)p - page_arena.base) >> PAGE_SHIFT);
}

static inline void *page_at(uint32_t number)
{
	return page_arena.base + ((size_t)number << PAGE_SHIFT);
}

/* Memory that somebody else lends (a mapped file) is not counted. */
static inline bool page_is_ours(const void *p)
{
	return (size_t)((const char *)p - page_arena.base) < page_arena.bytes;
}

#ifdef __SANITIZE_ADDRESS__
void __asan_poison_memory_region(void const volatile *p, size_t n);
void __asan_unpoison_memory_region(void const volatile *p, size_t n);
#define page_poison_(p) __asan_poison_memory_region(p, PAGE_BYTES)
#define page_unpoison_(p) __asan_unpoison_memory_region(p, PAGE_BYTES)
#else
#define page_poison_(p) ((void)(p))
#define page_unpoison_(p) ((void)(p))
#endif

/* One reference, contents undefined. NULL when memory is exhausted. */
static inline void *page_get(struct page_cache *pc)
{
	uint32_t n = atomic_load_explicit(&pc->n, memory_order_relaxed);
	if (__builtin_expect(!n, 0)) {
		if (!page_cache_refill(pc))
			return NULL;
		n = atomic_load_explicit(&pc->n, memory_order_relaxed);
	}
	uint32_t number = pc->stack[n - 1];
	atomic_store_explicit(&pc->n, n - 1, memory_order_relaxed);
	/* Nobody raises a count that is 0, so this store races with no one. */
	atomic_store_explicit(&page_arena.refs[number], 1, memory_order_relaxed);
	void *p = page_at(number);
	page_unpoison_(p);
	return p;
}

/* p: any address inside the page. The last reference returns the page to this cache. */
static inline void page_put(struct page_cache *pc, void *p)
{
	uint32_t number = page_number(p);
	if (!page_is_ours(p) || page_at(number) == page_arena.zero)
		return;
	uint32_t old = atomic_fetch_sub_explicit(&page_arena.refs[number], 1, memory_order_acq_rel);
	DCHECK(old != 0);
	if (old != 1)
		return;
	page_poison_(page_at(number));
	uint32_t n = atomic_load_explicit(&pc->n, memory_order_relaxed);
	if (__builtin_expect(n == ARRAY_LEN(pc->stack), 0)) {
		page_cache_spill(pc);
		n = atomic_load_explicit(&pc->n, memory_order_relaxed);
	}
	pc->stack[n] = number;
	atomic_store_explicit(&pc->n, n + 1, memory_order_relaxed);
}

/* A further reference by someone who holds one. */
static inline void page_ref(void *p)
{
	uint32_t number = page_number(p);
	if (page_is_ours(p) && page_at(number) != page_arena.zero)
		atomic_fetch_add_explicit(&page_arena.refs[number], 1, memory_order_relaxed);
}

/* A reference on a page that may just be going away; false: it went. The caller then must check that
 * the page is still the one it looked up (RAM disks only). */
static inline bool page_try_ref(void *p)
{
	uint32_t number = page_number(p);
	if (page_at(number) == page_arena.zero)
		return true;
	uint32_t v = atomic_load_explicit(&page_arena.refs[number], memory_order_relaxed);
	do {
		if (!v)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&page_arena.refs[number], &v, v + 1,
		memory_order_acquire, memory_order_relaxed));
	return true;
}

/* References at this moment, for tests and for "am I the only holder". */
static inline uint32_t page_refs(const void *p)
{
	return atomic_load_explicit(&page_arena.refs[page_number(p)], memory_order_acquire);
}

/* A page that is all zero, lent to everyone, never freed; page_ref/put on it are valid and cheap.
 * It cannot be written: a write to it is a fault. */
static inline void *page_zero(void)
{
	return page_arena.zero;
}

/* Bytes of pages in use over all, for metrics and tests (exact when all loops are quiet). */
uint64_t page_used_bytes(void);

#endif

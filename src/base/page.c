/* SPDX-License-Identifier: BSD-3-Clause
 * The page arena. Address space for all of physical memory is reserved once; memory comes as it is first
 * touched, in transparent huge pages where the kernel has them (random reads of a RAM disk would otherwise
 * miss the TLB twice each). Numbers of free pages lie in a warm stack (still backed by memory, bounded)
 * and a cold stack (given back to the kernel). */
#include "base/page.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define MIN_BYTES  ((uint64_t)64 << 20)
enum {
	FIRST_PAGE = HUGE_BYTES / PAGE_BYTES,    /* the first 2 MiB hold only the zero page */
	ZERO_PAGE = 1,
	WARM_MAX = (64 << 20) / (int)PAGE_BYTES, /* free pages that keep their memory */
};
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DEFAULT_MAX ((uint64_t)2 << 30) /* shadow memory is a multiple of this */
#else
#define DEFAULT_MAX UINT64_MAX
#endif

struct page_arena page_arena;

static struct {
	pthread_mutex_t lock;
	char    *map;
	uint64_t map_bytes, npages;
	uint64_t fresh;          /* first page never handed out */
	uint32_t *warm, *cold;   /* stacks of numbers, npages long each, unreserved */
	uint64_t nwarm, ncold;
	struct page_cache *caches;
} g = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *reserve(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void unreserve(void *p, uint64_t bytes)
{
	if (p)
		munmap(p, bytes);
}

static bool arena_map(uint64_t bytes)
{
	g.npages = bytes / PAGE_BYTES;
	g.map_bytes = bytes + HUGE_BYTES;
	g.map = reserve(g.map_bytes);
	page_arena.refs = reserve(g.npages * 4);
	g.warm = reserve(g.npages * 4);
	g.cold = reserve(g.npages * 4);
	if (g.map && page_arena.refs && g.warm && g.cold)
		return true;
	page_arena_fini();
	return false;
}

int page_arena_init(uint64_t max_bytes, struct err *e)
{
	if (!max_bytes)
		max_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	max_bytes = MIN(max_bytes, DEFAULT_MAX);
	max_bytes = MIN(max_bytes, ((uint64_t)1 << 32) * PAGE_BYTES);
	max_bytes = MAX((max_bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1), 2 * HUGE_BYTES);
	/* Strict overcommit and address space limits refuse what others grant: take less then. */
	while (!arena_map(max_bytes)) {
		if (max_bytes <= MIN_BYTES)
			return err_set(e, -ENOMEM, "cannot reserve %llu MiB of address space; raise ulimit -v",
				(unsigned long long)(max_bytes >> 20));
		max_bytes = max_bytes / 2 & ~(HUGE_BYTES - 1);
	}
	page_arena.base = (char *)(((uintptr_t)g.map + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	page_arena.bytes = max_bytes;
	madvise(page_arena.base + HUGE_BYTES, max_bytes - HUGE_BYTES, MADV_HUGEPAGE);
	page_arena.zero = page_at(ZERO_PAGE);
	mprotect(page_arena.zero, PAGE_BYTES, PROT_READ);
	g.fresh = FIRST_PAGE;
	return 0;
}

void page_arena_fini(void)
{
	unreserve(g.map, g.map_bytes);
	unreserve(page_arena.refs, g.npages * 4);
	unreserve(g.warm, g.npages * 4);
	unreserve(g.cold, g.npages * 4);
	g.map = NULL;
	g.warm = g.cold = NULL;
	g.nwarm = g.ncold = g.npages = g.fresh = 0;
	memset(&page_arena, 0, sizeof(page_arena));
}

struct page_cache *page_cache_new(void)
{
	struct page_cache *pc = calloc(1, sizeof(*pc));
	if (!pc)
		return NULL;
	pthread_mutex_lock(&g.lock);
	pc->next = g.caches;
	g.caches = pc;
	pthread_mutex_unlock(&g.lock);
	return pc;
}

static void cache_unlink(struct page_cache *pc)
{
	struct page_cache **at = &g.caches;
	while (*at != pc)
		at = &(*at)->next;
	*at = pc->next;
}

void page_cache_free(struct page_cache *pc)
{
	if (!pc)
		return;
	while (atomic_load_explicit(&pc->n, memory_order_relaxed))
		page_cache_spill(pc);
	pthread_mutex_lock(&g.lock);
	cache_unlink(pc);
	pthread_mutex_unlock(&g.lock);
	free(pc);
}

/* Takes up to n numbers from a stack. */
static uint32_t stack_take(const uint32_t *stack, uint64_t *depth, uint32_t *to, uint32_t n)
{
	n = (uint32_t)MIN(*depth, (uint64_t)n);
	memcpy(to, stack + *depth - n, n * 4);
	*depth -= n;
	return n;
}

static uint32_t fresh_take(uint32_t *to, uint32_t n)
{
	n = (uint32_t)MIN(g.npages - g.fresh, (uint64_t)n);
	/* Highest first: the cache pops from the end, so memory is touched upwards. */
	for (uint32_t i = 0; i < n; i++)
		to[i] = (uint32_t)(g.fresh + n - 1 - i);
	g.fresh += n;
	return n;
}

bool page_cache_refill(struct page_cache *pc)
{
	pthread_mutex_lock(&g.lock);
	uint32_t n = stack_take(g.warm, &g.nwarm, pc->stack, PAGE_BATCH);
	if (!n)
		n = stack_take(g.cold, &g.ncold, pc->stack, PAGE_BATCH);
	if (!n)
		n = fresh_take(pc->stack, PAGE_BATCH);
	pthread_mutex_unlock(&g.lock);
	atomic_store_explicit(&pc->n, n, memory_order_relaxed);
	return n != 0;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

/* Gives the memory of n pages back to the kernel, neighbours in one call. */
static void make_cold(uint32_t *numbers, uint32_t n)
{
	qsort(numbers, n, sizeof(*numbers), by_number);
	for (uint32_t i = 0, run; i < n; i += run) {
		for (run = 1; i + run < n && numbers[i + run] == numbers[i] + run;)
			run++;
		madvise(page_at(numbers[i]), run * PAGE_BYTES, MADV_DONTNEED);
	}
}

/* The oldest batch of the cache goes to the arena. */
void page_cache_spill(struct page_cache *pc)
{
	uint32_t batch[PAGE_BATCH];
	uint32_t have = atomic_load_explicit(&pc->n, memory_order_relaxed);
	uint32_t n = MIN(have, (uint32_t)PAGE_BATCH);
	memcpy(batch, pc->stack, n * 4);
	memmove(pc->stack, pc->stack + n, (have - n) * 4);
	atomic_store_explicit(&pc->n, have - n, memory_order_relaxed);

	pthread_mutex_lock(&g.lock);
	bool warm = g.nwarm + n <= WARM_MAX;
	if (warm) {
		memcpy(g.warm + g.nwarm, batch, n * 4);
		g.nwarm += n;
	}
	pthread_mutex_unlock(&g.lock);
	if (warm)
		return;
	make_cold(batch, n);
	pthread_mutex_lock(&g.lock);
	memcpy(g.cold + g.ncold, batch, n * 4);
	g.ncold += n;
	pthread_mutex_unlock(&g.lock);
}

uint64_t page_used_bytes(void)
{
	pthread_mutex_lock(&g.lock);
	uint64_t n = g.npages ? g.fresh - FIRST_PAGE - g.nwarm - g.ncold : 0;
	for (struct page_cache *pc = g.caches; pc; pc = pc->next)
		n -= atomic_load_explicit(&pc->n, memory_order_relaxed);
	pthread_mutex_unlock(&g.lock);
	return n * PAGE_BYTES;
}

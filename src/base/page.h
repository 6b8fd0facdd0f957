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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define PAGE_BYTES ((size_t)4096)

struct page_cache;

/* Once, before any loop starts. max_bytes: address space to reserve; 0 = physical memory. */
int  page_arena_init(uint64_t max_bytes, struct err *e);
void page_arena_fini(void);

struct page_cache *page_cache_new(void);
void page_cache_free(struct page_cache *pc); /* its pages go back to the arena */

/* One reference, contents undefined. NULL when memory is exhausted. */
void *page_get(struct page_cache *pc);
/* p: any address inside the page. The last reference returns the page to this cache. */
void page_put(struct page_cache *pc, void *p);
/* A further reference by someone who holds one. */
void page_ref(void *p);
/* A reference on a page that may just be going away; false: it went. The caller then must check that
 * the page is still the one it looked up (RAM disks only). */
bool page_try_ref(void *p);
/* A page that is all zero, lent to everyone, never freed; page_ref/put on it are valid and cheap. */
void *page_zero(void);
/* A dense number for a page, below 2^32, and back. 0 is never a page. */
uint32_t page_number(const void *p);
void *page_at(uint32_t number);
/* Bytes of pages in use over all, for metrics and tests (exact when all loops are quiet). */
uint64_t page_used_bytes(void);

#endif

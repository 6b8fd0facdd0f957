/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/page.h"

enum { MIB = 1 << 20 };

static struct page_cache *pc;

static int setup(void **state)
{
	struct err e = { 0 };
	if (page_arena_init(8 * MIB, &e))
		return -1;
	pc = page_cache_new();
	return pc ? 0 : -1;
}

static int teardown(void **state)
{
	page_cache_free(pc);
	page_arena_fini();
	return 0;
}

/* A page is aligned, its own, and free again after its last reference only. */
static void test_references(void **state)
{
	char *p = page_get(pc), *q = page_get(pc);
	assert_non_null(p);
	assert_ptr_not_equal(p, q);
	assert_int_equal((uintptr_t)p % PAGE_BYTES, 0);
	assert_int_equal(page_used_bytes(), 2 * PAGE_BYTES);
	memset(p, 1, PAGE_BYTES);
	page_ref(p + 100);
	page_put(pc, p + 4095);
	assert_int_equal(page_refs(p), 1);
	assert_int_equal(page_used_bytes(), 2 * PAGE_BYTES);
	page_put(pc, p);
	assert_int_equal(page_used_bytes(), PAGE_BYTES);
	assert_ptr_equal(page_get(pc), p); /* the warmest first */
	page_put(pc, p);
	page_put(pc, q);
	assert_int_equal(page_used_bytes(), 0);
}

/* A reader that lost the race for a page learns it. */
static void test_try_ref(void **state)
{
	void *p = page_get(pc);
	assert_true(page_try_ref(p));
	page_put(pc, p);
	page_put(pc, p);
	assert_false(page_try_ref(p));
	assert_int_equal(page_used_bytes(), 0);
}

/* Numbers are dense, never 0, and name their page. */
static void test_numbers(void **state)
{
	void *p = page_get(pc);
	uint32_t n = page_number((char *)p + 5);
	assert_int_not_equal(n, 0);
	assert_ptr_equal(page_at(n), p);
	assert_true(n < 8 * MIB / PAGE_BYTES);
	page_put(pc, p);
}

/* The zero page is zero, can be referenced at will, and is never in use. */
static void test_zero(void **state)
{
	static const char zeros[4096];
	assert_memory_equal(page_zero(), zeros, PAGE_BYTES);
	page_ref(page_zero());
	assert_true(page_try_ref(page_zero()));
	for (int i = 0; i < 10; i++)
		page_put(pc, page_zero());
	assert_int_equal(page_used_bytes(), 0);
}

/* Exhaustion is an answer, not a crash, and what comes back can be had again. */
static void test_exhaustion(void **state)
{
	void **all = calloc(8 * MIB / PAGE_BYTES, sizeof(void *));
	size_t n = 0;
	while ((all[n] = page_get(pc)))
		n++;
	assert_int_equal(n, 6 * MIB / PAGE_BYTES); /* the first 2 MiB hold the zero page */
	assert_int_equal(page_used_bytes(), 6 * MIB);
	for (size_t i = 0; i < n; i++)
		page_put(pc, all[i]);
	assert_int_equal(page_used_bytes(), 0);
	assert_non_null(all[0] = page_get(pc));
	page_put(pc, all[0]);
	free(all);
}

/* Free memory beyond the bound goes back to the kernel: the page reads as zeros when it is had again. */
static void test_cold(void **state)
{
	teardown(NULL);
	struct err e = { 0 };
	assert_int_equal(page_arena_init(160 * MIB, &e), 0);
	pc = page_cache_new();
	size_t max = 160 * MIB / PAGE_BYTES, n = 0, zeroed = 0;
	char **all = calloc(max, sizeof(*all));
	for (; (all[n] = page_get(pc)); n++)
		all[n][0] = 1;
	for (size_t i = 0; i < n; i++)
		page_put(pc, all[i]);
	for (size_t i = 0; i < n; i++) {
		all[i] = page_get(pc);
		zeroed += !all[i][0];
	}
	assert_in_range(zeroed, 80 * MIB / PAGE_BYTES, 96 * MIB / PAGE_BYTES);
	for (size_t i = 0; i < n; i++)
		page_put(pc, all[i]);
	free(all);
}

struct shared {
	_Atomic(void *) slot;
	_Atomic int stop;
};

/* A RAM disk's reader: look up, take a reference, look again. */
static void *reader(void *arg)
{
	struct shared *s = arg;
	struct page_cache *mine = page_cache_new();
	while (!atomic_load(&s->stop)) {
		unsigned char *p = atomic_load(&s->slot);
		if (!page_try_ref(p))
			continue;
		if (atomic_load(&s->slot) == p && p[0] != p[4095])
			abort();
		page_put(mine, p);
	}
	page_cache_free(mine);
	return NULL;
}

/* A page that is replaced under a reader on another loop stays whole while he holds it, and none gets lost. */
static void test_replace_under_reader(void **state)
{
	struct shared s = { .slot = NULL };
	pthread_t t;
	unsigned char *p = page_get(pc);
	memset(p, 0, PAGE_BYTES);
	atomic_store(&s.slot, p);
	pthread_create(&t, NULL, reader, &s);
	for (int i = 0; i < 20000; i++) {
		unsigned char *q = page_get(pc);
		memset(q, i, PAGE_BYTES);
		page_put(pc, atomic_exchange(&s.slot, q));
	}
	atomic_store(&s.stop, 1);
	pthread_join(t, NULL);
	page_put(pc, atomic_load(&s.slot));
	assert_int_equal(page_used_bytes(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_references, setup, teardown),
		cmocka_unit_test_setup_teardown(test_try_ref, setup, teardown),
		cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exhaustion, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cold, setup, teardown),
		cmocka_unit_test_setup_teardown(test_replace_under_reader, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

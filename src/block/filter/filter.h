/* SPDX-License-Identifier: BSD-3-Clause
 * Filters: one that keeps checksums, and those that make a good medium behave badly; what tests ask of them beyond
 * their options. */
#ifndef LUNETTE_BLOCK_FILTER_FILTER_H
#define LUNETTE_BLOCK_FILTER_FILTER_H

#include "block/blk.h"

extern const struct blk_ops blk_fault, blk_delay, blk_crash, blk_integrity;

/* The integrity filter over `data` with this store, both taken over on success; for tests. Control thread. */
int  integrity_open_over(struct blk **ret, struct blk *data, struct blk *store, uint64_t unit, struct err *e);
/* At the end of the process (and of the page arena), after work_fini(). */
void integrity_fini(void);

/* Choices of an option that names operations: index 0 is any, op + 1 the others. */
extern const char *const blk_op_choices[];
static inline bool blk_op_chosen(uint64_t choice, enum blk_op op)
{
	return choice == 0 || choice == (uint64_t)op + 1;
}

/* Requests that the fault filter has counted: those of its op and range. Any thread. */
uint64_t fault_seen(const struct blk *b);
/* Counts from 0 again and fails the nth from now on. On a quiet stack. */
void fault_arm(struct blk *b, uint64_t nth);

/* The power goes now, on the loop of the crash filter's requests: of what was not flushed some reaches the medium,
 * drawn from the seed. Turns the loop until that is settled. Everything fails with -EIO afterwards. */
void crash_cut(struct blk *b, struct loop *l, uint64_t seed);
/* Whether the power went, by crash_cut() or at the flush that the option names. */
bool crash_is_off(const struct blk *b);

#endif

/* SPDX-License-Identifier: BSD-3-Clause
 * What a disk may answer: for each block the writes it has seen, when each began and ended, whether it certainly
 * took place and whether it must survive a power cut. A read may return a write unless a later one had certainly
 * ended before the read began; after a power cut a block may hold anything that no durable write replaced. */
#ifndef LUNETTE_TESTS_SIM_MODEL_H
#define LUNETTE_TESTS_SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BLOCK = 512 };

enum write_end {
	WRITE_DONE,    /* status GOOD */
	WRITE_DURABLE, /* GOOD, and so are FUA or the write cache's absence */
	WRITE_MAYBE,   /* failed or aborted: each block may or may not have it, and nothing comes later */
	WRITE_LOST,    /* no answer: it may still come, until model_settle() */
	WRITE_NEVER,   /* refused before anything happened */
};

void model_init(unsigned nblocks);
void model_fini(void);
/* The order of all that happens; each call is a new moment. */
uint64_t model_moment(void);
/* A write of n blocks begins. Returns its id; zero: it writes zeros (the id is still its name). */
uint64_t model_write(unsigned lba, unsigned n, bool zero);
/* The same bytes at the same place a second time, because nobody knows whether the first write took place: content is what
 * model_write() gave. The first one is WRITE_LOST. */
uint64_t model_write_again(uint64_t content, unsigned lba, unsigned n, bool zero);
void model_write_end(uint64_t id, unsigned lba, unsigned n, enum write_end how);
/* A lost write can come no more from now on. */
void model_settle(uint64_t id, unsigned lba, unsigned n);
/* What the write of this id puts into its blocks. */
void model_fill(uint64_t id, unsigned lba, unsigned n, void *data);
/* A read that began at that moment ended now with this data. False: the reason is in *ret_why. */
bool model_read(uint64_t began, unsigned lba, unsigned n, const void *data, char *ret_why, size_t room);
/* A COMPARE AND WRITE of one block (write `id`, about to end well) found this content. The same content is found by
 * one only, since each then replaces it. */
bool model_compared(uint64_t id, unsigned lba, uint64_t content, char *ret_why, size_t room);
/* A flush that began at that moment ended well. */
void model_flushed(uint64_t began);
/* The server died. power: and the cache with it. */
void model_crash(bool power);

#endif

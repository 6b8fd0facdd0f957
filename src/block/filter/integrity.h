/* SPDX-License-Identifier: BSD-3-Clause
 * What the files of the integrity filter share (docs/design/0012-protection.md). Everything here is used on the
 * filter's home loop, but for opening and closing on the control thread, when nothing is in flight.
 *
 * The store, little-endian:
 *   0        two superblocks of 4 KiB, the one with the higher sequence number counts
 *   8 KiB    the intent of zeroing a large range
 *   16 KiB   slots of the redo log: header 4 KiB, tuples 4 KiB, data 256 KiB
 *   2 MiB    an entry of 32 bytes for each unit: older and newer CRC32C (4 + 4), older and newer tuple (8 + 8),
 *            generation (5), flags (1), the low half of the entry's CRC32C (2) */
#ifndef LUNETTE_BLOCK_FILTER_INTEGRITY_H
#define LUNETTE_BLOCK_FILTER_INTEGRITY_H

#include "base/bytes.h"
#include "base/check.h"
#include "base/list.h"
#include "block/blk.h"

enum {
	SUM_ENTRY = 32, SUM_PAGE = 4096, SUM_PER_PAGE = SUM_PAGE / SUM_ENTRY,
	SUM_INTENT_AT = 8192, SUM_LOG_AT = 16384, SUM_SLOT_BYTES = 8192 + (256 << 10), SUM_SLOTS = 4,
	SUM_ENTRIES_AT = 2 << 20,
	SUM_ATOMIC_MAX = 256 << 10,
	SUM_CACHE_PAGES = 4096,  /* of the store, 4 KiB each */
	SUM_BUCKETS = 4096,
	SUM_LOOSE_MAX = 32,      /* intervals of generations that crashes left behind */
	SUM_SMALL = 32,          /* store pages; zeroing more goes by an intent */
	SUM_LOAD = 16,           /* store pages of one read */
	SUM_COMMIT = 128,        /* store pages of one commit */
	SUM_TUPLE = 8,
};
_Static_assert(SUM_LOG_AT + SUM_SLOTS * SUM_SLOT_BYTES <= SUM_ENTRIES_AT, "the log ends before the entries");

/* --- entries: integrity_entry.c --- */

enum {                           /* sum_entry.flags; 0: the entry is blank */
	SUM_USED = 1, SUM_OLD = 2,   /* the older candidate counts until the generation is settled */
	SUM_OLD_BLANK = 4,           /* which is that of a blank entry */
	SUM_BAD = 8,                 /* an initiator marked the unit as unreadable */
	SUM_LOOSE = 16,              /* a write failed: both count until the next one */
};
struct sum_side { uint32_t crc; uint8_t tuple[SUM_TUPLE]; };
struct sum_entry { struct sum_side old, new; uint64_t gen; uint8_t flags; };
struct sum_loose { uint64_t from, to; }; /* generations in (from, to] */

/* What entries mean: which candidates count. */
struct sum_rules {
	uint32_t zero_crc;       /* of a unit of zeros */
	bool     base_zero;      /* blank: zeros; else nothing is known of the unit */
	uint64_t start;          /* generations up to here are settled, but for the loose ones */
	uint64_t run;            /* those after here are of this run */
	uint64_t settled;        /* of this run: settled up to here */
	unsigned nloose;
	struct sum_loose loose[SUM_LOOSE_MAX];
};

void sum_encode(uint8_t p[SUM_ENTRY], const struct sum_entry *e);
/* -EBADMSG: the entry itself is damaged. */
int  sum_decode(const uint8_t p[SUM_ENTRY], struct sum_entry *e);
enum sum_state { SUM_SETTLED, SUM_UNSETTLED, SUM_UNKNOWN }; /* UNKNOWN: of a crashed run, or a write failed */
enum sum_state sum_state(const struct sum_rules *r, const struct sum_entry *e);
/* Does a unit with this CRC agree with its entry? Its tuple goes to `tuple` unless that is NULL. -EBADMSG: no;
 * -ENOTRECOVERABLE: marked bad. */
int  sum_verify(const struct sum_rules *r, const uint8_t p[SUM_ENTRY], uint32_t crc, uint8_t *tuple);
/* The newer candidate becomes the older one. */
void sum_replace(uint8_t p[SUM_ENTRY], const struct sum_side *to, uint64_t gen);
void sum_undo(uint8_t p[SUM_ENTRY]);        /* the data was never written */
void sum_loosen(uint8_t p[SUM_ENTRY]);      /* nobody knows what was written */
/* The unit was read: of two candidates that one which it agrees with, if any. */
void sum_resolve(const struct sum_rules *r, uint8_t p[SUM_ENTRY], uint32_t crc);
void sum_mark_bad(uint8_t p[SUM_ENTRY], uint64_t gen);
void sum_add_loose(struct sum_rules *r, uint64_t from, uint64_t to);

/* --- the store's cache: integrity_cache.c --- */

struct sum_page {
	struct sum_page *next;   /* of the bucket */
	struct sum_page *next_dirty;
	uint64_t index;
	uint8_t *bytes;          /* NULL: never used */
	uint32_t pins;
	bool     loading, dirty, busy, hot; /* busy: a commit writes it */
};

struct sums;
struct sum_req;
typedef void sum_step_fn(struct sum_req *r);

/* A request in this filter. */
struct sum_req {
	struct list  node;       /* sums.active or sums.waiting */
	struct list  wait;       /* sums.loaders, sums.next or sums.now */
	struct sums *s;
	struct blk_io *io;
	uint64_t     off, len;   /* bytes */
	bool         exclusive, pinned, large; /* large: zeroing by an intent */
	uint64_t     first, npages; /* of the store */
	uint64_t     gen;        /* a write's, from its entries to its data; 0 = not now */
	int          slot;       /* of the log, -1 = none */
	uint64_t     slots_upto, upto; /* of a flush under way: slots and generations that it covers */
	sum_step_fn *then;       /* after loading or committing */
	sum_step_fn *then_log;
	int          status;     /* of the commit */
	struct sum_page *load[SUM_LOAD];
	unsigned     nload;
	struct iovec iov[SUM_LOAD];
	struct iovec *more;      /* pages of a resolve */
	int          nmore;
	struct blk_io sub;
	struct sum_req *next_free;
};

struct sum_slot { bool live; uint64_t off, len, seq; };

struct sums {
	struct blk  *b, *data, *store;
	struct sum_rules rules;
	uint32_t     unit, shift;
	uint64_t     bytes;      /* of the data, whole units */
	uint64_t     gen, limit; /* the generation of writes that begin; how far it is reserved */
	uint64_t     seq;        /* of the superblock */
	bool         super_busy, read_only;
	uint64_t     stuck_off, stuck_len; /* an intent of zeroing that failed, and could not be taken back; 0: none */
	struct list  active, waiting, loaders, next, now;
	uint64_t     pages_active;
	struct sum_page *bucket[SUM_BUCKETS], *page;
	struct sum_page *dirty;
	unsigned     hand, npages, ndirty;
	struct sum_req *free;
	bool         committing;
	struct blk_io commit;
	struct sum_page *commit_page[SUM_COMMIT];
	struct iovec commit_iov[SUM_COMMIT];
	unsigned     ncommit;
	struct sum_slot slot[SUM_SLOTS];
	uint64_t     slot_seq;
	uint8_t      super_page[SUM_PAGE] __attribute__((aligned(4096)));
	uint8_t      intent_page[SUM_PAGE] __attribute__((aligned(4096)));
};

int  sum_cache_open(struct sums *s);
void sum_cache_close(struct sums *s);
/* Pins the store's pages of r, reading what is missing, then calls then(r). On failure r ends. */
void sum_load(struct sum_req *r, sum_step_fn *then);
void sum_unpin(struct sum_req *r);
uint8_t *sum_at(struct sums *s, uint64_t unit, struct sum_page **ret_page); /* of a pinned page */
/* The entry of `unit`, when p is that of the unit before it, or NULL. */
static inline uint8_t *sum_next(struct sums *s, uint8_t *p, uint64_t unit, struct sum_page **ret_page)
{
	return p && unit % SUM_PER_PAGE ? p + SUM_ENTRY : sum_at(s, unit, ret_page);
}
struct sum_page *sum_find(struct sums *s, uint64_t index);
void sum_dirty(struct sums *s, struct sum_page *p);
void sum_forget(struct sums *s, uint64_t first, uint64_t end); /* pages that nobody has pinned: drops them */
/* What is dirty now is durable when then(r) runs, or r->status says why not. */
void sum_commit(struct sum_req *r, sum_step_fn *then);
void sum_wake_loaders(struct sums *s);

/* --- requests: integrity.c --- */
void sum_end(struct sum_req *r, int status);
void sum_end_at(struct sum_req *r, int status, uint64_t off);
/* Forgets writes before a flush that is sent down now; give the result to sum_settle() when that succeeded. */
uint64_t sum_flush_begin(struct sums *s);
void sum_settle(struct sums *s, uint64_t upto);
/* Ends a zeroing by an intent, which is taken back. */
void sum_zero_give_up(struct sum_req *r, int status);
/* The data of r's request below, with entries durable. */
void sum_write_data(struct sum_req *r);
/* The tuples of a write, brought or made. */
void sum_tuples(struct sum_req *r, uint8_t *to);

/* --- atomic writes: integrity_log.c --- */
/* Puts r's data into a slot, made durable by the commit that follows; then calls then(r). */
void sum_log_write(struct sum_req *r, sum_step_fn *then);
/* Is r in the way of a live slot? Then gives that up first and calls then(r) when it is gone. */
bool sum_log_retire(struct sum_req *r, sum_step_fn *then);

/* --- superblock, opening, recovery: integrity_super.c --- */
struct integrity_conf { char *store; uint64_t unit; };
int  sum_open(struct sums *s, const struct integrity_conf *c, struct blk *store, struct err *e);
void sum_close(struct sums *s);
/* Saves what is settled, or reserves generations, when that is due and nobody does it; then calls then(r). */
void sum_super_save(struct sum_req *r, sum_step_fn *then);
void sum_intent_fill(uint8_t page[SUM_PAGE], uint64_t off, uint64_t len); /* len 0: none */
void sum_slot_fill(uint8_t page[SUM_PAGE], const struct sum_slot *slot, uint32_t crc, uint32_t tuples_crc);
uint64_t sum_slot_at(int slot);

/* A walk through a vector. */
struct sum_walk { const struct iovec *v; size_t at; };
uint32_t sum_walk_crc(struct sum_walk *w, size_t n);
uint16_t sum_walk_guard(struct sum_walk *w, size_t n); /* CRC16-T10DIF */

#endif

/* SPDX-License-Identifier: BSD-3-Clause
 * ROD tokens (SPC-4 5.17.6): each represents ranges of the unit that made it, on whose home loop it lives, as long as
 * nobody writes there: a lease on each range tells. Other loops ask by messages. docs/design/0011. */
#ifndef LUNETTE_SCSI_TOKEN_H
#define LUNETTE_SCSI_TOKEN_H

#include "scsi/priv.h"

enum {
	TOKEN_BYTES = 512, TOKEN_MANAGEMENT_BYTES = 96,
	TOKEN_RANGES_MAX = 64,                         /* of one token */
	TOKENS_MAX = 64, TOKEN_LEASES_MAX = 256, TOKENS_KEPT = 256, /* of one unit: valid; their ranges; with invalid ones */
	TOKEN_IDLE_DEFAULT_S = 120, TOKEN_IDLE_MAX_S = 3600, TOKEN_LIFE_S = 14400,
};
#define TOKEN_TYPE_DEFAULT 0x00800000u    /* point in time copy, default */
#define TOKEN_TYPE_VULNERABLE 0x00800001u /* point in time copy, change vulnerable */
#define TOKEN_TYPE_ANY 0x0080ffffu
#define TOKEN_TYPE_ZERO 0xffff0001u

struct token_range { uint64_t off, len, lease; }; /* bytes; lease: for lu_leased() */

/* Making one. The caller sets the first part and keeps it until done(), which runs on ll->loop. */
struct token_make {
	struct lu_loop     *ll;         /* of the unit, on the caller's loop */
	const struct token_range *range;
	unsigned            nrange;     /* at most TOKEN_RANGES_MAX */
	uint32_t            type, idle_s;
	const char         *target;     /* name of the target device that says it made the token */
	void              (*done)(struct token_make *m);
	uint8_t             bytes[TOKEN_BYTES]; /* the answer, */
	int                 error;      /* unless -ENOMEM */
	struct task         task;
};
void token_make(struct token_make *m);

/* Using one: between token_open() and token_close() its ranges stay in memory; whether its leases hold is another matter.
 * On the heap; token_close() frees it, later. */
struct token_use {
	struct lu_loop     *ll;         /* of the unit that made it, on the caller's loop */
	uint8_t             bytes[TOKEN_BYTES];
	void              (*done)(struct token_use *u);
	void               *ctx;
	uint8_t             refused;    /* 0, or TOKEN_*: the ASCQ of INVALID TOKEN OPERATION; then it is not open */
	const struct token_range *range;
	unsigned            nrange;
	bool                del;        /* token_close() deletes the token */
	struct token       *token;      /* home */
	struct task         task;
};
void token_open(struct token_use *u);
void token_close(struct token_use *u);

/* The management tokens of all valid ones, oldest first. p: TOKENS_MAX * TOKEN_MANAGEMENT_BYTES; home only. */
unsigned tokens_report(const struct lu *lu, uint8_t *p);
/* home: the unit closes. tokens_free(): control thread, afterwards. */
void tokens_revoke(struct lu *lu);
void tokens_free(struct lu *lu);

#endif

/* SPDX-License-Identifier: BSD-3-Clause
 * Which disk had which LUN number: a number given up rests for a while before another disk may have it, since an
 * initiator that was away, or never looks, would take that disk for the one it knows. Remembered in the state directory.
 * Control thread; time comes in seconds since 1970. */
#ifndef LUNETTE_CONF_LUNS_H
#define LUNETTE_CONF_LUNS_H

#include "conf/store.h"
#include "conf/tree.h"

struct luns;

/* Nothing remembered, or damaged: as if nothing had been. NULL: out of memory. */
struct luns *luns_load(struct store *store);
void luns_free(struct luns *l);
/* Must the number wait before this volume gets it? Seconds that are left; 0: it may have it now. */
int64_t luns_rest(const struct luns *l, const struct conf *c, const struct conf_target *t, const struct conf_lun *lun,
	int64_t now_s);
/* -EBUSY: some LUN of c must wait; the sentence says which, for how long, and how to have it now. */
int  luns_check(const struct luns *l, const struct conf *c, int64_t now_s, struct err *e);
/* c is in force from now on, but LUNs that must wait. Saves what changed. */
void luns_commit(struct luns *l, const struct conf *c, int64_t now_s);

#endif

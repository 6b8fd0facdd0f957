/* SPDX-License-Identifier: BSD-3-Clause
 * Asymmetric access (SPC-4 5.16.2): through which target port groups a logical unit does I/O. The states are a value
 * of the unit, by the group's tag, which any owner of a policy may drive: the configuration, the administrator,
 * SET TARGET PORT GROUPS, or a node of a cluster. Groups that are not listed are optimized and not preferred.
 *
 * Who leaves I/O is drained: lu_alua_change() is done when no command that came through the group before can touch
 * the medium any more, on any loop; until then the group is transitioning. */
#ifndef LUNETTE_SCSI_ALUA_H
#define LUNETTE_SCSI_ALUA_H

#include "base/err.h"
#include "base/limits.h"
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

struct lu;

enum alua_access { /* SPC-4 table 307 */
	ALUA_OPTIMIZED = 0x0, ALUA_NON_OPTIMIZED = 0x1, ALUA_STANDBY = 0x2, ALUA_UNAVAILABLE = 0x3, ALUA_OFFLINE = 0xe,
	ALUA_TRANSITIONING = 0xf,
};
enum alua_why { ALUA_CONFIGURED = 0, ALUA_EXPLICIT = 1, ALUA_IMPLICIT = 2 }; /* STATUS CODE, SPC-4 table 308 */

struct alua_group {
	uint16_t tag;
	uint8_t  access, why;
	bool     preferred;
	uint8_t  base;           /* what the configuration says */
	bool     base_preferred;
	bool     kept;           /* the change survives a restart */
	uint32_t seq;            /* transitioning: the change that is under way */
	uint8_t  to;             /* transitioning: what it becomes */
	bool     busy;           /* it left I/O, but not all that came through it has ended: a transition that failed */
};

/* Immutable; ascending by tag. */
struct alua_state { unsigned n; struct alua_group group[]; };

enum { ALUA_AS_IT_IS = -1 };
struct alua_change { uint16_t tag; uint8_t access; int8_t preferred; /* 0, 1, ALUA_AS_IT_IS */ };

static inline bool alua_is_active(uint8_t access)
{
	return access <= ALUA_NON_OPTIMIZED;
}

/* --- alua_state.c: plain values in, plain values out. 0, -ENOMEM, -E2BIG: more than LIM_PORTALS groups. --- */
const struct alua_group *alua_find(const struct alua_state *s, uint16_t tag); /* NULL: as it is by default */
uint8_t alua_access(const struct alua_state *s, uint16_t tag);
int  alua_apply(const struct alua_state *old, const struct alua_change *c, unsigned n, enum alua_why why, bool keep,
	struct alua_state **ret);
/* The configuration's: what was changed at run time stays where the base is as it was. */
int  alua_rebase(const struct alua_state *old, const struct alua_change *c, unsigned n, struct alua_state **ret);
bool alua_equal(const struct alua_state *a, const struct alua_state *b);
/* The saved form: what differs from the configuration and is to be kept; 0 groups is a form too. */
enum { ALUA_SAVE_MAX = 8 + 8 * LIM_PORTALS };
size_t alua_encode(const struct alua_state *s, uint8_t p[ALUA_SAVE_MAX]);
int  alua_decode(const uint8_t *p, size_t n, struct alua_state **ret); /* -EINVAL: damaged */

/* --- of a unit; control thread --- */
/* What the configuration says of the groups; the others are optimized. Before the unit is in a LUN map. -EBUSY: it has work
 * of its own already (a SANITIZE that goes on), so that lu_alua_configure() must say it. */
int  lu_alua_init(struct lu *lu, const struct alua_change *c, unsigned n);
/* The same later: a change by the configuration. done(ctx, 0 or -errno) on the control loop. */
void lu_alua_configure(struct lu *lu, const struct alua_change *c, unsigned n, void (*done)(void *ctx, int result),
	void *ctx);
/* Implicit change. keep: it survives a restart, until the configuration of the group changes. limit_s: how long groups that
 * leave I/O may take to drain, 0 = as long as it takes; then they are unavailable (2A/07), and the result is -ETIMEDOUT:
 * something that came through them may still touch the medium. -EBUSY: another unit takes this one's place. */
void lu_alua_change(struct lu *lu, const struct alua_change *c, unsigned n, bool keep, unsigned limit_s,
	void (*done)(void *ctx, int result), void *ctx);
/* The states now; s is the callee's for the call, NULL when all is as by default. */
void lu_alua_show(struct lu *lu, void (*done)(void *ctx, const struct alua_state *s), void *ctx);

#endif

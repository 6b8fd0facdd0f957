/* SPDX-License-Identifier: BSD-3-Clause
 * Unit attentions of an I_T_L nexus (SAM-5 5.14): a short queue, oldest first, each condition at most once.
 * On the nexus' loop. */
#include "scsi/priv.h"

/* A reset makes the conditions that it implies pointless; SAM-5 5.14 lets them be dropped. */
static bool is_reset(uint16_t ua)
{
	return ua >> 8 == 0x29;
}

static bool ua_has(const struct itl *itl, uint16_t ua)
{
	for (unsigned i = 0; i < itl->nua; i++)
		if (itl->ua[i] == ua)
			return true;
	return false;
}

void ua_add(struct itl *itl, uint16_t ua)
{
	if (is_reset(ua)) {
		itl->nua = 0;
		itl->aca = false;
	}
	if (ua_has(itl, ua))
		return;
	if (itl->nua == LIM_UA) { /* too many to tell apart: one that tells the initiator to look at everything */
		itl->nua = 0;
		ua = UA_POWER_ON;
	}
	itl->ua[itl->nua++] = ua;
}

void ua_add_first(struct itl *itl, uint16_t ua)
{
	ua_take(itl, ua);
	if (itl->nua == LIM_UA)
		itl->nua--;
	memmove(itl->ua + 1, itl->ua, itl->nua * sizeof(itl->ua[0]));
	itl->ua[0] = ua;
	itl->nua++;
}

bool ua_take(struct itl *itl, uint16_t ua)
{
	for (unsigned i = 0; i < itl->nua; i++) {
		if (itl->ua[i] != ua)
			continue;
		itl->nua--;
		memmove(itl->ua + i, itl->ua + i + 1, (itl->nua - i) * sizeof(itl->ua[0]));
		return true;
	}
	return false;
}

uint16_t ua_pop(struct itl *itl)
{
	uint16_t ua = itl->ua[0];

	ua_take(itl, ua);
	return ua;
}

void ua_broadcast(struct lu_loop *ll, uint16_t ua, uint64_t except_id)
{
	struct itl *itl;

	list_for_each(itl, &ll->itls, node)
		if (itl->nexus->id != except_id)
			ua_add(itl, ua);
}

struct itl *scsi_itl(const struct scsi_cmd *c)
{
	int lun = lun_decode(c->lun);

	struct itl *itl = lun < 0 ? NULL : nexus_peek(c->nexus, (unsigned)lun);

	return itl && itl->ll == c->ll ? itl : NULL;
}

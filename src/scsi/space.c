/* SPDX-License-Identifier: BSD-3-Clause
 * The space below a thin unit: thresholds of the Logical Block Provisioning mode page (SBC-4 4.7.3.7, 6.5.9). The control
 * thread says about once a second what is free; the unit's home decides. */
#include "scsi/service.h"

enum { DESCRIPTORS = 2, AT = 16, PERCENT = 1 };

/* Both are armed decreasing thresholds: of a share of all there is, and of what is free. */
static bool met(const struct lu_pub *p, const uint8_t *d, bool *armed)
{
	bool percent = (d[0] >> 3 & 7) == PERCENT;
	uint64_t all = p->space_used + p->space_free, count = be32(d + 4);
	uint64_t have = percent ? p->space_free / MAX(all / 1000, 1u) : p->space_free >> SPACE_SHIFT;
	uint64_t center = percent ? count * 10 : count, half = percent ? SPACE_PERMILLE / 2 : 1;

	if (have > center + half)
		*armed = true;
	if (!(d[0] & 0x80) || !*armed || have + half > center)
		return false;
	*armed = false;
	return true;
}

/* LBPERE of the error recovery page enables them all. */
static void look(struct lu_job *j)
{
	struct lu *lu = j->lu;
	int page = mode_find(lu, 0x1c, 0x02), recovery = mode_index(lu, 0x01);

	for (unsigned i = 0; page >= 0 && recovery >= 0 && i < DESCRIPTORS; i++)
		if (met(&lu->pub, lu->pub.mode[page] + AT + 8 * i, &lu->space_armed[i]) && (lu->pub.mode[recovery][3] & 0x80))
			j->ua = UA_SOFT_THRESHOLD;
}

void space_changed(struct lu_job *j, uint64_t used, uint64_t left)
{
	struct lu *lu = j->lu;

	if (!lu->pub.space_known)
		lu->space_armed[0] = lu->space_armed[1] = true; /* one that is met from the start is told */
	lu->pub.space_known = true;
	lu->pub.space_used = used;
	lu->pub.space_free = left;
	look(j);
	lu_publish(j);
}

bool space_page(const struct lu_pub *p)
{
	return p->thin && p->space_known;
}

/* Mode page 1Ch/02h: types, arming and resources are what they are; a percentage is one. */
int space_check(const uint8_t *p)
{
	return be32(p + AT + 4) > 100 ? AT + 7 : -1;
}

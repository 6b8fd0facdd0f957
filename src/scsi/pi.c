/* SPDX-License-Identifier: BSD-3-Clause */
#include "scsi/pi.h"

#include <isa-l/crc.h>

#include "base/bytes.h"

#define ALL (PI_GUARD | PI_APP | PI_REF)
#define M PI_MOVES

/* By code 000b to 111b. Where the standard says "may", what can be known is checked. */
static const int8_t checks[][8] = {
	[PI_READ] = { ALL, M | ALL, M | PI_APP | PI_REF, M, M | PI_GUARD, M | ALL, -1, -1 },
	[PI_WRITE] = { 0, M | ALL, M | PI_APP | PI_REF, M, M | PI_GUARD, M | ALL, -1, -1 },
	[PI_VERIFY_MEDIUM] = { ALL, 0, 0, 0, 0, 0, -1, -1 },
	[PI_VERIFY_DATA] = { 0, M | ALL, M | PI_APP | PI_REF, M, M | PI_GUARD, M | ALL, -1, -1 },
	[PI_VERIFY_COMPARE] = { 0, ALL, PI_APP | PI_REF, ALL, ALL, PI_GUARD | PI_APP, -1, -1 },
};

int pi_checks(enum pi_table table, unsigned code)
{
	return checks[table][code & 7];
}

bool pi_escapes(unsigned type, const uint8_t t[PI_BYTES])
{
	return be16(t + 2) == 0xffff && (type != 3 || be32(t + 4) == 0xffffffff);
}

uint32_t pi_ref(unsigned type, uint32_t ref, uint64_t i)
{
	return type == 3 ? ref : ref + (uint32_t)i;
}

unsigned pi_check(const struct pi_rule *r, const uint8_t t[PI_BYTES], uint16_t guard, uint64_t i)
{
	if (pi_escapes(r->type, t))
		return 0;
	if ((r->checks & PI_GUARD) && be16(t) != guard)
		return 1;
	if ((r->checks & PI_APP) && r->knows_app && ((be16(t + 2) ^ r->app) & r->mask))
		return 2;
	if ((r->checks & PI_REF) && r->knows_ref && be32(t + 4) != pi_ref(r->type, r->ref, i))
		return 3;
	return 0;
}

uint16_t pi_guard(uint16_t crc, const void *p, size_t n)
{
	return crc16_t10dif(crc, p, n);
}

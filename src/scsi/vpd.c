/* SPDX-License-Identifier: BSD-3-Clause
 * Vital product data: pages that every device has (SPC-4 7.8) and those of disks (SBC-4 6.6). On the
 * command's loop; what a page says of the unit is constant or comes from the loop's snapshot. */
#include <stdio.h>

#include "scsi/sbc.h"
#include "scsi/service.h"

const struct scsi_page *vpd_find(const struct lu *lu, uint8_t page)
{
	for (const struct scsi_page *p = lu->type->vpd; p->fill; p++)
		if (p->page == page)
			return p;
	return NULL;
}

int vpd_supported(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	uint8_t scratch[VPD_MAX];
	int count = 0;

	for (const struct scsi_page *v = c->lu->type->vpd; v->fill; v++)
		if (v->fill == vpd_supported || v->fill(c, scratch, sizeof(scratch)) >= 0)
			p[count++] = v->page;
	return count;
}

static int vpd_serial(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	size_t len = strlen(c->lu->serial);

	memcpy(p, c->lu->serial, len);
	return (int)len;
}

/* --- 83h: designators --- */

enum { CODE_BINARY = 1, CODE_ASCII = 2, CODE_UTF8 = 3 };
enum { ASSOC_LU = 0x00, ASSOC_PORT = 0x10, ASSOC_TARGET = 0x20 };
enum { TYPE_T10 = 1, TYPE_EUI64 = 2, TYPE_NAA = 3, TYPE_REL_PORT = 4, TYPE_PORT_GROUP = 5, TYPE_NAME = 8 };
enum { PROTOCOL_ISCSI = 0x50, PIV = 0x80 };

/* Writes a designator's header before n bytes of it that follow; all of its length. */
static size_t designator(uint8_t *p, unsigned code, unsigned assoc_type, size_t n)
{
	bool port = assoc_type & 0x30;

	p[0] = (uint8_t)(code | (port ? PROTOCOL_ISCSI : 0));
	p[1] = (uint8_t)(assoc_type | (port ? PIV : 0));
	p[2] = 0;
	p[3] = (uint8_t)n;
	return n + 4;
}

/* SCSI name string: UTF-8, ended by zero, padded to a multiple of four; SPC-4 7.8.6.11. */
static size_t name_string(uint8_t *p, unsigned assoc, const char *text)
{
	size_t len = strlen(text) + 1, n = (len + 3) & ~(size_t)3;

	memset(p + 4, 0, n);
	memcpy(p + 4, text, len);
	return designator(p, CODE_UTF8, assoc | TYPE_NAME, n);
}

static void pad_copy(uint8_t *p, size_t n, const char *s)
{
	memset(p, ' ', n);
	memcpy(p, s, strnlen(s, n));
}

size_t vpd_lu_designators(const struct lu *lu, uint8_t *p)
{
	size_t at = 0, len = strlen(lu->serial);
	uint8_t naa[8];
	char name[32];

	memcpy(naa, lu->id, 8);
	naa[0] = (uint8_t)(0x30 | (naa[0] & 0x0f)); /* NAA 3h: locally assigned */
	pad_copy(p + 4, 8, lu->conf.vendor ? lu->conf.vendor : "LUNETTE");
	memcpy(p + 12, lu->serial, len);
	at += designator(p, CODE_ASCII, ASSOC_LU | TYPE_T10, 8 + len);
	memcpy(p + at + 4, lu->id + 8, 8);
	p[at + 4] = (uint8_t)((p[at + 4] & ~0x01) | 0x02); /* EUI-64: local, not group */
	at += designator(p + at, CODE_BINARY, ASSOC_LU | TYPE_EUI64, 8);
	memcpy(p + at + 4, naa, 8);
	at += designator(p + at, CODE_BINARY, ASSOC_LU | TYPE_NAA, 8);
	snprintf(name, sizeof(name), "naa.%016llX", (unsigned long long)be64(naa));
	return at + name_string(p + at, ASSOC_LU, name);
}

static int vpd_identification(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	char name[LIM_ISCSI_NAME + 16];
	size_t at = vpd_lu_designators(c->lu, p);
	uint16_t tpgt = c->nexus->tpgt;
	const char *target = scsi_target_name(c->nexus->target);

	put_be32(p + at + 4, tpgt);
	at += designator(p + at, CODE_BINARY, ASSOC_PORT | TYPE_REL_PORT, 4);
	put_be32(p + at + 4, tpgt);
	at += designator(p + at, CODE_BINARY, ASSOC_PORT | TYPE_PORT_GROUP, 4);
	snprintf(name, sizeof(name), "%s,t,0x%04x", target, tpgt); /* RFC 7143 4.2.7.1 and SAM */
	at += name_string(p + at, ASSOC_PORT, name);
	at += name_string(p + at, ASSOC_TARGET, target);
	return (int)at;
}

/* 86h, Extended INQUIRY data: SPC-4 7.8.7. */
static int vpd_extended(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	memset(p, 0, 60);
	if (c->ll->pub.pi_able) {
		p[0] = 0x3f; /* SPT: types 1, 2, 3; GRD_CHK, APP_CHK, REF_CHK */
		p[3] = 0x20; /* NO_PI_CHK: tags that escape checks do so on writes too */
	}
	p[1] = 0x07; /* HEADSUP, ORDSUP, SIMPSUP */
	p[2] = c->ll->pub.wce ? 0x01 : 0x00; /* V_SUP: a volatile cache is supported */
	p[9] = LIM_SENSE; /* maximum supported sense data length */
	return 60;
}

/* --- disks --- */

static int vpd_block_limits(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	unsigned shift = c->ll->shift;
	struct blk *b = c->ll->pub.blk;
	uint32_t unmap = b && b->discard_bytes ? b->discard_bytes : 4096;

	memset(p, 0, 60);
	p[1] = SBC_CAW_MAX;
	put_be16(p + 2, (uint16_t)(c->ll->pub.pbs >> shift)); /* optimal transfer length granularity */
	put_be32(p + 4, (c->ll->pub.pi_able ? LIM_TRANSFER / 2 : LIM_TRANSFER) >> shift); /* tuples need room too */
	put_be32(p + 8, (1u << 20) >> shift);
	put_be32(p + 12, LIM_TRANSFER >> shift); /* prefetch */
	if (c->ll->pub.thin) {
		put_be32(p + 16, UINT32_MAX);
		put_be32(p + 20, SBC_UNMAP_MAX);
		put_be32(p + 24, MAX(unmap >> shift, 1u));
		put_be32(p + 28, 0x80000000); /* UGAVALID, aligned at 0 */
	}
	put_be64(p + 32, sbc_same_max(&c->ll->pub));
	put_be32(p + 40, sbc_atomic_max(c->ll)); /* any alignment, any granularity */
	put_be32(p + 52, sbc_atomic_max(c->ll)); /* with a boundary; the largest boundary */
	put_be32(p + 56, sbc_atomic_max(c->ll));
	return 60;
}

/* B1h, block device characteristics: SBC-4 6.6.2. */
static int vpd_characteristics(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	memset(p, 0, 60);
	put_be16(p, 1); /* not rotating */
	p[3] = 0x40; /* WABEREQ: reads succeed after BLOCK ERASE; form factor not said */
	p[4] = 0x03; /* FUAB: SYNCHRONIZE CACHE and FUA reach the medium; VBULS: VERIFY compares unmapped blocks */
	return 60;
}

/* B2h, logical block provisioning: SBC-4 6.6.7. */
static int vpd_provisioning(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	memset(p, 0, 4);
	if (c->ll->pub.thin) {
		p[1] = 0xe4; /* LBPU, LBPWS, LBPWS10, LBPRZ = 001b: unmapped reads as zeros */
		p[2] = 0x02; /* thin provisioned */
		if (c->ll->pub.space_known) {
			bool fits = (c->ll->pub.nblk << c->ll->shift) >> SPACE_SHIFT <= UINT32_MAX;
			p[0] = (uint8_t)(fits ? SPACE_SHIFT - c->ll->shift : 0); /* threshold exponent */
			p[3] = SPACE_PERMILLE;
		}
	}
	return 4;
}

/* 87h, mode page policy: every page is shared by all initiators, and each unit has its own; SPC-4 7.8.9. */
static int vpd_policy(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	static const uint8_t policy[] = { 0x3f, 0xff, 0x00, 0, 0x02, 0x00, 0x80, 0, 0x19, 0x00, 0x80, 0 }; /* MLUS of two */

	memcpy(p, policy, sizeof(policy));
	return sizeof(policy);
}

/* 88h, SCSI ports: one target port for each portal group that serves the target; SPC-4 7.8.14. */
static int vpd_ports(struct scsi_cmd *c, uint8_t *p, size_t n)
{
	const struct lun_map *map = c->nexus->map;
	const char *target = scsi_target_name(c->nexus->target);
	char name[LIM_ISCSI_NAME + 16];
	size_t at = 0, room = sizeof(name) + 24;

	for (unsigned i = 0; i < MAX(map->nports, 1u) && at + room <= n; i++) {
		uint16_t tag = map->nports ? map->port[i] : c->nexus->tpgt;
		memset(p + at, 0, 12);
		put_be16(p + at + 2, tag);
		snprintf(name, sizeof(name), "%s,t,0x%04x", target, tag);
		size_t len = name_string(p + at + 12, ASSOC_PORT, name);
		put_be16(p + at + 10, (uint16_t)len);
		at += 12 + len;
	}
	return (int)at;
}

const struct scsi_page disk_vpd[] = {
	{ 0x00, vpd_supported, "SPC-4 7.8.15" },
	{ 0x80, vpd_serial, "SPC-4 7.8.16" },
	{ 0x83, vpd_identification, "SPC-4 7.8.6" },
	{ 0x86, vpd_extended, "SPC-4 7.8.7" },
	{ 0x87, vpd_policy, "SPC-4 7.8.9" },
	{ 0x88, vpd_ports, "SPC-4 7.8.14" },
	{ 0x8f, copy_vpd, "SPC-4 7.8.17" },
	{ 0xb0, vpd_block_limits, "SBC-4 6.6.4" },
	{ 0xb1, vpd_characteristics, "SBC-4 6.6.2" },
	{ 0xb2, vpd_provisioning, "SBC-4 6.6.7" },
	{ 0, NULL, NULL },
};

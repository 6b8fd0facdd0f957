/* SPDX-License-Identifier: BSD-3-Clause
 * Mode pages: MODE SENSE and MODE SELECT (SPC-4 6.11 ff, 7.5) over the tables of the device type. Current values
 * are part of the unit's shared state; saved ones go to the unit's store. */
#include "scsi/priv.h"

int mode_index(const struct lu *lu, uint8_t page)
{
	for (int i = 0; lu->type->mode[i].len; i++)
		if (lu->type->mode[i].page == page)
			return i;
	return -1;
}

static bool has_cache(const struct lu *lu)
{
	return lu->pub.blk ? lu->pub.blk->caps & BLK_WRITE_CACHE : true;
}

void mode_reset(struct lu *lu, uint8_t to[MODE_PAGES_MAX][MODE_PAGE_MAX])
{
	int caching = mode_index(lu, 0x08);

	for (int i = 0; lu->type->mode[i].len; i++)
		memcpy(to[i], lu->type->mode[i].dflt, MODE_PAGE_MAX);
	if (caching >= 0 && lu->conf.wce)
		to[caching][2] |= 0x04;
}

/* What the pages say, where commands look for it. */
void mode_derive(struct lu *lu)
{
	int caching = mode_index(lu, 0x08), control = mode_index(lu, 0x0a);
	struct lu_pub *p = &lu->pub;

	if (caching >= 0) {
		if (!has_cache(lu))
			p->mode[caching][2] &= (uint8_t)~0x04; /* nothing is lost without a flush */
		p->wce = p->mode[caching][2] & 0x04;
	}
	if (control >= 0) {
		p->d_sense = p->mode[control][2] & 0x04;
		p->swp = p->mode[control][4] & 0x08;
	}
}

/* Saved values count only where they may be changed, so that an old file cannot claim what we cannot do. */
void mode_load(struct lu *lu)
{
	uint8_t buf[MODE_PAGE_MAX];
	char what[16] = "mode-00";

	mode_reset(lu, lu->saved);
	for (int i = 0; lu->type->mode[i].len; i++) {
		const struct scsi_mode_page *m = &lu->type->mode[i];
		what[5] = "0123456789abcdef"[m->page >> 4];
		what[6] = "0123456789abcdef"[m->page & 15];
		if (!lu->store->load || lu->store->load(lu->store->ctx, lu->id, what, buf, sizeof(buf)) != m->len)
			continue;
		for (unsigned k = 2; k < m->len; k++)
			lu->saved[i][k] = (uint8_t)((lu->saved[i][k] & ~m->mask[k]) | (buf[k] & m->mask[k]));
	}
	memcpy(lu->pub.mode, lu->saved, sizeof(lu->saved));
}

/* --- MODE SENSE --- */

enum { PC_CURRENT, PC_CHANGEABLE, PC_DEFAULT, PC_SAVED };

/* What MODE SELECT may change; WCE only where there is a cache that could be turned off. */
static uint8_t changeable(const struct scsi_cmd *c, int i, unsigned k)
{
	const struct scsi_mode_page *m = &c->lu->type->mode[i];
	struct blk *b = c->ll->pub.blk;

	if (m->page == 0x08 && k == 2 && !(b && (b->caps & BLK_WRITE_CACHE)))
		return m->mask[k] & (uint8_t)~0x04;
	return m->mask[k];
}

static unsigned sense_page(struct scsi_cmd *c, unsigned pc, int i, uint8_t *p)
{
	const struct scsi_mode_page *m = &c->lu->type->mode[i];
	const struct lu *lu = c->lu;

	for (unsigned k = 0; k < m->len; k++) {
		uint8_t mask = changeable(c, i, k);
		switch (pc) {
		case PC_CHANGEABLE: p[k] = mask; break;
		case PC_DEFAULT: p[k] = m->dflt[k]; break;
		case PC_SAVED: p[k] = (uint8_t)((c->ll->pub.mode[i][k] & ~mask) | (lu->saved[i][k] & mask)); break;
		default: p[k] = c->ll->pub.mode[i][k];
		}
	}
	if (m->page == 0x08 && pc == PC_DEFAULT && lu->conf.wce && (changeable(c, i, 2) & 0x04))
		p[2] |= 0x04;
	p[0] = (uint8_t)(0x80 | m->page); /* PS */
	p[1] = (uint8_t)(m->len - 2);
	return m->len;
}

/* Short or long block descriptor of a direct-access device, SBC-4 6.5.2. */
static unsigned block_descriptor(const struct scsi_cmd *c, bool long_lba, uint8_t *p)
{
	uint64_t nblk = c->ll->pub.nblk;

	if (long_lba) {
		memset(p, 0, 16);
		put_be64(p, nblk);
		put_be32(p + 12, 1u << c->ll->shift);
		return 16;
	}
	put_be32(p, nblk > UINT32_MAX ? UINT32_MAX : (uint32_t)nblk);
	put_be32(p + 4, 1u << c->ll->shift); /* byte 4 is reserved */
	return 8;
}

static unsigned sense_pages(struct scsi_cmd *c, uint8_t *p)
{
	unsigned page = c->cdb[2] & 0x3f, pc = c->cdb[2] >> 6, n = 0;

	for (int i = 0; c->lu->type->mode[i].len; i++)
		if (page == 0x3f || c->lu->type->mode[i].page == page)
			n += sense_page(c, pc, i, p + n);
	return n;
}

void spc_mode_sense(struct scsi_cmd *c)
{
	bool ten = c->cdb[0] == 0x5a;
	unsigned head = ten ? 8 : 4, n = head, page = c->cdb[2] & 0x3f;
	uint8_t buf[8 + 16 + MODE_PAGES_MAX * MODE_PAGE_MAX] = { 0 }, specific;

	if ((c->cdb[3] && c->cdb[3] != 0xff) || (c->cdb[3] == 0xff && page != 0x3f)) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 3, -1);
		return;
	}
	if (page != 0x3f && mode_index(c->lu, (uint8_t)page) < 0) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, 5);
		return;
	}
	specific = (uint8_t)(0x10 | (c->ll->pub.alert & LU_WRITE_PROTECT ? 0x80 : 0)); /* DPOFUA, WP */
	if (!(c->cdb[1] & 0x08)) /* DBD */
		n += block_descriptor(c, ten && (c->cdb[1] & 0x10), buf + n);
	unsigned desc = n - head;
	n += sense_pages(c, buf + n);
	if (ten) {
		put_be16(buf, (uint16_t)(n - 2));
		buf[3] = specific;
		buf[4] = desc == 16; /* LONGLBA */
		put_be16(buf + 6, (uint16_t)desc);
	} else {
		buf[0] = (uint8_t)(n - 1);
		buf[2] = specific;
		buf[3] = (uint8_t)desc;
	}
	scsi_reply_data(c, buf, n);
}

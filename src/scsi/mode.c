/* SPDX-License-Identifier: BSD-3-Clause
 * Mode pages: MODE SENSE and MODE SELECT (SPC-4 6.11 ff, 7.5) over the tables of the device type. Current values
 * are part of the unit's shared state; saved ones go to the unit's store. */
#include <stdio.h>

#include "scsi/priv.h"

enum { ALL = 0x3f, ALL_SUBPAGES = 0xff };

static int find(const struct lu *lu, const struct lu_pub *p, unsigned page, unsigned sub)
{
	for (int i = 0; lu->type->mode[i].len; i++) {
		const struct scsi_mode_page *m = &lu->type->mode[i];
		if (m->page == page && m->sub == sub && (!m->has || m->has(p)))
			return i;
	}
	return -1;
}

int mode_index(const struct lu *lu, uint8_t page)
{
	return find(lu, &lu->pub, page, 0);
}

int mode_find(const struct lu *lu, uint8_t page, uint8_t sub)
{
	return find(lu, &lu->pub, page, sub);
}

/* Length of a page's header: page_0 or sub_page format, SPC-4 7.5.6. */
static unsigned head_of(const struct scsi_mode_page *m)
{
	return m->sub ? 4 : 2;
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

/* Control mode page, SPC-4 7.5.8. */
static void derive_control(struct lu_pub *p, const uint8_t *m)
{
	p->tst = m[2] >> 5;
	p->d_sense = m[2] & 0x04;
	p->qerr = m[3] >> 1 & 3;
	p->ua_intlck = m[4] >> 4 & 3;
	p->swp = m[4] & 0x08;
	p->tas = m[5] & 0x40;
}

/* What the pages say, where commands look for it. */
void mode_derive(struct lu *lu)
{
	int caching = mode_index(lu, 0x08), control = mode_index(lu, 0x0a), exceptions = mode_index(lu, 0x1c);
	struct lu_pub *p = &lu->pub;

	if (caching >= 0) {
		if (!has_cache(lu))
			p->mode[caching][2] &= (uint8_t)~0x04; /* nothing is lost without a flush */
		p->wce = p->mode[caching][2] & 0x04;
	}
	if (control >= 0) {
		p->mode[control][5] = (uint8_t)((p->mode[control][5] & 0x7f) | (p->pi_able ? 0x80 : 0)); /* ATO */
		derive_control(p, p->mode[control]);
	}
	if (exceptions >= 0) /* TEST without DEXCPT, reported on request: SPC-4 7.5.11 */
		p->false_alarm = (p->mode[exceptions][2] & 0x0c) == 0x04 && (p->mode[exceptions][3] & 0x0f) == 6;
}

/* Under which name the store keeps a page. */
static void mode_name(char what[16], const struct scsi_mode_page *m)
{
	if (m->sub)
		snprintf(what, 16, "mode-%02x-%02x", m->page, m->sub);
	else
		snprintf(what, 16, "mode-%02x", m->page);
}

/* Saved values count only where they may be changed and make sense, so that an old file cannot claim what we cannot do. */
void mode_load(struct lu *lu)
{
	uint8_t buf[MODE_PAGE_MAX], page[MODE_PAGE_MAX];
	uint8_t (*saved)[MODE_PAGE_MAX] = lu->pub.saved;
	char what[16];

	mode_reset(lu, saved);
	for (int i = 0; lu->type->mode[i].len; i++) {
		const struct scsi_mode_page *m = &lu->type->mode[i];
		mode_name(what, m);
		if (!lu->store->load || lu->store->load(lu->store->ctx, lu->id, what, buf, sizeof(buf)) != m->len)
			continue;
		memcpy(page, saved[i], sizeof(page));
		for (unsigned k = head_of(m); k < m->len; k++)
			page[k] = (uint8_t)((page[k] & ~m->mask[k]) | (buf[k] & m->mask[k]));
		if (!m->check || m->check(page) < 0)
			memcpy(saved[i], page, sizeof(page));
	}
	memcpy(lu->pub.mode, saved, sizeof(lu->pub.saved));
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
		case PC_SAVED: p[k] = (uint8_t)((c->ll->pub.mode[i][k] & ~mask) | (c->ll->pub.saved[i][k] & mask)); break;
		default: p[k] = c->ll->pub.mode[i][k];
		}
	}
	if (m->page == 0x08 && pc == PC_DEFAULT && lu->conf.wce && (changeable(c, i, 2) & 0x04))
		p[2] |= 0x04;
	p[0] = (uint8_t)(0x80 | (m->sub ? 0x40 : 0) | m->page); /* PS, SPF */
	p[1] = m->sub ? m->sub : (uint8_t)(m->len - 2);
	if (m->sub)
		put_be16(p + 2, (uint16_t)(m->len - 4));
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

/* Does a page and subpage code of MODE SENSE ask for this page? SPC-4 table 148. */
static bool asked(const struct scsi_mode_page *m, unsigned page, unsigned sub)
{
	return (page == ALL || m->page == page) && (sub == ALL_SUBPAGES || m->sub == sub);
}

static unsigned sense_pages(struct scsi_cmd *c, uint8_t *p)
{
	unsigned page = c->cdb[2] & 0x3f, pc = c->cdb[2] >> 6, n = 0;

	for (int i = 0; c->lu->type->mode[i].len; i++) {
		const struct scsi_mode_page *m = &c->lu->type->mode[i];
		if (asked(m, page, c->cdb[3]) && (!m->has || m->has(&c->ll->pub)))
			n += sense_page(c, pc, i, p + n);
	}
	return n;
}

/* Which byte of the CDB asks for a page that is not there? 0: none. */
static unsigned missing(const struct scsi_cmd *c)
{
	unsigned page = c->cdb[2] & 0x3f, sub = c->cdb[3];

	if (page == ALL)
		return sub && sub != ALL_SUBPAGES ? 3 : 0;
	if (find(c->lu, &c->ll->pub, page, 0) < 0)
		return 2;
	return sub && sub != ALL_SUBPAGES && find(c->lu, &c->ll->pub, page, sub) < 0 ? 3 : 0;
}

void spc_mode_sense(struct scsi_cmd *c)
{
	bool ten = c->cdb[0] == 0x5a;
	unsigned head = ten ? 8 : 4, n = head, wrong = missing(c);
	uint8_t buf[8 + 16 + MODE_PAGES_MAX * MODE_PAGE_MAX] = { 0 }, specific;

	if (wrong) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, wrong, wrong == 2 ? 5 : -1);
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
		buf[0] = (uint8_t)MIN(n - 1, 255u);
		buf[2] = specific;
		buf[3] = (uint8_t)desc;
	}
	scsi_reply_data(c, buf, n);
}

/* --- MODE SELECT --- */

enum { SELECT_MAX = 512 }; /* bytes of parameter list that can make sense */

struct select { struct scsi_cmd *c; struct lu_job *j; uint8_t buf[SELECT_MAX]; unsigned len; };

static bool bad(struct select *s, uint32_t sense, unsigned at)
{
	scsi_job_sense(s->j, sense, sense == SENSE_INVALID_PARAM ? (int)at : -1);
	return false;
}

/* The block length cannot be changed; the number of blocks is ignored, as SBC-4 6.5.2.2 wants it. */
static bool select_descriptor(struct select *s, unsigned at, unsigned len)
{
	const struct lu *lu = s->c->lu;
	const uint8_t *p = s->buf + at;
	uint32_t bs = len == 16 ? be32(p + 12) : be24(p + 5);

	if (bs != lu->pub.bs)
		return bad(s, SENSE_INVALID_PARAM, at + (len == 16 ? 12 : 5));
	return true;
}

/* One page into lu->next_mode; its length, or 0 if it may not be so. */
static unsigned select_page(struct select *s, unsigned at)
{
	struct lu *lu = s->c->lu;
	const uint8_t *p = s->buf + at;
	bool spf = p[0] & 0x40;
	int i = find(lu, &lu->pub, p[0] & 0x3f, spf ? p[1] : 0);

	if (spf && at + 4 > s->len)
		return bad(s, SENSE_PARAM_LENGTH, 0);
	if (i < 0 || spf != (lu->type->mode[i].sub != 0))
		return bad(s, SENSE_INVALID_PARAM, at);
	const struct scsi_mode_page *m = &lu->type->mode[i];
	unsigned head = head_of(m);
	if ((spf ? be16(p + 2) : p[1]) != m->len - head)
		return bad(s, SENSE_INVALID_PARAM, at + head - 1);
	if (at + m->len > s->len)
		return bad(s, SENSE_PARAM_LENGTH, 0);
	for (unsigned k = head; k < m->len; k++) {
		if ((p[k] ^ lu->next_mode[i][k]) & (uint8_t)~changeable(s->c, i, k))
			return bad(s, SENSE_INVALID_PARAM, at + k);
		lu->next_mode[i][k] = p[k];
	}
	int wrong = m->check ? m->check(lu->next_mode[i]) : -1;
	return wrong >= 0 ? bad(s, SENSE_INVALID_PARAM, at + (unsigned)wrong) : m->len;
}

static bool select_parse(struct select *s)
{
	bool ten = s->c->cdb[0] == 0x55;
	unsigned head = ten ? 8 : 4, desc, at;

	if (s->len < head)
		return bad(s, SENSE_PARAM_LENGTH, 0);
	desc = ten ? be16(s->buf + 6) : s->buf[3];
	at = head + desc;
	if (desc && desc != (ten && (s->buf[4] & 1) ? 16u : 8u))
		return bad(s, SENSE_INVALID_PARAM, ten ? 6 : 3);
	if (at > s->len)
		return bad(s, SENSE_PARAM_LENGTH, 0);
	if (desc && !select_descriptor(s, head, desc))
		return false;
	while (at < s->len) {
		if (at + 2 > s->len)
			return bad(s, SENSE_PARAM_LENGTH, 0);
		unsigned len = select_page(s, at);
		if (!len)
			return false;
		at += len;
	}
	return true;
}

/* home: next_mode becomes current, and saved with SP. */
static void select_apply(struct lu_job *j)
{
	struct lu *lu = j->lu;

	if (memcmp(lu->pub.mode, lu->next_mode, sizeof(lu->next_mode))) {
		j->ua = UA_MODE_CHANGED;
		j->ua_except = scsi_job_cmd(j)->nexus->id;
	}
	memcpy(lu->pub.mode, lu->next_mode, sizeof(lu->next_mode));
	if (scsi_job_cmd(j)->cdb[1] & 0x01)
		memcpy(lu->pub.saved, lu->next_mode, sizeof(lu->next_mode));
	lu_publish(j);
}

static void select_saved(struct task *t)
{
	struct scsi_cmd *c = container_of(t, struct scsi_cmd, task);

	if ((int64_t)c->scratch[2] < 0) {
		scsi_job_sense(&c->job, SENSE(4, 0x44, 0x00), -1);
		lu_job_end(&c->job);
		return;
	}
	select_apply(&c->job);
}

/* Control thread: the only one that touches the store. */
static void select_save(struct task *t)
{
	struct scsi_cmd *c = container_of(t, struct scsi_cmd, task);
	struct lu *lu = c->lu;
	char what[16];
	int r = 0;

	for (int i = 0; !r && lu->type->mode[i].len; i++) {
		if (!memcmp(lu->next_mode[i], lu->pub.saved[i], MODE_PAGE_MAX))
			continue;
		mode_name(what, &lu->type->mode[i]);
		r = lu->store->save(lu->store->ctx, lu->id, what, lu->next_mode[i], lu->type->mode[i].len);
	}
	c->scratch[2] = (uint64_t)(int64_t)r;
	t->run = select_saved;
	scsi_send(lu->store->control, lu->home, t);
}

static void run_select(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct select s = { .c = c, .j = j, .len = c->out_len };

	scsi_data_get(c, 0, s.buf, s.len);
	memcpy(j->lu->next_mode, j->lu->pub.mode, sizeof(j->lu->next_mode));
	if (!select_parse(&s)) {
		lu_job_end(j);
	} else if (!(c->cdb[1] & 0x01)) {
		select_apply(j);
	} else if (!j->lu->store->save) {
		scsi_job_sense(j, SENSE(5, 0x39, 0x00), -1); /* saving parameters not supported */
		lu_job_end(j);
	} else {
		c->task.run = select_save;
		scsi_send(j->lu->home, j->lu->store->control, &c->task);
	}
}

void spc_mode_select(struct scsi_cmd *c)
{
	if (!c->out_len)
		scsi_reply(c, SCSI_GOOD);
	else if (c->out_len > SELECT_MAX)
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	else
		scsi_job(c, run_select);
}

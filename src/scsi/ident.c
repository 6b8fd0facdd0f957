/* SPDX-License-Identifier: BSD-3-Clause
 * What an application tells the unit to keep: identifying information (SPC-4 6.32, 6.43) and the time (6.38, 6.46); and the
 * serial number of the medium (6.20). Kept on the unit's home, durable before the status. */
#include <time.h>

#include "scsi/service.h"

enum { TYPE_LABEL = 0x00, TYPE_TEXT = 0x02, TYPE_LIST = 0x7f };
enum { VALUE = 2, KIND = 3 }; /* scratch */
enum { ORIGIN_SET = 2, ORIGIN_CLOCK = 3 };
static const struct { uint8_t type; uint16_t max; const char *what; } kinds[IDENT_KINDS] = {
	{ TYPE_LABEL, IDENT_LABEL, "ident-00" }, { TYPE_TEXT, IDENT_MAX, "ident-02" } };

static int kind_of(uint8_t type)
{
	for (int i = 0; i < IDENT_KINDS; i++)
		if (kinds[i].type == type)
			return i;
	return -1;
}

/* Control thread, before the unit is in use. What cannot be read is not there: it is a label only. */
void ident_load(struct lu *lu)
{
	const struct lu_store *st = lu->store;
	uint8_t buf[8];

	for (int i = 0; st->load && i < IDENT_KINDS; i++) {
		int n = st->load(st->ctx, lu->id, kinds[i].what, lu->ident[i].text, sizeof(lu->ident[i].text));
		lu->ident[i].len = n > 0 && n <= kinds[i].max ? (uint16_t)n : 0;
	}
	if (st->load && st->load(st->ctx, lu->id, "clock", buf, sizeof(buf)) == sizeof(buf)) {
		lu->pub.clock_offset_ms = (int64_t)be64(buf);
		lu->pub.clock_set = true;
	}
}

/* --- SET IDENTIFYING INFORMATION --- */

static void set_saved(struct lu_job *j, int result)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	uint64_t i = c->scratch[KIND];

	if (result < 0) {
		scsi_job_sense(j, SENSE(4, 0x44, 0x00), -1);
		lu_job_end(j);
		return;
	}
	scsi_data_get(c, 0, j->lu->ident[i].text, c->out_len);
	j->lu->ident[i].len = (uint16_t)c->out_len;
	j->ua = UA_IDENTIFIER_CHANGED;
	j->ua_except = c->nexus->id;
	lu_publish(j);
}

static void run_set(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	uint8_t text[IDENT_MAX];

	scsi_data_get(c, 0, text, c->out_len);
	lu_save(j, kinds[c->scratch[KIND]].what, text, c->out_len, set_saved);
}

/* Text ends with its only zero, SPC-4 6.43; what is too long is refused, not cut. */
static bool text_ok(const struct scsi_cmd *c)
{
	uint8_t text[IDENT_MAX];

	scsi_data_get(c, 0, text, c->out_len);
	return !c->out_len || memchr(text, 0, c->out_len) == text + c->out_len - 1;
}

void ident_set(struct scsi_cmd *c)
{
	uint32_t len = be32(c->cdb + 6);
	int i = kind_of(c->cdb[10] >> 1);

	c->scratch[KIND] = (uint64_t)MAX(i, 0);
	if (i < 0)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 10, 7);
	else if (len > kinds[i].max)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 6, -1);
	else if (c->out_len < len)
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	else if (kinds[i].type == TYPE_TEXT && !text_ok(c))
		scsi_reply_field(c, SENSE_INVALID_PARAM, 0, -1);
	else
		scsi_job(c, run_set);
}

/* --- REPORT IDENTIFYING INFORMATION --- */

static void list_types(struct scsi_cmd *c)
{
	uint8_t p[4 + 4 * IDENT_KINDS] = { 0 };

	put_be16(p + 2, 4 * IDENT_KINDS);
	for (unsigned i = 0; i < IDENT_KINDS; i++) {
		p[4 + 4 * i] = (uint8_t)(kinds[i].type << 1);
		put_be16(p + 6 + 4 * i, kinds[i].max);
	}
	scsi_reply_data(c, p, sizeof(p));
}

static void run_report(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);

	c->scratch[VALUE] = j->lu->ident[c->scratch[KIND]].len;
	memcpy(c->iov[0].iov_base, j->lu->ident[c->scratch[KIND]].text, c->scratch[VALUE]);
	lu_job_end(j);
}

static void report_done(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	uint8_t p[4 + IDENT_MAX] = { 0 };

	if (c->scratch[0] != SCSI_GOOD) { /* nothing was looked up */
		scsi_job_end(j);
		return;
	}
	put_be16(p + 2, (uint16_t)c->scratch[VALUE]);
	memcpy(p + 4, c->iov[0].iov_base, c->scratch[VALUE]);
	scsi_data_free(c);
	scsi_reply_data(c, p, 4 + c->scratch[VALUE]);
}

void ident_report(struct scsi_cmd *c)
{
	uint8_t type = c->cdb[10] >> 1;

	c->scratch[KIND] = (uint64_t)MAX(kind_of(type), 0);
	if (type == TYPE_LIST)
		list_types(c);
	else if (kind_of(type) < 0)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 10, 7);
	else if (scsi_data_alloc(c, IDENT_MAX))
		scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
	else
		scsi_job_with(c, run_report, report_done);
}

/* --- time: milliseconds since 1970, UTC --- */

static int64_t wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void put_be48(uint8_t *p, uint64_t v)
{
	put_be16(p, (uint16_t)(v >> 32));
	put_be32(p + 2, (uint32_t)v);
}

void time_report(struct scsi_cmd *c)
{
	const struct lu_pub *pub = &c->ll->pub;
	uint8_t p[12] = { 0, 10, pub->clock_set ? ORIGIN_SET : ORIGIN_CLOCK };

	put_be48(p + 4, (uint64_t)(wall_ms() + pub->clock_offset_ms));
	scsi_reply_data(c, p, sizeof(p));
}

static void time_saved(struct lu_job *j, int result)
{
	struct scsi_cmd *c = scsi_job_cmd(j);

	if (result < 0) {
		scsi_job_sense(j, SENSE(4, 0x44, 0x00), -1);
		lu_job_end(j);
		return;
	}
	j->lu->pub.clock_offset_ms = (int64_t)c->scratch[VALUE];
	j->lu->pub.clock_set = true;
	j->ua = UA_TIMESTAMP_CHANGED;
	j->ua_except = c->nexus->id;
	lu_publish(j);
}

static void run_time(struct lu_job *j)
{
	uint8_t buf[8];

	put_be64(buf, scsi_job_cmd(j)->scratch[VALUE]);
	lu_save(j, "clock", buf, sizeof(buf), time_saved);
}

void time_set(struct scsi_cmd *c)
{
	uint8_t p[12];

	if (!be32(c->cdb + 6)) {
		scsi_reply(c, SCSI_GOOD);
		return;
	}
	if (c->out_len < sizeof(p)) {
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
		return;
	}
	scsi_data_get(c, 0, p, sizeof(p));
	if (be32(p) | be16(p + 10)) {
		scsi_reply_field(c, SENSE_INVALID_PARAM, be32(p) ? 0 : 10, -1);
		return;
	}
	c->scratch[VALUE] = (uint64_t)((int64_t)((uint64_t)be16(p + 4) << 32 | be32(p + 6)) - wall_ms());
	scsi_job(c, run_time);
}

/* --- READ MEDIA SERIAL NUMBER: of the unit, for its medium is made for it --- */

void ident_medium(struct scsi_cmd *c)
{
	uint8_t p[4 + 68] = { 0 };
	size_t len = strlen(c->lu->serial);

	put_be32(p, (uint32_t)((len + 3) & ~(size_t)3));
	memset(p + 4, ' ', be32(p));
	memcpy(p + 4, c->lu->serial, len);
	scsi_reply_data(c, p, 4 + be32(p));
}

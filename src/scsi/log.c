/* SPDX-License-Identifier: BSD-3-Clause
 * LOG SENSE and LOG SELECT (SPC-4 6.7, 6.8, 7.3; SBC-4 6.4). Counters are those that every loop keeps anyway; a reset
 * remembers what they were. Nothing is saved: DS is 1 in every page. On the command's loop. */
#include "scsi/service.h"

enum { LOG_MAX = 1024 };
enum { BOUNDED_COUNTER = 0x00, ASCII_LIST = 0x01, BINARY_LIST = 0x03 }; /* FORMAT AND LINKING */
enum { PC_THRESHOLD, PC_CUMULATIVE, PC_DEFAULT_THRESHOLD, PC_DEFAULT_CUMULATIVE };
enum { ANY = 0xff };

/* A page that is being written. */
struct out {
	const struct scsi_cmd *c;
	struct lu_stats now;   /* since the last reset */
	uint8_t  p[LOG_MAX];
	size_t   n;
	uint16_t from;         /* PARAMETER POINTER */
	unsigned last;         /* highest parameter code of the page */
	uint8_t  pc;
};

struct log_page {
	uint8_t page, sub;
	void  (*fill)(struct out *o);
	bool  (*has)(const struct lu_pub *p); /* NULL: always */
	const char *spec;
};

/* --- parameters --- */

static uint8_t *parameter(struct out *o, uint16_t code, unsigned format, uint8_t len)
{
	uint8_t *p = o->p + o->n;

	o->last = code;
	if (code < o->from || o->n + 4 + len > sizeof(o->p))
		return NULL;
	put_be16(p, code);
	p[2] = (uint8_t)format;
	p[3] = len;
	memset(p + 4, 0, len);
	o->n += 4u + len;
	return p + 4;
}

/* A counter of eight bytes. No threshold is ever met: it is the most that the field can say. */
static void counter(struct out *o, uint16_t code, uint64_t value)
{
	uint8_t *p = parameter(o, code, BOUNDED_COUNTER, 8);

	if (!p)
		return;
	switch (o->pc) {
	case PC_CUMULATIVE: put_be64(p, value); break;
	case PC_DEFAULT_CUMULATIVE: put_be64(p, 0); break;
	default: put_be64(p, UINT64_MAX);
	}
}

/* --- pages --- */

/* Error counters, SPC-4 7.3.14, 7.3.22, 7.3.23: nothing is corrected here, so what failed failed for good. */
static void error_counters(struct out *o, uint64_t bytes, uint64_t errors)
{
	for (uint16_t code = 0; code <= 4; code++)
		counter(o, code, 0);
	counter(o, 5, bytes);
	counter(o, 6, errors);
}

static void write_errors(struct out *o)
{
	error_counters(o, o->now.write_bytes, o->now.write_errors);
}

static void read_errors(struct out *o)
{
	error_counters(o, o->now.read_bytes, o->now.read_errors);
}

static void verify_errors(struct out *o)
{
	error_counters(o, 0, o->now.verify_errors);
}

static void non_medium_errors(struct out *o)
{
	counter(o, 0, o->now.other_errors);
}

/* Logical block provisioning, SBC-4 6.4.5: in units of the threshold set; what is free is shared with others. */
static void provisioning(struct out *o)
{
	const struct lu_pub *pub = &o->c->ll->pub;
	const uint64_t bytes[2] = { pub->space_free, pub->space_used };
	static const uint8_t scope[2] = { 2, 1 };

	for (unsigned i = 0; i < 2; i++) {
		uint8_t *p = parameter(o, (uint16_t)(i + 1), BINARY_LIST, 8);
		if (!p)
			continue;
		put_be32(p, (uint32_t)MIN(bytes[i] >> SPACE_SHIFT, (uint64_t)UINT32_MAX));
		p[4] = scope[i];
	}
	uint8_t *p = parameter(o, 3, BINARY_LIST, 8);
	if (p) {
		put_be16(p, (uint16_t)(bytes[0] / MAX((bytes[0] + bytes[1]) / 100, 1u)));
		p[4] = scope[0];
	}
}

/* Temperature, SPC-4 7.3.21: FFh, not known. */
static void temperature(struct out *o)
{
	uint8_t *p = parameter(o, 0, BINARY_LIST, 2);

	if (p)
		p[1] = 0xff;
}

/* Start-stop cycles, SPC-4 7.3.17: there is no motor. */
static void start_stop(struct out *o)
{
	parameter(o, 3, BINARY_LIST, 4);
	parameter(o, 4, BINARY_LIST, 4);
}

static void self_tests(struct out *o)
{
	for (unsigned i = 0; i < SELFTESTS; i++) {
		uint8_t *p = parameter(o, (uint16_t)(i + 1), BINARY_LIST, 16);
		if (p)
			selftest_result(o->c->ll, i, p);
	}
}

/* Background scan, SBC-4 6.4.2: none is under way. */
static void background_scan(struct out *o)
{
	parameter(o, 0, BINARY_LIST, 12);
}

/* General statistics and performance, SPC-4 7.3.6. */
static void performance(struct out *o)
{
	unsigned shift = o->c->ll->shift;
	uint8_t *p = parameter(o, 1, BINARY_LIST, 64);

	if (p) {
		put_be64(p, o->now.read_ops);
		put_be64(p + 8, o->now.write_ops);
		put_be64(p + 16, o->now.write_bytes >> shift);
		put_be64(p + 24, o->now.read_bytes >> shift);
	}
	parameter(o, 2, BINARY_LIST, 8);
	p = parameter(o, 3, BINARY_LIST, 8);
	if (p) { /* one interval: a microsecond */
		put_be32(p, 6);
		put_be32(p + 4, 1);
	}
}

/* Informational exceptions, SPC-4 7.3.8. */
static void exceptions(struct out *o)
{
	uint8_t *p = parameter(o, 0, BINARY_LIST, 4);

	if (!p)
		return;
	if (o->c->ll->pub.false_alarm)
		put_be16(p, 0x5dff);
	p[2] = 0xff; /* temperature: not known */
}

static void supported(struct out *o);
static void supported_subpages(struct out *o);

static const struct log_page pages[] = {
	{ 0x00, 0x00, supported, NULL, "SPC-4 7.3.19" },
	{ 0x00, 0xff, supported_subpages, NULL, "SPC-4 7.3.20" },
	{ 0x02, 0x00, write_errors, NULL, "SPC-4 7.3.23" },
	{ 0x03, 0x00, read_errors, NULL, "SPC-4 7.3.14" },
	{ 0x05, 0x00, verify_errors, NULL, "SPC-4 7.3.22" },
	{ 0x06, 0x00, non_medium_errors, NULL, "SPC-4 7.3.11" },
	{ 0x0c, 0x00, provisioning, space_page, "SBC-4 6.4.5" },
	{ 0x0d, 0x00, temperature, NULL, "SPC-4 7.3.21" },
	{ 0x0e, 0x00, start_stop, NULL, "SPC-4 7.3.17" },
	{ 0x10, 0x00, self_tests, NULL, "SPC-4 7.3.16" },
	{ 0x15, 0x00, background_scan, NULL, "SBC-4 6.4.2" },
	{ 0x19, 0x00, performance, NULL, "SPC-4 7.3.6" },
	{ 0x2f, 0x00, exceptions, NULL, "SPC-4 7.3.8" },
};

static bool here(const struct log_page *l, const struct scsi_cmd *c)
{
	return !l->has || l->has(&c->ll->pub);
}

static void supported(struct out *o)
{
	for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
		if (!pages[i].sub && here(&pages[i], o->c))
			o->p[o->n++] = pages[i].page;
}

/* Page 00h: all pages and subpages; else those of the page that was asked for. */
static void supported_subpages(struct out *o)
{
	unsigned page = o->c->cdb[2] & 0x3f;

	for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
		if ((page && pages[i].page != page) || !here(&pages[i], o->c))
			continue;
		o->p[o->n++] = pages[i].page;
		o->p[o->n++] = pages[i].sub;
	}
	if (page) { /* the list itself */
		o->p[o->n++] = (uint8_t)page;
		o->p[o->n++] = ANY;
	}
}

/* --- LOG SENSE --- */

static const struct log_page *find(const struct scsi_cmd *c, unsigned page, unsigned sub)
{
	for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
		if (pages[i].page == page && pages[i].sub == sub && here(&pages[i], c))
			return &pages[i];
	return NULL;
}

static struct lu_stats since_reset(const struct scsi_cmd *c)
{
	const struct lu_stats *base = &c->ll->pub.log_base;
	struct lu_stats s;

	lu_stats(c->lu, &s);
	s.read_ops -= base->read_ops;
	s.write_ops -= base->write_ops;
	s.read_bytes -= base->read_bytes;
	s.write_bytes -= base->write_bytes;
	s.read_errors -= base->read_errors;
	s.write_errors -= base->write_errors;
	s.verify_errors -= base->verify_errors;
	s.other_errors -= base->other_errors;
	return s;
}

void log_sense(struct scsi_cmd *c)
{
	unsigned page = c->cdb[2] & 0x3f, sub = c->cdb[3];
	const struct log_page *l = find(c, page, page && sub == ANY ? 0 : sub);
	struct out o = { .c = c, .now = since_reset(c), .n = 4, .from = be16(c->cdb + 5), .pc = c->cdb[2] >> 6 };

	if (!l) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, find(c, page, 0) ? 3 : 2, find(c, page, 0) ? -1 : 5);
		return;
	}
	bool list = !page || sub == ANY;
	if (list)
		(sub == ANY ? supported_subpages : supported)(&o);
	else
		l->fill(&o);
	if (o.from > o.last) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 5, -1);
		return;
	}
	o.p[0] = (uint8_t)(0x80 | (sub ? 0x40 : 0) | page); /* DS, SPF */
	o.p[1] = (uint8_t)sub;
	put_be16(o.p + 2, (uint16_t)(o.n - 4));
	scsi_reply_data(c, o.p, o.n);
}

/* --- LOG SELECT --- */

/* Pages with counters go back to zero: all of them, or the one that the CDB names. */
static void run_reset(struct lu_job *j)
{
	const struct scsi_cmd *c = scsi_job_cmd(j);
	struct lu_stats now, *base = &j->lu->pub.log_base;
	unsigned page = c->cdb[2] & 0x3f;

	lu_stats(j->lu, &now);
	if (!page || page == 0x02)
		base->write_errors = now.write_errors;
	if (!page || page == 0x02 || page == 0x19)
		base->write_bytes = now.write_bytes;
	if (!page || page == 0x03)
		base->read_errors = now.read_errors;
	if (!page || page == 0x03 || page == 0x19)
		base->read_bytes = now.read_bytes;
	if (!page || page == 0x05)
		base->verify_errors = now.verify_errors;
	if (!page || page == 0x06)
		base->other_errors = now.other_errors;
	if (!page || page == 0x19) {
		base->read_ops = now.read_ops;
		base->write_ops = now.write_ops;
	}
	if (!page || page == 0x10)
		selftest_forget(j->lu);
	j->ua = UA_LOG_CHANGED;
	j->ua_except = c->nexus->id;
	lu_publish(j);
}

/* Without a list: PCR, or PC 11b, resets; thresholds cannot be set. With one: no parameter of ours can be changed so. */
void log_select(struct scsi_cmd *c)
{
	unsigned page = c->cdb[2] & 0x3f, pc = c->cdb[2] >> 6;
	bool pcr = c->cdb[1] & 0x02;

	if (be16(c->cdb + 7) && (pcr || page || c->cdb[3])) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, pcr ? 1 : 2, pcr ? 1 : -1);
	} else if (be16(c->cdb + 7)) {
		scsi_reply_field(c, c->out_len < 4 ? SENSE_PARAM_LENGTH : SENSE_INVALID_PARAM, 0, -1);
	} else if (!find(c, page, c->cdb[3])) {
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, 5);
	} else if (pcr || pc == PC_DEFAULT_CUMULATIVE) {
		scsi_job(c, run_reset);
	} else {
		scsi_reply(c, SCSI_GOOD);
	}
}

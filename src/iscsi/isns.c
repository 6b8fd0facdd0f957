/* SPDX-License-Identifier: BSD-3-Clause
 * iSNS client: see isns.h. One request is outstanding at a time; what it answers decides the next step. */
#include "iscsi/isns.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/limits.h"

enum { HDR = 12, PDU_MAX = 32 << 10, MESSAGE_MAX = 1 << 20, OUT_MAX = 4 << 20, EVENTS = 8, TEXT = 320 };
enum { /* 4.1.3 */
	DEV_ATTR_REG = 0x0001, DEV_ATTR_QRY = 0x0002, DEV_DEREG = 0x0004, SCN_REG = 0x0005, SCN = 0x0008,
	DD_REG = 0x0009, ESI = 0x000d, RESPONSE = 0x8000,
};
enum { FL_CLIENT = 0x8000, FL_AUTH = 0x2000, FL_REPLACE = 0x1000, FL_LAST = 0x0800, FL_FIRST = 0x0400 }; /* 5.1.4 */
enum { ST_OK = 0, ST_FORMAT = 2, ST_NO_ENTRY = 9, ST_MESSAGE_UNSUPPORTED = 15 }; /* 5.4 */
enum { /* 6.1 */
	T_DELIMITER = 0, T_ENTITY = 1, T_PROTOCOL = 2, T_PERIOD = 6, T_PORTAL_ADDR = 16, T_PORTAL_PORT = 17,
	T_ESI_PORT = 20, T_SCN_PORT = 23, T_NODE = 32, T_NODE_TYPE = 33, T_ALIAS = 34, T_SCN_BITMAP = 35,
	T_PG_ADDR = 49, T_PG_PORT = 50, T_PGT = 51, T_DD_ID = 2065, T_DD_NAME = 2066, T_DD_MEMBER = 2068,
};
enum { NODE_TARGET = 1, PROTOCOL_ISCSI = 2 };
enum { SCN_INITIATORS = 0x80, SCN_REMOVED = 0x10, SCN_ADDED = 0x08, SCN_UPDATED = 0x04 }; /* 6.4.4 */
enum { PERIOD_S = 900, NAME_MAX_PADDED = 224, TEXT_MAX_PADDED = 256 };
#define ANSWER_NS 10000000000ull
#define NS_PER_S 1000000000ull

struct bytes { uint8_t *p; size_t len, size; bool bad; };

enum step { STEP_NONE, STEP_REGISTER, STEP_FIND_DOMAIN, STEP_JOIN_DOMAIN, STEP_NOTIFY, STEP_REST, STEP_REFRESH,
	STEP_CLEAR, STEP_LEAVE };

struct isns {
	struct isns_entity e;      /* deep copy; e.id NULL: only answers */
	bool       online, again;  /* again: the entity changed while a request was out */
	bool       leaving;
	enum step  step;           /* whose answer is outstanding, or STEP_REST */
	unsigned   target;         /* STEP_NOTIFY: whose */
	uint16_t   xid;
	char       known_id[TEXT_MAX_PADDED], known_node[NAME_MAX_PADDED]; /* what the name server may have of us */
	uint8_t    local[16];
	uint16_t   event_port;
	uint32_t   domain;         /* DD_ID, 0 = to be made */
	uint64_t   now_ns, deadline_ns, period_ns;
	struct bytes in, message, out;
	struct bytes lent;         /* to the host, who is sending it; what is added meanwhile goes to out */
	size_t     sent;           /* of lent */
	enum isns_event_kind ev[EVENTS];
	char       text[EVENTS][TEXT];
	unsigned   nev, ev_at;
};

/* --- bytes --- */

static void *add(struct bytes *b, size_t n)
{
	if (b->bad)
		return NULL;
	if (b->len + n > b->size) {
		size_t size = MAX(b->size * 2, b->len + n + 1024);
		uint8_t *p = realloc(b->p, size);
		if (!p) {
			b->bad = true;
			return NULL;
		}
		b->p = p;
		b->size = size;
	}
	b->len += n;
	return b->p + b->len - n;
}

static void put(struct bytes *b, const void *p, size_t n)
{
	void *to = n ? add(b, n) : NULL;

	if (to)
		memcpy(to, p, n);
}

static void put_u32(struct bytes *b, uint32_t v)
{
	uint8_t raw[4];

	put_be32(raw, v);
	put(b, raw, 4);
}

static void attr(struct bytes *b, uint32_t tag, const void *p, size_t n)
{
	static const uint8_t zeros[4];

	put_u32(b, tag);
	put_u32(b, (uint32_t)((n + 3) & ~(size_t)3));
	put(b, p, n);
	put(b, zeros, -n & 3);
}

static void attr_u32(struct bytes *b, uint32_t tag, uint32_t v)
{
	uint8_t raw[4];

	put_be32(raw, v);
	attr(b, tag, raw, 4);
}

/* With its NUL (6.1), cut to what the attribute may have. */
static void attr_text(struct bytes *b, uint32_t tag, const char *s, size_t max)
{
	size_t n = MIN(strlen(s), max - 1);

	put_u32(b, tag);
	put_u32(b, (uint32_t)((n + 4) & ~(size_t)3));
	put(b, s, n);
	put(b, "\0\0\0", 4 - n % 4);
}

struct attr { uint32_t tag, len; const uint8_t *value; };

/* 1 and the next attribute, 0 at the end, -EPROTO. */
static int attr_next(const uint8_t **at, size_t *left, struct attr *ret)
{
	if (!*left)
		return 0;
	if (*left < 8)
		return -EPROTO;
	*ret = (struct attr){ be32(*at), be32(*at + 4), *at + 8 };
	if (ret->len % 4 || ret->len > *left - 8)
		return -EPROTO;
	*at += 8 + ret->len;
	*left -= 8 + ret->len;
	return 1;
}

static void attr_string(const struct attr *a, char *out, size_t room)
{
	size_t n = strnlen((const char *)a->value, MIN(a->len, room - 1));

	for (size_t i = 0; i < n; i++)
		out[i] = a->value[i] > ' ' && a->value[i] < 0x7f && a->value[i] != '"' ? (char)a->value[i] : '?';
	out[n] = 0;
}

/* --- events --- */

__attribute__((format(printf, 3, 4)))
static void event(struct isns *i, enum isns_event_kind kind, const char *fmt, ...)
{
	va_list ap;

	if (i->nev == EVENTS)
		return; /* notifications beyond what the host has looked at say nothing new */
	unsigned k = (i->ev_at + i->nev++) % EVENTS;
	i->ev[k] = kind;
	va_start(ap, fmt);
	vsnprintf(i->text[k], TEXT, fmt, ap);
	va_end(ap);
}

bool isns_next(struct isns *i, struct isns_event *ret)
{
	if (!i->nev)
		return false;
	*ret = (struct isns_event){ i->ev[i->ev_at], i->text[i->ev_at][0] ? i->text[i->ev_at] : NULL };
	i->ev_at = (i->ev_at + 1) % EVENTS;
	i->nev--;
	return true;
}

static void give_up(struct isns *i, const char *why)
{
	if (i->online)
		event(i, ISNS_EV_REFUSED, "%s", why);
	i->online = false;
}

/* --- out --- */

/* 5.2: as many PDUs as it takes. */
static void send_message(struct isns *i, uint16_t function, uint16_t flags, uint16_t xid, const struct bytes *m)
{
	uint16_t seq = 0;
	size_t at = 0;

	do {
		size_t n = MIN(m->len - at, (size_t)PDU_MAX);
		uint8_t *h = add(&i->out, HDR);
		if (!h)
			break;
		put_be16(h, 1);
		put_be16(h + 2, function);
		put_be16(h + 4, (uint16_t)n);
		put_be16(h + 6, (uint16_t)(flags | FL_CLIENT | (at ? 0 : FL_FIRST) | (at + n == m->len ? FL_LAST : 0)));
		put_be16(h + 8, xid);
		put_be16(h + 10, seq++);
		put(&i->out, m->p + at, n);
		at += n;
	} while (at < m->len);
	if (m->bad || i->out.bad || i->out.len > OUT_MAX)
		give_up(i, "out of memory");
}

static void request(struct isns *i, enum step step, uint16_t function, uint16_t flags, struct bytes *m)
{
	i->step = step;
	i->deadline_ns = i->now_ns + ANSWER_NS;
	send_message(i, function, flags, ++i->xid, m);
	free(m->p);
}

size_t isns_tx(struct isns *i, const uint8_t **ret)
{
	if (i->sent == i->lent.len) {
		struct bytes next = i->out;
		i->out = i->lent;
		i->lent = next;
		i->sent = i->out.len = 0;
	}
	*ret = i->lent.p ? i->lent.p + i->sent : NULL;
	return i->lent.len - i->sent;
}

void isns_tx_done(struct isns *i, size_t len)
{
	i->sent += len;
}

/* --- registration --- */

static bool unspecified(const uint8_t addr[16])
{
	static const uint8_t v4[16] = { [10] = 0xff, 0xff }, v6[16];

	return !memcmp(addr, v4, 16) || !memcmp(addr, v6, 16);
}

static bool is_v4(const uint8_t addr[16])
{
	static const uint8_t prefix[12] = { [10] = 0xff, 0xff };

	return !memcmp(addr, prefix, 12);
}

/* The address to register, NULL: a wildcard of the other family, which nobody reaches by the address that we know. */
static const uint8_t *portal_addr(const struct isns *i, const struct isns_portal *p)
{
	if (!unspecified(p->addr))
		return p->addr;
	return is_v4(p->addr) == is_v4(i->local) ? i->local : NULL;
}

static void put_portal(const struct isns *i, const struct isns_portal *p, struct bytes *m)
{
	const uint8_t *addr = portal_addr(i, p);

	if (!addr)
		return;
	attr(m, T_PORTAL_ADDR, addr, 16);
	attr_u32(m, T_PORTAL_PORT, p->port);
	if (i->event_port && !memcmp(addr, i->local, 16)) { /* TCP: bit 15 clear (6.3.5, 6.3.7) */
		attr_u32(m, T_ESI_PORT, i->event_port);
		attr_u32(m, T_SCN_PORT, i->event_port);
	}
}

static bool reached(const struct isns_target *t, uint16_t tpgt)
{
	for (unsigned i = 0; i < t->ntpgts; i++)
		if (t->tpgts[i] == tpgt)
			return true;
	return !t->ntpgts;
}

/* 5.6.5.1: the tag, then the portals that it ties the node to; without a value: not reached through them. */
static void put_groups(const struct isns *i, const struct isns_target *t, struct bytes *m)
{
	for (unsigned k = 0; k < i->e.nportals; k++) {
		const struct isns_portal *p = &i->e.portals[k];
		const uint8_t *addr = portal_addr(i, p);
		if (!addr)
			continue;
		if (reached(t, p->tpgt))
			attr_u32(m, T_PGT, p->tpgt);
		else
			attr(m, T_PGT, NULL, 0);
		attr(m, T_PG_ADDR, addr, 16);
		attr_u32(m, T_PG_PORT, p->port);
	}
}

static void source(const struct isns *i, unsigned target, struct bytes *m)
{
	attr_text(m, T_NODE, i->e.targets[target].name, NAME_MAX_PADDED);
}

static void do_register(struct isns *i)
{
	struct bytes m = { 0 };

	snprintf(i->known_id, sizeof(i->known_id), "%s", i->e.id);
	snprintf(i->known_node, sizeof(i->known_node), "%s", i->e.targets[0].name);
	source(i, 0, &m);
	attr_text(&m, T_ENTITY, i->e.id, TEXT_MAX_PADDED);
	attr(&m, T_DELIMITER, NULL, 0);
	attr_text(&m, T_ENTITY, i->e.id, TEXT_MAX_PADDED);
	attr_u32(&m, T_PROTOCOL, PROTOCOL_ISCSI);
	attr_u32(&m, T_PERIOD, PERIOD_S);
	for (unsigned k = 0; k < i->e.nportals; k++)
		put_portal(i, &i->e.portals[k], &m);
	for (unsigned k = 0; k < i->e.ntargets; k++) {
		const struct isns_target *t = &i->e.targets[k];
		source(i, k, &m);
		attr_u32(&m, T_NODE_TYPE, NODE_TARGET);
		if (t->alias && *t->alias)
			attr_text(&m, T_ALIAS, t->alias, TEXT_MAX_PADDED);
		put_groups(i, t, &m);
	}
	request(i, STEP_REGISTER, DEV_ATTR_REG, FL_REPLACE, &m);
}

static void do_find_domain(struct isns *i)
{
	struct bytes m = { 0 };

	source(i, 0, &m);
	attr_text(&m, T_DD_NAME, i->e.domain, TEXT_MAX_PADDED);
	attr(&m, T_DELIMITER, NULL, 0);
	attr(&m, T_DD_ID, NULL, 0);
	request(i, STEP_FIND_DOMAIN, DEV_ATTR_QRY, 0, &m);
}

static void do_join_domain(struct isns *i)
{
	struct bytes m = { 0 };

	source(i, 0, &m);
	if (i->domain)
		attr_u32(&m, T_DD_ID, i->domain);
	attr(&m, T_DELIMITER, NULL, 0);
	if (!i->domain)
		attr_text(&m, T_DD_NAME, i->e.domain, TEXT_MAX_PADDED);
	for (unsigned k = 0; k < i->e.ntargets; k++)
		attr_text(&m, T_DD_MEMBER, i->e.targets[k].name, NAME_MAX_PADDED);
	request(i, STEP_JOIN_DOMAIN, DD_REG, 0, &m);
}

static void do_notify(struct isns *i)
{
	struct bytes m = { 0 };

	source(i, i->target, &m);
	source(i, i->target, &m);
	attr(&m, T_DELIMITER, NULL, 0);
	attr_u32(&m, T_SCN_BITMAP, SCN_INITIATORS | SCN_REMOVED | SCN_ADDED | SCN_UPDATED);
	request(i, STEP_NOTIFY, SCN_REG, 0, &m);
}

/* 6.2.6: "as simple as a query for one of its own attributes". */
static void do_refresh(struct isns *i)
{
	struct bytes m = { 0 };

	source(i, 0, &m);
	attr_text(&m, T_ENTITY, i->e.id, TEXT_MAX_PADDED);
	attr(&m, T_DELIMITER, NULL, 0);
	attr(&m, T_ENTITY, NULL, 0);
	request(i, STEP_REFRESH, DEV_ATTR_QRY, 0, &m);
}

static void do_deregister(struct isns *i, enum step step)
{
	struct bytes m = { 0 };

	attr_text(&m, T_NODE, i->known_node, NAME_MAX_PADDED);
	attr(&m, T_DELIMITER, NULL, 0);
	attr_text(&m, T_ENTITY, i->known_id, TEXT_MAX_PADDED);
	i->known_id[0] = 0;
	request(i, step, DEV_DEREG, 0, &m);
}

static void do_leave(struct isns *i)
{
	if (i->known_id[0]) {
		do_deregister(i, STEP_LEAVE);
		return;
	}
	event(i, ISNS_EV_LEFT, "%s", "");
	i->online = false;
}

static void rest(struct isns *i)
{
	i->step = STEP_REST;
	i->deadline_ns = i->now_ns + i->period_ns / 3;
}

static void begin(struct isns *i)
{
	bool other = strcmp(i->known_id, i->e.id) || !i->e.ntargets;

	i->again = false;
	if (i->known_id[0] && other)
		do_deregister(i, STEP_CLEAR);
	else if (i->e.ntargets)
		do_register(i);
	else
		rest(i); /* an entity without nodes cannot be registered (5.6.5.1) */
}

/* After the registration: the domain, then notifications for each target. */
static void go_on(struct isns *i, enum step from)
{
	bool events = i->event_port != 0;

	if (i->leaving)
		do_leave(i);
	else if (i->again || from == STEP_CLEAR)
		begin(i);
	else if (from == STEP_REGISTER && i->e.domain && !i->domain)
		do_find_domain(i);
	else if (from == STEP_REGISTER && i->e.domain)
		do_join_domain(i);
	else if (from == STEP_FIND_DOMAIN)
		do_join_domain(i);
	else if (from != STEP_NOTIFY && events && i->e.ntargets) {
		i->target = 0;
		do_notify(i);
	} else if (from == STEP_NOTIFY && ++i->target < i->e.ntargets) {
		do_notify(i);
	} else {
		event(i, ISNS_EV_REGISTERED, "%s", "");
		rest(i);
	}
}

/* --- answers --- */

static const char *status_words(uint32_t status)
{
	static const char *const words[] = { [1] = "unknown error", [2] = "message format error", [3] = "invalid registration",
		[5] = "invalid query", [6] = "source unknown", [7] = "source absent", [8] = "source unauthorized",
		[9] = "no such entry", [10] = "version not supported", [11] = "internal error", [12] = "busy",
		[13] = "option not understood", [14] = "invalid update", [15] = "message not supported",
		[17] = "SCN registration rejected", [18] = "attribute not implemented", [21] = "ESI not available",
		[22] = "invalid deregistration", [23] = "registration feature not supported" };

	return status < ARRAY_LEN(words) && words[status] ? words[status] : "unknown status";
}

static void learn(struct isns *i, const uint8_t *p, size_t len)
{
	struct attr a;

	while (attr_next(&p, &len, &a) > 0) {
		if (a.tag == T_PERIOD && a.len == 4 && be32(a.value))
			i->period_ns = MIN(be32(a.value), 7u * 86400u) * NS_PER_S;
		if (a.tag == T_DD_ID && a.len == 4 && be32(a.value) && !i->domain)
			i->domain = be32(a.value);
	}
}

static void answer(struct isns *i, uint16_t function, const uint8_t *p, size_t len)
{
	static const uint16_t of[] = { [STEP_REGISTER] = DEV_ATTR_REG, [STEP_FIND_DOMAIN] = DEV_ATTR_QRY,
		[STEP_JOIN_DOMAIN] = DD_REG, [STEP_NOTIFY] = SCN_REG, [STEP_REFRESH] = DEV_ATTR_QRY, [STEP_CLEAR] = DEV_DEREG,
		[STEP_LEAVE] = DEV_DEREG,		[STEP_REST] = 0 };
	enum step step = i->step;

	if (len < 4 || function != (of[step] | RESPONSE)) {
		give_up(i, "the name server's answer is malformed");
		return;
	}
	uint32_t status = be32(p);
	learn(i, p + 4, len - 4);
	if (step == STEP_LEAVE) {
		event(i, ISNS_EV_LEFT, "%s", "");
		i->online = false;
	} else if (step == STEP_REFRESH) {
		if (status == ST_OK && len > 4 && !i->again && !i->leaving)
			rest(i);
		else if (i->leaving)
			do_leave(i);
		else
			begin(i); /* it forgot us: no such entry, or an empty answer */
	} else if (status && step == STEP_REGISTER) {
		char why[TEXT];
		snprintf(why, sizeof(why), "registration: %s (status %u)", status_words(status), status);
		give_up(i, why);
	} else {
		if (status && step == STEP_JOIN_DOMAIN)
			event(i, ISNS_EV_NO_DOMAIN, "discovery domain '%.100s': %s (status %u)", i->e.domain,
				status_words(status), status);
		go_on(i, step); /* notifications that are not to be had are done without */
	}
}

/* --- requests of the name server --- */

static void put_first_attr(struct bytes *m, const uint8_t *p, size_t len)
{
	const uint8_t *at = p;
	struct attr a;

	if (attr_next(&at, &len, &a) > 0)
		put(m, p, (size_t)(at - p));
}

static void notified(struct isns *i, const uint8_t *p, size_t len)
{
	char name[LIM_ISCSI_NAME + 1];
	struct attr a;
	bool first = true;

	while (attr_next(&p, &len, &a) > 0) {
		if (a.tag == T_NODE && !first) { /* the first is who is told */
			attr_string(&a, name, sizeof(name));
			event(i, ISNS_EV_CHANGED, "%s", name);
		}
		first = false;
	}
}

static void asked(struct isns *i, uint16_t function, uint16_t xid, const uint8_t *p, size_t len)
{
	struct bytes m = { 0 };

	put_u32(&m, function == ESI || function == SCN ? ST_OK : ST_MESSAGE_UNSUPPORTED);
	if (function == ESI)
		put(&m, p, len);
	if (function == SCN) {
		put_first_attr(&m, p, len);
		notified(i, p, len);
	}
	send_message(i, function | RESPONSE, 0, xid, &m);
	free(m.p);
}

static void message(struct isns *i, const uint8_t *h)
{
	uint16_t function = be16(h + 2), xid = be16(h + 8);

	if (!(function & RESPONSE))
		asked(i, function, xid, i->message.p, i->message.len);
	else if (i->step != STEP_NONE && i->step != STEP_REST && xid == i->xid)
		answer(i, function, i->message.p, i->message.len);
}

static void pdu(struct isns *i, const uint8_t *h, const uint8_t *p, size_t len)
{
	uint16_t flags = be16(h + 6);

	if (flags & FL_FIRST)
		i->message.len = 0;
	if (i->message.len + len > MESSAGE_MAX) {
		give_up(i, "the name server's message is longer than 1 MiB");
		return;
	}
	put(&i->message, p, len);
	if (i->message.bad)
		give_up(i, "out of memory");
	else if (flags & FL_LAST)
		message(i, h);
}

void isns_rx(struct isns *i, const void *p, size_t len)
{
	size_t at = 0;

	if (!i->online)
		return;
	put(&i->in, p, len);
	if (i->in.bad) {
		give_up(i, "out of memory");
		return;
	}
	while (i->online && i->in.len - at >= HDR) {
		const uint8_t *h = i->in.p + at;
		size_t n = be16(h + 4);
		if (be16(h) != 1 || be16(h + 6) & FL_AUTH) {
			give_up(i, "the name server speaks another version, or signs its messages");
			return;
		}
		if (i->in.len - at < HDR + n)
			break;
		pdu(i, h, h + HDR, n);
		at += HDR + n;
	}
	if (at) {
		memmove(i->in.p, i->in.p + at, i->in.len - at);
		i->in.len -= at;
	}
}

/* --- life --- */

static void entity_free(struct isns_entity *e)
{
	for (unsigned k = 0; k < e->ntargets; k++) {
		free((char *)e->targets[k].name);
		free((char *)e->targets[k].alias);
		free((uint16_t *)e->targets[k].tpgts);
	}
	free((struct isns_target *)e->targets);
	free((struct isns_portal *)e->portals);
	free((char *)e->id);
	free((char *)e->domain);
	*e = (struct isns_entity){ 0 };
}

static void *copy(const void *p, size_t n, bool *bad)
{
	void *q = malloc(n + 1);

	if (!q)
		*bad = true;
	else if (n)
		memcpy(q, p, n);
	return q;
}

static char *copy_text(const char *s, bool *bad)
{
	return s ? copy(s, strlen(s) + 1, bad) : NULL;
}

static int entity_copy(struct isns_entity *to, const struct isns_entity *e)
{
	bool bad = false;
	struct isns_target *t = calloc(e->ntargets + 1, sizeof(*t));

	*to = (struct isns_entity){ .id = copy_text(e->id, &bad), .domain = copy_text(e->domain, &bad), .targets = t,
		.portals = copy(e->portals, e->nportals * sizeof(*e->portals), &bad), .nportals = e->nportals };
	for (unsigned k = 0; t && k < e->ntargets; k++, to->ntargets++) {
		t[k].name = copy_text(e->targets[k].name, &bad);
		t[k].alias = copy_text(e->targets[k].alias, &bad);
		t[k].ntpgts = e->targets[k].ntpgts;
		t[k].tpgts = copy(e->targets[k].tpgts, t[k].ntpgts * sizeof(uint16_t), &bad);
	}
	if (!t || bad) {
		entity_free(to);
		return -ENOMEM;
	}
	return 0;
}

struct isns *isns_new(void)
{
	return calloc(1, sizeof(struct isns));
}

void isns_free(struct isns *i)
{
	if (!i)
		return;
	entity_free(&i->e);
	free(i->in.p);
	free(i->message.p);
	free(i->out.p);
	free(i->lent.p);
	free(i);
}

/* A domain can be given by its DD_ID too. */
static uint32_t domain_number(const char *s)
{
	char *end;
	unsigned long v = s ? strtoul(s, &end, 10) : 0;

	return s && *s >= '1' && *s <= '9' && !*end && v <= UINT32_MAX ? (uint32_t)v : 0;
}

int isns_set(struct isns *i, const struct isns_entity *e)
{
	struct isns_entity fresh;

	if (entity_copy(&fresh, e) < 0)
		return -ENOMEM;
	entity_free(&i->e);
	i->e = fresh;
	i->domain = domain_number(i->e.domain);
	i->leaving = false;
	i->again = i->online && i->step != STEP_REST;
	if (i->online && i->step == STEP_REST)
		begin(i);
	return 0;
}

void isns_connected(struct isns *i, const uint8_t local[16], uint16_t event_port, uint64_t now_ns)
{
	memcpy(i->local, local, 16);
	i->event_port = event_port;
	i->now_ns = now_ns;
	i->online = true;
	i->period_ns = PERIOD_S * NS_PER_S;
	i->deadline_ns = UINT64_MAX;
	if (i->e.id)
		begin(i);
}

void isns_disconnected(struct isns *i)
{
	i->online = i->again = false;
	i->step = STEP_NONE;
	i->domain = domain_number(i->e.domain);
	i->in.len = i->message.len = i->out.len = i->lent.len = i->sent = 0;
	i->in.bad = i->message.bad = i->out.bad = false;
}

uint64_t isns_tick(struct isns *i, uint64_t now_ns)
{
	i->now_ns = now_ns;
	if (!i->online || i->step == STEP_NONE)
		return UINT64_MAX;
	if (now_ns < i->deadline_ns)
		return i->deadline_ns;
	if (i->step != STEP_REST)
		give_up(i, "the name server does not answer");
	else if (i->e.ntargets)
		do_refresh(i);
	else
		rest(i);
	return i->deadline_ns;
}

void isns_leave(struct isns *i)
{
	i->leaving = true;
	if (i->online && i->step == STEP_REST)
		do_leave(i);
}

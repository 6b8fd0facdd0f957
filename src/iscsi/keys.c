/* SPDX-License-Identifier: BSD-3-Clause
 * The key table of RFC 7143 sections 12 and 13 (RFC 7144 for iSCSIProtocolLevel) and the negotiation rules of
 * 6.2, each in one place. A new key is a row. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "iscsi/keys.h"

enum key_rule {
	RULE_AND, RULE_OR,       /* boolean; result function of that name */
	RULE_MIN, RULE_MAX,      /* number; result function of that name */
	RULE_DIGEST,             /* list of None, CRC32C */
	RULE_REPORTING,          /* list of RFC3720, ResponseFence, FastAbort */
	RULE_SEGMENT,            /* declared number */
	RULE_TAG,                /* declared 16-bit number */
	RULE_NAME, RULE_TEXT,    /* declared into a buffer of params */
	RULE_SESSION,            /* declared Discovery or Normal */
	RULE_KEPT,               /* for the caller */
	RULE_OBSOLETE,           /* 13.25 */
	RULE_SILENT,             /* declared, of no use to us */
};

enum {
	SEC = ISCSI_IN_SECURITY, OPER = ISCSI_IN_OPERATIONAL, FFP = ISCSI_IN_FULL_FEATURE, ANY = SEC | OPER,
	INI = ISCSI_AS_INITIATOR, TGT = ISCSI_AS_TARGET, BOTH = INI | TGT,
	LEADING = 1,  /* use: LO */
	NORMAL = 2,   /* irrelevant when SessionType=Discovery */
	NAMES = 4,    /* names the parties: read before everything else, first text only */
	LAST = 8,     /* depends on other keys of the same text: answered after them */
	REPEATS = 16, /* may come more than once */
};

struct key {
	const char *name;
	uint8_t     rule, stages, senders, flags;
	uint16_t    at, offer_at; /* in iscsi_params, iscsi_offer; RULE_KEPT: at = enum iscsi_kept */
	uint32_t    min, max, dflt; /* range; RULE_NAME, RULE_TEXT: max = longest value */
};

#define P(f) offsetof(struct iscsi_params, f)
#define O(f) offsetof(struct iscsi_offer, f)
enum { LEN24 = (1 << 24) - 1 };

static const struct key keys[] = {
	/* 12.1, 12.1.3 */
	{ "AuthMethod", RULE_KEPT, SEC, BOTH, 0, KEPT_AUTH_METHOD, 0, 0, 0, 0 },
	{ "CHAP_A", RULE_KEPT, SEC, BOTH, 0, KEPT_CHAP_A, 0, 0, 0, 0 },
	{ "CHAP_I", RULE_KEPT, SEC, BOTH, 0, KEPT_CHAP_I, 0, 0, 0, 0 },
	{ "CHAP_C", RULE_KEPT, SEC, BOTH, 0, KEPT_CHAP_C, 0, 0, 0, 0 },
	{ "CHAP_N", RULE_KEPT, SEC, BOTH, 0, KEPT_CHAP_N, 0, 0, 0, 0 },
	{ "CHAP_R", RULE_KEPT, SEC, BOTH, 0, KEPT_CHAP_R, 0, 0, 0, 0 },
	/* 13.1 */
	{ "HeaderDigest", RULE_DIGEST, OPER, BOTH, 0, P(header_digest), O(header_digest), 0, 0, 0 },
	{ "DataDigest", RULE_DIGEST, OPER, BOTH, 0, P(data_digest), O(data_digest), 0, 0, 0 },
	/* 13.2 */
	{ "MaxConnections", RULE_MIN, OPER, BOTH, LEADING | NORMAL, P(max_connections), O(max_connections), 1, 65535, 1 },
	/* 13.3 */
	{ "SendTargets", RULE_KEPT, FFP, INI, 0, KEPT_SEND_TARGETS, 0, 0, 0, 0 },
	/* 13.4: by the target only inside an answer to SendTargets */
	{ "TargetName", RULE_NAME, ANY, INI, NAMES, P(target), 0, 0, LIM_ISCSI_NAME, 0 },
	/* 13.5 */
	{ "InitiatorName", RULE_NAME, ANY, INI, NAMES, P(initiator), 0, 0, LIM_ISCSI_NAME, 0 },
	/* 13.6 */
	{ "TargetAlias", RULE_KEPT, ANY | FFP, TGT, 0, KEPT_TARGET_ALIAS, 0, 0, 0, 0 },
	/* 13.7 */
	{ "InitiatorAlias", RULE_TEXT, ANY | FFP, INI, 0, P(initiator_alias), 0, 0, 255, 0 },
	/* 13.8 */
	{ "TargetAddress", RULE_KEPT, ANY | FFP, TGT, REPEATS, KEPT_TARGET_ADDRESS, 0, 0, 0, 0 },
	/* 13.9 */
	{ "TargetPortalGroupTag", RULE_TAG, ANY, TGT, 0, P(tpgt), 0, 0, 65535, 0 },
	/* 13.10 to 13.12 */
	{ "InitialR2T", RULE_OR, OPER, BOTH, LEADING | NORMAL, P(initial_r2t), O(initial_r2t), 0, 1, 1 },
	{ "ImmediateData", RULE_AND, OPER, BOTH, LEADING | NORMAL, P(immediate_data), O(immediate_data), 0, 1, 1 },
	{ "MaxRecvDataSegmentLength", RULE_SEGMENT, OPER | FFP, BOTH, 0, P(max_xmit_segment), O(max_recv_segment),
		512, LEN24, 8192 },
	/* 13.13 to 13.20 */
	{ "MaxBurstLength", RULE_MIN, OPER, BOTH, LEADING | NORMAL, P(max_burst), O(max_burst), 512, LEN24, 262144 },
	{ "FirstBurstLength", RULE_MIN, OPER, BOTH, LEADING | NORMAL | LAST, P(first_burst), O(first_burst), 512, LEN24, 65536 },
	{ "DefaultTime2Wait", RULE_MAX, OPER, BOTH, LEADING, P(time2wait), O(time2wait), 0, 3600, 2 },
	{ "DefaultTime2Retain", RULE_MIN, OPER, BOTH, LEADING, P(time2retain), O(time2retain), 0, 3600, 20 },
	{ "MaxOutstandingR2T", RULE_MIN, OPER, BOTH, LEADING | NORMAL | LAST, P(max_r2t), O(max_r2t), 1, 65535, 1 },
	{ "DataPDUInOrder", RULE_OR, OPER, BOTH, LEADING | NORMAL, P(pdu_in_order), O(pdu_in_order), 0, 1, 1 },
	{ "DataSequenceInOrder", RULE_OR, OPER, BOTH, LEADING | NORMAL, P(sequence_in_order), O(sequence_in_order), 0, 1, 1 },
	{ "ErrorRecoveryLevel", RULE_MIN, OPER, BOTH, LEADING, P(erl), O(erl), 0, 2, 0 },
	/* 13.21 */
	{ "SessionType", RULE_SESSION, ANY, INI, NAMES, P(discovery), 0, 0, 0, 0 },
	/* 13.23 */
	{ "TaskReporting", RULE_REPORTING, OPER, BOTH, LEADING | NORMAL, 0, 0, 0, 0, 0 },
	/* 13.24, RFC 7144 7.1.1 */
	{ "iSCSIProtocolLevel", RULE_MIN, OPER, BOTH, LEADING | NORMAL, P(protocol_level), O(protocol_level), 0, 31, 1 },
	/* 13.25 */
	{ "IFMarker", RULE_OBSOLETE, OPER, BOTH, 0, 0, 0, 0, 0, 0 },
	{ "OFMarker", RULE_OBSOLETE, OPER, BOTH, 0, 0, 0, 0, 0, 0 },
	{ "IFMarkInt", RULE_OBSOLETE, OPER, BOTH, 0, 0, 0, 0, 0, 0 },
	{ "OFMarkInt", RULE_OBSOLETE, OPER, BOTH, 0, 0, 0, 0, 0, 0 },
	/* 13.26 */
	{ "X#NodeArchitecture", RULE_SILENT, ANY, BOTH, LEADING, 0, 0, 0, 0, 0 },
};
_Static_assert(ARRAY_LEN(keys) <= 64, "one bit per key in struct iscsi_keys");

static const struct key *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!strcmp(keys[i].name, name))
			return &keys[i];
	return NULL;
}

static uint64_t bit(const struct key *key)
{
	return 1ull << (key - keys);
}

__attribute__((format(printf, 3, 4)))
static int fail(struct iscsi_keys *k, uint16_t status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->why, sizeof(k->why), fmt, ap);
	va_end(ap);
	k->status = status;
	return -EPROTO;
}

static int no_room(struct iscsi_keys *k, int r)
{
	if (r < 0)
		fail(k, r == -ENOMEM ? LOGIN_NO_RESOURCES : LOGIN_INITIATOR_ERROR, "the answer grows too long");
	return r;
}

static int put(struct iscsi_keys *k, struct iscsi_text *out, const struct key *key, const char *value)
{
	return no_room(k, iscsi_text_put(out, key->name, "%s", value));
}

/* ---- values -------------------------------------------------------------------------------------------- */

int iscsi_number(const char *s, uint64_t *ret)
{
	unsigned base = 10;
	uint64_t v = 0;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		s += 2;
	}
	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		char c = *s | 32;
		unsigned d = *s >= '0' && *s <= '9' ? (unsigned)(*s - '0') :
			base == 16 && c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 : 99;
		if (d == 99 || v > (UINT64_MAX - d) / base)
			return -EINVAL;
		v = v * base + d;
	}
	*ret = v;
	return 0;
}

/* The next item of a list; NULL at its end. */
static const char *list_item(const char **list, size_t *ret_len)
{
	const char *item = *list;

	if (!item)
		return NULL;
	*ret_len = strcspn(item, ",");
	*list = item[*ret_len] ? item + *ret_len + 1 : NULL;
	return item;
}

bool iscsi_list_has(const char *list, const char *item)
{
	const char *it;
	size_t len;

	while ((it = list_item(&list, &len)))
		if (len == strlen(item) && !memcmp(it, item, len))
			return true;
	return false;
}

static bool is_bool(const struct key *key)
{
	return key->rule == RULE_AND || key->rule == RULE_OR;
}

static int parse(const struct key *key, const char *s, uint32_t *ret)
{
	uint64_t v;

	if (is_bool(key)) {
		if (strcmp(s, "Yes") && strcmp(s, "No"))
			return -EINVAL;
		*ret = s[0] == 'Y';
		return 0;
	}
	if (iscsi_number(s, &v) < 0 || v < key->min || v > key->max)
		return -EINVAL;
	*ret = (uint32_t)v;
	return 0;
}

static uint32_t load(const struct key *key, const void *base, size_t at)
{
	const char *p = (const char *)base + at;

	return is_bool(key) ? *(const bool *)p : *(const uint32_t *)p;
}

static void store(const struct key *key, struct iscsi_params *params, uint32_t v)
{
	char *p = (char *)params + key->at;

	if (is_bool(key))
		*(bool *)p = v;
	else
		*(uint32_t *)p = v;
}

static uint32_t combine(const struct key *key, uint32_t a, uint32_t b)
{
	bool lower = key->rule == RULE_MIN || key->rule == RULE_AND;

	return lower ? MIN(a, b) : MAX(a, b);
}

/* What our side would choose alone, with the integrity rules of 13.14 and 13.19. */
static uint32_t wish(const struct iscsi_keys *k, const struct key *key)
{
	uint32_t v = load(key, k->offer, key->offer_at);
	const struct iscsi_params *p = k->params;

	if (k->role == ISCSI_AS_INITIATOR)
		return v; /* proposes all keys at once: its offer must fit itself */
	if (key->at == P(first_burst))
		return MIN(v, p->max_burst);
	if (key->at == P(max_r2t) && p->erl && p->sequence_in_order)
		return 1;
	return v;
}

static int put_value(struct iscsi_keys *k, struct iscsi_text *out, const struct key *key, uint32_t v)
{
	if (is_bool(key))
		return put(k, out, key, v ? "Yes" : "No");
	return no_room(k, iscsi_text_put(out, key->name, "%u", v));
}

/* ---- the rules, acceptor's side ----------------------------------------------------------------------- */

/* 6.2.2. A value out of bounds is answered with Reject; the key keeps its value. */
static int accept_simple(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	uint32_t v;

	if (parse(key, value, &v) < 0)
		return put(k, out, key, "Reject");
	v = combine(key, v, wish(k, key));
	store(key, k->params, v);
	return put_value(k, out, key, v);
}

static bool digest_allowed(const struct iscsi_offer *o, const struct key *key, bool crc)
{
	bool header = key->at == P(header_digest);
	bool required = header ? o->require_header_digest : o->require_data_digest;

	return crc ? required || (header ? o->header_digest : o->data_digest) : !required;
}

/* 6.2.1: the first of the proposer's list that we support and allow; none is a failed negotiation, which 7.12
 * lets end the login. */
static int accept_digest(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	const char *list = value, *it;
	size_t len;

	while ((it = list_item(&list, &len))) {
		bool crc = len == 6 && !memcmp(it, "CRC32C", 6);
		bool none = len == 4 && !memcmp(it, "None", 4);
		if ((crc || none) && digest_allowed(k->offer, key, crc)) {
			*((uint8_t *)k->params + key->at) = crc ? ISCSI_DIGEST_CRC32C : ISCSI_DIGEST_NONE;
			return put(k, out, key, crc ? "CRC32C" : "None");
		}
	}
	return fail(k, LOGIN_INITIATOR_ERROR, "no %s of '%.40s' is allowed here", key->name, value);
}

/* 13.23: FastAbort implies the fence. */
enum { REPORT_RFC3720, REPORT_FENCE, REPORT_FAST, REPORT_NONE };

static void set_reporting(struct iscsi_params *p, unsigned which)
{
	p->task_reporting_rfc3720 = which == REPORT_RFC3720;
	p->response_fence = which != REPORT_RFC3720;
	p->fast_abort = which == REPORT_FAST;
}

static unsigned reporting(const struct iscsi_offer *o, const char *word, size_t len)
{
	static const char *const words[] = { "RFC3720", "ResponseFence", "FastAbort" };
	unsigned i = 0;

	while (i < REPORT_NONE && (strlen(words[i]) != len || memcmp(words[i], word, len)))
		i++;
	return i == REPORT_FAST && !o->fast_abort ? REPORT_NONE : i;
}

/* The first of the list that we know. */
static int accept_reporting(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	const char *list = value, *it;
	size_t len;

	while ((it = list_item(&list, &len))) {
		unsigned which = reporting(k->offer, it, len);
		if (which == REPORT_NONE)
			continue;
		set_reporting(k->params, which);
		return no_room(k, iscsi_text_put(out, key->name, "%.*s", (int)len, it));
	}
	return put(k, out, key, "Reject");
}

/* 13.25 */
static int accept_obsolete(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	bool marker = !strcmp(key->name + 1, "FMarker");

	return put(k, out, key, marker && !strcmp(value, "No") ? "No" : "Reject");
}

/* ---- declarations --------------------------------------------------------------------------------------- */

static int declared_number(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	uint32_t v;

	if (parse(key, value, &v) < 0)
		return fail(k, LOGIN_INITIATOR_ERROR, "%s '%.20s' is out of range", key->name, value);
	if (key->rule == RULE_TAG)
		k->params->tpgt = (uint16_t)v;
	else
		store(key, k->params, v);
	return 0;
}

static int declared_text(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	size_t len = strlen(value);

	if (len > key->max)
		return fail(k, LOGIN_INITIATOR_ERROR, "%s is longer than %u bytes", key->name, key->max);
	char *to = (char *)k->params + key->at;
	memcpy(to, value, len + 1);
	for (char *p = to; *p; p++) /* it is shown to people */
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return 0;
}

static int declared_name(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	const char *why;
	bool target = key->at == P(target);
	uint16_t status = target ? LOGIN_NOT_FOUND : LOGIN_INITIATOR_ERROR;

	if (strlen(value) > key->max)
		return fail(k, status, "%s is longer than %u bytes", key->name, key->max);
	memcpy((char *)k->params + key->at, value, strlen(value) + 1);
	char *name = (char *)k->params + key->at;
	if (iscsi_name_check(name, &why) < 0) {
		*name = 0; /* nobody shall show it */
		return fail(k, status, "%s is no iSCSI name: %s", key->name, why);
	}
	return 0;
}

static int declared_session(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	if (strcmp(value, "Discovery") && strcmp(value, "Normal"))
		return fail(k, LOGIN_BAD_SESSION_TYPE, "unknown SessionType '%.20s'", value);
	k->params->discovery = value[0] == 'D';
	return 0;
}

static int keep(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	k->kept[key->at] = value;
	return 0;
}

static int silent(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	return 0;
}

/* ---- the rules, proposer's side: an answer must be what the rule allows (6.2.2) ------------------------------ */

static int take_simple(struct iscsi_keys *k, const struct key *key, const char *value)
{
	uint32_t v;

	if (parse(key, value, &v) < 0 || combine(key, v, wish(k, key)) != v)
		return fail(k, LOGIN_INITIATOR_ERROR, "answer %s=%.20s breaks the rule", key->name, value);
	store(key, k->params, v);
	return 0;
}

static int take_digest(struct iscsi_keys *k, const struct key *key, const char *value)
{
	bool crc = !strcmp(value, "CRC32C");

	if ((!crc && strcmp(value, "None")) || !digest_allowed(k->offer, key, crc))
		return fail(k, LOGIN_INITIATOR_ERROR, "answer %s=%.20s was not offered", key->name, value);
	*((uint8_t *)k->params + key->at) = crc ? ISCSI_DIGEST_CRC32C : ISCSI_DIGEST_NONE;
	return 0;
}

static int take_reporting(struct iscsi_keys *k, const struct key *key, const char *value)
{
	unsigned which = reporting(k->offer, value, strlen(value));

	if (which == REPORT_NONE)
		return fail(k, LOGIN_INITIATOR_ERROR, "answer %s=%.20s was not offered", key->name, value);
	set_reporting(k->params, which);
	return 0;
}

typedef int take_fn(struct iscsi_keys *k, const struct key *key, const char *value);
typedef int hear_fn(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out);

static const struct rule {
	hear_fn *hear; /* the peer declares or proposes */
	take_fn *take; /* the peer answers our proposal; NULL: declarative, there are no answers */
} rules[] = {
	[RULE_AND] = { accept_simple, take_simple },
	[RULE_OR] = { accept_simple, take_simple },
	[RULE_MIN] = { accept_simple, take_simple },
	[RULE_MAX] = { accept_simple, take_simple },
	[RULE_DIGEST] = { accept_digest, take_digest },
	[RULE_REPORTING] = { accept_reporting, take_reporting },
	[RULE_SEGMENT] = { declared_number, NULL },
	[RULE_TAG] = { declared_number, NULL },
	[RULE_NAME] = { declared_name, NULL },
	[RULE_TEXT] = { declared_text, NULL },
	[RULE_SESSION] = { declared_session, NULL },
	[RULE_KEPT] = { keep, NULL },
	[RULE_OBSOLETE] = { accept_obsolete, NULL },
	[RULE_SILENT] = { silent, NULL },
};

static bool reserved_word(const char *value)
{
	return !strcmp(value, "NotUnderstood") || !strcmp(value, "Irrelevant") || !strcmp(value, "Reject");
}

static int unknown_key(struct iscsi_keys *k, const char *name, const char *value, struct iscsi_text *out)
{
	if (reserved_word(value))
		return 0; /* an answer to nothing that we sent: no loop of answers */
	return no_room(k, iscsi_text_put(out, name, "NotUnderstood"));
}

/* An answer to a key that we sent. A target that answers NotUnderstood, Irrelevant or Reject leaves the value
 * as it was (6.2). */
static int answer(struct iscsi_keys *k, const struct key *key, const char *value)
{
	k->settled |= bit(key);
	return reserved_word(value) ? 0 : rules[key->rule].take(k, key, value);
}

static bool irrelevant(const struct iscsi_keys *k, const struct key *key)
{
	const struct iscsi_params *p = k->params;

	if ((key->flags & NORMAL) && p->discovery)
		return true;
	if ((key->flags & LEADING) && !k->leading && key->rule != RULE_SILENT)
		return true;
	return key->at == P(first_burst) && key->rule == RULE_MIN && p->initial_r2t && !p->immediate_data &&
		k->role == ISCSI_AS_TARGET;
}

static int hear(struct iscsi_keys *k, const struct key *key, const char *value, struct iscsi_text *out)
{
	if (irrelevant(k, key))
		return put(k, out, key, "Irrelevant");
	k->settled |= bit(key);
	return rules[key->rule].hear(k, key, value, out);
}

/* 6.2: what makes a key an error wherever it comes from. */
static int check_use(struct iscsi_keys *k, const struct key *key, const char *value)
{
	uint8_t peer = k->role == ISCSI_AS_TARGET ? INI : TGT;

	if (!(key->stages & k->stage))
		return fail(k, LOGIN_INITIATOR_ERROR, "%s does not belong into this stage", key->name);
	if (!(key->senders & peer))
		return fail(k, LOGIN_INITIATOR_ERROR, "%s is not for this side to send", key->name);
	if ((k->seen & bit(key)) && !(key->flags & REPEATS))
		return fail(k, LOGIN_INITIATOR_ERROR, "%s came twice", key->name);
	if (reserved_word(value) && !(k->sent & bit(key)) && key->rule != RULE_KEPT)
		return fail(k, LOGIN_INITIATOR_ERROR, "%s was proposed as '%s'", key->name, value);
	return 0;
}

static int one_key(struct iscsi_keys *k, const char *name, const char *value, struct iscsi_text *out)
{
	const struct key *key = find(name);

	if (!key)
		return unknown_key(k, name, value, out);
	if ((key->flags & NAMES) && k->role == ISCSI_AS_TARGET && k->stage != FFP)
		return 0; /* iscsi_keys_names() had it */
	int r = check_use(k, key, value);
	if (r < 0)
		return r;
	k->seen |= bit(key);
	if ((k->sent & bit(key)) && rules[key->rule].take)
		return answer(k, key, value);
	if ((k->sent & bit(key)) && reserved_word(value))
		return 0; /* about our declaration */
	if (key->flags & LAST) {
		k->last[key->at == P(first_burst)] = value;
		return 0;
	}
	return hear(k, key, value, out);
}

static int answer_last(struct iscsi_keys *k, struct iscsi_text *out)
{
	static const char *const names[2] = { "MaxOutstandingR2T", "FirstBurstLength" };

	for (int i = 0; i < 2; i++) {
		const char *value = k->last[i];
		k->last[i] = NULL;
		int r = value ? hear(k, find(names[i]), value, out) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- interface ------------------------------------------------------------------------------------------- */

void iscsi_keys_init(struct iscsi_keys *k, uint8_t role, const struct iscsi_offer *o, struct iscsi_params *p)
{
	*k = (struct iscsi_keys){ .role = role, .leading = true, .offer = o, .params = p };
}

static int broken(struct iscsi_keys *k)
{
	return fail(k, LOGIN_INITIATOR_ERROR, "the text is not a list of key=value pairs");
}

int iscsi_keys_names(struct iscsi_keys *k, struct iscsi_text *in)
{
	char *name, *value;
	uint32_t pos = 0;
	int r;

	while ((r = iscsi_text_next(in, &pos, &name, &value)) == 1) {
		const struct key *key = find(name);
		if (key && (key->flags & NAMES)) {
			r = check_use(k, key, value);
			k->seen |= bit(key);
			if (!r)
				r = rules[key->rule].hear(k, key, value, NULL);
			if (r < 0)
				return r;
		}
		value[-1] = '='; /* the pair is whole again for iscsi_keys_rx() */
	}
	return r < 0 ? broken(k) : 0;
}

int iscsi_keys_rx(struct iscsi_keys *k, struct iscsi_text *in, struct iscsi_text *out)
{
	char *name, *value;
	uint32_t pos = 0;
	int r;

	memset(k->kept, 0, sizeof(k->kept));
	k->last[0] = k->last[1] = NULL;
	while ((r = iscsi_text_next(in, &pos, &name, &value)) == 1) {
		r = one_key(k, name, value, out);
		if (r < 0)
			return r;
	}
	return r < 0 ? broken(k) : answer_last(k, out);
}

int iscsi_keys_declare(struct iscsi_keys *k, struct iscsi_text *out)
{
	const struct key *key = find("MaxRecvDataSegmentLength");

	if (k->sent & bit(key))
		return 0;
	k->sent |= bit(key);
	k->params->max_recv_segment = k->offer->max_recv_segment;
	return put_value(k, out, key, k->offer->max_recv_segment);
}

static int propose(struct iscsi_keys *k, struct iscsi_text *out, const struct key *key)
{
	k->sent |= bit(key);
	if (key->rule == RULE_DIGEST) {
		bool crc = digest_allowed(k->offer, key, true), none = digest_allowed(k->offer, key, false);
		return put(k, out, key, crc && none ? "CRC32C,None" : crc ? "CRC32C" : "None");
	}
	if (key->rule == RULE_REPORTING)
		return put(k, out, key, k->offer->fast_abort ? "FastAbort,ResponseFence,RFC3720" : "ResponseFence,RFC3720");
	return put_value(k, out, key, wish(k, key));
}

int iscsi_keys_offer(struct iscsi_keys *k, struct iscsi_text *out)
{
	int r = iscsi_keys_declare(k, out);

	for (size_t i = 0; i < ARRAY_LEN(keys) && !r; i++)
		if (rules[keys[i].rule].take && !irrelevant(k, &keys[i]))
			r = propose(k, out, &keys[i]);
	return r;
}

static bool negotiated(const struct iscsi_keys *k, const char *name)
{
	return k->settled & bit(find(name));
}

int iscsi_keys_finish(struct iscsi_keys *k)
{
	struct iscsi_params *p = k->params;
	const struct iscsi_offer *o = k->offer;

	if (o->require_header_digest && !p->header_digest)
		return fail(k, LOGIN_INITIATOR_ERROR, "header digests are required here");
	if (o->require_data_digest && !p->data_digest)
		return fail(k, LOGIN_INITIATOR_ERROR, "data digests are required here");
	if (p->first_burst > p->max_burst) {
		/* 13.14. The default alone breaks no rule: a shorter burst just leaves less room. Neither does an
		 * offer that was answered Irrelevant. */
		if (negotiated(k, "FirstBurstLength") && (p->immediate_data || !p->initial_r2t))
			return fail(k, LOGIN_INITIATOR_ERROR, "FirstBurstLength exceeds MaxBurstLength");
		p->first_burst = p->max_burst;
	}
	if (p->erl && p->sequence_in_order && p->max_r2t != 1)
		return fail(k, LOGIN_INITIATOR_ERROR, "MaxOutstandingR2T must be 1 at this recovery level");
	return 0;
}

/* ---- defaults --------------------------------------------------------------------------- */

void iscsi_params_defaults(struct iscsi_params *p)
{
	*p = (struct iscsi_params){ .max_recv_segment = 8192, .task_reporting_rfc3720 = true };
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (rules[keys[i].rule].hear == accept_simple || keys[i].rule == RULE_SEGMENT)
			store(&keys[i], p, keys[i].dflt);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * What PERSISTENT RESERVE OUT makes of the registrations and the reservation of a unit: plain values in, plain values
 * out. Invariants of a state: 1. no two registrations match the same nexus; 2. type is 0 or there is a holder, or
 * the type is for all registrants and there is one at least; 3. a state with no registration has no reservation. */
#include <stdio.h>

#include "scsi/pr.h"

#define UA_RESERVATIONS_PREEMPTED UA(0x2a, 0x03)
#define UA_REGISTRATIONS_PREEMPTED UA(0x2a, 0x05)
#define SENSE_INVALID_RELEASE SENSE(5, 0x26, 0x04)
#define SENSE_NO_REGISTRATION_ROOM SENSE(5, 0x55, 0x04)

static bool same_name(const struct pr_who *a, const struct pr_who *b)
{
	return !strcmp(a->initiator, b->initiator) && (a->any_port || b->any_port || (a->port == b->port &&
		!strcmp(a->target, b->target)));
}

static bool same_initiator(const struct pr_who *a, const struct pr_who *b)
{
	return !strcmp(a->initiator, b->initiator) && (a->any_isid || b->any_isid || !memcmp(a->isid, b->isid, 6));
}

/* Do they speak of a common nexus? */
static bool overlap(const struct pr_who *a, const struct pr_who *b)
{
	return same_name(a, b) && (a->any_isid || b->any_isid || !memcmp(a->isid, b->isid, 6));
}

bool pr_matches(const struct pr_who *w, const struct scsi_nexus *n)
{
	return !strcmp(w->initiator, n->initiator) && (w->any_isid || !memcmp(w->isid, n->isid, 6)) &&
	       (w->any_port || (w->port == n->tpgt && !strcmp(w->target, n->target->name)));
}

int pr_find(const struct pr_state *s, const struct scsi_nexus *n)
{
	for (unsigned i = 0; s && i < s->n; i++)
		if (pr_matches(&s->reg[i].who, n))
			return (int)i;
	return -1;
}

static int find_who(const struct pr_state *s, const struct pr_who *w)
{
	for (unsigned i = 0; i < s->n; i++)
		if (overlap(&s->reg[i].who, w))
			return (int)i;
	return -1;
}

/* --- building --- */

struct work {
	const struct pr_request *r;
	struct pr_outcome *out;
	struct pr_state *s; /* the copy that changes */
	int me;             /* index of the asking nexus, -1 = not registered */
};

static void refuse(struct work *w, uint8_t status, uint32_t sense)
{
	w->out->status = status;
	w->out->sense = sense;
}

static void conflict(struct work *w)
{
	refuse(w, SCSI_RESERVATION_CONFLICT, 0);
}

static void tell(struct work *w, const struct pr_who *who, uint16_t ua, bool abort)
{
	w->out->events[w->out->nevents++] = (struct pr_event){ *who, ua, abort };
}

static bool is_holder(const struct pr_state *s, int i)
{
	return s->type && i >= 0 && (pr_all_registrants(s->type) || s->holder == i);
}

static void no_reservation(struct pr_state *s)
{
	s->type = 0;
	s->holder = -1;
}

/* Registrants but `me` hear that the reservation is gone; SPC-4 5.12.11.2.1: of types that let them in. */
static void tell_released(struct work *w, uint8_t type)
{
	for (unsigned i = 0; type >= PR_WRITE_EX_RO && i < w->s->n; i++)
		if ((int)i != w->me)
			tell(w, &w->s->reg[i].who, UA_RESERVATIONS_RELEASED, false);
}

static void remove_at(struct work *w, unsigned i)
{
	struct pr_state *s = w->s;

	memmove(&s->reg[i], &s->reg[i + 1], (s->n - i - 1) * sizeof(s->reg[0]));
	s->n--;
	if (s->holder == (int)i)
		no_reservation(s);
	else if (s->holder > (int)i)
		s->holder--;
	if (w->me == (int)i)
		w->me = -1;
	else if (w->me > (int)i)
		w->me--;
	if (!s->n)
		no_reservation(s);
}

static void add(struct work *w, const struct pr_who *who, uint64_t key)
{
	w->s->reg[w->s->n++] = (struct pr_reg){ *who, key };
}

/* --- service actions --- */

static void unregister(struct work *w)
{
	uint8_t type = w->s->type;
	bool held = is_holder(w->s, w->me);

	remove_at(w, (unsigned)w->me);
	if (held && !w->s->type)
		tell_released(w, type);
}

static void set_key(struct work *w)
{
	const struct pr_request *r = w->r;
	struct pr_who me = *r->who;

	me.any_port |= r->all_ports;
	for (unsigned i = 0; w->me < 0 && i < r->nother; i++)
		if (find_who(w->s, &r->other[i]) >= 0) { /* SPC-4 table 67, note b: all or nothing */
			refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_PARAM);
			return;
		}
	if (w->me >= 0) {
		w->s->reg[w->me].key = r->new_key;
		return;
	}
	if (w->s->n + 1 + r->nother > PR_REGS_MAX) {
		refuse(w, SCSI_CHECK_CONDITION, SENSE_NO_REGISTRATION_ROOM);
		return;
	}
	add(w, &me, r->new_key);
	for (unsigned i = 0; i < r->nother; i++) {
		struct pr_who o = r->other[i];
		if (find_who(w->s, &o) >= 0) /* the list names it twice, or the one that asks */
			continue;
		o.any_port |= r->all_ports;
		add(w, &o, r->new_key);
	}
}

static void do_register(struct work *w)
{
	const struct pr_request *r = w->r;
	bool ignore = r->action == 6;

	if (!ignore && (w->me < 0 ? r->key != 0 : r->key != w->s->reg[w->me].key)) {
		conflict(w);
		return;
	}
	if (w->me >= 0 && r->spec_i_pt) { /* note c */
		refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_PARAM);
		return;
	}
	if (w->me < 0 && !r->new_key)
		return; /* SPC-4 table 67: GOOD, and nothing happens, not even to APTPL */
	w->s->generation++;
	if (r->new_key)
		set_key(w);
	else
		unregister(w);
	w->s->aptpl = r->aptpl;
}

static void do_reserve(struct work *w)
{
	struct pr_state *s = w->s;

	if (s->type && !(is_holder(s, w->me) && s->type == w->r->type)) {
		conflict(w);
		return;
	}
	s->type = w->r->type;
	s->holder = pr_all_registrants(s->type) ? -1 : w->me;
}

static void do_release(struct work *w)
{
	struct pr_state *s = w->s;
	uint8_t type = s->type;

	if (!is_holder(s, w->me))
		return; /* SPC-4 5.12.11.2.1: GOOD, and nothing happens */
	if (type != w->r->type) {
		refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_RELEASE);
		return;
	}
	no_reservation(s);
	tell_released(w, type);
}

static void do_clear(struct work *w)
{
	struct pr_state *s = w->s;

	for (unsigned i = 0; i < s->n; i++)
		if ((int)i != w->me)
			tell(w, &s->reg[i].who, UA_RESERVATIONS_PREEMPTED, false);
	s->n = 0;
	no_reservation(s);
	s->generation++;
}

/* Takes out the registrations that `key` names (0: all), but the asker's. Returns how many. */
static unsigned preempt_keys(struct work *w, uint64_t key)
{
	unsigned n = 0;

	for (unsigned i = w->s->n; i-- > 0;) {
		if ((int)i == w->me || (key && w->s->reg[i].key != key))
			continue;
		tell(w, &w->s->reg[i].who, UA_REGISTRATIONS_PREEMPTED, w->r->action == 5);
		remove_at(w, i);
		n++;
	}
	return n;
}

static bool type_known(uint8_t type)
{
	return type < 9 && (1u << type & (1u << 1 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8));
}

/* PREEMPT AND ABORT ends the asker's other commands too, where its own registration is among those it names. */
static void abort_own(struct work *w, uint64_t key)
{
	if (w->r->action == 5 && (!key || w->s->reg[w->me].key == key))
		tell(w, &w->s->reg[w->me].who, 0, true);
}

/* SPC-4 5.13.11.2.4 and figure 9. Where registrations are only removed, scope and type do not count (5.13.11.2.5). */
static void do_preempt(struct work *w)
{
	struct pr_state *s = w->s;
	uint64_t key = w->r->new_key;
	uint8_t was = s->type;
	bool all = pr_all_registrants(was);
	bool takes = was && (all ? !key : s->reg[s->holder].key == key);

	if (!takes) {
		if (!key) {
			refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_PARAM);
			return;
		}
		bool own = s->reg[w->me].key == key;
		abort_own(w, key);
		if (!preempt_keys(w, key) && !own)
			conflict(w);
		else if (own) /* its registration goes too */
			unregister(w);
		s->generation++;
		return;
	}
	if (!type_known(w->r->type) || w->r->scope) {
		refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_FIELD);
		return;
	}
	abort_own(w, key);
	preempt_keys(w, key);
	if (was != w->r->type)
		for (unsigned i = 0; i < s->n; i++)
			if ((int)i != w->me)
				tell(w, &s->reg[i].who, UA_RESERVATIONS_RELEASED, false);
	s->type = w->r->type;
	s->holder = pr_all_registrants(s->type) ? -1 : w->me;
	s->generation++;
}

static void do_move(struct work *w)
{
	const struct pr_request *r = w->r;
	struct pr_state *s = w->s;

	if (!s->type) {
		refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_FIELD); /* SPC-4 5.13.8 */
		return;
	}
	if (!is_holder(s, w->me) || pr_all_registrants(s->type)) {
		conflict(w);
		return;
	}
	if (!r->new_key || same_initiator(&r->other[0], r->who)) {
		refuse(w, SCSI_CHECK_CONDITION, SENSE_INVALID_PARAM);
		return;
	}
	uint8_t type = s->type;
	int to = find_who(s, &r->other[0]);
	if (to < 0 && s->n == PR_REGS_MAX) {
		refuse(w, SCSI_CHECK_CONDITION, SENSE_NO_REGISTRATION_ROOM);
		return;
	}
	if (to < 0) {
		to = (int)s->n;
		add(w, &r->other[0], r->new_key);
	}
	s->reg[to].key = r->new_key;
	s->holder = to;
	if (r->unreg)
		remove_at(w, (unsigned)w->me);
	s->type = type;
	s->aptpl = r->aptpl;
	s->generation++;
}

static const struct pr_action {
	void (*run)(struct work *w);
	bool key;   /* the asker must be registered with its key */
	bool typed; /* the CDB's type counts */
} actions[] = {
	[0] = { do_register, false, false },
	[1] = { do_reserve, true, true },
	[2] = { do_release, true, true },
	[3] = { do_clear, true, false },
	[4] = { do_preempt, true, false },
	[5] = { do_preempt, true, false },
	[6] = { do_register, false, false },
	[7] = { do_move, true, false },
};

static struct pr_state *copy(const struct pr_state *old, unsigned room)
{
	unsigned n = old ? old->n : 0;
	struct pr_state *s = calloc(1, sizeof(*s) + (n + room) * sizeof(s->reg[0]));

	if (s && old)
		memcpy(s, old, sizeof(*s) + n * sizeof(s->reg[0]));
	else if (s)
		s->holder = -1;
	return s;
}

int pr_apply(const struct pr_state *old, const struct pr_request *r, struct pr_outcome *ret)
{
	const struct pr_action *a = &actions[r->action];
	struct work w = { r, ret, copy(old, r->nother + 1), -1 };

	memset(ret, 0, sizeof(*ret));
	if (!w.s)
		return -ENOMEM;
	ret->events = calloc(2 * w.s->n + 1, sizeof(*ret->events));
	if (!ret->events) {
		free(w.s);
		return -ENOMEM;
	}
	w.me = find_who(w.s, r->who);
	if (a->key && (w.me < 0 || w.s->reg[w.me].key != r->key))
		conflict(&w);
	else if (a->typed && ((!type_known(r->type) && r->action != 2) || r->scope))
		refuse(&w, SCSI_CHECK_CONDITION, SENSE_INVALID_FIELD);
	else
		a->run(&w);
	if (ret->status) {
		free(w.s);
		ret->nevents = 0;
		return 0;
	}
	ret->next = w.s;
	return 0;
}

int pr_cleared(const struct pr_state *old, struct pr_outcome *ret)
{
	static const struct pr_request nobody = { .action = 3 };
	struct work w = { &nobody, ret, copy(old, 0), -1 };

	memset(ret, 0, sizeof(*ret));
	ret->events = w.s ? calloc(w.s->n + 1, sizeof(*ret->events)) : NULL;
	if (!ret->events) {
		free(w.s);
		return -ENOMEM;
	}
	do_clear(&w);
	ret->next = w.s;
	return 0;
}

/* --- the saved form: fixed records, big endian --- */

enum { SAVE_HEAD = 16, SAVE_REG = 8 + 2 * 224 + 6 + 2 + 2 };
static const uint8_t save_magic[4] = { 'L', 'P', 'R', 1 };

int pr_encode(const struct pr_state *s, uint8_t **ret)
{
	unsigned n = s && s->aptpl ? s->n : 0;
	size_t len = SAVE_HEAD + n * SAVE_REG;
	uint8_t *p = calloc(1, len);

	if (!p)
		return -ENOMEM;
	memcpy(p, save_magic, 4);
	if (n) {
		p[4] = s->type;
		put_be16(p + 6, (uint16_t)s->holder);
	}
	put_be32(p + 8, n);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *q = p + SAVE_HEAD + i * SAVE_REG;
		const struct pr_who *w = &s->reg[i].who;
		put_be64(q, s->reg[i].key);
		memcpy(q + 8, w->initiator, 224);
		memcpy(q + 232, w->target, 224);
		memcpy(q + 456, w->isid, 6);
		put_be16(q + 462, w->port);
		q[464] = w->any_isid;
		q[465] = w->any_port;
	}
	*ret = p;
	return (int)len;
}

int pr_decode(const uint8_t *p, size_t len, struct pr_state **ret)
{
	uint32_t n = len >= SAVE_HEAD ? be32(p + 8) : 0;

	*ret = NULL;
	if (len < SAVE_HEAD || memcmp(p, save_magic, 4) || n > PR_REGS_MAX || len != SAVE_HEAD + n * SAVE_REG)
		return -EINVAL;
	int holder = (int16_t)be16(p + 6);
	if (!n)
		return 0;
	if ((p[4] && !type_known(p[4])) || holder >= (int)n ||
	    (p[4] && (holder < 0) != pr_all_registrants(p[4])) || (!p[4] && holder >= 0))
		return -EINVAL;
	struct pr_state *s = copy(NULL, n);
	if (!s)
		return -ENOMEM;
	s->type = p[4];
	s->holder = holder;
	s->aptpl = true;
	s->n = n;
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *q = p + SAVE_HEAD + i * SAVE_REG;
		struct pr_who *w = &s->reg[i].who;
		s->reg[i].key = be64(q);
		memcpy(w->initiator, q + 8, LIM_ISCSI_NAME); /* the last byte stays zero */
		memcpy(w->target, q + 232, LIM_ISCSI_NAME);
		memcpy(w->isid, q + 456, 6);
		w->port = be16(q + 462);
		w->any_isid = q[464];
		w->any_port = q[465];
	}
	*ret = s;
	return 0;
}

/* --- TransportID --- */

unsigned pr_transport_id(const struct pr_who *w, uint8_t *p)
{
	int n;

	memset(p, 0, PR_TRANSPORT_ID_MAX);
	p[0] = (uint8_t)((w->any_isid ? 0x00 : 0x40) | 5);
	if (w->any_isid)
		n = snprintf((char *)p + 4, 256, "%s", w->initiator);
	else
		n = snprintf((char *)p + 4, 256, "%s,i,0x%02x%02x%02x%02x%02x%02x", w->initiator, w->isid[0],
			w->isid[1], w->isid[2], w->isid[3], w->isid[4], w->isid[5]);
	unsigned len = ((unsigned)n + 1 + 3) & ~3u;
	len = MAX(len, 20u);
	put_be16(p + 2, (uint16_t)len);
	return 4 + len;
}

static int hex_byte(const char *s)
{
	unsigned v = 0;

	for (int i = 0; i < 2; i++) {
		char ch = s[i];
		unsigned d = ch >= '0' && ch <= '9' ? (unsigned)(ch - '0')
			: ch >= 'a' && ch <= 'f' ? (unsigned)(ch - 'a' + 10)
			: ch >= 'A' && ch <= 'F' ? (unsigned)(ch - 'A' + 10) : 16;
		if (d == 16)
			return -1;
		v = v << 4 | d;
	}
	return (int)v;
}

int pr_parse_transport_id(const uint8_t *p, size_t n, struct pr_who *ret)
{
	char name[257] = "";

	memset(ret, 0, sizeof(*ret));
	if (n < 24 || (p[0] & 0x0f) != 5)
		return -EINVAL;
	unsigned len = be16(p + 2), format = p[0] >> 6;
	if (len < 20 || len % 4 || len > 256 || len + 4 > n || format > 1)
		return -EINVAL;
	memcpy(name, p + 4, len);
	char *sep = format ? strstr(name, ",i,0x") : NULL;
	if (format && (!sep || strlen(sep) != 5 + 12))
		return -EINVAL;
	for (int i = 0; format && i < 6; i++) {
		int v = hex_byte(sep + 5 + 2 * i);
		if (v < 0)
			return -EINVAL;
		ret->isid[i] = (uint8_t)v;
	}
	if (sep)
		*sep = 0;
	if (!*name || strlen(name) > LIM_ISCSI_NAME)
		return -EINVAL;
	for (char *q = name; *q; q++) /* names compare after folding, RFC 7143 4.2.7 */
		*q = (char)(*q >= 'A' && *q <= 'Z' ? *q - 'A' + 'a' : *q);
	snprintf(ret->initiator, sizeof(ret->initiator), "%s", name);
	ret->any_isid = !format;
	return (int)(4 + len);
}

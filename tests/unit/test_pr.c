/* SPDX-License-Identifier: BSD-3-Clause
 * Persistent reservations as a function of states, against a small model of SPC-4 5.12 written another way; their
 * saved form; TransportIDs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/pr.h"

enum { NEXUSES = 6, CONFLICT = SCSI_RESERVATION_CONFLICT, CHECK_COND = SCSI_CHECK_CONDITION };

static struct pr_who who_of(int i)
{
	struct pr_who w = { .port = (uint16_t)(1 + i % 2), .isid = { 0x80, 0, 0, 0, 0, (uint8_t)(i / 2) } };

	snprintf(w.initiator, sizeof(w.initiator), "iqn.2026-01.test:host%d", i / 2);
	snprintf(w.target, sizeof(w.target), "iqn.2026-01.test:disk");
	return w;
}

/* Applies and frees; returns the status, keeps the state in *s. */
static uint8_t apply(struct pr_state **s, int me, uint8_t action, uint8_t type, uint64_t key, uint64_t new_key,
	struct pr_outcome *keep)
{
	struct pr_who w = who_of(me);
	struct pr_request r = { .action = action, .type = type, .key = key, .new_key = new_key, .who = &w };
	struct pr_outcome o;

	assert_int_equal(pr_apply(*s, &r, &o), 0);
	if (o.next) {
		free(*s);
		*s = o.next;
	}
	if (keep)
		*keep = o;
	else
		free(o.events);
	return o.status;
}

/* --- the model: one cell per nexus, sets instead of lists --- */

struct model {
	uint64_t key[NEXUSES]; /* 0 = not registered */
	bool     holds[NEXUSES];
	uint8_t  type;
	uint32_t generation;
};

static bool ar(uint8_t type)
{
	return type == 7 || type == 8;
}

static unsigned registered(const struct model *m)
{
	unsigned n = 0;
	for (int i = 0; i < NEXUSES; i++)
		n += m->key[i] != 0;
	return n;
}

static void settle(struct model *m)
{
	bool any = false;
	for (int i = 0; i < NEXUSES; i++) {
		m->holds[i] &= m->key[i] != 0;
		if (m->type && ar(m->type))
			m->holds[i] = m->key[i] != 0;
		any |= m->holds[i];
	}
	if (!any)
		m->type = 0;
	if (!m->type)
		memset(m->holds, 0, sizeof(m->holds));
}

static void take(struct model *m, int me, uint8_t type)
{
	memset(m->holds, 0, sizeof(m->holds));
	m->type = type;
	m->holds[me] = true;
	settle(m);
}

static uint8_t model_preempt(struct model *m, int me, uint8_t type, uint64_t sark)
{
	bool takes = m->type && ar(m->type) && !sark, hit = false;

	for (int i = 0; i < NEXUSES; i++)
		takes |= m->type && !ar(m->type) && m->holds[i] && m->key[i] == sark;
	if (!takes && !sark)
		return CHECK_COND;
	for (int i = 0; i < NEXUSES; i++)
		hit |= m->key[i] && (!sark || m->key[i] == sark);
	if (!hit)
		return CONFLICT;
	for (int i = 0; i < NEXUSES; i++) {
		bool named = !sark || m->key[i] == sark;
		if (named && (i != me || !takes))
			m->key[i] = 0;
	}
	if (takes)
		take(m, me, type);
	settle(m);
	m->generation++;
	return 0;
}

static uint8_t model_step(struct model *m, int me, uint8_t action, uint8_t type, uint64_t key, uint64_t sark)
{
	if (action == 0 || action == 6) {
		if (action == 0 && key != m->key[me])
			return CONFLICT;
		if (!m->key[me] && !sark)
			return 0;
		m->key[me] = sark;
		settle(m);
		m->generation++;
		return 0;
	}
	if (!m->key[me] || m->key[me] != key)
		return CONFLICT;
	switch (action) {
	case 1:
		if (m->type)
			return m->holds[me] && m->type == type ? 0 : CONFLICT;
		take(m, me, type);
		return 0;
	case 2:
		if (!m->type || !m->holds[me])
			return 0;
		if (m->type != type)
			return CHECK_COND;
		m->type = 0;
		settle(m);
		return 0;
	case 3:
		memset(m->key, 0, sizeof(m->key));
		settle(m);
		m->generation++;
		return 0;
	default:
		return model_preempt(m, me, type, sark);
	}
}

static void compare(const struct pr_state *s, const struct model *m)
{
	if (!s) {
		assert_int_equal(registered(m), 0);
		return;
	}
	assert_int_equal(s->n, registered(m));
	assert_int_equal(s->type, m->type);
	assert_int_equal(s->generation, m->generation);
	for (int i = 0; i < NEXUSES; i++) {
		struct pr_who w = who_of(i);
		int at = -1;
		for (unsigned k = 0; k < s->n; k++)
			if (!strcmp(s->reg[k].who.initiator, w.initiator) && !memcmp(s->reg[k].who.isid, w.isid, 6) &&
			    s->reg[k].who.port == w.port)
				at = (int)k;
		assert_int_equal(at >= 0, m->key[i] != 0);
		if (at < 0)
			continue;
		assert_int_equal(s->reg[at].key, m->key[i]);
		bool holds = s->type && (s->holder == at || (s->holder < 0 && ar(s->type)));
		assert_int_equal(holds, m->holds[i]);
	}
}

/* Any sequence of service actions from several nexuses gives the status, the registrations and the holder of the
 * model; at random moments the state goes through its saved form (SPC-4 5.12.5, APTPL). */
static void test_model(void **state)
{
	static const uint8_t types[] = { 1, 3, 5, 6, 7, 8 };
	unsigned long seen[8][4] = { { 0 } };

	for (unsigned seed = 1; seed <= 300; seed++) {
		struct pr_state *s = NULL;
		struct model m = { .generation = 0 };
		srand(seed);
		for (int step = 0; step < 200; step++) {
			int me = rand() % NEXUSES;
			uint8_t action = (uint8_t)(rand() % 7), type = types[rand() % 6];
			uint64_t key = rand() % 4 ? m.key[me] : (uint64_t)(rand() % 4), sark = (uint64_t)(rand() % 4);
			uint8_t want = model_step(&m, me, action, type, key, sark);
			uint8_t got = apply(&s, me, action, type, key, sark, NULL);
			if (got != want)
				print_error("seed %u step %d: action %u type %u key %u new %u\n", seed, step, action, type,
					(unsigned)key, (unsigned)sark);
			assert_int_equal(got, want);
			compare(s, &m);
			seen[action][want == 0 ? 0 : want == CONFLICT ? 1 : 2]++;
			if (s && rand() % 20 == 0) {
				uint8_t *p;
				s->aptpl = true;
				int n = pr_encode(s, &p);
				uint32_t generation = s->generation;
				free(s);
				assert_int_equal(pr_decode(p, (size_t)n, &s), 0);
				free(p);
				if (s)
					s->generation = generation;
				else
					m.generation = 0;
				compare(s, &m);
			}
		}
		free(s);
	}
	for (int a = 0; a < 7; a++) { /* the sequences reach what they are to prove */
		assert_true(seen[a][0] > 100);
		assert_true(seen[a][1] > 100 || a == 6);
	}
}

static unsigned told(const struct pr_outcome *o, int i, uint16_t ua, bool abort)
{
	struct pr_who w = who_of(i);
	unsigned n = 0;

	for (unsigned k = 0; k < o->nevents; k++)
		n += !strcmp(o->events[k].who.initiator, w.initiator) && o->events[k].who.port == w.port &&
		     o->events[k].ua == ua && o->events[k].abort == abort;
	return n;
}

/* Who is told what: SPC-4 table 76's unit attentions, and whose commands PREEMPT AND ABORT ends. */
static void test_events(void **state)
{
	struct pr_state *s = NULL;
	struct pr_outcome o;

	for (int i = 0; i < 4; i++)
		assert_int_equal(apply(&s, i, 0, 0, 0, 100 + (uint64_t)i, NULL), 0);
	assert_int_equal(apply(&s, 0, 1, PR_WRITE_EX_RO, 100, 0, NULL), 0);
	assert_int_equal(apply(&s, 0, 2, PR_WRITE_EX_RO, 100, 0, &o), 0);
	for (int i = 1; i < 4; i++)
		assert_int_equal(told(&o, i, 0x2a04, false), 1);
	assert_int_equal(o.nevents, 3);
	free(o.events);
	assert_int_equal(apply(&s, 0, 1, PR_WRITE_EX, 100, 0, NULL), 0);
	assert_int_equal(apply(&s, 1, 5, PR_EX_ACCESS, 101, 100, &o), 0);
	assert_int_equal(told(&o, 0, 0x2a05, true), 1);
	assert_int_equal(told(&o, 2, 0x2a04, false), 1);
	assert_int_equal(told(&o, 1, 0x2a04, false), 0);
	free(o.events);
	assert_int_equal(apply(&s, 1, 3, 0, 101, 0, &o), 0);
	assert_int_equal(told(&o, 2, 0x2a03, false), 1);
	assert_int_equal(told(&o, 3, 0x2a03, false), 1);
	free(o.events);
	free(s);
}

/* SPEC_I_PT registers others, all or none; REGISTER AND MOVE hands the reservation over (SPC-4 6.16.3, 6.16.4). */
static void test_others(void **state)
{
	struct pr_who me = who_of(0), two[2] = { who_of(2), who_of(4) };
	struct pr_request r = { .action = 0, .new_key = 7, .who = &me, .other = two, .nother = 2, .spec_i_pt = true };
	struct pr_state *s = NULL;
	struct pr_outcome o;

	assert_int_equal(pr_apply(NULL, &r, &o), 0);
	assert_int_equal(o.status, 0);
	assert_int_equal(o.next->n, 3);
	free(o.events);
	s = o.next;
	struct pr_who late = who_of(1);
	r.who = &late;
	assert_int_equal(pr_apply(s, &r, &o), 0);
	assert_int_equal(o.status, CHECK_COND); /* host 1 is registered already: table 67, note b */
	assert_int_equal(o.sense, SENSE_INVALID_PARAM);
	free(o.events);
	assert_int_equal(apply(&s, 0, 1, PR_EX_ACCESS, 7, 0, NULL), 0);
	struct pr_request move = { .action = 7, .key = 7, .new_key = 9, .who = &me, .other = &two[1], .nother = 1,
		.unreg = true };
	assert_int_equal(pr_apply(s, &move, &o), 0);
	assert_int_equal(o.status, 0);
	assert_int_equal(o.next->n, 2);
	assert_int_equal(o.next->type, PR_EX_ACCESS);
	assert_string_equal(o.next->reg[o.next->holder].who.initiator, "iqn.2026-01.test:host2");
	assert_int_equal(o.next->reg[o.next->holder].key, 9);
	free(o.events);
	free(o.next);
	free(s);
}

static uint8_t ask(struct pr_state **s, struct pr_request r, uint32_t *ret_sense)
{
	struct pr_outcome o;

	assert_int_equal(pr_apply(*s, &r, &o), 0);
	if (o.next) {
		free(*s);
		*s = o.next;
	}
	free(o.events);
	*ret_sense = o.sense;
	return o.status;
}

/* Tables 67 and 68, row by row: what comes first when several things are wrong, and that SPEC_I_PT counts where its list
 * is empty too. */
static void test_register_rows(void **state)
{
	struct pr_who me = who_of(0), other = who_of(2);
	struct pr_state *s = NULL;
	uint32_t sense;
	const struct pr_request base = { .who = &me, .aptpl = true };
	struct pr_request r = base;

	r.spec_i_pt = true; /* unregistered, both keys zero: nothing, whatever SPEC_I_PT */
	assert_int_equal(ask(&s, r, &sense), 0);
	assert_int_equal(s->n, 0);
	assert_false(s->aptpl);
	r.key = 9;
	r.new_key = 1;
	assert_int_equal(ask(&s, r, &sense), CONFLICT); /* unregistered, key not zero */
	r.key = 0;
	assert_int_equal(ask(&s, r, &sense), 0);
	assert_int_equal(s->n, 1);
	assert_true(s->aptpl);
	r.key = 9;
	r.other = &other;
	r.nother = 1;
	assert_int_equal(ask(&s, r, &sense), CONFLICT); /* registered, wrong key: before SPEC_I_PT */
	for (int zero = 0; zero < 2; zero++)
		for (unsigned others = 0; others < 2; others++) {
			r.key = 1;
			r.new_key = zero ? 0 : 2;
			r.nother = others;
			assert_int_equal(ask(&s, r, &sense), CHECK_COND);
			assert_int_equal(sense, SENSE_INVALID_PARAM);
		}
	assert_int_equal(s->n, 1);
	assert_int_equal(s->reg[0].key, 1);
	r = base;
	r.action = 6; /* REGISTER AND IGNORE: any key */
	r.key = 77;
	r.new_key = 3;
	r.aptpl = false;
	assert_int_equal(ask(&s, r, &sense), 0);
	assert_int_equal(s->reg[0].key, 3);
	assert_false(s->aptpl); /* the last valid value counts, 6.16.3 */
	free(s);
}

/* Table 70, and 5.13.8: REGISTER AND MOVE without a reservation is ILLEGAL REQUEST in the CDB, not a conflict; to another
 * target port of the own initiator port it is none of the exceptions but refused; a zero key too. */
static void test_move_rows(void **state)
{
	struct pr_who me = who_of(0), sibling = who_of(1), other = who_of(3);
	struct pr_state *s = NULL;
	uint32_t sense;
	struct pr_request r = { .action = 7, .who = &me, .key = 1, .new_key = 5, .other = &other, .nother = 1 };

	assert_int_equal(ask(&s, r, &sense), CONFLICT); /* unregistered */
	apply(&s, 0, 0, 0, 0, 1, NULL);
	apply(&s, 2, 0, 0, 0, 2, NULL);
	assert_int_equal(ask(&s, r, &sense), CHECK_COND);
	assert_int_equal(sense, SENSE_INVALID_FIELD);
	apply(&s, 2, 1, PR_EX_ACCESS, 2, 0, NULL);
	assert_int_equal(ask(&s, r, &sense), CONFLICT); /* another holds it */
	apply(&s, 2, 2, PR_EX_ACCESS, 2, 0, NULL);
	apply(&s, 0, 1, PR_EX_ACCESS_AR, 1, 0, NULL);
	assert_int_equal(ask(&s, r, &sense), CONFLICT); /* all registrants hold it */
	apply(&s, 0, 2, PR_EX_ACCESS_AR, 1, 0, NULL);
	apply(&s, 0, 1, PR_EX_ACCESS, 1, 0, NULL);
	r.new_key = 0;
	assert_int_equal(ask(&s, r, &sense), CHECK_COND);
	assert_int_equal(sense, SENSE_INVALID_PARAM);
	r.new_key = 5;
	r.other = &sibling;
	assert_int_equal(ask(&s, r, &sense), CHECK_COND);
	assert_int_equal(sense, SENSE_INVALID_PARAM);
	r.other = &other; /* host 1 through port 2: a port of its own */
	assert_int_equal(ask(&s, r, &sense), 0);
	assert_int_equal(s->n, 3);
	assert_int_equal(s->reg[s->holder].who.port, 2);
	assert_int_equal(s->reg[s->holder].key, 5);
	free(s);
}

/* 5.13.11.2.5: PREEMPT that only removes registrations ignores scope and type; its own key goes too, without a unit
 * attention, under all registrants as well. With a reservation to take they count. */
static void test_preempt_ignores(void **state)
{
	struct pr_who me = who_of(0);
	struct pr_state *s = NULL;
	struct pr_outcome o;
	uint32_t sense;
	struct pr_request r = { .action = 4, .who = &me, .key = 1, .new_key = 2, .type = 0, .scope = true };

	for (int i = 0; i < 4; i++)
		apply(&s, i, 0, 0, 0, 1 + (uint64_t)i, NULL);
	assert_int_equal(ask(&s, r, &sense), 0);
	assert_int_equal(s->n, 3);
	r.new_key = 9;
	assert_int_equal(ask(&s, r, &sense), CONFLICT); /* nobody's key */
	apply(&s, 2, 1, PR_WRITE_EX, 3, 0, NULL);
	r.new_key = 3;
	assert_int_equal(ask(&s, r, &sense), CHECK_COND);
	assert_int_equal(sense, SENSE_INVALID_FIELD);
	r.type = PR_EX_ACCESS;
	assert_int_equal(ask(&s, r, &sense), CHECK_COND); /* another scope */
	r.scope = false;
	assert_int_equal(ask(&s, r, &sense), 0);
	assert_int_equal(s->type, PR_EX_ACCESS);
	apply(&s, 0, 2, PR_EX_ACCESS, 1, 0, NULL);
	apply(&s, 0, 1, PR_WRITE_EX_AR, 1, 0, NULL);
	assert_int_equal(s->n, 2);
	assert_int_equal(apply(&s, 0, 5, PR_WRITE_EX_AR, 1, 1, &o), 0); /* its own key, which all registrants hold with */
	assert_int_equal(o.nevents, 1);
	assert_int_equal(told(&o, 0, 0, true), 1);
	free(o.events);
	assert_int_equal(s->n, 1);
	assert_int_equal(s->type, PR_WRITE_EX_AR); /* another registrant holds it still */
	assert_int_equal(apply(&s, 3, 4, 0, 4, 4, NULL), 0);
	assert_int_equal(s->n, 0);
	assert_int_equal(s->type, 0); /* table 71: with the last registration it goes */
	free(s);
}

/* 5.13.11.2.6: PREEMPT AND ABORT ends the commands of all that it names, the asker's other ones too if it names itself. */
static void test_abort_own(void **state)
{
	struct pr_state *s = NULL;
	struct pr_outcome o;

	for (int i = 0; i < 3; i++)
		apply(&s, i, 0, 0, 0, i < 2 ? 1 : 2, NULL);
	apply(&s, 0, 1, PR_EX_ACCESS, 1, 0, NULL);
	assert_int_equal(apply(&s, 0, 5, PR_WRITE_EX, 1, 1, &o), 0); /* the holder preempts itself and its namesake */
	assert_int_equal(told(&o, 0, 0, true), 1);
	assert_int_equal(told(&o, 1, 0x2a05, true), 1);
	assert_int_equal(told(&o, 2, 0x2a04, false), 1); /* the type changed */
	assert_int_equal(o.nevents, 3);
	free(o.events);
	assert_int_equal(s->n, 2);
	assert_int_equal(s->type, PR_WRITE_EX);
	assert_int_equal(apply(&s, 0, 5, PR_WRITE_EX, 1, 2, &o), 0);
	assert_int_equal(told(&o, 0, 0, true), 0);
	free(o.events);
	free(s);
}

/* A saved state that was cut or changed is refused, never half used. */
static void test_damage(void **state)
{
	struct pr_state *s = NULL, *t;
	uint8_t *p;

	apply(&s, 0, 0, 0, 0, 1, NULL);
	apply(&s, 1, 0, 0, 0, 2, NULL);
	apply(&s, 1, 1, PR_WRITE_EX, 2, 0, NULL);
	s->aptpl = true;
	int n = pr_encode(s, &p);
	assert_true(n > 16);
	for (int cut = 0; cut < n; cut++)
		assert_int_equal(pr_decode(p, (size_t)cut, &t), -EINVAL);
	p[4] = 2;
	assert_int_equal(pr_decode(p, (size_t)n, &t), -EINVAL);
	p[4] = 1;
	p[7] = 9;
	assert_int_equal(pr_decode(p, (size_t)n, &t), -EINVAL);
	p[6] = p[7] = 0xff;
	assert_int_equal(pr_decode(p, (size_t)n, &t), -EINVAL);
	free(p);
	free(s);
}

/* iSCSI TransportIDs of both formats are made and read (SPC-4 7.6.4.6); malformed ones are refused. */
static void test_transport_id(void **state)
{
	struct pr_who w = who_of(3), back;
	uint8_t p[PR_TRANSPORT_ID_MAX];
	unsigned n = pr_transport_id(&w, p);

	assert_int_equal(p[0], 0x45);
	assert_int_equal(n % 4, 0);
	assert_int_equal(pr_parse_transport_id(p, n, &back), (int)n);
	assert_string_equal(back.initiator, w.initiator);
	assert_memory_equal(back.isid, w.isid, 6);
	assert_false(back.any_isid);
	for (unsigned cut = 0; cut < n; cut++)
		assert_int_equal(pr_parse_transport_id(p, cut, &back), -EINVAL);
	w.any_isid = true;
	n = pr_transport_id(&w, p);
	assert_int_equal(p[0], 0x05);
	assert_int_equal(pr_parse_transport_id(p, n, &back), (int)n);
	assert_true(back.any_isid);
	p[0] = 0x06;
	assert_int_equal(pr_parse_transport_id(p, n, &back), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model), cmocka_unit_test(test_events), cmocka_unit_test(test_others),
		cmocka_unit_test(test_register_rows), cmocka_unit_test(test_move_rows), cmocka_unit_test(test_preempt_ignores),
		cmocka_unit_test(test_abort_own), cmocka_unit_test(test_damage), cmocka_unit_test(test_transport_id),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

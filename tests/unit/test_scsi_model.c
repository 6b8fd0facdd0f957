/* SPDX-License-Identifier: BSD-3-Clause
 * Random walks of several nexuses on two loops against a model of what they share: reservation, mode values,
 * medium, prevention, and each one's unit attentions in order. The model is values and the rules of SPC-2 5.5,
 * SAM-5 5.14 and SBC-4; a step's answer must be the model's. */
#include "scsi_bed.h"

enum { NEXUSES = 4, UAS = 8, STEPS = 4000, NOBODY = -1 };

struct model {
	int holder;                  /* nexus, NOBODY */
	bool prevents[NEXUSES];
	bool ejected, swp, d_sense;
	bool used[NEXUSES];          /* by a command; until then power on (29/00) is all there is to tell */
	unsigned nua[NEXUSES];
	uint16_t ua[NEXUSES][UAS];   /* oldest first */
};

static struct model m;
static struct scsi_nexus *nexus[NEXUSES];
static uint64_t rng;

static unsigned rnd(unsigned below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)(rng >> 20) % below;
}

/* --- unit attentions of the model --- */

static void tell(int who, uint16_t ua)
{
	if (!m.used[who])
		return;
	if (ua >> 8 == 0x29)
		m.nua[who] = 0;
	for (unsigned i = 0; i < m.nua[who]; i++)
		if (m.ua[who][i] == ua)
			return;
	m.ua[who][m.nua[who]++] = ua;
}

static void fresh(int who)
{
	m.used[who] = false;
	m.ua[who][0] = 0x2900;
	m.nua[who] = 1;
}

static void tell_others(int but, uint16_t ua)
{
	for (int i = 0; i < NEXUSES; i++)
		if (i != but)
			tell(i, ua);
}

static unsigned take(int who)
{
	unsigned ua = m.ua[who][0];

	memmove(m.ua[who], m.ua[who] + 1, --m.nua[who] * sizeof(m.ua[who][0]));
	return 6 << 16 | ua;
}

/* --- what a step must answer: 0, status, or key, ASC and ASCQ --- */

enum { CONFLICT = SCSI_RESERVATION_CONFLICT, FREE = 1, MEDIUM = 2, WRITES = 4 };

static unsigned gates(int who, unsigned flags)
{
	m.used[who] = true;
	if (m.nua[who])
		return take(who);
	if (!(flags & FREE) && m.holder != NOBODY && m.holder != who)
		return CONFLICT;
	if ((flags & MEDIUM) && m.ejected)
		return 0x023a02;
	if ((flags & WRITES) && m.swp)
		return 0x072702;
	return 0;
}

static unsigned code(struct answer a)
{
	return a.status == SCSI_CHECK_CONDITION ? (unsigned)(a.key << 16 | a.asc << 8 | a.ascq) : a.status;
}

#define SEND(...) code(RUN(nexus[who], 0, __VA_ARGS__))

static void same(unsigned step, const char *what, unsigned got, unsigned want)
{
	if (got != want)
		fail_msg("step %u: %s answered %06x, the model says %06x", step, what, got, want);
}

static unsigned ready(int who, unsigned *want)
{
	*want = gates(who, MEDIUM);
	return SEND(0x00);
}

static unsigned reserve(int who, unsigned *want)
{
	*want = gates(who, 0);
	if (!*want)
		m.holder = who;
	return SEND(rnd(2) ? 0x16 : 0x56);
}

static unsigned release(int who, unsigned *want)
{
	*want = gates(who, FREE);
	if (!*want && m.holder == who)
		m.holder = NOBODY;
	return SEND(rnd(2) ? 0x17 : 0x57);
}

static unsigned write_block(int who, unsigned *want)
{
	static uint8_t data[512];

	*want = gates(who, MEDIUM | WRITES);
	return code(bed_run(nexus[who], 0, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1), data, 512, 0));
}

static unsigned mode(int who, unsigned *want)
{
	bool swp = rnd(2), d_sense = rnd(2);
	uint8_t list[16] = { 0, 0, 0, 0, 0x0a, 0x0a, d_sense ? 4 : 0, 0x10, swp ? 8 : 0 };

	*want = gates(who, 0);
	if (!*want && (swp != m.swp || d_sense != m.d_sense)) {
		m.swp = swp;
		m.d_sense = d_sense;
		tell_others(who, 0x2a01);
	}
	return code(bed_run(nexus[who], 0, CDB(0x15, 0x10, 0, 0, 16), list, 16, 0));
}

static unsigned prevent(int who, unsigned *want)
{
	bool on = rnd(2);

	*want = gates(who, on ? 0 : FREE);
	if (!*want)
		m.prevents[who] = on;
	return SEND(0x1e, 0, 0, 0, on);
}

static bool prevented(void)
{
	for (int i = 0; i < NEXUSES; i++)
		if (m.prevents[i])
			return true;
	return false;
}

static unsigned move(int who, unsigned *want)
{
	bool in = rnd(2);

	*want = gates(who, in ? FREE : 0);
	if (!*want && in == m.ejected && prevented()) {
		*want = 0x055302;
	} else if (!*want) {
		if (in && m.ejected)
			tell_others(who, 0x2800);
		m.ejected = !in;
	}
	return SEND(0x1b, 0, 0, 0, in ? 3 : 2);
}

static unsigned request_sense(int who, unsigned *want)
{
	m.used[who] = true;
	*want = m.nua[who] ? take(who) : m.ejected ? 0x023a02 : 0;
	struct answer a = RUN(nexus[who], 0, 0x03, 0, 0, 0, 252);
	return a.status ? a.status : (unsigned)(a.data[2] << 16 | a.data[12] << 8 | a.data[13]);
}

static unsigned reset(int who, unsigned *want)
{
	bool target = rnd(2);

	m.holder = NOBODY;
	memset(m.prevents, 0, sizeof(m.prevents));
	m.swp = m.d_sense = false;
	tell_others(NOBODY, target ? 0x2902 : 0x2903);
	*want = SCSI_TMF_COMPLETE;
	return bed_tmf(nexus[who], 0, target ? SCSI_TARGET_RESET : SCSI_LU_RESET, 0);
}

static unsigned reconnect(int who, unsigned *want)
{
	bed_nexus_close(nexus[who]);
	nexus[who] = bed_nexus(rnd(BED_LOOPS), (uint8_t)who);
	fresh(who);
	m.prevents[who] = false;
	if (m.holder == who)
		m.holder = NOBODY;
	*want = 0;
	return 0;
}

static const struct { unsigned (*run)(int who, unsigned *want); unsigned weight; const char *name; } steps[] = {
	{ ready, 30, "TEST UNIT READY" }, { reserve, 8, "RESERVE" }, { release, 8, "RELEASE" },
	{ write_block, 20, "WRITE" }, { mode, 8, "MODE SELECT" }, { prevent, 8, "PREVENT ALLOW" },
	{ move, 8, "START STOP UNIT" }, { request_sense, 6, "REQUEST SENSE" }, { reset, 1, "reset" },
	{ reconnect, 3, "reconnect" },
};

static void walk(uint64_t seed)
{
	struct lu *lu = bed_lu(&(struct lu_conf){ .removable = true }, bed_ram(1 << 20));

	rng = seed * 0x9e3779b97f4a7c15u;
	m = (struct model){ .holder = NOBODY };
	bed_map(&(struct scsi_lun){ 0, lu }, 1);
	for (int i = 0; i < NEXUSES; i++) {
		nexus[i] = bed_nexus((unsigned)i % BED_LOOPS, (uint8_t)i);
		fresh(i);
	}
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned pick = rnd(100), i = 0, want;
		for (; pick >= steps[i].weight; i++)
			pick -= steps[i].weight;
		unsigned got = steps[i].run((int)rnd(NEXUSES), &want);
		same(step, steps[i].name, got, want);
	}
	for (int i = 0; i < NEXUSES; i++)
		bed_nexus_close(nexus[i]);
	bed_map(NULL, 0);
	bed_close(lu);
}

/* What one nexus does is seen by the others before its status, in every order that chance brings. */
static void walks(void **state)
{
	bed_start(BED_LOOPS);
	for (uint64_t seed = 1; seed <= 3; seed++)
		walk(seed);
	bed_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(walks) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

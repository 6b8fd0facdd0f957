/* SPDX-License-Identifier: BSD-3-Clause
 * Units that the nexus of a copy does not see, but another nexus of the same initiator does (SPC-4 5.17.2: the copy manager
 * as an initiator). A task goes from loop to loop and asks the nexuses there; another one lets go of what the first held,
 * once the loop of the copy holds it. docs/design/0011. */
#include "scsi/copy.h"

/* Were both logged in by whoever can show the same proof? The name alone is what anybody may claim at a target that does
 * not ask for more. */
static bool same_initiator(const struct scsi_nexus *n, const struct scsi_nexus *other)
{
	return other != n && !other->closing && n->principal && other->principal && !strcmp(n->principal, other->principal) &&
		!strcmp(n->initiator, other->initiator);
}

static struct itl *rights_of(const struct scsi_nexus *n, struct itl *itl, bool *ret_reads, bool *ret_writes)
{
	*ret_reads = itl && copy_allows(n, itl, false);
	*ret_writes = itl && copy_allows(n, itl, true);
	return itl;
}

/* --- the search --- */

static unsigned rank(bool reads, bool writes)
{
	return 1 + reads + 2 * writes;
}

/* Takes a nexus that may do more than the one found before. */
static void consider(struct copy_party *p, struct scsi_nexus *n)
{
	bool reads, writes;
	struct itl *itl = rights_of(n, copy_unit(n, p->cscd), &reads, &writes);

	if (!itl || (p->held && (itl->ll->lu != p->held->lu || rank(reads, writes) <= rank(p->reads, p->writes))))
		return;
	if (!p->held) {
		p->held = itl->ll;
		p->held->users++;
	}
	p->nexus = n->id;
	p->loop = n->loop;
	p->reads = reads;
	p->writes = writes;
}

static void look_here(struct copy_third *t, const struct loop *l)
{
	struct scsi_nexus *n;

	list_for_each(n, &scsi_loop(l)->nexuses, node) {
		if (!same_initiator(t->c->nexus, n))
			continue;
		for (unsigned i = 0; i < t->n; i++)
			consider(&t->party[i], n);
	}
}

/* A unit that this loop has let go of already is not kept for us here: it is about to be gone. */
static void take_over(struct copy_third *t)
{
	for (unsigned i = 0; i < t->n; i++) {
		struct copy_party *p = &t->party[i];
		struct lu_loop *ll = p->held ? lu_on(p->held->lu, t->c->loop) : NULL;
		if (!ll || ll->closing)
			continue;
		p->ll = ll;
		ll->users++;
	}
}

static void let_go_here(struct copy_third *t, const struct loop *l)
{
	for (unsigned i = 0; i < t->n; i++) {
		struct lu_loop *held = t->party[i].held;
		if (!held || held->loop != l)
			continue;
		t->party[i].held = NULL;
		held->users--;
		lu_wait_check(held);
	}
}

/* All loops twice, and back to the copy's after each. */
static void visit(struct task *task)
{
	struct copy_third *t = container_of(task, struct copy_third, task);
	struct loop *here = loop_group.loop[t->at];

	if (t->taken)
		let_go_here(t, here);
	else
		look_here(t, here);
	t->at++;
	copy_third_go(t, here);
}

static void home_again(struct task *task)
{
	struct copy_third *t = container_of(task, struct copy_third, task);

	if (t->taken) {
		t->done(t);
		return;
	}
	take_over(t);
	t->taken = true;
	t->at = 0;
	copy_third_go(t, t->c->loop);
}

void copy_third_go(struct copy_third *t, struct loop *here)
{
	bool back = t->at == loop_group.n;

	t->task.run = back ? home_again : visit;
	scsi_send(here, back ? t->c->loop : loop_group.loop[t->at], &t->task);
}

/* --- around it --- */

struct copy_third *copy_third_new(struct scsi_cmd *c, void (*done)(struct copy_third *t), void *ctx)
{
	struct copy_third *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->c = c;
	t->done = done;
	t->ctx = ctx;
	return t;
}

void copy_third_add(struct copy_third *t, const uint8_t *cscd)
{
	CHECK(t->n < ARRAY_LEN(t->party));
	memcpy(t->party[t->n++].cscd, cscd, COPY_CSCD_LEN);
}

struct copy_party *copy_third_find(struct copy_third *t, const uint8_t *cscd)
{
	for (unsigned i = 0; t && i < t->n; i++)
		if (t->party[i].ll && !memcmp(t->party[i].cscd, cscd, COPY_CSCD_LEN))
			return &t->party[i];
	return NULL;
}

void copy_third_free(struct copy_third *t)
{
	for (unsigned i = 0; t && i < t->n; i++) {
		struct lu_loop *ll = t->party[i].ll;
		if (!ll)
			continue;
		ll->users--;
		lu_wait_check(ll);
	}
	free(t);
}

/* --- asking again --- */

static struct itl *sees(struct scsi_nexus *n, const struct lu *lu)
{
	struct itl *itl;

	for (unsigned i = 0; i < n->map->n; i++)
		if (n->map->lu[i] == lu)
			return nexus_itl(n, i, &itl) ? NULL : itl;
	return NULL;
}

static void answered(struct task *task)
{
	struct copy_party *p = container_of(task, struct copy_party, task);

	p->answered(p->ctx);
}

static void ask_there(struct task *task)
{
	struct copy_party *p = container_of(task, struct copy_party, task);
	struct scsi_nexus *n;

	p->reads = p->writes = false;
	list_for_each(n, &scsi_loop(p->loop)->nexuses, node)
		if (n->id == p->nexus && !n->closing)
			rights_of(n, sees(n, p->ll->lu), &p->reads, &p->writes);
	task->run = answered;
	scsi_send(p->loop, p->ll->loop, task);
}

void copy_party_ask(struct copy_party *p, void (*done)(void *ctx), void *ctx)
{
	p->answered = done;
	p->ctx = ctx;
	p->task.run = ask_there;
	scsi_send(p->ll->loop, p->loop, &p->task);
}

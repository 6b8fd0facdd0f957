/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "base/check.h"
#include "iscsi/impl.h"

enum { SLAB = 32 }; /* objects made at once when a free list runs dry */

struct iscsi_pool *iscsi_pool_new(struct loop *l, uint64_t budget_bytes)
{
	struct iscsi_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->loop = l;
	list_init(&p->tasks);
	list_init(&p->ctls);
	list_init(&p->starved);
	list_init(&p->kept);
	p->budget = budget_bytes;
	return p;
}

/* Slabs are kept for the life of the loop: its high water mark. */
struct slab {
	struct slab *next;
	uint64_t     align;
};

static void *slab_new(struct iscsi_pool *p, size_t each)
{
	struct slab *s = calloc(1, sizeof(*s) + SLAB * each);

	if (!s)
		return NULL;
	s->next = p->slabs;
	p->slabs = s;
	return s + 1;
}

static void grow_tasks(struct iscsi_pool *p)
{
	struct iscsi_task *t = slab_new(p, sizeof(*t));

	for (int i = 0; t && i < SLAB; i++)
		list_add_tail(&p->tasks, &t[i].node);
}

static void grow_ctls(struct iscsi_pool *p)
{
	struct iscsi_ctl *k = slab_new(p, sizeof(*k));

	for (int i = 0; k && i < SLAB; i++)
		list_add_tail(&p->ctls, &k[i].tx.node);
}

static void stack_free(void *top)
{
	while (top) {
		void *next = *(void **)top;
		free(top);
		top = next;
	}
}

void iscsi_pool_free(struct iscsi_pool *p)
{
	if (!p)
		return;
	CHECK(p->tasks_live == 0 && p->conns_live == 0);
	stack_free(p->slabs);
	stack_free(p->ra);
	stack_free(p->txb);
	free(p);
}

static void forget_recovery(struct iscsi_task *t)
{
	t->cut = (struct segmentation){ 0 };
	t->ack_sn = t->ack_off = t->ack_ttt = 0;
	t->redo_sn = t->redo_end = t->snack_tag = 0;
	t->redo_status = t->forgot = t->adopted = false;
}

struct iscsi_task *task_get(struct iscsi_conn *c)
{
	struct iscsi_pool *p = c->pool;

	if (list_empty(&p->tasks))
		grow_tasks(p);
	if (list_empty(&p->tasks))
		return NULL;
	struct iscsi_task *t = list_first(&p->tasks, struct iscsi_task, node);
	list_del(&t->node);
	p->tasks_live++;
	scsi_cmd_init(&t->cmd, p->loop);
	t->pool = p;
	t->conn = c;
	t->session = c->session;
	t->state = TASK_DATA;
	t->immediate = t->imm_counted = t->hashed = t->counted = t->finished = t->poisoned = t->dead = false;
	t->unsol = t->unsol_bad = t->stopping = t->told = false;
	t->got = t->have = t->unsol_end = t->unsol_sn = 0;
	t->r2t_off = t->r2t_sn = t->r2t_head = t->r2t_n = 0;
	t->at = 0;
	t->cur = (struct cursor){ 0 };
	t->tx_off = t->data_sn = t->burst_left = 0;
	list_add_tail(&c->tasks, &t->node);
	t->charged = t->granted = 0;
	list_init(&t->starved);
	list_init(&t->tx.node);
	t->tx = (struct txitem){ .node = t->tx.node };
	t->kept_bytes = 0;
	t->recoveries = 0;
	if (c->recover)
		forget_recovery(t);
	return t;
}

void task_put(struct iscsi_task *t)
{
	struct iscsi_session *s = t->session;

	if (t->state == TASK_KEPT)
		keep_drop(t);
	else if (t->kept_bytes)
		keep_forget(t);
	if (s && t->hashed)
		session_unhash(s, t);
	if (s && t->counted)
		s->inflight--;
	if (s && t->imm_counted)
		s->nimmediate--;
	t->counted = t->hashed = t->immediate = t->imm_counted = false;
	scsi_cmd_fini(&t->cmd);
	list_del(&t->tx.node);
	list_del(&t->node);
	t->conn = NULL;
	t->session = NULL;
	t->pool->tasks_live--;
	list_add_head(&t->pool->tasks, &t->node);
	list_del(&t->starved);
	t->pool->used -= t->charged;
	t->pool->granted -= t->granted;
	t->charged = t->granted = 0;
	if (!list_empty(&t->pool->starved))
		data_feed_starved(t->pool);
}

struct iscsi_ctl *ctl_get(struct iscsi_pool *p)
{
	if (list_empty(&p->ctls))
		grow_ctls(p);
	if (list_empty(&p->ctls))
		return NULL;
	struct iscsi_ctl *k = list_first(&p->ctls, struct iscsi_ctl, tx.node);
	list_del(&k->tx.node);
	k->data = NULL;
	k->len = 0;
	k->after = AFTER_NONE;
	k->tx = (struct txitem){ .node = k->tx.node, .ctl = true };
	return k;
}

void ctl_put(struct iscsi_pool *p, struct iscsi_ctl *k)
{
	if (k->data != k->small)
		free(k->data);
	k->data = NULL;
	list_del(&k->tx.node);
	list_add_head(&p->ctls, &k->tx.node);
}

static void *stack_get(void **top, size_t bytes)
{
	void *p = *top;

	if (!p)
		return malloc(bytes);
	*top = *(void **)p;
	return p;
}

static void stack_put(void **top, void *p)
{
	*(void **)p = *top;
	*top = p;
}

void *ra_get(struct iscsi_pool *p)
{
	return stack_get(&p->ra, RA_BIG);
}

void ra_put(struct iscsi_pool *p, void *ra)
{
	stack_put(&p->ra, ra);
}

struct iscsi_txb *txb_get(struct iscsi_pool *p)
{
	struct iscsi_txb *b = stack_get(&p->txb, sizeof(*b));

	if (!b)
		return NULL;
	list_init(&b->ctls);
	list_init(&b->tasks);
	b->niov = b->at = 0;
	b->left = 0;
	b->hdr_used = 0;
	return b;
}

void txb_put(struct iscsi_pool *p, struct iscsi_txb *b)
{
	stack_put(&p->txb, b);
}

/* SPDX-License-Identifier: BSD-3-Clause
 * Intrusive doubly linked ring. The head is a struct list that is no element; an element that is in
 * no list points to itself after list_init() or list_del(). Not thread safe: the owner's loop only. */
#ifndef LUNETTE_BASE_LIST_H
#define LUNETTE_BASE_LIST_H

#include <stdbool.h>
#include "base/check.h"

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Adds n before pos: at the tail when pos is the head. */
static inline void list_add_tail(struct list *pos, struct list *n)
{
	n->next = pos;
	n->prev = pos->prev;
	pos->prev->next = n;
	pos->prev = n;
}

static inline void list_add_head(struct list *pos, struct list *n)
{
	list_add_tail(pos->next, n);
}

static inline void list_del(struct list *n)
{
	n->next->prev = n->prev;
	n->prev->next = n->next;
	list_init(n);
}

/* Moves all of from's elements to the tail of to; from is empty afterwards. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(p, type, member) container_of(p, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
#define list_for_each(it, head, member)                                                            \
	for (it = list_entry((head)->next, __typeof__(*it), member); &it->member != (head);        \
	     it = list_entry(it->member.next, __typeof__(*it), member))
/* May delete `it` inside the body. */
#define list_for_each_safe(it, tmp, head, member)                                                  \
	for (it = list_entry((head)->next, __typeof__(*it), member),                               \
	    tmp = list_entry(it->member.next, __typeof__(*it), member);                            \
	     &it->member != (head);                                                                \
	     it = tmp, tmp = list_entry(tmp->member.next, __typeof__(*it), member))

#endif

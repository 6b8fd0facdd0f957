/* SPDX-License-Identifier: BSD-3-Clause
 * What net/ and the name server are told of the configuration as a whole. Control thread. Used by reconcile.c only. */
#ifndef LUNETTE_CONF_TOLD_H
#define LUNETTE_CONF_TOLD_H

#include "conf/tree.h"

void told_limits(const struct conf_server *c);
/* Registers portals and targets with the name server, or leaves it. */
void told_names(const struct conf *c);
/* Two trees as JSON: is there something new for the name server? */
bool told_names_changed(const json_t *old, const json_t *new);
/* A list of portal group tags as numbers, malloc'ed. */
uint16_t *told_tags(const struct conf_list *list);

#endif

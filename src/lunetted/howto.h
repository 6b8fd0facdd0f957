/* SPDX-License-Identifier: BSD-3-Clause
 * What to type on a client to use a target: Linux, Windows, ESXi. Control thread. */
#ifndef LUNETTE_LUNETTED_HOWTO_H
#define LUNETTE_LUNETTED_HOWTO_H

#include <stdio.h>

#include "conf/reconcile.h"

/* One block for the first target of the server. */
void howto_print(FILE *to, struct server *s);

#endif

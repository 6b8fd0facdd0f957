/* SPDX-License-Identifier: BSD-3-Clause
 * The I/O threads: one loop each, pinned to one CPU each. Control thread. */
#ifndef LUNETTE_LUNETTED_CORES_H
#define LUNETTE_LUNETTED_CORES_H

#include "conf/tree.h"
#include "loop/round.h"

/* Makes the loops and fills loop_group; n 0 = one per CPU of the process' affinity mask. */
int  cores_init(unsigned n, enum conf_loop kind, struct err *e);
int  cores_run(struct err *e); /* starts the threads */
void cores_stop(void);         /* stops and joins them */
void cores_fini(void);         /* frees the loops, nothing may run */

#endif

/* SPDX-License-Identifier: BSD-3-Clause
 * The control API: HTTP/1.1 and JSON over a unix socket, for lunette(1) and scripts. Served on the control loop, never
 * on an I/O loop. Only the daemon's own user and root may connect. */
#ifndef LUNETTE_API_API_H
#define LUNETTE_API_API_H

#include "conf/reconcile.h"

struct api;
struct api_conf {
	struct loop *control;
	struct server *server;
	const char *socket;   /* where it must be; NULL: the default place, or the state directory when that is taken */
	const char *state;    /* state directory */
	const char *config;   /* configuration file or NULL, for status */
};

int  api_start(struct api **ret, const struct api_conf *c, struct err *e);
/* After loop_run() returned; free(NULL) rules. */
void api_stop(struct api *a);
/* Before _exit(): takes the socket's file away, no more. */
void api_abandon(struct api *a);
const char *api_socket(const struct api *a);

#endif

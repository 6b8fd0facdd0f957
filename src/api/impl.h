/* SPDX-License-Identifier: BSD-3-Clause
 * Private to api/: a request on its way, and the table of routes. Control loop. */
#ifndef LUNETTE_API_IMPL_H
#define LUNETTE_API_IMPL_H

#include <jansson.h>
#include <microhttpd.h>

#include "api/api.h"
#include "base/list.h"

struct api {
	struct api_conf conf;
	char *path;
	int fd, lock, epoll;
	uint64_t since_ns;
	struct MHD_Daemon *mhd;
	struct op poll_op;
	struct timer timer;
	struct task pump;
	bool pumping, polling, stopped;
	struct list requests;
};

/* From the first line to the end of the answer. A route answers at once or later, exactly once. */
struct request {
	struct list node;
	struct api *api;
	struct MHD_Connection *conn;
	const char *tail;  /* what follows the route's path: an ID */
	bool suspended, answered;
	unsigned status;
	json_t *body;
};

struct route {
	const char *method, *path; /* path ends in '/': a tail follows */
	void (*run)(struct request *r);
	const char *help;
};
extern const struct route api_routes[]; /* ended by a NULL method */

void request_answer(struct request *r, unsigned status, json_t *body); /* takes body */
void request_fail(struct request *r, unsigned status, const char *detail); /* RFC 7807 */

/* paths.c */
void get_paths(struct request *r);
void put_paths(struct request *r);
void get_reservations(struct request *r);
void delete_reservations(struct request *r);

int  socket_open(struct api *a, struct err *e); /* socket.c: makes fd, lock, path */
void socket_close(struct api *a);

#endif

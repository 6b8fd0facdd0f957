/* SPDX-License-Identifier: BSD-3-Clause
 * libmicrohttpd driven from the control loop: its epoll descriptor is polled, its timeout is a timer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/impl.h"
#include "base/log.h"

enum { CONNECTIONS_MAX = 64, IDLE_S = 30 };

/* --- requests ----------------------------------------------------------------------------------------- */

static void pump_later(struct api *a)
{
	if (a->pumping || a->stopped)
		return;
	a->pumping = true;
	loop_defer(a->conf.control, &a->pump);
}

void request_answer(struct request *r, unsigned status, json_t *body)
{
	r->status = status;
	r->body = body;
	r->answered = true;
	if (!r->suspended)
		return;
	r->suspended = false;
	MHD_resume_connection(r->conn);
	pump_later(r->api);
}

static const char *phrase(unsigned status)
{
	return status == MHD_HTTP_FORBIDDEN ? "denied" : status == MHD_HTTP_NOT_FOUND ? "not found" :
		status == MHD_HTTP_METHOD_NOT_ALLOWED ? "method not allowed" : "failed";
}

void request_fail(struct request *r, unsigned status, const char *detail)
{
	request_answer(r, status, json_pack("{sssIss}", "title", phrase(status), "status",
		(json_int_t)status, "detail", detail));
}

static enum MHD_Result send_answer(struct request *r)
{
	char *text = r->body ? json_dumps(r->body, JSON_INDENT(2)) : NULL;
	size_t len = text ? strlen(text) : 0;
	struct MHD_Response *resp = text ? MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE) : NULL;

	if (!resp) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(resp, "Content-Type",
		r->status < 400 ? "application/json" : "application/problem+json");
	enum MHD_Result ret = MHD_queue_response(r->conn, r->status, resp);
	MHD_destroy_response(resp);
	return ret;
}

static bool is_allowed(struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	return cred.uid == 0 || cred.uid == geteuid();
}

/* The route of a path; *ret_other: there is one, but for another method. */
static const struct route *route_find(const char *method, const char *url, const char **tail, bool *ret_other)
{
	for (const struct route *t = api_routes; t->method; t++) {
		size_t n = strlen(t->path);
		bool prefix = t->path[n - 1] == '/';
		if (prefix ? strncmp(url, t->path, n) != 0 || !url[n] || strchr(url + n, '/') : strcmp(url, t->path) != 0)
			continue;
		if (strcmp(method, t->method) == 0) {
			*tail = url + n;
			return t;
		}
		*ret_other = true;
	}
	return NULL;
}

static void dispatch(struct request *r, const char *method, const char *url)
{
	bool other = false;
	const struct route *t = route_find(method, url, &r->tail, &other);

	if (!is_allowed(r->conn))
		request_fail(r, MHD_HTTP_FORBIDDEN, "only the daemon's own user and root may ask");
	else if (t)
		t->run(r);
	else if (other)
		request_fail(r, MHD_HTTP_METHOD_NOT_ALLOWED, "not with this method");
	else
		request_fail(r, MHD_HTTP_NOT_FOUND, "there is no such resource");
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *conn, const char *url, const char *method,
	const char *version, const char *data, size_t *len, void **state)
{
	struct request *r = *state;

	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			return MHD_NO;
		r->api = ctx;
		r->conn = conn;
		list_add_tail(&r->api->requests, &r->node);
		*state = r;
		return MHD_YES;
	}
	if (*len) { /* no route takes a body yet: read and drop it */
		*len = 0;
		return MHD_YES;
	}
	if (!r->answered && !r->suspended)
		dispatch(r, method, url);
	if (r->answered)
		return send_answer(r);
	r->suspended = true;
	MHD_suspend_connection(conn);
	return MHD_YES;
}

static void on_completed(void *ctx, struct MHD_Connection *conn, void **state, enum MHD_RequestTerminationCode why)
{
	struct request *r = *state;

	if (!r)
		return;
	list_del(&r->node);
	json_decref(r->body);
	free(r);
	*state = NULL;
}

/* --- the loop ----------------------------------------------------------------------------------------- */

static void rearm(struct api *a)
{
	MHD_UNSIGNED_LONG_LONG ms;

	if (MHD_get_timeout(a->mhd, &ms) == MHD_YES)
		loop_timer_set(a->conf.control, &a->timer, loop_now_ns(a->conf.control) + (ms + 1) * 1000000);
	else
		loop_timer_clear(a->conf.control, &a->timer);
}

static void run(struct api *a)
{
	if (a->stopped)
		return;
	MHD_run(a->mhd);
	rearm(a);
}

static void on_pump(struct task *t)
{
	struct api *a = container_of(t, struct api, pump);

	a->pumping = false;
	run(a);
}

static void on_timer(struct timer *t)
{
	run(container_of(t, struct api, timer));
}

static void on_poll(struct op *op)
{
	struct api *a = op->ctx;

	a->polling = false;
	if (a->stopped)
		return;
	run(a);
	a->polling = true;
	loop_submit(a->conf.control, op);
}

static int start_http(struct api *a, struct err *e)
{
	const union MHD_DaemonInfo *info;

	a->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, a,
		MHD_OPTION_LISTEN_SOCKET, a->fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_NOTIFY_COMPLETED, on_completed, a,
		MHD_OPTION_END);
	info = a->mhd ? MHD_get_daemon_info(a->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info)
		return err_set(e, -EIO, "the HTTP server does not start");
	a->epoll = info->epoll_fd;
	a->fd = -1; /* libmicrohttpd closes it */
	a->timer.fire = on_timer;
	a->pump.run = on_pump;
	a->poll_op = (struct op){ .kind = OP_POLL, .fd = a->epoll, .done = on_poll, .ctx = a };
	a->polling = true;
	loop_submit(a->conf.control, &a->poll_op);
	return 0;
}

int api_start(struct api **ret, const struct api_conf *c, struct err *e)
{
	struct api *a = calloc(1, sizeof(*a));

	if (!a)
		return err_set(e, -ENOMEM, "out of memory");
	a->conf = *c;
	a->fd = a->lock = a->epoll = -1;
	a->since_ns = loop_now_ns(c->control);
	list_init(&a->requests);
	int r = socket_open(a, e);
	if (r == 0)
		r = start_http(a, e);
	if (r < 0) {
		api_stop(a);
		return r;
	}
	*ret = a;
	return 0;
}

/* Ends the poll in flight. loop_run() has returned; a few turns bring its done(). */
static void end_poll(struct api *a)
{
	if (a->polling)
		loop_cancel(a->conf.control, &a->poll_op);
	while (a->polling)
		loop_turn(a->conf.control, loop_now_ns(a->conf.control) + 1000000);
}

void api_stop(struct api *a)
{
	struct request *r;

	if (!a)
		return;
	if (a->mhd) {
		list_for_each(r, &a->requests, node)
			if (r->suspended)
				request_fail(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the daemon ends");
		a->stopped = true;
		MHD_run(a->mhd);
		loop_timer_clear(a->conf.control, &a->timer);
		end_poll(a);
		MHD_stop_daemon(a->mhd);
	}
	socket_close(a);
	free(a->path);
	free(a);
}

void api_abandon(struct api *a)
{
	if (a && a->path)
		unlink(a->path);
}

const char *api_socket(const struct api *a)
{
	return a->path;
}

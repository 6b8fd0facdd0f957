/* SPDX-License-Identifier: BSD-3-Clause
 * One HTTP/1.0 exchange over the control socket: the answer ends where the daemon closes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/dirs.h"
#include "lunette/cli.h"

enum { ANSWER_MAX = 256 << 20, PATIENCE_S = 30 };

static int dial(const char *path, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = PATIENCE_S };

	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(e, -ENAMETOOLONG, "socket path %.120s is too long", path);
	memcpy(a.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		int r = -errno;
		if (fd >= 0)
			close(fd);
		if (r == -EACCES || r == -EPERM)
			return err_set(e, r, "%.108s: only root and the user of lunetted may ask it; use sudo", path);
		return err_set(e, r, "no daemon at %.108s: %s; start lunetted, or name its socket with --socket PATH",
			path, strerror(-r));
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return fd;
}

/* The default place, else the state directory, where a daemon goes that cannot have the default. */
static int dial_default(struct err *e)
{
	char *dflt = dirs_socket(), *state = dirs_state(), *second = NULL;
	int fd = dflt ? dial(dflt, e) : err_set(e, -ENOMEM, "out of memory");

	if ((fd == -ENOENT || fd == -ECONNREFUSED) && state && asprintf(&second, "%s/control.sock", state) >= 0) {
		int other = dial(second, NULL);
		fd = other >= 0 ? other : fd;
		free(second);
	}
	free(dflt);
	free(state);
	return fd;
}

static int read_answer(int fd, char **ret, struct err *e)
{
	size_t len = 0, room = 65536;
	char *buf = malloc(room + 1);
	ssize_t n;

	while (buf) {
		n = recv(fd, buf + len, room - len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
		if (len < room)
			continue;
		char *more = room < ANSWER_MAX ? realloc(buf, room * 2 + 1) : NULL;
		if (!more) {
			free(buf);
			return err_set(e, -EMSGSIZE, "the daemon's answer is too long");
		}
		buf = more;
		room *= 2;
	}
	if (!buf || n < 0) {
		int r = buf ? -errno : -ENOMEM;
		free(buf);
		return err_set(e, r, "the daemon does not answer: %s", strerror(-r));
	}
	buf[len] = 0;
	*ret = buf;
	return 0;
}

static const struct { int http, status; } statuses[] = {
	{ 400, CLI_USAGE }, { 401, CLI_DENIED }, { 403, CLI_DENIED }, { 404, CLI_NOT_FOUND }, { 409, CLI_CONFLICT },
	{ 412, CLI_CONFLICT }, { 423, CLI_BUSY }, { 503, CLI_BUSY },
};

static int status_of(int http)
{
	if (http >= 200 && http < 300)
		return CLI_OK;
	for (unsigned i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].http == http)
			return statuses[i].status;
	return CLI_FAILED;
}

static int parse_answer(const char *text, json_t **ret, struct err *e)
{
	const char *body = strstr(text, "\r\n\r\n");
	int http = 0;

	if (!body || sscanf(text, "HTTP/1.%*d %d", &http) != 1 || !(*ret = json_loads(body + 4, 0, NULL))) {
		err_set(e, -EPROTO, "what answered is no lunetted");
		return CLI_FAILED;
	}
	int status = status_of(http);
	if (status == CLI_OK)
		return CLI_OK;
	const char *detail = json_string_value(json_object_get(*ret, "detail"));
	err_set(e, -EIO, "%s", detail ? detail : "the daemon refused");
	json_decref(*ret);
	*ret = NULL;
	return status;
}

static int exchange(int fd, const char *method, const char *path, char **ret, struct err *e)
{
	char request[512];
	int n = snprintf(request, sizeof(request), "%s %s HTTP/1.0\r\nHost: localhost\r\n\r\n", method, path);

	if (n < 0 || (size_t)n >= sizeof(request))
		return err_set(e, -EINVAL, "too long a name");
	if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n)
		return err_set(e, -EIO, "the daemon does not listen: %s", strerror(errno));
	return read_answer(fd, ret, e);
}

int client_ask(const struct cli *c, const char *method, const char *path, json_t **ret, struct err *e)
{
	int fd = c->socket ? dial(c->socket, e) : dial_default(e);
	char *text = NULL;

	if (fd < 0)
		return fd == -EACCES || fd == -EPERM ? CLI_DENIED : CLI_UNREACHABLE;
	int r = exchange(fd, method, path, &text, e);
	close(fd);
	if (r < 0)
		return CLI_UNREACHABLE;
	r = parse_answer(text, ret, e);
	free(text);
	return r;
}
